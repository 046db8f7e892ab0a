//! What goes told from what stays, once the sessions are known.
//!
//! Most lines do not hold the bytes of a value at all, so only those that do are read. What cannot be read,
//! because it is damaged or was refused, is judged by its bytes.

use std::borrow::Cow;
use std::io;
use std::ops::Range;

use serde::Deserialize;

use super::seek::Seeker;
use super::selection::Selection;
use crate::journal::Ids;
use crate::journal::record::{Content, Encoded, Head, Record};
use crate::session::id::SessionId;

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
        let violations = refused.violations.iter();
        let told = violations
            .flat_map(|violation| [named_by(&violation.pointer), violation.message.clone()])
            .chain([refused.path.map(said_in_path), refused.message].into_iter().flatten());
        // Nobody must keep a refused body, so it goes with a value in whatever place.
        refused.user_agent.is_some_and(|text| self.names_value(text.as_bytes(), false))
            || told.into_iter().any(|text| {
                let cut = text.rfind('…');
                self.names_value(text.as_bytes(), false)
                    || cut.is_some_and(|end| self.seeker.ends_with_a_part(unquoted(&text[..end])))
            })
            || refused.client.is_some_and(|client| self.selection.is_value(&client))
            || self.names_value(body, refused.body_bytes.is_some())
            || self.condemns_by_session(line)
            || ids_in(&from_hex).any(|id| self.ids.contains(id))
    }

    /// Whether a value stands in what somebody said, or its beginning where that was cut.
    fn names_value(&self, said: &[u8], is_cut: bool) -> bool {
        self.seeker.finds_apart_in_any_spelling(said)
            || (is_cut && self.seeker.ends_with_a_part(said))
    }

    /// Whether a report repeats the start of a session that goes.
    pub(super) fn is_named(&self, line: &[u8]) -> bool {
        first_in(line).is_some_and(|(_, first)| self.ids.contains(first))
    }

    /// The line of such a report, which repeats the start of no session any more.
    ///
    /// # Errors
    /// If the line is no report.
    pub(super) fn without_first(line: &[u8]) -> io::Result<Vec<u8>> {
        let record = Record::read(line).map_err(io::Error::other)?;
        let Content::Report { sid, report } = record.content else {
            return Err(io::Error::other("a record that is no report names a session"));
        };
        let mut report = report.into_owned();
        if let Some((place, _)) = first_in(&report) {
            report.splice(place, *b"null");
        }
        let mut anew = Vec::new();
        let encoded = Encoded::new(Content::Report { sid, report: report.into() })
            .map_err(io::Error::other)?;
        encoded.write_line(&mut anew, record.seq, record.received_ms);
        Ok(anew)
    }

    /// Whether a line names a session that goes, or was received in the time that is meant.
    fn condemns_by_session(&self, line: &[u8]) -> bool {
        (!self.ids.is_empty() && ids_in(line).any(|id| self.ids.contains(id)))
            || time_of(line).is_some_and(|received_ms| self.selection.has_start(received_ms))
    }
}

/// What a player said in a refused body and beside it, and what was said of it.
#[derive(Deserialize)]
struct Refused<'l> {
    #[serde(borrow)]
    path: Option<Cow<'l, str>>,
    #[serde(borrow)]
    client: Option<Cow<'l, str>>,
    #[serde(borrow)]
    user_agent: Option<Cow<'l, str>>,
    #[serde(borrow)]
    message: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    violations: Vec<Violation<'l>>,
    #[serde(borrow)]
    body: Option<Cow<'l, str>>,
    #[serde(borrow)]
    body_hex: Option<Cow<'l, str>>,
    /// How long the body was, if it is not all here.
    body_bytes: Option<u64>,
}

/// What is wrong with one.
#[derive(Deserialize)]
struct Violation<'l> {
    #[serde(borrow)]
    pointer: Cow<'l, str>,
    #[serde(borrow)]
    message: Cow<'l, str>,
}

/// What a client has put into a path: what stands there between the words of ours.
fn said_in_path(path: Cow<'_, str>) -> Cow<'_, str> {
    let routes = ["/api/v1/sessions", "/api/v1/downloaded"];
    let Some(said) = routes.iter().find_map(|route| path.strip_prefix(route)) else { return path };
    let said = said.strip_suffix('/').unwrap_or(said);
    Cow::Owned(said.strip_suffix("/events").unwrap_or(said).to_owned())
}

/// What a JSON pointer names, with its escapes undone.
fn named_by<'p>(pointer: &Cow<'p, str>) -> Cow<'p, str> {
    if pointer.contains('~') {
        Cow::Owned(pointer.replace("~1", "/").replace("~0", "~"))
    } else {
        pointer.clone()
    }
}

/// A text without the quote that ends it.
fn unquoted(text: &str) -> &[u8] {
    text.strip_suffix('"').unwrap_or(text).as_bytes()
}

/// The session whose start a report says that it repeats, and where that stands.
fn first_in(report: &[u8]) -> Option<(Range<usize>, SessionId)> {
    // A text cannot hold the key, because its quotes would be escaped, and members that players name come later.
    const KEY: &[u8] = b"\"repeatOf\":";
    let begin = memchr::memmem::find(report, KEY)? + KEY.len();
    let place = begin..begin + 66;
    let digits = report.get(place.clone())?.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    Some((place, SessionId::from_path(str::from_utf8(digits).ok()?)?))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::journal::erase::{Range, Visitor};
    use crate::session::id::Key;

    #[test]
    fn a_report_that_stays_names_no_session_that_goes() {
        let id = SessionId::mint(&Key::new([1; 32]), 1, [2; 10]);
        let other = SessionId::mint(&Key::new([1; 32]), 1, [3; 10]);
        let judge = Judge::new(&visitor("a", "17"), Ids::of(vec![id]));
        let line = |first: &str| {
            let report = format!(
                r#"{{"version":2,"repeatOf":{first},"customMetadata":{{"repeatOf":"{id}"}}}}"#
            );
            let content = Content::Report { sid: other, report: report.into_bytes().into() };
            let mut line = Vec::new();
            Encoded::new(content).unwrap().write_line(&mut line, 7, 8);
            line
        };
        assert!(!judge.is_named(&line("null")), "what a player says of another is its own");
        assert!(!judge.is_named(&line(&format!("\"{other}\""))));
        let named = line(&format!("\"{id}\""));
        assert!(judge.is_named(&named));
        assert_eq!(Judge::without_first(named.trim_ascii_end()).unwrap(), line("null"));
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
            (r#""body":"{\"a\":\"117\",\"ts\":1700,\"c\":\"no.17x\"}""#.to_owned(), false),
            (r#""body":"{\"c\":\"no. 17\"}""#.to_owned(), true),
            (r#""body":"{\"17\":1}""#.to_owned(), true),
            (r#""body":"{\"u\":\" 17 \"}""#.to_owned(), true),
            (r#""body":"{\"u\":\"mailto:17?x\"}""#.to_owned(), true),
            (r#""body":"{\"u\":\"\\n17\\u00e9\"}""#.to_owned(), false),
            (r#""body":"{\"a\":\"17\"""#.to_owned(), true),
            (r#""body":"{\"a\":\"170\",\"b\":x17""#.to_owned(), false),
            (r#""user_agent":"Player of 17","body":"{}""#.to_owned(), true),
            (r#""user_agent":"Player 1.170","body_bytes":17"#.to_owned(), false),
            (r#""violations":[{"pointer":"/17","code":"x","message":""}]"#.to_owned(), true),
            (r#""violations":[{"pointer":"","code":"x","message":"is 17"}]"#.to_owned(), true),
            (r#""violations":[{"pointer":"","code":"17","message":"x"}]"#.to_owned(), false),
            (r#""message":"suite \"17\" is not on the list""#.to_owned(), true),
            (r#""message":"suite \"170\" is not on the list""#.to_owned(), false),
            (r#""message":"\"a\\u{31}7\" \"\\u{31}7\"""#.to_owned(), true),
            (r#""body":"user=%317&x=1""#.to_owned(), true),
            (r#""body":"user=%3171""#.to_owned(), false),
            (r#""body":"{\"a\":\"1","body_bytes":99"#.to_owned(), true),
            (r#""body":"{\"a\":\"1""#.to_owned(), false),
            (in_hex("\"a\":\"17\""), true),
            (in_hex("\"a\":\"170\""), false),
            (in_hex(&format!("\"{id}\"")), true),
            (in_hex(&format!("\"{other}\"")), false),
        ] {
            let line = line("/api/v1/sessions", &rest);
            assert_eq!(judge.condemns_refused(line.as_bytes()), expected, "{line}");
        }
        for (id, expected) in [(id, true), (other, false)] {
            let line = line(&format!("/api/v1/sessions/{id}/events"), "\"message\":\"\"");
            assert_eq!(judge.condemns_refused(line.as_bytes()), expected, "{line}");
        }
        for (path, expected) in [
            ("/api/v1/sessions/17/events", true),
            ("/api/v1/sessions/a%20%317/events", true),
            ("/api/v1/sessions/%2531%37/events", true),
            ("/api/v1/sessions/170/events", false),
            ("/x/api%2F17", true),
            ("/api/v1/sessions/aaaaaaa/1… (300 bytes)", true),
        ] {
            assert_eq!(
                judge.condemns_refused(line(path, "\"a\":1").as_bytes()),
                expected,
                "{path}"
            );
        }
        let ours = Judge::new(&visitor("a", "events"), Ids::default());
        let body = |path| line(path, r#""message":"Request had improper format.","body":"{}""#);
        assert!(!ours.condemns_refused(body("/api/v1/sessions/7/events/").as_bytes()), "our word");
        assert!(ours.condemns_refused(body("/api/v1/sessions/events/events").as_bytes()));
        let named = Judge::new(&visitor("a", "Zo~/7"), Ids::default());
        let pointer = r#""violations":[{"pointer":"/a/Zo~0~17","code":"x","message":""}]"#;
        assert!(named.condemns_refused(line("/", pointer).as_bytes()));
        let address = Judge::new(&visitor("a", "17.0.17.0"), Ids::default());
        assert!(address.condemns_refused(line("/", "\"a\":1").as_bytes()), "the client itself");
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

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let judge = Judge::new(&visitor("a", "b"), Ids::of(vec![]));
            judge.condemns(&bytes);
            judge.condemns_refused(&bytes);
            judge.selection.is_in_body(&bytes);
        }
    }

    fn visitor(key: &str, value: &str) -> Selection {
        Selection::Visitor(vec![Visitor::new(key.into(), value.into())])
    }
}
