//! Why a bridge cannot start, or ended.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

use crate::config::TokenError;
use crate::net::unix;
use crate::tls::TlsError;

/// Why a bridge cannot start.
#[derive(Debug, Error)]
pub enum BuildError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A Unix socket cannot be listened on.
    #[error("cannot listen on unix:{}", path.display())]
    Unix {
        /// Its path.
        path: PathBuf,
        /// What stands in the way.
        source: unix::BindError,
    },
    /// A socket was passed that other hosts can reach, and nobody has said who may connect.
    #[error(
        "the socket {address} that was passed would let any host use the gateway of `{listener}`"
    )]
    Exposed {
        /// The listener that it is for.
        listener: String,
        /// Where it listens.
        address: SocketAddr,
    },
    /// The kernel does not have the congestion control algorithm, or does not allow it.
    #[error("congestion_control is `{name}`, which the kernel refuses")]
    CongestionControl {
        /// The algorithm.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A side's TLS cannot be set up.
    #[error("{place}")]
    Tls {
        /// The section of the configuration.
        place: String,
        /// What stands in the way.
        source: Box<TlsError>,
    },
    /// A data thread cannot be started.
    #[error("cannot start a data thread")]
    Thread(#[source] io::Error),
    /// The admin token is to come from a file that has none.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl BuildError {
    /// What may be done about it.
    pub fn hint(&self) -> Option<&'static str> {
        let source = match self {
            Self::Bind { source, .. } => source,
            Self::Unix { source, .. } => return source.hint(),
            Self::Tls { source, .. } => return source.hint(),
            Self::CongestionControl { .. } => {
                return Some("see net.ipv4.tcp_allowed_congestion_control, or set system");
            }
            Self::Exposed { .. } => {
                return Some(
                    "set `allow`, client_tls = \"required\" or allow_any, or a loopback address in the \
                     socket unit",
                );
            }
            Self::Thread(_) => {
                return Some(
                    "threads = N (--threads) asks for fewer; ulimit -n and -u, and a container's \
                     limit of processes, tell how many there may be",
                );
            }
            Self::Token(_) => return None,
        };
        match source.kind() {
            io::ErrorKind::AddrInUse => {
                Some("another process listens there; choose another port with --listen or --admin")
            }
            io::ErrorKind::PermissionDenied => {
                Some("ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one")
            }
            io::ErrorKind::AddrNotAvailable => Some("no interface of this host has that address"),
            _ => None,
        }
    }
}

/// Why a bridge that had started ended.
#[derive(Debug, Error)]
pub enum RunError {
    /// A task that the bridge cannot do without panicked; the log has where.
    #[error("a task that the bridge cannot do without panicked")]
    Panicked,
    /// A socket cannot be handed to the runtime.
    #[error("cannot use a listening socket")]
    Socket(#[source] io::Error),
}
