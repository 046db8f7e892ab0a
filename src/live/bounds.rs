//! How many sessions there may be, how much memory they may hold, and what a client's share of both is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::owners::{Owner, Owners, Tally};
use super::{Full, Settings};

/// What a start may hold and still count as usual: all but long names and metadata. The share of its client binds
/// it a little later, so that a client's large sessions do not keep out its small ones.
const USUAL_BYTES: usize = 8 << 10;

/// Counts the sessions, and checks them against the settings.
#[derive(Debug)]
pub(super) struct Bounds {
    pub(super) settings: Settings,
    /// How much one client may open once its share binds.
    share: Tally,
    /// Those that are live or about to begin.
    sessions: AtomicUsize,
    /// Those that have ended and whose report is not in the journal yet.
    unreported: AtomicUsize,
    /// What both hold.
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

    /// Whether there is memory.
    pub(super) fn has_memory(&self) -> Result<(), Full> {
        if self.bytes() > self.settings.bytes_max.as_usize() {
            return Err(Full::Bytes(self.settings.bytes_max));
        }
        Ok(())
    }

    /// Whether there is memory for an event that says no more than most: an eighth beyond the bound, so that what
    /// fills it up are not the sessions that have begun.
    pub(super) fn has_memory_for_usual(&self) -> Result<(), Full> {
        let bytes_max = self.settings.bytes_max.as_usize();
        if self.bytes() > bytes_max.saturating_add(bytes_max / 8) {
            return Err(Full::Bytes(self.settings.bytes_max));
        }
        Ok(())
    }

    /// Whether there is memory for an event with long names or metadata of a session of this client.
    pub(super) fn has_memory_for_large(&self, owner: Owner) -> Result<(), Full> {
        self.has_memory()?;
        if self.uses(16, 16) && self.is_over_share(owner) { Err(Full::Share) } else { Ok(()) }
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

    /// Whether so many twentieths of the sessions, or of their bytes, are in use.
    fn uses(&self, of_sessions: usize, of_bytes: usize) -> bool {
        let Settings { sessions_max, bytes_max } = &self.settings;
        self.sessions() > sessions_max.saturating_mul(of_sessions) / 20
            || self.bytes() > bytes_max.as_usize() / 20 * of_bytes
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
        self.begin(bytes);
        let own = self.owners.begin(owner, bytes);
        let room = Room { bounds: Arc::clone(self), bytes, owner };
        self.has_room_for(0)?;
        let of_bytes = if bytes > USUAL_BYTES { 16 } else { 18 };
        if self.exceeds_share(own) && self.uses(16, of_bytes) {
            return Err(Full::Share);
        }
        Ok(room)
    }

    /// A session of so many bytes is live, or about to begin.
    pub(super) fn begin(&self, bytes: usize) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The same of one that may have room kept for it. Gives who opened it.
    pub(super) fn begin_in(&self, room: Option<Room>, bytes: usize) -> Owner {
        if let Some(room) = room {
            return room.used(bytes);
        }
        self.begin(bytes);
        Owner::default()
    }

    /// A session holds so many bytes in place of so many.
    pub(super) fn resize(&self, owner: Owner, bytes_before: usize, bytes: usize) {
        if bytes > bytes_before {
            self.bytes.fetch_add(bytes - bytes_before, Ordering::Relaxed);
        } else if bytes < bytes_before {
            self.bytes.fetch_sub(bytes_before - bytes, Ordering::Relaxed);
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
}

impl Room {
    /// The session is there and holds so many bytes from now on. Gives who opened it.
    fn used(mut self, bytes: usize) -> Owner {
        self.bounds.resize(self.owner, self.bytes, bytes);
        self.bytes = 0;
        self.owner
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.bounds.drop_live(self.owner, self.bytes);
        }
    }
}
