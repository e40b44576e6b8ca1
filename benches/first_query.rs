//! From a connect to the first answer, with a real driver and a real MariaDB.
//!
//! `cargo bench --bench first_query`, two minutes. Two clients connect, log in, ask for a number, leave
//! and wait for 10 ms, again and again: directly, through a bridge that dials for each, and through one
//! whose connections are there before; to a server near by and to distant ones; in plain and with TLS
//! from client to server. All take turns in each round.

#![allow(clippy::disallowed_methods, reason = "a bench may block: it has threads of its own")]

#[path = "peers/distance.rs"]
mod distance;
#[path = "peers/summary.rs"]
mod summary;
#[path = "../tests/support/mod.rs"]
mod support;

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use mysql_async::prelude::*;
use mysql_async::{Conn, Opts, SslOpts};
use tokio::time::sleep;

use distance::{DELAYS, delayed};
use summary::Summary;
use support::bridge::Bridge;
use support::mariadb::MariaDb;

const ROUNDS: usize = 5;
/// Of each client in a round; the first ones are not counted.
const QUERIES: usize = 40;
const WARM_UP: usize = 10;
const PAUSE: Duration = Duration::from_millis(10);
const WAYS: [&str; 3] = ["direct", "off", "warm"];

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("first_query: cargo bench --bench first_query");
        return;
    }
    let Some(db) = MariaDb::start(&[]) else { return };
    println!("medians of {ROUNDS} rounds (least to most), microseconds\n");
    println!("| round trip | TLS | direct | off | warm | warm / off |");
    println!("| --- | --- | --: | --: | --: | --: |");
    for delay in DELAYS {
        let relay = TcpListener::bind("127.0.0.1:0").unwrap();
        let (gateway, server) = (relay.local_addr().unwrap(), db.address());
        thread::spawn(move || delayed(&relay, server, delay));
        let listener = |pool| {
            format!("[[listener]]\nname = \"{pool}\"\nbind = \"127.0.0.1:0\"\npool = \"{pool}\"\n")
        };
        let bridge = Bridge::from_file(&format!(
            "admin = \"127.0.0.1:0\"\nlog_level = \"warn\"\n{}{}[upstream.gw]\ngateway = \"{gateway}\"\n",
            listener("off"),
            listener("warm")
        ))
        .start();
        let ports = [gateway.port(), bridge.listening[0].port(), bridge.listening[1].port()];
        for tls in [false, true] {
            let mut rounds: [Vec<f64>; 3] = Default::default();
            for round in 0..ROUNDS {
                for turn in 0..WAYS.len() {
                    let way = (round + turn) % WAYS.len();
                    rounds[way].push(summary(measure(&db, ports[way], tls)).median);
                }
            }
            let [direct, off, warm] = rounds.map(summary);
            println!(
                "| {delay:?} | {} | {direct} | {off} | {warm} | {:.2} |",
                if tls { "yes" } else { "no" },
                warm.median / off.median,
            );
        }
    }
}

fn summary(values: Vec<f64>) -> Summary {
    Summary::of(values).expect("something was measured")
}

/// How long each took, microseconds.
fn measure(db: &MariaDb, port: u16, tls: bool) -> Vec<f64> {
    let accept_any = SslOpts::default().with_danger_accept_invalid_certs(true);
    let opts = Opts::from(db.opts(port).ssl_opts(tls.then_some(accept_any)));
    let client = async || {
        let mut took = Vec::new();
        for _ in 0..QUERIES {
            let began = Instant::now();
            let mut conn = Conn::new(opts.clone()).await.unwrap();
            let answer: Option<u32> = conn.query_first("SELECT 42").await.unwrap();
            took.push(began.elapsed().as_secs_f64() * 1e6);
            assert_eq!(answer, Some(42));
            conn.disconnect().await.unwrap();
            sleep(PAUSE).await;
        }
        took.split_off(WARM_UP)
    };
    support::runtime().block_on(async {
        let (one, other) = tokio::join!(client(), client());
        [one, other].concat()
    })
}
