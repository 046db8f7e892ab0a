//! The listed facts of a start, an ad or a chapter, kept as they came.
//!
//! ```text
//! {"address":"…","userAgent":"…","params":{"media.id":"…",…},"customMetadata":{…},"isCut":true}
//! ```
//! One text costs one allocation, and a report repeats these facts as they are. What is empty is left out. It is
//! bounded, because it is kept as long as the session: what is beyond that is in the journal alone.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::list::allocated;
use crate::escape;
use crate::wire::{CustomMetadata, Event, Params};

/// How large the facts of one start, ad or chapter may be, in bytes of JSON.
pub(crate) const FACTS_BYTES_MAX: usize = 64 << 10;

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
    /// Whether some of it is left out, because it is too large to keep.
    pub(crate) is_cut: bool,
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

    /// The client's address, read without the rest.
    pub(crate) fn address(&self) -> Option<&str> {
        // It is written first, and no address has an escape.
        let (address, _) = self.0.get().strip_prefix("{\"address\":\"")?.split_once('"')?;
        Some(address)
    }

    /// How long it is as JSON, in bytes.
    pub(crate) fn json_bytes(&self) -> usize {
        self.0.get().len()
    }

    /// A listed parameter, if it is a number.
    pub(super) fn number(&self, key: &str) -> Option<f64> {
        serde_json::from_str(self.read().params.get(key)?.get()).ok()
    }

    /// A hash of the client's address, if that is kept.
    pub(crate) fn address_hash(&self) -> Option<u64> {
        let hash = blake3::hash(self.address()?.as_bytes());
        Some(u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("32 bytes hold eight")))
    }

    /// The memory that it holds beside itself, in bytes.
    pub(crate) fn heap_bytes(&self) -> usize {
        allocated(self.json_bytes())
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
            if scratch.len() > FACTS_BYTES_MAX {
                let cut = serde_json::to_string(&self.shortened()).expect("sound values are JSON");
                // One large body must not make this thread keep its room.
                scratch.clear();
                scratch.shrink_to(FACTS_BYTES_MAX);
                return cut;
            }
            str::from_utf8(scratch).expect("JSON is UTF-8").to_owned()
        })
    }

    /// The same without what does not fit: each member is kept, in the order of the body, if there is room for it.
    fn shortened(&self) -> Shortened<'_> {
        let user_agent = self.user_agent.map(|text| &text[..text.floor_char_boundary(1 << 10)]);
        let address = self.address.filter(|text| text.len() <= 256);
        let of_client =
            [address, user_agent].into_iter().flatten().map(escape::json_bytes).sum::<usize>();
        // Names and punctuation take some hundred bytes.
        let mut room = FACTS_BYTES_MAX - 512 - of_client;
        let mut fitting = |key: &str, value: serde_json::Result<String>| {
            let value = value.expect("sound values are JSON");
            room = room.checked_sub(key.len() + value.len() + "\"\":,".len())?;
            Some(RawValue::from_string(value).expect("it was just written as JSON"))
        };
        // What is too large as it is need not be written to see that.
        let may_fit = |text: Option<&str>| text.is_none_or(|text| text.len() <= FACTS_BYTES_MAX);
        let params = self.params.iter().filter_map(|(key, value)| {
            let fits = may_fit(self.params.0.text(key));
            Some((key, fits.then(|| fitting(key, serde_json::to_string(&value))).flatten()?))
        });
        let params = params.collect();
        let metadata = self.custom_metadata.iter().filter_map(|(key, value)| {
            let fits = may_fit(Some(value));
            Some((key, fits.then(|| fitting(key, serde_json::to_string(value))).flatten()?))
        });
        let custom_metadata = metadata.collect();
        Shortened { address, user_agent, params, custom_metadata, is_cut: true }
    }
}

/// Facts of which some are left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shortened<'f> {
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'f str>,
    params: BTreeMap<&'f str, Box<RawValue>>,
    custom_metadata: BTreeMap<&'f str, Box<RawValue>>,
    is_cut: bool,
}

fn is_empty(metadata: &CustomMetadata<'_>) -> bool {
    metadata.iter().next().is_none()
}

/// The parameters but for those that say how well it plays.
struct Descriptive<'f, 'a>(&'f Params<'a>);

impl Descriptive<'_, '_> {
    fn iter(&self) -> impl Iterator<Item = (&'static str, impl Serialize)> {
        self.0.iter().filter(|(key, _)| !key.starts_with("media.qoe."))
    }
}

impl Serialize for Descriptive<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
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
        assert_eq!((facts.0.get(), facts.json_bytes()), (text, text.len()));
        let read = facts.read();
        assert_eq!(read.params["media.ad.playerName"].get(), "\"p\\\"\"");
        assert_eq!(facts.text("media.ad.playerName").as_deref(), Some("p\""));
        assert_eq!((facts.text("media.ad.length"), facts.text("media.ad.name")), (None, None));
        assert_eq!(read.custom_metadata["plan"].get(), "\"é\"");
    }

    #[test]
    fn facts_are_bounded_and_say_that_something_is_left_out() {
        let large = "\u{1}".repeat(8_000);
        let metadata: Vec<_> = (0..200).map(|n| format!("\"k{n}\":{large:?}")).collect();
        let body = format!(
            r#"{{"eventType":"adStart","playerTime":{{"ts":5,"playhead":1.5}},"params":{{"media.ad.id":"a",
            "media.ad.length":20,"media.ad.podPosition":1,"media.ad.name":"{}","media.ad.playerName":"p"}},
            "customMetadata":{{"small":"x",{}}}}}"#,
            "n".repeat(FACTS_BYTES_MAX),
            metadata.join(",").replace("\\u{1}", "\\u0001"),
        );
        let event = Event::parse(body.as_bytes(), Rules::default()).unwrap();
        let agent = "\u{1}".repeat(30_000);
        let facts = Facts::from_client(&event, Some("192.0.2.0"), Some(&agent));
        assert!((1_000..=FACTS_BYTES_MAX).contains(&facts.json_bytes()), "{}", facts.json_bytes());
        let read = facts.read();
        assert_eq!(facts.address(), Some("192.0.2.0"));
        assert!(read.is_cut);
        assert_eq!(facts.text("media.ad.playerName").as_deref(), Some("p"), "what fits is kept");
        assert_eq!(facts.text("media.ad.name"), None);
        assert_eq!(read.custom_metadata["small"].get(), "\"x\"");
        assert_eq!(read.custom_metadata.len(), 2, "of the large ones one fits");
    }

    #[test]
    fn no_facts_are_read_as_none() {
        let facts = Facts::default();
        assert_eq!(facts.address(), None);
        assert!(facts.read().params.is_empty() && facts.read().custom_metadata.is_empty());
    }
}
