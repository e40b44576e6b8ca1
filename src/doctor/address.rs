//! Whether each address can be connected to.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use super::answers::Advice;
use super::case::Case;
use super::finding::{Finding, together};
use super::journey::Journey;
use super::shown;
use crate::net::connect::ConnectError;
use crate::upstream::plan::{Cloud, Plan, Service};

pub(super) const CONNECT: &str = "address.connect";
const PATH: &str = "address.path";
/// Smaller segments are those of a path that somebody has narrowed.
const SMALL: u32 = 1200;
/// The port of the gateways of TiDB Cloud Starter.
const STARTER: u16 = 4000;

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
    Advice {
        likely: "the host is there and nobody listens on the port: a load balancer without a \
                 listener, a server that does not run, or another port"
            .into(),
        hint: who_should_listen(case.plan.as_ref(), case.port()),
    }
}

/// What to look at where nobody listens, and the command that shows it.
fn who_should_listen(plan: Option<&Plan>, port: u16) -> String {
    let Some(plan) = plan else {
        return format!("is {port} the right port, and does the server run, or the listener?");
    };
    let at = plan.region.as_ref().map(|region| format!(" --region {region}")).unwrap_or_default();
    let cluster = match plan.cloud {
        Some(Cloud::Aws) if plan.is_private => format!(
            "does the cluster run, and was the endpoint accepted (in the console), so that it is \
             available here?\n\
             aws ec2 describe-vpc-endpoints{at} --query \
             'VpcEndpoints[].[VpcEndpointId,ServiceName,State]' --output text"
        ),
        _ if plan.is_private => {
            "in the consoles: does the cluster run, and is the endpoint connected?".into()
        }
        _ => "in the console: does the cluster run?".into(),
    };
    match plan.service {
        Service::Starter if port != STARTER => {
            format!("the port is {STARTER}, and {port} was asked for")
        }
        Service::Starter => cluster,
        Service::Dedicated => format!(
            "compare {port} with the port that the console shows: a private endpoint may have one of \
             its own; {cluster}"
        ),
        Service::AmazonRds => format!(
            "is the instance available, and is {port} its port?\n\
             aws rds describe-db-instances{at} --query \
             'DBInstances[].[DBInstanceIdentifier,DBInstanceStatus,Endpoint.Address,Endpoint.Port]' \
             --output text"
        ),
        Service::ApsaraDb => format!("in the console: does the instance run, at port {port}?"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_is_told_what_to_look_at_and_of_ports_only_where_they_differ() {
        let hint = |gateway: &str| {
            let gateway = gateway.parse().unwrap();
            who_should_listen(Plan::of(&gateway).as_ref(), gateway.port)
        };
        let starter = "gateway01-privatelink.us-east-1.prod.aws.tidbcloud.com";
        for (gateway, part) in [
            (starter, "\naws ec2 describe-vpc-endpoints --region us-east-1 --query '"),
            (
                "privatelink-7.abc.clusters.tidb-cloud.com",
                "\naws ec2 describe-vpc-endpoints --query '",
            ),
            (
                "app.c1a2.eu-west-1.rds.amazonaws.com:3306",
                "and is 3306 its port?\naws rds describe-db-instances --region eu-west-1 --query '",
            ),
        ] {
            let hint = hint(gateway);
            assert!(hint.contains(part) && !hint.contains("asked for"), "{hint}");
        }
        assert_eq!(hint(&format!("{starter}:3306")), "the port is 4000, and 3306 was asked for");
    }
}
