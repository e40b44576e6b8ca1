//! How a bridge begins and ends: signals, drain, taken ports, a log nobody reads.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mysql_async::prelude::*;
use rustix::process::Signal;

use support::bridge::{Bridge, Metrics, TIDEGATE, tidegate, without_settings};
use support::mariadb::MariaDb;
use support::process::{command, output};
use support::tcp::{
    accept, connect, echo, free_port, listener, read_exactly, read_to_the_end, reset, through,
    try_connect,
};
use support::{PATIENCE, full_or, runtime, until, until_it};

#[test]
fn a_signal_ends_an_idle_bridge_at_once_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut bridge = Bridge::tcp(echo()).start();
        let start = Instant::now();
        bridge.signal(signal);
        assert_eq!(bridge.ends().code(), Some(0));
        assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
    }
}

#[test]
fn a_draining_bridge_is_unready_refuses_newcomers_and_waits_for_its_sessions() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut bridge = Bridge::tcp(echo()).start();
        let client = connect(bridge.listen);
        echoes(&client);
        assert_eq!(bridge.get("/readyz").status, 200);

        bridge.signal(signal);

        until("readiness is off", || (bridge.get("/readyz").status == 503).then_some(()));
        assert_eq!(bridge.get("/livez").status, 200);
        until("newcomers are refused", || refuses(bridge.listen).then_some(()));
        echoes(&client);
        assert!(bridge.is_running());
        drop(client);
        assert_eq!(bridge.ends().code(), Some(0));
        let record = bridge.close_record();
        assert_eq!((record.text("side"), record.text("reason")), ("client", "eof"));
    }
}

#[test]
fn a_query_that_ends_during_the_drain_is_answered() {
    let Some(db) = MariaDb::shared() else { return };
    let mut bridge = Bridge::to(db.address()).start();
    runtime().block_on(async {
        let mut conn = db.connect(bridge.listen.port()).await;
        let asked = tokio::spawn(async move {
            let slept: Option<u32> = conn.query_first("SELECT 1 + SLEEP(2)").await.unwrap();
            conn.disconnect().await.unwrap();
            slept
        });
        let running =
            "SELECT COUNT(*) FROM information_schema.processlist WHERE state = 'User sleep'";
        let mut observer = db.connect(db.port).await;
        while observer.query_first::<u32, _>(running).await.unwrap() != Some(1) {
            tokio::task::yield_now().await;
        }
        bridge.signal(Signal::TERM);
        assert_eq!(asked.await.unwrap(), Some(1));
        observer.disconnect().await.unwrap();
    });
    assert_eq!(bridge.ends().code(), Some(0));
    assert_eq!(bridge.close_record().text("reason"), "eof");
}

/// A stopped process accepts nothing, so whoever connects meanwhile waits in the queue. There are so
/// many of them that the signal is noticed before the last is accepted.
#[test]
fn connections_that_wait_to_be_accepted_when_the_signal_comes_are_served() {
    const WAITING: usize = 400;
    let mut bridge = Bridge::tcp(echo()).start();
    bridge.stop();
    let waiting: Vec<TcpStream> = (0..WAITING).map(|_| connect(bridge.listen)).collect();
    bridge.signal(Signal::TERM);
    bridge.signal(Signal::CONT);
    for client in &waiting {
        echoes(client);
    }
    drop(waiting);
    assert_eq!(bridge.ends().code(), Some(0));
    let records = bridge.close_records(WAITING);
    assert!(records.iter().all(|record| record.text("side") == "client"), "{records:?}");
}

/// One race stays, since the kernel offers no way around it: who connects between the last accept and
/// the close of the listening socket is reset before a byte was exchanged, which to a client is the
/// same as being refused. A session that has begun is never lost.
#[test]
fn a_signal_under_load_loses_no_session_that_ends_in_time() {
    for _ in 0..full_or(10, 2) {
        let mut bridge = Bridge::tcp(echo()).start();
        let (answered, signalled) = (AtomicU64::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            let load: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| come_and_go(bridge.listen, &answered, &signalled)))
                .collect();
            until("the load runs", || (answered.load(Ordering::Relaxed) > 100).then_some(()));
            signalled.store(true, Ordering::SeqCst);
            bridge.signal(Signal::TERM);
            for client in load {
                client.join().expect("a session was cut");
            }
        });
        assert_eq!(bridge.ends().code(), Some(0));
        let answered = answered.load(Ordering::Relaxed) as usize;
        let records = bridge.close_records(answered);
        let by_clients = records.iter().filter(|record| record.text("side") == "client").count();
        assert!(by_clients >= answered, "{by_clients} of {answered} sessions ended by themselves");
    }
}

#[test]
fn sessions_that_outlast_the_drain_timeout_are_closed_and_the_bridge_ends_with_0() {
    let mut bridge = Bridge::tcp(echo()).flags(&["--drain-timeout", "700ms"]).start();
    let clients: Vec<TcpStream> = (0..5).map(|_| connect(bridge.listen)).collect();
    clients.iter().for_each(echoes);
    let start = Instant::now();

    bridge.signal(Signal::TERM);

    for client in &clients {
        let _ = read_to_the_end(client);
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(600), "cut after {took:?}");
    assert!(took < Duration::from_secs(10), "cut only after {took:?}");
    assert_eq!(bridge.ends().code(), Some(0));
    for record in bridge.close_records(5) {
        assert_eq!((record.text("side"), record.text("reason")), ("tidegate", "drain"));
    }
}

#[test]
fn during_the_grace_newcomers_are_served_although_readiness_is_off() {
    let mut bridge = Bridge::tcp(echo()).flags(&["--drain-grace", "2s"]).start();
    let session = connect(bridge.listen);
    echoes(&session);
    let start = Instant::now();
    bridge.signal(Signal::TERM);
    until("readiness is off", || (bridge.get("/readyz").status == 503).then_some(()));
    let newcomer = connect(bridge.listen);
    echoes(&newcomer);
    drop(newcomer);
    assert!(bridge.get("/status.json").body.contains("\"leaving\""));
    until("newcomers are refused", || refuses(bridge.listen).then_some(()));
    assert!(start.elapsed() >= Duration::from_secs(2), "after {:?}", start.elapsed());
    echoes(&session);
    drop(session);
    assert_eq!(bridge.ends().code(), Some(0));
}

/// `drain_timeout` is 9 s, and the last 3 s of it are for idle sessions.
#[test]
fn idle_sessions_are_closed_before_those_that_wait_for_an_answer() {
    let upstream = listener();
    let gateway = upstream.local_addr().unwrap();
    let mut bridge = Bridge::tcp(gateway).flags(&["--drain-timeout", "9s"]).start();
    let (idle, mut idle_server) = through(bridge.listen, &upstream);
    let (mut busy, mut busy_server) = through(bridge.listen, &upstream);
    (&idle).write_all(b"a").unwrap();
    assert_eq!(read_exactly(&idle_server, 1), b"a");
    idle_server.write_all(b"A").unwrap();
    assert_eq!(read_exactly(&idle, 1), b"A");
    busy.write_all(b"b").unwrap();
    assert_eq!(read_exactly(&busy_server, 1), b"b");

    let start = Instant::now();
    bridge.signal(Signal::TERM);

    assert_eq!((&idle).read(&mut [0]).unwrap(), 0);
    let closed = start.elapsed();
    assert!(closed >= Duration::from_secs(6), "closed after {closed:?}");
    // In time, whatever the machine: nothing but the drain's end could have closed it later.
    busy_server.write_all(b"B").unwrap();
    assert_eq!(read_exactly(&busy, 1), b"B");
    assert_eq!(busy.read(&mut [0]).unwrap(), 0);
    assert_eq!(bridge.ends().code(), Some(0));
    for record in bridge.close_records(2) {
        assert_eq!((record.text("side"), record.text("reason")), ("tidegate", "drain"));
    }
}

#[test]
fn a_client_still_waiting_for_its_greeting_when_the_drain_ends_is_told_1053() {
    let silent = listener();
    let mut bridge =
        Bridge::to(silent.local_addr().unwrap()).flags(&["--drain-timeout", "500ms"]).start();
    let client = connect(bridge.listen);
    let _server = accept(&silent);
    bridge.signal(Signal::TERM);
    let (packet, end) = read_to_the_end(&client);
    assert!(end.is_ok(), "{end:?}");
    assert_eq!(packet[3], 0, "the first packet of a conversation");
    assert_eq!(packet[4..7], [0xff, 0x1d, 0x04], "ERR 1053");
    assert!(packet[7..].starts_with(b"tidegate: "), "{}", String::from_utf8_lossy(&packet));
    assert_eq!(bridge.ends().code(), Some(0));
}

#[test]
fn a_second_signal_ends_the_bridge_at_once_with_1() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM)] {
        let mut bridge = Bridge::tcp(echo()).start();
        let client = connect(bridge.listen);
        echoes(&client);
        bridge.signal(first);
        until("the drain has begun", || (bridge.get("/readyz").status == 503).then_some(()));
        let start = Instant::now();
        bridge.signal(second);
        assert_eq!(bridge.ends().code(), Some(1));
        assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
    }
}

#[test]
fn a_taken_port_is_named_and_ends_the_start_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    for (listen, admin) in [(address.as_str(), free), (free, address.as_str())] {
        let output = tidegate(&["run", "127.0.0.1:1", "--listen", listen, "--admin", admin]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(&address), "the address is not named: {text}");
        assert!(text.to_lowercase().contains("in use"), "the cause is not named: {text}");
        assert!(output.stdout.is_empty(), "it said that it serves");
    }
}

#[test]
fn a_second_bridge_on_the_same_port_is_refused() {
    let first = Bridge::tcp(echo()).start();
    let address = first.listen.to_string();
    let output = tidegate(&["run", "127.0.0.1:1", "--listen", &address, "--admin", "127.0.0.1:0"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&address), "the address is not named: {text}");
    echoes(&connect(first.listen));
}

/// An address that is shared only with the bridge's own: the first one's socket may be joined by anybody
/// of the same user who asks the kernel to share.
#[test]
fn a_second_bridge_that_has_the_port_at_another_address_is_refused() {
    let first = Bridge::tcp(echo()).start();
    let (port, taken) = (first.listen.port(), first.listen);
    let second = Bridge::from_file(&format!(
        "admin = \"127.0.0.1:0\"\n[upstream.peer]\ngateway = \"127.0.0.1:1\"\n\
         [[listener]]\nname = \"a\"\nbind = \"127.0.0.2:{port}\"\nprotocol = \"tcp\"\n\
         [[listener]]\nname = \"b\"\nbind = \"{taken}\"\nprotocol = \"tcp\"\n"
    ));
    let said = second.try_start().err().expect("it is refused");
    assert!(said.contains(&format!("cannot listen on {taken}")), "{said}");
}

#[test]
fn own_addresses_may_be_within_one_another() {
    let gateway = echo();
    let port = free_port();
    let bridge = Bridge::from_file(&format!(
        "admin = \"127.0.0.1:0\"\n[upstream.peer]\ngateway = \"{gateway}\"\n\
         [[listener]]\nname = \"a\"\nbind = \"127.0.0.2:{port}\"\nprotocol = \"tcp\"\n\
         [[listener]]\nname = \"b\"\nbind = \"0.0.0.0:{port}\"\nprotocol = \"tcp\"\nallow_any = true\n"
    ))
    .start();
    for (listener, ip) in [("a", "127.0.0.2"), ("b", "127.0.0.1")] {
        echoes(&connect(SocketAddr::new(ip.parse().unwrap(), port)));
        let total = |metrics: &Metrics| {
            metrics.sum("tidegate_connections_total", &[("listener", listener)])
        };
        until_it("it is counted", || bridge.metrics(), |metrics| total(metrics) == 1.0);
    }
}

#[test]
fn without_descriptors_for_its_threads_a_bridge_says_so_and_does_not_serve() {
    let output = {
        let mut command = command("prlimit");
        command.args(["--nofile=64", "--", TIDEGATE, "run", "127.0.0.1:1"]);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--threads", "40"]);
        without_settings(&mut command);
        output(command)
    };
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("tidegate: cannot start a data thread: "), "{said}");
    assert!(said.contains("--threads") && !said.contains("panicked"), "{said}");
    assert!(output.stdout.is_empty(), "it said that it serves");
}

#[test]
fn a_bridge_that_has_just_ended_leaves_its_port_to_the_next() {
    let gateway = echo();
    let mut first = Bridge::tcp(gateway).flags(&["--drain-timeout", "0s"]).start();
    let client = connect(first.listen);
    echoes(&client);
    first.signal(Signal::TERM);
    assert_eq!(first.ends().code(), Some(0));
    let file = format!(
        "admin = \"127.0.0.1:0\"\n\
         [[listener]]\nbind = \"{}\"\nupstream = \"peer\"\nprotocol = \"tcp\"\n\
         [upstream.peer]\ngateway = \"{gateway}\"\n",
        first.listen
    );
    let second = Bridge::from_file(&file).start();
    echoes(&connect(second.listen));
}

#[test]
fn localhost_is_both_loopbacks() {
    let gateway = echo();
    let bridge = until("a port that is free on both loopbacks", || {
        let port = free_port();
        let file = format!(
            "admin = \"127.0.0.1:0\"\n\
             [[listener]]\nbind = \"localhost:{port}\"\nupstream = \"peer\"\nprotocol = \"tcp\"\n\
             [upstream.peer]\ngateway = \"{gateway}\"\n"
        );
        Bridge::from_file(&file).try_start().ok()
    });
    let expected: Vec<IpAddr> = match TcpListener::bind("[::1]:0") {
        Ok(_) => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        Err(_) => vec![Ipv4Addr::LOCALHOST.into()],
    };
    let found: Vec<IpAddr> = bridge.listening.iter().map(SocketAddr::ip).collect();
    assert_eq!(found, expected);
    for address in &bridge.listening {
        echoes(&connect(*address));
    }
}

#[test]
fn each_listener_forwards_to_its_own_upstream() {
    let upstreams = [listener(), listener()];
    let [one, two] = [0, 1].map(|which: usize| upstreams[which].local_addr().unwrap());
    let bridge = Bridge::from_file(&format!(
        "admin = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"a\"\nbind = [\"127.0.0.1:0\", \"127.0.0.5:0\"]\nupstream = \"one\"\nprotocol = \"tcp\"\n\
         [[listener]]\nname = \"b\"\nbind = \"127.0.0.1:0\"\nupstream = \"two\"\nprotocol = \"tcp\"\n\
         [upstream.one]\ngateway = \"{one}\"\n[upstream.two]\ngateway = \"{two}\"\n"
    ))
    .start();
    for (address, upstream) in bridge.listening.iter().zip([0, 0, 1]) {
        let (client, server) = through(*address, &upstreams[upstream]);
        (&client).write_all(b"who is there?").unwrap();
        assert_eq!(read_exactly(&server, 13), b"who is there?");
    }
    bridge.has_accounted_for(3.0);
    let metrics = bridge.metrics();
    assert_eq!(metrics.sum("tidegate_connections_total", &[("listener", "a")]), 2.0);
    assert_eq!(metrics.sum("tidegate_connections_total", &[("listener", "b")]), 1.0);
}

#[test]
fn a_bridge_out_of_file_descriptors_serves_again_once_some_are_free() {
    // It would let no more in than it has descriptors for.
    let bridge =
        Bridge::tcp(echo()).with_descriptors(100).flags(&["--max-connections", "1000"]).start();
    let first = connect(bridge.listen);
    echoes(&first);
    // These are turned away when there is no descriptor left for them or for their upstream.
    let crowd: Vec<_> = (0..200).map(|_| try_connect(bridge.listen)).collect();
    // Told from the log: the admin endpoint may not have a descriptor left for who asks it.
    let lacks = |line: &String| {
        ["\"reason\":\"descriptors\"", "\"reason\":\"local\""].iter().any(|one| line.contains(one))
    };
    until("no descriptor is left", || bridge.log().iter().any(lacks).then_some(()));
    echoes(&first);
    drop(crowd);
    until("a newcomer is served", || {
        let mut newcomer = try_connect(bridge.listen).ok()?;
        let asked = newcomer.write_all(b"x").and_then(|()| newcomer.read_exact(&mut [0]));
        asked.ok()
    });
}

#[test]
fn a_log_that_nobody_reads_costs_lines_and_no_session() {
    /// More than a pipe and the queue before it hold: 8,192 lines and 64 KiB.
    const MOST: usize = 12_000;
    const AT_ONCE: usize = 200;
    let file = |gateway: SocketAddr, name: &str| {
        format!(
            "[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n\
             upstream = \"{name}\"\n[upstream.{name}]\ngateway = \"{gateway}\"\n"
        )
    };
    let leaving = listener();
    let gateway = leaving.local_addr().unwrap();
    thread::spawn(move || leaving.incoming().for_each(drop));
    let listeners = [file(echo(), "stays"), file(gateway, "leaves")].concat();
    let setup = Bridge::from_file(&format!("admin = \"127.0.0.1:0\"\n{listeners}"));
    let mut bridge = setup.with_an_unread_log().start();
    let [stays, leaves] = bridge.listening[..] else { panic!("two listeners") };
    let witness = connect(stays);
    let dropped = || bridge.metrics().sum("tidegate_log_lines_dropped_total", &[]);
    assert_eq!(dropped(), 0.0);

    // Every connection that was served leaves a line. It takes thousands, however busy the machine is:
    // so it is their number that is limited, not the time.
    let mut served = 0;
    while dropped() == 0.0 {
        assert!(served < MOST, "no line of {served} was dropped");
        let crowd: Vec<TcpStream> = (0..AT_ONCE).map(|_| connect(leaves)).collect();
        for client in crowd {
            let (heard, end) = read_to_the_end(&client);
            assert!(heard.is_empty() && end.is_ok(), "{end:?}");
            reset(client);
        }
        served += AT_ONCE;
    }

    echoes(&witness);
    echoes(&connect(stays));
    drop(witness);
    bridge.signal(Signal::TERM);
    assert_eq!(bridge.ends().code(), Some(0));
}

fn echoes(mut client: &TcpStream) {
    client.write_all(b"marco").unwrap();
    assert_eq!(read_exactly(client, 5), b"marco");
}

/// Session after session, until the bridge takes no more.
fn come_and_go(bridge: SocketAddr, answered: &AtomicU64, signalled: &AtomicBool) {
    while let Ok(mut client) = TcpStream::connect(bridge) {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let first = client.write_all(b"x").and_then(|()| client.read_exact(&mut [0]));
        match first {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            first => first.unwrap(),
        }
        for _ in 0..5 {
            echoes(&client);
            thread::sleep(Duration::from_millis(1));
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
    assert!(signalled.load(Ordering::SeqCst), "refused before the signal");
}

fn refuses(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}
