//! What is wrong with a body: every fault with its place, so that one look mends the player.

use std::borrow::Cow;

use serde::{Serialize, Serializer};

/// How many violations are listed; the rest is counted. A hostile body of 128 KiB could hold twenty
/// thousand, and its answer would be many times its own size.
const LISTED_MAX: usize = 1_000;

/// How many bytes pointers and messages have together before no more violations are listed: names are
/// as long as the body allows, and each pointer below one repeats it.
const LISTED_BYTES_MAX: usize = 256 << 10;

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

/// The faults of a body in document order; missing members come after those that are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    listed: Vec<Violation>,
    listed_bytes: usize,
    omitted: usize,
}

impl Violations {
    /// A body that cannot be read at all.
    pub fn unreadable(message: String) -> Self {
        let mut violations = Self::default();
        violations.add(&Pointer::Root, Code::Json, message);
        violations
    }

    /// The violations that are kept: the first thousand, or fewer if they are long.
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

    /// The same violations, each listed one as it is made here.
    #[must_use]
    pub fn mapped(&self, make: impl FnMut(&Violation) -> Violation) -> Self {
        let listed: Vec<_> = self.listed.iter().map(make).collect();
        let bytes = |violation: &Violation| violation.pointer.len() + violation.message.len();
        Self { listed_bytes: listed.iter().map(bytes).sum(), listed, omitted: self.omitted }
    }

    /// How many violations there are, listed or not.
    pub(super) fn count(&self) -> usize {
        self.listed.len() + self.omitted
    }

    pub(super) fn add(
        &mut self,
        pointer: &Pointer<'_>,
        code: Code,
        message: impl Into<Cow<'static, str>>,
    ) {
        if self.listed.len() == LISTED_MAX || self.listed_bytes >= LISTED_BYTES_MAX {
            self.omitted += 1;
            return;
        }
        let violation = Violation { pointer: pointer.to_string(), code, message: message.into() };
        self.listed_bytes += violation.pointer.len() + violation.message.len();
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

impl std::fmt::Display for Pointer<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Member(parent, name) => {
                write!(formatter, "{parent}/{}", name.replace('~', "~0").replace('/', "~1"))
            }
            Self::Item(parent, index) => write!(formatter, "{parent}/{index}"),
        }
    }
}

/// `text` in quotes, cut where it grows long.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
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

    #[test]
    fn the_list_is_bounded_and_the_rest_counted() {
        let mut violations = Violations::default();
        for _ in 0..LISTED_MAX + 7 {
            violations.add(&Pointer::Root, Code::Type, "wrong");
        }
        assert_eq!((violations.listed().len(), violations.omitted()), (LISTED_MAX, 7));
    }

    #[test]
    fn the_list_is_bounded_by_its_bytes_too() {
        let long = "a".repeat(100_000);
        let mut violations = Violations::default();
        for _ in 0..500 {
            violations.add(&Pointer::Root.member(&long), Code::Type, "wrong");
        }
        assert_eq!((violations.listed().len(), violations.omitted()), (3, 497));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(quoted("é\n"), "\"é\\n\"");
        assert_eq!(quoted(&"é".repeat(65)), format!("\"{}\"…", "é".repeat(64)));
    }
}
