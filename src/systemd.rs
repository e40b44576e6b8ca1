//! The service manager: sockets that it passes, and what it is told. Without one all of it is silent.
//!
//! Source: sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3) of systemd.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use socket2::SockRef;
use tracing::warn;

/// A listening socket that was passed at the start.
#[derive(Debug)]
pub struct Inherited {
    /// `FileDescriptorName=` of the socket unit; without one it is the unit's name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// The socket, which stays open in the service manager when this process ends.
    pub socket: TcpListener,
}

/// Takes the sockets that were passed. Called once, before the first thread: it clears variables of
/// the environment.
///
/// # Errors
/// One of them is not a listening TCP socket.
#[expect(clippy::disallowed_methods, reason = "the service manager's word, not a setting")]
pub fn inherited() -> io::Result<Vec<Inherited>> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut passed = ListenFd::from_env();
    let mut inherited = Vec::new();
    for at in 0..passed.len() {
        let name = names.next().unwrap_or_default().to_owned();
        let Some(socket) = passed.take_tcp_listener(at)? else { continue };
        if !SockRef::from(&socket).is_listener()? {
            return Err(io::Error::other(format!("`{name}` does not listen")));
        }
        inherited.push(Inherited { name, address: socket.local_addr()?, socket });
    }
    Ok(inherited)
}

/// It serves; `line` is what the status of the unit shows.
pub fn ready(line: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(line)]);
}

/// It reads its settings again; [`ready`] follows.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "cannot tell the service manager of a reload"),
    }
}

/// It ends; `line` is what the status of the unit shows.
pub fn stopping(line: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(line)]);
}

/// It is alive.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] is expected, if it is.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|period| !period.is_zero())
}

fn tell(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot tell the service manager");
    }
}
