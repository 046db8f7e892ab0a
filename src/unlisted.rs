//! Names in accepted bodies that the documentation does not list where they stand, counted and kept for the
//! operator: a player's typing error costs a value, and nobody else sees it.
//!
//! There is room for so many names ([`NAMES_MAX`]), each once for a [section](Section). Whoever answers the client
//! only looks a name up; which known name was meant is found when an operator asks.
//!
//! Strangers choose the names, so a flood of new ones must not push out those of others. Each name has a few clients
//! that vouch for it. It weighs as many names as that one of them vouches for that vouches for the fewest, and the
//! heaviest makes room:
//!
//! ```text
//! client    vouches for            name     its clients     weight
//! A         a, b                   a        A, B            1        because of B
//! B         a                      b        A               2
//! C         x1 … x200              x1       C               200      goes first
//! ```
//!
//! A client that sends a name takes the place of one that vouches for more names, so those of a player that is in many
//! hands weigh next to nothing. Of names of one weight that goes for which fewer clients vouch, then that which came
//! less often, then that which was not seen for longer.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use serde::Serialize;

use crate::escape;
use crate::limits::client::{client_of, network_of};
use crate::privacy::Redactor;
use crate::wire::{Event, EventSet, EventType, Listed, Section};

/// How many names are kept. Each has no more than 256 bytes.
const NAMES_MAX: usize = 256;

/// How many clients vouch for a name.
const VOUCHERS: usize = 4;

/// How many names of one body are kept, each once.
const OF_BODY_MAX: usize = 32;

/// How long the log is silent after it has counted new names, in ms.
const SILENCE_MS: u64 = 60 * 60 * 1_000;

/// Sections by row.
type Counts = [u64; Section::ALL.len()];

/// Keeps the names.
#[derive(Debug)]
pub struct UnlistedNames {
    counts: [AtomicU64; Section::ALL.len()],
    table: Mutex<Table>,
    /// Makes of a client what nobody outside can foresee.
    clients: RandomState,
}

/// Who sent a body.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// The client; all of which nothing is known are one.
    pub ip: Option<IpAddr>,
    /// When it came, in ms since the Unix epoch by the server's clock.
    pub now_ms: u64,
}

/// The names of a stored session, gathered while its events are read.
#[derive(Debug, Default)]
pub struct OfBody<'a> {
    counts: Counts,
    names: Vec<Found<'a>>,
}

/// A name in a body.
#[derive(Clone, Debug)]
struct Found<'n> {
    section: Section,
    name: Cow<'n, str>,
    on: EventSet,
    count: u64,
}

impl<'a> OfBody<'a> {
    /// Adds the names of an event.
    pub fn add(&mut self, event: &Event<'a>) {
        if event.unlisted.is_empty() {
            return;
        }
        for (count, more) in self.counts.iter_mut().zip(event.unlisted_counts) {
            *count += u64::from(more);
        }
        let on = EventSet::of(event.event_type);
        for unlisted in &event.unlisted {
            let (section, name) = (unlisted.section, &unlisted.name);
            let same = |known: &&mut Found<'_>| known.section == section && known.name == *name;
            if let Some(known) = self.names.iter_mut().find(same) {
                known.on = known.on.and(on);
                known.count += 1;
            } else if self.names.len() < OF_BODY_MAX {
                self.names.push(Found { section, name: name.clone(), on, count: 1 });
            }
        }
    }
}

impl UnlistedNames {
    /// Room for names, which are forgotten when they were not seen for so long; zero sets no bound.
    pub fn new(retention: Duration) -> Self {
        let retention_ms = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        let table = Table {
            retention_ms: if retention_ms > 0 { retention_ms } else { u64::MAX },
            ..Table::default()
        };
        Self { counts: Default::default(), table: Mutex::new(table), clients: RandomState::new() }
    }

    /// Counts and keeps the names of an event that was accepted. Those that privacy settings name are only counted.
    pub fn note(&self, sender: Sender, event: &Event<'_>, redactor: Option<&Redactor>) {
        if event.unlisted.is_empty() {
            return;
        }
        let on = EventSet::of(event.event_type);
        self.count(event.unlisted_counts.map(u64::from));
        let names = event.unlisted.iter().map(|unlisted| Found {
            section: unlisted.section,
            name: Cow::Borrowed(&*unlisted.name),
            on,
            count: 1,
        });
        self.keep(sender, names, redactor);
    }

    /// The same for a stored session.
    pub fn note_body(&self, sender: Sender, body: OfBody<'_>, redactor: Option<&Redactor>) {
        if body.names.is_empty() {
            return;
        }
        self.count(body.counts);
        self.keep(sender, body.names.into_iter(), redactor);
    }

    fn count(&self, counts: Counts) {
        for (all, more) in self.counts.iter().zip(counts) {
            all.fetch_add(more, Ordering::Relaxed);
        }
    }

    fn keep<'n>(
        &self,
        Sender { ip, now_ms }: Sender,
        names: impl Iterator<Item = Found<'n>>,
        redactor: Option<&Redactor>,
    ) {
        let shown = |found: &Found<'_>| {
            !redactor.is_some_and(|redactor| redactor.covers(found.section, &found.name))
        };
        let client = ip.map(|ip| network_of(ip).unwrap_or(client_of(ip)));
        let client = self.clients.hash_one(client);
        for found in names.filter(shown) {
            point_out(&found);
            // Nobody waits for more than one name of another.
            self.table.lock().see(client, now_ms, &found);
        }
        let new = self.table.lock().take_unlogged(now_ms);
        if let Some(new) = new {
            tracing::info!(
                new,
                "accepted bodies have names that are not listed where they stand; /unlisted on the admin side \
                 shows them"
            );
        }
    }

    /// How many names came, by section.
    pub fn counts(&self) -> Counts {
        self.counts.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// All that is known of the names, as JSON: the most frequent first. It takes some milliseconds if there are many.
    pub fn to_json(&self, now_ms: u64) -> String {
        let (mut names, forgotten) = {
            let mut table = self.table.lock();
            table.forget_old(now_ms);
            (table.copied(), table.forgotten)
        };
        names.sort_by(|(a_section, a_name, a), (b_section, b_name, b)| {
            let by_use = (b.count, b.last_ms).cmp(&(a.count, a.last_ms));
            by_use.then_with(|| (*a_section as u8, a_name).cmp(&(*b_section as u8, b_name)))
        });
        let names = names.iter().map(|(section, name, seen)| Shown::of(*section, name, seen));
        let all = All { names: names.collect(), names_max: NAMES_MAX, forgotten };
        let json = serde_json::to_string(&all).expect("texts and numbers are JSON");
        escape::text(&json, &[]).into_owned()
    }
}

/// What operators get.
#[derive(Serialize)]
struct All<'n> {
    names: Vec<Shown<'n>>,
    names_max: usize,
    forgotten: u64,
}

/// A name as operators get it.
#[derive(Serialize)]
struct Shown<'n> {
    name: &'n str,
    #[serde(rename = "where")]
    section: &'static str,
    pointer: String,
    event_types: Vec<&'static str>,
    /// The name that was probably meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest: Option<&'static str>,
    /// Where exactly this name is listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    listed_in: Option<&'static str>,
    /// On which event types it is, or what was meant, if not on all on which it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    listed_on: Option<Vec<&'static str>>,
    count: u64,
    first_ms: u64,
    last_ms: u64,
}

impl<'n> Shown<'n> {
    fn of(section: Section, name: &'n str, seen: &Seen) -> Self {
        let texts = |set: EventSet| set.iter().map(EventType::name).collect();
        let listed = Listed::of(name);
        let nearest = || {
            let near_on = |on| section.nearest(on, name);
            near_on(seen.on).or_else(|| near_on(EventSet::ALL))
        };
        let nearest = if listed.is_some() { None } else { nearest() };
        let meant = listed.or_else(|| nearest.and_then(Listed::of));
        Self {
            name,
            section: section.name(),
            pointer: section.pointer_to(name),
            event_types: texts(seen.on),
            nearest,
            listed_in: listed.map(|listed| listed.place),
            listed_on: meant.map(|meant| meant.on).filter(|on| !on.has_all(seen.on)).map(texts),
            count: seen.count,
            first_ms: seen.first_ms,
            last_ms: seen.last_ms,
        }
    }
}

/// What is known of a name.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// On which event types it came.
    on: EventSet,
    count: u64,
    /// When it came first and last, in ms since the Unix epoch.
    first_ms: u64,
    last_ms: u64,
    /// The clients that vouch for it.
    clients: [Option<u64>; VOUCHERS],
}

impl Seen {
    fn is_old(&self, now_ms: u64, retention_ms: u64) -> bool {
        now_ms.saturating_sub(self.last_ms) >= retention_ms
    }
}

/// The names, and who vouches for them.
#[derive(Debug, Default)]
struct Table {
    names: [HashMap<Box<str>, Seen>; Section::ALL.len()],
    /// For how many names each client vouches.
    vouching: HashMap<u64, u32>,
    retention_ms: u64,
    /// How many names made room for others.
    forgotten: u64,
    /// How many names are new since the log last counted them, and when that was, in ms since the Unix epoch.
    unlogged: u64,
    logged_ms: Option<u64>,
}

impl Table {
    /// Notes that a name came. For one that is known it takes no memory.
    fn see(&mut self, client: u64, now_ms: u64, found: &Found<'_>) {
        let section = found.section as usize;
        if let Some(seen) = self.names[section].get_mut(&*found.name) {
            seen.on = seen.on.and(found.on);
            seen.count += found.count;
            seen.last_ms = seen.last_ms.max(now_ms);
            vouch(&mut self.vouching, &mut seen.clients, client);
            return;
        }
        if self.len() >= NAMES_MAX {
            self.forget_heaviest(now_ms);
        }
        let mut clients = [None; VOUCHERS];
        vouch(&mut self.vouching, &mut clients, client);
        let (on, count) = (found.on, found.count);
        let seen = Seen { on, count, first_ms: now_ms, last_ms: now_ms, clients };
        self.names[section].insert((&*found.name).into(), seen);
        self.unlogged += 1;
    }

    fn len(&self) -> usize {
        self.names.iter().map(HashMap::len).sum()
    }

    /// Makes room for a name. It looks at all of them, which takes some microseconds.
    fn forget_heaviest(&mut self, now_ms: u64) {
        let weight = |seen: &Seen| {
            let clients = seen.clients.iter().flatten();
            let fewest = clients.clone().map(|client| load(&self.vouching, *client)).min();
            let is_old = seen.is_old(now_ms, self.retention_ms);
            let is_lonely = Reverse(clients.count());
            (is_old, fewest, is_lonely, Reverse(seen.count), Reverse(seen.last_ms))
        };
        let all = Section::ALL.into_iter().flat_map(|section| {
            self.names[section as usize].iter().map(move |(name, seen)| (section, name, seen))
        });
        let heaviest = all.max_by_key(|(_, _, seen)| weight(seen));
        if let Some((section, name)) = heaviest.map(|(section, name, _)| (section, name.clone())) {
            if let Some(seen) = self.names[section as usize].remove(&name) {
                release(&mut self.vouching, &seen);
            }
            self.forgotten += 1;
        }
    }

    /// Removes the names that were not seen for too long.
    fn forget_old(&mut self, now_ms: u64) {
        let Self { names, vouching, retention_ms, .. } = self;
        for names in names {
            names.retain(|_, seen| {
                let is_old = seen.is_old(now_ms, *retention_ms);
                if is_old {
                    release(vouching, seen);
                }
                !is_old
            });
        }
    }

    fn copied(&self) -> Vec<(Section, Box<str>, Seen)> {
        let all = Section::ALL.into_iter().flat_map(|section| {
            let names = self.names[section as usize].iter();
            names.map(move |(name, seen)| (section, name.clone(), *seen))
        });
        all.collect()
    }

    /// How many names are new, if there are any and the log was silent for long enough.
    fn take_unlogged(&mut self, now_ms: u64) -> Option<u64> {
        let is_silent = self.logged_ms.is_some_and(|ms| now_ms.saturating_sub(ms) < SILENCE_MS);
        if self.unlogged == 0 || is_silent {
            return None;
        }
        self.logged_ms = Some(now_ms);
        Some(std::mem::take(&mut self.unlogged))
    }
}

/// Lets a client vouch for a name if there is a place, or if another does that vouches for more.
fn vouch(vouching: &mut HashMap<u64, u32>, clients: &mut [Option<u64>; VOUCHERS], client: u64) {
    if clients.contains(&Some(client)) {
        return;
    }
    // A free place counts like a client that vouches for everything.
    let load_of = |place: &Option<u64>| place.map_or(u32::MAX, |known| load(vouching, known));
    let Some(place) = clients.iter_mut().max_by_key(|place| load_of(place)) else { return };
    if load(vouching, client) + 1 < load_of(place) {
        if let Some(known) = place.replace(client) {
            unload(vouching, known);
        }
        *vouching.entry(client).or_default() += 1;
    }
}

fn load(vouching: &HashMap<u64, u32>, client: u64) -> u32 {
    vouching.get(&client).copied().unwrap_or_default()
}

/// The clients of a name vouch for it no more.
fn release(vouching: &mut HashMap<u64, u32>, seen: &Seen) {
    for client in seen.clients.iter().flatten() {
        unload(vouching, *client);
    }
}

fn unload(vouching: &mut HashMap<u64, u32>, client: u64) {
    if let Some(names) = vouching.get_mut(&client) {
        *names -= 1;
        if *names == 0 {
            vouching.remove(&client);
        }
    }
}

/// Logs a name at the level `debug`, for whoever looks for faults in a player.
fn point_out(found: &Found<'_>) {
    if tracing::enabled!(tracing::Level::DEBUG) {
        let (name, nearest) = (&found.name, found.section.nearest(found.on, &found.name));
        tracing::debug!(%name, nearest, "a body has a name that is not listed");
    }
}

#[cfg(test)]
mod tests;
