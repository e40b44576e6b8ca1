//! An open loop's clock: when each operation is due, however the others fare.

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::set_current_timer_slack;
use tokio::sync::Semaphore;

/// Time for the last ones to be taken by connections that are free.
const LAST: Duration = Duration::from_millis(5);
/// As many are told one by one.
const MOST: u64 = 1_000_000;

/// Operations evenly apart, from a beginning to an end.
#[derive(Debug)]
pub(super) struct Pace {
    began: Instant,
    until: Instant,
    every: Duration,
    /// Those that are due and nobody has taken.
    due: Semaphore,
    taken: AtomicU64,
}

impl Pace {
    /// A clock on a thread of its own, which ends with it: the timers of a runtime know milliseconds.
    pub fn start(rate: f64, began: Instant, until: Instant) -> io::Result<Arc<Self>> {
        let every = Duration::from_secs_f64(1.0 / rate);
        let due = Semaphore::new(0);
        let pace = Arc::new(Self { began, until, every, due, taken: AtomicU64::new(0) });
        let clock = Arc::downgrade(&pace);
        thread::Builder::new().name("load-clock".into()).spawn(move || {
            // To the microsecond; without it to fifty.
            let _ = set_current_timer_slack(NonZeroU64::new(1));
            let mut begun = 0;
            loop {
                let Some(pace) = clock.upgrade() else { return };
                let now = Instant::now();
                let due = pace.due_before(now.min(pace.until));
                pace.due.add_permits((due - begun) as usize);
                begun = due;
                let is_over = now >= pace.until;
                let next = if is_over { now + LAST } else { pace.time_of(due).min(pace.until) };
                #[expect(clippy::disallowed_methods, reason = "the thread is the clock's own")]
                thread::sleep(next.saturating_duration_since(Instant::now()));
                if is_over {
                    return pace.due.close();
                }
            }
        })?;
        Ok(pace)
    }

    /// Waits for the next operation, and returns when it was due; none after the end.
    pub async fn next(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        Some(self.time_of(number))
    }

    /// Operations that were due between `from` and the end, which may have come early, and that no
    /// connection was free for: how long each had waited by then. Of very many, one for several: it
    /// comes with how many.
    pub fn not_begun(&self, from: Instant, end: Instant) -> impl Iterator<Item = (Duration, u64)> {
        let first = self.taken.load(Ordering::Relaxed).max(self.due_before(from));
        // Nobody has had time for the last ones before an interrupt.
        let time = if end < self.until { LAST } else { Duration::ZERO };
        let end = end.min(self.until);
        let last = self.due_before(end.checked_sub(time).unwrap_or(end));
        let step = (last.saturating_sub(first) / MOST).max(1);
        (first..last).step_by(step as usize).map(move |number| {
            let waited = end.saturating_duration_since(self.time_of(number));
            (waited, step.min(last - number))
        })
    }

    /// How many are due before that moment.
    fn due_before(&self, moment: Instant) -> u64 {
        let passed = moment.saturating_duration_since(self.began).as_nanos();
        u64::try_from(passed.div_ceil(self.every.as_nanos().max(1))).unwrap_or(u64::MAX)
    }

    /// When one is due; the first at the beginning.
    fn time_of(&self, number: u64) -> Instant {
        let nanoseconds = self.every.as_nanos() * u128::from(number);
        self.began + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_is_due_at_its_time_and_none_after_the_end() {
        let began = Instant::now();
        let pace = Pace::start(1000.0, began, began + Duration::from_millis(20)).unwrap();
        let mut last = began;
        let mut count = 0;
        while let Some(due) = pace.next().await {
            assert_eq!(due, began + Duration::from_millis(count));
            assert!(due <= Instant::now() && due >= last);
            last = due;
            count += 1;
        }
        assert_eq!(count, 20);
        assert_eq!(pace.not_begun(began, Instant::now()).count(), 0);
    }

    #[test]
    fn what_nobody_took_is_told_with_its_wait() {
        let until = Instant::now();
        let began = until - Duration::from_secs(1);
        let pace = Pace::start(10.0, began, until).unwrap();
        let half = began + Duration::from_millis(500);
        let waited = |end| pace.not_begun(half, end).collect::<Vec<_>>();
        let hundreds = [500, 400, 300, 200, 100].map(|ms| (Duration::from_millis(ms), 1));
        assert_eq!(waited(Instant::now()), hundreds);
        // Of an interrupt's last moment, and of what would have been due after it, nobody is told.
        let hundreds = [202, 102].map(|ms| (Duration::from_millis(ms), 1));
        assert_eq!(waited(half + Duration::from_millis(202)), hundreds);
    }
}
