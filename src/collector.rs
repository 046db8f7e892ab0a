//! The first half of a request's way, before the answer: parse, room, add.

use rand::Rng;

use crate::clock::Clock;
use crate::live::{Full, Live};
use crate::session::Session;
use crate::session::id::{Key, SessionId};
use crate::wire::{Rules, Start, Unlisted, Violations};

/// Takes bodies and keeps what they say.
#[derive(Debug)]
pub struct Collector {
    key: Key,
    rules: Rules,
    clock: Clock,
    live: Live,
}

/// Why a body was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The body breaks rules; the player has to be mended.
    #[error("the body breaks {} rules", .0.listed().len() + .0.omitted())]
    Invalid(Violations),
    /// There is no room now; the player may try again.
    #[error(transparent)]
    Full(#[from] Full),
}

impl Collector {
    /// A collector that adds to `live`.
    pub fn new(key: Key, rules: Rules, clock: Clock, live: Live) -> Self {
        Self { key, rules, clock, live }
    }

    /// The live sessions.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// Whether a new session would find room; asked before its body is read.
    ///
    /// # Errors
    /// [`Refusal::Full`].
    pub fn has_room(&self) -> Result<(), Refusal> {
        Ok(self.live.has_room()?)
    }

    /// Opens a session.
    ///
    /// # Errors
    /// [`Refusal`], and then nothing was kept.
    pub fn start(&self, body: &[u8]) -> Result<SessionId, Refusal> {
        let start = Start::parse(body, self.rules).map_err(Refusal::Invalid)?;
        point_out(&start.unlisted);
        let now_ms = self.clock.now_ms();
        let id = SessionId::mint(&self.key, now_ms, random());
        self.live.insert(id, Session::open(&start, now_ms))?;
        Ok(id)
    }
}

fn random() -> [u8; 10] {
    let mut bits = [0; 10];
    rand::rng().fill_bytes(&mut bits);
    bits
}

/// Shows the operator the names that nobody knows, with what was probably meant.
fn point_out(unlisted: &[Unlisted<'_>]) {
    for Unlisted { name, nearest } in unlisted {
        tracing::debug!(%name, nearest, "a body has a name that is not listed");
    }
}
