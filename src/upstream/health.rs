//! What past dials say about an endpoint: a state machine without a clock.
//!
//! Times are durations since any fixed moment; the caller brings the clock. A dial has succeeded
//! when the first greeting byte came, not when TCP connected.
//!
//! Healthy -> ejected, for [`FIRST_EJECTION`], twice as long after each further failure -> due for a
//! trial -> in a trial, by one connection -> healthy or ejected again. An ejected endpoint is tried
//! last, never left out: ejection cannot empty a set.

use std::time::Duration;

/// How long an endpoint goes last after its first failure.
pub const FIRST_EJECTION: Duration = Duration::from_secs(10);
/// How long at the most.
pub const LONGEST_EJECTION: Duration = Duration::from_secs(80);
/// A trial whose end nobody told is over after this: its connection was given up.
pub const TRIAL: Duration = Duration::from_secs(15);

/// The state of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    state: State,
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Healthy,
    Ejected {
        until: Duration,
    },
    Trial {
        since: Duration,
    },
}

/// What an endpoint is good for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Takes connections.
    Healthy,
    /// The next connection may try it first; [`Health::begin_trial`] if it does.
    Due,
    /// Goes last.
    Ejected,
}

impl Health {
    /// What it is good for at `now`.
    pub fn standing(&self, now: Duration) -> Standing {
        match self.state {
            State::Healthy => Standing::Healthy,
            State::Ejected { until } if now < until => Standing::Ejected,
            State::Trial { since } if now < since + TRIAL => Standing::Ejected,
            State::Ejected { .. } | State::Trial { .. } => Standing::Due,
        }
    }

    /// One connection tries it; until it tells, or gives up, others see it as ejected. `false` when
    /// no trial is due.
    pub fn begin_trial(&mut self, now: Duration) -> bool {
        let is_due = self.standing(now) == Standing::Due;
        if is_due {
            self.state = State::Trial { since: now };
        }
        is_due
    }

    /// A greeting came. `true` when it was not healthy before.
    pub fn succeeded(&mut self) -> bool {
        let recovered = self.state != State::Healthy;
        *self = Self::default();
        recovered
    }

    /// A dial failed. `true` when it was healthy before.
    ///
    /// Many dials of one outage fail at about the same time; they count as one failure, so that a
    /// busy bridge does not eject for longer than an idle one.
    pub fn failed(&mut self, now: Duration) -> bool {
        if self.standing(now) == Standing::Ejected && !matches!(self.state, State::Trial { .. }) {
            return false;
        }
        let newly = self.state == State::Healthy;
        let ejection = FIRST_EJECTION.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.state = State::Ejected { until: now + ejection.min(LONGEST_EJECTION) };
        newly
    }

    /// How long it still goes last.
    pub fn ejected_for(&self, now: Duration) -> Option<Duration> {
        match self.state {
            State::Ejected { until } => until.checked_sub(now).filter(|left| !left.is_zero()),
            State::Healthy | State::Trial { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Duration = Duration::from_secs(1_000);

    #[test]
    fn a_failure_ejects_for_ten_seconds_and_then_one_trial_decides() {
        let mut health = Health::default();
        assert!(health.failed(START));
        assert_eq!(health.standing(START + Duration::from_secs(9)), Standing::Ejected);
        let due = START + FIRST_EJECTION;
        assert_eq!(health.standing(due), Standing::Due);
        assert!(health.begin_trial(due));
        assert_eq!(health.standing(due), Standing::Ejected, "others wait for the trial's end");
        assert!(!health.begin_trial(due), "two trials at once");
        assert!(health.succeeded());
        assert_eq!(health.standing(due), Standing::Healthy);
    }

    #[test]
    fn each_failed_trial_doubles_the_ejection_up_to_its_longest() {
        let mut health = Health::default();
        let mut now = START;
        let mut lengths = Vec::new();
        for _ in 0..6 {
            health.begin_trial(now);
            health.failed(now);
            let length = health.ejected_for(now).unwrap();
            lengths.push(length.as_secs());
            now += length;
        }
        assert_eq!(lengths, [10, 20, 40, 80, 80, 80]);
    }

    #[test]
    fn a_trial_that_nobody_ended_is_over_by_itself() {
        let mut health = Health::default();
        health.failed(START);
        let due = START + FIRST_EJECTION;
        health.begin_trial(due);
        assert_eq!(health.standing(due + TRIAL), Standing::Due);
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Succeeded,
        Failed,
        Trial,
        Wait(u64),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            Just(Event::Succeeded),
            Just(Event::Failed),
            Just(Event::Trial),
            (0..120_000_u64).prop_map(Event::Wait),
        ];
        proptest::collection::vec(event, 0..60)
    }

    proptest! {
        #[test]
        fn whatever_happens_an_endpoint_is_tried_again_in_time(events in events()) {
            let mut health = Health::default();
            let mut now = START;
            for event in events {
                let before = health.standing(now);
                match event {
                    Event::Succeeded => {
                        health.succeeded();
                        prop_assert_eq!(health.standing(now), Standing::Healthy);
                    }
                    Event::Failed => {
                        let newly = health.failed(now);
                        prop_assert_eq!(newly, before == Standing::Healthy);
                        prop_assert_eq!(health.standing(now), Standing::Ejected);
                    }
                    Event::Trial => {
                        prop_assert_eq!(health.begin_trial(now), before == Standing::Due);
                        let expected = if before == Standing::Due { Standing::Ejected } else { before };
                        prop_assert_eq!(health.standing(now), expected);
                    }
                    Event::Wait(milliseconds) => now += Duration::from_millis(milliseconds),
                }
                prop_assert!(health.ejected_for(now).is_none_or(|left| left <= LONGEST_EJECTION));
                let later = now + LONGEST_EJECTION.max(TRIAL);
                prop_assert_ne!(health.standing(later), Standing::Ejected);
            }
        }

        #[test]
        fn many_failures_of_one_moment_count_once(count in 1..50_u32) {
            let mut health = Health::default();
            for _ in 0..count {
                health.failed(START);
            }
            prop_assert_eq!(health.ejected_for(START), Some(FIRST_EJECTION));
        }
    }
}
