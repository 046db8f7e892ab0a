//! A journal copied while a server writes it: checkpoints first, then segments, the newest first.
//!
//! ```text
//! now          copied 1st: checkpoints      … floor ≤ what is committed
//!  │ list ─────────────────────────────────── from here on the copy has all that was acknowledged before
//!  │           copied 2nd: the segment that grows, up to its last good line
//!  ▼           copied 3rd, 4th, …: the ones before it, back to the oldest
//! ```
//! What a checkpoint includes is committed before it gets its name, so the segments that are listed after it
//! hold it. Retention removes the oldest segments first, so what it takes away meanwhile is missing at the
//! beginning of the copy and leaves no gap. A segment that is compressed meanwhile is found under its new name.

use std::io::{self, Read};

use super::checkpoint;
use super::disk::Disk;
use super::record::Record;
use super::segment::{self, Segment};

/// How much is copied and synced at once: a large file synced at once would stall a server on the same disk.
const PIECE_BYTES: usize = 1 << 20;

/// How often it begins anew because retention overtook it.
const ROUNDS_MAX: usize = 10;

/// What was copied.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// How many segments.
    pub segments: usize,
    /// The newest checkpoint, by its floor.
    pub checkpoint_seq: Option<u64>,
    /// Bytes at the end of the last segment that are no good line, not copied.
    pub cut_bytes: u64,
}

/// Copies a journal into an empty folder, and tells of all bytes that were copied so far.
///
/// # Errors
/// What the system says, or that retention removes segments faster than they are copied.
pub fn copy(from: &dyn Disk, to: &dyn Disk, mut tell: impl FnMut(u64)) -> io::Result<Copied> {
    for _ in 0..ROUNDS_MAX {
        let mut copying = Copying { from, to, bytes: 0, tell: &mut tell };
        if let Some(copied) = copying.round()? {
            return Ok(copied);
        }
        for (name, _) in to.list()? {
            to.remove(&name)?;
        }
    }
    Err(io::Error::other(
        "segments are removed faster than they can be copied; raise journal.retention_bytes",
    ))
}

struct Copying<'c, T> {
    from: &'c dyn Disk,
    to: &'c dyn Disk,
    bytes: u64,
    tell: &'c mut T,
}

impl<T: FnMut(u64)> Copying<'_, T> {
    /// One try; nothing if it was overtaken by retention.
    fn round(&mut self) -> io::Result<Option<Copied>> {
        let mut checkpoints = Vec::new();
        for (floor_seq, name) in checkpoint::list(self.from)? {
            if self.file(&name, u64::MAX)? {
                checkpoints.push((floor_seq, name));
            }
        }
        let mut copied = Copied::default();
        let (mut first_seq, mut overtaken) = (u64::MAX, false);
        let segments = segment::list(self.from)?;
        for segment in segments.iter().rev() {
            if !self.segment(segment)? {
                overtaken = true;
                break;
            }
            first_seq = segment.first_seq;
            copied.segments += 1;
        }
        if overtaken {
            // A checkpoint whose records are not all there is worth nothing.
            for (_, name) in checkpoints.extract_if(.., |(floor_seq, _)| *floor_seq + 1 < first_seq)
            {
                self.to.remove(&name)?;
            }
            if checkpoints.is_empty() {
                return Ok(None);
            }
        }
        copied.checkpoint_seq = checkpoints.first().map(|(floor_seq, _)| *floor_seq);
        if let Some(last) = segments.last() {
            copied.cut_bytes = self.cut(last.first_seq)?;
        }
        for (name, _) in self.from.list()? {
            if is_set_aside(&name) {
                self.file(&name, u64::MAX)?;
            }
        }
        Ok(Some(copied))
    }

    /// Copies a segment; false if it was removed since it was listed.
    fn segment(&mut self, segment: &Segment) -> io::Result<bool> {
        // The one that grows has what was acknowledged before it was listed; nobody waits for more.
        let grows = segment.end_seq.is_none() && !segment.compressed;
        let bytes_max = if grows { segment.bytes } else { u64::MAX };
        Ok(self.file(&segment.name(), bytes_max)?
            || self.file(&segment::closed_name(segment.first_seq), u64::MAX)?)
    }

    /// Copies a file; false if it is not there.
    fn file(&mut self, name: &str, bytes_max: u64) -> io::Result<bool> {
        let mut from = match self.from.open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened?.take(bytes_max),
        };
        let mut to = self.to.create(name)?;
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        loop {
            piece.clear();
            let read = (&mut from).take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
            to.append(&piece)?;
            to.sync()?;
            self.bytes += read as u64;
            (self.tell)(self.bytes);
            if read < PIECE_BYTES {
                return Ok(true);
            }
        }
    }

    /// Cuts what stands behind the last good line of a copied segment, if it is not compressed: it is being
    /// written, or a crash left it.
    fn cut(&self, first_seq: u64) -> io::Result<u64> {
        let name = segment::open_name(first_seq);
        let Some((_, bytes)) = self.to.list()?.into_iter().find(|(found, _)| *found == name) else {
            return Ok(0);
        };
        let segment = Segment { first_seq, end_seq: None, compressed: false, bytes };
        let mut lines = segment.lines(self.to)?;
        let mut good_bytes = 0;
        while let Some(line) = lines.next_line()? {
            if line.complete && Record::read(line.text).is_ok() {
                good_bytes = line.offset + line.text.len() as u64 + 1;
            }
        }
        if good_bytes < bytes {
            self.to.truncate(&name, good_bytes)?;
        }
        Ok(bytes - good_bytes)
    }
}

/// Whether a file holds what a recovery set aside.
fn is_set_aside(name: &str) -> bool {
    name.starts_with("damaged-")
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::journal::disk::DiskFile;
    use crate::journal::record::{Content, Encoded};
    use crate::journal::sim::SimDisk;

    /// Lines of records with these numbers.
    fn lines(numbers: std::ops::Range<u64>) -> Vec<u8> {
        let mut lines = Vec::new();
        for seq in numbers {
            Encoded::new(Content::Pause { down_ms: seq }).write_line(&mut lines, seq, 1);
        }
        lines
    }

    /// A journal of five segments with ten records each, and checkpoints at these numbers.
    fn journal(checkpoints: &[u64]) -> SimDisk {
        let disk = SimDisk::default();
        for first_seq in [1, 11, 21, 31, 41] {
            disk.write(&segment::open_name(first_seq), lines(first_seq..first_seq + 10));
        }
        for floor_seq in checkpoints {
            disk.write(&format!("checkpoint-{floor_seq:020}"), b"saved".to_vec());
        }
        disk
    }

    /// A disk on which something happens when a file is opened.
    struct Busy<F> {
        disk: SimDisk,
        happens: Mutex<F>,
    }

    impl<F: FnMut(&SimDisk, &str) + Send> Disk for Busy<F> {
        fn list(&self) -> io::Result<Vec<(String, u64)>> {
            self.disk.list()
        }

        fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
            (self.happens.lock())(&self.disk, name);
            self.disk.open(name)
        }

        fn create(&self, _: &str) -> io::Result<Box<dyn DiskFile>> {
            unreachable!("a backup only reads")
        }

        fn truncate(&self, _: &str, _: u64) -> io::Result<()> {
            unreachable!("a backup only reads")
        }

        fn rename(&self, _: &str, _: &str) -> io::Result<()> {
            unreachable!("a backup only reads")
        }

        fn remove(&self, _: &str) -> io::Result<()> {
            unreachable!("a backup only reads")
        }
    }

    fn copied(
        from: &SimDisk,
        happens: impl FnMut(&SimDisk, &str) + Send,
    ) -> io::Result<(SimDisk, Copied)> {
        let to = SimDisk::default();
        let busy = Busy { disk: from.clone(), happens: Mutex::new(happens) };
        let copied = copy(&busy, &to, |_| {})?;
        Ok((to, copied))
    }

    fn names(disk: &SimDisk) -> Vec<String> {
        disk.list().unwrap().into_iter().map(|(name, _)| name).collect()
    }

    /// The numbers of the records that count.
    fn numbers(disk: &SimDisk) -> Vec<u64> {
        let mut numbers = Vec::new();
        segment::each_line(disk, |_, _, record| {
            numbers.push(record.unwrap().seq);
            io::Result::Ok(())
        })
        .unwrap();
        numbers
    }

    #[test]
    fn what_is_written_while_it_is_copied_is_left_out_and_nothing_else() {
        let from = journal(&[25, 45]);
        from.write("damaged-1-2.txt", b"aside".to_vec());
        from.write("checkpoint-00000000000000000050.unfinished", b"half".to_vec());
        let last = segment::open_name(41);
        let (to, copied) = copied(&from, |disk, name| {
            if name == last {
                let grown = [lines(41..51), lines(51..60)].concat();
                disk.write(name, grown);
                disk.write(&segment::open_name(60), lines(60..61));
            }
        })
        .unwrap();
        let checkpoint_seq = Some(45);
        assert_eq!(copied, Copied { segments: 5, checkpoint_seq, cut_bytes: 0 });
        assert_eq!(numbers(&to), (1..51).collect::<Vec<_>>());
        assert_eq!(to.read("damaged-1-2.txt"), b"aside");
        assert_eq!(names(&to).len(), 8);
    }

    #[test]
    fn half_a_line_at_the_end_is_cut() {
        let from = journal(&[]);
        let torn = [&lines(41..44)[..], b"no record\n", &lines(44..45)[..30]].concat();
        from.write(&segment::open_name(41), torn);
        let (to, copied) = copied(&from, |_, _| {}).unwrap();
        assert_eq!((copied.cut_bytes, copied.checkpoint_seq), (40, None));
        assert_eq!(numbers(&to), (1..44).collect::<Vec<_>>());
    }

    #[test]
    fn a_segment_that_is_compressed_meanwhile_is_found() {
        let from = journal(&[]);
        let packed = zstd::encode_all(&*lines(21..31), 1).unwrap();
        let (to, _) = copied(&from, |disk, name| {
            if name == segment::open_name(21) {
                disk.write(&segment::closed_name(21), packed.clone());
                disk.remove(name).unwrap();
            }
        })
        .unwrap();
        assert!(names(&to).contains(&segment::closed_name(21)));
        assert_eq!(numbers(&to), (1..51).collect::<Vec<_>>());
    }

    /// Removes the segments that begin before this number.
    fn retain(disk: &SimDisk, from_seq: u64) {
        for segment in segment::list(disk).unwrap() {
            if segment.first_seq < from_seq {
                disk.remove(&segment.name()).unwrap();
            }
        }
    }

    #[test]
    fn what_retention_removes_meanwhile_leaves_no_gap() {
        let from = journal(&[15, 35]);
        let (to, copied) = copied(&from, |disk, name| {
            if name == segment::open_name(31) {
                retain(disk, 31);
            }
        })
        .unwrap();
        assert_eq!((copied.segments, copied.checkpoint_seq), (2, Some(35)));
        assert_eq!(numbers(&to), (31..51).collect::<Vec<_>>());
        assert!(!names(&to).contains(&"checkpoint-00000000000000000015".to_owned()));
    }

    #[test]
    fn a_copy_whose_checkpoints_are_overtaken_is_begun_anew() {
        let from = journal(&[5, 15]);
        let (to, copied) = copied(&from, |disk, name| {
            if name == segment::open_name(41) && names(disk).contains(&segment::open_name(1)) {
                disk.remove("checkpoint-00000000000000000005").unwrap();
                disk.write("checkpoint-00000000000000000045", b"newer".to_vec());
                retain(disk, 41);
            }
        })
        .unwrap();
        assert_eq!(copied.checkpoint_seq, Some(45));
        assert_eq!(numbers(&to), (41..51).collect::<Vec<_>>());
    }

    #[test]
    fn a_journal_that_vanishes_while_it_is_copied_is_an_error() {
        let from = journal(&[]);
        let mut next_seq = 51;
        let error = copied(&from, |disk, name| {
            if name.ends_with(".ndjson") {
                let _ = disk.remove(name);
                disk.write(&segment::open_name(next_seq), lines(next_seq..next_seq + 1));
                next_seq += 1;
            }
        });
        assert!(error.err().unwrap().to_string().contains("removed faster"));
    }
}
