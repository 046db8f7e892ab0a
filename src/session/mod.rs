//! One session as the fold of its records.

pub mod id;

use std::cell::RefCell;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use self::id::Key;
use crate::wire::{Content, Event, PlayerTime, Start};

/// The section `session` of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The key that signs session ids; made in the data folder if none is given.
    #[serde(serialize_with = "hidden", deserialize_with = "key_or_empty")]
    pub key: Option<Key>,
    /// A session ends when no event came for this long.
    #[serde(with = "humantime_serde")]
    pub no_events_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { key: None, no_events_timeout: Duration::from_mins(10) }
    }
}

#[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
fn hidden<S: Serializer>(key: &Option<Key>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if key.is_some() { "(hidden)" } else { "" })
}

fn key_or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Key>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    let problem = || serde::de::Error::custom("expected 64 hexadecimal digits, or nothing");
    Key::from_hex(&text).ok_or_else(problem).map(Some)
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CloseReason {
    /// No event came for `session.no_events_timeout`.
    TimeoutNoEvents,
}

/// What the start of a session said, as far as it is kept: the listed facts, not the body.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Opening {
    /// Time and playhead by the player.
    pub player_time: PlayerTime,
    /// What kind of content is played.
    pub content: Content,
    /// The listed parameters and the custom metadata, as JSON: `{"params":{…},"customMetadata":{…}}`.
    /// One text costs one allocation, and a report repeats these facts as they are.
    pub facts: Box<RawValue>,
}

impl Opening {
    /// Keeps what a start said.
    pub fn of(start: &Start<'_>) -> Self {
        let facts = facts_of(start);
        Self { player_time: start.event.player_time, content: start.content, facts }
    }

    /// The memory that it holds beside itself, in bytes.
    pub fn facts_bytes(&self) -> usize {
        self.facts.get().len()
    }
}

fn facts_of(start: &Start<'_>) -> Box<RawValue> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Facts<'f, 'a> {
        params: &'f crate::wire::Params<'a>,
        custom_metadata: &'f crate::wire::CustomMetadata<'a>,
    }
    thread_local! {
        // Written here first, so that what is kept is allocated once and exactly.
        static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let Event { params, custom_metadata, .. } = &start.event;
    let facts = Facts { params, custom_metadata };
    let text = SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        serde_json::to_writer(&mut *scratch, &facts).expect("sound values are JSON");
        str::from_utf8(scratch).expect("JSON is UTF-8").to_owned()
    });
    RawValue::from_string(text).expect("it was just written as JSON")
}

/// One live session.
///
/// *Up time* is the server's clock less all the time that it was down or could not write; deadlines
/// run on it, so that no session ends because nobody could hear it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Session {
    /// When the start was received, in ms since the Unix epoch by the server's clock.
    pub received_ms: u64,
    /// When the last record was received, in ms of up time.
    pub last_up_ms: u64,
    /// What its start said.
    pub opening: Opening,
}

impl Session {
    /// The instant from which on the session is over, in ms of up time.
    pub fn deadline_up_ms(&self, settings: &Settings) -> u64 {
        let timeout_ms = settings.no_events_timeout.as_millis();
        self.last_up_ms.saturating_add(u64::try_from(timeout_ms).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Rules;

    #[test]
    fn a_session_keeps_the_listed_facts_and_drops_the_rest() {
        let body = r#"{"eventType":"sessionStart","playerTime":{"ts":5,"playhead":1.5},
            "unknown":{"big":[1,2,3]},"qoeData":{"media.qoe.bitrate":1},
            "params":{"media.id":"a\/b \u00e9","media.length":20.0,"media.contentType":"VOD",
              "media.playerName":"p","media.channel":"c","analytics.trackingServer":"t","analytics.reportSuite":"r",
              "visitor.marketingCloudOrgId":"o","not.listed":"x","media.resume":true,
              "visitor.customerIDs":{"crm":{"id":"7","authState":1}}},
            "customMetadata":{"plan":"gold"}}"#;
        let start = Start::parse(body.as_bytes(), Rules::default()).unwrap();
        let opening = Opening::of(&start);
        assert_eq!(
            opening.facts.get(),
            "{\"params\":{\"media.id\":\"a/b é\",\"media.length\":20.0,\"media.contentType\":\"VOD\",\
             \"media.playerName\":\"p\",\"media.channel\":\"c\",\"analytics.trackingServer\":\"t\",\
             \"analytics.reportSuite\":\"r\",\"visitor.marketingCloudOrgId\":\"o\",\"media.resume\":true,\
             \"visitor.customerIDs\":{\"crm\":{\"id\":\"7\",\"authState\":1}}},\
             \"customMetadata\":{\"plan\":\"gold\"}}"
        );
        assert_eq!(opening.player_time.ts, 5);
        assert_eq!(opening.content, Content::Recorded { length_s: Some(20.0) });
        let session = Session { received_ms: 5_000, last_up_ms: 1_000, opening };
        assert_eq!(session.deadline_up_ms(&Settings::default()), 601_000);
        let saved = serde_json::to_string(&session).unwrap();
        let read: Session = serde_json::from_str(&saved).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), saved);
    }
}
