//! Which session runs out next.

use std::collections::BTreeSet;

use crate::session::id::SessionId;

/// The deadlines of the sessions of one shard, in ms of up time, the earliest first.
#[derive(Debug, Default)]
pub(super) struct Deadlines(BTreeSet<(u64, SessionId)>);

impl Deadlines {
    /// Notes that a session runs out at this instant.
    pub(super) fn add(&mut self, deadline_up_ms: u64, id: SessionId) {
        self.0.insert((deadline_up_ms, id));
    }

    /// Forgets what was noted.
    pub(super) fn remove(&mut self, deadline_up_ms: u64, id: SessionId) {
        self.0.remove(&(deadline_up_ms, id));
    }

    /// Takes out one session whose deadline has come.
    pub(super) fn next_due(&mut self, now_up_ms: u64) -> Option<SessionId> {
        let (deadline_up_ms, _) = self.0.first()?;
        if *deadline_up_ms > now_up_ms {
            return None;
        }
        self.0.pop_first().map(|(_, id)| id)
    }
}
