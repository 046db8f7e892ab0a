//! The doors: bytes, routes, limits, status codes; nothing of media.
//!
//! A request meets, in this order: a connection with its time-outs and caps
//! ([`connections`], [`tls`]), the count of its answer ([`series`]), the gate that opens once the journal
//! is read back ([`gate`]), the four CORS headers, the net for panics, the check of its form ([`strict`]), the routes ([`public`],
//! [`documents`], [`admin`] behind its [`guard`]), who it is from ([`forwarded`]) and how often they ask
//! ([`crate::limits`]), the bounded body ([`body`]), the collector.

mod admin;

mod body;

pub mod connections;

mod documents;

mod error;

pub mod forwarded;

mod gate;

mod guard;

mod health;

mod lookup;

mod public;

mod series;

mod slashes;

mod strict;

pub mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tower::{Service, ServiceBuilder};
use tower_http::catch_panic::CatchPanicLayer;

use crate::collector::Collector;
use crate::journal::archive::Archive;
use crate::journal::record::LINE_BYTES_MAX;
use crate::limits::memory::{Kind, Memory, Usage};
pub use crate::limits::{Network, NoNetwork};
use crate::privacy;
use crate::rejects::Rejects;
use crate::size::Size;
use crate::telemetry::labels::Label;
use crate::telemetry::series::Series;
use connections::Counts;
pub use gate::Gate;
pub use guard::{
    Guard, GuardError, NEEDS_TOKEN, Settings as AdminSettings, form_of_token, is_local,
};
pub use health::Health;
use health::Readiness;
pub use series::counted;
use strict::Strict;

/// The largest `stored_bytes_max` that may be set: a stored session is one line of the journal.
pub const STORED_BYTES_LIMIT: Size = Size::mib(16);
const _: () = assert!(STORED_BYTES_LIMIT.as_u64() < LINE_BYTES_MAX as u64 - (1 << 20));

/// How many connections an address may hold at least, if that is not set.
const CONNECTIONS_PER_ADDRESS_LEAST: usize = 64;

/// The section `http` of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How many connections players may hold at once.
    pub connections_max: usize,
    /// How many connections one client address (of IPv6 a /64) may hold at once; 0 for a quarter of all.
    pub connections_per_address_max: usize,
    /// How long a request's head may take from its first byte on.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// How long a request's body may take.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// How long a connection may be idle between two requests.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// How long a client may take to read its answer, or each 64 KiB of a larger one.
    #[serde(with = "humantime_serde")]
    pub answer_timeout: Duration,
    /// How long a post waits while the journal is read back, before it is refused.
    #[serde(with = "humantime_serde")]
    pub recovery_wait: Duration,
    /// How old a connection may grow (give or take a tenth) before its next answer closes it.
    #[serde(with = "humantime_serde")]
    pub connection_age_max: Duration,
    /// The largest body of one event, compressed or not.
    pub event_bytes_max: Size,
    /// The largest body of a stored session, compressed or not.
    pub stored_bytes_max: Size,
    /// How long the body of a stored session may take.
    #[serde(with = "humantime_serde")]
    pub stored_timeout: Duration,
    /// How much memory the bodies that are arriving may hold together.
    pub bodies_bytes_max: Size,
    /// The networks of the proxies in front of us: peers from there speak for others.
    pub trusted_proxies: Vec<Network>,
    /// In which header they do.
    pub forwarded_header: forwarded::Header,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            // Many players share one address: behind a carrier, or behind a proxy that is not named. So it is large.
            connections_per_address_max: 0,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            answer_timeout: Duration::from_secs(10),
            recovery_wait: Duration::from_secs(10),
            connection_age_max: Duration::from_mins(10),
            event_bytes_max: Size::kib(128),
            stored_bytes_max: Size::mib(16),
            stored_timeout: Duration::from_mins(1),
            bodies_bytes_max: Size::mib(256),
            trusted_proxies: Vec::new(),
            forwarded_header: forwarded::Header::XForwardedFor,
        }
    }
}

impl Settings {
    /// How many connections one client address may hold at once.
    fn connections_per_address(&self) -> usize {
        match self.connections_per_address_max {
            0 => (self.connections_max / 4).max(CONNECTIONS_PER_ADDRESS_LEAST),
            max => max,
        }
    }
}

/// The section `shutdown` of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownSettings {
    /// How long the server goes on after SIGTERM, not ready and closing connections as it answers.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// How long it then waits for requests that have begun.
    #[serde(with = "humantime_serde")]
    pub drain_max: Duration,
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        Self { grace: Duration::from_secs(5), drain_max: Duration::from_secs(25) }
    }
}

/// What the handlers share.
#[derive(Clone, Debug)]
pub struct App(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    collector: Collector,
    health: Health,
    settings: Settings,
    privacy: privacy::Settings,
    rejects: Rejects,
    turns: body::Turns,
    documents: documents::Documents,
    lookup: lookup::Lookup,
    series: Arc<Series>,
    looks: series::Looks,
    connections: Connections,
    memory: Memory,
}

/// The connections of players, and those of operators.
pub type Connections = [Arc<Counts>; 2];

/// What an [`App`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// Takes bodies.
    pub collector: Collector,
    /// Whether the server wants requests.
    pub health: Health,
    /// The doors.
    pub settings: Settings,
    /// What is kept of a person.
    pub privacy: privacy::Settings,
    /// The bodies that were refused.
    pub rejects: Rejects,
    /// What sessions left in the journal.
    pub archive: Archive,
    /// What the server did.
    pub series: Arc<Series>,
    /// The connections through both doors.
    pub connections: Connections,
    /// The account of memory.
    pub memory: Memory,
}

impl App {
    /// Handles for the handlers.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Shared {
            turns: body::Turns::default(),
            documents: documents::Documents::new(parts.collector.rules()),
            lookup: lookup::Lookup::new(parts.archive),
            looks: series::Looks::default(),
            collector: parts.collector,
            health: parts.health,
            settings: parts.settings,
            privacy: parts.privacy,
            rejects: parts.rejects,
            series: parts.series,
            connections: parts.connections,
            memory: parts.memory,
        }))
    }

    /// The collector behind the players' door.
    pub fn collector(&self) -> &Collector {
        &self.0.collector
    }

    /// The account of memory.
    pub fn memory(&self) -> &Memory {
        &self.0.memory
    }

    /// What outsiders make the server hold, by kind. What is bounded elsewhere is read there.
    pub fn memory_usage(&self) -> Vec<Usage> {
        let collector = self.collector();
        let mut usage: Vec<_> = self.memory().usage().collect();
        usage[Kind::Live.row()].used = collector.live().bytes();
        usage[Kind::Journal.row()].used = collector.journal().uncommitted_bytes().0;
        usage
    }

    /// What was refused.
    pub fn rejects(&self) -> &Rejects {
        &self.0.rejects
    }

    /// What the server did.
    pub fn series(&self) -> &Series {
        &self.0.series
    }

    /// Whether the server is alive and ready.
    pub fn health(&self) -> &Health {
        &self.0.health
    }
}

/// The players' door.
pub fn public(app: App) -> impl Door {
    let layers = ServiceBuilder::new()
        .map_response(public::with_cors)
        .layer(CatchPanicLayer::custom(error::of_panic));
    layers.service(Strict(public::router(app)))
}

/// The players' door while the journal is read back.
pub fn recovering_public(health: Health, series: &Arc<Series>) -> impl Door {
    let tickets = Arc::clone(&series.tickets);
    ServiceBuilder::new()
        .map_response(public::with_cors)
        .service(Strict(public::recovering(health, tickets)))
}

/// The operators' door, behind its guard; `listen` is where players post.
pub fn admin(app: App, guard: Guard, listen: SocketAddr) -> impl Door {
    let layers = ServiceBuilder::new()
        .map_response(admin::secured)
        .layer(CatchPanicLayer::custom(error::of_panic));
    layers.service(Strict(admin::router(app, guard, listen)))
}

/// The operators' door while the journal is read back.
pub fn recovering_admin(
    health: Health,
    guard: Guard,
    series: &Arc<Series>,
    connections: Connections,
) -> impl Door {
    let series = series::recovering(Arc::clone(series), connections);
    let router = admin::recovering(health, guard, series);
    ServiceBuilder::new().map_response(admin::secured).service(Strict(router))
}

/// Answers requests; what a connection calls.
pub trait Door:
    Service<
        Request<Body>,
        Response = Response<Self::Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static
{
    /// The body of its answers.
    type Body: HttpBody<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static;
}

impl<S, B> Door for S
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + 'static,
    B: HttpBody<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static,
{
    type Body = B;
}

/// What both doors have: health, and answers for what is not there.
fn with_common_routes(router: Router<App>, readiness: Readiness) -> Router<App> {
    router
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .merge(health::router(readiness))
}
