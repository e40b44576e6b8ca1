//! Where a listener forwards to: a gateway's name, the endpoints behind it, a way to one of them.
//!
//! Background loops: [`Upstream::keep_resolved`], one per upstream, on the control runtime; and the
//! dials that lost a race, each until it ends.

mod connect;
mod dial;
mod endpoint;
mod error;
mod guard;
mod health;
#[cfg(test)]
mod learn_tests;
mod pick;
mod resolver;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::config::{self, Tcp};
use crate::drain::Drain;
use crate::log::Chain;
use crate::metrics::UpstreamMetrics;
use crate::mysql::client::Farewells;
use endpoint::EndpointState;
use health::Standing;
use pick::Candidate;
use resolver::{Answer, Family, LookupError, Resolver};

pub use endpoint::{Endpoint, InUse};
pub use error::Unreachable;

/// Pause after a failed look-up; doubled up to [`LONGEST_RETRY`] while it goes on failing.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// The same while no address is known: clients are waiting.
const LONGEST_RETRY_UNRESOLVED: Duration = Duration::from_secs(5);
/// How often vanished endpoints are looked at when their sessions are to be closed.
const VANISHED_EVERY: Duration = Duration::from_secs(1);

/// One `[upstream.NAME]` at work; shared by all threads.
#[derive(Debug)]
pub struct Upstream {
    config: config::Upstream,
    tcp: Tcp,
    metrics: Arc<UpstreamMetrics>,
    farewells: Arc<Farewells>,
    known: watch::Sender<Known>,
    /// Left the answer while sessions used them.
    vanished: Mutex<Vec<Arc<Endpoint>>>,
    turn: AtomicUsize,
    panicking: AtomicBool,
}

/// What is known of the gateway's name.
#[derive(Debug, Default)]
struct Known {
    /// The last good answer; never emptied by a failed or an empty one.
    endpoints: Vec<Arc<Endpoint>>,
    /// When it is asked again.
    valid_until: Option<Instant>,
    /// Why the last look-up failed, if it did.
    error: Option<String>,
    /// The family that could not be asked in the last answer, and in how many in a row.
    missing: Option<(Family, u32)>,
}

/// An upstream connection in hand.
#[derive(Debug)]
pub struct Connected {
    /// The connection; with `Protocol::Mysql` its greeting is there to be read.
    pub stream: TcpStream,
    /// Counts for the endpoint's sessions until it is dropped.
    pub in_use: InUse,
}

/// The state of an upstream at one moment, for the status page.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Snapshot {
    /// Its name in the configuration.
    pub name: String,
    /// Its gateway.
    pub gateway: String,
    /// Its endpoints in the order of the answer, then those that left it.
    pub endpoints: Vec<endpoint::Snapshot>,
    /// Seconds until the name is looked up again; `None` for a literal.
    pub ttl_left_seconds: Option<u64>,
    /// Why the last look-up failed, if it did.
    pub dns_error: Option<String>,
}

impl Upstream {
    /// An upstream; a literal is known at once, a name after [`Self::keep_resolved`] has asked.
    /// `drain` waits until its servers have been taken leave of.
    pub fn new(config: config::Upstream, tcp: Tcp, metrics: UpstreamMetrics, drain: Drain) -> Self {
        let label: Arc<str> = config.name.as_str().into();
        let literal = config.gateway.literal().map(|address| Endpoint::new(label, address));
        let known = Known { endpoints: literal.into_iter().collect(), ..Known::default() };
        Self {
            config,
            tcp,
            metrics: Arc::new(metrics),
            farewells: Arc::new(Farewells::new(drain)),
            known: watch::Sender::new(known),
            vanished: Mutex::default(),
            turn: AtomicUsize::new(0),
            panicking: AtomicBool::new(false),
        }
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The gateway as the configuration has it.
    pub fn gateway(&self) -> &config::Gateway {
        &self.config.gateway
    }

    /// Whether an address is known.
    pub fn is_resolved(&self) -> bool {
        !self.known.borrow().endpoints.is_empty()
    }

    /// How long after its address has left the answer a session is closed; 0: never.
    pub fn close_vanished_after(&self) -> Duration {
        self.config.close_vanished_after
    }

    /// Brings the endpoints' metrics up to now.
    pub fn count_endpoints(&self) {
        let endpoints = self.endpoints();
        for state in [EndpointState::Healthy, EndpointState::Ejected, EndpointState::Vanished] {
            let count = endpoints.iter().filter(|endpoint| endpoint.state == state).count();
            self.metrics.endpoints(state.as_str(), count);
        }
    }

    fn endpoints(&self) -> Vec<endpoint::Snapshot> {
        let known = self.known.borrow().endpoints.clone();
        let vanished = self.vanished();
        known.iter().chain(vanished.iter()).map(|endpoint| endpoint.snapshot()).collect()
    }

    /// The state now.
    pub fn snapshot(&self) -> Snapshot {
        let endpoints = self.endpoints();
        let left = |until: Instant| until.saturating_duration_since(Instant::now()).as_secs();
        let known = self.known.borrow();
        Snapshot {
            name: self.config.name.clone(),
            gateway: self.config.gateway.to_string(),
            endpoints,
            ttl_left_seconds: known.valid_until.map(left),
            dns_error: known.error.clone(),
        }
    }

    /// Looks the name up, again and again as its TTL asks for. Returns at once for a literal.
    ///
    /// A failed or empty answer never empties a set of addresses that is known.
    pub async fn keep_resolved(&self, nameservers: &[SocketAddr]) {
        if self.config.gateway.literal().is_some() {
            return;
        }
        let resolver = Resolver::new(nameservers, &self.config.gateway.host);
        let mut retry = FIRST_RETRY;
        loop {
            let result = resolver.lookup().await.and_then(|answer| self.guard(answer));
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
            self.wait(pause).await;
        }
    }

    /// Sleeps; meanwhile sees to it that sessions of vanished endpoints end when they shall.
    async fn wait(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.config.close_vanished_after.is_zero() && Instant::now() < until {
            for endpoint in self.vanished().iter() {
                endpoint.retire_when_gone_for(self.config.close_vanished_after);
            }
            sleep(VANISHED_EVERY.min(until.saturating_duration_since(Instant::now()))).await;
        }
        sleep(until.saturating_duration_since(Instant::now())).await;
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
    fn learn(&self, answer: Answer) -> Duration {
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
            let label: Arc<str> = self.config.name.as_str().into();
            for ip in ips {
                let address = SocketAddr::new(ip, self.config.gateway.port);
                // An endpoint that stays, or comes back, keeps what is known of it.
                let at = before.iter().position(|endpoint| endpoint.address == address);
                let endpoint = match at {
                    Some(at) => before.remove(at),
                    None => Endpoint::new(label.clone(), address),
                };
                endpoint.set_vanished(false);
                known.endpoints.push(endpoint);
            }
            // One that is being dialled may yet be lent.
            before.retain(is_in_use);
            before.iter().for_each(|endpoint| endpoint.set_vanished(true));
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
        });
        ttl - ttl / 10
    }

    fn miss(&self, error: &LookupError, retry: Duration) {
        let cause = Chain(error).to_string();
        self.known.send_modify(|known| {
            if known.error.as_ref() != Some(&cause) {
                let kept = known.endpoints.len();
                warn!(upstream = self.name(), cause, kept, "cannot resolve the gateway");
            }
            known.error = Some(cause);
            known.valid_until = Some(Instant::now() + retry);
        });
    }

    /// Ends a connection of [`Self::connect`] over which its server was told nothing, and waits until
    /// it has. `said` is what has been read of the greeting already.
    pub async fn take_leave(&self, stream: TcpStream, said: Vec<u8>) {
        // It fails only by a panic, which the panic hook has told.
        let _ = self.farewells.say(stream, said).await;
    }

    /// The endpoints in the order to try them. Waits for the first look-up, not for later ones.
    async fn ordered(
        &self,
        deadline: Instant,
    ) -> Result<Vec<Candidate<Arc<Endpoint>>>, Unreachable> {
        let mut candidates = self.candidates();
        if candidates.is_empty() {
            self.first_answer(deadline).await?;
            candidates = self.candidates();
        }
        self.tell_panic(candidates.iter().all(|one| one.standing != Standing::Healthy));
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        pick::order(&mut candidates, self.config.balance, turn);
        Ok(candidates)
    }

    fn candidates(&self) -> Vec<Candidate<Arc<Endpoint>>> {
        let known = self.known.borrow();
        let preferred = &self.config.prefer_cidrs;
        let candidates = known.endpoints.iter().map(|endpoint| Candidate {
            endpoint: endpoint.clone(),
            standing: endpoint.standing(),
            preferred: preferred.iter().any(|network| network.contains(&endpoint.address.ip())),
            sessions: endpoint.sessions(),
        });
        candidates.collect()
    }

    /// Waits until an address is known: at the most until the first look-up has failed.
    async fn first_answer(&self, deadline: Instant) -> Result<(), Unreachable> {
        let mut receiver = self.known.subscribe();
        let settled =
            receiver.wait_for(|known| !known.endpoints.is_empty() || known.error.is_some());
        let left = deadline.saturating_duration_since(Instant::now());
        let cause = match timeout(left, settled).await {
            Ok(Ok(known)) if !known.endpoints.is_empty() => return Ok(()),
            Ok(Ok(known)) => known.error.clone().unwrap_or_default(),
            // The sender lives as long as `self`.
            Ok(Err(_)) | Err(_) => "no DNS server has answered yet".to_owned(),
        };
        Err(Unreachable::Unresolved { gateway: self.config.gateway.to_string(), cause })
    }

    /// Says once that no endpoint is healthy, and once that one is again.
    fn tell_panic(&self, all_ejected: bool) {
        if self.panicking.swap(all_ejected, Ordering::Relaxed) != all_ejected {
            match all_ejected {
                true => warn!(upstream = self.name(), "every endpoint is ejected: trying all"),
                false => info!(upstream = self.name(), "not every endpoint is ejected any more"),
            }
        }
    }

    fn vanished(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Endpoint>>> {
        let mut vanished = self.vanished.lock().unwrap_or_else(PoisonError::into_inner);
        vanished.retain(is_in_use);
        vanished
    }
}

/// Whether a session uses it, or a dial is under way.
fn is_in_use(endpoint: &Arc<Endpoint>) -> bool {
    endpoint.sessions() > 0 || Arc::strong_count(endpoint) > 1
}
