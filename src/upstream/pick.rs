//! The order in which a connection tries endpoints; no I/O, no clock.

use super::health::Standing;
use crate::config::Balance;

/// One of the endpoints that may be picked, and what counts of it then.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<T> {
    /// The endpoint.
    pub endpoint: T,
    /// What past dials say.
    pub standing: Standing,
    /// Whether it is in one of `prefer_cidrs`.
    pub preferred: bool,
    /// Sessions that use it now.
    pub sessions: usize,
}

/// Puts all `candidates` in order, the first to try first. `turn` counts connections.
///
/// Ejected ones come last and preferred ones before others, so that traffic spills over to the
/// others only when no preferred one is left. None is left out: that would help nobody.
pub fn order<T>(candidates: &mut [Candidate<T>], balance: Balance, turn: usize) {
    let class = |one: &Candidate<T>| (one.standing == Standing::Ejected, !one.preferred);
    candidates.sort_by_key(class);
    if balance != Balance::Failover {
        // Within each class, so that those of a small one get equal shares. For least connections
        // it spreads a burst that comes before its sessions are counted.
        for equals in candidates.chunk_by_mut(|a, b| class(a) == class(b)) {
            equals.rotate_left(turn % equals.len());
        }
    }
    if balance == Balance::LeastConnections {
        candidates.sort_by_key(|one| (class(one), one.sessions));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Candidate<()> =
        Candidate { endpoint: (), standing: Standing::Healthy, preferred: false, sessions: 0 };

    /// The places in `candidates` of the first to try, the second, and so on.
    fn order(candidates: &[Candidate<()>], balance: Balance, turn: usize) -> Vec<usize> {
        let named = candidates.iter().enumerate().map(|(endpoint, one)| Candidate {
            endpoint,
            standing: one.standing,
            preferred: one.preferred,
            sessions: one.sessions,
        });
        let mut named: Vec<_> = named.collect();
        super::order(&mut named, balance, turn);
        named.iter().map(|one| one.endpoint).collect()
    }

    #[test]
    fn failover_keeps_the_order_of_the_answer() {
        assert_eq!(order(&[PLAIN; 3], Balance::Failover, 7), [0, 1, 2]);
    }

    #[test]
    fn round_robin_begins_with_each_in_turn() {
        let first = |turn| order(&[PLAIN; 3], Balance::RoundRobin, turn)[0];
        assert_eq!([first(0), first(1), first(2), first(3)], [0, 1, 2, 0]);
    }

    #[test]
    fn least_connections_begins_with_the_fewest_sessions() {
        let with = |sessions| Candidate { sessions, ..PLAIN };
        assert_eq!(order(&[with(2), with(1), with(3)], Balance::LeastConnections, 0), [1, 0, 2]);
    }

    #[test]
    fn preferred_ones_come_first_and_spill_over_when_ejected() {
        let near = Candidate { preferred: true, ..PLAIN };
        let ejected = Candidate { standing: Standing::Ejected, ..near };
        assert_eq!(order(&[PLAIN, near], Balance::Failover, 0), [1, 0]);
        assert_eq!(order(&[ejected, PLAIN], Balance::Failover, 0), [1, 0]);
    }

    #[test]
    fn round_robin_gives_equal_shares_within_a_class() {
        let near = Candidate { preferred: true, ..PLAIN };
        let candidates = [near, near, PLAIN, PLAIN, PLAIN, PLAIN];
        let first = |turn| order(&candidates, Balance::RoundRobin, turn)[0];
        let firsts: Vec<usize> = (0..4).map(first).collect();
        assert_eq!(firsts, [0, 1, 0, 1]);
    }

    #[test]
    fn nobody_is_left_out_when_all_are_ejected() {
        let ejected = Candidate { standing: Standing::Ejected, ..PLAIN };
        assert_eq!(order(&[ejected; 2], Balance::RoundRobin, 1), [1, 0]);
        assert!(order(&[], Balance::RoundRobin, 1).is_empty());
    }
}
