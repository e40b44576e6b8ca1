//! What a run has found out, as values and as JSON.

use std::io;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::error::Step;
use super::plan::{Figure, Scenario};
use super::record::{Lately, Latencies, Record};
use super::text::{significant, time};
use super::worker::Run;

/// Points of a latency curve for each halving of the distance to 100 %.
const POINTS: u32 = 10;

/// A run. Times that end in `_us` are in microseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The version that has measured.
    pub tidegate: String,
    /// When, UTC.
    pub at: String,
    /// Host and port.
    pub target: String,
    /// connect, ping, query, bulk or idle.
    pub scenario: String,
    /// Connections at a time.
    pub connections: usize,
    /// Operations a second that were asked for.
    pub rate: Option<f64>,
    /// Threads that carried the load.
    pub threads: usize,
    /// Whether TLS was used.
    pub tls: bool,
    /// Measured time in seconds.
    pub seconds: f64,
    /// Whether it was as long as it was meant to be.
    pub is_whole: bool,
    /// Operations that went well.
    pub done: u64,
    /// Operations that did not.
    pub errors: u64,
    /// Operations that were due and for which no connection was free until the end.
    pub not_begun: u64,
    /// Share of the connections' time in which they could not be opened or nobody answered; of a
    /// closed loop, which asks whoever is gone seldom. Reports of before have none.
    #[serde(default)]
    pub lost: f64,
    /// Operations a second: those that ended well in the measured time.
    pub throughput: f64,
    /// Bytes of rows a second.
    pub bytes_per_second: f64,
    /// How long they took: with a rate, since they were due.
    pub latency: Latency,
    /// The same, of each statement.
    pub statements: Vec<Statement>,
    /// The steps of connecting.
    pub phases: Vec<Phase>,
    /// The errors by cause.
    pub causes: Vec<Cause>,
    /// The seconds of the run.
    pub intervals: Vec<Interval>,
    /// Share of operations in per cent, and what as many were not slower than, in microseconds.
    pub curve: Vec<(f64, f64)>,
    /// The bounds, and whether they were kept.
    pub bounds: Vec<Bound>,
}

/// Latencies in microseconds, of operations that went well.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Latency {
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

/// A statement's share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Statement {
    /// Its text.
    pub sql: String,
    /// How often it was answered.
    pub done: u64,
    /// How long that took.
    pub latency: Latency,
}

/// A step of connecting.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// How often it was done.
    pub done: u64,
    /// How long that took.
    pub latency: Latency,
}

/// Errors of one cause.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cause {
    /// The step, and what was wrong.
    pub cause: String,
    /// How often.
    pub count: u64,
    /// The first of them.
    pub example: String,
}

/// What ended in one second.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Interval {
    pub done: u64,
    pub errors: u64,
    pub p50_us: f64,
    pub p99_us: f64,
}

/// A bound on a figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bound {
    /// As it was given.
    pub bound: String,
    /// What was measured.
    pub measured: String,
    /// Whether that is within it.
    pub is_kept: bool,
}

impl Interval {
    pub(super) fn new(lately: &Lately) -> Self {
        let at = |percent| quantile(&lately.latencies, percent);
        Self {
            done: lately.latencies.len(),
            errors: lately.errors,
            p50_us: at(50.0),
            p99_us: at(99.0),
        }
    }

    /// A latency of it, if there was one.
    pub(super) fn latency(&self, us: f64) -> Option<f64> {
        (self.done > 0).then_some(us)
    }
}

impl Latency {
    fn of(latencies: &Latencies) -> Self {
        let at = |percent| quantile(latencies, percent);
        Self {
            mean_us: latencies.mean() / 1e3,
            p50_us: at(50.0),
            p90_us: at(90.0),
            p99_us: at(99.0),
            p999_us: at(99.9),
            max_us: at(100.0),
        }
    }
}

/// In microseconds; 0 of nothing.
fn quantile(latencies: &Latencies, percent: f64) -> f64 {
    match latencies.is_empty() {
        true => 0.0,
        false => latencies.value_at_percentile(percent) as f64 / 1e3,
    }
}

impl Report {
    pub(super) fn new(
        run: &Run,
        at: SystemTime,
        measured: Duration,
        record: &Record,
        intervals: Vec<Interval>,
        is_whole: bool,
    ) -> Self {
        let plan = &run.plan;
        let seconds = measured.as_secs_f64();
        let latencies = record.latencies();
        let a_second = |count: f64| if seconds > 0.0 { count / seconds } else { 0.0 };
        let statements = run.statements.iter().zip(&record.statements);
        let names = Step::OPENING.map(Step::as_str).into_iter().chain(["first answer", "quit"]);
        let mut causes: Vec<_> = record
            .causes
            .iter()
            .map(|(name, cause)| Cause {
                cause: name.clone(),
                count: cause.count,
                example: cause.example.clone(),
            })
            .collect();
        causes.sort_by_key(|cause| std::cmp::Reverse(cause.count));
        let failed = record.errors + record.not_begun;
        let all = latencies.len() + failed;
        let share = if all == 0 { 1.0 } else { failed as f64 / all as f64 };
        let lost = match plan.rate {
            Some(_) => 0.0,
            None => (a_second(record.lost.as_secs_f64()) / plan.connections as f64).min(1.0),
        };
        // Bounds are for everybody who was due.
        let mut bounded = latencies.clone();
        bounded.add(&record.unanswered).expect("all have the same bounds");
        let mut bounds: Vec<_> = plan
            .slos
            .iter()
            .map(|slo| {
                let measured = match slo.figure {
                    Figure::Mean => bounded.mean() / 1e3,
                    Figure::Max => quantile(&bounded, 100.0),
                    Figure::Percentile(percent) => quantile(&bounded, percent),
                };
                Bound {
                    bound: slo.to_string(),
                    measured: time(measured),
                    is_kept: !latencies.is_empty() && measured < slo.below.as_secs_f64() * 1e6,
                }
            })
            .collect();
        bounds.push(Bound {
            bound: format!("errors<={}%", significant(plan.max_error_rate * 100.0)),
            measured: match all {
                0 => "nothing was done".to_owned(),
                _ if lost > 0.0 => {
                    let [share, lost] = [share, lost].map(|share| significant(share * 100.0));
                    format!("{share}% of operations, {lost}% of the connections' time")
                }
                _ => format!("{}%", significant(share * 100.0)),
            },
            is_kept: share.max(lost) <= plan.max_error_rate && all > 0,
        });
        Self {
            tidegate: env!("CARGO_PKG_VERSION").to_owned(),
            at: humantime::format_rfc3339_seconds(at).to_string(),
            target: plan.target.to_string(),
            scenario: plan.scenario.as_str().to_owned(),
            connections: match plan.scenario {
                Scenario::Idle(hold) => hold,
                _ => plan.connections,
            },
            rate: plan.rate,
            threads: plan.threads,
            tls: plan.tls.is_some(),
            seconds,
            is_whole,
            done: latencies.len(),
            errors: record.errors,
            not_begun: record.not_begun,
            lost,
            throughput: match plan.scenario {
                Scenario::Idle(_) => 0.0,
                _ => a_second(record.in_time as f64),
            },
            bytes_per_second: a_second(record.bytes as f64),
            latency: Latency::of(&latencies),
            statements: statements
                .map(|(statement, latencies)| Statement {
                    sql: statement.sql.clone(),
                    done: latencies.len(),
                    latency: Latency::of(latencies),
                })
                .collect(),
            phases: names
                .zip(&record.phases)
                .filter(|(_, latencies)| !latencies.is_empty())
                .map(|(name, latencies)| Phase {
                    name: name.to_owned(),
                    done: latencies.len(),
                    latency: Latency::of(latencies),
                })
                .collect(),
            causes,
            intervals,
            curve: latencies
                .iter_quantiles(POINTS)
                .map(|step| {
                    (step.quantile_iterated_to() * 100.0, step.value_iterated_to() as f64 / 1e3)
                })
                .collect(),
            bounds,
        }
    }

    /// Whether every bound was kept.
    pub fn is_good(&self) -> bool {
        self.bounds.iter().all(|bound| bound.is_kept)
    }

    /// It as JSON.
    pub fn to_json(&self) -> io::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// It as a page.
    pub fn to_html(&self) -> io::Result<String> {
        super::page::page(self)
    }
}
