//! What is measured, as it comes.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::error::{SessionError, Step};
use super::session::Times;

/// The steps of connecting that are measured: those before the first answer, and it.
pub(super) const PHASES: usize = Step::OPENING.len() + 1;

/// Times in nanoseconds, from 1 us to an hour, to three digits.
pub(super) type Latencies = Histogram<u64>;

pub(super) fn latencies() -> Latencies {
    Histogram::new_with_bounds(1_000, 3_600_000_000_000, 3).expect("the bounds are in order")
}

/// Errors of one cause.
#[derive(Debug, Clone, Default)]
pub(super) struct Cause {
    pub count: u64,
    /// The first of them, in full.
    pub example: String,
}

/// What one thread has measured.
#[derive(Debug)]
pub(super) struct Record {
    /// Of each statement; of a scenario without statements there is one, too.
    pub statements: Vec<Latencies>,
    pub phases: [Latencies; PHASES],
    /// How long those have waited at the least that were not answered: they timed out, or were due
    /// and not begun. Bounds see them.
    pub unanswered: Latencies,
    pub causes: BTreeMap<String, Cause>,
    pub errors: u64,
    /// Operations that ended in the measured time, and the bytes of their rows: what makes a rate.
    pub in_time: u64,
    pub bytes: u64,
    /// Operations that were due and not begun before the end.
    pub not_begun: u64,
    /// Since it was last asked.
    pub lately: Lately,
}

/// What has ended in one interval.
#[derive(Debug)]
pub(super) struct Lately {
    pub latencies: Latencies,
    pub errors: u64,
}

impl Lately {
    pub fn new() -> Self {
        Self { latencies: latencies(), errors: 0 }
    }

    pub fn add(&mut self, other: &Self) {
        add(&mut self.latencies, &other.latencies);
        self.errors += other.errors;
    }
}

impl Record {
    pub fn new(statements: usize) -> Self {
        Self {
            statements: (0..statements).map(|_| latencies()).collect(),
            phases: std::array::from_fn(|_| latencies()),
            unanswered: latencies(),
            causes: BTreeMap::new(),
            errors: 0,
            in_time: 0,
            bytes: 0,
            not_begun: 0,
            lately: Lately::new(),
        }
    }

    /// An operation that went well.
    pub fn done(&mut self, statement: usize, latency: Duration) {
        put(&mut self.statements[statement], latency);
    }

    /// One that has ended in the measured time, whenever it was due.
    pub fn ended(&mut self, latency: Duration, bytes: u64) {
        put(&mut self.lately.latencies, latency);
        self.in_time += 1;
        self.bytes += bytes;
    }

    /// One that did not go well, after so long.
    pub fn failed(&mut self, error: &SessionError, after: Duration) {
        if error.is_timeout() {
            put(&mut self.unanswered, after);
        }
        self.errors += 1;
        self.lately.errors += 1;
        let cause = self.causes.entry(error.cause()).or_default();
        if cause.count == 0 {
            cause.example = error.to_string();
        }
        cause.count += 1;
    }

    /// So many were due and not begun, after having waited so long.
    pub fn not_begun(&mut self, waited: Duration, count: u64) {
        self.not_begun += count;
        self.unanswered.saturating_record_n(nanoseconds(waited), count);
    }

    /// A connection was opened.
    pub fn opened(&mut self, times: &Times) {
        for (phase, time) in self.phases.iter_mut().zip(times) {
            if let Some(time) = time {
                put(phase, *time);
            }
        }
    }

    /// It has answered for the first time.
    pub fn answered(&mut self, time: Duration) {
        put(&mut self.phases[PHASES - 1], time);
    }

    /// Takes what has ended since the last time.
    pub fn take_lately(&mut self, into: &mut Lately) {
        into.add(&self.lately);
        self.lately.latencies.reset();
        self.lately.errors = 0;
    }

    /// Adds what another thread has measured.
    pub fn add(&mut self, other: &Self) {
        self.statements.iter_mut().zip(&other.statements).for_each(|(all, one)| add(all, one));
        self.phases.iter_mut().zip(&other.phases).for_each(|(all, one)| add(all, one));
        add(&mut self.unanswered, &other.unanswered);
        for (name, cause) in &other.causes {
            let all = self.causes.entry(name.clone()).or_default();
            if all.count == 0 {
                all.example.clone_from(&cause.example);
            }
            all.count += cause.count;
        }
        self.errors += other.errors;
        self.in_time += other.in_time;
        self.bytes += other.bytes;
        self.not_begun += other.not_begun;
    }

    /// Of all statements together.
    pub fn latencies(&self) -> Latencies {
        let mut all = latencies();
        self.statements.iter().for_each(|one| add(&mut all, one));
        all
    }
}

fn put(latencies: &mut Latencies, time: Duration) {
    latencies.saturating_record(nanoseconds(time));
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn add(all: &mut Latencies, one: &Latencies) {
    all.add(one).expect("all have the same bounds");
}
