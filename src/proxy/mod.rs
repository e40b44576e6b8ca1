//! One [`Proxy`] per `[[listener]]`: accepts clients and tells each session's story.

mod failure;
mod handshake;
mod limits;
#[cfg(test)]
mod limits_tests;
mod login;
mod outcome;
mod sealing;
mod session;
mod source;
mod unserved;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use crate::config::{self, Protocol};
use crate::drain::{Drain, Phase};
use crate::metrics::{self, ListenerMetrics};
use crate::mysql::packet::{ErrorCode, err_greeting};
use crate::net::address::Address;
use crate::net::listener::{Accepted, Listener};
use crate::pool::Pool;
use crate::tls::server::Terminator;
use crate::upstream::Upstream;
use outcome::Outcome;

pub use limits::{Gate, Limits};
pub use sealing::SealingKey;
pub use unserved::Unserved;

/// The process-wide number of the next session.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A listener at work, with one configuration; shared by all threads.
#[derive(Debug)]
pub struct Proxy {
    /// Its section of the configuration.
    pub config: config::Listener,
    /// The addresses that were bound.
    pub addresses: Vec<Address>,
    /// How long a peer may owe an acknowledgement; 0: for ever.
    pub stall_timeout: Duration,
    /// Whether bulk may be spliced.
    pub splice: config::Splice,
    /// Options of the clients' sockets.
    pub tcp: config::Tcp,
    /// Where it forwards to.
    pub upstream: Arc<Upstream>,
    /// Connections that are there already.
    pub pool: Option<Arc<Pool>>,
    /// Ends its clients' TLS; `None`: they speak none with the bridge.
    pub tls: Option<Terminator>,
    /// Lets its connections in.
    pub gate: Arc<Gate>,
    /// Its handles.
    pub metrics: ListenerMetrics,
    /// What passwords are sealed for where clients speak no TLS and servers do.
    pub sealing_key: SealingKey,
    /// The handles of TLS.
    pub tls_metrics: metrics::Tls,
    /// What it logs of connections that it cannot serve.
    pub unserved: Unserved,
    /// What ends it.
    pub drain: Drain,
}

/// The state of a listener at one moment, for the status page.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Snapshot {
    /// Its name: the `listener` label.
    pub name: String,
    /// The addresses that it accepts on.
    pub addresses: Vec<String>,
    /// The upstream that it forwards to.
    pub upstream: String,
    /// What its clients are lent.
    pub pool: &'static str,
    /// Connections open.
    pub open: i64,
    /// Connections accepted so far.
    pub accepted: u64,
    /// Bytes relayed to the upstream so far.
    pub bytes_to_upstream: u64,
    /// Bytes relayed to clients so far.
    pub bytes_to_clients: u64,
}

impl Proxy {
    /// The state now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            name: self.config.name.clone(),
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            upstream: self.config.upstream.clone(),
            pool: self.config.pool.as_str(),
            open: self.metrics.open.get(),
            accepted: self.metrics.connections.get(),
            bytes_to_upstream: self.metrics.relayed.to_upstream.total(),
            bytes_to_clients: self.metrics.relayed.to_client.total(),
        }
    }

    /// Begins the session of a connection, or accounts for one that had to be turned away.
    fn take(self: Arc<Self>, accepted: Accepted) {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let (Accepted::Connection(_, peer) | Accepted::TurnedAway(peer)) = &accepted;
        // Made here, not in the task: from now on the drain waits for this session.
        let mut outcome = Outcome::new(self, id, *peer, Instant::now());
        match accepted {
            // Detached: its end is told by its outcome, also when it panics.
            Accepted::Connection(client, _) => drop(tokio::spawn(session::run(outcome, client))),
            Accepted::TurnedAway(_) => {
                outcome.rejected("descriptors", "no file descriptor is left");
            }
        }
    }

    /// What a client is told whose first words the server does not answer.
    fn no_reply(&self) -> String {
        let within = humantime::format_duration(self.config.reply_timeout);
        format!("{} did not answer within {within}", self.upstream.gateway())
    }

    /// What a client is told whose server's host does not acknowledge its log-in.
    fn has_vanished(&self) -> String {
        format!("{} has vanished: it acknowledges nothing", self.upstream.gateway())
    }

    /// What a client is told that there is no descriptor for.
    fn without_descriptors(&self) -> Vec<u8> {
        match self.config.protocol {
            Protocol::Mysql => {
                let message = "tidegate: too many connections: no file descriptor is left";
                err_greeting(ErrorCode::TooMany, message)
            }
            Protocol::Tcp => Vec::new(),
        }
    }
}

/// Accepts on one socket of the current runtime, for the proxy that its address belongs to, until
/// the drain begins or the address is given up: then the sender of `proxies` is dropped.
///
/// What is queued then is still served: its clients have connected.
pub async fn serve(mut listener: Listener, mut proxies: watch::Receiver<Arc<Proxy>>) {
    let mut proxy = proxies.borrow_and_update().clone();
    let drain = proxy.drain.clone();
    let mut draining = pin!(drain.reached(Phase::Draining));
    let mut last_word = proxy.without_descriptors();
    loop {
        tokio::select! {
            biased;
            () = &mut draining => break,
            changed = proxies.changed() => match changed {
                Ok(()) => {
                    proxy = proxies.borrow_and_update().clone();
                    last_word = proxy.without_descriptors();
                    if let Err(error) = listener.configure(&proxy.tcp) {
                        warn!(listener = proxy.config.name, %error, "cannot set socket options");
                    }
                }
                Err(_) => break,
            },
            accepted = listener.accept(&last_word) => proxy.clone().take(accepted),
        }
    }
    let mut queue = listener.into_queue();
    while let Some(accepted) = queue.next(&last_word).await {
        proxy.clone().take(accepted);
    }
}
