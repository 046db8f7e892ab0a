//! The wiring: listen twice, read the journal back, build each room from its settings, drain in order.

pub(super) mod doors;

mod rooms;

pub(super) mod systemd;

use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use self::doors::{Settle, fit_to_open_files};
use self::rooms::{Ends, Rooms, Seams, Threads};
use self::systemd::Sockets;
use crate::clock::Clock;
use crate::collector::Collector;
use crate::config::{Config, Loaded};
use crate::data_dir::DataDir;
use crate::http::connections::Stage;
use crate::http::{App, Health, ShutdownSettings};
use crate::telemetry;
use crate::telemetry::series::Series;

pub use self::doors::Doors;

/// How often sessions whose time has run out are looked for. A session that has ended is closed no later
/// than this after its linger.
const DEADLINES_TICK: Duration = Duration::from_millis(200);

/// How long the reports of sessions that have just ended may take when the server stops.
const REPORTS_MAX: Duration = Duration::from_secs(2);

/// How long the answers that say «not yet» may take when the server is stopped before it serves.
const ABANDON_MAX: Duration = Duration::from_secs(1);

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Tell the load balancers first and go on for the grace (SIGTERM).
    AfterGrace,
    /// Take nothing new from now on (SIGINT).
    Now,
}

/// Runs the server until a signal ends it.
///
/// # Errors
/// What kept it from starting.
pub fn main(loaded: Loaded) -> anyhow::Result<ExitCode> {
    telemetry::init(&loaded.config.log).map_err(anyhow::Error::msg).context("log.level")?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let mut config = loaded.config;
    fit_to_open_files(&mut config.http)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        let mut stops = signals()?;
        let mut starting = Starting::begin(config, Clock::system(), Sockets::from_systemd()?)?;
        let rooms = tokio::select! {
            biased;
            rooms = starting.rooms() => rooms?,
            Some(_) = stops.recv() => {
                starting.abandon().await;
                return Ok(ExitCode::SUCCESS);
            }
        };
        let server = starting.serve(rooms);
        systemd::ready();
        anyhow::Ok(server.run(stops).await)
    })?;
    // Nothing that is left is worth waiting for.
    runtime.shutdown_background();
    Ok(code)
}

/// A server that listens and reads its journal back. It tells its health, and asks for patience; so however
/// long that takes, nobody takes it for dead.
struct Starting {
    doors: Doors,
    settle: Settle,
    health: Health,
    shutdown: ShutdownSettings,
    rooms: JoinHandle<anyhow::Result<Rooms>>,
}

impl Starting {
    /// Listens, and begins to read the journal back, on a thread of its own.
    fn begin(config: Config, clock: Clock, sockets: Sockets) -> anyhow::Result<Self> {
        let data_dir = DataDir::open(&config.data_dir)?;
        data_dir.check_permissions(&config.storage)?;
        let key = match &config.session.key {
            Some(key) => key.clone(),
            None => data_dir.session_key()?,
        };
        let (health, series) = (Health::default(), Arc::<Series>::default());
        let (memory, origin) = config.memory();
        tracing::info!("{}", memory.description(origin));
        let (doors, settle) = Doors::build(&config, &clock, &health, &series, &memory, sockets)?;
        tracing::info!(
            listen = %doors.listen,
            admin_listen = %doors.admin_listen,
            "the journal is being read back; until then posts wait (http.recovery_wait), health is answered, and on \
             the admin address /metrics"
        );
        let shutdown = config.shutdown.clone();
        let rooms = {
            let seams = Seams {
                health: health.clone(),
                series,
                connections: [Arc::clone(&doors.public_counts), Arc::clone(&doors.admin_counts)],
                memory,
            };
            tokio::task::spawn_blocking(move || Rooms::build(config, key, clock, seams, data_dir))
        };
        Ok(Self { doors, settle, health, shutdown, rooms })
    }

    /// Waits until the journal is read back. To be called once.
    async fn rooms(&mut self) -> anyhow::Result<Rooms> {
        match (&mut self.rooms).await {
            Ok(rooms) => rooms,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// Opens the doors.
    fn serve(self, rooms: Rooms) -> Server {
        let Self { doors, settle, shutdown, .. } = self;
        let Rooms { app, threads, rejects_thread, data_dir } = rooms;
        settle(Some(&app));
        tracing::info!(
            target: telemetry::START_TARGET,
            version = env!("CARGO_PKG_VERSION"),
            listen = %doors.listen,
            admin_listen = %doors.admin_listen,
            data_dir = %data_dir.path().display(),
            "mediatally is listening"
        );
        let ends = Ends(threads.ends.clone());
        Server {
            deadlines: tokio::spawn(tick_deadlines(app.clone(), ends)),
            app,
            shutdown,
            doors,
            threads,
            rejects_thread,
            data_dir,
        }
    }

    /// Ends before the journal is read back. Nothing was taken, and what reading it back does to the folder
    /// may break off anywhere, as in a crash; so it is not waited for.
    async fn abandon(self) {
        let Doors { public_stage, admin_stage, public, admin, followers, .. } = self.doors;
        self.health.stop();
        (self.settle)(None);
        followers.iter().for_each(JoinHandle::abort);
        public_stage.send_replace(Stage::Draining);
        admin_stage.send_replace(Stage::Draining);
        let answered = async { tokio::join!(public, admin) };
        let _ = timeout(ABANDON_MAX, answered).await;
        tracing::info!("stopped before the journal was read back");
    }
}

/// A server that serves.
#[derive(Debug)]
pub struct Server {
    /// The handles that its handlers share.
    pub app: App,
    /// Where it listens.
    pub doors: Doors,
    shutdown: ShutdownSettings,
    deadlines: JoinHandle<()>,
    threads: Threads,
    rejects_thread: thread::JoinHandle<()>,
    data_dir: DataDir,
}

impl Server {
    /// Listens, reads the journal back, builds the rooms, and serves.
    ///
    /// # Errors
    /// The address that cannot be bound, the folder or the certificate that cannot be used.
    pub async fn start(config: Config, clock: Clock) -> anyhow::Result<Self> {
        let mut starting = Starting::begin(config, clock, Sockets::default())?;
        let rooms = starting.rooms().await?;
        Ok(starting.serve(rooms))
    }

    /// Serves until told to stop, then drains; a second word ends it at once, unfinished.
    ///
    /// If a thread of the journal ends before, the server ends too, so that something starts it anew.
    pub async fn run(mut self, mut stops: mpsc::Receiver<Stop>) -> ExitCode {
        let stop = tokio::select! {
            stop = stops.recv() => stop,
            _ = self.threads.ended.recv() => {
                tracing::error!("a part of the server has ended: it cannot go on without");
                None
            }
        };
        let Some(stop) = stop else { return ExitCode::FAILURE };
        tokio::select! {
            () = self.drain(stop) => ExitCode::SUCCESS,
            Some(_) = stops.recv() => {
                tracing::warn!("told twice to stop: ended with requests unfinished");
                ExitCode::FAILURE
            }
        }
    }

    async fn drain(self, stop: Stop) {
        let Self { app, shutdown, doors, deadlines, .. } = self;
        let Doors { public_stage, admin_stage, public, admin, followers, .. } = doors;
        let (threads, data_dir) = (self.threads, self.data_dir);
        let rejects_thread = self.rejects_thread;
        app.health().stop();
        systemd::stopping();
        if stop == Stop::AfterGrace {
            tracing::info!(grace_ms = millis(shutdown.grace), "stopping: not ready any more");
            public_stage.send_replace(Stage::Leaving);
            sleep(shutdown.grace).await;
        }
        tracing::info!("stopping: finishing the requests that have begun");
        public_stage.send_replace(Stage::Draining);
        if timeout(shutdown.drain_max, public).await.is_err() {
            tracing::warn!(
                drain_max_ms = millis(shutdown.drain_max),
                "some requests were not finished in time"
            );
        }
        // Health is told to the end.
        admin_stage.send_replace(Stage::Draining);
        let _ = timeout(Duration::from_secs(1), admin).await;
        deadlines.abort();
        followers.iter().for_each(JoinHandle::abort);
        reports_written(app.collector()).await;
        // All that was answered is committed; the rest of the work is to save the live sessions.
        app.collector().journal().close();
        let rejects = app.clone();
        let joined = tokio::task::spawn_blocking(move || {
            rejects.rejects().close();
            let _ = rejects_thread.join();
            threads.handles.map(thread::JoinHandle::join)
        });
        let joined = joined.await;
        if !joined.is_ok_and(|joined| joined.iter().all(Result::is_ok)) {
            tracing::error!("the journal was not closed in order; the next start will mend it");
        }
        drop(data_dir);
        tracing::info!(live_sessions = app.collector().live().sessions(), "stopped");
    }
}

/// Waits for the reports of the sessions that have just ended. If the disk does not write, the next start
/// writes them.
async fn reports_written(collector: &Collector) {
    let waiting = async {
        while collector.live().unreported() > 0 && collector.journal().is_up().is_ok() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = timeout(REPORTS_MAX, waiting).await;
}

/// Ends the sessions whose time has run out, until aborted.
async fn tick_deadlines(app: App, _ends: Ends) {
    let mut ticks = interval(DEADLINES_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        app.collector().close_due().await;
        app.collector().evict().await;
    }
}

/// SIGTERM and SIGINT as words to the server.
fn signals() -> anyhow::Result<mpsc::Receiver<Stop>> {
    let (sender, receiver) = mpsc::channel(2);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            let stop = tokio::select! {
                Some(()) = terminate.recv() => Stop::AfterGrace,
                Some(()) = interrupt.recv() => Stop::Now,
            };
            if sender.send(stop).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
