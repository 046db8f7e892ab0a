//! The one table from a refusal to its status, headers and body.

use std::any::Any;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::collector::Refusal;
use crate::journal::Unavailable;
use crate::limits::memory::OverLimit;
use crate::limits::{Exceeded, NotAllowed};
use crate::live::Full;
use crate::size::Size;
use crate::telemetry::labels::{Rejected, Shed};
use crate::telemetry::ticket::Fate;
use crate::wire::{self, EventType, STORED_EVENTS_MAX, Violations};

/// When to try again, in seconds, if there is no room now.
const RETRY_AFTER_S: u64 = 10;

/// How long a message may be before it is cut, in bytes. JSON may make six of each, and then it still fits
/// beside the violations in an answer of [`wire::ANSWER_BYTES_MAX`].
const MESSAGE_BYTES_MAX: usize = 1 << 10;

/// Why a request was not answered as its sender wished.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("there is nothing at this path; a session begins with POST /api/v1/sessions")]
    NotFound,
    #[error(
        "there is nothing at this path of the operators' address; players post to {0} (setting listen)"
    )]
    NotForPlayers(SocketAddr),
    #[error("nobody knows this session; a session begins with POST /api/v1/sessions")]
    UnknownSession,
    #[error("this session is over; begin a new one with POST /api/v1/sessions")]
    SessionGone,
    #[error("this session has ended, and the journal keeps its report no more")]
    NotKept,
    #[error("{}", no_event_type(.0))]
    UnknownEventType(String),
    #[error("this path does not take this method; the header Allow names those that it takes")]
    MethodNotAllowed,
    #[error("the body did not arrive within {}", humantime(.0))]
    BodyTimeout(Duration),
    #[error("the body of a stored session arrives too slowly")]
    BodyTooSlow,
    #[error("{0}; nothing was kept, try again later")]
    Memory(#[source] OverLimit),
    #[error("other look-ups are still reading the journal; try again later")]
    LookupBusy,
    #[error("the body is larger than {0}")]
    BodyTooLarge(Size),
    #[error("a stored session has at most {STORED_EVENTS_MAX} events")]
    TooManyEvents,
    #[error("only gzip is understood as Content-Encoding")]
    UnsupportedEncoding,
    #[error("Request had improper format.")]
    Invalid(Violations),
    /// Its sender has probably gone.
    #[error("Request had improper format.")]
    BrokenOff(Violations),
    #[error("{0}; sessions are collected only for who is listed, ask who runs this server")]
    NotAllowed(#[source] NotAllowed),
    #[error("{0}; nothing was kept, try again in {wait} s", wait = .0.wait_s())]
    TooManyRequests(#[source] Exceeded),
    #[error("there is no room for more now; nothing was kept, try again later")]
    Full(#[source] Full),
    #[error("{0}; nothing was acknowledged, try again")]
    Unavailable(#[source] Unavailable),
    #[error(
        "the server has just started and reads its journal back; nothing was kept, try again later"
    )]
    Recovering,
    #[error("the server failed; nothing was kept")]
    Internal,
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(violations) => Self::Invalid(violations),
            Refusal::NotAllowed(not_allowed) => Self::NotAllowed(not_allowed),
            Refusal::Exceeded(exceeded) => Self::TooManyRequests(exceeded),
            Refusal::TooMany => Self::TooManyEvents,
            Refusal::TooLarge(bytes_max) => Self::BodyTooLarge(bytes_max),
            Refusal::Unknown => Self::UnknownSession,
            Refusal::Gone => Self::SessionGone,
            Refusal::Full(full) => Self::Full(full),
            Refusal::Memory(over) => Self::Memory(over),
            Refusal::Unavailable(unavailable) => Self::Unavailable(unavailable),
        }
    }
}

impl From<OverLimit> for ApiError {
    fn from(over: OverLimit) -> Self {
        Self::Memory(over)
    }
}

impl ApiError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NotFound
            | Self::NotForPlayers(_)
            | Self::UnknownSession
            | Self::NotKept
            | Self::UnknownEventType(_) => StatusCode::NOT_FOUND,
            Self::SessionGone => StatusCode::GONE,
            Self::NotAllowed(_) => StatusCode::FORBIDDEN,
            Self::TooManyRequests(_) | Self::Memory(OverLimit::Share(_)) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout(_) | Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge(_) | Self::TooManyEvents => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Invalid(_) | Self::BrokenOff(_) => StatusCode::BAD_REQUEST,
            Self::Memory(OverLimit::Full(_))
            | Self::LookupBusy
            | Self::Full(_)
            | Self::Unavailable(_)
            | Self::Recovering => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What becomes of a request that is answered so.
    pub(super) fn fate(&self) -> Fate {
        match self {
            Self::Invalid(_) => Fate::Rejected(Rejected::Invalid),
            Self::UnknownSession => Fate::Rejected(Rejected::Unknown),
            Self::SessionGone => Fate::Rejected(Rejected::Gone),
            Self::BodyTooLarge(_) | Self::TooManyEvents => Fate::Rejected(Rejected::TooLarge),
            Self::UnsupportedEncoding => Fate::Rejected(Rejected::Encoding),
            Self::NotAllowed(_) => Fate::Rejected(Rejected::Forbidden),
            Self::TooManyRequests(_) | Self::Memory(OverLimit::Share(_)) => {
                Fate::Rejected(Rejected::Rate)
            }
            Self::BodyTimeout(_) | Self::BodyTooSlow => Fate::Rejected(Rejected::Timeout),
            Self::Memory(over) => Fate::Shed((*over).into()),
            Self::Full(full) => Fate::Shed(full.into()),
            Self::Unavailable(unavailable) => Fate::Shed((*unavailable).into()),
            Self::Recovering => Fate::Shed(Shed::Starting),
            // All but the first two are never the answer where players post.
            Self::BrokenOff(_)
            | Self::Internal
            | Self::NotFound
            | Self::NotForPlayers(_)
            | Self::NotKept
            | Self::UnknownEventType(_)
            | Self::MethodNotAllowed
            | Self::LookupBusy => Fate::Aborted,
        }
    }

    pub(super) fn violations(&self) -> Option<&Violations> {
        match self {
            Self::Invalid(violations) | Self::BrokenOff(violations) => Some(violations),
            _ => None,
        }
    }

    /// What it tells a person, cut where names that came with the request make it long.
    pub(super) fn message(&self) -> String {
        let message = self.to_string();
        wire::cut(&message, MESSAGE_BYTES_MAX).into_owned()
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        match self {
            Self::UnsupportedEncoding => {
                headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
            }
            // What is left of the body would be taken for the next request.
            Self::BodyTimeout(_) | Self::BodyTooSlow => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Self::Memory(_)
            | Self::LookupBusy
            | Self::Full(_)
            | Self::Unavailable(_)
            | Self::Recovering => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER_S.into());
            }
            Self::TooManyRequests(exceeded) => {
                headers.insert(header::RETRY_AFTER, exceeded.wait_s().into());
            }
            _ => {}
        }
        headers
    }
}

/// What an error looks like on the wire; at most [`wire::ANSWER_BYTES_MAX`], whatever was sent.
#[derive(Serialize)]
pub(super) struct ErrorBody<'e> {
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    violations: Option<&'e Violations>,
    /// How many violations are not listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    omitted: Option<usize>,
}

impl ErrorBody<'_> {
    /// A body with a message of ours and no more.
    pub(super) fn saying(message: String) -> Self {
        Self { message, violations: None, omitted: None }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let violations = self.violations();
        let body = ErrorBody {
            message: self.message(),
            violations,
            omitted: violations.map(Violations::omitted).filter(|omitted| *omitted > 0),
        };
        (self.status(), self.headers(), Json(body)).into_response()
    }
}

pub(super) async fn not_found() -> ApiError {
    ApiError::NotFound
}

/// Whatever was asked, while the journal is read back.
pub(super) async fn recovering() -> ApiError {
    ApiError::Recovering
}

/// The router adds `Allow`.
pub(super) async fn method_not_allowed() -> ApiError {
    ApiError::MethodNotAllowed
}

/// A defect of ours ends one request and no other.
#[expect(clippy::needless_pass_by_value, reason = "the layer that calls it gives it away")]
pub(super) fn of_panic(panic: Box<dyn Any + Send + 'static>) -> Response<Body> {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(
        panic = text.unwrap_or("without a text"),
        "a request met a defect of the server"
    );
    ApiError::Internal.into_response()
}

fn no_event_type(name: &str) -> String {
    let quoted = wire::quoted(name);
    let names = EventType::ALL.map(EventType::name).join(", ");
    match EventType::nearest_name(name) {
        Some(near) => format!(
            "{quoted} is no event type; did you mean /api/v1/schemas/{near}? \
             /api/v1/openapi.json has them all"
        ),
        None => format!("{quoted} is no event type; /api/v1/openapi.json has them all: {names}"),
    }
}

fn humantime(duration: &Duration) -> String {
    format!("{} ms", duration.as_millis())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::clock::Clock;
    use crate::limits::memory::Kind;
    use crate::limits::{self, Limits};
    use crate::session::Opening;
    use crate::wire::{Event, NotStored, Rules, Start, StoredForm, openapi};

    /// The error after `error` in a row of all; it does not compile unless each has its place there.
    fn next(error: &ApiError) -> Option<ApiError> {
        Some(match error {
            ApiError::NotFound => ApiError::NotForPlayers(([0, 0, 0, 0], 8080).into()),
            ApiError::NotForPlayers(_) => ApiError::UnknownSession,
            ApiError::UnknownSession => ApiError::SessionGone,
            ApiError::SessionGone => ApiError::NotKept,
            ApiError::NotKept => ApiError::UnknownEventType(String::new()),
            ApiError::UnknownEventType(_) => ApiError::MethodNotAllowed,
            ApiError::MethodNotAllowed => ApiError::BodyTimeout(Duration::ZERO),
            ApiError::BodyTimeout(_) => ApiError::BodyTooSlow,
            ApiError::BodyTooSlow => ApiError::Memory(OverLimit::Full(Kind::Bodies)),
            ApiError::Memory(OverLimit::Full(kind)) => ApiError::Memory(OverLimit::Share(*kind)),
            ApiError::Memory(OverLimit::Share(_)) => ApiError::LookupBusy,
            ApiError::LookupBusy => ApiError::BodyTooLarge(Size::kib(1)),
            ApiError::BodyTooLarge(_) => ApiError::TooManyEvents,
            ApiError::TooManyEvents => ApiError::UnsupportedEncoding,
            ApiError::UnsupportedEncoding => {
                ApiError::Invalid(Violations::unreadable(String::new()))
            }
            ApiError::Invalid(_) => ApiError::BrokenOff(Violations::unreadable(String::new())),
            ApiError::BrokenOff(_) => ApiError::NotAllowed(NotAllowed::default()),
            ApiError::NotAllowed(_) => {
                ApiError::TooManyRequests(Exceeded::Client { per_second: 1, wait_s: 1 })
            }
            ApiError::TooManyRequests(_) => ApiError::Full(Full::Sessions(0)),
            ApiError::Full(_) => ApiError::Unavailable(Unavailable::Busy),
            ApiError::Unavailable(_) => ApiError::Recovering,
            ApiError::Recovering => ApiError::Internal,
            ApiError::Internal => return None,
        })
    }

    async fn answered(error: ApiError) -> Vec<u8> {
        let body = error.into_response().into_body();
        axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec()
    }

    /// The error with the longest texts that it may have, and longer ones.
    fn longest(error: ApiError, text: &str) -> ApiError {
        let violations = || {
            let name = text.repeat(100);
            let members: Vec<_> = (0..2_000)
                .map(|n| serde_json::to_string(&format!("{n} {name}")).unwrap() + ":1")
                .collect();
            let body = format!(r#"{{"customMetadata":{{{}}}}}"#, members.join(","));
            Event::parse(body.as_bytes(), Rules::default()).unwrap_err()
        };
        match error {
            ApiError::UnknownEventType(_) => ApiError::UnknownEventType(text.repeat(10_000)),
            ApiError::BodyTimeout(_) => ApiError::BodyTimeout(Duration::MAX),
            ApiError::BodyTooLarge(_) => ApiError::BodyTooLarge(Size::kib(u64::MAX >> 10)),
            ApiError::Invalid(_) => ApiError::Invalid(violations()),
            ApiError::BrokenOff(_) => ApiError::BrokenOff(violations()),
            ApiError::TooManyRequests(_) => ApiError::TooManyRequests(Exceeded::ReportSuite {
                suite: text.repeat(100_000),
                per_second: u32::MAX,
                wait_s: u64::MAX,
            }),
            ApiError::NotAllowed(_) => {
                let mut settings = limits::Settings::default();
                settings.report_suites.push("r".to_owned());
                let suites: Vec<_> = (0..99).map(|n| format!("{n}{}", text.repeat(999))).collect();
                let start = serde_json::json!({
                    "eventType": "sessionStart", "playerTime": {"playhead": 0, "ts": 0},
                    "params": {"media.id": "a", "media.length": 0, "media.contentType": "",
                        "media.playerName": "", "analytics.reportSuite": suites.join(",")},
                });
                let start = start.to_string();
                let start = Start::parse(start.as_bytes(), Rules::ACCEPTED).unwrap();
                let facts = Opening::of(&start, None, None).facts;
                let limits = Limits::new(&settings, &Clock::manual(0));
                ApiError::NotAllowed(limits.allow(&facts).unwrap_err())
            }
            other => other,
        }
    }

    #[tokio::test]
    async fn no_answer_is_longer_than_it_may_be() {
        for error in std::iter::successors(Some(ApiError::NotFound), next) {
            let text = error.message();
            assert!(!text.contains("bytes)"), "a usual message is not cut: {text}");
        }
        for text in ["a", "\"", "\\", "\u{1}", "\u{10FFFF}"] {
            for error in std::iter::successors(Some(ApiError::NotFound), next) {
                let error = longest(error, text);
                let (name, violations) = (format!("{error:?}"), error.violations().is_some());
                let answer = answered(error).await;
                let name = &name[..name.floor_char_boundary(20)];
                assert!(answer.len() <= wire::ANSWER_BYTES_MAX, "{name}: {}", answer.len());
                assert!(violations || answer.len() <= 8 << 10, "{name}: {}", answer.len());
                let answer: Value = serde_json::from_slice(&answer).unwrap();
                assert_eq!(answer["omitted"].as_u64().is_some(), violations, "{name}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_body_makes_an_answer_longer_than_it_may_be(
            names in prop::collection::vec(".{0,40}", 1..40),
            (copies, repeats) in (1_usize..30, 1_usize..30),
            (strict, stored) in any::<(bool, bool)>(),
        ) {
            let members = names.iter().cycle().take(names.len() * copies);
            let members: Vec<_> = members
                .map(|name| serde_json::to_string(&name.repeat(repeats)).unwrap() + ":[]")
                .collect();
            let inside = format!("{{{}}}", members.join(","));
            let body = format!(
                r#"{{"customMetadata":{inside},"params":{{"statesStart":[{inside}]}},{}"#, &inside[1..]
            );
            let rules = Rules { strict, ..Rules::default() };
            let refused = if stored {
                let body = format!("[{body},{body}]");
                let form = StoredForm::Downloaded;
                match wire::parse_stored(body.as_bytes(), rules, form, |_| {}) {
                    Err(NotStored::Invalid(violations)) => violations,
                    other => panic!("{other:?}"),
                }
            } else {
                Event::parse(body.as_bytes(), rules).unwrap_err()
            };
            let body = ErrorBody {
                message: ApiError::Invalid(Violations::default()).message(),
                violations: Some(&refused),
                omitted: Some(refused.omitted()),
            };
            let answer = serde_json::to_vec(&body).unwrap();
            prop_assert!(answer.len() <= wire::ANSWER_BYTES_MAX, "{}", answer.len());
        }
    }

    #[test]
    fn every_refusal_is_described() {
        let description: Value =
            serde_json::from_str(&openapi::document(Rules::default())).unwrap();
        let paths = description["paths"].as_object().unwrap().values();
        let operations: Vec<_> =
            paths.flat_map(|path| path.as_object().unwrap().values()).collect();
        for error in std::iter::successors(Some(ApiError::NotFound), next) {
            let status = error.status().as_str().to_owned();
            let responses = operations.iter().filter_map(|one| one.get("responses")?.get(&status));
            let names: Vec<_> = responses.filter_map(|response| response.get("$ref")).collect();
            assert!(!names.is_empty(), "{error:?} is not described");
            for name in names {
                let response = description.pointer(&name.as_str().unwrap()[1..]).unwrap();
                for header in error.headers().keys().filter(|name| **name != header::CONNECTION) {
                    let mut described = response["headers"].as_object().unwrap().keys();
                    assert!(described.any(|name| header == name.as_str()), "{header} of {error:?}");
                }
            }
        }
    }
}
