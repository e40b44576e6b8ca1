//! The load generator: one thread of the bench itself.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::process;
use crate::server::{ENDLESS, REQUEST};

/// Bytes read at once.
const CHUNK: usize = 256 * 1024;
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
    Bulk { streams: usize },
    /// Connect, a request of 64 bytes and its reply, close.
    Short { at_once: usize },
    /// Connect, wait for a byte, close.
    FirstByte { at_once: usize },
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
    /// `proxy` and `server` are whose CPU time is read, as pids.
    pub async fn run(
        self,
        address: SocketAddr,
        window: Window,
        proxy: impl Fn() -> Vec<u32>,
        server: u32,
    ) -> io::Result<(Tally, Cpu)> {
        let mut tasks = JoinSet::new();
        match self {
            Load::Ask { connections, reply } => {
                (0..connections).for_each(|_| drop(tasks.spawn(ask(address, reply, window))));
            }
            Load::Bulk { streams } => {
                (0..streams).for_each(|_| drop(tasks.spawn(bulk(address, window))));
            }
            Load::Short { at_once } => {
                (0..at_once).for_each(|_| drop(tasks.spawn(short(address, window))));
            }
            Load::FirstByte { at_once } => {
                (0..at_once).for_each(|_| drop(tasks.spawn(first_byte(address, window))));
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

async fn ask(address: SocketAddr, reply: usize, window: Window) -> io::Result<Tally> {
    let mut stream = connect(address).await?;
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

async fn bulk(address: SocketAddr, window: Window) -> io::Result<Tally> {
    let mut stream = connect(address).await?;
    stream.write_all(&asking_for(ENDLESS)).await?;
    let mut buffer = vec![0; CHUNK];
    let mut tally = Tally::new();
    let mut before = Instant::now();
    loop {
        let length = stream.read(&mut buffer).await?;
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

async fn first_byte(address: SocketAddr, window: Window) -> io::Result<Tally> {
    // More than a greeting: unread bytes would turn the close into a reset.
    let mut buffer = [0; 4096];
    let mut tally = Tally::new();
    loop {
        let before = Instant::now();
        let mut stream = connect(address).await?;
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if tally.add(window, before, length).is_none() {
            return Ok(tally);
        }
    }
}

/// Asks for `reply` bytes and reads them through `buffer`.
pub async fn request(stream: &mut TcpStream, reply: usize, buffer: &mut [u8]) -> io::Result<()> {
    stream.write_all(&asking_for(reply as u32)).await?;
    let mut left = reply;
    while left > 0 {
        let most = left.min(buffer.len());
        match stream.read(&mut buffer[..most]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => left -= length,
        }
    }
    Ok(())
}

fn asking_for(reply: u32) -> [u8; REQUEST] {
    let mut request = [0; REQUEST];
    request[..4].copy_from_slice(&reply.to_le_bytes());
    request
}

/// Connects, without a delay for small writes.
#[expect(clippy::disallowed_methods, reason = "a load has a deadline as a whole")]
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
