//! The composition root: the only place that sees every room.
//!
//! `Config -> App::build -> App::run`. Data threads carry the sessions, each a `current_thread`
//! runtime with listening sockets of its own; the control runtime, on which [`App::run`] is
//! polled, carries the resolvers, the admin endpoint and the drain.

mod error;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, error, info, warn};

use crate::admin::{Admin, DeepCheck, Parts};
use crate::config::{Config, Gateway, Listener as ListenerConfig, Protocol, Tcp};
use crate::drain::{Drain, Phase};
use crate::metrics::Metrics;
use crate::net::listener::{self, Listener};
use crate::net::socket;
use crate::proxy::Proxy;
use crate::relay;
use crate::upstream::Upstream;

pub use error::{BuildError, RunError};

/// Time for sessions that were told to close to be gone.
const CLOSING: Duration = Duration::from_secs(5);

/// A bridge whose sockets are bound.
pub struct App {
    config: Config,
    drain: Drain,
    admin: Admin,
    admin_socket: std::net::TcpListener,
    admin_address: SocketAddr,
    proxies: Vec<Arc<Proxy>>,
    upstreams: Vec<Arc<Upstream>>,
    ready_line: String,
    addresses: Vec<SocketAddr>,
    /// For each data thread its sockets, each with the proxy that it feeds.
    sockets: Vec<Vec<(Arc<Proxy>, std::net::TcpListener)>>,
}

/// Looks at what a configuration asks of this host, and returns the admin token, if any.
pub fn preflight(config: &Config) -> Result<Option<String>, BuildError> {
    if let Some(name) = &config.tcp.congestion_control {
        socket::try_congestion_control(name)
            .map_err(|source| BuildError::CongestionControl { name: name.clone(), source })?;
    }
    config.admin_token_file.clone().map(read_token).transpose()
}

impl App {
    /// Binds everything and wires the rooms together; nothing is served yet, but the kernel
    /// already queues connections. `log_lines_dropped` feeds a metric.
    pub fn build(
        config: Config,
        drain: Drain,
        log_lines_dropped: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Result<Self, BuildError> {
        raise_file_limit();
        let token = preflight(&config)?;
        let metrics = Arc::new(Metrics::new());
        let upstreams: Vec<Arc<Upstream>> = config
            .upstreams
            .iter()
            .map(|upstream| {
                let handles = metrics.upstream(&upstream.name);
                Arc::new(Upstream::new(
                    upstream.clone(),
                    config.tcp.clone(),
                    handles,
                    drain.clone(),
                ))
            })
            .collect();
        let mut proxies = Vec::new();
        let mut sockets: Vec<_> = (0..config.threads).map(|_| Vec::new()).collect();
        let mut addresses = Vec::new();
        let mut forwards = Vec::new();
        for listener in &config.listeners {
            let bound = bind_all(listener, config.threads, &config.tcp)?;
            let upstream = upstreams
                .iter()
                .find(|upstream| upstream.name() == listener.upstream)
                .expect("validation has checked that the upstream exists");
            let own: Vec<_> = bound.iter().map(|(address, _)| *address).collect();
            forwards.push(forward(&own, upstream.gateway(), listener));
            let proxy = Arc::new(Proxy {
                config: listener.clone(),
                addresses: own.clone(),
                stall_timeout: config.stall_timeout,
                splice: config.splice,
                upstream: upstream.clone(),
                metrics: metrics.listener(&listener.name, listener.pool.as_str()),
                drain: drain.clone(),
            });
            for (thread, socket) in
                bound.into_iter().flat_map(|(_, all)| all.into_iter().enumerate())
            {
                sockets[thread].push((proxy.clone(), socket));
            }
            proxies.push(proxy);
            addresses.extend(own);
        }
        let (admin_address, mut admin_socket) = bind(config.admin, 1, &config.tcp)?;
        let admin = Admin::new(Parts {
            metrics,
            log_lines_dropped: Box::new(log_lines_dropped),
            drain: drain.clone(),
            proxies: proxies.clone(),
            upstreams: upstreams.clone(),
            deep_check: deep_check(&config, &upstreams),
            token,
        });
        Ok(Self {
            ready_line: format!(
                "tidegate: listening on {}; admin on http://{admin_address}",
                forwards.join(", ")
            ),
            admin,
            admin_socket: admin_socket.remove(0),
            admin_address,
            config,
            drain,
            proxies,
            upstreams,
            addresses,
            sockets,
        })
    }

    /// The addresses that were bound, in the order of the configuration.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where the admin endpoint is.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// What `tidegate run` prints on stdout once it serves.
    pub fn ready_line(&self) -> &str {
        &self.ready_line
    }

    /// Serves until the drain has begun and everybody is gone.
    pub async fn run(self) -> Result<(), RunError> {
        let admin_socket =
            Listener::new(self.admin_socket, &self.config.tcp).map_err(RunError::Socket)?;
        let mut control = JoinSet::new();
        control.spawn(self.admin.serve(admin_socket));
        let nameservers: Arc<[SocketAddr]> = self.config.nameservers.into();
        for upstream in self.upstreams {
            let nameservers = nameservers.clone();
            control.spawn(async move { upstream.keep_resolved(&nameservers).await });
        }
        let by_the_second =
            self.config.listeners.iter().any(|listener| {
                !listener.idle_timeout.is_zero() || !listener.max_lifetime.is_zero()
            }) || self.config.upstreams.iter().any(|one| !one.close_vanished_after.is_zero());
        for (number, sockets) in self.sockets.into_iter().enumerate() {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(RunError::Thread)?;
            let member = self.drain.join();
            let (drain, tcp) = (self.drain.clone(), self.config.tcp.clone());
            let watch = relay::look_after(drain.clone(), self.config.stall_timeout, by_the_second);
            // Not joined: `drain.empty()` below tells when its sessions are gone.
            thread::Builder::new()
                .name(format!("tidegate-{number}"))
                .spawn(move || runtime.block_on(carry(sockets, tcp, drain, member, watch)))
                .map_err(RunError::Thread)?;
        }
        let mut result = Ok(());
        loop {
            tokio::select! {
                () = self.drain.reached(Phase::Draining) => break,
                Some(ended) = control.join_next() => if ended.is_err_and(|error| error.is_panic()) {
                    // Without it the bridge would go on with old addresses or without probes.
                    error!("a control task panicked: draining");
                    result = Err(RunError::Panicked);
                    self.drain.begin();
                },
            }
        }
        let open = self.proxies.iter().map(|proxy| proxy.snapshot().open).sum::<i64>();
        info!(open, limit = ?self.config.drain_timeout, "draining");
        if timeout(self.config.drain_timeout, self.drain.empty()).await.is_err() {
            let open = self.proxies.iter().map(|proxy| proxy.snapshot().open).sum::<i64>();
            warn!(open, "the drain timeout has passed: closing what is left");
        }
        self.drain.close();
        if timeout(CLOSING, self.drain.empty()).await.is_err() {
            warn!("some sessions did not end");
        }
        info!("drained");
        result
    }
}

/// The life of a data thread: accepts until the drain, then sees its sessions off.
async fn carry(
    sockets: Vec<(Arc<Proxy>, std::net::TcpListener)>,
    tcp: Tcp,
    drain: Drain,
    member: TaskTrackerToken,
    watch: impl Future<Output = ()> + Send + 'static,
) {
    let watch = tokio::spawn(watch);
    let mut accepting = JoinSet::new();
    for (proxy, socket) in sockets {
        match Listener::new(socket, &tcp) {
            // A task of its own: a future inside block_on is polled at every wake-up.
            Ok(listener) => drop(accepting.spawn(proxy.serve(listener))),
            Err(error) => error!(%error, "cannot use a listening socket"),
        }
    }
    while let Some(ended) = accepting.join_next().await {
        if ended.is_err() {
            error!("an accept loop panicked: draining");
            drain.begin();
        }
    }
    drop(member);
    drain.reached(Phase::Closing).await;
    // Wakes the relays that are left; it ends by itself after that.
    let _ = watch.await;
    drain.empty().await;
}

fn bind(
    address: SocketAddr,
    count: usize,
    tcp: &Tcp,
) -> Result<(SocketAddr, Vec<std::net::TcpListener>), BuildError> {
    let wrong = |source| BuildError::Bind { address, source };
    let sockets = listener::bind(address, count, tcp).map_err(wrong)?;
    let bound = sockets[0].local_addr().map_err(wrong)?;
    Ok((bound, sockets))
}

/// For each address of a listener one socket per thread. Of `localhost` the IPv6 half may be
/// missing; with port 0 it gets the port of the first half.
fn bind_all(
    listener: &ListenerConfig,
    threads: usize,
    tcp: &Tcp,
) -> Result<Vec<(SocketAddr, Vec<std::net::TcpListener>)>, BuildError> {
    let mut bound: Vec<(SocketAddr, Vec<std::net::TcpListener>)> = Vec::new();
    for name in &listener.bind {
        let mut port = None;
        for mut address in name.addresses() {
            address.set_port(port.unwrap_or(address.port()));
            match bind(address, threads, tcp) {
                Err(BuildError::Bind { source, .. }) if port.is_some() && no_ipv6(&source) => {}
                result => {
                    let (address, sockets) = result?;
                    port = Some(address.port());
                    bound.push((address, sockets));
                }
            }
        }
    }
    Ok(bound)
}

fn no_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// `127.0.0.1:4000 -> gateway:4000 (pool off)`
fn forward(addresses: &[SocketAddr], gateway: &Gateway, listener: &ListenerConfig) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    format!("{} -> {gateway} (pool {})", addresses.join(","), listener.pool.as_str())
}

fn deep_check(
    config: &Config,
    upstreams: &[Arc<Upstream>],
) -> Box<dyn Fn() -> DeepCheck + Send + Sync> {
    let checks: Vec<(Arc<Upstream>, Protocol)> = upstreams
        .iter()
        .zip(&config.upstreams)
        .map(|(upstream, named)| {
            let mut users =
                config.listeners.iter().filter(|listener| listener.upstream == named.name);
            let protocol = users.next().map_or(Protocol::Mysql, |listener| listener.protocol);
            (upstream.clone(), protocol)
        })
        .collect();
    Box::new(move || {
        let checks = checks.clone();
        Box::pin(async move {
            let mut answers = Vec::new();
            for (upstream, protocol) in checks {
                match upstream.connect(protocol, None).await {
                    Ok(connected) => {
                        let address = connected.in_use.endpoint().address;
                        answers.push(format!("{} answers at {address}", upstream.gateway()));
                        if protocol == Protocol::Mysql {
                            upstream.take_leave(connected.stream, Vec::new()).await;
                        }
                    }
                    Err(error) => return Err(error.to_string()),
                }
            }
            Ok(answers.join("; "))
        })
    })
}

fn read_token(path: PathBuf) -> Result<String, BuildError> {
    match fs::read_to_string(&path) {
        Err(source) => Err(BuildError::Token { path, source }),
        Ok(text) if text.trim().is_empty() => Err(BuildError::EmptyToken(path)),
        Ok(text) => Ok(text.trim().to_owned()),
    }
}

/// Two descriptors a session: the soft limit of 1,024 that shells set is for select(2).
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => debug!(from = limit.current, to = limit.maximum, "open files"),
        Err(error) => warn!(%error, "cannot raise the limit of open files"),
    }
}
