//! The composition root: the only place that sees every room.
//!
//! `Config -> App::build -> App::run`. Data threads carry the sessions, each a `current_thread`
//! runtime with listening sockets of its own; the control runtime, on which [`App::run`] is
//! polled, carries the resolvers, the admin endpoint, reloads and the drain.
//!
//! A configuration is immutable: a reload makes new proxies and upstreams of the next one, which
//! take over the addresses, the counts and what is known of the gateways. Sessions keep theirs.

mod bindings;
mod error;
mod preflight;
mod reload;
mod threads;

use std::mem::take;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use crate::admin::{Admin, DeepCheck, Parts, View};
use crate::config::{self, Config, Protocol};
use crate::drain::{Drain, Phase};
use crate::metrics::Metrics;
use crate::net::address::Address;
use crate::net::descriptors;
use crate::net::listener::{Listener, Socket};
use crate::pool::{Places, Pool};
use crate::proxy::{Limits, Proxy, SealingKey};
use crate::systemd::{self, Inherited};
use crate::upstream::Upstream;
use crate::{log, relay};
use bindings::{Binding, adopt, bind_all, bind_as_passed, open};
use threads::{DataThread, ToThread, Work, watch_over};

pub use error::{BuildError, RunError};
pub use preflight::{Preflight, preflight};

/// Time for sessions that were told to close to be gone.
const CLOSING: Duration = Duration::from_secs(5);
/// The part of `drain_timeout` in which idle sessions are closed, and how long it is at the most.
const RETIRING_SHARE: u32 = 3;
const LONGEST_RETIRING: Duration = Duration::from_secs(5);
/// Descriptors that are no session's: standard streams, log, admin, resolvers, look-ups.
const OWN_DESCRIPTORS: usize = 64;
/// Those of a data thread: its reactor, listening sockets, the spare one.
const OWN_DESCRIPTORS_PER_THREAD: usize = 16;

/// A bridge whose sockets are bound.
pub struct App {
    config: Config,
    drain: Drain,
    log: log::Control,
    metrics: Arc<Metrics>,
    limits: Arc<Limits>,
    /// Warm connections of all pools.
    places: Arc<Places>,
    sealing_key: SealingKey,
    pools: Vec<Arc<Pool>>,
    /// Limit of open files; `None`: any number.
    descriptors: Option<u64>,
    /// Until it runs.
    admin_socket: Option<Socket>,
    admin_address: SocketAddr,
    /// What the service manager passed. Kept, as a listener that a reload removes may come back.
    passed: Vec<Inherited>,
    /// What is served at the time; the admin endpoint looks at it.
    view: watch::Sender<Arc<View>>,
    bindings: Vec<Binding>,
    /// The way to each data thread.
    threads: Vec<mpsc::UnboundedSender<ToThread>>,
    /// The same, until they begin.
    waiting: Vec<DataThread>,
    /// How often the threads look at their sessions.
    periods: watch::Sender<Duration>,
    /// The tasks that keep the upstreams resolved, and whose they are.
    resolvers: JoinSet<()>,
    resolving: Vec<(Arc<Upstream>, AbortHandle)>,
}

impl App {
    /// Binds everything that was not `inherited` and wires the rooms together; nothing is served
    /// yet, but the kernel already queues connections.
    pub fn build(
        mut config: Config,
        inherited: Vec<Inherited>,
        drain: Drain,
        log: log::Control,
    ) -> Result<Self, BuildError> {
        let descriptors = descriptors::raise_limit();
        let found = preflight(&config)?;
        found.tell(&config);
        bind_as_passed(&mut config.listeners, &inherited)?;
        let mut bindings = Vec::new();
        adopt(&inherited, &config.listeners, config.threads, &config.tcp, &mut bindings)?;
        let bound = bind_all(&config.listeners, config.threads, &config.tcp, &mut bindings)?;
        let (admin_address, mut admin_socket) = open(config.admin, 1, &config.tcp, false)?;
        let (threads, waiting) = threads::start(config.threads).map_err(BuildError::Thread)?;
        let mut app = Self {
            drain,
            log,
            metrics: Arc::new(Metrics::new()),
            limits: Limits::new(most_connections(&config, descriptors)),
            places: Arc::default(),
            sealing_key: SealingKey::default(),
            pools: Vec::new(),
            descriptors,
            admin_socket: admin_socket.pop(),
            admin_address,
            passed: inherited,
            view: watch::Sender::default(),
            bindings: Vec::new(),
            threads,
            waiting,
            periods: watch::Sender::new(period(&config)),
            resolvers: JoinSet::new(),
            resolving: Vec::new(),
            config,
        };
        app.install(bound, found);
        Ok(app)
    }

    /// The addresses that were bound, in the order of the configuration.
    pub fn listening(&self) -> Vec<Address> {
        self.bindings.iter().map(|one| one.address().clone()).collect()
    }

    /// Where the admin endpoint is.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// What `tidegate run` prints on stdout once it serves.
    pub fn ready_line(&self) -> String {
        let view = self.view.borrow();
        let forwards: Vec<_> = view.proxies.iter().map(|proxy| forward(proxy)).collect();
        let (forwards, admin) = (forwards.join(", "), self.admin_address);
        format!("tidegate: listening on {forwards}; admin on http://{admin}")
    }

    /// Serves until the drain has begun and everybody is gone. `reloads` are configurations to go on
    /// with, or why there is none.
    pub async fn run(
        mut self,
        mut reloads: mpsc::Receiver<Result<Config, String>>,
    ) -> Result<(), RunError> {
        let mut runtimes = vec![Handle::current()];
        let (panics, mut panicked) = mpsc::unbounded_channel();
        for thread in take(&mut self.waiting) {
            runtimes.push(thread.runtime.clone());
            thread.begin(Work {
                drain: self.drain.clone(),
                member: self.drain.join(),
                periods: self.periods.subscribe(),
                repeats: self.log.repeats().clone(),
                panics: panics.clone(),
            });
        }
        let log = self.log.clone();
        let admin = Admin::new(Parts {
            metrics: self.metrics.clone(),
            log_lines_dropped: Box::new(move || log.dropped()),
            drain: self.drain.clone(),
            runtimes,
            view: self.view.subscribe(),
            deep_check: Box::new(deep_check),
        });
        let repeats = self.log.repeats().clone();
        let mut control = JoinSet::new();
        if let Some(socket) = self.admin_socket.take() {
            let listener = Listener::new("admin", socket, &self.config.tcp, false, &repeats)
                .map_err(RunError::Socket)?;
            control.spawn(admin.serve(listener));
        }
        control.spawn(async move { repeats.keep_telling().await });
        self.resolve();
        info!(max_connections = most_connections(&self.config, self.descriptors), "serving");
        systemd::ready(&self.ready_line());
        let watched = watch_over(self.threads.clone());
        tokio::pin!(watched);
        let mut result = Ok(());
        loop {
            tokio::select! {
                never = &mut watched => match never {},
                () = self.drain.reached(Phase::Leaving) => break,
                Some(config) = reloads.recv() => {
                    systemd::reloading();
                    self.reload(config);
                    systemd::ready(&self.ready_line());
                }
                Some(()) = panicked.recv() => result = self.end_for_a_panic(),
                Some(ended) = control.join_next() => if is_panic(&ended) {
                    result = self.end_for_a_panic();
                },
                Some(ended) = self.resolvers.join_next() => if is_panic(&ended) {
                    result = self.end_for_a_panic();
                },
            }
        }
        self.end().await;
        result
    }

    /// Without it the bridge would go on with old addresses, without probes, or deaf on one thread.
    fn end_for_a_panic(&self) -> Result<(), RunError> {
        error!("a task that the bridge cannot do without panicked: draining");
        self.drain.begin();
        Err(RunError::Panicked)
    }

    /// From the beginning of the drain until everybody is gone. Idle sessions are closed in the last
    /// part of `drain_timeout`, what is left when it has passed.
    async fn end(&self) {
        let Config { drain_grace, drain_timeout, .. } = self.config;
        systemd::stopping("draining");
        if !drain_grace.is_zero() {
            info!(?drain_grace, "not ready any more, still accepting");
            sleep(drain_grace).await;
        }
        self.drain.advance(Phase::Draining);
        info!(open = self.open(), limit = ?drain_timeout, "draining");
        let retiring = (drain_timeout / RETIRING_SHARE).min(LONGEST_RETIRING);
        if timeout(drain_timeout - retiring, self.drain.empty()).await.is_err() {
            self.drain.advance(Phase::Retiring);
            if timeout(retiring, self.drain.empty()).await.is_err() {
                warn!(open = self.open(), "the drain timeout has passed: closing what is left");
            }
        }
        self.drain.close();
        if timeout(CLOSING, self.drain.empty()).await.is_err() {
            warn!("some sessions did not end");
        }
        info!("drained");
    }

    fn open(&self) -> i64 {
        self.metrics.open_connections()
    }
}

fn is_panic(ended: &Result<(), JoinError>) -> bool {
    ended.as_ref().is_err_and(JoinError::is_panic)
}

/// `127.0.0.1:4000 -> gateway:4000 (pool off)`
fn forward(proxy: &Proxy) -> String {
    let addresses: Vec<_> = proxy.addresses.iter().map(ToString::to_string).collect();
    let (gateway, pool) = (proxy.upstream.gateway(), proxy.config.pool.as_str());
    format!("{} -> {gateway} (pool {pool})", addresses.join(","))
}

/// Dials every gateway, as its listener would.
fn deep_check(view: Arc<View>) -> DeepCheck {
    Box::pin(async move {
        let mut answers = Vec::new();
        for upstream in &view.upstreams {
            let mut users =
                view.proxies.iter().filter(|proxy| Arc::ptr_eq(&proxy.upstream, upstream));
            let protocol = users.next().map_or(Protocol::Mysql, |proxy| proxy.config.protocol);
            match upstream.connect(protocol, None).await {
                Ok(connected) => {
                    let address = connected.in_use.endpoint().address;
                    answers.push(format!("{} answers at {address}", upstream.gateway()));
                    if protocol == Protocol::Mysql {
                        // It fails only by a panic, which the panic hook has told.
                        let _ = upstream.take_leave(connected.stream, Vec::new()).await;
                    }
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(answers.join("; "))
    })
}

/// How often sessions are looked at.
fn period(config: &Config) -> Duration {
    let by_the_second = config
        .listeners
        .iter()
        .any(|listener| !listener.idle_timeout.is_zero() || !listener.max_lifetime.is_zero())
        || config.upstreams.iter().any(|one| !one.close_vanished_after.is_zero());
    relay::period(config.stall_timeout, by_the_second)
}

/// Connections that there may be in all: as it is configured, or as many as the descriptors are enough
/// for.
fn most_connections(config: &Config, descriptors: Option<u64>) -> usize {
    config.max_connections.unwrap_or_else(|| sessions_within(config, descriptors))
}

/// As many as so many descriptors are enough for, two for each, beside those of the process.
fn sessions_within(config: &Config, descriptors: Option<u64>) -> usize {
    let Some(descriptors) = descriptors else { return usize::MAX };
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let is_warm = config.listeners.iter().any(|one| one.pool == config::Pool::Warm);
    let own = OWN_DESCRIPTORS
        + config.threads * OWN_DESCRIPTORS_PER_THREAD
        + 2 * relay::MOST_PIPES
        + if is_warm { config.warm_max } else { 0 };
    // With a low limit pipes are what gives way: everything is copied then.
    (descriptors.saturating_sub(own).max(descriptors / 2) / 2).max(1)
}
