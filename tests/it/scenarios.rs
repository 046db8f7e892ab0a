//! Timelines with the answers and the report that they must get, played against the real server on a controlled clock.
//!
//! Every file of `tests/it/data/scenarios` is played, and every file of the folder that the environment
//! variable `MEDIATALLY_SCENARIOS` names, if it is set.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::harness::{NOW_MS, TestServer};

#[derive(Deserialize)]
struct Scenario {
    name: String,
    flow: Flow,
    end_ms: u64,
    events: Vec<Event>,
    /// A part of the report.
    expect: Value,
    /// The least and the most that numbers of the report may be, by their path.
    #[serde(default)]
    between: BTreeMap<String, (f64, f64)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Flow {
    Online,
    Downloaded,
}

#[derive(Deserialize)]
struct Event {
    /// When it was stamped, since the beginning.
    at_ms: i64,
    /// The stamp itself, of a clock that shows another time.
    ts: Option<u64>,
    /// When it is posted.
    arrive_ms: u64,
    status: u16,
    body: Value,
}

impl Event {
    /// The body with its stamp.
    fn stamped(&self) -> String {
        let mut body = self.body.clone();
        if let Some(player_time) = body.get_mut("playerTime").and_then(Value::as_object_mut) {
            let right = || NOW_MS.saturating_add_signed(self.at_ms);
            player_time.insert("ts".into(), self.ts.unwrap_or_else(right).into());
        }
        body.to_string()
    }
}

/// The scenarios of a folder, by name.
fn scenarios_in(folder: &Path) -> Vec<Scenario> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    paths.iter().map(read).collect()
}

/// Plays a scenario; gives the report of its session at the end.
async fn play(scenario: &Scenario) -> Value {
    let server = TestServer::start().await;
    let location = match scenario.flow {
        Flow::Online => play_online(&server, scenario).await,
        Flow::Downloaded => play_downloaded(&server, scenario).await,
    };
    server.set_clock(NOW_MS + scenario.end_ms).await;
    let url = server.admin_url(&location.expect("a session begins").replace("/api/v1", ""));
    let response = server.client.get(url).send().await.unwrap();
    assert_eq!(response.status(), 200, "{}", scenario.name);
    response.json::<Value>().await.unwrap()["report"].take()
}

async fn play_online(server: &TestServer, scenario: &Scenario) -> Option<String> {
    let name = &scenario.name;
    let mut events: Vec<&Event> = scenario.events.iter().collect();
    events.sort_by_key(|event| event.arrive_ms);
    let mut location: Option<String> = None;
    for event in events {
        server.set_clock(NOW_MS + event.arrive_ms).await;
        let response = match &location {
            None => server.post(event.stamped()).await,
            Some(location) => {
                let url = server.url(&format!("{location}/events"));
                server.client.post(url).body(event.stamped()).send().await.unwrap()
            }
        };
        let (event_type, at_ms) = (&event.body["eventType"], event.arrive_ms);
        assert_eq!(response.status().as_u16(), event.status, "{name}: {event_type} at {at_ms} ms");
        if response.status() == 201 {
            location = Some(response.headers()["location"].to_str().unwrap().to_owned());
        }
    }
    location
}

async fn play_downloaded(server: &TestServer, scenario: &Scenario) -> Option<String> {
    let first = &scenario.events[0];
    let bodies: Vec<_> = scenario.events.iter().map(Event::stamped).collect();
    server.set_clock(NOW_MS + first.arrive_ms).await;
    let body = format!("[{}]", bodies.join(","));
    let url = server.url("/api/v1/downloaded");
    let response = server.client.post(url).body(body).send().await.unwrap();
    assert_eq!(response.status().as_u16(), first.status, "{}", scenario.name);
    Some(response.headers().get("location")?.to_str().unwrap().to_owned())
}

/// Compares every member that is expected; lists element by element; numbers within 0.000001.
fn hold(place: &str, expected: &Value, found: &Value, differ: &mut Vec<String>) {
    let same = match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            for (name, value) in expected {
                hold(
                    &format!("{place}/{name}"),
                    value,
                    found.get(name).unwrap_or(&Value::Null),
                    differ,
                );
            }
            true
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
                hold(&format!("{place}/{index}"), expected, found, differ);
            }
            true
        }
        (Value::Number(expected), Value::Number(found)) => {
            (expected.as_f64().unwrap() - found.as_f64().unwrap()).abs() <= 0.000_001
        }
        _ => expected == found,
    };
    if !same {
        differ.push(format!("{place}: expected {expected}, found {found}"));
    }
}

#[tokio::test]
async fn every_scenario_gets_its_answers_and_its_report() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/data/scenarios");
    let theirs = std::env::var_os("MEDIATALLY_SCENARIOS").map(PathBuf::from);
    let mut differ = Vec::new();
    for folder in [Some(own), theirs].into_iter().flatten() {
        let scenarios = scenarios_in(&folder);
        assert!(!scenarios.is_empty(), "no scenarios in {}", folder.display());
        for scenario in &scenarios {
            let report = play(scenario).await;
            hold(&scenario.name, &scenario.expect, &report, &mut differ);
            for (path, (least, most)) in &scenario.between {
                let found = report.pointer(&format!("/{}", path.replace('.', "/")));
                let is_within = found
                    .and_then(Value::as_f64)
                    .is_some_and(|found| (*least..=*most).contains(&found));
                if !is_within {
                    differ.push(format!("{}: {path} is {found:?}", scenario.name));
                }
            }
        }
        println!("{} scenarios of {}", scenarios.len(), folder.display());
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}
