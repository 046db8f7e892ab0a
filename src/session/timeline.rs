//! A player's clock, checked against the receipts of its events.
//!
//! ```text
//!              ts of the reference       now, as far as the reference clock tells
//! late │ late │                   │ onward                │ 300 s │ the clock was set forward
//!  more than 60 s before: a row ──┴───────────────────────┘
//! ```
//! Session time is the sum of the steps between the stamps of events. A device that boots in 1970 and then learns
//! the time makes a step of decades: the receipts show it, and the step then is what passed between them. A stamp
//! that goes back is late, because events overtake each other and a queue may be sent in any order. A row of late
//! events whose stamps go on as their receipts do is a clock that was set back.
//!
//! A stored session has no receipts; there what was playing, and how far the playhead moved, tells.

use serde::{Deserialize, Serialize};

use super::in_force::{InForce, Playing};
use super::is_default;
use super::list::allocated;
use crate::wire::Playhead;

/// How far session time may run ahead of the receipts since the anchor, in ms. A client without a network queues
/// even its start, so less is believed.
const AHEAD_MAX_MS: i64 = 300_000;

/// How far before the reference a stamp lies that may begin a row, in ms.
const BEHIND_MS: i64 = 60_000;

/// By how much the stamps of a row may move otherwise than the receipts, in ms.
const ROW_DRIFT_MS: i64 = 10_000;

/// How long a row lasts, by receipts, until the clock counts as set, in ms.
const ROW_MS: u64 = 15_000;

/// The same if nothing more comes.
const LAST_ROW_MS: u64 = 5_000;

/// A step of a stored session that is longer may be a jump while something plays, in ms.
const STORED_STEP_MAX_MS: u64 = 10 * 60_000;

/// The same while nothing plays.
const STORED_STILL_MAX_MS: u64 = 48 * 3_600_000;

/// How long a jump in a stored session is at most, in ms.
const STORED_JUMP_MAX_MS: u64 = 60_000;

/// How far a session has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Timeline {
    /// The reference: the stamp of the last processed event that was not late, in ms by the player's clock.
    pub(super) ts: u64,
    /// When that event was received, in ms since the Unix epoch by the server's clock.
    pub(super) received_ms: u64,
    /// Session time: the sum of all steps, in ms.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) elapsed_ms: u64,
    /// The receipt of the anchor (the start, later the last jump) less the session time there, in ms.
    #[serde(default, skip_serializing_if = "is_default")]
    anchor_ms: i64,
    /// Late events that may show that the clock was set back. Few sessions have any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    row: Option<Box<Row>>,
}

/// What a row takes, in bytes.
pub(super) const ROW_BYTES: usize = allocated(size_of::<Row>());

/// Late events in a row, all far behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) first: Behind,
    pub(super) last: Behind,
}

/// An event that is stamped far behind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Behind {
    ts: u64,
    received_ms: u64,
    pub(super) playhead: Playhead,
    /// What was in force before it acted.
    pub(super) before: InForce,
}

/// How an event follows the one before it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Passage {
    /// Time went on.
    Onward,
    /// It is stamped before the reference, and acts from then on.
    Late,
    /// The player's clock was set, forward or back.
    Jump(Option<AfterRow>),
}

/// The step of a jump after a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AfterRow {
    pub(super) row: Box<Row>,
    /// How much of the step passed until the first event of the row was received, in ms.
    pub(super) before_ms: u64,
}

impl Timeline {
    /// Begins with the start of a session.
    pub(super) fn new(ts: u64, received_ms: u64) -> Self {
        Self { ts, received_ms, elapsed_ms: 0, anchor_ms: received_ms.cast_signed(), row: None }
    }

    /// Goes on from a timeline that had no session time: it is the time since `start_ts`, and the last event is the
    /// anchor.
    pub(super) fn count_from(&mut self, start_ts: u64) {
        self.elapsed_ms = self.ts.saturating_sub(start_ts);
        self.anchor();
    }

    /// Goes on to an event. Gives the step, in ms of session time, and what it is. `before` tells what is in force.
    pub(super) fn advance(
        &mut self,
        ts: u64,
        received_ms: u64,
        playhead: Playhead,
        before: impl FnOnce() -> InForce,
    ) -> (u64, Passage) {
        let Some(step_ms) = ts.checked_sub(self.ts) else {
            let event = || Behind { ts, received_ms, playhead, before: before() };
            let lasted_ms = self.row_with(ts, received_ms, event);
            let ended = lasted_ms.filter(|ms| *ms >= ROW_MS).and_then(|_| self.end_row());
            return match ended {
                Some((step_ms, after_row)) => (step_ms, Passage::Jump(Some(after_row))),
                None => (0, Passage::Late),
            };
        };
        self.row = None;
        let ahead_ms = self.elapsed_ms.saturating_add(step_ms).cast_signed()
            - received_ms.cast_signed()
            + self.anchor_ms;
        if ahead_ms > AHEAD_MAX_MS {
            return (self.set(ts, received_ms), Passage::Jump(None));
        }
        self.go(step_ms, ts, received_ms);
        (step_ms, Passage::Onward)
    }

    /// Ends the row, if it has lasted long enough for the last there is: the clock was set at its last event. Gives
    /// the step, in ms.
    pub(super) fn end_last_row(&mut self) -> Option<(u64, AfterRow)> {
        let row = self.row.as_ref()?;
        let lasted_ms = row.last.received_ms.saturating_sub(row.first.received_ms);
        if lasted_ms >= LAST_ROW_MS { self.end_row() } else { None }
    }

    /// Goes on to an event of a session that came whole. `is_behind` says whether the event before was stamped far
    /// behind; `forward_ms` how far the playhead moved forward within a step of so many ms.
    pub(super) fn advance_stored(
        &mut self,
        ts: u64,
        is_behind: &mut bool,
        playing: Playing,
        forward_ms: impl Fn(u64) -> u64,
    ) -> (u64, Passage) {
        let was_behind = std::mem::take(is_behind);
        let step_ms = ts.checked_sub(self.ts);
        let is_jump = match (step_ms, playing) {
            (None, _) => {
                let is_far = (self.ts - ts).cast_signed() > BEHIND_MS;
                *is_behind = is_far && !was_behind;
                is_far && was_behind
            }
            (Some(step_ms), Playing::Ad { .. }) => step_ms > STORED_STEP_MAX_MS,
            (Some(step_ms), Playing::Content) => {
                step_ms > STORED_STEP_MAX_MS && forward_ms(step_ms) < step_ms.div_ceil(2)
            }
            (Some(step_ms), Playing::Nothing) => step_ms > STORED_STILL_MAX_MS,
        };
        let (step_ms, passage) = match step_ms {
            _ if is_jump => {
                let step_ms = match playing {
                    Playing::Content => forward_ms(STORED_JUMP_MAX_MS),
                    Playing::Ad { left_ms } => left_ms,
                    Playing::Nothing => 0,
                };
                (step_ms.min(STORED_JUMP_MAX_MS), Passage::Jump(None))
            }
            Some(step_ms) => (step_ms, Passage::Onward),
            None => return (0, Passage::Late),
        };
        self.go(step_ms, ts, self.received_ms);
        (step_ms, passage)
    }

    /// The memory that it holds beside itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.row.as_ref().map_or(0, |_| ROW_BYTES)
    }

    /// Notes a late event. Gives how long the row that it belongs to has lasted by receipts, in ms; none if it
    /// belongs to no row.
    fn row_with(
        &mut self,
        ts: u64,
        received_ms: u64,
        event: impl FnOnce() -> Behind,
    ) -> Option<u64> {
        let since = |from_ms: u64, to_ms: u64| to_ms.cast_signed() - from_ms.cast_signed();
        // A row goes on as long as events are far behind what the reference clock would show by now.
        let passed_ms = self.row.as_ref().map_or(0, |_| since(self.received_ms, received_ms));
        if since(ts, self.ts) + passed_ms <= BEHIND_MS {
            self.row = None;
            return None;
        }
        match &mut self.row {
            Some(row)
                if (since(row.first.ts, ts) - since(row.first.received_ms, received_ms)).abs()
                    <= ROW_DRIFT_MS =>
            {
                row.last = event();
                Some(received_ms.saturating_sub(row.first.received_ms))
            }
            row => {
                let event = event();
                *row = Some(Box::new(Row { first: event, last: event }));
                None
            }
        }
    }

    /// The clock was set at the last event of the row.
    fn end_row(&mut self) -> Option<(u64, AfterRow)> {
        let row = self.row.take()?;
        let until_first_ms = row.first.received_ms.saturating_sub(self.received_ms);
        let step_ms = self.set(row.last.ts, row.last.received_ms);
        Some((step_ms, AfterRow { row, before_ms: until_first_ms.min(step_ms) }))
    }

    /// The clock was set: what passed is what the receipts say, and they are the anchor. Gives the step, in ms.
    fn set(&mut self, ts: u64, received_ms: u64) -> u64 {
        let step_ms = received_ms.saturating_sub(self.received_ms);
        self.go(step_ms, ts, received_ms);
        self.anchor();
        step_ms
    }

    fn go(&mut self, step_ms: u64, ts: u64, received_ms: u64) {
        self.elapsed_ms = self.elapsed_ms.saturating_add(step_ms);
        (self.ts, self.received_ms) = (ts, received_ms);
    }

    fn anchor(&mut self) {
        self.anchor_ms = self.received_ms.cast_signed() - self.elapsed_ms.cast_signed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::state::Main;

    const T_MS: u64 = 1_700_000_000_000;

    /// The stamp of the start.
    const BEGIN_TS: u64 = 10_000_000;

    fn playing() -> InForce {
        InForce { main: Main::Playing, ad: None }
    }

    fn begin() -> Timeline {
        Timeline::new(BEGIN_TS, T_MS)
    }

    /// An event that is stamped and received so many ms after the start.
    fn next(timeline: &mut Timeline, stamped_ms: i64, received_ms: u64) -> (u64, Passage) {
        let ts = BEGIN_TS.saturating_add_signed(stamped_ms);
        timeline.advance(ts, T_MS + received_ms, Playhead::default(), playing)
    }

    #[test]
    fn time_passes_as_the_player_says_up_to_five_minutes_more_than_the_receipts() {
        let mut timeline = begin();
        assert_eq!(next(&mut timeline, 10_000, 10_000), (10_000, Passage::Onward));
        assert_eq!(next(&mut timeline, 10_000, 10_001), (0, Passage::Onward));
        assert_eq!(next(&mut timeline, 310_001, 10_001), (300_001, Passage::Onward));
        assert_eq!(next(&mut timeline, 310_003, 10_002), (1, Passage::Jump(None)));
        assert_eq!(timeline.elapsed_ms, 310_002);
        // The jump is the next anchor.
        assert_eq!(next(&mut timeline, 610_003, 10_002), (300_000, Passage::Onward));
        assert_eq!(next(&mut timeline, 610_004, 10_002), (0, Passage::Jump(None)));
    }

    #[test]
    fn a_late_event_moves_nothing() {
        let mut timeline = begin();
        assert_eq!(next(&mut timeline, -60_000, 6), (0, Passage::Late));
        assert!(timeline.row.is_none(), "a minute before at most");
        assert_eq!(next(&mut timeline, -900_000, 6), (0, Passage::Late));
        assert_eq!((timeline.ts, timeline.elapsed_ms), (BEGIN_TS, 0));
    }

    #[test]
    fn a_row_of_late_events_that_go_on_as_their_receipts_do_is_a_clock_that_was_set() {
        let mut timeline = begin();
        assert_eq!(next(&mut timeline, 8_000, 8_000), (8_000, Passage::Onward));
        for received_ms in [10_000_u64, 12_000, 24_999] {
            let stamped_ms = received_ms.cast_signed() - 3_600_000;
            assert_eq!(next(&mut timeline, stamped_ms, received_ms), (0, Passage::Late));
        }
        let (step_ms, passage) = next(&mut timeline, -3_575_000, 25_000);
        let Passage::Jump(Some(AfterRow { before_ms, .. })) = passage else { panic!("a jump") };
        assert_eq!((step_ms, before_ms, timeline.elapsed_ms), (17_000, 2_000, 25_000));
        assert_eq!(next(&mut timeline, -3_574_000, 26_000), (1_000, Passage::Onward));
    }

    #[test]
    fn when_nothing_more_comes_a_row_of_five_seconds_suffices() {
        let row = |lasts_ms: u64| {
            let mut timeline = begin();
            next(&mut timeline, -3_600_000, 1_000);
            next(&mut timeline, -3_600_000, 1_000 + lasts_ms);
            timeline.end_last_row().map(|(step_ms, after)| (step_ms, after.before_ms))
        };
        assert_eq!((row(5_000), row(4_999)), (Some((6_000, 1_000)), None));
        assert_eq!(begin().end_last_row(), None);
    }

    #[test]
    fn any_other_event_ends_a_row_and_one_that_drifts_begins_another() {
        let rows = |between: (i64, u64)| {
            let mut timeline = begin();
            next(&mut timeline, -3_600_000, 1_000);
            next(&mut timeline, between.0, between.1);
            matches!(next(&mut timeline, -3_585_000, 16_000).1, Passage::Jump(_))
        };
        assert!(rows((-3_599_000, 2_000)));
        assert!(!rows((5, 2_000)), "an event in order");
        assert!(!rows((-58_000, 2_000)), "a minute before the clock would show");
        assert!(!rows((-3_588_999, 2_000)), "ten seconds more than between the receipts");
    }

    #[test]
    fn a_stored_session_jumps_where_the_playhead_does_not_go_along() {
        let stored = |step_ms: u64, playing, forward_ms| {
            let mut timeline = Timeline::new(0, 0);
            timeline.advance_stored(step_ms, &mut false, playing, |_| forward_ms)
        };
        let (content, ad) = (Playing::Content, Playing::Ad { left_ms: 7_000 });
        assert_eq!(stored(600_000, content, 0), (600_000, Passage::Onward));
        assert_eq!(stored(600_001, content, 300_001), (600_001, Passage::Onward));
        assert_eq!(stored(600_001, content, 300_000), (60_000, Passage::Jump(None)));
        assert_eq!(stored(600_001, content, 500), (500, Passage::Jump(None)));
        assert_eq!(stored(600_000, ad, 0), (600_000, Passage::Onward));
        assert_eq!(stored(600_001, ad, 0), (7_000, Passage::Jump(None)));
        assert_eq!(stored(172_800_000, Playing::Nothing, 0), (172_800_000, Passage::Onward));
        assert_eq!(stored(172_800_001, Playing::Nothing, 0), (0, Passage::Jump(None)));
    }

    #[test]
    fn two_events_of_a_stored_session_far_behind_in_a_row_are_a_clock_that_was_set() {
        let mut timeline = Timeline::new(1_000_000, 0);
        let mut is_behind = false;
        let mut next =
            |ts| timeline.advance_stored(ts, &mut is_behind, Playing::Content, |_| 10_000);
        assert_eq!(next(900_000), (0, Passage::Late));
        assert_eq!(next(940_000), (0, Passage::Late), "a minute behind");
        assert_eq!(next(939_999), (0, Passage::Late));
        assert_eq!(next(900_000), (10_000, Passage::Jump(None)));
        assert_eq!(next(905_000), (5_000, Passage::Onward));
    }
}
