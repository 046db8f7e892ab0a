//! What operators type, and what they read.

use std::process::{Output, Stdio};

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::harness::{Process, within};

/// Runs the program to its end.
pub(crate) async fn run(
    arguments: &[&str],
    settings: &[(&str, &str)],
) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Process::command(folder.path());
    command.args(arguments).envs(settings.iter().copied());
    let Output { status, stdout, stderr } = within(command.output()).await.unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[tokio::test]
async fn check_config_prints_what_holds_and_is_a_file_again() {
    let key = "5e".repeat(32);
    let (code, out, _) = run(
        &["check-config", "--listen", "127.0.0.1:81"],
        &[("MEDIATALLY_SESSION__KEY", &key), ("MEDIATALLY_ADMIN_LISTEN", "127.0.0.1:82")],
    )
    .await;
    assert_eq!(code, Some(0));
    assert!(out.contains("listen = \"127.0.0.1:81\" # --listen\n"), "{out}");
    assert!(out.contains("admin_listen = \"127.0.0.1:82\" # MEDIATALLY_ADMIN_LISTEN\n"), "{out}");
    assert!(out.contains("key = \"(hidden)\" # MEDIATALLY_SESSION__KEY\n"), "{out}");
    assert!(!out.contains(&key));
    assert!(out.parse::<toml::Table>().is_ok(), "{out}");
}

#[tokio::test]
async fn a_wrong_configuration_stops_the_start_with_every_problem() {
    let (code, _, error) = run(
        &["--listen", "nowhere"],
        &[("MEDIATALLY_HTTP__CONECTIONS_MAX", "5"), ("MEDIATALLY_LIVE__BYTES_MAX", "much")],
    )
    .await;
    assert_eq!(code, Some(2));
    for expected in [
        "the configuration has 3 problems",
        "listen = \"nowhere\" (--listen): ",
        "http.conections_max (MEDIATALLY_HTTP__CONECTIONS_MAX): no such key; did you mean http.connections_max?",
        "live.bytes_max = \"much\" (MEDIATALLY_LIVE__BYTES_MAX): ",
    ] {
        assert!(error.contains(expected), "{expected}\nin\n{error}");
    }
    let (code, _, error) = run(&["--lissen", "x"], &[]).await;
    assert_eq!(code, Some(2));
    assert!(error.contains("--listen"), "{error}");
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_written_is_named_with_the_user() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let folder = file.path().join("data");
    let folder = folder.to_str().unwrap();
    let (code, _, error) = run(&["--data-dir", folder, "--listen", "127.0.0.1:0"], &[]).await;
    assert_eq!(code, Some(1));
    assert!(
        error.contains(&format!("cannot write to the data folder {folder} as user id ")),
        "{error}"
    );
}

#[tokio::test]
async fn an_address_in_use_is_named_with_its_key() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, error) = run(&["--listen", &address], &[]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains(&format!("cannot listen on {address} (listen)")), "{error}");
}

#[tokio::test]
async fn healthcheck_asks_for_life_and_on_demand_for_readiness() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[("MEDIATALLY_SHUTDOWN__GRACE", "1h")]).await;
    let admin = process.admin_listen.clone();
    let alive = async || run(&["healthcheck", "--admin-listen", &admin], &[]).await;
    let ready = async || run(&["healthcheck", "--ready", "--admin-listen", &admin], &[]).await;
    assert_eq!(alive().await.0, Some(0));
    assert_eq!(ready().await.0, Some(0));
    process.signal(Signal::TERM);
    within(async { while ready().await.0 == Some(0) {} }).await;
    let (code, _, error) = ready().await;
    assert_eq!(code, Some(1));
    assert!(error.contains("503") && error.contains("stopping"), "{error}");
    assert_eq!(alive().await.0, Some(0), "it lives until it ends");
    process.signal(Signal::TERM);
    process.ended().await;
    let (code, _, error) = alive().await;
    assert_eq!(code, Some(1));
    assert!(error.contains(&format!("no answer from http://{admin}/livez")), "{error}");
}

#[tokio::test]
async fn the_start_line_is_written_whatever_the_level() {
    let folder = tempfile::tempdir().unwrap();
    // `start` reads the line and fails without it.
    let process = Process::start(folder.path(), &[("MEDIATALLY_LOG__LEVEL", "off")]).await;
    process.signal(Signal::INT);
    let (status, lines) = process.ended().await;
    assert_eq!((status.code(), lines), (Some(0), Vec::new()));
}

#[tokio::test]
async fn the_key_of_the_data_folder_is_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let read = || std::fs::read_to_string(folder.path().join("data/session.key")).unwrap();
    let mut keys = Vec::new();
    for _ in 0..2 {
        let process = Process::start(folder.path(), &[]).await;
        keys.push(read());
        process.signal(Signal::INT);
        process.ended().await;
    }
    assert_eq!(keys[0], keys[1]);
}

#[tokio::test]
async fn help_tells_the_commands_and_the_environment() {
    let (code, out, _) = run(&["--help"], &[]).await;
    assert_eq!(code, Some(0));
    for word in
        ["serve", "check-config", "healthcheck", "openapi", "--data-dir", "MEDIATALLY_SECTION__KEY"]
    {
        assert!(out.contains(word), "{word}\nin\n{out}");
    }
    let (_, out, _) = run(&["--version"], &[]).await;
    assert_eq!(out, format!("mediatally {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn too_few_open_files_stop_the_start_with_the_number_that_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_mediatally");
    let limited = async |files: u32, arguments: &[&str]| {
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\""), program]);
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]).args(arguments);
        command.current_dir(folder.path()).stdin(Stdio::null()).stderr(Stdio::piped());
        command.kill_on_drop(true).spawn().unwrap()
    };
    let refused = within(limited(255, &[]).await.wait_with_output()).await.unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("255 open files") && said.contains("to 256 at least"), "{said}");
    let mut taken = limited(256, &[]).await;
    let mut lines = BufReader::new(taken.stderr.take().unwrap()).lines();
    let lowered = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("is lowered to fit") {
                return line;
            }
        }
        panic!("it ended");
    };
    let line = within(lowered).await;
    assert!(line.contains("\"connections_max\":64"), "{line}");
}
