//! Live sessions saved whole, so that a restart reads only what came after.
//!
//! ```text
//! {"version":4,"saved_ms":…,"progress":{…}}        everything up to progress.seq is in every shard
//! {"start_sid":"…","hash":"…",…}                   starts and stored sessions of a moment ago
//! {"stored_sid":"…","hash":"…",…}
//! {"shard":0,"seq":124}                            this shard includes its records up to seq
//! {"sid":"…","session":{…}}                        its sessions, by id
//! …                                                256 shards
//! {"sessions":1,"crc":"9ae0daaf"}                  CRC-32C of all lines before
//! ```
//! Shards are saved one after the other while records go on; so each tells what it includes, and replay
//! begins after `progress.seq` (the floor) and skips what a shard has. Equal states are equal bytes. The file is
//! written in small pieces, each synced before the next: a large one synced at once would stall the
//! journal's own sync. Two are kept, in case the newer is damaged. One that is given up leaves nothing behind.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Ids;
use super::disk::{Disk, PIECE_BYTES, Paced, write_whole};
use super::erase::Pace;
use crate::live::{Live, Progress, Remembered, RememberedStored, SHARDS, SavedRepeats};
use crate::session::id::SessionId;
use crate::session::{BodyHash, Session};

pub(super) const PREFIX: &str = "checkpoint-";

/// How many checkpoints are kept.
const KEPT: usize = 2;

/// How long the disk is left to the journal between two pieces.
const PIECE_PAUSE: Duration = Duration::from_millis(5);

/// How much is synced at once where that must be fast: a disk that writes 20 MB a second takes 0.2 s for it.
const FAST_BYTES: usize = 4 << 20;

/// Raised when what is saved changes; of other versions only that of the last release is used.
const VERSION: u32 = 4;

/// What the last release saved: its sessions had no time of their own, and nothing told of repeats.
const VERSION_BEFORE: u32 = 2;

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    /// When it was saved, in ms since the Unix epoch by the server's clock: the server was up until then.
    saved_ms: u64,
    progress: Progress,
    /// The last record that the starts and stored sessions of a moment ago include.
    #[serde(default)]
    repeats_seq: u64,
}

/// A start of a moment ago. The id is the first member, so that it is found without reading the line.
#[derive(Serialize, Deserialize)]
struct StartLine {
    start_sid: SessionId,
    hash: BodyHash,
    received_ms: u64,
}

/// A stored session of a moment ago.
#[derive(Serialize, Deserialize)]
struct StoredLine {
    stored_sid: SessionId,
    hash: BodyHash,
    received_ms: u64,
    seq: u64,
    client: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct ShardLine {
    shard: usize,
    seq: u64,
}

#[derive(Serialize, Deserialize)]
struct SessionLine<S> {
    sid: SessionId,
    session: S,
}

#[derive(Serialize, Deserialize)]
struct Footer {
    sessions: u64,
    crc: String,
}

/// A checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The disk.
    #[error(transparent)]
    Disk(#[from] io::Error),
    /// What is in it.
    #[error("line {line}: {why}")]
    Content {
        /// Which line, from 1.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
}

/// What is wrong with a line, or with what is made of it.
enum Fault {
    Disk(io::Error),
    Content(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

/// The checkpoints, the newest first, each with its floor.
///
/// # Errors
/// What the system says.
pub fn list(disk: &dyn Disk) -> io::Result<Vec<(u64, String)>> {
    let mut found: Vec<_> = disk
        .list()?
        .into_iter()
        .filter_map(|(name, _)| Some((name.strip_prefix(PREFIX)?.parse().ok()?, name)))
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

/// The record up to which segments are not needed any more: the floor of the older checkpoint.
///
/// # Errors
/// What the system says.
pub fn needed_after(disk: &dyn Disk) -> io::Result<u64> {
    Ok(list(disk)?.get(KEPT - 1).map_or(0, |(floor_seq, _)| *floor_seq))
}

/// The whole state as a checkpoint has it.
pub fn to_bytes(live: &Live) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(live, 0, |piece, _| {
        bytes.extend_from_slice(piece);
        Ok(())
    })
    .expect("writing to memory does not fail");
    bytes
}

/// How fast a checkpoint is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// The disk is left to the journal between two pieces.
    Paced,
    /// Nobody else needs the disk any more; still, no sync is long.
    Fast,
    /// It is given up.
    GivenUp,
}

/// Saves the live sessions, and removes what is older than the two newest checkpoints. The server was up until
/// `up_until_ms`, in ms of [running time](Progress::running_ms).
///
/// How fast it must be is asked before each piece. If it need not be fast, nothing is saved if nothing has changed.
/// Gives the size of what was saved, if anything was.
///
/// # Errors
/// What the system says, or that it was [given up](io::ErrorKind::Interrupted); the older checkpoints are then
/// untouched.
pub fn save(
    disk: &dyn Disk,
    live: &Live,
    up_until_ms: u64,
    haste: impl Fn() -> Haste,
) -> io::Result<Option<u64>> {
    let floor_seq = live.progress().seq;
    let name = format!("{PREFIX}{floor_seq:020}");
    let is_saved = || Ok::<_, io::Error>(list(disk)?.iter().any(|(seq, _)| *seq == floor_seq));
    match haste() {
        Haste::GivenUp => return Err(given_up()),
        Haste::Paced if is_saved()? => return Ok(None),
        Haste::Paced | Haste::Fast => {}
    }
    let (mut bytes, mut unsynced) = (0, 0);
    write_whole(disk, &name, |file| {
        write(live, up_until_ms, |piece, is_last| {
            let haste = haste();
            if haste == Haste::GivenUp {
                return Err(given_up());
            }
            file.append(piece)?;
            bytes += piece.len() as u64;
            unsynced += piece.len();
            if !is_last && (haste == Haste::Paced || unsynced >= FAST_BYTES) {
                file.sync()?;
                unsynced = 0;
            }
            if !is_last && haste == Haste::Paced {
                std::thread::sleep(PIECE_PAUSE);
            }
            Ok(())
        })
    })?;
    for (_, old) in list(disk)?.into_iter().skip(KEPT) {
        disk.remove(&old)?;
    }
    Ok(Some(bytes))
}

fn given_up() -> io::Error {
    io::Error::new(io::ErrorKind::Interrupted, "the checkpoint is given up")
}

/// Writes a checkpoint, piece by piece.
fn write(
    live: &Live,
    up_until_ms: u64,
    mut put: impl FnMut(&[u8], bool) -> io::Result<()>,
) -> io::Result<()> {
    let mut piece = Vec::with_capacity(PIECE_BYTES + (PIECE_BYTES >> 2));
    let (mut crc, mut count) = (0, 0);
    let mut put_piece = |piece: &mut Vec<u8>| {
        if piece.len() >= PIECE_BYTES {
            crc = crc32c::crc32c_append(crc, piece);
            put(piece, false)?;
            piece.clear();
        }
        io::Result::Ok(())
    };
    // Read before what is saved of shards and repeats, which may then include more, never less.
    let progress = live.progress();
    let saved_ms = up_until_ms.saturating_sub(progress.set_back_ms);
    let SavedRepeats { seq: repeats_seq, starts, stored } = live.save_repeats();
    add_line(&mut piece, &Header { version: VERSION, saved_ms, progress, repeats_seq });
    for Remembered { hash, id, received_ms } in starts {
        add_line(&mut piece, &StartLine { start_sid: id, hash, received_ms });
        put_piece(&mut piece)?;
    }
    for RememberedStored { seq, client, session } in stored {
        let Remembered { hash, id, received_ms } = session;
        let stored = StoredLine { stored_sid: id, hash, received_ms, seq, client };
        add_line(&mut piece, &stored);
        put_piece(&mut piece)?;
    }
    for shard in 0..SHARDS {
        let saved = live.save_shard(shard);
        add_line(&mut piece, &ShardLine { shard, seq: saved.seq });
        for (sid, session) in &saved.sessions {
            add_line(&mut piece, &SessionLine { sid: *sid, session });
            count += 1;
            put_piece(&mut piece)?;
        }
    }
    crc = crc32c::crc32c_append(crc, &piece);
    add_line(&mut piece, &Footer { sessions: count, crc: format!("{crc:08x}") });
    put(&piece, true)
}

fn add_line(piece: &mut Vec<u8>, line: &impl Serialize) {
    serde_json::to_writer(&mut *piece, line).expect("text and numbers are JSON");
    piece.push(b'\n');
}

/// What a checkpoint says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// When it was saved, in ms since the Unix epoch.
    pub saved_ms: u64,
    /// The last record up to which every shard includes all.
    pub whole_seq: u64,
}

/// Restores the live sessions from a checkpoint, all or none but those that are erased.
///
/// # Errors
/// [`Broken`], and then `live` is empty.
pub fn load(disk: &dyn Disk, name: &str, live: &Live, erased: &Ids) -> Result<Loaded, Broken> {
    // Read twice, so that nothing of a damaged one is ever in the map.
    each_line(disk.open(name)?, |_| Ok(()))?;
    let (mut row, mut saved_ms, mut version) = (None, 0, VERSION);
    let mut whole_seq: Option<u64> = None;
    let restored = each_line(disk.open(name)?, |line| {
        let wrong = |error: serde_json::Error| Fault::Content(error.to_string());
        if id_of(line).is_some_and(|id| erased.contains(id)) {
            return Ok(());
        }
        if line.starts_with(SESSION) {
            let SessionLine::<Session> { sid, mut session } =
                serde_json::from_slice(line).map_err(wrong)?;
            if version < VERSION {
                session.fill_in();
            }
            live.restore(sid, session);
        } else if line.starts_with(START) {
            let StartLine { start_sid: id, hash, received_ms } =
                serde_json::from_slice(line).map_err(wrong)?;
            live.restore_start(Remembered { hash, id, received_ms });
        } else if line.starts_with(STORED) {
            let StoredLine { stored_sid: id, hash, received_ms, seq, client } =
                serde_json::from_slice(line).map_err(wrong)?;
            let session = Remembered { hash, id, received_ms };
            live.restore_stored(RememberedStored { seq, client, session });
        } else if row.is_none() {
            let header: Header = serde_json::from_slice(line).map_err(wrong)?;
            version = header.version;
            if ![VERSION, VERSION_BEFORE].contains(&version) {
                let why = format!("version {version} is not known");
                return Err(Fault::Content(why));
            }
            live.restore_progress(header.progress);
            live.restore_repeats(header.repeats_seq);
            saved_ms = header.saved_ms;
            row = Some(0);
        } else {
            let shard: ShardLine = serde_json::from_slice(line).map_err(wrong)?;
            if row != Some(shard.shard) || shard.shard >= SHARDS {
                let why = format!("shard {} stands in the wrong place", shard.shard);
                return Err(Fault::Content(why));
            }
            row = Some(shard.shard + 1);
            whole_seq = Some(whole_seq.unwrap_or(shard.seq).min(shard.seq));
            live.restore_shard(shard.shard, shard.seq);
        }
        Ok(())
    });
    if restored.is_err() {
        live.clear();
    }
    restored.map(|()| Loaded { saved_ms, whole_seq: whole_seq.unwrap_or(0) })
}

/// Calls `take` with the id and the line of each session that a checkpoint has.
///
/// # Errors
/// [`Broken`], or what `take` says; some sessions may have been taken before.
pub(super) fn each_session(
    disk: &dyn Disk,
    name: &str,
    mut take: impl FnMut(SessionId, &[u8]) -> io::Result<()>,
) -> Result<(), Broken> {
    each_line(disk.open(name)?, |line| Ok(session_of(line).map_or(Ok(()), |id| take(id, line))?))
}

/// Writes a checkpoint anew without some sessions, if it has any of them, and says whether it did. Nothing
/// else in it changes.
///
/// # Errors
/// [`Broken`]; the checkpoint is then untouched.
pub(super) fn rewrite_without(
    disk: &dyn Disk,
    name: &str,
    goes: impl Fn(SessionId) -> bool,
    running: bool,
    pace: Pace<'_>,
) -> Result<bool, Broken> {
    let mut has_any = false;
    each_line(disk.open(name)?, |line| {
        has_any |= id_of(line).is_some_and(&goes) || first_in(line).is_some_and(&goes);
        Ok(pace(line.len())?)
    })?;
    if !has_any {
        return Ok(false);
    }
    let pause = if running { PIECE_PAUSE } else { Duration::ZERO };
    write_whole(disk, name, |file| {
        let mut paced = Paced::new(file).pausing(pause);
        let (mut crc, mut sessions) = (0, 0);
        each_line(disk.open(name)?, |line| {
            pace(line.len())?;
            if id_of(line).is_some_and(&goes) {
                return Ok(());
            }
            sessions += u64::from(session_of(line).is_some());
            let cut;
            let line = match first_in(line) {
                Some(first) if goes(first) => {
                    cut = without_first(line);
                    &cut
                }
                _ => line,
            };
            crc = crc32c::crc32c_append(crc, line);
            Ok(paced.write_all(line)?)
        })?;
        let mut footer = Vec::new();
        add_line(&mut footer, &Footer { sessions, crc: format!("{crc:08x}") });
        paced.write_all(&footer)?;
        Ok::<_, Broken>(paced.end()?)
    })?;
    Ok(true)
}

/// How lines begin that tell of a session.
const SESSION: &[u8] = b"{\"sid\":\"";
const START: &[u8] = b"{\"start_sid\":\"";
const STORED: &[u8] = b"{\"stored_sid\":\"";

/// The session that a line saves, if it saves one.
fn session_of(line: &[u8]) -> Option<SessionId> {
    id_behind(SESSION, line)
}

/// The session that a line tells of, if it tells of one.
fn id_of(line: &[u8]) -> Option<SessionId> {
    [SESSION, START, STORED].into_iter().find_map(|prefix| id_behind(prefix, line))
}

/// How a line ends that saves a session whose start repeats that of another: behind this stands an id.
const FIRST: &[u8] = b",\"repeat_of\":\"";
const FIRST_END: &[u8] = b"\"}}\n";

/// The session whose start is repeated by the one that a line saves.
fn first_in(line: &[u8]) -> Option<SessionId> {
    session_of(line)?;
    let (_, end) = line.split_at_checked(line.len().checked_sub(first_bytes())?)?;
    end.ends_with(FIRST_END).then(|| id_behind(FIRST, end)).flatten()
}

/// The same line without that session.
fn without_first(line: &[u8]) -> Vec<u8> {
    [&line[..line.len() - first_bytes()], b"}}\n"].concat()
}

const fn first_bytes() -> usize {
    FIRST.len() + 64 + FIRST_END.len()
}

fn id_behind(prefix: &[u8], line: &[u8]) -> Option<SessionId> {
    let digits = line.strip_prefix(prefix)?.get(..64)?;
    SessionId::from_path(str::from_utf8(digits).ok()?)
}

/// Calls `take` with each line but the footer, which must fit.
fn each_line(
    file: Box<dyn Read + Send>,
    mut take: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Broken> {
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let (mut line, mut number, mut crc) = (Vec::new(), 0, 0);
    loop {
        line.clear();
        number += 1;
        let broken = |why: String| Broken::Content { line: number, why };
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Err(broken("the end is missing".into()));
        }
        if line.starts_with(b"{\"sessions\"") {
            let footer: Footer =
                serde_json::from_slice(&line).map_err(|error| broken(error.to_string()))?;
            if footer.crc != format!("{crc:08x}") || line.last() != Some(&b'\n') {
                return Err(broken("the checksum does not fit".into()));
            }
            return Ok(());
        }
        crc = crc32c::crc32c_append(crc, &line);
        take(&line).map_err(|fault| match fault {
            Fault::Disk(error) => Broken::Disk(error),
            Fault::Content(why) => broken(why),
        })?;
    }
}
