//! What goes on behind the writer's back, and never in its way: closed segments are compressed, old ones
//! removed, the live sessions saved.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::disk::{Disk, DiskFile};
use super::record::Record;
use super::segment::{self, Segment};
use super::{Journal, Settings, checkpoint};
use crate::clock::{Clock, Stopwatch};
use crate::live::Live;
use crate::telemetry::labels::Task;
use crate::telemetry::series;

/// A good ratio for little time; records shrink to about a tenth.
const ZSTD_LEVEL: i32 = 3;

/// How much of a compressed segment is written and synced at once.
const PIECE_BYTES: usize = 256 << 10;

/// Looks after the files of the journal.
pub struct Keeper {
    pub(super) settings: Settings,
    disk: Arc<dyn Disk>,
    clock: Clock,
    live: Arc<Live>,
    journal: Journal,
    series: series::Keeper,
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
        Self { settings, disk, clock, live, journal, series: series::Keeper::default() }
    }

    /// Counts what it does.
    #[must_use]
    pub fn counting(self, series: series::Keeper) -> Self {
        Self { series, ..self }
    }

    /// Works until the writer has ended, then saves the live sessions a last time.
    pub fn run(self, closed: &Receiver<u64>) {
        let report = |task: Task, result: io::Result<()>| {
            if let Err(error) = result {
                self.series.failures.of(task).inc();
                let what = match task {
                    Task::Compress => "compress a segment",
                    Task::Checkpoint => "save a checkpoint",
                    Task::Retain => "remove old segments",
                };
                tracing::error!(%error, "the keeper of the journal could not {what}");
            }
        };
        report(Task::Compress, self.compress_closed());
        let mut checkpoint_ms = self.clock.now_ms();
        loop {
            let next = Duration::from_millis(checkpoint_ms) + self.settings.checkpoint_interval;
            let now_ms = self.clock.now_ms();
            match closed.recv_timeout(next.saturating_sub(Duration::from_millis(now_ms))) {
                Ok(_) if Duration::from_millis(now_ms) < next => {
                    report(Task::Compress, self.compress_closed());
                }
                // However many segments are closed, a checkpoint that is due comes first.
                Ok(_) | Err(RecvTimeoutError::Timeout) => {
                    checkpoint_ms = now_ms;
                    report(Task::Checkpoint, self.checkpoint());
                    report(Task::Compress, self.compress_closed());
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            report(Task::Retain, self.retain());
        }
        report(Task::Checkpoint, self.save(false));
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
            let name = segment::closed_name(segment.first_seq);
            let unfinished = segment::unfinished_name(&name);
            let compressed = self.compress(&segment, &unfinished);
            if compressed.is_err() {
                // A disk that is full must not be kept full by half a file.
                let _ = self.disk.remove(&unfinished);
            }
            // One that cannot be read is no reason to leave the others as they are.
            result = result.and(compressed);
        }
        result
    }

    /// Writes the compressed form of a segment, without what does not count in it.
    fn compress(&self, segment: &Segment, unfinished: &str) -> io::Result<()> {
        let file = self.disk.create(unfinished)?;
        let mut encoder = zstd::Encoder::new(Paced { file, piece: Vec::new() }, ZSTD_LEVEL)?;
        encoder.include_checksum(true)?;
        let mut lines = segment.lines(&*self.disk)?;
        // Half a line is dropped where the segment ends, and kept where more follows.
        let mut half = Vec::new();
        while let Some(line) = lines.next_line()? {
            let seq = Record::read(line.text).ok().map(|record| record.seq);
            if seq.is_some_and(|seq| Some(seq) >= segment.end_seq) {
                break;
            }
            io::Write::write_all(&mut encoder, &half)?;
            half.clear();
            if line.complete {
                io::Write::write_all(&mut encoder, line.text)?;
                io::Write::write_all(&mut encoder, b"\n")?;
            } else {
                half.extend_from_slice(line.text);
            }
        }
        encoder.finish()?.end()?;
        self.disk.rename(unfinished, &segment::closed_name(segment.first_seq))?;
        self.disk.remove(&segment::open_name(segment.first_seq))
    }

    /// Removes the segments that are too old or too many, but never one that the older checkpoint needs.
    ///
    /// # Errors
    /// See [`Keeper::checkpoint`].
    pub fn retain(&self) -> io::Result<()> {
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

/// A file that is synced piece by piece, so that no sync is long.
struct Paced {
    file: Box<dyn DiskFile>,
    piece: Vec<u8>,
}

impl Paced {
    fn end(mut self) -> io::Result<()> {
        self.put()
    }

    fn put(&mut self) -> io::Result<()> {
        self.file.append(&self.piece)?;
        self.file.sync()?;
        self.piece.clear();
        Ok(())
    }
}

impl io::Write for Paced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.put()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
