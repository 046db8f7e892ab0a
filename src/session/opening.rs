//! What the start of a session said, as far as it is kept: the listed facts, not the body.

use std::cell::RefCell;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::wire::{Content, Event, PlayerTime, Start};

/// What the start of a session said.
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
        let facts = facts_of(&start.event);
        Self { player_time: start.event.player_time, content: start.content, facts }
    }

    /// The memory that it holds beside itself, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.facts.get().len()
    }
}

fn facts_of(start: &Event<'_>) -> Box<RawValue> {
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
    let facts = Facts { params: &start.params, custom_metadata: &start.custom_metadata };
    let text = SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        serde_json::to_writer(&mut *scratch, &facts).expect("sound values are JSON");
        str::from_utf8(scratch).expect("JSON is UTF-8").to_owned()
    });
    RawValue::from_string(text).expect("it was just written as JSON")
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
    }
}
