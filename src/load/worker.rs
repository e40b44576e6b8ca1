//! The threads that carry the load, and what each connection does.

use std::fmt::{self, Debug};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::sync::{Barrier, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::choice::Choice;
use super::error::{SessionError, Step};
use super::pace::Pace;
use super::plan::{Plan, Scenario, Weighted};
use super::record::Record;
use super::session::Session;
use crate::mysql::error::Problem as Wire;

/// Between two tries of a connection that cannot be opened.
const PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
pub(super) struct Run {
    pub plan: Plan,
    pub addresses: Vec<SocketAddr>,
    pub statements: Vec<Weighted>,
    pub choice: Choice,
    /// When the first connection is opened.
    pub began: Instant,
    /// From when and until when is measured.
    pub from: Instant,
    pub until: Instant,
    /// When operations are due; `None`: whenever a connection is free.
    pub pace: Option<Arc<Pace>>,
    /// Those who open what is held wait here for each other.
    pub all_open: Barrier,
    /// Nothing more is begun.
    pub enough: CancellationToken,
    /// What is still under way has failed.
    pub stop: CancellationToken,
}

impl Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl Run {
    /// A record without a measurement.
    pub fn record(&self) -> Record {
        Record::new(self.statements.len().max(1), self.from..=self.until)
    }

    fn goes_on(&self) -> bool {
        Instant::now() < self.until && !self.enough.is_cancelled()
    }

    async fn operate(&self, session: &mut Session, statement: usize) -> Result<u64, SessionError> {
        operate(&self.plan.scenario, &self.statements, session, statement).await
    }

    /// The order in which the connection of that number tries the addresses.
    fn addresses(&self, number: usize) -> Vec<SocketAddr> {
        let mut addresses = self.addresses.clone();
        let count = addresses.len().max(1);
        addresses.rotate_left(number % count);
        addresses
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
    let record = Arc::new(Mutex::new(run.record()));
    let shared = record.clone();
    let carry = move || {
        runtime.block_on(carry(number, &run, &shared));
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
            tokio::select! {
                () = sleep_until((run.began + turn).into()) => {}
                () = run.enough.cancelled() => {}
            }
            match run.plan.scenario {
                Scenario::Idle(hold) => idle(number, hold, &run, &record).await,
                Scenario::Connect => connect(number, &run, &record).await,
                _ => load(number, &run, &record).await,
            }
        });
    }
    while let Some(ended) = connections.join_next().await {
        if ended.is_err() {
            let panicked = Wire::Malformed("this program panicked over what the server said");
            lock(record).failed(&SessionError::new(Step::Answer, panicked.into()), Duration::ZERO);
        }
    }
}

/// When the next operation is due: now, or at its time in an open loop; none after the end.
async fn due(run: &Run) -> Option<Instant> {
    let Some(pace) = &run.pace else { return run.goes_on().then(Instant::now) };
    tokio::select! {
        biased;
        () = run.enough.cancelled() => None,
        due = pace.next() => due,
    }
}

/// One connection after the other, each with an operation.
async fn connect(number: usize, run: &Run, record: &Shared) {
    let addresses = run.addresses(number);
    let mut down = None;
    while let Some(since) = due(run).await {
        let began = Instant::now();
        let opened = Session::open(&run.plan, &addresses, &run.stop).await;
        let (mut session, times) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                note(record, since, Err(&error), 0, &mut down);
                if run.pace.is_none() {
                    sleep(PAUSE).await;
                }
                continue;
            }
        };
        let asked = Instant::now();
        let result = run.operate(&mut session, 0).await;
        let answer = asked.elapsed();
        note(record, since, result.as_ref().copied(), 0, &mut down);
        if result.as_ref().is_err_and(SessionError::breaks) {
            continue;
        }
        let farewell = session.quit().await;
        if began >= run.from && result.is_ok() {
            let mut record = lock(record);
            record.opened(&times);
            record.answered(answer);
            record.quit(farewell);
        }
    }
}

/// Operations over a connection that stays.
async fn load(number: usize, run: &Run, record: &Shared) {
    let addresses = run.addresses(number);
    let mut held = None;
    let mut down = None;
    while run.goes_on() {
        // Before it is needed: what connecting takes is told by its steps.
        let is_new = held.is_none();
        let began = Instant::now();
        let mut session = match held.take() {
            Some(session) => session,
            None => match open(run, record, &addresses).await {
                Ok(session) => {
                    // Whoever had been gone was away until now.
                    down = down.map(|since| lost(record, since));
                    session
                }
                Err(error) => {
                    note(record, began, Err(&error), 0, &mut down);
                    sleep(PAUSE).await;
                    continue;
                }
            },
        };
        let Some(since) = due(run).await else {
            held = Some(session);
            break;
        };
        let asked = Instant::now();
        let statement = run.choice.next();
        let result = run.operate(&mut session, statement).await;
        if is_new && result.is_ok() {
            lock(record).answered(asked.elapsed());
        }
        note(record, since, result.as_ref().copied(), statement, &mut down);
        held = result.err().is_none_or(|error| !error.breaks()).then_some(session);
    }
    if let Some(session) = held {
        session.quit().await;
    }
}

async fn open(
    run: &Run,
    record: &Shared,
    addresses: &[SocketAddr],
) -> Result<Session, SessionError> {
    let (session, times) = Session::open(&run.plan, addresses, &run.stop).await?;
    lock(record).opened(&times);
    Ok(session)
}

/// Since then the connection was of no use; returns until when: now.
fn lost(record: &Shared, since: Instant) -> Instant {
    let now = Instant::now();
    lock(record).lost(since, now);
    now
}

/// Tells of an operation that was begun, or due, at `since` and has ended now. `down` is when the one
/// before it has ended, if that left no connection: the pause is lost only if this leaves none, either.
fn note(
    record: &Shared,
    since: Instant,
    result: Result<u64, &SessionError>,
    statement: usize,
    down: &mut Option<Instant>,
) {
    lock(record).note(since, Instant::now(), result, statement);
    let is_down = result.is_err_and(SessionError::breaks);
    *down = is_down.then(|| lost(record, down.unwrap_or(since)));
}

/// Does what the scenario does, once. Returns the bytes of the rows.
pub(super) async fn operate(
    scenario: &Scenario,
    statements: &[Weighted],
    session: &mut Session,
    statement: usize,
) -> Result<u64, SessionError> {
    let Some(Weighted { sql, .. }) = statements.get(statement) else {
        return session.ping().await.map(|()| 0);
    };
    match scenario {
        Scenario::Bulk(wanted) => session.bulk(sql, *wanted).await,
        _ => session.query(sql).await,
    }
}

/// Opens its share of connections, holds them, and looks at the end which are alive.
async fn idle(number: usize, hold: usize, run: &Run, record: &Shared) {
    let addresses = run.addresses(number);
    let mut held = Vec::new();
    for _ in (number..hold).step_by(run.plan.connections) {
        if run.enough.is_cancelled() {
            break;
        }
        match open(run, record, &addresses).await {
            Ok(session) => held.push(session),
            Err(error) => lock(record).failed(&error, Duration::ZERO),
        }
    }
    tokio::select! {
        () = async {
            run.all_open.wait().await;
            sleep(run.plan.duration).await;
        } => {}
        () = run.enough.cancelled() => {}
    }
    // All at once: each that is dead without a word takes as long as the timeout.
    let mut looks = JoinSet::new();
    for mut session in held {
        let record = record.clone();
        looks.spawn(async move {
            let began = Instant::now();
            let result = session.ping().await;
            match result {
                Ok(()) => {
                    lock(&record).done(0, began.elapsed());
                    session.quit().await;
                }
                Err(error) => lock(&record).failed(&error, began.elapsed()),
            }
        });
    }
    looks.join_all().await;
}
