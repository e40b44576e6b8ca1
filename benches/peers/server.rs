//! The server behind the candidates, a process of its own: one thread, and two for each connection
//! through a delaying relay.
//!
//! Each candidate has ports of its own, so that none meets what another has left in the kernel's
//! tables: sockets in TIME_WAIT, and hash chains of used ports.

use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;
use std::sync::Arc;
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::distance::{DELAYS, delayed};
use crate::endless::Source;
use crate::process::{self, Process};

/// Bytes of a request: the length of its reply as a little-endian `u32`, and filling.
pub const REQUEST: usize = 64;
/// The length that asks for bytes without end, written as a server of flesh and blood would.
pub const ENDLESS: u32 = u32::MAX;
/// The same, without a copy: see [`Source`].
pub const ENDLESS_UNCOPIED: u32 = u32::MAX - 1;
/// Bytes written at once.
const CHUNK: usize = 256 * 1024;
/// What a MySQL server says first.
const GREETING: &[u8] = b"\x4a\0\0\0\x0a8.0.36\0\x01\0\0\0saltsalt\0\xff\xf7\x2d\x02\0\xff\xdf\x15\
    \0\0\0\0\0\0\0\0\0\0saltsaltsalt\0mysql_native_password\0";
/// What it says after a log-in.
const OK: [u8; 11] = [7, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0];

/// The server's addresses for one candidate: it answers requests.
pub const REPLIES: usize = 0;
/// It speaks first and answers a log-in.
pub const LOGINS: usize = 1;
/// The same behind each of [`DELAYS`].
pub const GREETINGS: usize = 2;
/// How many these are.
const ADDRESSES: usize = GREETINGS + DELAYS.len();

/// The argument that makes this program the server; behind it, for how many candidates.
pub const ARGUMENT: &str = "serve";

/// A running server.
#[derive(Debug)]
pub struct Server {
    pub process: Process,
    /// Its addresses for each candidate: [`REPLIES`], [`LOGINS`], [`GREETINGS`].
    pub addresses: Vec<Vec<SocketAddr>>,
}

impl Server {
    /// Starts this program again as the server.
    pub fn start(candidates: usize) -> io::Result<Self> {
        let program = std::env::current_exe()?.display().to_string();
        let arguments = [program, ARGUMENT.to_owned(), candidates.to_string()];
        let mut process = Process::spawn(process::command(&arguments).stdout(Stdio::piped()))?;
        let mut line = String::new();
        if let Some(stdout) = process.child().stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let ports = line.split_whitespace().filter_map(|port| port.parse().ok());
        let all: Vec<SocketAddr> = ports.map(loopback).collect();
        if all.len() != candidates * ADDRESSES {
            return Err(io::Error::other("the server did not start"));
        }
        let addresses = all.chunks(ADDRESSES).map(<[SocketAddr]>::to_vec).collect();
        Ok(Self { process, addresses })
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

/// Serves as many candidates until it is killed.
pub fn serve(candidates: usize) -> io::Result<()> {
    let (mut ports, mut listeners) = (String::new(), Vec::new());
    let mut add = |listener: &TcpListener| -> io::Result<()> {
        ports.push_str(&format!("{} ", listener.local_addr()?.port()));
        Ok(())
    };
    for _ in 0..candidates {
        let (replies, logins) = (listen()?, listen()?);
        let greeter = logins.local_addr()?;
        add(&replies)?;
        add(&logins)?;
        for delay in DELAYS {
            let relay = listen()?;
            add(&relay)?;
            thread::spawn(move || delayed(&relay, greeter, delay));
        }
        listeners.push((replies, logins));
    }
    let source = Arc::new(Source::fill()?);
    println!("{ports}");

    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        for (replies, logins) in listeners {
            let source = Arc::clone(&source);
            tokio::spawn(accept(replies, move |stream| reply(stream, Arc::clone(&source))));
            tokio::spawn(accept(logins, greet));
        }
        std::future::pending().await
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

async fn reply(mut stream: tokio::net::TcpStream, source: Arc<Source>) -> io::Result<()> {
    static ZEROES: [u8; CHUNK] = [0; CHUNK];
    let mut request = [0; REQUEST];
    loop {
        stream.read_exact(&mut request).await?;
        let [a, b, c, d, ..] = request;
        let mut left = match u32::from_le_bytes([a, b, c, d]) {
            ENDLESS_UNCOPIED => return source.pour(&stream).await,
            ENDLESS => usize::MAX,
            length => length as usize,
        };
        while left > 0 {
            let chunk = left.min(CHUNK);
            stream.write_all(&ZEROES[..chunk]).await?;
            left -= chunk;
        }
    }
}

async fn greet(mut stream: tokio::net::TcpStream) -> io::Result<()> {
    stream.write_all(GREETING).await?;
    let mut buffer = [0; REQUEST];
    stream.read_exact(&mut buffer).await?;
    stream.write_all(&OK).await?;
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}
