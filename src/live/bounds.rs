//! How many sessions there may be, how much memory they may hold, and what a client's share of both is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::owners::{Owner, Owners, Tally};
use super::{Full, SESSION_BYTES, Settings};

/// What a start may hold and still count as usual: all but long names and metadata. The share of its client binds
/// it a little later, so that a client's large sessions do not keep out its small ones.
const USUAL_BYTES: usize = 8 << 10;

/// Which part of their memory starts, stored sessions and large events may fill, in sixteenths; the rest is for the
/// sessions that have begun. The last sixteenth is for their ends, which make room.
const OF_STARTS: usize = 14;
const OF_USUAL_EVENTS: usize = 15;

/// Counts the sessions, and checks them against the settings.
///
/// What they hold, with the room that is kept for records on their way, is never more than the settings allow, as
/// long as these allow what was read back at the start.
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
        let (sessions, unreported, bytes, owners) = Default::default();
        Self { settings, share, sessions, unreported, bytes, owners }
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

    /// Whether there is room for so many more sessions.
    pub(super) fn has_room_for(&self, more: usize) -> Result<(), Full> {
        if self.sessions() + more > self.settings.sessions_max {
            return Err(Full::Sessions(self.settings.sessions_max));
        }
        self.has_memory()
    }

    /// Whether there is memory for more sessions.
    fn has_memory(&self) -> Result<(), Full> {
        if self.bytes() >= self.sixteenths(OF_STARTS) {
            return Err(Full::Bytes(self.settings.bytes_max));
        }
        Ok(())
    }

    /// Keeps room for the end of a session, which makes room.
    pub(super) fn keep_room_for_end(self: &Arc<Self>, bytes: usize) -> Result<EventRoom, Full> {
        self.keep_room_of_event(bytes, self.settings.bytes_max.as_usize())
    }

    /// Keeps room for an event that says no more than most, so that the sessions that have begun go on when others
    /// have filled up the memory.
    pub(super) fn keep_room_for_usual(self: &Arc<Self>, bytes: usize) -> Result<EventRoom, Full> {
        self.keep_room_of_event(bytes, self.sixteenths(OF_USUAL_EVENTS))
    }

    /// Keeps room for an event with long names or metadata of a session of this client.
    pub(super) fn keep_room_for_large(
        self: &Arc<Self>,
        bytes: usize,
        owner: Owner,
    ) -> Result<EventRoom, Full> {
        let room = self.keep_room_of_event(bytes, self.sixteenths(OF_STARTS))?;
        if self.uses(16, 16) && self.is_over_share(owner) { Err(Full::Share) } else { Ok(room) }
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

    /// So many sixteenths of the memory of all sessions.
    fn sixteenths(&self, count: usize) -> usize {
        self.settings.bytes_max.as_usize() / 16 * count
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
            || self.bytes() > self.sixteenths(OF_STARTS) / 20 * of_bytes
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
            self.bytes.fetch_sub(bytes_counted - bytes, Ordering::Relaxed);
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
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.owners.end(owner, bytes);
    }

    /// A session of so many bytes that waited for its report is gone.
    pub(super) fn drop_ended(&self, owner: Owner, bytes: usize) {
        self.unreported.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.owners.end(owner, bytes);
    }

    /// All sessions are gone.
    pub(super) fn clear(&self) {
        self.sessions.store(0, Ordering::Relaxed);
        self.unreported.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
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
        self.bounds.take(bytes - self.bytes, self.bounds.sixteenths(OF_STARTS))?;
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
        self.bounds.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
