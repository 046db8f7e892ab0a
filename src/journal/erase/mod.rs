//! Erasing a person's data: whole sessions, from everything that lies in the data folder.
//!
//! In the place of each run of records that are removed stands one record of kind `erased` with the number
//! of the first of them and their count, so the numbers have no gap and the journal can be held to its
//! promises as before.
//!
//! # Why a crash at any moment does no harm
//! An erasure is ordered by a file, [`order`], which is written whole, and removed last. Whoever opens the
//! data folder and finds one finishes it before anything is folded. So there is either an order, and it will
//! be finished, or nothing is left to do. Doing a part of it twice is the same as once:
//!
//! 1. *What goes is found.* Nothing is changed yet; a crash begins this anew.
//! 2. *The ids are written into the order*, whole, before the first line is removed. Without them, once the
//!    start that names the visitor is gone, the events that do not would be left behind.
//! 3. *Nothing is added.* On a running server the journal takes nothing more of these sessions, then a record
//!    of kind `erased` is committed, and folding it drops them from memory. What came before it stands in a
//!    segment that is then closed. A crash after this forgets the fence, and finds the order instead: the
//!    segments are rewritten before they are folded, so nobody sees these sessions again.
//! 4. *Each file is written anew* beside the old one, synced, and renamed over it. Of a segment there is
//!    always one that is whole: the old one, or the new one with the same numbers; where both stand, under
//!    the plain and the compressed name, the compressed one counts and the other is removed first of all
//!    when the work is taken up again. A checkpoint loses the lines of these sessions and keeps its numbers,
//!    so whatever was rewritten before or after it, replay goes on at the same place: records in between are
//!    either whole sessions of others, or folded as nothing.
//! 5. *What became of it is written, then the order is removed.* Whoever waits for it takes it for done after
//!    both, because the order names whom it was about.
//!
//! Reading a segment that is being rewritten is safe, because the file that is read stays as it is. Between
//! 3 and 5 a journal can have the events of a session without its start, but only as long as the order is
//! there.

mod judge;

pub mod order;

mod seek;

mod selection;

mod sweep;

pub mod wait;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use self::order::{Evidence, Found, Order, State, Word};
use self::seek::Seeker;
use self::sweep::Look;
pub(crate) use self::sweep::{count_lines, purge_lines};
use super::disk::{Disk, unless_missing};
use super::record::{Content, Encoded, Head, Record};
use super::segment::{self, Segment};
use super::{Ids, Journal, checkpoint};
use crate::clock::Clock;
use crate::live::Live;
use crate::processor::Change;
use crate::session::id::SessionId;

pub use self::judge::Judge;
pub use self::selection::{Described, Fingerprint, Range, Selection, Visitor};
pub use self::sweep::{Meter, Pace, Tell};

/// How many sessions one record drops from memory: players who wait to be written must not wait long.
const DROPPED_AT_ONCE: usize = 10_000;

/// How long to rest when nothing can be written.
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

/// What a start leaves out as if it were erased, because the disk does not let it carry out an order.
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
    #[serde(skip)]
    looks: BTreeMap<u64, Look>,
}

/// Carries out the order that waits in a data folder, if there is one: says what became of it there, and
/// removes it.
///
/// # Errors
/// What the system says, or what `tell` did; then the order is still there, and doing this again finishes it.
pub fn finish(site: &Site<'_>, tell: Tell<'_>) -> io::Result<Option<Evidence>> {
    let Some(order) = Order::pending(site.home)? else { return Ok(None) };
    let id = order.id.clone();
    let evidence = carry_out(site, order, tell)?;
    let state = State::Done(Box::new(evidence.clone()));
    Word { order: id, written_ms: site.clock.now_ms(), state }.save(site.home)?;
    order::remove_order(site.home)?;
    Ok(Some(evidence))
}

/// Finds the sessions that the order means which waits in a data folder, if there is one, as far as the
/// journal can be read. Nothing is changed, so a disk that is full does not matter.
///
/// # Errors
/// That the order cannot be read, or that the journal cannot be listed.
pub fn leave_out(home: &dyn Disk, disk: &dyn Disk) -> io::Result<Option<LeftOut>> {
    let Some(order) = Order::pending(home)? else { return Ok(None) };
    let ids = match (order.found, &order.selection) {
        (Some(found), _) => Ids::of(found.ids),
        (None, Selection::Sessions(ids)) => Ids::of(ids.clone()),
        (None, selection) => {
            let segments = sweep::segments(disk, None)?;
            let mut tell = |_, _| Ok(());
            let meter = &mut Meter::new(&mut tell, false);
            // What cannot be read is not folded either, or fails the start by itself.
            matching(disk, selection, &segments, meter, |name, result| match result {
                Err(error) => {
                    tracing::warn!(%error, file = name, "what is to be erased cannot be looked for");
                    Ok(())
                }
                looked => looked,
            })?
        }
    };
    Ok(Some(LeftOut { order: order.id, ids }))
}

fn carry_out(site: &Site<'_>, mut order: Order, tell: Tell<'_>) -> io::Result<Evidence> {
    remove_leftovers(site.disk)?;
    order::remove_old(site.home, site.clock.now_ms())?;
    let mut meter = Meter::new(tell, site.running.is_some());
    let was_interrupted = order.found.is_some() || site.finds_standing(&order.id);
    let (found, mut looks) = match order.found.take() {
        Some(found) => (found, BTreeMap::new()),
        None => find_for(site, &mut order, &mut meter)?,
    };
    let ids = Ids::of(found.ids.clone());
    let erased_ms = site.clock.now_ms();
    site.drop_sessions(&ids, erased_ms)?;
    let end_seq = site.close_segment()?;
    let judge = Arc::new(Judge::new(&order.selection, ids));
    let cutoff_seq = found.cutoff_seq;
    let mut evidence = evidence_of(site, &order, found, was_interrupted);
    for segment in sweep::segments(site.disk, end_seq)? {
        let look = looks.remove(&segment.first_seq);
        let look = clean(site.disk, &segment, look, &judge, erased_ms, &mut meter, &mut evidence)?;
        // What came after the cut-off is counted now, all else was counted when it was found.
        if cutoff_seq.is_some_and(|cutoff_seq| segment.first_seq >= cutoff_seq) {
            add(&mut evidence.records, &look.records);
        }
        evidence.damaged_lines += look.damaged_lines;
    }
    clean_checkpoints(site, &judge, &mut meter, &mut evidence)?;
    for name in set_aside(site.disk)? {
        evidence.set_aside_lines += purge(site.disk, &name, &judge, &mut meter)?;
    }
    let purged = (site.purge)(&judge, &mut meter)?;
    (evidence.reject_lines, evidence.rejects_in_memory) = (purged.lines, purged.in_memory);
    evidence.finished_ms = site.clock.now_ms();
    Ok(evidence)
}

/// Finds what an order means, and writes that into it.
fn find_for(
    site: &Site<'_>,
    order: &mut Order,
    meter: &mut Meter<'_>,
) -> io::Result<(Found, BTreeMap<u64, Look>)> {
    let cutoff_ms = site.clock.now_ms();
    let cutoff_seq = site.close_segment()?;
    let known = site.left_out_for(&order.id);
    let known = known.map(|left_out| left_out.ids.clone()).unwrap_or_default();
    let survey = find(site.disk, &order.selection, &known, cutoff_seq, meter)?;
    let Survey { sessions, records, ids, looks, .. } = survey;
    let found = Found { cutoff_seq, cutoff_ms, sessions, records, ids: ids.as_slice().to_vec() };
    order.found = Some(found.clone());
    order.save(site.home)?;
    Ok((found, looks))
}

/// What is known before the files are cleaned.
fn evidence_of(site: &Site<'_>, order: &Order, found: Found, was_interrupted: bool) -> Evidence {
    Evidence {
        order: order.id.clone(),
        selection: order.selection.described(),
        ordered_ms: order.ordered_ms,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        server_was_running: site.running.is_some(),
        was_interrupted,
        cutoff_ms: found.cutoff_ms,
        cutoff_seq: found.cutoff_seq,
        sessions: found.sessions,
        records: found.records,
        ..Evidence::default()
    }
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
    let mut survey = find(disk, selection, &Ids::default(), None, &mut meter)?;
    let judge = Judge::new(selection, survey.ids.clone());
    for name in set_aside(disk)? {
        let goes = |line: &[u8]| judge.condemns(line);
        let counted = count_lines(disk, &name, &goes, &mut |bytes| meter.line(bytes));
        survey.set_aside_lines += unless_missing(counted)?.unwrap_or(0);
    }
    Ok((survey, Arc::new(judge)))
}

/// Finds the sessions beside those that are known, then all that there is of them.
fn find(
    disk: &dyn Disk,
    selection: &Selection,
    known: &Ids,
    before_seq: Option<u64>,
    meter: &mut Meter<'_>,
) -> io::Result<Survey> {
    let segments = sweep::segments(disk, before_seq)?;
    let bytes = segments.iter().map(|segment| segment.bytes).sum();
    let ids = match selection {
        Selection::Sessions(ids) => Ids::of(ids.clone()),
        Selection::Visitor(_) | Selection::Started(_) => {
            meter.expect(bytes);
            matching(disk, selection, &segments, meter, |_, result| {
                unless_missing(result).map(Option::unwrap_or_default)
            })?
        }
    };
    let ids = ids.and(known);
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
        survey.looks.insert(segment.first_seq, look);
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

/// The sessions that match. Where the start of one is not there any more, because retention has removed
/// its segment, it is known by its report, by what a checkpoint has of it, or by the age that its id tells.
/// `hold` decides what to do about a file, given by its name, that cannot be read.
fn matching(
    disk: &dyn Disk,
    selection: &Selection,
    segments: &[Segment],
    meter: &mut Meter<'_>,
    hold: impl Fn(&str, io::Result<()>) -> io::Result<()>,
) -> io::Result<Ids> {
    let seeker = Seeker::of(selection);
    let first_ms = segments.iter().find_map(|segment| segment.first_received_ms(disk));
    let began_before = |id: SessionId| first_ms.is_none_or(|first_ms| id.minted_ms() < first_ms);
    let mut found = BTreeSet::new();
    for segment in segments {
        let looked = each_sound(disk, segment, |line, head| {
            meter.line(line.len())?;
            let Some((head, id)) = head.and_then(|head| head.sid.map(|id| (head, id))) else {
                return Ok(());
            };
            let started_ms = match head.kind {
                "start" | "batch" => Some(head.received_ms),
                _ => Some(id.minted_ms()).filter(|_| began_before(id)),
            };
            let by_time = || started_ms.is_some_and(|ms| selection.has_start(ms));
            let by_value = || seeker.finds(line) && record_matches(line, selection);
            if !found.contains(&id) && (by_time() || by_value()) {
                found.insert(id);
            }
            Ok(())
        });
        hold(&segment.name(), looked)?;
        meter.file(segment.bytes)?;
    }
    for (_, name) in checkpoint::list(disk)? {
        let looked = each_saved(disk, &name, |id, line| {
            let by_time = began_before(id) && selection.has_start(id.minted_ms());
            if by_time || (seeker.finds(line) && selection.is_anywhere_in(line)) {
                found.insert(id);
            }
            meter.line(line.len())
        });
        hold(&name, looked)?;
    }
    Ok(Ids::of(found.into_iter().collect()))
}

/// Calls `take` with each line of a segment, as far as it can be unpacked, and its head if it is sound and
/// counts: what stands where the next segment has begun was never acknowledged.
fn each_sound(
    disk: &dyn Disk,
    segment: &Segment,
    mut take: impl FnMut(&[u8], Option<Head<'_>>) -> io::Result<()>,
) -> io::Result<()> {
    let mut lines = segment.lines(disk)?;
    let (mut is_cut_short, mut is_beyond) = (false, false);
    while let Some(line) = sweep::next_line(&mut lines, segment, &mut is_cut_short)? {
        let head = Some(line.text).filter(|_| line.complete && !is_beyond).and_then(Head::of_sound);
        is_beyond |= head.as_ref().is_some_and(|head| segment.ends_before(head.seq));
        take(line.text, head.filter(|_| !is_beyond))?;
    }
    Ok(())
}

fn record_matches(line: &[u8], selection: &Selection) -> bool {
    match Record::read(line).map(|record| record.content) {
        Ok(
            Content::Start { body, .. } | Content::Event { body, .. } | Content::Batch { body, .. },
        ) => selection.is_in_body(&body),
        Ok(Content::Report { report, .. }) => selection.is_anywhere_in(&report),
        _ => false,
    }
}

/// Cleans one segment, if anything in it goes, and looks whether that is so. Gives what was in it before.
fn clean(
    disk: &dyn Disk,
    segment: &Segment,
    look: Option<Look>,
    judge: &Judge,
    erased_ms: u64,
    meter: &mut Meter<'_>,
    evidence: &mut Evidence,
) -> io::Result<Look> {
    let before = if let Some(look) = look {
        look
    } else {
        meter.expect(segment.bytes);
        sweep::look(disk, segment, judge, meter, |_| {})?
    };
    let mut after = before.clone();
    if before.is_dirty() {
        if before.is_cut_short {
            let name = segment.name();
            tracing::warn!(segment = name, "what cannot be unpacked of a segment is dropped");
        }
        sweep::rewrite(disk, segment, judge, erased_ms, meter)?;
        let rewritten = segment::list(disk)?;
        let rewritten = rewritten.iter().find(|found| found.first_seq == segment.first_seq);
        let rewritten = rewritten.ok_or(io::ErrorKind::NotFound)?;
        after = sweep::look(disk, rewritten, judge, meter, |_| {})?;
        if after.is_dirty() {
            let name = rewritten.name();
            return Err(io::Error::other(format!("{name} still has what was to be erased")));
        }
        evidence.segments += 1;
        evidence.bytes_before += segment.bytes;
        evidence.bytes_after += rewritten.bytes;
    }
    evidence.value_left_lines += after.value_left_lines;
    if after.is_cut_short {
        evidence.unreadable_segments.push(segment.name());
    } else if before.is_cut_short {
        evidence.truncated_segments.push(segment.name());
    }
    Ok(before)
}

/// Cleans the checkpoints. One that is damaged is cleaned as what was set aside.
fn clean_checkpoints(
    site: &Site<'_>,
    judge: &Judge,
    meter: &mut Meter<'_>,
    evidence: &mut Evidence,
) -> io::Result<()> {
    let bytes_of = |name: &str| -> io::Result<u64> {
        let files = site.disk.list()?;
        Ok(files.into_iter().find(|(found, _)| found == name).map_or(0, |(_, bytes)| bytes))
    };
    for (_, name) in checkpoint::list(site.disk)? {
        let before = bytes_of(&name)?;
        let goes = |id| judge.ids().contains(id);
        let pace = &mut |bytes| meter.line(bytes);
        let is_running = site.running.is_some();
        match checkpoint::rewrite_without(site.disk, &name, goes, is_running, pace) {
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

    /// Closes the segment that grows, if a server runs, and gives the number at which the next one begins.
    fn close_segment(&self) -> io::Result<Option<u64>> {
        let Some(Running { journal, .. }) = self.running else { return Ok(None) };
        loop {
            if let Ok(next_seq) = journal.rotate().blocking_recv() {
                return Ok(Some(next_seq));
            }
            wait_for(journal)?;
        }
    }

    /// Lets nothing go on with these sessions, and drops them from memory.
    fn drop_sessions(&self, ids: &Ids, erased_ms: u64) -> io::Result<()> {
        let Some(Running { journal, live }) = self.running else { return Ok(()) };
        journal.fence(ids);
        let remembered = live.remembered_ids();
        let is_held = |id: &SessionId| {
            live.contains(*id) || live.ended(*id).is_some() || remembered.contains(id)
        };
        let held: Vec<_> = ids.as_slice().iter().copied().filter(is_held).collect();
        for ids in held.chunks(DROPPED_AT_ONCE) {
            let record = Content::Erased { count: 1, until_ms: None, erased_ms };
            let record = Encoded::new(record);
            loop {
                let appended = journal.append(&record, Change::Erase { ids: ids.to_vec() });
                if appended.is_ok_and(|committed| matches!(committed.blocking_recv(), Ok(Ok(_)))) {
                    break;
                }
                wait_for(journal)?;
            }
        }
        Ok(())
    }
}

/// Waits until the journal can perhaps be written again.
fn wait_for(journal: &Journal) -> io::Result<()> {
    if journal.is_closed() {
        return Err(io::Error::new(io::ErrorKind::Interrupted, "the server ends"));
    }
    thread::sleep(RETRY);
    Ok(())
}
