//! How many sessions there may be, how much memory they may hold, and what a client's share of both is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::owners::{Owner, Owners, Tally};
use super::{Full, SESSION_BYTES, Settings};

/// What a start may hold and still count as usual: all but long names and metadata. The share of its client binds
/// it a little later, so that a client's large sessions do not keep out its small ones.
const USUAL_BYTES: usize = 8 << 10;

/// Which part of their memory starts, stored sessions and large events may fill, in parts of [`PARTS`]; the rest is for
/// the sessions that have begun.
const OF_STARTS: usize = 28;
/// Which part usual events may fill, whatever their sessions hold.
const OF_USUAL_EVENTS: usize = 30;
/// Which part usual events of sessions under way may fill: they mostly take the place of earlier ones, so that these
/// sessions go on when others have filled up the rest.
const OF_SESSIONS_UNDER_WAY: usize = 31;
/// Which part small ends may fill: all, because they make room. Nothing else fills the last part.
const OF_ENDS: usize = PARTS;
const PARTS: usize = 32;

/// Counts the sessions, and checks them against the settings.
///
/// What they hold, with the room that is kept for records on their way, is no more than the settings allow. The one
/// exception is a start that reads back more, because the settings or the machine were larger before. Then these
/// sessions go on: what events may fill is counted from there, until enough of them have ended.
#[derive(Debug)]
pub(super) struct Bounds {
    pub(super) settings: Settings,
    /// How much one client may open once its share binds.
    share: Tally,
    /// Those that are live or about to begin.
    sessions: AtomicUsize,
    /// Those that have ended and whose report is not in the journal yet.
    unreported: AtomicUsize,
    /// What both hold, and what is kept for records on their way.
    bytes: AtomicUsize,
    /// What was read back, or the least that `bytes` was since.
    bytes_read_back: AtomicUsize,
    pub(super) owners: Owners,
}

/// How nearly the bounds are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pressure {
    /// Shares do not bind.
    None,
    /// Shares bind: who has more than its share makes room.
    Shares,
    /// Nearly nothing is left: everybody makes room.
    All,
}

impl Bounds {
    /// Of no session yet. Of what the settings allow one client may open this share once four fifths are used.
    pub(super) fn new(settings: Settings, client_share: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "the cast saturates, and a share need not be exact"
        )]
        let part = |all: usize| (all as f64 * client_share) as u32;
        let share = Tally {
            sessions: part(settings.sessions_max).max(1),
            kib: part(settings.bytes_max.as_usize() >> 10),
        };
        let (sessions, unreported, bytes, bytes_read_back, owners) = Default::default();
        Self { settings, share, sessions, unreported, bytes, bytes_read_back, owners }
    }

    /// The number of live sessions, with those that are about to begin.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// The number of sessions that wait for their report.
    pub(super) fn unreported(&self) -> usize {
        self.unreported.load(Ordering::Relaxed)
    }

    /// The memory that sessions hold, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether there is room for one more session.
    pub(super) fn has_room(&self) -> Result<(), Full> {
        if self.sessions() >= self.settings.sessions_max {
            return Err(Full::Sessions(self.settings.sessions_max));
        }
        if self.bytes() >= self.parts(OF_STARTS) {
            return Err(Full::Bytes(self.settings.bytes_max));
        }
        Ok(())
    }

    /// Keeps room for an end that says no more than most. A session that is not allowed to end holds its memory until
    /// it times out, so ends have a part that nothing else fills.
    pub(super) fn keep_room_for_end(self: &Arc<Self>, bytes: usize) -> Result<EventRoom, Full> {
        self.keep_room_of_event(bytes, self.most_of_events(OF_ENDS))
    }

    /// Keeps room for an event that says no more than most, so that the sessions that have begun go on when others
    /// have filled up the memory.
    pub(super) fn keep_room_for_usual(self: &Arc<Self>, bytes: usize) -> Result<EventRoom, Full> {
        self.keep_room_of_event(bytes, self.most_of_events(OF_USUAL_EVENTS))
    }

    /// Keeps room for such an event of a session whose earlier events hold more than this one says.
    pub(super) fn keep_room_for_under_way(
        self: &Arc<Self>,
        bytes: usize,
    ) -> Result<EventRoom, Full> {
        self.keep_room_of_event(bytes, self.most_of_events(OF_SESSIONS_UNDER_WAY))
    }

    /// Keeps room for an event with long names or metadata of a session of this client.
    pub(super) fn keep_room_for_large(
        self: &Arc<Self>,
        bytes: usize,
        owner: Owner,
    ) -> Result<EventRoom, Full> {
        let room = self.keep_room_of_event(bytes, self.parts(OF_STARTS))?;
        if self.uses(16, 16) && self.is_over_share(owner) { Err(Full::Share) } else { Ok(room) }
    }

    /// Up to which sum events may fill so many parts. If more was read back than they could ever fill, what is for
    /// them alone lies above that.
    fn most_of_events(&self, parts: usize) -> usize {
        let bytes_read_back = self.bytes_read_back.load(Ordering::Relaxed);
        if bytes_read_back > self.parts(OF_SESSIONS_UNDER_WAY) {
            bytes_read_back.saturating_add(self.parts(parts - OF_STARTS))
        } else {
            self.parts(parts)
        }
    }

    fn keep_room_of_event(
        self: &Arc<Self>,
        bytes: usize,
        bytes_max: usize,
    ) -> Result<EventRoom, Full> {
        self.take(bytes, bytes_max)?;
        Ok(EventRoom { bounds: Arc::clone(self), bytes })
    }

    /// Takes so many bytes, if all are no more than the most then.
    fn take(&self, bytes: usize, bytes_max: usize) -> Result<(), Full> {
        let taken = self.bytes.try_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            held.checked_add(bytes).filter(|held| *held <= bytes_max)
        });
        taken.map(|_| ()).map_err(|_| Full::Bytes(self.settings.bytes_max))
    }

    /// Gives so many bytes back.
    fn give(&self, bytes: usize) {
        let left = self.bytes.fetch_sub(bytes, Ordering::Relaxed).saturating_sub(bytes);
        // Mostly it is less already, and need not be written.
        if left < self.bytes_read_back.load(Ordering::Relaxed) {
            self.bytes_read_back.fetch_min(left, Ordering::Relaxed);
        }
    }

    /// What is there now was there before, whatever the bounds say.
    pub(super) fn note_read_back(&self) {
        self.bytes_read_back.fetch_max(self.bytes(), Ordering::Relaxed);
    }

    /// So many parts of the memory of all sessions.
    fn parts(&self, count: usize) -> usize {
        self.settings.bytes_max.as_usize() / PARTS * count
    }

    /// How nearly the bounds are reached.
    pub(super) fn pressure(&self) -> Pressure {
        let is_over = |twentieths| self.uses(twentieths, twentieths);
        match (is_over(19), is_over(16)) {
            (true, _) => Pressure::All,
            (false, true) => Pressure::Shares,
            (false, false) => Pressure::None,
        }
    }

    /// Whether so many twentieths of the sessions, or of the bytes that starts may fill, are in use.
    fn uses(&self, of_sessions: usize, of_bytes: usize) -> bool {
        self.sessions() > self.settings.sessions_max.saturating_mul(of_sessions) / 20
            || self.bytes() > self.parts(OF_STARTS) / 20 * of_bytes
    }

    /// Whether a client has more than its share.
    pub(super) fn is_over_share(&self, owner: Owner) -> bool {
        self.exceeds_share(self.owners.of(owner))
    }

    fn exceeds_share(&self, Tally { sessions, kib }: Tally) -> bool {
        sessions > self.share.sessions || kib > self.share.kib
    }

    /// Keeps room for a session of so many bytes.
    pub(super) fn keep_room(self: &Arc<Self>, bytes: usize, owner: Owner) -> Result<Room, Full> {
        // Counted before it is checked, so that two at once cannot both take the last place.
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.owners.begin(owner, 0);
        let mut room = Room { bounds: Arc::clone(self), bytes: 0, owner, is_used: false };
        if self.sessions() > self.settings.sessions_max {
            return Err(Full::Sessions(self.settings.sessions_max));
        }
        room.grow_to(bytes)?;
        Ok(room)
    }

    /// A session of so many bytes that was there before begins again: whatever the bounds say, it is there.
    pub(super) fn begin_again(&self, owner: Owner, bytes: usize) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.note_read_back();
        self.owners.begin(owner, bytes);
    }

    /// A session holds so many bytes in place of so many.
    pub(super) fn resize(
        &self,
        owner: Owner,
        bytes_before: usize,
        bytes: usize,
        room: Option<EventRoom>,
    ) {
        // In one step, so that nothing is counted twice in between.
        let bytes_counted = bytes_before + room.map_or(0, EventRoom::used);
        if bytes > bytes_counted {
            self.bytes.fetch_add(bytes - bytes_counted, Ordering::Relaxed);
        } else if bytes < bytes_counted {
            self.give(bytes_counted - bytes);
        }
        self.owners.resize(owner, bytes_before, bytes);
    }

    /// A live session waits for its report from now on. Until then it is still its owner's.
    pub(super) fn end(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
        self.unreported.fetch_add(1, Ordering::Relaxed);
    }

    /// A live session of so many bytes is gone.
    pub(super) fn drop_live(&self, owner: Owner, bytes: usize) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
        self.give(bytes);
        self.owners.end(owner, bytes);
    }

    /// A session of so many bytes that waited for its report is gone.
    pub(super) fn drop_ended(&self, owner: Owner, bytes: usize) {
        self.unreported.fetch_sub(1, Ordering::Relaxed);
        self.give(bytes);
        self.owners.end(owner, bytes);
    }

    /// All sessions are gone.
    pub(super) fn clear(&self) {
        self.sessions.store(0, Ordering::Relaxed);
        self.unreported.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.bytes_read_back.store(0, Ordering::Relaxed);
        self.owners.clear();
    }
}

/// Room kept for one session.
#[derive(Debug)]
pub struct Room {
    bounds: Arc<Bounds>,
    bytes: usize,
    owner: Owner,
    is_used: bool,
}

impl Room {
    /// Makes it room for a session that holds so many bytes beside itself.
    ///
    /// # Errors
    /// [`Full`], and then it is as it was.
    pub fn resize_to(&mut self, heap_bytes: usize) -> Result<(), Full> {
        let bytes = SESSION_BYTES + heap_bytes;
        if bytes > self.bytes {
            return self.grow_to(bytes);
        }
        self.bounds.resize(self.owner, self.bytes, bytes, None);
        self.bytes = bytes;
        Ok(())
    }

    fn grow_to(&mut self, bytes: usize) -> Result<(), Full> {
        let Bounds { owners, .. } = &*self.bounds;
        self.bounds.take(bytes - self.bytes, self.bounds.parts(OF_STARTS))?;
        owners.resize(self.owner, self.bytes, bytes);
        let bytes_before = std::mem::replace(&mut self.bytes, bytes);
        let of_bytes = if bytes > USUAL_BYTES { 16 } else { 18 };
        if self.bounds.uses(16, of_bytes) && self.bounds.is_over_share(self.owner) {
            self.bounds.resize(self.owner, bytes, bytes_before, None);
            self.bytes = bytes_before;
            return Err(Full::Share);
        }
        Ok(())
    }

    /// The session is there and holds so many bytes from now on. Gives who opened it.
    pub(super) fn used(mut self, bytes: usize) -> Owner {
        self.bounds.resize(self.owner, self.bytes, bytes, None);
        self.is_used = true;
        self.owner
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if !self.is_used {
            self.bounds.drop_live(self.owner, self.bytes);
        }
    }
}

/// Room kept for what an event may make its session grow by.
#[derive(Debug)]
pub struct EventRoom {
    bounds: Arc<Bounds>,
    bytes: usize,
}

impl EventRoom {
    /// Gives its bytes, which are counted on by who takes them.
    fn used(mut self) -> usize {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for EventRoom {
    fn drop(&mut self) {
        self.bounds.give(self.bytes);
    }
}
