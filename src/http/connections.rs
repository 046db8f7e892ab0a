//! Connections: accepted within a cap, timed, and drained in order.
//!
//! axum's own `serve` knows neither a header time-out nor a connection cap. And hyper's graceful
//! shutdown closes a connection on which half a request head was read, because it counts as idle.
//! So each connection notes here when bytes arrive and when requests begin and end, and a watcher
//! looks at these notes: when the stage changes, and every half a header time-out. No request pays
//! for a timer.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::Request;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Version};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::TaskTracker;

use super::{Door, Settings};

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
    mut stage: watch::Receiver<Stage>,
) {
    let room = Arc::new(Semaphore::new(settings.connections_max));
    let tasks = TaskTracker::new();
    let shared = Arc::new(Shared { settings, stage: stage.clone(), tasks: tasks.clone() });
    let open = |(stream, peer): (TcpStream, SocketAddr), permit: Option<OwnedSemaphorePermit>| {
        let peer = Peer(peer.ip());
        let (door, shared) = (door.clone(), Arc::clone(&shared));
        tasks.spawn(async move {
            serve_connection(stream, peer, door, &shared).await;
            drop(permit);
        });
    };
    let drained = stage.wait_for(|stage| *stage == Stage::Draining);
    let mut drained = pin!(drained);
    loop {
        tokio::select! {
            biased;
            _ = &mut drained => break,
            (accepted, permit) = accept(&listener, &room) => open(accepted, Some(permit)),
        }
    }
    // Players whose connection the system had accepted already may have sent their request. They are
    // served beyond the cap, which the system's own queue bounds.
    match listener.into_std().and_then(|listener| queued(&listener)) {
        Ok(queued) => queued.into_iter().for_each(|accepted| open(accepted, None)),
        Err(error) => tracing::warn!(%error, "the queue of connections could not be drained"),
    }
    tasks.close();
    tasks.wait().await;
}

/// The connections that the system has accepted already; more than its queue holds are not waited for.
fn queued(listener: &std::net::TcpListener) -> io::Result<Vec<(TcpStream, SocketAddr)>> {
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
) -> ((TcpStream, SocketAddr), OwnedSemaphorePermit) {
    let permit = Arc::clone(room).acquire_owned().await.expect("the semaphore is never closed");
    let (mut pause, pause_max) = ACCEPT_PAUSE;
    loop {
        match listener.accept().await {
            Ok(accepted) => return (accepted, permit),
            // The peer was quicker to leave than we to look.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, pause_ms = pause.as_millis(), "cannot accept connections");
                sleep(pause).await;
                pause = (pause * 2).min(pause_max);
            }
        }
    }
}

/// The address of the client, as the socket tells it; an extension of each request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// What the connections of one listener share.
struct Shared {
    settings: Settings,
    stage: watch::Receiver<Stage>,
    /// The open connections.
    tasks: TaskTracker,
}

async fn serve_connection(stream: TcpStream, peer: Peer, door: impl Door, shared: &Arc<Shared>) {
    // Answers are small and wanted at once; without this a socket is only slower.
    let _ = stream.set_nodelay(true);
    let traffic = Arc::new(Traffic::new());
    let io = TokioIo::new(Watched { stream, traffic: Arc::clone(&traffic) });
    let service = service_fn({
        let (shared, traffic) = (Arc::clone(shared), Arc::clone(&traffic));
        move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
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
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut watcher = Watcher::new(shared, &traffic);
    let mut stage = shared.stage.clone();
    let mut timer = pin!(sleep_until(traffic.opened));
    loop {
        let now = Instant::now();
        match watcher.look(now, *stage.borrow_and_update()) {
            Verdict::Drop => return,
            Verdict::Close => connection.as_mut().graceful_shutdown(),
            Verdict::ReadOnce => traffic.read_directly.store(true, Ordering::Relaxed),
            Verdict::GoOn => {}
        }
        timer.as_mut().reset(watcher.next_look(now));
        tokio::select! {
            biased;
            // However it ended, by its peer, by a fault of its peer or by us, there is nobody to tell.
            _ = connection.as_mut() => return,
            Ok(()) = stage.changed() => {}
            () = timer.as_mut() => {}
        }
        // The connection was polled, so it has read, or it does not want to.
        traffic.read_directly.store(false, Ordering::Relaxed);
    }
}

/// What is to be done with a connection.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing.
    GoOn,
    /// Read its socket once more, whatever the poller knows of it, and look again.
    ReadOnce,
    /// Finish what has begun, then end it.
    Close,
    /// End it here and now.
    Drop,
}

/// Decides what becomes of one connection, from its traffic and the time.
struct Watcher<'c> {
    settings: &'c Settings,
    traffic: &'c Traffic,
    age_max: Duration,
    closing_since: Option<Instant>,
}

impl<'c> Watcher<'c> {
    fn new(shared: &'c Shared, traffic: &'c Traffic) -> Self {
        // Connections that were opened together, after a restart, should not end together.
        let jitter = rand::random_range(0.9..1.1);
        let age_max = shared.settings.connection_age_max.mul_f64(jitter);
        Self { settings: &shared.settings, traffic, age_max, closing_since: None }
    }

    fn look(&mut self, now: Instant, stage: Stage) -> Verdict {
        let traffic = self.traffic;
        let aged = now.saturating_duration_since(traffic.opened) >= self.age_max;
        if aged || stage != Stage::Open {
            traffic.last_answer.store(true, Ordering::Relaxed);
        }
        let http2 = traffic.http2.load(Ordering::Relaxed);
        let fresh = traffic.is_fresh();
        // An HTTP/1.1 connection is told by its next answer, because a player may be sending its next
        // request at this very moment; HTTP/2 has a polite way to leave at any time.
        let asked_to_leave = http2 && !fresh && (aged || stage != Stage::Open);
        let idle_for = match traffic.activity() {
            Activity::Answering => {
                return self.close_if(asked_to_leave || stage == Stage::Draining, now);
            }
            Activity::Head { since } if !http2 => {
                let late = now >= since + self.settings.header_timeout;
                return if late { Verdict::Drop } else { Verdict::GoOn };
            }
            Activity::Head { since } | Activity::Idle { since } => {
                now.saturating_duration_since(since)
            }
        };
        if let Some(since) = self.closing_since {
            // The peer takes neither the rest of its answer nor the hint to leave.
            let late = now >= since + self.settings.header_timeout;
            return if late { Verdict::Drop } else { Verdict::GoOn };
        }
        let idle_max = match stage {
            Stage::Draining if fresh => FIRST_BYTE_WAIT.min(self.settings.header_timeout),
            Stage::Draining => Duration::ZERO,
            _ if fresh => self.settings.header_timeout,
            _ => self.settings.keep_alive,
        };
        if idle_for < idle_max && !asked_to_leave {
            return Verdict::GoOn;
        }
        if !http2 && !self.traffic.looked_again.swap(true, Ordering::Relaxed) {
            return Verdict::ReadOnce;
        }
        if fresh && !http2 { Verdict::Drop } else { self.close_if(true, now) }
    }

    fn close_if(&mut self, closes: bool, now: Instant) -> Verdict {
        if !closes || self.closing_since.is_some() {
            return Verdict::GoOn;
        }
        self.closing_since = Some(now);
        Verdict::Close
    }

    /// When to look again if nothing happens before. A head that comes slowly is found within half
    /// its time-out, without a timer to be moved for each request.
    fn next_look(&self, now: Instant) -> Instant {
        if self.traffic.read_directly.load(Ordering::Relaxed) {
            return now;
        }
        let often = (self.settings.header_timeout / 2).max(Duration::from_millis(10));
        let draining = self.traffic.last_answer.load(Ordering::Relaxed) && self.traffic.is_fresh();
        now + if draining { often.min(FIRST_BYTE_WAIT) } else { often }
    }
}

/// What a connection is doing; written by its socket and its requests, read by its watcher.
struct Traffic {
    opened: Instant,
    /// When the first byte of a request arrived whose head is not complete, in ms after `opened`,
    /// plus one; 0 if there is none.
    head_since: AtomicU64,
    /// When the last request was answered, in ms after `opened`.
    idle_since: AtomicU64,
    /// Requests that are not answered yet.
    in_flight: AtomicU32,
    /// Whether no request has come yet.
    fresh: AtomicBool,
    http2: AtomicBool,
    /// Whether the next answer shall be the last.
    last_answer: AtomicBool,
    /// Whether the next read shall ask the socket itself.
    read_directly: AtomicBool,
    /// Whether it did since the last request.
    looked_again: AtomicBool,
}

/// What a connection is doing.
enum Activity {
    /// Waiting for a request.
    Idle { since: Instant },
    /// Reading the head of a request.
    Head { since: Instant },
    /// Reading the body of a request, or making its answer.
    Answering,
}

impl Traffic {
    fn new() -> Self {
        Self {
            opened: Instant::now(),
            head_since: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            fresh: AtomicBool::new(true),
            http2: AtomicBool::new(false),
            last_answer: AtomicBool::new(false),
            read_directly: AtomicBool::new(false),
            looked_again: AtomicBool::new(false),
        }
    }

    fn activity(&self) -> Activity {
        let at = |ms| self.opened + Duration::from_millis(ms);
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return Activity::Answering;
        }
        match self.head_since.load(Ordering::Relaxed).checked_sub(1) {
            Some(ms) => Activity::Head { since: at(ms) },
            None => Activity::Idle { since: at(self.idle_since.load(Ordering::Relaxed)) },
        }
    }

    fn is_fresh(&self) -> bool {
        self.fresh.load(Ordering::Relaxed)
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// Notes that these bytes arrived.
    fn received(&self, bytes: &[u8]) {
        // Some clients end a body with a line break that belongs to nothing.
        let nothing = bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
        if nothing || self.in_flight.load(Ordering::Relaxed) > 0 {
            return;
        }
        if self.is_fresh() && bytes.starts_with(b"PRI ") {
            self.http2.store(true, Ordering::Relaxed);
        }
        if self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(self.elapsed_ms() + 1, Ordering::Relaxed);
        }
    }
}

/// A request from its complete head to its answer.
struct InFlight(Arc<Traffic>);

impl InFlight {
    fn begin(traffic: &Arc<Traffic>, version: Version) -> Self {
        traffic.in_flight.fetch_add(1, Ordering::Relaxed);
        traffic.head_since.store(0, Ordering::Relaxed);
        traffic.fresh.store(false, Ordering::Relaxed);
        traffic.looked_again.store(false, Ordering::Relaxed);
        traffic.http2.store(version == Version::HTTP_2, Ordering::Relaxed);
        Self(Arc::clone(traffic))
    }

    /// Whether the answer shall close the connection. HTTP/2 has another word for it.
    fn closes(&self, shared: &Shared) -> bool {
        !self.0.http2.load(Ordering::Relaxed)
            && (self.0.last_answer.load(Ordering::Relaxed)
                || shared.tasks.len() >= shared.settings.connections_max
                || *shared.stage.borrow() != Stage::Open)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.elapsed_ms(), Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket whose arriving bytes are noted.
struct Watched {
    stream: TcpStream,
    traffic: Arc<Traffic>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let mut poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        if poll.is_pending() && self.traffic.read_directly.swap(false, Ordering::Relaxed) {
            // The poller may not have heard yet of bytes that are there.
            match (&*SockRef::from(&self.stream)).read(buffer.initialize_unfilled()) {
                Ok(bytes) => {
                    buffer.advance(bytes);
                    poll = Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => poll = Poll::Ready(Err(error)),
            }
        }
        self.traffic.received(&buffer.filled()[before..]);
        poll
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
