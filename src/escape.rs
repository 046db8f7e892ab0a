//! Text of outsiders, made visible: characters that a terminal or a spreadsheet would obey rather than show.
//!
//! ```text
//! C0, DEL          U+0000 to U+001F, U+007F      escape sequences, line ends
//! C1               U+0080 to U+009F              the same, in one character
//! bidi             U+061C, U+200E, U+200F, U+202A to U+202E, U+2066 to U+2069     the order of what is read
//! line ends        U+2028, U+2029
//! ```
//!
//! They are written as JSON escapes, so JSON has the same value as before.

use std::borrow::Cow;
use std::fmt::Write;

/// What a spreadsheet begins a formula with, and its full-width variants, which some take for the same.
const FORMULA_BEGINS: [char; 8] =
    ['=', '+', '-', '@', '\u{FF1D}', '\u{FF0B}', '\u{FF0D}', '\u{FF20}'];

/// Whether a character is obeyed rather than shown.
pub fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61C}'
                | '\u{200E}'
                | '\u{200F}'
                | '\u{2028}'..='\u{202E}'
                | '\u{2066}'..='\u{2069}'
        )
}

/// A text with all of these characters escaped, except those in `kept`.
pub fn text<'t>(text: &'t str, kept: &[char]) -> Cow<'t, str> {
    let is_escaped = |character| is_control(character) && !kept.contains(&character);
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\n' if is_escaped(character) => shown.push_str("\\n"),
            '\r' if is_escaped(character) => shown.push_str("\\r"),
            '\t' if is_escaped(character) => shown.push_str("\\t"),
            _ if is_escaped(character) => {
                // All of them are in the first plane, so four digits do.
                let _ = write!(shown, "\\u{:04x}", u32::from(character));
            }
            _ => shown.push(character),
        }
    }
    Cow::Owned(shown)
}

/// JSON with the same value and none of these characters in its strings. Blanks between its parts stay, except
/// that a carriage return becomes a space.
pub fn json(json: &str) -> Cow<'_, str> {
    // Most lines are ASCII, which is found out many bytes at a time.
    if json.is_ascii() && !json.bytes().any(|byte| matches!(byte, b'\r' | 0x7F)) {
        return Cow::Borrowed(json);
    }
    // In strings, JSON has C0 characters as escapes only.
    if json.contains('\r') {
        let json = json.replace('\r', " ");
        Cow::Owned(text(&json, &['\n', '\t']).into_owned())
    } else {
        text(json, &['\n', '\t'])
    }
}

/// How long a text is as JSON, its quotation marks among it, in bytes.
pub fn json_bytes(text: &str) -> usize {
    let of_byte = |byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0C => 2,
        0..=0x1F => "\\u0001".len(),
        _ => 1,
    };
    "\"\"".len() + text.bytes().map(of_byte).sum::<usize>()
}

/// A cell of a table: visible, with line feeds and tabs kept, and with an apostrophe before it if a spreadsheet
/// would read it as a formula.
pub fn cell(cell: &str) -> Cow<'_, str> {
    let shown = visible_cell(cell);
    if is_formula(cell) { Cow::Owned(format!("'{shown}")) } else { shown }
}

/// The same without an apostrophe.
pub fn visible_cell(cell: &str) -> Cow<'_, str> {
    text(cell, &['\n', '\t'])
}

/// Whether a spreadsheet would compute this text. Blanks and quotes before it are skipped, as some do; a number
/// is none.
fn is_formula(text: &str) -> bool {
    if text.starts_with(['\t', '\r', '\n']) {
        return true;
    }
    let is_skipped = |character: char| {
        character.is_whitespace()
            || is_control(character)
            || matches!(character, '\'' | '"' | '\u{200B}'..='\u{200D}' | '\u{FEFF}')
    };
    let is_number =
        text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'))
            && text.parse::<f64>().is_ok();
    text.trim_start_matches(is_skipped).starts_with(FORMULA_BEGINS) && !is_number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_obeyed_is_shown() {
        for (raw, shown) in [
            ("Straße – 東京 🎬", "Straße – 東京 🎬"),
            ("a\u{1b}[2Jb\u{0}\u{7f}", "a\\u001b[2Jb\\u0000\\u007f"),
            ("\u{9b}2J\u{85}", "\\u009b2J\\u0085"),
            ("\u{202e}cod.exe\u{2066}\u{200f}\u{61c}", "\\u202ecod.exe\\u2066\\u200f\\u061c"),
            ("a\r\nb\tc\u{2028}d", "a\\r\\nb\\tc\\u2028d"),
        ] {
            assert_eq!(text(raw, &[]), shown, "{raw:?}");
        }
        assert_eq!(text("a\r\nb\tc", &['\n', '\t']), "a\\r\nb\tc");
        assert!(matches!(text("é", &[]), Cow::Borrowed(_)));
    }

    #[test]
    fn json_keeps_its_value() {
        let hidden = "\u{202e}\u{85}\u{7f}é\u{2028}";
        let raw = format!("{{\r\n\t\"a{hidden}\": \"{hidden}\\u001b\\\\\", \"b\" :[1 ]\r}}");
        let shown = json(&raw);
        assert!(!shown.chars().any(|c| is_control(c) && !matches!(c, '\n' | '\t')), "{shown}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&shown), value(&raw));
        assert!(matches!(json("{\"a\":\t1}\n"), Cow::Borrowed(_)));
        assert!(matches!(json("{\"a\":\"é\"}"), Cow::Borrowed(_)));
    }

    #[test]
    fn the_length_of_a_text_as_json_is_known_without_writing_it() {
        let all: String = (0..=0x300_u32).filter_map(char::from_u32).collect();
        for text in ["", "film", "\u{1}\"\\", "東京 🎬", &all] {
            assert_eq!(json_bytes(text), serde_json::to_string(text).unwrap().len(), "{text:?}");
        }
    }

    #[test]
    fn a_cell_is_no_formula() {
        for formula in [
            "=1+1",
            "+1+1",
            "-2+3",
            "@SUM(A1)",
            "\t=1",
            "\tharmless",
            "\rharmless",
            "\nharmless",
            "  =1",
            "\u{a0}=1",
            "\u{feff}=1",
            "\"=1",
            "'=1",
            " \"'@a",
            "＝1",
            "＋1",
            "－1",
            "＠a",
            "\u{0}=1",
            "-",
            "+e",
            "--1",
        ] {
            let shown = cell(formula);
            assert!(shown.starts_with('\''), "{formula:?}");
            assert_eq!(shown[1..], visible_cell(formula), "{formula:?}");
        }
        for text in
            ["", "-1", "+1.5", "-1.5e-7", "a=1", "'", "film", "{\"a\":1}", "[]", "é=", "1-2"]
        {
            assert_eq!(cell(text), text);
        }
        assert_eq!(cell("a\u{0}\u{9b}\r\nb"), "a\\u0000\\u009b\\r\nb");
    }
}
