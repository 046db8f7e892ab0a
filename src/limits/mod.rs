//! What one client or report suite may ask of the server, and for whom the server collects.
//!
//! Nothing is limited unless it is set, and what is not set costs nothing. [`client`] says which client an address
//! is, and [`rate`] holds the rates; the lists of who is collected for are kept here.

pub(crate) mod client;

pub mod concentration;

mod machine;

pub mod memory;

mod network;

mod rate;

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use self::client::{client_of, network_of};
use self::concentration::Concentration;
use self::rate::Rate;
use crate::clock::Clock;
use crate::session::Facts;
use crate::wire::quoted;

pub use self::network::{Network, NoNetwork};

/// How many report suites one session may name where they are held to a rate, so that a request costs no more
/// than that. Real ones name one or two.
const SUITES_MAX: usize = 8;

/// How many of them a refusal names.
const NAMED_MAX: usize = 8;

/// How many times the rate and the burst of one client its wider network has, of 48 bits (IPv6): one owner may
/// have 65 536 clients there.
const NETWORK_FACTOR: u32 = 16;

/// How many bytes of a stored session, unpacked, cost one token.
const BYTES_PER_TOKEN: u64 = 16 << 10;

const ORGANIZATION: &str = "visitor.marketingCloudOrgId";
/// The key under which a start names its report suites.
pub const REPORT_SUITE: &str = "analytics.reportSuite";

/// The section `limits` of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How many requests a second one client address may post, on average; zero sets no limit.
    pub client_requests_per_second: u32,
    /// How many it may post at once after it was silent.
    pub client_burst: u32,
    /// How many requests a second may be posted for one report suite, on average; zero sets no limit.
    pub report_suite_requests_per_second: u32,
    /// How many may be posted at once after silence.
    pub report_suite_burst: u32,
    /// The networks whose clients have no limits of their own.
    pub unlimited_addresses: Vec<Network>,
    /// The organisation ids for which sessions are collected; empty, for all.
    pub organizations: Vec<String>,
    /// The report suites for which sessions are collected; empty, for all.
    pub report_suites: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            client_requests_per_second: 0,
            client_burst: 100,
            report_suite_requests_per_second: 0,
            report_suite_burst: 1_000,
            unlimited_addresses: Vec::new(),
            organizations: Vec::new(),
            report_suites: Vec::new(),
        }
    }
}

impl Settings {
    /// Values that are right by themselves and wrong for what they do, each with its key.
    pub(crate) fn contradictions(&self) -> Vec<(&'static str, &'static str)> {
        // The clock shows whole milliseconds: a smaller bucket could not be emptied as fast as it is filled.
        let least = |per_second: u32| per_second.div_ceil(1_000).max(1);
        let is_name = |name: &String| !name.is_empty() && name.trim() == name;
        let held = [
            (
                self.client_burst >= least(self.client_requests_per_second),
                "limits.client_burst",
                "must be at least 1 and a thousandth of limits.client_requests_per_second",
            ),
            (
                self.report_suite_burst >= least(self.report_suite_requests_per_second),
                "limits.report_suite_burst",
                "must be at least 1 and a thousandth of limits.report_suite_requests_per_second",
            ),
            (
                self.organizations.iter().all(is_name),
                "limits.organizations",
                "must not have empty items, nor items with blanks around them",
            ),
            (
                self.report_suites.iter().all(|name| is_name(name) && !name.contains(',')),
                "limits.report_suites",
                "must not have empty items, nor items with blanks around them or with commas",
            ),
        ];
        let broken = held.into_iter().filter(|(holds, ..)| !holds);
        broken.map(|(_, key, why)| (key, why)).collect()
    }
}

/// The limits of one server.
#[derive(Debug)]
pub struct Limits {
    /// Who sends the requests.
    pub concentration: Concentration,
    clients: Option<Rate>,
    /// The wider networks of clients, which have a rate if clients have.
    networks: Option<Rate>,
    unlimited: Vec<Network>,
    suites: Option<Rate>,
    organizations: HashSet<String>,
    report_suites: HashSet<String>,
}

/// Somebody asks too often.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// A client.
    #[error(
        "this client posts more than {per_second} requests a second, which limits.client_requests_per_second allows"
    )]
    Client {
        /// The rate that is set.
        per_second: u32,
        /// After how many seconds a request will be taken.
        wait_s: u64,
    },
    /// The clients of an IPv6 network of 48 bits, all together.
    #[error(
        "the /48 network of this client posts more than {per_second} requests a second, which is \
         {NETWORK_FACTOR} times limits.client_requests_per_second"
    )]
    Network {
        /// The rate that the network has.
        per_second: u32,
        /// After how many seconds a request will be taken.
        wait_s: u64,
    },
    /// The players of a report suite, all together.
    #[error(
        "the report suite {suite} gets more than {per_second} requests a second, which \
         limits.report_suite_requests_per_second allows"
    )]
    ReportSuite {
        /// Its name, quoted and cut.
        suite: String,
        /// The rate that is set.
        per_second: u32,
        /// After how many seconds a request will be taken.
        wait_s: u64,
    },
}

impl Exceeded {
    /// After how many seconds a request will be taken; at least one.
    pub fn wait_s(&self) -> u64 {
        let (Self::Client { wait_s, .. }
        | Self::Network { wait_s, .. }
        | Self::ReportSuite { wait_s, .. }) = self;
        *wait_s
    }
}

/// A session is for somebody for whom this server does not collect.
#[derive(Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct NotAllowed(Vec<Unlisted>);

/// What is wrong with one parameter.
#[derive(Debug, PartialEq, Eq)]
struct Unlisted {
    key: &'static str,
    fault: Fault,
    setting: &'static str,
}

#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// It is not there, and there is a list.
    Missing,
    /// This value, quoted and cut, is not on the list.
    NotListed(String),
    /// It names more than are held to the rate.
    TooMany,
}

impl NotAllowed {
    /// The parameters whose values are told.
    pub fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|unlisted| unlisted.key)
    }
}

impl fmt::Display for NotAllowed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, Unlisted { key, fault, setting }) in self.0.iter().enumerate() {
            let before = if place == 0 { "" } else { "; " };
            match fault {
                Fault::NotListed(value) => {
                    write!(formatter, "{before}{key} {value} is not on the list {setting}")?;
                }
                Fault::Missing => {
                    write!(formatter, "{before}{key} is missing, and {setting} is a list")?;
                }
                Fault::TooMany => write!(
                    formatter,
                    "{before}{key} names more than {SUITES_MAX} report suites, which {setting} does not allow"
                )?,
            }
        }
        Ok(())
    }
}

impl Limits {
    /// Limits that hold from now on.
    pub fn new(settings: &Settings, clock: &Clock) -> Self {
        let rate =
            |per_second, burst| Some(Rate::new(NonZeroU32::new(per_second)?, burst, clock.clone()));
        Self {
            concentration: Concentration::new(clock),
            clients: rate(settings.client_requests_per_second, settings.client_burst),
            networks: rate(
                settings.client_requests_per_second.saturating_mul(NETWORK_FACTOR),
                settings.client_burst.saturating_mul(NETWORK_FACTOR),
            ),
            unlimited: settings.unlimited_addresses.clone(),
            suites: rate(settings.report_suite_requests_per_second, settings.report_suite_burst),
            organizations: settings.organizations.iter().cloned().collect(),
            report_suites: settings.report_suites.iter().cloned().collect(),
        }
    }

    /// Whether the limits of clients are not for this address.
    pub fn is_unlimited(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.unlimited.iter().any(|network| network.contains(address))
    }

    /// Counts a request of a client, and of its wider network, whose address is asked for only if that matters.
    ///
    /// # Errors
    /// [`Exceeded`]; then it was counted for the client only if its network is what asks too often. A client that
    /// asks too often takes nothing from its network.
    pub fn take_client(&self, address: impl FnOnce() -> Option<IpAddr>) -> Result<(), Exceeded> {
        let (Some(clients), Some(networks)) = (&self.clients, &self.networks) else {
            return Ok(());
        };
        let limited = address().filter(|address| !self.is_unlimited(*address));
        let Some(address) = limited else { return Ok(()) };
        let per_second = clients.per_second;
        clients
            .take(client_of(address))
            .map_err(|wait_s| Exceeded::Client { per_second, wait_s })?;
        let Some(network) = network_of(address) else { return Ok(()) };
        let per_second = networks.per_second;
        networks.take(network).map_err(|wait_s| Exceeded::Network { per_second, wait_s })
    }

    /// Takes more tokens of a client and of its wider network, for work that one request has caused: it is done
    /// even if they have too few, and then they wait for as long as the missing ones take to come in, an hour at
    /// most.
    pub fn charge_client(&self, address: IpAddr, tokens: u64) {
        let (Some(clients), Some(networks)) = (&self.clients, &self.networks) else { return };
        if tokens == 0 || self.is_unlimited(address) {
            return;
        }
        clients.charge(client_of(address), tokens);
        if let Some(network) = network_of(address) {
            networks.charge(network, tokens);
        }
    }

    /// Counts a request for report suites, as a session names them, which is asked for only if that matters.
    ///
    /// # Errors
    /// [`Exceeded`]; then it was counted for those that stand before the one that it names.
    pub fn take_suites(&self, named: impl FnOnce() -> Option<String>) -> Result<(), Exceeded> {
        let Some(rate) = &self.suites else { return Ok(()) };
        for suite in distinct(&named().unwrap_or_default()).into_iter().take(SUITES_MAX) {
            rate.take(suite).map_err(|wait_s| Exceeded::ReportSuite {
                suite: quoted(suite),
                per_second: rate.per_second,
                wait_s,
            })?;
        }
        Ok(())
    }

    /// Whether sessions are collected for whom a start names.
    ///
    /// # Errors
    /// [`NotAllowed`].
    pub fn allow(&self, facts: &Facts) -> Result<(), NotAllowed> {
        let mut unlisted = Vec::new();
        if !self.organizations.is_empty() {
            let setting = "limits.organizations";
            match facts.text(ORGANIZATION).filter(|name| !name.is_empty()) {
                Some(name) if self.organizations.contains(&name) => {}
                other => {
                    let fault = other
                        .as_deref()
                        .map_or(Fault::Missing, |name| Fault::NotListed(quoted(name)));
                    unlisted.push(Unlisted { key: ORGANIZATION, fault, setting });
                }
            }
        }
        if !self.report_suites.is_empty() || self.suites.is_some() {
            let named = facts.text(REPORT_SUITE).unwrap_or_default();
            unlisted.extend(self.faults_of_suites(&named));
        }
        if unlisted.is_empty() { Ok(()) } else { Err(NotAllowed(unlisted)) }
    }

    fn faults_of_suites(&self, named: &str) -> Vec<Unlisted> {
        let one = |fault, setting| Unlisted { key: REPORT_SUITE, fault, setting };
        let mut found = Vec::new();
        if !self.report_suites.is_empty() {
            let setting = "limits.report_suites";
            if suites_of(named).next().is_none() {
                found.push(one(Fault::Missing, setting));
            }
            let others = suites_of(named).filter(|suite| !self.report_suites.contains(*suite));
            let others = others.take(NAMED_MAX).map(|suite| Fault::NotListed(quoted(suite)));
            found.extend(others.map(|fault| one(fault, setting)));
        }
        if self.suites.is_some() && distinct(named).len() > SUITES_MAX {
            found.push(one(Fault::TooMany, "limits.report_suite_requests_per_second"));
        }
        found
    }
}

/// What a session's `analytics.reportSuite` names: one report suite, or several with commas between them.
fn suites_of(named: &str) -> impl Iterator<Item = &str> {
    named.split(',').map(str::trim).filter(|suite| !suite.is_empty())
}

/// The report suites that a session names, each once, as far as they matter: those that are counted, and one more
/// if there are more.
fn distinct(named: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for suite in suites_of(named) {
        if found.len() > SUITES_MAX {
            break;
        }
        if !found.contains(&suite) {
            found.push(suite);
        }
    }
    found
}

/// What a stored session costs beyond its request, which has taken a token: one for each event, and one for each
/// 16 KiB unpacked that has begun.
pub fn tokens_of_stored(bytes: u64, events: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN).saturating_add(events)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::rate::KEYS_MAX;
    use super::*;
    use crate::session::Opening;
    use crate::wire::{Profile, Rules, Start};

    fn limits(change: impl FnOnce(&mut Settings)) -> (Limits, Clock) {
        let mut settings = Settings::default();
        change(&mut settings);
        assert_eq!(settings.contradictions(), []);
        let clock = Clock::manual(1_700_000_000_000);
        (Limits::new(&settings, &clock), clock)
    }

    fn client(limits: &Limits, address: &str) -> Result<(), u64> {
        let address = address.parse().unwrap();
        limits.take_client(|| Some(address)).map_err(|exceeded| exceeded.wait_s())
    }

    fn suites(limits: &Limits, named: &str) -> Result<(), Exceeded> {
        limits.take_suites(|| Some(named.to_owned()))
    }

    fn facts(params: &str) -> Facts {
        let body = format!(
            r#"{{"eventType":"sessionStart","playerTime":{{"ts":0,"playhead":0}},"params":
            {{"media.id":"a","media.length":0,"media.contentType":"","media.playerName":""{params}}}}}"#
        );
        let rules = Rules { profile: Profile::Open, strict: false };
        Opening::of(&Start::parse(body.as_bytes(), rules).unwrap(), None, None).facts
    }

    #[test]
    fn a_client_has_its_burst_and_then_its_rate() {
        let (limits, clock) = limits(|settings| {
            (settings.client_requests_per_second, settings.client_burst) = (2, 5);
        });
        for _ in 0..5 {
            assert_eq!(client(&limits, "203.0.113.7"), Ok(()));
        }
        assert_eq!(client(&limits, "203.0.113.7"), Err(1));
        assert_eq!(client(&limits, "::ffff:203.0.113.7"), Err(1), "it is the same client");
        assert_eq!(client(&limits, "203.0.113.8"), Ok(()));
        clock.advance(499);
        assert_eq!(client(&limits, "203.0.113.7"), Err(1));
        clock.advance(1);
        assert_eq!(client(&limits, "203.0.113.7"), Ok(()));
        assert_eq!(client(&limits, "203.0.113.7"), Err(1), "what was refused was not counted");
        clock.advance(60_000);
        let taken = (0..20).filter(|_| client(&limits, "203.0.113.7").is_ok()).count();
        assert_eq!(taken, 5);
    }

    #[test]
    fn a_subscriber_of_ipv6_is_one_client() {
        let (limits, _) = limits(|settings| {
            (settings.client_requests_per_second, settings.client_burst) = (1, 1);
        });
        assert_eq!(client(&limits, "2001:db8:1:2::1"), Ok(()));
        assert_eq!(client(&limits, "2001:db8:1:2:ffff::9"), Err(1));
        assert_eq!(client(&limits, "2001:db8:1:3::1"), Ok(()));
    }

    #[test]
    fn a_48_holds_its_64s_together() {
        let (limits, clock) = limits(|settings| {
            (settings.client_requests_per_second, settings.client_burst) = (1, 2);
        });
        let of_subnet = |number: u32| format!("2001:db8:1:{number:x}::1");
        // One client that asks too often takes nothing from its neighbours.
        let taken = (0..999).filter(|_| client(&limits, &of_subnet(0)).is_ok()).count();
        assert_eq!(taken, 2);
        let taken = (1..999).filter(|n| client(&limits, &of_subnet(*n)).is_ok()).count();
        assert_eq!(taken, 32 - 2);
        let exceeded = limits.take_client(|| of_subnet(7_000).parse().ok()).unwrap_err();
        assert_eq!(exceeded, Exceeded::Network { per_second: 16, wait_s: 1 });
        assert_eq!(client(&limits, "2001:db8:2::1"), Ok(()), "of another network");
        clock.advance(1_000);
        let taken = (1_000..1_999).filter(|n| client(&limits, &of_subnet(*n)).is_ok()).count();
        assert_eq!(taken, 16);
    }

    #[test]
    fn a_client_of_6to4_is_its_ipv4_address() {
        let (limits, _) = limits(|settings| {
            (settings.client_requests_per_second, settings.client_burst) = (1, 1);
        });
        assert_eq!(client(&limits, "2002:cb00:7107:1::1"), Ok(()));
        assert_eq!(client(&limits, "2002:cb00:7107:2::1"), Err(1));
        assert_eq!(client(&limits, "203.0.113.7"), Err(1));
    }

    #[test]
    fn a_client_that_is_charged_waits_until_it_has_paid() {
        let (limits, clock) = limits(|settings| {
            (settings.client_requests_per_second, settings.client_burst) = (10, 5);
        });
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(tokens_of_stored(40 << 10, 100), 103);
        assert_eq!(client(&limits, "203.0.113.7"), Ok(()));
        limits.charge_client(address("203.0.113.7"), 103);
        // 5 are there, 104 are taken: the first comes in when 100 have.
        assert_eq!(client(&limits, "203.0.113.7"), Err(10));
        assert_eq!(client(&limits, "203.0.113.8"), Ok(()), "nobody else pays");
        clock.advance(9_999);
        assert_eq!(client(&limits, "203.0.113.7"), Err(1));
        clock.advance(1);
        assert_eq!(client(&limits, "203.0.113.7"), Ok(()));
        assert_eq!(client(&limits, "203.0.113.7"), Err(1));
        // One that was not seen before, and one of IPv6 whose network pays too.
        limits.charge_client(address("203.0.113.9"), 5);
        assert_eq!(client(&limits, "203.0.113.9"), Err(1));
        limits.charge_client(address("2001:db8:1::1"), 16 * 5);
        assert_eq!(
            limits.take_client(|| Some(address("2001:db8:1:2::1"))).unwrap_err(),
            Exceeded::Network { per_second: 160, wait_s: 1 }
        );
        limits.charge_client(address("203.0.113.9"), u64::MAX);
        let wait_s = client(&limits, "203.0.113.9").unwrap_err();
        assert!((3_600..=3_601).contains(&wait_s), "no longer than an hour: {wait_s} s");
    }

    #[test]
    fn addresses_without_limits_have_none() {
        let (limits, _) = limits(|settings| {
            (settings.client_requests_per_second, settings.client_burst) = (1, 1);
            settings.unlimited_addresses =
                vec!["203.0.113.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        });
        for address in ["203.0.113.7", "::ffff:203.0.113.7", "2001:db8:1::1"] {
            limits.charge_client(address.parse().unwrap(), 99);
            assert!((0..99).all(|_| client(&limits, address).is_ok()), "{address}");
            assert!(limits.is_unlimited(address.parse().unwrap()));
        }
        assert!(!limits.is_unlimited("203.0.114.1".parse().unwrap()));
        assert_eq!(client(&limits, "203.0.114.1"), Ok(()));
        assert_eq!(client(&limits, "203.0.114.1"), Err(1));
    }

    #[test]
    fn a_high_rate_is_reached_though_the_clock_shows_milliseconds() {
        let (limits, clock) = limits(|settings| {
            (settings.client_requests_per_second, settings.client_burst) = (5_000, 5);
        });
        let mut taken = 0;
        for _ in 0..1_000 {
            taken += (0..9).filter(|_| client(&limits, "203.0.113.7").is_ok()).count();
            clock.advance(1);
        }
        assert_eq!(taken, 5_000);
    }

    #[test]
    fn nobody_hides_a_report_suite_behind_others_that_are_counted_first() {
        let decoys =
            |count: usize| (0..count).map(|n| format!("x{n}")).collect::<Vec<_>>().join(",");
        let named = |suites: &str| facts(&format!(r#","analytics.reportSuite":"{suites}""#));
        let (limited, _) = limits(|settings| settings.report_suite_requests_per_second = 1);
        assert_eq!(limited.allow(&named(&decoys(8))), Ok(()));
        let said = limited.allow(&named(&format!("{},a", decoys(8)))).unwrap_err().to_string();
        assert!(said.contains("names more than 8 report suites"), "{said}");
        let same = format!("{},a", vec!["x"; 99].join(","));
        assert_eq!(limited.allow(&named(&same)), Ok(()), "these are two");
        assert!(suites(&limited, "a").is_ok());
        assert!(suites(&limited, &same).is_ok());
        let (free, _) = limits(|_| {});
        assert_eq!(
            free.allow(&named(&decoys(99))),
            Ok(()),
            "nothing is counted, so nothing is hidden"
        );
    }

    #[test]
    fn each_report_suite_that_is_named_is_counted() {
        let (limits, _) = limits(|settings| {
            (settings.report_suite_requests_per_second, settings.report_suite_burst) = (1, 2);
        });
        assert_eq!(suites(&limits, "a"), Ok(()));
        assert_eq!(suites(&limits, "b, a,,a,a,a,a,a"), Ok(()), "named often, counted once");
        let said = suites(&limits, "b,a").unwrap_err().to_string();
        assert!(said.starts_with("the report suite \"a\" gets more than 1 requests"), "{said}");
        assert!(suites(&limits, "b").is_err(), "it was counted before a was not");
        assert_eq!(suites(&limits, ""), Ok(()));
        let many: Vec<_> = (0..100).map(|number| number.to_string()).collect();
        for _ in 0..2 {
            assert_eq!(suites(&limits, &many.join(",")), Ok(()));
        }
        assert_eq!((suites(&limits, "7").is_err(), suites(&limits, "8")), (true, Ok(())));
        assert_eq!(limits.take_client(|| panic!("nobody asks")), Ok(()));
    }

    #[test]
    fn a_flood_of_addresses_takes_no_more_memory_and_locks_nobody_out() {
        let (limits, _) = limits(|settings| {
            (settings.client_requests_per_second, settings.client_burst) = (1, 100);
        });
        let rate = limits.clients.as_ref().unwrap();
        let mut most = 0;
        for number in 0..u32::try_from(KEYS_MAX * 2).unwrap() {
            assert_eq!(limits.take_client(|| Some(Ipv4Addr::from_bits(number).into())), Ok(()));
            if number % 1_000 == 0 {
                most = rate.limiter.len().max(most);
            }
        }
        assert!((KEYS_MAX * 9 / 10..=KEYS_MAX).contains(&most), "{most}");
    }

    #[test]
    fn a_client_that_is_held_back_is_not_forgotten_for_others_that_are_gone() {
        let (limits, clock) = limits(|settings| {
            (settings.client_requests_per_second, settings.client_burst) = (1, 1_000);
        });
        while client(&limits, "203.0.113.7").is_ok() {}
        // So many that every shard makes room.
        for number in 0..u32::try_from(KEYS_MAX * 3 / 2).unwrap() {
            limits.take_client(|| Some(Ipv4Addr::from_bits(number).into())).unwrap();
            if number % 1_000 == 0 {
                clock.advance(1_000);
                client(&limits, "203.0.113.7").unwrap();
                client(&limits, "203.0.113.7").unwrap_err();
            }
        }
    }

    #[test]
    fn who_is_not_on_a_list_is_named_with_the_setting() {
        let (limits, _) = limits(|settings| {
            settings.organizations = vec!["A@AdobeOrg".into(), "B@AdobeOrg".into()];
            settings.report_suites = vec!["one".into(), "two".into()];
        });
        let org = |id: &str| format!(",\"visitor.marketingCloudOrgId\":\"{id}\"");
        let suite = |name: &str| format!(",\"analytics.reportSuite\":\"{name}\"");
        for (params, expected) in [
            (org("A@AdobeOrg") + &suite("one"), ""),
            (org("B@AdobeOrg") + &suite("two, one"), ""),
            (
                org("A@AdobeOrg") + &suite("one,three"),
                "analytics.reportSuite \"three\" is not on the list limits.report_suites",
            ),
            (
                org("a@AdobeOrg") + &suite("One"),
                "visitor.marketingCloudOrgId \"a@AdobeOrg\" is not on the list limits.organizations; \
                 analytics.reportSuite \"One\" is not on the list limits.report_suites",
            ),
            (
                suite(" ,"),
                "visitor.marketingCloudOrgId is missing, and limits.organizations is a list; \
                 analytics.reportSuite is missing, and limits.report_suites is a list",
            ),
        ] {
            let said = limits
                .allow(&facts(&params))
                .map_or_else(|why| why.to_string(), |()| String::new());
            assert_eq!(said, expected, "{params}");
        }
        let long = org(&"x".repeat(9_999)) + &suite(&"y,".repeat(9_999));
        let said = limits.allow(&facts(&long)).unwrap_err().to_string();
        assert!(said.len() < 2_000, "{} bytes", said.len());
    }

    #[test]
    fn what_is_not_set_is_not_looked_at() {
        let (limits, _) = limits(|_| {});
        assert_eq!(limits.take_client(|| panic!("nobody asks")), Ok(()));
        assert_eq!(limits.take_suites(|| panic!("nobody asks")), Ok(()));
        assert_eq!(limits.allow(&Facts::default()), Ok(()));
    }

    #[test]
    fn settings_that_cannot_work_are_told() {
        let settings = Settings {
            client_burst: 0,
            report_suite_requests_per_second: 2_001,
            report_suite_burst: 2,
            organizations: vec![" a".into()],
            report_suites: vec!["a,b".into()],
            ..Settings::default()
        };
        let keys: Vec<_> = settings.contradictions().iter().map(|(key, _)| *key).collect();
        let expected = ["client_burst", "report_suite_burst", "organizations", "report_suites"];
        assert_eq!(keys, expected.map(|key| format!("limits.{key}")));
    }
}
