//! One event as the fold takes it: what it said, as far as it matters, not its body.

use serde::{Deserialize, Serialize};
use serde_json::Number;

use super::facts::{FACTS_BYTES_MAX, Facts};
use super::is_default;
use super::list::{List, allocated};
use super::state::{PlayerState, StateName};
use crate::escape;
use crate::wire::{Event, EventType, PlayerTime};

/// How many player states one event may end, and how many it may begin; a session has ten. What it names beyond
/// that is not looked at.
const STATES_MAX: usize = 64;

/// One event of an open session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// What happened.
    pub event_type: EventType,
    /// When, by the player's clock, and where in the content.
    pub player_time: PlayerTime,
    /// Tells a repeat.
    pub print: Print,
    /// How well it plays, if that was said.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub readings: Option<Box<Readings>>,
    /// What the event is about, if anything.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub about: Option<Box<About>>,
}

/// What an event is about.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum About {
    /// Player states that change.
    States(StateNames),
    /// The ad break that begins.
    Break(BreakFacts),
    /// The ad or the chapter that begins.
    Part(Facts),
    /// The error that the player met, if it has an id.
    Error(ErrorId),
}

/// Player states that end and begin, in this order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StateNames {
    /// Those that end, each once.
    pub ends: List<StateName>,
    /// Those that begin, each once.
    pub starts: List<StateName>,
    /// Whether more were named than are kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_cut: bool,
}

/// What the start of an ad break said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BreakFacts {
    /// Its name.
    pub name: Option<Box<str>>,
    /// Its place.
    pub pod: Pod,
    /// Whether it has a name that is too long to keep.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_cut: bool,
}

/// The place of an ad break in the content, as it was sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pod {
    /// Its number.
    pub index: Option<Number>,
    /// Where it begins, in seconds.
    pub offset: Option<Number>,
}

/// The id of an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorId {
    /// The id; empty if it is too long to keep.
    pub id: Box<str>,
    /// Whether the error lies outside of the player.
    pub is_external: bool,
}

/// Values that say how well it plays. Those that are absent or negative are not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Readings {
    /// Bits in a thousand seconds.
    pub bitrate_milli: Option<u64>,
    /// Frames dropped since the session began.
    pub dropped_frames: Option<u64>,
    /// Frames in a second.
    pub frames_per_second: Option<f64>,
    /// From the wish to play to the first frame, in ms; not 0.
    pub time_to_start_ms: Option<u64>,
}

/// A hash of a body. Two bodies that are the same byte for byte have the same print; that two others
/// have it is as likely as one in 2^64, and would cost their own session one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Print(u64);

/// A hash of a whole body, by which it is found again among those of all clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BodyHash([u8; 16]);

impl BodyHash {
    /// The hash of these texts one after the other, each with its length.
    pub fn of(texts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for text in texts {
            hasher.update(&text.len().to_le_bytes());
            hasher.update(text);
        }
        Self(*hasher.finalize().as_bytes().first_chunk().expect("32 bytes hold 16"))
    }

    /// The hash of a start, as the journal has its body, and of who sent it.
    pub fn of_start(body: &[u8], address: Option<&str>) -> Self {
        Self::of(&[body, address.unwrap_or_default().as_bytes()])
    }
}

impl From<BodyHash> for String {
    fn from(hash: BodyHash) -> Self {
        hex::encode(hash.0)
    }
}

impl TryFrom<String> for BodyHash {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

impl Print {
    /// The print of a body as the journal has it, so that a replay finds the same repeats.
    pub fn of(body: &[u8]) -> Self {
        let hash = blake3::hash(body);
        Self(u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("32 bytes hold eight")))
    }

    /// The print as bytes.
    pub(super) fn to_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }
}

impl Step {
    /// Keeps what an event said; `body` is the body as the journal has it.
    pub fn of(event: &Event<'_>, body: &[u8]) -> Self {
        let (event_type, player_time) = (event.event_type, event.player_time);
        let about = About::of(event).map(Box::new);
        Self {
            event_type,
            player_time,
            print: Print::of(body),
            readings: Readings::of(event),
            about,
        }
    }

    /// The memory that it holds beside itself, in bytes.
    pub fn heap_bytes(&self) -> usize {
        let readings = self.readings.as_ref().map_or(0, |_| allocated(size_of::<Readings>()));
        let about = self.about.as_ref();
        readings + about.map_or(0, |about| allocated(size_of::<About>()) + about.heap_bytes())
    }

    /// Whether something may begin with it that is listed.
    pub(super) fn begins_parts(&self) -> bool {
        matches!(self.about.as_deref(), Some(About::Break(_) | About::Part(_)))
            || matches!(
                self.event_type,
                EventType::AdBreakStart | EventType::AdStart | EventType::ChapterStart
            )
    }

    /// Whether it says how well it plays.
    pub(super) fn tells_quality(&self) -> bool {
        self.readings.is_some()
            || matches!(self.event_type, EventType::BitrateChange | EventType::Error)
    }
}

impl About {
    fn of(event: &Event<'_>) -> Option<Self> {
        match event.event_type {
            EventType::StateStart | EventType::StateEnd | EventType::StatesUpdate => {
                Some(Self::States(StateNames::of(event)))
            }
            EventType::AdBreakStart => Some(Self::Break(BreakFacts::of(event))),
            EventType::AdStart | EventType::ChapterStart => Some(Self::Part(Facts::of(event))),
            EventType::Error => ErrorId::of(event).map(Self::Error),
            _ => None,
        }
    }

    fn heap_bytes(&self) -> usize {
        // Each may become a player state, which takes more than its name.
        let bytes = |names: &[StateName]| -> usize {
            names.iter().map(|name| size_of::<PlayerState>() + name.heap_bytes()).sum()
        };
        match self {
            Self::States(names) => bytes(&names.ends) + bytes(&names.starts),
            Self::Break(facts) => facts.heap_bytes(),
            Self::Part(facts) => facts.heap_bytes(),
            Self::Error(error) => allocated(error.id.len()),
        }
    }
}

impl StateNames {
    fn of(event: &Event<'_>) -> Self {
        let only = event.params.text("media.state.name").map(StateName::new);
        let one = || only.into_iter().collect();
        let mut is_cut = false;
        let mut list = |key| {
            let mut names: Vec<StateName> = Vec::new();
            for name in event.params.state_names(key).map(StateName::new) {
                if names.contains(&name) {
                    continue;
                }
                if names.len() == STATES_MAX {
                    is_cut = true;
                    break;
                }
                names.push(name);
            }
            names.into_iter().collect()
        };
        let (ends, starts) = match event.event_type {
            EventType::StateStart => (List::default(), one()),
            EventType::StateEnd => (one(), List::default()),
            _ => (list("statesEnd"), list("statesStart")),
        };
        Self { ends, starts, is_cut }
    }
}

impl BreakFacts {
    fn of(event: &Event<'_>) -> Self {
        let number = |key| event.params.number(key).cloned();
        let name = event.params.text("media.ad.podFriendlyName");
        let kept = name.filter(|name| is_kept(name));
        Self {
            is_cut: name.is_some() && kept.is_none(),
            name: kept.map(Box::from),
            pod: Pod { index: number("media.ad.podIndex"), offset: number("media.ad.podSecond") },
        }
    }

    /// How long its name is as JSON, in bytes.
    pub(super) fn json_bytes(&self) -> usize {
        self.name.as_deref().map_or(0, escape::json_bytes)
    }

    /// The memory that it holds beside itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.name.as_ref().map_or(0, |name| allocated(name.len()))
    }
}

/// Whether a text is short enough to be kept as long as its session.
fn is_kept(text: &str) -> bool {
    escape::json_bytes(text) <= FACTS_BYTES_MAX
}

impl ErrorId {
    fn of(event: &Event<'_>) -> Option<Self> {
        let text = |key, alias| {
            let quality = event.quality.text(key);
            quality.or_else(|| event.params.text(alias)).or_else(|| event.params.text(key))
        };
        let id = text("media.qoe.errorID", "media.errorId").filter(|id| !id.is_empty())?;
        let source = text("media.qoe.errorSource", "media.errorSource");
        let id = if is_kept(id) { id } else { "" };
        Some(Self { id: id.into(), is_external: source == Some("external") })
    }
}

impl Readings {
    /// The values that an event carries, from `qoeData` or else from `params`.
    pub(super) fn of(event: &Event<'_>) -> Option<Box<Self>> {
        if event.quality.is_empty() && event.params.is_empty() {
            return None;
        }
        let number = |key| {
            let known = |number: &Number| number.as_f64().filter(|number| *number >= 0.0);
            let quality = event.quality.number(key).and_then(known);
            quality.or_else(|| event.params.number(key).and_then(known))
        };
        let readings = Self {
            bitrate_milli: number("media.qoe.bitrate").map(|bits| whole(bits * 1_000.0)),
            dropped_frames: number("media.qoe.droppedFrames").map(whole),
            frames_per_second: number("media.qoe.framesPerSecond"),
            time_to_start_ms: number("media.qoe.timeToStart").map(whole).filter(|ms| *ms > 0),
        };
        (readings != Self::default()).then(|| Box::new(readings))
    }
}

/// The nearest whole number, half up; what is too large for it becomes the largest.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
fn whole(number: f64) -> u64 {
    number.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Rules;

    #[test]
    fn an_event_names_the_states_that_it_ends_and_begins() {
        let step = |event_type: &str, params: &str| {
            let body = format!(
                r#"{{"eventType":"{event_type}","playerTime":{{"playhead":1,"ts":2}},"params":{params}}}"#
            );
            Step::of(&Event::parse(body.as_bytes(), Rules::default()).unwrap(), body.as_bytes())
        };
        let names = |step: Step| {
            let text = |names: List<StateName>| -> Vec<String> {
                names.iter().map(|name| name.as_str().to_owned()).collect()
            };
            step.about.map(|about| match *about {
                About::States(states) => (text(states.ends), text(states.starts)),
                other => panic!("{other:?}"),
            })
        };
        let list = |text: &[&str]| text.iter().map(ToString::to_string).collect::<Vec<_>>();
        let one = r#"{"media.state.name":"MUTE"}"#;
        assert_eq!(names(step("stateStart", one)), Some((list(&[]), list(&["mute"]))));
        assert_eq!(names(step("stateEnd", one)), Some((list(&["mute"]), list(&[]))));
        let both = r#"{"statesStart":[{"media.state.name":"a"},{"media.state.name":"fullScreen"}],
            "statesEnd":[{"media.state.name":"b"}]}"#;
        let update = step("statesUpdate", both);
        assert!(update.heap_bytes() > 12);
        assert_eq!(names(update), Some((list(&["b"]), list(&["a", "fullscreen"]))));
        let play = step("play", "{}");
        assert_eq!(play.heap_bytes(), 0);
        assert_eq!(names(play), None);
    }

    #[test]
    fn a_print_is_the_same_for_the_same_bytes_only() {
        assert_eq!(Print::of(b"{}"), Print::of(b"{}"));
        assert_ne!(Print::of(b"{}"), Print::of(b"{ }"));
    }
}
