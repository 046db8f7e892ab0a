//! The sessions of now, in a sharded map.
//!
//! The map answers whether a session is live and owns the deadlines. Its size is bounded by number
//! and by bytes, because every player on the internet may add to it.

mod deadlines;

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytesize::ByteSize;
use hashbrown::HashMap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::deadlines::Deadlines;
use crate::session::id::SessionId;
use crate::session::{self, Session};

/// A lock guards a shard for well under a microsecond; this many make two threads rarely meet, and
/// keep each map small enough that its growth stalls nobody.
const SHARDS: usize = 256;

/// What one session costs beside its own bytes: its entries in map and deadlines, at the load that
/// they have on average.
const ENTRY_BYTES: usize =
    2 * size_of::<(SessionId, Box<Session>)>() + 2 * size_of::<(u64, SessionId)>();

/// The section `live` of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How many sessions may be live at once.
    pub sessions_max: usize,
    /// How much memory live sessions may hold.
    pub bytes_max: ByteSize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { sessions_max: 1_000_000, bytes_max: ByteSize::gib(2) }
    }
}

/// A bound is reached; sessions that end make room again.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// By number.
    #[error("{0} sessions are live, as many as live.sessions_max allows")]
    Sessions(usize),
    /// By memory.
    #[error("live sessions hold {0}, as much as live.bytes_max allows")]
    Bytes(ByteSize),
}

/// The live sessions.
#[derive(Debug)]
pub struct Live {
    settings: Settings,
    session_settings: session::Settings,
    shards: Box<[Mutex<Shard>]>,
    sessions: AtomicUsize,
    bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct Shard {
    sessions: HashMap<Hashed, Box<Session>, BuildHasherDefault<OwnHash>>,
    deadlines: Deadlines,
}

impl Live {
    /// An empty map.
    pub fn new(settings: Settings, session_settings: session::Settings) -> Self {
        Self {
            settings,
            session_settings,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            sessions: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        }
    }

    /// Adds a session that has just begun.
    ///
    /// # Errors
    /// [`Full`], and then nothing has changed.
    pub fn insert(&self, id: SessionId, session: Session) -> Result<(), Full> {
        let bytes = ENTRY_BYTES + session.bytes();
        // Counted before it is added, so that two at once cannot both take the last place.
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Err(full) = self.within_bounds() {
            self.forget(1, bytes);
            return Err(full);
        }
        let deadline_ms = session.deadline_ms(&self.session_settings);
        let mut shard = self.shard(id).lock();
        shard.deadlines.add(deadline_ms, id);
        shard.sessions.insert(Hashed(id), Box::new(session));
        Ok(())
    }

    /// Whether one more session would be taken now.
    ///
    /// # Errors
    /// [`Full`] if not.
    pub fn has_room(&self) -> Result<(), Full> {
        if self.sessions() >= self.settings.sessions_max {
            return Err(Full::Sessions(self.settings.sessions_max));
        }
        self.within_bounds()
    }

    /// Whether the session is live.
    pub fn contains(&self, id: SessionId) -> bool {
        self.shard(id).lock().sessions.contains_key(&Hashed(id))
    }

    /// The number of live sessions.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// The memory that live sessions hold, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ends the sessions whose deadline is `now_ms` (ms since the Unix epoch) or earlier, and says
    /// how many. Sessions that are not due cost nothing.
    pub fn end_due(&self, now_ms: u64) -> usize {
        let mut ended = 0;
        for shard in &self.shards {
            let mut due = Vec::new();
            {
                let mut shard = shard.lock();
                while let Some(id) = shard.deadlines.next_due(now_ms) {
                    due.extend(shard.sessions.remove(&Hashed(id)));
                }
            }
            let bytes = due.iter().map(|session| ENTRY_BYTES + session.bytes()).sum();
            self.forget(due.len(), bytes);
            ended += due.len();
        }
        ended
    }

    fn within_bounds(&self) -> Result<(), Full> {
        if self.sessions() > self.settings.sessions_max {
            return Err(Full::Sessions(self.settings.sessions_max));
        }
        if u64::try_from(self.bytes()).unwrap_or(u64::MAX) > self.settings.bytes_max.as_u64() {
            return Err(Full::Bytes(self.settings.bytes_max));
        }
        Ok(())
    }

    fn forget(&self, sessions: usize, bytes: usize) {
        self.sessions.fetch_sub(sessions, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn shard(&self, id: SessionId) -> &Mutex<Shard> {
        // The map inside takes the lowest and the highest bits of the same hash, so the shard takes
        // some from the middle.
        let row = (id.hash() >> 32) % SHARDS as u64;
        &self.shards[usize::try_from(row).expect("a row is less than SHARDS")]
    }
}

/// A session id as a key: its code is a uniform hash already.
#[derive(Debug, PartialEq, Eq)]
struct Hashed(SessionId);

impl std::hash::Hash for Hashed {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.0.hash());
    }
}

/// Takes the one number that [`Hashed`] gives it.
#[derive(Debug, Default)]
struct OwnHash(u64);

impl Hasher for OwnHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        unreachable!("a session id hashes as one u64, not as {} bytes", bytes.len());
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::session::id::Key;
    use crate::wire::{Content, PlayerTime, Rules, Start};

    fn id(number: u8) -> SessionId {
        SessionId::mint(&Key::new([1; 32]), 1, [number; 10])
    }

    fn session(received_ms: u64, facts: &str) -> Session {
        let body = br#"{"eventType":"sessionStart","playerTime":{"ts":0,"playhead":0},"params":
            {"media.id":"a","media.length":0,"media.contentType":"","media.playerName":""}}"#;
        let rules = Rules { profile: crate::wire::Profile::Open, strict: false };
        let start = Start::parse(body, rules).unwrap();
        let (player_time, content): (PlayerTime, Content) = (start.player_time, start.content);
        Session { received_ms, player_time, content, facts: facts.into() }
    }

    fn live(settings: Settings) -> Live {
        let timeout = Duration::from_millis(100);
        Live::new(settings, session::Settings { no_events_timeout: timeout, key: None })
    }

    #[test]
    fn a_session_is_live_until_its_deadline_and_not_at_it() {
        let live = live(Settings::default());
        live.insert(id(1), session(1_000, "")).unwrap();
        live.insert(id(2), session(1_050, "")).unwrap();
        assert_eq!(live.end_due(1_099), 0);
        assert!(live.contains(id(1)) && live.contains(id(2)) && !live.contains(id(3)));
        assert_eq!(live.end_due(1_100), 1);
        assert!(!live.contains(id(1)) && live.contains(id(2)));
        assert_eq!(live.end_due(9_999), 1);
        assert_eq!((live.sessions(), live.bytes()), (0, 0));
    }

    #[test]
    fn sessions_are_bounded_by_number_and_an_end_makes_room() {
        let live = live(Settings { sessions_max: 2, ..Settings::default() });
        live.insert(id(1), session(1_000, "")).unwrap();
        assert_eq!(live.has_room(), Ok(()));
        live.insert(id(2), session(2_000, "")).unwrap();
        assert_eq!(live.has_room(), Err(Full::Sessions(2)));
        assert_eq!(live.insert(id(3), session(1_000, "")), Err(Full::Sessions(2)));
        assert!(!live.contains(id(3)));
        live.end_due(1_100);
        live.insert(id(3), session(1_000, "")).unwrap();
    }

    #[test]
    fn sessions_are_bounded_by_bytes() {
        let bytes_max = ByteSize::kib(16);
        let live = live(Settings { bytes_max, ..Settings::default() });
        live.insert(id(1), session(1_000, &"x".repeat(12 << 10))).unwrap();
        let before = live.bytes();
        let refused = live.insert(id(2), session(1_000, &"x".repeat(12 << 10)));
        assert_eq!(refused, Err(Full::Bytes(bytes_max)));
        assert_eq!((live.sessions(), live.bytes()), (1, before));
    }
}
