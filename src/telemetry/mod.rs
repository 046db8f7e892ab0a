//! What the server did: logs, and series for Prometheus.
//!
//! Counters and histograms are made once, with all values of their labels, and handed to the rooms that move
//! them ([`series`]); nothing is looked up or made while requests are served. What rooms know anyway is read
//! when somebody asks ([`now`]). Every request that brings a body has a [`ticket`], so that what came in is
//! what came out.

pub mod classic;

pub mod labels;

mod logs;

pub mod now;

mod process;

pub mod series;

pub mod ticket;

pub use logs::{Fatal, Format, START_TARGET, Settings, init};
