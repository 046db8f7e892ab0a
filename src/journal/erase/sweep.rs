//! The files, one after the other: looked at, and written anew without what goes.
//!
//! Every file is written whole, in small pieces, and only then takes the place of the old one.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::judge::Judge;
use crate::journal::disk::{Disk, Paced, write_whole};
use crate::journal::record::{Content, Encoded, Head, Record};
use crate::journal::segment::{self, Anew, Line, Lines, Segment};
use crate::session::id::SessionId;

/// After how many bytes of lines it is asked whether to go on.
const ASK_BYTES: u64 = 256 << 10;

/// After how many times of asking players get the machine for a while.
const ASKED_TILL_REST: u32 = 4;

/// How long they get it.
const REST: Duration = Duration::from_millis(1);

/// Whoever is told how far the work is, in bytes read and bytes to read; an error ends the work.
pub type Tell<'t> = &'t mut dyn FnMut(u64, u64) -> io::Result<()>;

/// Whoever has other duties between two files; says whether the files may be others than before.
pub type Between<'b> = &'b mut dyn FnMut() -> bool;

/// How far the work is.
pub struct Meter<'t> {
    tell: Tell<'t>,
    between: Option<Between<'t>>,
    done_bytes: u64,
    total_bytes: u64,
    /// Whether a server runs that must not feel it.
    rests: bool,
    unasked_bytes: u64,
    asked: u32,
}

impl<'t> Meter<'t> {
    /// Nothing is read yet; with a server that runs, it `rests` now and then.
    pub fn new(tell: Tell<'t>, rests: bool) -> Self {
        let (done_bytes, total_bytes, unasked_bytes, asked) = (0, 0, 0, 0);
        Self { tell, between: None, done_bytes, total_bytes, rests, unasked_bytes, asked }
    }

    /// The same for somebody who has other duties.
    pub(super) fn beside(self, between: Between<'t>) -> Self {
        Self { between: Some(between), ..self }
    }

    /// No file is open and none is half done: lets others at them. Says whether they may be others than before.
    pub(super) fn between_files(&mut self) -> bool {
        self.between.as_mut().is_some_and(|between| between())
    }

    /// At least so much is still to be read.
    pub(super) fn expect(&mut self, bytes: u64) {
        self.total_bytes = self.total_bytes.max(self.done_bytes + bytes);
    }

    /// A file of so many bytes is read.
    pub(super) fn file(&mut self, bytes: u64) -> io::Result<()> {
        self.done_bytes += bytes;
        self.total_bytes = self.total_bytes.max(self.done_bytes);
        (self.tell)(self.done_bytes, self.total_bytes)
    }

    /// A line of so many bytes is read.
    ///
    /// # Errors
    /// What whoever is told says, and then the work is to end; so for the other.
    pub fn line(&mut self, bytes: usize) -> io::Result<()> {
        self.unasked_bytes += bytes as u64;
        if self.unasked_bytes < ASK_BYTES {
            return Ok(());
        }
        self.unasked_bytes = 0;
        self.asked += 1;
        if self.rests && self.asked.is_multiple_of(ASKED_TILL_REST) {
            std::thread::sleep(REST);
        }
        (self.tell)(self.done_bytes, self.total_bytes)
    }

    /// Another is at work.
    ///
    /// # Errors
    /// See [`Meter::line`].
    pub fn waits(&mut self) -> io::Result<()> {
        (self.tell)(self.done_bytes, self.total_bytes)
    }
}

impl fmt::Debug for Meter<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Meter").finish_non_exhaustive()
    }
}

/// Whoever is told of each line, with its length in bytes; an error ends the work.
pub type Pace<'p> = &'p mut dyn FnMut(usize) -> io::Result<()>;

/// What was seen of a segment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Look {
    /// How many records go, by kind.
    pub(super) records: BTreeMap<String, u64>,
    /// How many lines go that are no records, or count no more.
    pub(super) damaged_lines: u64,
    /// How many reports stay and name a session that goes as the first of a start that was sent again.
    pub(super) naming: u64,
    /// How many records stay and have a searched value.
    pub(super) value_left_lines: u64,
    /// Whether it cannot be unpacked to its end.
    pub(super) is_cut_short: bool,
}

impl Look {
    /// Whether anything in it goes.
    pub(super) fn is_dirty(&self) -> bool {
        !self.records.is_empty() || self.damaged_lines > 0 || self.naming > 0
    }
}

/// What becomes of a line.
enum Fate<'l> {
    Stays {
        has_value: bool,
    },
    /// A report that stays and names a session that goes.
    Names,
    /// A record of a session that goes.
    Goes(Head<'l>),
    /// No record, and it goes.
    Condemned,
    /// It stands where the next segment has begun, so it counts no more.
    Beyond,
}

/// The next line; none at the end, or where a compressed segment cannot be unpacked any further.
pub(super) fn next_line<'l>(
    lines: &'l mut Lines,
    segment: &Segment,
    is_cut_short: &mut bool,
) -> io::Result<Option<Line<'l>>> {
    match lines.next_line() {
        // What the system could not read is no damage: it may be read the next time.
        Err(error) if segment.compressed && error.raw_os_error().is_none() => {
            *is_cut_short = true;
            Ok(None)
        }
        line => line,
    }
}

/// Calls `take` with each line of a segment and what becomes of it. Says whether the segment is cut short.
fn walk(
    disk: &dyn Disk,
    segment: &Segment,
    judge: &Judge,
    meter: &mut Meter<'_>,
    mut take: impl FnMut(&Line<'_>, Fate<'_>) -> io::Result<()>,
) -> io::Result<bool> {
    let mut lines = segment.lines(disk)?;
    let (mut is_cut_short, mut is_beyond) = (false, false);
    let mut expected_seq = segment.first_seq;
    while let Some(line) = next_line(&mut lines, segment, &mut is_cut_short)? {
        meter.line(line.text.len())?;
        let head = Some(line.text).filter(|_| line.complete && !is_beyond).and_then(Head::of_sound);
        // One with a number that was there before counts no more than a damaged line.
        let head = head.filter(|head| head.seq >= expected_seq);
        is_beyond |= head.is_some_and(|head| segment.ends_before(head.seq));
        let fate = match head.filter(|_| !is_beyond) {
            Some(head) => {
                expected_seq = match head.kind {
                    "erased" => {
                        Record::read(line.text).map_or(head.seq, |record| record.last_seq())
                    }
                    _ => head.seq,
                };
                expected_seq = expected_seq.saturating_add(1);
                if head.sid.is_some_and(|sid| judge.ids().contains(sid)) {
                    Fate::Goes(head)
                } else if head.kind == "report" && judge.is_named(line.text) {
                    Fate::Names
                } else {
                    Fate::Stays { has_value: judge.finds_value(line.text) }
                }
            }
            None if judge.condemns(line.text) => Fate::Condemned,
            None if is_beyond => Fate::Beyond,
            None => Fate::Stays { has_value: false },
        };
        take(&line, fate)?;
    }
    Ok(is_cut_short)
}

/// Looks at a segment. `seen` is told the session of each record that goes.
pub(super) fn look(
    disk: &dyn Disk,
    segment: &Segment,
    judge: &Judge,
    meter: &mut Meter<'_>,
    mut seen: impl FnMut(SessionId),
) -> io::Result<Look> {
    let mut look = Look::default();
    let is_cut_short = walk(disk, segment, judge, meter, |_, fate| {
        match fate {
            Fate::Goes(head) => {
                head.sid.into_iter().for_each(&mut seen);
                match look.records.get_mut(head.kind) {
                    Some(count) => *count += 1,
                    None => drop(look.records.insert(head.kind.to_owned(), 1)),
                }
            }
            Fate::Condemned => look.damaged_lines += 1,
            Fate::Names => look.naming += 1,
            Fate::Stays { has_value } => look.value_left_lines += u64::from(has_value),
            Fate::Beyond => {}
        }
        Ok(())
    })?;
    look.is_cut_short = is_cut_short;
    meter.file(segment.bytes)?;
    Ok(look)
}

/// Writes a segment anew without what goes; a closed one compressed. Half a line at its end, which nobody
/// was told of, and what does not count in it go too.
pub(super) fn rewrite(
    disk: &dyn Disk,
    segment: &Segment,
    judge: &Judge,
    erased_ms: u64,
    meter: &mut Meter<'_>,
) -> io::Result<()> {
    segment.rewrite(disk, |anew| write_rest(disk, segment, judge, erased_ms, meter, anew))
}

/// Records that go, one after the other: another takes their place.
struct Run {
    first_seq: u64,
    received_ms: u64,
    until_ms: u64,
    count: u64,
}

impl Run {
    fn of(head: &Head<'_>) -> Self {
        let (first_seq, received_ms) = (head.seq, head.received_ms);
        Self { first_seq, received_ms, until_ms: received_ms, count: 1 }
    }

    fn write(&self, anew: &mut Anew<'_>, erased_ms: u64) -> io::Result<()> {
        let until_ms = Some(self.until_ms).filter(|until_ms| *until_ms != self.received_ms);
        let record = Encoded::short(Content::Erased { count: self.count, until_ms, erased_ms });
        let mut line = Vec::new();
        record.write_line(&mut line, self.first_seq, self.received_ms);
        anew.add(&line)
    }
}

fn write_rest(
    disk: &dyn Disk,
    segment: &Segment,
    judge: &Judge,
    erased_ms: u64,
    meter: &mut Meter<'_>,
    anew: &mut Anew<'_>,
) -> io::Result<()> {
    let mut run: Option<Run> = None;
    walk(disk, segment, judge, meter, |line, fate| {
        match (fate, &mut run) {
            (Fate::Goes(head), Some(run)) if head.seq == run.first_seq + run.count => {
                (run.count, run.until_ms) = (run.count + 1, head.received_ms);
                return Ok(());
            }
            (Fate::Condemned | Fate::Beyond, _) => return Ok(()),
            (fate, _) => {
                if let Some(run) = run.take() {
                    run.write(anew, erased_ms)?;
                }
                match fate {
                    Fate::Goes(head) => {
                        run = Some(Run::of(&head));
                        return Ok(());
                    }
                    Fate::Names => return anew.add(&Judge::without_first(line.text)?),
                    _ => {}
                }
            }
        }
        anew.keep(line)
    })?;
    run.map_or(Ok(()), |run| run.write(anew, erased_ms))
}

/// How many lines of a file that holds no records go.
///
/// # Errors
/// What the system says, or what `pace` does.
pub(crate) fn count_lines(
    disk: &dyn Disk,
    name: &str,
    goes: &dyn Fn(&[u8]) -> bool,
    pace: Pace<'_>,
) -> io::Result<u64> {
    let mut count = 0;
    each_line(disk, name, |line| {
        pace(line.len())?;
        count += u64::from(goes(line));
        Ok(())
    })?;
    Ok(count)
}

/// Removes the lines that go from a file that holds no records, and the file if nothing is left of it. Says
/// how many those are.
///
/// # Errors
/// What the system says, or what `pace` does; the file is then as it was.
pub(crate) fn purge_lines(
    disk: &dyn Disk,
    name: &str,
    goes: &dyn Fn(&[u8]) -> bool,
    pace: Pace<'_>,
) -> io::Result<u64> {
    let (mut count, mut has_rest) = (0, false);
    each_line(disk, name, |line| {
        pace(line.len())?;
        let goes = goes(line);
        count += u64::from(goes);
        has_rest |= !goes;
        Ok(())
    })?;
    if count == 0 {
        return Ok(0);
    }
    if !has_rest {
        disk.remove(name)?;
        return Ok(count);
    }
    write_whole(disk, name, |file| {
        let mut paced = Paced::new(file);
        each_line(disk, name, |line| {
            pace(line.len())?;
            if goes(line) { Ok(()) } else { paced.write_all(line) }
        })?;
        paced.end()
    })?;
    Ok(count)
}

/// Calls `take` with each line of a file, line break and all. The file is bounded, so its lines are.
fn each_line(
    disk: &dyn Disk,
    name: &str,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 18, disk.open(name)?);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        take(&line)?;
        line.clear();
    }
    Ok(())
}

/// The segments of a journal one after the other, from a number on and before another, or to the end, while others
/// compress and remove some of them.
pub(super) struct Ahead<'d> {
    disk: &'d dyn Disk,
    next_seq: u64,
    before_seq: Option<u64>,
    segments: VecDeque<Segment>,
}

impl<'d> Ahead<'d> {
    pub(super) fn from(
        next_seq: u64,
        before_seq: Option<u64>,
        disk: &'d dyn Disk,
    ) -> io::Result<Self> {
        let mut ahead = Self { disk, next_seq, before_seq, segments: VecDeque::new() };
        ahead.list()?;
        Ok(ahead)
    }

    /// Looks anew which there are.
    pub(super) fn list(&mut self) -> io::Result<()> {
        let is_ahead = |segment: &Segment| {
            segment.first_seq >= self.next_seq
                && self.before_seq.is_none_or(|before_seq| segment.first_seq < before_seq)
        };
        self.segments = segment::list(self.disk)?.into_iter().filter(is_ahead).collect();
        Ok(())
    }

    pub(super) fn next(&mut self) -> Option<Segment> {
        let segment = self.segments.pop_front()?;
        self.next_seq = segment.first_seq + 1;
        Some(segment)
    }

    /// The size of all that are ahead.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }
}
