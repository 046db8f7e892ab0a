//! Series: requests are counted on their way, and all series are shown to Prometheus.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::error::ApiError;
use super::health::{Reader, Readiness};
use super::{App, Connections, Door};
use crate::clock::Stopwatch;
use crate::journal::Unavailable;
use crate::journal::disk::Space;
use crate::telemetry::labels::{Listener, Route};
use crate::telemetry::now::{self, Files, Now};
use crate::telemetry::series::Series;

/// What the text of the series is called.
const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// How long the disk may take to tell of itself. If it hangs, all else is wanted the more.
const DISK_TIMEOUT: Duration = Duration::from_secs(1);

/// Lets one after the other look at the disk: each lists the folder of the journal.
#[derive(Debug)]
pub(super) struct Looks(Arc<Semaphore>);

impl Default for Looks {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

pub(super) fn router() -> Router<App> {
    Router::new().route("/metrics", get(metrics)).route("/metrics/", get(metrics))
}

async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    let (files, space) = timeout(DISK_TIMEOUT, look(&app)).await.unwrap_or_default();
    let series = Arc::clone(&app.0.series);
    shown(series, move || Now {
        is_ready: Readiness::of(app.clone(), Reader::Operator).is_ready(),
        connections: app.0.connections.clone(),
        rooms: Some(rooms_of(&app, files, space)),
    })
    .await
}

/// The series while the journal is read back: whoever watches shall not take the server for dead.
pub(super) fn recovering(series: Arc<Series>, connections: Connections) -> Router {
    let metrics =
        async move || shown(series, || Now { is_ready: false, connections, rooms: None }).await;
    Router::new().route("/metrics", get(metrics.clone())).route("/metrics/", get(metrics))
}

async fn shown(
    series: Arc<Series>,
    now: impl FnOnce() -> Now + Send + 'static,
) -> Result<Response, ApiError> {
    // It is a long text, and players must not wait for it.
    let text = spawn_blocking(move || now::exposition(&series, now()));
    let text = text.await.map_err(|_| ApiError::Internal)?;
    Ok(([(CONTENT_TYPE, OPENMETRICS)], text).into_response())
}

/// What the disk tells of itself; what it does not tell is left out.
async fn look(app: &App) -> (Option<Files>, Option<Space>) {
    let turn = Arc::clone(&app.0.looks.0).acquire_owned().await;
    let turn = turn.expect("the semaphore is never closed");
    let archive = app.0.lookup.archive().clone();
    let looked = spawn_blocking(move || {
        let _turn = turn;
        (archive.files().ok(), archive.space().ok().flatten())
    });
    looked.await.unwrap_or_default()
}

/// The state of all rooms.
fn rooms_of(app: &App, files: Option<Files>, space: Option<Space>) -> now::Rooms {
    let (live, journal) = (app.collector().live(), app.collector().journal());
    let (live_max, bytes_max) = live.bounds();
    let (uncommitted_bytes, uncommitted_bytes_max) = journal.uncommitted_bytes();
    let is_up = journal.is_up();
    let clock = journal.clock();
    now::Rooms {
        rejects: now::Rejects {
            by_class: app.rejects().came(),
            dropped: app.rejects().dropped(),
            over_share: app.rejects().over_share(),
            skipped: app.rejects().gone_skipped(),
        },
        memory: app.memory_usage(),
        memory_max: app.memory().max().as_u64(),
        largest_client: app.collector().limits().concentration.largest_ratio(),
        untrusted_forwards: app.collector().limits().concentration.untrusted(),
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
            clock_off_seconds: Duration::from_millis(clock.off_ms().unsigned_abs()).as_secs_f64()
                * if clock.off_ms() < 0 { -1.0 } else { 1.0 },
            clock_doubted_seconds: Duration::from_millis(clock.doubted_ms()).as_secs_f64(),
        },
        files,
        space,
    }
}

/// A door whose answers are counted, and those to players timed.
pub fn counted(listener: Listener, series: &Arc<Series>, mut door: impl Door) -> impl Door {
    let series = Arc::clone(series);
    tower::service_fn(move |request: Request| {
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
