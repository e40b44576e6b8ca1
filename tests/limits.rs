//! Who is let in, who waits and who is turned away, and with which words.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::iter;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use support::bridge::{Bridge, Setup};
use support::tcp::{
    accept, connect, connect_from, echo, is_reset, listener, queued_at, read_exactly,
    read_to_the_end, serve, try_connect, try_connect_from,
};
use support::{until, until_it};

/// Begins a greeting.
const HELLO: &[u8] = b"\x05\0\0\0hello";

#[test]
fn beyond_max_connections_a_client_waits_and_is_then_told_1040() {
    let (server, bridge) = mysql(|setup| {
        setup.flags(&["--max-connections", "1", "--queue", "1", "--queue-timeout", "300ms"])
    });
    let (first, _first_server) = greeted(&bridge, &server);
    let started = Instant::now();
    let told = error_of(&connect(bridge.listen));
    assert_eq!(told, (1040, "tidegate: too many connections (max_connections is 1)".into()));
    assert!(started.elapsed().as_millis() >= 300, "it has not waited");

    // One that waits goes in when the other leaves; a third one has no place to wait.
    let waiting = Bridge::from_file(&file(
        "queue = 1\nqueue_timeout = \"30s\"\nmax_connections = 1",
        &server,
    ))
    .start();
    let (inside, _inside_server) = greeted(&waiting, &server);
    let second = connect(waiting.listen);
    let open = || waiting.open_connections();
    until_it("the second waits", open, |count| *count == 2.0);
    assert_eq!(error_of(&connect(waiting.listen)).0, 1040);
    drop(inside);
    let mut second_server = accept(&server);
    second_server.write_all(HELLO).unwrap();
    assert_eq!(read_exactly(&second, HELLO.len()), HELLO);
    drop(first);
    assert_eq!(rejected(&waiting, "limit"), 1.0);
    assert_eq!(rejected(&bridge, "limit"), 1.0);
    let record = bridge.close_record();
    assert_eq!((record.text("side"), record.text("reason")), ("tidegate", "limit"));
}

#[test]
fn a_client_that_waits_and_leaves_gives_its_place_back() {
    let (server, bridge) = mysql(|setup| {
        setup.flags(&["--max-connections", "1", "--queue", "1", "--queue-timeout", "60s"])
    });
    let (_first, _first_server) = greeted(&bridge, &server);
    for round in 1..=5 {
        let waiting = connect(bridge.listen);
        until_it("it waits", || bridge.open_connections(), |count| *count == 2.0);
        drop(waiting);
        let records = bridge.close_records(round);
        assert_eq!(
            (records[round - 1].text("side"), records[round - 1].text("reason")),
            ("client", "eof")
        );
    }
}

#[test]
fn a_source_beyond_its_share_is_told_1040_and_others_are_served() {
    let (server, bridge) = mysql(|setup| setup.flags(&["--max-connections-per-source", "2"]));
    let _open = [greeted(&bridge, &server), greeted(&bridge, &server)];
    let told = error_of(&connect(bridge.listen));
    assert_eq!(told.0, 1040);
    assert!(
        told.1.contains("127.0.0.1") && told.1.contains("max_connections_per_source is 2"),
        "{told:?}"
    );
    let _other = connect_from("127.0.0.2", bridge.listen);
    let _served = accept(&server);
    assert_eq!(rejected(&bridge, "source"), 1.0);
}

#[test]
fn who_is_denied_is_told_1130_and_over_tcp_reset() {
    let server = listener();
    let text = "allow = [\"127.0.0.0/24\"]\ndeny = [\"127.0.0.9\"]";
    let bridge = Bridge::from_file(&file(text, &server)).start();
    for (host, denied) in [("127.0.0.1", false), ("127.0.0.9", true), ("127.0.1.1", true)] {
        let client = connect_from(host, bridge.listen);
        if denied {
            let told = error_of(&client);
            assert_eq!(told, (1130, format!("tidegate: host {host} is not allowed to connect")));
        } else {
            accept(&server).write_all(HELLO).unwrap();
            assert_eq!(read_exactly(&client, HELLO.len()), HELLO);
        }
    }
    assert_eq!(rejected(&bridge, "denied"), 2.0);

    let bridge = Bridge::tcp(echo()).flags(&["--deny", "127.0.0.9"]).start();
    let client = try_connect_from("127.0.0.9", bridge.listen);
    let end = client.and_then(|mut client| client.read(&mut [0]).map(drop));
    assert!(is_reset(&end), "{end:?}");
    assert!(answers(&connect(bridge.listen)));
}

#[test]
fn a_reachable_address_needs_an_allow_list_or_a_word() {
    let refused = Bridge::tcp(echo()).flags(&["--listen", "0.0.0.0:0"]).try_start();
    assert!(refused.is_err_and(|said| said.contains("allow")));
    let bridge = Bridge::tcp(echo())
        .flags(&["--listen", "0.0.0.0:0", "--allow", "127.0.0.1,10.0.0.0/8"])
        .start();
    let local = SocketAddr::from(([127, 0, 0, 1], bridge.listen.port()));
    assert!(answers(&connect(local)));
}

#[test]
fn connections_that_come_too_fast_wait_for_their_turn() {
    let bridge = Bridge::tcp(echo())
        .flags(&["--accept-rate", "20", "--queue", "5", "--queue-timeout", "10s"])
        .start();
    let started = Instant::now();
    thread::scope(|scope| {
        // 20 at once, and five more one after the other.
        let crowd: Vec<_> = (0..60)
            .map(|_| {
                scope.spawn(|| try_connect(bridge.listen).is_ok_and(|client| answers(&client)))
            })
            .collect();
        let served = crowd.into_iter().map(|one| one.join().unwrap()).filter(|ok| *ok).count();
        let most = 25 + 20 * (1 + started.elapsed().as_secs() as usize);
        assert!((20..=most).contains(&served), "{served} were served");
        let refused = rejected(&bridge, "rate");
        assert_eq!(served as f64 + refused, 60.0);
        assert!(refused > 0.0);
    });
}

/// The bridge has descriptors for some 40 sessions; it is told to let more in.
#[test]
fn without_descriptors_newcomers_are_told_1040_and_others_go_on() {
    let server = listener();
    let setup = Bridge::to(server.local_addr().unwrap()).with_descriptors(100);
    let bridge = setup.flags(&["--max-connections", "1000"]).start();
    let (first, mut first_server) = greeted(&bridge, &server);
    let mut crowd: Vec<TcpStream> = Vec::new();
    until("the accept tells somebody", || {
        let client = connect(bridge.listen);
        client.set_nonblocking(true).unwrap();
        crowd.push(client);
        let told = |mut client: &TcpStream| {
            let mut packet = [0; 512];
            match client.read(&mut packet) {
                Ok(length) if length > 7 => {
                    Some((error(&packet[..length]), packet[7..length].to_vec()))
                }
                _ => None,
            }
        };
        crowd
            .iter()
            .filter_map(told)
            .find(|(code, text)| *code == 1040 && text.ends_with(b"no file descriptor is left"))
    });
    first_server.write_all(b"more").unwrap();
    assert_eq!(read_exactly(&first, 4), b"more");
    drop(crowd);
    until("newcomers are served again", || {
        let client = connect(bridge.listen);
        server.set_nonblocking(true).unwrap();
        while let Ok((mut server, _)) = server.accept() {
            let _ = server.write_all(HELLO);
        }
        client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut answer = [0; HELLO.len()];
        ((&client).read_exact(&mut answer).is_ok() && answer == *HELLO).then_some(())
    });
    assert!(rejected(&bridge, "descriptors") >= 1.0);
}

/// They wait in the kernel, and the listener has always something to accept and never can.
#[test]
fn while_newcomers_wait_for_descriptors_it_uses_no_cpu_and_serves_them_later() {
    let bridges = ["mysql", "tcp"].map(greeting);
    let before = bridges.each_ref().map(|bridge| {
        assert!(is_greeted(&connect(bridge.listen)));
        let most = bridge.most_descriptors();
        bridge.limit_descriptors(3);
        most
    });
    let crowds = crowds(&bridges, |client, all| all.push(client));
    for ((bridge, most), crowd) in bridges.iter().zip(before).zip(crowds) {
        let cannot = |line: &String| line.contains("cannot accept");
        until("it says so", || bridge.log().iter().any(cannot).then_some(()));
        for client in &crowd {
            client.set_nonblocking(true).unwrap();
            let heard = (&*client).read(&mut [0]);
            assert!(heard.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
            client.set_nonblocking(false).unwrap();
        }
        bridge.limit_descriptors(most);
        assert!(crowd.iter().all(is_greeted), "not all that waited are served");
    }
}

/// Sessions hold the descriptors, all but the spare one.
#[test]
fn while_newcomers_are_told_that_descriptors_lack_it_uses_little_cpu() {
    let bridges = ["mysql", "tcp"].map(greeting);
    // One after the other: of many at once each could keep the next from its server, and all would end.
    let held = bridges.each_ref().map(|bridge| {
        bridge.limit_descriptors(100);
        let next = || try_connect(bridge.listen).ok().filter(is_greeted);
        iter::from_fn(next).take(100).collect::<Vec<_>>()
    });
    assert!(held.each_ref().map(Vec::len).iter().all(|held| (10..50).contains(held)));
    crowds(&bridges, |client, _| assert!(!is_greeted(&client), "it has descriptors"));
    drop(held);
    for bridge in &bridges {
        let served = || try_connect(bridge.listen).is_ok_and(|client| is_greeted(&client));
        until("newcomers are served again", || served().then_some(()));
    }
}

/// A bridge that lets more in than it will have descriptors for, and a server that greets.
fn greeting(protocol: &str) -> Bridge {
    let server = serve(&listener(), |mut stream| {
        let _ = stream.write_all(HELLO).and_then(|()| stream.read(&mut [0]));
    });
    Bridge::to(server).flags(&["--protocol", protocol, "--max-connections", "1000"]).start()
}

fn is_greeted(mut client: &TcpStream) -> bool {
    let mut greeting = [0; HELLO.len()];
    client.read_exact(&mut greeting).is_ok() && greeting == *HELLO
}

/// Connects for two seconds, 50 times a second, and checks what CPU time the bridges use meanwhile.
fn crowds<const N: usize>(
    bridges: &[Bridge; N],
    each: impl Fn(TcpStream, &mut Vec<TcpStream>),
) -> [Vec<TcpStream>; N] {
    let mut crowds = [const { Vec::new() }; N];
    let before = bridges.each_ref().map(Bridge::cpu_time);
    let start = Instant::now();
    for tick in 1..=100 {
        for (bridge, crowd) in bridges.iter().zip(&mut crowds) {
            // Over TCP a reset may be there before the connect has returned.
            try_connect(bridge.listen).into_iter().for_each(|client| each(client, crowd));
        }
        thread::sleep((tick * Duration::from_millis(20)).saturating_sub(start.elapsed()));
    }
    let took = start.elapsed();
    for (bridge, before) in bridges.iter().zip(before) {
        let used = bridge.cpu_time() - before;
        assert!(used * 5 < took, "it used {used:?} of {took:?}");
    }
    crowds
}

#[test]
fn whom_a_drain_finds_queued_while_descriptors_lack_is_told_so() {
    const QUEUED: usize = 150;
    let server = listener();
    let setup = Bridge::to(server.local_addr().unwrap()).with_descriptors(110);
    let flags = ["--max-connections", "1000", "--drain-timeout", "1s"];
    let mut bridge = setup.flags(&flags).start();
    bridge.stop();
    let clients: Vec<TcpStream> = (0..QUEUED).map(|_| connect(bridge.listen)).collect();
    until_it("all are queued", || queued_at(bridge.listen), |count| *count == QUEUED as u64);
    bridge.signal(Signal::TERM);
    bridge.signal(Signal::CONT);
    let codes: Vec<u16> = clients.iter().map(|client| error_of(client).0).collect();
    assert!(codes.contains(&1040), "{codes:?}");
    assert!(codes.iter().all(|code| [1040, 1053].contains(code)), "{codes:?}");
    assert_eq!(bridge.ends().code(), Some(0));
}

#[test]
fn both_limits_of_the_host_are_logged_at_the_start() {
    let bridge = Bridge::tcp(echo()).with_descriptors(1_000).start();
    let said = |what: &str| bridge.log().iter().any(|line| line.contains(what));
    // Two descriptors each, less those of the process itself: 308 or 332.
    until("they are logged", || {
        (said("\"message\":\"limit of open files\"") && said("\"max_connections\":3")).then_some(())
    });
}

fn mysql(with: impl FnOnce(Setup) -> Setup) -> (TcpListener, Bridge) {
    let server = listener();
    let bridge = with(Bridge::to(server.local_addr().unwrap())).start();
    (server, bridge)
}

fn file(in_listener: &str, server: &TcpListener) -> String {
    format!(
        "admin = \"127.0.0.1:0\"\n[[listener]]\nbind = \"127.0.0.1:0\"\n{in_listener}\n\
         [upstream.gw]\ngateway = \"{}\"\n",
        server.local_addr().unwrap()
    )
}

/// A client that has its greeting, and its server.
fn greeted(bridge: &Bridge, server: &TcpListener) -> (TcpStream, TcpStream) {
    let client = connect(bridge.listen);
    let mut server = accept(server);
    server.write_all(HELLO).unwrap();
    assert_eq!(read_exactly(&client, HELLO.len()), HELLO);
    (client, server)
}

/// The ERR packet that is all a client gets.
fn error_of(client: &TcpStream) -> (u16, String) {
    let (packet, end) = read_to_the_end(client);
    assert!(end.is_ok(), "{end:?}");
    assert_eq!(packet[3], 0, "the first packet of a conversation");
    (error(&packet), String::from_utf8(packet[7..].to_vec()).unwrap())
}

fn error(packet: &[u8]) -> u16 {
    assert_eq!(packet[4], 0xff, "{packet:?}");
    u16::from_le_bytes([packet[5], packet[6]])
}

fn rejected(bridge: &Bridge, reason: &str) -> f64 {
    bridge.metrics().sum("tidegate_connections_rejected_total", &[("reason", reason)])
}

fn answers(mut client: &TcpStream) -> bool {
    let mut answer = [0; 5];
    client.write_all(b"marco").and_then(|()| client.read_exact(&mut answer)).is_ok()
        && answer == *b"marco"
}
