//! What a connection is doing: noted by its socket and its requests.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::Version;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Shared, Stage};

/// What a connection is doing; written by its socket and its requests, read by its watcher.
pub(super) struct Traffic {
    pub(super) opened: Instant,
    /// When the first byte of a request arrived whose head is not complete, in ms after `opened`,
    /// plus one; 0 if there is none.
    head_since: AtomicU64,
    /// When the last request was answered, in ms after `opened`.
    idle_since: AtomicU64,
    /// Requests that are not answered yet.
    in_flight: AtomicU32,
    /// Whether no request has come yet.
    fresh: AtomicBool,
    pub(super) http2: AtomicBool,
    /// Whether the next answer shall be the last.
    pub(super) last_answer: AtomicBool,
    /// Whether the next read shall ask the socket itself.
    pub(super) read_directly: AtomicBool,
    /// Whether it did since the last request.
    pub(super) looked_again: AtomicBool,
}

/// What a connection is doing.
pub(super) enum Activity {
    /// Waiting for a request.
    Idle { since: Instant },
    /// Reading the head of a request.
    Head { since: Instant },
    /// Reading the body of a request, or making its answer.
    Answering,
}

impl Traffic {
    pub(super) fn new() -> Self {
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

    pub(super) fn activity(&self) -> Activity {
        let at = |ms| self.opened + Duration::from_millis(ms);
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return Activity::Answering;
        }
        match self.head_since.load(Ordering::Relaxed).checked_sub(1) {
            Some(ms) => Activity::Head { since: at(ms) },
            None => Activity::Idle { since: at(self.idle_since.load(Ordering::Relaxed)) },
        }
    }

    pub(super) fn is_fresh(&self) -> bool {
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
pub(super) struct InFlight(Arc<Traffic>);

impl InFlight {
    pub(super) fn begin(traffic: &Arc<Traffic>, version: Version) -> Self {
        traffic.in_flight.fetch_add(1, Ordering::Relaxed);
        traffic.head_since.store(0, Ordering::Relaxed);
        traffic.fresh.store(false, Ordering::Relaxed);
        traffic.looked_again.store(false, Ordering::Relaxed);
        traffic.http2.store(version == Version::HTTP_2, Ordering::Relaxed);
        Self(Arc::clone(traffic))
    }

    /// Whether the answer shall close the connection. HTTP/2 has another word for it.
    pub(super) fn closes(&self, shared: &Shared) -> bool {
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
pub(super) struct Watched {
    pub(super) stream: TcpStream,
    pub(super) traffic: Arc<Traffic>,
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
