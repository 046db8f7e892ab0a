//! How many sessions there may be, and how much memory they may hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Full, Settings};

/// Counts the sessions, and holds them to the settings.
#[derive(Debug)]
pub(super) struct Bounds {
    pub(super) settings: Settings,
    /// Those that are live or about to begin.
    sessions: AtomicUsize,
    /// Those that have ended and whose report is not in the journal yet.
    unreported: AtomicUsize,
    /// What both hold.
    bytes: AtomicUsize,
}

impl Bounds {
    /// Of no session yet.
    pub(super) fn new(settings: Settings) -> Self {
        let (sessions, unreported, bytes) = Default::default();
        Self { settings, sessions, unreported, bytes }
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

    /// Keeps room for a session of so many bytes.
    pub(super) fn keep_room(self: &Arc<Self>, bytes: usize) -> Result<Room, Full> {
        // Counted before it is held to the bounds, so that two at once cannot both take the last place.
        self.begin(bytes);
        let room = Room { bounds: Arc::clone(self), bytes };
        self.has_room_for(0)?;
        Ok(room)
    }

    /// A session of so many bytes is live, or about to begin.
    pub(super) fn begin(&self, bytes: usize) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The same of one that may have room kept for it.
    pub(super) fn begin_in(&self, room: Option<Room>, bytes: usize) {
        match room {
            Some(room) => room.used(bytes),
            None => self.begin(bytes),
        }
    }

    /// A session holds so many bytes in place of so many.
    pub(super) fn resize(&self, bytes_before: usize, bytes: usize) {
        if bytes > bytes_before {
            self.bytes.fetch_add(bytes - bytes_before, Ordering::Relaxed);
        } else if bytes < bytes_before {
            self.bytes.fetch_sub(bytes_before - bytes, Ordering::Relaxed);
        }
    }

    /// A live session waits for its report from now on.
    pub(super) fn end(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
        self.unreported.fetch_add(1, Ordering::Relaxed);
    }

    /// A live session of so many bytes is gone.
    pub(super) fn drop_live(&self, bytes: usize) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A session of so many bytes that waited for its report is gone.
    pub(super) fn drop_ended(&self, bytes: usize) {
        self.unreported.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// All sessions are gone.
    pub(super) fn clear(&self) {
        self.sessions.store(0, Ordering::Relaxed);
        self.unreported.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }
}

/// Room kept for one session.
#[derive(Debug)]
pub struct Room {
    bounds: Arc<Bounds>,
    bytes: usize,
}

impl Room {
    /// The session is there and holds so many bytes from now on.
    fn used(mut self, bytes: usize) {
        self.bounds.resize(self.bytes, bytes);
        self.bytes = 0;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.bounds.drop_live(self.bytes);
        }
    }
}
