//! The segments of the journal: their names, and how to read them.
//!
//! A segment is named by the number of its first record, `00000000000000000001.ndjson`, and ends where
//! the name of the next one begins, whatever may stand in it after that. Once closed it is compressed
//! to `….ndjson.zst`. Its first record is `settings`, which tells what must be known of those before it; those of
//! older versions begin with any record.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read, Write};

use super::checkpoint;
use super::disk::{Disk, Paced, is_unfinished, unless_missing, write_whole};
use super::record::{Damage, LINE_BYTES_MAX, Record};

/// How files are named; nothing else spells them.
const OPEN_SUFFIX: &str = ".ndjson";
const CLOSED_SUFFIX: &str = ".ndjson.zst";
const SET_ASIDE_PREFIX: &str = "damaged-";

/// How many digits a number has in a name.
const NUMBER_DIGITS: usize = 20;

/// A good ratio for little time; records shrink to about a tenth.
const ZSTD_LEVEL: i32 = 3;

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The number of its first record.
    pub first_seq: u64,
    /// The number at which the next segment begins, if there is one: nothing from there on counts.
    pub end_seq: Option<u64>,
    /// Whether it is compressed, and so closed.
    pub compressed: bool,
    /// Its size on disk.
    pub bytes: u64,
}

impl Segment {
    /// The name of its file.
    pub fn name(&self) -> String {
        if self.compressed { closed_name(self.first_seq) } else { open_name(self.first_seq) }
    }

    /// Reads it line by line.
    ///
    /// # Errors
    /// What the system says.
    pub fn lines(&self, disk: &dyn Disk) -> io::Result<Lines> {
        let opened = disk.open(&self.name()).map(|file| (file, self.compressed));
        let (file, compressed) = match opened {
            // A running server has compressed it since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.compressed => {
                (disk.open(&closed_name(self.first_seq))?, true)
            }
            opened => opened?,
        };
        let reader: Box<dyn Read + Send> =
            if compressed { Box::new(zstd::Decoder::new(file)?) } else { file };
        Ok(Lines {
            reader: BufReader::with_capacity(1 << 18, reader),
            offset: 0,
            number: 0,
            line: Vec::new(),
        })
    }
}

impl Segment {
    /// When its first record was received, in ms since the Unix epoch by the server's clock; nothing if none
    /// can be read.
    pub fn first_received_ms(&self, disk: &dyn Disk) -> Option<u64> {
        let mut lines = self.lines(disk).ok()?;
        while let Some(line) = lines.next_line().ok()? {
            if let Ok(record) = Record::read(line.text) {
                return Some(record.received_ms);
            }
        }
        None
    }

    /// Whether the next segment has begun where a record of this number is, so that it counts no more in this
    /// one.
    pub fn ends_before(&self, seq: u64) -> bool {
        self.end_seq.is_some_and(|end_seq| seq >= end_seq)
    }

    /// Writes it anew from what `put` keeps of it, compressed if it is closed.
    ///
    /// # Errors
    /// What the system says, or what `put` does.
    pub(super) fn rewrite(
        &self,
        disk: &dyn Disk,
        put: impl FnOnce(&mut Anew<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let compressed = self.compressed || self.end_seq.is_some();
        let name = Segment { compressed, ..self.clone() }.name();
        write_whole(disk, &name, |file| {
            let mut paced = Paced::new(file);
            if !compressed {
                put(&mut Anew::new(&mut paced))?;
                return paced.end();
            }
            let mut encoder = zstd::Encoder::new(paced, ZSTD_LEVEL)?;
            encoder.include_checksum(true)?;
            put(&mut Anew::new(&mut encoder))?;
            encoder.finish()?.end()
        })?;
        if name == self.name() { Ok(()) } else { disk.remove(&self.name()) }
    }
}

/// The name of a segment that is not compressed.
pub fn open_name(first_seq: u64) -> String {
    format!("{first_seq:020}{OPEN_SUFFIX}")
}

/// The name of a compressed segment.
pub fn closed_name(first_seq: u64) -> String {
    format!("{first_seq:020}{CLOSED_SUFFIX}")
}

/// The name that a segment of this name has once it is compressed; none if it is no such name.
pub fn compressed_name_of(name: &str) -> Option<String> {
    name.strip_suffix(OPEN_SUFFIX).map(|number| format!("{number}{CLOSED_SUFFIX}"))
}

/// The name under which what cannot be read is set aside.
pub fn set_aside_name(what: &str) -> String {
    format!("{SET_ASIDE_PREFIX}{what}")
}

/// Whether a file holds what was set aside.
pub fn is_set_aside(name: &str) -> bool {
    name.starts_with(SET_ASIDE_PREFIX)
}

/// The number in the name of what was set aside: that of the first record of the segment in which the first damaged
/// line stands, or that of the last record which a checkpoint includes. None if the name tells none.
pub fn set_aside_seq(name: &str) -> Option<u64> {
    let what = name.strip_prefix(SET_ASIDE_PREFIX)?;
    let number = what.strip_prefix(checkpoint::PREFIX).unwrap_or(what);
    number.get(..NUMBER_DIGITS)?.parse().ok()
}

/// What a crash left half done: files that are not whole, and the plain form of a segment whose compressed
/// one is.
///
/// # Errors
/// What the system says.
pub fn leftovers(disk: &dyn Disk) -> io::Result<Vec<String>> {
    let names: BTreeSet<String> = disk.list()?.into_iter().map(|(name, _)| name).collect();
    // The crash came between the new name of a compressed segment and the removal of the old file.
    let is_old = |name: &str| compressed_name_of(name).is_some_and(|name| names.contains(&name));
    let leftovers = names.iter().filter(|name| is_old(name) || is_unfinished(name));
    Ok(leftovers.cloned().collect())
}

/// The segments of a journal, in order. Where one stands both compressed and not, which a crash or a
/// running compression leaves, the compressed one counts: it got its name when it was whole.
///
/// # Errors
/// What the system says.
pub fn list(disk: &dyn Disk) -> io::Result<Vec<Segment>> {
    let mut segments: Vec<Segment> = list_steadily(disk)?
        .into_iter()
        .filter_map(|(name, bytes)| {
            let (number, compressed) = match name.strip_suffix(CLOSED_SUFFIX) {
                Some(number) => (number, true),
                None => (name.strip_suffix(OPEN_SUFFIX)?, false),
            };
            let first_seq = number.parse().ok().filter(|_| number.len() == 20)?;
            Some(Segment { first_seq, end_seq: None, compressed, bytes })
        })
        .collect();
    segments.sort_by_key(|segment| (segment.first_seq, !segment.compressed));
    segments.dedup_by_key(|segment| segment.first_seq);
    let firsts: Vec<_> = segments.iter().map(|segment| segment.first_seq).collect();
    for (segment, next) in segments.iter_mut().zip(firsts.into_iter().skip(1)) {
        segment.end_seq = Some(next);
    }
    Ok(segments)
}

/// Whether a file of this name is a compressed segment or one that is not; nothing if it is no segment.
pub fn is_compressed(name: &str) -> Option<bool> {
    if name.ends_with(CLOSED_SUFFIX) {
        Some(true)
    } else {
        name.ends_with(OPEN_SUFFIX).then_some(false)
    }
}

/// Lists a folder until two listings are alike: one alone can miss a file that gets another name while
/// it is made.
fn list_steadily(disk: &dyn Disk) -> io::Result<Vec<(String, u64)>> {
    const LISTINGS_MAX: usize = 10;
    let names = |files: &[(String, u64)]| -> BTreeSet<String> {
        files.iter().map(|(name, _)| name.clone()).collect()
    };
    let mut files = disk.list()?;
    for _ in 0..LISTINGS_MAX {
        let again = disk.list()?;
        if names(&again) == names(&files) {
            return Ok(again);
        }
        files = again;
    }
    Ok(files)
}

/// Calls `take` with every line of the journal that counts, as record or damage, in order. A segment
/// that a running server has removed since it was listed is passed over.
///
/// # Errors
/// What the system says, or what `take` does.
pub fn each_line<E: From<io::Error>>(
    disk: &dyn Disk,
    mut take: impl FnMut(&Segment, &Line<'_>, Result<Record<'_>, Damage>) -> Result<(), E>,
) -> Result<(), E> {
    for segment in list(disk)? {
        let Some(mut lines) = unless_missing(segment.lines(disk))? else { continue };
        loop {
            let line = match lines.next_line() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(error) if segment.compressed => {
                    // What follows in it cannot be read; what follows after it can.
                    let number = lines.number + 1;
                    let line = Line { offset: lines.offset, number, text: b"", complete: true };
                    take(&segment, &line, Err(Damage::Unreadable(error.to_string())))?;
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            let record =
                if line.complete { Record::read(line.text) } else { Err(Damage::Incomplete) };
            if record.as_ref().is_ok_and(|record| segment.ends_before(record.seq)) {
                break;
            }
            take(&segment, &line, record)?;
        }
    }
    Ok(())
}

/// The lines of a segment.
pub struct Lines {
    reader: BufReader<Box<dyn Read + Send>>,
    offset: u64,
    number: u64,
    line: Vec<u8>,
}

/// One line of a segment.
#[derive(Debug)]
pub struct Line<'l> {
    /// Where it begins in the uncompressed segment, in bytes.
    pub offset: u64,
    /// Which line it is, from 1.
    pub number: u64,
    /// Its text, without the line break.
    pub text: &'l [u8],
    /// Whether its line break is there; without it the line is not complete.
    pub complete: bool,
}

impl Lines {
    /// The next line.
    ///
    /// # Errors
    /// What the system says, or that a compressed segment is damaged.
    pub fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let offset = self.offset;
        let read =
            (&mut self.reader).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        self.offset += read as u64;
        self.number += 1;
        let complete = self.line.last() == Some(&b'\n');
        let text = if complete { &self.line[..read - 1] } else { &self.line[..] };
        Ok(Some(Line { offset, number: self.number, text, complete }))
    }
}

/// A segment that is written anew, line by line. Half a line is dropped where the segment ends, and kept where
/// more follows.
pub(super) struct Anew<'w> {
    out: &'w mut dyn Write,
    half: Vec<u8>,
}

impl<'w> Anew<'w> {
    fn new(out: &'w mut dyn Write) -> Self {
        Self { out, half: Vec::new() }
    }

    /// Lines that were not in the old one, line breaks and all.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn add(&mut self, lines: &[u8]) -> io::Result<()> {
        self.out.write_all(lines)
    }

    /// The next line of the old one, as it is.
    ///
    /// # Errors
    /// See [`Anew::add`].
    pub(super) fn keep(&mut self, line: &Line<'_>) -> io::Result<()> {
        self.out.write_all(&self.half)?;
        self.half.clear();
        if !line.complete {
            self.half.extend_from_slice(line.text);
            return Ok(());
        }
        self.out.write_all(line.text)?;
        self.out.write_all(b"\n")
    }
}
