//! A rate that is held for each key by itself: a bucket that holds a burst when it is full, is filled at the
//! rate, and loses one with each request.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};
use parking_lot::Mutex;

use crate::clock::Clock;

/// For how many clients, and for how many report suites, buckets are kept that are not full. One takes some 40
/// bytes.
pub(super) const KEYS_MAX: usize = 1 << 18;

/// How many locks guard them, so that two threads rarely meet.
const SHARDS: usize = 64;

/// How long a key waits at most because it was charged: a client may be many people behind one address.
const DEBT_MAX: Duration = Duration::from_hours(1);

const SHARD_KEYS_MAX: usize = KEYS_MAX / SHARDS;

/// A rate that each key is held to by itself.
#[derive(Debug)]
pub(super) struct Rate {
    pub(super) per_second: u32,
    pub(super) limiter: RateLimiter<u64, Buckets, Ticks, NoOpMiddleware<Nanos>>,
    /// The same buckets, for what the limiter does not do.
    buckets: Buckets,
    /// When the limiter was made: it counts time from there.
    began: Nanos,
    /// Makes of a key what nobody outside can foresee, so that nobody can fill one shard.
    keys: RandomState,
}

impl Rate {
    pub(super) fn new(per_second: NonZeroU32, burst: u32, clock: Clock) -> Self {
        let quota = Quota::per_second(per_second)
            .allow_burst(NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN));
        let (buckets, ticks) = (Buckets::new(quota), Ticks(clock));
        Self {
            per_second: per_second.get(),
            began: ticks.now(),
            limiter: RateLimiter::new(quota, buckets.clone(), ticks),
            buckets,
            keys: RandomState::new(),
        }
    }

    /// Takes one out of the bucket of a key, or tells in how many seconds there will be one.
    pub(super) fn take(&self, key: impl Hash) -> Result<(), u64> {
        self.limiter.check_key(&self.keys.hash_one(key)).map_err(|until| {
            let wait = until.wait_time_from(self.limiter.clock().now());
            u64::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX).max(1)
        })
    }

    /// Takes this many out of the bucket of a key, even if it holds fewer: until the missing ones have come in,
    /// or an hour has passed, it gives none.
    pub(super) fn charge(&self, key: impl Hash, tokens: u64) {
        let now = self.limiter.clock().now().saturating_sub(self.began);
        self.buckets.charge(self.keys.hash_one(key), tokens, now);
    }
}

/// The time that passes, as the limiter reads it: whatever the time of day does, nobody is locked out for it.
#[derive(Clone, Debug)]
pub(super) struct Ticks(Clock);

impl governor::clock::Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.0.elapsed_ms().saturating_mul(1_000_000))
    }
}

/// The buckets that are not full: for each key when it will be.
///
/// When a shard has as many as it may, those that are full by now are dropped. If more than half are left, so
/// many clients come at once that no memory of them can be kept: then the shard forgets them all. Whoever does
/// that gets another burst for each of thousands of addresses, and nobody else is locked out for it. Either way
/// room is made for thousands, so that it is not made all the time.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    shards: Arc<[Mutex<HashMap<u64, Nanos>>]>,
    /// How long it takes until there is one more in a bucket.
    interval: Nanos,
    /// How far ahead the time at which a bucket is full may lie, in ns.
    ahead_max: u64,
}

impl Buckets {
    fn new(quota: Quota) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let interval: Nanos = quota.replenish_interval().into();
        let debt_max = u64::try_from(DEBT_MAX.as_nanos()).unwrap_or(u64::MAX);
        let burst = interval.as_u64().saturating_mul(quota.burst_size().get().into());
        Self { shards, interval, ahead_max: burst.saturating_add(debt_max) }
    }

    fn shard(&self, key: u64) -> &Mutex<HashMap<u64, Nanos>> {
        // The lowest byte of a key is as good as any.
        &self.shards[usize::from(key.to_le_bytes()[0]) % SHARDS]
    }

    /// Makes a bucket full later, by the time that so many tokens take to come in.
    fn charge(&self, key: u64, tokens: u64, now: Nanos) {
        let mut buckets = self.shard(key).lock();
        let full_at = buckets.get(&key).copied();
        if full_at.is_none() {
            make_room(&mut buckets, now);
        }
        let later = self.interval.as_u64().saturating_mul(tokens);
        let full_at = full_at.map_or(now, |full_at| full_at.max(now)).as_u64();
        let latest = now.as_u64().saturating_add(self.ahead_max);
        buckets.insert(key, Nanos::new(full_at.saturating_add(later).min(latest)));
    }
}

impl StateStore for Buckets {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, judge: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut buckets = self.shard(*key).lock();
        let full_at = buckets.get(key).copied();
        let (taken, next_full_at) = judge(full_at)?;
        if full_at.is_none() {
            // One was taken out of a full bucket, which therefore will be full again an interval from now.
            make_room(&mut buckets, next_full_at.saturating_sub(self.interval));
        }
        buckets.insert(*key, next_full_at);
        Ok(taken)
    }
}

/// Makes room for another bucket in a shard.
fn make_room(buckets: &mut HashMap<u64, Nanos>, now: Nanos) {
    if buckets.len() >= SHARD_KEYS_MAX {
        buckets.retain(|_, full_at| *full_at > now);
        if buckets.len() > SHARD_KEYS_MAX / 2 {
            buckets.clear();
        }
    }
}

/// Only tests ask how many buckets there are.
#[cfg(test)]
impl governor::state::keyed::ShrinkableKeyedStateStore<u64> for Buckets {
    fn retain_recent(&self, drop_below: Nanos) {
        for shard in self.shards.iter() {
            shard.lock().retain(|_, full_at| *full_at > drop_below);
        }
    }

    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
