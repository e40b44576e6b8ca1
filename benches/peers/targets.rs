//! What tidegate is meant to reach, and whether it does.

use crate::axes::{Figure, P50, P99, P999};
use crate::stats::{Table, short};
use crate::summary::Summary;

/// What a bound that is nobody's figure is a multiple of.
const ONE: Summary = Summary { median: 1.0, min: 1.0, max: 1.0 };

/// A bound on a median of tidegate.
#[derive(Debug)]
pub struct Target {
    axis: &'static str,
    figure: Figure,
    bound: Bound,
    factor: f64,
    /// The best of these is what the factor is of; none: it is a bound by itself.
    of: &'static [&'static str],
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    AtLeast,
    AtMost,
}
use Bound::{AtLeast, AtMost};

const NGINX: &[&str] = &["nginx"];
const HAPROXY: &[&str] = &["haproxy"];
const HAPROXY_NGINX: &[&str] = &["haproxy", "nginx"];
const STUNNEL: &[&str] = &["stunnel"];
const ENVOY: &[&str] = &["envoy"];
const SPLICE: &[&str] = &["haproxy splice"];
const SPLICE_ENVOY: &[&str] = &["haproxy splice", "envoy"];

#[rustfmt::skip]
const TARGETS: &[Target] = &[
    Target { axis: "ping1", figure: P50, bound: AtMost, factor: 1.0, of: HAPROXY },
    Target { axis: "ping16", figure: Figure::Rate, bound: AtLeast, factor: 1.15, of: HAPROXY },
    Target { axis: "ping16", figure: Figure::Rate, bound: AtLeast, factor: 1.05, of: NGINX },
    Target { axis: "ping16", figure: P99, bound: AtMost, factor: 1.0, of: NGINX },
    Target { axis: "ping16", figure: P999, bound: AtMost, factor: 1.0, of: HAPROXY },
    Target { axis: "ping16", figure: Figure::CpuPerRequest, bound: AtMost, factor: 0.95, of: NGINX },
    Target { axis: "ping64", figure: Figure::Rate, bound: AtLeast, factor: 1.0, of: HAPROXY_NGINX },
    Target { axis: "bulk1", figure: Figure::Throughput, bound: AtLeast, factor: 2.0, of: HAPROXY_NGINX },
    Target { axis: "bulk1", figure: Figure::Throughput, bound: AtLeast, factor: 1.0, of: SPLICE_ENVOY },
    Target { axis: "bulk1", figure: Figure::CpuPerGigabyte, bound: AtMost, factor: 0.7, of: SPLICE },
    Target { axis: "bulk4", figure: Figure::Throughput, bound: AtLeast, factor: 2.0, of: HAPROXY_NGINX },
    Target { axis: "bulk4", figure: Figure::Throughput, bound: AtLeast, factor: 1.0, of: SPLICE_ENVOY },
    Target { axis: "bulk4", figure: Figure::CpuPerGigabyte, bound: AtMost, factor: 0.7, of: SPLICE },
    Target { axis: "bulk-copied1", figure: Figure::Throughput, bound: AtLeast, factor: 2.0, of: HAPROXY_NGINX },
    Target { axis: "bulk-copied1", figure: Figure::Throughput, bound: AtLeast, factor: 1.0, of: SPLICE_ENVOY },
    Target { axis: "bulk-copied1", figure: Figure::CpuPerGigabyte, bound: AtMost, factor: 0.7, of: SPLICE },
    Target { axis: "bulk-copied4", figure: Figure::Throughput, bound: AtLeast, factor: 2.0, of: HAPROXY_NGINX },
    Target { axis: "bulk-copied4", figure: Figure::Throughput, bound: AtLeast, factor: 1.0, of: SPLICE_ENVOY },
    Target { axis: "bulk-copied4", figure: Figure::CpuPerGigabyte, bound: AtMost, factor: 0.7, of: SPLICE },
    Target { axis: "short", figure: Figure::Rate, bound: AtLeast, factor: 0.95, of: NGINX },
    Target { axis: "short", figure: Figure::Rate, bound: AtLeast, factor: 1.0, of: HAPROXY },
    Target { axis: "memory", figure: Figure::MemoryBefore, bound: AtMost, factor: 2.0, of: &[] },
    Target { axis: "memory", figure: Figure::MemoryAfter, bound: AtMost, factor: 2.0, of: &[] },
    Target { axis: "tls_bulk1", figure: Figure::Throughput, bound: AtLeast, factor: 1.7, of: STUNNEL },
    Target { axis: "tls_bulk1", figure: Figure::Throughput, bound: AtLeast, factor: 1.7, of: HAPROXY },
    Target { axis: "tls_bulk1", figure: Figure::Throughput, bound: AtLeast, factor: 0.95, of: ENVOY },
    Target { axis: "tls_ping16", figure: Figure::Rate, bound: AtLeast, factor: 1.15, of: NGINX },
];

/// The rows of those targets whose axes were measured.
pub fn rows(tables: &[Table]) -> String {
    TARGETS.iter().filter_map(|target| target.row(tables)).collect()
}

impl Target {
    fn row(&self, tables: &[Table]) -> Option<String> {
        let table = tables.iter().find(|table| table.axis.key == self.axis)?;
        let theirs = self.of.iter().filter_map(|name| table.summary(name, self.figure));
        let (sign, theirs) = match self.bound {
            AtLeast => ("≥", theirs.max_by(|a, b| a.median.total_cmp(&b.median))),
            AtMost => ("≤", theirs.min_by(|a, b| a.median.total_cmp(&b.median))),
        };
        let base = if self.of.is_empty() { Some(ONE) } else { theirs };
        let factor = self.factor;
        let bound = match self.of {
            [] => format!("{sign} {factor}"),
            [one] => format!("{sign} {factor} × {one}"),
            several => format!("{sign} {factor} × the best of {}", several.join(", ")),
        };
        let results = ["tidegate", "tidegate static"].map(|name| {
            match (table.summary(name, self.figure), base) {
                (Some(ours), Some(base)) => self.result(ours, base),
                _ => "not measured".to_owned(),
            }
        });
        let figure = format!("{}: {}", table.axis.title, self.figure.name());
        Some(format!("| {figure} | {bound} | {} |\n", results.join(" | ")))
    }

    /// Judged by the medians, and whether other rounds of the two would have said otherwise.
    fn result(&self, ours: Summary, base: Summary) -> String {
        let is_reached = |ratio: f64| match self.bound {
            AtLeast => ratio >= self.factor,
            AtMost => ratio <= self.factor,
        };
        let ratio = ours.median / base.median;
        let extremes = [ours.min / base.max, ours.max / base.min];
        let word = if is_reached(ratio) { "reached" } else { "**missed**" };
        let spread = match extremes.map(is_reached) {
            [true, true] | [false, false] => "",
            _ => ", inside the spread",
        };
        let ratio = match self.of {
            [] => String::new(),
            _ => format!(" to {}: ×{ratio:.2}", short(base.median)),
        };
        format!("{}{ratio}: {word}{spread}", short(ours.median))
    }
}
