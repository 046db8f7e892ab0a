//! Prints the settings that hold, and everything that a start would warn of or refuse.
//!
//! It looks at the same files and addresses by the same code as a start, and makes and changes nothing.

use std::io::Write;
use std::process::ExitCode;

use super::serve::doors::{check_addresses, open_files_warning};
use super::{EXIT_USAGE, ended};
use crate::clock::Clock;
use crate::config::{Config, Loaded};
use crate::http::Guard;
use crate::telemetry::{Fatal, Format};
use crate::{data_dir, privacy};

/// What a start would say.
#[derive(Debug, Default)]
struct Findings {
    problems: Vec<String>,
    warnings: Vec<String>,
}

pub(super) fn main(loaded: &Loaded) -> anyhow::Result<ExitCode> {
    let mut findings = Findings { warnings: loaded.warnings.clone(), ..Findings::default() };
    findings.look(&loaded.config)?;
    let mut out = std::io::stdout().lock();
    out.write_all(loaded.to_commented_toml().as_bytes())?;
    let (memory, origin) = loaded.config.memory();
    writeln!(out, "\n# {}", memory.description(origin))?;
    comment(&mut out, "warning", &findings.warnings)?;
    out.flush()?;
    if findings.problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let message = match findings.problems.len() {
        1 => "a start would be refused".to_owned(),
        _ => "a start would be refused, for several reasons".to_owned(),
    };
    let problems = &*findings.problems;
    Ok(ended(&Fatal { message, error: None, problems, exit_code: EXIT_USAGE }, Format::Human))
}

/// The output is a file of settings again, so each line of a text is a comment.
fn comment(out: &mut impl Write, kind: &str, texts: &[String]) -> std::io::Result<()> {
    for text in texts {
        writeln!(out, "# {kind}: {}", text.replace('\n', "\n#   "))?;
    }
    Ok(())
}

impl Findings {
    /// Takes what was found, and whether it can be used.
    fn note(&mut self, found: Result<Vec<String>, impl Into<anyhow::Error>>) {
        match found {
            Ok(warnings) => self.warnings.extend(warnings),
            Err(error) => self.problems.push(format!("{:#}", error.into())),
        }
    }

    fn look(&mut self, config: &Config) -> anyhow::Result<()> {
        let now_ms = Clock::system().now_ms();
        let has_key = config.session.key.is_some();
        self.warnings.extend(open_files_warning(&config.http));
        self.note(data_dir::inspect(&config.data_dir, &config.storage, has_key));
        self.note(Guard::new(&config.admin, config.admin_listen).map(|_| Vec::new()));
        for pair in [config.tls.public(), config.tls.admin()].into_iter().flatten() {
            self.note(pair.check(now_ms));
        }
        // Sockets are made within a runtime.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let _within = runtime.enter();
        self.note(check_addresses(config).map(|()| Vec::new()));
        let unlisted = config.privacy.unlisted();
        if !unlisted.is_empty() {
            let names: Vec<_> = unlisted.iter().map(|(_, name)| *name).collect();
            self.warnings.push(format!("{}: {}", privacy::UNLISTED, names.join(", ")));
        }
        Ok(())
    }
}
