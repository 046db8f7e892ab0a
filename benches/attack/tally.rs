//! How an attack was answered, and what it sent.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

/// What became of a request or of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Answer {
    /// It was answered with this status.
    Status(u16),
    /// The connection was closed without an answer.
    Closed,
    /// The HTTP/2 stream was reset.
    Reset,
    /// There was no connection to be had.
    NoConnection,
    /// There was no answer in time.
    Nothing,
    /// The connection is held open to the end.
    Held,
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(formatter, "{status}"),
            Self::Closed => formatter.write_str("closed"),
            Self::Reset => formatter.write_str("reset"),
            Self::NoConnection => formatter.write_str("no connection"),
            Self::Nothing => formatter.write_str("no answer"),
            Self::Held => formatter.write_str("held open"),
        }
    }
}

/// How often each answer came.
#[derive(Debug, Default)]
pub(crate) struct Histogram(Mutex<BTreeMap<Answer, u64>>);

impl Histogram {
    pub(crate) fn add(&self, answer: Answer) {
        *self.0.lock().entry(answer).or_default() += 1;
    }

    /// How many there were, and how many of them for which this is true.
    pub(crate) fn count(&self, is_it: impl Fn(Answer) -> bool) -> (u64, u64) {
        let counts = self.0.lock();
        let chosen = counts.iter().filter(|(answer, _)| is_it(**answer)).map(|(_, count)| count);
        (counts.values().sum(), chosen.sum())
    }
}

impl fmt::Display for Histogram {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.0.lock();
        if counts.is_empty() {
            return formatter.write_str("none");
        }
        for (place, (answer, count)) in counts.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(formatter, "{comma}{answer} × {count}")?;
        }
        Ok(())
    }
}

/// What is counted during an attack.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// The bytes that attackers wrote.
    pub(crate) uploaded: AtomicU64,
    /// The largest body of an answer to them.
    pub(crate) largest_answer: AtomicUsize,
    /// How they were answered.
    pub(crate) answers: Histogram,
    /// What else must work for others meanwhile, such as health checks.
    pub(crate) checks: Mutex<Vec<Check>>,
}

/// Something that must work for others.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) what: &'static str,
    pub(crate) asked: u64,
    pub(crate) failed: u64,
}

impl Tally {
    pub(crate) fn sent(&self, bytes: usize) {
        self.uploaded.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn answered(&self, answer: Answer, body_bytes: usize) {
        self.largest_answer.fetch_max(body_bytes, Ordering::Relaxed);
        self.answers.add(answer);
    }
}
