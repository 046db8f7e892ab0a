//! A stop breaks off what is done for the files of the journal, at any size, and leaves nothing half done.

use std::cell::Cell;
use std::io::ErrorKind;

use super::super::checkpoint::Haste;
use super::super::disk::{DiskFile, PIECE_BYTES};
use super::*;
use parking_lot::Mutex;

/// A folder that closes the journal when so much was appended to one file, and counts what is appended after it.
#[derive(Clone)]
struct Closing {
    disk: SimDisk,
    journal: Journal,
    state: Arc<Mutex<Counted>>,
}

#[derive(Default)]
struct Counted {
    close_after_bytes: usize,
    appended: usize,
    /// What was appended and synced once the journal was closed.
    after: usize,
    unsynced: usize,
    most_unsynced: usize,
}

impl Closing {
    fn new(disk: &SimDisk, journal: &Journal, close_after_bytes: usize) -> Self {
        let state = Counted { close_after_bytes, ..Counted::default() };
        Self { disk: disk.clone(), journal: journal.clone(), state: Arc::new(Mutex::new(state)) }
    }
}

impl Disk for Closing {
    fn list(&self) -> std::io::Result<Vec<(String, u64)>> {
        self.disk.list()
    }
    fn create(&self, name: &str) -> std::io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(ClosingFile { file: self.disk.create(name)?, folder: self.clone() }))
    }
    fn open(&self, name: &str) -> std::io::Result<Box<dyn std::io::Read + Send>> {
        self.disk.open(name)
    }
    fn truncate(&self, name: &str, bytes: u64) -> std::io::Result<()> {
        self.disk.truncate(name, bytes)
    }
    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.disk.remove(name)
    }
}

struct ClosingFile {
    file: Box<dyn DiskFile>,
    folder: Closing,
}

impl DiskFile for ClosingFile {
    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let mut state = self.folder.state.lock();
        if self.folder.journal.is_closed() {
            state.after += bytes.len();
        }
        state.appended += bytes.len();
        state.unsynced += bytes.len();
        state.most_unsynced = state.most_unsynced.max(state.unsynced);
        if state.appended >= state.close_after_bytes {
            self.folder.journal.close();
        }
        self.file.append(bytes)
    }
    fn sync(&mut self) -> std::io::Result<()> {
        self.folder.state.lock().unsynced = 0;
        self.file.sync()
    }
    fn still_there(&self) -> std::io::Result<()> {
        self.file.still_there()
    }
}

/// A journal with so many sessions that a checkpoint has many pieces.
fn large() -> Rig {
    let mut rig = Rig::new();
    let start = String::from_utf8(BODY.to_vec()).unwrap();
    let start = start.replacen("\"p\"", &format!("\"{}\"", "p".repeat(6 << 10)), 1);
    for _ in 0..40 {
        for _ in 0..25 {
            rig.append_start_body(start.as_bytes()).unwrap();
        }
        rig.writer.turn();
    }
    rig
}

fn names(rig: &Rig) -> Vec<String> {
    rig.disk.list().unwrap().into_iter().map(|(name, _)| name).collect()
}

fn keeper_on(rig: &Rig, disk: &Closing) -> Keeper {
    let (disk, live) = (Arc::new(disk.clone()), Arc::clone(&rig.live));
    Keeper::new(settings(), disk, rig.clock.clone(), live, rig.journal.clone())
}

#[test]
fn a_checkpoint_that_is_given_up_leaves_nothing_behind_and_writes_no_piece_more() {
    let rig = large();
    let before = names(&rig);
    let pieces = Cell::new(0);
    // Asked once before all, and then before each piece.
    let haste = || {
        pieces.set(pieces.get() + 1);
        if pieces.get() > 4 { Haste::GivenUp } else { Haste::Paced }
    };
    let saved = checkpoint::save(&rig.disk, &rig.live, 0, haste);
    assert_eq!(saved.unwrap_err().kind(), ErrorKind::Interrupted);
    assert_eq!(pieces.get(), 5, "nothing is asked or written after that");
    assert_eq!(names(&rig), before);
}

#[test]
fn a_stop_inside_a_checkpoint_writes_no_more_than_it_has_time_for() {
    for has_time in [false, true] {
        let rig = large();
        let disk = Closing::new(&rig.disk, &rig.journal, 4 * PIECE_BYTES);
        let mut keeper = keeper_on(&rig, &disk);
        if !has_time {
            keeper.last_save_max = Duration::ZERO;
        }
        let saved = keeper.checkpoint();
        let state = disk.state.lock();
        assert!(rig.journal.is_closed());
        assert_eq!(saved.is_ok(), has_time);
        assert_eq!(state.after > 0, has_time, "{} bytes", state.after);
        assert_eq!(names(&rig).iter().any(|name| name.contains("checkpoint")), has_time);
        assert!(state.most_unsynced < (4 << 20) + 2 * PIECE_BYTES, "no sync is long");
        drop(state);
        if has_time {
            let rig = rig.restart();
            assert_eq!((rig.live.sessions(), rig.recovered.records), (1_000, 0));
        }
    }
}

#[test]
fn a_stop_that_gives_the_last_checkpoint_up_loses_no_session() {
    let mut rig = large();
    rig.keeper.checkpoint().unwrap();
    rig.commit(3);
    rig.keeper.last_save_max = Duration::ZERO;
    let Rig { disk, journal, writer, keeper, clock, closed, .. } = rig;
    journal.close();
    writer.run();
    keeper.run(&closed);
    let rig = Rig::on(disk.after_crash(0), clock).unwrap();
    assert_eq!((rig.live.sessions(), rig.recovered.records), (1_003, 3));
}

#[test]
fn a_stop_inside_a_compression_breaks_it_off_and_begins_no_other() {
    let rig = large();
    assert!(segment::list(&rig.disk).unwrap().len() > 10);
    let disk = Closing::new(&rig.disk, &rig.journal, 1);
    let keeper = keeper_on(&rig, &disk);
    let error = keeper.compress_closed().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    let compressed = || names(&rig).iter().filter(|name| name.contains(".zst")).count();
    assert_eq!(compressed(), 1, "the one that was at its end");
    assert!(!names(&rig).iter().any(|name| name.ends_with(".unfinished")));
    // The queue of those that were closed is not worked off either.
    let Rig { disk, writer, closed, clock, .. } = rig;
    writer.run();
    keeper.run(&closed);
    let found = segment::list(&disk).unwrap();
    assert_eq!(found.iter().filter(|segment| segment.compressed).count(), 1);
    assert_eq!(Rig::on(disk.after_crash(0), clock).unwrap().live.sessions(), 1_000);
}

#[test]
fn a_stop_inside_a_long_segment_does_not_wait_for_its_end() {
    let mut rig = Rig::new();
    rig.writer.settings.segment_bytes_max = Size::mib(64);
    let start = String::from_utf8(BODY.to_vec()).unwrap();
    let mut hasher = blake3::Hasher::new();
    for _ in 0..200 {
        // Digits that do not become much less.
        hasher.update(b"more");
        let mut digits = vec![0; 24_000];
        hasher.finalize_xof().fill(&mut digits);
        let name = format!("\"{}\"", hex::encode(digits));
        rig.append_start_body(start.replacen("\"p\"", &name, 1).as_bytes()).unwrap();
        rig.writer.turn();
    }
    rig.writer.settings.segment_bytes_max = Size::kib(1);
    rig.commit(1);
    rig.commit(1);
    let segment = segment::list(&rig.disk).unwrap()[0].clone();
    assert!(segment.bytes > 8 << 20);
    let disk = Closing::new(&rig.disk, &rig.journal, 1);
    let keeper = keeper_on(&rig, &disk);
    assert_eq!(keeper.compress_closed().unwrap_err().kind(), ErrorKind::Interrupted);
    assert!(disk.state.lock().after <= 2 * PIECE_BYTES + (1 << 20), "it is broken off");
    assert!(!names(&rig).iter().any(|name| name.contains("unfinished") || name.contains("zst")));
}

#[test]
fn a_start_that_had_to_read_much_back_saves_it_at_once() {
    for (beyond, is_saved) in [(0, true), (1, false)] {
        let mut rig = large();
        rig.keeper.overdue_records = rig.live.progress().seq + beyond;
        let Rig { disk, journal, writer, keeper, closed: told, .. } = rig;
        // The clock stands still, so by the interval none is ever due.
        let saved = || disk.list().unwrap().iter().any(|(name, _)| name.starts_with("checkpoint"));
        std::thread::scope(|scope| {
            let keeping = scope.spawn(move || keeper.run(&told));
            // It compresses after that.
            while !disk.list().unwrap().iter().any(|(name, _)| name.contains("ndjson.zst")) {
                std::thread::yield_now();
            }
            assert_eq!(saved(), is_saved);
            journal.close();
            writer.run();
            keeping.join().unwrap();
        });
    }
}

#[test]
fn a_checkpoint_that_is_due_does_not_wait_for_all_segments_to_be_compressed() {
    let rig = large();
    rig.clock.advance(1_000_000);
    let closed = segment::list(&rig.disk).unwrap().len();
    let Rig { disk, journal, writer, keeper, live, closed: told, clock, .. } = rig;
    // As soon as there is a checkpoint, the server ends.
    let compressed = std::thread::scope(|scope| {
        let writing = scope.spawn(|| writer.run());
        let keeping = scope.spawn(move || keeper.run(&told));
        clock.advance(10_000_000);
        while !disk.list().unwrap().iter().any(|(name, _)| name.starts_with("checkpoint")) {
            // The time passes in which it would be due once more.
            clock.advance(1_000_000);
            std::thread::yield_now();
        }
        journal.close();
        writing.join().unwrap();
        keeping.join().unwrap();
        segment::list(&disk).unwrap().iter().filter(|segment| segment.compressed).count()
    });
    assert!(compressed < closed, "{compressed} of {closed}");
    assert_eq!(live.sessions(), 1_000);
}
