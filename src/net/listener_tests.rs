//! What is accepted, on which options, and what becomes of a queue.

#![expect(clippy::disallowed_methods, reason = "blocking clients are simplest here")]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;

use super::listener::{Accepted, Listener, Socket, bind, share};
use crate::config::Tcp;
use crate::log::Repeats;

#[test]
fn a_taken_port_is_refused_and_port_0_is_one_port_for_all() {
    let (address, sockets) = bind("127.0.0.1:0".parse().unwrap(), 3, &tcp(), false).unwrap();
    let local = |socket: &Socket| match socket {
        Socket::Tcp(socket) => socket.local_addr().unwrap(),
        Socket::Unix(..) => panic!("{socket:?}"),
    };
    assert_eq!(sockets.iter().map(local).collect::<Vec<_>>(), vec![address; 3]);
    assert_eq!(bind(address, 1, &tcp(), false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn connections_have_the_options_of_the_listening_socket() {
    let congestion_control = Some("reno".to_owned());
    let tcp = Tcp { user_timeout: Duration::from_secs(7), congestion_control, ..tcp() };
    let (address, mut sockets) = bind("127.0.0.1:0".parse().unwrap(), 1, &tcp, false).unwrap();
    let _client = std::net::TcpStream::connect(address).unwrap();
    let accepted = listener(sockets.remove(0), &tcp, false).accept(b"").await;
    let Accepted::Connection(accepted, _) = accepted else { panic!("{accepted:?}") };
    let accepted = SockRef::from(&accepted);
    assert!(accepted.tcp_congestion().unwrap().starts_with(b"reno"));
    assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
    assert_eq!(accepted.tcp_keepalive_time().unwrap(), tcp.keepalive_idle);
    assert_eq!(accepted.tcp_keepalive_interval().unwrap(), tcp.keepalive_interval);
    assert_eq!(accepted.tcp_keepalive_retries().unwrap(), tcp.keepalive_count);
    assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(tcp.user_timeout));
}

#[tokio::test]
async fn options_that_are_no_longer_wanted_are_the_kernels_again() {
    let wanted = Tcp {
        user_timeout: Duration::from_secs(7),
        congestion_control: Some("reno".to_owned()),
        ..tcp()
    };
    let (address, mut sockets) = bind("127.0.0.1:0".parse().unwrap(), 1, &wanted, false).unwrap();
    let mut listener = listener(sockets.remove(0), &wanted, false);
    listener.configure(&tcp()).unwrap();
    let client = std::net::TcpStream::connect(address).unwrap();
    let accepted = listener.accept(b"").await;
    let Accepted::Connection(accepted, _) = accepted else { panic!("{accepted:?}") };
    let (accepted, client) = (SockRef::from(&accepted), SockRef::from(&client));
    assert_eq!(accepted.tcp_user_timeout().unwrap(), client.tcp_user_timeout().unwrap());
    assert_eq!(accepted.tcp_congestion().unwrap(), client.tcp_congestion().unwrap());
}

#[test]
fn an_address_that_covers_an_own_one_can_be_bound_beside_it() {
    let (own, _sockets) = bind("127.0.0.1:0".parse().unwrap(), 1, &tcp(), false).unwrap();
    let all = SocketAddr::from(([0, 0, 0, 0], own.port()));
    assert_eq!(bind(all, 1, &tcp(), false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert_eq!(bind(all, 1, &tcp(), true).unwrap().0, all);
}

fn listener(socket: Socket, tcp: &Tcp, shared: bool) -> Listener {
    Listener::new("test", socket, tcp, shared, &Repeats::default()).unwrap()
}

fn tcp() -> Tcp {
    crate::config::parse("[upstream.a]\ngateway = \"a\"\n", "test").unwrap().tcp
}

#[tokio::test]
async fn what_is_queued_is_served_before_the_close() {
    let (address, mut sockets) = bind("127.0.0.1:0".parse().unwrap(), 1, &tcp(), false).unwrap();
    let listener = listener(sockets.remove(0), &tcp(), false);
    let clients: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    let mut queue = listener.into_queue();
    for _ in &clients {
        assert!(matches!(queue.next(b"").await, Some(Accepted::Connection(..))));
    }
    assert!(queue.next(b"").await.is_none());
    drop(queue);
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn the_queue_of_a_shared_socket_is_left_to_the_others() {
    let (address, mut sockets) = bind("127.0.0.1:0".parse().unwrap(), 1, &tcp(), false).unwrap();
    let Socket::Tcp(socket) = sockets.remove(0) else { panic!("not TCP") };
    let shared = share(&socket, 1, &tcp()).unwrap().remove(0);
    let _client = std::net::TcpStream::connect(address).unwrap();
    assert!(listener(shared, &tcp(), true).into_queue().next(b"").await.is_none());
    assert!(socket.accept().is_ok());
}
