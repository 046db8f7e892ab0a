//! Sessions that players stored and send whole.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use mediatally::size::Size;
use mediatally::wire::STORED_EVENTS_MAX;
use reqwest::{Method, Response};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Process, SAMPLE, TestServer, client, until, within};

const DOWNLOADED: &str = "/api/v1/downloaded";
const SESSIONS: &str = "/api/v1/sessions";

/// A time-out that a test can wait for.
const SOON: Duration = Duration::from_millis(100);

/// The sample as the start of a stored session.
fn start() -> Value {
    let mut start: Value = serde_json::from_str(SAMPLE).unwrap();
    start["params"]["media.downloaded"] = json!(true);
    start
}

fn event(event_type: &str, second: u32) -> Value {
    let ts = 1_700_000_000_000_u64 + u64::from(second) * 1_000;
    json!({"eventType": event_type, "playerTime": {"playhead": second, "ts": ts}})
}

/// A session of half a minute.
fn stored() -> Value {
    json!([
        start(),
        event("play", 0),
        event("ping", 10),
        event("pauseStart", 20),
        event("sessionEnd", 30)
    ])
}

/// One of many that differ, so that none is taken for another that is sent again.
fn stored_number(number: usize) -> String {
    stored().to_string().replace("\"playhead\":10", &format!("\"playhead\":{}", number + 11))
}

/// A stored session, blown up with blanks between its events to exactly this many bytes.
fn stored_of(bytes: usize) -> String {
    let text = stored().to_string();
    let (begin, end) = text.split_at(text.rfind(",{").unwrap());
    format!("{begin}{}{end}", " ".repeat(bytes - text.len()))
}

pub(crate) fn gzip(text: &str, level: Compression) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

async fn post(server: &TestServer, path: &str, body: impl Into<reqwest::Body>) -> Response {
    server.client.post(server.url(path)).body(body).send().await.unwrap()
}

async fn post_gzip(server: &TestServer, path: &str, text: &str) -> Response {
    let request = server.client.post(server.url(path)).header("content-encoding", "gzip");
    request.body(gzip(text, Compression::best())).send().await.unwrap()
}

async fn status(server: &TestServer, path: &str, body: &Value) -> u16 {
    post(server, path, body.to_string()).await.status().as_u16()
}

fn location(response: &Response) -> &str {
    response.headers()["location"].to_str().unwrap()
}

/// The faults that an answer names: pointers and codes.
async fn violations(response: Response) -> Vec<(String, String)> {
    assert_eq!(response.status(), 400);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["message"], "Request had improper format.");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let listed = body["violations"].as_array().unwrap().iter();
    listed.map(|one| (text(&one["pointer"]), text(&one["code"]))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(pointer, code)| ((*pointer).to_owned(), (*code).to_owned())).collect()
}

/// What `mediatally export` writes of one kind, a line each.
async fn export(folder: &Path, kind: &str) -> Vec<Value> {
    let command = Process::command(folder).args(["export", "--kind", kind]).output();
    let output = within(command).await.unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until the reports of all sessions that have ended are in the journal.
async fn reports(server: &TestServer) -> Vec<Value> {
    until(|| server.live().unreported() == 0).await;
    export(server.folder.path(), "report").await
}

/// A request head for a body of so many bytes.
fn head(path: &str, more: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\n{more}content-length: {length}\r\n\r\n")
}

#[tokio::test]
async fn a_stored_session_gets_the_answer_of_a_start_and_is_over() {
    let server = TestServer::start().await;
    let mut answers = Vec::new();
    for (path, body) in [
        (SESSIONS, SAMPLE.to_owned()),
        (SESSIONS, stored().to_string()),
        (DOWNLOADED, stored_number(0)),
    ] {
        let mut raw = server.connect().await;
        raw.send(format!("{}{body}", head(path, "", body.len()))).await;
        let (head, body) = raw.answer().await.unwrap();
        assert_eq!(body, "");
        let (varying, mut lines): (Vec<_>, Vec<_>) = head
            .trim_end()
            .split("\r\n")
            .map(str::to_owned)
            .partition(|line| line.starts_with("location: ") || line.starts_with("date: "));
        assert_eq!(varying.len(), 2);
        assert_eq!(lines[0], "HTTP/1.1 201 Created");
        lines.sort_unstable();
        let place = varying.iter().find_map(|line| line.strip_prefix("location: ")).unwrap();
        answers.push((lines, place.to_owned()));
    }
    assert_eq!(answers[1].0, answers[0].0);
    assert_eq!(answers[2].0, answers[0].0);
    assert_eq!(server.live().sessions(), 1, "only the one that goes on");
    for (_, place) in &answers[1..] {
        let over = post(&server, &format!("{place}/events"), event("ping", 40).to_string()).await;
        assert_eq!(over.status(), 410);
    }
    let places: HashSet<_> = answers.iter().map(|(_, place)| place).collect();
    assert_eq!(places.len(), 3);
    let reports = reports(&server).await;
    assert_eq!(reports.len(), 2);
    for report in reports {
        assert_eq!(report["closeReason"], "downloaded");
        assert_eq!(report["metrics"]["isDownloaded"], true);
    }
    let kept = export(server.folder.path(), "batch").await;
    assert_eq!(kept.len(), 2);
    assert_eq!(kept[0]["body"], stored());
}

#[tokio::test]
async fn stored_content_says_so_where_an_array_is_not_expected() {
    let server = TestServer::start().await;
    let flagged = |flag: Value| {
        let mut start = start();
        start["params"]["media.downloaded"] = flag;
        start
    };
    let mut silent = start();
    silent["params"].as_object_mut().unwrap().remove("media.downloaded");
    let batch = |start: &Value| json!([start, event("play", 0)]);
    for (path, body, expected) in [
        (DOWNLOADED, batch(&flagged(json!(true))), 201),
        (DOWNLOADED, batch(&silent), 201),
        (DOWNLOADED, batch(&flagged(json!(false))), 400),
        (SESSIONS, batch(&flagged(json!(true))), 201),
        (SESSIONS, batch(&silent), 400),
        (SESSIONS, batch(&flagged(json!(false))), 400),
        (SESSIONS, silent.clone(), 201),
        (SESSIONS, flagged(json!(false)), 201),
        (SESSIONS, flagged(json!(true)), 400),
    ] {
        assert_eq!(status(&server, path, &body).await, expected, "{path} {body}");
    }
    let place = "/0/params/media.downloaded";
    let refused = post(&server, SESSIONS, batch(&silent).to_string()).await;
    assert_eq!(violations(refused).await, pairs(&[(place, "required")]));
    let refused = post(&server, SESSIONS, batch(&flagged(json!(false))).to_string()).await;
    assert_eq!(violations(refused).await, pairs(&[(place, "const")]));
    let refused = post(&server, SESSIONS, flagged(json!(true)).to_string()).await;
    assert_eq!(violations(refused).await, pairs(&[("/params/media.downloaded", "const")]));
}

#[tokio::test]
async fn one_violation_discards_the_whole_session_and_all_are_named() {
    let server = TestServer::start().await;
    let mut wrong = stored();
    wrong[0]["params"]["media.length"] = json!("60");
    wrong[2]["playerTime"] = json!({"playhead": -1, "ts": 1.5});
    wrong[3] = json!({"eventType": "adStart", "playerTime": {"playhead": 0, "ts": 0}, "params": {
        "media.ad.length": 15, "media.ad.podPosition": 1, "media.ad.playerName": "p"}});
    wrong[4] = json!([]);
    let expected = pairs(&[
        ("/0/params/media.length", "type"),
        ("/2/playerTime/playhead", "minimum"),
        ("/2/playerTime/ts", "type"),
        ("/3/params/media.ad.id", "required"),
        ("/4", "type"),
    ]);
    for path in [DOWNLOADED, SESSIONS] {
        let refused = post(&server, path, wrong.to_string()).await;
        assert_eq!(violations(refused).await, expected, "{path}");
    }
    let start = start().to_string();
    let ping = event("ping", 1).to_string();
    for (body, expected) in [
        (start.clone(), ("", "type")),
        ("7".to_owned(), ("", "type")),
        ("[]".to_owned(), ("", "minItems")),
        (String::new(), ("", "json")),
        ("[".to_owned(), ("", "json")),
        (format!("[{start},{ping}"), ("", "json")),
        (format!("[{start},{ping}],"), ("", "json")),
        (format!("[{start},{{\"a\":1e999}}]"), ("", "json")),
        (format!("\u{feff}[{start}]"), ("", "json")),
        (format!("[{ping},{start}]"), ("/0/eventType", "const")),
        (format!("[{start},{ping},{start}]"), ("/2/eventType", "enum")),
        ("[7]".to_owned(), ("/0", "type")),
        (format!("[{start},null]"), ("/1", "type")),
    ] {
        let refused = violations(post(&server, DOWNLOADED, body.clone()).await).await;
        assert_eq!(refused[0], pairs(&[expected])[0], "{body}");
    }
    let refused = violations(post(&server, SESSIONS, "[]").await).await;
    assert_eq!(refused, pairs(&[("", "minItems")]));
    assert_eq!((server.live().sessions(), server.live().bytes()), (0, 0));
    assert!(export(server.folder.path(), "batch").await.is_empty());
    assert!(reports(&server).await.is_empty());
}

#[tokio::test]
async fn what_is_refused_is_shown_to_the_operator() {
    let server = TestServer::start().await;
    let body = format!("[{},{}]", start(), "    7,".repeat(90_000) + "7");
    assert_eq!(post(&server, DOWNLOADED, body).await.status(), 400);
    let response = server.client.get(server.admin_url("/rejects")).send().await.unwrap();
    let rejects: Value = response.json().await.unwrap();
    let shown = &rejects["invalid"][0];
    assert_eq!(shown["path"], DOWNLOADED);
    assert_eq!(shown["violations"][0]["pointer"], "/1");
    assert!(shown["body_bytes"].as_u64().unwrap() > 400_000, "a large body is shown in part");
}

#[tokio::test]
async fn while_stored_sessions_wait_to_be_read_events_and_starts_go_on() {
    let server = TestServer::start().await;
    let parsing = server.collector().parsing();
    let mut slots = Vec::new();
    for _ in 0..parsing.slots_max() {
        slots.push(parsing.enter(None).await.unwrap());
    }
    // With HTTP/2 it is known at once that nobody waits for an answer any more.
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let send = |number| {
        let request = client.post(server.url(DOWNLOADED)).body(stored_number(number));
        tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
    };
    // So many of one client wait, if no others do.
    let mut waiting: Vec<_> = (0..16).map(send).collect();
    until(|| parsing.waiting() == 16).await;
    let refused = post(&server, DOWNLOADED, stored().to_string()).await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "10");
    assert!(refused.text().await.unwrap().contains("too many stored sessions wait"));
    let metrics = server.client.get(server.admin_url("/metrics")).send().await.unwrap();
    let shed = "{route=\"downloaded\",reason=\"stored\"} 1\n";
    assert!(metrics.text().await.unwrap().contains(shed));
    let started = server.post(SAMPLE).await;
    assert_eq!(started.status(), 201);
    let events = format!("{}/events", location(&started));
    assert_eq!(status(&server, &events, &event("play", 0)).await, 204);
    waiting.pop().unwrap().abort();
    until(|| parsing.waiting() == 15).await;
    waiting.push(send(16));
    until(|| parsing.waiting() == 16).await;
    drop(slots);
    for answer in waiting {
        assert_eq!(within(answer).await.unwrap(), 201);
    }
    assert_eq!(reports(&server).await.len(), 16, "who hung up while waiting left nothing");
}

#[tokio::test]
async fn only_an_array_may_be_larger_than_one_event() {
    let server = TestServer::with(|config| config.http.stored_bytes_max = Size::kib(512)).await;
    let large = stored_of(512 << 10);
    let object = format!("{SAMPLE}{}", " ".repeat((128 << 10) + 1 - SAMPLE.len()));
    for path in [DOWNLOADED, SESSIONS] {
        assert_eq!(post(&server, path, large.clone()).await.status(), 201, "{path}");
        assert_eq!(post_gzip(&server, path, &large).await.status(), 201, "{path}");
        let refused = post(&server, path, stored_of((512 << 10) + 1)).await;
        assert_eq!(refused.status(), 413);
        assert!(refused.text().await.unwrap().contains("larger than 512KiB"));
        let refused = post_gzip(&server, path, &stored_of((512 << 10) + 1)).await;
        assert_eq!(refused.status(), 413);
        assert!(refused.text().await.unwrap().contains("larger than 512KiB"));
    }
    let events = format!("{}/events", location(&server.post(SAMPLE).await));
    for path in [SESSIONS, &events] {
        let refused = post(&server, path, object.clone()).await;
        assert_eq!(refused.status(), 413, "{path}");
        assert!(refused.text().await.unwrap().contains("larger than 128KiB"));
        let refused = post_gzip(&server, path, &object).await;
        assert_eq!(refused.status(), 413, "{path}");
        assert!(refused.text().await.unwrap().contains("larger than 128KiB"));
    }
    assert_eq!(post(&server, &events, large).await.status(), 413, "an array is no event");
    assert_eq!(violations(post(&server, DOWNLOADED, object).await).await, pairs(&[("", "type")]));
}

#[tokio::test]
async fn what_a_body_is_shows_whatever_the_pieces_that_it_comes_in() {
    let server = TestServer::with(|config| config.http.stored_bytes_max = Size::kib(512)).await;
    let chunked = async |more: &str, pieces: &[&[u8]]| {
        let mut raw = server.connect().await;
        raw.send(format!(
            "POST {SESSIONS} HTTP/1.1\r\nhost: x\r\n{more}transfer-encoding: chunked\r\n\r\n"
        ))
        .await;
        for piece in pieces {
            raw.send(format!("{:x}\r\n", piece.len())).await;
            raw.send(piece).await;
            raw.send("\r\n").await;
        }
        raw.send("0\r\n\r\n").await;
        let (head, _) = raw.answer().await.unwrap();
        head["HTTP/1.1 ".len()..][..3].to_owned()
    };
    let large = stored_of(300 << 10);
    let text = large.as_bytes();
    assert_eq!(chunked("", &[b" ", b"\r\n\t", &text[..1], &text[1..]]).await, "201");
    assert_eq!(chunked("", &text.chunks(50_000).collect::<Vec<_>>()).await, "201");
    let blank = vec![b' '; 128 << 10];
    assert_eq!(chunked("", &[&blank, text]).await, "201");
    assert_eq!(chunked("", &[&blank, b" ", text]).await, "413", "blanks alone are no array");
    assert_eq!(chunked("", &[b" ", SAMPLE.as_bytes(), &blank]).await, "413", "an object");
    assert_eq!(chunked("", &[text, &blank, &blank]).await, "413");
    let encoded = "content-encoding: gzip\r\n";
    let packed = gzip(&large, Compression::fast());
    assert_eq!(chunked(encoded, &packed.chunks(1).collect::<Vec<_>>()).await, "201");
    let unpacked = gzip(&large, Compression::none());
    assert_eq!(chunked(encoded, &unpacked.chunks(9_000).collect::<Vec<_>>()).await, "201");
    for encoded in ["", "content-encoding: identity\r\n"] {
        let byte_by_byte: Vec<_> = packed.chunks(1).collect();
        assert_eq!(
            chunked(encoded, &byte_by_byte).await,
            "201",
            "its first bytes say that it is gzip"
        );
        assert_eq!(chunked(encoded, &[&packed]).await, "201");
        assert_eq!(chunked(encoded, &unpacked.chunks(9_000).collect::<Vec<_>>()).await, "201");
        assert_eq!(chunked(encoded, &[&packed[..packed.len() - 1]]).await, "400");
    }
    let two = [gzip(&large[..9], Compression::fast()), gzip(&large[9..], Compression::none())];
    assert_eq!(chunked(encoded, &[&two.concat()]).await, "201", "gzip may have several members");
    let empty = gzip("", Compression::fast());
    let with_empty = |count: usize| [empty.repeat(count), packed.clone()].concat();
    assert_eq!(chunked(encoded, &[&with_empty(15)]).await, "201");
    assert_eq!(chunked(encoded, &[&with_empty(16)]).await, "400", "each costs time");
    for broken in [&packed[..packed.len() - 1], &packed[..5], b"", &[&packed[..], b"x"].concat()] {
        assert_eq!(
            chunked(encoded, &[broken, b""][..usize::from(!broken.is_empty())]).await,
            "400"
        );
    }
}

#[tokio::test]
async fn a_bomb_is_let_go_in_either_form() {
    let server = TestServer::start().await;
    let blank = " ".repeat(32 << 20);
    for (path, text) in [
        (DOWNLOADED, blank.clone()),
        (SESSIONS, blank.clone()),
        (DOWNLOADED, format!("[{blank}")),
        (SESSIONS, format!("[{blank}")),
    ] {
        assert_eq!(post_gzip(&server, path, &text).await.status(), 413);
    }
}

#[tokio::test]
async fn a_stored_session_has_at_most_a_hundred_thousand_events() {
    let server = TestServer::start().await;
    let mut body = format!("[{}", start());
    for _ in 1..=STORED_EVENTS_MAX {
        body.push_str(r#",{"eventType":"ping","playerTime":{"playhead":0,"ts":0}}"#);
    }
    body.push(']');
    let refused = post(&server, DOWNLOADED, body).await;
    assert_eq!(refused.status(), 413);
    let answer: Value = refused.json().await.unwrap();
    assert_eq!(answer, json!({"message": "a stored session has at most 100000 events"}));
    assert_eq!((server.live().sessions(), server.live().bytes()), (0, 0));
}

#[tokio::test]
async fn only_an_array_may_take_the_longer_time() {
    let server = TestServer::with(|config| {
        config.http.body_timeout = SOON;
        config.http.stored_timeout = SOON * 3;
    })
    .await;
    let array = stored().to_string();
    let encoded = "content-encoding: gzip\r\n";
    let packed = |text: &str| gzip(text, Compression::none());
    for (path, more, body, time) in [
        (SESSIONS, "", SAMPLE.as_bytes().to_vec(), "100 ms"),
        (SESSIONS, "", array.clone().into_bytes(), "300 ms"),
        (DOWNLOADED, "", array.clone().into_bytes(), "300 ms"),
        (DOWNLOADED, "", vec![b' '; 100], "100 ms"),
        (SESSIONS, encoded, packed(SAMPLE), "100 ms"),
        (SESSIONS, encoded, packed(&array), "300 ms"),
    ] {
        let mut raw = server.connect().await;
        raw.send(head(path, more, body.len())).await;
        raw.send(&body[..body.len() - 9]).await;
        let (head, said) = raw.answer().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
        assert!(said.contains(&format!("within {time}")), "{path} {more} {said}");
        assert_eq!(raw.closed().await, "");
    }
    let mut silent = server.connect().await;
    silent.send(head(DOWNLOADED, "", 1_000)).await;
    assert!(silent.answer().await.unwrap().1.contains("within 100 ms"));
}

#[tokio::test]
async fn an_array_that_takes_longer_than_an_event_may_is_taken() {
    let server = TestServer::with(|config| config.http.body_timeout = SOON).await;
    let body = stored().to_string();
    for path in [SESSIONS, DOWNLOADED] {
        let mut raw = server.connect().await;
        raw.send(head(path, "", body.len())).await;
        raw.send(&body[..50]).await;
        tokio::time::sleep(SOON * 2).await;
        raw.send(&body[50..]).await;
        assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
    }
}

#[tokio::test]
async fn the_memory_of_bodies_that_arrive_is_bounded() {
    let server = TestServer::with(|config| {
        config.http.stored_bytes_max = Size::mib(1);
        config.http.bodies_bytes_max = Size::mib(1);
        // All of them come from one client.
        config.memory.client_share = 1.0;
    })
    .await;
    let body = stored_of(600 << 10);
    // Who only says that much will follow takes no more room than one event may.
    let mut idle = server.connect().await;
    idle.send(head(DOWNLOADED, "", 1 << 20)).await;
    idle.send("[").await;
    // And a packed body takes what has come of it, whatever it unpacks to.
    let packed = gzip(&body, Compression::best());
    let mut stalled = server.connect().await;
    stalled.send(head(DOWNLOADED, "content-encoding: gzip\r\n", packed.len())).await;
    stalled.send(&packed[..packed.len() - 1]).await;
    assert_eq!(post(&server, DOWNLOADED, body.clone()).await.status(), 201);
    let begin = async || {
        let mut raw = server.connect().await;
        raw.send(head(DOWNLOADED, "", body.len())).await;
        raw.send(&body.as_bytes()[..body.len() - 1]).await;
        raw
    };
    let mut slow = begin().await;
    let refused = within(async {
        loop {
            // If both are read at the same time, either may be the one that finds no room.
            if tokio::time::timeout(SOON, slow.answer()).await.is_ok() {
                slow = begin().await;
                continue;
            }
            let response = post(&server, DOWNLOADED, body.clone()).await;
            if response.status() != 201 {
                return response;
            }
        }
    })
    .await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "10");
    assert_eq!(post_gzip(&server, SESSIONS, &body).await.status(), 503);
    assert_eq!(server.post(SAMPLE).await.status(), 201, "a small body takes no room");
    assert_eq!(status(&server, DOWNLOADED, &stored()).await, 201);
    slow.send(&body.as_bytes()[body.len() - 1..]).await;
    assert!(slow.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
    // What a body took it gives back.
    assert_eq!(post(&server, DOWNLOADED, body.clone()).await.status(), 201);
    stalled.send(&packed[packed.len() - 1..]).await;
    assert!(stalled.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
}

#[tokio::test]
async fn the_memory_of_live_sessions_bounds_stored_ones_too() {
    let server = TestServer::with(|config| {
        config.live.bytes_max = Size::mib(1);
        config.memory.client_share = 1.0;
    })
    .await;
    // What the session holds in the end counts, not what came: the ids of its ads are in its report.
    let mut ad_break = event("adBreakStart", 0);
    ad_break["params"] = json!({"media.ad.podIndex": 1, "media.ad.podSecond": 0});
    let mut body = format!("[{},{ad_break}", start());
    for number in 0..900 {
        let ad = json!({"media.ad.id": "a".repeat(1_500), "media.ad.length": 1,
            "media.ad.podPosition": 1, "media.ad.playerName": "p"});
        for (event_type, params) in [("adStart", ad), ("adComplete", json!({}))] {
            let time = json!({"playhead": 0, "ts": number});
            let event = json!({"eventType": event_type, "playerTime": time, "params": params});
            write!(body, ",{event}").unwrap();
        }
    }
    body.push(']');
    let refused = post(&server, DOWNLOADED, body).await;
    assert_eq!(refused.status(), 503);
    assert_eq!((server.live().sessions(), server.live().bytes()), (0, 0));
    assert_eq!(status(&server, DOWNLOADED, &stored()).await, 201);
}

#[tokio::test]
async fn the_path_takes_a_slash_a_preflight_and_nothing_but_posts() {
    let server = TestServer::start().await;
    assert_eq!(status(&server, "/api/v1/downloaded/", &stored()).await, 201);
    assert_eq!(status(&server, "/api/v1/sessions/", &stored()).await, 201);
    for path in [DOWNLOADED, "/api/v1/downloaded/"] {
        let request = server.client.request(Method::OPTIONS, server.url(path));
        let granted = request.send().await.unwrap();
        assert_eq!(granted.status(), 204);
        assert_eq!(granted.headers()["access-control-max-age"], "86400");
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let request = server.client.request(method, server.url(path));
            let refused = request.send().await.unwrap();
            assert_eq!(refused.status(), 405);
            assert_eq!(refused.headers()["allow"], "POST,OPTIONS");
            assert_eq!(refused.headers()["access-control-allow-origin"], "*");
        }
    }
    let request = server.client.post(server.url(DOWNLOADED)).header("content-encoding", "br");
    assert_eq!(request.body(stored().to_string()).send().await.unwrap().status(), 415);
}

#[tokio::test]
async fn after_kill_9_each_stored_session_has_its_one_report() {
    let folder = tempfile::tempdir().unwrap();
    let large = stored_of(3 << 20);
    let mut process = Process::start(folder.path(), &[]).await;
    let mut ids = HashSet::new();
    for round in 0..4 {
        // Its report may be written before the process is killed, or not.
        for body in [stored().to_string(), large.clone()] {
            let path = if round % 2 == 0 { DOWNLOADED } else { SESSIONS };
            let response = client().post(process.url(path)).body(body).send().await.unwrap();
            assert_eq!(response.status(), 201);
            ids.insert(location(&response).rsplit('/').next().unwrap().to_owned());
        }
        process.signal(Signal::KILL);
        process.ended().await;
        process = Process::start(folder.path(), &[]).await;
        within(async { while export(folder.path(), "report").await.len() < ids.len() {} }).await;
    }
    for id in &ids {
        let url = process.url(&format!("/api/v1/sessions/{id}/events"));
        let request = client().post(url).body(event("ping", 40).to_string());
        assert_eq!(request.send().await.unwrap().status(), 410);
    }
    process.signal(Signal::INT);
    assert_eq!(process.ended().await.0.code(), Some(0));
    let verified = within(Process::command(folder.path()).arg("verify").output()).await.unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let reports = export(folder.path(), "report").await;
    assert_eq!(reports.len(), ids.len(), "one each");
    for report in &reports {
        assert!(ids.contains(report["sessionId"].as_str().unwrap()), "{report}");
        assert_eq!(report["closeReason"], "downloaded");
        assert_eq!(report["metrics"]["isDownloaded"], true);
    }
}

#[tokio::test]
async fn a_stored_session_that_is_sent_again_is_answered_with_the_first_and_kept_once() {
    let server = TestServer::start().await;
    let text = stored().to_string();
    let first = post(&server, DOWNLOADED, text.clone()).await;
    let first = location(&first).to_owned();
    let again = async |body: String| location(&post(&server, DOWNLOADED, body).await).to_owned();
    assert_eq!(again(text.clone()).await, first);
    assert_eq!(again(format!(" {text}\n")).await, first, "as the journal has it");
    let packed = post_gzip(&server, SESSIONS, &text).await;
    assert_eq!((packed.status().as_u16(), location(&packed)), (201, &*first), "however it came");
    assert_ne!(again(text.replace("\"playhead\":10", "\"playhead\":11")).await, first);
    server.clock.advance(3_600_000);
    assert_eq!(again(text.clone()).await, first, "an hour later");
    server.clock.advance(1);
    assert_ne!(again(text).await, first);
    assert_eq!(reports(&server).await.len(), 3);
    assert_eq!(export(server.folder.path(), "batch").await.len(), 3);
}

#[tokio::test]
async fn two_that_are_sent_at_once_are_one() {
    let server = TestServer::start().await;
    let text = stored_of(1 << 20);
    let posts = (0..8).map(|_| post(&server, DOWNLOADED, text.clone()));
    let answers = futures_util::future::join_all(posts).await;
    let locations: HashSet<_> = answers.iter().map(location).collect();
    assert!(answers.iter().all(|answer| answer.status() == 201));
    assert_eq!(locations.len(), 1);
    assert_eq!(reports(&server).await.len(), 1);
}

#[tokio::test]
async fn a_stored_session_is_known_again_after_a_restart_until_it_is_erased() {
    let folder = tempfile::tempdir().unwrap();
    let text = stored().to_string();
    let post = async |process: &Process| {
        let url = process.url(DOWNLOADED);
        let answer = client().post(url).body(text.clone()).send().await.unwrap();
        assert_eq!(answer.status(), 201);
        location(&answer).to_owned()
    };
    let process = Process::start(folder.path(), &[]).await;
    let first = post(&process).await;
    // From its record, and then from a checkpoint.
    process.signal(Signal::KILL);
    process.ended().await;
    for _ in 0..2 {
        let process = Process::start(folder.path(), &[]).await;
        assert_eq!(post(&process).await, first);
        process.signal(Signal::INT);
        process.ended().await;
    }
    let id = first.rsplit('/').next().unwrap();
    let command =
        Process::command(folder.path()).args(["erase", "--yes", "--session", id]).output();
    let output = within(command).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let process = Process::start(folder.path(), &[]).await;
    assert_ne!(post(&process).await, first);
    process.signal(Signal::INT);
    process.ended().await;
}
