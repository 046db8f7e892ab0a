//! The bytes of a value found in a text, whatever JSON has made of them.

use std::borrow::Cow;

use aho_corasick::{AhoCorasick, MatchKind};
use memchr::memmem::Finder;
use memchr::{memchr, memchr2};

use super::selection::Selection;

/// How often a value may have been made a JSON text within a JSON text and still be found.
const ESCAPED_AT_MOST: usize = 3;

/// How often it may have been encoded for a path or a form, and still be found.
const ENCODED_AT_MOST: usize = 2;

/// How much of a value tells whose it is, if half of it is more, in bytes.
const PART_BYTES: usize = 16;

/// Finds the bytes of values.
#[derive(Debug)]
pub(super) struct Seeker {
    /// Tells of most texts in one go, however many values are looked for, that none stands in them; nothing if they
    /// are too many for that.
    any: Option<AhoCorasick>,
    each: Vec<Finder<'static>>,
}

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
        // Of this kind it is quickest where nothing is found.
        let any = AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(&needles);
        let each = needles.iter().map(|needle| Finder::new(needle).into_owned()).collect();
        Self { any: any.ok(), each }
    }

    /// Whether a value stands in a text, as it is or with the escapes of JSON, whatever they are.
    pub(super) fn finds(&self, text: &[u8]) -> bool {
        self.finds_if(text, |_, _| true)
    }

    /// The same, but a part of a longer word or number is not the value.
    pub(super) fn finds_apart(&self, text: &[u8]) -> bool {
        self.finds_if(text, is_apart)
    }

    /// The same of a text that anybody wrote, so it may also be spelled as in a path or a form.
    pub(super) fn finds_apart_in_any_spelling(&self, text: &[u8]) -> bool {
        if self.each.is_empty() {
            return false;
        }
        if self.finds_apart(text) {
            return true;
        }
        let mut text = Cow::Borrowed(text);
        for _ in 0..ENCODED_AT_MOST {
            if memchr2(b'%', b'+', &text).is_none() {
                return false;
            }
            let (path, form) = (percent_decoded(&text, b'+'), percent_decoded(&text, b' '));
            if self.finds_apart(&path) || (path != form && self.finds_apart(&form)) {
                return true;
            }
            text = Cow::Owned(path);
        }
        false
    }

    /// Whether a text that was cut ends with the beginning of a value, so long that it tells whose it is.
    pub(super) fn ends_with_a_part(&self, text: &[u8]) -> bool {
        let path = percent_decoded(text, b'+');
        [text, &unescaped(text), &path].into_iter().any(|text| {
            self.each.iter().any(|needle| {
                let needle = needle.needle();
                let least = needle.len().div_ceil(2).min(PART_BYTES);
                let parts = (least..needle.len().min(text.len() + 1)).rev();
                parts
                    .map(|bytes| (text.len() - bytes, &needle[..bytes]))
                    .any(|(at, part)| text.ends_with(part) && !ends_in_word(&text[..at]))
            })
        })
    }

    /// Whether a value stands in a text with such things before and after it.
    fn finds_if(&self, text: &[u8], is_it: fn(&[u8], &[u8]) -> bool) -> bool {
        if self.each.is_empty() {
            return false;
        }
        let stands_in = |text: &[u8]| {
            self.any.as_ref().is_none_or(|any| any.is_match(text))
                && self.each.iter().any(|needle| {
                    let end = |at| at + needle.needle().len();
                    places(needle, text).any(|at| is_it(&text[..at], &text[end(at)..]))
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

/// All places at which a needle stands in a text, also those that overlap.
fn places<'t>(needle: &'t Finder<'_>, text: &'t [u8]) -> impl Iterator<Item = usize> + 't {
    let mut from = 0;
    std::iter::from_fn(move || {
        let at = from + needle.find(text.get(from..)?)?;
        from = at + 1;
        Some(at)
    })
}

/// Whether what stands before and after makes no longer word or number.
fn is_apart(before: &[u8], after: &[u8]) -> bool {
    !ends_in_word(before) && !first_char(after).is_some_and(char::is_alphanumeric)
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

/// A text with `%41` undone, and with this for each plus sign: a blank in a form, itself in a path.
fn percent_decoded(text: &[u8], plus: u8) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let encoded = match (byte, after) {
            (b'%', [high, low, ..]) => digit(*high).zip(digit(*low)),
            _ => None,
        };
        plain.push(match (byte, encoded) {
            (_, Some((high, low))) => {
                rest = &after[2..];
                high << 4 | low
            }
            (b'+', _) => plus,
            _ => *byte,
        });
    }
    plain
}

/// A text with the escapes of JSON undone, wherever they stand, and those of Rust, as messages quote names.
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
            Some(b'0') => Some(0),
            Some(byte @ (b'"' | b'\\' | b'/' | b'\'')) => Some(*byte),
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

/// The character of `uXXXX`, or of two of them that belong together, or of `u{X}`, and how long that is.
fn unicode_escape(text: &[u8]) -> Option<(char, usize)> {
    if let Some(braced) = text.strip_prefix(b"u{") {
        let digits = &braced[..braced.iter().take(7).position(|byte| *byte == b'}')?];
        let number = u32::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
        return Some((char::from_u32(number)?, digits.len() + 3));
    }
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
    use crate::journal::erase::Visitor;

    #[test]
    fn a_text_is_found_where_it_overlaps_itself() {
        let seeker = Seeker::of(&visitor("=="));
        assert!(seeker.finds_apart_in_any_spelling(b"a=1&user=%3d%3d"));
        assert!(!seeker.finds_apart_in_any_spelling(b"a==b"), "a part of something else");
    }

    proptest! {
        #[test]
        fn a_text_is_found_however_often_it_was_made_json(text in ".{1,12}", depth in 0..4_usize) {
            let mut json = text.clone();
            for _ in 0..depth {
                json = serde_json::to_string(&json).unwrap();
            }
            prop_assert!(Seeker::of(&visitor(&text)).finds(json.as_bytes()));
        }

        #[test]
        fn a_text_is_found_as_a_path_a_form_and_a_message_spell_it(
            text in "\\PC{1,12}", depth in 0..3_usize, is_upper: bool, is_all: bool,
        ) {
            let encode = |text: &str| text.bytes().fold(String::new(), |encoded, byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' if !is_all => encoded + char::from(byte).to_string().as_str(),
                _ if is_upper => encoded + &format!("%{byte:02X}"),
                _ => encoded + &format!("%{byte:02x}"),
            });
            let encoded = (0..depth).fold(text.clone(), |text, _| encode(&text));
            let seeker = Seeker::of(&visitor(&text));
            let path = format!("/api/v1/sessions/{encoded}/events");
            prop_assert!(seeker.finds_apart_in_any_spelling(path.as_bytes()), "{}", path);
            let form = format!("a=1&user={}", encode(&text).replace("%20", "+"));
            prop_assert!(seeker.finds_apart_in_any_spelling(form.as_bytes()), "{}", form);
            let message = format!("analytics.reportSuite {text:?} is not on the list");
            prop_assert!(seeker.finds_apart_in_any_spelling(message.as_bytes()), "{}", message);
        }

        #[test]
        fn every_escape_of_every_character_is_undone(text in ".{1,12}") {
            let escaped = text.encode_utf16().fold(String::new(), |text, unit| format!("{text}\\u{unit:04x}"));
            prop_assert_eq!(unescaped(escaped.as_bytes()), text.as_bytes());
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let seeker = Seeker::of(&visitor("b"));
            seeker.finds(&bytes);
            seeker.finds_apart_in_any_spelling(&bytes);
            seeker.ends_with_a_part(&bytes);
            unescaped(&bytes);
        }
    }

    #[test]
    fn the_beginning_of_a_value_where_a_text_was_cut_is_found_if_it_is_long_enough() {
        let seeker = Seeker::of(&visitor("Zoë/Geheim"));
        for (text, expected) in [
            ("/a/Zoë/Gehei", true),
            ("/a/Zo%C3%AB%2FG", true),
            ("a Zo\\u00eb/G", true),
            ("/a/Zoë", false),
            ("/a/AZoë/Gehei", false),
            ("/a/Zoë/Gehei/", false),
            ("", false),
        ] {
            assert_eq!(seeker.ends_with_a_part(text.as_bytes()), expected, "{text}");
        }
        let long = "x".repeat(100);
        assert!(Seeker::of(&visitor(&long)).ends_with_a_part(b"/xxxxxxxxxxxxxxxx"));
        assert!(!Seeker::of(&visitor(&long)).ends_with_a_part(b"/xxxxxxxxxxxxxxx"));
    }

    fn visitor(value: &str) -> Selection {
        Selection::Visitor(vec![Visitor::new("a".into(), value.into())])
    }
}
