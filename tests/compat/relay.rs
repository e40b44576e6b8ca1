//! A relay of our own that shows, and can change, what passes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use crate::support::tcp;

/// Who sent the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Client,
    Server,
}

/// What the look at some bytes decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onward {
    Pass,
    /// The connection ends, both ways, before these bytes.
    Cut,
}

type Look = dyn Fn(Sender, &mut [u8]) -> Onward + Send + Sync;

/// Listens at a port of its own and relays to `server`, for as long as the process lives; `look` is
/// shown what was read before it is passed on.
pub fn start(
    server: SocketAddr,
    look: impl Fn(Sender, &mut [u8]) -> Onward + Send + Sync + 'static,
) -> u16 {
    let look: Arc<Look> = Arc::new(look);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = tcp::serve(&listener, move |client| {
        let Ok(server) = TcpStream::connect(server) else { return };
        let from_client = [&client, &server].map(|stream| stream.try_clone().expect("a handle"));
        let looks = Arc::clone(&look);
        thread::spawn(move || pass(&from_client[0], &from_client[1], Sender::Client, &*looks));
        pass(&server, &client, Sender::Server, &*look);
    });
    address.port()
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, sender: Sender, look: &Look) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let bytes = &mut buffer[..length];
        if look(sender, bytes) == Onward::Cut {
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
