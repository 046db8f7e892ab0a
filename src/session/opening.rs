//! What the start of a session said, as far as it is kept: the listed facts, not the body.

use serde::{Deserialize, Serialize};

use super::Terms;
use super::facts::Facts;
use super::step::{Readings, Step};
use super::stored::StoredSession;
use crate::wire::{
    Content, NotStored, PlayerTime, Rules, Start, Stored, StoredForm, Unlisted, parse_stored,
};

/// What the start of a session said.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Opening {
    /// Time and playhead by the player.
    pub player_time: PlayerTime,
    /// What kind of content is played.
    pub content: Content,
    /// The listed parameters, the custom metadata, and who sent them.
    pub facts: Facts,
    /// How well it played before it began; the session takes this over.
    #[serde(skip)]
    pub(super) readings: Option<Box<Readings>>,
}

impl Opening {
    /// Keeps what a start said, and who sent it as far as that is kept.
    pub fn of(start: &Start<'_>, address: Option<&str>, user_agent: Option<&str>) -> Self {
        Self {
            player_time: start.event.player_time,
            content: start.content,
            facts: Facts::from_client(&start.event, address, user_agent),
            readings: Readings::of(&start.event),
        }
    }

    /// The memory that it holds beside itself, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.facts.heap_bytes() + self.readings.as_ref().map_or(0, |_| size_of::<Readings>())
    }
}

/// Folds a stored session event by event as its body is read, so that no list of its events is ever held. Hands
/// on the names that nobody knows.
///
/// # Errors
/// [`NotStored`].
pub fn stored(
    body: &[u8],
    rules: Rules,
    form: StoredForm,
    (address, user_agent): (Option<&str>, Option<&str>),
    terms: Terms,
    point_out: impl Fn(&[Unlisted<'_>]),
) -> Result<StoredSession, NotStored> {
    let mut session = None;
    parse_stored(body, rules, form, |event| match event {
        Stored::Start(start) => {
            point_out(&start.event.unlisted);
            let opening = Opening::of(&start, address, user_agent);
            session = Some(StoredSession::begin(opening, terms));
        }
        Stored::Event(event) => {
            point_out(&event.unlisted);
            // Without its start the body is refused in the end, whatever comes.
            if let Some(session) = &mut session {
                // Nothing waits there, so nothing is compared with what waits.
                session.add(Step::of(&event, &[]));
            }
        }
    })?;
    let mut session = session.expect("a stored session without its start is refused");
    session.finish();
    Ok(session)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Rules;

    #[test]
    fn the_listed_facts_are_kept_and_the_rest_is_dropped() {
        let body = r#"{"eventType":"sessionStart","playerTime":{"ts":5,"playhead":1.5},
            "unknown":{"big":[1,2,3]},"qoeData":{"media.qoe.bitrate":1},
            "params":{"media.id":"a\/b \u00e9","media.length":20.0,"media.contentType":"VOD",
              "media.playerName":"p","media.channel":"c","analytics.trackingServer":"t","analytics.reportSuite":"r",
              "visitor.marketingCloudOrgId":"o","not.listed":"x","media.resume":true,
              "visitor.customerIDs":{"crm":{"id":"7","authState":1}}},
            "customMetadata":{"plan":"gold"}}"#;
        let start = Start::parse(body.as_bytes(), Rules::default()).unwrap();
        let opening = Opening::of(&start, Some("192.0.2.0"), Some("a \"player\""));
        assert_eq!(
            serde_json::to_string(&opening.facts).unwrap(),
            "{\"address\":\"192.0.2.0\",\"userAgent\":\"a \\\"player\\\"\",\"params\":{\"media.id\":\"a/b é\",\"media.length\":20.0,\"media.contentType\":\"VOD\",\
             \"media.playerName\":\"p\",\"media.channel\":\"c\",\"analytics.trackingServer\":\"t\",\
             \"analytics.reportSuite\":\"r\",\"visitor.marketingCloudOrgId\":\"o\",\"media.resume\":true,\
             \"visitor.customerIDs\":{\"crm\":{\"id\":\"7\",\"authState\":1}}},\
             \"customMetadata\":{\"plan\":\"gold\"}}"
        );
        assert_eq!(opening.player_time.ts, 5);
        assert_eq!(opening.content, Content::Recorded { length_s: Some(20.0) });
    }
}
