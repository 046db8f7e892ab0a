//! Starts and stored sessions of a moment ago, by which it is known that one was sent again.
//!
//! A client that missed the answer sends the same bytes again. Of a start that makes a second session, and its report
//! names the first. Of a stored session nothing is kept twice: the answer is that of the first. As all live state
//! this follows from the records alone, and what outsiders can make it hold is bounded.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::session::BodyHash;
use crate::session::id::SessionId;

/// For how long a start is remembered, in ms by receipts.
const START_MS: u64 = 60_000;

/// How many starts are remembered; beyond, the oldest are forgotten. So many fill a table of 2^15 places, which takes
/// 2.4 MB.
const STARTS_MAX: usize = 28_000;

/// For how long a stored session is remembered, in ms by receipts.
const STORED_MS: u64 = 3_600_000;

/// How many stored sessions are remembered; beyond, the oldest are forgotten.
const STORED_MAX: usize = 10_000;

/// How many of one client, as far as its address is kept.
const STORED_OF_CLIENT_MAX: usize = 1_000;

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    /// The last record that is folded here.
    seq: u64,
    starts: HashMap<BodyHash, Remembered>,
    /// The same starts in the order of their records.
    starts_in_order: VecDeque<BodyHash>,
    /// Stored sessions, by the number of their record.
    stored: BTreeMap<u64, RememberedStored>,
    stored_by_hash: HashMap<BodyHash, u64>,
    /// The numbers of those of each client.
    stored_of_client: HashMap<u64, VecDeque<u64>>,
}

/// A session that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Of its body, and of a start of its client's address as well.
    pub hash: BodyHash,
    /// Its id.
    pub id: SessionId,
    /// When it was received, in ms since the Unix epoch by the server's clock.
    pub received_ms: u64,
}

/// A stored session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RememberedStored {
    /// The number of its record.
    pub seq: u64,
    /// Who sent it; none if no address is kept.
    pub client: Option<u64>,
    /// The session.
    pub session: Remembered,
}

/// What a checkpoint saves of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedRepeats {
    /// The last record that is included.
    pub seq: u64,
    /// The starts, in the order of their records.
    pub starts: Vec<Remembered>,
    /// The stored sessions, in the order of their records.
    pub stored: Vec<RememberedStored>,
}

impl Repeats {
    /// Folds a start. Gives the session whose start this repeats, if it repeats one.
    pub(super) fn start(&mut self, seq: u64, start: Remembered) -> Option<SessionId> {
        if !self.is_new(seq) {
            return None;
        }
        let is_over =
            |first: &Remembered| start.received_ms.saturating_sub(first.received_ms) > START_MS;
        while let Some(hash) = self.starts_in_order.front()
            && (self.starts_in_order.len() >= STARTS_MAX
                || self.starts.get(hash).is_none_or(is_over))
        {
            self.starts.remove(hash);
            self.starts_in_order.pop_front();
        }
        if let Some(first) = self.starts.get(&start.hash) {
            return Some(first.id);
        }
        self.add_start(start);
        None
    }

    /// Folds a stored session.
    pub(super) fn store(&mut self, seq: u64, client: Option<u64>, session: Remembered) {
        if !self.is_new(seq) {
            return;
        }
        while let Some((seq, first)) = self.stored.first_key_value()
            && (self.stored.len() >= STORED_MAX
                || session.received_ms.saturating_sub(first.session.received_ms) > STORED_MS)
        {
            let seq = *seq;
            self.forget_stored(seq);
        }
        if let Some(client) = client
            && let Some(of_client) = self.stored_of_client.get(&client)
            && of_client.len() >= STORED_OF_CLIENT_MAX
            && let Some(first) = of_client.front().copied()
        {
            self.forget_stored(first);
        }
        // Journals of before may have one twice; the first of them is the one that is named.
        if !self.stored_by_hash.contains_key(&session.hash) {
            self.add_stored(RememberedStored { seq, client, session });
        }
    }

    /// The stored session with this body, if it is remembered at this time.
    pub(super) fn stored(&self, hash: BodyHash, now_ms: u64) -> Option<SessionId> {
        let first = self.stored.get(self.stored_by_hash.get(&hash)?)?.session;
        (now_ms.saturating_sub(first.received_ms) <= STORED_MS).then_some(first.id)
    }

    /// All that are remembered.
    pub(super) fn ids(&self) -> BTreeSet<SessionId> {
        let starts = self.starts.values().map(|start| start.id);
        starts.chain(self.stored.values().map(|stored| stored.session.id)).collect()
    }

    /// Forgets sessions.
    pub(super) fn erase(&mut self, ids: &[SessionId]) {
        if ids.is_empty() {
            return;
        }
        let ids: BTreeSet<_> = ids.iter().collect();
        let of_stored = self.stored.iter().filter(|(_, it)| ids.contains(&it.session.id));
        for seq in of_stored.map(|(seq, _)| *seq).collect::<Vec<_>>() {
            self.forget_stored(seq);
        }
        self.starts.retain(|_, start| !ids.contains(&start.id));
        let Self { starts, starts_in_order, .. } = self;
        starts_in_order.retain(|hash| starts.contains_key(hash));
    }

    /// What a checkpoint saves, if everything up to this record is folded.
    pub(super) fn save(&self, folded_seq: u64) -> SavedRepeats {
        SavedRepeats {
            seq: self.seq.max(folded_seq),
            starts: self.starts_in_order.iter().map(|hash| self.starts[hash]).collect(),
            stored: self.stored.values().copied().collect(),
        }
    }

    /// Restores which record is included.
    pub(super) fn restore(&mut self, seq: u64) {
        self.seq = seq;
    }

    /// Restores a saved start.
    pub(super) fn add_start(&mut self, start: Remembered) {
        if self.starts.insert(start.hash, start).is_none() {
            self.starts_in_order.push_back(start.hash);
        }
    }

    /// Restores a saved session.
    pub(super) fn add_stored(&mut self, stored: RememberedStored) {
        self.stored_by_hash.insert(stored.session.hash, stored.seq);
        if let Some(client) = stored.client {
            self.stored_of_client.entry(client).or_default().push_back(stored.seq);
        }
        self.stored.insert(stored.seq, stored);
    }

    fn forget_stored(&mut self, seq: u64) {
        let Some(forgotten) = self.stored.remove(&seq) else { return };
        self.stored_by_hash.remove(&forgotten.session.hash);
        let Some(client) = forgotten.client else { return };
        if let Some(of_client) = self.stored_of_client.get_mut(&client) {
            of_client.retain(|known| *known != seq);
            if of_client.is_empty() {
                self.stored_of_client.remove(&client);
            }
        }
    }

    fn is_new(&mut self, seq: u64) -> bool {
        let is_new = seq > self.seq;
        self.seq = self.seq.max(seq);
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::id::Key;

    fn session(number: u32, body: u32, received_ms: u64) -> Remembered {
        let mut random = [0; 10];
        random[..4].copy_from_slice(&number.to_le_bytes());
        let id = SessionId::mint(&Key::new([1; 32]), 1, random);
        Remembered { hash: BodyHash::of(&[&body.to_le_bytes()]), id, received_ms }
    }

    #[test]
    fn a_start_within_a_minute_repeats_the_first() {
        let mut repeats = Repeats::default();
        let first = session(1, 7, 1_000);
        assert_eq!(repeats.start(1, first), None);
        assert_eq!(repeats.start(2, session(2, 8, 1_000)), None, "another body");
        assert_eq!(repeats.start(3, session(3, 7, 6_000)), Some(first.id));
        assert_eq!(repeats.start(4, session(4, 7, 61_000)), Some(first.id), "the first is named");
        assert_eq!(repeats.start(4, session(4, 7, 61_000)), None, "a record is folded once");
        assert_eq!(repeats.start(5, session(5, 7, 61_001)), None, "a session of its own");
        assert_eq!(repeats.starts.len(), 1, "what is too old is forgotten");
    }

    #[test]
    fn a_stored_session_is_known_for_an_hour_until_it_is_erased() {
        let mut repeats = Repeats::default();
        let (first, other) = (session(1, 7, 1_000), session(2, 8, 2_000));
        repeats.store(1, None, first);
        repeats.store(2, Some(5), other);
        assert_eq!(repeats.stored(first.hash, 3_601_000), Some(first.id));
        assert_eq!(repeats.stored(first.hash, 3_601_001), None);
        repeats.erase(&[other.id]);
        assert_eq!(repeats.stored(other.hash, 3_000), None);
        repeats.store(3, None, session(3, 9, 3_601_001));
        assert_eq!((repeats.stored.len(), repeats.stored_by_hash.len()), (1, 1));
        assert!(repeats.stored_of_client.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut repeats = Repeats::default();
        for number in 0..40_000 {
            repeats.start(u64::from(number) + 1, session(number, number, 0));
        }
        assert_eq!((repeats.starts.len(), repeats.starts_in_order.len()), (28_000, 28_000));
        let mut repeats = Repeats::default();
        for number in 0..2_000 {
            repeats.store(u64::from(number) + 1, Some(1), session(number, number, 0));
        }
        assert_eq!(repeats.stored.len(), 1_000, "of one client");
        for number in 2_000..20_000 {
            let client = Some(u64::from(number));
            repeats.store(u64::from(number) + 1, client, session(number, number, 0));
        }
        assert_eq!((repeats.stored.len(), repeats.stored_of_client.len()), (10_000, 10_000));
    }

    #[test]
    fn what_is_saved_is_what_is_restored() {
        let mut repeats = Repeats::default();
        repeats.start(1, session(1, 1, 10));
        repeats.store(2, Some(5), session(2, 2, 20));
        let saved = repeats.save(9);
        assert_eq!(saved.seq, 9);
        let mut restored = Repeats::default();
        restored.restore(saved.seq);
        saved.starts.iter().for_each(|start| restored.add_start(*start));
        saved.stored.iter().for_each(|stored| restored.add_stored(*stored));
        assert_eq!(restored.save(0), saved);
        assert_eq!(restored.start(10, session(3, 1, 20)), Some(saved.starts[0].id));
    }
}
