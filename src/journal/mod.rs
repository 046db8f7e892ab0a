//! What survives: one record a line, in order, committed in groups before anything is answered.
//!
//! A handler appends its record to a shared buffer, under a short lock that gives it its number and its
//! time, and waits. The one [`writer`] thread takes the buffer, writes it, syncs it, folds its records in
//! order, and only then wakes each waiter with the outcome of its own record. While it writes, the next
//! group grows. No timer is in the way. Stored sessions and large reports have a [queue](large) of their own,
//! get number and time when the writer takes them, and are a group of their own behind the small records.
//!
//! The journal is also the product: newline-delimited JSON that any tool reads as it is.

pub mod archive;

pub mod checkpoint;

pub mod copy;

pub mod disk;

pub mod erase;

mod keeper;

mod large;

pub mod record;

pub mod recovery;

pub mod segment;

mod up;

mod writer;

#[cfg(test)]
mod sim;

#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use self::large::{Large, LargeQueue};
use self::record::{Content, Detached, Encoded};
use crate::clock::{Clock, Stopwatch};
use crate::processor::{Change, Outcome};
use crate::session::Terms;
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

/// Which part of the room is for stored sessions alone: one in so many.
const STORED_SHARE: usize = 4;

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
    /// More stored sessions wait to be read or written than is allowed.
    #[error("too many stored sessions wait")]
    Stored,
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
    /// How much of that small records may hold.
    small_bytes_max: usize,
    /// See [`Journal::terms`].
    terms: Terms,
}

/// What waits for the writer.
#[derive(Debug)]
struct Queue {
    phase: Phase,
    /// Whether nothing can be written, closed or not.
    is_down: bool,
    /// Grows by doubling, which copies it under the lock. All copies together are less than twice what is in it,
    /// and one of many MiB takes a few ms, when a disk that is far behind makes each of these records wait for
    /// much longer. Steps of one size would copy more in all; the writer makes it small again.
    lines: Vec<u8>,
    waiting: Vec<Waiting>,
    /// Begun by the first of these.
    since: Option<Stopwatch>,
    large: LargeQueue,
    /// Begun by the first of these that has come since the writer last took some, or by its taking.
    large_since: Option<Stopwatch>,
    next_seq: u64,
    last_ms: u64,
    /// While stamps have stepped, or the process stood still, and the record that says so is not folded: the time before
    /// that. Up time is known of it alone.
    before_gap_ms: Option<u64>,
    /// Bytes of small records that the writer has taken and not committed.
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

impl Shared {
    /// The queue, with the time of now in `last_ms`. When a process goes on that stood still, all of its threads do at
    /// once; so whoever comes first notes it, before anything is decided by that time.
    fn queue_now(&self) -> MutexGuard<'_, Queue> {
        let mut queue = self.queue();
        if queue.look_at_clock(&self.clock) {
            self.wake.notify_one();
        }
        queue
    }
}

/// What tells that between two stamps no time passed for sessions, because nothing could be received or the clock was
/// set; the second may be the earlier one.
fn pause(from_ms: u64, to_ms: u64) -> (Content<'static>, Change) {
    let (down_ms, set_back_ms) = (to_ms.saturating_sub(from_ms), from_ms.saturating_sub(to_ms));
    (Content::Pause { down_ms, set_back_ms }, Change::Pause { down_ms, set_back_ms })
}

impl Queue {
    /// Moves `last_ms` to the time of now. If the process stood still until then, appends a pause, because nothing could
    /// be received: that counts against no session. Says whether it did.
    fn look_at_clock(&mut self, clock: &Clock) -> bool {
        let from_ms = self.last_ms;
        let (now_ms, stood_still) = clock.tick();
        self.last_ms = from_ms.max(now_ms);
        // An outage counts against no session anyway, all of it.
        if !stood_still || self.phase != Phase::Up {
            return false;
        }
        let (seq, received_ms) = (self.next_seq, self.last_ms);
        self.next_seq += 1;
        self.before_gap_ms.get_or_insert(from_ms);
        let (pause, change) = pause(from_ms, received_ms);
        Encoded::short(pause).write_line(&mut self.lines, seq, received_ms);
        let ticket = Ticket::default();
        // Nobody waits for it.
        let (waiter, _) = oneshot::channel();
        self.waiting.push(Waiting { seq, received_ms, change, waiter, ticket });
        tracing::warn!(
            stood_still_ms = received_ms - from_ms,
            "the process stood still: it was stopped, or its machine was paused or asleep; that counts against no session"
        );
        true
    }

    /// Whether anything is taken at all.
    fn takes(&self) -> Result<(), Unavailable> {
        match self.phase {
            Phase::Up => Ok(()),
            Phase::Down => Err(Unavailable::Disk),
            Phase::Closed => Err(Unavailable::Closed),
        }
    }

    /// How many bytes of small records wait or are being written.
    fn small_bytes(&self) -> usize {
        self.in_writing + self.lines.len()
    }

    /// Whether this goes on with a session that is erased.
    fn is_fenced(&self, change: &Change) -> bool {
        !self.erased.is_empty() && change.goes_on().is_some_and(|id| self.erased.contains(id))
    }

    /// Takes the large records that are written behind this group, each with its place.
    fn take_large(&mut self, clock: &Clock) -> Vec<(Detached, Waiting)> {
        let mut placed = Vec::new();
        for Large { record, change, waiter, ticket } in self.large.take() {
            // Its session may have been erased since it came.
            if self.is_fenced(&change) {
                let _ = waiter.send(Ok(Outcome::Gone));
                continue;
            }
            let (seq, received_ms) = (self.next_seq, self.receive(clock));
            self.next_seq += 1;
            placed.push((record, Waiting { seq, received_ms, change, waiter, ticket }));
        }
        if placed.is_empty() {
            self.large.release_taken();
        }
        placed
    }

    /// The time of a record that is received now: it never falls, but where the clock steps back.
    fn receive(&mut self, clock: &Clock) -> u64 {
        self.last_ms = self.last_ms.max(clock.now_ms());
        self.last_ms
    }
}

impl Journal {
    fn new(
        clock: Clock,
        uncommitted_bytes_max: usize,
        terms: Terms,
        next_seq: u64,
        last_ms: u64,
    ) -> Self {
        let stored_bytes_max = uncommitted_bytes_max / STORED_SHARE;
        let queue = Queue {
            phase: Phase::Up,
            is_down: false,
            lines: Vec::new(),
            waiting: Vec::new(),
            since: None,
            large: LargeQueue::new(stored_bytes_max),
            large_since: None,
            next_seq,
            last_ms,
            before_gap_ms: None,
            in_writing: 0,
            erased: Ids::default(),
            rotations: Vec::new(),
        };
        Self(Arc::new(Shared {
            queue: Mutex::new(queue),
            wake: Condvar::new(),
            clock,
            uncommitted_bytes_max,
            small_bytes_max: uncommitted_bytes_max - stored_bytes_max,
            terms,
        }))
    }

    /// The terms of sessions that are in force for every record that is taken: the writer commits them before
    /// anything else, and they do not change while the server runs. Until then those of the fold may be others.
    pub fn terms(&self) -> Terms {
        self.0.terms
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
        let mut queue = self.0.queue_now();
        queue.takes()?;
        if queue.small_bytes() >= self.0.small_bytes_max {
            return Err(Unavailable::Busy);
        }
        if queue.is_fenced(&change) {
            let _ = waiter.send(Ok(Outcome::Gone));
            return Ok(committed);
        }
        let (seq, received_ms) = (queue.next_seq, queue.last_ms);
        queue.next_seq += 1;
        // Under the lock, whatever its size: to copy the largest body of an event, 128 KiB, takes some 10 µs to
        // 20 µs, which is not worth a second way to write it.
        record.write_line(&mut queue.lines, seq, received_ms);
        let first = queue.waiting.is_empty();
        if first {
            queue.since.get_or_insert_with(Stopwatch::start);
        }
        let ticket = ticket.take();
        queue.waiting.push(Waiting { seq, received_ms, change, waiter, ticket });
        drop(queue);
        if first {
            self.0.wake.notify_one();
        }
        Ok(committed)
    }

    /// Appends a stored session, or a report that is large, to the queue of large records. Whatever its size, the
    /// lock is held only for as long as it takes to queue it.
    ///
    /// # Errors
    /// See [`Journal::append`].
    pub fn append_large(
        &self,
        ticket: &mut Ticket,
        record: Detached,
        change: Change,
    ) -> Result<oneshot::Receiver<Committed>, Unavailable> {
        let (waiter, committed) = oneshot::channel();
        let mut queue = self.0.queue();
        queue.takes()?;
        queue.large.has_room_for(&change, record.held_bytes())?;
        queue.large_since.get_or_insert_with(Stopwatch::start);
        queue.large.push(Large { record, change, waiter, ticket: ticket.take() });
        drop(queue);
        self.0.wake.notify_one();
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
    /// before it that was acknowledged until now stands in a closed segment, and is folded. If the disk does not write,
    /// now or before that is done, it tells at once that nobody will: an outage may last, and whoever waits may be the
    /// one who would end it.
    pub(crate) fn rotate(&self) -> oneshot::Receiver<u64> {
        let (sender, begun) = oneshot::channel();
        let mut queue = self.0.queue();
        if queue.phase == Phase::Up {
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

    /// Whether single events and starts can be taken.
    ///
    /// # Errors
    /// Why not.
    pub fn is_up(&self) -> Result<(), Unavailable> {
        let queue = self.0.queue();
        queue.takes()?;
        if queue.small_bytes() < self.0.small_bytes_max { Ok(()) } else { Err(Unavailable::Busy) }
    }

    /// Whether a stored session of so many bytes would be taken now. It keeps no room, so the append may be refused
    /// all the same; but what is refused here need not be read first.
    ///
    /// # Errors
    /// Why not.
    pub fn has_room_for_stored(&self, bytes: usize) -> Result<(), Unavailable> {
        let queue = self.0.queue();
        queue.takes()?;
        queue.large.has_room_for_stored(bytes)
    }

    /// How many bytes wait to be written or are being written, and how many may.
    pub fn uncommitted_bytes(&self) -> (usize, usize) {
        let queue = self.0.queue();
        (queue.small_bytes() + queue.large.bytes(), self.0.uncommitted_bytes_max)
    }

    /// The time that a record would get now, in ms since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        let queue = self.0.queue_now();
        queue.before_gap_ms.unwrap_or(queue.last_ms)
    }

    /// The clock by which records are stamped.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Until when the server was up for certain, in ms since the Unix epoch: now, unless something was
    /// received that is not committed, or nothing can be written.
    pub fn up_until_ms(&self) -> Option<u64> {
        let queue = self.0.queue_now();
        let is_empty = queue.waiting.is_empty() && queue.large.bytes() == 0;
        let is_settled = !queue.is_down && queue.before_gap_ms.is_none();
        let is_idle = is_empty && queue.in_writing == 0 && is_settled;
        is_idle.then_some(queue.last_ms)
    }

    /// Takes nothing more; the writer commits what waits, and ends.
    pub fn close(&self) {
        self.0.queue().phase = Phase::Closed;
        self.0.wake.notify_one();
    }
}
