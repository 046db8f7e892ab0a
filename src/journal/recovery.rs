//! Reading back: the newest sound checkpoint, then every record after it.
//!
//! What stands after the last good line is cut: it was never acknowledged, unless a checkpoint knows later numbers
//! than that of the last good line. A damaged line before a good one, or of a number that a checkpoint knows, is set
//! aside, counted and told, and nothing else is lost for it.
//!
//! Segments may be missing at the beginning, and checkpoints too: each segment begins with what must be known, and a
//! session whose report stands in the journal has ended. A checkpoint is of no use if records are missing between it
//! and the first segment, because nobody knows which of its sessions ended there.

use std::io;

use super::checkpoint::Loaded;
use super::disk::{Disk, write_whole};
use super::record::{Content, Damage, Record};
use super::segment::{self, Segment};
use super::writer::Start;
use super::{Ids, checkpoint, up};
use crate::clock::LATEST_MS;
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
    /// When it was saved, in ms since the Unix epoch by the server's clock.
    pub checkpoint_saved_ms: Option<u64>,
    /// Checkpoints that could not be used.
    pub checkpoints_broken: u64,
    /// Records that were folded.
    pub records: u64,
    /// Damaged lines that were committed, set aside.
    pub damaged: u64,
    /// Records that are missing between two that are there.
    pub missing: u64,
    /// Bytes after the last good line, cut.
    pub cut_bytes: u64,
}

/// Brings `live` to the state that the journal tells, and the journal into order: as if these sessions were
/// erased, though what is of them may stand there still.
///
/// # Errors
/// What the system says.
pub fn recover(
    disk: &dyn Disk,
    live: &Live,
    processor: &mut Processor,
    erased: &Ids,
) -> io::Result<Recovered> {
    remove_leftovers(disk)?;
    let mut recovered = Recovered::default();
    let segments = segment::list(disk)?;
    let first_seq = segments.first().map(|first| first.first_seq);
    let newest_seq = newest_checkpoint_seq(disk)?;
    let saved_ms = load_checkpoint(disk, live, erased, first_seq, &mut recovered)?;
    recovered.checkpoint_saved_ms = saved_ms;
    let loaded = live.progress();
    let floor_seq = loaded.seq;
    let known_seq = newest_seq.max(live.last_seq());
    let mut reading = Reading {
        processor,
        erased,
        floor_seq,
        known_seq,
        expected_seq: None,
        last_ms: None,
        recovered: &mut recovered,
        set_aside: Vec::new(),
        first_damage: None,
    };
    for segment in &segments {
        // The one before the floor tells the time of the last record, should there be none after it.
        if segment.end_seq.is_none_or(|end_seq| end_seq > floor_seq) {
            reading.segment(disk, segment)?;
        }
    }
    let Reading { expected_seq, last_ms, set_aside, first_damage, .. } = reading;
    // Records that a checkpoint includes, be it in one shard, may be damaged, or with durability `write` be lost with
    // the machine. No number is given twice.
    let mut next_seq = expected_seq.unwrap_or(1).max(known_seq.saturating_add(1));
    recovered.missing += next_seq - expected_seq.unwrap_or(next_seq);
    // A name is never given twice.
    if let Some(last) = segments.last().filter(|last| last.compressed) {
        next_seq = next_seq.max(last.first_seq + 1);
    }
    // The server was up at least until then, so later time is what it was down. Stamps may have been set back since.
    let set_back_ms = live.progress().set_back_ms;
    let up_ms = saved_ms.map(|ms| loaded.running_ms(ms)).max(up::until(disk)?);
    let last_ms = last_ms.max(up_ms.map(|ms| ms.saturating_sub(set_back_ms)));
    recovered.start = Start { next_seq, last_ms };
    if let Some((segment, offset)) = first_damage {
        // Named by its place, so that the same damage is set aside once.
        let name = segment::set_aside_name(&format!("{segment:020}-{offset}.txt"));
        if let Err(error) = write_once(disk, &name, &set_aside) {
            tracing::error!(%error, file = name, "damaged lines cannot be set aside");
        }
        tracing::error!(
            lines = recovered.damaged,
            file = name,
            "the journal has damaged lines; they are set aside, all others are read"
        );
    }
    Ok(recovered)
}

/// The last number that some checkpoint includes by its name. Whatever becomes of it, that was committed: one that was
/// set aside counts, too, because the start that did so may have been broken off before it gave the next number.
fn newest_checkpoint_seq(disk: &dyn Disk) -> io::Result<u64> {
    let names = disk.list()?.into_iter().map(|(name, _)| name);
    let aside = segment::set_aside_name(checkpoint::PREFIX);
    let aside = names.filter(|name| name.starts_with(&aside));
    let aside = aside.filter_map(|name| segment::set_aside_seq(&name)).max();
    let newest = checkpoint::list(disk)?.first().map(|(floor_seq, _)| *floor_seq);
    Ok(newest.max(aside).unwrap_or(0))
}

/// Removes what a crash left half done. A disk that does not write is no reason not to read.
fn remove_leftovers(disk: &dyn Disk) -> io::Result<()> {
    for name in segment::leftovers(disk)? {
        if let Err(error) = disk.remove(&name) {
            tracing::warn!(%error, file = name, "what a crash left behind cannot be removed");
        }
    }
    Ok(())
}

fn write_once(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    if disk.list()?.iter().any(|(found, _)| found == name) {
        return Ok(());
    }
    write_whole(disk, name, |file| file.append(bytes))
}

/// Loads the newest checkpoint that is sound and reaches up to the first segment there is, and says when it was
/// saved; without one the whole journal is read.
fn load_checkpoint(
    disk: &dyn Disk,
    live: &Live,
    erased: &Ids,
    first_seq: Option<u64>,
    recovered: &mut Recovered,
) -> io::Result<Option<u64>> {
    for (floor_seq, name) in checkpoint::list(disk)? {
        match checkpoint::load(disk, &name, live, erased) {
            Ok(Loaded { saved_ms, whole_seq }) => {
                // A shard that was saved later includes more, which tells nothing of the others.
                if first_seq.is_none_or(|first_seq| first_seq <= whole_seq.saturating_add(1)) {
                    recovered.checkpoint_seq = Some(floor_seq);
                    return Ok(sensible(saved_ms));
                }
                tracing::error!(
                    checkpoint = name,
                    whole_seq,
                    first_seq,
                    sessions = live.sessions(),
                    "the segments that follow a checkpoint are missing; it is not used, because its sessions may \
                     have got their reports there"
                );
                live.clear();
            }
            Err(error) => {
                tracing::error!(%error, checkpoint = name, "a checkpoint is damaged; using an older one");
            }
        }
        recovered.checkpoints_broken += 1;
        // It must not count as one of the two that are kept.
        if let Err(error) = disk.rename(&name, &segment::set_aside_name(&name)) {
            tracing::warn!(%error, checkpoint = name, "it cannot be set aside");
        }
    }
    Ok(None)
}

/// A time in ms since the Unix epoch, if a server can have been up then. A clock that goes on from a later one comes
/// to an end.
fn sensible(ms: u64) -> Option<u64> {
    (ms <= LATEST_MS).then_some(ms)
}

struct Reading<'r> {
    processor: &'r mut Processor,
    /// Sessions that are folded as nothing.
    erased: &'r Ids,
    floor_seq: u64,
    /// The last number that some checkpoint includes.
    known_seq: u64,
    /// The number that the next record should have; none before the first.
    expected_seq: Option<u64>,
    last_ms: Option<u64>,
    recovered: &'r mut Recovered,
    set_aside: Vec<u8>,
    /// The segment and the offset of the first damaged line.
    first_damage: Option<(u64, u64)>,
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
            let record = match Record::read(line.text) {
                // Its checksum fits, so it was acknowledged, and without it the state would be wrong.
                Err(Damage::Unknown(why)) if line.complete => {
                    let number = line.number;
                    return Err(io::Error::other(format!(
                        "{name} line {number}: {why}; start the version of mediatally that wrote it"
                    )));
                }
                record => record.ok().filter(|_| line.complete),
            };
            let Some(record) = record.filter(|record| Some(record.seq) >= self.expected_seq) else {
                doubtful.push((line.offset, line.text.to_vec()));
                continue;
            };
            if segment.ends_before(record.seq) {
                break;
            }
            for (offset, text) in doubtful.drain(..) {
                self.set_aside(segment.first_seq, offset, &text);
            }
            self.record(record, &name);
        }
        let ends_where_the_next_begins = segment.end_seq == self.expected_seq;
        let was_committed = self.expected_seq <= Some(self.known_seq);
        match doubtful.first() {
            // The rest of a group that was not committed.
            Some((offset, _))
                if segment.end_seq.is_none() && !segment.compressed && !was_committed =>
            {
                let cut: u64 = segment.bytes.saturating_sub(*offset);
                if let Err(error) = disk.truncate(&name, *offset) {
                    // The next segment begins there, so it counts no more all the same.
                    tracing::warn!(%error, segment = name, "the incomplete end cannot be cut");
                }
                self.recovered.cut_bytes += cut;
                tracing::warn!(
                    segment = name,
                    cut_bytes = cut,
                    "the end of the journal was incomplete"
                );
            }
            Some(_) if !ends_where_the_next_begins => {
                for (offset, text) in doubtful {
                    self.set_aside(segment.first_seq, offset, &text);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Folds a record, and tells what is missing before it.
    fn record(&mut self, mut record: Record<'_>, segment: &str) {
        if record.content.sid().is_some_and(|sid| self.erased.contains(sid)) {
            let erased_ms = record.received_ms;
            record.content = Content::Erased { count: 1, until_ms: None, erased_ms };
        }
        let seq = record.seq;
        self.begins_at(seq, segment);
        self.expected_seq = Some(record.last_seq().saturating_add(1));
        self.last_ms = sensible(record.last_ms()).or(self.last_ms);
        if record.last_seq() > self.floor_seq {
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

    fn set_aside(&mut self, segment: u64, offset: u64, text: &[u8]) {
        self.first_damage.get_or_insert((segment, offset));
        self.recovered.damaged += 1;
        if self.recovered.damaged <= SET_ASIDE_MAX as u64 {
            self.set_aside.extend_from_slice(text);
            self.set_aside.push(b'\n');
        }
    }
}
