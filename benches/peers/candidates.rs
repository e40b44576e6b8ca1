//! What is compared, and how each is started.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::Process;
use crate::server;
use crate::{config, distance};

/// How long a candidate may take to listen.
const START: Duration = Duration::from_secs(10);

/// One way from the client to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its row.
    pub name: &'static str,
    pub program: Program,
    /// Beginnings of the keys of the axes that it has a row on: where it differs from its kin.
    axes: &'static [&'static str],
    /// Left out of quick runs.
    pub full_only: bool,
}

/// What carries the bytes, and what of its settings differs between candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Nothing in between.
    None,
    Tidegate {
        linked: Linked,
        protocol: &'static str,
        flags: &'static str,
    },
    Haproxy {
        threads: usize,
        splice: bool,
    },
    Nginx {
        workers: usize,
        tuned: bool,
    },
    Envoy,
    Socat,
}

/// Which of the two builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linked {
    Dynamic,
    Static,
}

/// Keys of all axes.
const ALL: &[&str] = &[""];
/// Of those on which more than a few bytes are moved.
const MOVED: &[&str] = &["reply", "bulk", "memory", "semantics"];
/// Of those on which one thread of a proxy is busy, and a second has something to do.
const BUSY: &[&str] = &["ping16", "ping64", "bulk4", "short"];
/// Of those on which peers with one thread are what tidegate with its one compares with.
const ONE: &[&str] = &["ping16", "ping64", "short"];
/// Of those on which the server speaks first.
const GREETED: &[&str] = &["login", "first"];

const fn tidegate(linked: Linked, protocol: &'static str, flags: &'static str) -> Program {
    Program::Tidegate { linked, protocol, flags }
}

/// All candidates, in the order of the report.
#[rustfmt::skip]
pub const CANDIDATES: &[Candidate] = &[
    Candidate { name: "direct", program: Program::None, axes: ALL, full_only: false },
    Candidate { name: "tidegate", program: tidegate(Linked::Dynamic, "tcp", QUIET), axes: ALL, full_only: false },
    Candidate { name: "tidegate static", program: tidegate(Linked::Static, "tcp", QUIET), axes: &["ping", "reply", "bulk", "short", "memory", "semantics"], full_only: true },
    Candidate { name: "tidegate 2 threads", program: tidegate(Linked::Dynamic, "tcp", "--log-level warn --threads 2"), axes: BUSY, full_only: false },
    Candidate { name: "tidegate mysql", program: tidegate(Linked::Dynamic, "mysql", QUIET), axes: GREETED, full_only: false },
    Candidate { name: "tidegate warm", program: tidegate(Linked::Dynamic, "mysql", "--log-level warn --pool warm"), axes: GREETED, full_only: false },
    Candidate { name: "tidegate no splice", program: tidegate(Linked::Dynamic, "tcp", "--log-level warn --splice off"), axes: &["reply64k", "reply1m", "bulk", "semantics"], full_only: false },
    // One line for each connection, so only short ones can tell the difference.
    Candidate { name: "tidegate logs on", program: tidegate(Linked::Dynamic, "tcp", "--log-level info"), axes: &["short"], full_only: true },
    Candidate { name: "haproxy", program: Program::Haproxy { threads: 2, splice: false }, axes: ALL, full_only: false },
    Candidate { name: "haproxy 1 thread", program: Program::Haproxy { threads: 1, splice: false }, axes: ONE, full_only: true },
    Candidate { name: "haproxy splice", program: Program::Haproxy { threads: 2, splice: true }, axes: &["ping16", "reply", "bulk", "memory", "semantics"], full_only: false },
    Candidate { name: "nginx", program: Program::Nginx { workers: 2, tuned: false }, axes: ALL, full_only: false },
    Candidate { name: "nginx 1 worker", program: Program::Nginx { workers: 1, tuned: false }, axes: ONE, full_only: true },
    Candidate { name: "nginx 64k", program: Program::Nginx { workers: 2, tuned: true }, axes: MOVED, full_only: false },
    Candidate { name: "envoy", program: Program::Envoy, axes: ALL, full_only: false },
    Candidate { name: "socat", program: Program::Socat, axes: &["ping", "reply", "bulk1", "bulk4", "short", "first", "memory", "semantics"], full_only: true },
];

const QUIET: &str = "--log-level warn";

/// Where what is not on the `PATH` lies.
#[derive(Debug)]
pub struct Places {
    pub tidegate: PathBuf,
    pub tidegate_static: Option<PathBuf>,
    /// Configurations and what the candidates print.
    pub scratch: PathBuf,
}

/// A candidate that has its turns.
#[derive(Debug)]
pub struct Standing {
    pub candidate: &'static Candidate,
    pub running: Running,
    /// The addresses that it forwards to.
    pub behind: Vec<SocketAddr>,
    /// The last of them, of the bench itself.
    pub ends: TcpListener,
}

/// A candidate that listens.
#[derive(Debug)]
pub struct Running {
    processes: Vec<Process>,
    /// Where it forwards to each of the servers it was given, in their order.
    pub addresses: Vec<SocketAddr>,
}

impl Running {
    /// Pids of all its processes.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().flat_map(Process::tree).collect()
    }
}

impl Candidate {
    /// Whether it has a row on the axis of that key.
    pub fn says_something_of(&self, axis: &str) -> bool {
        self.axes.iter().any(|start| axis.starts_with(start))
    }

    /// Starts it in front of `servers`, and waits until it listens.
    pub fn start(&self, servers: &[SocketAddr], places: &Places) -> io::Result<Running> {
        if self.program == Program::None {
            return Ok(Running { processes: Vec::new(), addresses: servers.to_vec() });
        }
        let addresses: Vec<SocketAddr> = free_addresses(servers.len())?;
        let ways: Vec<config::Way> =
            addresses.iter().copied().zip(servers.iter().copied()).collect();
        let folder = places.scratch.join(self.name.replace(' ', "-"));
        fs::create_dir_all(&folder)?;
        let log = folder.join("log");
        let mut processes = Vec::new();
        for (index, command) in self.commands(&ways, places, &folder)?.iter().enumerate() {
            processes.push(Process::start(command, &log.with_extension(index.to_string()))?);
        }
        let mut running = Running { processes, addresses };
        for address in running.addresses.clone() {
            let deadline = Instant::now() + START;
            while distance::connect(address).is_err() {
                if Instant::now() > deadline || running.processes.iter_mut().any(Process::has_ended)
                {
                    return Err(io::Error::other(format!("did not start: {}", last_line(&folder))));
                }
                distance::sleep(Duration::from_millis(20));
            }
        }
        Ok(running)
    }

    fn commands(
        &self,
        ways: &[config::Way],
        places: &Places,
        folder: &Path,
    ) -> io::Result<Vec<Vec<String>>> {
        let file = folder.join("config");
        let shown = file.display();
        let (text, command) = match self.program {
            Program::None => return Ok(Vec::new()),
            Program::Tidegate { linked, protocol, flags } => {
                let [admin] = free_addresses(1)?[..] else { unreachable!("one was asked for") };
                let text = config::tidegate(ways, protocol, admin);
                let binary = places.binary(linked)?.display();
                (text, format!("{binary} run {flags} --config {shown}"))
            }
            Program::Haproxy { threads, splice } => {
                (config::haproxy(ways, threads, splice), format!("haproxy -db -q -f {shown}"))
            }
            Program::Nginx { workers, tuned } => {
                let folder = folder.display();
                let text = config::nginx(ways, workers, tuned);
                (text, format!("nginx -p {folder}/ -e stderr -c {shown}"))
            }
            Program::Envoy => {
                let flags = "--concurrency 2 --disable-hot-restart --log-level error";
                (config::envoy(ways), format!("envoy {flags} --config-path {shown}.json"))
            }
            Program::Socat => {
                let command = |way| config::socat(way).split(' ').map(str::to_owned).collect();
                return Ok(ways.iter().map(command).collect());
            }
        };
        fs::write(&file, &text)?;
        // Envoy goes by the name.
        fs::write(file.with_extension("json"), &text)?;
        Ok(vec![command.split(' ').map(str::to_owned).collect()])
    }

    /// What it says its version is, or why it cannot be had.
    pub fn version(&self, places: &Places) -> Result<String, String> {
        let (program, flag) = match self.program {
            Program::None => return Ok(String::new()),
            Program::Tidegate { linked, .. } => {
                let binary = places.binary(linked).map_err(|error| error.to_string())?;
                (binary.display().to_string(), "--version")
            }
            Program::Haproxy { .. } => ("haproxy".to_owned(), "-v"),
            Program::Nginx { .. } => ("nginx".to_owned(), "-v"),
            Program::Envoy => ("envoy".to_owned(), "--version"),
            Program::Socat => ("socat".to_owned(), "-V"),
        };
        let output = Command::new(&program).arg(flag).output();
        let output = output.map_err(|error| format!("{program}: {error}"))?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find(|line| line.contains(|letter: char| letter.is_ascii_digit()));
        match line {
            Some(line) if output.status.success() => Ok(line.trim().to_owned()),
            _ => Err(format!("{program} {flag}: {}", output.status)),
        }
    }
}

impl Places {
    fn binary(&self, linked: Linked) -> io::Result<&Path> {
        match linked {
            Linked::Dynamic => Ok(&self.tidegate),
            Linked::Static => {
                self.tidegate_static.as_deref().ok_or_else(|| io::Error::other("not built"))
            }
        }
    }
}

fn free_addresses(count: usize) -> io::Result<Vec<SocketAddr>> {
    // Held together, so that they differ.
    let listeners: Vec<_> = (0..count).map(|_| server::listen()).collect::<io::Result<_>>()?;
    listeners.iter().map(|listener| listener.local_addr()).collect()
}

fn last_line(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("log.0")).unwrap_or_default();
    text.lines().last().unwrap_or("it said nothing").to_owned()
}
