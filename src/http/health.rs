//! Whether the server is alive, and whether it should be sent requests, with the reasons.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::App;
use crate::journal::Unavailable;
use crate::limits::memory::Usage;
use crate::telemetry::labels::Label;

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

/// Who reads the reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// Anybody: a word for each check, and nothing of the inside.
    Anybody,
    /// An operator: what it means, too.
    Operator,
}

/// What health is told from.
#[derive(Clone, Debug)]
pub(super) struct Readiness {
    health: Health,
    /// None while the journal is read back.
    app: Option<App>,
    reader: Reader,
}

impl Readiness {
    /// Of a server that reads its journal back.
    pub(super) fn recovering(health: Health, reader: Reader) -> Self {
        Self { health, app: None, reader }
    }

    /// Of a server that serves.
    pub(super) fn of(app: App, reader: Reader) -> Self {
        Self { health: app.health().clone(), app: Some(app), reader }
    }
}

pub(super) fn router<S>(readiness: Readiness) -> Router<S> {
    Router::new()
        .route("/livez", get(live))
        .route("/livez/", get(live))
        .route("/healthz", get(live))
        .route("/healthz/", get(live))
        .route("/readyz", get(ready))
        .route("/readyz/", get(ready))
        .method_not_allowed_fallback(super::error::method_not_allowed)
        .with_state(readiness)
}

/// Answering at all is being alive; nothing else may restart a container.
async fn live() -> Response {
    answer(StatusCode::OK, "ok\n".to_owned())
}

/// One word, the first thing that is wrong; with `?verbose` every check, one a line, and the verdict.
async fn ready(State(readiness): State<Readiness>, RawQuery(query): RawQuery) -> Response {
    let checks = readiness.checks();
    let wrong = checks.iter().find(|check| !check.passes);
    let status = wrong.map_or(StatusCode::OK, |_| StatusCode::SERVICE_UNAVAILABLE);
    if is_verbose(query.as_deref().unwrap_or_default()) {
        let more = readiness.erasure() + &readiness.memory();
        return answer(status, lines(&checks, readiness.reader, &more));
    }
    answer(status, format!("{}\n", wrong.map_or("ok", |check| check.word)))
}

fn is_verbose(query: &str) -> bool {
    query.split('&').any(|pair| pair.split('=').next() == Some("verbose"))
}

/// One of the things that readiness depends on.
struct Check {
    name: &'static str,
    passes: bool,
    /// How it is, for anybody.
    word: &'static str,
    /// What that means, for an operator.
    meaning: String,
}

impl Check {
    fn passed(name: &'static str) -> Self {
        Self { name, passes: true, word: "ok", meaning: String::new() }
    }

    fn failed(name: &'static str, word: &'static str, meaning: impl Into<String>) -> Self {
        Self { name, passes: false, word, meaning: meaning.into() }
    }

    /// Fails if there is something to say.
    fn of(name: &'static str, wrong: Option<(&'static str, &'static str)>) -> Self {
        wrong
            .map_or_else(|| Self::passed(name), |(word, meaning)| Self::failed(name, word, meaning))
    }
}

impl Readiness {
    /// Whether requests should be sent here.
    pub(super) fn is_ready(&self) -> bool {
        self.checks().iter().all(|check| check.passes)
    }

    /// Every check; of several that fail the first is the cause.
    fn checks(&self) -> [Check; 5] {
        let up = self.app.as_ref().map(|app| app.collector().journal().is_up());
        let stops = self.health.is_stopping() || up == Some(Err(Unavailable::Closed));
        let draining = stops.then_some(("stopping", "it takes nothing new soon, and ends"));
        let recovery = up.is_none().then_some((
            "recovering",
            "the journal is read back, which takes the longer the more was written since the last checkpoint",
        ));
        let disk = match up {
            None => Some(("unknown", "nothing is written while the journal is read back")),
            Some(Err(Unavailable::Disk)) => Some((
                "cannot write",
                "the journal is not written and nothing acknowledged; the log says why, and it is \
                 tried again every second",
            )),
            Some(_) => None,
        };
        let room = match up {
            None => Some(("unknown", "nothing is taken while the journal is read back")),
            Some(Err(Unavailable::Busy)) => Some((
                "busy",
                "as much waits to be written as journal.uncommitted_bytes_max allows; the disk is slower than \
                 the players",
            )),
            Some(_) => None,
        };
        [
            Check::of("draining", draining),
            Check::of("recovery", recovery),
            Check::of("disk", disk),
            Check::of("room", room),
            self.sessions(),
        ]
    }

    /// How far an order to erase is, if one stands, for an operator. Players need not wait for it.
    fn erasure(&self) -> String {
        let app = self.app.as_ref().filter(|_| self.reader == Reader::Operator);
        let keeper = app.map(|app| &app.series().keeper);
        keeper.filter(|keeper| keeper.erasure_pending.get() > 0).map_or_else(String::new, |keeper| {
            let ahead = keeper.erasure_ahead_bytes.get().div_ceil(1 << 10);
            format!("[i]erasure: an order is carried out; {ahead} KiB of files are still to be gone through\n")
        })
    }

    /// What outsiders make the server hold, a line a kind, for an operator.
    fn memory(&self) -> String {
        let app = self.app.as_ref().filter(|_| self.reader == Reader::Operator);
        let Some(app) = app else { return String::new() };
        let mut text = String::new();
        for Usage { kind, used, ceiling, refused } in app.memory_usage() {
            let (used, ceiling) = (used.div_ceil(1 << 10), ceiling >> 10);
            let [full, share] = refused;
            let _ = writeln!(
                text,
                "[i]memory {}: {used} of {ceiling} KiB used; refused: {full} for all, {share} for a client's share",
                kind.text(),
            );
        }
        text
    }

    /// Whether new sessions find room. It never turns readiness red: the events of live sessions are taken all
    /// the same, and a load balancer that sends them elsewhere, or nowhere, would end those sessions.
    fn sessions(&self) -> Check {
        let told = |word, meaning| Check { name: "sessions", passes: true, word, meaning };
        match self.app.as_ref().map(|app| app.collector().live().has_room()) {
            None => told("unknown", "the live sessions are being read back".to_owned()),
            Some(Err(full)) => told("full", format!("{full}; new ones get 503, events are taken")),
            Some(Ok(())) => Check::passed("sessions"),
        }
    }
}

/// In the manner of Kubernetes.
fn lines(checks: &[Check], reader: Reader, more: &str) -> String {
    let mut text = String::new();
    for Check { name, passes, word, meaning } in checks {
        let sign = if *passes { '+' } else { '-' };
        let _ = write!(text, "[{sign}]{name} {word}");
        if reader == Reader::Operator && !meaning.is_empty() {
            let _ = write!(text, ": {meaning}");
        }
        text.push('\n');
    }
    text.push_str(more);
    let passed = checks.iter().all(|check| check.passes);
    text.push_str(if passed { "readyz check passed\n" } else { "readyz check failed\n" });
    text
}

fn answer(status: StatusCode, text: String) -> Response {
    let mut response = (status, text).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbose_is_a_name_in_the_query_whatever_its_value() {
        for query in ["verbose", "verbose=", "verbose=1", "x=y&verbose", "verbose&x"] {
            assert!(is_verbose(query), "{query}");
        }
        for query in ["", "verbosely", "x=verbose", "Verbose"] {
            assert!(!is_verbose(query), "{query}");
        }
    }

    #[test]
    fn a_server_that_recovers_says_so_and_that_it_stops_before_that() {
        let health = Health::default();
        let readiness = Readiness::recovering(health.clone(), Reader::Anybody);
        let first = || readiness.checks().into_iter().find(|check| !check.passes).unwrap().word;
        assert_eq!(first(), "recovering");
        let text = lines(&readiness.checks(), Reader::Anybody, "");
        let expected = "[+]draining ok\n[-]recovery recovering\n[-]disk unknown\n[-]room unknown\n\
                        [+]sessions unknown\nreadyz check failed\n";
        assert_eq!(text, expected);
        health.stop();
        assert_eq!(first(), "stopping");
    }
}
