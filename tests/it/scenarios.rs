//! Timelines with the answers that they must get, played against the real server on a controlled clock.
//!
//! Every file of `tests/it/data/scenarios` is played, and every file of the folder that the environment
//! variable `MEDIATALLY_SCENARIOS` names, if it is set.

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
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Flow {
    Online,
    Downloaded,
}

#[derive(Deserialize)]
struct Event {
    /// When it was stamped.
    at_ms: u64,
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
            player_time.insert("ts".into(), (NOW_MS + self.at_ms).into());
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

async fn play(scenario: &Scenario) {
    let name = &scenario.name;
    let server = TestServer::start().await;
    let mut events: Vec<&Event> = scenario.events.iter().collect();
    events.sort_by_key(|event| event.arrive_ms);
    let mut location = None;
    for event in events {
        server.set_clock(NOW_MS + event.arrive_ms).await;
        let response = match &location {
            None => server.post(event.stamped()).await,
            Some(location) => {
                let url = server.url(&format!("{location}/events"));
                server.client.post(url).body(event.stamped()).send().await.unwrap()
            }
        };
        assert_eq!(
            response.status().as_u16(),
            event.status,
            "{name}: {} at {} ms",
            event.body["eventType"],
            event.arrive_ms
        );
        if response.status() == 201 {
            location = Some(response.headers()["location"].to_str().unwrap().to_owned());
        }
    }
    server.set_clock(NOW_MS + scenario.end_ms).await;
}

#[tokio::test]
async fn every_scenario_gets_the_answers_that_it_must() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/data/scenarios");
    let theirs = std::env::var_os("MEDIATALLY_SCENARIOS").map(PathBuf::from);
    for folder in [Some(own), theirs].into_iter().flatten() {
        let scenarios = scenarios_in(&folder);
        assert!(!scenarios.is_empty(), "no scenarios in {}", folder.display());
        for scenario in &scenarios {
            if scenario.flow == Flow::Online {
                play(scenario).await;
            }
        }
    }
}
