//! Requests that no route sees: those that HTTP does not allow, and those that their connection may not have open.
//!
//! hyper reads what it can. Two servers in a row that read the same request differently can be played off against
//! each other, so whatever could be read in two ways is refused, and its connection closed.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONNECTION, HOST, RETRY_AFTER, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use tokio_util::either::Either;
use tower::Service;

use super::connections::Denied;
use super::error::ErrorBody;

/// Routes that see only requests that are exact, and that may be open.
#[derive(Clone, Debug)]
pub(super) struct Strict<S>(pub(super) S);

impl<S> Service<Request> for Strict<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let refused = if let Some(denied) = request.extensions().get::<Denied>() {
            denied_with(*denied)
        } else if let Err(inexact) = check(request.version(), request.headers()) {
            let body = Json(ErrorBody::saying(inexact.to_string()));
            (StatusCode::BAD_REQUEST, body).into_response()
        } else {
            return Either::Left(self.0.call(request));
        };
        Either::Right(ready(Ok(closing(request.version(), refused))))
    }
}

/// Tells the client that no more is read on its connection. HTTP/2 has other means, and requests side by side.
fn closing(version: Version, mut response: Response) -> Response {
    if version != Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Without a body, which would have to be read as well.
fn denied_with(denied: Denied) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = denied.status();
    if let Some(seconds) = denied.retry_after_s() {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// Why a request can be read in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Inexact {
    #[error("a request of HTTP/1.1 has exactly one header Host")]
    Host,
    #[error("the only Transfer-Encoding that is taken is chunked, once")]
    TransferEncoding,
}

fn check(version: Version, headers: &HeaderMap) -> Result<(), Inexact> {
    if version == Version::HTTP_2 {
        return Ok(());
    }
    let mut hosts = headers.get_all(HOST).iter();
    let has_host = hosts.next().is_some() || version != Version::HTTP_11;
    if !has_host || hosts.next().is_some() {
        return Err(Inexact::Host);
    }
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    if encodings.next().is_some_and(|value| !is_chunked(value)) || encodings.next().is_some() {
        return Err(Inexact::TransferEncoding);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn checked(version: Version, headers: &[(&HeaderName, &'static str)]) -> Result<(), Inexact> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        check(version, &map)
    }

    #[test]
    fn http_1_1_names_its_host_once() {
        assert_eq!(checked(Version::HTTP_11, &[(&HOST, "x")]), Ok(()));
        assert_eq!(checked(Version::HTTP_11, &[(&HOST, "")]), Ok(()));
        assert_eq!(checked(Version::HTTP_11, &[]), Err(Inexact::Host));
        for version in [Version::HTTP_11, Version::HTTP_10] {
            assert_eq!(checked(version, &[(&HOST, "x"), (&HOST, "x")]), Err(Inexact::Host));
        }
        assert_eq!(checked(Version::HTTP_10, &[]), Ok(()));
        assert_eq!(checked(Version::HTTP_2, &[]), Ok(()));
    }

    #[test]
    fn a_body_is_chunked_once_or_not_at_all() {
        let coded = |values: &[&'static str]| {
            let mut headers = vec![(&HOST, "x")];
            headers.extend(values.iter().map(|value| (&TRANSFER_ENCODING, *value)));
            checked(Version::HTTP_11, &headers)
        };
        for values in [&[][..], &["chunked"], &["Chunked"]] {
            assert_eq!(coded(values), Ok(()), "{values:?}");
        }
        for values in [&["gzip, chunked"][..], &["identity"], &["chunked", "chunked"], &[""]] {
            assert_eq!(coded(values), Err(Inexact::TransferEncoding), "{values:?}");
        }
    }
}
