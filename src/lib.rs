//! A self-hosted media session collection server that speaks Adobe's Media Collection API.
//!
//! A player posts a `sessionStart` and gets 201 with the place of its session. On the way its
//! request meets these rooms, in this order:
//!
//! ```text
//! player ─▶ http ─▶ collector ─▶ wire ─▶ live ─▶ 201
//!           routes  the order    typed   room?
//!           limits  of steps     body,   add
//!           CORS                 rules
//! ```
//!
//! [`wire`] and [`session`] are pure: no files, sockets, clock or dice. The rest touches the world.
//!
//! What never happens: a body that is not sound JSON is accepted; a value that an outsider controls
//! goes without a bound; a refusal says less than all that is wrong.

pub mod commands;

pub mod config;

pub mod clock;

pub mod data_dir;

pub mod telemetry;

pub mod http;

pub mod collector;

pub mod wire;

pub mod live;

pub mod session;
