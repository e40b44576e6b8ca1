//! How many connections are worth holding; no I/O, no clock.

use std::time::Duration;

/// Of those held so many may end unused for each one used.
const UNUSED_TO_USED: f64 = 0.1;
/// How many useful ages the estimate remembers.
const MEMORY: f64 = 6.0;
/// Arrivals that would be expected in a pause so long that nobody is expected any more.
const ENOUGH: f64 = 2.4;

/// Arrivals of late. Times are counted from any fixed moment.
#[derive(Debug)]
pub(super) struct Demand {
    /// For how long a connection is of use.
    pub age: Duration,
    /// Arrivals, each counted for less the longer ago it was.
    weight: f64,
    last: Duration,
}

impl Demand {
    /// Nobody has come yet.
    pub fn new(age: Duration) -> Self {
        Self { age, weight: 0.0, last: Duration::ZERO }
    }

    /// Somebody has come.
    pub fn arrived(&mut self, now: Duration) {
        self.weight = self.weight_at(now) + 1.0;
        self.last = now;
    }

    /// How many connections are worth holding, `most` at the most: as many as will have been used
    /// within `age`, but for [`UNUSED_TO_USED`], when arrivals are independent of each other.
    pub fn worth(&self, now: Duration, most: usize) -> usize {
        let rate = self.weight_at(now) / self.memory();
        let pause = now.saturating_sub(self.last).as_secs_f64();
        let expected = self.age.as_secs_f64() * rate.min(ENOUGH / pause);
        // Of `count` held, the last is used if so many come: Poisson's distribution.
        let unused = UNUSED_TO_USED / (1.0 + UNUSED_TO_USED);
        let mut exactly = (-expected).exp();
        let mut fewer = exactly;
        let mut count = 0;
        while count < most && fewer <= unused {
            count += 1;
            exactly *= expected / count as f64;
            fewer += exactly;
        }
        count
    }

    fn weight_at(&self, now: Duration) -> f64 {
        let ago = now.saturating_sub(self.last).as_secs_f64();
        self.weight * (-ago / self.memory()).exp()
    }

    /// Seconds in which an arrival comes to count for 1/e.
    fn memory(&self) -> f64 {
        self.age.as_secs_f64() * MEMORY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(3);

    /// What is worth holding right after arrivals so far apart have gone on for a minute.
    fn steady(apart: Duration) -> (Demand, Duration, usize) {
        let mut demand = Demand::new(AGE);
        let mut now = Duration::from_secs(1000);
        for _ in 0..60_000 / apart.as_millis() {
            now += apart;
            demand.arrived(now);
        }
        let worth = demand.worth(now, 16);
        (demand, now, worth)
    }

    #[test]
    fn nothing_is_worth_holding_for_the_first_or_for_rare_ones() {
        let mut demand = Demand::new(AGE);
        assert_eq!(demand.worth(Duration::from_secs(5), 16), 0);
        demand.arrived(Duration::from_secs(5));
        assert_eq!(demand.worth(Duration::from_secs(5), 16), 0);
        assert_eq!(steady(Duration::from_secs(3)).2, 0);
    }

    #[test]
    fn the_more_come_the_more_are_held() {
        let worth = [1000, 500, 250, 100, 1].map(|apart| steady(Duration::from_millis(apart)).2);
        assert!(worth[0] >= 1 && worth.is_sorted() && worth[4] == 16, "{worth:?}");
    }

    #[test]
    fn nothing_is_held_once_nobody_has_come_for_a_useful_age() {
        let (demand, now, worth) = steady(Duration::from_millis(10));
        assert_eq!(worth, 16);
        assert!(demand.worth(now + AGE / 4, 16) < 16);
        assert_eq!(demand.worth(now + AGE + AGE / 10, 16), 0);
    }

    /// Arrivals that know nothing of each other, at any rate: a pool that holds what is worth it
    /// loses no more than it should.
    #[test]
    fn few_end_unused_whatever_the_rate() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for per_second in [0.3, 1.0, 2.0, 5.0, 20.0, 100.0] {
            let (mut demand, mut now) = (Demand::new(AGE), Duration::from_secs(1000));
            let mut held = std::collections::VecDeque::new();
            let (mut used, mut unused) = (0_u32, 0_u32);
            for _ in 0..20_000 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let uniform = (random >> 11) as f64 / (1_u64 << 53) as f64;
                now += Duration::from_secs_f64(-(1.0 - uniform).ln() / per_second);
                while held.front().is_some_and(|made| *made + AGE <= now) {
                    held.pop_front();
                    unused += 1;
                }
                used += u32::from(held.pop_front().is_some());
                demand.arrived(now);
                while held.len() < demand.worth(now, 16) {
                    held.push_back(now);
                }
            }
            let ratio = f64::from(unused) / f64::from(used.max(1));
            assert!(ratio <= 0.13, "{unused} unused, {used} used at {per_second} a second");
            assert!(per_second < 5.0 || used > 18_000, "{used} used at {per_second} a second");
        }
    }
}
