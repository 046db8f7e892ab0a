//! Named members of a body left out, or replaced by a keyed hash; all the rest stays byte for byte.
//!
//! ```text
//! {"eventType":"sessionStart", … "params":{"media.id":"film","analytics.visitorId":"anna"}}
//!   drop  → {"eventType":"sessionStart", … "params":{"media.id":"film"}}
//!   hash  → {"eventType":"sessionStart", … "params":{"media.id":"film","analytics.visitorId":"h_3f0c…"}}
//! ```

use std::borrow::Cow;

use super::Hasher;
use super::names::Names;
use super::scan::Scan;
use crate::wire::{Code, Section, Violation, Violations};

/// How large a redacted body may be: hashes are longer than most values, and what is kept must fit into a
/// line of the journal like the largest body that may come.
pub const REDACTED_BYTES_MAX: usize = 16 << 20;

/// What stands in place of a message that may repeat a value.
pub const NOT_SHOWN: &str = "not shown: privacy.drop or privacy.hash names this";

/// Why a body cannot be redacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unredacted {
    /// It is no JSON, or hides what may be named.
    #[error("the body cannot be read where values are to be taken out of it")]
    Unreadable,
    /// It grows too large by its hashes.
    #[error("the body becomes too large by the hashes in it")]
    TooLarge,
}

/// Redacts bodies by the two lists of names.
#[derive(Clone, Debug)]
pub struct Redactor {
    drop: Names,
    hash: Names,
    pub(super) hasher: Hasher,
}

/// What becomes of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    Drop,
    Hash,
}

impl Redactor {
    /// A redactor that leaves out what the first list names and hashes what the second does.
    pub(super) fn new(drop: &[String], hash: &[String], hasher: Hasher) -> Self {
        Self { drop: Names::of(drop), hash: Names::of(hash), hasher }
    }

    /// An accepted body as it may be kept: what is named in it, of one event or of each in an array, is gone from
    /// `params`, `qoeData` and `customMetadata`, and from beside them.
    ///
    /// # Errors
    /// [`Unredacted`], and then it must not be kept; one that was accepted can be read.
    pub fn accepted<'b>(&self, body: &'b [u8]) -> Result<Cow<'b, [u8]>, Unredacted> {
        Scan::new(self, body, Reach::Event).run()
    }

    /// A refused body as it may be kept, if it may. What is named is gone wherever it stands, because a player
    /// that is refused may have put it into the wrong place. A body that cannot be looked into is not kept:
    /// one that is no JSON, or has JSON inside a string, or no object where names are looked for.
    pub fn refused<'b>(
        &self,
        body: &'b [u8],
        violations: Option<&Violations>,
    ) -> Option<Cow<'b, [u8]>> {
        if violations.is_some_and(Violations::is_unreadable) {
            return None;
        }
        Scan::new(self, body, Reach::Everywhere).run().ok()
    }

    /// The faults of a body as they may be kept: those of what is named tell neither its value nor what stands
    /// inside of it.
    pub fn violations(&self, violations: &Violations) -> Violations {
        violations.mapped(|violation| match self.named_part(&violation.pointer) {
            None => violation.clone(),
            Some(pointer) => Violation {
                pointer: pointer.to_owned(),
                code: violation.code,
                message: match violation.code {
                    // What is missing has no value.
                    Code::Required if pointer == violation.pointer => violation.message.clone(),
                    _ => Cow::Borrowed(NOT_SHOWN),
                },
            },
        })
    }

    /// Whether this parameter is taken out of bodies, or hashed.
    pub fn names(&self, key: &str) -> bool {
        self.verdict(Reach::Event, Place::Params, key) != Verdict::Keep
    }

    /// Whether a list names what has this name in that part of an event.
    pub fn covers(&self, section: Section, name: &str) -> bool {
        let place = match section {
            Section::Body => Place::Body,
            Section::PlayerTime => Place::Other,
            Section::Params => Place::Params,
            Section::CustomMetadata => Place::Metadata,
        };
        self.verdict(Reach::Everywhere, place, name) != Verdict::Keep
    }

    /// The beginning of a pointer up to the first name that a list names.
    fn named_part<'p>(&self, pointer: &'p str) -> Option<&'p str> {
        let (mut place, mut end) = (Place::Body, 0);
        for token in pointer.split('/').skip(1) {
            end += 1 + token.len();
            let name = token.replace("~1", "/").replace("~0", "~");
            if self.verdict(Reach::Everywhere, place, &name) != Verdict::Keep {
                return Some(&pointer[..end]);
            }
            place = place.of_member(Reach::Everywhere, &name);
        }
        None
    }

    /// What becomes of a member of this name in an object at that place.
    pub(super) fn verdict(&self, reach: Reach, place: Place, name: &str) -> Verdict {
        let is_anywhere = reach == Reach::Everywhere || place != Place::Other;
        let covers = |names: &Names| {
            is_anywhere && names.anywhere.covers(name)
                || place == Place::Metadata && names.metadata.covers(name)
        };
        if covers(&self.drop) {
            Verdict::Drop
        } else if covers(&self.hash) {
            Verdict::Hash
        } else {
            Verdict::Keep
        }
    }
}

/// Where names are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Where an event has them.
    Event,
    /// In every object.
    Everywhere,
}

/// What an object is to its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// An event.
    Body,
    /// The parameters of one.
    Params,
    /// The quality of one.
    Quality,
    /// The custom metadata of one.
    Metadata,
    /// Anything else.
    Other,
}

impl Place {
    /// What the value of a member of this name is.
    pub(super) fn of_member(self, reach: Reach, name: &str) -> Self {
        match name {
            _ if self != Self::Body && reach == Reach::Event => Self::Other,
            "params" => Self::Params,
            "qoeData" => Self::Quality,
            "customMetadata" => Self::Metadata,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use hashbrown::HashSet;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::session::id::Key;
    use crate::session::{Opening, Step, Terms, stored};
    use crate::wire::{Event, Rules, Start, StoredForm};

    fn redactor(drop: &[&str], hash: &[&str]) -> Redactor {
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        Redactor::new(&list(drop), &list(hash), Hasher::new(&Key::new([7; 32])))
    }

    fn hash(value: &str) -> String {
        Hasher::new(&Key::new([7; 32])).hash(value)
    }

    fn accepted(redactor: &Redactor, body: &str) -> String {
        String::from_utf8(redactor.accepted(body.as_bytes()).unwrap().into_owned()).unwrap()
    }

    fn refused(redactor: &Redactor, body: &str) -> Option<String> {
        let kept = redactor.refused(body.as_bytes(), None)?;
        Some(String::from_utf8(kept.into_owned()).unwrap())
    }

    #[test]
    fn a_member_goes_with_its_blanks_and_one_comma() {
        let redactor = redactor(&["x.*"], &[]);
        for (params, kept) in [
            (r#"{"x.a":1}"#, "{}"),
            (r#"{ "x.a" : 1 , "x.b":{"c":[1,"]"]} }"#, "{}"),
            (r#"{"x.a":1,"b":2}"#, r#"{"b":2}"#),
            (r#"{"b":2 , "x.a":1 }"#, r#"{"b":2 }"#),
            (r#"{"b":2, "x.a":1, "c":3}"#, r#"{"b":2, "c":3}"#),
            (r#"{"x.a":1,"b":2,"x.c":"}","x.d":4,"e" : 1.50}"#, r#"{"b":2,"e" : 1.50}"#),
        ] {
            for member in ["params", "customMetadata"] {
                let body = |object: &str| format!(r#" {{"a":[{{"x.a":1}}],"{member}":{object}}}"#);
                assert_eq!(accepted(&redactor, &body(params)), body(kept));
            }
        }
    }

    #[test]
    fn a_name_is_known_by_its_text_and_applies_where_it_says() {
        let redactor = redactor(&["visitor.id", "customMetadata.plan"], &[]);
        assert_eq!(
            accepted(
                &redactor,
                r#"{"plan":0,"visitor.id":1,"params":{"visitor\u002eid":2,"plan":3,"deep":{"visitor.id":4}},
                "customMetadata":{"pl\u0061n":"5","visitor.id":"6"},"extra":{"params":{"visitor.id":7}},
                "qoeData":{"plan":8,"visitor.id":{"a":9}}}"#
            ),
            r#"{"plan":0,"params":{"plan":3,"deep":{"visitor.id":4}},
                "customMetadata":{},"extra":{"params":{"visitor.id":7}},
                "qoeData":{"plan":8}}"#
        );
        let batch = r#"[{"params":{"visitor.id":1}}, {"params":{"visitor.id":2,"a":3}},[]]"#;
        assert_eq!(accepted(&redactor, batch), r#"[{"params":{}}, {"params":{"a":3}},[]]"#);
    }

    #[test]
    fn values_are_hashed_by_what_they_say() {
        let redactor = redactor(&["drop.*"], &["drop.me", "id", "visitor.*", "customMetadata.*"]);
        let anna = hash("anna");
        for (value, hashed) in [
            (r#""anna""#, anna.clone()),
            (r#""\u0061nna""#, anna.clone()),
            ("1.50", hash("1.50")),
            ("null", hash("null")),
            (r#"[ "anna" ]"#, hash(r#"[ "anna" ]"#)),
        ] {
            let body = format!(r#"{{"params":{{"drop.me":1,"id" : {value} }}}}"#);
            let kept = format!(r#"{{"params":{{"id" : "{hashed}" }}}}"#);
            assert_eq!(accepted(&redactor, &body), kept);
        }
        let ids = r#"{"params":{"visitor.customerIDs":{"crm":{"id":"anna","authState":1,"\u0069d":"b"},
            "crm":{"id":"c"},"odd":"anna","list":["anna"]}}}"#;
        let kept = format!(
            r#"{{"params":{{"visitor.customerIDs":{{"crm":{{"id":"{anna}","authState":1,"\u0069d":"{}"}},
            "crm":{{"id":"{}"}},"odd":"{anna}","list":"{}"}}}}}}"#,
            hash("b"),
            hash("c"),
            hash(r#"["anna"]"#)
        );
        assert_eq!(accepted(&redactor, ids), kept);
    }

    #[test]
    fn a_body_without_a_named_member_is_not_copied() {
        let body = br#"{"params":{"a":"visitor.id"},"deep":{"visitor.id":1}}"#;
        let redactor = redactor(&["visitor.*"], &["id"]);
        assert!(matches!(redactor.accepted(body), Ok(Cow::Borrowed(kept)) if kept == body));
    }

    #[test]
    fn a_body_that_hashes_blow_up_is_not_kept() {
        let members = vec![r#""v.":0"#; 1 << 20].join(",");
        let body = format!(r#"{{"params":{{{members}}}}}"#);
        let redactor = redactor(&[], &["v.*"]);
        assert_eq!(redactor.accepted(body.as_bytes()), Err(Unredacted::TooLarge));
        assert_eq!(refused(&redactor, &body), None);
    }

    #[test]
    fn of_a_refused_body_names_go_wherever_they_stand() {
        let redactor = redactor(&["visitor.*"], &["customMetadata.plan"]);
        for (body, kept) in [
            (r#"{"visitor.id":"anna","eventType":"x"}"#, r#"{"eventType":"x"}"#),
            (r#"{"parms":{"visitor.id":"anna"}}"#, r#"{"parms":{}}"#),
            (
                r#"{"events":[{"params":{"visitor.id":1,"a":null}}]}"#,
                r#"{"events":[{"params":{"a":null}}]}"#,
            ),
            (r#"[[{"params":{"visitor.id":1}}]]"#, r#"[[{"params":{}}]]"#),
            (r#"{"params":{"visitor.id":1,"visitor.id":2}}"#, r#"{"params":{}}"#),
            (r#"{"params":null,"plan":"gold"}"#, r#"{"params":null,"plan":"gold"}"#),
            (r#"{"a":"The \"Film\" [HD]"}"#, r#"{"a":"The \"Film\" [HD]"}"#),
        ] {
            assert_eq!(refused(&redactor, body).as_deref(), Some(kept));
        }
        let nested = r#"{"a":{"customMetadata":{"plan":"gold"}}}"#;
        let kept = refused(&redactor, nested).unwrap();
        assert_eq!(kept, nested.replace("gold", &hash("gold")));
    }

    #[test]
    fn a_refused_body_that_may_hide_a_name_is_not_kept() {
        let redactor = redactor(&["visitor.*"], &[]);
        let deep = format!("{}{}", "[".repeat(70), "]".repeat(70));
        for body in [
            "",
            "visitor.id=anna",
            "null",
            r#""{\"visitor.id\":\"anna\"}""#,
            r#"{"params":"visitor.id=anna"}"#,
            r#"{"params":["visitor.id","anna"]}"#,
            r#"{"qoeData":"visitor.id=anna"}"#,
            r#"{"event":" {\"visitor.id\":\"anna\"}"}"#,
            r#"{"event":"\"{\\\"visitor.id\\\":\\\"anna\\\"}\""}"#,
            r#"{"event":"\"\\u007b\\u0022visitor.id\\u0022:7}\""}"#,
            r#"{"event":"\ufeff{\"visitor.id\":\"anna\"}"}"#,
            "{\"event\":\"\u{feff} [{\\\"visitor.id\\\":7}]\"}",
            r#"{"event":"send({\"visitor.id\":\"anna\"})"}"#,
            r#"{"params":{"visitor.id":"anna"}"#,
            r#"{"params":{"visitor.id":"anna"}} {"visitor.id":"anna"}"#,
            r#"{"params":{"visitor.id":anna anna}}"#,
            r#"{"a" "b"}"#,
            r#"{"\ud800":1}"#,
            r#"{"a":"\"#,
            &deep,
        ] {
            assert_eq!(refused(&redactor, body), None, "{body}");
        }
        let unsound = br#"{"params":{"a":1e999}}"#;
        let violations = Start::parse(unsound, Rules::default()).unwrap_err();
        assert_eq!(redactor.refused(unsound, Some(&violations)), None);
    }

    #[test]
    fn faults_of_what_is_named_tell_no_value() {
        let redactor = redactor(&["visitor.*", "analytics.reportSuite"], &["customMetadata.plan"]);
        let body = r#"{"eventType":"sessionStart","playerTime":{"playhead":-9,"ts":1},
            "params":{"visitor.aamLocationHint":7.25,"visitor.marketingCloudOrgId":"o",
                "visitor.customerIDs":{"anna/b":{"id":"x","authState":7}}},
            "customMetadata":{"plan":7}}"#;
        let violations = Start::parse(body.as_bytes(), Rules::default()).unwrap_err();
        let told = |violations: &Violations| serde_json::to_string(violations).unwrap();
        assert!(told(&violations).contains("7.25") && told(&violations).contains("anna~1b"));
        let kept = redactor.violations(&violations);
        for value in ["7.25", "anna", "got 7"] {
            assert!(!told(&kept).contains(value), "{value} in {}", told(&kept));
        }
        let told = told(&kept);
        assert!(told.contains("expected at least 0, got -9"), "{told}");
        assert!(told.contains("required on sessionStart: Report suite"), "{told}");
        assert!(
            told.contains(
                r#"{"pointer":"/params/visitor.customerIDs","code":"enum","message":"not shown"#
            ),
            "{told}"
        );
        assert_eq!(kept.listed().len(), violations.listed().len());
        let unnamed = redactor.violations(&Start::parse(b"{}", Rules::default()).unwrap_err());
        assert!(unnamed.listed().iter().all(|violation| violation.message != NOT_SHOWN));
    }

    /// A value that is looked for after it was named, in one of its spellings.
    const SECRET: &str = "s3cr\u{e9}t\"\\/";

    fn spelling() -> impl Strategy<Value = String> {
        prop::collection::vec(any::<bool>(), 9).prop_map(|escaped| {
            let spell = |(character, escaped): (char, bool)| match character {
                '"' | '\\' => format!("\\{character}"),
                _ if escaped => format!("\\u{:04x}", u32::from(character)),
                _ => character.to_string(),
            };
            SECRET.chars().zip(escaped).map(spell).collect()
        })
    }

    fn blank() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["", "", "", " ", "\t ", "\n"])
    }

    /// A member of `params`, and whether it is named.
    fn member() -> impl Strategy<Value = (String, bool)> {
        let named = prop_oneof![
            Just((r#""visitor.x""#, true)),
            Just((r#""visitor\u002ey""#, true)),
            Just((r#""h\u0061sh.x""#, true)),
            Just((r#""media.show""#, false)),
            Just((r#""other""#, false)),
        ];
        (named, spelling(), 0..4_u8, blank(), blank()).prop_map(
            |((name, named), secret, form, a, b)| {
                let secret = if named { secret } else { "plain \\u00e9 \\\" }],:".to_owned() };
                let is_text = name == r#""media.show""#;
                let value = match form {
                    1 if !is_text => format!(r#"{{"{secret}":["{secret}",{{}},1.50]}}"#),
                    2 if !is_text => format!(r#"["{secret}",-0.0,[]]"#),
                    _ => format!(r#""{secret}""#),
                };
                (format!("{a}{name}{b}:{a}{value}{b}"), named)
            },
        )
    }

    /// A body of each kind with such members, and the same without those that are named.
    fn bodies() -> impl Strategy<Value = (String, String)> {
        (prop::collection::vec(member(), 0..6), blank(), any::<bool>()).prop_map(|(members, blank, start)| {
            let needed = r#""media.id":"a","media.length":1.50,"media.contentType":"","media.playerName":"""#;
            let needed = if start { needed } else { r#""a":1"# };
            let event_type = if start { "sessionStart" } else { "play" };
            let mut seen = HashSet::new();
            let mut body = |named_too: bool| {
                seen.clear();
                let params: Vec<_> = members
                    .iter()
                    .filter(|(_, named)| named_too || !named)
                    .map(|(member, _)| member.clone())
                    .filter(|member| seen.insert(member.split(':').next().unwrap().trim().to_owned()))
                    .chain([needed.to_owned()])
                    .collect();
                format!(
                    r#"{{"eventType":"{event_type}",{blank}"playerTime":{{"ts":1,"playhead":0.50}},"params":{{{}}},"x":[1e5]}}"#,
                    params.join(",")
                )
            };
            (body(true), body(false))
        })
    }

    proptest! {
        #[test]
        fn what_is_left_is_the_body_without_what_is_named((body, without) in bodies()) {
            let dropping = redactor(&["visitor.*", "hash.x"], &[]);
            let kept = accepted(&dropping, &body);
            prop_assert_eq!(&kept, &without, "byte for byte");
            prop_assert_eq!(&accepted(&dropping, &kept), &kept, "a second time nothing is left to drop");
            prop_assert_eq!(refused(&dropping, &body), Some(kept));
        }

        #[test]
        fn what_is_kept_is_accepted_again_and_tells_no_value((body, _) in bodies()) {
            let redactor = redactor(&["visitor.y"], &["visitor.*", "hash.*"]);
            let rules = Rules::ACCEPTED;
            let kept = accepted(&redactor, &body);
            let text = serde_json::from_str::<Value>(&kept).unwrap().to_string();
            prop_assert!(!text.contains(&json!(SECRET).to_string()[1..]) && !kept.contains("s3cr"), "{kept}");
            if body.contains("sessionStart") {
                let facts = |body: &str| {
                    let start = Start::parse(body.as_bytes(), rules).unwrap();
                    serde_json::to_value(Opening::of(&start, None, None)).unwrap()
                };
                prop_assert_eq!(facts(&kept), facts(&body), "these names are in no report");
                let batch = format!("[{body}, {body}]").replacen("\"sessionStart\"", "\"sessionStart\"", 1);
                let batch = match batch.rfind("sessionStart") {
                    Some(second) => format!("{}play{}", &batch[..second], &batch[second + 12..]),
                    None => batch,
                };
                let kept = accepted(&redactor, &batch);
                prop_assert!(!kept.contains("s3cr"));
                let form = StoredForm::Downloaded;
                let terms = Terms::default();
                let again = stored(kept.as_bytes(), rules, form, (None, None), terms, |_| ());
                prop_assert!(again.is_ok(), "{:?}", again);
            } else {
                let step = |body: &str| {
                    let event = Event::parse(body.as_bytes(), rules).unwrap();
                    serde_json::to_value(Step::of(&event, b"")).unwrap()
                };
                prop_assert_eq!(step(&kept), step(&body));
            }
        }

        #[test]
        fn no_bytes_are_too_odd(body in prop::collection::vec(
            prop::sample::select(&b"{}[]\",:\\ua1 p\xFF"[..]), 0..40
        )) {
            let redactor = redactor(&["a*.", "a.*"], &["p"]);
            let _ = redactor.accepted(&body);
            let _ = redactor.refused(&body, None);
        }
    }
}
