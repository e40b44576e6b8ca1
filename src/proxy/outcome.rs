//! The account of one connection: written once, when it ends, however it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::info;

use super::Proxy;
use crate::net::socket::TcpInfo;
use crate::relay::{End, Side};

/// What is known of a connection so far. Dropping it writes the close record and the metrics.
#[derive(Debug)]
pub(super) struct Outcome {
    pub proxy: Arc<Proxy>,
    id: u64,
    client: SocketAddr,
    accepted: Instant,
    endpoint: Option<SocketAddr>,
    connected: Option<Instant>,
    side: Side,
    reason: &'static str,
    to_upstream: u64,
    to_client: u64,
    upstream_rtt_us: u32,
    upstream_retransmits: u32,
    _member: TaskTrackerToken,
}

impl Outcome {
    pub fn new(proxy: Arc<Proxy>, id: u64, client: SocketAddr, accepted: Instant) -> Self {
        proxy.metrics.connections.inc();
        proxy.metrics.open.inc();
        Self {
            id,
            client,
            accepted,
            endpoint: None,
            connected: None,
            side: Side::Tidegate,
            // Stays when the session's future is dropped before its end.
            reason: "aborted",
            to_upstream: 0,
            to_client: 0,
            upstream_rtt_us: 0,
            upstream_retransmits: 0,
            _member: proxy.drain.join(),
            proxy,
        }
    }

    /// An upstream connection is in hand.
    pub fn connected(&mut self, endpoint: SocketAddr) {
        let now = Instant::now();
        self.endpoint = Some(endpoint);
        self.connected = Some(now);
        self.proxy.metrics.connect.observe((now - self.accepted).as_secs_f64());
    }

    /// The connection ended before a relay began.
    pub fn ended(&mut self, side: Side, reason: &'static str) {
        self.side = side;
        self.reason = reason;
    }

    /// The relay ended.
    pub fn relayed(&mut self, end: &End) {
        self.ended(end.side, end.reason.as_str());
        self.to_upstream = end.to_upstream;
        self.to_client = end.to_client;
        if let Some(TcpInfo { rtt, total_retrans, .. }) = end.upstream {
            self.upstream_rtt_us = rtt;
            self.upstream_retransmits = total_retrans;
        }
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if thread::panicking() {
            self.ended(Side::Tidegate, "panic");
        }
        let lifetime = self.accepted.elapsed();
        let metrics = &self.proxy.metrics;
        metrics.open.dec();
        metrics.lifetime.observe(lifetime.as_secs_f64());
        metrics.closed(self.side.as_str(), self.reason);
        let connect = self.connected.map(|at| milliseconds(at - self.accepted));
        info!(
            id = self.id,
            listener = self.proxy.config.name,
            client = %self.client,
            endpoint = self.endpoint.map(tracing::field::display),
            pool = self.proxy.config.pool.as_str(),
            connect_ms = connect,
            duration_ms = milliseconds(lifetime),
            bytes_to_upstream = self.to_upstream,
            bytes_to_client = self.to_client,
            side = self.side.as_str(),
            reason = self.reason,
            upstream_rtt_us = self.upstream_rtt_us,
            upstream_retransmits = self.upstream_retransmits,
            "closed"
        );
    }
}

/// With three decimals.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}
