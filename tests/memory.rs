//! How much memory reading a body takes, and what is kept of it: a test program of its own, because its allocator
//! counts.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mediatally::clock::Clock;
use mediatally::live::{self, Live, Owner};
use mediatally::processor::{Change, Outcome, Processor};
use mediatally::rejects::{Reject, Rejects, Settings};
use mediatally::session::id::{Key, SessionId};
use mediatally::session::{BodyHash, Opening, Step};
use mediatally::unlisted::{Sender, UnlistedNames};
use mediatally::wire::{
    Event, NotStored, PARSE_BYTES_BASE, PARSE_BYTES_PER_BYTE_MAX, Profile, Rules, Start,
    StoredForm, parse_stored,
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The default of `http.event_bytes_max`.
const EVENT_BYTES_MAX: usize = 128 << 10;
/// The default of `http.stored_bytes_max`.
const STORED_BYTES_MAX: usize = 16 << 20;

const STRICT: Rules = Rules { profile: Profile::Open, strict: true };
const OPEN: Rules = Rules { profile: Profile::Open, strict: false };

/// What an event begins with.
const UPDATE: &str = r#"{"eventType":"statesUpdate","playerTime":{"playhead":0,"ts":0}"#;

#[test]
fn an_event_takes_a_small_multiple_of_its_bytes() {
    let _alone = alone();
    for bytes in [1 << 10, 44 << 10, EVENT_BYTES_MAX] {
        for (name, body) in hostile(bytes) {
            for rules in [OPEN, STRICT] {
                let (peak, _) = peak(|| Event::parse(body.as_bytes(), rules).is_ok());
                let most = PARSE_BYTES_BASE + PARSE_BYTES_PER_BYTE_MAX * body.len();
                println!("{name}, {} bytes: {peak}, {:.1} a byte", body.len(), ratio(peak, &body));
                assert!(peak <= most, "{name}, {} bytes: {peak} > {most}", body.len());
            }
        }
    }
}

#[test]
fn a_stored_session_takes_what_one_of_its_events_takes() {
    let _alone = alone();
    let most = PARSE_BYTES_BASE + PARSE_BYTES_PER_BYTE_MAX * EVENT_BYTES_MAX;
    let many = hostile(EVENT_BYTES_MAX).into_iter().map(|(name, event)| {
        (format!("several {name}"), format!("[{event},{event},{event}]"), most)
    });
    // One event many times as large as one may be that comes by itself; the first as large as the whole may be.
    let largest = hostile(STORED_BYTES_MAX).into_iter().take(1);
    let one = largest.chain(hostile(1 << 20)).map(|(name, event)| {
        let strings = if name.contains("escape") { 4 * event.len() } else { 0 };
        (format!("one {name}"), format!("[{event}]"), most + strings)
    });
    let zeros = ("zeros".to_owned(), filled("[", |_| "0,".to_owned(), "]", STORED_BYTES_MAX), most);
    for (name, body, most) in many.chain(one).chain([zeros]) {
        let (peak, answer_bytes) = peak(|| answer_bytes(&body));
        println!("{name}, {} bytes: {peak}, answer {answer_bytes}", body.len());
        assert!(peak <= most, "{name}: {peak} > {most}");
    }
}

/// Once no more violations are listed, each more costs a count and no allocation.
#[test]
fn violations_that_are_not_listed_take_nothing() {
    let _alone = alone();
    let bad = |n| {
        format!(
            r#"{{"eventType":"pinq{n}","playerTime":{{"playhead":-1,"ts":-1}},"customMetadata":{{"a b":1}}}},"#
        )
    };
    let (few, many) = (filled("[", bad, "]", 1 << 20), filled("[", bad, "]", 4 << 20));
    let (of_few, _) = peak(|| answer_bytes(&few));
    let (of_many, _) = peak(|| answer_bytes(&many));
    // Other threads of the test program take some KiB now and then.
    assert!(of_many <= of_few + 16_000, "{of_many} and {of_few}");
    assert!(of_few <= PARSE_BYTES_BASE, "{of_few}");
}

/// Opens so many sessions, each with the same start and these events, and tells what they are counted as and what
/// the process holds for them, in bytes.
fn held(sessions: u64, metadata: &str, events: &[String]) -> (usize, usize) {
    let start = format!(
        r#"{{"eventType":"sessionStart","playerTime":{{"ts":0,"playhead":0}},"params":{{"media.id":"a",
        "media.length":0,"media.contentType":"vod","media.playerName":"p"}},"customMetadata":{{{metadata}}}}}"#
    );
    let start = Start::parse(start.as_bytes(), OPEN).unwrap();
    let live = Arc::new(Live::new(live::Settings::default()));
    let mut processor = Processor::new(Arc::clone(&live));
    let before = ALLOCATOR.current_usage();
    let (mut seq, key) = (0, Key::new([1; 32]));
    for number in 0..sessions {
        let mut random = [0; 10];
        random[2..].copy_from_slice(&number.to_be_bytes());
        let id = SessionId::mint(&key, 1_000, random);
        let opening = Opening::of(&start, Some("192.0.2.0"), Some("player"));
        let room = Some(live.keep_room(opening.heap_bytes(), Owner::default()).unwrap());
        // They are no repeats of one another.
        let hash = BodyHash::of(&[&number.to_be_bytes()]);
        seq += 1;
        processor.fold(seq, 1_000, Change::Start { id, opening, hash, room });
        for (body, received_ms) in events.iter().zip(2_000..) {
            let event = Event::parse(body.as_bytes(), OPEN).unwrap();
            let step = Step::of(&event, body.as_bytes());
            let room = Some(live.keep_room_for(id, &step).unwrap());
            seq += 1;
            let outcome = processor.fold(seq, received_ms, Change::Event { id, step, room });
            assert_eq!(outcome, Outcome::Heard);
        }
    }
    (live.bytes(), ALLOCATOR.current_usage() - before)
}

/// Counts that are far from what is held would let the process take more than it may, or refuse players for nothing.
#[test]
fn live_sessions_take_what_they_are_counted_as() {
    let _alone = alone();
    let event = |event_type: &str, number: usize, params: &str| {
        let time = format!(r#"{{"ts":{number},"playhead":{}}}"#, number * 7 % 100);
        format!(r#"{{"eventType":"{event_type}","playerTime":{time},"params":{{{params}}}}}"#)
    };
    let text = |key: &str, bytes: usize| format!("\"{key}\":\"{}\"", "a".repeat(bytes));
    let many = |event_type: &str, params: &dyn Fn(usize) -> String, events: usize| -> Vec<_> {
        (1..=events).map(|number| event(event_type, number, &params(number))).collect()
    };
    let name = |number| format!(r#""media.ad.podIndex":{number},"media.ad.podFriendlyName":"b""#);
    let states = |number| {
        let names: Vec<_> =
            (0..64).map(|name| format!(r#"{{"media.state.name":"{number}.{name}"}}"#)).collect();
        format!(r#""statesStart":[{}]"#, names.join(","))
    };
    let ads = [many("adBreakStart", &name, 1), many("adStart", &|_| text("media.ad.id", 200), 99)];
    for (what, sessions, metadata, events) in [
        ("no event", 10_000, "", vec![]),
        ("three pings", 10_000, "", many("ping", &|_| String::new(), 3)),
        ("an ad break", 5_000, "", many("adBreakStart", &name, 1)),
        ("much metadata", 300, &*text("k", 60_000), vec![]),
        ("short ad breaks", 50, "", many("adBreakStart", &name, 1_000)),
        (
            "long ad breaks",
            20,
            "",
            many("adBreakStart", &|_| text("media.ad.podFriendlyName", 9_000), 99),
        ),
        ("ads", 300, "", ads.concat()),
        ("states", 300, "", many("statesUpdate", &states, 9)),
        ("errors", 300, "", many("error", &|number| text("media.errorId", number), 70)),
        (
            "what was viewed",
            100,
            "",
            [
                vec![event("play", 1, "")],
                (2..600).map(|number| event("ping", number * 1_000, "")).collect(),
            ]
            .concat(),
        ),
    ] {
        let (counted, held) = held(sessions, metadata, &events);
        println!("{what}: counted {counted}, held {held}, {:.2}", ratio_of(counted, held));
        // The maps are there without any session.
        let most = counted + (256 << 10);
        assert!(held <= most, "{what}: {held} held, {counted} counted");
        // Names of a few bytes, which may become player states, are counted as what these take.
        let factor = if what == "states" { 5 } else { 3 };
        assert!(counted <= held * factor / 2, "{what}: {held} held, {counted} counted");
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is only shown")]
fn ratio_of(counted: usize, held: usize) -> f64 {
    counted as f64 / held as f64
}

/// It is kept by whoever answers the client, and a thread writes it.
#[test]
fn a_refused_body_takes_no_copy_of_its_bytes() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    for (byte, name) in [(1, "control characters"), (0xFF, "no text"), (b'a', "letters")] {
        let (rejects, writer) =
            Rejects::new(&Settings::default(), folder.path(), &Clock::manual(5));
        let body = Bytes::from(vec![byte; STORED_BYTES_MAX]);
        let reject = Reject {
            received_ms: 5,
            status: 400,
            path: "/api/v1/downloaded",
            client: None,
            client_key: 1,
            user_agent: None,
            violations: None,
            message: "",
            body: Some(&body),
            withheld_bytes: None,
        };
        let (to_keep, ()) = peak(|| rejects.keep(&reject));
        rejects.close();
        let (to_write, ()) = peak(|| writer.run());
        println!("{name}: {to_keep} to keep, {to_write} to write");
        assert_eq!((rejects.dropped(), rejects.over_share()), (0, 0));
        assert!(to_keep <= 300 << 10, "{name}: {to_keep}");
        assert!(to_write <= 100 << 10, "{name}: {to_write}");
    }
}

/// A player that always sends the same unlisted name costs a look at the table, and strangers cannot fill it.
#[test]
fn unlisted_names_take_nothing_once_they_are_known_and_little_in_all() {
    let _alone = alone();
    let names = UnlistedNames::new(Duration::ZERO);
    let from =
        |client: u32| Sender { ip: Some(std::net::Ipv4Addr::from(client).into()), now_ms: 5 };
    let ping = |name: &str| format!(r#"{UPDATE},"params":{{"statesStart":[],"{name}":1}}}}"#);
    let body = ping("known");
    let known = Event::parse(body.as_bytes(), OPEN).unwrap();
    names.note(from(0), &known, None);
    let (of_known, ()) = peak(|| names.note(from(0), &known, None));
    assert_eq!(of_known, 0);
    let (of_flood, ()) = peak(|| {
        for client in 0..20_000 {
            let body = ping(&format!("{client}{}", "x".repeat(1_000)));
            let event = Event::parse(body.as_bytes(), OPEN).unwrap();
            names.note(from(client), &event, None);
        }
    });
    println!("{of_flood} for a flood");
    assert!(of_flood <= 256 << 10, "{of_flood}");
}

/// Bodies of about so many bytes that would make a server hold much.
fn hostile(bytes: usize) -> Vec<(String, String)> {
    let body = |name: &str, head: &str, unit: &dyn Fn(usize) -> String, tail: &str| {
        (name.to_owned(), filled(&format!("{UPDATE},{head}"), unit, tail, bytes))
    };
    let mut all = Vec::new();
    for unit in ["{},", "0,", "[0],", "[],", r#"{"":0},"#, r#"{"":{"":0}},"#, r#""\n","#] {
        let states = |name: &str, head: &str| body(name, head, &|_| unit.to_owned(), "]}}");
        all.push(states(&format!("states of {unit}"), r#""params":{"statesStart":["#));
        // Three lists that are kept whole, with a third of the bytes each.
        let third = filled("[", |_| unit.to_owned(), "]", bytes / 3 - 60);
        let lists = ["statesStart", "statesEnd", "visitor.customerIDs"];
        let lists = lists.map(|list| format!("\"{list}\":{third}")).join(",");
        all.push((format!("three lists of {unit}"), format!("{UPDATE},\"params\":{{{lists}}}}}")));
    }
    for unit in [r#"{"":0},"#, r#"{"":{"":0}},"#, r"[0],"] {
        let unit = |n| format!("\"{}\":{unit}", short(n));
        all.push(body("ids", r#""params":{"visitor.customerIDs":{"#, &unit, "}}}"));
    }
    for unit in [r#""params":{},"#, r#""params":{"":0},"#, r#""qoeData":{"":0},"#, r#""":0,"#] {
        all.push(body(&format!("repeated {unit}"), "", &|_| unit.to_owned(), "}"));
    }
    for section in ["params", "qoeData", "customMetadata", "x"] {
        let head = format!("\"{section}\":{{");
        let names = |n| format!("\"{}\":\"\",", short(n));
        all.push(body(&format!("names in {section}"), &head, &names, "}}"));
        let names = |n| format!("\"\\n{}\":0,", short(n));
        all.push(body(&format!("escapes in {section}"), &head, &names, "}}"));
        let text = |_| r#""\n":"\n","#.to_owned();
        all.push(body(&format!("short escapes in {section}"), &head, &text, "}}"));
    }
    let names = |n| format!("\"{}\":0,", short(n));
    all.push(body("names beside", "", &names, "}"));
    all.push(body("objects beside", "", &|n| format!("\"{}\":{{\"\":0}},", short(n)), "}"));
    let a = |_| "a".to_owned();
    all.push(body("a long escape", r#""customMetadata":{"a":"\n"#, &a, "\"}}"));
    all.push(body("a long escape for a name", r#""customMetadata":{"\n"#, &a, "\":\"\"}}"));
    all.push(body("a long name", r#""customMetadata":{""#, &a, " \":0}}"));
    all
}

/// `head`, as many units as fit into so many bytes, and `tail`.
fn filled(head: &str, unit: impl Fn(usize) -> String, tail: &str, bytes: usize) -> String {
    let mut body = String::with_capacity(bytes);
    body.push_str(head);
    for unit in (0..).map(unit) {
        if body.len() + unit.len() + tail.len() > bytes {
            break;
        }
        body.push_str(&unit);
    }
    body.truncate(body.trim_end_matches(',').len());
    body + tail
}

/// The shortest names, each once.
fn short(number: usize) -> String {
    const CHARS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.";
    let (mut name, mut left) = (String::new(), number);
    while left > 0 {
        left -= 1;
        name.push(char::from(CHARS[left % CHARS.len()]));
        left /= CHARS.len();
    }
    name
}

/// The tests of this program share one count, so each runs by itself.
fn alone() -> MutexGuard<'static, ()> {
    static COUNT: Mutex<()> = Mutex::new(());
    COUNT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `run` takes at its worst moment, beyond what was taken before.
fn peak<T>(run: impl FnOnce() -> T) -> (usize, T) {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let result = run();
    (ALLOCATOR.peak_usage().saturating_sub(before), result)
}

fn answer_bytes(stored: &str) -> usize {
    match parse_stored(stored.as_bytes(), OPEN, StoredForm::Downloaded, |_| {}) {
        Err(NotStored::Invalid(found)) => {
            found.listed().iter().map(|one| one.pointer.len() + one.message.len()).sum()
        }
        Err(NotStored::TooMany) => 0,
        Ok(()) => panic!("a session that does not begin with its start"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is only shown")]
fn ratio(peak: usize, body: &str) -> f64 {
    peak as f64 / body.len() as f64
}
