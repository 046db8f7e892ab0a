//! A restart refuses nobody: posts wait until the journal is read back, on sockets that may outlive the process.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;

use rustix::process::Signal;

use crate::harness::{Process, Raw, SAMPLE, client, post_request, within};
use crate::health::{SlowJournal, next_seq, run_before};

/// An answer that does not come for a while, which no test can wait for to be sure.
const NOT_YET: std::time::Duration = std::time::Duration::from_millis(150);

#[tokio::test]
async fn posts_wait_until_the_journal_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let place = run_before(folder.path()).await;
    let journal = SlowJournal::make(folder.path(), next_seq(folder.path()));
    let mut process = Process::begin(folder.path(), &[]).await;
    let address: SocketAddr = process.listen.parse().unwrap();
    let (mut starting, mut going_on) = (Raw::connect(address).await, Raw::connect(address).await);
    starting.send(post_request(SAMPLE)).await;
    let ping = r#"{"eventType":"ping","playerTime":{"playhead":1,"ts":1700000001000}}"#;
    let length = ping.len();
    let head =
        format!("POST {place}/events HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    going_on.send(head + ping).await;
    // Who only wants to know is told at once.
    let ready = client().get(process.url("/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), 503);
    assert!(tokio::time::timeout(NOT_YET, starting.answer()).await.is_err());
    journal.let_go();
    process.started(folder.path()).await;
    assert!(starting.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
    assert!(going_on.answer().await.unwrap().0.starts_with("HTTP/1.1 204 "));
    process.signal(Signal::INT);
    assert_eq!(process.ended().await.0.code(), Some(0));
}

#[tokio::test]
async fn a_stop_while_posts_wait_refuses_them() {
    let folder = tempfile::tempdir().unwrap();
    run_before(folder.path()).await;
    let journal = SlowJournal::make(folder.path(), next_seq(folder.path()));
    let process = Process::begin(folder.path(), &[]).await;
    let mut waiting = Raw::connect(process.listen.parse().unwrap()).await;
    waiting.send(post_request(SAMPLE)).await;
    assert!(tokio::time::timeout(NOT_YET, waiting.answer()).await.is_err());
    process.signal(Signal::TERM);
    let (head, _) = waiting.answer().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("retry-after: "), "{head}");
    process.ended().await;
    journal.let_go();
}

#[tokio::test]
async fn sockets_of_systemd_stay_open_over_a_restart_and_systemd_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [players, operators] = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
    let told = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    told.set_nonblocking(true).unwrap();
    let told = tokio::net::UnixDatagram::from_std(told).unwrap();
    let tells = async |text: &str| {
        let mut buffer = [0; 256];
        let length = within(told.recv(&mut buffer)).await.unwrap();
        assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap().trim_end(), text);
    };
    let path = folder.path().join("notify");
    let settings = [
        ("NOTIFY_SOCKET", path.to_str().unwrap()),
        // Nobody needs to be told that other servers are to be asked.
        ("MEDIATALLY_SHUTDOWN__GRACE", "0s"),
    ];
    for _ in 0..2 {
        // It comes before anybody takes it, or while the server before is stopped.
        let mut player = Raw::connect(players).await;
        player.send(post_request(SAMPLE)).await;
        let [players_socket, operators_socket] = &sockets;
        let sockets = [players_socket, operators_socket];
        let mut process = Process::spawn_with_sockets(folder.path(), &settings, sockets);
        process.started(folder.path()).await;
        assert_eq!(process.listen, players.to_string());
        assert_eq!(process.admin_listen, operators.to_string());
        assert!(player.answer().await.unwrap().0.starts_with("HTTP/1.1 201 "));
        let ready = client().get(process.admin_url("/readyz")).send().await.unwrap();
        assert_eq!(ready.status(), 200);
        tells("READY=1").await;
        process.signal(Signal::TERM);
        tells("STOPPING=1").await;
        assert_eq!(process.ended().await.0.code(), Some(0));
    }
}

#[tokio::test]
async fn two_sockets_for_players_end_the_start_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let names = [("LISTEN_FDNAMES", "one.socket:two.socket")];
    let process = Process::spawn_with_sockets(folder.path(), &names, sockets.each_ref());
    let (status, lines) = process.ended().await;
    assert_eq!(status.code(), Some(2), "{lines:?}");
    assert!(lines.last().unwrap().contains("systemd passes two sockets for players"), "{lines:?}");
}
