//! What survives: the process is killed, the disk is full, a byte is flipped.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command as StdCommand;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mediatally::journal::Ids;
use mediatally::journal::checkpoint;
use mediatally::journal::disk::Folder;
use mediatally::journal::recovery::recover;
use mediatally::journal::segment;
use mediatally::live::{self, Live};
use mediatally::processor::Processor;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::harness::{Process, SAMPLE, client, files, until, until_much_is_done, within};

/// Runs a command of the program on the data folder in `folder`.
pub(crate) async fn run_command(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = within(Process::command(folder).args(arguments).output()).await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// Posts session starts until the server is gone; each that was acknowledged goes into the ledger.
async fn post_until_gone(
    url: String,
    ledger: Arc<Mutex<Vec<String>>>,
    acknowledged: Arc<AtomicUsize>,
) {
    let client = client();
    while let Ok(response) = client.post(&url).body(SAMPLE).send().await {
        assert_eq!(response.status(), 201);
        ledger.lock().await.push(response.headers()["location"].to_str().unwrap().to_owned());
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

/// `MEDIATALLY_CRASH_ROUNDS` (5) rounds, seeded by `MEDIATALLY_CRASH_SEED` (any).
#[tokio::test]
async fn what_was_acknowledged_survives_kill_9_at_any_moment() {
    let setting = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let rounds = setting("MEDIATALLY_CRASH_ROUNDS").unwrap_or(5);
    let seed = setting("MEDIATALLY_CRASH_SEED").unwrap_or_else(rand::random);
    println!("MEDIATALLY_CRASH_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    // So that kills meet rotation, compression and checkpoints.
    let settings = [
        ("MEDIATALLY_JOURNAL__SEGMENT_BYTES_MAX", "64KiB"),
        ("MEDIATALLY_JOURNAL__CHECKPOINT_INTERVAL", "20ms"),
    ];
    let ledger = Arc::new(Mutex::new(Vec::new()));
    for round in 0..=rounds {
        let process = Process::start(folder.path(), &settings).await;
        let path = folder.path().join("ledger");
        std::fs::write(&path, ledger.lock().await.join("\n")).unwrap();
        let arguments = ["verify", "--ledger", path.to_str().unwrap()];
        let (code, said) = run_command(folder.path(), &arguments).await;
        assert_eq!(code, Some(0), "round {round}: {said}");
        let started = format!("sessions   {} started", process.read_back["live_sessions"]);
        assert!(said.contains(&started), "all are live again: {started} in {said}");
        if round == rounds {
            process.signal(Signal::INT);
            assert_eq!(process.ended().await.0.code(), Some(0));
            break;
        }
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let players: Vec<_> = (0..16)
            .map(|_| {
                let url = process.url("/api/v1/sessions");
                tokio::spawn(post_until_gone(url, Arc::clone(&ledger), Arc::clone(&acknowledged)))
            })
            .collect();
        let enough = random.random_range(1..600);
        let count = || acknowledged.load(Ordering::Relaxed);
        until_much_is_done(count, || count() >= enough).await;
        process.signal(Signal::KILL);
        process.ended().await;
        for player in players {
            player.await.unwrap();
        }
    }
    let ledger = ledger.lock().await;
    let distinct: HashSet<_> = ledger.iter().collect();
    assert_eq!(distinct.len(), ledger.len());
    println!("{rounds} rounds, {} acknowledged, 0 lost", ledger.len());
}

/// What the players of one run know, and what is left to do.
#[derive(Default)]
struct Run {
    /// Sessions that are still to be played.
    left: AtomicUsize,
    /// The id and the body of each event that was acknowledged.
    acknowledged: Mutex<Vec<(String, String)>>,
}

/// Plays whole sessions, each with its events in parallel and out of order, until none is left or the
/// server is gone.
async fn play_until_gone(url: String, run: Arc<Run>, mut random: SmallRng) {
    let client = client();
    let left = || run.left.try_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    while let Ok(left) = left() {
        let Ok(response) = client.post(&url).body(SAMPLE).send().await else { return };
        let id = response.headers()["location"].to_str().unwrap().rsplit('/').next().unwrap();
        let types = ["play", "pauseStart", "play", "bufferStart", "ping", "chapterSkip", "error"];
        let mut bodies: Vec<String> = (0..)
            .zip(types)
            .map(|(number, event_type)| {
                let (ts, playhead) = (1_700_000_000_000_u64 + number * 500, number);
                format!(
                    r#"{{"eventType":"{event_type}","playerTime":{{"ts":{ts},"playhead":{playhead}}}}}"#
                )
            })
            .collect();
        if left.is_multiple_of(2) {
            bodies.push(bodies[4].replace("ping", "sessionEnd"));
        }
        bodies.shuffle(&mut random);
        let posts = bodies.into_iter().map(|body| async {
            let event = client.post(format!("{url}/{id}/events")).body(body.clone()).send();
            // What is stamped later than an end that overtook it is refused.
            let taken = event.await.is_ok_and(|response| response.status() == 204);
            taken.then(|| (id.to_owned(), body))
        });
        let taken = futures_util::future::join_all(posts).await;
        run.acknowledged.lock().await.extend(taken.into_iter().flatten());
    }
}

/// What a start would find in a copy of a data folder: each session as a checkpoint has it.
fn replayed(folder: &Path, with_checkpoints: bool) -> Vec<String> {
    let copy = tempfile::tempdir().unwrap();
    let disk = Folder::make(copy.path()).unwrap();
    for entry in std::fs::read_dir(folder.join("data/journal")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if with_checkpoints || !name.starts_with("checkpoint-") {
            std::fs::copy(&path, copy.path().join(name)).unwrap();
        }
    }
    let live = Arc::new(Live::new(live::Settings::default()));
    let recovered =
        recover(&disk, &live, &mut Processor::new(Arc::clone(&live)), &Ids::default()).unwrap();
    assert_eq!((recovered.damaged, recovered.missing), (0, 0));
    assert_eq!(recovered.checkpoint_seq.is_some(), with_checkpoints);
    let text = String::from_utf8(checkpoint::to_bytes(&live)).unwrap();
    text.lines().filter(|line| line.starts_with("{\"sid\"")).map(str::to_owned).collect()
}

/// `MEDIATALLY_CRASH_SESSIONS` (300) sessions with `kill -9` in their middle.
#[tokio::test]
async fn sessions_with_shuffled_events_are_the_same_after_kill_9() {
    let setting = std::env::var("MEDIATALLY_CRASH_SESSIONS").ok();
    let sessions = setting.map_or(300, |text| text.parse::<usize>().unwrap());
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        ("MEDIATALLY_JOURNAL__SEGMENT_BYTES_MAX", "256KiB"),
        ("MEDIATALLY_JOURNAL__CHECKPOINT_INTERVAL", "50ms"),
    ];
    let run = Arc::new(Run::default());
    for half in [sessions / 2, sessions - sessions / 2] {
        run.left.fetch_add(half, Ordering::Relaxed);
        let process = Process::start(folder.path(), &settings).await;
        let players: Vec<_> = (0..16)
            .map(|_| {
                let random = SmallRng::seed_from_u64(random.random());
                let url = process.url("/api/v1/sessions");
                tokio::spawn(play_until_gone(url, Arc::clone(&run), random))
            })
            .collect();
        let journal = folder.path().join("data/journal");
        let has_checkpoint = || {
            let mut files = std::fs::read_dir(&journal).unwrap();
            files.any(|file| {
                let name = file.unwrap().file_name().into_string().unwrap();
                name.starts_with("checkpoint-") && !name.ends_with(".unfinished")
            })
        };
        let left = || run.left.load(Ordering::Relaxed);
        until_much_is_done(|| half - left().min(half), || left() <= half / 10).await;
        until(has_checkpoint).await;
        process.signal(Signal::KILL);
        process.ended().await;
        for player in players {
            player.await.unwrap();
        }
        let whole = replayed(folder.path(), true);
        assert!(whole.len() > half / 3, "about half of them have not ended");
        assert_eq!(whole, replayed(folder.path(), false), "however it is read back");
    }
    let (code, said) = run_command(folder.path(), &["verify"]).await;
    assert_eq!(code, Some(0), "{said}");
    let (_, events) = run_command(folder.path(), &["export", "--kind", "event"]).await;
    let in_journal: HashSet<(String, String)> = events
        .lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line).unwrap();
            let body = line.split_once("\"body\":").unwrap().1.rsplit_once(",\"crc\"").unwrap().0;
            (event["sid"].as_str().unwrap().to_owned(), body.to_owned())
        })
        .collect();
    let acknowledged = run.acknowledged.lock().await;
    let lost = acknowledged.iter().filter(|event| !in_journal.contains(event)).count();
    assert_eq!(lost, 0);
    println!("{sessions} sessions, {} events acknowledged, 0 lost", acknowledged.len());
}

#[tokio::test]
async fn a_restart_in_order_brings_every_session_back() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]).await;
    for _ in 0..20 {
        let url = process.url("/api/v1/sessions");
        assert_eq!(client().post(url).body(SAMPLE).send().await.unwrap().status(), 201);
    }
    process.signal(Signal::INT);
    process.ended().await;
    let process = Process::start(folder.path(), &[]).await;
    assert_eq!(process.read_back["live_sessions"], 20);
    assert_eq!(process.read_back["records"], 0, "the last checkpoint has them all");
    process.signal(Signal::INT);
    process.ended().await;
}

/// How many reports stand in the journal in a folder.
fn reports(folder: &Path) -> usize {
    let disk = Folder::make(&folder.join("data/journal")).unwrap();
    let mut reports = 0;
    segment::each_line(&disk, |_, _, record| {
        reports += usize::from(record.is_ok_and(|record| record.content.kind() == "report"));
        Ok::<_, std::io::Error>(())
    })
    .unwrap();
    reports
}

#[tokio::test]
async fn a_journal_without_its_beginning_and_its_checkpoints_reports_nothing_twice() {
    const SESSIONS: usize = 60;
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        ("MEDIATALLY_JOURNAL__SEGMENT_BYTES_MAX", "16KiB"),
        ("MEDIATALLY_SESSION__NO_EVENTS_TIMEOUT", "1s"),
    ];
    let post = async |process: &Process| {
        let url = process.url("/api/v1/sessions");
        assert_eq!(client().post(url).body(SAMPLE).send().await.unwrap().status(), 201);
    };
    let process = Process::start(folder.path(), &settings).await;
    for _ in 0..SESSIONS {
        post(&process).await;
    }
    until(|| reports(folder.path()) == SESSIONS).await;
    process.signal(Signal::KILL);
    process.ended().await;
    // What told the time-out first is gone, and some sessions lose their start.
    let journal = folder.path().join("data/journal");
    let disk = Folder::make(&journal).unwrap();
    let segments = segment::list(&disk).unwrap();
    assert!(segments.len() > 4, "{segments:?}");
    for gone in &segments[..2] {
        std::fs::remove_file(journal.join(gone.name())).unwrap();
    }
    for (_, name) in checkpoint::list(&disk).unwrap() {
        std::fs::remove_file(journal.join(name)).unwrap();
    }
    let left = reports(folder.path());
    assert!(left > SESSIONS / 2);
    let process = Process::start(folder.path(), &settings).await;
    assert_eq!(process.read_back["live_sessions"], 0, "no session lives again");
    assert_eq!(process.read_back["unreported"], 0);
    post(&process).await;
    until(|| reports(folder.path()) > left).await;
    let (code, said) = run_command(folder.path(), &["verify"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("older version"), "all is known that must be: {said}");
    process.signal(Signal::INT);
    process.ended().await;
    assert_eq!(reports(folder.path()), left + 1);
}

#[tokio::test]
async fn an_idle_server_that_is_killed_again_and_again_times_its_sessions_out() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("data/journal");
    let settings = [("MEDIATALLY_SESSION__NO_EVENTS_TIMEOUT", "3s")];
    let mark = || {
        let names = std::fs::read_dir(&journal).unwrap().map(|entry| entry.unwrap().file_name());
        names
            .filter_map(|name| name.into_string().ok())
            .filter(|name| name.starts_with("up-"))
            .max()
    };
    let mut process = Process::start(folder.path(), &settings).await;
    let url = process.url("/api/v1/sessions");
    assert_eq!(client().post(url).body(SAMPLE).send().await.unwrap().status(), 201);
    let mut runs = 0;
    while reports(folder.path()) == 0 {
        // Each mark tells of a second at least.
        assert!(runs <= 4, "the session never ends");
        let before = mark();
        until(|| mark() > before || reports(folder.path()) > 0).await;
        process.signal(Signal::KILL);
        process.ended().await;
        process = Process::start(folder.path(), &settings).await;
        runs += 1;
    }
    let (_, closes) = run_command(folder.path(), &["export", "--kind", "close"]).await;
    assert!(closes.contains("\"reason\":\"timeoutNoEvents\""), "{closes}");
    let (code, said) = run_command(folder.path(), &["verify"]).await;
    assert_eq!(code, Some(0), "{said}");
    process.signal(Signal::INT);
    process.ended().await;
}

#[tokio::test]
async fn a_damaged_end_of_a_journal_that_was_closed_in_order_is_set_aside() {
    let folder = with_sessions(5).await;
    let journal = folder.path().join("data/journal");
    let path = journal.join("00000000000000000001.ndjson");
    let mut bytes = std::fs::read(&path).unwrap();
    let from = bytes.len() - 700;
    bytes[from..].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let process = Process::start(folder.path(), &[]).await;
    assert_eq!(process.read_back["live_sessions"], 5, "the saved sessions have them all");
    assert_eq!(
        (&process.read_back["cut_bytes"], &process.read_back["damaged"]),
        (&0.into(), &1.into())
    );
    assert_eq!(process.read_back["next_seq"], 7, "no number is given twice");
    let end = [&bytes[from - 9..], b"\n"].concat();
    let is_aside =
        |(name, text): &(String, Vec<u8>)| name.contains("damaged-") && text.ends_with(&end);
    assert!(files(&journal).iter().any(is_aside));
    process.signal(Signal::INT);
    process.ended().await;
}

#[tokio::test]
async fn a_second_server_on_the_same_folder_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]).await;
    let arguments = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let (code, said) = run_command(folder.path(), &arguments).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("another mediatally uses the data folder"), "{said}");
    process.signal(Signal::INT);
    process.ended().await;
}

#[tokio::test]
async fn a_journal_without_its_key_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]).await;
    process.signal(Signal::INT);
    process.ended().await;
    std::fs::remove_file(folder.path().join("data/session.key")).unwrap();
    let (code, said) = run_command(folder.path(), &["--listen", "127.0.0.1:0"]).await;
    assert_eq!(code, Some(2), "starting again does not help");
    assert!(said.contains("restore it from a backup"), "{said}");
}

/// A stopped server's folder with this many sessions.
async fn with_sessions(count: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]).await;
    for _ in 0..count {
        let request = client().post(process.url("/api/v1/sessions")).header("user-agent", "test");
        assert_eq!(request.body(SAMPLE).send().await.unwrap().status(), 201);
    }
    process.signal(Signal::INT);
    process.ended().await;
    folder
}

#[tokio::test]
async fn verify_accepts_a_healthy_journal_and_names_a_damaged_line() {
    let folder = with_sessions(5).await;
    let (code, said) = run_command(folder.path(), &["verify"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("records    6: 1 settings, 5 start") && said.contains("keeps its promises"),
        "{said}"
    );
    let segment = folder.path().join("data/journal/00000000000000000001.ndjson");
    let healthy = std::fs::read(&segment).unwrap();
    let lines: Vec<_> = healthy.split_inclusive(|byte| *byte == b'\n').collect();
    for damaged in 0..lines.len() {
        let mut bytes = healthy.clone();
        bytes[lines[..damaged].concat().len() + 40] ^= 1;
        std::fs::write(&segment, bytes).unwrap();
        let (code, said) = run_command(folder.path(), &["verify"]).await;
        assert_eq!(code, Some(1), "{said}");
        let named = format!("00000000000000000001.ndjson line {}: ", damaged + 1);
        assert!(said.contains(&named), "{named} in {said}");
    }
    std::fs::write(&segment, lines[1..].concat()).unwrap();
    let (code, said) = run_command(folder.path(), &["verify"]).await;
    assert_eq!(code, Some(1), "what is missing at the beginning is missed: {said}");
    std::fs::write(&segment, lines[..4].concat()).unwrap();
    let (code, said) = run_command(folder.path(), &["verify"]).await;
    assert_eq!(code, Some(1), "what is missing at the end is missed: {said}");
    std::fs::write(&segment, healthy).unwrap();
    let ledger = folder.path().join("ledger");
    std::fs::write(&ledger, format!("/api/v1/sessions/{}\n", "ab".repeat(32))).unwrap();
    let (code, said) =
        run_command(folder.path(), &["verify", "--ledger", ledger.to_str().unwrap()]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("ledger line 1") && said.contains("is lost"), "{said}");
}

#[tokio::test]
async fn a_compressed_segment_that_is_damaged_is_named_and_the_rest_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [("MEDIATALLY_JOURNAL__SEGMENT_BYTES_MAX", "4KiB")];
    let process = Process::start(folder.path(), &settings).await;
    for _ in 0..40 {
        let url = process.url("/api/v1/sessions");
        assert_eq!(client().post(url).body(SAMPLE).send().await.unwrap().status(), 201);
    }
    let journal = folder.path().join("data/journal");
    let compressed = journal.join("00000000000000000001.ndjson.zst");
    until(|| compressed.exists()).await;
    process.signal(Signal::INT);
    process.ended().await;
    let mut bytes = std::fs::read(&compressed).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&compressed, bytes).unwrap();
    let (code, said) = run_command(folder.path(), &["verify"]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("00000000000000000001.ndjson.zst line "), "{said}");
    let (code, records) = run_command(folder.path(), &["export"]).await;
    assert_eq!(code, Some(0));
    let last: Value = serde_json::from_str(records.lines().last().unwrap()).unwrap();
    let last = last["seq"].as_u64().unwrap();
    assert!(last > 40, "the sessions, and what each segment begins with: {records}");
    assert!(
        said.contains("cannot be unpacked") && said.contains(&format!(" to {last}\n")),
        "{said}"
    );
}

#[tokio::test]
async fn a_journal_that_was_moved_away_is_noticed_with_and_without_requests() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]).await;
    let post = async || {
        let url = process.url("/api/v1/sessions");
        client().post(url).body(SAMPLE).send().await.unwrap().status().as_u16()
    };
    assert_eq!(post().await, 201);
    let journal = folder.path().join("data/journal");
    let elsewhere = folder.path().join("elsewhere");
    std::fs::rename(&journal, &elsewhere).unwrap();
    assert_eq!(post().await, 503, "nothing is acknowledged into a folder that nobody will read");
    std::fs::rename(&elsewhere, &journal).unwrap();
    within(async { while post().await != 201 {} }).await;
    let ready =
        async || client().get(process.url("/readyz")).send().await.unwrap().status().as_u16();
    assert_eq!(ready().await, 200);
    std::fs::rename(&journal, &elsewhere).unwrap();
    within(async { while ready().await != 503 {} }).await;
    std::fs::rename(&elsewhere, &journal).unwrap();
    within(async { while ready().await != 200 {} }).await;
    assert_eq!(post().await, 201);
    let (code, said) = run_command(folder.path(), &["verify"]).await;
    assert_eq!(code, Some(0), "{said}");
    process.signal(Signal::INT);
    process.ended().await;
}

#[tokio::test]
async fn export_writes_the_records_that_were_asked_for() {
    let folder = with_sessions(3).await;
    // A second start, so that there is a pause.
    let process = Process::start(folder.path(), &[]).await;
    let (code, all) = run_command(folder.path(), &["export"]).await;
    assert_eq!(code, Some(0));
    let records: Vec<serde_json::Value> =
        all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = records.iter().map(|record| record["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["settings", "start", "start", "start", "settings", "pause"]);
    assert_eq!(records[1]["client"], "127.0.0.0");
    assert_eq!(records[1]["user_agent"], "test");
    assert_eq!(records[1]["body"], serde_json::from_str::<serde_json::Value>(SAMPLE).unwrap());
    let (_, starts) = run_command(folder.path(), &["export", "--kind", "start,close"]).await;
    assert_eq!(starts.lines().count(), 3);
    let second = records[2]["received_ms"].to_string();
    let (_, since) = run_command(folder.path(), &["export", "--since", &second]).await;
    assert!(since.lines().count() >= 4 && since.lines().count() <= 6, "{since}");
    let (_, none) = run_command(folder.path(), &["export", "--until", "2001-01-01"]).await;
    assert_eq!(none, "");
    let (_, csv) = run_command(folder.path(), &["export", "--format", "csv"]).await;
    assert!(csv.starts_with(
        "seq,received_ms,kind,sid,client,user_agent,reason,no_events_ms,no_playhead_ms,age_ms,\
             events_max,paused_ms,down_ms,set_back_ms,count,until_ms,erased_ms,body,report\n1,"
    ));
    assert_eq!(csv.lines().count(), 7);
    let (code, said) = run_command(folder.path(), &["export", "--since", "yesterday"]).await;
    assert_eq!(code, Some(2));
    assert!(said.contains("2026-11-20T08:00:00Z"), "{said}");
    process.signal(Signal::INT);
    process.ended().await;
}

/// A small file system of its own, if this user may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mounted = StdCommand::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder.path())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = StdCommand::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_acknowledges_nothing_and_recovers_by_itself() {
    let Some(disk) = SmallDisk::mount("2m") else {
        return println!("not run: this user may not mount a file system");
    };
    let folder = disk.0.path();
    let filler = folder.join("filler");
    std::fs::write(&filler, vec![0; 1 << 20]).unwrap();
    let process = Process::start(folder, &[]).await;
    let client = client();
    let get = async |url: String| client.get(url).send().await.unwrap().status().as_u16();
    let mut ledger = Vec::new();
    let refused = loop {
        let url = process.url("/api/v1/sessions");
        let response = client.post(url).body(SAMPLE).send().await.unwrap();
        if response.status() != 201 {
            break response;
        }
        ledger.push(response.headers()["location"].to_str().unwrap().to_owned());
        assert!(ledger.len() < 10_000);
    };
    assert!(ledger.len() > 500);
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert!(refused.text().await.unwrap().contains("nothing was acknowledged"));
    within(async { while get(process.url("/readyz")).await != 503 {} }).await;
    assert_eq!(get(process.url("/livez")).await, 200, "a full disk is no reason to restart");
    let (code, said) = run_command(folder, &["verify"]).await;
    assert_eq!(code, Some(0), "in the outage too: {said}");
    std::fs::remove_file(&filler).unwrap();
    within(async { while get(process.url("/readyz")).await != 200 {} }).await;
    for _ in 0..50 {
        let url = process.url("/api/v1/sessions");
        let response = client.post(url).body(SAMPLE).send().await.unwrap();
        assert_eq!(response.status(), 201);
        ledger.push(response.headers()["location"].to_str().unwrap().to_owned());
    }
    let path = folder.join("ledger");
    std::fs::write(&path, ledger.join("\n")).unwrap();
    let arguments = ["verify", "--ledger", path.to_str().unwrap()];
    let (code, said) = run_command(folder, &arguments).await;
    assert_eq!(code, Some(0), "{said}");
    process.signal(Signal::KILL);
    process.ended().await;
    let process = Process::start(folder, &[]).await;
    assert_eq!(run_command(folder, &arguments).await.0, Some(0));
    process.signal(Signal::INT);
    process.ended().await;
}

/// A data folder that the version before left behind when it was killed: a checkpoint of it, two events behind that,
/// sessions that are live, and two that have their report.
const VERSION_2: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/data/version-2");

#[tokio::test]
async fn a_folder_of_the_version_before_goes_on() {
    const LIVE: [(&str, &str); 3] = [
        ("watching", "01a2313f942c71ec9b10c45fa8378d4e0f83e9b249869c7105bb2f5ed958ced8"),
        ("in-an-ad", "01a2313f9430769591a8dbc29f570924f238b3191fae90c4c7ccddfac17ea88f"),
        ("set-back", "01a2313f94327dc1a759755f8b099d292fc3ac4ce22254e9032d566293d926b2"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("data/journal");
    std::fs::create_dir_all(&journal).unwrap();
    for entry in std::fs::read_dir(Path::new(VERSION_2).join("journal")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), journal.join(entry.file_name())).unwrap();
    }
    let key = folder.path().join("data/session.key");
    std::fs::copy(Path::new(VERSION_2).join("session.key"), &key).unwrap();
    std::fs::set_permissions(key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    // They were written some time ago, whenever this runs.
    let settings = [("MEDIATALLY_JOURNAL__RETENTION", "30000d")];
    let process = Process::start(folder.path(), &settings).await;
    assert_eq!(process.read_back["checkpoint_seq"], 20, "it is read, not thrown away");
    assert_eq!(process.read_back["live_sessions"], 3);
    assert_eq!(process.read_back["damaged"], 0);
    let client = client();
    for (name, id) in LIVE {
        let url = process.admin_url(&format!("/sessions/{id}"));
        let found: Value = client.get(url).send().await.unwrap().json().await.unwrap();
        let (report, number) = (&found["report"], |path| found.pointer(path).unwrap().as_f64());
        assert_eq!(report["content"]["media.id"], name);
        assert_eq!((&report["version"], &report["status"]), (&2.into(), &"open".into()));
        let last_ts = report["lastEventTs"].as_i64().unwrap() - 1_796_122_580_000;
        match name {
            "watching" => {
                assert_eq!((last_ts, &report["durationMs"]), (18_012, &18_000.into()));
                assert_eq!(number("/report/metrics/timePlayed"), Some(17.9));
            }
            "in-an-ad" => {
                assert_eq!((last_ts, &report["durationMs"]), (14_016, &14_000.into()));
                assert_eq!(number("/report/metrics/adTimePlayed"), Some(7.999));
            }
            // Its clock was set back before its last event; it has no time before that, and no time that is negative.
            _ => assert_eq!(report["durationMs"], 6_000),
        }
        let body = format!(
            r#"{{"eventType":"sessionEnd","playerTime":{{"playhead":20,"ts":{}}}}}"#,
            report["lastEventTs"].as_u64().unwrap() + 1
        );
        let url = process.url(&format!("/api/v1/sessions/{id}/events"));
        let ended = client.post(url).body(body).send().await.unwrap();
        assert_eq!(ended.status(), 204);
    }
    let reports = async || {
        let (code, text) = run_command(folder.path(), &["export", "--kind", "report"]).await;
        assert_eq!(code, Some(0), "{text}");
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
    };
    within(async { while reports().await.len() < 5 {} }).await;
    let versions: Vec<_> = reports().await.iter().map(|it| it["version"].clone()).collect();
    assert_eq!(versions, [1, 1, 2, 2, 2], "what was written stays");
    process.signal(Signal::INT);
    process.ended().await;
    let process = Process::start(folder.path(), &settings).await;
    assert_eq!(process.read_back["live_sessions"], 0);
    let (code, said) = run_command(folder.path(), &["verify"]).await;
    assert_eq!(code, Some(0), "one report a session: {said}");
    assert_eq!(reports().await.len(), 5);
    // From their records alone all have a report by the rules of today.
    let arguments = ["export", "--kind", "report", "--recompute"];
    let output = within(Process::command(folder.path()).args(arguments).output()).await.unwrap();
    let recomputed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(recomputed.lines().filter(|line| line.starts_with("{\"version\":2,")).count(), 5);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("reports are as they were recorded, 3 differ"), "{said}");
    let (code, said) = run_command(folder.path(), &["export", "--recompute"]).await;
    assert_eq!(code, Some(2), "{said}");
    process.signal(Signal::INT);
    process.ended().await;
}
