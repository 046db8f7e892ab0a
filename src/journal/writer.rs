//! The one thread that writes: group, write, sync, fold, wake.
//!
//! In one turn it takes the small records that wait, and behind them some large ones. The small ones are a group
//! of their own and are answered before the first byte of a large one is written. The large ones follow in the
//! same turn, as a second group, because their numbers come before those of the next small records. That costs one
//! more sync in a turn that has both. If the segment is full then, the next one is begun behind them.

use std::fmt;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::disk::{Disk, DiskFile};
use super::record::{Content, Detached, Encoded};
use super::up::UpMark;
use super::{
    Durability, Journal, Phase, Queue, Settings, Shared, Unavailable, Waiting, pause, segment,
};
use crate::clock::{Clock, LATEST_MS, STEP_MS, Stopwatch};
use crate::processor::{Change, Outcome, Processor};
use crate::session::Terms;
use crate::telemetry::labels::Rejected;
use crate::telemetry::series;
use crate::telemetry::ticket::Fate;

/// How long the writer rests between two attempts to write again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// If the write that begins a segment anew takes longer, nothing could be received meanwhile, and that is told.
const HANG_MS: u64 = 1_000;

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
    /// received, the last checkpoint saved or the last mark made; none if there is none of them.
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
    /// After which times sessions shall end; each segment begins with them.
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
    /// The segment that begins behind what was taken; none if the one that grows goes on.
    begins: Option<Beginning>,
    /// The instant, in ms since the Unix epoch, at which nothing waited; none if something did.
    idle_ms: Option<u64>,
    up_mark: UpMark,
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

/// A segment whose first records have their numbers already.
#[derive(Clone, Copy, Debug)]
struct Beginning {
    /// The stamp of these records, in ms since the Unix epoch.
    received_ms: u64,
    /// Where stamps were before, in ms since the Unix epoch, if it begins with a step of the clock. They fall nowhere
    /// else inside a segment.
    step_from_ms: Option<u64>,
}

/// The segment that grows.
struct Open {
    first_seq: u64,
    file: Box<dyn DiskFile>,
    /// In ms that have passed.
    opened_ms: u64,
    bytes: u64,
    /// How many of these bytes are the records that each segment begins with.
    beginning_bytes: u64,
}

impl Open {
    /// Whether it has any record but those that it begins with.
    fn has_records(&self) -> bool {
        self.bytes > self.beginning_bytes
    }

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

/// Says so if the clock of the machine is hours away from the last record. Nobody can tell whether that is right.
fn tell_if_far(last_ms: u64, wall_ms: u64) {
    let (last_record, time_of_day) = (time(last_ms), time(wall_ms));
    if wall_ms > last_ms.saturating_add(STEP_MS) {
        tracing::warn!(
            %last_record,
            %time_of_day,
            "the time of day is hours after the last record: if the server was not off for so long, set the clock of \
             this machine; it is believed, but nothing is removed because of it before the server was up for an hour"
        );
    } else if wall_ms.saturating_add(STEP_MS) < last_ms {
        tracing::warn!(
            %last_record,
            %time_of_day,
            "the time of day is hours before the last record: the clock of this machine is wrong, or the one that \
             wrote the record was; records are stamped from the last one on until the time of day has held"
        );
    }
}

fn tell_of_step(from_ms: u64, to_ms: u64) {
    tracing::warn!(
        from = %time(from_ms),
        to = %time(to_ms),
        "the time of day is hours away from that of the records and has held: records are stamped with it from now on; \
         sessions are no older for it"
    );
}

fn time(ms: u64) -> impl fmt::Display {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms.min(LATEST_MS)))
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

impl Queue {
    /// Takes the number and the time of the record that a segment begins with.
    fn begin_segment(&mut self, clock: &Clock) -> Beginning {
        self.next_seq += 1;
        Beginning { received_ms: self.receive(clock), step_from_ms: None }
    }

    /// Stamps what comes from now on by where the clock has stepped to, in a segment that begins with what tells of
    /// it: two records.
    fn follow_step(&mut self, from_ms: u64, clock: &Clock) -> Beginning {
        self.next_seq += 2;
        let (from_ms, to_ms) = (self.last_ms.max(from_ms), clock.now_ms());
        (self.last_ms, self.before_gap_ms) = (to_ms, Some(from_ms));
        Beginning { received_ms: to_ms, step_from_ms: Some(from_ms) }
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
        if let Some(last_ms) = start.last_ms {
            tell_if_far(last_ms, clock.wall_ms());
        }
        clock.not_before(last_ms);
        // However long the journal was read back, that is a pause anyway.
        clock.tick();
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
            begins: None,
            idle_ms: None,
            up_mark: UpMark::default(),
            committed_seq: start.next_seq - 1,
            retry: RETRY,
            idle_look: IDLE_LOOK,
            down_since_ms: None,
            outage: None,
        };
        let mut since_ms = start.last_ms;
        let begun = writer.begin_anew(&mut since_ms);
        if let Err(error) = begun {
            tracing::error!(%error, "the journal cannot be written: nothing is acknowledged");
            let mut queue = writer.shared.queue();
            (queue.phase, queue.is_down) = (Phase::Down, true);
            drop(queue);
            let now_ms = writer.shared.clock.now_ms();
            writer.down_since_ms = Some(since_ms.unwrap_or(now_ms));
            writer.begin_outage();
        }
        writer.tell_doubt(writer.down_since_ms);
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
        queue.look_at_clock(&shared.clock);
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
        let step = (queue.phase == Phase::Up).then(|| shared.clock.step()).flatten();
        // Records that come from now on have later numbers, so a segment can begin behind what was taken.
        self.begins = match step {
            Some(from_ms) => Some(queue.follow_step(from_ms, &shared.clock)),
            None => self.is_complete().then(|| queue.begin_segment(&shared.clock)),
        };
        let is_idle = self.waiting.is_empty() && self.large.is_empty() && step.is_none();
        self.idle_ms = is_idle.then_some(queue.last_ms);
        true
    }

    /// Whether the segment that grows ends with what was taken.
    fn is_complete(&self) -> bool {
        let Some(open) = &self.open else { return false };
        if !open.has_records() && self.waiting.is_empty() && self.large.is_empty() {
            return false;
        }
        let large = self.large.iter().map(|(record, _)| record.held_bytes()).sum::<usize>();
        let bytes = open.bytes + (self.lines.len() + large) as u64;
        let age_max_ms =
            u64::try_from(self.settings.segment_age_max.as_millis()).unwrap_or(u64::MAX);
        let age_ms = self.shared.clock.elapsed_ms().saturating_sub(open.opened_ms);
        bytes >= self.settings.segment_bytes_max.as_u64()
            || age_ms >= age_max_ms
            || !self.rotations.is_empty()
    }

    /// Commits the small records that were taken, then the large ones. If it fails, what is not committed yet is
    /// still here.
    fn commit(&mut self) -> io::Result<()> {
        // If that fails, they are told so by being dropped.
        let rotations = mem::take(&mut self.rotations);
        if self.waiting.is_empty() && self.large.is_empty() {
            self.look_at_disk()?;
            self.note_up();
        }
        let used = (self.lines.len(), self.waiting.len());
        if !self.waiting.is_empty() {
            self.commit_group()?;
        }
        if !self.large.is_empty() {
            self.group_large();
            self.commit_group()?;
        }
        if let Some(Beginning { received_ms, step_from_ms }) = self.begins {
            if let Some(from_ms) = step_from_ms {
                tell_of_step(from_ms, received_ms);
            }
            self.close_segment()?;
            self.begin_segment(received_ms, step_from_ms)?;
            self.begins = None;
            self.shared.queue().before_gap_ms = None;
        }
        if let Some(open) = &self.open {
            for rotation in rotations {
                let _ = rotation.send(open.first_seq);
            }
        }
        self.tell_doubt(None);
        // What large records put into the lines is less than what is kept in any case.
        shrink(&mut self.lines, used.0);
        shrink(&mut self.waiting, used.1);
        Ok(())
    }

    /// Tells the clock how much of the time of now is in doubt. In an outage since `down_since_ms` that may be a leap
    /// whose record cannot be written.
    fn tell_doubt(&self, down_since_ms: Option<u64>) {
        let (clock, progress) = (&self.shared.clock, self.processor.progress());
        // Nearly always, and then no group asks for the time because of it.
        if progress.leap.is_none() && down_since_ms.is_none() {
            return clock.doubt(0);
        }
        let now_ms = clock.now_ms();
        let down_ms = down_since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
        let leap_ms = if down_ms > STEP_MS { down_ms } else { 0 };
        clock.doubt(progress.doubted_ms(now_ms).saturating_add(leap_ms));
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
        let mut stood_still = false;
        for Waiting { seq, received_ms, change, waiter, mut ticket } in self.waiting.drain(..) {
            self.committed_seq = seq;
            stood_still |= matches!(change, Change::Pause { .. });
            self.told.series.records.of(change.kind()).inc();
            let outcome = self.processor.fold(seq, received_ms, change);
            ticket.settle(match outcome {
                Outcome::Gone => Fate::Rejected(Rejected::Gone),
                _ => Fate::Committed,
            });
            // A client that has gone away does not want to know.
            let _ = waiter.send(Ok(outcome));
        }
        let steps = self.begins.is_some_and(|begins| begins.step_from_ms.is_some());
        if stood_still && !steps {
            self.shared.queue().before_gap_ms = None;
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

    /// Notes that the server was up, if nothing was written for a while and there are sessions that grow older.
    fn note_up(&mut self) {
        let Some(now_ms) = self.idle_ms.filter(|_| self.processor.has_sessions()) else { return };
        let progress = self.processor.progress();
        let [now_ms, written_ms] = [now_ms, progress.received_ms].map(|ms| progress.running_ms(ms));
        self.up_mark.note(&*self.disk, now_ms, written_ms);
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
        let Some(open) = &mut self.open else {
            return Err(io::Error::other("no segment is open"));
        };
        open.write(lines, values, self.settings.durability, &self.told.series)
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
        // What came after a step that is not told was stamped by another clock.
        let step_ms = self.begins.take().and_then(|begins| begins.step_from_ms);
        let first_ms = refused.first().map(|waiting| waiting.received_ms).or(step_ms);
        let mut queue = self.shared.queue();
        // If the process stood still and that is not told, the time before it is what counts.
        let still_ms = queue.before_gap_ms.filter(|_| step_ms.is_none());
        queue.is_down = true;
        if queue.phase == Phase::Up {
            queue.phase = Phase::Down;
        }
        let (lines, waiting) = (mem::take(&mut queue.lines), mem::take(&mut queue.waiting));
        (queue.since, queue.large_since) = (None, None);
        queue.in_writing = 0;
        // Nobody waits for a segment as long as none can be begun.
        queue.rotations.clear();
        let large = queue.large.drain();
        drop(queue);
        drop(lines);
        refused.extend(waiting);
        // What was still in the queue of large records had no time yet, and no session waits for it.
        let first_ms = first_ms.or(refused.first().map(|waiting| waiting.received_ms));
        for waiting in refused {
            waiting.refuse(Unavailable::Disk);
        }
        for large in large {
            large.refuse(Unavailable::Disk);
        }
        let since_ms = [first_ms, still_ms].into_iter().flatten().min();
        since_ms.unwrap_or_else(|| self.shared.clock.now_ms())
    }

    /// Tries again until the disk writes. False if the journal was closed meanwhile.
    fn recover(&mut self, since_ms: u64) -> bool {
        let mut since_ms = Some(since_ms);
        let shared = Arc::clone(&self.shared);
        let (mut pause, pause_max) = self.retry;
        loop {
            self.tell_doubt(since_ms);
            {
                let queue = shared.queue();
                if queue.phase == Phase::Closed {
                    return false;
                }
                if !pause.is_zero() {
                    drop(shared.wait(queue, pause));
                }
            }
            match self.begin_anew(&mut since_ms) {
                Ok(()) => break,
                Err(error) => tracing::warn!(%error, "the journal still cannot be written"),
            }
            pause = (pause * 2).min(pause_max);
        }
        let mut queue = shared.queue();
        queue.is_down = false;
        if queue.phase == Phase::Down {
            queue.phase = Phase::Up;
        }
        self.down_since_ms = None;
        self.tell_doubt(None);
        if let Some(outage) = self.outage.take() {
            self.told.series.outage_seconds.inc_by(outage.seconds());
        }
        tracing::info!("the journal is written again");
        true
    }

    /// Begins a segment behind a time in which nothing could be written, if it ever could, and tells how long that
    /// was. If that fails, `since_ms` is from when on it is still to be told.
    fn begin_anew(&mut self, since_ms: &mut Option<u64>) -> io::Result<()> {
        let now_ms = self.shared.queue().receive(&self.shared.clock);
        self.begin_segment(now_ms, *since_ms)?;
        // A disk that is back may have hung in this very write, and nothing could be received meanwhile.
        let mut from_ms = now_ms;
        loop {
            let now_ms = self.shared.queue().receive(&self.shared.clock);
            *since_ms = Some(from_ms);
            if now_ms.saturating_sub(from_ms) <= HANG_MS {
                break;
            }
            self.add_pause(from_ms, now_ms)?;
            from_ms = now_ms;
        }
        let mut queue = self.shared.queue();
        (queue.next_seq, queue.before_gap_ms) = (self.committed_seq + 1, None);
        Ok(())
    }

    /// Begins the segment of the next record; the one before it is closed by that. Its first record says what a reader
    /// must know who has no segment before it: the terms of sessions, and all pauses so far. If nothing was received
    /// since `from_ms`, that pause follows; the settings have the time before it, so that a file that is cut between
    /// the two is no pause too few.
    ///
    /// Both are committed before anything else is written to it, so that no record ever stands there without them.
    fn begin_segment(&mut self, received_ms: u64, from_ms: Option<u64>) -> io::Result<()> {
        let first_seq = self.committed_seq + 1;
        let progress = self.processor.progress();
        let (terms, set_back_ms) = (self.terms, progress.set_back_ms);
        let paused_ms = Some(progress.paused_ms);
        let settings = Content::Settings { terms, paused_ms, set_back_ms };
        let change = Change::Settings { terms, paused_ms, set_back_ms };
        let mut records = vec![(from_ms.unwrap_or(received_ms), settings, change)];
        if let Some(from_ms) = from_ms {
            let (pause, change) = pause(from_ms, received_ms);
            records.push((received_ms, pause, change));
        }
        let (mut lines, mut changes) = (Vec::new(), Vec::new());
        for (seq, (stamp_ms, content, change)) in (first_seq..).zip(records) {
            Encoded::short(content).write_line(&mut lines, seq, stamp_ms);
            changes.push((seq, stamp_ms, change));
        }
        let file = self.disk.create(&segment::open_name(first_seq))?;
        let opened_ms = self.shared.clock.elapsed_ms();
        let beginning_bytes = lines.len() as u64;
        let mut open = Open { first_seq, file, opened_ms, bytes: 0, beginning_bytes };
        open.write(&lines, &[], self.settings.durability, &self.told.series)?;
        self.open = Some(open);
        self.told.series.bytes.inc_by(lines.len() as u64);
        // Nobody listens any more when the server ends.
        let _ = self.told.closed.send(first_seq);
        for (seq, stamp_ms, change) in changes {
            self.fold_own(seq, stamp_ms, change);
        }
        Ok(())
    }

    /// Tells of a pause in the segment that grows.
    fn add_pause(&mut self, from_ms: u64, now_ms: u64) -> io::Result<()> {
        let (seq, mut lines) = (self.committed_seq + 1, Vec::new());
        let (pause, change) = pause(from_ms, now_ms);
        Encoded::short(pause).write_line(&mut lines, seq, now_ms);
        self.write(&lines, &[])?;
        self.told.series.bytes.inc_by(lines.len() as u64);
        self.fold_own(seq, now_ms, change);
        Ok(())
    }

    /// Folds a record of the server itself, which is committed and for which nobody waits.
    fn fold_own(&mut self, seq: u64, received_ms: u64, change: Change) {
        self.committed_seq = seq;
        self.told.series.records.of(change.kind()).inc();
        self.processor.fold(seq, received_ms, change);
    }

    /// Closes the segment that grows.
    fn close_segment(&mut self) -> io::Result<()> {
        match self.open.take() {
            // With `write` it has not been synced yet.
            Some(mut open) => open.file.sync(),
            None => Ok(()),
        }
    }
}
