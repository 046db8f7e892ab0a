//! What an operator can ask for: flags and commands.

mod backup;

mod check_config;

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
use clap::{Args, CommandFactory, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use self::serve::doors::{CannotListen, TooFewOpenFiles};
use self::serve::systemd::WrongSockets;
use crate::config::{self, Sources};
use crate::data_dir::{DataDirError, JOURNAL};
use crate::files;
use crate::http::GuardError;
use crate::http::tls::TlsError;
use crate::journal::disk::Folder;
use crate::journal::segment::{self, Line, Segment};
use crate::telemetry::{Fatal, Format};
use crate::wire::{self, Rules};

/// The configuration, what it names, or the command line is wrong: the same again ends the same.
const EXIT_USAGE: u8 = 2;

/// Collects media sessions: speaks Adobe's Media Collection API, on a machine of your own.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP, disable_help_subcommand = true)]
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
over the file. Exit code 2 says that arguments, settings or what they name are wrong, 1 that \
something else went wrong.";

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Run the server (the default)
    Serve,
    /// Print the settings that hold and where each comes from, and all that a start would warn of or refuse
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
    /// Print this text, or that of a command
    Help {
        /// The command
        command: Option<String>,
    },
}

#[derive(Debug, Default, Args)]
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
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refused(&error),
    };
    let command = cli.command.unwrap_or(Command::Serve);
    if let Command::Help { command } = &command {
        return help(command.as_deref());
    }
    let serves = matches!(command, Command::Serve);
    let mut sources = cli.settings.sources();
    sources.of_another = matches!(command, Command::Healthcheck { .. });
    let loaded = match config::load(&sources) {
        Ok(loaded) => loaded,
        Err(problems) => {
            // A container's health check must not end with 2, which means something else there.
            let exit_code = if sources.of_another { 1 } else { EXIT_USAGE };
            let format = if serves { problems.log_format } else { Format::Human };
            let (message, problems) = (problems.summary(), &*problems.list);
            return ended(&Fatal { message, error: None, problems, exit_code }, format);
        }
    };
    let log_format = loaded.config.log.format;
    let result = match command {
        Command::Serve => serve::main(loaded),
        Command::CheckConfig => check_config::main(&loaded),
        Command::Export(options) => export::main(&loaded.config.data_dir, &options),
        Command::Verify(options) => verify::main(&loaded.config.data_dir, &options),
        Command::Backup(options) => backup::main(&loaded.config.data_dir, &options),
        Command::Erase(options) => erase::main(&loaded.config, &options),
        Command::Openapi => openapi(loaded.config.validation),
        Command::Healthcheck { ready } => healthcheck::main(&loaded.config, ready),
        // It has its answer already, for which no settings are needed.
        Command::Help { command } => Ok(help(command.as_deref())),
    };
    result.unwrap_or_else(|error| {
        let is_wrong = error.is::<Usage>() || serves && is_lasting(&error);
        let exit_code = if is_wrong { EXIT_USAGE } else { 1 };
        let causes: Vec<_> = error.chain().skip(1).map(ToString::to_string).collect();
        let cause = (!causes.is_empty()).then(|| causes.join(": "));
        let fatal = Fatal { message: error.to_string(), error: cause, problems: &[], exit_code };
        // Whoever types a command reads it; of a server the log is read.
        ended(&fatal, if serves { log_format } else { Format::Human })
    })
}

/// Says why the program ends.
fn ended(fatal: &Fatal<'_>, format: Format) -> ExitCode {
    fatal.tell(format);
    ExitCode::from(fatal.exit_code)
}

/// Whether starting again does not help: what keeps the server from running stays until somebody changes the
/// settings, or what they name. A supervisor need not try again then.
fn is_lasting(error: &anyhow::Error) -> bool {
    let is_lasting_io = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(files::is_lasting)
    };
    if let Some(error) = error.downcast_ref::<DataDirError>() {
        error.is_lasting()
    } else if let Some(error) = error.downcast_ref::<CannotListen>() {
        error.is_lasting()
    } else {
        error.is::<GuardError>()
            || error.is::<TlsError>()
            || error.is::<TooFewOpenFiles>()
            || error.is::<WrongSockets>()
            || error.chain().any(is_lasting_io)
    }
}

/// What is wrong with the command line; or what it asked for, if that is help or the version.
fn refused(error: &clap::Error) -> ExitCode {
    let cli = Cli::command();
    let is_other = |word: &str| {
        let mut others = cli.get_subcommands().filter(|command| command.get_name() != "serve");
        others.any(|command| command.get_name() == word)
    };
    let asks_other = std::env::args_os().skip(1).any(|word| word.to_str().is_some_and(is_other));
    if !error.use_stderr() || asks_other {
        error.exit();
    }
    // What the flags say of the log is unknown, and there is none.
    let env = SettingFlags::default().sources();
    let format = match config::load(&env) {
        Ok(loaded) => loaded.config.log.format,
        Err(problems) => problems.log_format,
    };
    if !format.is_json() {
        error.exit();
    }
    let text = error.render().to_string();
    let (message, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let message = message.strip_prefix("error: ").unwrap_or(message).to_owned();
    let rest = rest.split_whitespace().collect::<Vec<_>>().join(" ");
    let error = (!rest.is_empty()).then_some(rest);
    ended(&Fatal { message, error, problems: &[], exit_code: EXIT_USAGE }, format)
}

/// Prints the help of a command, or of the program.
fn help(name: Option<&str>) -> ExitCode {
    let mut cli = Cli::command();
    cli.build();
    let command = match name {
        None => Some(&mut cli),
        Some(name) => cli.find_subcommand_mut(name),
    };
    let Some(command) = command else {
        let name = name.unwrap_or_default();
        let message = format!("there is no command {name:?}; `mediatally help` lists them all");
        let fatal = Fatal { message, error: None, problems: &[], exit_code: EXIT_USAGE };
        return ended(&fatal, Format::Human);
    };
    // Whoever reads may have seen enough.
    let _ = command.print_long_help();
    ExitCode::SUCCESS
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

fn openapi(rules: Rules) -> anyhow::Result<ExitCode> {
    match std::io::stdout().lock().write_all(wire::openapi::document(rules).as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        written => Ok(written.map(|()| ExitCode::SUCCESS)?),
    }
}
