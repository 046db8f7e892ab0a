//! What is kept of a person: a client's address and user agent, as far as the operator allows.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// How much of a user agent is kept, in bytes. Real ones are shorter.
const USER_AGENT_BYTES_MAX: usize = 512;

/// The section `privacy` of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What is kept of the address.
    pub client_address: ClientAddress,
    /// Whether the user agent is kept.
    pub user_agent: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { client_address: ClientAddress::Truncate, user_agent: true }
    }
}

/// What is kept of a client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAddress {
    /// The network: the first 24 bits of IPv4, the first 48 of IPv6.
    Truncate,
    /// All of it.
    Keep,
    /// Nothing.
    Drop,
}

impl Settings {
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
}
