//! What is to be erased, and what became of it: two files in the data folder.
//!
//! `erase.json` is the order. It is there from the moment it was given until everything is done, whoever
//! crashes in between. `erase-result-ID.json`, named by the id of the order, tells whoever gave it how far it
//! is; nobody's data is in it. Whoever waited for it removes it. If nobody did, one of the next does, unless it
//! is the evidence that something was erased: that stays until somebody has filed it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::progress::PROGRESS_FILE;
use super::selection::{Described, Selection};
use crate::files;
use crate::journal::disk::{Disk, is_unfinished, unfinished_name, unless_missing, write_whole};
use crate::session::id::SessionId;

/// The file of the order.
pub const ORDER_FILE: &str = "erase.json";

/// How the files begin that tell what became of one.
const RESULT_PREFIX: &str = "erase-result-";

/// How they end.
const RESULT_SUFFIX: &str = ".json";

/// The file of an order that is being given.
const GIVEN_FILE: &str = "erase.json.given.unfinished";

/// How long a result that is no evidence waits for whoever gave the order, in ms.
const RESULT_KEPT_MS: u64 = 600_000;

/// Raised when an order says something that an older server would not understand.
const VERSION: u32 = 1;

/// An order to erase.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    version: u32,
    /// Tells it from any other.
    pub id: String,
    /// When it was given, in ms since the Unix epoch.
    pub ordered_ms: u64,
    /// What is to be erased.
    pub selection: Selection,
    /// What that is in this journal, written before the first of it is removed: once some is removed, the
    /// rest could not be found by what it says.
    #[serde(default)]
    pub(super) found: Option<Found>,
}

/// What was found before anything was removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Found {
    /// The first record that is not looked at, if the server ran.
    pub(super) cutoff_seq: Option<u64>,
    /// When the looking began, in ms since the Unix epoch.
    pub(super) cutoff_ms: u64,
    /// How many of the sessions there are any records of, or a line of a checkpoint; all, if they are counted later.
    pub(super) sessions: u64,
    /// Their records by kind, as versions before counted them then.
    pub(super) records: BTreeMap<String, u64>,
    /// Whether they are counted as they are removed.
    #[serde(default)]
    pub(super) counts_later: bool,
    /// The sessions.
    pub(super) ids: Vec<SessionId>,
}

/// What became of an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Word {
    /// Which order.
    pub order: String,
    /// When this was written, in ms since the Unix epoch.
    pub written_ms: u64,
    /// How far it is.
    pub state: State,
}

/// How far an order is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is carried out.
    Running {
        /// What of the files is read, in bytes.
        done_bytes: u64,
        /// What there is to read, in bytes.
        total_bytes: u64,
    },
    /// It could not be carried out, and is tried again.
    Failing {
        /// Why not.
        why: String,
    },
    /// It is done.
    Done(Box<Evidence>),
}

/// What an erasure did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The id of the order.
    #[serde(default)]
    pub order: String,
    /// What was to be erased, without saying it.
    pub selection: Described,
    /// When it was ordered, in ms since the Unix epoch.
    pub ordered_ms: u64,
    /// When it was done, in ms since the Unix epoch.
    pub finished_ms: u64,
    /// The version of the program that did it.
    pub version: String,
    /// Whether the server went on meanwhile.
    pub server_was_running: bool,
    /// Whether it was interrupted, or found as it was given, and then finished: the figures of checkpoints and of what
    /// is no segment are those of the last run.
    pub was_interrupted: bool,
    /// What was received later is new data: up to when it was looked for, in ms since the Unix epoch.
    pub cutoff_ms: u64,
    /// The number of the first record that is new data, if the server was running.
    pub cutoff_seq: Option<u64>,
    /// How many sessions were there.
    pub sessions: u64,
    /// Their records by kind.
    pub records: BTreeMap<String, u64>,
    /// Damaged lines that were removed from segments.
    pub damaged_lines: u64,
    /// Segments that were rewritten.
    pub segments: u64,
    /// Checkpoints that were rewritten.
    pub checkpoints: u64,
    /// Lines that were removed from what had been set aside.
    pub set_aside_lines: u64,
    /// Refused bodies that were removed from their files.
    pub reject_lines: u64,
    /// Refused bodies that were removed from the server's memory.
    pub rejects_in_memory: u64,
    /// The size of the files that were rewritten, before.
    pub bytes_before: u64,
    /// The same after.
    pub bytes_after: u64,
    /// Records and saved sessions of others that have a searched value, under whatever key.
    pub value_left_lines: u64,
    /// Segments, by name, that cannot be unpacked to their end and are as they were: what stands there could
    /// not be searched.
    pub unreadable_segments: Vec<String>,
    /// Segments, by name, that could not be unpacked to their end and were rewritten: what stood there is
    /// lost for good.
    pub truncated_segments: Vec<String>,
}

impl Order {
    /// A new order.
    pub fn new(id: String, ordered_ms: u64, selection: Selection) -> Self {
        Self { version: VERSION, id, ordered_ms, selection, found: None }
    }

    /// The order that waits in a data folder, if there is one.
    ///
    /// # Errors
    /// What the system says, or that it is none that this version knows.
    pub fn pending(home: &dyn Disk) -> io::Result<Option<Self>> {
        let Some(bytes) = read(home, ORDER_FILE)? else { return Ok(None) };
        let unknown = |why: String| {
            io::Error::other(format!(
                "{ORDER_FILE} is no order that this version knows ({why}): nothing is erased by it. Run the \
                 version that wrote it, or repair the file, for it may list sessions that are erased in \
                 part; or remove it and give the order again"
            ))
        };
        // What the parser says may have a value in it.
        let place = |error: serde_json::Error| {
            unknown(format!("line {}, column {}", error.line(), error.column()))
        };
        let order: Self = serde_json::from_slice(&bytes).map_err(place)?;
        if order.version != VERSION {
            return Err(unknown(format!("version {}", order.version)));
        }
        Ok(Some(order))
    }

    /// Puts it in the place of the one that is there.
    pub(super) fn save(&self, home: &dyn Disk) -> io::Result<()> {
        write_whole(home, ORDER_FILE, |file| file.append(&self.to_json()))
    }

    /// As it stands in its file.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text and numbers are JSON")
    }
}

impl Word {
    /// The last word on an order, if there is one.
    ///
    /// # Errors
    /// What the system says.
    pub fn on(home: &dyn Disk, order: &str) -> io::Result<Option<Self>> {
        let word = Self::read(home, &result_file(order))?;
        Ok(word.filter(|word| word.order == order))
    }

    /// The last word on an order, for whoever waits for its end: that it is done counts once the order is gone
    /// too, for it names whom it was about.
    ///
    /// # Errors
    /// What the system says.
    pub fn to_whoever_waits(home: &dyn Disk, order: &str) -> io::Result<Option<Self>> {
        let word = Self::on(home, order)?;
        let is_done = word.as_ref().is_some_and(|word| matches!(word.state, State::Done(_)));
        let stands = is_done && Order::pending(home)?.is_some_and(|pending| pending.id == order);
        Ok(word.filter(|_| !stands))
    }

    /// Whether nobody needs it any more at this time.
    fn is_stale(&self, now_ms: u64) -> bool {
        !matches!(self.state, State::Done(_)) && self.written_ms + RESULT_KEPT_MS < now_ms
    }

    fn read(home: &dyn Disk, name: &str) -> io::Result<Option<Self>> {
        Ok(read(home, name)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Puts it in the place of the one before.
    ///
    /// # Errors
    /// What the system says.
    pub fn save(&self, home: &dyn Disk) -> io::Result<()> {
        let json = serde_json::to_vec(self).expect("text and numbers are JSON");
        write_whole(home, &result_file(&self.order), |file| file.append(&json))
    }

    /// Removes what was told of an order, now that it is read.
    ///
    /// # Errors
    /// What the system says.
    pub fn forget(home: &dyn Disk, order: &str) -> io::Result<()> {
        remove(home, &result_file(order))
    }
}

/// The file that tells what became of an order. An id that this program gave stands in it as it is.
pub fn result_file(order: &str) -> String {
    let order: String = order.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{RESULT_PREFIX}{order}{RESULT_SUFFIX}")
}

/// Puts an order into a data folder, whole, unless there is one. Of several who do so at once one succeeds:
/// whoever has the half file locked is alone, and one that a crash left is nobody's.
///
/// # Errors
/// What the system says.
pub fn place(data_dir: &Path, order: &Order) -> io::Result<bool> {
    let half = data_dir.join(GIVEN_FILE);
    let mut file = loop {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = files::open_to_write(&half, &mut options)?;
        file.lock()?;
        // Whoever had it before may have put it in its place meanwhile.
        if is_at(&file, &half)? {
            break file;
        }
    };
    let target = data_dir.join(ORDER_FILE);
    let placed = (|| {
        if target.try_exists()? {
            return Ok(false);
        }
        file.set_len(0)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(&order.to_json())?;
        file.sync_all()?;
        std::fs::rename(&half, &target)?;
        File::open(data_dir)?.sync_all()?;
        Ok(true)
    })();
    if !matches!(placed, Ok(true)) {
        // It has a value in it, or is nothing.
        let _ = std::fs::remove_file(&half);
    }
    placed
}

/// Removes half of an order that a crash left behind, unless somebody is just giving it.
///
/// # Errors
/// What the system says.
pub fn remove_half_given(data_dir: &Path) -> io::Result<()> {
    let half = data_dir.join(GIVEN_FILE);
    let opened = files::open_to_write(&half, OpenOptions::new().write(true));
    let Some(file) = unless_missing(opened)? else { return Ok(()) };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(()),
        locked => locked?,
    }
    if is_at(&file, &half)? { std::fs::remove_file(&half) } else { Ok(()) }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    let found = unless_missing(std::fs::symlink_metadata(path))?;
    Ok(found.is_some_and(|found| (open.dev(), open.ino()) == (found.dev(), found.ino())))
}

/// Removes what is left of orders before: halves of what only whoever carries them out writes, and what nobody
/// has asked for of an order that was not done.
///
/// # Errors
/// What the system says.
pub fn remove_old(home: &dyn Disk, now_ms: u64) -> io::Result<()> {
    let halves = [unfinished_name(ORDER_FILE), unfinished_name(PROGRESS_FILE)];
    let files = home.list()?;
    let has_order = files.iter().any(|(name, _)| name == ORDER_FILE);
    for (name, _) in files {
        let is_old = if let Some(rest) = name.strip_prefix(RESULT_PREFIX) {
            is_unfinished(rest)
                || rest.ends_with(RESULT_SUFFIX)
                    && Word::read(home, &name)?.is_some_and(|word| word.is_stale(now_ms))
        } else {
            halves.contains(&name) || name == PROGRESS_FILE && !has_order
        };
        if is_old {
            remove(home, &name)?;
        }
    }
    Ok(())
}

/// Removes the order, now that it is done.
pub(super) fn remove_order(home: &dyn Disk) -> io::Result<()> {
    home.remove(ORDER_FILE)
}

fn remove(home: &dyn Disk, name: &str) -> io::Result<()> {
    unless_missing(home.remove(name)).map(drop)
}

fn read(home: &dyn Disk, name: &str) -> io::Result<Option<Vec<u8>>> {
    let Some(mut file) = unless_missing(home.open(name))? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::disk::Folder;
    use crate::journal::erase::Visitor;

    fn order(id: &str) -> Order {
        let visitor = Visitor::new("user".into(), "Geheim".into());
        Order::new(id.into(), 1, Selection::Visitor(vec![visitor]))
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            Folder::at(folder).list().unwrap().into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    }

    #[test]
    fn one_order_at_a_time_waits_and_nothing_is_left_of_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let (path, home) = (folder.path(), Folder::private_at(folder.path()));
        // One that was killed while it gave an order has left this.
        std::fs::write(path.join(GIVEN_FILE), "half of an order with Geheim and more than that")
            .unwrap();
        assert!(place(path, &order("one")).unwrap());
        assert!(!place(path, &order("two")).unwrap());
        assert_eq!(names(path), [ORDER_FILE]);
        assert_eq!(Order::pending(&home).unwrap().unwrap().id, "one");
        let found = std::fs::metadata(path.join(ORDER_FILE)).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn of_many_who_give_an_order_at_once_one_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let placed = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|number| {
                    scope.spawn(move || place(path, &order(&number.to_string())).unwrap())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(placed.iter().filter(|placed| **placed).count(), 1);
        assert_eq!(names(path), [ORDER_FILE]);
    }

    #[test]
    fn half_an_order_is_removed_unless_it_is_just_being_given() {
        let folder = tempfile::tempdir().unwrap();
        let half = folder.path().join(GIVEN_FILE);
        let file = File::create(&half).unwrap();
        file.lock().unwrap();
        remove_half_given(folder.path()).unwrap();
        assert!(half.exists());
        drop(file);
        remove_half_given(folder.path()).unwrap();
        assert!(!half.exists());
        remove_half_given(folder.path()).unwrap();
    }

    #[test]
    fn a_result_waits_for_whoever_gave_its_order_whatever_is_ordered_next() {
        let folder = tempfile::tempdir().unwrap();
        let home = Folder::private_at(folder.path());
        let done = |order: &str, written_ms| {
            let state = State::Done(Box::default());
            Word { order: order.into(), written_ms, state }.save(&home).unwrap();
        };
        done("one", 1_000);
        assert!(place(folder.path(), &order("two")).unwrap());
        remove_old(&home, 2_000).unwrap();
        done("two", 2_000);
        let one = Word::on(&home, "one").unwrap();
        assert!(matches!(one.unwrap().state, State::Done(_)));
        Word::forget(&home, "one").unwrap();
        assert!(Word::on(&home, "one").unwrap().is_none());
        assert!(Word::on(&home, "two").unwrap().is_some());
        std::fs::write(folder.path().join("erase.json.unfinished"), "Geheim").unwrap();
        let state = State::Failing { why: "the disk is full".into() };
        Word { order: "three".into(), written_ms: 2_000, state }.save(&home).unwrap();
        remove_old(&home, 2_000 + RESULT_KEPT_MS).unwrap();
        assert!(Word::on(&home, "three").unwrap().is_some());
        let later = "{\"of\":\"a later version\"}";
        std::fs::write(folder.path().join("erase-result-four.json"), later).unwrap();
        remove_old(&home, 2_001 + RESULT_KEPT_MS).unwrap();
        // What was erased is known until somebody has filed it.
        let kept = ["erase-result-four.json", "erase-result-two.json", ORDER_FILE];
        assert_eq!(names(folder.path()), kept);
    }

    #[test]
    fn an_order_is_done_for_whoever_waits_once_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let home = Folder::private_at(folder.path());
        assert!(place(folder.path(), &order("one")).unwrap());
        let say = |state| {
            Word { order: "one".into(), written_ms: 1, state }.save(&home).unwrap();
        };
        let heard = || Word::to_whoever_waits(&home, "one").unwrap().map(|word| word.state);
        say(State::Running { done_bytes: 1, total_bytes: 2 });
        assert!(matches!(heard(), Some(State::Running { .. })));
        say(State::Done(Box::default()));
        assert!(heard().is_none(), "its file has the value still");
        remove_order(&home).unwrap();
        assert!(matches!(heard(), Some(State::Done(_))));
        assert!(place(folder.path(), &order("two")).unwrap());
        assert!(matches!(heard(), Some(State::Done(_))), "another order is another's");
    }

    #[test]
    fn why_an_order_cannot_be_read_is_told_without_its_values() {
        let folder = tempfile::tempdir().unwrap();
        let home = Folder::private_at(folder.path());
        let text = r#"{"version":1,"id":"x","ordered_ms":1,"selection":{"visitor":"Geheim"}}"#;
        std::fs::write(folder.path().join(ORDER_FILE), text).unwrap();
        let why = Order::pending(&home).unwrap_err().to_string();
        assert!(why.contains("line 1, column") && !why.contains("Geheim"), "{why}");
    }
}
