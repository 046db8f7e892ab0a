//! Connections are shared fairly: who only waits makes room, and who does not read is not waited for.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use mediatally::limits::memory::Kind;
use mediatally::size::Size;
use mediatally::telemetry::labels::{Dropped, Refused};
use reqwest::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::certificates::Certificates;
use crate::harness::{
    PATIENCE, Raw, SAMPLE, TestServer, count, post_request, until, until_it_is, within,
};

const SOON: Duration = Duration::from_millis(150);

const FOREVER: Duration = Duration::from_hours(1);

#[tokio::test]
async fn at_its_cap_an_address_loses_its_oldest_idle_connection_and_others_have_theirs() {
    let server = TestServer::with(|config| {
        config.http.connections_per_address_max = 2;
        config.http.trusted_proxies = vec!["127.0.0.3/32".parse().unwrap()];
    })
    .await;
    let counts = &server.public_counts;
    let mut first = connect_from("127.0.0.1", server.listen).await;
    let mut second = connect_from("127.0.0.1", server.listen).await;
    let mut other = connect_from("127.0.0.2", server.listen).await;
    is_served(&mut other).await;
    is_served(&mut second).await;
    is_served(&mut first).await;
    let mut third = connect_from("127.0.0.1", server.listen).await;
    is_served(&mut third).await;
    assert_eq!(second.closed().await, "", "it waited longest");
    is_served(&mut first).await;
    is_served(&mut other).await;
    let mut proxied = Vec::new();
    for _ in 0..5 {
        let mut raw = connect_from("127.0.0.3", server.listen).await;
        is_served(&mut raw).await;
        proxied.push(raw);
    }
    assert_eq!(count(counts.dropped(Dropped::Evicted)), 1);
    assert_eq!(count(counts.refused(Refused::Address)), 0);
    until_it_is(&counts.open, 8).await;
}

#[tokio::test]
async fn a_body_that_stalls_makes_room_and_a_fresh_one_does_not() {
    let server = TestServer::with(|config| {
        config.http.connections_per_address_max = 1;
        config.http.body_timeout = FOREVER;
        config.http.stored_timeout = FOREVER;
    })
    .await;
    let counts = &server.public_counts;
    let mut stalled = server.connect().await;
    let request = post_request(SAMPLE);
    stalled.send(&request[..request.len() - 100]).await;
    until_it_is(&counts.open, 1).await;
    // Nobody is taken before a second has passed; then somebody is.
    within(async {
        loop {
            let mut next = server.connect().await;
            next.send(&request).await;
            if let Some((head, _)) = next.answer().await {
                assert!(head.starts_with("HTTP/1.1 201 "), "{head}");
                break;
            }
        }
    })
    .await;
    assert_eq!(stalled.closed().await, "");
    assert_eq!(count(counts.dropped(Dropped::Evicted)), 1);
    assert_eq!(server.live().sessions(), 1, "nothing of the other one was taken");
}

#[tokio::test]
async fn operators_get_in_however_many_connections_others_hold() {
    let server = TestServer::with(|config| config.http.header_timeout = FOREVER).await;
    let mut idle = Vec::new();
    for address in ["127.0.0.2", "127.0.0.3"] {
        for _ in 0..64 {
            idle.push(connect_from(address, server.admin_listen).await);
        }
    }
    let mut checks = Vec::new();
    for _ in 0..16 {
        let mut raw = connect_from("127.0.0.1", server.admin_listen).await;
        raw.send("GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 200 "));
        checks.push(raw);
    }
    // And from an address that holds all it may.
    let mut raw = connect_from("127.0.0.2", server.admin_listen).await;
    raw.send("GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn connections_for_which_there_is_no_memory_take_the_place_of_others() {
    let server = TestServer::with(|config| {
        config.memory.max = Size::mib(192);
        config.http.header_timeout = FOREVER;
        config.http.connections_per_address_max = config.http.connections_max;
    })
    .await;
    let evicted = server.public_counts.dropped(Dropped::Evicted);
    let mut idle = Vec::new();
    // Some 700 find memory.
    while count(evicted) == 0 {
        idle.push(server.connect().await);
        assert!(idle.len() < 2_000);
    }
    for _ in 0..20 {
        is_served(&mut server.connect().await).await;
    }
    assert!(server.held(Kind::Connections) <= (192 << 20) / 4 * 3 / 20 * 3);
    drop(idle);
    until(|| server.held(Kind::Connections) == 0).await;
}

#[tokio::test]
async fn who_reads_no_answers_on_http2_is_refused_and_then_closed() {
    let server = TestServer::with(|config| {
        config.http.answer_timeout = Duration::from_secs(1);
    })
    .await;
    let counts = &server.public_counts;
    let mut client = h2::client::Builder::new();
    client.initial_window_size(0);
    let mut client = connect_h2(&server, &client).await;
    let mut unread = Vec::new();
    for _ in 0..16 {
        let answer = within(ask(&mut client, "GET", "/api/v1/openapi.json", 0)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        unread.push(answer);
    }
    assert!(server.held(Kind::Answers) > 16 << 10);
    let answer = within(ask(&mut client, "GET", "/livez", 0)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(answer.headers().contains_key("retry-after"));
    assert!(answer.headers().contains_key("access-control-allow-origin"), "scripts can read it");
    assert!(answer.body().is_end_stream());
    until_it_is(counts.dropped(Dropped::Answers), 1).await;
    until_it_is(&counts.open, 0).await;
    until(|| server.held(Kind::Answers) == 0).await;
    assert!(ask(&mut client, "GET", "/livez", 0).await.is_err());
}

#[tokio::test]
async fn who_reads_its_answers_on_http2_gets_as_many_as_it_likes() {
    let server = TestServer::start().await;
    let mut client = h2::client::Builder::new();
    client.initial_window_size(1 << 10);
    let mut client = connect_h2(&server, &client).await;
    for _ in 0..40 {
        let answer = within(ask(&mut client, "GET", "/api/v1/openapi.json", 0)).await.unwrap();
        let mut body = answer.into_body();
        let mut bytes = 0;
        while let Some(data) = within(body.data()).await {
            let length = data.unwrap().len();
            body.flow_control().release_capacity(length).unwrap();
            bytes += length;
        }
        assert!(bytes > 1 << 10);
    }
    until(|| server.held(Kind::Answers) == 0).await;
}

#[tokio::test]
async fn who_reads_no_answers_on_http1_is_closed() {
    let server = TestServer::with(|config| config.http.answer_timeout = SOON).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    asks_and_reads_nothing(&server, Raw(socket.connect(server.listen).await.unwrap())).await;
}

#[tokio::test]
async fn who_reads_no_answers_on_tls_is_closed() {
    let certificates = Certificates::new();
    let server = certificates.server(|config| config.http.answer_timeout = SOON).await;
    let raw = certificates.client().connect(server.listen).await;
    asks_and_reads_nothing(&server, raw).await;
}

/// Asks until the server has enough of it; the system takes a good deal.
async fn asks_and_reads_nothing<S: AsyncRead + AsyncWrite + Unpin>(
    server: &TestServer,
    mut raw: Raw<S>,
) {
    let request = "GET /api/v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n";
    let dropped = server.public_counts.dropped(Dropped::Answers);
    let mut most = 0;
    within(async {
        while count(dropped) == 0 {
            let sent = tokio::time::timeout(SOON / 10, raw.try_send(request)).await;
            if matches!(sent, Ok(Err(_))) {
                break;
            }
            most = most.max(server.held(Kind::Answers));
        }
    })
    .await;
    assert!(most > 10 << 10, "an answer that waits is charged: {most}");
    until_it_is(dropped, 1).await;
    until_it_is(&server.public_counts.open, 0).await;
    until(|| server.held(Kind::Answers) == 0).await;
}

#[tokio::test]
async fn a_request_has_at_most_a_hundred_headers_on_http2_too() {
    let server = TestServer::start().await;
    let mut client = connect_h2(&server, &h2::client::Builder::new()).await;
    let answer = within(ask(&mut client, "GET", "/livez", 100)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let answer = within(ask(&mut client, "GET", "/livez", 101)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert!(answer.body().is_end_stream());
    assert_eq!(count(&server.public_counts.malformed), 1);
    let answer = within(ask(&mut client, "GET", "/livez", 1)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "the others are not touched");
}

#[tokio::test]
async fn heads_of_open_requests_are_charged_until_they_are_answered() {
    let server = TestServer::with(|config| config.memory.max = Size::mib(192)).await;
    let mut client = connect_h2(&server, &h2::client::Builder::new()).await;
    let answer = within(ask(&mut client, "GET", "/livez", 0)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let before = server.held(Kind::Connections);
    let mut open = Vec::new();
    for _ in 0..100 {
        client = within(client.ready()).await.unwrap();
        let (_, body) = client.send_request(head("POST", "/api/v1/sessions", 90), false).unwrap();
        open.push(body);
    }
    until(|| server.held(Kind::Connections) > before + 100 * 90 * 150).await;
    drop(open);
    until(|| server.held(Kind::Connections) <= before + (80 << 10)).await;
    let answer = within(ask(&mut client, "GET", "/livez", 0)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_client_that_takes_back_more_than_it_lets_be_answered_is_closed() {
    let server = TestServer::start().await;
    let mut client = connect_h2(&server, &h2::client::Builder::new()).await;
    let resets = server.public_counts.dropped(Dropped::Resets);
    within(async {
        while count(resets) == 0 {
            let Ok(ready) = client.clone().ready().await else { break };
            client = ready;
            let sent = client.send_request(head("POST", "/api/v1/sessions", 0), false);
            let Ok((_, mut body)) = sent else { break };
            // It has come, and waits for its body, before it is taken back.
            tokio::time::sleep(Duration::from_millis(2)).await;
            body.send_reset(h2::Reason::CANCEL);
        }
    })
    .await;
    until_it_is(resets, 1).await;
}

#[tokio::test]
async fn a_large_stored_session_comes_through_a_small_window() {
    let server = TestServer::start().await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .timeout(PATIENCE)
        .build()
        .unwrap();
    let body = format!("[{}]", " ".repeat(15 << 20));
    let url = server.url("/api/v1/sessions");
    let answer = client.post(&url).body(body).send().await.unwrap();
    // It has come whole, and says nothing.
    assert_eq!(answer.status(), 400);
    assert_eq!(count(server.public_counts.dropped(Dropped::Flood)), 0);
}

/// A client of HTTP/2 may have a window of each body on its way when it hears that it was too slow.
#[tokio::test]
async fn bodies_that_come_after_their_time_are_no_flood() {
    const DATA_BYTES: usize = 16 << 10;
    let server = TestServer::with(|config| config.http.body_timeout = SOON).await;
    let mut stream = TcpStream::connect(server.listen).await.unwrap();
    let path = b"/api/v1/sessions";
    let head = [&[0x83, 0x86, 0x01, 1, b'x', 0x04, u8::try_from(path.len()).unwrap()], &path[..]];
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    hello.extend(frame(4, 0, 0, b""));
    let streams = (1..40).step_by(2);
    streams.clone().for_each(|id| hello.extend(frame(1, 0x4, id, &head.concat())));
    stream.write_all(&hello).await.unwrap();
    let mut window = 0xffff;
    let mut resets = 0;
    while resets < streams.clone().count() {
        resets += usize::from(next_frame(&mut stream, &mut window).await.0 == 3);
    }
    for id in streams.flat_map(|id| [id; 3]) {
        while window < DATA_BYTES {
            next_frame(&mut stream, &mut window).await;
        }
        stream.write_all(&frame(0, 0, id, &[b' '; DATA_BYTES])).await.unwrap();
        window -= DATA_BYTES;
    }
    let alive = [&[0x82, 0x86, 0x01, 1, b'x', 0x04, 6], &b"/livez"[..]].concat();
    stream.write_all(&frame(1, 0x5, 41, &alive)).await.unwrap();
    while next_frame(&mut stream, &mut window).await != (1, 41) {}
    assert_eq!(count(server.public_counts.dropped(Dropped::Flood)), 0);
}

/// A frame of HTTP/2: its type, its flags, its stream and what is in it.
fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}

/// Reads a frame of HTTP/2, and adds to the window of the connection if it says so; gives its type and stream.
async fn next_frame(stream: &mut TcpStream, window: &mut usize) -> (u8, u32) {
    let mut head = [0; 9];
    within(stream.read_exact(&mut head)).await.expect("the connection stays");
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let (kind, id) = (head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
    let mut payload = vec![0; length as usize];
    within(stream.read_exact(&mut payload)).await.expect("the connection stays");
    if (kind, id) == (8, 0) {
        *window += u32::from_be_bytes(payload.try_into().unwrap()) as usize;
    }
    (kind, id)
}

#[tokio::test]
async fn a_request_that_can_be_read_in_two_ways_is_refused_at_both_listeners() {
    let server = TestServer::start().await;
    for listen in [server.listen, server.admin_listen] {
        for (head, status) in [
            ("GET /livez HTTP/1.1\r\nhost: localhost\r\n", "200"),
            ("GET /livez HTTP/1.0\r\n", "200"),
            ("OPTIONS * HTTP/1.1\r\nhost: localhost\r\n", "404"),
            ("GET /livez HTTP/1.1\r\n", "400"),
            ("GET /livez HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n", "400"),
        ] {
            let mut raw = Raw::connect(listen).await;
            raw.send(format!("{head}\r\n")).await;
            let (answer, body) = raw.answer().await.unwrap();
            assert_eq!(&answer[9..12], status, "{head}{answer}");
            if status == "400" {
                assert!(answer.contains("connection: close"), "{answer}");
                assert!(body.contains("Host"), "{body}");
                assert_eq!(raw.closed().await, "");
            }
        }
    }
}

async fn is_served(raw: &mut Raw) {
    raw.send(post_request(SAMPLE)).await;
    assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
}

async fn connect_from(address: &str, to: SocketAddr) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
    Raw(socket.connect(to).await.unwrap())
}

async fn connect_h2(server: &TestServer, client: &h2::client::Builder) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(server.listen).await.unwrap();
    let (client, connection) = client.handshake(stream).await.unwrap();
    // It ends when the server closes it, in whatever way.
    tokio::spawn(connection);
    client
}

fn head(method: &str, path: &str, headers: usize) -> axum::http::Request<()> {
    let mut request =
        axum::http::Request::builder().method(method).uri(format!("http://localhost{path}"));
    for number in 0..headers {
        request = request.header(format!("x-{number}"), "1");
    }
    request.body(()).unwrap()
}

async fn ask(
    client: &mut SendRequest<Bytes>,
    method: &str,
    path: &str,
    headers: usize,
) -> Result<axum::http::Response<h2::RecvStream>, h2::Error> {
    *client = client.clone().ready().await?;
    let (answer, _) = client.send_request(head(method, path, headers), true)?;
    answer.await
}
