//! The real program under a steady audience, for as long as one likes.
//!
//! `MEDIATALLY_SOAK_SECONDS` (5) says how long, `MEDIATALLY_SOAK_RATE` (50) how many sessions begin a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::harness::{Process, SAMPLE, client, within};
use crate::metrics::{Scrape, steady};

/// How many players play at once; a server that is slower than the rate slows it down.
const PLAYERS_MAX: usize = 2_000;

/// How long players rest between two events.
const REST: Duration = Duration::from_millis(300);

/// How often memory is looked at: so often in all, but no more than four times a second.
const LOOKS: u32 = 120;

/// What the server acknowledged.
#[derive(Default)]
struct Ledger {
    starts: u32,
    events: u32,
    downloaded: u32,
    ends: u32,
}

/// What one session is to be.
#[derive(Clone, Copy)]
enum Play {
    ToTheEnd,
    Abandoned,
    Downloaded,
}

fn setting(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Sends a body, which must be taken.
async fn post(client: &reqwest::Client, url: &str, body: String, status: u16) -> reqwest::Response {
    let response = client.post(url).body(body).send().await.unwrap();
    assert_eq!(response.status(), status, "{url}");
    response
}

async fn play(client: reqwest::Client, base: String, what: Play) -> Ledger {
    let event = |event_type: &str, number: u64| {
        let ts = 1_700_000_000_000 + number * 300;
        format!(r#"{{"eventType":"{event_type}","playerTime":{{"ts":{ts},"playhead":{number}}}}}"#)
    };
    if let Play::Downloaded = what {
        // No two are the same, or nothing would be kept of the second.
        static NUMBER: AtomicU64 = AtomicU64::new(2);
        let end = event("sessionEnd", NUMBER.fetch_add(1, Ordering::Relaxed));
        let body = format!("[{SAMPLE},{},{end}]", event("play", 1));
        post(&client, &format!("{base}/api/v1/downloaded"), body, 201).await;
        return Ledger { downloaded: 1, ..Ledger::default() };
    }
    let url = format!("{base}/api/v1/sessions");
    let begun = post(&client, &url, SAMPLE.to_owned(), 201).await;
    let events = format!("{base}{}/events", begun.headers()["location"].to_str().unwrap());
    let mut ledger = Ledger { starts: 1, ..Ledger::default() };
    let mut types = vec!["play", "ping", "ping", "ping"];
    if let Play::ToTheEnd = what {
        types.push("sessionEnd");
        ledger.ends += 1;
    }
    for (number, event_type) in (1..).zip(types) {
        sleep(REST).await;
        post(&client, &events, event(event_type, number), 204).await;
        ledger.events += 1;
    }
    ledger
}

/// Lets sessions begin at a rate for a time; gives what was acknowledged.
async fn audience(client: reqwest::Client, base: String, rate: u32, time: Duration) -> Ledger {
    let room = Arc::new(Semaphore::new(PLAYERS_MAX));
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut playing, mut ledger) = (JoinSet::new(), Ledger::default());
    let mut add = |played: Ledger| {
        ledger.starts += played.starts;
        ledger.events += played.events;
        ledger.downloaded += played.downloaded;
        ledger.ends += played.ends;
    };
    let until = Instant::now() + time;
    for number in 0_u32.. {
        ticks.tick().await;
        if Instant::now() >= until {
            break;
        }
        let what = match number % 10 {
            0 => Play::Downloaded,
            1..4 => Play::Abandoned,
            _ => Play::ToTheEnd,
        };
        let permit = Arc::clone(&room).acquire_owned().await.unwrap();
        let (client, base) = (client.clone(), base.clone());
        playing.spawn(async move {
            let _permit = permit;
            play(client, base, what).await
        });
        while let Some(played) = playing.try_join_next() {
            add(played.unwrap());
        }
    }
    while let Some(played) = playing.join_next().await {
        add(played.unwrap());
    }
    ledger
}

/// By how much a value grows in a second, by least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = f64::from(u32::try_from(points.len()).unwrap());
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let (mut above, mut below) = (0.0, 0.0);
    for (x, y) in points {
        above += (x - mean_x) * (y - mean_y);
        below += (x - mean_x) * (x - mean_x);
    }
    if below == 0.0 { 0.0 } else { above / below }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak() {
    let seconds = setting("MEDIATALLY_SOAK_SECONDS", 5);
    let rate = setting("MEDIATALLY_SOAK_RATE", 50);
    let time = Duration::from_secs(u64::from(seconds));
    let folder = tempfile::tempdir().unwrap();
    // Sessions that nobody ends run out soon, so that there are not more and more; and what the journal does
    // every few minutes it does often.
    let settings = [
        ("MEDIATALLY_SESSION__NO_EVENTS_TIMEOUT", "15s"),
        ("MEDIATALLY_JOURNAL__CHECKPOINT_INTERVAL", "5s"),
        ("MEDIATALLY_JOURNAL__SEGMENT_BYTES_MAX", "8MiB"),
        ("MEDIATALLY_SHUTDOWN__GRACE", "200ms"),
    ];
    let mut process = Process::start(folder.path(), &settings).await;
    // Nobody wants to have read it, however long this takes.
    process.close_log().await;
    let (client, metrics) = (client(), process.admin_url("/metrics"));
    let listen = format!("http://{}", process.listen);
    let mut audience = tokio::spawn(audience(client.clone(), listen, rate, time));
    let began = Instant::now();
    let pause = (time / LOOKS).max(Duration::from_millis(250));
    let mut memory = Vec::new();
    let ledger = loop {
        let scrape = Scrape::of(&client, &metrics).await;
        let at = began.elapsed().as_secs_f64();
        memory.push((at, scrape.get("process_resident_memory_bytes")));
        if let Ok(ledger) = timeout(pause, &mut audience).await {
            break ledger.unwrap();
        }
    };
    let scrape = within(async {
        loop {
            let scrape = Scrape::of(&client, &metrics).await;
            let ends = scrape.get("sessions_closed_total{reason=\"sessionEnd\"}");
            if scrape.is_settled() && ends >= f64::from(ledger.ends) {
                return scrape;
            }
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    for (at, bytes) in memory.iter().step_by(memory.len().div_ceil(20)) {
        println!("after {at:.0} s {:.1} MiB", bytes / f64::from(1 << 20));
    }
    let later = &memory[memory.len() / 2..];
    let (_, last) = later[later.len() - 1];
    println!(
        "{seconds} s at {rate} sessions a second: {} starts, {} events, {} downloaded; {} live; \
         {:.1} MiB, in the second half {:+.0} bytes/s ({} looks)",
        ledger.starts,
        ledger.events,
        ledger.downloaded,
        scrape.get("live_sessions"),
        last / f64::from(1 << 20),
        slope(later),
        later.len()
    );
    for (route, count) in
        [("sessions", ledger.starts), ("events", ledger.events), ("downloaded", ledger.downloaded)]
    {
        for name in ["received", "committed"] {
            let counted = scrape.get(&format!("{name}_total{{route=\"{route}\"}}"));
            assert!((counted - f64::from(count)).abs() < 0.5, "{name} {route}: {counted}, {count}");
        }
    }
    // A session may just be running out.
    steady(&client, &metrics, || ()).await.0.is_conserved();
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.0.code(), Some(0));
    let output = within(Process::command(folder.path()).arg("verify").output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

#[test]
fn a_slope_is_that_of_the_line_through_the_points() {
    assert!((slope(&[(0.0, 5.0), (1.0, 7.0), (2.0, 9.0)]) - 2.0).abs() < 1e-9);
    assert!(slope(&[(3.0, 5.0)]).abs() < 1e-9);
}
