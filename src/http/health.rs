//! Whether the server is alive, and whether it should be sent requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::App;
use crate::journal::Unavailable;

/// The health of the server. Clones show the same health.
#[derive(Clone, Debug, Default)]
pub struct Health {
    stopping: Arc<AtomicBool>,
}

impl Health {
    /// Turns readiness red for good: load balancers shall send players elsewhere.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the server is about to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/livez", get(live))
        .route("/livez/", get(live))
        .route("/healthz", get(live))
        .route("/healthz/", get(live))
        .route("/readyz", get(ready))
        .route("/readyz/", get(ready))
        .method_not_allowed_fallback(super::error::method_not_allowed)
}

/// Answering at all is being alive; nothing else may restart a container.
async fn live() -> Response {
    answer(StatusCode::OK, "ok\n")
}

async fn ready(State(app): State<App>) -> Response {
    if app.health().is_stopping() {
        return answer(StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    }
    match app.collector().journal().is_up() {
        Ok(()) => answer(StatusCode::OK, "ok\n"),
        Err(Unavailable::Disk) => answer(StatusCode::SERVICE_UNAVAILABLE, "cannot write\n"),
        Err(Unavailable::Busy) => answer(StatusCode::SERVICE_UNAVAILABLE, "busy\n"),
        Err(Unavailable::Closed) => answer(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
    }
}

fn answer(status: StatusCode, text: &'static str) -> Response {
    let mut response = (status, text).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
