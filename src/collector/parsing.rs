//! Who parses a stored session now, and who waits for it.
//!
//! A large stored session takes a core for a while, so few are parsed at once, and those that wait are bounded
//! in all and by client. They are served in the order in which they came; one whose client hangs up leaves.

use std::net::IpAddr;
use std::sync::Arc;
use std::thread::available_parallelism;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::journal::Unavailable;
use crate::limits::client::client_of;

/// How many stored sessions are parsed at once, however many cores there are.
const SLOTS_MAX: usize = 4;

/// How many wait; beyond it they are refused.
const WAITING_MAX: usize = 32;

/// How many of one client wait, once half of the places are taken.
const WAITING_OF_CLIENT_MAX: usize = WAITING_MAX / 4;

/// Slots in which stored sessions are parsed, and the queue for them.
#[derive(Debug)]
pub struct Parsing {
    slots: Arc<Semaphore>,
    slots_max: usize,
    /// The client of each that waits.
    waiting: Mutex<Vec<Option<IpAddr>>>,
}

/// A stored session may be parsed until this is dropped.
#[derive(Debug)]
pub struct Slot(#[expect(dead_code, reason = "it is held, and given back")] OwnedSemaphorePermit);

/// A place in the queue.
struct Place<'p> {
    waiting: &'p Mutex<Vec<Option<IpAddr>>>,
    client: Option<IpAddr>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waiting.lock();
        if let Some(place) = waiting.iter().position(|client| *client == self.client) {
            waiting.swap_remove(place);
        }
    }
}

impl Default for Parsing {
    /// Half of the cores are left to everybody else.
    fn default() -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Self::new((cores / 2).clamp(1, SLOTS_MAX))
    }
}

impl Parsing {
    fn new(slots_max: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(slots_max)), slots_max, waiting: Mutex::default() }
    }

    /// How many are parsed at once.
    pub fn slots_max(&self) -> usize {
        self.slots_max
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Waits for a slot. A client whose address is not known is bounded by the queue alone.
    ///
    /// # Errors
    /// [`Unavailable::Stored`] at once, if too many wait, in all or of this client.
    pub async fn enter(&self, client: Option<IpAddr>) -> Result<Slot, Unavailable> {
        // A slot that is given back goes to who waits first, so this overtakes nobody.
        if let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(Slot(permit));
        }
        let place = self.queue(client.map(client_of))?;
        let permit = Arc::clone(&self.slots).acquire_owned().await;
        drop(place);
        Ok(Slot(permit.expect("the semaphore is never closed")))
    }

    fn queue(&self, client: Option<IpAddr>) -> Result<Place<'_>, Unavailable> {
        let mut waiting = self.waiting.lock();
        let of_client = || waiting.iter().filter(|other| **other == client).count();
        let is_over_its_share = client.is_some()
            && waiting.len() >= WAITING_MAX / 2
            && of_client() >= WAITING_OF_CLIENT_MAX;
        if waiting.len() >= WAITING_MAX || is_over_its_share {
            return Err(Unavailable::Stored);
        }
        waiting.push(client);
        Ok(Place { waiting: &self.waiting, client })
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Entering<'p> = Pin<Box<dyn Future<Output = Result<Slot, Unavailable>> + 'p>>;

    fn poll(entering: &mut Entering<'_>) -> Poll<Result<Slot, Unavailable>> {
        entering.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Someone who waits.
    fn waits<'p>(parsing: &'p Parsing, client: Option<&str>) -> Entering<'p> {
        let client = client.map(|address| address.parse().unwrap());
        let mut entering: Entering<'_> = Box::pin(parsing.enter(client));
        assert!(poll(&mut entering).is_pending());
        entering
    }

    /// Someone who is served or refused at once.
    fn enters(parsing: &Parsing, client: &str) -> Result<Slot, Unavailable> {
        let entering = pin!(parsing.enter(Some(client.parse().unwrap())));
        match entering.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(entered) => entered,
            Poll::Pending => panic!("it waits"),
        }
    }

    #[test]
    fn they_are_served_in_the_order_in_which_they_came_but_for_those_who_left() {
        let parsing = Parsing::new(1);
        let slot = enters(&parsing, "192.0.2.1").unwrap();
        let mut first = waits(&parsing, Some("192.0.2.1"));
        let second = waits(&parsing, None);
        let mut third = waits(&parsing, Some("192.0.2.2"));
        assert_eq!(parsing.waiting(), 3);
        drop(second);
        assert_eq!(parsing.waiting(), 2, "who hangs up leaves the queue");
        drop(slot);
        assert!(poll(&mut third).is_pending(), "not before who came earlier");
        let Poll::Ready(Ok(slot)) = poll(&mut first) else { panic!("the first is served") };
        assert!(poll(&mut third).is_pending());
        drop(slot);
        assert!(matches!(poll(&mut third), Poll::Ready(Ok(_))));
        assert_eq!(parsing.waiting(), 0);
    }

    #[test]
    fn one_client_has_a_quarter_of_the_places_once_half_are_taken() {
        let parsing = Parsing::new(1);
        let _slot = enters(&parsing, "192.0.2.1").unwrap();
        // On a quiet server it may be a carrier's or a proxy's.
        let mut queue: Vec<_> = (0..16).map(|_| waits(&parsing, Some("192.0.2.1"))).collect();
        assert_eq!(enters(&parsing, "192.0.2.1").unwrap_err(), Unavailable::Stored);
        let hosts = (1..=8).map(|host| format!("2001:db8::{host}"));
        queue.extend(hosts.map(|host| waits(&parsing, Some(&host))));
        assert_eq!(enters(&parsing, "2001:db8::ffff").unwrap_err(), Unavailable::Stored);
        queue.extend((1..=8).map(|host| waits(&parsing, Some(&format!("2001:db8:0:{host}::1")))));
        assert_eq!(parsing.waiting(), WAITING_MAX);
        assert_eq!(enters(&parsing, "192.0.2.9").unwrap_err(), Unavailable::Stored, "all taken");
        queue.pop();
        drop(waits(&parsing, Some("192.0.2.9")));
    }
}
