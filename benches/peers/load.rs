//! The load generator: one thread of the bench itself.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::either::Either;

use crate::opening::{Opening, Stream, connect};
use crate::process;
use crate::server::{ENDLESS, ENDLESS_UNCOPIED, REQUEST};
use crate::words;

/// Bytes read at once.
const CHUNK: usize = 256 * 1024;
/// Bytes counted at once.
const COUNTED: usize = 1 << 20;
/// How long a load may go on after its window until it counts as hung.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is done again and again.
#[derive(Debug, Clone, Copy)]
pub enum Load {
    /// Requests on connections that stay, one at a time on each.
    Ask {
        connections: usize,
        /// Bytes.
        reply: usize,
    },
    /// Bytes from the server without end.
    Bulk { streams: usize, ends: Ends },
    /// Connect, a request of 64 bytes and its reply, close.
    Short { at_once: usize },
    /// Connect, wait for the greeting, log in, wait for the answer, close.
    LogIn {
        at_once: usize,
        /// Where the time ends.
        until: Word,
        /// How long each waits before it connects again.
        pause: Duration,
    },
}

/// What the server and the load generator do with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// The one writes and the other reads them, as programs do.
    Copy,
    /// The one hands out the same pages again and again, the other counts and drops them in the
    /// kernel. In TLS there is no such thing: who has it writes and reads.
    Count,
}

/// A word of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Greeting,
    Ok,
}

/// What counts: after the start and before the end.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub start: Instant,
    pub end: Instant,
}

/// What was done within a [`Window`].
#[derive(Debug)]
pub struct Tally {
    /// Requests or connections.
    pub count: u64,
    /// From the server.
    pub bytes: u64,
    /// Nanoseconds.
    pub latency: Histogram<u64>,
}

/// CPU seconds of each side within a [`Window`].
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    pub client: f64,
    pub proxy: f64,
    pub server: f64,
}

impl Tally {
    fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds");
        Self { count: 0, bytes: 0, latency }
    }

    /// Counts what began at `before` and is done; what it returns is now, or nothing when time is up.
    fn add(&mut self, window: Window, before: Instant, bytes: usize) -> Option<Instant> {
        let now = Instant::now();
        if now >= window.start && now < window.end {
            self.count += 1;
            self.bytes += bytes as u64;
            self.latency.saturating_record((now - before).as_nanos() as u64);
        }
        (now < window.end).then_some(now)
    }
}

impl Load {
    /// Puts the load on `address` for `window`.
    ///
    /// `opening` is for connections that stay. `proxy` and `server` are whose CPU time is read, as pids.
    pub async fn run(
        self,
        address: SocketAddr,
        opening: &Opening,
        window: Window,
        proxy: impl Fn() -> Vec<u32>,
        server: u32,
    ) -> io::Result<(Tally, Cpu)> {
        let mut tasks = JoinSet::new();
        match self {
            Load::Ask { connections, reply } => {
                for _ in 0..connections {
                    tasks.spawn(ask(address, opening.clone(), reply, window));
                }
            }
            Load::Bulk { streams, ends } => {
                for _ in 0..streams {
                    tasks.spawn(bulk(address, opening.clone(), ends, window));
                }
            }
            Load::Short { at_once } => {
                (0..at_once).for_each(|_| drop(tasks.spawn(short(address, window))));
            }
            Load::LogIn { at_once, until, pause } => {
                (0..at_once).for_each(|_| drop(tasks.spawn(log_in(address, until, pause, window))));
            }
        }
        let watch = async {
            let cpu = || Cpu {
                client: process::cpu(&[std::process::id()]),
                proxy: process::cpu(&proxy()),
                server: process::cpu(&[server]),
            };
            sleep_until(window.start).await;
            let before = cpu();
            sleep_until(window.end).await;
            let after = cpu();
            Cpu {
                client: after.client - before.client,
                proxy: after.proxy - before.proxy,
                server: after.server - before.server,
            }
        };
        let work = async {
            let mut all = Tally::new();
            while let Some(tally) = tasks.join_next().await {
                let tally = tally.map_err(io::Error::other)??;
                all.count += tally.count;
                all.bytes += tally.bytes;
                all.latency.add(&tally.latency).map_err(io::Error::other)?;
            }
            Ok::<_, io::Error>(all)
        };
        let patience = window.end - Instant::now() + PATIENCE;
        let work = timeout(patience, async { tokio::try_join!(work, async { Ok(watch.await) }) });
        let (tally, cpu) = work.await.map_err(|_| io::Error::other("it hung"))??;
        if tally.count == 0 {
            return Err(io::Error::other("nothing was done in time"));
        }
        Ok((tally, cpu))
    }
}

async fn ask(
    address: SocketAddr,
    opening: Opening,
    reply: usize,
    window: Window,
) -> io::Result<Tally> {
    let mut stream = opening.open(address).await?;
    let mut buffer = vec![0; reply.min(CHUNK)];
    let mut tally = Tally::new();
    let mut before = Instant::now();
    loop {
        request(&mut stream, reply, &mut buffer).await?;
        match tally.add(window, before, reply) {
            Some(now) => before = now,
            None => return Ok(tally),
        }
    }
}

async fn bulk(
    address: SocketAddr,
    opening: Opening,
    ends: Ends,
    window: Window,
) -> io::Result<Tally> {
    let mut stream = opening.open(address).await?;
    let endless = match ends {
        Ends::Copy => ENDLESS,
        Ends::Count => ENDLESS_UNCOPIED,
    };
    stream.write_all(&asking_for(endless)).await?;
    stream.flush().await?;
    match stream {
        Either::Left(stream) if ends == Ends::Count => count(&stream, window).await,
        stream => read(stream, window).await,
    }
}

/// Reads all that comes.
async fn read(mut stream: Stream, window: Window) -> io::Result<Tally> {
    let mut buffer = vec![0; CHUNK];
    let mut tally = Tally::new();
    let mut before = Instant::now();
    loop {
        let length = some(&mut stream, &mut buffer).await?;
        match tally.add(window, before, length) {
            Some(now) => before = now,
            None => return Ok(tally),
        }
    }
}

/// The same for bytes that nobody copies: those of the socket's queue are counted by the kernel and
/// let go.
async fn count(stream: &TcpStream, window: Window) -> io::Result<Tally> {
    // TCP writes nothing into it; it only says how many bytes are to go.
    let mut buffer = vec![0; COUNTED];
    let mut tally = Tally::new();
    let mut before = Instant::now();
    loop {
        let drop_bytes = || Ok(recv(stream, &mut buffer[..], RecvFlags::TRUNC)?.1);
        let length = stream.async_io(Interest::READABLE, drop_bytes).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match tally.add(window, before, length) {
            Some(now) => before = now,
            None => return Ok(tally),
        }
    }
}

async fn short(address: SocketAddr, window: Window) -> io::Result<Tally> {
    let mut buffer = [0; REQUEST];
    let mut tally = Tally::new();
    loop {
        let before = Instant::now();
        let mut stream = connect(address).await?;
        request(&mut stream, REQUEST, &mut buffer).await?;
        drop(stream);
        if tally.add(window, before, REQUEST).is_none() {
            return Ok(tally);
        }
    }
}

async fn log_in(
    address: SocketAddr,
    until: Word,
    pause: Duration,
    window: Window,
) -> io::Result<Tally> {
    // More than a word: unread bytes would turn the close into a reset.
    let mut buffer = [0; 4096];
    let mut tally = Tally::new();
    loop {
        if !pause.is_zero() {
            sleep(pause).await;
        }
        let before = Instant::now();
        let mut stream = connect(address).await?;
        let greeting = some(&mut stream, &mut buffer).await?;
        let counted = (until == Word::Greeting).then(|| tally.add(window, before, greeting));
        stream.write_all(&words::log_in(1, false)).await?;
        let ok = some(&mut stream, &mut buffer).await?;
        drop(stream);
        let now = counted.unwrap_or_else(|| tally.add(window, before, greeting + ok));
        if now.is_none() {
            return Ok(tally);
        }
    }
}

/// Reads what there is.
async fn some(stream: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> io::Result<usize> {
    match stream.read(buffer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        length => Ok(length),
    }
}

/// Asks for `reply` bytes and reads them through `buffer`.
pub async fn request<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    reply: usize,
    buffer: &mut [u8],
) -> io::Result<()> {
    stream.write_all(&asking_for(reply as u32)).await?;
    // TLS may keep the end of it.
    stream.flush().await?;
    let mut left = reply;
    while left > 0 {
        let most = left.min(buffer.len());
        left -= some(stream, &mut buffer[..most]).await?;
    }
    Ok(())
}

/// A request for a reply of that length.
pub fn asking_for(reply: u32) -> [u8; REQUEST] {
    let mut request = [0; REQUEST];
    request[..4].copy_from_slice(&reply.to_le_bytes());
    request
}
