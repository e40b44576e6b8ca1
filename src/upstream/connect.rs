//! One connection to the gateway: what is dialled for it, and what is told of its client.

use tokio::time::Instant;

use super::dial::Dialler;
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
            Ok((stream, endpoint)) => {
                Ok(Connected { stream, in_use: endpoint.lend(), log_in_within: None })
            }
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
}
