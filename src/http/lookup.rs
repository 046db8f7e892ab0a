//! One session, for an operator who asks: its report so far or for good, and its records.

use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http_body_util::channel::Channel;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::App;
use super::error::ApiError;
use crate::journal::archive::Archive;
use crate::journal::record::{Content, Record};
use crate::report::Report;
use crate::session::id::SessionId;
use crate::session::{AdState, CloseReason, Main, Session, State as Doing};

/// How many look-ups read the journal at once: they must not take the disk from the players.
const READERS_MAX: usize = 2;

/// How many pieces of an answer wait for a slow reader.
const PIECES_MAX: usize = 16;

/// How long a reader may take for a piece, before others get its place.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// What the clocks of an id and of its records may differ by, in ms.
const MARGIN_MS: u64 = 60_000;

/// Looks sessions up.
#[derive(Debug)]
pub(super) struct Lookup {
    archive: Archive,
    readers: Arc<Semaphore>,
}

impl Lookup {
    pub(super) fn new(archive: Archive) -> Self {
        Self { archive, readers: Arc::new(Semaphore::new(READERS_MAX)) }
    }
}

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/sessions/{sid}", get(session))
        .route("/sessions/{sid}/events", get(records))
}

/// What is told of a session.
#[derive(Serialize)]
struct Told<'t> {
    sid: SessionId,
    /// What it is doing; nothing once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<ToldState<'t>>,
    /// When it ends if nothing more comes, by each rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deadlines: Vec<Deadline>,
    report: Box<RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ToldState<'t> {
    main: Main,
    ad_break_is_open: bool,
    ad: Option<AdState>,
    chapter_is_open: bool,
    player_states: Vec<&'t str>,
    /// How many events wait in the ordering window; the state and the report have them already.
    waiting: usize,
}

impl<'t> ToldState<'t> {
    fn of(state: &'t Doing, waiting: usize) -> Self {
        let open = state.player_states.iter().filter(|state| state.is_open);
        Self {
            main: state.main,
            ad_break_is_open: state.break_is_open,
            ad: state.ad,
            chapter_is_open: state.chapter_is_open,
            player_states: open.map(|state| state.name.as_str()).collect(),
            waiting,
        }
    }
}

#[derive(Serialize)]
struct Deadline {
    reason: CloseReason,
    /// In ms since the Unix epoch by the server's clock.
    at_ms: u64,
}

async fn session(State(app): State<App>, Path(sid): Path<String>) -> Result<Response, ApiError> {
    let live = app.collector().live();
    let id = app.collector().known_id(&sid)?;
    if let Some(session) = live.copy_of(id) {
        return Ok(running(&app, id, &session));
    }
    let report = match live.ended(id) {
        Some(session) => raw(&Report::of(id, &session)),
        None => archived_report(&app, id).await?.ok_or(ApiError::NotKept)?,
    };
    Ok(Json(Told { sid: id, state: None, deadlines: Vec::new(), report }).into_response())
}

/// A session that is live, as it would be if nothing more came.
fn running(app: &App, id: SessionId, session: &Session) -> Response {
    let progress = app.collector().live().progress();
    let copy = session.running_copy();
    let deadlines = session.deadlines(&progress.timeouts).map(|(up_ms, reason)| Deadline {
        reason,
        at_ms: up_ms.saturating_add(progress.paused_ms),
    });
    Json(Told {
        sid: id,
        state: Some(ToldState::of(&copy.state, session.waiting())),
        deadlines: deadlines.collect(),
        report: raw(&Report::of(id, &copy)),
    })
    .into_response()
}

fn raw(report: &Report<'_>) -> Box<RawValue> {
    serde_json::value::to_raw_value(report).expect("text and finite numbers are JSON")
}

/// The report of a session that has ended, as long as the journal keeps it.
async fn archived_report(app: &App, id: SessionId) -> Result<Option<Box<RawValue>>, ApiError> {
    let mut found = None;
    let look = move |archive: Archive, span_ms: RangeInclusive<u64>| {
        archive
            .each_of(id, &span_ms, |record, _| match &record.content {
                Content::Report { report, .. } => {
                    found = serde_json::from_slice(report).ok();
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            })
            .map(|()| found)
    };
    look_up(app, id, look).await?.await.map_err(|_| ApiError::Internal)?.map_err(unreadable)
}

/// The records of a session, one a line, as the journal has them.
async fn records(State(app): State<App>, Path(sid): Path<String>) -> Result<Response, ApiError> {
    let id = app.collector().known_id(&sid)?;
    let is_live = app.collector().live().contains(id);
    let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(PIECES_MAX);
    let handle = Handle::current();
    let look = move |archive: Archive, span_ms: RangeInclusive<u64>| {
        let mut send = |record: &Record<'_>, line: &[u8]| {
            let piece = Bytes::from([line, b"\n"].concat());
            let sending = async { timeout(READ_TIMEOUT, sender.send_data(piece)).await };
            let is_sent = matches!(handle.block_on(sending), Ok(Ok(())));
            // Nobody reads any more, or nothing more is to come.
            let is_last = !is_live && matches!(record.content, Content::Report { .. });
            if is_last || !is_sent { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        if let Err(error) = archive.each_of(id, &span_ms, &mut send) {
            sender.abort(error);
        }
    };
    // The answer is streamed while it is read.
    drop(look_up(&app, id, look).await?);
    let mut response = Response::new(Body::new(body));
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// Begins to look into the journal, off the threads that serve players.
async fn look_up<T: Send + 'static>(
    app: &App,
    id: SessionId,
    look: impl FnOnce(Archive, RangeInclusive<u64>) -> T + Send + 'static,
) -> Result<tokio::task::JoinHandle<T>, ApiError> {
    let lookup = &app.0.lookup;
    let permit =
        Arc::clone(&lookup.readers).acquire_owned().await.map_err(|_| ApiError::Internal)?;
    let archive = lookup.archive.clone();
    let progress = app.collector().live().progress();
    let longest_ms = progress.timeouts.age_ms.saturating_add(progress.paused_ms);
    let from_ms = id.minted_ms().saturating_sub(MARGIN_MS);
    let until_ms = id.minted_ms().saturating_add(longest_ms).saturating_add(MARGIN_MS);
    Ok(tokio::task::spawn_blocking(move || {
        let _permit = permit;
        look(archive, from_ms..=until_ms)
    }))
}

#[expect(clippy::needless_pass_by_value, reason = "it is given away")]
fn unreadable(error: std::io::Error) -> ApiError {
    tracing::error!(%error, "the journal cannot be looked into");
    ApiError::Internal
}
