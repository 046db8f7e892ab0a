//! Series: requests are counted on their way, and all series are shown to Prometheus.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::error::ApiError;
use super::health::{Reader, Readiness};
use super::{App, Connections, Door, slashes};
use crate::clock::Stopwatch;
use crate::journal::Unavailable;
use crate::journal::disk::Space;
use crate::telemetry::classic;
use crate::telemetry::labels::{Listener, Route};
use crate::telemetry::now::{self, Files, Now};
use crate::telemetry::series::Series;

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

async fn metrics(State(app): State<App>, headers: HeaderMap) -> Result<Response, ApiError> {
    let (files, space) = timeout(DISK_TIMEOUT, look(&app)).await.unwrap_or_default();
    let series = Arc::clone(&app.0.series);
    shown(series, Exposition::wanted_by(&headers), move || Now {
        is_ready: Readiness::of(app.clone(), Reader::Operator).is_ready(),
        connections: app.0.connections.clone(),
        rooms: Some(rooms_of(&app, files, space)),
    })
    .await
}

/// The series while the journal is read back: whoever watches shall not take the server for dead.
pub(super) fn recovering(series: Arc<Series>, connections: Connections) -> Router {
    let metrics = async move |headers: HeaderMap| {
        let now = || Now { is_ready: false, connections, rooms: None };
        shown(series, Exposition::wanted_by(&headers), now).await
    };
    Router::new().route("/metrics", get(metrics.clone())).route("/metrics/", get(metrics))
}

async fn shown(
    series: Arc<Series>,
    exposition: Exposition,
    now: impl FnOnce() -> Now + Send + 'static,
) -> Result<Response, ApiError> {
    // It is a long text, and players must not wait for it.
    let text = spawn_blocking(move || {
        let text = now::exposition(&series, now());
        match exposition {
            Exposition::OpenMetrics => text,
            Exposition::Classic => classic::of_openmetrics(&text),
        }
    });
    let text = text.await.map_err(|_| ApiError::Internal)?;
    let headers = [(CONTENT_TYPE, exposition.content_type()), (VARY, HeaderValue::from(ACCEPT))];
    Ok((headers, text).into_response())
}

/// A text format of series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exposition {
    /// Prometheus' own, version 0.0.4, which every scraper reads.
    Classic,
    /// `OpenMetrics` 1.0.0.
    OpenMetrics,
}

impl Exposition {
    /// The format that `Accept` asks for: `OpenMetrics` for who prefers it by name, else the one for everybody.
    fn wanted_by(headers: &HeaderMap) -> Self {
        let lists = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let (mut openmetrics, mut classic, mut any) = (None, None, None);
        for range in lists.flat_map(|list| list.split(',')) {
            let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
            let kind = parts.next().unwrap_or_default();
            let (mut quality, mut version) = (1.0, None);
            for part in parts {
                match part.split_once('=') {
                    Some(("q", text)) => quality = text.trim().parse().unwrap_or(0.0),
                    Some(("version", text)) => version = Some(text.trim_matches('"').to_owned()),
                    _ => {}
                }
            }
            let is = |wanted: &str| version.as_deref().is_none_or(|version| version == wanted);
            let best = match &*kind {
                "application/openmetrics-text" if is("1.0.0") || is("0.0.1") => &mut openmetrics,
                "text/plain" if is("0.0.4") => &mut classic,
                "*/*" | "text/*" => &mut any,
                _ => continue,
            };
            *best = Some(best.unwrap_or(0.0_f64).max(quality));
        }
        let wanted = openmetrics.filter(|quality| *quality > 0.0);
        // Who names both alike has named the newer one for a reason.
        match wanted {
            Some(quality) if quality >= classic.or(any).unwrap_or(0.0) => Self::OpenMetrics,
            _ => Self::Classic,
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        })
    }
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
    let off_ms = clock.off_ms();
    let off_seconds = Duration::from_millis(off_ms.unsigned_abs()).as_secs_f64();
    now::Rooms {
        rejects: now::Rejects {
            by_class: app.rejects().came(),
            dropped: app.rejects().dropped(),
            over_share: app.rejects().over_share(),
            skipped: app.rejects().gone_skipped(),
        },
        unlisted_names: app.collector().unlisted().counts(),
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
            clock_off_seconds: if off_ms < 0 { -off_seconds } else { off_seconds },
            clock_doubted_seconds: Duration::from_millis(clock.doubted_ms()).as_secs_f64(),
        },
        files,
        space,
    }
}

/// A door whose answers are counted, and those to players timed.
pub fn counted(listener: Listener, series: &Arc<Series>, mut door: impl Door) -> impl Door {
    let series = Arc::clone(series);
    tower::service_fn(move |mut request: Request| {
        let route = match listener {
            Listener::Public => {
                // Before all else that looks at the path.
                slashes::make_single(request.uri_mut());
                Route::of_public(request.method(), request.uri().path())
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_who_asks_for_it() {
        use Exposition::{Classic, OpenMetrics};
        // What Prometheus 2 and 3 send, what others do, and what nobody should.
        for (accept, wanted) in [
            (&[][..], Classic),
            (&["*/*"], Classic),
            (&["text/html,application/xhtml+xml,*/*;q=0.8"], Classic),
            (&["text/plain;version=0.0.4;q=0.3"], Classic),
            (&["text/plain"], Classic),
            (&["application/openmetrics-text"], OpenMetrics),
            (
                &[
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ],
                OpenMetrics,
            ),
            (
                &[
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                ],
                OpenMetrics,
            ),
            (
                &[
                    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ],
                Classic,
            ),
            (
                &["text/plain;version=0.0.4", "Application/OpenMetrics-Text; Version=1.0.0; Q=0.5"],
                Classic,
            ),
            (
                &[
                    "text/plain;version=0.0.4;q=0.2",
                    "Application/OpenMetrics-Text; version=\"1.0.0\"; q=0.5",
                ],
                OpenMetrics,
            ),
            (&["application/openmetrics-text;q=0,*/*"], Classic),
            (&["application/openmetrics-text;q=0"], Classic),
            (&["application/openmetrics-text;version=2.0.0"], Classic),
            (&["application/openmetrics-text;q=x"], Classic),
            (&[",;=,"], Classic),
        ] {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(ACCEPT, value.parse().unwrap());
            }
            assert_eq!(Exposition::wanted_by(&headers), wanted, "{accept:?}");
        }
    }
}
