//! Connections: accepted within a cap, timed, and drained in order.
//!
//! axum's own `serve` knows neither a header time-out nor a connection cap. And hyper's graceful
//! shutdown closes a connection on which half a request head was read, because it counts as idle.
//! So each connection notes here when bytes arrive and when requests begin and end, and a watcher
//! looks at these notes: when the stage changes, and every half a header time-out. No request pays
//! for a timer.

mod addresses;

mod counts;

mod traffic;

mod watcher;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::io::InspectReader;
use tokio_util::task::TaskTracker;

use super::tls::Tls;
use super::{Door, Settings};
use crate::limits::memory::{self, Memory};
use addresses::{Addresses, Place};
pub use counts::Counts;
pub(super) use counts::one_more;
use traffic::{InFlight, Traffic, Wire};
use watcher::{Verdict, Watcher};

/// How much of a request head is read at most, in bytes; longer ones get 431.
const HEAD_BYTES_MAX: usize = 32 << 10;

/// How many requests one HTTP/2 connection may have open at once.
const STREAMS_MAX: u32 = 128;

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
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that was just stopped has left connections behind that still hold the address.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(QUEUE_MAX)
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
    let room = Arc::new(Semaphore::new(settings.connections_max));
    counts.max.store(settings.connections_max as u64, Ordering::Relaxed);
    let addresses = Addresses::new(&settings);
    let tasks = TaskTracker::new();
    let (stages, tracked) = (stage.clone(), tasks.clone());
    let shared = Arc::new(Shared { settings, tls, memory, counts, stage: stages, tasks: tracked });
    let open = |(stream, peer): (TcpStream, SocketAddr), room: Option<OwnedSemaphorePermit>| {
        // An IPv4 client on an IPv6 socket is an IPv4 client.
        let address = peer.ip().to_canonical();
        let Some(place) = addresses.place(address) else {
            return one_more(&shared.counts.refused_by_address);
        };
        let seat = Seat::take(&shared.counts, place, room);
        let peer = Peer { address, memory: shared.memory.client(address) };
        let (door, shared) = (door.clone(), Arc::clone(&shared));
        tasks.spawn(async move {
            serve_connection(stream, peer, door, &shared).await;
            drop(seat);
        });
    };
    let drained = stage.wait_for(|stage| *stage == Stage::Draining);
    let mut drained = pin!(drained);
    loop {
        tokio::select! {
            biased;
            _ = &mut drained => break,
            (accepted, permit) = accept(&listener, &room, &shared.counts) => {
                open(accepted, Some(permit));
            }
        }
    }
    // Players whose connection the system had accepted already may have sent their request. They are
    // served beyond the cap, which the system's own queue bounds.
    match listener.into_std().and_then(|listener| queued(&listener, &shared.counts)) {
        Ok(queued) => queued.into_iter().for_each(|accepted| open(accepted, None)),
        Err(error) => tracing::warn!(%error, "the queue of connections could not be drained"),
    }
    tasks.close();
    tasks.wait().await;
}

/// What a connection holds as long as it is open.
struct Seat {
    counts: Arc<Counts>,
    _place: Place,
    _room: Option<OwnedSemaphorePermit>,
}

impl Seat {
    fn take(counts: &Arc<Counts>, place: Place, room: Option<OwnedSemaphorePermit>) -> Self {
        one_more(&counts.accepted);
        one_more(&counts.open);
        Self { counts: Arc::clone(counts), _place: place, _room: room }
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

/// The next connection, once there is room for it. At the cap the system's queue holds the others
/// back, and connections close with their next answer.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
    counts: &Counts,
) -> ((TcpStream, SocketAddr), OwnedSemaphorePermit) {
    let permit = Arc::clone(room).acquire_owned().await.expect("the semaphore is never closed");
    let (mut pause, pause_max) = ACCEPT_PAUSE;
    loop {
        match listener.accept().await {
            Ok(accepted) => return (accepted, permit),
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
    stage: watch::Receiver<Stage>,
    /// The open connections.
    tasks: TaskTracker,
}

async fn serve_connection(stream: TcpStream, peer: Peer, door: impl Door, shared: &Arc<Shared>) {
    // Answers are small and wanted at once; without this a socket is only slower.
    let _ = stream.set_nodelay(true);
    let traffic = Arc::new(Traffic::new(shared.tls.is_some()));
    let wire = Wire::new(stream, Arc::clone(&traffic), shared.tls.is_some());
    let mut watch = Watch::new(shared, &traffic);
    let stream = match &shared.tls {
        None => Either::Left(wire),
        Some(tls) => match shake_hands(wire, tls, &mut watch).await {
            Some(stream) => Either::Right(stream),
            None => return,
        },
    };
    let notes = Arc::clone(&traffic);
    let io = TokioIo::new(InspectReader::new(stream, move |bytes: &[u8]| notes.received(bytes)));
    let service = service_fn({
        let (shared, traffic) = (Arc::clone(shared), Arc::clone(&traffic));
        move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            let in_flight = InFlight::begin(&traffic, request.version());
            let answer = door.clone().call(request);
            let shared = Arc::clone(&shared);
            async move {
                let mut response: Response<_> = answer.await?;
                if in_flight.closes(&shared) {
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
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(HTTP2_PING);
    let connection = pin!(builder.serve_connection(io, service));
    // However it ended, by its peer, by a fault of its peer or by us, there is nobody else to tell.
    let ended = watch.over(connection, |connection| connection.graceful_shutdown()).await;
    if let Some(Err(error)) = ended
        && error.downcast_ref().is_some_and(hyper::Error::is_parse)
    {
        one_more(&shared.counts.malformed);
        tracing::debug!(%error, "what came was no HTTP, or too large a head");
    }
}

/// Agrees on TLS; nothing if that fails or takes too long.
async fn shake_hands(wire: Wire, tls: &Tls, watch: &mut Watch<'_>) -> Option<Box<TlsStream<Wire>>> {
    // In a box, because a connection that has it behind itself needs its room no more.
    let mut handshake = Box::pin(TlsAcceptor::from(tls.current()).accept(wire));
    let error = match watch.over(handshake.as_mut(), |_| {}).await {
        Some(Ok(stream)) => {
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
        let Self { traffic, watcher, stage, .. } = self;
        let mut timer = pin!(sleep_until(traffic.opened));
        loop {
            let now = Instant::now();
            match watcher.look(now, *stage.borrow_and_update()) {
                Verdict::Drop => return None,
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
