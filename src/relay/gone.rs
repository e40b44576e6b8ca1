//! Sides that are gone without a word to the pumps.

use std::time::{Duration, Instant};

use super::{Leg, Reason, Relay, Side};
use crate::net::socket::{TcpInfo, is_hung_up};
use crate::net::stream::{Stream, Untaken};

impl Relay {
    /// Looks for a side that is gone without a word to the pumps.
    ///
    /// That is one that was reset while nothing was read from it, because its direction has ended
    /// or waits for the other side; or one that leaves what it was sent unanswered for
    /// `stall_timeout`. `TCP_USER_TIMEOUT` would not do for the latter: it ends live peers that
    /// pause reading.
    ///
    /// A Unix client always answers. But when it has closed after its last word, and not only its
    /// direction, nobody is left to hear the server, and only a write would meet that: it has
    /// `stall_timeout` too, for the server to act on what it was told.
    pub(super) fn gone(&mut self) -> Option<(Side, Reason)> {
        let now = Instant::now();
        let unsettled = self.client_closed || self.upstream_closed || self.quiet.matters();
        self.settled = true;
        let ended = [self.upstream_closed, self.client_closed];
        let legs = [(&mut self.client, Side::Client), (&mut self.upstream, Side::Upstream)];
        for ((leg, side), ended) in legs.into_iter().zip(ended) {
            match leg.look(ended, self.stall_timeout, now) {
                Ok(settled) => self.settled &= settled,
                Err(reason) => return Some((side, reason)),
            }
        }
        if unsettled || !self.settled {
            self.watch.again();
        }
        None
    }
}

impl Leg {
    /// Whether it has taken everything that was written to it, or why it is gone. `ended`: it has
    /// said all it will.
    fn look(&mut self, ended: bool, patience: Duration, now: Instant) -> Result<bool, Reason> {
        let (owes_since, reason, settled) = match self.stream.socket() {
            Stream::Tcp(stream) => {
                let Ok(info) = TcpInfo::of(stream) else { return Ok(true) };
                if info.is_over() {
                    self.pass_error_on()?;
                }
                let since = unanswered_since(self.unanswered_since, &info, now);
                (since, Reason::Stalled, info.all_acknowledged())
            }
            Stream::Unix(stream) => {
                self.pass_error_on()?;
                let since = self.unanswered_since.unwrap_or(now);
                let since = (ended && is_hung_up(stream)).then_some(since);
                let settled = self.stream.socket().untaken() == Some(Untaken::Unix { unread: 0 });
                (since, Reason::Reset, settled)
            }
        };
        self.unanswered_since = owes_since;
        let late = owes_since.is_some_and(|since| now.duration_since(since) >= patience);
        if late && !patience.is_zero() { Err(reason) } else { Ok(settled) }
    }

    /// There is no error after an orderly end.
    fn pass_error_on(&self) -> Result<(), Reason> {
        match self.stream.socket().take_error() {
            Ok(Some(error)) => Err(Reason::of(&error)),
            _ => Ok(()),
        }
    }
}

/// Since when a peer owes an answer, given the last result of the same question.
fn unanswered_since(last: Option<Instant>, info: &TcpInfo, now: Instant) -> Option<Instant> {
    if !info.owes_an_answer() {
        return None;
    }
    match last {
        Some(since) if now.duration_since(since) <= info.silence() => Some(since),
        // The first look, or an acknowledgement came in between: the clock starts now.
        _ => Some(now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_late_only_when_no_acknowledgement_came_since_the_first_look() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let info = |change: fn(&mut TcpInfo)| {
            let mut info = TcpInfo::default();
            change(&mut info);
            info
        };
        let silent = |mut info: TcpInfo, milliseconds| {
            (info.last_ack_recv, info.last_data_recv) = (milliseconds, milliseconds);
            info
        };
        let lost =
            |silence| silent(info(|info| (info.unacked, info.retransmits) = (1, 3)), silence);
        // Acknowledged, or on its way for the first time.
        let fresh = silent(info(|info| info.unacked = 1), 90_000);
        assert_eq!(unanswered_since(Some(at(0)), &TcpInfo::default(), at(90)), None);
        assert_eq!(unanswered_since(Some(at(0)), &fresh, at(90)), None);
        // A closed window with its probes answered, and with two of them unanswered.
        let closed = |probes| {
            let mut info = silent(info(|info| info.notsent_bytes = 1), 90_000);
            info.probes = probes;
            info
        };
        assert_eq!(unanswered_since(Some(at(0)), &closed(1), at(90)), None);
        assert_eq!(unanswered_since(Some(at(0)), &closed(2), at(90)), Some(at(0)));
        // The first look starts the clock, however long the last acknowledgement is ago: before
        // the write there was nothing to acknowledge.
        assert_eq!(unanswered_since(None, &lost(600_000), at(5)), Some(at(5)));
        // Nothing came since.
        assert_eq!(unanswered_since(Some(at(5)), &lost(605_000), at(10)), Some(at(5)));
        // Something came 2 s ago, after the first look: it starts again.
        assert_eq!(unanswered_since(Some(at(5)), &lost(2_000), at(10)), Some(at(10)));
    }
}
