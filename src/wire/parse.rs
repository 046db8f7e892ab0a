//! Bytes → a tree of the members that may matter, and the proof that all the rest is sound JSON.
//!
//! An accepted body goes into the journal as it came, and tools that we do not know read it there.
//! So every string must be valid Unicode, every number a double, the nesting bounded, also inside
//! members that nobody knows. serde's `IgnoredAny` checks none of this, hence a visitor of our own.
//! What cannot matter is checked and dropped as it streams by, without an allocation; what may
//! matter borrows from the body.

use std::borrow::Cow;
use std::fmt;

use hashbrown::HashSet;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::Number;

/// How many arrays and objects may stand inside each other, the body itself included.
const DEPTH_MAX: u8 = 32;

/// A member of the body; strings without an escape borrow from it.
#[derive(Debug)]
pub(super) enum Node<'a> {
    Null,
    Flag(bool),
    Number(Number),
    Text(Cow<'a, str>),
    List(Vec<Node<'a>>),
    Object(Vec<Member<'a>>),
    /// An array that is sound and that no rule looks into.
    OtherList,
    /// An object that is sound and that no rule looks into.
    OtherObject {
        /// A member that it names twice, where that matters.
        repeated: Option<Cow<'a, str>>,
    },
}

/// A name and its value, in the order of the body.
pub(super) type Member<'a> = (Cow<'a, str>, Node<'a>);

impl Node<'_> {
    /// The JSON type, as error messages name it.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Flag(_) => "boolean",
            Self::Number(_) => "number",
            Self::Text(_) => "string",
            Self::List(_) | Self::OtherList => "array",
            Self::Object(_) | Self::OtherObject { .. } => "object",
        }
    }
}

/// Writes the value as JSON again; a number keeps its value and kind, not its spelling.
impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null | Self::OtherList | Self::OtherObject { .. } => serializer.serialize_unit(),
            Self::Flag(flag) => flag.serialize(serializer),
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) => text.serialize(serializer),
            Self::List(list) => list.serialize(serializer),
            Self::Object(members) => {
                serializer.collect_map(members.iter().map(|(name, node)| (name, node)))
            }
        }
    }
}

/// Why a body is not sound JSON, with the place where the parser can tell it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsound {
    #[error("the body is empty")]
    Empty,
    #[error("the body begins with a byte order mark; send UTF-8 without one")]
    ByteOrderMark,
    #[error("the body is not UTF-8: {0}")]
    Encoding(#[from] std::str::Utf8Error),
    #[error("the body is not sound JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Reads one body.
///
/// # Errors
/// [`Unsound`] at the first fault. Members named twice in the objects that a rule looks into are
/// left for that rule, which can name every one of them.
pub(super) fn parse(body: &[u8]) -> Result<Node<'_>, Unsound> {
    let mut deserializer = serde_json::Deserializer::from_str(text_of(body)?);
    let root = Reader { place: Place::Root, depth: 0 }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(root)
}

/// Reads a body that is an array, and hands on its items one after the other, so that only one is held at
/// a time.
///
/// # Errors
/// [`Unsound`] at the first fault, after the items before it were handed on.
pub(super) fn each_item<'a>(body: &'a [u8], take: impl FnMut(Node<'a>)) -> Result<(), Unsound> {
    let mut deserializer = serde_json::Deserializer::from_str(text_of(body)?);
    deserializer.deserialize_seq(Items(take))?;
    Ok(deserializer.end()?)
}

fn text_of(body: &[u8]) -> Result<&str, Unsound> {
    if body.starts_with(b"\xEF\xBB\xBF") {
        return Err(Unsound::ByteOrderMark);
    }
    let text = std::str::from_utf8(body)?;
    if text.trim_ascii().is_empty() {
        return Err(Unsound::Empty);
    }
    Ok(text)
}

/// Reads the items of an array, each as the body of an event.
struct Items<F>(F);

impl<'de, F: FnMut(Node<'de>)> Visitor<'de> for Items<F> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element_seed(Reader { place: Place::Root, depth: 1 })? {
            (self.0)(item);
        }
        Ok(())
    }
}

/// Where in the body a value stands, which decides what of it is kept.
#[derive(Clone, Copy)]
enum Place {
    /// The body: its members are kept.
    Root,
    /// One of the four documented objects: its members are kept.
    Section,
    /// `params`: as [`Place::Section`], and some of its members have an inside that matters.
    Params,
    /// Another member of the body: only that it names no member twice.
    Unlisted,
    /// Anything below that has an inside that matters: kept whole.
    Whole,
    /// Anything else: only that it is sound.
    Other,
}

impl Place {
    /// The place of the member `name` of an object that stands here.
    fn of_member(self, name: &str) -> Self {
        match self {
            Self::Root => match name {
                "params" => Self::Params,
                "playerTime" | "qoeData" | "customMetadata" => Self::Section,
                _ => Self::Unlisted,
            },
            Self::Params => match name {
                "visitor.customerIDs" | "statesStart" | "statesEnd" => Self::Whole,
                _ => Self::Other,
            },
            Self::Whole => Self::Whole,
            Self::Section | Self::Unlisted | Self::Other => Self::Other,
        }
    }
}

/// Reads the value at one place, `depth` containers deep.
struct Reader {
    place: Place,
    depth: u8,
}

impl Reader {
    fn deeper<E: Error>(&self) -> Result<u8, E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(self.depth + 1)
    }
}

impl<'de> DeserializeSeed<'de> for Reader {
    type Value = Node<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader {
    type Value = Node<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node<'de>, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Node<'de>, E> {
        Ok(Node::Flag(flag))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Node<'de>, E> {
        Ok(Node::Number(number.into()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Node<'de>, E> {
        Ok(Node::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Node<'de>, E> {
        Number::from_f64(number).map(Node::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Node<'de>, E> {
        Ok(Node::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Node<'de>, E> {
        Ok(Node::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node<'de>, A::Error> {
        let depth = self.deeper()?;
        if !matches!(self.place, Place::Whole) {
            while items.next_element_seed(Reader { place: Place::Other, depth })?.is_some() {}
            return Ok(Node::OtherList);
        }
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Reader { place: self.place, depth })? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Node<'de>, A::Error> {
        let depth = self.deeper()?;
        match self.place {
            Place::Root | Place::Section | Place::Params | Place::Whole => {
                let mut kept = Vec::with_capacity(self.members_expected());
                while let Some(Name(name)) = members.next_key()? {
                    let place = self.place.of_member(&name);
                    kept.push((name, members.next_value_seed(Reader { place, depth })?));
                }
                Ok(Node::Object(kept))
            }
            Place::Unlisted => {
                let (mut names, mut repeated) = (HashSet::new(), None);
                while let Some(Name(name)) = members.next_key()? {
                    if !names.insert(name.clone()) {
                        repeated.get_or_insert(name);
                    }
                    members.next_value_seed(Reader { place: Place::Other, depth })?;
                }
                Ok(Node::OtherObject { repeated })
            }
            Place::Other => {
                while members.next_key::<Name<'_>>()?.is_some() {
                    members.next_value_seed(Reader { place: Place::Other, depth })?;
                }
                Ok(Node::OtherObject { repeated: None })
            }
        }
    }
}

impl Reader {
    /// Room for the members of the usual body, so that a list need not grow.
    fn members_expected(&self) -> usize {
        match self.place {
            Place::Root => 5,
            Place::Params => 24,
            _ => 4,
        }
    }
}

/// The name of a member, borrowed unless it holds an escape. (serde's own `Cow` always copies.)
struct Name<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a name")
            }

            fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(NameVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &[u8]) -> String {
        parse(body).unwrap_err().to_string()
    }

    #[test]
    fn hostile_bytes_are_refused_wherever_they_stand() {
        for value in [
            "1e999",
            "-1e999",
            r#""\ud800""#,
            r#""\udc00""#,
            r#""\ud800\u0041""#,
            r#"{"\ud800":1}"#,
            r#"[{"deep":[1e999]}]"#,
            "\"\u{0}\"",
            "\"\n\"",
            "01",
            "1.",
            "NaN",
            "'a'",
            "[1,]",
            "{\"a\":1,}",
            "nul",
        ] {
            for body in [
                value.to_owned(),
                format!(r#"{{"unknown":{value}}}"#),
                format!(r#"{{"unknown":{{"deeper":[{value}]}}}}"#),
                format!(r#"{{"params":{{"media.id":{value}}}}}"#),
                format!(r#"{{"params":{{"visitor.customerIDs":{{"a":{value}}}}}}}"#),
                format!(r#"{{"customMetadata":{{"a":[{value}]}}}}"#),
            ] {
                assert!(parse(body.as_bytes()).is_err(), "{body}");
            }
        }
        assert!(refused(b"\xEF\xBB\xBF{}").contains("byte order mark"));
        assert!(refused(b"{\"unknown\":\"\xFF\"}").contains("not UTF-8"));
        assert!(refused(b"{\"unknown\":\"\xED\xA0\x80\"}").contains("not UTF-8"));
        assert!(refused(b" ").contains("empty"));
        assert!(refused(b"{} {}").contains("trailing characters"));
        assert!(refused(b"{\"a\":1").contains("line 1 column 6"));
    }

    #[test]
    fn nesting_is_bounded_everywhere() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let inside = |levels| format!(r#"{{"unknown":{}}}"#, nested(levels));
        assert!(parse(inside(31).as_bytes()).is_ok());
        assert!(refused(inside(32).as_bytes()).contains("nested deeper than 32 levels"));
        assert!(refused(nested(1 << 19).as_bytes()).contains("nested deeper than 32 levels"));
        assert!(parse("[".repeat(1 << 20).as_bytes()).is_err());
    }

    #[test]
    fn only_a_string_with_an_escape_is_copied() {
        let body = br#"{"eventType":"play","par\u0061ms":{"media.id":"a\/b","media.name":"c"}}"#;
        let Node::Object(members) = parse(body).unwrap() else { panic!("an object") };
        assert!(matches!(
            &members[0],
            (Cow::Borrowed("eventType"), Node::Text(Cow::Borrowed("play")))
        ));
        let (Cow::Owned(name), Node::Object(params)) = &members[1] else { panic!("copied") };
        assert_eq!(name, "params");
        assert!(matches!(&params[0].1, Node::Text(Cow::Owned(text)) if text == "a/b"));
        assert!(matches!(&params[1].1, Node::Text(Cow::Borrowed("c"))));
    }
}
