//! Stored sessions and large reports wait apart, and nothing small waits behind them.

use std::io::Write as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use super::*;

const MIB: usize = 1 << 20;

/// What stands in the journal of sessions.
fn of_sessions(disk: &SimDisk) -> Vec<(u64, u64, Content<'static>)> {
    records(disk).into_iter().filter(|(.., content)| content.sid().is_some()).collect()
}

/// The same by kind, in order.
fn kinds(disk: &SimDisk) -> Vec<&'static str> {
    of_sessions(disk).iter().map(|(.., content)| content.kind()).collect()
}

fn is_committed((_, committed): &mut Pending) -> bool {
    committed.try_recv() == Ok(Ok(Outcome::Opened))
}

#[test]
fn small_records_are_taken_and_written_first_while_no_more_large_ones_are_taken() {
    let mut rig = Rig::new();
    let mut large: Vec<_> = (0..2).map(|_| rig.append_large(6 * MIB).unwrap()).collect();
    assert_eq!(rig.append_large(6 * MIB).unwrap_err(), Unavailable::Stored, "a quarter of 64 MiB");
    assert_eq!(rig.journal.is_up(), Ok(()));
    assert_eq!(rig.journal.up_until_ms(), None, "something waits");
    assert!(rig.journal.uncommitted_bytes().0 > 12 * MIB);
    let mut start = rig.append_start().unwrap();
    rig.writer.turn();
    assert!(is_committed(&mut start), "in the first group");
    assert!(is_committed(&mut large[0]) && !is_committed(&mut large[1]), "one large one in each");
    assert_eq!(kinds(&rig.disk), ["start", "batch"]);
    let mut event = rig.append_event(start.0, "ping", 1, 1).unwrap();
    large.push(rig.append_large(6 * MIB).unwrap());
    rig.writer.turn();
    assert_eq!(event.1.try_recv(), Ok(Ok(Outcome::Heard)));
    assert!(is_committed(&mut large[1]) && !is_committed(&mut large[2]));
    rig.writer.turn();
    assert!(is_committed(&mut large[2]));
    assert_eq!(rig.journal.uncommitted_bytes().0, 0);
    assert!(rig.journal.up_until_ms().is_some());
    assert_eq!(kinds(&rig.disk), ["start", "batch", "event", "batch", "batch"]);
    in_order(&records(&rig.disk));
    let before = sessions_of(&rig.live);
    let rig = rig.restart();
    assert_eq!((rig.recovered.damaged, rig.recovered.missing), (0, 0));
    assert_eq!(sessions_of(&rig.live), before);
}

#[test]
fn one_of_any_size_is_taken_and_many_small_ones_are_written_together() {
    let mut rig = Rig::new();
    let mut largest = rig.append_large(17 * MIB).unwrap();
    assert_eq!(rig.append_batch().unwrap_err(), Unavailable::Stored);
    rig.writer.turn();
    assert!(is_committed(&mut largest));
    let mut waiting = Vec::new();
    let refused = loop {
        match rig.append_batch() {
            Ok(appended) => waiting.push(appended),
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused, waiting.len()), (Unavailable::Stored, 256), "bounded in number too");
    rig.writer.turn();
    assert!(waiting.iter_mut().all(is_committed));
}

#[test]
fn single_records_that_fill_their_room_leave_that_of_stored_sessions() {
    let mut rig = Rig::new();
    while rig.append_start().is_ok() {}
    assert!(rig.journal.uncommitted_bytes().0 <= 49 * MIB);
    let mut stored = rig.append_large(MIB).unwrap();
    rig.writer.turn();
    assert!(is_committed(&mut stored));
}

#[test]
fn the_time_and_the_number_of_a_large_record_are_those_at_which_it_is_taken() {
    let mut rig = Rig::new();
    let pending = [rig.append_large(3 * MIB).unwrap(), rig.append_large(3 * MIB).unwrap()];
    rig.clock.advance(5_000);
    rig.writer.turn();
    rig.clock.advance(5_000);
    let (_, _start) = rig.append_start().unwrap();
    rig.writer.turn();
    let found: Vec<_> = of_sessions(&rig.disk).iter().map(|(_, at, _)| at - 1_000_000).collect();
    assert_eq!(found, [5_000, 10_000, 10_000]);
    let received = pending.iter().map(|(id, _)| rig.live.ended(*id).unwrap().received_ms);
    assert_eq!(received.map(|at| at - 1_000_000).collect::<Vec<_>>(), [5_000, 10_000]);
}

/// Looks at the journal in the moment in which somebody is woken.
struct Look {
    disk: SimDisk,
    journal: Journal,
    woken: AtomicBool,
}

impl Wake for Look {
    fn wake(self: Arc<Self>) {
        assert_eq!(kinds(&self.disk), ["start"], "nothing of the large one is written yet");
        let (bytes, _) = self.journal.uncommitted_bytes();
        assert!((5 * MIB..5 * MIB + 300).contains(&bytes), "the large one alone: {bytes}");
        assert_eq!(self.journal.up_until_ms(), None, "something is being written");
        self.woken.store(true, Ordering::Relaxed);
    }
}

#[test]
fn small_records_are_woken_before_the_large_ones_of_their_turn_are_written() {
    for durability in [Durability::Fsync, Durability::Write] {
        let mut rig = Rig::new();
        rig.writer.settings.durability = durability;
        let mut stored = rig.append_large(5 * MIB).unwrap();
        let (_, mut start) = rig.append_start().unwrap();
        let (disk, journal) = (rig.disk.clone(), rig.journal.clone());
        let look = Arc::new(Look { disk, journal, woken: AtomicBool::new(false) });
        let waker = Waker::from(Arc::clone(&look));
        assert!(Pin::new(&mut start).poll(&mut Context::from_waker(&waker)).is_pending());
        rig.writer.turn();
        assert!(look.woken.load(Ordering::Relaxed));
        assert!(start.try_recv() == Ok(Ok(Outcome::Opened)) && is_committed(&mut stored));
        assert_eq!(kinds(&rig.disk), ["start", "batch"]);
        assert_eq!(rig.journal.uncommitted_bytes().0, 0);
    }
}

/// What is done to the disk in a turn with small and large records: the small ones, their sync, the line before
/// the body, the body, the rest of the line, and the sync. Gives how many operations there are, and how many until
/// the small ones are committed.
fn operations(durability: Durability) -> (u32, u32) {
    match durability {
        Durability::Fsync => (6, 2),
        Durability::Write => (4, 1),
    }
}

#[test]
fn a_disk_that_fails_inside_a_large_record_refuses_it_and_all_that_wait_behind_it() {
    for durability in [Durability::Fsync, Durability::Write] {
        let (operations, committing) = operations(durability);
        for operation in 0..operations {
            let mut rig = Rig::new();
            rig.writer.settings.durability = durability;
            let mut kept = rig.commit(1);
            let mut small = rig.append_start().unwrap();
            let mut large =
                [rig.append_large(5 * MIB).unwrap(), rig.append_large(5 * MIB).unwrap()];
            rig.disk.fail_after(operation, Some(2), 3 * MIB);
            rig.writer.turn();
            if operation < committing {
                assert_eq!(small.1.try_recv(), Ok(Err(Unavailable::Disk)), "at {operation}");
            } else {
                assert!(is_committed(&mut small), "at {operation}");
                kept.push(small.0);
            }
            for (_, committed) in &mut large {
                assert_eq!(committed.try_recv(), Ok(Err(Unavailable::Disk)), "at {operation}");
            }
            assert_eq!(rig.journal.uncommitted_bytes().0, 0);
            let held = (rig.live.sessions(), rig.live.unreported());
            assert_eq!(held, (kept.len(), 0), "no room is left behind");
            let mut after = rig.append_large(5 * MIB).unwrap();
            rig.writer.turn();
            assert!(is_committed(&mut after));
            let found = records(&rig.disk);
            in_order(&found);
            let sids: Vec<_> = found.iter().filter_map(|(.., content)| content.sid()).collect();
            assert_eq!(sids, [&kept[..], &[after.0]].concat());
            let disk = rig.disk.after_crash(usize::MAX);
            let rig = Rig::on(disk, rig.clock.clone()).unwrap();
            assert_eq!((rig.recovered.damaged, rig.recovered.missing), (0, 0));
            assert!(kept.iter().all(|id| rig.live.contains(*id)));
            assert!(rig.live.ended(after.0).is_some());
        }
    }
}

#[test]
fn a_crash_inside_a_large_record_leaves_the_small_ones_of_its_turn() {
    let (operations, committing) = operations(Durability::Fsync);
    for operation in committing..operations {
        for also_written in [0, MIB, usize::MAX] {
            let mut rig = Rig::new();
            let mut small = rig.append_start().unwrap();
            let mut large = rig.append_large(5 * MIB).unwrap();
            rig.disk.fail_after(operation, None, 3 * MIB);
            rig.journal.close();
            rig.writer.turn();
            assert!(is_committed(&mut small));
            assert_eq!(large.1.try_recv(), Ok(Err(Unavailable::Disk)));
            let disk = rig.disk.after_crash(also_written);
            let rig = Rig::on(disk, rig.clock.clone()).unwrap();
            assert_eq!((rig.recovered.damaged, rig.recovered.missing), (0, 0));
            assert!(rig.live.contains(small.0));
            // Its whole line may have reached the disk before the machine went down.
            let is_whole = also_written == usize::MAX && operation == operations - 2;
            assert_eq!(rig.live.ended(large.0).is_some(), is_whole, "at {operation}");
        }
    }
}

#[test]
fn whether_a_stored_session_would_be_taken_is_known_without_appending_it() {
    let mut rig = Rig::new();
    assert_eq!(rig.journal.has_room_for_stored(17 * MIB), Ok(()), "one of any size");
    assert_eq!(rig.journal.uncommitted_bytes().0, 0, "no room is kept");
    let _waiting = [rig.append_large(6 * MIB).unwrap(), rig.append_large(6 * MIB).unwrap()];
    assert_eq!(rig.journal.has_room_for_stored(3 * MIB), Ok(()));
    assert_eq!(rig.journal.has_room_for_stored(6 * MIB), Err(Unavailable::Stored));
    rig.disk.fail_after(0, Some(1), 0);
    rig.writer.turn();
    assert_eq!(rig.journal.has_room_for_stored(6 * MIB), Ok(()), "what waited is refused");
    rig.journal.close();
    assert_eq!(rig.journal.has_room_for_stored(1), Err(Unavailable::Closed));
}

#[test]
fn a_torn_large_record_at_the_end_is_cut() {
    for torn in [1, 100_000, 3 * MIB] {
        let mut rig = Rig::new();
        let kept = rig.commit(1);
        let _torn = rig.append_large(5 * MIB).unwrap();
        rig.disk.fail_after(1, None, torn);
        rig.journal.close();
        rig.writer.turn();
        let rig = Rig::on(rig.disk.after_crash(usize::MAX), rig.clock.clone()).unwrap();
        assert!(rig.recovered.cut_bytes >= torn as u64);
        assert_eq!((rig.recovered.damaged, rig.recovered.missing), (0, 0));
        assert!(rig.live.contains(kept[0]) && rig.live.unreported() == 0);
    }
}

#[test]
fn a_closed_journal_commits_the_large_records_that_wait() {
    let mut rig = Rig::new();
    let mut pending: Vec<_> = (0..3).map(|_| rig.append_large(5 * MIB).unwrap()).collect();
    rig.journal.close();
    assert_eq!(rig.append_large(MIB).unwrap_err(), Unavailable::Closed);
    rig.writer.run();
    assert!(pending.iter_mut().all(is_committed));
}

#[test]
fn without_a_writer_no_stored_session_waits_for_ever() {
    let mut rig = Rig::new();
    let (_, mut committed) = rig.append_large(MIB).unwrap();
    drop(rig.writer);
    assert_eq!(committed.try_recv(), Ok(Err(Unavailable::Closed)));
}

#[test]
fn a_large_report_whose_session_is_erased_while_it_waits_is_not_written() {
    let mut rig = Rig::new();
    let (id, _) = rig.append_batch().unwrap();
    rig.writer.turn();
    let report = |rig: &Rig| {
        let json = format!("{{\"a\":\"{}\"}}", "x".repeat(MIB)).into_bytes();
        let (record, change) = (Detached::report(id, json).unwrap(), Change::Report { id });
        rig.journal.append_large(&mut Ticket::default(), record, change).unwrap()
    };
    let mut reported = report(&rig);
    rig.journal.fence(&Ids::of(vec![id]));
    rig.writer.turn();
    assert_eq!(reported.try_recv(), Ok(Ok(Outcome::Gone)));
    assert_eq!(kinds(&rig.disk), ["batch"]);
    assert_eq!(rig.journal.uncommitted_bytes().0, 0);
    assert_eq!(rig.commit(1).len(), 1);
    in_order(&records(&rig.disk));
}

/// The journal begins in an outage, so the terms of the settings are not folded yet when a stored session is
/// read; those under which its record is folded are known all the same.
#[test]
fn a_stored_session_that_is_read_before_the_terms_are_written_is_folded_under_them() {
    let mut rig = Rig::new();
    rig.commit(1);
    let disk = rig.disk.after_crash(0);
    disk.fail_after(0, Some(1), 0);
    let ten = Terms { events_max: 10, ..Terms::default() };
    let mut rig = Rig::with(disk, rig.clock.clone(), ten).unwrap();
    assert_eq!(rig.append_batch().unwrap_err(), Unavailable::Disk);
    let mut body = [b"[", BODY].concat();
    for ts in 1..20 {
        write!(body, r#",{{"eventType":"ping","playerTime":{{"ts":{ts},"playhead":0}}}}"#).unwrap();
    }
    body.push(b']');
    let body = Bytes::from(body);
    let session = Box::new(rig.read_stored(&body));
    assert_ne!(rig.live.progress().terms, ten, "not yet");
    assert!(rig.writer.turn());
    let id = rig.mint();
    let record = Detached::batch(id, None, None, &body).unwrap();
    let hash = BodyHash::of(&[record.value()]);
    let change = Change::Batch { id, session, hash, room: None };
    rig.journal.append_large(&mut Ticket::default(), record, change).unwrap();
    rig.writer.turn();
    let counts = rig.live.ended(id).unwrap().counts;
    assert_eq!((counts.events, counts.beyond), (10, 10));
    let before = sessions_of(&rig.live);
    let rig = Rig::with(rig.disk.after_crash(0), rig.clock.clone(), ten).unwrap();
    assert_eq!(sessions_of(&rig.live), before, "replay is what was live");
}

#[test]
fn a_large_report_is_written_once_and_read_back() {
    let mut rig = Rig::new();
    let mut body = [b"[", BODY].concat();
    let ad_break = r#"{"media.ad.podIndex":1,"media.ad.podSecond":0}"#;
    let event = |event_type: &str, params: &str| {
        let time = r#"{"ts":5,"playhead":0}"#;
        format!(r#",{{"eventType":"{event_type}","playerTime":{time},"params":{params}}}"#)
    };
    body.extend_from_slice(event("adBreakStart", ad_break).as_bytes());
    for _ in 0..60 {
        let id = "a".repeat(1_500);
        let ad = format!(
            r#"{{"media.ad.id":"{id}","media.ad.length":1,"media.ad.podPosition":1,"media.ad.playerName":"p"}}"#
        );
        body.extend_from_slice(event("adStart", &ad).as_bytes());
    }
    body.push(b']');
    let (id, _) = rig.append_stored(&body.into()).unwrap();
    rig.writer.turn();
    let (tells, told) = channel();
    let reporter = Reporter::new(Arc::clone(&rig.live), rig.journal.clone(), told);
    let Rig { disk, journal, writer, live, clock, .. } = rig;
    std::thread::scope(|scope| {
        scope.spawn(|| writer.run());
        let reporting = scope.spawn(|| reporter.run());
        while live.unreported() > 0 {
            std::thread::yield_now();
        }
        journal.close();
        drop(tells);
        reporting.join().unwrap();
    });
    in_order(&records(&disk));
    let found = of_sessions(&disk);
    let [(.., Content::Batch { .. }), (.., Content::Report { sid, report })] = &found[..] else {
        panic!("{found:?}");
    };
    assert!(*sid == id && report.len() > 64 << 10);
    let rig = Rig::on(disk.after_crash(0), clock).unwrap();
    assert_eq!((rig.recovered.damaged, rig.live.unreported()), (0, 0));
}
