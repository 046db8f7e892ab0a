//! Which session runs out next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::session::id::SessionId;

/// The deadlines of the sessions of one shard, the earliest first.
#[derive(Debug, Default)]
pub(super) struct Deadlines(BinaryHeap<Reverse<(u64, SessionId)>>);

impl Deadlines {
    /// Notes that a session runs out at `deadline_ms`.
    pub(super) fn add(&mut self, deadline_ms: u64, id: SessionId) {
        self.0.push(Reverse((deadline_ms, id)));
    }

    /// Takes out one session whose deadline is `now_ms` or earlier.
    pub(super) fn next_due(&mut self, now_ms: u64) -> Option<SessionId> {
        let Reverse((deadline_ms, _)) = self.0.peek()?;
        if *deadline_ms > now_ms {
            return None;
        }
        self.0.pop().map(|Reverse((_, id))| id)
    }
}
