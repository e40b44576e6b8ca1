//! What can go wrong, in the words of who has to mend it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use humantime::format_duration;
use thiserror::Error;

use crate::mysql::error::Problem as Wire;
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
    /// It was under way when the run was ended.
    #[error("not done when the run was ended")]
    Unfinished,
    /// What the server said, or that it said no more.
    #[error(transparent)]
    Wire(#[from] Wire),
    /// A statement that asks for a file of this host.
    #[error("LOAD DATA LOCAL is not for a load test")]
    LocalInfile,
    /// The result was cut: `REPEAT` gives NULL for what is longer than `max_allowed_packet`.
    #[error("the result has {got} bytes instead of {wanted}")]
    Short {
        /// Bytes of its rows.
        got: u64,
        /// Bytes that were asked for.
        wanted: u64,
    },
}

impl SessionError {
    pub(super) fn new(step: Step, problem: Problem) -> Self {
        Self { step, problem }
    }

    /// What the server said, if it is that.
    pub(super) fn wire(&self) -> Option<&Wire> {
        match &self.problem {
            Problem::Wire(wire) => Some(wire),
            _ => None,
        }
    }

    /// Under what it is counted.
    pub(super) fn cause(&self) -> String {
        let what = match &self.problem {
            Problem::Connect(_, error) => error.as_str().to_owned(),
            Problem::Timeout(_) => "timeout".to_owned(),
            Problem::Unfinished => "unfinished".to_owned(),
            Problem::LocalInfile => "LOAD DATA LOCAL".to_owned(),
            Problem::Short { .. } => "short result".to_owned(),
            Problem::Wire(wire) => match wire {
                Wire::Closed => "closed".to_owned(),
                Wire::Broken(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    "reset".to_owned()
                }
                Wire::Broken(_) => "broken".to_owned(),
                Wire::Refused(refusal) => format!("ERR {}", refusal.code),
                Wire::NoTls => "no TLS".to_owned(),
                Wire::Tls(_) => "failed".to_owned(),
                Wire::Plugin(_) | Wire::InClear | Wire::Unverified | Wire::NoKey(_) => {
                    "plugin".to_owned()
                }
                Wire::Malformed(_) => "malformed".to_owned(),
            },
        };
        format!("{}: {what}", self.step.as_str())
    }

    /// Whether the connection can be used no more.
    pub(super) fn breaks(&self) -> bool {
        match &self.problem {
            // These say that the server is about to close.
            Problem::Wire(Wire::Refused(refusal)) if [1053, 1927, 4031].contains(&refusal.code) => {
                true
            }
            Problem::Wire(Wire::Refused(_)) | Problem::Short { .. } => self.step != Step::Answer,
            _ => true,
        }
    }

    /// Whether nothing had come when it was no longer waited for.
    pub(super) fn is_unanswered(&self) -> bool {
        match &self.problem {
            Problem::Connect(_, error) => matches!(error, ConnectError::Timeout(_)),
            problem => matches!(problem, Problem::Timeout(_) | Problem::Unfinished),
        }
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
            (Problem::Timeout(_), Step::Greeting) => NO_SERVER,
            (Problem::Short { .. }, _) => {
                "the server's max_allowed_packet is smaller: fewer --bytes"
            }
            (Problem::Wire(wire), step) => return of_wire(wire, step),
            _ => return None,
        })
    }
}

const NO_SERVER: &str =
    "something accepts connections but does not speak MySQL, or has no server behind it";

fn of_wire(problem: &Wire, step: Step) -> Option<&'static str> {
    Some(match (problem, step) {
        (Wire::Closed, Step::Greeting) => NO_SERVER,
        (Wire::Malformed(_), Step::Greeting) => "is it the port of a MySQL server?",
        (Wire::Refused(refusal), _) => match refusal.code {
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
        (Wire::NoTls, _) => "--tls off, or a server with a certificate",
        (Wire::Tls(_), _) => {
            "--tls-ca names the authority's certificate; --tls verify-ca does not look at the \
             name, --tls required at nothing"
        }
        (Wire::Closed | Wire::Broken(_), Step::Tls) => {
            "the server gave TLS up: do its log and --tls-ca say why?"
        }
        (Wire::InClear | Wire::Unverified | Wire::NoKey(_), _) => "--tls verify-identity",
        _ => return None,
    })
}
