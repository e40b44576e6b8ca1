//! tidegate beside its peers on one machine in one run; `benches/peers/run` starts it.
//!
//! | file | holds |
//! | --- | --- |
//! | `candidates`, `config` | what is compared, and how each is started |
//! | `order` | whose turn it is |
//! | `axes` | what is measured |
//! | `load`, `memory` | the load generator |
//! | `opening`, `words`, `authority` | how connections begin, with TLS and as MySQL does |
//! | `agreement` | what TLS was agreed on |
//! | `server`, `endless`, `distance` | what is behind the candidates, a process of its own |
//! | `semantics` | what a connection's end becomes on the other side |
//! | `process` | children that never outlive the bench; CPU, memory and descriptors of them |
//! | `stats`, `summary`, `targets`, `report`, `plot` | what is made of the samples |
#![forbid(unsafe_code)]

mod agreement;
mod authority;
mod axes;
mod candidates;
mod config;
mod distance;
mod endless;
mod load;
mod memory;
mod opening;
mod order;
mod plot;
mod process;
mod report;
mod semantics;
mod server;
mod stats;
mod summary;
mod targets;
mod words;

use std::error::Error;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use socket2::SockRef;
use tokio::signal::unix::{SignalKind, signal};

use crate::authority::Authority;
use crate::axes::{AXES, Extent};
use crate::candidates::{CANDIDATES, Candidate, Places, SECURE, Standing};
use crate::order::Order;
use crate::report::Report;
use crate::semantics::SEMANTICS;
use crate::server::Server;

/// Measures tidegate beside its peers; `benches/peers/run` starts it where nothing disturbs.
#[derive(Debug, Parser)]
struct Arguments {
    /// Few and short rounds, fewer candidates and axes; writes into the target folder only.
    #[arg(long)]
    quick: bool,
    /// Rounds of each axis [default: 5; quick: 2].
    #[arg(long)]
    rounds: Option<usize>,
    /// Axes whose names begin so (ping, reply, bulk, short, login, first, memory, tls_, semantics).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Candidates whose names begin so, beside direct and tidegate.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// The binary to measure.
    #[arg(long)]
    tidegate: Option<PathBuf>,
    /// The same, statically linked.
    #[arg(long)]
    tidegate_static: Option<PathBuf>,
    /// What the binaries were built of.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// Of the order of turns [default: the time].
    #[arg(long)]
    seed: Option<u64>,
    /// What `cargo bench` says to all benches.
    #[arg(long, hide = true)]
    bench: bool,
}

const QUICK: Extent = Extent {
    rounds: 2,
    warm_up: Duration::from_millis(150),
    window: Duration::from_millis(500),
    idle_connections: 1000,
    repetitions: 3,
};
const FULL: Extent = Extent {
    rounds: 5,
    warm_up: Duration::from_millis(300),
    window: Duration::from_millis(1200),
    idle_connections: 5000,
    repetitions: 20,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(server::ARGUMENT) {
        let candidates = words.next().ok_or("for how many candidates?")?;
        let certificates = words.next().ok_or("with which certificate?")?;
        return server::serve(candidates.parse()?, Path::new(&certificates));
    }
    let arguments = Arguments::parse();
    let Some(tidegate) = arguments.tidegate.clone() else {
        println!("peers: benches/peers/run builds, installs and starts what this needs");
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            result = compare(&arguments, tidegate) => result,
            _ = interrupt.recv() => Err("interrupted".into()),
            _ = terminate.recv() => Err("terminated".into()),
        }
    })
}

async fn compare(arguments: &Arguments, tidegate: PathBuf) -> Result<(), Box<dyn Error>> {
    let axes = AXES.iter().map(|axis| axis.key).chain([SEMANTICS]);
    known("--only", &arguments.only, axes)?;
    known("--peers", &arguments.peers, CANDIDATES.iter().map(|candidate| candidate.name))?;
    let began = Instant::now();
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers");
    fs::create_dir_all(&scratch)?;
    let tidegate_static = arguments.tidegate_static.clone();
    let certificates = scratch.join("certificates");
    let authority = Arc::new(Authority::make(&certificates)?);
    let places = Places { tidegate, tidegate_static, authority, scratch: scratch.clone() };
    let mut extent = if arguments.quick { QUICK } else { FULL };
    extent.rounds = arguments.rounds.unwrap_or(extent.rounds).max(1);

    let seed = arguments.seed.unwrap_or_else(|| {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
    });
    eprintln!("the order of turns: --seed {seed}");
    let mut order = Order::new(seed);

    let candidates = axes::candidates(&arguments.peers, arguments.quick);
    let server = Server::start(candidates.len(), &certificates)?;
    let (mut running, mut versions, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
    for (candidate, addresses) in candidates.into_iter().zip(&server.addresses) {
        let started = candidate.version(&places).and_then(|version| {
            let started =
                start(candidate, addresses, &places).map_err(|error| error.to_string())?;
            Ok((version, started))
        });
        match started {
            Ok((version, started)) => {
                versions.push((candidate.name, version));
                running.push(started);
            }
            Err(why) if candidate.name == "tidegate" => return Err(why.into()),
            Err(why) => {
                eprintln!("{}: skipped ({why})", candidate.name);
                skipped.push((candidate, why));
            }
        }
    }

    let mut tables = Vec::new();
    for axis in axes::chosen(AXES, |axis| axis.key, &arguments.only) {
        if axis.quick || !arguments.quick || !arguments.only.is_empty() {
            tables.push(axis.measure(&running, &server, &places, extent, &mut order).await);
        }
    }
    let mut agreements = Vec::new();
    if tables.iter().any(|table| table.axis.key.starts_with(SECURE)) {
        for one in running.iter().filter(|one| one.candidate.says_something_of(SECURE)) {
            agreements.push(agreement::of(one).await);
        }
    }
    let mut verdicts = Vec::new();
    if !axes::chosen(&[SEMANTICS], |key| key, &arguments.only).is_empty() {
        for one in running.iter().filter(|one| one.candidate.says_something_of(SEMANTICS)) {
            eprintln!("{SEMANTICS}: {}", one.candidate.name);
            verdicts.push(semantics::judge(one, extent.repetitions).await);
        }
    }

    let complete = !arguments.quick
        && arguments.only.is_empty()
        && arguments.peers.is_empty()
        && extent.rounds >= FULL.rounds;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
    let folder = if complete { &sources } else { &scratch };
    let took = began.elapsed();
    let congestion_control = congestion_control(&server)?;
    let report = Report {
        tables,
        agreements,
        verdicts,
        versions,
        skipped,
        congestion_control,
        commit: arguments.commit.clone(),
        seed,
        extent,
        took,
        notes: fs::read_to_string(sources.join("NOTES.md"))?,
    };
    let text = report.markdown("RESULTS.svg");
    println!("{text}");
    fs::write(folder.join("RESULTS.md"), text)?;
    plot::draw(&report.tables, &folder.join("RESULTS.svg"))?;
    eprintln!("written to {}, {} s", folder.display(), took.as_secs());
    Ok(())
}

/// Starts `candidate` before those addresses of the server and one of the bench itself.
fn start(
    candidate: &'static Candidate,
    addresses: &[SocketAddr],
    places: &Places,
) -> io::Result<Standing> {
    let ends = server::listen()?;
    let behind = candidate.behind(addresses, ends.local_addr()?);
    let running = candidate.start(&behind, places)?;
    let authority = Arc::clone(&places.authority);
    Ok(Standing { candidate, running, behind, ends, authority })
}

/// Refuses a choice that chooses nothing.
fn known<'a>(
    flag: &str,
    starts: &[String],
    names: impl Iterator<Item = &'a str>,
) -> Result<(), Box<dyn Error>> {
    let names: Vec<&str> = names.collect();
    match starts.iter().find(|start| !names.iter().any(|name| name.starts_with(start.as_str()))) {
        Some(start) => {
            Err(format!("{flag}: `{start}` begins none of: {}", names.join(", ")).into())
        }
        None => Ok(()),
    }
}

/// What the kernel gives a connection here, by route or by default.
fn congestion_control(server: &Server) -> io::Result<String> {
    let stream = distance::connect(server.addresses[0][server::REPLIES])?;
    let name = SockRef::from(&stream).tcp_congestion()?;
    Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
}
