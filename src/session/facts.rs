//! The listed facts of a start, an ad or a chapter, kept as they came.
//!
//! ```text
//! {"address":"…","userAgent":"…","params":{"media.id":"…",…},"customMetadata":{…}}
//! ```
//! One text costs one allocation, and a report repeats these facts as they are. What is empty is left out.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::wire::{CustomMetadata, Event, Params};

/// The listed parameters and the custom metadata, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Facts(Box<RawValue>);

/// Facts, read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Read<'a> {
    /// The client's address.
    pub(crate) address: Option<Cow<'a, str>>,
    /// The client's user agent.
    pub(crate) user_agent: Option<Cow<'a, str>>,
    /// The listed parameters. Their names have no escapes, and neither have the keys of metadata.
    #[serde(borrow)]
    pub(crate) params: BTreeMap<&'a str, &'a RawValue>,
    /// The custom metadata.
    #[serde(borrow)]
    pub(crate) custom_metadata: BTreeMap<&'a str, &'a RawValue>,
}

impl Facts {
    /// Keeps what an event said. Values of quality are sums, not facts.
    pub(super) fn of(event: &Event<'_>) -> Self {
        Self::from_client(event, None, None)
    }

    /// Keeps what an event said, and who sent it.
    pub(super) fn from_client(
        event: &Event<'_>,
        address: Option<&str>,
        user_agent: Option<&str>,
    ) -> Self {
        let written = Written {
            address,
            user_agent,
            params: Descriptive(&event.params),
            custom_metadata: &event.custom_metadata,
        };
        Self(RawValue::from_string(written.to_json()).expect("it was just written as JSON"))
    }

    /// The facts one by one; none if this is no object, which nothing that was kept can be.
    pub(crate) fn read(&self) -> Read<'_> {
        serde_json::from_str(self.0.get()).unwrap_or_default()
    }

    /// A listed parameter, if it is text.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.read().params.get(key)?.get()).ok()
    }

    /// The memory that it holds beside itself, in bytes.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.0.get().len()
    }
}

impl Default for Facts {
    fn default() -> Self {
        Self(RawValue::NULL.to_owned())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'f, 'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'f str>,
    params: Descriptive<'f, 'a>,
    #[serde(skip_serializing_if = "is_empty")]
    custom_metadata: &'f CustomMetadata<'a>,
}

impl Written<'_, '_> {
    fn to_json(&self) -> String {
        thread_local! {
            // Written here first, so that what is kept is allocated once and exactly.
            static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            serde_json::to_writer(&mut *scratch, self).expect("sound values are JSON");
            str::from_utf8(scratch).expect("JSON is UTF-8").to_owned()
        })
    }
}

fn is_empty(metadata: &CustomMetadata<'_>) -> bool {
    metadata.iter().next().is_none()
}

/// The parameters but for those that say how well it plays.
struct Descriptive<'f, 'a>(&'f Params<'a>);

impl Serialize for Descriptive<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().filter(|(key, _)| !key.starts_with("media.qoe.")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Rules;

    #[test]
    fn an_ads_facts_are_what_it_said_of_itself() {
        let body = br#"{"eventType":"adStart","playerTime":{"ts":5,"playhead":1.5},"unknown":1,
            "params":{"media.ad.id":"a","media.ad.length":20.0,"media.ad.podPosition":-1,
              "media.ad.playerName":"p\"","media.qoe.bitrate":7,"not.listed":"x"},
            "qoeData":{"media.qoe.bitrate":1},"customMetadata":{"plan":"\u00e9"}}"#;
        let facts = Facts::of(&Event::parse(body, Rules::default()).unwrap());
        let text = "{\"params\":{\"media.ad.id\":\"a\",\"media.ad.length\":20.0,\
             \"media.ad.podPosition\":-1,\"media.ad.playerName\":\"p\\\"\"},\
             \"customMetadata\":{\"plan\":\"é\"}}";
        assert_eq!((facts.0.get(), facts.heap_bytes()), (text, text.len()));
        let read = facts.read();
        assert_eq!(read.params["media.ad.playerName"].get(), "\"p\\\"\"");
        assert_eq!(facts.text("media.ad.playerName").as_deref(), Some("p\""));
        assert_eq!((facts.text("media.ad.length"), facts.text("media.ad.name")), (None, None));
        assert_eq!(read.custom_metadata["plan"].get(), "\"é\"");
    }

    #[test]
    fn no_facts_are_read_as_none() {
        let facts = Facts::default();
        assert!(facts.read().params.is_empty() && facts.read().custom_metadata.is_empty());
    }
}
