//! Every session that has ended gets its report into the journal, once.
//!
//! The fold keeps a session that has ended until it folds its report, across restarts and checkpoints. So
//! whatever happens between the two, the report is still wanted afterwards, and written then; and once it
//! is there, none is wanted any more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::journal::record::{Content, Detached, Encoded, LARGE_BYTES, REPORT_BYTES_MAX, TooLong};
use crate::journal::{Committed, Journal, Unavailable};
use crate::live::Live;
use crate::processor::{Change, Outcome};
use crate::report::Report;
use crate::session::id::SessionId;
use crate::telemetry::ticket::Ticket;

/// How many reports are written in one go: players who wait to be written must not wait long.
const AT_ONCE: usize = 256;

/// How many bytes of them, so that large ones, which are whole in memory, are few; one is always written.
const BYTES_AT_ONCE: usize = 4 << 20;

/// How long to rest when nothing can be written.
const RETRY: Duration = Duration::from_millis(100);

/// Writes reports.
#[derive(Debug)]
pub struct Reporter {
    live: Arc<Live>,
    journal: Journal,
    /// Tells of sessions that end.
    ended: Receiver<SessionId>,
    /// Whose reports are to be written, each once.
    wanted: VecDeque<SessionId>,
}

impl Reporter {
    /// A reporter on the sessions of `live`, whose ends `ended` tells from now on. To be made before the
    /// journal is written, so that no session is wanted twice.
    pub fn new(live: Arc<Live>, journal: Journal, ended: Receiver<SessionId>) -> Self {
        let wanted = VecDeque::from(live.unreported_ids());
        Self { live, journal, ended, wanted }
    }

    /// Writes the reports that are still wanted, then those of sessions that end, until the journal is
    /// closed. What is left then the next start writes.
    pub fn run(mut self) {
        loop {
            if self.wanted.is_empty() {
                match self.ended.recv() {
                    Ok(id) => self.wanted.push_back(id),
                    Err(_) => return,
                }
            }
            self.wanted.extend(self.ended.try_iter());
            match self.report() {
                Ok(()) => {}
                Err(Unavailable::Closed) => return,
                Err(Unavailable::Disk | Unavailable::Busy | Unavailable::Stored) => {
                    thread::sleep(RETRY);
                }
            }
        }
    }

    /// Hands over a report; a large one is not copied, and nothing small waits behind it.
    fn append(
        &self,
        id: SessionId,
        report: Vec<u8>,
    ) -> Result<oneshot::Receiver<Committed>, Unavailable> {
        const FITS: &str = "it was made no longer than what a line has room for";
        let change = Change::Report { id };
        if report.len() < LARGE_BYTES {
            let record = encoded(id, report).expect(FITS);
            return self.journal.append(&record, change);
        }
        let record = Detached::report(id, report).expect(FITS);
        self.journal.append_large(&mut Ticket::default(), record, change)
    }

    /// Writes some of the reports that are wanted; those that cannot be written stay wanted.
    fn report(&mut self) -> Result<(), Unavailable> {
        let mut result = Ok(());
        let (mut appended, mut bytes) = (Vec::new(), 0);
        for _ in 0..self.wanted.len().min(AT_ONCE) {
            if bytes >= BYTES_AT_ONCE {
                break;
            }
            let Some(id) = self.wanted.pop_front() else { break };
            let Some(session) = self.live.ended(id) else { continue };
            let report = Report::of(id, &session).to_json(REPORT_BYTES_MAX);
            bytes += report.len();
            match self.append(id, report) {
                Ok(committed) => appended.push((id, committed)),
                Err(unavailable) => {
                    self.wanted.push_front(id);
                    result = Err(unavailable);
                    break;
                }
            }
        }
        for (id, committed) in appended {
            match committed.blocking_recv() {
                // One whose session was erased meanwhile is not wanted any more.
                Ok(Ok(Outcome::Reported | Outcome::Gone)) => {}
                Ok(Ok(outcome)) => tracing::error!(?outcome, "a report was written twice"),
                Ok(Err(unavailable)) => {
                    self.wanted.push_back(id);
                    result = Err(unavailable);
                }
                Err(_) => return Err(Unavailable::Closed),
            }
        }
        result
    }
}

/// The record of a report.
#[cfg(test)]
pub(crate) fn record_of(id: SessionId, report: Report<'_>) -> Encoded<'static> {
    encoded(id, report.to_json(REPORT_BYTES_MAX)).unwrap()
}

fn encoded(id: SessionId, report: Vec<u8>) -> Result<Encoded<'static>, TooLong> {
    Encoded::new(Content::Report { sid: id, report: report.into() })
}
