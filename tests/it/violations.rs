//! What a player engineer reads when a body is refused, and what hostile bodies get.

use mediatally::wire::Profile;
use proptest::prelude::*;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{SAMPLE, TestServer, within};

#[tokio::test]
async fn a_refusal_lists_every_violation_in_document_order() {
    let server = TestServer::start().await;
    let body = r#"{"playerTime":{"playhead":70,"ts":"now"},"eventType":"sesionStart",
        "params":{"media.length":60,"media.contentType":"vod","media.ID":"x","media.playerName":false,
        "analytics.trackingServer":"t","analytics.reportSuite":"r","visitor.marketingCloudOrgId":"o",
        "media.channel":"c"},"customMetadata":{"bad-key":"v"}}"#;
    let response = server.post(body).await;
    assert_eq!(response.status(), 400);
    assert_eq!(response.headers()["content-type"], "application/json");
    assert!(response.headers().contains_key("content-length"));
    let answer: Value = response.json().await.unwrap();
    assert_eq!(
        answer,
        json!({
            "message": "Request had improper format.",
            "violations": [
                {"pointer": "/playerTime/playhead", "code": "maximum",
                 "message": "expected less than media.length (60), got 70"},
                {"pointer": "/playerTime/ts", "code": "type", "message": "expected integer, got string"},
                {"pointer": "/eventType", "code": "enum",
                 "message": "\"sesionStart\" is no event type; did you mean \"sessionStart\"?"},
                {"pointer": "/params/media.playerName", "code": "type",
                 "message": "expected string, got boolean"},
                {"pointer": "/params/media.id", "code": "required",
                 "message": "required on sessionStart: Unique content id; is \"media.ID\" meant to be it?"},
                {"pointer": "/customMetadata/bad-key", "code": "propertyNames",
                 "message": "expected a key of a-z, A-Z, 0-9, _ and . (at least one character)"},
            ]
        })
    );
    assert_eq!(server.live().sessions(), 0, "nothing was kept");
}

#[tokio::test]
async fn other_refusals_have_the_same_shape() {
    let server = TestServer::start().await;
    let send = async |method: Method, path: &str| {
        let response = server.client.request(method, server.url(path)).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/json");
        let (status, headers) = (response.status(), response.headers().clone());
        let body: Value = response.json().await.unwrap();
        assert!(!body["message"].as_str().unwrap().is_empty());
        assert!(body.get("violations").is_none());
        (status, headers)
    };
    assert_eq!(send(Method::GET, "/").await.0, 404);
    assert_eq!(send(Method::POST, "/api/v1/session").await.0, 404);
    assert_eq!(send(Method::POST, "/api/v1/sessions/a/b/c").await.0, 404);
    let (status, headers) = send(Method::PUT, "/api/v1/sessions").await;
    assert_eq!((status.as_u16(), headers["allow"].to_str().unwrap()), (405, "POST,OPTIONS"));
    let (status, headers) = send(Method::POST, "/livez").await;
    assert_eq!((status.as_u16(), headers["allow"].to_str().unwrap()), (405, "GET,HEAD"));
}

#[tokio::test]
async fn hostile_bodies_are_refused_wherever_the_poison_is() {
    let server = TestServer::with(|config| config.validation.profile = Profile::Open).await;
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let poisons = [
        "1e999".to_owned(),
        "-1e999".to_owned(),
        r#""\ud800""#.to_owned(),
        r#"{"\udfff":1}"#.to_owned(),
        "\"\u{0}\"".to_owned(),
        deep(33),
        deep(30_000),
        "[".repeat(100_000),
        "{\"a\":".repeat(20_000),
    ];
    for poison in &poisons {
        let inside = format!("{{\"unknown\":{poison},{}", &SAMPLE.trim_start()[1..]);
        let deeper =
            SAMPLE.replacen("\"params\": {", &format!("\"params\": {{\"unknown\":{poison},"), 1);
        for body in [poison.clone(), inside, deeper] {
            let response = server.post(body).await;
            assert_eq!(response.status(), 400, "{}", &poison[..poison.len().min(40)]);
        }
    }
    let mut invalid_utf8 = SAMPLE.as_bytes().to_vec();
    let place = SAMPLE.find("ClickMe").unwrap();
    invalid_utf8[place] = 0xFF;
    let bom = format!("\u{feff}{SAMPLE}");
    for body in [invalid_utf8, bom.into_bytes(), b"\0".to_vec(), Vec::new()] {
        assert_eq!(server.post(body).await.status(), 400);
    }
    assert_eq!(server.post("{".repeat(1 << 20)).await.status(), 413);
    assert_eq!(server.live().sessions(), 0);
    assert_eq!(server.post(SAMPLE).await.status(), 201, "and the server goes on");
}

#[tokio::test]
async fn a_list_of_violations_is_bounded_and_says_how_many_more_there_are() {
    let server = TestServer::start().await;
    let pairs: Vec<_> = (0..5_000).map(|n| format!("\"k{n}\":1")).collect();
    let body =
        format!("{{\"customMetadata\":{{{}}},{}", pairs.join(","), &SAMPLE.trim_start()[1..]);
    let answer: Value = server.post(body).await.json().await.unwrap();
    let (listed, omitted) = (answer["violations"].as_array().unwrap().len(), &answer["omitted"]);
    assert!(listed > 400, "{listed}");
    assert_eq!(listed as u64 + omitted.as_u64().unwrap(), 5_000);
    assert!(answer.to_string().len() <= 64 << 10);
}

#[tokio::test]
async fn a_long_name_makes_no_long_answer() {
    let server = TestServer::start().await;
    for name in ["a".repeat(125_000), "\\u0001".repeat(20_000), "/".repeat(125_000)] {
        let body = format!("{{\"customMetadata\":{{\"{name} \":1}},{}", &SAMPLE.trim_start()[1..]);
        let response = server.post(body).await;
        assert_eq!(response.status(), 400);
        let answer = response.text().await.unwrap();
        assert!(answer.len() < 8 << 10, "{}", answer.len());
        assert!(answer.contains("1 bytes)\",\"code\":\"propertyNames\""), "{answer}");
    }
}

/// Bodies that are nearly right, and bytes that are nothing.
fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let place = || any::<prop::sample::Index>();
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..200),
        3 => prop::collection::vec((place(), any::<u8>()), 0..3).prop_map(|changes| {
            let mut body = SAMPLE.as_bytes().to_vec();
            for (place, byte) in changes {
                let place = place.index(body.len());
                body[place] = byte;
            }
            body
        }),
        1 => place().prop_map(|place| SAMPLE.as_bytes()[..place.index(SAMPLE.len())].to_vec()),
    ]
}

#[test]
fn no_body_gets_anything_but_201_or_a_400_that_says_why() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(TestServer::start());
    proptest!(|(body in any_body())| {
        let (status, answer) = runtime.block_on(within(async {
            let response = server.post(body).await;
            (response.status().as_u16(), response.text().await.unwrap())
        }));
        if status != 201 {
            prop_assert_eq!(status, 400);
            let answer: Value = serde_json::from_str(&answer).unwrap();
            prop_assert!(!answer["violations"].as_array().unwrap().is_empty());
        }
    });
}

#[tokio::test]
async fn a_refused_body_is_kept_and_shown_to_operators() {
    let server = TestServer::start().await;
    let body = SAMPLE.replace("\"ts\"", "\"tss\"");
    let request =
        server.client.post(server.url("/api/v1/sessions")).header("user-agent", "player/1");
    assert_eq!(request.body(body.clone()).send().await.unwrap().status(), 400);
    assert_eq!(server.post("x".repeat(200 << 10)).await.status(), 413);
    let shown = server.client.get(server.admin_url("/rejects")).send().await.unwrap();
    let shown: Value = shown.json().await.unwrap();
    let kept = &shown["invalid"][0];
    assert_eq!(kept["body"], body);
    assert_eq!(kept["user_agent"], "player/1");
    assert_eq!(kept["client"], "127.0.0.0");
    assert_eq!(kept["violations"][0]["pointer"], "/playerTime/ts");
    assert_eq!(shown["unread"][0]["status"], 413);
    assert_eq!(server.client.get(server.url("/rejects")).send().await.unwrap().status(), 404);
    let file = server.folder.path().join("data/rejects/current.ndjson");
    let lines = || std::fs::read_to_string(&file).unwrap_or_default().lines().count();
    crate::harness::until(|| lines() == 1).await;
}
