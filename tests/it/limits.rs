//! The bounds of all that an outsider controls.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use mediatally::size::Size;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::certificates::{ByHand, Certificates};
use crate::harness::{Raw, SAMPLE, TestServer, count, post_request, until_it_is, within};
use crate::metrics::Scrape;

const SOON: Duration = Duration::from_millis(150);

/// A time-out in which a slow machine finishes a handshake.
const UNHURRIED: Duration = Duration::from_secs(1);

const FOREVER: Duration = Duration::from_hours(1);

/// The sample, blown up with blanks to exactly this many bytes.
fn sample_of(bytes: usize) -> String {
    format!("{SAMPLE}{}", " ".repeat(bytes - SAMPLE.len()))
}

#[tokio::test]
async fn a_body_may_have_128_kib_and_not_a_byte_more() {
    let server = TestServer::start().await;
    assert_eq!(server.post(sample_of(128 << 10)).await.status(), 201);
    assert_eq!(server.post(sample_of((128 << 10) + 1)).await.status(), 413);
    let mut raw = server.connect().await;
    raw.send("POST /api/v1/sessions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let piece = sample_of((128 << 10) + 1);
    raw.send(format!("{:x}\r\n{piece}\r\n0\r\n\r\n", piece.len())).await;
    let (head, body) = raw.answer().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    assert!(body.contains("larger than 128KiB"), "{body}");
}

#[tokio::test]
async fn the_bound_of_bodies_is_a_setting() {
    let server = TestServer::with(|config| config.http.event_bytes_max = Size::kib(1)).await;
    assert_eq!(server.post(sample_of(1 << 10)).await.status(), 201);
    assert_eq!(server.post(sample_of((1 << 10) + 1)).await.status(), 413);
}

#[tokio::test]
async fn a_gzip_bomb_is_let_go() {
    let server = TestServer::start().await;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..64 {
        encoder.write_all(&vec![b' '; 1 << 20]).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < 128 << 10);
    let url = server.url("/api/v1/sessions");
    for encoding in ["gzip", "identity"] {
        let request = server.client.post(&url).header("content-encoding", encoding);
        let response = request.body(bomb.clone()).send().await.unwrap();
        assert_eq!(response.status(), 413, "{encoding}");
    }
}

#[tokio::test]
async fn who_asks_before_sending_is_told_before_sending() {
    let server = TestServer::start().await;
    let head = |length: usize| {
        format!(
            "POST /api/v1/sessions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\
             content-length: {length}\r\n\r\n"
        )
    };
    let mut raw = server.connect().await;
    raw.send(head(1 << 30)).await;
    assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 413 "));
    let mut raw = server.connect().await;
    raw.send(head(SAMPLE.len())).await;
    assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 100 "));
    raw.send(SAMPLE).await;
    assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
}

#[tokio::test]
async fn a_head_has_a_bound() {
    let server = TestServer::start().await;
    let mut raw = server.connect().await;
    // The server may close before it has read all of it.
    let _ = tokio::io::AsyncWriteExt::write_all(
        &mut raw.0,
        format!("GET /livez HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(64 << 10)).as_bytes(),
    )
    .await;
    let said = raw.closed().await;
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 431 "), "{said}");
    let malformed = &server.public_counts.malformed;
    until_it_is(malformed, 1).await;
    // A client that was told https where there is no TLS.
    let mut raw = server.connect().await;
    raw.send("\x16\x03\x01\x02\x00\x01\x00\x01\u{3}\x03\r\n\r\n").await;
    let said = raw.closed().await;
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 400 "), "{said}");
    until_it_is(malformed, 2).await;
    // Who comes and goes, or says something sound, is not one of them.
    drop(server.connect().await);
    let mut raw = server.connect().await;
    raw.send("GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    raw.closed().await;
    until_it_is(&server.public_counts.open, 0).await;
    assert_eq!(count(malformed), 2);
}

#[tokio::test]
async fn a_slow_body_gets_408_and_its_connection_is_closed() {
    let server = TestServer::with(|config| config.http.body_timeout = SOON).await;
    let mut raw = server.connect().await;
    let request = post_request(SAMPLE);
    raw.send(&request[..request.len() - 1]).await;
    let (head, body) = raw.answer().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
    assert!(head.contains("access-control-allow-origin: *"));
    assert!(body.contains("within 150 ms"), "{body}");
    assert_eq!(raw.closed().await, "");
    assert_eq!(server.live().sessions(), 0);
}

#[tokio::test]
async fn a_slow_head_a_silent_and_an_idle_connection_are_closed() {
    let server = TestServer::with(|config| {
        config.http.header_timeout = SOON;
        config.http.keep_alive = SOON;
    })
    .await;
    let mut silent = server.connect().await;
    let mut slow = server.connect().await;
    slow.send("POST /api/v1/sess").await;
    let mut idle = server.connect().await;
    idle.send(post_request(SAMPLE)).await;
    assert!(idle.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
    assert_eq!(silent.closed().await, "");
    assert_eq!(slow.closed().await, "");
    assert_eq!(idle.closed().await, "");
}

#[tokio::test]
async fn a_head_that_trickles_is_closed_though_bytes_keep_coming() {
    let server = TestServer::with(|config| config.http.header_timeout = SOON).await;
    let mut raw = server.connect().await;
    raw.send("GET /livez HTTP/1.1\r\n").await;
    within(async {
        // Each byte is well inside the time-out; their sum is not.
        while tokio::io::AsyncWriteExt::write_all(&mut raw.0, b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn below_tls_whoever_is_slow_is_closed_in_time_while_others_are_served() {
    let certificates = Certificates::new();
    let server = certificates
        .server(|config| {
            config.http.header_timeout = UNHURRIED;
            config.http.body_timeout = UNHURRIED;
            config.http.keep_alive = UNHURRIED;
        })
        .await;
    let (client, request) = (certificates.client(), post_request(SAMPLE));
    let begun = tokio::time::Instant::now();
    let mut silent = server.connect().await;
    let mut shaking = ByHand::connect(&client, server.listen).await;
    let hello = shaking.says();
    let mut cut = ByHand::connect(&client, server.listen).await;
    cut.shake_hands().await;
    let sealed = cut.seals(&request);
    let mut head = client.connect(server.listen).await;
    head.send("GET /livez HTTP/1.1\r\n").await;
    let mut body = client.connect(server.listen).await;
    body.send(&request[..request.len() - SAMPLE.len()]).await;
    let mut idle = client.connect(server.listen).await;
    idle.send(&request).await;
    assert!(idle.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
    let slow = tokio::spawn(async move {
        tokio::join!(
            async { assert_eq!(silent.closed().await, "") },
            async { assert_eq!(idle.closed().await, "") },
            trickle(shaking.stream, hello),
            trickle(cut.stream, sealed),
            async { while pause_then(head.try_send("x")).await.is_ok() {} },
            async {
                let (mut answer, mut bytes) = tokio::io::split(body.0);
                let mut said = Vec::new();
                tokio::select! {
                    // A reset is an end too.
                    _ = answer.read_to_end(&mut said) => {}
                    () = async {
                        for byte in SAMPLE.as_bytes()[..SAMPLE.len() - 1].chunks(1) {
                            let _ = pause_then(bytes.write_all(byte)).await;
                        }
                        panic!("the whole body was waited for");
                    } => {}
                }
                assert!(said.starts_with(b"HTTP/1.1 408 "));
            },
        );
        assert!(begun.elapsed() >= UNHURRIED, "nobody is closed before the time");
    });
    while !slow.is_finished() {
        let mut raw = client.connect(server.listen).await;
        raw.send(&request).await;
        assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
    }
    slow.await.unwrap();
    assert_eq!(count(&server.public_counts.tls_handshake_failures), 1, "that of who was slow");
}

/// Sends these bytes one by one, each well inside any time-out, until the server has enough of it.
async fn trickle(mut stream: TcpStream, bytes: Vec<u8>) {
    for byte in bytes.chunks(1) {
        if pause_then(stream.write_all(byte)).await.is_err() {
            return;
        }
    }
    panic!("all of it was waited for");
}

async fn pause_then<F: Future>(then: F) -> F::Output {
    tokio::time::sleep(Duration::from_millis(10)).await;
    then.await
}

#[tokio::test]
async fn a_connection_beyond_the_cap_takes_the_place_of_one_that_waits_for_its_peer() {
    let server = TestServer::with(|config| config.http.connections_max = 1).await;
    let mut first = server.connect().await;
    first.send("POST /api/v1/sess").await;
    until_it_is(&server.public_counts.open, 1).await;
    let mut second = server.connect().await;
    second.send(post_request(SAMPLE)).await;
    assert_eq!(first.closed().await, "");
    let (head, _) = second.answer().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 201 "), "{head}");
    assert!(head.contains("connection: close"), "at the cap connections make room: {head}");
    assert_eq!(second.closed().await, "");
}

#[tokio::test]
async fn who_shakes_hands_has_a_place_below_the_cap() {
    let certificates = Certificates::new();
    let server = certificates.server(|config| config.http.connections_max = 1).await;
    let client = certificates.client();
    let mut first = ByHand::connect(&client, server.listen).await;
    let hello = first.says();
    first.send(&hello[..1]).await;
    until_it_is(&server.public_counts.open, 1).await;
    let mut second = client.connect(server.listen).await;
    assert!(first.stream.read_u8().await.is_err(), "it made room");
    second.send(post_request(SAMPLE)).await;
    assert!(second.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
}

#[tokio::test]
async fn five_thousand_idle_connections_keep_nobody_waiting_and_leave_nothing_behind() {
    const IDLE: usize = 5_000;
    // Both ends of each are files of this process.
    if !may_open(2 * IDLE + 1_000) {
        return;
    }
    let server = TestServer::with(|config| {
        config.http.header_timeout = FOREVER;
        config.http.connections_per_address_max = config.http.connections_max;
    })
    .await;
    let open = &server.public_counts.open;
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        idle.push(server.connect().await);
    }
    until_it_is(open, IDLE as u64).await;
    for _ in 0..20 {
        let mut raw = server.connect().await;
        raw.send(post_request(SAMPLE)).await;
        assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
    }
    until_it_is(open, IDLE as u64).await;
    // And they are no less connections than others.
    let last = idle.last_mut().unwrap();
    last.send(post_request(SAMPLE)).await;
    assert!(last.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
    drop(idle);
    until_it_is(open, 0).await;
    assert_eq!(server.live().sessions(), 21);
    assert_eq!(count(&server.public_counts.accept_errors), 0);
}

/// Raises the limit of open files as far as the system lets us; tells whether that is enough.
#[expect(clippy::print_stderr, reason = "who runs the tests should know what was not tested")]
fn may_open(files: usize) -> bool {
    let limit = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit });
    let enough = limit.is_none_or(|limit| limit >= files as u64);
    if !enough {
        eprintln!("skipped: {files} open files are needed, {limit:?} are allowed");
    }
    enough
}

#[tokio::test]
async fn below_the_cap_connections_are_kept() {
    let server = TestServer::with(|config| config.http.connections_max = 2).await;
    let mut first = server.connect().await;
    for _ in 0..2 {
        first.send(post_request(SAMPLE)).await;
        let (head, _) = first.answer().await.unwrap();
        assert!(!head.contains("connection: close"), "{head}");
    }
    let mut second = server.connect().await;
    second.send(post_request(SAMPLE)).await;
    assert!(second.answer().await.unwrap().0.contains("connection: close"), "the cap is reached");
}

#[tokio::test]
async fn a_client_that_sends_no_more_still_gets_its_answer() {
    let server = TestServer::start().await;
    for _ in 0..50 {
        let mut raw = server.connect().await;
        raw.send(post_request(SAMPLE)).await;
        tokio::io::AsyncWriteExt::shutdown(&mut raw.0).await.unwrap();
        assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
    }
}

#[tokio::test]
async fn a_stray_line_break_after_a_body_is_no_head() {
    let server = TestServer::with(|config| config.http.header_timeout = SOON).await;
    let mut raw = server.connect().await;
    raw.send(format!("{}\r\n", post_request(SAMPLE))).await;
    raw.answer().await.unwrap();
    tokio::time::sleep(SOON * 3).await;
    raw.send(post_request(SAMPLE)).await;
    assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
}

#[tokio::test]
async fn an_answer_is_not_many_times_larger_than_its_request() {
    let server = TestServer::start().await;
    let ids: Vec<_> = (0..3_000).map(|n| format!("\"{n}\":0")).collect();
    let name = "~".repeat(90_000);
    let body = format!(
        "{{\"eventType\":\"sessionStart\",\"params\":{{\"visitor.customerIDs\":{{\"{name}\":{{{}}}}}}}}}",
        ids.join(",")
    );
    let answer = server.post(body).await.bytes().await.unwrap();
    assert!(answer.len() < 1 << 20, "{} bytes", answer.len());
}

#[tokio::test]
async fn bodies_that_arrive_slowly_are_bounded_together() {
    let server = TestServer::with(|config| {
        config.http.bodies_bytes_max = Size::kib(256);
        config.memory.client_share = 1.0;
        config.http.body_timeout = FOREVER;
    })
    .await;
    let begin = "POST /api/v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n{";
    // Each gets 4 KiB before it has come, so there is room for all but one.
    let mut slow = Vec::new();
    for _ in 0..65 {
        let mut raw = server.connect().await;
        raw.send(begin).await;
        slow.push(raw);
    }
    let answers = slow.iter_mut().map(|raw| Box::pin(raw.answer()));
    let (answer, ..) = futures_util::future::select_all(answers).await;
    assert!(answer.unwrap().0.starts_with("HTTP/1.1 503 "));
    assert_eq!(server.post(SAMPLE).await.status(), 201, "a small body is none of them");
}

#[tokio::test]
async fn who_only_announces_a_body_takes_no_room_from_others() {
    // An eighth of the default, so that an eighth of the sockets, and of the open files, is enough.
    let bound = Size::mib(32);
    let server = TestServer::with(|config| {
        assert_eq!(config.http.bodies_bytes_max, Size::mib(256));
        config.http.bodies_bytes_max = bound;
        config.http.body_timeout = FOREVER;
    })
    .await;
    let announced = 128 << 10;
    let head =
        format!("POST /api/v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-length: {announced}\r\n\r\n");
    let sockets = u32::try_from(bound.as_usize() / announced + 4).unwrap();
    let mut silent = Vec::new();
    for _ in 0..sockets {
        let mut raw = server.connect().await;
        raw.send(format!("{head}{{")).await;
        silent.push(raw);
    }
    let url = server.admin_url("/metrics");
    within(async {
        while Scrape::of(&server.client, &url).await.sum("in_flight", &[]) < f64::from(sockets) {}
    })
    .await;
    let mut player = server.connect().await;
    player.send(format!("{head}{}", &SAMPLE[..100])).await;
    player.send(format!("{}{}", &SAMPLE[100..], " ".repeat(announced - SAMPLE.len()))).await;
    let (answer, body) = player.answer().await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}{body}");
    let scrape = Scrape::of(&server.client, &url).await;
    assert!(scrape.sum("shed_total", &[]) < 1.0, "nobody was sent away");
}

#[tokio::test]
async fn an_aged_connection_ends_with_an_answer() {
    let server = TestServer::with(|config| {
        config.http.connection_age_max = SOON;
        config.http.header_timeout = SOON;
    })
    .await;
    let mut answered = 0;
    let mut raw: Raw = server.connect().await;
    loop {
        raw.send(post_request(SAMPLE)).await;
        let (head, _) = raw.answer().await.expect("every request is answered");
        assert!(head.starts_with("HTTP/1.1 201 "), "{head}");
        answered += 1;
        if head.contains("connection: close") {
            break;
        }
    }
    assert_eq!(raw.closed().await, "");
    assert_eq!(server.live().sessions(), answered);
}

#[tokio::test]
async fn live_sessions_are_bounded_and_the_end_of_one_makes_room() {
    let server = TestServer::with(|config| config.live.sessions_max = 1).await;
    assert_eq!(server.post(SAMPLE).await.status(), 201);
    let response = server.post(SAMPLE).await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "10");
    assert!(response.text().await.unwrap().contains("nothing was kept"));
    server.clock.advance(600_000);
    server.close_due().await;
    assert_eq!(server.post(SAMPLE).await.status(), 201);
}

#[tokio::test]
async fn the_memory_of_live_sessions_is_bounded() {
    let server = TestServer::with(|config| {
        config.live.bytes_max = Size::mib(1);
        config.memory.client_share = 1.0;
    })
    .await;
    let metadata = format!(
        "{{\"customMetadata\":{{\"k\":\"{}\"}},{}",
        "v".repeat(50_000),
        &SAMPLE.trim_start()[1..]
    );
    let mut taken = 0;
    loop {
        let status = server.post(metadata.clone()).await.status().as_u16();
        if status == 503 {
            break;
        }
        assert_eq!(status, 201);
        taken += 1;
    }
    assert_eq!(taken, 17, "each holds some 50 000 bytes of seven eighths of 1 MiB");
    assert!(server.live().bytes() <= (1 << 20) / 8 * 7, "the rest is for their events");
}
