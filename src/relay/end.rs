//! How a relay ended: who was first, and why.

use std::io;

use crate::net::socket::TcpInfo;

/// Who ended a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The upstream.
    Upstream,
    /// The bridge itself.
    Tidegate,
}

impl Side {
    /// The `side` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Tidegate => "tidegate",
        }
    }
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The side closed its direction, and in the end both were closed.
    Eof,
    /// The side sent an RST.
    Reset,
    /// The side stopped answering keepalive probes.
    Timeout,
    /// The side did not acknowledge what it was sent for `stall_timeout`, or a log-in for
    /// `connect_timeout`.
    Stalled,
    /// The path to the side failed.
    Unreachable,
    /// The drain timeout passed.
    Drain,
    /// The client did not answer the greeting in time.
    HandshakeTimeout,
    /// The server did not answer the client's first words in time.
    ReplyTimeout,
    /// Nothing moved for `idle_timeout`.
    IdleTimeout,
    /// It was older than `max_lifetime` and quiet.
    MaxLifetime,
    /// Its endpoint had left the DNS answer for `close_vanished_after`, and it was quiet.
    Vanished,
    /// The client changes its user, and that is not for the relay.
    ChangesUser,
    /// TLS with the side failed, or could not be had.
    Tls,
    /// The side broke the protocol, or wanted of it what cannot be had.
    Protocol,
    /// Another socket error.
    Error,
}

impl Reason {
    /// The `reason` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Eof => "eof",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Stalled => "stalled",
            Self::Unreachable => "unreachable",
            Self::Drain => "drain",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::ReplyTimeout => "reply_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::MaxLifetime => "max_lifetime",
            Self::Vanished => "vanished",
            Self::ChangesUser => "changes_user",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
            Self::Error => "error",
        }
    }

    /// What a socket error says about the peer.
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            // A write after the peer's RST or full close fails with EPIPE.
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Reset,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            _ => Self::Error,
        }
    }
}

/// How a relay ended.
#[derive(Debug)]
pub struct End {
    /// Who was first.
    pub side: Side,
    /// How.
    pub reason: Reason,
    /// Bytes written to the upstream.
    pub to_upstream: u64,
    /// Bytes written to the client.
    pub to_client: u64,
    /// The kernel's view of the upstream connection at the end, if the close record is written.
    pub upstream: Option<TcpInfo>,
}
