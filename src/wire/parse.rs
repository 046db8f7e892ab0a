//! Bytes → a tree of the members that may matter, and the proof that all the rest is sound JSON.
//!
//! An accepted body goes into the journal as it came, and tools that we do not know read it there.
//! So every string must be valid Unicode, every number a double, the nesting bounded, also inside
//! members that nobody knows. serde's `IgnoredAny` checks none of this, hence a visitor of our own.
//! What cannot matter is checked and dropped as it streams by, without an allocation; what may
//! matter borrows from the body, and is counted: no event makes the server hold more than
//! [`PARSE_BYTES_PER_BYTE_MAX`] bytes for each of its own.

use std::borrow::Cow;
use std::fmt;
use std::ops::ControlFlow;

use hashbrown::HashSet;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::Number;

use super::mistakes;
use super::packed::is_zlib;

/// How many arrays and objects may stand inside each other, the body itself included.
const DEPTH_MAX: u8 = 32;

/// How many bytes reading an event takes at most, for each byte of its body: its tree, the sets of names
/// and the copies of strings with escapes. [`PARSE_BYTES_BASE`] comes on top. Of a stored session one
/// event is held at a time; however large it is, its tree and sets take no more than those of an event of
/// 128 KiB, and its strings with escapes at most four times its bytes.
///
/// Most is taken by the shortest names: six bytes of the body become a member of 56 in a list that has
/// room for a quarter more, and up to 58 in a set of names. `tests/memory.rs` measures it.
pub const PARSE_BYTES_PER_BYTE_MAX: usize = 24;

/// How many bytes reading an event takes at most besides [`PARSE_BYTES_PER_BYTE_MAX`], however short it
/// is: room for the usual members, and the list of violations, which is bounded as an answer is.
pub const PARSE_BYTES_BASE: usize = 192 << 10;

/// How many bytes of the body there are at least for each member whose name is kept, over all of a valid
/// body: `"":0,` has five, but an object has one such name only, and `"a":0,` has six.
const MEMBER_BYTES_MIN: usize = 6;

/// How many bytes there are at least for each member and item inside of a parameter that is kept whole:
/// the shortest that may be there is `"id":"",`.
const INSIDE_BYTES_MIN: usize = 8;

/// How many more members and items than that a body may have, so that the few shorter ones of a valid body
/// fit, and a short body shows all its faults.
const SPARE: usize = 64;

/// The largest event of a stored session of which as much is kept as of one that comes by itself. Nobody
/// knows the length of an event inside an array before it is read. This is the default of
/// `http.event_bytes_max`.
const STORED_EVENT_BYTES_MAX: usize = 128 << 10;

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
    /// An array or object that is sound, with more inside than is kept.
    Overfull {
        type_name: &'static str,
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
            Self::Overfull { type_name } => type_name,
        }
    }
}

/// Writes the value as JSON again; a number keeps its value and kind, not its spelling.
impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null | Self::OtherList | Self::OtherObject { .. } | Self::Overfull { .. } => {
                serializer.serialize_unit()
            }
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
    #[error("the body is not UTF-8: {0}{hint}", hint = .1.unwrap_or_default())]
    Encoding(#[source] std::str::Utf8Error, Option<&'static str>),
    #[error("the body is not sound JSON: {}", explained(.0, *.1))]
    Json(#[source] serde_json::Error, Option<&'static str>),
    #[error(transparent)]
    Overfull(#[from] Overfull),
}

impl Unsound {
    fn json(text: &str, error: serde_json::Error) -> Self {
        let hint = mistakes::hint(text, &error);
        Self::Json(error, hint)
    }
}

/// What was done wrong, where the parser noticed it, and what it says itself.
fn explained(error: &serde_json::Error, hint: Option<&'static str>) -> String {
    match hint {
        Some(hint) => format!("{hint} ({error})"),
        None => error.to_string(),
    }
}

/// An event has more members than are kept of one of its length.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event has more than {0} members; no valid event of this length has so many")]
pub(super) struct Overfull(usize);

/// Reads one body.
///
/// # Errors
/// [`Unsound`] at the first fault. Members named twice in the objects that a rule looks into are
/// left for that rule, which can name every one of them.
pub(super) fn parse(body: &[u8]) -> Result<Node<'_>, Unsound> {
    parse_within(body, Budget::of(body.len()))
}

/// Reads one body that was accepted before, whatever bound there was then.
///
/// # Errors
/// See [`parse`].
pub(super) fn parse_accepted(body: &[u8]) -> Result<Node<'_>, Unsound> {
    parse_within(body, Budget::without_bound())
}

fn parse_within(body: &[u8], mut budget: Budget) -> Result<Node<'_>, Unsound> {
    let text = text_of(body)?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let root = Reader { place: Place::Root, depth: 0, budget: &mut budget };
    let unsound = |error| Unsound::json(text, error);
    let root = root.deserialize(&mut deserializer).map_err(unsound)?;
    deserializer.end().map_err(unsound)?;
    budget.check()?;
    Ok(root)
}

/// Reads a body that is an array, and hands on its items one after the other, so that only one is held at
/// a time, until it is broken off. Of a body that was accepted before, an item may have any number of members.
///
/// # Errors
/// [`Unsound`] at the first fault, after the items before it were handed on. What follows where it was
/// broken off is not looked at.
pub(super) fn each_item<'a>(
    body: &'a [u8],
    was_accepted: bool,
    take: impl FnMut(Result<Node<'a>, Overfull>) -> ControlFlow<()>,
) -> Result<(), Unsound> {
    let text = text_of(body)?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut is_broken_off = false;
    let event_bytes_max = (!was_accepted).then(|| text.len().min(STORED_EVENT_BYTES_MAX));
    let items = Items { take, event_bytes_max, is_broken_off: &mut is_broken_off };
    let read = deserializer.deserialize_seq(items);
    if is_broken_off {
        return Ok(());
    }
    read.and_then(|()| deserializer.end()).map_err(|error| Unsound::json(text, error))
}

fn text_of(body: &[u8]) -> Result<&str, Unsound> {
    if body.starts_with(b"\xEF\xBB\xBF") {
        return Err(Unsound::ByteOrderMark);
    }
    let text =
        std::str::from_utf8(body).map_err(|error| Unsound::Encoding(error, packing_of(body)))?;
    if text.trim_ascii().is_empty() {
        return Err(Unsound::Empty);
    }
    Ok(text)
}

/// Whether the first bytes say that a body is packed in a way that is not understood, or of another encoding.
fn packing_of(body: &[u8]) -> Option<&'static str> {
    match body {
        _ if is_zlib(body) => {
            Some("; it looks like deflate (zlib): pack it with gzip, or not at all")
        }
        [0x28, 0xB5, 0x2F, 0xFD, ..] => {
            Some("; it looks like zstd: pack it with gzip, or not at all")
        }
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => Some("; it looks like UTF-16: send UTF-8"),
        _ => None,
    }
}

/// Reads the items of an array, each as the body of an event.
struct Items<'b, F> {
    take: F,
    /// None if there is no bound.
    event_bytes_max: Option<usize>,
    is_broken_off: &'b mut bool,
}

impl<'de, F> Visitor<'de> for Items<'_, F>
where
    F: FnMut(Result<Node<'de>, Overfull>) -> ControlFlow<()>,
{
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        loop {
            let mut budget = self.event_bytes_max.map_or_else(Budget::without_bound, Budget::of);
            let reader = Reader { place: Place::Root, depth: 1, budget: &mut budget };
            let Some(item) = items.next_element_seed(reader)? else { return Ok(()) };
            if (self.take)(budget.check().map(|()| item)).is_break() {
                *self.is_broken_off = true;
                return Ok(());
            }
        }
    }
}

/// What may still be kept of one event.
///
/// Without it an array of `{}` would take 11 times its bytes for its items alone, and one of `{"":0}` 40
/// times. Only what no valid body holds is refused for it, or what is many times as large as an event may be.
struct Budget {
    /// Members and names of the body, its sections, and the objects beside them.
    members: Count,
    /// Members and items inside of the parameter that is kept whole and read now.
    inside: Count,
    inside_max: usize,
    /// Which of the names that the rules look into were there, by their [`Place::of_member`]. What stands
    /// there a second time is refused for that, and nothing of it is kept.
    seen: u8,
}

impl Budget {
    fn of(body_bytes: usize) -> Self {
        let inside_max = body_bytes / INSIDE_BYTES_MIN + SPARE;
        let members = Count::of(body_bytes / MEMBER_BYTES_MIN + SPARE);
        Self { members, inside: Count::of(inside_max), inside_max, seen: 0 }
    }

    fn without_bound() -> Self {
        let all = || Count::of(usize::MAX);
        Self { members: all(), inside: all(), inside_max: usize::MAX, seen: 0 }
    }

    /// The count that members and items at this place belong to.
    fn count(&mut self, place: Place) -> &mut Count {
        if matches!(place, Place::Whole) { &mut self.inside } else { &mut self.members }
    }

    fn check(&self) -> Result<(), Overfull> {
        if self.members.is_over { Err(Overfull(self.members.max)) } else { Ok(()) }
    }
}

/// A count with a bound.
struct Count {
    left: usize,
    max: usize,
    is_over: bool,
}

impl Count {
    fn of(max: usize) -> Self {
        Self { left: max, max, is_over: false }
    }

    /// Counts one more; false if it is beyond the bound, as all are from then on.
    fn take(&mut self) -> bool {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => self.is_over = true,
        }
        !self.is_over
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
    /// The place of the member `name` of an object that stands here, and a bit that tells it from others
    /// whose inside is kept.
    fn of_member(self, name: &str) -> (Self, u8) {
        match self {
            Self::Root => match name {
                "params" => (Self::Params, 1 << 0),
                "playerTime" => (Self::Section, 1 << 1),
                "qoeData" => (Self::Section, 1 << 2),
                "customMetadata" => (Self::Section, 1 << 3),
                _ => (Self::Unlisted, 0),
            },
            Self::Params => match name {
                "visitor.customerIDs" => (Self::Whole, 1 << 4),
                "statesStart" => (Self::Whole, 1 << 5),
                "statesEnd" => (Self::Whole, 1 << 6),
                _ => (Self::Other, 0),
            },
            Self::Whole => (Self::Whole, 0),
            Self::Section | Self::Unlisted | Self::Other => (Self::Other, 0),
        }
    }

    /// How many members of an object, or items of an array, there is room for once it has one: as many as
    /// in the usual body where there is one such place, else no more than there are.
    fn usual_length(self) -> usize {
        match self {
            Self::Root => 5,
            Self::Params => 24,
            Self::Section => 4,
            _ => 1,
        }
    }
}

/// Reads the value at one place, `depth` containers deep.
struct Reader<'b> {
    place: Place,
    depth: u8,
    budget: &'b mut Budget,
}

impl Reader<'_> {
    fn deeper<E: Error>(&self) -> Result<u8, E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(self.depth + 1)
    }

    /// A reader of something inside, `depth` containers deep.
    fn at(&mut self, place: Place, depth: u8) -> Reader<'_> {
        Reader { place, depth, budget: self.budget }
    }

    /// Reads the value of a member that is kept.
    fn member<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        depth: u8,
        members: &mut A,
    ) -> Result<Node<'de>, A::Error> {
        let (place, bit) = self.place.of_member(name);
        if self.budget.seen & bit != 0 {
            return members.next_value_seed(self.at(Place::Other, depth));
        }
        self.budget.seen |= bit;
        let is_outermost = matches!((self.place, place), (Place::Params, Place::Whole));
        if is_outermost {
            self.budget.inside = Count::of(self.budget.inside_max);
        }
        let node = members.next_value_seed(self.at(place, depth))?;
        if is_outermost && self.budget.inside.is_over {
            return Ok(Node::Overfull { type_name: node.type_name() });
        }
        Ok(node)
    }
}

/// Adds an item. A list grows by a quarter of its length, not by the whole: room that is not used is
/// memory that the body did not pay for.
fn push<T>(list: &mut Vec<T>, item: T, usual_length: usize) {
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() / 4).max(usual_length));
    }
    list.push(item);
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Node<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
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

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Node<'de>, A::Error> {
        let depth = self.deeper()?;
        if !matches!(self.place, Place::Whole) {
            while items.next_element_seed(self.at(Place::Other, depth))?.is_some() {}
            return Ok(Node::OtherList);
        }
        let mut list = Vec::new();
        loop {
            let is_over = self.budget.inside.is_over;
            let place = if is_over { Place::Other } else { Place::Whole };
            let Some(item) = items.next_element_seed(self.at(place, depth))? else { break };
            if self.budget.inside.take() {
                push(&mut list, item, Place::Whole.usual_length());
            } else {
                list = Vec::new();
            }
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Node<'de>, A::Error> {
        let (depth, place) = (self.deeper()?, self.place);
        match place {
            Place::Root | Place::Section | Place::Params | Place::Whole => {
                let mut kept = Vec::new();
                while let Some(Name(name)) = members.next_key()? {
                    if !self.budget.count(place).take() {
                        kept = Vec::new();
                        members.next_value_seed(self.at(Place::Other, depth))?;
                        continue;
                    }
                    let node = self.member(&name, depth, &mut members)?;
                    push(&mut kept, (name, node), place.usual_length());
                }
                Ok(Node::Object(kept))
            }
            Place::Unlisted => {
                let (mut names, mut repeated) = (HashSet::new(), None);
                while let Some(Name(name)) = members.next_key()? {
                    if !self.budget.members.take() {
                        names = HashSet::new();
                    } else if let Some(earlier) = names.replace(name) {
                        repeated.get_or_insert(earlier);
                    }
                    members.next_value_seed(self.at(Place::Other, depth))?;
                }
                Ok(Node::OtherObject { repeated })
            }
            Place::Other => {
                while members.next_key::<Name<'_>>()?.is_some() {
                    members.next_value_seed(self.at(Place::Other, depth))?;
                }
                Ok(Node::OtherObject { repeated: None })
            }
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
