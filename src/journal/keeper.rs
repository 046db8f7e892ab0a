//! What goes on behind the writer's back, and never in its way: closed segments are compressed, old ones
//! removed, the live sessions saved, and what is to be erased is erased.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::disk::Disk;
use super::erase::order::{Order, State, Word, result_file};
use super::erase::{self, Between, LeftOut, Purge, Running, Site};
use super::record::Record;
use super::segment::{self, Segment};
use super::{Journal, Settings, checkpoint};
use crate::clock::{Clock, Stopwatch};
use crate::live::Live;
use crate::telemetry::labels::Task;
use crate::telemetry::series;

/// How often it looks for an order to erase.
const ERASE_LOOK: Duration = Duration::from_secs(1);

/// How long it rests when one could not be carried out, in ms.
const ERASE_RETRY_MS: u64 = 10_000;

/// How often it tells how far it is with one, in ms.
const ERASE_TELL_MS: u64 = 1_000;

/// Looks after the files of the journal.
pub struct Keeper {
    pub(super) settings: Settings,
    disk: Arc<dyn Disk>,
    clock: Clock,
    live: Arc<Live>,
    journal: Journal,
    series: series::Keeper,
    erasing: Option<Erasing>,
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
        Self { settings, disk, clock, live, journal, series, erasing: None }
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

    /// Works until the writer has ended, then saves the live sessions a last time.
    pub fn run(self, closed: &Receiver<u64>) {
        self.report(Task::Compress, self.compress_closed());
        let mut checkpoint_ms = self.clock.now_ms();
        let mut erase_from_ms = 0;
        loop {
            let due_in = self.checkpoint_due_in(checkpoint_ms);
            match closed.recv_timeout(due_in.min(ERASE_LOOK)) {
                Ok(_) if !due_in.is_zero() => {
                    self.report(Task::Compress, self.compress_closed());
                }
                Err(RecvTimeoutError::Timeout) if due_in > ERASE_LOOK => {
                    self.erase_if_ordered(&mut erase_from_ms, closed, &mut checkpoint_ms);
                    continue;
                }
                // However many segments are closed, a checkpoint that is due comes first.
                Ok(_) | Err(RecvTimeoutError::Timeout) => {
                    checkpoint_ms = self.clock.now_ms();
                    self.report(Task::Checkpoint, self.checkpoint());
                    self.report(Task::Compress, self.compress_closed());
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.erase_if_ordered(&mut erase_from_ms, closed, &mut checkpoint_ms);
            self.report(Task::Retain, self.retain());
        }
        self.report(Task::Checkpoint, self.save(false));
    }

    /// Does what is due between two files of an erasure, which may take hours. Says whether files may be others
    /// than before.
    pub(super) fn look_after(&self, closed: &Receiver<u64>, checkpoint_ms: &mut u64) -> bool {
        let is_due = self.checkpoint_due_in(*checkpoint_ms).is_zero();
        let has_closed = closed.try_iter().count() > 0;
        if is_due {
            self.report(Task::Checkpoint, self.checkpoint());
            // However long that took, the erasure goes on for a while before the next.
            *checkpoint_ms = self.clock.now_ms();
        }
        if is_due || has_closed {
            self.report(Task::Compress, self.compress_closed());
            self.report(Task::Retain, self.retain());
        }
        is_due || has_closed
    }

    /// How long it is until the live sessions are to be saved, if they were at this time.
    fn checkpoint_due_in(&self, saved_ms: u64) -> Duration {
        let next = Duration::from_millis(saved_ms) + self.settings.checkpoint_interval;
        next.saturating_sub(Duration::from_millis(self.clock.now_ms()))
    }

    fn report(&self, task: Task, result: io::Result<()>) {
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

    /// Saves the live sessions.
    ///
    /// # Errors
    /// What the system says; so for what follows.
    pub fn checkpoint(&self) -> io::Result<()> {
        self.save(true)
    }

    /// A checkpoint tells until when the server was up; so one that is saved in an outage must not tell the
    /// time of now.
    fn save(&self, running: bool) -> io::Result<()> {
        let up_until_ms = self.journal.up_until_ms();
        let up_until_ms = up_until_ms.unwrap_or_else(|| self.live.progress().received_ms);
        let stopwatch = Stopwatch::start();
        let saved_bytes = checkpoint::save(&*self.disk, &self.live, up_until_ms, running)?;
        self.series.saved_at(self.clock.now_ms());
        if let Some(bytes) = saved_bytes {
            self.series.checkpoint_seconds.set(stopwatch.seconds());
            self.series.checkpoint_bytes.set(bytes);
        }
        Ok(())
    }

    /// Carries out the order to erase, if there is one and the last attempt was long enough ago, and does meanwhile
    /// what else is due.
    fn erase_if_ordered(
        &self,
        not_before_ms: &mut u64,
        closed: &Receiver<u64>,
        checkpoint_ms: &mut u64,
    ) {
        let Some(Erasing { home, .. }) = &self.erasing else { return };
        if self.clock.now_ms() < *not_before_ms {
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
        let mut between = || self.look_after(closed, checkpoint_ms);
        let result = order.and_then(|order| Ok((self.erase(&order, &mut between)?, order)));
        match result {
            Ok(((), order)) => {
                self.series.erasure_pending.set(0);
                self.series.erasure_ahead_bytes.set(0);
                // There it stands if nobody waited for it.
                let summary = result_file(&order.id);
                tracing::info!(summary, "what was ordered is erased");
            }
            Err(_) if self.journal.is_closed() => {
                tracing::warn!("the erasure is not done; the next start goes on with it");
            }
            Err(error) => {
                *not_before_ms = self.clock.now_ms() + ERASE_RETRY_MS;
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
            if self.journal.is_closed() {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "the server ends"));
            }
            self.series.erasure_ahead_bytes.set(total_bytes.saturating_sub(done_bytes));
            let now_ms = self.clock.now_ms();
            if told_ms.is_some_and(|told_ms| now_ms < told_ms + ERASE_TELL_MS) {
                return Ok(());
            }
            told_ms = Some(now_ms);
            let state = State::Running { done_bytes, total_bytes };
            Word { order: order.id.clone(), written_ms: now_ms, state }.save(&**home)
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
        let mut result = Ok(());
        for segment in segment::list(&*self.disk)? {
            if segment.compressed || segment.end_seq.is_none() {
                continue;
            }
            // One that cannot be read is no reason to leave the others as they are.
            result = result.and(self.compress(&segment));
        }
        result
    }

    /// Writes the compressed form of a segment, without what does not count in it.
    fn compress(&self, segment: &Segment) -> io::Result<()> {
        segment.rewrite(&*self.disk, |anew| {
            let mut lines = segment.lines(&*self.disk)?;
            while let Some(line) = lines.next_line()? {
                if Record::read(line.text).is_ok_and(|record| segment.ends_before(record.seq)) {
                    break;
                }
                anew.keep(&line)?;
            }
            Ok(())
        })
    }

    /// Removes the segments that are too old or too many, but never one that the older checkpoint needs, and what
    /// was set aside of those that are gone.
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
        for (row, segment) in segments.iter().enumerate() {
            if segment.end_seq.is_none_or(|end_seq| end_seq > needed_after + 1) {
                return Ok(());
            }
            let too_much = bytes_max > 0 && bytes > bytes_max;
            if !too_much && !self.is_too_old(&segments[row + 1..]) {
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

    /// Whether all records before these segments are older than they are kept: the first one that can be
    /// read tells it.
    fn is_too_old(&self, next: &[Segment]) -> bool {
        if self.settings.retention.is_zero() {
            return false;
        }
        let first = next.iter().find_map(|segment| segment.first_received_ms(&*self.disk));
        let age_ms = |received_ms| self.clock.now_ms().saturating_sub(received_ms);
        first.is_some_and(|first| Duration::from_millis(age_ms(first)) > self.settings.retention)
    }
}
