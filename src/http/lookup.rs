//! One session, for an operator who asks: its report so far or for good, and its records.

use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Frame;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::App;
use super::error::ApiError;
use crate::journal::archive::Archive;
use crate::journal::record::{Content, REPORT_BYTES_MAX};
use crate::report::Report;
use crate::session::id::SessionId;
use crate::session::{AdState, CloseReason, Main, Session, State as Doing};

/// How many look-ups read the journal at once: they must not take the disk from the players.
const READERS_MAX: usize = 2;

/// How many pieces of an answer wait for a slow reader.
const PIECES_MAX: usize = 16;

/// How long a reader may take for the whole answer, before others get its place.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(5);

/// By how much an id may be older than its first record, in ms.
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

    /// The journal that is looked into.
    pub(super) fn archive(&self) -> &Archive {
        &self.archive
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

async fn session(State(app): State<App>, sid: Sid) -> Result<Response, ApiError> {
    let live = app.collector().live();
    let id = known_id(&app, sid)?;
    if let Some(session) = live.copy_of(id) {
        return Ok(running(&app, id, &session));
    }
    let report = match live.ended(id) {
        Some(session) => raw(Report::of(id, &session)),
        None => archived_report(&app, id).await?.ok_or(ApiError::NotKept)?,
    };
    Ok(Json(Told { sid: id, state: None, deadlines: Vec::new(), report }).into_response())
}

/// The id in the path; what is no text when decoded is the id of no session.
type Sid = Result<Path<String>, PathRejection>;

fn known_id(app: &App, sid: Sid) -> Result<SessionId, ApiError> {
    let Path(sid) = sid.map_err(|_| ApiError::UnknownSession)?;
    let id = app.collector().known_id(&sid)?;
    // Its records may still stand there, if the disk does not let them be erased.
    if app.collector().journal().is_fenced(id) { Err(ApiError::NotKept) } else { Ok(id) }
}

/// A session that is live, as it would be if nothing more came.
fn running(app: &App, id: SessionId, session: &Session) -> Response {
    let progress = app.collector().live().progress();
    let copy = session.running_copy();
    let deadlines = session
        .deadlines(&progress.terms)
        .map(|(up_ms, reason)| Deadline { reason, at_ms: progress.stamp_of(up_ms) });
    Json(Told {
        sid: id,
        state: Some(ToldState::of(&copy.state, session.waiting())),
        deadlines: deadlines.collect(),
        report: raw(Report::of(id, &copy)),
    })
    .into_response()
}

/// A report as the journal has it, or will.
fn raw(report: Report<'_>) -> Box<RawValue> {
    let json = String::from_utf8(report.to_json(REPORT_BYTES_MAX)).expect("JSON is UTF-8");
    RawValue::from_string(json).expect("it was just written as JSON")
}

/// The report of a session that has ended, as long as the journal keeps it.
async fn archived_report(app: &App, id: SessionId) -> Result<Option<Box<RawValue>>, ApiError> {
    let (sender, found) = oneshot::channel();
    look_up(app, id, move |archive, from_ms| {
        let mut report = None;
        let wants = || !sender.is_closed();
        let looked = archive.each_of(id, from_ms, wants, |record, _| match &record.content {
            Content::Report { report: found, .. } => {
                report = serde_json::from_slice(found).ok();
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        });
        // Whoever asked may have gone.
        let _ = sender.send(looked.map(|()| report));
    })?;
    let looked = found.await.map_err(|_| ApiError::Internal)?;
    looked.map_err(|error| unreadable(&error))
}

fn unreadable(error: &io::Error) -> ApiError {
    tracing::error!(%error, "the journal cannot be looked into");
    ApiError::Internal
}

/// The records of a session, one a line, as the journal has them.
async fn records(State(app): State<App>, sid: Sid) -> Result<Response, ApiError> {
    let id = known_id(&app, sid)?;
    let is_live = app.collector().live().contains(id);
    let (pieces, mut body) = mpsc::channel(PIECES_MAX);
    let handle = Handle::current();
    let broken = Arc::new(AtomicBool::new(false));
    let tell_broken = Arc::clone(&broken);
    // The answer is streamed while it is read.
    look_up(&app, id, move |archive, from_ms| {
        let until = Instant::now() + ANSWER_TIMEOUT;
        let send = |piece| handle.block_on(timeout_at(until, pieces.send(piece)));
        let mut cut = None;
        let wants = || !pieces.is_closed();
        let looked = archive.each_of(id, from_ms, wants, |record, line| {
            if send(Ok(Bytes::from([line, b"\n"].concat()))).is_err() {
                cut = Some(io::Error::new(io::ErrorKind::TimedOut, "the reader is too slow"));
            }
            // Nothing more is to come.
            let is_last = !is_live && matches!(record.content, Content::Report { .. });
            if is_last || cut.is_some() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        if let Some(error) = cut.or(looked.err()) {
            // An answer that breaks off is not taken for a whole one, even if nobody took the last pieces.
            tell_broken.store(true, Ordering::Release);
            let _ = pieces.try_send(Err(error));
        }
    })?;
    // Of a session that was erased, or that the journal keeps no more, there is none.
    let first = match body.recv().await.transpose().map_err(|error| unreadable(&error))? {
        None if !is_live => return Err(ApiError::NotKept),
        first => first,
    };
    let mut response = Response::new(Body::new(Streamed { first, rest: body, broken }));
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// A body whose pieces come from another thread, and the first one has come.
struct Streamed {
    first: Option<Bytes>,
    rest: mpsc::Receiver<io::Result<Bytes>>,
    /// Whether the rest is less than all.
    broken: Arc<AtomicBool>,
}

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
            None => self.rest.poll_recv(context).map(|piece| match piece {
                Some(piece) => Some(piece.map(Frame::data)),
                None if self.broken.load(Ordering::Acquire) => {
                    Some(Err(io::Error::new(io::ErrorKind::TimedOut, "the records broke off")))
                }
                None => None,
            }),
        }
    }
}

/// Begins to look into the journal, off the threads that serve players.
///
/// # Errors
/// 503 if others are still at it.
fn look_up(
    app: &App,
    id: SessionId,
    look: impl FnOnce(Archive, u64) + Send + 'static,
) -> Result<(), ApiError> {
    let lookup = &app.0.lookup;
    let reader = Arc::clone(&lookup.readers).try_acquire_owned();
    let permit = reader.map_err(|_| ApiError::LookupBusy)?;
    let archive = lookup.archive.clone();
    let from_ms = id.minted_ms().saturating_sub(MARGIN_MS);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        look(archive, from_ms);
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn records_that_break_off_are_not_taken_for_all_of_them() {
        for is_broken in [false, true] {
            let (pieces, rest) = mpsc::channel(1);
            pieces.try_send(Ok(Bytes::from_static(b"two"))).unwrap();
            let broken = Arc::new(AtomicBool::new(is_broken));
            // There is no room for the error.
            drop(pieces);
            let body = Streamed { first: Some(Bytes::from_static(b"one ")), rest, broken };
            let taken = body.collect().await.map(http_body_util::Collected::to_bytes);
            assert_eq!(taken.is_err(), is_broken, "{taken:?}");
        }
    }
}
