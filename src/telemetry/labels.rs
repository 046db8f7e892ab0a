//! The labels of series, each with all of its values: there is no other value, whatever a stranger sends.

use axum::http::{Method, StatusCode};

use crate::journal::Unavailable;
use crate::limits::memory::OverLimit;
use crate::live::Full;
use crate::rejects::Class;
use crate::session::CloseReason;
use crate::wire::{Code, EventType, Section};

/// One value of a label.
pub trait Label: Copy + 'static {
    /// The name of the label.
    const NAME: &'static str;

    /// All values, in order.
    const ALL: &'static [Self];

    /// Its place among all.
    fn row(self) -> usize;

    /// The value.
    fn text(self) -> &'static str;
}

/// Makes an enum the values of a label.
macro_rules! label {
    ($(#[$doc:meta])* $Label:ident, $name:literal { $($(#[$value_doc:meta])* $Value:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $Label {
            $($(#[$value_doc])* $Value,)+
        }

        impl Label for $Label {
            const NAME: &'static str = $name;
            const ALL: &'static [Self] = &[$(Self::$Value,)+];

            fn row(self) -> usize {
                self as usize
            }

            fn text(self) -> &'static str {
                match self {
                    $(Self::$Value => $text,)+
                }
            }
        }
    };
}

label! {
    /// A route to which players post.
    DataRoute, "route" {
        /// Starts of sessions, and stored sessions that were posted there.
        Sessions = "sessions",
        /// Events.
        Events = "events",
        /// Stored sessions.
        Downloaded = "downloaded",
    }
}

label! {
    /// Why a request was refused for what it is.
    Rejected, "reason" {
        /// Its body breaks rules.
        Invalid = "invalid",
        /// Its sender is not allowed here.
        Forbidden = "forbidden",
        /// Its session was never given out.
        Unknown = "unknown",
        /// Its session is over.
        Gone = "gone",
        /// Its body is too large, or has too many events.
        TooLarge = "too_large",
        /// Its body is packed in a way that is not understood.
        Encoding = "encoding",
        /// Its body took too long.
        Timeout = "timeout",
        /// Its sender posts too often.
        Rate = "rate",
    }
}

label! {
    /// Why a request was refused because there is no room for it now.
    Shed, "reason" {
        /// The journal cannot be written.
        Disk = "disk",
        /// Too much waits to be written.
        Busy = "busy",
        /// Too many stored sessions wait to be read or written.
        Stored = "stored",
        /// The server ends.
        Closed = "closed",
        /// As many sessions are live as may be.
        Sessions = "sessions",
        /// Live sessions hold as much memory as they may.
        Bytes = "bytes",
        /// Bodies hold as much memory as they may, or as much as their client may.
        Bodies = "bodies",
        /// There is no other memory for it, or not for its client.
        Memory = "memory",
        /// The journal is still read back.
        Starting = "starting",
    }
}

impl From<Unavailable> for Shed {
    fn from(unavailable: Unavailable) -> Self {
        match unavailable {
            Unavailable::Disk => Self::Disk,
            Unavailable::Busy => Self::Busy,
            Unavailable::Stored => Self::Stored,
            Unavailable::Closed => Self::Closed,
        }
    }
}

impl From<&Full> for Shed {
    fn from(full: &Full) -> Self {
        match full {
            Full::Sessions(_) | Full::Share => Self::Sessions,
            Full::Bytes(_) => Self::Bytes,
        }
    }
}

impl From<OverLimit> for Shed {
    fn from(over: OverLimit) -> Self {
        match over.kind() {
            MemoryKind::Bodies => Self::Bodies,
            MemoryKind::Live => Self::Bytes,
            _ => Self::Memory,
        }
    }
}

label! {
    /// What memory is held for, on behalf of outsiders.
    MemoryKind, "kind" {
        /// Open connections, heads of requests and open streams of HTTP/2.
        Connections = "connections",
        /// Bodies that arrive, and unpacked ones until they are answered.
        Bodies = "bodies",
        /// What is made of a body while it is read.
        Parsing = "parsing",
        /// Answers that their clients have not read yet.
        Answers = "answers",
        /// Records that wait to be committed.
        Journal = "journal",
        /// Live sessions, and ended ones until they have their report.
        Live = "live",
    }
}

label! {
    /// Why there was no memory left.
    MemoryReason, "reason" {
        /// The ceiling of the kind is reached.
        Full = "full",
        /// The client uses its share, and the kind is nearly used up.
        Share = "share",
    }
}

label! {
    /// Whose door.
    Listener, "listener" {
        /// That of players.
        Public = "public",
        /// That of operators.
        Admin = "admin",
    }
}

label! {
    /// Why a connection was closed at once.
    Refused, "reason" {
        /// Its address had too many.
        Address = "address",
        /// There were too many, and the rest of the room is for addresses that sessions came from.
        Full = "full",
        /// There was no memory for it.
        Memory = "memory",
    }
}

label! {
    /// Why a connection was closed before its time.
    Dropped, "reason" {
        /// It waited for its peer, and others needed the room.
        Evicted = "evicted",
        /// Its peer did not read its answers.
        Answers = "answers",
        /// Its peer sent too much that was neither a request nor a body.
        Flood = "flood",
        /// Its peer took back too many requests.
        Resets = "resets",
        /// There was no memory for it.
        Memory = "memory",
    }
}

label! {
    /// What a request is about.
    Route, "route" {
        /// A post of a session start.
        Sessions = "sessions",
        /// A post of an event.
        Events = "events",
        /// A post of a stored session.
        Downloaded = "downloaded",
        /// The schemas of bodies.
        Schemas = "schemas",
        /// The description of the API.
        OpenApi = "openapi",
        /// Health.
        Health = "health",
        /// The series.
        Metrics = "metrics",
        /// What was refused.
        Rejects = "rejects",
        /// Names that are not listed.
        Unlisted = "unlisted",
        /// A look at a session.
        Session = "session",
        /// All else: preflights, and paths at which there is nothing.
        Other = "other",
    }
}

impl Route {
    /// What a request of players is about.
    pub fn of_public(method: &Method, path: &str) -> Self {
        let Some(api) = path.strip_prefix("/api/v1/") else { return Self::of_health(path) };
        let api = api.strip_suffix('/').unwrap_or(api);
        if method == Method::GET || method == Method::HEAD {
            return match api {
                "openapi.json" => Self::OpenApi,
                _ if api.starts_with("schemas/") => Self::Schemas,
                _ => Self::Other,
            };
        }
        match api {
            _ if method != Method::POST => Self::Other,
            "sessions" => Self::Sessions,
            "downloaded" => Self::Downloaded,
            _ => match api.strip_prefix("sessions/").and_then(|api| api.strip_suffix("/events")) {
                Some(sid) if !sid.is_empty() && !sid.contains('/') => Self::Events,
                _ => Self::Other,
            },
        }
    }

    /// The route to which players post, if it is one.
    pub fn of_data(self) -> Option<DataRoute> {
        match self {
            Self::Sessions => Some(DataRoute::Sessions),
            Self::Events => Some(DataRoute::Events),
            Self::Downloaded => Some(DataRoute::Downloaded),
            _ => None,
        }
    }

    /// What a request of operators is about.
    pub fn of_admin(path: &str) -> Self {
        match path.strip_suffix('/').unwrap_or(path) {
            "/metrics" => Self::Metrics,
            "/rejects" => Self::Rejects,
            "/unlisted" => Self::Unlisted,
            path if path.starts_with("/sessions/") => Self::Session,
            path => Self::of_health(path),
        }
    }

    fn of_health(path: &str) -> Self {
        match path.strip_suffix('/').unwrap_or(path) {
            "/livez" | "/healthz" | "/readyz" => Self::Health,
            _ => Self::Other,
        }
    }
}

label! {
    /// What an answer took its time for.
    Answered, "route" {
        /// A session start.
        Sessions = "sessions",
        /// An event.
        Events = "events",
        /// A stored session.
        Downloaded = "downloaded",
        /// All else.
        Other = "other",
    }
}

impl From<Route> for Answered {
    fn from(route: Route) -> Self {
        match route {
            Route::Sessions => Self::Sessions,
            Route::Events => Self::Events,
            Route::Downloaded => Self::Downloaded,
            _ => Self::Other,
        }
    }
}

label! {
    /// The status of an answer.
    Status, "status" {
        /// 200.
        Ok = "200",
        /// 201.
        Created = "201",
        /// 204.
        NoContent = "204",
        /// 304.
        NotModified = "304",
        /// 400.
        BadRequest = "400",
        /// 401.
        Unauthorized = "401",
        /// 403.
        Forbidden = "403",
        /// 404.
        NotFound = "404",
        /// 405.
        MethodNotAllowed = "405",
        /// 408.
        RequestTimeout = "408",
        /// 410.
        Gone = "410",
        /// 413.
        PayloadTooLarge = "413",
        /// 415.
        UnsupportedMediaType = "415",
        /// 421.
        MisdirectedRequest = "421",
        /// 429.
        TooManyRequests = "429",
        /// 431.
        RequestHeaderFieldsTooLarge = "431",
        /// 500.
        InternalServerError = "500",
        /// 503.
        ServiceUnavailable = "503",
        /// Any other.
        Other = "other",
    }
}

impl From<StatusCode> for Status {
    fn from(status: StatusCode) -> Self {
        match status.as_u16() {
            200 => Self::Ok,
            201 => Self::Created,
            204 => Self::NoContent,
            304 => Self::NotModified,
            400 => Self::BadRequest,
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            405 => Self::MethodNotAllowed,
            408 => Self::RequestTimeout,
            410 => Self::Gone,
            413 => Self::PayloadTooLarge,
            415 => Self::UnsupportedMediaType,
            421 => Self::MisdirectedRequest,
            429 => Self::TooManyRequests,
            431 => Self::RequestHeaderFieldsTooLarge,
            500 => Self::InternalServerError,
            503 => Self::ServiceUnavailable,
            _ => Self::Other,
        }
    }
}

label! {
    /// How a session came.
    Opened, "kind" {
        /// It began with its start.
        Online = "online",
        /// It came whole.
        Downloaded = "downloaded",
    }
}

label! {
    /// How a session ended.
    Closed, "reason" {
        /// The player said so.
        SessionEnd = "sessionEnd",
        /// No event came for too long.
        TimeoutNoEvents = "timeoutNoEvents",
        /// The playhead did not move for too long.
        TimeoutNoPlayhead = "timeoutNoPlayhead",
        /// It was too old.
        Lifetime = "lifetime",
        /// It came whole.
        Downloaded = "downloaded",
        /// It never sent an event, and its place was needed.
        Evicted = "evicted",
        /// It was erased.
        Erased = "erased",
    }
}

impl From<CloseReason> for Closed {
    fn from(reason: CloseReason) -> Self {
        match reason {
            CloseReason::SessionEnd => Self::SessionEnd,
            CloseReason::TimeoutNoEvents => Self::TimeoutNoEvents,
            CloseReason::TimeoutNoPlayhead => Self::TimeoutNoPlayhead,
            CloseReason::Lifetime => Self::Lifetime,
            CloseReason::Downloaded => Self::Downloaded,
            CloseReason::Evicted => Self::Evicted,
        }
    }
}

label! {
    /// The kind of a record.
    Kind, "kind" {
        /// A session began.
        Start = "start",
        /// Something happened in a session.
        Event = "event",
        /// A stored session came whole.
        Batch = "batch",
        /// A deadline of a session passed.
        Close = "close",
        /// What a session was.
        Report = "report",
        /// When sessions end from there on.
        Settings = "settings",
        /// The server was down or could not write.
        Pause = "pause",
        /// Sessions were erased.
        Erased = "erased",
    }
}

label! {
    /// What the keeper of the journal does.
    Task, "task" {
        /// Closed segments are compressed.
        Compress = "compress",
        /// The live sessions are saved.
        Checkpoint = "checkpoint",
        /// Old segments are removed.
        Retain = "retain",
        /// What was ordered is erased.
        Erase = "erase",
    }
}

label! {
    /// How a segment stands on the disk.
    Form, "form" {
        /// As it was written.
        Open = "open",
        /// Closed and compressed.
        Compressed = "compressed",
    }
}

/// Makes labels of enums that have a list of all and names of their own.
macro_rules! label_by_name {
    ($($of:ident, $name:literal;)*) => {
        $(impl Label for $of {
            const NAME: &'static str = $name;
            const ALL: &'static [Self] = &$of::ALL;

            fn row(self) -> usize {
                self as usize
            }

            fn text(self) -> &'static str {
                self.name()
            }
        })*
    };
}

label_by_name! {
    EventType, "type";
    Code, "code";
    Section, "where";
}

impl Label for Class {
    const NAME: &'static str = "class";
    const ALL: &'static [Self] = &[Self::Invalid, Self::Unread, Self::Gone];

    fn row(self) -> usize {
        self as usize
    }

    fn text(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Unread => "unread",
            Self::Gone => "gone",
        }
    }
}

/// The values of one label, or of several.
pub trait Labels: Copy + 'static {
    /// Every combination, in the order of its row.
    fn all() -> Vec<Self>;

    /// Its place among all.
    fn row(self) -> usize;

    /// Names and values.
    fn texts(self) -> Vec<(&'static str, &'static str)>;
}

impl<A: Label> Labels for A {
    fn all() -> Vec<Self> {
        A::ALL.to_vec()
    }

    fn row(self) -> usize {
        Label::row(self)
    }

    fn texts(self) -> Vec<(&'static str, &'static str)> {
        vec![(A::NAME, self.text())]
    }
}

impl<A: Label, B: Label> Labels for (A, B) {
    fn all() -> Vec<Self> {
        A::ALL.iter().flat_map(|a| B::ALL.iter().map(|b| (*a, *b))).collect()
    }

    fn row(self) -> usize {
        self.0.row() * B::ALL.len() + self.1.row()
    }

    fn texts(self) -> Vec<(&'static str, &'static str)> {
        vec![(A::NAME, self.0.text()), (B::NAME, self.1.text())]
    }
}

impl<A: Label, B: Label, C: Label> Labels for (A, B, C) {
    fn all() -> Vec<Self> {
        let pairs = <(A, B)>::all().into_iter();
        pairs.flat_map(|(a, b)| C::ALL.iter().map(move |c| (a, b, *c))).collect()
    }

    fn row(self) -> usize {
        Labels::row((self.0, self.1)) * C::ALL.len() + self.2.row()
    }

    fn texts(self) -> Vec<(&'static str, &'static str)> {
        let mut texts = (self.0, self.1).texts();
        texts.push((C::NAME, self.2.text()));
        texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row is one combination, and no other.
    fn rows_are_in_order<L: Labels + std::fmt::Debug>() {
        let all = L::all();
        for (row, labels) in all.iter().enumerate() {
            assert_eq!(labels.row(), row, "{labels:?}");
        }
        let mut texts: Vec<_> = all.iter().map(|labels| labels.texts()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), all.len(), "no two look alike");
    }

    #[test]
    fn every_combination_of_labels_has_a_row_of_its_own() {
        rows_are_in_order::<EventType>();
        rows_are_in_order::<Code>();
        rows_are_in_order::<Class>();
        rows_are_in_order::<Section>();
        rows_are_in_order::<Closed>();
        rows_are_in_order::<(DataRoute, Rejected)>();
        rows_are_in_order::<(DataRoute, Shed)>();
        rows_are_in_order::<(Listener, Route, Status)>();
    }

    #[test]
    fn a_request_is_known_by_its_method_and_path() {
        for (method, path, route) in [
            ("POST", "/api/v1/sessions", Route::Sessions),
            ("POST", "/api/v1/sessions/", Route::Sessions),
            ("POST", "/api/v1/sessions/1f/events", Route::Events),
            ("POST", "/api/v1/sessions/1f/events/", Route::Events),
            ("POST", "/api/v1/sessions//events", Route::Other),
            ("POST", "/api/v1/sessions/1/2/events", Route::Other),
            ("POST", "/api/v1/sessions/1f", Route::Other),
            ("POST", "/api/v1/downloaded", Route::Downloaded),
            ("OPTIONS", "/api/v1/sessions", Route::Other),
            ("OPTIONS", "/api/v1/openapi.json", Route::Other),
            ("GET", "/api/v1/openapi.json", Route::OpenApi),
            ("GET", "/api/v1/schemas/ping", Route::Schemas),
            ("GET", "/readyz/", Route::Health),
            ("GET", "/metrics", Route::Other),
            ("GET", "", Route::Other),
            ("GET", "é", Route::Other),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(Route::of_public(&method, path), route, "{method} {path}");
        }
        for (path, route) in [
            ("/metrics", Route::Metrics),
            ("/rejects", Route::Rejects),
            ("/unlisted", Route::Unlisted),
            ("/sessions/1f", Route::Session),
            ("/sessions/1f/events", Route::Session),
            ("/livez", Route::Health),
            ("/api/v1/sessions", Route::Other),
        ] {
            assert_eq!(Route::of_admin(path), route, "{path}");
        }
    }
}
