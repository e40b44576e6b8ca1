//! An embedded authoritative DNS server: the demo's gateway name, and the tests'.
//!
//! It knows the names that it was told, each with A and AAAA records and a TTL, and can be told
//! otherwise at any time. It lies on command: see [`Lie`]. It serves from a thread of its own, so
//! that a test without a runtime can have one too, and ends with its handle.
//!
//! The sockets are served here and not by a crate, because no well-behaved server sends what the
//! lies need: garbage, another question's id, nothing.

#[path = "dns_answer.rs"]
mod answer;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hickory_proto::rr::{LowerName, Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use answer::Zone;
pub use answer::{Lie, Transport};

/// How long a TCP connection may stay silent.
const TCP_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept or receive: what failed may fail again at once.
const BREATH: Duration = Duration::from_millis(10);

/// A running DNS server. When it is dropped its port is free again.
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
    ///
    /// # Panics
    ///
    /// If `name` is no DNS name, which is a mistake of the demo or the test.
    pub fn set(&self, name: &str, addresses: &[IpAddr], ttl: u32) {
        self.zone.lock().set(lower(name), addresses, ttl);
    }

    /// From now on questions for the addresses of `name` are answered so.
    ///
    /// # Panics
    ///
    /// As [`Self::set`].
    pub fn lie(&self, name: &str, lie: Lie) {
        let mut zone = self.zone.lock();
        for kind in [RecordType::A, RecordType::AAAA] {
            zone.lie(lower(name), kind, lie.clone());
        }
    }

    /// As [`Self::lie`], for one record type alone.
    ///
    /// # Panics
    ///
    /// As [`Self::set`].
    pub fn lie_about(&self, name: &str, kind: RecordType, lie: Lie) {
        self.zone.lock().lie(lower(name), kind, lie);
    }

    /// From now on the truth is told about `name`.
    ///
    /// # Panics
    ///
    /// As [`Self::set`].
    pub fn end_lies(&self, name: &str) {
        self.zone.lock().end_lies(&lower(name));
    }

    /// How many questions of this type were asked, for whatever name.
    pub fn queries(&self, kind: RecordType) -> u64 {
        [Transport::Udp, Transport::Tcp].map(|by| self.queries_over(by, kind)).iter().sum()
    }

    /// How many of them came this way.
    pub fn queries_over(&self, transport: Transport, kind: RecordType) -> u64 {
        self.zone.lock().queries(transport, kind)
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
    /// A panic while the zone is locked leaves it whole: every change is a single insertion.
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
