//! What orchestrators and load balancers ask.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use mediatally::commands::serve::Stop;
use mediatally::size::Size;
use rustix::process::Signal;
use serde_json::Value;

use crate::commands::run;
use crate::harness::{Process, Raw, SAMPLE, TestServer, client, post_request, within};
use crate::metrics::Scrape;

#[tokio::test]
async fn both_doors_tell_the_health() {
    let server = TestServer::start().await;
    for path in ["/livez", "/healthz", "/readyz"] {
        for url in [server.url(path), server.admin_url(path)] {
            let response = server.client.get(&url).send().await.unwrap();
            assert_eq!(response.status(), 200, "{url}");
            assert_eq!(response.headers()["cache-control"], "no-store");
            assert_eq!(response.text().await.unwrap(), "ok\n");
            assert_eq!(server.client.head(&url).send().await.unwrap().status(), 200);
        }
    }
}

/// The status and the text of an answer.
async fn told(url: String) -> (u16, String) {
    let response = client().get(url).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// Waits until readiness is told so, in a word, and gives what it tells an operator and anybody at length.
async fn becomes(server: &TestServer, status: u16, word: &str) -> (String, String) {
    within(async { while told(server.url("/readyz")).await != (status, format!("{word}\n")) {} })
        .await;
    let mut lines = Vec::new();
    for url in [server.admin_url("/readyz?verbose"), server.url("/readyz?verbose")] {
        let (found, text) = told(url).await;
        assert_eq!(found, status, "{text}");
        lines.push(text);
    }
    let (operators, anybodys) = (lines.remove(0), lines.remove(0));
    assert!(!anybodys.contains("memory"), "what the server holds is for operators");
    // Only an operator of a server that serves is told what it holds.
    let (memory, operators): (Vec<_>, Vec<_>) =
        operators.split_inclusive('\n').partition(|line| line.starts_with("[i]memory "));
    assert!(matches!(memory.len(), 0 | 6), "{memory:?}");
    let operators = operators.concat();
    // What is described is what is told.
    let (_, api) = told(server.url("/api/v1/openapi.json")).await;
    let api: Value = serde_json::from_str(&api).unwrap();
    let answers = &api["paths"]["/readyz"]["get"]["responses"][status.to_string()];
    let judge = jsonschema::draft202012::new(&answers["content"]["text/plain"]["schema"]).unwrap();
    for text in [format!("{word}\n"), anybodys.clone()] {
        assert!(judge.is_valid(&Value::from(text)), "{answers}");
    }
    assert!(!judge.is_valid(&Value::from("perhaps\n")));
    (operators, anybodys)
}

const GREEN: &str =
    "[+]draining ok\n[+]recovery ok\n[+]disk ok\n[+]room ok\n[+]sessions ok\nreadyz check passed\n";

#[tokio::test]
async fn a_disk_that_does_not_write_turns_readiness_red_until_it_does() {
    let server = TestServer::start().await;
    assert_eq!(becomes(&server, 200, "ok").await, (GREEN.to_owned(), GREEN.to_owned()));
    let (journal, away) =
        (server.folder.path().join("data/journal"), server.folder.path().join("away"));
    std::fs::rename(&journal, &away).unwrap();
    assert_eq!(server.post(SAMPLE).await.status(), 503);
    // From the refusal on.
    assert_eq!(told(server.url("/readyz")).await, (503, "cannot write\n".to_owned()));
    let (operators, anybodys) = becomes(&server, 503, "cannot write").await;
    assert_eq!(
        anybodys,
        GREEN
            .replace("disk ok", "disk cannot write")
            .replace("[+]disk", "[-]disk")
            .replace("passed", "failed")
    );
    assert!(
        operators.contains("\n[-]disk cannot write: the journal is not written"),
        "{operators}"
    );
    assert_eq!(told(server.url("/livez")).await.0, 200, "a restart would not mend the disk");
    std::fs::rename(&away, &journal).unwrap();
    assert_eq!(becomes(&server, 200, "ok").await.1, GREEN);
    assert_eq!(server.post(SAMPLE).await.status(), 201);
}

#[tokio::test]
async fn more_than_the_disk_can_write_turns_readiness_red_until_it_is_written() {
    // Whatever is being written is too much.
    let server =
        TestServer::with(|config| config.journal.uncommitted_bytes_max = Size::bytes(1)).await;
    let mut players = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (client, url) = (server.client.clone(), server.url("/api/v1/sessions"));
        players.spawn(async move {
            loop {
                client.post(&url).body(SAMPLE).send().await.unwrap();
            }
        });
    }
    let busy = "[-]room busy\n";
    let anybodys = async || told(server.url("/readyz?verbose")).await;
    let operators = async || told(server.admin_url("/readyz?verbose")).await;
    let (status, text) = within(async {
        loop {
            let told = anybodys().await;
            if told.1 != GREEN {
                return told;
            }
        }
    })
    .await;
    assert_eq!(status, 503);
    assert_eq!(text, GREEN.replace("[+]room ok\n", busy).replace("passed", "failed"));
    let text = within(async {
        loop {
            let (status, text) = operators().await;
            if status == 503 {
                return text;
            }
        }
    })
    .await;
    assert!(
        text.contains("\n[-]room busy: ") && text.contains("journal.uncommitted_bytes_max"),
        "{text}"
    );
    players.shutdown().await;
    assert_eq!(becomes(&server, 200, "ok").await.1, GREEN);
}

#[tokio::test]
async fn a_server_that_stops_is_not_ready() {
    let server = TestServer::with(|config| config.shutdown.grace = Duration::from_hours(1)).await;
    server.stop(Stop::AfterGrace).await;
    let (operators, anybodys) = becomes(&server, 503, "stopping").await;
    assert_eq!(
        anybodys,
        GREEN.replace("[+]draining ok", "[-]draining stopping").replace("passed", "failed")
    );
    assert!(operators.starts_with("[-]draining stopping: "), "{operators}");
}

#[tokio::test]
async fn a_server_full_of_sessions_says_so_and_stays_ready_for_their_events() {
    let server = TestServer::with(|config| config.live.sessions_max = 1).await;
    let id = server.post(SAMPLE).await.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(server.post(SAMPLE).await.status(), 503);
    let (operators, anybodys) = becomes(&server, 200, "ok").await;
    assert_eq!(anybodys, GREEN.replace("sessions ok", "sessions full"));
    assert!(
        operators.contains("[+]sessions full: 1 sessions are live, as many as live.sessions_max"),
        "{operators}"
    );
    let ping = r#"{"eventType":"sessionEnd","playerTime":{"playhead":0,"ts":1}}"#;
    let event = server.client.post(server.url(&format!("{id}/events"))).body(ping);
    assert_eq!(event.send().await.unwrap().status(), 204);
    server.close_due().await;
    server.clock.advance(600_000);
    server.close_due().await;
    assert_eq!(becomes(&server, 200, "ok").await.1, GREEN);
}

/// A post does not wait until the journal is read back.
const IMPATIENT: [(&str, &str); 1] = [("MEDIATALLY_HTTP__RECOVERY_WAIT", "0s")];

/// A journal whose last segment is not opened before a test lets it be: somebody has a lease on it, which the system
/// takes back only after 45 s.
pub(crate) struct SlowJournal {
    path: PathBuf,
    holder: std::process::Child,
}

impl SlowJournal {
    /// Puts such a segment, with this number, into the journal of a folder.
    pub(crate) fn make(folder: &Path, first_seq: u64) -> Self {
        const HOLD: &str = "import fcntl, signal, sys\n\
            signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
            file = open(sys.argv[1], 'w')\n\
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
            print('held', flush=True)\n\
            sys.stdin.read()";
        let path = folder.join(format!("data/journal/{first_seq:020}.ndjson"));
        let mut command = std::process::Command::new("python3");
        command.arg("-c").arg(HOLD).arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        let mut said = String::new();
        let stdout = holder.stdout.as_mut().unwrap();
        std::io::BufReader::new(stdout).read_line(&mut said).unwrap();
        assert_eq!(said, "held\n");
        Self { path, holder }
    }

    /// Lets it be read to its end, which is here.
    pub(crate) fn let_go(mut self) -> PathBuf {
        drop(self.holder.stdin.take());
        self.holder.wait().unwrap();
        std::mem::take(&mut self.path)
    }
}

impl Drop for SlowJournal {
    fn drop(&mut self) {
        // It ends with its standard input, too.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Runs a server in `folder` until it has taken a session, and gives the place of that.
pub(crate) async fn run_before(folder: &Path) -> String {
    let process = Process::start(folder, &[]).await;
    let response =
        client().post(process.url("/api/v1/sessions")).body(SAMPLE).send().await.unwrap();
    let id = response.headers()["location"].to_str().unwrap().to_owned();
    process.signal(Signal::INT);
    process.ended().await;
    id
}

/// The number of the record after the last.
pub(crate) fn next_seq(folder: &Path) -> u64 {
    let mut last = 0;
    for entry in std::fs::read_dir(folder.join("data/journal")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "ndjson") {
            let text = std::fs::read_to_string(path).unwrap();
            for line in text.lines() {
                let record: Value = serde_json::from_str(line).unwrap();
                last = last.max(record["seq"].as_u64().unwrap());
            }
        }
    }
    assert!(last > 0);
    last + 1
}

#[tokio::test]
async fn while_the_journal_is_read_back_health_is_answered_and_all_else_asked_for_patience() {
    let folder = tempfile::tempdir().unwrap();
    let id = run_before(folder.path()).await;
    let journal = SlowJournal::make(folder.path(), next_seq(folder.path()));
    let mut process = Process::begin(folder.path(), &IMPATIENT).await;
    let client = client();
    for url in [process.url("/livez"), process.admin_url("/livez"), process.url("/healthz")] {
        assert_eq!(told(url).await, (200, "ok\n".to_owned()));
    }
    for url in [process.url("/readyz"), process.admin_url("/readyz")] {
        assert_eq!(told(url).await, (503, "recovering\n".to_owned()));
    }
    let (status, text) = told(process.url("/readyz?verbose")).await;
    let expected = "[+]draining ok\n[-]recovery recovering\n[-]disk unknown\n[-]room unknown\n\
                    [+]sessions unknown\nreadyz check failed\n";
    assert_eq!((status, text.as_str()), (503, expected));
    let (_, text) = told(process.admin_url("/readyz?verbose")).await;
    assert!(text.contains("\n[-]recovery recovering: the journal is read back"), "{text}");

    let mut player = Raw(tokio::net::TcpStream::connect(&process.listen).await.unwrap());
    player.send(post_request(SAMPLE)).await;
    let (head, body) = player.answer().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("retry-after: 10\r\n"), "{head}");
    for name in ["origin: *", "methods: OPTIONS,POST,PUT", "headers: Content-Type"] {
        assert!(head.contains(&format!("access-control-allow-{name}\r\n")), "{head}");
    }
    assert!(head.contains("access-control-expose-headers: Location\r\n"), "{head}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert!(body["message"].as_str().unwrap().contains("reads its journal back"), "{body}");
    for url in [
        process.url(&format!("{id}/events")),
        process.url("/"),
        process.url("/api/v1/openapi.json"),
    ] {
        assert_eq!(client.post(url).body("{}").send().await.unwrap().status(), 503);
    }
    let preflight = client
        .request(reqwest::Method::OPTIONS, process.url("/api/v1/sessions"))
        .header("access-control-request-headers", "x-mine")
        .send()
        .await
        .unwrap();
    assert_eq!(preflight.status(), 204);
    assert_eq!(preflight.headers()["access-control-allow-headers"], "Content-Type,x-mine");
    let rejects = client.get(process.admin_url("/rejects")).send().await.unwrap();
    assert_eq!(rejects.status(), 503);
    assert_eq!(rejects.headers()["x-frame-options"], "DENY");
    assert!(!rejects.headers().contains_key("access-control-allow-origin"));
    let healthcheck = async |more: &[&str]| {
        run(&[&["healthcheck", "--admin-listen", &process.admin_listen], more].concat(), &[])
            .await
            .0
    };
    assert_eq!(healthcheck(&[]).await, Some(0), "it lives");
    assert_eq!(healthcheck(&["--ready"]).await, Some(1));

    journal.let_go();
    process.started(folder.path()).await;
    assert_eq!(process.read_back["live_sessions"], 1);
    player.send(post_request(SAMPLE)).await;
    let (head, _) = player.answer().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 201 "), "on the same connection: {head}");
    assert_eq!(told(process.url("/readyz?verbose")).await, (200, GREEN.to_owned()));
    assert_eq!(told(process.admin_url("/rejects")).await.0, 200);
    process.signal(Signal::INT);
    assert_eq!(process.ended().await.0.code(), Some(0));
}

#[tokio::test]
async fn while_the_journal_is_read_back_the_series_say_so_and_refusals_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    run_before(folder.path()).await;
    let journal = SlowJournal::make(folder.path(), next_seq(folder.path()));
    let mut process = Process::begin(folder.path(), &IMPATIENT).await;
    let client = client();
    for path in ["/metrics", "/metrics/"] {
        let (status, text) = told(process.admin_url(path)).await;
        assert_eq!(status, 200);
        assert!(text.contains("\nmediatally_ready 0\n"), "{text}");
        assert!(!text.contains("mediatally_journal_up"), "nobody knows yet: {text}");
    }
    assert_eq!(client.post(process.url("/metrics")).send().await.unwrap().status(), 503);
    let posts = ["/api/v1/sessions", "/api/v1/sessions/x/events", "/api/v1/downloaded"];
    for path in posts {
        let response = client.post(process.url(path)).body(SAMPLE).send().await.unwrap();
        assert_eq!(response.status(), 503, "{path}");
        let headers = response.headers();
        assert_eq!(headers["retry-after"], "10");
        assert_eq!(headers["access-control-allow-origin"], "*");
        // With it a client would take the path for one that only answers preflights.
        assert!(!headers.contains_key("allow"), "{headers:?}");
    }
    let url = process.admin_url("/metrics");
    let refused = Scrape::of(&client, &url).await.sum("shed_total", &["reason=\"starting\""]);
    assert!((refused - 3.0).abs() < f64::EPSILON, "{refused}");
    journal.let_go();
    process.started(folder.path()).await;
    let (_, text) = told(url).await;
    for series in ["ready", "journal_up"] {
        assert!(text.contains(&format!("\nmediatally_{series} 1\n")), "{text}");
    }
    process.signal(Signal::INT);
    process.ended().await;
}

#[tokio::test]
async fn a_signal_while_the_journal_is_read_back_ends_the_server_in_order() {
    let folder = tempfile::tempdir().unwrap();
    run_before(folder.path()).await;
    let journal = SlowJournal::make(folder.path(), next_seq(folder.path()));
    let files = || {
        let mut files: Vec<_> = std::fs::read_dir(folder.path().join("data/journal"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name(), entry.metadata().unwrap().len()))
            .collect();
        files.sort();
        files
    };
    let before = files();
    for signal in [Signal::TERM, Signal::INT] {
        let process = Process::begin(folder.path(), &[]).await;
        let mut idle = Raw(tokio::net::TcpStream::connect(&process.listen).await.unwrap());
        idle.send(post_request(SAMPLE)).await;
        idle.answer().await.unwrap();
        process.signal(signal);
        assert_eq!(idle.closed().await, "");
        let (status, lines) = process.ended().await;
        assert_eq!(status.code(), Some(0));
        assert!(
            lines.last().unwrap().contains("stopped before the journal was read back"),
            "{lines:?}"
        );
        assert_eq!(files(), before);
    }
    std::fs::remove_file(journal.let_go()).unwrap();
    let process = Process::start(folder.path(), &[]).await;
    assert_eq!(process.read_back["live_sessions"], 1);
    process.signal(Signal::INT);
    process.ended().await;
}

#[tokio::test]
async fn a_journal_that_cannot_be_read_back_ends_the_start() {
    let folder = tempfile::tempdir().unwrap();
    run_before(folder.path()).await;
    let path = format!("data/journal/{:020}.ndjson", next_seq(folder.path()));
    std::fs::create_dir(folder.path().join(path)).unwrap();
    let process = Process::begin(folder.path(), &[]).await;
    let (status, lines) = process.ended().await;
    assert_eq!(status.code(), Some(2), "it must be removed first");
    let line: serde_json::Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert!(line["message"].as_str().unwrap().starts_with("cannot open the journal"), "{lines:?}");
}
