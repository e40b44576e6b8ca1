//! Two reports side by side.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::report::{Interval, Report};
use super::text::{significant, time};
use crate::show::table::{Align, Table};

/// Why there is nothing to compare.
#[derive(Debug, Error)]
pub enum CompareError {
    /// A file cannot be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// It is no report.
    #[error("{} is no report of tidegate load --json", .0.display())]
    NoReport(PathBuf, #[source] serde_json::Error),
}

/// The ratios of the second report to the first, with the spread of their seconds.
pub fn compare(before: &Path, after: &Path) -> Result<String, CompareError> {
    let (before, after) = (read(before)?, read(after)?);
    let mut text = format!("A: {}\nB: {}\n", before.headline(), after.headline());
    if settings(&before) != settings(&after) {
        text += "These are different tests: the ratios say little.\n";
    }
    let mut table = Table::new(&[
        ("", Align::Left),
        ("A", Align::Right),
        ("B", Align::Right),
        ("B/A", Align::Right),
        ("", Align::Left),
    ]);
    let rate = |value: f64| format!("{}/s", significant(value));
    let mut row = |name: &str, a: Seen, b: Seen, shown: &dyn Fn(f64) -> String| {
        let ratio = match a.value > 0.0 {
            true => format!("x{:.2}", b.value / a.value),
            false => "-".to_owned(),
        };
        let verdict = match a.overlaps(&b) {
            Some(true) => "inside the spread",
            Some(false) => "outside the spread",
            None => "",
        };
        table.row([name.to_owned(), a.show(shown), b.show(shown), ratio, verdict.to_owned()]);
    };
    let pair = |of: &dyn Fn(&Report) -> Seen| (of(&before), of(&after));
    let (a, b) =
        pair(&|report| Seen::of(report.throughput, report, |second| Some(second.done as f64)));
    row("throughput", a, b, &rate);
    let (a, b) = pair(&|report| {
        Seen::of(report.latency.p50_us, report, |second| second.latency(second.p50_us))
    });
    row("p50", a, b, &time);
    let (a, b) = pair(&|report| Seen::once(report.latency.p90_us));
    row("p90", a, b, &time);
    let (a, b) = pair(&|report| {
        Seen::of(report.latency.p99_us, report, |second| second.latency(second.p99_us))
    });
    row("p99", a, b, &time);
    let (a, b) = pair(&|report| Seen::once(report.latency.p999_us));
    row("p99.9", a, b, &time);
    let (a, b) = pair(&|report| Seen::once(report.latency.max_us));
    row("max", a, b, &time);
    let (a, b) = pair(&|report| Seen::once(report.errors as f64));
    row("errors", a, b, &|count| format!("{count}"));
    for phase in &before.phases {
        let same = after.phases.iter().find(|other| other.name == phase.name);
        if let Some(other) = same {
            let (a, b) = (phase.latency.p50_us, other.latency.p50_us);
            row(&format!("{} p50", phase.name), Seen::once(a), Seen::once(b), &time);
        }
    }
    Ok(format!("{text}\n{table}"))
}

fn read(path: &Path) -> Result<Report, CompareError> {
    let text = fs::read_to_string(path).map_err(|error| CompareError::Read(path.into(), error))?;
    serde_json::from_str(&text).map_err(|error| CompareError::NoReport(path.into(), error))
}

/// What must be the same for two runs to be comparable; the target is what may differ.
fn settings(report: &Report) -> (&str, [usize; 2], Option<f64>, bool, Vec<&str>) {
    let statements = report.statements.iter().map(|statement| statement.sql.as_str()).collect();
    let sizes = [report.connections, report.threads];
    (&report.scenario, sizes, report.rate, report.tls, statements)
}

/// A figure of a run, and the least and the most of its seconds where it has that.
struct Seen {
    value: f64,
    spread: Option<(f64, f64)>,
}

impl Seen {
    fn once(value: f64) -> Self {
        Self { value, spread: None }
    }

    fn of(value: f64, report: &Report, second: impl Fn(&Interval) -> Option<f64>) -> Self {
        // A second without an operation has a rate of 0, and no latency.
        let seconds: Vec<f64> = report.intervals.iter().filter_map(second).collect();
        let spread = (seconds.len() > 1).then(|| {
            let least = seconds.iter().copied().fold(f64::INFINITY, f64::min);
            (least, seconds.iter().copied().fold(0.0, f64::max))
        });
        Self { value, spread }
    }

    fn show(&self, shown: &dyn Fn(f64) -> String) -> String {
        match self.spread {
            Some((least, most)) => {
                format!("{} ({} to {})", shown(self.value), shown(least), shown(most))
            }
            None => shown(self.value),
        }
    }

    /// Whether the seconds of the two runs are alike.
    fn overlaps(&self, other: &Self) -> Option<bool> {
        let ((a, b), (c, d)) = (self.spread?, other.spread?);
        Some(a <= d && c <= b)
    }
}
