//! The second half of a request's way, after the commit: records are folded into the live sessions.
//!
//! Live state is exactly the fold of the journal: nothing but a record changes it, and a restart that
//! folds the same records arrives at the same state.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use crate::journal::record::{Content, Record};
use crate::live::{EventRoom, Live, Progress, Reported, Room};
use crate::session::id::SessionId;
use crate::session::{BodyHash, CloseReason, Opening, Step, StoredSession, Terms, stored};
use crate::telemetry::labels::{Closed, Kind, Opened};
use crate::telemetry::series;
use crate::wire::{Event, EventType, NotStored, Rules, Start, StoredForm, Violations};

/// What a record changes: its content as the fold wants it.
#[derive(Debug)]
pub enum Change {
    /// A session begins.
    Start {
        /// Its id.
        id: SessionId,
        /// What its start said.
        opening: Opening,
        /// Tells whether it was sent again.
        hash: BodyHash,
        /// The room that was kept for it; none on replay, where it had room once.
        room: Option<Room>,
    },
    /// Something happened in a session.
    Event {
        /// The session.
        id: SessionId,
        /// What happened.
        step: Step,
        /// The room that was kept for it; none on replay.
        room: Option<EventRoom>,
    },
    /// A stored session came whole.
    Batch {
        /// Its id.
        id: SessionId,
        /// The session, folded already but for the time of its receipt.
        session: Box<StoredSession>,
        /// Tells whether it was sent again.
        hash: BodyHash,
        /// The room that was kept for it; none on replay.
        room: Option<Room>,
    },
    /// A deadline of a session passed.
    Close {
        /// The session.
        id: SessionId,
        /// Which deadline.
        reason: CloseReason,
    },
    /// The report of a session is in the journal.
    Report {
        /// The session.
        id: SessionId,
    },
    /// Other terms hold for sessions from now on.
    Settings {
        /// These.
        terms: Terms,
        /// All pauses so far, in ms; none where an older version did not tell them.
        paused_ms: Option<u64>,
        /// By how much stamps were set back so far, all together, in ms.
        set_back_ms: u64,
    },
    /// Nothing could be received for a while, or the stamps were set back.
    Pause {
        /// How long, in ms.
        down_ms: u64,
        /// By how much stamps are set back from here on, in ms.
        set_back_ms: u64,
    },
    /// Sessions are erased: nobody knows them from now on.
    Erase {
        /// These; none on replay, where nothing is left of them.
        ids: Vec<SessionId>,
    },
}

impl Change {
    /// The session that this goes on with, if it does not begin one.
    pub(crate) fn goes_on(&self) -> Option<SessionId> {
        match self {
            Self::Event { id, .. } | Self::Close { id, .. } | Self::Report { id } => Some(*id),
            _ => None,
        }
    }

    /// The kind of its record.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Start { .. } => Kind::Start,
            Self::Event { .. } => Kind::Event,
            Self::Batch { .. } => Kind::Batch,
            Self::Close { .. } => Kind::Close,
            Self::Report { .. } => Kind::Report,
            Self::Settings { .. } => Kind::Settings,
            Self::Pause { .. } => Kind::Pause,
            Self::Erase { .. } => Kind::Erased,
        }
    }
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The session is open.
    Opened,
    /// The session took the event.
    Heard,
    /// The session was over before the event, or it was erased.
    Gone,
    /// The session is closed.
    Closed,
    /// The session has its report.
    Reported,
    /// The session had not ended by its records so far, and its report ends it. Only a replay meets that: nobody
    /// writes the report of a live session.
    ReportedLive,
    /// It changed nothing: the deadline stood no more, or the session was closed or reported already.
    Nothing,
    /// The server goes on.
    Noted,
}

/// Folds records, in the order of their numbers.
#[derive(Debug)]
pub struct Processor {
    live: Arc<Live>,
    /// Told of each session that ends.
    ended: Option<Sender<SessionId>>,
    series: series::Sessions,
}

impl Processor {
    /// A processor that changes `live`; there must be no other.
    pub fn new(live: Arc<Live>) -> Self {
        Self { live, ended: None, series: series::Sessions::default() }
    }

    /// Tells of each session that ends from now on, so that somebody writes its report.
    #[must_use]
    pub fn telling(self, ended: Sender<SessionId>) -> Self {
        Self { ended: Some(ended), ..self }
    }

    /// Counts what records make of sessions from now on; what was read back before is not counted.
    #[must_use]
    pub fn counting(self, series: series::Sessions) -> Self {
        Self { series, ..self }
    }

    /// Whether any session is live.
    pub fn has_sessions(&self) -> bool {
        self.live.sessions() > 0
    }

    /// How far the journal is folded.
    pub fn progress(&self) -> Progress {
        self.live.progress()
    }

    /// Folds one record.
    pub fn fold(&mut self, seq: u64, received_ms: u64, change: Change) -> Outcome {
        let outcome = match change {
            Change::Start { id, opening, hash, room } => {
                self.live.open(seq, received_ms, id, (opening, hash), room);
                self.series.opened.of(Opened::Online).inc();
                self.series.events.of(EventType::SessionStart).inc();
                Outcome::Opened
            }
            Change::Event { id, step, room } => {
                let event_type = step.event_type;
                if let Some(counted) = self.live.hear(seq, received_ms, id, step, room) {
                    self.series.events.of(event_type).inc();
                    self.series.add(counted);
                    Outcome::Heard
                } else {
                    Outcome::Gone
                }
            }
            Change::Batch { id, session, hash, room } => {
                let (types, counted) = (session.events_by_type(), session.counts());
                if self.live.store(seq, received_ms, id, (*session, hash), room) {
                    self.series.opened.of(Opened::Downloaded).inc();
                    self.series.closed.of(CloseReason::Downloaded.into()).inc();
                    self.series.add_events(types);
                    self.series.add(counted);
                }
                self.tell(id);
                Outcome::Opened
            }
            Change::Close { id, reason } => {
                if let Some(counted) = self.live.close(seq, received_ms, id, reason) {
                    self.series.closed.of(reason.into()).inc();
                    self.series.add(counted);
                    self.tell(id);
                    Outcome::Closed
                } else {
                    Outcome::Nothing
                }
            }
            Change::Report { id } => match self.live.reported(seq, id) {
                Reported::Ended => {
                    self.series.reported.inc();
                    Outcome::Reported
                }
                Reported::Live => Outcome::ReportedLive,
                Reported::Unknown => Outcome::Nothing,
            },
            Change::Settings { terms, paused_ms, set_back_ms } => {
                self.live.set_terms(seq, received_ms, terms);
                if let Some(paused_ms) = paused_ms {
                    self.live.set_paused(paused_ms, set_back_ms);
                }
                Outcome::Noted
            }
            Change::Pause { down_ms, set_back_ms } => {
                self.live.pause(seq, received_ms, down_ms, set_back_ms);
                Outcome::Noted
            }
            Change::Erase { ids } => {
                let (live, pending) = self.live.erase(seq, &ids);
                self.series.closed.of(Closed::Erased).inc_by(live);
                self.series.erased.inc_by(live + pending);
                Outcome::Noted
            }
        };
        self.live.folded(seq, received_ms);
        outcome
    }

    fn tell(&self, id: SessionId) {
        if let Some(ended) = &self.ended {
            // If nobody writes reports any more, the next start does.
            let _ = ended.send(id);
        }
    }

    /// Folds a record that was read back.
    ///
    /// # Errors
    /// What keeps it from being folded, for the operator; then nothing has changed.
    pub fn replay(&mut self, record: Record<'_>) -> Result<Outcome, String> {
        let broken = |found: Violations| format!("its body breaks the rules: {:?}", found.listed());
        let (last_seq, last_ms) = (record.last_seq(), record.last_ms());
        let change = match record.content {
            Content::Start { sid, client, user_agent, body } => {
                let start = Start::accepted(&body).map_err(broken)?;
                let opening = Opening::of(&start, client.as_deref(), user_agent.as_deref());
                let hash = BodyHash::of_start(&body, client.as_deref());
                Change::Start { id: sid, opening, hash, room: None }
            }
            Content::Event { sid, body } => {
                let event = Event::accepted(&body).map_err(broken)?;
                Change::Event { id: sid, step: Step::of(&event, &body), room: None }
            }
            Content::Batch { sid, client, user_agent, body } => {
                let client = (client.as_deref(), user_agent.as_deref());
                let (rules, form) = (Rules::ACCEPTED, StoredForm::Accepted);
                let session = stored(&body, rules, form, client, self.progress().terms, |_| {})
                    .map_err(|refused| match refused {
                        NotStored::Invalid(found) => broken(found),
                        NotStored::TooMany => "it has too many events".to_owned(),
                    })?;
                let hash = BodyHash::of(&[&body]);
                Change::Batch { id: sid, session: Box::new(session), hash, room: None }
            }
            Content::Close { sid, reason } => Change::Close { id: sid, reason },
            Content::Report { sid, .. } => Change::Report { id: sid },
            Content::Settings { terms, paused_ms, set_back_ms } => {
                Change::Settings { terms, paused_ms, set_back_ms }
            }
            Content::Pause { down_ms, set_back_ms } => Change::Pause { down_ms, set_back_ms },
            Content::Erased { .. } => Change::Erase { ids: Vec::new() },
        };
        Ok(self.fold(last_seq, last_ms, change))
    }
}
