//! The first half of a request's way, before the answer: parse, room, append, committed.

mod committing;

mod parsing;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use rand::Rng;
use tokio::sync::OwnedSemaphorePermit;

use self::committing::{Appended, Committing};
use crate::clock::Clock;
use crate::journal::record::{Content, Detached, Encoded, LINE_BYTES_MAX, TooLong};
use crate::journal::{Journal, Unavailable};
use crate::limits::memory::{self, Charge, Kind, OverLimit};
use crate::limits::{Exceeded, Limits, NotAllowed, REPORT_SUITE, tokens_of_stored};
use crate::live::{Full, Live, Owner};
use crate::privacy::{REDACTED_BYTES_MAX, Redactor, Unredacted};
use crate::processor::{Change, Outcome};
use crate::session::id::{Key, SessionId};
use crate::session::{BodyHash, CloseReason, NotFolded, Opening, Step, stored_within};
use crate::size::Size;
use crate::telemetry::ticket::{Fate, Ticket};
use crate::unlisted::{OfBody, Sender, UnlistedNames};
use crate::wire::packed::{NotUnpacked, Packed};
use crate::wire::{
    Event, NotStored, PARSE_BYTES_PER_BYTE_MAX, Rules, STORED_EVENTS_MAX, Start, StoredForm,
    Violations,
};

pub use self::parsing::{Parsing, Slot};

/// How many sessions are closed in one go: players who wait to be written must not wait long.
const CLOSED_AT_ONCE: usize = 10_000;

/// What reading one event of a stored session takes at most, but for one that is far larger than an event may be.
const EVENT_OF_STORED_BYTES: usize = 4 << 20;

/// A body up to this is small: it is not charged for being read and for waiting, and needs no turn.
pub const SMALL_BODY_BYTES: usize = 8 << 10;

/// The turn of a large body to be read; nothing for a small one.
pub type Turn = Option<OwnedSemaphorePermit>;

/// Takes bodies, and answers once they are durable.
#[derive(Debug)]
pub struct Collector {
    key: Key,
    rules: Rules,
    clock: Clock,
    live: Arc<Live>,
    journal: Journal,
    limits: Arc<Limits>,
    parsing: Parsing,
    committing: Committing,
    redactor: Option<Arc<Redactor>>,
    unlisted: Arc<UnlistedNames>,
}

/// Who sent a body, as far as the privacy settings keep it.
#[derive(Debug, Default)]
pub struct Client<'h> {
    /// The address.
    pub address: Option<String>,
    /// The user agent.
    pub user_agent: Option<Cow<'h, str>>,
    /// What it uses of the server's memory.
    pub memory: Option<memory::Client>,
    /// Where it is, to share places fairly; it is not kept.
    pub ip: Option<IpAddr>,
}

/// A stored session as it came: it is unpacked when its turn has come.
#[derive(Debug)]
pub struct StoredBody {
    /// The body, packed or not.
    pub packed: Packed,
    /// Where it was posted.
    pub form: StoredForm,
    /// How large it may be, unpacked.
    pub bytes_max: Size,
    /// What it is charged.
    pub charge: Option<Charge>,
}

/// What became of a stored session.
#[derive(Debug)]
pub struct StoredOutcome {
    /// The id of the session, or why it was not taken; then nothing was acknowledged.
    pub result: Result<SessionId, Refusal>,
    /// The body, if it could be unpacked.
    pub body: Option<Bytes>,
    /// What the body is charged, for as long as it is held.
    pub charge: Option<Charge>,
}

impl StoredOutcome {
    /// It was refused before it was unpacked.
    fn refused(unavailable: Unavailable) -> Self {
        Self { result: Err(unavailable.into()), body: None, charge: None }
    }
}

impl Client<'_> {
    /// Charges what is made of a body while it is read. That of a small one is little, and part of what stays for
    /// the program: no more are read at once than there are cores.
    fn charge_parsing(&self, body_bytes: usize) -> Result<Option<Charge>, OverLimit> {
        self.charge(Kind::Parsing, body_bytes, PARSE_BYTES_PER_BYTE_MAX * body_bytes)
    }

    /// Charges the record of a body until it is committed, twice: the next group grows while one is written. So
    /// large events leave room for the small ones, which the journal bounds together.
    fn charge_waiting(&self, body_bytes: usize) -> Result<Option<Charge>, OverLimit> {
        self.charge(Kind::Journal, body_bytes, 2 * body_bytes)
    }

    fn charge(
        &self,
        kind: Kind,
        body_bytes: usize,
        bytes: usize,
    ) -> Result<Option<Charge>, OverLimit> {
        let memory = self.memory.as_ref().filter(|_| body_bytes > SMALL_BODY_BYTES);
        memory.map(|client| client.charge(kind, bytes)).transpose()
    }

    fn owner(&self, live: &Live) -> Owner {
        let owner = self.memory.as_ref().map(|client| live.owner(client, self.address.as_deref()));
        owner.unwrap_or_default()
    }
}

/// Why a body was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The body breaks rules; its player has to be fixed.
    #[error("the body breaks {} rules", .0.listed().len() + .0.omitted())]
    Invalid(Violations),
    /// Sessions are not collected for whom it names.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    /// Its sender, or its report suite, asks too often; the player may try again.
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
    /// A stored session has more events than are taken.
    #[error("more than {STORED_EVENTS_MAX} events")]
    TooMany,
    /// What would be kept of it is too large for the journal.
    #[error("what would be kept is larger than {0}")]
    TooLarge(Size),
    /// The session's id was never given out here; the player should begin a new one.
    #[error("nobody knows this session")]
    Unknown,
    /// The session is over; the player should begin a new one.
    #[error("this session is over")]
    Gone,
    /// There is no room now; the player may try again.
    #[error(transparent)]
    Full(Full),
    /// There is no memory for it now, or not for its client; the player may try again.
    #[error(transparent)]
    Memory(#[from] OverLimit),
    /// It could not be made durable; the player may try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl From<Full> for Refusal {
    fn from(full: Full) -> Self {
        match full {
            Full::Share => Self::Memory(OverLimit::Share(Kind::Live)),
            full => Self::Full(full),
        }
    }
}

impl From<NotStored> for Refusal {
    fn from(refused: NotStored) -> Self {
        match refused {
            NotStored::Invalid(violations) => Self::Invalid(violations),
            NotStored::TooMany => Self::TooMany,
        }
    }
}

impl From<NotFolded<Full>> for Refusal {
    fn from(not_folded: NotFolded<Full>) -> Self {
        match not_folded {
            NotFolded::Refused(refused) => refused.into(),
            NotFolded::NoRoom(full) => full.into(),
        }
    }
}

impl From<TooLong> for Refusal {
    fn from(_: TooLong) -> Self {
        Self::TooLarge(Size::bytes(LINE_BYTES_MAX as u64))
    }
}

impl From<Unredacted> for Refusal {
    fn from(unredacted: Unredacted) -> Self {
        match unredacted {
            Unredacted::TooLarge => Self::TooLarge(Size::bytes(REDACTED_BYTES_MAX as u64)),
            // A body that was accepted can be read; if not, it must not be kept as it came.
            Unredacted::Unreadable => Self::Invalid(Violations::unreadable(unredacted.to_string())),
        }
    }
}

impl Collector {
    /// A collector that appends to `journal`, whose fold is `live`.
    pub fn new(
        key: Key,
        rules: Rules,
        clock: Clock,
        live: Arc<Live>,
        journal: Journal,
        limits: Limits,
        unlisted: UnlistedNames,
    ) -> Self {
        let (parsing, committing) = (Parsing::default(), Committing::default());
        let (limits, unlisted) = (Arc::new(limits), Arc::new(unlisted));
        Self {
            key,
            rules,
            clock,
            live,
            journal,
            limits,
            parsing,
            committing,
            redactor: None,
            unlisted,
        }
    }

    /// Keeps bodies as this leaves them, from now on.
    #[must_use]
    pub fn redacting(self, redactor: Option<Redactor>) -> Self {
        Self { redactor: redactor.map(Arc::new), ..self }
    }

    /// What takes parameters out of bodies, if any are to be taken out.
    pub fn redactor(&self) -> Option<&Redactor> {
        self.redactor.as_deref()
    }

    /// The rules that bodies are held to.
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// The live sessions.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// What clients and report suites may ask.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The names in accepted bodies that are not listed.
    pub fn unlisted(&self) -> &UnlistedNames {
        &self.unlisted
    }

    /// Who parses a stored session.
    pub fn parsing(&self) -> &Parsing {
        &self.parsing
    }

    /// Whether a new session would find room; asked before its body is read.
    ///
    /// # Errors
    /// [`Refusal::Full`].
    pub fn has_room(&self) -> Result<(), Refusal> {
        Ok(self.live.has_room()?)
    }

    /// Opens a session: when this returns, it is durable and live. Here and below the ticket stays behind if
    /// the body is refused before it is appended.
    ///
    /// # Errors
    /// [`Refusal`], and then nothing was acknowledged.
    pub async fn start(
        &self,
        body: &[u8],
        turn: Turn,
        client: Client<'_>,
        ticket: &mut Ticket,
    ) -> Result<SessionId, Refusal> {
        let _waiting = client.charge_waiting(body.len())?;
        let (id, committed) = {
            let _turn = turn;
            let _parsing = client.charge_parsing(body.len())?;
            let start = Start::parse(body, self.rules).map_err(Refusal::Invalid)?;
            let sender = Sender { ip: client.ip, now_ms: self.clock.now_ms() };
            let (address, user_agent) = (client.address.as_deref(), client.user_agent.as_deref());
            let mut opening = Opening::of(&start, address, user_agent);
            within(&self.limits, &opening)?;
            let kept = kept(self.redactor(), body)?;
            // The fold knows what the journal has, and nothing else.
            if let Cow::Owned(kept) = &kept {
                let start = Start::accepted(kept).map_err(Refusal::Invalid)?;
                opening = Opening::of(&start, address, user_agent);
            }
            // It may be the repeat of another start, whose id it then holds.
            let bytes = opening.heap_bytes() + size_of::<SessionId>();
            let room = Some(self.live.keep_room(bytes, client.owner(&self.live))?);
            let id = SessionId::mint(&self.key, sender.now_ms, random());
            let record = Encoded::new(Content::Start {
                sid: id,
                client: address.map(Cow::Borrowed),
                user_agent: user_agent.map(Cow::Borrowed),
                body: Cow::Borrowed(&kept),
            })?;
            let hash = BodyHash::of_start(record.body(), address);
            let change = Change::Start { id, opening, hash, room };
            let committed = self.journal.append_with(ticket, &record, change)?;
            self.unlisted.note(sender, &start.event, self.redactor());
            (id, committed)
        };
        committed.await.map_err(|_| Unavailable::Closed)??;
        Ok(id)
    }

    /// Takes a stored session: when this returns, it is durable and has ended, or refused. Of one that was sent again
    /// nothing is kept, and the id is that of the first.
    pub async fn stored(
        &self,
        body: StoredBody,
        client: Client<'_>,
        ticket: &mut Ticket,
    ) -> StoredOutcome {
        let slot = match self.parsing.enter(client.ip).await {
            Ok(slot) => slot,
            Err(unavailable) => return StoredOutcome::refused(unavailable),
        };
        let id = SessionId::mint(&self.key, self.clock.now_ms(), random());
        let reading = StoredReading {
            id,
            rules: self.rules,
            live: Arc::clone(&self.live),
            journal: self.journal.clone(),
            committing: self.committing.clone(),
            limits: Arc::clone(&self.limits),
            redactor: self.redactor.clone(),
            unlisted: Arc::clone(&self.unlisted),
            now_ms: self.clock.now_ms(),
            client: Client {
                user_agent: client.user_agent.map(|text| text.into_owned().into()),
                ..client
            },
        };
        // It may be large, and the threads that serve other players must not be held up.
        let mut elsewhere = ticket.take();
        let work = move || {
            let _slot = slot;
            let StoredBody { packed, form, bytes_max, mut charge } = body;
            let unpacked = reading.unpack(&packed, bytes_max, &mut charge);
            drop(packed);
            let (appended, unpacked) = match unpacked {
                Ok(body) => (reading.append(&body, form, &mut elsewhere), Some(body)),
                Err(refusal) => (Err(refusal), None),
            };
            (appended, unpacked, elsewhere, charge)
        };
        let (appended, body, charge) = match tokio::task::spawn_blocking(work).await {
            Ok((appended, body, back, charge)) => {
                *ticket = back;
                (appended, body, charge)
            }
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return StoredOutcome::refused(Unavailable::Closed),
            },
        };
        let result = match appended {
            Ok(appended) => appended.committed().await.map_err(Refusal::from),
            Err(refusal) => Err(refusal),
        };
        if result.is_ok() {
            // The ticket is here still if it was sent again: the first has a record.
            ticket.settle(Fate::Repeated);
        }
        StoredOutcome { result, body, charge }
    }

    /// Takes an event of a session, whose id is given as it stands in the path: when this returns, the event
    /// is durable and its session has it.
    ///
    /// # Errors
    /// [`Refusal`], and then nothing was acknowledged.
    pub async fn event(
        &self,
        id: &str,
        body: &[u8],
        turn: Turn,
        client: &Client<'_>,
        ticket: &mut Ticket,
    ) -> Result<(), Refusal> {
        let _waiting = client.charge_waiting(body.len())?;
        let committed = {
            let _turn = turn;
            let _parsing = client.charge_parsing(body.len())?;
            let event = Event::parse(body, self.rules).map_err(Refusal::Invalid)?;
            let id = self.live_id(id)?;
            self.limits.take_suites(|| self.live.facts_of(id)?.text(REPORT_SUITE))?;
            let kept = kept(self.redactor(), body)?;
            let record = Encoded::new(Content::Event { sid: id, body: Cow::Borrowed(&kept) })?;
            let step = match &kept {
                Cow::Borrowed(_) => Step::of(&event, record.body()),
                Cow::Owned(kept) => {
                    let event = Event::accepted(kept).map_err(Refusal::Invalid)?;
                    Step::of(&event, record.body())
                }
            };
            let room = Some(self.live.keep_room_for(id, &step)?);
            let change = Change::Event { id, step, room };
            let committed = self.journal.append_with(ticket, &record, change)?;
            let sender = Sender { ip: client.ip, now_ms: self.clock.now_ms() };
            self.unlisted.note(sender, &event, self.redactor());
            committed
        };
        match committed.await.map_err(|_| Unavailable::Closed)?? {
            Outcome::Heard => Ok(()),
            // The end of the session came before it.
            _ => Err(Refusal::Gone),
        }
    }

    /// The id of a session that is live as far as anyone knows; the fold has the last word. An id that we
    /// gave out tells so itself, so sessions that are over need not be remembered.
    fn live_id(&self, text: &str) -> Result<SessionId, Refusal> {
        let id = SessionId::from_path(text).ok_or(Refusal::Unknown)?;
        if self.live.contains(id) {
            Ok(id)
        } else if id.is_signed_by(&self.key) {
            Err(Refusal::Gone)
        } else {
            Err(Refusal::Unknown)
        }
    }

    /// The id of a session that was given out here, live or not.
    ///
    /// # Errors
    /// [`Refusal::Unknown`].
    pub fn known_id(&self, text: &str) -> Result<SessionId, Refusal> {
        match self.live_id(text) {
            Err(Refusal::Gone) => SessionId::from_path(text).ok_or(Refusal::Unknown),
            known => known,
        }
    }

    /// Closes the sessions whose deadline has come, each with a record. While nothing can be written
    /// none is closed, and no deadline runs.
    pub async fn close_due(&self) {
        while self.journal.is_up().is_ok() {
            let (due, all) = self.live.take_due(self.journal.now_ms(), CLOSED_AT_ONCE);
            for id in self.close(due).await {
                self.live.put_back(id);
            }
            if all {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Closes sessions that never sent an event, if their places are needed, each with a record.
    pub async fn evict(&self) {
        if self.journal.is_up().is_err() {
            return;
        }
        let evictable = self.live.evictable(self.journal.now_ms(), CLOSED_AT_ONCE);
        let closing = evictable.into_iter().map(|id| (id, CloseReason::Evicted)).collect();
        // One that is not closed sent an event just now.
        self.close(closing).await;
    }

    /// Closes these sessions, and gives those that were not closed.
    async fn close(&self, sessions: Vec<(SessionId, CloseReason)>) -> Vec<SessionId> {
        let mut closing = Vec::with_capacity(sessions.len());
        for (id, reason) in sessions {
            let record = Encoded::short(Content::Close { sid: id, reason });
            closing.push((id, self.journal.append(&record, Change::Close { id, reason })));
        }
        let mut left = Vec::new();
        for (id, appended) in closing {
            let closed = match appended {
                Ok(committed) => matches!(committed.await, Ok(Ok(Outcome::Closed))),
                Err(_) => false,
            };
            if !closed {
                left.push(id);
            }
        }
        left
    }
}

/// What reads one stored session, on a thread of its own.
struct StoredReading {
    id: SessionId,
    rules: Rules,
    live: Arc<Live>,
    journal: Journal,
    committing: Committing,
    limits: Arc<Limits>,
    redactor: Option<Arc<Redactor>>,
    unlisted: Arc<UnlistedNames>,
    now_ms: u64,
    client: Client<'static>,
}

impl StoredReading {
    /// Unpacks the body, and charges what it grows to before it grows.
    fn unpack(
        &self,
        packed: &Packed,
        bytes_max: Size,
        charge: &mut Option<Charge>,
    ) -> Result<Bytes, Refusal> {
        let packed_bytes = packed.bytes.len();
        let mut reserve = |bytes| match (&mut *charge, &self.client.memory) {
            (Some(charge), _) => charge.grow_to(packed_bytes + bytes),
            (None, Some(client)) => {
                *charge = Some(client.charge(Kind::Bodies, packed_bytes + bytes)?);
                Ok(())
            }
            (None, None) => Ok(()),
        };
        let unpacked = packed.unpack(bytes_max.as_usize(), &mut reserve);
        unpacked.map_err(|error| match error {
            NotUnpacked::TooLarge => Refusal::TooLarge(bytes_max),
            NotUnpacked::NotGzip(fault) => Refusal::Invalid(fault.into()),
            NotUnpacked::NoRoom(over) => over.into(),
        })
    }

    fn charge_rate(&self, tokens: u64) {
        if let Some(ip) = self.client.ip {
            self.limits.charge_client(ip, tokens);
        }
    }

    /// Reads the events one by one, and appends the session that they make, unless it was sent before.
    fn append(
        &self,
        body: &Bytes,
        form: StoredForm,
        ticket: &mut Ticket,
    ) -> Result<Appended, Refusal> {
        let client = &self.client;
        self.journal.has_room_for_stored(body.len())?;
        // Whatever comes of it, it is read. The first token its request has taken already.
        let body_bytes = body.len() as u64;
        let of_reading = tokens_of_stored(body_bytes, 0).saturating_sub(1);
        self.charge_rate(of_reading);
        // One event is read at a time.
        let event_bytes = body.len().min(EVENT_OF_STORED_BYTES);
        let _parsing = client.charge(Kind::Parsing, event_bytes, event_bytes)?;
        let (address, user_agent) = (client.address.as_deref(), client.user_agent.as_deref());
        let (sender, terms) = ((address, user_agent), self.journal.terms());
        let mut room = self.live.keep_room(0, client.owner(&self.live))?;
        let hold = |bytes| room.resize_to(bytes);
        let mut unlisted = OfBody::default();
        let look = |event: &_| unlisted.add(event);
        let mut session = stored_within(body, self.rules, form, sender, terms, look, hold)?;
        within(&self.limits, session.opening())?;
        let kept = match kept(self.redactor.as_deref(), body)? {
            Cow::Borrowed(_) => body.clone(),
            Cow::Owned(kept) => {
                // Two of them are never there at once.
                drop(session);
                let (rules, form) = (Rules::ACCEPTED, StoredForm::Accepted);
                let hold = |bytes| room.resize_to(bytes);
                session = stored_within(&kept, rules, form, sender, terms, |_| {}, hold)?;
                kept.into()
            }
        };
        let events = session.events_by_type().iter().sum::<u64>();
        let record = Detached::batch(self.id, address, user_agent, &kept)?;
        let hash = BodyHash::of(&[record.value()]);
        let before = || self.live.stored_before(hash, self.journal.now_ms());
        let append = || {
            let session = Box::new(session);
            let change = Change::Batch { id: self.id, session, hash, room: Some(room) };
            Ok::<_, Refusal>(self.journal.append_large(ticket, record, change)?)
        };
        let appended = self.committing.append(hash, self.id, before, append)?;
        self.charge_rate(tokens_of_stored(body_bytes, events) - of_reading);
        let sender = Sender { ip: client.ip, now_ms: self.now_ms };
        self.unlisted.note_body(sender, unlisted, self.redactor.as_deref());
        Ok(appended)
    }
}

/// Whether a session is collected that begins like this, and not too often.
fn within(limits: &Limits, opening: &Opening) -> Result<(), Refusal> {
    limits.allow(&opening.facts)?;
    limits.take_suites(|| opening.facts.text(REPORT_SUITE))?;
    Ok(())
}

/// An accepted body as it is kept: the same, unless something is to be taken out of it.
fn kept<'b>(redactor: Option<&Redactor>, body: &'b [u8]) -> Result<Cow<'b, [u8]>, Unredacted> {
    redactor.map_or(Ok(Cow::Borrowed(body)), |redactor| redactor.accepted(body))
}

fn random() -> [u8; 10] {
    let mut bits = [0; 10];
    rand::rng().fill_bytes(&mut bits);
    bits
}
