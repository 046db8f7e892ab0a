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
//!
//! An erasure meanwhile would leave a person's sessions in one part of the copy and not in another. So it is waited
//! for, and a copy in whose time there was one is begun anew. That is seen last of all: if no order stands then,
//! every erasure so far is done, and has put others in the place of the files that it changed. Of a file that is
//! not there any more, be it by retention, nobody can tell; so it counts only if nothing came or went in the data
//! folder, where an order would have.

use std::io::{self, Read};

use super::checkpoint;
use super::disk::{Disk, Mark, unless_missing};
use super::erase::order::ORDER_FILE;
use super::record::Record;
use super::segment::{self, Segment};

/// How much is copied and synced at once: a large file synced at once would stall a server on the same disk.
const PIECE_BYTES: usize = 1 << 20;

/// How often it begins anew because retention overtook it, or somebody erased meanwhile.
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

/// Where a journal is copied from.
#[derive(Clone, Copy)]
pub struct Source<'s> {
    /// The data folder.
    pub home: &'s dyn Disk,
    /// The folder of the journal.
    pub journal: &'s dyn Disk,
}

/// Copies a journal into an empty folder, and tells of all bytes that were copied so far. As long as an order to
/// erase stands, it calls `wait`, which gives up by failing.
///
/// # Errors
/// What the system says, or `wait`, or that the files are changed faster than they are copied. After the latter two
/// the folder is empty.
pub fn copy(
    from: Source<'_>,
    to: &dyn Disk,
    mut wait: impl FnMut() -> io::Result<()>,
    mut tell: impl FnMut(u64),
) -> io::Result<Copied> {
    let mut why = "";
    for _ in 0..ROUNDS_MAX {
        while from.has_order()? {
            wait()?;
        }
        let home = from.home.own_mark()?;
        let (marks, tell) = (Vec::new(), &mut tell);
        let mut copying = Copying { from: from.journal, to, bytes: 0, marks, tell };
        why = match copying.round()? {
            Some(copied) if !copying.is_torn(from, home)? => return Ok(copied),
            Some(_) => "somebody erases again and again, or changes the data folder otherwise",
            None => {
                "segments are removed faster than they can be copied; raise journal.retention_bytes"
            }
        };
        for (name, _) in to.list()? {
            to.remove(&name)?;
        }
    }
    Err(io::Error::other(why))
}

impl Source<'_> {
    /// Whether an order to erase stands.
    fn has_order(self) -> io::Result<bool> {
        Ok(unless_missing(self.home.mark(ORDER_FILE))?.is_some())
    }
}

struct Copying<'c, T> {
    from: &'c dyn Disk,
    to: &'c dyn Disk,
    bytes: u64,
    /// The files as they were before they were copied, and whether they grow.
    marks: Vec<(String, Mark, bool)>,
    tell: &'c mut T,
}

impl<T: FnMut(u64)> Copying<'_, T> {
    /// One try; nothing if it was overtaken by retention.
    fn round(&mut self) -> io::Result<Option<Copied>> {
        let mut checkpoints = Vec::new();
        for (floor_seq, name) in checkpoint::list(self.from)? {
            if self.file(&name, None)? {
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
            copied.cut_bytes = self.cut(last.first_seq, copied.checkpoint_seq.unwrap_or(0))?;
        }
        for (name, _) in self.from.list()? {
            if segment::is_set_aside(&name) {
                self.file(&name, None)?;
            }
        }
        Ok(Some(copied))
    }

    /// Whether something may have been erased since this was begun, when the data folder had this mark.
    fn is_torn(&self, from: Source<'_>, home: Mark) -> io::Result<bool> {
        if from.has_order()? {
            return Ok(true);
        }
        let is_touched = from.home.own_mark()? != home;
        for (name, before, grows) in &self.marks {
            let is_other = match unless_missing(self.from.mark(name))? {
                Some(now) if *grows => now.file != before.file,
                Some(now) => now != *before,
                None => is_touched,
            };
            if is_other {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Copies a segment; false if it was removed since it was listed.
    fn segment(&mut self, segment: &Segment) -> io::Result<bool> {
        // The one that grows has what was acknowledged before it was listed; nobody waits for more.
        let grows = segment.end_seq.is_none() && !segment.compressed;
        let grown_bytes = grows.then_some(segment.bytes);
        Ok(self.file(&segment.name(), grown_bytes)?
            || self.file(&segment::closed_name(segment.first_seq), None)?)
    }

    /// Copies a file, of one that grows so many bytes; false if it is not there.
    fn file(&mut self, name: &str, grown_bytes: Option<u64>) -> io::Result<bool> {
        // Marked before it is opened: if another takes its place in between, that one is no longer as marked.
        let Some(mark) = unless_missing(self.from.mark(name))? else { return Ok(false) };
        let Some(from) = unless_missing(self.from.open(name))? else { return Ok(false) };
        self.marks.push((name.to_owned(), mark, grown_bytes.is_some()));
        let mut from = from.take(grown_bytes.unwrap_or(u64::MAX));
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
    /// written, or a crash left it. Unless there should be good lines up to this number: then it is damage, and the
    /// start that finds it sets it aside.
    fn cut(&self, first_seq: u64, committed_seq: u64) -> io::Result<u64> {
        let name = segment::open_name(first_seq);
        let Some((_, bytes)) = self.to.list()?.into_iter().find(|(found, _)| *found == name) else {
            return Ok(0);
        };
        let segment = Segment { first_seq, end_seq: None, compressed: false, bytes };
        let mut lines = segment.lines(self.to)?;
        let (mut good_bytes, mut good_seq) = (0, first_seq.saturating_sub(1));
        while let Some(line) = lines.next_line()? {
            if line.complete
                && let Ok(record) = Record::read(line.text)
            {
                good_bytes = line.offset + line.text.len() as u64 + 1;
                good_seq = good_seq.max(record.last_seq());
            }
        }
        if good_seq < committed_seq {
            return Ok(0);
        }
        if good_bytes < bytes {
            self.to.truncate(&name, good_bytes)?;
        }
        Ok(bytes - good_bytes)
    }
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
            let pause = Content::Pause { down_ms: seq, set_back_ms: 0 };
            Encoded::short(pause).write_line(&mut lines, seq, 1);
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

        fn mark(&self, name: &str) -> io::Result<Mark> {
            self.disk.mark(name)
        }

        fn remove(&self, _: &str) -> io::Result<()> {
            unreachable!("a backup only reads")
        }
    }

    fn copied(
        from: &SimDisk,
        happens: impl FnMut(&SimDisk, &str) + Send,
    ) -> io::Result<(SimDisk, Copied)> {
        copied_beside(&SimDisk::default(), from, happens)
    }

    /// The same with a data folder, in which no order to erase may stand in between.
    fn copied_beside(
        home: &SimDisk,
        from: &SimDisk,
        happens: impl FnMut(&SimDisk, &str) + Send,
    ) -> io::Result<(SimDisk, Copied)> {
        let to = SimDisk::default();
        let busy = Busy { disk: from.clone(), happens: Mutex::new(happens) };
        let wait = || Err(io::Error::other("nobody waits here"));
        let copied = copy(Source { home, journal: &busy }, &to, wait, |_| {})?;
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
                disk.grow(name, &lines(51..60));
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
    fn a_damaged_end_that_a_checkpoint_knows_is_copied_as_it_is() {
        for (floor_seq, cut_bytes) in [(43, 10), (44, 0)] {
            let from = journal(&[floor_seq]);
            let damaged = [&lines(41..44)[..], b"no record\n"].concat();
            from.write(&segment::open_name(41), damaged.clone());
            let (to, copied) = copied(&from, |_, _| {}).unwrap();
            assert_eq!(copied.cut_bytes, cut_bytes);
            let kept = to.read(&segment::open_name(41)).len() as u64;
            assert_eq!(kept + cut_bytes, damaged.len() as u64);
        }
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

    /// Writes a segment of ten records anew, as an erasure does.
    fn erase(disk: &SimDisk, first_seq: u64) {
        let mut text = lines(first_seq..first_seq + 1);
        let record = Encoded::short(Content::Erased { count: 9, until_ms: None, erased_ms: 1 });
        record.write_line(&mut text, first_seq + 1, 1);
        let _ = disk.remove(&segment::open_name(first_seq));
        disk.write(&segment::closed_name(first_seq), zstd::encode_all(&*text, 1).unwrap());
    }

    /// How many records were erased from each of the segments that begin with these numbers.
    fn erased(disk: &SimDisk, first_seqs: &[u64]) -> Vec<u64> {
        let mut erased = vec![0; first_seqs.len()];
        segment::each_line(disk, |segment, _, record| {
            if let Content::Erased { count, .. } = record.unwrap().content {
                let place = first_seqs.iter().position(|first| *first == segment.first_seq);
                erased[place.unwrap()] += count;
            }
            io::Result::Ok(())
        })
        .unwrap();
        erased
    }

    #[test]
    fn an_erasure_that_begins_and_ends_meanwhile_is_in_the_whole_copy_or_in_nothing_of_it() {
        // The segment that was copied, and the one that was not, in every state that they can have before.
        for (is_packed, has_gone) in [(false, false), (true, false), (true, true)] {
            let from = journal(if has_gone { &[45] } else { &[] });
            if is_packed {
                for first_seq in [11, 31] {
                    from.remove(&segment::open_name(first_seq)).unwrap();
                    let packed = zstd::encode_all(&*lines(first_seq..first_seq + 10), 1).unwrap();
                    from.write(&segment::closed_name(first_seq), packed);
                }
            }
            let (home, mut times) = (SimDisk::default(), 0);
            let (to, _) = copied_beside(&home, &from, |disk, name| {
                if name == segment::open_name(21) && times == 0 {
                    times += 1;
                    home.write(ORDER_FILE, b"order".to_vec());
                    erase(disk, 11);
                    erase(disk, 31);
                    if has_gone {
                        disk.write(&segment::open_name(51), lines(51..61));
                        retain(disk, 41);
                    }
                    home.remove(ORDER_FILE).unwrap();
                }
            })
            .unwrap();
            let expected = if has_gone { [0, 0] } else { [9, 9] };
            assert_eq!(erased(&to, &[11, 31]), expected, "{is_packed} {has_gone}");
            let count = if has_gone { 20 } else { 34 };
            assert_eq!(numbers(&to).len(), count, "{is_packed} {has_gone}");
        }
    }

    #[test]
    fn a_checkpoint_that_was_cleaned_meanwhile_is_copied_anew() {
        let from = journal(&[45]);
        let name = "checkpoint-00000000000000000045";
        let mut times = 0;
        let (to, _) = copied(&from, |disk, opened| {
            if opened == segment::open_name(1) && times == 0 {
                times += 1;
                disk.write(name, b"clean".to_vec());
            }
        })
        .unwrap();
        assert_eq!(to.read(name), b"clean");
    }

    #[test]
    fn an_order_that_stands_is_waited_for() {
        let (home, from, to) = (SimDisk::default(), journal(&[]), SimDisk::default());
        home.write(ORDER_FILE, b"order".to_vec());
        let mut waits = 0;
        let source = Source { home: &home, journal: &from };
        let wait = || {
            waits += 1;
            assert!(to.list().unwrap().is_empty());
            if waits == 3 { home.remove(ORDER_FILE) } else { Ok(()) }
        };
        assert_eq!(copy(source, &to, wait, |_| {}).unwrap().segments, 5);
        assert_eq!(waits, 3);
    }

    #[test]
    fn a_copy_in_whose_time_an_order_came_is_begun_anew_once_it_is_done() {
        let (home, from) = (SimDisk::default(), journal(&[]));
        let error = copied_beside(&home, &from, |_, name| {
            if name == segment::open_name(1) {
                home.write(ORDER_FILE, b"order".to_vec());
            }
        });
        assert_eq!(error.err().unwrap().to_string(), "nobody waits here");
    }

    #[test]
    fn a_folder_in_which_it_never_stops_erasing_is_an_error() {
        let from = journal(&[]);
        erase(&from, 31);
        let error = copied(&from, |disk, name| {
            if name == segment::open_name(1) {
                erase(disk, 31);
            }
        });
        assert!(error.err().unwrap().to_string().contains("erases again and again"));
    }
}
