//! A person's data is erased from everything in the data folder.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use reqwest::Response;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Process, SAMPLE, client, files, until, within};

const VALUE: &str = "Zoë-Geheim-7";

/// What of the value is the same however it is written.
const NEEDLE: &str = "-Geheim-7";

/// So that every few requests begin a new segment, and checkpoints are there.
const SETTINGS: [(&str, &str); 3] = [
    ("MEDIATALLY_JOURNAL__SEGMENT_BYTES_MAX", "4KiB"),
    ("MEDIATALLY_JOURNAL__CHECKPOINT_INTERVAL", "20ms"),
    ("MEDIATALLY_SHUTDOWN__GRACE", "0s"),
];

const ERASE: [&str; 4] = ["erase", "--yes", "--visitor", "user=Zoë-Geheim-7"];

/// Runs a command of the program on the data folder in `folder`.
async fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = within(Process::command(folder).args(arguments).output()).await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// The start of a session of this user.
fn start_of(user: &str) -> String {
    let mut body: Value = serde_json::from_str(SAMPLE).unwrap();
    body["customMetadata"]["user"] = user.into();
    body.to_string()
}

async fn post(url: &str, body: String) -> Response {
    client().post(url).body(body).send().await.unwrap()
}

/// Starts a session and gives its id.
async fn start(process: &Process, user: &str) -> String {
    let response = post(&process.url("/api/v1/sessions"), start_of(user)).await;
    assert_eq!(response.status(), 201);
    response.headers()["location"].to_str().unwrap().rsplit('/').next().unwrap().to_owned()
}

/// The answers of the admin side on a session and on its records.
async fn looked_up(process: &Process, id: &str) -> (u16, u16) {
    let ask = async |path: String| {
        client().get(process.admin_url(&path)).send().await.unwrap().status().as_u16()
    };
    (ask(format!("/sessions/{id}")).await, ask(format!("/sessions/{id}/events")).await)
}

async fn send(process: &Process, id: &str, event_type: &str) -> u16 {
    let body = json!({"eventType": event_type, "playerTime": {"ts": 1_700_000_000_000_u64, "playhead": 1}});
    let url = process.url(&format!("/api/v1/sessions/{id}/events"));
    post(&url, body.to_string()).await.status().as_u16()
}

/// The records of the sessions that are not these, as `export` shows them.
async fn others(folder: &Path, ids: &[String]) -> Vec<String> {
    let (code, text) = run(folder, &["export", "--kind", "start,event,batch,close,report"]).await;
    assert_eq!(code, Some(0), "{text}");
    text.lines()
        .filter(|line| ids.iter().all(|id| !line.contains(&**id)))
        .map(str::to_owned)
        .collect()
}

/// Fails if any of the texts stands in any file below a folder, packed or not.
fn hold_to_nowhere(folder: &Path, texts: &[&str]) {
    for (name, bytes) in files(folder) {
        let text = String::from_utf8_lossy(&bytes);
        for looked_for in texts {
            assert!(!text.contains(looked_for), "{looked_for} stands in {name}");
        }
    }
}

/// How many files of the journal have this extension.
fn count_of(folder: &Path, extension: &str) -> usize {
    let entries = std::fs::read_dir(folder.join("data/journal")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|found| found == extension)).count()
}

/// Sessions of the visitor, live and ended, among many of others, a refused body and a line that was set
/// aside. Gives the ids of the visitor's sessions and one of another.
async fn fill(process: &Process, folder: &Path) -> (Vec<String>, String) {
    let mut ids = Vec::new();
    let mut other = String::new();
    for round in 0..12 {
        if round % 4 == 0 {
            ids.push(start(process, VALUE).await);
        }
        other = start(process, "Zoë").await;
        let ended = if round == 6 { &ids[1] } else { &other };
        assert_eq!(send(process, ended, "sessionEnd").await, 204);
    }
    other = start(process, &format!("another than {}", &other[..4])).await;
    // Two spellings of the value, in bodies that no session has.
    let refused = start_of(VALUE).replace("sessionStart", "sessionStartt");
    assert_eq!(post(&process.url("/api/v1/sessions"), refused.clone()).await.status(), 400);
    let refused = refused.replace('ë', "\\u00eb");
    assert_eq!(post(&process.url("/api/v1/sessions"), refused).await.status(), 400);
    assert_eq!(
        post(&process.url("/api/v1/sessions"), "{\"of\":\"another\"".into()).await.status(),
        400
    );
    let aside = folder.join("data/journal/damaged-00000000000000000001-9.txt");
    std::fs::write(aside, format!("of another\nhalf a line with {VALUE}\n")).unwrap();
    // How many segments the records make depends on how they were grouped. No more of them are made than can be
    // compressed meanwhile, because they are before the server ends.
    loop {
        until(|| count_of(folder, "ndjson") == 1).await;
        if count_of(folder, "zst") > 3 {
            break;
        }
        start(process, "Zoë").await;
    }
    let current = folder.join("data/rejects/current.ndjson");
    until(|| std::fs::read_to_string(&current).is_ok_and(|text| text.lines().count() == 3)).await;
    (ids, other)
}

#[tokio::test]
async fn a_running_server_erases_a_visitor_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &SETTINGS).await;
    let (ids, other) = fill(&process, folder.path()).await;
    // The report of the session that has ended is written by then.
    within(async {
        while !run(folder.path(), &["export", "--kind", "report"]).await.1.contains(&ids[1]) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let (code, shown) =
        run(folder.path(), &["erase", "--dry-run", "--visitor", "user=Zoë-Geheim-7"]).await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("sessions   3\n") && shown.contains("nothing was changed"), "{shown}");
    assert!(shown.contains("lines      2 of refused bodies, 1 set aside, 0 damaged"), "{shown}");

    let (code, said) = run(folder.path(), &ERASE).await;
    assert_eq!(code, Some(0), "{said}");
    for expected in [
        "while the server ran",
        "visitor    user, value with BLAKE3 ",
        "sessions   3\n",
        "lines      2 of refused bodies (2 in memory), 1 set aside, 0 damaged",
        "search     the values stand in no record before the cut-off and no saved state",
    ] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
    assert!(!said.contains(NEEDLE), "{said}");
    let mut gone: Vec<&str> = ids.iter().map(String::as_str).collect();
    gone.push(NEEDLE);
    hold_to_nowhere(&folder.path().join("data"), &gone);
    let rejects = client().get(process.admin_url("/rejects")).send().await.unwrap();
    let rejects = rejects.text().await.unwrap();
    assert!(!rejects.contains(NEEDLE) && rejects.contains("of"), "{rejects}");
    assert_eq!(send(&process, &ids[0], "ping").await, 410);
    assert_eq!(send(&process, &other, "ping").await, 204);
    assert_eq!(looked_up(&process, &ids[0]).await, (404, 404));
    assert_eq!(looked_up(&process, &other).await, (200, 200));
    let (code, verified) = run(folder.path(), &["verify"]).await;
    assert_eq!(code, Some(0), "{verified}");
    assert!(verified.contains("erased     ") && verified.contains(" erased"), "{verified}");

    // The visitor may come again, and that is new data.
    let again = start(&process, VALUE).await;
    process.signal(Signal::KILL);
    process.ended().await;
    let process = Process::start(folder.path(), &SETTINGS).await;
    assert_eq!(process.read_back["damaged"], 0);
    assert_eq!(process.read_back["missing"], 0);
    assert_eq!(send(&process, &again, "ping").await, 204);
    assert_eq!(send(&process, &ids[2], "ping").await, 410);
    for id in &ids {
        assert_eq!(looked_up(&process, id).await, (404, 404), "nor after a restart");
    }
    let (code, verified) = run(folder.path(), &["verify"]).await;
    assert_eq!(code, Some(0), "{verified}");
}

#[tokio::test]
async fn a_stopped_server_leaves_the_work_to_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &SETTINGS).await;
    let (ids, _) = fill(&process, folder.path()).await;
    process.signal(Signal::TERM);
    process.ended().await;
    let before = others(folder.path(), &ids).await;
    let (code, said) = run(folder.path(), &ERASE[..1]).await;
    assert_eq!(code, Some(2), "something must be named: {said}");
    let (code, said) = run(folder.path(), &["erase", "--visitor", "user=Zoë-Geheim-7"]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("say --yes"), "{said}");
    let (code, said) = run(folder.path(), &[&ERASE[..], &["--json"]].concat()).await;
    assert_eq!(code, Some(0), "{said}");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["sessions"], &said["records"]["start"]), (&json!(3), &json!(3)));
    assert_eq!((&said["checkpoints"], &said["value_left_lines"]), (&json!(2), &json!(0)));
    assert_eq!((&said["reject_lines"], &said["set_aside_lines"]), (&json!(2), &json!(1)));
    assert_eq!(said["selection"]["visitor"][0]["key"], "user");
    let mut gone: Vec<&str> = ids.iter().map(String::as_str).collect();
    gone.push(NEEDLE);
    hold_to_nowhere(&folder.path().join("data"), &gone);
    assert_eq!(others(folder.path(), &ids).await, before, "all others are as they were");
    let (code, verified) = run(folder.path(), &["verify"]).await;
    assert_eq!(code, Some(0), "{verified}");
    let (code, again) = run(folder.path(), &ERASE).await;
    assert_eq!(code, Some(0), "{again}");
    assert!(
        again.contains("sessions   0\n") && again.contains("0 segments and 0 checkpoints"),
        "{again}"
    );
    let process = Process::start(folder.path(), &SETTINGS).await;
    assert_eq!(process.read_back["missing"], 0);
}

/// What no program can remove or write stands in the way of an erasure: in the place of a file.
struct Obstacle(PathBuf);

impl Obstacle {
    fn at(path: PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Obstacle {
    fn drop(&mut self) {
        std::fs::remove_dir(&self.0).unwrap();
    }
}

/// Everything else is there already when refused bodies are removed, and nothing when the order is written.
#[tokio::test]
async fn an_erasure_that_was_interrupted_is_finished_by_the_next_start() {
    for (place, is_running) in [
        ("data/erase.json.unfinished", true),
        ("data/erase.json.unfinished", false),
        ("data/rejects/obstacle", true),
        ("data/rejects/obstacle", false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::start(folder.path(), &SETTINGS).await;
        let (ids, _) = fill(&process, folder.path()).await;
        let mut running = Some(process);
        if !is_running && let Some(process) = running.take() {
            process.signal(Signal::TERM);
            process.ended().await;
        }
        let before = others(folder.path(), &ids).await;
        let obstacle = Obstacle::at(folder.path().join(place));
        let (code, said) = run(folder.path(), &ERASE).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("the order stands") && !said.contains(NEEDLE), "{said}");
        let order = folder.path().join("data/erase.json");
        assert!(order.exists());
        if let Some(process) = running {
            process.signal(Signal::KILL);
            process.ended().await;
        }
        drop(obstacle);
        let process = Process::start(folder.path(), &SETTINGS).await;
        assert_eq!(
            (&process.read_back["damaged"], &process.read_back["missing"]),
            (&json!(0), &json!(0))
        );
        for id in &ids {
            assert_eq!(send(&process, id, "ping").await, 410, "{place}: from the first moment on");
            assert_eq!(looked_up(&process, id).await, (404, 404));
        }
        until(|| !order.exists()).await;
        let mut gone: Vec<&str> = ids.iter().map(String::as_str).collect();
        gone.push(NEEDLE);
        hold_to_nowhere(&folder.path().join("data"), &gone);
        // Sessions that had just ended may get their report now.
        let after = others(folder.path(), &ids).await;
        assert_eq!(after[..before.len()], before[..]);
        let (code, verified) = run(folder.path(), &["verify"]).await;
        assert_eq!(code, Some(0), "{place}: {verified}");
    }
}

#[tokio::test]
async fn a_server_that_cannot_finish_an_erasure_starts_without_the_sessions_that_go() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &SETTINGS).await;
    let (ids, other) = fill(&process, folder.path()).await;
    process.signal(Signal::TERM);
    process.ended().await;
    let obstacle = Obstacle::at(folder.path().join("data/erase.json.unfinished"));
    let (code, said) = run(folder.path(), &ERASE).await;
    assert_eq!(code, Some(1), "{said}");
    let order = folder.path().join("data/erase.json");
    for signal in [Signal::KILL, Signal::TERM] {
        let process = Process::start(folder.path(), &SETTINGS).await;
        assert!(order.exists(), "it is not done");
        for id in &ids {
            assert_eq!(send(&process, id, "ping").await, 410);
            assert_eq!(looked_up(&process, id).await, (404, 404), "its records still stand there");
        }
        assert_eq!(send(&process, &other, "ping").await, 204);
        let told = process.seen.join("\n");
        assert!(told.contains("its sessions are left out") && !told.contains(NEEDLE), "{told}");
        let health = process.admin_url("/readyz?verbose");
        let health = client().get(health).send().await.unwrap().text().await.unwrap();
        assert!(health.contains("[i]erasure: an order is carried out"), "{health}");
        assert!(health.ends_with("readyz check passed\n"), "{health}");
        process.signal(signal);
        process.ended().await;
    }
    drop(obstacle);
    let process = Process::start(folder.path(), &SETTINGS).await;
    until(|| !order.exists()).await;
    let mut gone: Vec<&str> = ids.iter().map(String::as_str).collect();
    gone.push(NEEDLE);
    hold_to_nowhere(&folder.path().join("data"), &gone);
    assert_eq!(send(&process, &other, "ping").await, 204);
    process.signal(Signal::TERM);
    process.ended().await;
    std::fs::write(&order, "{}").unwrap();
    // It listens before it finds that.
    let any = [("MEDIATALLY_LISTEN", "127.0.0.1:0"), ("MEDIATALLY_ADMIN_LISTEN", "127.0.0.1:0")];
    let served = Process::command(folder.path()).args(["serve"]).envs(any).output();
    let text = String::from_utf8(within(served).await.unwrap().stderr).unwrap();
    assert!(text.contains("no order that this version knows"), "{text}");
    let (code, said) = run(folder.path(), &ERASE).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("erase.json") && said.contains("repair the file"), "{said}");
    assert!(!said.contains("the next start"), "nothing finishes it: {said}");
}

/// The server is killed while it erases, whenever that is, and each one that starts goes on.
#[tokio::test]
async fn servers_that_are_killed_while_they_erase_start_at_once_and_finish_it_together() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [&SETTINGS[1..], &[("MEDIATALLY_JOURNAL__SEGMENT_BYTES_MAX", "1KiB")]].concat();
    let process = Process::start(folder.path(), &settings).await;
    let (mut ids, mut other) = (Vec::new(), String::new());
    for _ in 0..60 {
        ids.push(start(&process, VALUE).await);
        other = start(&process, "Zoë").await;
        send(&process, &other, "play").await;
    }
    let data = folder.path().join("data");
    let order = data.join("erase.json");
    let mut command = Process::command(folder.path());
    let mut command = command.args(ERASE).kill_on_drop(true).spawn().unwrap();
    until(|| order.exists()).await;
    process.signal(Signal::KILL);
    process.ended().await;
    command.kill().await.unwrap();
    let was_killed = order.exists();
    let mut wait_ms = 900;
    while order.exists() {
        let process = Process::start(folder.path(), &settings).await;
        for id in [&ids[0], &ids[59]] {
            assert_eq!(send(&process, id, "ping").await, 410);
            assert_eq!(looked_up(&process, id).await, (404, 404));
        }
        assert_eq!(send(&process, &other, "ping").await, 204);
        // It looks for an order a second after it has begun; so some are killed before, and most in the middle.
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        process.signal(Signal::KILL);
        process.ended().await;
        wait_ms += 150;
    }
    let mut gone: Vec<&str> = ids.iter().map(String::as_str).collect();
    gone.push(NEEDLE);
    hold_to_nowhere(&data, &gone);
    let summary = std::fs::read(&summaries(folder.path())[0]).unwrap();
    let summary: Value = serde_json::from_slice(&summary).unwrap();
    let evidence = &summary["state"]["done"];
    assert_eq!(
        (&evidence["sessions"], &evidence["records"], &evidence["was_interrupted"]),
        (&json!(60), &json!({"start": 60}), &json!(was_killed)),
        "{summary}"
    );
    let process = Process::start(folder.path(), &settings).await;
    assert_eq!(send(&process, &other, "ping").await, 204);
    let (code, verified) = run(folder.path(), &["verify"]).await;
    assert_eq!(code, Some(0), "{verified}");
}

/// The files of summaries in the data folder.
fn summaries(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder.join("data")).unwrap();
    let paths = files.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.display().to_string().contains("/erase-result-")).collect()
}

#[tokio::test]
async fn what_an_order_erased_is_told_by_whoever_finishes_it() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &SETTINGS).await;
    let data = folder.path().join("data");
    start(&process, VALUE).await;
    start(&process, "Mia").await;
    process.signal(Signal::TERM);
    process.ended().await;
    std::fs::create_dir_all(data.join("rejects")).unwrap();
    let obstacle = Obstacle::at(data.join("rejects/obstacle"));
    assert_eq!(
        run(folder.path(), &ERASE).await.0,
        Some(1),
        "its records are gone, the order is not"
    );
    drop(obstacle);
    let (code, said) = run(folder.path(), &[&ERASE[..], &["--json"]].concat()).await;
    assert_eq!(code, Some(0), "{said}");
    let summaries_said = serde_json::Deserializer::from_str(&said).into_iter::<Value>().take(2);
    let told: Vec<_> = summaries_said
        .map(|summary| {
            let summary = summary.unwrap();
            (summary["sessions"].clone(), summary["was_interrupted"].clone())
        })
        .collect();
    assert_eq!(told, [(json!(1), json!(true)), (json!(0), json!(false))], "{said}");
    assert!(summaries(folder.path()).is_empty());

    // Nothing of this order is begun when the server finds it.
    let obstacle = Obstacle::at(data.join("erase.json.unfinished"));
    let mia = ["erase", "--yes", "--visitor", "user=Mia"];
    assert_eq!(run(folder.path(), &mia).await.0, Some(1));
    drop(obstacle);
    let process = Process::start(folder.path(), &SETTINGS).await;
    until(|| !data.join("erase.json").exists()).await;
    let names = summaries(folder.path());
    assert_eq!(names.len(), 1);
    process.signal(Signal::TERM);
    let told = [process.seen.clone(), process.ended().await.1].concat().join("\n");
    assert!(told.contains(&names[0].file_name().unwrap().display().to_string()), "{told}");
    assert_eq!(run(folder.path(), &ERASE).await.0, Some(0));
    let summary: Value = serde_json::from_slice(&std::fs::read(&names[0]).unwrap()).unwrap();
    let evidence = &summary["state"]["done"];
    assert_eq!((&evidence["sessions"], &evidence["was_interrupted"]), (&json!(1), &json!(true)));
}

#[tokio::test]
async fn a_refusal_goes_that_names_the_value_in_its_path_or_its_message() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [&SETTINGS[..], &[("MEDIATALLY_LIMITS__REPORT_SUITES", "[\"of-us\"]")]].concat();
    let process = Process::start(folder.path(), &settings).await;
    let event = json!({"eventType": "ping", "playerTime": {"ts": 1, "playhead": 1}}).to_string();
    for (path, status) in [
        ("/api/v1/sessions/Zo%C3%AB-Geheim-7/events", 404),
        ("/api/v1/sessions/%5ao%c3%ab%2DGeheim-7/events", 404),
        ("/api/v1/sessions/of-another/events", 404),
    ] {
        assert_eq!(post(&process.url(path), event.clone()).await.status(), status);
        let broken = post(&process.url(path), "{}".into()).await;
        assert_eq!(broken.status(), 400, "the file has this one, too");
    }
    let mut body: Value = serde_json::from_str(SAMPLE).unwrap();
    for suite in [VALUE, "of-another"] {
        body["params"]["analytics.reportSuite"] = suite.into();
        let refused = post(&process.url("/api/v1/sessions"), body.to_string()).await;
        assert_eq!(refused.status(), 403, "its body is not kept");
    }
    let current = folder.path().join("data/rejects/current.ndjson");
    until(|| std::fs::read_to_string(&current).is_ok_and(|text| text.lines().count() == 3)).await;
    let (code, said) = run(folder.path(), &ERASE).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("lines      2 of refused bodies (5 in memory)"), "{said}");
    let rejects = client().get(process.admin_url("/rejects")).send().await.unwrap();
    let rejects = rejects.text().await.unwrap();
    for text in [&rejects, &std::fs::read_to_string(&current).unwrap()] {
        assert!(!text.contains("Geheim"), "{text}");
        assert!(text.contains("of-another"), "{text}");
    }
    assert_eq!(rejects.matches("of-another").count(), 3, "{rejects}");
}

#[tokio::test]
async fn visitors_are_given_by_a_file_so_that_the_process_list_does_not_show_them() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &SETTINGS).await;
    start(&process, VALUE).await;
    start(&process, "Mia").await;
    let mut body: Value = serde_json::from_str(SAMPLE).unwrap();
    body["params"]["user"] = "Mia".into();
    assert_eq!(post(&process.url("/api/v1/sessions"), body.to_string()).await.status(), 201);
    let list = folder.path().join("list");
    std::fs::write(&list, format!("user={VALUE}\n\ncustomMetadata.user=Mia\n")).unwrap();
    let from_input = async |arguments: &[&str]| {
        let mut command = Process::command(folder.path());
        command.args(["erase", "--visitors", "-"]).args(arguments);
        command.stdin(std::fs::File::open(&list).unwrap());
        let output = within(command.output()).await.unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), said)
    };
    let (code, said) = from_input(&[]).await;
    assert_eq!(code, Some(2), "there is no way to ask: {said}");
    let (code, said) = from_input(&["--dry-run"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("sessions   2\n"), "{said}");
    assert!(said.contains("a value still stands in 1 records"), "a parameter of another: {said}");
    let (code, said) = run(folder.path(), &["erase", "--yes", "--visitors", "list"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("sessions   2\n") && !said.contains(NEEDLE), "{said}");
    std::fs::write(&list, NEEDLE).unwrap();
    let (code, said) = from_input(&["--yes"]).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("line 1") && !said.contains(NEEDLE), "{said}");
}

#[tokio::test]
async fn sessions_are_erased_by_id_and_kinds_of_selection_are_not_mixed() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &SETTINGS).await;
    let (one, two) = (start(&process, VALUE).await, start(&process, VALUE).await);
    let backwards = ["erase", "--yes", "--from", "2026-12-31", "--until", "2026-01-01"];
    let (code, said) = run(folder.path(), &backwards).await;
    assert_eq!(code, Some(2), "{said}");
    for mixed in [["--visitor", "a=b"], ["--visitors", "list"], ["--from", "2020-01-01"]] {
        let arguments = [&["erase", "--yes", "--session", &one], &mixed[..]].concat();
        let (code, said) = run(folder.path(), &arguments).await;
        assert_eq!(code, Some(2), "{said}");
    }
    let location = format!("/api/v1/sessions/{one}/");
    let (code, said) = run(folder.path(), &["erase", "--yes", "--session", &location]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains(&format!("session    {one}\n")) && said.contains("sessions   1\n"),
        "{said}"
    );
    assert_eq!(
        (send(&process, &one, "ping").await, send(&process, &two, "ping").await),
        (410, 204)
    );
    let (code, said) = run(folder.path(), &["erase", "--yes", "--from", "2020-01-01"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("sessions   1\n"), "{said}");
    assert_eq!(send(&process, &two, "ping").await, 410);
    let files = std::fs::read_dir(folder.path().join("data")).unwrap();
    let names: Vec<_> =
        files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| !name.starts_with("erase")), "{names:?}");
}

#[tokio::test]
async fn a_summary_that_is_not_printed_stands_in_its_file() {
    for is_running in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::start(folder.path(), &SETTINGS).await;
        start(&process, VALUE).await;
        let mut running = Some(process);
        if !is_running && let Some(process) = running.take() {
            process.signal(Signal::TERM);
            process.ended().await;
        }
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = Process::command(folder.path());
        command.args(ERASE).stdout(full).stderr(Stdio::piped());
        let output = within(command.spawn().unwrap().wait_with_output()).await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("it is erased, but the summary was not printed"), "{said}");
        let file = said.lines().find_map(|line| line.split_once("it stands in ")).unwrap().1;
        let file = file.split(": ").next().unwrap();
        let summary: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        assert_eq!(summary["state"]["done"]["sessions"], 1, "{summary}");
    }
}

#[tokio::test]
async fn a_value_that_the_journal_has_only_as_a_hash_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [&SETTINGS[..], &[("MEDIATALLY_PRIVACY__HASH", "user")]].concat();
    let process = Process::start(folder.path(), &settings).await;
    let (one, two) = (start(&process, VALUE).await, start(&process, "Zoë").await);
    hold_to_nowhere(&folder.path().join("data"), &[NEEDLE]);
    let (code, said) = run(folder.path(), &ERASE).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("sessions   1\n"), "{said}");
    hold_to_nowhere(&folder.path().join("data"), &[&one]);
    assert_eq!(send(&process, &two, "ping").await, 204);
}

#[tokio::test]
async fn hashes_are_looked_for_with_the_keys_of_the_configuration_and_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let key = "ab".repeat(32);
    let hashing = [&SETTINGS[..], &[("MEDIATALLY_PRIVACY__HASH", "user")]].concat();
    let configured = [&hashing[..], &[("MEDIATALLY_SESSION__KEY", &*key)]].concat();
    std::fs::write(folder.path().join("m.toml"), format!("[session]\nkey = \"{key}\"\n")).unwrap();
    let with_key = [&ERASE[..], &["--config", "m.toml"]].concat();
    let process = Process::start(folder.path(), &configured).await;
    let one = start(&process, VALUE).await;
    for extra in [&[][..], &["--dry-run"]] {
        let (code, said) = run(folder.path(), &[&ERASE[..], extra].concat()).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("hashed values") && said.contains("--config"), "{said}");
    }
    let (code, said) = run(folder.path(), &[&with_key[..], &["--dry-run"]].concat()).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("sessions   1\n"), "{said}");
    process.signal(Signal::TERM);
    process.ended().await;

    // The same folder with a key of its own, and then with the other one again.
    std::fs::write(folder.path().join("data/session.key"), "cd".repeat(32)).unwrap();
    let (code, said) = run(folder.path(), &ERASE).await;
    assert_eq!(code, Some(1), "that is not the key of the newest session: {said}");
    assert!(said.contains("hashed values") && said.contains("--config"), "{said}");
    let process = Process::start(folder.path(), &hashing).await;
    let two = start(&process, VALUE).await;
    let (code, said) = run(folder.path(), &with_key).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("sessions   2\n"), "{said}");
    hold_to_nowhere(&folder.path().join("data"), &[&one, &two]);
}
