//! What is kept of a person, and what is not.

use std::path::Path;
use std::time::Duration;

use mediatally::commands::serve::Stop;
use mediatally::config::{self, Config, Sources};
use mediatally::privacy::Hasher;
use mediatally::session::id::Key;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::commands::as_text;
use crate::harness::{NOW_MS, Process, SAMPLE, TestServer, client, files, until, within};

/// What every value that must not be kept begins with; no body that is kept has it otherwise.
const SECRET: &str = "Hidd3n";

/// The settings of a server that keeps no such value.
const SETTINGS: [(&str, &str); 6] = [
    (
        "MEDIATALLY_PRIVACY__DROP",
        "visitor.*, not.listed, customMetadata.plan, analytics.enableSSL, \
         analytics.optOutServerSideForwarding, analytics.optOutShare",
    ),
    // What is dropped above need not be text.
    ("MEDIATALLY_PRIVACY__HASH", "analytics.*, visitor.*, appInstallationId, customMetadata.*"),
    ("MEDIATALLY_VALIDATION__PROFILE", "open"),
    ("MEDIATALLY_JOURNAL__SEGMENT_BYTES_MAX", "4KiB"),
    ("MEDIATALLY_LOG__LEVEL", "mediatally=debug"),
    ("MEDIATALLY_JOURNAL__CHECKPOINT_INTERVAL", "20ms"),
];

fn start() -> Value {
    let mut start: Value = serde_json::from_str(SAMPLE).unwrap();
    let params = start["params"].as_object_mut().unwrap();
    params.insert("analytics.visitorId".into(), json!("Hidd3n anna"));
    params.insert("analytics.reportSuite".into(), json!("Hidd3n suite"));
    params.insert("analytics.trackingServer".into(), json!("Hidd3n server"));
    params.insert("visitor.marketingCloudOrgId".into(), json!("Hidd3n org"));
    params.insert("visitor.marketingCloudUserId".into(), json!("Hidd3n user"));
    params.insert(
        "visitor.customerIDs".into(),
        json!({"Hidd3n name": {"id": "Hidd3n id", "authState": 1}}),
    );
    params.insert("appInstallationId".into(), json!("Hidd3n app"));
    params.insert("not.listed".into(), json!({"a": ["Hidd3n unlisted"]}));
    params.insert("media.show".into(), json!("a show"));
    start["customMetadata"] = json!({"plan": "Hidd3n gold", "who": "Hidd3n anna"});
    start["qoeData"] =
        json!({"media.qoe.bitrate": 7, "not.listed": "Hidd3n", "visitor.x": {"a": "Hidd3n"}});
    start["not.listed"] = json!("Hidd3n beside");
    start["analytics.visitorId"] = json!("Hidd3n anna");
    start
}

fn event(event_type: &str, second: u32) -> Value {
    let ts = NOW_MS + u64::from(second) * 1_000;
    json!({"eventType": event_type, "playerTime": {"playhead": second, "ts": ts}})
}

fn chapter(second: u32) -> Value {
    let mut chapter = event("chapterStart", second);
    chapter["params"] = json!({"media.chapter.index": 1, "media.chapter.offset": 0,
        "media.chapter.length": 60, "not.listed": "Hidd3n unlisted"});
    chapter["customMetadata"] = json!({"plan": "Hidd3n gold", "who": "Hidd3n bert"});
    chapter
}

/// The same JSON with escapes in it.
fn escaped(text: &str) -> String {
    text.replace("Hidd3n", r"H\u0069dd3n").replace("visitorId", r"visitor\u0049d")
}

async fn post(process: &Process, path: &str, body: impl Into<String>) -> (u16, String) {
    let response = client().post(process.url(path)).body(body.into()).send().await.unwrap();
    let location = response.headers().get("location").map(|at| at.to_str().unwrap().to_owned());
    (response.status().as_u16(), location.unwrap_or_default())
}

async fn told(process: &Process, location: &str) -> Value {
    let url = process.admin_url(&location.replace("/api/v1", ""));
    let response = client().get(url).send().await.unwrap();
    serde_json::from_str(&response.text().await.unwrap()).unwrap()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn hasher(folder: &Path) -> Hasher {
    let key = std::fs::read_to_string(folder.join("data/session.key")).unwrap();
    Hasher::new(&Key::from_hex(key.trim()).unwrap())
}

#[tokio::test]
async fn no_byte_of_what_is_dropped_or_hashed_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(folder.path(), &SETTINGS).await;
    let sessions = "/api/v1/sessions";
    let (status, location) = post(&process, sessions, start().to_string()).await;
    assert_eq!(status, 201);
    let events = format!("{location}/events");
    let mut stored_start = start();
    stored_start["params"]["media.downloaded"] = json!(true);
    let stored = json!([stored_start, event("play", 0), chapter(1), event("sessionEnd", 30)]);
    let mut wrong = start();
    wrong["params"]["media.id"] = json!(7);
    wrong["params"]["visitor.aamLocationHint"] = json!(7.250_917_263);
    wrong["params"]["visitor.customerIDs"] =
        json!({"Hidd3n x": {"id": "Hidd3n y", "authState": 7.250_917_263}});
    let misplaced = json!({"eventType": "play", "visitor.id": "Hidd3n", "x": [start()]});
    let double = json!({"eventType": "play", "params": start()["params"].to_string()});
    for (path, body, expected) in [
        (&*events, event("play", 0).to_string(), 204),
        (&events, chapter(1).to_string(), 204),
        (&events, escaped(&chapter(2).to_string()), 204),
        (sessions, escaped(&format!(" {:#}\n", start())), 201),
        ("/api/v1/downloaded", stored.to_string(), 201),
        (sessions, format!("\n{stored:#}"), 201),
        (sessions, wrong.to_string(), 400),
        (sessions, escaped(&wrong.to_string()), 400),
        (sessions, json!([wrong, wrong]).to_string(), 400),
        (&events, misplaced.to_string(), 400),
        (&events, double.to_string(), 400),
        (sessions, json!(start().to_string()).to_string(), 400),
        (sessions, start().to_string().replace("\"a show\"", "01"), 400),
        (sessions, "visitor.id=Hidd3n".to_owned(), 400),
        (&events, event("sessionEnd", 30).to_string(), 204),
        ("/api/v1/sessions/unknown/events", chapter(3).to_string(), 404),
    ] {
        assert_eq!(post(&process, path, body.clone()).await.0, expected, "{body}");
    }
    within(async { while post(&process, &events, chapter(4).to_string()).await.0 != 410 {} }).await;
    let rejects = client().get(process.admin_url("/rejects")).send().await.unwrap();
    let rejects = rejects.text().await.unwrap();
    assert!(rejects.contains("/params/visitor.aamLocationHint") && rejects.contains("a show"));
    assert!(!rejects.contains(SECRET) && !rejects.contains("7.250917263"), "{rejects}");
    let hash = hasher(folder.path());
    for round in ["live", "replayed"] {
        let report = &told(&process, &location).await["report"];
        assert_eq!(report["content"]["media.show"], "a show", "{round}");
        assert_eq!(report["visitor"]["analytics.visitorId"], hash.hash("Hidd3n anna"));
        assert_eq!(report["visitor"]["appInstallationId"], hash.hash("Hidd3n app"));
        assert_eq!(report["visitor"].as_object().unwrap().len(), 2, "{}", report["visitor"]);
        assert_eq!(report["customMetadata"], json!({"who": hash.hash("Hidd3n anna")}));
        let chapters = &report["chapters"];
        assert_eq!(chapters[0]["customMetadata"], json!({"who": hash.hash("Hidd3n bert")}));
        let data = folder.path().join("data");
        until(|| files(&data).iter().any(|(name, _)| name.contains("checkpoint-"))).await;
        let journal = data.join("journal/00000000000000000001.ndjson.zst");
        until(|| journal.exists()).await;
        process.signal(Signal::INT);
        let (_, log) = process.ended().await;
        assert!(
            log.iter().all(|line| !line.contains(SECRET) && !line.contains("7.250917263")),
            "{log:?}"
        );
        let kept = files(&data);
        assert!(kept.iter().any(|(name, _)| name.ends_with("rejects/current.ndjson")));
        for (name, bytes) in kept {
            for hidden in [SECRET, r"H\u0069dd3n", "7.250917263"] {
                assert!(!holds(&bytes, hidden), "{hidden} in {name}");
            }
        }
        process = Process::start(folder.path(), &SETTINGS).await;
        // The same value has the same hash after a restart.
        let (_, again) = post(&process, sessions, start().to_string()).await;
        let again = &told(&process, &again).await["report"]["visitor"]["analytics.visitorId"];
        assert_eq!(again, &json!(hash.hash("Hidd3n anna")), "{round}");
    }
    let output = within(Process::command(folder.path()).arg("verify").output()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    process.signal(Signal::INT);
    process.ended().await;
}

/// Its clock stands still: the same body is a repeat for five seconds, in which a slow machine may not be done.
#[tokio::test]
async fn a_replay_arrives_where_the_redacted_session_was() {
    let folder = tempfile::tempdir().unwrap();
    let [data, copy] = ["data", "copy"].map(|name| folder.path().join(name));
    let env = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let settings = config::load(&Sources { env, ..Sources::default() }).unwrap().config;
    let serve = async |data_dir: &Path| {
        TestServer::with(|config| {
            let (listen, admin_listen) = (config.listen, config.admin_listen);
            let data_dir = data_dir.to_owned();
            *config = Config { listen, admin_listen, data_dir, ..settings.clone() };
        })
        .await
    };
    let post = async |server: &TestServer, path: &str, body: &Value| {
        server.client.post(server.url(path)).body(body.to_string()).send().await.unwrap()
    };
    let told = async |server: &TestServer, location: &str| {
        let url = server.admin_url(&location.replace("/api/v1", ""));
        server.client.get(url).send().await.unwrap().json::<Value>().await.unwrap()
    };
    let server = serve(&data).await;
    let begun = post(&server, "/api/v1/sessions", &start()).await;
    let location = begun.headers()["location"].to_str().unwrap().to_owned();
    let events = format!("{location}/events");
    for body in [event("play", 0), chapter(1), chapter(1), event("pauseStart", 9)] {
        assert_eq!(post(&server, &events, &body).await.status(), 204);
    }
    let before = told(&server, &location).await;
    assert_eq!(before["report"]["eventCount"], 4, "the same body again is a repeat");
    server.stop(Stop::Now).await;
    server.ended().await;
    // Without a checkpoint, so that all is replayed. In a copy, because the lock of the folder goes on for a
    // moment if another test just starts a process.
    std::fs::create_dir_all(copy.join("journal")).unwrap();
    std::fs::copy(data.join("session.key"), copy.join("session.key")).unwrap();
    for file in std::fs::read_dir(data.join("journal")).unwrap() {
        let file = file.unwrap();
        if !file.file_name().to_str().unwrap().starts_with("checkpoint-") {
            std::fs::copy(file.path(), copy.join("journal").join(file.file_name())).unwrap();
        }
    }
    let server = serve(&copy).await;
    let after = told(&server, &location).await;
    for member in ["state", "report"] {
        assert_eq!(after[member], before[member]);
    }
    assert_eq!(post(&server, &events, &chapter(1)).await.status(), 204);
    let repeated = told(&server, &location).await;
    assert_eq!(repeated["report"]["eventCount"], 4, "and so it is after a restart");
}

/// All that a player can say of a session, its ads, chapters and errors, by event.
fn whole_session() -> Vec<Value> {
    let specification: Value = serde_json::from_str(include_str!("data/parameters.json")).unwrap();
    let types = ["sessionStart", "play", "stateStart", "adBreakStart", "adStart", "adComplete"];
    let then = ["adBreakComplete", "chapterStart", "chapterComplete", "error", "bitrateChange"];
    let events = types.into_iter().chain(then).chain(["statesUpdate", "sessionEnd"]).zip(0..);
    let body = |(event_type, second): (&str, u32)| {
        let mut body = event(event_type, second);
        for row in specification["params"].as_array().unwrap() {
            let names = row["allowed_on"].as_array().unwrap();
            if !names.contains(&json!(event_type)) {
                continue;
            }
            let key = row["key"].as_str().unwrap();
            body["params"][key] = match (key, row["type"].as_str().unwrap()) {
                ("media.length", _) => json!(3_600),
                ("media.downloaded", _) => json!(false),
                ("media.streamType", _) => json!("audio"),
                ("media.pass.auth", _) => json!("true"),
                ("media.errorSource" | "media.qoe.errorSource", _) => json!("external"),
                (_, "string") => json!("text"),
                (_, "boolean") => json!(true),
                (_, "object") => json!({"crm": {"id": "7", "authState": 1}}),
                (_, "array") => json!([{"media.state.name": key}]),
                _ => json!(second + 2),
            };
            // A player may put it elsewhere too, where it is taken out alike.
            body["qoeData"][key] = body["params"][key].clone();
            body[key] = body["params"][key].clone();
        }
        body
    };
    events.map(body).collect()
}

#[tokio::test]
async fn whatever_may_be_named_no_figure_changes() {
    let specification: Value = serde_json::from_str(include_str!("data/parameters.json")).unwrap();
    let rows = specification["params"].as_array().unwrap();
    let keys = rows.iter().map(|row| row["key"].as_str().unwrap().to_owned());
    let may_be = |key: &str, list: &str| {
        let variable = (format!("MEDIATALLY_PRIVACY__{list}"), key.to_owned());
        config::load(&Sources { env: vec![variable], ..Sources::default() }).is_ok()
    };
    let mut reports = Vec::new();
    let droppable: Vec<_> = keys.clone().filter(|key| may_be(key, "DROP")).collect();
    let hashable: Vec<_> = keys.filter(|key| may_be(key, "HASH")).collect();
    assert!(droppable.len() > 40 && hashable.len() > 30, "{droppable:?} {hashable:?}");
    for (drop, hash) in [(vec![], vec![]), (droppable, vec![]), (vec![], hashable)] {
        let server = TestServer::with(|config| {
            config.privacy.drop = drop;
            config.privacy.hash = hash;
        })
        .await;
        let mut location = String::new();
        for (body, ms) in whole_session().into_iter().zip((0..).step_by(1_000)) {
            server.set_clock(NOW_MS + ms).await;
            let path = match &*location {
                "" => "/api/v1/sessions".to_owned(),
                location => format!("{location}/events"),
            };
            let response = server.client.post(server.url(&path)).body(body.to_string());
            let response = response.send().await.unwrap();
            assert!(response.status().is_success(), "{body}: {}", response.text().await.unwrap());
            if let Some(at) = response.headers().get("location") {
                at.to_str().unwrap().clone_into(&mut location);
            }
        }
        server.set_clock(NOW_MS + 20_000).await;
        let url = server.admin_url(&location.replace("/api/v1", ""));
        let told = server.client.get(url).send().await.unwrap().text().await.unwrap();
        let told: Value = serde_json::from_str(&told).unwrap();
        reports.push(told["report"].clone());
    }
    let figures = |report: &Value| {
        let mut figures = json!({"metrics": report["metrics"], "qoe": report["qoe"],
            "states": report["states"], "streamType": report["content"]["media.streamType"]});
        for list in ["adBreaks", "ads", "chapters"] {
            let entries = report[list].as_array().unwrap();
            assert_eq!(entries.len(), 1, "{report}");
            for key in ["podId", "isCompleted", "completed", "timePlayed", "adCount"] {
                figures[list][key] = entries[0][key].clone();
            }
        }
        // The id of an ad is what was sent, that of a chapter is computed.
        figures["chapter"] = report["chapters"][0]["id"].clone();
        figures
    };
    for report in &reports[1..] {
        assert_eq!(figures(report), figures(&reports[0]));
        assert_ne!(report["content"], reports[0]["content"]);
    }
}

#[tokio::test]
async fn whom_a_refused_session_was_for_is_not_kept_if_it_is_named() {
    for (named, shown) in [("analytics.reportSuite", false), ("analytics.visitorId", true)] {
        let server = TestServer::with(|config| {
            config.limits.report_suites = vec!["ours".to_owned()];
            config.privacy.hash = vec![named.to_owned()];
        })
        .await;
        let response = server.post(start().to_string()).await;
        assert_eq!(response.status(), 403);
        assert!(response.text().await.unwrap().contains("Hidd3n suite"), "the player may know");
        let rejects = server.client.get(server.admin_url("/rejects")).send().await.unwrap();
        let rejects = rejects.text().await.unwrap();
        assert_eq!(rejects.contains("Hidd3n suite"), shown, "{rejects}");
        assert!(rejects.contains("403"), "{rejects}");
        // One that is allowed is judged by what came, not by what is kept.
        let ours = start().to_string().replace("Hidd3n suite", "ours");
        assert_eq!(server.post(ours).await.status(), 201);
    }
}

#[tokio::test]
async fn names_that_cannot_be_stop_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Process::command(folder.path());
    command.env("MEDIATALLY_PRIVACY__DROP", "media.*,visitor*,customMetadata");
    command.env("MEDIATALLY_PRIVACY__HASH", "visitor.*");
    let output = within(command.output()).await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = as_text(&String::from_utf8(output.stderr).unwrap());
    for expected in [
        "privacy.drop = [\"media.*\", \"visitor*\", \"customMetadata\"] (MEDIATALLY_PRIVACY__DROP): \"media.*\" names media.id",
        "\"customMetadata\" names nothing in it; write \"customMetadata.*\" for all of it",
        "\"visitor*\" is neither a key, nor a pattern",
        "(MEDIATALLY_PRIVACY__HASH): \"visitor.*\" names visitor.aamLocationHint, which is no text",
    ] {
        assert!(said.contains(expected), "{expected}\nin\n{said}");
    }
}

#[tokio::test]
async fn a_name_in_another_case_is_warned_about_and_one_that_is_not_listed_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let names = ("MEDIATALLY_PRIVACY__DROP", "analytics.visitorid,their.own");
    let warning = "privacy.drop: \"analytics.visitorid\" does not name analytics.visitorId";
    let mut command = Process::command(folder.path());
    let output = within(command.env(names.0, names.1).arg("check-config").output()).await.unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains(&format!("# warning: {warning}")), "{said}");
    let process = Process::start(folder.path(), &[names]).await;
    let told = process.seen.join("\n");
    assert!(told.contains(&warning.replace('"', "\\\"")), "{told}");
    assert!(told.contains("no documented parameter has") && told.contains("their.own"), "{told}");
    process.signal(Signal::INT);
    process.ended().await;
}

#[tokio::test]
async fn what_was_refused_is_not_kept_longer_than_it_may() {
    let server = TestServer::with(|config| config.rejects.retention = Duration::from_mins(1)).await;
    assert_eq!(server.post(r#"{"who":"Hidd3n"}"#).await.status(), 400);
    let file = server.folder.path().join("data/rejects/current.ndjson");
    until(|| std::fs::read_to_string(&file).is_ok_and(|text| text.contains(SECRET))).await;
    // Nothing comes any more; the time alone does it.
    server.set_clock(NOW_MS + 60_000).await;
    let rejects = server.folder.path().join("data/rejects");
    until(|| files(&rejects).is_empty()).await;
    let shown = server.client.get(server.admin_url("/rejects")).send().await.unwrap();
    assert!(!shown.text().await.unwrap().contains(SECRET));
}
