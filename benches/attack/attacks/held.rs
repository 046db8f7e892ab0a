//! Attacks that hold connections and let the server wait.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Target;
use crate::bodies::{self, gzip};
use crate::client::{Connection, Counted, post_gzip, post_head};
use crate::tally::{Answer, Check};

/// How many workers open the connections.
const WORKERS: usize = 64;

/// How many times as many connections are opened at most, if the server closes them.
const REOPENED_TIMES_MAX: usize = 10;

/// How many health checks are asked, and how long each waits; Kubernetes gives liveness so long.
const HEALTH_CHECKS: u32 = 16;
const HEALTH_PATIENCE: Duration = Duration::from_secs(3);

/// What is done with a connection.
#[derive(Debug)]
struct Manner {
    /// What is sent first.
    greeting: Vec<u8>,
    /// What is sent after it, a byte each time; nothing sends no more.
    drip: Vec<u8>,
    /// How often, and how often the connection is looked at.
    every: Duration,
    /// Whether it reads a byte each time, from a small buffer, and not all that comes.
    reads_slowly: bool,
}

impl Manner {
    fn silent(greeting: Vec<u8>) -> Self {
        let every = Duration::from_millis(250);
        Self { greeting, drip: Vec::new(), every, reads_slowly: false }
    }
}

/// A connection that is held.
#[derive(Debug)]
struct Held {
    stream: Counted,
    drip: usize,
    /// Whether its answer is counted already.
    answered: bool,
}

/// Holds so many connections from each of these addresses until it is over.
async fn hold(target: &Target, from: &[IpAddr], to: SocketAddr, count: usize, manner: Manner) {
    let manner = Arc::new(manner);
    let mut workers = JoinSet::new();
    let all = count * from.len();
    for worker in 0..WORKERS.min(all) {
        let share = all / WORKERS + usize::from(worker < all % WORKERS);
        let (target, manner) = (target.clone(), Arc::clone(&manner));
        let from = from[worker % from.len()];
        workers.spawn(async move { hold_some(&target, from, to, share, &manner).await });
    }
    while workers.join_next().await.is_some() {}
}

async fn hold_some(target: &Target, from: IpAddr, to: SocketAddr, share: usize, manner: &Manner) {
    let mut held: Vec<Held> = Vec::new();
    let mut may_open = share * REOPENED_TIMES_MAX;
    while !target.is_over() {
        let round = Instant::now();
        while held.len() < share && may_open > 0 && !target.is_over() {
            may_open -= 1;
            let Ok(stream) = open(target, from, to, manner).await else {
                target.tally.answered(Answer::NoConnection, 0);
                break;
            };
            held.push(Held { stream, drip: 0, answered: false });
        }
        let mut kept = Vec::with_capacity(held.len());
        for mut one in held {
            if one.goes_on(target, manner).await {
                kept.push(one);
            }
        }
        held = kept;
        sleep_until((round + manner.every).min(target.end)).await;
    }
    for mut one in held {
        if one.goes_on(target, manner).await && !one.answered {
            target.tally.answered(Answer::Held, 0);
        }
    }
}

async fn open(
    target: &Target,
    from: IpAddr,
    to: SocketAddr,
    manner: &Manner,
) -> std::io::Result<Counted> {
    let receive_bytes = manner.reads_slowly.then_some(4 << 10);
    let mut stream = Counted::connect(from, to, receive_bytes, Some(&target.tally)).await?;
    // A server that takes no more connections does not read either; what fits into the socket is enough.
    let _ = timeout(Duration::from_secs(1), stream.write_all(&manner.greeting)).await;
    Ok(stream)
}

impl Held {
    /// Sends and reads what is due; gives whether the connection is still there.
    async fn goes_on(&mut self, target: &Target, manner: &Manner) -> bool {
        if let Some(byte) = manner.drip.get(self.drip..=self.drip)
            && !self.answered
        {
            self.drip += 1;
            // If this fails, so does the reading.
            let _ = timeout(Duration::from_millis(10), self.stream.write_all(byte)).await;
        }
        let mut buffer = [0; 4_096];
        loop {
            // The status line is read at once, so that the answer is known.
            let slow = manner.reads_slowly;
            let wanted = if !slow {
                4_096
            } else if self.answered {
                1
            } else {
                16
            };
            match self.stream.stream.try_read(&mut buffer[..wanted]) {
                Ok(0) => {
                    self.closed(target);
                    return false;
                }
                // Who wants to be slow at reading a large answer tries again after another.
                Ok(read) if self.note(target, &buffer[..read]) && slow => return false,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => {
                    self.closed(target);
                    return false;
                }
            }
            if slow {
                return true;
            }
        }
    }

    /// Counts the answer that these bytes begin with; gives whether the request may be tried again.
    fn note(&mut self, target: &Target, bytes: &[u8]) -> bool {
        if self.answered {
            return false;
        }
        self.answered = true;
        let status = bytes.get(9..12).and_then(|digits| str::from_utf8(digits).ok()?.parse().ok());
        target.tally.answered(status.map_or(Answer::Closed, Answer::Status), 0);
        matches!(status, Some(429 | 503))
    }

    fn closed(&self, target: &Target) {
        if !self.answered {
            target.tally.answered(Answer::Closed, 0);
        }
    }
}

async fn hold_from_one(target: Target, count: usize, manner: Manner) {
    let from = [target.addresses.attacker()];
    hold(&target, &from, target.listen, target.connections(count), manner).await;
}

pub(super) async fn slow_readers(target: Target) {
    let greeting = post_gzip("/api/v1/downloaded", &gzip(&bodies::stored_long_name()));
    let every = Duration::from_secs(1);
    let manner = Manner { every, reads_slowly: true, ..Manner::silent(greeting) };
    hold_from_one(target, 50, manner).await;
}

pub(super) async fn stalled_gzip(target: Target) {
    let request = post_gzip("/api/v1/downloaded", &gzip(&bodies::stored_whole()));
    // All that is packed has come, the last of its checksum and length has not.
    let greeting = request[..request.len() - 2].to_vec();
    hold_from_one(target, 16, Manner::silent(greeting)).await;
}

pub(super) async fn stalled_bodies(target: Target) {
    let mut greeting = post_head("/api/v1/sessions", "", bodies::START.len()).into_bytes();
    greeting.extend_from_slice(&bodies::START.as_bytes()[..16]);
    hold_from_one(target, 13_000, Manner::silent(greeting)).await;
}

pub(super) async fn idle(target: Target) {
    hold_from_one(target, 11_500, Manner::silent(Vec::new())).await;
}

pub(super) async fn slow_heads(target: Target) {
    let drip = post_head("/api/v1/sessions", "x-filler: aaaaaaaaaaaaaaaa\r\n", 2).into_bytes();
    let manner = Manner { drip, ..Manner::silent(Vec::new()) };
    hold_from_one(target, 500, manner).await;
}

pub(super) async fn slow_bodies(target: Target) {
    let greeting = post_head("/api/v1/sessions", "", bodies::START.len()).into_bytes();
    let manner = Manner { drip: bodies::START.into(), ..Manner::silent(greeting) };
    hold_from_one(target, 500, manner).await;
}

/// Holds connections to the admin side while health is asked for there.
pub(super) async fn idle_admin(target: Target) {
    let from = [0, 1].map(|number| target.addresses.one_of_many(number));
    let holding = hold(&target, &from, target.admin_listen, 64, Manner::silent(Vec::new()));
    let asking = async {
        // The last has its answer, or waits no longer, while the connections are still held.
        let left = target.end.saturating_duration_since(Instant::now() + HEALTH_PATIENCE);
        let pause = left / (HEALTH_CHECKS + 1);
        let mut asked = JoinSet::new();
        for _ in 0..HEALTH_CHECKS {
            sleep(pause).await;
            let target = target.clone();
            asked.spawn(async move {
                let check = is_healthy(&target);
                timeout(HEALTH_PATIENCE, check).await.unwrap_or(false)
            });
        }
        let answers = asked.join_all().await;
        let failed = answers.iter().filter(|is_healthy| !**is_healthy).count() as u64;
        let asked = answers.len() as u64;
        target.tally.checks.lock().push(Check { what: "health checks", asked, failed });
    };
    tokio::join!(holding, asking);
}

async fn is_healthy(target: &Target) -> bool {
    let asking = async {
        let from = target.addresses.operator();
        let mut connection = Connection::open(from, target.admin_listen, None).await.ok()?;
        let request = b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";
        connection.send(request).await.ok()?;
        Some(connection.answer().await.ok()?.status)
    };
    asking.await == Some(200)
}
