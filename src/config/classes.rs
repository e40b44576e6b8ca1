//! What a reload does with each key that has changed.

use toml::{Table, Value};

use super::Config;

/// When a changed key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// At once, also for what is there already.
    Live,
    /// For the sessions that begin from then on; others go on as they were.
    NewSessions,
    /// At the next start.
    Restart,
}

use Class::{Live, NewSessions, Restart};

/// Every key above the sections.
const TOP: &[(&str, Class)] = &[
    ("admin", Restart),
    ("admin_token_file", Live),
    ("threads", Restart),
    ("max_connections", Live),
    ("warm_max", NewSessions),
    ("nameserver", Live),
    ("drain_grace", Live),
    ("drain_timeout", Live),
    ("stall_timeout", NewSessions),
    ("splice", NewSessions),
    ("keepalive_idle", NewSessions),
    ("keepalive_interval", NewSessions),
    ("keepalive_count", NewSessions),
    ("user_timeout", NewSessions),
    ("congestion_control", NewSessions),
    ("log_format", Restart),
    ("log_level", Live),
];

/// Every key of a listener.
const LISTENER: &[(&str, Class)] = &[
    ("bind", Live),
    ("unix_mode", Restart),
    ("unix_owner", Restart),
    ("name", Live),
    ("upstream", NewSessions),
    ("pool", NewSessions),
    ("protocol", NewSessions),
    ("client_tls", NewSessions),
    ("tls_cert", NewSessions),
    ("tls_key", NewSessions),
    ("client_ca", NewSessions),
    ("allow_any", Live),
    ("allow", NewSessions),
    ("deny", NewSessions),
    ("max_connections", NewSessions),
    ("max_connections_per_source", NewSessions),
    ("accept_rate", NewSessions),
    ("queue", NewSessions),
    ("queue_timeout", NewSessions),
    ("handshake_timeout", NewSessions),
    ("reply_timeout", NewSessions),
    ("idle_timeout", NewSessions),
    ("max_lifetime", NewSessions),
    ("proxy_protocol_from", NewSessions),
    ("proxy_protocol_timeout", NewSessions),
];

/// Every key of an upstream.
const UPSTREAM: &[(&str, Class)] = &[
    ("gateway", NewSessions),
    ("connect_timeout", NewSessions),
    ("dial_deadline", NewSessions),
    ("min_ttl", Live),
    ("max_ttl", Live),
    ("require_private", Live),
    ("private_cidrs", Live),
    ("balance", NewSessions),
    ("prefer_cidrs", NewSessions),
    ("close_vanished_after", NewSessions),
    ("send_proxy_protocol", NewSessions),
    ("warm_min", NewSessions),
    ("warm_max_age", NewSessions),
    ("upstream_tls", NewSessions),
    ("tls_ca", NewSessions),
    ("tls_server_name", NewSessions),
    ("tls_client_cert", NewSessions),
    ("tls_client_key", NewSessions),
];

/// The kinds of places in a file, and their keys.
const KINDS: [(&str, &[(&str, Class)]); 3] =
    [("", TOP), ("listener", LISTENER), ("upstream", UPSTREAM)];

impl Class {
    /// The words of `config/full.toml`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::NewSessions => "new sessions",
            Self::Restart => "restart",
        }
    }
}

/// The keys whose finished values differ. A section that is in one of the two only is a difference
/// of its `name`.
pub fn changes(old: &Config, new: &Config) -> Vec<(&'static str, Class)> {
    let (old, new) = (places(old), places(new));
    let differs = |kind: &str, key: &str| {
        if key == "name" {
            return old.len() != new.len() || old.iter().zip(&new).any(|(a, b)| a.0 != b.0);
        }
        old.iter().filter(|(place, _)| place.0 == kind).any(|(place, values)| {
            let same_place = new.iter().find(|(other, _)| other == place);
            same_place.is_some_and(|(_, others)| values.get(key) != others.get(key))
        })
    };
    let mut changed = Vec::new();
    for (kind, keys) in KINDS {
        changed.extend(keys.iter().filter(|(key, _)| differs(kind, key)));
    }
    changed
}

/// Puts back what holds until the next start.
pub fn keep_until_restart(new: &mut Config, old: &Config) {
    new.admin = old.admin;
    new.threads = old.threads;
    new.log.format = old.log.format;
    for listener in &mut new.listeners {
        let before = old.listeners.iter().find(|before| before.name == listener.name);
        if let Some(before) = before.filter(|before| before.has_unix_sockets()) {
            listener.unix = before.unix.clone();
        }
    }
}

/// The tables of the file, each with the kind of its place and its name.
fn places(config: &Config) -> Vec<((&'static str, String), Table)> {
    let mut top = Table::try_from(config).expect("every field has a TOML form");
    let listeners = match top.remove("listener") {
        Some(Value::Array(listeners)) => listeners,
        _ => Vec::new(),
    };
    let upstreams = match top.remove("upstream") {
        Some(Value::Table(upstreams)) => upstreams,
        _ => Table::new(),
    };
    let mut places = vec![(("", String::new()), top)];
    for listener in listeners {
        let Value::Table(listener) = listener else { continue };
        let name = listener.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        places.push((("listener", name), listener));
    }
    for (name, upstream) in upstreams {
        let Value::Table(upstream) = upstream else { continue };
        places.push((("upstream", name), upstream));
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const FULL: &str = include_str!("../../config/full.toml");

    #[test]
    fn the_full_file_tells_the_class_of_every_key() {
        let mut told = Vec::new();
        let mut class = None;
        for line in FULL.lines() {
            if let Some((_, words)) = line.split_once("# Reload: ") {
                class = Some(words);
            } else if let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ")
                && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            {
                let class = class.take().unwrap_or_else(|| panic!("`{key}` has no class"));
                told.push((key, class.trim_end_matches('.')));
            }
        }
        let all = KINDS.iter().flat_map(|(_, keys)| keys.iter());
        let mut known: Vec<_> = all.map(|(key, class)| (*key, class.as_str())).collect();
        known.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, known);
    }

    #[test]
    fn what_differs_is_told_and_nothing_else() {
        let of =
            |text: &str| parse(&format!("{text}[upstream.a]\ngateway = \"a\"\n"), "test").unwrap();
        let changed = |old: &str, new: &str| {
            changes(&of(old), &of(new)).into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(changed("", ""), [""; 0]);
        assert_eq!(changed("", "log_level = \"warn\"\nthreads = 7\n"), ["threads", "log_level"]);
        assert_eq!(
            changed("[[listener]]\nname = \"x\"\n", "[[listener]]\nname = \"x\"\nqueue = 7\n"),
            ["queue"]
        );
        assert_eq!(
            changes(&of("[[listener]]\n"), &of("[[listener]]\nmax_connections = 7\n")),
            [("max_connections", NewSessions)]
        );
        assert_eq!(changes(&of(""), &of("max_connections = 7\n")), [("max_connections", Live)]);
        assert_eq!(
            changed("[[listener]]\nname = \"x\"\n", "[[listener]]\nname = \"y\"\nqueue = 7\n"),
            ["name"]
        );
    }
}
