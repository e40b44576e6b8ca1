//! What the bridge listens on: its ports, what it shows there, and its admin endpoint.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::slice;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_seconds;
use hyper::Method;
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::case::Deadline;
use super::finding::Finding;
use super::http::ask;
use super::tls::expiry;
use crate::config::{Bind, Config, Listener, read_token};
use crate::log::Chain;
use crate::net::{listener, unix};
use crate::tls::TlsError;
use crate::tls::server::Terminator;

const PORT: &str = "host.port";
pub(super) const TLS: &str = "host.tls";
const ADMIN: &str = "host.admin";
/// For a bridge on this host to say what it serves.
const FOR_A_BRIDGE: Duration = Duration::from_secs(1);

/// A listener, and what its clients are shown.
#[derive(Debug)]
pub(super) struct Entrance {
    pub listener: Listener,
    /// Read once, by whoever asks first.
    shown: OnceLock<Result<Option<Terminator>, TlsError>>,
}

impl Entrance {
    pub fn of(listener: &Listener) -> Arc<Self> {
        Arc::new(Self { listener: listener.clone(), shown: OnceLock::new() })
    }

    fn shown(&self) -> Result<Option<&Terminator>, &TlsError> {
        let shown = self.shown.get_or_init(|| Terminator::new(&self.listener.tls));
        shown.as_ref().map(Option::as_ref)
    }

    /// Whether clients can be shown what they are to be shown.
    pub fn offers_tls(&self) -> bool {
        self.shown().is_ok_and(|terminator| terminator.is_some())
    }
}

/// Whether what is to be listened on can be had, or is had by a bridge that runs, and what is shown
/// there.
pub(super) async fn examine(
    config: &Config,
    entrances: &[Arc<Entrance>],
    deadline: Deadline,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let running = OnceCell::new();
    let running = || running.get_or_init(|| Running::ask(config.admin, deadline));
    for entrance in entrances {
        let listener = &entrance.listener;
        for bind in &listener.bind {
            let tried = match bind {
                Bind::Unix(path) => vec![(bind.to_string(), at_path(path, listener))],
                _ => at_addresses(bind),
            };
            for (place, tried) in tried {
                let bridge = match tried {
                    Place::Taken => running().await.serves(&place),
                    _ => None,
                };
                findings.push(port(PORT, &place, tried, bridge));
            }
        }
        findings.extend(certificate(entrance));
    }
    for (place, tried) in at_addresses(&Bind::Address(config.admin)) {
        findings.push(match tried {
            Place::Taken => admin(&place, running().await, config),
            _ => port(ADMIN, &place, tried, None),
        });
    }
    findings.extend(config.admin_token_file.as_deref().and_then(token));
    findings
}

/// The admin endpoint's port is another program's, or a bridge's: that of one for other clients is in
/// the way of this one, but they may be meant to have different settings.
fn admin(place: &str, running: &Running, config: &Config) -> Finding {
    let binds = config.listeners.iter().flat_map(|listener| &listener.bind);
    let mut places = binds.flat_map(|bind| match bind {
        Bind::Unix(_) => vec![bind.to_string()],
        _ => bind.addresses().iter().map(SocketAddr::to_string).collect(),
    });
    match running.pid {
        Some(process) if !places.any(|place| running.serves(&place).is_some()) => {
            let said = format!("a tidegate for other clients has it, process {process}");
            Finding::warn(ADMIN, "port_taken", said)
                .likely("two bridges on this host, and each has an admin endpoint of its own")
                .hint("to run another beside it, choose another address (--admin)")
                .of(place)
        }
        process => port(ADMIN, place, Place::Taken, process),
    }
}

/// What is shown to a listener's clients.
fn certificate(entrance: &Entrance) -> Option<Finding> {
    let finding = match entrance.shown() {
        Ok(None) => return None,
        Ok(Some(terminator)) => {
            let until = format_rfc3339_seconds(terminator.expires);
            let evidence = format!("its certificates are valid until {until}");
            let warned = |cause, likely: &str| {
                let all = [slice::from_ref(&evidence), &terminator.warnings].concat();
                Finding::warn(TLS, cause, all.join("; "))
                    .likely(likely)
                    .hint("mend the file, and have a bridge that runs read it: SIGHUP")
            };
            match expiry(terminator.expires, SystemTime::now()) {
                Some(cause @ "expired") => warned(cause, "nobody has renewed it"),
                Some(cause) => warned(cause, "nobody has renewed it yet"),
                None if !terminator.warnings.is_empty() => {
                    warned("weak_file", "it was made for later, or copied without its mode")
                }
                None => Finding::ok(TLS, evidence),
            }
        }
        Err(error) => Finding::fail(TLS, "bad_file", Chain(error).to_string())
            .likely("the bridge refuses to start without it")
            .hint(error.hint().unwrap_or("openssl x509 -noout -text -in FILE shows what is in it")),
    };
    Some(finding.of(format!("the listener {}", entrance.listener.name)))
}

/// The file of the admin token, if it is of no use.
fn token(path: &Path) -> Option<Finding> {
    let error = read_token(path).err()?;
    let finding = Finding::fail(ADMIN, "bad_file", Chain(&error).to_string())
        .likely("the bridge refuses to start without it")
        .hint("admin_token_file is a file with one word, which the user that tidegate runs as can read");
    Some(finding.of(path.display()))
}

/// What became of trying an address.
enum Place {
    Free,
    Taken,
    /// The IPv6 half of localhost on a host without IPv6, which is left out.
    Missing,
    Forbidden(io::Error),
    Elsewhere(io::Error),
    Unusable {
        why: String,
        hint: Option<&'static str>,
    },
}

fn at_path(path: &Path, listener: &Listener) -> Place {
    match unix::try_bind(path, &listener.unix) {
        Ok(()) => Place::Free,
        Err(unix::BindError::Served) => Place::Taken,
        Err(error) => Place::Unusable { why: Chain(&error).to_string(), hint: error.hint() },
    }
}

fn at_addresses(bind: &Bind) -> Vec<(String, Place)> {
    let is_localhost = matches!(bind, Bind::Localhost(_));
    let tried = bind.addresses().into_iter().map(|address| {
        let place = match listener::try_bind(address) {
            Ok(()) => Place::Free,
            Err(error) => match error.kind() {
                io::ErrorKind::AddrInUse => Place::Taken,
                io::ErrorKind::PermissionDenied => Place::Forbidden(error),
                _ if is_localhost && address.is_ipv6() => Place::Missing,
                io::ErrorKind::AddrNotAvailable => Place::Elsewhere(error),
                _ => Place::Unusable { why: error.to_string(), hint: None },
            },
        };
        (address.to_string(), place)
    });
    tried.collect()
}

fn port(check: &'static str, place: &str, tried: Place, bridge: Option<u32>) -> Finding {
    let flag = flag(check);
    match (tried, bridge) {
        (Place::Free, _) => Finding::ok(check, "free"),
        (Place::Missing, _) => Finding::skip(check, format!("{place}: this host has no IPv6")),
        (Place::Taken, Some(process)) => {
            Finding::ok(check, format!("served by a tidegate that runs, process {process}"))
        }
        (Place::Taken, None) => taken(check, place),
        (Place::Forbidden(error), _) => Finding::fail(check, "port_forbidden", error.to_string())
            .likely("ports below 1024 are for root")
            .hint(
                "choose a port from 1024 on, or allow it: AmbientCapabilities=CAP_NET_BIND_SERVICE \
                 in a systemd unit",
            ),
        (Place::Elsewhere(error), _) => {
            Finding::fail(check, "address_unavailable", error.to_string())
                .likely("the address is none of this host's")
                .hint(format!("choose one that `ip address` shows ({flag})"))
        }
        (Place::Unusable { why, hint }, _) => Finding::fail(check, "address_unavailable", why)
            .likely("what is to be listened on cannot be had")
            .hint(hint.map_or_else(|| format!("choose another address ({flag})"), str::to_owned)),
    }
    .of(place)
}

fn flag(check: &str) -> &'static str {
    match check {
        ADMIN => "--admin",
        _ => "--listen",
    }
}

/// Nobody knows by whom: a path by who listens there, a port by anybody's connection as well.
fn taken(check: &'static str, place: &str) -> Finding {
    let flag = flag(check);
    let who = match check {
        ADMIN => "another bridge, or another program, listens there",
        _ => "a database, a proxy or a bridge with another admin address listens there",
    };
    if let Some(path) = place.strip_prefix("unix:") {
        // As a shell takes it.
        let path = path.replace('\'', r"'\''");
        return Finding::fail(check, "port_taken", "another program listens there")
            .likely(who)
            .hint(format!(
                "end it, or choose another address ({flag}); this shows which it is:\n\
                 ss -lxp | grep -F '{path}'"
            ));
    }
    let port = place.rsplit_once(':').map_or(place, |(_, port)| port);
    Finding::fail(check, "port_taken", "the port is in use")
        .likely(format!(
            "{who}; or it is the port of a connection that this host has made, or had until a minute \
             ago"
        ))
        .hint(format!(
            "end what has it, wait a minute where it is TIME-WAIT, or choose another address \
             ({flag}); this shows what it is:\n\
             ss -tanp 'sport = :{port}'"
        ))
}

/// A bridge that runs on this host, as its admin endpoint tells of it.
#[derive(Debug, Default, Deserialize)]
struct Running {
    /// Of nobody, if nobody says that he is one.
    pid: Option<u32>,
    listeners: Vec<Serving>,
}

#[derive(Debug, Deserialize)]
struct Serving {
    addresses: Vec<String>,
}

impl Running {
    async fn ask(mut admin: SocketAddr, deadline: Deadline) -> Self {
        match admin.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => admin.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => admin.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let within = deadline.within(FOR_A_BRIDGE);
        let reply = ask(admin, Method::GET, "/status.json", None, within).await;
        reply.ok().and_then(|reply| serde_json::from_str(&reply.body).ok()).unwrap_or_default()
    }

    fn serves(&self, place: &str) -> Option<u32> {
        let mut all = self.listeners.iter().flat_map(|listener| &listener.addresses);
        all.any(|address| address == place).then_some(self.pid)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn a_port_that_is_taken_is_fine_if_a_bridge_serves_it() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let tried = at_addresses(&Bind::Address(address)).remove(0);
        assert!(matches!(tried.1, Place::Taken), "{}", tried.0);
        assert_eq!(port(PORT, &tried.0, Place::Taken, Some(7)).status, Status::Ok);
        let finding = port(PORT, &tried.0, Place::Taken, None);
        assert_eq!(finding.cause, Some("port_taken"));
        assert!(finding.hint.unwrap().contains(&format!("sport = :{}'", address.port())));
    }
}
