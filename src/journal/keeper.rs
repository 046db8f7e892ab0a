//! What goes on behind the writer's back, and never in its way: closed segments are compressed, old ones
//! removed, the live sessions saved.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::disk::{Disk, DiskFile};
use super::record::Record;
use super::segment::{self, Segment};
use super::{Settings, checkpoint};
use crate::clock::Clock;
use crate::live::Live;

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
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Keeper").finish_non_exhaustive()
    }
}

impl Keeper {
    /// A keeper of the same folder as the writer's.
    pub fn new(settings: Settings, disk: Arc<dyn Disk>, clock: Clock, live: Arc<Live>) -> Self {
        Self { settings, disk, clock, live }
    }

    /// Works until the writer has ended, then saves the live sessions a last time.
    pub fn run(self, closed: &Receiver<u64>) {
        let report = |what: &str, result: io::Result<()>| {
            if let Err(error) = result {
                tracing::error!(%error, "the keeper of the journal could not {what}");
            }
        };
        report("compress a segment", self.compress_closed());
        let mut checkpoint_ms = self.clock.now_ms();
        loop {
            let next = Duration::from_millis(checkpoint_ms) + self.settings.checkpoint_interval;
            let now_ms = self.clock.now_ms();
            match closed.recv_timeout(next.saturating_sub(Duration::from_millis(now_ms))) {
                Ok(_) => report("compress a segment", self.compress_closed()),
                Err(RecvTimeoutError::Timeout) => {
                    checkpoint_ms = now_ms;
                    report("save a checkpoint", self.checkpoint());
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            report("remove old segments", self.retain());
        }
        report(
            "save a checkpoint",
            checkpoint::save(&*self.disk, &self.live, self.clock.now_ms(), false),
        );
    }

    /// Saves the live sessions.
    ///
    /// # Errors
    /// What the system says; so for what follows.
    pub fn checkpoint(&self) -> io::Result<()> {
        checkpoint::save(&*self.disk, &self.live, self.clock.now_ms(), true)
    }

    /// Compresses every segment that is closed.
    ///
    /// # Errors
    /// See [`Keeper::checkpoint`].
    pub fn compress_closed(&self) -> io::Result<()> {
        let names: Vec<_> = self.disk.list()?.into_iter().map(|(name, _)| name).collect();
        for segment in segment::list(&*self.disk)? {
            let open = segment::open_name(segment.first_seq);
            if segment.compressed {
                // A crash came between the new name and the removal of the old file.
                if names.contains(&open) {
                    self.disk.remove(&open)?;
                }
            } else if segment.end_seq.is_some() {
                self.compress(&segment)?;
                self.disk.remove(&open)?;
            }
        }
        Ok(())
    }

    /// Writes the compressed form of a segment, without what does not count in it.
    fn compress(&self, segment: &Segment) -> io::Result<()> {
        let name = segment::closed_name(segment.first_seq);
        let unfinished = segment::unfinished_name(&name);
        let file = self.disk.create(&unfinished)?;
        let mut encoder = zstd::Encoder::new(Paced { file, piece: Vec::new() }, ZSTD_LEVEL)?;
        encoder.include_checksum(true)?;
        let mut lines = segment.lines(&*self.disk)?;
        while let Some(line) = lines.next_line()? {
            let seq = Record::read(line.text).ok().map(|record| record.seq);
            if !line.complete || seq.is_some_and(|seq| Some(seq) >= segment.end_seq) {
                break;
            }
            io::Write::write_all(&mut encoder, line.text)?;
            io::Write::write_all(&mut encoder, b"\n")?;
        }
        encoder.finish()?.end()?;
        self.disk.rename(&unfinished, &name)
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
        for pair in segments.windows(2) {
            let (segment, next) = (&pair[0], &pair[1]);
            if segment.end_seq.is_none_or(|end_seq| end_seq > needed_after + 1) {
                return Ok(());
            }
            let too_much = bytes_max > 0 && bytes > bytes_max;
            if !too_much && !self.is_too_old(next)? {
                return Ok(());
            }
            self.disk.remove(&segment.name())?;
            bytes -= segment.bytes;
            tracing::info!(segment = segment.name(), "an old segment of the journal was removed");
        }
        Ok(())
    }

    /// Whether all records before this segment are older than they are kept.
    fn is_too_old(&self, next: &Segment) -> io::Result<bool> {
        if self.settings.retention.is_zero() {
            return Ok(false);
        }
        let mut lines = next.lines(&*self.disk)?;
        let first = lines.next_line()?;
        let Some(record) = first.as_ref().and_then(|line| Record::read(line.text).ok()) else {
            return Ok(false);
        };
        let age_ms = self.clock.now_ms().saturating_sub(record.received_ms);
        Ok(Duration::from_millis(age_ms) > self.settings.retention)
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
