//! Attacks that post whole requests, one after the other.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Target;
use crate::bodies::{self, EVENT_BYTES, STORED_BYTES, gzip};
use crate::client::{Connection, post, post_gzip};
use crate::tally::{Answer, Check};

const SESSIONS: &str = "/api/v1/sessions";
const DOWNLOADED: &str = "/api/v1/downloaded";

/// How long a connection that could not be used is let be.
const PAUSE: Duration = Duration::from_millis(20);

/// What is posted.
struct Load {
    /// The requests that follow each other on a connection.
    requests: Vec<Vec<u8>>,
    /// How many connections each address has.
    connections: usize,
    /// How many requests there are at most.
    requests_max: u64,
    /// How many requests are sent before their answers are read.
    ahead: usize,
    /// The rest of a stored session, packed, in place of the requests: each begins otherwise, because of one that is
    /// sent again nothing is kept.
    stored: Option<Vec<u8>>,
}

impl Load {
    fn new(requests: Vec<Vec<u8>>, connections: usize) -> Self {
        Self { requests, connections, requests_max: u64::MAX, ahead: 1, stored: None }
    }

    /// Stored sessions, each with this body but for a number.
    fn stored(body: &[u8], connections: usize) -> Self {
        let rest = body.strip_prefix(b"[{").unwrap_or_default();
        Self { stored: Some(gzip(rest)), ..Self::new(Vec::new(), connections) }
    }

    fn request(&self, number: usize, sent: u64) -> Cow<'_, [u8]> {
        let Some(rest) = &self.stored else {
            return Cow::Borrowed(&self.requests[number % self.requests.len()]);
        };
        let begin = gzip(format!("[{{\"number\":\"{sent}\",").as_bytes());
        Cow::Owned(post_gzip(DOWNLOADED, &[&*begin, rest].concat()))
    }
}

/// Posts from these addresses until it is over.
async fn run(target: &Target, addresses: &[IpAddr], load: Load) {
    let load = Arc::new(load);
    let sent = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for worker in 0..load.connections * addresses.len() {
        let (target, load, sent) = (target.clone(), Arc::clone(&load), Arc::clone(&sent));
        let address = addresses[worker % addresses.len()];
        workers.spawn(async move {
            let mut next = worker;
            while !target.is_over() && sent.load(Ordering::Relaxed) < load.requests_max {
                let Ok(mut connection) =
                    Connection::open(address, target.listen, Some(&target.tally)).await
                else {
                    target.tally.answered(Answer::NoConnection, 0);
                    sleep(PAUSE).await;
                    continue;
                };
                while !target.is_over() && sent.load(Ordering::Relaxed) < load.requests_max {
                    let number = sent.fetch_add(load.ahead as u64, Ordering::Relaxed);
                    let request = load.request(next, number);
                    next += 1;
                    if !exchange(&target, &mut connection, &request, load.ahead).await {
                        break;
                    }
                }
            }
        });
    }
    while workers.join_next().await.is_some() {}
}

/// Sends a request so many times and reads the answers; gives whether the connection goes on.
async fn exchange(
    target: &Target,
    connection: &mut Connection,
    request: &[u8],
    times: usize,
) -> bool {
    // A refusal may come, and the connection be closed, before all is sent.
    let is_sent = connection.send(&request.repeat(times)).await.is_ok();
    for _ in 0..times {
        let Ok(response) = connection.answer().await else {
            target.tally.answered(Answer::Closed, 0);
            sleep(PAUSE).await;
            return false;
        };
        target.tally.answered(Answer::Status(response.status), response.body_bytes);
        if response.closes {
            return false;
        }
    }
    is_sent
}

async fn run_from_one(target: Target, load: Load) {
    run(&target, &[target.addresses.attacker()], load).await;
}

fn packed(path: &str, body: &[u8]) -> Vec<u8> {
    post_gzip(path, &gzip(body))
}

pub(super) async fn states(target: Target) {
    let request = packed(DOWNLOADED, &bodies::stored_states());
    run_from_one(target, Load::new(vec![request], 4)).await;
}

pub(super) async fn long_name(target: Target) {
    let request = packed(SESSIONS, &bodies::long_name());
    run_from_one(target, Load::new(vec![request], 4)).await;
}

pub(super) async fn large_starts(target: Target) {
    let request = packed(SESSIONS, &bodies::large_start());
    let load = Load { requests_max: 17_900, ..Load::new(vec![request], 32) };
    run_from_one(target, load).await;
}

pub(super) async fn starts(target: Target) {
    let request = post(SESSIONS, bodies::START.as_bytes());
    let load = Load { requests_max: 1_000_000, ahead: 16, ..Load::new(vec![request], 32) };
    run_from_one(target, load).await;
}

pub(super) async fn stored_large_events(target: Target, addresses: usize) {
    let body = bodies::stored_large_events();
    let from: Vec<_> = match addresses {
        1 => vec![target.addresses.attacker()],
        many => (0..many).map(|number| target.addresses.one_of_many(number)).collect(),
    };
    run(&target, &from, Load::stored(&body, 8 / addresses)).await;
}

pub(super) async fn stored_small_events(target: Target) {
    run_from_one(target, Load::stored(&bodies::stored_small_events(), 8)).await;
}

pub(super) async fn packed_zeros(target: Target) {
    let requests = [STORED_BYTES, 64 << 20].into_iter().flat_map(|bytes| {
        let body = gzip(&vec![0; bytes]);
        [SESSIONS, DOWNLOADED].map(|path| post_gzip(path, &body))
    });
    let load = Load::new(requests.collect(), 8);
    run_from_one(target, load).await;
}

pub(super) async fn packed_members(target: Target) {
    let body = bodies::many_members(100_000);
    let requests = [SESSIONS, DOWNLOADED].map(|path| post_gzip(path, &body));
    run_from_one(target, Load::new(requests.into(), 8)).await;
}

pub(super) async fn deep_json(target: Target) {
    let requests = vec![
        post(SESSIONS, &bodies::deep_lists(EVENT_BYTES)),
        post(SESSIONS, &bodies::deep_objects(EVENT_BYTES)),
        packed(DOWNLOADED, &bodies::deep_lists(STORED_BYTES)),
        packed(SESSIONS, &bodies::deep_objects(STORED_BYTES)),
    ];
    run_from_one(target, Load::new(requests, 8)).await;
}

/// Posts starts at a steady rate.
pub(super) async fn one_suite(target: Target) {
    let request = post(SESSIONS, &bodies::start_of_one_suite());
    let mut ticks = interval(Duration::from_millis(10));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while !target.is_over() {
        let from = target.addresses.attacker();
        let Ok(mut connection) = Connection::open(from, target.listen, Some(&target.tally)).await
        else {
            target.tally.answered(Answer::NoConnection, 0);
            sleep(PAUSE).await;
            continue;
        };
        while !target.is_over() {
            ticks.tick().await;
            if !exchange(&target, &mut connection, &request, 1).await {
                break;
            }
        }
    }
}

/// Opens some sessions and makes each of them hold more with every event.
pub(super) async fn growing_sessions(target: Target) {
    const SESSIONS_GROWN: usize = 60;
    const EVENTS: u64 = 512;
    let events = bodies::ad_events(EVENTS, EVENT_BYTES);
    let events: Arc<Vec<_>> = Arc::new(events.iter().map(|event| gzip(event.as_bytes())).collect());
    let mut workers = JoinSet::new();
    for _ in 0..SESSIONS_GROWN {
        let (target, events) = (target.clone(), Arc::clone(&events));
        workers.spawn(async move {
            while !target.is_over() {
                if grow_session(&target, &events).await.is_none() {
                    sleep(PAUSE).await;
                }
            }
        });
    }
    while workers.join_next().await.is_some() {}
}

/// Opens a session and posts these events to it again and again; ends if the session or the connection does.
async fn grow_session(target: &Target, events: &[Vec<u8>]) -> Option<()> {
    let from = target.addresses.attacker();
    let path = open_session(target, from).await?;
    let mut connection = Connection::open(from, target.listen, Some(&target.tally)).await.ok()?;
    let mut requests = events.iter().map(|event| post_gzip(&path, event)).cycle();
    while !target.is_over() {
        if !exchange(target, &mut connection, &requests.next()?, 1).await {
            connection = Connection::open(from, target.listen, Some(&target.tally)).await.ok()?;
        }
    }
    Some(())
}

/// Opens a session; gives where its events go.
pub(super) async fn open_session(target: &Target, from: IpAddr) -> Option<String> {
    let mut connection = Connection::open(from, target.listen, Some(&target.tally)).await.ok()?;
    connection.send(&post(SESSIONS, bodies::START.as_bytes())).await.ok()?;
    let response = connection.answer().await.ok()?;
    target.tally.answered(Answer::Status(response.status), response.body_bytes);
    response.location.map(|location| format!("{location}/events"))
}

pub(super) async fn stored_large_state(target: Target) {
    run_from_one(target, Load::stored(&bodies::stored_large_state(), 8)).await;
}

/// Posts bodies that are refused, and looks whether that of a player is still kept and shown to the operator.
pub(super) async fn refused_bodies(target: Target) {
    let request = post(SESSIONS, &bodies::invalid_start("refused-to-the-attacker"));
    let load = Load { requests_max: 39_517, ahead: 16, ..Load::new(vec![request], 16) };
    let from = [target.addresses.attacker()];
    refuse(&target, run(&target, &from, load)).await;
}

/// The same with a few bodies that are much larger where they are written down.
pub(super) async fn refused_control_characters(target: Target) {
    let request = packed(DOWNLOADED, &bodies::stored_control_characters());
    let load = Load { requests_max: 40, ..Load::new(vec![request], 2) };
    let from = [0, 1].map(|number| target.addresses.one_of_many(number));
    refuse(&target, run(&target, &from, load)).await;
}

/// Has a body of a player refused, attacks, and looks whether the player's is still shown and kept.
async fn refuse(target: &Target, attack: impl Future<Output = ()>) {
    const MARK: &str = "refused-to-a-player";
    let own = async {
        let from = target.addresses.player(0);
        let mut connection = Connection::open(from, target.listen, None).await.ok()?;
        connection.send(&post(SESSIONS, &bodies::invalid_start(MARK))).await.ok()?;
        connection.answer().await.ok()
    };
    own.await;
    attack.await;
    // With one address for all, nobody can tell them apart.
    if target.addresses.are_same {
        return;
    }
    let shown = async {
        let from = target.addresses.operator();
        let mut connection = Connection::open(from, target.admin_listen, None).await.ok()?;
        connection.send(b"GET /rejects HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await.ok()?;
        let (_, body) = connection.answer_with_body().await.ok()?;
        memchr::memmem::find(&body, MARK.as_bytes())
    };
    let is_shown = shown.await.is_some();
    let is_kept = is_in_files(&target.data_folder.join("rejects"), MARK.as_bytes());
    let check = |what, is_good: bool| Check { what, asked: 1, failed: u64::from(!is_good) };
    target.tally.checks.lock().extend([
        check("refusals of a player that are still shown", is_shown),
        check("refusals of a player that are still kept", is_kept),
    ]);
}

/// Whether one of the files in a folder has these bytes.
fn is_in_files(folder: &Path, bytes: &[u8]) -> bool {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter_map(|file| std::fs::read(file.path()).ok())
        .any(|contents| memchr::memmem::find(&contents, bytes).is_some())
}
