//! What a connection is doing: noted by its socket, its requests and its answers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use axum::http::Version;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::charge::ConnectionCharge;
use super::{HTTP2_CONNECTION_WINDOW, HTTP2_STREAM_WINDOW, STREAMS_MAX, Shared, Stage};
use crate::limits::memory::OverLimit;
use crate::telemetry::labels::{Dropped, Label};

/// How many bytes a connection of HTTP/2 may send after its last request, without those that were read as bodies:
/// bodies that nobody has read yet, which the window bounds, and as much again for frames that hold nothing.
const OVERHEAD_BYTES_MAX: u64 = 2 * HTTP2_CONNECTION_WINDOW as u64;

/// How many of the bytes that arrived before a request its head explains: as many as a head may have. A flood is not
/// excused by a tiny request now and then.
const HEAD_BYTES_EXPLAINED: u64 = 32 << 10;

/// By how many more requests a peer may take back than it lets be answered.
const RESETS_MAX: u32 = 100;

/// How long a peer has for the rest of a body, or for an answer, before its connection may make room for others.
const STALLED: Duration = Duration::from_secs(1);

/// A smaller piece of a body is no progress, so that a peer cannot keep a connection with single bytes.
pub(super) const PROGRESS_BYTES: usize = 1 << 10;

/// What a connection is doing; written by its socket, its requests and its answers, read by its watcher and by
/// who looks for connections to close.
pub(super) struct Traffic {
    pub(super) opened: Instant,
    /// What it is charged.
    pub(super) charge: ConnectionCharge,
    requests: Requests,
    /// When the first byte of a request arrived whose head is not complete, in ms after `opened`,
    /// plus one; 0 if there is none.
    head_since: AtomicU64,
    /// When a TLS record began that is not complete, in the same way: what it holds is not known yet,
    /// but the peer is saying something.
    record_since: AtomicU64,
    /// When the last request was answered, or the handshake was done, in ms after `opened`.
    idle_since: AtomicU64,
    /// Since when all that is waited for are bodies, in ms after `opened`.
    body_since: AtomicU64,
    /// Since when the socket takes no more bytes, like `head_since`.
    write_since: AtomicU64,
    /// Answers whose bytes are not all gone.
    unread: AtomicU32,
    unread_since: Mutex<Vec<UnreadAnswer>>,
    /// All bytes that arrived, in plain text.
    received: AtomicU64,
    /// How many of them are accounted for by requests.
    explained: AtomicU64,
    /// How many more requests were taken back than answered.
    resets: AtomicU32,
    /// The rest of a body of HTTP/1 that was not read before its request had an answer.
    leftover: Mutex<Option<Incoming>>,
    /// Why the connection must go at once, as the row of a [`Dropped`] plus one.
    must_go: AtomicU8,
    /// Whether no request has come yet.
    fresh: AtomicBool,
    /// Whether TLS is still being agreed on.
    handshake: AtomicBool,
    /// Whether a request for a session was accepted.
    has_session: AtomicBool,
    pub(super) http2: AtomicBool,
    /// Whether the next answer shall be the last.
    pub(super) last_answer: AtomicBool,
    /// Whether the next read shall ask the socket itself.
    pub(super) read_directly: AtomicBool,
    /// Whether it did since the last request.
    pub(super) looked_again: AtomicBool,
}

/// An answer on its way.
struct UnreadAnswer {
    id: u32,
    /// When it was made, or when a piece of it went last, in ms after the connection was opened.
    since_ms: u64,
}

/// The open requests of a connection: how many there are, how many of them wait for more of their body, and
/// whether the connection is being closed to make room. In one number, so that a connection is never chosen to be
/// closed while a request of it is answered.
///
/// ```text
/// bit 63: being closed; 31 bits: wait for their body; 32 bits: open
/// ```
#[derive(Default)]
struct Requests(AtomicU64);

const OPEN: u64 = 1;
const WAITS: u64 = 1 << 32;
const EVICTED: u64 = 1 << 63;

impl Requests {
    fn open(now: u64) -> u64 {
        now % WAITS
    }

    fn waiting(now: u64) -> u64 {
        now % EVICTED / WAITS
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
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

/// The connection is being closed to make room for others.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed to make room for others")]
pub(super) struct Evicted;

impl Traffic {
    /// A connection that was just opened, and begins with a handshake if it speaks TLS.
    pub(super) fn new(tls: bool, charge: ConnectionCharge) -> Self {
        Self {
            opened: Instant::now(),
            charge,
            requests: Requests::default(),
            head_since: AtomicU64::new(0),
            record_since: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            body_since: AtomicU64::new(0),
            write_since: AtomicU64::new(0),
            unread: AtomicU32::new(0),
            unread_since: Mutex::default(),
            received: AtomicU64::new(0),
            explained: AtomicU64::new(0),
            resets: AtomicU32::new(0),
            leftover: Mutex::default(),
            must_go: AtomicU8::new(0),
            fresh: AtomicBool::new(true),
            handshake: AtomicBool::new(tls),
            has_session: AtomicBool::new(false),
            http2: AtomicBool::new(false),
            last_answer: AtomicBool::new(false),
            read_directly: AtomicBool::new(false),
            looked_again: AtomicBool::new(false),
        }
    }

    fn at(&self, ms: u64) -> Instant {
        self.opened + Duration::from_millis(ms)
    }

    pub(super) fn activity(&self) -> Activity {
        if Requests::open(self.requests.now()) > 0 {
            return Activity::Answering;
        }
        let begun = |since: &AtomicU64| since.load(Ordering::Relaxed).checked_sub(1);
        match begun(&self.head_since).or_else(|| begun(&self.record_since)) {
            Some(ms) => Activity::Head { since: self.at(ms) },
            None => Activity::Idle { since: self.at(self.idle_since.load(Ordering::Relaxed)) },
        }
    }

    /// Since when the connection waits for its peer and for nothing else; nothing if it does not, or not for long
    /// enough to be closed for it.
    pub(super) fn waits_since(&self, now: Instant) -> Option<Instant> {
        let requests = self.requests.now();
        if requests & EVICTED != 0 {
            return None;
        }
        let stalled = |since: Instant| (now >= since + STALLED).then_some(since);
        let (open, waiting) = (Requests::open(requests), Requests::waiting(requests));
        if open > waiting {
            return None;
        }
        if open > 0 {
            return stalled(self.at(self.body_since.load(Ordering::Relaxed)));
        }
        if let Some(since) = self.unread_since() {
            return stalled(since);
        }
        match self.activity() {
            Activity::Idle { since } | Activity::Head { since } => Some(since),
            Activity::Answering => None,
        }
    }

    /// Chooses the connection to be closed, if it still waits for its peer. From then on no request of it is
    /// answered.
    pub(super) fn evict(&self) -> bool {
        let waits = |requests: u64| {
            let chosen =
                requests & EVICTED == 0 && Requests::open(requests) <= Requests::waiting(requests);
            chosen.then_some(requests | EVICTED)
        };
        self.requests.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, waits).is_ok()
    }

    /// Notes that a request was accepted that begins a session or belongs to one; tells whether it is the first.
    pub(super) fn accepted(&self) -> bool {
        !self.has_session() && !self.has_session.swap(true, Ordering::Relaxed)
    }

    pub(super) fn has_session(&self) -> bool {
        self.has_session.load(Ordering::Relaxed)
    }

    /// Notes that TLS is agreed on: from now on the first request is waited for.
    pub(super) fn handshake_done(&self) {
        self.handshake.store(false, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
        self.idle_since.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    /// Notes that bytes of TLS arrived. A handshake counts like a head that began with the connection.
    pub(super) fn received_records(&self, is_open: bool, began: bool) {
        if self.handshake.load(Ordering::Relaxed) {
            self.head_since.store(1, Ordering::Relaxed);
        }
        if !is_open {
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
    ///
    /// # Errors
    /// Why the connection must go.
    pub(super) fn received(&self, bytes: &[u8]) -> Result<(), Dropped> {
        let fresh = self.is_fresh();
        if fresh && !self.http2.load(Ordering::Relaxed) && bytes.starts_with(b"PRI ") {
            self.http2.store(true, Ordering::Relaxed);
            self.charge.is_http2().map_err(|_| Dropped::Memory)?;
        }
        // Heads of HTTP/1 have their own bound, and so have its bodies.
        if fresh || self.http2.load(Ordering::Relaxed) {
            // Nobody else writes it.
            let received = self.received.load(Ordering::Relaxed) + bytes.len() as u64;
            self.received.store(received, Ordering::Relaxed);
            let explained = self.explained.load(Ordering::Relaxed);
            if received.saturating_sub(explained) > OVERHEAD_BYTES_MAX {
                return Err(Dropped::Flood);
            }
        }
        self.must_go().map_or(Ok(()), Err)?;
        // Some clients end a body with a line break that belongs to nothing.
        let nothing = bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
        if nothing || Requests::open(self.requests.now()) > 0 {
            return Ok(());
        }
        if self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(self.elapsed_ms() + 1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Notes that so many bytes were read as a body.
    pub(super) fn read_body(&self, bytes: usize) {
        if self.http2.load(Ordering::Relaxed) {
            self.explained.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Notes that a stream is reset whose body was not read to its end. What its window allowed may still come; it is
    /// explained ahead, but not beyond what all open streams may have on their way.
    pub(super) fn excuse_reset(&self) {
        let ahead_max = u64::from(STREAMS_MAX) * u64::from(HTTP2_STREAM_WINDOW);
        let explained_max = self.received.load(Ordering::Relaxed) + ahead_max;
        // Bodies of other streams are read meanwhile.
        let _ = self.explained.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |explained| {
            Some((explained + u64::from(HTTP2_STREAM_WINDOW)).min(explained_max))
        });
    }

    /// Leaves the rest of a body over that its request does not read.
    pub(super) fn leave_over(&self, rest: Incoming, stream: Option<&StreamNotes>) {
        *stream.map_or(&self.leftover, |stream| &stream.leftover).lock() = Some(rest);
    }

    /// Notes that a request waits for more of its body; `progressed` if it came further since it did so last.
    pub(super) fn body_waits(&self, progressed: bool) {
        if progressed {
            self.body_since.store(self.elapsed_ms(), Ordering::Relaxed);
        }
        self.requests.0.fetch_add(WAITS, Ordering::AcqRel);
    }

    /// Notes that it does so no more.
    ///
    /// # Errors
    /// That the connection was chosen to be closed meanwhile.
    pub(super) fn body_goes_on(&self) -> Result<(), Evicted> {
        let before = self.requests.0.fetch_sub(WAITS, Ordering::AcqRel);
        if before & EVICTED == 0 { Ok(()) } else { Err(Evicted) }
    }

    /// Why the connection must go, if it must.
    pub(super) fn must_go(&self) -> Option<Dropped> {
        let row = self.must_go.load(Ordering::Relaxed);
        row.checked_sub(1).map(|row| Dropped::ALL[usize::from(row)])
    }

    fn let_go(&self, why: Dropped) {
        let row = u8::try_from(why.row() + 1).unwrap_or(u8::MAX);
        self.must_go.store(row, Ordering::Relaxed);
    }

    /// How many answers were made whose bytes are not all gone.
    pub(super) fn unread(&self) -> u32 {
        self.unread.load(Ordering::Relaxed)
    }

    /// Notes an answer that its peer has to read; gives its id.
    pub(super) fn answer_begins(&self) -> u32 {
        let mut answers = self.unread_since.lock();
        let id = answers.last().map_or(0, |last| last.id.wrapping_add(1));
        answers.push(UnreadAnswer { id, since_ms: self.elapsed_ms() });
        self.unread.fetch_add(1, Ordering::Relaxed);
        id
    }

    /// Notes that a piece of an answer has gone.
    pub(super) fn answer_goes_on(&self, id: u32) {
        let mut answers = self.unread_since.lock();
        if let Some(answer) = answers.iter_mut().find(|answer| answer.id == id) {
            answer.since_ms = self.elapsed_ms();
        }
    }

    /// Notes that an answer has gone.
    pub(super) fn answer_ends(&self, id: u32) {
        let mut answers = self.unread_since.lock();
        answers.retain(|answer| answer.id != id);
        self.unread.fetch_sub(1, Ordering::Relaxed);
    }

    /// Since when the peer takes nothing of what is there for it.
    pub(super) fn unread_since(&self) -> Option<Instant> {
        let write = self.write_since.load(Ordering::Relaxed).checked_sub(1);
        let answers = || self.unread_since.lock().iter().map(|answer| answer.since_ms).min();
        let answer = if self.unread() > 0 { answers() } else { None };
        let oldest = [write, answer].into_iter().flatten().min();
        oldest.map(|ms| self.at(ms))
    }

    /// Notes whether the socket took what was written.
    pub(super) fn wrote<T>(&self, poll: &Poll<io::Result<T>>) {
        let is_waiting = self.write_since.load(Ordering::Relaxed) != 0;
        if poll.is_pending() != is_waiting {
            let since = if poll.is_pending() { self.elapsed_ms() + 1 } else { 0 };
            self.write_since.store(since, Ordering::Relaxed);
        }
    }
}

/// What the body of a stream of HTTP/2 tells its request.
#[derive(Default)]
pub(super) struct StreamNotes {
    /// Whether the stream was taken back.
    pub(super) was_reset: AtomicBool,
    /// The rest of the body that was not read before there was an answer.
    leftover: Mutex<Option<Incoming>>,
}

/// A request from its complete head to its answer.
pub(super) struct InFlight {
    traffic: Arc<Traffic>,
    /// What its head is charged.
    head_bytes: usize,
    is_answered: bool,
    /// Of HTTP/2 alone, where a connection has several requests and outlives one that is taken back.
    pub(super) stream: Option<Arc<StreamNotes>>,
}

impl InFlight {
    /// Notes that a request has come.
    ///
    /// # Errors
    /// That the connection is being closed.
    pub(super) fn begin(traffic: &Arc<Traffic>, version: Version) -> Result<Self, Evicted> {
        let before = traffic.requests.0.fetch_add(OPEN, Ordering::AcqRel);
        let stream = (version == Version::HTTP_2).then(Arc::default);
        let traffic = Arc::clone(traffic);
        let in_flight = Self { traffic, head_bytes: 0, is_answered: false, stream };
        let traffic = &in_flight.traffic;
        if before & EVICTED != 0 {
            return Err(Evicted);
        }
        // Requests that were taken back go when their tasks run next.
        if Requests::open(before) > 4 * u64::from(STREAMS_MAX) {
            traffic.let_go(Dropped::Resets);
        }
        traffic.head_since.store(0, Ordering::Relaxed);
        traffic.fresh.store(false, Ordering::Relaxed);
        traffic.looked_again.store(false, Ordering::Relaxed);
        if version == Version::HTTP_2 {
            let received = traffic.received.load(Ordering::Relaxed);
            let more = |explained: u64| {
                (explained < received).then(|| (explained + HEAD_BYTES_EXPLAINED).min(received))
            };
            // Bodies of other streams are read meanwhile.
            let _ = traffic.explained.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
            if !traffic.http2.swap(true, Ordering::Relaxed) && traffic.charge.is_http2().is_err() {
                traffic.let_go(Dropped::Memory);
            }
        } else if traffic.http2.load(Ordering::Relaxed) {
            traffic.http2.store(false, Ordering::Relaxed);
        }
        Ok(in_flight)
    }

    /// Charges the head of the request, as long as it is open.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), OverLimit> {
        self.traffic.charge.begin(bytes)?;
        self.head_bytes = bytes;
        Ok(())
    }

    /// What was left over of the body, once the request is answered.
    pub(super) fn take_leftover(&self) -> Option<Incoming> {
        let stream = self.stream.as_ref();
        stream.map_or(&self.traffic.leftover, |stream| &stream.leftover).lock().take()
    }

    /// Notes that the request has its answer. One that was taken back in the middle of its body has one too, which
    /// nobody reads.
    pub(super) fn answered(&mut self) {
        let was_reset = |stream: &Arc<StreamNotes>| stream.was_reset.load(Ordering::Relaxed);
        self.is_answered = !self.stream.as_ref().is_some_and(was_reset);
        let resets = &self.traffic.resets;
        if self.is_answered && resets.load(Ordering::Relaxed) > 0 {
            // Several may come here at once.
            let _ = resets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        }
    }

    /// Whether the answer shall close the connection. HTTP/2 has another word for it.
    pub(super) fn closes(&self, shared: &Shared) -> bool {
        !self.traffic.http2.load(Ordering::Relaxed)
            && (self.traffic.last_answer.load(Ordering::Relaxed)
                || shared.tasks.len() >= shared.settings.connections_max
                || *shared.stage.borrow() != Stage::Open)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let traffic = &self.traffic;
        if self.head_bytes > 0 {
            traffic.charge.end(self.head_bytes);
        }
        if !self.is_answered && traffic.resets.fetch_add(1, Ordering::Relaxed) >= RESETS_MAX {
            traffic.let_go(Dropped::Resets);
        }
        traffic.idle_since.store(traffic.elapsed_ms(), Ordering::Relaxed);
        traffic.requests.0.fetch_sub(OPEN, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::memory::Memory;
    use crate::size::Size;

    impl Traffic {
        pub(in super::super) fn for_tests() -> Self {
            Self::of_tests(&Memory::new(Size::gib(1), 1.0, &[], Vec::new()))
        }

        pub(in super::super) fn of_tests(memory: &Memory) -> Self {
            let client = memory.client("192.0.2.1".parse().unwrap());
            Self::new(false, ConnectionCharge::new(&client, false).unwrap())
        }
    }

    const PIECE: [u8; 16 << 10] = [b'.'; 16 << 10];

    fn pieces_until_dropped(traffic: &Traffic, mut each: impl FnMut()) -> u64 {
        let mut pieces = 0;
        while traffic.received(&PIECE).is_ok() && pieces < 1_000 {
            pieces += 1;
            each();
        }
        pieces
    }

    const PIECES_MAX: u64 = OVERHEAD_BYTES_MAX / PIECE.len() as u64;

    #[test]
    fn http2_may_send_so_much_that_is_no_request_and_no_body() {
        let traffic = Arc::new(Traffic::for_tests());
        let begin = || InFlight::begin(&traffic, Version::HTTP_2).ok().unwrap();
        let mut request = begin();
        assert_eq!(pieces_until_dropped(&traffic, || {}), PIECES_MAX);
        request.answered();
        drop(request);
        let request = begin();
        let of_head = HEAD_BYTES_EXPLAINED / PIECE.len() as u64;
        assert_eq!(
            pieces_until_dropped(&traffic, || {}),
            of_head - 1,
            "a request excuses its head"
        );
        drop(request);
        (0..PIECES_MAX).for_each(|_| drop(begin()));
        let _request = begin();
        let read = pieces_until_dropped(&traffic, || traffic.read_body(PIECE.len()));
        assert_eq!(read, 1_000, "bodies that are read do not count");
    }

    #[test]
    fn http1_has_other_bounds() {
        let traffic = Arc::new(Traffic::for_tests());
        let _request = InFlight::begin(&traffic, Version::HTTP_11).ok().unwrap();
        assert_eq!(pieces_until_dropped(&traffic, || {}), 1_000);
    }

    #[test]
    fn a_connection_that_never_asks_is_bounded_too() {
        assert_eq!(pieces_until_dropped(&Traffic::for_tests(), || {}), PIECES_MAX);
    }

    #[test]
    fn a_peer_may_take_back_so_many_requests_more_than_are_answered() {
        let traffic = Arc::new(Traffic::for_tests());
        let asks = |is_answered| {
            let mut request = InFlight::begin(&traffic, Version::HTTP_2).ok().unwrap();
            if is_answered {
                request.answered();
            }
        };
        for _ in 0..3 * RESETS_MAX {
            asks(false);
            asks(true);
        }
        for _ in 0..RESETS_MAX {
            asks(false);
        }
        assert_eq!(traffic.must_go(), None);
        asks(false);
        assert_eq!(traffic.must_go(), Some(Dropped::Resets));
        assert_eq!(traffic.received(b"."), Err(Dropped::Resets));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_peer_does_not_read_is_known_by_its_age() {
        let traffic = Traffic::for_tests();
        let second = Duration::from_secs(1);
        let first = traffic.answer_begins();
        tokio::time::advance(second).await;
        let other = traffic.answer_begins();
        assert_eq!(traffic.unread_since(), Some(traffic.opened));
        traffic.answer_goes_on(first);
        tokio::time::advance(second).await;
        traffic.answer_goes_on(other);
        assert_eq!(traffic.unread_since(), Some(traffic.opened + second));
        traffic.answer_ends(first);
        assert_eq!(traffic.unread_since(), Some(traffic.opened + 2 * second));
        traffic.answer_ends(other);
        assert_eq!(traffic.unread_since(), None);
        traffic.wrote::<()>(&Poll::Pending);
        tokio::time::advance(second).await;
        traffic.wrote::<()>(&Poll::Pending);
        assert_eq!(traffic.unread_since(), Some(traffic.opened + 2 * second));
        traffic.wrote(&Poll::Ready(Ok(())));
        assert_eq!(traffic.unread_since(), None);
    }
}
