//! What it takes to get a connection out of a warm pool, when threads want one at the same time.
//!
//! `cargo bench --bench checkout`, a minute. As many data threads keep a pool filled as take from it;
//! each takes its part of all that is held as fast as it can, which empties the pool, and some of what it
//! gets was another thread's. The pool is refilled between the rounds, and by what it can meanwhile.

#![allow(clippy::disallowed_methods, reason = "a bench may block: it has threads of its own")]

#[path = "peers/summary.rs"]
mod summary;
#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tidegate::config;
use tidegate::drain::Drain;
use tidegate::log::Repeats;
use tidegate::metrics::Metrics;
use tidegate::pool::{Pool, own_shard};
use tidegate::tls::client::UpstreamLeg;
use tidegate::upstream::Upstream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};

use summary::Summary;

const THREADS: [usize; 3] = [1, 2, 4];
const ROUNDS: usize = 25;
/// Connections that are held when a round begins.
const HELD: usize = 96;

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("checkout: cargo bench --bench checkout");
        return;
    }
    let gateway = serve();
    println!("medians of {ROUNDS} rounds (least to most), {HELD} connections each\n");
    println!(
        "| threads | checkouts a second, all together | µs of a thread for one | slowest, µs |"
    );
    println!("| ---: | ---: | ---: | ---: |");
    for threads in THREADS {
        let mut held = Held::new(threads, &gateway);
        let rounds: Vec<Round> = (0..ROUNDS).map(|_| held.round()).collect();
        let column = |of: fn(&Round) -> f64| {
            Summary::of(rounds.iter().map(of).collect()).expect("there are rounds")
        };
        println!(
            "| {threads} | {} | {} | {} |",
            column(|round| round.count as f64 / round.took.as_secs_f64()),
            column(|round| round.busy.as_secs_f64() * 1e6 / round.count as f64),
            column(|round| round.slowest.as_secs_f64() * 1e6),
        );
    }
}

/// A pool, and the data threads that fill it.
struct Held {
    pool: Arc<Pool>,
    idle: prometheus::IntGauge,
    threads: Vec<Handle>,
}

struct Round {
    count: usize,
    /// From the start until the last thread was done.
    took: Duration,
    /// The threads' times together.
    busy: Duration,
    slowest: Duration,
}

impl Held {
    fn new(threads: usize, gateway: &str) -> Self {
        let text = format!(
            "warm_max = {HELD}\n[[listener]]\nbind = \"127.0.0.1:1\"\npool = \"warm\"\n\
             [upstream.gw]\ngateway = \"{gateway}\"\nwarm_min = {HELD}\nwarm_max_age = \"8s\"\n"
        );
        let mut config = config::parse(&text, "bench").expect("a valid configuration");
        let (metrics, drain) = (Metrics::new(), Drain::new());
        let upstream = Arc::new(Upstream::new(
            config.upstreams.remove(0),
            UpstreamLeg::Passthrough,
            config.tcp,
            Vec::new(),
            metrics.upstream("gw"),
            drain.clone(),
            &Repeats::default(),
        ));
        let (own, idle) = (metrics.pool("gw"), metrics.pool("gw").idle);
        let pool = Pool::new(upstream, threads, HELD, Arc::default(), own, None);
        let threads = (0..threads).map(|number| keeper(&pool, number, &drain)).collect();
        Self { pool, idle, threads }
    }

    fn round(&mut self) -> Round {
        while self.idle.get() < HELD as i64 {
            thread::sleep(Duration::from_millis(5));
        }
        let part = HELD / self.threads.len();
        let ready = Arc::new(Barrier::new(self.threads.len()));
        let (done, results) = mpsc::channel();
        for thread in &self.threads {
            let (pool, ready, done) = (self.pool.clone(), ready.clone(), done.clone());
            thread.spawn(async move {
                ready.wait();
                let began = Instant::now();
                let (mut got, mut slowest) = (Vec::with_capacity(part), Duration::ZERO);
                for _ in 0..part {
                    let before = Instant::now();
                    got.extend(pool.checkout());
                    slowest = slowest.max(before.elapsed());
                }
                let ended = Instant::now();
                let _ = done.send((got.len(), began, ended, slowest));
            });
        }
        drop(done);
        let all: Vec<_> = results.iter().collect();
        let first = all.iter().map(|one| one.1).min().expect("a thread");
        let last = all.iter().map(|one| one.2).max().expect("a thread");
        let count: usize = all.iter().map(|one| one.0).sum();
        assert_eq!(count, HELD, "each asked for what there was");
        Round {
            count,
            took: last - first,
            busy: all.iter().map(|one| one.2 - one.1).sum(),
            slowest: all.iter().map(|one| one.3).max().expect("a thread"),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.pool.retire();
        while self.idle.get() > 0 {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A data thread, as far as the pool knows.
fn keeper(pool: &Arc<Pool>, number: usize, drain: &Drain) -> Handle {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let handle = runtime.handle().clone();
    let (pool, drain) = (pool.clone(), drain.clone());
    thread::spawn(move || {
        own_shard(number);
        // Tasks, as a future inside block_on is polled at every wake-up.
        runtime.block_on(async { tokio::spawn(pool.keep(number, drain)).await })
    });
    handle
}

/// A server that greets and waits.
fn serve() -> String {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    thread::spawn(move || {
        runtime.block_on(async {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(greet(stream));
            }
        });
    });
    address
}

async fn greet(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(&support::mysql::greeting()).await?;
    while stream.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}
