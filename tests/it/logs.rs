//! What the log tells, and what it must not.

use std::net::SocketAddr;

use rustix::process::Signal;
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{Process, Raw, SAMPLE, client, post_request, within};

/// The key and the token of the server.
const KEY: &str = "5ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2";
const TOKEN: &str = "5ecret-token-of-this-server";

/// What must not be told, at any level: values from bodies, secrets, who sent what.
const HIDDEN: [&str; 5] = [KEY, "5ecret", "v4lue", "4gent", "127.0.0.77"];

/// The address that the players of this chapter have, which no other does.
const PLAYER: [u8; 4] = [127, 0, 0, 77];

/// A socket of such a player.
async fn connect(address: &str) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((PLAYER, 0).into()).unwrap();
    let stream: TcpStream = socket.connect(address.parse::<SocketAddr>().unwrap()).await.unwrap();
    Raw(stream)
}

/// The sample with a value and a name of its own.
fn good() -> String {
    let (before, after) = SAMPLE.split_once("\"params\"").unwrap();
    format!("{before}\"customMetadata\":{{\"n4me\":\"v4lue\"}},\"params\"{after}")
        .replace("ClickMe", "v4lue")
}

/// Sends all that is right, wrong and strange; gives the id of the session.
async fn say_everything(process: &Process) -> String {
    let builder =
        reqwest::Client::builder().no_proxy().local_address(std::net::IpAddr::from(PLAYER));
    let client = builder.user_agent("4gent/1.0").build().unwrap();
    let post = async |path: &str, body: String| {
        let request = client.post(process.url(path)).body(body);
        request.header("x-secret", "v4lue").send().await.unwrap()
    };
    let begun = post("/api/v1/sessions?v4lue", good()).await;
    assert_eq!(begun.status(), 201);
    let place = begun.headers()["location"].to_str().unwrap().to_owned();
    let events = format!("{place}/events");
    let stored = post("/api/v1/downloaded", format!("[{}]", good())).await;
    let gone = format!("{}/events", stored.headers()["location"].to_str().unwrap());
    let event = |kind: &str, more: &str| {
        format!(
            r#"{{"eventType":"{kind}","playerTime":{{"playhead":1,"ts":1699999999999}}{more}}}"#
        )
    };
    let strange = r#","params":{"n4me":"v4lue"}"#;
    for (path, body, status) in [
        (events.as_str(), event("ping", strange), 204),
        (&events, event("play", r#","playerTime":"v4lue""#), 400),
        (&events, event("v4lue", ""), 400),
        (&events, "v4lue".to_owned(), 400),
        (&events, event("sessionEnd", ""), 204),
        (&gone, event("ping", strange), 410),
        ("/api/v1/sessions", good().replace("\"media.length\"", "\"n4me\""), 400),
        ("/api/v1/sessions", format!("{{\"v4lue\"{}", "v4lue,".repeat(30_000)), 413),
        ("/api/v1/downloaded", format!("[{}, \"v4lue\"]", good()), 400),
        ("/api/v1/sessions/v4lue/events", event("ping", ""), 404),
        ("/api/v1/v4lue", good(), 404),
    ] {
        assert_eq!(post(path, body).await.status(), status, "{path}");
    }
    let zipped = client.post(process.url("/api/v1/sessions")).header("content-encoding", "gzip");
    assert_eq!(zipped.body("v4lue").send().await.unwrap().status(), 400);
    for (shown, status) in
        [("Bearer 5ecret-that-is-wrong", 401), ("5ecret", 401), (&format!("Bearer {TOKEN}"), 200)]
    {
        let request =
            client.get(process.admin_url("/rejects?v4lue")).header("authorization", shown);
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    for head in ["x: v4lue\r\nv4lue\r\n", "v4lue: \u{1}v4lue\r\n", "content-length: v4lue\r\n"] {
        let mut raw = connect(&process.listen).await;
        raw.send(format!("POST /v4lue HTTP/1.1\r\nhost: v4lue\r\n{head}\r\n")).await;
        assert!(raw.closed().await.starts_with("HTTP/1.1 400 "), "{head}");
    }
    // Somebody who leaves in the middle.
    let mut raw = connect(&process.listen).await;
    let request = post_request(&good());
    raw.send(&request[..request.len() - 9]).await;
    drop(raw);
    for (name, value) in [(4, "/ v4lue"), (4, "v4lue"), (1, "v4lue v4lue"), (1, "[v4lue")] {
        let mut raw = connect(&process.listen).await;
        raw.send(http2_request(name, value)).await;
        // It answers with a reset, and closes when we do not answer its ping; we leave before.
        within(tokio::io::AsyncReadExt::read_u8(&mut raw.0)).await.unwrap();
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut raw.0).await;
        raw.closed().await;
    }
    place.rsplit('/').next().unwrap().to_owned()
}

/// What opens a connection of HTTP/2, a request with one pseudo-header of our own (by its place in the static
/// table), and a farewell with a reason.
fn http2_request(name: u8, value: &str) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    };
    // GET and http, and then a literal that is not indexed.
    let literal =
        [&[0x82, 0x86, name, u8::try_from(value.len()).unwrap()], value.as_bytes()].concat();
    let path = if name == 4 { &[] as &[u8] } else { &[0x84] };
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, b""),
        frame(1, 0x5, 1, &[&literal, path].concat()),
        frame(7, 0, 0, &[&[0u8; 8][..], b"v4lue"].concat()),
    ]
    .concat()
}

#[tokio::test]
async fn logs_hold_no_values_no_secrets_and_no_persons() {
    for level in ["info", "debug"] {
        let folder = tempfile::tempdir().unwrap();
        let settings = [
            ("MEDIATALLY_LOG__LEVEL", level),
            ("MEDIATALLY_SESSION__KEY", KEY),
            ("MEDIATALLY_ADMIN__TOKEN", TOKEN),
            ("MEDIATALLY_PRIVACY__CLIENT_ADDRESS", "drop"),
            ("MEDIATALLY_SHUTDOWN__GRACE", "0s"),
        ];
        let process = Process::start(folder.path(), &settings).await;
        let id = say_everything(&process).await;
        process.signal(Signal::TERM);
        let mut lines = process.seen.clone();
        let (status, rest) = process.ended().await;
        assert_eq!(status.code(), Some(0));
        lines.extend(rest);
        assert!(lines.last().unwrap().contains("stopped"), "{lines:?}");
        let names = lines.iter().filter(|line| line.contains("n4me")).count();
        assert_eq!(names > 0, level == "debug", "names from bodies are told at debug alone");
        for line in &lines {
            let told = HIDDEN.iter().find(|hidden| line.contains(**hidden));
            assert!(told.is_none() && !line.contains(&id), "at {level}: {line}");
        }
    }
}

#[tokio::test]
async fn at_debug_an_unlisted_name_is_pointed_out_with_the_nearest_known_one() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [("MEDIATALLY_LOG__LEVEL", "mediatally=debug")];
    let process = Process::start(folder.path(), &settings).await;
    let body = SAMPLE.replace("\"media.name\"", "\"media.nam\"");
    let stored = format!("[{body}]");
    for (path, body) in [("/api/v1/sessions", body), ("/api/v1/downloaded", stored)] {
        let response = client().post(process.url(path)).body(body).send().await.unwrap();
        assert_eq!(response.status(), 201);
    }
    process.signal(Signal::INT);
    let (_, lines) = process.ended().await;
    let tells = |line: &&String| line.contains("\"media.nam\"") && line.contains("\"media.name\"");
    assert_eq!(lines.iter().filter(tells).count(), 2, "{lines:?}");
}
