//! Both doors: bound, under TLS if they have certificates, and answering from the first moment on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::systemd::Sockets;
use crate::clock::Clock;
use crate::config::Config;
use crate::http::connections::{self, Counts, Stage};
use crate::http::tls::{self, Follower, Tls};
use crate::http::{self, App, Gate, Guard, Health};
use crate::limits::memory::{Kind, Memory};
use crate::size::Size;
use crate::telemetry::labels::Listener;
use crate::telemetry::series::Series;

/// How many connections operators and health checks may hold at once.
const ADMIN_CONNECTIONS_MAX: usize = 128;

/// How many of them may come from one address, so that nobody from elsewhere keeps out health checks.
const ADMIN_CONNECTIONS_PER_ADDRESS_MAX: usize = 64;

/// What the account of the admin side is made for: its answers may have a twentieth of three quarters of it.
const ADMIN_MEMORY: Size = Size::gib(1);

/// Open files beside the connections of players: the admin side, logs, the data folder.
const FILES_RESERVED: usize = ADMIN_CONNECTIONS_MAX + 64;

/// With fewer connections the first few idle players would keep out all others.
const CONNECTIONS_MIN: usize = 64;

/// Both doors.
#[derive(Debug)]
pub struct Doors {
    /// Where players post; a port 0 of the settings has become the real one.
    pub listen: SocketAddr,
    /// Where operators look; so for its port.
    pub admin_listen: SocketAddr,
    /// The connections of players, counted.
    pub public_counts: Arc<Counts>,
    /// The connections of operators, counted.
    pub admin_counts: Arc<Counts>,
    pub(super) public_stage: watch::Sender<Stage>,
    pub(super) admin_stage: watch::Sender<Stage>,
    pub(super) public: JoinHandle<()>,
    pub(super) admin: JoinHandle<()>,
    /// Those who see when certificates change.
    pub(super) followers: Vec<JoinHandle<()>>,
}

/// Opens both doors for what they are there for, or says that they will not open.
pub(super) type Settle = Box<dyn FnOnce(Option<&App>) + Send>;

impl Doors {
    /// Listens, and answers that the journal is being read back until the doors are opened.
    ///
    /// # Errors
    /// The address that cannot be bound, the token or the certificate that cannot be used.
    pub(super) fn build(
        config: &Config,
        clock: &Clock,
        health: &Health,
        series: &Arc<Series>,
        memory: &Memory,
        sockets: Sockets,
    ) -> anyhow::Result<(Self, Settle)> {
        let public = listener(sockets.players, config.listen, LISTEN)?;
        let admin = listener(sockets.admin, config.admin_listen, ADMIN_LISTEN)?;
        let (listen, admin_listen) = (public.local_addr()?, admin.local_addr()?);
        // Nobody is let in before it is known who may.
        let guard = Guard::new(&config.admin, admin_listen)?;
        let (public_counts, admin_counts) = (Arc::<Counts>::default(), Arc::<Counts>::default());
        let (public_tls, public_follower) = open_tls(config.tls.public(), clock, &public_counts)?;
        let (admin_tls, admin_follower) = open_tls(config.tls.admin(), clock, &admin_counts)?;
        let (public_stage, public_stages) = watch::channel(Stage::Open);
        let (admin_stage, admin_stages) = watch::channel(Stage::Open);
        let public_gate =
            Gate::new(http::recovering_public(health.clone(), series), config.http.recovery_wait);
        let counts = [Arc::clone(&public_counts), Arc::clone(&admin_counts)];
        let before = http::recovering_admin(health.clone(), guard.clone(), series, counts);
        // Operators want to know how it stands.
        let admin_gate = Gate::new(before, Duration::ZERO);
        let settings = config.http.clone();
        let admin_settings = http::Settings {
            connections_max: ADMIN_CONNECTIONS_MAX,
            connections_per_address_max: ADMIN_CONNECTIONS_PER_ADDRESS_MAX,
            ..settings.clone()
        };
        let doors = Self {
            listen,
            admin_listen,
            public_stage,
            admin_stage,
            public: tokio::spawn(connections::serve(
                public,
                http::counted(Listener::Public, series, public_gate.clone()),
                settings,
                public_tls,
                memory.clone(),
                Arc::clone(&public_counts),
                public_stages,
            )),
            admin: tokio::spawn(connections::serve(
                admin,
                http::counted(Listener::Admin, series, admin_gate.clone()),
                admin_settings,
                admin_tls,
                admin_memory(memory),
                Arc::clone(&admin_counts),
                admin_stages,
            )),
            public_counts,
            admin_counts,
            followers: [public_follower, admin_follower]
                .into_iter()
                .flatten()
                .map(|follower| tokio::spawn(follower.run()))
                .collect(),
        };
        let settle = move |app: Option<&App>| match app {
            Some(app) => {
                public_gate.open(http::public(app.clone()));
                admin_gate.open(http::admin(app.clone(), guard, listen));
            }
            None => public_gate.give_up(),
        };
        Ok((doors, Box::new(settle)))
    }
}

/// What the connections of operators are charged to. They must get in whatever players use, and are few, so for their
/// connections a part of what stays for the program is enough. Their answers may be long, and go to those alone who
/// may look.
fn admin_memory(of_players: &Memory) -> Memory {
    let connections = Size::bytes(of_players.max().as_u64() / 32);
    Memory::new(ADMIN_MEMORY, 1.0, &[(Kind::Connections, connections)], Vec::new())
}

/// The TLS of a listener, if it has one, and who sees its files change.
fn open_tls(
    pair: Option<tls::Pair>,
    clock: &Clock,
    counts: &Arc<Counts>,
) -> anyhow::Result<(Option<Arc<Tls>>, Option<Follower>)> {
    let Some(pair) = pair else { return Ok((None, None)) };
    let (tls, follower) = Tls::open(pair, clock.clone(), Arc::clone(counts))?;
    Ok((Some(tls), Some(follower)))
}

/// A socket that is open already, or one that is bound to an address of the settings.
fn listener(
    open: Option<std::net::TcpListener>,
    address: SocketAddr,
    key: &'static str,
) -> Result<TcpListener, CannotListen> {
    let listener = match open {
        Some(open) => open.set_nonblocking(true).and_then(|()| TcpListener::from_std(open)),
        None => connections::listen(address),
    };
    listener.map_err(|source| CannotListen { address, key, source })
}

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key}); choose another address")]
pub(crate) struct CannotListen {
    address: SocketAddr,
    key: &'static str,
    source: io::Error,
}

impl CannotListen {
    /// Whether starting again does not help. An address that is in use may become free, and one that this machine
    /// does not have may come with its network.
    pub(crate) fn is_lasting(&self) -> bool {
        let passing = [io::ErrorKind::AddrInUse, io::ErrorKind::AddrNotAvailable];
        !passing.contains(&self.source.kind())
    }
}

/// Tries whether the addresses can be listened on. That one is in use is no fault: it may be by the server that will
/// be restarted.
///
/// # Errors
/// The address that cannot be.
pub(crate) fn check_addresses(config: &Config) -> Result<(), CannotListen> {
    for (address, key) in [(config.listen, LISTEN), (config.admin_listen, ADMIN_LISTEN)] {
        match connections::bind(address) {
            Err(source) if source.kind() != io::ErrorKind::AddrInUse => {
                return Err(CannotListen { address, key, source });
            }
            _ => {}
        }
    }
    Ok(())
}

const LISTEN: &str = "listen";
const ADMIN_LISTEN: &str = "admin_listen";

/// Raises the limit of open files as far as the system lets us, says so, and keeps the cap of
/// connections below it.
///
/// # Errors
/// That it leaves too few connections.
pub(super) fn fit_to_open_files(settings: &mut http::Settings) -> Result<(), TooFewOpenFiles> {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return Ok(());
    };
    tracing::info!(from = before.current, to = limit, "limit of open files");
    if let Some(connections_max) = connections_within(limit, settings)? {
        tracing::warn!(configured = settings.connections_max, connections_max, "{IS_LOWERED}");
        settings.connections_max = connections_max;
    }
    Ok(())
}

const IS_LOWERED: &str = "http.connections_max is lowered to fit the limit of open files";

/// The cap of connections, if it must be lowered to fit a limit of open files.
fn connections_within(
    limit: u64,
    settings: &http::Settings,
) -> Result<Option<usize>, TooFewOpenFiles> {
    let room = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(FILES_RESERVED);
    let least = settings.connections_max.min(CONNECTIONS_MIN);
    if room < least {
        return Err(TooFewOpenFiles { limit, needed: FILES_RESERVED + least });
    }
    Ok((settings.connections_max > room).then_some(room))
}

/// The limit of open files leaves too few connections.
#[derive(Debug, thiserror::Error)]
#[error(
    "the system lets this process have {limit} open files, which are too few: raise its limit (ulimit -n, \
     LimitNOFILE) to {needed} at least, and to {FILES_RESERVED} more than http.connections_max to have all of \
     them"
)]
pub(crate) struct TooFewOpenFiles {
    limit: u64,
    needed: usize,
}

/// What a start would say of the limit of open files that this process has. The service may have another.
pub(crate) fn open_files_warning(settings: &http::Settings) -> Option<String> {
    let limit = getrlimit(Resource::Nofile).maximum?;
    match connections_within(limit, settings) {
        Ok(lowered) => lowered.map(|to| format!("{IS_LOWERED}: {to}, for the one of this process")),
        Err(too_few) => Some(too_few.to_string()),
    }
}
