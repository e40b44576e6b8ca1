//! The server behind the candidates, a process of its own: one thread, and two for each connection
//! through a delaying relay.
//!
//! Each candidate has ports of its own, so that none meets what another has left in the kernel's
//! tables: sockets in TIME_WAIT, and hash chains of used ports.

use std::error::Error;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::either::Either;

use crate::agreement;
use crate::authority::Authority;
use crate::distance::{DELAYS, delayed};
use crate::endless::Source;
use crate::opening::Welcome;
use crate::process::{self, Process};

/// Bytes of a request: the length of its reply as a little-endian `u32`, and filling.
pub const REQUEST: usize = 64;
/// The length that asks for bytes without end, written as a server of flesh and blood would.
pub const ENDLESS: u32 = u32::MAX;
/// The same, without a copy where there is no TLS: see [`Source`].
pub const ENDLESS_UNCOPIED: u32 = u32::MAX - 1;
/// The length that asks what TLS has agreed on, in a reply of [`REQUEST`] bytes.
pub const AGREED: u32 = u32::MAX - 2;
/// Bytes written at once.
const CHUNK: usize = 256 * 1024;

/// The server's addresses for one candidate: it answers requests.
pub const REPLIES: usize = 0;
/// It speaks first and answers a log-in, and then requests.
pub const LOGINS: usize = 1;
/// The same behind each of [`DELAYS`].
pub const GREETINGS: usize = 2;
/// It answers requests in TLS.
pub const SECURE: usize = GREETINGS + DELAYS.len();
/// It speaks first, answers a log-in that asks for TLS, and then requests in that.
pub const SECURE_LOGINS: usize = SECURE + 1;
/// How many these are.
const ADDRESSES: usize = SECURE_LOGINS + 1;

/// The argument that makes this program the server; behind it, for how many candidates, and where
/// the certificate is.
pub const ARGUMENT: &str = "serve";

/// A running server.
#[derive(Debug)]
pub struct Server {
    pub process: Process,
    /// Its addresses for each candidate: [`REPLIES`], [`LOGINS`] and so on.
    pub addresses: Vec<Vec<SocketAddr>>,
}

impl Server {
    /// Starts this program again as the server.
    pub fn start(candidates: usize, certificates: &Path) -> io::Result<Self> {
        let program = std::env::current_exe()?.display().to_string();
        let certificates = certificates.display().to_string();
        let arguments = [program, ARGUMENT.to_owned(), candidates.to_string(), certificates];
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
pub fn serve(candidates: usize, certificates: &Path) -> Result<(), Box<dyn Error>> {
    let tls = Some(Authority::of(certificates).server()?);
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
        let (secure, secure_logins) = (listen()?, listen()?);
        add(&secure)?;
        add(&secure_logins)?;
        listeners.extend([
            (replies, Welcome { greets: false, tls: None }),
            (logins, Welcome { greets: true, tls: None }),
            (secure, Welcome { greets: false, tls: tls.clone() }),
            (secure_logins, Welcome { greets: true, tls: tls.clone() }),
        ]);
    }
    let source = Arc::new(Source::fill()?);
    println!("{ports}");

    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        for (listener, welcome) in listeners {
            tokio::spawn(accept(listener, welcome, Arc::clone(&source)));
        }
        std::future::pending().await
    })
}

async fn accept(listener: TcpListener, welcome: Welcome, source: Arc<Source>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(reply(stream, welcome.clone(), Arc::clone(&source)));
    }
}

async fn reply(stream: TcpStream, welcome: Welcome, source: Arc<Source>) -> io::Result<()> {
    static ZEROES: [u8; CHUNK] = [0; CHUNK];
    let mut stream = welcome.receive(stream).await?;
    let mut request = [0; REQUEST];
    loop {
        stream.read_exact(&mut request).await?;
        let [a, b, c, d, ..] = request;
        let mut left = match (u32::from_le_bytes([a, b, c, d]), &stream) {
            (ENDLESS_UNCOPIED, Either::Left(stream)) => return source.pour(stream).await,
            (ENDLESS | ENDLESS_UNCOPIED, _) => usize::MAX,
            (AGREED, _) => {
                let words = agreement::words(&stream);
                stream.write_all(&words).await?;
                0
            }
            (length, _) => length as usize,
        };
        while left > 0 {
            let chunk = left.min(CHUNK);
            stream.write_all(&ZEROES[..chunk]).await?;
            left -= chunk;
        }
        // TLS may keep the end of it.
        stream.flush().await?;
    }
}
