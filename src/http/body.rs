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
use crate::wire::Violations;

/// How much of a body is read only to be thrown away, and how long. A client that is still sending when
/// we close loses our answer, so a body that is refused is read to its end if that is not far.
const DISCARDED_BYTES_MAX: u64 = 1 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_millis(500);

/// The bodies that are being read, and have not arrived whole with their head.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    bytes: AtomicUsize,
}

/// Room for one body, until dropped.
struct Reserved<'b> {
    bodies: &'b Bodies,
    bytes: usize,
}

impl Bodies {
    fn reserve(&self, bytes: usize, bytes_max: Size) -> Result<Reserved<'_>, ApiError> {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let reserved = Reserved { bodies: self, bytes };
        if before + bytes > bytes_max.as_usize() { Err(ApiError::Overloaded) } else { Ok(reserved) }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.bodies.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Reads the body of one event.
///
/// # Errors
/// 415 for an encoding but gzip, 413 past the bound (before or after decompression), 408 if it takes
/// too long, 503 if too many arrive at once, 400 if it breaks off or is no gzip.
pub(super) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    settings: &Settings,
    bodies: &Bodies,
) -> Result<Bytes, ApiError> {
    let too_large = ApiError::BodyTooLarge(settings.event_bytes_max);
    let max = settings.event_bytes_max.as_usize();
    let read = match Encoding::of(headers) {
        Err(()) => Err(ApiError::UnsupportedEncoding),
        Ok(_) if body.size_hint().lower() > settings.event_bytes_max.as_u64() => Err(too_large),
        Ok(encoding) => {
            let collecting = collect(&mut body, settings, bodies);
            tokio::time::timeout(settings.body_timeout, collecting)
                .await
                .unwrap_or(Err(ApiError::BodyTimeout(settings.body_timeout)))
                .and_then(|whole| match encoding {
                    Encoding::Identity => Ok(whole),
                    Encoding::Gzip => gunzip(&whole, max)?.ok_or(too_large),
                })
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

/// The whole body.
async fn collect(body: &mut Body, settings: &Settings, bodies: &Bodies) -> Result<Bytes, ApiError> {
    let max = settings.event_bytes_max.as_usize();
    let Some(first) = next_data(body).await? else { return Ok(Bytes::new()) };
    if first.len() > max {
        return Err(ApiError::BodyTooLarge(settings.event_bytes_max));
    }
    if body.is_end_stream() {
        return Ok(first);
    }
    let rest = body.size_hint().exact().and_then(|rest| usize::try_from(rest).ok());
    let expected = rest.map_or(max, |rest| first.len().saturating_add(rest)).min(max);
    let _reserved = bodies.reserve(expected, settings.bodies_bytes_max)?;
    let mut whole = BytesMut::with_capacity(expected);
    whole.extend_from_slice(&first);
    while let Some(data) = next_data(body).await? {
        if whole.len() + data.len() > max {
            return Err(ApiError::BodyTooLarge(settings.event_bytes_max));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
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
