//! One [`Proxy`] per `[[listener]]`: accepts clients and tells each session's story.

mod outcome;
mod session;
mod source;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::config;
use crate::drain::{Drain, Phase};
use crate::metrics::ListenerMetrics;
use crate::net::listener::Listener;
use crate::upstream::Upstream;
use outcome::Outcome;

/// The process-wide number of the next session.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A listener at work; shared by all threads.
#[derive(Debug)]
pub struct Proxy {
    /// Its section of the configuration.
    pub config: config::Listener,
    /// The addresses that were bound.
    pub addresses: Vec<SocketAddr>,
    /// How long a peer may owe an acknowledgement; 0: for ever.
    pub stall_timeout: Duration,
    /// Whether bulk may be spliced.
    pub splice: config::Splice,
    /// Where it forwards to.
    pub upstream: Arc<Upstream>,
    /// Its handles.
    pub metrics: ListenerMetrics,
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

    /// Accepts on one socket of the current runtime until the drain begins.
    ///
    /// What is queued then is still served: its clients have connected.
    pub async fn serve(self: Arc<Self>, mut listener: Listener) {
        let mut draining = pin!(self.drain.reached(Phase::Draining));
        loop {
            tokio::select! {
                biased;
                () = &mut draining => break,
                (stream, peer) = listener.accept() => self.clone().start(stream, peer),
            }
        }
        for (stream, peer) in listener.into_queued() {
            self.clone().start(stream, peer);
        }
    }

    fn start(self: Arc<Self>, client: TcpStream, peer: SocketAddr) {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        // Made here, not in the task: from now on the drain waits for this session.
        let outcome = Outcome::new(self, id, peer, Instant::now());
        // Detached: its end is told by its outcome, also when it panics.
        drop(tokio::spawn(session::run(outcome, client)));
    }
}
