//! The server as its users meet it: over real sockets, or as the real program.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admin;
mod backup;
mod bounds;
mod certificates;
mod clock;
mod commands;
mod cors;
mod dashboards;
mod documents;
mod downloaded;
mod early_answers;
mod erase;
mod events;
mod fairness;
mod harness;
mod health;
mod limits;
mod logs;
mod metrics;
mod privacy;
mod rates;
mod recovery;
mod reports;
mod restarts;
mod scenarios;
mod sessions;
mod shutdown;
mod soak;
mod tls;
mod tree;
mod unlisted;
mod violations;
