//! Why a gateway cannot be reached, in words for its clients.

use std::fmt;
use std::net::SocketAddr;

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
