//! A rate that is held for each key by itself: a bucket that holds a burst when it is full, is filled at the
//! rate, and loses one with each request.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;

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

const SHARD_KEYS_MAX: usize = KEYS_MAX / SHARDS;

/// What counts as one client: an IPv4 address, or the network of an IPv6 address that one subscriber is given.
pub(crate) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// A rate that each key is held to by itself.
#[derive(Debug)]
pub(super) struct Rate {
    pub(super) per_second: u32,
    pub(super) limiter: RateLimiter<u64, Buckets, Ticks, NoOpMiddleware<Nanos>>,
    /// Makes of a key what nobody outside can foresee, so that nobody can fill one shard.
    keys: RandomState,
}

impl Rate {
    pub(super) fn new(per_second: NonZeroU32, burst: u32, clock: Clock) -> Self {
        let quota = Quota::per_second(per_second)
            .allow_burst(NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN));
        Self {
            per_second: per_second.get(),
            limiter: RateLimiter::new(quota, Buckets::new(quota), Ticks(clock)),
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
}

/// The server's clock, as the limiter reads it.
#[derive(Clone, Debug)]
pub(super) struct Ticks(Clock);

impl governor::clock::Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.0.now_ms().saturating_mul(1_000_000))
    }
}

/// The buckets that are not full: for each key when it will be.
///
/// When a shard has as many as it may, those that are full by now are dropped. If more than half are left, so
/// many clients come at once that no memory of them can be kept: then the shard forgets them all. Whoever does
/// that gets another burst for each of thousands of addresses, and nobody else is locked out for it. Either way
/// room is made for thousands, so that it is not made all the time.
#[derive(Debug)]
pub(super) struct Buckets {
    shards: Box<[Mutex<HashMap<u64, Nanos>>]>,
    /// How long it takes until there is one more in a bucket.
    interval: Nanos,
}

impl Buckets {
    fn new(quota: Quota) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, interval: quota.replenish_interval().into() }
    }

    fn shard(&self, key: u64) -> &Mutex<HashMap<u64, Nanos>> {
        // The lowest byte of a key is as good as any.
        &self.shards[usize::from(key.to_le_bytes()[0]) % SHARDS]
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
        if full_at.is_none() && buckets.len() >= SHARD_KEYS_MAX {
            // One was taken out of a full bucket, which therefore will be full again an interval from now.
            let now = next_full_at.saturating_sub(self.interval);
            buckets.retain(|_, full_at| *full_at > now);
            if buckets.len() > SHARD_KEYS_MAX / 2 {
                buckets.clear();
            }
        }
        buckets.insert(*key, next_full_at);
        Ok(taken)
    }
}

/// Only tests ask how many buckets there are.
#[cfg(test)]
impl governor::state::keyed::ShrinkableKeyedStateStore<u64> for Buckets {
    fn retain_recent(&self, drop_below: Nanos) {
        for shard in &self.shards {
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
