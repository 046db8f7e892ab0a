//! The attacks, and what each of them is given.
//!
//! What needs many networks of IPv6 is not here, such as one owner of a network of 48 bits who posts from a different
//! one of 64 bits each time: of IPv6, loopback has `::1` alone, and more addresses take root. Attacks from several
//! addresses use those of IPv4.

mod held;
mod posted;
mod streams;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use tokio::time::Instant;

use crate::client::Addresses;
use crate::tally::Tally;

/// What is attacked, from where and until when.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) listen: SocketAddr,
    pub(crate) admin_listen: SocketAddr,
    /// Where the server keeps its data.
    pub(crate) data_folder: PathBuf,
    pub(crate) tally: Arc<Tally>,
    pub(crate) addresses: Addresses,
    /// How many files, and so connections, this process may have open.
    pub(crate) files_max: usize,
    pub(crate) end: Instant,
}

impl Target {
    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// So many connections, or as many as this process may have.
    fn connections(&self, wanted: usize) -> usize {
        wanted.min(self.files_max.saturating_sub(FILES_KEPT))
    }
}

/// The files that this process needs besides the connections of an attack.
const FILES_KEPT: usize = 1_000;

/// Runs until it is over.
type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One attack.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// What the server is set to besides its defaults.
    pub(crate) settings: &'static [(&'static str, &'static str)],
    /// How long it takes at least to have an effect.
    pub(crate) seconds_min: u64,
    pub(crate) run: fn(Target) -> Running,
}

impl Attack {
    /// Whether it is the one with which the others are compared.
    pub(crate) fn is_quiet(&self) -> bool {
        std::ptr::eq(self, &raw const ALL[0])
    }
}

const fn attack(name: &'static str, about: &'static str, run: fn(Target) -> Running) -> Attack {
    Attack { name, about, settings: &[], seconds_min: 0, run }
}

/// All attacks; the first is none.
pub(crate) static ALL: &[Attack] = &[
    attack("quiet", "nobody attacks", |_| Box::pin(async {})),
    attack(
        "states",
        "stored sessions that list millions of empty states, packed, on 4 connections",
        |target| Box::pin(posted::states(target)),
    ),
    attack(
        "long-name",
        "starts with a member name of 125 kB that is not allowed, packed, on 4 connections",
        |target| Box::pin(posted::long_name(target)),
    ),
    attack(
        "long-name-unread-1",
        "stored sessions with a name of 16 MiB on 1 HTTP/2 connection that lets no answer through",
        |target| Box::pin(streams::unread_large_answers(target)),
    ),
    attack(
        "long-name-unread-64",
        "starts with a name of 125 kB on 64 HTTP/2 connections that let no answer through",
        |target| Box::pin(streams::unread_many_answers(target)),
    ),
    attack(
        "slow-readers",
        "answers to names of 16 MiB on 50 HTTP/1.1 connections that read a byte a second",
        |target| Box::pin(held::slow_readers(target)),
    ),
    Attack {
        seconds_min: 15,
        ..attack(
            "large-starts",
            "17 900 starts with metadata as large as it may be, packed, on 32 connections",
            |target| Box::pin(posted::large_starts(target)),
        )
    },
    Attack {
        seconds_min: 8,
        ..attack(
            "growing-sessions",
            "60 sessions that are sent ad breaks and ads with names of 126 KiB, packed, on 60 connections",
            |target| Box::pin(posted::growing_sessions(target)),
        )
    },
    attack(
        "large-events",
        "events of one session with names of 126 KiB, packed, on 3 HTTP/2 connections of 128 streams",
        |target| Box::pin(streams::large_events(target)),
    ),
    attack("starts", "sessions opened as fast as possible on 32 connections", |target| {
        Box::pin(posted::starts(target))
    }),
    Attack {
        settings: &[("MEDIATALLY_LIVE__SESSIONS_MAX", "20000")],
        ..attack("starts-20000", "the same, where 20 000 sessions may be live", |target| {
            Box::pin(posted::starts(target))
        })
    },
    attack("stored", "stored sessions of 16 MiB, packed, on 8 connections", |target| {
        Box::pin(posted::stored_large_events(target, 1))
    }),
    attack("stored-many-addresses", "the same from 8 addresses", |target| {
        Box::pin(posted::stored_large_events(target, 8))
    }),
    attack(
        "stored-large-state",
        "stored sessions of 4 000 ad breaks and ads with names of 4 kB, packed, on 8 connections",
        |target| Box::pin(posted::stored_large_state(target)),
    ),
    attack(
        "stored-small-events",
        "stored sessions of 100 000 small events, packed, on 8 connections",
        |target| Box::pin(posted::stored_small_events(target)),
    ),
    Attack {
        seconds_min: 8,
        ..attack(
            "many-headers",
            "330 HTTP/2 connections of 128 streams with 960 header fields each, whose bodies never come",
            |target| Box::pin(streams::many_headers(target)),
        )
    },
    attack(
        "stalled-gzip",
        "16 stored sessions that stop just before their end, 16 MiB unpacked",
        |target| Box::pin(held::stalled_gzip(target)),
    ),
    Attack {
        seconds_min: 12,
        ..attack("stalled-bodies", "13 000 connections whose bodies never come", |target| {
            Box::pin(held::stalled_bodies(target))
        })
    },
    Attack {
        seconds_min: 12,
        ..attack("idle", "11 500 connections that send nothing", |target| {
            Box::pin(held::idle(target))
        })
    },
    Attack {
        seconds_min: 10,
        ..attack(
            "idle-admin",
            "2 addresses with 64 idle connections each to the admin side",
            |target| Box::pin(held::idle_admin(target)),
        )
    },
    Attack {
        settings: &[
            ("MEDIATALLY_LIMITS__REPORT_SUITE_REQUESTS_PER_SECOND", "400"),
            ("MEDIATALLY_LIMITS__REPORT_SUITE_BURST", "400"),
        ],
        ..attack(
            "one-suite-8-times",
            "100 starts a second that name the suite of the players 8 times, where it may have 400 requests",
            |target| Box::pin(posted::one_suite(target)),
        )
    },
    attack("refused-bodies", "39 517 bodies that are refused, on 16 connections", |target| {
        Box::pin(posted::refused_bodies(target))
    }),
    attack(
        "refused-control-characters",
        "40 stored sessions of 16 MiB of control characters, packed, from 2 addresses",
        |target| Box::pin(posted::refused_control_characters(target)),
    ),
    attack("slow-heads", "500 connections that send a head byte by byte", |target| {
        Box::pin(held::slow_heads(target))
    }),
    attack("slow-bodies", "500 connections that send a body byte by byte", |target| {
        Box::pin(held::slow_bodies(target))
    }),
    attack("packed-zeros", "16 MiB and 64 MiB of zeros, packed, on 8 connections", |target| {
        Box::pin(posted::packed_zeros(target))
    }),
    attack("packed-members", "packed bodies of 5 000 empty members, on 8 connections", |target| {
        Box::pin(posted::packed_members(target))
    }),
    attack("deep-json", "lists and objects as deep as a body allows, on 8 connections", |target| {
        Box::pin(posted::deep_json(target))
    }),
];
