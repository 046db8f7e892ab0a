//! What the start of a session said, in the groups of a report.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::session::Session;
use crate::wire;

/// A JSON value that was sent or stands in the place of one.
pub(super) type Value<'s> = Cow<'s, RawValue>;

/// Custom metadata, by name.
pub(super) type Metadata<'s> = BTreeMap<&'s str, &'s RawValue>;

/// Listed parameters in the documented order; those that were not sent are not there.
#[derive(Debug, Default)]
pub(super) struct Listed<'s>(Vec<(&'static str, Value<'s>)>);

impl Serialize for Listed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// Who sent the session, as far as that is kept.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Client<'s> {
    address: Option<Cow<'s, str>>,
    user_agent: Option<Cow<'s, str>>,
}

/// What the viewer refused.
#[derive(Debug, Default, Serialize)]
pub(super) struct Privacy<'s> {
    #[serde(rename = "analytics.optOutServerSideForwarding")]
    server_side_forwarding: Option<&'s RawValue>,
    #[serde(rename = "analytics.optOutShare")]
    share: Option<&'s RawValue>,
}

/// What the start of a session said.
#[derive(Debug)]
pub(super) struct Facts<'s> {
    pub(super) content: Listed<'s>,
    pub(super) visitor: Listed<'s>,
    pub(super) analytics: Listed<'s>,
    pub(super) custom_metadata: Metadata<'s>,
    pub(super) privacy: Privacy<'s>,
    pub(super) client: Client<'s>,
    /// Whether some of it was too large to keep.
    pub(super) is_cut: bool,
    params: BTreeMap<&'s str, &'s RawValue>,
}

/// The groups of parameters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Content,
    Visitor,
    Analytics,
    Privacy,
    /// Values of quality, which are no facts.
    Quality,
}

impl<'s> Facts<'s> {
    pub(super) fn of(session: &'s Session) -> Self {
        let read = session.opening.facts.read();
        let params = read.params;
        let listed = |group| {
            let keys = wire::start_keys().filter(|key| group_of(key) == group);
            Listed(
                keys.filter_map(|key| Some((key, reported(key, params.get(key).copied())?)))
                    .collect(),
            )
        };
        Self {
            content: listed(Group::Content),
            visitor: listed(Group::Visitor),
            analytics: listed(Group::Analytics),
            custom_metadata: read.custom_metadata,
            privacy: Privacy {
                server_side_forwarding: params.get("analytics.optOutServerSideForwarding").copied(),
                share: params.get("analytics.optOutShare").copied(),
            },
            client: Client { address: read.address, user_agent: read.user_agent },
            is_cut: read.is_cut,
            params,
        }
    }

    /// Whether a flag was sent and is true.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.params.get(key).is_some_and(|value| value.get() == "true")
    }

    /// A text that was sent.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        text(self.params.get(key)?)
    }

    /// The length of the content in seconds, if it is known.
    pub(super) fn length_s(&self) -> Option<f64> {
        let length_s: f64 = serde_json::from_str(self.params.get("media.length")?.get()).ok()?;
        (length_s > 0.0).then_some(length_s)
    }
}

fn group_of(key: &str) -> Group {
    match key {
        "analytics.optOutServerSideForwarding" | "analytics.optOutShare" => Group::Privacy,
        "analytics.visitorId" | "analytics.aid" | "appInstallationId" => Group::Visitor,
        _ if key.starts_with("visitor.") => Group::Visitor,
        _ if key.starts_with("analytics.") => Group::Analytics,
        _ if key.starts_with("media.qoe.") => Group::Quality,
        _ => Group::Content,
    }
}

/// A parameter as it is reported, given as it was sent.
fn reported<'s>(key: &str, sent: Option<&'s RawValue>) -> Option<Value<'s>> {
    match key {
        "media.contentType" if sent.is_some_and(|sent| sent.get() == "\"\"") => {
            Some(made("\"missing_content_type\""))
        }
        "media.streamType" if sent.is_none_or(|sent| sent.get() != "\"audio\"") => {
            Some(made("\"video\""))
        }
        "media.length" => sent.map(length),
        _ => sent.map(Cow::Borrowed),
    }
}

/// A length as it is reported: a negative one is not known.
pub(super) fn length(sent: &RawValue) -> Value<'_> {
    if sent.get().starts_with('-') { made("0") } else { Cow::Borrowed(sent) }
}

/// A text as it was before it became JSON.
fn text(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

fn made(json: &str) -> Value<'static> {
    Cow::Owned(RawValue::from_string(json.to_owned()).expect("a literal that is JSON"))
}
