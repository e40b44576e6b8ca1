//! A storm of connections whose gateway refuses: what it costs the log, and a session beside it.
//!
//! `cargo bench --bench storm`, 50 s. Two bridges, alike but for their `log_level`, take turns at being
//! left in peace and at 10,000 connects a second, or as many as come about. Meanwhile a session that
//! goes through the same data thread sends 8 bytes every millisecond and waits for them. The storm, the
//! session and its server share the cores with the bridge, so a session pays for the connects whatever
//! is logged; what the log costs is the difference between the two bridges.

#![allow(clippy::disallowed_methods, reason = "blocking clients are the load here")]

#[path = "peers/summary.rs"]
mod summary;

use std::error::Error;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use socket2::{Domain, SockRef, Socket, Type};

use summary::Summary;

const ROUNDS: usize = 4;
/// Time in which the round trips are not measured yet.
const WARM_UP: Duration = Duration::from_millis(200);
const PEACE: Duration = Duration::from_millis(1000);
/// With the warm-up as long as the bridge counts lines before it begins anew.
const STORM: Duration = Duration::from_millis(4800);
/// Connects a second that are aimed at.
const RATE: u32 = 10_000;
/// Clients that connect, each again and again.
const CLIENTS: u32 = 8;
/// How far behind its time a client may be and still catch up.
const CATCH_UP: Duration = Duration::from_millis(10);
const PING_EVERY: Duration = Duration::from_millis(1);
/// Clock ticks per second in `/proc/PID/stat`: `USER_HZ`, which is 100 on every Linux in use.
const TICKS: f64 = 100.0;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("storm: cargo bench --bench storm");
        return Ok(());
    }
    let refusing = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    refusing.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let refusing_at = refusing.local_addr()?.as_socket().ok_or("an address of IPv4")?;
    let echo = echo()?;
    let levels = ["info", "off"];
    let bridges = [
        Bridge::start(levels[0], refusing_at, echo)?,
        Bridge::start(levels[1], refusing_at, echo)?,
    ];
    let mut samples: [[Vec<Sample>; 2]; 2] = Default::default();
    for round in 0..ROUNDS {
        // The other one begins next time.
        for which in [round % 2, 1 - round % 2] {
            samples[which][0].push(bridges[which].measure(0, PEACE)?);
            samples[which][1].push(bridges[which].measure(RATE, STORM)?);
        }
    }
    println!(
        "medians of {ROUNDS} rounds (least to most); {} cores, {CLIENTS} clients, aim {RATE}/s\n",
        thread::available_parallelism()?
    );
    println!(
        "| log_level | storm | connects/s | log lines/s | log KB/s | bridge's CPU, cores \
         | ping p50, µs | ping p99, µs |"
    );
    println!("| --- | --- | --: | --: | --: | --: | --: | --: |");
    for (level, of_level) in levels.iter().zip(&samples) {
        for (storm, samples) in ["no", "yes"].iter().zip(of_level) {
            let figures: Vec<String> =
                (0..FIGURES).map(|at| summary(samples.iter().map(|sample| sample[at]))).collect();
            println!("| {level} | {storm} | {} |", figures.join(" | "));
        }
    }
    Ok(())
}

const FIGURES: usize = 6;
/// In the order of the table.
type Sample = [f64; FIGURES];

struct Bridge {
    child: Child,
    stormy: SocketAddr,
    calm: SocketAddr,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: AtomicU64,
    bytes: AtomicU64,
}

impl Bridge {
    fn start(level: &str, refusing: SocketAddr, echo: SocketAddr) -> Result<Self> {
        let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("storm-{level}"));
        let text = format!(
            "admin = \"127.0.0.1:0\"\nlog_level = \"{level}\"\n\
             [[listener]]\nname = \"stormy\"\nbind = \"127.0.0.1:0\"\nupstream = \"refusing\"\n\
             [[listener]]\nname = \"calm\"\nbind = \"127.0.0.1:0\"\nupstream = \"echo\"\n\
             protocol = \"tcp\"\n\
             [upstream.refusing]\ngateway = \"{refusing}\"\n[upstream.echo]\ngateway = \"{echo}\"\n"
        );
        fs::write(&file, text)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_tidegate"), "run"]);
        command.arg("--config").arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let log = Arc::new(Log::default());
        let mut bridge = Self { child, stormy: refusing, calm: refusing, log: Arc::clone(&log) };
        let mut stderr = stderr.ok_or("it is piped")?;
        thread::spawn(move || log.read(&mut stderr));
        let mut line = String::new();
        BufReader::new(stdout.ok_or("it is piped")?).read_line(&mut line)?;
        // `tidegate: listening on ADDRESS -> GATEWAY (pool off), ADDRESS -> …`
        let mut listening = line.split(" -> ").filter_map(|part| part.split(' ').next_back());
        let mut next = || listening.next().ok_or_else(|| format!("not a ready line: {line}"));
        bridge.stormy = next()?.parse()?;
        bridge.calm = next()?.parse()?;
        Ok(bridge)
    }

    /// What comes about in that time, with as many connects a second or none.
    fn measure(&self, rate: u32, time: Duration) -> Result<Sample> {
        let (connects, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let (start, before) = (Instant::now(), self.counts(&connects)?);
        thread::scope(|scope| {
            let mut clients = Vec::new();
            for _ in 0..if rate > 0 { CLIENTS } else { 0 } {
                clients.push(scope.spawn(|| {
                    let storm = storm(self.stormy, CLIENTS.into(), rate.into(), &connects, &over);
                    over.store(true, Ordering::Relaxed);
                    storm
                }));
            }
            thread::sleep(WARM_UP);
            let pings = ping(self.calm, time, &over);
            let (took, after) = (start.elapsed().as_secs_f64(), self.counts(&connects)?);
            over.store(true, Ordering::Relaxed);
            for client in clients {
                client.join().map_err(|_| "a client panicked")??;
            }
            let pings = pings?;
            let rates: [f64; 4] = std::array::from_fn(|at| (after[at] - before[at]) / took);
            let [p50, p99] = [0.5, 0.99].map(|part| pings.value_at_quantile(part) as f64);
            let [connects, lines, bytes, cpu] = rates;
            Ok([connects, lines, bytes / 1e3, cpu, p50, p99])
        })
    }

    /// Connects, log lines, log bytes and CPU seconds so far.
    fn counts(&self, connects: &AtomicU64) -> Result<[f64; 4]> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name before it may hold anything.
        let fields = stat.rsplit_once(')').ok_or("a stat line")?.1.split_whitespace();
        let ticks: f64 =
            fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
        let [connects, lines, bytes] = [connects, &self.log.lines, &self.log.bytes]
            .map(|count| count.load(Ordering::Relaxed) as f64);
        Ok([connects, lines, bytes, ticks / TICKS])
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Log {
    fn read(&self, from: &mut impl Read) {
        let mut buffer = [0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let lines = buffer[..count].iter().filter(|byte| **byte == b'\n').count();
            self.lines.fetch_add(lines as u64, Ordering::Relaxed);
            self.bytes.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}

/// One of several clients that together connect that often in a second, until it is over.
fn storm(
    bridge: SocketAddr,
    clients: u64,
    rate: u64,
    connects: &AtomicU64,
    over: &AtomicBool,
) -> Result<()> {
    let every = Duration::from_nanos(1_000_000_000 * clients / rate);
    let mut due = Instant::now();
    let mut heard = Vec::new();
    while !over.load(Ordering::Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut client = TcpStream::connect(bridge)?;
        heard.clear();
        client.read_to_end(&mut heard)?;
        if heard.get(4) != Some(&0xff) {
            return Err(format!("not an error of MySQL: {heard:?}").into());
        }
        // Nothing is left of it that would hold its port for a minute.
        SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
        connects.fetch_add(1, Ordering::Relaxed);
        let oldest = Instant::now().checked_sub(CATCH_UP).unwrap_or(due);
        due = oldest.max(due + every);
    }
    Ok(())
}

/// How long the round trips of a session take, in microseconds.
fn ping(bridge: SocketAddr, time: Duration, over: &AtomicBool) -> Result<Histogram<u64>> {
    let mut stream = TcpStream::connect(bridge)?;
    stream.set_nodelay(true)?;
    let mut pings = Histogram::new(3)?;
    let start = Instant::now();
    while start.elapsed() < time && !over.load(Ordering::Relaxed) {
        let sent = Instant::now();
        stream.write_all(b"marco???")?;
        stream.read_exact(&mut [0; 8])?;
        let took = sent.elapsed();
        pings.record(took.as_micros() as u64)?;
        thread::sleep(PING_EVERY.saturating_sub(took));
    }
    Ok(pings)
}

/// A server that answers every byte with itself.
fn echo() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(io::Result::ok) {
            thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                let _ = io::copy(&mut &stream, &mut &stream);
            });
        }
    });
    Ok(address)
}

/// The median, and the least and the most.
fn summary(values: impl Iterator<Item = f64>) -> String {
    Summary::of(values.collect()).map_or("-".to_owned(), |summary| summary.to_string())
}
