//! Keeping a gateway's name resolved: when it is asked, and what an answer changes.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::info;

use super::endpoint::Endpoint;
use super::resolver::{Answer, Family, Resolver};
use super::{LookupError, Upstream, guard};
use crate::log::Chain;

/// Pause after a failed look-up; doubled up to [`LONGEST_RETRY`] while it goes on failing.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// The same while no address is known: clients are waiting.
const LONGEST_RETRY_UNRESOLVED: Duration = Duration::from_secs(5);
/// How often vanished endpoints are looked at when their sessions are to be closed.
const VANISHED_EVERY: Duration = Duration::from_secs(1);

impl Upstream {
    /// Keeps what is known of the gateway up to date. Returns at once if nothing of it can change.
    pub async fn keep_resolved(&self) {
        tokio::join!(self.keep_looking_up(), self.retire_vanished());
    }

    /// For an upstream that a reload has taken away: its endpoints are as good as vanished. Returns
    /// when none of their sessions is left, at once if they may stay.
    pub async fn see_out(&self) {
        let known = self.known.borrow().endpoints.clone();
        let endpoints: Vec<_> = self.vanished().drain(..).chain(known).collect();
        endpoints.iter().for_each(|endpoint| endpoint.set_vanished(true));
        let after = self.config.close_vanished_after;
        while !after.is_zero() && endpoints.iter().any(|endpoint| endpoint.is_in_use()) {
            endpoints.iter().for_each(|endpoint| endpoint.retire_when_gone_for(after));
            sleep(VANISHED_EVERY).await;
        }
    }

    /// Sees to it that sessions of vanished endpoints end when they shall, if they shall.
    async fn retire_vanished(&self) {
        let after = self.config.close_vanished_after;
        while !after.is_zero() {
            self.vanished().iter().for_each(|endpoint| endpoint.retire_when_gone_for(after));
            sleep(VANISHED_EVERY).await;
        }
    }

    /// Looks the name up, again and again as its TTL asks for. Returns at once for a literal.
    ///
    /// A failed or empty answer never empties a set of addresses that is known.
    async fn keep_looking_up(&self) {
        if self.config.gateway.literal().is_some() {
            return;
        }
        let resolver = Resolver::new(&self.nameservers, &self.config.gateway.host);
        let mut retry = FIRST_RETRY;
        loop {
            let absolute = self.known.borrow().is_absolute;
            let result = resolver.lookup(absolute).await.and_then(|answer| self.guard(answer));
            self.metrics.looked_up(match &result {
                Ok(Answer { missing: None, .. }) => "ok",
                Ok(_) => "partial",
                Err(error) => error.as_str(),
            });
            let pause = match result {
                Ok(answer) => {
                    retry = FIRST_RETRY;
                    self.learn(answer)
                }
                Err(error) => {
                    let pause = retry;
                    self.miss(&error, pause);
                    retry = (retry * 2).min(match self.is_resolved() {
                        true => LONGEST_RETRY,
                        false => LONGEST_RETRY_UNRESOLVED,
                    });
                    pause
                }
            };
            sleep(pause).await;
        }
    }

    fn guard(&self, answer: Answer) -> Result<Answer, LookupError> {
        if !self.config.require_private {
            return Ok(answer);
        }
        let has_v4 = self.known.borrow().endpoints.iter().any(|one| one.address.is_ipv4());
        if answer.missing == Some(Family::V4) && !has_v4 {
            return Err(LookupError::Undecided(self.config.gateway.host.clone()));
        }
        match guard::private_only(answer.addresses, &self.config.private_cidrs) {
            Ok(addresses) => Ok(Answer { addresses, ..answer }),
            Err(public) => Err(LookupError::Public(self.config.gateway.host.clone(), public)),
        }
    }

    /// Takes an answer over and tells when to ask again: shortly before it expires. A family that
    /// could not be asked keeps the addresses that are known of it, and is asked again soon, then less
    /// and less soon: a server that never answers for it must not be asked more often than others.
    pub(super) fn learn(&self, answer: Answer) -> Duration {
        let ttl = answer.ttl.clamp(self.config.min_ttl, self.config.max_ttl);
        let missing = answer.missing.map(|family| match self.known.borrow().missing {
            Some((before, times)) if before == family => (family, times.saturating_add(1)),
            _ => (family, 1),
        });
        let ttl = match missing {
            Some((_, times)) => {
                ttl.min(self.config.min_ttl.saturating_mul(1 << (times - 1).min(16)))
            }
            None => ttl,
        };
        let mut vanished = self.vanished();
        self.known.send_modify(|known| {
            let kept = known.endpoints.iter().map(|endpoint| endpoint.address.ip());
            let kept = kept.filter(|ip| Some(Family::of(*ip)) == answer.missing);
            let mut ips: Vec<_> = answer.addresses.iter().copied().chain(kept).collect();
            ips.sort_by_key(|ip| !ip.is_ipv4());
            let mut before = std::mem::take(&mut known.endpoints);
            let changed = ips.len() != before.len()
                || before.iter().zip(&ips).any(|(endpoint, ip)| endpoint.address.ip() != *ip);
            before.append(&mut vanished);
            for ip in ips {
                let address = SocketAddr::new(ip, self.config.gateway.port);
                // An endpoint that stays, or comes back, keeps what is known of it.
                let at = before.iter().position(|endpoint| endpoint.address == address);
                let endpoint = match at {
                    Some(at) => before.remove(at),
                    None => Endpoint::new(self.lines.clone(), address),
                };
                endpoint.set_vanished(false);
                known.endpoints.push(endpoint);
            }
            // Also those that nobody uses: a pool may hold a connection to one.
            before.iter().for_each(|endpoint| endpoint.set_vanished(true));
            before.retain(|endpoint| endpoint.is_in_use());
            *vanished = before;
            let addresses = known.endpoints.iter().map(|endpoint| endpoint.address);
            if changed {
                let addresses: Vec<_> = addresses.collect();
                info!(
                    upstream = self.name(),
                    host = self.config.gateway.host,
                    ?addresses,
                    ?ttl,
                    "resolved"
                );
            } else if known.error.is_some() {
                info!(upstream = self.name(), "the name resolves again");
            }
            known.valid_until = Some(Instant::now() + ttl);
            known.error = None;
            known.missing = missing;
            known.is_absolute |= answer.is_absolute;
        });
        ttl - ttl / 10
    }

    fn miss(&self, error: &LookupError, retry: Duration) {
        let cause = Chain(error).to_string();
        self.known.send_modify(|known| {
            if known.error.as_ref() != Some(&cause) {
                self.lines.unresolved(&cause, known.endpoints.len());
            }
            known.error = Some(cause);
            known.valid_until = Some(Instant::now() + retry);
        });
    }
}
