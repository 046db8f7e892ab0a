//! How long a start takes with a long journal, and with an order to erase that is not carried out.
//!
//! `cargo bench --bench restart` writes a journal of `MEDIATALLY_BENCH_RECORDS` (3 400 000) records in a temporary
//! folder: live sessions with the documented start and ten pings each, a thousandth of them of one visitor. Then it
//! prints how long it takes until a server is ready
//!
//! - without an order,
//! - with one of which nothing is begun,
//! - with the same once that server was killed in the middle of it, and once more,
//!
//! and what the keeper of the journal did until the order was carried out. Nothing of the visitor may be left then,
//! and `verify` must find nothing wrong. `MEDIATALLY_BENCH_PROGRAM` measures another binary, such as the one of a
//! version before. It stops by itself, at most half an hour after it began.

#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use mediatally::clock::{Clock, Stopwatch};
use mediatally::journal::erase::order::{self, Order};
use mediatally::journal::erase::{Selection, Visitor};
use mediatally::journal::record::{Content, Encoded};
use mediatally::journal::segment;
use mediatally::session::id::{Key, SessionId};

const BODY: &str = include_str!("../tests/it/data/session-start.json");

/// What the line of the log is about that a server writes once it serves.
const START: &str = "mediatally::start";

/// How many pings each session sends.
const PINGS: u64 = 10;

/// How many visitors there are.
const VISITORS: u64 = 1_000;

/// How large a segment grows before it is closed, as the default of the setting.
const SEGMENT_BYTES: usize = 256 << 20;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(10);

fn main() {
    let records = std::env::var("MEDIATALLY_BENCH_RECORDS").ok();
    let records = records.and_then(|text| text.parse().ok()).unwrap_or(3_400_000_u64);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    write_journal(&data, records / (1 + PINGS));
    println!("{} of journal", bytes_of(&data.join("journal")));

    let server = Server::start(&data);
    server.print("without an order");
    server.kill();
    let selection = Selection::Visitor(vec![Visitor::new("user".into(), "u7".into())]);
    let order = Order::new("0123456789abcdef".into(), Clock::system().now_ms(), selection);
    assert!(order::place(&data, &order).expect("the order is placed"));
    let mut server = Server::start(&data);
    server.print("with one that nobody has begun");
    for _ in 0..2 {
        thread::sleep(Duration::from_secs(8));
        if !stands(&data) {
            break;
        }
        server.kill();
        server = Server::start(&data);
        server.print("with one that was broken off");
    }
    let stopwatch = Stopwatch::start();
    let (mut checkpoints, mut compressed) = (BTreeSet::new(), BTreeSet::new());
    while stands(&data) {
        assert!(stopwatch.seconds() < PATIENCE.as_secs_f64(), "it is not carried out");
        for name in names(&data.join("journal")) {
            if name.starts_with("checkpoint-") && !name.contains('.') {
                checkpoints.insert(name);
            } else if segment::is_compressed(&name) == Some(true) {
                compressed.insert(name);
            }
        }
        server.post();
        thread::sleep(Duration::from_millis(200));
    }
    println!("carried out after                      {:>6.1} s more", stopwatch.seconds());
    println!(
        "meanwhile {} checkpoints and {} compressed segments were there",
        checkpoints.len(),
        compressed.len()
    );
    drop(server);
    let mut verify = Command::new(program());
    let verified = verify.arg("verify").arg("--data-dir").arg(&data).output().expect("verify runs");
    print!("{}", String::from_utf8_lossy(&verified.stdout));
    let dry = Command::new(program())
        .args(["erase", "--dry-run", "--visitor", "user=u7", "--data-dir"])
        .arg(&data)
        .output()
        .expect("the command runs");
    print!("{}", String::from_utf8_lossy(&dry.stdout));
}

/// Writes a journal as a server would have that was killed: no checkpoint, all but the last segment compressed.
fn write_journal(data: &Path, sessions: u64) {
    std::fs::create_dir_all(data.join("journal")).expect("a folder");
    let key = Key::new([7; Key::BYTES]);
    std::fs::write(data.join("session.key"), key.to_secret_hex()).expect("the key is written");
    // The last round is now.
    let begin_ms = Clock::system().now_ms() - PINGS * 10_000;
    let mut start: serde_json::Value = serde_json::from_str(BODY).expect("the documented body");
    let ids: Vec<_> = (0..sessions)
        .map(|number| {
            let mut random = [0; 10];
            // The bytes before hold bits of the version.
            random[4..].copy_from_slice(&number.to_be_bytes()[2..]);
            SessionId::mint(&key, begin_ms, random)
        })
        .collect();
    let mut out =
        Segments { folder: data.join("journal"), first_seq: 1, next_seq: 1, lines: Vec::new() };
    for (number, sid) in (0..).zip(&ids) {
        start["customMetadata"]["user"] = format!("u{}", number % VISITORS).into();
        let body = start.to_string();
        let body = body.as_bytes().into();
        let content =
            Content::Start { sid: *sid, client: Some("192.0.2.0".into()), user_agent: None, body };
        out.add(content, begin_ms);
    }
    for round in 1..=PINGS {
        for sid in &ids {
            let ts = 1_700_000_000_000 + round * 10_000;
            let body = format!(
                r#"{{"eventType":"ping","playerTime":{{"playhead":{},"ts":{ts}}}}}"#,
                round * 10
            );
            let body = body.as_bytes().into();
            out.add(Content::Event { sid: *sid, body }, begin_ms + round * 10_000);
        }
    }
    out.close(false);
}

/// Segments that are written one after the other.
struct Segments {
    folder: PathBuf,
    first_seq: u64,
    next_seq: u64,
    lines: Vec<u8>,
}

impl Segments {
    fn add(&mut self, content: Content<'_>, received_ms: u64) {
        let record = Encoded::new(content).expect("it is far from the bound");
        record.write_line(&mut self.lines, self.next_seq, received_ms);
        self.next_seq += 1;
        if self.lines.len() >= SEGMENT_BYTES {
            self.close(true);
        }
    }

    fn close(&mut self, is_compressed: bool) {
        let bytes = std::mem::take(&mut self.lines);
        let (name, bytes) = if is_compressed {
            let bytes = zstd::encode_all(&bytes[..], 3).expect("memory takes it");
            (segment::closed_name(self.first_seq), bytes)
        } else {
            (segment::open_name(self.first_seq), bytes)
        };
        std::fs::write(self.folder.join(name), bytes).expect("the segment is written");
        self.first_seq = self.next_seq;
    }
}

fn program() -> PathBuf {
    let other = std::env::var_os("MEDIATALLY_BENCH_PROGRAM");
    other.map_or_else(|| env!("CARGO_BIN_EXE_mediatally").into(), PathBuf::from)
}

/// Whether the order is not carried out yet.
fn stands(data: &Path) -> bool {
    data.join("erase.json").exists()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn bytes_of(folder: &Path) -> bytesize::ByteSize {
    let files = names(folder).into_iter();
    let bytes = files.filter_map(|name| std::fs::metadata(folder.join(name)).ok());
    bytesize::ByteSize::b(bytes.map(|metadata| metadata.len()).sum())
}

/// A server that runs beside this program and is ended with it.
struct Server {
    child: Child,
    address: String,
    /// How long it took until it served, and how much CPU time, in s.
    ready_s: f64,
    ready_cpu_s: f64,
}

impl Server {
    fn start(data: &Path) -> Self {
        let mut command = Command::new(program());
        let addresses = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        command.args(addresses).arg("--data-dir").arg(data).stderr(Stdio::piped()).envs([
            ("MEDIATALLY_LOG__FORMAT", "json"),
            ("MEDIATALLY_LIVE__BYTES_MAX", "16GiB"),
            ("MEDIATALLY_MEMORY__MAX", "16GiB"),
            ("MEDIATALLY_JOURNAL__CHECKPOINT_INTERVAL", "10s"),
            ("MEDIATALLY_JOURNAL__SEGMENT_AGE_MAX", "2s"),
        ]);
        let stopwatch = Stopwatch::start();
        let mut child = command.spawn().expect("the server starts");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(&line).ok()?;
            (line["target"] == START).then(|| line["listen"].as_str().map(str::to_owned))?
        });
        let (ready_s, ready_cpu_s) = (stopwatch.seconds(), cpu_s(&child));
        // What it says later must not fill the pipe.
        thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self {
            child,
            address: address.expect("the server tells its address"),
            ready_s,
            ready_cpu_s,
        }
    }

    fn print(&self, how: &str) {
        let Self { ready_s, ready_cpu_s, .. } = self;
        println!("ready {how:<32} {ready_s:>6.1} s, {ready_cpu_s:>6.1} s of CPU");
    }

    /// Posts a start, so that something is written.
    fn post(&self) {
        let Ok(mut stream) = std::net::TcpStream::connect(&self.address) else { return };
        let request = format!(
            "POST /api/v1/sessions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{BODY}",
            BODY.len()
        );
        let _ = stream.write_all(request.as_bytes());
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    }

    fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it has ended");
    }
}

/// The CPU time that a process has used, in s.
fn cpu_s(child: &Child) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("it runs");
    // Behind the name, which may hold blanks; in hundredths of a second on every Linux.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
