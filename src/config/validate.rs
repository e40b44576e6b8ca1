//! Joins flags, environment, file and defaults into the finished [`Config`].
//!
//! Every key is named once, with its parser and its default: those above the sections here, the others
//! in `listeners`, `upstreams` and `tls`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::error::ConfigError;
use super::file::{File, Overrides, Source};
use super::keys::Keys;
use super::parsers::{
    congestion_control, default_threads, duration, keepalive, keepalive_count, log_format,
    log_level, max_connections, nameserver, path, socket_address, splice, stall_timeout, threads,
    user_timeout, warm_count,
};
use super::value::{Bind, Gateway, overlap};
use super::{
    ClientTls, Config, Listener, Log, LogFormat, Pool, Protocol, SendProxyProtocol, Splice, Tcp,
    UnixSocket, Upstream, UpstreamTls, Warm, listeners, upstreams,
};

pub(super) const DEFAULT_ADMIN: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9400);

pub(super) fn finish(file: File, overrides: &Overrides) -> Result<Config, ConfigError> {
    let File { mut top, listeners: of_listeners, upstreams: of_upstreams } = file;
    let config_at = top.source.clone();
    let mut top = Keys { section: &mut top, overrides };
    let admin = top.one("admin", socket_address, DEFAULT_ADMIN.into())?;
    let admin_at = top.source_of("admin");
    let admin_token_file = top.optional("admin_token_file", path)?;
    let threads = top.one("threads", threads, default_threads())?;
    let max_connections = top.one("max_connections", max_connections, None)?;
    let warm_max = top.one("warm_max", warm_count, 16)?;
    let nameservers = top.list("nameserver", nameserver)?.unwrap_or_default();
    let drain_grace = top.one("drain_grace", duration, Duration::ZERO)?;
    let drain_timeout = top.one("drain_timeout", duration, Duration::from_secs(25))?;
    let stall_timeout = top.one("stall_timeout", stall_timeout, Duration::from_secs(30))?;
    let splice = top.one("splice", splice, Splice::Auto)?;
    let log = Log {
        format: top.one("log_format", log_format, LogFormat::Text)?,
        level: top.one("log_level", log_level, LevelFilter::INFO)?,
    };
    let tcp = Tcp {
        keepalive_idle: top.one("keepalive_idle", keepalive, Duration::from_secs(45))?,
        keepalive_interval: top.one("keepalive_interval", keepalive, Duration::from_secs(5))?,
        keepalive_count: top.one("keepalive_count", keepalive_count, 4)?,
        user_timeout: top.one("user_timeout", user_timeout, Duration::ZERO)?,
        congestion_control: top.one("congestion_control", congestion_control, None)?,
    };
    top.section.clone().finish(&["listener", "upstream"])?;

    let upstreams = upstreams::finish(of_upstreams, overrides, config_at.clone())?;
    let listeners = listeners::finish(of_listeners, overrides, &upstreams, config_at.clone())?;
    check_admin(admin, &listeners, admin_at)?;
    for upstream in &upstreams {
        let users: Vec<_> =
            listeners.iter().filter(|listener| listener.upstream == upstream.name).collect();
        if users.is_empty() {
            return Err(ConfigError::new(
                config_at,
                format!("no listener forwards to [upstream.{}]", upstream.name),
            ));
        }
        check_pool(upstream, &users, &config_at)?;
        check_tls(upstream, &users, &config_at)?;
        if users.iter().any(|listener| is_itself(&upstream.gateway, listener)) {
            return Err(ConfigError::new(
                config_at,
                format!("the gateway {} is the bridge itself", upstream.gateway),
            )
            .hint(
                "a connection would be forwarded in a circle; choose another port to listen on",
            ));
        }
    }
    check_warm(&upstreams, &listeners, warm_max, &config_at)?;
    Ok(Config {
        admin,
        admin_token_file,
        threads,
        max_connections,
        warm_max,
        nameservers,
        drain_grace,
        drain_timeout,
        stall_timeout,
        splice,
        log,
        tcp,
        listeners,
        upstreams,
    })
}

/// What listeners that lend warm connections need of themselves and of their upstream.
fn check_pool(
    upstream: &Upstream,
    users: &[&Listener],
    config_at: &Source,
) -> Result<(), ConfigError> {
    let section = format!("[upstream.{}]", upstream.name);
    let wrong = |message| ConfigError::new(config_at.clone(), message);
    for listener in users.iter().filter(|listener| listener.pool == Pool::Warm) {
        let at = format!("the listener `{}` has pool = \"warm\"", listener.name);
        if listener.protocol == Protocol::Tcp {
            return Err(wrong(format!("{at} and protocol = \"tcp\""))
                .hint("what is held is a greeting, which only MySQL servers send"));
        }
        if upstream.send_proxy_protocol != SendProxyProtocol::Off {
            return Err(wrong(format!("{at}, and {section} has send_proxy_protocol"))
                .hint("a header names the client, who is not known that early"));
        }
    }
    Ok(())
}

/// What the upstreams want held must not be more than may be held.
fn check_warm(
    upstreams: &[Upstream],
    listeners: &[Listener],
    warm_max: usize,
    config_at: &Source,
) -> Result<(), ConfigError> {
    let warm = upstreams.iter().filter(|upstream| lends_warm(listeners, &upstream.name));
    let wanted: Vec<_> = warm.filter(|upstream| upstream.warm.min > 0).collect();
    let sum: usize = wanted.iter().map(|upstream| upstream.warm.min).sum();
    if sum <= warm_max {
        return Ok(());
    }
    let has = |upstream: &&Upstream| {
        format!("[upstream.{}] has warm_min {}", upstream.name, upstream.warm.min)
    };
    let all: Vec<_> = wanted.iter().map(has).collect();
    let message = format!("{}: more than warm_max {warm_max}", all.join(", "));
    Err(ConfigError::new(config_at.clone(), message)
        .hint("warm_max, above all sections, is for all upstreams together"))
}

/// Whether a listener of this upstream lends warm connections.
pub fn lends_warm(listeners: &[Listener], upstream: &str) -> bool {
    let mut users = listeners.iter().filter(|listener| listener.upstream == upstream);
    users.any(|listener| listener.pool == Pool::Warm)
}

/// The admin endpoint shares its port with no listener.
fn check_admin(
    admin: SocketAddr,
    listeners: &[Listener],
    admin_at: Source,
) -> Result<(), ConfigError> {
    let listens_there = |listener: &&Listener| {
        let mut addresses = listener.bind.iter().flat_map(Bind::addresses);
        addresses.any(|address| admin.port() != 0 && overlap(address, admin))
    };
    match listeners.iter().find(listens_there) {
        Some(Listener { name, .. }) => {
            let message = format!("`admin` is `{admin}`, where the listener `{name}` listens");
            Err(ConfigError::new(admin_at, message).hint("give one of them another port"))
        }
        None => Ok(()),
    }
}

/// Settings that nothing of the configuration makes use of.
pub fn unused(config: &Config) -> Vec<String> {
    let mut unused = Vec::new();
    for upstream in &config.upstreams {
        if upstream.warm != Warm::default() && !lends_warm(&config.listeners, &upstream.name) {
            unused.push(format!(
                "[upstream.{}]: warm_min and warm_max_age do nothing, as no listener of it has pool = \
                 \"warm\"",
                upstream.name
            ));
        }
    }
    for listener in &config.listeners {
        if listener.unix != UnixSocket::default() && !listener.has_unix_sockets() {
            unused.push(format!(
                "the listener `{}`: unix_mode and unix_owner do nothing, as it binds no unix:/path",
                listener.name
            ));
        }
    }
    unused
}

/// TLS is spoken on both legs, or through both.
fn check_tls(
    upstream: &Upstream,
    users: &[&Listener],
    config_at: &Source,
) -> Result<(), ConfigError> {
    let mode = upstream.tls.upstream_tls;
    let section = format!("[upstream.{}] has upstream_tls = \"{}\"", upstream.name, mode.as_str());
    let wrong = |listener: &Listener, and: String| {
        let message = format!("the listener `{}` has {and}, and {section}", listener.name);
        ConfigError::new(config_at.clone(), message)
    };
    for listener in users {
        let client_tls = listener.tls.client_tls;
        if client_tls != ClientTls::Off && mode == UpstreamTls::Passthrough {
            let and = format!("client_tls = \"{}\"", client_tls.as_str());
            return Err(wrong(listener, and).hint(
                "what ends here cannot go through: say how it goes on, upstream_tls = \
                 \"verify-identity\" (--upstream-tls), or \"off\" for a server without TLS",
            ));
        }
        if listener.protocol == Protocol::Tcp && mode != UpstreamTls::Passthrough {
            return Err(wrong(listener, "protocol = \"tcp\"".into())
                .hint("how TLS begins is MySQL's own; any other protocol passes through"));
        }
    }
    Ok(())
}

/// Whether a listener would accept what is sent to the gateway, as far as names alone tell.
fn is_itself(gateway: &Gateway, listener: &Listener) -> bool {
    let is_target = |address: SocketAddr| match gateway.literal() {
        // At every address of the host it is at this one as well.
        Some(literal) if literal.ip().is_loopback() => overlap(address, literal),
        Some(literal) => literal == address,
        None => {
            gateway.host == "localhost"
                && address.port() == gateway.port
                && (address.ip().is_loopback() || address.ip().is_unspecified())
        }
    };
    listener.bind.iter().flat_map(|bind| bind.addresses()).any(is_target)
}
