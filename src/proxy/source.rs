//! Who a connection comes from: its peer, or whom a load balancer names in a PROXY header.

use std::net::IpAddr;

use super::outcome::Outcome;
use super::session::SHUTTING_DOWN;
use crate::drain::Phase;
use crate::net::proxy_protocol::{HeaderError, receive};
use crate::net::stream::Stream;
use crate::relay::{Reason, Side};

/// The `reason` of a connection that was to begin with a PROXY header and did not.
const PROXY_HEADER: &str = "proxy_header";

/// Finds out where a connection comes from, for the outcome. `None` when it has ended.
///
/// Peers in `proxy_protocol_from` must begin with a PROXY header, which is read here; the bytes of
/// all others are the client's own.
pub(super) async fn identify(client: &mut Stream, outcome: &mut Outcome) -> Option<()> {
    let peer = outcome.peer();
    let trusted = &outcome.proxy.config.proxy_protocol_from;
    let is_trusted = |peer: &IpAddr| trusted.iter().any(|network| network.contains(peer));
    let Some(address) = peer.ip().filter(is_trusted) else { return Some(()) };
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
            outcome.introduced(header);
            Some(())
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
