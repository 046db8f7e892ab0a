//! The settings: built-in defaults, then the file, then the environment, then flags.
//!
//! Every problem is found at once and told with key, value and source. Each override is tried alone
//! against the defaults, so a bad one is known by its own source. (figment could layer, but stops at
//! the first problem and has not been released since 2024.)

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::limits::memory::{Kind, Memory, Origin};
use crate::size::Size;
use crate::{data_dir, http, journal, limits, live, privacy, rejects, session, telemetry, wire};

/// Read if no other file is named.
pub const DEFAULT_FILE: &str = "config/mediatally.toml";

/// What names of environment variables begin with.
const ENV_PREFIX: &str = "MEDIATALLY_";

/// The variable that names the file; the only one that is no setting.
const ENV_FILE: &str = "MEDIATALLY_CONFIG";

/// How many letters of a key may be wrong so that its section, which is wrong too, is not the point.
const KEY_DISTANCE_MAX: usize = 2;

/// How many letters of the name of a variable may be wrong so that it is taken for one of ours.
const ENV_DISTANCE_MAX: usize = 2;

/// The longest time that a setting may name; beyond it clocks overflow.
const DURATION_MAX: Duration = Duration::from_hours(366 * 24);

/// The key of the operators' token.
const TOKEN: &str = "admin.token";

/// Keys whose values are never shown.
const SECRETS: [&str; 2] = ["session.key", TOKEN];

/// How a session key is written.
const KEY_FORM: &str = "64 hexadecimal digits";

/// The settings of the server; each room has its own section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where players post.
    pub listen: SocketAddr,
    /// Where operators look.
    pub admin_listen: SocketAddr,
    /// What survives a restart lies here.
    pub data_dir: PathBuf,
    /// The doors.
    pub http: http::Settings,
    /// The certificates of the doors.
    pub tls: http::tls::Settings,
    /// Who may look.
    pub admin: http::AdminSettings,
    /// How the server stops.
    pub shutdown: http::ShutdownSettings,
    /// The rules for bodies.
    pub validation: wire::Rules,
    /// The life of a session.
    pub session: session::Settings,
    /// What clients and report suites may ask.
    pub limits: limits::Settings,
    /// How much memory the server takes, and how it is shared.
    pub memory: limits::memory::Settings,
    /// The bounds of the live sessions.
    pub live: live::Settings,
    /// The journal.
    pub journal: journal::Settings,
    /// The data folder.
    pub storage: data_dir::Settings,
    /// What is kept of a person.
    pub privacy: privacy::Settings,
    /// The bodies that were refused.
    pub rejects: rejects::Settings,
    /// The logs.
    pub log: telemetry::Settings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 8080)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
            data_dir: "./data".into(),
            http: http::Settings::default(),
            tls: http::tls::Settings::default(),
            admin: http::AdminSettings::default(),
            shutdown: http::ShutdownSettings::default(),
            validation: wire::Rules::default(),
            session: session::Settings::default(),
            limits: limits::Settings::default(),
            memory: limits::memory::Settings::default(),
            live: live::Settings::default(),
            journal: journal::Settings::default(),
            storage: data_dir::Settings::default(),
            privacy: privacy::Settings::default(),
            rejects: rejects::Settings::default(),
            log: telemetry::Settings::default(),
        }
    }
}

/// Where a value came from, as a person would name it: a file, a variable, a flag.
type Source = String;

/// One value of one layer.
#[derive(Debug)]
struct Override {
    /// `section.key`, or `key` for the few that have no section.
    key: String,
    value: Value,
    source: Source,
}

/// What the layers are read from; nothing here is read behind the caller's back.
#[derive(Debug, Default)]
pub struct Sources {
    /// The file named by a flag.
    pub file: Option<PathBuf>,
    /// The environment.
    pub env: Vec<(String, String)>,
    /// Flags: their name, the key they set, their value.
    pub flags: Vec<(&'static str, &'static str, String)>,
    /// Whether they only tell where another server is, whose guard is its own business.
    pub of_another: bool,
}

/// The settings that hold, and how they came to be.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Things that are probably mistakes but stop nothing.
    pub warnings: Vec<String>,
    sources: BTreeMap<String, Source>,
}

/// Everything that is wrong with the configuration.
#[derive(Debug, Default, thiserror::Error)]
pub struct Problems {
    /// Each with key, value and source.
    pub list: Vec<String>,
    /// How lines of the log look, as far as the configuration could be read.
    pub log_format: telemetry::Format,
}

impl Problems {
    /// How many there are.
    pub fn summary(&self) -> String {
        let plural = if self.list.len() == 1 { "" } else { "s" };
        format!("the configuration has {} problem{plural}", self.list.len())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.summary())?;
        self.list.iter().try_for_each(|problem| write!(formatter, "\n  {problem}"))
    }
}

/// Reads all layers.
///
/// # Errors
/// Every problem, each with key, value, source and, for an unknown key, the nearest known one.
pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
    let defaults = Table::try_from(Config::default()).expect("the defaults are TOML");
    let mut problems = Problems::default();
    let mut warnings = Vec::new();
    let mut overrides = Vec::new();
    let (from_file, problem) = read_file(sources);
    overrides.extend(from_file);
    problems.list.extend(problem);
    for (name, text) in &sources.env {
        if let Some(key) = key_of_variable(name, &defaults, &mut warnings) {
            overrides.push(Override {
                value: value_of_text(text, lookup(&defaults, &key)),
                key,
                source: name.clone(),
            });
        }
    }
    overrides.extend(sources.flags.iter().map(|(flag, key, text)| Override {
        key: (*key).to_owned(),
        value: Value::String(text.clone()),
        source: (*flag).to_owned(),
    }));

    let mut effective = defaults.clone();
    let mut origin = BTreeMap::new();
    let mut refused = Vec::new();
    for Override { key, value, source } in overrides {
        match try_alone(&defaults, &key, &value) {
            Ok(()) => {
                set(&mut effective, &key, value);
                origin.insert(key, source);
            }
            Err(why) => {
                problems.list.push(why.told(&key, &value, &source));
                refused.push(key);
            }
        }
    }
    let config: Config = effective.try_into().expect("each value was tried against its key");
    for (key, why) in config.contradictions() {
        // A token that is refused is told of already.
        let is_told = why == http::NEEDS_TOKEN && refused.iter().any(|key| key.starts_with(TOKEN));
        if key == "admin_listen" && (sources.of_another || is_told) {
            continue;
        }
        let source = origin.get(key).map_or("default", String::as_str);
        let table = Table::try_from(&config).expect("settings are TOML");
        let value = lookup(&table, key).map_or_else(String::new, |value| shown(key, value));
        problems.list.push(format!("{value} ({source}): {why}"));
    }
    let doubts = config.privacy.doubts().into_iter();
    warnings.extend(doubts.map(|(key, why)| format!("{key}: {why}")));
    if problems.list.is_empty() {
        Ok(Loaded { config, warnings, sources: origin })
    } else {
        problems.log_format = config.log.format;
        Err(problems)
    }
}

impl Config {
    /// Values that are right by themselves and wrong for what they do.
    fn contradictions(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let mut hold = |holds: bool, key: &'static str, why: &str| {
            if !holds {
                found.push((key, why.to_owned()));
            }
        };
        hold(self.http.connections_max > 0, "http.connections_max", "must be at least 1");
        hold(
            !self.http.trusted_proxies.iter().any(http::Network::is_everybody),
            "http.trusted_proxies",
            "must not hold everybody, or every client chooses who it is; name the networks of the proxies",
        );
        let body = self.http.event_bytes_max;
        hold(
            (Size::kib(1)..=Size::mib(16)).contains(&body),
            "http.event_bytes_max",
            "must be from 1 KiB to 16 MiB",
        );
        hold(
            (body..=http::STORED_BYTES_LIMIT).contains(&self.http.stored_bytes_max),
            "http.stored_bytes_max",
            "must be at least http.event_bytes_max and at most 16 MiB",
        );
        hold(
            self.http.stored_timeout >= self.http.body_timeout,
            "http.stored_timeout",
            "must be at least http.body_timeout",
        );
        for (key, duration) in [
            ("http.header_timeout", self.http.header_timeout),
            ("http.body_timeout", self.http.body_timeout),
            ("http.stored_timeout", self.http.stored_timeout),
            ("http.keep_alive", self.http.keep_alive),
            ("http.answer_timeout", self.http.answer_timeout),
            ("http.connection_age_max", self.http.connection_age_max),
            ("session.no_events_timeout", self.session.no_events_timeout),
            ("session.no_playhead_timeout", self.session.no_playhead_timeout),
            ("session.age_max", self.session.age_max),
            ("journal.segment_age_max", self.journal.segment_age_max),
            ("journal.checkpoint_interval", self.journal.checkpoint_interval),
        ] {
            hold(
                duration >= Duration::from_millis(1) && duration <= DURATION_MAX,
                key,
                "must be at least 1 ms and at most a year",
            );
        }
        hold(
            self.rejects.retention.is_zero() || self.rejects.retention >= Duration::from_secs(1),
            "rejects.retention",
            "must be at least 1 s, or 0s for no bound",
        );
        for (key, duration) in [
            ("shutdown.grace", self.shutdown.grace),
            ("shutdown.drain_max", self.shutdown.drain_max),
            ("rejects.retention", self.rejects.retention),
        ] {
            hold(duration <= DURATION_MAX, key, "must be at most a year");
        }
        hold(!self.data_dir.as_os_str().is_empty(), "data_dir", "must name a folder");
        hold(
            self.http.bodies_bytes_max >= self.http.stored_bytes_max,
            "http.bodies_bytes_max",
            "must be at least http.stored_bytes_max",
        );
        hold(
            session::EVENTS_MAX_RANGE.contains(&self.session.events_max),
            "session.events_max",
            "must be from 10 to 100000",
        );
        hold(self.live.sessions_max > 0, "live.sessions_max", "must be at least 1");
        hold(
            self.live.bytes_max >= Size::mib(1),
            "live.bytes_max",
            "must be at least 1 MiB, or no session finds room",
        );
        let uncommitted = self.journal.uncommitted_bytes_max;
        hold(
            uncommitted >= Size::mib(1),
            "journal.uncommitted_bytes_max",
            "must be at least 1 MiB",
        );
        found.extend(self.contradictions_of_doors());
        found.extend(self.tls.contradictions());
        let limits = self.limits.contradictions().into_iter();
        found.extend(limits.map(|(key, why)| (key, why.to_owned())));
        found.extend(self.memory.problems());
        found.extend(self.privacy.contradictions());
        if self.limits.report_suite_requests_per_second > 0
            && let Some(setting) = self.privacy.naming(limits::REPORT_SUITE)
        {
            let (key, limit) = (limits::REPORT_SUITE, "limits.report_suite_requests_per_second");
            found.push((setting, format!("names {key}, by which {limit} counts events")));
        }
        if let Err(problem) = self.log.filter() {
            found.push(("log.level", format!("not a level or a list of directives: {problem}")));
        }
        found
    }

    /// The same of the two addresses, and of who may look.
    fn contradictions_of_doors(&self) -> Vec<(&'static str, String)> {
        let (players, operators) = (self.listen, self.admin_listen);
        // The unspecified address of IPv6 takes what comes by IPv4 too.
        let covers = |all: SocketAddr, one: SocketAddr| {
            all.ip() == one.ip() || all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4())
        };
        let shares_ip = covers(players, operators) || covers(operators, players);
        let is_shared = shares_ip && players.port() == operators.port() && players.port() != 0;
        let is_open = !self.admin.has_token() && !http::is_local(operators);
        let two_tokens = self.admin.token.is_some() && self.admin.has_file();
        [
            (two_tokens, "admin.token_file", "admin.token is set too; one of them must be empty"),
            (is_open, "admin_listen", http::NEEDS_TOKEN),
            (is_shared, "admin_listen", "must not be the address of listen; choose another port"),
        ]
        .into_iter()
        .filter(|(is_wrong, ..)| *is_wrong)
        .map(|(_, key, why)| (key, why.to_owned()))
        .collect()
    }
}

impl Config {
    /// The account of memory that these settings make, and where its size comes from.
    pub fn memory(&self) -> (Memory, Origin) {
        let (max, origin) = self.memory.resolved();
        let caps = [
            (Kind::Bodies, self.http.bodies_bytes_max),
            (Kind::Journal, self.journal.uncommitted_bytes_max),
            (Kind::Live, self.live.bytes_max),
        ];
        let trusted = &self.http.trusted_proxies;
        let unlimited = trusted.iter().chain(&self.limits.unlimited_addresses).copied().collect();
        (Memory::new(max, self.memory.client_share, &caps, unlimited), origin)
    }
}

impl Config {
    fn has_section(name: &str) -> bool {
        let defaults = Table::try_from(Self::default()).expect("the defaults are TOML");
        defaults.get(name).is_some_and(Value::is_table)
    }
}

impl Loaded {
    /// The settings as a file, each with where it came from; secrets are hidden.
    pub fn to_commented_toml(&self) -> String {
        use fmt::Write;

        let table = Table::try_from(&self.config).expect("settings are TOML");
        let mut text = String::new();
        let mut section = "";
        for (key, value) in leaves(&table) {
            let (this_section, name) = key.split_once('.').unwrap_or(("", &key));
            if this_section != section {
                section = known_section(&table, this_section);
                let _ = write!(text, "\n[{section}]\n");
            }
            let source = self.sources.get(&key).map_or("default", String::as_str);
            let _ = writeln!(text, "{name} = {value} # {source}");
        }
        text
    }
}

fn known_section<'t>(table: &'t Table, name: &str) -> &'t str {
    table.get_key_value(name).map_or("", |(section, _)| section.as_str())
}

/// The values of the file, and why not all of it can be read.
fn read_file(sources: &Sources) -> (Vec<Override>, Option<String>) {
    let from_env = sources.env.iter().find(|(name, _)| name == ENV_FILE);
    let named = sources.file.clone().or_else(|| from_env.map(|(_, path)| path.into()));
    let path = named.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    let source = path.display().to_string();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            return (Vec::new(), None);
        }
        Err(error) => {
            let problem = format!("cannot read the configuration file {source}: {error}");
            return (Vec::new(), Some(problem));
        }
    };
    let (table, problem) = match text.parse::<Table>() {
        Ok(table) => (table, None),
        // Not the whole of the error, which repeats the line: it may hold a secret.
        Err(error) => {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.lines().count().max(1);
            let problem = format!("{source} line {line}: {}", error.message());
            (log_format_before(before), Some(problem))
        }
    };
    let from_file = |(key, value): (String, &Value)| Override {
        key,
        value: value.clone(),
        source: source.clone(),
    };
    // A section without keys says nothing, but its name may be wrong.
    let sections = table.iter().filter(|(name, value)| {
        let is_empty = value.as_table().is_some_and(Table::is_empty);
        is_empty && !Config::has_section(name)
    });
    let sections = sections.map(|(name, value)| (name.clone(), value));
    (leaves(&table).into_iter().chain(sections).map(from_file).collect(), problem)
}

/// How logs look by the lines of a file that stand before one that cannot be read: whoever reads the log
/// finds the problem there.
fn log_format_before(text: &str) -> Table {
    let lines = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut table: Table = lines.parse().unwrap_or_default();
    table.retain(|section, _| section == "log");
    if let Some(Value::Table(log)) = table.get_mut("log") {
        log.retain(|key, value| key == "format" && !value.is_table());
    }
    table
}

/// `MEDIATALLY_SECTION__KEY` → `section.key`; the few keys without a section have no `__`.
///
/// Another variable without `__` is only warned about, because Kubernetes sets `MEDIATALLY_PORT`
/// and the like when a Service has that name.
fn key_of_variable(name: &str, defaults: &Table, warnings: &mut Vec<String>) -> Option<String> {
    let rest = name.strip_prefix(ENV_PREFIX).filter(|_| name != ENV_FILE)?;
    let key = rest.to_ascii_lowercase().replace("__", ".");
    let upper = !rest.bytes().any(|byte| byte.is_ascii_lowercase());
    let plain = || defaults.get(&key).is_some_and(|value| !value.is_table());
    if upper && (rest.contains("__") || plain()) {
        return Some(key);
    }
    let known = leaves(defaults);
    let known = known
        .iter()
        .map(|(key, _)| format!("{ENV_PREFIX}{}", key.to_ascii_uppercase().replace('.', "__")));
    let nearest = known
        .map(|known| (strsim::osa_distance(&known, &name.to_ascii_uppercase()), known))
        .min()
        .filter(|(distance, _)| *distance <= ENV_DISTANCE_MAX);
    let hint = nearest.map(|(_, known)| format!("; did you mean {known}?")).unwrap_or_default();
    warnings.push(format!(
        "the environment variable {name} sets nothing (settings are {ENV_PREFIX}SECTION__KEY){hint}"
    ));
    None
}

/// The text of a variable as the type that its key has.
fn value_of_text(text: &str, like: Option<&Value>) -> Value {
    let value = match like {
        Some(Value::Integer(_)) => text.parse().ok().map(Value::Integer),
        Some(Value::Boolean(_)) => text.parse().ok().map(Value::Boolean),
        Some(Value::Float(_)) => text.parse().ok().map(Value::Float),
        Some(Value::Array(_)) => Some(list_of_text(text)),
        _ => None,
    };
    value.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// A list as the file has it, or with its items separated by commas and nothing else. What begins like the one
/// and is neither is no list.
fn list_of_text(text: &str) -> Value {
    if text.trim_start().starts_with('[') {
        let table: Option<Table> = format!("list = {text}").parse().ok();
        let alone = table.filter(|table| table.len() == 1);
        let list = alone.and_then(|mut table| table.remove("list"));
        return list.unwrap_or_else(|| Value::String(text.to_owned()));
    }
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
}

/// Why a value cannot be used.
enum Wrong {
    /// There is no such key; this one is near.
    Key(Option<String>),
    /// There is no such section; this one is near.
    NoSection(Option<String>),
    /// It is a section.
    Section,
    /// The key takes other values.
    Value(String),
}

impl Wrong {
    /// The problem, as the operator reads it. What stands at a key that does not exist may be a secret
    /// under a misspelt name, and so may be what serde repeats, so neither is shown.
    fn told(&self, key: &str, value: &Value, source: &str) -> String {
        match self {
            Self::Key(nearest) => {
                let hint = nearest.as_ref().map(|known| format!("; did you mean {known}?"));
                format!("{key} ({source}): no such key{}", hint.unwrap_or_default())
            }
            Self::NoSection(nearest) => {
                let hint = nearest.as_ref().map(|known| format!("; did you mean [{known}]?"));
                let hint = hint.unwrap_or_default();
                match key.split_once('.') {
                    Some((section, _)) => {
                        format!("{key} ({source}): there is no section [{section}]{hint}")
                    }
                    None => format!("[{key}] ({source}): no such section{hint}"),
                }
            }
            Self::Section => format!("{key} ({source}): this is a section, not a key"),
            Self::Value(_) if SECRETS.contains(&key) => {
                format!(
                    "{} ({source}): this secret is not of the form that it must have, which is {}",
                    shown(key, value),
                    if key == TOKEN { http::form_of_token() } else { KEY_FORM.to_owned() }
                )
            }
            Self::Value(why) => format!("{} ({source}): {why}", shown(key, value)),
        }
    }
}

/// Tries one value alone against the defaults.
fn try_alone(defaults: &Table, key: &str, value: &Value) -> Result<(), Wrong> {
    if lookup(defaults, key).is_none_or(Value::is_table) {
        if defaults.get(key).is_some_and(Value::is_table) {
            return Err(Wrong::Section);
        }
        let keys = leaves(defaults);
        let (section, name) = key.split_once('.').unwrap_or((key, ""));
        let is_unknown = defaults.get(section).is_none_or(|value| !value.is_table());
        if is_unknown && (key.contains('.') || value.is_table()) {
            let sections = defaults.iter().filter(|(_, value)| value.is_table());
            let section = nearest(section, sections.map(|(section, _)| section.as_str()));
            // Its key may well be known there.
            let keys = keys.iter().map(|(key, _)| key.as_str());
            let known = section.as_ref().and_then(|section| {
                let wanted = format!("{section}.{name}");
                nearest(&wanted, keys.filter(|key| key.split('.').next() == Some(section)))
                    .filter(|known| strsim::osa_distance(known, &wanted) <= KEY_DISTANCE_MAX)
            });
            return Err(known.map_or(Wrong::NoSection(section), |known| Wrong::Key(Some(known))));
        }
        return Err(Wrong::Key(nearest(key, keys.iter().map(|(key, _)| key.as_str()))));
    }
    let mut tried = defaults.clone();
    set(&mut tried, key, value.clone());
    let problem = tried.try_into::<Config>().err();
    let wrong = |problem: toml::de::Error| {
        Err(Wrong::Value(explained(problem.message(), value, lookup(defaults, key))))
    };
    problem.map_or(Ok(()), wrong)
}

/// The known name that is nearest, if it is near.
fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<String> {
    let nearest = known.map(|known| (strsim::osa_distance(known, name), known)).min();
    let nearest = nearest.filter(|(distance, known)| *distance * 2 <= known.len());
    nearest.map(|(_, known)| known.to_owned())
}

/// A problem with a value in the words of who writes settings, where it is told in those of a program.
fn explained(problem: &str, value: &Value, like: Option<&Value>) -> String {
    let form = match like {
        Some(Value::Integer(_)) if value.is_integer() => {
            "expected a whole number that is neither negative nor so large"
        }
        Some(Value::Integer(_)) => "expected a whole number",
        Some(Value::Boolean(_)) => "expected true or false",
        Some(Value::Array(_)) if !value.is_array() => {
            "expected a list such as [\"a\", \"b\"], in the environment also a,b"
        }
        _ if problem.contains("socket address") => {
            "expected an IP address and a port, such as \"0.0.0.0:8080\" or \"[::]:8080\""
        }
        _ if problem.contains("expected a duration") => {
            "expected a duration such as \"250ms\", \"10s\", \"5m\" or \"48h\""
        }
        _ => problem,
    };
    form.to_owned()
}

fn lookup<'t>(table: &'t Table, key: &str) -> Option<&'t Value> {
    match key.split_once('.') {
        Some((section, key)) => table.get(section)?.as_table()?.get(key),
        None => table.get(key),
    }
}

fn set(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        Some((section, key)) => {
            if let Some(Value::Table(section)) = table.get_mut(section) {
                section.insert(key.to_owned(), value);
            }
        }
        None => {
            table.insert(key.to_owned(), value);
        }
    }
}

/// Every value of a table with its key, those without a section first.
fn leaves(table: &Table) -> Vec<(String, &Value)> {
    let (sections, plain): (Vec<_>, Vec<_>) = table.iter().partition(|(_, value)| value.is_table());
    let plain = plain.into_iter().map(|(key, value)| (key.clone(), value));
    let nested =
        sections.into_iter().filter_map(|(section, value)| Some((section, value.as_table()?)));
    plain
        .chain(nested.flat_map(|(section, table)| {
            table.iter().map(move |(key, value)| (format!("{section}.{key}"), value))
        }))
        .collect()
}

fn shown(key: &str, value: &Value) -> String {
    // A key that was put where the path of its file belongs is a secret too.
    let secret = SECRETS.contains(&key) || value.to_string().contains("PRIVATE KEY");
    if secret { format!("{key} = (hidden)") } else { format!("{key} = {value}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with this text.
    fn file(text: &str) -> (tempfile::TempDir, Sources) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.toml");
        std::fs::write(&path, text).unwrap();
        (folder, Sources { file: Some(path), ..Sources::default() })
    }

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    fn problems(sources: &Sources) -> String {
        load(sources).unwrap_err().to_string()
    }

    #[test]
    fn the_commented_file_has_every_key_with_its_default() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/mediatally.toml");
        let text = std::fs::read_to_string(path).unwrap();
        let file: Table = text.parse().unwrap();
        let defaults = Table::try_from(Config::default()).unwrap();
        let keys = |table| leaves(table).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        let (mut in_file, mut in_code) = (keys(&file), keys(&defaults));
        in_file.sort();
        in_code.sort();
        assert_eq!(in_file, in_code, "same keys");
        let from_file: Config = file.try_into().unwrap();
        assert_eq!(Table::try_from(from_file).unwrap(), defaults, "same defaults");
        for (number, line) in text.lines().enumerate() {
            let above = text.lines().nth(number.wrapping_sub(1)).unwrap_or_default();
            let documented =
                above.starts_with('#') || !line.contains(" = ") || line.starts_with('#');
            assert!(documented, "line {} has no comment above it: {line}", number + 1);
        }
    }

    #[test]
    fn later_layers_win_and_each_value_knows_its_source() {
        let (_folder, mut sources) = file(
            "listen = \"127.0.0.1:1\"\nadmin_listen = \"127.0.0.1:2\"\n[http]\nconnections_max = 3\n\
             keep_alive = \"1m\"\n[validation]\nstrict = true",
        );
        sources.env = env(&[
            ("MEDIATALLY_LISTEN", "127.0.0.1:4"),
            ("MEDIATALLY_HTTP__CONNECTIONS_MAX", "5"),
            ("MEDIATALLY_VALIDATION__PROFILE", "open"),
            ("PATH", "/bin"),
        ]);
        sources.flags = vec![("--listen", "listen", "127.0.0.1:6".into())];
        let loaded = load(&sources).unwrap();
        assert_eq!(loaded.config.listen.port(), 6);
        assert_eq!(loaded.config.admin_listen.port(), 2);
        assert_eq!(loaded.config.http.connections_max, 5);
        assert_eq!(loaded.config.http.keep_alive.as_secs(), 60);
        assert!(loaded.config.validation.strict);
        assert_eq!(loaded.config.validation.profile, wire::Profile::Open);
        let text = loaded.to_commented_toml();
        assert!(text.contains("listen = \"127.0.0.1:6\" # --listen\n"), "{text}");
        assert!(
            text.contains("connections_max = 5 # MEDIATALLY_HTTP__CONNECTIONS_MAX\n"),
            "{text}"
        );
        assert!(
            text.contains("\n[validation]\nprofile = \"open\" # MEDIATALLY_VALIDATION__PROFILE\n"),
            "{text}"
        );
        assert!(text.contains("data_dir = \"./data\" # default\n"), "{text}");
    }

    #[test]
    fn every_problem_is_named_with_key_value_source_and_nearest_key() {
        let (folder, mut sources) = file(
            "lisen = \"127.0.0.1:1\"\n[http]\nconections_max = 3\nheader_timeout = \"soon\"\n\
             [live]\nbytes_max = \"a lot\"\n[session]\nkey = \"short\"\n[nothing]\nlike = \"it\"",
        );
        sources.env = env(&[
            ("MEDIATALLY_VALIDATION__STRICT", "perhaps"),
            ("MEDIATALLY_LIVE__SESIONS_MAX", "1"),
        ]);
        let text = problems(&sources);
        let path = folder.path().join("test.toml");
        let path = path.display();
        for expected in [
            "the configuration has 8 problems".to_owned(),
            format!("lisen ({path}): no such key; did you mean listen?"),
            format!("http.conections_max ({path}): no such key; did you mean http.connections_max?"),
            format!("http.header_timeout = \"soon\" ({path}): "),
            format!("live.bytes_max = \"a lot\" ({path}): "),
            format!("session.key = (hidden) ({path}): this secret is not of the form that it must have"),
            format!("nothing.like ({path}): there is no section [nothing]"),
            "validation.strict = \"perhaps\" (MEDIATALLY_VALIDATION__STRICT): ".to_owned(),
            "live.sesions_max (MEDIATALLY_LIVE__SESIONS_MAX): no such key; did you mean live.sessions_max?".to_owned(),
        ] {
            assert!(text.contains(&expected), "{expected}\nin\n{text}");
        }
        assert!(!text.contains("short"), "a secret is never shown: {text}");
    }

    #[test]
    fn a_section_that_nobody_knows_is_named_with_the_nearest() {
        for (text, env_name, expected) in [
            ("[journl]", "", "[journl] (FILE): no such section; did you mean [journal]?"),
            (
                "[journl]\nx = 1",
                "",
                "journl.x (FILE): there is no section [journl]; did you mean [journal]?",
            ),
            (
                "[limts]\nclient_burst = 1",
                "",
                "limts.client_burst (FILE): no such key; did you mean limits.client_burst?",
            ),
            ("[nothing]", "", "[nothing] (FILE): no such section"),
            ("[nothing]\nlike = 1", "", "nothing.like (FILE): there is no section [nothing]"),
            (
                "journl.x.y = 1",
                "",
                "journl.x (FILE): there is no section [journl]; did you mean [journal]?",
            ),
            (
                "",
                "MEDIATALLY_JOURNL__X",
                "journl.x (MEDIATALLY_JOURNL__X): there is no section [journl]; did you mean [journal]?",
            ),
            ("", "MEDIATALLY_HTP__KEEP_ALIVE", "did you mean http.keep_alive?"),
        ] {
            let (folder, mut sources) = file(text);
            if !env_name.is_empty() {
                sources.env = env(&[(env_name, "1")]);
            }
            let path = folder.path().join("test.toml");
            let said = problems(&sources).replace(&path.display().to_string(), "FILE");
            assert!(said.lines().nth(1).unwrap().ends_with(expected), "{expected}\nin\n{said}");
            assert_eq!(said.lines().count(), 2, "{said}");
        }
        let (_folder, sources) = file("[journal]\n[http]");
        assert!(load(&sources).is_ok(), "an empty section that is known does no harm");
    }

    #[test]
    fn how_logs_look_is_known_as_far_as_the_configuration_can_be_read() {
        use telemetry::Format::{Auto, Human, Json};
        for (text, env_text, expected) in [
            ("[log]\nformat = \"json\"\n[htp]\nx = 1", "", Json),
            ("[log]\nformat = \"json\"\n[http]\nconnections_max = many", "", Json),
            ("[log]\nformat = \"json\"\nlisten = \"", "", Json),
            ("[http]\nconnections_max = many\n[log]\nformat = \"json\"", "", Auto),
            ("[http]\nconnections_max = many\n[log]\nformat = \"json\"", "human", Human),
            ("[log]\nformat = \"jsn\"", "", Auto),
            ("listen = 1", "json", Json),
        ] {
            let (_folder, mut sources) = file(text);
            if !env_text.is_empty() {
                sources.env = env(&[("MEDIATALLY_LOG__FORMAT", env_text)]);
            }
            let problems = load(&sources).unwrap_err();
            assert_eq!(problems.log_format, expected, "{text}");
            assert_eq!(problems.list.len(), 1, "{problems}");
        }
    }

    #[test]
    fn values_that_cannot_work_are_problems() {
        let (_folder, sources) = file(
            "[http]\nconnections_max = 0\nevent_bytes_max = \"1GiB\"\nbody_timeout = \"0s\"\n\
             keep_alive = \"500000years\"\ntrusted_proxies = [\"::/0\"]\n[live]\nsessions_max = 0\nbytes_max = 1\n[session]\nevents_max = 9\n[limits]\nclient_burst = 0\n[log]\nlevel = \"inof\"",
        );
        let text = problems(&sources);
        for key in [
            "http.connections_max = 0",
            "http.event_bytes_max",
            "http.body_timeout = \"0s\"",
            "live.sessions_max = 0",
            "live.bytes_max",
            "session.events_max = 9",
            "limits.client_burst = 0",
            "log.level = \"inof\"",
            "http.keep_alive",
            "http.trusted_proxies = [\"::/0\"]",
        ] {
            assert!(text.contains(key), "{key}\nin\n{text}");
        }
    }

    #[test]
    fn a_certificate_without_its_key_or_a_key_in_place_of_its_path_stops_the_start() {
        let (_folder, sources) = file("[tls]\ncertificate = \"c.pem\"\nadmin_key = \"k.pem\"");
        let text = problems(&sources);
        for expected in [
            "tls.key = \"\" (default): must name a file, since tls.certificate does",
            "tls.admin_certificate = \"\" (default): must name a file, since tls.admin_key does",
        ] {
            assert!(text.contains(expected), "{expected}\nin\n{text}");
        }
        let pem = "-----BEGIN PRIVATE KEY-----\\nc2VjcmV0\\n-----END PRIVATE KEY-----";
        let (_folder, sources) = file(&format!("[tls]\ncertificate = \"c\"\nkey = \"{pem}\""));
        let text = problems(&sources);
        assert!(text.contains("tls.key = (hidden)"), "{text}");
        assert!(text.contains("must be the path of a file"), "{text}");
        assert!(!text.contains("c2VjcmV0"), "{text}");
        let (_folder, sources) = file("[tls]\ncertificate = \"c.pem\"\nkey = \"k.pem\"");
        assert!(load(&sources).is_ok(), "the files are read when the server starts");
    }

    #[test]
    fn what_events_are_counted_by_is_kept() {
        let (_folder, mut sources) = file("[limits]\nreport_suite_requests_per_second = 5");
        assert!(load(&sources).is_ok());
        sources.env = env(&[("MEDIATALLY_PRIVACY__HASH", "analytics.visitorId")]);
        assert!(load(&sources).is_ok());
        for (setting, name) in
            [("privacy.hash", "analytics.reportSuite"), ("privacy.drop", "analytics.*")]
        {
            let variable = format!("MEDIATALLY_{}", setting.to_uppercase().replace('.', "__"));
            sources.env = env(&[(&variable, name)]);
            let text = problems(&sources);
            let expected =
                format!("{setting} = [\"{name}\"] ({variable}): names analytics.reportSuite");
            assert!(text.contains(&expected), "{expected}\nin\n{text}");
        }
    }

    #[test]
    fn a_secret_is_not_shown_under_any_mistake() {
        let secret = "5ecre7".repeat(3);
        for text in [
            format!("[session]\nkeys = \"{secret}\""),
            format!("[session]\nKey = \"{secret}\""),
            format!("[session]\nkey = \"{secret}"),
            format!("[session]\nkey = \"{secret}\"\nkey = \"{secret}\""),
            format!("session = \"{secret}\""),
        ] {
            let (_folder, sources) = file(&text);
            assert!(!problems(&sources).contains(&secret), "{text}");
        }
        let (_folder, sources) = file("[session]\nkey = 123456789");
        assert!(!problems(&sources).contains("123456789"));
    }

    #[test]
    fn a_file_that_is_named_must_be_there_and_be_toml() {
        let missing = Sources { file: Some("/nowhere/x.toml".into()), ..Sources::default() };
        assert!(problems(&missing).contains("cannot read the configuration file /nowhere/x.toml"));
        let missing =
            Sources { env: env(&[("MEDIATALLY_CONFIG", "/nowhere/y.toml")]), ..Sources::default() };
        assert!(problems(&missing).contains("/nowhere/y.toml"));
        let (_folder, broken) = file("listen = ");
        assert!(problems(&broken).contains("test.toml line 1: "));
    }

    #[test]
    fn a_variable_has_a_list_with_commas() {
        let list = |text| value_of_text(text, Some(&Value::Array(Vec::new()))).to_string();
        assert_eq!(list("a, b ,,c"), r#"["a", "b", "c"]"#);
        assert_eq!(list(""), "[]");
        assert_eq!(list(r#" ["a", "b,c"]"#), r#"["a", "b,c"]"#, "as the file has it");
        for no_list in [r#"["a""#, "[a]", r#"["a"] "b""#, "[\"a\"]\nb = 1"] {
            let name = "MEDIATALLY_PRIVACY__DROP";
            let sources = Sources { env: env(&[(name, no_list)]), ..Sources::default() };
            assert!(problems(&sources).contains("expected a list such as"), "{no_list}");
        }
    }

    #[test]
    fn a_problem_tells_what_form_is_wanted() {
        for (name, text, expected) in [
            ("HTTP__HEADER_TIMEOUT", "10", "expected a duration such as \"250ms\""),
            ("LISTEN", "localhost:8080", "expected an IP address and a port, such as"),
            ("ADMIN_LISTEN", ":8080", "expected an IP address and a port, such as"),
            ("HTTP__CONNECTIONS_MAX", "many", "expected a whole number"),
            ("HTTP__CONNECTIONS_MAX", "-1", "expected a whole number that is neither negative"),
            ("LIMITS__CLIENT_BURST", "4294967296", "nor so large"),
            ("VALIDATION__STRICT", "yes", "expected true or false"),
            ("SESSION__KEY", "short", "which is 64 hexadecimal digits"),
            ("ADMIN__TOKEN", "short", "which is 16 to 1024 printable"),
            ("ADMIN_LISTEN", "127.0.0.1:8080", "must not be the address of listen"),
            ("LISTEN", "127.0.0.1:9464", "must not be the address of listen"),
            ("LISTEN", "[::]:9464", "must not be the address of listen"),
        ] {
            let env = env(&[(&format!("MEDIATALLY_{name}"), text)]);
            let text = problems(&Sources { env, ..Sources::default() });
            assert!(text.contains(expected), "{name}: {expected}\nin\n{text}");
            assert!(text.contains("has 1 problem\n"), "{text}");
        }
        let env = env(&[
            ("MEDIATALLY_ADMIN_LISTEN", "0.0.0.0:9464"),
            ("MEDIATALLY_ADMIN__TOKEN", "short"),
        ]);
        let text = problems(&Sources { env, ..Sources::default() });
        assert!(text.contains("has 1 problem\n"), "not that there is none: {text}");
        let apart = Sources {
            env: self::env(&[("MEDIATALLY_LISTEN", "[::1]:9464")]),
            ..Sources::default()
        };
        assert!(load(&apart).is_ok(), "the one is no part of the other");
    }

    #[test]
    fn a_foreign_variable_is_only_warned_about() {
        let sources =
            Sources { env: env(&[("MEDIATALLY_PORT", "tcp://10.0.0.1:80")]), ..Sources::default() };
        let loaded = load(&sources).unwrap();
        assert_eq!(loaded.warnings.len(), 1);
        assert!(
            loaded.warnings[0]
                .ends_with("MEDIATALLY_PORT sets nothing (settings are MEDIATALLY_SECTION__KEY)")
        );
        for (name, meant) in [
            ("MEDIATALLY_LISTN", "MEDIATALLY_LISTEN"),
            ("MEDIATALLY_HTTP_KEEP_ALIVE", "MEDIATALLY_HTTP__KEEP_ALIVE"),
            ("MEDIATALLY_http__keep_alive", "MEDIATALLY_HTTP__KEEP_ALIVE"),
        ] {
            let sources = Sources { env: env(&[(name, "x")]), ..Sources::default() };
            let warnings = load(&sources).unwrap().warnings;
            assert!(warnings[0].ends_with(&format!("did you mean {meant}?")), "{warnings:?}");
        }
    }

    #[test]
    fn a_secret_is_hidden_when_settings_are_shown() {
        let key = "ab".repeat(32);
        let sources =
            Sources { env: env(&[("MEDIATALLY_SESSION__KEY", &key)]), ..Sources::default() };
        let loaded = load(&sources).unwrap();
        assert!(loaded.config.session.key.is_some());
        let text = loaded.to_commented_toml();
        assert!(text.contains("key = \"(hidden)\" # MEDIATALLY_SESSION__KEY"), "{text}");
        assert!(!format!("{:?}", loaded.config).contains("ababab"));
    }
}
