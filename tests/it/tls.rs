//! TLS on either listener: versions, protocols, certificates that change.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mediatally::config::Config;
use rustix::process::Signal;
use rustls::ProtocolVersion;
use tokio::io::AsyncReadExt;

use crate::certificates::{Certificates, HOST, shown};
use crate::commands::run;
use crate::harness::{Process, SAMPLE, TestServer, count, post_request, until_it_is, within};

/// How often a server of these tests looks at its files.
const OFTEN: Duration = Duration::from_millis(5);

/// A TLS record with the word that the version is refused: fatal (2), `protocol_version` (70).
const VERSION_REFUSED: [u8; 2] = [2, 70];

#[tokio::test]
async fn players_are_served_on_tls_1_3_and_1_2() {
    let certificates = Certificates::new();
    let server = certificates.server(|_| {}).await;
    for (client, version) in [
        (certificates.client(), ProtocolVersion::TLSv1_3),
        (certificates.old_client(), ProtocolVersion::TLSv1_2),
    ] {
        let mut raw = client.connect(server.listen).await;
        assert_eq!(raw.0.get_ref().1.protocol_version(), Some(version));
        for _ in 0..2 {
            raw.send(post_request(SAMPLE)).await;
            assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
        }
    }
    assert_eq!(server.live().sessions(), 4);
    assert_eq!(count(&server.public_counts.tls_handshake_failures), 0);
    assert_eq!(count(&server.public_counts.accepted), 2);
    until_it_is(&server.public_counts.open, 0).await;
}

#[tokio::test]
async fn http2_is_preferred_and_http1_is_spoken_with_who_does_not_know_it() {
    let certificates = Certificates::new();
    let server = certificates.server(|_| {}).await;
    let agreed = async |protocols: &[&str]| {
        let raw = certificates.client_offering(protocols).try_connect(server.listen).await;
        raw.map(|raw| raw.0.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(agreed(&["http/1.1", "h2"]).await.unwrap(), Some(b"h2".to_vec()));
    assert_eq!(agreed(&["http/1.1"]).await.unwrap(), Some(b"http/1.1".to_vec()));
    assert_eq!(agreed(&[]).await.unwrap(), None);
    assert!(agreed(&["spdy/3"]).await.is_err(), "there is nothing to agree on");

    let raw = certificates.client_offering(&["h2", "http/1.1"]).connect(server.listen).await;
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(raw.0));
    let (mut requests, connection) = handshake.await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..2 {
        let request = Request::post(format!("https://{HOST}/api/v1/sessions"));
        let response = requests.send_request(request.body(Body::from(SAMPLE)).unwrap()).await;
        let response = response.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (201, Version::HTTP_2));
    }
    connection.abort();
}

#[tokio::test]
async fn old_versions_and_plain_http_are_refused_and_counted() {
    let certificates = Certificates::new();
    let server = certificates.server(|_| {}).await;
    let failures = &server.public_counts.tls_handshake_failures;
    // Who leaves without a word has failed at nothing.
    drop(server.connect().await);
    let mut plain = server.connect().await;
    plain.send(post_request(SAMPLE)).await;
    let mut said = Vec::new();
    let _ = within(plain.0.read_to_end(&mut said)).await;
    assert!(said.is_empty() || said[0] == 21, "nothing but an alert of TLS: {said:?}");
    until_it_is(failures, 1).await;

    let mut old = server.connect().await;
    old.send(hello_of_tls_1_1()).await;
    let mut said = Vec::new();
    let _ = within(old.0.read_to_end(&mut said)).await;
    assert_eq!((said[0], &said[5..]), (21, &VERSION_REFUSED[..]), "{said:?}");
    until_it_is(failures, 2).await;
    assert_eq!(server.live().sessions(), 0);
    until_it_is(&server.public_counts.open, 0).await;
    assert_eq!(count(failures), 2);
}

/// What a client begins with that knows nothing newer than TLS 1.1, though it signs as newer ones do.
fn hello_of_tls_1_1() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend([7; 32]); // random
    hello.push(0); // no session
    hello.extend([0, 4, 0xc0, 0x14, 0, 0x35]); // cipher suites
    hello.extend([1, 0]); // no compression
    hello.extend([0, 8, 0, 13, 0, 4, 0, 2, 4, 3]); // one extension: signatures by ECDSA with SHA-256
    let length = u8::try_from(hello.len()).unwrap();
    [vec![22, 3, 1, 0, length + 4, 1, 0, 0, length], hello].concat()
}

#[tokio::test]
async fn operators_may_have_tls_too_with_a_certificate_of_their_own() {
    let certificates = Certificates::new();
    let server = TestServer::with(|config| {
        config.tls.admin_certificate = certificates.certificate();
        config.tls.admin_key = certificates.key();
    })
    .await;
    let mut raw = certificates.client().connect(server.admin_listen).await;
    raw.send("GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(raw.answer().await.unwrap().0.starts_with("HTTP/1.1 200 "));
    assert_eq!(server.post(SAMPLE).await.status(), 201, "players go on without");
    assert_eq!(count(&server.public_counts.tls_certificate_expiry_s), 0);
    assert_eq!(
        count(&server.admin_counts.tls_certificate_expiry_s),
        4_070_908_800,
        "the beginning of 2099"
    );
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let certificates = Certificates::new();
    // As Kubernetes does it: all files change at once, because the folder behind a link does.
    let (folder, data) = (certificates.folder(), certificates.folder().join("..data"));
    let (old, new) = (certificates.make(2098), certificates.make(2097));
    for (name, made) in [("1", &old), ("2", &new)] {
        std::fs::create_dir(folder.join(name)).unwrap();
        std::fs::write(folder.join(name).join("tls.crt"), &made.certificate).unwrap();
        std::fs::write(folder.join(name).join("tls.key"), &made.key).unwrap();
    }
    symlink("1", &data).unwrap();
    for file in [certificates.certificate(), certificates.key()] {
        std::fs::remove_file(&file).unwrap();
        symlink(data.join(file.file_name().unwrap()), &file).unwrap();
    }
    let server = certificates.server(|config| config.tls.look_every = OFTEN).await;
    let expiry_s = || count(&server.public_counts.tls_certificate_expiry_s);
    let client = certificates.client();
    let mut kept = client.connect(server.listen).await;
    assert_eq!((shown(&kept), expiry_s()), (old.der, 4_039_372_800));

    symlink("2", folder.join("..new")).unwrap();
    std::fs::rename(folder.join("..new"), &data).unwrap();
    // The same client: what it has kept to go on faster does not bring the old one back.
    within(async { while shown(&client.connect(server.listen).await) != new.der {} }).await;
    assert_eq!(expiry_s(), 4_007_836_800);
    kept.send(post_request(SAMPLE)).await;
    assert!(kept.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
    assert_eq!(count(&server.public_counts.tls_reload_failures), 0);
}

#[tokio::test]
async fn what_cannot_be_used_leaves_the_old_certificate_in_place() {
    let certificates = Certificates::new();
    let old = certificates.make(2098);
    certificates.put(&old);
    let server = certificates.server(|config| config.tls.look_every = OFTEN).await;
    let failures = &server.public_counts.tls_reload_failures;
    let client = certificates.client();
    let new = certificates.make(2097);

    replace(&certificates.key(), new.key.as_bytes());
    until_it_is(failures, 1).await;
    assert_eq!(shown(&client.connect(server.listen).await), old.der, "key and certificate differ");
    replace(&certificates.certificate(), &new.certificate.as_bytes()[..200]);
    until_it_is(failures, 2).await;
    assert_eq!(shown(&client.connect(server.listen).await), old.der, "half a file");
    std::fs::remove_file(certificates.certificate()).unwrap();
    until_it_is(failures, 3).await;
    assert_eq!(shown(&client.connect(server.listen).await), old.der, "no file");

    certificates.put(&new);
    within(async { while shown(&client.connect(server.listen).await) != new.der {} }).await;
    assert_eq!(count(failures), 3);
}

#[tokio::test]
async fn an_expired_certificate_and_a_key_that_everybody_reads_are_pointed_out() {
    let certificates = Certificates::new();
    let started = async |mode: u32| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(certificates.key(), permissions).unwrap();
        let (certificate, key) = (certificates.certificate(), certificates.key());
        let settings = [
            ("MEDIATALLY_TLS__CERTIFICATE", certificate.to_str().unwrap()),
            ("MEDIATALLY_TLS__KEY", key.to_str().unwrap()),
        ];
        let folder = tempfile::tempdir().unwrap();
        let process = Process::start(folder.path(), &settings).await;
        let lines = process.seen.iter().map(|line| serde_json::from_str(line).unwrap());
        let warnings = lines.filter(|line: &serde_json::Value| line["level"] == "WARN");
        let warnings: Vec<_> =
            warnings.map(|line| line["message"].as_str().unwrap().to_owned()).collect();
        process.signal(Signal::INT);
        assert_eq!(process.ended().await.0.code(), Some(0));
        warnings
    };
    assert_eq!(started(0o640).await, [""; 0]);
    certificates.put(&certificates.make(2001));
    assert_eq!(
        started(0o644).await,
        ["everybody can read the key of TLS; chmod 640 it", "the certificate has expired"]
    );
}

#[tokio::test]
async fn files_that_cannot_be_used_stop_the_start_with_their_setting() {
    let certificates = Certificates::new();
    std::fs::write(certificates.key(), certificates.make(2099).key).unwrap();
    let (certificate, key) = (certificates.certificate(), certificates.key());
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let settings = [
        ("MEDIATALLY_TLS__ADMIN_CERTIFICATE", certificate),
        ("MEDIATALLY_TLS__ADMIN_KEY", key),
        ("MEDIATALLY_LISTEN", "127.0.0.1:0"),
        ("MEDIATALLY_ADMIN_LISTEN", "127.0.0.1:0"),
    ];
    let (code, _, error) = run(&[], &settings).await;
    assert_eq!(code, Some(2));
    let expected = format!(
        "mediatally: tls.admin_key = \"{key}\": this is not the key of the first certificate in \
         tls.admin_certificate = \"{certificate}\""
    );
    assert!(error.contains(&expected), "{error}");
}

#[tokio::test]
async fn healthcheck_asks_over_tls_where_operators_do() {
    let certificates = Certificates::new();
    let (certificate, key) = (certificates.certificate(), certificates.key());
    let settings = [
        ("MEDIATALLY_TLS__ADMIN_CERTIFICATE", certificate.to_str().unwrap()),
        ("MEDIATALLY_TLS__ADMIN_KEY", key.to_str().unwrap()),
    ];
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &settings).await;
    let arguments = ["healthcheck", "--ready", "--admin-listen", &process.admin_listen];
    let (code, _, error) = run(&arguments, &settings).await;
    assert_eq!((code, &*error), (Some(0), ""), "whatever host the certificate names");
    let (code, _, error) = run(&arguments, &[]).await;
    assert_eq!(code, Some(1), "plain HTTP gets no answer there");
    assert!(error.contains("no answer from http://"), "{error}");
    let admin = process.admin_listen.clone();
    process.signal(Signal::INT);
    process.ended().await;
    let (code, _, error) = run(&arguments_of(&admin), &settings).await;
    assert_eq!(code, Some(1));
    assert!(error.contains(&format!("no answer from https://{admin}/livez")), "{error}");
}

fn arguments_of(admin: &str) -> [&str; 3] {
    ["healthcheck", "--admin-listen", admin]
}

#[test]
fn plain_http_is_the_default() {
    let config = Config::default();
    assert!(config.tls.public().is_none() && config.tls.admin().is_none());
}

/// Puts a file in place whole: half a file would be one more that cannot be used.
fn replace(path: &Path, contents: &[u8]) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, contents).unwrap();
    std::fs::rename(&beside, path).unwrap();
}
