//! How the server stops: in order, and without losing a request that it began to read.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Version};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mediatally::commands::serve::Stop;
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use crate::certificates::{ByHand, Certificates, Client, HOST};
use crate::harness::{
    Process, Raw, SAMPLE, TestServer, client, post_request, until, until_much_is_done, within,
};
use crate::metrics::Scrape;

const FOREVER: Duration = Duration::from_hours(1);

#[tokio::test]
async fn requests_that_have_begun_are_answered_and_idle_connections_closed() {
    let server = TestServer::start().await;
    let request = post_request(SAMPLE);
    let mut idle = server.connect().await;
    idle.send(&request).await;
    idle.answer().await.unwrap();
    let mut begun = Vec::new();
    for bytes in [1, 10, 60, request.len() - 1] {
        // The first request of its connection, and the second.
        let mut fresh = server.connect().await;
        fresh.send(&request[..bytes]).await;
        begun.push((bytes, fresh));
        let mut used = server.connect().await;
        used.send(&request).await;
        used.answer().await.unwrap();
        used.send(&request[..bytes]).await;
        begun.push((bytes, used));
    }
    server.stop(Stop::Now).await;
    assert_eq!(idle.closed().await, "");
    for (bytes, mut raw) in begun {
        raw.send(&request[bytes..]).await;
        let (head, _) = raw.answer().await.unwrap_or_else(|| panic!("{bytes} bytes were read"));
        assert!(head.starts_with("HTTP/1.1 201 ") && head.contains("connection: close"), "{head}");
        assert_eq!(raw.closed().await, "");
    }
    assert_eq!(server.ended().await, ExitCode::SUCCESS);
}

/// Whoever else can write to the data folder must not be able to hold the server up.
#[tokio::test]
async fn a_fifo_in_the_place_of_refused_bodies_hangs_neither_the_start_nor_the_stop() {
    let folder = tempfile::tempdir().unwrap();
    let rejects = folder.path().join("data/rejects");
    std::fs::create_dir_all(&rejects).unwrap();
    for name in ["current.ndjson", "previous.ndjson"] {
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from(0o666));
        rustix::fs::mknodat(rustix::fs::CWD, rejects.join(name), kind, mode, 0).unwrap();
    }
    let process = Process::start(folder.path(), &[("MEDIATALLY_SHUTDOWN__GRACE", "0s")]).await;
    let refused = client().post(process.url("/api/v1/sessions")).body("{").send().await.unwrap();
    assert_eq!(refused.status(), 400);
    process.signal(Signal::TERM);
    let mut lines = process.seen.clone();
    let (status, rest) = process.ended().await;
    assert_eq!(status.code(), Some(0));
    lines.extend(rest);
    let said = lines.join("\n");
    assert!(said.contains("current.ndjson is not a regular file; remove it"), "{said}");
}

#[tokio::test]
async fn a_data_folder_that_everybody_can_write_to_is_warned_of_or_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, Permissions::from_mode(0o777)).unwrap();
    let process = Process::start(folder.path(), &[("MEDIATALLY_SHUTDOWN__GRACE", "0s")]).await;
    let said = process.seen.join("\n");
    assert!(said.contains("everybody can write to a folder of the data; chmod o-w it"), "{said}");
    process.signal(Signal::TERM);
    process.ended().await;
    let settings = folder.path().join("strict.toml");
    std::fs::write(&settings, "[storage]\nstrict_permissions = true").unwrap();
    let mut command = Process::command(folder.path());
    command.args(["--config", settings.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    let output = within(command.output()).await.unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("everybody can write to") && said.contains("(mode 0777)"), "{said}");
}

#[tokio::test]
async fn below_tls_too_requests_that_have_begun_are_answered_and_idle_connections_closed() {
    let certificates = Certificates::new();
    let server = certificates.server(|_| {}).await;
    let (client, request) = (certificates.client(), post_request(SAMPLE));
    let mut idle = client.connect(server.listen).await;
    idle.send(&request).await;
    idle.answer().await.unwrap();
    let mut begun = Vec::new();
    // In the header of a record, in what it holds, and a record whose head of HTTP is not complete.
    for (text, bytes) in [(&*request, 1), (&request, 5), (&request, 100), (&request[..10], 32)] {
        // The first request of its connection, and the second.
        for used in [false, true] {
            let mut hand = ByHand::connect(&client, server.listen).await;
            hand.shake_hands().await;
            if used {
                assert!(hand.post(&request).await.starts_with("HTTP/1.1 201 "));
            }
            let mut sealed = hand.seals(text);
            let rest = sealed.split_off(bytes);
            hand.send(&sealed).await;
            begun.push((bytes, used, hand, rest, &request[text.len()..]));
        }
    }
    // Half a handshake, too.
    let mut shaking = ByHand::connect(&client, server.listen).await;
    let hello = shaking.says();
    shaking.send(&hello[..3]).await;
    server.stop(Stop::Now).await;
    assert_eq!(idle.closed().await, "");
    for (bytes, used, mut hand, mut rest, then) in begun {
        rest.extend(hand.seals(then));
        hand.send(&rest).await;
        let said = hand.closed().await;
        assert!(said.starts_with("HTTP/1.1 201 "), "{bytes} bytes were read, {used}: {said}");
        assert!(said.contains("connection: close"), "{said}");
    }
    shaking.send(&hello[3..]).await;
    shaking.shake_hands().await;
    let sealed = shaking.seals(&request);
    shaking.send(&sealed).await;
    assert!(shaking.closed().await.starts_with("HTTP/1.1 201 "));
    assert_eq!(server.ended().await, ExitCode::SUCCESS);
}

#[tokio::test]
async fn a_connection_that_the_system_had_accepted_is_served() {
    let server = TestServer::with(|config| config.http.connections_max = 1).await;
    let mut first = server.connect().await;
    // Its body has just begun, so it does not make room for another one yet.
    let rest = &SAMPLE[100..];
    first.send(&post_request(SAMPLE)[..post_request(SAMPLE).len() - rest.len()]).await;
    let url = server.admin_url("/metrics");
    within(async { while Scrape::of(&server.client, &url).await.sum("in_flight", &[]) < 1.0 {} })
        .await;
    let mut queued = server.connect().await;
    queued.send(post_request(SAMPLE)).await;
    server.stop(Stop::Now).await;
    assert!(queued.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
    first.send(rest).await;
    assert!(first.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
    assert_eq!(server.ended().await, ExitCode::SUCCESS);
}

#[tokio::test]
async fn http2_connections_finish_and_leave() {
    let server = TestServer::start().await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let post = || client.post(server.url("/api/v1/sessions")).body(SAMPLE).send();
    assert_eq!(post().await.unwrap().status(), 201);
    server.stop(Stop::Now).await;
    assert_eq!(server.ended().await, ExitCode::SUCCESS);
}

#[tokio::test]
async fn a_request_on_http2_that_has_begun_is_finished() {
    let server = TestServer::with(|config| config.shutdown.grace = FOREVER).await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    let (begin, rest) = SAMPLE.split_at(100);
    let body = futures_util::stream::once(async move { Ok::<_, std::io::Error>(begin.to_owned()) });
    let late = futures_util::stream::once(async move {
        receiver.await.map_err(std::io::Error::other)?;
        Ok(rest.to_owned())
    });
    let body = reqwest::Body::wrap_stream(futures_util::StreamExt::chain(body, late));
    let url = server.url("/api/v1/sessions");
    assert_eq!(client.post(&url).body(SAMPLE).send().await.unwrap().status(), 201);
    let request = tokio::spawn(client.post(&url).body(body).send());
    server.stop(Stop::Now).await;
    sender.send(()).unwrap();
    let response = request.await.unwrap().unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (201, reqwest::Version::HTTP_2));
    assert_eq!(server.ended().await, ExitCode::SUCCESS);
}

#[tokio::test]
async fn http2_on_tls_finishes_what_has_slow_and_leaves() {
    let certificates = Certificates::new();
    let server = certificates.server(|config| config.shutdown.grace = FOREVER).await;
    let raw = certificates.client_offering(&["h2"]).connect(server.listen).await;
    let (mut requests, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(raw.0)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut post = |body| {
        let request = Request::post(format!("https://{HOST}/api/v1/sessions"));
        requests.send_request(request.body(body).unwrap())
    };
    assert_eq!(post(Body::from(SAMPLE)).await.unwrap().status(), 201);
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    let (begin, rest) = SAMPLE.split_at(100);
    let late = async move { receiver.await.map(|()| rest) };
    let body = futures_util::stream::once(async move { Ok(begin) });
    let body = futures_util::StreamExt::chain(body, futures_util::stream::once(late));
    let slow = tokio::spawn(post(Body::from_stream(body)));
    // That it has arrived is known when one that was sent after it is answered.
    assert_eq!(post(Body::from(SAMPLE)).await.unwrap().status(), 201);
    server.stop(Stop::Now).await;
    until(|| std::net::TcpStream::connect(server.listen).is_err()).await;
    sender.send(()).unwrap();
    let response = slow.await.unwrap().unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (201, Version::HTTP_2));
    connection.await.unwrap().unwrap();
    assert_eq!(server.ended().await, ExitCode::SUCCESS);
}

#[tokio::test]
async fn a_log_that_nobody_reads_does_not_end_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(folder.path(), &[("MEDIATALLY_SHUTDOWN__GRACE", "0s")]).await;
    let mut raw = Raw(TcpStream::connect(&process.listen).await.unwrap());
    let request = post_request(SAMPLE);
    raw.send(&request[..50]).await;
    process.close_log().await;
    process.signal(Signal::TERM);
    raw.send(&request[50..]).await;
    assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
    assert_eq!(process.ended().await.0.code(), Some(0));
}

#[tokio::test]
async fn in_the_grace_the_server_is_not_ready_but_serves_and_a_second_word_ends_it() {
    let server = TestServer::with(|config| config.shutdown.grace = FOREVER).await;
    server.stop(Stop::AfterGrace).await;
    let ready = async |url: String| server.client.get(url).send().await.unwrap().status().as_u16();
    crate::harness::within(async { while ready(server.url("/readyz")).await != 503 {} }).await;
    assert_eq!(ready(server.admin_url("/readyz")).await, 503);
    assert_eq!(ready(server.url("/livez")).await, 200);
    let mut raw = server.connect().await;
    raw.send(post_request(SAMPLE)).await;
    let (head, _) = raw.answer().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 201 ") && head.contains("connection: close"), "{head}");
    server.stop(Stop::Now).await;
    assert_eq!(server.ended().await, ExitCode::FAILURE);
}

#[tokio::test]
async fn what_never_ends_does_not_keep_the_server() {
    let server = TestServer::with(|config| {
        config.http.header_timeout = FOREVER;
        config.shutdown.drain_max = Duration::from_millis(100);
    })
    .await;
    let mut raw = server.connect().await;
    raw.send("POST /api/v1/sess").await;
    let begun = tokio::time::Instant::now();
    server.stop(Stop::Now).await;
    assert_eq!(server.ended().await, ExitCode::SUCCESS);
    assert!(begun.elapsed() >= Duration::from_millis(100), "it was waited for");
}

/// Players that post until the server is gone, and count their answers.
struct Load {
    answered: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    players: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    /// On TLS, if they have a client for it.
    fn start(address: &str, players: usize, client: Option<&Client>) -> Self {
        let (answered, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let player = || {
            let address: SocketAddr = address.parse().unwrap();
            let (client, answered, over) =
                (client.cloned(), Arc::clone(&answered), Arc::clone(&over));
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let Ok(stream) = TcpStream::connect(address).await else {
                        return;
                    };
                    let Some(client) = &client else {
                        post_until_told(Raw(stream), &answered).await;
                        continue;
                    };
                    // In the drain nobody may be there to shake hands with.
                    if let Ok(raw) = client.over(stream).await {
                        post_until_told(raw, &answered).await;
                    }
                }
            })
        };
        let players = (0..players).map(|_| player()).collect();
        Self { answered, over, players }
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    async fn end(self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        for player in self.players {
            player.await.unwrap();
        }
        self.answered.load(Ordering::Relaxed)
    }
}

/// Uses a connection again and again, until its answer says that it is the last.
async fn post_until_told<S: AsyncRead + AsyncWrite + Unpin>(
    mut raw: Raw<S>,
    answered: &AtomicUsize,
) {
    let request = post_request(SAMPLE);
    while raw.try_send(&request).await.is_ok() {
        let Some((head, _)) = raw.answer().await else {
            return;
        };
        assert!(head.starts_with("HTTP/1.1 201 "), "{head}");
        answered.fetch_add(1, Ordering::Relaxed);
        if head.contains("connection: close") {
            return;
        }
    }
}

#[tokio::test]
async fn sigterm_under_load_answers_every_request_that_it_took_and_exits_with_0() {
    sigterm_under_load(&[], None).await;
}

#[tokio::test]
async fn sigterm_under_load_loses_nothing_below_tls_either() {
    let certificates = Certificates::new();
    let (certificate, key) = (certificates.certificate(), certificates.key());
    let settings = [
        ("MEDIATALLY_TLS__CERTIFICATE", certificate.to_str().unwrap()),
        ("MEDIATALLY_TLS__KEY", key.to_str().unwrap()),
    ];
    sigterm_under_load(&settings, Some(&certificates.client())).await;
}

async fn sigterm_under_load(settings: &[(&str, &str)], client: Option<&Client>) {
    let folder = tempfile::tempdir().unwrap();
    let settings = [settings, &[("MEDIATALLY_SHUTDOWN__GRACE", "300ms")]].concat();
    let process = Process::start(folder.path(), &settings).await;
    let load = Load::start(&process.listen, 32, client);
    until_much_is_done(|| load.answered(), || load.answered() > 500).await;
    process.signal(Signal::TERM);
    let (status, lines) = process.ended().await;
    assert_eq!(status.code(), Some(0));
    let stopped: serde_json::Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert_eq!(stopped["message"], "stopped");
    // Each session that was opened is one answer that a player read: none was lost.
    assert_eq!(stopped["live_sessions"], load.end().await);
}

#[tokio::test]
async fn sigint_skips_the_grace() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[("MEDIATALLY_SHUTDOWN__GRACE", "1h")]).await;
    process.signal(Signal::INT);
    let (status, _) = process.ended().await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[("MEDIATALLY_SHUTDOWN__GRACE", "1h")]).await;
    process.signal(Signal::TERM);
    let ready = process.admin_url("/readyz");
    crate::harness::within(async {
        while client().get(&ready).send().await.unwrap().status() != 503 {}
    })
    .await;
    process.signal(Signal::TERM);
    let (status, lines) = process.ended().await;
    assert_eq!(status.code(), Some(1));
    assert!(lines.last().unwrap().contains("told twice to stop"), "{lines:?}");
}

#[tokio::test]
async fn after_the_stop_nobody_listens() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]).await;
    let address = process.listen.clone();
    let mut idle = TcpStream::connect(&address).await.unwrap();
    process.signal(Signal::INT);
    assert_eq!(idle.read(&mut [0; 8]).await.unwrap_or(0), 0);
    process.ended().await;
    assert!(TcpStream::connect(&address).await.is_err());
}
