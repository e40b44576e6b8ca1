//! An open loop's clock: when each operation is due, however the others fare.

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::set_current_timer_slack;
use tokio::sync::Semaphore;

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
                if now >= pace.until {
                    return pace.due.close();
                }
                let due = pace.due_at(now);
                pace.due.add_permits((due - begun) as usize);
                begun = due;
                let next = pace.time_of(due);
                drop(pace);
                #[expect(clippy::disallowed_methods, reason = "the thread is the clock's own")]
                thread::sleep(next.saturating_duration_since(Instant::now()));
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

    /// Operations that were due before the end and that no connection was free for.
    pub fn not_begun(&self) -> u64 {
        // One that is due at the end is not due before it.
        let end = self.until - Duration::from_nanos(1);
        let due = self.due_at(end.min(Instant::now()));
        due.saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    /// How many are due by then.
    fn due_at(&self, now: Instant) -> u64 {
        let Some(passed) = now.checked_duration_since(self.began) else { return 0 };
        let whole = passed.as_nanos() / self.every.as_nanos().max(1);
        u64::try_from(whole).map_or(u64::MAX, |whole| whole + 1)
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
        assert!(count <= 20 && pace.not_begun() + count == 20, "{count}, {}", pace.not_begun());
    }
}
