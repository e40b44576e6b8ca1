//! The story of one connection: an upstream for it, then the relay, then its account.

use std::future::pending;

use tokio::net::TcpStream;
use tracing::debug;

use super::outcome::Outcome;
use crate::config::Protocol;
use crate::drain::Phase;
use crate::mysql::packet::{ErrorCode, err_greeting};
use crate::net::socket;
use crate::relay::{Counters, Reason, Relay, Side};

/// Runs a session to its end. What it needs only before the relay is boxed and dropped then, so an
/// idle session is little more than its relay.
pub(super) async fn run(mut outcome: Outcome, client: TcpStream) {
    let Some((client, upstream)) = Box::pin(open(client, &mut outcome)).await else { return };
    let proxy = &outcome.proxy;
    let counters = Counters {
        to_upstream: proxy.metrics.to_upstream.clone(),
        to_client: proxy.metrics.to_client.clone(),
    };
    let end = Relay::new(client, upstream, counters, proxy.stall_timeout).await;
    outcome.relayed(&end);
}

/// Finds an upstream connection; says in an ERR packet why there is none.
///
/// The upstream comes first: MySQL servers speak first, and the client must see the greeting of
/// the server that it will talk to.
async fn open(client: TcpStream, outcome: &mut Outcome) -> Option<(TcpStream, TcpStream)> {
    let proxy = outcome.proxy.clone();
    let protocol = proxy.config.protocol;
    if let Err(error) = socket::configure(&client, &proxy.tcp) {
        debug!(%error, "cannot set up a client's socket");
        outcome.ended(Side::Client, Reason::of(&error).as_str());
        return None;
    }
    let (code, message) = tokio::select! {
        biased;
        result = proxy.upstream.connect(protocol) => match result {
            Ok((upstream, endpoint)) => {
                outcome.connected(endpoint);
                return Some((client, upstream));
            }
            Err(error) => {
                let message = error.to_string();
                let (side, reason) = match error.is_local() {
                    true => (Side::Tidegate, "local"),
                    false => (Side::Upstream, Reason::Unreachable.as_str()),
                };
                outcome.refused(side, reason, &message);
                (ErrorCode::Unreachable, message)
            }
        },
        reason = left(&client, protocol) => {
            outcome.ended(Side::Client, reason.as_str());
            return None;
        }
        () = proxy.drain.reached(Phase::Closing) => {
            outcome.ended(Side::Tidegate, Reason::Drain.as_str());
            (ErrorCode::Draining, "the bridge is shutting down".to_owned())
        }
    };
    refuse(client, protocol, code, &message).await;
    None
}

/// Returns when the client has gone while nothing was sent to it.
///
/// A MySQL client has nothing to say before the greeting, so its EOF is a goodbye: a load
/// balancer's check costs no dial. Over plain TCP an EOF may be half a conversation.
async fn left(client: &TcpStream, protocol: Protocol) -> Reason {
    match client.peek(&mut [0]).await {
        Ok(0) if protocol == Protocol::Mysql => Reason::Eof,
        Ok(_) => pending().await,
        Err(error) => Reason::of(&error),
    }
}

/// Ends a connection that has seen no byte yet.
async fn refuse(mut client: TcpStream, protocol: Protocol, code: ErrorCode, message: &str) {
    match protocol {
        Protocol::Mysql => {
            let packet = err_greeting(code, &format!("tidegate: {message}"));
            socket::last_word(&mut client, &packet).await;
        }
        // Nothing can be said; an RST is the honest answer to a connect that went nowhere.
        Protocol::Tcp => socket::reset(client),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the future that a function of two arguments returns.
    fn future_size<A, B, F>(_: fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_session_is_small() {
        let size = future_size(run);
        assert!(size < 768, "{size} bytes");
    }
}
