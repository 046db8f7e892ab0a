//! The series that rooms move while they work, by name.
//!
//! Each room gets its own struct of handles; clones move the same series. A handle that was never registered
//! counts for nobody, which is what tests and commands want.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Metric, Registry, Unit};

use super::labels::{
    Answered, Closed, DataRoute, Kind, Labels, Listener, Opened, Route, Status, Task,
};
use super::ticket::Tickets;
use crate::journal::recovery::Recovered;
use crate::live::Live;
use crate::session::Counts;
use crate::wire::{Code, EventType};

/// What the names of our own series begin with.
pub(super) const PREFIX: &str = "mediatally";

/// Where the histograms of seconds part: a commit takes about a millisecond on a good disk, and whoever has
/// waited for ten seconds has given up.
const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Where the histogram of group sizes parts.
const RECORDS: [f64; 12] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 4_096.0];

/// A counter of fractions.
pub type FloatCounter = Counter<f64, AtomicU64>;

/// A gauge of fractions.
pub type FloatGauge = Gauge<f64, AtomicU64>;

/// All series that are moved, and the registry that shows them.
#[derive(Debug)]
pub struct Series {
    /// What came in and what became of it.
    pub tickets: Arc<Tickets>,
    /// Requests, whatever they bring.
    pub http: Http,
    /// Sessions, as the fold makes them.
    pub sessions: Sessions,
    /// The journal, as it is written.
    pub journal: Journal,
    /// The journal, as it is kept.
    pub keeper: Keeper,
    /// The journal, as it was read back.
    pub recovery: Recovery,
    pub(super) registry: Registry,
}

impl Default for Series {
    /// Makes and registers all of them.
    fn default() -> Self {
        let mut series = Self {
            tickets: Arc::default(),
            http: Http::default(),
            sessions: Sessions::default(),
            journal: Journal::default(),
            keeper: Keeper::default(),
            recovery: Recovery::default(),
            registry: Registry::with_prefix(PREFIX),
        };
        let mut names = Names(&mut series.registry);
        names.of_tickets(&series.tickets);
        names.of_http(&series.http);
        names.of_sessions(&series.sessions);
        names.of_journal(&series.journal);
        names.of_keeper(&series.keeper);
        names.of_recovery(&series.recovery);
        names.of_build();
        series
    }
}

/// Requests, whatever they bring.
#[derive(Clone, Debug)]
pub struct Http {
    /// Answers.
    pub requests: Each<(Listener, Route, Status)>,
    /// How long players waited for them.
    pub answer_seconds: Each<Answered, Histogram>,
    /// Bytes of bodies that were read whole.
    pub body_bytes: Each<DataRoute>,
    /// Faults of bodies.
    pub violations: Each<Code>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            requests: Each::default(),
            answer_seconds: Each::with(|| Histogram::new(SECONDS)),
            body_bytes: Each::default(),
            violations: Each::default(),
        }
    }
}

/// Sessions, as the fold makes them.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    /// Sessions that began.
    pub opened: Each<Opened>,
    /// Sessions that ended.
    pub closed: Each<Closed>,
    /// Reports that are in the journal.
    pub reported: Counter,
    /// Sessions that were erased before they had their report.
    pub erased: Counter,
    /// Events that sessions took.
    pub events: Each<EventType>,
    reordered: Counter,
    late: Counter,
    duplicate: Counter,
    clock_jumps: Counter,
    beyond: Counter,
}

impl Sessions {
    /// Adds so many events of each type, by row.
    pub fn add_events(&self, types: [u64; EventType::ALL.len()]) {
        for (event_type, count) in EventType::ALL.into_iter().zip(types) {
            self.events.of(event_type).inc_by(count);
        }
    }

    /// Adds what a session has counted.
    pub fn add(&self, counted: Counts) {
        for (counter, count) in [
            (&self.reordered, counted.reordered),
            (&self.late, counted.late),
            (&self.duplicate, counted.duplicates),
            (&self.clock_jumps, counted.clock_jumps),
            (&self.beyond, counted.beyond),
        ] {
            // Nearly always there is nothing to add.
            if count > 0 {
                counter.inc_by(u64::from(count));
            }
        }
    }
}

/// The journal, as it is written.
#[derive(Clone, Debug)]
pub struct Journal {
    /// Records that are committed.
    pub records: Each<Kind>,
    /// Their bytes.
    pub bytes: Counter,
    /// Times at which it could not be written any more.
    pub outages: Counter,
    /// How long that lasted.
    pub outage_seconds: FloatCounter,
    /// How long the first record of a group waited for its commit.
    pub commit_seconds: Histogram,
    /// How long the disk took to make a group durable.
    pub sync_seconds: Histogram,
    /// How many records a group had.
    pub group_records: Histogram,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            records: Each::default(),
            bytes: Counter::default(),
            outages: Counter::default(),
            outage_seconds: FloatCounter::default(),
            commit_seconds: Histogram::new(SECONDS),
            sync_seconds: Histogram::new(SECONDS),
            group_records: Histogram::new(RECORDS),
        }
    }
}

/// The journal, as it is kept.
#[derive(Clone, Debug, Default)]
pub struct Keeper {
    /// When the live sessions were last saved, in seconds since the Unix epoch.
    pub checkpoint_saved: FloatGauge,
    /// How long that took.
    pub checkpoint_seconds: FloatGauge,
    /// How large it is.
    pub checkpoint_bytes: Gauge<u64, AtomicU64>,
    /// What it could not do.
    pub failures: Each<Task>,
    /// Whether an order to erase stands: 1 or 0.
    pub erasure_pending: Gauge<u64, AtomicU64>,
    /// How many bytes of files are still to be gone through for it, as far as that is known.
    pub erasure_ahead_bytes: Gauge<u64, AtomicU64>,
}

impl Keeper {
    /// Notes when the live sessions were saved, in ms since the Unix epoch.
    pub fn saved_at(&self, ms: u64) {
        #[expect(clippy::cast_precision_loss, reason = "exact for many thousand years")]
        self.checkpoint_saved.set(ms as f64 / 1_000.0);
    }
}

/// The journal, as it was read back.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    seconds: FloatGauge,
    records: Gauge<u64, AtomicU64>,
    damaged: Gauge<u64, AtomicU64>,
    missing: Gauge<u64, AtomicU64>,
    cut_bytes: Gauge<u64, AtomicU64>,
    checkpoints_broken: Gauge<u64, AtomicU64>,
    sessions_restored: Gauge<u64, AtomicU64>,
    sessions_restored_pending: Gauge<u64, AtomicU64>,
}

impl Recovery {
    /// Notes what was found, how long it took, and what sessions there are after it.
    pub fn set(&self, found: &Recovered, seconds: f64, live: &Live) {
        self.seconds.set(seconds);
        self.records.set(found.records);
        self.damaged.set(found.damaged);
        self.missing.set(found.missing);
        self.cut_bytes.set(found.cut_bytes);
        self.checkpoints_broken.set(found.checkpoints_broken);
        self.sessions_restored.set(live.begun() as u64);
        self.sessions_restored_pending.set(live.unreported() as u64);
    }
}

/// Gives series their names.
struct Names<'r>(&'r mut Registry);

impl Names<'_> {
    fn of_tickets(&mut self, tickets: &Tickets) {
        self.name(
            "received",
            "Requests to take a body, by route: committed, repeated, rejected, shed, aborted or in flight",
            &tickets.received,
        );
        self.name(
            "committed",
            "Requests whose body is durable and has changed its session",
            &tickets.committed,
        );
        self.name(
            "repeated",
            "Requests with a stored session that was sent before, and is kept once",
            &tickets.repeated,
        );
        self.name("rejected", "Requests refused for what they are", &tickets.rejected);
        self.name("shed", "Requests refused because there was no room for them", &tickets.shed);
        self.name(
            "aborted",
            "Requests that nobody waited for any more, or that met a defect of the server",
            &tickets.aborted,
        );
        self.name("in_flight", "Requests of which nothing has become yet", &tickets.in_flight);
    }

    fn of_http(&mut self, http: &Http) {
        self.name("http_requests", "Answers, by listener, route and status", &http.requests);
        self.seconds(
            "http_answer",
            "Time from the head of a player's request to the head of its answer",
            &http.answer_seconds,
        );
        self.bytes("body", "Bytes of bodies that were read whole, unpacked", &http.body_bytes);
        self.name(
            "violations",
            "Faults that were listed to those who sent the bodies, by code",
            &http.violations,
        );
    }

    fn of_sessions(&mut self, sessions: &Sessions) {
        self.name("sessions_opened", "Sessions that began, by how they came", &sessions.opened);
        self.name("sessions_closed", "Sessions that ended, by the reason", &sessions.closed);
        self.name(
            "sessions_reported",
            "Sessions whose report came into the journal",
            &sessions.reported,
        );
        self.name(
            "sessions_erased",
            "Sessions that were erased before they had their report",
            &sessions.erased,
        );
        self.name("events", "Events that a session took, by type", &sessions.events);
        self.name(
            "events_reordered",
            "Events that overtook another on their way and were put in their place",
            &sessions.reordered,
        );
        self.name(
            "events_late",
            "Events that came too late to be put in their place",
            &sessions.late,
        );
        self.name("events_duplicate", "Repeats of an event that were dropped", &sessions.duplicate);
        self.name(
            "events_clock_jumps",
            "Events that showed that a player's clock was set",
            &sessions.clock_jumps,
        );
        self.name(
            "events_beyond",
            "Events beyond the most that a session takes, which only kept it alive",
            &sessions.beyond,
        );
    }

    fn of_journal(&mut self, journal: &Journal) {
        self.name("journal_records", "Records that were committed, by kind", &journal.records);
        self.bytes("journal", "Bytes of records that were committed", &journal.bytes);
        self.name(
            "journal_outages",
            "Times at which the journal could not be written any more",
            &journal.outages,
        );
        self.seconds(
            "journal_outage",
            "Time for which the journal could not be written, of outages that are over",
            &journal.outage_seconds,
        );
        self.seconds(
            "journal_commit",
            "Time from the first append of a group to its commit",
            &journal.commit_seconds,
        );
        self.seconds(
            "journal_sync",
            "Time that the disk took to make a group durable",
            &journal.sync_seconds,
        );
        self.unit(
            "journal_group",
            "Records that were committed together",
            Unit::Other("records".into()),
            &journal.group_records,
        );
    }

    fn of_keeper(&mut self, keeper: &Keeper) {
        self.seconds(
            "checkpoint_saved_timestamp",
            "When the live sessions were last saved, or nothing had changed since, as Unix time",
            &keeper.checkpoint_saved,
        );
        self.seconds(
            "checkpoint",
            "How long the last checkpoint took to save",
            &keeper.checkpoint_seconds,
        );
        self.bytes("checkpoint", "Size of the last checkpoint", &keeper.checkpoint_bytes);
        self.name(
            "keeper_failures",
            "Times at which the keeper of the journal could not do its work, by task",
            &keeper.failures,
        );
        self.name(
            "erasure_pending",
            "1 as long as an order to erase is not carried out, 0 otherwise",
            &keeper.erasure_pending,
        );
        self.bytes(
            "erasure_ahead",
            "Bytes of files that are still to be gone through for it, as far as that is known",
            &keeper.erasure_ahead_bytes,
        );
    }

    fn of_recovery(&mut self, recovery: &Recovery) {
        self.name(
            "sessions_restored",
            "Sessions that were live after the journal was read back at the start",
            &recovery.sessions_restored,
        );
        self.name(
            "sessions_restored_pending",
            "Sessions that had ended by then and waited for their report",
            &recovery.sessions_restored_pending,
        );
        self.seconds("recovery", "How long the journal was read back", &recovery.seconds);
        self.name("recovery_records", "Records that were read back", &recovery.records);
        self.name(
            "recovery_damaged",
            "Damaged lines that were found and set aside",
            &recovery.damaged,
        );
        self.name("recovery_missing", "Records that were found missing", &recovery.missing);
        self.bytes(
            "recovery_cut",
            "Bytes of an incomplete end that were cut, none of them acknowledged",
            &recovery.cut_bytes,
        );
        self.name(
            "recovery_checkpoints_broken",
            "Checkpoints that could not be used",
            &recovery.checkpoints_broken,
        );
    }

    fn of_build(&mut self) {
        let build = Info::new([
            ("version", env!("CARGO_PKG_VERSION")),
            ("os", std::env::consts::OS),
            ("arch", std::env::consts::ARCH),
        ]);
        self.0.register("build", "The program", build);
    }

    fn name(&mut self, name: &str, help: &str, metric: &(impl Metric + Clone)) {
        self.0.register(name, help, metric.clone());
    }

    /// The name gets the unit for its ending; so with the two below.
    fn unit(&mut self, name: &str, help: &str, unit: Unit, metric: &(impl Metric + Clone)) {
        self.0.register_with_unit(name, help, unit, metric.clone());
    }

    fn bytes(&mut self, name: &str, help: &str, metric: &(impl Metric + Clone)) {
        self.unit(name, help, Unit::Bytes, metric);
    }

    fn seconds(&mut self, name: &str, help: &str, metric: &(impl Metric + Clone)) {
        self.unit(name, help, Unit::Seconds, metric);
    }
}

/// One metric for each value of its labels, all of them made at once.
pub struct Each<L, M = Counter> {
    metrics: Arc<[M]>,
    labels: PhantomData<fn() -> L>,
}

impl<L: Labels, M> Each<L, M> {
    fn with(make: impl Fn() -> M) -> Self {
        let metrics = L::all().into_iter().map(|_| make()).collect();
        Self { metrics, labels: PhantomData }
    }

    /// The one with these labels.
    pub fn of(&self, labels: L) -> &M {
        &self.metrics[labels.row()]
    }
}

impl<L: Labels, M: Default> Default for Each<L, M> {
    fn default() -> Self {
        Self::with(M::default)
    }
}

impl<L, M> Clone for Each<L, M> {
    fn clone(&self) -> Self {
        Self { metrics: Arc::clone(&self.metrics), labels: PhantomData }
    }
}

impl<L, M: fmt::Debug> fmt::Debug for Each<L, M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(&*self.metrics).finish()
    }
}

impl<L: Labels, M: EncodeMetric + TypedMetric> EncodeMetric for Each<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, metric) in L::all().into_iter().zip(&*self.metrics) {
            let texts = labels.texts();
            metric.encode(encoder.encode_family(&texts)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}
