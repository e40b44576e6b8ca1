//! What `tidegate load` costs a request, beside sysbench and mysqlslap: `SELECT 1` to the same
//! MariaDB over the same number of connections, in turns. Rates are over the wall time of the whole
//! process, of each generator alike. And, in a table of its own as the server is another, how fast
//! it is when the server is no obstacle.
//!
//!     cargo bench --bench load
#![allow(clippy::disallowed_methods, reason = "a bench may block")]

#[path = "peers/summary.rs"]
mod summary;
#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::Value;
use tempfile::TempDir;

use summary::Summary;
use support::mariadb::{MariaDb, PASSWORD, USER};
use support::mysql::{OK, server};
use support::process::{command, installed};

const ROUNDS: usize = 5;
const SECONDS: u32 = 4;
const CONNECTIONS: usize = 8;
/// mysqlslap is told how many, not how long.
const QUERIES: usize = 150_000;

const SCRIPT: &str = "
function thread_init() con = sysbench.sql.driver():connect() end
function event() con:query('SELECT 1') end
function thread_done() con:disconnect() end
";

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        // cargo test compiles it; there is nothing to run.
        return;
    }
    let Some(db) = MariaDb::start(&[]) else { return };
    let dir = TempDir::new().unwrap();
    let script = dir.path().join("select.lua");
    let password = dir.path().join("password");
    fs::write(&script, SCRIPT).unwrap();
    fs::write(&password, PASSWORD).unwrap();
    let run: [(&str, &dyn Fn() -> Run); 3] = [
        ("tidegate load", &|| tidegate(db.address(), "query", &password, dir.path())),
        ("sysbench", &|| sysbench(&db, &script)),
        ("mysqlslap", &|| mysqlslap(&db)),
    ];
    let mut rounds: [Vec<Run>; 3] = Default::default();
    for round in 0..ROUNDS {
        for turn in 0..run.len() {
            let which = (round + turn) % run.len();
            let (name, act) = run[which];
            if name == "tidegate load" || installed(name) {
                rounds[which].push(act());
            }
        }
    }
    println!("{CONNECTIONS} connections, medians of {ROUNDS} rounds; rates over wall time");
    head("SELECT 1 to MariaDB");
    for ((name, _), rounds) in run.iter().zip(&rounds) {
        row(name, rounds);
    }
    let server = server(|_| OK.to_vec());
    let rounds: Vec<_> =
        (0..ROUNDS).map(|_| tidegate(server, "ping", &password, dir.path())).collect();
    head("no obstacle: pings to a server that answers at once, no MariaDB");
    row("tidegate load", &rounds);
}

fn head(title: &str) {
    println!("\n| {title} | CPU a request, us | requests a second |\n| --- | --: | --: |");
}

fn row(name: &str, rounds: &[Run]) {
    println!("| {name} | {} | {} |", shown(rounds, Run::cost), shown(rounds, Run::rate));
}

/// What one generator did.
struct Run {
    requests: f64,
    seconds: f64,
    /// Of the generator alone.
    cpu_seconds: f64,
}

impl Run {
    fn cost(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.requests
    }

    fn rate(&self) -> f64 {
        self.requests / self.seconds
    }
}

fn shown(rounds: &[Run], of: fn(&Run) -> f64) -> String {
    Summary::of(rounds.iter().map(of).collect()).map_or("-".into(), |summary| summary.to_string())
}

fn tidegate(to: SocketAddr, scenario: &str, password: &Path, dir: &Path) -> Run {
    let json = dir.join("report.json");
    let mut tidegate = command(env!("CARGO_BIN_EXE_tidegate"));
    tidegate.args(["load", scenario, "--target", &to.to_string(), "--user", USER]);
    if scenario == "query" {
        tidegate.args(["--sql", "SELECT 1"]);
    }
    tidegate.args(["--threads", "1", "--warmup", "0s", "--duration", &format!("{SECONDS}s")]);
    tidegate.args(["--connections", &CONNECTIONS.to_string()]);
    tidegate.arg("--password-file").arg(password).arg("--json").arg(&json);
    let (_, cpu_seconds, seconds) = watch(tidegate);
    let report: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    Run { requests: report["done"].as_f64().unwrap(), seconds, cpu_seconds }
}

fn sysbench(db: &MariaDb, script: &Path) -> Run {
    let mut sysbench = db.sysbench(db.port, script.to_str().unwrap());
    sysbench.arg(format!("--time={SECONDS}")).arg(format!("--threads={CONNECTIONS}")).arg("run");
    let (said, cpu_seconds, seconds) = watch(sysbench);
    let line = said.lines().find(|line| line.contains("total number of events")).expect("a count");
    let requests = line.split_whitespace().last().unwrap().parse().unwrap();
    Run { requests, seconds, cpu_seconds }
}

fn mysqlslap(db: &MariaDb) -> Run {
    let mut slap = command("mysqlslap");
    slap.args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--query=SELECT 1"]);
    slap.arg(format!("--port={}", db.port)).arg(format!("--user={USER}"));
    slap.arg(format!("--password={PASSWORD}")).arg("--create-schema=test").arg("--no-drop");
    slap.arg(format!("--concurrency={CONNECTIONS}")).arg(format!("--number-of-queries={QUERIES}"));
    let (_, cpu_seconds, seconds) = watch(slap);
    Run { requests: QUERIES as f64, seconds, cpu_seconds }
}

/// Runs a command to its end: what it says, its CPU seconds, and how long it took.
fn watch(mut command: Command) -> (String, f64, f64) {
    let used = || {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
        (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6
    };
    let (before, began) = (used(), Instant::now());
    let output = command.stdin(Stdio::null()).output().unwrap();
    let seconds = began.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    (said, used() - before, seconds)
}
