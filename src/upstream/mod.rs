//! Where a listener forwards to: a gateway's name, the addresses behind it, a way to one of them.
//!
//! Background loops: [`Upstream::keep_resolved`], one per upstream, on the control runtime.

mod resolver;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::config::{self, Protocol, Tcp};
use crate::log::Chain;
use crate::metrics::UpstreamMetrics;
use crate::net::connect::{ConnectError, connect, greeted};
use resolver::{Answer, Family, LookupError, Resolver};

/// Pause after a failed look-up; doubled up to [`LONGEST_RETRY`] while it goes on failing.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// Failed addresses that an error names; a client shows about 500 bytes of it.
const NAMED_FAILURES: usize = 3;

/// One `[upstream.NAME]` at work; shared by all threads.
#[derive(Debug)]
pub struct Upstream {
    config: config::Upstream,
    tcp: Tcp,
    metrics: UpstreamMetrics,
    known: watch::Sender<Known>,
    last_answered: Mutex<Option<SocketAddr>>,
}

/// What is known of the gateway's name.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The last good answer; never emptied by a failed or an empty one.
    addresses: Vec<SocketAddr>,
    /// When it is asked again.
    valid_until: Option<Instant>,
    /// Why the last look-up failed, if it did.
    error: Option<String>,
}

/// Why no address of a gateway could be had.
#[derive(Debug, Error)]
pub enum Unreachable {
    /// No address is known.
    #[error("cannot reach {gateway}: {cause}")]
    Unresolved {
        /// The gateway, with its port.
        gateway: String,
        /// What the resolver said.
        cause: String,
    },
    /// Every address was tried, or the time was up.
    #[error("cannot reach {gateway}: {}", Failures(.failures))]
    NoAnswer {
        /// The gateway, with its port.
        gateway: String,
        /// The addresses in the order they were tried.
        failures: Vec<(SocketAddr, ConnectError)>,
    },
}

/// The state of an upstream at one moment, for the status page.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Snapshot {
    /// Its name in the configuration.
    pub name: String,
    /// Its gateway.
    pub gateway: String,
    /// The addresses in use.
    pub addresses: Vec<SocketAddr>,
    /// Seconds until the name is looked up again; `None` for a literal.
    pub ttl_left_seconds: Option<u64>,
    /// Why the last look-up failed, if it did.
    pub dns_error: Option<String>,
}

impl Unreachable {
    /// Whether the bridge itself is to blame: it lacks descriptors, ports or memory.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unresolved { .. } => false,
            Self::NoAnswer { failures, .. } => {
                failures.iter().any(|(_, error)| matches!(error, ConnectError::Local(_)))
            }
        }
    }
}

impl Upstream {
    /// An upstream; a literal is known at once, a name after [`Self::keep_resolved`] has asked.
    pub fn new(config: config::Upstream, tcp: Tcp, metrics: UpstreamMetrics) -> Self {
        let addresses: Vec<_> = config.gateway.literal().into_iter().collect();
        metrics.endpoints.set(addresses.len() as i64);
        let known = watch::Sender::new(Known { addresses, ..Known::default() });
        Self { config, tcp, metrics, known, last_answered: Mutex::new(None) }
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
        !self.known.borrow().addresses.is_empty()
    }

    /// The state now.
    pub fn snapshot(&self) -> Snapshot {
        let known = self.known.borrow();
        let left = |until: Instant| until.saturating_duration_since(Instant::now()).as_secs();
        Snapshot {
            name: self.config.name.clone(),
            gateway: self.config.gateway.to_string(),
            addresses: known.addresses.clone(),
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
            let result = resolver.lookup().await;
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
                    retry = (retry * 2).min(LONGEST_RETRY);
                    pause
                }
            };
            sleep(pause).await;
        }
    }

    /// Takes an answer over and tells how long it holds. A family that could not be asked keeps
    /// the addresses that are known of it, and is asked again soon.
    fn learn(&self, answer: Answer) -> Duration {
        let port = self.config.gateway.port;
        let ttl = match answer.missing {
            None => answer.ttl.clamp(self.config.min_ttl, self.config.max_ttl),
            Some(_) => self.config.min_ttl,
        };
        self.known.send_modify(|known| {
            let kept = known.addresses.iter().map(SocketAddr::ip);
            let kept = kept.filter(|ip| Some(Family::of(*ip)) == answer.missing);
            let mut ips: Vec<IpAddr> = answer.addresses.iter().copied().chain(kept).collect();
            ips.sort_by_key(|ip| !ip.is_ipv4());
            let addresses: Vec<_> = ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
            self.metrics.endpoints.set(addresses.len() as i64);
            if known.addresses != addresses {
                let upstream = &self.config.name;
                info!(%upstream, host = self.config.gateway.host, ?addresses, ?ttl, "resolved");
            } else if known.error.is_some() {
                info!(upstream = self.config.name, "the name resolves again");
            }
            *known = Known { addresses, valid_until: Some(Instant::now() + ttl), error: None };
        });
        ttl
    }

    fn miss(&self, error: &LookupError, retry: Duration) {
        let cause = Chain(error).to_string();
        self.known.send_modify(|known| {
            if known.error.as_ref() != Some(&cause) {
                let kept = known.addresses.len();
                warn!(upstream = self.config.name, cause, kept, "cannot resolve the gateway");
            }
            known.error = Some(cause);
            known.valid_until = Some(Instant::now() + retry);
        });
    }

    /// Connects to the gateway: the addresses in turn, the one that answered last first.
    ///
    /// With `Protocol::Mysql` an address has answered when the first byte of its greeting is
    /// there to be read: a load balancer without a target accepts and then closes. So the next one
    /// is tried before the client has seen a byte.
    pub async fn connect(
        &self,
        protocol: Protocol,
    ) -> Result<(TcpStream, SocketAddr), Unreachable> {
        let deadline = Instant::now() + self.config.dial_deadline;
        let addresses = self.addresses(deadline).await?;
        let mut failures = Vec::new();
        for (at, address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // A server may take its time for a greeting; it has all there is when no other is left.
            let patience = match at + 1 == addresses.len() {
                true => left,
                false => left.min(self.config.connect_timeout),
            };
            match self
                .dial(*address, protocol, left.min(self.config.connect_timeout), patience)
                .await
            {
                Ok(stream) => {
                    let mut last =
                        self.last_answered.lock().unwrap_or_else(PoisonError::into_inner);
                    *last = Some(*address);
                    return Ok((stream, *address));
                }
                Err(error) => {
                    self.metrics.dial_failed(error.as_str());
                    failures.push((*address, error));
                }
            }
        }
        Err(Unreachable::NoAnswer { gateway: self.config.gateway.to_string(), failures })
    }

    async fn dial(
        &self,
        address: SocketAddr,
        protocol: Protocol,
        connect_within: Duration,
        answer_within: Duration,
    ) -> Result<TcpStream, ConnectError> {
        let started = Instant::now();
        let stream = connect(address, &self.tcp, connect_within).await?;
        if protocol == Protocol::Mysql {
            greeted(&stream, answer_within.saturating_sub(started.elapsed())).await?;
        }
        self.metrics.dial.observe(started.elapsed().as_secs_f64());
        Ok(stream)
    }

    /// The addresses in the order to try them. Waits for the first look-up, not for later ones.
    async fn addresses(&self, deadline: Instant) -> Result<Vec<SocketAddr>, Unreachable> {
        let mut receiver = self.known.subscribe();
        let settled =
            receiver.wait_for(|known| !known.addresses.is_empty() || known.error.is_some());
        let left = deadline.saturating_duration_since(Instant::now());
        let unresolved = |cause: &str| Unreachable::Unresolved {
            gateway: self.config.gateway.to_string(),
            cause: cause.to_owned(),
        };
        let mut addresses = match timeout(left, settled).await {
            Ok(Ok(known)) if !known.addresses.is_empty() => known.addresses.clone(),
            Ok(Ok(known)) => return Err(unresolved(known.error.as_deref().unwrap_or_default())),
            // The sender lives as long as `self`.
            Ok(Err(_)) | Err(_) => return Err(unresolved("no DNS server has answered yet")),
        };
        let last = *self.last_answered.lock().unwrap_or_else(PoisonError::into_inner);
        // Stable: the others keep the order of the answer.
        addresses.sort_by_key(|address| Some(*address) != last);
        Ok(addresses)
    }
}

struct Failures<'f>(&'f [(SocketAddr, ConnectError)]);

impl fmt::Display for Failures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (address, error)) in self.0.iter().take(NAMED_FAILURES).enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{address}: {error}")?;
        }
        match self.0.len().saturating_sub(NAMED_FAILURES) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn a_family_that_could_not_be_asked_keeps_its_addresses_and_is_asked_again_soon() {
        let upstream = upstream();
        let long = Duration::from_secs(120);
        let answer = |ips: &[&str], missing| Answer {
            addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            ttl: long,
            missing,
        };
        let known = || -> Vec<String> {
            upstream.snapshot().addresses.iter().map(|address| address.ip().to_string()).collect()
        };

        assert_eq!(upstream.learn(answer(&["10.0.0.1", "fd00::1"], None)), long);
        let ttl = upstream.learn(answer(&["fd00::2"], Some(Family::V4)));
        assert_eq!(ttl, upstream.config.min_ttl);
        assert_eq!(known(), ["10.0.0.1", "fd00::2"]);

        upstream.learn(answer(&["fd00::3"], None));
        assert_eq!(known(), ["fd00::3"], "an answer that has none is an answer");
    }

    fn upstream() -> Upstream {
        let config = config::parse("[upstream.gw]\ngateway = \"gw.test\"\n", "test").unwrap();
        let metrics = Metrics::new().upstream("gw");
        Upstream::new(config.upstreams[0].clone(), config.tcp, metrics)
    }
}
