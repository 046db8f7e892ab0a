//! One session as the fold of its records.
//!
//! A session changes in two ways only: it [hears](Session::hear) an event, or it [closes](Session::close).
//! Time comes in as an argument, in two forms: `received_ms` is the server's clock, and *up time* is that
//! clock less all the time that the server was down or could not write. Deadlines and the ordering window
//! run on up time, so that nothing ends because nobody could hear it.

pub mod id;

mod opening;

mod reorder;

mod timeline;

mod step;

mod state;

#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::id::Key;
use self::reorder::{Waiting, Window};
use self::timeline::{Passage, Timeline};
use crate::wire::{EventType, PlayerTime, Playhead};

pub use opening::Opening;
pub use state::{Ad, Main, PlayerState, State, StateName};
pub use step::Step;

/// How many events a session takes; what comes beyond only moves its deadlines.
const EVENTS_MAX: u32 = 100_000;

/// A playhead that differs by more than this, in seconds, has moved.
const MOVED_S: f64 = 0.001;

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
}

impl Default for Settings {
    fn default() -> Self {
        let Timeouts { no_events_ms, no_playhead_ms, age_ms } = Timeouts::default();
        Self {
            key: None,
            no_events_timeout: Duration::from_millis(no_events_ms),
            no_playhead_timeout: Duration::from_millis(no_playhead_ms),
            age_max: Duration::from_millis(age_ms),
        }
    }
}

impl Settings {
    /// The time-outs as the fold takes them.
    pub fn timeouts(&self) -> Timeouts {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Timeouts {
            no_events_ms: ms(self.no_events_timeout),
            no_playhead_ms: ms(self.no_playhead_timeout),
            age_ms: ms(self.age_max),
        }
    }
}

/// After how much up time sessions end.
///
/// They are part of what the journal tells, because a replay must close sessions where they were closed,
/// whatever the settings say by then. A journal begins with the default, and a record says what holds from
/// there on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// Without an event, in ms.
    pub no_events_ms: u64,
    /// Without a change of the playhead, in ms.
    pub no_playhead_ms: u64,
    /// Since its start, in ms.
    pub age_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        const MINUTE_MS: u64 = 60_000;
        Self {
            no_events_ms: 10 * MINUTE_MS,
            no_playhead_ms: 30 * MINUTE_MS,
            age_ms: 48 * 60 * MINUTE_MS,
        }
    }
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
    started_up_ms: u64,
    /// When the last event was accepted, in ms of up time.
    heard_up_ms: u64,
    /// When the playhead was last seen to move, in ms of up time.
    moved_up_ms: u64,
    /// The playhead of the event that was received last.
    playhead: Playhead,
    timeline: Timeline,
    window: Window,
}

/// What a session counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Processed events, the start included.
    pub events: u32,
    /// Events that were stamped before the last processed one.
    pub late: u32,
    /// Repeats that were dropped.
    pub duplicates: u32,
    /// How often the player's clock was set.
    pub clock_jumps: u32,
    /// Events beyond the most that a session takes.
    pub beyond: u32,
}

impl Session {
    /// Begins with its start, received at `received_ms` by the server's clock, `up_ms` in up time.
    pub fn new(opening: Opening, received_ms: u64, up_ms: u64) -> Self {
        let PlayerTime { playhead, ts } = opening.player_time;
        Self {
            opening,
            received_ms,
            state: State::default(),
            counts: Counts { events: 1, ..Counts::default() },
            started_up_ms: up_ms,
            heard_up_ms: up_ms,
            moved_up_ms: up_ms,
            playhead,
            timeline: Timeline::new(ts, received_ms),
            window: Window::default(),
        }
    }

    /// Takes an event, unless the session is over for it: its deadline has come, or it has ended and the
    /// event is none of those that the end may have overtaken. Says whether it was taken.
    pub fn hear(&mut self, received_ms: u64, up_ms: u64, step: Step, timeouts: &Timeouts) -> bool {
        let (deadline_up_ms, _) = self.deadline(timeouts);
        if up_ms >= deadline_up_ms || !self.window.takes(&step) {
            return false;
        }
        let playhead = step.player_time.playhead;
        if (playhead.seconds() - self.playhead.seconds()).abs() > MOVED_S {
            self.moved_up_ms = up_ms;
        }
        (self.playhead, self.heard_up_ms) = (playhead, up_ms);
        for waiting in self.window.flush_before(up_ms) {
            self.process(&waiting);
        }
        if self.window.holds(step.print) {
            self.counts.duplicates += 1;
        } else if self.is_full() && step.event_type != EventType::SessionEnd {
            self.counts.beyond += 1;
        } else {
            self.window.add(received_ms, up_ms, step);
        }
        true
    }

    /// The instant from which on the session is over, in ms of up time, and why.
    pub fn deadline(&self, timeouts: &Timeouts) -> (u64, CloseReason) {
        let end = self.window.closes_up_ms().map(|up_ms| (up_ms, CloseReason::SessionEnd));
        let after = |since_up_ms: u64, ms, reason| (since_up_ms.saturating_add(ms), reason);
        let timeouts = [
            after(self.heard_up_ms, timeouts.no_events_ms, CloseReason::TimeoutNoEvents),
            after(self.moved_up_ms, timeouts.no_playhead_ms, CloseReason::TimeoutNoPlayhead),
            after(self.started_up_ms, timeouts.age_ms, CloseReason::Lifetime),
        ];
        let all = end.into_iter().chain(timeouts);
        all.min_by_key(|(up_ms, _)| *up_ms).expect("there are three at least")
    }

    /// Processes what still waits, because the session is over.
    pub fn close(&mut self) {
        for waiting in self.window.close() {
            self.process(&waiting);
        }
    }

    /// The memory that it holds beside itself, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.opening.heap_bytes() + self.window.heap_bytes() + self.state.heap_bytes()
    }

    fn process(&mut self, Waiting { received_ms, step }: &Waiting) {
        let (_elapsed_ms, passage) = self.timeline.advance(step.player_time.ts, *received_ms);
        match passage {
            Passage::Onward => {}
            Passage::Late => self.counts.late += 1,
            Passage::Jump => self.counts.clock_jumps += 1,
        }
        self.counts.events += 1;
        let _effects = self.state.apply(step);
    }

    fn is_full(&self) -> bool {
        self.counts.events as usize + self.window.len() >= EVENTS_MAX as usize
    }
}
