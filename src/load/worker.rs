//! The threads that carry the load, and what each connection does.

use std::fmt::{self, Debug};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::error::SessionError;
use super::pace::Pace;
use super::plan::{Plan, Scenario, Weighted};
use super::record::Record;
use super::session::Session;

/// Between two tries of a connection that cannot be opened.
const PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
pub(super) struct Run {
    pub plan: Plan,
    pub addresses: Vec<SocketAddr>,
    pub statements: Vec<Weighted>,
    /// When the first connection is opened.
    pub began: Instant,
    /// From when and until when is measured.
    pub from: Instant,
    pub until: Instant,
    /// When operations are due; `None`: whenever a connection is free.
    pub pace: Option<Arc<Pace>>,
    /// Ends everything at once.
    pub stop: CancellationToken,
}

impl Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// What a thread has measured so far.
pub(super) type Shared = Arc<Mutex<Record>>;

/// A panic elsewhere leaves numbers that are still true.
pub(super) fn lock(record: &Shared) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread of that number; `alive` is dropped when it has ended.
pub(super) fn start(number: usize, run: Arc<Run>, alive: mpsc::Sender<()>) -> io::Result<Shared> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let record = Arc::new(Mutex::new(Record::new(run.statements.len().max(1))));
    let shared = record.clone();
    let carry = move || {
        runtime.block_on(async {
            tokio::select! {
                () = carry(number, &run, &shared) => {}
                () = run.stop.cancelled() => {}
            }
        });
        drop(alive);
    };
    std::thread::Builder::new().name(format!("load-{number}")).spawn(carry)?;
    Ok(record)
}

/// The connections of one thread.
async fn carry(thread: usize, run: &Arc<Run>, record: &Shared) {
    let mut connections = JoinSet::new();
    for number in (thread..run.plan.connections).step_by(run.plan.threads) {
        let (run, record) = (run.clone(), record.clone());
        connections.spawn(async move {
            let turn = run.plan.ramp.mul_f64(number as f64 / run.plan.connections as f64);
            sleep_until((run.began + turn).into()).await;
            match run.plan.scenario {
                Scenario::Idle(hold) => idle(number, hold, &run, &record).await,
                _ => load(&run, &record).await,
            }
        });
    }
    connections.join_all().await;
}

/// One connection after the other, or one that stays: operations until the end.
async fn load(run: &Run, record: &Shared) {
    let mut choice = Choice::new(&run.statements);
    let mut session = None;
    while Instant::now() < run.until {
        let due = match &run.pace {
            Some(pace) => match pace.next().await {
                Some(due) => Some(due),
                None => break,
            },
            None => None,
        };
        let is_short = run.plan.scenario == Scenario::Connect;
        let mut began = Instant::now();
        let mut is_new = false;
        let mut held = match session.take() {
            Some(held) => held,
            None => match open(run, record, began).await {
                Ok(opened) => {
                    is_new = true;
                    opened
                }
                Err(error) => {
                    note(run, record, due.unwrap_or(began), |record, _| record.failed(&error));
                    if due.is_none() {
                        sleep(PAUSE).await;
                    }
                    continue;
                }
            },
        };
        let asked = Instant::now();
        if !is_short {
            // What it takes to have a connection is told by the phases.
            began = asked;
        }
        let statement = choice.next();
        let result = operate(run, &mut held, statement).await;
        let ended = Instant::now();
        note(run, record, due.unwrap_or(began), |record, since| match &result {
            Ok(bytes) => record.done(statement, ended - since, *bytes, ended <= run.until),
            Err(error) => record.failed(error),
        });
        if is_new && result.is_ok() && tells_of_opening(run, began) {
            lock(record).answered(ended - asked);
        }
        let is_usable = result.err().is_none_or(|error| !error.breaks());
        match is_short {
            true if is_usable => held.quit().await,
            false if is_usable => session = Some(held),
            _ => {}
        }
    }
    if let Some(held) = session {
        held.quit().await;
    }
}

/// Opens a connection; how long its steps took is told if it was begun in time.
async fn open(run: &Run, record: &Shared, began: Instant) -> Result<Session, SessionError> {
    let plan = &run.plan;
    let (session, times) = Session::open(&plan.login, &run.addresses, plan.timeout).await?;
    if tells_of_opening(run, began) {
        lock(record).opened(&times);
    }
    Ok(session)
}

/// A connection that stays is opened before the measured time, most often.
fn tells_of_opening(run: &Run, began: Instant) -> bool {
    began >= run.from || run.plan.scenario != Scenario::Connect
}

/// Tells of an operation that began, or was due, in the measured time.
fn note(run: &Run, record: &Shared, since: Instant, what: impl FnOnce(&mut Record, Instant)) {
    if since >= run.from {
        what(&mut lock(record), since);
    }
}

/// Does what the scenario does, once. Returns the bytes of the rows.
pub(super) async fn operate(
    run: &Run,
    session: &mut Session,
    statement: usize,
) -> Result<u64, SessionError> {
    let Some(Weighted { sql, .. }) = run.statements.get(statement) else {
        return session.ping().await.map(|()| 0);
    };
    match run.plan.scenario {
        Scenario::Bulk(wanted) => session.bulk(sql, wanted).await,
        _ => session.query(sql).await,
    }
}

/// Opens its share of connections, holds them, and looks at the end which are alive.
async fn idle(number: usize, hold: usize, run: &Run, record: &Shared) {
    let mut held = Vec::new();
    for _ in (number..hold).step_by(run.plan.connections) {
        if Instant::now() >= run.until {
            lock(record).not_begun += 1;
            continue;
        }
        match open(run, record, Instant::now()).await {
            Ok(session) => held.push(session),
            Err(error) => {
                lock(record).failed(&error);
                sleep(PAUSE).await;
            }
        }
    }
    sleep_until(run.until.into()).await;
    for mut session in held {
        let began = Instant::now();
        match session.ping().await {
            Ok(()) => {
                lock(record).done(0, began.elapsed(), 0, true);
                session.quit().await;
            }
            Err(error) => lock(record).failed(&error),
        }
    }
}

/// Which statement is next: each as often as its weight says, and as evenly as can be.
struct Choice {
    weights: Vec<i64>,
    /// What each has waited for.
    credit: Vec<i64>,
}

impl Choice {
    fn new(statements: &[Weighted]) -> Self {
        let weights: Vec<_> = statements.iter().map(|one| i64::from(one.weight)).collect();
        Self { credit: vec![0; weights.len()], weights }
    }

    fn next(&mut self) -> usize {
        let all: i64 = self.weights.iter().sum();
        self.credit.iter_mut().zip(&self.weights).for_each(|(credit, weight)| *credit += weight);
        let most = self.credit.iter().enumerate().max_by_key(|(_, credit)| **credit);
        let Some(next) = most.map(|(index, _)| index) else { return 0 };
        self.credit[next] -= all;
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_come_as_often_as_their_weights_say() {
        let weighted = |weight| Weighted { weight, sql: String::new() };
        let mut choice = Choice::new(&[weighted(1), weighted(3), weighted(2)]);
        let chosen: Vec<_> = (0..600).map(|_| choice.next()).collect();
        let count = |which| chosen.iter().filter(|one| **one == which).count();
        assert_eq!([count(0), count(1), count(2)], [100, 300, 200]);
        assert_eq!(Choice::new(&[]).next(), 0);
    }
}
