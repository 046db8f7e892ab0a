//! What systemd hands over and wants to know: sockets that outlive the process, and how far it is.

use std::io;
use std::net::TcpListener;

use listenfd::ListenFd;
use sd_notify::NotifyState;

/// How systemd names the socket of the operators (`FileDescriptorName`).
const ADMIN_NAME: &str = "admin";

/// The sockets that are open already; one that is not there is bound by the settings.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// Where players post.
    pub(super) players: Option<TcpListener>,
    /// Where operators look.
    pub(super) admin: Option<TcpListener>,
}

impl Sockets {
    /// The sockets that systemd passes to this process, if it does.
    ///
    /// # Errors
    /// That they are too many, or no sockets of TCP.
    pub(super) fn from_systemd() -> Result<Self, WrongSockets> {
        let mut passed = ListenFd::from_env();
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<_> = names.split(':').collect();
        let mut sockets = Self::default();
        for index in 0..passed.len() {
            let is_admin = names.get(index) == Some(&ADMIN_NAME);
            let (place, which) = if is_admin {
                (&mut sockets.admin, "operators")
            } else {
                (&mut sockets.players, "players")
            };
            if place.is_some() {
                return Err(WrongSockets::TooMany(which));
            }
            let socket = passed.take_tcp_listener(index);
            *place = socket.map_err(|source| WrongSockets::NotTcp(which, source))?;
        }
        Ok(sockets)
    }
}

/// The sockets that systemd passes cannot be used; until somebody changes its units, a restart does not help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WrongSockets {
    /// More than one for the same.
    #[error(
        "systemd passes two sockets for {0}: one is enough, and that of the operators is named \
         FileDescriptorName={ADMIN_NAME}"
    )]
    TooMany(&'static str),
    /// One that is no TCP socket.
    #[error("systemd passes a socket for {0} that is no TCP socket (ListenStream=ADDRESS:PORT)")]
    NotTcp(&'static str, #[source] io::Error),
}

/// Tells systemd that requests are served.
pub(super) fn ready() {
    tell(NotifyState::Ready);
}

/// Tells systemd that the server stops.
pub(super) fn stopping() {
    tell(NotifyState::Stopping);
}

/// Does nothing where systemd does not listen.
fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd cannot be told the state of the server (NOTIFY_SOCKET)");
    }
}
