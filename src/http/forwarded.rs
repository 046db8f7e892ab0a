//! Whom a request is from, if a proxy speaks for its client.
//!
//! Each proxy on the way adds the address that it was asked from at the right of a list; what stands further left
//! was there before, and may be anybody's invention. So the list is believed from the right, and only as long as
//! those who wrote it are trusted (`http.trusted_proxies`): the client is the first who is not. Where an entry
//! cannot be read the walk ends, with the last address that was good. Only the one header is read that the
//! proxies write (`http.forwarded_header`), because a client can send the other itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::http::header::{FORWARDED, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};

use super::connections::Peer;
use super::{Network, Settings};

/// In which header proxies say for whom they speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Header {
    /// `X-Forwarded-For: 203.0.113.7, 10.0.0.2`.
    XForwardedFor,
    /// `Forwarded: for=203.0.113.7;proto=https, for="[2001:db8::7]:4711"` (RFC 7239).
    Forwarded,
}

impl Header {
    fn name(self) -> HeaderName {
        match self {
            Self::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            Self::Forwarded => FORWARDED,
        }
    }
}

/// Makes the [`Peer`] of a request its client. Says whether it names another client and comes from nobody who is
/// trusted to.
pub(super) fn resolve_client(head: &mut Parts, settings: &Settings) -> bool {
    let trusted = &settings.trusted_proxies;
    let Some(Peer { address: peer, memory }) = head.extensions.get::<Peer>() else { return false };
    if !trusted.iter().any(|network| network.contains(*peer)) {
        return head.headers.contains_key(Header::XForwardedFor.name())
            || head.headers.contains_key(FORWARDED);
    }
    let address = client(*peer, &head.headers, settings.forwarded_header, trusted);
    if address != *peer {
        let memory = memory.memory().client(address);
        head.extensions.insert(Peer { address, memory });
    }
    false
}

/// The client of a request that came from `peer`.
fn client(peer: IpAddr, headers: &HeaderMap, header: Header, trusted: &[Network]) -> IpAddr {
    let peer = peer.to_canonical();
    let is_trusted = |address| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(peer) {
        return peer;
    }
    // The walk from the right, done from the left, so that each byte is looked at once and nothing is kept: where
    // it ends if it meets the entries so far, which is beyond them at first.
    let mut end = None;
    let hear = |address: Option<IpAddr>| {
        end = match address {
            None => None,
            Some(address) if is_trusted(address) => end.or(Some(address)),
            Some(address) => Some(address),
        };
    };
    let lines = headers.get_all(header.name()).into_iter().map(HeaderValue::as_bytes);
    match header {
        Header::XForwardedFor => {
            let entries = lines.flat_map(|line| line.split(|byte| *byte == b','));
            entries.map(<[u8]>::trim_ascii).filter(has_content).map(address_of).for_each(hear);
        }
        Header::Forwarded => {
            let entries = lines.flat_map(entries_of);
            entries.map(<[u8]>::trim_ascii).filter(has_content).map(speaks_for).for_each(hear);
        }
    }
    end.unwrap_or(peer)
}

/// Whether an entry says anything; lists may have empty ones.
fn has_content(entry: &&[u8]) -> bool {
    !entry.is_empty()
}

/// The entries of a line. A client may have begun a quotation that it never closes, so that all that proxies add
/// would stand in it; then each comma separates, for what proxies add has none.
fn entries_of(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quotation = Quotation::default();
    for byte in line {
        quotation.pass(*byte);
    }
    let closes = !quotation.is_open;
    split_where(line, move |byte, is_quoted| byte == b',' && !(closes && is_quoted))
}

/// For whom an entry of `Forwarded` speaks. One that is not sound throughout speaks for nobody: a client may have
/// begun a quotation in which a proxy's own words end up.
fn speaks_for(entry: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    let pairs = split_where(entry, |byte, is_quoted| byte == b';' && !is_quoted);
    for pair in pairs.map(<[u8]>::trim_ascii).filter(has_content) {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (&pair[..equals], unquoted(&pair[equals + 1..])?);
        if !name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
        {
            return None;
        }
        if name.eq_ignore_ascii_case(b"for") && found.replace(value).is_some() {
            return None;
        }
    }
    address_of(found?)
}

/// Whether what comes next stands within quotation marks.
#[derive(Default)]
struct Quotation {
    is_open: bool,
    is_escaped: bool,
}

impl Quotation {
    fn pass(&mut self, byte: u8) {
        if byte == b'"' && !self.is_escaped {
            self.is_open = !self.is_open;
        }
        self.is_escaped = self.is_open && byte == b'\\' && !self.is_escaped;
    }
}

/// What stands between bytes that separate; whether each is quoted is told besides.
fn split_where(text: &[u8], separates: impl Fn(u8, bool) -> bool) -> impl Iterator<Item = &[u8]> {
    let mut quotation = Quotation::default();
    text.split(move |byte| {
        let is_quoted = quotation.is_open;
        quotation.pass(*byte);
        separates(*byte, is_quoted)
    })
}

/// A value without its quotation marks, if it has a pair of them or none. Escapes within are left as they are,
/// for no address has any.
fn unquoted(value: &[u8]) -> Option<&[u8]> {
    let Some(rest) = value.strip_prefix(b"\"") else {
        let is_plain = |byte: &u8| *byte != b'"' && !byte.is_ascii_whitespace();
        return value.iter().all(is_plain).then_some(value);
    };
    let inner = rest.strip_suffix(b"\"")?;
    let mut is_escaped = false;
    for byte in inner {
        if *byte == b'"' && !is_escaped {
            return None;
        }
        is_escaped = *byte == b'\\' && !is_escaped;
    }
    (!is_escaped).then_some(inner)
}

/// An address, with or without a port, IPv6 with brackets or without. `unknown` and hidden names (`_proxy`) are
/// none.
fn address_of(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let (address, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        (IpAddr::from(address.parse::<Ipv6Addr>().ok()?), port)
    } else {
        let colon = text.rfind(':')?;
        (IpAddr::from(text[..colon].parse::<Ipv4Addr>().ok()?), &text[colon..])
    };
    is_port(port).then(|| address.to_canonical())
}

/// Whether this is nothing, or a colon and a port or the hidden name of one.
fn is_port(text: &str) -> bool {
    let Some(port) = text.strip_prefix(':') else { return text.is_empty() };
    match port.strip_prefix('_') {
        Some(name) => {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        }
        None => (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Header::{Forwarded, XForwardedFor};
    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn trusted() -> [Network; 2] {
        ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap())
    }

    fn from(peer: &str, header: Header, lines: &[&[u8]]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header.name(), HeaderValue::from_bytes(line).unwrap());
        }
        client(peer.parse().unwrap(), &headers, header, &trusted()).to_string()
    }

    #[test]
    fn the_client_is_the_first_from_the_right_whom_nobody_trusts() {
        for (expected, lines) in [
            ("203.0.113.7", &["203.0.113.7"][..]),
            ("203.0.113.7", &["6.6.6.6, 203.0.113.7"]),
            ("203.0.113.7", &["6.6.6.6,203.0.113.7 ,\t10.9.9.9"]),
            ("203.0.113.7", &["6.6.6.6", "203.0.113.7", "10.0.0.3, 10.0.0.2"]),
            ("203.0.113.7", &["203.0.113.7,, ,"]),
            ("203.0.113.7", &["10.0.0.3, 203.0.113.7:4711, [fd00::1]:80"]),
            ("203.0.113.7", &["::ffff:203.0.113.7, ::ffff:10.0.0.2"]),
            ("2001:db8::7", &["6.6.6.6, 2001:db8::7"]),
            ("2001:db8::7", &["6.6.6.6, [2001:db8::7]"]),
            ("2001:db8::7", &["[2001:db8::7]:4711"]),
            // All are ours: the one that is farthest away asked.
            ("10.0.0.3", &["10.0.0.3, 10.0.0.2"]),
            ("10.0.0.1", &[]),
            ("10.0.0.1", &[""]),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
            assert_eq!(from(PROXY, XForwardedFor, &lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_ends_the_walk_at_the_last_good_address() {
        for last in [
            "unknown",
            "_hidden",
            "x",
            "203.0.113.7:",
            "203.0.113.7:x",
            "203.0.113.7:123456",
            "[2001:db8::7",
            "2001:db8::7]",
            "[2001:db8::7]x",
            "[203.0.113.7]",
            "\"203.0.113.7\"",
            "203.0.113.7 203.0.113.8",
            "fe80::1%eth0",
            "203.0.113.07",
            "1",
            ":",
            "[]",
            "203.0.113.7:_",
        ] {
            let one = format!("6.6.6.6, {last}");
            assert_eq!(from(PROXY, XForwardedFor, &[one.as_bytes()]), PROXY, "{last}");
            let other = format!("6.6.6.6, {last}, 10.0.0.2");
            assert_eq!(from(PROXY, XForwardedFor, &[other.as_bytes()]), "10.0.0.2", "{last}");
        }
        assert_eq!(from(PROXY, XForwardedFor, &[b"6.6.6.6, \xFF"]), PROXY);
        assert_eq!(from(PROXY, XForwardedFor, &[b"\xFF, 203.0.113.7"]), "203.0.113.7");
    }

    #[test]
    fn forwarded_is_read_as_its_standard_says() {
        for (expected, lines) in [
            ("203.0.113.7", &["for=203.0.113.7"][..]),
            ("203.0.113.7", &["For=\"203.0.113.7:4711\";Proto=https;host=\"a,b;for=6.6.6.6\""]),
            ("203.0.113.7", &["for=6.6.6.6, proto=http; FOR=203.0.113.7 ;by=10.0.0.2"]),
            ("2001:db8::7", &["for=\"[2001:db8::7]:_port\"", "for=10.0.0.2"]),
            ("2001:db8::7", &["for=\"[2001:db8::7]\";host=\"\\\"\\\\\", for=10.0.0.2"]),
            ("203.0.113.7", &["for=\"unterminated", "for=203.0.113.7"]),
            ("10.0.0.2", &["for=6.6.6.6, for=unknown, for=10.0.0.2"]),
            ("10.0.0.1", &["for=6.6.6.6, for=_hidden"]),
            ("10.0.0.1", &["for=6.6.6.6, for=\"_hidden:80\""]),
            ("10.0.0.1", &["for=6.6.6.6, proto=https"]),
            ("10.0.0.1", &["for=6.6.6.6, for=203.0.113.7;for=203.0.113.8"]),
            ("10.0.0.1", &["for=6.6.6.6, 203.0.113.7"]),
            ("10.0.0.1", &["for=6.6.6.6, for=\"203.0.113.7\\\""]),
            ("10.0.0.1", &["for=6.6.6.6, for =203.0.113.7"]),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
            assert_eq!(from(PROXY, Forwarded, &lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_quotation_that_a_client_begins_does_not_make_its_word_the_proxys() {
        for said in [
            "for=6.6.6.6;x=\"",
            "for=6.6.6.6;\"",
            "for=6.6.6.6;\"\"\"",
            "x=\", for=6.6.6.6;y=\"",
            "for=6.6.6.6, for=\"",
            "for=6.6.6.6, \"",
        ] {
            for added in [
                "for=203.0.113.7",
                "for=\"[2001:db8::7]:4711\";proto=https",
                "for=\"[2001:db8::7]\";host=\"a, for=6.6.6.6, b\"",
                "for=203.0.113.7;host=\"a, for=6.6.6.6;z=\\\"\"",
            ] {
                let line = format!("{said}, {added}");
                let found = from(PROXY, Forwarded, &[line.as_bytes()]);
                assert!(found != "6.6.6.6" && found != "203.0.113.8", "{line}: {found}");
            }
            // Nor is it a way to be taken for the proxy.
            for (added, expected) in [
                ("for=203.0.113.7", "203.0.113.7"),
                ("for=\"[2001:db8::7]:4711\";proto=https", "2001:db8::7"),
                ("for=203.0.113.7, for=10.0.0.2", "203.0.113.7"),
            ] {
                let line = format!("{said}, {added}");
                assert_eq!(from(PROXY, Forwarded, &[line.as_bytes()]), expected, "{line}");
            }
        }
    }

    #[test]
    fn only_the_header_that_is_set_is_read() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6"));
        headers.insert("forwarded", HeaderValue::from_static("for=203.0.113.7"));
        let client = |header| client(PROXY.parse().unwrap(), &headers, header, &trusted());
        assert_eq!(client(Forwarded).to_string(), "203.0.113.7");
        assert_eq!(client(XForwardedFor).to_string(), "6.6.6.6");
    }

    fn any_entry() -> impl Strategy<Value = String> {
        let address = prop_oneof![
            any::<[u8; 4]>().prop_map(|octets| IpAddr::from(octets).to_string()),
            any::<[u8; 3]>().prop_map(|[b, c, d]| format!("10.{b}.{c}.{d}")),
            any::<[u16; 8]>().prop_map(|parts| IpAddr::from(parts).to_string()),
            Just("fd00::5".to_owned()),
        ];
        prop_oneof![5 => address, 1 => Just("unknown".to_owned()), 1 => "[ -+.-~]{0,9}"]
    }

    proptest! {
        #[test]
        fn it_is_the_walk_from_the_right(entries in prop::collection::vec(any_entry(), 0..9), cut in 0..9_usize) {
            let trusted = trusted();
            let is_trusted = |address| trusted.iter().any(|network| network.contains(address));
            let mut expected = PROXY.parse().unwrap();
            for entry in entries.iter().rev().map(|entry| entry.trim()).filter(|entry| !entry.is_empty()) {
                let Some(address) = address_of(entry.as_bytes()) else { break };
                expected = address;
                if !is_trusted(address) {
                    break;
                }
            }
            let (first, second) = entries.split_at(cut.min(entries.len()));
            let lines = [first.join(","), second.join(" , ")];
            let lines = lines.each_ref().map(String::as_bytes);
            prop_assert_eq!(from(PROXY, XForwardedFor, &lines), expected.to_string());
        }

        #[test]
        fn nothing_panics_and_a_stranger_is_who_it_is(
            lines in prop::collection::vec("[ -~\t\u{80}-\u{ff}]{0,40}|(for=|\"|,|;|\\\\|10\\.0\\.0\\.2|6\\.6\\.6\\.6|\\[::1\\]:1| ){0,20}", 0..4),
            peer: [u8; 4],
        ) {
            let lines: Vec<_> = lines.iter().map(String::as_bytes).collect();
            let peer = IpAddr::from(peer);
            prop_assume!(!trusted()[0].contains(peer));
            for header in [XForwardedFor, Forwarded] {
                from(PROXY, header, &lines);
                prop_assert_eq!(from(&peer.to_string(), header, &lines), peer.to_string());
                let mapped = format!("::ffff:{peer}");
                prop_assert_eq!(from(&mapped, header, &lines), peer.to_string());
            }
        }

        #[test]
        fn the_last_word_is_the_proxys_whatever_a_client_says(
            said in "[ -~]{0,40}|(for=6\\.6\\.6\\.6|x=|\"|,|;|\\\\|a| ){0,20}",
            host in "(for=6\\.6\\.6\\.6|x=|\"|,|;|\\\\|a| ){0,20}",
            repeats_host: bool,
        ) {
            let mut added = "for=203.0.113.7;by=_a".to_owned();
            if repeats_host {
                let escaped = host.replace('\\', "\\\\").replace('"', "\\\"");
                added = format!("{added};host=\"{escaped}\"");
            }
            let line = format!("{said}, {added}");
            let found = from(PROXY, Forwarded, &[line.as_bytes()]);
            prop_assert!(found == "203.0.113.7" || found == PROXY, "{} {}", line, found);
        }
    }
}
