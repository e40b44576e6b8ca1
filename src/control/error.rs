//! Why a running bridge could not be asked, or did not become what it was waited for.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use humantime::{FormattedDuration, format_duration};
use hyper::StatusCode;
use thiserror::Error;

/// What went wrong between us and the admin endpoint.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The connection was refused, or there is no way to the address.
    #[error("cannot connect to http://{address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Nothing came back from the address.
    #[error("no connection to http://{address} within {}", rounded(.within))]
    Unanswered {
        /// Where.
        address: SocketAddr,
        /// For how long it was tried.
        within: Duration,
    },
    /// Somebody listens there, and says nothing or does not come to an end.
    #[error("no answer from http://{address} within {}", rounded(.within))]
    Silent {
        /// Where.
        address: SocketAddr,
        /// For how long it was waited.
        within: Duration,
    },
    /// What came is no HTTP, or only the beginning of an answer.
    #[error("no HTTP answer from http://{address}")]
    Broken {
        /// Where.
        address: SocketAddr,
        /// What was wrong with it.
        source: Box<dyn Error + Send + Sync>,
    },
    /// An HTTP server answers, but not as tidegate does.
    #[error("http://{address}{path} answered {status}{}", colon(.said))]
    Unexpected {
        /// Where.
        address: SocketAddr,
        /// What was asked for.
        path: &'static str,
        /// The status.
        status: StatusCode,
        /// The first line of the answer.
        said: String,
    },
    /// What came is not what `/status.json` answers.
    #[error("what http://{address}/status.json answered is no status of a tidegate")]
    NotAStatus {
        /// Where.
        address: SocketAddr,
        /// What was wrong with it.
        source: serde_json::Error,
    },
    /// The bridge does not let us change its state.
    #[error("http://{address} refused to drain{}", colon(.said))]
    Forbidden {
        /// Where.
        address: SocketAddr,
        /// The first line of the answer.
        said: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The token cannot be sent as it is.
    #[error("the admin token is not one line of visible ASCII characters")]
    UnusableToken,
    /// The bridge is there, but not ready.
    #[error("http://{address} says{}", colon(.said))]
    NotReady {
        /// Where.
        address: SocketAddr,
        /// Its line.
        said: String,
    },
    /// The bridge, or somebody in its place, is there.
    #[error("http://{address} still answers{}", colon(.said))]
    StillThere {
        /// Where.
        address: SocketAddr,
        /// The line.
        said: String,
    },
    /// The time for a wait has passed.
    #[error("not {goal} within {}", rounded(.max))]
    Unreached {
        /// What was waited for.
        goal: &'static str,
        /// For how long.
        max: Duration,
        /// What was seen last.
        #[source]
        why: Box<ControlError>,
    },
}

impl ControlError {
    /// What may be done about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Connect { .. } => {
                Some("is it running? say where with --admin ADDR, or with --config and its file")
            }
            Self::Unanswered { .. } => {
                Some("is the address right, and does a firewall let us through?")
            }
            Self::Silent { .. } => Some("does it hang, or does another program listen there?"),
            Self::Broken { .. } | Self::Unexpected { .. } | Self::NotAStatus { .. } => {
                Some("is it the admin address of a tidegate, and not that of a listener?")
            }
            Self::Forbidden { with_token: false, .. } => Some(
                "name the file with its token, --admin-token-file FILE, or ask from the host that \
                 it runs on",
            ),
            Self::Forbidden { with_token: true, .. } => {
                Some("the token that was sent is not the one in the bridge's admin_token_file")
            }
            Self::UnusableToken => Some("does admin_token_file name the right file?"),
            Self::NotReady { .. } | Self::StillThere { .. } => None,
            Self::Unreached { why, .. } => why.hint(),
        }
    }

    /// Whether the host is there and nobody listens at the address.
    pub(super) fn is_refused(&self) -> bool {
        match self {
            Self::Connect { source, .. } => source.kind() == io::ErrorKind::ConnectionRefused,
            _ => false,
        }
    }

    /// Whether the configuration is to blame.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::UnusableToken)
    }
}

/// In whole milliseconds: nobody asked for the other digits.
fn rounded(time: &Duration) -> FormattedDuration {
    format_duration(Duration::from_millis(time.as_millis() as u64))
}

/// What somebody said, if anything, as the end of a sentence.
fn colon(said: &str) -> String {
    match said {
        "" => String::new(),
        said => format!(": {said}"),
    }
}
