//! What operators type, and what they read.

use std::process::{Output, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};
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
    (
        status.code(),
        String::from_utf8(stdout).unwrap(),
        as_text(&String::from_utf8(stderr).unwrap()),
    )
}

/// What a program said, with its last words as it says them to a terminal.
pub(crate) fn as_text(said: &str) -> String {
    let line = |line: &str| {
        let fatal: Value = serde_json::from_str(line).ok()?;
        if fatal["target"] != "mediatally::fatal" {
            return None;
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let mut said = format!("mediatally: {}", text(&fatal["message"])?);
        if let Some(error) = text(&fatal["error"]) {
            said.extend([": ", &error]);
        }
        for problem in fatal["problems"].as_array().into_iter().flatten() {
            said.extend(["\n  ", &text(problem)?]);
        }
        Some(said)
    };
    let lines = said.lines().map(|one| line(one).unwrap_or_else(|| one.to_owned()) + "\n");
    lines.collect()
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

/// The lines of standard error of a server that does not start, whose log is JSON.
async fn fatal(arguments: &[&str], settings: &[(&str, &str)]) -> (Option<i32>, Value) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Process::command(folder.path());
    command.args(arguments).envs(settings.iter().copied());
    let Output { status, stderr, .. } = within(command.output()).await.unwrap();
    let lines: Vec<Value> = String::from_utf8(stderr)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    (status.code(), lines.last().unwrap().clone())
}

#[tokio::test]
async fn a_start_that_fails_says_so_in_one_line_of_json_if_logs_are_json() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let inside = file.path().join("data");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&config, "[log]\nformat = \"json\"\n[htp]\n").unwrap();
    let config = config.path().to_str().unwrap();
    let json = [("MEDIATALLY_LOG__FORMAT", "json")];
    let any = "127.0.0.1:0";
    for (arguments, settings, code, message) in [
        (&["--listen", "nowhere"][..], &json[..], 2, "the configuration has 1 problem"),
        (&["--config", config], &[], 2, "the configuration has 1 problem"),
        (&["--config", "/nowhere/x.toml"], &[], 2, "the configuration has 1 problem"),
        (&["--lissen", "x"], &json, 2, "unexpected argument '--lissen' found"),
        (&["--listen", &taken], &json, 1, &format!("cannot listen on {taken} (listen)")),
        (&["--listen", "192.0.2.1:80"], &json, 1, "cannot listen on 192.0.2.1:80 (listen)"),
        (&["--listen", any, "--data-dir", inside.to_str().unwrap()], &json, 2, "cannot write to"),
        (
            &["--listen", any, "--admin-listen", any],
            &[("MEDIATALLY_ADMIN__TOKEN_FILE", "/nowhere/t")],
            2,
            "admin.token_file = \"/nowhere/t\": the token cannot be read",
        ),
        (
            &["--listen", any, "--admin-listen", any],
            &[("MEDIATALLY_TLS__CERTIFICATE", "/nowhere/c"), ("MEDIATALLY_TLS__KEY", "/nowhere/k")],
            2,
            "tls.certificate = \"/nowhere/c\": the file cannot be read",
        ),
    ] {
        let (ended, line) = fatal(arguments, settings).await;
        assert_eq!(ended, Some(code), "{line}");
        assert!(line["message"].as_str().unwrap().starts_with(message), "{message} in {line}");
        assert_eq!((&line["level"], &line["exit_code"]), (&json!("ERROR"), &json!(code)));
        assert!(line["timestamp"].is_string());
    }
    let (_, line) = fatal(&["--listen", "nowhere", "--admin-listen", "there"], &json).await;
    assert_eq!(line["problems"].as_array().unwrap().len(), 2);
    let human = [("MEDIATALLY_LOG__FORMAT", "human")];
    let (_, _, error) = run(&["--listen", "nowhere"], &human).await;
    assert!(
        error.starts_with("mediatally: the configuration has 1 problem\n  listen = "),
        "{error}"
    );
    // Whoever types a command reads what it says.
    let folder = tempfile::tempdir().unwrap();
    let output = within(Process::command(folder.path()).arg("verify").envs(json).output()).await;
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(said.starts_with("mediatally: there is no journal at "), "{said}");
}

#[tokio::test]
async fn an_argument_that_is_no_text_is_wrong_like_others() {
    use std::os::unix::ffi::OsStrExt;

    let folder = tempfile::tempdir().unwrap();
    for (before, message) in
        [(&[][..], "unrecognized subcommand"), (&["export"], "unexpected argument")]
    {
        let mut command = Process::command(folder.path());
        command.args(before).arg(std::ffi::OsStr::from_bytes(b"\xff"));
        let output = within(command.output()).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(message), "{said}");
    }
}

#[tokio::test]
async fn a_summary_that_nobody_reads_stops_no_export() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]).await;
    process.signal(Signal::INT);
    process.ended().await;
    let mut command = Process::command(folder.path());
    command.args(["export", "--kind", "report", "--recompute"]).stdout(Stdio::null());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stderr(writer);
    assert_eq!(within(command.status()).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn check_config_finds_what_a_start_warns_of_or_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mode = |mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let look = async |settings: &[(&str, &str)]| {
        let data = data.to_str().unwrap();
        let (code, out, error) = run(&["check-config", "--data-dir", data], settings).await;
        assert!(out.parse::<toml::Table>().is_ok(), "{out}");
        let of = |kind: &str| {
            let lines = out.lines().filter_map(|line| line.strip_prefix(kind));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        (code, of("# warning: "), error)
    };
    let (code, warnings, error) = look(&[]).await;
    assert_eq!((code, warnings, &*error), (Some(0), Vec::new(), ""));
    assert!(!data.exists(), "it makes nothing");
    std::fs::create_dir(&data).unwrap();
    mode(0o750);
    let (code, warnings, _) = look(&[
        ("MEDIATALLY_LISTN", "127.0.0.1:1"),
        ("MEDIATALLY_PRIVACY__DROP", "media.nothing"),
        ("MEDIATALLY_HTTP__CONNECTIONS_MAX", "999999999"),
    ])
    .await;
    assert_eq!((code, warnings.len()), (Some(0), 3), "{warnings:?}");
    let all = warnings.join("\n");
    for expected in [
        "MEDIATALLY_LISTN sets nothing",
        "did you mean MEDIATALLY_LISTEN?",
        "http.connections_max is lowered to fit the limit of open files",
        "no documented parameter has; they are taken out if players send them: media.nothing",
    ] {
        assert!(all.contains(expected), "{expected}\nin\n{all}");
    }
    let refused = async |settings: &[(&str, &str)], expected: &str| {
        let (code, _, error) = look(settings).await;
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains(expected), "{expected}\nin\n{error}");
    };
    let certificate =
        [("MEDIATALLY_TLS__CERTIFICATE", "/nowhere/c"), ("MEDIATALLY_TLS__KEY", "/nowhere/k")];
    let token = [("MEDIATALLY_ADMIN__TOKEN_FILE", "/nowhere/token")];
    refused(&certificate, "tls.certificate = \"/nowhere/c\": the file cannot be read").await;
    refused(&token, "admin.token_file = \"/nowhere/token\": the token cannot be read").await;
    let both = [certificate[0], certificate[1], token[0]];
    refused(&both, "tls.certificate = ").await;
    refused(&both, "admin.token_file = ").await;
    refused(&[("MEDIATALLY_LISTEN", "192.0.2.1:80")], "cannot listen on 192.0.2.1:80 (listen)")
        .await;
    mode(0o777);
    let (_, warnings, _) = look(&[]).await;
    assert!(warnings[0].starts_with("everybody can write to a folder of the data"), "{warnings:?}");
    refused(
        &[("MEDIATALLY_STORAGE__STRICT_PERMISSIONS", "true")],
        "storage.strict_permissions is set",
    )
    .await;
    mode(0o750);
    std::fs::create_dir(data.join("journal")).unwrap();
    std::fs::write(data.join("journal/1"), "").unwrap();
    refused(&[], "there is a journal but no session key").await;
    std::fs::write(data.join("session.key"), "none").unwrap();
    refused(&[], "is not a session key").await;
    std::fs::write(data.join("session.key"), "5e".repeat(32)).unwrap();
    let (_, warnings, _) = look(&[]).await;
    assert!(
        warnings[0].starts_with("others can read the session key; chmod 600 it"),
        "{warnings:?}"
    );
    std::fs::create_dir(data.join("journal.unfinished")).unwrap();
    refused(&[], "is a backup that was not finished").await;
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::write(&data, "").unwrap();
    refused(&[], "cannot write to the data folder").await;
}

#[tokio::test]
async fn check_config_may_look_while_the_server_runs() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]).await;
    let arguments =
        ["check-config", "--listen", &process.listen, "--admin-listen", &process.admin_listen];
    let command = Process::command(folder.path()).args(arguments).output();
    let output = within(command).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    process.signal(Signal::INT);
    process.ended().await;
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_written_is_named_with_the_user() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let folder = file.path().join("data");
    let folder = folder.to_str().unwrap();
    let (code, _, error) = run(&["--data-dir", folder, "--listen", "127.0.0.1:0"], &[]).await;
    assert_eq!(code, Some(2));
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
    for arguments in [
        &["help"][..],
        &["help", "--help"],
        &["help", "-h"],
        &["serve", "--help"],
        &["help", "serve"],
        &["help", "erase"],
        &["help", "help"],
        &["help", "erase", "--help"],
        &["--listen", "nowhere", "help"],
    ] {
        let (code, out, error) = run(arguments, &[]).await;
        assert_eq!((code, &*error), (Some(0), ""), "{arguments:?}");
        assert!(out.contains("Usage: mediatally"), "{out}");
    }
    assert!(run(&["help", "erase"], &[]).await.1.contains("--visitor"));
    let (code, _, error) = run(&["help", "ersae"], &[]).await;
    assert_eq!(code, Some(2));
    assert!(error.contains("there is no command \"ersae\""), "{error}");
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
    assert_eq!(refused.status.code(), Some(2));
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
