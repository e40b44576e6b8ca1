//! Distant servers, on one machine.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

/// Round trips of the delaying relays.
pub const DELAYS: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(5)];

/// The way to a distant server: a round trip until it accepts, half of one for bytes each way.
///
/// Threads that sleep, because the timer of tokio is not finer than a millisecond.
pub fn delayed(listener: &TcpListener, server: SocketAddr, delay: Duration) {
    for client in listener.incoming().flatten() {
        thread::spawn(move || -> io::Result<()> {
            sleep(delay);
            let server = connect(server)?;
            client.set_nodelay(true)?;
            let (from, to) = (client.try_clone()?, server.try_clone()?);
            thread::spawn(move || pump(from, to, delay / 2));
            pump(server, client, delay / 2)
        });
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, delay: Duration) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let length = from.read(&mut buffer)?;
        sleep(delay);
        if length == 0 {
            return to.shutdown(Shutdown::Write);
        }
        to.write_all(&buffer[..length])?;
    }
}

/// Waits for `time`.
#[expect(clippy::disallowed_methods, reason = "a thread that does nothing else")]
pub fn sleep(time: Duration) {
    if !time.is_zero() {
        thread::sleep(time);
    }
}

/// Connects, without a delay for small writes.
#[expect(clippy::disallowed_methods, reason = "a listener on loopback answers at once")]
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
