//! An embedded authoritative DNS server: the demo's gateway name, and the tests'.
//!
//! It knows the names that it was told, each with A and AAAA records and a TTL, and can be told
//! otherwise at any time. It lies on command: see [`Lie`]. It serves from a thread of its own, so
//! that a test without a runtime can have one too, and ends with its handle.
//!
//! The sockets are served here and not by a crate, because no well-behaved server sends what the
//! lies need: garbage, another question's id, nothing.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, SOA};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// How long a TCP connection may stay silent.
const TCP_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept or receive: what failed may fail again at once.
const BREATH: Duration = Duration::from_millis(10);
/// How long the answer that a name does not exist may be remembered, in seconds.
const NEGATIVE_TTL: u32 = 1;
/// The largest UDP answer offered by EDNS, in bytes. Source: DNS flag day 2020.
const UDP_PAYLOAD: u16 = 1232;
/// The label of a link of a CNAME chain, before its number.
const LINK: &str = "link";

/// A running DNS server. When it is dropped its port is free again.
///
/// It panics when it is given a name that is none: a mistake of the demo or the test.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    zone: SharedZone,
    /// Dropped, it ends the thread.
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DnsServer {
    /// Serves UDP and TCP at `bind`, on the same port (0 picks one).
    pub fn start(bind: SocketAddr) -> io::Result<Self> {
        let (udp, tcp) = sockets(bind)?;
        let address = udp.local_addr()?;
        let zone = SharedZone::default();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        {
            let _inside = runtime.enter();
            let udp = net::UdpSocket::from_std(udp)?;
            let tcp = net::TcpListener::from_std(tcp)?;
            runtime.spawn(serve_udp(Arc::new(udp), zone.clone()));
            runtime.spawn(serve_tcp(tcp, zone.clone()));
        }
        let (end, ended) = oneshot::channel();
        let thread = thread::Builder::new().name("demo-dns".to_owned()).spawn(move || {
            // The sender is dropped, never used: either outcome means the end.
            let _ = runtime.block_on(ended);
        })?;
        Ok(Self { address, zone, end: Some(end), thread: Some(thread) })
    }

    /// Where it listens, for UDP and TCP alike.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `name` (with or without the final dot) truly has these addresses, in this order,
    /// and `ttl` seconds to live; without any addresses it exists and has none. Lies about it go on.
    pub fn set(&self, name: &str, addresses: &[IpAddr], ttl: u32) {
        let truth = Truth { addresses: addresses.to_vec(), ttl };
        self.zone.lock().truths.insert(lower(name), truth);
    }

    /// From now on questions for the addresses of `name` are answered so.
    pub fn lie(&self, name: &str, lie: Lie) {
        self.lie_about(name, RecordType::A, lie.clone());
        self.lie_about(name, RecordType::AAAA, lie);
    }

    /// As [`Self::lie`], for one record type alone.
    pub fn lie_about(&self, name: &str, kind: RecordType, lie: Lie) {
        self.zone.lock().lies.insert((lower(name), kind), lie);
    }

    /// From now on the truth is told about `name`.
    pub fn end_lies(&self, name: &str) {
        let name = lower(name);
        self.zone.lock().lies.retain(|(of, _), _| *of != name);
    }

    /// How many questions of this type were asked, for whatever name.
    pub fn queries(&self, kind: RecordType) -> u64 {
        [Transport::Udp, Transport::Tcp].map(|by| self.queries_over(by, kind)).iter().sum()
    }

    /// How many of them came this way.
    pub fn queries_over(&self, transport: Transport, kind: RecordType) -> u64 {
        self.zone.lock().queries.get(&(transport, kind)).copied().unwrap_or_default()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.end.take();
        if let Some(thread) = self.thread.take() {
            // It has panicked if this fails; then it has ended as well.
            let _ = thread.join();
        }
    }
}

/// What is answered in place of the truth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lie {
    /// There is no such name.
    NxDomain,
    /// The name exists and has nothing of the kind.
    NoData,
    /// The server could not find out.
    ServFail,
    /// The server does not want to tell.
    Refused,
    /// No answer at all.
    Silence,
    /// Bytes that begin like an answer to the question and are none; others each time.
    Garbage,
    /// The truth, over TCP only: over UDP an empty answer that says it is not all.
    Truncated,
    /// The truth under the id of another question.
    WrongId,
    /// The truth as an answer to a question about another name.
    WrongQuestion,
    /// The truth behind as many CNAMEs as there are TTLs here, all in one message.
    Chain(Vec<u32>),
    /// As [`Self::Chain`], but a message tells one link only: each has to be asked for.
    Links(Vec<u32>),
    /// The truth, that much later.
    Late(Duration),
}

/// How a question came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

fn lower(name: &str) -> LowerName {
    let mut name = Name::from_ascii(name).expect("the caller gives a DNS name");
    name.set_fqdn(true);
    LowerName::new(&name)
}

/// Binds both sockets. A port picked for UDP may be taken for TCP: then another is tried.
fn sockets(bind: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    const ATTEMPTS: usize = 16;
    let mut attempt = 1;
    loop {
        let udp = UdpSocket::bind(bind)?;
        match TcpListener::bind(udp.local_addr()?) {
            Ok(tcp) => {
                udp.set_nonblocking(true)?;
                tcp.set_nonblocking(true)?;
                return Ok((udp, tcp));
            }
            Err(_) if bind.port() == 0 && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

#[derive(Debug, Clone, Default)]
struct SharedZone(Arc<Mutex<Zone>>);

impl SharedZone {
    /// A panic while the zone is locked leaves it whole: every change is a single step.
    fn lock(&self) -> MutexGuard<'_, Zone> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve_udp(socket: Arc<net::UdpSocket>, zone: SharedZone) {
    let mut question = vec![0; usize::from(u16::MAX)];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut question).await else {
            sleep(BREATH).await;
            continue;
        };
        let reply = zone.lock().reply(&question[..length], Transport::Udp);
        let Some(reply) = reply else { continue };
        let socket = Arc::clone(&socket);
        tokio::spawn(async move {
            sleep(reply.after).await;
            // Without an answer the client asks again.
            let _ = socket.send_to(&reply.bytes, from).await;
        });
    }
}

async fn serve_tcp(listener: net::TcpListener, zone: SharedZone) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(answer_stream(stream, zone.clone()))),
            Err(_) => sleep(BREATH).await,
        }
    }
}

/// Answers questions that each come behind their length, until the client has no more.
async fn answer_stream(mut stream: net::TcpStream, zone: SharedZone) -> io::Result<()> {
    while let Ok(length) = timeout(TCP_TIMEOUT, stream.read_u16()).await {
        let mut question = vec![0; usize::from(length?)];
        timeout(TCP_TIMEOUT, stream.read_exact(&mut question)).await??;
        let reply = zone.lock().reply(&question, Transport::Tcp);
        let Some(reply) = reply else { continue };
        sleep(reply.after).await;
        let length = u16::try_from(reply.bytes.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), reply.bytes.as_slice()].concat()).await?;
    }
    Ok(())
}

/// Names, what is true of them, and what is said of them.
#[derive(Debug, Default)]
struct Zone {
    truths: HashMap<LowerName, Truth>,
    lies: HashMap<(LowerName, RecordType), Lie>,
    queries: HashMap<(Transport, RecordType), u64>,
}

#[derive(Debug, Clone)]
struct Truth {
    addresses: Vec<IpAddr>,
    ttl: u32,
}

/// An answer, and how long to wait before it is sent.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    after: Duration,
    bytes: Vec<u8>,
}

/// What goes out, in the sections of a DNS message.
struct Sections {
    code: ResponseCode,
    answers: Vec<Record>,
    soa: Option<Record>,
}

impl Sections {
    fn code(code: ResponseCode) -> Self {
        Self { code, answers: Vec::new(), soa: None }
    }

    /// Nothing, and the SOA that lets a resolver remember that for `ttl` seconds (RFC 2308).
    fn none(code: ResponseCode, name: &Name, ttl: u32) -> Self {
        let zone = name.base_name();
        let data = SOA::new(zone.clone(), zone.clone(), 1, 3600, 600, 86_400, ttl);
        Self { soa: Some(Record::from_rdata(zone, ttl, RData::SOA(data))), ..Self::code(code) }
    }
}

impl Zone {
    /// Answers the bytes of a question; nothing if they are none, or to be silent about it.
    fn reply(&mut self, question: &[u8], transport: Transport) -> Option<Reply> {
        let question = Message::from_vec(question).ok()?;
        let mut answer = Message::query();
        answer.metadata = Metadata::response_from_request(&question.metadata);
        answer.queries = question.queries.clone();
        // Who asks with EDNS is answered with it (RFC 6891).
        answer.edns = question.edns.as_ref().map(|_| {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD);
            edns
        });
        let mut after = Duration::ZERO;
        match question.queries.first() {
            None => answer.metadata.response_code = ResponseCode::FormErr,
            Some(_) if question.op_code != OpCode::Query => {
                answer.metadata.response_code = ResponseCode::NotImp;
            }
            Some(query) => {
                *self.queries.entry((transport, query.query_type())).or_default() += 1;
                let (name, link) = self.owner(query.name());
                let lie = self.lies.get(&(name.clone(), query.query_type()));
                let sections = self.sections(&name, link, query, lie);
                answer.metadata.authoritative = true;
                answer.metadata.response_code = sections.code;
                answer.answers = sections.answers;
                answer.authorities = sections.soa.into_iter().collect();
                match lie {
                    Some(Lie::Silence) => return None,
                    Some(Lie::Garbage) => return Some(garbage(question.id)),
                    Some(Lie::WrongId) => answer.metadata.id = !question.id,
                    Some(Lie::WrongQuestion) => {
                        let other = linked(query.name(), 0);
                        answer.queries = vec![Query::query(other, query.query_type())];
                    }
                    Some(Lie::Late(time)) => after = *time,
                    Some(Lie::Truncated) if transport == Transport::Udp => {
                        answer = answer.truncate();
                    }
                    _ => {}
                }
            }
        }
        let mut bytes = answer.to_vec().ok()?;
        let largest = question.max_payload().min(UDP_PAYLOAD);
        if transport == Transport::Udp && bytes.len() > largest.into() {
            bytes = answer.truncate().to_vec().ok()?;
        }
        Some(Reply { after, bytes })
    }

    /// Whose name this is, and which link of its CNAME chain; 0 is the name itself.
    fn owner(&self, name: &Name) -> (LowerName, usize) {
        let label = name.iter().next().and_then(|label| str::from_utf8(label).ok());
        let number = label.and_then(|label| label.strip_prefix(LINK)?.parse().ok());
        let whole = LowerName::new(name);
        match number {
            Some(number) if !self.truths.contains_key(&whole) => {
                (LowerName::new(&name.base_name()), number)
            }
            _ => (whole, 0),
        }
    }

    /// The records for a question about `name`, or about a link of its chain.
    fn sections(
        &self,
        name: &LowerName,
        link: usize,
        query: &Query,
        lie: Option<&Lie>,
    ) -> Sections {
        let (asked, kind) = (query.name(), query.query_type());
        let ttls = match lie {
            Some(Lie::NxDomain) => {
                return Sections::none(ResponseCode::NXDomain, asked, NEGATIVE_TTL);
            }
            Some(Lie::NoData) => return Sections::none(ResponseCode::NoError, asked, NEGATIVE_TTL),
            Some(Lie::ServFail) => return Sections::code(ResponseCode::ServFail),
            Some(Lie::Refused) => return Sections::code(ResponseCode::Refused),
            Some(Lie::Chain(ttls) | Lie::Links(ttls)) => ttls.as_slice(),
            _ => &[],
        };
        let Some(truth) = self.truths.get(name).filter(|_| link <= ttls.len()) else {
            return Sections::none(ResponseCode::NXDomain, asked, NEGATIVE_TTL);
        };
        let mut owner = asked.clone();
        let mut answers = Vec::new();
        for (number, ttl) in (1..).zip(ttls).skip(link) {
            let next = linked(&Name::from(name), number);
            let data = RData::CNAME(CNAME(next.clone()));
            answers.push(Record::from_rdata(owner, *ttl, data));
            owner = next;
            if matches!(lie, Some(Lie::Links(_))) {
                return Sections { answers, ..Sections::code(ResponseCode::NoError) };
            }
        }
        let links = answers.len();
        let data = truth.addresses.iter().filter_map(|address| match (address, kind) {
            (IpAddr::V4(v4), RecordType::A) => Some(RData::A((*v4).into())),
            (IpAddr::V6(v6), RecordType::AAAA) => Some(RData::AAAA((*v6).into())),
            _ => None,
        });
        answers.extend(data.map(|data| Record::from_rdata(owner.clone(), truth.ttl, data)));
        let rest = match answers.len() - links {
            0 => Sections::none(ResponseCode::NoError, &owner, truth.ttl),
            _ => Sections::code(ResponseCode::NoError),
        };
        Sections { answers, ..rest }
    }
}

/// The name of a link of the chain of `name`.
fn linked(name: &Name, number: usize) -> Name {
    name.prepend_label(format!("{LINK}{number}")).expect("the name leaves room for a label")
}

/// The header of an answer with more of everything than there are bytes, and then noise.
fn garbage(id: u16) -> Reply {
    let noise = (1..=64).map(|at: u16| id.wrapping_mul(at) as u8);
    let header = [&id.to_be_bytes()[..], &[0x81, 0x80], &[0xff; 8]].concat();
    Reply { after: Duration::ZERO, bytes: header.into_iter().chain(noise).collect() }
}
