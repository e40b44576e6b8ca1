//! Two reports side by side.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::report::{Interval, Report};
use super::text::{significant, time};
use crate::show::table::{Align, Table, paragraph};

/// As many seconds of a run are looked at.
const SECONDS: usize = 1000;

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

/// A figure's name, its value in a run, in one of its seconds if that is known, and how it is shown.
type Figure =
    (&'static str, fn(&Report) -> f64, Option<fn(&Interval) -> Option<f64>>, fn(f64) -> String);

// A second without an operation has a rate of 0, and no latency.
const FIGURES: [Figure; 7] = [
    ("throughput", |run| run.throughput, Some(|second| Some(second.done as f64)), rate),
    ("p50", |run| run.latency.p50_us, Some(|second| second.latency(second.p50_us)), time),
    ("p90", |run| run.latency.p90_us, None, time),
    ("p99", |run| run.latency.p99_us, Some(|second| second.latency(second.p99_us)), time),
    ("p99.9", |run| run.latency.p999_us, None, time),
    ("max", |run| run.latency.max_us, None, time),
    ("errors", |run| run.errors as f64, None, |count| count.to_string()),
];

/// The ratios of the second report to the first, and what their seconds say of them.
pub fn compare(before: &Path, after: &Path) -> Result<String, CompareError> {
    let runs = [read(before)?, read(after)?];
    let [before, after] = &runs;
    let mut text = format!("A: {}\nB: {}\n", before.headline(), after.headline());
    if settings(before) != settings(after) {
        text += "These are different tests: the ratios say little.\n";
    }
    let mut table = Table::new(&[
        ("", Align::Left),
        ("A", Align::Right),
        ("B", Align::Right),
        ("B/A", Align::Right),
        ("SECOND BY SECOND", Align::Left),
        ("", Align::Left),
    ]);
    type Span = Option<(f64, f64)>;
    let mut row = |name: String, [a, b]: [f64; 2], shown: fn(f64) -> String, interval: Span| {
        let ratio = if a > 0.0 { times(b / a) } else { "-".to_owned() };
        let (interval, verdict) = match interval.filter(|_| a > 0.0) {
            None => ("-".to_owned(), ""),
            Some((least, most)) => {
                let verdict = match (least > 1.0, most < 1.0) {
                    (true, _) => "B is higher",
                    (_, true) => "B is lower",
                    _ => "no difference",
                };
                (format!("{} to {}", times(least), times(most)), verdict)
            }
        };
        table.row([name, shown(a), shown(b), ratio, interval, verdict.to_owned()]);
    };
    for (name, of, second, shown) in FIGURES {
        let interval = second.and_then(|second| {
            let [a, b] = [before, after].map(|run| run.intervals.iter().filter_map(second));
            interval(&a.collect::<Vec<_>>(), &b.collect::<Vec<_>>())
        });
        row(name.to_owned(), [before, after].map(of), shown, interval);
    }
    for phase in &before.phases {
        if let Some(same) = after.phases.iter().find(|other| other.name == phase.name) {
            let medians = [phase, same].map(|phase| phase.latency.p50_us);
            row(format!("{} p50", phase.name), medians, time, None);
        }
    }
    Ok(format!("{text}\n{table}\n{}", paragraph(NOTE)))
}

const NOTE: &str = "SECOND BY SECOND: where the ratio of a second of B to one of A lies, with 95 % \
                    confidence. Two runs of the same differ by more than their seconds do: repeat A to \
                    see by how much.";

fn rate(value: f64) -> String {
    format!("{}/s", significant(value))
}

fn times(ratio: f64) -> String {
    format!("x{}", significant(ratio))
}

/// Where the ratio of a value of `b` to one of `a` lies, with 95 % confidence; none of too few.
///
/// Of all ratios of a value to a value, in order, as many at either end are left out as Mann and
/// Whitney's test says. One second that is far from the others moves little.
fn interval(a: &[f64], b: &[f64]) -> Option<(f64, f64)> {
    let (a, b) = (thinned(a), thinned(b));
    let ratios = a.iter().flat_map(|a| b.iter().map(move |b| if a == b { 1.0 } else { b / a }));
    let mut ratios: Vec<f64> = ratios.collect();
    ratios.sort_by(f64::total_cmp);
    let (n, m) = (a.len() as f64, b.len() as f64);
    let left_out = n * m / 2.0 - 1.96 * (n * m * (n + m + 1.0) / 12.0).sqrt();
    // Rounded: the tables of the test have the same for few values.
    let first = (left_out.round() as usize).checked_sub(1)?;
    Some((*ratios.get(first)?, *ratios.get(ratios.len() - 1 - first)?))
}

/// Some of very many, evenly chosen: all pairs are looked at.
fn thinned(values: &[f64]) -> Vec<f64> {
    values.iter().copied().step_by(values.len() / SECONDS + 1).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn around(middle: f64, seconds: usize) -> Vec<f64> {
        (0..seconds).map(|second| middle * (0.98 + 0.01 * (second % 5) as f64)).collect()
    }

    #[test]
    fn a_ratio_lies_where_its_seconds_say() {
        let (least, most) = interval(&around(100.0, 10), &around(200.0, 10)).unwrap();
        assert!(1.9 < least && least < 2.0 && 2.0 < most && most < 2.1, "{least} to {most}");
        let (least, most) = interval(&around(100.0, 10), &around(100.5, 10)).unwrap();
        assert!(least < 1.0 && 1.0 < most, "{least} to {most}");
        // One second of a stall is no different run.
        let mut stalled = around(100.0, 10);
        stalled[3] = 0.0;
        let (least, most) = interval(&around(100.0, 10), &stalled).unwrap();
        assert!((0.97..=1.0).contains(&least) && (1.0..1.03).contains(&most), "{least} to {most}");
    }

    #[test]
    fn of_few_seconds_there_is_none_and_of_many_it_is_narrow() {
        for (few, other) in [(0, 10), (1, 10), (2, 5), (3, 3)] {
            assert_eq!(interval(&around(1.0, few), &around(1.0, other)), None, "{few}, {other}");
        }
        assert!(interval(&around(1.0, 4), &around(1.0, 4)).is_some());
        let (least, most) = interval(&around(1.0, 100_000), &around(1.0, 100_000)).unwrap();
        assert!(0.99 <= least && most <= 1.01, "{least} to {most}");
        assert_eq!(interval(&[0.0; 9], &[0.0; 9]), Some((1.0, 1.0)));
    }
}
