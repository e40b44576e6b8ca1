//! The demo's parts, set up on addresses that are free.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::backend::Backend;
use super::dns::DnsServer;
use super::{DemoError, DemoOptions};
use crate::app::{App, RunError};
use crate::config::{Bind, Gateway};
use crate::drain::Drain;
use crate::log;
use crate::net::address::Address;

/// TTL of the gateway's addresses, in seconds.
pub const TTL: u32 = 1;
/// The backends' names, which are their answer to `@@hostname`; the last is not in DNS at first.
pub const NAMES: [&str; 3] = ["blue", "green", "amber"];
/// Their addresses: one port, as a gateway has it, on three hosts.
const HOSTS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3), Ipv4Addr::new(127, 0, 0, 4)];
/// How many ports are tried until one is free on all three.
const ATTEMPTS: usize = 32;

/// Everything that runs during the demo.
pub struct Stage {
    pub dns: DnsServer,
    /// One for each of [`NAMES`]; `None` once it has been killed.
    pub backends: [Option<Backend>; 3],
    /// What the bridge forwards to.
    pub gateway: Gateway,
    /// Where the bridge listens.
    pub bridge: SocketAddr,
    /// Where its admin endpoints are.
    pub admin: SocketAddr,
    serving: JoinHandle<Result<(), RunError>>,
}

impl Stage {
    /// Starts every part on the current runtime.
    pub async fn set(
        options: DemoOptions,
        drain: Drain,
        log: log::Control,
    ) -> Result<Self, DemoError> {
        let part = |part| move |source| DemoError::Part { part, source };
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let dns = DnsServer::start(any_port).map_err(part("DNS server"))?;
        let backends = backends().await.map_err(part("backends"))?;

        let mut config = super::config()?;
        let address = |wanted| if options.once || taken(wanted) { any_port } else { wanted };
        config.admin = address(config.admin);
        config.nameservers = vec![dns.address()];
        for listener in &mut config.listeners {
            let wanted = listener.bind.iter().flat_map(|bind| bind.addresses());
            listener.bind = wanted.map(|wanted| Bind::Address(address(wanted))).collect();
        }
        // `config/demo.toml` has one upstream, and a config without any is refused.
        let upstream = &mut config.upstreams[0];
        upstream.gateway.port = backends[0].address().port();
        let gateway = upstream.gateway.clone();

        let backends = backends.map(Some);
        dns.set(&gateway.host, &[HOSTS[0].into(), HOSTS[1].into()], TTL);
        let app = App::build(config, Vec::new(), drain, log)?;
        let tcp = |address: &Address| match address {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        };
        let bridge = app.listening().iter().find_map(tcp).expect("config/demo.toml binds a port");
        let admin = app.admin_address();
        let serving = tokio::spawn(app.run(mpsc::channel(1).1));
        Ok(Self { dns, backends, gateway, bridge, admin, serving })
    }

    /// From now on DNS names the third backend and no other.
    pub fn move_gateway(&self) {
        self.dns.set(&self.gateway.host, &[HOSTS[2].into()], TTL);
    }

    /// Where the backend of that number listens, dead or alive.
    pub fn backend_address(&self, number: usize) -> SocketAddr {
        SocketAddr::from((HOSTS[number], self.gateway.port))
    }

    /// Waits until the bridge has drained.
    pub async fn end(self) -> Result<(), DemoError> {
        Ok(self.serving.await.map_err(DemoError::Panicked)??)
    }
}

/// Starts the three backends at one port that is free on all their hosts.
async fn backends() -> io::Result<[Backend; 3]> {
    let mut attempt = 1;
    loop {
        let first = Backend::start((HOSTS[0], 0).into(), NAMES[0]).await?;
        let port = first.address().port();
        let second = Backend::start((HOSTS[1], port).into(), NAMES[1]).await;
        let third = Backend::start((HOSTS[2], port).into(), NAMES[2]).await;
        match (second, third) {
            (Ok(second), Ok(third)) => return Ok([first, second, third]),
            (Err(error), _) | (_, Err(error)) if attempt == ATTEMPTS => return Err(error),
            _ => attempt += 1,
        }
    }
}

/// Whether somebody listens at `address` now. Who binds it between this look and the bridge's own
/// bind makes the demo fail, which says so.
fn taken(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_err()
}
