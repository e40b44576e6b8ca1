//! Why a gateway cannot be reached, in words for its clients, and why its name has no addresses.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use thiserror::Error;

use crate::net::connect::ConnectError;

/// Failed addresses that an error names; a client shows about 500 bytes of it.
const NAMED_FAILURES: usize = 3;

/// Why no address of a gateway could be had.
#[derive(Debug, Error)]
pub enum Unreachable {
    /// No address is known.
    #[error("cannot reach {gateway}: {cause}")]
    Unresolved {
        /// The gateway, with its port.
        gateway: String,
        /// What the resolver said.
        cause: String,
    },
    /// Every address was tried, or the time was up.
    #[error("cannot reach {gateway}: {}", Failures(.failures))]
    NoAnswer {
        /// The gateway, with its port.
        gateway: String,
        /// The addresses in the order in which they failed.
        failures: Vec<(SocketAddr, ConnectError)>,
    },
}

impl Unreachable {
    /// Whether the bridge itself is to blame, and nothing else: it lacks descriptors, ports or memory.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unresolved { .. } => false,
            Self::NoAnswer { failures, .. } => {
                let is_local = |(_, error): &_| matches!(error, ConnectError::Local(_));
                !failures.is_empty() && failures.iter().all(is_local)
            }
        }
    }
}

struct Failures<'f>(&'f [(SocketAddr, ConnectError)]);

impl fmt::Display for Failures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (address, error)) in self.0.iter().take(NAMED_FAILURES).enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{address}: {error}")?;
        }
        match self.0.len().saturating_sub(NAMED_FAILURES) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// Why a name has no addresses.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each is its own text")]
pub enum LookupError {
    #[error("{0} does not exist (NXDOMAIN)")]
    NoSuchName(String),
    #[error("{0} has neither A nor AAAA records")]
    NoAddress(String),
    #[error("the DNS server could not resolve {0} ({code})", code = code_name(*.1))]
    Refused(String, ResponseCode),
    #[error("no DNS server answered for {0} in time")]
    Timeout(String),
    /// Without its source, which depends on the bytes: a cause that stays is logged once.
    #[error("the answer of the DNS server for {0} is malformed")]
    Malformed(String),
    #[error("cannot resolve {0}")]
    Failed(String, #[source] NetError),
    #[error(
        "{0} resolves to the public address {1}: the endpoint's private DNS is not enabled here; \
         enable private DNS names on the VPC endpoint, and enableDnsSupport and enableDnsHostnames \
         on the VPC, or set require_private = false"
    )]
    Public(String, Ipv4Addr),
    #[error(
        "the DNS server did not say whether {0} has IPv4 addresses, which decide if it is private"
    )]
    Undecided(String),
    #[error("cannot resolve {0}: the resolver panicked")]
    Panicked(String),
    #[error("/etc/resolv.conf is of no use")]
    System(#[source] NetError),
}

impl LookupError {
    /// The `result` label.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NoSuchName(_) => "nxdomain",
            Self::NoAddress(_) => "empty",
            Self::Refused(_, ResponseCode::ServFail) => "servfail",
            Self::Refused(..) => "refused",
            Self::Timeout(_) => "timeout",
            Self::Malformed(_) => "malformed",
            Self::Failed(..) | Self::Panicked(_) => "error",
            Self::System(_) => "no_server",
            Self::Public(..) => "public",
            Self::Undecided(_) => "undecided",
        }
    }

    pub(super) fn of(host: &str, error: NetError) -> Self {
        let host = host.to_owned();
        match error {
            error if error.is_nx_domain() => Self::NoSuchName(host),
            NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
                ResponseCode::NoError => Self::NoAddress(host),
                code => Self::Refused(host, code),
            },
            NetError::Dns(DnsError::ResponseCode(code)) => Self::Refused(host, code),
            NetError::Timeout => Self::Timeout(host),
            NetError::Proto(_) | NetError::Truncated => Self::Malformed(host),
            other => Self::Failed(host, other),
        }
    }
}

/// As `dig` and the servers' logs call it.
fn code_name(code: ResponseCode) -> String {
    match code {
        ResponseCode::FormErr => "FORMERR".into(),
        ResponseCode::ServFail => "SERVFAIL".into(),
        ResponseCode::NotImp => "NOTIMP".into(),
        ResponseCode::Refused => "REFUSED".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bridge_is_to_blame_if_it_failed_at_every_address() {
        let local = || ConnectError::Local(std::io::ErrorKind::Other.into());
        for (errors, is_local) in [
            (vec![], false),
            (vec![local()], true),
            (vec![local(), ConnectError::Closed], false),
            (vec![local(), local()], true),
        ] {
            let address: SocketAddr = "10.0.0.1:1".parse().unwrap();
            let failures = errors.into_iter().map(|error| (address, error)).collect();
            let error = Unreachable::NoAnswer { gateway: "gw:1".into(), failures };
            assert_eq!(error.is_local(), is_local, "{error}");
        }
    }
}
