//! A session that its player stored and sent whole, folded event by event.

use super::step::Step;
use super::{CloseReason, Closing, Counts, Opening, Received, Session, Terms};
use crate::wire::{EventType, PlayerTime};

/// How many events of each type there are, in the order of [`EventType::ALL`].
pub type EventsByType = [u64; EventType::ALL.len()];

/// A stored session as far as its events have been folded, in the order in which they were stored. It ends with
/// the first `sessionEnd`, or with the last event.
///
/// It has the stamps of its events and no other time: when it was received is known once its record has a
/// number, and only then it becomes a [`Session`]. Nothing that is folded before depends on that.
#[derive(Debug)]
pub struct StoredSession {
    session: Session,
    terms: Terms,
    types: EventsByType,
    /// Whether the last event was stamped far behind; a second one shows that the clock was set.
    is_behind: bool,
    has_ended: bool,
}

impl StoredSession {
    /// Begins with the start. `terms` must be those that are in force where its record is folded.
    pub fn begin(opening: Opening, terms: Terms) -> Self {
        let mut types = [0; EventType::ALL.len()];
        types[EventType::SessionStart as usize] = 1;
        let session = Session::new(opening, Received::at(0, 0));
        Self { session, terms, types, is_behind: false, has_ended: false }
    }

    /// Folds the next event; none counts after the end.
    pub fn add(&mut self, step: Step) {
        if self.has_ended {
            return;
        }
        self.types[step.event_type as usize] += 1;
        self.has_ended = step.event_type == EventType::SessionEnd;
        if self.session.is_full(&self.terms) && !self.has_ended {
            self.session.counts.beyond += 1;
            return;
        }
        let PlayerTime { ts, playhead } = step.player_time;
        let Session { timeline, metrics, state, opening, .. } = &mut self.session;
        let playing = metrics.in_force(state).playing();
        let forward_ms = |step_ms| metrics.forward_ms(opening.content, playhead, step_ms);
        let passage = timeline.advance_stored(ts, &mut self.is_behind, playing, forward_ms);
        self.session.act(step, passage);
    }

    /// Ends, because there are no more events.
    pub fn finish(&mut self) {
        self.has_ended = true;
        let closing = Closing { reason: CloseReason::Downloaded, up_ms: 0, closed_ms: 0 };
        self.session.close(closing);
    }

    /// What its start said.
    pub fn opening(&self) -> &Opening {
        &self.session.opening
    }

    /// The terms under which it was folded.
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// How many events of each type it has, up to its end.
    pub fn events_by_type(&self) -> EventsByType {
        self.types
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        self.session.counts
    }

    /// The memory that the session holds beside itself, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.session.heap_bytes()
    }

    /// The session, whose record was received at `received_ms` by the server's clock, `up_ms` in up time.
    pub fn received_at(self, received_ms: u64, up_ms: u64) -> Session {
        let mut session = self.session;
        (session.received_ms, session.heard_ms) = (received_ms, received_ms);
        (session.started_up_ms, session.heard_up_ms) = (up_ms, up_ms);
        session.moved_up_ms = up_ms;
        session.timeline.received_ms = received_ms;
        if let Some(closing) = &mut session.closing {
            (closing.up_ms, closing.closed_ms) = (up_ms, received_ms);
        }
        session
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::session::stored;
    use crate::wire::{Profile, Rules, StoredForm};

    const START: &str = r#"{"eventType":"sessionStart","playerTime":{"ts":5,"playhead":0},"params":
        {"media.id":"a","media.length":0,"media.contentType":"vod","media.playerName":"p"}}"#;

    fn read(events: &[&str], terms: Terms) -> StoredSession {
        let mut body = format!("[{START}");
        for (event_type, ts) in events.iter().zip(6..) {
            let time = format!(r#"{{"ts":{ts},"playhead":0}}"#);
            write!(body, r#",{{"eventType":"{event_type}","playerTime":{time}}}"#).unwrap();
        }
        body.push(']');
        let rules = Rules { profile: Profile::Open, strict: false };
        let form = StoredForm::Downloaded;
        stored(body.as_bytes(), rules, form, (None, None), terms, |_| {}).unwrap()
    }

    #[test]
    fn it_ends_with_its_first_end_and_what_follows_counts_nowhere() {
        let session = read(&["play", "ping", "sessionEnd", "ping", "sessionEnd"], Terms::default());
        assert_eq!(session.counts(), Counts { events: 4, ..Counts::default() });
        let types = session.events_by_type();
        let of = |event_type: EventType| types[event_type as usize];
        assert_eq!(types.iter().sum::<u64>(), 4);
        assert_eq!((of(EventType::Ping), of(EventType::SessionEnd)), (1, 1));
    }

    #[test]
    fn what_comes_beyond_the_most_events_is_counted_and_the_end_ends() {
        let three = Terms { events_max: 3, ..Terms::default() };
        let session = read(&["play", "ping", "ping", "ping", "sessionEnd"], three);
        assert_eq!(session.counts(), Counts { events: 4, beyond: 2, ..Counts::default() });
        assert_eq!(session.events_by_type().iter().sum::<u64>(), 6, "they came all the same");
    }

    #[test]
    fn nothing_depends_on_its_receipt_but_the_times_of_receipt() {
        let events = ["play", "ping", "bufferStart", "play", "pauseStart"];
        let json = |received_ms, up_ms| {
            let session = read(&events, Terms::default()).received_at(received_ms, up_ms);
            serde_json::to_string(&session).unwrap()
        };
        let shifted = json(2_000_000_000_777, 1_000_000_000_555);
        assert_eq!(shifted.matches("2000000000777").count(), 4);
        assert_eq!(shifted.matches("1000000000555").count(), 4);
        let (received, up) = ("9000000000333", "8000000000111");
        let moved = shifted.replace("2000000000777", received).replace("1000000000555", up);
        assert_eq!(json(9_000_000_000_333, 8_000_000_000_111), moved);
    }
}
