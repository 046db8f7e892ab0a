//! Starting a session.

use flate2::Compression;
use mediatally::session::id::{Key, SessionId};
use mediatally::wire::Profile;

use crate::downloaded::gzip;
use crate::harness::{NOW_MS, SAMPLE, TestServer, client, post_request};

fn session_id(location: &str) -> SessionId {
    let id = location.strip_prefix("/api/v1/sessions/").expect("the relative path of a session");
    SessionId::from_path(id).expect("64 lower-case hexadecimal digits")
}

fn location(response: &reqwest::Response) -> &str {
    response.headers()["location"].to_str().unwrap()
}

#[tokio::test]
async fn the_documented_sample_gets_exactly_the_documented_answer() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    raw.send(post_request(SAMPLE)).await;
    let (head, body) = raw.answer().await.unwrap();
    assert_eq!(body, "");
    let mut lines = head.trim_end().split("\r\n");
    assert_eq!(lines.next(), Some("HTTP/1.1 201 Created"));
    let mut headers: Vec<_> = lines.map(|line| line.split_once(": ").unwrap()).collect();
    headers.sort_unstable();
    let (names, values): (Vec<_>, Vec<_>) = headers.into_iter().unzip();
    assert_eq!(
        names,
        [
            "access-control-allow-headers",
            "access-control-allow-methods",
            "access-control-allow-origin",
            "access-control-expose-headers",
            "content-length",
            "content-type",
            "date",
            "location",
        ]
    );
    assert_eq!(
        values[..6],
        ["Content-Type", "OPTIONS,POST,PUT", "*", "Location", "0", "application/octet-stream"]
    );
    let id = session_id(values[7]);
    assert_eq!(id.minted_ms(), NOW_MS, "the id tells when it was minted");
    let key = std::fs::read_to_string(server.folder.path().join("data/session.key")).unwrap();
    assert!(id.is_signed_by(&Key::from_hex(key.trim()).unwrap()));
    assert!(server.live().contains(id));
}

#[tokio::test]
async fn each_start_is_a_session_of_its_own() {
    let server = TestServer::start().await;
    let first = server.post(SAMPLE).await;
    let second = server.post(SAMPLE).await;
    assert_eq!(first.status(), 201);
    assert_eq!(second.status(), 201);
    assert_ne!(location(&first), location(&second));
    assert_eq!(server.live().sessions(), 2);
}

#[tokio::test]
async fn any_content_type_is_read_as_json_and_a_trailing_slash_is_taken() {
    let server = TestServer::start().await;
    for content_type in
        ["application/json", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded"]
    {
        let url = server.url("/api/v1/sessions/");
        let request = server.client.post(url).header("content-type", content_type).body(SAMPLE);
        assert_eq!(request.send().await.unwrap().status(), 201, "{content_type}");
    }
}

#[tokio::test]
async fn gzip_bodies_are_unpacked() {
    let server = TestServer::start().await;
    let url = server.url("/api/v1/sessions");
    let packed = |text: &str| gzip(text, Compression::default());
    let post = |body: Vec<u8>, encoding: &'static str| {
        server.client.post(&url).header("content-encoding", encoding).body(body).send()
    };
    assert_eq!(post(packed(SAMPLE), "gzip").await.unwrap().status(), 201);
    let two_members = [packed(&SAMPLE[..50]), packed(&SAMPLE[50..])].concat();
    assert_eq!(post(two_members, "GZIP").await.unwrap().status(), 201);
    let response = post(b"not gzip".to_vec(), "gzip").await.unwrap();
    assert_eq!(response.status(), 400);
    let body: serde_json::Value = response.json().await.unwrap();
    assert_eq!(body["violations"][0]["code"], "json");
    assert!(body["violations"][0]["message"].as_str().unwrap().contains("not gzip"));
    let said = async |body: Vec<u8>, encoding: &'static str| {
        let response = post(body, encoding).await.unwrap();
        assert_eq!(response.status(), 400);
        let body: serde_json::Value = response.json().await.unwrap();
        body["violations"][0]["message"].as_str().unwrap().to_owned()
    };
    for (body, encoding, named) in [
        (
            SAMPLE.as_bytes().to_vec(),
            "gzip",
            "it looks like plain JSON: leave Content-Encoding out",
        ),
        (
            packed(SAMPLE)[..99].to_vec(),
            "gzip",
            "is cut off: its 99 bytes end in the middle (index 99)",
        ),
        (packed(SAMPLE)[..99].to_vec(), "identity", "is cut off: its 99 bytes end in the middle"),
        (
            b"{\"eventType\": NaN}".to_vec(),
            "identity",
            "NaN is not JSON; leave the key out or send a number (expected value at line 1 column 15)",
        ),
        (packed("{\n\"a\": \"\\ud83c\"}"), "gzip", "half a surrogate pair"),
    ] {
        let said = said(body, encoding).await;
        assert!(said.contains(named), "{named}: {said}");
    }
    assert_eq!(post(packed(SAMPLE), "identity").await.unwrap().status(), 201);
    let response = post(packed(SAMPLE), "br").await.unwrap();
    assert_eq!(response.status(), 415);
    assert_eq!(response.headers()["accept-encoding"], "gzip");
}

#[tokio::test]
async fn http2_without_tls_is_spoken_on_the_same_port() {
    let server = TestServer::start().await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let response = client.post(server.url("/api/v1/sessions")).body(SAMPLE).send().await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["content-length"], "0");
    session_id(location(&response));
}

#[tokio::test]
async fn a_body_may_come_in_chunks_of_any_size() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    raw.send("POST /api/v1/sessions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    for piece in SAMPLE.as_bytes().chunks(100) {
        raw.send(format!("{:x}\r\n", piece.len())).await;
        raw.send(piece).await;
        raw.send("\r\n").await;
    }
    raw.send("0\r\n\r\n").await;
    assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
}

#[tokio::test]
async fn the_open_profile_takes_what_the_documented_one_refuses() {
    let body = r#"{"eventType":"sessionStart","playerTime":{"playhead":0,"ts":0},"params":{
        "media.id":"i","media.length":60,"media.contentType":"vod","media.playerName":"p"}}"#;
    let adobe = TestServer::start().await;
    assert_eq!(adobe.post(body).await.status(), 400);
    let open = TestServer::with(|config| config.validation.profile = Profile::Open).await;
    assert_eq!(open.post(body).await.status(), 201);
}

#[tokio::test]
async fn machines_that_share_a_key_know_each_others_ids() {
    let key = Key::new([9; 32]);
    let server = TestServer::with(|config| config.session.key = Some(key.clone())).await;
    let response = server.post(SAMPLE).await;
    assert!(session_id(location(&response)).is_signed_by(&key));
    assert!(!server.folder.path().join("data/session.key").exists(), "no second key is made");
}

#[tokio::test]
async fn a_session_without_events_ends_after_its_time() {
    let server = TestServer::start().await;
    let response = server.post(SAMPLE).await;
    let id = session_id(location(&response));
    server.clock.advance(599_999);
    server.close_due().await;
    assert!(server.live().contains(id));
    server.clock.advance(1);
    server.close_due().await;
    assert!(!server.live().contains(id));
}

#[tokio::test]
async fn many_clients_at_once_each_get_a_session() {
    let server = TestServer::start().await;
    let posts: Vec<_> = (0..16)
        .map(|_| {
            let (client, url) = (client(), server.url("/api/v1/sessions"));
            tokio::spawn(async move {
                let mut locations = Vec::new();
                for _ in 0..25 {
                    let response = client.post(&url).body(SAMPLE).send().await.unwrap();
                    assert_eq!(response.status(), 201);
                    locations.push(location(&response).to_owned());
                }
                locations
            })
        })
        .collect();
    let mut locations = std::collections::HashSet::new();
    for post in posts {
        locations.extend(post.await.unwrap());
    }
    assert_eq!(locations.len(), 400);
    assert_eq!(server.live().sessions(), 400);
}
