//! Which client an address is, wherever clients are counted.
//!
//! ```text
//! address               client                network
//! 203.0.113.7           203.0.113.7           none
//! ::ffff:203.0.113.7    203.0.113.7           none      IPv4 mapped
//! 2002:cb00:7107::9     203.0.113.7           none      6to4
//! 2001:db8:1:2::9       2001:db8:1:2::        2001:db8:1::
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The first 16 bits of 6to4 addresses, before 32 bits of an IPv4 address (RFC 3056).
const SIX_TO_FOUR: u16 = 0x2002;

/// How many bits of an IPv6 address name the network that one subscriber gets.
const CLIENT_BITS: u32 = 64;

/// How many bits of an IPv6 address name the network that one site, or one customer of a hosting provider, gets.
const NETWORK_BITS: u32 = 48;

/// The client behind an address: an IPv4 address, or the first address of an IPv6 network of 64 bits. An IPv4
/// address that is mapped or in a 6to4 address is the client, because its owner has all of these.
pub(crate) fn client_of(address: IpAddr) -> IpAddr {
    match plain(address) {
        IpAddr::V6(address) => prefix(address, CLIENT_BITS).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// The first address of the wider network of a client, of 48 bits, which may hold 65 536 clients of one owner;
/// nothing of IPv4.
pub(crate) fn network_of(address: IpAddr) -> Option<IpAddr> {
    match plain(address) {
        IpAddr::V6(address) => Some(prefix(address, NETWORK_BITS).into()),
        IpAddr::V4(_) => None,
    }
}

/// The address, or the IPv4 address that is in it.
fn plain(address: IpAddr) -> IpAddr {
    let address = address.to_canonical();
    match address {
        IpAddr::V6(outer) if outer.segments()[0] == SIX_TO_FOUR => {
            let [_, _, a, b, c, d, ..] = outer.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        _ => address,
    }
}

fn prefix(address: Ipv6Addr, bits: u32) -> Ipv6Addr {
    let rest = u128::BITS - bits;
    Ipv6Addr::from_bits(address.to_bits() >> rest << rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_client_and_of_ipv6_a_network() {
        for (address, client, network) in [
            ("203.0.113.7", "203.0.113.7", None),
            ("::ffff:203.0.113.7", "203.0.113.7", None),
            ("2002:cb00:7107::1", "203.0.113.7", None),
            ("2002:cb00:7107:ffff:1:2:3:4", "203.0.113.7", None),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::", Some("2001:db8:1::")),
            ("2001:db8:1:ffff::", "2001:db8:1:ffff::", Some("2001:db8:1::")),
            ("2003:cb00:7107::1", "2003:cb00:7107::", Some("2003:cb00:7107::")),
            ("::1", "::", Some("::")),
        ] {
            let ip = |text: &str| text.parse::<IpAddr>().unwrap();
            assert_eq!(client_of(ip(address)), ip(client), "{address}");
            assert_eq!(network_of(ip(address)), network.map(ip), "{address}");
        }
    }
}
