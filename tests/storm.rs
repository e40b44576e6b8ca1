//! Storms: of what an outage multiplies few lines are written, and all are accounted for.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rustix::process::Signal;
use serde_json::Value;

use support::bridge::Bridge;
use support::tcp::{
    connect, echo, listener, nobody, read_exactly, read_to_the_end, serve, try_connect,
};
use support::{until, until_it};

/// The connections of a storm that came at once would all be within the few.
const MANY: u64 = 4_000;

#[test]
fn a_storm_of_failures_is_told_in_few_lines_and_hides_nothing_else() {
    let ((stormy, _held), (calm, _held_too)) = (nobody(), nobody());
    let listener = |name, gateway| {
        format!(
            "[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n\
             upstream = \"{name}\"\n[upstream.{name}]\ngateway = \"{gateway}\"\n"
        )
    };
    let listeners =
        [listener("stormy", stormy), listener("calm", calm), listener("served", echo())];
    let admin = "admin = \"127.0.0.1:0\"\n".to_owned();
    let mut bridge = Bridge::from_file(&(admin + &listeners.concat())).start();
    let [stormy, calm, served] = bridge.listening[..] else { panic!("three listeners") };

    const SERVED: usize = 300;
    let (failed, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let reaches = |count| {
        let failed = || failed.load(Ordering::Relaxed);
        until_it("the storm", failed, |failed| *failed >= count);
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    fails(stormy);
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        reaches(MANY / 4);
        fails(calm);
        (0..SERVED).for_each(|_| echoes(served));
        reaches(MANY);
        over.store(true, Ordering::Relaxed);
    });

    let failures = closed(&bridge, "stormy");
    assert!(failures >= MANY, "{failures}");
    let told =
        until_it("each failure", || Told::of(&bridge, "stormy"), |told| told.all() == failures);
    assert!(told.written * 5 < failures, "{told:?} of {failures}");
    let in_full = failures * told.bytes / (told.written + told.lines);
    assert!(told.bytes * 5 < in_full, "{told:?} of {failures}");
    for (listener, connections) in [("calm", 1), ("served", SERVED as u64)] {
        let look = || Told::of(&bridge, listener);
        let told = until_it(listener, look, |told| told.all() == connections);
        assert_eq!(told.written, connections, "{listener}: {told:?}");
    }

    // One that ends with the bridge.
    (0..MANY / 10).for_each(|_| fails(stormy));
    let failures = closed(&bridge, "stormy");
    bridge.signal(Signal::TERM);
    assert_eq!(bridge.ends().code(), Some(0));
    until_it("each failure", || Told::of(&bridge, "stormy").all(), |told| *told == failures);
}

#[test]
fn an_endpoint_that_flaps_does_not_flood_the_log() {
    const TIMES: u64 = 300;
    let gateway = listener();
    let up = Arc::new(AtomicBool::new(false));
    let is_up = up.clone();
    serve(&gateway, move |mut stream| {
        if is_up.load(Ordering::SeqCst) {
            stream.write_all(b"\x01\0\0\0\x0a").unwrap();
            // What takes leave of it is not answered.
            let _ = stream.read(&mut [0; 100]);
        }
    });
    let bridge = Bridge::to(gateway.local_addr().unwrap()).start();
    for _ in 0..TIMES {
        up.store(false, Ordering::SeqCst);
        let (heard, _) = read_to_the_end(&connect(bridge.listen));
        assert!(heard.windows(8).any(|part| part == b"tidegate"), "{heard:?}");
        up.store(true, Ordering::SeqCst);
        assert_eq!(read_exactly(&connect(bridge.listen), 5), b"\x01\0\0\0\x0a");
    }
    for what in ["endpoint ejected", "endpoint is healthy again"] {
        let written =
            || bridge.log().iter().filter(|line| is(line, "message", what)).count() as u64;
        until(what, || (written() + left_out(&bridge, "what", what) == TIMES).then_some(()));
        assert!(written() < TIMES, "all {TIMES} were written");
    }
}

/// What was told of the connections of one listener.
#[derive(Debug)]
struct Told {
    /// Close records.
    written: u64,
    /// What stands for records that were left out.
    left_out: u64,
    /// The lines that say so.
    lines: u64,
    /// The length of both.
    bytes: u64,
}

impl Told {
    fn of(bridge: &Bridge, listener: &str) -> Self {
        let lines: Vec<String> =
            bridge.log().into_iter().filter(|line| is(line, "listener", listener)).collect();
        let written = lines.iter().filter(|line| is(line, "message", "closed")).count();
        Self {
            written: written as u64,
            left_out: left_out(bridge, "listener", listener),
            lines: (lines.len() - written) as u64,
            bytes: lines.iter().map(|line| line.len() as u64 + 1).sum(),
        }
    }

    fn all(&self) -> u64 {
        self.written + self.left_out
    }
}

/// How many lines were left out of those kinds.
fn left_out(bridge: &Bridge, field: &str, value: &str) -> u64 {
    let lines = bridge.log();
    let lines = lines.iter().filter(|line| is(line, "message", "repeats left out"));
    let lines = lines.filter(|line| is(line, field, value));
    lines.map(|line| parse(line)["repeated"].as_u64().unwrap()).sum()
}

fn is(line: &str, field: &str, value: &str) -> bool {
    parse(line)[field] == value
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// How many connections of a listener have ended, once all have.
fn closed(bridge: &Bridge, listener: &str) -> u64 {
    let labels = [("listener", listener)];
    let count = |name: &str| bridge.metrics().sum(name, &labels) as u64;
    let [opened, closed] = ["tidegate_connections_total", "tidegate_connections_closed_total"];
    let opened = count(opened);
    until_it("all have ended", || count(closed), |closed| *closed == opened)
}

/// A connection that the bridge cannot serve.
fn fails(bridge: SocketAddr) {
    // Its reset may be there before the connect has returned.
    if let Ok(client) = try_connect(bridge) {
        assert!(read_to_the_end(&client).0.is_empty());
    }
}

/// A connection that is served.
fn echoes(bridge: SocketAddr) {
    let mut client: TcpStream = connect(bridge);
    client.write_all(b"marco").unwrap();
    assert_eq!(read_exactly(&client, 5), b"marco");
}
