//! What is compared, and how each is started.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::authority::Authority;
use crate::config::{self, Leg, Way};
use crate::distance;
use crate::opening::Opening;
use crate::process::Process;
use crate::server;

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
    /// Has ways with TLS only.
    Stunnel,
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
const MOVED: &[&str] = &["reply", "bulk", "memory", "semantics", "tls_bulk", "tls_client_bulk"];
/// Of those on which one thread of a proxy is busy, and a second has something to do.
const BUSY: &[&str] = &["ping16", "ping64", "bulk4", "short", "tls_ping16", "tls_client_ping16"];
/// Of those on which peers with one thread are what tidegate with its one compares with.
const ONE: &[&str] = &["ping16", "ping64", "short", "tls_ping16"];
/// Of those on which the server speaks first.
const GREETED: &[&str] = &["login", "first"];
/// Of those with TLS on one leg.
pub const SECURE: &str = "tls_";

const fn tidegate(linked: Linked, protocol: &'static str, flags: &'static str) -> Program {
    Program::Tidegate { linked, protocol, flags }
}

/// All candidates, in the order of the report.
#[rustfmt::skip]
pub const CANDIDATES: &[Candidate] = &[
    Candidate { name: "direct", program: Program::None, axes: ALL, full_only: false },
    Candidate { name: "tidegate", program: tidegate(Linked::Dynamic, "tcp", QUIET), axes: ALL, full_only: false },
    Candidate { name: "tidegate static", program: tidegate(Linked::Static, "tcp", QUIET), axes: &["ping", "reply", "bulk", "short", "memory", "semantics", SECURE], full_only: true },
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
    Candidate { name: "stunnel", program: Program::Stunnel, axes: &[SECURE], full_only: false },
    Candidate { name: "socat", program: Program::Socat, axes: &["ping", "reply", "bulk1", "bulk4", "short", "first", "memory", "semantics"], full_only: true },
];

const QUIET: &str = "--log-level warn";

/// Where what is not on the `PATH` lies.
#[derive(Debug)]
pub struct Places {
    pub tidegate: PathBuf,
    pub tidegate_static: Option<PathBuf>,
    /// Certificates, for all.
    pub authority: Arc<Authority>,
    /// Configurations and what the candidates print.
    pub scratch: PathBuf,
}

/// A candidate that has its turns.
#[derive(Debug)]
pub struct Standing {
    pub candidate: &'static Candidate,
    pub running: Running,
    /// What its ways lead to.
    pub behind: Vec<Behind>,
    /// The last of them, of the bench itself.
    pub ends: TcpListener,
    pub authority: Arc<Authority>,
}

/// The end of a way.
#[derive(Debug, Clone, Copy)]
pub struct Behind {
    pub address: SocketAddr,
    /// Which leg of the way is TLS.
    pub tls: Leg,
}

/// Where among a candidate's ways those are that have TLS. Before them are those to the server's
/// addresses without TLS, in their order.
pub const UPSTREAM_TLS: usize = server::SECURE;
pub const CLIENT_TLS: usize = UPSTREAM_TLS + 1;

impl Standing {
    /// How a client begins on one of its ways.
    pub fn opening(&self, way: usize) -> io::Result<Opening> {
        let leg = self.behind[way].tls;
        let logs_in = leg != Leg::Neither && self.candidate.logs_in();
        let is_direct = self.candidate.program == Program::None;
        let tls = match leg {
            Leg::Client => Some(self.authority.client()),
            Leg::Upstream if is_direct => Some(self.authority.client()),
            Leg::Upstream | Leg::Neither => None,
        };
        let tls = tls.transpose().map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Opening { logs_in, tls })
    }
}

/// A candidate that listens.
#[derive(Debug)]
pub struct Running {
    processes: Vec<Process>,
    /// Where its ways begin, in the order of their ends; nobody listens on those that it has not.
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

    /// What its ways lead to: `server` are the addresses that the server has for it.
    pub fn behind(&self, server: &[SocketAddr], ends: SocketAddr) -> Vec<Behind> {
        let plain = |address| Behind { address, tls: Leg::Neither };
        let upstream = if self.logs_in() { server::SECURE_LOGINS } else { server::SECURE };
        let client = match self.program {
            Program::None => server::SECURE,
            _ if self.logs_in() => server::LOGINS,
            _ => server::REPLIES,
        };
        let secure = [
            Behind { address: server[upstream], tls: Leg::Upstream },
            Behind { address: server[client], tls: Leg::Client },
        ];
        let all = server[..UPSTREAM_TLS].iter().copied().map(plain);
        all.chain(secure).chain([plain(ends)]).collect()
    }

    /// Whether its TLS is that of MySQL, which begins with a greeting.
    fn logs_in(&self) -> bool {
        matches!(self.program, Program::Tidegate { .. })
    }

    /// Whether it has a way of that kind.
    fn carries(&self, tls: Leg) -> bool {
        match tls {
            Leg::Neither => self.program != Program::Stunnel,
            _ => self.axes.iter().any(|start| start.is_empty() || start.starts_with(SECURE)),
        }
    }

    /// Starts it in front of `behind`, and waits until it listens.
    pub fn start(&self, behind: &[Behind], places: &Places) -> io::Result<Running> {
        if self.program == Program::None {
            let addresses = behind.iter().map(|behind| behind.address).collect();
            return Ok(Running { processes: Vec::new(), addresses });
        }
        let addresses: Vec<SocketAddr> = free_addresses(behind.len())?;
        let ways = addresses.iter().zip(behind);
        let ways: Vec<Way> = ways
            .map(|(bind, behind)| Way { bind: *bind, to: behind.address, tls: behind.tls })
            .filter(|way| self.carries(way.tls))
            .collect();
        let folder = places.scratch.join(self.name.replace(' ', "-"));
        fs::create_dir_all(&folder)?;
        let log = folder.join("log");
        let mut processes = Vec::new();
        for (index, command) in self.commands(&ways, places, &folder)?.iter().enumerate() {
            processes.push(Process::start(command, &log.with_extension(index.to_string()))?);
        }
        let mut running = Running { processes, addresses };
        for way in ways {
            let deadline = Instant::now() + START;
            while distance::connect(way.bind).is_err() {
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
        ways: &[Way],
        places: &Places,
        folder: &Path,
    ) -> io::Result<Vec<Vec<String>>> {
        let tls = &places.authority;
        let file = folder.join("config");
        let shown = file.display();
        let (text, command) = match self.program {
            Program::None => return Ok(Vec::new()),
            Program::Tidegate { linked, protocol, flags } => {
                let [admin] = free_addresses(1)?[..] else { unreachable!("one was asked for") };
                let text = config::tidegate(ways, protocol, admin, tls);
                let binary = places.binary(linked)?.display();
                (text, format!("{binary} run {flags} --config {shown}"))
            }
            Program::Haproxy { threads, splice } => {
                let text = config::haproxy(ways, threads, splice, tls);
                (text, format!("haproxy -db -q -f {shown}"))
            }
            Program::Nginx { workers, tuned } => {
                let folder = folder.display();
                let text = config::nginx(ways, workers, tuned, tls);
                (text, format!("nginx -p {folder}/ -e stderr -c {shown}"))
            }
            Program::Envoy => {
                let flags = "--concurrency 2 --disable-hot-restart --log-level error";
                (config::envoy(ways, tls), format!("envoy {flags} --config-path {shown}.json"))
            }
            Program::Stunnel => (config::stunnel(ways, tls), format!("stunnel4 {shown}")),
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
            Program::Stunnel => ("stunnel4".to_owned(), "-version"),
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
