//! The `[upstream.NAME]` sections: each key with its parser and its default.

use std::time::Duration;

use super::error::ConfigError;
use super::file::{Overrides, Section, Source};
use super::keys::Keys;
use super::parsers::{
    balance, network, or_auto, positive_duration, seconds_or_never, send_proxy_protocol,
    warm_count, warm_max_age,
};
use super::tls;
use super::value::{Gateway, is_public};
use super::{Balance, SendProxyProtocol, Upstream, Warm};

/// The name of the upstream that `run GATEWAY` makes when no file names one.
pub(super) const UNNAMED_UPSTREAM: &str = "gateway";

pub(super) fn finish(
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
                tls: tls::origination(&mut keys)?,
                name,
            };
            keys.section.clone().finish(&[])?;
            tls::check_origination(&upstream.tls, &upstream.gateway, &keys)?;
            check_upstream(&upstream, section.source)?;
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
