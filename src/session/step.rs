//! One event as the fold takes it: what it said, as far as it matters, not its body.

use serde::{Deserialize, Serialize};

use super::state::StateName;
use crate::wire::{Event, EventType, PlayerTime};

/// One event of an open session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// What happened.
    pub event_type: EventType,
    /// When, by the player's clock, and where in the content.
    pub player_time: PlayerTime,
    /// Tells a repeat.
    pub print: Print,
    /// The player states that it names, if any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub states: Option<Box<StateNames>>,
}

/// Player states that end and begin, in this order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StateNames {
    /// Those that end.
    pub ends: Vec<StateName>,
    /// Those that begin.
    pub starts: Vec<StateName>,
}

/// A hash of a body. Two bodies that are the same byte for byte have the same print; that two others
/// have it is as likely as one in 2^64, and would cost their own session one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Print(u64);

impl Print {
    /// The print of a body as the journal has it, so that a replay finds the same repeats.
    pub fn of(body: &[u8]) -> Self {
        let hash = blake3::hash(body);
        Self(u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("32 bytes hold eight")))
    }
}

impl Step {
    /// Keeps what an event said; `body` is the body as the journal has it.
    pub fn of(event: &Event<'_>, body: &[u8]) -> Self {
        let (event_type, player_time) = (event.event_type, event.player_time);
        Self { event_type, player_time, print: Print::of(body), states: states_of(event) }
    }

    /// The memory that it holds beside itself, in bytes.
    pub fn heap_bytes(&self) -> usize {
        let bytes = |names: &[StateName]| -> usize {
            names.iter().map(|name| size_of::<StateName>() + name.as_str().len()).sum()
        };
        self.states.as_ref().map_or(0, |states| {
            size_of::<StateNames>() + bytes(&states.ends) + bytes(&states.starts)
        })
    }
}

fn states_of(event: &Event<'_>) -> Option<Box<StateNames>> {
    let one = || event.params.text("media.state.name").map(StateName::new).into_iter().collect();
    let list = |key| event.params.state_names(key).map(StateName::new).collect();
    let (ends, starts) = match event.event_type {
        EventType::StateStart => (Vec::new(), one()),
        EventType::StateEnd => (one(), Vec::new()),
        EventType::StatesUpdate => (list("statesEnd"), list("statesStart")),
        _ => return None,
    };
    Some(Box::new(StateNames { ends, starts }))
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
            let text = |names: Vec<StateName>| -> Vec<String> {
                names.iter().map(|name| name.as_str().to_owned()).collect()
            };
            step.states.map(|states| (text(states.ends), text(states.starts)))
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
