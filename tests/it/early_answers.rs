//! A request that is refused before its body is read: its client gets the answer whatever it was sending.

use axum::http::{StatusCode, header};
use tokio::net::tcp::OwnedWriteHalf;

use crate::harness::{SAMPLE, TestServer, within};

const SESSIONS: &str = "/api/v1/sessions";
const DOWNLOADED: &str = "/api/v1/downloaded";

const MIB: usize = 1 << 20;

/// A server that refuses with each of the statuses, the second post of data with 429.
async fn refusing_server() -> TestServer {
    TestServer::with(|config| {
        config.limits.client_requests_per_second = 1;
        config.limits.client_burst = 1;
    })
    .await
}

/// Status, path, further headers, and how large the body is.
type Refused = (StatusCode, &'static str, &'static str, usize);

/// What is refused before it is read, the one that empties the client's burst first.
const REFUSED: [Refused; 6] = [
    (StatusCode::UNSUPPORTED_MEDIA_TYPE, DOWNLOADED, "content-encoding: deflate\r\n", 4 * MIB),
    (StatusCode::TOO_MANY_REQUESTS, DOWNLOADED, "", 4 * MIB),
    (StatusCode::TOO_MANY_REQUESTS, DOWNLOADED, "", 18 * MIB),
    (StatusCode::TOO_MANY_REQUESTS, SESSIONS, "", 4 * MIB),
    (StatusCode::NOT_FOUND, "/v1/downloaded", "", 4 * MIB),
    (StatusCode::METHOD_NOT_ALLOWED, "/livez", "", 4 * MIB),
];

fn head_of(path: &str, headers: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length}\r\n\r\n")
}

#[tokio::test]
async fn who_writes_everything_before_reading_gets_the_answer() {
    let server = refusing_server().await;
    for (status, path, headers, bytes) in REFUSED {
        let mut raw = server.connect().await;
        raw.send(head_of(path, headers, bytes)).await;
        within(raw.try_send(" ".repeat(bytes))).await.expect("all of it can be written");
        let (head, _) = raw.answer().await.expect("an answer");
        assert!(head.starts_with(&format!("HTTP/1.1 {} ", status.as_u16())), "{path}: {head}");
        assert!(head.contains("connection: close\r\n"), "{path}: {head}");
        assert!(head.contains("access-control-allow-origin: *\r\n"), "{path}: {head}");
        assert_eq!(head.contains("retry-after: "), status == StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(raw.closed().await, "");
    }
}

#[tokio::test]
async fn a_body_over_its_bound_gets_its_answer_too() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    raw.send(head_of(DOWNLOADED, "", 18 * MIB)).await;
    within(raw.try_send(" ".repeat(18 * MIB))).await.expect("all of it can be written");
    assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 413 "));
    // Its size shows only as it comes.
    let mut raw = server.connect().await;
    raw.send(format!(
        "POST {DOWNLOADED} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    ))
    .await;
    let piece = format!("{MIB:x}\r\n[{}\r\n", " ".repeat(MIB - 1));
    for _ in 0..18 {
        within(raw.try_send(&piece)).await.expect("all of it can be written");
    }
    raw.send("0\r\n\r\n").await;
    assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 413 "));
}

#[tokio::test]
async fn the_answer_does_not_wait_for_the_body() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    raw.send(head_of("/v1/downloaded", "", 4 * MIB)).await;
    raw.send("[").await;
    assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 404 "));
    within(raw.try_send(" ".repeat(4 * MIB - 1))).await.expect("all of it can be written");
    assert_eq!(raw.closed().await, "");
}

#[tokio::test]
async fn a_small_body_leaves_its_connection_usable() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    for _ in 0..3 {
        raw.send(head_of("/v1/sessions", "", SAMPLE.len())).await;
        let (head, _) = raw.answer().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 404 ") && !head.contains("connection: close"), "{head}");
        raw.send(SAMPLE).await;
        raw.send(head_of(SESSIONS, "", SAMPLE.len())).await;
        raw.send(SAMPLE).await;
        assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
    }
}

/// Sends pieces until the server has closed the connection; gives how many bytes it took.
async fn send_until_closed(writer: &mut OwnedWriteHalf, most: usize) -> usize {
    use tokio::io::AsyncWriteExt;

    let piece = format!("{MIB:x}\r\n{}\r\n", " ".repeat(MIB));
    let mut sent = 0;
    while sent < most {
        if within(writer.write_all(piece.as_bytes())).await.is_err() {
            break;
        }
        sent += MIB;
    }
    sent
}

#[tokio::test]
async fn who_goes_on_for_ever_is_closed() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    raw.send("POST /v1/downloaded HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let (_reader, mut writer) = raw.0.into_split();
    let sent = send_until_closed(&mut writer, 1_024 * MIB).await;
    assert!((32 * MIB..1_024 * MIB).contains(&sent), "{sent}");
}

#[tokio::test]
async fn http2_gets_its_answers_and_keeps_its_connection() {
    let server = refusing_server().await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    for (status, path, headers, bytes) in REFUSED {
        let mut request = client.post(server.url(path)).body(" ".repeat(bytes));
        if !headers.is_empty() {
            request = request.header(header::CONTENT_ENCODING, "deflate");
        }
        let response = within(request.send()).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
    }
    let accepted = server.public_counts.accepted.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(accepted, 1, "one connection for all");
}
