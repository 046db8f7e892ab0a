//! The players' door: start a session, send an event, send a stored session whole, CORS.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    CONTENT_LENGTH, CONTENT_TYPE, LOCATION, USER_AGENT,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use bytes::Bytes;

use super::body::{Received, Takes};
use super::connections::Peer;
use super::error::ApiError;
use super::health::{self, Health, Reader, Readiness};
use super::{App, body, documents, error, forwarded, with_common_routes};
use crate::collector::{Client, Refusal, StoredBody};
use crate::journal::Unavailable;
use crate::limits::memory::{self, Kind, OverLimit};
use crate::live::Full;
use crate::privacy::{self, NOT_SHOWN};
use crate::rejects::Reject;
use crate::session::id::SessionId;
use crate::telemetry::labels::{DataRoute, Route};
use crate::telemetry::ticket::{Ticket, Tickets};
use crate::wire::{TEXT_BYTES_MAX, cut};

/// Who sends a request that came by no connection.
const UNKNOWN_CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// How many further header names a preflight is granted. Browsers ask for a handful.
const PREFLIGHT_NAMES_MAX: usize = 32;

/// How long a name may be that is granted, and all of them with their commas, in bytes.
const PREFLIGHT_NAME_BYTES_MAX: usize = 128;
const PREFLIGHT_BYTES_MAX: usize = 4 << 10;

pub(super) fn router(app: App) -> Router {
    let sessions: MethodRouter<App> = post(start_session).options(preflight);
    let events: MethodRouter<App> = post(event).options(preflight);
    let downloaded: MethodRouter<App> = post(download).options(preflight);
    let router = Router::new()
        .route("/api/v1/sessions", sessions.clone())
        .route("/api/v1/sessions/", sessions)
        .route("/api/v1/sessions/{sid}/events", events.clone())
        .route("/api/v1/sessions/{sid}/events/", events)
        .route("/api/v1/downloaded", downloaded.clone())
        .route("/api/v1/downloaded/", downloaded)
        .merge(documents::router())
        // Any other path below /api/ has a preflight too, and nothing else.
        .route("/api/{*path}", axum::routing::any(nothing_here));
    with_common_routes(router, Readiness::of(app.clone(), Reader::Anybody)).with_state(app)
}

/// What players get while the journal is read back: a preflight is answered as ever, so that a script can
/// read that it shall come again.
pub(super) fn recovering(health: Health, tickets: Arc<Tickets>) -> Router {
    Router::new()
        .route("/api/{*path}", axum::routing::any(preflight_or_not_yet))
        .fallback(not_yet)
        .with_state(tickets)
        .merge(health::router(Readiness::recovering(health, Reader::Anybody)))
}

async fn preflight_or_not_yet(tickets: State<Arc<Tickets>>, request: Request) -> Response {
    preflight_or(request, async |request| not_yet(tickets, request).await).await
}

async fn not_yet(State(tickets): State<Arc<Tickets>>, request: Request) -> ApiError {
    let route = Route::of_public(request.method(), request.uri().path());
    let mut ticket = route.of_data().map_or_else(Ticket::default, |route| tickets.take(route));
    let refused = error::recovering().await;
    ticket.settle(refused.fate());
    refused
}

async fn start_session(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    begin(&app, DataRoute::Sessions, request, Takes::Either).await
}

async fn download(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    begin(&app, DataRoute::Downloaded, request, Takes::Stored).await
}

/// Begins a session with its start, or takes one that was stored whole.
async fn begin(
    app: &App,
    route: DataRoute,
    request: Request,
    takes: Takes,
) -> Result<Response, ApiError> {
    let mut ticket = app.series().tickets.take(route);
    let (mut head, body) = request.into_parts();
    admit(app, &mut ticket, &mut head, app.collector().has_room())?;
    let body = read(app, &head, body, takes).await;
    let body = body.map_err(|error| unmet(app, &mut ticket, error))?;
    let client = client_of(&head, &app.0.privacy);
    let Received { body, stored, charge, turn } = body;
    let (begun, body, _charge) = match stored {
        None => {
            let begun = app.collector().start(&body.bytes, turn, client, &mut ticket).await;
            (begun, Some(body.bytes), charge)
        }
        Some(form) => {
            let bytes_max = app.0.settings.stored_bytes_max;
            let stored = StoredBody { packed: body, form, bytes_max, charge };
            let outcome = app.collector().stored(stored, client, &mut ticket).await;
            (outcome.result, outcome.body, outcome.charge)
        }
    };
    let bytes = body.as_ref().map_or(0, |body| body.len() as u64);
    app.series().http.body_bytes.of(route).inc_by(bytes);
    match begun {
        Ok(id) => Ok(created(id)),
        Err(refusal) => {
            let error = refused(app, &head, body.as_ref(), refusal.into());
            Err(unmet(app, &mut ticket, error))
        }
    }
}

async fn event(
    State(app): State<App>,
    sid: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    // What is no text when decoded is the id of no session; its body is judged all the same.
    let sid = sid.map_or_else(|_| String::new(), |Path(sid)| sid);
    let mut ticket = app.series().tickets.take(DataRoute::Events);
    let (mut head, body) = request.into_parts();
    admit(&app, &mut ticket, &mut head, Ok(()))?;
    let body = read(&app, &head, body, Takes::Event).await;
    let Received { body, charge: _charge, turn, .. } =
        body.map_err(|error| unmet(&app, &mut ticket, error))?;
    app.series().http.body_bytes.of(DataRoute::Events).inc_by(body.bytes.len() as u64);
    let (memory, ip) = (Some(memory_of(&app, &head)), peer_of(&head));
    let client = Client { memory, ip, ..Client::default() };
    match app.collector().event(&sid, &body.bytes, turn, &client, &mut ticket).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(refusal) => {
            let error = refused(&app, &head, Some(&body.bytes), refusal.into());
            Err(unmet(&app, &mut ticket, error))
        }
    }
}

/// What is checked before a body is read: that there is room, and that its client does not ask too often.
fn admit(
    app: &App,
    ticket: &mut Ticket,
    head: &mut Parts,
    room: Result<(), Refusal>,
) -> Result<(), ApiError> {
    identify(app, head);
    let rate = || app.collector().limits().take_client(|| peer_of(head)).map_err(Refusal::from);
    room.and_then(|()| rate()).map_err(|refusal| unmet(app, ticket, refusal.into()))
}

/// Finds out whom a request is from, and warns where players cannot be told apart.
fn identify(app: &App, head: &mut Parts) {
    let concentration = &app.collector().limits().concentration;
    let shown = |address| app.0.privacy.address(address).unwrap_or_else(|| NOT_SHOWN.to_owned());
    if forwarded::resolve_client(head, &app.0.settings) && concentration.count_untrusted() {
        let peer = peer_of(head).map(shown).unwrap_or_default();
        tracing::warn!(
            peer,
            "requests name another client (X-Forwarded-For or Forwarded), and their sender is not in \
             http.trusted_proxies: if it is your proxy, name it there, or all players behind it are one client"
        );
    }
    let client = head.extensions.get::<Peer>().map(|peer| &peer.memory);
    if let Some((address, permille)) = client.and_then(|client| concentration.count(client)) {
        tracing::warn!(
            client = shown(address),
            percent = permille / 10,
            "one client sends more than half of all requests: if it is your proxy, name it in \
             http.trusted_proxies, or all players behind it share the bounds of one client"
        );
    }
}

/// Counts a refusal. What the journal has taken it settles itself.
fn unmet(app: &App, ticket: &mut Ticket, error: ApiError) -> ApiError {
    ticket.settle(error.fate());
    match &error {
        // What is bounded outside of the account of memory is counted here.
        ApiError::Memory(over) if over.kind() == Kind::Live => app.memory().count_refused(*over),
        ApiError::Full(Full::Bytes(_)) => app.memory().count_refused(OverLimit::Full(Kind::Live)),
        ApiError::Unavailable(Unavailable::Busy) => {
            app.memory().count_refused(OverLimit::Full(Kind::Journal));
        }
        _ => {}
    }
    if let ApiError::Invalid(violations) = &error {
        for violation in violations.listed() {
            app.series().http.violations.of(violation.code).inc();
        }
    }
    error
}

async fn read(app: &App, head: &Parts, body: Body, takes: Takes) -> Result<Received, ApiError> {
    let client = memory_of(app, head);
    let read = body::read(&head.headers, body, takes, &app.0.settings, &app.0.turns, &client).await;
    read.map_err(|error| refused(app, head, None, error))
}

/// What the client uses of the server's memory.
fn memory_of(app: &App, head: &Parts) -> memory::Client {
    let peer = head.extensions.get::<Peer>();
    peer.map_or_else(|| app.memory().client(UNKNOWN_CLIENT), |peer| peer.memory.clone())
}

/// Keeps a body that was refused for what it is; the same body will be refused again, while a server that
/// has no room, or is asked too often, takes it later, and one that broke off may come whole. What is for others is
/// not ours to keep.
fn refused(app: &App, head: &Parts, body: Option<&Bytes>, error: ApiError) -> ApiError {
    let body = body.filter(|_| !matches!(error, ApiError::NotAllowed(_)));
    let comes_again = matches!(
        error,
        ApiError::TooManyRequests(_) | ApiError::Memory(_) | ApiError::BrokenOff(_)
    );
    if error.status().is_client_error() && !comes_again {
        let client = client_of(head, &app.0.privacy);
        let redactor = app.collector().redactor();
        let violations = error.violations();
        let kept = body.and_then(|body| match redactor {
            None => Some(body.clone()),
            Some(redactor) => redactor.refused(body, violations).map(|kept| match kept {
                Cow::Borrowed(same) => body.slice_ref(same),
                Cow::Owned(changed) => changed.into(),
            }),
        });
        let told = redactor.zip(violations).map(|(redactor, all)| redactor.violations(all));
        let message = match (&error, redactor) {
            (ApiError::NotAllowed(unlisted), Some(redactor))
                if unlisted.keys().any(|key| redactor.names(key)) =>
            {
                NOT_SHOWN.to_owned()
            }
            _ => error.message(),
        };
        app.rejects().keep(&Reject {
            received_ms: app.collector().journal().now_ms(),
            status: error.status().as_u16(),
            path: &cut(head.uri.path(), TEXT_BYTES_MAX),
            client: client.address.as_deref(),
            client_key: app.rejects().client_key(peer_of(head)),
            user_agent: client.user_agent.as_deref(),
            violations: told.as_ref().or(violations),
            message: &message,
            body: kept.as_ref(),
            withheld_bytes: body.filter(|_| kept.is_none()).map(Bytes::len),
        });
    }
    error
}

/// Who sent a request, as far as it is kept.
fn client_of<'h>(head: &'h Parts, privacy: &privacy::Settings) -> Client<'h> {
    let (ip, user_agent) = (peer_of(head), head.headers.get(USER_AGENT));
    Client {
        address: ip.and_then(|address| privacy.address(address)),
        user_agent: user_agent.and_then(|header| privacy.user_agent(header.as_bytes())),
        memory: head.extensions.get::<Peer>().map(|peer| peer.memory.clone()),
        ip,
    }
}

/// The address of the client.
fn peer_of(head: &Parts) -> Option<IpAddr> {
    head.extensions.get::<Peer>().map(|peer| peer.address)
}

/// 201, with the place of the new session; relative, so that it holds behind any proxy.
fn created(id: SessionId) -> Response {
    let location = HeaderValue::try_from(format!("/api/v1/sessions/{id}"))
        .expect("slashes, letters and digits are a header value");
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    headers.insert(LOCATION, location);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::CREATED;
    *response.headers_mut() = headers;
    response
}

/// A path at which there is nothing. Whoever posts there has mostly a wrong address, loses everything by it, and sees
/// nothing; so operators do.
async fn nothing_here(State(app): State<App>, request: Request) -> Response {
    preflight_or(request, async |request| {
        let (mut head, _) = request.into_parts();
        let mut error = ApiError::NotFound;
        if head.method == Method::POST {
            identify(&app, &mut head);
            error = refused(&app, &head, None, error);
        }
        error
    })
    .await
}

/// Answers a preflight, and all else otherwise; a method that the router knew would earn the answer an `Allow`.
async fn preflight_or(
    request: Request,
    otherwise: impl AsyncFnOnce(Request) -> ApiError,
) -> Response {
    if request.method() == Method::OPTIONS {
        preflight(request.headers().clone()).await
    } else {
        otherwise(request).await.into_response()
    }
}

/// Grants what a browser asks for: `Content-Type` and whatever other names it brings, within bounds.
pub(super) async fn preflight(headers: HeaderMap) -> Response {
    let mut names = vec!["Content-Type"];
    let mut bytes = names[0].len();
    let asked = headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter();
    let asked = asked.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    names.extend(
        asked
            .map(str::trim)
            .filter(|name| name.len() <= PREFLIGHT_NAME_BYTES_MAX)
            .filter(|name| HeaderName::from_bytes(name.as_bytes()).is_ok())
            .filter(|name| !name.eq_ignore_ascii_case("content-type"))
            .take(PREFLIGHT_NAMES_MAX)
            .take_while(|name| {
                bytes += ",".len() + name.len();
                bytes <= PREFLIGHT_BYTES_MAX
            }),
    );
    let names = HeaderValue::try_from(names.join(",")).expect("header names are a header value");
    let headers = [
        (ACCESS_CONTROL_ALLOW_HEADERS, names),
        // Each session has a URL of its own for its events, so each is asked for anew.
        (ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400")),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Adds the four documented headers, which stand on every answer, an error's too: a script may not
/// even read the status of an answer without them.
pub(super) fn with_cors<B>(mut response: Response<B>) -> Response<B> {
    let headers = response.headers_mut();
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (ACCESS_CONTROL_ALLOW_METHODS, "OPTIONS,POST,PUT"),
        (ACCESS_CONTROL_ALLOW_HEADERS, "Content-Type"),
        (ACCESS_CONTROL_EXPOSE_HEADERS, "Location"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
