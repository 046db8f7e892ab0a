//! The sessions that an order means, found by what their records and saved states say.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::mem;

use serde::Deserialize;

use super::progress::Progress;
use super::seek::Seeker;
use super::selection::Selection;
use super::sweep::{self, Ahead, Meter};
use super::{Site, each_saved};
use crate::journal::disk::{Disk, unless_missing};
use crate::journal::record::{Content, Head, Record};
use crate::journal::segment::{self, Segment};
use crate::journal::{Ids, checkpoint};
use crate::session::id::SessionId;

/// How much of the newest segments a start looks through, though it may read back less: as much as takes a second.
const LOOKED_BYTES_MAX: u64 = 32 << 20;

/// Looks for sessions that match. Where the start of one is not there any more, because retention has removed
/// its segment, it is known by its report, by what a checkpoint has of it, or by the age that its id tells.
pub(super) struct Search<'s> {
    selection: &'s Selection,
    seeker: Seeker,
    disk: &'s dyn Disk,
    /// When the first record that is there was received.
    first_ms: Option<u64>,
    /// Those that were found.
    pub(super) found: BTreeSet<SessionId>,
}

impl<'s> Search<'s> {
    /// Nothing is looked at yet.
    pub(super) fn of(selection: &'s Selection, disk: &'s dyn Disk) -> io::Result<Self> {
        let segments = segment::list(disk)?;
        let first_ms = segments.iter().find_map(|segment| segment.first_received_ms(disk));
        let (seeker, found) = (Seeker::of(selection), BTreeSet::new());
        Ok(Self { selection, seeker, disk, first_ms, found })
    }

    /// Looks through the segments before a number, from where this was left on, and through the checkpoints. How
    /// far it is stands in the progress.
    pub(super) fn everywhere(
        &mut self,
        site: &Site<'_>,
        before_seq: Option<u64>,
        progress: &mut Progress,
        meter: &mut Meter<'_>,
    ) -> io::Result<()> {
        let mut ahead = Ahead::from(progress.searched_to_seq, before_seq, self.disk)?;
        // All of them are gone through again when they are cleaned.
        let all = Ahead::from(0, before_seq, self.disk)?;
        meter.expect(ahead.bytes() + all.bytes());
        while let Some(segment) = ahead.next() {
            // Retention may have removed it.
            unless_missing(self.segment(&segment, meter))?;
            meter.file(segment.bytes)?;
            progress.searched_to_seq = segment.first_seq + 1;
            mem::swap(&mut progress.ids, &mut self.found);
            let saved = progress.went_through(site.home, segment.bytes);
            mem::swap(&mut progress.ids, &mut self.found);
            saved?;
            if meter.between_files() {
                ahead.list()?;
            }
        }
        self.checkpoints(meter)
    }

    /// Looks through a segment, as far as it can be unpacked. What stands where the next one has begun was never
    /// acknowledged.
    pub(super) fn segment(&mut self, segment: &Segment, meter: &mut Meter<'_>) -> io::Result<()> {
        let Self { selection, seeker, disk, first_ms, found } = self;
        let is_by_time = matches!(selection, Selection::Started(_));
        let (mut lines, mut is_cut_short) = (segment.lines(*disk)?, false);
        while let Some(line) = sweep::next_line(&mut lines, segment, &mut is_cut_short)? {
            meter.line(line.text.len())?;
            // Most lines do not have the value, and are not looked at any further.
            if !line.complete || !(is_by_time || seeker.finds(line.text)) {
                continue;
            }
            let Some(head) = Head::of_sound(line.text) else { continue };
            if segment.ends_before(head.seq) {
                break;
            }
            let Some(id) = head.sid else { continue };
            let started_ms = match head.kind {
                "start" | "batch" => Some(head.received_ms),
                _ => Some(id.minted_ms()).filter(|_| began_before(*first_ms, id)),
            };
            let by_time = || started_ms.is_some_and(|ms| selection.has_start(ms));
            let by_value = || !is_by_time && record_matches(line.text, selection);
            if !found.contains(&id) && (by_time() || by_value()) {
                found.insert(id);
            }
        }
        Ok(())
    }

    /// Looks through the checkpoints.
    pub(super) fn checkpoints(&mut self, meter: &mut Meter<'_>) -> io::Result<()> {
        for (_, name) in checkpoint::list(self.disk)? {
            let Self { selection, seeker, disk, first_ms, found } = self;
            let saved = each_saved(*disk, &name, |id, line| {
                let by_time = began_before(*first_ms, id) && selection.has_start(id.minted_ms());
                if by_time || (seeker.finds(line) && selection.is_anywhere_in(line)) {
                    found.insert(id);
                }
                meter.line(line.len())
            });
            unless_missing(saved)?;
        }
        Ok(())
    }
}

/// Looks for the sessions in what a start reads back: the newest checkpoint that is sound, and every record after it;
/// and in some segments more, if they are small. Those are known already.
///
/// # Errors
/// That the journal cannot be listed. What else cannot be read is not folded either, or fails the start by itself.
pub(super) fn in_what_is_read_back(
    disk: &dyn Disk,
    selection: &Selection,
    known: BTreeSet<SessionId>,
) -> io::Result<Ids> {
    let mut search = Search::of(selection, disk)?;
    let mut floor_seq = 0;
    for (saved_seq, name) in checkpoint::list(disk)? {
        let mut found = Vec::new();
        let saved = checkpoint::each_session(disk, &name, |id, line| {
            let by_time = || started_ms(line).is_some_and(|ms| selection.has_start(ms));
            if by_time() || (search.seeker.finds(line) && selection.is_anywhere_in(line)) {
                found.push(id);
            }
            Ok(())
        });
        match saved {
            Ok(()) => {
                search.found.extend(found);
                floor_seq = saved_seq;
                break;
            }
            Err(error) => tell_of_unread(&name, &error),
        }
    }
    let mut looked_bytes = 0;
    let segments = segment::list(disk)?;
    let is_read_back = |segment: &Segment| segment.end_seq.is_none_or(|end| end > floor_seq);
    let is_looked_at = |segment: &&Segment| {
        looked_bytes += segment.bytes;
        is_read_back(segment) || looked_bytes <= LOOKED_BYTES_MAX
    };
    for segment in segments.iter().rev().take_while(is_looked_at) {
        let mut tell = |_, _| Ok(());
        if let Err(error) = search.segment(segment, &mut Meter::new(&mut tell, false)) {
            tell_of_unread(&segment.name(), &error);
        }
    }
    search.found.extend(known);
    Ok(Ids::of(search.found.into_iter().collect()))
}

fn tell_of_unread(name: &str, error: &dyn fmt::Display) {
    tracing::warn!(%error, file = name, "what is to be erased cannot be looked for");
}

/// Whether a session began before the first record that is there.
fn began_before(first_ms: Option<u64>, id: SessionId) -> bool {
    first_ms.is_none_or(|first_ms| id.minted_ms() < first_ms)
}

/// When the start of a saved session was received, in ms since the Unix epoch.
fn started_ms(line: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Line {
        session: Started,
    }

    #[derive(Deserialize)]
    struct Started {
        received_ms: u64,
    }

    serde_json::from_slice::<Line>(line).ok().map(|line| line.session.received_ms)
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
