//! The wiring: build each room from its settings, listen twice, drain in order.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::clock::{Clock, Stopwatch};
use crate::collector::Collector;
use crate::config::{Config, Loaded};
use crate::data_dir::DataDir;
use crate::http::connections::{self, Counts, Stage};
use crate::http::tls::{self, Follower, Tls};
use crate::http::{self, App, Health, ShutdownSettings};
use crate::journal::archive::Archive;
use crate::journal::disk::{Disk, Folder};
use crate::journal::{Journal, Keeper, Told, Writer, recovery};
use crate::live::Live;
use crate::processor::Processor;
use crate::rejects::Rejects;
use crate::reporter::Reporter;
use crate::telemetry;
use crate::telemetry::series::Series;

/// How many connections operators and health checks may hold at once.
const ADMIN_CONNECTIONS_MAX: usize = 128;

/// Open files beside the connections of players: the admin side, logs, the data folder.
const FILES_RESERVED: usize = ADMIN_CONNECTIONS_MAX + 64;

/// How often sessions whose time has run out are looked for. A session that has ended is closed no later
/// than this after its linger.
const DEADLINES_TICK: Duration = Duration::from_millis(200);

/// How long the reports of sessions that have just ended may take when the server stops.
const REPORTS_MAX: Duration = Duration::from_secs(2);

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
    fit_to_open_files(&mut config.http);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        let stops = signals()?;
        let server = Server::start(config, Clock::system())?;
        anyhow::Ok(server.run(stops).await)
    })?;
    // Nothing that is left is worth waiting for.
    runtime.shutdown_background();
    Ok(code)
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    /// Where players post; a port 0 of the settings has become the real one.
    pub listen: SocketAddr,
    /// Where operators look.
    pub admin_listen: SocketAddr,
    /// The handles that its handlers share.
    pub app: App,
    /// The connections of players, counted.
    pub public_counts: Arc<Counts>,
    /// The connections of operators, counted.
    pub admin_counts: Arc<Counts>,
    shutdown: ShutdownSettings,
    public_stage: watch::Sender<Stage>,
    admin_stage: watch::Sender<Stage>,
    public: JoinHandle<()>,
    admin: JoinHandle<()>,
    deadlines: JoinHandle<()>,
    followers: Vec<JoinHandle<()>>,
    threads: Threads,
    rejects_thread: thread::JoinHandle<()>,
    data_dir: DataDir,
}

impl Server {
    /// Reads the journal back, builds the rooms, listens, and serves. To be called in a tokio runtime.
    ///
    /// # Errors
    /// The address that cannot be bound, the folder or the certificate that cannot be used.
    pub fn start(config: Config, clock: Clock) -> anyhow::Result<Self> {
        let (public_counts, admin_counts) = (Arc::<Counts>::default(), Arc::<Counts>::default());
        let (public_tls, public_follower) = open_tls(config.tls.public(), &clock, &public_counts)?;
        let (admin_tls, admin_follower) = open_tls(config.tls.admin(), &clock, &admin_counts)?;
        let data_dir = DataDir::open(&config.data_dir)?;
        let key = match &config.session.key {
            Some(key) => key.clone(),
            None => data_dir.session_key()?,
        };
        let (rejects, refused) = Rejects::new(&config.rejects, data_dir.path());
        let rejects_thread =
            thread::Builder::new().name("rejects".into()).spawn(|| refused.run())?;
        let path = data_dir.journal();
        let disk =
            Folder::make(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let archive = Archive::new(Arc::clone(&disk));
        let series = Series::default();
        let (live, journal, threads) = open_journal(&config, disk, &clock, &series)
            .with_context(|| format!("cannot open the journal {}", path.display()))?;
        let redactor = config.privacy.redactor(&key);
        let collector = Collector::new(key, config.validation, clock, live, journal);
        let collector = collector.redacting(redactor);
        let (health, settings) = (Health::default(), config.http.clone());
        let app = App::new(collector, health, settings, config.privacy, rejects, archive, series);

        let public = bind(config.listen, "listen")?;
        let admin = bind(config.admin_listen, "admin_listen")?;
        let (listen, admin_listen) = (public.local_addr()?, admin.local_addr()?);
        tracing::info!(
            target: telemetry::START_TARGET,
            version = env!("CARGO_PKG_VERSION"),
            %listen,
            %admin_listen,
            data_dir = %data_dir.path().display(),
            "mediatally is listening"
        );
        let (public_stage, public_stages) = watch::channel(Stage::Open);
        let (admin_stage, admin_stages) = watch::channel(Stage::Open);
        let admin_settings = http::Settings {
            connections_max: ADMIN_CONNECTIONS_MAX,
            connections_per_address_max: 0,
            ..config.http.clone()
        };
        let public_door = http::public(app.clone());
        let admin_door = http::admin(app.clone(), admin_listen.ip().is_loopback());
        let ends = Ends(threads.ends.clone());
        let ticks = tick_deadlines(app.clone(), ends);
        Ok(Self {
            listen,
            admin_listen,
            shutdown: config.shutdown,
            public_stage,
            admin_stage,
            public: tokio::spawn(connections::serve(
                public,
                public_door,
                config.http,
                public_tls,
                Arc::clone(&public_counts),
                public_stages,
            )),
            admin: tokio::spawn(connections::serve(
                admin,
                admin_door,
                admin_settings,
                admin_tls,
                Arc::clone(&admin_counts),
                admin_stages,
            )),
            public_counts,
            admin_counts,
            followers: [public_follower, admin_follower]
                .into_iter()
                .flatten()
                .map(|follower| tokio::spawn(follower.run()))
                .collect(),
            deadlines: tokio::spawn(ticks),
            threads,
            rejects_thread,
            data_dir,
            app,
        })
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
        let Self { app, shutdown, public_stage, admin_stage, public, admin, deadlines, .. } = self;
        let (threads, data_dir) = (self.threads, self.data_dir);
        let rejects_thread = self.rejects_thread;
        app.health().stop();
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
        self.followers.iter().for_each(JoinHandle::abort);
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

/// The threads of the journal.
#[derive(Debug)]
struct Threads {
    handles: [thread::JoinHandle<()>; 3],
    /// Tells that one of them has ended, or what else the server cannot go on without.
    ends: mpsc::Sender<()>,
    ended: mpsc::Receiver<()>,
}

/// Tells that a thread has ended, in whatever way.
struct Ends(mpsc::Sender<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        // The first word is enough, and at the end nobody listens.
        let _ = self.0.try_send(());
    }
}

/// Reads the journal back, and starts the threads that write it and look after it.
fn open_journal(
    config: &Config,
    disk: Arc<dyn Disk>,
    clock: &Clock,
    series: &Series,
) -> anyhow::Result<(Arc<Live>, Journal, Threads)> {
    let live = Arc::new(Live::new(config.live.clone()));
    let mut processor = Processor::new(Arc::clone(&live));
    let stopwatch = Stopwatch::start();
    let recovered = recovery::recover(&*disk, &live, &mut processor)?;
    series.recovery.set(&recovered, stopwatch.seconds(), &live);
    if let Some(saved_ms) = recovered.checkpoint_saved_ms {
        series.keeper.saved_at(saved_ms);
    }
    let (ended, sessions_ended) = std::sync::mpsc::channel();
    let processor = processor.telling(ended).counting(series.sessions.clone());
    tracing::info!(
        live_sessions = live.sessions(),
        unreported = live.unreported(),
        records = recovered.records,
        checkpoint_seq = recovered.checkpoint_seq,
        next_seq = recovered.start.next_seq,
        damaged = recovered.damaged,
        missing = recovered.missing,
        cut_bytes = recovered.cut_bytes,
        "the journal is read back"
    );
    let settings = config.journal.clone();
    let (closed, segments_closed) = std::sync::mpsc::channel();
    let timeouts = config.session.timeouts();
    let (journal, writer) = Writer::start(
        settings.clone(),
        timeouts,
        Arc::clone(&disk),
        clock.clone(),
        processor,
        recovered.start,
        Told { closed, series: series.journal.clone() },
    );
    let keeper = Keeper::new(settings, disk, clock.clone(), Arc::clone(&live), journal.clone())
        .counting(series.keeper.clone());
    let reporter = Reporter::new(Arc::clone(&live), journal.clone(), sessions_ended);
    let (ends, ended) = mpsc::channel(1);
    let [writer_ends, keeper_ends, reporter_ends] = [(); 3].map(|()| Ends(ends.clone()));
    let handles = [
        thread::Builder::new().name("journal".into()).spawn(|| {
            let _ends = writer_ends;
            writer.run();
        })?,
        thread::Builder::new().name("keeper".into()).spawn(move || {
            let _ends = keeper_ends;
            keeper.run(&segments_closed);
        })?,
        thread::Builder::new().name("reporter".into()).spawn(move || {
            let _ends = reporter_ends;
            reporter.run();
        })?,
    ];
    Ok((live, journal, Threads { handles, ends, ended }))
}

/// The TLS of a listener, if it has one, and who sees its files change.
fn open_tls(
    pair: Option<tls::Pair>,
    clock: &Clock,
    counts: &Arc<Counts>,
) -> anyhow::Result<(Option<Arc<Tls>>, Option<Follower>)> {
    let Some(pair) = pair else { return Ok((None, None)) };
    let (tls, follower) = Tls::open(pair, clock.clone(), Arc::clone(counts))?;
    Ok((Some(tls), Some(follower)))
}

fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    connections::listen(address)
        .with_context(|| format!("cannot listen on {address} ({key}); choose another address"))
}

/// Ends the sessions whose time has run out, until aborted.
async fn tick_deadlines(app: App, _ends: Ends) {
    let mut ticks = interval(DEADLINES_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        app.collector().close_due().await;
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

/// Raises the limit of open files as far as the system lets us, says so, and keeps the cap of
/// connections below it.
fn fit_to_open_files(settings: &mut http::Settings) {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return;
    };
    tracing::info!(from = before.current, to = limit, "limit of open files");
    let room = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(FILES_RESERVED).max(1);
    if settings.connections_max > room {
        tracing::warn!(
            configured = settings.connections_max,
            connections_max = room,
            "http.connections_max is lowered to fit the limit of open files"
        );
        settings.connections_max = room;
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
