//! What is left of a journal tells all that must be known: without its oldest segments, without its checkpoints, with a
//! damaged end, and after crashes of a server that had nothing to write.

use super::erase::without_first;
use super::*;

/// The lines of a segment, without their line breaks.
fn lines_of(disk: &SimDisk, segment: &segment::Segment) -> Vec<Vec<u8>> {
    let mut lines = segment.lines(disk).unwrap();
    let mut found = Vec::new();
    while let Some(line) = lines.next_line().unwrap() {
        found.push(line.text.to_vec());
    }
    found
}

/// What a start finds.
fn read(disk: &SimDisk) -> (Arc<Live>, Recovered) {
    let live = Arc::new(Live::new(live::Settings::default()));
    let mut processor = Processor::new(Arc::clone(&live));
    let recovered = recover(disk, &live, &mut processor, &Ids::default()).unwrap();
    (live, recovered)
}

fn without_checkpoints(disk: &SimDisk) -> SimDisk {
    let disk = disk.after_crash(0);
    for (_, name) in checkpoint::list(&disk).unwrap() {
        disk.remove(&name).unwrap();
    }
    disk
}

/// A copy without the segments before this row.
fn from_row(disk: &SimDisk, row: usize) -> SimDisk {
    let disk = disk.after_crash(0);
    for segment in segment::list(&disk).unwrap().into_iter().take(row) {
        disk.remove(&segment.name()).unwrap();
    }
    disk
}

/// What a checkpoint says of sessions, but for which one repeats the start of another: that may be gone.
fn told_alone(live: &Live) -> Vec<String> {
    let lines = sessions_of(live).into_iter().filter(|line| line.starts_with("{\"sid\""));
    lines.map(|line| without_first(&line)).collect()
}

/// The session that a line of a checkpoint saves.
fn saved_in(line: &str) -> SessionId {
    SessionId::from_path(&line[8..72]).unwrap()
}

/// What stands in a journal of its sessions: where they start, and their reports.
fn told_of(disk: &SimDisk) -> (BTreeMap<SessionId, u64>, BTreeMap<SessionId, Vec<u8>>) {
    let (mut starts, mut reports) = (BTreeMap::new(), BTreeMap::new());
    segment::each_line(disk, |_, _, record| {
        let Ok(record) = record else { return std::io::Result::Ok(()) };
        match record.content {
            Content::Start { sid, .. } | Content::Batch { sid, .. } => {
                starts.insert(sid, record.seq);
            }
            Content::Report { sid, report } => {
                assert!(reports.insert(sid, report.into_owned()).is_none());
            }
            _ => {}
        }
        Ok(())
    })
    .unwrap();
    (starts, reports)
}

/// Whatever segments and checkpoints are left, no session is reported a second time, and those that are wholly there
/// are what they are in the whole journal.
fn hold_to_law(disk: &SimDisk) {
    let whole = disk.after_crash(0);
    // So that what was not committed is cut.
    read(&whole);
    let (starts, reports) = told_of(&whole);
    let (of_whole, start) = read(&without_checkpoints(&whole));
    let lines = told_alone(&of_whole);
    for (row, first) in segment::list(&whole).unwrap().into_iter().enumerate() {
        let is_inside = |id: &SessionId| starts[id] >= first.first_seq;
        let suffix = from_row(&whole, row);
        assert_begins_with_settings(&suffix, &first);
        for with_checkpoints in [false, true] {
            let disk =
                if with_checkpoints { suffix.after_crash(0) } else { without_checkpoints(&suffix) };
            let (live, recovered) = read(&disk);
            for id in reports.keys() {
                assert!(!live.contains(*id) && live.ended(*id).is_none(), "{id} lives again");
            }
            let found = told_alone(&live);
            assert!(found.iter().all(|line| lines.contains(line)));
            let inside = lines.iter().filter(|line| is_inside(&saved_in(line)));
            assert!(inside.clone().all(|line| found.contains(line)));
            assert!(with_checkpoints || found.len() == inside.count());
            // A segment that is begun and empty tells nothing.
            if first.bytes > 0 {
                assert_eq!(live.progress(), of_whole.progress());
                assert_eq!(recovered.start.next_seq, start.start.next_seq);
            }
        }
        reports_follow_from(&suffix, is_inside);
    }
}

fn assert_begins_with_settings(disk: &SimDisk, first: &segment::Segment) {
    if let Some(line) = lines_of(disk, first).first() {
        let record = Record::read(line).unwrap();
        assert_eq!(record.seq, first.first_seq);
        assert!(matches!(record.content, Content::Settings { paused_ms: Some(_), .. }));
    }
}

/// Each report of a session that begins in these segments follows from them alone.
fn reports_follow_from(disk: &SimDisk, is_inside: impl Fn(&SessionId) -> bool) {
    let live = Arc::new(Live::new(live::Settings::default()));
    let mut processor = Processor::new(Arc::clone(&live));
    segment::each_line(disk, |_, _, record| {
        let Ok(record) = record else { return std::io::Result::Ok(()) };
        if let Content::Report { sid, report } = &record.content
            && is_inside(sid)
        {
            let session = live.ended(*sid).expect("it has ended");
            let again = serde_json::to_string(&Report::of(*sid, &session)).unwrap();
            let written = std::str::from_utf8(report).unwrap();
            assert_eq!(without_first(&again), without_first(written));
        }
        processor.replay(record).unwrap();
        Ok(())
    })
    .unwrap();
}

/// The journal as an older version would have written it, which told settings only when they changed.
fn as_older(disk: &SimDisk) -> SimDisk {
    let older = disk.after_crash(0);
    let mut terms_before = Terms::default();
    for segment in segment::list(disk).unwrap() {
        let mut text = Vec::new();
        for line in lines_of(disk, &segment) {
            match Record::read(&line) {
                Ok(Record { seq, received_ms, content: Content::Settings { terms, .. } }) => {
                    let content = if terms == terms_before {
                        Content::Pause { down_ms: 0, set_back_ms: 0 }
                    } else {
                        Content::Settings { terms, paused_ms: None, set_back_ms: 0 }
                    };
                    terms_before = terms;
                    Encoded::short(content).write_line(&mut text, seq, received_ms);
                }
                _ => text.extend_from_slice(&[&line[..], b"\n"].concat()),
            }
        }
        older.remove(&segment.name()).unwrap();
        older.write(&segment::open_name(segment.first_seq), text);
    }
    older
}

/// A folder of an older version starts, and no session of it is reported a second time, whatever is left of it.
fn hold_older_to_law(disk: &SimDisk) {
    let whole = disk.after_crash(0);
    read(&whole);
    let older = as_older(&whole);
    let (_, reports) = told_of(&whole);
    for disk in [&whole, &without_checkpoints(&whole)] {
        let (live, _) = read(&disk.after_crash(0));
        let (older, _) = read(&as_older(disk));
        assert_eq!(sessions_of(&older), sessions_of(&live));
        assert_eq!(older.progress(), live.progress());
    }
    for row in 0..segment::list(&older).unwrap().len() {
        let suffix = from_row(&older, row);
        for disk in [&suffix, &without_checkpoints(&suffix)] {
            let rig = Rig::on(disk.after_crash(0), Clock::manual(9_000_000_000)).unwrap();
            for id in reports.keys() {
                assert!(!rig.live.contains(*id) && rig.live.ended(*id).is_none(), "{id}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_suffix_of_a_journal_tells_what_is_wholly_in_it_and_reports_nothing_twice(
        acts in prop::collection::vec(any_act(), 1..40),
    ) {
        for disk in drive(&acts) {
            hold_to_law(&disk);
            hold_older_to_law(&disk);
        }
    }
}

#[test]
fn a_session_that_was_reported_stays_so_without_what_decided_its_end() {
    let minute = Terms { no_events_ms: 60_000, ..Terms::default() };
    let mut rig = Rig::with(SimDisk::default(), Clock::manual(1_000_000), minute).unwrap();
    // A pause that counts against nobody, and that what is left does not have.
    rig.clock.advance(777);
    rig = Rig::with(rig.disk.after_crash(0), rig.clock.clone(), minute).unwrap();
    rig.commit(8);
    let ended = rig.commit(2);
    rig.clock.advance(60_000);
    let mut closes = rig.append_closes();
    rig.writer.turn();
    assert!(closes.iter_mut().all(|(_, c)| c.try_recv() == Ok(Ok(Outcome::Closed))));
    for id in rig.live.unreported_ids() {
        rig.append_report(id).unwrap();
    }
    rig.writer.turn();
    let lasting = rig.commit(1)[0];
    let segments = segment::list(&rig.disk).unwrap();
    let row = segments.iter().position(|segment| segment.first_seq > 3).unwrap();
    for disk in [from_row(&rig.disk, row), from_row(&as_older(&rig.disk), row)] {
        let (live, _) = read(&disk);
        assert!(ended.iter().all(|id| !live.contains(*id) && live.ended(*id).is_none()));
        assert!(live.contains(lasting));
        assert_eq!(live.unreported(), 0);
    }
    let (live, _) = read(&from_row(&rig.disk, row));
    assert_eq!(live.progress(), rig.live.progress());
    assert_eq!((live.progress().paused_ms, live.progress().terms), (777, minute));
}

#[test]
fn every_segment_begins_with_settings_whatever_the_disk_does() {
    let mut rig = Rig::new();
    rig.commit(9);
    rig.commit(2);
    // The group is written, and the next segment cannot be begun.
    for operation in 2..6 {
        rig.disk.fail_after(operation, Some(2), 40);
        assert_eq!(rig.commit(9).len(), 9, "at {operation}");
        rig.clock.advance(5);
    }
    rig.disk.fail_after(1, Some(2), 40);
    assert_eq!(rig.commit(1), []);
    assert_eq!(rig.commit(1).len(), 1);
    let found = records(&rig.disk);
    in_order(&found);
    let segments = segment::list(&rig.disk).unwrap();
    assert!(segments.len() > 6);
    for segment in &segments {
        assert_begins_with_settings(&rig.disk, segment);
    }
    let settings = found.iter().filter(|(.., content)| content.kind() == "settings").count();
    assert_eq!(settings, segments.len(), "once in each");
    hold_to_law(&rig.disk);
}

#[test]
fn an_idle_server_begins_no_segment_that_would_have_nothing_but_its_beginning() {
    let mut rig = Rig::new();
    rig.writer.idle_look = Duration::ZERO;
    rig.commit(1);
    for _ in 0..5 {
        rig.clock.advance(3_600_000);
        let mut begun = rig.journal.rotate();
        rig.writer.turn();
        assert_eq!(begun.try_recv(), Ok(3), "where the one begins in which nothing is");
    }
    assert_eq!(kinds(&rig.disk), ["settings", "start", "settings"]);
    assert_eq!(segment::list(&rig.disk).unwrap().len(), 2);
}

#[test]
fn a_checkpoint_is_not_used_if_what_follows_it_is_gone() {
    let mut rig = Rig::new();
    let reported = rig.append_batch().unwrap().0;
    rig.writer.turn();
    rig.commit(8);
    rig.keeper.checkpoint().unwrap();
    rig.append_report(reported).unwrap();
    rig.writer.turn();
    rig.commit(8);
    let lasting = rig.commit(1)[0];
    let floor_seq = checkpoint::list(&rig.disk).unwrap()[0].0;
    let segments = segment::list(&rig.disk).unwrap();
    let row = segments.iter().position(|segment| segment.first_seq > floor_seq + 1).unwrap();
    let (live, recovered) = read(&from_row(&rig.disk, row - 1));
    assert_eq!(recovered.checkpoint_seq, Some(floor_seq), "nothing is missing behind it");
    assert_eq!(sessions_of(&live), sessions_of(&rig.live));
    let disk = from_row(&rig.disk, row);
    let (live, recovered) = read(&disk);
    assert_eq!((recovered.checkpoint_seq, recovered.checkpoints_broken), (None, 1));
    assert!(live.ended(reported).is_none() && live.contains(lasting));
    assert!(checkpoint::list(&disk).unwrap().is_empty());
    let aside = segment::set_aside_name(&format!("checkpoint-{floor_seq:020}"));
    assert!(!disk.read(&aside).is_empty(), "it is set aside, so that it is none of the two");
}

/// Damages the last lines of the last segment. Gives its name, and what it holds now.
fn damage_end(disk: &SimDisk, lines: usize) -> (String, Vec<u8>) {
    let name = segment::list(disk).unwrap().pop().unwrap().name();
    let mut bytes = disk.read(&name);
    let ends: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at] == b'\n').collect();
    for end in &ends[ends.len() - lines..] {
        bytes[end - 30] ^= 1;
    }
    disk.write(&name, bytes.clone());
    (name, bytes)
}

#[test]
fn a_damaged_end_that_a_checkpoint_knows_is_set_aside_and_not_cut() {
    let mut rig = Rig::new();
    rig.commit(5);
    rig.keeper.checkpoint().unwrap();
    let sessions = sessions_of(&rig.live);
    let last_seq = rig.live.progress().seq;
    let (name, damaged) = damage_end(&rig.disk, 3);
    let mut rig = rig.restart();
    let Recovered { damaged: lines, missing, cut_bytes, .. } = rig.recovered;
    assert_eq!((lines, missing, cut_bytes), (3, 3, 0));
    assert_eq!(rig.recovered.start.next_seq, last_seq + 1, "no number is given twice");
    assert_eq!(rig.disk.read(&name), damaged);
    let files = rig.disk.list().unwrap();
    let (aside, _) = files.iter().find(|(name, _)| segment::is_set_aside(name)).unwrap();
    assert!(damaged.ends_with(&rig.disk.read(aside)));
    assert_eq!(sessions_of(&rig.live), sessions);
    // It is in the middle now, and told again as such.
    rig.commit(1);
    let rig = rig.restart();
    assert_eq!((rig.recovered.cut_bytes, rig.live.sessions()), (0, 6));
    assert_eq!(rig.disk.read(&name), damaged);
}

#[test]
fn no_number_is_given_twice_that_a_damaged_checkpoint_knows() {
    let mut rig = Rig::new();
    rig.commit(2);
    rig.keeper.checkpoint().unwrap();
    rig.commit(3);
    rig.keeper.checkpoint().unwrap();
    let newest = checkpoint::list(&rig.disk).unwrap().remove(0);
    let bytes = rig.disk.read(&newest.1);
    rig.disk.write(&newest.1, bytes[..bytes.len() / 2].to_vec());
    damage_end(&rig.disk, 2);
    let rig = rig.restart();
    assert_eq!((rig.recovered.damaged, rig.recovered.cut_bytes), (2, 0));
    assert_eq!(rig.recovered.checkpoints_broken, 1);
    assert_eq!(rig.recovered.start.next_seq, newest.0 + 1);
    assert_eq!(rig.live.sessions(), 3, "all that can still be known");
}

#[test]
fn an_end_that_no_checkpoint_knows_is_cut_as_ever() {
    let mut rig = Rig::new();
    rig.commit(3);
    rig.keeper.checkpoint().unwrap();
    let whole = rig.disk.read(&segment::open_name(1));
    rig.disk.grow(&segment::open_name(1), b"{\"seq\":5,half\na line");
    let rig = rig.restart();
    let Recovered { damaged, missing, cut_bytes, .. } = rig.recovered;
    assert_eq!((damaged, missing, cut_bytes), (0, 0, 20));
    assert_eq!(rig.disk.read(&segment::open_name(1)), whole);
}

/// Lets the server be up for so long with nothing to write.
fn idle(rig: &mut Rig, ms: u64) {
    rig.writer.idle_look = Duration::ZERO;
    for _ in 0..ms / 500 {
        rig.clock.advance(500);
        rig.writer.turn();
    }
}

#[test]
fn a_server_that_crashes_while_it_is_idle_times_sessions_out_all_the_same() {
    for (run_ms, lost_ms) in [(60_000, 10_000), (4_000, 2_000)] {
        let mut rig = Rig::new();
        let id = rig.commit(1)[0];
        let begun_ms = rig.clock.now_ms();
        let mut up_ms = 0;
        while rig.live.take_due(rig.clock.now_ms(), 9).0.is_empty() {
            assert!(up_ms < 1_300_000, "it never ends");
            let before = records(&rig.disk).len();
            idle(&mut rig, run_ms);
            assert_eq!(records(&rig.disk).len(), before, "nothing is written to the journal");
            up_ms += run_ms;
            // The server is down for longer than it is up.
            rig.clock.advance(3 * run_ms);
            rig = rig.restart();
            let progress = rig.live.progress();
            let counted_ms = progress.up_ms(rig.clock.now_ms()) - begun_ms;
            let runs = up_ms / run_ms;
            assert!(counted_ms <= up_ms && counted_ms + runs * lost_ms >= up_ms, "{run_ms}");
        }
        let (_, mut closed) = rig.append_close(id, CloseReason::TimeoutNoEvents).unwrap();
        rig.writer.turn();
        assert_eq!(closed.try_recv(), Ok(Ok(Outcome::Closed)));
        assert_eq!(rig.restart().live.unreported(), 1);
    }
}

#[test]
fn that_the_server_is_up_is_noted_only_for_sessions_and_never_in_an_outage() {
    let marks = |rig: &Rig| {
        let files = rig.disk.list().unwrap();
        files.into_iter().filter(|(name, _)| name.starts_with("up-")).count()
    };
    let mut rig = Rig::new();
    idle(&mut rig, 60_000);
    assert_eq!(marks(&rig), 0, "nothing grows older");
    rig.commit(1);
    rig.clock.advance(30_000);
    let _waiting = rig.append_start().unwrap();
    rig.disk.fail_after(0, Some(1), 0);
    rig.writer.turn();
    assert_eq!(marks(&rig), 0, "something was not heard");
    idle(&mut rig, 30_000);
    assert_eq!(marks(&rig), 1);
}

#[test]
fn a_start_that_is_broken_off_forgets_no_number_of_a_damaged_checkpoint() {
    let mut rig = Rig::new();
    rig.commit(2);
    rig.keeper.checkpoint().unwrap();
    rig.commit(3);
    rig.keeper.checkpoint().unwrap();
    let (floor_seq, newest) = checkpoint::list(&rig.disk).unwrap().remove(0);
    let bytes = rig.disk.read(&newest);
    rig.disk.write(&newest, bytes[..bytes.len() / 2].to_vec());
    damage_end(&rig.disk, 2);
    let disk = rig.disk.after_crash(0);
    // Each ends before it begins a segment.
    for _ in 0..3 {
        let (_, recovered) = read(&disk);
        let found = (recovered.start.next_seq, recovered.cut_bytes, recovered.damaged);
        assert_eq!(found, (floor_seq + 1, 0, 2));
    }
}

#[test]
fn a_checkpoint_is_used_if_the_segments_follow_all_of_its_shards() {
    let mut rig = Rig::new();
    rig.commit(8);
    rig.keeper.checkpoint().unwrap();
    rig.commit(8);
    let (floor_seq, name) = checkpoint::list(&rig.disk).unwrap().remove(0);
    let text = String::from_utf8(rig.disk.read(&name)).unwrap();
    let segments = segment::list(&rig.disk).unwrap();
    let row = segments.iter().position(|segment| segment.first_seq > floor_seq + 1).unwrap();
    let last_seq = segments[row].first_seq - 1;
    // As if these shards had been saved later.
    let saved = |is_late: &dyn Fn(usize) -> bool| {
        let mut text = text.clone();
        for shard in (0..live::SHARDS).filter(|shard| is_late(*shard)) {
            let line = |seq| format!("{{\"shard\":{shard},\"seq\":{seq}}}\n");
            text = text.replace(&line(floor_seq), &line(last_seq));
        }
        let end = text.rfind("{\"sessions\"").unwrap();
        let crc = format!("{:08x}", crc32c::crc32c(&text.as_bytes()[..end]));
        let footer = &text[end..];
        let from = footer.rfind(":\"").unwrap() + 2;
        let footer = format!("{}{crc}\"}}\n", &footer[..from]);
        let disk = from_row(&rig.disk, row);
        disk.write(&name, [&text[..end], &footer].concat().into_bytes());
        read(&disk).1.checkpoint_seq
    };
    assert_eq!(saved(&|_| true), Some(floor_seq), "nothing is missing behind any");
    assert_eq!(saved(&|shard| shard != 7), None, "something is missing behind one");
}

#[test]
fn a_time_that_no_clock_shows_is_not_believed() {
    let mut rig = Rig::new();
    rig.commit(3);
    let known_ms = read(&rig.disk.after_crash(0)).1.start.last_ms;
    assert!(known_ms.is_some());
    let disk = rig.disk.after_crash(0);
    disk.write("up-18446744073709551615", Vec::new());
    assert_eq!(read(&disk).1.start.last_ms, known_ms);
    let next_seq = read(&disk).1.start.next_seq;
    let mut line = Vec::new();
    let pause = Encoded::short(Content::Pause { down_ms: 0, set_back_ms: 0 });
    pause.write_line(&mut line, next_seq, u64::MAX);
    disk.write(&segment::open_name(next_seq), line);
    let recovered = read(&disk).1;
    assert_eq!((recovered.start.next_seq, recovered.start.last_ms), (next_seq + 1, known_ms));
    // Such a server goes on.
    let clock = Clock::simulated(rig.clock.now_ms() + 1_000);
    let mut rig = Rig::on(disk, clock).unwrap();
    assert_eq!(rig.commit(2).len(), 2);
    rig.clock.advance(3_600_000);
    assert_eq!(rig.commit(2).len(), 2);
}
