//! The server behind the candidates, a process of its own: one thread, and two for each connection
//! through a delaying relay.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::process::{self, Process};

/// Bytes of a request: the length of its reply as a little-endian `u32`, and filling.
pub const REQUEST: usize = 64;
/// The length that asks for bytes without end.
pub const ENDLESS: u32 = u32::MAX;
/// Bytes of the greeting where the server speaks first: about those of a MySQL server.
const GREETING: usize = 80;
/// Bytes written at once.
const CHUNK: usize = 256 * 1024;

/// Round trips of the delaying relays.
pub const DELAYS: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(5)];

/// The argument that makes this program the server.
pub const ARGUMENT: &str = "serve";

/// A running server.
#[derive(Debug)]
pub struct Server {
    pub process: Process,
    /// Answers requests.
    pub replies: SocketAddr,
    /// Speaks first, behind each of [`DELAYS`].
    pub greetings: Vec<SocketAddr>,
}

impl Server {
    /// Starts this program again as the server.
    pub fn start() -> io::Result<Self> {
        let program = std::env::current_exe()?.display().to_string();
        let mut process = Process::spawn(
            process::command(&[program, ARGUMENT.to_owned()]).stdout(Stdio::piped()),
        )?;
        let mut line = String::new();
        if let Some(stdout) = process.child().stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let mut ports = line.split_whitespace().filter_map(|port| port.parse().ok()).map(loopback);
        let replies = ports.next().ok_or_else(|| io::Error::other("the server did not start"))?;
        Ok(Self { process, replies, greetings: ports.collect() })
    }
}

/// `port` on loopback.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A listening socket on a free port of loopback.
pub fn listen() -> io::Result<TcpListener> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&loopback(0).into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Serves until it is killed.
pub fn serve() -> io::Result<()> {
    let (replies, greetings) = (listen()?, listen()?);
    let greeter = greetings.local_addr()?;
    let mut ports = replies.local_addr()?.port().to_string();
    for delay in DELAYS {
        let relay = listen()?;
        ports.push_str(&format!(" {}", relay.local_addr()?.port()));
        thread::spawn(move || delayed(&relay, greeter, delay));
    }
    println!("{ports}");

    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        tokio::spawn(accept(greetings, greet));
        accept(replies, reply).await
    })
}

async fn accept<S, F>(listener: TcpListener, session: S) -> io::Result<()>
where
    S: Fn(tokio::net::TcpStream) -> F,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(session(stream));
    }
}

async fn reply(mut stream: tokio::net::TcpStream) -> io::Result<()> {
    static ZEROES: [u8; CHUNK] = [0; CHUNK];
    let mut request = [0; REQUEST];
    loop {
        stream.read_exact(&mut request).await?;
        let [a, b, c, d, ..] = request;
        let length = u32::from_le_bytes([a, b, c, d]);
        let mut left = if length == ENDLESS { usize::MAX } else { length as usize };
        while left > 0 {
            let chunk = left.min(CHUNK);
            stream.write_all(&ZEROES[..chunk]).await?;
            left -= chunk;
        }
    }
}

async fn greet(mut stream: tokio::net::TcpStream) -> io::Result<()> {
    stream.write_all(&[b'x'; GREETING]).await?;
    while stream.read(&mut [0; REQUEST]).await? > 0 {}
    Ok(())
}

/// The way to a distant server: a round trip until it accepts, half of one for bytes each way.
///
/// Threads that sleep, because the timer of tokio is not finer than a millisecond.
fn delayed(listener: &TcpListener, server: SocketAddr, delay: Duration) {
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
