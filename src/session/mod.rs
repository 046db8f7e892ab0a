//! One session as the fold of its records.
//!
//! A session changes in two ways only: it [hears](Session::hear) an event, or it [closes](Session::close).
//! One that was stored comes [whole](StoredSession).
//! Time comes in as an argument, in two forms: `received_ms` is the server's clock, and *up time* is that
//! clock less all the time that the server was down or could not write. Deadlines and the ordering window
//! run on up time, so that nothing ends because nobody could hear it.

pub mod id;

mod list;

mod facts;

mod opening;

mod reorder;

mod timeline;

mod step;

mod state;

mod stored;

mod metrics;

mod tally;

mod viewed;

mod parts;

mod in_force;

mod place;

mod quality;

mod recent;

#[cfg(test)]
pub(crate) mod tests;

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::id::{Key, SessionId};
use self::metrics::{Metrics, PARTS_BYTES, QUALITY_BYTES};
use self::recent::Recent;
use self::reorder::{WAITING_BYTES, Waiting, Window};
use self::timeline::{AfterRow, Passage, ROW_BYTES, Timeline};
use crate::wire::{EventType, PlayerTime, Playhead};

pub use facts::Facts;
pub use list::List;
pub use opening::{NotFolded, Opening, stored, stored_within};
pub(crate) use parts::{AdEntry, BreakEntry, ChapterEntry, Parts};
pub(crate) use quality::Quality;
pub(crate) use state::End;
pub use state::{Ad as AdState, Main, PlayerState, State, StateName};
pub use step::{About, BodyHash, BreakFacts, ErrorId, Pod, Print, Readings, StateNames, Step};
pub use stored::{EventsByType, StoredSession};

/// The least and the most that `events_max` may be set to.
pub const EVENTS_MAX_RANGE: RangeInclusive<u32> = 10..=100_000;

/// How old a session that never sent an event must be before it may be evicted, in ms of up time. Players send
/// their first ping after ten seconds, and it may be on its way.
const EVICTION_AGE_MS: u64 = 15_000;

/// A playhead that differs by more than this, in seconds, has moved.
const MOVED_S: f64 = 0.001;

/// What one session holds beside itself at most, in bytes, however much its player says: 8 MiB of ad breaks, ads and
/// chapters, and some hundred KiB each of their lists, of what waits, of what was viewed, and of all else.
///
/// The bounds that make it up are constants, because a replay must keep what was kept.
pub const HEAP_BYTES_MAX: usize = 10 << 20;

/// The section `session` of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The key that signs session ids; made in the data folder if none is given.
    #[serde(serialize_with = "hidden", deserialize_with = "key_or_empty")]
    pub key: Option<Key>,
    /// A session ends when no event came for this long.
    #[serde(with = "humantime_serde")]
    pub no_events_timeout: Duration,
    /// A session ends when its playhead did not move for this long.
    #[serde(with = "humantime_serde")]
    pub no_playhead_timeout: Duration,
    /// A session ends when it is this old.
    #[serde(with = "humantime_serde")]
    pub age_max: Duration,
    /// How many events a session takes; what comes beyond only keeps it alive, or ends it.
    pub events_max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        let Terms { no_events_ms, no_playhead_ms, age_ms, events_max } = Terms::default();
        Self {
            key: None,
            no_events_timeout: Duration::from_millis(no_events_ms),
            no_playhead_timeout: Duration::from_millis(no_playhead_ms),
            age_max: Duration::from_millis(age_ms),
            events_max,
        }
    }
}

impl Settings {
    /// The terms of a session as the fold takes them.
    pub fn terms(&self) -> Terms {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Terms {
            no_events_ms: ms(self.no_events_timeout),
            no_playhead_ms: ms(self.no_playhead_timeout),
            age_ms: ms(self.age_max),
            events_max: self.events_max,
        }
    }
}

/// After how much up time sessions end, and how much they take before.
///
/// These terms are part of what the journal tells, because a replay must close sessions where they were closed
/// and leave out what they left out, whatever the settings say by then. A journal begins with the default, and a
/// record says what holds from there on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Without an event, in ms.
    pub no_events_ms: u64,
    /// Without a change of the playhead, in ms.
    pub no_playhead_ms: u64,
    /// Since its start, in ms.
    pub age_ms: u64,
    /// How many events a session takes, its start among them; what comes beyond only moves its deadlines.
    #[serde(default = "events_max_before_it_was_told")]
    pub events_max: u32,
}

impl Default for Terms {
    fn default() -> Self {
        const MINUTE_MS: u64 = 60_000;
        Self {
            no_events_ms: 10 * MINUTE_MS,
            no_playhead_ms: 30 * MINUTE_MS,
            age_ms: 48 * 60 * MINUTE_MS,
            events_max: events_max_before_it_was_told(),
        }
    }
}

/// What held for journals that do not tell.
fn events_max_before_it_was_told() -> u32 {
    *EVENTS_MAX_RANGE.end()
}

#[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
fn hidden<S: Serializer>(key: &Option<Key>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if key.is_some() { "(hidden)" } else { "" })
}

fn key_or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Key>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    let problem = || serde::de::Error::custom("expected 64 hexadecimal digits, or nothing");
    Key::from_hex(&text).ok_or_else(problem).map(Some)
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CloseReason {
    /// The player said so.
    SessionEnd,
    /// No event came for `session.no_events_timeout`.
    TimeoutNoEvents,
    /// The playhead did not move for `session.no_playhead_timeout`.
    TimeoutNoPlayhead,
    /// It was as old as `session.age_max`.
    Lifetime,
    /// It was stored by the player and came whole.
    Downloaded,
    /// It never sent an event, and the server needed its place for others.
    Evicted,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// Why.
    pub reason: CloseReason,
    /// The instant from which on it was over, in ms of up time.
    pub up_ms: u64,
    /// The same instant, in ms since the Unix epoch by the server's clock.
    pub closed_ms: u64,
}

impl Closing {
    /// A deadline that had passed when a record was received.
    pub fn at((deadline_up_ms, reason): (u64, CloseReason), received_ms: u64, up_ms: u64) -> Self {
        let closed_ms = received_ms.saturating_sub(up_ms.saturating_sub(deadline_up_ms));
        Self { reason, up_ms: deadline_up_ms, closed_ms }
    }
}

/// One live session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Session {
    /// What its start said.
    pub opening: Opening,
    /// When the start was received, in ms since the Unix epoch by the server's clock.
    pub received_ms: u64,
    /// What it is doing, as of the last processed event.
    pub state: State,
    /// What was counted.
    pub counts: Counts,
    /// What the viewer got.
    pub(crate) metrics: Metrics,
    /// How it ended, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closing: Option<Box<Closing>>,
    started_up_ms: u64,
    /// When the last event was accepted, in ms since the Unix epoch by the server's clock.
    pub heard_ms: u64,
    /// The same in ms of up time.
    heard_up_ms: u64,
    /// When the playhead was last seen to move, in ms of up time.
    moved_up_ms: u64,
    /// The playhead of the event that was received last.
    playhead: Playhead,
    timeline: Timeline,
    window: Window,
    /// The last accepted events.
    #[serde(default, skip_serializing_if = "Recent::is_empty")]
    recent: Recent,
    /// The session whose start was sent again to begin this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) repeat_of: Option<Box<SessionId>>,
}

/// What a session counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Processed events, the start included.
    pub events: u32,
    /// Events that were stamped before the last processed one.
    #[serde(skip_serializing_if = "is_default")]
    pub late: u32,
    /// Repeats that were dropped.
    #[serde(skip_serializing_if = "is_default")]
    pub duplicates: u32,
    /// How often the player's clock was set.
    #[serde(skip_serializing_if = "is_default")]
    pub clock_jumps: u32,
    /// Events beyond the most that a session takes.
    #[serde(skip_serializing_if = "is_default")]
    pub beyond: u32,
    /// Events that the window put before one that came before them.
    #[serde(skip_serializing_if = "is_default")]
    pub reordered: u32,
}

impl Counts {
    /// What was counted since it was `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            events: self.events - before.events,
            late: self.late - before.late,
            duplicates: self.duplicates - before.duplicates,
            clock_jumps: self.clock_jumps - before.clock_jumps,
            beyond: self.beyond - before.beyond,
            reordered: self.reordered - before.reordered,
        }
    }
}

/// When something was received, in ms.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// By the server's clock, since the Unix epoch.
    pub stamp_ms: u64,
    /// As that clock would show if its stamps had never been set back: by it receipts are compared.
    pub running_ms: u64,
    /// In up time.
    pub up_ms: u64,
}

impl Received {
    /// By a clock that was never set back.
    pub const fn at(stamp_ms: u64, up_ms: u64) -> Self {
        Self { stamp_ms, running_ms: stamp_ms, up_ms }
    }
}

impl Session {
    /// Begins with its start.
    pub fn new(mut opening: Opening, received: Received) -> Self {
        let Received { stamp_ms, running_ms, up_ms } = received;
        let PlayerTime { playhead, ts } = opening.player_time;
        let readings = opening.readings.take();
        Self {
            opening,
            received_ms: stamp_ms,
            state: State::default(),
            counts: Counts { events: 1, ..Counts::default() },
            metrics: Metrics::new(playhead, readings.as_deref()),
            closing: None,
            started_up_ms: up_ms,
            heard_ms: stamp_ms,
            heard_up_ms: up_ms,
            moved_up_ms: up_ms,
            playhead,
            timeline: Timeline::new(ts, running_ms),
            window: Window::default(),
            recent: Recent::default(),
            repeat_of: None,
        }
    }

    /// Goes on from a state that was saved before sessions had a time of their own.
    pub(crate) fn fill_in(&mut self) {
        self.timeline.count_from(self.opening.player_time.ts);
        self.metrics.fill_in();
    }

    /// Takes an event, unless the session is over for it: its deadline has come, or it has ended and the
    /// event is none of those that the end may have overtaken. Says whether it was taken.
    pub fn hear(&mut self, received: Received, step: Step, terms: &Terms) -> bool {
        let Received { stamp_ms, running_ms, up_ms } = received;
        let (deadline_up_ms, _) = self.deadline(terms);
        if up_ms >= deadline_up_ms || !self.window.takes(&step) {
            return false;
        }
        let playhead = step.player_time.playhead;
        if is_elsewhere(playhead, self.playhead) {
            self.moved_up_ms = up_ms;
        }
        self.playhead = playhead;
        self.recent.pass(stamp_ms.saturating_sub(self.heard_ms));
        (self.heard_ms, self.heard_up_ms) = (stamp_ms, up_ms);
        let due = self.window.flush_due(up_ms);
        self.process_all(due);
        if self.window.holds(step.print) || self.recent.holds(step.print) {
            self.counts.duplicates += 1;
        } else if self.is_full(terms) && step.event_type != EventType::SessionEnd {
            self.counts.beyond += 1;
        } else {
            self.recent.add(step.print);
            let first = self.window.flush_full();
            self.process_all(first);
            let is_moved = self.window.add(running_ms, up_ms, step);
            self.counts.reordered += u32::from(is_moved);
        }
        true
    }

    /// The instant from which on the session is over, in ms of up time, and why.
    pub fn deadline(&self, terms: &Terms) -> (u64, CloseReason) {
        let all = self.deadlines(terms);
        all.min_by_key(|(up_ms, _)| *up_ms).expect("there is one at least")
    }

    /// The instants from each of which on the session is over, in ms of up time, and why. Once it has ended
    /// nothing else ends it.
    pub fn deadlines(&self, terms: &Terms) -> impl Iterator<Item = (u64, CloseReason)> {
        let end = self.window.closes_up_ms().map(|up_ms| (up_ms, CloseReason::SessionEnd));
        let after = |since_up_ms: u64, ms, reason| (since_up_ms.saturating_add(ms), reason);
        let timeouts = [
            after(self.heard_up_ms, terms.no_events_ms, CloseReason::TimeoutNoEvents),
            after(self.moved_up_ms, terms.no_playhead_ms, CloseReason::TimeoutNoPlayhead),
            after(self.started_up_ms, terms.age_ms, CloseReason::Lifetime),
        ];
        let has_ended = end.is_some();
        end.into_iter().chain(timeouts.into_iter().filter(move |_| !has_ended))
    }

    /// Whether it may make room for others: it never sent an event, and had time to.
    pub fn may_be_evicted(&self, up_ms: u64) -> bool {
        let Counts { events, duplicates, beyond, .. } = self.counts;
        let is_untouched = events + duplicates + beyond == 1 && self.window.len() == 0;
        is_untouched && up_ms >= self.started_up_ms.saturating_add(EVICTION_AGE_MS)
    }

    /// How many events wait in the ordering window.
    pub fn waiting(&self) -> usize {
        self.window.len()
    }

    /// Ends, because its deadline has come: what still waits is processed.
    pub fn close(&mut self, closing: Closing) {
        self.flush();
        self.metrics.settle();
        self.closing = Some(Box::new(closing));
    }

    /// The session as it is with all that waits, for whoever looks at one that is open. Time of which it is not known
    /// yet whether it is a stall is in no sum.
    #[must_use]
    pub fn running_copy(&self) -> Self {
        let mut copy = self.clone();
        copy.flush();
        copy
    }

    /// The time of the last processed event, in ms by the player's clock.
    pub fn last_ts(&self) -> u64 {
        self.timeline.ts
    }

    /// Session time: how long it lasted up to the last processed event, in ms.
    pub fn elapsed_ms(&self) -> u64 {
        self.timeline.elapsed_ms
    }

    /// How long nothing had been heard when it ended, in ms of up time.
    pub fn silent_ms(&self) -> Option<u64> {
        self.closing.as_ref().map(|closing| closing.up_ms.saturating_sub(self.heard_up_ms))
    }

    /// The memory that it holds beside itself, or will when what waits is processed, in bytes: at most
    /// [`HEAP_BYTES_MAX`]. Only an event that is heard makes it grow, and by no more than [`growth_bytes`]; its end,
    /// which is counted from the beginning on, does not.
    pub fn heap_bytes(&self) -> usize {
        let makes_parts =
            self.metrics.parts().is_none() && self.window.steps().any(Step::begins_parts);
        let makes_quality =
            self.metrics.quality().is_none() && self.window.steps().any(Step::tells_quality);
        self.opening.heap_bytes()
            + self.window.heap_bytes()
            + self.state.heap_bytes()
            + self.metrics.heap_bytes()
            + self.timeline.heap_bytes()
            + self.repeat_of.as_ref().map_or(0, |_| size_of::<SessionId>())
            + if makes_parts { PARTS_BYTES } else { 0 }
            + if makes_quality { QUALITY_BYTES } else { 0 }
    }

    fn flush(&mut self) {
        let all = self.window.close();
        self.process_all(all);
        if let Some((step_ms, AfterRow { row, before_ms })) = self.timeline.end_last_row() {
            self.counts.clock_jumps += 1;
            self.state.pass(step_ms);
            self.metrics.cap_ad(row.last.before);
            for (ms, event) in [(before_ms, &row.first), (step_ms - before_ms, &row.last)] {
                self.metrics.credit(ms, event, self.opening.content, &self.state);
            }
        }
    }

    fn process_all(&mut self, waiting: Vec<Waiting>) {
        for waiting in waiting {
            self.process(waiting);
        }
    }

    fn process(&mut self, Waiting { received_ms, step }: Waiting) {
        let PlayerTime { ts, playhead } = step.player_time;
        let Self { timeline, metrics, state, .. } = self;
        let passage = timeline.advance(ts, received_ms, playhead, || metrics.in_force(state));
        self.act(step, passage);
    }

    /// Lets an event act: the time before it goes to the state before it, then the state changes, then the
    /// rest is noted.
    fn act(&mut self, step: Step, (mut step_ms, passage): (u64, Passage)) {
        let content = self.opening.content;
        self.counts.events += 1;
        self.state.pass(step_ms);
        match &passage {
            Passage::Onward => {}
            Passage::Late => self.counts.late += 1,
            Passage::Jump(after_row) => {
                self.counts.clock_jumps += 1;
                let in_force = self.metrics.in_force(&self.state);
                self.metrics.cap_ad(in_force);
                if let Some(AfterRow { row, before_ms }) = after_row {
                    self.metrics.credit(*before_ms, &row.first, content, &self.state);
                    step_ms -= before_ms;
                }
            }
        }
        let is_late = passage == Passage::Late;
        self.metrics.pass(step_ms, &self.state, content, &step, is_late);
        let before = (self.state.main, self.state.content_started);
        let effects = self.state.apply(&step);
        self.metrics.act(content, step, effects, before, &self.state);
    }

    fn is_full(&self, terms: &Terms) -> bool {
        self.counts.events as usize + self.window.len() >= terms.events_max as usize
    }
}

/// The most by which hearing an event makes what its session holds grow, in bytes.
pub fn growth_bytes(step: &Step) -> usize {
    WAITING_BYTES
        + step.heap_bytes()
        + ROW_BYTES
        + if step.begins_parts() { PARTS_BYTES } else { 0 }
        + if step.tells_quality() { QUALITY_BYTES } else { 0 }
}

/// Whether one playhead lies elsewhere than another.
fn is_elsewhere(a: Playhead, b: Playhead) -> bool {
    (a.seconds() - b.seconds()).abs() > MOVED_S
}

/// Whether a saved session may leave a value out.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
