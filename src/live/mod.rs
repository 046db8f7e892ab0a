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
use crate::clock::{DOUBT_MS, STEP_MS};
use crate::limits::memory;
use crate::session::id::SessionId;
use crate::session::{
    BodyHash, CloseReason, Closing, Counts, Facts, Opening, Received, Session, Step, StoredSession,
    Terms, growth_bytes,
};
use crate::size::Size;
use crate::wire::EventType;

pub use self::bounds::{EventRoom, Room};
pub use self::owners::Owner;
pub use self::repeats::{Remembered, RememberedStored, SavedRepeats};

/// A lock guards a shard for well under a microsecond; this many make two threads rarely meet, and
/// keep each map small enough that its growth stalls nobody.
pub const SHARDS: usize = 256;

/// What one session costs beside its facts, from its beginning to its report: itself, what will say how it ended, its entries in map and deadlines (which double when
/// they grow, so they are emptier than full), and the allocator's share. Measured (`cargo bench --bench
/// collect -- memory`): 100 000 sessions with facts of 478 bytes and three events each took 1 252 bytes each of the
/// process; this and what they hold beside themselves say 1 210.
const SESSION_BYTES: usize = size_of::<Held>()
    + 3 * size_of::<(SessionId, Box<Held>)>()
    + 3 * size_of::<(u64, SessionId)>()
    + size_of::<Closing>()
    + 2 * 16;

/// What an event may hold beside its fixed part and still be taken when memory is full: all but long names
/// and metadata.
const USUAL_STEP_BYTES: usize = 512;

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
    /// By how much stamps were set back up to this record, all together, in ms.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub set_back_ms: u64,
    /// The last leap of the stamps, unless it is known to be real.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leap: Option<Leap>,
    /// When sessions end and how much they take, as of this record.
    #[serde(rename = "timeouts")]
    pub terms: Terms,
}

/// A leap of the stamps, by more than clocks drift. The server was off or slept, or its clock was wrong before or
/// after it: which of these is known later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leap {
    /// How far it was, in ms, with those that were in doubt before it.
    pub ahead_ms: u64,
    /// When it was, in ms of up time.
    pub up_ms: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a session was when its report was folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reported {
    /// It had ended, and waited for this.
    Ended,
    /// It was live.
    Live,
    /// It is not there: it has its report already, or its start is not in the journal any more.
    Unknown,
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
        self.bounds.has_room()
    }

    /// Keeps room for a session that is about to begin and holds so many bytes beside itself, until the room
    /// is used or dropped.
    ///
    /// # Errors
    /// [`Full`], and then nothing has changed.
    pub fn keep_room(&self, heap_bytes: usize, owner: Owner) -> Result<Room, Full> {
        self.bounds.keep_room(SESSION_BYTES + heap_bytes, owner)
    }

    /// Keeps room for an event of a live session, until the room is used or dropped. A part of the memory is for
    /// events that say no more than most, so that sessions that have begun go on when others have filled up the rest;
    /// some of that is for sessions under way, and the last for ends.
    ///
    /// # Errors
    /// [`Full`], and then nothing has changed.
    pub fn keep_room_for(&self, id: SessionId, step: &Step) -> Result<EventRoom, Full> {
        let bytes = growth_bytes(step);
        if step.heap_bytes() > USUAL_STEP_BYTES {
            let owner = self.shard(id).lock().sessions.get(&Hashed(id)).map(|held| held.owner);
            return self.bounds.keep_room_for_large(bytes, owner.unwrap_or_default());
        }
        if step.event_type == EventType::SessionEnd {
            return self.bounds.keep_room_for_end(bytes);
        }
        self.bounds.keep_room_for_usual(bytes).or_else(|full| {
            if self.events_hold_more(id, step.heap_bytes()) {
                self.bounds.keep_room_for_under_way(bytes)
            } else {
                Err(full)
            }
        })
    }

    /// Whether the events of a live session hold more than so many bytes: then the next that says so much mostly takes
    /// the place of one that waited.
    fn events_hold_more(&self, id: SessionId, bytes: usize) -> bool {
        self.shard(id).lock().sessions.get(&Hashed(id)).is_some_and(|held| {
            // Beside what its start says, a session may name the one that it repeats.
            let of_start = held.session.opening.heap_bytes() + size_of::<SessionId>();
            held.session.heap_bytes() > of_start + bytes
        })
    }

    /// The client with this account, and its address as far as it is kept.
    pub fn owner(&self, client: &memory::Client, kept_address: Option<&str>) -> Owner {
        self.bounds.owners.owner(client, kept_address)
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
        self.repeats.lock().stored(hash, self.progress().running_ms(now_ms))
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
        let received = progress.received(received_ms);
        let mut session = Session::new(opening, received);
        let start = Remembered { hash, id, received_ms: received.running_ms };
        let first = self.repeats.lock().start(seq, start);
        session.repeat_of = first.map(Box::new);
        let mut shard = self.shard(id).lock();
        if !shard.is_new(seq) {
            return;
        }
        let owner = self.begin(&session, room);
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
        let received_ms = progress.running_ms(received_ms);
        self.repeats.lock().store(seq, client, Remembered { hash, id, received_ms });
        let mut shard = self.shard(id).lock();
        if !shard.is_new(seq) {
            return false;
        }
        let owner = self.begin(&session, room);
        self.end(&mut shard, id, session, owner);
        true
    }

    /// Counts a session that begins, in the room that was kept for it unless it was there before. Gives whose it is.
    fn begin(&self, session: &Session, room: Option<Room>) -> Owner {
        let bytes = counted_bytes(session);
        if let Some(room) = room {
            return room.used(bytes);
        }
        let owner = self.bounds.owners.restored(session.opening.facts.address());
        self.bounds.begin_again(owner, bytes);
        owner
    }

    /// Folds that the report of a session is in the journal. That ends the session, however its end was decided:
    /// of a journal whose beginning is gone not everything may be known that decided it.
    pub(crate) fn reported(&self, seq: u64, id: SessionId) -> Reported {
        let mut shard = self.shard(id).lock();
        if !shard.is_new(seq) {
            return Reported::Unknown;
        }
        if self.drop_ended(&mut shard, id) {
            Reported::Ended
        } else if self.drop_live(&mut shard, id) {
            Reported::Live
        } else {
            Reported::Unknown
        }
    }

    /// Forgets a live session. Says whether there was one.
    fn drop_live(&self, shard: &mut Shard, id: SessionId) -> bool {
        let Some(held) = shard.sessions.remove(&Hashed(id)) else { return false };
        if let Some(noted_up_ms) = held.noted_up_ms {
            shard.deadlines.remove(noted_up_ms, id);
        }
        self.bounds.drop_live(held.owner, counted_bytes(&held.session));
        true
    }

    /// Forgets a session that waits for its report. Says whether there was one.
    fn drop_ended(&self, shard: &mut Shard, id: SessionId) -> bool {
        let Some(Ended { session, owner }) = shard.ended.remove(&Hashed(id)) else { return false };
        self.bounds.drop_ended(owner, counted_bytes(&session));
        true
    }

    /// Folds an event. Gives what its session counted for it, if it took it.
    pub(crate) fn hear(
        &self,
        seq: u64,
        received_ms: u64,
        id: SessionId,
        step: Step,
        room: Option<EventRoom>,
    ) -> Option<Counts> {
        let progress = self.progress();
        let terms = progress.terms;
        let mut shard = self.shard(id).lock();
        if !shard.is_new(seq) {
            return None;
        }
        let Shard { sessions, deadlines, .. } = &mut *shard;
        let held = sessions.get_mut(&Hashed(id))?;
        let (bytes_before, counts_before) = (counted_bytes(&held.session), held.session.counts);
        let heard = held.session.hear(progress.received(received_ms), step, &terms);
        let is_read_back = room.is_none();
        self.bounds.resize(held.owner, bytes_before, counted_bytes(&held.session), room);
        if is_read_back {
            self.bounds.note_read_back();
        }
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
        let (bytes_before, counts_before) = (counted_bytes(&session), session.counts);
        session.close(closing);
        self.bounds.resize(owner, bytes_before, counted_bytes(&session), None);
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
            if self.drop_live(&mut shard, *id) {
                live += 1;
            } else if self.drop_ended(&mut shard, *id) {
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
        if ids.is_empty() {
            return;
        }
        let ids: BTreeSet<_> = ids.iter().collect();
        let names = |session: &Session| {
            session.repeat_of.as_deref().is_some_and(|first| ids.contains(first))
        };
        let forget = |session: &mut Session, owner| {
            let bytes_before = counted_bytes(session);
            session.repeat_of = None;
            self.bounds.resize(owner, bytes_before, counted_bytes(session), None);
        };
        for shard in &self.shards {
            let Shard { sessions, ended, .. } = &mut *shard.lock();
            for held in sessions.values_mut().filter(|held| names(&held.session)) {
                forget(&mut held.session, held.owner);
            }
            for ended in ended.values_mut().filter(|ended| names(&ended.session)) {
                forget(Arc::make_mut(&mut ended.session), ended.owner);
            }
        }
    }

    /// A session that was counted among the live ones waits for its report from now on.
    fn end(&self, shard: &mut Shard, id: SessionId, session: Session, owner: Owner) {
        self.bounds.end();
        shard.ended.insert(Hashed(id), Ended { session: Arc::new(session), owner });
    }

    /// Folds that nothing could be received for a while, or that stamps were set back.
    pub(crate) fn pause(&self, seq: u64, received_ms: u64, down_ms: u64, set_back_ms: u64) {
        let mut progress = self.progress.lock();
        let doubted_ms = progress.doubted_ms(progress.received_ms);
        progress.paused_ms = progress.paused_ms.saturating_add(down_ms);
        progress.set_back_ms = progress.set_back_ms.saturating_add(set_back_ms);
        (progress.seq, progress.received_ms) = (seq, received_ms);
        let up_ms = progress.up_ms(received_ms);
        progress.leap = if down_ms > STEP_MS {
            Some(Leap { ahead_ms: doubted_ms.saturating_add(down_ms), up_ms })
        } else {
            let ahead_ms = doubted_ms.saturating_sub(set_back_ms);
            // What is left of one that was taken back is the time that passed meanwhile.
            let is_taken_back = set_back_ms > 0 && ahead_ms <= STEP_MS;
            progress
                .leap
                .filter(|_| ahead_ms > 0 && !is_taken_back)
                .map(|leap| Leap { ahead_ms, ..leap })
        };
    }

    /// Folds how long all pauses were so far, and by how much stamps were set back, which a journal whose beginning is
    /// gone does not tell otherwise.
    pub(crate) fn set_paused(&self, paused_ms: u64, set_back_ms: u64) {
        let mut progress = self.progress.lock();
        (progress.paused_ms, progress.set_back_ms) = (paused_ms, set_back_ms);
    }

    /// Folds which terms hold for sessions from now on.
    pub(crate) fn set_terms(&self, seq: u64, received_ms: u64, terms: Terms) {
        let before = {
            let mut progress = self.progress.lock();
            let before = progress.terms;
            *progress = Progress { seq, received_ms, terms, ..*progress };
            before
        };
        // Each segment repeats them; with a million sessions it would take long to note all deadlines again.
        if terms == before {
            return;
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
        let owner = self.begin(&session, None);
        let terms = self.progress().terms;
        let mut shard = self.shard(id).lock();
        if session.closing.is_some() {
            self.end(&mut shard, id, session, owner);
        } else {
            shard.insert(id, session, owner, &terms);
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

/// What a session counts as in the bounds.
fn counted_bytes(session: &Session) -> usize {
    SESSION_BYTES + session.heap_bytes()
}

impl Progress {
    /// The server's clock less all the time that it was down or could not write. It goes on where stamps are set
    /// back.
    pub fn up_ms(&self, received_ms: u64) -> u64 {
        self.running_ms(received_ms).saturating_sub(self.paused_ms)
    }

    /// When something was received that has this stamp.
    fn received(&self, stamp_ms: u64) -> Received {
        let (running_ms, up_ms) = (self.running_ms(stamp_ms), self.up_ms(stamp_ms));
        Received { stamp_ms, running_ms, up_ms }
    }

    /// The stamp of an instant of up time, in ms since the Unix epoch.
    pub fn stamp_of(&self, up_ms: u64) -> u64 {
        up_ms.saturating_add(self.paused_ms).saturating_sub(self.set_back_ms)
    }

    /// The time that stamps would show if they had never been set back: it never falls.
    pub fn running_ms(&self, received_ms: u64) -> u64 {
        received_ms.saturating_add(self.set_back_ms)
    }

    /// How much of a stamp that is given now is in doubt, in ms: nothing once the server was up for long enough after
    /// the last leap.
    pub fn doubted_ms(&self, now_ms: u64) -> u64 {
        let up_ms = self.up_ms(now_ms);
        let leap = self.leap.filter(|leap| up_ms < leap.up_ms.saturating_add(DOUBT_MS));
        leap.map_or(0, |leap| leap.ahead_ms)
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
        opening_from(None, metadata)
    }

    fn opening_from(address: Option<&str>, metadata: &str) -> Opening {
        let body = format!(
            r#"{{"eventType":"sessionStart","playerTime":{{"ts":0,"playhead":0}},"params":
            {{"media.id":"a","media.length":0,"media.contentType":"","media.playerName":""}},
            "customMetadata":{{"k":"{metadata}"}}}}"#
        );
        let rules = Rules { profile: crate::wire::Profile::Open, strict: false };
        Opening::of(&Start::parse(body.as_bytes(), rules).unwrap(), address, None)
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
        assert_eq!(live.reported(7, id(1)), Reported::Ended);
        assert_eq!(live.reported(8, id(2)), Reported::Ended);
        assert_eq!(live.reported(9, id(1)), Reported::Unknown, "it has its report already");
        assert_eq!((live.unreported(), live.bytes()), (0, 0));
    }

    #[test]
    fn the_report_of_a_live_session_ends_it() {
        let live = live(Settings::default());
        open(&live, 1, 1_000, 1).unwrap();
        assert_eq!(live.reported(2, id(1)), Reported::Live);
        assert_eq!((live.sessions(), live.unreported(), live.bytes()), (0, 0, 0));
        assert_eq!(live.take_due(9_999, 9).0, [], "no deadline is left behind");
        assert_eq!(live.reported(3, id(1)), Reported::Unknown);
    }

    #[test]
    fn a_pause_counts_against_no_session() {
        let live = live(Settings::default());
        open(&live, 1, 1_000, 1).unwrap();
        live.pause(2, 1_500, 500, 0);
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
            let room = live.keep_room(0, live.owner(client, None));
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
            let room = live.keep_room(0, live.owner(client, None)).unwrap();
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
        assert!(live.hear(18, 1_100, id(1), Step::of(&event, play), None).is_some());
        assert_eq!(evictable(15_999), [], "they have some seconds for it");
        let mut of_one: Vec<_> = (2..=15).map(id).collect();
        of_one.sort_unstable();
        assert_eq!(evictable(16_000), of_one, "those of the client that has more than its share");
        (18..=20).for_each(|number| {
            let room = live.keep_room(0, live.owner(&two, None)).unwrap();
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
        assert!(live.close(6, 1_100, id(3), NO_EVENTS).is_none());
        assert_eq!(live.reported(7, id(1)), Reported::Unknown);
    }

    /// A step of an event of this type, with a name of so many bytes if any.
    fn step(event_type: &str, name_bytes: usize) -> Step {
        let body = format!(
            r#"{{"eventType":"{event_type}","playerTime":{{"ts":0,"playhead":0}},"params":
            {{"media.ad.podFriendlyName":"{}"}}}}"#,
            "n".repeat(name_bytes)
        );
        let event = crate::wire::Event::accepted(body.as_bytes()).unwrap();
        Step::of(&event, body.as_bytes())
    }

    #[test]
    fn what_is_on_its_way_counts_and_the_last_bytes_are_for_events_and_ends() {
        let bytes_max = Size::kib(64);
        let live = live(Settings { bytes_max, ..Settings::default() });
        open(&live, 1, 1_000, 1).unwrap();
        let begun = live.bytes();
        let mut rooms = Vec::new();
        for (event_type, name_bytes, least_kib, most_kib) in
            [("adBreakStart", 2_000, 53, 56), ("ping", 0, 59, 60)]
        {
            let full = loop {
                match live.keep_room_for(id(1), &step(event_type, name_bytes)) {
                    Ok(room) => rooms.push(room),
                    Err(full) => break full,
                }
            };
            assert_eq!(full, Full::Bytes(bytes_max));
            let held_kib = live.bytes() >> 10;
            assert!((least_kib..most_kib).contains(&held_kib), "{event_type}: {held_kib} KiB");
        }
        let end = || live.keep_room_for(id(1), &step("sessionEnd", 0));
        rooms.extend((0..99).map_while(|_| end().ok()));
        assert_eq!(end().unwrap_err(), Full::Bytes(bytes_max), "ends are bounded as well");
        assert!((63 << 10..=64 << 10).contains(&live.bytes()), "they may fill all");
        assert_eq!(open(&live, 2, 1_000, 2), Err(Full::Bytes(bytes_max)));
        drop(rooms);
        assert_eq!(live.bytes(), begun);
        let step = step("adBreakStart", 2_000);
        let room = live.keep_room_for(id(1), &step).unwrap();
        let most = live.bytes();
        assert!(live.hear(2, 1_010, id(1), step, Some(room)).is_some());
        let held = SESSION_BYTES + live.copy_of(id(1)).unwrap().heap_bytes();
        assert!(live.bytes() == held && held <= most && held > begun + 2_000);
        assert!(live.close(3, 9_000, id(1), NO_EVENTS).is_some());
        assert!(live.bytes() <= held, "its end takes nothing");
    }

    #[test]
    fn a_session_under_way_goes_on_when_events_of_others_have_filled_what_is_for_them() {
        let settings = Settings { bytes_max: Size::kib(64), ..Settings::default() };
        let live = Arc::new(Live::shared(settings, 0.25));
        for number in 1..=2 {
            open(&live, number.into(), 1_000, number).unwrap();
        }
        let ping = |number: u64| {
            let at_ms = 1_010 + number * 10_000;
            let body = format!(
                r#"{{"eventType":"ping","playerTime":{{"ts":{at_ms},"playhead":{}}}}}"#,
                number * 10
            );
            let event = crate::wire::Event::accepted(body.as_bytes()).unwrap();
            let step = Step::of(&event, body.as_bytes());
            let room = live.keep_room_for(id(1), &step).unwrap();
            live.hear(3 + number, at_ms, id(1), step, Some(room)).unwrap();
        };
        (0..3).for_each(ping);
        let mut rooms = Vec::new();
        while let Ok(room) = live.keep_room_for(id(2), &step("ping", 0)) {
            rooms.push(room);
        }
        for number in 3..99 {
            ping(number);
            assert!(live.bytes() <= 64 << 10);
        }
    }

    #[test]
    fn sessions_go_on_after_a_restart_with_less_memory_and_none_begin_until_enough_have_ended() {
        let before = live(Settings::default());
        for number in 1..=40 {
            open(&before, number.into(), 1_000, number).unwrap();
        }
        let bytes_before = before.bytes();
        let bytes_max = Size::bytes(bytes_before as u64 / 2);
        let after = live(Settings { bytes_max, ..Settings::default() });
        for row in 0..SHARDS {
            for (id, session) in before.save_shard(row).sessions {
                after.restore(id, session);
            }
        }
        let most = bytes_before + bytes_max.as_usize() / 8;
        let mut rooms = Vec::new();
        while let Ok(room) = after.keep_room_for(id(1), &step("ping", 0)) {
            rooms.push(room);
        }
        assert!(rooms.len() > 1 && after.bytes() <= most);
        let end = || after.keep_room_for(id(1), &step("sessionEnd", 0));
        rooms.push(end().unwrap());
        rooms.extend((0..99).map_while(|_| end().ok()));
        assert!(end().is_err() && after.bytes() <= most);
        drop(rooms);
        let full = Err(Full::Bytes(bytes_max));
        let large = after.keep_room_for(id(1), &step("adBreakStart", 2_000)).map(drop);
        assert_eq!((large, after.has_room()), (full, Err(Full::Bytes(bytes_max))));
        let mut seq = 100;
        for number in 1..=40 {
            if after.bytes() > bytes_max.as_usize() {
                assert!(after.keep_room_for(id(number), &step("ping", 0)).is_ok(), "{number}");
            }
            seq += 1;
            assert_eq!(after.reported(seq, id(number)), Reported::Live);
            let bytes_max = bytes_max.as_usize();
            assert_eq!(after.has_room().is_ok(), after.bytes() < bytes_max / 32 * 28);
        }
        let mut rooms = Vec::new();
        while let Ok(room) = after.keep_room_for(id(1), &step("ping", 0)) {
            rooms.push(room);
        }
        assert!(after.bytes() <= bytes_max.as_usize(), "the bound holds again");
    }

    #[test]
    fn sessions_that_were_read_back_count_for_the_clients_with_their_address() {
        let memory = memory::Memory::new(Size::gib(1), 0.25, &[], Vec::new());
        let client = |address: &str| memory.client(address.parse().unwrap());
        let (one, two) = (client("192.0.2.7"), client("198.51.100.7"));
        let live = live(Settings { sessions_max: 20, ..Settings::default() });
        for number in 1..=16 {
            let opening = opening_from(Some("192.0.2.0"), "");
            let opening = (opening, BodyHash::of(&[&[number]]));
            live.open(number.into(), 1_000, id(number), opening, None);
        }
        let keep = |client, address| live.keep_room(0, live.owner(client, Some(address)));
        assert_eq!(keep(&one, "192.0.2.0").unwrap_err(), Full::Share);
        assert!(keep(&two, "198.51.100.0").is_ok());
        // As from a checkpoint.
        live.clear();
        for number in 1..=16 {
            let opening = opening_from(Some("192.0.2.0"), "");
            live.restore(id(number), Session::new(opening, Received::at(1_000, 1_000)));
        }
        assert_eq!(keep(&one, "192.0.2.0").unwrap_err(), Full::Share);
        assert!(keep(&two, "198.51.100.0").is_ok());
        let first = live.keep_room(0, live.owner(&two, None)).unwrap();
        assert!(!(0..32).flat_map(|_| live.evictable(99_000, 99)).collect::<Vec<_>>().is_empty());
        drop(first);
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
