//! Events of a session: what is taken, what is refused, and when a session is over.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use mediatally::journal::checkpoint;
use mediatally::session::id::{Key, SessionId};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::harness::{NOW_MS, Process, SAMPLE, TestServer, client};

/// An event that was stamped `ms` after the start of the test.
fn event(event_type: &str, ms: u64, playhead: f64) -> Value {
    json!({"eventType": event_type, "playerTime": {"ts": NOW_MS + ms, "playhead": playhead}})
}

fn with_params(event_type: &str, params: Value) -> Value {
    let mut event = event(event_type, 0, 0.0);
    event["params"] = params;
    event
}

/// Starts a session; gives its location.
async fn start(server: &TestServer) -> String {
    let response = server.post(SAMPLE).await;
    assert_eq!(response.status(), 201);
    response.headers()["location"].to_str().unwrap().to_owned()
}

async fn post(server: &TestServer, location: &str, body: &Value) -> Response {
    let url = server.url(&format!("{location}/events"));
    server.client.post(url).body(body.to_string()).send().await.unwrap()
}

async fn status(server: &TestServer, location: &str, body: &Value) -> u16 {
    post(server, location, body).await.status().as_u16()
}

/// A session as a checkpoint has it.
fn saved(server: &TestServer, location: &str) -> Value {
    let id = location.rsplit('/').next().unwrap();
    let text = String::from_utf8(checkpoint::to_bytes(server.live())).unwrap();
    let line = text.lines().find(|line| line.starts_with("{\"sid\"") && line.contains(id));
    serde_json::from_str::<Value>(line.expect("the session is live")).unwrap()["session"].take()
}

#[tokio::test]
async fn an_event_gets_204_without_a_body() {
    let server = TestServer::start().await;
    let location = start(&server).await;
    let body = event("play", 0, 0.0).to_string();
    let length = body.len();
    let mut raw = server.connect().await;
    raw.send(format!(
        "POST {location}/events HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}"
    ))
    .await;
    let (head, body) = raw.answer().await.unwrap();
    assert_eq!(body, "");
    let mut lines = head.trim_end().split("\r\n");
    assert_eq!(lines.next(), Some("HTTP/1.1 204 No Content"));
    let mut names: Vec<_> = lines.map(|line| line.split_once(": ").unwrap().0).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "access-control-allow-headers",
            "access-control-allow-methods",
            "access-control-allow-origin",
            "access-control-expose-headers",
            "date",
        ]
    );
}

#[tokio::test]
async fn each_documented_event_type_is_taken() {
    let server = TestServer::start().await;
    let location = start(&server).await;
    let ad = json!({"media.ad.id": "ad", "media.ad.length": 15, "media.ad.podPosition": 1,
        "media.ad.playerName": "player"});
    let chapter = json!({"media.chapter.index": 1, "media.chapter.offset": 0,
        "media.chapter.length": 60});
    let state = json!({"media.state.name": "fullScreen"});
    let events = [
        event("play", 0, 0.0),
        event("ping", 1, 0.5),
        event("bufferStart", 2, 0.5),
        event("pauseStart", 3, 0.5),
        event("bitrateChange", 4, 0.5),
        event("error", 5, 0.5),
        with_params("adBreakStart", json!({"media.ad.podIndex": -1, "media.ad.podSecond": 0})),
        with_params("adStart", ad),
        event("adComplete", 6, 0.5),
        event("adSkip", 7, 0.5),
        event("adBreakComplete", 8, 0.5),
        with_params("chapterStart", chapter),
        event("chapterComplete", 9, 0.5),
        event("chapterSkip", 10, 0.5),
        with_params("stateStart", state.clone()),
        with_params("stateEnd", state),
        with_params("statesUpdate", json!({"statesStart": [{"media.state.name": "mute"}]})),
        event("sessionComplete", 11, 60.333_333_333_333_3),
        event("sessionEnd", 12, 60.333_333_333_333_3),
    ];
    for event in &events {
        assert_eq!(status(&server, &location, event).await, 204, "{event}");
    }
    let refused = post(&server, &location, &serde_json::from_str(SAMPLE).unwrap()).await;
    assert_eq!(refused.status(), 400);
    let refused: Value = refused.json().await.unwrap();
    assert_eq!(refused["violations"][0]["pointer"], "/eventType");
    assert_eq!(refused["violations"][0]["code"], "enum");
}

#[tokio::test]
async fn a_refused_event_is_told_why_and_leaves_no_trace() {
    let server = TestServer::start().await;
    let location = start(&server).await;
    let before = saved(&server, &location);
    let body = r#"{"eventType":"adStart","playerTime":{"playhead":-1},"params":{"media.ad.Id":"x",
        "media.ad.length":"15","media.ad.podPosition":1.5,"media.ad.playerName":"p"}}"#;
    let url = server.url(&format!("{location}/events"));
    let response = server.client.post(url).body(body).send().await.unwrap();
    assert_eq!(response.status(), 400);
    let answer: Value = response.json().await.unwrap();
    assert_eq!(
        answer["violations"],
        json!([
            {"pointer": "/playerTime/playhead", "code": "minimum",
             "message": "expected at least 0, got -1"},
            {"pointer": "/playerTime/ts", "code": "required",
             "message": "required: the player's clock, in milliseconds since 1970 (UTC)"},
            {"pointer": "/params/media.ad.length", "code": "type",
             "message": "expected number, got string"},
            {"pointer": "/params/media.ad.podPosition", "code": "type",
             "message": "expected integer, got 1.5"},
            {"pointer": "/params/media.ad.id", "code": "required",
             "message": "required on adStart: Ad id (a server set to validation.profile = \"open\" \
                         does not require it); is \"media.ad.Id\" meant to be it?"},
        ])
    );
    assert_eq!(saved(&server, &location), before);
}

#[tokio::test]
async fn an_id_that_was_never_given_out_is_404_and_one_of_a_session_that_is_over_410() {
    let server = TestServer::start().await;
    let location = start(&server).await;
    let ping = event("ping", 0, 0.0);
    let id = location.rsplit('/').next().unwrap();
    let other_key = SessionId::mint(&Key::new([9; 32]), NOW_MS, [1; 10]).to_string();
    let mut forged = id.to_owned().into_bytes();
    forged[63] = if forged[63] == b'0' { b'1' } else { b'0' };
    let forged = String::from_utf8(forged).unwrap();
    for unknown in [&other_key, &forged, &id.to_uppercase(), "xyz", "%20", "%FF", &id[1..]] {
        let path = format!("/api/v1/sessions/{unknown}");
        let response = post(&server, &path, &ping).await;
        assert_eq!(response.status(), 404, "{unknown}");
        let answer: Value = response.json().await.unwrap();
        assert!(answer["message"].as_str().unwrap().contains("nobody knows this session"));
    }
    server.clock.advance(600_000);
    server.close_due().await;
    assert_eq!(server.live().sessions(), 0);
    let response = post(&server, &location, &ping).await;
    assert_eq!(response.status(), 410);
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    let answer: Value = response.json().await.unwrap();
    assert!(answer["message"].as_str().unwrap().contains("POST /api/v1/sessions"));
}

#[tokio::test]
async fn checks_come_in_the_documented_order() {
    let server = TestServer::start().await;
    let nobody = "/api/v1/sessions/nobody";
    let url = server.url(&format!("{nobody}/events"));
    let send = async |request: reqwest::RequestBuilder| {
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.headers().get("allow").cloned())
    };
    let (code, allow) = send(server.client.request(Method::GET, &url)).await;
    assert_eq!((code, allow.unwrap().to_str().unwrap()), (405, "POST,OPTIONS"));
    let packed = server.client.post(&url).header("content-encoding", "br").body("{}");
    assert_eq!(send(packed).await.0, 415);
    let large = server.client.post(&url).body(vec![b' '; (128 << 10) + 1]);
    assert_eq!(send(large).await.0, 413);
    assert_eq!(status(&server, nobody, &json!({})).await, 400);
    assert_eq!(status(&server, nobody, &event("ping", 0, 0.0)).await, 404);
    let preflight = server.client.request(Method::OPTIONS, &url);
    assert_eq!(send(preflight).await.0, 204);
}

#[tokio::test]
async fn a_trailing_slash_and_a_packed_body_are_taken() {
    let server = TestServer::start().await;
    let location = start(&server).await;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(event("play", 0, 0.0).to_string().as_bytes()).unwrap();
    let request = server.client.post(server.url(&format!("{location}/events/")));
    let packed = encoder.finish().unwrap();
    let request = request.header("content-encoding", "gzip").body(packed.clone());
    assert_eq!(request.send().await.unwrap().status(), 204);
    let base = server.client.post(server.url("//api//v1/sessions//")).body(SAMPLE);
    assert_eq!(base.send().await.unwrap().status(), 201, "a base address that ends in a slash");
    let events = server.url(&format!("/{location}//events//"));
    let request = server.client.post(events).body(event("play", 1, 0.0).to_string());
    assert_eq!(request.send().await.unwrap().status(), 204);
    // A beacon cannot have a head that says so.
    let request = server.client.post(server.url(&format!("{location}/events"))).body(packed);
    assert_eq!(request.send().await.unwrap().status(), 204);
}

#[tokio::test]
async fn ten_minutes_without_an_event_end_a_session_and_the_instant_is_over() {
    let server = TestServer::start().await;
    let location = start(&server).await;
    server.clock.advance(599_999);
    assert_eq!(status(&server, &location, &event("ping", 599_999, 1.0)).await, 204);
    server.clock.advance(599_999);
    assert_eq!(status(&server, &location, &json!({})).await, 400, "a refusal extends nothing");
    server.clock.advance(1);
    assert_eq!(status(&server, &location, &event("ping", 1_200_000, 2.0)).await, 410);
}

#[tokio::test]
async fn half_an_hour_without_a_change_of_the_playhead_ends_a_session() {
    let server = TestServer::start().await;
    let location = start(&server).await;
    for minute in (9..30).step_by(9) {
        server.clock.advance(9 * 60_000);
        let ping = event("ping", minute * 60_000, 0.000_9);
        assert_eq!(status(&server, &location, &ping).await, 204);
    }
    server.clock.advance(3 * 60_000);
    assert_eq!(status(&server, &location, &event("ping", 30 * 60_000, 5.0)).await, 410);
}

#[tokio::test]
async fn a_session_ends_with_its_life_and_settings_say_when() {
    let server = TestServer::with(|config| {
        config.session.age_max = std::time::Duration::from_mins(1);
        config.session.no_events_timeout = std::time::Duration::from_secs(45);
    })
    .await;
    let (first, second) = (start(&server).await, start(&server).await);
    server.clock.advance(44_000);
    assert_eq!(status(&server, &first, &event("ping", 44_000, 1.0)).await, 204);
    server.clock.advance(1_000);
    assert_eq!(status(&server, &second, &event("ping", 45_000, 1.0)).await, 410);
    server.clock.advance(14_999);
    assert_eq!(status(&server, &first, &event("ping", 59_999, 2.0)).await, 204);
    server.clock.advance(1);
    assert_eq!(status(&server, &first, &event("ping", 60_000, 3.0)).await, 410);
}

#[tokio::test]
async fn after_session_end_only_siblings_are_taken_for_half_a_second() {
    let server = TestServer::start().await;
    let location = start(&server).await;
    let end = event("sessionEnd", 1_000, 1.0);
    assert_eq!(status(&server, &location, &event("play", 900, 0.0)).await, 204);
    assert_eq!(status(&server, &location, &end).await, 204);
    assert_eq!(status(&server, &location, &event("sessionComplete", 1_000, 1.0)).await, 204);
    assert_eq!(status(&server, &location, &event("ping", 1_001, 1.0)).await, 410);
    assert_eq!(status(&server, &location, &end).await, 410, "a second end");
    server.clock.advance(499);
    assert_eq!(status(&server, &location, &event("ping", 500, 1.0)).await, 204);
    server.clock.advance(1);
    assert_eq!(status(&server, &location, &event("ping", 501, 1.0)).await, 410);
    server.close_due().await;
    assert_eq!(server.live().sessions(), 0);
    assert_eq!(status(&server, &location, &event("ping", 502, 1.0)).await, 410);
}

#[tokio::test]
async fn events_in_any_order_over_many_connections_come_to_the_same_state() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let ad = json!({"media.ad.id": "ad", "media.ad.length": 15, "media.ad.podPosition": 1,
        "media.ad.playerName": "player"});
    // Libraries stamp what belongs together alike, and post it in parallel.
    let stamped = |second: u64, event_type: &str, params: Option<&Value>| {
        let mut event = event(event_type, second * 1_000, 0.0);
        event["playerTime"]["playhead"] = json!(second);
        if let Some(params) = params {
            event["params"] = params.clone();
        }
        event
    };
    let pod = json!({"media.ad.podIndex": 1, "media.ad.podSecond": 10});
    let bursts = [
        vec![
            stamped(1, "play", None),
            stamped(2, "pauseStart", None),
            stamped(3, "play", None),
            stamped(4, "adBreakStart", Some(&pod)),
            stamped(4, "adStart", Some(&ad)),
        ],
        vec![
            stamped(9, "adComplete", None),
            stamped(9, "adStart", Some(&ad)),
            stamped(11, "pauseStart", None),
            stamped(12, "play", None),
            stamped(13, "adSkip", None),
            stamped(13, "adBreakComplete", None),
            stamped(14, "bufferStart", None),
        ],
        vec![stamped(20, "ping", None)],
    ];
    for _ in 0..8 {
        let server = TestServer::start().await;
        let location = start(&server).await;
        for burst in &bursts {
            let mut burst = burst.clone();
            burst.shuffle(&mut random);
            if random.random_bool(0.5) {
                // A client that heard no answer says it again.
                burst.push(burst[0].clone());
            }
            let posting = burst.iter().map(|event| async {
                // A client of its own is a connection of its own.
                let url = server.url(&format!("{location}/events"));
                let posted = client().post(url).body(event.to_string()).send().await.unwrap();
                assert_eq!(posted.status(), 204);
            });
            futures_util::future::join_all(posting).await;
            server.clock.advance(5_000);
        }
        let saved = saved(&server, &location);
        assert_eq!(saved["counts"]["events"], 13, "the start and two bursts: {saved}");
        assert_eq!(saved["counts"]["late"].as_u64().unwrap_or(0), 0);
        assert_eq!(saved["state"]["main"], "buffering", "{saved}");
        assert_eq!(saved["state"]["break_is_open"], Value::Null, "what is not is left out");
    }
}

#[tokio::test]
async fn what_is_refused_is_shown_to_the_operator() {
    let server = TestServer::start().await;
    let location = start(&server).await;
    assert_eq!(status(&server, &location, &json!({"eventType": "pley"})).await, 400);
    let nobody = "/api/v1/sessions/nobody";
    assert_eq!(status(&server, nobody, &event("ping", 0, 0.0)).await, 404);
    let response = server.client.get(server.admin_url("/rejects")).send().await.unwrap();
    let rejects: Value = response.json().await.unwrap();
    assert_eq!(rejects["invalid"][0]["path"], format!("{location}/events"));
    assert_eq!(rejects["gone"][0]["status"], 404);
    assert_eq!(rejects["gone_skipped"], 0);
}

#[tokio::test]
async fn a_restart_goes_on_with_open_sessions_and_knows_those_that_are_over() {
    let folder = tempfile::tempdir().unwrap();
    let begin = async |process: &Process| {
        let response = client().post(process.url("/api/v1/sessions")).body(SAMPLE).send().await;
        response.unwrap().headers()["location"].to_str().unwrap().to_owned()
    };
    let send = async |process: &Process, location: &str, event: Value| {
        let url = process.url(&format!("{location}/events"));
        client().post(url).body(event.to_string()).send().await.unwrap().status().as_u16()
    };
    let process = Process::start(folder.path(), &[]).await;
    let (open, over) = (begin(&process).await, begin(&process).await);
    assert_eq!(send(&process, &open, event("play", 10, 0.0)).await, 204);
    assert_eq!(send(&process, &over, event("sessionEnd", 10, 0.0)).await, 204);
    process.signal(rustix::process::Signal::INT);
    process.ended().await;
    for _ in 0..2 {
        let process = Process::start(folder.path(), &[]).await;
        assert_eq!(send(&process, &open, event("ping", 20, 1.0)).await, 204);
        assert_eq!(send(&process, &over, event("ping", 20, 1.0)).await, 410);
        process.signal(rustix::process::Signal::KILL);
        process.ended().await;
    }
}
