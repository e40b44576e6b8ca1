//! What is measured.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use crate::candidates::{
    CANDIDATES, CLIENT_TLS, Candidate, Places, Program, Standing, UPSTREAM_TLS,
};
use crate::load::{Cpu, Ends, Load, Tally, Window, Word};
use crate::memory;
use crate::order::Order;
use crate::server::{self, REQUEST, Server};
use crate::stats::{Row, Sample, Table};

/// One table of the report.
#[derive(Debug)]
pub struct Axis {
    /// For `--only`.
    pub key: &'static str,
    pub title: &'static str,
    /// The first one is what ratios are given of.
    pub figures: &'static [Figure],
    pub probe: Probe,
    /// Part of quick runs.
    pub quick: bool,
}

/// How it is measured.
#[derive(Debug, Clone, Copy)]
pub enum Probe {
    /// By a load on the candidate's way of that index.
    Load(Load, usize),
    /// On a candidate that is started for it with that way, with no more connections than that.
    Memory(usize, usize),
}

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Requests or connections per second.
    Rate,
    /// 10^9 bytes per second.
    Throughput,
    /// Microseconds, for this share of requests, in hundredths of a percent.
    Latency(u32),
    /// Microseconds of the proxy's CPU per request or connection.
    CpuPerRequest,
    /// Seconds of the proxy's CPU per 10^9 bytes.
    CpuPerGigabyte,
    /// KiB of anonymous memory per idle connection that has exchanged 64 bytes.
    MemoryBefore,
    /// The same after 1 MiB on each.
    MemoryAfter,
    /// Open descriptors per connection.
    Descriptors,
}

/// Half of all.
pub const P50: Figure = Figure::Latency(50_00);
/// All but one in a hundred.
pub const P99: Figure = Figure::Latency(99_00);
/// All but one in a thousand.
pub const P999: Figure = Figure::Latency(99_90);

const PINGS: &[Figure] = &[Figure::Rate, P50, P99, P999, Figure::CpuPerRequest];
const REPLIES: &[Figure] = &[Figure::Throughput, P50, P99, Figure::CpuPerGigabyte];
const BULK: &[Figure] = &[Figure::Throughput, Figure::CpuPerGigabyte];
const SHORT: &[Figure] = &[Figure::Rate, P50, P99, Figure::CpuPerRequest];
const FIRST: &[Figure] = &[P50, P99];
const MEMORY: &[Figure] = &[Figure::MemoryAfter, Figure::MemoryBefore, Figure::Descriptors];

/// All axes, in the order of the report.
#[rustfmt::skip]
pub const AXES: &[Axis] = &[
    Axis { key: "ping1", title: "Ping-pong, 1 connection", figures: PINGS, probe: ask(1, REQUEST), quick: true },
    Axis { key: "ping16", title: "Ping-pong, 16 connections", figures: PINGS, probe: ask(16, REQUEST), quick: true },
    Axis { key: "ping64", title: "Ping-pong, 64 connections", figures: PINGS, probe: ask(64, REQUEST), quick: false },
    Axis { key: "reply16k", title: "Replies of 16 KiB, 1 connection", figures: REPLIES, probe: ask(1, 16 << 10), quick: false },
    Axis { key: "reply64k", title: "Replies of 64 KiB, 1 connection", figures: REPLIES, probe: ask(1, 64 << 10), quick: true },
    Axis { key: "reply1m", title: "Replies of 1 MiB, 1 connection", figures: REPLIES, probe: ask(1, 1 << 20), quick: false },
    Axis { key: "bulk1", title: "Bulk, 1 stream", figures: BULK, probe: bulk(1, Ends::Count), quick: true },
    Axis { key: "bulk4", title: "Bulk, 4 streams", figures: BULK, probe: bulk(4, Ends::Count), quick: true },
    Axis { key: "bulk-copied1", title: "Bulk, written and read, 1 stream", figures: BULK, probe: bulk(1, Ends::Copy), quick: true },
    Axis { key: "bulk-copied4", title: "Bulk, written and read, 4 streams", figures: BULK, probe: bulk(4, Ends::Copy), quick: false },
    Axis { key: "short", title: "Short connections, 16 at once", figures: SHORT, probe: Probe::Load(Load::Short { at_once: 16 }, server::REPLIES), quick: true },
    Axis { key: "login", title: "Log-ins, 16 at once", figures: SHORT, probe: log_in(16, Word::Ok, Duration::ZERO, server::LOGINS), quick: true },
    Axis { key: "first0", title: "Connect to first byte, no delay", figures: FIRST, probe: first_byte(0), quick: false },
    Axis { key: "first1", title: "Connect to first byte, 1 ms round trip", figures: FIRST, probe: first_byte(1), quick: true },
    Axis { key: "first5", title: "Connect to first byte, 5 ms round trip", figures: FIRST, probe: first_byte(2), quick: false },
    Axis { key: "memory", title: "User memory per idle connection", figures: MEMORY, probe: Probe::Memory(server::REPLIES, usize::MAX), quick: true },
    Axis { key: "tls_bulk1", title: "TLS to the upstream: bulk, 1 stream", figures: BULK, probe: Probe::Load(BULK_1, UPSTREAM_TLS), quick: true },
    Axis { key: "tls_ping16", title: "TLS to the upstream: ping-pong, 16 connections", figures: PINGS, probe: Probe::Load(PING_16, UPSTREAM_TLS), quick: true },
    Axis { key: "tls_memory", title: "TLS to the upstream: user memory per idle connection", figures: MEMORY, probe: Probe::Memory(UPSTREAM_TLS, MOST_SECURE), quick: false },
    Axis { key: "tls_client_bulk1", title: "TLS from the client: bulk, 1 stream", figures: BULK, probe: Probe::Load(BULK_1, CLIENT_TLS), quick: false },
    Axis { key: "tls_client_ping16", title: "TLS from the client: ping-pong, 16 connections", figures: PINGS, probe: Probe::Load(PING_16, CLIENT_TLS), quick: false },
    Axis { key: "tls_client_memory", title: "TLS from the client: user memory per idle connection", figures: MEMORY, probe: Probe::Memory(CLIENT_TLS, MOST_SECURE), quick: false },
];

const BULK_1: Load = Load::Bulk { streams: 1, ends: Ends::Count };
const PING_16: Load = Load::Ask { connections: 16, reply: REQUEST };
/// Connections of the memory axes with TLS: stunnel has a thread for each.
pub const MOST_SECURE: usize = 1000;

/// Warm-up of the loads that a pool serves: between two rounds it gives up what nobody has come for, and
/// is cautious for about a second when they come again.
pub const FOR_A_POOL: Duration = Duration::from_secs(2);

/// Clients that do nothing but connect are no clients: about 200 a second.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

const fn ask(connections: usize, reply: usize) -> Probe {
    Probe::Load(Load::Ask { connections, reply }, server::REPLIES)
}

const fn bulk(streams: usize, ends: Ends) -> Probe {
    Probe::Load(Load::Bulk { streams, ends }, server::REPLIES)
}

const fn log_in(at_once: usize, until: Word, pause: Duration, address: usize) -> Probe {
    Probe::Load(Load::LogIn { at_once, until, pause }, address)
}

const fn first_byte(delay: usize) -> Probe {
    log_in(2, Word::Greeting, FIRST_PAUSE, server::GREETINGS + delay)
}

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    pub rounds: usize,
    /// Of a load before its window.
    pub warm_up: Duration,
    /// Of what counts.
    pub window: Duration,
    /// Of the memory axis.
    pub idle_connections: usize,
    /// Of each trial of the semantics.
    pub repetitions: usize,
}

impl Figure {
    /// The head of its column.
    pub fn name(self) -> String {
        match self {
            Figure::Rate => "per second".to_owned(),
            Figure::Throughput => "GB/s".to_owned(),
            Figure::Latency(share) => format!("p{} µs", f64::from(share) / 100.0),
            Figure::CpuPerRequest => "proxy CPU µs each".to_owned(),
            Figure::CpuPerGigabyte => "proxy CPU s/GB".to_owned(),
            Figure::MemoryBefore => "KiB before a burst".to_owned(),
            Figure::MemoryAfter => "KiB after 1 MiB on each".to_owned(),
            Figure::Descriptors => "descriptors".to_owned(),
        }
    }

    /// Whether less is better.
    pub fn is_cost(self) -> bool {
        !matches!(self, Figure::Rate | Figure::Throughput)
    }

    /// Of what a load gave; NaN for what only the memory axis knows, or no proxy has.
    fn of(self, tally: &Tally, cpu: Cpu, seconds: f64) -> f64 {
        let proxy = if cpu.proxy > 0.0 { cpu.proxy } else { f64::NAN };
        match self {
            Figure::Rate => tally.count as f64 / seconds,
            Figure::Throughput => tally.bytes as f64 / 1e9 / seconds,
            Figure::Latency(share) => {
                tally.latency.value_at_quantile(f64::from(share) / 1e4) as f64 / 1e3
            }
            Figure::CpuPerRequest => proxy * 1e6 / tally.count as f64,
            Figure::CpuPerGigabyte => proxy * 1e9 / tally.bytes as f64,
            Figure::MemoryBefore | Figure::MemoryAfter | Figure::Descriptors => f64::NAN,
        }
    }
}

impl Axis {
    /// Whether `candidate` has a row here.
    fn takes(&self, candidate: &Candidate) -> bool {
        let is_there =
            candidate.program != Program::None || !matches!(self.probe, Probe::Memory(..));
        is_there && candidate.says_something_of(self.key)
    }

    /// Measures all that run, one after the other, in each round.
    pub async fn measure(
        &'static self,
        running: &[Standing],
        server: &Server,
        places: &Places,
        extent: Extent,
        order: &mut Order,
    ) -> Table {
        let running: Vec<_> = running.iter().filter(|one| self.takes(one.candidate)).collect();
        let row = |one: &&Standing| Row {
            candidate: one.candidate.name,
            samples: Vec::new(),
            failures: Vec::new(),
        };
        let mut rows: Vec<Row> = running.iter().map(row).collect();
        for round in 0..extent.rounds {
            // Whoever comes after a heavy one does not always come after it.
            let turns = order.of(running.len());
            let names: Vec<_> = turns.iter().map(|index| rows[*index].candidate).collect();
            eprintln!(
                "{}: round {} of {}: {}",
                self.key,
                round + 1,
                extent.rounds,
                names.join(", ")
            );
            for index in turns {
                match self.sample(running[index], server, places, extent).await {
                    Ok(sample) => rows[index].samples.push(sample),
                    Err(error) => rows[index].failures.push(error.to_string()),
                }
            }
        }
        Table { axis: self, rows }
    }

    async fn sample(
        &self,
        one: &Standing,
        server: &Server,
        places: &Places,
        extent: Extent,
    ) -> io::Result<Sample> {
        let (load, way) = match self.probe {
            Probe::Load(load, way) => (load, way),
            Probe::Memory(way, most) => {
                let connections = extent.idle_connections.min(most);
                return memory::sample(one, way, places, connections).await;
            }
        };
        let (address, opening) = (one.running.addresses[way], one.opening(way)?);
        let warm_up = match load {
            Load::LogIn { .. } => extent.warm_up.max(FOR_A_POOL),
            _ => extent.warm_up,
        };
        let start = Instant::now() + warm_up;
        let window = Window { start, end: start + extent.window };
        let server = server.process.id();
        let (tally, cpu) =
            load.run(address, &opening, window, || one.running.pids(), server).await?;
        let seconds = extent.window.as_secs_f64();
        Ok(Sample {
            values: self.figures.iter().map(|figure| figure.of(&tally, cpu, seconds)).collect(),
            client: cpu.client / seconds,
            server: cpu.server / seconds,
        })
    }
}

/// What `--only` and `--peers` choose: keys or names that begin so.
pub fn chosen<'a, T>(all: &'a [T], name: impl Fn(&T) -> &str, starts: &[String]) -> Vec<&'a T> {
    let wanted = |item: &&T| {
        starts.is_empty() || starts.iter().any(|start| name(item).starts_with(start.as_str()))
    };
    all.iter().filter(wanted).collect()
}

/// The candidates of `--peers`; direct and tidegate are always there to compare with.
pub fn candidates(peers: &[String], quick: bool) -> Vec<&'static Candidate> {
    let chosen = chosen(CANDIDATES, |candidate| candidate.name, peers);
    let fixed = |candidate: &&Candidate| matches!(candidate.name, "direct" | "tidegate");
    let wanted = |candidate: &&Candidate| {
        fixed(candidate)
            || (chosen.contains(candidate) && !(quick && candidate.full_only && peers.is_empty()))
    };
    CANDIDATES.iter().filter(wanted).collect()
}
