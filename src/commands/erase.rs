//! A person's data is erased, by this command itself or by the server that runs.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, bail};
use clap::{ArgGroup, Args};
use indicatif::{ProgressBar, ProgressStyle};
use rand::Rng;
use serde::Serialize;

use super::Usage;
use super::export::time_ms;
use super::journal_of;
use super::verify::time;
use crate::clock::Clock;
use crate::config::Config;
use crate::data_dir::{DataDir, DataDirError, JOURNAL, SESSION_KEY};
use crate::files;
use crate::journal::disk::{Folder, unless_missing};
use crate::journal::erase::order::{self, Evidence, Order, State, Word};
use crate::journal::erase::wait::{LOOK, Standing, Wait};
use crate::journal::erase::{
    self, Described, Meter, Purged, Range, Selection, Site, Survey, Tell, Visitor,
};
use crate::privacy::Hasher;
use crate::rejects;
use crate::session::id::{Key, SessionId};

/// What became of an order that could not be carried out.
const STANDS: &str = "it is not done: the order stands, and the next start or erase finishes it";

/// What is erased: whole sessions, by what a player said of its visitor, by their ids, or by time.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("selection").required(true).multiple(true)
    .args(["visitor", "visitors", "session", "from", "until"]))]
pub(super) struct Options {
    /// Sessions with this value under this key of a body or of its params, customMetadata or qoeData, or as
    /// a text or number anywhere in an object under it; `customMetadata.KEY` is custom metadata alone. May be
    /// given several times, and then any of them is enough
    #[arg(long, value_name = "KEY=VALUE", value_parser = visitor,
        conflicts_with_all = ["session", "from", "until"])]
    visitor: Vec<Visitor>,
    /// The same from a file, one KEY=VALUE a line without blanks around either, so that the process list
    /// shows no value; `-` is standard input, and needs --yes
    #[arg(long, value_name = "FILE", conflicts_with_all = ["session", "from", "until"])]
    visitors: Option<PathBuf>,
    /// The session of this id (or Location); may be given several times
    #[arg(long, value_name = "ID", value_parser = session, conflicts_with_all = ["from", "until"])]
    session: Vec<SessionId>,
    /// Sessions whose start was received at or after this time: 2026-11-20, 2026-11-20T08:00:00Z, or ms
    /// since 1970
    #[arg(long, value_name = "TIME", value_parser = time_ms)]
    from: Option<u64>,
    /// Sessions whose start was received before this time
    #[arg(long, value_name = "TIME", value_parser = time_ms)]
    until: Option<u64>,
    /// Show what would be erased, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

fn visitor(text: &str) -> Result<Visitor, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => {
            Ok(Visitor::new(key.to_owned(), value.to_owned()))
        }
        _ => Err("expected a key, an equals sign and a value, neither of them empty".to_owned()),
    }
}

fn session(text: &str) -> Result<SessionId, String> {
    let id = text.trim_end_matches('/').rsplit('/').next().and_then(SessionId::from_path);
    id.ok_or_else(|| "expected the 64 hexadecimal digits of a session id".to_owned())
}

/// The visitors that a file lists, one a line.
fn visitors_in(text: &str) -> Result<Vec<Visitor>, Usage> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty());
    let visitor_of = |line: &str| {
        let is_bare = line
            .split_once('=')
            .is_none_or(|(key, value)| [key, value].iter().all(|part| part.trim() == *part));
        // Nobody sees them, and with them nothing is found.
        let blanks =
            "there are blanks around the key or the value; take them away, or use --visitor";
        if is_bare { visitor(line) } else { Err(blanks.to_owned()) }
    };
    let visitors: Result<Vec<_>, _> = lines
        .map(|(row, line)| {
            visitor_of(line).map_err(|why| Usage(format!("--visitors, line {}: {why}", row + 1)))
        })
        .collect();
    match visitors {
        Ok(visitors) if visitors.is_empty() => Err(Usage("--visitors: there is none".to_owned())),
        visitors => visitors,
    }
}

impl Options {
    /// What is to be erased. Values are also looked for as `privacy.hash` has them.
    fn selection(&self, config: &Config, disk: &Folder) -> anyhow::Result<Selection> {
        if let (Some(from), Some(until)) = (self.from, self.until)
            && from >= until
        {
            return Err(Usage("--from must be before --until".to_owned()).into());
        }
        let mut visitors = self.visitor.clone();
        if let Some(file) = &self.visitors {
            visitors.extend(visitors_in(&self.read(file)?)?);
        }
        if !visitors.is_empty() {
            let hashers = hashers(config, disk)?;
            let as_kept = |visitor: Visitor| {
                let forms: Vec<_> = hashers.iter().map(|h| h.hash(visitor.value())).collect();
                forms.into_iter().fold(visitor, Visitor::or_as)
            };
            Ok(Selection::Visitor(visitors.into_iter().map(as_kept).collect()))
        } else if !self.session.is_empty() {
            Ok(Selection::Sessions(self.session.clone()))
        } else {
            Ok(Selection::Started(Range { from_ms: self.from, until_ms: self.until }))
        }
    }

    /// The text of a file, or of standard input, on which then nobody can be asked.
    fn read(&self, file: &Path) -> anyhow::Result<String> {
        let text = if file.as_os_str() != "-" {
            std::fs::read_to_string(file)
        } else if self.yes || self.dry_run {
            io::read_to_string(io::stdin())
        } else {
            let why = "--visitors - leaves no way to ask on standard input: say --yes";
            return Err(Usage(why.to_owned()).into());
        };
        text.with_context(|| format!("cannot read visitors from {}", file.display()))
    }

    /// Prints what was erased. Until all of it is printed its file stands.
    fn print_done(&self, data_dir: &Path, evidence: &Evidence) -> anyhow::Result<()> {
        let summary = Summary::of(data_dir, evidence);
        let mut out = io::stdout().lock();
        let printed = if self.json { as_json(&mut out, &summary) } else { summary.print(&mut out) };
        printed.and_then(|()| out.flush()).with_context(|| {
            let file = data_dir.join(order::result_file(&evidence.order));
            format!(
                "it is erased, but the summary was not printed; it stands in {}",
                file.display()
            )
        })?;
        Ok(Word::forget(&Folder::private_at(data_dir), &evidence.order)?)
    }
}

/// Hashers with the keys that the journal may have been written with: the one that is configured, and the one in
/// the data folder, which a server may be using. One of them must have signed the newest session.
fn hashers(config: &Config, disk: &Folder) -> anyhow::Result<Vec<Hasher>> {
    let path = config.data_dir.join(SESSION_KEY);
    let found = unless_missing(files::read_to_string(&path))
        .with_context(|| format!("cannot read the session key {}", path.display()))?;
    let found = match found {
        Some(text) => {
            let key = Key::from_hex(text.trim_ascii());
            Some(key.with_context(|| format!("{} is not a session key", path.display()))?)
        }
        None => None,
    };
    let configured = config.session.key.as_ref();
    let found = found.as_ref().filter(|found| Some(*found) != configured);
    let keys: Vec<_> = configured.into_iter().chain(found).collect();
    let newest = erase::newest_session(disk)?;
    let is_of_server = |id: SessionId| keys.iter().any(|key| id.is_signed_by(key));
    if keys.is_empty() || !newest.is_none_or(is_of_server) {
        bail!(
            "hashed values (privacy.hash) could not be found without the server's session key, which is neither \
             configured nor at {}: give the server's configuration (--config FILE, and what it has from the \
             environment)",
            path.display()
        );
    }
    Ok(keys.into_iter().map(Hasher::new).collect())
}

/// Erases, or shows what would be erased.
pub(super) fn main(config: &Config, options: &Options) -> anyhow::Result<ExitCode> {
    let disk = journal_of(&config.data_dir)?;
    let selection = options.selection(config, &disk)?;
    let data_dir = std::path::absolute(&config.data_dir)?;
    if options.dry_run {
        let expected = look(&data_dir, &disk, &selection)?;
        return print(
            |out| {
                if options.json { as_json(out, &expected) } else { expected.print(out) }
            },
        );
    }
    as_its_owner(&data_dir)?;
    // One that cannot be read stands in the way of all others.
    Order::pending(&Folder::private_at(&data_dir))
        .with_context(|| format!("an order stands in {}", data_dir.display()))?;
    if !options.yes && !is_agreed(&look(&data_dir, &disk, &selection)?)? {
        bail!("nothing was erased");
    }
    let mut order_id = [0; 16];
    rand::rng().fill_bytes(&mut order_id);
    let order_id = hex::encode(order_id);
    let order = Order::new(order_id, Clock::system().now_ms(), selection);
    let evidence = match DataDir::open(&data_dir) {
        Ok(folder) => here(&folder, &order, options)?,
        Err(DataDirError::InUse { .. }) => by_the_server(&data_dir, &order)?,
        Err(error) => return Err(error.into()),
    };
    options.print_done(&data_dir, &evidence)?;
    Ok(ExitCode::SUCCESS)
}

/// Finishes the order that waits in a data folder that nobody else uses. If it is not the one that was `given`
/// just now, it was found standing.
///
/// # Errors
/// What the system says; the order then still waits.
fn finish_in(
    folder: &DataDir,
    clock: &Clock,
    given: Option<&str>,
    tell: Tell<'_>,
) -> io::Result<Option<Evidence>> {
    let (home, disk) = (Folder::private_at(folder.path()), Folder::at(&folder.journal()));
    let purge = |judge: &Arc<erase::Judge>, meter: &mut Meter<'_>| {
        let lines = rejects::purge_files(folder.path(), judge, &mut |bytes| meter.line(bytes))?;
        Ok(Purged { lines, in_memory: 0 })
    };
    let (running, left_out) = (None, None);
    let site = Site { home: &home, disk: &disk, purge: &purge, clock, running, left_out, given };
    erase::finish(&site, tell)
}

/// Carries out an order in a data folder that nobody else uses.
fn here(folder: &DataDir, order: &Order, options: &Options) -> anyhow::Result<Evidence> {
    let (clock, bar, given) = (Clock::system(), bar()?, Some(&*order.id));
    let mut tell = |done_bytes, total_bytes| {
        show(&bar, done_bytes, total_bytes);
        Ok(())
    };
    if let Some(earlier) = finish_in(folder, &clock, given, &mut tell).context(STANDS)? {
        bar.suspend(|| {
            note("an order that was given before was not finished; now it is, with this summary:")?;
            options.print_done(folder.path(), &earlier)
        })?;
    }
    if !place(folder.path(), order)? {
        bail!("another order was given just now; give this one again");
    }
    let evidence = finish_in(folder, &clock, given, &mut tell).context(STANDS)?;
    bar.finish_and_clear();
    evidence.context("the order was gone before it was carried out")
}

/// Has an order carried out by the server that uses the data folder, and waits for it.
fn by_the_server(data_dir: &Path, order: &Order) -> anyhow::Result<Evidence> {
    if !place(data_dir, order)? {
        bail!("another order to erase is being carried out; give this one once that is done");
    }
    let (home, bar) = (Folder::private_at(data_dir), bar()?);
    let mut wait = Wait::new(&home, &order.id);
    loop {
        thread::sleep(LOOK);
        match wait.look()? {
            Standing::Given => {}
            Standing::Told(State::Running { done_bytes, total_bytes }) => {
                show(&bar, done_bytes, total_bytes);
            }
            Standing::Told(State::Failing { why }) => {
                bail!("the server could not do it: {why}; the order stands, and it tries again")
            }
            Standing::Told(State::Done(evidence)) => {
                bar.finish_and_clear();
                return Ok(*evidence);
            }
            Standing::Quiet => {
                // If the server has ended meanwhile, this is the one to finish it.
                if let Ok(folder) = DataDir::open(data_dir) {
                    return finish_for(&folder, order, &bar);
                }
            }
            Standing::Silent => bail!(
                "the server has not said a word for a minute or more: it cannot write, or is of a version that \
                 cannot erase; the order stands, and it or the next start carries it out"
            ),
        }
    }
}

/// Finishes an order that was given to a server which has ended since.
fn finish_for(folder: &DataDir, order: &Order, bar: &ProgressBar) -> anyhow::Result<Evidence> {
    let mut tell = |done_bytes, total_bytes| {
        show(bar, done_bytes, total_bytes);
        Ok(())
    };
    finish_in(folder, &Clock::system(), Some(&order.id), &mut tell).context(STANDS)?;
    bar.finish_and_clear();
    let word = Word::on(&Folder::private_at(folder.path()), &order.id)?;
    match word.map(|word| word.state) {
        Some(State::Done(evidence)) => Ok(*evidence),
        _ => bail!("the order was gone before it was carried out"),
    }
}

fn place(data_dir: &Path, order: &Order) -> anyhow::Result<bool> {
    let placed = order::place(data_dir, order);
    placed.with_context(|| format!("cannot write an order into {}", data_dir.display()))
}

/// What this command writes must be readable for the server.
fn as_its_owner(data_dir: &Path) -> anyhow::Result<()> {
    let owner = std::fs::metadata(data_dir.join(JOURNAL))?.uid();
    let uid = rustix::process::geteuid().as_raw();
    if uid != owner {
        bail!(
            "the journal belongs to user id {owner}, and this is user id {uid}: run it as that user, so \
             that the server can read what is written"
        );
    }
    Ok(())
}

/// Asks on the terminal whether it shall be done.
fn is_agreed(expected: &Expected) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("there is no terminal on which to ask: say --yes");
    }
    let mut out = io::stderr().lock();
    expected.print(&mut out)?;
    write!(out, "Erase this? It cannot be undone. [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Looks for what would be erased.
fn look(data_dir: &Path, disk: &Folder, selection: &Selection) -> anyhow::Result<Expected> {
    let bar = bar()?;
    let mut tell = |done_bytes, total_bytes| {
        show(&bar, done_bytes, total_bytes);
        Ok(())
    };
    let (survey, judge) = erase::survey(disk, selection, &mut tell)?;
    let reject_lines = rejects::count_in_files(data_dir, &judge, &mut |_| Ok(()))?;
    bar.finish_and_clear();
    let (data_dir, selection) = (data_dir.to_owned(), selection.described());
    Ok(Expected { data_dir, selection, survey, reject_lines })
}

fn bar() -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left")?;
    Ok(ProgressBar::new(0).with_style(style))
}

fn show(bar: &ProgressBar, done_bytes: u64, total_bytes: u64) {
    bar.set_length(total_bytes);
    bar.set_position(done_bytes);
}

fn note(what: &str) -> io::Result<()> {
    writeln!(io::stderr(), "mediatally: {what}")
}

fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<ExitCode> {
    match write(&mut io::stdout().lock()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        written => Ok(written.map(|()| ExitCode::SUCCESS)?),
    }
}

fn as_json(out: &mut dyn Write, summary: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, summary)?;
    writeln!(out)
}

/// What would be erased.
#[derive(Serialize)]
struct Expected {
    data_dir: PathBuf,
    selection: Described,
    #[serde(flatten)]
    survey: Survey,
    reject_lines: u64,
}

impl Expected {
    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { data_dir, selection, survey, reject_lines } = self;
        writeln!(out, "data       {}", data_dir.display())?;
        print_selection(out, selection)?;
        writeln!(out, "sessions   {}", survey.sessions)?;
        print_records(out, &survey.records)?;
        let bytes = bytesize::ByteSize::b(survey.segment_bytes);
        let (segments, checkpoints) = (survey.segments, survey.checkpoints);
        writeln!(
            out,
            "files      {segments} segments ({bytes}) and {checkpoints} checkpoints to be rewritten"
        )?;
        let (damaged, set_aside) = (survey.damaged_lines, survey.set_aside_lines);
        writeln!(
            out,
            "lines      {reject_lines} of refused bodies, {set_aside} set aside, {damaged} damaged"
        )?;
        if matches!(selection, Described::Visitor(_)) {
            match survey.value_left_lines {
                0 => writeln!(out, "search     the values stand in no records of other sessions")?,
                left => print_left(out, left)?,
            }
        }
        writeln!(out, "nothing was changed")
    }
}

/// What was erased, to be filed.
#[derive(Serialize)]
struct Summary<'e> {
    ordered: String,
    finished: String,
    cutoff: String,
    data_dir: &'e Path,
    #[serde(flatten)]
    evidence: &'e Evidence,
}

impl<'e> Summary<'e> {
    fn of(data_dir: &'e Path, evidence: &'e Evidence) -> Self {
        Self {
            ordered: time(evidence.ordered_ms).to_string(),
            finished: time(evidence.finished_ms).to_string(),
            cutoff: time(evidence.cutoff_ms).to_string(),
            data_dir,
            evidence,
        }
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { ordered, finished, cutoff, data_dir, evidence: done } = self;
        let how = match (done.server_was_running, done.was_interrupted) {
            (true, false) => "while the server ran",
            (false, false) => "while no server ran",
            (true, true) => "while the server ran, after an interruption",
            (false, true) => "while no server ran, after an interruption",
        };
        writeln!(out, "ordered    {ordered}")?;
        writeln!(out, "finished   {finished} by mediatally {}, {how}", done.version)?;
        writeln!(out, "data       {}", data_dir.display())?;
        print_selection(out, &done.selection)?;
        writeln!(out, "sessions   {}", done.sessions)?;
        print_records(out, &done.records)?;
        let (before, after) =
            (bytesize::ByteSize::b(done.bytes_before), bytesize::ByteSize::b(done.bytes_after));
        let (segments, checkpoints) = (done.segments, done.checkpoints);
        writeln!(
            out,
            "files      {segments} segments and {checkpoints} checkpoints rewritten, {before} before, \
             {after} after"
        )?;
        let (rejects, memory) = (done.reject_lines, done.rejects_in_memory);
        let (set_aside, damaged) = (done.set_aside_lines, done.damaged_lines);
        writeln!(
            out,
            "lines      {rejects} of refused bodies ({memory} in memory), {set_aside} set aside, \
             {damaged} damaged"
        )?;
        let number = done.cutoff_seq.map(|seq| format!(", record {seq}")).unwrap_or_default();
        writeln!(out, "cut-off    {cutoff}{number}: sessions that began later are new data")?;
        writeln!(out, "search     no record of these sessions is left that can be read")?;
        if matches!(done.selection, Described::Visitor(_)) {
            match done.value_left_lines {
                0 => writeln!(
                    out,
                    "search     the values stand in no record before the cut-off and no saved state"
                )?,
                left => print_left(out, left)?,
            }
        }
        for name in &done.unreadable_segments {
            writeln!(
                out,
                "damaged    {name} is as it was: its end cannot be unpacked and was not searched"
            )?;
        }
        for name in &done.truncated_segments {
            writeln!(
                out,
                "damaged    {name} was rewritten: its end could not be unpacked and was dropped"
            )?;
        }
        Ok(())
    }
}

fn print_selection(out: &mut dyn Write, selection: &Described) -> io::Result<()> {
    match selection {
        Described::Visitor(visitors) => {
            for visitor in visitors {
                let (key, hash) = (&visitor.key, &visitor.value_blake3);
                writeln!(out, "visitor    {key}, value with BLAKE3 {hash}")?;
            }
        }
        Described::Sessions(ids) => {
            for id in ids {
                writeln!(out, "session    {id}")?;
            }
        }
        Described::Started(Range { from_ms, until_ms }) => {
            let bound =
                |ms: &Option<u64>| ms.map_or("any time".to_owned(), |ms| time(ms).to_string());
            writeln!(out, "started    from {} until {}", bound(from_ms), bound(until_ms))?;
        }
    }
    Ok(())
}

fn print_left(out: &mut dyn Write, left: u64) -> io::Result<()> {
    writeln!(
        out,
        "search     a value still stands in {left} records or saved states of other sessions, under \
         other keys or as a part of other values"
    )
}

fn print_records(out: &mut dyn Write, records: &BTreeMap<String, u64>) -> io::Result<()> {
    let kinds: Vec<_> = records.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let total: u64 = records.values().sum();
    let colon = if kinds.is_empty() { "" } else { ": " };
    writeln!(out, "records    {total}{colon}{}", kinds.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visitors_are_listed_one_a_line_and_a_wrong_line_is_told_by_its_number() {
        let listed = visitors_in("\u{feff}user=a=b c\r\n\nanalytics.visitorId=x").unwrap();
        let expected = [("user", "a=b c"), ("analytics.visitorId", "x")];
        let found: Vec<_> = listed.iter().map(|found| (&*found.key, found.value())).collect();
        assert_eq!(found, expected);
        for (text, line) in [
            ("a=b\nGeheim", "line 2"),
            ("a=", "line 1"),
            ("a=b\nkey = Geheim", "line 2: there are blanks"),
            ("key=Geheim ", "line 1: there are blanks"),
            (" key=Geheim", "line 1: there are blanks"),
            ("\n\n", "there is none"),
        ] {
            let why = visitors_in(text).unwrap_err().to_string();
            assert!(why.contains(line) && !why.contains("Geheim"), "{why}");
        }
    }
}
