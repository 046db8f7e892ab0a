//! How far whoever carries out an order is, beside it in the data folder: the next one goes on where it stood.
//!
//! ```text
//! sessions are looked for     searched_to_seq ──▶    ids: those found so far
//! they stand in the order
//! segments are cleaned        clean_to_seq ──▶       rewriting: what was in the one that is written anew now
//! ```
//! What was counted is written before the first of it is removed, so it is counted once, whoever crashes. It is
//! written now and then, and a crash in between repeats what came since. One that cannot be read is begun anew:
//! everything that was removed stays removed.

use std::collections::BTreeSet;
use std::io;

use serde::{Deserialize, Serialize};

use super::order::Evidence;
use super::sweep::Look;
use crate::journal::disk::{Disk, unless_missing, write_whole};
use crate::session::id::SessionId;

/// The file. Its name begins as that of the order, so that no backup takes it.
pub(super) const PROGRESS_FILE: &str = "erase.json.progress";

/// After how many bytes of segments it is written again, and how many times its own size that is at least.
const SAVE_BYTES: u64 = 4 << 20;
const SAVE_TIMES: u64 = 8;

/// How many bytes an id takes in it.
const ID_BYTES: u64 = 67;

/// How far an order is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Which order.
    order: String,
    /// Segments that begin before this number are searched.
    pub(super) searched_to_seq: u64,
    /// The sessions that were found so far; none once they stand in the order.
    pub(super) ids: BTreeSet<SessionId>,
    /// Segments that begin before this number are clean.
    pub(super) clean_to_seq: u64,
    /// The segment that is written anew.
    pub(super) rewriting: Option<Rewriting>,
    /// Of sessions that were ordered by their ids, those that were there.
    pub(super) seen: BTreeSet<SessionId>,
    /// The figures so far.
    pub(super) evidence: Evidence,
    /// How many bytes of segments were gone through since it was written.
    #[serde(skip)]
    unsaved_bytes: u64,
}

/// A segment that is written anew, as it was before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Rewriting {
    pub(super) first_seq: u64,
    pub(super) bytes: u64,
    pub(super) look: Look,
}

impl Progress {
    /// That of an order, if there is any.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn of(home: &dyn Disk, order: &str) -> io::Result<Option<Self>> {
        let Some(mut file) = unless_missing(home.open(PROGRESS_FILE))? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let progress = serde_json::from_slice::<Self>(&bytes).ok();
        Ok(progress.filter(|progress| progress.order == order))
    }

    /// An order that nobody has begun.
    pub(super) fn begin(order: &str) -> Self {
        Self { order: order.to_owned(), ..Self::default() }
    }

    /// Writes it.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn save(&mut self, home: &dyn Disk) -> io::Result<()> {
        let json = serde_json::to_vec(self).expect("text and numbers are JSON");
        write_whole(home, PROGRESS_FILE, |file| file.append(&json))?;
        self.unsaved_bytes = 0;
        Ok(())
    }

    /// Notes that so many bytes of segments more were gone through, and writes it if that is worth it.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn went_through(&mut self, home: &dyn Disk, bytes: u64) -> io::Result<()> {
        self.unsaved_bytes += bytes;
        let size = (self.ids.len() + self.seen.len()) as u64 * ID_BYTES;
        if self.unsaved_bytes < SAVE_BYTES.max(SAVE_TIMES * size) {
            return Ok(());
        }
        self.save(home)
    }

    /// Removes it, whichever order it is of.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn remove(home: &dyn Disk) -> io::Result<()> {
        unless_missing(home.remove(PROGRESS_FILE)).map(drop)
    }
}
