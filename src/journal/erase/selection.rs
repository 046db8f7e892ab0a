//! What is to be erased, and whether a record that is whole has it: the value under a key.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor as Visit};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::session::id::SessionId;

/// What stands in an object of customer ids beside each id, and is none.
const AUTH_STATE: &str = "authState";

/// The parameter that is an object of ids, each by the name of who gave it.
const CUSTOMER_IDS: &str = "visitor.customerIDs";

/// The member of a body, a report and a saved session that has custom metadata.
const METADATA: &str = "customMetadata";

/// What is to be erased: whole sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// Those of which any body has one of these values under its key.
    Visitor(Vec<Visitor>),
    /// These.
    Sessions(Vec<SessionId>),
    /// Those whose start was received in this time.
    Started(Range),
}

/// A time that has an end or not, in ms since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// From then on.
    pub from_ms: Option<u64>,
    /// Before then.
    pub until_ms: Option<u64>,
}

impl Range {
    fn contains(&self, ms: u64) -> bool {
        self.from_ms.is_none_or(|from_ms| ms >= from_ms)
            && self.until_ms.is_none_or(|until_ms| ms < until_ms)
    }
}

/// Somebody, by what their player says of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visitor {
    /// A key of a body, or of `params`, `customMetadata` or `qoeData` in it. `customMetadata.KEY` is a key of
    /// custom metadata alone, and `visitor.customerIDs.NAME` is `visitor.customerIDs`.
    pub key: String,
    /// The value as it was given, first, and how else the journal may have it.
    pub(super) forms: Vec<String>,
}

/// A selection that says nothing of anybody: values are fingerprints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Described {
    /// Keys, each with the BLAKE3 of its value.
    Visitor(Vec<Fingerprint>),
    /// Session ids.
    Sessions(Vec<SessionId>),
    /// A time.
    Started(Range),
}

/// A key and the BLAKE3 of its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The key.
    pub key: String,
    /// The BLAKE3 hash of the value, in hexadecimal digits.
    pub value_blake3: String,
}

impl Default for Described {
    fn default() -> Self {
        Self::Sessions(Vec::new())
    }
}

impl Visitor {
    /// Somebody who has this value under this key.
    pub fn new(key: String, value: String) -> Self {
        Self { key, forms: vec![value] }
    }

    /// The value as it was given.
    pub fn value(&self) -> &str {
        &self.forms[0]
    }

    /// The same, of whom the journal may have this in place of the value.
    #[must_use]
    pub fn or_as(mut self, form: String) -> Self {
        self.forms.push(form);
        self
    }

    /// Whether a text, or a number or a truth value as JSON, is the one that is looked for.
    fn matches(&self, value: &str) -> bool {
        self.forms.iter().any(|form| form == value)
    }

    /// Whether a member of this name is meant, which stands in custom metadata or elsewhere.
    fn is_of(&self, name: &str, place: Place) -> bool {
        let is_behind =
            |prefix| self.key.strip_prefix(prefix).is_some_and(|rest: &str| rest.starts_with('.'));
        name == self.key
            || (name == CUSTOMER_IDS && is_behind(CUSTOMER_IDS))
            || (place == Place::Metadata
                && is_behind(METADATA)
                && self.key[METADATA.len() + 1..] == *name)
    }

    /// Whether a JSON value is the one that is looked for, or is an object or array with it.
    fn matches_json(&self, value: &RawValue, inside: Inside) -> bool {
        match value.get().as_bytes().first() {
            Some(b'{' | b'[') => self.stands_inside(value, inside),
            _ => self.matches_scalar(value.get()),
        }
    }

    /// Whether a text, a number or a truth value, given as JSON, is the one that is looked for.
    fn matches_scalar(&self, json: &str) -> bool {
        match json.as_bytes().first() {
            Some(b'"') => {
                serde_json::from_str::<String>(json).is_ok_and(|text| self.matches(&text))
            }
            _ => self.matches(json),
        }
    }

    /// Whether an object or array has it. The state of authentication names nobody.
    fn stands_inside(&self, json: &RawValue, inside: Inside) -> bool {
        values_of(json).iter().any(|(name, value)| match value.get().as_bytes().first() {
            _ if name.as_deref() == Some(AUTH_STATE) => false,
            Some(b'{' | b'[') => self.stands_inside(value, inside),
            Some(b'"') => self.matches_scalar(value.get()),
            Some(b'0'..=b'9' | b'-') => inside == Inside::Numbers && self.matches(value.get()),
            _ => false,
        })
    }

    /// Whether a body has it under its key.
    fn stands_in_body(&self, body: &RawValue) -> bool {
        let is_it = |name: &str, value, place| {
            self.is_of(name, place) && self.matches_json(value, Inside::Numbers)
        };
        values_of(body).into_iter().any(|(name, value)| match name.as_deref() {
            // An event of a stored session.
            None => self.stands_in_body(value),
            Some(member @ ("params" | METADATA | "qoeData")) => {
                let place = Place::of(member);
                let members = values_of(value);
                members
                    .into_iter()
                    .any(|(key, value)| key.is_some_and(|key| is_it(&key, value, place)))
            }
            // Every body has these, and they name nobody.
            Some("eventType" | "playerTime") => false,
            Some(name) => is_it(name, value, Place::Other),
        })
    }

    /// Whether a report or a saved session has it under its key, wherever that is. Numbers in the objects there
    /// are sums and lengths: what a player may send as an object has none.
    fn stands_anywhere(&self, json: &RawValue, place: Place) -> bool {
        values_of(json).into_iter().any(|(name, value)| {
            let name = name.as_deref();
            name.is_some_and(|name| self.is_of(name, place))
                && self.matches_json(value, Inside::Texts)
                || self.stands_anywhere(value, name.map_or(Place::Other, Place::of))
        })
    }
}

/// Where a member stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Metadata,
    Other,
}

impl Place {
    /// Within the member of this name.
    fn of(name: &str) -> Self {
        if name == METADATA { Self::Metadata } else { Self::Other }
    }
}

/// What counts inside of an object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Texts,
    /// And texts too.
    Numbers,
}

impl Selection {
    /// The same without values.
    pub fn described(&self) -> Described {
        match self {
            Self::Visitor(visitors) => {
                let fingerprint = |visitor: &Visitor| Fingerprint {
                    key: visitor.key.clone(),
                    value_blake3: blake3::hash(visitor.value().as_bytes()).to_hex().to_string(),
                };
                Described::Visitor(visitors.iter().map(fingerprint).collect())
            }
            Self::Sessions(ids) => Described::Sessions(ids.clone()),
            Self::Started(range) => Described::Started(*range),
        }
    }

    /// Whether the start of a session was received in the time that is meant, if one is.
    pub(super) fn has_start(&self, received_ms: u64) -> bool {
        matches!(self, Self::Started(range) if range.contains(received_ms))
    }

    /// Whether this is a value that is looked for, under whatever key.
    pub(super) fn is_value(&self, text: &str) -> bool {
        matches!(self, Self::Visitor(visitors) if visitors.iter().any(|visitor| visitor.matches(text)))
    }

    /// Whether a body, as it stands in a record, has a value that is looked for under its key.
    pub(super) fn is_in_body(&self, body: &[u8]) -> bool {
        self.is_in(body, Visitor::stands_in_body)
    }

    /// Whether a report or a saved session has it.
    pub(super) fn is_anywhere_in(&self, json: &[u8]) -> bool {
        self.is_in(json, |visitor, json| visitor.stands_anywhere(json, Place::Other))
    }

    fn is_in(&self, json: &[u8], has: fn(&Visitor, &RawValue) -> bool) -> bool {
        let Self::Visitor(visitors) = self else { return false };
        let Ok(json) = serde_json::from_slice::<&RawValue>(json) else { return false };
        visitors.iter().any(|visitor| has(visitor, json))
    }
}

/// What is in an object, by name, or in an array, without; nothing of anything else. A name that stands
/// twice is given twice.
fn values_of(json: &RawValue) -> Vec<(Option<Cow<'_, str>>, &RawValue)> {
    match json.get().as_bytes().first() {
        Some(b'{') => {
            let members: Result<Members<'_>, _> = serde_json::from_str(json.get());
            let members = members.map_or_else(|_| Vec::new(), |members| members.0);
            members.into_iter().map(|(name, value)| (Some(name), value)).collect()
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(json.get()).unwrap_or_default();
            items.into_iter().map(|item| (None, item)).collect()
        }
        _ => Vec::new(),
    }
}

/// The members of an object in their order.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visit<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_found_by_a_value_under_its_key() {
        for (key, value, body, expected) in [
            ("a", "v", r#"{"params":{"a":"v"}}"#, true),
            ("a", "v", r#"{"params":{"\u0061":"\u0076"}}"#, true),
            ("a", "v", r#"{"customMetadata":{"a":"v"}}"#, true),
            ("a", "v", r#"[{"params":{}},{"params":{"a":"v"}}]"#, true),
            ("a", "v", r#"{"params":{"a":{"crm":{"id":"v","authState":1}}}}"#, true),
            ("a", "v", r#"{"params":{"a":{"crm":{"id":"v","id":"w"}}}}"#, true),
            ("a", "1e5", r#"{"params":{"a":1e5}}"#, true),
            ("a", "true", r#"{"params":{"a":true}}"#, true),
            ("a", "v", r#"{"params":{"b":"v"},"customMetadata":{"c":"v"}}"#, false),
            ("a", "v", r#"{"qoeData":{"a":"v"}}"#, true),
            ("a", "v", r#"{"a":"v"}"#, true),
            ("a", "v", r#"[{"params":{}},{"a":["v"]}]"#, true),
            ("eventType", "play", r#"{"eventType":"play"}"#, false),
            ("a", "1", r#"{"playerTime":{"a":1}}"#, false),
            ("customMetadata.a", "v", r#"{"customMetadata":{"a":"v"}}"#, true),
            ("customMetadata.a", "v", r#"{"params":{"a":"v"},"qoeData":{"a":"v"},"a":"v"}"#, false),
            ("customMetadata.a", "v", r#"{"params":{"customMetadata.a":"v"}}"#, true),
            ("customMetadata.a", "v", r#"{"customMetadata":{"b":"v"}}"#, false),
            (
                "visitor.customerIDs.crm",
                "v",
                r#"{"params":{"visitor.customerIDs":{"crm":{"id":"v"}}}}"#,
                true,
            ),
            ("visitor.customerIDs.crm", "v", r#"{"params":{"visitor.customerIDs.crm":"v"}}"#, true),
            (
                "visitor.customerIDsX",
                "v",
                r#"{"params":{"visitor.customerIDs":{"crm":{"id":"v"}}}}"#,
                false,
            ),
            ("a", "4711", r#"{"params":{"a":{"b":{"c":4711}}}}"#, true),
            ("a", "-5", r#"{"params":{"a":[-5]}}"#, true),
            ("a", "true", r#"{"params":{"a":{"b":true}}}"#, false),
            ("a", "v", r#"{"params":{"a":"vv"}}"#, false),
            ("a", "100000.0", r#"{"params":{"a":1e5}}"#, false),
            ("id", "v", r#"{"params":{"a":{"id":"v"}}}"#, false),
            ("crm", "crm", r#"{"params":{"a":{"crm":1}}}"#, false),
            ("a", "1", r#"{"params":{"a":{"crm":{"id":"v","authState":1}}}}"#, false),
            ("a", "1", r#"{"params":{"a":{"crm":{"id":"v","authState":"1"}}}}"#, false),
            ("a", "1", r#"{"params":{"a":{"crm":{"id":"1","authState":0}}}}"#, true),
            ("a", "1", r#"{"params":{"a":1}}"#, true),
        ] {
            assert_eq!(
                visitor(key, value).is_in_body(body.as_bytes()),
                expected,
                "{key} in {body}"
            );
        }
        let report = br#"{"visitor":{"a":"v"},"ads":[{"customMetadata":{"b":"w"}}]}"#;
        assert!(visitor("a", "v").is_anywhere_in(report));
        assert!(visitor("b", "w").is_anywhere_in(report));
        assert!(!visitor("b", "v").is_anywhere_in(report));
        assert!(visitor("customMetadata.b", "w").is_anywhere_in(report));
        assert!(!visitor("customMetadata.a", "v").is_anywhere_in(report));
        let figures = br#"{"content":{"media.length":5},"metrics":{"a":{"b":5}}}"#;
        assert!(!visitor("content", "5").is_anywhere_in(figures), "it is nobody's");
    }

    #[test]
    fn evidence_names_no_value() {
        let described = visitor("a", "v").described();
        let text = serde_json::to_string(&described).unwrap();
        assert!(text.contains("\"key\":\"a\"") && !text.contains("\"v\""), "{text}");
        assert!(text.contains(&blake3::hash(b"v").to_hex().to_string()));
    }

    fn visitor(key: &str, value: &str) -> Selection {
        Selection::Visitor(vec![Visitor::new(key.into(), value.into())])
    }
}
