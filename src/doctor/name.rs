//! What the gateway's name tells, and what DNS says of it.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use super::answers::{self, Advice, Inquiry, described};
use super::case::Case;
use super::finding::Finding;
use crate::log::Chain;
use crate::upstream::plan::{Cloud, Plan, Service};
use crate::upstream::{Heard, ask_each, look_up};

/// Longer than a server that is silent for both address types is waited for.
const PATIENCE: Duration = Duration::from_secs(6);
const HOSTS: &str = "/etc/hosts";
const RESOLVERS: &str = "name.resolvers";
const ANSWERS: [&str; 3] = ["name.address", "name.agreement", "name.private"];

/// Which service's name it is.
pub(super) fn pattern(case: &Case) {
    const CHECK: &str = "name.pattern";
    let gateway = &case.upstream.gateway;
    let finding = match &case.plan {
        _ if gateway.literal().is_some() => Finding::ok(CHECK, "an address: DNS is not asked"),
        None => Finding::ok(CHECK, "a name of no service that is known here"),
        Some(plan) if plan.service.is_tidb_cloud() && !plan.is_private => {
            Finding::warn(CHECK, "public_name", described_plan(plan))
                .likely("the public gateway: traffic leaves the private network")
                .hint(match plan.service {
                    Service::Starter => format!(
                        "take the host that the console shows for the private endpoint: \
                         gateway…-privatelink.{}.prod.aws.tidbcloud.com on AWS",
                        plan.region.as_deref().unwrap_or("REGION")
                    ),
                    _ => "take the host that the console shows for the private endpoint".into(),
                })
        }
        Some(plan) => Finding::ok(CHECK, described_plan(plan)),
    };
    case.tell(finding);
}

fn described_plan(plan: &Plan) -> String {
    let cloud = plan.cloud.map(|cloud| format!(" on {}", cloud.as_str()));
    let region = plan.region.as_ref().map(|region| format!(", {region}"));
    // An RDS name is the same inside and outside.
    let way = match (plan.service.is_tidb_cloud(), plan.is_private) {
        (false, _) => "",
        (true, true) => ", private endpoint",
        (true, false) => ", public gateway",
    };
    let name = plan.service.as_str();
    format!("{name}{}{}{way}", cloud.unwrap_or_default(), region.unwrap_or_default())
}

/// Asks DNS, and returns what is to be dialled.
pub(super) async fn examine(case: &Case) -> Vec<SocketAddr> {
    let gateway = &case.upstream.gateway;
    if let Some(address) = gateway.literal() {
        let why = "the gateway is an address";
        case.skip(&[RESOLVERS, "name.address", "name.agreement"], why);
        let text = described(&[address.ip()], &case.upstream.private_cidrs);
        case.tell(Finding::ok("name.private", text));
        return vec![address];
    }
    let within = case.deadline.within(PATIENCE);
    let host = case.host();
    let asked = async {
        let each = ask_each(&case.nameservers, host);
        tokio::join!(each, look_up(&case.nameservers, host))
    };
    let (heard, own) = match timeout(within, asked).await {
        Ok((Ok(heard), own)) => (heard, own),
        Ok((Err(error), _)) => {
            case.tell(no_resolver(&Chain(&error).to_string()));
            case.behind(&ANSWERS, "there is no DNS server to ask");
            return Vec::new();
        }
        // Each name of a search list is asked for, and each takes its time.
        Err(_) => {
            let [address, others @ ..] = ANSWERS;
            case.skip(&[RESOLVERS], "none has said anything in time");
            let evidence = format!("no answer within {}", super::shown(within));
            let silent = Finding::fail(address, "dns_timeout", evidence);
            case.tell(silent.advised(&answers::unreached()));
            case.behind(&others, "there is no address");
            return Vec::new();
        }
    };
    let is_pinned = is_in_hosts_file(host);
    if heard.is_empty() && !is_pinned {
        case.tell(no_resolver("no DNS server is known"));
        case.behind(&ANSWERS, "there is no DNS server to ask");
        return Vec::new();
    }
    case.tell(resolvers(case, &heard));
    let inquiry = Inquiry {
        host,
        heard: &heard,
        own: &own,
        is_pinned,
        is_privatelink: gateway.is_privatelink(),
        requires_private: case.upstream.require_private,
        also_private: &case.upstream.private_cidrs,
        absence: absence(case, &heard),
        exposure: exposure(case),
    };
    let (findings, addresses) = answers::judge(&inquiry);
    case.tell_all(findings);
    addresses.into_iter().map(|address| SocketAddr::new(address, gateway.port)).collect()
}

fn no_resolver(why: &str) -> Finding {
    Finding::fail(RESOLVERS, "no_resolver", why)
        .of("/etc/resolv.conf")
        .likely("this host has no DNS server set")
        .hint("name one there, or give one: --nameserver 169.254.169.253:53 (AWS)")
}

fn resolvers(case: &Case, heard: &[Heard]) -> Finding {
    let servers = heard.iter().map(|heard| match &heard.said {
        Err(error) if ["timeout", "error"].contains(&error.as_str()) => heard.server.to_string(),
        _ => format!("{} in {}", heard.server, super::shown(heard.took)),
    });
    let servers: Vec<_> = servers.collect();
    let whence = match case.nameservers.is_empty() {
        true => "/etc/resolv.conf",
        false => "nameserver",
    };
    match servers.is_empty() {
        true => Finding::skip(RESOLVERS, "no DNS server is known"),
        false => Finding::ok(RESOLVERS, format!("{} (by {whence})", servers.join(", "))),
    }
}

fn is_in_hosts_file(host: &str) -> bool {
    let text = fs::read_to_string(HOSTS).unwrap_or_default();
    let names = text.lines().flat_map(|line| {
        let entry = line.split('#').next().unwrap_or_default();
        entry.split_whitespace().skip(1)
    });
    names.map(|name| name.trim_end_matches('.')).any(|name| name.eq_ignore_ascii_case(host))
}

/// What is likely behind a name that does not exist.
fn absence(case: &Case, heard: &[Heard]) -> Advice {
    let is_private = case.upstream.gateway.is_privatelink();
    let cloud = case.plan.as_ref().and_then(|plan| plan.cloud);
    let outside: Vec<_> = heard
        .iter()
        .map(|heard| heard.server.ip())
        .filter(|ip| crate::config::is_public(*ip, &[]))
        .map(|ip| ip.to_string())
        .collect();
    let (likely, mut hint) = match (is_private, cloud) {
        (true, Some(Cloud::Aws)) => (
            "private DNS of the VPC endpoint is off, or this host is not in the endpoint's VPC",
            private_dns(),
        ),
        (true, Some(Cloud::Alibaba)) => (
            "the name is known in the endpoint's VPC only, and this host or its DNS server is \
             elsewhere; or the endpoint was removed",
            "run tidegate in that VPC, on its own DNS servers (100.100.2.136, 100.100.2.138), and \
             compare the name with the endpoint's domain in the console"
                .to_owned(),
        ),
        (true, None) => (
            "the name is of a private zone that this host's DNS server does not know",
            "ask the DNS server of the network that has the endpoint (--nameserver), or link the \
             private zone to this network"
                .to_owned(),
        ),
        (false, _) => (
            "the name is misspelt, the instance was removed, or it is of a private zone that this \
             host's DNS server does not know",
            "compare it with the host that the console shows, and ask the DNS server of that \
             network (--nameserver)"
                .to_owned(),
        ),
    };
    if is_private && !outside.is_empty() {
        let (servers, rest) = (outside.join(", "), hint);
        hint = format!("ask the VPC's own DNS server: {servers} cannot know private zones; {rest}");
    }
    Advice { likely: likely.to_owned(), hint }
}

/// What is likely behind a public address where there should be a private one.
fn exposure(case: &Case) -> Advice {
    let is_aws = case.plan.as_ref().is_none_or(|plan| plan.cloud != Some(Cloud::Alibaba));
    Advice {
        likely:
            "private DNS of the endpoint is off, so the public name answers; nothing is sent there"
                .to_owned(),
        hint: match is_aws {
            true => private_dns(),
            false => "use the endpoint's own domain, from inside of its VPC".to_owned(),
        },
    }
}

/// On AWS, for a gateway's name.
fn private_dns() -> String {
    "turn private DNS on, and for the VPC both attributes that it needs:\n\
     aws ec2 modify-vpc-endpoint --vpc-endpoint-id vpce-ID --private-dns-enabled\n\
     aws ec2 modify-vpc-attribute --vpc-id vpc-ID --enable-dns-support\n\
     aws ec2 modify-vpc-attribute --vpc-id vpc-ID --enable-dns-hostnames"
        .to_owned()
}
