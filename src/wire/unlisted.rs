//! Names that the documentation does not list where they stand: accepted, kept with the body, pointed out.

use std::borrow::Cow;

use super::parameters::{
    self, BODY_MEMBERS, EventSet, PARAMS, PARAMS_INDEX, PLAYER_TIME_MEMBERS, QOE_INDEX,
};
use super::violations::Pointer;

/// A name that is not listed where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlisted<'a> {
    /// In which part of its event it stands.
    pub section: Section,
    /// The name as it came, cut if it is longer than 256 bytes.
    pub name: Cow<'a, str>,
}

/// The parts of an event whose names are listed. Other names of `qoeData` are documented as free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Beside the other members.
    Body,
    /// The member `playerTime`.
    PlayerTime,
    /// The member `params`.
    Params,
    /// The member `customMetadata`, whose names are the customer's own; some are reserved.
    CustomMetadata,
}

/// Where a name is listed that stands somewhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The member of an event in which it is, or `body`.
    pub(crate) place: &'static str,
    /// On which event types.
    pub(crate) on: EventSet,
}

impl Section {
    /// All of them, in the order of their rows.
    pub const ALL: [Self; 4] = [Self::Body, Self::PlayerTime, Self::Params, Self::CustomMetadata];

    /// The member that it is, or `body`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::PlayerTime => "playerTime",
            Self::Params => "params",
            Self::CustomMetadata => "customMetadata",
        }
    }

    /// The JSON pointer to a name that stands there.
    pub fn pointer_to(self, name: &str) -> String {
        let root = Pointer::Root;
        match self {
            Self::Body => root.member(name).to_string(),
            _ => root.member(self.name()).member(name).to_string(),
        }
    }

    /// The known name that was probably meant, of those that stand there on any of these event types. It takes
    /// some microseconds.
    pub(crate) fn nearest(self, on: EventSet, name: &str) -> Option<&'static str> {
        match self {
            Self::Body => parameters::nearest(name, BODY_MEMBERS),
            Self::PlayerTime => parameters::nearest(name, PLAYER_TIME_MEMBERS),
            Self::Params => {
                let allowed = PARAMS.iter().filter(|parameter| parameter.allowed_on.meets(on));
                parameters::nearest(name, allowed.map(|parameter| parameter.key))
            }
            Self::CustomMetadata => None,
        }
    }
}

impl Listed {
    /// Where exactly this name is listed, if it is.
    pub(crate) fn of(name: &str) -> Option<Self> {
        let anywhere = |place| Some(Self { place, on: EventSet::ALL });
        if BODY_MEMBERS.contains(&name) {
            anywhere(Section::Body.name())
        } else if PLAYER_TIME_MEMBERS.contains(&name) {
            anywhere(Section::PlayerTime.name())
        } else if let Some(row) = PARAMS_INDEX.get(name) {
            Some(Self { place: Section::Params.name(), on: PARAMS[row].allowed_on })
        } else {
            QOE_INDEX.get(name).and_then(|_| anywhere("qoeData"))
        }
    }
}
