//! What one client may make the server write and hold, however much it says.

use std::collections::BTreeMap;
use std::path::Path;

use flate2::Compression;
use futures_util::future::join_all;
use reqwest::StatusCode;
use rustix::process::Signal;

use crate::downloaded::gzip;
use crate::harness::{Process, SAMPLE, client, files, until};
use crate::recovery::run_command;

/// Opens a session, and gives the path of its events.
async fn open(client: &reqwest::Client, process: &Process) -> String {
    let answer = client.post(process.url("/api/v1/sessions")).body(SAMPLE).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let id = answer.headers()["location"].to_str().unwrap().rsplit('/').next().unwrap();
    format!("/api/v1/sessions/{id}/events")
}

fn id_of(path: &str) -> &str {
    path.split('/').nth(4).unwrap()
}

fn event(event_type: &str, number: usize, name: &str) -> String {
    let ts = 1_700_000_000_000_u64 + u64::try_from(number).unwrap();
    format!(
        r#"{{"eventType":"{event_type}","playerTime":{{"ts":{ts},"playhead":0}},"params":{{
        "media.ad.podIndex":{number},"media.ad.podSecond":0,"media.ad.podFriendlyName":"{name}"}}}}"#
    )
}

/// Posts ad breaks with names of control characters, which are six times as long in a report as they are, and then
/// the end of the session.
async fn say_too_much(client: &reqwest::Client, process: &Process, path: &str, breaks: usize) {
    for number in 0..breaks {
        // Some are as long as an event may be, others as long as is kept.
        let characters = if number % 2 == 0 { 10_000 } else { 21_700 };
        let event = event("adBreakStart", number, &r"\u0001".repeat(characters));
        let body = gzip(&event, Compression::fast());
        assert!(body.len() < 1_000);
        let post = client.post(process.url(path)).header("content-encoding", "gzip").body(body);
        assert_eq!(post.send().await.unwrap().status(), 204);
    }
    let end = event("sessionEnd", breaks, "");
    let answer = client.post(process.url(path)).body(end).send().await.unwrap();
    assert_eq!(answer.status(), 204);
}

/// How many reports of a session the journal has.
fn reports(folder: &Path, id: &str) -> usize {
    let needle = format!("\"kind\":\"report\",\"sid\":\"{id}\"");
    let journal = files(&folder.join("data/journal")).into_iter();
    // For a moment a segment is there twice, compressed and not.
    let segments: BTreeMap<_, _> = journal
        .filter(|(name, _)| name.contains(".ndjson"))
        .map(|(name, bytes)| (name.trim_end_matches(".zst").to_owned(), bytes))
        .collect();
    let count = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).matches(&needle).count();
    segments.values().map(count).sum()
}

/// Runs a command of the program on the data folder in `folder`, which must succeed.
async fn succeeds(folder: &Path, arguments: &[&str]) {
    let (code, said) = run_command(folder, arguments).await;
    assert_eq!(code, Some(0), "{arguments:?}: {said}");
}

#[tokio::test]
async fn a_session_that_says_too_much_has_one_report_that_can_be_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let client = client();
    let process = Process::start(folder, &[]).await;
    let first = open(&client, &process).await;
    say_too_much(&client, &process, &first, 800).await;
    until(|| reports(folder, id_of(&first)) > 0).await;
    process.signal(Signal::KILL);
    process.ended().await;

    let process = Process::start(folder, &[]).await;
    assert_eq!(process.read_back["damaged"], 0);
    assert_eq!(reports(folder, id_of(&first)), 1);
    succeeds(folder, &["verify"]).await;
    let second = open(&client, &process).await;
    say_too_much(&client, &process, &second, 400).await;
    // Its report is written by the next start, or was just written.
    process.signal(Signal::KILL);
    process.ended().await;

    let process = Process::start(folder, &[]).await;
    until(|| reports(folder, id_of(&second)) > 0).await;
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.0.code(), Some(0));

    let process = Process::start(folder, &[]).await;
    assert_eq!(
        (&process.read_back["damaged"], &process.read_back["unreported"]),
        (&0.into(), &0.into())
    );
    assert_eq!(process.read_back["cut_bytes"], 0);
    for path in [&first, &second] {
        assert_eq!(reports(folder, id_of(path)), 1);
    }
    succeeds(folder, &["verify"]).await;
    succeeds(folder, &["backup", "backup"]).await;
    process.signal(Signal::INT);
    assert_eq!(process.ended().await.0.code(), Some(0));
}

/// What the server says that its live sessions hold, in bytes.
async fn live_bytes(client: &reqwest::Client, process: &Process) -> usize {
    let answer = client.get(process.admin_url("/metrics")).send().await.unwrap();
    let text = answer.text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("mediatally_live_bytes "));
    line.unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn live_sessions_never_hold_more_than_their_bound_and_a_restart_keeps_to_it() {
    const BYTES_MAX: usize = 4 << 20;
    let settings =
        [("MEDIATALLY_LIVE__BYTES_MAX", "4MiB"), ("MEDIATALLY_MEMORY__CLIENT_SHARE", "1.0")];
    let folder = tempfile::tempdir().unwrap();
    let client = client();
    let process = Process::start(folder.path(), &settings).await;
    let mut paths = Vec::new();
    for _ in 0..301 {
        paths.push(open(&client, &process).await);
    }
    let post = |path: &str, body: String| client.post(process.url(path)).body(body).send();
    let mut seen = Vec::new();
    let (mut number, mut refused) = (0, 0);
    // All at once, so that many are on their way when the bound is reached: first with large names, then with usual
    // ones, until these find no room either.
    for name_bytes in [30_000, 30_000, 100, 100, 100, 100, 100, 100] {
        number += 1;
        let posts = paths
            .iter()
            .map(|path| post(path, event("adBreakStart", number, &"a".repeat(name_bytes))));
        let (answers, bytes) = tokio::join!(join_all(posts), live_bytes(&client, &process));
        seen.extend([bytes, live_bytes(&client, &process).await]);
        for answer in answers.into_iter().map(Result::unwrap) {
            if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
                assert!(answer.headers().contains_key("retry-after"));
                refused += 1;
            } else {
                assert_eq!(answer.status(), 204);
            }
        }
    }
    assert!(refused > 301, "of {seen:?}");
    assert!(seen.iter().all(|bytes| *bytes <= BYTES_MAX), "{seen:?}");
    assert!(seen.iter().any(|bytes| *bytes > BYTES_MAX / 8 * 7), "{seen:?}");
    // Who ends makes room, so there is room for that.
    let ended = post(&paths[0], event("sessionEnd", number, "")).await.unwrap();
    assert_eq!(ended.status(), 204);
    let start = client.post(process.url("/api/v1/sessions")).body(SAMPLE).send();
    assert_eq!(start.await.unwrap().status(), 503, "no more begin");
    process.signal(Signal::KILL);
    process.ended().await;

    let process = Process::start(folder.path(), &settings).await;
    let bytes = live_bytes(&client, &process).await;
    assert!(bytes <= BYTES_MAX && bytes > BYTES_MAX / 2, "{bytes}");
    let posts = paths[1..].iter().map(|path| {
        let body = event("adBreakStart", number + 1, &"a".repeat(30_000));
        client.post(process.url(path)).body(body).send()
    });
    let (answers, during) = tokio::join!(join_all(posts), live_bytes(&client, &process));
    let after = live_bytes(&client, &process).await;
    assert!(during.max(after) <= BYTES_MAX, "{during} and {after}");
    let status = |answer: &reqwest::Response| answer.status();
    assert!(answers.iter().any(|answer| status(answer.as_ref().unwrap()) == 503));
    process.signal(Signal::INT);
    assert_eq!(process.ended().await.0.code(), Some(0));
}
