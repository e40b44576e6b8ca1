//! The `[[listener]]` sections: each key with its parser and its default.

use std::collections::BTreeSet;
use std::time::Duration;

use super::error::ConfigError;
use super::file::{Overrides, Section, Source};
use super::keys::{Keys, parse_all};
use super::parsers::{
    accept_rate, boolean, count_or_any, duration, name, network, pool, positive_duration, protocol,
    queue, seconds_or_never,
};
use super::tls;
use super::value::Bind;
use super::{Listener, Mode, Owner, Pool, Protocol, UnixSocket, Upstream};

pub(super) const DEFAULT_BIND: Bind = Bind::Localhost(4000);

pub(super) fn finish(
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
        let protocol = keys.one("protocol", protocol, Protocol::Mysql)?;
        let listener = Listener {
            name,
            bind,
            unix: UnixSocket {
                mode: keys.one("unix_mode", str::parse, Mode::default())?,
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
            protocol,
            tls: tls::termination(&mut keys)?,
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
        keys.section.clone().finish(&[])?;
        tls::check_termination(&listener.tls, protocol, &keys)?;
        let source = match overrides.0.get("listen") {
            Some(raw) => raw.source.clone(),
            None => section.source,
        };
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

fn check_listener(listener: &Listener, source: Source) -> Result<(), ConfigError> {
    let is_exposed = |address| listener.is_exposed_at(address);
    match listener.bind.iter().find(|bind| bind.addresses().into_iter().any(is_exposed)) {
        Some(bind) => Err(ConfigError::new(
            source,
            format!("listening on {bind} would let any host that reaches it use the gateway"),
        )
        .hint(
            "bind a loopback address, name those who may connect: allow = [\"10.0.0.0/8\"] \
             (--allow), ask them for TLS: client_tls = \"required\" (--client-tls), or say that it \
             is meant: allow_any = true (--allow-any)",
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
