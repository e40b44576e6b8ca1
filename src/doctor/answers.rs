//! What the answers of DNS servers mean together. Without I/O.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::finding::Finding;
use super::shown;
use crate::config::is_public;
use crate::upstream::{Answer, Heard, LookupError, private_only};

const ADDRESS: &str = "name.address";
const AGREEMENT: &str = "name.agreement";
const PRIVATE: &str = "name.private";

/// What is known of a name, and what was heard of it.
pub(super) struct Inquiry<'a> {
    pub host: &'a str,
    /// Each server, asked alone.
    pub heard: &'a [Heard],
    /// What the bridge finds: in the hosts file, or by the servers in their order.
    pub own: &'a Result<Answer, LookupError>,
    /// The name is in the hosts file.
    pub is_pinned: bool,
    pub is_privatelink: bool,
    pub requires_private: bool,
    pub also_private: &'a [IpNet],
    /// What is likely behind a name that is not there, and what to do.
    pub absence: Advice,
    /// The same of one that is not private.
    pub exposure: Advice,
}

/// What is likely to be behind something, and what to do.
#[derive(Debug, Clone)]
pub(super) struct Advice {
    pub likely: String,
    pub hint: String,
}

impl Finding {
    pub(super) fn advised(self, advice: &Advice) -> Self {
        self.likely(advice.likely.clone()).hint(advice.hint.clone())
    }
}

/// What one server says, as far as it is compared with others.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Addresses(BTreeSet<IpAddr>),
    /// NXDOMAIN, or no records.
    Nothing(&'static str),
    Failed(&'static str),
}

impl Said {
    fn of(heard: &Heard) -> Self {
        match &heard.said {
            Ok(answer) => Self::Addresses(answer.addresses.iter().copied().collect()),
            Err(LookupError::NoSuchName(_)) => Self::Nothing("NXDOMAIN"),
            Err(LookupError::NoAddress(_)) => Self::Nothing("no addresses"),
            Err(error) => Self::Failed(cause(error)),
        }
    }

    fn addresses(&self) -> Option<&BTreeSet<IpAddr>> {
        match self {
            Self::Addresses(addresses) => Some(addresses),
            _ => None,
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Addresses(addresses) => list(addresses),
            Self::Nothing(word) | Self::Failed(word) => (*word).to_owned(),
        }
    }
}

/// The cause of a look-up that found nothing.
fn cause(error: &LookupError) -> &'static str {
    match error.as_str() {
        "nxdomain" => "nxdomain",
        "empty" => "no_address",
        "servfail" => "servfail",
        "refused" => "dns_refused",
        "malformed" => "dns_malformed",
        // Nobody there, or no way to it.
        _ => "dns_timeout",
    }
}

/// What was found, and the addresses to go on with.
pub(super) fn judge(inquiry: &Inquiry<'_>) -> (Vec<Finding>, Vec<IpAddr>) {
    let said: Vec<_> = inquiry.heard.iter().map(|heard| (heard.server, Said::of(heard))).collect();
    let mut findings = Vec::from_iter(silent(inquiry, &said));
    findings.extend(addresses(inquiry, &said));
    let found = found(inquiry);
    if found.is_empty() {
        let why = "there is no address";
        findings.extend([AGREEMENT, PRIVATE].map(|check| Finding::behind(check, why)));
        return (findings, Vec::new());
    }
    if let Some(filter) = filter(inquiry, &said) {
        findings.push(Finding::skip(AGREEMENT, "a filter changes what one of them says"));
        findings.push(filter);
        return (findings, inside(inquiry, &said));
    }
    let agreement = agreement(inquiry, &said);
    let are_split = agreement.cause.is_some();
    findings.push(agreement);
    let (private, dialled) = private(inquiry, found, are_split);
    findings.push(private);
    (findings, dialled)
}

/// What the bridge would dial; if it finds nothing and another server does, what that one says.
fn found(inquiry: &Inquiry<'_>) -> Vec<IpAddr> {
    if let Ok(answer) = inquiry.own {
        return answer.addresses.clone();
    }
    let others = inquiry.heard.iter().filter_map(|heard| heard.said.as_ref().ok());
    others.flat_map(|answer| answer.addresses.clone()).collect()
}

/// Servers that say nothing, while others do.
fn silent(inquiry: &Inquiry<'_>, said: &[(SocketAddr, Said)]) -> Option<Finding> {
    let is_silent = |said: &Said| matches!(said, Said::Failed("dns_timeout"));
    let silent: Vec<_> = said.iter().filter(|(_, said)| is_silent(said)).collect();
    if silent.is_empty() || silent.len() == said.len() {
        return None;
    }
    let servers: Vec<_> = silent.iter().map(|(server, _)| server.to_string()).collect();
    let took = inquiry.heard.iter().filter(|heard| servers.contains(&heard.server.to_string()));
    let took = took.map(|heard| heard.took).max().unwrap_or(Duration::ZERO);
    let evidence = format!("no answer within {}", shown(took));
    Some(
        Finding::warn("name.resolvers", "resolver_silent", evidence)
            .of(servers.join(", "))
            .likely("the server is down, or a firewall drops what is sent to its port 53")
            .hint("take it out of /etc/resolv.conf (or nameserver), or let UDP and TCP to it pass"),
    )
}

/// A finding for each answer that was given.
fn addresses(inquiry: &Inquiry<'_>, said: &[(SocketAddr, Said)]) -> Vec<Finding> {
    let host = inquiry.host;
    let has_addresses = said.iter().any(|(_, said)| said.addresses().is_some());
    let mut findings = Vec::new();
    if let (Ok(own), true) = (inquiry.own, inquiry.is_pinned) {
        let evidence = format!("{}, by the hosts file", list(&own.addresses));
        if own.addresses.iter().all(IpAddr::is_loopback) {
            return vec![Finding::ok(ADDRESS, evidence).of("/etc/hosts")];
        }
        findings.push(
            Finding::warn(ADDRESS, "hosts_file", evidence)
                .of("/etc/hosts")
                .likely("the name is pinned: changes of the endpoint's addresses are not seen")
                .hint(format!("take {host} out of /etc/hosts, once DNS knows it")),
        );
        return findings;
    }
    if !has_addresses {
        if let Err(error) = inquiry.own {
            findings.push(absent(inquiry, error, said));
        }
        return findings;
    }
    for (at, (_, one)) in said.iter().enumerate() {
        if said[..at].iter().any(|(_, earlier)| earlier == one) {
            continue;
        }
        let alike = said.iter().filter(|(_, other)| other == one);
        let servers: Vec<_> = alike.map(|(server, _)| server.to_string()).collect();
        let servers = servers.join(", ");
        match one {
            Said::Addresses(addresses) => {
                let ttl = inquiry.heard[at].said.as_ref().map_or(0, |answer| answer.ttl.as_secs());
                let evidence = format!("{} (TTL {ttl} s)", list(addresses));
                findings.push(Finding::ok(ADDRESS, evidence).of(servers));
            }
            Said::Failed(cause @ ("servfail" | "dns_refused" | "dns_malformed")) => findings.push(
                Finding::warn(ADDRESS, cause, "no answer that can be used")
                    .of(servers)
                    .likely("this server does not resolve such names; another one does")
                    .hint("take it out of /etc/resolv.conf (or nameserver)"),
            ),
            // Told of as silent, or as a disagreement.
            Said::Failed(_) | Said::Nothing(_) => {}
        }
    }
    findings
}

/// No server has an address.
fn absent(inquiry: &Inquiry<'_>, error: &LookupError, said: &[(SocketAddr, Said)]) -> Finding {
    let cause = cause(error);
    let finding = Finding::fail(ADDRESS, cause, crate::log::Chain(error).to_string());
    let servers: Vec<_> = said.iter().map(|(server, _)| server.to_string()).collect();
    let finding = finding.of(servers.join(", "));
    match cause {
        "nxdomain" | "no_address" => finding.advised(&inquiry.absence),
        "servfail" => finding
            .likely(
                "the DNS server cannot reach those that know the name, or its DNSSEC is broken; in a \
                 VPC, the rule that forwards the zone leads nowhere",
            )
            .hint(format!("ask another server, such as the VPC's own:\ndig {} @169.254.169.253", inquiry.host)),
        "dns_refused" => finding
            .likely("the DNS server does not answer this host, or not for such names")
            .hint("use one that does: the VPC's own is 169.254.169.253 on AWS (--nameserver)"),
        "dns_malformed" => finding
            .likely("what answers there is no DNS server, or something on the way changes answers")
            .hint("use another DNS server (--nameserver)"),
        _ => finding.advised(&unreached()),
    }
}

/// What is likely when DNS servers say nothing.
pub(super) fn unreached() -> Advice {
    Advice {
        likely: "no DNS server is reached: it is down, or UDP and TCP to port 53 are dropped"
            .into(),
        hint: "let this host reach it, or use another (--nameserver); on AWS the VPC's own is \
               169.254.169.253, and it answers only if the VPC has enableDnsSupport"
            .into(),
    }
}

/// The private addresses of those that are not filtered: with them the rest can be looked at.
fn inside(inquiry: &Inquiry<'_>, said: &[(SocketAddr, Said)]) -> Vec<IpAddr> {
    let known = said.iter().filter_map(|(_, said)| said.addresses()).flatten();
    let inside: BTreeSet<_> =
        known.copied().filter(|address| is_inside(address, inquiry.also_private)).collect();
    inside.into_iter().collect()
}

fn is_nowhere(address: &IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

fn is_inside(address: &IpAddr, also_private: &[IpNet]) -> bool {
    address.is_ipv4() && !is_nowhere(address) && !is_public(*address, also_private)
}

/// A resolver that guards against DNS rebinding leaves private addresses out, or puts others there.
fn filter(inquiry: &Inquiry<'_>, said: &[(SocketAddr, Said)]) -> Option<Finding> {
    if inquiry.is_pinned {
        return None;
    }
    let has_inside = |said: &Said| {
        let all = said.addresses();
        all.is_some_and(|all| all.iter().any(|one| is_inside(one, inquiry.also_private)))
    };
    let is_filtered = |said: &Said| match said {
        Said::Addresses(all) => all.iter().all(is_nowhere),
        Said::Nothing(word) => *word == "no addresses",
        Said::Failed(_) => false,
    };
    let is_zero =
        |said: &Said| said.addresses().is_some_and(|all| all.iter().all(IpAddr::is_unspecified));
    let another_knows = said.iter().any(|(_, said)| has_inside(said));
    let (server, what) =
        said.iter().find(|(_, said)| is_zero(said) || (another_knows && is_filtered(said)))?;
    let known = said.iter().find(|(_, said)| has_inside(said));
    let beside = known.map(|(server, said)| format!(", and {server} says {}", said.shown()));
    let evidence = format!("{server} says {}{}", what.shown(), beside.unwrap_or_default());
    Some(
        Finding::fail(PRIVATE, "rebinding_filter", evidence)
            .of(server)
            .likely(
                "this DNS server leaves private addresses out of public names, as a guard against \
                 DNS rebinding",
            )
            .hint(format!(
                "except the name there (dnsmasq: rebind-domain-ok=/{0}/; unbound: private-domain: \
                 \"{0}\"), or ask another server (--nameserver)",
                inquiry.host
            )),
    )
}

fn agreement(inquiry: &Inquiry<'_>, said: &[(SocketAddr, Said)]) -> Finding {
    if inquiry.is_pinned {
        return Finding::skip(AGREEMENT, "the hosts file decides, whatever DNS servers say");
    }
    let telling: Vec<_> =
        said.iter().filter(|(_, said)| !matches!(said, Said::Failed(_))).collect();
    let [(_, first), others @ ..] = telling.as_slice() else {
        return Finding::skip(AGREEMENT, "no DNS server has answered");
    };
    if others.is_empty() {
        return Finding::skip(
            AGREEMENT,
            "one DNS server has answered, so there is nobody to disagree",
        );
    }
    if others.iter().all(|(_, other)| other == first) {
        return Finding::ok(AGREEMENT, format!("{} servers say the same", telling.len()));
    }
    let all: Vec<_> =
        telling.iter().map(|(server, said)| format!("{server} says {}", said.shown())).collect();
    let evidence = all.join("; ");
    let kind = |said: &Said| {
        said.addresses().map(|all| all.iter().all(|one| is_public(*one, inquiry.also_private)))
    };
    let is_apart = others.iter().any(|(_, other)| kind(other) != kind(first));
    let shares = |other: &Said| match (first.addresses(), other.addresses()) {
        (Some(one), Some(other)) => !one.is_disjoint(other),
        _ => false,
    };
    let is_disjoint = !others.iter().all(|(_, other)| shares(other));
    if !is_apart && !is_disjoint {
        return Finding::ok(AGREEMENT, format!("not quite the same, but not apart: {evidence}"));
    }
    let likely = "one of them knows the private zone and another does not, or one has old answers; \
                  which one is asked changes from one look-up to the next";
    let hint = "leave only servers that know it, in /etc/resolv.conf or by --nameserver; on AWS the \
                VPC's own is 169.254.169.253";
    match is_apart || inquiry.is_privatelink {
        true => Finding::fail(AGREEMENT, "split_answers", evidence).likely(likely).hint(hint),
        // Readers of a cluster take turns in DNS.
        false => Finding::warn(AGREEMENT, "split_answers", evidence)
            .likely("the name has other addresses from one answer to the next")
            .hint("nothing needs to be done if it is the name of several readers"),
    }
}

fn private(inquiry: &Inquiry<'_>, found: Vec<IpAddr>, are_split: bool) -> (Finding, Vec<IpAddr>) {
    let text = described(&found, inquiry.also_private);
    if !inquiry.requires_private {
        let is_exposed = found.iter().any(|one| is_public(*one, inquiry.also_private));
        let finding = match is_exposed && inquiry.is_privatelink {
            true => Finding::warn(PRIVATE, "public_address", text).advised(&inquiry.exposure),
            false => Finding::ok(PRIVATE, text),
        };
        return (finding, found);
    }
    match private_only(found, inquiry.also_private) {
        Ok(dialled) => (Finding::ok(PRIVATE, text), dialled),
        Err(_) if are_split => {
            let others = inquiry.heard.iter().filter_map(|heard| heard.said.as_ref().ok());
            let others = others.flat_map(|answer| answer.addresses.clone());
            let dialled = private_only(others.collect(), inquiry.also_private).unwrap_or_default();
            let why = "public or private: the DNS servers do not agree";
            (Finding::skip(PRIVATE, why), dialled)
        }
        Err(_) => {
            let finding = Finding::fail(PRIVATE, "public_address", text);
            (finding.advised(&inquiry.exposure), Vec::new())
        }
    }
}

/// What kind of addresses they are.
pub(super) fn described(addresses: &[IpAddr], also_private: &[IpNet]) -> String {
    let all =
        addresses.iter().map(|address| format!("{address} is {}", kind(*address, also_private)));
    all.collect::<Vec<_>>().join("; ")
}

fn kind(address: IpAddr, also_private: &[IpNet]) -> &'static str {
    let IpAddr::V4(v4) = address.to_canonical() else {
        return match address.is_loopback() {
            true => "this host",
            false => "IPv6, which does not tell",
        };
    };
    let carriers: IpNet = IpNet::new_assert(Ipv4Addr::new(100, 64, 0, 0).into(), 10);
    match () {
        () if v4.is_loopback() => "this host",
        () if v4.is_private() => "private",
        () if v4.is_link_local() => "link-local",
        () if carriers.contains(&IpAddr::V4(v4)) => "carrier-grade NAT, which counts as private",
        () if is_public(address, also_private) => "public",
        () => "private by private_cidrs",
    }
}

fn list<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> String {
    addresses.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
