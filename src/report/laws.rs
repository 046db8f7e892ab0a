//! What holds for the report of every session, held to generated ones.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value, json};

use super::tests::{OPEN, Played, close, json_of, report_of, stored_report_of};
use crate::session::Session;

/// The instant at which generated sessions begin.
const T_MS: u64 = 1_700_000_000_000;

/// The types of events, the usual ones more often.
const TYPES: [&str; 33] = [
    "sessionComplete",
    "sessionEnd",
    "adBreakStart",
    "adBreakStart",
    "adBreakComplete",
    "adStart",
    "adStart",
    "adStart",
    "adComplete",
    "adSkip",
    "chapterStart",
    "chapterComplete",
    "chapterSkip",
    "play",
    "play",
    "play",
    "play",
    "ping",
    "ping",
    "ping",
    "ping",
    "ping",
    "ping",
    "ping",
    "ping",
    "bufferStart",
    "pauseStart",
    "pauseStart",
    "bitrateChange",
    "error",
    "stateStart",
    "stateEnd",
    "statesUpdate",
];

/// How a player's clock stamps an event.
#[derive(Clone, Debug)]
enum Stamp {
    /// As it arrives.
    True,
    /// So many ms before it arrives.
    Overtaken(u64),
    /// By a clock that was set.
    Set(u64),
}

/// Where the playhead is.
#[derive(Clone, Debug)]
enum Head {
    /// As far on as the time that passed, times this speed.
    Played(f64),
    /// Where it was, or nearly.
    Still(f64),
    /// Anywhere.
    At(f64),
}

/// One event, before it has its place in a session.
#[derive(Clone, Debug)]
struct Happening {
    event_type: &'static str,
    /// Since the one before arrived, in ms.
    elapsed_ms: u64,
    stamp: Stamp,
    head: Head,
    quality: Value,
    /// Tells one ad, chapter, state or error from others.
    number: u8,
}

fn any_quality() -> impl Strategy<Value = Value> {
    let key = select(vec!["bitrate", "droppedFrames", "framesPerSecond", "timeToStart"]);
    let number = prop_oneof![
        Just(json!(-1)),
        (0..9_000_000_u32).prop_map(|number| json!(number)),
        (0.0..5e6).prop_map(|number| json!(number)),
        Just(json!(1e300)),
    ];
    let entry = (key, number).prop_map(|(key, number)| (format!("media.qoe.{key}"), number));
    prop_oneof![
        3 => Just(json!({})),
        2 => prop::collection::vec(entry, 0..4)
            .prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>())),
    ]
}

/// What a player does whose clock and playhead make sense.
fn plausible(types: Vec<&'static str>) -> impl Strategy<Value = Happening> {
    let head = prop_oneof![
        5 => Just(Head::Played(1.0)),
        1 => (0.5..2.5).prop_map(Head::Played),
        3 => Just(Head::Still(0.0)),
        1 => Just(Head::Still(0.000_9)),
        2 => (0.0..120.0).prop_map(Head::At),
    ];
    let elapsed_ms = prop_oneof![1..2_000_u64, 1..2_000_u64, 5_000..30_000_u64];
    (select(types), elapsed_ms, head, any_quality(), 0..14_u8).prop_map(
        |(event_type, elapsed_ms, head, quality, number)| Happening {
            event_type,
            elapsed_ms,
            stamp: Stamp::True,
            head,
            quality,
            number,
        },
    )
}

/// What a player may do.
fn any_happening() -> impl Strategy<Value = Happening> {
    let stamp = prop_oneof![
        12 => Just(Stamp::True),
        4 => (0..9_000_u64).prop_map(Stamp::Overtaken),
        1 => (0..200_000_u64).prop_map(Stamp::Overtaken),
        1 => (0..4_000_000_u64).prop_map(Stamp::Set),
        1 => (0..400_000_u64).prop_map(|ms| Stamp::Set(T_MS + ms)),
        1 => Just(Stamp::Set((1 << 53) - 1)),
    ];
    let elapsed_ms = prop_oneof![
        9 => Just(None),
        1 => (0..3_u64).prop_map(Some),
        1 => Just(Some(599_999)),
        1 => Just(Some(600_000)),
    ];
    let head = prop_oneof![
        12 => Just(None),
        1 => (86_000.0..87_000.0).prop_map(|at| Some(Head::At(at))),
        1 => select(vec![0.0, -0.0, 1e-300, 1e15, f64::MAX]).prop_map(|at| Some(Head::At(at))),
    ];
    (plausible(TYPES.to_vec()), stamp, elapsed_ms, head).prop_map(
        |(happening, stamp, elapsed_ms, head)| Happening {
            stamp,
            elapsed_ms: elapsed_ms.unwrap_or(happening.elapsed_ms),
            head: head.unwrap_or_else(|| happening.head.clone()),
            ..happening
        },
    )
}

fn any_start() -> impl Strategy<Value = Value> {
    let length = select(vec![json!(100), json!(60.333), json!(0), json!(-1), json!(1e-300)]);
    let start = (length, any::<bool>(), any::<bool>(), any_quality());
    start.prop_map(|(length, is_live, has_metadata, quality)| {
        let content_type = if is_live { "live" } else { "vod" };
        let metadata = if has_metadata { json!({"plan": "gold"}) } else { json!({}) };
        json!({"eventType": "sessionStart", "playerTime": {"ts": T_MS, "playhead": 0},
            "params": {"media.id": "c", "media.length": length, "media.playerName": "p",
                "media.contentType": content_type},
            "qoeData": quality, "customMetadata": metadata})
    })
}

/// A session of these happenings: bodies, each with the time at which it arrives.
fn bodies(start: Value, happenings: &[Happening]) -> Vec<(u64, Value)> {
    let (mut now_ms, mut playhead) = (T_MS, 0.0);
    let mut bodies = vec![(T_MS, start)];
    for happening in happenings {
        now_ms += happening.elapsed_ms;
        let elapsed_s = f64::from(u32::try_from(happening.elapsed_ms).unwrap()) / 1_000.0;
        playhead = match happening.head {
            Head::Played(speed) => playhead + speed * elapsed_s,
            Head::Still(drift) => playhead + drift,
            Head::At(at) => at,
        };
        let ts = match happening.stamp {
            Stamp::True => now_ms,
            Stamp::Overtaken(ms) => now_ms - ms,
            Stamp::Set(ts) => ts,
        };
        let body = json!({"eventType": happening.event_type,
            "playerTime": {"ts": ts, "playhead": playhead},
            "params": params(happening.event_type, happening.number),
            "qoeData": happening.quality, "customMetadata": {"own": "yes"}});
        bodies.push((now_ms, body));
    }
    bodies
}

fn params(event_type: &str, number: u8) -> Value {
    let state = json!({"media.state.name": format!("state{number}")});
    match event_type {
        "adBreakStart" => json!({"media.ad.podIndex": number, "media.ad.podSecond": -1}),
        "adStart" => json!({"media.ad.id": format!("ad{number}"), "media.ad.length": number}),
        "chapterStart" => json!({"media.chapter.index": number, "media.chapter.length": 9.5}),
        "stateStart" | "stateEnd" => state,
        "statesUpdate" => json!({"statesStart": [state], "statesEnd": [state]}),
        "error" => json!({"media.errorId": format!("error{number}")}),
        _ => json!({}),
    }
}

/// A session of whatever a player may do.
pub(crate) fn any_session() -> impl Strategy<Value = Vec<(u64, Value)>> {
    (any_start(), prop::collection::vec(any_happening(), 0..60))
        .prop_map(|(start, happenings)| bodies(start, &happenings))
}

/// A session of a player whose clock and playhead make sense, which is not ended and not timed out.
pub(crate) fn plausible_session() -> impl Strategy<Value = Vec<(u64, Value)>> {
    let types: Vec<_> = TYPES.into_iter().filter(|name| *name != "sessionEnd").collect();
    (any_start(), prop::collection::vec(plausible(types), 0..50))
        .prop_map(|(start, happenings)| bodies(start, &happenings))
}

fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {report}"))
}

fn sum(report: &Value, list: &str, key: &str) -> f64 {
    report[list].as_array().unwrap().iter().map(|entry| entry[key].as_f64().unwrap()).sum()
}

fn no_number_is_negative(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64().is_some_and(|number| number >= 0.0),
        Value::Array(items) => items.iter().all(no_number_is_negative),
        Value::Object(members) => members.values().all(no_number_is_negative),
        _ => true,
    }
}

/// A player state that begins with the session: its time is all the time that passed.
fn with_probe(mut bodies: Vec<(u64, Value)>) -> Vec<(u64, Value)> {
    const WINDOW_MS: u64 = 5_000;
    let probe = json!({"eventType": "stateStart", "playerTime": {"ts": T_MS, "playhead": 0},
        "params": {"media.state.name": "probe"}});
    for (arrive_ms, _) in &mut bodies[1..] {
        *arrive_ms += WINDOW_MS;
    }
    bodies.insert(1, (T_MS, probe));
    bodies
}

/// The report without what tells when and how the session was received and closed.
fn without_receipt(mut report: Value) -> Value {
    for key in ["status", "closeReason", "receivedFirstMs", "receivedLastMs", "closedMs"] {
        report[key] = Value::Null;
    }
    for key in ["secondsSinceLastCall", "isDownloaded"] {
        report["metrics"][key] = Value::Null;
    }
    report["qoe"]["isDroppedBeforeStart"] = Value::Null;
    report
}

/// The report without what tells of time that may yet be a stall.
fn without_held(mut report: Value) -> Value {
    const OF_TIME: [&str; 5] = [
        "timePlayed",
        "totalTimePlayed",
        "averageMinuteAudience",
        "chapterTimePlayed",
        "estimatedStreams",
    ];
    for key in OF_TIME {
        report["metrics"][key] = Value::Null;
    }
    for chapter in report["chapters"].as_array_mut().unwrap() {
        chapter["timePlayed"] = Value::Null;
    }
    for key in ["bitrateAverage", "bitrateAverageBucket"] {
        report["qoe"][key] = Value::Null;
    }
    report
}

const MARKERS: [&str; 5] =
    ["hasProgress10", "hasProgress25", "hasProgress50", "hasProgress75", "hasProgress95"];

/// By how much a session is shifted at most: three decades.
const SHIFT_MS_MAX: u64 = 1 << 40;

/// Figures that never fall.
const GROWING: [&str; 9] = [
    "/metrics/uniqueTimePlayed",
    "/metrics/pauseTime",
    "/metrics/adTimePlayed",
    "/metrics/adCount",
    "/metrics/pauseCount",
    "/qoe/stallTime",
    "/qoe/bufferTime",
    "/eventCount",
    "/qoe/errorCount",
];

proptest! {
    #[test]
    fn all_times_together_are_no_more_than_the_time_that_passed(session in any_session()) {
        let report = report_of(&with_probe(session));
        let passed = number(&report, "/states/0/time");
        prop_assert_eq!(&report["states"][0]["name"], "probe");
        let times = ["/metrics/timePlayed", "/metrics/adTimePlayed", "/metrics/pauseTime",
            "/metrics/unaccountedTime", "/qoe/bufferTime", "/qoe/stallTime"];
        let together: f64 = times.iter().map(|path| number(&report, path)).sum();
        prop_assert!(together <= passed + 1e-6 * passed.max(1.0), "{together} in {passed}");
        for state in report["states"].as_array().unwrap() {
            prop_assert!(state["time"].as_f64() <= Some(passed));
        }
    }

    #[test]
    fn parts_add_up_and_counts_fit_each_other(session in any_session()) {
        let report = report_of(&session);
        let metric = |name: &str| number(&report, &format!("/metrics/{name}"));
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-6 * a.max(1.0);
        prop_assert!(near(metric("totalTimePlayed"), metric("timePlayed") + metric("adTimePlayed")));
        prop_assert!(near(metric("adTimePlayed"), sum(&report, "ads", "timePlayed")));
        prop_assert!(near(metric("chapterTimePlayed"), sum(&report, "chapters", "timePlayed")));
        prop_assert!(metric("chapterTimePlayed") <= metric("timePlayed"));
        prop_assert!(metric("adCompletes") + metric("adSkips") <= metric("adCount"));
        prop_assert!(
            metric("chapterCompletes") + metric("chapterSkips") <= metric("chapterCount")
        );
        prop_assert!(near(metric("adCount"), sum(&report, "adBreaks", "adCount")));
        for (list, count) in [("ads", "adCount"), ("chapters", "chapterCount"), ("adBreaks", "adBreakCount")] {
            prop_assert_eq!(report[list].as_array().unwrap().len() as u64, report["metrics"][count].as_u64().unwrap());
        }
        prop_assert!(report["states"].as_array().unwrap().len() <= 10);
        let heard = session.len() as u64;
        let (events, duplicates) = (&report["eventCount"], &report["duplicateCount"]);
        prop_assert!(events.as_u64().unwrap() + duplicates.as_u64().unwrap() <= heard);
        let is_played = report["metrics"]["isPlayed"] == true;
        let has_places = report["implausiblePlayheads"].as_u64() < report["eventCount"].as_u64();
        prop_assert!(is_played || report["metrics"]["segment"].is_null());
        prop_assert!(!is_played || has_places);
        prop_assert!(report["metrics"]["estimatedStreams"].as_u64() > Some(0));
    }

    #[test]
    fn no_figure_is_negative_and_each_flag_says_what_its_count_does(session in any_session()) {
        let report = report_of(&session);
        for group in ["metrics", "qoe", "states"] {
            prop_assert!(no_number_is_negative(&report[group]), "{}", report[group]);
        }
        for (flag, count) in [
            ("/metrics/hasPauseImpactedStreams", "/metrics/pauseCount"),
            ("/qoe/hasBufferImpactedStreams", "/qoe/bufferCount"),
            ("/qoe/hasStallImpactedStreams", "/qoe/stallCount"),
            ("/qoe/hasErrorImpactedStreams", "/qoe/errorCount"),
            ("/qoe/hasBitrateChangeImpactedStreams", "/qoe/bitrateChangeCount"),
            ("/qoe/hasDroppedFrameImpactedStreams", "/qoe/droppedFrames"),
        ] {
            let flag = report.pointer(flag).unwrap().as_bool().unwrap();
            prop_assert_eq!(flag, number(&report, count) > 0.0);
        }
    }

    #[test]
    fn unique_time_is_within_the_content_and_within_what_was_played(session in any_session()) {
        let length_s = session[0].1["params"]["media.length"].as_f64().unwrap();
        let is_live = session[0].1["params"]["media.contentType"] == "live";
        let report = report_of(&session);
        let unique_s = number(&report, "/metrics/uniqueTimePlayed");
        if !is_live && length_s > 0.0 {
            prop_assert!(unique_s <= length_s + 1e-6);
        }
        // An interval of d seconds adds at most 2 d + 1; one at 1e15 s is rounded to an eighth.
        let intervals = number(&report, "/eventCount") * 1.25;
        let most_s = 2.0 * number(&report, "/metrics/timePlayed") + intervals;
        prop_assert!(unique_s <= most_s + 1e-6, "{unique_s} of {most_s}");
    }

    #[test]
    fn the_order_of_arrival_within_a_window_changes_nothing(
        session in plausible_session(), order in prop::collection::vec(any::<Index>(), 10),
    ) {
        let few = session.len().min(11);
        let arrive_ms = session[few - 1].0;
        let mut bodies = session[..few].to_vec();
        for (arrives_ms, _) in &mut bodies[1..] {
            *arrives_ms = arrive_ms;
        }
        let in_order = report_of(&bodies);
        let waiting = &mut bodies[1..];
        for (row, other) in (0..waiting.len()).zip(&order) {
            waiting.swap(row, other.index(waiting.len()));
        }
        prop_assert_eq!(report_of(&bodies), in_order);
    }

    #[test]
    fn a_session_that_was_saved_and_read_back_has_the_same_report(
        session in any_session(), at in any::<Index>(),
    ) {
        let (before, after) = session.split_at(at.index(session.len()) + 1);
        let mut played = Played::of(before, OPEN);
        let saved = serde_json::to_string(played.session.as_ref().unwrap()).unwrap();
        let read: Session = serde_json::from_str(&saved).unwrap();
        prop_assert_eq!(serde_json::to_string(&read).unwrap(), saved);
        let heap_bytes = played.session.as_ref().map(Session::heap_bytes);
        prop_assert_eq!(Some(read.heap_bytes()), heap_bytes);
        played.session = Some(read);
        played.hear_all(after);
        prop_assert_eq!(json_of(&played.closed()), report_of(&session));
    }

    #[test]
    fn a_running_report_is_the_one_if_nothing_more_came_but_for_time_that_may_be_a_stall(
        session in any_session(),
    ) {
        let mut session = Played::of(&session, OPEN).session.unwrap();
        let running = without_receipt(json_of(&session.running_copy()));
        close(&mut session);
        let closed = without_receipt(json_of(&session));
        for path in ["/metrics/timePlayed", "/metrics/chapterTimePlayed"] {
            prop_assert!(number(&running, path) <= number(&closed, path));
        }
        prop_assert_eq!(without_held(running), without_held(closed));
    }

    #[test]
    fn what_is_played_online_in_order_is_what_it_is_when_stored(session in plausible_session()) {
        let bodies: Vec<_> = session.iter().map(|(_, body)| body.clone()).collect();
        let stored = stored_report_of(T_MS, &bodies);
        prop_assert_eq!(&stored["metrics"]["isDownloaded"], true);
        prop_assert_eq!(without_receipt(report_of(&session)), without_receipt(stored));
    }

    #[test]
    fn the_time_of_day_does_not_matter(session in any_session(), shift_ms in 0..SHIFT_MS_MAX) {
        let [report, shifted] = [0, shift_ms].map(|shift_ms| {
            let mut session = session.clone();
            for (arrive_ms, body) in &mut session {
                *arrive_ms += shift_ms;
                // No stamp may leave the range that is accepted.
                let ts = body["playerTime"]["ts"].as_u64().unwrap().min((1 << 53) - SHIFT_MS_MAX);
                body["playerTime"]["ts"] = (ts + shift_ms).into();
            }
            report_of(&session)
        });
        for group in ["metrics", "qoe", "ads", "chapters", "states", "durationMs", "eventCount"] {
            prop_assert_eq!(&report[group], &shifted[group]);
        }
    }

    #[test]
    fn what_was_reached_stays_reached(
        session in any_session(), ends in [any::<Index>(), any::<Index>()],
    ) {
        let bodies: Vec<_> = session.into_iter().map(|(_, body)| body).collect();
        let mut ends = ends.map(|end| end.index(bodies.len()));
        ends.sort_unstable();
        let [before, after] = ends.map(|end| stored_report_of(T_MS, &bodies[..=end]));
        for marker in MARKERS {
            let (was, is) = (&before["metrics"][marker], &after["metrics"][marker]);
            prop_assert!(was == false || is == true, "{marker}");
        }
        // Content may turn out to have stalled, but not be lost.
        let seen = |report: &Value| {
            number(report, "/metrics/timePlayed") + number(report, "/qoe/stallTime")
        };
        let mut figures = vec![("what was seen", seen(&before), seen(&after))];
        for path in GROWING {
            figures.push((path, number(&before, path), number(&after, path)));
        }
        for (what, was, is) in figures {
            prop_assert!(was <= is + 1e-6 * is.max(1.0), "{what}: {was}, then {is}");
        }
    }
}
