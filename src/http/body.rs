//! A request's body: whole, in time, and never larger than allowed.

use std::io::Read;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::body::Body as _;

use super::Settings;
use super::error::ApiError;
use crate::wire::Violations;

/// How much of a body is read only to be thrown away. A client that is still sending when we close
/// loses our answer, so a body that is refused is read to its end if that is not far.
const DISCARDED_BYTES_MAX: usize = 1 << 20;

/// Reads the body of one event.
///
/// # Errors
/// 415 for an encoding but gzip, 413 past the bound (before or after decompression), 408 if it takes
/// too long, 400 if it breaks off or is no gzip.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    settings: &Settings,
) -> Result<Bytes, ApiError> {
    let Ok(encoding) = Encoding::of(headers) else {
        discard(headers, body, settings).await;
        return Err(ApiError::UnsupportedEncoding);
    };
    let max = bytes_max(settings);
    let announced = body.size_hint().lower();
    if announced > settings.event_bytes_max.as_u64() {
        discard(headers, body, settings).await;
        return Err(ApiError::BodyTooLarge(settings.event_bytes_max));
    }
    let body = tokio::time::timeout(settings.body_timeout, collect(body, max))
        .await
        .map_err(|_| ApiError::BodyTimeout(settings.body_timeout))??
        .ok_or(ApiError::BodyTooLarge(settings.event_bytes_max))?;
    match encoding {
        Encoding::Identity => Ok(body),
        Encoding::Gzip => {
            gunzip(&body, max)?.ok_or(ApiError::BodyTooLarge(settings.event_bytes_max))
        }
    }
}

/// Reads a refused body to its end, within bounds of size and time. A client that waits for our word
/// before it sends (`Expect: 100-continue`) gets none.
pub(super) async fn discard(headers: &HeaderMap, body: Body, settings: &Settings) {
    let waits = headers.contains_key(header::EXPECT);
    let announced = body.size_hint().lower();
    if waits || usize::try_from(announced).is_ok_and(|announced| announced > DISCARDED_BYTES_MAX) {
        return;
    }
    let reading = skip(body, DISCARDED_BYTES_MAX);
    // Whatever comes of it, the request has its answer already.
    let _ = tokio::time::timeout(settings.body_timeout, reading).await;
}

/// The whole body, or nothing if it is larger than `max`.
async fn collect(mut body: Body, max: usize) -> Result<Option<Bytes>, ApiError> {
    let Some(first) = next_data(&mut body).await? else {
        return Ok(Some(Bytes::new()));
    };
    if first.len() > max {
        skip(body, DISCARDED_BYTES_MAX).await?;
        return Ok(None);
    }
    if body.is_end_stream() {
        return Ok(Some(first));
    }
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(max);
    let mut whole = BytesMut::with_capacity(first.len().saturating_add(expected).min(max));
    whole.extend_from_slice(&first);
    while let Some(data) = next_data(&mut body).await? {
        if whole.len() + data.len() > max {
            skip(body, DISCARDED_BYTES_MAX).await?;
            return Ok(None);
        }
        whole.extend_from_slice(&data);
    }
    Ok(Some(whole.freeze()))
}

async fn skip(mut body: Body, max: usize) -> Result<(), ApiError> {
    let mut skipped = 0;
    while let Some(data) = next_data(&mut body).await? {
        skipped += data.len();
        if skipped > max {
            break;
        }
    }
    Ok(())
}

/// The next piece of the body; trailers are passed over.
async fn next_data(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|_| ApiError::BodyBroken)?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
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

fn bytes_max(settings: &Settings) -> usize {
    usize::try_from(settings.event_bytes_max.as_u64()).unwrap_or(usize::MAX)
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
