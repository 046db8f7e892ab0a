//! The server that is attacked: a process of our own, watched and ended.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytesize::ByteSize;
use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;

use crate::memory_group::MemoryGroup;

/// The folder of its data, in a folder of its own.
const DATA: &str = "data";

/// What the line of the log is about that a server writes once it serves.
const START: &str = "mediatally::start";

/// How often its memory is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How many lines of its log are kept for when it does not start.
const LINES_MAX: usize = 20;

/// What bounds the server.
#[derive(Debug)]
pub(crate) struct Bounds<'b> {
    /// Its own setting.
    pub(crate) memory_max: Option<&'b str>,
    /// A group of the kernel around it.
    pub(crate) group: Option<ByteSize>,
    /// Where this bench ends it.
    pub(crate) stop_at: ByteSize,
}

/// A server that runs beside this program and is ended with it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) listen: SocketAddr,
    pub(crate) admin_listen: SocketAddr,
    watched: Arc<Watched>,
    watch: Option<JoinHandle<()>>,
    // In this order: the folder can go once the process has, and so can the group.
    folder: TempDir,
    _group: Option<MemoryGroup>,
}

/// What the thread knows that watches the process.
#[derive(Debug)]
struct Watched {
    child: Mutex<Child>,
    peak_bytes: AtomicU64,
    is_over: AtomicBool,
    death: Mutex<Option<String>>,
}

/// What became of a server.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) peak_bytes: u64,
    /// How it ended before it was told to.
    pub(crate) death: Option<String>,
}

impl Server {
    /// Starts this program with a fresh folder and these settings in its environment.
    pub(crate) fn start(
        program: &Path,
        settings: &[(&str, &str)],
        bounds: &Bounds<'_>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("a temporary folder")?;
        let group = bounds.group.and_then(|size| MemoryGroup::make(size).ok());
        let program = program.canonicalize().with_context(|| program.display().to_string())?;
        let mut command = match &group {
            None => Command::new(&program),
            Some(group) => {
                // It enters the group before it becomes the server, so that all it takes is counted.
                let mut command = Command::new("sh");
                command.args(["-c", "echo $$ >\"$1\" && shift && exec \"$@\"", "sh"]);
                command.arg(group.processes()).arg(&program);
                command
            }
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MEDIATALLY_") {
                command.env_remove(name);
            }
        }
        if let Some(max) = bounds.memory_max {
            command.env("MEDIATALLY_MEMORY__MAX", max);
        }
        let mut child = command
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"])
            .arg(folder.path().join(DATA))
            .env("MEDIATALLY_LOG__FORMAT", "json")
            .envs(settings.iter().copied())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("the server starts")?;
        let log = child.stderr.take().context("standard error is piped")?;
        let id = child.id();
        let watched = Arc::new(Watched {
            child: Mutex::new(child),
            peak_bytes: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            death: Mutex::new(None),
        });
        let watch = std::thread::spawn({
            let (watched, stop_at) = (Arc::clone(&watched), bounds.stop_at.as_u64());
            move || watched.watch(id, stop_at)
        });
        let unspecified = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self {
            listen: unspecified,
            admin_listen: unspecified,
            watched,
            watch: Some(watch),
            folder,
            _group: group,
        };
        (server.listen, server.admin_listen) = read_start(log)?;
        Ok(server)
    }

    /// Where it keeps its data.
    pub(crate) fn data_folder(&self) -> PathBuf {
        self.folder.path().join(DATA)
    }

    /// Ends it and says what became of it.
    pub(crate) fn stop(mut self) -> Outcome {
        self.end();
        Outcome {
            peak_bytes: self.watched.peak_bytes.load(Ordering::Relaxed),
            death: self.watched.death.lock().take(),
        }
    }

    fn end(&mut self) {
        self.watched.is_over.store(true, Ordering::Relaxed);
        if let Some(watch) = self.watch.take() {
            let _ = watch.join();
        }
        let mut child = self.watched.child.lock();
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

impl Watched {
    fn watch(&self, id: u32, stop_at: u64) {
        let mut is_last = false;
        while !is_last {
            // One more look after the end, for what was taken since the last.
            is_last = self.is_over.load(Ordering::Relaxed);
            let peak = peak_bytes(id).unwrap_or(0);
            self.peak_bytes.fetch_max(peak, Ordering::Relaxed);
            let mut child = self.child.lock();
            if let Ok(Some(status)) = child.try_wait() {
                *self.death.lock() = Some(format!("died: {status}"));
                return;
            }
            if peak > stop_at {
                *self.death.lock() = Some("ended by the bench: too much memory".to_owned());
                let _ = child.kill();
                return;
            }
            drop(child);
            if !is_last {
                std::thread::sleep(LOOK);
            }
        }
    }
}

/// The most memory that a process has held, in bytes.
fn peak_bytes(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

/// Reads the log up to the start line and gives the addresses in it; the rest is read and thrown away, because a
/// full pipe would hold the server up.
fn read_start(log: ChildStderr) -> anyhow::Result<(SocketAddr, SocketAddr)> {
    let mut lines = BufReader::new(log).lines().map_while(Result::ok);
    let mut last = VecDeque::new();
    for text in lines.by_ref() {
        let line: Value = serde_json::from_str(&text).unwrap_or_default();
        if line["target"] == START {
            let address = |key: &str| -> anyhow::Result<SocketAddr> {
                Ok(line[key].as_str().context("the start line tells the addresses")?.parse()?)
            };
            let addresses = (address("listen")?, address("admin_listen")?);
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(addresses);
        }
        if last.len() == LINES_MAX {
            last.pop_front();
        }
        last.push_back(text);
    }
    bail!("the server does not start:\n{}", Vec::from(last).join("\n"))
}
