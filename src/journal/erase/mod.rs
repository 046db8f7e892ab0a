//! Erasing a person's data: whole sessions, from everything that lies in the data folder.
//!
//! In the place of each run of records that are removed stands one record of kind `erased` with the number
//! of the first of them and their count, so the numbers have no gap and the journal can be held to its
//! promises as before.
//!
//! # Why a crash at any moment does no harm
//! An erasure is ordered by a file, [`order`], which is written whole, and removed last. So there is either an
//! order, and somebody will finish it, or nothing is left to do. Doing a part of it twice is the same as once:
//!
//! 1. *What goes is found.* Nothing is changed yet.
//! 2. *The ids are written into the order*, whole, before the first line is removed. Without them, once the
//!    start that names the visitor is gone, the events that do not would be left behind.
//! 3. *Nothing is added.* On a running server the journal takes nothing more of these sessions, then a record
//!    of kind `erased` is committed, and folding it drops them from memory. What came before it stands in a
//!    segment that is then closed. A crash after this forgets the fence, and the next start finds the order
//!    instead: it [leaves these sessions out](leave_out) of what it folds, so nobody sees them again.
//! 4. *Each file is written anew* beside the old one, synced, and renamed over it. Of a segment there is
//!    always one that is whole: the old one, or the new one with the same numbers; where both stand, under
//!    the plain and the compressed name, the compressed one counts and the other is removed first of all
//!    when the work is taken up again. A checkpoint loses the lines of these sessions and keeps its numbers,
//!    so whatever was rewritten before or after it, replay goes on at the same place: records in between are
//!    either whole sessions of others, or folded as nothing.
//! 5. *What became of it is written, then the order is removed.* Whoever waits for it takes it for done after
//!    both, because the order names whom it was about.
//!
//! A start waits for none of this. Who carries it out notes in [`progress`] how far that is, and the next one
//! goes on there.
//!
//! # Who else is at the files
//! The keeper of the journal carries out the orders of a server, and between two files it does what else is due:
//! it saves the live sessions, compresses and removes segments. So nobody else is ever at a file that is written
//! anew. It never waits for a disk that does not write: the order is tried again later, because removing old segments
//! may be what frees that disk. Reading a file is safe, because the one that is read stays as it is. Between 3 and 5 a
//! journal can have the events of a session without its start, but only as long as the order is there.

mod judge;

pub mod order;

mod progress;

mod search;

mod seek;

mod selection;

mod sweep;

pub mod wait;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use self::order::{Evidence, Found, Order, State, Word};
use self::progress::{Progress, Rewriting};
use self::search::Search;
use self::sweep::{Ahead, Look};
pub(crate) use self::sweep::{count_lines, purge_lines};
use super::disk::{Disk, unless_missing};
use super::record::{Content, Encoded, Record};
use super::segment::{self, Segment};
use super::{Ids, Journal, Unavailable, checkpoint};
use crate::clock::Clock;
use crate::live::Live;
use crate::processor::Change;
use crate::session::id::SessionId;

pub use self::judge::Judge;
pub use self::selection::{Described, Fingerprint, Range, Selection, Visitor};
pub use self::sweep::{Between, Meter, Pace, Tell};

/// How many sessions one record drops from memory: players who wait to be written must not wait long.
const DROPPED_AT_ONCE: usize = 10_000;

/// How long to rest when too much waits to be written.
const RETRY: Duration = Duration::from_millis(100);

/// Removes refused bodies, and tells that it is at work.
pub type Purge<'p> = dyn Fn(&Arc<Judge>, &mut Meter<'_>) -> io::Result<Purged> + Send + 'p;

/// How many refused bodies were removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// From files.
    pub lines: u64,
    /// From memory.
    pub in_memory: u64,
}

/// Where an erasure takes place.
pub struct Site<'s> {
    /// The data folder.
    pub home: &'s dyn Disk,
    /// The folder of the journal.
    pub disk: &'s dyn Disk,
    /// How refused bodies are removed.
    pub purge: &'s Purge<'s>,
    /// The time.
    pub clock: &'s Clock,
    /// The server that runs meanwhile, if one does.
    pub running: Option<Running<'s>>,
    /// What the start of that server has left out, if there was an order already.
    pub left_out: Option<&'s LeftOut>,
    /// The order that whoever is at work has just given, if no server runs; any other was found standing.
    pub given: Option<&'s str>,
}

/// What a start leaves out as if it were erased, because there is an order that is not carried out.
#[derive(Clone, Debug)]
pub struct LeftOut {
    /// The order.
    pub order: String,
    /// The sessions that it means.
    pub ids: Ids,
}

/// A server that goes on.
#[derive(Clone, Copy, Debug)]
pub struct Running<'s> {
    /// What it writes.
    pub journal: &'s Journal,
    /// What it has in memory.
    pub live: &'s Live,
}

/// What an erasure would remove.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Survey {
    /// How many sessions there are any records of, or a line of a checkpoint.
    pub sessions: u64,
    /// Their records by kind.
    pub records: BTreeMap<String, u64>,
    /// How many segments have any of them, or a damaged line that goes.
    pub segments: u64,
    /// The size of these segments, in bytes.
    pub segment_bytes: u64,
    /// Damaged lines in segments.
    pub damaged_lines: u64,
    /// How many checkpoints have any of the sessions.
    pub checkpoints: u64,
    /// Lines of what was set aside.
    pub set_aside_lines: u64,
    /// Records and saved sessions of others that have a searched value, under whatever key.
    pub value_left_lines: u64,
    /// The sessions.
    #[serde(skip)]
    ids: Ids,
}

/// Carries out the order that waits in a data folder, if there is one: says what became of it there, and
/// removes it.
///
/// # Errors
/// What the system says, or what `tell` did; then the order is still there, and doing this again finishes it.
pub fn finish(site: &Site<'_>, tell: Tell<'_>) -> io::Result<Option<Evidence>> {
    finish_beside(site, tell, &mut || false)
}

/// The same for somebody who has other duties on the journal, and does them between two of its files.
///
/// # Errors
/// See [`finish`].
pub fn finish_beside(
    site: &Site<'_>,
    tell: Tell<'_>,
    between: Between<'_>,
) -> io::Result<Option<Evidence>> {
    let Some(order) = Order::pending(site.home)? else { return Ok(None) };
    let id = order.id.clone();
    let told = Word::on(site.home, &id)?.map(|word| word.state);
    let evidence = if let Some(State::Done(evidence)) = told {
        // A crash came before the order was removed.
        *evidence
    } else {
        let mut meter = Meter::new(tell, site.running.is_some()).beside(between);
        let evidence = carry_out(site, order, &mut meter)?;
        let state = State::Done(Box::new(evidence.clone()));
        Word { order: id, written_ms: site.clock.now_ms(), state }.save(site.home)?;
        evidence
    };
    Progress::remove(site.home)?;
    order::remove_order(site.home)?;
    Ok(Some(evidence))
}

/// Finds the sessions that nobody shall see because of the order which waits in a data folder, if there is one.
/// Nothing is changed, so a disk that is full does not matter.
///
/// All that the order means are known once they were found. Before, these are looked for in what a start reads
/// back, and not in the whole journal, for which nobody shall wait: what a saved session does not tell of itself
/// is found while the server runs, as if the order were given then.
///
/// # Errors
/// That the order cannot be read, or that the journal cannot be listed.
pub fn leave_out(home: &dyn Disk, disk: &dyn Disk) -> io::Result<Option<LeftOut>> {
    let Some(order) = Order::pending(home)? else { return Ok(None) };
    let ids = match (order.found, &order.selection) {
        (Some(found), _) => Ids::of(found.ids),
        (None, Selection::Sessions(ids)) => Ids::of(ids.clone()),
        (None, selection) => {
            let found = Progress::of(home, &order.id)?.map(|progress| progress.ids);
            search::in_what_is_read_back(disk, selection, found.unwrap_or_default())?
        }
    };
    Ok(Some(LeftOut { order: order.id, ids }))
}

fn carry_out(site: &Site<'_>, mut order: Order, meter: &mut Meter<'_>) -> io::Result<Evidence> {
    remove_leftovers(site.disk)?;
    order::remove_old(site.home, site.clock.now_ms())?;
    let begun = Progress::of(site.home, &order.id)?;
    let was_interrupted =
        order.found.is_some() || begun.is_some() || site.finds_standing(&order.id);
    let mut progress = begun.unwrap_or_else(|| Progress::begin(&order.id));
    let found = match order.found.take() {
        Some(found) => found,
        None => find(site, &mut order, &mut progress, meter)?,
    };
    let ids = Ids::of(found.ids.clone());
    let erased_ms = site.clock.now_ms();
    let is_by_id = matches!(order.selection, Selection::Sessions(_));
    let held = site.fence(&ids);
    if is_by_id && !held.is_empty() {
        // Whoever tries again finds those no more that are dropped before it fails.
        progress.seen.extend(&held);
        progress.save(site.home)?;
    }
    site.drop_sessions(&held, erased_ms, meter)?;
    let end_seq = site.close_segment()?;
    let judge = Arc::new(Judge::new(&order.selection, ids));
    let counted_before_seq = if found.counts_later { None } else { found.cutoff_seq };
    let mut cleaning = Cleaning {
        site,
        judge: &judge,
        meter: &mut *meter,
        progress: &mut progress,
        erased_ms,
        is_by_id,
        counts_all: found.counts_later,
        counted_before_seq,
    };
    cleaning.segments(end_seq)?;
    cleaning.checkpoints()?;
    let mut evidence = evidence_of(site, &order, &found, was_interrupted, progress);
    for name in set_aside(site.disk)? {
        evidence.set_aside_lines += purge(site.disk, &name, &judge, meter)?;
    }
    let purged = (site.purge)(&judge, meter)?;
    (evidence.reject_lines, evidence.rejects_in_memory) = (purged.lines, purged.in_memory);
    evidence.finished_ms = site.clock.now_ms();
    Ok(evidence)
}

/// Finds what an order means, and writes that into it.
fn find(
    site: &Site<'_>,
    order: &mut Order,
    progress: &mut Progress,
    meter: &mut Meter<'_>,
) -> io::Result<Found> {
    let cutoff_ms = site.clock.now_ms();
    let cutoff_seq = site.close_segment()?;
    let ids = if let Selection::Sessions(ids) = &order.selection {
        Ids::of(ids.clone())
    } else {
        if let Some(left_out) = site.left_out_for(&order.id)
            && !left_out.ids.is_empty()
        {
            // Checkpoints are saved without them from now on, so the next start may not find them.
            progress.ids.extend(left_out.ids.as_slice());
            progress.save(site.home)?;
        }
        let mut search = Search::of(&order.selection, site.disk)?;
        search.found = mem::take(&mut progress.ids);
        search.everywhere(site, cutoff_seq, progress, meter)?;
        Ids::of(search.found.into_iter().collect())
    };
    let ids = ids.as_slice().to_vec();
    let (sessions, records) = (ids.len() as u64, BTreeMap::new());
    let found = Found { cutoff_seq, cutoff_ms, sessions, records, counts_later: true, ids };
    order.found = Some(found.clone());
    order.save(site.home)?;
    Ok(found)
}

/// What is known once segments and checkpoints are clean.
fn evidence_of(
    site: &Site<'_>,
    order: &Order,
    found: &Found,
    was_interrupted: bool,
    progress: Progress,
) -> Evidence {
    let is_by_id = matches!(order.selection, Selection::Sessions(_));
    let mut evidence = Evidence {
        order: order.id.clone(),
        selection: order.selection.described(),
        ordered_ms: order.ordered_ms,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        server_was_running: site.running.is_some(),
        was_interrupted,
        cutoff_ms: found.cutoff_ms,
        cutoff_seq: found.cutoff_seq,
        sessions: if found.counts_later && is_by_id {
            progress.seen.len() as u64
        } else {
            found.sessions
        },
        ..progress.evidence
    };
    add(&mut evidence.records, &found.records);
    evidence
}

/// The session of the first start in the newest segment that has one; nothing if no segment has.
///
/// # Errors
/// What the system says.
pub fn newest_session(disk: &dyn Disk) -> io::Result<Option<SessionId>> {
    for segment in segment::list(disk)?.iter().rev() {
        let Some(mut lines) = unless_missing(segment.lines(disk))? else { continue };
        while let Ok(Some(line)) = lines.next_line() {
            let Ok(record) = Record::read(line.text) else { continue };
            if let Content::Start { sid, .. } | Content::Batch { sid, .. } = record.content {
                return Ok(Some(sid));
            }
        }
    }
    Ok(None)
}

/// Looks for what an order would remove, and changes nothing. A server may run meanwhile; what it has removed
/// since it was listed is nothing to look at.
///
/// # Errors
/// What the system says, or what `tell` did.
pub fn survey(
    disk: &dyn Disk,
    selection: &Selection,
    tell: Tell<'_>,
) -> io::Result<(Survey, Arc<Judge>)> {
    let mut meter = Meter::new(tell, true);
    let mut survey = look_for(disk, selection, &mut meter)?;
    let judge = Judge::new(selection, survey.ids.clone());
    for name in set_aside(disk)? {
        let goes = |line: &[u8]| judge.condemns(line);
        let counted = count_lines(disk, &name, &goes, &mut |bytes| meter.line(bytes));
        survey.set_aside_lines += unless_missing(counted)?.unwrap_or(0);
    }
    Ok((survey, Arc::new(judge)))
}

/// Finds the sessions, then all that there is of them.
fn look_for(disk: &dyn Disk, selection: &Selection, meter: &mut Meter<'_>) -> io::Result<Survey> {
    let segments = segment::list(disk)?;
    let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let ids = match selection {
        Selection::Sessions(ids) => Ids::of(ids.clone()),
        Selection::Visitor(_) | Selection::Started(_) => {
            meter.expect(2 * bytes);
            let mut search = Search::of(selection, disk)?;
            for segment in &segments {
                unless_missing(search.segment(segment, meter))?;
                meter.file(segment.bytes)?;
            }
            search.checkpoints(meter)?;
            Ids::of(search.found.into_iter().collect())
        }
    };
    meter.expect(bytes);
    let judge = Judge::new(selection, ids);
    let ids = judge.ids();
    let mut survey = Survey { ids: ids.clone(), ..Survey::default() };
    let mut seen = vec![false; ids.as_slice().len()];
    let mut note = |id| ids.position(id).into_iter().for_each(|place| seen[place] = true);
    for segment in &segments {
        let look = unless_missing(sweep::look(disk, segment, &judge, meter, &mut note))?;
        let Some(look) = look else { continue };
        if look.is_dirty() {
            survey.segments += 1;
            survey.segment_bytes += segment.bytes;
        }
        add(&mut survey.records, &look.records);
        survey.damaged_lines += look.damaged_lines;
        survey.value_left_lines += look.value_left_lines;
    }
    for (_, name) in checkpoint::list(disk)? {
        let mut has_any = false;
        let saved = each_saved(disk, &name, |id, line| {
            if ids.contains(id) {
                has_any = true;
                note(id);
            } else {
                survey.value_left_lines += u64::from(judge.finds_value(line));
            }
            meter.line(line.len())
        });
        unless_missing(saved)?;
        survey.checkpoints += u64::from(has_any);
    }
    survey.sessions = seen.iter().filter(|seen| **seen).count() as u64;
    Ok(survey)
}

/// The files of a journal, as they are cleaned one after the other.
struct Cleaning<'c, 't> {
    site: &'c Site<'c>,
    judge: &'c Judge,
    meter: &'c mut Meter<'t>,
    progress: &'c mut Progress,
    erased_ms: u64,
    /// Whether sessions were ordered by their ids, so that it is still to be seen which of them were there.
    is_by_id: bool,
    /// Whether nothing was counted when the sessions were found, as versions before did.
    counts_all: bool,
    counted_before_seq: Option<u64>,
}

impl Cleaning<'_, '_> {
    /// Cleans the segments before a number, or all; those alone that are not clean yet.
    fn segments(&mut self, end_seq: Option<u64>) -> io::Result<()> {
        let mut ahead = Ahead::from(self.progress.clean_to_seq, end_seq, self.site.disk)?;
        self.meter.expect(ahead.bytes());
        while let Some(segment) = ahead.next() {
            // Retention may have removed it.
            unless_missing(self.segment(&segment))?;
            self.progress.clean_to_seq = segment.first_seq + 1;
            self.progress.went_through(self.site.home, segment.bytes)?;
            if self.meter.between_files() {
                ahead.list()?;
            }
        }
        self.progress.save(self.site.home)
    }

    /// Cleans one segment, if anything in it goes, and looks whether that is so.
    fn segment(&mut self, segment: &Segment) -> io::Result<()> {
        let disk = self.site.disk;
        let mut seen = Vec::new();
        let note = |id| {
            if self.is_by_id && !self.progress.seen.contains(&id) {
                seen.push(id);
            }
        };
        let look = sweep::look(disk, segment, self.judge, self.meter, note)?;
        self.progress.seen.extend(seen);
        let begun = self.progress.rewriting.take();
        let begun = begun.filter(|rewriting| rewriting.first_seq == segment.first_seq);
        let was_begun = begun.is_some();
        let (first_seq, bytes) = (segment.first_seq, segment.bytes);
        let before = begun.unwrap_or_else(|| Rewriting { first_seq, bytes, look: look.clone() });
        let mut after = (look, segment.bytes);
        if after.0.is_dirty() {
            if !was_begun {
                self.progress.rewriting = Some(before.clone());
                self.progress.save(self.site.home)?;
            }
            after = self.rewrite(segment, &before.look)?;
            self.progress.rewriting = None;
        }
        let (after, bytes_after) = after;
        let evidence = &mut self.progress.evidence;
        if before.look.is_dirty() {
            evidence.segments += 1;
            evidence.bytes_before += before.bytes;
            evidence.bytes_after += bytes_after;
        }
        // By a version before all else was counted when it was found.
        let is_new = |cutoff_seq| segment.first_seq >= cutoff_seq;
        if self.counts_all || self.counted_before_seq.is_some_and(is_new) {
            add(&mut evidence.records, &before.look.records);
        }
        evidence.damaged_lines += before.look.damaged_lines;
        evidence.value_left_lines += after.value_left_lines;
        if after.is_cut_short {
            evidence.unreadable_segments.push(segment.name());
        } else if before.look.is_cut_short {
            evidence.truncated_segments.push(segment.name());
        }
        Ok(())
    }

    /// Writes a segment anew, and looks whether it is clean. Gives what is in it then, and its size.
    fn rewrite(&mut self, segment: &Segment, before: &Look) -> io::Result<(Look, u64)> {
        let disk = self.site.disk;
        if before.is_cut_short {
            let name = segment.name();
            tracing::warn!(segment = name, "what cannot be unpacked of a segment is dropped");
        }
        sweep::rewrite(disk, segment, self.judge, self.erased_ms, self.meter)?;
        let rewritten = segment::list(disk)?;
        let rewritten = rewritten.iter().find(|found| found.first_seq == segment.first_seq);
        let rewritten = rewritten.ok_or_else(|| {
            let name = segment.name();
            io::Error::other(format!("{name} is gone, though nobody else removes it"))
        })?;
        self.meter.expect(rewritten.bytes);
        let after = sweep::look(disk, rewritten, self.judge, self.meter, |_| {})?;
        if after.is_dirty() {
            let name = rewritten.name();
            return Err(io::Error::other(format!("{name} still has what was to be erased")));
        }
        Ok((after, rewritten.bytes))
    }

    /// Cleans the checkpoints. One that is damaged is cleaned as what was set aside.
    fn checkpoints(&mut self) -> io::Result<()> {
        let Self { site, judge, meter, progress, is_by_id, .. } = self;
        let evidence = &mut progress.evidence;
        let bytes_of = |name: &str| -> io::Result<u64> {
            let files = site.disk.list()?;
            Ok(files.into_iter().find(|(found, _)| found == name).map_or(0, |(_, bytes)| bytes))
        };
        let seen = RefCell::new(&mut progress.seen);
        for (_, name) in checkpoint::list(site.disk)? {
            let before = bytes_of(&name)?;
            let goes = |id| judge.ids().contains(id);
            let note = |id| {
                let goes = goes(id);
                if goes && *is_by_id {
                    seen.borrow_mut().insert(id);
                }
                goes
            };
            let pace = &mut |bytes| meter.line(bytes);
            let is_running = site.running.is_some();
            match checkpoint::rewrite_without(site.disk, &name, note, is_running, pace) {
                Ok(false) => {}
                Ok(true) => {
                    evidence.checkpoints += 1;
                    evidence.bytes_before += before;
                    evidence.bytes_after += bytes_of(&name)?;
                }
                Err(checkpoint::Broken::Disk(error)) => return Err(error),
                Err(checkpoint::Broken::Content { .. }) => {
                    evidence.set_aside_lines += purge(site.disk, &name, judge, meter)?;
                    continue;
                }
            }
            each_saved(site.disk, &name, |id, line| {
                if goes(id) {
                    let why = format!("{name} still has what was to be erased");
                    return Err(io::Error::other(why));
                }
                evidence.value_left_lines += u64::from(judge.finds_value(line));
                meter.line(line.len())
            })?;
        }
        Ok(())
    }
}

/// Removes lines that are no records.
fn purge(disk: &dyn Disk, name: &str, judge: &Judge, meter: &mut Meter<'_>) -> io::Result<u64> {
    purge_lines(disk, name, &|line| judge.condemns(line), &mut |bytes| meter.line(bytes))
}

/// Calls `take` with each saved session of a checkpoint and its line, as far as it is sound.
fn each_saved(
    disk: &dyn Disk,
    name: &str,
    take: impl FnMut(SessionId, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    match checkpoint::each_session(disk, name, take) {
        Err(checkpoint::Broken::Disk(error)) => Err(error),
        // Nothing that is damaged is loaded.
        Ok(()) | Err(checkpoint::Broken::Content { .. }) => Ok(()),
    }
}

/// The files of lines that were set aside.
fn set_aside(disk: &dyn Disk) -> io::Result<Vec<String>> {
    let names = disk.list()?.into_iter().map(|(name, _)| name);
    Ok(names.filter(|name| segment::is_set_aside(name)).collect())
}

/// Removes what a crash left half done. Nobody else is at these files, and here it matters: the old one of
/// two segments may have what was erased from the new one.
fn remove_leftovers(disk: &dyn Disk) -> io::Result<()> {
    for name in segment::leftovers(disk)? {
        disk.remove(&name)?;
    }
    Ok(())
}

fn add(to: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>) {
    for (kind, count) in more {
        *to.entry(kind.clone()).or_default() += count;
    }
}

impl Site<'_> {
    /// What the start has left out because of this order.
    fn left_out_for(&self, order: &str) -> Option<&LeftOut> {
        self.left_out.filter(|left_out| left_out.order == order)
    }

    /// Whether somebody else gave this order, who did not see it done.
    fn finds_standing(&self, order: &str) -> bool {
        match self.running {
            Some(_) => self.left_out_for(order).is_some(),
            None => self.given != Some(order),
        }
    }

    /// Closes the segment that grows, if a server runs, and gives the number at which the next one begins. Fails at
    /// once if the journal cannot be written.
    fn close_segment(&self) -> io::Result<Option<u64>> {
        let Some(Running { journal, .. }) = self.running else { return Ok(None) };
        match journal.rotate().blocking_recv() {
            Ok(next_seq) => Ok(Some(next_seq)),
            Err(_) if journal.is_closed() => Err(refusal(Unavailable::Closed)),
            Err(_) => Err(refusal(Unavailable::Disk)),
        }
    }

    /// Lets nothing go on with these sessions. Gives those that are in memory.
    fn fence(&self, ids: &Ids) -> Vec<SessionId> {
        let Some(Running { journal, live }) = self.running else { return Vec::new() };
        journal.fence(ids);
        let remembered = live.remembered_ids();
        let is_held = |id: &SessionId| {
            live.contains(*id) || live.ended(*id).is_some() || remembered.contains(id)
        };
        ids.as_slice().iter().copied().filter(is_held).collect()
    }

    /// Drops these sessions from memory. Fails at once if the journal cannot be written; what was dropped is dropped.
    fn drop_sessions(
        &self,
        held: &[SessionId],
        erased_ms: u64,
        meter: &mut Meter<'_>,
    ) -> io::Result<()> {
        let Some(Running { journal, .. }) = self.running else { return Ok(()) };
        for ids in held.chunks(DROPPED_AT_ONCE) {
            let record = Content::Erased { count: 1, until_ms: None, erased_ms };
            let record = Encoded::short(record);
            loop {
                let appended = journal.append(&record, Change::Erase { ids: ids.to_vec() });
                let committed = appended
                    .and_then(|done| done.blocking_recv().unwrap_or(Err(Unavailable::Closed)));
                meter.between_files();
                match committed {
                    Ok(_) => break,
                    Err(Unavailable::Busy) => thread::sleep(RETRY),
                    Err(unavailable) => return Err(refusal(unavailable)),
                }
            }
        }
        Ok(())
    }
}

/// Why nothing is erased as long as the journal takes nothing.
fn refusal(unavailable: Unavailable) -> io::Error {
    match unavailable {
        Unavailable::Closed => io::Error::new(io::ErrorKind::Interrupted, "the server ends"),
        other => io::Error::other(other),
    }
}
