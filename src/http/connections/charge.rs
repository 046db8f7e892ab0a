//! What one connection holds of the account of memory: itself, and the heads of its open requests.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::request::Parts;
use axum::http::{HeaderMap, Version};
use parking_lot::Mutex;

use crate::limits::memory::{self, Charge, Kind, OverLimit};

/// What a connection of HTTP/1.1 takes: its task, the buffers of hyper, what is noted about it. Measured as the
/// growth of the resident memory by 2000 idle connections, each after one request: 29.7 KiB.
const HTTP1_BYTES: usize = 30 << 10;

/// What a connection of HTTP/2 takes, with its store of streams; measured alike: 39.1 KiB.
const HTTP2_BYTES: usize = 40 << 10;

/// What TLS adds: measured alike, 10 KiB; and what it keeps that the socket does not take.
const TLS_BYTES: usize = (10 << 10) + super::TLS_SEND_BYTES_MAX;

/// Heads that come with the connection: nearly every connection of HTTP/1 has one open request at most, and a
/// small one.
const HEADS_INCLUDED_BYTES: usize = 2 << 10;

/// What a header takes besides its name and its value: its rows in the map, and what the allocations of the two
/// take. Measured with 100 open streams of 40 and of 90 headers on each of 50 connections: 156 to 168 bytes.
const HEADER_BYTES: usize = 170;

/// What an open request of HTTP/2 takes besides its head: its task with the handler in it, and its stream. Measured
/// with 100 open streams on each of 50 connections: 5.8 KiB.
const STREAM_BYTES: usize = 6 << 10;

/// In which steps heads are charged, so that the account is rarely asked.
const STEP_BYTES: usize = 16 << 10;

/// How much stays charged when heads go. hyper keeps the buffer of the largest head of HTTP/1 that came.
const KEPT_BYTES: usize = 4 * STEP_BYTES;

/// The charge of one connection.
pub(super) struct ConnectionCharge {
    charge: Mutex<Charge>,
    /// What the connection takes without heads.
    base: AtomicUsize,
    /// What open requests hold.
    heads: AtomicUsize,
    /// How much of that is charged.
    charged_heads: AtomicUsize,
}

impl ConnectionCharge {
    /// Charges a connection that speaks HTTP/1, as far as is known.
    pub(super) fn new(client: &memory::Client, tls: bool) -> Result<Self, OverLimit> {
        let base = HTTP1_BYTES + if tls { TLS_BYTES } else { 0 };
        Ok(Self {
            charge: Mutex::new(client.charge(Kind::Connections, base)?),
            base: AtomicUsize::new(base),
            heads: AtomicUsize::new(0),
            charged_heads: AtomicUsize::new(HEADS_INCLUDED_BYTES),
        })
    }

    /// Charges what HTTP/2 takes more.
    pub(super) fn is_http2(&self) -> Result<(), OverLimit> {
        let mut charge = self.charge.lock();
        let more = HTTP2_BYTES - HTTP1_BYTES;
        let base = self.base.load(Ordering::Relaxed) + more;
        charge.grow_to(base + self.heads_charged_apart())?;
        self.base.store(base, Ordering::Relaxed);
        Ok(())
    }

    /// Charges the head of a request, until [`Self::end`].
    pub(super) fn begin(&self, bytes: usize) -> Result<(), OverLimit> {
        let heads = self.heads.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if heads > self.charged_heads.load(Ordering::Relaxed) {
            let mut charge = self.charge.lock();
            let wanted = heads.next_multiple_of(STEP_BYTES);
            if let Err(over) = charge.grow_to(self.base.load(Ordering::Relaxed) + wanted) {
                self.heads.fetch_sub(bytes, Ordering::Relaxed);
                return Err(over);
            }
            self.charged_heads.fetch_max(wanted, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Gives back what a head was charged.
    pub(super) fn end(&self, bytes: usize) {
        let heads = self.heads.fetch_sub(bytes, Ordering::Relaxed) - bytes;
        if heads + KEPT_BYTES < self.charged_heads.load(Ordering::Relaxed) {
            let mut charge = self.charge.lock();
            let wanted = self.heads.load(Ordering::Relaxed).next_multiple_of(STEP_BYTES);
            let wanted = wanted.max(HEADS_INCLUDED_BYTES);
            self.charged_heads.store(wanted, Ordering::Relaxed);
            charge.shrink_to(self.bytes());
        }
    }

    /// Gives back everything, because the connection is about to be dropped.
    pub(super) fn release(&self) {
        self.charge.lock().shrink_to(0);
    }

    /// How much is charged.
    pub(super) fn bytes(&self) -> usize {
        self.base.load(Ordering::Relaxed) + self.heads_charged_apart()
    }

    /// Who is charged.
    pub(super) fn client(&self) -> memory::Client {
        self.charge.lock().client().clone()
    }

    fn heads_charged_apart(&self) -> usize {
        let charged = self.charged_heads.load(Ordering::Relaxed);
        if charged > HEADS_INCLUDED_BYTES { charged } else { 0 }
    }
}

/// What an open request holds, without its body.
pub(super) fn request_bytes(head: &Parts) -> usize {
    let path = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    let stream = if head.version == Version::HTTP_2 { STREAM_BYTES } else { 0 };
    path + headers_bytes(&head.headers) + stream
}

fn headers_bytes(headers: &HeaderMap) -> usize {
    let bytes = |(name, value): (&axum::http::HeaderName, &axum::http::HeaderValue)| {
        name.as_str().len() + value.len() + HEADER_BYTES
    };
    headers.iter().map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::memory::Memory;
    use crate::size::Size;

    fn used(memory: &Memory) -> usize {
        memory.usage().find(|usage| usage.kind == Kind::Connections).unwrap().used
    }

    fn charged(memory: &Memory) -> ConnectionCharge {
        ConnectionCharge::new(&memory.client("192.0.2.1".parse().unwrap()), false).unwrap()
    }

    #[test]
    fn small_heads_one_after_the_other_never_ask_the_account() {
        let memory = Memory::new(Size::gib(1), 1.0, &[], Vec::new());
        let charge = charged(&memory);
        for _ in 0..3 {
            charge.begin(HEADS_INCLUDED_BYTES).unwrap();
            assert_eq!(used(&memory), HTTP1_BYTES);
            charge.end(HEADS_INCLUDED_BYTES);
        }
    }

    #[test]
    fn many_heads_are_charged_in_steps_and_given_back() {
        let memory = Memory::new(Size::gib(1), 1.0, &[], Vec::new());
        let charge = charged(&memory);
        charge.is_http2().unwrap();
        assert_eq!(used(&memory), HTTP2_BYTES);
        for _ in 0..128 {
            charge.begin(10_000).unwrap();
        }
        let all = used(&memory) - HTTP2_BYTES;
        assert!((1_280_000..1_280_000 + STEP_BYTES).contains(&all), "{all}");
        for _ in 0..128 {
            charge.end(10_000);
        }
        assert!(used(&memory) <= HTTP2_BYTES + KEPT_BYTES, "{}", used(&memory));
        charge.begin(100_000).unwrap();
        charge.release();
        assert_eq!(used(&memory), 0);
        charge.end(100_000);
        assert_eq!(used(&memory), 0);
    }

    #[test]
    fn a_head_that_finds_no_memory_is_not_charged() {
        let caps = [(Kind::Connections, Size::kib(96))];
        let memory = Memory::new(Size::gib(1), 1.0, &caps, Vec::new());
        let charge = charged(&memory);
        charge.begin(40_000).unwrap();
        let before = used(&memory);
        assert!(charge.begin(40_000).is_err());
        assert_eq!(used(&memory), before);
        charge.end(40_000);
        assert!(charge.begin(40_000).is_ok());
    }
}
