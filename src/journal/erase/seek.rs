//! How what is to be erased is told from the rest.
//!
//! A record that is whole is judged by what it says: its session, or the value under a key. Most lines do
//! not hold the bytes of the value at all, so only those that do are read. What cannot be read, because it
//! is damaged or was refused, is judged by its bytes.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;
use memchr::memmem::Finder;
use serde::de::{MapAccess, Visitor as Visit};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::journal::Ids;
use crate::journal::record::Head;
use crate::session::id::SessionId;

/// How often a value may have been made a JSON text within a JSON text and still be found.
const ESCAPED_AT_MOST: usize = 3;

/// How deep a refused body is read: a stranger chooses how deep it is.
const DEPTH_MAX: usize = 32;

/// What stands in an object of customer ids beside each id, and is none.
const AUTH_STATE: &str = "authState";

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
    /// A key of `params` or of `customMetadata`.
    pub key: String,
    /// The value as it was given, first, and how else the journal may have it.
    forms: Vec<String>,
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

    /// Whether a JSON value is the one that is looked for, or is an object or array with it.
    fn matches_json(&self, value: &RawValue) -> bool {
        match value.get().as_bytes().first() {
            Some(b'{' | b'[') => self.stands_inside(value),
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

    /// Whether an object or array has it as a text: numbers in there name nobody, nor does the state of
    /// authentication.
    fn stands_inside(&self, json: &RawValue) -> bool {
        values_of(json).iter().any(|(name, value)| match value.get().as_bytes().first() {
            _ if name.as_deref() == Some(AUTH_STATE) => false,
            Some(b'{' | b'[') => self.stands_inside(value),
            Some(b'"') => self.matches_scalar(value.get()),
            _ => false,
        })
    }

    /// Whether it is a text or a number anywhere in JSON that was refused, or in JSON that stands as a text
    /// in it. What lies deeper is judged by its bytes.
    fn stands_under_any_key(&self, json: &RawValue, depth_max: usize, seeker: &Seeker) -> bool {
        let Some(depth_max) = depth_max.checked_sub(1) else {
            return seeker.finds_apart(json.get().as_bytes());
        };
        match json.get().as_bytes().first() {
            Some(b'{' | b'[') => values_of(json)
                .iter()
                .any(|(_, value)| self.stands_under_any_key(value, depth_max, seeker)),
            Some(b'"') => serde_json::from_str::<String>(json.get()).is_ok_and(|text| {
                self.matches(&text)
                    || serde_json::from_str::<&RawValue>(&text)
                        .is_ok_and(|json| self.stands_under_any_key(json, depth_max, seeker))
            }),
            _ => self.matches(json.get()),
        }
    }

    /// Whether a body has it under its key.
    fn stands_in_body(&self, body: &RawValue) -> bool {
        values_of(body).into_iter().any(|(name, value)| match name.as_deref() {
            // An event of a stored session.
            None => self.stands_in_body(value),
            Some("params" | "customMetadata") => values_of(value)
                .into_iter()
                .any(|(key, value)| key.as_deref() == Some(&*self.key) && self.matches_json(value)),
            Some(_) => false,
        })
    }

    /// Whether a report or a saved session has it under its key, wherever that is.
    fn stands_anywhere(&self, json: &RawValue) -> bool {
        values_of(json).into_iter().any(|(name, value)| {
            (name.as_deref() == Some(&*self.key) && self.matches_json(value))
                || self.stands_anywhere(value)
        })
    }
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

    /// Whether a body, as it stands in a record, has a value that is looked for under its key.
    pub(super) fn is_in_body(&self, body: &[u8]) -> bool {
        self.is_in(body, Visitor::stands_in_body)
    }

    /// Whether a report or a saved session has it.
    pub(super) fn is_anywhere_in(&self, json: &[u8]) -> bool {
        self.is_in(json, Visitor::stands_anywhere)
    }

    /// Whether a body that was refused has a value as a text or a number, under whatever key; nothing if it
    /// is no JSON.
    fn is_under_any_key_of(&self, body: &[u8], seeker: &Seeker) -> Option<bool> {
        let json = serde_json::from_slice::<&RawValue>(body).ok()?;
        let Self::Visitor(visitors) = self else { return Some(false) };
        let has = |visitor: &Visitor| visitor.stands_under_any_key(json, DEPTH_MAX, seeker);
        Some(visitors.iter().any(has))
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

/// Finds the bytes of values.
#[derive(Debug)]
pub(super) struct Seeker(Vec<Finder<'static>>);

impl Seeker {
    pub(super) fn of(selection: &Selection) -> Self {
        let mut needles = Vec::new();
        if let Selection::Visitor(visitors) = selection {
            for form in visitors.iter().flat_map(|visitor| &visitor.forms) {
                let json = serde_json::to_string(form).expect("a text is JSON");
                needles.push(form.clone());
                // Nearly always the same; if not, it saves undoing the escapes.
                needles.push(json[1..json.len() - 1].to_owned());
            }
        }
        needles.sort();
        needles.dedup();
        Self(needles.iter().map(|needle| Finder::new(needle).into_owned()).collect())
    }

    /// Whether a value stands in a text, as it is or with the escapes of JSON, whatever they are.
    pub(super) fn finds(&self, text: &[u8]) -> bool {
        self.finds_if(text, |_, _| true)
    }

    /// The same, but a part of a longer word or number is not the value.
    fn finds_apart(&self, text: &[u8]) -> bool {
        self.finds_if(text, |before, after| {
            !ends_in_word(before) && !first_char(after).is_some_and(char::is_alphanumeric)
        })
    }

    /// Whether a value stands in a text with such things before and after it.
    fn finds_if(&self, text: &[u8], is_it: fn(&[u8], &[u8]) -> bool) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let stands_in = |text: &[u8]| {
            self.0.iter().any(|needle| {
                let end = |at| at + needle.needle().len();
                needle.find_iter(text).any(|at| is_it(&text[..at], &text[end(at)..]))
            })
        };
        let mut text = Cow::Borrowed(text);
        for _ in 0..ESCAPED_AT_MOST {
            if stands_in(&text) {
                return true;
            }
            if memchr(b'\\', &text).is_none() {
                return false;
            }
            text = Cow::Owned(unescaped(&text));
        }
        stands_in(&text)
    }
}

/// Tells what goes from what stays, once the sessions are known.
#[derive(Debug)]
pub struct Judge {
    ids: Ids,
    seeker: Seeker,
    selection: Selection,
}

impl Judge {
    #[cfg(test)]
    pub(crate) fn of(selection: &Selection) -> Self {
        Self::new(selection, Ids::default())
    }

    pub(super) fn new(selection: &Selection, ids: Ids) -> Self {
        Self { ids, seeker: Seeker::of(selection), selection: selection.clone() }
    }

    /// The sessions that go.
    pub(super) fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Whether a value stands in a line that stays.
    pub(super) fn finds_value(&self, line: &[u8]) -> bool {
        self.seeker.finds(line)
    }

    /// Whether a line goes that is no record: a damaged one, or one that was set aside.
    pub(crate) fn condemns(&self, line: &[u8]) -> bool {
        self.seeker.finds_apart(without_frame(line)) || self.condemns_by_session(line)
    }

    /// Whether a line goes that is a refused body, with what is told of it.
    pub(crate) fn condemns_refused(&self, line: &[u8]) -> bool {
        let Ok(refused) = serde_json::from_slice::<Refused<'_>>(line) else {
            return self.condemns(line);
        };
        let hex = refused.body_hex.as_deref().unwrap_or_default();
        let from_hex = hex::decode(hex).unwrap_or_default();
        let body = refused.body.as_deref().map_or(&from_hex[..], str::as_bytes);
        let told = refused.user_agent.iter().chain(
            refused
                .violations
                .iter()
                .flat_map(|violation| [&violation.pointer, &violation.message]),
        );
        told.into_iter().any(|text| self.seeker.finds_apart(text.as_bytes()))
            || self.is_in_refused(body)
            || self.condemns_by_session(line)
            || ids_in(&from_hex).any(|id| self.ids.contains(id))
    }

    /// Whether a refused body has a value: whole, if it is JSON.
    fn is_in_refused(&self, body: &[u8]) -> bool {
        // Most bodies do not hold the bytes at all.
        self.seeker.finds(body)
            && (self.selection.is_under_any_key_of(body, &self.seeker))
                .unwrap_or_else(|| self.seeker.finds_apart(body))
    }

    /// Whether a line names a session that goes, or was received in the time that is meant.
    fn condemns_by_session(&self, line: &[u8]) -> bool {
        (!self.ids.is_empty() && ids_in(line).any(|id| self.ids.contains(id)))
            || time_of(line).is_some_and(|received_ms| self.selection.has_start(received_ms))
    }
}

/// What a player said in a refused body, and what was said of it.
#[derive(Deserialize)]
struct Refused<'l> {
    #[serde(borrow)]
    user_agent: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    violations: Vec<Violation<'l>>,
    #[serde(borrow)]
    body: Option<Cow<'l, str>>,
    #[serde(borrow)]
    body_hex: Option<Cow<'l, str>>,
}

/// What is wrong with one.
#[derive(Deserialize)]
struct Violation<'l> {
    #[serde(borrow)]
    pointer: Cow<'l, str>,
    #[serde(borrow)]
    message: Cow<'l, str>,
}

/// What a damaged record says without what the journal wrote around it: its number, its time and its checksum.
fn without_frame(line: &[u8]) -> &[u8] {
    const CRC: &[u8] = b",\"crc\":\"";
    let mut said = line.trim_ascii_end();
    for key in ["{\"seq\":", ",\"received_ms\":"] {
        if let Some(number) = said.strip_prefix(key.as_bytes()) {
            let digits = number.iter().take_while(|byte| byte.is_ascii_digit()).count();
            said = &number[digits..];
        }
    }
    let crc = said.len().saturating_sub(CRC.len() + "00000000\"}".len());
    if said[crc..].starts_with(CRC) { &said[..crc] } else { said }
}

/// Whether a text ends with a letter or a digit.
fn ends_in_word(text: &[u8]) -> bool {
    let begins = (1..=text.len().min(4)).map(|bytes| &text[text.len() - bytes..]);
    let mut last = begins.filter_map(|end| str::from_utf8(end).ok());
    last.next().is_some_and(|last| last.chars().any(char::is_alphanumeric))
}

/// The character with which a text begins.
fn first_char(text: &[u8]) -> Option<char> {
    let mut begins =
        (1..=text.len().min(4)).filter_map(|bytes| str::from_utf8(&text[..bytes]).ok());
    begins.next()?.chars().next()
}

/// When a damaged record or a refused body was received, if it tells.
fn time_of(line: &[u8]) -> Option<u64> {
    if let Some(head) = Head::read(line) {
        return Some(head.received_ms);
    }
    let digits = line.strip_prefix(b"{\"received_ms\":")?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// Everything in a line that could be the id of a session: digits that stand where an id stands, or just as
/// many as one has. Anybody can send a refused body of nothing but digits, so not every part of them is tried.
fn ids_in(line: &[u8]) -> impl Iterator<Item = SessionId> {
    const DIGITS: usize = 64;
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let alone = line.split(move |byte| !is_digit(byte)).filter(|digits| digits.len() == DIGITS);
    let in_place = ["\"sid\":\"", "/sessions/"].into_iter().flat_map(move |key| {
        memchr::memmem::find_iter(line, key).filter_map(move |at| {
            let digits = &line[at + key.len()..];
            digits.get(..DIGITS)
        })
    });
    alone.chain(in_place).filter_map(|digits| SessionId::from_path(str::from_utf8(digits).ok()?))
}

/// A text with the escapes of JSON undone, wherever they stand.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr(b'\\', rest) {
        plain.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        let short = match rest.first() {
            Some(b'n') => Some(b'\n'),
            Some(b'r') => Some(b'\r'),
            Some(b't') => Some(b'\t'),
            Some(b'b') => Some(8),
            Some(b'f') => Some(12),
            Some(byte @ (b'"' | b'\\' | b'/')) => Some(*byte),
            _ => None,
        };
        if let Some(byte) = short {
            plain.push(byte);
            rest = &rest[1..];
        } else if let Some((character, used)) = unicode_escape(rest) {
            plain.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            rest = &rest[used..];
        } else {
            plain.push(b'\\');
        }
    }
    plain.extend_from_slice(rest);
    plain
}

/// The character of `uXXXX`, or of two of them that belong together, and how long that is.
fn unicode_escape(text: &[u8]) -> Option<(char, usize)> {
    let unit = |text: &[u8]| {
        let digits = text.strip_prefix(b"u")?.get(..4)?;
        u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
    };
    let first = unit(text)?;
    if let Some(character) = char::from_u32(first.into()) {
        return Some((character, 5));
    }
    let second = unit(text.get(5..)?.strip_prefix(b"\\")?)?;
    let character = char::decode_utf16([first, second]).next()?.ok()?;
    Some((character, 11))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::session::id::Key;

    fn visitor(key: &str, value: &str) -> Selection {
        Selection::Visitor(vec![Visitor::new(key.into(), value.into())])
    }

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
            ("a", "v", r#"{"a":"v","qoeData":{"a":"v"}}"#, false),
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
    }

    #[test]
    fn a_line_that_is_no_record_is_judged_by_its_bytes() {
        let id = SessionId::mint(&Key::new([1; 32]), 1, [2; 10]);
        let other = SessionId::mint(&Key::new([1; 32]), 1, [3; 10]);
        let judge = Judge::new(&visitor("a", "Zoë/7"), Ids::of(vec![id]));
        for (line, expected) in [
            ("half a line with Zoë/7 in it".to_owned(), true),
            (r#"{"a":"Zo\u00EB\/7"#.to_owned(), true),
            (format!(r#"{{"seq":7,"received_ms":8,"kind":"event","sidX":"{id}","#), true),
            (format!(r#"{{"seq":7,"received_ms":8,"kind":"event","sid":"{id}b,"#), true),
            (format!(r#"{{"seq":7,"received_ms":8,"kind":"event","sid":"{other}b,"#), false),
            ("a Zoë/77, aZoë/7, éZoë/7, Zoë/7é".to_owned(), false),
            ("„Zoë/7“".to_owned(), true),
            ("Zoe/7 \\ \\u \\ud800".to_owned(), false),
        ] {
            assert_eq!(judge.condemns(line.as_bytes()), expected, "{line}");
        }
        let judge = Judge::new(&visitor("a", "17"), Ids::default());
        for (line, expected) in [
            (r#"{"seq":17,"received_ms":17,"kind":"event","body":{},"crc":"00000017"}"#, false),
            (r#"{"seq":17,"received_ms":17,"kind":"event","body":{"a":17},"crc":"000"#, true),
            (r#"{"seq":1,"received_ms":1700,"kind":"event","body":{"ts":1700},"crc":"000"#, false),
        ] {
            assert_eq!(judge.condemns(line.as_bytes()), expected, "{line}");
        }
        let range = Range { from_ms: Some(5), until_ms: Some(9) };
        let judge = Judge::new(&Selection::Started(range), Ids::default());
        for (line, expected) in [
            (r#"{"received_ms":5,"status":400"#, true),
            (r#"{"received_ms":9,"status":400"#, false),
            (r#"{"seq":7,"received_ms":8,"kind":"start","sid":"fl"#, true),
            ("nothing", false),
        ] {
            assert_eq!(judge.condemns(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn a_refused_body_is_judged_by_what_was_said_and_not_by_what_was_noted_of_it() {
        let id = SessionId::mint(&Key::new([1; 32]), 1, [2; 10]);
        let other = SessionId::mint(&Key::new([1; 32]), 1, [3; 10]);
        let judge = Judge::new(&visitor("a", "17"), Ids::of(vec![id]));
        let line = |path: &str, rest: &str| {
            format!(
                r#"{{"received_ms":17,"status":17,"path":"{path}","client":"17.0.17.0",{rest}}}"#
            )
        };
        let in_hex = |body: &str| format!(r#""body_hex":"ff{}""#, hex::encode(body));
        for (rest, expected) in [
            (r#""body":"{\"a\":\"17\"}""#.to_owned(), true),
            (r#""body":"{\"b\":[{\"c\":17}]}""#.to_owned(), true),
            (r#""body":"{\"a\":\"\\u00317\"}""#.to_owned(), true),
            (r#""body":"{\"b\":\"{\\\"a\\\":17}\"}""#.to_owned(), true),
            (r#""body":"{\"a\":\"117\",\"ts\":1700,\"c\":\"no. 17\"}""#.to_owned(), false),
            (r#""body":"{\"a\":\"17\"""#.to_owned(), true),
            (r#""body":"{\"a\":\"170\",\"b\":x17""#.to_owned(), false),
            (r#""user_agent":"Player of 17","body":"{}""#.to_owned(), true),
            (r#""user_agent":"Player 1.170","body_bytes":17"#.to_owned(), false),
            (r#""violations":[{"pointer":"/17","code":"x","message":""}]"#.to_owned(), true),
            (r#""violations":[{"pointer":"","code":"x","message":"is 17"}]"#.to_owned(), true),
            (r#""violations":[{"pointer":"","code":"17","message":"x"}]"#.to_owned(), false),
            (in_hex("\"a\":\"17\""), true),
            (in_hex("\"a\":\"170\""), false),
            (in_hex(&format!("\"{id}\"")), true),
            (in_hex(&format!("\"{other}\"")), false),
        ] {
            let line = line("/api/v1/sessions", &rest);
            assert_eq!(judge.condemns_refused(line.as_bytes()), expected, "{line}");
        }
        for (id, expected) in [(id, true), (other, false)] {
            let line = line(&format!("/api/v1/sessions/{id}/events"), "\"message\":\"17\"");
            assert_eq!(judge.condemns_refused(line.as_bytes()), expected, "{line}");
        }
        for (inside, expected) in [("17", true), ("170", false)] {
            let deep = format!("{}{inside}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
            let line = line("/", &format!("\"body\":\"{deep}\""));
            assert_eq!(judge.condemns_refused(line.as_bytes()), expected, "however deep it is");
        }
        assert!(judge.condemns_refused(b"{\"body\":\"half of 17"), "a damaged one by its bytes");
    }

    #[test]
    fn digits_are_not_tried_in_every_part() {
        let id = SessionId::mint(&Key::new([1; 32]), 1, [2; 10]);
        let digits = id.to_string().repeat(1 << 10);
        assert_eq!(ids_in(digits.as_bytes()).count(), 0, "no place where an id stands");
        let line = format!("{digits} \"sid\":\"{digits}\" {id}");
        assert_eq!(ids_in(line.as_bytes()).collect::<Vec<_>>(), [id, id]);
    }

    #[test]
    fn evidence_names_no_value() {
        let described = visitor("a", "v").described();
        let text = serde_json::to_string(&described).unwrap();
        assert!(text.contains("\"key\":\"a\"") && !text.contains("\"v\""), "{text}");
        assert!(text.contains(&blake3::hash(b"v").to_hex().to_string()));
    }

    proptest! {
        #[test]
        fn a_text_is_found_however_often_it_was_made_json(text in ".{1,12}", depth in 0..4_usize) {
            let mut json = text.clone();
            for _ in 0..depth {
                json = serde_json::to_string(&json).unwrap();
            }
            prop_assert!(Seeker::of(&visitor("a", &text)).finds(json.as_bytes()));
        }

        #[test]
        fn every_escape_of_every_character_is_undone(text in ".{1,12}") {
            let escaped = text.encode_utf16().fold(String::new(), |text, unit| format!("{text}\\u{unit:04x}"));
            prop_assert_eq!(unescaped(escaped.as_bytes()), text.as_bytes());
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let judge = Judge::new(&visitor("a", "b"), Ids::of(vec![]));
            judge.condemns(&bytes);
            judge.condemns_refused(&bytes);
            judge.selection.is_in_body(&bytes);
            unescaped(&bytes);
        }
    }
}
