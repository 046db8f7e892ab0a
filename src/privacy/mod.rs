//! What is kept of a person, as far as the operator allows: the client's address and user agent, and the
//! parameters that tell who watched.

mod hasher;

mod names;

mod redact;

mod scan;

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use self::names::Name;
use crate::session::id::Key;
use crate::wire::PARAMS;
pub use hasher::Hasher;
pub use redact::{NOT_SHOWN, REDACTED_BYTES_MAX, Redactor, Unredacted};

/// How much of a user agent is kept, in bytes. Real ones are shorter.
const USER_AGENT_BYTES_MAX: usize = 512;

/// What is said of names that are listed in the settings and nowhere else.
pub(crate) const UNLISTED: &str = "privacy.drop or privacy.hash has names that no documented parameter has; they are \
                                   taken out if players send them";

/// The section `privacy` of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What is kept of the address.
    pub client_address: ClientAddress,
    /// Whether the user agent is kept.
    pub user_agent: bool,
    /// Members of bodies, `params`, `qoeData` and `customMetadata` that are not kept, by name or pattern.
    pub drop: Vec<String>,
    /// Members of which a hash is kept, by name or pattern; what is also to be dropped is dropped.
    pub hash: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            client_address: ClientAddress::Truncate,
            user_agent: true,
            drop: Vec::new(),
            hash: Vec::new(),
        }
    }
}

/// What is kept of a client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAddress {
    /// The network: the first 24 bits of IPv4, the first 48 of IPv6 (of 6to4, in which an IPv4 address stands, 40).
    Truncate,
    /// All of it.
    Keep,
    /// Nothing.
    Drop,
}

impl Settings {
    /// What takes the named parameters out of bodies; nothing if none is named.
    pub fn redactor(&self, key: &Key) -> Option<Redactor> {
        let names_any = !self.drop.is_empty() || !self.hash.is_empty();
        names_any.then(|| Redactor::new(&self.drop, &self.hash, Hasher::new(key)))
    }

    /// The setting that names a parameter, if one does.
    pub(crate) fn naming(&self, key: &str) -> Option<&'static str> {
        let names = |list: &[String]| {
            list.iter().filter_map(|name| Name::parse(name)).any(|name| name.covers_parameter(key))
        };
        match (names(&self.drop), names(&self.hash)) {
            (true, _) => Some("privacy.drop"),
            (false, true) => Some("privacy.hash"),
            (false, false) => None,
        }
    }

    /// What is wrong with the names, each with the setting that has it.
    pub(crate) fn contradictions(&self) -> Vec<(&'static str, String)> {
        let lists = [("privacy.drop", &self.drop), ("privacy.hash", &self.hash)];
        let names =
            lists.into_iter().flat_map(|(key, list)| list.iter().map(move |name| (key, name)));
        names.filter_map(|(key, name)| Some((key, self.fault_of(key, name)?))).collect()
    }

    /// What is probably not meant as it is written, each with the setting that has it.
    pub(crate) fn doubts(&self) -> Vec<(&'static str, String)> {
        let doubt_of = |(setting, text): (&'static str, &str)| {
            let name = Name::parse(text)?;
            let near = PARAMS.iter().filter(|listed| name.covers_in_other_case(listed.key));
            let mut near = near.filter(|listed| !listed.is_needed());
            // Who names both means a player's misspelling too.
            let missed = near.find(|parameter| self.naming(parameter.key).is_none())?;
            let key = missed.key;
            Some((
                setting,
                format!(
                    "{text:?} does not name {key}, because case matters; add it if it is meant"
                ),
            ))
        };
        self.unlisted().into_iter().filter_map(doubt_of).collect()
    }

    /// The names that no documented parameter has, with the settings that list them: they have an effect if players
    /// send them all the same.
    pub(crate) fn unlisted(&self) -> Vec<(&'static str, &str)> {
        let lists = [("privacy.drop", &self.drop), ("privacy.hash", &self.hash)];
        let names = lists
            .into_iter()
            .flat_map(|(setting, list)| list.iter().map(move |text| (setting, text.as_str())));
        let is_unlisted = |name: Name<'_>| {
            !name.is_of_metadata() && !PARAMS.iter().any(|listed| name.covers_parameter(listed.key))
        };
        names.filter(|(_, text)| Name::parse(text).is_some_and(is_unlisted)).collect()
    }

    fn fault_of(&self, setting: &str, text: &str) -> Option<String> {
        if let Some(why) = names::misunderstanding(text) {
            return Some(why);
        }
        let Some(name) = Name::parse(text) else {
            return Some(format!(
                "{text:?} is neither a key, nor a pattern such as \"visitor.*\", nor either behind \
                 \"customMetadata.\""
            ));
        };
        let mut named = PARAMS.iter().filter(|parameter| name.covers_parameter(parameter.key));
        let is_dropped = |key| self.naming(key) == Some("privacy.drop");
        named.find_map(|parameter| {
            let key = parameter.key;
            if parameter.is_needed() {
                Some(format!("{text:?} names {key}, without which there is no report"))
            } else if setting == "privacy.hash" && !parameter.is_text() && !is_dropped(key) {
                Some(format!(
                    "{text:?} names {key}, which is no text and so cannot be hashed; it can be dropped"
                ))
            } else {
                None
            }
        })
    }

    /// The address as it is kept.
    pub fn address(&self, address: IpAddr) -> Option<String> {
        // An IPv4 client on an IPv6 socket is an IPv4 client.
        let address = address.to_canonical();
        match (self.client_address, address) {
            (ClientAddress::Drop, _) => None,
            (ClientAddress::Keep, address) => Some(address.to_string()),
            (ClientAddress::Truncate, IpAddr::V4(address)) => {
                Some(Ipv4Addr::from_bits(address.to_bits() & !0xFF).to_string())
            }
            // 6to4: behind the first 16 bits stands an IPv4 address, of which as much is kept as of any other.
            (ClientAddress::Truncate, IpAddr::V6(address)) if address.segments()[0] == 0x2002 => {
                Some(Ipv6Addr::from_bits(address.to_bits() >> 88 << 88).to_string())
            }
            (ClientAddress::Truncate, IpAddr::V6(address)) => {
                Some(Ipv6Addr::from_bits(address.to_bits() >> 80 << 80).to_string())
            }
        }
    }

    /// The user agent as it is kept; bytes that are not UTF-8 are replaced.
    pub fn user_agent<'h>(&self, header: &'h [u8]) -> Option<Cow<'h, str>> {
        let header = &header[..header.len().min(USER_AGENT_BYTES_MAX)];
        self.user_agent.then(|| String::from_utf8_lossy(header))
    }
}

#[cfg(test)]
mod tests {
    use super::ClientAddress::{Drop, Keep, Truncate};
    use super::*;

    #[test]
    fn an_address_is_kept_as_far_as_the_setting_says() {
        let kept = |client_address, address: &str| {
            let settings = Settings { client_address, ..Settings::default() };
            settings.address(address.parse().unwrap())
        };
        for (setting, address, expected) in [
            (Truncate, "203.0.113.77", Some("203.0.113.0")),
            (Truncate, "2001:db8:1:2::3", Some("2001:db8:1::")),
            (Truncate, "::ffff:203.0.113.77", Some("203.0.113.0")),
            (Truncate, "::1", Some("::")),
            (Truncate, "2002:cb00:714d::1", Some("2002:cb00:7100::")),
            (Keep, "2002:cb00:714d::1", Some("2002:cb00:714d::1")),
            (Keep, "203.0.113.77", Some("203.0.113.77")),
            (Drop, "203.0.113.77", None),
        ] {
            assert_eq!(kept(setting, address).as_deref(), expected, "{setting:?} {address}");
        }
    }

    #[test]
    fn a_user_agent_is_bounded_and_always_text() {
        let settings = Settings::default();
        assert_eq!(settings.user_agent(b"p\xFF").unwrap(), "p\u{fffd}");
        assert_eq!(settings.user_agent(&[b'x'; 9_999]).unwrap().len(), 512);
        let off = Settings { user_agent: false, ..Settings::default() };
        assert_eq!(off.user_agent(b"p"), None);
    }

    #[test]
    fn names_that_cannot_be_are_contradictions() {
        let faults = |drop: &[&str], hash: &[&str]| {
            let list = |names: &[&str]| names.iter().map(ToString::to_string).collect();
            let settings = Settings { drop: list(drop), hash: list(hash), ..Settings::default() };
            settings.contradictions()
        };
        for right in [
            "analytics.visitorId",
            "appInstallationId",
            "visitor.customerIDs",
            "analytics.reportSuite",
            "media.show",
            "not.listed",
            "not.listed.*",
            "customMetadata.media.id",
            "customMetadata.*",
            "customMetadata.user.*",
        ] {
            assert_eq!(faults(&[right], &[right]), [], "{right}");
            assert_eq!(faults(&[], &[right]), [], "{right}");
        }
        for wrong in ["", "*", "visitor*", "visitor.*.x", "v*.*", ".*", "customMetadata.", " a"] {
            let found = faults(&[wrong], &[]);
            assert_eq!(found.len(), 1, "{wrong:?}");
            assert!(found[0].1.contains("is neither a key"), "{found:?}");
        }
        let long = "x".repeat(257);
        for (effectless, why) in [
            ("customMetadata", "write \"customMetadata.*\" for all of it"),
            ("customMetadata.\u{fc}ml", "its names have a-z"),
            ("customMetadata.a b.*", "its names have a-z"),
            ("params", "write the names of what is in it"),
            ("params.*", "write the names of what is in it"),
            ("params.secret", "write \"secret\""),
            ("qoeData.who.*", "write \"who.*\""),
            ("qoeData", "write the names of what is in it"),
            ("playerTime", "is what no report can do without"),
            ("playerTime.*", "is what no report can do without"),
            ("eventType", "is what no report can do without"),
            ("visitor.customerIDs.crm", "write \"visitor.customerIDs\""),
            ("visitor.customerIDs.*", "write \"visitor.customerIDs\""),
            ("\"analytics.visitorId", "has quotation marks in it"),
            ("'user'", "has quotation marks in it"),
            ("customMetadata.user\"", "has quotation marks in it"),
            (&long, "is longer than 256 bytes"),
        ] {
            for found in [faults(&[effectless], &[]), faults(&[], &[effectless])] {
                assert_eq!(found.len(), 1, "{effectless:?}");
                assert!(found[0].1.contains(why), "{why} in {found:?}");
            }
        }
        for needed in ["media.id", "media.*", "media.state.name", "statesStart", "media.qoe.*"] {
            for (setting, found) in
                [("privacy.drop", faults(&[needed], &[])), ("privacy.hash", faults(&[], &[needed]))]
            {
                assert_eq!((found.len(), found[0].0), (1, setting), "{needed}");
                assert!(found[0].1.contains("without which there is no report"), "{found:?}");
            }
        }
        assert_eq!(faults(&["visitor.*", "analytics.*"], &[]), []);
        let found = faults(&[], &["visitor.*"]);
        assert!(found[0].1.contains("visitor.aamLocationHint, which is no text"), "{found:?}");
        assert_eq!(faults(&["visitor.aamLocationHint"], &["visitor.*"]), []);
        assert_eq!(faults(&[], &["analytics.enableSSL"]).len(), 1);
    }

    #[test]
    fn names_in_another_case_and_names_that_are_not_listed_are_told() {
        let settings = |drop: &[&str]| {
            let drop = drop.iter().map(ToString::to_string).collect();
            Settings { drop, ..Settings::default() }
        };
        for (names, missed) in [
            (&["analytics.visitorid"][..], Some("analytics.visitorId")),
            (&["Visitor.*"], Some("visitor.marketingCloudOrgId")),
            (&["analytics.visitorid", "analytics.visitorId"], None),
            (&["Media.id"], None),
            (&["not.listed", "appInstallationId", "customMetadata.ANALYTICS.visitorid"], None),
        ] {
            let doubts = settings(names).doubts();
            let told =
                doubts.first().map(|(setting, why)| (*setting, why.contains(missed.unwrap())));
            assert_eq!(told, missed.map(|_| ("privacy.drop", true)), "{doubts:?}");
        }
        let settings =
            settings(&["not.listed", "nosuch.*", "visitor.*", "customMetadata.x", "media.show"]);
        let unlisted: Vec<_> = settings.unlisted().into_iter().map(|(_, text)| text).collect();
        assert_eq!(unlisted, ["not.listed", "nosuch.*"]);
    }
}
