//! The queue of large records: stored sessions, and the reports that are large.
//!
//! Single events and starts never wait behind it. It has a share of the room for itself, and the writer takes a
//! few MiB of it at a time. These are written once the small records that were taken with them are answered;
//! small records that come meanwhile wait for these few MiB, never for the rest. A record gets its number and its
//! time when it is taken, so what stays in the queue is behind every small record that comes meanwhile.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::record::Detached;
use super::{Committed, Unavailable};
use crate::processor::Change;
use crate::telemetry::ticket::{Fate, Ticket};

/// How many stored sessions wait at most, however small they are.
const STORED_MAX: usize = 256;

/// How much large reports may hold together; one is always taken. They come from the reporter alone, which
/// waits for its own.
const REPORT_BYTES_MAX: usize = 8 << 20;

/// How much of the queue is written in one group; one record is always taken.
const TAKEN_BYTES_MAX: usize = 4 << 20;

/// What waits, and how much it holds.
#[derive(Debug)]
pub(super) struct LargeQueue {
    waiting: VecDeque<Large>,
    stored: Share,
    reports: Share,
}

/// A record that waits to be taken.
#[derive(Debug)]
pub(super) struct Large {
    pub(super) record: Detached,
    pub(super) change: Change,
    pub(super) waiter: oneshot::Sender<Committed>,
    pub(super) ticket: Ticket,
}

/// A part of the room, which one record gets even if it is larger.
#[derive(Debug)]
struct Share {
    bytes_max: usize,
    /// Of records that wait or are being written.
    bytes: usize,
    /// Of those that are being written.
    bytes_taken: usize,
}

impl Share {
    fn of(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, bytes_taken: 0 }
    }

    fn fits(&self, bytes: usize) -> bool {
        self.bytes == 0 || self.bytes + bytes <= self.bytes_max
    }
}

impl Large {
    /// It is not committed, and never will be.
    pub(super) fn refuse(mut self, unavailable: Unavailable) {
        self.ticket.settle(Fate::Shed(unavailable.into()));
        // A client that has gone away does not want to know.
        let _ = self.waiter.send(Err(unavailable));
    }
}

impl LargeQueue {
    /// An empty queue, in which stored sessions may hold so many bytes.
    pub(super) fn new(stored_bytes_max: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            stored: Share::of(stored_bytes_max),
            reports: Share::of(REPORT_BYTES_MAX),
        }
    }

    /// Whether a record that holds so many bytes may wait here.
    pub(super) fn has_room_for(&self, change: &Change, bytes: usize) -> Result<(), Unavailable> {
        match change {
            Change::Batch { .. } => self.has_room_for_stored(bytes),
            _ if self.reports.fits(bytes) => Ok(()),
            _ => Err(Unavailable::Busy),
        }
    }

    /// Whether a stored session that holds so many bytes may.
    pub(super) fn has_room_for_stored(&self, bytes: usize) -> Result<(), Unavailable> {
        if self.waiting.len() < STORED_MAX && self.stored.fits(bytes) {
            Ok(())
        } else {
            Err(Unavailable::Stored)
        }
    }

    pub(super) fn push(&mut self, large: Large) {
        self.share(&large.change).bytes += large.record.held_bytes();
        self.waiting.push_back(large);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many bytes wait or are being written.
    pub(super) fn bytes(&self) -> usize {
        self.stored.bytes + self.reports.bytes
    }

    /// Takes the records that are written with the next group.
    pub(super) fn take(&mut self) -> Vec<Large> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(next) = self.waiting.front() {
            bytes += next.record.held_bytes();
            if !taken.is_empty() && bytes > TAKEN_BYTES_MAX {
                break;
            }
            let Some(next) = self.waiting.pop_front() else { break };
            self.share(&next.change).bytes_taken += next.record.held_bytes();
            taken.push(next);
        }
        taken
    }

    /// What was taken is not held any more.
    pub(super) fn release_taken(&mut self) {
        for share in [&mut self.stored, &mut self.reports] {
            share.bytes -= share.bytes_taken;
            share.bytes_taken = 0;
        }
    }

    /// Empties the queue.
    pub(super) fn drain(&mut self) -> VecDeque<Large> {
        for share in [&mut self.stored, &mut self.reports] {
            (share.bytes, share.bytes_taken) = (0, 0);
        }
        std::mem::take(&mut self.waiting)
    }

    fn share(&mut self, change: &Change) -> &mut Share {
        match change {
            Change::Batch { .. } => &mut self.stored,
            _ => &mut self.reports,
        }
    }
}
