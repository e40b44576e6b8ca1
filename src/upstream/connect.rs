//! A way to the gateway: which endpoints are tried for a connection, and in what order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::dial::Dialler;
use super::endpoint::Endpoint;
use super::health::Standing;
use super::pick::{self, Candidate};
use super::{Connected, Unreachable, Upstream};
use crate::config::{Protocol, SendProxyProtocol};
use crate::net::proxy_protocol::Addresses;

impl Upstream {
    /// Connects to the gateway: its endpoints in order, staggered, until one has answered.
    ///
    /// With `Protocol::Mysql` an endpoint has answered when the first byte of its greeting is
    /// there to be read: a load balancer without a target accepts and then closes. So the next one
    /// is tried before the client has seen a byte. Servers that read a PROXY header are told of the
    /// `client`; without one, that the bridge itself connects.
    pub async fn connect(
        &self,
        protocol: Protocol,
        client: Option<Addresses>,
    ) -> Result<Connected, Unreachable> {
        let deadline = Instant::now() + self.config.dial_deadline;
        let endpoints = self.ordered(deadline).await?;
        let dialler = Dialler {
            tcp: self.tcp.clone(),
            protocol,
            send_proxy_protocol: self.config.send_proxy_protocol,
            client,
            connect_timeout: self.config.connect_timeout,
            deadline,
            metrics: self.metrics.clone(),
            farewells: self.farewells.clone(),
        };
        match dialler.race(endpoints).await {
            Ok((stream, endpoint)) => Ok(Connected { stream, in_use: endpoint.lend() }),
            Err(failures) => Err(Unreachable::NoAnswer {
                gateway: self.config.gateway.to_string(),
                failures: failures
                    .into_iter()
                    .map(|(endpoint, error)| (endpoint.address, error))
                    .collect(),
            }),
        }
    }

    /// Whether its servers are told of clients.
    pub fn is_told_of_clients(&self) -> bool {
        self.config.send_proxy_protocol != SendProxyProtocol::Off
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
}
