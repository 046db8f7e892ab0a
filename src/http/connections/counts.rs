//! What became of the connections of one listener, in figures.

use std::sync::atomic::{AtomicU64, Ordering};

/// The figures of one listener, since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections that may be open.
    pub max: AtomicU64,
    /// Connections that are open, those that still shake hands among them.
    pub open: AtomicU64,
    /// Connections that were taken.
    pub accepted: AtomicU64,
    /// Connections that were closed at once, because their address had too many.
    pub refused_by_address: AtomicU64,
    /// How often the system failed to hand over a connection.
    pub accept_errors: AtomicU64,
    /// Connections that ended because what came was no HTTP, or a head beyond its bounds.
    pub malformed: AtomicU64,
    /// Handshakes that were begun and led to nothing.
    pub tls_handshake_failures: AtomicU64,
    /// When the certificate expires, in s since the Unix epoch; 0 without TLS.
    pub tls_certificate_expiry_s: AtomicU64,
    /// How often the files of certificate and key had changed to what cannot be used.
    pub tls_reload_failures: AtomicU64,
}

/// Counts one more.
pub(in crate::http) fn one_more(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}
