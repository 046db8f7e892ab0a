//! Names that are not listed: accepted, counted, and shown to operators.

use serde_json::{Value, json};

use crate::harness::{NOW_MS, Process, SAMPLE, TestServer, client};
use crate::metrics::Scrape;

/// The start of a session that has these members more in `params`, and beside it.
fn start(params: &str, beside: &str) -> String {
    let mut body: Value = serde_json::from_str(SAMPLE).unwrap();
    body["params"][params] = json!("v4lue");
    body[beside] = json!({"deep": "v4lue"});
    body.to_string()
}

async fn unlisted(server: &TestServer) -> Value {
    let response = server.client.get(server.admin_url("/unlisted")).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    assert_eq!(response.headers()["cache-control"], "no-store");
    response.json().await.unwrap()
}

#[tokio::test]
async fn unlisted_names_are_counted_and_shown_to_operators() {
    let server = TestServer::start().await;
    assert_eq!(unlisted(&server).await, json!({"names": [], "names_max": 256, "forgotten": 0}));
    let response = server.post(start("media.shwo", "customMetaData")).await;
    assert_eq!(response.status(), 201);
    let events = server.url(response.headers()["location"].to_str().unwrap()) + "/events";
    server.clock.advance(1_000);
    let ping = json!({"eventType": "ping", "playerTime": {"playhead": 1, "ts": NOW_MS, "tz": 0},
        "params": {"media.shwo": "v4lue"}});
    let posted = server.client.post(&events).body(ping.to_string()).send().await.unwrap();
    assert_eq!(posted.status(), 204);
    let stored = json!([serde_json::from_str::<Value>(SAMPLE).unwrap(), ping, ping]).to_string();
    let posted =
        server.client.post(server.url("/api/v1/downloaded")).body(stored).send().await.unwrap();
    assert_eq!(posted.status(), 201);
    // What is refused is shown among what was refused.
    assert_eq!(server.post(start("media.shwo", "params")).await.status(), 400);
    let shown = unlisted(&server).await;
    let later = NOW_MS + 1_000;
    assert_eq!(
        shown["names"],
        json!([
            {"name": "media.shwo", "where": "params", "pointer": "/params/media.shwo",
                "event_types": ["sessionStart", "ping"], "nearest": "media.show",
                "listed_on": ["sessionStart"], "count": 4,
                "first_ms": NOW_MS, "last_ms": later},
            {"name": "tz", "where": "playerTime", "pointer": "/playerTime/tz", "event_types": ["ping"], "count": 3,
                "first_ms": later, "last_ms": later},
            {"name": "customMetaData", "where": "body", "pointer": "/customMetaData",
                "event_types": ["sessionStart"], "nearest": "customMetadata", "count": 1,
                "first_ms": NOW_MS, "last_ms": NOW_MS},
        ])
    );
    let scrape = Scrape::of(&server.client, &server.admin_url("/metrics")).await;
    for (place, count) in
        [("body", 1.0), ("playerTime", 3.0), ("params", 4.0), ("customMetadata", 0.0)]
    {
        let shown = scrape.get(&format!("unlisted_names_total{{where=\"{place}\"}}"));
        assert!((shown - count).abs() < 0.5, "{place}: {shown}");
    }
    assert!(
        scrape.get("http_requests_total{listener=\"admin\",route=\"unlisted\",status=\"200\"}")
            > 1.5
    );
    let public = server.client.get(server.url("/unlisted")).send().await.unwrap();
    assert_eq!(public.status(), 404);
}

#[tokio::test]
async fn strict_rules_refuse_them_and_so_they_are_shown_among_what_was_refused() {
    let server = TestServer::with(|config| config.validation.strict = true).await;
    assert_eq!(server.post(start("media.shwo", "customMetaData")).await.status(), 400);
    assert_eq!(unlisted(&server).await["names"], json!([]));
    let rejects = server.client.get(server.admin_url("/rejects")).send().await.unwrap();
    let rejects = rejects.text().await.unwrap();
    assert!(
        rejects.contains("not listed on sessionStart; did you mean \\\"media.show\\\"?"),
        "{rejects}"
    );
}

#[tokio::test]
async fn what_privacy_settings_name_is_not_shown() {
    let server = TestServer::with(|config| config.privacy.drop = vec!["person.*".into()]).await;
    assert_eq!(server.post(start("person.anna", "more")).await.status(), 201);
    let shown = unlisted(&server).await.to_string();
    assert!(shown.contains("/more") && !shown.contains("anna"), "{shown}");
}

/// The names themselves are what strangers wrote, so at this level the log only says where to look.
#[tokio::test]
async fn at_the_default_level_the_log_tells_once_that_there_are_some() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[("MEDIATALLY_SHUTDOWN__GRACE", "0s")]).await;
    for name in ["media.shwo", "media.shwoo", "media.shwo"] {
        let body = start(name, "customMetaData");
        let response =
            client().post(process.url("/api/v1/sessions")).body(body).send().await.unwrap();
        assert_eq!(response.status(), 201);
    }
    process.signal(rustix::process::Signal::TERM);
    let (_, lines) = process.ended().await;
    let telling: Vec<_> = lines.iter().filter(|line| line.contains("/unlisted")).collect();
    assert_eq!(telling.len(), 1, "{lines:?}");
    assert!(telling[0].contains("\"new\":2"), "{telling:?}");
    assert!(!lines.iter().any(|line| line.contains("shwo")), "{lines:?}");
}
