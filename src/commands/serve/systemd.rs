//! What systemd hands over and wants to know: sockets that outlive the process, and how far it is.

use std::net::TcpListener;

use anyhow::{Context, bail};
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
    pub(super) fn from_systemd() -> anyhow::Result<Self> {
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
                bail!(
                    "systemd passes two sockets for {which}: one is enough, and that of the operators is named \
                     FileDescriptorName={ADMIN_NAME}"
                );
            }
            let socket = passed.take_tcp_listener(index);
            *place = socket.with_context(|| format!("the socket of systemd for {which}"))?;
        }
        Ok(sockets)
    }
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
