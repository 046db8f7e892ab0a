//! Series: requests are counted on their way, and all series are shown to Prometheus.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Incoming;
use tokio::sync::Semaphore;

use super::error::ApiError;
use super::health::{Reader, Readiness};
use super::{App, Door};
use crate::clock::Stopwatch;
use crate::journal::Unavailable;
use crate::telemetry::labels::{Listener, Route};
use crate::telemetry::now::{self, Now};
use crate::telemetry::series::Series;

/// What the text of the series is called.
const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Lets one after the other ask for the series: each lists the folder of the journal.
#[derive(Debug)]
pub(super) struct Scrapes(Arc<Semaphore>);

impl Default for Scrapes {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

pub(super) fn router() -> Router<App> {
    Router::new().route("/metrics", get(metrics)).route("/metrics/", get(metrics))
}

async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    let turn = Arc::clone(&app.0.scrapes.0).acquire_owned().await;
    let turn = turn.expect("the semaphore is never closed");
    // The disk may take its time, and players must not wait for it.
    let text = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        now::exposition(app.series(), now_of(&app))
    });
    let text = text.await.map_err(|_| ApiError::Internal)?;
    Ok(([(CONTENT_TYPE, OPENMETRICS)], text).into_response())
}

/// The state of all rooms. What the disk does not tell is left out.
fn now_of(app: &App) -> Now {
    let (live, journal) = (app.collector().live(), app.collector().journal());
    let (live_max, bytes_max) = live.bounds();
    let (uncommitted_bytes, uncommitted_bytes_max) = journal.uncommitted_bytes();
    let is_up = journal.is_up();
    let archive = app.0.lookup.archive();
    Now {
        is_ready: Readiness::of(app.clone(), Reader::Operator).is_ready(),
        connections: [Arc::clone(&app.0.public_counts), Arc::clone(&app.0.admin_counts)],
        rejects: now::Rejects {
            by_class: app.rejects().came(),
            dropped: app.rejects().dropped(),
            skipped: app.rejects().gone_skipped(),
        },
        sessions: now::Sessions {
            live: live.begun(),
            live_max,
            bytes: live.bytes(),
            bytes_max,
            pending: live.unreported(),
        },
        journal: now::Journal {
            is_up: matches!(is_up, Ok(()) | Err(Unavailable::Busy)),
            committed_seq: live.progress().seq,
            uncommitted_bytes,
            uncommitted_bytes_max,
        },
        files: archive.files().ok(),
        space: archive.space().ok().flatten(),
    }
}

/// A door whose answers are counted, and those to players timed.
pub fn counted(listener: Listener, series: &Arc<Series>, mut door: impl Door) -> impl Door {
    let series = Arc::clone(series);
    tower::service_fn(move |request: Request<Incoming>| {
        let route = match listener {
            Listener::Public => Route::of_public(request.method(), request.uri().path()),
            Listener::Admin => Route::of_admin(request.uri().path()),
        };
        let stopwatch = Stopwatch::start();
        let (answer, series) = (door.call(request), Arc::clone(&series));
        async move {
            let response = answer.await?;
            let http = &series.http;
            http.requests.of((listener, route, response.status().into())).inc();
            if listener == Listener::Public {
                http.answer_seconds.of(route.into()).observe(stopwatch.seconds());
            }
            Ok(response)
        }
    })
}
