//! The time of the server: the system's clock, or one that a test moves.
//!
//! Nobody else asks for the time of day; everything behind the door is told it. Two times are told:
//!
//! - [`Clock::now_ms`] is the time that records are stamped with. It runs with the monotonic clock from the time of
//!   day at the start, never begins before the last record of the journal, and drifts to the time of day slowly, so
//!   that a step of the system's clock times nobody out.
//! - [`Clock::elapsed_ms`] counts on, whatever the time of day does. Whoever measures how long something lasts, or
//!   decides what is due next, asks for that.
//!
//! # A time of day that is wrong by hours
//! A machine may start with a wrong time of day until somebody sets it right, it may sleep, and a journal may come
//! from a machine whose clock was wrong. None of these can be told from the others at once, so:
//!
//! - At the start the time of day is believed, because a machine that was off for weeks is the usual case, and
//!   stamps must be right then. Only if it is behind the journal, stamps go on from there.
//! - What is more than [`STEP_MS`] away from the time of day does not drift there, which would take weeks: once the
//!   time of day has held for a while, the stamps [step](Clock::step) to it. The record of a step says how far it
//!   was, so deadlines, which run on up time, do not see it. A step back is the one place where stamps fall.
//! - Forward they step after [`FORWARD_AFTER_MS`]. Back they step after the same time if that takes back a leap that
//!   is still [in doubt](Clock::sure_ms), and else after [`BACK_AFTER_MS`]: a time of day behind a journal that
//!   nobody doubts is more likely to be wrong itself. They never step to a time before [`EARLIEST_MS`].
//! - Nothing is removed because of a leap forward until the server was up for [`DOUBT_MS`] after it: see
//!   [`Clock::sure_ms`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// A difference to the time of day is made up for by at most one part in this many of the time that
/// passes: an hour in four days. Nobody notices it in a time-out of ten minutes.
const DRIFT: u64 = 100;

/// A difference to the time of day beyond this is a fault, a sleep or an end of one, and no drift of a clock. Less
/// is made up for by drifting, within 25 days; and what is kept by age is kept for days, so it does not matter there.
pub const STEP_MS: u64 = 6 * 3_600_000;

/// How long the time of day must hold before stamps step forward to it, or take back a leap that is in doubt: a
/// clock that is being set is set once more within seconds.
pub const FORWARD_AFTER_MS: u64 = 60_000;

/// How long it must hold before stamps that nobody doubts step back.
pub const BACK_AFTER_MS: u64 = 3_600_000;

/// For how long the server must have been up after a leap forward before it counts as real. A wrong clock is set
/// right when the network is there, within minutes.
pub const DOUBT_MS: u64 = 3_600_000;

/// A time of day before this, 2026-01-01, is wrong for certain, because no server had these steps then.
pub const EARLIEST_MS: u64 = 1_767_225_600_000;

/// While the time of day holds, it is never further than this from where it was expected.
const HOLDS_WITHIN_MS: u64 = 60_000;

/// The end of the year 9999, in ms since the Unix epoch: later times cannot be written in words.
pub(crate) const LATEST_MS: u64 = 253_402_300_799_999;

/// A process that was not seen to run for longer stood still, in ms. One that is only held up by its machine or its disk
/// is seen more often.
const STANDSTILL_MS: u64 = 5_000;

/// A source of wall-clock time. Clones show the same time.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Source,
    /// How much of the time that is shown is in doubt, in ms.
    doubted_ms: AtomicU64,
    /// When the process was last seen to run, in ms that have passed; of a test, for how long it stood still.
    seen_ms: AtomicU64,
}

#[derive(Debug)]
enum Source {
    System(Duration, Mutex<Steady>),
    Simulated(Mutex<Simulated>, Mutex<Steady>),
    Manual(AtomicU64),
}

/// A machine whose clock a test sets.
#[derive(Debug)]
struct Simulated {
    monotonic_ms: u64,
    wall_ms: u64,
}

impl Clock {
    /// The system's clock, read steadily. All of its time is in doubt until somebody [says](Clock::doubt) how much.
    pub fn system() -> Self {
        let (started, wall_ms) = system_now();
        Self::of(Source::System(started, Mutex::new(Steady::at(wall_ms))), u64::MAX)
    }

    /// A clock like the system's on a machine whose time of day is `wall_ms`, which stands still until
    /// [`Clock::advance`] moves it, and is set by [`Clock::set_wall`].
    pub fn simulated(wall_ms: u64) -> Self {
        let machine = Mutex::new(Simulated { monotonic_ms: 0, wall_ms });
        Self::of(Source::Simulated(machine, Mutex::new(Steady::at(wall_ms))), u64::MAX)
    }

    /// A clock that stands at `now_ms` until [`Clock::advance`] moves it. Nobody doubts it.
    pub fn manual(now_ms: u64) -> Self {
        Self::of(Source::Manual(AtomicU64::new(now_ms)), 0)
    }

    fn of(source: Source, doubted_ms: u64) -> Self {
        let (doubted_ms, seen_ms) = (AtomicU64::new(doubted_ms), AtomicU64::new(0));
        Self(Arc::new(Inner { source, doubted_ms, seen_ms }))
    }

    /// Milliseconds since the Unix epoch, UTC, as records are stamped. It falls at a [step](Clock::step) back alone.
    pub fn now_ms(&self) -> u64 {
        match self.read() {
            Reading::Of { monotonic_ms, wall_ms, steady } => {
                steady.lock().read(monotonic_ms, wall_ms)
            }
            Reading::Manual(now_ms) => now_ms,
        }
    }

    /// Milliseconds that pass whatever the time of day does. They count from somewhere.
    pub fn elapsed_ms(&self) -> u64 {
        match self.read() {
            Reading::Of { monotonic_ms, .. } => monotonic_ms,
            Reading::Manual(now_ms) => now_ms,
        }
    }

    /// The time of day of the machine, right or wrong, in ms since the Unix epoch.
    pub fn wall_ms(&self) -> u64 {
        match self.read() {
            Reading::Of { wall_ms, .. } => wall_ms,
            Reading::Manual(now_ms) => now_ms,
        }
    }

    /// The time that it is at least, in ms since the Unix epoch: the earlier of the time of day and that of records,
    /// less all that is in doubt. Before anybody has said how much that is, it is 0. What is removed by its age is
    /// removed by this.
    pub fn sure_ms(&self) -> u64 {
        self.now_ms().min(self.wall_ms()).saturating_sub(self.0.doubted_ms.load(Ordering::Relaxed))
    }

    /// Says how much of the time is in doubt, in ms.
    pub fn doubt(&self, doubted_ms: u64) {
        self.0.doubted_ms.store(doubted_ms, Ordering::Relaxed);
    }

    /// How much of the time is in doubt, in ms.
    pub fn doubted_ms(&self) -> u64 {
        self.0.doubted_ms.load(Ordering::Relaxed)
    }

    /// By how much the time of day is ahead of the time that records are stamped with, in ms.
    pub fn off_ms(&self) -> i64 {
        let (wall_ms, now_ms) = (self.wall_ms(), self.now_ms());
        difference(wall_ms, now_ms)
    }

    /// Sees to it that the clock shows at least this, in ms since the Unix epoch: a machine that has lost
    /// the time of day must not stand still until that has caught up with the journal.
    pub fn not_before(&self, ms: u64) {
        match &self.0.source {
            Source::System(_, steady) | Source::Simulated(_, steady) => {
                let mut steady = steady.lock();
                steady.ms = steady.ms.max(ms);
            }
            Source::Manual(now_ms) => {
                now_ms.fetch_max(ms, Ordering::Relaxed);
            }
        }
    }

    /// Steps to the time of day, if that is too far away to drift there and has held for long enough. Gives the time
    /// that was shown before. To be asked at least every few seconds.
    pub fn step(&self) -> Option<u64> {
        let Reading::Of { monotonic_ms, wall_ms, steady } = self.read() else { return None };
        let mut steady = steady.lock();
        let from_ms = steady.step(monotonic_ms, wall_ms, self.doubted_ms())?;
        // Nobody sees the new time without the doubt in it, before its record is folded.
        self.doubt(self.doubted_ms().saturating_add(steady.ms.saturating_sub(from_ms)));
        Some(from_ms)
    }

    /// The time of [`Clock::now_ms`], and whether the process stood still since this was last asked: it was stopped, or
    /// its machine was paused or asleep. There is one caller, who asks at least twice a second, and decides nothing by
    /// that time before it has noted the standstill.
    pub fn tick(&self) -> (u64, bool) {
        let seen_ms = &self.0.seen_ms;
        match self.read() {
            Reading::Of { monotonic_ms, wall_ms, steady } => {
                let now_ms = steady.lock().read(monotonic_ms, wall_ms);
                let stood_still = if matches!(self.0.source, Source::System(..)) {
                    let before_ms = seen_ms.swap(monotonic_ms, Ordering::Relaxed);
                    monotonic_ms.saturating_sub(before_ms) > STANDSTILL_MS
                } else {
                    seen_ms.swap(0, Ordering::Relaxed) > 0
                };
                (now_ms, stood_still)
            }
            Reading::Manual(now_ms) => (now_ms, seen_ms.swap(0, Ordering::Relaxed) > 0),
        }
    }

    /// Lets the process of a test stand still for so long.
    pub fn stand_still(&self, for_ms: u64) {
        self.advance(for_ms);
        self.0.seen_ms.fetch_add(for_ms, Ordering::Relaxed);
    }

    /// Moves the clock of a test forward; the system's clock stays as it is.
    pub fn advance(&self, by_ms: u64) {
        match &self.0.source {
            Source::System(..) => {}
            Source::Simulated(machine, _) => {
                let mut machine = machine.lock();
                machine.monotonic_ms += by_ms;
                machine.wall_ms += by_ms;
            }
            Source::Manual(now_ms) => {
                now_ms.fetch_add(by_ms, Ordering::Relaxed);
            }
        }
    }

    /// Sets the time of day of a simulated machine, in ms since the Unix epoch.
    pub fn set_wall(&self, wall_ms: u64) {
        if let Source::Simulated(machine, _) = &self.0.source {
            machine.lock().wall_ms = wall_ms;
        }
    }

    fn read(&self) -> Reading<'_> {
        match &self.0.source {
            Source::System(started, steady) => {
                let (passed, wall_ms) = system_now();
                let since_start = passed.saturating_sub(*started);
                let monotonic_ms = u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX);
                Reading::Of { monotonic_ms, wall_ms, steady }
            }
            Source::Simulated(machine, steady) => {
                let Simulated { monotonic_ms, wall_ms } = *machine.lock();
                Reading::Of { monotonic_ms, wall_ms, steady }
            }
            Source::Manual(now_ms) => Reading::Manual(now_ms.load(Ordering::Relaxed)),
        }
    }
}

/// One look at a clock.
enum Reading<'c> {
    /// What a machine shows.
    Of { monotonic_ms: u64, wall_ms: u64, steady: &'c Mutex<Steady> },
    /// What a test says.
    Manual(u64),
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

/// A clock that jumps nowhere but in a step.
#[derive(Debug)]
struct Steady {
    /// What it shows, in ms since the Unix epoch.
    ms: u64,
    /// When it was last moved, in ms of the monotonic clock.
    read_ms: u64,
    /// Since when the time of day is too far away to drift there.
    far: Option<Far>,
}

#[derive(Clone, Copy, Debug)]
struct Far {
    /// In ms of the monotonic clock.
    since_ms: u64,
    /// What the time of day was then, in ms since the Unix epoch.
    wall_ms: u64,
}

impl Steady {
    fn at(ms: u64) -> Self {
        Self { ms, read_ms: 0, far: None }
    }

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

    /// See [`Clock::step`].
    fn step(&mut self, monotonic_ms: u64, wall_ms: u64, doubted_ms: u64) -> Option<u64> {
        let now_ms = self.read(monotonic_ms, wall_ms);
        if now_ms.abs_diff(wall_ms) <= STEP_MS || wall_ms < EARLIEST_MS {
            self.far = None;
            return None;
        }
        let held_ms = |far: &Far| monotonic_ms.saturating_sub(far.since_ms);
        let holds = |far: &Far| {
            wall_ms.abs_diff(far.wall_ms.saturating_add(held_ms(far))) <= HOLDS_WITHIN_MS
        };
        let far = *self
            .far
            .take_if(|far| holds(far))
            .get_or_insert(Far { since_ms: monotonic_ms, wall_ms });
        self.far = Some(far);
        let is_doubted = now_ms.saturating_sub(wall_ms) <= doubted_ms.saturating_add(STEP_MS);
        let is_back_undoubted = wall_ms < now_ms && (doubted_ms == 0 || !is_doubted);
        let after_ms = if is_back_undoubted { BACK_AFTER_MS } else { FORWARD_AFTER_MS };
        if held_ms(&far) < after_ms {
            return None;
        }
        (self.ms, self.read_ms, self.far) = (wall_ms, monotonic_ms, None);
        Some(now_ms)
    }
}

fn difference(a: u64, b: u64) -> i64 {
    let apart = i64::try_from(a.abs_diff(b)).unwrap_or(i64::MAX);
    if a < b { -apart } else { apart }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that asks")]
fn monotonic_now() -> Instant {
    Instant::now()
}

/// The time that has passed since some instant, and the time of day in ms since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "this is the one place that asks")]
fn system_now() -> (Duration, u64) {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (passed(), u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// The time that has passed, also while the machine slept.
fn passed() -> Duration {
    // Elsewhere than on Linux a sleep is no time that passes.
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    Duration::new(tv_sec.try_into().unwrap_or(0), tv_nsec.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 24 * 3_600_000;

    /// In the years in which this runs.
    const TODAY_MS: u64 = EARLIEST_MS + 300 * DAY_MS;

    #[test]
    fn a_step_of_the_time_of_day_is_made_up_for_slowly() {
        let mut steady = Steady::at(1_000_000);
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
        let mut steady = Steady::at(1_000_000);
        let mut last = 0;
        for monotonic_ms in 0..1_000 {
            let now = steady.read(monotonic_ms, 0);
            assert!(now >= last, "at {monotonic_ms}");
            last = now;
        }
        assert_eq!(last, 1_000_990);
    }

    /// Lets time pass as a server does that looks twice a second; gives after how many ms it stepped.
    fn steps_after(clock: &Clock, within_ms: u64) -> Option<u64> {
        (0..within_ms / 500).find_map(|look| {
            clock.advance(500);
            clock.step().map(|_| (look + 1) * 500)
        })
    }

    #[test]
    fn a_step_of_hours_is_followed_once_the_time_of_day_holds() {
        let clock = Clock::simulated(TODAY_MS);
        clock.doubt(0);
        clock.set_wall(TODAY_MS + STEP_MS);
        assert_eq!(steps_after(&clock, DAY_MS / 24), None, "this is drifted to");
        // The machine slept for ten hours.
        clock.set_wall(clock.wall_ms() + 4 * 3_600_000);
        let before_ms = clock.now_ms();
        assert_eq!(steps_after(&clock, DAY_MS), Some(FORWARD_AFTER_MS + 500));
        assert_eq!(clock.now_ms(), clock.wall_ms());
        assert!(clock.now_ms() > before_ms + STEP_MS);
        assert_eq!(steps_after(&clock, DAY_MS), None, "it is there");
    }

    #[test]
    fn a_time_of_day_that_does_not_hold_is_not_followed() {
        let clock = Clock::simulated(TODAY_MS);
        clock.doubt(0);
        for _ in 0..20 {
            clock.set_wall(clock.wall_ms() + DAY_MS);
            assert_eq!(steps_after(&clock, FORWARD_AFTER_MS), None);
        }
        clock.set_wall(TODAY_MS);
        assert_eq!(steps_after(&clock, DAY_MS), None, "it was set right in time");
    }

    #[test]
    fn a_leap_in_doubt_is_taken_back_soon_and_one_that_nobody_doubts_late() {
        for (doubted_ms, after_ms) in [
            (40 * DAY_MS, FORWARD_AFTER_MS),
            (39 * DAY_MS + 20 * 3_600_000, FORWARD_AFTER_MS),
            (30 * DAY_MS, BACK_AFTER_MS),
            (0, BACK_AFTER_MS),
        ] {
            let clock = Clock::simulated(TODAY_MS + 40 * DAY_MS);
            clock.doubt(doubted_ms);
            clock.set_wall(TODAY_MS);
            assert_eq!(steps_after(&clock, DAY_MS), Some(after_ms + 500), "{doubted_ms}");
            assert_eq!(clock.now_ms(), clock.wall_ms());
        }
    }

    #[test]
    fn a_time_of_day_that_is_wrong_for_certain_is_not_followed() {
        let clock = Clock::simulated(1_000);
        clock.not_before(TODAY_MS);
        clock.doubt(0);
        assert_eq!(steps_after(&clock, DAY_MS), None);
        assert!(clock.now_ms() >= TODAY_MS + DAY_MS - DAY_MS / DRIFT, "it goes on");
    }

    #[test]
    fn what_is_sure_is_neither_in_doubt_nor_ahead_of_either_clock() {
        let clock = Clock::simulated(TODAY_MS);
        assert_eq!(clock.sure_ms(), 0, "nobody has said yet what is in doubt");
        clock.doubt(5);
        assert_eq!(clock.sure_ms(), TODAY_MS - 5);
        clock.set_wall(TODAY_MS + DAY_MS);
        assert_eq!((clock.sure_ms(), clock.off_ms()), (TODAY_MS - 5, 24 * 3_600_000));
        clock.set_wall(TODAY_MS - DAY_MS);
        assert_eq!(clock.sure_ms(), TODAY_MS - DAY_MS - 5);
        assert_eq!(clock.elapsed_ms(), 0);
    }
}
