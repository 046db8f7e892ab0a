//! Erasing on a simulated disk that fails and crashes where it hurts.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::journal::erase::order::{Evidence, Order, State, Word};
use crate::journal::erase::{
    LeftOut, Purge, Purged, Range, Running, Selection, Site, Tell, Visitor, finish, leave_out,
    survey,
};

const KEY: &str = "user";

const VALUE: &str = "Zoë-Geheim-7";

/// What of the value is the same however it is written.
const NEEDLE: &str = "-Geheim-7";

/// The starts of sessions: of the visitor in two spellings, and of others.
fn start_body(number: usize) -> Vec<u8> {
    let metadata = match number % 5 {
        0 => "{\"user\":\"Zoë-Geheim-7\"}".to_owned(),
        1 => "{\"user\":\"Zo\\u00eb-Geheim\\u002d7\"}".replace("\\u002d", "-"),
        other => format!("{{\"user\":\"Zoë-{other}\"}}"),
    };
    let text = str::from_utf8(BODY).unwrap();
    let end = text.trim_end().strip_suffix('}').unwrap();
    format!("{end},\"customMetadata\":{metadata}}}").into_bytes()
}

fn visitor() -> Selection {
    Selection::Visitor(vec![Visitor::new(KEY.into(), VALUE.into())])
}

fn order(selection: &Selection) -> Order {
    Order::new("an order".into(), 1, selection.clone())
}

/// Erases what is on a disk that no server uses, as far as the disk lets it.
fn erase_on(disk: &SimDisk, clock: &Clock) -> std::io::Result<Option<Evidence>> {
    erase_telling(disk, clock, &mut |_, _| Ok(()))
}

fn erase_telling(
    disk: &SimDisk,
    clock: &Clock,
    tell: Tell<'_>,
) -> std::io::Result<Option<Evidence>> {
    let purge: &Purge<'_> = &|_, _| Ok(Purged::default());
    let site = Site {
        home: disk,
        disk,
        purge,
        clock,
        running: None,
        left_out: None,
        given: Some("an order"),
    };
    finish(&site, tell)
}

fn give(disk: &SimDisk, selection: &Selection) {
    disk.write("erase.json", order(selection).to_json());
}

fn erase(disk: &SimDisk, selection: &Selection) -> Evidence {
    // Orders have ids of their own, and these here have not.
    Word::forget(disk, "an order").unwrap();
    give(disk, selection);
    erase_on(disk, &Clock::manual(9_000_000)).unwrap().unwrap()
}

/// A keeper that takes orders, in place of the one that does not.
fn taking_orders(rig: Rig) -> Rig {
    taking_orders_without(rig, None)
}

fn taking_orders_without(mut rig: Rig, left_out: Option<LeftOut>) -> Rig {
    let keeper = Keeper::new(
        settings(),
        Arc::new(rig.disk.clone()),
        rig.clock.clone(),
        Arc::clone(&rig.live),
        rig.journal.clone(),
    );
    let home = Arc::new(rig.disk.clone());
    rig.keeper = keeper.erasing(home, Box::new(|_, _| Ok(Purged::default())), left_out);
    rig
}

/// The contents of every file, unpacked as far as that goes.
fn contents(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let names = disk.list().unwrap().into_iter().map(|(name, _)| name);
    let contents = names.map(|name| {
        let mut bytes = disk.read(&name);
        if name.contains(".zst") {
            let mut unpacked = Vec::new();
            let mut decoder = zstd::Decoder::new(&bytes[..]).unwrap();
            let _ = std::io::Read::read_to_end(&mut decoder, &mut unpacked);
            bytes = unpacked;
        }
        (name, bytes)
    });
    contents.collect()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    memchr::memmem::find(bytes, text.as_bytes()).is_some()
}

/// The lines of all records that count, each with its session.
fn lines(disk: &SimDisk) -> Vec<(Option<SessionId>, String)> {
    let mut found = Vec::new();
    segment::each_line(disk, |_, line, record| {
        if let Ok(record) = record {
            let text = String::from_utf8(line.text.to_vec()).unwrap();
            found.push((record.content.sid(), text));
        }
        std::io::Result::Ok(())
    })
    .unwrap();
    found
}

/// What a start would find.
fn replay(disk: &SimDisk, with_checkpoints: bool) -> (Arc<Live>, Recovered) {
    let disk = disk.after_crash(0);
    if !with_checkpoints {
        for (_, name) in checkpoint::list(&disk).unwrap() {
            disk.remove(&name).unwrap();
        }
    }
    let live = Arc::new(Live::new(live::Settings::default()));
    let mut processor = Processor::new(Arc::clone(&live));
    let recovered = recover(&disk, &live, &mut processor, &Ids::default()).unwrap();
    (live, recovered)
}

/// What is of others: the lines of their records, and their states.
#[derive(Debug, PartialEq, Eq)]
struct Others {
    records: Vec<String>,
    sessions: Vec<String>,
    paused_ms: u64,
}

impl Others {
    fn on(disk: &SimDisk, ids: &BTreeSet<SessionId>) -> Self {
        let records =
            lines(disk).into_iter().filter(|(sid, _)| sid.is_none_or(|sid| !ids.contains(&sid)));
        let records = records.map(|(_, line)| line).filter(|line| !line.contains("\"erased\""));
        let (live, _) = replay(disk, true);
        let is_of = |line: &String| ids.iter().any(|id| line.contains(&format!("sid\":\"{id}")));
        let sessions = others_of(&live).into_iter().filter(|line| !is_of(line));
        Self {
            records: records.map(|line| without_first(&line)).collect(),
            sessions: sessions.collect(),
            paused_ms: live.progress().paused_ms,
        }
    }
}

/// What a checkpoint says of sessions, but for which starts repeat which: if the first of them goes, another is the
/// first for who reads the records.
fn others_of(live: &Live) -> Vec<String> {
    let lines = sessions_of(live).into_iter().filter(|line| !line.starts_with("{\"start_sid\""));
    lines.map(|line| without_first(&line)).collect()
}

/// The memory of sessions, but for what says which starts repeat which.
fn bytes_of(live: &Live) -> usize {
    let repeats = sessions_of(live).iter().filter(|line| line.contains(",\"repeat_of\":")).count();
    live.bytes() - repeats * size_of::<SessionId>()
}

/// A line without the session whose start it says is repeated, and then without its checksum.
pub(super) fn without_first(line: &str) -> String {
    const KEYS: [&str; 2] = ["\"repeatOf\":", ",\"repeat_of\":"];
    let Some((at, key)) = KEYS.iter().find_map(|key| Some((line.find(key)?, key))) else {
        return line.to_owned();
    };
    let rest =
        line[at + key.len()..].trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '"');
    let rest = rest.rfind(",\"crc\":").map_or(rest, |crc| &rest[..crc]);
    format!("{}{rest}", &line[..at])
}

/// The sessions of the visitor, by the bytes of their records.
fn ids_on(disk: &SimDisk) -> BTreeSet<SessionId> {
    lines(disk)
        .into_iter()
        .filter(|(_, line)| line.contains(NEEDLE))
        .filter_map(|(sid, _)| sid)
        .collect()
}

/// Nothing of the visitor is left, and all that is of others.
fn hold_to_erased(disk: &SimDisk, ids: &BTreeSet<SessionId>, others: &Others) {
    for (name, bytes) in contents(disk) {
        assert!(!holds(&bytes, NEEDLE), "the value stands in {name}");
        for id in ids {
            assert!(!holds(&bytes, &id.to_string()), "a session stands in {name}");
        }
    }
    assert_eq!(Others::on(disk, ids), *others);
    let mut next_seq = None;
    for segment in segment::list(disk).unwrap() {
        assert!(next_seq.is_none_or(|next_seq| next_seq == segment.first_seq));
        next_seq = Some(segment.first_seq);
        let mut lines = segment.lines(disk).unwrap();
        while let Some(line) = lines.next_line().unwrap() {
            let Ok(record) = Record::read(line.text) else { continue };
            assert_eq!(Some(record.seq), next_seq, "the numbers have no gap");
            next_seq = Some(record.last_seq() + 1);
        }
    }
    let (with, recovered) = replay(disk, true);
    assert_eq!((recovered.damaged, recovered.missing, recovered.checkpoints_broken), (0, 0, 0));
    let (without, recovered) = replay(disk, false);
    assert_eq!((recovered.damaged, recovered.missing), (0, 0));
    assert_eq!(others_of(&with), others_of(&without));
    assert_eq!((with.sessions(), bytes_of(&with)), (without.sessions(), bytes_of(&without)));
    assert_eq!(with.progress(), without.progress());
}

/// Plays acts with sessions of the visitor among others; only crashes are left out.
fn play(acts: &[Act]) -> Rig {
    let mut rig = taking_orders(Rig::new());
    let mut ids = Vec::new();
    for act in acts {
        let mut pending = Vec::new();
        match act {
            Act::Start(count) => {
                for _ in 0..*count {
                    let body = start_body(ids.len());
                    let started = rig.append_start_body(&body);
                    ids.extend(started.as_ref().map(|(id, _)| *id));
                    pending.extend(started);
                }
            }
            Act::Store(count) => {
                for _ in 0..*count {
                    let body = start_body(ids.len());
                    let stored = rig.append_batch_of(&body);
                    ids.extend(stored.as_ref().map(|(id, _)| *id));
                    pending.extend(stored);
                }
            }
            Act::Report => {
                let wanted = rig.live.unreported_ids();
                pending.extend(wanted.into_iter().filter_map(|id| rig.append_report(id).ok()));
            }
            Act::Events(events) if !ids.is_empty() => {
                for said in events {
                    let mut body = body_of(said.event_type, rig.clock.now_ms(), said.playhead);
                    let id = *said.session.get(&ids);
                    if said.playhead == 2
                        && ids.iter().position(|found| *found == id).unwrap() % 5 == 4
                    {
                        let custom = format!(",\"customMetadata\":{{\"{KEY}\":\"{VALUE}\"}}}}");
                        body = body.strip_suffix('}').unwrap().to_owned() + &custom;
                    }
                    pending.extend(rig.append_body(id, &body));
                }
            }
            Act::Events(_) | Act::CrashAfter(..) => {}
            Act::Advance(by_ms) => rig.clock.advance(*by_ms),
            Act::CloseDue => pending.extend(rig.append_closes()),
            Act::Checkpoint => drop(rig.keeper.checkpoint()),
            Act::Compress => drop(rig.keeper.compress_closed()),
            Act::Fault(budget, faults, torn) => rig.disk.fail_after(*budget, Some(*faults), *torn),
            Act::Restart(down_ms, timeouts) => {
                rig.clock.advance(*down_ms);
                let disk = rig.disk.after_crash(0);
                rig = taking_orders(Rig::with(disk, rig.clock.clone(), *timeouts).unwrap());
            }
        }
        if !pending.is_empty() {
            rig.writer.turn();
        }
    }
    rig
}

/// Something has to happen to be erased.
fn any_history() -> impl Strategy<Value = Vec<Act>> {
    let acts = prop::collection::vec(any_act(), 4..24);
    acts.prop_map(|acts| [Act::Start(3), Act::Start(3)].into_iter().chain(acts).collect())
}

/// What had been set aside, in part of the visitor.
fn set_aside(disk: &SimDisk, ids: &BTreeSet<SessionId>) {
    let id = ids.first().unwrap();
    let text = format!(
        "a line of nobody\nhalf a line with Zo\\u00eb{NEEDLE}\n{{\"seq\":3,\"sid\":\"{id}\n"
    );
    disk.write("damaged-00000000000000000001-7.txt", text.into_bytes());
    disk.write(
        "damaged-checkpoint-00000000000000000001",
        format!("{{\"sid\":\"{id}\"").into_bytes(),
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// The order is given on a stopped server, and the machine goes down at every operation of the disk.
    #[test]
    fn an_erasure_is_whole_wherever_it_is_interrupted(
        acts in any_history(), also_written in 0..300_usize,
    ) {
        let rig = play(&acts);
        let before = rig.disk.after_crash(0);
        // So that what could not be cut is cut.
        recover(&before, &Live::new(live::Settings::default()), &mut Processor::new(Arc::new(Live::new(live::Settings::default()))), &Ids::default()).unwrap();
        let ids = ids_on(&before);
        prop_assume!(!ids.is_empty());
        let others = Others::on(&before, &ids);
        set_aside(&before, &ids);
        let at_once = erase(&before.after_crash(0), &visitor());
        for budget in 0.. {
            let disk = before.after_crash(0);
            give(&disk, &visitor());
            disk.fail_after(budget, None, also_written);
            let done = erase_on(&disk, &rig.clock);
            let disk = disk.after_crash(also_written);
            let evidence = match &done {
                Ok(evidence) => evidence.clone(),
                Err(_) => erase_on(&disk, &rig.clock).unwrap(),
            };
            hold_to_erased(&disk, &ids, &others);
            prop_assert_eq!(disk.read("damaged-00000000000000000001-7.txt"), b"a line of nobody\n");
            // Only the crash after the removal of the order may leave nothing to do.
            if let Some(evidence) = evidence {
                prop_assert_eq!(evidence.sessions, ids.len() as u64);
                prop_assert_eq!(evidence.value_left_lines, 0);
                prop_assert_eq!(&evidence.records, &at_once.records, "each is counted once");
                prop_assert_eq!(evidence.damaged_lines, at_once.damaged_lines);
                prop_assert_eq!(evidence.segments, at_once.segments);
            }
            if done.is_ok() {
                break;
            }
        }
    }

    /// The order is given to a server that runs, players go on, and the machine goes down at some operation
    /// or not at all.
    #[test]
    fn a_running_server_erases_while_players_go_on(
        acts in any_history(), budget in prop::option::of(0..120_u32), also_written in 0..300_usize,
    ) {
        let rig = play(&acts);
        let ids = ids_on(&rig.disk);
        prop_assume!(!ids.is_empty() && rig.journal.is_up().is_ok());
        let before = Others::on(&rig.disk, &ids);
        give(&rig.disk, &visitor());
        // A fault of before must not be one of now.
        rig.disk.fail_after(budget.unwrap_or(u32::MAX), None, also_written);
        let Rig { disk, clock, live, journal, writer, keeper, .. } = rig;
        let done = std::thread::scope(|scope| {
            scope.spawn(move || writer.run());
            let eraser = scope.spawn(move || {
                let mut between = || {
                    drop(keeper.checkpoint().and(keeper.compress_closed()));
                    true
                };
                keeper.erase(&order(&visitor()), &mut between)
            });
            // However late the eraser begins, the journal does not grow without end until then.
            let mut taken = 0;
            while !eraser.is_finished() {
                for id in &ids {
                    if !journal.is_fenced(*id) {
                        taken += 1;
                        if taken > 300 {
                            continue;
                        }
                    }
                    let body = body_of("ping", clock.now_ms(), 1);
                    let record = Encoded::new(Content::Event { sid: *id, body: body.as_bytes().into() }).unwrap();
                    let rules = Rules { profile: Profile::Open, strict: false };
                    let step = Step::of(&Event::parse(body.as_bytes(), rules).unwrap(), record.body());
                    drop(journal.append(&record, Change::Event { id: *id, step, room: None }));
                }
                if disk.is_broken() {
                    journal.close();
                }
                std::thread::yield_now();
            }
            journal.close();
            eraser.join().unwrap()
        });
        let after = disk.after_crash(if budget.is_some() { also_written } else { 0 });
        if done.is_ok() {
            prop_assert!(ids.iter().all(|id| !live.contains(*id) && live.ended(*id).is_none()));
            let (replayed, _) = replay(&after, true);
            prop_assert_eq!(others_of(&replayed), others_of(&live), "replay is what was live");
            prop_assert_eq!(bytes_of(&replayed), bytes_of(&live));
        }
        erase_on(&after, &clock).unwrap();
        recover(&after, &Live::new(live::Settings::default()), &mut Processor::new(Arc::new(Live::new(live::Settings::default()))), &Ids::default()).unwrap();
        let others = Others::on(&after, &ids);
        let (kept, added) = others.records.split_at(before.records.len().min(others.records.len()));
        prop_assert_eq!(kept, &before.records[..], "what was acknowledged of others before");
        let is_of = |line: &String, kind: &str| line.contains(&format!("\"kind\":\"{kind}\""));
        let no_pause = added.iter().all(|line| is_of(line, "settings"));
        prop_assert!(added.iter().all(|line| is_of(line, "settings") || is_of(line, "pause")), "{:?}", added);
        if no_pause {
            prop_assert_eq!(&others.sessions, &before.sessions);
        }
        hold_to_erased(&after, &ids, &others);
        prop_assert!(lines(&after).iter().any(|(_, line)| line.contains("\"kind\":\"erased\"")));
    }
}

/// Starts on a disk on which an order may stand, as the server does.
fn start_on(disk: &SimDisk, clock: &Clock) -> Rig {
    let left_out = leave_out(disk, disk).unwrap();
    let ids = left_out.as_ref().map(|left_out| left_out.ids.clone()).unwrap_or_default();
    let rig = Rig::without(disk.clone(), clock.clone(), Terms::default(), &ids).unwrap();
    taking_orders_without(rig, left_out)
}

/// Lets a server carry out what was ordered, and end; so it does once its disk is broken.
fn erase_while_it_serves(
    rig: Rig,
    between: &mut (dyn FnMut() -> bool + Send),
) -> std::io::Result<()> {
    let Rig { disk, journal, writer, keeper, .. } = rig;
    std::thread::scope(|scope| {
        scope.spawn(move || writer.run());
        let eraser = scope.spawn(move || keeper.erase(&order(&visitor()), between));
        while !eraser.is_finished() {
            if disk.is_broken() {
                journal.close();
            }
            std::thread::yield_now();
        }
        journal.close();
        eraser.join().unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// The order is given on a stopped server, and from then on every server that starts is killed at some operation
    /// of the disk, until one is not.
    #[test]
    fn servers_that_are_killed_and_started_again_erase_together_what_one_would(
        acts in any_history(), budgets in prop::collection::vec(0..40_u32, 1..8), also_written in 0..300_usize,
    ) {
        let rig = play(&acts);
        let mut disk = rig.disk.after_crash(0);
        let ids = ids_on(&disk);
        prop_assume!(!ids.is_empty());
        let others = Others::on(&disk, &ids);
        let at_once = erase(&disk.after_crash(0), &visitor());
        give(&disk, &visitor());
        let mut is_found = false;
        for budget in budgets.into_iter().map(Some).chain([None]) {
            if Order::pending(&disk).unwrap().is_none() {
                break;
            }
            let rig = start_on(&disk, &rig.clock);
            for id in &ids {
                let is_known = rig.live.contains(*id) || rig.live.ended(*id).is_some();
                prop_assert!(!is_known || !is_found, "what was found is never served again");
                prop_assert!(!is_known, "a journal as small as this is looked through whole");
            }
            if let Some(budget) = budget {
                disk.fail_after(budget, None, also_written);
            }
            let between = &mut || false;
            let done = erase_while_it_serves(rig, between);
            prop_assert!(done.is_ok() || budget.is_some());
            disk = disk.after_crash(also_written);
            is_found = contents(&disk).iter().any(|(_, bytes)| holds(bytes, "counts_later"));
        }
        prop_assert!(Order::pending(&disk).unwrap().is_none());
        let after = Others::on(&disk, &ids);
        let (kept, added) = after.records.split_at(others.records.len());
        prop_assert_eq!(kept, &others.records[..]);
        let is_of_server = |line: &String| ["pause", "settings"].iter().any(|kind| line.contains(kind));
        prop_assert!(added.iter().all(is_of_server), "{:?}", added);
        hold_to_erased(&disk, &ids, &after);
        let State::Done(evidence) = Word::on(&disk, "an order").unwrap().unwrap().state else { panic!("not done") };
        prop_assert_eq!(&evidence.records, &at_once.records, "each is counted once");
        prop_assert_eq!(evidence.sessions, at_once.sessions);
        prop_assert!(evidence.was_interrupted && evidence.server_was_running);
    }
}

#[test]
fn whoever_takes_an_erasure_up_goes_on_where_it_stood() {
    let mut rig = Rig::new();
    // Each is a segment of its own, and many are written down together.
    let body = String::from_utf8(start_body(0)).unwrap();
    let long = body.replace("\"user\":", &format!("\"long\":\"{}\",\"user\":", "x".repeat(90_000)));
    for _ in 0..100 {
        rig.append_start_body(long.as_bytes()).unwrap();
        rig.writer.turn();
    }
    give(&rig.disk, &visitor());
    let (mut left, mut totals) = (Vec::new(), Vec::new());
    let mut disk = rig.disk.after_crash(0);
    // Killed again and again, each time a little later than it began.
    for runs in 0.. {
        let (mut asked, mut first) = (0, None);
        let stopped = erase_telling(&disk, &rig.clock, &mut |done_bytes, total_bytes| {
            asked += 1;
            first.get_or_insert(total_bytes);
            left.push(total_bytes - done_bytes);
            if asked > 130 { Err(std::io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        });
        totals.extend(first);
        if stopped.is_ok() {
            break;
        }
        assert!(runs < 50, "it never ends: {totals:?}");
        disk = disk.after_crash(0);
    }
    assert!(
        totals.len() > 3 && totals[1] > totals[0] / 2 && totals[2] < totals[0] / 2,
        "it was interrupted while it searched and while it cleaned: {totals:?}"
    );
    assert!(totals.is_sorted_by(|before, after| after <= before), "{totals:?}");
    assert!(contents(&disk).iter().all(|(_, bytes)| !holds(bytes, NEEDLE)));
    let State::Done(evidence) = Word::on(&disk, "an order").unwrap().unwrap().state else {
        panic!()
    };
    assert_eq!((evidence.sessions, evidence.records["start"], evidence.segments), (100, 100, 100));
}

#[test]
fn segments_that_go_or_are_compressed_while_others_are_erased_are_in_nobodys_way() {
    let rig = rich();
    let ids = ids_on(&rig.disk);
    give(&rig.disk, &visitor());
    let disk = rig.disk.after_crash(0);
    let rig = start_on(&disk, &rig.clock);
    let (turns, first) = (AtomicU32::new(0), segment::list(&disk).unwrap().remove(0));
    let keeper = Keeper::new(
        Settings { retention_bytes: Size::bytes(1), ..settings() },
        Arc::new(disk.clone()),
        rig.clock.clone(),
        Arc::clone(&rig.live),
        rig.journal.clone(),
    );
    let counted = &turns;
    let mut between = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        keeper.checkpoint().and(keeper.compress_closed()).and(keeper.retain()).unwrap();
        true
    };
    erase_while_it_serves(rig, &mut between).unwrap();
    let turns = turns.into_inner();
    assert!(turns > 2 && segment::list(&disk).unwrap().iter().all(|found| *found != first));
    for (name, bytes) in contents(&disk) {
        assert!(!holds(&bytes, NEEDLE), "{name}");
        assert!(ids.iter().all(|id| !holds(&bytes, &id.to_string())), "{name}");
    }
    let (live, recovered) = replay(&disk, true);
    assert_eq!((live.sessions(), recovered.missing, recovered.damaged), (2 * 3, 0, 0));
}

#[test]
fn the_keeper_saves_and_compresses_while_it_erases() {
    let mut rig = rich();
    let (sender, closed) = std::sync::mpsc::channel();
    let mut due = rig.keeper.due();
    rig.keeper.look_after(&closed, &mut due);
    assert!(!rig.keeper.look_after(&closed, &mut due), "nothing is due");
    rig.commit(20);
    rig.commit(1);
    sender.send(1).unwrap();
    let open =
        || segment::list(&rig.disk).unwrap().iter().filter(|found| !found.compressed).count();
    assert!(open() > 1);
    assert!(rig.keeper.look_after(&closed, &mut due));
    assert_eq!(open(), 1, "all that are closed");
    let saved = || checkpoint::list(&rig.disk).unwrap().remove(0).0;
    let before = saved();
    rig.clock.advance(300_000);
    assert!(rig.keeper.look_after(&closed, &mut due));
    assert!(saved() > before);
    assert!(!rig.keeper.look_after(&closed, &mut due));
}

/// A start that looked through the whole journal would take as long as that is.
#[test]
fn a_start_looks_for_what_goes_in_what_it_reads_back_and_not_in_all_that_there_is() {
    let mut rig = Rig::new();
    let (old, _) = rig.append_batch_of(&start_body(0)).unwrap();
    rig.writer.turn();
    rig.append_report(old).unwrap();
    rig.writer.turn();
    let (saved, _) = rig.append_start_body(&start_body(1)).unwrap();
    rig.writer.turn();
    rig.commit(20);
    rig.keeper.checkpoint().unwrap();
    let (new, _) = rig.append_start_body(&start_body(0)).unwrap();
    rig.writer.turn();
    let segments = segment::list(&rig.disk).unwrap();
    let is_old = |segment: &&segment::Segment| segment.end_seq.is_some_and(|end_seq| end_seq <= 4);
    let of_old = segments.iter().filter(is_old).collect::<Vec<_>>();
    assert!(!of_old.is_empty());
    let padding = [vec![b'x'; 32 << 20], b"\n".to_vec()].concat();
    for segment in of_old {
        rig.disk.grow(&segment.name(), &padding);
    }
    for selection in
        [visitor(), Selection::Started(Range { from_ms: None, until_ms: Some(1_000_001) })]
    {
        give(&rig.disk, &selection);
        let left_out = leave_out(&rig.disk, &rig.disk).unwrap().unwrap().ids;
        assert!(left_out.contains(saved) && left_out.contains(new));
        assert!(!left_out.contains(old), "nobody sees it, and it is found later");
    }
}

#[test]
fn an_order_that_a_version_before_has_begun_is_finished_with_its_figures() {
    let rig = rich();
    let ids: Vec<_> = ids_on(&rig.disk).into_iter().collect();
    let order = serde_json::json!({
        "version": 1, "id": "anorder", "ordered_ms": 1, "selection": visitor(),
        "found": {"cutoff_seq": null, "cutoff_ms": 5, "sessions": 8, "records": {"start": 6}, "ids": ids},
    });
    rig.disk.write("erase.json", order.to_string().into_bytes());
    let evidence = erase_on(&rig.disk, &rig.clock).unwrap().unwrap();
    assert_eq!((evidence.sessions, evidence.cutoff_ms, evidence.was_interrupted), (8, 5, true));
    assert_eq!(evidence.records.into_iter().collect::<Vec<_>>(), [("start".to_owned(), 6)]);
    assert!(contents(&rig.disk).iter().all(|(_, bytes)| !holds(bytes, NEEDLE)));
}

/// A journal with live, ended, reported and stored sessions of the visitor and of others, in several
/// segments, some compressed, with two checkpoints.
fn rich() -> Rig {
    let mut rig = taking_orders(Rig::new());
    for round in 0..3 {
        let mut pending: Vec<_> =
            (0..5).map(|number| rig.append_start_body(&start_body(number)).unwrap()).collect();
        pending.push(rig.append_batch_of(&start_body(round)).unwrap());
        rig.writer.turn();
        let now_ms = rig.clock.now_ms();
        for (id, _) in &pending[1..3] {
            rig.append_event(*id, "sessionEnd", now_ms, 1).unwrap();
        }
        rig.writer.turn();
        rig.clock.advance(1_000);
        for (id, reason) in rig.live.take_due(rig.journal.now_ms(), 9).0 {
            rig.append_close(id, reason).unwrap();
        }
        rig.writer.turn();
        if round < 2 {
            for id in rig.live.unreported_ids() {
                rig.append_report(id).unwrap();
            }
            rig.writer.turn();
            rig.keeper.checkpoint().unwrap();
        }
        if round == 1 {
            rig.keeper.compress_closed().unwrap();
        }
    }
    rig
}

#[test]
fn every_kind_of_session_is_erased_wherever_it_stands() {
    let rig = rich();
    let ids = ids_on(&rig.disk);
    assert_eq!(ids.len(), 3 * 2 + 2);
    let others = Others::on(&rig.disk, &ids);
    for (_, name) in checkpoint::list(&rig.disk).unwrap() {
        assert!(holds(&rig.disk.read(&name), NEEDLE), "both checkpoints have it");
    }
    let evidence = erase(&rig.disk, &visitor());
    hold_to_erased(&rig.disk, &ids, &others);
    let counts: Vec<_> = evidence.records.iter().map(|(kind, count)| (&**kind, *count)).collect();
    assert_eq!(counts, [("batch", 2), ("close", 3), ("event", 3), ("report", 4), ("start", 6)]);
    assert_eq!((evidence.sessions, evidence.checkpoints), (8, 2));
    assert!(!evidence.was_interrupted && evidence.bytes_after < evidence.bytes_before);
    // Nothing is left to do, and nothing is written.
    let files = contents(&rig.disk);
    let again = erase(&rig.disk, &visitor());
    assert_eq!((again.sessions, again.segments, again.checkpoints), (0, 0, 0));
    let is_result = |(name, _): &(String, Vec<u8>)| name != "erase-result-anorder.json";
    let after = contents(&rig.disk);
    assert!(
        files.iter().filter(|file| is_result(file)).eq(after.iter().filter(|file| is_result(file)))
    );
}

#[test]
fn what_is_shown_before_is_what_is_erased_then_and_changes_nothing() {
    let rig = rich();
    let files = contents(&rig.disk);
    let (shown, _) = survey(&rig.disk, &visitor(), &mut |_, _| Ok(())).unwrap();
    assert_eq!(contents(&rig.disk), files);
    let evidence = erase(&rig.disk, &visitor());
    assert_eq!((shown.sessions, &shown.records), (evidence.sessions, &evidence.records));
    assert_eq!((shown.segments, shown.checkpoints), (evidence.segments, evidence.checkpoints));
}

#[test]
fn sessions_are_erased_by_id_and_by_the_time_of_their_start() {
    let rig = rich();
    let started = lines(&rig.disk);
    let starts = started.iter().filter(|(_, line)| line.contains("\"start\""));
    let one = starts.clone().next().unwrap().0.unwrap();
    let evidence = erase(&rig.disk, &Selection::Sessions(vec![one]));
    assert_eq!((evidence.sessions, evidence.records["start"]), (1, 1));
    assert!(contents(&rig.disk).iter().all(|(name, bytes)| {
        name == "erase-result-anorder.json" || !holds(bytes, &one.to_string())
    }));
    let range = Range { from_ms: Some(1_001_000), until_ms: Some(1_002_000) };
    let evidence = erase(&rig.disk, &Selection::Started(range));
    assert_eq!((evidence.records["start"], evidence.records["batch"]), (5, 1));
    let (live, _) = replay(&rig.disk, true);
    assert_eq!(live.sessions(), 2 * 3 - 1);
}

#[test]
fn a_session_whose_start_retention_has_removed_is_known_by_what_is_left_of_it() {
    let mut rig = Rig::new();
    let (saved, _) = rig.append_start_body(&start_body(0)).unwrap();
    let (reported, _) = rig.append_batch_of(&start_body(1)).unwrap();
    rig.writer.turn();
    rig.clock.advance(1);
    rig.commit(20);
    rig.append_report(reported).unwrap();
    rig.writer.turn();
    rig.append_event(saved, "ping", 1, 1).unwrap();
    rig.writer.turn();
    rig.keeper.checkpoint().unwrap();
    for segment in segment::list(&rig.disk).unwrap().into_iter().take(1) {
        rig.disk.remove(&segment.name()).unwrap();
    }
    let ids = BTreeSet::from([saved, reported]);
    let disk = rig.disk.after_crash(0);
    let range = Range { from_ms: None, until_ms: Some(1_000_001) };
    for selection in [visitor(), Selection::Started(range)] {
        let disk = disk.after_crash(0);
        assert_eq!(erase(&disk, &selection).sessions, 2);
        for (name, bytes) in contents(&disk) {
            assert!(!holds(&bytes, NEEDLE), "{name}");
            assert!(ids.iter().all(|id| !holds(&bytes, &id.to_string())), "{name}");
        }
    }
}

#[test]
fn a_run_of_erased_records_is_one_record_and_adds_no_time_that_the_server_was_down() {
    let mut rig = Rig::new();
    rig.append_start_body(&start_body(2)).unwrap();
    rig.writer.turn();
    let (id, _) = rig.append_start_body(&start_body(0)).unwrap();
    rig.writer.turn();
    for _ in 0..3 {
        rig.clock.advance(50);
        rig.append_event(id, "ping", 1, 1).unwrap();
        rig.writer.turn();
    }
    let before = replay(&rig.disk, false).1.start;
    erase(&rig.disk, &visitor());
    let found = records(&rig.disk);
    let erased = Content::Erased { count: 4, until_ms: Some(1_000_150), erased_ms: 9_000_000 };
    assert_eq!(kinds(&rig.disk), ["settings", "start", "erased"]);
    assert_eq!(found[2], (3, 1_000_000, erased));
    assert_eq!(replay(&rig.disk, false).1.start, before);
    let rig = rig.restart();
    assert_eq!(rig.live.progress().paused_ms, 0);
}

#[test]
fn damaged_and_refused_lines_of_the_visitor_go_and_those_of_others_stay() {
    let mut rig = Rig::new();
    rig.commit(1);
    rig.append_start_body(&start_body(0)).unwrap();
    rig.append_start_body(&start_body(2)).unwrap();
    rig.writer.turn();
    // Two damaged lines.
    let name = segment::open_name(1);
    let bytes = rig.disk.read(&name);
    let mut text = String::from_utf8(bytes).unwrap();
    text = text.replacen("\"seq\":3", "\"seq\":9", 1).replacen("\"seq\":4", "\"seq\":8", 1);
    rig.disk.write(&name, text.into_bytes());
    // A group that was not acknowledged, of which more than a line is there.
    rig.disk.fail_after(0, Some(1), 700);
    rig.append_start_body(&start_body(0)).unwrap();
    rig.append_start_body(&start_body(0)).unwrap();
    let disk = rig.disk.clone();
    rig.writer.retry = (Duration::ZERO, Duration::ZERO);
    rig.writer.turn();
    rig.commit(1);
    assert!(segment::list(&disk).unwrap().len() > 1);
    let evidence = erase(&disk, &visitor());
    assert_eq!(evidence.sessions, 0, "nobody was told of these sessions");
    assert!(contents(&disk).iter().all(|(_, bytes)| !holds(bytes, NEEDLE)));
    assert!(contents(&disk).iter().any(|(_, bytes)| holds(bytes, "\"seq\":8")), "it is of another");
}

#[test]
fn a_value_of_others_is_counted_and_left() {
    let mut rig = Rig::new();
    let body = String::from_utf8(start_body(0)).unwrap().replace("\"user\"", "\"friend\"");
    rig.append_start_body(body.as_bytes()).unwrap();
    rig.append_start_body(&start_body(0)).unwrap();
    rig.writer.turn();
    rig.keeper.checkpoint().unwrap();
    let (shown, _) = survey(&rig.disk, &visitor(), &mut |_, _| Ok(())).unwrap();
    let evidence = erase(&rig.disk, &visitor());
    assert_eq!((evidence.sessions, evidence.value_left_lines), (1, 2));
    assert_eq!((shown.sessions, shown.value_left_lines), (1, 2), "it is shown before");
    assert_eq!(replay(&rig.disk, true).0.sessions(), 1);
}

#[test]
fn an_event_that_comes_while_its_session_is_erased_is_told_that_it_is_gone() {
    let mut rig = Rig::new();
    let ids = rig.commit(2);
    rig.journal.fence(&Ids::of(vec![ids[0]]));
    let (_, mut gone) = rig.append_event(ids[0], "ping", 1, 1).unwrap();
    let (_, mut closed) = rig.append_close(ids[0], CloseReason::SessionEnd).unwrap();
    assert_eq!(gone.try_recv(), Ok(Ok(Outcome::Gone)), "at once");
    assert_eq!(closed.try_recv(), Ok(Ok(Outcome::Gone)));
    let (_, mut heard) = rig.append_event(ids[1], "ping", 1, 1).unwrap();
    rig.writer.turn();
    assert_eq!(heard.try_recv(), Ok(Ok(Outcome::Heard)));
    rig.journal.fence(&Ids::of(vec![ids[1]]));
    let (_, mut gone) = rig.append_event(ids[0], "ping", 1, 1).unwrap();
    assert_eq!(gone.try_recv(), Ok(Ok(Outcome::Gone)), "and for ever");
    assert_eq!(kinds(&rig.disk), ["settings", "start", "start", "event"]);
}

#[test]
fn an_order_is_told_how_it_went_without_a_value() {
    let rig = rich();
    erase(&rig.disk, &visitor());
    let word = Word::on(&rig.disk, "an order").unwrap().unwrap();
    assert_eq!(word.order, "an order");
    let text = String::from_utf8(rig.disk.read("erase-result-anorder.json")).unwrap();
    assert!(text.contains("\"done\"") && !text.contains(VALUE), "{text}");
    assert!(Order::pending(&rig.disk).unwrap().is_none());
}

/// A full disk takes nothing, and what is there can be read.
#[test]
fn a_start_on_a_full_disk_leaves_out_what_it_cannot_erase_and_the_keeper_does_it_later() {
    for selection in [visitor(), Selection::Started(Range { from_ms: None, until_ms: Some(1) })] {
        let rig = rich();
        let disk = rig.disk.after_crash(0);
        let erased = disk.after_crash(0);
        erase(&erased, &selection);
        give(&disk, &selection);
        for budget in 0..40 {
            // Wherever the room ends.
            let disk = disk.after_crash(0);
            disk.fail_after(budget, None, 0);
            if erase_on(&disk, &rig.clock).is_ok() {
                break;
            }
            let left_out = leave_out(&disk, &disk).unwrap().unwrap();
            let live = Arc::new(Live::new(live::Settings::default()));
            let mut processor = Processor::new(Arc::clone(&live));
            recover(&disk, &live, &mut processor, &left_out.ids).unwrap();
            let (expected, _) = replay(&erased, true);
            assert_eq!(others_of(&live), others_of(&expected));
            assert_eq!(live.progress(), expected.progress());
            assert_eq!(bytes_of(&live), bytes_of(&expected));
        }
    }
}

#[test]
fn what_a_start_has_left_out_is_erased_though_it_cannot_be_found_any_more() {
    let mut rig = Rig::new();
    let (id, _) = rig.append_start_body(&start_body(0)).unwrap();
    rig.writer.turn();
    rig.commit(20);
    rig.append_event(id, "ping", 1, 1).unwrap();
    rig.writer.turn();
    // Retention has removed the start, and the checkpoint that is saved then is without the session.
    let first = segment::list(&rig.disk).unwrap().remove(0);
    rig.disk.remove(&first.name()).unwrap();
    give(&rig.disk, &visitor());
    let left_out = LeftOut { order: "an order".into(), ids: Ids::of(vec![id]) };
    let rig = taking_orders_without(rig, Some(left_out));
    let Rig { disk, journal, writer, keeper, .. } = rig;
    std::thread::scope(|scope| {
        scope.spawn(move || writer.run());
        keeper.erase(&order(&visitor()), &mut || false).unwrap();
        journal.close();
    });
    let id = id.to_string();
    assert!(contents(&disk).iter().all(|(_, bytes)| !holds(bytes, &id)));
}

#[test]
fn an_order_that_is_found_standing_was_interrupted_though_nothing_of_it_was_begun() {
    for (given, expected) in [(None, true), (Some("another"), true), (Some("an order"), false)] {
        let rig = rich();
        give(&rig.disk, &visitor());
        let purge: &Purge<'_> = &|_, _| Ok(Purged::default());
        let (home, disk, clock) = (&rig.disk, &rig.disk, &Clock::manual(9_000_000));
        let site = Site { home, disk, purge, clock, running: None, left_out: None, given };
        let evidence = finish(&site, &mut |_, _| Ok(())).unwrap().unwrap();
        assert_eq!((evidence.was_interrupted, &*evidence.order), (expected, "an order"));
    }
}

#[test]
fn an_order_that_cannot_be_read_is_told_and_not_passed_over() {
    let rig = rich();
    rig.disk.write("erase.json", b"{\"version\":9}".to_vec());
    assert!(leave_out(&rig.disk, &rig.disk).is_err());
}

#[test]
fn a_segment_that_cannot_be_unpacked_is_named_and_kept_unless_somebody_in_it_goes() {
    let rig = rich();
    let packed = segment::list(&rig.disk).unwrap();
    let packed = packed.iter().find(|segment| segment.compressed && segment.bytes > 300).unwrap();
    let name = packed.name();
    let whole = rig.disk.read(&name);
    let cut = whole[..whole.len() - 9].to_vec();
    rig.disk.write(&name, cut.clone());
    let nobody = Selection::Visitor(vec![Visitor::new(KEY.into(), "nobody".into())]);
    let evidence = erase(&rig.disk, &nobody);
    assert_eq!(
        (evidence.unreadable_segments, evidence.truncated_segments),
        (vec![name.clone()], vec![])
    );
    assert_eq!(rig.disk.read(&name), cut, "somebody may rescue it");
    // One that is packed in many blocks, of which the first can be read.
    let mut lines = zstd::decode_all(&whole[..]).unwrap();
    let readable = zstd::encode_all(&lines[..], 0).unwrap();
    lines.truncate(9);
    let torn = zstd::encode_all(&lines[..], 0).unwrap();
    rig.disk.write(&name, [&readable[..], &torn[..torn.len() - 3]].concat());
    let evidence = erase(&rig.disk, &visitor());
    assert_eq!((evidence.unreadable_segments, evidence.truncated_segments), (vec![], vec![name]));
}

#[test]
fn an_erasure_asks_whether_to_go_on_in_every_file() {
    let mut rig = rich();
    // More than is done between two looks: set aside, and in a checkpoint.
    let body = String::from_utf8(start_body(2)).unwrap();
    let long = body.replace("\"user\":", &format!("\"long\":\"{}\",\"user\":", "x".repeat(60_000)));
    for _ in 0..40 {
        rig.append_start_body(long.as_bytes()).unwrap();
        rig.writer.turn();
    }
    rig.keeper.checkpoint().unwrap();
    let aside = format!("{}\n", "y".repeat(1 << 10)).repeat(3 << 10) + VALUE + "\n";
    rig.disk.write("damaged-00000000000000000001-7.txt", aside.into_bytes());
    give(&rig.disk, &visitor());
    let disk = rig.disk.after_crash(0);
    let mut looks = 0;
    erase_telling(&disk, &rig.clock, &mut |_, _| {
        looks += 1;
        Ok(())
    })
    .unwrap();
    // It is the first to be cleaned.
    let newest = checkpoint::list(&rig.disk).unwrap().remove(0).1;
    let (mut in_checkpoints, mut aside) = (0, 0);
    for last in (0..looks).rev().step_by(4) {
        let disk = rig.disk.after_crash(0);
        let mut left = last;
        let stopped = erase_telling(&disk, &rig.clock, &mut |_, _| {
            left -= 1;
            if left < 0 { Err(std::io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        });
        assert!(stopped.is_err(), "whenever it is asked");
        assert!(Order::pending(&disk).unwrap().is_some(), "the order stands");
        let is_clean = |prefix: &str| {
            contents(&disk)
                .iter()
                .all(|(name, bytes)| !name.starts_with(prefix) || !holds(bytes, NEEDLE))
        };
        if !is_clean("0") {
            break;
        }
        in_checkpoints += u32::from(!is_clean(&newest));
        aside += u32::from(is_clean("checkpoint") && !is_clean("damaged"));
        assert!(erase_on(&disk, &rig.clock).unwrap().is_some());
        assert!(contents(&disk).iter().all(|(_, bytes)| !holds(bytes, NEEDLE)));
    }
    // The last segment is one of the former; of the latter are those of the look at what was rewritten.
    assert!(in_checkpoints > 2 && aside > 5, "{in_checkpoints}, {aside}");
}

/// Lets the disk fail for as long as the journal is open, and says what becomes of an order meanwhile.
fn erase_in_an_outage(mut rig: Rig) -> std::io::Result<()> {
    rig.disk.fail_after(0, Some(u32::MAX), 0);
    let _ = rig.append_start().unwrap();
    let Rig { disk, journal, mut writer, keeper, closed, .. } = rig;
    writer.retry = (Duration::from_millis(1), Duration::from_millis(1));
    let writer = std::thread::spawn(move || while writer.turn() {});
    while journal.is_up().is_ok() {
        std::thread::yield_now();
    }
    let (sender, told) = channel();
    let eraser = std::thread::spawn(move || {
        let order = Order::pending(&disk).unwrap().unwrap();
        let _ = sender.send(keeper.erase(&order, &mut || false));
        drop(closed);
    });
    let result = told.recv_timeout(Duration::from_secs(20));
    journal.close();
    eraser.join().unwrap();
    writer.join().unwrap();
    result.expect("the keeper is held for as long as the outage lasts")
}

#[test]
fn an_order_holds_nobody_in_an_outage() {
    let mut rig = Rig::new();
    let ids = rig.commit(20);
    let rig = taking_orders(rig);
    give(&rig.disk, &Selection::Sessions(ids));
    let disk = rig.disk.clone();
    let error = erase_in_an_outage(rig).unwrap_err();
    assert_eq!(error.to_string(), "the journal cannot be written");
    assert!(Order::pending(&disk).unwrap().is_some(), "it is tried again");
}

#[test]
fn sessions_that_are_to_be_dropped_hold_nobody_in_an_outage() {
    let mut rig = Rig::new();
    let ids = rig.commit(20);
    let home = SimDisk::default();
    give(&home, &Selection::Sessions(ids));
    let Rig { disk, clock, journal, mut writer, live, .. } = rig;
    let carry_out = || {
        let site = Site {
            home: &home,
            disk: &disk,
            purge: &|_, _| Ok(Purged::default()),
            clock: &clock,
            running: Some(Running { journal: &journal, live: &live }),
            left_out: None,
            given: None,
        };
        finish(&site, &mut |_, _| Ok(())).unwrap_err()
    };
    writer.retry = (Duration::from_millis(1), Duration::from_millis(1));
    std::thread::scope(|scope| {
        scope.spawn(move || while writer.turn() {});
        // The order is written with what was found, and then nothing more.
        let has_found = || holds(&home.read("erase.json"), "\"found\":{");
        assert!(!has_found());
        for budget in 0.. {
            home.fail_after(budget, Some(1), 0);
            carry_out();
            if has_found() {
                break;
            }
        }
        assert_eq!(live.sessions(), 20);
        disk.fail_after(0, Some(u32::MAX), 0);
        // It may be the first to see that the disk does not write, or not.
        for _ in 0..3 {
            assert_eq!(carry_out().to_string(), "the journal cannot be written");
        }
        journal.close();
        assert_eq!(carry_out().kind(), std::io::ErrorKind::Interrupted);
    });
}

#[test]
fn who_waits_for_a_segment_when_an_outage_begins_is_told() {
    let mut rig = Rig::new();
    let gate = Arc::clone(&rig.disk.gate);
    let held = gate.lock();
    // The writer is in its sync, which then fails.
    rig.disk.fail_after(1, Some(u32::MAX), 0);
    let _pending = rig.append_start().unwrap();
    let Rig { journal, mut writer, .. } = rig;
    writer.retry = (Duration::from_millis(1), Duration::from_millis(1));
    let writer = std::thread::spawn(move || while writer.turn() {});
    while !journal.0.queue().waiting.is_empty() {
        std::thread::yield_now();
    }
    let mut begun = journal.rotate();
    drop(held);
    while journal.is_up().is_ok() {
        std::thread::yield_now();
    }
    assert_eq!(begun.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    journal.close();
    writer.join().unwrap();
}
