//! What the bridge needs of this host.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::Method;
use serde::Deserialize;
use tokio::sync::mpsc::UnboundedSender;

use super::aws::Instance;
use super::case::Deadline;
use super::finding::Finding;
use super::http::ask;
use crate::config::{Bind, Config, Listener};
use crate::net::descriptors::raise_limit;
use crate::net::{listener, unix};

/// The bridge's own, and as many as pipes take at most: as in the README's table of sizes.
const OWN_FILES: u64 = 160;
/// Fewer sessions than an application's pools make.
const FEW_FILES: u64 = 4096;
/// Too few for the bridge to begin.
const TOO_FEW_FILES: u64 = 64;
/// Silence after which Azure's private links forget a connection, the shortest of the clouds' times.
const PATIENCE_OF_LOAD_BALANCERS: Duration = Duration::from_secs(240);
/// When this was written: no clock that goes right says less. 2026-01-01.
const NOT_BEFORE: Duration = Duration::from_secs(1_767_225_600);
/// Clocks that are further apart make signatures and certificates invalid.
const FAR_APART: Duration = Duration::from_secs(300);
/// For a bridge on this host to say what it serves.
const FOR_A_BRIDGE: Duration = Duration::from_secs(1);
const KEEPALIVE: [&str; 3] = ["tcp_keepalive_time", "tcp_keepalive_intvl", "tcp_keepalive_probes"];

/// Looks at the host, and tells each finding.
pub(super) async fn examine(
    config: Config,
    instance: Arc<Instance>,
    deadline: Deadline,
    findings: UnboundedSender<Finding>,
) {
    // Nobody listens any more when the report cannot be written.
    let tell = |finding| drop(findings.send(finding));
    tell(files(raise_limit()));
    for finding in ports(&config, deadline).await {
        tell(finding);
    }
    tell(keepalive(&config));
    tell(clock(SystemTime::now(), clocks(&instance).await));
}

/// Whether this host's clock cannot judge the dates of certificates.
pub(super) async fn is_clock_off(instance: &Instance) -> bool {
    clock(SystemTime::now(), clocks(instance).await).cause.is_some()
}

async fn clocks(instance: &Instance) -> Option<[SystemTime; 2]> {
    instance.whereabouts().await.ok().and_then(|here| here.clocks)
}

fn files(limit: Option<u64>) -> Finding {
    const CHECK: &str = "host.files";
    let Some(limit) = limit else {
        return Finding::ok(CHECK, "any number of open files");
    };
    let sessions = limit.saturating_sub(OWN_FILES) / 2;
    let evidence = format!("{limit} open files at most, for about {sessions} sessions");
    let hint = "ulimit -Hn, LimitNOFILE= of a systemd unit, or --ulimit nofile= of a container";
    match limit {
        ..TOO_FEW_FILES => Finding::fail(CHECK, "few_files", evidence)
            .likely("the hard limit of open files is too low for the bridge itself")
            .hint(hint),
        TOO_FEW_FILES..FEW_FILES => Finding::warn(CHECK, "few_files", evidence)
            .likely("the hard limit of open files is low; the bridge raises the soft one to it")
            .hint(hint),
        _ => Finding::ok(CHECK, evidence),
    }
}

/// Whether what is to be listened on can be had, or is had by a bridge that runs.
async fn ports(config: &Config, deadline: Deadline) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut running = None;
    for listener in &config.listeners {
        for bind in &listener.bind {
            let tried = match bind {
                Bind::Unix(path) => vec![(bind.to_string(), at_path(path, listener))],
                _ => at_addresses(bind),
            };
            for (place, tried) in tried {
                if !matches!(tried, Place::Taken) {
                    findings.push(port(&place, tried, None));
                    continue;
                }
                if running.is_none() {
                    running = Some(Running::ask(config.admin, deadline).await);
                }
                let bridge = running.as_ref().and_then(|running| running.serves(&place));
                findings.push(port(&place, Place::Taken, bridge));
            }
        }
    }
    findings
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

fn at_path(path: &std::path::Path, listener: &Listener) -> Place {
    match unix::try_bind(path, &listener.unix) {
        Ok(()) => Place::Free,
        Err(unix::BindError::Served) => Place::Taken,
        Err(error) => {
            Place::Unusable { why: crate::log::Chain(&error).to_string(), hint: error.hint() }
        }
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

fn port(place: &str, tried: Place, bridge: Option<u32>) -> Finding {
    const CHECK: &str = "host.port";
    let number = place.rsplit_once(':').map_or(place, |(_, number)| number);
    match (tried, bridge) {
        (Place::Free, _) => Finding::ok(CHECK, "free"),
        (Place::Missing, _) => Finding::skip(CHECK, format!("{place}: this host has no IPv6")),
        (Place::Taken, Some(process)) => {
            Finding::ok(CHECK, format!("served by a tidegate that runs, process {process}"))
        }
        (Place::Taken, None) => Finding::fail(CHECK, "port_taken", "another program listens there")
            .likely("a database, a proxy or a bridge with another admin address runs on this host")
            .hint(format!(
                "end it, or choose another address (--listen, bind); this shows which it is:\n\
                 ss -ltnp 'sport = :{number}'"
            )),
        (Place::Forbidden(error), _) => Finding::fail(CHECK, "port_forbidden", error.to_string())
            .likely("ports below 1024 are for root")
            .hint(
                "choose a port from 1024 on, or allow it: AmbientCapabilities=CAP_NET_BIND_SERVICE \
                 in a systemd unit",
            ),
        (Place::Elsewhere(error), _) => {
            Finding::fail(CHECK, "address_unavailable", error.to_string())
                .likely("the address is none of this host's")
                .hint("bind one that `ip address` shows, or 0.0.0.0 with `allow`")
        }
        (Place::Unusable { why, hint }, _) => Finding::fail(CHECK, "address_unavailable", why)
            .likely("what is to be listened on cannot be had")
            .hint(hint.unwrap_or("choose another address (--listen, bind)")),
    }
    .of(place)
}

/// A bridge that runs on this host, as its admin endpoint tells of it.
#[derive(Debug, Default, Deserialize)]
struct Running {
    pid: u32,
    listeners: Vec<Serving>,
}

#[derive(Debug, Deserialize)]
struct Serving {
    addresses: Vec<String>,
}

impl Running {
    /// None at all, if nobody says that he is one.
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
        all.any(|address| address == place).then_some(self.pid)
    }
}

/// The bridge's own keepalive goes before the host's, which is for those who connect without it.
fn keepalive(config: &Config) -> Finding {
    const CHECK: &str = "host.keepalive";
    let tcp = &config.tcp;
    let own = format!(
        "the bridge asks after {} of silence, every {}, {} times",
        humantime::format_duration(tcp.keepalive_idle),
        humantime::format_duration(tcp.keepalive_interval),
        tcp.keepalive_count
    );
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let host = match KEEPALIVE.map(read) {
        [Some(time), Some(interval), Some(count)] => {
            format!("; this host's own: {time} s, {interval} s, {count}")
        }
        _ => String::new(),
    };
    if tcp.keepalive_idle > PATIENCE_OF_LOAD_BALANCERS {
        return Finding::warn(CHECK, "long_keepalive", own)
            .likely(
                "load balancers forget connections that are silent for longer: AWS after 350 s, \
                 Azure after 240 s",
            )
            .hint("keepalive_idle = \"45s\" (--keepalive-idle), as it comes");
    }
    Finding::ok(CHECK, format!("{own}{host}"))
}

/// `clocks` are those of another host, and of this one at the same moment.
fn clock(now: SystemTime, clocks: Option<[SystemTime; 2]>) -> Finding {
    const CHECK: &str = "host.clock";
    let shown = humantime::format_rfc3339_seconds(now);
    let off = |evidence: String| {
        Finding::fail(CHECK, "clock_off", evidence)
            .likely("nothing sets this host's clock; certificates seem expired, or not valid yet")
            .hint("set it, and have it kept so:\ntimedatectl set-ntp true")
    };
    if now < UNIX_EPOCH + NOT_BEFORE {
        return off(format!("{shown} has passed long ago"));
    }
    let Some([theirs, ours]) = clocks else {
        return Finding::ok(CHECK, format!("{shown}; nobody is here to compare it with"));
    };
    let apart = ours.duration_since(theirs).unwrap_or_else(|error| error.duration());
    match apart {
        apart if apart >= FAR_APART => {
            let apart = humantime::format_duration(Duration::from_secs(apart.as_secs()));
            off(format!("{shown}, {apart} off the clock of the metadata service"))
        }
        _ => Finding::ok(CHECK, format!("{shown}, as the clock of the metadata service")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn the_limit_of_open_files_is_judged_by_what_it_is_enough_for() {
        let of = |limit| (files(limit).status, files(limit).cause);
        assert_eq!(of(None), (Status::Ok, None));
        assert_eq!(of(Some(1_048_576)), (Status::Ok, None));
        assert_eq!(of(Some(4095)), (Status::Warn, Some("few_files")));
        assert_eq!(of(Some(63)), (Status::Fail, Some("few_files")));
    }

    #[test]
    fn a_clock_is_off_when_it_is_long_ago_or_far_from_another() {
        let now = SystemTime::now();
        let cause = |now, clocks| clock(now, clocks).cause;
        assert_eq!(cause(now, None), None);
        assert_eq!(cause(UNIX_EPOCH, None), Some("clock_off"));
        let minutes = |count: u64| now + Duration::from_secs(60 * count);
        assert_eq!(cause(now, Some([minutes(4), now])), None);
        assert_eq!(cause(now, Some([minutes(6), now])), Some("clock_off"));
        assert_eq!(cause(now, Some([now, minutes(6)])), Some("clock_off"));
    }

    #[test]
    fn a_port_that_is_taken_is_fine_if_a_bridge_serves_it() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let tried = at_addresses(&Bind::Address(address)).remove(0);
        assert!(matches!(tried.1, Place::Taken), "{}", tried.0);
        assert_eq!(port(&tried.0, Place::Taken, Some(7)).status, Status::Ok);
        let finding = port(&tried.0, Place::Taken, None);
        assert_eq!(finding.cause, Some("port_taken"));
        assert!(finding.hint.unwrap().contains(&format!("sport = :{}'", address.port())));
    }
}
