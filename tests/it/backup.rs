//! Backups taken from a server at work, and what they restore.

use std::collections::{BTreeSet, HashSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::harness::{Process, SAMPLE, client, until, until_much_is_done, within};
use crate::recovery::run_command;

/// So that rotation, compression, checkpoints and retention go on while a backup is taken.
const SETTINGS: [(&str, &str); 3] = [
    ("MEDIATALLY_JOURNAL__SEGMENT_BYTES_MAX", "16KiB"),
    ("MEDIATALLY_JOURNAL__CHECKPOINT_INTERVAL", "20ms"),
    ("MEDIATALLY_JOURNAL__RETENTION_BYTES", "32KiB"),
];

/// How many backups a test takes from a server at work.
const BACKUPS: usize = 3;

/// How many players there are meanwhile, and how many sessions each of them begins.
const PLAYERS: usize = 8;
const SESSIONS: usize = 10;

/// Takes a backup of the data folder in `from` into that of a new folder.
async fn backup(from: &Path) -> (tempfile::TempDir, Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (code, said) = run_command(from, &["backup", data.to_str().unwrap()]).await;
    (folder, code, said)
}

/// Players that begin sessions, and then go on with them until they are told to stop.
struct Players {
    /// The sessions that were acknowledged.
    ledger: Arc<Mutex<Vec<String>>>,
    /// How many requests were acknowledged.
    acknowledged: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Players {
    fn at(process: &Process) -> Self {
        let mut players = Self {
            ledger: Arc::default(),
            acknowledged: Arc::default(),
            stop: Arc::default(),
            tasks: Vec::new(),
        };
        for _ in 0..PLAYERS {
            let url = process.url("");
            let (ledger, stop) = (Arc::clone(&players.ledger), Arc::clone(&players.stop));
            let acknowledged = Arc::clone(&players.acknowledged);
            players.tasks.push(tokio::spawn(async move {
                let client = client();
                let mut sessions = Vec::new();
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    if sessions.len() < SESSIONS {
                        let start = client.post(format!("{url}/api/v1/sessions")).body(SAMPLE);
                        let response = start.send().await.unwrap();
                        assert_eq!(response.status(), 201);
                        let at = response.headers()["location"].to_str().unwrap().to_owned();
                        ledger.lock().await.push(at.clone());
                        sessions.push(at);
                    } else {
                        let at = &sessions[number % SESSIONS];
                        let ping = client.post(format!("{url}{at}/events")).body(ping(number));
                        assert_eq!(ping.send().await.unwrap().status(), 204);
                    }
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        players
    }

    fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.ledger.lock().await.clone()
    }
}

fn ping(number: usize) -> String {
    let ts = 1_700_000_001_000 + number;
    format!(r#"{{"eventType":"ping","playerTime":{{"playhead":{number},"ts":{ts}}}}}"#)
}

/// Holds a backup to what it must be: it verifies, a server starts on it, and each of these sessions goes on.
async fn restores(folder: &Path, acknowledged: &[String]) {
    let (code, said) = run_command(folder, &["verify"]).await;
    assert_eq!(code, Some(0), "{said}");
    let process = Process::start(folder, &[]).await;
    for count in ["damaged", "missing", "cut_bytes"] {
        assert_eq!(process.read_back[count], 0, "{}", process.read_back);
    }
    let client = client();
    for location in acknowledged {
        let url = process.url(&format!("{location}/events"));
        let status = client.post(url).body(ping(0)).send().await.unwrap().status();
        assert_eq!(status, 204, "{location} was acknowledged before the backup began");
    }
    let response = client.post(process.url("/api/v1/sessions")).body(SAMPLE).send().await.unwrap();
    assert_eq!(response.status(), 201);
    process.signal(Signal::INT);
    assert_eq!(process.ended().await.0.code(), Some(0));
    let (code, said) = run_command(folder, &["verify"]).await;
    assert_eq!(code, Some(0), "{said}");
}

fn names(folder: &Path) -> HashSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_backup_under_load_has_all_that_was_acknowledged_before_it_began() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &SETTINGS).await;
    let players = Players::at(&process);
    let journal = folder.path().join("data/journal");
    // One of both is there until retention has removed it.
    let first = [".ndjson", ".ndjson.zst"].map(|ends| journal.join(format!("{:020}{ends}", 1)));
    let is_removed = || !first.iter().any(|path| path.exists());
    until_much_is_done(|| players.acknowledged(), is_removed).await;
    let mut backups = Vec::new();
    for _ in 0..BACKUPS {
        // One after the other at another moment in the life of the segments.
        let before = names(&journal);
        until(|| names(&journal) != before).await;
        let sessions = players.ledger.lock().await.clone();
        let acknowledged = players.acknowledged();
        let (copy, code, said) = backup(folder.path()).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("the journal keeps its promises"), "{said}");
        assert!(said.contains("checkpoint of the sessions at number "), "{said}");
        let last = said.lines().find(|line| line.starts_with("numbers ")).unwrap();
        let last: usize = last.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(last >= acknowledged, "{acknowledged} were acknowledged before: {said}");
        backups.push((copy, sessions));
    }
    players.stop().await;
    process.signal(Signal::INT);
    process.ended().await;
    for (copy, sessions) in backups {
        let key = copy.path().join("data/session.key");
        assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        let data = names(&copy.path().join("data"));
        assert!(!data.contains("lock") && !data.contains("journal.unfinished"), "{data:?}");
        restores(copy.path(), &sessions).await;
    }
}

#[tokio::test]
async fn a_backup_of_a_server_that_was_killed_has_what_it_acknowledged_and_what_it_refused() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &SETTINGS[..2]).await;
    let url = process.url("/api/v1/sessions");
    assert_eq!(client().post(&url).body("{}").send().await.unwrap().status(), 400);
    let rejects = |at: &Path| std::fs::read(at.join("data/rejects/current.ndjson"));
    until(|| rejects(folder.path()).is_ok_and(|bytes| bytes.ends_with(b"\n"))).await;
    let players = Players::at(&process);
    let journal = folder.path().join("data/journal");
    until_much_is_done(|| players.acknowledged(), || names(&journal).len() > 8).await;
    let acknowledged = players.stop().await;
    process.signal(Signal::KILL);
    process.ended().await;
    std::fs::write(journal.join("damaged-1-2.txt"), "set aside\n").unwrap();
    let open = names(&journal).into_iter().filter(|name| name.ends_with(".ndjson")).max().unwrap();
    let mut torn = std::fs::read(journal.join(&open)).unwrap();
    let whole = torn.len();
    torn.extend_from_slice(b"{\"seq\":half\na line");
    std::fs::write(journal.join(&open), torn).unwrap();
    let (copy, code, said) = backup(folder.path()).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("18 bytes"), "{said}");
    let data = copy.path().join("data");
    assert_eq!(std::fs::metadata(data.join("journal").join(open)).unwrap().len(), whole as u64);
    let aside = std::fs::read(data.join("journal/damaged-1-2.txt")).unwrap();
    assert_eq!(aside, b"set aside\n");
    assert_eq!(rejects(copy.path()).unwrap(), rejects(folder.path()).unwrap());
    let ledger = folder.path().join("ledger");
    std::fs::write(&ledger, acknowledged.join("\n")).unwrap();
    let arguments = ["verify", "--ledger", ledger.to_str().unwrap()];
    let (code, said) = run_command(copy.path(), &arguments).await;
    assert_eq!(code, Some(0), "{said}");
    restores(copy.path(), &acknowledged).await;
}

#[tokio::test]
async fn a_backup_that_was_killed_is_known_and_not_used() {
    let folder = tempfile::tempdir().unwrap();
    data_of_one_session(folder.path()).await;
    // It waits for the end of an erasure.
    let order = folder.path().join("data/erase.json");
    std::fs::write(&order, "an order").unwrap();
    let copy = tempfile::tempdir().unwrap();
    let data = copy.path().join("data");
    let arguments = ["backup", data.to_str().unwrap()];
    let mut child = Process::command(folder.path()).args(arguments).spawn().unwrap();
    until(|| data.join("journal.unfinished").exists()).await;
    child.kill().await.unwrap();
    let (code, said) = run_command(copy.path(), &["--listen", "127.0.0.1:0"]).await;
    assert_eq!(code, Some(2));
    assert!(said.contains("is a backup that was not finished"), "{said}");
    let (code, said) = run_command(copy.path(), &["verify"]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("there is no journal at"), "{said}");
    let (code, said) = run_command(folder.path(), &arguments).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("holds a backup that was not finished; remove it"), "{said}");
}

#[tokio::test]
async fn a_backup_goes_into_an_empty_folder_outside_of_the_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]).await;
    process.signal(Signal::INT);
    process.ended().await;
    let full = folder.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("file"), "mine").unwrap();
    let link = |to: &str, at: &str| {
        std::os::unix::fs::symlink(folder.path().join(to), folder.path().join(at)).unwrap();
    };
    link("data", "link");
    link("data/journal", "to-journal");
    link("nothing", "dangling");
    let all = || {
        let places = ["", "data", "data/journal"];
        let of = |place| names(&folder.path().join(place)).into_iter().collect::<BTreeSet<_>>();
        places.map(of)
    };
    let before = all();
    let absolute = folder.path().join("data/copy");
    let too_long = format!("new/{}", "n".repeat(256));
    for (target, why) in [
        ("full", "is not empty"),
        (".", "is not empty"),
        ("full/file", "is no folder"),
        ("full/file/copy", "cannot look at full/file/copy"),
        ("data", "lies in the data folder"),
        ("data/copy", "lies in the data folder"),
        ("data/deep/copy", "lies in the data folder"),
        ("data/journal/copy", "lies in the data folder"),
        ("full/../data/copy", "lies in the data folder"),
        ("link/copy", "lies in the data folder"),
        ("link", "lies in the data folder"),
        ("to-journal/copy", "lies in the data folder"),
        (absolute.to_str().unwrap(), "lies in the data folder"),
        ("new/../data/copy", "leads through a folder that is not there"),
        ("dangling", "is a link that leads nowhere"),
        ("dangling/copy", "is a link that leads nowhere"),
        (too_long.as_str(), "File name too long"),
    ] {
        let (code, said) = run_command(folder.path(), &["backup", target]).await;
        assert_eq!(code, Some(1));
        assert!(said.contains(why), "{target}: {said}");
        assert_eq!(all(), before, "{target}: nothing is made");
    }
    assert_eq!(names(&full).len(), 1);
    let (code, said) = run_command(folder.path(), &["backup", "deep/copy"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(folder.path().join("deep/copy/journal").is_dir());
}

#[tokio::test]
async fn a_backup_that_fails_leaves_nothing_half() {
    use std::os::unix::fs::symlink;

    let folder = tempfile::tempdir().unwrap();
    data_of_one_session(folder.path()).await;
    let data = folder.path().join("data");
    std::fs::create_dir_all(data.join("other/inside")).unwrap();
    std::fs::write(data.join("other/inside/file"), "file").unwrap();
    std::fs::create_dir(folder.path().join("there")).unwrap();
    // The first stops the copy of the journal, the second that of the files beside it, when most is copied.
    let key = data.join("session.key");
    let aside = data.join("journal/damaged-1-2.txt");
    for (link, at) in [(&aside, "damaged-1-2.txt"), (&key, "session.key")] {
        if link.exists() {
            std::fs::remove_file(link).unwrap();
        }
        symlink("/dev/null", link).unwrap();
        for target in ["there", "new", "new/deep/copy", "there/deep/copy"] {
            let (code, said) = run_command(folder.path(), &["backup", target]).await;
            assert_eq!(code, Some(1));
            assert!(said.contains("no backup was made, and nothing of it is left"), "{said}");
            assert!(said.contains(&format!("{at} is a symbolic link")), "{said}");
            assert!(!folder.path().join("new").exists(), "{target}");
            let there = folder.path().join("there");
            assert!(there.is_dir() && names(&there).is_empty(), "{target}: {:?}", names(&there));
        }
        std::fs::remove_file(link).unwrap();
    }
}

/// The data of a server that took a session and has ended.
async fn data_of_one_session(folder: &Path) -> String {
    let process = Process::start(folder, &[]).await;
    let response =
        client().post(process.url("/api/v1/sessions")).body(SAMPLE).send().await.unwrap();
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let refused = client().post(process.url("/api/v1/sessions")).body("{}").send().await.unwrap();
    assert_eq!(refused.status(), 400);
    process.signal(Signal::INT);
    process.ended().await;
    location
}

#[tokio::test]
async fn a_backup_waits_for_an_order_to_erase_and_does_not_have_it() {
    let folder = tempfile::tempdir().unwrap();
    let location = data_of_one_session(folder.path()).await;
    let order = folder.path().join("data/erase.json");
    std::fs::write(&order, "an order").unwrap();
    let copy = tempfile::tempdir().unwrap();
    let data = copy.path().join("data");
    let target = data.to_str().unwrap();
    let (code, said) = run_command(folder.path(), &["backup", target, "--wait", "0s"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("an order to erase stands"), "{said}");
    assert!(!data.exists(), "what was made for it is removed");
    let mut command = Process::command(folder.path());
    command.args(["backup", target]).stdout(Stdio::piped());
    let command = command.spawn().unwrap();
    until(|| data.join("journal.unfinished").exists()).await;
    assert!(names(&data.join("journal.unfinished")).is_empty());
    std::fs::write(order.with_extension("json.1.unfinished"), "half an order").unwrap();
    std::fs::remove_file(&order).unwrap();
    let output = within(command.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(names(&data).iter().all(|name| !name.starts_with("erase")), "{:?}", names(&data));
    restores(copy.path(), &[location]).await;
}

#[tokio::test]
async fn a_copy_that_breaks_a_promise_is_not_a_backup() {
    let folder = tempfile::tempdir().unwrap();
    data_of_one_session(folder.path()).await;
    let segment = folder.path().join("data/journal/00000000000000000001.ndjson");
    let text = std::fs::read_to_string(&segment).unwrap();
    let (damaged, rest) = text.split_once('\n').unwrap();
    std::fs::write(&segment, format!("{}\n{rest}", damaged.replace("\"seq\":1", "\"seq\":7")))
        .unwrap();
    let (copy, code, said) = backup(folder.path()).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no server starts on this copy"), "{said}");
    let data = names(&copy.path().join("data"));
    assert!(data.contains("journal.unfinished") && !data.contains("journal"), "{data:?}");
    let (code, said) = run_command(copy.path(), &["--listen", "127.0.0.1:0"]).await;
    assert_eq!(code, Some(2));
    assert!(said.contains("is a backup that was not finished"), "{said}");
}

#[tokio::test]
async fn links_are_not_followed_and_the_key_must_not_be_one() {
    let folder = tempfile::tempdir().unwrap();
    let location = data_of_one_session(folder.path()).await;
    let (key, secret) = (folder.path().join("data/session.key"), folder.path().join("secret"));
    std::fs::copy(&key, &secret).unwrap();
    let other = folder.path().join("data/other");
    std::os::unix::fs::symlink(&secret, &other).unwrap();
    let (copy, code, said) = backup(folder.path()).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("data/other is no file; it was not copied"), "{said}");
    let copied = copy.path().join("data/session.key");
    assert!(std::fs::metadata(&copied).unwrap().permissions().mode() & 0o777 == 0o600);
    assert_eq!(std::fs::read(copied).unwrap(), std::fs::read(&secret).unwrap());
    restores(copy.path(), &[location]).await;
    std::fs::remove_file(&key).unwrap();
    std::os::unix::fs::symlink(&secret, &key).unwrap();
    let (_, code, said) = backup(folder.path()).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("session.key is a symbolic link"), "{said}");
}

#[tokio::test]
async fn nobody_else_can_look_into_the_folders_of_the_data_or_of_a_backup() {
    let folder = tempfile::tempdir().unwrap();
    data_of_one_session(folder.path()).await;
    let (copy, code, said) = backup(folder.path()).await;
    assert_eq!(code, Some(0), "{said}");
    for at in [folder.path(), copy.path()] {
        for name in ["data", "data/journal", "data/rejects"] {
            let mode = std::fs::metadata(at.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o007, 0, "{name}");
        }
    }
}

#[tokio::test]
async fn a_backup_across_an_erasure_has_all_of_the_visitor_or_nothing() {
    const VISITORS: usize = 3;
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &SETTINGS[..2]).await;
    let url = process.url("/api/v1/sessions");
    for number in 0..VISITORS * 30 {
        let mut start: serde_json::Value = serde_json::from_str(SAMPLE).unwrap();
        let visitor = format!("visitor-{}", number % VISITORS);
        start["params"]["analytics.visitorId"] = visitor.into();
        let response = client().post(&url).body(start.to_string()).send().await.unwrap();
        assert_eq!(response.status(), 201);
    }
    for visitor in 0..VISITORS {
        let what = format!("analytics.visitorId=visitor-{visitor}");
        let arguments = ["erase", "--yes", "--visitor", &what];
        let erasure = Process::command(folder.path()).args(arguments).output();
        let erasure = tokio::spawn(erasure);
        loop {
            // Looked at before, so that the last backup is one of the time after it.
            let is_done = erasure.is_finished();
            let (copy, code, said) = backup(folder.path()).await;
            assert_eq!(code, Some(0), "{said}");
            let (code, starts) = run_command(copy.path(), &["export", "--kind", "start"]).await;
            assert_eq!(code, Some(0), "{starts}");
            let left = starts.matches(&format!("visitor-{visitor}\"")).count();
            assert!(left == 0 || (left == 30 && !is_done), "{left} sessions are left");
            let others = starts.matches("\"visitor-").count() - left;
            assert_eq!(others, 30 * (VISITORS - visitor - 1));
            if is_done {
                break;
            }
        }
        let output = within(erasure).await.unwrap().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    process.signal(Signal::INT);
    process.ended().await;
}
