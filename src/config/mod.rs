//! The finished configuration: every value present, checked and typed.
//!
//! Two layers. `file` turns TOML, and `cli` turns flags and `TIDEGATE_*` variables, into raw
//! settings that remember where they were written; `validate` joins them (flags > environment >
//! file > defaults) into the [`Config`] below. Every room receives its own part of it.

mod access;
mod classes;
mod error;
mod file;
mod keys;
mod listeners;
pub mod parsers;
mod tls;
#[cfg(test)]
mod tls_tests;
mod unix;
mod upstreams;
mod validate;
#[cfg(test)]
mod validate_tests;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Serialize, Serializer};
use tracing::level_filters::LevelFilter;

pub use access::{Access, TokenError, read_token};
pub use classes::{Class, changes, keep_until_restart};
pub use error::ConfigError;
pub use file::{Overrides, Raw, Source, check_variables};
pub use tls::{ClientTls, Origination, Termination, UpstreamTls};
pub use unix::{Mode, Owner, UnixSocket};
pub use validate::{lends_warm, unused};
pub use value::{Bind, Gateway, is_public, overlap};

/// Everything a bridge runs on. `Serialize` writes it in the shape of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Config {
    /// Where the admin endpoints are served.
    pub admin: SocketAddr,
    /// File with the bearer token that state-changing admin calls need from other hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_token_file: Option<PathBuf>,
    /// Data threads, each with a runtime and listening sockets of its own.
    pub threads: usize,
    /// Connections that there may be in all; `None`: as many as there are descriptors for.
    #[serde(serialize_with = "or_auto")]
    pub max_connections: Option<usize>,
    /// Connections that may be held before their clients come, for all upstreams together.
    pub warm_max: usize,
    /// DNS servers to ask; empty: those of `/etc/resolv.conf`.
    #[serde(rename = "nameserver")]
    pub nameservers: Vec<SocketAddr>,
    /// How long connections are still accepted after SIGTERM, with readiness off.
    #[serde(serialize_with = "duration")]
    pub drain_grace: Duration,
    /// How long sessions may go on after that.
    #[serde(serialize_with = "duration")]
    pub drain_timeout: Duration,
    /// How long written bytes may stay unacknowledged before the peer counts as dead; 0: for ever.
    #[serde(serialize_with = "duration")]
    pub stall_timeout: Duration,
    /// Whether bulk goes from socket to socket inside the kernel.
    pub splice: Splice,
    /// Log lines, close records among them.
    #[serde(flatten)]
    pub log: Log,
    /// Options of every client and upstream socket.
    #[serde(flatten)]
    pub tcp: Tcp,
    /// What is listened on, in the file's order; never empty.
    #[serde(rename = "listener")]
    pub listeners: Vec<Listener>,
    /// Where it goes, by name.
    #[serde(rename = "upstream", serialize_with = "by_name")]
    pub upstreams: Vec<Upstream>,
}

/// Whether bytes may go from socket to socket without being copied into the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Splice {
    /// When there is much to move, and pipes for it are to be had.
    Auto,
    /// Never.
    Off,
}

/// How log lines are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Log {
    /// One line of text or one JSON object per event.
    #[serde(rename = "log_format")]
    pub format: LogFormat,
    /// The least important level that is written.
    #[serde(rename = "log_level", serialize_with = "display")]
    pub level: LevelFilter,
}

/// The two ways to write a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors: one object a line.
    Json,
}

/// Options of every client and upstream socket. `TCP_NODELAY` is always on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tcp {
    /// Silence after which the first keepalive probe is sent.
    #[serde(serialize_with = "duration")]
    pub keepalive_idle: Duration,
    /// Time between unanswered probes.
    #[serde(serialize_with = "duration")]
    pub keepalive_interval: Duration,
    /// Unanswered probes after which the peer counts as dead.
    pub keepalive_count: u32,
    /// `TCP_USER_TIMEOUT`; 0: not set.
    #[serde(serialize_with = "duration")]
    pub user_timeout: Duration,
    /// Congestion control algorithm; `None`: the system's.
    #[serde(serialize_with = "or_system")]
    pub congestion_control: Option<String>,
}

/// One `[[listener]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// The metrics' and logs' `listener` label.
    pub name: String,
    /// Addresses, at least one.
    pub bind: Vec<Bind>,
    /// The files of the Unix sockets among them.
    #[serde(flatten)]
    pub unix: UnixSocket,
    /// The name of one of [`Config::upstreams`].
    pub upstream: String,
    /// What the client is lent.
    pub pool: Pool,
    /// What is spoken.
    pub protocol: Protocol,
    /// TLS towards its clients.
    #[serde(flatten)]
    pub tls: Termination,
    /// Whether a bind that other hosts can reach is meant, although anybody may connect.
    pub allow_any: bool,
    /// Networks whose hosts may connect; empty: all.
    pub allow: Vec<IpNet>,
    /// Networks whose hosts may not, also if they are in `allow`.
    pub deny: Vec<IpNet>,
    /// Connections that it may have; `None`: as many as the process.
    #[serde(serialize_with = "or_zero")]
    pub max_connections: Option<usize>,
    /// Connections that one address may have; `None`: any number.
    #[serde(serialize_with = "or_zero")]
    pub max_connections_per_source: Option<usize>,
    /// Connections a second that are let in; `None`: any number.
    #[serde(serialize_with = "or_zero")]
    pub accept_rate: Option<NonZeroU32>,
    /// Connections that may wait when one of these limits is reached.
    pub queue: usize,
    /// For how long.
    #[serde(serialize_with = "duration")]
    pub queue_timeout: Duration,
    /// Time for a client to answer the greeting; 0: for ever.
    #[serde(serialize_with = "duration")]
    pub handshake_timeout: Duration,
    /// Time for the server to answer the client's first words; 0: for ever.
    #[serde(serialize_with = "duration")]
    pub reply_timeout: Duration,
    /// Silence after which a session is closed; 0: never.
    #[serde(serialize_with = "duration")]
    pub idle_timeout: Duration,
    /// Age at which a session is closed at its next quiet second; 0: never.
    #[serde(serialize_with = "duration")]
    pub max_lifetime: Duration,
    /// Networks of load balancers that begin each connection with a PROXY header.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Time for such a header to arrive.
    #[serde(serialize_with = "duration")]
    pub proxy_protocol_timeout: Duration,
}

impl Listener {
    /// Whether there are files of its own.
    pub fn has_unix_sockets(&self) -> bool {
        self.bind.iter().any(|bind| matches!(bind, Bind::Unix(_)))
    }

    /// Whether any host that reaches this address of it could use the gateway, without TLS, and
    /// nobody has said that this is meant.
    pub fn is_exposed_at(&self, address: SocketAddr) -> bool {
        let is_guarded = !self.allow.is_empty() || self.tls.client_tls == ClientTls::Required;
        !address.ip().is_loopback() && !self.allow_any && !is_guarded
    }
}

/// What a client is lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// A fresh upstream connection, bytes untouched.
    Off,
    /// One that is there already, dialled and greeted, or else a fresh one; bytes untouched.
    Warm,
}

impl Pool {
    /// The word of the file, the flags and the ready line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Warm => "warm",
        }
    }

    /// Where an upstream connection can come from: the values of the `pool_result` label.
    pub fn results(self) -> &'static [&'static str] {
        match self {
            Self::Off => &["off"],
            Self::Warm => &["hit", "miss"],
        }
    }
}

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// MySQL: the server speaks first, and tidegate can say in an ERR packet what went wrong.
    Mysql,
    /// Anything over TCP: an endpoint has answered when it connects; nothing is ever added.
    Tcp,
}

/// One `[upstream.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Upstream {
    /// The metrics' and logs' `upstream` label.
    #[serde(skip)]
    pub name: String,
    /// The private endpoint.
    pub gateway: Gateway,
    /// Time for one address to accept a connection.
    #[serde(serialize_with = "duration")]
    pub connect_timeout: Duration,
    /// Time for all addresses together, greetings included.
    #[serde(serialize_with = "duration")]
    pub dial_deadline: Duration,
    /// A DNS answer is not asked again sooner than this.
    #[serde(serialize_with = "duration")]
    pub min_ttl: Duration,
    /// A DNS answer is asked again after this at the latest.
    #[serde(serialize_with = "duration")]
    pub max_ttl: Duration,
    /// Whether a public IPv4 address is refused: as the gateway, and as the answer for its name.
    pub require_private: bool,
    /// Networks that count as private besides those that always do.
    pub private_cidrs: Vec<IpNet>,
    /// Which endpoint a connection tries first.
    pub balance: Balance,
    /// Networks whose endpoints come before the others.
    pub prefer_cidrs: Vec<IpNet>,
    /// How long after an address has left the answer its sessions are closed; 0: never.
    #[serde(serialize_with = "duration")]
    pub close_vanished_after: Duration,
    /// Whether the server is told of each client in a PROXY header.
    pub send_proxy_protocol: SendProxyProtocol,
    /// Connections that are made before their clients come.
    #[serde(flatten)]
    pub warm: Warm,
    /// TLS towards it.
    #[serde(flatten)]
    pub tls: Origination,
}

/// The connections to an upstream that listeners with [`Pool::Warm`] hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Warm {
    /// How many are held although nobody comes.
    #[serde(rename = "warm_min")]
    pub min: usize,
    /// For how long one is of use; `None`: what suits the kind of server.
    #[serde(rename = "warm_max_age", serialize_with = "duration_or_auto")]
    pub max_age: Option<Duration>,
}

/// Whether a server is told of each client in a PROXY header, and in which version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SendProxyProtocol {
    /// It is not.
    Off,
    /// A line of text.
    V1,
    /// The binary form.
    V2,
}

/// Which endpoint a connection tries first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// The first of the answer; the others are for when it fails.
    Failover,
    /// Each in turn.
    RoundRobin,
    /// The one with the fewest sessions.
    LeastConnections,
}

/// Reads a file's text. `origin` is how errors name it.
pub fn parse(text: &str, origin: &str) -> Result<Config, ConfigError> {
    load(Some((text, origin)), &Overrides::default())
}

/// Joins a file's text with flags and environment: flags > environment > file > defaults.
pub fn load(file: Option<(&str, &str)>, overrides: &Overrides) -> Result<Config, ConfigError> {
    validate::finish(read(file)?, overrides)
}

/// Joins what a client of a running bridge has to know, in the same order.
pub fn load_access(
    file: Option<(&str, &str)>,
    overrides: &Overrides,
) -> Result<Access, ConfigError> {
    access::finish(read(file)?, overrides)
}

fn read(file: Option<(&str, &str)>) -> Result<file::File, ConfigError> {
    match file {
        Some((text, origin)) => file::File::read(text, origin),
        None => Ok(file::File::default()),
    }
}

impl Config {
    /// The finished values in the shape of the file; reading it back gives the same values.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every field has a TOML form")
    }
}

fn duration_or_auto<S: Serializer>(
    value: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => duration(value, serializer),
        None => serializer.serialize_str("auto"),
    }
}

fn duration<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*value))
}

fn display<S: Serializer>(value: &LevelFilter, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn or_system<S: Serializer>(value: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.as_deref().unwrap_or("system"))
}

fn or_auto<S: Serializer>(value: &Option<usize>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => value.serialize(serializer),
        None => serializer.serialize_str("auto"),
    }
}

fn or_zero<T, S>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error>
where
    T: Serialize,
    S: Serializer,
{
    match value {
        Some(value) => value.serialize(serializer),
        None => serializer.serialize_u8(0),
    }
}

fn by_name<S: Serializer>(value: &[Upstream], serializer: S) -> Result<S::Ok, S::Error> {
    let named: BTreeMap<&str, &Upstream> =
        value.iter().map(|upstream| (upstream.name.as_str(), upstream)).collect();
    named.serialize(serializer)
}
