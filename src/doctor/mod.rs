//! Walks the path to a gateway as a connection does, and tells which step of it is broken.
//!
//! # Layout
//!
//! | file | holds |
//! | --- | --- |
//! | `finding`, `report` | what a check has found, and how it is told |
//! | `case` | one upstream, and what is known of it when its checks begin |
//! | `host` | open files, keepalive, the clock |
//! | `listen` | ports, what is shown there, the admin endpoint |
//! | `name`, `answers` | what the name tells, what DNS servers are asked, and what their answers mean |
//! | `journey` | the connections: to each address one, as far as it gets |
//! | `address`, `greeting`, `tls`, `login` | what they have met at each step |
//! | `plugin` | by which plugin accounts are let in |
//! | `hyperdrive` | what Cloudflare's Hyperdrive would say of it |
//! | `aws`, `http` | where this host is, if it is Amazon's |
//!
//! # Time
//!
//! Everything must have been said `WHOLE` after the beginning: whoever waits takes what is left, if
//! that is less than its own patience. Upstreams are looked at at the same time, and so are the
//! addresses of each; what they find is told in the order of the path.

mod address;
mod answers;
#[cfg(test)]
mod answers_tests;
mod aws;
mod case;
mod finding;
mod greeting;
mod host;
mod http;
mod hyperdrive;
mod journey;
mod listen;
mod login;
mod name;
mod plugin;
mod report;
mod tls;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::config::{self, Config, ConfigError, Overrides, Raw, Source};
use crate::mysql::login::Login;
use crate::net::socket;
use crate::tls::TlsError;
use crate::tls::look::Look;
use crate::upstream::plan::Plan;
use case::{Case, Deadline};
pub use finding::{Finding, Status};
use listen::Entrance;
pub use report::{Lines, Screen, json, overall};

/// Time for all checks together.
const WHOLE: Duration = Duration::from_secs(24);
/// What may still come then: words of those who were just told that the time is up, and farewells.
const GRACE: Duration = Duration::from_secs(4);

/// What is looked at, and by whom.
#[derive(Debug)]
pub struct Doctor {
    config: Config,
    /// One for each upstream, in their order.
    looks: Vec<Look>,
    login: Option<Login>,
    metadata: Option<SocketAddr>,
}

/// Why nothing can be looked at.
#[derive(Debug, Error)]
pub enum DoctorError {
    /// A flag or a setting cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file that an upstream's TLS needs is of no use.
    #[error("[upstream.{upstream}]")]
    Tls {
        /// The upstream.
        upstream: String,
        /// What is wrong.
        source: Box<TlsError>,
    },
    /// This kernel has no such congestion control.
    #[error("congestion_control is `{name}`, which this host does not allow")]
    CongestionControl {
        /// The setting.
        name: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl DoctorError {
    /// What may help.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Tls { source, .. } => source.hint(),
            Self::CongestionControl { .. } => {
                Some("sysctl net.ipv4.tcp_allowed_congestion_control lists those that it allows")
            }
            Self::Config(_) => None,
        }
    }
}

impl Doctor {
    /// Takes what `run` would run on, and the flags of `doctor`'s own.
    pub fn new(config: Config, given: &Overrides) -> Result<Self, DoctorError> {
        let text = |text: &str| Ok(text.to_owned());
        let user = given.optional("user", text)?;
        let password = match &user {
            Some(_) => given.password()?,
            None => None,
        };
        let database = given.optional("database", text)?;
        if let (None, Some(key)) = (&user, first_flag(given, &["password_file", "database"])) {
            let hint = "--user NAME, and on TiDB Cloud with its prefix";
            return Err(given.refuse(key, "of no use without a user", hint).into());
        }
        let login = user.map(|user| Login {
            user,
            password: password.unwrap_or_default(),
            database,
            program: "tidegate doctor",
        });
        if let Some(name) = &config.tcp.congestion_control {
            socket::try_congestion_control(name)
                .map_err(|source| DoctorError::CongestionControl { name: name.clone(), source })?;
        }
        let look = |upstream: &config::Upstream| {
            Look::new(&upstream.tls, &upstream.gateway.host).map_err(|source| DoctorError::Tls {
                upstream: upstream.name.clone(),
                source: Box::new(source),
            })
        };
        let looks = config.upstreams.iter().map(look).collect::<Result<_, _>>()?;
        let metadata = given.optional("metadata", |text| {
            text.parse().map_err(|_| "expected an IP address and a port".to_owned())
        })?;
        Ok(Self { config, looks, login, metadata })
    }

    /// The gateways that are looked at.
    pub fn gateways(&self) -> Vec<String> {
        let upstreams = &self.config.upstreams;
        let shown = |upstream: &config::Upstream| match upstreams.len() {
            1 => upstream.gateway.to_string(),
            _ => format!("{} ({})", upstream.name, upstream.gateway),
        };
        upstreams.iter().map(shown).collect()
    }

    /// Looks at everything, and tells each finding in the order of the path. Where that fails, the checks
    /// come to their end all the same: connections that are cut are counted by servers.
    pub async fn examine<E>(
        self,
        mut tell: impl FnMut(&Finding) -> Result<(), E>,
    ) -> Result<Vec<Finding>, E> {
        let Self { config, looks, login, metadata } = self;
        let deadline = Deadline::after(WHOLE);
        let instance = Arc::new(aws::Instance::find(metadata, deadline));
        let entrances: Vec<_> = config.listeners.iter().map(Entrance::of).collect();
        let (sender, receiver) = mpsc::unbounded_channel();
        let host =
            host::examine(config.clone(), entrances.clone(), instance.clone(), deadline, sender);
        let mut parts = vec![(receiver, tokio::spawn(host))];
        let mut plans = Vec::new();
        for (upstream, look) in config.upstreams.iter().zip(looks) {
            let (sender, receiver) = mpsc::unbounded_channel();
            let plan = Plan::of(&upstream.gateway);
            plans.push((upstream.name.clone(), plan.clone()));
            let is_its = |entrance: &&Arc<Entrance>| entrance.listener.upstream == upstream.name;
            let case = Case {
                upstream: upstream.clone(),
                entrances: entrances.iter().filter(is_its).cloned().collect(),
                plan,
                tcp: config.tcp.clone(),
                nameservers: config.nameservers.clone(),
                look,
                login: login.clone(),
                instance: instance.clone(),
                deadline,
                findings: sender,
                broken: Mutex::new(None),
                tasks: TaskTracker::new(),
            };
            parts.push((receiver, tokio::spawn(async move { case.examine().await })));
        }
        let mut all = Vec::new();
        let mut told = Ok(());
        let mut tell = |finding: Finding, all: &mut Vec<Finding>| {
            if told.is_ok() {
                told = tell(&finding);
            }
            all.push(finding);
        };
        for (mut part, task) in parts {
            // Whoever has hung or panicked has said what it found before.
            let end = deadline.end() + GRACE;
            while let Ok(Some(finding)) = timeout_at(end, part.recv()).await {
                tell(finding, &mut all);
            }
            if !matches!(timeout_at(end, task).await, Ok(Ok(()))) {
                tell(unfinished(), &mut all);
            }
        }
        for finding in aws::examine(&instance, &plans, &all).await {
            tell(finding, &mut all);
        }
        told.map(|()| all)
    }
}

/// What was not looked at may be broken.
fn unfinished() -> Finding {
    Finding::fail("doctor.checks", "unfinished", "not all checks came to their end")
        .likely(
            "steps that each took very long, a host too busy to look, or a fault of tidegate's own",
        )
        .hint("try again; if it stays so, report it with all of the above")
}

/// A variable may be meant for other commands.
fn first_flag(given: &Overrides, keys: &[&'static str]) -> Option<&'static str> {
    let is_flag = |raw: &Raw| matches!(raw.source, Source::Flag(_));
    keys.iter().copied().find(|key| given.0.get(*key).is_some_and(is_flag))
}

/// How long something took, for people.
fn shown(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    match ms {
        ms if ms < 1.0 => format!("{ms:.2} ms"),
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 10_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}

/// Now, for measuring.
fn now() -> Instant {
    Instant::now()
}
