//! Logs, to standard error.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::fmt::format::{self, FormatFields};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::escape;

/// The line at start is written whatever the level, because scripts read the addresses from it.
pub const START_TARGET: &str = "mediatally::start";

/// The target of the line that says why the program ends.
const FATAL_TARGET: &str = "mediatally::fatal";

/// The section `log` of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How lines look.
    pub format: Format,
    /// Which lines are written: a level, or directives such as `info,mediatally::http=debug`.
    pub level: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { format: Format::Auto, level: "info".into() }
    }
}

impl Settings {
    /// The filter that `level` describes.
    ///
    /// # Errors
    /// Why it cannot be read. A single word that is no level would be taken for the name of a target,
    /// and mute everything.
    pub fn filter(&self) -> Result<EnvFilter, String> {
        let mut directives = Vec::new();
        for directive in self.level.split(',') {
            match directive.parse::<LevelFilter>() {
                // Libraries show parts of requests there, so they are asked by their names.
                Ok(level) if level > LevelFilter::INFO => {
                    directives.push(format!("info,{}={level}", env!("CARGO_PKG_NAME")));
                }
                Err(_) if !directive.contains(['=', '[']) => {
                    return Err(format!(
                        "{directive:?} is no level (off, error, warn, info, debug, trace)"
                    ));
                }
                _ => directives.push(directive.to_owned()),
            }
        }
        let start =
            format!("{START_TARGET}=info").parse().map_err(|e: ParseError| e.to_string())?;
        let filter =
            EnvFilter::builder().parse(directives.join(",")).map_err(|error| error.to_string())?;
        Ok(filter.add_directive(start))
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Human on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For eyes.
    Human,
    /// One JSON object a line.
    Json,
}

impl Format {
    /// Whether lines are JSON, as standard error is now.
    pub fn is_json(self) -> bool {
        self == Self::Json || self == Self::Auto && !io::stderr().is_terminal()
    }
}

/// Why the program ends, as a line of its own. It is written whatever the level, also before logs are.
#[derive(Debug, Serialize)]
pub struct Fatal<'f> {
    /// What failed.
    pub message: String,
    /// Why, if that is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Everything that is wrong with the configuration.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub problems: &'f [String],
    /// What the program ends with.
    pub exit_code: u8,
}

impl Fatal<'_> {
    /// The line as logs in JSON have it.
    fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Line<'l> {
            timestamp: &'l str,
            level: &'static str,
            #[serde(flatten)]
            fatal: &'l Fatal<'l>,
            target: &'static str,
        }
        let mut timestamp = String::new();
        // A string takes all that is written; a clock that cannot be told leaves it short.
        let _ = SystemTime.format_time(&mut format::Writer::new(&mut timestamp));
        let line =
            Line { timestamp: &timestamp, level: "ERROR", fatal: self, target: FATAL_TARGET };
        let line = serde_json::to_string(&line).expect("texts and a number are JSON");
        escape::text(&line, &[]).into_owned()
    }

    /// The same for eyes.
    fn to_text(&self) -> String {
        let mut text = format!("{}: {}", env!("CARGO_PKG_NAME"), self.message);
        if let Some(error) = &self.error {
            text += ": ";
            text += error;
        }
        for problem in self.problems {
            text += "\n  ";
            text += problem;
        }
        escape::text(&text, &['\n']).into_owned()
    }

    /// Writes the line. Nobody may be there to read it any more.
    pub fn tell(&self, format: Format) {
        let line = if format.is_json() { self.to_json() } else { self.to_text() };
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Starts to write logs; to be called once.
///
/// # Errors
/// A level that cannot be read.
pub fn init(settings: &Settings) -> Result<(), String> {
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(settings.filter()?)
        .with_writer(move || Escaping { out: io::stderr(), is_coloured: terminal })
        .with_ansi(terminal)
        // Otherwise a reader of the log that is gone would end the server.
        .log_internal_errors(false);
    if settings.format.is_json() {
        builder.json().flatten_event(true).init();
    } else {
        builder.fmt_fields(fields()).init();
    }
    Ok(())
}

/// The fields of an event for eyes: each value escaped, so that whatever sequence is left in a line is a colour of
/// ours. (The formatter that is built in leaves those in values of `%` as they are.)
fn fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    format::debug_fn(|writer, field, value| {
        let value = format!("{value:?}");
        let value = escape::text(&value, &[]);
        match field.name() {
            "message" => write!(writer, "{value}"),
            name => write!(writer, "{name}={value}"),
        }
    })
    .delimited(" ")
}

/// Writes lines of the log so that whatever text of outsiders is in them, it is shown and not obeyed: a line stays
/// one line, and a terminal gets no sequences but our colours. Each write is one event, with its line end.
#[derive(Debug)]
struct Escaping<W> {
    out: W,
    /// Whether lines have colours, as sequences that are passed on. Those in [fields] are escaped before.
    is_coloured: bool,
}

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.out.write_all(shown(&text, self.is_coloured).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A line of the log as it is written.
fn shown(line: &str, is_coloured: bool) -> Cow<'_, str> {
    let (text, end) = line.strip_suffix('\n').map_or((line, ""), |text| (text, "\n"));
    if !text.contains(escape::is_control) {
        return Cow::Borrowed(line);
    }
    let mut shown = String::with_capacity(line.len() + 16);
    let mut pieces = text.split('\u{1b}');
    shown.push_str(&escape::text(pieces.next().unwrap_or_default(), &[]));
    for piece in pieces {
        let colour = colour_of(piece).filter(|_| is_coloured);
        shown.push_str(if colour.is_some() { "\u{1b}" } else { "\\u001b" });
        let colour = colour.unwrap_or_default();
        shown.push_str(colour);
        shown.push_str(&escape::text(&piece[colour.len()..], &[]));
    }
    shown.push_str(end);
    Cow::Owned(shown)
}

/// What a text begins with, if that is the rest of a sequence that sets a colour: `[1;31m`.
fn colour_of(text: &str) -> Option<&str> {
    let rest = text.strip_prefix('[')?;
    let end = rest.find(|character: char| !character.is_ascii_digit() && character != ';')?;
    rest[end..].starts_with('m').then(|| &text[..end + 2])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// What is hidden in the texts of outsiders.
    const HIDDEN: &str = "a\n\r\u{1b}[2J\u{1b}[31m\u{7}\u{0}\u{85}\u{9b}\u{202e}\u{2066}\u{2028}b";

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log() {
        let error = io::Error::other(HIDDEN);
        tracing::error!(text = HIDDEN, name = %HIDDEN, debug = ?HIDDEN, %error, "said {HIDDEN}");
        tracing::error!("next");
    }

    fn lines_of(is_coloured: bool, is_json: bool) -> Vec<String> {
        let lines = Lines::default();
        let out = lines.clone();
        let writer = move || Escaping { out: out.clone(), is_coloured };
        assert!(writer.make_writer().flush().is_ok());
        let builder = tracing_subscriber::fmt().with_writer(writer).with_ansi(is_coloured);
        if is_json {
            let subscriber = builder.json().flatten_event(true).finish();
            tracing::subscriber::with_default(subscriber, log);
        } else {
            tracing::subscriber::with_default(builder.fmt_fields(fields()).finish(), log);
        }
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        text.split_terminator('\n').map(str::to_owned).collect()
    }

    #[test]
    fn what_outsiders_write_is_shown_and_not_obeyed() {
        for is_json in [false, true] {
            let lines = lines_of(false, is_json);
            assert_eq!(lines.len(), 2, "an event is a line: {lines:?}");
            for line in &lines {
                assert!(!line.contains(escape::is_control), "{line:?}");
            }
            assert_eq!(lines[0].matches("[2J").count(), 5, "it is shown: {}", lines[0]);
            if is_json {
                let value: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
                assert_eq!(value["text"], HIDDEN);
                assert_eq!(value["message"], format!("said {HIDDEN}"));
            }
        }
    }

    #[test]
    fn of_all_sequences_a_terminal_gets_our_colours_alone() {
        let lines = lines_of(true, false);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("\u{1b}[31mERROR"), "{:?}", lines[0]);
        let mut rest = lines[0].split('\u{1b}');
        assert!(!rest.next().unwrap().contains(escape::is_control));
        for piece in rest {
            assert!(colour_of(piece).is_some(), "{piece:?}");
            assert!(!piece.contains(escape::is_control), "{piece:?}");
        }
        let hidden = lines[0].find("said").unwrap();
        assert!(!lines[0][hidden..].contains("\u{1b}[31m"), "not the colours of others");
    }

    #[test]
    fn why_the_program_ends_is_one_line_of_json_whatever_it_says() {
        let problems = [HIDDEN.to_owned(), "two".to_owned()];
        let fatal = Fatal {
            message: HIDDEN.to_owned(),
            error: Some(HIDDEN.to_owned()),
            problems: &problems,
            exit_code: 2,
        };
        let line = fatal.to_json();
        assert!(!line.contains(escape::is_control), "{line:?}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], HIDDEN);
        assert_eq!(value["error"], HIDDEN);
        assert_eq!(value["problems"], serde_json::json!(problems));
        assert_eq!((&value["level"], &value["exit_code"]), (&"ERROR".into(), &2.into()));
        assert!(value["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
        let fatal =
            Fatal { message: "a".into(), error: None, problems: &problems[1..], exit_code: 2 };
        assert_eq!(fatal.to_text(), "mediatally: a\n  two");
    }

    #[test]
    fn a_line_without_anything_hidden_is_passed_on() {
        assert!(matches!(shown("Straße\n", false), Cow::Borrowed("Straße\n")));
        assert_eq!(
            shown("a\u{1b}[1;31mb\u{1b}[0m\u{1b}[2J\n", true),
            "a\u{1b}[1;31mb\u{1b}[0m\\u001b[2J\n"
        );
        assert_eq!(shown("\u{1b}[31m\n", false), "\\u001b[31m\n");
        assert_eq!(shown("\u{1b}", true), "\\u001b");
    }
}
