//! Asks DNS for a gateway's addresses.
//!
//! hickory does the asking: CNAME chains, truncation. Which of several servers is asked when, and for
//! which names, is decided here, and how long an answer holds by [`super::Upstream`]: its cache is off.
//!
//! The hosts file goes first, and what it has of a name is all there is. Search domains are gone through
//! as glibc does, for both address types together, and only as long as the servers say that there is
//! nothing: a failure of theirs says nothing of the name, so it must not lead to a search domain's.

use std::net::{IpAddr, SocketAddr};
use std::panic::resume_unwind;
use std::pin::pin;
use std::time::{Duration, Instant};

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Hosts, TokioResolver};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::LookupError;
use super::candidates::candidates;

/// Time for one server to answer one query. Within it hickory sends a datagram up to three times and
/// takes an answer to any of them.
const QUERY: Duration = Duration::from_secs(3);

/// How long a server may be silent before the next one is asked as well.
const NEXT_SERVER: Duration = Duration::from_millis(500);

/// Time that the look-up of one address type gets after the other has answered.
const OTHER_TYPE: Duration = Duration::from_secs(1);

/// A name's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// IPv4 first, each family in the order of the answer, without repetitions; never empty.
    pub addresses: Vec<IpAddr>,
    /// The lowest TTL on the way to them.
    pub ttl: Duration,
    /// The family that could not be asked: it may have addresses all the same.
    pub missing: Option<Family>,
    /// DNS has them under the name as it is, without a search domain.
    pub is_absolute: bool,
}

impl Answer {
    fn none_yet() -> Self {
        Self { addresses: Vec::new(), ttl: Duration::MAX, missing: None, is_absolute: false }
    }

    fn add(&mut self, lookup: &Lookup) {
        let known = self.addresses.len();
        for record in lookup.answers() {
            let address = match &record.data {
                RData::A(a) => IpAddr::V4(a.0),
                RData::AAAA(aaaa) => IpAddr::V6(aaaa.0),
                _ => continue,
            };
            if !self.addresses.contains(&address) {
                self.addresses.push(address);
            }
        }
        if self.addresses.len() > known {
            // CNAMEs on the way are among the answers.
            let lowest = lookup.answers().iter().map(|record| record.ttl).min();
            self.ttl = self.ttl.min(Duration::from_secs(lowest.unwrap_or_default().into()));
        }
    }
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

impl Family {
    /// An address's.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// What one DNS server says when it is asked alone.
#[derive(Debug)]
pub struct Heard {
    /// The server.
    pub server: SocketAddr,
    /// Until it had answered for both address types, or was given up.
    pub took: Duration,
    /// Its answer.
    pub said: Result<Answer, LookupError>,
}

/// Asks each DNS server alone, all at once, and not the hosts file; in the order of the servers. Those
/// of the system if `nameservers` is empty.
pub async fn ask_each(nameservers: &[SocketAddr], host: &str) -> Result<Vec<Heard>, LookupError> {
    let resolver = Resolver::new(nameservers, host);
    let Way { names, servers } = resolver.way()?;
    let mut heard = Vec::new();
    for (server, alone) in servers {
        let (host, names) = (host.to_owned(), names.clone());
        let began = Instant::now();
        let asked = tokio::spawn(async move {
            let said = search(&[alone], &names, &host).await;
            (began.elapsed(), said)
        });
        heard.push((server, began, asked));
    }
    let mut all = Vec::new();
    for (server, began, asked) in heard {
        let (took, said) = match asked.await {
            Ok((took, said)) => (took, said),
            Err(_) => (began.elapsed(), Err(LookupError::Panicked(host.to_owned()))),
        };
        all.push(Heard { server, took, said });
    }
    Ok(all)
}

/// A name, and the DNS servers to ask for it.
#[derive(Debug, Clone)]
pub(super) struct Resolver {
    nameservers: Vec<SocketAddr>,
    host: String,
}

impl Resolver {
    /// Empty `nameservers`: those of the system.
    pub fn new(nameservers: &[SocketAddr], host: &str) -> Self {
        Self { nameservers: nameservers.to_vec(), host: host.to_owned() }
    }

    /// The bridge's own way to ask: the hosts file, then the servers. Once the name has been found as it
    /// is, it is `absolute`: no search domain may stand in for it.
    ///
    /// A panic is an error like others: the look-ups must go on as long as the bridge does.
    pub async fn lookup(&self, absolute: bool) -> Result<Answer, LookupError> {
        let resolver = self.clone();
        let asked = tokio::spawn(async move { resolver.ask(absolute).await });
        asked.await.unwrap_or_else(|_| Err(LookupError::Panicked(self.host.clone())))
    }

    async fn ask(&self, absolute: bool) -> Result<Answer, LookupError> {
        if let Some(answer) = in_hosts_file(&self.name()?) {
            return Ok(answer);
        }
        let Way { mut names, servers } = self.way()?;
        names.retain(|(_, is_absolute)| *is_absolute || !absolute);
        let servers: Vec<_> = servers.into_iter().map(|(_, server)| server).collect();
        search(&servers, &names, &self.host).await
    }

    fn name(&self) -> Result<Name, LookupError> {
        Name::from_utf8(&self.host)
            .map_err(|error| LookupError::Failed(self.host.clone(), error.into()))
    }

    /// What is asked, and a resolver for each DNS server. They last for one look-up: built anew, they
    /// see a change of `/etc/resolv.conf`.
    fn way(&self) -> Result<Way, LookupError> {
        let (config, mut options) = match self.nameservers.as_slice() {
            [] => read_system_conf().map_err(LookupError::System)?,
            servers => {
                let servers = servers.iter().copied().map(name_server).collect();
                (ResolverConfig::from_name_servers(servers), ResolverOpts::default())
            }
        };
        // The system may ask for less patience, not for more: clients may be waiting for the first
        // look-up.
        options.timeout = options.timeout.min(QUERY);
        // What failed is asked for again by the next server, and by the next look-up.
        options.attempts = 0;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        let (domain, search, servers) = config.into_parts();
        // As glibc has it: the domain of this host is only searched where there is no list.
        let domains = if search.is_empty() { domain.as_slice() } else { &search };
        let names = candidates(&self.name()?, domains, options.ndots);
        let alone = |server: NameServerConfig| {
            let port = server.connections.first().map_or(53, |connection| connection.port);
            let address = SocketAddr::new(server.ip, port);
            let config = ResolverConfig::from_name_servers(vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
                .with_options(options.clone())
                .build()
                .map(|resolver| (address, resolver))
                .map_err(LookupError::System)
        };
        let servers = servers.into_iter().map(alone).collect::<Result<_, _>>()?;
        Ok(Way { names, servers })
    }
}

/// How a name is looked up.
struct Way {
    /// The names that it may stand for, in the order to ask for them; whether it is the name as it is.
    names: Vec<(Name, bool)>,
    /// In the order to ask them.
    servers: Vec<(SocketAddr, TokioResolver)>,
}

fn in_hosts_file(name: &Name) -> Option<Answer> {
    let hosts = Hosts::from_system().unwrap_or_default();
    let mut answer = Answer::none_yet();
    for kind in [RecordType::A, RecordType::AAAA] {
        if let Some(found) = hosts.lookup_static_host(&Query::query(name.clone(), kind)) {
            answer.add(&found);
        }
    }
    (!answer.addresses.is_empty()).then_some(answer)
}

/// Asks for each of the `names` until one has addresses. Where the servers fail for one, only the name as
/// it is may still be asked for: a search domain that is out of order must not hide it, as it does not
/// for glibc.
async fn search(
    servers: &[TokioResolver],
    names: &[(Name, bool)],
    host: &str,
) -> Result<Answer, LookupError> {
    let mut none = LookupError::NoSuchName(host.to_owned());
    let mut failed = None;
    for (name, is_absolute) in names {
        if failed.is_some() && !is_absolute {
            continue;
        }
        match ask(servers, name, host).await {
            Ok(answer) => return Ok(Answer { is_absolute: *is_absolute, ..answer }),
            Err(LookupError::NoSuchName(_)) => {}
            Err(error @ LookupError::NoAddress(_)) => none = error,
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.unwrap_or(none))
}

/// Asks for A and AAAA at once; one of them is enough.
async fn ask(servers: &[TokioResolver], name: &Name, host: &str) -> Result<Answer, LookupError> {
    let v4 = first_answer(servers, name, RecordType::A);
    let v6 = first_answer(servers, name, RecordType::AAAA);
    let (v4, v6) = both(v4, v6).await;
    let mut answer = Answer::none_yet();
    let mut none = None;
    let mut failed = None;
    for (family, lookup) in [(Family::V4, v4), (Family::V6, v6)] {
        match lookup {
            Some(Ok(lookup)) => answer.add(&lookup),
            Some(Err(error)) if says_none(&error) => none = none.or(Some(error)),
            Some(Err(error)) => {
                answer.missing = Some(family);
                failed = failed.or(Some(error));
            }
            None => answer.missing = Some(family),
        }
    }
    if !answer.addresses.is_empty() {
        return Ok(answer);
    }
    match failed.or(none) {
        Some(error) => Err(LookupError::of(host, error)),
        None => Err(LookupError::NoAddress(host.to_owned())),
    }
}

/// Asks the servers in their order and takes the first answer, also if it is that there is nothing.
/// The next one is asked when one has failed or was silent for [`NEXT_SERVER`].
///
/// hickory would ask several servers by itself, but takes a SERVFAIL, a REFUSED or garbage from one
/// of them for the answer of all.
async fn first_answer(
    servers: &[TokioResolver],
    name: &Name,
    kind: RecordType,
) -> Result<Lookup, NetError> {
    let mut waiting = servers.iter().enumerate();
    let mut asked = JoinSet::new();
    let mut failures = Vec::new();
    loop {
        if let Some((rank, server)) = waiting.next() {
            let (server, name) = (server.clone(), name.clone());
            asked.spawn(async move { (rank, server.lookup(name, kind).await) });
        }
        let patience = if waiting.len() > 0 { NEXT_SERVER } else { Duration::MAX };
        match timeout(patience, asked.join_next()).await {
            Err(_) => {}
            Ok(Some(Ok((_, Ok(lookup))))) => return Ok(lookup),
            Ok(Some(Ok((_, Err(error))))) if says_none(&error) => return Err(error),
            Ok(Some(Ok((rank, Err(error))))) => failures.push((rank, error)),
            // Nobody cancels them: it has panicked.
            Ok(Some(Err(panicked))) => resume_unwind(panicked.into_panic()),
            Ok(None) => return Err(most_telling(failures)),
        }
    }
}

/// What failed with the first server, unless that is silence and another one has said something.
fn most_telling(mut failures: Vec<(usize, NetError)>) -> NetError {
    failures.sort_by_key(|(rank, error)| (matches!(error, NetError::Timeout), *rank));
    failures.into_iter().next().map_or(NetError::NoConnections, |(_, error)| error)
}

/// Whether the name or the type does not exist: an answer, not a failure.
fn says_none(error: &NetError) -> bool {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
        }
        _ => false,
    }
}

/// Runs two look-ups at once. When one has found something, the other has [`OTHER_TYPE`] left: a
/// server that drops AAAA queries must not hold the IPv4 addresses back.
async fn both(
    a: impl Future<Output = Result<Lookup, NetError>>,
    b: impl Future<Output = Result<Lookup, NetError>>,
) -> (Option<Result<Lookup, NetError>>, Option<Result<Lookup, NetError>>) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    tokio::select! {
        first = &mut a => match first {
            Ok(_) => (Some(first), timeout(OTHER_TYPE, b).await.ok()),
            Err(_) => (Some(first), Some(b.await)),
        },
        first = &mut b => match first {
            Ok(_) => (timeout(OTHER_TYPE, a).await.ok(), Some(first)),
            Err(_) => (Some(a.await), Some(first)),
        },
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}
