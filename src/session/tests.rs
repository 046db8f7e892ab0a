//! A session from its start to its end.

use super::step::Print;
use super::*;
use crate::wire::EventType as E;
use crate::wire::{Profile, Rules, Start};

/// An event of this type; each has a body of its own.
pub(crate) fn step(event_type: EventType, ts: u64, playhead: f64) -> Step {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let player_time = serde_json::from_value(serde_json::json!({"ts": ts, "playhead": playhead}));
    Step {
        event_type,
        player_time: player_time.unwrap(),
        print: Print::of(&number.to_le_bytes()),
        readings: None,
        about: None,
    }
}

const TERMS: Terms =
    Terms { no_events_ms: 1_000, no_playhead_ms: 3_000, age_ms: 20_000, events_max: 30 };

/// When the sessions of these tests begin, by the server's clock; up time and the player's clock begin
/// at 0.
const T_MS: u64 = 1_700_000_000_000;

/// A session and the server's clock, without any time that the server was down.
struct Rig(Session);

impl Rig {
    fn new() -> Self {
        let body = br#"{"eventType":"sessionStart","playerTime":{"ts":0,"playhead":0},"params":
            {"media.id":"a","media.length":0,"media.contentType":"","media.playerName":""}}"#;
        let rules = Rules { profile: Profile::Open, strict: false };
        let opening = Opening::of(&Start::parse(body, rules).unwrap(), None, None);
        Self(Session::new(opening, Received::at(T_MS, 0)))
    }

    /// An event that is stamped and received at the same time, with this playhead.
    fn at(&mut self, up_ms: u64, event_type: EventType, playhead: f64) -> bool {
        self.stamped(up_ms, event_type, up_ms, playhead)
    }

    fn stamped(&mut self, up_ms: u64, event_type: EventType, ts: u64, playhead: f64) -> bool {
        self.0.hear(Received::at(T_MS + up_ms, up_ms), step(event_type, ts, playhead), &TERMS)
    }

    fn deadline(&self) -> (u64, CloseReason) {
        self.0.deadline(&TERMS)
    }

    fn close(&mut self) {
        let deadline = self.deadline();
        self.0.close(Closing::at(deadline, T_MS + deadline.0, deadline.0));
    }
}

#[test]
fn without_events_it_ends_and_the_instant_itself_is_over() {
    let mut rig = Rig::new();
    assert_eq!(rig.deadline(), (1_000, CloseReason::TimeoutNoEvents));
    assert!(rig.at(999, E::Ping, 1.0));
    assert_eq!(rig.deadline(), (1_999, CloseReason::TimeoutNoEvents));
    assert!(!rig.at(1_999, E::Ping, 2.0));
    assert_eq!(rig.deadline(), (1_999, CloseReason::TimeoutNoEvents), "nothing has changed");
    assert!(rig.at(1_998, E::Ping, 2.0));
}

#[test]
fn without_a_change_of_the_playhead_it_ends_whatever_comes() {
    let mut rig = Rig::new();
    assert!(rig.at(900, E::Play, 5.0));
    for up_ms in [1_800, 2_700, 3_600] {
        assert!(rig.at(up_ms, E::Ping, 5.000_9), "less than it takes to have moved");
    }
    assert_eq!(rig.deadline(), (3_900, CloseReason::TimeoutNoPlayhead));
    assert!(!rig.at(3_900, E::Ping, 9.0));
    assert!(rig.at(3_899, E::Ping, 9.0), "moved in time");
    assert_eq!(rig.deadline(), (4_899, CloseReason::TimeoutNoEvents));
}

#[test]
fn the_playhead_is_compared_with_the_one_received_before_in_whatever_order_they_are_stamped() {
    let mut rig = Rig::new();
    assert!(rig.stamped(500, E::Ping, 400, 2.0));
    assert!(rig.stamped(600, E::Ping, 300, 1.0));
    assert!(rig.stamped(700, E::Ping, 500, 1.0));
    assert_eq!(rig.0.moved_up_ms, 600);
}

#[test]
fn it_ends_with_its_life_at_last() {
    let mut rig = Rig::new();
    for number in 1..20_u32 {
        let up_ms = u64::from(number) * 990;
        assert!(rig.at(up_ms, E::Ping, f64::from(number)));
    }
    assert!(rig.at(19_500, E::Ping, 50.0));
    assert_eq!(rig.deadline(), (20_000, CloseReason::Lifetime));
    assert!(!rig.at(20_000, E::Ping, 51.0));
}

#[test]
fn events_act_in_the_order_of_the_players_clock() {
    let mut rig = Rig::new();
    assert!(rig.stamped(100, E::AdStart, 50, 0.0));
    assert!(rig.stamped(101, E::Play, 60, 0.0));
    assert!(rig.stamped(102, E::AdBreakStart, 50, 0.0));
    assert_eq!(rig.0.state, State::default(), "they wait");
    rig.close();
    assert_eq!(rig.0.state.ad, Some(AdState::Playing));
    assert_eq!(rig.0.counts, Counts { events: 4, reordered: 1, ..Counts::default() });
}

#[test]
fn a_repeat_is_dropped_and_counted_and_moves_the_deadline() {
    let mut rig = Rig::new();
    let play = step(E::Play, 100, 0.0);
    let hear =
        |rig: &mut Rig, up_ms| rig.0.hear(Received::at(T_MS + up_ms, up_ms), play.clone(), &TERMS);
    assert!(hear(&mut rig, 100) && hear(&mut rig, 900), "while the first waits");
    assert_eq!(rig.deadline(), (1_900, CloseReason::TimeoutNoEvents));
    for up_ms in (1_700..5_700).step_by(800) {
        assert!(rig.at(up_ms, E::Ping, f64::from(u32::try_from(up_ms).unwrap())));
    }
    assert!(hear(&mut rig, 5_800), "a repeat when the first was processed");
    for up_ms in [5_900, 6_000, 6_100] {
        assert!(rig.at(up_ms, E::Ping, f64::from(u32::try_from(up_ms).unwrap())));
    }
    assert!(hear(&mut rig, 6_200), "eight have come since");
    rig.close();
    assert_eq!(
        rig.0.counts,
        Counts { events: 11, late: 1, duplicates: 2, reordered: 1, ..Counts::default() }
    );
}

#[test]
fn a_repeat_is_known_for_a_minute_by_the_servers_clock() {
    for (age_ms, duplicates) in [(60_000, 1), (60_001, 0)] {
        let mut rig = Rig::new();
        let play = step(E::Play, 100, 0.0);
        assert!(rig.0.hear(Received::at(T_MS, 0), play.clone(), &TERMS));
        for up_ms in (900..=5_400).step_by(900) {
            assert!(rig.at(up_ms, E::Ping, f64::from(u32::try_from(up_ms).unwrap())));
        }
        // The server was down meanwhile.
        assert!(rig.0.hear(Received::at(T_MS + age_ms, 6_000), play, &TERMS));
        rig.close();
        assert_eq!(rig.0.counts.duplicates, duplicates, "{age_ms}");
    }
}

#[test]
fn a_late_event_acts_from_then_on_and_a_jump_is_counted() {
    let mut rig = Rig::new();
    assert!(rig.at(100, E::Play, 0.0));
    for up_ms in (900..5_300).step_by(800) {
        assert!(rig.at(up_ms, E::Ping, f64::from(u32::try_from(up_ms).unwrap())));
    }
    assert!(rig.stamped(5_400, E::PauseStart, 50, 0.0));
    assert!(rig.stamped(5_500, E::Error, 2_000_000, 0.0));
    rig.close();
    assert_eq!(rig.0.state.main, Main::Paused);
    assert_eq!((rig.0.counts.late, rig.0.counts.clock_jumps), (1, 1));
}

#[test]
fn after_its_end_it_lingers_for_what_the_end_overtook() {
    let mut rig = Rig::new();
    assert!(rig.at(100, E::Play, 0.0));
    assert!(rig.at(800, E::SessionEnd, 1.0));
    assert_eq!(rig.deadline(), (1_300, CloseReason::SessionEnd));
    assert!(rig.stamped(900, E::SessionComplete, 800, 1.0));
    assert!(!rig.stamped(900, E::Ping, 801, 1.0));
    assert!(!rig.stamped(900, E::SessionEnd, 800, 1.0));
    assert_eq!(rig.deadline(), (1_300, CloseReason::SessionEnd), "its siblings keep it no longer");
    assert!(rig.stamped(1_299, E::Ping, 700, 1.0));
    assert!(!rig.stamped(1_300, E::Ping, 700, 1.0));
    rig.close();
    assert!(rig.0.state.completed);
    assert_eq!(rig.0.counts, Counts { events: 5, reordered: 2, ..Counts::default() });
}

#[test]
fn what_comes_beyond_the_most_events_only_moves_the_deadlines_and_the_end_ends() {
    let mut rig = Rig::new();
    rig.0.counts.events = TERMS.events_max - 2;
    assert!(rig.at(10, E::Play, 1.0) && rig.at(20, E::Ping, 2.0));
    assert!(rig.at(700, E::PauseStart, 3.0));
    assert_eq!(rig.deadline(), (1_700, CloseReason::TimeoutNoEvents));
    assert!(rig.at(800, E::SessionEnd, 3.0));
    assert_eq!(rig.deadline(), (1_300, CloseReason::SessionEnd));
    rig.close();
    assert_eq!((rig.0.state.main, rig.0.counts.beyond), (Main::Playing, 1));
}

#[test]
fn what_is_saved_is_what_is_read() {
    let mut rig = Rig::new();
    assert!(rig.stamped(100, E::ChapterStart, 90, 0.25) && rig.at(200, E::SessionEnd, 1.0));
    let saved = serde_json::to_string(&rig.0).unwrap();
    let read: Session = serde_json::from_str(&saved).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), saved);
    assert_eq!(read.heap_bytes(), rig.0.heap_bytes());
}
