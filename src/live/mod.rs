//! The sessions of now, in a sharded map.
//!
//! The map is the fold of the journal: only the [processor](crate::processor) changes it. It owns the
//! deadlines, and its size is bounded by number and by bytes, because every player on the internet may
//! add to it.

mod bounds;

mod deadlines;

mod owners;

mod repeats;

mod shard;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::bounds::{Bounds, Pressure};
use self::repeats::Repeats;
use self::shard::{Ended, Hashed, Held, Shard};
use crate::limits::memory;
use crate::session::id::SessionId;
use crate::session::{
    BodyHash, CloseReason, Closing, Counts, Facts, Opening, Session, Step, StoredSession, Terms,
};
use crate::size::Size;

pub use self::bounds::Room;
pub use self::owners::Owner;
pub use self::repeats::{Remembered, RememberedStored, SavedRepeats};

/// A lock guards a shard for well under a microsecond; this many make two threads rarely meet, and
/// keep each map small enough that its growth stalls nobody.
pub const SHARDS: usize = 256;

/// What one session costs beside its facts: itself, its entries in map and deadlines (which double when
/// they grow, so they are emptier than full), and the allocator's share. Measured (`cargo bench --bench
/// collect -- memory`): 100 000 sessions with facts of 478 bytes and three events each took 1 252 bytes each of the
/// process; this and what they hold beside themselves say 1 210.
const SESSION_BYTES: usize = size_of::<Held>()
    + 3 * size_of::<(SessionId, Box<Held>)>()
    + 3 * size_of::<(u64, SessionId)>()
    + 2 * 16;

/// What an event may hold beside its fixed part and still be taken when memory is full: all but long names
/// and metadata.
const USUAL_STEP_BYTES: usize = 256;

/// How many sessions are looked at for eviction at a time, in shards: all of them within seven seconds or so, a few
/// milliseconds of work each time.
const EVICTION_SHARDS: usize = SHARDS / 32;

/// The section `live` of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How many sessions may be live at once.
    pub sessions_max: usize,
    /// How much memory live sessions may hold.
    pub bytes_max: Size,
}

impl Default for Settings {
    fn default() -> Self {
        Self { sessions_max: 1_000_000, bytes_max: Size::gib(2) }
    }
}

/// A bound is reached; sessions that end make room again.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// By number.
    #[error("{0} sessions are live, as many as live.sessions_max allows")]
    Sessions(usize),
    /// By memory.
    #[error("live sessions hold {0}, as much as live.bytes_max or memory.max allows")]
    Bytes(Size),
    /// For this client: it has its share, and the rest is nearly used up.
    #[error(
        "this client has its share of the live sessions (memory.client_share), and most places are taken"
    )]
    Share,
}

/// The live sessions.
#[derive(Debug)]
pub struct Live {
    bounds: Arc<Bounds>,
    shards: Box<[Mutex<Shard>]>,
    progress: Mutex<Progress>,
    repeats: Mutex<Repeats>,
    /// The shard that is looked at next for sessions that may be evicted.
    next_eviction: AtomicUsize,
}

/// How far the journal is folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The last record that is folded.
    pub seq: u64,
    /// When it was received, in ms since the Unix epoch by the server's clock.
    pub received_ms: u64,
    /// All the time that the server was down or could not write, in ms, up to this record.
    pub paused_ms: u64,
    /// When sessions end and how much they take, as of this record.
    #[serde(rename = "timeouts")]
    pub terms: Terms,
}

/// A shard as a checkpoint saves it.
#[derive(Debug)]
pub struct SavedShard {
    /// The last record that it includes, if only as one of another shard.
    pub seq: u64,
    /// Its sessions by id, those that have ended and wait for their report among them.
    pub sessions: Vec<(SessionId, Session)>,
}

impl Live {
    /// An empty map, in which a client has the share that is the default.
    pub fn new(settings: Settings) -> Self {
        Self::shared(settings, memory::Settings::default().client_share)
    }

    /// An empty map. Of what the settings allow one client may open this share once most of it is used.
    pub fn shared(settings: Settings, client_share: f64) -> Self {
        Self {
            bounds: Arc::new(Bounds::new(settings, client_share)),
            next_eviction: AtomicUsize::new(0),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            progress: Mutex::default(),
            repeats: Mutex::default(),
        }
    }

    /// Whether one more session would be taken now.
    ///
    /// # Errors
    /// [`Full`] if not.
    pub fn has_room(&self) -> Result<(), Full> {
        self.bounds.has_room_for(1)
    }

    /// Keeps room for a session that is about to begin and holds so many bytes beside itself, until the room
    /// is used or dropped.
    ///
    /// # Errors
    /// [`Full`], and then nothing has changed.
    pub fn keep_room(&self, heap_bytes: usize, owner: Owner) -> Result<Room, Full> {
        self.bounds.keep_room(SESSION_BYTES + heap_bytes, owner)
    }

    /// Whether an event of a live session would be taken now. One that says no more than most is taken whatever is
    /// full, so that sessions that have begun go on; only far beyond the bound none is.
    ///
    /// # Errors
    /// [`Full`] if not.
    pub fn has_room_for(&self, id: SessionId, step: &Step) -> Result<(), Full> {
        if step.heap_bytes() <= USUAL_STEP_BYTES {
            return self.bounds.has_memory_for_usual();
        }
        let owner = self.shard(id).lock().sessions.get(&Hashed(id)).map(|held| held.owner);
        self.bounds.has_memory_for_large(owner.unwrap_or_default())
    }

    /// Whether the session is live.
    pub fn contains(&self, id: SessionId) -> bool {
        self.shard(id).lock().sessions.contains_key(&Hashed(id))
    }

    /// The number of live sessions, with those that are about to begin.
    pub fn sessions(&self) -> usize {
        self.bounds.sessions()
    }

    /// The number of sessions that are in the map. Asks every shard.
    pub fn begun(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().sessions.len()).sum()
    }

    /// How many sessions may be live, and how many bytes they may hold.
    pub fn bounds(&self) -> (usize, usize) {
        let Settings { sessions_max, bytes_max } = &self.bounds.settings;
        (*sessions_max, bytes_max.as_usize())
    }

    /// The number of sessions that have ended and whose report is not in the journal yet.
    pub fn unreported(&self) -> usize {
        self.bounds.unreported()
    }

    /// Their ids.
    pub fn unreported_ids(&self) -> Vec<SessionId> {
        let ids = |shard: &Mutex<Shard>| -> Vec<_> {
            shard.lock().ended.keys().map(|Hashed(id)| *id).collect()
        };
        self.shards.iter().flat_map(ids).collect()
    }

    /// A session that has ended and whose report is not in the journal yet.
    pub fn ended(&self, id: SessionId) -> Option<Arc<Session>> {
        self.shard(id).lock().ended.get(&Hashed(id)).map(|ended| Arc::clone(&ended.session))
    }

    /// A copy of a live session.
    pub fn copy_of(&self, id: SessionId) -> Option<Session> {
        self.shard(id).lock().sessions.get(&Hashed(id)).map(|held| held.session.clone())
    }

    /// What the start of a live session said: a copy, because reading takes longer than a lock may be held.
    pub fn facts_of(&self, id: SessionId) -> Option<Facts> {
        let shard = self.shard(id).lock();
        shard.sessions.get(&Hashed(id)).map(|held| held.session.opening.facts.clone())
    }

    /// The stored session of the last hour that has this body, given the time of the server's clock in ms since the
    /// Unix epoch.
    pub fn stored_before(&self, hash: BodyHash, now_ms: u64) -> Option<SessionId> {
        self.repeats.lock().stored(hash, now_ms)
    }

    /// The memory that sessions hold, in bytes.
    pub fn bytes(&self) -> usize {
        self.bounds.bytes()
    }

    /// Takes out the sessions whose deadline has come, given the time of the server's clock in ms since
    /// the Unix epoch. Each must be given a `close` record, or [put back](Self::put_back).
    ///
    /// Looks at no more than `enough` sessions and says whether that was all. A session is looked at when
    /// the deadline comes that was noted last; if it was heard meanwhile, a later one is noted. So one that
    /// is idle costs nothing until it ends, and one that is not a look every ten minutes or so.
    pub fn take_due(&self, now_ms: u64, enough: usize) -> (Vec<(SessionId, CloseReason)>, bool) {
        let progress = self.progress();
        let now_up_ms = progress.up_ms(now_ms);
        let (mut due, mut looks) = (Vec::new(), 0);
        for shard in &self.shards {
            let Shard { sessions, deadlines, .. } = &mut *shard.lock();
            while looks < enough
                && let Some(id) = deadlines.next_due(now_up_ms)
            {
                looks += 1;
                let Some(held) = sessions.get_mut(&Hashed(id)) else { continue };
                held.noted_up_ms = None;
                let (deadline_up_ms, reason) = held.session.deadline(&progress.terms);
                if deadline_up_ms <= now_up_ms {
                    due.push((id, reason));
                } else {
                    held.note(deadlines, id, deadline_up_ms);
                }
            }
        }
        (due, looks < enough)
    }

    /// Sessions that make room when most of it is used, given the time of the server's clock in ms since the Unix
    /// epoch: those that never sent an event, some time after their start. While some room is left, only those of
    /// clients that have more than their share. Each must be given a `close` record.
    ///
    /// Looks at some of the sessions each time, and gives no more than `enough`.
    pub fn evictable(&self, now_ms: u64, enough: usize) -> Vec<SessionId> {
        let pressure = self.bounds.pressure();
        let mut found = Vec::new();
        if pressure == Pressure::None {
            return found;
        }
        let up_ms = self.progress().up_ms(now_ms);
        for _ in 0..EVICTION_SHARDS {
            if found.len() >= enough {
                break;
            }
            let row = self.next_eviction.fetch_add(1, Ordering::Relaxed) % SHARDS;
            let shard = self.shards[row].lock();
            let candidates = shard.sessions.iter().filter(|(_, held)| {
                held.session.may_be_evicted(up_ms)
                    && (pressure == Pressure::All || self.bounds.is_over_share(held.owner))
            });
            found.extend(candidates.map(|(id, _)| id.0).take(enough - found.len()));
        }
        found
    }

    /// The number of live sessions whose deadline has come, given the time of the server's clock in ms since
    /// the Unix epoch. Looks at every session.
    pub fn due(&self, now_ms: u64) -> usize {
        let progress = self.progress();
        let now_up_ms = progress.up_ms(now_ms);
        let is_due = |session: &Session| session.deadline(&progress.terms).0 <= now_up_ms;
        let in_shard = |shard: &Mutex<Shard>| {
            shard.lock().sessions.values().filter(|held| is_due(&held.session)).count()
        };
        self.shards.iter().map(in_shard).sum()
    }

    /// Notes the deadline of a session again that could not be closed.
    pub fn put_back(&self, id: SessionId) {
        let terms = self.progress().terms;
        let Shard { sessions, deadlines, .. } = &mut *self.shard(id).lock();
        if let Some(held) = sessions.get_mut(&Hashed(id)) {
            let (deadline_up_ms, _) = held.session.deadline(&terms);
            held.note(deadlines, id, deadline_up_ms);
        }
    }

    /// Folds the start of a session.
    pub(crate) fn open(
        &self,
        seq: u64,
        received_ms: u64,
        id: SessionId,
        (opening, hash): (Opening, BodyHash),
        room: Option<Room>,
    ) {
        let progress = self.progress();
        let mut session = Session::new(opening, received_ms, progress.up_ms(received_ms));
        let first = self.repeats.lock().start(seq, Remembered { hash, id, received_ms });
        session.repeat_of = first.map(Box::new);
        let mut shard = self.shard(id).lock();
        if !shard.is_new(seq) {
            return;
        }
        let owner = self.bounds.begin_in(room, SESSION_BYTES + session.heap_bytes());
        shard.insert(id, session, owner, &progress.terms);
    }

    /// Folds a stored session, which has ended with its last event. Says whether it is new.
    pub(crate) fn store(
        &self,
        seq: u64,
        received_ms: u64,
        id: SessionId,
        (stored, hash): (StoredSession, BodyHash),
        room: Option<Room>,
    ) -> bool {
        let progress = self.progress();
        debug_assert_eq!(stored.terms(), progress.terms, "it was folded under other terms");
        let session = stored.received_at(received_ms, progress.up_ms(received_ms));
        let client = session.opening.facts.address_hash();
        self.repeats.lock().store(seq, client, Remembered { hash, id, received_ms });
        let mut shard = self.shard(id).lock();
        if !shard.is_new(seq) {
            return false;
        }
        let owner = self.bounds.begin_in(room, SESSION_BYTES + session.heap_bytes());
        self.end(&mut shard, id, session, owner);
        true
    }

    /// Folds that the report of a session is in the journal. Says whether one was wanted.
    pub(crate) fn reported(&self, seq: u64, id: SessionId) -> bool {
        let mut shard = self.shard(id).lock();
        if !shard.is_new(seq) {
            return false;
        }
        let Some(Ended { session, owner }) = shard.ended.remove(&Hashed(id)) else { return false };
        self.bounds.drop_ended(owner, SESSION_BYTES + session.heap_bytes());
        true
    }

    /// Folds an event. Gives what its session counted for it, if it took it.
    pub(crate) fn hear(
        &self,
        seq: u64,
        received_ms: u64,
        id: SessionId,
        step: Step,
    ) -> Option<Counts> {
        let progress = self.progress();
        let terms = progress.terms;
        let mut shard = self.shard(id).lock();
        if !shard.is_new(seq) {
            return None;
        }
        let Shard { sessions, deadlines, .. } = &mut *shard;
        let held = sessions.get_mut(&Hashed(id))?;
        let (bytes_before, counts_before) = (held.session.heap_bytes(), held.session.counts);
        let up_ms = progress.up_ms(received_ms);
        let heard = held.session.hear(received_ms, up_ms, step, &terms);
        self.bounds.resize(
            held.owner,
            SESSION_BYTES + bytes_before,
            SESSION_BYTES + held.session.heap_bytes(),
        );
        // A later deadline is found when the noted one comes; only an earlier one must be noted now.
        let (deadline_up_ms, _) = held.session.deadline(&terms);
        if held.noted_up_ms.is_some_and(|noted_up_ms| deadline_up_ms < noted_up_ms) {
            held.note(deadlines, id, deadline_up_ms);
        }
        heard.then(|| held.session.counts.since(counts_before))
    }

    /// Folds that a deadline passed: the session is closed if it still stands. Gives what it counted in the
    /// end, if it was.
    pub(crate) fn close(
        &self,
        seq: u64,
        received_ms: u64,
        id: SessionId,
        reason: CloseReason,
    ) -> Option<Counts> {
        let progress = self.progress();
        let mut shard = self.shard(id).lock();
        if !shard.is_new(seq) {
            return None;
        }
        let up_ms = progress.up_ms(received_ms);
        let hashbrown::hash_map::Entry::Occupied(held) = shard.sessions.entry(Hashed(id)) else {
            return None;
        };
        let session = &held.get().session;
        let closing = if reason == CloseReason::Evicted {
            if !session.may_be_evicted(up_ms) {
                return None;
            }
            Closing { reason, up_ms, closed_ms: received_ms }
        } else {
            let deadline = session.deadline(&progress.terms);
            let (deadline_up_ms, stands) = deadline;
            if stands != reason || up_ms < deadline_up_ms {
                return None;
            }
            Closing::at(deadline, received_ms, up_ms)
        };
        let Held { mut session, noted_up_ms, owner } = *held.remove();
        if let Some(noted_up_ms) = noted_up_ms {
            shard.deadlines.remove(noted_up_ms, id);
        }
        let (bytes_before, counts_before) = (session.heap_bytes(), session.counts);
        session.close(closing);
        self.bounds.resize(
            owner,
            SESSION_BYTES + bytes_before,
            SESSION_BYTES + session.heap_bytes(),
        );
        let counted = session.counts.since(counts_before);
        self.end(&mut shard, id, session, owner);
        Some(counted)
    }

    /// Folds that sessions are erased. Says how many were live, and how many waited for their report.
    pub(crate) fn erase(&self, seq: u64, ids: &[SessionId]) -> (u64, u64) {
        let (mut live, mut pending) = (0, 0);
        self.repeats.lock().erase(ids);
        self.forget_first(ids);
        for id in ids {
            let mut shard = self.shard(*id).lock();
            shard.seq = shard.seq.max(seq);
            if let Some(held) = shard.sessions.remove(&Hashed(*id)) {
                if let Some(noted_up_ms) = held.noted_up_ms {
                    shard.deadlines.remove(noted_up_ms, *id);
                }
                self.bounds.drop_live(held.owner, SESSION_BYTES + held.session.heap_bytes());
                live += 1;
            } else if let Some(Ended { session, owner }) = shard.ended.remove(&Hashed(*id)) {
                self.bounds.drop_ended(owner, SESSION_BYTES + session.heap_bytes());
                pending += 1;
            }
        }
        (live, pending)
    }

    /// The sessions by which a repeat is known, and those that others say they repeat; they may have ended long ago.
    /// Looks at every session.
    pub fn remembered_ids(&self) -> BTreeSet<SessionId> {
        let mut ids = self.repeats.lock().ids();
        for shard in &self.shards {
            let Shard { sessions, ended, .. } = &*shard.lock();
            let live = sessions.values().map(|held| &held.session);
            let all = live.chain(ended.values().map(|ended| &*ended.session));
            ids.extend(all.filter_map(|session| session.repeat_of.as_deref().copied()));
        }
        ids
    }

    /// Sessions that repeat the start of one of these name it no longer.
    fn forget_first(&self, ids: &[SessionId]) {
        let ids: BTreeSet<_> = ids.iter().collect();
        let names = |session: &Session| {
            session.repeat_of.as_deref().is_some_and(|first| ids.contains(first))
        };
        for shard in self.shards.iter().filter(|_| !ids.is_empty()) {
            let Shard { sessions, ended, .. } = &mut *shard.lock();
            for held in sessions.values_mut().filter(|held| names(&held.session)) {
                let before = SESSION_BYTES + held.session.heap_bytes();
                held.session.repeat_of = None;
                let after = SESSION_BYTES + held.session.heap_bytes();
                self.bounds.resize(held.owner, before, after);
            }
            for ended in ended.values_mut().filter(|ended| names(&ended.session)) {
                let before = SESSION_BYTES + ended.session.heap_bytes();
                Arc::make_mut(&mut ended.session).repeat_of = None;
                let after = SESSION_BYTES + ended.session.heap_bytes();
                self.bounds.resize(ended.owner, before, after);
            }
        }
    }

    /// A session that was counted among the live ones waits for its report from now on.
    fn end(&self, shard: &mut Shard, id: SessionId, session: Session, owner: Owner) {
        self.bounds.end();
        shard.ended.insert(Hashed(id), Ended { session: Arc::new(session), owner });
    }

    /// Folds that nothing could be received for a while.
    pub(crate) fn pause(&self, seq: u64, received_ms: u64, down_ms: u64) {
        let mut progress = self.progress.lock();
        let paused_ms = progress.paused_ms + down_ms;
        *progress = Progress { seq, received_ms, paused_ms, terms: progress.terms };
    }

    /// Folds that other terms hold for sessions from now on.
    pub(crate) fn set_terms(&self, seq: u64, received_ms: u64, terms: Terms) {
        {
            let mut progress = self.progress.lock();
            *progress = Progress { seq, received_ms, paused_ms: progress.paused_ms, terms };
        }
        for shard in &self.shards {
            let Shard { sessions, deadlines, .. } = &mut *shard.lock();
            for (id, held) in sessions {
                let (deadline_up_ms, _) = held.session.deadline(&terms);
                held.note(deadlines, id.0, deadline_up_ms);
            }
        }
    }

    /// Notes that everything up to this record is folded.
    pub(crate) fn folded(&self, seq: u64, received_ms: u64) {
        let mut progress = self.progress.lock();
        (progress.seq, progress.received_ms) = (seq, received_ms);
    }

    /// The last record that is folded anywhere.
    pub fn last_seq(&self) -> u64 {
        let shards = self.shards.iter().map(|shard| shard.lock().seq);
        shards.max().unwrap_or(0).max(self.progress().seq)
    }

    /// How far the journal is folded.
    pub fn progress(&self) -> Progress {
        *self.progress.lock()
    }

    /// A shard for a checkpoint, in sorted order, so that equal states are equal bytes.
    pub fn save_shard(&self, row: usize) -> SavedShard {
        let folded_seq = self.progress().seq;
        let shard = self.shards[row].lock();
        let live = shard.sessions.iter().map(|(id, held)| (id.0, held.session.clone()));
        let ended = shard.ended.iter().map(|(id, ended)| (id.0, (*ended.session).clone()));
        let mut sessions: Vec<_> = live.chain(ended).collect();
        let seq = shard.seq.max(folded_seq);
        drop(shard);
        sessions.sort_unstable_by_key(|(id, _)| *id);
        SavedShard { seq, sessions }
    }

    /// What tells that a session was sent again, for a checkpoint.
    pub fn save_repeats(&self) -> SavedRepeats {
        let folded_seq = self.progress().seq;
        self.repeats.lock().save(folded_seq)
    }

    /// Restores which record is included in what tells that a session was sent again.
    pub(crate) fn restore_repeats(&self, seq: u64) {
        self.repeats.lock().restore(seq);
    }

    /// Restores a saved start.
    pub(crate) fn restore_start(&self, start: Remembered) {
        self.repeats.lock().add_start(start);
    }

    /// Restores a stored session by which a repeat is known.
    pub(crate) fn restore_stored(&self, stored: RememberedStored) {
        self.repeats.lock().add_stored(stored);
    }

    /// Restores one saved session.
    pub(crate) fn restore(&self, id: SessionId, session: Session) {
        self.bounds.begin(SESSION_BYTES + session.heap_bytes());
        let terms = self.progress().terms;
        let mut shard = self.shard(id).lock();
        if session.closing.is_some() {
            self.end(&mut shard, id, session, Owner::default());
        } else {
            shard.insert(id, session, Owner::default(), &terms);
        }
    }

    /// Restores how far the journal is folded.
    pub(crate) fn restore_progress(&self, progress: Progress) {
        *self.progress.lock() = progress;
    }

    /// Forgets everything, after a restore that did not succeed.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            *shard.lock() = Shard::default();
        }
        self.bounds.clear();
        *self.repeats.lock() = Repeats::default();
        self.restore_progress(Progress::default());
    }

    /// Restores which record a shard includes: replay skips it and those before.
    pub(crate) fn restore_shard(&self, row: usize, seq: u64) {
        self.shards[row].lock().seq = seq;
    }

    fn shard(&self, id: SessionId) -> &Mutex<Shard> {
        // The map inside takes the lowest and the highest bits of the same hash, so the shard takes
        // some from the middle.
        let row = (id.hash() >> 32) % SHARDS as u64;
        &self.shards[usize::try_from(row).expect("a row is less than SHARDS")]
    }
}

impl Progress {
    /// The server's clock less all the time that it was down or could not write.
    pub fn up_ms(&self, received_ms: u64) -> u64 {
        received_ms.saturating_sub(self.paused_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::id::Key;
    use crate::wire::{Rules, Start};

    fn id(number: u8) -> SessionId {
        SessionId::mint(&Key::new([1; 32]), 1, [number; 10])
    }

    fn opening(metadata: &str) -> Opening {
        let body = format!(
            r#"{{"eventType":"sessionStart","playerTime":{{"ts":0,"playhead":0}},"params":
            {{"media.id":"a","media.length":0,"media.contentType":"","media.playerName":""}},
            "customMetadata":{{"k":"{metadata}"}}}}"#
        );
        let rules = Rules { profile: crate::wire::Profile::Open, strict: false };
        Opening::of(&Start::parse(body.as_bytes(), rules).unwrap(), None, None)
    }

    fn live(settings: Settings) -> Arc<Live> {
        let live = Arc::new(Live::shared(settings, 0.25));
        live.set_terms(0, 0, Terms { no_events_ms: 100, ..Terms::default() });
        live
    }

    fn open(live: &Arc<Live>, seq: u64, received_ms: u64, number: u8) -> Result<(), Full> {
        let opening = opening("");
        let room = live.keep_room(opening.heap_bytes(), Owner::default())?;
        live.open(seq, received_ms, id(number), (opening, BodyHash::of(&[])), Some(room));
        Ok(())
    }

    const NO_EVENTS: CloseReason = CloseReason::TimeoutNoEvents;

    #[test]
    fn a_session_is_due_at_its_deadline_and_closed_by_its_record() {
        let live = live(Settings::default());
        open(&live, 1, 1_000, 1).unwrap();
        open(&live, 2, 1_050, 2).unwrap();
        assert_eq!(live.take_due(1_099, 9).0, []);
        assert_eq!(live.take_due(1_100, 9).0, [(id(1), NO_EVENTS)]);
        assert!(live.contains(id(1)), "only its record closes it");
        assert_eq!(live.take_due(1_100, 9).0, [], "it is taken out once");
        live.put_back(id(1));
        assert_eq!(live.take_due(1_100, 9).0, [(id(1), NO_EVENTS)]);
        assert!(live.close(3, 1_100, id(1), NO_EVENTS).is_some());
        assert!(!live.contains(id(1)) && live.contains(id(2)));
        assert!(live.close(4, 1_100, id(1), NO_EVENTS).is_none(), "it is closed already");
        assert!(live.close(5, 1_149, id(2), NO_EVENTS).is_none(), "its deadline has not passed");
        assert!(live.close(6, 1_150, id(2), NO_EVENTS).is_some());
        assert_eq!((live.sessions(), live.unreported()), (0, 2));
        assert!(live.bytes() > 0, "what waits for its report takes room");
        assert!(live.reported(7, id(1)) && live.reported(8, id(2)));
        assert!(!live.reported(9, id(1)), "it has its report already");
        assert_eq!((live.unreported(), live.bytes()), (0, 0));
    }

    #[test]
    fn a_pause_counts_against_no_session() {
        let live = live(Settings::default());
        open(&live, 1, 1_000, 1).unwrap();
        live.pause(2, 1_500, 500);
        assert_eq!(live.take_due(1_599, 9).0, []);
        assert!(live.close(3, 1_599, id(1), NO_EVENTS).is_none());
        assert_eq!(live.take_due(1_600, 9).0, [(id(1), NO_EVENTS)]);
        open(&live, 4, 1_600, 2).unwrap();
        assert_eq!(live.take_due(1_699, 9).0, [], "a later session is not older for it");
        assert_eq!(live.take_due(1_700, 9).0, [(id(2), NO_EVENTS)]);
    }

    #[test]
    fn sessions_are_bounded_by_number_and_an_end_makes_room() {
        let live = live(Settings { sessions_max: 2, ..Settings::default() });
        open(&live, 1, 1_000, 1).unwrap();
        assert_eq!(live.has_room(), Ok(()));
        let room = live.keep_room(opening("").heap_bytes(), Owner::default()).unwrap();
        assert_eq!(live.has_room(), Err(Full::Sessions(2)));
        assert_eq!(open(&live, 2, 1_000, 3), Err(Full::Sessions(2)));
        drop(room);
        open(&live, 3, 1_000, 3).unwrap();
        assert!(live.close(4, 1_100, id(1), NO_EVENTS).is_some());
        open(&live, 5, 1_000, 4).unwrap();
    }

    #[test]
    fn a_client_has_a_share_of_the_sessions_once_most_places_are_taken() {
        let memory = memory::Memory::new(Size::gib(1), 0.25, &[], Vec::new());
        let client = |address: &str| memory.client(address.parse().unwrap());
        let (one, two) = (client("192.0.2.1"), client("192.0.2.2"));
        let live = live(Settings { sessions_max: 20, ..Settings::default() });
        let open = |client: &memory::Client| {
            let room = live.keep_room(0, Owner::of(client));
            room.map(std::mem::forget)
        };
        assert_eq!((0..16).filter(|_| open(&one).is_ok()).count(), 16, "nobody else needs them");
        assert_eq!(open(&one), Err(Full::Share));
        assert_eq!((0..4).filter(|_| open(&two).is_ok()).count(), 4);
        assert_eq!(open(&two), Err(Full::Sessions(20)));
    }

    #[test]
    fn sessions_that_never_sent_an_event_make_room() {
        let memory = memory::Memory::new(Size::gib(1), 0.25, &[], Vec::new());
        let client = |address: &str| memory.client(address.parse().unwrap());
        let (one, two) = (client("192.0.2.1"), client("192.0.2.2"));
        let live =
            Arc::new(Live::shared(Settings { sessions_max: 20, ..Settings::default() }, 0.25));
        let open = |number: u8, client: &memory::Client| {
            let room = live.keep_room(0, Owner::of(client)).unwrap();
            let hash = BodyHash::of(&[]);
            live.open(number.into(), 1_000, id(number), (opening(""), hash), Some(room));
        };
        let evictable = |now_ms| {
            let mut found: Vec<_> = (0..32).flat_map(|_| live.evictable(now_ms, 99)).collect();
            found.sort_unstable();
            found
        };
        (1..=15).for_each(|number| open(number, &one));
        (16..=17).for_each(|number| open(number, &two));
        let play = br#"{"eventType":"play","playerTime":{"ts":1,"playhead":0}}"#;
        let event = crate::wire::Event::parse(play, Rules::default()).unwrap();
        assert!(live.hear(18, 1_100, id(1), Step::of(&event, play)).is_some());
        assert_eq!(evictable(15_999), [], "they have some seconds for it");
        let mut of_one: Vec<_> = (2..=15).map(id).collect();
        of_one.sort_unstable();
        assert_eq!(evictable(16_000), of_one, "those of the client that has more than its share");
        (18..=20).for_each(|number| {
            let room = live.keep_room(0, Owner::of(&two)).unwrap();
            let (seq, hash) = (u64::from(number) + 1, BodyHash::of(&[]));
            live.open(seq, 14_000, id(number), (opening(""), hash), Some(room));
        });
        assert_eq!(evictable(16_000).len(), 16, "now everybody's, but none that is too young");
        assert!(live.close(30, 15_999, id(2), CloseReason::Evicted).is_none(), "too early");
        assert!(live.close(31, 16_000, id(1), CloseReason::Evicted).is_none(), "it has an event");
        for number in 2..=16 {
            let seq = 40 + u64::from(number);
            assert!(live.close(seq, 16_000, id(number), CloseReason::Evicted).is_some());
        }
        assert_eq!((live.sessions(), live.unreported()), (5, 15));
        assert_eq!(evictable(99_000), [], "there is room");
    }

    #[test]
    fn an_erased_session_leaves_nothing_behind() {
        let live = live(Settings::default());
        (1..=3).for_each(|number| open(&live, number.into(), 1_000, number).unwrap());
        assert!(live.close(4, 1_100, id(1), NO_EVENTS).is_some());
        assert_eq!(live.take_due(1_100, 1).0.len(), 1, "one is taken out to be closed");
        assert_eq!(live.erase(5, &[id(1), id(2), id(3), id(9)]), (2, 1));
        assert_eq!((live.sessions(), live.unreported(), live.bytes()), (0, 0, 0));
        assert_eq!(live.take_due(9_999, 9).0, []);
        live.put_back(id(2));
        assert!(live.close(6, 1_100, id(3), NO_EVENTS).is_none() && !live.reported(7, id(1)));
    }

    #[test]
    fn sessions_are_bounded_by_bytes() {
        let bytes_max = Size::kib(16);
        let live = live(Settings { bytes_max, ..Settings::default() });
        let large = opening(&"x".repeat(12 << 10));
        let room = live.keep_room(large.heap_bytes(), Owner::default()).unwrap();
        let before = live.bytes();
        assert_eq!(
            live.keep_room(large.heap_bytes(), Owner::default()).unwrap_err(),
            Full::Bytes(bytes_max)
        );
        assert_eq!((live.sessions(), live.bytes()), (1, before));
        drop(room);
        assert_eq!((live.sessions(), live.bytes()), (0, 0));
    }
}
