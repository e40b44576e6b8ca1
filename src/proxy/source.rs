//! Who a connection comes from: its peer, or whom a load balancer names in a PROXY header.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::outcome::Outcome;
use crate::drain::Phase;
use crate::net::proxy_protocol::{Addresses, HeaderError, receive};
use crate::relay::{Reason, Side};

/// The `reason` of a connection that was to begin with a PROXY header and did not.
const PROXY_HEADER: &str = "proxy_header";

/// Where a connection comes from.
#[derive(Debug)]
pub(super) struct Source {
    /// The client's address: that of a header, else the peer's.
    pub address: SocketAddr,
    /// A header names no client: most often a health check.
    pub is_the_load_balancer: bool,
    /// What the client connected to, if a header says so.
    destination: Option<SocketAddr>,
}

impl Source {
    /// What a server is told of the `client`.
    pub fn addresses(&self, client: &TcpStream) -> Option<Addresses> {
        let destination = self.destination.or_else(|| client.local_addr().ok())?;
        Some(Addresses { source: self.address, destination })
    }
}

/// Finds out where a connection comes from. `None` when it has ended, and the outcome knows why.
///
/// Peers in `proxy_protocol_from` must begin with a PROXY header, which is read here; the bytes of
/// all others are the client's own.
pub(super) async fn identify(client: &mut TcpStream, outcome: &mut Outcome) -> Option<Source> {
    let peer = outcome.peer();
    let trusted = &outcome.proxy.config.proxy_protocol_from;
    if !trusted.iter().any(|network| network.contains(&peer.ip().to_canonical())) {
        return Some(Source { address: peer, is_the_load_balancer: false, destination: None });
    }
    let proxy = outcome.proxy.clone();
    let received = tokio::select! {
        biased;
        received = receive(client, proxy.config.proxy_protocol_timeout) => received,
        () = proxy.drain.reached(Phase::Closing) => {
            outcome.ended(Side::Tidegate, Reason::Drain.as_str());
            return None;
        }
    };
    match received {
        Ok(Some(header)) => {
            let addresses = header.addresses;
            outcome.introduced(header);
            Some(Source {
                address: outcome.source(),
                is_the_load_balancer: addresses.is_none(),
                destination: addresses.map(|addresses| addresses.destination),
            })
        }
        // A load balancer's check of the port alone.
        Ok(None) => {
            outcome.ended(Side::Client, Reason::Eof.as_str());
            None
        }
        Err(HeaderError::Broken(error)) => {
            outcome.ended(Side::Client, Reason::of(&error).as_str());
            None
        }
        Err(error) => {
            proxy.metrics.rejected(PROXY_HEADER);
            let error = format!("the connection from {} {error}", peer.ip());
            outcome.refused(Side::Client, PROXY_HEADER, &error);
            None
        }
    }
}
