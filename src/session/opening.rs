//! What the start of a session said, as far as it is kept: the listed facts, not the body.

use std::convert::Infallible;

use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::metrics::QUALITY_BYTES;
use super::step::{Readings, Step};
use super::stored::StoredSession;
use super::{Terms, growth_bytes};
use crate::wire::{
    Content, Event, NotStored, PlayerTime, Rules, Start, Stored, StoredForm, parse_stored,
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
        // The session makes its own of the readings, which takes more.
        let quality = self.readings.as_ref().map_or(0, |_| QUALITY_BYTES);
        self.facts.heap_bytes() + quality
    }
}

/// Why a stored session is not folded.
#[derive(Debug)]
pub enum NotFolded<E> {
    /// It is not taken.
    Refused(NotStored),
    /// There is no room for what it says.
    NoRoom(E),
}

/// How much more room than it needs is asked for, in bytes, so that it is not asked for with each event.
const SPARE_BYTES: usize = 32 << 10;

/// Folds a stored session event by event as its body is read, so that no list of its events is ever held. Shows
/// each as it came to `look`.
///
/// # Errors
/// [`NotStored`].
pub fn stored<'b>(
    body: &'b [u8],
    rules: Rules,
    form: StoredForm,
    (address, user_agent): (Option<&str>, Option<&str>),
    terms: Terms,
    look: impl FnMut(&Event<'b>),
) -> Result<StoredSession, NotStored> {
    let sender = (address, user_agent);
    let folded = stored_within(body, rules, form, sender, terms, look, |_| Ok::<_, Infallible>(()));
    folded.map_err(|not_folded| match not_folded {
        NotFolded::Refused(refused) => refused,
        NotFolded::NoRoom(never) => match never {},
    })
}

/// The same, where `hold` is told before the session grows, and in the end, how many bytes it holds beside itself
/// from then on. What is there no room for is not folded, but looked at all the same: a fault in it counts more.
///
/// # Errors
/// [`NotFolded`].
pub fn stored_within<'b, E>(
    body: &'b [u8],
    rules: Rules,
    form: StoredForm,
    (address, user_agent): (Option<&str>, Option<&str>),
    terms: Terms,
    mut look: impl FnMut(&Event<'b>),
    mut hold: impl FnMut(usize) -> Result<(), E>,
) -> Result<StoredSession, NotFolded<E>> {
    let mut session: Option<StoredSession> = None;
    // How much it holds at most, and how much there is room for.
    let (mut most_bytes, mut room_bytes) = (0, 0);
    let mut no_room = None;
    parse_stored(body, rules, form, |event| match event {
        Stored::Start(start) => {
            look(&start.event);
            let opening = Opening::of(&start, address, user_agent);
            most_bytes = opening.heap_bytes();
            room_bytes = most_bytes + SPARE_BYTES;
            match hold(room_bytes) {
                Ok(()) => session = Some(StoredSession::begin(opening, terms)),
                Err(error) => no_room = Some(error),
            }
        }
        Stored::Event(event) => {
            look(&event);
            // Without its start the body is refused in the end, whatever comes.
            let Some(folded) = &mut session else { return };
            // Nothing waits there, so nothing is compared with what waits.
            let step = Step::of(&event, &[]);
            let growth_bytes = growth_bytes(&step);
            most_bytes += growth_bytes;
            if most_bytes > room_bytes {
                most_bytes = folded.heap_bytes() + growth_bytes;
                room_bytes = most_bytes + SPARE_BYTES;
                if let Err(error) = hold(room_bytes) {
                    (session, no_room) = (None, Some(error));
                    return;
                }
            }
            folded.add(step);
        }
    })
    .map_err(NotFolded::Refused)?;
    if let Some(error) = no_room {
        return Err(NotFolded::NoRoom(error));
    }
    let mut session = session.expect("a stored session without its start is refused");
    session.finish();
    hold(session.heap_bytes()).map_err(NotFolded::NoRoom)?;
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
