//! Peers that vanish without a word, and peers that only take their time.
//!
//! Client, bridge and server each stand in a network namespace of their own:
//! client 10.77.1.2 - 10.77.1.1 bridge 10.77.2.1 - 10.77.2.2 server.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use support::bridge::Bridge;
use support::namespace::Namespace;
use support::tcp::{
    accept, expect_noise, is_reset, read_exactly, read_to_the_end, reset, send_noise,
};
use support::{full_or, until, until_it};

#[test]
fn a_server_that_vanishes_with_data_under_way_is_found_by_the_stall_timeout() {
    let Some(path) = Path::with("stall_timeout = \"2s\"") else { return };
    let (mut client, _server) = path.session();
    path.server_side.cut();
    let since = Instant::now();
    client.write_all(&[1; 100_000]).unwrap();
    let (_, end) = read_to_the_end(&client);
    assert!(is_reset(&end), "{end:?}");
    path.was_ended("upstream", "stalled", since, 2.0..10.0);
}

#[test]
fn a_client_that_vanishes_with_data_under_way_is_found_by_the_stall_timeout() {
    let Some(path) = Path::with("stall_timeout = \"2s\"") else { return };
    let (_client, mut server) = path.session();
    path.client_side.cut();
    let since = Instant::now();
    server.write_all(&[1; 100_000]).unwrap();
    let (_, end) = read_to_the_end(&server);
    assert!(is_reset(&end), "{end:?}");
    path.was_ended("client", "stalled", since, 2.0..10.0);
}

#[test]
fn an_idle_server_that_vanishes_is_found_by_keepalive() {
    let Some(path) = Path::with(KEEPALIVE) else { return };
    let (client, _server) = path.session();
    path.server_side.cut();
    let since = Instant::now();
    let (_, end) = read_to_the_end(&client);
    assert!(is_reset(&end), "{end:?}");
    path.was_ended("upstream", "timeout", since, 1.0..10.0);
}

#[test]
fn an_idle_client_that_vanishes_is_found_by_keepalive() {
    let Some(path) = Path::with(KEEPALIVE) else { return };
    let (_client, server) = path.session();
    path.client_side.cut();
    let since = Instant::now();
    let (_, end) = read_to_the_end(&server);
    assert!(is_reset(&end), "{end:?}");
    path.was_ended("client", "timeout", since, 1.0..10.0);
}

#[test]
fn idle_peers_that_are_there_are_left_alone_by_keepalive_and_stall_timeout() {
    let Some(path) = Path::with(&format!("stall_timeout = \"1s\"\n{KEEPALIVE}")) else { return };
    let (mut client, server) = path.session();
    thread::sleep(full_or(Duration::from_secs(30), Duration::from_secs(5)));
    client.write_all(b"still here").unwrap();
    assert_eq!(read_exactly(&server, 10), b"still here");
}

#[test]
fn a_client_that_pauses_reading_for_longer_than_the_stall_timeout_lives() {
    let Some(path) = Path::with(&format!("stall_timeout = \"1s\"\n{KEEPALIVE}")) else { return };
    let (client, server) = path.session();
    let sending = thread::spawn(move || send_noise(&server, 1, LONG).unwrap());
    thread::sleep(full_or(Duration::from_secs(60), Duration::from_secs(6)));
    assert_eq!(path.bridge.open_connections(), 1.0);
    expect_noise(&client, 1, LONG);
    client.shutdown(Shutdown::Write).unwrap();
    sending.join().unwrap();
    assert_eq!(path.bridge.close_record().text("reason"), "eof");
}

#[test]
fn a_server_that_pauses_reading_for_longer_than_the_stall_timeout_lives() {
    let Some(path) = Path::with(&format!("stall_timeout = \"1s\"\n{KEEPALIVE}")) else { return };
    let (client, server) = path.session();
    let sending = thread::spawn(move || send_noise(&client, 2, LONG).unwrap());
    thread::sleep(full_or(Duration::from_secs(60), Duration::from_secs(6)));
    assert_eq!(path.bridge.open_connections(), 1.0);
    expect_noise(&server, 2, LONG);
    server.shutdown(Shutdown::Write).unwrap();
    sending.join().unwrap();
    assert_eq!(path.bridge.close_record().text("reason"), "eof");
}

#[test]
fn an_outage_shorter_than_the_stall_timeout_loses_nothing() {
    let Some(path) = Path::with("stall_timeout = \"20s\"") else { return };
    let (client, server) = path.session();
    path.server_side.cut();
    let sending = thread::spawn(move || {
        send_noise(&client, 3, LONG).unwrap();
        client
    });
    thread::sleep(Duration::from_secs(1));
    path.server_side.mend();
    expect_noise(&server, 3, LONG);
    drop(sending.join().unwrap());
}

#[test]
fn a_client_that_pauses_reading_and_then_vanishes_is_found() {
    let Some(path) = Path::with("stall_timeout = \"2s\"") else { return };
    let (_client, server) = path.session();
    let sending = thread::spawn(move || send_noise(&server, 4, LONG));
    until_it(
        "the client's window is closed and nothing moves any more",
        || {
            let before = path.bytes();
            thread::sleep(Duration::from_millis(500));
            (before, path.bytes())
        },
        |(before, after)| *before > 0.0 && before == after,
    );
    let since = Instant::now();
    path.client_side.cut();
    assert!(sending.join().unwrap().is_err());
    path.was_ended("client", "stalled", since, 2.0..20.0);
}

#[test]
fn a_server_that_has_vanished_when_the_client_says_goodbye_is_found() {
    let Some(path) = Path::with("stall_timeout = \"2s\"") else { return };
    let (client, _server) = path.session();
    path.server_side.cut();
    let since = Instant::now();
    drop(client);
    until("the session has ended", || (path.bridge.open_connections() == 0.0).then_some(()));
    path.was_ended("upstream", "stalled", since, 2.0..10.0);
}

#[test]
fn a_reset_after_a_half_close_is_passed_on() {
    let Some(path) = Path::with("stall_timeout = \"2s\"") else { return };
    let (client, server) = path.session();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_the_end(&server).0, b"");
    let since = Instant::now();
    reset(client);
    until("the server's connection is broken", || server.take_error().unwrap().map(drop));
    path.was_ended("client", "reset", since, 0.0..5.0);
}

#[test]
fn a_reset_while_the_other_side_does_not_read_is_passed_on() {
    let Some(path) = Path::with("stall_timeout = \"2s\"") else { return };
    let (mut client, server) = path.session();
    client.set_nonblocking(true).unwrap();
    until("the path is full for a while", || {
        while client.write(&[1; 65536]).is_ok() {}
        thread::sleep(Duration::from_millis(300));
        client.write(&[1; 65536]).err()
    });
    let since = Instant::now();
    reset(client);
    until("the server's connection is broken", || server.take_error().unwrap().map(drop));
    path.was_ended("client", "reset", since, 0.0..10.0);
}

/// Found after 1 s of silence and 2 unanswered probes.
const KEEPALIVE: &str = "keepalive_idle = \"1s\"\nkeepalive_interval = \"1s\"\nkeepalive_count = 2";

/// More than the kernel's buffers on the path hold.
const LONG: usize = 48 * 1024 * 1024;

struct Path {
    bridge: Bridge,
    upstream: TcpListener,
    client_side: Namespace,
    server_side: Namespace,
}

impl Path {
    /// A bridge whose file begins with `top`; nothing where there are no network namespaces.
    fn with(top: &str) -> Option<Self> {
        let middle = Arc::new(Namespace::new()?);
        let (client_side, server_side) = (Namespace::new()?, Namespace::new()?);
        middle.join("10.77.1.1", &client_side, "10.77.1.2");
        middle.join("10.77.2.1", &server_side, "10.77.2.2");
        let upstream = server_side.enter(|| TcpListener::bind("10.77.2.2:0").unwrap());
        let file = format!(
            "admin = \"127.0.0.1:0\"\n{top}\n\
             [[listener]]\nbind = \"10.77.1.1:0\"\nallow_any = true\nupstream = \"peer\"\nprotocol = \"tcp\"\n\
             [upstream.peer]\ngateway = \"{}\"\n",
            upstream.local_addr().unwrap()
        );
        let bridge = Bridge::from_file(&file).inside(&middle).start();
        Some(Self { bridge, upstream, client_side, server_side })
    }

    /// A connection over which bytes have gone both ways.
    fn session(&self) -> (TcpStream, TcpStream) {
        let mut client = self.client_side.connect(self.bridge.listen);
        let mut server = accept(&self.upstream);
        client.write_all(b"ping").unwrap();
        assert_eq!(read_exactly(&server, 4), b"ping");
        server.write_all(b"pong").unwrap();
        assert_eq!(read_exactly(&client, 4), b"pong");
        (client, server)
    }

    /// Bytes relayed so far, both ways.
    fn bytes(&self) -> f64 {
        self.bridge.metrics().sum("tidegate_bytes_total", &[])
    }

    fn was_ended(&self, side: &str, reason: &str, since: Instant, seconds: std::ops::Range<f64>) {
        let took = since.elapsed().as_secs_f64();
        let record = self.bridge.close_record();
        assert_eq!((record.text("side"), record.text("reason")), (side, reason));
        assert!(seconds.contains(&took), "found after {took} s");
        let labels = [("side", side), ("reason", reason)];
        let closed = self.bridge.metrics().sum("tidegate_connections_closed_total", &labels);
        assert_eq!(closed, 1.0);
    }
}
