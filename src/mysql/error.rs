//! Why a server that was spoken to as its client does not do what it was asked for.

use std::fmt::{self, Display};
use std::io;

use thiserror::Error;

/// What failed.
#[derive(Debug, Error)]
pub enum Problem {
    /// The other side closed.
    #[error("the server closed the connection")]
    Closed,
    /// The connection broke.
    #[error("{0}")]
    Broken(io::Error),
    /// An ERR packet.
    #[error("{0}")]
    Refused(Refusal),
    /// The greeting offers no TLS.
    #[error("the server offers no TLS")]
    NoTls,
    /// The TLS handshake failed.
    #[error("{0}")]
    Tls(io::Error),
    /// The server wants a plugin that is not spoken here.
    #[error("the server wants {0}, which is not supported")]
    Plugin(String),
    /// The server wants the password itself, and everybody could read it.
    #[error("the server wants the password in clear, and there is no TLS")]
    InClear,
    /// The server wants the password itself, and it could be anybody.
    #[error("the server wants the password in clear, and nobody has looked whose server it is")]
    Unverified,
    /// The server has no RSA key, which TiDB never has.
    #[error("the server wants the password itself and has no key to seal it with: {0}")]
    NoKey(Refusal),
    /// Not the MySQL protocol, or not as it should be.
    #[error("not the MySQL protocol: {0}")]
    Malformed(&'static str),
}

/// An ERR packet.
#[derive(Debug)]
pub struct Refusal {
    /// The error number.
    pub code: u16,
    /// SQLSTATE, if the packet has one.
    pub state: Option<String>,
    /// The server's words.
    pub message: String,
}

impl Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            Some(state) => write!(f, "ERR {} ({state}): {}", self.code, self.message),
            None => write!(f, "ERR {}: {}", self.code, self.message),
        }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Broken(error),
        }
    }
}
