//! Reading back: the newest sound checkpoint, then every record after it.
//!
//! What stands after the last good line is cut: it was never acknowledged. A damaged line before a good
//! one is set aside, counted and told, and nothing else is lost for it.

use std::io;

use super::checkpoint;
use super::disk::Disk;
use super::record::Record;
use super::segment::{self, Segment};
use super::writer::Start;
use crate::live::Live;
use crate::processor::Processor;

/// How many damaged lines are set aside; more are only counted.
const SET_ASIDE_MAX: usize = 10_000;

/// What a recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Where the journal goes on.
    pub start: Start,
    /// The checkpoint that was used, by its floor.
    pub checkpoint_seq: Option<u64>,
    /// Checkpoints that could not be used.
    pub checkpoints_broken: u64,
    /// Records that were folded.
    pub records: u64,
    /// Damaged lines before a good one, set aside.
    pub damaged: u64,
    /// Records that are missing between two that are there.
    pub missing: u64,
    /// Bytes after the last good line, cut.
    pub cut_bytes: u64,
}

/// Brings `live` to the state that the journal tells, and the journal into order.
///
/// # Errors
/// What the system says.
pub fn recover(disk: &dyn Disk, live: &Live, processor: &mut Processor) -> io::Result<Recovered> {
    for (name, _) in disk.list()? {
        if segment::is_unfinished(&name) {
            disk.remove(&name)?;
        }
    }
    let mut recovered = Recovered::default();
    let saved_ms = load_checkpoint(disk, live, &mut recovered)?;
    let floor_seq = live.progress().seq;
    let segments = segment::list(disk)?;
    let mut reading = Reading {
        processor,
        floor_seq,
        expected_seq: None,
        last_ms: None,
        recovered: &mut recovered,
        set_aside: Vec::new(),
    };
    for segment in &segments {
        // The one before the floor tells the time of the last record, should there be none after it.
        if segment.end_seq.is_none_or(|end_seq| end_seq > floor_seq) {
            reading.segment(disk, segment)?;
        }
    }
    let Reading { expected_seq, last_ms, set_aside, .. } = reading;
    // With durability `write` a machine may lose records that a checkpoint includes.
    let next_seq = expected_seq.unwrap_or(1).max(floor_seq + 1);
    // The server was up at least until then, so later time is what it was down.
    let last_ms = last_ms.max(saved_ms);
    recovered.start = Start { next_seq, last_ms };
    if !set_aside.is_empty() {
        let name = format!("damaged-{next_seq:020}.txt");
        let mut file = disk.create(&name)?;
        file.append(&set_aside)?;
        file.sync()?;
        tracing::error!(
            lines = recovered.damaged,
            file = name,
            "the journal has damaged lines; they are set aside, all others are read"
        );
    }
    Ok(recovered)
}

/// Loads the newest checkpoint that is sound, and says when it was saved; without one the whole journal
/// is read.
fn load_checkpoint(
    disk: &dyn Disk,
    live: &Live,
    recovered: &mut Recovered,
) -> io::Result<Option<u64>> {
    for (floor_seq, name) in checkpoint::list(disk)? {
        match checkpoint::load(disk, &name, live) {
            Ok(saved_ms) => {
                recovered.checkpoint_seq = Some(floor_seq);
                return Ok(Some(saved_ms));
            }
            Err(error) => {
                recovered.checkpoints_broken += 1;
                tracing::error!(%error, checkpoint = name, "a checkpoint is damaged; using an older one");
            }
        }
    }
    Ok(None)
}

struct Reading<'r> {
    processor: &'r mut Processor,
    floor_seq: u64,
    /// The number that the next record should have; none before the first.
    expected_seq: Option<u64>,
    last_ms: Option<u64>,
    recovered: &'r mut Recovered,
    set_aside: Vec<u8>,
}

impl Reading<'_> {
    fn segment(&mut self, disk: &dyn Disk, segment: &Segment) -> io::Result<()> {
        let name = segment.name();
        self.begins_at(segment.first_seq, &name);
        let mut lines = segment.lines(disk)?;
        // Lines that are damaged, unless nothing good follows.
        let mut doubtful: Vec<(u64, Vec<u8>)> = Vec::new();
        loop {
            let line = match lines.next_line() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                // Half a compressed segment is read as far as it goes.
                Err(error) if segment.compressed => {
                    tracing::error!(%error, segment = name, "a compressed segment is damaged");
                    self.recovered.damaged += 1;
                    break;
                }
                Err(error) => return Err(error),
            };
            let record = Record::read(line.text).ok().filter(|_| line.complete);
            let Some(record) = record.filter(|record| Some(record.seq) >= self.expected_seq) else {
                doubtful.push((line.offset, line.text.to_vec()));
                continue;
            };
            if segment.end_seq.is_some_and(|end_seq| record.seq >= end_seq) {
                break;
            }
            for (_, text) in doubtful.drain(..) {
                self.set_aside(&text);
            }
            self.record(record, &name);
        }
        let ends_where_the_next_begins = segment.end_seq == self.expected_seq;
        match doubtful.first() {
            // The rest of a group that was not committed.
            Some((offset, _)) if segment.end_seq.is_none() && !segment.compressed => {
                let cut: u64 = segment.bytes.saturating_sub(*offset);
                disk.truncate(&name, *offset)?;
                self.recovered.cut_bytes += cut;
                tracing::warn!(
                    segment = name,
                    cut_bytes = cut,
                    "the end of the journal was incomplete"
                );
            }
            Some(_) if !ends_where_the_next_begins => {
                for (_, text) in doubtful {
                    self.set_aside(&text);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Folds a record, and tells what is missing before it.
    fn record(&mut self, record: Record<'_>, segment: &str) {
        let (seq, received_ms) = (record.seq, record.received_ms);
        self.begins_at(seq, segment);
        self.expected_seq = Some(seq + 1);
        self.last_ms = Some(received_ms);
        if seq > self.floor_seq {
            self.recovered.records += 1;
            if let Err(why) = self.processor.replay(record) {
                tracing::error!(seq, why, "a record cannot be folded");
                self.recovered.damaged += 1;
            }
        }
    }

    /// Notes that the next record there is has this number.
    fn begins_at(&mut self, seq: u64, segment: &str) {
        // Before the first there is nothing to miss but what the checkpoint does not have.
        let expected = self.expected_seq.unwrap_or(self.floor_seq.min(seq.saturating_sub(1)) + 1);
        if seq > expected {
            let missing = seq - expected;
            self.recovered.missing += missing;
            tracing::error!(segment, first_missing = expected, missing, "records are missing");
        }
        self.expected_seq = Some(seq.max(expected));
    }

    fn set_aside(&mut self, text: &[u8]) {
        self.recovered.damaged += 1;
        if self.recovered.damaged <= SET_ASIDE_MAX as u64 {
            self.set_aside.extend_from_slice(text);
            self.set_aside.push(b'\n');
        }
    }
}
