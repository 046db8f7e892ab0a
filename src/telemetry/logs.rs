//! Logs, to standard error.

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};

/// The line at start is written whatever the level, because scripts read the addresses from it.
pub const START_TARGET: &str = "mediatally::start";

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// For eyes.
    Human,
    /// One JSON object a line.
    Json,
}

/// Starts to write logs; to be called once.
///
/// # Errors
/// A level that cannot be read.
pub fn init(settings: &Settings) -> Result<(), String> {
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(settings.filter()?)
        .with_writer(std::io::stderr)
        .with_ansi(terminal)
        // Otherwise a reader of the log that is gone would end the server.
        .log_internal_errors(false);
    match settings.format {
        Format::Json => builder.json().flatten_event(true).init(),
        Format::Auto if !terminal => builder.json().flatten_event(true).init(),
        Format::Auto | Format::Human => builder.init(),
    }
    Ok(())
}
