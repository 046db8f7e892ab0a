//! The operators' door: who is let in, and what stands on its answers.

use std::path::Path;

use mediatally::http::AdminSettings;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use rustix::process::Signal;

use crate::commands::run;
use crate::harness::{Process, Raw, SAMPLE, TestServer, client};

const TOKEN: &str = "the-token-of-this-test";

/// A server whose operators must show the token.
async fn guarded() -> TestServer {
    TestServer::with(|config| config.admin = with_token()).await
}

fn with_token() -> AdminSettings {
    toml::from_str(&format!("token = \"{TOKEN}\"\ntoken_file = \"\"")).unwrap()
}

fn with_file(path: &Path) -> AdminSettings {
    AdminSettings { token_file: path.to_owned(), ..AdminSettings::default() }
}

/// The answer to a request with these values of `Authorization`.
async fn asked(server: &TestServer, path: &str, shown: &[&str]) -> reqwest::Response {
    let mut request = server.client.get(server.admin_url(path));
    for shown in shown {
        request = request.header(AUTHORIZATION, *shown);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn whoever_shows_the_token_is_let_in() {
    let server = guarded().await;
    let id = server.post(SAMPLE).await.headers()["location"].to_str().unwrap().to_owned();
    let session = id.replace("/api/v1", "");
    let token = format!("Bearer {TOKEN}");
    for path in ["/rejects", "/unlisted", &session, &format!("{session}/events")] {
        assert_eq!(asked(&server, path, &[&token]).await.status(), 200, "{path}");
        assert_eq!(asked(&server, path, &[]).await.status(), 401, "{path}");
    }
    for shown in [format!("bearer  {TOKEN} "), format!("BEARER {TOKEN}")] {
        assert_eq!(asked(&server, "/rejects", &[&shown]).await.status(), 200, "{shown}");
    }
    assert_eq!(asked(&server, "/nothing", &[&token]).await.status(), 404);
    let shown = server.client.post(server.admin_url("/rejects")).header(AUTHORIZATION, &token);
    assert_eq!(shown.send().await.unwrap().status(), 405);
}

#[tokio::test]
async fn everybody_else_gets_one_and_the_same_answer() {
    let server = guarded().await;
    let told = async |path: &str, shown: &[&str]| {
        let response = asked(&server, path, shown).await;
        let mut headers = response.headers().clone();
        headers.remove("date");
        (response.status(), headers, response.text().await.unwrap())
    };
    let (status, headers, body) = told("/rejects", &[]).await;
    assert_eq!(status, 401);
    assert!(headers["www-authenticate"].to_str().unwrap().starts_with("Bearer "));
    let error: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(error["message"].as_str().unwrap().contains("Authorization: Bearer"));
    let right = format!("Bearer {TOKEN}");
    let (longer, shorter) = (format!("{right}x"), &right[..right.len() - 1]);
    for shown in [
        &["Bearer"] as &[&str],
        &["Bearer "],
        &["Bearer another-token-of-some-length"],
        &[&longer],
        &[shorter],
        &[&right.to_uppercase()],
        &[TOKEN],
        &[&format!("Basic {TOKEN}")],
        &[&format!("Bearer{TOKEN}")],
        &[&format!("Bearer,{TOKEN}")],
        &[&right, &right],
        &["Bearer x", &right],
    ] {
        for path in [
            "/rejects",
            "/unlisted",
            "/metrics",
            "/sessions/none",
            "/sessions/none/events",
            "/nothing",
            "/",
        ] {
            assert_eq!(
                told(path, shown).await,
                (status, headers.clone(), body.clone()),
                "{shown:?}"
            );
        }
    }
    let post = server.client.post(server.admin_url("/rejects")).body("x".repeat(100_000));
    assert_eq!(post.send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn health_needs_no_token_and_no_name() {
    let server = guarded().await;
    let open = TestServer::start().await;
    for path in ["/livez", "/healthz", "/readyz", "/readyz?verbose"] {
        assert_eq!(asked(&server, path, &[]).await.status(), 200, "{path}");
        assert_eq!(status_for(&open, path, "host: evil.example\r\n").await, 200, "{path}");
    }
}

#[tokio::test]
async fn a_player_that_posts_here_is_told_where_to_post() {
    for server in [TestServer::start().await, guarded().await] {
        let players = server.listen.to_string();
        for path in [
            "/api/v1/sessions",
            "/api/v1/sessions/",
            "/api/v1/downloaded",
            "/api/v1/sessions/0/events",
        ] {
            let response =
                server.client.post(server.admin_url(path)).body(SAMPLE).send().await.unwrap();
            assert_eq!(response.status(), 404, "{path}");
            let body: serde_json::Value = response.json().await.unwrap();
            let message = body["message"].as_str().unwrap();
            assert!(
                message.contains(&format!("players post to {players} (setting listen)")),
                "{message}"
            );
        }
    }
    let server = TestServer::start().await;
    let response = server.client.post(server.admin_url("/nothing")).send().await.unwrap();
    assert_eq!(response.status(), 404);
    assert!(response.text().await.unwrap().contains("players post to "));
}

#[tokio::test]
async fn who_posts_to_a_path_that_is_not_there_is_seen() {
    let server = TestServer::start().await;
    let post = |path: String| server.client.post(server.url(&path)).body(SAMPLE).send();
    let long = format!("/api/{}", "x".repeat(300));
    for path in ["/api/v1/session", "/api//v2//sessions?visitor=anna", &long] {
        assert_eq!(post(path.to_owned()).await.unwrap().status(), 404, "{path}");
    }
    assert_eq!(post("/elsewhere".to_owned()).await.unwrap().status(), 404);
    let asked = server.client.get(server.url("/api/v1/session")).send().await.unwrap();
    assert_eq!(asked.status(), 404, "nothing is lost by it");
    let rejects = server.client.get(server.admin_url("/rejects")).send().await.unwrap();
    let rejects: serde_json::Value = rejects.json().await.unwrap();
    let unread = rejects["unread"].as_array().unwrap();
    let paths: Vec<_> = unread.iter().map(|one| one["path"].as_str().unwrap()).collect();
    assert_eq!(paths[..2], ["/api/v1/session", "/api/v2/sessions"]);
    assert!(paths[2].len() <= 256 && paths[2].ends_with("… (305 bytes)"), "{paths:?}");
    assert_eq!(paths.len(), 3);
    assert!(
        unread.iter().all(|one| one["status"] == 404 && one.get("body").is_none()),
        "{unread:?}"
    );
}

#[tokio::test]
async fn the_token_may_stand_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, format!("\n {TOKEN}\t\r\n\n")).unwrap();
    let server = TestServer::with(|config| config.admin = with_file(&path)).await;
    // It is read once.
    std::fs::write(&path, "another-token-of-some-length").unwrap();
    assert_eq!(asked(&server, "/rejects", &[&format!("Bearer {TOKEN}")]).await.status(), 200);
    assert_eq!(asked(&server, "/rejects", &[]).await.status(), 401);
}

#[tokio::test]
async fn a_file_that_holds_no_token_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let start = async || {
        let (path, any) = (path.to_str().unwrap(), "127.0.0.1:0");
        let settings = [("MEDIATALLY_ADMIN__TOKEN_FILE", path)];
        let (code, _, error) = run(&["--listen", any, "--admin-listen", any], &settings).await;
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains(&format!("admin.token_file = \"{path}\": ")), "{error}");
        error
    };
    assert!(start().await.contains("No such file"));
    for text in ["", " \n", "too-short", "two words of one long token", "ünprintable-letters"] {
        std::fs::write(&path, text).unwrap();
        let error = start().await;
        assert!(error.contains("16 to 1024 printable ASCII characters"), "{error}");
        assert!(text.trim().is_empty() || !error.contains(text), "{error}");
    }
    std::fs::write(&path, "x".repeat(1 << 20)).unwrap();
    start().await;
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(start().await.contains("cannot be read"));
}

#[tokio::test]
async fn a_token_that_is_none_or_stands_in_two_places_stops_the_start_unseen() {
    let (code, _, error) = run(&[], &[("MEDIATALLY_ADMIN__TOKEN", "s3cr3t")]).await;
    assert_eq!(code, Some(2));
    assert!(error.contains("admin.token = (hidden) (MEDIATALLY_ADMIN__TOKEN): "), "{error}");
    assert!(!error.contains("s3cr3t"), "{error}");
    let both = [("MEDIATALLY_ADMIN__TOKEN", TOKEN), ("MEDIATALLY_ADMIN__TOKEN_FILE", "/x")];
    let (code, _, error) = run(&[], &both).await;
    assert_eq!(code, Some(2));
    assert!(
        error.contains("admin.token_file = \"/x\" (MEDIATALLY_ADMIN__TOKEN_FILE): "),
        "{error}"
    );
    assert!(error.contains("admin.token is set too") && !error.contains(TOKEN), "{error}");
    let (code, out, _) = run(&["check-config"], &both[..1]).await;
    assert_eq!(code, Some(0));
    assert!(out.contains("token = \"(hidden)\" # MEDIATALLY_ADMIN__TOKEN\n"), "{out}");
    assert!(!out.contains(TOKEN), "{out}");
}

#[tokio::test]
async fn an_address_that_others_reach_needs_a_token() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9464"] {
        let (code, _, error) = run(&["--admin-listen", address], &[]).await;
        assert_eq!(code, Some(2), "{error}");
        let expected = format!(
            "admin_listen = \"{address}\" (--admin-listen): not an address of this machine"
        );
        assert!(error.contains(&expected) && error.contains("admin.token"), "{error}");
    }
    // A health check asks another server, and health is open.
    let (_, _, error) = run(&["healthcheck", "--admin-listen", "0.0.0.0:9"], &[]).await;
    assert!(error.contains("no answer from http://127.0.0.1:9/livez"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let settings = [("MEDIATALLY_ADMIN_LISTEN", "0.0.0.0:0"), ("MEDIATALLY_ADMIN__TOKEN", TOKEN)];
    let process = Process::start(folder.path(), &settings).await;
    let port = process.admin_listen.rsplit(':').next().unwrap().to_owned();
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let status = async |path: &str, shown: &str| {
        let request = client().get(url(path)).header(AUTHORIZATION, shown);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(status("/rejects", "").await, 401);
    assert_eq!(status("/rejects", &format!("Bearer {TOKEN}")).await, 200);
    assert_eq!(status("/readyz", "").await, 200);
    process.signal(Signal::INT);
    process.ended().await;
}

/// The status of an answer at the operators' door to a request with this head.
async fn status_for(server: &TestServer, target: &str, head: &str) -> u16 {
    let mut raw = Raw::connect(server.admin_listen).await;
    raw.send(format!("GET {target} HTTP/1.1\r\n{head}\r\n")).await;
    raw.answer().await.unwrap().0[9..12].parse().unwrap()
}

#[tokio::test]
async fn without_a_token_only_addresses_and_localhost_are_answered() {
    let server = TestServer::start().await;
    let port = server.admin_listen.port();
    for host in [
        "localhost",
        &format!("localhost:{port}"),
        "127.0.0.1",
        &format!("127.0.0.1:{port}"),
        "[::1]:80",
        "10.0.0.7",
    ] {
        assert_eq!(
            status_for(&server, "/rejects", &format!("host: {host}\r\n")).await,
            200,
            "{host}"
        );
    }
    for head in [
        "host: evil.example\r\n",
        &format!("host: evil.example:{port}\r\n"),
        "host: localhost.evil.example\r\n",
        "host: 127.0.0.1.evil.example\r\n",
        "host:\r\n",
        "host: \u{f6}\r\n",
    ] {
        for path in ["/rejects", "/unlisted", "/metrics", "/sessions/none", "/nothing"] {
            assert_eq!(status_for(&server, path, head).await, 421, "{head}");
        }
    }
    let two = "host: localhost\r\nhost: evil.example\r\n";
    assert_eq!(status_for(&server, "/rejects", two).await, 400);
    let absolute = "http://evil.example/rejects";
    assert_eq!(status_for(&server, absolute, "host: localhost\r\n").await, 421);
    // With a token a name does no harm, and operators may give the machine one.
    let server = guarded().await;
    let head = format!("host: admin.example\r\nauthorization: Bearer {TOKEN}\r\n");
    assert_eq!(status_for(&server, "/rejects", &head).await, 200);
    assert_eq!(status_for(&server, "/rejects", "host: localhost\r\n").await, 401);
}

#[tokio::test]
async fn over_http2_the_name_is_asked_for_too() {
    let server = TestServer::start().await;
    let client = |name: &str| {
        let address = server.admin_listen;
        let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge();
        client.resolve(name, address).build().unwrap()
    };
    for (name, status) in [("evil.example", 421), ("localhost", 200)] {
        let url = format!("http://{name}:{}/rejects", server.admin_listen.port());
        assert_eq!(client(name).get(url).send().await.unwrap().status(), status, "{name}");
    }
}

fn assert_secured(headers: &HeaderMap, what: &str) {
    for (name, value) in [
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(headers.get(name).map(|value| value.to_str().unwrap()), Some(value), "{what}");
    }
    let cors = headers.keys().any(|name| name.as_str().starts_with("access-control-"));
    assert!(!cors, "{what}: {headers:?}");
}

#[tokio::test]
async fn every_answer_is_kept_from_caches_frames_and_other_pages() {
    for server in [TestServer::start().await, guarded().await] {
        for path in
            ["/rejects", "/sessions/none", "/nothing", "/livez", "/readyz", "/api/v1/sessions"]
        {
            for method in ["GET", "OPTIONS", "POST", "DELETE"] {
                let request = server
                    .client
                    .request(method.parse().unwrap(), server.admin_url(path))
                    .header("origin", "https://evil.example")
                    .header("access-control-request-method", "GET");
                let response = request.send().await.unwrap();
                assert_secured(response.headers(), &format!("{method} {path}"));
            }
        }
        let request =
            server.client.get(server.admin_url("/rejects")).header("host", "evil.example");
        assert_secured(request.send().await.unwrap().headers(), "another name");
    }
}

#[tokio::test]
async fn players_find_nothing_at_the_operators_door_and_operators_nothing_at_theirs() {
    let server = TestServer::start().await;
    let response = server.client.post(server.admin_url("/api/v1/sessions")).send().await.unwrap();
    assert_eq!(response.status(), 404);
    let body: serde_json::Value = response.json().await.unwrap();
    assert!(body["message"].is_string());
    let id = server.post(SAMPLE).await.headers()["location"].to_str().unwrap().to_owned();
    for path in ["/rejects", &id.replace("/api/v1", "")] {
        assert_eq!(server.client.get(server.admin_url(path)).send().await.unwrap().status(), 200);
        assert_eq!(server.client.get(server.url(path)).send().await.unwrap().status(), 404);
    }
}
