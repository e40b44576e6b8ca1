//! What can go wrong, in the words of who has to mend it.

use std::fmt::{self, Display};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use humantime::format_duration;
use thiserror::Error;

use crate::net::connect::ConnectError;

/// A step of a connection's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The TCP connection is made.
    Tcp,
    /// The server says who it is.
    Greeting,
    /// TLS is agreed.
    Tls,
    /// The server lets the user in.
    Authentication,
    /// A statement or a ping is answered.
    Answer,
}

impl Step {
    /// Those that come before the first answer, in their order.
    pub const OPENING: [Self; 4] = [Self::Tcp, Self::Greeting, Self::Tls, Self::Authentication];

    /// The name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Greeting => "greeting",
            Self::Tls => "TLS",
            Self::Authentication => "authentication",
            Self::Answer => "answer",
        }
    }
}

/// A step failed.
#[derive(Debug, Error)]
#[error("{}: {problem}", .step.as_str())]
pub struct SessionError {
    step: Step,
    problem: Problem,
}

/// What failed about it.
#[derive(Debug, Error)]
pub enum Problem {
    /// No address accepted a connection.
    #[error("{0}: {1}")]
    Connect(SocketAddr, #[source] ConnectError),
    /// It took too long.
    #[error("nothing within {}", format_duration(*.0))]
    Timeout(Duration),
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
    /// The server has no RSA key, which TiDB never has.
    #[error("the server wants the password itself and has no key to seal it with: {0}")]
    NoKey(Refusal),
    /// A statement that asks for a file of this host.
    #[error("LOAD DATA LOCAL is not for a load test")]
    LocalInfile,
    /// Not the MySQL protocol, or not as it should be.
    #[error("not the MySQL protocol: {0}")]
    Malformed(&'static str),
    /// The result was cut: `REPEAT` gives NULL for what is longer than `max_allowed_packet`.
    #[error("the result has {got} bytes instead of {wanted}")]
    Short {
        /// Bytes of its rows.
        got: u64,
        /// Bytes that were asked for.
        wanted: u64,
    },
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

impl SessionError {
    pub(super) fn new(step: Step, problem: Problem) -> Self {
        Self { step, problem }
    }

    /// Under what it is counted.
    pub(super) fn cause(&self) -> String {
        let what = match &self.problem {
            Problem::Connect(_, error) => error.as_str().to_owned(),
            Problem::Timeout(_) => "timeout".to_owned(),
            Problem::Closed => "closed".to_owned(),
            Problem::Broken(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                "reset".to_owned()
            }
            Problem::Broken(_) => "broken".to_owned(),
            Problem::Refused(refusal) => format!("ERR {}", refusal.code),
            Problem::NoTls => "no TLS".to_owned(),
            Problem::Tls(_) => "failed".to_owned(),
            Problem::Plugin(_) | Problem::InClear | Problem::NoKey(_) => "plugin".to_owned(),
            Problem::LocalInfile => "LOAD DATA LOCAL".to_owned(),
            Problem::Malformed(_) => "malformed".to_owned(),
            Problem::Short { .. } => "short result".to_owned(),
        };
        format!("{}: {what}", self.step.as_str())
    }

    /// Whether the connection can be used no more.
    pub(super) fn breaks(&self) -> bool {
        match &self.problem {
            // These say that the server is about to close.
            Problem::Refused(refusal) if [1053, 1927, 4031].contains(&refusal.code) => true,
            Problem::Refused(_) | Problem::Short { .. } => self.step != Step::Answer,
            _ => true,
        }
    }

    /// Whether nothing came.
    pub(super) fn is_timeout(&self) -> bool {
        matches!(&self.problem, Problem::Timeout(_) | Problem::Connect(_, ConnectError::Timeout(_)))
    }

    /// What may help.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match (&self.problem, self.step) {
            (Problem::Connect(_, error), _) => match error.as_str() {
                "refused" => "nobody listens there: are host and port right, and does it run?",
                "timeout" | "unreachable" => {
                    "nothing answers: is there a route, and does a firewall or security group let \
                     this host in?"
                }
                "local" => "this host is out of descriptors or ports: see ulimit -n",
                _ => return None,
            },
            (Problem::Timeout(_) | Problem::Closed, Step::Greeting) => {
                "something accepts connections but does not speak MySQL, or has no server behind it"
            }
            (Problem::Malformed(_), Step::Greeting) => "is it the port of a MySQL server?",
            (Problem::Refused(refusal), _) => match refusal.code {
                1045 => {
                    "are --user and --password-file right? A TiDB Cloud user has the prefix of its \
                     cluster, such as 2aEp24QWEDLqRFs.root"
                }
                1105 if refusal.message.contains("insecure transport") => {
                    "the server wants TLS: --tls verify-identity"
                }
                3159 => "the server wants TLS: --tls required, or a stricter one",
                1049 => "is --database right?",
                1040 | 1203 => "the server's limit of connections: fewer --connections",
                1129 => "the server has blocked this host: FLUSH HOSTS there",
                _ => return None,
            },
            (Problem::NoTls, _) => "--tls off, or a server with a certificate",
            (Problem::Tls(_), _) => {
                "--tls-ca names the authority's certificate; --tls verify-ca does not look at the \
                 name, --tls required at nothing"
            }
            (Problem::Closed | Problem::Broken(_), Step::Tls) => {
                "the server gave TLS up: do its log and --tls-ca say why?"
            }
            (Problem::InClear | Problem::NoKey(_), _) => "--tls verify-identity",
            (Problem::Short { .. }, _) => {
                "the server's max_allowed_packet is smaller: fewer --bytes"
            }
            _ => return None,
        })
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
