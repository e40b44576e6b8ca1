//! Joins flags, environment, file and defaults into the finished [`Config`].
//!
//! Every key is named here once, with its parser and its default.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::error::ConfigError;
use super::file::{File, Overrides, Section, Source};
use super::keys::{Keys, parse_all};
use super::parsers::{
    accept_rate, balance, boolean, congestion_control, count_or_any, default_threads, duration,
    keepalive, keepalive_count, log_format, log_level, max_connections, name, nameserver, network,
    or_auto, path, pool, positive_duration, protocol, queue, seconds_or_never, send_proxy_protocol,
    socket_address, splice, stall_timeout, threads, user_timeout, warm_count, warm_max_age,
};
use super::value::{Bind, Gateway, is_public};
use super::{
    Balance, Config, Listener, Log, LogFormat, Mode, Owner, Pool, Protocol, SendProxyProtocol,
    Splice, Tcp, UnixSocket, Upstream, Warm,
};

pub(super) const DEFAULT_ADMIN: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9400);
pub(super) const DEFAULT_BIND: Bind = Bind::Localhost(4000);
/// The name of the upstream that `run GATEWAY` makes when no file names one.
pub(super) const UNNAMED_UPSTREAM: &str = "gateway";

pub(super) fn finish(file: File, overrides: &Overrides) -> Result<Config, ConfigError> {
    let File { mut top, listeners, upstreams } = file;
    let config_at = top.source.clone();
    let mut top = Keys { section: &mut top, overrides };
    let admin = top.one("admin", socket_address, DEFAULT_ADMIN.into())?;
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

    let upstreams = finish_upstreams(upstreams, overrides, config_at.clone())?;
    let listeners = finish_listeners(listeners, overrides, &upstreams, config_at.clone())?;
    for upstream in &upstreams {
        let users: Vec<_> =
            listeners.iter().filter(|listener| listener.upstream == upstream.name).collect();
        if users.is_empty() {
            return Err(ConfigError::new(
                config_at,
                format!("no listener forwards to [upstream.{}]", upstream.name),
            ));
        }
        check_pool(upstream, &users, warm_max, &config_at)?;
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

fn finish_upstreams(
    mut sections: Vec<(String, Section)>,
    overrides: &Overrides,
    config_at: Source,
) -> Result<Vec<Upstream>, ConfigError> {
    if let Some(raw) = overrides.0.get("gateway") {
        match sections.len() {
            0 => sections.push((UNNAMED_UPSTREAM.into(), Section::default())),
            1 => {}
            count => {
                return Err(ConfigError::new(
                    raw.source.clone(),
                    format!("a gateway was given, but the file has {count} upstreams"),
                )
                .hint("leave it out, or set `gateway` in the [upstream.NAME] that is meant"));
            }
        }
    }
    if sections.is_empty() {
        return Err(ConfigError::new(config_at, "no gateway to forward to")
            .hint("tidegate run GATEWAY, or a file with [upstream.NAME] and its `gateway`"));
    }
    sections
        .into_iter()
        .map(|(name, mut section)| {
            let mut keys = Keys { section: &mut section, overrides };
            let Some(gateway) = keys.optional("gateway", str::parse::<Gateway>)? else {
                return Err(ConfigError::new(
                    section.source,
                    format!("[upstream.{name}] has no `gateway`"),
                )
                .hint("gateway = \"gateway01-privatelink.REGION.prod.aws.tidbcloud.com:4000\""));
            };
            let is_privatelink = gateway.is_privatelink();
            let upstream = Upstream {
                gateway,
                connect_timeout: keys.one(
                    "connect_timeout",
                    positive_duration,
                    Duration::from_secs(3),
                )?,
                dial_deadline: keys.one(
                    "dial_deadline",
                    positive_duration,
                    Duration::from_secs(10),
                )?,
                min_ttl: keys.one("min_ttl", positive_duration, Duration::from_secs(5))?,
                max_ttl: keys.one("max_ttl", positive_duration, Duration::from_secs(300))?,
                require_private: keys.one(
                    "require_private",
                    or_auto(is_privatelink),
                    is_privatelink,
                )?,
                private_cidrs: keys.list("private_cidrs", network)?.unwrap_or_default(),
                balance: keys.one("balance", balance, Balance::Failover)?,
                prefer_cidrs: keys.list("prefer_cidrs", network)?.unwrap_or_default(),
                close_vanished_after: keys.one(
                    "close_vanished_after",
                    seconds_or_never,
                    Duration::ZERO,
                )?,
                send_proxy_protocol: keys.one(
                    "send_proxy_protocol",
                    send_proxy_protocol,
                    SendProxyProtocol::Off,
                )?,
                warm: Warm {
                    min: keys.one("warm_min", warm_count, 0)?,
                    max_age: keys.one("warm_max_age", warm_max_age, None)?,
                },
                name,
            };
            let source = section.source.clone();
            section.finish(&[])?;
            check_upstream(&upstream, source)?;
            Ok(upstream)
        })
        .collect()
}

fn check_upstream(upstream: &Upstream, source: Source) -> Result<(), ConfigError> {
    let Upstream { name, gateway, min_ttl, max_ttl, .. } = upstream;
    if min_ttl > max_ttl {
        let [min, max] = [*min_ttl, *max_ttl].map(humantime::format_duration);
        let message = format!("[upstream.{name}] has min_ttl {min} above max_ttl {max}");
        return Err(ConfigError::new(source, message));
    }
    match gateway.literal() {
        Some(address)
            if upstream.require_private && is_public(address.ip(), &upstream.private_cidrs) =>
        {
            let message = format!(
                "[upstream.{name}] has require_private = true, but its gateway {gateway} is public"
            );
            Err(ConfigError::new(source, message)
                .hint("add its network to private_cidrs, or leave require_private out"))
        }
        _ => Ok(()),
    }
}

/// What listeners that lend warm connections need of themselves and of their upstream.
fn check_pool(
    upstream: &Upstream,
    users: &[&Listener],
    warm_max: usize,
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
    let min = upstream.warm.min;
    if min > warm_max {
        return Err(wrong(format!("{section} has warm_min {min} above warm_max {warm_max}"))
            .hint("warm_max, above all sections, is for all upstreams together"));
    }
    Ok(())
}

fn finish_listeners(
    mut sections: Vec<Section>,
    overrides: &Overrides,
    upstreams: &[Upstream],
    config_at: Source,
) -> Result<Vec<Listener>, ConfigError> {
    if sections.is_empty() {
        sections.push(Section::empty("[[listener]]".into(), config_at));
    }
    if let (Some(raw), count @ 2..) = (overrides.0.get("listen"), sections.len()) {
        return Err(ConfigError::new(
            raw.source.clone(),
            format!("an address was given, but the file has {count} listeners"),
        )
        .hint("leave it out, or set `bind` in the [[listener]] that is meant"));
    }
    let (mut names, mut places) = (BTreeSet::new(), BTreeSet::new());
    let mut listeners = Vec::new();
    for mut section in sections {
        let mut keys = Keys { section: &mut section, overrides };
        // The flag is called --listen: a listener binds, a bridge listens.
        let bind = match overrides.0.get("listen") {
            Some(raw) => {
                keys.section.take("bind");
                Some(parse_all(raw, "listen", str::parse::<Bind>)?)
            }
            None => keys.list("bind", str::parse::<Bind>)?,
        };
        let bind = bind.unwrap_or_else(|| vec![DEFAULT_BIND]);
        let name = keys.optional("name", name)?.unwrap_or_else(|| bind[0].to_string());
        let upstream = keys.optional("upstream", name_of_upstream(upstreams))?;
        let listener = Listener {
            name,
            bind,
            unix: UnixSocket {
                mode: keys.one("unix_mode", str::parse, Mode::DEFAULT)?,
                owner: keys.one("unix_owner", str::parse, Owner::default())?,
            },
            upstream: match (upstream, upstreams) {
                (Some(name), _) => name,
                (None, [only]) => only.name.clone(),
                (None, _) => {
                    return Err(ConfigError::new(
                        section.source,
                        "[[listener]] does not say which `upstream` it forwards to",
                    )
                    .did_you_mean("", upstreams.iter().map(|upstream| upstream.name.as_str())));
                }
            },
            pool: keys.one("pool", pool, Pool::Off)?,
            protocol: keys.one("protocol", protocol, Protocol::Mysql)?,
            allow_any: keys.one("allow_any", boolean, false)?,
            allow: keys.list("allow", network)?.unwrap_or_default(),
            deny: keys.list("deny", network)?.unwrap_or_default(),
            max_connections: keys.of_the_section("max_connections", count_or_any)?.flatten(),
            max_connections_per_source: keys.one(
                "max_connections_per_source",
                count_or_any,
                None,
            )?,
            accept_rate: keys.one("accept_rate", accept_rate, None)?,
            queue: keys.one("queue", queue, 100)?,
            queue_timeout: keys.one("queue_timeout", duration, Duration::from_secs(1))?,
            handshake_timeout: keys.one("handshake_timeout", duration, Duration::from_secs(9))?,
            reply_timeout: keys.one("reply_timeout", duration, Duration::from_secs(60))?,
            idle_timeout: keys.one("idle_timeout", seconds_or_never, Duration::ZERO)?,
            max_lifetime: keys.one("max_lifetime", seconds_or_never, Duration::ZERO)?,
            proxy_protocol_from: keys.list("proxy_protocol_from", network)?.unwrap_or_default(),
            proxy_protocol_timeout: keys.one(
                "proxy_protocol_timeout",
                positive_duration,
                Duration::from_secs(5),
            )?,
        };
        let source = match overrides.0.get("listen") {
            Some(raw) => raw.source.clone(),
            None => section.source.clone(),
        };
        section.finish(&[])?;
        check_listener(&listener, source.clone())?;
        if !names.insert(listener.name.clone()) {
            return Err(ConfigError::new(
                source,
                format!("two listeners are called `{}`", listener.name),
            )
            .hint("give each a `name` or a `bind` of its own"));
        }
        if let Some(twice) = places_of(&listener).find(|place| !places.insert(place.clone())) {
            return Err(ConfigError::new(source, format!("{twice} is bound twice"))
                .hint("the kernel would deal its connections out; give it to one listener, once"));
        }
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Where a listener is, as far as it is known before it is bound.
fn places_of(listener: &Listener) -> impl Iterator<Item = String> {
    listener.bind.iter().flat_map(|bind| match bind {
        Bind::Unix(_) => vec![bind.to_string()],
        _ => {
            let known = bind.addresses().into_iter().filter(|address| address.port() != 0);
            known.map(|address| address.to_string()).collect()
        }
    })
}

/// Whether a listener would accept what is sent to the gateway, as far as names alone tell.
fn is_itself(gateway: &Gateway, listener: &Listener) -> bool {
    let is_target = |address: SocketAddr| match gateway.literal() {
        Some(literal) => literal == address,
        None => {
            gateway.host == "localhost"
                && address.port() == gateway.port
                && address.ip().is_loopback()
        }
    };
    listener.bind.iter().flat_map(|bind| bind.addresses()).any(is_target)
}

fn check_listener(listener: &Listener, source: Source) -> Result<(), ConfigError> {
    let is_exposed = |address| listener.is_exposed_at(address);
    match listener.bind.iter().find(|bind| bind.addresses().into_iter().any(is_exposed)) {
        Some(bind) => Err(ConfigError::new(
            source,
            format!("listening on {bind} would let any host that reaches it use the gateway"),
        )
        .hint(
            "bind a loopback address, name those who may connect: allow = [\"10.0.0.0/8\"] \
             (--allow), or say that it is meant: allow_any = true (--allow-any)",
        )),
        None => Ok(()),
    }
}

fn name_of_upstream(upstreams: &[Upstream]) -> impl Fn(&str) -> Result<String, String> {
    move |text| match upstreams.iter().any(|upstream| upstream.name == text) {
        true => Ok(text.to_owned()),
        false => {
            let names: Vec<&str> = upstreams.iter().map(|upstream| &*upstream.name).collect();
            Err(format!(
                "no such upstream\nthe file has [upstream.{}]",
                names.join("], [upstream.")
            ))
        }
    }
}
