//! What is measured, as it comes.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::error::{SessionError, Step};
use super::session::Times;

/// The steps of a connection's life that are measured: those before the first answer, it, and the
/// end.
const PHASES: usize = FIRST_ANSWER + 2;
const FIRST_ANSWER: usize = Step::OPENING.len();
const QUIT: usize = FIRST_ANSWER + 1;

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
    /// What is measured of the run.
    measured: RangeInclusive<Instant>,
    /// Of each statement; of a scenario without statements there is one, too.
    pub statements: Vec<Latencies>,
    pub phases: [Latencies; PHASES],
    /// How long those have waited at the least that were not answered: they timed out, were under way
    /// when the run was ended, or were due and not begun. Bounds see them.
    pub unanswered: Latencies,
    pub causes: BTreeMap<String, Cause>,
    pub errors: u64,
    /// Operations that ended in the measured time, and the bytes of their rows: what makes a rate.
    pub in_time: u64,
    pub bytes: u64,
    /// Operations that were due and not begun before the end.
    pub not_begun: u64,
    /// What connections have lost of the measured time: see [`Record::lost`].
    pub lost: Duration,
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
    pub fn new(statements: usize, measured: RangeInclusive<Instant>) -> Self {
        Self {
            measured,
            statements: (0..statements).map(|_| latencies()).collect(),
            phases: std::array::from_fn(|_| latencies()),
            unanswered: latencies(),
            causes: BTreeMap::new(),
            errors: 0,
            in_time: 0,
            bytes: 0,
            not_begun: 0,
            lost: Duration::ZERO,
            lately: Lately::new(),
        }
    }

    /// The run ends now, earlier than it was to: what ends later is no part of its rate.
    pub fn ends(&mut self, now: Instant) {
        let until = now.min(*self.measured.end());
        self.measured = *self.measured.start()..=until;
    }

    /// An operation that went well.
    pub fn done(&mut self, statement: usize, latency: Duration) {
        put(&mut self.statements[statement], latency);
    }

    /// An operation that was begun, or due, at `since`, and gave so many bytes or failed.
    pub fn note(
        &mut self,
        since: Instant,
        ended: Instant,
        result: Result<u64, &SessionError>,
        statement: usize,
    ) {
        let latency = ended - since;
        // A rate is of what ends in the measured time, a latency of what was due in it.
        if let Ok(bytes) = result
            && self.measured.contains(&ended)
        {
            put(&mut self.lately.latencies, latency);
            self.in_time += 1;
            self.bytes += bytes;
        }
        if since >= *self.measured.start() {
            match result {
                Ok(_) => self.done(statement, latency),
                Err(error) => self.failed(error, latency),
            }
        }
    }

    /// One that did not go well, after so long.
    pub fn failed(&mut self, error: &SessionError, after: Duration) {
        if error.is_unanswered() {
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

    /// Between these a connection was of no use: it could not be opened, or nobody answered.
    pub fn lost(&mut self, from: Instant, to: Instant) {
        let (from, to) = (from.max(*self.measured.start()), to.min(*self.measured.end()));
        self.lost += to.saturating_duration_since(from);
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
        put(&mut self.phases[FIRST_ANSWER], time);
    }

    /// The server has closed it as it was asked to, or did not in time.
    pub fn quit(&mut self, time: Duration) {
        put(&mut self.phases[QUIT], time);
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
        self.lost += other.lost;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql::error::Problem as Wire;

    #[test]
    fn a_rate_is_of_what_ends_in_time_and_a_latency_of_what_is_due_in_it() {
        let at = {
            let began = Instant::now();
            move |ms| began + Duration::from_millis(ms)
        };
        // From 1 s to 2 s; begun, ended, and in which of the two it is.
        for (since, ended, is_in_rate, is_in_latencies) in [
            (0, 999, false, false),
            (0, 1000, true, false),
            (999, 1500, true, false),
            (1000, 1500, true, true),
            (1500, 2000, true, true),
            (1500, 2001, false, true),
            (999, 2001, false, false),
        ] {
            let mut record = Record::new(1, at(1000)..=at(2000));
            record.note(at(since), at(ended), Ok(7), 0);
            let (rate, latencies) = (u64::from(is_in_rate), u64::from(is_in_latencies));
            assert_eq!((record.in_time, record.bytes), (rate, 7 * rate), "{since} to {ended}");
            assert_eq!(record.lately.latencies.len(), rate, "{since} to {ended}");
            assert_eq!(record.latencies().len(), latencies, "{since} to {ended}");

            let mut record = Record::new(1, at(1000)..=at(2000));
            let error = SessionError::new(Step::Answer, Wire::Closed.into());
            record.note(at(since), at(ended), Err(&error), 0);
            assert_eq!((record.in_time, record.errors), (0, latencies), "{since} to {ended}");
        }
        // Ended at 1.5 s instead.
        let mut record = Record::new(1, at(1000)..=at(2000));
        record.ends(at(1500));
        record.note(at(1100), at(1500), Ok(7), 0);
        record.note(at(1100), at(1501), Ok(7), 0);
        assert_eq!((record.in_time, record.bytes, record.latencies().len()), (1, 7, 2));
    }

    #[test]
    fn of_lost_time_the_measured_part_counts() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut record = Record::new(1, at(1000)..=at(2000));
        for (from, to) in [(0, 900), (900, 1100), (1500, 1600), (1900, 2500), (2100, 2500)] {
            record.lost(at(from), at(to));
        }
        assert_eq!(record.lost, Duration::from_millis(100 + 100 + 100));
    }
}
