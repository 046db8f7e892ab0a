//! The promises of the journal, on a simulated disk that fails and crashes where it hurts.

mod clock;

mod erase;

mod large;

mod lines;

mod stop;

mod suffix;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::sync::oneshot;

use super::archive::Archive;
use super::disk::Disk;
use super::record::{Content, Detached, Record};
use super::recovery::{Recovered, recover};
use super::sim::SimDisk;
use super::*;
use crate::live::{self, Live, Owner};
use crate::processor::Processor;
use crate::report::Report;
use crate::reporter::Reporter;
use crate::session::id::{Key, SessionId};
use crate::session::{BodyHash, CloseReason, Opening, Step, StoredSession, Terms, stored};
use crate::telemetry::series::Journal as Series;
use crate::wire::{Event, Profile, Rules, StoredForm};

const BODY: &[u8] = br#"{"eventType":"sessionStart","playerTime":{"ts":0,"playhead":0},"params":
    {"media.id":"a","media.length":0,"media.contentType":"vod","media.playerName":"p"}}"#;

fn opening() -> Opening {
    let rules = Rules { profile: Profile::Open, strict: false };
    Opening::of(&crate::wire::Start::parse(BODY, rules).unwrap(), None, None)
}

fn settings() -> Settings {
    Settings {
        // So small that every few groups begin a new one.
        segment_bytes_max: Size::kib(2),
        ..Settings::default()
    }
}

/// A journal on a simulated disk, driven by hand.
struct Rig {
    disk: SimDisk,
    clock: Clock,
    live: Arc<Live>,
    journal: Journal,
    writer: Writer,
    keeper: Keeper,
    recovered: Recovered,
    sessions: u32,
    closed: Receiver<u64>,
}

type Pending = (SessionId, oneshot::Receiver<Committed>);

fn body_of(event_type: &str, ts: u64, playhead: u8) -> String {
    format!(
        r#"{{"eventType":"{event_type}","playerTime":{{"ts":{ts},"playhead":{playhead}}},"params":{{
            "media.state.name":"mute","statesStart":[{{"media.state.name":"a"}}],
            "statesEnd":[{{"media.state.name":"mute"}}]}},"qoeData":{{"media.qoe.bitrate":{playhead}}}}}"#
    )
}

impl Rig {
    fn new() -> Self {
        Self::on(SimDisk::default(), Clock::manual(1_000_000)).unwrap()
    }

    /// Starts on what is on a disk.
    fn on(disk: SimDisk, clock: Clock) -> std::io::Result<Self> {
        Self::with(disk, clock, Terms::default())
    }

    /// Starts with settings that say when sessions end.
    fn with(disk: SimDisk, clock: Clock, terms: Terms) -> std::io::Result<Self> {
        Self::without(disk, clock, terms, &Ids::default())
    }

    /// Starts without these sessions.
    fn without(disk: SimDisk, clock: Clock, terms: Terms, left_out: &Ids) -> std::io::Result<Self> {
        let live = Arc::new(Live::new(live::Settings::default()));
        let mut processor = Processor::new(Arc::clone(&live));
        let recovered = recover(&disk, &live, &mut processor, left_out)?;
        let (sender, closed) = channel();
        let shared: Arc<dyn disk::Disk> = Arc::new(disk.clone());
        let start = recovered.start;
        let (journal, mut writer) = Writer::start(
            settings(),
            terms,
            Arc::clone(&shared),
            clock.clone(),
            processor,
            start,
            Told { closed: sender, series: Series::default() },
        );
        let keeper =
            Keeper::new(settings(), shared, clock.clone(), Arc::clone(&live), journal.clone());
        writer.retry = (Duration::ZERO, Duration::ZERO);
        journal.fence(left_out);
        let recovered = recovered.clone();
        let sessions = u32::try_from(start.next_seq).unwrap() << 8;
        Ok(Self { disk, clock, live, journal, writer, keeper, recovered, sessions, closed })
    }

    fn mint(&mut self) -> SessionId {
        self.sessions += 1;
        let mut random = [0; 10];
        random[..4].copy_from_slice(&self.sessions.to_be_bytes());
        SessionId::mint(&Key::new([7; 32]), self.clock.now_ms(), random)
    }

    fn append_start(&mut self) -> Result<Pending, Unavailable> {
        self.append_start_body(BODY)
    }

    fn append_start_body(&mut self, body: &[u8]) -> Result<Pending, Unavailable> {
        let id = self.mint();
        let record = Encoded::new(Content::Start {
            sid: id,
            client: None,
            user_agent: None,
            body: body.into(),
        })
        .unwrap();
        let rules = Rules { profile: Profile::Open, strict: false };
        let opening = Opening::of(&crate::wire::Start::parse(body, rules).unwrap(), None, None);
        let room = Some(self.live.keep_room(opening.heap_bytes(), Owner::default()).unwrap());
        let hash = BodyHash::of_start(record.body(), None);
        Ok((id, self.journal.append(&record, Change::Start { id, opening, hash, room })?))
    }

    /// A stored session.
    fn append_batch(&mut self) -> Result<Pending, Unavailable> {
        self.append_batch_of(BODY)
    }

    /// A stored session with this start, and more events than some settings take.
    fn append_batch_of(&mut self, start: &[u8]) -> Result<Pending, Unavailable> {
        let mut body = [b"[", start].concat();
        for ts in 5..18 {
            let event_type = if ts == 16 { "sessionEnd" } else { "ping" };
            body.extend_from_slice(
                format!(
                    r#",{{"eventType":"{event_type}","playerTime":{{"ts":{ts},"playhead":0}}}}"#
                )
                .as_bytes(),
            );
        }
        body.push(b']');
        self.append_stored(&body.into())
    }

    /// A stored session that takes so many bytes.
    fn append_large(&mut self, bytes: usize) -> Result<Pending, Unavailable> {
        let play = br#",{"eventType":"play","playerTime":{"ts":5,"playhead":0}}]"#;
        let blanks = vec![b' '; bytes - BODY.len() - play.len() - 1];
        // A line break would be taken out, and all blanks with it.
        let start: Vec<_> = BODY.iter().copied().filter(|byte| *byte != b'\n').collect();
        self.append_stored(&[b"[", &*start, &blanks, play].concat().into())
    }

    fn append_stored(&mut self, body: &Bytes) -> Result<Pending, Unavailable> {
        let (id, session) = (self.mint(), Box::new(self.read_stored(body)));
        let record = Detached::batch(id, None, None, body).unwrap();
        let room = Some(self.live.keep_room(session.heap_bytes(), Owner::default()).unwrap());
        let hash = BodyHash::of(&[record.value()]);
        let change = Change::Batch { id, session, hash, room };
        Ok((id, self.journal.append_large(&mut Ticket::default(), record, change)?))
    }

    fn read_stored(&self, body: &[u8]) -> StoredSession {
        let rules = Rules { profile: Profile::Open, strict: false };
        let (form, terms) = (StoredForm::Downloaded, self.journal.terms());
        stored(body, rules, form, (None, None), terms, |_| {}).unwrap()
    }

    /// The report of a session that has ended.
    fn append_report(&self, id: SessionId) -> Result<Pending, Unavailable> {
        let session = self.live.ended(id).unwrap();
        let record = crate::reporter::record_of(id, Report::of(id, &session));
        Ok((id, self.journal.append(&record, Change::Report { id })?))
    }

    /// An event that was stamped at `ts`.
    fn append_event(
        &self,
        id: SessionId,
        event_type: &str,
        ts: u64,
        playhead: u8,
    ) -> Result<Pending, Unavailable> {
        self.append_body(id, &body_of(event_type, ts, playhead))
    }

    fn append_body(&self, id: SessionId, body: &str) -> Result<Pending, Unavailable> {
        let record =
            Encoded::new(Content::Event { sid: id, body: body.as_bytes().into() }).unwrap();
        let rules = Rules { profile: Profile::Open, strict: false };
        let step = Step::of(&Event::parse(body.as_bytes(), rules).unwrap(), record.body());
        Ok((id, self.journal.append(&record, Change::Event { id, step, room: None })?))
    }

    fn append_close(&self, id: SessionId, reason: CloseReason) -> Result<Pending, Unavailable> {
        let record = Encoded::short(Content::Close { sid: id, reason });
        Ok((id, self.journal.append(&record, Change::Close { id, reason })?))
    }

    /// Closes the sessions whose deadline has come; one whose record is not taken is put back.
    fn append_closes(&self) -> Vec<Pending> {
        let (due, _) = self.live.take_due(self.journal.now_ms(), usize::MAX);
        let append = |(id, reason)| {
            let appended = self.append_close(id, reason);
            appended.inspect_err(|_| self.live.put_back(id)).ok()
        };
        due.into_iter().filter_map(append).collect()
    }

    /// Starts sessions and commits them as one group; gives those that were acknowledged.
    fn commit(&mut self, records: usize) -> Vec<SessionId> {
        let pending: Vec<_> = (0..records).filter_map(|_| self.append_start().ok()).collect();
        if !pending.is_empty() {
            self.writer.turn();
        }
        let acknowledged =
            |(id, mut committed): Pending| matches!(committed.try_recv(), Ok(Ok(_))).then_some(id);
        pending.into_iter().filter_map(acknowledged).collect()
    }

    fn restart(self) -> Self {
        Self::on(self.disk.after_crash(0), self.clock.clone()).unwrap()
    }

    fn state(&self) -> Vec<u8> {
        checkpoint::to_bytes(&self.live)
    }
}

/// Every record that counts, read as a stranger would.
fn records(disk: &SimDisk) -> Vec<(u64, u64, Content<'static>)> {
    let mut found = Vec::new();
    for segment in segment::list(disk).unwrap() {
        let mut lines = segment.lines(disk).unwrap();
        while let Some(line) = lines.next_line().unwrap() {
            let Ok(record) = Record::read(line.text) else { continue };
            if segment.end_seq.is_some_and(|end_seq| record.seq >= end_seq) {
                break;
            }
            let content = match record.content {
                Content::Start { sid, .. } => {
                    Content::Start { sid, client: None, user_agent: None, body: [][..].into() }
                }
                Content::Event { sid, .. } => Content::Event { sid, body: [][..].into() },
                Content::Batch { sid, .. } => {
                    Content::Batch { sid, client: None, user_agent: None, body: [][..].into() }
                }
                other => owned(other),
            };
            found.push((record.seq, record.received_ms, content));
        }
    }
    found
}

/// The same with what it borrows of a line.
fn owned(content: Content<'_>) -> Content<'static> {
    let text = |text: Option<Cow<'_, str>>| text.map(|text| text.into_owned().into());
    match content {
        Content::Start { sid, client, user_agent, body } => {
            let (client, user_agent) = (text(client), text(user_agent));
            Content::Start { sid, client, user_agent, body: body.into_owned().into() }
        }
        Content::Event { sid, body } => Content::Event { sid, body: body.into_owned().into() },
        Content::Batch { sid, client, user_agent, body } => {
            let (client, user_agent) = (text(client), text(user_agent));
            Content::Batch { sid, client, user_agent, body: body.into_owned().into() }
        }
        Content::Report { sid, report } => {
            Content::Report { sid, report: report.into_owned().into() }
        }
        Content::Close { sid, reason } => Content::Close { sid, reason },
        Content::Settings { terms, paused_ms, set_back_ms } => {
            Content::Settings { terms, paused_ms, set_back_ms }
        }
        Content::Pause { down_ms, set_back_ms } => Content::Pause { down_ms, set_back_ms },
        Content::Erased { count, until_ms, erased_ms } => {
            Content::Erased { count, until_ms, erased_ms }
        }
    }
}

/// Their kinds.
fn kinds(disk: &SimDisk) -> Vec<&'static str> {
    records(disk).iter().map(|(.., content)| content.kind()).collect()
}

/// Numbers without a gap and times that never fall.
fn in_order(records: &[(u64, u64, Content<'_>)]) {
    for pair in records.windows(2) {
        assert_eq!(pair[0].0 + 1, pair[1].0, "numbers have no gap");
        assert!(pair[0].1 <= pair[1].1, "times never fall");
    }
}

#[test]
fn a_record_is_live_once_it_is_committed_and_again_after_a_restart() {
    let mut rig = Rig::new();
    let (id, mut committed) = rig.append_start().unwrap();
    assert!(committed.try_recv().is_err(), "not before the commit");
    assert!(!rig.live.contains(id));
    rig.writer.turn();
    assert_eq!(committed.try_recv(), Ok(Ok(Outcome::Opened)));
    assert!(rig.live.contains(id));
    let state = rig.state();
    rig.clock.advance(5_000);
    let rig = rig.restart();
    assert!(rig.live.contains(id));
    assert_eq!(rig.live.progress().paused_ms, 5_000, "the time that it was down");
    assert_ne!(rig.state(), state);
    assert_eq!(kinds(&rig.disk), ["settings", "start", "settings", "pause"]);
}

#[test]
fn time_that_a_server_was_idle_is_not_time_that_it_was_down() {
    let mut rig = Rig::new();
    rig.commit(1);
    rig.clock.advance(100_000);
    let Rig { disk, journal, writer, keeper, clock, closed, .. } = rig;
    journal.close();
    writer.run();
    keeper.run(&closed);
    clock.advance(7);
    let rig = Rig::on(disk.after_crash(0), clock).unwrap();
    assert_eq!(rig.live.progress().paused_ms, 7);
}

#[test]
fn a_segment_is_compressed_as_soon_as_it_is_closed() {
    let mut rig = Rig::new();
    rig.commit(20);
    rig.commit(1);
    let begun: Vec<_> = rig.closed.try_iter().collect();
    assert_eq!(begun, [1, 22], "told when the next one is there");
    rig.keeper.compress_closed().unwrap();
    assert!(segment::list(&rig.disk).unwrap()[0].compressed);
}

#[test]
fn a_refused_group_is_not_acknowledged_and_its_numbers_are_given_anew() {
    let mut rig = Rig::new();
    let before = rig.commit(2);
    assert_eq!(before.len(), 2);
    // The append succeeds, the sync does not; then nothing works three times.
    rig.disk.fail_after(1, Some(3), 0);
    assert_eq!(rig.commit(3), []);
    assert_eq!(rig.live.sessions(), 2, "refused sessions hold no room");
    let after = rig.commit(2);
    assert_eq!(after.len(), 2);
    let found = records(&rig.disk);
    in_order(&found);
    let sids: Vec<_> = found.iter().filter_map(|(.., content)| content.sid()).collect();
    assert_eq!(sids, [before, after].concat());
    let expected = ["settings", "start", "start", "settings", "pause", "start", "start"];
    assert_eq!(kinds(&rig.disk), expected, "the outage is a record");
    let rig = rig.restart();
    assert_eq!(rig.recovered.damaged + rig.recovered.missing, 0);
    assert_eq!(rig.live.sessions(), 4);
}

#[test]
fn an_outage_counts_against_no_session() {
    let mut rig = Rig::new();
    let id = rig.commit(1)[0];
    rig.clock.advance(599_000);
    rig.disk.fail_after(0, Some(1), 0);
    assert_eq!(rig.commit(1), []);
    // The pause was written at once, since the clock stands still in between.
    rig.clock.advance(999);
    let (_, mut early) = rig.append_close(id, CloseReason::TimeoutNoEvents).unwrap();
    rig.writer.turn();
    assert_eq!(early.try_recv(), Ok(Ok(Outcome::Nothing)), "its deadline has not passed");
    let mut rig = rig.restart();
    assert!(rig.live.contains(id));
    rig.clock.advance(1);
    let (_, mut due) = rig.append_close(id, CloseReason::TimeoutNoEvents).unwrap();
    rig.writer.turn();
    assert_eq!(due.try_recv(), Ok(Ok(Outcome::Closed)));
    assert!(!rig.restart().live.contains(id));
}

#[test]
fn beyond_the_bound_of_uncommitted_bytes_records_are_refused_at_once() {
    let mut rig = Rig::new();
    let mut pending = Vec::new();
    let refused = loop {
        match rig.append_start() {
            Ok(appended) => pending.push(appended),
            Err(refused) => break refused,
        }
        assert!(pending.len() < 1_000_000);
    };
    assert_eq!(refused, Unavailable::Busy);
    assert_eq!(rig.journal.is_up(), Err(Unavailable::Busy));
    rig.writer.turn();
    assert!(pending.into_iter().all(|(_, mut c)| c.try_recv() == Ok(Ok(Outcome::Opened))));
    assert_eq!(rig.journal.is_up(), Ok(()));
    // The two buffers take turns, so the large ones are back with the next group.
    let spare = |rig: &Rig| {
        let queue = rig.journal.0.queue();
        queue.lines.capacity() + queue.waiting.capacity() * size_of::<Waiting>()
    };
    rig.commit(1);
    assert!(spare(&rig) > 32 << 20);
    for _ in 0..2 {
        rig.commit(1);
        assert!(spare(&rig) <= 2 << 20, "the memory of a burst is given back");
    }
}

#[test]
fn without_a_writer_nobody_waits_for_ever() {
    let mut rig = Rig::new();
    let (_, mut committed) = rig.append_start().unwrap();
    let Rig { journal, writer, .. } = rig;
    drop(writer);
    assert_eq!(committed.try_recv(), Ok(Err(Unavailable::Closed)));
    assert_eq!(journal.is_up(), Err(Unavailable::Closed));
}

#[test]
fn a_closed_journal_commits_what_waits_and_takes_nothing_more() {
    let mut rig = Rig::new();
    let (id, mut committed) = rig.append_start().unwrap();
    rig.journal.close();
    assert_eq!(rig.append_start().unwrap_err(), Unavailable::Closed);
    rig.writer.run();
    assert_eq!(committed.try_recv(), Ok(Ok(Outcome::Opened)));
    assert!(rig.live.contains(id));
}

#[test]
fn a_slow_sync_is_waited_for_while_the_next_group_grows() {
    let mut rig = Rig::new();
    let gate = Arc::clone(&rig.disk.gate);
    let held = gate.lock();
    let mut pending = vec![rig.append_start().unwrap()];
    let Rig { journal, writer, live, clock, .. } = rig;
    std::thread::scope(|scope| {
        scope.spawn(|| writer.run());
        for number in 0..50_u8 {
            let id = SessionId::mint(&Key::new([9; 32]), clock.now_ms(), [number; 10]);
            let body = BODY.into();
            let content = Content::Start { sid: id, client: None, user_agent: None, body };
            let hash = BodyHash::of_start(BODY, None);
            let change = Change::Start { id, opening: opening(), hash, room: None };
            pending.push((id, journal.append(&Encoded::new(content).unwrap(), change).unwrap()));
        }
        assert!(pending.iter_mut().all(|(_, committed)| committed.try_recv().is_err()));
        assert!(
            pending.iter().all(|(id, _)| !live.contains(*id)),
            "nothing is acknowledged before its sync"
        );
        drop(held);
        for (_, committed) in pending {
            assert_eq!(committed.blocking_recv(), Ok(Ok(Outcome::Opened)));
        }
        journal.close();
    });
    assert_eq!(live.sessions(), 51);
}

#[test]
fn a_cut_of_the_last_segment_at_every_byte_recovers() {
    let mut rig = Rig::new();
    let ids = rig.commit(3);
    let name = segment::open_name(1);
    let whole = rig.disk.read(&name);
    let ends: Vec<_> = (0..whole.len()).filter(|at| whole[*at] == b'\n').map(|at| at + 1).collect();
    assert_eq!(ends.len(), 4, "what the segment begins with, and three starts");
    for cut in 0..=whole.len() {
        let disk = SimDisk::default();
        disk.write(&name, whole[..cut].to_vec());
        let mut rig = Rig::on(disk, rig.clock.clone()).unwrap();
        let good = ends.iter().filter(|end| **end <= cut).count();
        let started = good.saturating_sub(1);
        assert_eq!(rig.live.sessions(), started, "cut at {cut}");
        assert_eq!(rig.recovered.damaged + rig.recovered.missing, 0);
        let begin = ends[..good].last().copied().unwrap_or(0);
        assert_eq!(rig.recovered.cut_bytes, (cut - begin) as u64);
        assert_eq!(rig.commit(1).len(), 1, "and it goes on");
        let found = records(&rig.disk);
        in_order(&found);
        let sids: Vec<_> = found.iter().filter_map(|(.., content)| content.sid()).collect();
        assert_eq!(sids[..started], ids[..started]);
    }
}

#[test]
fn a_damaged_line_before_a_good_one_is_set_aside_and_told() {
    let mut rig = Rig::new();
    let ids = rig.commit(3);
    let name = segment::open_name(1);
    let mut bytes = rig.disk.read(&name);
    let third = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1).unwrap().0 + 20;
    bytes[third] ^= 1;
    rig.disk.write(&name, bytes);
    let rig = rig.restart();
    assert_eq!((rig.recovered.damaged, rig.recovered.missing), (1, 1));
    assert!(rig.live.contains(ids[0]) && !rig.live.contains(ids[1]) && rig.live.contains(ids[2]));
    let (aside, _) = rig
        .disk
        .list()
        .unwrap()
        .into_iter()
        .find(|(name, _)| name.starts_with("damaged-"))
        .unwrap();
    assert!(rig.disk.read(&aside).starts_with(b"{\"seq\":3,"));
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_other_and_then_to_replay() {
    let mut rig = Rig::new();
    let mut floors = Vec::new();
    for _ in 0..2 {
        rig.commit(3);
        rig.keeper.checkpoint().unwrap();
        floors.insert(0, rig.live.progress().seq);
    }
    rig.commit(2);
    let mut expected = rig.live.sessions();
    let checkpoints = checkpoint::list(&rig.disk).unwrap();
    assert_eq!(checkpoints.iter().map(|(floor, _)| *floor).collect::<Vec<_>>(), floors);
    for (broken, (_, name)) in checkpoints.into_iter().enumerate() {
        rig = rig.restart();
        assert_eq!(rig.recovered.checkpoints_broken, u64::from(broken > 0), "it is set aside");
        assert_eq!(rig.live.sessions(), expected);
        let mut bytes = rig.disk.read(&name);
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        rig.disk.write(&name, bytes);
        expected += rig.commit(1).len();
    }
    let rig = rig.restart();
    assert_eq!(rig.recovered.checkpoints_broken, 1);
    assert_eq!(rig.recovered.checkpoint_seq, None);
    assert_eq!(rig.live.sessions(), expected);
}

#[test]
fn a_segment_that_is_old_is_closed_behind_the_next_group() {
    let mut rig = Rig::new();
    rig.commit(1);
    rig.clock.advance(3_599_999);
    rig.commit(1);
    assert_eq!(segment::list(&rig.disk).unwrap().len(), 1);
    rig.clock.advance(1);
    rig.commit(1);
    let firsts: Vec<_> =
        segment::list(&rig.disk).unwrap().iter().map(|segment| segment.first_seq).collect();
    assert_eq!(firsts, [1, 5]);
}

#[test]
fn a_segment_that_was_removed_is_not_written_into_the_void() {
    let mut rig = Rig::new();
    rig.commit(1);
    rig.disk.remove(&segment::open_name(1)).unwrap();
    assert_eq!(rig.commit(1), [], "nothing is acknowledged");
    assert_eq!(rig.commit(1).len(), 1, "and a new one is begun");
}

#[test]
fn an_idle_writer_notices_that_the_disk_fails_and_that_it_works_again() {
    let mut rig = Rig::new();
    rig.commit(1);
    rig.writer.idle_look = Duration::ZERO;
    rig.writer.turn();
    assert_eq!(rig.journal.is_up(), Ok(()));
    assert_eq!(kinds(&rig.disk), ["settings", "start"], "a look writes nothing");
    let before = rig.writer.settings.segment_bytes_max;
    rig.writer.settings.segment_bytes_max = Size::bytes(0);
    let told = rig.closed.try_iter().count();
    for _ in 0..3 {
        rig.writer.turn();
    }
    let told_more = rig.closed.try_iter().count();
    assert_eq!((told, told_more), (1, 1), "an empty segment is never full");
    rig.writer.settings.segment_bytes_max = before;
    // The sync of the look fails, and the first attempt to begin anew.
    rig.disk.fail_after(0, Some(2), 0);
    rig.writer.turn();
    let found = records(&rig.disk);
    in_order(&found);
    let expected = ["settings", "start", "settings", "settings", "pause"];
    assert_eq!(kinds(&rig.disk), expected, "the outage is a record");
    assert_eq!(rig.commit(1).len(), 1);
}

#[test]
fn an_event_that_lost_the_race_with_the_end_of_its_session_is_told_so() {
    let mut rig = Rig::new();
    let id = rig.commit(1)[0];
    let now_ms = rig.clock.now_ms();
    let mut group = vec![
        rig.append_event(id, "play", now_ms, 0).unwrap(),
        rig.append_event(id, "sessionEnd", now_ms + 5, 0).unwrap(),
        rig.append_event(id, "ping", now_ms + 6, 0).unwrap(),
        rig.append_event(id, "sessionComplete", now_ms + 5, 0).unwrap(),
    ];
    rig.clock.advance(500);
    group.push(rig.append_event(id, "ping", now_ms + 4, 0).unwrap());
    group.push(rig.append_close(id, CloseReason::TimeoutNoEvents).unwrap());
    group.push(rig.append_close(id, CloseReason::SessionEnd).unwrap());
    group.push(rig.append_event(id, "ping", now_ms + 3, 0).unwrap());
    rig.writer.turn();
    let outcomes = group.iter_mut().map(|(_, committed)| committed.try_recv().unwrap().unwrap());
    let expected = [
        Outcome::Heard,
        Outcome::Heard,
        Outcome::Gone,
        Outcome::Heard,
        Outcome::Gone,
        Outcome::Nothing,
        Outcome::Closed,
        Outcome::Gone,
    ];
    assert_eq!(outcomes.collect::<Vec<_>>(), expected);
    assert_eq!(rig.restart().live.sessions(), 0);
}

#[test]
fn a_session_is_closed_where_it_was_closed_whatever_the_settings_say_later() {
    let mut rig = Rig::new();
    let (first, second) = (rig.commit(1)[0], rig.commit(1)[0]);
    rig.clock.advance(599_000);
    let (_, mut heard) = rig.append_event(second, "ping", 1_000_000, 1).unwrap();
    rig.writer.turn();
    assert_eq!(heard.try_recv(), Ok(Ok(Outcome::Heard)));
    rig.clock.advance(1_000);
    let (_, mut closed) = rig.append_close(first, CloseReason::TimeoutNoEvents).unwrap();
    rig.writer.turn();
    assert_eq!(closed.try_recv(), Ok(Ok(Outcome::Closed)));
    let before = sessions_of(&rig.live);
    let minute = Terms { no_events_ms: 60_000, ..Terms::default() };
    let day = Terms { no_events_ms: 86_400_000, ..Terms::default() };
    for terms in [minute, day, Terms::default(), minute] {
        let disk = rig.disk.after_crash(0);
        rig = Rig::with(disk, rig.clock.clone(), terms).unwrap();
        assert_eq!(sessions_of(&rig.live), before);
        assert_eq!(rig.live.progress().terms, terms, "and for what comes they hold");
    }
    rig.clock.advance(58_999);
    assert_eq!(rig.live.take_due(rig.clock.now_ms(), 9).0, []);
    rig.clock.advance(1);
    assert_eq!(
        rig.live.take_due(rig.clock.now_ms(), 9).0,
        [(second, CloseReason::TimeoutNoEvents)]
    );
}

#[test]
fn a_session_takes_as_many_events_as_it_took_whatever_the_settings_say_later() {
    let ten = Terms { events_max: 10, ..Terms::default() };
    let mut rig = Rig::with(SimDisk::default(), Clock::manual(1_700_000_000_000), ten).unwrap();
    let [first, second] = [rig.commit(1)[0], rig.commit(1)[0]];
    let counts = |rig: &Rig, id| {
        let counts = rig.live.copy_of(id).unwrap().running_copy().counts;
        (counts.events, counts.beyond)
    };
    let hear = |rig: &mut Rig, id, ts| {
        let (_, mut heard) = rig.append_event(id, "ping", ts, 1).unwrap();
        rig.writer.turn();
        assert_eq!(heard.try_recv(), Ok(Ok(Outcome::Heard)), "it is taken in any case");
    };
    (1..=12).for_each(|ts| hear(&mut rig, first, ts));
    assert_eq!(counts(&rig, first), (10, 3));
    for events_max in [100_000, 12, 10] {
        let terms = Terms { events_max, ..Terms::default() };
        rig = Rig::with(rig.disk.after_crash(0), rig.clock.clone(), terms).unwrap();
        assert_eq!(counts(&rig, first).1, 3, "what was left out stays out");
        hear(&mut rig, second, u64::from(events_max));
    }
    (21..=40).for_each(|ts| hear(&mut rig, second, ts));
    assert_eq!(counts(&rig, second), (10, 14), "three by other settings, six by this one");
}

#[test]
fn a_checkpoint_beyond_a_lost_end_of_the_journal_swallows_nothing() {
    let mut rig = Rig::new();
    rig.commit(40);
    rig.keeper.checkpoint().unwrap();
    // With durability `write` the machine has lost the records, but not the checkpoint.
    for segment in segment::list(&rig.disk).unwrap() {
        rig.disk.remove(&segment.name()).unwrap();
    }
    let mut rig = rig.restart();
    assert_eq!(rig.live.sessions(), 40);
    let ids = rig.commit(50);
    assert!(ids.len() == 50 && ids.iter().all(|id| rig.live.contains(*id)));
}

#[test]
fn a_disk_that_hangs_and_fails_counts_against_no_session() {
    let mut rig = Rig::new();
    rig.commit(1);
    let (_, mut committed) = rig.append_start().unwrap();
    // The group is taken, the disk hangs for eight seconds, then fails once.
    rig.clock.advance(8_000);
    rig.disk.fail_after(0, Some(1), 0);
    rig.writer.turn();
    assert_eq!(committed.try_recv(), Ok(Err(Unavailable::Disk)));
    assert_eq!(rig.live.progress().paused_ms, 8_000);
}

#[test]
fn a_checkpoint_in_an_outage_does_not_tell_that_the_server_was_up() {
    let mut rig = Rig::new();
    rig.commit(1);
    let _waiting = rig.append_start().unwrap();
    rig.clock.advance(500_000);
    rig.keeper.checkpoint().unwrap();
    let rig = rig.restart();
    assert_eq!(rig.live.progress().paused_ms, 500_000);
}

/// What the archive has of a session, by the kinds of its records.
fn archived(rig: &Rig, id: SessionId) -> Vec<&'static str> {
    let archive = Archive::new(Arc::new(rig.disk.clone()));
    let mut kinds = Vec::new();
    let took = archive.each_of(
        id,
        id.minted_ms(),
        || true,
        |record, _| {
            kinds.push(record.content.kind());
            ControlFlow::Continue(())
        },
    );
    took.unwrap();
    kinds
}

#[test]
fn a_session_is_found_whatever_segments_there_are() {
    let mut rig = Rig::new();
    let first = rig.commit(3)[0];
    rig.commit(12);
    rig.clock.advance(1_000);
    let late = rig.commit(12)[11];
    rig.commit(12);
    let segments = segment::list(&rig.disk).unwrap();
    assert!(segments.len() > 2);
    assert_eq!((archived(&rig, first), archived(&rig, late)), (vec!["start"], vec!["start"]));
    // The first line of another segment is damaged, the newest segment is empty.
    let name = segments[1].name();
    let mut bytes = rig.disk.read(&name);
    bytes[20] ^= 1;
    rig.disk.write(&name, bytes);
    rig.disk.write(&segment::open_name(1_000), Vec::new());
    assert_eq!((archived(&rig, first), archived(&rig, late)), (vec!["start"], vec!["start"]));
    rig.keeper.compress_closed().unwrap();
    assert_eq!((archived(&rig, first), archived(&rig, late)), (vec!["start"], vec!["start"]));
}

#[test]
fn reports_are_written_once_each_through_outages() {
    let mut rig = Rig::new();
    let ids = rig.commit(600);
    rig.clock.advance(600_000);
    let closes: Vec<_> =
        ids.iter().map(|id| rig.append_close(*id, CloseReason::TimeoutNoEvents).unwrap()).collect();
    rig.writer.turn();
    assert!(closes.into_iter().all(|(_, mut c)| c.try_recv() == Ok(Ok(Outcome::Closed))));
    // Those that ended are wanted when the reporter is made; what is told of later comes on top.
    let (tells, told) = channel();
    let reporter = Reporter::new(Arc::clone(&rig.live), rig.journal.clone(), told);
    let Rig { disk, journal, writer, live, .. } = rig;
    disk.fail_after(1, Some(5), 70);
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
    let found = records(&disk);
    in_order(&found);
    let reports = found.iter().filter(|(.., content)| content.kind() == "report");
    let mut sids: Vec<_> = reports.filter_map(|(.., content)| content.sid()).collect();
    sids.sort_unstable();
    let mut expected = ids;
    expected.sort_unstable();
    assert_eq!(sids, expected);
}

#[test]
fn a_full_disk_at_the_start_is_an_outage_and_not_the_end() {
    let mut rig = Rig::new();
    rig.commit(1);
    let disk = rig.disk.after_crash(0);
    disk.fail_after(0, Some(3), 0);
    let mut rig = Rig::on(disk, rig.clock.clone()).unwrap();
    assert_eq!(rig.journal.is_up(), Err(Unavailable::Disk));
    assert!(rig.writer.turn());
    assert_eq!(rig.commit(1).len(), 1);
    in_order(&records(&rig.disk));
}

#[test]
fn a_record_of_a_later_version_is_never_cut() {
    let mut rig = Rig::new();
    rig.commit(1);
    let mut bytes = rig.disk.read(&segment::open_name(1));
    let line = br#"{"seq":3,"received_ms":9,"kind":"later""#;
    bytes.extend_from_slice(line);
    bytes.extend_from_slice(format!(",\"crc\":\"{:08x}\"}}\n", crc32c::crc32c(line)).as_bytes());
    rig.disk.write(&segment::open_name(1), bytes.clone());
    let error = Rig::on(rig.disk.after_crash(0), rig.clock.clone()).err().unwrap().to_string();
    assert!(error.contains("line 3") && error.contains("kind \"later\""), "{error}");
    assert_eq!(rig.disk.read(&segment::open_name(1)), bytes);
}

#[test]
fn compression_keeps_the_good_records_behind_damage() {
    let mut rig = Rig::new();
    rig.commit(20);
    rig.commit(1);
    let name = segment::open_name(1);
    let mut bytes = rig.disk.read(&name);
    let first = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    bytes.splice(first..first, vec![0; 33 << 20]);
    rig.disk.write(&name, bytes);
    let before = records(&rig.disk);
    rig.keeper.compress_closed().unwrap();
    assert!(segment::list(&rig.disk).unwrap()[0].compressed);
    assert_eq!(records(&rig.disk), before);
    let starts = before.iter().filter(|(.., content)| content.kind() == "start").count();
    assert_eq!(starts, 20, "all but the one that the damage runs into");
}

#[test]
fn closed_segments_are_compressed_and_read_all_the_same() {
    let mut rig = Rig::new();
    for _ in 0..6 {
        rig.commit(4);
    }
    let before = records(&rig.disk);
    rig.keeper.compress_closed().unwrap();
    let segments = segment::list(&rig.disk).unwrap();
    assert!(segments.len() > 2);
    let (last, closed) = segments.split_last().unwrap();
    assert!(!last.compressed && closed.iter().all(|segment| segment.compressed));
    assert_eq!(records(&rig.disk), before);
    let rig = rig.restart();
    assert_eq!(rig.live.sessions(), 24);
}

#[test]
fn old_segments_are_removed_but_none_that_the_older_checkpoint_needs() {
    let mut rig = Rig::new();
    for _ in 0..4 {
        rig.commit(4);
    }
    rig.keeper.settings.retention = Duration::from_mins(1);
    rig.clock.advance(61_000);
    let firsts = |rig: &Rig| -> Vec<_> {
        segment::list(&rig.disk).unwrap().iter().map(|segment| segment.first_seq).collect()
    };
    let all = firsts(&rig);
    rig.keeper.retain().unwrap();
    assert_eq!(firsts(&rig), all, "without two checkpoints everything is needed");
    rig.keeper.checkpoint().unwrap();
    let needed_after = rig.live.progress().seq;
    rig.commit(4);
    rig.keeper.checkpoint().unwrap();
    rig.commit(4);
    rig.clock.advance(61_000);
    rig.keeper.retain().unwrap();
    let kept = firsts(&rig);
    assert!(kept.len() < all.len() + 2 && kept[0] <= needed_after + 1, "{kept:?}");
    let sessions = rig.live.sessions();
    let rig = rig.restart();
    assert_eq!(rig.recovered.missing, 0);
    assert_eq!(rig.live.sessions(), sessions);
}

#[test]
fn what_was_set_aside_goes_with_the_segments_that_it_is_of() {
    let mut rig = Rig::new();
    for _ in 0..3 {
        rig.commit(4);
        rig.keeper.checkpoint().unwrap();
    }
    let segments = segment::list(&rig.disk).unwrap();
    let (old, kept) = (segments[0].first_seq, segments.last().unwrap().first_seq);
    let aside = [
        (format!("damaged-{old:020}-0.txt"), false),
        (format!("damaged-checkpoint-{old:020}"), false),
        (format!("damaged-{kept:020}-77.txt"), true),
        (format!("damaged-checkpoint-{kept:020}"), true),
        ("damaged-by-hand.txt".to_owned(), true),
    ];
    for (name, _) in &aside {
        rig.disk.write(name, b"VICT-77".to_vec());
    }
    let names = |rig: &Rig| -> Vec<_> {
        rig.disk.list().unwrap().into_iter().map(|(name, _)| name).collect()
    };
    // As long as nothing is removed, or nothing is to be, everything stays.
    rig.keeper.settings.retention = Duration::from_mins(1);
    rig.keeper.retain().unwrap();
    rig.keeper.settings.retention = Duration::ZERO;
    rig.clock.advance(61_000);
    rig.keeper.retain().unwrap();
    assert!(aside.iter().all(|(name, _)| names(&rig).contains(name)));
    rig.commit(1);
    rig.keeper.settings.retention = Duration::from_mins(1);
    rig.keeper.retain().unwrap();
    assert_ne!(segment::list(&rig.disk).unwrap()[0].first_seq, old, "old segments are removed");
    for (name, stays) in &aside {
        assert_eq!(names(&rig).contains(name), *stays, "{name}");
    }
}

#[test]
fn closed_segments_are_bounded_by_their_size_together() {
    let mut rig = Rig::new();
    for _ in 0..8 {
        rig.commit(4);
        rig.keeper.checkpoint().unwrap();
    }
    rig.keeper.settings.retention_bytes = Size::kib(8);
    rig.keeper.retain().unwrap();
    let segments = segment::list(&rig.disk).unwrap();
    assert!(segments.iter().map(|segment| segment.bytes).sum::<u64>() <= 8 << 10);
    assert_eq!(rig.restart().live.sessions(), 32);
}

/// What may happen to a journal.
#[derive(Clone, Debug)]
enum Act {
    Start(usize),
    /// Events of any sessions, as one group.
    Events(Vec<Said>),
    /// Stored sessions.
    Store(usize),
    /// Every report that is wanted.
    Report,
    Advance(u64),
    CloseDue,
    Checkpoint,
    Compress,
    /// The disk fails after some operations, some times, and leaves torn bytes.
    Fault(u32, u32, usize),
    /// The machine goes down at an operation in the next steps.
    CrashAfter(u32, usize),
    /// Down for some time, with settings that say when sessions end and how much they take.
    Restart(u64, Terms),
}

/// An event of one of the sessions there ever were.
#[derive(Clone, Debug)]
struct Said {
    session: prop::sample::Index,
    event_type: &'static str,
    stamp: Stamp,
    playhead: u8,
    /// What stands around the body.
    blank: &'static str,
}

/// How an event is stamped.
#[derive(Clone, Debug)]
enum Stamp {
    /// So many ms before the server's clock.
    Behind(u64),
    /// By a clock that was not set.
    At(u64),
    /// As the last event was, which makes it a repeat if all else is the same.
    Same,
}

fn any_said() -> impl Strategy<Value = Said> {
    let names = crate::wire::EventType::ALL[1..].iter().map(|event_type| event_type.name());
    let event_type = prop_oneof![
        3 => prop::sample::select(names.collect::<Vec<_>>()),
        2 => prop::sample::select(vec!["play", "ping", "sessionEnd"]),
    ];
    let stamp = prop_oneof![
        6 => (0..20_000_u64).prop_map(Stamp::Behind),
        1 => (0..900_000_u64).prop_map(Stamp::Behind),
        1 => (0..1_u64 << 53).prop_map(Stamp::At),
        3 => Just(Stamp::Same),
    ];
    let blank = prop::sample::select(vec!["", "", " ", "\n"]);
    (any::<prop::sample::Index>(), event_type, stamp, 0..3_u8, blank).prop_map(
        |(session, event_type, stamp, playhead, blank)| Said {
            session,
            event_type,
            stamp,
            playhead,
            blank,
        },
    )
}

fn any_terms() -> impl Strategy<Value = Terms> {
    let shorter = Terms {
        no_events_ms: 90_000,
        no_playhead_ms: 150_000,
        age_ms: 400_000,
        ..Terms::default()
    };
    let fewer = (2..12_u32).prop_map(|events_max| Terms { events_max, ..Terms::default() });
    prop_oneof![3 => Just(Terms::default()), 1 => Just(shorter), 2 => fewer]
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (1..6_usize).prop_map(Act::Start),
        9 => prop::collection::vec(any_said(), 1..14).prop_map(Act::Events),
        2 => (1..400_000_u64).prop_map(Act::Advance),
        3 => (1..7_000_u64).prop_map(Act::Advance),
        4 => Just(Act::CloseDue),
        4 => Just(Act::Report),
        1 => (1..3_usize).prop_map(Act::Store),
        2 => Just(Act::Checkpoint),
        2 => Just(Act::Compress),
        3 => (0..4_u32, 1..5_u32, 0..900_usize).prop_map(|(b, f, t)| Act::Fault(b, f, t)),
        3 => (0..12_u32, 0..2_000_usize).prop_map(|(budget, t)| Act::CrashAfter(budget, t)),
        2 => (0..900_000_u64, any_terms()).prop_map(|(ms, terms)| Act::Restart(ms, terms)),
    ]
}

/// Drives a journal through acts and holds it to its promises at every crash and at the end. Gives the disk as it is
/// behind the acts, and as it is once all that is wanted is written.
fn drive(acts: &[Act]) -> [SimDisk; 2] {
    let mut rig = Rig::new();
    let mut history = History::default();
    let mut crash: Option<usize> = None;
    let restart = |down_ms| Act::Restart(down_ms, Terms::default());
    // Each fault of the disk has passed after so many attempts.
    let reports = std::iter::repeat_n(Act::Report, 9);
    let end: Vec<_> = [restart(5)].into_iter().chain(reports).chain([restart(0)]).collect();
    let mut behind = SimDisk::default();
    for (row, act) in acts.iter().chain(&end).enumerate() {
        if row == acts.len() {
            behind = rig.disk.after_crash(crash.unwrap_or(0));
        }
        let mut pending = Vec::new();
        match act {
            Act::Start(count) => {
                for _ in 0..*count {
                    pending.extend(rig.append_start());
                }
                history.started.extend(pending.iter().map(|(id, _)| *id));
                turn(&mut rig, crash.is_some(), pending, |id, _| {
                    history.acknowledged.insert(id);
                });
            }
            Act::Store(count) => {
                for _ in 0..*count {
                    pending.extend(rig.append_batch());
                }
                // One that is committed before them in the same turn.
                pending.extend(rig.append_start());
                history.started.extend(pending.iter().map(|(id, _)| *id));
                turn(&mut rig, crash.is_some(), pending, |id, _| {
                    history.acknowledged.insert(id);
                });
            }
            Act::Report => {
                let wanted = rig.live.unreported_ids();
                pending.extend(wanted.into_iter().filter_map(|id| rig.append_report(id).ok()));
                turn(&mut rig, crash.is_some(), pending, |_, outcome| {
                    assert_eq!(outcome, Outcome::Reported);
                });
            }
            Act::Events(_) if history.started.is_empty() => {}
            Act::Events(events) => {
                let mut last_ts = rig.clock.now_ms();
                for said in events {
                    let id = *said.session.get(&history.started);
                    last_ts = match said.stamp {
                        Stamp::Behind(behind_ms) => rig.clock.now_ms() - behind_ms,
                        Stamp::At(ts) => ts,
                        Stamp::Same => last_ts,
                    };
                    let body = body_of(said.event_type, last_ts, said.playhead);
                    let body = format!("{}{body}{}", said.blank, said.blank);
                    pending.extend(rig.append_body(id, &body));
                }
                turn(&mut rig, crash.is_some(), pending, |id, outcome| {
                    *history.answered.entry(id).or_default() += 1;
                    assert!(matches!(outcome, Outcome::Heard | Outcome::Gone));
                });
            }
            Act::Advance(by_ms) => rig.clock.advance(*by_ms),
            Act::CloseDue => {
                pending.extend(rig.append_closes());
                turn(&mut rig, crash.is_some(), pending, |_, outcome| {
                    assert_eq!(outcome, Outcome::Closed, "nothing came between");
                });
            }
            Act::Checkpoint => drop(rig.keeper.checkpoint()),
            Act::Compress => drop(rig.keeper.compress_closed()),
            Act::Fault(budget, faults, torn) if crash.is_none() => {
                rig.disk.fail_after(*budget, Some(*faults), *torn);
            }
            Act::CrashAfter(budget, torn) if crash.is_none() => {
                rig.disk.fail_after(*budget, None, *torn);
                crash = Some(*torn);
            }
            Act::Fault(..) | Act::CrashAfter(..) => {}
            Act::Restart(down_ms, terms) => {
                let before = (sessions_of(&rig.live), rig.live.bytes());
                let went_on = crash.is_none();
                rig.clock.advance(*down_ms);
                rig = hold_to_promises(&rig, crash.take(), *terms, &history);
                if went_on {
                    let after = (sessions_of(&rig.live), rig.live.bytes());
                    assert_eq!(after, before, "replay is what was live");
                }
            }
        }
    }
    let found = records(&rig.disk);
    let count = |holds: fn(&Content<'_>) -> bool| -> usize {
        found.iter().filter(|(.., content)| holds(content)).count()
    };
    let begun = count(|content| matches!(content, Content::Start { .. } | Content::Batch { .. }));
    let reports = count(|content| matches!(content, Content::Report { .. }));
    assert_eq!((rig.live.unreported(), begun), (0, rig.live.sessions() + reports));
    [behind, rig.disk.after_crash(0)]
}

/// What the players know.
#[derive(Default)]
struct History {
    /// Sessions whose start was appended.
    started: Vec<SessionId>,
    /// Sessions whose start was answered.
    acknowledged: BTreeSet<SessionId>,
    /// How many events of a session were answered.
    answered: BTreeMap<SessionId, usize>,
}

/// Lets the writer commit what waits. A disk that never gets well would keep it for ever, so a crash
/// is to end before that: the journal is closed, which the writer notices.
fn turn(
    rig: &mut Rig,
    crashing: bool,
    pending: Vec<Pending>,
    mut answered: impl FnMut(SessionId, Outcome),
) {
    if pending.is_empty() {
        return;
    }
    if crashing {
        rig.journal.close();
    }
    rig.writer.turn();
    for (id, mut committed) in pending {
        if let Ok(Ok(outcome)) = committed.try_recv() {
            answered(id, outcome);
        }
    }
}

fn hold_to_promises(rig: &Rig, crash: Option<usize>, terms: Terms, history: &History) -> Rig {
    let disk = rig.disk.after_crash(crash.unwrap_or(0));
    let clock = rig.clock.clone();
    let rig = Rig::with(disk, clock.clone(), terms).unwrap();
    let found = records(&rig.disk);
    in_order(&found);
    let mut starts = BTreeSet::new();
    let mut reported = BTreeSet::new();
    let mut events: BTreeMap<SessionId, usize> = BTreeMap::new();
    for (.., content) in &found {
        match content {
            Content::Report { sid, .. } => {
                assert!(starts.contains(sid) && reported.insert(*sid), "one report a session");
                assert!(!rig.live.contains(*sid), "and only once it has ended");
            }
            Content::Start { sid, .. } | Content::Batch { sid, .. } => {
                assert!(history.started.contains(sid), "nothing is invented");
                assert!(starts.insert(*sid), "nothing stands twice");
            }
            Content::Event { sid, .. } => *events.entry(*sid).or_default() += 1,
            _ => {}
        }
    }
    assert!(history.acknowledged.is_subset(&starts), "what was acknowledged is there");
    for (id, answered) in &history.answered {
        assert!(events.get(id).copied().unwrap_or(0) >= *answered, "and so is every event");
    }
    assert_eq!(rig.live.progress().terms, terms);
    assert_eq!((rig.recovered.damaged, rig.recovered.missing), (0, 0));
    // The same state without any checkpoint, from the records alone.
    let replayed = rig.disk.after_crash(0);
    for (_, name) in checkpoint::list(&replayed).unwrap() {
        replayed.remove(&name).unwrap();
    }
    let live = Arc::new(Live::new(live::Settings::default()));
    let mut processor = Processor::new(Arc::clone(&live));
    recover(&replayed, &live, &mut processor, &Ids::default()).unwrap();
    // Shards that a checkpoint restored tell a later number than those that only their records did.
    assert_eq!(sessions_of(&live), sessions_of(&rig.live));
    assert_eq!(live.progress(), rig.live.progress());
    rig
}

/// What a checkpoint says of sessions, and of those by which repeats are known.
fn sessions_of(live: &Live) -> Vec<String> {
    const OF_SESSIONS: [&str; 3] = ["{\"sid\"", "{\"start_sid\"", "{\"stored_sid\""];
    let text = String::from_utf8(checkpoint::to_bytes(live)).unwrap();
    let of_session = |line: &&str| OF_SESSIONS.iter().any(|begin| line.starts_with(begin));
    text.lines().filter(of_session).map(str::to_owned).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn what_was_acknowledged_is_there_once_in_order_whatever_happens(
        acts in prop::collection::vec(any_act(), 1..40),
    ) {
        drive(&acts);
    }
}

/// Handlers and the writer in every order that a schedule explorer finds in its time: nobody waits for
/// ever, and every record is folded in the order of its number, whether the disk fails meanwhile or not.
///
/// `RUSTFLAGS="--cfg shuttle" cargo test --lib schedule`
#[cfg(shuttle)]
mod schedule {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    fn hand_over(faults: bool) {
        let rig = Rig::new();
        if faults {
            rig.disk.fail_after(2, Some(2), 100);
        }
        let Rig { disk, journal, writer, live, .. } = rig;
        let writer = shuttle::thread::spawn(move || writer.run());
        let handlers: Vec<_> = (0..3_u8)
            .map(|handler| {
                let journal = journal.clone();
                shuttle::thread::spawn(move || {
                    let mut pending = Vec::new();
                    for number in 0..2 {
                        let random = [handler, number, 0, 0, 0, 0, 0, 0, 0, 0];
                        let id = SessionId::mint(&Key::new([7; 32]), 1, random);
                        let body = BODY.into();
                        let content =
                            Content::Start { sid: id, client: None, user_agent: None, body };
                        let hash = BodyHash::of_start(BODY, None);
                        let change = Change::Start { id, opening: opening(), hash, room: None };
                        let Ok(mut committed) =
                            journal.append(&Encoded::new(content).unwrap(), change)
                        else {
                            continue;
                        };
                        // A bell that is not rung leaves this turning for ever, which is found.
                        let answer = loop {
                            match committed.try_recv() {
                                Err(TryRecvError::Empty) => shuttle::thread::yield_now(),
                                answer => break answer.expect("an answer"),
                            }
                        };
                        pending.push((id, answer.is_ok()));
                    }
                    pending
                })
            })
            .collect();
        let pending: Vec<_> = handlers.into_iter().flat_map(|h| h.join().unwrap()).collect();
        journal.close();
        writer.join().unwrap();
        let found = records(&disk);
        in_order(&found);
        for (id, acknowledged) in pending {
            assert_eq!(live.contains(id), acknowledged);
            if acknowledged {
                let times = found.iter().filter(|(.., content)| content.sid() == Some(id)).count();
                assert_eq!(times, 1);
            } else {
                assert!(faults, "nothing is refused while the disk is well");
            }
        }
    }

    #[test]
    fn schedule_without_faults() {
        shuttle::check_random(|| hand_over(false), 3_000);
    }

    #[test]
    fn schedule_with_faults() {
        shuttle::check_random(|| hand_over(true), 3_000);
    }
}
