//! What becomes of a connection, decided from its traffic and the time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::traffic::{Activity, Traffic};
use super::{FIRST_BYTE_WAIT, Settings, Shared, Stage};
use crate::telemetry::labels::Dropped;

/// What is to be done with a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    GoOn,
    /// Read its socket once more, whatever the poller knows of it, and look again.
    ReadOnce,
    /// Finish what has begun, then end it.
    Close,
    /// End it here and now.
    Drop,
    /// So too, for what its peer does.
    DropFor(Dropped),
}

/// Decides what becomes of one connection, from its traffic and the time.
pub(super) struct Watcher<'c> {
    settings: &'c Settings,
    traffic: &'c Traffic,
    age_max: Duration,
    closing_since: Option<Instant>,
}

impl<'c> Watcher<'c> {
    pub(super) fn new(shared: &'c Shared, traffic: &'c Traffic) -> Self {
        // Connections that were opened together, after a restart, should not end together.
        let jitter = rand::random_range(0.9..1.1);
        let age_max = shared.settings.connection_age_max.mul_f64(jitter);
        Self { settings: &shared.settings, traffic, age_max, closing_since: None }
    }

    pub(super) fn look(&mut self, now: Instant, stage: Stage) -> Verdict {
        let traffic = self.traffic;
        if let Some(why) = traffic.must_go() {
            return Verdict::DropFor(why);
        }
        let is_late = |since| now >= since + self.settings.answer_timeout;
        if traffic.unread_since().is_some_and(is_late) {
            return Verdict::DropFor(Dropped::Answers);
        }
        let aged = now.saturating_duration_since(traffic.opened) >= self.age_max;
        if aged || stage != Stage::Open {
            traffic.last_answer.store(true, Ordering::Relaxed);
        }
        let http2 = traffic.http2.load(Ordering::Relaxed);
        let fresh = traffic.is_fresh();
        // An HTTP/1.1 connection is told by its next answer, because a player may be sending its next
        // request at this very moment; HTTP/2 has a polite way to leave at any time.
        let asked_to_leave = http2 && !fresh && (aged || stage != Stage::Open);
        let idle_for = match traffic.activity() {
            Activity::Answering => {
                return self.close_if(asked_to_leave || stage == Stage::Draining, now);
            }
            Activity::Head { since } if !http2 => {
                let late = now >= since + self.settings.header_timeout;
                return if late { Verdict::Drop } else { Verdict::GoOn };
            }
            Activity::Head { since } | Activity::Idle { since } => {
                now.saturating_duration_since(since)
            }
        };
        if let Some(since) = self.closing_since {
            // The peer takes neither the rest of its answer nor the hint to leave.
            let late = now >= since + self.settings.header_timeout;
            return if late { Verdict::Drop } else { Verdict::GoOn };
        }
        let idle_max = match stage {
            Stage::Draining if fresh => FIRST_BYTE_WAIT.min(self.settings.header_timeout),
            Stage::Draining => Duration::ZERO,
            _ if fresh => self.settings.header_timeout,
            _ => self.settings.keep_alive,
        };
        if idle_for < idle_max && !asked_to_leave {
            return Verdict::GoOn;
        }
        if !http2 && !self.traffic.looked_again.swap(true, Ordering::Relaxed) {
            return Verdict::ReadOnce;
        }
        if fresh && !http2 { Verdict::Drop } else { self.close_if(true, now) }
    }

    fn close_if(&mut self, closes: bool, now: Instant) -> Verdict {
        if !closes || self.closing_since.is_some() {
            return Verdict::GoOn;
        }
        self.closing_since = Some(now);
        Verdict::Close
    }

    /// When to look again if nothing happens before. A head that comes slowly is found within half
    /// its time-out, without a timer to be moved for each request.
    pub(super) fn next_look(&self, now: Instant) -> Instant {
        if self.traffic.read_directly.load(Ordering::Relaxed) {
            return now;
        }
        let often = self.settings.header_timeout.min(self.settings.answer_timeout) / 2;
        let often = often.max(Duration::from_millis(10));
        let draining = self.traffic.last_answer.load(Ordering::Relaxed) && self.traffic.is_fresh();
        now + if draining { often.min(FIRST_BYTE_WAIT) } else { often }
    }
}
