//! A request's body: whole, in time, and never larger than allowed.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Settings;
use super::error::ApiError;
use crate::collector::{SMALL_BODY_BYTES, Turn};
use crate::limits::memory::{self, Charge, Kind};
use crate::size::Size;
use crate::wire::packed::{self, Encoding, NotUnpacked, Packed, first_unpacked};
use crate::wire::{self, StoredForm, Violations};

/// How much room a body gets before it has come. Most events need no more.
const FIRST_ROOM_BYTES: usize = 4 << 10;

/// A body that came whole with its head, and is no larger, is not charged: it is answered as soon as its record is
/// committed, and the journal bounds what waits for that. So whatever else arrives, small bodies are taken.
const UNCHARGED_BYTES: usize = 8 << 10;

/// How many bytes tell whether a body is gzip.
const MAGIC_BYTES: usize = 2;

/// How much of a packed body is unpacked to see whether it is an array.
const LOOK_BYTES: usize = 4 << 10;

/// A stored session has long to arrive. But once so much of it is held, it must not stand still: at least so much
/// comes in each such time.
const PACED_BYTES: usize = 256 << 10;
const PACE: (usize, Duration) = (16 << 10, Duration::from_secs(5));

/// A whole body, and the memory that it is charged.
#[derive(Debug)]
pub(super) struct Received {
    /// The body: of a stored session as it came, of an event unpacked.
    pub(super) body: Packed,
    /// As what stored session it is to be read, if it is one.
    pub(super) stored: Option<StoredForm>,
    /// What it is charged, until it is answered.
    pub(super) charge: Option<Charge>,
    /// Its turn to be read, if it is large.
    pub(super) turn: Turn,
}

/// Limits how many large bodies are read at once; the others wait in order. A client that posts many of them takes a
/// part of the cores, and small requests do not queue behind them.
#[derive(Debug)]
pub(super) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    /// Half of the cores are left to everybody else.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Semaphore::new((cores / 2).max(1))))
    }
}

impl Turns {
    async fn wait(&self) -> Turn {
        Some(Arc::clone(&self.0).acquire_owned().await.expect("the semaphore is never closed"))
    }
}

/// What a path takes as a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// One event.
    Event,
    /// A stored session, which is an array of events.
    Stored,
    /// Either; an array is a stored session.
    Either,
}

impl Takes {
    /// The largest body that there may be.
    fn largest(self, settings: &Settings) -> Size {
        match self {
            Self::Event => settings.event_bytes_max,
            Self::Stored | Self::Either => settings.stored_bytes_max,
        }
    }

    /// As what stored session a body is to be read, if it is one.
    fn stored_form(self, body: &[u8]) -> Option<StoredForm> {
        match self {
            Self::Stored => Some(StoredForm::Downloaded),
            Self::Either if wire::is_array(body) => Some(StoredForm::Sessions),
            Self::Either | Self::Event => None,
        }
    }
}

/// Reads a body, which is charged to its client.
///
/// # Errors
/// 415 for an encoding but gzip, 413 past the bound (before or after decompression), 408 if it takes
/// too long, 503 or 429 if there is no memory for it, 400 if it breaks off or is no gzip.
pub(super) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    takes: Takes,
    settings: &Settings,
    turns: &Turns,
    client: &memory::Client,
) -> Result<Received, ApiError> {
    let largest = takes.largest(settings);
    let encoding = encoding_of(headers).map_err(|()| ApiError::UnsupportedEncoding)?;
    if body.size_hint().lower() > largest.as_u64() {
        return Err(ApiError::BodyTooLarge(largest));
    }
    let arriving = Arriving::new(takes, settings, encoding, client);
    collect(&mut body, arriving).await?.finish(turns).await
}

/// The whole body. Its bounds are those of one event until it shows that it is a stored session.
async fn collect<'b>(
    body: &mut Body,
    mut arriving: Arriving<'b>,
) -> Result<Arriving<'b>, ApiError> {
    let mut deadline = Deadline::begin(arriving.time());
    let mut piece = deadline.within(next_data(body)).await??.unwrap_or_default();
    if body.is_end_stream() {
        arriving.add_all(piece)?;
        return Ok(arriving);
    }
    // Room for more is taken as it comes: who only says that much will follow must not take it from others.
    let known = body.size_hint().exact().map(|rest| rest.saturating_add(piece.len() as u64));
    arriving.expect(to_usize(known.unwrap_or(u64::MAX)))?;
    loop {
        arriving.add(&piece)?;
        // A body is held to its bounds as it comes, too.
        let known = (arriving.bytes.len() as u64).saturating_add(body.size_hint().lower());
        arriving.check_size(to_usize(known))?;
        if body.is_end_stream() {
            return Ok(arriving);
        }
        deadline.extend(&arriving);
        match deadline.within(next_data(body)).await?? {
            Some(next) => piece = next,
            None => return Ok(arriving),
        }
    }
}

/// When a body must be there.
struct Deadline {
    began: Instant,
    /// How long the whole body may take.
    time: Duration,
    /// Since when the pace is watched, and how much had arrived then; only of a large stored session.
    pace: Option<(Instant, usize)>,
}

impl Deadline {
    fn begin(time: Duration) -> Self {
        Self { began: Instant::now(), time, pace: None }
    }

    /// Waits for the next piece, unless the body takes too long.
    async fn within<T>(&self, next: impl Future<Output = T>) -> Result<T, ApiError> {
        let whole = self.began + self.time;
        let until = self.pace.map_or(whole, |(since, _)| whole.min(since + PACE.1));
        let waited = tokio::time::timeout_at(until, next).await;
        waited.map_err(|_| {
            let kept_pace = until == whole;
            if kept_pace { ApiError::BodyTimeout(self.time) } else { ApiError::BodyTooSlow }
        })
    }

    /// Goes on after a piece.
    fn extend(&mut self, arriving: &Arriving<'_>) {
        self.time = arriving.time();
        if arriving.is_stored != Some(true) || arriving.bytes.len() < PACED_BYTES {
            return;
        }
        let (now, arrived) = (Instant::now(), arriving.bytes.len());
        let (_, before) = *self.pace.get_or_insert((now, arrived));
        if arrived - before >= PACE.0 {
            self.pace = Some((now, arrived));
        }
    }
}

/// A body as far as it has arrived, and what it may become.
#[derive(Debug)]
struct Arriving<'b> {
    takes: Takes,
    settings: &'b Settings,
    encoding: Encoding,
    client: &'b memory::Client,
    /// As they came, packed or not.
    bytes: Vec<u8>,
    /// How many it says that it has; as many as can be, if it does not say.
    announced: usize,
    charge: Option<Charge>,
    /// Whether it is a stored session; nothing as long as that does not show.
    is_stored: Option<bool>,
    /// How much had arrived when a packed body was last looked into.
    looked_at: usize,
    /// All of it, if it came in one piece.
    whole: Option<Bytes>,
}

impl<'b> Arriving<'b> {
    fn new(
        takes: Takes,
        settings: &'b Settings,
        encoding: Encoding,
        client: &'b memory::Client,
    ) -> Self {
        Self {
            takes,
            settings,
            encoding,
            client,
            bytes: Vec::new(),
            announced: usize::MAX,
            charge: None,
            is_stored: None,
            looked_at: 0,
            whole: None,
        }
    }

    /// Charges so many bytes in all.
    fn charge(&mut self, bytes: usize) -> Result<(), ApiError> {
        match &mut self.charge {
            Some(charge) => charge.grow_to(bytes)?,
            None => self.charge = Some(self.client.charge(Kind::Bodies, bytes)?),
        }
        Ok(())
    }

    /// Takes the first room for a body that says that it has so many bytes.
    fn expect(&mut self, bytes: usize) -> Result<(), ApiError> {
        self.announced = bytes;
        let first = bytes.min(FIRST_ROOM_BYTES);
        self.charge(first)?;
        self.bytes.reserve_exact(first);
        Ok(())
    }

    /// Takes a body that came in one piece, without a copy.
    fn add_all(&mut self, bytes: Bytes) -> Result<(), ApiError> {
        self.detect(packed::is_gzip(&bytes));
        self.learn(&bytes);
        self.check_size(bytes.len())?;
        if bytes.len() > UNCHARGED_BYTES {
            self.charge(bytes.len())?;
        }
        self.whole = Some(bytes);
        Ok(())
    }

    fn add(&mut self, piece: &[u8]) -> Result<(), ApiError> {
        let bytes = self.bytes.len() + piece.len();
        if bytes > self.bytes.capacity() {
            // It doubles, but not beyond what it says that it has; and that is charged before it is taken.
            let capacity = (2 * self.bytes.capacity()).min(self.announced).max(bytes);
            self.charge(capacity)?;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        let before = self.bytes.len();
        self.bytes.extend_from_slice(piece);
        let shows = before >= MAGIC_BYTES || self.detect(packed::is_gzip(&self.bytes));
        match self.encoding {
            // Not even how it is packed shows.
            Encoding::Identity if !shows => {}
            Encoding::Identity if before < MAGIC_BYTES => {
                self.is_stored = self.is_stored.or_else(|| self.look(&self.bytes));
            }
            Encoding::Identity => self.learn(piece),
            // A look begins at the front each time, so it is taken only as often as the body doubles.
            Encoding::Gzip if self.is_stored.is_none() && bytes >= 2 * self.looked_at => {
                self.looked_at = bytes;
                self.is_stored = self.look(&self.bytes);
            }
            Encoding::Gzip => {}
        }
        let max = self.max();
        if bytes > max.as_usize() { Err(ApiError::BodyTooLarge(max)) } else { Ok(()) }
    }

    /// Takes a body for gzip by its first bytes: a beacon cannot have a head that says so. False as long as that does
    /// not show.
    fn detect(&mut self, is_gzip: Option<bool>) -> bool {
        if is_gzip == Some(true) {
            self.encoding = Encoding::Gzip;
        }
        is_gzip.is_some()
    }

    /// Learns from what has arrived what the body is, if nothing told it before.
    fn learn(&mut self, arrived: &[u8]) {
        if self.is_stored.is_none() {
            self.is_stored = self.look(arrived);
        }
    }

    fn look(&self, arrived: &[u8]) -> Option<bool> {
        let first = || first_unpacked(arrived, self.encoding, LOOK_BYTES);
        match self.takes {
            Takes::Event => Some(false),
            Takes::Stored => first().map(|_| true),
            Takes::Either => first().map(|first| first == b'['),
        }
    }

    /// Refuses a body of which so many bytes are known, packed or not. One that is still blank may turn out to
    /// be what may be large.
    fn check_size(&self, known_bytes: usize) -> Result<(), ApiError> {
        let largest = self.takes.largest(self.settings);
        let max = if self.is_stored.is_some() { self.max() } else { largest };
        if known_bytes > max.as_usize() { Err(ApiError::BodyTooLarge(max)) } else { Ok(()) }
    }

    fn max(&self) -> Size {
        match self.is_stored {
            Some(true) => self.settings.stored_bytes_max,
            _ => self.settings.event_bytes_max,
        }
    }

    /// How long the whole body may take.
    fn time(&self) -> Duration {
        match self.is_stored {
            Some(true) => self.settings.stored_timeout,
            _ => self.settings.body_timeout,
        }
    }

    /// The body once all of it is there. A stored session stays packed: it is unpacked when its turn has come.
    async fn finish(mut self, turns: &Turns) -> Result<Received, ApiError> {
        let bytes = self.whole.take().unwrap_or_else(|| std::mem::take(&mut self.bytes).into());
        self.learn(&bytes);
        let body = Packed { bytes, encoding: self.encoding };
        // Only a body that unpacks to more blanks than a look takes has not shown what it is.
        let stored = match (self.takes, self.is_stored) {
            (Takes::Stored, _) => Some(StoredForm::Downloaded),
            (Takes::Either, Some(true)) => Some(StoredForm::Sessions),
            _ => None,
        };
        if stored.is_some() || self.encoding == Encoding::Identity {
            if stored.is_none() && body.bytes.len() > self.settings.event_bytes_max.as_usize() {
                return Err(ApiError::BodyTooLarge(self.settings.event_bytes_max));
            }
            let is_large = stored.is_none() && body.bytes.len() > SMALL_BODY_BYTES;
            let turn = if is_large { turns.wait().await } else { None };
            return Ok(Received { body, stored, charge: self.charge, turn });
        }
        let packed_bytes = body.bytes.len();
        let max = self.settings.event_bytes_max;
        let mut unpack =
            |bytes_max| body.unpack(bytes_max, |more| self.charge(packed_bytes + more));
        let mut turn = None;
        let mut unpacked = unpack(max.as_usize().min(SMALL_BODY_BYTES));
        if matches!(unpacked, Err(NotUnpacked::TooLarge)) && max.as_usize() > SMALL_BODY_BYTES {
            turn = turns.wait().await;
            unpacked = unpack(max.as_usize());
        }
        let unpacked = unpacked.map_err(|error| match error {
            NotUnpacked::TooLarge => ApiError::BodyTooLarge(max),
            NotUnpacked::NotGzip(fault) => ApiError::Invalid(fault.into()),
            NotUnpacked::NoRoom(error) => error,
        })?;
        let stored = self.takes.stored_form(&unpacked);
        // A stored session has a queue of its own, in which it must not keep a turn from others.
        let turn = turn.filter(|_| stored.is_none());
        Ok(Received { body: Packed::plain(unpacked), stored, charge: self.charge, turn })
    }
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The next piece of the body; trailers are passed over.
async fn next_data(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// A body that ended too early, or whose pieces are not as HTTP wants them.
fn broken(error: &(dyn Error + 'static)) -> ApiError {
    let message = "the body broke off, or it is chunked in a wrong way".to_owned();
    let violations = Violations::unreadable(message);
    if is_misshapen(error) {
        ApiError::Invalid(violations)
    } else {
        ApiError::BrokenOff(violations)
    }
}

/// Whether the pieces of a body are wrong. All else means that the client has gone, or takes back what it
/// asked: a connection that is lost, a stream of HTTP/2 that is reset.
fn is_misshapen(error: &(dyn Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |&cause| cause.source());
    causes.any(|cause| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        matches!(kind, Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData))
    })
}

/// The one encoding that the headers name; several, one upon the other, are not understood.
fn encoding_of(headers: &HeaderMap) -> Result<Encoding, ()> {
    let mut encoding = Encoding::Identity;
    for value in headers.get_all(header::CONTENT_ENCODING) {
        for name in value.to_str().map_err(|_| ())?.split(',') {
            match name.trim().to_ascii_lowercase().as_str() {
                "" | "identity" => {}
                "gzip" | "x-gzip" if encoding == Encoding::Identity => encoding = Encoding::Gzip,
                _ => return Err(()),
            }
        }
    }
    Ok(encoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoding(values: &[&str]) -> Result<Encoding, ()> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::CONTENT_ENCODING, value.parse().unwrap());
        }
        encoding_of(&headers)
    }

    #[test]
    fn gzip_once_is_understood_and_nothing_else() {
        assert_eq!(encoding(&[]), Ok(Encoding::Identity));
        assert_eq!(encoding(&["identity"]), Ok(Encoding::Identity));
        assert_eq!(encoding(&["GZIP"]), Ok(Encoding::Gzip));
        assert_eq!(encoding(&["identity, x-gzip"]), Ok(Encoding::Gzip));
        for wrong in [&["br"][..], &["gzip, gzip"], &["gzip", "gzip"], &["deflate"], &["gzip;q=1"]]
        {
            assert_eq!(encoding(wrong), Err(()), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn a_large_event_has_a_turn_and_a_stored_session_keeps_none() {
        use std::io::Write;

        let gzip = |text: &str| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap()
        };
        let client =
            memory::Memory::new(Size::gib(1), 1.0, &[], Vec::new()).client([192, 0, 2, 1].into());
        let (settings, turns) = (Settings::default(), Turns::default());
        let mut packed = HeaderMap::new();
        packed.insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
        let blank = " ".repeat(2 * SMALL_BODY_BYTES);
        // Only all of it shows that the second is a stored session.
        for (text, is_stored) in [(format!("{blank}{{"), false), (format!("{blank}["), true)] {
            let body = Body::from(gzip(&text));
            let read = read(&packed, body, Takes::Either, &settings, &turns, &client).await;
            let read = read.unwrap();
            assert_eq!((read.stored.is_some(), read.turn.is_some()), (is_stored, !is_stored));
        }
        let small = Body::from(gzip("{}"));
        let small = read(&packed, small, Takes::Event, &settings, &turns, &client).await.unwrap();
        assert!(small.turn.is_none());
    }
}
