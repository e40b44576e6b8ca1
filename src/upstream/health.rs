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

    /// One connection tries it; until it tells, or gives up, others see it as ejected.
    pub fn begin_trial(&mut self, now: Duration) {
        if self.standing(now) == Standing::Due {
            self.state = State::Trial { since: now };
        }
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
