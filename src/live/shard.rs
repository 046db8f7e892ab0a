//! One part of the map: its sessions, and when each runs out.

use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

use hashbrown::HashMap;

use super::deadlines::Deadlines;
use super::owners::Owner;
use crate::session::id::SessionId;
use crate::session::{Session, Terms};

type ById<V> = HashMap<Hashed, V, BuildHasherDefault<OwnHash>>;

/// The sessions of one shard.
#[derive(Debug, Default)]
pub(super) struct Shard {
    /// The last record that changed this shard.
    pub(super) seq: u64,
    /// The live ones.
    pub(super) sessions: ById<Box<Held>>,
    /// When they run out.
    pub(super) deadlines: Deadlines,
    /// Sessions that have ended and whose report is not in the journal yet.
    pub(super) ended: ById<Ended>,
}

/// A session that waits for its report.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) session: Arc<Session>,
    /// Who opened it, and is charged for it until then.
    pub(super) owner: Owner,
}

/// A session and where it stands among the deadlines.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) session: Session,
    /// Under which instant its deadline is noted, never too late; none while it is taken out to be closed.
    pub(super) noted_up_ms: Option<u64>,
    /// Who opened it.
    pub(super) owner: Owner,
}

impl Shard {
    /// Whether the record is not folded here yet; if so, it is from now on.
    pub(super) fn is_new(&mut self, seq: u64) -> bool {
        let is_new = seq > self.seq;
        self.seq = self.seq.max(seq);
        is_new
    }

    /// Takes a live session, and notes its deadline.
    pub(super) fn insert(&mut self, id: SessionId, session: Session, owner: Owner, terms: &Terms) {
        let (deadline_up_ms, _) = session.deadline(terms);
        let mut held = Box::new(Held { session, noted_up_ms: None, owner });
        held.note(&mut self.deadlines, id, deadline_up_ms);
        self.sessions.insert(Hashed(id), held);
    }
}

impl Held {
    /// Notes the deadline, in place of the one that was noted.
    pub(super) fn note(&mut self, deadlines: &mut Deadlines, id: SessionId, deadline_up_ms: u64) {
        if let Some(noted_up_ms) = self.noted_up_ms.replace(deadline_up_ms) {
            deadlines.remove(noted_up_ms, id);
        }
        deadlines.add(deadline_up_ms, id);
    }
}

/// A session id as a key: its code is a uniform hash already.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hashed(pub(super) SessionId);

impl Hash for Hashed {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.0.hash());
    }
}

/// Takes the one number that [`Hashed`] gives it.
#[derive(Debug, Default)]
pub(super) struct OwnHash(u64);

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
