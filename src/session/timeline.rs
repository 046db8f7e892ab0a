//! A player's clock, held to the server's.
//!
//! Time comes from the events' own stamps. They may go back (events overtake each other) and jump (a
//! television boots in 1970 and then learns the time); neither takes time away or makes it up.

use serde::{Deserialize, Serialize};

/// How far a stamp may lie from where the receipts say it should, in ms.
const TOLERANCE_MS: u64 = 60_000;

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timeline {
    /// The time of the last processed event, in ms by the player's clock.
    pub(super) ts: u64,
    /// When that event was received, in ms since the Unix epoch by the server's clock.
    received_ms: u64,
}

/// How an event follows the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// Time went on.
    Onward,
    /// It was stamped before the last processed event, and acts from then on.
    Late,
    /// The player's clock was set, forward or back.
    Jump,
}

impl Timeline {
    /// Begins with the start of a session.
    pub(super) fn new(ts: u64, received_ms: u64) -> Self {
        Self { ts, received_ms }
    }

    /// Goes on to an event. Gives the time that passed, in ms, and how.
    pub(super) fn advance(&mut self, ts: u64, received_ms: u64) -> (u64, Passage) {
        let most_ms = received_ms.abs_diff(self.received_ms).saturating_add(TOLERANCE_MS);
        self.received_ms = received_ms;
        if ts < self.ts && self.ts - ts <= TOLERANCE_MS {
            return (0, Passage::Late);
        }
        let elapsed_ms = ts.checked_sub(self.ts);
        self.ts = ts;
        match elapsed_ms {
            Some(elapsed_ms) if elapsed_ms <= most_ms => (elapsed_ms, Passage::Onward),
            Some(_) => (most_ms, Passage::Jump),
            None => (0, Passage::Jump),
        }
    }

    /// Goes on to an event of a session that came whole. Its receipt says nothing of its time, so there is
    /// nothing to hold its stamp to.
    pub(super) fn advance_stored(&mut self, ts: u64) -> (u64, Passage) {
        let Some(elapsed_ms) = ts.checked_sub(self.ts) else { return (0, Passage::Late) };
        self.ts = ts;
        (elapsed_ms, Passage::Onward)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_as_the_player_says() {
        let mut timeline = Timeline::new(1_000_000, 5);
        assert_eq!(timeline.advance(1_010_000, 10_005), (10_000, Passage::Onward));
        assert_eq!(timeline.advance(1_010_000, 10_006), (0, Passage::Onward));
        // A minute more than the receipts say may be a slow network.
        assert_eq!(timeline.advance(1_080_000, 20_006), (70_000, Passage::Onward));
    }

    #[test]
    fn a_late_event_moves_nothing() {
        let mut timeline = Timeline::new(1_000_000, 5);
        assert_eq!(timeline.advance(940_000, 6), (0, Passage::Late), "a minute before at most");
        assert_eq!(timeline.ts, 1_000_000);
    }

    #[test]
    fn a_jump_forward_counts_no_more_than_the_receipts_and_a_minute() {
        let mut timeline = Timeline::new(20, 1_700_000_000_000);
        let set = timeline.advance(1_700_000_001_000, 1_700_000_001_000);
        assert_eq!(set, (61_000, Passage::Jump));
        assert_eq!(timeline.ts, 1_700_000_001_000, "time goes on from there");
        let next = timeline.advance(1_700_000_002_000, 1_700_000_002_000);
        assert_eq!(next, (1_000, Passage::Onward));
    }

    #[test]
    fn a_jump_back_rebases() {
        let mut timeline = Timeline::new(1_000_000, 0);
        assert_eq!(timeline.advance(939_999, 10), (0, Passage::Jump));
        assert_eq!(timeline.advance(940_999, 1_010), (1_000, Passage::Onward));
    }

    #[test]
    fn a_stored_session_may_take_days_and_knows_only_late_events() {
        let mut timeline = Timeline::new(1_000_000, 0);
        assert_eq!(timeline.advance_stored(500_000_000), (499_000_000, Passage::Onward));
        assert_eq!(timeline.advance_stored(1), (0, Passage::Late));
        assert_eq!(timeline.advance_stored(500_000_001), (1, Passage::Onward));
    }

    #[test]
    fn receipts_in_another_order_than_stamps_are_no_jump() {
        let mut timeline = Timeline::new(0, 9_000);
        assert_eq!(timeline.advance(62_000, 7_000), (62_000, Passage::Onward));
    }
}
