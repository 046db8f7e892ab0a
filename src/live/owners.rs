//! How much of the live sessions each client has opened.
//!
//! A client is known by a hash of its address that nobody outside can foresee. Sessions that were restored at the
//! start belong to nobody: whose they were the journal need not tell.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::limits::memory::Client;

/// How many locks guard the tallies, so that two threads rarely meet.
const SHARDS: usize = 64;

/// The client that opened a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// A hash of its address; 0 for nobody.
    key: u64,
}

impl Owner {
    /// The client with this account; nobody if it has no share.
    pub fn of(client: &Client) -> Self {
        if client.is_unlimited() { Self::default() } else { Self { key: client.key() } }
    }

    fn is_nobody(self) -> bool {
        self.key == 0
    }
}

/// What the live sessions of one client are.
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
}

impl Default for Owners {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Owners {
    /// A client has one session more, of so many bytes. Gives what it has now.
    pub(super) fn begin(&self, owner: Owner, bytes: usize) -> Tally {
        if owner.is_nobody() {
            return Tally::default();
        }
        let mut tallies = self.shard(owner).lock();
        let tally = tallies.entry(owner.key).or_default();
        tally.sessions += 1;
        tally.kib += kib(bytes);
        *tally
    }

    /// A session of a client holds so many bytes in place of so many.
    pub(super) fn resize(&self, owner: Owner, bytes_before: usize, bytes: usize) {
        // Counted in KiB, so that the usual event does not take this lock.
        let (before, now) = (kib(bytes_before), kib(bytes));
        if owner.is_nobody() || before == now {
            return;
        }
        if let Some(tally) = self.shard(owner).lock().get_mut(&owner.key) {
            tally.kib = tally.kib + now - before;
        }
    }

    /// A client has one session less, which held so many bytes.
    pub(super) fn end(&self, owner: Owner, bytes: usize) {
        if owner.is_nobody() {
            return;
        }
        let mut tallies = self.shard(owner).lock();
        let Some(tally) = tallies.get_mut(&owner.key) else { return };
        tally.sessions -= 1;
        tally.kib -= kib(bytes);
        if tally.sessions == 0 {
            tallies.remove(&owner.key);
        }
    }

    /// What a client has.
    pub(super) fn of(&self, owner: Owner) -> Tally {
        if owner.is_nobody() {
            return Tally::default();
        }
        self.shard(owner).lock().get(&owner.key).copied().unwrap_or_default()
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        self.shards.iter().for_each(|shard| shard.lock().clear());
    }

    fn shard(&self, owner: Owner) -> &Mutex<HashMap<u64, Tally>> {
        &self.shards[usize::from(owner.key.to_le_bytes()[0]) % SHARDS]
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
        let (one, two) = (Owner { key: 1 }, Owner { key: 65 });
        assert_eq!(owners.begin(one, 1_300), Tally { sessions: 1, kib: 1 });
        assert_eq!(owners.begin(one, 9_000), Tally { sessions: 2, kib: 10 });
        assert_eq!(owners.begin(two, 0), Tally { sessions: 1, kib: 0 });
        owners.resize(one, 1_300, 1_400);
        owners.resize(one, 1_400, 5_000);
        assert_eq!(owners.of(one), Tally { sessions: 2, kib: 14 });
        owners.end(one, 5_000);
        assert_eq!(owners.of(one), Tally { sessions: 1, kib: 9 });
        owners.end(one, 9_000);
        owners.end(two, 0);
        assert!(owners.shards.iter().all(|shard| shard.lock().is_empty()));
        assert_eq!(owners.begin(Owner::default(), 9_000), Tally::default(), "nobody has no share");
    }
}
