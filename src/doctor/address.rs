//! Whether each address can be connected to.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use super::answers::Advice;
use super::case::Case;
use super::finding::{Finding, together};
use super::journey::Journey;
use super::shown;
use crate::net::connect::ConnectError;
use crate::upstream::plan::{Cloud, Service};

pub(super) const CONNECT: &str = "address.connect";
const PATH: &str = "address.path";
/// Smaller segments are those of a path that somebody has narrowed.
const SMALL: u32 = 1200;

/// Waits until it is known of each; returns those that are open.
pub(super) async fn examine(case: &Case, journeys: Vec<Journey>) -> Vec<Journey> {
    if journeys.is_empty() {
        case.behind(&[CONNECT, PATH], "there is no address to connect to");
        return Vec::new();
    }
    let (mut connects, mut paths, mut open) = (Vec::new(), Vec::new(), Vec::new());
    for mut journey in journeys {
        let address = journey.address;
        match (&mut journey.connected).await {
            Ok(Ok(met)) => {
                connects.push(
                    Finding::ok(CONNECT, format!("connected in {}", shown(met.took))).of(address),
                );
                paths.extend(met.sizes.map(|sizes| path(sizes).of(address)));
                open.push(journey);
            }
            Ok(Err(error)) => connects.push(failed(case, address, &error).of(address)),
            Err(_) => {
                connects.push(Finding::skip(CONNECT, "the check has ended before").of(address))
            }
        }
    }
    case.tell_all(together(connects));
    match paths.is_empty() {
        true => case.behind(&[PATH], "nothing could be connected to"),
        false => case.tell_all(together(paths)),
    }
    open
}

fn path([segment, packet]: [u32; 2]) -> Finding {
    let evidence = format!("segments of {segment} B, path MTU {packet} B");
    match segment {
        ..SMALL => Finding::warn(PATH, "small_mss", evidence)
            .likely("a tunnel on the way, or a peer that announces little")
            .hint(
                "if large results hang, clamp the MSS on the tunnel's router; AWS PrivateLink takes \
                 8500 B and sends no word of packets that are too large",
            ),
        _ => Finding::ok(PATH, evidence),
    }
}

fn failed(case: &Case, address: SocketAddr, error: &ConnectError) -> Finding {
    let (cause, advice) = match error {
        ConnectError::Timeout(_) => ("connect_timeout", dropped(case, address)),
        // A host without IPv6 has no address of its own for it.
        ConnectError::Local(error)
            if error.kind() == io::ErrorKind::AddrNotAvailable && address.is_ipv6() =>
        {
            ("unreachable", unreachable(address))
        }
        ConnectError::Local(_) => (
            "host_exhausted",
            advice(
                "this host is out of descriptors, ports or memory",
                "see host.files, and what uses them:\nss -s",
            ),
        ),
        ConnectError::Connect(error) | ConnectError::Broken(error) => match error.kind() {
            io::ErrorKind::TimedOut => ("connect_timeout", dropped(case, address)),
            io::ErrorKind::ConnectionRefused => ("connect_refused", refused(case)),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                ("unreachable", unreachable(address))
            }
            io::ErrorKind::PermissionDenied => (
                "connect_forbidden",
                advice(
                    "a firewall or a sandbox of this host forbids it",
                    "let it out:\niptables -S OUTPUT; nft list ruleset",
                ),
            ),
            _ => (
                "connect_error",
                advice(
                    "something on the way, or the load balancer itself, ended the connection",
                    "try again; if it stays so, ask whoever runs the endpoint",
                ),
            ),
        },
        ConnectError::Silent(_) | ConnectError::Closed => ("connect_error", refused(case)),
    };
    Finding::fail(CONNECT, cause, error.to_string()).advised(&advice)
}

fn advice(likely: &str, hint: &str) -> Advice {
    Advice { likely: likely.to_owned(), hint: hint.to_owned() }
}

/// Nobody answers: who lets packets fall.
fn dropped(case: &Case, address: SocketAddr) -> Advice {
    let (host, port) = (own_address(address), address.port());
    let rule = match address.is_ipv4() {
        true => format!("--protocol tcp --port {port} --cidr {host}/32"),
        false => format!(
            "--ip-permissions 'IpProtocol=tcp,FromPort={port},ToPort={port},\
             Ipv6Ranges=[{{CidrIpv6={host}/128}}]'"
        ),
    };
    match case.plan.as_ref().and_then(|plan| plan.cloud) {
        Some(Cloud::Aws) => Advice {
            likely:
                "a security group drops it: that of the VPC endpoint (or of the instance), or a \
                     network ACL; or the address is of a zone that is down"
                    .into(),
            hint: format!(
                "let TCP {port} from {host} into the endpoint's security group, and out of this \
                 host's:\n\
                 aws ec2 authorize-security-group-ingress --group-id sg-ID {rule}"
            ),
        },
        Some(Cloud::Alibaba) => Advice {
            likely: "a security group drops it: the endpoint's, or this instance's".into(),
            hint: format!(
                "let TCP {port} from {host} into the security group of the endpoint; for RDS, add \
                 {host} to the whitelist"
            ),
        },
        None => Advice {
            likely: "a firewall or security group on the way drops it, or nobody has the address"
                .into(),
            hint: format!("let TCP {port} from {host} to {} pass, both ways", address.ip()),
        },
    }
}

fn refused(case: &Case) -> Advice {
    let port = case.port();
    let hint = match case.plan.as_ref().map(|plan| plan.service) {
        Some(Service::Starter) => format!("the port is 4000, and {port} was asked for"),
        Some(Service::Dedicated) => format!(
            "compare {port} with the port that the console shows: a private endpoint may have one of \
             its own"
        ),
        Some(Service::AmazonRds | Service::ApsaraDb) => {
            format!("the port of RDS is 3306 unless it was changed, and {port} was asked for")
        }
        None => format!("is {port} the right port, and does the server run, or the listener?"),
    };
    Advice {
        likely: "the host is there and nobody listens on the port: a load balancer without a \
                 listener, a server that does not run, or another port"
            .into(),
        hint,
    }
}

fn unreachable(address: SocketAddr) -> Advice {
    Advice {
        likely: match address.is_ipv6() {
            true => "this host has no way to IPv6 addresses".into(),
            false => "this host has no route there: it is in another VPC, without peering".into(),
        },
        hint: format!(
            "run tidegate in a subnet of the endpoint's VPC, or add the route; this shows what there \
             is:\nip route get {}",
            address.ip()
        ),
    }
}

/// The address of this host that the other side would see first.
fn own_address(to: SocketAddr) -> String {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    // Nothing is sent: the kernel only chooses the way.
    let chosen = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(to)?;
        socket.local_addr()
    });
    chosen.map_or_else(|_| "this host".into(), |address| address.ip().to_string())
}
