//! What a session start and a ping cost, next to no-op axum routes in the same run.
//!
//! `cargo bench --bench collect` starts both servers on free loopback ports, sends the documented start
//! and then pings of 5 000 sessions from 64 connections to each in turn (with `wrk`, which must be
//! installed), and prints requests a second and the server's own CPU time a request. Machines are noisy;
//! compare the ratio.
//! `MEDIATALLY_BENCH_SECONDS` (5) and `MEDIATALLY_BENCH_ROUNDS` (3) bound the run.
//!
//! `cargo bench --bench collect -- memory` opens `MEDIATALLY_BENCH_SESSIONS` (100 000) sessions with the
//! documented start, sends each a `play` and two pings, and prints what a session costs in memory.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints what it measured")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use std::path::Path;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderName, StatusCode, header};
use axum::routing::post;

const BODY: &str = include_str!("../tests/it/data/session-start.json");

const CONNECTIONS: &str = "-c64";

/// What the line of the log is about that a server writes once it serves.
const START: &str = "mediatally::start";

/// How many sessions send pings.
const SESSIONS: usize = 5_000;

fn main() {
    if std::env::args().any(|argument| argument == "--noop") {
        return serve_noop();
    }
    if std::env::args().any(|argument| argument == "memory") {
        return measure_memory();
    }
    let seconds = setting("MEDIATALLY_BENCH_SECONDS", 5);
    let rounds = setting("MEDIATALLY_BENCH_ROUNDS", 3);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let starts = folder.path().join("start.lua");
    let lua = format!(
        "wrk.method = 'POST'\nwrk.path = '/api/v1/sessions'\nwrk.body = [==[\n{BODY}]==]\n"
    );
    std::fs::write(&starts, lua).expect("the script of wrk");

    let noop = Server::start(
        "no-op",
        Command::new(std::env::current_exe().expect("this program")).arg("--noop"),
    );
    let mediatally = Server::mediatally(folder.path());
    let pings = folder.path().join("ping.lua");
    let locations = mediatally.sessions(SESSIONS, &[]);
    std::fs::write(&pings, ping_script(&locations)).expect("the script of wrk");
    for (what, script) in [("session start", &starts), ("ping", &pings)] {
        println!("{what}");
        println!("{:<12} {:>12} {:>16} {:>9}", "server", "requests/s", "CPU µs/request", "non-2xx");
        for _ in 0..rounds {
            let base = noop.load(script, seconds);
            let ours = mediatally.load(script, seconds);
            println!("{:<12} {:>11.2} ×", "ratio", ours / base);
        }
    }
}

/// Opens many sessions and prints what each costs.
fn measure_memory() {
    let sessions = setting("MEDIATALLY_BENCH_SESSIONS", 100_000) as usize;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::mediatally(folder.path());
    // What comes with the first requests is not the sessions'.
    server.sessions(1_000, &EVENTS);
    let before = server.memory_bytes();
    server.sessions(sessions, &EVENTS);
    let grown = server.memory_bytes().saturating_sub(before);
    println!("{sessions} sessions: {} bytes each", grown / sessions);
}

/// What each session sends when memory is measured.
const EVENTS: [&str; 3] = [
    r#"{"eventType":"play","playerTime":{"playhead":0,"ts":1700000001000}}"#,
    r#"{"eventType":"ping","playerTime":{"playhead":10,"ts":1700000011000}}"#,
    r#"{"eventType":"ping","playerTime":{"playhead":20,"ts":1700000021000}}"#,
];

/// Each request is a ping of the next session; a round later the player has moved on by a second.
fn ping_script(locations: &[String]) -> String {
    let list: Vec<_> = locations.iter().map(|location| format!("'{location}/events'")).collect();
    format!(
        "local paths = {{{}}}\n\
         local n = 0\n\
         request = function()\n\
           local path, second = paths[n % #paths + 1], math.floor(n / #paths) + 1\n\
           n = n + 1\n\
           return wrk.format('POST', path, nil, string.format(\n\
             '{{\"eventType\":\"ping\",\"playerTime\":{{\"playhead\":%d,\"ts\":%d}}}}',\n\
             second, 1700000000000 + second * 1000))\n\
         end\n",
        list.join(",")
    )
}

fn setting(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The least that any server of this kind does: read the body, answer 201 with the same headers.
fn serve_noop() {
    let headers: [(HeaderName, &str); 7] = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_LENGTH, "0"),
        (
            header::LOCATION,
            "/api/v1/sessions/01a1fb86069571d1946e3626d26c44a963b24bdc2f8fb7ef444a94211fd89361",
        ),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "OPTIONS,POST,PUT"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Content-Type"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Location"),
    ];
    let created = {
        let headers = headers.clone();
        move |_: Bytes| async move { (StatusCode::CREATED, headers) }
    };
    let [.., origin, methods, allowed, exposed] = headers;
    let taken = [origin, methods, allowed, exposed];
    let no_content = move |_: Bytes| async move { (StatusCode::NO_CONTENT, taken) };
    let router: Router = Router::new()
        .route("/api/v1/sessions", post(created))
        .route("/api/v1/sessions/{sid}/events", post(no_content));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        eprintln!(
            "{{\"target\":\"{START}\",\"listen\":\"{}\"}}",
            listener.local_addr().expect("an address")
        );
        axum::serve(listener, router).await.expect("to serve");
    });
}

/// A server that runs beside this program and is ended with it.
struct Server {
    name: &'static str,
    child: Child,
    address: String,
}

impl Server {
    fn start(name: &'static str, command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the server starts");
        let lines = BufReader::new(child.stderr.take().expect("standard error is piped")).lines();
        let address = lines.map_while(Result::ok).find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(&line).ok()?;
            // It has listened before, while it read its journal back.
            (line["target"] == START).then(|| line["listen"].as_str().map(str::to_owned))?
        });
        Self { name, child, address: address.expect("the server tells its address") }
    }

    /// The server, with its data in this folder and room for all that comes.
    fn mediatally(folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mediatally"));
        let addresses = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        command.args(addresses).arg("--data-dir").arg(folder.join("data")).envs([
            ("MEDIATALLY_LOG__FORMAT", "json"),
            ("MEDIATALLY_LIVE__SESSIONS_MAX", "100000000"),
            ("MEDIATALLY_LIVE__BYTES_MAX", "16GiB"),
        ]);
        Self::start("mediatally", &mut command)
    }

    /// Starts sessions and sends each these events; gives their locations.
    fn sessions(&self, count: usize, events: &[&'static str]) -> Vec<String> {
        let url = format!("http://{}", self.address);
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let client = reqwest::Client::builder().no_proxy().build().expect("a client");
            let mut locations = Vec::with_capacity(count);
            while locations.len() < count {
                let one = || async {
                    let start = client.post(format!("{url}/api/v1/sessions")).body(BODY);
                    let started = start.send().await.expect("the server answers");
                    let location = started.headers()[header::LOCATION].to_str().expect("a path");
                    for event in events {
                        let posted = client.post(format!("{url}{location}/events")).body(*event);
                        let taken = posted.send().await.expect("the server answers");
                        assert_eq!(taken.status(), 204);
                    }
                    location.to_owned()
                };
                let some = (0..64.min(count - locations.len())).map(|_| one());
                locations.extend(futures_util::future::join_all(some).await);
            }
            locations
        })
    }

    /// The memory that the server holds for itself, in bytes.
    fn memory_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the server runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
        kib.expect("Linux tells it") << 10
    }

    /// Sends bodies for a while; gives the CPU time a request in µs.
    fn load(&self, script: &Path, seconds: u32) -> f64 {
        let before = self.cpu_us();
        let output = Command::new("wrk")
            .args(["-t1", CONNECTIONS, &format!("-d{seconds}s"), "-s"])
            .arg(script)
            .arg(format!("http://{}", self.address))
            .output()
            .expect("wrk runs; install it (Debian: apt-get install wrk)");
        let spent = self.cpu_us() - before;
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        let word_of = |line: &str, word: usize| -> Option<f64> {
            output.lines().find(|l| l.contains(line))?.split_whitespace().nth(word)?.parse().ok()
        };
        let requests = word_of("requests in", 0).unwrap_or_else(|| panic!("wrk said:\n{output}"));
        let rate = word_of("Requests/sec:", 1).unwrap_or(0.0);
        let failed = word_of("Non-2xx", 4).unwrap_or(0.0);
        let each = spent / requests;
        println!("{:<12} {rate:>12.0} {each:>16.2} {failed:>9}", self.name);
        let _ = std::io::stdout().flush();
        each
    }

    /// The CPU time that the server has used, user and system, in µs.
    #[expect(clippy::cast_precision_loss, reason = "no server runs long enough")]
    fn cpu_us(&self) -> f64 {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(path).expect("the server runs");
        // The name, which may hold blanks, ends with the last parenthesis; utime and stime are the
        // 14th and 15th fields, in hundredths of a second on every Linux.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse().unwrap_or(0)).sum();
        ticks as f64 * 10_000.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
