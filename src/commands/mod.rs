//! What an operator can ask for: flags and commands.

mod backup;

mod erase;

mod export;

mod healthcheck;

pub mod serve;

mod table;

mod verify;

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::{self, Config, Loaded, Sources};
use crate::data_dir::JOURNAL;
use crate::http::Guard;
use crate::journal::disk::Folder;
use crate::journal::segment::{self, Line, Segment};
use crate::wire::{self, Rules};

/// The configuration or the command line is wrong.
const EXIT_USAGE: u8 = 2;

/// Collects media sessions: speaks Adobe's Media Collection API, on a machine of your own.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: SettingFlags,
}

const AFTER_HELP: &str = "\
Without a command, the server runs. Every setting stands in config/mediatally.toml with its default \
and its meaning; each can also be set in the environment as MEDIATALLY_SECTION__KEY (for example \
MEDIATALLY_HTTP__BODY_TIMEOUT=5s), and the four above as MEDIATALLY_CONFIG, MEDIATALLY_LISTEN, \
MEDIATALLY_ADMIN_LISTEN and MEDIATALLY_DATA_DIR. Flags win over the environment, the environment \
over the file.";

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Run the server (the default)
    Serve,
    /// Print the settings that hold and where each comes from, or everything that is wrong with them
    CheckConfig,
    /// Write records of the journal to standard output; the server may run meanwhile
    Export(export::Options),
    /// Hold the journal to its promises: numbers, checksums, structure; exit code 1 if it breaks one
    Verify(verify::Options),
    /// Copy the data folder into an empty one, on which a server can be started; the server may run meanwhile
    Backup(backup::Options),
    /// Erase sessions from everything in the data folder, with a summary to be filed; the server may run
    Erase(erase::Options),
    /// Write the API as an OpenAPI document, under the configured rules
    Openapi,
    /// Ask the admin address whether the server is alive; exit code 0 if so
    Healthcheck {
        /// Ask whether it is ready for requests instead
        #[arg(long)]
        ready: bool,
    },
}

#[derive(Debug, Args)]
struct SettingFlags {
    /// Read settings from this file [default: config/mediatally.toml, if it is there]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Where players post [default: 0.0.0.0:8080]
    #[arg(long, value_name = "ADDRESS:PORT", global = true)]
    listen: Option<String>,
    /// Where operators look [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDRESS:PORT", global = true)]
    admin_listen: Option<String>,
    /// Where everything lies that survives a restart [default: ./data]
    #[arg(long, value_name = "FOLDER", global = true)]
    data_dir: Option<String>,
}

impl SettingFlags {
    fn sources(self) -> Sources {
        let flags = [
            ("--listen", "listen", self.listen),
            ("--admin-listen", "admin_listen", self.admin_listen),
            ("--data-dir", "data_dir", self.data_dir),
        ];
        let flags = flags.into_iter().filter_map(|(flag, key, text)| Some((flag, key, text?)));
        // A variable that is not UTF-8 can be none of ours but by mistake, and is then a bad value.
        let env = std::env::vars_os().map(|(name, text)| {
            (name.to_string_lossy().into_owned(), text.to_string_lossy().into_owned())
        });
        let (file, env, flags) = (self.config, env.collect(), flags.collect());
        Sources { file, env, flags, ..Sources::default() }
    }
}

/// Runs the command that the command line asks for.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut sources = cli.settings.sources();
    sources.of_another = matches!(cli.command, Some(Command::Healthcheck { .. }));
    let loaded = match config::load(&sources) {
        Ok(loaded) => loaded,
        Err(problems) => {
            // A container's health check must not end with 2, which means something else there.
            return failed(&problems.to_string(), if sources.of_another { 1 } else { EXIT_USAGE });
        }
    };
    let result = match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => serve::main(loaded),
        Command::CheckConfig => check_config(&loaded),
        Command::Export(options) => export::main(&loaded.config.data_dir, &options),
        Command::Verify(options) => verify::main(&loaded.config.data_dir, &options),
        Command::Backup(options) => backup::main(&loaded.config.data_dir, &options),
        Command::Erase(options) => erase::main(&loaded.config, &options),
        Command::Openapi => openapi(loaded.config.validation),
        Command::Healthcheck { ready } => healthcheck::main(&loaded.config, ready),
    };
    result.unwrap_or_else(|error| {
        failed(&format!("{error:#}"), if error.is::<Usage>() { EXIT_USAGE } else { 1 })
    })
}

/// The command line asks for what cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// The journal of a data folder, to be read; the server may run meanwhile.
fn journal_of(data_dir: &Path) -> anyhow::Result<Folder> {
    let path = data_dir.join(JOURNAL);
    if !path.is_dir() {
        bail!("there is no journal at {} (name its data folder with --data-dir)", path.display());
    }
    Ok(Folder::at(&path))
}

/// A progress bar over the bytes of a journal, on a terminal; elsewhere nothing.
fn progress_over(disk: &Folder) -> anyhow::Result<Progress> {
    let bytes = segment::list(disk)?.iter().map(|segment| segment.bytes).sum();
    let bar = ProgressBar::new(bytes)
        .with_style(ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left")?);
    Ok(Progress { bar, segment: 0, before: 0 })
}

/// How far a journal is read.
struct Progress {
    bar: ProgressBar,
    segment: u64,
    before: u64,
}

impl Progress {
    /// Notes that this line is read.
    fn at(&mut self, segment: &Segment, line: &Line<'_>) {
        if self.segment != segment.first_seq {
            self.segment = segment.first_seq;
            self.bar.set_position(self.before);
            self.before += segment.bytes;
        } else if !segment.compressed && line.number.is_multiple_of(1_024) {
            self.bar.set_position(self.before - segment.bytes + line.offset.min(segment.bytes));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[expect(clippy::print_stderr, reason = "this is the one place that tells why the program ends")]
fn failed(why: &str, code: u8) -> ExitCode {
    eprintln!("mediatally: {why}");
    ExitCode::from(code)
}

/// Prints the settings, and opens the files that they name for secrets and certificates, as the server will.
fn check_config(loaded: &Loaded) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    out.write_all(loaded.to_commented_toml().as_bytes())?;
    let (memory, origin) = loaded.config.memory();
    writeln!(out, "\n# {}", memory.description(origin))?;
    for warning in &loaded.warnings {
        writeln!(out, "# warning: {warning}")?;
    }
    out.flush()?;
    let Config { admin, admin_listen, tls, .. } = &loaded.config;
    Guard::new(admin, *admin_listen)?;
    for pair in [tls.public(), tls.admin()].into_iter().flatten() {
        pair.check()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn openapi(rules: Rules) -> anyhow::Result<ExitCode> {
    match std::io::stdout().lock().write_all(wire::openapi::document(rules).as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        written => Ok(written.map(|()| ExitCode::SUCCESS)?),
    }
}
