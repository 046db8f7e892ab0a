//! A server on a free port with a folder and a clock of its own, and the program as a process.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use command_fds::CommandFdExt as _;
use mediatally::clock::Clock;
use mediatally::collector::Collector;
use mediatally::commands::serve::{Server, Stop};
use mediatally::config::Config;
use mediatally::http::App;
use mediatally::http::connections::Counts;
use mediatally::limits::memory::Kind;
use mediatally::live::Live;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The body that the documentation shows.
pub(crate) const SAMPLE: &str = include_str!("data/session-start.json");

/// How long a test waits for what must happen; only a failure ever waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long it waits for much of it, as long as there is more and more.
const LONG_PATIENCE: Duration = Duration::from_mins(5);

/// When the clock of a test server stands still at first, in ms since the Unix epoch.
pub(crate) const NOW_MS: u64 = 1_700_000_000_000;

/// A server inside the test.
pub(crate) struct TestServer {
    pub(crate) listen: SocketAddr,
    pub(crate) admin_listen: SocketAddr,
    pub(crate) clock: Clock,
    pub(crate) folder: TempDir,
    pub(crate) client: reqwest::Client,
    pub(crate) public_counts: Arc<Counts>,
    pub(crate) admin_counts: Arc<Counts>,
    app: App,
    stops: mpsc::Sender<Stop>,
    running: JoinHandle<std::process::ExitCode>,
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A server with other settings than the defaults.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::on(tempfile::tempdir().unwrap(), Clock::manual(NOW_MS), change).await
    }

    /// A server on what another one has left in a folder, and by this clock.
    pub(crate) async fn on(
        folder: TempDir,
        clock: Clock,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            admin_listen: "127.0.0.1:0".parse().unwrap(),
            data_dir: folder.path().join("data"),
            ..Config::default()
        };
        change(&mut config);
        let server = Server::start(config, clock.clone()).await.unwrap();
        let (stops, receiver) = mpsc::channel(2);
        Self {
            listen: server.doors.listen,
            admin_listen: server.doors.admin_listen,
            clock,
            folder,
            client: client(),
            public_counts: Arc::clone(&server.doors.public_counts),
            admin_counts: Arc::clone(&server.doors.admin_counts),
            app: server.app.clone(),
            stops,
            running: tokio::spawn(server.run(receiver)),
        }
    }

    /// How much of one kind outsiders make the server hold.
    pub(crate) fn held(&self, kind: Kind) -> usize {
        let mut all = self.app.memory().usage();
        all.find(|usage| usage.kind == kind).unwrap().used
    }

    pub(crate) fn live(&self) -> &Live {
        self.collector().live()
    }

    pub(crate) fn collector(&self) -> &Collector {
        self.app.collector()
    }

    /// Does what the server does by itself several times a second: closes the sessions whose deadline has
    /// come, and writes their reports.
    pub(crate) async fn close_due(&self) {
        self.app.collector().close_due().await;
        // The server itself may just be at it, and reports are written by a thread of their own.
        let live = self.live();
        let now_ms = self.clock.now_ms();
        until(|| live.due(now_ms) == 0 && live.unreported() == 0).await;
    }

    /// Moves the clock to this time, in ms since the Unix epoch, and does what is due by then.
    pub(crate) async fn set_clock(&self, now_ms: u64) {
        self.clock.advance(now_ms - self.clock.now_ms());
        self.close_due().await;
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    pub(crate) fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin_listen)
    }

    /// Posts a body to `/api/v1/sessions`.
    pub(crate) async fn post(&self, body: impl Into<reqwest::Body>) -> reqwest::Response {
        self.client.post(self.url("/api/v1/sessions")).body(body).send().await.unwrap()
    }

    pub(crate) async fn stop(&self, stop: Stop) {
        self.stops.send(stop).await.unwrap();
    }

    /// Stops the server in order; gives its folder.
    pub(crate) async fn stopped(self) -> TempDir {
        self.stop(Stop::Now).await;
        assert_eq!(within(self.running).await.unwrap(), std::process::ExitCode::SUCCESS);
        self.folder
    }

    /// Waits until the server has ended.
    pub(crate) async fn ended(self) -> std::process::ExitCode {
        within(self.running).await.unwrap()
    }

    pub(crate) async fn connect(&self) -> Raw {
        Raw::connect(self.listen).await
    }
}

pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}

/// Fails the test if it takes longer than anyone would wait.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("this should have happened long ago")
}

/// Waits until something holds that nothing announces.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    within(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Waits until something holds that comes with much work, which a figure tells of: a slow machine may need long
/// for it, but a figure that stands still is a failure.
pub(crate) async fn until_much_is_done(
    figure: impl Fn() -> usize,
    mut holds: impl FnMut() -> bool,
) {
    let all = async {
        while !holds() {
            let before = figure();
            until(|| figure() > before || holds()).await;
        }
    };
    tokio::time::timeout(LONG_PATIENCE, all).await.expect("so much is not needed for it");
}

/// The name of every file below a folder, and what it holds, unpacked.
pub(crate) fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    // A running server may rename or remove a file after it was listed; then all are looked at anew, so that
    // none is missed.
    while folder.is_dir() {
        let mut found = Vec::new();
        match add_files(folder, &mut found) {
            Ok(()) => return found,
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
        }
    }
    panic!("there is no folder {}", folder.display());
}

fn add_files(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            add_files(&path, found)?;
            continue;
        }
        let bytes = std::fs::read(&path)?;
        let is_packed = path.extension().is_some_and(|extension| extension == "zst");
        let bytes = if is_packed { zstd::decode_all(&*bytes)? } else { bytes };
        found.push((path.display().to_string(), bytes));
    }
    Ok(())
}

pub(crate) fn count(figure: &AtomicU64) -> u64 {
    figure.load(Ordering::Relaxed)
}

/// Waits until a figure has this value.
pub(crate) async fn until_it_is(figure: &AtomicU64, value: u64) {
    until(|| count(figure) == value).await;
}

/// A connection on which a test says exactly what it means.
pub(crate) struct Raw<S = TcpStream>(pub(crate) S);

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub(crate) async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.try_send(text).await.unwrap();
    }

    pub(crate) async fn try_send(&mut self, text: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.0.write_all(text.as_ref()).await?;
        self.0.flush().await
    }

    /// The next answer: its head and its body, by its `Content-Length`; nothing if the server closed.
    pub(crate) async fn answer(&mut self) -> Option<(String, String)> {
        within(async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match self.0.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => return None,
                }
            }
            let head = String::from_utf8(head).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            self.0.read_exact(&mut body).await.unwrap();
            Some((head, String::from_utf8(body).unwrap()))
        })
        .await
    }

    /// Waits until the server closes; gives what it said before.
    pub(crate) async fn closed(&mut self) -> String {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = within(self.0.read_to_end(&mut rest)).await;
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// A whole request that posts a session start.
pub(crate) fn post_request(body: &str) -> String {
    format!(
        "POST /api/v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The log of a process, read as it comes: a full pipe would hold the process up.
struct Log {
    lines: mpsc::UnboundedReceiver<String>,
    reading: JoinHandle<()>,
}

impl Log {
    fn follow(stderr: ChildStderr) -> Self {
        let (sender, lines) = mpsc::unbounded_channel();
        let reading = tokio::spawn(async move {
            let mut read = BufReader::new(stderr).lines();
            while let Some(line) = read.next_line().await.unwrap() {
                // Whoever wanted it may have gone.
                let _ = sender.send(line);
            }
        });
        Self { lines, reading }
    }

    /// The next line; nothing at the end.
    async fn next(&mut self) -> Option<String> {
        self.lines.recv().await
    }

    /// Reads no more, so that what is written fails from now on.
    async fn close(self) {
        self.reading.abort();
        let _ = self.reading.await;
    }
}

/// The program as a process, with its log lines.
pub(crate) struct Process {
    child: Child,
    log: Option<Log>,
    pub(crate) listen: String,
    pub(crate) admin_listen: String,
    /// The log line that tells what was read back from the journal.
    pub(crate) read_back: Value,
    /// The log lines that were read.
    pub(crate) seen: Vec<String>,
}

impl Process {
    /// A command of the program with no settings but those given.
    pub(crate) fn command(folder: &Path) -> Command {
        Self::bare(Command::new(env!("CARGO_BIN_EXE_mediatally")), folder)
    }

    fn bare(mut command: Command, folder: &Path) -> Command {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MEDIATALLY_") {
                command.env_remove(name);
            }
        }
        command.current_dir(folder).kill_on_drop(true).stdin(Stdio::null());
        command
    }

    /// Starts the server in `folder`, with these settings in its environment, and reads its start line.
    pub(crate) async fn start(folder: &Path, settings: &[(&str, &str)]) -> Self {
        let mut process = Self::spawn(folder, settings);
        process.started(folder).await;
        process
    }

    /// Starts the server like that, and waits only until it listens and reads its journal back.
    pub(crate) async fn begin(folder: &Path, settings: &[(&str, &str)]) -> Self {
        let mut process = Self::spawn(folder, settings);
        let line = process
            .line(|line| {
                let message = line["message"].as_str().unwrap();
                message.starts_with("the journal is being read back")
            })
            .await;
        process.note_addresses(&line);
        process
    }

    /// Reads the log up to the start line.
    pub(crate) async fn started(&mut self, folder: &Path) {
        let line = self.line(|line| line["target"] == "mediatally::start").await;
        self.note_addresses(&line);
        assert_eq!(line["version"], env!("CARGO_PKG_VERSION"));
        let data_dir = PathBuf::from(line["data_dir"].as_str().unwrap());
        assert_eq!(data_dir, folder.join("data").canonicalize().unwrap());
    }

    /// Reads the log up to a line.
    async fn line(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        let log = self.log.as_mut().expect("the log is read");
        within(async {
            loop {
                let text = log.next().await.expect("a line more");
                let line: Value =
                    serde_json::from_str(&text).expect("logs are JSON off a terminal");
                self.seen.push(text);
                if line["message"] == "the journal is read back" {
                    self.read_back = line.clone();
                }
                if is_it(&line) {
                    return line;
                }
            }
        })
        .await
    }

    fn note_addresses(&mut self, line: &Value) {
        let text = |key: &str| line[key].as_str().unwrap().to_owned();
        (self.listen, self.admin_listen) = (text("listen"), text("admin_listen"));
    }

    /// Starts the server like that, with sockets for players and operators that are open already, passed as systemd
    /// does.
    pub(crate) fn spawn_with_sockets(
        folder: &Path,
        settings: &[(&str, &str)],
        sockets: [&std::net::TcpListener; 2],
    ) -> Self {
        // The number of the process is known only in itself.
        let mut command = Command::new("sh");
        command.args(["-c", "LISTEN_PID=$$ exec \"$0\"", env!("CARGO_BIN_EXE_mediatally")]);
        command.envs([("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "mediatally.socket:admin")]);
        let mappings = std::iter::zip(sockets, 3..).map(|(socket, child_fd)| {
            let parent_fd = socket.try_clone().unwrap().into();
            command_fds::FdMapping { parent_fd, child_fd }
        });
        command.fd_mappings(mappings.collect()).unwrap();
        Self::spawn_by(command, folder, settings)
    }

    fn spawn(folder: &Path, settings: &[(&str, &str)]) -> Self {
        Self::spawn_by(Command::new(env!("CARGO_BIN_EXE_mediatally")), folder, settings)
    }

    fn spawn_by(command: Command, folder: &Path, settings: &[(&str, &str)]) -> Self {
        let mut child = Self::bare(command, folder)
            .envs([
                ("MEDIATALLY_LISTEN", "127.0.0.1:0"),
                ("MEDIATALLY_ADMIN_LISTEN", "127.0.0.1:0"),
            ])
            .envs(settings.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Log::follow(child.stderr.take().unwrap());
        let (listen, admin_listen) = (String::new(), String::new());
        Self {
            child,
            log: Some(log),
            listen,
            admin_listen,
            read_back: Value::Null,
            seen: Vec::new(),
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    pub(crate) fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin_listen)
    }

    /// Reads its log no more; what it writes fails from now on.
    pub(crate) async fn close_log(&mut self) {
        if let Some(log) = self.log.take() {
            log.close().await;
        }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id().expect("it runs")).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal)
            .unwrap();
    }

    /// Waits until it has ended; gives its exit status and the log lines that were not read yet.
    pub(crate) async fn ended(mut self) -> (ExitStatus, Vec<String>) {
        within(async {
            let mut lines = Vec::new();
            if let Some(log) = &mut self.log {
                while let Some(line) = log.next().await {
                    lines.push(line);
                }
            }
            (self.child.wait().await.unwrap(), lines)
        })
        .await
    }
}
