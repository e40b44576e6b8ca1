//! The series of TLS, by the side that it is spoken with.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, GaugeVec, Histogram, HistogramVec};

use super::{CONNECT_BUCKETS, float_gauge, histogram};

/// The families.
#[derive(Debug)]
pub(super) struct Families {
    handshake: HistogramVec,
    expiry: Expiry,
}

/// The handles. Of all listeners and upstreams: a side is one series.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The clients' first TLS byte to the end of the handshake, seconds.
    pub client: Histogram,
    /// The first TLS byte to the server to the end of the handshake, seconds.
    pub upstream: Histogram,
    /// When the first of the bridge's own certificates ends; not shown while it is 0.
    pub client_expiry: Gauge,
    /// When the certificate ends that a server has shown last; not shown while it is 0.
    pub upstream_expiry: Gauge,
}

impl Families {
    pub fn new() -> Self {
        Self {
            handshake: histogram(
                "tidegate_tls_handshake_seconds",
                "Time of a TLS handshake, by the side that it is with.",
                &["side"],
                CONNECT_BUCKETS,
            ),
            expiry: Expiry(float_gauge(
                "tidegate_certificate_expiry_timestamp_seconds",
                "When a certificate ends: the first of those that clients are shown, the last that an upstream has shown.",
                &["side"],
            )),
        }
    }

    pub fn collectors(&self) -> [Box<dyn Collector>; 2] {
        [Box::new(self.handshake.clone()), Box::new(self.expiry.clone())]
    }

    pub fn handles(&self) -> Tls {
        let Expiry(expiry) = &self.expiry;
        Tls {
            client: self.handshake.with_label_values(&["client"]),
            upstream: self.handshake.with_label_values(&["upstream"]),
            client_expiry: expiry.with_label_values(&["client"]),
            upstream_expiry: expiry.with_label_values(&["upstream"]),
        }
    }
}

/// A moment as a gauge has it; 0 for what is not known.
pub fn timestamp(moment: Option<SystemTime>) -> f64 {
    let since = moment.and_then(|moment| moment.duration_since(UNIX_EPOCH).ok());
    since.unwrap_or_default().as_secs_f64()
}

/// Leaves out what is not known: an alert on the days that are left would take 0 for 1970.
#[derive(Debug, Clone)]
struct Expiry(GaugeVec);

impl Collector for Expiry {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.0.collect();
        for family in &mut families {
            family.mut_metric().retain(|metric| metric.get_gauge().get_value() != 0.0);
        }
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}
