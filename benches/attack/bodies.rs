//! The bodies that are sent, each made once.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

/// The start that the documentation shows.
pub(crate) const START: &str = include_str!("../../tests/it/data/session-start.json");

/// The largest stored session that there may be.
const STORED_BYTES_MAX: usize = 16 << 20;

/// How much of a body is what makes it large; the rest is the usual.
pub(crate) const STORED_BYTES: usize = STORED_BYTES_MAX - 4_096;
pub(crate) const EVENT_BYTES: usize = (128 << 10) - 2_048;

/// How many events a stored session may have.
const STORED_EVENTS: u64 = 100_000;

/// A ping of a player that goes on by a second each time.
pub(crate) fn ping(number: u64) -> String {
    let ts = 1_700_000_000_000 + number * 1_000;
    format!(
        "{{\"eventType\":\"ping\",\"playerTime\":{{\"playhead\":{},\"ts\":{ts}}}}}",
        number % 60
    )
}

pub(crate) fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // A vector takes everything.
    let _ = encoder.write_all(body);
    encoder.finish().unwrap_or_default()
}

fn start() -> Value {
    serde_json::from_str(START).unwrap_or_default()
}

/// A stored session of a start and these events.
fn stored(events: &str) -> Vec<u8> {
    let mut start = start();
    start["params"]["media.downloaded"] = json!(true);
    format!("[{start},{events}]").into_bytes()
}

/// A stored session that lists millions of states, each of them an empty object.
pub(crate) fn stored_states() -> Vec<u8> {
    let states = "{},".repeat(STORED_BYTES / 3);
    stored(&format!(
        "{{\"eventType\":\"statesUpdate\",\"playerTime\":{{\"playhead\":1,\"ts\":1700000001000}},\
         \"params\":{{\"statesStart\":[{states}{{}}]}}}}"
    ))
}

/// A start with a member whose name is long and not allowed.
pub(crate) fn long_name() -> Vec<u8> {
    let mut start = start();
    start["customMetadata"] = json!({"~".repeat(EVENT_BYTES): 1});
    start.to_string().into_bytes()
}

/// A stored session with such a member.
pub(crate) fn stored_long_name() -> Vec<u8> {
    let name = "~".repeat(STORED_BYTES);
    stored(&format!(
        "{{\"eventType\":\"ping\",\"playerTime\":{{\"playhead\":1,\"ts\":1700000001000}},\
         \"customMetadata\":{{\"{name}\":1}}}}"
    ))
}

/// A start that is as large as it may be, nearly all of it metadata.
pub(crate) fn large_start() -> Vec<u8> {
    let mut start = start();
    start["customMetadata"] = json!({"plan": "a".repeat(EVENT_BYTES)});
    start.to_string().into_bytes()
}

/// A valid stored session that is as large as it may be.
pub(crate) fn stored_large_events() -> Vec<u8> {
    let text = "a".repeat(100_000);
    let count = (STORED_BYTES / (text.len() + 200)) as u64;
    let events: Vec<_> = (1..=count)
        .map(|number| {
            let ts = 1_700_000_000_000 + number * 1_000;
            format!(
                "{{\"eventType\":\"ping\",\"playerTime\":{{\"playhead\":{number},\"ts\":{ts}}},\
                 \"customMetadata\":{{\"plan\":\"{text}\"}}}}"
            )
        })
        .collect();
    stored(&events.join(","))
}

/// The same, blown up with blanks to the last byte that there may be.
pub(crate) fn stored_whole() -> Vec<u8> {
    let mut body = stored_large_events();
    let end = body.pop();
    body.resize(STORED_BYTES_MAX - 1, b' ');
    body.extend(end);
    body
}

/// A valid stored session of as many events as there may be.
pub(crate) fn stored_small_events() -> Vec<u8> {
    let events: Vec<_> = (1..STORED_EVENTS).map(ping).collect();
    stored(&events.join(","))
}

/// Events that open ad breaks and ads in turn, each with a name that makes it so large; no two are the same.
pub(crate) fn ad_events(count: u64, name_bytes: usize) -> Vec<String> {
    let name = "a".repeat(name_bytes);
    let event = |number: u64| {
        let (index, ts) = (number / 2, 1_700_000_000_000 + number);
        let (event_type, params) = if number.is_multiple_of(2) {
            let name = format!("\"media.ad.podFriendlyName\":\"{name}\"");
            (
                "adBreakStart",
                format!("{name},\"media.ad.podIndex\":{index},\"media.ad.podSecond\":0"),
            )
        } else {
            let name = format!("\"media.ad.name\":\"{name}\",\"media.ad.playerName\":\"p\"");
            (
                "adStart",
                format!(
                    "{name},\"media.ad.id\":\"{index}\",\"media.ad.length\":9,\"media.ad.podPosition\":1"
                ),
            )
        };
        format!(
            "{{\"eventType\":\"{event_type}\",\"playerTime\":{{\"playhead\":1,\"ts\":{ts}}},\
             \"params\":{{{params}}}}}"
        )
    };
    (0..count).map(event).collect()
}

/// A valid stored session whose state is large: thousands of ad breaks and ads with long names.
pub(crate) fn stored_large_state() -> Vec<u8> {
    const EVENTS: usize = 4_000;
    stored(&ad_events(EVENTS as u64, STORED_BYTES / EVENTS - 300).join(","))
}

/// A stored session that is refused for control characters where there may be none.
pub(crate) fn stored_control_characters() -> Vec<u8> {
    let text = "\u{1}".repeat(STORED_BYTES);
    stored(&format!(
        "{{\"eventType\":\"ping\",\"playerTime\":{{\"playhead\":1,\"ts\":1700000001000}},\
         \"customMetadata\":{{\"plan\":\"{text}\"}}}}"
    ))
}

/// A start that names its report suite eight times.
pub(crate) fn start_of_one_suite() -> Vec<u8> {
    let mut start = start();
    let suite = start["params"]["analytics.reportSuite"].as_str().unwrap_or_default().to_owned();
    start["params"]["analytics.reportSuite"] = json!(vec![suite; 8].join(","));
    start.to_string().into_bytes()
}

/// A start that lacks nearly everything, with a mark by which it is found again.
pub(crate) fn invalid_start(mark: &str) -> Vec<u8> {
    json!({"eventType": "sessionStart", "mark": mark}).to_string().into_bytes()
}

/// Lists in lists.
pub(crate) fn deep_lists(bytes: usize) -> Vec<u8> {
    let half = bytes / 2;
    [vec![b'['; half], vec![b']'; half]].concat()
}

/// Objects in objects.
pub(crate) fn deep_objects(bytes: usize) -> Vec<u8> {
    let half = bytes / 6;
    ["{\"a\":".repeat(half), "1".to_owned(), "}".repeat(half)].concat().into_bytes()
}

/// Packed bodies one after the other, each of nothing.
pub(crate) fn many_members(bytes: usize) -> Vec<u8> {
    let member = gzip(b"");
    member.repeat(bytes / member.len())
}
