//! Whether one client sends most of the requests, which is what a proxy looks like that is not in
//! `http.trusted_proxies`.
//!
//! One minute finds the only client that may have sent more than half (a majority vote, which keeps one candidate);
//! the next one counts what that client sends. So nothing is kept of anybody else, however many there are.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::memory::Client;
use crate::clock::Clock;

/// How long requests are counted, in ms.
const WINDOW_MS: u64 = 60_000;

/// With fewer requests in a window, one client is often most of the traffic.
const REQUESTS_MIN: u32 = 600;

/// The clock is read once for so many requests.
const CLOCK_EVERY: u32 = 32;

/// Warnings of one sort are at least so far apart, in ms.
const WARNING_MS: u64 = 3_600_000;

/// Watches who sends the requests.
#[derive(Debug)]
pub struct Concentration {
    clock: Clock,
    window: Mutex<Window>,
    /// The part of the requests that the largest client sent, in thousandths, if it is more than half.
    largest_permille: AtomicU64,
    /// Requests in which somebody who is not trusted names another client.
    untrusted: AtomicU64,
    warned_untrusted_ms: AtomicU64,
    warned_largest_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct Window {
    began_ms: u64,
    total: u32,
    /// The client that may have sent more than half of this window, and by how much it leads.
    candidate: Option<IpAddr>,
    lead: u32,
    /// The candidate of the window before, and what it sent in this one.
    suspect: Option<IpAddr>,
    of_suspect: u32,
}

impl Window {
    fn count(&mut self, address: IpAddr) {
        self.total += 1;
        self.of_suspect += u32::from(self.suspect == Some(address));
        if self.candidate == Some(address) {
            self.lead += 1;
        } else if self.lead == 0 {
            (self.candidate, self.lead) = (Some(address), 1);
        } else {
            self.lead -= 1;
        }
    }
}

impl Concentration {
    /// Watches from now on.
    pub fn new(clock: &Clock) -> Self {
        Self {
            clock: clock.clone(),
            window: Mutex::new(Window { began_ms: clock.elapsed_ms(), ..Window::default() }),
            largest_permille: AtomicU64::new(0),
            untrusted: AtomicU64::new(0),
            warned_untrusted_ms: AtomicU64::new(0),
            warned_largest_ms: AtomicU64::new(0),
        }
    }

    /// Counts a request of a client. Gives the client and its part in thousandths where the operator should hear of
    /// it: at most once an hour.
    pub fn count(&self, client: &Client) -> Option<(IpAddr, u64)> {
        // A request that finds somebody else counting is not counted: a part of them is enough.
        let mut window = self.window.try_lock()?;
        window.count(client.address());
        if !window.total.is_multiple_of(CLOCK_EVERY) {
            return None;
        }
        let now_ms = self.clock.elapsed_ms();
        if now_ms < window.began_ms.saturating_add(WINDOW_MS) {
            return None;
        }
        let next = Window { began_ms: now_ms, suspect: window.candidate, ..Window::default() };
        let Window { total, suspect, of_suspect, .. } = std::mem::replace(&mut *window, next);
        drop(window);
        let permille = u64::from(of_suspect) * 1_000 / u64::from(total.max(1));
        let is_most = total >= REQUESTS_MIN && permille > 500;
        self.largest_permille.store(if is_most { permille } else { 0 }, Ordering::Relaxed);
        let address = suspect.filter(|_| is_most)?;
        is_due(&self.warned_largest_ms, now_ms).then_some((address, permille))
    }

    /// Counts a request in which somebody who is not trusted names another client. Says whether the operator should
    /// hear of it: at most once an hour.
    pub fn count_untrusted(&self) -> bool {
        self.untrusted.fetch_add(1, Ordering::Relaxed);
        is_due(&self.warned_untrusted_ms, self.clock.elapsed_ms())
    }

    /// The part of the requests that the largest client sent in the last minute; 0 if it is not more than half, or
    /// there were few.
    pub fn largest_ratio(&self) -> f64 {
        let permille = self.largest_permille.load(Ordering::Relaxed);
        f64::from(u32::try_from(permille).unwrap_or(u32::MAX)) / 1_000.0
    }

    /// In how many requests somebody who is not trusted named another client.
    pub fn untrusted(&self) -> u64 {
        self.untrusted.load(Ordering::Relaxed)
    }
}

/// Whether a warning is due, which then counts as given.
fn is_due(warned_ms: &AtomicU64, now_ms: u64) -> bool {
    let before = warned_ms.load(Ordering::Relaxed);
    (before == 0 || now_ms >= before.saturating_add(WARNING_MS))
        && warned_ms
            .compare_exchange(before, now_ms.max(1), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::*;
    use crate::size::Size;

    #[test]
    fn one_client_with_over_half_of_the_requests_is_found_and_told_once_an_hour() {
        let clock = Clock::manual(1_000_000);
        let memory = Memory::new(Size::gib(1), 0.125, &[], Vec::new());
        let client = |last: u32| memory.client(IpAddr::from([192, 0, 2, last.to_le_bytes()[0]]));
        let concentration = Concentration::new(&clock);
        // Each minute has a thousand requests: so many of one client, the others of a hundred.
        let minute = |of_one: u32| {
            let found = (0..1_000).find_map(|n| {
                let who = if n * 7 % 1_000 < of_one { 200 } else { n % 100 };
                concentration.count(&client(who))
            });
            clock.advance(WINDOW_MS);
            let last = (0..CLOCK_EVERY).find_map(|_| concentration.count(&client(200)));
            found.or(last)
        };
        assert_eq!(minute(550), None, "the first minute only finds who it may be");
        let (address, permille) = minute(550).unwrap();
        assert_eq!(address, client(200).address());
        assert!((500..650).contains(&permille), "{permille}");
        assert!(concentration.largest_ratio() > 0.5);
        assert_eq!(minute(550), None, "it was told");
        clock.advance(WARNING_MS);
        assert!(minute(550).is_some());
        minute(300);
        assert_eq!(minute(300), None);
        assert!(concentration.largest_ratio() < 0.1);
    }

    #[test]
    fn who_is_not_trusted_and_names_others_is_counted_and_told_once_an_hour() {
        let clock = Clock::manual(1);
        let concentration = Concentration::new(&clock);
        assert!(concentration.count_untrusted());
        assert!(!concentration.count_untrusted());
        clock.advance(WARNING_MS);
        assert!(concentration.count_untrusted());
        assert_eq!(concentration.untrusted(), 3);
    }
}
