//! Listening sockets, one per data thread and address, and an accept that never fails.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tracing::{Level, warn};

use super::socket::configure;
use crate::config::Tcp;
use crate::log::{Kind, Labels, Repeats};

/// Connections that may wait in the kernel; `net.core.somaxconn` caps it.
const BACKLOG: i32 = 4096;
/// The first and the longest pause after an accept that failed for want of descriptors or memory.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Opens `count` sockets that listen on `address` together. Port 0 picks one port for all.
///
/// The first is bound without `SO_REUSEPORT`, so that a port that another process holds is refused
/// even when that process allows sharing; then sharing is switched on and the others join.
/// `tcp` are the options of the connections.
pub fn bind(
    address: SocketAddr,
    count: usize,
    tcp: &Tcp,
) -> io::Result<Vec<std::net::TcpListener>> {
    let first = open(address)?;
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    let bound = first.local_addr()?;
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
    Ok(sockets.into_iter().map(Into::into).collect())
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Old connections of a bridge that has just ended do not hold the port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are bound apart, each by its own address.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// One listening socket on the current runtime.
#[derive(Debug)]
pub struct Listener {
    name: String,
    socket: TcpListener,
    congestion_control: Option<String>,
    cannot_accept: Arc<Kind>,
    backoff: Duration,
}

impl Listener {
    /// Takes over a socket of [`bind`], with the same `tcp`. `name` is for the log.
    pub fn new(
        name: &str,
        socket: std::net::TcpListener,
        tcp: &Tcp,
        repeats: &Repeats,
    ) -> io::Result<Self> {
        let labels = Labels { listener: Some(name.to_owned()), ..Labels::default() };
        Ok(Self {
            name: name.to_owned(),
            cannot_accept: repeats.kind(Level::WARN, "cannot accept", labels),
            socket: TcpListener::from_std(socket)?,
            congestion_control: tcp.congestion_control.clone(),
            backoff: BACKOFF.0,
        })
    }

    /// The next connection. Errors of one connection are passed over; a lack of descriptors or
    /// memory is waited out with growing pauses.
    pub async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.socket.accept().await {
                Ok((stream, peer)) => {
                    self.backoff = BACKOFF.0;
                    insist(&stream, self.congestion_control.as_deref());
                    return (stream, peer);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
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
    /// Closing a listening socket resets what is queued in it. A connection whose handshake
    /// completes between the last accept and the close is reset all the same: the kernel has no
    /// call that stops the one without the other.
    pub fn into_queued(self) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
        // Taken off the reactor: its readiness may lag behind the queue, accept(2) does not.
        let socket = self.socket.into_std().ok();
        let congestion_control = self.congestion_control;
        std::iter::from_fn(move || {
            loop {
                let (stream, peer) = match socket.as_ref()?.accept() {
                    Ok(accepted) => accepted,
                    Err(error) if is_of_one_connection(&error) => continue,
                    Err(_) => return None,
                };
                insist(&stream, congestion_control.as_deref());
                if stream.set_nonblocking(true).is_ok() {
                    return Some((TcpStream::from_std(stream).ok()?, peer));
                }
            }
        })
    }
}

/// Sets the one option that is not always inherited: a route's `congctl` goes before the listening
/// socket's choice (tcp_ca_openreq_child of net/ipv4/tcp_minisocks.c).
fn insist(stream: &impl AsFd, congestion_control: Option<&str>) {
    if let Some(name) = congestion_control {
        // It was tried at the start; a connection that is gone already tells it when it is used.
        let _ = SockRef::from(stream).set_tcp_congestion(name.as_bytes());
    }
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

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "blocking clients are simplest here")]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_refused_and_port_0_is_one_port_for_all() {
        let sockets = bind("127.0.0.1:0".parse().unwrap(), 3, &tcp()).unwrap();
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert_eq!(addresses, vec![addresses[0]; 3]);
        assert_eq!(bind(addresses[0], 1, &tcp()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn connections_have_the_options_of_the_listening_socket() {
        let congestion_control = Some("reno".to_owned());
        let tcp = Tcp { user_timeout: Duration::from_secs(7), congestion_control, ..tcp() };
        let socket = bind("127.0.0.1:0".parse().unwrap(), 1, &tcp).unwrap().remove(0);
        let address = socket.local_addr().unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (accepted, _) = listener(socket, &tcp).accept().await;
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_congestion().unwrap().starts_with(b"reno"));
        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), tcp.keepalive_idle);
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), tcp.keepalive_interval);
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), tcp.keepalive_count);
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(tcp.user_timeout));
    }

    fn listener(socket: std::net::TcpListener, tcp: &Tcp) -> Listener {
        Listener::new("test", socket, tcp, &Repeats::default()).unwrap()
    }

    fn tcp() -> Tcp {
        crate::config::parse("[upstream.a]\ngateway = \"a\"\n", "test").unwrap().tcp
    }

    #[tokio::test]
    async fn what_is_queued_is_served_before_the_close() {
        let socket = bind("127.0.0.1:0".parse().unwrap(), 1, &tcp()).unwrap().remove(0);
        let address = socket.local_addr().unwrap();
        let listener = listener(socket, &tcp());
        let clients: Vec<_> =
            (0..20).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        assert_eq!(listener.into_queued().count(), clients.len());
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
