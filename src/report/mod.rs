//! `Report`: what a session was, under the documented field names.
//!
//! A report follows from the session alone, so it can be made again from the journal and is the same. One
//! of a session that is open says what it would be if nothing more came. Names and definitions:
//! the reporting schema's, and the README.

mod facts;

mod figures;

mod lists;

mod number;

#[cfg(test)]
pub(crate) mod tests;

#[cfg(test)]
mod laws;

#[cfg(test)]
mod oracle;

use std::io;

use serde::Serialize;

use self::facts::{Client, Facts, Listed, Metadata, Privacy};
use self::figures::{Figures, Qoe};
use self::lists::{Lists, ReportedAd, ReportedBreak, ReportedChapter, ReportedState};
use crate::session::id::SessionId;
use crate::session::{CloseReason, Session};

/// The rules by which a report is made; a change that a reader could trip over makes it the next. By the first,
/// `durationMs` was the difference of two stamps, and silence was playback.
const VERSION: u32 = 2;

/// What a session was. The fields are written in this order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report<'s> {
    version: u32,
    session_id: SessionId,
    status: Status,
    close_reason: Option<CloseReason>,
    start_ts: u64,
    last_event_ts: u64,
    duration_ms: u64,
    received_first_ms: u64,
    received_last_ms: u64,
    closed_ms: Option<u64>,
    client: Client<'s>,
    event_count: u32,
    late_count: u32,
    duplicate_count: u32,
    clock_jumps: u32,
    implausible_playheads: u32,
    repeat_of: Option<SessionId>,
    content: Listed<'s>,
    visitor: Listed<'s>,
    analytics: Listed<'s>,
    custom_metadata: Metadata<'s>,
    privacy: Privacy<'s>,
    truncated: Vec<Cut>,
    metrics: Figures,
    qoe: Qoe<'s>,
    ad_breaks: Vec<ReportedBreak<'s>>,
    ads: Vec<ReportedAd<'s>>,
    chapters: Vec<ReportedChapter<'s>>,
    states: Vec<ReportedState<'s>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum Status {
    Open,
    Closed,
}

impl<'s> Report<'s> {
    /// The report of a session that is closed, or of the [running copy](Session::running_copy) of one that
    /// is open.
    pub fn of(id: SessionId, session: &'s Session) -> Self {
        let facts = Facts::of(session);
        let lists = Lists::of(session, &facts);
        let closing = session.closing.as_deref();
        Self {
            version: VERSION,
            session_id: id,
            status: if closing.is_some() { Status::Closed } else { Status::Open },
            close_reason: closing.map(|closing| closing.reason),
            start_ts: session.opening.player_time.ts,
            last_event_ts: session.last_ts(),
            duration_ms: session.elapsed_ms(),
            received_first_ms: session.received_ms,
            received_last_ms: session.heard_ms,
            closed_ms: closing.map(|closing| closing.closed_ms),
            event_count: session.counts.events,
            late_count: session.counts.late,
            duplicate_count: session.counts.duplicates,
            clock_jumps: session.counts.clock_jumps,
            implausible_playheads: session.metrics.implausible_playheads,
            repeat_of: session.repeat_of.as_deref().copied(),
            truncated: truncated(session, &lists, &facts),
            metrics: Figures::of(session, &facts),
            qoe: Qoe::of(session),
            ad_breaks: lists.ad_breaks,
            ads: lists.ads,
            chapters: lists.chapters,
            states: lists.states,
            content: facts.content,
            visitor: facts.visitor,
            analytics: facts.analytics,
            custom_metadata: facts.custom_metadata,
            privacy: facts.privacy,
            client: facts.client,
        }
    }
}

impl Report<'_> {
    /// The report as JSON of at most so many bytes.
    ///
    /// What a session keeps is bounded so that its report is far shorter than a line of the journal. Should one be
    /// longer all the same, its lists are left out, and then what was said of it: a report that says less is better
    /// than none, and `truncated` says so.
    pub fn to_json(mut self, bytes_max: usize) -> Vec<u8> {
        let whole = self.json_within(bytes_max);
        whole.or_else(|| self.without_lists().json_within(bytes_max)).unwrap_or_else(|| {
            let figures = self.without_lists().without_facts();
            serde_json::to_vec(figures).expect("text and finite numbers are JSON")
        })
    }

    fn json_within(&self, bytes_max: usize) -> Option<Vec<u8>> {
        let mut within = Within { json: Vec::new(), bytes_max };
        serde_json::to_writer(&mut within, self).ok().map(|()| within.json)
    }

    fn without_lists(&mut self) -> &mut Self {
        let cut = [
            (self.qoe.leave_out_player_errors(), Cut::PlayerSdkErrors),
            (self.qoe.leave_out_external_errors(), Cut::ExternalErrors),
            (empty(&mut self.ad_breaks), Cut::AdBreaks),
            (empty(&mut self.ads), Cut::Ads),
            (empty(&mut self.chapters), Cut::Chapters),
            (empty(&mut self.states), Cut::States),
        ];
        self.truncated.extend(cut.into_iter().filter(|(is_cut, _)| *is_cut).map(|(_, cut)| cut));
        self.in_order()
    }

    fn without_facts(&mut self) -> &mut Self {
        self.client = Client::default();
        self.privacy = Privacy::default();
        (self.content, self.visitor, self.analytics) = Default::default();
        self.custom_metadata.clear();
        self.truncated.extend([Cut::Content, Cut::Visitor, Cut::Analytics, Cut::CustomMetadata]);
        self.in_order()
    }

    fn in_order(&mut self) -> &mut Self {
        self.truncated.sort_unstable();
        self.truncated.dedup();
        self
    }
}

/// Empties a list, and says whether anything was in it.
fn empty<T>(list: &mut Vec<T>) -> bool {
    !std::mem::take(list).is_empty()
}

/// JSON that is written as far as there is room for it.
struct Within {
    json: Vec<u8>,
    bytes_max: usize,
}

impl io::Write for Within {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.json.len() + bytes.len() > self.bytes_max {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.json.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What of a report may be cut, in the order in which it is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
enum Cut {
    Events,
    UniqueTimePlayed,
    PlayerSdkErrors,
    ExternalErrors,
    AdBreaks,
    Ads,
    Chapters,
    States,
    Content,
    Visitor,
    Analytics,
    CustomMetadata,
}

/// The names of what was cut, in the order of the report.
fn truncated(session: &Session, lists: &Lists<'_>, facts: &Facts<'_>) -> Vec<Cut> {
    let quality = session.metrics.quality();
    let parts = session.metrics.parts();
    let all = [
        (Cut::Events, session.counts.beyond > 0),
        (Cut::UniqueTimePlayed, session.metrics.viewed.is_truncated),
        (Cut::PlayerSdkErrors, quality.is_some_and(|quality| quality.player_errors_are_cut)),
        (Cut::ExternalErrors, quality.is_some_and(|quality| quality.external_errors_are_cut)),
        (Cut::AdBreaks, parts.is_some_and(|parts| parts.breaks.is_cut())),
        (Cut::Ads, parts.is_some_and(|parts| parts.ads.is_cut())),
        (Cut::Chapters, parts.is_some_and(|parts| parts.chapters.is_cut())),
        (Cut::States, session.state.player_states_are_cut),
        (Cut::CustomMetadata, lists.metadata_is_cut || facts.is_cut),
    ];
    all.into_iter().filter(|(_, is_cut)| *is_cut).map(|(name, _)| name).collect()
}
