//! How many connections are worth holding; no I/O, no clock.

use std::time::Duration;

/// Of those held so many may end unused for each one used.
const UNUSED_TO_USED: f64 = 0.1;
/// And so many for each arrival for whom there was none: what was given up is tried again.
const UNUSED_TO_MISSED: f64 = 0.01;
/// And so many before there is anything to go by.
const TO_BEGIN_WITH: f64 = 2.0;
/// How many useful ages the estimate remembers.
const MEMORY: f64 = 6.0;
/// Arrivals that would be expected in a pause so long that nobody is expected any more.
const ENOUGH: f64 = 2.4;

/// Arrivals a second that are a storm: to have connections ready costs CPU, about a tenth of what a
/// short connection costs, and one dial at a time would serve few of so many.
const STORM: f64 = 3000.0;
/// Seconds in which an arrival counts for a storm.
const STORM_MEMORY: f64 = 0.5;

/// Arrivals of late, and what came of holding connections for them. Times are counted from any fixed
/// moment.
#[derive(Debug, Clone)]
pub(super) struct Demand {
    /// For how long a connection is of use.
    pub age: Duration,
    /// How many connections may be held.
    most: usize,
    /// Arrivals, each counted for less the longer ago it was.
    weight: f64,
    /// The same with a shorter memory.
    crowd: f64,
    last: Duration,
    /// Connections that may end unused. The estimate takes arrivals to be independent of each other;
    /// where they are not, this is the bound.
    credit: f64,
}

impl Demand {
    /// Nobody has come yet.
    pub fn new(age: Duration, most: usize) -> Self {
        Self { age, most, weight: 0.0, crowd: 0.0, last: Duration::ZERO, credit: TO_BEGIN_WITH }
    }

    /// What is known, for connections that are of use for another `age`, and `most` of them.
    pub fn adapted(self, age: Duration, most: usize) -> Self {
        Self { age, most, ..self }
    }

    /// Somebody has come, for whom there was one or was none.
    pub fn arrived(&mut self, now: Duration, used: bool) {
        self.weight = self.weight_at(now) + 1.0;
        self.crowd = self.crowd_at(now) + 1.0;
        self.last = now;
        let earned = if used { UNUSED_TO_USED } else { UNUSED_TO_MISSED };
        self.credit = (self.credit + earned).min(self.most as f64);
    }

    /// Nobody has come for one within its useful age.
    pub fn unused(&mut self) {
        self.credit = (self.credit - 1.0).max(0.0);
    }

    /// How many connections are worth holding: as many as will have been used within `age`, but for
    /// [`UNUSED_TO_USED`], when arrivals are independent of each other; and never more than may end
    /// unused, should nobody come any more. None in a storm.
    pub fn worth(&self, now: Duration) -> usize {
        if self.crowd_at(now) > STORM * STORM_MEMORY {
            return 0;
        }
        let rate = self.weight_at(now) / self.memory();
        let pause = now.saturating_sub(self.last).as_secs_f64();
        let expected = self.age.as_secs_f64() * rate.min(ENOUGH / pause);
        // Of `count` held, the last is used if so many come: Poisson's distribution.
        let unused = UNUSED_TO_USED / (1.0 + UNUSED_TO_USED);
        let mut exactly = (-expected).exp();
        let mut fewer = exactly;
        let mut count = 0;
        while count < self.most.min(self.credit as usize) && fewer <= unused {
            count += 1;
            exactly *= expected / count as f64;
            fewer += exactly;
        }
        count
    }

    fn weight_at(&self, now: Duration) -> f64 {
        self.decayed(self.weight, now, self.memory())
    }

    fn crowd_at(&self, now: Duration) -> f64 {
        self.decayed(self.crowd, now, STORM_MEMORY)
    }

    fn decayed(&self, weight: f64, now: Duration, memory: f64) -> f64 {
        let ago = now.saturating_sub(self.last).as_secs_f64();
        weight * (-ago / memory).exp()
    }

    /// Seconds in which an arrival comes to count for 1/e.
    fn memory(&self) -> f64 {
        self.age.as_secs_f64() * MEMORY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const AGE: Duration = Duration::from_secs(3);
    const START: Duration = Duration::from_secs(1000);

    fn demand() -> Demand {
        Demand::new(AGE, 16)
    }

    /// What is worth holding right after arrivals so far apart have gone on for a minute.
    fn steady(apart: Duration) -> (Demand, Duration, usize) {
        let mut demand = demand();
        let mut now = START;
        for _ in 0..60_000 / apart.as_millis() {
            now += apart;
            demand.arrived(now, true);
        }
        let worth = demand.worth(now);
        (demand, now, worth)
    }

    #[test]
    fn nothing_is_worth_holding_for_the_first_or_for_rare_ones() {
        let mut demand = demand();
        assert_eq!(demand.worth(Duration::from_secs(5)), 0);
        demand.arrived(Duration::from_secs(5), false);
        assert_eq!(demand.worth(Duration::from_secs(5)), 0);
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
        assert!(demand.worth(now + AGE / 4) < 16);
        assert_eq!(demand.worth(now + AGE + AGE / 10), 0);
    }

    #[test]
    fn in_a_storm_none_is_worth_holding_and_soon_after_it_there_are_again() {
        let (mut demand, mut now, _) = steady(Duration::from_millis(10));
        for _ in 0..5_000 {
            now += Duration::from_micros(100);
            demand.arrived(now, false);
        }
        assert_eq!(demand.worth(now), 0);
        for _ in 0..100 {
            now += Duration::from_millis(10);
            demand.arrived(now, false);
        }
        assert_eq!(demand.worth(now), 16);
    }

    /// A pool that always holds what is worth it, and those who come to it.
    struct Model {
        demand: Demand,
        held: VecDeque<Duration>,
        used: u32,
        missed: u32,
        unused: u32,
    }

    impl Model {
        fn new() -> Self {
            Self { demand: demand(), held: VecDeque::new(), used: 0, missed: 0, unused: 0 }
        }

        fn arrives(&mut self, now: Duration) {
            while self.held.front().is_some_and(|made| *made + AGE <= now) {
                self.held.pop_front();
                self.demand.unused();
                self.unused += 1;
            }
            let is_used = self.held.pop_front().is_some();
            self.used += u32::from(is_used);
            self.missed += u32::from(!is_used);
            self.demand.arrived(now, is_used);
        }

        fn refills(&mut self, now: Duration) {
            while self.held.len() < self.demand.worth(now) {
                self.held.push_back(now);
            }
        }

        fn ratio(&self) -> f64 {
            f64::from(self.unused) / f64::from(self.used.max(1))
        }
    }

    /// Arrivals that know nothing of each other, at any rate: a pool that holds what is worth it
    /// loses no more than it should.
    #[test]
    fn few_end_unused_whatever_the_rate() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for per_second in [0.3, 1.0, 2.0, 5.0, 20.0, 100.0] {
            let (mut pool, mut now) = (Model::new(), START);
            for _ in 0..20_000 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let uniform = (random >> 11) as f64 / (1_u64 << 53) as f64;
                now += Duration::from_secs_f64(-(1.0 - uniform).ln() / per_second);
                pool.arrives(now);
                pool.refills(now);
            }
            let (used, ratio) = (pool.used, pool.ratio());
            assert!(ratio <= 0.1, "{ratio} unused for each of {used} at {per_second} a second");
            assert!(per_second < 5.0 || used > 18_000, "{used} used at {per_second} a second");
        }
    }

    /// Ten at once, who are gone before the pool has dialled for the next of them.
    #[test]
    fn crowds_that_come_seldom_waste_little_and_those_that_come_often_are_served() {
        for (apart, least_used) in [(0.5, 9_000), (1.0, 9_000), (2.0, 7_000), (4.0, 0), (9.0, 0)] {
            let (mut pool, mut now) = (Model::new(), START);
            for _ in 0..1_000 {
                now += Duration::from_secs_f64(apart);
                (0..10).for_each(|_| pool.arrives(now));
                pool.refills(now);
            }
            let Model { used, missed, unused, .. } = pool;
            let may = UNUSED_TO_USED * f64::from(used) + UNUSED_TO_MISSED * f64::from(missed);
            let told = format!("{used} used, {missed} missed, {unused} unused, {apart} s apart");
            assert!(f64::from(unused) <= may + TO_BEGIN_WITH, "{told}");
            assert!(used >= least_used, "{told}");
        }
    }
}
