//! How much of the live sessions each client has opened.
//!
//! A client is known by a hash of its address that nobody outside can foresee. Sessions that were restored at the
//! start belong to the address that the journal tells of their client, which may be that of its network: they count
//! against every client of it. If it tells none they belong to nobody.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use parking_lot::Mutex;

use crate::limits::memory::Client;

/// How many locks guard the tallies, so that two threads rarely meet.
const SHARDS: usize = 64;

/// The client that opened a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// A hash of its address; 0 for nobody.
    key: u64,
    /// A hash of its address as far as it is kept, to which restored sessions belong; 0 if it is not.
    kept_key: u64,
}

impl Owner {
    fn is_nobody(self) -> bool {
        self.key == 0
    }
}

/// What sessions of one client are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// How many they are.
    pub(super) sessions: u32,
    /// How much memory they hold.
    pub(super) kib: u32,
}

/// The tallies of all clients that have live sessions, and of no others.
#[derive(Debug)]
pub(super) struct Owners {
    shards: Box<[Mutex<HashMap<u64, Tally>>]>,
    /// Of addresses as they are kept.
    keys: RandomState,
}

impl Default for Owners {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, keys: RandomState::new() }
    }
}

impl Owners {
    /// The client with this account, and its address as far as it is kept; nobody if it has no share.
    pub(super) fn owner(&self, client: &Client, kept_address: Option<&str>) -> Owner {
        if client.is_unlimited() {
            return Owner::default();
        }
        Owner { key: client.key(), kept_key: self.key_of(kept_address) }
    }

    /// Whose a session is that was restored, by what is kept of its client's address.
    pub(super) fn restored(&self, kept_address: Option<&str>) -> Owner {
        Owner { key: self.key_of(kept_address), kept_key: 0 }
    }

    fn key_of(&self, kept_address: Option<&str>) -> u64 {
        kept_address.map_or(0, |address| self.keys.hash_one(address).max(1))
    }

    /// A client has one session more, of so many bytes.
    pub(super) fn begin(&self, owner: Owner, bytes: usize) {
        if owner.is_nobody() {
            return;
        }
        let mut tallies = self.shard(owner.key).lock();
        let tally = tallies.entry(owner.key).or_default();
        tally.sessions += 1;
        tally.kib += kib(bytes);
    }

    /// A session of a client holds so many bytes in place of so many.
    pub(super) fn resize(&self, owner: Owner, bytes_before: usize, bytes: usize) {
        // Counted in KiB, so that the usual event does not take this lock.
        let (before, now) = (kib(bytes_before), kib(bytes));
        if owner.is_nobody() || before == now {
            return;
        }
        if let Some(tally) = self.shard(owner.key).lock().get_mut(&owner.key) {
            tally.kib = tally.kib + now - before;
        }
    }

    /// A client has one session less, which held so many bytes.
    pub(super) fn end(&self, owner: Owner, bytes: usize) {
        if owner.is_nobody() {
            return;
        }
        let mut tallies = self.shard(owner.key).lock();
        let Some(tally) = tallies.get_mut(&owner.key) else { return };
        tally.sessions -= 1;
        tally.kib -= kib(bytes);
        if tally.sessions == 0 {
            tallies.remove(&owner.key);
        }
    }

    /// What a client has, with what was restored of its address; nobody has nothing.
    pub(super) fn of(&self, owner: Owner) -> Tally {
        if owner.is_nobody() {
            return Tally::default();
        }
        let of_key = |key: u64| match key {
            0 => Tally::default(),
            key => self.shard(key).lock().get(&key).copied().unwrap_or_default(),
        };
        let (own, restored) = (of_key(owner.key), of_key(owner.kept_key));
        Tally {
            sessions: own.sessions.saturating_add(restored.sessions),
            kib: own.kib.saturating_add(restored.kib),
        }
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        self.shards.iter().for_each(|shard| shard.lock().clear());
    }

    fn shard(&self, key: u64) -> &Mutex<HashMap<u64, Tally>> {
        &self.shards[usize::from(key.to_le_bytes()[0]) % SHARDS]
    }
}

/// To the nearest KiB, so that many small ones are counted about right.
fn kib(bytes: usize) -> u32 {
    u32::try_from((bytes + 512) >> 10).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_counted_as_long_as_it_has_sessions() {
        let owners = Owners::default();
        let (one, two) = (Owner { key: 1, kept_key: 0 }, Owner { key: 65, kept_key: 0 });
        let begin = |owner, bytes| {
            owners.begin(owner, bytes);
            owners.of(owner)
        };
        assert_eq!(begin(one, 1_300), Tally { sessions: 1, kib: 1 });
        assert_eq!(begin(one, 9_000), Tally { sessions: 2, kib: 10 });
        assert_eq!(begin(two, 0), Tally { sessions: 1, kib: 0 });
        owners.resize(one, 1_300, 1_400);
        owners.resize(one, 1_400, 5_000);
        assert_eq!(owners.of(one), Tally { sessions: 2, kib: 14 });
        owners.end(one, 5_000);
        assert_eq!(owners.of(one), Tally { sessions: 1, kib: 9 });
        owners.end(one, 9_000);
        owners.end(two, 0);
        assert!(owners.shards.iter().all(|shard| shard.lock().is_empty()));
        assert_eq!(begin(Owner::default(), 9_000), Tally::default(), "nobody has no share");
    }

    #[test]
    fn what_was_restored_of_a_kept_address_counts_for_every_client_that_has_it() {
        let owners = Owners::default();
        let kept = Some("203.0.113.0");
        let client = |key| Owner { key, kept_key: owners.key_of(kept) };
        owners.begin(owners.restored(kept), 4_096);
        owners.begin(owners.restored(None), 4_096);
        owners.begin(client(1), 2_048);
        assert_eq!(owners.of(client(1)), Tally { sessions: 2, kib: 6 });
        assert_eq!(owners.of(client(2)), Tally { sessions: 1, kib: 4 });
        assert_eq!(owners.of(Owner { key: 3, kept_key: 0 }), Tally::default());
        owners.end(owners.restored(kept), 4_096);
        assert_eq!(owners.of(client(1)), Tally { sessions: 1, kib: 2 });
    }
}
