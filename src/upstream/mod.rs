//! Where a listener forwards to: a gateway's name, the endpoints behind it, a way to one of them.
//!
//! Background loops: [`Upstream::keep_resolved`], one per upstream, on the control runtime; and the
//! dials that lost a race, each until it ends.

mod answer;
#[cfg(test)]
mod answer_tests;
mod candidates;
mod connect;
mod dial;
mod endpoint;
mod error;
mod guard;
mod health;
mod lines;
mod pick;
pub mod plan;
mod resolver;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::config::{self, Tcp};
use crate::drain::Drain;
use crate::log::Repeats;
use crate::metrics::UpstreamMetrics;
use crate::mysql::client::Farewells;
use crate::net::stream::Stream;
use crate::tls::client::UpstreamLeg;
use endpoint::{Claim, EndpointState};
use health::Standing;
use lines::Lines;
use pick::Candidate;
use resolver::Resolver;

pub use endpoint::{Endpoint, InUse};
pub use error::{LookupError, Unreachable};
pub use guard::private_only;
pub use resolver::{Answer, Family, Heard, ask_each};

/// What the bridge finds for a name now: in the hosts file, or by its DNS servers (empty: the system's).
pub async fn look_up(nameservers: &[SocketAddr], host: &str) -> Result<Answer, LookupError> {
    Resolver::new(nameservers, host).lookup(false).await
}

/// The addresses of a host now, without a guard; an address is its own.
pub async fn resolve(host: &str) -> Result<Vec<IpAddr>, LookupError> {
    match host.parse() {
        Ok(address) => Ok(vec![address]),
        Err(_) => Ok(look_up(&[], host).await?.addresses),
    }
}

/// One `[upstream.NAME]` at work; shared by all threads.
#[derive(Debug)]
pub struct Upstream {
    config: config::Upstream,
    leg: UpstreamLeg,
    tcp: Tcp,
    nameservers: Vec<SocketAddr>,
    metrics: Arc<UpstreamMetrics>,
    lines: Arc<Lines>,
    farewells: Arc<Farewells>,
    known: watch::Sender<Known>,
    /// Left the answer while sessions used them.
    vanished: Mutex<Vec<Arc<Endpoint>>>,
    turn: AtomicUsize,
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
    /// DNS has had the name as it is: no search domain may stand in for it from then on.
    is_absolute: bool,
}

/// An upstream connection in hand.
#[derive(Debug)]
pub struct Connected {
    /// The connection; with `Protocol::Mysql` its greeting is there to be read.
    pub stream: TcpStream,
    /// Counts for the endpoint's sessions until it is dropped.
    pub in_use: InUse,
    /// For how long its server will still wait for a log-in; `None`: it has only just begun to.
    pub log_in_within: Option<Duration>,
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
    pub fn new(
        config: config::Upstream,
        leg: UpstreamLeg,
        tcp: Tcp,
        nameservers: Vec<SocketAddr>,
        metrics: UpstreamMetrics,
        drain: Drain,
        repeats: &Repeats,
    ) -> Self {
        let lines = Lines::new(&config.name, repeats);
        let literal = config.gateway.literal().map(|address| Endpoint::new(lines.clone(), address));
        match literal {
            Some(_) => metrics.has_no_name(),
            None => metrics.has_a_name(),
        }
        let known = Known { endpoints: literal.into_iter().collect(), ..Known::default() };
        Self {
            config,
            leg,
            tcp,
            nameservers,
            metrics: Arc::new(metrics),
            lines,
            farewells: Arc::new(Farewells::new(drain)),
            known: watch::Sender::new(known),
            vanished: Mutex::default(),
            turn: AtomicUsize::new(0),
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

    /// How its pool is filled.
    pub fn warm(&self) -> config::Warm {
        self.config.warm
    }

    /// How long one of its addresses may take to accept a connection.
    pub fn connect_timeout(&self) -> Duration {
        self.config.connect_timeout
    }

    /// How long after its address has left the answer a session is closed; 0: never.
    pub fn close_vanished_after(&self) -> Duration {
        self.config.close_vanished_after
    }

    /// What is spoken on the way to it.
    pub fn leg(&self) -> &UpstreamLeg {
        &self.leg
    }

    /// Whether it is what `new` would make of these.
    pub fn is_of(
        &self,
        config: &config::Upstream,
        leg: &UpstreamLeg,
        tcp: &Tcp,
        nameservers: &[SocketAddr],
    ) -> bool {
        self.config == *config
            && self.leg.is_as(leg)
            && self.tcp == *tcp
            && self.nameservers == nameservers
    }

    /// Begins with what `old` knows of the same gateway, of which it takes the place. Endpoints of
    /// another gateway that sessions use have vanished.
    pub fn take_over(&self, old: &Self) {
        let same_guard = |of: &config::Upstream| (of.require_private, of.private_cidrs.clone());
        let is_same = self.config.gateway == old.config.gateway
            && same_guard(&self.config) == same_guard(&old.config);
        let (mut vanished, known) = (old.vanished().clone(), old.known.borrow());
        if is_same {
            self.known.send_modify(|own| {
                own.endpoints.clone_from(&known.endpoints);
                own.valid_until = known.valid_until;
                own.is_absolute = known.is_absolute;
            });
        } else {
            vanished.extend(known.endpoints.iter().cloned());
            vanished.iter().for_each(|endpoint| endpoint.set_vanished(true));
            if self.config.gateway.literal().is_none() {
                self.metrics.has_another_name();
            }
        }
        *self.vanished() = vanished;
    }

    /// Brings the endpoints' metrics up to now.
    pub fn count_endpoints(&self) {
        let endpoints = self.endpoints();
        for state in EndpointState::ALL {
            let count = endpoints.iter().filter(|endpoint| endpoint.state == state).count();
            self.metrics.endpoints(state.as_str(), count);
        }
    }

    /// There is nothing to count any more, and no name to resolve.
    pub fn uncount_endpoints(&self) {
        for state in EndpointState::ALL {
            self.metrics.endpoints(state.as_str(), 0);
        }
        self.metrics.has_no_name();
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

    /// The options that connections of [`Self::connect`] have.
    pub fn tcp(&self) -> &Tcp {
        &self.tcp
    }

    /// Ends a connection of [`Self::connect`] over which its server was told nothing; the drain waits
    /// for it. `said` is what has been read of the greeting already.
    pub fn take_leave(&self, stream: impl Into<Stream>, said: Vec<u8>) -> JoinHandle<()> {
        self.farewells.say(stream, said)
    }

    /// The endpoints in the order to try them. Waits for the first look-up, not for later ones.
    async fn ordered(&self, deadline: Instant) -> Result<Vec<Candidate<Claim>>, Unreachable> {
        let mut candidates = self.candidates();
        if candidates.is_empty() {
            self.first_answer(deadline).await?;
            candidates = self.candidates();
        }
        self.lines.all_ejected(candidates.iter().all(|one| one.standing != Standing::Healthy));
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        pick::order(&mut candidates, self.config.balance, turn);
        Ok(candidates)
    }

    /// Whether what was greeted there before is of no use: it has left the answer, nobody listens there
    /// any more, or it was ejected and another one is healthy.
    pub fn avoids(&self, endpoint: &Endpoint) -> bool {
        let is_healthy = |one: &Endpoint| one.standing() == Standing::Healthy;
        endpoint.has_vanished()
            || endpoint.refuses()
            || (!is_healthy(endpoint)
                && self.known.borrow().endpoints.iter().any(|other| is_healthy(other)))
    }

    fn candidates(&self) -> Vec<Candidate<Claim>> {
        let known = self.known.borrow();
        let preferred = &self.config.prefer_cidrs;
        let candidates = known.endpoints.iter().map(|endpoint| Candidate {
            endpoint: endpoint.claim(),
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

    fn vanished(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Endpoint>>> {
        let mut vanished = self.vanished.lock().unwrap_or_else(PoisonError::into_inner);
        vanished.retain(|endpoint| endpoint.is_in_use());
        vanished
    }
}
