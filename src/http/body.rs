//! A request's body: whole, in time, and never larger than allowed.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
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
    room: Room<'b>,
}

impl Room<'_> {
    /// Takes more room, if so much is not held yet.
    fn grow_to(&mut self, bytes: usize, bytes_max: Size) -> Result<(), ApiError> {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 {
            let before = self.bodies.bytes.fetch_add(more, Ordering::Relaxed);
            self.bytes = bytes;
            if before + more > bytes_max.as_usize() {
                return Err(ApiError::Overloaded);
            }
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

    /// The bounds of a body that begins with `first`: its size and its time.
    fn bounds(self, settings: &Settings, first: &[u8]) -> (Size, Duration) {
        if self.stored_form(first).is_some() {
            (settings.stored_bytes_max, settings.stored_timeout)
        } else {
            (settings.event_bytes_max, settings.body_timeout)
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
    settings: &Settings,
    bodies: &'b Bodies,
) -> Result<Received<'b>, ApiError> {
    let largest = takes.largest(settings);
    let read = match Encoding::of(headers) {
        Err(()) => Err(ApiError::UnsupportedEncoding),
        Ok(_) if body.size_hint().lower() > largest.as_u64() => {
            Err(ApiError::BodyTooLarge(largest))
        }
        Ok(Encoding::Identity) => collect(&mut body, takes, settings, bodies).await,
        Ok(Encoding::Gzip) => {
            // What it is shows once it is unpacked.
            let packed = if takes == Takes::Event { takes } else { Takes::Stored };
            match collect(&mut body, packed, settings, bodies).await {
                Ok(packed) => unpack(packed, takes, settings),
                Err(error) => Err(error),
            }
        }
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

/// The whole body as it comes, packed or not.
async fn collect<'b>(
    body: &mut Body,
    takes: Takes,
    settings: &Settings,
    bodies: &'b Bodies,
) -> Result<Received<'b>, ApiError> {
    let mut room = Room { bodies, bytes: 0 };
    let timeout = tokio::time::sleep(settings.body_timeout);
    tokio::pin!(timeout);
    let first = tokio::select! {
        biased;
        first = next_data(body) => first?,
        () = &mut timeout => return Err(ApiError::BodyTimeout(settings.body_timeout)),
    };
    let Some(first) = first else { return Ok(Received { bytes: Bytes::new(), room }) };
    let (max, time) = takes.bounds(settings, &first);
    let too_large = || ApiError::BodyTooLarge(max);
    let rest = body.size_hint();
    let known = rest.lower().saturating_add(first.len() as u64);
    if known > max.as_u64() {
        return Err(too_large());
    }
    if body.is_end_stream() {
        return Ok(Received { bytes: first, room });
    }
    let further = time.saturating_sub(settings.body_timeout);
    let deadline = timeout.deadline() + further;
    timeout.as_mut().reset(deadline);
    // A body of unknown length takes room as it grows; most of them are small.
    let is_known = rest.exact().is_some();
    let expected = if is_known { known } else { settings.event_bytes_max.as_u64() };
    room.grow_to(to_usize(expected), settings.bodies_bytes_max)?;
    let mut whole = BytesMut::with_capacity(to_usize(expected));
    whole.extend_from_slice(&first);
    let reading = async {
        while let Some(data) = next_data(body).await? {
            if whole.len() + data.len() > max.as_usize() {
                return Err(too_large());
            }
            room.grow_to(whole.len() + data.len(), settings.bodies_bytes_max)?;
            whole.extend_from_slice(&data);
        }
        Ok(())
    };
    tokio::select! {
        biased;
        read = reading => read?,
        () = &mut timeout => return Err(ApiError::BodyTimeout(time)),
    }
    Ok(Received { bytes: whole.freeze(), room })
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The next piece of the body; trailers are passed over.
async fn next_data(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|_| broken())?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// A body that ended too early, or whose pieces are not as HTTP wants them.
fn broken() -> ApiError {
    let message = "the body broke off, or it is chunked in a wrong way".to_owned();
    ApiError::Invalid(Violations::unreadable(message))
}

/// How a body is packed.
#[derive(Debug, PartialEq, Eq)]
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

/// Unpacks a body within its bounds.
fn unpack<'b>(
    packed: Received<'b>,
    takes: Takes,
    settings: &Settings,
) -> Result<Received<'b>, ApiError> {
    let Received { bytes: packed, mut room } = packed;
    let largest = takes.largest(settings);
    let bytes = gunzip(&packed, largest.as_usize())?.ok_or(ApiError::BodyTooLarge(largest))?;
    let (max, _) = takes.bounds(settings, &bytes);
    if bytes.len() > max.as_usize() {
        return Err(ApiError::BodyTooLarge(max));
    }
    if bytes.len() > settings.event_bytes_max.as_usize() {
        room.grow_to(bytes.len(), settings.bodies_bytes_max)?;
    }
    Ok(Received { bytes, room })
}

/// Unpacks a body, or nothing if it grows larger than `max`: a bomb is let go as soon as it does.
fn gunzip(packed: &[u8], max: usize) -> Result<Option<Bytes>, ApiError> {
    let mut body = Vec::with_capacity(packed.len().saturating_mul(4).min(max));
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(packed).take(limit).read_to_end(&mut body).map_err(|error| {
        let message = format!("the body is not gzip, though its Content-Encoding says so: {error}");
        ApiError::Invalid(Violations::unreadable(message))
    })?;
    Ok((body.len() <= max).then(|| body.into()))
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
