//! Sessions that are ended although nothing is wrong with them: idle, old, or on an endpoint that
//! has left DNS.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Reason;

/// Silence after the server's last word that counts as between two commands.
const QUIET: Duration = Duration::from_secs(1);

/// What ends a session at a quiet moment.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Silence that ends it, whoever spoke last; 0: never.
    pub idle_timeout: Duration,
    /// From then on it ends at its next quiet second.
    pub retire_at: Option<Instant>,
    /// Once true it ends at its next quiet second.
    pub retire: Option<Arc<AtomicBool>>,
}

/// What is known of a session's silence.
#[derive(Debug)]
pub(super) struct Quiet {
    limits: Limits,
    since: Instant,
    server_spoke_last: bool,
    moved: bool,
}

impl Limits {
    /// Whether there is anything to look for.
    fn any(&self) -> bool {
        !self.idle_timeout.is_zero() || self.retire_at.is_some() || self.retire.is_some()
    }
}

impl Quiet {
    pub fn new(limits: Limits) -> Self {
        Self { limits, since: Instant::now(), server_spoke_last: false, moved: true }
    }

    /// The server has spoken last before this began.
    pub fn server_has_spoken(&mut self) {
        self.server_spoke_last = true;
    }

    /// As they were given.
    pub fn into_limits(self) -> Limits {
        self.limits
    }

    /// Whether to ask in every round.
    pub fn matters(&self) -> bool {
        self.limits.any()
    }

    /// Bytes have moved to the upstream, to the client.
    pub fn moved(&mut self, sent: bool, received: bool) {
        if sent || received {
            self.moved = true;
            // When both moved, what was received answers an older command.
            self.server_spoke_last = !sent;
        }
    }

    /// Why the session ends now, if it does. The clock is read here only, once a round.
    ///
    /// `settled`: both sides have taken all that was sent to them. A client that pauses in the
    /// middle of a result is not quiet. `retiring`: the bridge wants to end.
    pub fn over(&mut self, settled: bool, retiring: bool) -> Option<Reason> {
        let now = Instant::now();
        if std::mem::take(&mut self.moved) || !settled {
            self.since = now;
        }
        let silent = now.duration_since(self.since);
        let Limits { idle_timeout, retire_at, retire } = &self.limits;
        if !idle_timeout.is_zero() && silent >= *idle_timeout {
            return Some(Reason::IdleTimeout);
        }
        if !self.server_spoke_last || silent < QUIET {
            return None;
        }
        if retiring {
            return Some(Reason::Drain);
        }
        if retire_at.is_some_and(|at| now >= at) {
            return Some(Reason::MaxLifetime);
        }
        let retired = retire.as_ref().is_some_and(|retire| retire.load(Ordering::Relaxed));
        retired.then_some(Reason::Vanished)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Limits = Limits { idle_timeout: Duration::ZERO, retire_at: None, retire: None };

    fn silent_for(quiet: &mut Quiet, time: Duration) {
        assert_eq!(quiet.over(true, false), None);
        quiet.since -= time;
    }

    #[test]
    fn an_old_session_ends_only_after_the_servers_last_word() {
        let mut quiet = Quiet::new(Limits { retire_at: Some(Instant::now()), ..NONE });
        quiet.moved(true, false);
        silent_for(&mut quiet, Duration::from_secs(600));
        assert_eq!(quiet.over(true, false), None, "a query is running");
        quiet.moved(false, true);
        silent_for(&mut quiet, Duration::from_secs(2));
        assert_eq!(quiet.over(true, false), Some(Reason::MaxLifetime));
    }

    #[test]
    fn a_session_on_a_vanished_endpoint_ends_once_it_is_told() {
        let retire = Arc::new(AtomicBool::new(false));
        let mut quiet = Quiet::new(Limits { retire: Some(retire.clone()), ..NONE });
        quiet.moved(false, true);
        silent_for(&mut quiet, Duration::from_secs(2));
        assert_eq!(quiet.over(true, false), None);
        retire.store(true, Ordering::Relaxed);
        assert_eq!(quiet.over(true, false), Some(Reason::Vanished));
    }

    #[test]
    fn a_bridge_that_wants_to_end_closes_a_session_between_two_commands() {
        let mut quiet = Quiet::new(NONE);
        quiet.moved(true, false);
        silent_for(&mut quiet, Duration::from_secs(600));
        assert_eq!(quiet.over(true, true), None, "a query is running");
        quiet.moved(false, true);
        assert_eq!(quiet.over(true, true), None, "the last word was just said");
        quiet.since -= Duration::from_secs(2);
        assert_eq!(quiet.over(true, true), Some(Reason::Drain));
    }

    #[test]
    fn a_side_that_has_not_taken_everything_is_not_quiet() {
        let mut quiet = Quiet::new(Limits { retire_at: Some(Instant::now()), ..NONE });
        quiet.moved(false, true);
        silent_for(&mut quiet, Duration::from_secs(600));
        assert_eq!(quiet.over(false, false), None);
        assert_eq!(quiet.over(true, false), None, "the silence begins again");
    }

    #[test]
    fn silence_is_over_when_a_byte_moves() {
        let idle_timeout = Duration::from_secs(60);
        let mut quiet = Quiet::new(Limits { idle_timeout, ..NONE });
        silent_for(&mut quiet, Duration::from_secs(59));
        quiet.moved(true, false);
        silent_for(&mut quiet, Duration::from_secs(59));
        assert_eq!(quiet.over(true, false), None);
        quiet.since -= Duration::from_secs(2);
        assert_eq!(quiet.over(true, false), Some(Reason::IdleTimeout));
    }
}
