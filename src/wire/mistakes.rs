//! The usual mistakes in bodies that are no JSON, named as whoever writes a player knows them.
//!
//! A parser tells what it expected and where. It was mostly something else that went wrong: a number that could not
//! be computed, a text that was cut in the middle of a character, an object that was printed rather than written.
//! Nothing of what stands in the body is repeated, but for the few words that are looked for.

use serde_json::error::Error;

/// What was probably done wrong, if it is one of the usual mistakes.
pub(super) fn hint(text: &str, error: &Error) -> Option<&'static str> {
    if error.is_eof() {
        return Some("it ends in the middle; a part of it was cut off or not sent");
    }
    if !error.is_syntax() {
        return None;
    }
    let said = error.to_string();
    let says = |what: &str| said.starts_with(what);
    let at = Place::of(text, error);
    if ["unexpected end of hex", "lone leading surrogate", "invalid unicode", "unexpected hex"]
        .into_iter()
        .any(says)
        || says("invalid escape") && at.is_in_hex_escape()
    {
        return Some(if has_half_a_pair(text) {
            "it has half a surrogate pair (\\ud800 to \\udfff alone), as when a text is cut in the middle of an \
             emoji; cut it between characters"
        } else {
            "\\u must be followed by four hexadecimal digits"
        });
    }
    if says("invalid escape") {
        return Some("it has a backslash that begins no escape; a backslash itself is \\\\");
    }
    if says("control character") {
        return Some(
            "it has a line end, a tab or the like inside a text; write \\n, \\t or \\u00XX",
        );
    }
    if says("trailing comma") {
        return Some("it has a comma before a closing bracket; leave it out");
    }
    if says("trailing characters") {
        return Some("more stands behind its end; one body is one object or array");
    }
    if at.bytes.contains(&0) {
        return Some("it has zero bytes, as UTF-16 has; send UTF-8");
    }
    at.word().or_else(|| at.sign()).or_else(|| {
        says("key must be a string").then_some("names of members stand in double quotes")
    })
}

/// Where the parser could not go on.
struct Place<'t> {
    bytes: &'t [u8],
    index: usize,
}

impl<'t> Place<'t> {
    fn of(text: &'t str, error: &Error) -> Self {
        let before = error.line().saturating_sub(1);
        let line: usize = text.split_inclusive('\n').take(before).map(str::len).sum();
        let index = line + error.column().saturating_sub(1);
        Self { bytes: text.as_bytes(), index: index.min(text.len().saturating_sub(1)) }
    }

    fn byte(&self) -> Option<u8> {
        self.bytes.get(self.index).copied()
    }

    /// Whether `\u` stands a few bytes before.
    fn is_in_hex_escape(&self) -> bool {
        let begin = self.index.saturating_sub(6);
        let before = self.bytes.get(begin..=self.index).unwrap_or_default();
        before.windows(2).any(|two| two == b"\\u")
    }

    /// What it means if a word of another language stands here.
    fn word(&self) -> Option<&'static str> {
        let is_letter = |byte: &u8| byte.is_ascii_alphabetic();
        let before = self.bytes.get(..self.index)?;
        let begin = self.index - before.iter().rev().take_while(|byte| is_letter(byte)).count();
        let rest = self.bytes.get(begin..)?;
        // The parser may stand at the sign.
        let rest = rest.strip_prefix(b"-").or_else(|| rest.strip_prefix(b"+")).unwrap_or(rest);
        let word = &rest[..rest.iter().take_while(|byte| is_letter(byte)).count()];
        let behind = &rest[word.len()..];
        Some(match word {
            b"NaN" | b"nan" | b"NAN" => "NaN is not JSON; leave the key out or send a number",
            b"Infinity" | b"infinity" | b"Inf" | b"inf" | b"INF" => {
                "Infinity is not JSON; leave the key out or send a number"
            }
            b"undefined" => "undefined is not JSON; leave the key out",
            b"None" | b"nil" | b"NULL" | b"Null" => {
                "JSON has null, in lower case; better leave the key out"
            }
            b"True" | b"False" | b"TRUE" | b"FALSE" | b"YES" | b"NO" => {
                "JSON has true and false, in lower case"
            }
            b"object" if behind.starts_with(b" Object]") => {
                "an object was turned into text without JSON.stringify"
            }
            _ => return None,
        })
    }

    fn sign(&self) -> Option<&'static str> {
        Some(match self.byte()? {
            b'\'' | b'`' => "texts and names stand in double quotes, not in others",
            b'/' => "comments are not JSON",
            b',' | b'}' | b']' if !self.is_behind_a_value() => {
                "a value is missing: leave the key out, or the comma"
            }
            b'+' | b'.' => "a number begins with a digit or a minus: 0.5, not .5 or +0.5",
            _ => return None,
        })
    }

    /// Whether what stands before, blanks aside, ends a value or a name.
    fn is_behind_a_value(&self) -> bool {
        let before = self.bytes.get(..self.index).unwrap_or_default().trim_ascii_end();
        !matches!(before.last(), Some(b':' | b',' | b'[' | b'{') | None)
    }
}

/// Whether a string of the text has an escape of a surrogate without its other half.
fn has_half_a_pair(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        rest = &rest[at..];
        match escaped(rest) {
            Some(0xD800..=0xDBFF) => match escaped(&rest[6..]) {
                Some(0xDC00..=0xDFFF) => rest = &rest[12..],
                _ => return true,
            },
            Some(0xDC00..=0xDFFF) => return true,
            Some(_) => rest = &rest[6..],
            // Of another escape the next byte may be a backslash.
            None => rest = rest.get(2..).unwrap_or_default(),
        }
    }
    false
}

/// The unit of UTF-16 whose escape stands at the beginning.
fn escaped(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| is_hex)?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn hint_of(text: &str) -> Option<&'static str> {
        hint(text, &serde_json::from_str::<Value>(text).unwrap_err())
    }

    #[test]
    fn the_usual_mistakes_are_named() {
        for (text, named) in [
            (r#"{"a":"film \ud83c"}"#, "half a surrogate pair"),
            (r#"{"a":"film \ud83c and"}"#, "half a surrogate pair"),
            (r#"{"a":"film \udf7f"}"#, "half a surrogate pair"),
            (r#"{"a":"\ud83c\u0041"}"#, "half a surrogate pair"),
            (r#"{"a":"\ud83c\ud83c"}"#, "half a surrogate pair"),
            (r#"{"a":"\ud83c\n"}"#, "half a surrogate pair"),
            (r#"{"a":"\\\ud83c\udf7f\udf7f"}"#, "half a surrogate pair"),
            (r#"{"a":"\u12"}"#, "four hexadecimal digits"),
            (r#"{"a":"\u12zz"}"#, "four hexadecimal digits"),
            (r#"{"a":NaN}"#, "NaN is not JSON"),
            (r#"{"a":nan,"b":1}"#, "NaN is not JSON"),
            (r#"{"a":-NaN}"#, "NaN is not JSON"),
            ("{\n \"a\": [1,\n  NaN]}", "NaN is not JSON"),
            (r#"{"a":Infinity}"#, "Infinity is not JSON"),
            (r#"{"a":-Infinity}"#, "Infinity is not JSON"),
            (r#"{"é":"é","a":inf}"#, "Infinity is not JSON"),
            (r#"{"a":undefined}"#, "undefined is not JSON"),
            ("undefined", "undefined is not JSON"),
            (r#"{"a":None}"#, "has null"),
            (r#"{"a":nil}"#, "has null"),
            (r#"{"a":True}"#, "true and false"),
            ("[object Object]", "JSON.stringify"),
            (r#"{"a":1,}"#, "comma before a closing bracket"),
            ("[1,]", "comma before a closing bracket"),
            ("{'a':1}", "double quotes"),
            (r#"{"a":'b'}"#, "double quotes"),
            ("{a:1}", "names of members stand in double quotes"),
            (r#"{"a":}"#, "a value is missing"),
            (r#"{"a":,"b":1}"#, "a value is missing"),
            ("[1,,2]", "a value is missing"),
            (r#"{"a":1 // one"#, "comments"),
            (r#"{"a":.5}"#, "begins with a digit"),
            (r#"{"a":+5}"#, "begins with a digit"),
            ("{\"a\":\"b\nc\"}", "line end"),
            (r#"{"a":"\x41"}"#, "backslash"),
            (r#"{"a":"it\'s"}"#, "backslash"),
            (r#"{"a":1}{"a":2}"#, "more stands behind"),
            (r#"{"a":"b"#, "ends in the middle"),
            (r#"{"a":"#, "ends in the middle"),
            ("{\0\"\0a\0\"\0", "UTF-16"),
        ] {
            let hint = hint_of(text);
            assert!(hint.is_some_and(|hint| hint.contains(named)), "{text}: {hint:?}");
        }
        for other in ["{\"a\" 1}", "{\"a\":tru}", "01", "x"] {
            assert_eq!(hint_of(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_a_hint_or_none(
            text in r#"([\[\]{}:,"'/+. \n\\é🎬-]|\\u[dD][89abcf0-9][0-9a-f]{2}|NaN|a|1|null|\\u){0,20}"#,
        ) {
            if let Err(error) = serde_json::from_str::<Value>(&text) {
                hint(&text, &error);
            }
        }
    }
}
