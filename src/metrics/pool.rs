//! The series of the pools.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{counter, gauge, histogram};

/// A look takes microseconds, a place in a queue may take seconds.
const WAIT_BUCKETS: &[f64] = &[1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0];

/// The families.
#[derive(Debug)]
pub(super) struct Pools {
    connections: IntGaugeVec,
    checkouts: IntCounterVec,
    evictions: IntCounterVec,
    wait: HistogramVec,
}

/// The handles of one upstream's pool.
#[derive(Debug)]
pub struct PoolMetrics {
    name: String,
    /// Connections that are being dialled or greeted.
    pub connecting: IntGauge,
    /// Those that wait for a client.
    pub idle: IntGauge,
    hits: IntCounter,
    misses: IntCounter,
    evictions: IntCounterVec,
    wait: Histogram,
}

impl Pools {
    pub fn new() -> Self {
        Self {
            connections: gauge(
                "tidegate_pool_connections",
                "Upstream connections held for clients to come, by state.",
                &["upstream", "state"],
            ),
            checkouts: counter(
                "tidegate_pool_checkouts_total",
                "Clients that asked for a held connection; a miss dials for itself.",
                &["upstream", "result"],
            ),
            evictions: counter(
                "tidegate_pool_evictions_total",
                "Held connections that ended unused, by reason.",
                &["upstream", "reason"],
            ),
            wait: histogram(
                "tidegate_pool_wait_seconds",
                "Time for a pool to lend a connection, or to find that it has none.",
                &["upstream"],
                WAIT_BUCKETS,
            ),
        }
    }

    pub fn families(&self) -> [Box<dyn Collector>; 4] {
        [
            Box::new(self.connections.clone()),
            Box::new(self.checkouts.clone()),
            Box::new(self.evictions.clone()),
            Box::new(self.wait.clone()),
        ]
    }

    /// The handles of the pool of the upstream `name`.
    pub fn of(&self, name: &str) -> PoolMetrics {
        PoolMetrics {
            name: name.to_owned(),
            connecting: self.connections.with_label_values(&[name, "connecting"]),
            idle: self.connections.with_label_values(&[name, "idle"]),
            hits: self.checkouts.with_label_values(&[name, "hit"]),
            misses: self.checkouts.with_label_values(&[name, "miss"]),
            evictions: self.evictions.clone(),
            wait: self.wait.with_label_values(&[name]),
        }
    }
}

impl PoolMetrics {
    /// Counts a client that asked for a held connection, and how long it took to tell.
    pub fn checked_out(&self, hit: bool, took: Duration) {
        if hit {
            self.hits.inc()
        } else {
            self.misses.inc()
        }
        self.wait.observe(took.as_secs_f64());
    }

    /// Counts a held connection that ended unused.
    pub fn evicted(&self, reason: &str) {
        self.evictions.with_label_values(&[self.name.as_str(), reason]).inc();
    }
}
