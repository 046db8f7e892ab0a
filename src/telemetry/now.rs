//! What rooms know anyway, read when somebody asks for the series.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric,
};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::labels::{Dropped, Form, Label, Labels, Listener, MemoryReason, Refused};
use super::process::Process;
use super::series::{PREFIX, Series};
use crate::http::connections::Counts;
use crate::journal::disk::Space;
use crate::limits::memory::Usage;
use crate::rejects::Class;
use crate::wire::Section;

/// The state of the server at one time.
#[derive(Debug, Default)]
pub struct Now {
    /// Whether the server wants requests.
    pub is_ready: bool,
    /// The connections of players, and those of operators.
    pub connections: [Arc<Counts>; Listener::ALL.len()],
    /// The rooms behind the doors; nothing while the journal is read back.
    pub rooms: Option<Rooms>,
}

/// The state of the rooms.
#[derive(Debug, Default)]
pub struct Rooms {
    /// What was refused.
    pub rejects: Rejects,
    /// Names in accepted bodies that are not listed, by where they stand.
    pub unlisted_names: [u64; Section::ALL.len()],
    /// What outsiders make the server hold, by kind.
    pub memory: Vec<Usage>,
    /// How much memory the process may take.
    pub memory_max: u64,
    /// The part of the requests that the largest client sends, if it is more than half.
    pub largest_client: f64,
    /// Requests in which somebody who is not trusted named another client.
    pub untrusted_forwards: u64,
    /// The live sessions.
    pub sessions: Sessions,
    /// The journal.
    pub journal: Journal,
    /// The files of the journal; nothing if they cannot be listed.
    pub files: Option<Files>,
    /// The file system that has them; nothing if it cannot be asked.
    pub space: Option<Space>,
}

/// Refused bodies.
#[derive(Debug, Default)]
pub struct Rejects {
    /// By class.
    pub by_class: [u64; Class::ALL.len()],
    /// Those that were not written to the files.
    pub dropped: u64,
    /// How many were not written because their client has filled its share of the file.
    pub over_share: u64,
    /// Those that were only counted.
    pub skipped: u64,
}

/// Live sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    /// How many there are.
    pub live: usize,
    /// How many there may be.
    pub live_max: usize,
    /// What sessions hold.
    pub bytes: usize,
    /// What they may hold.
    pub bytes_max: usize,
    /// Those that have ended and wait for their report.
    pub pending: usize,
}

/// The journal.
#[derive(Debug, Default)]
pub struct Journal {
    /// Whether it is written.
    pub is_up: bool,
    /// The last record that is committed.
    pub committed_seq: u64,
    /// What waits to be written.
    pub uncommitted_bytes: usize,
    /// What may wait.
    pub uncommitted_bytes_max: usize,
    /// By how much the time of day is ahead of the time that records are stamped with.
    pub clock_off_seconds: f64,
    /// How much of that time is in doubt.
    pub clock_doubted_seconds: f64,
}

/// The files of the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Segments by form.
    pub segments: [u64; Form::ALL.len()],
    /// What all files of the folder hold.
    pub bytes: u64,
}

/// All series, as text for Prometheus.
pub fn exposition(series: &Series, now: Now) -> String {
    let mut text = String::with_capacity(128 << 10);
    let mut ours = Registry::with_prefix(PREFIX);
    ours.register_collector(Box::new(now));
    let mut process = Registry::default();
    if let Some(of_process) = Process::now() {
        process.register_collector(Box::new(of_process));
    }
    for registry in [&series.registry, &ours, &process] {
        encode_registry(&mut text, registry).expect("writing to memory does not fail");
    }
    encode_eof(&mut text).expect("writing to memory does not fail");
    text
}

impl Collector for Now {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut names = Names(encoder);
        self.of_connections(&mut names)?;
        if let Some(rooms) = &self.rooms {
            rooms.of_rejects(&mut names)?;
            rooms.of_unlisted_names(&mut names)?;
            rooms.of_memory(&mut names)?;
            rooms.of_clients(&mut names)?;
            rooms.of_sessions(&mut names)?;
            rooms.of_journal(&mut names)?;
            rooms.of_disk(&mut names)?;
        }
        names.gauge(
            "ready",
            "Whether requests should be sent here",
            None,
            &u32::from(self.is_ready),
        )
    }
}

impl Now {
    fn of_connections(&self, names: &mut Names<'_>) -> fmt::Result {
        let each = |read: fn(&Counts) -> &AtomicU64| {
            let listeners = Listener::ALL.iter().zip(&self.connections);
            listeners.map(move |(listener, counts)| (*listener, read(counts).load(Relaxed)))
        };
        let gauges = |(listener, count)| (listener, ConstGauge::new(count));
        let counters = |(listener, count)| (listener, ConstCounter::new(count));
        let help = "Connections that are open";
        names.each("connections", help, None, each(|counts| &counts.open).map(gauges))?;
        let help = "Connections that may be open";
        names.each("connections_max", help, None, each(|counts| &counts.max).map(gauges))?;
        let help = "Connections that were taken";
        names.each(
            "connections_accepted",
            help,
            None,
            each(|counts| &counts.accepted).map(counters),
        )?;
        let help = "Connections that were closed at once, by why";
        let refused = self.by_reason::<Refused>(|counts, why| counts.refused(why));
        names.each("connections_refused", help, None, refused)?;
        let help = "Connections that were closed before their time, by why";
        let dropped = self.by_reason::<Dropped>(|counts, why| counts.dropped(why));
        names.each("connections_dropped", help, None, dropped)?;
        let help = "How often the system failed to hand over a connection";
        names.each(
            "accept_errors",
            help,
            None,
            each(|counts| &counts.accept_errors).map(counters),
        )?;
        let help =
            "Connections that ended because what came was no HTTP, or a head beyond its bounds";
        let malformed = each(|counts| &counts.malformed).map(counters);
        names.each("connections_malformed", help, None, malformed)?;
        let help = "Handshakes of TLS that were begun and led to nothing";
        let failures = each(|counts| &counts.tls_handshake_failures).map(counters);
        names.each("tls_handshake_failures", help, None, failures)?;
        let help =
            "When the certificate expires, in seconds since the Unix epoch; nothing without TLS";
        let expiry = each(|counts| &counts.tls_certificate_expiry_s).filter(|(_, at)| *at > 0);
        let seconds = Some(&Unit::Seconds);
        names.each("tls_certificate_expiry_timestamp", help, seconds, expiry.map(gauges))?;
        let help = "How often changed files of a certificate could not be used";
        let failures = each(|counts| &counts.tls_reload_failures).map(counters);
        names.each("tls_reload_failures", help, None, failures)
    }

    /// A count for each listener and reason.
    fn by_reason<R: Label>(
        &self,
        read: fn(&Counts, R) -> &AtomicU64,
    ) -> impl Iterator<Item = ((Listener, R), ConstCounter<u64>)> {
        let listeners = Listener::ALL.iter().zip(&self.connections);
        listeners.flat_map(move |(listener, counts)| {
            let count = move |why: &R| {
                ((*listener, *why), ConstCounter::new(read(counts, *why).load(Relaxed)))
            };
            R::ALL.iter().map(count)
        })
    }
}

impl Rooms {
    fn of_rejects(&self, names: &mut Names<'_>) -> fmt::Result {
        let Rejects { by_class, dropped, over_share, skipped } = &self.rejects;
        let help = "Refused requests that are shown to operators or counted below, by class";
        let rows = Class::ALL.iter().zip(by_class);
        names.each(
            "rejects",
            help,
            None,
            rows.map(|(class, count)| (*class, ConstCounter::new(*count))),
        )?;
        let help = "Refused bodies that came too fast or were too large to be written to the files";
        names.counter("rejects_dropped", help, None, dropped)?;
        let help = "Refused bodies that were not written because their client has filled its share of the file";
        names.counter("rejects_over_share", help, None, over_share)?;
        let help = "Refused events of sessions that are not there, which were only counted";
        names.counter("rejects_skipped", help, None, skipped)
    }

    fn of_unlisted_names(&self, names: &mut Names<'_>) -> fmt::Result {
        let help =
            "Names in accepted bodies that are not listed where they stand, by where that is";
        let rows = Section::ALL.into_iter().zip(self.unlisted_names);
        let rows = rows.map(|(section, count)| (section, ConstCounter::new(count)));
        names.each("unlisted_names", help, None, rows)
    }

    fn of_memory(&self, names: &mut Names<'_>) -> fmt::Result {
        let bytes = Some(&Unit::Bytes);
        let each = |read: fn(&Usage) -> usize| {
            self.memory.iter().map(move |usage| (usage.kind, ConstGauge::new(read(usage) as u64)))
        };
        let help = "Memory that outsiders make the server hold, by kind";
        names.each("memory_used", help, bytes, each(|usage| usage.used))?;
        let help = "Memory that each kind may use";
        names.each("memory_ceiling", help, bytes, each(|usage| usage.ceiling))?;
        let help = "How often there was no memory left, by kind and reason";
        let refused = self.memory.iter().flat_map(|usage| {
            let reasons = MemoryReason::ALL.iter().zip(usage.refused);
            reasons.map(|(reason, count)| ((usage.kind, *reason), ConstCounter::new(count)))
        });
        names.each("memory_refused", help, None, refused)?;
        names.gauge("memory_max", "Memory that the process may take", bytes, &self.memory_max)
    }

    fn of_clients(&self, names: &mut Names<'_>) -> fmt::Result {
        let help = "Part of the requests that the largest client sent in the last minute; 0 if no more than half";
        names.gauge("largest_client_requests", help, Some(&Unit::Ratios), &self.largest_client)?;
        let help = "Requests that name another client and come from no trusted proxy";
        names.counter("forwarded_untrusted", help, None, &self.untrusted_forwards)
    }

    fn of_sessions(&self, names: &mut Names<'_>) -> fmt::Result {
        let Sessions { live, live_max, bytes, bytes_max, pending } = &self.sessions;
        names.gauge("live_sessions", "Sessions that are live", None, live)?;
        names.gauge("live_sessions_max", "Sessions that may be live", None, live_max)?;
        let help = "Memory that sessions hold, until their report is in the journal";
        names.gauge("live", help, Some(&Unit::Bytes), bytes)?;
        names.gauge("live_bytes_max", "Memory that sessions may hold", None, bytes_max)?;
        let help = "Sessions that have ended and whose report is not in the journal yet";
        names.gauge("sessions_pending", help, None, pending)
    }

    fn of_journal(&self, names: &mut Names<'_>) -> fmt::Result {
        let Journal {
            is_up,
            committed_seq,
            uncommitted_bytes,
            uncommitted_bytes_max,
            clock_off_seconds,
            clock_doubted_seconds,
        } = &self.journal;
        let help = "Whether the journal can be written";
        names.gauge("journal_up", help, None, &u32::from(*is_up))?;
        let help = "Number of the last record that is committed";
        names.gauge("journal_committed_seq", help, None, committed_seq)?;
        let help = "Bytes that wait to be written or are being written";
        names.gauge("journal_uncommitted", help, Some(&Unit::Bytes), uncommitted_bytes)?;
        let help = "Bytes that may wait to be written";
        names.gauge("journal_uncommitted_bytes_max", help, None, uncommitted_bytes_max)?;
        let seconds = Some(&Unit::Seconds);
        let help = "By how much the time of day is ahead of the time that records are stamped with; negative if it is behind";
        names.gauge("clock_off", help, seconds, clock_off_seconds)?;
        let help =
            "How far the time of records leapt, as long as it is not known whether that was right";
        names.gauge("clock_doubted", help, seconds, clock_doubted_seconds)
    }

    fn of_disk(&self, names: &mut Names<'_>) -> fmt::Result {
        if let Some(Files { segments, bytes }) = &self.files {
            let help = "Segments of the journal, by form";
            let rows = Form::ALL.iter().zip(segments);
            let rows = rows.map(|(form, count)| (*form, ConstGauge::new(*count)));
            names.each("journal_segments", help, None, rows)?;
            let help = "Size of all files in the folder of the journal";
            names.gauge("journal_disk", help, Some(&Unit::Bytes), bytes)?;
        }
        if let Some(Space { free_bytes, size_bytes }) = &self.space {
            let help = "Space that is left to the server where the journal lies";
            names.gauge("disk_free", help, Some(&Unit::Bytes), free_bytes)?;
            let help = "Size of the file system where the journal lies";
            names.gauge("disk_size", help, Some(&Unit::Bytes), size_bytes)?;
        }
        Ok(())
    }
}

/// Writes values under their names.
pub(super) struct Names<'e>(pub(super) DescriptorEncoder<'e>);

impl Names<'_> {
    /// A gauge; its name gets the unit for its ending.
    pub(super) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: &impl EncodeGaugeValue,
    ) -> fmt::Result {
        let (help, gauge) = (sentence(help), prometheus_client::metrics::MetricType::Gauge);
        self.0.encode_descriptor(name, &help, unit, gauge)?.encode_gauge(value)
    }

    /// A counter, likewise.
    pub(super) fn counter(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: &(impl EncodeCounterValue + Copy),
    ) -> fmt::Result {
        let counter = ConstCounter::new(*value);
        let kind = counter.metric_type();
        counter.encode(self.0.encode_descriptor(name, &sentence(help), unit, kind)?)
    }

    /// One value for each label, if there is any.
    fn each<L: Labels, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        rows: impl Iterator<Item = (L, M)>,
    ) -> fmt::Result {
        let mut rows = rows.peekable();
        let Some((_, first)) = rows.peek() else { return Ok(()) };
        let kind = first.metric_type();
        let mut encoder = self.0.encode_descriptor(name, &sentence(help), unit, kind)?;
        for (labels, value) in rows {
            let texts = labels.texts();
            value.encode(encoder.encode_family(&texts)?)?;
        }
        Ok(())
    }
}

/// The registry ends what it is told with a full stop; so do we.
fn sentence(help: &str) -> String {
    format!("{help}.")
}
