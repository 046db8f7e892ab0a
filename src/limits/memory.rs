//! The one account of the memory that outsiders make the server hold.
//!
//! Whatever grows with what outsiders send is charged here before it is allocated, and freed when it goes:
//!
//! ```text
//! memory.max ── a quarter stays for the program, its threads and the allocator
//!   └─ account ── connections: open connections, heads of requests, open HTTP/2 streams
//!              ├─ bodies:      bodies that arrive, and unpacked ones until they are answered
//!              ├─ parsing:     what is made of a body while it is read
//!              ├─ answers:     answers that their clients have not read yet
//!              ├─ journal:     records that wait to be committed
//!              └─ live:        live sessions, and ended ones until they have their report
//! ```
//!
//! Each kind has a ceiling of its own, and the ceilings together are the account, so that no kind can use up what
//! another needs. Within a kind a client has a share. It binds only once four fifths of the kind are used: on a
//! quiet server the many players behind one address of a carrier are not punished. The last tenth of a kind is for
//! small charges, so that a client that holds much never keeps out the usual request.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::client::{client_of, network_of};
use super::{Network, machine};
use crate::size::Size;
use crate::telemetry::labels::Label;
pub use crate::telemetry::labels::{MemoryKind as Kind, MemoryReason as Reason};

/// The least that `memory.max` may be set to: less leaves no room for one stored session of the largest size.
pub const MAX_LEAST: Size = Size::mib(192);

/// How much of the account each kind may use, in twentieths.
const TWENTIETHS: [(Kind, usize); KINDS] = [
    (Kind::Connections, 3),
    (Kind::Bodies, 3),
    (Kind::Parsing, 1),
    (Kind::Answers, 1),
    (Kind::Journal, 2),
    (Kind::Live, 10),
];

const KINDS: usize = Kind::ALL.len();

/// A charge up to this is small: an event, packed or not, and a small head.
const SMALL_BYTES: usize = 64 << 10;

/// How many locks guard the clients, so that two threads rarely meet.
const SHARDS: usize = 64;

/// The section `memory` of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How much memory the process may take in all; zero for three quarters of what the system gives it.
    pub max: Size,
    /// Which part of each kind one client may use once four fifths of that kind are used.
    pub client_share: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max: Size::bytes(0), client_share: 0.125 }
    }
}

impl Settings {
    /// Values that cannot be used, each with its key.
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.max != Size::bytes(0) && self.max < MAX_LEAST {
            found
                .push(("memory.max", format!("must be at least {MAX_LEAST}, or 0B for automatic")));
        }
        if !(0.001..=1.0).contains(&self.client_share) {
            found.push(("memory.client_share", "must be from 0.001 to 1".to_owned()));
        }
        found
    }

    /// How much the process may take, and why so much.
    pub fn resolved(&self) -> (Size, Origin) {
        if self.max > Size::bytes(0) {
            return (self.max, Origin::Configured);
        }
        let (limit, origin) = machine::memory();
        let max = Size::bytes((limit.as_u64() / 4 * 3) >> 20 << 20);
        (max.max(MAX_LEAST), origin)
    }
}

/// Where `memory.max` comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is configured.
    Configured,
    /// Three quarters of the limit of the control group (the container).
    ControlGroup,
    /// Three quarters of the machine's memory.
    Machine,
    /// Neither is known.
    Assumed,
}

impl Origin {
    /// The origin in words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::ControlGroup => "three quarters of the limit of the control group",
            Self::Machine => "three quarters of the machine's memory",
            Self::Assumed => "assumed, because the system does not tell how much there is",
        }
    }
}

/// The account. Clones are the same account.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Account>);

#[derive(Debug)]
struct Account {
    max: Size,
    ceilings: [usize; KINDS],
    /// How much one client may use of each kind once its share binds.
    shares: [usize; KINDS],
    used: [AtomicUsize; KINDS],
    refused: [[AtomicU64; Reason::ALL.len()]; KINDS],
    clients: Box<[Mutex<Tabs>]>,
    keys: RandomState,
    /// Networks whose clients have no share.
    unlimited: Vec<Network>,
}

/// There is no memory left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverLimit {
    /// Not for anybody: the ceiling of the kind is reached.
    #[error("the server's memory for {} is used up", words(*.0))]
    Full(Kind),
    /// Not for this client: it uses its share, and the kind is nearly used up.
    #[error("this client uses its share of the server's memory for {}, which is nearly used up", words(*.0))]
    Share(Kind),
}

/// What a kind is, in an answer.
fn words(kind: Kind) -> &'static str {
    match kind {
        Kind::Journal => "what waits to be written",
        Kind::Live => "live sessions",
        Kind::Parsing => "bodies that are read",
        kind => kind.text(),
    }
}

impl OverLimit {
    /// For which kind.
    pub fn kind(self) -> Kind {
        let (Self::Full(kind) | Self::Share(kind)) = self;
        kind
    }
}

/// One kind, for those who look at the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Which.
    pub kind: Kind,
    /// What is used, in bytes.
    pub used: usize,
    /// What may be used, in bytes.
    pub ceiling: usize,
    /// How often there was none left, by reason.
    pub refused: [u64; Reason::ALL.len()],
}

impl Memory {
    /// An account of a process that may take so much memory. Of the ceiling of a kind and what its own setting
    /// allows (`caps`) the smaller binds. Clients in `unlimited` have no share.
    pub fn new(
        max: Size,
        client_share: f64,
        caps: &[(Kind, Size)],
        unlimited: Vec<Network>,
    ) -> Self {
        let account = max.as_usize() / 4 * 3;
        let mut ceilings = TWENTIETHS.map(|(_, twentieths)| account / 20 * twentieths);
        for (kind, cap) in caps {
            let ceiling = &mut ceilings[kind.row()];
            *ceiling = (*ceiling).min(cap.as_usize());
        }
        Self::with_ceilings(max, ceilings, client_share, unlimited)
    }

    fn with_ceilings(
        max: Size,
        ceilings: [usize; KINDS],
        client_share: f64,
        unlimited: Vec<Network>,
    ) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "a share of a size need not be exact"
        )]
        let shares = ceilings.map(|ceiling| (ceiling as f64 * client_share) as usize);
        Self(Arc::new(Account {
            max,
            ceilings,
            shares,
            used: Default::default(),
            refused: Default::default(),
            clients: (0..SHARDS).map(|_| Mutex::default()).collect(),
            keys: RandomState::new(),
            unlimited,
        }))
    }

    /// How much the process may take.
    pub fn max(&self) -> Size {
        self.0.max
    }

    /// The most that a kind may use, in bytes.
    pub fn ceiling(&self, kind: Kind) -> usize {
        self.0.ceilings[kind.row()]
    }

    /// The most that a kind may use.
    pub fn ceiling_size(&self, kind: Kind) -> Size {
        Size::bytes(self.ceiling(kind) as u64)
    }

    /// The ceilings in words, for the operator.
    pub fn description(&self, origin: Origin) -> String {
        let mib = |bytes: usize| format!("{} MiB", bytes >> 20);
        let kinds = Kind::ALL.iter().map(|kind| {
            let (ceiling, share) = (self.ceiling(*kind), self.share(*kind));
            format!("{} {} (a client {})", kind.text(), mib(ceiling), mib(share))
        });
        let kinds: Vec<_> = kinds.collect();
        format!(
            "memory.max is {} ({}); of it at most: {}; a client's share binds once four fifths are used",
            mib(self.max().as_usize()),
            origin.text(),
            kinds.join(", ")
        )
    }

    /// How much of a kind one client may use, in bytes, once four fifths of the kind are used.
    pub fn share(&self, kind: Kind) -> usize {
        self.0.shares[kind.row()]
    }

    /// The handle of a client, which is one address, or one network of 48 bits of IPv6, because whoever has one of
    /// 64 bits mostly has many.
    pub fn client(&self, address: IpAddr) -> Client {
        let is_unlimited = self.0.unlimited.iter().any(|network| network.contains(address));
        // An address without a share is a client of its own, because its neighbours may have one.
        let network = network_of(address).filter(|_| !is_unlimited);
        let address = network.unwrap_or_else(|| client_of(address));
        let mut clients = self.0.shard(address).lock();
        if let Some(tab) = clients.get(&address).and_then(Weak::upgrade) {
            return Client(tab);
        }
        let tab = Arc::new(Tab {
            memory: self.clone(),
            address,
            // Only nobody has 0.
            key: self.0.keys.hash_one(address).max(1),
            is_unlimited,
            used: Default::default(),
        });
        clients.insert(address, Arc::downgrade(&tab));
        Client(tab)
    }

    /// Each kind as it is now.
    pub fn usage(&self) -> impl Iterator<Item = Usage> {
        let account = &*self.0;
        Kind::ALL.iter().map(|kind| Usage {
            kind: *kind,
            used: account.used[kind.row()].load(Ordering::Relaxed),
            ceiling: account.ceilings[kind.row()],
            refused: account.refused[kind.row()].each_ref().map(|n| n.load(Ordering::Relaxed)),
        })
    }

    /// Counts that there was no memory left.
    pub fn count_refused(&self, over: OverLimit) {
        let reason = match over {
            OverLimit::Full(_) => Reason::Full,
            OverLimit::Share(_) => Reason::Share,
        };
        self.0.refused[over.kind().row()][reason.row()].fetch_add(1, Ordering::Relaxed);
    }
}

impl Account {
    fn shard(&self, address: IpAddr) -> &Mutex<Tabs> {
        &self.clients[usize::from(self.keys.hash_one(address).to_le_bytes()[0]) % SHARDS]
    }
}

/// Clients that use something.
type Tabs = HashMap<IpAddr, Weak<Tab>>;

/// A client, and what it uses. Clones are the same client.
#[derive(Clone, Debug)]
pub struct Client(Arc<Tab>);

/// What one client uses; kept as long as anybody has its handle.
#[derive(Debug)]
struct Tab {
    memory: Memory,
    address: IpAddr,
    key: u64,
    is_unlimited: bool,
    used: [AtomicUsize; KINDS],
}

impl Drop for Tab {
    fn drop(&mut self) {
        let mut clients = self.memory.0.shard(self.address).lock();
        // Somebody may have come back under this address in between.
        if clients.get(&self.address).is_some_and(|tab| tab.strong_count() == 0) {
            clients.remove(&self.address);
        }
    }
}

impl Client {
    /// The account.
    pub fn memory(&self) -> &Memory {
        &self.0.memory
    }

    /// The address, or the network of IPv6, that is this client.
    pub fn address(&self) -> IpAddr {
        self.0.address
    }

    /// Identifies the client in this process: a hash that nobody outside can foresee, and never 0.
    pub fn key(&self) -> u64 {
        self.0.key
    }

    /// Whether this client has no share.
    pub fn is_unlimited(&self) -> bool {
        self.0.is_unlimited
    }

    /// Charges so many bytes, until the charge is dropped.
    ///
    /// # Errors
    /// [`OverLimit`]; then nothing is charged, and the refusal is counted.
    pub fn charge(&self, kind: Kind, bytes: usize) -> Result<Charge, OverLimit> {
        let mut charge = Charge { client: self.clone(), kind, bytes: 0 };
        charge.grow_to(bytes)?;
        Ok(charge)
    }

    /// Takes so many bytes for a charge that has so many in all.
    fn take(&self, kind: Kind, bytes: usize, in_all: usize) -> Result<(), OverLimit> {
        let (tab, account) = (&*self.0, &*self.0.memory.0);
        let row = kind.row();
        let ceiling = account.ceilings[row];
        let own_ceiling = if in_all > SMALL_BYTES { ceiling / 10 * 9 } else { ceiling };
        // Added before it is compared, so that two at once cannot both take the last bytes.
        let used = account.used[row].fetch_add(bytes, Ordering::Relaxed) + bytes;
        let own = tab.used[row].fetch_add(bytes, Ordering::Relaxed) + bytes;
        // A client that is the only one to use a kind takes nothing from others.
        let binds = !tab.is_unlimited && own < used && used > ceiling / 5 * 4;
        let over = if used > own_ceiling {
            OverLimit::Full(kind)
        } else if binds && own > account.shares[row] {
            OverLimit::Share(kind)
        } else {
            return Ok(());
        };
        self.free(kind, bytes);
        tab.memory.count_refused(over);
        Err(over)
    }

    fn free(&self, kind: Kind, bytes: usize) {
        self.0.used[kind.row()].fetch_sub(bytes, Ordering::Relaxed);
        self.0.memory.0.used[kind.row()].fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Memory that is charged to a client, until dropped.
#[derive(Debug)]
pub struct Charge {
    client: Client,
    kind: Kind,
    bytes: usize,
}

impl Charge {
    /// Charges more, if it is not so much already.
    ///
    /// # Errors
    /// [`OverLimit`]; then the charge is as it was.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), OverLimit> {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 {
            self.client.take(self.kind, more, bytes)?;
            self.bytes = bytes;
        }
        Ok(())
    }

    /// Gives back what is charged beyond this.
    pub fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        if less > 0 {
            self.client.free(self.kind, less);
            self.bytes = bytes;
        }
    }

    /// The client that it is charged to.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.client.free(self.kind, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(unlimited: &[&str]) -> Memory {
        let unlimited = unlimited.iter().map(|network| network.parse().unwrap()).collect();
        Memory::with_ceilings(Size::gib(1), [1_000; KINDS], 0.25, unlimited)
    }

    fn client(memory: &Memory, address: &str) -> Client {
        memory.client(address.parse().unwrap())
    }

    const BODIES: Kind = Kind::Bodies;

    fn used(memory: &Memory) -> usize {
        memory.usage().find(|usage| usage.kind == BODIES).unwrap().used
    }

    #[test]
    fn a_kind_has_a_ceiling_and_what_is_dropped_is_free_again() {
        let memory = memory(&["192.0.2.1"]);
        let one = client(&memory, "192.0.2.1");
        let mut charge = one.charge(BODIES, 600).unwrap();
        assert_eq!(one.charge(BODIES, 401).unwrap_err(), OverLimit::Full(BODIES));
        assert!(one.charge(Kind::Live, 1_000).is_ok(), "the other kinds are not touched");
        charge.grow_to(1_000).unwrap();
        assert_eq!(charge.grow_to(1_001), Err(OverLimit::Full(BODIES)));
        charge.shrink_to(10);
        assert_eq!(used(&memory), 10);
        drop(charge);
        assert_eq!(used(&memory), 0);
        let usage = memory.usage().find(|usage| usage.kind == BODIES).unwrap();
        assert_eq!(usage.refused, [2, 0]);
    }

    #[test]
    fn a_share_binds_once_four_fifths_are_used() {
        let memory = memory(&[]);
        let (one, two) = (client(&memory, "192.0.2.1"), client(&memory, "192.0.2.2"));
        let first = one.charge(BODIES, 800).unwrap();
        assert!(one.charge(BODIES, 1).is_ok(), "nobody else uses any");
        let _other = two.charge(BODIES, 1).unwrap();
        assert_eq!(one.charge(BODIES, 1).unwrap_err(), OverLimit::Share(BODIES));
        let _others = two.charge(BODIES, 199).unwrap();
        assert_eq!(two.charge(BODIES, 1).unwrap_err(), OverLimit::Full(BODIES));
        drop(first);
        assert!(one.charge(BODIES, 500).is_ok());
    }

    #[test]
    fn the_last_tenth_is_for_small_charges() {
        let memory = Memory::with_ceilings(Size::gib(1), [10 << 20; KINDS], 1.0, Vec::new());
        let one = client(&memory, "192.0.2.1");
        let mut large = one.charge(BODIES, 9 << 20).unwrap();
        assert_eq!(large.grow_to((9 << 20) + 1), Err(OverLimit::Full(BODIES)));
        assert_eq!(one.charge(BODIES, SMALL_BYTES + 1).unwrap_err(), OverLimit::Full(BODIES));
        assert!(one.charge(BODIES, SMALL_BYTES).is_ok());
    }

    #[test]
    fn who_is_unlimited_has_no_share() {
        let memory = memory(&["10.0.0.0/8", "2001:db8::7"]);
        for unlimited in ["10.1.2.3", "2001:db8::7"] {
            let _other = client(&memory, "2001:db8::8").charge(BODIES, 10).unwrap();
            assert!(client(&memory, unlimited).charge(BODIES, 990).is_ok());
        }
        assert!(!client(&memory, "2001:db8::8").is_unlimited());
    }

    #[test]
    fn a_client_is_kept_as_long_as_it_uses_anything() {
        let memory = memory(&[]);
        let charge = client(&memory, "2001:db8::1").charge(BODIES, 300).unwrap();
        let again = client(&memory, "2001:db8:0:ffff::1");
        assert!(Arc::ptr_eq(&charge.client.0, &again.0), "a network of 48 bits is one client");
        drop((charge, again));
        assert!(memory.0.clients.iter().all(|shard| shard.lock().is_empty()));
    }

    #[test]
    fn the_ceilings_are_the_account_and_the_rest_is_for_the_program() {
        assert_eq!(TWENTIETHS.iter().map(|(_, twentieths)| twentieths).sum::<usize>(), 20);
        for (row, (kind, _)) in TWENTIETHS.iter().enumerate() {
            assert_eq!(kind.row(), row);
        }
        let memory = Memory::new(Size::gib(1), 0.125, &[], Vec::new());
        let ceilings: usize = Kind::ALL.iter().map(|kind| memory.ceiling(*kind)).sum();
        assert!((700 << 20..=768 << 20).contains(&ceilings), "{ceilings}");
        let caps = [(Kind::Live, Size::mib(16)), (Kind::Bodies, Size::gib(9))];
        let capped = Memory::new(Size::gib(1), 0.125, &caps, Vec::new());
        assert_eq!(capped.ceiling(Kind::Live), 16 << 20);
        assert_eq!(capped.ceiling(Kind::Bodies), memory.ceiling(Kind::Bodies));
        assert_eq!(capped.share(Kind::Live), 2 << 20);
    }
}
