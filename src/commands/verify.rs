//! A journal held to its promises.

use std::collections::{BTreeMap, HashMap};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;

use super::{journal_of, progress_over};
use crate::clock::LATEST_MS;
use crate::journal::checkpoint;
use crate::journal::disk::Folder;
use crate::journal::erase::order::ORDER_FILE;
use crate::journal::record::{Content, Damage, Record};
use crate::journal::segment::{self, Line, Segment};
use crate::live::{self, Live};
use crate::processor::{Outcome, Processor};
use crate::session::id::SessionId;

/// How many problems are listed; more are only counted.
const LISTED_MAX: u64 = 100;

/// What is held against the journal.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// A file with one acknowledged session id (or Location) a line: each must be started exactly once
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
}

/// Reads the whole journal and says what is wrong with it.
pub(super) fn main(data_dir: &Path, options: &Options) -> anyhow::Result<ExitCode> {
    let mut audit = audit(&journal_of(data_dir)?)?;
    audit.is_being_erased = data_dir.join(ORDER_FILE).exists();
    if let Some(path) = &options.ledger {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the ledger {}", path.display()))?;
        audit.ledger(&text);
    }
    match audit.summary(&mut std::io::stdout().lock()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        result => result?,
    }
    Ok(if audit.keeps_promises() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads a whole journal and holds it to its promises.
pub(super) fn audit(disk: &Folder) -> anyhow::Result<Audit> {
    let mut progress = progress_over(disk)?;
    let mut audit = Audit::default();
    for segment in segment::list(disk)? {
        audit.segments += 1;
        audit.compressed += u64::from(segment.compressed);
        audit.bytes += segment.bytes;
    }
    // Listed before the records are read: a running server saves newer ones meanwhile.
    let checkpoints = checkpoint::list(disk)?;
    segment::each_line(disk, |segment, line, record| {
        progress.at(segment, line);
        audit.line(segment, line, record);
        anyhow::Ok(())
    })?;
    audit.end(&segment::list(disk)?, &checkpoints);
    Ok(audit)
}

/// What was seen of a journal.
#[derive(Default)]
pub(super) struct Audit {
    segments: u64,
    compressed: u64,
    bytes: u64,
    records: BTreeMap<&'static str, u64>,
    first: Option<(u64, u64)>,
    last: Option<(u64, u64)>,
    starts: HashMap<[u8; 32], Seen>,
    /// The sessions as the records make them, if the journal is there from its first record on, or begins with what
    /// must be known of those before; of one of an older version nobody knows what they made.
    fold: Option<(Processor, Arc<Live>)>,
    /// The damaged lines at the end of what is read of a segment: no problem if the next segment begins
    /// in their place, because their group was refused.
    doubtful: Vec<String>,
    /// The segment that is read, by its first number.
    reading: u64,
    /// Whether a segment began with settings: from then on each should.
    has_beginnings: bool,
    /// The segments that do not; no problem, because an older version that was started in between wrote them so.
    unbegun: Vec<String>,
    unfinished: bool,
    /// Whether somebody erases meanwhile.
    is_being_erased: bool,
    /// How many records were erased.
    erased: u64,
    ledger: Option<u64>,
    problems: u64,
    listed: Vec<String>,
}

/// What was seen of a session.
#[derive(Default)]
struct Seen {
    has_ended: bool,
    reported: bool,
}

/// How long the report of a session may take, in ms, before it is missed.
const REPORT_DELAY_MAX_MS: u64 = 60_000;

impl Audit {
    fn line(&mut self, segment: &Segment, line: &Line<'_>, record: Result<Record<'_>, Damage>) {
        let place = || format!("{} line {}", segment.name(), line.number);
        if self.reading != segment.first_seq {
            self.reading = segment.first_seq;
            if self.last.is_some_and(|(seq, _)| seq + 1 == segment.first_seq) {
                self.doubtful.clear();
            }
        }
        match record {
            Ok(record) => {
                self.doubt();
                let begins = matches!(record.content, Content::Settings { paused_ms: Some(_), .. });
                if self.first.is_none() && (record.seq == 1 || begins) {
                    let sessions = Arc::new(Live::new(live::Settings::default()));
                    self.fold = Some((Processor::new(Arc::clone(&sessions)), sessions));
                }
                if self.first.is_none() && record.seq != segment.first_seq {
                    let (first, seq) = (segment.first_seq, record.seq);
                    self.problem(format!("{}: number {seq}, where {first} should be", place()));
                }
                // Where another record stands at the beginning because the first is missing, that is told already.
                if self.has_beginnings && !begins && record.seq == segment.first_seq {
                    self.unbegun.push(segment.name());
                }
                self.has_beginnings |= begins;
                self.record(&record, place);
                self.fold(record, place);
            }
            Err(_) if !line.complete && segment.end_seq.is_none() => self.unfinished = true,
            Err(damage) => self.doubtful.push(format!("{}: {damage}", place())),
        }
    }

    /// The journal is read: what it should hold beyond that is missing.
    fn end(&mut self, segments: &[Segment], checkpoints: &[(u64, String)]) {
        let next_seq = self.last.map_or(1, |(seq, _)| seq + 1);
        // A segment that is begun and empty takes the place of what was refused before it.
        if segments.last().is_some_and(|last| last.first_seq == next_seq) {
            self.doubtful.clear();
        }
        self.doubt();
        self.hold_reports();
        if let Some((floor_seq, name)) = checkpoints.first().filter(|(floor, _)| *floor >= next_seq)
        {
            self.problem(format!("{name} knows records up to {floor_seq}, the journal does not"));
        }
    }

    /// The damaged lines so far are a problem.
    fn doubt(&mut self) {
        for doubtful in std::mem::take(&mut self.doubtful) {
            self.problem(doubtful);
        }
    }

    fn record(&mut self, record: &Record<'_>, place: impl Fn() -> String) {
        if let Some((seq, received_ms)) = self.last {
            if record.seq != seq + 1 {
                let found = record.seq;
                self.problem(format!("{}: number {found} follows {seq}", place()));
            }
            // A pause tells by how much stamps are set back.
            let set_back_ms = match record.content {
                Content::Pause { set_back_ms, .. } => set_back_ms,
                _ => 0,
            };
            if record.received_ms.saturating_add(set_back_ms) < received_ms {
                self.problem(format!("{}: received before the record before it", place()));
            }
        }
        self.first.get_or_insert((record.seq, record.received_ms));
        self.last = Some((record.last_seq(), record.last_ms()));
        *self.records.entry(record.content.kind()).or_default() += 1;
        match &record.content {
            Content::Start { sid, .. } | Content::Batch { sid, .. } => {
                let is_stored = matches!(record.content, Content::Batch { .. });
                let seen = Seen { has_ended: is_stored, reported: false };
                if self.starts.insert(sid.to_bytes(), seen).is_some() {
                    self.problem(format!("{}: session {sid} is started twice", place()));
                }
            }
            // An event may stand behind the end of its session: it lost the race and was refused.
            Content::Event { sid, .. } => {
                if !self.starts.contains_key(&sid.to_bytes()) {
                    self.never_started(*sid, place);
                }
            }
            Content::Close { sid, .. } => match self.starts.get_mut(&sid.to_bytes()) {
                Some(seen) => seen.has_ended = true,
                None => self.never_started(*sid, place),
            },
            Content::Report { sid, .. } => {
                if !self.starts.contains_key(&sid.to_bytes()) {
                    self.never_started(*sid, &place);
                }
                let seen = self.starts.entry(sid.to_bytes()).or_default();
                seen.has_ended = true;
                if std::mem::replace(&mut seen.reported, true) {
                    self.problem(format!("{}: session {sid} has a second report", place()));
                }
            }
            Content::Erased { count, .. } => self.erased = self.erased.saturating_add(*count),
            Content::Settings { .. } | Content::Pause { .. } => {}
        }
    }

    /// Folds a record: a report is of a session that has ended, and a segment begins with the sum of the pauses before
    /// it.
    fn fold(&mut self, record: Record<'_>, place: impl Fn() -> String) {
        let Some((processor, _)) = &mut self.fold else { return };
        let is_first = self.first.is_some_and(|(first, _)| first == record.seq);
        let (sid, told_ms) = match record.content {
            Content::Report { sid, .. } => (Some(sid), None),
            Content::Settings { paused_ms, .. } => (None, paused_ms),
            _ => (None, None),
        };
        let paused_ms = processor.progress().paused_ms;
        match (processor.replay(record), sid) {
            (Err(why), _) => self.problem(format!("{}: {why}", place())),
            (Ok(Outcome::ReportedLive), Some(sid)) => {
                self.problem(format!("{}: session {sid} had not ended", place()));
            }
            (Ok(_), _) => {}
        }
        if let Some(told_ms) = told_ms.filter(|told_ms| *told_ms != paused_ms && !is_first) {
            self.problem(format!(
                "{}: the pauses before it are {paused_ms} ms, not {told_ms} ms",
                place()
            ));
        }
    }

    /// Every session that ended has its report, unless it ended just now.
    fn hold_reports(&mut self) {
        let (Some((_, live)), Some((_, last_ms))) = (&self.fold, self.last) else { return };
        let live = Arc::clone(live);
        // Time in which nothing could be written delays no report.
        let last_up_ms = live.progress().up_ms(last_ms);
        for id in live.unreported_ids() {
            let session = live.ended(id);
            let closing = session.as_ref().and_then(|session| session.closing.as_deref());
            if let Some(closing) = closing
                && closing.up_ms + REPORT_DELAY_MAX_MS < last_up_ms
            {
                let since = time(closing.closed_ms);
                self.problem(format!("session {id} ended at {since} and has no report"));
            }
        }
    }

    /// A session is spoken of whose start is not there. Retention may have removed it, unless the session is
    /// younger than what the journal begins with.
    fn never_started(&mut self, sid: SessionId, place: impl Fn() -> String) {
        let is_there = |(first, since)| first == 1 || sid.minted_ms() > since;
        if self.first.is_some_and(is_there) {
            self.problem(format!("{}: session {sid} was never started", place()));
        }
    }

    /// Holds a ledger of acknowledgements against the journal.
    fn ledger(&mut self, text: &str) {
        let mut acknowledged = 0;
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let id = line.trim().rsplit('/').next().and_then(SessionId::from_path);
            match id {
                None => self.problem(format!("ledger line {number}: this is no session id")),
                Some(id) if self.starts.contains_key(&id.to_bytes()) => acknowledged += 1,
                Some(id) => self.problem(format!("ledger line {number}: session {id} is lost")),
            }
        }
        self.ledger = Some(acknowledged);
    }

    fn problem(&mut self, what: String) {
        self.problems += 1;
        if self.problems <= LISTED_MAX {
            self.listed.push(what);
        }
    }

    /// Whether nothing is wrong with it.
    pub(super) fn keeps_promises(&self) -> bool {
        self.problems == 0
    }

    pub(super) fn summary(&self, out: &mut impl Write) -> std::io::Result<()> {
        for problem in &self.listed {
            writeln!(out, "problem    {problem}")?;
        }
        if self.problems > LISTED_MAX {
            writeln!(out, "problem    … and {} more", self.problems - LISTED_MAX)?;
        }
        let (segments, compressed) = (self.segments, self.compressed);
        writeln!(
            out,
            "segments   {segments} ({compressed} compressed), {}",
            bytesize::ByteSize::b(self.bytes)
        )?;
        let kinds: Vec<_> = self.records.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
        let total: u64 = self.records.values().sum();
        let colon = if kinds.is_empty() { "" } else { ": " };
        writeln!(out, "records    {total}{colon}{}", kinds.join(", "))?;
        if let (Some((first, since)), Some((last, until))) = (self.first, self.last) {
            writeln!(out, "numbers    {first} to {last}")?;
            writeln!(out, "received   {} to {}", time(since), time(until))?;
        }
        let started = self.starts.len();
        let without_end = || self.starts.values().filter(|seen| !seen.has_ended).count();
        let open = self.fold.as_ref().map_or_else(without_end, |(_, live)| live.sessions());
        let reported = self.starts.values().filter(|seen| seen.reported).count();
        writeln!(
            out,
            "sessions   {started} started, {open} without an end, {reported} with their report"
        )?;
        if self.fold.is_none() && started > 0 {
            writeln!(
                out,
                "note       the journal begins with a segment of an older version that is not its first, so only a \
                 second report would be found, not a missing one"
            )?;
        }
        if let Some(first) = self.unbegun.first() {
            writeln!(
                out,
                "note       {} segments, the first {first}, do not begin with settings: an older version \
                 wrote them behind a newer one",
                self.unbegun.len()
            )?;
        }
        if self.erased > 0 {
            writeln!(out, "erased     {} records, which others stand for", self.erased)?;
        }
        let unreported = self.fold.as_ref().map_or(0, |(_, live)| live.unreported());
        if unreported > 0 {
            writeln!(out, "note       {unreported} have ended and wait for their report")?;
        }
        if self.is_being_erased {
            writeln!(
                out,
                "note       an order to erase is being carried out: until it is done, sessions may be \
                 there in part"
            )?;
        }
        if let Some(acknowledged) = self.ledger {
            writeln!(out, "ledger     {acknowledged} acknowledged sessions are there, once each")?;
        }
        if self.unfinished {
            writeln!(
                out,
                "note       the last line is not complete: it is being written, or a crash cut it"
            )?;
        }
        match self.problems {
            0 => writeln!(out, "the journal keeps its promises"),
            1 => writeln!(out, "the journal breaks a promise: 1 problem"),
            problems => writeln!(out, "the journal breaks its promises: {problems} problems"),
        }
    }
}

pub(super) fn time(ms: u64) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms.min(LATEST_MS)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::record::Encoded;
    use crate::session::Terms;
    use crate::session::id::Key;

    /// What is wrong with a journal that begins at number 11 and at 1 000 ms, in which a session ends that was
    /// begun at this time.
    fn problems(began_ms: u64) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let sid = SessionId::mint(&Key::new([7; 32]), began_ms, [1; 10]);
        let contents = [
            Content::Pause { down_ms: 1, set_back_ms: 0 },
            Content::Report { sid, report: b"{}"[..].into() },
        ];
        let mut text = Vec::new();
        for (content, seq) in contents.into_iter().zip(11..) {
            Encoded::new(content).unwrap().write_line(&mut text, seq, 1_000 + (seq - 11) * 5_000);
        }
        std::fs::write(folder.path().join(segment::open_name(11)), text).unwrap();
        audit(&Folder::at(folder.path())).unwrap().listed
    }

    #[test]
    fn in_a_journal_without_its_beginning_older_sessions_have_no_start_and_younger_ones_must() {
        assert_eq!(problems(1_000), [""; 0]);
        let problems = problems(1_001);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("was never started"), "{problems:?}");
    }

    /// Reads a journal of these segments, the first of which begins with number 11.
    fn audit_of(segments: &[&[Content<'_>]]) -> Audit {
        let folder = tempfile::tempdir().unwrap();
        let mut seq = 11;
        for contents in segments {
            let (first_seq, mut text) = (seq, Vec::new());
            for content in *contents {
                Encoded::new(content.clone()).unwrap().write_line(&mut text, seq, 1_000);
                seq += 1;
            }
            std::fs::write(folder.path().join(segment::open_name(first_seq)), text).unwrap();
        }
        audit(&Folder::at(folder.path())).unwrap()
    }

    fn problems_of(segments: &[&[Content<'_>]]) -> Vec<String> {
        audit_of(segments).listed
    }

    fn begins(paused_ms: u64) -> Content<'static> {
        Content::Settings { terms: Terms::default(), paused_ms: Some(paused_ms), set_back_ms: 0 }
    }

    fn start(sid: SessionId) -> Content<'static> {
        let body = br#"{"eventType":"sessionStart","playerTime":{"ts":0,"playhead":0},"params":{
            "media.id":"a","media.length":0,"media.contentType":"vod","media.playerName":"p"}}"#;
        Content::Start { sid, client: None, user_agent: None, body: body[..].into() }
    }

    #[test]
    fn a_segment_that_does_not_begin_with_settings_is_named_once_others_do() {
        let pause = Content::Pause { down_ms: 5, set_back_ms: 0 };
        let terms = Terms::default();
        let older = Content::Settings { terms, paused_ms: None, set_back_ms: 0 };
        let of_older: [&[_]; 2] = [&[older.clone(), pause.clone()], std::slice::from_ref(&pause)];
        let upgraded: [&[_]; 3] = [of_older[1], &[begins(5), pause.clone()], &[begins(10)]];
        for segments in [&of_older[..], &upgraded[..]] {
            let audit = audit_of(segments);
            assert!(audit.keeps_promises() && audit.unbegun.is_empty(), "{:?}", audit.listed);
        }
        for other in [older, pause] {
            let audit = audit_of(&[&[begins(5)], &[other]]);
            assert!(audit.keeps_promises(), "{:?}", audit.listed);
            let mut out = Vec::new();
            audit.summary(&mut out).unwrap();
            let out = String::from_utf8(out).unwrap();
            let expected =
                format!("1 segments, the first {}, do not begin", segment::open_name(12));
            assert!(out.contains(&expected), "{out}");
        }
    }

    #[test]
    fn the_pauses_that_a_segment_begins_with_are_those_before_it() {
        let pause = || Content::Pause { down_ms: 5, set_back_ms: 0 };
        assert_eq!(problems_of(&[&[begins(100), pause()], &[begins(105)]]), [""; 0]);
        let problems = problems_of(&[&[begins(100), pause()], &[begins(104)]]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].contains("the pauses before it are 105 ms, not 104 ms"),
            "{problems:?}"
        );
    }

    #[test]
    fn a_journal_without_its_beginning_is_held_to_one_report_a_session() {
        let id = |number| SessionId::mint(&Key::new([7; 32]), 1_000, [number; 10]);
        let report = |sid| Content::Report { sid, report: b"{}"[..].into() };
        let (before, live) = (id(1), id(2));
        let fine = [begins(0), report(before), start(live)];
        assert_eq!(problems_of(&[&fine]), [""; 0]);
        let twice = problems_of(&[&fine, &[begins(0), report(before)]]);
        assert_eq!(twice.len(), 1, "{twice:?}");
        assert!(twice[0].contains("has a second report"), "{twice:?}");
        let early = problems_of(&[&fine, &[begins(0), report(live)]]);
        assert_eq!(early.len(), 1, "{early:?}");
        assert!(early[0].contains("had not ended"), "{early:?}");
    }

    #[test]
    fn an_erasure_that_goes_on_is_told_in_one_sentence() {
        let audit = Audit { is_being_erased: true, ..Audit::default() };
        let mut out = Vec::new();
        audit.summary(&mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("until it is done, sessions may be there in part\n"), "{out}");
    }
}
