//! The time of the server: the system's clock, or one that a test moves.
//!
//! Nobody else asks for the time of day; everything behind the door is told it. The system's clock is
//! read steadily: it runs with the monotonic clock from the time of day at the start, and drifts back to
//! the time of day slowly, so that a step of the system's clock times nobody out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// A difference to the time of day is made up for by at most one part in this many of the time that
/// passes: an hour in four days. Nobody notices it in a time-out of ten minutes.
const DRIFT: u64 = 100;

/// A source of wall-clock time. Clones show the same time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System(Arc<System>),
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The system's clock, read steadily.
    pub fn system() -> Self {
        let (monotonic, wall_ms) = system_now();
        let steady = Mutex::new(Steady { ms: wall_ms, read_ms: 0 });
        Self(Source::System(Arc::new(System { started: monotonic, steady })))
    }

    /// A clock that stands at `now_ms` until [`Clock::advance`] moves it.
    pub fn manual(now_ms: u64) -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(now_ms))))
    }

    /// Milliseconds since the Unix epoch, UTC.
    pub fn now_ms(&self) -> u64 {
        match &self.0 {
            Source::System(system) => {
                let (monotonic, wall_ms) = system_now();
                let since_start = monotonic.saturating_duration_since(system.started);
                let monotonic_ms = u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX);
                system.steady.lock().read(monotonic_ms, wall_ms)
            }
            Source::Manual(now_ms) => now_ms.load(Ordering::Relaxed),
        }
    }

    /// Sees to it that the clock shows at least this, in ms since the Unix epoch: a machine that has lost
    /// the time of day must not stand still until that has caught up with the journal.
    pub fn not_before(&self, ms: u64) {
        match &self.0 {
            Source::System(system) => {
                let mut steady = system.steady.lock();
                steady.ms = steady.ms.max(ms);
            }
            Source::Manual(now_ms) => {
                now_ms.fetch_max(ms, Ordering::Relaxed);
            }
        }
    }

    /// Moves a manual clock forward; the system's clock stays as it is.
    pub fn advance(&self, by_ms: u64) {
        if let Source::Manual(now_ms) = &self.0 {
            now_ms.fetch_add(by_ms, Ordering::Relaxed);
        }
    }
}

/// Tells how long something takes, for those who watch; nothing is decided by it.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Begins to count.
    pub fn start() -> Self {
        Self(monotonic_now())
    }

    /// How long ago it began, in seconds.
    pub fn seconds(self) -> f64 {
        monotonic_now().saturating_duration_since(self.0).as_secs_f64()
    }
}

#[derive(Debug)]
struct System {
    started: Instant,
    steady: Mutex<Steady>,
}

/// A clock that never jumps.
#[derive(Debug)]
struct Steady {
    /// What it shows, in ms since the Unix epoch.
    ms: u64,
    /// When it was last moved, in ms of the monotonic clock.
    read_ms: u64,
}

impl Steady {
    /// The time, given the monotonic clock and the time of day.
    fn read(&mut self, monotonic_ms: u64, wall_ms: u64) -> u64 {
        let passed = monotonic_ms.saturating_sub(self.read_ms);
        // So short a time allows no drift yet; it is let add up.
        if passed < DRIFT {
            return self.ms + passed;
        }
        let straight = self.ms + passed;
        self.ms = wall_ms.clamp(straight - passed / DRIFT, straight + passed / DRIFT);
        self.read_ms = monotonic_ms;
        self.ms
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that asks")]
fn monotonic_now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that asks")]
fn system_now() -> (Instant, u64) {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (monotonic_now(), u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_the_time_of_day_is_made_up_for_slowly() {
        let mut steady = Steady { ms: 1_000_000, read_ms: 0 };
        assert_eq!(steady.read(1_000, 1_001_000), 1_001_000, "in step");
        // An hour forward: ten minutes later the clock has gained six seconds.
        assert_eq!(steady.read(601_000, 5_201_000), 1_607_000);
        // Back to the first day: it goes on, a little slower.
        assert_eq!(steady.read(1_201_000, 0), 2_201_000);
    }

    #[test]
    fn a_clock_behind_the_journal_goes_on_from_there() {
        let clock = Clock::system();
        let future = clock.now_ms() + 1_000_000;
        clock.not_before(future);
        assert!(clock.now_ms() >= future);
        clock.not_before(5);
        assert!(clock.now_ms() >= future);
    }

    #[test]
    fn it_never_falls_however_often_it_is_read() {
        let mut steady = Steady { ms: 1_000_000, read_ms: 0 };
        let mut last = 0;
        for monotonic_ms in 0..1_000 {
            let now = steady.read(monotonic_ms, 0);
            assert!(now >= last, "at {monotonic_ms}");
            last = now;
        }
        assert_eq!(last, 1_000_990);
    }
}
