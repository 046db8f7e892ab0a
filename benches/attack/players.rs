//! Normal players, and a probe that measures how long one of them waits.
//!
//! What they send does not depend on how fast they are answered: each request has its time, and its answer is
//! measured from then on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{anyhow, bail};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::bodies;
use crate::client::{Addresses, Connection, Response, post};
use crate::tally::{Answer, Histogram};

/// How many sessions send pings.
const SESSIONS: usize = 40;

/// How long a player waits for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often there is a ping; every second time the probe sends one too, and every fifth time a session starts.
const TICK: Duration = Duration::from_millis(10);
const TICKS_A_PROBE: u64 = 2;
const TICKS_A_START: u64 = 5;

/// Every so many requests come in two pieces, with this time between them.
const STARTS_A_SPLIT: u64 = 2;
const PINGS_A_SPLIT: u64 = 8;
const SPLIT_PAUSE: Duration = Duration::from_millis(20);

/// The players of one server, on a thread of their own so that the attack does not hold them up.
#[derive(Debug)]
pub(crate) struct Players {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Played>,
}

/// What became of their requests.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) answers: Arc<Histogram>,
    /// How long the probe waited each time, in order.
    probe: Vec<Duration>,
}

impl Played {
    /// How many requests there were, and how many were refused.
    pub(crate) fn refused(&self) -> (u64, u64) {
        self.answers.count(|answer| !matches!(answer, Answer::Status(201 | 204)))
    }

    /// How long the probe waited at most in so many of a hundred cases.
    pub(crate) fn probe_at(&self, percent: usize) -> Duration {
        let place = (self.probe.len() * percent / 100).min(self.probe.len().saturating_sub(1));
        self.probe.get(place).copied().unwrap_or_default()
    }
}

impl Players {
    /// Opens their sessions and lets them begin.
    pub(crate) fn begin(server: SocketAddr, addresses: Addresses) -> anyhow::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sessions = runtime.block_on(async {
            let mut sessions = Vec::new();
            for number in 0..SESSIONS {
                sessions.push(Arc::new(Session::open(server, addresses.player(number)).await?));
            }
            sessions.push(Arc::new(Session::open(server, addresses.probe()).await?));
            anyhow::Ok(sessions)
        })?;
        let thread = std::thread::spawn({
            let is_over = Arc::clone(&is_over);
            move || runtime.block_on(play(server, addresses, &sessions, &is_over))
        });
        Ok(Self { is_over, thread })
    }

    /// Lets them end, once the last has its answer or waits no longer.
    pub(crate) fn end(self) -> anyhow::Result<Played> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the players panicked"))
    }
}

/// A session that sends pings.
#[derive(Debug)]
struct Session {
    server: SocketAddr,
    address: IpAddr,
    path: String,
    pings: AtomicU64,
    /// The connections that wait for the next request: one, unless answers are late.
    idle: Mutex<Vec<Connection>>,
}

impl Session {
    async fn open(server: SocketAddr, address: IpAddr) -> anyhow::Result<Self> {
        let mut connection = Connection::open(address, server, None).await?;
        connection.send(&post("/api/v1/sessions", bodies::START.as_bytes())).await?;
        let response = connection.answer().await?;
        let status = response.status;
        let Some(location) = response.location else {
            bail!("a server that is not attacked answers a start with {status}");
        };
        Ok(Self::new(server, address, &location, Some(connection)))
    }

    fn new(
        server: SocketAddr,
        address: IpAddr,
        location: &str,
        connection: Option<Connection>,
    ) -> Self {
        let path = format!("{location}/events");
        let idle = Mutex::new(connection.into_iter().collect());
        Self { server, address, path, pings: AtomicU64::new(0), idle }
    }

    /// Sends a ping.
    async fn ping(&self) -> Answer {
        let number = self.pings.fetch_add(1, Ordering::Relaxed) + 1;
        let request = post(&self.path, bodies::ping(number).as_bytes());
        let split = number.is_multiple_of(PINGS_A_SPLIT);
        let idle = self.idle.lock().pop();
        // The server may close a connection that was idle; then a player opens another.
        if let Some(connection) = idle
            && let Some(answer) = self.send_on(connection, &request, split).await
        {
            return answer;
        }
        match Connection::open(self.address, self.server, None).await {
            Ok(connection) => {
                self.send_on(connection, &request, split).await.unwrap_or(Answer::Closed)
            }
            Err(_) => Answer::NoConnection,
        }
    }

    /// Sends a request on a connection and keeps it; nothing if it breaks off.
    async fn send_on(
        &self,
        mut connection: Connection,
        request: &[u8],
        split: bool,
    ) -> Option<Answer> {
        let response = send(&mut connection, request, split).await.ok()?;
        if !response.closes {
            self.idle.lock().push(connection);
        }
        Some(Answer::Status(response.status))
    }
}

async fn send(
    connection: &mut Connection,
    request: &[u8],
    split: bool,
) -> std::io::Result<Response> {
    if split {
        // The head, and half of the body.
        let body = memchr::memmem::find(request, b"\r\n\r\n").map_or(0, |at| at + 4);
        let (first, rest) = request.split_at(usize::midpoint(body, request.len()));
        connection.send(first).await?;
        sleep(SPLIT_PAUSE).await;
        connection.send(rest).await?;
    } else {
        connection.send(request).await?;
    }
    connection.answer().await
}

/// Starts a session on a new connection, and sends its first event as players do.
async fn start(
    server: SocketAddr,
    address: IpAddr,
    number: u64,
    deadline: Instant,
    answers: &Histogram,
) {
    let starting = async {
        let Ok(mut connection) = Connection::open(address, server, None).await else {
            return Err(Answer::NoConnection);
        };
        let request = post("/api/v1/sessions", bodies::START.as_bytes());
        let split = number.is_multiple_of(STARTS_A_SPLIT);
        let response = send(&mut connection, &request, split).await;
        let response = response.map_err(|_| Answer::Closed)?;
        let path = response.location.ok_or(Answer::Status(response.status))?;
        Ok((path, (!response.closes).then_some(connection)))
    };
    let (path, kept) = match timeout_at(deadline, starting).await {
        Ok(Ok(started)) => started,
        Ok(Err(answer)) => return answers.add(answer),
        Err(_) => return answers.add(Answer::Nothing),
    };
    answers.add(Answer::Status(201));
    let session = Session::new(server, address, &path, kept);
    let answer = timeout_at(Instant::now() + PATIENCE, session.ping()).await;
    answers.add(answer.unwrap_or(Answer::Nothing));
}

/// Sends what is due until it is over.
async fn play(
    server: SocketAddr,
    addresses: Addresses,
    sessions: &[Arc<Session>],
    is_over: &AtomicBool,
) -> Played {
    let answers = Arc::new(Histogram::default());
    let probe = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    let begin = Instant::now();
    let (players, prober) = sessions.split_at(SESSIONS);
    let mut due = begin;
    for (tick, number) in (1_u64..).zip((0..SESSIONS).cycle()) {
        sleep_until(due).await;
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let deadline = due + PATIENCE;
        let mut ping = |session: &Arc<Session>, probe: Option<Arc<Mutex<Vec<Duration>>>>| {
            let (session, answers) = (Arc::clone(session), Arc::clone(&answers));
            tasks.spawn(async move {
                let answer = timeout_at(deadline, session.ping()).await;
                answers.add(answer.unwrap_or(Answer::Nothing));
                if let Some(probe) = probe {
                    probe.lock().push(due.elapsed());
                }
            });
        };
        ping(&players[number], None);
        if tick.is_multiple_of(TICKS_A_PROBE) {
            ping(&prober[0], Some(Arc::clone(&probe)));
        }
        if tick.is_multiple_of(TICKS_A_START) {
            let (answers, address) = (Arc::clone(&answers), addresses.player(number + SESSIONS));
            tasks.spawn(async move {
                start(server, address, tick / TICKS_A_START, deadline, &answers).await;
            });
        }
        while tasks.try_join_next().is_some() {}
        due += TICK;
    }
    while tasks.join_next().await.is_some() {}
    let mut probe = std::mem::take(&mut *probe.lock());
    probe.sort_unstable();
    Played { answers, probe }
}
