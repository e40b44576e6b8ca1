//! An embedded authoritative DNS server: the demo's gateway name, and the tests'.
//!
//! It knows the names that it was told, each with A and AAAA records and a TTL, and can be told
//! otherwise at any time. It serves from a thread of its own, so that a test without a runtime can
//! have one too, and ends with its handle.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hickory_proto::op::{Edns, Header, HeaderCounts, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::runtime::{self, Runtime};
use tokio::sync::oneshot;

/// How long the answer that a name does not exist may be remembered, in seconds.
const NEGATIVE_TTL: u32 = 1;
/// How long a TCP connection may stay silent.
const TCP_TIMEOUT: Duration = Duration::from_secs(30);
/// Answers that may wait for a slow TCP client.
const TCP_ANSWERS: usize = 32;
/// The largest UDP answer offered by EDNS, in bytes. Source: DNS flag day 2020.
const UDP_PAYLOAD: u16 = 1232;

/// A running DNS server. When it is dropped its port is free again.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    zone: Arc<Zone>,
    /// Dropped, it ends the thread.
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DnsServer {
    /// Serves UDP and TCP at `bind`, on the same port (0 picks one).
    pub fn start(bind: SocketAddr) -> io::Result<Self> {
        let (udp, tcp) = sockets(bind)?;
        let address = udp.local_addr()?;
        let zone = Arc::new(Zone::default());
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let server = serve(&runtime, Handler(zone.clone()), udp, tcp)?;
        let (end, ended) = oneshot::channel();
        let thread = thread::Builder::new().name("demo-dns".to_owned()).spawn(move || {
            // The sender is dropped, never used: either outcome means the end.
            let _ = runtime.block_on(ended);
            drop(server);
        })?;
        Ok(Self { address, zone, end: Some(end), thread: Some(thread) })
    }

    /// Where it listens, for UDP and TCP alike.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `name` (with or without the final dot) has these addresses, in this order, and
    /// `ttl` seconds to live; without any addresses it exists and has none.
    ///
    /// # Panics
    ///
    /// If `name` is no DNS name, which is a mistake of the demo or the test.
    pub fn set(&self, name: &str, addresses: &[IpAddr], ttl: u32) {
        let mut name = Name::from_ascii(name).expect("the caller gives a DNS name");
        name.set_fqdn(true);
        let answer = Answer { addresses: addresses.to_vec(), ttl };
        lock(&self.zone.answers).insert(LowerName::new(&name), answer);
    }

    /// How many questions of this type were asked, for whatever name.
    pub fn queries(&self, kind: RecordType) -> u64 {
        lock(&self.zone.queries).get(&kind).copied().unwrap_or_default()
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

/// Binds both sockets. A port picked for UDP may be taken for TCP: then another is tried.
fn sockets(bind: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    const ATTEMPTS: usize = 16;
    let mut attempt = 1;
    loop {
        let udp = UdpSocket::bind(bind)?;
        match TcpListener::bind(udp.local_addr()?) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(_) if bind.port() == 0 && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Puts the sockets to work on `runtime`, for as long as the server lives.
fn serve(
    runtime: &Runtime,
    handler: Handler,
    udp: UdpSocket,
    tcp: TcpListener,
) -> io::Result<Server<Handler>> {
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    let _inside = runtime.enter();
    let mut server = Server::new(handler);
    server.register_socket(tokio::net::UdpSocket::from_std(udp)?);
    server.register_listener(tokio::net::TcpListener::from_std(tcp)?, TCP_TIMEOUT, TCP_ANSWERS);
    Ok(server)
}

#[derive(Debug, Default)]
struct Zone {
    answers: Mutex<HashMap<LowerName, Answer>>,
    queries: Mutex<HashMap<RecordType, u64>>,
}

#[derive(Debug, Clone)]
struct Answer {
    addresses: Vec<IpAddr>,
    ttl: u32,
}

/// A panic while a map is locked leaves it whole: every change is a single insertion.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What goes out, in the sections of a DNS message.
struct Sections {
    code: ResponseCode,
    answers: Vec<Record>,
    soa: Option<Record>,
}

impl Zone {
    /// Answers a question: addresses, or NXDOMAIN, or the SOA that says there is nothing of the kind.
    fn answer(&self, name: &LowerName, kind: RecordType) -> Sections {
        *lock(&self.queries).entry(kind).or_default() += 1;
        let owner = Name::from(name);
        let Some(answer) = lock(&self.answers).get(name).cloned() else {
            let soa = Some(soa(&owner, NEGATIVE_TTL));
            return Sections { code: ResponseCode::NXDomain, answers: Vec::new(), soa };
        };
        let data = answer.addresses.iter().filter_map(|address| match (address, kind) {
            (IpAddr::V4(v4), RecordType::A) => Some(RData::A((*v4).into())),
            (IpAddr::V6(v6), RecordType::AAAA) => Some(RData::AAAA((*v6).into())),
            _ => None,
        });
        let answers: Vec<_> =
            data.map(|data| Record::from_rdata(owner.clone(), answer.ttl, data)).collect();
        let soa = answers.is_empty().then(|| soa(&owner, answer.ttl));
        Sections { code: ResponseCode::NoError, answers, soa }
    }
}

/// The record that lets a resolver remember a negative answer, for `ttl` seconds (RFC 2308).
fn soa(name: &Name, ttl: u32) -> Record {
    let zone = name.base_name();
    let data = SOA::new(zone.clone(), zone.clone(), 1, 3600, 600, 86_400, ttl);
    Record::from_rdata(zone, ttl, RData::SOA(data))
}

struct Handler(Arc<Zone>);

impl Handler {
    async fn respond<R: ResponseHandler>(&self, request: &Request, mut out: R) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        let sections = match request.request_info() {
            Ok(info) if metadata.op_code == OpCode::Query => {
                metadata.authoritative = true;
                self.0.answer(info.query.name(), info.query.query_type())
            }
            Ok(_) => refusal(ResponseCode::NotImp),
            Err(_) => refusal(ResponseCode::FormErr),
        };
        metadata.response_code = sections.code;

        // Who asks with EDNS is answered with it (RFC 6891).
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD);
        let edns = request.edns.as_ref().map(|_| &edns);
        let response = MessageResponseBuilder::new(&request.queries, edns).build(
            metadata,
            &sections.answers,
            [],
            &sections.soa,
            [],
        );
        // Without an answer the client asks again; what is returned here only goes to hickory's log.
        out.send_response(response).await.unwrap_or_else(|_| {
            ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
        })
    }
}

fn refusal(code: ResponseCode) -> Sections {
    Sections { code, answers: Vec::new(), soa: None }
}

/// Written out as the `async_trait` macro would, which hickory declares the method with.
impl RequestHandler for Handler {
    fn handle_request<'life0, 'life1, 'async_trait, R, T>(
        &'life0 self,
        request: &'life1 Request,
        out: R,
    ) -> Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'async_trait>>
    where
        R: ResponseHandler + 'async_trait,
        T: Time + 'async_trait,
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(self.respond(request, out))
    }
}
