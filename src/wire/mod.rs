//! Bytes → one typed, validated event.
//!
//! The types cannot hold a bad value and borrow from the body. What is accepted is sound JSON
//! throughout, since it is published as it came. Nothing here knows a clock, a file or a socket.

mod parameters;

pub mod packed;

mod mistakes;

mod parse;

mod unlisted;

mod validate;

mod violations;

pub mod schema;

pub mod openapi;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Number;

pub(crate) use parameters::{EventSet, PARAMS};
pub use parameters::{EventType, Profile};
pub use parse::{PARSE_BYTES_BASE, PARSE_BYTES_PER_BYTE_MAX};
pub(crate) use unlisted::Listed;
pub use unlisted::{Section, Unlisted};
pub(crate) use validate::is_name;
pub use violations::{ANSWER_BYTES_MAX, Code, Violation, Violations};
pub(crate) use violations::{TEXT_BYTES_MAX, cut, quoted};

/// Which rules a body is held to: the section `validation` of the configuration.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Which keys are required.
    pub profile: Profile,
    /// Whether names that the documentation does not list are violations.
    pub strict: bool,
}

impl Rules {
    /// For a body that was accepted once: what was required then does not matter any more.
    pub const ACCEPTED: Self = Self { profile: Profile::Open, strict: false };
}

/// The body of one event.
#[derive(Debug)]
pub struct Event<'a> {
    /// What happened.
    pub event_type: EventType,
    /// When, by the player's clock, and where in the content.
    pub player_time: PlayerTime,
    /// The listed parameters.
    pub params: Params<'a>,
    /// The listed values of `qoeData`.
    pub quality: Params<'a>,
    /// The customer's own facts on the session, the ad or the chapter.
    pub custom_metadata: CustomMetadata<'a>,
    /// Names that are not listed, at most 32 of them.
    pub unlisted: Vec<Unlisted<'a>>,
    /// How many such names there are in all, by the row of their [`Section`].
    pub unlisted_counts: [u32; Section::ALL.len()],
}

impl<'a> Event<'a> {
    /// Reads the body of an event of a session that is open: any but `sessionStart`.
    ///
    /// # Errors
    /// Every violation of the body, in document order.
    pub fn parse(body: &'a [u8], rules: Rules) -> Result<Self, Violations> {
        validate::event(read(body)?, rules)
    }

    /// Reads a body that was accepted once. It is held to no bound that came later, nor to what was required then.
    ///
    /// # Errors
    /// Every violation of the body, in document order.
    pub fn accepted(body: &'a [u8]) -> Result<Self, Violations> {
        validate::event(read_accepted(body)?, Rules::ACCEPTED)
    }
}

/// The body of a `sessionStart`.
#[derive(Debug)]
pub struct Start<'a> {
    /// What it has in common with every event.
    pub event: Event<'a>,
    /// What kind of content is played.
    pub content: Content,
}

impl<'a> Start<'a> {
    /// Reads the body of a `sessionStart`.
    ///
    /// # Errors
    /// Every violation of the body, in document order.
    pub fn parse(body: &'a [u8], rules: Rules) -> Result<Self, Violations> {
        validate::session_start(read(body)?, rules)
    }

    /// Reads a body that was accepted once: see [`Event::accepted`].
    ///
    /// # Errors
    /// Every violation of the body, in document order.
    pub fn accepted(body: &'a [u8]) -> Result<Self, Violations> {
        validate::session_start(read_accepted(body)?, Rules::ACCEPTED)
    }
}

/// One event of a session that a player stored and sends whole.
#[derive(Debug)]
pub enum Stored<'a> {
    /// Its first.
    Start(Start<'a>),
    /// A later one.
    Event(Event<'a>),
}

/// Where a stored session is posted, which decides what its start must say of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredForm {
    /// To its own endpoint: `media.downloaded` may be left out.
    Downloaded,
    /// To that of sessions, which is deprecated: `media.downloaded` must be true.
    Sessions,
    /// Nowhere: it was accepted once, so its events are held to no bound of members.
    Accepted,
}

/// Why a stored session is not taken.
#[derive(Debug)]
pub enum NotStored {
    /// Its body breaks rules.
    Invalid(Violations),
    /// It has more than [`STORED_EVENTS_MAX`] events.
    TooMany,
}

/// How many events a stored session may have.
pub const STORED_EVENTS_MAX: usize = 100_000;

/// Whether a body is an array, as that of a stored session is, and no object.
pub fn is_array(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'[')
}

/// Reads the body of a stored session, and hands on its events in their order.
///
/// # Errors
/// [`NotStored`], and then what was handed on is worth nothing.
pub fn parse_stored<'a>(
    body: &'a [u8],
    rules: Rules,
    form: StoredForm,
    take: impl FnMut(Stored<'a>),
) -> Result<(), NotStored> {
    validate::stored(body, rules, form, take)
}

fn read(body: &[u8]) -> Result<parse::Node<'_>, Violations> {
    parse::parse(body).map_err(|unsound| Violations::unreadable(unsound.to_string()))
}

fn read_accepted(body: &[u8]) -> Result<parse::Node<'_>, Violations> {
    parse::parse_accepted(body).map_err(|unsound| Violations::unreadable(unsound.to_string()))
}

/// The member `playerTime`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlayerTime {
    /// The position in the content.
    pub playhead: Playhead,
    /// The player's clock: milliseconds since the Unix epoch, UTC, at most 2^53 - 1.
    pub ts: u64,
}

/// A position in the content, in seconds: finite and not negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Playhead(f64);

impl Playhead {
    /// The position in seconds.
    pub fn seconds(self) -> f64 {
        self.0
    }
}

/// What kind of content a session plays.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// Broadcast; its playhead is the second of the day, UTC.
    Live,
    /// Anything else; its playhead is the second of the content.
    Recorded {
        /// The length in seconds, if it is known.
        length_s: Option<f64>,
    },
}

/// The listed members of `params` or `qoeData`, each of its documented type, in the order of the body.
#[derive(Debug, Default)]
pub struct Params<'a>(Vec<(&'static str, parse::Node<'a>)>);

impl Params<'_> {
    /// The value of a key whose type is text.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            parse::Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a key whose type is number or integer.
    pub fn number(&self, key: &str) -> Option<&Number> {
        match self.get(key)? {
            parse::Node::Number(number) => Some(number),
            _ => None,
        }
    }

    /// The members in the order of the body.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, impl Serialize)> {
        self.0.iter().map(|(key, node)| (*key, node))
    }

    /// Whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names in a list of player states.
    pub fn state_names(&self, key: &str) -> impl Iterator<Item = &str> {
        let states = match self.get(key) {
            Some(parse::Node::List(states)) => states.as_slice(),
            _ => &[],
        };
        states.iter().filter_map(|state| match state {
            // A name that stands twice there means what most readers of JSON take: the last.
            parse::Node::Object(members) => match members.last() {
                Some((_, parse::Node::Text(name))) => Some(name.as_ref()),
                _ => None,
            },
            _ => None,
        })
    }

    fn get(&self, key: &str) -> Option<&parse::Node<'_>> {
        self.0.iter().find(|(found, _)| *found == key).map(|(_, node)| node)
    }
}

/// The keys that `params` of a `sessionStart` may have, in the documented order.
pub(crate) fn start_keys() -> impl Iterator<Item = &'static str> {
    let listed = parameters::PARAMS.iter();
    listed
        .filter(|parameter| parameter.allowed_on.contains(EventType::SessionStart))
        // Values of quality change; they are no facts of the start.
        .filter(|parameter| !parameter.key.starts_with("media.qoe."))
        .map(|parameter| parameter.key)
}

/// The member `customMetadata`: names of `a-z A-Z 0-9 _ .` with text values.
#[derive(Debug, Default)]
pub struct CustomMetadata<'a>(Vec<parse::Member<'a>>);

impl CustomMetadata<'_> {
    /// The pairs in the order of the body.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(key, value)| match value {
            parse::Node::Text(value) => Some((key.as_ref(), value.as_ref())),
            // No event has one that is accepted.
            _ => None,
        })
    }
}

impl Serialize for CustomMetadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

#[cfg(test)]
mod agreement;

#[cfg(test)]
mod tests;
