//! What is to be erased, and what became of it: two files in the data folder.
//!
//! `erase.json` is the order. It is there from the moment it was given until everything is done, whoever
//! crashes in between. `erase-result.json` tells whoever gave it how far it is; nobody's data is in it.

use std::collections::BTreeMap;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use super::seek::{Described, Selection};
use crate::journal::disk::Disk;
use crate::journal::segment::{is_unfinished, unfinished_name};
use crate::session::id::SessionId;

/// The file of the order.
pub const ORDER_FILE: &str = "erase.json";

/// The file that tells what became of it.
pub const RESULT_FILE: &str = "erase-result.json";

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
    /// How many of the sessions there are any records of, or a line of a checkpoint.
    pub(super) sessions: u64,
    /// Their records by kind.
    pub(super) records: BTreeMap<String, u64>,
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
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// Whether it was interrupted and then finished: the figures of files are those of the last run.
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
    /// Segments that cannot be unpacked to their end: what stands there could not be searched.
    pub unreadable_segments: u64,
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
            io::Error::other(format!("{ORDER_FILE} is no order that this version knows: {why}"))
        };
        let order: Self =
            serde_json::from_slice(&bytes).map_err(|error| unknown(error.to_string()))?;
        if order.version != VERSION {
            return Err(unknown(format!("version {}", order.version)));
        }
        Ok(Some(order))
    }

    /// Puts it in the place of the one that is there.
    pub(super) fn save(&self, home: &dyn Disk) -> io::Result<()> {
        write_whole(home, ORDER_FILE, &self.to_json())
    }

    /// As it stands in its file.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text and numbers are JSON")
    }
}

impl Word {
    /// The last word on any order, if there is one.
    ///
    /// # Errors
    /// What the system says.
    pub fn last(home: &dyn Disk) -> io::Result<Option<Self>> {
        Ok(read(home, RESULT_FILE)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Puts it in the place of the one before.
    ///
    /// # Errors
    /// What the system says.
    pub fn save(&self, home: &dyn Disk) -> io::Result<()> {
        let json = serde_json::to_vec(self).expect("text and numbers are JSON");
        write_whole(home, RESULT_FILE, &json)
    }
}

/// Removes the order, now that it is done, and every half of one.
pub(super) fn remove_order(home: &dyn Disk) -> io::Result<()> {
    for (name, _) in home.list()? {
        let half = name.starts_with(ORDER_FILE) || name.starts_with(RESULT_FILE);
        if half && is_unfinished(&name) {
            home.remove(&name)?;
        }
    }
    home.remove(ORDER_FILE)
}

fn read(home: &dyn Disk, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut file = match home.open(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn write_whole(home: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let unfinished = unfinished_name(name);
    let mut file = home.create(&unfinished)?;
    file.append(bytes)?;
    file.sync()?;
    home.rename(&unfinished, name)
}
