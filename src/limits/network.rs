//! A network, as the settings name it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

/// How many bits of an IPv6 address say that it is an IPv4 address in disguise.
const MAPPED_BITS: u8 = 96;

/// A network of addresses: `10.0.0.0/8`, or one address alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network(IpNet);

/// A text that names no network.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network such as \"10.0.0.0/8\", and no address")]
pub struct NoNetwork(String);

impl Network {
    /// Whether an address belongs to it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether every address belongs to it.
    pub fn is_everybody(&self) -> bool {
        self.0.prefix_len() == 0
    }
}

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse().map_err(|_| NoNetwork(text.to_owned()))?,
        };
        // Clients that are IPv4 in disguise are known as what they are, so their networks must be, too.
        let mapped = match network {
            IpNet::V6(network) => {
                network.addr().to_ipv4_mapped().zip(network.prefix_len().checked_sub(MAPPED_BITS))
            }
            IpNet::V4(_) => None,
        };
        let plain = mapped.and_then(|(address, bits)| Ipv4Net::new(address, bits).ok());
        Ok(Self(plain.map_or(network, IpNet::V4)))
    }
}

impl TryFrom<String> for Network {
    type Error = NoNetwork;

    fn try_from(text: String) -> Result<Self, NoNetwork> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_may_be_one_address_and_ipv4_in_disguise_is_ipv4() {
        let network = |text: &str| text.parse::<Network>().map(|network| network.to_string());
        for (text, known) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.1", "10.0.0.1/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(network(text).as_deref(), Ok(known), "{text}");
        }
        for text in ["", "10.0.0", "10.0.0.0/33", "proxy.example.com", "10.0.0.0/8 "] {
            assert_eq!(network(text), Err(NoNetwork(text.to_owned())));
        }
        let one: Network = "10.0.0.1".parse().unwrap();
        assert!(one.contains("10.0.0.1".parse().unwrap()));
        assert!(!one.contains("10.0.0.2".parse().unwrap()) && !one.is_everybody());
    }
}
