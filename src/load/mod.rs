//! A load generator for MySQL-protocol endpoints.
//!
//! # Layout
//!
//! | file | holds |
//! | --- | --- |
//! | `plan`, `flags` | what is to be done, and how flags say it |
//! | `worker`, `pace` | the threads, their connections, and the clock of an open loop |
//! | `choice` | which statement is next |
//! | `session` | one connection: its steps, and what is asked on it |
//! | `record` | what is measured, as it comes |
//! | `report`, `text`, `page`, `plot` | what is told of it: as JSON, text and HTML |
//! | `output` | where a report goes |
//! | `compare` | two reports side by side |
//!
//! # Threads
//!
//! Each of the plan's threads has a runtime, its share of the connections and a `Record` of its
//! own; an open loop's clock has a thread, too. The caller's runtime resolves the name, does once what
//! all will do to see whether that works, and then looks once a second at the records: the progress
//! line and the report's intervals come from there.

mod choice;
mod compare;
mod error;
mod flags;
mod output;
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
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Barrier, mpsc};
use tokio::time::{MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Gateway;
use crate::net::descriptors;
use crate::upstream::{LookupError, resolve};
use choice::Choice;
pub use compare::compare;
pub use error::SessionError;
pub use output::{Output, OutputError};
use pace::Pace;
pub use plan::{Figure, Plan, Scenario, Slo, Weighted};
use record::Lately;
use report::Interval;
pub use report::Report;
use session::Session;
use text::time;
use worker::{Run, Shared, lock, operate};

/// Between two looks at the records.
const SECOND: Duration = Duration::from_secs(1);
/// What is under way when somebody interrupts has as long.
const GRACE: Duration = Duration::from_secs(1);
/// Descriptors of the process itself, and of each of its threads.
const OWN_DESCRIPTORS: u64 = 30;
const THREAD_DESCRIPTORS: u64 = 4;

/// Why there is nothing to tell.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The name cannot be resolved.
    #[error(transparent)]
    Resolve(#[from] LookupError),
    /// The first connection, before the load, does not do what all are to do.
    #[error("{target} cannot be loaded")]
    Unfit {
        /// Whom it was to.
        target: Gateway,
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
    /// There is no way to be told of signals.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    /// The threads cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

impl LoadError {
    /// What may help.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Resolve(_) => {
                Some("is the name right, and is it one of a private zone that this host can see?")
            }
            Self::Unfit { source, .. } => source.hint(),
            Self::Descriptors { .. } => Some("ulimit -n, or LimitNOFILE= of a unit"),
            Self::Signals(_) | Self::Thread(_) => None,
        }
    }
}

/// Carries a plan out; SIGINT or SIGTERM ends it early, and what was measured is told.
pub async fn run(plan: Plan) -> Result<Report, LoadError> {
    let most = match plan.scenario {
        Scenario::Idle(hold) => hold,
        _ => plan.connections,
    };
    let own = OWN_DESCRIPTORS + THREAD_DESCRIPTORS * plan.threads as u64;
    if let Some(limit) = descriptors::raise_limit().filter(|limit| most as u64 + own > *limit) {
        return Err(LoadError::Descriptors { wanted: most, limit });
    }
    let Gateway { host, port } = &plan.target;
    let addresses = resolve(host).await?;
    let addresses: Vec<_> = addresses.into_iter().map(|ip| SocketAddr::new(ip, *port)).collect();
    let statements = plan.scenario.statements();
    let unfit = |source| LoadError::Unfit { target: plan.target.clone(), source };
    let addresses = try_once(&plan, addresses, &statements).await.map_err(unfit)?;
    let at = SystemTime::now();
    let began = Instant::now();
    let from = began + plan.ramp + plan.warmup;
    let until = from + plan.duration;
    let pace = plan.rate.map(|rate| Pace::start(rate, began + plan.ramp, until));
    let run = Arc::new(Run {
        addresses,
        choice: Choice::new(&statements),
        statements,
        began,
        from,
        until,
        pace: pace.transpose().map_err(LoadError::Thread)?,
        all_open: Barrier::new(plan.connections),
        enough: CancellationToken::new(),
        stop: CancellationToken::new(),
        plan,
    });
    carry_out(run, at).await
}

/// What every connection will do: log in, and each statement. Returns the addresses that are of the
/// same family as the one that answered.
async fn try_once(
    plan: &Plan,
    mut addresses: Vec<SocketAddr>,
    statements: &[Weighted],
) -> Result<Vec<SocketAddr>, SessionError> {
    let (mut session, _) = Session::open(plan, &addresses, &CancellationToken::new()).await?;
    addresses.retain(|address| address.is_ipv4() == session.peer().is_ipv4());
    for statement in 0..statements.len().max(1) {
        operate(&plan.scenario, statements, &mut session, statement).await?;
    }
    session.quit().await;
    Ok(addresses)
}

async fn carry_out(run: Arc<Run>, at: SystemTime) -> Result<Report, LoadError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(LoadError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(LoadError::Signals)?;
    let (alive, mut ended) = mpsc::channel(1);
    let records = (0..run.plan.threads)
        .map(|number| worker::start(number, run.clone(), alive.clone()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(LoadError::Thread)?;
    drop(alive);
    let mut looks = Looks::new(&run, &records);
    let mut every = interval_at((run.from + SECOND).into(), SECOND);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let is_whole = loop {
        tokio::select! {
            biased;
            _ = interrupt.recv() => break false,
            _ = terminate.recv() => break false,
            _ = every.tick() => looks.look(),
            _ = ended.recv() => break true,
        }
    };
    // What comes after an interrupt is told of, and is no part of the measured time.
    let end = Instant::now();
    let measured = match run.plan.scenario {
        Scenario::Idle(_) => end - run.began,
        _ => end.min(run.until).saturating_duration_since(run.from),
    };
    if !is_whole {
        records.iter().for_each(|record| lock(record).ends(end));
        run.enough.cancel();
        tokio::select! {
            _ = ended.recv() => {}
            () = sleep(GRACE) => {}
            _ = interrupt.recv() => {}
        }
    } else if Instant::now() >= looks.next() {
        looks.look();
    }
    run.stop.cancel();
    let _ = timeout(GRACE, ended.recv()).await;
    let mut all = run.record();
    records.iter().for_each(|record| all.add(&lock(record)));
    if let Some(pace) = &run.pace {
        let not_begun = pace.not_begun(run.from, end);
        not_begun.for_each(|(waited, count)| all.not_begun(waited, count));
    }
    Ok(Report::new(&run, at, measured, &all, looks.intervals(), is_whole))
}

/// What is seen of a run while it goes on.
struct Looks<'a> {
    run: &'a Run,
    records: &'a [Shared],
    intervals: Vec<Interval>,
    progress: ProgressBar,
}

impl<'a> Looks<'a> {
    /// The progress is told on standard error, and only if that is a terminal.
    fn new(run: &'a Run, records: &'a [Shared]) -> Self {
        let style = ProgressStyle::with_template("{bar:20} {pos}/{len} s  {msg}");
        let progress = ProgressBar::new(run.plan.duration.as_secs())
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            .with_message("begins");
        progress.tick();
        Self { run, records, intervals: Vec::new(), progress }
    }

    /// When the next second is over.
    fn next(&self) -> Instant {
        self.run.from + SECOND * (self.intervals.len() as u32 + 1)
    }

    fn look(&mut self) {
        let mut lately = Lately::new();
        let (mut errors, mut open) = (0, 0);
        for record in self.records {
            let mut record = lock(record);
            record.take_lately(&mut lately);
            errors += record.errors;
            open += record.phases[0].len();
        }
        let interval = Interval::new(&lately);
        let message = match self.run.plan.scenario {
            Scenario::Idle(hold) => format!("{open} of {hold} opened, {errors} errors"),
            _ => format!(
                "{}/s, p50 {}, p99 {}, {errors} errors",
                interval.done,
                time(interval.p50_us),
                time(interval.p99_us),
            ),
        };
        self.progress.set_position(self.run.from.elapsed().as_secs());
        self.progress.set_message(message);
        // What ends after the end is no part of a rate.
        if self.next() <= self.run.until {
            self.intervals.push(interval);
        }
    }

    fn intervals(self) -> Vec<Interval> {
        self.progress.finish_and_clear();
        self.intervals
    }
}
