//! Connections: accepted within a cap, timed, and drained in order.
//!
//! axum's own `serve` knows neither a header time-out nor a connection cap. And hyper's graceful
//! shutdown closes a connection on which half a request head was read, because it counts as idle.
//! So each connection notes here when bytes arrive and when requests begin and end, and a watcher
//! looks at these notes: when the stage changes, and every half a header time-out. No request pays
//! for a timer.

mod answers;

mod bodies;

mod charge;

mod counts;

mod leftover;

mod registry;

mod traffic;

mod watcher;

mod wire;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONNECTION, EXPECT};
use axum::http::{HeaderValue, Method, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::task::TaskTracker;

use super::tls::Tls;
use super::{Door, Settings};
use crate::limits::memory::{self, Memory, OverLimit};
use crate::telemetry::labels::Refused;
use bodies::ArrivingBody;
use charge::ConnectionCharge;
pub use counts::Counts;
pub(super) use counts::one_more;
use registry::{NotAdmitted, Place, Registry};
use traffic::{InFlight, Traffic};
use watcher::{Verdict, Watcher};
use wire::{PlainText, Wire};

/// How much of a request head is read at most, in bytes; longer ones get 431.
const HEAD_BYTES_MAX: usize = 32 << 10;

/// How large the head of a request of HTTP/2 may be, counted as the protocol does: 32 bytes more for each header.
const HTTP2_HEAD_BYTES_MAX: u32 = 16 << 10;

/// How many headers a request may have. hyper knows that bound for HTTP/1 only.
const HEADERS_MAX: usize = 100;

/// How many requests one HTTP/2 connection may have open at once.
const STREAMS_MAX: u32 = 128;

/// How much of a body of HTTP/2 may come before it is read, and of all bodies of a connection: what a connection can
/// make us hold beside what is charged. With a way of 100 ms there and back a stored session of 16 MiB comes in 26 s.
const HTTP2_STREAM_WINDOW: u32 = 64 << 10;
const HTTP2_CONNECTION_WINDOW: u32 = 256 << 10;

/// How much of its answers a stream of HTTP/2 keeps that the peer does not take.
const HTTP2_SEND_BYTES_MAX: usize = 64 << 10;

/// How many streams that the peer took back are kept until they are looked at, and how many that failed.
const HTTP2_RESETS_MAX: (usize, usize) = (20, 100);

/// How many answers a peer may leave unread before its further requests are refused.
const UNREAD_ANSWERS_MAX: u32 = 16;

/// How much TLS keeps of what the socket does not take.
const TLS_SEND_BYTES_MAX: usize = 16 << 10;

/// When to try again, in seconds, if there is no memory now.
const RETRY_AFTER_S: u64 = 10;

/// How often a silent HTTP/2 peer is asked whether it is still there, and how long it may take.
const HTTP2_PING: Duration = Duration::from_secs(20);

/// How many connections the system may accept before we do.
const QUEUE_MAX: u32 = 4_096;

/// How long accepting rests after an error, at first and at most. Errors such as «too many open
/// files» last until something is closed.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How long a connection that has sent nothing yet is waited for while draining: its request is
/// probably on its way.
const FIRST_BYTE_WAIT: Duration = Duration::from_millis(250);

/// How far a listener has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Serving.
    Open,
    /// Still serving, but each answer closes its connection.
    Leaving,
    /// Nothing new is taken; what has begun is finished.
    Draining,
}

/// Listens on an address.
///
/// # Errors
/// What the system says.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    bind(address)?.listen(QUEUE_MAX)
}

/// Takes an address, on which nobody is heard yet.
///
/// # Errors
/// What the system says.
pub fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that was just stopped has left connections behind that still hold the address.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Serves `door` on `listener` until `stage` is [`Stage::Draining`] and every request whose first
/// byte had been read is answered.
pub async fn serve(
    listener: TcpListener,
    door: impl Door,
    settings: Settings,
    tls: Option<Arc<Tls>>,
    memory: Memory,
    counts: Arc<Counts>,
    mut stage: watch::Receiver<Stage>,
) {
    counts.max.store(settings.connections_max as u64, Ordering::Relaxed);
    let registry = Registry::new(&settings, Arc::clone(&counts));
    let tasks = TaskTracker::new();
    let (stages, tracked) = (stage.clone(), tasks.clone());
    let shared =
        Arc::new(Shared { settings, tls, memory, counts, registry, stage: stages, tasks: tracked });
    let drained = stage.wait_for(|stage| *stage == Stage::Draining);
    let mut drained = pin!(drained);
    let mut next = None;
    loop {
        let accepted = if let Some(waiting) = next.take() {
            waiting
        } else {
            tokio::select! {
                biased;
                _ = &mut drained => break,
                accepted = accept(&listener, &shared.counts) => accepted,
            }
        };
        let Some(waiting) = open(&shared, &door, accepted, false) else { continue };
        next = Some(waiting);
        tokio::select! {
            biased;
            _ = &mut drained => break,
            () = shared.registry.freed() => {}
        }
    }
    // Players whose connection the system had accepted already may have sent their request. They are
    // served beyond the cap, which the system's own queue bounds.
    match listener.into_std().and_then(|listener| queued(&listener, &shared.counts)) {
        Ok(queued) => next.into_iter().chain(queued).for_each(|accepted| {
            open(&shared, &door, accepted, true);
        }),
        Err(error) => tracing::warn!(%error, "the queue of connections could not be drained"),
    }
    tasks.close();
    tasks.wait().await;
}

/// Begins to serve a connection, or closes it; gives it back if it has to wait for room.
fn open(
    shared: &Arc<Shared>,
    door: &impl Door,
    (stream, peer_address): (TcpStream, SocketAddr),
    whatever_the_caps: bool,
) -> Option<(TcpStream, SocketAddr)> {
    let Shared { registry, counts, .. } = &**shared;
    // An IPv4 client on an IPv6 socket is an IPv4 client.
    let address = peer_address.ip().to_canonical();
    let peer = Peer { address, memory: shared.memory.client(address) };
    let charge = || ConnectionCharge::new(&peer.memory, shared.tls.is_some());
    let charge = charge()
        .or_else(|over| if registry.make_memory(over, address) { charge() } else { Err(over) });
    let Ok(charge) = charge else {
        one_more(counts.refused(Refused::Memory));
        return None;
    };
    let traffic = Arc::new(Traffic::new(shared.tls.is_some(), charge));
    let admitted = if whatever_the_caps {
        Ok(registry.admit_anyway(address, &traffic))
    } else {
        registry.admit(address, &traffic)
    };
    let place = match admitted {
        Ok(place) => place,
        Err(NotAdmitted::NotYet) => return Some((stream, peer_address)),
        Err(NotAdmitted::Refused(why)) => {
            one_more(counts.refused(why));
            return None;
        }
    };
    let key = place.key();
    let seat = Arc::new(Seat::take(counts, place));
    let (door, serving) = (door.clone(), Arc::clone(shared));
    let task = shared.tasks.spawn(async move {
        serve_connection(stream, peer, door, &serving, traffic, seat).await;
    });
    Place::note(registry, key, task.abort_handle());
    None
}

/// What a connection holds as long as it is open.
struct Seat {
    counts: Arc<Counts>,
    place: Place,
}

impl Seat {
    fn take(counts: &Arc<Counts>, place: Place) -> Self {
        one_more(&counts.accepted);
        one_more(&counts.open);
        Self { counts: Arc::clone(counts), place }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connections that the system has accepted already; more than its queue holds are not waited for.
fn queued(
    listener: &std::net::TcpListener,
    counts: &Counts,
) -> io::Result<Vec<(TcpStream, SocketAddr)>> {
    let mut queued = Vec::new();
    for _ in 0..QUEUE_MAX {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(true)?;
                queued.push((TcpStream::from_std(stream)?, peer));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => {
                one_more(&counts.accept_errors);
                tracing::warn!(%error, "cannot accept connections while draining");
                break;
            }
        }
    }
    Ok(queued)
}

/// The next connection.
async fn accept(listener: &TcpListener, counts: &Counts) -> (TcpStream, SocketAddr) {
    let (mut pause, pause_max) = ACCEPT_PAUSE;
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // The peer was quicker to leave than we to look.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                one_more(&counts.accept_errors);
                tracing::warn!(%error, pause_ms = pause.as_millis(), "cannot accept connections");
                sleep(pause).await;
                pause = (pause * 2).min(pause_max);
            }
        }
    }
}

/// Who sends a request; an extension of each. As the socket tells it, until a proxy that is trusted names somebody
/// else.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address.
    pub address: IpAddr,
    /// What it uses of the server's memory.
    pub memory: memory::Client,
}

/// What the connections of one listener share.
struct Shared {
    settings: Settings,
    tls: Option<Arc<Tls>>,
    memory: Memory,
    counts: Arc<Counts>,
    registry: Arc<Registry>,
    stage: watch::Receiver<Stage>,
    /// The open connections.
    tasks: TaskTracker,
}

/// Why a request is refused before anybody reads it; an extension of such requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// It has more headers than it may.
    Headers,
    /// Its client does not read what is there for it.
    UnreadAnswers,
    /// There is no memory for its head.
    Memory(OverLimit),
}

impl Denied {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Headers => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UnreadAnswers => StatusCode::TOO_MANY_REQUESTS,
            Self::Memory(over) => status_of(over),
        }
    }

    /// When to try again, in seconds, if that helps.
    pub(super) fn retry_after_s(self) -> Option<u64> {
        (self != Self::Headers).then_some(RETRY_AFTER_S)
    }
}

/// What a client gets for which there is no memory.
fn status_of(over: OverLimit) -> StatusCode {
    match over {
        OverLimit::Full(_) => StatusCode::SERVICE_UNAVAILABLE,
        OverLimit::Share(_) => StatusCode::TOO_MANY_REQUESTS,
    }
}

async fn serve_connection(
    stream: TcpStream,
    peer: Peer,
    door: impl Door,
    shared: &Arc<Shared>,
    traffic: Arc<Traffic>,
    seat: Arc<Seat>,
) {
    // Answers are small and wanted at once; without this a socket is only slower.
    let _ = stream.set_nodelay(true);
    let wire = Wire::new(stream, Arc::clone(&traffic), shared.tls.is_some());
    let mut watch = Watch::new(shared, &traffic);
    let stream = match &shared.tls {
        None => Either::Left(wire),
        Some(tls) => match shake_hands(wire, tls, &mut watch).await {
            Some(stream) => Either::Right(stream),
            None => return,
        },
    };
    let (notes, counts) = (Arc::clone(&traffic), Arc::clone(&shared.counts));
    let io = TokioIo::new(PlainText::new(stream, notes, counts));
    let service = service_fn({
        let (shared, traffic, seat) = (Arc::clone(shared), Arc::clone(&traffic), Arc::clone(&seat));
        move |request: Request<Incoming>| {
            let begun = begin(request, &peer, &traffic, &shared.counts);
            let begun = begun.map(|(request, in_flight)| {
                let posts = *request.method() == Method::POST;
                (door.clone().call(request), in_flight, posts)
            });
            let seat = (!traffic.has_session()).then(|| Arc::clone(&seat));
            let (shared, traffic) = (Arc::clone(&shared), Arc::clone(&traffic));
            async move {
                let Ok((answer, mut in_flight, posts)) = begun else {
                    // The connection is dropped in a moment.
                    return std::future::pending().await;
                };
                let response = answer.await?;
                in_flight.answered();
                let is_accepted = posts
                    && matches!(response.status(), StatusCode::CREATED | StatusCode::NO_CONTENT);
                if is_accepted
                    && traffic.accepted()
                    && let Some(seat) = seat
                {
                    seat.place.has_session();
                }
                let mut response = answers::charged(response, &traffic);
                let mut closes = in_flight.closes(&shared);
                if let Some(rest) = in_flight.take_leftover() {
                    closes |=
                        leftover::read_on(rest, response.status(), &traffic, in_flight, &shared);
                }
                if closes {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, std::convert::Infallible>(response)
            }
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        // A client that says that it will send no more still wants its answer.
        .half_close(true)
        .max_buf_size(HEAD_BYTES_MAX)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HTTP2_HEAD_BYTES_MAX)
        .adaptive_window(false)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .max_send_buf_size(HTTP2_SEND_BYTES_MAX)
        .max_pending_accept_reset_streams(HTTP2_RESETS_MAX.0)
        .max_local_error_reset_streams(HTTP2_RESETS_MAX.1)
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(HTTP2_PING);
    let connection = pin!(builder.serve_connection(io, service));
    // However it ended, by its peer, by a fault of its peer or by us, there is nobody else to tell.
    let ended = watch.over(connection, auto::Connection::graceful_shutdown).await;
    if let Some(Err(error)) = ended
        && error.downcast_ref().is_some_and(hyper::Error::is_parse)
    {
        one_more(&shared.counts.malformed);
        tracing::debug!(%error, "what came was no HTTP, or too large a head");
    }
}

/// Begins a request: what its connection may not have open is refused, and what it holds is charged.
fn begin(
    request: Request<Incoming>,
    peer: &Peer,
    traffic: &Arc<Traffic>,
    counts: &Counts,
) -> Result<(Request, InFlight), traffic::Evicted> {
    let mut in_flight = InFlight::begin(traffic, request.version())?;
    let (mut head, body) = request.into_parts();
    let denied = if head.headers.len() > HEADERS_MAX {
        one_more(&counts.malformed);
        Err(Denied::Headers)
    } else if traffic.unread() >= UNREAD_ANSWERS_MAX {
        Err(Denied::UnreadAnswers)
    } else {
        in_flight.charge(charge::request_bytes(&head)).map_err(Denied::Memory)
    };
    let waits_for_word = head.headers.contains_key(EXPECT);
    if let Err(denied) = denied {
        head.headers.clear();
        head.extensions.insert(denied);
    }
    head.extensions.insert(peer.clone());
    let body = Body::new(ArrivingBody::new(body, Arc::clone(traffic), &in_flight, waits_for_word));
    Ok((Request::from_parts(head, body), in_flight))
}

/// Agrees on TLS; nothing if that fails or takes too long.
async fn shake_hands(wire: Wire, tls: &Tls, watch: &mut Watch<'_>) -> Option<Box<TlsStream<Wire>>> {
    // In a box, because a connection that has it behind itself needs its room no more.
    let mut handshake = Box::pin(TlsAcceptor::from(tls.current()).accept(wire));
    let error = match watch.over(handshake.as_mut(), |_| {}).await {
        Some(Ok(mut stream)) => {
            stream.get_mut().1.set_buffer_limit(Some(TLS_SEND_BYTES_MAX));
            watch.traffic.handshake_done();
            return Some(Box::new(stream));
        }
        Some(Err(error)) => error,
        None => io::ErrorKind::TimedOut.into(),
    };
    // Load balancers look whether somebody listens, and leave without a word.
    if watch.traffic.began_handshake() {
        one_more(&watch.shared.counts.tls_handshake_failures);
        tracing::debug!(%error, "a TLS handshake failed");
    }
    None
}

/// Looks after a connection from its first byte to its last.
struct Watch<'c> {
    shared: &'c Shared,
    traffic: &'c Traffic,
    watcher: Watcher<'c>,
    stage: watch::Receiver<Stage>,
}

impl<'c> Watch<'c> {
    fn new(shared: &'c Shared, traffic: &'c Traffic) -> Self {
        let watcher = Watcher::new(shared, traffic);
        Self { shared, traffic, watcher, stage: shared.stage.clone() }
    }

    /// Goes on with `work` until it is done, and tells it when to `close`; nothing if it was dropped.
    async fn over<W: Future>(
        &mut self,
        mut work: Pin<&mut W>,
        close: impl Fn(Pin<&mut W>),
    ) -> Option<W::Output> {
        let Self { shared, traffic, watcher, stage } = self;
        let mut timer = pin!(sleep_until(traffic.opened));
        loop {
            let now = Instant::now();
            match watcher.look(now, *stage.borrow_and_update()) {
                Verdict::Drop => return None,
                Verdict::DropFor(why) => {
                    shared.counts.count_dropped(why);
                    return None;
                }
                Verdict::Close => close(work.as_mut()),
                Verdict::ReadOnce => traffic.read_directly.store(true, Ordering::Relaxed),
                Verdict::GoOn => {}
            }
            timer.as_mut().reset(watcher.next_look(now));
            tokio::select! {
                biased;
                done = work.as_mut() => return Some(done),
                Ok(()) = stage.changed() => {}
                () = timer.as_mut() => {}
            }
            // The work was polled, so it has read, or it does not want to.
            traffic.read_directly.store(false, Ordering::Relaxed);
        }
    }
}
