//! How often one may ask, for whom sessions are collected, and who a request is from.

use std::path::Path;

use mediatally::config::Config;
use mediatally::http::forwarded::Header;
use mediatally::journal::disk::Folder;
use mediatally::journal::segment;
use mediatally::privacy::ClientAddress;
use reqwest::{Method, Response};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{NOW_MS, Process, SAMPLE, TestServer, client, post_request, until, within};

const SESSIONS: &str = "/api/v1/sessions";
const DOWNLOADED: &str = "/api/v1/downloaded";

/// A body that is no JSON.
const BROKEN: &str = "{";

/// A server that takes so many requests of a client at once, and then one a second.
async fn with_client_burst(burst: u32, change: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::with(|config| {
        config.limits.client_requests_per_second = 1;
        config.limits.client_burst = burst;
        change(config);
    })
    .await
}

/// A server that takes so many requests for a report suite at once, and then one a second.
async fn with_suite_burst(burst: u32, change: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::with(|config| {
        config.limits.report_suite_requests_per_second = 1;
        config.limits.report_suite_burst = burst;
        change(config);
    })
    .await
}

/// Requests from this machine speak for others.
fn behind_a_proxy(config: &mut Config) {
    config.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    config.privacy.client_address = ClientAddress::Keep;
}

#[tokio::test]
async fn a_client_that_asks_too_often_gets_429_until_time_has_passed() {
    let server = with_client_burst(3, |_| {}).await;
    let location = location(&server.post(SAMPLE).await);
    let events = format!("{location}/events");
    assert_eq!(post(&server, &events, ping(1)).await, 204);
    // Its two events and its size cost three more, which the client then waits for.
    assert_eq!(post(&server, DOWNLOADED, stored("a").to_string()).await, 201);
    for path in
        [SESSIONS, &events, DOWNLOADED, "/api/v1/sessions/nobody/events/", "/api/v1/downloaded/"]
    {
        let response = answer(&server, path, SAMPLE, &[]).await;
        assert_eq!(response.status(), 429, "{path}");
        assert_eq!(response.headers()["retry-after"], "4");
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        let error: Value = response.json().await.unwrap();
        let said = error["message"].as_str().unwrap();
        assert!(said.contains("limits.client_requests_per_second"), "{said}");
        assert!(said.contains("nothing was kept, try again in 4 s"), "{said}");
    }
    server.clock.advance(3_999);
    assert_eq!(post(&server, &events, ping(2)).await, 429);
    server.clock.advance(1);
    assert_eq!(post(&server, &events, ping(2)).await, 204);
    assert_eq!(post(&server, &events, ping(3)).await, 429);
    // The report of the stored session comes when it comes.
    let records = records(server.folder.path()).into_iter();
    assert_eq!(records.filter(|record| record["kind"] != "report").count(), 4);
    let rejects = rejects(&server).await;
    assert_eq!(
        (&rejects["invalid"], &rejects["unread"], &rejects["gone"]),
        (&json!([]), &json!([]), &json!([]))
    );
}

#[tokio::test]
async fn what_is_no_post_of_data_is_not_counted() {
    let server = with_client_burst(1, |_| {}).await;
    let get = async |path: &str| {
        server.client.get(server.url(path)).send().await.unwrap().status().as_u16()
    };
    let others = async || {
        for _ in 0..5 {
            for path in [SESSIONS, DOWNLOADED, "/api/v1/anything"] {
                let response =
                    server.client.request(Method::OPTIONS, server.url(path)).send().await;
                assert_eq!(response.unwrap().status(), 204);
            }
            for path in ["/livez", "/readyz", "/api/v1/schemas/play", "/api/v1/openapi.json"] {
                assert_eq!(get(path).await, 200);
            }
            assert_eq!(get(SESSIONS).await, 405);
            assert_eq!(post(&server, "/api/v1/anything", "{}").await, 404);
            let admin = server.client.get(server.admin_url("/rejects")).send().await.unwrap();
            assert_eq!(admin.status(), 200);
        }
    };
    others().await;
    assert_eq!(server.post(SAMPLE).await.status(), 201);
    assert_eq!(server.post(SAMPLE).await.status(), 429);
    others().await;
}

#[tokio::test]
async fn without_a_rate_a_burst_holds_nobody_back() {
    let server = TestServer::with(|config| {
        (config.limits.client_burst, config.limits.report_suite_burst) = (1, 1);
    })
    .await;
    for _ in 0..9 {
        assert_eq!(server.post(SAMPLE).await.status(), 201);
    }
}

#[tokio::test]
async fn room_is_looked_for_before_the_rate_and_the_rate_before_the_body() {
    let server = with_client_burst(2, |config| config.live.sessions_max = 1).await;
    assert_eq!(server.post(BROKEN).await.status(), 400, "a broken body counts");
    let location = location(&server.post(SAMPLE).await);
    assert_eq!(server.post(SAMPLE).await.status(), 503, "there is no room");
    let events = format!("{location}/events");
    assert_eq!(post(&server, &events, BROKEN).await, 429);
    assert_eq!(post(&server, &events, "x".repeat(200_000)).await, 429);
    let zipped = answer(&server, &events, "x", &[("content-encoding", "br")]).await;
    assert_eq!(zipped.status(), 429);
    server.clock.advance(1_000);
    let zipped = answer(&server, &events, "x", &[("content-encoding", "br")]).await;
    assert_eq!(zipped.status(), 415);
    server.clock.advance(1_000);
    assert_eq!(post(&server, &events, BROKEN).await, 400);
    server.clock.advance(1_000);
    assert_eq!(post(&server, "/api/v1/sessions/nobody/events", ping(1)).await, 404);
}

#[tokio::test]
async fn a_request_that_is_refused_costs_one_token_like_any_other() {
    let server = with_client_burst(6, |_| {}).await;
    let zipped = answer(&server, SESSIONS, "x", &[("content-encoding", "br")]).await;
    assert_eq!(zipped.status(), 415);
    for (path, body, status) in [
        (SESSIONS, BROKEN.to_owned(), 400),
        (DOWNLOADED, BROKEN.to_owned(), 400),
        (SESSIONS, "x".repeat(200_000), 413),
        ("/api/v1/sessions/nobody/events", ping(1), 404),
        (SESSIONS, SAMPLE.to_owned(), 201),
        (SESSIONS, SAMPLE.to_owned(), 429),
        // The one that is held back costs nothing.
        (SESSIONS, BROKEN.to_owned(), 429),
    ] {
        assert_eq!(post(&server, path, body).await, status, "{path}");
    }
    server.clock.advance(1_000);
    assert_eq!(post(&server, SESSIONS, BROKEN).await, 400);
    assert_eq!(post(&server, SESSIONS, BROKEN).await, 429);
}

#[tokio::test]
async fn an_address_that_is_listed_has_no_rate() {
    let server = with_client_burst(1, |config| {
        behind_a_proxy(config);
        config.limits.unlimited_addresses = vec!["203.0.113.0/24".parse().unwrap()];
    })
    .await;
    for (client, status) in
        [("203.0.113.7", 201), ("203.0.113.7", 201), ("198.51.100.1", 201), ("198.51.100.1", 429)]
    {
        let headers = [("x-forwarded-for", client)];
        assert_eq!(answer(&server, SESSIONS, SAMPLE, &headers).await.status(), status, "{client}");
    }
}

#[tokio::test]
async fn the_body_of_a_request_that_is_held_back_does_not_become_the_next_request() {
    let server = with_client_burst(1, |_| {}).await;
    let mut raw = server.connect().await;
    raw.send(post_request(SAMPLE).repeat(3)).await;
    for status in ["201", "429", "429"] {
        let (head, _) = raw.answer().await.unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
    raw.send(post_request(&"x".repeat(60_000))).await;
    raw.send(post_request(SAMPLE)).await;
    for _ in 0..2 {
        let (head, _) =
            raw.answer().await.expect("a connection goes on after a body that is not wanted");
        assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
    }
    // A large one ends it.
    raw.send(post_request(&"x".repeat(900_000))).await;
    raw.send(post_request(SAMPLE)).await;
    assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 429 "));
    assert_eq!(raw.closed().await, "");
    let mut raw = server.connect().await;
    raw.send(format!(
        "POST {SESSIONS} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n"
    ))
    .await;
    assert!(
        raw.answer().await.unwrap().0.starts_with("HTTP/1.1 429 "),
        "it need not send its body"
    );
}

#[tokio::test]
async fn a_report_suite_has_a_rate_of_its_own_for_starts_events_and_stored_sessions() {
    let server = with_suite_burst(3, |_| {}).await;
    let location = location(&server.post(start("a").to_string()).await);
    let events = format!("{location}/events");
    assert_eq!(post(&server, &events, ping(1)).await, 204);
    assert_eq!(post(&server, DOWNLOADED, stored("a").to_string()).await, 201);
    for (path, body) in [
        (SESSIONS, start("a")),
        (SESSIONS, start("z, a")),
        (SESSIONS, stored("a")),
        (DOWNLOADED, stored("a")),
        (&events, serde_json::from_str(&ping(2)).unwrap()),
    ] {
        let response = answer(&server, path, body.to_string(), &[]).await;
        assert_eq!(response.status(), 429, "{path} {body}");
        assert_eq!(response.headers()["retry-after"], "1");
        let error: Value = response.json().await.unwrap();
        let said = error["message"].as_str().unwrap();
        assert!(
            said.starts_with("the report suite \"a\" gets more than 1 requests a second"),
            "{said}"
        );
    }
    let kept = rejects(&server).await;
    assert_eq!((&kept["invalid"], &kept["unread"]), (&json!([]), &json!([])), "it comes again");
    assert_eq!(post(&server, &events, BROKEN).await, 400, "the body is read first");
    assert_eq!(post(&server, "/api/v1/sessions/nobody/events", ping(2)).await, 404);
    assert_eq!(server.post(start("b").to_string()).await.status(), 201);
    server.clock.advance(1_000);
    assert_eq!(post(&server, &events, ping(2)).await, 204);
    assert_eq!(post(&server, &events, ping(3)).await, 429);
}

#[tokio::test]
async fn whom_nobody_trusts_is_one_client_whatever_it_says() {
    for trusted in [vec![], vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]] {
        let server = with_client_burst(2, |config| {
            config.http.trusted_proxies = trusted;
            config.privacy.client_address = ClientAddress::Keep;
        })
        .await;
        for (number, status) in [(1, 201), (2, 201), (3, 429), (4, 429)] {
            let headers = [
                ("x-forwarded-for", &*format!("203.0.113.{number}")),
                ("forwarded", &*format!("for=203.0.113.{number}")),
            ];
            assert_eq!(answer(&server, SESSIONS, SAMPLE, &headers).await.status(), status);
        }
        for record in records(server.folder.path()) {
            assert_eq!(record["client"], "127.0.0.1");
        }
    }
}

#[tokio::test]
async fn a_proxy_that_is_trusted_speaks_for_many_clients() {
    let server = with_client_burst(1, behind_a_proxy).await;
    let from = async |said: &str, body: &'static str| {
        let headers = [("x-forwarded-for", said), ("forwarded", "for=198.51.100.9")];
        answer(&server, SESSIONS, body, &headers).await.status().as_u16()
    };
    for number in 1..=20 {
        assert_eq!(from(&format!("203.0.113.{number}"), SAMPLE).await, 201);
    }
    // What a client put there itself stands left of what the proxy adds.
    assert_eq!(from("198.51.100.1, 203.0.113.7", SAMPLE).await, 429);
    assert_eq!(from("203.0.113.7, 198.51.100.1, 127.0.0.5", SAMPLE).await, 201);
    assert_eq!(from("2001:db8::1", SAMPLE).await, 201);
    assert_eq!(from("[2001:db8::2]:4711", SAMPLE).await, 429, "it is the same network");
    assert_eq!(from("198.51.100.2", BROKEN).await, 400);
    let kept: Vec<_> =
        records(server.folder.path()).iter().map(|record| record["client"].to_string()).collect();
    assert_eq!(kept[6], "\"203.0.113.7\"");
    assert_eq!(kept[20..], ["\"198.51.100.1\"", "\"2001:db8::1\""]);
    assert_eq!(rejects(&server).await["invalid"][0]["client"], "198.51.100.2");
}

#[tokio::test]
async fn only_the_header_that_is_set_is_believed() {
    let server = with_client_burst(1, |config| {
        behind_a_proxy(config);
        config.http.forwarded_header = Header::Forwarded;
    })
    .await;
    let from = async |forwarded: &str, other: &str| {
        let headers = [("forwarded", forwarded), ("x-forwarded-for", other)];
        answer(&server, SESSIONS, SAMPLE, &headers).await.status().as_u16()
    };
    assert_eq!(from("for=203.0.113.7;proto=https", "198.51.100.1").await, 201);
    assert_eq!(from("for=203.0.113.7;proto=https", "198.51.100.2").await, 429);
    assert_eq!(from("for=203.0.113.7, for=\"203.0.113.8:80\"", "198.51.100.1").await, 201);
    let kept = records(server.folder.path());
    assert_eq!(
        (&kept[0]["client"], &kept[1]["client"]),
        (&json!("203.0.113.7"), &json!("203.0.113.8"))
    );
}

#[tokio::test]
async fn sessions_are_collected_only_for_who_is_listed() {
    let server = TestServer::with(|config| {
        config.limits.organizations = vec!["0123456789ABCDEF@ExampleOrg".into()];
        config.limits.report_suites = vec!["a".into(), "b".into()];
    })
    .await;
    for suite in ["a", "b", "b,a", " a , b "] {
        for (path, body) in
            [(SESSIONS, start(suite)), (SESSIONS, stored(suite)), (DOWNLOADED, stored(suite))]
        {
            assert_eq!(post(&server, path, body.to_string()).await, 201, "{path} {suite}");
        }
    }
    let taken = server.live().sessions();
    let mut refused = 0;
    for suite in ["c", "A", "a,c", "", ","] {
        for (path, body) in
            [(SESSIONS, start(suite)), (SESSIONS, stored(suite)), (DOWNLOADED, stored(suite))]
        {
            let response = answer(&server, path, body.to_string(), &[]).await;
            assert_eq!(response.status(), 403, "{path} {suite}");
            let error: Value = response.json().await.unwrap();
            let said = error["message"].as_str().unwrap();
            assert!(
                said.contains("analytics.reportSuite") && said.contains("limits.report_suites"),
                "{said}"
            );
            assert_eq!(error.get("violations"), None);
            refused += 1;
        }
    }
    let mut other = start("a");
    other["params"]["visitor.marketingCloudOrgId"] = json!("other@Org");
    let error: Value =
        answer(&server, SESSIONS, other.to_string(), &[]).await.json().await.unwrap();
    let said = error["message"].as_str().unwrap();
    assert!(
        said.contains(
            "visitor.marketingCloudOrgId \"other@Org\" is not on the list limits.organizations"
        ),
        "{said}"
    );
    let mut broken = start("c");
    broken["playerTime"]["ts"] = json!("now");
    assert_eq!(server.post(broken.to_string()).await.status(), 400, "a body is judged first");
    assert_eq!(server.live().sessions(), taken);

    let kept = rejects(&server).await;
    let unread = kept["unread"].as_array().unwrap();
    assert_eq!(unread.len(), refused + 1);
    assert!(unread.iter().all(|reject| reject["status"] == 403 && reject.get("body").is_none()));
    assert_eq!(kept["invalid"].as_array().unwrap().len(), 1);
    // The one that broke rules is written, and it came last.
    let file = server.folder.path().join("data/rejects/current.ndjson");
    until(|| std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n'))).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 1);
}

#[tokio::test]
async fn a_session_without_what_a_list_asks_for_is_refused() {
    let server = TestServer::with(|config| {
        config.validation.profile = mediatally::wire::Profile::Open;
        config.limits.organizations = vec!["one".into()];
    })
    .await;
    let mut start = start("a");
    start["params"].as_object_mut().unwrap().remove("visitor.marketingCloudOrgId");
    let response = server.post(start.to_string()).await;
    assert_eq!(response.status(), 403);
    let said = response.text().await.unwrap();
    assert!(said.contains("visitor.marketingCloudOrgId is missing"), "{said}");
    start["params"]["visitor.marketingCloudOrgId"] = json!("one");
    start["params"].as_object_mut().unwrap().remove("analytics.reportSuite");
    assert_eq!(server.post(start.to_string()).await.status(), 201, "the other list is empty");
}

#[tokio::test]
async fn who_is_not_listed_does_not_count_against_a_report_suite() {
    let server =
        with_suite_burst(1, |config| config.limits.report_suites = vec!["a".into(), "b".into()])
            .await;
    assert_eq!(server.post(start("a,c").to_string()).await.status(), 403);
    assert_eq!(server.post(start("a").to_string()).await.status(), 201);
    assert_eq!(server.post(start("a").to_string()).await.status(), 429);
    assert_eq!(server.post(start("a,c").to_string()).await.status(), 403);
}

#[tokio::test]
async fn a_session_takes_as_many_events_as_it_may_and_a_restart_changes_nothing_that_was() {
    let folder = tempfile::tempdir().unwrap();
    let web = client();
    let process = Process::start(folder.path(), &[("MEDIATALLY_SESSION__EVENTS_MAX", "10")]).await;
    let response = web.post(process.url(SESSIONS)).body(SAMPLE).send().await.unwrap();
    let events = format!("{}/events", location(&response));
    let post = async |process: &Process, body: String| {
        let sent = web.post(process.url(&events)).body(body).send().await;
        assert_eq!(sent.unwrap().status(), 204);
    };
    for ms in 1..=14 {
        post(&process, ping(ms)).await;
    }
    process.signal(Signal::KILL);
    process.ended().await;
    let process = Process::start(folder.path(), &[]).await;
    for ms in 15..=20 {
        post(&process, ping(ms)).await;
    }
    post(&process, event("sessionEnd", 21)).await;
    let report = within(async {
        loop {
            let reports =
                records(folder.path()).into_iter().find(|record| record["kind"] == "report");
            if let Some(record) = reports {
                return record["report"].clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(report["eventCount"], 10 + 6 + 1, "under ten as many as that, then all");
    assert_eq!(report["truncated"], json!(["events"]));
    process.signal(Signal::INT);
    process.ended().await;
}

/// The sample for these report suites.
fn start(suites: &str) -> Value {
    let mut start: Value = serde_json::from_str(SAMPLE).unwrap();
    start["params"]["analytics.reportSuite"] = json!(suites);
    start
}

/// A stored session for these report suites.
fn stored(suites: &str) -> Value {
    let mut start = start(suites);
    start["params"]["media.downloaded"] = json!(true);
    let end: Value = serde_json::from_str(&event("sessionEnd", 9)).unwrap();
    json!([start, end])
}

fn event(event_type: &str, ms: u64) -> String {
    json!({"eventType": event_type, "playerTime": {"ts": NOW_MS + ms, "playhead": 0}}).to_string()
}

/// A ping that was stamped `ms` after the start of the test.
fn ping(ms: u64) -> String {
    event("ping", ms)
}

async fn answer(
    server: &TestServer,
    path: &str,
    body: impl Into<reqwest::Body>,
    headers: &[(&str, &str)],
) -> Response {
    let request = server.client.post(server.url(path)).body(body);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.send().await.unwrap()
}

async fn post(server: &TestServer, path: &str, body: impl Into<reqwest::Body>) -> u16 {
    answer(server, path, body, &[]).await.status().as_u16()
}

fn location(response: &Response) -> String {
    assert_eq!(response.status(), 201);
    response.headers()["location"].to_str().unwrap().to_owned()
}

async fn rejects(server: &TestServer) -> Value {
    let response = server.client.get(server.admin_url("/rejects")).send().await.unwrap();
    response.json().await.unwrap()
}

/// The records of sessions in a server's journal.
fn records(folder: &Path) -> Vec<Value> {
    let mut records = Vec::new();
    segment::each_line(&Folder::at(&folder.join("data/journal")), |_, line, record| {
        // The last line may be half written.
        if record.is_ok_and(|record| record.content.sid().is_some()) {
            records.push(serde_json::from_slice(line.text).unwrap());
        }
        Ok::<_, std::io::Error>(())
    })
    .unwrap();
    records
}
