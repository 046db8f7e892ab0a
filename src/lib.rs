//! A self-hosted media session collection server that speaks Adobe's Media Collection API.
//!
//! A player posts a `sessionStart` and gets 201 with the place of its session, then posts the events of
//! that session and gets 204. On the way a request meets these rooms, in this order:
//!
//! ```text
//!           collector: up to the commit                      processor: from the commit on
//! player ─▶ http ─▶ wire ─▶ live ─▶ journal ─▶ committed ─▶ session: fold, in seq order ─▶ outcome ─▶ 201 / 204 / 410
//!           routes  typed   room?   append,
//!           limits  body,   known?  group
//!           CORS    rules           commit
//! ```
//!
//! [`wire`], [`session`] and [`report`] are pure: no files, sockets, clock or dice. The rest touches the
//! world.
//! Live state is exactly the fold of the journal: no timer, no handler and no wall clock changes a session.
//! A deadline that passes is a record like any other, and when sessions end is told by the journal, not by
//! the settings of the day; so a restart that replays it arrives at the same state.
//!
//! What never happens: a request is answered before it is durable; a body that is not sound JSON is
//! accepted; a value that an outsider controls goes without a bound; a refusal says less than all that
//! is wrong.

pub mod commands;

pub mod config;

pub mod size;

pub mod clock;

pub mod files;

pub mod escape;

pub mod data_dir;

pub mod telemetry;

pub mod http;

pub mod collector;

pub mod limits;

pub mod privacy;

pub mod rejects;

pub mod unlisted;

pub mod wire;

pub mod live;

pub mod journal;

pub mod processor;

pub mod reporter;

pub mod session;

pub mod report;
