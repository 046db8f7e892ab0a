//! What is wrong with a body: every fault with its place, so that one look mends the player.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};

/// How long an answer that tells an error may be, in bytes. A hostile body of 128 KiB could hold twenty
/// thousand violations, and one of a stored session millions: the answer would be many times as long.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;

/// How much of an answer is for all but the violations: the message, and how many are not listed.
const AROUND_BYTES_MAX: usize = 8 << 10;

/// How many bytes the listed violations have together, as JSON.
const LISTED_BYTES_MAX: usize = ANSWER_BYTES_MAX - AROUND_BYTES_MAX;

/// How long a name in a pointer, or a message, may be before it is cut, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 256;

/// How many characters of a value or name from the body a message repeats.
const SHOWN_CHARS_MAX: usize = 64;

/// The kind of a violation, named after the keyword of JSON Schema that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Code {
    /// The body is not sound JSON, or names a member twice.
    Json,
    /// A value of another type than documented.
    Type,
    /// A required member is missing.
    Required,
    /// Not one of the documented values.
    Enum,
    /// Not the one value allowed here.
    Const,
    /// Too small.
    Minimum,
    /// Too large.
    Maximum,
    /// Too short.
    MinLength,
    /// A string of another form than documented.
    Pattern,
    /// A name that is not listed, where only listed names are allowed.
    AdditionalProperties,
    /// A key of another form than documented.
    PropertyNames,
    /// None of several members is there, of which one must be.
    AnyOf,
    /// A list with fewer items than it must have.
    MinItems,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 13] = [
        Self::Json,
        Self::Type,
        Self::Required,
        Self::Enum,
        Self::Const,
        Self::Minimum,
        Self::Maximum,
        Self::MinLength,
        Self::Pattern,
        Self::AdditionalProperties,
        Self::PropertyNames,
        Self::AnyOf,
        Self::MinItems,
    ];

    /// The code as answers show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Type => "type",
            Self::Required => "required",
            Self::Enum => "enum",
            Self::Const => "const",
            Self::Minimum => "minimum",
            Self::Maximum => "maximum",
            Self::MinLength => "minLength",
            Self::Pattern => "pattern",
            Self::AdditionalProperties => "additionalProperties",
            Self::PropertyNames => "propertyNames",
            Self::AnyOf => "anyOf",
            Self::MinItems => "minItems",
        }
    }
}

/// One fault of a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// RFC 6901 JSON pointer to the member, or to where a missing one would be.
    pub pointer: String,
    /// What rule it breaks.
    pub code: Code,
    /// What was expected and what was found.
    pub message: Cow<'static, str>,
}

impl Violation {
    /// How many bytes it has in a list, as JSON.
    fn json_bytes(&self) -> usize {
        const AROUND: usize = r#"{"pointer":"","code":"","message":""},"#.len();
        AROUND + json_bytes(&self.pointer) + self.code.name().len() + json_bytes(&self.message)
    }
}

/// The faults of a body in document order; missing members come after those that are there. As many are
/// listed as fit in an answer, the rest is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    listed: Vec<Violation>,
    listed_bytes: usize,
    omitted: usize,
}

impl Violations {
    /// A body that cannot be read at all.
    #[expect(clippy::needless_pass_by_value, reason = "it is made for this")]
    pub fn unreadable(message: String) -> Self {
        let mut violations = Self::default();
        violations.add(&Pointer::Root, Code::Json, format_args!("{message}"));
        violations
    }

    /// The violations that are kept: the first that fit in an answer of [`ANSWER_BYTES_MAX`].
    pub fn listed(&self) -> &[Violation] {
        &self.listed
    }

    /// How many more there are than are listed.
    pub fn omitted(&self) -> usize {
        self.omitted
    }

    /// Whether the body could not be read at all.
    pub fn is_unreadable(&self) -> bool {
        let first = self.listed.first();
        first.is_some_and(|first| first.pointer.is_empty() && first.code == Code::Json)
    }

    /// The same violations, each listed one as it is made here; those that grow may leave no room for the last.
    #[must_use]
    pub fn mapped(&self, make: impl FnMut(&Violation) -> Violation) -> Self {
        let mut mapped = Self::default();
        self.listed.iter().map(make).for_each(|violation| mapped.list(violation));
        mapped.omitted += self.omitted;
        mapped
    }

    /// How many violations there are, listed or not.
    pub(super) fn count(&self) -> usize {
        self.listed.len() + self.omitted
    }

    /// Whether what is added now is only counted.
    pub(super) fn is_full(&self) -> bool {
        self.omitted > 0
    }

    /// Adds a violation. Its texts are only made if it may be listed.
    pub(super) fn add(&mut self, pointer: &Pointer<'_>, code: Code, message: fmt::Arguments<'_>) {
        if self.is_full() {
            self.omitted += 1;
            return;
        }
        let message = match message.as_str() {
            Some(text) if text.len() <= TEXT_BYTES_MAX => Cow::Borrowed(text),
            _ => Cow::Owned(shortened(message, TEXT_BYTES_MAX)),
        };
        self.list(Violation { pointer: pointer.to_string(), code, message });
    }

    /// Lists a violation if it fits, and none after the first that does not.
    fn list(&mut self, violation: Violation) {
        let bytes = violation.json_bytes();
        if self.is_full() || self.listed_bytes + bytes > LISTED_BYTES_MAX {
            self.omitted += 1;
            return;
        }
        self.listed_bytes += bytes;
        self.listed.push(violation);
    }
}

impl Serialize for Violations {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.listed.serialize(serializer)
    }
}

/// A place in the body; written out only when something is wrong there.
#[derive(Clone, Copy)]
pub(super) enum Pointer<'a> {
    Root,
    Member(&'a Pointer<'a>, &'a str),
    Item(&'a Pointer<'a>, usize),
}

impl<'a> Pointer<'a> {
    pub(super) fn member(&'a self, name: &'a str) -> Self {
        Self::Member(self, name)
    }

    pub(super) fn item(&'a self, index: usize) -> Self {
        Self::Item(self, index)
    }
}

/// Long names are cut: such a pointer leads a person, not a program.
impl fmt::Display for Pointer<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Member(parent, name) => {
                let name = cut(name, TEXT_BYTES_MAX);
                write!(formatter, "{parent}/{}", name.replace('~', "~0").replace('/', "~1"))
            }
            Self::Item(parent, index) => write!(formatter, "{parent}/{index}"),
        }
    }
}

/// A text in quotes, cut where it grows long.
pub(crate) struct Quoted<'t>(pub(crate) &'t str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(SHOWN_CHARS_MAX) {
            Some((end, _)) => write!(formatter, "{:?}…", &self.0[..end]),
            None => write!(formatter, "{:?}", self.0),
        }
    }
}

/// `text` in quotes, cut where it grows long.
pub(crate) fn quoted(text: &str) -> String {
    Quoted(text).to_string()
}

/// `text`, or its beginning and its length, so that it has no more than `bytes_max` bytes.
pub(crate) fn cut(text: &str, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(shortened(format_args!("{text}"), bytes_max))
    }
}

/// `text` as far as `bytes_max` bytes go. What is longer ends with an ellipsis and its length, and never
/// takes more memory than the bound.
fn shortened(text: fmt::Arguments<'_>, bytes_max: usize) -> String {
    /// Keeps the beginning of what is written.
    struct Beginning {
        kept: String,
        bytes_max: usize,
        /// How many bytes were written.
        bytes: usize,
    }

    impl fmt::Write for Beginning {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            if self.kept.len() == self.bytes {
                let room = self.bytes_max - self.kept.len();
                self.kept.push_str(&part[..part.floor_char_boundary(room)]);
            }
            self.bytes += part.len();
            Ok(())
        }
    }

    let mut beginning = Beginning { kept: String::new(), bytes_max, bytes: 0 };
    fmt::write(&mut beginning, text).expect("a string takes all that is written");
    let Beginning { mut kept, bytes, .. } = beginning;
    if bytes > kept.len() {
        let end = format!("… ({bytes} bytes)");
        let room = bytes_max.saturating_sub(end.len());
        kept.truncate(kept.floor_char_boundary(room));
        kept.push_str(&end);
    }
    kept
}

/// How many bytes `text` has inside a string of JSON.
fn json_bytes(text: &str) -> usize {
    let bytes = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0C => 2,
        0..0x20 => 6,
        _ => 1,
    });
    bytes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_codes_are_listed() {
        for (place, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, place);
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
            // A new code does not compile until it stands here; then it belongs into the list too.
            match code {
                Code::Json
                | Code::Type
                | Code::Required
                | Code::Enum
                | Code::Const
                | Code::Minimum
                | Code::Maximum
                | Code::MinLength
                | Code::Pattern
                | Code::AdditionalProperties
                | Code::PropertyNames
                | Code::AnyOf
                | Code::MinItems => {}
            }
        }
    }

    #[test]
    fn pointers_escape_what_rfc_6901_says() {
        let root = Pointer::Root;
        let params = root.member("params");
        assert_eq!(root.to_string(), "");
        assert_eq!(params.member("a/b~c").to_string(), "/params/a~1b~0c");
        assert_eq!(params.item(3).member("").to_string(), "/params/3/");
    }

    fn json(violations: &Violations) -> String {
        serde_json::to_string(violations).unwrap()
    }

    #[test]
    fn the_list_fits_in_an_answer_and_the_rest_is_counted() {
        let mut violations = Violations::default();
        for number in 0..5_000 {
            violations.add(&Pointer::Root.item(number), Code::Type, format_args!("wrong"));
        }
        assert_eq!(violations.count(), 5_000);
        assert!((LISTED_BYTES_MAX - 100..=LISTED_BYTES_MAX).contains(&json(&violations).len()));
        // What is short does not go before what did not fit.
        assert!(violations.is_full());
        violations.add(&Pointer::Root, Code::Type, format_args!(""));
        assert_ne!(violations.listed().last().unwrap().pointer, "");
    }

    #[test]
    fn what_is_counted_is_what_json_has() {
        let all: String = ('\0'..'\u{180}').chain(['…', '\u{2028}', '\u{1F600}']).collect();
        assert_eq!(json_bytes(&all) + 2, serde_json::to_string(&all).unwrap().len());
        let mut violations = Violations::default();
        violations.add(&Pointer::Root.member("a\"\u{1}"), Code::Json, format_args!("\\{}", 1));
        // The brackets of the list, less the comma after its last item.
        assert_eq!(violations.listed_bytes + 1, json(&violations).len());
    }

    #[test]
    fn names_and_messages_are_cut_with_their_length() {
        for text in ["\u{1}", "\"", "~", "/", "a", "é", "\u{1F600}"] {
            let long = text.repeat(100_000);
            let mut violations = Violations::default();
            for _ in 0..500 {
                let place = Pointer::Root.member(&long);
                violations.add(&place.member(&long), Code::Type, format_args!("{long}"));
            }
            assert_eq!(violations.count(), 500);
            assert!(violations.listed().len() >= 12, "{text}");
            assert!(json(&violations).len() <= LISTED_BYTES_MAX);
            let Violation { pointer, message, .. } = &violations.listed()[0];
            let end = format!("… ({} bytes)", long.len());
            assert!(message.starts_with(text) && message.ends_with(&end), "{message}");
            assert!(message.len() <= TEXT_BYTES_MAX && message.len() > TEXT_BYTES_MAX - 4);
            assert!(pointer.ends_with(&end) && pointer.len() <= 4 * TEXT_BYTES_MAX + 2);
        }
        let fits = "a".repeat(TEXT_BYTES_MAX);
        assert_eq!(Pointer::Root.member(&fits).to_string(), format!("/{fits}"));
    }

    #[test]
    fn what_is_mapped_is_bounded_too() {
        let mut violations = Violations::default();
        for number in 0..2_000 {
            violations.add(&Pointer::Root.item(number), Code::Type, format_args!("wrong"));
        }
        let longer = violations.mapped(|violation| Violation {
            message: Cow::Borrowed("a message that is longer"),
            ..violation.clone()
        });
        assert_eq!(longer.count(), 2_000);
        assert!(longer.listed().len() < violations.listed().len());
        assert!(json(&longer).len() <= LISTED_BYTES_MAX);
        assert_eq!(violations.mapped(Violation::clone), violations);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(quoted("é\n"), "\"é\\n\"");
        assert_eq!(quoted(&"é".repeat(65)), format!("\"{}\"…", "é".repeat(64)));
    }
}
