//! What goes on behind the writer's back, and never in its way: closed segments are compressed, old ones
//! removed, the live sessions saved, and what is to be erased is erased.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use super::checkpoint::Haste;
use super::disk::Disk;
use super::erase::order::{Order, State, Word, result_file};
use super::erase::{self, Between, LeftOut, Purge, Running, Site};
use super::record::Record;
use super::segment::{self, Segment};
use super::{Journal, Settings, checkpoint};
use crate::clock::{Clock, STEP_MS, Stopwatch};
use crate::live::Live;
use crate::telemetry::labels::Task;
use crate::telemetry::series;

/// How often it looks for an order to erase.
const ERASE_LOOK: Duration = Duration::from_secs(1);

/// How long it rests when one could not be carried out, in ms.
const ERASE_RETRY_MS: u64 = 10_000;

/// How often it tells how far it is with one, in ms.
const ERASE_TELL_MS: u64 = 1_000;

/// How long the live sessions may take to be saved when the server ends. What came since the checkpoint before is
/// read back faster than it came, so nothing is gained by waiting for more than that.
const LAST_SAVE_MAX: Duration = Duration::from_secs(5);

/// After so many records without a checkpoint, one is saved at the start; to read them back takes some three seconds.
const OVERDUE_RECORDS: u64 = 200_000;

/// How much of a segment is compressed before it is asked whether the server ends.
const ASK_EVERY_BYTES: u64 = 1 << 20;

const HOUR_MS: u64 = 3_600_000;

/// Looks after the files of the journal.
pub struct Keeper {
    pub(super) settings: Settings,
    disk: Arc<dyn Disk>,
    clock: Clock,
    live: Arc<Live>,
    journal: Journal,
    series: series::Keeper,
    erasing: Option<Erasing>,
    by_age: Mutex<ByAge>,
    /// Begun when it is first seen that the server ends.
    stopping: OnceLock<Stopwatch>,
    /// How long the live sessions may take to be saved from then on.
    pub(super) last_save_max: Duration,
    /// After how many records without a checkpoint one is saved at the start.
    pub(super) overdue_records: u64,
}

/// What is to be done next.
pub(super) struct Due {
    /// When the live sessions were saved last, in ms of the time that has passed.
    saved_ms: u64,
    /// Whether segments wait to be compressed.
    is_behind: bool,
    /// Whether the start was late with a checkpoint.
    is_overdue: bool,
}

/// What an erasure needs beside the journal.
struct Erasing {
    /// The data folder, where orders are given.
    home: Arc<dyn Disk>,
    /// Removes refused bodies.
    purge: Box<Purge<'static>>,
    /// What the start has left out because of an order that it found.
    left_out: Option<LeftOut>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Keeper").finish_non_exhaustive()
    }
}

impl Keeper {
    /// A keeper of the same folder as the writer's.
    pub fn new(
        settings: Settings,
        disk: Arc<dyn Disk>,
        clock: Clock,
        live: Arc<Live>,
        journal: Journal,
    ) -> Self {
        let series = series::Keeper::default();
        Self {
            settings,
            disk,
            clock,
            live,
            journal,
            series,
            erasing: None,
            by_age: Mutex::default(),
            stopping: OnceLock::new(),
            last_save_max: LAST_SAVE_MAX,
            overdue_records: OVERDUE_RECORDS,
        }
    }

    /// Counts what it does.
    #[must_use]
    pub fn counting(self, series: series::Keeper) -> Self {
        Self { series, ..self }
    }

    /// Carries out orders to erase that are given in this data folder from now on, and the one for which the
    /// start has left sessions out.
    #[must_use]
    pub fn erasing(
        self,
        home: Arc<dyn Disk>,
        purge: Box<Purge<'static>>,
        left_out: Option<LeftOut>,
    ) -> Self {
        self.series.erasure_pending.set(left_out.is_some().into());
        Self { erasing: Some(Erasing { home, purge, left_out }), ..self }
    }

    /// Works until the journal is closed, breaks off what it is at, waits for the writer to end, and saves the live
    /// sessions a last time, if that does not take long.
    pub fn run(self, closed: &Receiver<u64>) {
        let mut due = self.due();
        let mut erase_from_ms = 0;
        loop {
            let wait = self.checkpoint_due_in(&due).min(ERASE_LOOK);
            let told = closed.recv_timeout(if due.is_behind { Duration::ZERO } else { wait });
            if self.stops() || told == Err(RecvTimeoutError::Disconnected) {
                break;
            }
            self.note_closed(told.into_iter().count(), &mut due);
            self.look_after(closed, &mut due);
            self.erase_if_ordered(&mut erase_from_ms, closed, &mut due);
        }
        // The writer commits what waits; that is to be saved, too.
        closed.iter().for_each(drop);
        let saved = self.checkpoint();
        if self.is_broken_off(&saved) {
            tracing::info!(
                "the live sessions are too many to be saved at the stop: the next start reads back what came since the \
                 last checkpoint"
            );
        }
        self.report(Task::Checkpoint, saved);
    }

    /// What is due at the start.
    pub(super) fn due(&self) -> Due {
        Due {
            saved_ms: self.clock.elapsed_ms(),
            // What was closed before may wait still.
            is_behind: true,
            is_overdue: self.is_overdue(),
        }
    }

    /// Saves, compresses and removes what is due, in the loop and between two files of an erasure, which may take
    /// hours. Says whether files may be others than before.
    pub(super) fn look_after(&self, closed: &Receiver<u64>, due: &mut Due) -> bool {
        self.note_closed(closed.try_iter().count(), due);
        // However many segments are closed, a checkpoint that is due comes first.
        let is_due = self.checkpoint_due_in(due).is_zero() || std::mem::take(&mut due.is_overdue);
        if is_due {
            self.report(Task::Checkpoint, self.checkpoint());
            // However long that took, there is time for all else before the next.
            due.saved_ms = self.clock.elapsed_ms();
        }
        let has_work = due.is_behind || is_due;
        if has_work {
            let compressed = self.compress_while(|| !self.checkpoint_due_in(due).is_zero());
            due.is_behind = matches!(compressed, Ok(false));
            self.report(Task::Compress, compressed.map(drop));
            self.report(Task::Retain, self.retain());
        }
        has_work
    }

    fn note_closed(&self, segments: usize, due: &mut Due) {
        due.is_behind |= segments > 0;
        self.by_age.lock().add(segments as u64);
    }

    /// How long it is until the live sessions are to be saved.
    fn checkpoint_due_in(&self, due: &Due) -> Duration {
        let next = Duration::from_millis(due.saved_ms) + self.settings.checkpoint_interval;
        next.saturating_sub(Duration::from_millis(self.clock.elapsed_ms()))
    }

    fn report(&self, task: Task, result: io::Result<()>) {
        if self.is_broken_off(&result) {
            return;
        }
        let Err(error) = result else { return };
        self.series.failures.of(task).inc();
        let what = match task {
            Task::Compress => "compress a segment",
            Task::Checkpoint => "save a checkpoint",
            Task::Retain => "remove old segments",
            Task::Erase => "erase what was ordered; it is tried again",
        };
        tracing::error!(%error, "the keeper of the journal could not {what}");
    }

    /// Whether it is no failure, because the server ends.
    fn is_broken_off(&self, result: &io::Result<()>) -> bool {
        let kind = result.as_ref().err().map(io::Error::kind);
        kind == Some(io::ErrorKind::Interrupted) && self.stops()
    }

    /// Whether the server ends: then everything is broken off, and the next start does it.
    fn stops(&self) -> bool {
        self.journal.is_closed()
    }

    /// Breaks off what is done for the files of the journal, once the server ends.
    fn go_on(&self) -> io::Result<()> {
        if self.stops() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the server ends"));
        }
        Ok(())
    }

    /// Saves the live sessions; if the server ends, within some seconds or not at all.
    ///
    /// # Errors
    /// What the system says; so for what follows.
    pub fn checkpoint(&self) -> io::Result<()> {
        // A checkpoint tells until when the server was up; so one that is saved in an outage must not tell the time
        // of now.
        let before = self.live.progress();
        let up_until_ms = self.journal.up_until_ms().unwrap_or(before.received_ms);
        let up_until_ms = before.running_ms(up_until_ms);
        let stopwatch = Stopwatch::start();
        let saved = checkpoint::save(&*self.disk, &self.live, up_until_ms, || self.haste());
        let saved_bytes = saved?;
        self.series.saved_at(self.clock.wall_ms());
        if let Some(bytes) = saved_bytes {
            self.series.checkpoint_seconds.set(stopwatch.seconds());
            self.series.checkpoint_bytes.set(bytes);
        }
        Ok(())
    }

    /// Whether so much came since the last checkpoint that the next start would take long: one that was given up at
    /// the last stop must not be missing for ever on a server that is started often.
    fn is_overdue(&self) -> bool {
        let saved_seq = checkpoint::list(&*self.disk).ok().and_then(|all| Some(all.first()?.0));
        self.live.progress().seq.saturating_sub(saved_seq.unwrap_or_default())
            >= self.overdue_records
    }

    /// How fast a checkpoint must be now.
    fn haste(&self) -> Haste {
        if !self.stops() {
            return Haste::Paced;
        }
        let stopping = self.stopping.get_or_init(Stopwatch::start);
        let is_late = stopping.seconds() >= self.last_save_max.as_secs_f64();
        if is_late { Haste::GivenUp } else { Haste::Fast }
    }

    /// Carries out the order to erase, if there is one and the last attempt was long enough ago, and does meanwhile
    /// what else is due.
    fn erase_if_ordered(&self, not_before_ms: &mut u64, closed: &Receiver<u64>, due: &mut Due) {
        let Some(Erasing { home, .. }) = &self.erasing else { return };
        if self.clock.elapsed_ms() < *not_before_ms {
            return;
        }
        let order = match Order::pending(&**home) {
            Ok(None) => {
                self.series.erasure_pending.set(0);
                self.series.erasure_ahead_bytes.set(0);
                return;
            }
            Ok(Some(order)) => Ok(order),
            Err(error) => Err(error),
        };
        self.series.erasure_pending.set(1);
        tracing::info!("an erasure was ordered and is carried out");
        let mut between = || self.look_after(closed, due);
        let result = order.and_then(|order| Ok((self.erase(&order, &mut between)?, order)));
        match result {
            Ok(((), order)) => {
                self.series.erasure_pending.set(0);
                self.series.erasure_ahead_bytes.set(0);
                // There it stands if nobody waited for it.
                let summary = result_file(&order.id);
                tracing::info!(summary, "what was ordered is erased");
            }
            Err(_) if self.stops() => {
                tracing::warn!("the erasure is not done; the next start goes on with it");
            }
            Err(error) => {
                *not_before_ms = self.clock.elapsed_ms() + ERASE_RETRY_MS;
                self.tell_of_failure(&error);
                self.report(Task::Erase, Err(error));
            }
        }
    }

    /// Carries out an order, and tells in its file how far that is. What else is to be done on the journal is done
    /// `between` two of its files.
    ///
    /// # Errors
    /// See [`Keeper::checkpoint`]; the order is then still there.
    pub(super) fn erase(&self, order: &Order, between: Between<'_>) -> io::Result<()> {
        let Some(Erasing { home, purge, left_out }) = &self.erasing else { return Ok(()) };
        let site = Site {
            home: &**home,
            disk: &*self.disk,
            purge: &**purge,
            clock: &self.clock,
            running: Some(Running { journal: &self.journal, live: &self.live }),
            left_out: left_out.as_ref(),
            given: None,
        };
        let mut told_ms = None;
        let mut tell = |done_bytes, total_bytes: u64| {
            self.go_on()?;
            self.series.erasure_ahead_bytes.set(total_bytes.saturating_sub(done_bytes));
            let elapsed_ms = self.clock.elapsed_ms();
            if told_ms.is_some_and(|told_ms| elapsed_ms < told_ms + ERASE_TELL_MS) {
                return Ok(());
            }
            told_ms = Some(elapsed_ms);
            let state = State::Running { done_bytes, total_bytes };
            let written_ms = self.clock.now_ms();
            Word { order: order.id.clone(), written_ms, state }.save(&**home)
        };
        erase::finish_beside(&site, &mut tell, between).map(drop)
    }

    /// Tells whoever gave the order why it is not done, if it can be told.
    fn tell_of_failure(&self, error: &io::Error) {
        let Some(Erasing { home, .. }) = &self.erasing else { return };
        if let Ok(Some(order)) = Order::pending(&**home) {
            let state = State::Failing { why: error.to_string() };
            let written_ms = self.clock.now_ms();
            // If it cannot, the log has it.
            let _ = Word { order: order.id, written_ms, state }.save(&**home);
        }
    }

    /// Compresses every segment that is closed.
    ///
    /// # Errors
    /// See [`Keeper::checkpoint`].
    pub fn compress_closed(&self) -> io::Result<()> {
        self.compress_while(|| true).map(drop)
    }

    /// Compresses the segments that are closed, one after the other, as long as there is time; says whether there was
    /// for all of them.
    fn compress_while(&self, has_time: impl Fn() -> bool) -> io::Result<bool> {
        let mut result = Ok(());
        for segment in segment::list(&*self.disk)? {
            if segment.compressed || segment.end_seq.is_none() {
                continue;
            }
            self.go_on()?;
            if !has_time() {
                return result.map(|()| false);
            }
            // One that cannot be read is no reason to leave the others as they are.
            result = result.and(self.compress(&segment));
        }
        result.map(|()| true)
    }

    /// Writes the compressed form of a segment, without what does not count in it.
    fn compress(&self, segment: &Segment) -> io::Result<()> {
        segment.rewrite(&*self.disk, |anew| {
            let mut lines = segment.lines(&*self.disk)?;
            let mut asked_at = 0;
            while let Some(line) = lines.next_line()? {
                if Record::read(line.text).is_ok_and(|record| segment.ends_before(record.seq)) {
                    break;
                }
                if line.offset >= asked_at {
                    self.go_on()?;
                    asked_at = line.offset + ASK_EVERY_BYTES;
                }
                anew.keep(&line)?;
            }
            Ok(())
        })
    }

    /// Removes the segments that are too old or too many, but never one that the older checkpoint needs, and what
    /// was set aside of those that are gone. By their age no more than some are removed within an hour.
    ///
    /// # Errors
    /// See [`Keeper::checkpoint`].
    pub fn retain(&self) -> io::Result<()> {
        if self.settings.retention.is_zero() && self.settings.retention_bytes.as_u64() == 0 {
            return Ok(());
        }
        // One that cannot be removed is no reason to keep what was set aside of others.
        self.retain_segments().and(self.retain_set_aside())
    }

    fn retain_segments(&self) -> io::Result<()> {
        let needed_after = checkpoint::needed_after(&*self.disk)?;
        let segments = segment::list(&*self.disk)?;
        let mut bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let bytes_max = self.settings.retention_bytes.as_u64();
        self.by_age.lock().begin(self.clock.elapsed_ms(), segments.len() as u64);
        for (row, segment) in segments.iter().enumerate() {
            if segment.end_seq.is_none_or(|end_seq| end_seq > needed_after + 1) {
                return Ok(());
            }
            self.go_on()?;
            let too_much = bytes_max > 0 && bytes > bytes_max;
            let goes = too_much || self.is_too_old(&segments[row..]) && self.by_age.lock().take();
            if !goes {
                return Ok(());
            }
            self.disk.remove(&segment.name())?;
            bytes -= segment.bytes;
            tracing::info!(segment = segment.name(), "an old segment of the journal was removed");
        }
        Ok(())
    }

    /// Removes what was set aside before the first segment that is there: the lines are of segments, and the
    /// checkpoints of sessions, that were kept no longer.
    fn retain_set_aside(&self) -> io::Result<()> {
        let segments = segment::list(&*self.disk)?;
        let Some(first) = segments.first() else { return Ok(()) };
        for (name, _) in self.disk.list()? {
            if segment::set_aside_seq(&name).is_some_and(|seq| seq < first.first_seq) {
                self.disk.remove(&name)?;
                tracing::info!(file = name, "what was set aside of old segments was removed");
            }
        }
        Ok(())
    }

    /// Whether all records of the first of these segments are older than they are kept: their first ones that can be
    /// read tell it, and those that follow. Where stamps were set back, the one that follows tells too little; and no
    /// time that is in doubt counts.
    fn is_too_old(&self, segments: &[Segment]) -> bool {
        if self.settings.retention.is_zero() {
            return false;
        }
        let Some((own, later)) = segments.split_first() else { return false };
        let first_ms = |segment: &Segment| segment.first_received_ms(&*self.disk);
        let sure_ms = self.clock.sure_ms();
        let is_old = |received_ms| {
            Duration::from_millis(sure_ms.saturating_sub(received_ms)) > self.settings.retention
        };
        // Stamps of a clock that was ahead tell nothing; what follows them does.
        let is_ahead = |received_ms: &u64| *received_ms > sure_ms.saturating_add(STEP_MS);
        let next_ms = later.iter().filter_map(first_ms).find(|received_ms| !is_ahead(received_ms));
        next_ms.is_some_and(is_old) && first_ms(own).is_none_or(|ms| is_ahead(&ms) || is_old(ms))
    }
}

/// How many segments may still be removed by their age within an hour: as many as were closed in it, and a tenth of
/// all or one. What is removed cannot be had back; so if all of them are old at once, because the clock leapt or the
/// settings were changed, there is time to see it.
#[derive(Debug, Default)]
struct ByAge {
    /// When the hour began, in ms that have passed.
    began_ms: Option<u64>,
    /// The most segments that there ever were at once.
    most: u64,
    left: u64,
}

impl ByAge {
    /// Begins the next hour, if the last one is over.
    fn begin(&mut self, elapsed_ms: u64, segments: u64) {
        self.most = self.most.max(segments);
        if self.began_ms.is_none_or(|began_ms| elapsed_ms >= began_ms.saturating_add(HOUR_MS)) {
            (self.began_ms, self.left) = (Some(elapsed_ms), (self.most / 10).max(1));
        }
    }

    /// One more was closed.
    fn add(&mut self, closed: u64) {
        self.left = self.left.saturating_add(closed);
    }

    /// Whether one may be removed.
    fn take(&mut self) -> bool {
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}
