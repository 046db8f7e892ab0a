//! What a session was: its report while it runs, once it has ended, and in the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{NOW_MS, Process, SAMPLE, TestServer, client, within};

fn event(event_type: &str, ms: u64, playhead: f64) -> String {
    json!({"eventType": event_type, "playerTime": {"ts": NOW_MS + ms, "playhead": playhead}})
        .to_string()
}

async fn start(server: &TestServer) -> String {
    let response = server.post(SAMPLE).await;
    response.headers()["location"].to_str().unwrap().to_owned()
}

/// Posts an event that is stamped and received so many ms after the start of the test.
async fn at(server: &TestServer, location: &str, event_type: &str, ms: u64, playhead: f64) {
    server.set_clock(NOW_MS + ms).await;
    let url = server.url(&format!("{location}/events"));
    let body = event(event_type, ms, playhead);
    assert_eq!(server.client.post(url).body(body).send().await.unwrap().status(), 204);
}

/// What the operators' door says at a path below the session's.
async fn ask(server: &TestServer, location: &str, rest: &str) -> (u16, String) {
    let path = location.replace("/api/v1", "");
    let url = server.admin_url(&format!("{path}{rest}"));
    let response = server.client.get(url).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

async fn told(server: &TestServer, location: &str) -> Value {
    let (status, text) = ask(server, location, "").await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn a_running_session_tells_its_state_its_deadlines_and_its_report_so_far() {
    let server = TestServer::start().await;
    let location = start(&server).await;
    at(&server, &location, "play", 1_000, 0.0).await;
    at(&server, &location, "ping", 11_000, 10.0).await;
    at(&server, &location, "pauseStart", 12_000, 11.0).await;
    let told = told(&server, &location).await;
    assert!(location.ends_with(told["sid"].as_str().unwrap()));
    assert_eq!(
        told["state"],
        json!({"main": "paused", "adBreakIsOpen": false, "ad": null, "chapterIsOpen": false,
            "playerStates": [], "waiting": 2})
    );
    assert_eq!(
        told["deadlines"],
        json!([{"reason": "timeoutNoEvents", "at_ms": NOW_MS + 612_000},
            {"reason": "timeoutNoPlayhead", "at_ms": NOW_MS + 1_812_000},
            {"reason": "lifetime", "at_ms": NOW_MS + 172_800_000}])
    );
    let report = &told["report"];
    assert_eq!((&report["status"], &report["closeReason"]), (&json!("open"), &Value::Null));
    assert_eq!(report["eventCount"], 4, "what waits is in it");
    assert_eq!(report["metrics"]["timePlayed"], 11);
    assert_eq!(report["metrics"]["secondsSinceLastCall"], 0);
}

#[tokio::test]
async fn a_session_that_has_ended_tells_its_report_from_the_journal() {
    let server = TestServer::start().await;
    let (location, other) = (start(&server).await, start(&server).await);
    at(&server, &location, "play", 1_000, 0.0).await;
    at(&server, &other, "play", 1_000, 0.0).await;
    at(&server, &location, "sessionEnd", 5_000, 4.0).await;
    server.set_clock(NOW_MS + 5_500).await;
    let told = told(&server, &location).await;
    assert_eq!((told.get("state"), told.get("deadlines")), (None, None));
    assert_eq!(told["report"]["closeReason"], "sessionEnd");
    assert_eq!(told["report"]["closedMs"], NOW_MS + 5_500);
    assert_eq!(told["report"]["metrics"]["timePlayed"], 4);

    let (status, records) = ask(&server, &location, "/events").await;
    assert_eq!(status, 200);
    let records: Vec<Value> =
        records.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = records.iter().map(|record| record["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["start", "event", "event", "close", "report"]);
    assert_eq!(records[4]["report"], told["report"]);
    assert!(records.iter().all(|record| record["sid"] == told["sid"]));
}

#[tokio::test]
async fn only_sessions_of_this_server_are_looked_up_and_only_by_its_operators() {
    let server = TestServer::start().await;
    let location = start(&server).await;
    for unknown in [
        "/sessions/%ff",
        "/sessions/xyz",
        "/sessions/xyz/events",
        &format!("/sessions/{}", "0".repeat(64)),
    ] {
        let response = server.client.get(server.admin_url(unknown)).send().await.unwrap();
        assert_eq!(response.status(), 404, "{unknown}");
        assert!(response.headers().get("access-control-allow-origin").is_none());
    }
    let path = location.replace("/api/v1", "");
    for path in [&path, &location] {
        let response = server.client.get(server.url(path)).send().await.unwrap();
        assert!([404, 405].contains(&response.status().as_u16()), "{path}");
    }
}

#[tokio::test]
async fn a_report_that_the_journal_keeps_no_more_is_told_so() {
    let server = TestServer::start().await;
    let location = start(&server).await;
    server.set_clock(NOW_MS + 600_000).await;
    std::fs::remove_file(server.folder.path().join(format!("data/journal/{:020}.ndjson", 1)))
        .unwrap();
    let (status, text) = ask(&server, &location, "").await;
    assert_eq!(status, 404);
    assert!(text.contains("keeps its report no more"), "{text}");
    assert_eq!(ask(&server, &location, "/events").await, (404, text), "nor are its records there");
}

/// The output of a command of the program on the data folder in `folder`.
async fn run(folder: &Path, arguments: &[&str]) -> String {
    let output = within(Process::command(folder).args(arguments).output()).await.unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

#[tokio::test]
async fn reports_are_exported_as_lines_and_as_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]).await;
    let posted = client().post(process.url("/api/v1/sessions")).body(SAMPLE).send().await.unwrap();
    let location = posted.headers()["location"].to_str().unwrap().to_owned();
    let url = process.url(&format!("{location}/events"));
    for (event_type, ms, playhead) in [("play", 0, 0.0), ("sessionEnd", 5_250, 5.0)] {
        let posted = client().post(&url).body(event(event_type, ms, playhead)).send().await;
        assert_eq!(posted.unwrap().status(), 204);
    }
    let mut reports = String::new();
    within(async {
        while reports.is_empty() {
            reports = run(folder.path(), &["export", "--kind", "report"]).await;
        }
    })
    .await;
    let report: Value = serde_json::from_str(reports.trim()).unwrap();
    assert!(location.ends_with(report["sessionId"].as_str().unwrap()));
    assert_eq!(report["version"], 2);
    let table = run(folder.path(), &["export", "--kind", "report", "--format", "csv"]).await;
    let (names, row) = table.trim().split_once('\n').unwrap();
    assert!(names.starts_with("version,sessionId,status,closeReason,startTs,"), "{names}");
    assert!(row.starts_with(&format!("2,{}", report["sessionId"].as_str().unwrap())), "{row}");
    let column = names.split(',').position(|name| name == "timePlayed").unwrap();
    assert_eq!(row.split(',').nth(column), Some("5.25"));
    process.signal(Signal::INT);
    process.ended().await;
}

/// Starts sessions that end at once, until the server is gone.
async fn end_until_gone(sessions_url: String) {
    let client = client();
    while let Ok(response) = client.post(&sessions_url).body(SAMPLE).send().await {
        let id = response.headers()["location"].to_str().unwrap().rsplit('/').next().unwrap();
        let url = format!("{sessions_url}/{id}/events");
        let bodies = [event("play", 0, 0.0), event("sessionEnd", 100, 0.1)];
        let posts = bodies.map(|body| client.post(&url).body(body).send());
        let _ = futures_util::future::join_all(posts).await;
    }
}

/// Each round kills the server while sessions end; the next one writes the reports that are missing.
#[tokio::test]
async fn each_session_that_ends_has_one_report_whenever_the_server_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        ("MEDIATALLY_JOURNAL__SEGMENT_BYTES_MAX", "64KiB"),
        ("MEDIATALLY_JOURNAL__CHECKPOINT_INTERVAL", "50ms"),
    ];
    let journal = async |kind: &str| run(folder.path(), &["export", "--kind", kind]).await;
    let (mut unreported, mut ended, mut rounds) = (0, 0, 0);
    // At least one kill comes between an end and its report.
    while rounds < 4 || unreported == 0 {
        assert!(rounds < 40, "the reports are always quicker than the kill");
        rounds += 1;
        let process = Process::start(folder.path(), &settings).await;
        unreported += process.read_back["unreported"].as_u64().unwrap();
        let players: Vec<_> = (0..16)
            .map(|_| tokio::spawn(end_until_gone(process.url("/api/v1/sessions"))))
            .collect();
        // Closes come in bursts; the kill comes in the middle of one, or of its reports.
        within(async { while journal("close").await.lines().count() <= ended {} }).await;
        process.signal(Signal::KILL);
        process.ended().await;
        for player in players {
            player.await.unwrap();
        }
        ended = journal("close").await.lines().count();
    }
    println!("{ended} sessions ended, {unreported} reports were missing at a start");
    // What is left when the last one starts is closed and reported. If more sessions close just as it is told to
    // stop, their reports may be left to the one after it.
    loop {
        let process = Process::start(folder.path(), &settings).await;
        within(async { while !said_to_be_reported(&run(folder.path(), &["verify"]).await) {} })
            .await;
        process.signal(Signal::INT);
        process.ended().await;
        let said = run(folder.path(), &["verify"]).await;
        assert!(said.contains("keeps its promises"), "{said}");
        if said_to_be_reported(&said) {
            break;
        }
    }
    let mut reports: BTreeMap<String, u32> = BTreeMap::new();
    for line in journal("report").await.lines() {
        let report: Value = serde_json::from_str(line).unwrap();
        *reports.entry(report["sessionId"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert!(!reports.is_empty() && reports.values().all(|count| *count == 1));
    let closed: BTreeSet<String> = journal("close")
        .await
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["sid"].as_str().unwrap().to_owned()
        })
        .collect();
    let reported: BTreeSet<String> = reports.into_keys().collect();
    assert_eq!(closed.symmetric_difference(&reported).count(), 0, "each end has its report");
}

/// Whether every session that ended has its report, by what `verify` says.
fn said_to_be_reported(said: &str) -> bool {
    !said.contains("wait for their report")
}

#[tokio::test]
async fn a_start_that_was_sent_again_is_a_session_of_its_own_that_names_the_first() {
    let server = TestServer::start().await;
    let first = start(&server).await;
    let id = json!(first.rsplit('/').next());
    let repeat_of =
        async |location: &str| told(&server, location).await["report"]["repeatOf"].clone();
    assert_eq!(repeat_of(&first).await, Value::Null);
    server.set_clock(NOW_MS + 60_000).await;
    let again = start(&server).await;
    assert_ne!(again, first);
    assert_eq!(repeat_of(&again).await, id, "a minute later");
    let other = server.post(SAMPLE.replace("\"playhead\": 0", "\"playhead\": 1")).await;
    let other = other.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(repeat_of(&other).await, Value::Null, "another body");
    server.set_clock(NOW_MS + 60_001).await;
    assert_eq!(repeat_of(&start(&server).await).await, Value::Null);
    server.set_clock(NOW_MS + 700_000).await;
    let closed = told(&server, &again).await;
    assert_eq!(
        (&closed["report"]["status"], &closed["report"]["repeatOf"]),
        (&json!("closed"), &id)
    );
}
