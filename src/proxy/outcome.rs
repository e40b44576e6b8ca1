//! The account of one connection: written once, when it ends, however it ends.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::info;

use super::Proxy;
use super::limits::{Origin, Permit};
use crate::net::address::Peer;
use crate::net::proxy_protocol::{Addresses, Header};
use crate::net::stream::Stream;
use crate::relay::{End, Reason, Side};
use crate::upstream::{Endpoint, InUse};

/// What is known of a connection so far. Dropping it writes the close record and the metrics; of
/// connections for which there was no upstream, the records of a storm are counted instead.
#[derive(Debug)]
pub(super) struct Outcome {
    pub proxy: Arc<Proxy>,
    id: u64,
    peer: Peer,
    /// What a load balancer said of the client.
    header: Option<Box<Header>>,
    accepted: Instant,
    permit: Option<Permit>,
    in_use: Option<InUse>,
    connected: Option<Instant>,
    /// The upstream connection was there before the client.
    is_warm: bool,
    side: Side,
    reason: &'static str,
    error: Option<Box<str>>,
    to_upstream: u64,
    to_client: u64,
    /// The kernel's round-trip time, in microseconds, and number of retransmitted segments.
    upstream: Option<(u32, u32)>,
    _member: TaskTrackerToken,
}

impl Outcome {
    pub fn new(proxy: Arc<Proxy>, id: u64, peer: Peer, accepted: Instant) -> Self {
        proxy.metrics.connections.inc();
        proxy.metrics.open.inc();
        Self {
            id,
            peer,
            header: None,
            accepted,
            permit: None,
            in_use: None,
            connected: None,
            is_warm: false,
            side: Side::Tidegate,
            // Stays when the session's future is dropped before its end.
            reason: "aborted",
            error: None,
            to_upstream: 0,
            to_client: 0,
            upstream: None,
            _member: proxy.drain.join(),
            proxy,
        }
    }

    /// The other end of the connection: the client, or a load balancer.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The peer is a load balancer that has said who the client is.
    pub fn introduced(&mut self, header: Header) {
        self.header = Some(Box::new(header));
    }

    /// The client: whom a header names, else the peer.
    pub fn client(&self) -> Peer {
        let addresses = self.header.as_deref().and_then(|header| header.addresses);
        addresses.map_or(self.peer, |addresses| Peer::Tcp(addresses.source))
    }

    /// Whether a header names no client: most often a health check.
    pub fn is_a_load_balancers_own(&self) -> bool {
        self.header.as_deref().is_some_and(|header| header.addresses.is_none())
    }

    /// What a server is told of the client, whose connection is `stream`: nothing of one that came
    /// over a Unix socket.
    pub fn addresses(&self, stream: &Stream) -> Option<Addresses> {
        if let Some(addresses) = self.header.as_deref().and_then(|header| header.addresses) {
            return Some(addresses);
        }
        let Peer::Tcp(source) = self.peer else { return None };
        Some(Addresses { source, destination: stream.local_addr()? })
    }

    /// Whether what it says does not leave this host on its way here.
    pub fn is_from_this_host(&self) -> bool {
        self.header.is_none() && self.peer.ip().is_none_or(|address| address.is_loopback())
    }

    /// Whom it counts for; nobody if it came over a Unix socket or is a load balancer's own.
    pub fn origin(&self) -> Option<Origin> {
        if self.is_a_load_balancers_own() {
            return None;
        }
        let header = self.header.as_deref();
        Some(Origin {
            address: self.client().ip()?,
            vpc_endpoint: header.and_then(|header| header.vpc_endpoint.clone()),
            link_id: header.and_then(|header| header.link_id),
        })
    }

    /// It is let in: from now on it counts for the limits.
    pub fn admitted(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    /// An upstream connection is in hand; from now on it counts for its endpoint. A warm one was there
    /// before the client.
    pub fn connected(&mut self, in_use: InUse, is_warm: bool) {
        let now = Instant::now();
        self.in_use = Some(in_use);
        self.connected = Some(now);
        self.is_warm = is_warm;
        self.proxy.metrics.connected(self.pool_result(), (now - self.accepted).as_secs_f64());
    }

    fn pool_result(&self) -> &'static str {
        match self.proxy.pool {
            None => "off",
            Some(_) if self.is_warm => "hit",
            Some(_) => "miss",
        }
    }

    /// The endpoint that is used.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.in_use.as_ref().map(|in_use| &**in_use.endpoint())
    }

    /// The connection ended before a relay began.
    pub fn ended(&mut self, side: Side, reason: &'static str) {
        self.side = side;
        self.reason = reason;
    }

    /// The connection could not be served, and this is what its client was told.
    pub fn refused(&mut self, side: Side, reason: &'static str, error: &str) {
        self.ended(side, reason);
        self.error = Some(error.into());
    }

    /// The connection was turned away, and this is what its client was told.
    pub fn rejected(&mut self, reason: &'static str, error: &str) {
        self.proxy.metrics.rejected(reason);
        self.refused(Side::Tidegate, reason, error);
    }

    /// Bytes were moved before a relay began.
    pub fn moved(&mut self, to_upstream: u64, to_client: u64) {
        self.to_upstream += to_upstream;
        self.to_client += to_client;
    }

    /// The relay ended; returns why.
    pub fn relayed(&mut self, end: End) -> Reason {
        self.ended(end.side, end.reason.as_str());
        self.moved(end.to_upstream, end.to_client);
        self.upstream = end.upstream.map(|info| (info.rtt, info.total_retrans));
        end.reason
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
        let is_unserved = self.connected.is_none();
        if is_unserved && !self.proxy.unserved.admit(self.side, self.reason) {
            return;
        }
        let header = self.header.as_deref();
        let client = self.client();
        let connect = self.connected.map(|at| milliseconds(at - self.accepted));
        info!(
            id = self.id,
            listener = self.proxy.config.name,
            client = %client,
            peer = (client != self.peer).then(|| tracing::field::display(self.peer)),
            vpce = header.and_then(|header| header.vpc_endpoint.as_deref()),
            linkid = header.and_then(|header| header.link_id),
            endpoint = self.endpoint().map(|endpoint| tracing::field::display(endpoint.address)),
            pool = self.pool_result(),
            connect_ms = connect,
            duration_ms = milliseconds(lifetime),
            bytes_to_upstream = self.to_upstream,
            bytes_to_client = self.to_client,
            side = self.side.as_str(),
            reason = self.reason,
            error = self.error.as_deref(),
            upstream_rtt_us = self.upstream.map(|(rtt, _)| rtt),
            upstream_retransmits = self.upstream.map(|(_, retransmits)| retransmits),
            "closed"
        );
    }
}

/// With three decimals.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Config};
    use crate::drain::Drain;
    use crate::log::Repeats;
    use crate::metrics::Metrics;
    use crate::proxy::{Limits, Unserved};
    use crate::tls::client::UpstreamLeg;
    use crate::upstream::Upstream;

    #[tokio::test]
    async fn a_panic_ends_one_session_and_is_counted() {
        let metrics = Metrics::new();
        let drain = Drain::new();
        let proxy = proxy(&metrics, &drain);
        let session = tokio::spawn(async move {
            let client = Peer::Tcp(([127, 0, 0, 1], 50_000).into());
            let _outcome = Outcome::new(proxy, 1, client, Instant::now());
            panic!("planted");
        });
        assert!(session.await.unwrap_err().is_panic());
        drain.empty().await;
        let text = String::from_utf8(metrics.render(0)).unwrap();
        let closed = "tidegate_connections_closed_total\
                      {listener=\"app\",reason=\"panic\",side=\"tidegate\"} 1\n";
        assert!(text.contains(closed), "{text}");
        assert!(text.contains("tidegate_connections_open{listener=\"app\"} 0\n"), "{text}");
    }

    fn proxy(metrics: &Metrics, drain: &Drain) -> Arc<Proxy> {
        let text = "[[listener]]\nname = \"app\"\n[upstream.gw]\ngateway = \"127.0.0.1:1\"\n";
        let Config { tcp, stall_timeout, splice, mut listeners, mut upstreams, .. } =
            config::parse(text, "test").unwrap();
        let handles = metrics.upstream("gw");
        let repeats = Repeats::default();
        let upstream = Upstream::new(
            upstreams.remove(0),
            UpstreamLeg::Passthrough,
            tcp.clone(),
            Vec::new(),
            handles,
            drain.clone(),
            &repeats,
        );
        Arc::new(Proxy {
            config: listeners.remove(0),
            addresses: Vec::new(),
            pool: None,
            tls: None,
            tls_metrics: metrics.tls(),
            sealing_key: Default::default(),
            stall_timeout,
            splice,
            tcp,
            upstream: Arc::new(upstream),
            gate: Limits::new(1).gate("app"),
            metrics: metrics.listener("app", &["off"]),
            unserved: Unserved::new("app", &repeats),
            drain: drain.clone(),
        })
    }
}
