//! Listening sockets, one per data thread and address, and an accept that never fails.

use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::sleep;
use tracing::{Level, warn};

use super::address::Peer;
use super::socket::{configure, reconfigure};
use super::spare;
use super::stream::Stream;
use super::unix::SocketFile;
use crate::config::Tcp;
use crate::log::{Kind, Labels, Repeats};

/// Connections that may wait in the kernel; `net.core.somaxconn` caps it.
pub(super) const BACKLOG: i32 = 4096;
/// The first and the longest pause after an accept that failed for want of descriptors or memory.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Opens `count` sockets that listen on `address` together. Port 0 picks one port for all.
///
/// The first is bound without `SO_REUSEPORT`, so that a port that another process holds is refused
/// even when that process allows sharing; then sharing is switched on and the others join.
/// `tcp` are the connections' options. `beside_own`: this process has the port, at an address like it.
pub fn bind(
    address: SocketAddr,
    count: usize,
    tcp: &Tcp,
    beside_own: bool,
) -> io::Result<(SocketAddr, Vec<Socket>)> {
    let first = open(address)?;
    first.set_reuse_port(beside_own)?;
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    let bound = first.local_addr()?;
    let address = bound.as_socket().unwrap_or(address);
    let mut sockets = vec![first];
    while sockets.len() < count {
        let socket = open(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&bound)?;
        sockets.push(socket);
    }
    for socket in &sockets {
        configure(socket, tcp)?;
        socket.listen(BACKLOG)?;
    }
    Ok((address, sockets.into_iter().map(|socket| Socket::Tcp(socket.into())).collect()))
}

/// Whether [`bind`] could have an address now; it does not listen, so nobody is let in.
pub fn try_bind(address: SocketAddr) -> io::Result<()> {
    open(address)?.bind(&address.into())
}

/// Makes `count` handles of a socket that listens already.
pub fn share(socket: &std::net::TcpListener, count: usize, tcp: &Tcp) -> io::Result<Vec<Socket>> {
    reconfigure(socket, tcp)?;
    socket.set_nonblocking(true)?;
    (0..count).map(|_| socket.try_clone().map(Socket::Tcp)).collect()
}

fn open(address: SocketAddr) -> io::Result<socket2::Socket> {
    let socket =
        socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Old connections of a bridge that has just ended do not hold the port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are bound apart, each by its own address.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// A listening socket that is on no runtime.
#[derive(Debug)]
pub enum Socket {
    /// Over TCP, one of those of its address.
    Tcp(std::net::TcpListener),
    /// A Unix socket, or rather a handle on it: there is no more than one of a path. The last one
    /// takes the file with it.
    Unix(std::os::unix::net::UnixListener, Arc<SocketFile>),
}

impl Socket {
    /// A connection that waits, if there is one.
    fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, peer) = socket.accept()?;
                stream.set_nonblocking(true)?;
                Ok((TcpStream::from_std(stream)?.into(), Peer::Tcp(peer)))
            }
            Self::Unix(socket, _) => {
                let stream = socket.accept()?.0;
                stream.set_nonblocking(true)?;
                from_process(UnixStream::from_std(stream)?)
            }
        }
    }
}

/// One listening socket on the current runtime.
#[derive(Debug)]
pub struct Listener {
    name: String,
    socket: Serving,
    congestion_control: Option<String>,
    cannot_accept: Arc<Kind>,
    backoff: Duration,
    /// Whether somebody else holds the socket as well, and with it its queue.
    shared: bool,
}

/// What waits in the kernel on a socket that nobody accepts on any more.
#[derive(Debug)]
pub struct Queue {
    socket: Option<Socket>,
    congestion_control: Option<String>,
}

/// What came of an accept.
#[derive(Debug)]
pub enum Accepted {
    /// A connection.
    Connection(Stream, Peer),
    /// One that this process has no descriptor for. It has been closed.
    TurnedAway(Peer),
}

/// As [`Socket`].
#[derive(Debug)]
enum Serving {
    Tcp(TcpListener),
    Unix(UnixListener, Arc<SocketFile>),
}

impl Serving {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        match self {
            Self::Tcp(socket) => {
                socket.poll_accept(cx).map_ok(|(stream, peer)| (stream.into(), Peer::Tcp(peer)))
            }
            Self::Unix(socket, _) => {
                socket.poll_accept(cx).map(|done| done.and_then(|(stream, _)| from_process(stream)))
            }
        }
    }
}

impl Listener {
    /// Takes over a socket, which was bound with the same `tcp`, or one that is `shared` with
    /// whoever goes on with its queue. `name` is for the log.
    pub fn new(
        name: &str,
        socket: Socket,
        tcp: &Tcp,
        shared: bool,
        repeats: &Repeats,
    ) -> io::Result<Self> {
        spare::keep();
        let labels = Labels { listener: Some(name.to_owned()), ..Labels::default() };
        Ok(Self {
            name: name.to_owned(),
            cannot_accept: repeats.kind(Level::WARN, "cannot accept", labels),
            shared,
            socket: match socket {
                Socket::Tcp(socket) => Serving::Tcp(TcpListener::from_std(socket)?),
                Socket::Unix(socket, file) => Serving::Unix(UnixListener::from_std(socket)?, file),
            },
            congestion_control: tcp.congestion_control.clone(),
            backoff: BACKOFF.0,
        })
    }

    /// Gives the connections to come these options.
    pub fn configure(&mut self, tcp: &Tcp) -> io::Result<()> {
        self.congestion_control = tcp.congestion_control.clone();
        match &self.socket {
            Serving::Tcp(socket) => reconfigure(socket, tcp),
            Serving::Unix(..) => Ok(()),
        }
    }

    /// The next connection. Errors of one connection are passed over; a lack of memory is waited out
    /// with growing pauses. Where descriptors lack, the connection gets `last_word` and is closed;
    /// without a word it is reset.
    pub async fn accept(&mut self, last_word: &[u8]) -> Accepted {
        loop {
            match poll_fn(|cx| self.socket.poll_accept(cx)).await {
                Ok((stream, peer)) => {
                    self.backoff = BACKOFF.0;
                    insist(&stream, self.congestion_control.as_deref());
                    return Accepted::Connection(stream, peer);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) if spare::is_needed(&error) && spare::give_up() => {
                    // Not awaited: meanwhile it may have left, or another thread has taken it.
                    let mut now = Context::from_waker(Waker::noop());
                    let accepted = match self.socket.poll_accept(&mut now) {
                        Poll::Ready(Ok(accepted)) => Some(turn_away(accepted, last_word)),
                        _ => None,
                    };
                    spare::keep();
                    if let Some(turned_away) = accepted {
                        return turned_away;
                    }
                }
                Err(error) => {
                    spare::keep();
                    if self.cannot_accept.admit() {
                        let (listener, pause) = (&*self.name, self.backoff);
                        warn!(listener, %error, ?pause, "cannot accept");
                    }
                    sleep(self.backoff).await;
                    self.backoff = (self.backoff * 2).min(BACKOFF.1);
                }
            }
        }
    }

    /// What is queued in the kernel, then closes.
    ///
    /// Closing a listening socket resets what is queued in it. A TCP connection whose handshake
    /// completes between the last accept and the close is reset all the same: the kernel has no
    /// call that stops the one without the other. For a Unix socket it has one. Nothing of a shared
    /// socket: closing that resets nobody.
    pub fn into_queue(self) -> Queue {
        // Taken off the reactor: its readiness may lag behind the queue, accept(2) does not.
        let socket = match self.socket {
            Serving::Tcp(socket) => {
                socket.into_std().map(Socket::Tcp).ok().filter(|_| !self.shared)
            }
            Serving::Unix(socket, file) => socket.into_std().ok().and_then(|socket| {
                // The last thread does it for all. Before that others may still wait on the reactor,
                // and of a socket that is shut down they would hear without end that it is ready.
                let file = Arc::into_inner(file)?;
                let _ = SockRef::from(&socket).shutdown(Shutdown::Read);
                Some(Socket::Unix(socket, Arc::new(file)))
            }),
        };
        Queue { socket, congestion_control: self.congestion_control }
    }
}

impl Queue {
    /// The next connection. Where descriptors lack it gets `last_word`, as with [`Listener::accept`].
    pub async fn next(&mut self, last_word: &[u8]) -> Option<Accepted> {
        let socket = self.socket.as_ref()?;
        loop {
            match socket.accept() {
                Ok((stream, peer)) => {
                    insist(&stream, self.congestion_control.as_deref());
                    return Some(Accepted::Connection(stream, peer));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) if spare::is_needed(&error) => {
                    let accepted = if spare::give_up() { socket.accept() } else { Err(error) };
                    let accepted = accepted.map(|one| turn_away(one, last_word));
                    spare::keep();
                    match accepted {
                        Ok(turned_away) => return Some(turned_away),
                        // Without a descriptor the kernel does not even look whether it is empty.
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                        // Another thread was faster to use it; sessions end in the end.
                        Err(_) => sleep(BACKOFF.0).await,
                    }
                }
                Err(_) => return None,
            }
        }
    }
}

/// Names the process that has connected.
fn from_process(stream: UnixStream) -> io::Result<(Stream, Peer)> {
    let peer = Peer::Unix(stream.peer_cred()?);
    Ok((stream.into(), peer))
}

/// Sets the one option that is not always inherited: a route's `congctl` goes before the listening
/// socket's choice (tcp_ca_openreq_child of net/ipv4/tcp_minisocks.c).
fn insist(stream: &Stream, congestion_control: Option<&str>) {
    if let (Stream::Tcp(stream), Some(name)) = (stream, congestion_control) {
        // It was tried at the start; a connection that is gone already tells it when it is used.
        let _ = SockRef::from(stream).set_tcp_congestion(name.as_bytes());
    }
}

/// Says what there is to say, without waiting: the buffer of a new connection is empty.
fn turn_away((stream, peer): (Stream, Peer), last_word: &[u8]) -> Accepted {
    match last_word {
        [] => stream.reset_on_close(),
        // Past the reactor, which does not know yet that the socket takes bytes. A peer that is gone
        // already need not be told.
        _ => drop(SockRef::from(&stream).send(last_word)),
    }
    Accepted::TurnedAway(peer)
}

/// accept(2): errors of the connection itself are delivered by accept on Linux.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::TimedOut
    )
}
