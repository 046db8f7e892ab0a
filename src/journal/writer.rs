//! The one thread that writes: group, write, sync, fold, wake.
//!
//! In one turn it takes the small records that wait, and behind them some large ones. The small ones are a group
//! of their own and are answered before the first byte of a large one is written. The large ones follow in the
//! same turn, as a second group, because their numbers come before those of the next small records. That costs one
//! more sync in a turn that has both.

use std::fmt;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::disk::{Disk, DiskFile};
use super::record::{Content, Detached, Encoded};
use super::{Durability, Journal, Phase, Settings, Shared, Unavailable, Waiting, segment};
use crate::clock::{Clock, Stopwatch};
use crate::processor::{Change, Outcome, Processor};
use crate::session::Terms;
use crate::telemetry::labels::Rejected;
use crate::telemetry::series;
use crate::telemetry::ticket::Fate;

/// How long the writer rests between two attempts to write again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How often an idle writer looks whether its segment has grown too old, and whether the disk is as it was:
/// readiness shall turn within a second, whether there are requests or not.
const IDLE_LOOK: Duration = Duration::from_millis(500);

/// A buffer that is larger than this, and was used for less than a quarter of it, is made smaller.
const SPARE_BYTES_MAX: usize = 8 << 20;

/// How large it is then.
const SPARE_BYTES: usize = 1 << 20;

/// Where a journal goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// The number of the next record.
    pub next_seq: u64,
    /// When the server was last up for certain, in ms since the Unix epoch: when the last record was
    /// received or the last checkpoint saved; none if there is neither.
    pub last_ms: Option<u64>,
}

/// Who is told what the writer does.
#[derive(Debug)]
pub struct Told {
    /// The first number of each segment that is begun: those before it are closed.
    pub closed: Sender<u64>,
    /// What is written.
    pub series: series::Journal,
}

/// Writes what is appended.
pub struct Writer {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    processor: Processor,
    pub(super) settings: Settings,
    /// After which times sessions shall end; written where the journal says otherwise.
    terms: Terms,
    told: Told,
    open: Option<Open>,
    lines: Vec<u8>,
    /// Large values that are not in the lines, and where in them they belong.
    values: Vec<(usize, Bytes)>,
    waiting: Vec<Waiting>,
    /// Begun with the first append of the group.
    group_since: Option<Stopwatch>,
    /// The large records that were taken behind the group; they are the next one.
    large: Vec<(Detached, Waiting)>,
    /// Begun with the first append of these.
    large_since: Option<Stopwatch>,
    /// Who waits for the segment that grows to be closed.
    rotations: Vec<oneshot::Sender<u64>>,
    committed_seq: u64,
    /// How long to rest between two attempts to write again, at first and at most.
    pub(super) retry: (Duration, Duration),
    /// How long to wait for records before the disk is looked at.
    pub(super) idle_look: Duration,
    /// Since when nothing can be written, in ms since the Unix epoch.
    down_since_ms: Option<u64>,
    /// Begun with the outage.
    outage: Option<Stopwatch>,
}

/// The segment that grows.
struct Open {
    file: Box<dyn DiskFile>,
    opened_ms: u64,
    bytes: u64,
}

impl Open {
    fn write(
        &mut self,
        lines: &[u8],
        values: &[(usize, Bytes)],
        durability: Durability,
        series: &series::Journal,
    ) -> io::Result<()> {
        let mut from = 0;
        for (place, value) in values {
            self.file.append(&lines[from..*place])?;
            self.file.append(value)?;
            from = *place;
        }
        self.file.append(&lines[from..])?;
        self.bytes += size_of_group(lines, values);
        if durability == Durability::Fsync {
            let stopwatch = Stopwatch::start();
            self.file.sync()?;
            series.sync_seconds.observe(stopwatch.seconds());
        }
        self.file.still_there()
    }
}

/// How many bytes are written of a group.
fn size_of_group(lines: &[u8], values: &[(usize, Bytes)]) -> u64 {
    (lines.len() + values.iter().map(|(_, value)| value.len()).sum::<usize>()) as u64
}

/// Gives back the memory that a burst has left in an empty buffer, if this time far less of it was used.
fn shrink<T>(buffer: &mut Vec<T>, used: usize) {
    let capacity = buffer.capacity();
    if capacity * size_of::<T>() > SPARE_BYTES_MAX && used < capacity / 4 {
        buffer.shrink_to(SPARE_BYTES / size_of::<T>());
    }
}

impl Drop for Writer {
    /// However the writer ends, nobody waits for it any more.
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.phase = Phase::Closed;
        queue.lines.clear();
        for waiting in mem::take(&mut queue.waiting) {
            waiting.refuse(Unavailable::Closed);
        }
        for large in queue.large.drain() {
            large.refuse(Unavailable::Closed);
        }
        queue.rotations.clear();
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Writer")
            .field("committed_seq", &self.committed_seq)
            .finish_non_exhaustive()
    }
}

impl Writer {
    /// Opens the first segment and notes how long the server was down. If the disk does not write, the
    /// journal begins in an outage, and tries on once it is run.
    pub fn start(
        settings: Settings,
        terms: Terms,
        disk: Arc<dyn Disk>,
        clock: Clock,
        processor: Processor,
        start: Start,
        told: Told,
    ) -> (Journal, Self) {
        let bytes_max = settings.uncommitted_bytes_max.as_usize();
        let last_ms = start.last_ms.unwrap_or_default();
        clock.not_before(last_ms);
        let journal = Journal::new(clock, bytes_max, terms, start.next_seq, last_ms);
        let mut writer = Self {
            shared: Arc::clone(&journal.0),
            disk,
            processor,
            settings,
            terms,
            told,
            open: None,
            lines: Vec::new(),
            values: Vec::new(),
            waiting: Vec::new(),
            group_since: None,
            large: Vec::new(),
            large_since: None,
            rotations: Vec::new(),
            committed_seq: start.next_seq - 1,
            retry: RETRY,
            idle_look: IDLE_LOOK,
            down_since_ms: None,
            outage: None,
        };
        let begun = writer.begin_anew(start.last_ms);
        if let Err(error) = begun {
            tracing::error!(%error, "the journal cannot be written: nothing is acknowledged");
            writer.open = None;
            let mut queue = writer.shared.queue();
            (queue.phase, queue.is_down) = (Phase::Down, true);
            drop(queue);
            let now_ms = writer.shared.clock.now_ms();
            writer.down_since_ms = Some(start.last_ms.unwrap_or(now_ms));
            writer.begin_outage();
        }
        (journal, writer)
    }

    /// Writes until the journal is closed and everything is committed or refused.
    pub fn run(mut self) {
        while self.turn() {}
        if let Err(error) = self.close_segment() {
            tracing::error!(%error, "the last segment of the journal could not be closed");
        }
        tracing::debug!(last_seq = self.committed_seq, "the journal is closed");
    }

    /// Commits what waits, or refuses it and waits until the disk writes again. False at the end.
    pub(super) fn turn(&mut self) -> bool {
        if let Some(since_ms) = self.down_since_ms {
            return self.recover(since_ms);
        }
        if !self.take() {
            return false;
        }
        if let Err(error) = self.commit() {
            let since_ms = self.refuse_all(&error);
            return self.recover(since_ms);
        }
        true
    }

    /// Waits for records and takes them; none are taken when there is time to look after the segment, or
    /// somebody wants it closed.
    /// False when the journal is closed and nothing is left.
    fn take(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.queue();
        if queue.waiting.is_empty() && queue.large.is_empty() && queue.rotations.is_empty() {
            if queue.phase == Phase::Closed {
                return false;
            }
            queue = shared.wait(queue, self.idle_look);
        }
        mem::swap(&mut queue.lines, &mut self.lines);
        mem::swap(&mut queue.waiting, &mut self.waiting);
        self.group_since = queue.since.take();
        self.rotations.append(&mut queue.rotations);
        queue.in_writing = self.lines.len();
        self.large = queue.take_large(&shared.clock);
        self.large_since = queue.large_since.take();
        if !queue.large.is_empty() {
            queue.large_since = Some(Stopwatch::start());
        }
        true
    }

    /// Commits the small records that were taken, then the large ones. If it fails, what is not committed yet is
    /// still here.
    fn commit(&mut self) -> io::Result<()> {
        // If that fails, they are told so by being dropped.
        let rotations = mem::take(&mut self.rotations);
        let has_records = self.open.as_ref().is_none_or(|open| open.bytes > 0);
        if self.is_too_large() || self.is_too_old() || (!rotations.is_empty() && has_records) {
            self.close_segment()?;
            self.open = Some(self.begin_segment()?);
            self.tell_closed();
        }
        for rotation in rotations {
            let _ = rotation.send(self.committed_seq + 1);
        }
        if self.waiting.is_empty() && self.large.is_empty() {
            self.look_at_disk()?;
        }
        let used = (self.lines.len(), self.waiting.len());
        if !self.waiting.is_empty() {
            self.commit_group()?;
        }
        if !self.large.is_empty() {
            self.group_large();
            self.commit_group()?;
        }
        // What large records put into the lines is less than what is kept in any case.
        shrink(&mut self.lines, used.0);
        shrink(&mut self.waiting, used.1);
        Ok(())
    }

    /// Makes the large records the group.
    fn group_large(&mut self) {
        self.group_since = self.large_since.take();
        for (record, waiting) in mem::take(&mut self.large) {
            let (seq, received_ms) = (waiting.seq, waiting.received_ms);
            self.values.extend(record.write_line(&mut self.lines, seq, received_ms));
            self.waiting.push(waiting);
        }
    }

    /// Writes the group, folds it, and wakes those who wait for it. If it cannot be written, it is still here.
    fn commit_group(&mut self) -> io::Result<()> {
        let (lines, values) = (mem::take(&mut self.lines), mem::take(&mut self.values));
        let written = self.write(&lines, &values);
        (self.lines, self.values) = (lines, values);
        written?;
        self.observe_group();
        self.lines.clear();
        self.values.clear();
        {
            let mut queue = self.shared.queue();
            queue.in_writing = 0;
            // Those that were taken behind this group are still to be written.
            if self.large.is_empty() {
                queue.large.release_taken();
            }
        }
        for Waiting { seq, received_ms, change, waiter, mut ticket } in self.waiting.drain(..) {
            self.committed_seq = seq;
            self.told.series.records.of(change.kind()).inc();
            let outcome = self.processor.fold(seq, received_ms, change);
            ticket.settle(match outcome {
                Outcome::Gone => Fate::Rejected(Rejected::Gone),
                _ => Fate::Committed,
            });
            // A client that has gone away does not want to know.
            let _ = waiter.send(Ok(outcome));
        }
        Ok(())
    }

    /// Fails if the disk has failed since the last record: a file system that was made read-only says so to a
    /// sync, even if there is nothing to sync. That it is full only the next record can tell.
    fn look_at_disk(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if self.settings.durability == Durability::Fsync {
            open.file.sync()?;
        }
        open.file.still_there()
    }

    /// Tells how the group was committed whose lines are still here.
    fn observe_group(&mut self) {
        let series = &self.told.series;
        series.bytes.inc_by(size_of_group(&self.lines, &self.values));
        let records = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        series.group_records.observe(f64::from(records));
        if let Some(since) = self.group_since.take() {
            series.commit_seconds.observe(since.seconds());
        }
    }

    fn begin_outage(&mut self) {
        self.told.series.outages.inc();
        self.outage = Some(Stopwatch::start());
    }

    /// Writes lines to the segment that grows, as durably as the settings want.
    fn write(&mut self, lines: &[u8], values: &[(usize, Bytes)]) -> io::Result<()> {
        let (mut open, begun) = match self.open.take() {
            Some(open) => (open, false),
            None => (self.begin_segment()?, true),
        };
        let written = open.write(lines, values, self.settings.durability, &self.told.series);
        self.open = Some(open);
        if begun && written.is_ok() {
            self.tell_closed();
        }
        written
    }

    /// Nothing of the group is acknowledged, nor of what came after it: all of it is refused, and its
    /// numbers are given anew. What a failed sync left in the page cache cannot be trusted, so the
    /// segment is never written again; the next one begins where it counts no more.
    ///
    /// Gives the time from which on something was not heard, in ms since the Unix epoch; a disk may hang
    /// for long before it fails.
    fn refuse_all(&mut self, error: &io::Error) -> u64 {
        tracing::error!(%error, "the journal cannot be written: nothing is acknowledged");
        self.begin_outage();
        self.open = None;
        // After a burst these may be large, and they are not needed until the disk writes again.
        self.lines = Vec::new();
        self.values.clear();
        let mut refused = mem::take(&mut self.waiting);
        refused.extend(mem::take(&mut self.large).into_iter().map(|(_, waiting)| waiting));
        let mut queue = self.shared.queue();
        queue.is_down = true;
        if queue.phase == Phase::Up {
            queue.phase = Phase::Down;
        }
        let (lines, waiting) = (mem::take(&mut queue.lines), mem::take(&mut queue.waiting));
        (queue.since, queue.large_since) = (None, None);
        queue.in_writing = 0;
        let large = queue.large.drain();
        drop(queue);
        drop(lines);
        refused.extend(waiting);
        // What was still in the queue of large records had no time yet, and no session waits for it.
        let first_ms = refused.first().map(|waiting| waiting.received_ms);
        for waiting in refused {
            waiting.refuse(Unavailable::Disk);
        }
        for large in large {
            large.refuse(Unavailable::Disk);
        }
        first_ms.unwrap_or_else(|| self.shared.clock.now_ms())
    }

    /// Tries again until the disk writes. False if the journal was closed meanwhile.
    fn recover(&mut self, since_ms: u64) -> bool {
        let shared = Arc::clone(&self.shared);
        let (mut pause, pause_max) = self.retry;
        loop {
            {
                let queue = shared.queue();
                if queue.phase == Phase::Closed {
                    return false;
                }
                if !pause.is_zero() {
                    drop(shared.wait(queue, pause));
                }
            }
            match self.begin_anew(Some(since_ms)) {
                Ok(()) => break,
                Err(error) => tracing::warn!(%error, "the journal still cannot be written"),
            }
            self.open = None;
            pause = (pause * 2).min(pause_max);
        }
        let mut queue = shared.queue();
        queue.is_down = false;
        if queue.phase == Phase::Down {
            queue.phase = Phase::Up;
        }
        self.down_since_ms = None;
        if let Some(outage) = self.outage.take() {
            self.told.series.outage_seconds.inc_by(outage.seconds());
        }
        tracing::info!("the journal is written again");
        true
    }

    /// Opens a segment that begins with what holds from here on: how long nothing could be written, if it
    /// ever could, and the terms of sessions, if they are not those that held before.
    fn begin_anew(&mut self, since_ms: Option<u64>) -> io::Result<()> {
        let now_ms = self.shared.queue().receive(&self.shared.clock);
        let pause = since_ms.map(|since_ms| {
            let down_ms = now_ms.saturating_sub(since_ms);
            (Content::Pause { down_ms }, Change::Pause { down_ms })
        });
        let terms = self.terms;
        let settings = (terms != self.processor.terms())
            .then_some((Content::Settings { terms }, Change::Settings { terms }));
        let mut lines = Vec::new();
        let mut changes = Vec::new();
        for (content, change) in pause.into_iter().chain(settings) {
            changes.push(change);
            let seq = self.committed_seq + changes.len() as u64;
            Encoded::short(content).write_line(&mut lines, seq, now_ms);
        }
        self.write(&lines, &[])?;
        self.told.series.bytes.inc_by(lines.len() as u64);
        for change in changes {
            self.committed_seq += 1;
            self.told.series.records.of(change.kind()).inc();
            self.processor.fold(self.committed_seq, now_ms, change);
        }
        self.shared.queue().next_seq = self.committed_seq + 1;
        Ok(())
    }

    /// Begins the segment of the next record; the one before it is closed by that.
    fn begin_segment(&mut self) -> io::Result<Open> {
        let first_seq = self.committed_seq + 1;
        let file = self.disk.create(&segment::open_name(first_seq))?;
        let opened_ms = self.shared.clock.now_ms();
        Ok(Open { file, opened_ms, bytes: 0 })
    }

    /// Tells that the segments before the one that grows are closed.
    fn tell_closed(&self) {
        // Nobody listens any more when the server ends.
        let _ = self.told.closed.send(self.committed_seq + 1);
    }

    /// Closes the segment that grows, if it has any record.
    fn close_segment(&mut self) -> io::Result<()> {
        match self.open.take_if(|open| open.bytes > 0) {
            // With `write` it has not been synced yet.
            Some(mut open) => open.file.sync(),
            None => Ok(()),
        }
    }

    fn is_too_large(&self) -> bool {
        let bytes_max = self.settings.segment_bytes_max.as_u64();
        self.open.as_ref().is_some_and(|open| open.bytes > 0 && open.bytes >= bytes_max)
    }

    fn is_too_old(&self) -> bool {
        let age_max_ms =
            u64::try_from(self.settings.segment_age_max.as_millis()).unwrap_or(u64::MAX);
        let now_ms = self.shared.clock.now_ms();
        self.open.as_ref().is_some_and(|open| {
            open.bytes > 0 && now_ms.saturating_sub(open.opened_ms) >= age_max_ms
        })
    }
}
