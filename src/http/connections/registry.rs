//! Which connections are open, whose they are, and which of them go when there is no room.
//!
//! An address has a cap, and so has the whole. At either the connection goes that waits longest for its peer: for a
//! request, for the rest of one, or for its answer to be read. One whose request is being answered never goes. At the
//! cap of all, addresses that hold ten times as many as others lose theirs first, and among alike those go last that
//! a session came through. The last of the room is for addresses that sessions came from.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Settings;
use super::counts::Counts;
use super::traffic::Traffic;
use crate::http::Network;
use crate::limits::client::client_of;
use crate::limits::memory::OverLimit;
use crate::telemetry::labels::{Dropped, Refused};

/// Which part of a cap is made free at once, so that a flood of connections does not cost a look at all of them
/// for each.
const BATCH_PART: usize = 64;

/// How many connections are closed at once when there is no memory: one may hold as much as many others.
const MEMORY_BATCH: usize = 16;

/// Which part of the room is for addresses that sessions came from.
const RESERVED_PART: usize = 20;

/// How long nobody looks again for a connection to close after none was found.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// The open connections of one listener.
pub(super) struct Registry {
    max: usize,
    /// How many connections one address may hold.
    max_per_address: usize,
    /// Who speaks for many.
    exempt: Vec<Network>,
    counts: Arc<Counts>,
    open: Mutex<Open>,
    /// Somebody waits for room, and there is some.
    freed: Notify,
}

#[derive(Default)]
struct Open {
    connections: usize,
    next_id: u64,
    /// By address, of IPv6 by network; only those that hold connections, so that the connections bound it.
    clients: HashMap<IpAddr, Held>,
    known: Known,
    /// When it was last looked for connections to close, and there was none.
    in_vain: Option<Instant>,
}

/// What one address holds.
#[derive(Default)]
struct Held {
    connections: HashMap<u64, Connection>,
    is_exempt: bool,
    in_vain: Option<Instant>,
}

struct Connection {
    traffic: Arc<Traffic>,
    /// Nothing until its task is there.
    task: Option<AbortHandle>,
}

/// Addresses that sessions came from lately: those of this generation, and of the one before.
#[derive(Default)]
struct Known {
    new: HashSet<IpAddr>,
    old: HashSet<IpAddr>,
}

impl Known {
    fn insert(&mut self, client: IpAddr, generation: usize) {
        if self.new.len() >= generation {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(client);
    }

    fn contains(&self, client: &IpAddr) -> bool {
        self.new.contains(client) || self.old.contains(client)
    }
}

/// What there is too little of for one more connection.
#[derive(Clone, Copy)]
enum Short {
    Places,
    Memory,
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotAdmitted {
    /// It is to be closed.
    Refused(Refused),
    /// Every connection is being answered; there will be room.
    NotYet,
}

impl Registry {
    pub(super) fn new(settings: &Settings, counts: Arc<Counts>) -> Arc<Self> {
        Arc::new(Self {
            max: settings.connections_max,
            max_per_address: settings.connections_per_address(),
            exempt: settings.trusted_proxies.clone(),
            counts,
            open: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// A place for one more connection of this address. If there is none, others are closed for it.
    pub(super) fn admit(
        self: &Arc<Self>,
        address: IpAddr,
        traffic: &Arc<Traffic>,
    ) -> Result<Place, NotAdmitted> {
        let client = client_of(address);
        let is_exempt = self.is_exempt(address, traffic);
        let now = Instant::now();
        let mut open = self.open.lock();
        let held = open.clients.get(&client).map_or(0, |held| held.connections.len());
        if !is_exempt && held >= self.max_per_address && !self.evict_from(&mut open, client, now) {
            return Err(NotAdmitted::Refused(Refused::Address));
        }
        let reserved = if open.known.contains(&client) { 0 } else { self.max / RESERVED_PART };
        if open.connections >= self.max - reserved && !self.evict_any(&mut open, Short::Places, now)
        {
            // Who is not known must not keep those waiting who are.
            return Err(if reserved > 0 {
                NotAdmitted::Refused(Refused::Full)
            } else {
                NotAdmitted::NotYet
            });
        }
        Ok(self.insert(&mut open, client, is_exempt, traffic))
    }

    /// A place whatever the caps are.
    pub(super) fn admit_anyway(self: &Arc<Self>, address: IpAddr, traffic: &Arc<Traffic>) -> Place {
        let is_exempt = self.is_exempt(address, traffic);
        self.insert(&mut self.open.lock(), client_of(address), is_exempt, traffic)
    }

    fn is_exempt(&self, address: IpAddr, traffic: &Traffic) -> bool {
        traffic.charge.client().is_unlimited()
            || self.exempt.iter().any(|network| network.contains(address))
    }

    fn insert(
        self: &Arc<Self>,
        open: &mut Open,
        client: IpAddr,
        is_exempt: bool,
        traffic: &Arc<Traffic>,
    ) -> Place {
        let id = open.next_id;
        open.next_id += 1;
        open.connections += 1;
        let held = open.clients.entry(client).or_default();
        held.is_exempt = is_exempt;
        held.connections.insert(id, Connection { traffic: Arc::clone(traffic), task: None });
        Place { registry: Arc::clone(self), client, id }
    }

    /// Closes connections so that there is memory for another one of this address.
    pub(super) fn make_memory(&self, over: OverLimit, address: IpAddr) -> bool {
        let now = Instant::now();
        let mut open = self.open.lock();
        match over {
            OverLimit::Share(_) => self.evict_from(&mut open, client_of(address), now),
            OverLimit::Full(_) => self.evict_any(&mut open, Short::Memory, now),
        }
    }

    /// Waits until there may be room.
    pub(super) async fn freed(&self) {
        // A connection may begin to wait for its peer without telling anybody.
        let _ = tokio::time::timeout(2 * LOOK_PAUSE, self.freed.notified()).await;
    }

    /// Closes the connections of one address that wait longest; tells whether there were any.
    fn evict_from(&self, open: &mut Open, client: IpAddr, now: Instant) -> bool {
        let Some(held) = open.clients.get_mut(&client) else { return false };
        if is_too_soon(held.in_vain, now) {
            return false;
        }
        let mut found: Vec<_> = held.waiting(now).map(|rank| (rank, client)).collect();
        let many = (held.connections.len() / BATCH_PART).max(1);
        held.in_vain = found.is_empty().then_some(now);
        first(&mut found, many);
        self.close(open, &found, many)
    }

    /// Closes the connections that wait longest, of addresses that hold most of what is short.
    fn evict_any(&self, open: &mut Open, short: Short, now: Instant) -> bool {
        if is_too_soon(open.in_vain, now) {
            return false;
        }
        let mut found = Vec::new();
        for (client, held) in &open.clients {
            let mut waiting: Vec<_> = held.waiting(now).collect();
            if !held.is_exempt {
                let weight = |one: &Connection| match short {
                    Short::Places => 1,
                    Short::Memory => one.traffic.charge.bytes(),
                };
                let mut all: usize = held.connections.values().map(weight).sum();
                waiting.sort_unstable();
                for rank in &mut waiting {
                    rank.magnitude = Reverse(all.checked_ilog2().unwrap_or(0));
                    all = all.saturating_sub(held.connections.get(&rank.id).map_or(0, weight));
                }
            }
            found.extend(waiting.into_iter().map(|rank| (rank, *client)));
        }
        open.in_vain = found.is_empty().then_some(now);
        let many = match short {
            Short::Places => (self.max / BATCH_PART).max(1),
            Short::Memory => MEMORY_BATCH,
        };
        first(&mut found, many);
        self.close(open, &found, many)
    }

    /// Closes so many of these connections, of those that still wait.
    fn close(&self, open: &mut Open, found: &[(Rank, IpAddr)], many: usize) -> bool {
        let mut closed = 0;
        for (rank, client) in found {
            if closed == many {
                break;
            }
            let Some(held) = open.clients.get_mut(client) else { continue };
            if !held.connections.get(&rank.id).is_some_and(|one| one.traffic.evict()) {
                continue;
            }
            let one = open.remove(*client, rank.id);
            if let Some(Connection { traffic, task: Some(task) }) = one {
                traffic.charge.release();
                task.abort();
            }
            self.counts.count_dropped(Dropped::Evicted);
            closed += 1;
        }
        closed > 0
    }
}

impl Open {
    fn remove(&mut self, client: IpAddr, id: u64) -> Option<Connection> {
        let held = self.clients.get_mut(&client)?;
        let one = held.connections.remove(&id)?;
        if held.connections.is_empty() {
            self.clients.remove(&client);
        }
        self.connections -= 1;
        Some(one)
    }
}

impl Held {
    /// The connections that wait for their peer.
    fn waiting(&self, now: Instant) -> impl Iterator<Item = Rank> {
        self.connections.iter().filter_map(move |(id, Connection { traffic, task })| {
            task.as_ref()?;
            let since = traffic.waits_since(now)?;
            let (magnitude, has_session) = (Reverse(0), traffic.has_session());
            Some(Rank { magnitude, has_session, since, id: *id })
        })
    }
}

/// In which order connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// How much its address would hold without those that go before it, as a power of two.
    magnitude: Reverse<u32>,
    has_session: bool,
    since: Instant,
    id: u64,
}

/// Moves so many that go first to the front, and some more, for those that may not wait any longer.
fn first(found: &mut Vec<(Rank, IpAddr)>, many: usize) {
    let many = many + 8;
    if many < found.len() {
        found.select_nth_unstable(many);
        found.truncate(many);
    }
    found.sort_unstable();
}

fn is_too_soon(in_vain: Option<Instant>, now: Instant) -> bool {
    in_vain.is_some_and(|before| now < before + LOOK_PAUSE)
}

/// The place of one connection; free again when dropped.
pub(super) struct Place {
    registry: Arc<Registry>,
    client: IpAddr,
    id: u64,
}

impl Place {
    /// Notes the task of the connection, without which it cannot be closed.
    pub(super) fn note(registry: &Registry, (client, id): (IpAddr, u64), task: AbortHandle) {
        let mut open = registry.open.lock();
        let held = open.clients.get_mut(&client);
        // It may have ended already.
        if let Some(one) = held.and_then(|held| held.connections.get_mut(&id)) {
            one.task = Some(task);
        }
    }

    pub(super) fn key(&self) -> (IpAddr, u64) {
        (self.client, self.id)
    }

    /// Notes that a session came through the connection.
    pub(super) fn has_session(&self) {
        self.registry.open.lock().known.insert(self.client, self.registry.max);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // One that was closed to make room has left before.
        self.registry.open.lock().remove(self.client, self.id);
        self.registry.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Version;

    use super::super::charge::ConnectionCharge;
    use super::super::traffic::InFlight;
    use super::*;
    use crate::limits::memory::Memory;
    use crate::size::Size;

    struct Listener {
        registry: Arc<Registry>,
        memory: Memory,
        runtime: tokio::runtime::Runtime,
    }

    /// A connection in a test, and what it does.
    struct One {
        traffic: Arc<Traffic>,
        place: Option<Place>,
    }

    impl Listener {
        fn new(max: usize, max_per_address: usize, exempt: &[&str]) -> Self {
            let trusted_proxies = exempt.iter().map(|network| network.parse().unwrap()).collect();
            let settings = Settings {
                connections_max: max,
                connections_per_address_max: max_per_address,
                trusted_proxies,
                ..Settings::default()
            };
            Self {
                registry: Registry::new(&settings, Arc::default()),
                memory: Memory::new(Size::gib(4), 1.0, &[], Vec::new()),
                runtime: tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .start_paused(true)
                    .build()
                    .unwrap(),
            }
        }

        fn connect(&self, address: &str) -> Result<One, NotAdmitted> {
            let address: IpAddr = address.parse().unwrap();
            self.runtime.block_on(async {
                // So that no two are of the same time.
                tokio::time::advance(Duration::from_millis(1)).await;
                let charge = ConnectionCharge::new(&self.memory.client(address), false).unwrap();
                let traffic = Arc::new(Traffic::new(false, charge));
                let place = self.registry.admit(address, &traffic)?;
                let task = tokio::spawn(std::future::pending::<()>()).abort_handle();
                Place::note(&self.registry, place.key(), task);
                Ok(One { traffic, place: Some(place) })
            })
        }

        fn advance(&self, ms: u64) {
            self.runtime.block_on(tokio::time::advance(Duration::from_millis(ms)));
        }

        fn open(&self) -> usize {
            self.registry.open.lock().connections
        }
    }

    impl One {
        fn is_open(&self) -> bool {
            let Place { registry, client, id } = self.place.as_ref().unwrap();
            let open = registry.open.lock();
            open.clients.get(client).is_some_and(|held| held.connections.contains_key(id))
        }

        fn asks(&self) -> InFlight {
            InFlight::begin(&self.traffic, Version::HTTP_11).ok().unwrap()
        }

        fn has_session(&self) {
            assert!(self.traffic.accepted());
            self.place.as_ref().unwrap().has_session();
        }
    }

    #[test]
    fn at_its_cap_an_address_loses_the_connection_that_waits_longest() {
        let listener = Listener::new(100, 2, &[]);
        let first = listener.connect("192.0.2.1").unwrap();
        let second = listener.connect("192.0.2.1").unwrap();
        let other = listener.connect("192.0.2.2").unwrap();
        listener.runtime.block_on(async { drop(first.asks()) });
        let third = listener.connect("192.0.2.1").unwrap();
        assert!(first.is_open() && !second.is_open() && third.is_open() && other.is_open());
        assert_eq!(listener.open(), 3);
        drop((first, second, third, other));
        assert_eq!(listener.open(), 0);
        assert!(listener.registry.open.lock().clients.is_empty(), "who holds nothing is forgotten");
    }

    #[test]
    fn a_connection_that_is_answered_never_goes() {
        let listener = Listener::new(100, 1, &[]);
        let first = listener.connect("192.0.2.1").unwrap();
        let asked = first.asks();
        listener.advance(60_000);
        let refused = listener.connect("192.0.2.1").err();
        assert_eq!(refused, Some(NotAdmitted::Refused(Refused::Address)));
        listener.runtime.block_on(async { drop(asked) });
        listener.advance(1_000);
        assert!(listener.connect("192.0.2.1").is_ok());
        assert!(!first.is_open());
        assert!(InFlight::begin(&first.traffic, Version::HTTP_11).is_err(), "it is too late");
    }

    #[test]
    fn a_body_and_an_answer_may_stall_for_a_second() {
        let listener = Listener::new(100, 1, &[]);
        for stalls in [true, false] {
            let first = listener.connect("192.0.2.1").unwrap();
            let mut asked = Some(first.asks());
            listener.runtime.block_on(async {
                if stalls {
                    first.traffic.body_waits(true);
                } else {
                    asked = None;
                    first.traffic.answer_begins();
                }
            });
            listener.advance(900);
            assert!(listener.connect("192.0.2.1").is_err());
            listener.advance(100);
            let second = listener.connect("192.0.2.1").unwrap();
            assert!(!first.is_open());
            if stalls {
                assert!(first.traffic.body_goes_on().is_err());
            }
            listener.runtime.block_on(async { drop((asked, first, second)) });
        }
    }

    #[test]
    fn at_the_cap_of_all_those_go_first_whose_address_holds_most_and_last_who_has_a_session() {
        let listener = Listener::new(10, 10, &[]);
        let with_session = listener.connect("192.0.2.2").unwrap();
        with_session.has_session();
        let without = listener.connect("192.0.2.3").unwrap();
        let many: Vec<_> = (0..8).map(|_| listener.connect("192.0.2.1").unwrap()).collect();
        many[0].has_session();
        let mut guests = Vec::new();
        for (number, goes) in many.iter().enumerate().skip(1) {
            guests.push(listener.connect(&format!("192.0.2.{}", 10 + number)).unwrap());
            assert!(!goes.is_open(), "{number}");
        }
        assert!(many[0].is_open() && without.is_open(), "nobody holds many now");
        guests.push(listener.connect("192.0.2.20").unwrap());
        assert!(!without.is_open() && many[0].is_open() && with_session.is_open());
    }

    #[test]
    fn the_last_of_the_room_is_for_those_that_sessions_came_from() {
        let listener = Listener::new(40, 40, &[]);
        let first = listener.connect("192.0.2.1").unwrap();
        first.has_session();
        drop(first);
        let busy: Vec<_> = (0..38).map(|_| listener.connect("192.0.2.2").unwrap()).collect();
        let asked: Vec<_> = busy.iter().map(One::asks).collect();
        let refused = listener.connect("192.0.2.3").err();
        assert_eq!(refused, Some(NotAdmitted::Refused(Refused::Full)));
        let known: Vec<_> = (0..2).map(|_| listener.connect("192.0.2.1").unwrap()).collect();
        let asked_too: Vec<_> = known.iter().map(One::asks).collect();
        listener.advance(60_000);
        assert_eq!(listener.connect("192.0.2.1").err(), Some(NotAdmitted::NotYet));
        listener.runtime.block_on(async { drop((asked, asked_too)) });
    }

    #[test]
    fn a_network_of_64_bits_is_one_client_of_ipv6() {
        let listener = Listener::new(100, 1, &[]);
        let first = listener.connect("2001:db8::1").unwrap();
        let _second = listener.connect("2001:db8::ffff:0:0:2").unwrap();
        assert!(!first.is_open());
        let other = listener.connect("2001:db8:0:1::1").unwrap();
        assert!(other.is_open());
    }

    #[test]
    fn proxies_have_no_cap_of_their_own() {
        let listener = Listener::new(100, 1, &["10.0.0.0/8"]);
        let all: Vec<_> = (0..50).map(|_| listener.connect("10.1.2.3").unwrap()).collect();
        assert!(all.iter().all(One::is_open));
    }

    #[test]
    fn for_memory_those_go_first_whose_address_holds_most_of_it() {
        let listener = Listener::new(1_000, 1_000, &[]);
        let many: Vec<_> = (0..20).map(|_| listener.connect("192.0.2.1").unwrap()).collect();
        let heavy: Vec<_> = (0..2).map(|_| listener.connect("192.0.2.2").unwrap()).collect();
        for one in &heavy {
            one.traffic.charge.begin(2 << 20).unwrap();
        }
        let over = OverLimit::Full(crate::limits::memory::Kind::Connections);
        let freed = listener
            .runtime
            .block_on(async { listener.registry.make_memory(over, "192.0.2.3".parse().unwrap()) });
        assert!(freed && heavy.iter().all(|one| !one.is_open()));
        let open = many.iter().filter(|one| one.is_open()).count();
        assert_eq!(open, 20 + heavy.len() - MEMORY_BATCH);
    }

    #[test]
    fn so_many_go_at_once_that_not_each_new_one_costs_a_look_at_all() {
        let listener = Listener::new(640, 640, &[]);
        let all: Vec<_> = (0..608).map(|_| listener.connect("192.0.2.1").unwrap()).collect();
        assert_eq!(listener.open(), 608);
        let _next = listener.connect("192.0.2.2").unwrap();
        assert_eq!(listener.open(), 608 - 10 + 1);
        assert!(all[..10].iter().all(|one| !one.is_open()) && all[10].is_open());
    }
}
