//! What became of the connections of one listener, in figures.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::labels::{Dropped, Label, Refused};

/// The figures of one listener, since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections that may be open.
    pub max: AtomicU64,
    /// Connections that are open, those that still shake hands among them.
    pub open: AtomicU64,
    /// Connections that were taken.
    pub accepted: AtomicU64,
    /// Connections that were closed at once, by why.
    pub refused: [AtomicU64; Refused::ALL.len()],
    /// Connections that were closed before their time, by why.
    pub dropped: [AtomicU64; Dropped::ALL.len()],
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

impl Counts {
    /// Those that were closed at once for this.
    pub fn refused(&self, why: Refused) -> &AtomicU64 {
        &self.refused[why.row()]
    }

    /// Those that were closed before their time for this.
    pub fn dropped(&self, why: Dropped) -> &AtomicU64 {
        &self.dropped[why.row()]
    }

    /// Counts one that is closed before its time.
    pub(super) fn count_dropped(&self, why: Dropped) {
        one_more(self.dropped(why));
    }
}

/// Counts one more.
pub(in crate::http) fn one_more(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}
