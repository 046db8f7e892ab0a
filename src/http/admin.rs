//! The operators' door.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use tokio::task::spawn_blocking;

use super::error::ApiError;
use super::guard::{self, Guard};
use super::health::{self, Health, Reader, Readiness};
use super::{App, error, lookup, series};
use crate::rejects::Class;

/// Nothing here is reachable from the players' door but health. What was refused and what a session was hold
/// what players sent, so all but health stands behind the guard.
pub(super) fn router(app: App, guard: Guard, listen: SocketAddr) -> Router {
    // Mostly a player that has the wrong port.
    let nothing = async move || ApiError::NotForPlayers(listen);
    let readiness = Readiness::of(app.clone(), Reader::Operator);
    Router::new()
        .route("/rejects", get(rejects))
        .route("/unlisted", get(unlisted))
        .merge(lookup::router())
        .merge(series::router())
        .fallback(nothing)
        .method_not_allowed_fallback(error::method_not_allowed)
        // Only what stands above is guarded.
        .layer(from_fn_with_state(guard, guard::check))
        // A player has no token, and is told where it should post rather than to show one.
        .route("/api/{*path}", any(nothing))
        .merge(health::router(readiness))
        .with_state(app)
}

/// What operators get while the journal is read back: health and series.
pub(super) fn recovering(health: Health, guard: Guard, series: Router) -> Router {
    series
        .fallback(error::recovering)
        .layer(from_fn_with_state(guard, guard::check))
        .merge(health::router(Readiness::recovering(health, Reader::Operator)))
}

/// Adds what keeps an answer out of caches, frames and other pages. It is of now, and for one reader.
pub(super) fn secured<B>(mut response: Response<B>) -> Response<B> {
    let headers = response.headers_mut();
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The last refusals, the oldest first:
/// `{"invalid":[…],"unread":[…],"gone":[…],"gone_skipped":0,"dropped":0,"over_share":0}`.
async fn rejects(State(app): State<App>) -> Response {
    let list = |class| app.rejects().last(class).join(",");
    let (invalid, unread, gone) = (list(Class::Invalid), list(Class::Unread), list(Class::Gone));
    let (skipped, dropped) = (app.rejects().gone_skipped(), app.rejects().dropped());
    let over_share = app.rejects().over_share();
    let body = format!(
        "{{\"invalid\":[{invalid}],\"unread\":[{unread}],\"gone\":[{gone}],\
         \"gone_skipped\":{skipped},\"dropped\":{dropped},\"over_share\":{over_share}}}\n"
    );
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

/// The names in accepted bodies that are not listed where they stand, the most frequent first:
/// `{"names":[…],"names_max":256,"forgotten":0}`.
async fn unlisted(State(app): State<App>) -> Result<Response, ApiError> {
    let now_ms = app.collector().journal().now_ms();
    // What was meant is looked for now, and players must not wait for it.
    let json = spawn_blocking(move || app.collector().unlisted().to_json(now_ms));
    let body = json.await.map_err(|_| ApiError::Internal)? + "\n";
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response())
}
