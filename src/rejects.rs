//! Bodies that were refused, kept apart from the journal: a player's mistake need not lose its data.
//!
//! Each is one line of JSON in `rejects/current.ndjson`, which becomes `previous.ndjson` when it is full,
//! so that both together stay within a bound. The last ones are also in memory, in a ring for each
//! [class](Class), so that a flood of one does not push out the others. Nothing waits for this: what
//! comes faster than the disk takes it is counted and dropped.
//!
//! No client pushes out the others: a ring that is full loses the oldest line of the client that has the most
//! there, and a file takes of one client no more than a [share](FILE_SHARE). A body whose line would be longer is
//! cut, and its line ends with its whole length.
//!
//! Whoever answers the client waits for no large body: it is handed to the writer shared, and escaped only as it is
//! written.
//!
//! They are not kept for ever. By their first lines, which are the oldest:
//!
//! ```text
//! received           half of the retention           the retention
//!    ├── current.ndjson ──┼────── previous.ndjson ──────┤ removed
//! ```

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::data_dir::REJECTS as FOLDER;
use crate::files;
use crate::journal::disk::{Disk, Folder, is_unfinished, unless_missing};
use crate::journal::erase::{self, Judge, Meter, Pace, Purged};
use crate::limits::client::{client_of, network_of};
use crate::size::Size;
use crate::wire::Violations;

/// The file that is written, and the one before it.
const CURRENT: &str = "current.ndjson";
const PREVIOUS: &str = "previous.ndjson";

/// How every line begins, before the time at which the body was received.
const LINE_BEGIN: &str = "{\"received_ms\":";

/// How often the writer looks for what is too old, if nothing comes.
const RETAIN_LOOK: Duration = Duration::from_secs(1);

/// How many lines, and how many bytes of them, may wait to be written.
const QUEUE_MAX: usize = 256;
const QUEUE_BYTES_MAX: usize = 16 << 20;

/// How many bytes more, for bodies that are not large: they find room while a large one is written.
const QUEUE_BYTES_OF_SMALL: usize = 4 << 20;

/// How many lines, and how many bytes of them, a ring holds.
const RING_LINES_MAX: usize = 100;
const RING_BYTES_MAX: usize = 4 << 20;

/// How much of a body a ring shows, escaped, so that one stored session does not push out all others. The files
/// have more of it.
const RING_BODY_BYTES_MAX: usize = 256 << 10;

/// Which part of the current file one client may fill: an eighth.
const FILE_SHARE: u64 = 8;

/// How long a line of a file may be, if a share is not less.
const LINE_BYTES_MAX: u64 = 8 << 20;

/// What a line has after its head beside the body itself, at most.
const TAIL_BYTES_MAX: usize = ",\"body_hex\":\"\",\"body_bytes\":18446744073709551615}\n".len();

/// How much of a body becomes hex at once.
const HEX_PIECE_BYTES: usize = 1 << 10;

/// How much of a line is collected before it goes to the disk.
const WRITE_BYTES: usize = 64 << 10;

/// Of how many clients it is known how much of the file they fill. All others share one entry.
const SHARES_MAX: usize = 4_096;

/// How many events for sessions that are not there are kept in any one second; the others are counted.
/// A player that goes on after its session has ended sends the same thing for hours.
const GONE_A_SECOND_MAX: u32 = 10;

/// How often whoever has refused bodies removed is told that it still goes on.
const PURGE_LOOK: Duration = Duration::from_millis(200);

/// The section `rejects` of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How large the files may grow together; zero keeps none.
    pub bytes_max: Size,
    /// How old what was refused may grow, in the files and in memory; zero sets no bound.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { bytes_max: Size::mib(128), retention: Duration::from_hours(30 * 24) }
    }
}

/// A refusal that is worth keeping.
#[derive(Debug)]
pub struct Reject<'r> {
    /// When, in ms since the Unix epoch by the server's clock.
    pub received_ms: u64,
    /// The status of the answer.
    pub status: u16,
    /// Where it was posted.
    pub path: &'r str,
    /// The client's address, as far as the privacy settings keep it.
    pub client: Option<&'r str>,
    /// Whose share of the room it takes; see [`Rejects::client_key`].
    pub client_key: u64,
    /// The client's user agent, likewise.
    pub user_agent: Option<&'r str>,
    /// Why it was refused, if its body broke rules.
    pub violations: Option<&'r Violations>,
    /// The message of the answer.
    pub message: &'r str,
    /// The body, if it was read and may be kept.
    pub body: Option<&'r Bytes>,
    /// How long the body was, if it was read and may not be kept.
    pub withheld_bytes: Option<usize>,
}

/// Which ring a refusal goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The body broke rules, or a stored session is too long.
    Invalid,
    /// The body was not read, or is for somebody for whom nothing is collected.
    Unread,
    /// The body was right, but its session is over or was never there.
    Gone,
}

impl Class {
    fn of(reject: &Reject<'_>) -> Self {
        match reject.status {
            _ if reject.body.is_none() && reject.withheld_bytes.is_none() => Self::Unread,
            404 | 410 => Self::Gone,
            _ => Self::Invalid,
        }
    }
}

/// Keeps what was refused.
#[derive(Debug)]
pub struct Rejects {
    rings: Arc<[Mutex<Ring>; 3]>,
    came: [AtomicU64; 3],
    queue: SyncSender<Word>,
    queued_bytes: Arc<AtomicUsize>,
    /// How long a line of the files may be.
    line_bytes_max: usize,
    shares: Arc<Mutex<Shares>>,
    /// Makes of a client what nobody outside can foresee.
    clients: RandomState,
    over_share: AtomicU64,
    dropped: AtomicU64,
    gone_sample: Mutex<Sample>,
    gone_skipped: AtomicU64,
}

/// What the writer is told.
#[derive(Debug)]
enum Word {
    /// A line to be written.
    Line(Queued),
    /// Remove the lines that go, and say how many those are.
    Purge(Purging, SyncSender<io::Result<u64>>),
    /// Nothing more comes.
    End,
}

/// A line that waits to be written.
#[derive(Debug)]
struct Queued {
    line: Line,
    /// How many bytes it holds meanwhile, those of a body that is not written whole included.
    held_bytes: usize,
    share: Share,
}

/// What is to be removed, unless whoever wanted it has given up.
#[derive(Clone, Debug)]
struct Purging {
    judge: Arc<Judge>,
    is_given_up: Arc<AtomicBool>,
}

/// Removes refused bodies while more are refused.
#[derive(Debug)]
pub struct Purger {
    rings: Arc<[Mutex<Ring>; 3]>,
    queue: SyncSender<Word>,
}

impl Purger {
    /// Removes what goes from memory and from the files, and tells the meter as long as that takes.
    ///
    /// # Errors
    /// What the system says or the meter, or that the server ends.
    pub fn purge(&self, judge: &Arc<Judge>, meter: &mut Meter<'_>) -> io::Result<Purged> {
        let in_memory = self.rings.iter().map(|ring| Ring::purge(ring, judge)).sum();
        let (sender, purged) = sync_channel(1);
        let is_given_up = Arc::new(AtomicBool::new(false));
        let purging = Purging { judge: Arc::clone(judge), is_given_up: Arc::clone(&is_given_up) };
        self.queue.send(Word::Purge(purging, sender)).map_err(|_| ends())?;
        loop {
            match purged.recv_timeout(PURGE_LOOK) {
                Ok(lines) => return Ok(Purged { lines: lines?, in_memory }),
                Err(RecvTimeoutError::Disconnected) => return Err(ends()),
                Err(RecvTimeoutError::Timeout) => {
                    let goes_on = meter.waits();
                    is_given_up.store(goes_on.is_err(), Ordering::Relaxed);
                    goes_on?;
                }
            }
        }
    }
}

fn ends() -> io::Error {
    io::Error::new(io::ErrorKind::Interrupted, "the server ends")
}

/// Removes what goes from the files of a data folder that nobody else writes to, and says how many lines that
/// is.
///
/// # Errors
/// What the system says, or what `pace` does.
pub fn purge_files(data_dir: &Path, judge: &Judge, pace: Pace<'_>) -> io::Result<u64> {
    in_files(data_dir, |disk, name| {
        if is_unfinished(name) {
            disk.remove(name).map(|()| 0)
        } else {
            erase::purge_lines(disk, name, &|line| judge.condemns_refused(line), &mut *pace)
        }
    })
}

/// How many lines of the files go.
///
/// # Errors
/// What the system says, or what `pace` does.
pub fn count_in_files(data_dir: &Path, judge: &Judge, pace: Pace<'_>) -> io::Result<u64> {
    in_files(data_dir, |disk, name| {
        let goes = |line: &[u8]| judge.condemns_refused(line);
        match erase::count_lines(disk, name, &goes, &mut *pace) {
            // It has become the previous one, which is looked at too, or is cleaned just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            count => count,
        }
    })
}

fn in_files(
    data_dir: &Path,
    mut each: impl FnMut(&Folder, &str) -> io::Result<u64>,
) -> io::Result<u64> {
    let disk = Folder::at(&data_dir.join(FOLDER));
    let files = match disk.list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        files => files?,
    };
    files.iter().map(|(name, _)| each(&disk, name)).sum()
}

/// Lets so many through in any one second.
#[derive(Debug, Default)]
struct Sample {
    second: u64,
    taken: u32,
}

impl Sample {
    fn takes(&mut self, now_ms: u64) -> bool {
        let second = now_ms / 1_000;
        if second != self.second {
            *self = Self { second, taken: 0 };
        }
        self.taken += 1;
        self.taken <= GONE_A_SECOND_MAX
    }
}

/// How much of the current file each client fills.
#[derive(Debug)]
struct Shares {
    /// How much one may fill.
    bytes_max: u64,
    /// By client; the others are at nothing.
    filled: HashMap<Option<u64>, u64>,
    /// How much of that waits to be written, which may come into the next file.
    waiting: HashMap<Option<u64>, u64>,
}

/// What a line takes of the share of a client, or of those that have one together.
#[derive(Clone, Copy, Debug)]
struct Share {
    client_key: Option<u64>,
    bytes: u64,
}

impl Shares {
    fn new(bytes_max: u64) -> Self {
        Self { bytes_max, filled: HashMap::new(), waiting: HashMap::new() }
    }

    /// What a line of a client takes of its share, if it still fits.
    fn take(&mut self, client_key: u64, bytes: u64) -> Option<Share> {
        let known = self.filled.contains_key(&Some(client_key));
        let client_key = (known || self.filled.len() < SHARES_MAX).then_some(client_key);
        let filled = self.filled.get(&client_key).copied().unwrap_or_default() + bytes;
        if filled > self.bytes_max {
            return None;
        }
        self.filled.insert(client_key, filled);
        *self.waiting.entry(client_key).or_default() += bytes;
        Some(Share { client_key, bytes })
    }

    /// Gives back what was taken for a line that is not written after all.
    fn give_back(&mut self, share: Share) {
        subtract(&mut self.filled, share);
        subtract(&mut self.waiting, share);
    }

    /// A line is in the current file.
    fn settle(&mut self, share: Share) {
        subtract(&mut self.waiting, share);
    }

    /// Begins a new file.
    fn rotate(&mut self) {
        self.filled.clone_from(&self.waiting);
    }
}

fn subtract(from: &mut HashMap<Option<u64>, u64>, share: Share) {
    if let Some(bytes) = from.get_mut(&share.client_key) {
        *bytes = bytes.saturating_sub(share.bytes);
        if *bytes == 0 {
            from.remove(&share.client_key);
        }
    }
}

/// A line of a ring.
#[derive(Debug)]
struct Shown {
    received_ms: u64,
    client_key: u64,
    line: String,
}

/// The last lines of a class, the oldest first.
#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Shown>,
    bytes: usize,
    /// How many lines, and bytes of them, each client has.
    clients: HashMap<u64, (usize, usize)>,
}

impl Ring {
    fn push(&mut self, received_ms: u64, client_key: u64, line: String) {
        self.count(client_key, line.len());
        self.lines.push_back(Shown { received_ms, client_key, line });
        while self.lines.len() > RING_LINES_MAX {
            self.remove_of_largest(|(lines, _)| lines);
        }
        while self.bytes > RING_BYTES_MAX {
            self.remove_of_largest(|(_, bytes)| bytes);
        }
    }

    fn count(&mut self, client_key: u64, bytes: usize) {
        self.bytes += bytes;
        let (lines_of_it, bytes_of_it) = self.clients.entry(client_key).or_default();
        *lines_of_it += 1;
        *bytes_of_it += bytes;
    }

    /// Removes the oldest line of the client that has the most; of several, the oldest of all.
    fn remove_of_largest(&mut self, measure: impl Fn((usize, usize)) -> usize) {
        let of = |shown: &Shown| {
            measure(self.clients.get(&shown.client_key).copied().unwrap_or_default())
        };
        // The last of several that are equal is taken, which from this end is the oldest.
        let largest = self.lines.iter().enumerate().rev().max_by_key(|(_, shown)| of(shown));
        if let Some(index) = largest.map(|(index, _)| index) {
            self.remove(index);
        }
    }

    fn remove(&mut self, index: usize) {
        let Some(Shown { client_key, line, .. }) = self.lines.remove(index) else { return };
        self.bytes -= line.len();
        if let Some((lines_of_it, bytes_of_it)) = self.clients.get_mut(&client_key) {
            *lines_of_it -= 1;
            *bytes_of_it -= line.len();
            if *lines_of_it == 0 {
                self.clients.remove(&client_key);
            }
        }
    }

    /// Removes what was received until then.
    fn retain_after(&mut self, ms: u64) {
        while self.lines.front().is_some_and(|shown| shown.received_ms <= ms) {
            self.remove(0);
        }
    }

    /// Removes the lines that go, and says how many those are. They are judged without the lock, for which whoever
    /// refuses a body waits.
    fn purge(ring: &Mutex<Self>, judge: &Judge) -> u64 {
        let lines: Vec<_> = ring.lock().lines.iter().map(|shown| shown.line.clone()).collect();
        let goes: HashSet<_> =
            lines.into_iter().filter(|line| judge.condemns_refused(line.as_bytes())).collect();
        let mut ring = ring.lock();
        let before = ring.lines.len();
        for index in (0..before).rev() {
            if goes.contains(&ring.lines[index].line) {
                ring.remove(index);
            }
        }
        (before - ring.lines.len()) as u64
    }
}

impl Rejects {
    /// A keeper of refusals, and the writer of its files, which is to be run in a thread of its own.
    pub fn new(settings: &Settings, data_dir: &Path, clock: &Clock) -> (Self, Writer) {
        let (queue, words) = sync_channel(QUEUE_MAX);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let file_bytes_max = settings.bytes_max.as_u64() / 2;
        let rings: Arc<[Mutex<Ring>; 3]> = Arc::default();
        let share_bytes_max = file_bytes_max / FILE_SHARE;
        let shares = Arc::new(Mutex::new(Shares::new(share_bytes_max)));
        let line_bytes_max = share_bytes_max.min(LINE_BYTES_MAX);
        let retention_ms = u64::try_from(settings.retention.as_millis()).unwrap_or(u64::MAX);
        let writer = Writer {
            words,
            queued_bytes: Arc::clone(&queued_bytes),
            rings: Arc::clone(&rings),
            shares: Arc::clone(&shares),
            data_dir: data_dir.to_owned(),
            file_bytes_max,
            retention_ms: (retention_ms > 0).then_some(retention_ms),
            clock: clock.clone(),
            open: None,
            due_ms: 0,
        };
        let rejects = Self {
            rings,
            came: Default::default(),
            queue,
            queued_bytes,
            line_bytes_max: usize::try_from(line_bytes_max).unwrap_or(usize::MAX),
            shares,
            clients: RandomState::new(),
            over_share: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            gone_sample: Mutex::default(),
            gone_skipped: AtomicU64::new(0),
        };
        (rejects, writer)
    }

    /// Removes refused bodies, for whoever erases.
    pub fn purger(&self) -> Purger {
        Purger { rings: Arc::clone(&self.rings), queue: self.queue.clone() }
    }

    /// Whose share a refusal takes: that of a client, and of IPv6 that of its network of 48 bits, because one owner
    /// may have 65 536 clients there. It says nothing of the address, and another process gives others.
    pub fn client_key(&self, address: Option<IpAddr>) -> u64 {
        let client = address.map(|address| network_of(address).unwrap_or(client_of(address)));
        self.clients.hash_one(client)
    }

    /// Keeps one refusal.
    pub fn keep(&self, reject: &Reject<'_>) {
        let class = Class::of(reject);
        self.came[class as usize].fetch_add(1, Ordering::Relaxed);
        if class == Class::Gone && !self.gone_sample.lock().takes(reject.received_ms) {
            self.gone_skipped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let head = head_of(reject);
        let content = reject.body.map(Content::of);
        let shown = Line::new(head.clone(), content.as_ref(), reject, RING_BODY_BYTES_MAX);
        self.rings[class as usize].lock().push(
            reject.received_ms,
            reject.client_key,
            shown.to_json(),
        );
        // A body that is not kept has nothing to lose, one whose session is gone has nowhere to go, and a
        // flood of either must not push the others out of the files.
        if class == Class::Invalid && self.line_bytes_max > 0 {
            let body_bytes_max = self.line_bytes_max.saturating_sub(head.len() + TAIL_BYTES_MAX);
            let line = Line::new(head, content.as_ref(), reject, body_bytes_max);
            self.enqueue(line, reject);
        }
    }

    /// Hands a line to the writer, if there is room for it.
    fn enqueue(&self, mut line: Line, reject: &Reject<'_>) {
        let bytes = line.bytes();
        if bytes > self.line_bytes_max {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let Some(share) = self.shares.lock().take(reject.client_key, bytes as u64) else {
            self.over_share.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let whole_bytes = reject.body.map_or(0, Bytes::len);
        let is_large = whole_bytes > RING_BODY_BYTES_MAX;
        let held_bytes = line.head.len() + whole_bytes;
        let before = self.queued_bytes.fetch_add(held_bytes, Ordering::Relaxed);
        let bytes_max = QUEUE_BYTES_MAX + if is_large { 0 } else { QUEUE_BYTES_OF_SMALL };
        // A stored session may be as large as the bound, and then it waits alone.
        let has_room = before == 0 || before + held_bytes <= bytes_max;
        if has_room && !is_large {
            line.unshare();
        }
        let queued = Queued { line, held_bytes, share };
        if !has_room || self.queue.try_send(Word::Line(queued)).is_err() {
            self.queued_bytes.fetch_sub(held_bytes, Ordering::Relaxed);
            self.shares.lock().give_back(share);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lets the writer end, once it has written what waits.
    pub fn close(&self) {
        // If the writer has ended already, there is nobody to tell.
        let _ = self.queue.send(Word::End);
    }

    /// The last refusals of a class, the oldest first, each as JSON.
    pub fn last(&self, class: Class) -> Vec<String> {
        self.rings[class as usize].lock().lines.iter().map(|shown| shown.line.clone()).collect()
    }

    /// How many refusals of each class there were, in their order.
    pub fn came(&self) -> [u64; 3] {
        self.came.each_ref().map(|came| came.load(Ordering::Relaxed))
    }

    /// How many events for sessions that are not there were only counted.
    pub fn gone_skipped(&self) -> u64 {
        self.gone_skipped.load(Ordering::Relaxed)
    }

    /// How many were not written because their client has filled its share of the file.
    pub fn over_share(&self) -> u64 {
        self.over_share.load(Ordering::Relaxed)
    }

    /// How many were not written because they came too fast.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// A refusal as JSON without its body, and without the brace at its end.
fn head_of(reject: &Reject<'_>) -> String {
    #[derive(Serialize)]
    struct Head<'h> {
        received_ms: u64,
        status: u16,
        path: &'h str,
        #[serde(skip_serializing_if = "Option::is_none")]
        client: Option<&'h str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_agent: Option<&'h str>,
        message: &'h str,
        #[serde(skip_serializing_if = "Option::is_none")]
        violations: Option<&'h Violations>,
    }
    let head = Head {
        received_ms: reject.received_ms,
        status: reject.status,
        path: reject.path,
        client: reject.client,
        user_agent: reject.user_agent,
        message: reject.message,
        violations: reject.violations,
    };
    let mut json = serde_json::to_string(&head).expect("text and numbers are JSON");
    json.pop();
    json
}

/// A body, and whether it is text. It need not be JSON.
#[derive(Clone, Debug)]
struct Content {
    bytes: Bytes,
    is_text: bool,
}

impl Content {
    fn of(body: &Bytes) -> Self {
        Self { bytes: body.clone(), is_text: str::from_utf8(body).is_ok() }
    }

    /// The longest beginning that takes no more than so many bytes in JSON, and how many it takes.
    fn begin(&self, json_bytes_max: usize) -> (Self, usize) {
        let (end, json_bytes) = if self.is_text {
            escaped_begin(&self.bytes, json_bytes_max)
        } else {
            let end = self.bytes.len().min(json_bytes_max / 2);
            (end, 2 * end)
        };
        (Self { bytes: self.bytes.slice(..end), is_text: self.is_text }, json_bytes)
    }
}

/// How many bytes of a text take no more than so many once they are escaped, and how many they take then.
fn escaped_begin(text: &[u8], escaped_bytes_max: usize) -> (usize, usize) {
    /// What is counted without a look at each byte.
    const PIECE_BYTES: usize = 4 << 10;
    let (mut end, mut escaped) = (0, 0);
    for piece in text.chunks(PIECE_BYTES) {
        let more = piece.iter().map(|byte| escaped_bytes(*byte)).sum::<usize>();
        if escaped + more > escaped_bytes_max {
            break;
        }
        (end, escaped) = (end + piece.len(), escaped + more);
    }
    for byte in &text[end..] {
        let more = escaped_bytes(*byte);
        if escaped + more > escaped_bytes_max {
            break;
        }
        (end, escaped) = (end + 1, escaped + more);
    }
    // No character is cut. Its bytes take one each.
    while text.get(end).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000) {
        (end, escaped) = (end - 1, escaped - 1);
    }
    (end, escaped)
}

/// How many bytes one of a string takes in JSON.
fn escaped_bytes(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
        0..0x20 => "\\u0000".len(),
        _ => 1,
    }
}

/// A refusal as a line of JSON. Its body is escaped only as it is written.
///
/// ```text
/// {"received_ms":5,…,"violations":[…],"body":"{\"a","body_bytes":9}
/// └────────────── head ─────────────┘ └── or body_hex     └── if not all of it is here
/// ```
#[derive(Debug)]
struct Line {
    head: String,
    body: Option<Content>,
    /// How many bytes the body takes in JSON.
    json_bytes: usize,
    /// How long the body is, if not all of it is here.
    body_bytes: Option<usize>,
}

impl Line {
    /// A line with so much of a body as takes no more than so many bytes.
    fn new(
        head: String,
        content: Option<&Content>,
        reject: &Reject<'_>,
        json_bytes_max: usize,
    ) -> Self {
        let (body, json_bytes) = content.map(|content| content.begin(json_bytes_max)).unzip();
        let cut =
            content.zip(body.as_ref()).filter(|(whole, body)| body.bytes.len() < whole.bytes.len());
        let body_bytes = cut.map(|(whole, _)| whole.bytes.len()).or(reject.withheld_bytes);
        Self { head, body, json_bytes: json_bytes.unwrap_or_default(), body_bytes }
    }

    /// Copies the body, so that it holds no buffer in which it is a small part.
    fn unshare(&mut self) {
        if let Some(body) = &mut self.body {
            body.bytes = Bytes::copy_from_slice(&body.bytes);
        }
    }

    /// How many bytes are written, the line feed included, or a few less.
    fn bytes(&self) -> usize {
        self.head.len() + self.json_bytes + TAIL_BYTES_MAX
    }

    /// Writes it, without a line feed.
    fn write_to(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(self.head.as_bytes())?;
        match &self.body {
            None => {}
            Some(Content { bytes, is_text: true }) => {
                to.write_all(b",\"body\":")?;
                let text = str::from_utf8(bytes).map_err(io::Error::other)?;
                serde_json::to_writer(&mut *to, text)?;
            }
            Some(Content { bytes, is_text: false }) => {
                to.write_all(b",\"body_hex\":\"")?;
                for piece in bytes.chunks(HEX_PIECE_BYTES) {
                    let mut digits = [0; 2 * HEX_PIECE_BYTES];
                    let digits = &mut digits[..2 * piece.len()];
                    hex::encode_to_slice(piece, digits).map_err(io::Error::other)?;
                    to.write_all(digits)?;
                }
                to.write_all(b"\"")?;
            }
        }
        if let Some(body_bytes) = self.body_bytes {
            write!(to, ",\"body_bytes\":{body_bytes}")?;
        }
        to.write_all(b"}")
    }

    fn to_json(&self) -> String {
        let mut json = Vec::with_capacity(self.bytes());
        self.write_to(&mut json).expect("a vector takes all");
        String::from_utf8(json).expect("JSON is text")
    }
}

/// Writes the files, and removes what is too old.
#[derive(Debug)]
pub struct Writer {
    words: Receiver<Word>,
    queued_bytes: Arc<AtomicUsize>,
    rings: Arc<[Mutex<Ring>; 3]>,
    shares: Arc<Mutex<Shares>>,
    data_dir: PathBuf,
    file_bytes_max: u64,
    /// How old a line may grow, in ms; nothing sets no bound.
    retention_ms: Option<u64>,
    clock: Clock,
    /// The file that is written, and its size.
    open: Option<(File, u64)>,
    /// When a file is next too old for where it is, in ms since the Unix epoch. Not known at 0.
    due_ms: u64,
}

impl Writer {
    /// Writes until [`Rejects::close`]. A disk that fails loses lines here, and nothing else.
    pub fn run(mut self) {
        let (mut failing, mut keeps_old) = (false, false);
        loop {
            let retained = self.retain();
            if let Err(error) = &retained
                && !keeps_old
            {
                tracing::warn!(%error, "old refused bodies cannot be removed; it is tried again");
            }
            keeps_old = retained.is_err();
            let queued = match self.words.recv_timeout(RETAIN_LOOK) {
                Ok(Word::Line(queued)) => queued,
                Ok(Word::Purge(Purging { judge, is_given_up }, purged)) => {
                    // The file gets another of the same name.
                    (self.open, self.due_ms) = (None, 0);
                    let pace = &mut |_| {
                        if is_given_up.load(Ordering::Relaxed) { Err(ends()) } else { Ok(()) }
                    };
                    // If nobody waits any longer, nobody is told.
                    let _ = purged.send(purge_files(&self.data_dir, &judge, pace));
                    continue;
                }
                Ok(Word::End) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => continue,
            };
            let written = self.write_queued(queued);
            if let Err(error) = &written
                && !failing
            {
                tracing::warn!(%error, "refused bodies cannot be written; they are kept in memory only");
            }
            failing = written.is_err();
            if failing {
                self.open = None;
            }
        }
    }

    /// Writes a line, and gives back what it has taken of the queue.
    fn write_queued(&mut self, queued: Queued) -> io::Result<()> {
        let Queued { line, held_bytes, share } = queued;
        let written = self.write(&line);
        drop(line);
        self.queued_bytes.fetch_sub(held_bytes, Ordering::Relaxed);
        self.shares.lock().settle(share);
        written
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        let bytes = line.bytes() as u64;
        let (_, size) = self.open()?;
        if *size + bytes > self.file_bytes_max {
            self.open = None;
            let folder = self.data_dir.join(FOLDER);
            std::fs::rename(folder.join(CURRENT), folder.join(PREVIOUS))?;
            self.shares.lock().rotate();
        }
        let (file, size) = self.open()?;
        let capacity = usize::try_from(bytes).unwrap_or(usize::MAX).min(WRITE_BYTES);
        let mut writer = BufWriter::with_capacity(capacity, &*file);
        let written = line
            .write_to(&mut writer)
            .and_then(|()| writer.write_all(b"\n"))
            .and_then(|()| writer.flush());
        // What it has not written by now it must not write later.
        let _ = writer.into_parts();
        if written.is_err() {
            // Half a line would spoil the next one. If that fails too, the disk is at fault in any case.
            let _ = file.set_len(*size);
        }
        written?;
        *size = file.metadata()?.len();
        Ok(())
    }

    /// The file that is written, and its size.
    fn open(&mut self) -> io::Result<&mut (File, u64)> {
        let open = if let Some(open) = self.open.take() {
            open
        } else {
            let folder = self.data_dir.join(FOLDER);
            DirBuilder::new().recursive(true).mode(0o750).create(&folder)?;
            files::check_folder(&folder)?;
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o640);
            let file = files::open_to_write(&folder.join(CURRENT), &mut options)?;
            let size = file.metadata()?.len();
            self.due_ms = 0;
            (file, size)
        };
        Ok(self.open.insert(open))
    }

    /// Removes what has reached its age, by the time that it is [for sure](Clock::sure_ms). A file is as old as its
    /// first line.
    ///
    /// # Errors
    /// What the system says.
    fn retain(&mut self) -> io::Result<()> {
        let Some(retention_ms) = self.retention_ms else { return Ok(()) };
        let now_ms = self.clock.sure_ms();
        if let Some(until_ms) = now_ms.checked_sub(retention_ms) {
            self.rings.iter().for_each(|ring| ring.lock().retain_after(until_ms));
        }
        if now_ms < self.due_ms {
            return Ok(());
        }
        let folder = self.data_dir.join(FOLDER);
        let (current, previous) = (folder.join(CURRENT), folder.join(PREVIOUS));
        let is_due = |first_ms: u64, after_ms| now_ms >= first_ms.saturating_add(after_ms);
        let mut due_ms = u64::MAX;
        if let Some(first_ms) = first_received_ms(&previous)? {
            if is_due(first_ms, retention_ms) {
                std::fs::remove_file(&previous)?;
            } else {
                due_ms = first_ms.saturating_add(retention_ms);
            }
        }
        if let Some(first_ms) = first_received_ms(&current)? {
            let moved_ms = retention_ms.div_ceil(2);
            if is_due(first_ms, retention_ms) {
                self.open = None;
                std::fs::remove_file(&current)?;
                self.shares.lock().rotate();
            } else if is_due(first_ms, moved_ms) {
                self.open = None;
                // What is in the one before is older than half of the time too, if it is still there.
                std::fs::rename(&current, &previous)?;
                self.shares.lock().rotate();
                due_ms = first_ms.saturating_add(retention_ms);
            } else {
                due_ms = due_ms.min(first_ms.saturating_add(moved_ms));
            }
        }
        self.due_ms = due_ms;
        Ok(())
    }
}

/// When the first line of a file was received that tells it: 0 if none does, nothing if there is no file.
fn first_received_ms(path: &Path) -> io::Result<Option<u64>> {
    let Some(file) = unless_missing(files::open(path))? else { return Ok(None) };
    let mut lines = BufReader::new(file);
    let mut begin = Vec::new();
    loop {
        begin.clear();
        // A number has 20 digits at most; the rest of a line may be long.
        let begin_bytes = (LINE_BEGIN.len() + 21) as u64;
        io::Read::take(&mut lines, begin_bytes).read_until(b'\n', &mut begin)?;
        if begin.is_empty() {
            return Ok(Some(0));
        }
        if let Some(received_ms) = received_ms_of(&begin) {
            return Ok(Some(received_ms));
        }
        if !begin.ends_with(b"\n") {
            lines.skip_until(b'\n')?;
        }
    }
}

fn received_ms_of(line: &[u8]) -> Option<u64> {
    let (number, _) = str::from_utf8(line).ok()?.strip_prefix(LINE_BEGIN)?.split_once(',')?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::journal::erase::Selection;

    fn a_reject() -> Reject<'static> {
        static BODY: Bytes = Bytes::from_static(b"{}");
        Reject {
            received_ms: 5,
            status: 400,
            path: "/api/v1/sessions",
            client: Some("203.0.113.0"),
            client_key: 1,
            user_agent: None,
            violations: None,
            message: "Request had improper format.",
            body: Some(&BODY),
            withheld_bytes: None,
        }
    }

    fn keep(rejects: &Rejects, status: u16, body: Option<&[u8]>) {
        keep_of(rejects, 1, status, body);
    }

    fn keep_of(rejects: &Rejects, client_key: u64, status: u16, body: Option<&[u8]>) {
        keep_bytes(rejects, client_key, status, body.map(Bytes::copy_from_slice).as_ref());
    }

    fn keep_bytes(rejects: &Rejects, client_key: u64, status: u16, body: Option<&Bytes>) {
        let violations = Violations::unreadable("broken".into());
        rejects.keep(&Reject {
            received_ms: 5,
            status,
            path: "/api/v1/sessions",
            client: Some("203.0.113.0"),
            client_key,
            user_agent: None,
            violations: body.map(|_| &violations),
            message: "Request had improper format.",
            body,
            withheld_bytes: None,
        });
    }

    #[test]
    fn a_refused_body_is_kept_as_it_came() {
        let folder = tempfile::tempdir().unwrap();
        let (rejects, writer) =
            Rejects::new(&Settings::default(), folder.path(), &Clock::manual(5));
        keep(&rejects, 400, Some(b"{\"a\n\":"));
        keep(&rejects, 400, Some(b"\xFF"));
        keep(&rejects, 413, None);
        let last = rejects.last(Class::Invalid);
        assert_eq!(
            last[0],
            "{\"received_ms\":5,\"status\":400,\"path\":\"/api/v1/sessions\",\"client\":\"203.0.113.0\",\
             \"message\":\"Request had improper format.\",\"violations\":[{\"pointer\":\"\",\
             \"code\":\"json\",\"message\":\"broken\"}],\"body\":\"{\\\"a\\n\\\":\"}"
        );
        assert!(last[1].contains("\"body_hex\":\"ff\""));
        assert_eq!(rejects.last(Class::Unread).len(), 1);
        rejects.close();
        writer.run();
        let written =
            std::fs::read_to_string(folder.path().join("rejects/current.ndjson")).unwrap();
        assert_eq!(written.lines().count(), 2, "there is nothing to lose of the third");
        assert_eq!(written.lines().next(), Some(last[0].as_str()));
    }

    #[test]
    fn of_a_body_that_may_not_be_kept_the_rest_is() {
        let folder = tempfile::tempdir().unwrap();
        let (rejects, writer) =
            Rejects::new(&Settings::default(), folder.path(), &Clock::manual(5));
        rejects.keep(&Reject {
            received_ms: 5,
            status: 400,
            path: "/api/v1/sessions",
            client: None,
            client_key: 1,
            user_agent: None,
            violations: Some(&Violations::unreadable("broken".into())),
            message: "Request had improper format.",
            body: None,
            withheld_bytes: Some(77),
        });
        let last = rejects.last(Class::Invalid);
        assert!(last[0].ends_with("\"message\":\"broken\"}],\"body_bytes\":77}"), "{last:?}");
        rejects.close();
        writer.run();
        let file = std::fs::read_to_string(folder.path().join("rejects/current.ndjson")).unwrap();
        assert_eq!(file.trim_end(), last[0]);
    }

    #[test]
    fn a_flood_of_one_class_leaves_the_other_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (rejects, _writer) =
            Rejects::new(&Settings::default(), folder.path(), &Clock::manual(5));
        keep(&rejects, 400, Some(b"the one"));
        for _ in 0..10_000 {
            keep(&rejects, 413, None);
        }
        assert!(rejects.last(Class::Invalid)[0].contains("the one"));
        assert_eq!(rejects.last(Class::Unread).len(), RING_LINES_MAX);
        assert_eq!(rejects.dropped(), 0);
        for client in 0..400 {
            keep_of(&rejects, client, 400, Some(&vec![b'x'; 100_000]));
        }
        assert!(rejects.dropped() > 100, "nothing waits for the disk");
        let queued_bytes = rejects.queued_bytes.load(Ordering::Relaxed);
        assert!(queued_bytes <= QUEUE_BYTES_MAX + QUEUE_BYTES_OF_SMALL);
    }

    #[test]
    fn events_for_sessions_that_are_gone_are_sampled_and_leave_the_others_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (rejects, writer) =
            Rejects::new(&Settings::default(), folder.path(), &Clock::manual(5));
        keep(&rejects, 400, Some(b"the one"));
        let gone = |received_ms| {
            rejects.keep(&Reject {
                received_ms,
                status: 410,
                path: "/api/v1/sessions/x/events",
                client: None,
                client_key: 1,
                user_agent: None,
                violations: None,
                message: "this session is over",
                body: Some(&Bytes::from_static(b"{}")),
                withheld_bytes: None,
            });
        };
        (0..500).for_each(|_| gone(7_999));
        assert_eq!((rejects.last(Class::Gone).len(), rejects.gone_skipped()), (10, 490));
        gone(8_000);
        assert_eq!((rejects.last(Class::Gone).len(), rejects.gone_skipped()), (11, 490));
        assert!(rejects.last(Class::Invalid)[0].contains("the one"));
        rejects.close();
        writer.run();
        let file = std::fs::read_to_string(folder.path().join("rejects/current.ndjson")).unwrap();
        assert_eq!(file.lines().count(), 1);
    }

    #[test]
    fn a_large_body_leaves_room_in_the_ring_and_is_longer_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (rejects, writer) =
            Rejects::new(&Settings::default(), folder.path(), &Clock::manual(5));
        keep(&rejects, 400, Some(b"the one"));
        let text = "é".repeat(2 << 20);
        keep_of(&rejects, 2, 400, Some(text.as_bytes()));
        keep(&rejects, 413, Some(b"a stored session that is too long"));
        let last = rejects.last(Class::Invalid);
        assert_eq!(last.len(), 3);
        assert!(last[0].contains("the one"));
        assert!(last[1].len() < RING_BODY_BYTES_MAX + 500);
        assert!(last[1].ends_with(&format!("é\",\"body_bytes\":{}}}", text.len())));
        rejects.close();
        writer.run();
        let file = std::fs::read_to_string(folder.path().join("rejects/current.ndjson")).unwrap();
        let lines: Vec<_> = file.lines().collect();
        assert_eq!((lines.len(), rejects.dropped()), (3, 0));
        assert!(lines[1].ends_with(&format!("\"body\":\"{text}\"}}")), "all of it");
    }

    #[test]
    fn while_a_large_body_waits_there_is_room_for_small_ones() {
        let folder = tempfile::tempdir().unwrap();
        let (rejects, writer) =
            Rejects::new(&Settings::default(), folder.path(), &Clock::manual(5));
        let large = Bytes::from(vec![b'x'; QUEUE_BYTES_MAX]);
        keep_bytes(&rejects, 1, 400, Some(&large));
        assert_eq!(rejects.dropped(), 0, "one that is as large as the bound waits alone");
        keep_of(&rejects, 2, 400, Some(b"small"));
        assert_eq!(rejects.dropped(), 0);
        keep_bytes(&rejects, 3, 400, Some(&large));
        assert_eq!(rejects.dropped(), 1, "beside another it finds no room");
        let shares = Arc::clone(&rejects.shares);
        assert_eq!(shares.lock().waiting.len(), 2);
        rejects.close();
        writer.run();
        assert_eq!(rejects.queued_bytes.load(Ordering::Relaxed), 0);
        assert!(shares.lock().waiting.is_empty());
    }

    #[test]
    fn large_bodies_of_two_clients_leave_the_refusals_of_others_in_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let (rejects, mut writer) =
            Rejects::new(&Settings::default(), folder.path(), &Clock::manual(5));
        let mut write = || {
            while let Ok(Word::Line(queued)) = writer.words.try_recv() {
                writer.write_queued(queued).unwrap();
            }
        };
        (10..20).for_each(|client| keep_of(&rejects, client, 400, Some(b"of another")));
        write();
        // Each would take six times as many bytes, with which two files were full.
        let body = Bytes::from(vec![1; 16 << 20]);
        for _ in 0..3 {
            for client in [1, 2] {
                keep_bytes(&rejects, client, 400, Some(&body));
                write();
            }
        }
        assert_eq!((rejects.over_share(), rejects.dropped()), (4, 0));
        let share = Settings::default().bytes_max.as_u64() / 2 / FILE_SHARE;
        let file = std::fs::read_to_string(folder.path().join("rejects/current.ndjson")).unwrap();
        assert!(!folder.path().join("rejects/previous.ndjson").exists());
        assert_eq!(file.lines().filter(|line| line.contains("of another")).count(), 10);
        for line in file.lines().skip(10) {
            assert!((line.len() as u64) < share && line.len() as u64 > share - 100);
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let kept = line["body"].as_str().unwrap();
            assert!(kept.len() > 1 << 20 && kept.bytes().all(|byte| byte == 1));
            assert_eq!(line["body_bytes"], 16 << 20);
        }
        assert_eq!(file.lines().count(), 12);
    }

    #[test]
    fn a_head_that_is_longer_than_a_share_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { bytes_max: Size::kib(64), ..Settings::default() };
        let (rejects, writer) = Rejects::new(&settings, folder.path(), &Clock::manual(5));
        rejects.keep(&Reject { message: &"x".repeat(4 << 10), ..a_reject() });
        assert_eq!((rejects.dropped(), rejects.last(Class::Invalid).len()), (1, 1));
        rejects.close();
        writer.run();
        assert!(!folder.path().join("rejects").exists());
    }

    /// The body of a line that has no more than so many bytes of it, and the line.
    fn cut_to(body: &[u8], json_bytes_max: usize) -> (serde_json::Value, Line) {
        let body = Bytes::copy_from_slice(body);
        let reject = Reject { body: Some(&body), ..a_reject() };
        let content = Content::of(&body);
        let line = Line::new(head_of(&reject), Some(&content), &reject, json_bytes_max);
        (serde_json::from_str(&line.to_json()).unwrap(), line)
    }

    #[test]
    fn a_body_is_cut_between_characters_and_between_escapes() {
        let text = "a\u{1}\"é\n\u{7f}𝄞\\z";
        // By how many bytes it may take: each character as JSON has it.
        let ends = [1, 7, 9, 11, 13, 14, 18, 20, 21];
        for json_bytes_max in 0..=22 {
            let (line, _) = cut_to(text.as_bytes(), json_bytes_max);
            let chars = ends.iter().take_while(|end| **end <= json_bytes_max).count();
            let kept: String = text.chars().take(chars).collect();
            assert_eq!(line["body"], kept, "{json_bytes_max}");
            let is_cut = kept.len() < text.len();
            assert_eq!(line.get("body_bytes").is_some(), is_cut);
            if is_cut {
                assert_eq!(line["body_bytes"], text.len());
            }
        }
        let (line, _) = cut_to(b"\xFF\0\x01", 5);
        assert_eq!((&line["body_hex"], &line["body_bytes"]), (&"ff00".into(), &3.into()));
    }

    proptest! {
        #[test]
        fn a_line_has_the_longest_beginning_that_fits(
            text in "(?s)[\\x00-\\x22\\\\aé𝄞]{0,40}",
            repeats in 0..400_usize,
            json_bytes_max in 0..30_000_usize,
        ) {
            let text = text.repeat(repeats);
            let (value, line) = cut_to(text.as_bytes(), json_bytes_max);
            let kept = value["body"].as_str().unwrap();
            prop_assert!(text.starts_with(kept));
            let json_bytes = |text: &str| serde_json::to_string(text).unwrap().len() - 2;
            prop_assert_eq!(line.json_bytes, json_bytes(kept));
            prop_assert!(line.json_bytes <= json_bytes_max);
            let next = text[kept.len()..].chars().next();
            if let Some(next) = next {
                prop_assert!(line.json_bytes + json_bytes(&next.to_string()) > json_bytes_max);
            }
            prop_assert_eq!(value["body_bytes"].as_u64(), next.map(|_| text.len() as u64));
            prop_assert!(line.to_json().len() < line.bytes());
        }

        #[test]
        fn bytes_that_are_no_text_are_kept_in_hex(
            mut bytes: Vec<u8>, repeats in 1..50_usize, json_bytes_max in 0..9_000_usize,
        ) {
            bytes.push(0xFF);
            let bytes = bytes.repeat(repeats);
            let (value, line) = cut_to(&bytes, json_bytes_max);
            let kept = &bytes[..bytes.len().min(json_bytes_max / 2)];
            prop_assert_eq!(&value["body_hex"], &hex::encode(kept));
            prop_assert!(line.to_json().len() < line.bytes());
        }
    }

    /// Nobody writes here, which is how it looks to whoever waits for a purge that takes long.
    #[test]
    fn whoever_has_bodies_removed_is_told_meanwhile_and_may_give_up() {
        let folder = tempfile::tempdir().unwrap();
        let (rejects, writer) =
            Rejects::new(&Settings::default(), folder.path(), &Clock::manual(5));
        keep(&rejects, 400, Some(b"{}"));
        let judge = Arc::new(Judge::of(&Selection::Sessions(Vec::new())));
        let mut told = 0;
        let mut tell = |_, _| {
            told += 1;
            if told == 2 { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        };
        let purged = rejects.purger().purge(&judge, &mut Meter::new(&mut tell, false));
        assert_eq!((purged.unwrap_err().kind(), told), (io::ErrorKind::Interrupted, 2));
        // The writer, which comes to it only now, gives up too.
        let purging = match (writer.words.recv().unwrap(), writer.words.recv().unwrap()) {
            (Word::Line(_), Word::Purge(purging, _)) => purging,
            other => panic!("{other:?}"),
        };
        assert!(purging.is_given_up.load(Ordering::Relaxed));
    }

    #[test]
    fn a_ring_is_bounded_by_bytes() {
        let mut ring = Ring::default();
        for _ in 0..50 {
            ring.push(5, 1, "y".repeat(1 << 20));
        }
        assert_eq!((ring.lines.len(), ring.bytes), (4, RING_BYTES_MAX));
        // Who has the most bytes makes room, whoever has the most lines.
        for number in 0..50 {
            ring.push(6, 2, number.to_string());
        }
        assert_eq!((ring.lines.len(), ring.clients[&1].0), (53, 3));
    }

    #[test]
    fn a_flood_of_one_client_leaves_the_lines_of_others_in_a_ring() {
        let mut ring = Ring::default();
        for client in 0..20 {
            ring.push(5, client, format!("of {client}"));
        }
        for number in 0..1_000 {
            ring.push(6, 99, format!("flood {number}"));
        }
        let lines: Vec<_> = ring.lines.iter().map(|shown| shown.line.as_str()).collect();
        assert_eq!((lines.len(), lines[0], lines[19]), (RING_LINES_MAX, "of 0", "of 19"));
        assert_eq!((lines[20], lines[99]), ("flood 920", "flood 999"), "of it the last");
        // Of those who have one each, the oldest goes.
        (100..220).for_each(|client| ring.push(7, client, String::new()));
        assert_eq!(ring.lines.len(), RING_LINES_MAX);
        assert!(ring.lines.iter().all(|shown| shown.received_ms == 7));
        ring.retain_after(7);
        assert_eq!((ring.lines.len(), ring.bytes, ring.clients.len()), (0, 0, 0));
    }

    #[test]
    fn a_flood_of_one_client_fills_its_share_of_a_file_and_leaves_the_lines_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { bytes_max: Size::kib(128), ..Settings::default() };
        let (rejects, mut writer) = Rejects::new(&settings, folder.path(), &Clock::manual(5));
        let mut write = || {
            while let Ok(Word::Line(queued)) = writer.words.try_recv() {
                writer.write_queued(queued).unwrap();
            }
        };
        let read = |name: &str| std::fs::read_to_string(folder.path().join(FOLDER).join(name));
        keep_of(&rejects, 2, 400, Some(b"the one"));
        for _ in 0..1_000 {
            keep_of(&rejects, 1, 400, Some(&[b'x'; 1_000]));
            write();
        }
        let current = read(CURRENT).unwrap();
        assert!(current.contains("the one"));
        assert!((7 << 10..=9 << 10).contains(&current.len()), "{}", current.len());
        assert_eq!(rejects.over_share() + current.lines().count() as u64, 1_001);
        assert_eq!(rejects.dropped(), 0);
        // Others still find room, and once the file is full the client has a share of the next one.
        for client in 10..17 {
            (0..6).for_each(|_| keep_of(&rejects, client, 400, Some(&[b'z'; 1_000])));
            write();
        }
        let is_in = |name: &str, body: u8| {
            read(name).is_ok_and(|text| text.contains(str::from_utf8(&[body; 99]).unwrap()))
        };
        assert!(!is_in(PREVIOUS, b'z'));
        for client in 20..24 {
            (0..6).for_each(|_| keep_of(&rejects, client, 400, Some(&[b'w'; 1_000])));
        }
        write();
        assert!(is_in(PREVIOUS, b'z'), "it is full");
        let before = rejects.over_share();
        keep_of(&rejects, 1, 400, Some(b"again"));
        write();
        assert!(read(CURRENT).unwrap().contains("again"));
        assert_eq!(rejects.over_share(), before);
    }

    #[test]
    fn no_client_takes_more_than_its_share() {
        let mut shares = Shares::new(100);
        assert!(shares.take(1, 101).is_none());
        let (first, second) = (shares.take(1, 60).unwrap(), shares.take(1, 40).unwrap());
        assert!(shares.take(1, 1).is_none());
        shares.settle(first);
        shares.rotate();
        assert!(shares.take(1, 61).is_none(), "what waits comes into the new file");
        assert!(shares.take(1, 60).is_some());
        shares.give_back(second);
        assert!(shares.take(1, 41).is_none() && shares.take(1, 40).is_some());
        // Those who are too many are one.
        (0..SHARES_MAX as u64 * 2).for_each(|client| {
            shares.take(client + 10, 60);
        });
        assert_eq!(shares.filled.len(), SHARES_MAX + 1);
        assert!(shares.take(9_999_999, 60).is_none(), "the share of all others is full");
        assert!(shares.take(11, 40).is_some(), "who is known has its own");
    }

    #[test]
    fn a_client_is_known_by_its_network_and_not_by_its_address() {
        let folder = tempfile::tempdir().unwrap();
        let new = || Rejects::new(&Settings::default(), folder.path(), &Clock::manual(5)).0;
        let (rejects, other) = (new(), new());
        let key = |text: &str| rejects.client_key(text.parse().ok());
        assert_eq!(key("2001:db8:1:2::3"), key("2001:db8:1:4::5"));
        assert_ne!(key("2001:db8:1:2::3"), key("2001:db8:2:2::3"));
        assert_eq!(key("203.0.113.7"), key("::ffff:203.0.113.7"));
        assert_ne!(key("203.0.113.7"), key("203.0.113.8"));
        assert_ne!(key("203.0.113.7"), other.client_key("203.0.113.7".parse().ok()));
    }

    #[test]
    fn a_fifo_or_a_link_in_the_place_of_a_file_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let rejects_folder = folder.path().join(FOLDER);
        std::fs::create_dir(&rejects_folder).unwrap();
        let fifo = rejects_folder.join(CURRENT);
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from(0o666));
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
        let target = folder.path().join("target");
        std::fs::write(&target, "").unwrap();
        for is_link in [false, true] {
            if is_link {
                std::fs::remove_file(&fifo).unwrap();
                std::os::unix::fs::symlink(&target, &fifo).unwrap();
            }
            let (rejects, writer) =
                Rejects::new(&Settings::default(), folder.path(), &Clock::manual(5));
            keep(&rejects, 400, Some(b"{}"));
            rejects.close();
            // It ends, although nobody reads the FIFO.
            writer.run();
            assert_eq!(rejects.last(Class::Invalid).len(), 1);
        }
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "");
    }

    #[test]
    fn what_was_refused_is_removed_once_it_is_too_old() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { retention: Duration::from_secs(1), ..Settings::default() };
        let clock = Clock::manual(10_000);
        let (rejects, mut writer) = Rejects::new(&settings, folder.path(), &clock);
        let in_files = || -> Vec<u64> {
            let read = |name| std::fs::read(folder.path().join(FOLDER).join(name));
            let files = [PREVIOUS, CURRENT].map(|name| read(name).unwrap_or_default());
            files.concat().split(|byte| *byte == b'\n').filter_map(received_ms_of).collect()
        };
        let mut at = |ms: u64, refused: bool| {
            clock.advance(ms - clock.now_ms());
            writer.retain().unwrap();
            if refused {
                rejects.keep(&Reject { received_ms: ms, ..a_reject() });
                let Ok(Word::Line(queued)) = writer.words.try_recv() else { panic!("no line") };
                writer.write_queued(queued).unwrap();
            }
            (in_files(), rejects.last(Class::Invalid).len())
        };
        assert_eq!(at(10_000, true), (vec![10_000], 1));
        assert_eq!(at(10_400, true), (vec![10_000, 10_400], 2));
        assert_eq!(at(10_600, true), (vec![10_000, 10_400, 10_600], 3));
        assert_eq!(at(10_999, true), (vec![10_000, 10_400, 10_600, 10_999], 4), "not too early");
        // Those of its first half go with the first; none stays longer than it may.
        assert_eq!(at(11_000, false), (vec![10_600, 10_999], 3));
        assert_eq!(at(11_599, false), (vec![10_600, 10_999], 2));
        assert_eq!(at(11_600, false), (vec![], 1), "on a server that gets nothing more");
        assert_eq!(at(11_999, false), (vec![], 0));
        assert_eq!(at(12_000, true), (vec![12_000], 1));
        // A start finds what has grown too old while the server was down.
        clock.advance(2_000);
        let (_rejects, mut writer) = Rejects::new(&settings, folder.path(), &clock);
        writer.retain().unwrap();
        assert!(in_files().is_empty());
    }

    #[test]
    fn by_a_time_that_is_in_doubt_nothing_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { retention: Duration::from_secs(1), ..Settings::default() };
        let today_ms = crate::clock::EARLIEST_MS;
        let (rejects, writer) = Rejects::new(&settings, folder.path(), &Clock::simulated(today_ms));
        rejects.keep(&Reject { received_ms: today_ms, ..a_reject() });
        rejects.close();
        writer.run();
        // The next start has a clock that is ahead, and does not know of it before the journal is read back.
        let clock = Clock::simulated(today_ms + 5_000);
        let (_rejects, mut writer) = Rejects::new(&settings, folder.path(), &clock);
        let path = folder.path().join(FOLDER).join(CURRENT);
        for doubted_ms in [u64::MAX, 5_000] {
            clock.doubt(doubted_ms);
            writer.retain().unwrap();
            assert!(path.exists(), "{doubted_ms}");
        }
        clock.doubt(0);
        writer.retain().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_is_as_old_as_the_first_line_that_tells_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CURRENT);
        assert_eq!(first_received_ms(&path).unwrap(), None);
        let torn = format!("{{\"recei{}\n{{\"received_ms\":7,\"status\":400", "x".repeat(99));
        for (text, told) in [
            ("{\"received_ms\":5,\"status\":400}\n{\"received_ms\":6,", 5),
            (&*torn, 7),
            ("no line\n", 0),
            ("", 0),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(first_received_ms(&path).unwrap(), Some(told), "{text}");
        }
    }

    #[test]
    fn without_a_retention_they_stay() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { retention: Duration::ZERO, ..Settings::default() };
        let clock = Clock::manual(u64::MAX);
        let (rejects, mut writer) = Rejects::new(&settings, folder.path(), &clock);
        keep(&rejects, 400, Some(b"{}"));
        writer.retain().unwrap();
        assert_eq!(rejects.last(Class::Invalid).len(), 1);
    }

    #[test]
    fn the_files_are_bounded_together() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { bytes_max: Size::kib(64), ..Settings::default() };
        let (rejects, writer) = Rejects::new(&settings, folder.path(), &Clock::manual(5));
        for client in 0..200 {
            keep_of(&rejects, client, 400, Some(&[b'x'; 1_000]));
        }
        rejects.close();
        writer.run();
        let size =
            |name: &str| std::fs::metadata(folder.path().join("rejects").join(name)).unwrap().len();
        let both = size("previous.ndjson") + size("current.ndjson");
        assert!(both > 32 << 10 && both <= 64 << 10, "{both}");
    }
}
