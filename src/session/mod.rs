//! One session as what its records made of it.

pub mod id;

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::id::Key;
use crate::wire::{Content, PlayerTime, Start};

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

/// The facts of a usual session have fewer bytes.
const FACTS_BYTES_USUAL: usize = 1 << 10;

/// What the server keeps of a live session: the listed facts of its start, not its bodies.
#[derive(Debug)]
pub struct Session {
    /// When the start was received, in ms since the Unix epoch by the server's clock.
    pub received_ms: u64,
    /// Time and playhead that the start reported.
    pub player_time: PlayerTime,
    /// What kind of content is played.
    pub content: Content,
    /// The listed parameters and the custom metadata of the start, as JSON:
    /// `{"params":{…},"customMetadata":{…}}`. One text costs one allocation, and a report repeats
    /// these facts as they are.
    pub facts: Box<str>,
}

impl Session {
    /// Opens a session.
    pub fn open(start: &Start<'_>, received_ms: u64) -> Self {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Facts<'f, 'a> {
            params: &'f crate::wire::Params<'a>,
            custom_metadata: &'f crate::wire::CustomMetadata<'a>,
        }
        let facts = Facts { params: &start.params, custom_metadata: &start.custom_metadata };
        // Large enough for most, so that it seldom grows; what is too much is given back.
        let mut text = Vec::with_capacity(FACTS_BYTES_USUAL);
        serde_json::to_writer(&mut text, &facts).expect("text keys and sound values are JSON");
        let text = String::from_utf8(text).expect("JSON is UTF-8");
        Self {
            received_ms,
            player_time: start.player_time,
            content: start.content,
            facts: text.into_boxed_str(),
        }
    }

    /// The instant from which on the session is over, in ms since the Unix epoch.
    pub fn deadline_ms(&self, settings: &Settings) -> u64 {
        let timeout_ms = settings.no_events_timeout.as_millis();
        self.received_ms.saturating_add(u64::try_from(timeout_ms).unwrap_or(u64::MAX))
    }

    /// The memory that the session holds, in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.facts.len()
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
        let session = Session::open(&start, 1_000);
        assert_eq!(
            &*session.facts,
            "{\"params\":{\"media.id\":\"a/b é\",\"media.length\":20.0,\"media.contentType\":\"VOD\",\
             \"media.playerName\":\"p\",\"media.channel\":\"c\",\"analytics.trackingServer\":\"t\",\
             \"analytics.reportSuite\":\"r\",\"visitor.marketingCloudOrgId\":\"o\",\"media.resume\":true,\
             \"visitor.customerIDs\":{\"crm\":{\"id\":\"7\",\"authState\":1}}},\
             \"customMetadata\":{\"plan\":\"gold\"}}"
        );
        assert_eq!(session.player_time.ts, 5);
        assert_eq!(session.content, Content::Recorded { length_s: Some(20.0) });
        assert_eq!(session.deadline_ms(&Settings::default()), 601_000);
    }
}
