//! A machine whose time of day is wrong, as operators and players see it.

use mediatally::clock::{Clock, DOUBT_MS, EARLIEST_MS, FORWARD_AFTER_MS};
use serde_json::Value;

use crate::harness::{SAMPLE, TestServer, until};
use crate::metrics::Scrape;
use crate::recovery::run_command;

const DAY_MS: u64 = 24 * 3_600_000;

/// The true time at which these begin.
const TRUE_MS: u64 = EARLIEST_MS + 300 * DAY_MS;

async fn clock_series(server: &TestServer) -> [f64; 2] {
    let scrape = Scrape::of(&server.client, &server.admin_url("/metrics")).await;
    ["clock_off_seconds", "clock_doubted_seconds"].map(|name| scrape.get(name))
}

async fn started(server: &TestServer) -> String {
    let response = server.post(SAMPLE).await;
    assert_eq!(response.status(), 201);
    response.headers()["location"].to_str().unwrap().to_owned()
}

async fn assert_near(server: &TestServer, expected_days: [f64; 2]) {
    let found = clock_series(server).await;
    let near = |(found, days): (f64, f64)| (found - days * 86_400.0).abs() < 600.0;
    assert!(found.into_iter().zip(expected_days).all(near), "{found:?} is not {expected_days:?}");
}

#[tokio::test]
async fn a_clock_that_is_wrong_at_the_start_is_told_and_forgotten_once_it_is_set_right() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::on(folder, Clock::simulated(TRUE_MS), |_| {}).await;
    assert_near(&server, [0.0, 0.0]).await;
    let first = started(&server).await;
    let folder = server.stopped().await;

    let clock = Clock::simulated(TRUE_MS + 40 * DAY_MS);
    let server = TestServer::on(folder, clock.clone(), |_| {}).await;
    assert_near(&server, [0.0, 40.0]).await;
    let second = started(&server).await;
    clock.set_wall(TRUE_MS);
    started(&server).await;
    assert_near(&server, [-40.0, 40.0]).await;
    // It has held when the next record comes.
    clock.advance(FORWARD_AFTER_MS + 1_000);
    let third = started(&server).await;
    until(|| server.live().progress().set_back_ms > 0).await;
    assert_near(&server, [0.0, 0.0]).await;
    // All of them are live, are told of, and go on.
    for location in [&first, &second, &third] {
        let session: Value = server
            .client
            .get(server.admin_url(&location.replace("/api/v1", "")))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let at_ms = session["deadlines"][0]["at_ms"].as_u64().unwrap();
        assert!(at_ms > TRUE_MS && at_ms < TRUE_MS + DAY_MS, "by the time of now: {at_ms}");
        let event = r#"{"eventType":"ping","playerTime":{"playhead":1,"ts":1700000001000}}"#;
        let url = server.url(&format!("{location}/events"));
        let response = server.client.post(url).body(event).send().await.unwrap();
        assert_eq!(response.status(), 204);
        let records = server.admin_url(&format!("{}/events", location.replace("/api/v1", "")));
        let records = server.client.get(records).send().await.unwrap().text().await.unwrap();
        assert_eq!(records.lines().count(), 2, "{records}");
    }
    let folder = server.stopped().await;
    let (code, said) = run_command(folder.path(), &["verify"]).await;
    assert_eq!(code, Some(0), "{said}");
    let (_, records) = run_command(folder.path(), &["export", "--kind", "pause"]).await;
    assert_eq!(records.matches("\"set_back_ms\":34").count(), 1, "{records}");

    // The next start has nothing to say.
    let clock = Clock::simulated(clock.wall_ms());
    let server = TestServer::on(folder, clock, |_| {}).await;
    assert_near(&server, [0.0, 0.0]).await;
    assert_eq!(server.live().begun(), 4);
    server.stopped().await;
}

#[tokio::test]
async fn a_server_that_was_off_for_long_is_sure_of_its_clock_after_an_hour() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::on(folder, Clock::simulated(TRUE_MS), |_| {}).await;
    started(&server).await;
    let folder = server.stopped().await;
    let clock = Clock::simulated(TRUE_MS + 40 * DAY_MS);
    let server = TestServer::on(folder, clock.clone(), |_| {}).await;
    started(&server).await;
    assert_near(&server, [0.0, 40.0]).await;
    clock.advance(DOUBT_MS);
    started(&server).await;
    until(|| clock.doubted_ms() == 0).await;
    assert_near(&server, [0.0, 0.0]).await;
    server.stopped().await;
}

/// Whoever has asked too often is not locked out by a clock that is set back.
#[tokio::test]
async fn a_limit_goes_by_the_time_that_passes() {
    let clock = Clock::simulated(TRUE_MS);
    let server = TestServer::on(tempfile::tempdir().unwrap(), clock.clone(), |config| {
        config.limits.client_requests_per_second = 1;
        config.limits.client_burst = 2;
    })
    .await;
    started(&server).await;
    started(&server).await;
    assert_eq!(server.post(SAMPLE).await.status(), 429);
    clock.set_wall(TRUE_MS - 300 * DAY_MS);
    clock.advance(1_000);
    started(&server).await;
    clock.set_wall(TRUE_MS + 300 * DAY_MS);
    assert_eq!(server.post(SAMPLE).await.status(), 429);
    server.stopped().await;
}
