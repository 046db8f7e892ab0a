//! How many connections each client address holds.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Settings;
use crate::http::Network;
use crate::limits::client::client_of;

/// The addresses that hold connections, and no others: the map is bounded by the connections.
#[derive(Debug)]
pub(super) struct Addresses {
    /// How many connections one address may hold; 0 if that is not bounded.
    max: usize,
    /// Who speaks for many.
    exempt: Vec<Network>,
    held: Mutex<HashMap<IpAddr, usize>>,
}

impl Addresses {
    pub(super) fn new(settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            max: settings.connections_per_address_max,
            exempt: settings.trusted_proxies.clone(),
            held: Mutex::default(),
        })
    }

    /// A place for one more connection of this address, if it may have one.
    pub(super) fn place(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        if self.max == 0 || self.exempt.iter().any(|network| network.contains(address)) {
            return Some(Place(None));
        }
        let client = client_of(address);
        let mut held = self.held.lock();
        let connections = held.entry(client).or_default();
        if *connections >= self.max {
            return None;
        }
        *connections += 1;
        Some(Place(Some((Arc::clone(self), client))))
    }
}

/// The place of one connection; free again when dropped.
#[derive(Debug)]
pub(super) struct Place(Option<(Arc<Addresses>, IpAddr)>);

impl Drop for Place {
    fn drop(&mut self) {
        let Some((addresses, client)) = &self.0 else { return };
        let mut held = addresses.held.lock();
        if let Some(connections) = held.get_mut(client) {
            *connections -= 1;
            if *connections == 0 {
                held.remove(client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(max: usize, exempt: &[&str]) -> Arc<Addresses> {
        let trusted_proxies = exempt.iter().map(|network| network.parse().unwrap()).collect();
        let settings =
            Settings { connections_per_address_max: max, trusted_proxies, ..Settings::default() };
        Addresses::new(&settings)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_places_and_each_that_is_left_is_free_again() {
        let addresses = addresses(2, &[]);
        let first = addresses.place(ip("192.0.2.1")).unwrap();
        let second = addresses.place(ip("192.0.2.1")).unwrap();
        assert!(addresses.place(ip("192.0.2.1")).is_none());
        let other = addresses.place(ip("192.0.2.2")).unwrap();
        drop(first);
        let third = addresses.place(ip("192.0.2.1")).unwrap();
        assert!(addresses.place(ip("192.0.2.1")).is_none());
        assert_eq!(addresses.held.lock().len(), 2);
        drop((second, other, third));
        assert!(addresses.held.lock().is_empty(), "who holds nothing is forgotten");
    }

    #[test]
    fn a_network_of_64_bits_is_one_client_of_ipv6() {
        let addresses = addresses(1, &[]);
        let _first = addresses.place(ip("2001:db8::1")).unwrap();
        assert!(addresses.place(ip("2001:db8::ffff:0:0:2")).is_none());
        assert!(addresses.place(ip("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn proxies_and_everybody_without_a_bound_have_places_that_cost_nothing() {
        let bounded = addresses(1, &["10.0.0.0/8"]);
        let places: Vec<_> = (0..3).map(|_| bounded.place(ip("10.1.2.3")).unwrap()).collect();
        assert!(bounded.held.lock().is_empty());
        drop(places);
        let unbounded = addresses(0, &[]);
        let places: Vec<_> = (0..3).map(|_| unbounded.place(ip("192.0.2.1")).unwrap()).collect();
        assert!(unbounded.held.lock().is_empty());
        drop(places);
    }
}
