//! A request's body: whole, in time, and never larger than allowed.

use std::error::Error;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use flate2::write::GzDecoder;
use http_body_util::BodyExt;
use hyper::body::Body as _;

use super::Settings;
use super::error::ApiError;
use crate::size::Size;
use crate::wire::{self, StoredForm, Violations};

/// How much of a body is read only to be thrown away, and how long. A client that is still sending when
/// we close loses our answer, so a body that is refused is read to its end if that is not far.
const DISCARDED_BYTES_MAX: u64 = 1 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_millis(500);

/// How much room a body gets before it has come. Most events need no more.
const FIRST_ROOM_BYTES: usize = 4 << 10;

/// How many members, one after the other, a gzip may have. One is usual, and each costs some microseconds however
/// short it is.
const GZIP_MEMBERS_MAX: usize = 1_000;

/// The room that bodies take which are read, but for those that arrive whole with their head.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    bytes: AtomicUsize,
}

/// Room for one body, until dropped.
#[derive(Debug)]
struct Room<'b> {
    bodies: &'b Bodies,
    bytes: usize,
}

/// A body, and the room that it takes.
#[derive(Debug)]
pub(super) struct Received<'b> {
    /// The body, unpacked.
    pub(super) bytes: Bytes,
    _room: Room<'b>,
}

impl Room<'_> {
    /// Takes more room, if so much is not held yet.
    fn grow_to(&mut self, bytes: usize, bytes_max: Size) -> Result<(), ApiError> {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 {
            let before = self.bodies.bytes.fetch_add(more, Ordering::Relaxed);
            if before + more > bytes_max.as_usize() {
                self.bodies.bytes.fetch_sub(more, Ordering::Relaxed);
                return Err(ApiError::Overloaded);
            }
            self.bytes = bytes;
        }
        Ok(())
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.bodies.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
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
    pub(super) fn stored_form(self, body: &[u8]) -> Option<StoredForm> {
        match self {
            Self::Stored => Some(StoredForm::Downloaded),
            Self::Either if wire::is_array(body) => Some(StoredForm::Sessions),
            Self::Either | Self::Event => None,
        }
    }
}

/// Reads a body.
///
/// # Errors
/// 415 for an encoding but gzip, 413 past the bound (before or after decompression), 408 if it takes
/// too long, 503 if too many arrive at once, 400 if it breaks off or is no gzip.
pub(super) async fn read<'b>(
    headers: &HeaderMap,
    mut body: Body,
    takes: Takes,
    settings: &'b Settings,
    bodies: &'b Bodies,
) -> Result<Received<'b>, ApiError> {
    let largest = takes.largest(settings);
    let read = match Encoding::of(headers) {
        Err(()) => Err(ApiError::UnsupportedEncoding),
        Ok(_) if body.size_hint().lower() > largest.as_u64() => {
            Err(ApiError::BodyTooLarge(largest))
        }
        Ok(encoding) => collect(&mut body, encoding, Arriving::new(takes, settings, bodies)).await,
    };
    if matches!(read, Err(ref refused) if !matches!(refused, ApiError::BodyTimeout(_))) {
        discard(headers, body).await;
    }
    read
}

/// Reads the rest of a refused body, within bounds of size and time. A client that waits for our word
/// before it sends (`Expect: 100-continue`) gets none.
pub(super) async fn discard(headers: &HeaderMap, mut body: Body) {
    if headers.contains_key(header::EXPECT) || body.size_hint().lower() > DISCARDED_BYTES_MAX {
        return;
    }
    let reading = async {
        let mut discarded = 0;
        while let Ok(Some(data)) = next_data(&mut body).await {
            discarded += data.len() as u64;
            if discarded > DISCARDED_BYTES_MAX {
                return;
            }
        }
    };
    // Whatever comes of it, the request has its answer already.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, reading).await;
}

/// The whole body. Its bounds are those of one event until it shows that it is a stored session.
async fn collect<'b>(
    body: &mut Body,
    encoding: Encoding,
    mut arriving: Arriving<'b>,
) -> Result<Received<'b>, ApiError> {
    let settings = arriving.settings;
    let timeout = tokio::time::sleep(settings.body_timeout);
    tokio::pin!(timeout);
    let began = timeout.deadline() - settings.body_timeout;
    let first = tokio::select! {
        biased;
        first = next_data(body) => first?.unwrap_or_default(),
        () = &mut timeout => return Err(ApiError::BodyTimeout(settings.body_timeout)),
    };
    let is_whole = body.is_end_stream();
    if is_whole && encoding == Encoding::Identity {
        arriving.learn(&first);
        arriving.hold_to_size(first.len())?;
        return Ok(Received { bytes: first, _room: arriving.room });
    }
    if !is_whole {
        // Room for more is taken as it comes: who only says that much will follow must not take it from others.
        let known = body.size_hint().exact().map(|rest| rest.saturating_add(first.len() as u64));
        arriving.expect(to_usize(known.unwrap_or(u64::MAX)).min(FIRST_ROOM_BYTES))?;
    }
    let mut unpacked = Unpacked::new(encoding, arriving);
    let (mut piece, mut arrived_bytes) = (first, 0);
    loop {
        arrived_bytes += piece.len();
        unpacked.add(&piece)?;
        // A body is held to its bounds as it comes, too.
        let known = (arrived_bytes as u64).saturating_add(body.size_hint().lower());
        unpacked.arriving().hold_to_size(to_usize(known))?;
        if body.is_end_stream() {
            break;
        }
        let time = unpacked.arriving().time();
        if timeout.deadline() != began + time {
            timeout.as_mut().reset(began + time);
        }
        let next = tokio::select! {
            biased;
            next = next_data(body) => next?,
            () = &mut timeout => return Err(ApiError::BodyTimeout(time)),
        };
        match next {
            Some(next) => piece = next,
            None => break,
        }
    }
    let Arriving { bytes, room, .. } = unpacked.finish()?;
    Ok(Received { bytes: bytes.freeze(), _room: room })
}

/// A body as far as it has arrived, unpacked, and what it may become.
#[derive(Debug)]
struct Arriving<'b> {
    takes: Takes,
    settings: &'b Settings,
    bytes: BytesMut,
    room: Room<'b>,
    /// Whether more is to come than what came with the head.
    is_awaited: bool,
    /// Whether it is a stored session; nothing as long as it is blank.
    is_stored: Option<bool>,
    /// Why it grew no more while it was unpacked.
    refused: Option<ApiError>,
}

impl<'b> Arriving<'b> {
    fn new(takes: Takes, settings: &'b Settings, bodies: &'b Bodies) -> Self {
        Self {
            takes,
            settings,
            bytes: BytesMut::new(),
            room: Room { bodies, bytes: 0 },
            is_awaited: false,
            is_stored: None,
            refused: None,
        }
    }

    /// Takes room for a body that will probably have so many bytes.
    fn expect(&mut self, bytes: usize) -> Result<(), ApiError> {
        self.is_awaited = true;
        self.bytes.reserve(bytes);
        self.room.grow_to(bytes, self.settings.bodies_bytes_max)
    }

    /// Learns from a piece what the body is, if nothing told it before.
    fn learn(&mut self, piece: &[u8]) {
        if self.is_stored.is_none() && !piece.trim_ascii_start().is_empty() {
            self.is_stored = Some(self.takes.stored_form(piece).is_some());
        }
    }

    fn add(&mut self, piece: &[u8]) -> Result<(), ApiError> {
        self.learn(piece);
        let bytes = self.bytes.len() + piece.len();
        let max = self.max();
        if bytes > max.as_usize() {
            return Err(ApiError::BodyTooLarge(max));
        }
        if self.is_awaited || bytes > self.settings.event_bytes_max.as_usize() {
            self.room.grow_to(bytes, self.settings.bodies_bytes_max)?;
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    /// Refuses a body of which so many bytes are known, packed or not. One that is still blank may turn out to
    /// be what may be large.
    fn hold_to_size(&self, known_bytes: usize) -> Result<(), ApiError> {
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
}

/// What unpacks a body writes here; a bomb is let go as soon as it grows too large.
impl Write for Arriving<'_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        match self.add(piece) {
            Ok(()) => Ok(piece.len()),
            Err(refused) => {
                self.refused = Some(refused);
                Err(io::ErrorKind::OutOfMemory.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A body that is unpacked as it arrives.
enum Unpacked<'b> {
    Identity(Arriving<'b>),
    Gzip(Box<Gzip<'b>>),
}

impl<'b> Unpacked<'b> {
    fn new(encoding: Encoding, arriving: Arriving<'b>) -> Self {
        match encoding {
            Encoding::Identity => Self::Identity(arriving),
            Encoding::Gzip => {
                Self::Gzip(Box::new(Gzip { member: GzDecoder::new(arriving), members: 1 }))
            }
        }
    }

    fn add(&mut self, piece: &[u8]) -> Result<(), ApiError> {
        match self {
            Self::Identity(arriving) => arriving.add(piece),
            Self::Gzip(gzip) => gzip.add(piece).map_err(|error| {
                let refused = gzip.member.get_mut().refused.take();
                refused.unwrap_or_else(|| not_gzip(&error))
            }),
        }
    }

    fn arriving(&self) -> &Arriving<'b> {
        match self {
            Self::Identity(arriving) => arriving,
            Self::Gzip(gzip) => gzip.member.get_ref(),
        }
    }

    fn finish(self) -> Result<Arriving<'b>, ApiError> {
        match self {
            Self::Identity(arriving) => Ok(arriving),
            // All of it was flushed, so it cannot grow any more.
            Self::Gzip(gzip) => gzip.member.finish().map_err(|error| not_gzip(&error)),
        }
    }
}

/// A gzip, which is one member or several.
struct Gzip<'b> {
    member: GzDecoder<Arriving<'b>>,
    members: usize,
}

impl Gzip<'_> {
    fn add(&mut self, mut piece: &[u8]) -> io::Result<()> {
        while !piece.is_empty() {
            match self.member.write(piece)? {
                0 => self.begin_member()?,
                taken => piece = &piece[taken..],
            }
        }
        // Without this it would keep back what tells what the body is.
        self.member.flush()
    }

    /// A member that takes nothing more has ended.
    fn begin_member(&mut self) -> io::Result<()> {
        self.members += 1;
        if self.members > GZIP_MEMBERS_MAX {
            return Err(io::Error::other("it has too many members"));
        }
        let Arriving { takes, settings, room: Room { bodies, .. }, .. } = *self.member.get_ref();
        let next = GzDecoder::new(Arriving::new(takes, settings, bodies));
        let ended = std::mem::replace(&mut self.member, next);
        *self.member.get_mut() = ended.finish()?;
        Ok(())
    }
}

fn not_gzip(error: &io::Error) -> ApiError {
    let message = format!("the body is not gzip, though its Content-Encoding says so: {error}");
    ApiError::Invalid(Violations::unreadable(message))
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

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Identity,
    Gzip,
}

impl Encoding {
    /// The one encoding that the headers name; several, one upon the other, are not understood.
    fn of(headers: &HeaderMap) -> Result<Self, ()> {
        let mut encoding = Self::Identity;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            for name in value.to_str().map_err(|_| ())?.split(',') {
                match name.trim().to_ascii_lowercase().as_str() {
                    "" | "identity" => {}
                    "gzip" | "x-gzip" if encoding == Self::Identity => encoding = Self::Gzip,
                    _ => return Err(()),
                }
            }
        }
        Ok(encoding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoding(values: &[&str]) -> Result<Encoding, ()> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::CONTENT_ENCODING, value.parse().unwrap());
        }
        Encoding::of(&headers)
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
}
