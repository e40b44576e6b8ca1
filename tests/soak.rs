//! A quarter of an hour of churn, faults and reloads: what the bridge holds stays flat.
//!
//! Not part of `tests/run`; `tests/soak` runs it.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::env;
use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plotters::prelude::*;
use rustix::process::Signal;
use serde_json::Value;

use support::bridge::Bridge;
use support::tcp::{Noise, connect, listener, reset, try_connect};
use support::until;

/// Clients that come and go without a pause.
const CHURN: u64 = 6;
/// Sessions that stay from the beginning to the end.
const HELD: usize = 50;
const RELOAD_EVERY: Duration = Duration::from_secs(5);
const BULK: usize = 8 * 1024 * 1024;

/// What the bridge held at one moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    seconds: f64,
    memory: f64,
    descriptors: f64,
    tasks: f64,
}

#[test]
#[ignore = "a quarter of an hour; tests/soak runs it"]
fn what_the_bridge_holds_stays_flat() {
    let minutes: f64 = env::var("TIDEGATE_SOAK_MINUTES").map_or(15.0, |text| text.parse().unwrap());
    let duration = Duration::from_secs_f64(minutes * 60.0);
    let gateways = [gateway(), gateway()];
    // Close records of a quarter of an hour are too many to keep, and with them goes the line that tells
    // of a reload: what it has changed is looked at instead.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let told = [("NOTIFY_SOCKET", path.to_str().unwrap())];
    let bridge = Bridge::from_file(&file(0, gateways)).variables(&told).start();
    is_ready(&manager);
    let held: Vec<TcpStream> = (0..HELD).map(|_| healthy(bridge.listen)).collect();
    let (done, served) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut samples = Vec::new();
    thread::scope(|scope| {
        for seed in 0..CHURN {
            let (done, served, bridge) = (&done, &served, bridge.listen);
            scope.spawn(move || churn(seed, bridge, done, served));
        }
        let (start, mut reloads) = (Instant::now(), 0);
        while start.elapsed() < duration {
            if start.elapsed() >= RELOAD_EVERY * (reloads + 1) {
                reloads += 1;
                bridge.rewrite(&file(reloads, gateways));
                bridge.signal(Signal::HUP);
                is_ready(&manager);
                holds(&bridge, reloads, gateways);
                held.iter().for_each(|client| assert!(answers(client), "a held session was lost"));
            }
            samples.push(sample(&bridge, start));
            thread::sleep(Duration::from_millis(500));
        }
        done.store(true, Ordering::Relaxed);
        println!("{reloads} reloads, {} connections served", served.load(Ordering::Relaxed));
    });
    write(&samples).unwrap();
    held.iter().for_each(|client| assert!(answers(client)));
    drop(held);
    until("nothing is open", || (bridge.open_connections() == 0.0).then_some(()));
    let failed = |line: &&String| line.contains("cannot reload") || line.contains("\"ERROR\"");
    assert_eq!(bridge.log().iter().find(failed), None);
    for (name, of) in [
        ("memory", (|sample| sample.memory) as fn(&Sample) -> f64),
        ("descriptors", |sample| sample.descriptors),
        ("tasks", |sample| sample.tasks),
    ] {
        // The first quarter warms up.
        let quarter = samples.len() / 4;
        let early = median(&samples[quarter..2 * quarter], of);
        let late = median(&samples[3 * quarter..], of);
        println!("{name}: {early} in the second quarter, {late} in the last");
        assert!(late <= early * 1.1 + 2.0, "{name} grows");
    }
}

fn is_ready(manager: &UnixDatagram) {
    let mut datagram = [0; 4096];
    loop {
        let length = manager.recv(&mut datagram).unwrap();
        if datagram[..length].starts_with(b"READY=1") {
            return;
        }
    }
}

/// Whether what is served is what that file says: after a reload that failed the bridge is ready too.
fn holds(bridge: &Bridge, reload: u32, gateways: [SocketAddr; 2]) {
    let status: Value = serde_json::from_str(&bridge.get("/status.json").body).unwrap();
    let addresses = status["listeners"][0]["addresses"].as_array().unwrap();
    assert_eq!(addresses.len(), 1 + usize::from(has_another_address(reload)), "{status}");
    assert_eq!(status["upstreams"][0]["gateway"], gateway_of(reload, gateways).to_string());
}

fn file(reload: u32, gateways: [SocketAddr; 2]) -> String {
    let more = if has_another_address(reload) { ", \"127.0.0.7:0\"" } else { "" };
    format!(
        "admin = \"127.0.0.1:0\"\nlog_level = \"warn\"\nkeepalive_idle = \"{}s\"\n\
         [[listener]]\nname = \"app\"\nbind = [\"127.0.0.1:0\"{more}]\nprotocol = \"tcp\"\n\
         max_connections = {}\n[upstream.gw]\ngateway = \"{}\"\nconnect_timeout = \"2s\"\n",
        40 + reload % 5,
        200 + reload % 7,
        gateway_of(reload, gateways),
    )
}

/// Changes with each reload.
fn has_another_address(reload: u32) -> bool {
    reload % 2 == 1
}

fn gateway_of(reload: u32, gateways: [SocketAddr; 2]) -> SocketAddr {
    gateways[reload as usize / 4 % 2]
}

/// A server that answers `e` and a byte with that byte and `b` with bulk, and fails some of its
/// clients: it resets one in twenty and stops reading from one in fifty for a second.
fn gateway() -> SocketAddr {
    let listener: TcpListener = listener();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            if number > HELD && number % 20 == 7 {
                reset(stream);
                continue;
            }
            thread::spawn(move || {
                if number > HELD && number % 50 == 9 {
                    thread::sleep(Duration::from_secs(1));
                }
                let _ = serve(stream);
            });
        }
    });
    address
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let bulk = vec![7; 64 * 1024];
    let mut asked = [0; 2];
    loop {
        stream.read_exact(&mut asked)?;
        match asked[0] {
            b'b' => (0..BULK / bulk.len()).try_for_each(|_| stream.write_all(&bulk))?,
            _ => stream.write_all(&asked[1..])?,
        }
    }
}

fn churn(seed: u64, bridge: SocketAddr, done: &AtomicBool, served: &AtomicU64) {
    let mut noise = Noise::new(seed);
    while !done.load(Ordering::Relaxed) {
        let Ok(client) = try_connect(bridge) else { continue };
        let dice = noise.bytes(8);
        for _ in 0..dice[0] % 8 {
            if !answers(&client) {
                break;
            }
            served.fetch_add(1, Ordering::Relaxed);
        }
        match dice[1] % 16 {
            0 => reset(client),
            1 => drop(client.shutdown(Shutdown::Write).map(|()| (&client).read(&mut [0; 64]))),
            // Some of it is read, the rest is left.
            2 | 3 => drop((&client).write_all(b"b.").map(|()| (&client).read(&mut [0; 4096]))),
            4 | 5 => {
                let mut bulk = vec![0; BULK];
                drop((&client).write_all(b"b.").and_then(|()| (&client).read_exact(&mut bulk)));
            }
            _ => {}
        }
    }
}

fn healthy(bridge: SocketAddr) -> TcpStream {
    until("a session", || {
        let client = connect(bridge);
        answers(&client).then_some(client)
    })
}

fn answers(mut client: &TcpStream) -> bool {
    let mut answer = [0];
    client.write_all(b"e!").and_then(|()| client.read_exact(&mut answer)).is_ok() && answer == *b"!"
}

fn sample(bridge: &Bridge, start: Instant) -> Sample {
    let status: Value = serde_json::from_str(&bridge.get("/status.json").body).unwrap();
    Sample {
        seconds: start.elapsed().as_secs_f64(),
        memory: bridge.heap() as f64 / 1024.0,
        descriptors: bridge.fds() as f64,
        tasks: status["tasks"].as_f64().unwrap(),
    }
}

fn median(samples: &[Sample], of: fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The samples as a table and as a plot, in the target folder.
fn write(samples: &[Sample]) -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut table = "seconds,memory_kib,descriptors,tasks\n".to_owned();
    for Sample { seconds, memory, descriptors, tasks } in samples {
        table += &format!("{seconds:.1},{memory},{descriptors},{tasks}\n");
    }
    fs::write(folder.join("soak.csv"), table)?;
    let path = folder.join("soak.svg");
    let area = SVGBackend::new(&path, (900, 900)).into_drawing_area();
    area.fill(&WHITE)?;
    let end = samples.last().map_or(1.0, |sample| sample.seconds);
    let figures = [
        ("memory that is no file's, KiB", (|sample| sample.memory) as fn(&Sample) -> f64),
        ("file descriptors, pipes not counted", |sample| sample.descriptors),
        ("tasks", |sample| sample.tasks),
    ];
    for (part, (title, of)) in area.split_evenly((figures.len(), 1)).iter().zip(figures) {
        let most = samples.iter().map(of).fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(part)
            .caption(title, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(30)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..end, 0.0..most * 1.1)?;
        chart.configure_mesh().x_desc("seconds").draw()?;
        chart.draw_series(LineSeries::new(
            samples.iter().map(|sample| (sample.seconds, of(sample))),
            &BLUE,
        ))?;
    }
    area.present()?;
    println!("written to {}", path.display());
    Ok(())
}
