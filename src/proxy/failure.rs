//! How a log-in ends that the bridge has a part in.

use std::io;

use crate::mysql::auth::Unsafe;
use crate::mysql::packet::ErrorCode;
use crate::net::stream::Vanished;
use crate::relay::{Reason, Side};
use crate::tls::reason::reason;

/// A connection is used whose TLS could not be set up.
pub(super) const GONE: Failure = Failure::broken(Side::Tidegate, Reason::Error);

/// Why a log-in ended before the server had decided.
#[derive(Debug)]
pub(super) struct Failure {
    pub side: Side,
    pub reason: Reason,
    /// For the log and, where one can be given, for the client; empty if there is nothing to say.
    pub message: String,
    /// What the client is told.
    pub code: Option<ErrorCode>,
    /// The server has told it: that must arrive.
    pub was_told: bool,
}

impl Failure {
    /// One side went away.
    pub const fn broken(side: Side, reason: Reason) -> Self {
        Self { side, reason, message: String::new(), code: None, was_told: false }
    }

    /// What reading from a side, or writing to it, has met.
    pub fn of(error: &io::Error, side: Side) -> Self {
        if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            // An alert may come behind the handshake.
            let peer = if side == Side::Client { "the client" } else { "the server" };
            return Self::tls(side, reason(error, peer));
        }
        if is_vanished(error) {
            return Self::broken(side, Reason::Stalled);
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::broken(side, Reason::Eof),
            io::ErrorKind::InvalidData => Self::protocol(side, &error.to_string()),
            _ => Self::broken(side, Reason::of(error)),
        }
    }

    /// TLS that is wanted cannot be had, or not safely.
    pub fn tls(side: Side, message: impl Into<String>) -> Self {
        let (message, code) = (message.into(), Some(ErrorCode::Tls));
        Self { message, code, ..Self::broken(side, Reason::Tls) }
    }

    /// A side does what cannot be understood.
    pub fn protocol(side: Side, message: &str) -> Self {
        Self { reason: Reason::Protocol, ..Self::tls(side, message) }
    }
}

/// Whether the peer's host has vanished.
pub(super) fn is_vanished(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Vanished>())
}

impl From<Unsafe> for Failure {
    fn from(why: Unsafe) -> Self {
        Self::tls(Side::Tidegate, why.to_string())
    }
}
