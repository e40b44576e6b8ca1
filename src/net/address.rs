//! Where a listener is, and who has connected to it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use tokio::net::unix::UCred;

/// Where clients connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The other end of a connection that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Its address.
    Tcp(SocketAddr),
    /// The process that connected, as the kernel vouches for.
    Unix(UCred),
}

impl Peer {
    /// Its IP address, an IPv4 one never written as an IPv6 one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip().to_canonical()),
            Self::Unix(_) => None,
        }
    }

    /// Whether it is on this host.
    pub fn is_local(&self) -> bool {
        self.ip().is_none_or(|ip| ip.is_loopback())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A socket that was passed may be for IPv4 as well.
            Self::Tcp(address) => {
                SocketAddr::new(address.ip().to_canonical(), address.port()).fmt(f)
            }
            // A process of another PID namespace has no number here: the kernel says 0.
            Self::Unix(process) => match process.pid().filter(|pid| *pid > 0) {
                Some(pid) => write!(f, "unix:pid={pid},uid={}", process.uid()),
                None => write!(f, "unix:uid={}", process.uid()),
            },
        }
    }
}
