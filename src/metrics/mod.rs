//! Every metric of the process: names, labels, buckets and typed handles in one place.

mod pool;
mod tls;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use pool::Pools;

pub use pool::PoolMetrics;
pub use tls::{Tls, timestamp};

/// 100 us to 30 s: loopback to a dial deadline.
const CONNECT_BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];
/// One short query to a pooled connection of a day.
const LIFETIME_BUCKETS: &[f64] =
    &[0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 14400.0, 86400.0];

/// The registry and the families in it.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    connections: IntCounterVec,
    open: IntGaugeVec,
    closed: IntCounterVec,
    rejected: IntCounterVec,
    bytes: IntCounterVec,
    connect: HistogramVec,
    lifetime: HistogramVec,
    dial: HistogramVec,
    dial_failures: IntCounterVec,
    dns_lookups: IntCounterVec,
    dns_last_success: GaugeVec,
    endpoints: IntGaugeVec,
    pools: Pools,
    tls: tls::Families,
    log_lines_dropped: IntCounter,
}

/// The handles of one listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    name: String,
    /// Connections accepted.
    pub connections: IntCounter,
    /// Connections open now.
    pub open: IntGauge,
    /// Bytes relayed.
    pub relayed: Arc<Relayed>,
    /// Accept to an upstream connection in hand, seconds, by pool result.
    connect: Vec<(&'static str, Histogram)>,
    /// Accept to close, seconds.
    pub lifetime: Histogram,
    closed: IntCounterVec,
    rejected: IntCounterVec,
}

/// Bytes relayed, counted while they move.
#[derive(Debug)]
pub struct Relayed {
    /// From clients to the upstream.
    pub to_upstream: Bytes,
    /// From the upstream to clients.
    pub to_client: Bytes,
}

/// Bytes of one direction, by the path that they took.
#[derive(Debug)]
pub struct Bytes {
    /// Read into the bridge and written again.
    pub copied: IntCounter,
    /// Moved from socket to socket by the kernel.
    pub spliced: IntCounter,
    /// Through TLS that ends in the bridge.
    pub tls: IntCounter,
}

/// The handles of one upstream.
#[derive(Debug)]
pub struct UpstreamMetrics {
    name: String,
    /// Time for one address to answer, seconds.
    pub dial: Histogram,
    dial_failures: IntCounterVec,
    dns_lookups: IntCounterVec,
    dns_last_success: GaugeVec,
    endpoints: IntGaugeVec,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All families, registered and empty.
    pub fn new() -> Self {
        let registry = Registry::new();
        let metrics = Self {
            connections: counter(
                "tidegate_connections_total",
                "Client connections accepted.",
                &["listener"],
            ),
            open: gauge("tidegate_connections_open", "Client connections open.", &["listener"]),
            closed: counter(
                "tidegate_connections_closed_total",
                "Client connections ended, by the side that ended them and why.",
                &["listener", "side", "reason"],
            ),
            rejected: counter(
                "tidegate_connections_rejected_total",
                "Client connections turned away before an upstream was dialled, by reason.",
                &["listener", "reason"],
            ),
            bytes: counter(
                "tidegate_bytes_total",
                "Bytes relayed, by direction and by the path that they took.",
                &["listener", "direction", "path"],
            ),
            connect: histogram(
                "tidegate_connect_seconds",
                "Accept to an upstream connection in hand.",
                &["listener", "pool_result"],
                CONNECT_BUCKETS,
            ),
            lifetime: histogram(
                "tidegate_connection_seconds",
                "Accept to close of a client connection.",
                &["listener"],
                LIFETIME_BUCKETS,
            ),
            dial: histogram(
                "tidegate_dial_seconds",
                "Time for one upstream address to answer.",
                &["upstream"],
                CONNECT_BUCKETS,
            ),
            dial_failures: counter(
                "tidegate_dial_failures_total",
                "Dials of one upstream address that failed.",
                &["upstream", "reason"],
            ),
            dns_lookups: counter(
                "tidegate_dns_lookups_total",
                "Look-ups of the gateway's name.",
                &["upstream", "result"],
            ),
            dns_last_success: float_gauge(
                "tidegate_dns_last_success_timestamp_seconds",
                "When the gateway's name was last resolved; 0: not yet.",
                &["upstream"],
            ),
            endpoints: gauge(
                "tidegate_endpoints",
                "Upstream addresses known, by state.",
                &["upstream", "state"],
            ),
            pools: Pools::new(),
            tls: tls::Families::new(),
            log_lines_dropped: valid(IntCounter::new(
                "tidegate_log_lines_dropped_total",
                "Log lines dropped because stderr did not keep up.",
            )),
            registry,
        };
        let build =
            gauge("tidegate_build_info", "The running build; always 1.", &["version", "commit"]);
        let commit = option_env!("TIDEGATE_COMMIT").unwrap_or("unknown");
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), commit]).set(1);
        let families: [Box<dyn Collector>; 15] = [
            Box::new(build),
            Box::new(metrics.connections.clone()),
            Box::new(metrics.open.clone()),
            Box::new(metrics.closed.clone()),
            Box::new(metrics.rejected.clone()),
            Box::new(metrics.bytes.clone()),
            Box::new(metrics.connect.clone()),
            Box::new(metrics.lifetime.clone()),
            Box::new(metrics.dial.clone()),
            Box::new(metrics.dial_failures.clone()),
            Box::new(metrics.dns_lookups.clone()),
            Box::new(metrics.dns_last_success.clone()),
            Box::new(metrics.endpoints.clone()),
            Box::new(metrics.log_lines_dropped.clone()),
            Box::new(ProcessCollector::for_self()),
        ];
        let of_rooms = metrics.pools.families().into_iter().chain(metrics.tls.collectors());
        for family in families.into_iter().chain(of_rooms) {
            valid(metrics.registry.register(family));
        }
        metrics
    }

    /// The handles of the listener `name`; its counters exist from now on, at zero.
    pub fn listener(&self, name: &str, pool_results: &[&'static str]) -> ListenerMetrics {
        let bytes = |direction| Bytes {
            copied: self.bytes.with_label_values(&[name, direction, "copy"]),
            spliced: self.bytes.with_label_values(&[name, direction, "splice"]),
            tls: self.bytes.with_label_values(&[name, direction, "tls"]),
        };
        ListenerMetrics {
            name: name.to_owned(),
            connections: self.connections.with_label_values(&[name]),
            open: self.open.with_label_values(&[name]),
            relayed: Arc::new(Relayed {
                to_upstream: bytes("client_to_upstream"),
                to_client: bytes("upstream_to_client"),
            }),
            connect: pool_results
                .iter()
                .map(|result| (*result, self.connect.with_label_values(&[name, *result])))
                .collect(),
            lifetime: self.lifetime.with_label_values(&[name]),
            closed: self.closed.clone(),
            rejected: self.rejected.clone(),
        }
    }

    /// The handles of the upstream `name`.
    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        UpstreamMetrics {
            name: name.to_owned(),
            dial: self.dial.with_label_values(&[name]),
            dial_failures: self.dial_failures.clone(),
            dns_lookups: self.dns_lookups.clone(),
            dns_last_success: self.dns_last_success.clone(),
            endpoints: self.endpoints.clone(),
        }
    }

    /// The handles of the pool of the upstream `name`.
    pub fn pool(&self, name: &str) -> PoolMetrics {
        self.pools.of(name)
    }

    /// The handles of TLS.
    pub fn tls(&self) -> Tls {
        self.tls.handles()
    }

    /// Connections open now, those of listeners that are gone among them.
    pub fn open_connections(&self) -> i64 {
        let families = self.open.collect();
        let listeners = families.iter().flat_map(|family| family.get_metric());
        listeners.map(|listener| listener.get_gauge().get_value() as i64).sum()
    }

    /// All families in Prometheus' text format, version 0.0.4. `dropped` is the number of log
    /// lines dropped so far.
    pub fn render(&self, dropped: u64) -> Vec<u8> {
        self.log_lines_dropped.inc_by(dropped.saturating_sub(self.log_lines_dropped.get()));
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("writing to memory does not fail, and gathered families are well formed");
        text
    }
}

impl Bytes {
    /// Those of all paths.
    pub fn total(&self) -> u64 {
        self.copied.get() + self.spliced.get() + self.tls.get()
    }
}

impl ListenerMetrics {
    /// Counts a connection's end.
    pub fn closed(&self, side: &str, reason: &str) {
        self.closed.with_label_values(&[self.name.as_str(), side, reason]).inc();
    }

    /// Counts an upstream connection in hand, `seconds` after the accept.
    pub fn connected(&self, pool_result: &str, seconds: f64) {
        if let Some((_, connect)) = self.connect.iter().find(|(result, _)| *result == pool_result) {
            connect.observe(seconds);
        }
    }

    /// Counts a connection that was turned away.
    pub fn rejected(&self, reason: &str) {
        self.rejected.with_label_values(&[self.name.as_str(), reason]).inc();
    }
}

impl UpstreamMetrics {
    /// Sets the number of endpoints that are in `state`.
    pub fn endpoints(&self, state: &str, count: usize) {
        self.endpoints.with_label_values(&[self.name.as_str(), state]).set(count as i64);
    }

    /// Counts a failed dial of one address.
    pub fn dial_failed(&self, reason: &str) {
        self.dial_failures.with_label_values(&[self.name.as_str(), reason]).inc();
    }

    /// The time of the last success exists from now on; 0 as long as there was none.
    pub fn has_a_name(&self) {
        self.dns_last_success.with_label_values(&[self.name.as_str()]);
    }

    /// There was none of this name.
    pub fn has_another_name(&self) {
        self.dns_last_success.with_label_values(&[self.name.as_str()]).set(0.0);
    }

    /// The time of the last success is not shown any more: it would seem to get older and older.
    pub fn has_no_name(&self) {
        // An error if it was not shown before.
        let _ = self.dns_last_success.remove_label_values(&[self.name.as_str()]);
    }

    /// Counts a look-up; `ok` and `partial` also move the time of the last success.
    pub fn looked_up(&self, result: &str) {
        self.dns_lookups.with_label_values(&[self.name.as_str(), result]).inc();
        if result == "ok" || result == "partial" {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let gauge = self.dns_last_success.with_label_values(&[self.name.as_str()]);
            gauge.set(now.as_secs_f64());
        }
    }
}

fn counter(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    valid(IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauge(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    valid(IntGaugeVec::new(Opts::new(name, help), labels))
}

fn float_gauge(name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    valid(GaugeVec::new(Opts::new(name, help), labels))
}

fn histogram(name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    valid(HistogramVec::new(options, labels))
}

/// Names and labels are the literals of this file, checked by its tests.
fn valid<T>(result: prometheus::Result<T>) -> T {
    result.expect("metric names are valid and unique")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_listener_is_counted_from_zero_and_dropped_lines_only_rise() {
        let metrics = Metrics::new();
        let listener = metrics.listener("app", &["off"]);
        listener.connections.inc();
        listener.closed("client", "eof");
        assert!(text(&metrics, 3).contains("tidegate_connections_total{listener=\"app\"} 1\n"));
        assert!(text(&metrics, 3).contains("tidegate_log_lines_dropped_total 3\n"));
        assert!(text(&metrics, 2).contains("tidegate_log_lines_dropped_total 3\n"));
    }

    #[test]
    fn the_end_of_a_certificate_is_told_once_it_is_known() {
        let metrics = Metrics::new();
        let tls = metrics.tls();
        let name = "tidegate_certificate_expiry_timestamp_seconds";
        assert!(!text(&metrics, 0).contains(name));
        tls.client_expiry.set(timestamp(Some(UNIX_EPOCH + Duration::from_secs(1_800_000_000))));
        let told = text(&metrics, 0);
        assert!(told.contains(&format!("{name}{{side=\"client\"}} 1800000000\n")), "{told}");
        assert!(!told.contains(&format!("{name}{{side=\"upstream\"}}")), "{told}");
        tls.client_expiry.set(timestamp(None));
        assert!(!text(&metrics, 0).contains(name));
        tls.upstream.observe(0.002);
        let counted = "tidegate_tls_handshake_seconds_count{side=\"upstream\"} 1\n";
        assert!(text(&metrics, 0).contains(counted));
    }

    fn text(metrics: &Metrics, dropped: u64) -> String {
        String::from_utf8(metrics.render(dropped)).unwrap()
    }
}
