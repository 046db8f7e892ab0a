//! The documents that describe the API: a JSON Schema for each event type, OpenAPI.
//!
//! They follow the rules that this server holds bodies to, so they are made once, at the start.

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use bytes::Bytes;

use super::App;
use super::error::ApiError;
use super::public::preflight;
use crate::wire::{EventType, Rules, openapi, schema};

/// A document changes with the configuration or the version only. Caches ask again after five minutes,
/// so that somebody who changes the rules need not wait for long; the answer is a mere 304.
const CACHED: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// How many bytes of the hash of a document tell it from its other versions.
const ETAG_BYTES: usize = 16;

pub(super) fn router() -> Router<App> {
    let schema: MethodRouter<App> = get(get_schema).options(preflight);
    let openapi: MethodRouter<App> = get(get_openapi).options(preflight);
    Router::new()
        .route("/api/v1/schemas/{event_type}", schema.clone())
        .route("/api/v1/schemas/{event_type}/", schema)
        .route("/api/v1/openapi.json", openapi.clone())
        .route("/api/v1/openapi.json/", openapi)
}

async fn get_schema(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    // A path that is no text when decoded names nothing either.
    let Path(name) = name.map_err(|_| ApiError::NotFound)?;
    let event_type = EventType::from_name(&name).ok_or(ApiError::UnknownEventType(name))?;
    Ok(app.0.documents.schema(event_type).answer(&method, &headers))
}

async fn get_openapi(State(app): State<App>, method: Method, headers: HeaderMap) -> Response {
    app.0.documents.openapi.answer(&method, &headers)
}

/// All documents that are served.
#[derive(Debug)]
pub(super) struct Documents {
    /// In the order of [`EventType::ALL`].
    schemas: [Document; EventType::ALL.len()],
    openapi: Document,
}

impl Documents {
    pub(super) fn new(rules: Rules) -> Self {
        let schema = |event_type| Document::new(schema::document(event_type, rules));
        let openapi = Document::new(openapi::document(rules));
        Self { schemas: EventType::ALL.map(schema), openapi }
    }

    fn schema(&self, event_type: EventType) -> &Document {
        &self.schemas[event_type as usize]
    }
}

/// One document, as it goes over the wire.
#[derive(Debug)]
struct Document {
    text: Bytes,
    etag: HeaderValue,
}

impl Document {
    fn new(text: String) -> Self {
        let hash = blake3::hash(text.as_bytes());
        let etag = format!("\"{}\"", hex::encode(&hash.as_bytes()[..ETAG_BYTES]));
        let etag = HeaderValue::try_from(etag).expect("quotes and digits are a header value");
        Self { text: text.into(), etag }
    }

    /// 200 with the document, or 304 if the request has it already.
    fn answer(&self, method: &Method, request: &HeaderMap) -> Response {
        let known = self.is_known_to(request);
        let body = if known { Body::empty() } else { Body::from(self.text.clone()) };
        let mut response = Response::new(body);
        if known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, CACHED);
        headers.insert(ETAG, self.etag.clone());
        if !known {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        // An answer without a body tells the length that the document has, or none at all. Left alone,
        // the router would say 0 to HEAD.
        if !known || method == Method::HEAD {
            headers.insert(CONTENT_LENGTH, self.text.len().into());
        }
        response
    }

    /// Whether `If-None-Match` names this version. Tags of others may hold commas and are then cut into
    /// pieces that no tag of ours is equal to.
    fn is_known_to(&self, request: &HeaderMap) -> bool {
        let lists = request.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        lists.flat_map(|list| list.split(',')).map(str::trim).any(|tag| {
            let tag = tag.strip_prefix("W/").unwrap_or(tag);
            tag == "*" || tag.as_bytes() == self.etag.as_bytes()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_known(document: &Document, lists: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for list in lists {
            headers.append(IF_NONE_MATCH, list.parse().unwrap());
        }
        document.is_known_to(&headers)
    }

    #[test]
    fn a_version_is_found_among_others() {
        let document = Document::new("{}".to_owned());
        let etag = document.etag.to_str().unwrap();
        let weak = format!("W/{etag}");
        let listed = format!("\"other\",W/\"a,b\" , {etag}");
        for lists in [&[etag][..], &[&weak], &["*"], &[&listed], &["\"other\"", etag]] {
            assert!(is_known(&document, lists), "{lists:?}");
        }
        let unquoted = etag.trim_matches('"');
        for lists in [&[][..], &[""], &["\"other\""], &[unquoted], &["\"*\""], &["w/*"]] {
            assert!(!is_known(&document, lists), "{lists:?}");
        }
        assert_ne!(Document::new("{ }".to_owned()).etag, document.etag);
    }
}
