//! The rooms behind the doors: built once the journal is read back.

use std::io;
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use tokio::sync::mpsc;

use crate::clock::{Clock, Stopwatch};
use crate::collector::Collector;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::http::{App, Connections, Health, Parts};
use crate::journal::archive::Archive;
use crate::journal::disk::{Disk, Folder};
use crate::journal::erase::{LeftOut, leave_out, order};
use crate::journal::{Ids, Journal, Keeper, Told, Writer, recovery};
use crate::limits::Limits;
use crate::limits::memory::{Kind, Memory};
use crate::live::Live;
use crate::privacy;
use crate::processor::Processor;
use crate::rejects::Rejects;
use crate::reporter::Reporter;
use crate::session::id::Key;
use crate::telemetry::series::Series;
use crate::unlisted::UnlistedNames;

/// What doors and rooms share.
pub(super) struct Seams {
    pub(super) health: Health,
    pub(super) series: Arc<Series>,
    pub(super) connections: Connections,
    pub(super) memory: Memory,
}

/// What stands behind the doors.
pub(super) struct Rooms {
    pub(super) app: App,
    pub(super) threads: Threads,
    pub(super) rejects_thread: thread::JoinHandle<()>,
    pub(super) data_dir: DataDir,
}

impl Rooms {
    /// Reads the journal back and builds the rooms, which may take minutes.
    ///
    /// # Errors
    /// The folder that cannot be used.
    pub(super) fn build(
        mut config: Config,
        key: Key,
        clock: Clock,
        seams: Seams,
        data_dir: DataDir,
    ) -> anyhow::Result<Self> {
        // Of their own bounds and the account the smaller binds.
        config.live.bytes_max = seams.memory.ceiling_size(Kind::Live);
        config.journal.uncommitted_bytes_max = seams.memory.ceiling_size(Kind::Journal);
        let path = data_dir.journal();
        let disk =
            Folder::make(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let left_out = left_out_of(&data_dir, &disk, &clock)?;
        let (rejects, refused) = Rejects::new(&config.rejects, data_dir.path(), &clock);
        let rejects_thread =
            thread::Builder::new().name("rejects".into()).spawn(|| refused.run())?;
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let archive = Archive::new(Arc::clone(&disk));
        let purger = rejects.purger();
        let home = Arc::new(Folder::private_at(data_dir.path()));
        let ids = left_out.as_ref().map(|left_out| left_out.ids.clone()).unwrap_or_default();
        let erasing = |keeper: Keeper| {
            keeper.erasing(home, Box::new(move |judge, meter| purger.purge(judge, meter)), left_out)
        };
        let opened = open_journal(&config, disk, &clock, &seams.series, &ids, erasing);
        let (live, journal, threads) =
            opened.with_context(|| format!("cannot open the journal {}", path.display()))?;
        let limits = Limits::new(&config.limits, &clock);
        let redactor = config.privacy.redactor(&key);
        let unlisted = config.privacy.unlisted();
        if !unlisted.is_empty() {
            let names: Vec<_> = unlisted.iter().map(|(_, name)| *name).collect();
            tracing::info!(?names, "{}", privacy::UNLISTED);
        }
        // They are of the same kind as refused bodies, and get no older.
        let names = UnlistedNames::new(config.rejects.retention);
        let collector = Collector::new(key, config.validation, clock, live, journal, limits, names)
            .redacting(redactor);
        let app = App::new(Parts {
            collector,
            health: seams.health,
            settings: config.http,
            privacy: config.privacy,
            rejects,
            archive,
            series: seams.series,
            connections: seams.connections,
            memory: seams.memory,
        });
        Ok(Self { app, threads, rejects_thread, data_dir })
    }
}

/// The threads of the journal.
#[derive(Debug)]
pub(super) struct Threads {
    pub(super) handles: [thread::JoinHandle<()>; 3],
    /// Tells that one of them has ended, or what else the server cannot go on without.
    pub(super) ends: mpsc::Sender<()>,
    pub(super) ended: mpsc::Receiver<()>,
}

/// Tells that a thread has ended, in whatever way.
pub(super) struct Ends(pub(super) mpsc::Sender<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        // The first word is enough, and at the end nobody listens.
        let _ = self.0.try_send(());
    }
}

/// What is left out because an erasure was ordered and is not done. Nobody waits for it: it is carried out while the
/// server runs.
fn left_out_of(
    data_dir: &DataDir,
    disk: &Folder,
    clock: &Clock,
) -> anyhow::Result<Option<LeftOut>> {
    let home = Folder::private_at(data_dir.path());
    if let Err(error) = remove_old_orders(data_dir, &home, clock) {
        tracing::warn!(%error, "what is left of older orders to erase cannot be removed");
    }
    let left_out = leave_out(&home, disk).with_context(|| {
        let path = data_dir.path().display();
        format!("an erasure was ordered in {path}, and what it means cannot be found")
    })?;
    if let Some(left_out) = &left_out {
        tracing::info!(
            sessions = left_out.ids.as_slice().len(),
            "an erasure was ordered and is not done: its sessions are left out, and it goes on while the server runs"
        );
    }
    Ok(left_out)
}

fn remove_old_orders(data_dir: &DataDir, home: &Folder, clock: &Clock) -> io::Result<()> {
    order::remove_half_given(data_dir.path())?;
    order::remove_old(home, clock.now_ms())
}

/// Reads the journal back, and starts the threads that write it and look after it.
fn open_journal(
    config: &Config,
    disk: Arc<dyn Disk>,
    clock: &Clock,
    series: &Series,
    left_out: &Ids,
    erasing: impl FnOnce(Keeper) -> Keeper,
) -> anyhow::Result<(Arc<Live>, Journal, Threads)> {
    let live = Arc::new(Live::shared(config.live.clone(), config.memory.client_share));
    let mut processor = Processor::new(Arc::clone(&live));
    let stopwatch = Stopwatch::start();
    let recovered = recovery::recover(&*disk, &live, &mut processor, left_out)?;
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
    let terms = config.session.terms();
    let (journal, writer) = Writer::start(
        settings.clone(),
        terms,
        Arc::clone(&disk),
        clock.clone(),
        processor,
        recovered.start,
        Told { closed, series: series.journal.clone() },
    );
    journal.fence(left_out);
    let keeper = Keeper::new(settings, disk, clock.clone(), Arc::clone(&live), journal.clone())
        .counting(series.keeper.clone());
    let keeper = erasing(keeper);
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
