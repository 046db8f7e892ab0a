//! What Prometheus is told, and that it adds up.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mediatally::journal::disk::Folder;
use mediatally::journal::segment;
use mediatally::live::{self, Live};
use mediatally::processor::{Outcome, Processor};
use mediatally::size::Size;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use tokio::sync::Mutex;

use crate::harness::{Process, Raw, SAMPLE, TestServer, client, within};

/// The routes to which players post.
const ROUTES: [&str; 3] = ["sessions", "events", "downloaded"];

/// Every series of a server without TLS, in the order in which operators are told of them; counters as they are
/// sampled.
const NAMES: &[(&str, &str)] = &[
    ("mediatally_received_total", "counter"),
    ("mediatally_committed_total", "counter"),
    ("mediatally_rejected_total", "counter"),
    ("mediatally_shed_total", "counter"),
    ("mediatally_repeated_total", "counter"),
    ("mediatally_aborted_total", "counter"),
    ("mediatally_in_flight", "gauge"),
    ("mediatally_http_requests_total", "counter"),
    ("mediatally_http_answer_seconds", "histogram"),
    ("mediatally_body_bytes_total", "counter"),
    ("mediatally_violations_total", "counter"),
    ("mediatally_rejects_total", "counter"),
    ("mediatally_rejects_dropped_total", "counter"),
    ("mediatally_rejects_over_share_total", "counter"),
    ("mediatally_rejects_skipped_total", "counter"),
    ("mediatally_unlisted_names_total", "counter"),
    ("mediatally_memory_used_bytes", "gauge"),
    ("mediatally_memory_ceiling_bytes", "gauge"),
    ("mediatally_memory_refused_total", "counter"),
    ("mediatally_memory_max_bytes", "gauge"),
    ("mediatally_largest_client_requests_ratios", "gauge"),
    ("mediatally_forwarded_untrusted_total", "counter"),
    ("mediatally_live_sessions", "gauge"),
    ("mediatally_live_sessions_max", "gauge"),
    ("mediatally_live_bytes", "gauge"),
    ("mediatally_live_bytes_max", "gauge"),
    ("mediatally_sessions_opened_total", "counter"),
    ("mediatally_sessions_closed_total", "counter"),
    ("mediatally_sessions_reported_total", "counter"),
    ("mediatally_sessions_erased_total", "counter"),
    ("mediatally_sessions_pending", "gauge"),
    ("mediatally_sessions_restored", "gauge"),
    ("mediatally_sessions_restored_pending", "gauge"),
    ("mediatally_events_total", "counter"),
    ("mediatally_events_reordered_total", "counter"),
    ("mediatally_events_late_total", "counter"),
    ("mediatally_events_duplicate_total", "counter"),
    ("mediatally_events_clock_jumps_total", "counter"),
    ("mediatally_events_beyond_total", "counter"),
    ("mediatally_journal_records_total", "counter"),
    ("mediatally_journal_bytes_total", "counter"),
    ("mediatally_journal_committed_seq", "gauge"),
    ("mediatally_journal_uncommitted_bytes", "gauge"),
    ("mediatally_journal_uncommitted_bytes_max", "gauge"),
    ("mediatally_clock_off_seconds", "gauge"),
    ("mediatally_clock_doubted_seconds", "gauge"),
    ("mediatally_journal_up", "gauge"),
    ("mediatally_journal_outages_total", "counter"),
    ("mediatally_journal_outage_seconds_total", "counter"),
    ("mediatally_journal_commit_seconds", "histogram"),
    ("mediatally_journal_sync_seconds", "histogram"),
    ("mediatally_journal_group_records", "histogram"),
    ("mediatally_journal_segments", "gauge"),
    ("mediatally_journal_disk_bytes", "gauge"),
    ("mediatally_disk_free_bytes", "gauge"),
    ("mediatally_disk_size_bytes", "gauge"),
    ("mediatally_checkpoint_saved_timestamp_seconds", "gauge"),
    ("mediatally_checkpoint_seconds", "gauge"),
    ("mediatally_checkpoint_bytes", "gauge"),
    ("mediatally_keeper_failures_total", "counter"),
    ("mediatally_erasure_pending", "gauge"),
    ("mediatally_erasure_ahead_bytes", "gauge"),
    ("mediatally_recovery_seconds", "gauge"),
    ("mediatally_recovery_records", "gauge"),
    ("mediatally_recovery_damaged", "gauge"),
    ("mediatally_recovery_missing", "gauge"),
    ("mediatally_recovery_cut_bytes", "gauge"),
    ("mediatally_recovery_checkpoints_broken", "gauge"),
    ("mediatally_connections", "gauge"),
    ("mediatally_connections_max", "gauge"),
    ("mediatally_connections_accepted_total", "counter"),
    ("mediatally_connections_refused_total", "counter"),
    ("mediatally_connections_dropped_total", "counter"),
    ("mediatally_accept_errors_total", "counter"),
    ("mediatally_connections_malformed_total", "counter"),
    ("mediatally_tls_handshake_failures_total", "counter"),
    ("mediatally_tls_reload_failures_total", "counter"),
    ("mediatally_ready", "gauge"),
    ("mediatally_build_info", "info"),
    ("process_cpu_seconds_total", "counter"),
    ("process_resident_memory_bytes", "gauge"),
    ("process_virtual_memory_bytes", "gauge"),
    ("process_open_fds", "gauge"),
    ("process_max_fds", "gauge"),
    ("process_start_time_seconds", "gauge"),
    ("process_threads", "gauge"),
];

/// What one look at `/metrics` showed.
pub(crate) struct Scrape {
    text: String,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    pub(crate) async fn of(client: &reqwest::Client, url: &str) -> Self {
        let response = client.get(url).send().await.unwrap();
        assert_eq!(response.status(), 200);
        Self::read(response.text().await.unwrap())
    }

    fn read(text: String) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').unwrap();
                (name.to_owned(), value.parse().unwrap())
            })
            .collect();
        Self { text, samples }
    }

    /// A sample by name and labels, without the prefix.
    pub(crate) fn get(&self, name: &str) -> f64 {
        let found = self.samples.get(&format!("mediatally_{name}")).or(self.samples.get(name));
        *found.unwrap_or_else(|| panic!("{name} is not in\n{}", self.text))
    }

    /// All samples of a name together that have all of these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let begin = format!("mediatally_{name}{{");
        let of_name = self.samples.iter().filter(|(sample, _)| sample.starts_with(&begin));
        let wanted =
            of_name.filter(|(sample, _)| labels.iter().all(|label| sample.contains(label)));
        let values: Vec<f64> = wanted.map(|(_, value)| *value).collect();
        assert!(!values.is_empty(), "{name} {labels:?}");
        values.iter().sum()
    }

    /// Nothing is under way, and what came in is what came out.
    pub(crate) fn is_conserved(&self) {
        for route in ROUTES {
            let label = format!("route=\"{route}\"");
            let of = |name: &str| self.sum(name, &[&label]);
            assert_eq_f(of("in_flight"), 0.0, &label);
            let fates = [
                "committed_total",
                "repeated_total",
                "rejected_total",
                "shed_total",
                "aborted_total",
            ];
            let settled = fates.map(of).iter().sum();
            assert_eq_f(of("received_total"), settled, &label);
        }
        let (opened, closed) =
            (self.sum("sessions_opened_total", &[]), self.sum("sessions_closed_total", &[]));
        let restored = self.get("sessions_restored");
        assert_eq_f(opened + restored, self.get("live_sessions") + closed, "sessions");
        let pending = self.get("sessions_restored_pending");
        let reported = self.get("sessions_reported_total");
        let without = self.get("sessions_pending") + self.get("sessions_erased_total");
        assert_eq_f(closed + pending, reported + without, "reports");
    }

    /// Whether nothing is under way, and every session that has ended has its report.
    pub(crate) fn is_settled(&self) -> bool {
        self.in_flight() == 0.0 && self.get("sessions_pending") == 0.0
    }

    fn in_flight(&self) -> f64 {
        self.sum("in_flight", &[])
    }

    /// The number of the last record that was committed by then.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is a small whole number"
    )]
    fn seq(&self) -> u64 {
        self.get("journal_committed_seq") as u64
    }
}

/// Counts are whole numbers, so they are equal or not.
fn assert_eq_f(a: f64, b: f64, what: &str) {
    assert!((a - b).abs() < 0.5, "{what}: {a} is not {b}");
}

async fn scrape(server: &TestServer) -> Scrape {
    Scrape::of(&server.client, &server.admin_url("/metrics")).await
}

/// Waits until no request is under way.
async fn settled(client: &reqwest::Client, url: &str) -> Scrape {
    within(async {
        loop {
            let scrape = Scrape::of(client, url).await;
            if scrape.is_settled() {
                return scrape;
            }
        }
    })
    .await
}

/// The series at a time at which nothing happens, and what is looked at meanwhile.
pub(crate) async fn steady<T>(
    client: &reqwest::Client,
    url: &str,
    look: impl Fn() -> T,
) -> (Scrape, T) {
    within(async {
        loop {
            // A session may be ending, and what one look shows is not of one moment: it is if the looks before
            // and after it show the same.
            let before = settled(client, url).await;
            let scrape = Scrape::of(client, url).await;
            let looked_at = look();
            let after = Scrape::of(client, url).await;
            let is_steady = [&before, &after].iter().all(|other| other.seq() == scrape.seq());
            if is_steady && scrape.is_settled() {
                return (scrape, looked_at);
            }
        }
    })
    .await
}

/// The same with what the journal says by then.
async fn steady_with(client: &reqwest::Client, url: &str, journal: &Path) -> (Scrape, Told) {
    within(async {
        loop {
            let (scrape, told) = steady(client, url, || told_by(journal)).await;
            // What is written and not committed yet may stand there already.
            if told.last_seq == scrape.seq() {
                return (scrape, told);
            }
        }
    })
    .await
}

/// What the journal says by itself.
#[derive(Default)]
struct Told {
    /// The number of its last record.
    last_seq: u64,
    kinds: BTreeMap<&'static str, u64>,
    /// Events that came after the end of their session.
    gone: u64,
    /// Sessions that are live at its end, and that wait for their report.
    live: usize,
    pending: usize,
}

fn told_by(journal: &Path) -> Told {
    let live = Arc::new(Live::new(live::Settings::default()));
    let mut processor = Processor::new(Arc::clone(&live));
    let mut told = Told::default();
    segment::each_line(&Folder::at(journal), |_, _, record| {
        // What was not acknowledged may stand half at the end.
        let Ok(record) = record else { return Ok::<_, std::io::Error>(()) };
        told.last_seq = record.last_seq();
        *told.kinds.entry(record.content.kind()).or_default() += 1;
        told.gone += u64::from(processor.replay(record).unwrap() == Outcome::Gone);
        Ok(())
    })
    .unwrap();
    (told.live, told.pending) = (live.begun(), live.unreported());
    told
}

/// What the series say was committed since the start is what the journal has, but for `before`.
#[expect(clippy::cast_precision_loss, reason = "there are not so many")]
fn agree(scrape: &Scrape, told: &Told, before: &Told) {
    let new = |kind: &str| {
        let count = |told: &Told| told.kinds.get(kind).copied().unwrap_or_default();
        (count(told) - count(before)) as f64
    };
    for kind in ["start", "event", "batch", "close", "report", "settings", "pause"] {
        let label = format!("kind=\"{kind}\"");
        assert_eq_f(scrape.sum("journal_records_total", &[&label]), new(kind), &label);
    }
    let committed = |route: &str| scrape.get(&format!("committed_total{{route=\"{route}\"}}"));
    let begun = committed("sessions") + committed("downloaded");
    assert_eq_f(begun, new("start") + new("batch"), "sessions");
    let gone = (told.gone - before.gone) as f64;
    assert_eq_f(committed("events"), new("event") - gone, "events");
}

#[tokio::test]
async fn every_series_is_there_and_says_what_it_is() {
    let server = TestServer::start().await;
    let asked = server.client.get(server.admin_url("/metrics"));
    let asked =
        asked.header("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    let response = asked.send().await.unwrap();
    let kind = response.headers()["content-type"].to_str().unwrap();
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let response_classic = server.client.get(server.admin_url("/metrics")).send().await.unwrap();
    let kind = response_classic.headers()["content-type"].to_str().unwrap();
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    let classic = Scrape::read(response_classic.text().await.unwrap());
    for (sample, kind) in NAMES {
        let kind = if *kind == "info" { "gauge" } else { kind };
        let line = format!("# TYPE {sample} {kind}\n");
        assert!(classic.text.contains(&line), "{line}");
    }
    assert_eq!(server.client.get(server.url("/metrics")).send().await.unwrap().status(), 404);
    let scrape = Scrape::read(response.text().await.unwrap());
    assert!(scrape.text.ends_with("# EOF\n"));
    for (sample, kind) in NAMES {
        let name = match *kind {
            "counter" => sample.strip_suffix("_total").unwrap(),
            "info" => sample.strip_suffix("_info").unwrap(),
            _ => sample,
        };
        let has = |line: &str| {
            let found = scrape.text.lines().any(|found| found.starts_with(line));
            assert!(found, "{line} is missing");
        };
        has(&format!("# HELP {name} "));
        has(&format!("# TYPE {name} {kind}"));
        if let Some((_, unit @ ("seconds" | "bytes"))) = name.rsplit_once('_') {
            has(&format!("# UNIT {name} {unit}"));
        }
        has(&if *kind == "histogram" { format!("{name}_bucket") } else { (*sample).to_owned() });
    }
    let told = scrape.text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(told, NAMES.len(), "there is one that is not listed");
}

#[tokio::test]
async fn what_events_did_in_their_sessions_is_counted() {
    let server = TestServer::start().await;
    let url = server.url(&location(&server.post(SAMPLE).await));
    // The repeat is dropped, the ad overtook the ping, and the last one is of another day.
    for (event_type, ts) in [("play", 10), ("play", 10), ("ping", 90), ("ping", 50), ("error", 1)] {
        let ts = 1_700_000_000_000_u64 + if event_type == "error" { 900_000_000 } else { ts };
        let post = server.client.post(format!("{url}/events"));
        assert_eq!(post.body(event(event_type, ts)).send().await.unwrap().status(), 204);
    }
    let before = scrape(&server).await;
    assert_eq_f(before.get("events_total{type=\"ping\"}"), 2.0, "pings");
    assert_eq_f(before.get("events_duplicate_total"), 1.0, "duplicates");
    assert_eq_f(before.get("events_reordered_total"), 1.0, "reordered");
    assert_eq_f(before.get("events_clock_jumps_total"), 0.0, "the window has not passed");
    server.clock.advance(600_000);
    server.close_due().await;
    let after = scrape(&server).await;
    assert!(after.get("events_clock_jumps_total") >= 1.0);
    assert_eq_f(after.get("sessions_closed_total{reason=\"timeoutNoEvents\"}"), 1.0, "closed");
    assert_eq_f(after.get("sessions_reported_total"), 1.0, "reported");
    after.is_conserved();
}

#[tokio::test]
async fn a_body_that_breaks_off_is_one_of_an_aborted_request() {
    let server = TestServer::start().await;
    let url = server.admin_url("/metrics");
    for head in ["content-length: 900\r\n\r\n{", "transfer-encoding: chunked\r\n\r\n5\r\n{"] {
        let mut raw = server.connect().await;
        raw.send(format!("POST /api/v1/sessions HTTP/1.1\r\nhost: x\r\n{head}")).await;
        within(async { while scrape(&server).await.in_flight() == 0.0 {} }).await;
        drop(raw);
        settled(&server.client, &url).await;
    }
    let scrape = scrape(&server).await;
    assert_eq_f(scrape.get("aborted_total{route=\"sessions\"}"), 2.0, "aborted");
    assert_eq_f(scrape.sum("rejected_total", &["route=\"sessions\""]), 0.0, "rejected");
    scrape.is_conserved();
}

#[tokio::test]
async fn a_stream_that_is_reset_amid_its_body_is_one_of_an_aborted_request() {
    let server = TestServer::start().await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let (give_up, end_of_it) = tokio::sync::oneshot::channel::<()>();
    let begin = futures_util::stream::once(async { Ok(SAMPLE[..100].to_owned()) });
    let end = futures_util::stream::once(async {
        end_of_it.await.unwrap();
        Err(std::io::Error::other("the player was closed"))
    });
    let body = reqwest::Body::wrap_stream(futures_util::StreamExt::chain(begin, end));
    let request = tokio::spawn(client.post(server.url("/api/v1/sessions")).body(body).send());
    within(async { while scrape(&server).await.in_flight() == 0.0 {} }).await;
    give_up.send(()).unwrap();
    assert!(request.await.unwrap().is_err());
    settled(&server.client, &server.admin_url("/metrics")).await;
    let after = scrape(&server).await;
    assert_eq_f(after.get("aborted_total{route=\"sessions\"}"), 1.0, "aborted");
    assert_eq_f(after.sum("rejected_total", &["route=\"sessions\""]), 0.0, "rejected");
    after.is_conserved();
    // It was the stream that ended, not the connection.
    let whole = client.post(server.url("/api/v1/sessions")).body(SAMPLE).send().await.unwrap();
    assert_eq!((whole.status().as_u16(), whole.version()), (201, reqwest::Version::HTTP_2));
    assert_eq!(server.public_counts.accepted.load(std::sync::atomic::Ordering::Relaxed), 1);
}

/// A crowd of players of all sorts, some of them not well-behaved.
struct Crowd {
    listen: std::net::SocketAddr,
    url: String,
    /// Sessions that were begun.
    locations: Mutex<Vec<String>>,
    /// How many answers had each status.
    statuses: Mutex<BTreeMap<u16, u64>>,
}

impl Crowd {
    fn at(listen: std::net::SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            listen,
            url: format!("http://{listen}"),
            locations: Mutex::default(),
            statuses: Mutex::default(),
        })
    }

    /// Lets so many players post so often each.
    async fn run(self: &Arc<Self>, seed: u64, players: u64, posts: usize) {
        let players = (0..players).map(|player| {
            let (crowd, mut random) = (Arc::clone(self), SmallRng::seed_from_u64(seed ^ player));
            tokio::spawn(async move {
                let client = client();
                for _ in 0..posts {
                    crowd.act(&client, &mut random).await;
                }
            })
        });
        for player in players.collect::<Vec<_>>() {
            player.await.unwrap();
        }
    }

    async fn act(&self, client: &reqwest::Client, random: &mut SmallRng) {
        let sid = self.locations.lock().await.choose(random).cloned();
        let events = format!("{}/events", sid.unwrap_or("/api/v1/sessions/nobody".into()));
        let ts = 1_700_000_000_000 + random.random_range(0..60_000_u64);
        let large = " ".repeat(5 << 10);
        let stored = format!("[{SAMPLE},{}]", event("ping", ts));
        let (path, body) = match random.random_range(0..12) {
            0..3 => ("/api/v1/sessions".to_owned(), SAMPLE.to_owned()),
            3..6 => (events, event("ping", ts)),
            6 => (events, event("sessionEnd", ts)),
            7 => ("/api/v1/downloaded".to_owned(), stored),
            8 => ("/api/v1/downloaded/".to_owned(), event("ping", ts)),
            9 => ("/api/v1/sessions".to_owned(), "{\"eventType\":5}".to_owned()),
            10 => ("/api/v1/sessions/nobody/events".to_owned(), event("play", ts)),
            _ => (events, large),
        };
        if random.random_bool(0.25) {
            return self.hang_up(&path, &body, random).await;
        }
        let mut request = client.post(format!("{}{path}", self.url)).body(body);
        if random.random_bool(0.05) {
            request = request.header("content-encoding", "br");
        }
        let response = request.send().await.unwrap();
        *self.statuses.lock().await.entry(response.status().as_u16()).or_default() += 1;
        if response.status() == 201 {
            self.locations.lock().await.push(location(&response));
        }
    }

    /// Sends a part of a request, or all of it, and goes, or is too slow.
    async fn hang_up(&self, path: &str, body: &str, random: &mut SmallRng) {
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        let request = format!("{head}{body}");
        let sent = match random.random_range(0..4) {
            0 => head.len(),
            1 => request.len(),
            _ => random.random_range(0..=request.len()),
        };
        let mut raw = Raw::connect(self.listen).await;
        raw.send(&request[..sent]).await;
        match random.random_range(0..4) {
            0 => {
                raw.answer().await;
            }
            1 => tokio::time::sleep(Duration::from_millis(random.random_range(0..20))).await,
            _ => {}
        }
    }

    async fn answers(&self, statuses: &[u16]) -> u64 {
        let seen = self.statuses.lock().await;
        statuses.iter().filter_map(|status| seen.get(status)).sum()
    }
}

fn event(event_type: &str, ts: u64) -> String {
    format!(r#"{{"eventType":"{event_type}","playerTime":{{"ts":{ts},"playhead":0}}}}"#)
}

fn location(response: &reqwest::Response) -> String {
    response.headers()["location"].to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::cast_precision_loss, reason = "there are not so many")]
async fn what_came_in_is_what_came_out_however_clients_behave() {
    let seed = u64::from(rand::random::<u32>());
    println!("seed {seed}");
    let server = TestServer::with(|config| {
        config.live.sessions_max = 25;
        // All of them are one client.
        config.memory.client_share = 1.0;
        config.http.event_bytes_max = Size::kib(4);
        config.http.body_timeout = Duration::from_secs(2);
        config.http.stored_timeout = Duration::from_secs(2);
        config.http.header_timeout = Duration::from_secs(2);
    })
    .await;
    let journal = server.folder.path().join("data/journal");
    let (crowd, url) = (Crowd::at(server.listen), server.admin_url("/metrics"));
    for round in 0..3 {
        crowd.run(seed + round, 16, 20).await;
        // Sessions that were told to end do, and make room; then all others do.
        server.clock.advance(if round == 1 { 600_000 } else { 1_000 });
        server.close_due().await;
    }
    let before = settled(&server.client, &url).await;
    before.is_conserved();
    agree(&before, &told_by(&journal), &Told::default());
    assert_eq_f(before.get("live_sessions"), server.live().sessions() as f64, "live");

    let elsewhere = server.folder.path().join("elsewhere");
    std::fs::rename(&journal, &elsewhere).unwrap();
    crowd.run(seed + 3, 16, 10).await;
    assert_eq_f(scrape(&server).await.get("journal_up"), 0.0, "the disk is broken");
    std::fs::rename(&elsewhere, &journal).unwrap();
    within(async { while scrape(&server).await.get("journal_up") == 0.0 {} }).await;
    crowd.run(seed + 4, 16, 10).await;
    server.close_due().await;

    let after = settled(&server.client, &url).await;
    after.is_conserved();
    agree(&after, &told_by(&journal), &Told::default());
    for (name, reason) in [
        ("rejected_total", "invalid"),
        ("rejected_total", "unknown"),
        ("rejected_total", "gone"),
        ("rejected_total", "too_large"),
        ("rejected_total", "encoding"),
        ("rejected_total", "timeout"),
        ("shed_total", "sessions"),
        ("shed_total", "disk"),
    ] {
        let label = format!("reason=\"{reason}\"");
        assert!(after.sum(name, &[&label]) > 0.0, "{reason} was never met");
    }
    assert!(after.sum("aborted_total", &[]) > 0.0, "nobody hung up in time");
    assert_eq_f(after.get("journal_outages_total"), 1.0, "outages");
    assert!(after.get("journal_outage_seconds_total") > 0.0);
    // Those who read their answers got what the series say, and those who did not got no more.
    let requests =
        |status: &str| after.sum("http_requests_total", &["listener=\"public\"", status]);
    for status in [201_u16, 204, 400, 404, 410, 413, 415, 503] {
        let count = crowd.answers(&[status]).await as f64;
        assert!(count > 0.0, "{status} was never answered");
        assert!(requests(&format!("status=\"{status}\"")) >= count, "{status}");
    }
    let committed = after.sum("committed_total", &[]);
    assert!(committed >= crowd.answers(&[201, 204]).await as f64);
    let received = after.sum("received_total", &[]);
    let posts: f64 = ROUTES
        .iter()
        .map(|route| format!("route=\"{route}\""))
        .map(|route| after.sum("http_requests_total", &["listener=\"public\"", &route]))
        .sum();
    assert!(posts <= received, "each answer was to a request");
    assert!(after.sum("rejects_total", &[]) > 0.0 && after.sum("violations_total", &[]) > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::cast_precision_loss, reason = "there are not so many")]
async fn the_books_are_right_after_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        ("MEDIATALLY_JOURNAL__CHECKPOINT_INTERVAL", "50ms"),
        ("MEDIATALLY_JOURNAL__SEGMENT_BYTES_MAX", "64KiB"),
        // Those who are too slow are waited for; a player who is not must not seem to be, on a slow machine.
        ("MEDIATALLY_HTTP__HEADER_TIMEOUT", "1s"),
        ("MEDIATALLY_HTTP__BODY_TIMEOUT", "200ms"),
        ("MEDIATALLY_HTTP__STORED_TIMEOUT", "200ms"),
    ];
    let journal = folder.path().join("data/journal");
    let mut before = Told::default();
    for round in 0..3 {
        let process = Process::start(folder.path(), &settings).await;
        let (client, url) = (client(), process.admin_url("/metrics"));
        let (scrape, _) = steady_with(&client, &url, &journal).await;
        assert_eq_f(scrape.get("sessions_restored"), before.live as f64, "restored");
        let pending = scrape.get("sessions_restored_pending");
        assert_eq_f(pending, before.pending as f64, "restored without a report");
        scrape.is_conserved();
        let crowd = Crowd::at(process.listen.parse().unwrap());
        crowd.run(round, 8, 20).await;
        let (scrape, told) = steady_with(&client, &url, &journal).await;
        scrape.is_conserved();
        agree(&scrape, &told, &before);
        assert_eq_f(scrape.sum("keeper_failures_total", &[]), 0.0, "the keeper");
        until_checkpoint(&client, &url).await;
        // In the middle of more of it.
        let players: Vec<_> = (0..8)
            .map(|_| {
                let (client, url) = (client.clone(), process.url("/api/v1/downloaded"));
                tokio::spawn(async move {
                    // No two are the same, or nothing would be kept of the second.
                    let body = || {
                        static STORED: AtomicU64 = AtomicU64::new(0);
                        let number = STORED.fetch_add(1, Ordering::Relaxed);
                        format!("[{}]", SAMPLE.replacen('{', &format!("{{\"number\":{number},"), 1))
                    };
                    while client.post(&url).body(body()).send().await.is_ok() {}
                })
            })
            .collect();
        let opened = scrape.get("sessions_opened_total{kind=\"downloaded\"}");
        within(async {
            while Scrape::of(&client, &url).await.sum("sessions_opened_total", &["downloaded"])
                < opened + 20.0
            {}
        })
        .await;
        process.signal(Signal::KILL);
        process.ended().await;
        for player in players {
            player.await.unwrap();
        }
        before = told_by(&journal);
        assert!(before.live > 0);
    }
}

/// Waits until a checkpoint was saved since the start.
async fn until_checkpoint(client: &reqwest::Client, url: &str) {
    within(async { while Scrape::of(client, url).await.get("checkpoint_bytes") == 0.0 {} }).await;
}
