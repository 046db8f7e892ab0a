//! The journal to standard output.

use std::borrow::Cow;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::table::{CellText, ReportTable, io_error};
use super::{Usage, journal_of, progress_over};
use crate::escape;
use crate::journal::record::{Content, REPORT_BYTES_MAX, Record};
use crate::journal::segment;
use crate::live::{self, Live};
use crate::processor::Processor;
use crate::report::Report;
use crate::session::CloseReason;
use crate::session::id::SessionId;

/// What is written.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// Only records of these kinds
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND")]
    kind: Vec<Kind>,
    /// Only records received at or after this time: 2026-11-20, 2026-11-20T08:00:00Z, or ms since 1970
    #[arg(long, value_name = "TIME", value_parser = time_ms)]
    since: Option<u64>,
    /// Only records received before this time
    #[arg(long, value_name = "TIME", value_parser = time_ms)]
    until: Option<u64>,
    /// How they are written
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,
    /// In a table, write text as it is that a spreadsheet would compute: text that begins with =, +, - or @, or
    /// with a tab or line end. Without this an apostrophe stands before it. Numbers have none
    #[arg(long)]
    keep_formulas: bool,
    /// With --kind report: compute each report again, from the records of its session alone and by the rules of this
    /// version, and say on standard error how many differ from those in the journal. The journal stays as it is
    #[arg(long)]
    recompute: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Start,
    Event,
    Batch,
    Close,
    Report,
    Settings,
    Pause,
    Erased,
}

impl Kind {
    fn of(content: &Content<'_>) -> Self {
        match content {
            Content::Start { .. } => Self::Start,
            Content::Event { .. } => Self::Event,
            Content::Batch { .. } => Self::Batch,
            Content::Close { .. } => Self::Close,
            Content::Report { .. } => Self::Report,
            Content::Settings { .. } => Self::Settings,
            Content::Pause { .. } => Self::Pause,
            Content::Erased { .. } => Self::Erased,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// The lines of the journal; of reports alone, the reports. Characters that a terminal would obey are JSON
    /// escapes there, with which the value is the same
    Ndjson,
    /// A table with a line of headings; the body is JSON in a column. Of reports alone, a column for
    /// each fact and figure; lists are JSON
    Csv,
}

/// Reads a time of the command line as ms since the Unix epoch.
pub(super) fn time_ms(text: &str) -> Result<u64, String> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let time = humantime::parse_rfc3339_weak(&whole)
        .map_err(|_| "expected 2026-11-20, 2026-11-20T08:00:00Z or ms since 1970".to_owned())?;
    let since_epoch = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).map_err(|error| error.to_string())
}

/// Writes the records that were asked for. Damaged lines are left out; `verify` tells of them.
pub(super) fn main(data_dir: &Path, options: &Options) -> anyhow::Result<ExitCode> {
    let reports_only = !options.kind.is_empty() && options.kind.iter().all(|k| *k == Kind::Report);
    if options.recompute && !reports_only {
        return Err(Usage("--recompute needs --kind report, and no other kind".to_owned()).into());
    }
    let disk = journal_of(data_dir)?;
    let mut progress = progress_over(&disk)?;
    let out = BufWriter::with_capacity(1 << 18, io::stdout().lock());
    let text = if options.keep_formulas { CellText::AsItIs } else { CellText::NoFormulas };
    let mut recomputing = options.recompute.then(Recomputing::default);
    let mut out = match Out::new(options.format, reports_only, text, out) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
        out => out?,
    };
    let written = segment::each_line(&disk, |segment, line, record| {
        progress.at(segment, line);
        let Ok(mut record) = record else { return Ok(()) };
        let is_wanted = wanted(&record, options);
        if let Some(recomputing) = &mut recomputing {
            let Some(report) = recomputing.take(record.clone(), is_wanted) else { return Ok(()) };
            record.content = report;
        }
        if is_wanted { out.put(line.text, &record) } else { Ok(()) }
    });
    if let Some(recomputing) = recomputing {
        recomputing.tell();
    }
    match written.and_then(|()| out.finish()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        result => Ok(result.map(|()| ExitCode::SUCCESS)?),
    }
}

fn wanted(record: &Record<'_>, options: &Options) -> bool {
    (options.kind.is_empty() || options.kind.contains(&Kind::of(&record.content)))
        && options.since.is_none_or(|since| record.received_ms >= since)
        && options.until.is_none_or(|until| record.received_ms < until)
}

/// Folds the records again, without a checkpoint, to compute the reports anew.
struct Recomputing {
    live: Arc<Live>,
    processor: Processor,
    same: u64,
    different: u64,
    unknown: u64,
}

impl Default for Recomputing {
    fn default() -> Self {
        let live = Arc::new(Live::new(live::Settings::default()));
        let processor = Processor::new(Arc::clone(&live));
        Self { live, processor, same: 0, different: 0, unknown: 0 }
    }
}

impl Recomputing {
    /// Folds a record. Gives the report that it should have, if it has one and its session is known.
    fn take(&mut self, record: Record<'_>, is_wanted: bool) -> Option<Content<'static>> {
        let recomputed = match &record.content {
            Content::Report { sid, report } if is_wanted => {
                let session = self.live.ended(*sid);
                let again =
                    session.map(|session| Report::of(*sid, &session).to_json(REPORT_BYTES_MAX));
                match &again {
                    Some(again) if **again == **report => self.same += 1,
                    Some(_) => self.different += 1,
                    None => self.unknown += 1,
                }
                again.map(|again| Content::Report { sid: *sid, report: again.into() })
            }
            _ => None,
        };
        let seq = record.seq;
        if let Err(why) = self.processor.replay(record) {
            tracing::warn!(seq, why, "a record cannot be folded");
        }
        recomputed
    }

    /// Writes the summary to standard error, because standard output has the reports. Nobody may be there to read it.
    fn tell(&self) {
        let Self { same, different, unknown, .. } = self;
        let mut err = io::stderr().lock();
        let _ = writeln!(err, "{same} reports are as they were recorded, {different} differ");
        if *unknown > 0 {
            let why = "because the journal begins after their sessions did";
            let _ = writeln!(err, "{unknown} are left out, {why}");
        }
    }
}

enum Out<W: Write> {
    Records(W),
    RecordTable(Box<csv::Writer<W>>, CellText),
    Reports(W),
    ReportTable(Box<ReportTable<W>>),
}

/// A record as a line of a table.
#[derive(Serialize)]
struct Row<'r> {
    seq: u64,
    received_ms: u64,
    kind: &'static str,
    sid: Option<SessionId>,
    client: Option<Cow<'r, str>>,
    user_agent: Option<Cow<'r, str>>,
    reason: Option<CloseReason>,
    no_events_ms: Option<u64>,
    no_playhead_ms: Option<u64>,
    age_ms: Option<u64>,
    events_max: Option<u32>,
    paused_ms: Option<u64>,
    down_ms: Option<u64>,
    set_back_ms: Option<u64>,
    count: Option<u64>,
    until_ms: Option<u64>,
    erased_ms: Option<u64>,
    body: Option<Cow<'r, str>>,
    report: Option<Cow<'r, str>>,
}

impl<'r> Row<'r> {
    fn of(record: &'r Record<'_>, text: CellText) -> Self {
        let json = |bytes: &'r [u8]| str::from_utf8(bytes).ok().map(escape::json);
        let content = &record.content;
        let mut row = Self {
            seq: record.seq,
            received_ms: record.received_ms,
            kind: content.kind(),
            sid: content.sid(),
            client: None,
            user_agent: None,
            reason: None,
            no_events_ms: None,
            no_playhead_ms: None,
            age_ms: None,
            events_max: None,
            paused_ms: None,
            down_ms: None,
            set_back_ms: None,
            count: None,
            until_ms: None,
            erased_ms: None,
            body: None,
            report: None,
        };
        match content {
            Content::Start { client, user_agent, body, .. }
            | Content::Batch { client, user_agent, body, .. } => {
                row.client = client.as_deref().map(|client| text.of(client));
                row.user_agent = user_agent.as_deref().map(|user_agent| text.of(user_agent));
                row.body = json(body);
            }
            Content::Event { body, .. } => row.body = json(body),
            Content::Report { report, .. } => row.report = json(report),
            Content::Close { reason, .. } => row.reason = Some(*reason),
            Content::Settings { terms, paused_ms, set_back_ms } => {
                row.set_back_ms = Some(*set_back_ms).filter(|set_back_ms| *set_back_ms > 0);
                row.no_events_ms = Some(terms.no_events_ms);
                row.no_playhead_ms = Some(terms.no_playhead_ms);
                row.age_ms = Some(terms.age_ms);
                row.events_max = Some(terms.events_max);
                row.paused_ms = *paused_ms;
            }
            Content::Pause { down_ms, set_back_ms } => {
                row.down_ms = Some(*down_ms);
                row.set_back_ms = Some(*set_back_ms).filter(|set_back_ms| *set_back_ms > 0);
            }
            Content::Erased { count, until_ms, erased_ms } => {
                (row.count, row.until_ms, row.erased_ms) =
                    (Some(*count), *until_ms, Some(*erased_ms));
            }
        }
        row
    }
}

impl<W: Write> Out<W> {
    fn new(format: Format, reports_only: bool, text: CellText, out: W) -> io::Result<Self> {
        Ok(match (format, reports_only) {
            (Format::Ndjson, false) => Self::Records(out),
            (Format::Csv, false) => {
                Self::RecordTable(Box::new(csv::Writer::from_writer(out)), text)
            }
            (Format::Ndjson, true) => Self::Reports(out),
            (Format::Csv, true) => Self::ReportTable(Box::new(ReportTable::new(out, text)?)),
        })
    }

    fn put(&mut self, line: &[u8], record: &Record<'_>) -> io::Result<()> {
        match (self, &record.content) {
            (Self::Records(out), _) => put_line(out, line),
            (Self::RecordTable(table, text), _) => {
                table.serialize(Row::of(record, *text)).map_err(io_error)
            }
            (Self::Reports(out), Content::Report { report, .. }) => put_line(out, report),
            (Self::ReportTable(table), Content::Report { report, .. }) => table.put(report),
            (Self::Reports(_) | Self::ReportTable(_), _) => Ok(()),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Records(mut out) | Self::Reports(mut out) => out.flush(),
            Self::RecordTable(mut table, _) => table.flush(),
            Self::ReportTable(mut table) => table.table.flush(),
        }
    }
}

/// Writes a line of JSON so that it does nothing to a terminal.
fn put_line(out: &mut impl Write, json: &[u8]) -> io::Result<()> {
    match str::from_utf8(json) {
        Ok(json) => out.write_all(escape::json(json).as_bytes())?,
        // No record is like this.
        Err(_) => out.write_all(json)?,
    }
    out.write_all(b"\n")
}
