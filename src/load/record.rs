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
    pub causes: BTreeMap<String, Cause>,
    pub errors: u64,
    /// Operations that ended before the end, and the bytes of their rows: what makes a rate.
    pub in_time: u64,
    pub bytes: u64,
    /// Connections that were to be opened, and were not before the end.
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
            causes: BTreeMap::new(),
            errors: 0,
            in_time: 0,
            bytes: 0,
            not_begun: 0,
            lately: Lately::new(),
        }
    }

    /// An operation that went well, and whether it ended before the end.
    pub fn done(&mut self, statement: usize, latency: Duration, bytes: u64, is_in_time: bool) {
        put(&mut self.statements[statement], latency);
        if is_in_time {
            put(&mut self.lately.latencies, latency);
            self.in_time += 1;
            self.bytes += bytes;
        }
    }

    /// One that did not.
    pub fn failed(&mut self, error: &SessionError) {
        self.errors += 1;
        self.lately.errors += 1;
        let cause = self.causes.entry(error.cause()).or_default();
        if cause.count == 0 {
            cause.example = error.to_string();
        }
        cause.count += 1;
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
    latencies.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
}

fn add(all: &mut Latencies, one: &Latencies) {
    all.add(one).expect("all have the same bounds");
}
