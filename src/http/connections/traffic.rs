//! What a connection is doing: noted by its socket and its requests.
//!
//! ```text
//! TCP ─▶ Wire: reads past the poller, follows TLS records ─▶ (rustls) ─▶ `received`: sees heads begin ─▶ hyper
//! ```

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
    /// When a TLS record began that is not complete, in the same way: what it holds is not known yet,
    /// but the peer is saying something.
    record_since: AtomicU64,
    /// When the last request was answered, or the handshake was done, in ms after `opened`.
    idle_since: AtomicU64,
    /// Requests that are not answered yet.
    in_flight: AtomicU32,
    /// Whether no request has come yet.
    fresh: AtomicBool,
    /// Whether TLS is still being agreed on.
    handshake: AtomicBool,
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
    /// A connection that was just opened, and begins with a handshake if it speaks TLS.
    pub(super) fn new(tls: bool) -> Self {
        Self {
            opened: Instant::now(),
            head_since: AtomicU64::new(0),
            record_since: AtomicU64::new(0),
            handshake: AtomicBool::new(tls),
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
        let begun = |since: &AtomicU64| since.load(Ordering::Relaxed).checked_sub(1);
        match begun(&self.head_since).or_else(|| begun(&self.record_since)) {
            Some(ms) => Activity::Head { since: at(ms) },
            None => Activity::Idle { since: at(self.idle_since.load(Ordering::Relaxed)) },
        }
    }

    /// Notes that TLS is agreed on: from now on the first request is waited for.
    pub(super) fn handshake_done(&self) {
        self.handshake.store(false, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
        self.idle_since.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    /// Notes that bytes of TLS arrived. A handshake counts like a head that began with the connection.
    fn received_records(&self, records: &Records, began: bool) {
        if self.handshake.load(Ordering::Relaxed) {
            self.head_since.store(1, Ordering::Relaxed);
        }
        if !records.is_open() {
            self.record_since.store(0, Ordering::Relaxed);
        } else if began {
            self.record_since.store(self.elapsed_ms() + 1, Ordering::Relaxed);
        }
    }

    /// Whether the peer has said anything in its handshake.
    pub(super) fn began_handshake(&self) -> bool {
        self.head_since.load(Ordering::Relaxed) != 0
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.fresh.load(Ordering::Relaxed)
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// Notes that these bytes arrived, in plain text.
    pub(super) fn received(&self, bytes: &[u8]) {
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

/// A socket that is read past the poller on demand, below TLS if there is any.
pub(super) struct Wire {
    stream: TcpStream,
    traffic: Arc<Traffic>,
    /// The records of TLS.
    records: Option<Records>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, traffic: Arc<Traffic>, tls: bool) -> Self {
        Self { stream, traffic, records: tls.then(Records::default) }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let mut poll = Pin::new(&mut this.stream).poll_read(context, buffer);
        if poll.is_pending() && this.traffic.read_directly.swap(false, Ordering::Relaxed) {
            // The poller may not have heard yet of bytes that are there.
            match (&*SockRef::from(&this.stream)).read(buffer.initialize_unfilled()) {
                Ok(bytes) => {
                    buffer.advance(bytes);
                    poll = Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => poll = Poll::Ready(Err(error)),
            }
        }
        let bytes = &buffer.filled()[before..];
        if let Some(records) = this.records.as_mut().filter(|_| !bytes.is_empty()) {
            let began = records.follow(bytes);
            this.traffic.received_records(records, began);
        }
        poll
    }
}

/// Follows the records of TLS through a stream, to know whether one has begun and is not complete:
///
/// ```text
/// type (1 byte), version (2), length of what follows (2, big-endian), …
/// ```
#[derive(Debug, Default)]
struct Records {
    /// How many bytes of the header have come.
    header: u8,
    length: u16,
    /// How many bytes are missing after the header.
    missing: usize,
}

impl Records {
    /// Goes on over these bytes; tells whether a record began in them.
    fn follow(&mut self, mut bytes: &[u8]) -> bool {
        let mut began = false;
        while let Some((byte, rest)) = bytes.split_first() {
            if self.missing > 0 {
                let skipped = self.missing.min(bytes.len());
                self.missing -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            began |= self.header == 0;
            self.header += 1;
            // Only the last two bytes of the header stay.
            self.length = self.length << 8 | u16::from(*byte);
            if self.header == 5 {
                self.missing = self.length.into();
                self.header = 0;
            }
            bytes = rest;
        }
        began
    }

    fn is_open(&self) -> bool {
        self.header > 0 || self.missing > 0
    }
}

impl AsyncWrite for Wire {
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn bytes_that_the_poller_has_not_heard_of_are_read_on_demand() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        peer.write_all(b"GET").unwrap();
        assert_eq!(stream.peek(&mut [0; 8]).unwrap(), 3, "they are there");
        stream.set_nonblocking(true).unwrap();
        // The poller is asked only when this test waits, which it does not.
        let stream = TcpStream::from_std(stream).unwrap();
        let traffic = Arc::new(Traffic::new(false));
        let mut wire = Wire::new(stream, Arc::clone(&traffic), false);
        let mut read = async || {
            let mut bytes = [0; 8];
            let mut buffer = ReadBuf::new(&mut bytes);
            let poll =
                poll_fn(|context| Poll::Ready(Pin::new(&mut wire).poll_read(context, &mut buffer)));
            poll.await.map(|read| read.map(|()| buffer.filled().to_vec()).unwrap())
        };
        assert_eq!(read().await, Poll::Pending);
        traffic.read_directly.store(true, Ordering::Relaxed);
        assert_eq!(read().await, Poll::Ready(b"GET".to_vec()));
        traffic.read_directly.store(true, Ordering::Relaxed);
        assert_eq!(read().await, Poll::Pending, "there is nothing more");
    }

    #[test]
    fn a_record_is_open_from_its_first_byte_to_its_last_however_it_is_cut() {
        // Of 3 bytes, of none, and of 300.
        let mut stream = vec![22, 3, 1, 0, 3, 9, 9, 9, 23, 3, 3, 0, 0, 23, 3, 3, 1, 44];
        stream.extend([0; 300]);
        let ends = [8, 13, 318];
        let begins = [0, 8, 13];
        for step in 1..=stream.len() {
            let mut records = Records::default();
            let mut at = 0;
            for bytes in stream.chunks(step) {
                let began = records.follow(bytes);
                assert_eq!(
                    began,
                    begins.iter().any(|begin| (at..at + bytes.len()).contains(begin))
                );
                at += bytes.len();
                assert_eq!(records.is_open(), !ends.contains(&at), "cut at {at}");
            }
        }
    }
}
