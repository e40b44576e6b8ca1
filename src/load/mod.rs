//! A load generator for MySQL-protocol endpoints.
//!
//! # Layout
//!
//! | file | holds |
//! | --- | --- |
//! | `plan` | what is to be done |
//! | `worker`, `pace` | the threads, their connections, and the clock of an open loop |
//! | `session`, `handshake`, `channel` | one connection, its log-in, its packets |
//! | `record` | what is measured, as it comes |
//! | `report`, `text`, `page`, `plot` | what is told of it: as JSON, text and HTML |
//! | `compare` | two reports side by side |
//!
//! # Threads
//!
//! Each of the plan's threads has a runtime, its share of the connections and a [`Record`] of its
//! own. The caller's runtime resolves the name, logs in once to see whether that works, and then
//! looks once a second at the records: the progress line and the report's intervals come from there.

mod channel;
mod compare;
mod error;
mod handshake;
#[cfg(test)]
mod handshake_tests;
mod pace;
mod page;
mod plan;
mod plot;
mod record;
mod report;
mod session;
mod text;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::{Resource, getrlimit};
use thiserror::Error;
use tokio::net::lookup_host;
use tokio::signal::ctrl_c;
use tokio::sync::mpsc;
use tokio::time::{interval_at, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

pub use compare::compare;
pub use error::SessionError;
use pace::Pace;
pub use plan::{Login, Plan, PlanError, Scenario, Slo, Target, Weighted, bytes, share};
use record::{Lately, Record};
use report::Interval;
pub use report::Report;
use session::Session;
use text::milliseconds;
use worker::{Run, Shared, lock, operate};

/// Between two looks at the records.
const SECOND: Duration = Duration::from_secs(1);
/// Descriptors of the process itself.
const OWN_DESCRIPTORS: u64 = 50;

/// Why there is nothing to tell.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The name cannot be resolved.
    #[error("cannot resolve {host}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// It has no address.
    #[error("{0} has no address")]
    NoAddress(String),
    /// The first connection, before the load, does not do what all are to do.
    #[error("{target} cannot be loaded")]
    Unfit {
        /// Whom it was to.
        target: Target,
        /// What went wrong.
        source: SessionError,
    },
    /// There are not enough descriptors.
    #[error(
        "{wanted} connections need more than the {limit} open files that this process may have"
    )]
    Descriptors {
        /// Connections.
        wanted: usize,
        /// The limit.
        limit: u64,
    },
    /// The threads cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

impl LoadError {
    /// What may help.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Resolve { .. } | Self::NoAddress(_) => {
                Some("is the name right, and is it one of a private zone that this host can see?")
            }
            Self::Unfit { source, .. } => source.hint(),
            Self::Descriptors { .. } => Some("ulimit -n, or LimitNOFILE= of a unit"),
            Self::Thread(_) => None,
        }
    }
}

/// Carries a plan out; SIGINT ends it early, and what was measured is told.
pub async fn run(plan: Plan) -> Result<Report, LoadError> {
    let most = match plan.scenario {
        Scenario::Idle(hold) => hold.max(plan.connections),
        _ => plan.connections,
    };
    let limit = getrlimit(Resource::Nofile).current;
    if let Some(limit) = limit.filter(|limit| most as u64 + OWN_DESCRIPTORS > *limit) {
        return Err(LoadError::Descriptors { wanted: most, limit });
    }
    let addresses = resolve(&plan.target).await?;
    let began = Instant::now();
    let from = began + plan.ramp + plan.warmup;
    let mut run = Run {
        statements: plan.scenario.statements(),
        addresses,
        began,
        from,
        until: from + plan.duration,
        pace: None,
        stop: CancellationToken::new(),
        plan,
    };
    try_once(&run)
        .await
        .map_err(|source| LoadError::Unfit { target: run.plan.target.clone(), source })?;
    // That has taken its time.
    let late = began.elapsed();
    run.began += late;
    run.from += late;
    run.until += late;
    let begins = run.began + run.plan.ramp;
    let pace = run.plan.rate.map(|rate| Pace::start(rate, begins, run.until));
    run.pace = pace.transpose().map_err(LoadError::Thread)?;
    carry_out(Arc::new(run)).await
}

async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, LoadError> {
    let host = &target.host;
    let answer = lookup_host((host.as_str(), target.port)).await;
    let answer = answer.map_err(|source| LoadError::Resolve { host: host.clone(), source })?;
    let addresses: Vec<_> = answer.collect();
    if addresses.is_empty() { Err(LoadError::NoAddress(host.clone())) } else { Ok(addresses) }
}

/// What every connection will do: log in, and each statement.
async fn try_once(run: &Run) -> Result<(), SessionError> {
    let plan = &run.plan;
    let (mut session, _) = Session::open(&plan.login, &run.addresses, plan.timeout).await?;
    for statement in 0..run.statements.len().max(1) {
        operate(run, &mut session, statement).await?;
    }
    session.quit().await;
    Ok(())
}

async fn carry_out(run: Arc<Run>) -> Result<Report, LoadError> {
    let at = SystemTime::now();
    let (alive, mut ended) = mpsc::channel(1);
    let records = (0..run.plan.threads)
        .map(|number| worker::start(number, run.clone(), alive.clone()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(LoadError::Thread)?;
    drop(alive);
    let mut intervals = Vec::new();
    let is_whole = tokio::select! {
        _ = ended.recv() => true,
        () = look(&run, &records, &mut intervals) => true,
        _ = ctrl_c() => false,
    };
    if is_whole {
        // What is under way has its time; who does not want to wait may say so.
        tokio::select! {
            _ = ended.recv() => {}
            _ = ctrl_c() => {}
        }
    }
    run.stop.cancel();
    let _ = timeout(SECOND, ended.recv()).await;
    let measured = Instant::now().min(run.until).saturating_duration_since(run.from);
    let mut all = Record::new(run.statements.len().max(1));
    records.iter().for_each(|record| all.add(&lock(record)));
    all.not_begun += run.pace.as_ref().map_or(0, |pace| pace.not_begun());
    Ok(Report::new(&run, at, measured, &all, intervals, is_whole))
}

/// Looks at the records each second until the end.
async fn look(run: &Run, records: &[Shared], intervals: &mut Vec<Interval>) {
    let progress = progress(run);
    let mut lately = Lately::new();
    let mut take = || {
        lately = Lately::new();
        records.iter().for_each(|record| lock(record).take_lately(&mut lately));
        Interval::new(&lately)
    };
    progress.set_message("warming up");
    sleep_until(run.from.into()).await;
    let mut every = interval_at((run.from + SECOND).into(), SECOND);
    while Instant::now() < run.until {
        tokio::select! {
            _ = every.tick() => {}
            () = sleep_until(run.until.into()) => {}
        }
        let full = run.from + SECOND * (intervals.len() as u32 + 1) <= run.until;
        let interval = take();
        progress.set_position(run.from.elapsed().as_secs());
        progress.set_message(format!(
            "{}/s, p50 {}, p99 {}, {} errors",
            interval.done,
            milliseconds(interval.p50_us),
            milliseconds(interval.p99_us),
            intervals.iter().map(|one: &Interval| one.errors).sum::<u64>() + interval.errors,
        ));
        // The rest of a second says nothing about a rate.
        if full {
            intervals.push(interval);
        }
    }
    progress.finish_and_clear();
}

/// On standard error, and only if that is a terminal.
fn progress(run: &Run) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:20} {pos}/{len} s  {msg}");
    ProgressBar::new(run.plan.duration.as_secs())
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
