//! What an outsider can do to the server: attacks that were seen, run for seconds each, with normal players and a
//! probe beside them.
//!
//! `cargo bench --bench attack` starts a fresh server for each attack, with a data folder of its own, on free ports
//! of loopback. It prints a table row for each: what was uploaded, how much memory the server took at its peak
//! (`VmHWM`), how many requests of normal players were refused, how long the probe waited, and how the attack was
//! answered. The row `quiet` comes first; the times of the others are compared with it.
//!
//! `--check` makes it fail if a server took more than `--peak-max`, died, or refused more than one in a hundred
//! requests of normal players. Times are printed only: machines are noisy. `.ci/attack` runs it like that, with a
//! memory group around the server where one can be made.
//!
//! Attackers have the address 127.0.0.2, or several of 127.0.1.0/24; normal players those of 127.0.9.0/24. With
//! `--same-address` all are 127.0.0.1, as behind a proxy that is not trusted.
//!
//! Everything is bounded in count, bytes and time, and goes to a process that the bench itself has started. What
//! would crash, hang or slip past a check in other software is not here, such as floods of HTTP/2 control frames
//! or requests that two servers read differently.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints what it measured")]

mod attacks;
mod bodies;
mod client;
mod memory_group;
mod players;
mod server;
mod table;
mod tally;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytesize::ByteSize;
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::{Instant, sleep_until, timeout_at};

use attacks::{Attack, Target};
use client::Addresses;
use players::Players;
use server::{Bounds, Server};
use table::{Row, Table};
use tally::Tally;

/// How long an attack runs unless it is said.
const SECONDS: u64 = 4;

/// How long normal players go on after an attack.
const AFTER: Duration = Duration::from_millis(500);

/// How long an attack may take after its end to count what it held.
const COUNTING: Duration = Duration::from_secs(3);

/// Attacks a server of its own and prints what became of it.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
struct Arguments {
    /// The program to attack; the one that was built with this bench if it is left out.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_mediatally"))]
    server: PathBuf,
    /// How long each attack runs; some need a little longer to have an effect.
    #[arg(long, default_value_t = SECONDS)]
    seconds: u64,
    /// Runs only the attacks whose name contains one of these.
    #[arg(long)]
    only: Vec<String>,
    /// What the server gets as `memory.max`.
    #[arg(long)]
    memory_max: Option<String>,
    /// Puts the server into a memory group of this size, where one can be made.
    #[arg(long)]
    group: Option<ByteSize>,
    /// Gives attackers, players and the probe one address.
    #[arg(long)]
    same_address: bool,
    /// Ends a server that takes more memory than this.
    #[arg(long, default_value = "9GiB")]
    stop_at: ByteSize,
    /// The most memory that a server may take with `--check`.
    #[arg(long, default_value = "1GiB")]
    peak_max: ByteSize,
    /// Fails if a server took too much memory, died, or refused normal players.
    #[arg(long)]
    check: bool,
    /// Lists the attacks.
    #[arg(long)]
    list: bool,
    /// What `cargo bench` says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.list {
        for attack in attacks::ALL {
            println!("{:<24} {}", attack.name, attack.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let files_max = raise_files_max();
    println!(
        "server {}, memory.max {}, {}, {files_max} open files",
        arguments.server.display(),
        arguments.memory_max.as_deref().unwrap_or("not set"),
        memory_group::describe(arguments.group),
    );
    let is_chosen = |attack: &&Attack| {
        let names = &arguments.only;
        names.is_empty() || attack.is_quiet() || names.iter().any(|name| attack.name.contains(name))
    };
    let mut table = Table::begin();
    for attack in attacks::ALL.iter().filter(is_chosen) {
        let row = measure(attack, &arguments, files_max)
            .with_context(|| format!("the attack {}", attack.name))?;
        table.add(row);
    }
    let failures = table.failures(arguments.peak_max);
    for failure in &failures {
        eprintln!("attack: {failure}");
    }
    let is_bad = arguments.check && !failures.is_empty();
    Ok(if is_bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs one attack against a fresh server.
fn measure(attack: &Attack, arguments: &Arguments, files_max: usize) -> anyhow::Result<Row> {
    let bounds = Bounds {
        memory_max: arguments.memory_max.as_deref(),
        group: arguments.group,
        stop_at: arguments.stop_at,
    };
    let server = Server::start(&arguments.server, attack.settings, &bounds)?;
    let addresses = Addresses { are_same: arguments.same_address };
    let players = Players::begin(server.listen, addresses)?;
    let tally = Arc::new(Tally::default());
    let seconds = arguments.seconds.max(attack.seconds_min);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let end = Instant::now() + Duration::from_secs(seconds);
        let target = Target {
            listen: server.listen,
            admin_listen: server.admin_listen,
            data_folder: server.data_folder(),
            tally: Arc::clone(&tally),
            addresses,
            files_max,
            end,
        };
        // What an attack then still waits for does not matter any more.
        let _ = timeout_at(end + COUNTING, (attack.run)(target)).await;
        sleep_until(end + AFTER).await;
    });
    let players = players.end()?;
    // Only now, so that connections that are held count against the players to the last.
    runtime.shutdown_background();
    Ok(Row { name: attack.name, seconds, players, outcome: server.stop(), tally })
}

/// Raises the limit of open files as far as it goes; the server that is started has the same.
fn raise_files_max() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: maximum, maximum };
    let raised = setrlimit(Resource::Nofile, wanted).map_or(current, |()| maximum);
    raised.and_then(|files| usize::try_from(files).ok()).unwrap_or(1 << 20)
}
