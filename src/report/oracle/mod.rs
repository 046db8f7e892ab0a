//! The report held to one that is computed in another way, over generated sessions.
//!
//! [`slow`] follows the words of the definitions and knows nothing of the fold; [`generate`] makes sessions. Where
//! the two reports differ, one of them misreads the definitions.
//!
//! `PROPTEST_CASES=20000 cargo test --lib oracle` looks harder.

mod slow;

mod generate;

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use self::generate::{any_batch, any_long_session, any_session};
use self::slow::{answers, expected, expected_downloaded, seen};
use super::tests::{Played, close, json_of, stored_report_of};
use crate::session::Terms;
use crate::wire::Rules;

/// When stored sessions are received, in ms since the Unix epoch.
const RECEIVED_MS: u64 = 1_900_000_000_000;

/// How many sessions of two days are compared: they have some hundred events, and the slow report is the slower
/// for it.
const LONG_SESSIONS: u32 = 16;

proptest! {
    #[test]
    fn a_closed_session_has_the_answers_and_the_report_of_its_definitions(session in any_session()) {
        prop_assert_eq!(Played::of(&session, Rules::default()).statuses, answers(&session));
        holds(&expected(&session, u64::MAX), &report_at(&session, u64::MAX))?;
    }

    #[test]
    fn a_session_has_the_report_of_its_definitions_at_every_instant(
        session in any_session(), at in any::<Index>(), after_ms in instants(),
    ) {
        let read_ms = session[at.index(session.len())].0 + after_ms;
        holds(&expected(&session, read_ms), &report_at(&session, read_ms))?;
    }

    #[test]
    fn a_stored_session_has_the_report_of_its_definitions(bodies in any_batch()) {
        let report = stored_report_of(RECEIVED_MS, &bodies);
        holds(&expected_downloaded(&bodies, RECEIVED_MS), &report)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(LONG_SESSIONS))]

    #[test]
    fn a_session_of_two_days_has_the_report_of_its_definitions(session in any_long_session()) {
        prop_assert_eq!(Played::of(&session, Rules::default()).statuses, answers(&session));
        holds(&expected(&session, u64::MAX), &report_at(&session, u64::MAX))?;
    }
}

/// How long after an event a look is taken at the session.
fn instants() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => Just(0),
        4 => 0..12_000_u64,
        1 => 0..2_000_000_u64,
        1 => prop::sample::select(vec![499, 500, 599_999, 600_000, 1_799_999, 1_800_000]),
    ]
}

/// The report of a session as it stands at an instant.
fn report_at(bodies: &[(u64, Value)], read_ms: u64) -> Value {
    let heard = bodies.partition_point(|(received_ms, _)| *received_ms <= read_ms);
    let mut session = Played::of(&bodies[..heard], Rules::default()).session.unwrap();
    let (deadline_ms, _) = session.deadline(&Terms::default());
    if deadline_ms <= read_ms {
        close(&mut session);
        json_of(&session)
    } else {
        json_of(&session.running_copy())
    }
}

/// Holds a report to every member of what is expected.
fn holds(expected: &Value, found: &Value) -> Result<(), TestCaseError> {
    let mut differences = Vec::new();
    compare("", expected, found, &mut differences);
    prop_assert!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

fn compare(place: &str, expected: &Value, found: &Value, differences: &mut Vec<String>) {
    const NEAR: f64 = 1e-6;
    match (expected, found) {
        (Value::Object(members), Value::Object(_)) => {
            for (key, expected) in members {
                compare(&format!("{place}/{key}"), expected, &found[key], differences);
            }
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
                compare(&format!("{place}/{index}"), expected, found, differences);
            }
        }
        (Value::Number(a), Value::Number(b))
            if (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() <= NEAR => {}
        _ if expected == found => {}
        _ => differences.push(format!("{place}: expected {expected}, found {found}")),
    }
}

/// How many sessions are looked through, and how many of them last two days.
const LOOKED_AT: (usize, usize) = (300, 8);

/// How many sessions must reach a thing, so that it is no accident of one.
const REACHED_MIN: u32 = 3;

#[test]
fn generated_sessions_reach_everything() {
    let mut runner = TestRunner::deterministic();
    let (all, long) = LOOKED_AT;
    let sessions = (0..all).map(|number| {
        let any = if number < long { any_long_session().boxed() } else { any_session().boxed() };
        any.new_tree(&mut runner).unwrap().current()
    });
    let mut reached: BTreeMap<&str, u32> = BTreeMap::new();
    for bodies in sessions {
        for (what, is_reached) in reached_by(&bodies) {
            *reached.entry(what).or_default() += u32::from(is_reached);
        }
    }
    println!("of {all} sessions: {reached:?}");
    reached.retain(|_, times| *times < REACHED_MIN);
    assert!(reached.is_empty(), "hardly reached: {reached:?}");
}

/// What a session may reach, and whether this one does.
fn reached_by(bodies: &[(u64, Value)]) -> Vec<(&'static str, bool)> {
    let report = report_at(bodies, u64::MAX);
    let seen = seen(bodies);
    let number = |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
    let (metric, qoe) = (|name: &str| &report["metrics"][name], |name: &str| &report["qoe"][name]);
    let list = |name: &str| report[name].as_array().unwrap();
    let is_open_ended =
        |entry: &Value| entry["isCompleted"] == false && entry["isSkipped"] == false;
    let abandoned =
        |name| list(name).split_last().is_some_and(|(_, all)| all.iter().any(is_open_ended));
    let end = bodies.iter().position(|(_, body)| body["eventType"] == "sessionEnd");
    let siblings = answers(bodies).split_off(end.map_or(bodies.len(), |end| end + 1));
    vec![
        ("closed by its end", report["closeReason"] == "sessionEnd"),
        ("closed for want of events", report["closeReason"] == "timeoutNoEvents"),
        ("closed for a playhead that stood", report["closeReason"] == "timeoutNoPlayhead"),
        ("closed for its age", report["closeReason"] == "lifetime"),
        ("silence is told", number("/metrics/secondsSinceLastCall") > 0.0),
        ("a late event", number("/lateCount") > 0.0),
        ("a repeat", number("/duplicateCount") > 0.0),
        ("a clock set forward", seen.set_forward > 0),
        ("a clock set back", seen.set_back > 0),
        ("a clock set back at last", seen.set_at_last > 0),
        ("a clock set in an ad", seen.set_in_ads > 0),
        ("a jump between two states", seen.split_jumps > 0),
        ("late events that are no clock", seen.lost_rows > 0),
        ("a silent content", seen.silent_contents > 0),
        ("a silent ad", seen.silent_ads > 0),
        ("a silent buffer", seen.silent_buffers > 0),
        ("a ping in a break", seen.pings_in_breaks > 0),
        ("a playhead that is no place", number("/implausiblePlayheads") > 0.0),
        ("a full window", seen.full_windows > 0),
        ("a sibling of the end", siblings.contains(&204)),
        ("an event after the end", siblings.contains(&410)),
        ("midnight", seen.midnights > 0),
        ("a jump of the playhead", seen.playhead_jumps > 0),
        ("a stall", number("/qoe/stallCount") > 0.0),
        ("more than one stall", number("/qoe/stallCount") > 1.0),
        ("a stalled chapter", seen.stalled_chapters > 0),
        ("a playhead that stood, but not for long", seen.still_contents > 0),
        ("an abandoned ad", abandoned("ads")),
        ("a completed ad", number("/metrics/adCompletes") > 0.0),
        ("a skipped ad", number("/metrics/adSkips") > 0.0),
        ("a paused ad", seen.held_ads > 0),
        (
            "a break that is not completed",
            list("adBreaks").iter().any(|ad_break| ad_break["completed"] == false),
        ),
        ("an abandoned chapter", abandoned("chapters")),
        ("a chapter with an ad", seen.ads_in_chapters > 0),
        ("more states than are told apart", seen.states > list("states").len()),
        (
            "a state that came twice",
            list("states").iter().any(|state| state["count"].as_u64() > Some(1)),
        ),
        ("a second stream", number("/metrics/estimatedStreams") > 1.0),
        ("content that was completed", *metric("isCompleted") == true),
        (
            "half of the content",
            *metric("hasProgress50") == true && *metric("hasProgress75") == false,
        ),
        ("no content", *qoe("isDroppedBeforeStart") == true),
        ("content of unknown length", metric("averageMinuteAudience").is_null()),
        ("a mean bitrate", number("/qoe/bitrateAverage") > 0.0),
        (
            "errors from both sides",
            number("/qoe/errorCount") > 1.0
                && !qoe("playerSdkErrors").as_array().unwrap().is_empty()
                && !qoe("externalErrors").as_array().unwrap().is_empty(),
        ),
    ]
}
