//! What survives: one record a line, in order, committed in groups before anything is answered.
//!
//! A handler appends its record to a shared buffer, under a short lock that gives it its number and its
//! time, and waits. The one [`writer`] thread takes the buffer, writes it, syncs it, folds its records in
//! order, and only then wakes each waiter with the outcome of its own record. While it writes, the next
//! group grows. No timer is in the way.
//!
//! The journal is also the product: newline-delimited JSON that any tool reads as it is.

pub mod archive;

pub mod checkpoint;

pub mod copy;

pub mod disk;

pub mod erase;

mod keeper;

pub mod record;

pub mod recovery;

pub mod segment;

mod writer;

#[cfg(test)]
mod sim;

#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use self::record::Encoded;
use crate::clock::{Clock, Stopwatch};
use crate::processor::{Change, Outcome};
use crate::session::id::SessionId;
use crate::size::Size;
use crate::telemetry::ticket::{Fate, Ticket};

// A schedule explorer takes the place of the system's lock and bell in its own tests.
#[cfg(all(test, shuttle))]
use shuttle::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(all(test, shuttle)))]
use std::sync::{Condvar, Mutex, MutexGuard};

pub use keeper::Keeper;
pub use writer::{Start, Told, Writer};

/// The section `journal` of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What a request survives once it is answered.
    pub durability: Durability,
    /// How much may wait to be written; beyond it requests are refused at once.
    pub uncommitted_bytes_max: Size,
    /// A segment that has grown this large is closed.
    pub segment_bytes_max: Size,
    /// A segment that is this old is closed.
    #[serde(with = "humantime_serde")]
    pub segment_age_max: Duration,
    /// Closed segments are removed once all of their records are this old; zero keeps them.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// Closed segments are removed, the oldest first, while all together are larger; zero keeps them.
    pub retention_bytes: Size,
    /// How often the live sessions are saved whole, so that a restart need not read everything.
    #[serde(with = "humantime_serde")]
    pub checkpoint_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            durability: Durability::Fsync,
            uncommitted_bytes_max: Size::mib(64),
            segment_bytes_max: Size::mib(256),
            segment_age_max: Duration::from_hours(1),
            retention: Duration::from_hours(30 * 24),
            retention_bytes: Size::bytes(0),
            checkpoint_interval: Duration::from_mins(5),
        }
    }
}

/// What a request survives once it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The machine: answered after fdatasync.
    Fsync,
    /// The process: answered after write.
    Write,
}

/// A record was not taken, or not committed. It may stand in the journal or not, but never twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The disk does not write.
    #[error("the journal cannot be written")]
    Disk,
    /// More waits to be written than is allowed.
    #[error("too much waits to be written")]
    Busy,
    /// The server ends.
    #[error("the journal is closed")]
    Closed,
}

/// What a waiter gets.
pub type Committed = Result<Outcome, Unavailable>;

/// The handle with which records are appended. Clones append to the same journal.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Rung when the queue has something for the writer.
    wake: Condvar,
    clock: Clock,
    uncommitted_bytes_max: usize,
}

/// What waits for the writer.
#[derive(Debug)]
struct Queue {
    phase: Phase,
    /// Whether nothing can be written, closed or not.
    is_down: bool,
    lines: Vec<u8>,
    waiting: Vec<Waiting>,
    /// Begun by the first of them.
    since: Option<Stopwatch>,
    next_seq: u64,
    last_ms: u64,
    /// Bytes that the writer has taken and not committed.
    in_writing: usize,
    /// Sessions that are erased: nothing goes on with them.
    erased: Ids,
    /// Who waits for the segment that grows to be closed.
    rotations: Vec<oneshot::Sender<u64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Up,
    Down,
    Closed,
}

/// A record that waits for its commit.
#[derive(Debug)]
struct Waiting {
    seq: u64,
    received_ms: u64,
    change: Change,
    waiter: oneshot::Sender<Committed>,
    /// The ticket of the request that brought it, if one did.
    ticket: Ticket,
}

impl Waiting {
    /// It is not committed, and never will be.
    fn refuse(mut self, unavailable: Unavailable) {
        self.ticket.settle(Fate::Shed(unavailable.into()));
        // A client that has gone away does not want to know.
        let _ = self.waiter.send(Err(unavailable));
    }
}

/// A set of sessions that holds 32 bytes each. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Ids(Arc<[SessionId]>);

impl Ids {
    /// The set of these.
    pub fn of(mut ids: Vec<SessionId>) -> Self {
        ids.sort_unstable();
        ids.dedup();
        Self(ids.into())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this is one of them.
    pub fn contains(&self, id: SessionId) -> bool {
        self.position(id).is_some()
    }

    /// Where in the set it stands.
    pub fn position(&self, id: SessionId) -> Option<usize> {
        self.0.binary_search(&id).ok()
    }

    /// All of them, in order.
    pub fn as_slice(&self) -> &[SessionId] {
        &self.0
    }

    fn and(&self, more: &Self) -> Self {
        Self::of([&*self.0, &*more.0].concat())
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Whoever panicked with the lock held it between two whole changes.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the bell, or as long as this. Where schedules are explored there is no time, so a bell
    /// that was not rung is found.
    fn wait<'q>(&self, queue: MutexGuard<'q, Queue>, at_most: Duration) -> MutexGuard<'q, Queue> {
        if cfg!(all(test, shuttle)) {
            return self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        self.wake.wait_timeout(queue, at_most).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Queue {
    /// The time of a record that is received now: it never falls.
    fn receive(&mut self, clock: &Clock) -> u64 {
        self.last_ms = self.last_ms.max(clock.now_ms());
        self.last_ms
    }
}

impl Journal {
    fn new(clock: Clock, uncommitted_bytes_max: usize, next_seq: u64, last_ms: u64) -> Self {
        let queue = Queue {
            phase: Phase::Up,
            is_down: false,
            lines: Vec::new(),
            waiting: Vec::new(),
            since: None,
            next_seq,
            last_ms,
            in_writing: 0,
            erased: Ids::default(),
            rotations: Vec::new(),
        };
        let wake = Condvar::new();
        Self(Arc::new(Shared { queue: Mutex::new(queue), wake, clock, uncommitted_bytes_max }))
    }

    /// Appends a record. What is returned resolves once it is committed and folded, or refused.
    ///
    /// # Errors
    /// [`Unavailable`] at once, if it cannot be taken now.
    pub fn append(
        &self,
        record: &Encoded<'_>,
        change: Change,
    ) -> Result<oneshot::Receiver<Committed>, Unavailable> {
        self.append_with(&mut Ticket::default(), record, change)
    }

    /// Appends the record of a request. Its ticket goes with it, unless it cannot be taken; so it is settled
    /// by what becomes of the record, whoever still waits.
    ///
    /// # Errors
    /// See [`Journal::append`].
    pub fn append_with(
        &self,
        ticket: &mut Ticket,
        record: &Encoded<'_>,
        change: Change,
    ) -> Result<oneshot::Receiver<Committed>, Unavailable> {
        let (waiter, committed) = oneshot::channel();
        let mut queue = self.0.queue();
        match queue.phase {
            Phase::Up => {}
            Phase::Down => return Err(Unavailable::Disk),
            Phase::Closed => return Err(Unavailable::Closed),
        }
        if queue.in_writing + queue.lines.len() >= self.0.uncommitted_bytes_max {
            return Err(Unavailable::Busy);
        }
        if !queue.erased.is_empty() && change.goes_on().is_some_and(|id| queue.erased.contains(id))
        {
            let _ = waiter.send(Ok(Outcome::Gone));
            return Ok(committed);
        }
        let (seq, received_ms) = (queue.next_seq, queue.receive(&self.0.clock));
        queue.next_seq += 1;
        record.write_line(&mut queue.lines, seq, received_ms);
        let first = queue.waiting.is_empty();
        if first {
            queue.since = Some(Stopwatch::start());
        }
        let ticket = ticket.take();
        queue.waiting.push(Waiting { seq, received_ms, change, waiter, ticket });
        drop(queue);
        if first {
            self.0.wake.notify_one();
        }
        Ok(committed)
    }

    /// Lets nothing go on with these sessions from now on; as long as the server runs, because nobody knows
    /// how long a request may lie between its look at the live sessions and its record. To be called by one
    /// thread alone.
    pub(crate) fn fence(&self, ids: &Ids) {
        let before = self.0.queue().erased.clone();
        // Brought together outside of the lock, because they may be many.
        let together = before.and(ids);
        self.0.queue().erased = together;
    }

    /// Whether nothing goes on with this session because it is erased, or will be once the disk lets it.
    pub fn is_fenced(&self, id: SessionId) -> bool {
        self.0.queue().erased.contains(id)
    }

    /// Closes the segment that grows. What is returned tells the first number of the next one: every record
    /// before it that was acknowledged until now stands in a closed segment, and is folded.
    pub(crate) fn rotate(&self) -> oneshot::Receiver<u64> {
        let (sender, begun) = oneshot::channel();
        let mut queue = self.0.queue();
        if queue.phase != Phase::Closed {
            queue.rotations.push(sender);
        }
        drop(queue);
        self.0.wake.notify_one();
        begun
    }

    /// Whether the server ends.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.queue().phase == Phase::Closed
    }

    /// Whether records can be taken.
    ///
    /// # Errors
    /// Why not.
    pub fn is_up(&self) -> Result<(), Unavailable> {
        let queue = self.0.queue();
        match queue.phase {
            Phase::Up if queue.in_writing + queue.lines.len() < self.0.uncommitted_bytes_max => {
                Ok(())
            }
            Phase::Up => Err(Unavailable::Busy),
            Phase::Down => Err(Unavailable::Disk),
            Phase::Closed => Err(Unavailable::Closed),
        }
    }

    /// How many bytes wait to be written or are being written, and how many may.
    pub fn uncommitted_bytes(&self) -> (usize, usize) {
        let queue = self.0.queue();
        (queue.in_writing + queue.lines.len(), self.0.uncommitted_bytes_max)
    }

    /// The time that a record would get now, in ms since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        self.0.queue().receive(&self.0.clock)
    }

    /// Until when the server was up for certain, in ms since the Unix epoch: now, unless something was
    /// received that is not committed, or nothing can be written.
    pub fn up_until_ms(&self) -> Option<u64> {
        let mut queue = self.0.queue();
        let is_idle = queue.waiting.is_empty() && queue.in_writing == 0 && !queue.is_down;
        is_idle.then(|| queue.receive(&self.0.clock))
    }

    /// Takes nothing more; the writer commits what waits, and ends.
    pub fn close(&self) {
        self.0.queue().phase = Phase::Closed;
        self.0.wake.notify_one();
    }
}
