//! A machine whose time of day is wrong: what is stamped, what is removed, and when that is right again.

use super::*;
use crate::clock::{BACK_AFTER_MS, DOUBT_MS, EARLIEST_MS, FORWARD_AFTER_MS, STEP_MS};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// The true time at which these begin.
const TRUE_MS: u64 = EARLIEST_MS + 300 * DAY_MS;

/// A journal whose machine has this time of day.
fn rig_at(wall_ms: u64) -> Rig {
    on(SimDisk::default(), Clock::simulated(wall_ms))
}

fn on(disk: SimDisk, clock: Clock) -> Rig {
    let mut rig = Rig::on(disk, clock).unwrap();
    rig.writer.idle_look = Duration::ZERO;
    rig
}

/// The process ends and starts again, on a machine with this time of day.
fn start_at(rig: &Rig, wall_ms: u64) -> Rig {
    on(rig.disk.after_crash(0), Clock::simulated(wall_ms))
}

/// Lets time pass as a running server does, which looks at its clock every few seconds.
fn run_for(rig: &mut Rig, ms: u64) {
    for _ in 0..ms / 5_000 {
        rig.clock.advance(5_000);
        rig.writer.turn();
    }
}

/// Three segments a day, with a checkpoint each.
fn run_for_days(rig: &mut Rig, days: u64) {
    for _ in 0..days * 3 {
        rig.clock.advance(DAY_MS / 3);
        rig.commit(4);
        rig.keeper.checkpoint().unwrap();
    }
}

fn segments(rig: &Rig) -> usize {
    segment::list(&rig.disk).unwrap().len()
}

/// The number of the first record that is kept.
fn first_seq(rig: &Rig) -> u64 {
    segment::list(&rig.disk).unwrap()[0].first_seq
}

/// Stamps fall where a record says so, and only there: behind the settings that a segment begins with.
fn falls_are_told(rig: &Rig) -> u64 {
    let begins: BTreeSet<_> =
        segment::list(&rig.disk).unwrap().iter().map(|segment| segment.first_seq).collect();
    let mut set_back = 0;
    for pair in records(&rig.disk).windows(2) {
        assert_eq!(pair[0].0 + 1, pair[1].0, "numbers have no gap");
        let told_ms = match pair[1].2 {
            Content::Pause { set_back_ms, .. } => set_back_ms,
            _ => 0,
        };
        assert!(pair[1].1 + told_ms >= pair[0].1, "{pair:?}");
        assert!(told_ms == 0 || begins.contains(&pair[0].0), "inside a segment");
        set_back += told_ms;
    }
    set_back
}

/// The last stamp is less than a drift away from this.
fn is_stamped_at(rig: &Rig, ms: u64) {
    let last_ms = records(&rig.disk).last().unwrap().1;
    assert!(last_ms.abs_diff(ms) < 2 * HOUR_MS, "{last_ms} is not {ms}");
}

#[test]
fn a_clock_that_is_ahead_at_the_start_for_seconds_removes_nothing_and_is_forgotten() {
    let mut rig = rig_at(TRUE_MS);
    run_for_days(&mut rig, 10);
    let before = segments(&rig);
    let true_ms = rig.clock.wall_ms();
    let mut rig = start_at(&rig, true_ms + 40 * DAY_MS);
    let session = rig.commit(1)[0];
    is_stamped_at(&rig, true_ms + 40 * DAY_MS);
    rig.keeper.checkpoint().unwrap();
    rig.commit(1);
    rig.keeper.checkpoint().unwrap();
    rig.keeper.retain().unwrap();
    assert_eq!((segments(&rig), first_seq(&rig)), (before + 1, 1), "nothing is removed");
    // The clock is set right.
    rig.clock.advance(10_000);
    rig.clock.set_wall(true_ms + 10_000);
    run_for(&mut rig, FORWARD_AFTER_MS + 10_000);
    rig.commit(1);
    is_stamped_at(&rig, true_ms);
    assert!(falls_are_told(&rig) > 39 * DAY_MS);
    assert_eq!(rig.live.progress().leap, None, "there is nothing to doubt any more");
    assert_eq!(archived(&rig, session), ["start"], "it is found among stamps that fell");
    // Its deadlines did not see it.
    rig.clock.advance(600_000 - 90_000);
    rig.append_event(session, "ping", true_ms, 1).unwrap();
    rig.writer.turn();
    assert!(rig.live.contains(session));
    let mut rig = start_at(&rig, rig.clock.wall_ms());
    assert_eq!(rig.clock.off_ms(), 0, "the stamps ahead are behind us");
    run_for(&mut rig, 2 * HOUR_MS);
    rig.keeper.retain().unwrap();
    assert_eq!(first_seq(&rig), 1, "nor now: {:?}", rig.live.progress());
}

#[test]
fn starts_with_a_wrong_clock_confirm_nothing_however_many() {
    let mut rig = rig_at(TRUE_MS);
    run_for_days(&mut rig, 10);
    let true_ms = rig.clock.wall_ms();
    for _ in 0..30 {
        rig = start_at(&rig, true_ms + 40 * DAY_MS);
        run_for(&mut rig, 60_000);
        rig.commit(1);
        rig.keeper.checkpoint().unwrap();
        rig.keeper.retain().unwrap();
    }
    assert_eq!(first_seq(&rig), 1, "nothing is removed");
    // A restart with the clock set right takes it back.
    let mut rig = start_at(&rig, true_ms);
    run_for(&mut rig, FORWARD_AFTER_MS + 10_000);
    rig.commit(1);
    is_stamped_at(&rig, true_ms);
    falls_are_told(&rig);
}

#[test]
fn a_server_that_was_off_for_long_removes_what_is_old_once_it_is_sure_and_little_by_little() {
    let mut rig = rig_at(TRUE_MS);
    run_for_days(&mut rig, 10);
    let true_ms = rig.clock.wall_ms();
    let mut rig = start_at(&rig, true_ms + 40 * DAY_MS);
    rig.commit(1);
    rig.keeper.checkpoint().unwrap();
    rig.commit(1);
    rig.keeper.checkpoint().unwrap();
    let before = segment::list(&rig.disk).unwrap();
    run_for(&mut rig, DOUBT_MS - 60_000);
    rig.keeper.retain().unwrap();
    assert_eq!(first_seq(&rig), 1, "it is not sure yet");
    run_for(&mut rig, 120_000);
    let mut removed = Vec::new();
    for _ in 0..12 {
        rig.keeper.retain().unwrap();
        rig.keeper.retain().unwrap();
        let kept_from = first_seq(&rig);
        removed.push(before.iter().filter(|segment| segment.first_seq < kept_from).count());
        run_for(&mut rig, HOUR_MS);
    }
    let tenth = before.len() / 10;
    assert_eq!(removed[..3], [tenth, 2 * tenth, 3 * tenth]);
    assert!(before.len() - removed[11] <= 3, "all are gone within half a day: {removed:?}");
    is_stamped_at(&rig, true_ms + 40 * DAY_MS);
}

#[test]
fn a_clock_that_is_behind_at_the_start_changes_neither_stamps_nor_files() {
    let mut rig = rig_at(TRUE_MS);
    run_for_days(&mut rig, 35);
    let true_ms = rig.clock.wall_ms();
    // As a machine without a battery for its clock; then one that has lost a month.
    for wall_ms in [5_000, true_ms - 30 * DAY_MS] {
        let mut rig = start_at(&rig, wall_ms);
        let before = segments(&rig);
        run_for(&mut rig, BACK_AFTER_MS / 2);
        rig.commit(1);
        is_stamped_at(&rig, true_ms);
        rig.keeper.retain().unwrap();
        assert_eq!(segments(&rig), before, "by such a clock nothing is old");
        rig.clock.set_wall(true_ms + BACK_AFTER_MS / 2);
        run_for(&mut rig, 2 * BACK_AFTER_MS);
        rig.commit(1);
        is_stamped_at(&rig, true_ms + BACK_AFTER_MS);
        assert_eq!(falls_are_told(&rig), 0);
        rig.keeper.retain().unwrap();
        assert!(segments(&rig) < before, "now it goes on");
    }
}

#[test]
fn a_journal_of_a_machine_whose_clock_was_ahead_comes_back_after_an_hour() {
    let mut rig = rig_at(TRUE_MS + 40 * DAY_MS);
    run_for_days(&mut rig, 3);
    let mut rig = start_at(&rig, TRUE_MS);
    run_for(&mut rig, BACK_AFTER_MS - 60_000);
    let session = rig.commit(1)[0];
    is_stamped_at(&rig, TRUE_MS + 43 * DAY_MS);
    // What is live is no older for it.
    rig.append_event(session, "ping", 1, 1).unwrap();
    run_for(&mut rig, 120_000);
    rig.append_event(session, "ping", 2, 2).unwrap();
    rig.writer.turn();
    is_stamped_at(&rig, TRUE_MS);
    falls_are_told(&rig);
    let due = rig.live.take_due(rig.journal.now_ms(), usize::MAX).0;
    assert!(due.iter().all(|(id, _)| *id != session), "{due:?}");
    assert_eq!(archived(&rig, session), ["start", "event", "event"]);
    let live = rig.state();
    let rig = start_at(&rig, rig.clock.wall_ms());
    assert_eq!(rig.live.progress().set_back_ms, {
        let text = String::from_utf8(live).unwrap();
        let told = text.split_once("\"set_back_ms\":").unwrap().1;
        told[..told.find([',', '}']).unwrap()].parse::<u64>().unwrap()
    });
}

#[test]
fn a_machine_that_slept_goes_on_at_the_time_of_day_and_nobody_timed_out() {
    let mut rig = rig_at(TRUE_MS);
    run_for_days(&mut rig, 10);
    let session = rig.commit(1)[0];
    // The monotonic clock stands still meanwhile.
    rig.clock.set_wall(rig.clock.wall_ms() + 40 * DAY_MS);
    run_for(&mut rig, FORWARD_AFTER_MS + 10_000);
    assert_eq!(rig.live.take_due(rig.journal.now_ms(), usize::MAX).0.len(), 120 - 4, "as before");
    assert!(rig.live.contains(session));
    rig.commit(1);
    is_stamped_at(&rig, rig.clock.wall_ms());
    rig.keeper.checkpoint().unwrap();
    rig.keeper.retain().unwrap();
    assert_eq!(first_seq(&rig), 1, "nothing is removed for it yet");
    rig.clock.advance(600_000 - 90_000);
    rig.append_event(session, "ping", 1, 1).unwrap();
    rig.writer.turn();
    rig.clock.advance(500_000);
    assert!(rig.live.contains(session));
    let due = rig.live.take_due(rig.journal.now_ms(), usize::MAX).0;
    assert!(due.iter().all(|(id, _)| *id != session), "{due:?}");
}

#[test]
fn a_checkpoint_from_before_a_step_back_does_not_bring_the_wrong_time_back() {
    let mut rig = rig_at(TRUE_MS);
    rig.commit(4);
    let mut rig = start_at(&rig, TRUE_MS + 40 * DAY_MS);
    rig.commit(4);
    rig.clock.set_wall(TRUE_MS);
    rig.keeper.checkpoint().unwrap();
    run_for(&mut rig, FORWARD_AFTER_MS + 10_000);
    rig.commit(4);
    for with_checkpoint_after in [false, true] {
        if with_checkpoint_after {
            rig.keeper.checkpoint().unwrap();
        }
        let again = start_at(&rig, rig.clock.wall_ms());
        let last_ms = again.recovered.start.last_ms.unwrap();
        assert!(last_ms <= rig.clock.wall_ms(), "{last_ms}");
        assert_eq!(again.live.progress().set_back_ms, rig.live.progress().set_back_ms);
        assert_eq!(again.live.sessions(), 12);
    }
}

#[test]
fn a_disk_that_fails_at_a_step_of_the_clock_loses_no_step() {
    for (from_ms, to_ms) in [(40 * DAY_MS, 0), (0, 40 * DAY_MS)] {
        for budget in 0..8 {
            let mut rig = rig_at(TRUE_MS + from_ms);
            let session = rig.commit(4)[0];
            rig.clock.set_wall(TRUE_MS + to_ms);
            run_for(&mut rig, BACK_AFTER_MS.min(FORWARD_AFTER_MS) - 5_000);
            let up_ms = rig.live.progress().up_ms(rig.journal.now_ms());
            rig.disk.fail_after(budget, Some(2), 7);
            for _ in 0..800 {
                let taken = rig.append_event(session, "ping", 1, 1);
                rig.clock.advance(5_000);
                while rig.writer.turn() && taken.is_ok() && rig.journal.is_up().is_err() {}
            }
            rig.commit(1);
            is_stamped_at(&rig, rig.clock.wall_ms());
            falls_are_told(&rig);
            let up_later_ms = rig.live.progress().up_ms(rig.journal.now_ms());
            let passed_ms = up_later_ms - up_ms;
            assert!(passed_ms <= 4_100_000, "{passed_ms} at {budget}");
            let live = sessions_of(&rig.live);
            assert_eq!(sessions_of(&start_at(&rig, rig.clock.wall_ms()).live), live);
        }
    }
}

/// What may happen to a server and its clock.
#[derive(Clone, Debug)]
enum Act {
    Pass(u64),
    Set(i64),
    Start(usize),
    Ping(usize),
    Checkpoint,
    Compress,
    Restart,
    Fault(u32, u32),
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1_u64..3 * HOUR_MS).prop_map(Act::Pass),
        2 => (-50_i64..50).prop_map(Act::Set),
        3 => (1_usize..6).prop_map(Act::Start),
        3 => any::<usize>().prop_map(Act::Ping),
        1 => Just(Act::Checkpoint),
        1 => Just(Act::Compress),
        1 => Just(Act::Restart),
        1 => (0_u32..9, 1_u32..3).prop_map(|(after, faults)| Act::Fault(after, faults)),
    ]
}

fn drive(acts: &[Act]) {
    let mut rig = rig_at(TRUE_MS);
    let (mut ids, mut up_ms, mut elapsed_ms) = (rig.commit(1), TRUE_MS, 0);
    for act in acts {
        match act {
            Act::Pass(ms) => {
                // In steps that let the clock see that the time of day holds.
                for _ in 0..8 {
                    rig.clock.advance(ms / 8);
                    rig.writer.turn();
                }
                elapsed_ms += ms;
            }
            Act::Set(days) => {
                let days_ms = days.unsigned_abs() * DAY_MS;
                let wall_ms = rig.clock.wall_ms();
                rig.clock.set_wall(if *days < 0 { wall_ms - days_ms } else { wall_ms + days_ms });
            }
            Act::Start(count) => ids.extend(rig.commit(*count)),
            Act::Ping(which) if !ids.is_empty() => {
                let _ = rig.append_event(ids[which % ids.len()], "ping", 1, 1);
                rig.writer.turn();
            }
            Act::Ping(_) => {}
            Act::Checkpoint => drop(rig.keeper.checkpoint()),
            Act::Compress => drop(rig.keeper.compress_closed()),
            Act::Restart => {
                rig.disk.fail_after(u32::MAX, Some(0), 0);
                while rig.journal.is_up().is_err() {
                    rig.writer.turn();
                }
                let (before, progress) = (sessions_of(&rig.live), rig.live.progress());
                rig = start_at(&rig, rig.clock.wall_ms());
                assert_eq!(sessions_of(&rig.live), before);
                let now = rig.live.progress();
                assert!(now.set_back_ms == progress.set_back_ms, "{now:?} {progress:?}");
            }
            Act::Fault(after, faults) => rig.disk.fail_after(*after, Some(*faults), 9),
        }
        // Up time goes on with the monotonic clock, and never falls, whatever the time of day does.
        let progress = rig.live.progress();
        let now_ms = progress.up_ms(progress.received_ms);
        assert!(now_ms >= up_ms, "{act:?}");
        up_ms = now_ms;
    }
    let passed_ms = up_ms.saturating_sub(TRUE_MS);
    assert!(passed_ms <= elapsed_ms + elapsed_ms / 100 + 1, "{passed_ms} of {elapsed_ms}");
    falls_are_told(&rig);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_clock_does_up_time_is_the_time_that_passed_and_replay_agrees(
        acts in prop::collection::vec(any_act(), 1..40),
    ) {
        drive(&acts);
    }
}

#[test]
fn a_leap_is_doubted_for_an_hour_of_up_time_and_adds_to_one_before_it() {
    let live = Live::new(live::Settings::default());
    live.pause(1, 10 * DAY_MS, 10 * DAY_MS, 0);
    assert_eq!(live.progress().doubted_ms(10 * DAY_MS), 10 * DAY_MS);
    assert_eq!(live.progress().doubted_ms(10 * DAY_MS + DOUBT_MS), 0);
    live.pause(2, 15 * DAY_MS, 5 * DAY_MS, 0);
    assert_eq!(live.progress().doubted_ms(15 * DAY_MS), 15 * DAY_MS);
    live.pause(3, 15 * DAY_MS + STEP_MS, STEP_MS, 0);
    assert_eq!(live.progress().doubted_ms(15 * DAY_MS + STEP_MS), 15 * DAY_MS, "a usual pause");
    live.pause(4, 7 * DAY_MS, 0, 8 * DAY_MS + STEP_MS);
    assert_eq!(live.progress().doubted_ms(7 * DAY_MS), 7 * DAY_MS - STEP_MS);
    live.pause(5, 0, 0, 7 * DAY_MS);
    assert_eq!(live.progress().leap, None);
}

#[test]
fn time_in_which_the_process_stood_still_counts_against_no_session() {
    let no_events_ms = Terms::default().no_events_ms;
    // Whoever comes first when it goes on: a player, the deadlines, the keeper, or the writer that waits.
    for first in 0..4 {
        let mut rig = rig_at(TRUE_MS);
        let session = rig.commit(1)[0];
        rig.clock.stand_still(2 * no_events_ms);
        match first {
            0 => drop(rig.append_event(session, "ping", TRUE_MS, 1).unwrap()),
            1 => assert_eq!(rig.live.take_due(rig.journal.now_ms(), 9), (Vec::new(), true)),
            2 => rig.keeper.checkpoint().unwrap(),
            _ => {}
        }
        rig.writer.turn();
        rig.append_event(session, "ping", TRUE_MS, 2).unwrap();
        rig.writer.turn();
        assert!(rig.live.contains(session));
        let pauses: Vec<_> = records(&rig.disk)
            .into_iter()
            .filter_map(|(_, _, content)| match content {
                Content::Pause { down_ms, .. } => Some(down_ms),
                _ => None,
            })
            .collect();
        assert_eq!(pauses, [2 * no_events_ms], "it is told once");
        rig.clock.advance(no_events_ms);
        assert_eq!(rig.live.take_due(rig.journal.now_ms(), 9).0.len(), 1, "other time counts");
        let again = start_at(&rig, rig.clock.wall_ms());
        assert!(again.live.contains(session));
    }
}

#[test]
fn a_disk_that_fails_as_the_process_goes_on_loses_no_time_in_which_it_stood_still() {
    let mut rig = rig_at(TRUE_MS);
    let session = rig.commit(1)[0];
    let up_ms = |rig: &Rig| rig.live.progress().up_ms(rig.live.progress().received_ms);
    let before_ms = up_ms(&rig);
    rig.clock.stand_still(DAY_MS);
    rig.disk.fail_after(0, Some(2), 0);
    rig.writer.retry = (Duration::ZERO, Duration::ZERO);
    rig.append_event(session, "ping", TRUE_MS, 1).unwrap();
    rig.writer.turn();
    rig.commit(1);
    assert_eq!(up_ms(&rig), before_ms);
    assert!(rig.live.contains(session));
}

#[test]
fn a_leap_whose_record_cannot_be_written_is_in_doubt_all_the_same() {
    let mut rig = rig_at(TRUE_MS);
    run_for_days(&mut rig, 10);
    let true_ms = rig.clock.wall_ms();
    let disk = rig.disk.after_crash(0);
    // A full disk: no file can be made, but files can be removed.
    disk.fail_after(0, Some(1), 0);
    let started = on(disk, Clock::simulated(true_ms + 40 * DAY_MS));
    assert!(started.journal.is_up().is_err());
    started.keeper.retain().unwrap();
    assert!(started.clock.sure_ms() <= true_ms && first_seq(&started) == 1);
    // The clock leaps while the server runs, and the disk fails as that is to be told.
    rig.clock.set_wall(true_ms + 40 * DAY_MS);
    rig.writer.turn();
    rig.clock.advance(FORWARD_AFTER_MS + 1_000);
    rig.disk.fail_after(2, None, 0);
    let Rig { disk, clock, journal, mut writer, keeper, .. } = rig;
    let writing = std::thread::spawn(move || while writer.turn() {});
    while journal.is_up().is_ok() {
        std::thread::yield_now();
    }
    disk.fail_after(u32::MAX, Some(0), 0);
    keeper.retain().unwrap();
    assert!(clock.sure_ms() <= true_ms + DAY_MS);
    assert_eq!(segment::list(&disk).unwrap()[0].first_seq, 1);
    journal.close();
    writing.join().unwrap();
}

#[test]
fn stamps_far_ahead_do_not_keep_what_follows_them() {
    let mut rig = rig_at(TRUE_MS);
    run_for_days(&mut rig, 10);
    let true_ms = rig.clock.wall_ms();
    let mut rig = start_at(&rig, true_ms + 700 * DAY_MS);
    for _ in 0..3 {
        rig.commit(4);
        run_for(&mut rig, HOUR_MS);
    }
    let ahead_seq = rig.live.progress().seq;
    rig.clock.set_wall(true_ms + 3 * HOUR_MS);
    run_for(&mut rig, BACK_AFTER_MS + 60_000);
    assert_eq!(rig.clock.off_ms(), 0);
    for _ in 0..70 {
        run_for_days(&mut rig, 1);
        for _ in 0..3 {
            run_for(&mut rig, HOUR_MS);
            rig.keeper.retain().unwrap();
        }
    }
    assert!(first_seq(&rig) > ahead_seq, "{} of {ahead_seq}", first_seq(&rig));
    let oldest_ms = segment::list(&rig.disk).unwrap()[0].first_received_ms(&rig.disk).unwrap();
    assert!(rig.clock.now_ms() - oldest_ms < 40 * DAY_MS, "and no more than is to be kept");
}

#[test]
fn a_disk_that_hangs_as_it_comes_back_lets_no_session_time_out() {
    let mut rig = rig_at(TRUE_MS);
    let session = rig.commit(1)[0];
    rig.disk.fail_after(0, Some(1), 0);
    let gate = Arc::clone(&rig.disk.gate);
    let pending = rig.append_event(session, "ping", TRUE_MS, 1).unwrap();
    let Rig { clock, journal, mut writer, live, .. } = rig;
    let held = gate.lock();
    let writing = std::thread::spawn(move || {
        writer.turn();
        writer
    });
    assert!(pending.1.blocking_recv().unwrap().is_err());
    // The write of the next segment hangs.
    clock.advance(2 * Terms::default().no_events_ms);
    assert!(journal.is_up().is_err());
    drop(held);
    let _writer = writing.join().unwrap();
    assert!(journal.is_up().is_ok() && live.contains(session));
    assert_eq!(live.take_due(journal.now_ms(), 9).0, []);
}
