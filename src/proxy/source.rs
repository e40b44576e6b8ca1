//! Who a connection comes from: its peer, or whom a load balancer names in a PROXY header.

use std::net::{IpAddr, SocketAddr};

use super::outcome::Outcome;
use super::session::SHUTTING_DOWN;
use crate::drain::Phase;
use crate::net::address::Peer;
use crate::net::proxy_protocol::{Addresses, HeaderError, receive};
use crate::net::stream::Stream;
use crate::relay::{Reason, Side};

/// The `reason` of a connection that was to begin with a PROXY header and did not.
const PROXY_HEADER: &str = "proxy_header";

/// Where a connection comes from.
#[derive(Debug)]
pub(super) struct Source {
    /// The client: the one of a header, else the peer.
    pub client: Peer,
    /// A header names no client: most often a health check.
    pub is_the_load_balancer: bool,
    /// What the client connected to, if a header says so.
    destination: Option<SocketAddr>,
}

impl Source {
    /// What a server is told of the client, whose connection is `stream`: nothing of one that came
    /// over a Unix socket.
    pub fn addresses(&self, stream: &Stream) -> Option<Addresses> {
        let Peer::Tcp(source) = self.client else { return None };
        let destination = self.destination.or_else(|| stream.local_addr())?;
        Some(Addresses { source, destination })
    }
}

/// Finds out where a connection comes from. `None` when it has ended, and the outcome knows why.
///
/// Peers in `proxy_protocol_from` must begin with a PROXY header, which is read here; the bytes of
/// all others are the client's own.
pub(super) async fn identify(client: &mut Stream, outcome: &mut Outcome) -> Option<Source> {
    let peer = outcome.peer();
    let trusted = &outcome.proxy.config.proxy_protocol_from;
    let is_trusted = |peer: &IpAddr| trusted.iter().any(|network| network.contains(peer));
    let Some(address) = peer.ip().filter(is_trusted) else {
        return Some(Source { client: peer, is_the_load_balancer: false, destination: None });
    };
    let proxy = outcome.proxy.clone();
    let received = tokio::select! {
        biased;
        received = receive(client, proxy.config.proxy_protocol_timeout) => received,
        () = proxy.drain.reached(Phase::Closing) => {
            outcome.rejected(Reason::Drain.as_str(), SHUTTING_DOWN);
            return None;
        }
    };
    match received {
        Ok(Some(header)) => {
            let addresses = header.addresses;
            outcome.introduced(header);
            Some(Source {
                client: outcome.client(),
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
            let error = format!("the connection from {address} {error}");
            outcome.refused(Side::Client, PROXY_HEADER, &error);
            None
        }
    }
}
