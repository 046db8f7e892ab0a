use std::net::Ipv4Addr;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::privacy;
use crate::session::id::Key;
use crate::wire::{Rules, StoredForm, parse_stored};

/// A table of names that stay.
fn names() -> UnlistedNames {
    UnlistedNames::new(Duration::ZERO)
}

fn sender(client: u32, now_ms: u64) -> Sender {
    Sender { ip: Some(Ipv4Addr::from_bits(0x0B00_0000 + client).into()), now_ms }
}

fn ping(params: &Value) -> String {
    json!({"eventType": "ping", "playerTime": {"playhead": 0, "ts": 0}, "params": params})
        .to_string()
}

/// A ping of a client that has these names among its parameters.
fn send(to: &UnlistedNames, from: Sender, params: &[&str]) {
    let params = params.iter().map(|name| ((*name).to_owned(), json!("v4lue"))).collect();
    let body = ping(&Value::Object(params));
    to.note(from, &Event::parse(body.as_bytes(), Rules::default()).unwrap(), None);
}

fn shown(names: &UnlistedNames) -> Value {
    serde_json::from_str(&names.to_json(1_000_000)).unwrap()
}

fn texts(names: &UnlistedNames) -> Vec<String> {
    let shown = shown(names);
    let each = shown["names"].as_array().unwrap().iter();
    each.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

/// What must hold whatever came.
fn is_sound(names: &UnlistedNames) {
    let table = names.table.lock();
    assert!(table.len() <= NAMES_MAX);
    let mut vouching = HashMap::new();
    for (_, _, seen) in table.copied() {
        for client in seen.clients.into_iter().flatten() {
            *vouching.entry(client).or_insert(0) += 1;
        }
        assert!(seen.clients.iter().any(Option::is_some) && seen.count > 0);
    }
    assert_eq!(vouching, table.vouching, "each client vouches for as many as are counted");
}

#[test]
fn a_name_is_shown_with_what_was_probably_meant() {
    let names = names();
    let body = json!({"eventType": "ping", "playerTime": {"playhead": 0, "ts": 0, "playhed": 1},
        "customMetaData": {}, "ts": 0, "params": {"media.qoe.bitrat": 1, "media.ad.name": "a", "x/~": 0}})
    .to_string();
    let event = Event::parse(body.as_bytes(), Rules::default()).unwrap();
    names.note(sender(1, 5), &event, None);
    names.note(sender(1, 7), &event, None);
    send(&names, sender(2, 9), &["x/~"]);
    assert_eq!(names.counts(), [4, 2, 7, 0]);
    let shown = shown(&names);
    assert_eq!((&shown["names_max"], &shown["forgotten"]), (&json!(NAMES_MAX), &json!(0)));
    assert_eq!(
        shown["names"][0],
        json!({"name": "x/~", "where": "params", "pointer": "/params/x~1~0", "event_types": ["ping"], "count": 3,
            "first_ms": 5, "last_ms": 9}),
        "the most frequent first"
    );
    let found = |name: &str| {
        let mut all = shown["names"].as_array().unwrap().iter();
        let one = all.find(|one| one["name"] == name).unwrap();
        ["where", "nearest", "listed_in", "listed_on"].map(|key| one[key].clone())
    };
    let none = Value::Null;
    assert_eq!(
        found("playhed"),
        [json!("playerTime"), json!("playhead"), none.clone(), none.clone()]
    );
    let custom = json!("customMetadata");
    assert_eq!(found("customMetaData"), [json!("body"), custom, none.clone(), none.clone()]);
    // It is listed on other events.
    let (bitrate, on) = (json!("media.qoe.bitrate"), json!(["bitrateChange"]));
    assert_eq!(found("media.qoe.bitrat")[..3], [json!("params"), bitrate, none.clone()]);
    assert!(found("media.qoe.bitrat")[3].as_array().unwrap().contains(&on[0]));
    // Those that are known, and stand in the wrong place.
    assert_eq!(found("ts"), [json!("body"), none.clone(), json!("playerTime"), none.clone()]);
    let on = json!(["adStart"]);
    assert_eq!(found("media.ad.name"), [json!("params"), none, json!("params"), on]);
    assert!(!shown.to_string().contains("v4lue"), "names only");
}

#[test]
fn names_of_a_stored_session_are_gathered_and_none_hides_another() {
    let names = names();
    let start = include_str!("../../tests/it/data/session-start.json");
    let pings = format!(",{}", ping(&json!({"always": 1}))).repeat(1_000);
    let last = r#",{"eventType":"play","playerTime":{"playhead":0,"ts":0},"params":{"late":1,"always":1}}"#;
    let body = format!("[{start}{pings}{last}]");
    let mut of_body = OfBody::default();
    parse_stored(
        body.as_bytes(),
        Rules::default(),
        StoredForm::Downloaded,
        |stored| match stored {
            crate::wire::Stored::Start(start) => of_body.add(&start.event),
            crate::wire::Stored::Event(event) => of_body.add(&event),
        },
    )
    .unwrap();
    names.note_body(sender(1, 5), of_body, None);
    let shown = shown(&names);
    assert_eq!(texts(&names), ["always", "late"]);
    assert_eq!(shown["names"][0]["count"], 1_001);
    assert_eq!(shown["names"][0]["event_types"], json!(["play", "ping"]));
    assert_eq!(names.counts(), [0, 0, 1_002, 0]);
}

#[test]
fn what_privacy_settings_name_is_counted_and_not_shown() {
    let settings = privacy::Settings {
        drop: vec!["visitor.*".into()],
        hash: vec!["secret".into(), "customMetadata.a.plan".into()],
        ..privacy::Settings::default()
    };
    let redactor = settings.redactor(&Key::new([7; 32])).unwrap();
    let body = json!({"eventType": "ping", "playerTime": {"playhead": 0, "ts": 0, "secret": 1}, "visitor.anna": 1,
        "params": {"secret": 1, "visitor.x": 1, "a.plan": 1}, "customMetadata": {"a.plan": "x", "a.b": "y", "own": "z"}})
    .to_string();
    let names = names();
    let event = Event::parse(body.as_bytes(), Rules::default()).unwrap();
    names.note(sender(1, 5), &event, Some(&redactor));
    assert_eq!(names.counts(), [1, 1, 3, 2]);
    let shown = shown(&names);
    let mut all: Vec<_> =
        shown["names"].as_array().unwrap().iter().map(|one| one["pointer"].clone()).collect();
    all.sort_by_key(Value::to_string);
    assert_eq!(all, ["/customMetadata/a.b", "/params/a.plan"]);
}

#[test]
fn a_name_is_cut_and_shows_nothing_that_a_terminal_obeys() {
    let names = names();
    let (long, odd) = ("x".repeat(100_000), "a\u{1b}[2J\u{202e}\"\u{85}\nb");
    send(&names, sender(1, 5), &[&long, odd]);
    let json = names.to_json(5);
    assert!(!json.contains(escape::is_control), "{json:?}");
    let texts = texts(&names);
    assert!(texts.iter().any(|name| name == odd), "it has the same value");
    assert!(texts.iter().all(|name| name.len() <= 256) && json.len() < 2_000);
}

#[test]
fn a_flood_of_one_client_leaves_the_names_of_others() {
    let names = names();
    for client in 0..20 {
        send(&names, sender(client, 1), &[&format!("of{client}"), "common", "other"]);
    }
    // It tries those of others, too.
    send(&names, sender(99, 1), &["common", "of3"]);
    for number in 0..5_000 {
        send(&names, sender(99, 2), &[&format!("flood{number}")]);
    }
    // Who comes while it goes on finds room as well.
    send(&names, sender(50, 3), &["late"]);
    for number in 5_000..10_000 {
        send(&names, sender(99, 4), &[&format!("flood{number}")]);
    }
    is_sound(&names);
    let texts = texts(&names);
    assert_eq!(texts.len(), NAMES_MAX);
    for client in 0..20 {
        assert!(texts.contains(&format!("of{client}")), "{client}");
    }
    for name in ["common", "other", "late", "flood9999"] {
        assert!(texts.iter().any(|text| text == name), "{name}");
    }
    assert_eq!(shown(&names)["forgotten"], 10_000 + 23 - NAMES_MAX);
}

#[test]
fn a_flood_of_some_clients_together_leaves_the_names_of_a_player_that_many_have() {
    let names = names();
    let real: Vec<_> = (0..40).map(|number| format!("real{number}")).collect();
    let real: Vec<_> = real.iter().map(String::as_str).collect();
    // The first client knows all of them, and vouches for them alone at first.
    send(&names, sender(0, 1), &real[..20]);
    send(&names, sender(0, 1), &real[20..]);
    for client in 1..500 {
        let at = client as usize % 40;
        send(&names, sender(client, 1), &[real[at], real[(at + 7) % 40]]);
    }
    // Each of these names comes from several, and some of the real ones, too.
    for number in 0..3_000 {
        for client in 0..8 {
            let name = format!("flood{number}");
            send(&names, sender(1_000 + client, 2), &[&name, real[number % 40]]);
        }
    }
    is_sound(&names);
    let texts = texts(&names);
    for name in real {
        assert!(texts.iter().any(|text| text == name), "{name}");
    }
}

#[test]
fn behind_one_address_what_comes_often_stays() {
    let names = names();
    for _ in 0..3 {
        send(&names, sender(1, 1), &["real", "media.shwo"]);
    }
    for number in 0..1_000 {
        send(&names, sender(1, 2), &[&format!("flood{number}")]);
    }
    let texts = texts(&names);
    assert_eq!((&*texts[0], &*texts[1], texts.len()), ("media.shwo", "real", NAMES_MAX));
}

#[test]
fn a_network_of_ipv6_is_one_client() {
    let names = names();
    for number in 0..1_000_u32 {
        let ip = format!("2001:db8:1:{number:x}::1").parse().ok();
        send(&names, Sender { ip, now_ms: 1 }, &["a"]);
    }
    assert_eq!(names.table.lock().vouching.len(), 1);
}

#[test]
fn a_name_that_was_not_seen_for_long_is_forgotten() {
    let names = UnlistedNames::new(Duration::from_millis(100));
    send(&names, sender(1, 1_000), &["a", "b"]);
    send(&names, sender(1, 1_050), &["b"]);
    let at = |now_ms| {
        let shown: Value = serde_json::from_str(&names.to_json(now_ms)).unwrap();
        shown["names"].as_array().unwrap().len()
    };
    assert_eq!((at(1_099), at(1_100), at(1_149), at(1_150)), (2, 1, 1, 0));
    is_sound(&names);
    // With no room, the old ones go first, whoever vouches for them.
    for (number, client) in (0..NAMES_MAX).zip((0..200).cycle()) {
        send(&names, sender(client, 2_000), &[&format!("old{number}")]);
    }
    for number in 0..NAMES_MAX {
        send(&names, sender(999, 2_100), &[&format!("new{number}")]);
    }
    assert!(texts_at(&names, 2_100).iter().all(|name| name.starts_with("new")));
    is_sound(&names);
}

fn texts_at(names: &UnlistedNames, now_ms: u64) -> Vec<String> {
    let shown: Value = serde_json::from_str(&names.to_json(now_ms)).unwrap();
    let each = shown["names"].as_array().unwrap().iter();
    each.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_log_tells_of_new_names_once_an_hour_at_most() {
    let mut table = Table { retention_ms: u64::MAX, ..Table::default() };
    let mut see = |now_ms, name: &'static str| {
        let (section, on) = (Section::Body, EventSet::NONE);
        table.see(1, now_ms, &Found { section, name: name.into(), on, count: 1 });
        table.take_unlogged(now_ms)
    };
    assert_eq!(see(5, "a"), Some(1));
    assert_eq!(see(6, "a"), None, "it is known");
    assert_eq!(see(7, "b"), None);
    assert_eq!(see(8, "c"), None);
    assert_eq!(see(4 + SILENCE_MS, "a"), None);
    assert_eq!(see(5 + SILENCE_MS, "a"), Some(2), "b and c");
    assert_eq!(see(5 + 9 * SILENCE_MS, "a"), None);
    assert_eq!(see(5 + 9 * SILENCE_MS, "d"), Some(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_comes_the_table_is_sound_and_bounded(
        sent in prop::collection::vec((0..30_u32, 0..400_u32, 0..3_u64), 0..800),
    ) {
        let names = UnlistedNames::new(Duration::from_millis(500));
        let mut now_ms = 0;
        for (client, name, ms) in sent {
            now_ms += ms;
            send(&names, sender(client, now_ms), &[&format!("n{name}")]);
            prop_assert!(names.table.lock().len() <= NAMES_MAX);
        }
        is_sound(&names);
        names.to_json(now_ms);
        is_sound(&names);
    }
}
