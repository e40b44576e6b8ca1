//! What happens to bytes, ends and resets on their way, seen from plain sockets at both ends.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidegate::demo::dns::DnsServer;

use support::bridge::Bridge;
use support::tcp::{
    Noise, accept, connect, echo, expect_noise, is_reset, listener, read_exactly, read_to_the_end,
    reset, send_in_pieces, send_noise, serve, through, try_connect, until_acknowledged,
};
use support::{full_or, until, until_it};

/// How often a case is repeated whose failure would be a race.
const TIMES: usize = 20;

#[test]
fn a_client_that_has_said_all_still_hears_the_answer() {
    let (upstream, bridge) = tcp_bridge();
    for _ in 0..TIMES {
        let (mut client, mut server) = through(bridge.listen, &upstream);
        client.write_all(b"the whole question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let (question, end) = read_to_the_end(&server);
        assert_eq!((question.as_slice(), end.is_ok()), (&b"the whole question"[..], true));
        server.write_all(b"the whole answer").unwrap();
        drop(server);
        let (answer, end) = read_to_the_end(&client);
        assert_eq!((answer.as_slice(), end.is_ok()), (&b"the whole answer"[..], true));
    }
    bridge.has_accounted_for(TIMES as f64);
}

#[test]
fn a_server_that_has_said_all_still_hears_the_client() {
    let (upstream, bridge) = tcp_bridge();
    for _ in 0..TIMES {
        let (mut client, mut server) = through(bridge.listen, &upstream);
        server.write_all(b"goodbye").unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        let (words, end) = read_to_the_end(&client);
        assert_eq!((words.as_slice(), end.is_ok()), (&b"goodbye"[..], true));
        client.write_all(b"one more thing").unwrap();
        drop(client);
        let (words, end) = read_to_the_end(&server);
        assert_eq!((words.as_slice(), end.is_ok()), (&b"one more thing"[..], true));
    }
    bridge.has_accounted_for(TIMES as f64);
}

#[test]
fn a_reset_by_the_server_reaches_the_client_as_a_reset_after_all_data() {
    let (upstream, bridge) = tcp_bridge();
    for seed in 0..TIMES {
        let (client, server) = through(bridge.listen, &upstream);
        let sent = Noise::new(seed as u64).bytes(512 * 1024);
        (&server).write_all(&sent).unwrap();
        until_acknowledged(&server);
        reset(server);
        let (got, end) = read_to_the_end(&client);
        assert!(got == sent, "round {seed}: {} of {} bytes arrived", got.len(), sent.len());
        assert!(is_reset(&end), "round {seed}: {end:?} instead of a reset");
    }
    bridge.has_accounted_for(TIMES as f64);
}

#[test]
fn a_reset_by_the_client_reaches_the_server_as_a_reset_after_all_data() {
    let (upstream, bridge) = tcp_bridge();
    for seed in 0..TIMES {
        let (client, server) = through(bridge.listen, &upstream);
        let sent = Noise::new(seed as u64).bytes(512 * 1024);
        (&client).write_all(&sent).unwrap();
        until_acknowledged(&client);
        reset(client);
        let (got, end) = read_to_the_end(&server);
        assert!(got == sent, "round {seed}: {} of {} bytes arrived", got.len(), sent.len());
        assert!(is_reset(&end), "round {seed}: {end:?} instead of a reset");
    }
    bridge.has_accounted_for(TIMES as f64);
}

#[test]
fn a_reset_reaches_a_client_that_has_said_all() {
    let (upstream, bridge) = tcp_bridge();
    for _ in 0..TIMES {
        let (client, mut server) = through(bridge.listen, &upstream);
        client.shutdown(Shutdown::Write).unwrap();
        assert!(read_to_the_end(&server).0.is_empty());
        server.write_all(b"half an answ").unwrap();
        until_acknowledged(&server);
        reset(server);
        let (answer, end) = read_to_the_end(&client);
        assert_eq!(answer, b"half an answ");
        assert!(is_reset(&end), "{end:?} instead of a reset");
    }
    bridge.has_accounted_for(TIMES as f64);
}

#[test]
fn a_reset_on_an_idle_connection_is_passed_on_both_ways() {
    let (upstream, bridge) = tcp_bridge();
    for _ in 0..TIMES {
        let (client, server) = through(bridge.listen, &upstream);
        reset(server);
        assert!(is_reset(&read_to_the_end(&client).1));
        let (client, server) = through(bridge.listen, &upstream);
        reset(client);
        assert!(is_reset(&read_to_the_end(&server).1));
    }
    bridge.has_accounted_for(2.0 * TIMES as f64);
}

#[test]
fn a_servers_last_word_arrives_although_it_left_the_clients_data_unread() {
    let upstream = listener();
    let bridge = Bridge::to(upstream.local_addr().unwrap()).start();
    for round in 0..TIMES {
        let client = connect(bridge.listen);
        let server = accept(&upstream);
        (&server).write_all(GREETING).unwrap();
        assert_eq!(read_exactly(&client, GREETING.len()), GREETING);
        let talker = client.try_clone().unwrap();
        let talking =
            thread::spawn(move || while (&talker).write_all(&[b'?'; 64 * 1024]).is_ok() {});
        // Enough has come to know that far more is under way.
        read_exactly(&server, 256 * 1024);
        (&server).write_all(LAST_WORD).unwrap();
        drop(server);
        let (words, _) = read_to_the_end(&client);
        assert!(words == LAST_WORD, "round {round}: heard {words:?}");
        client.shutdown(Shutdown::Both).ok();
        talking.join().unwrap();
    }
    bridge.has_accounted_for(TIMES as f64);
}

#[test]
fn twenty_four_megabytes_and_an_end_arrive_whole_at_the_server() {
    let (upstream, bridge) = tcp_bridge();
    for seed in 0..full_or(TIMES, 4) as u64 {
        let (client, server) = through(bridge.listen, &upstream);
        let sending = thread::spawn(move || send_noise(&client, seed, BULK).unwrap());
        expect_noise(&server, seed, BULK);
        sending.join().unwrap();
    }
}

#[test]
fn twenty_four_megabytes_and_an_end_arrive_whole_at_the_client() {
    let (upstream, bridge) = tcp_bridge();
    for seed in 0..full_or(TIMES, 4) as u64 {
        let (client, server) = through(bridge.listen, &upstream);
        let sending = thread::spawn(move || send_noise(&server, seed, BULK).unwrap());
        expect_noise(&client, seed, BULK);
        sending.join().unwrap();
    }
    // The last write may be seen before it is counted.
    let bytes =
        || bridge.metrics().sum("tidegate_bytes_total", &[("direction", "upstream_to_client")]);
    let sent = (full_or(TIMES, 4) * BULK) as f64;
    until_it("every byte is counted once", bytes, |bytes| *bytes == sent);
}

#[test]
fn both_directions_at_once_in_pieces_of_any_size_arrive_whole() {
    let (upstream, bridge) = tcp_bridge();
    let length = full_or(32, 8) * 1024 * 1024;
    // The largest piece decides how often a read fills its buffer and a write finds no room.
    for (seed, largest) in [(1, 100), (2, 3_000), (3, 70_000), (4, 1_000_000)] {
        let length = if largest == 100 { length / 64 } else { length };
        let (client, server) = through(bridge.listen, &upstream);
        let (upward, downward) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let sending = [
            thread::spawn(move || {
                send_in_pieces(&upward, seed, length, largest);
                upward.shutdown(Shutdown::Write).unwrap();
            }),
            thread::spawn(move || {
                send_in_pieces(&downward, seed + 100, length, largest);
                downward.shutdown(Shutdown::Write).unwrap();
            }),
        ];
        let reading = thread::spawn(move || expect_noise(&server, seed, length));
        expect_noise(&client, seed + 100, length);
        reading.join().unwrap();
        sending.into_iter().for_each(|sender| sender.join().unwrap());
    }
    bridge.has_accounted_for(4.0);
}

#[test]
fn single_bytes_go_both_ways_one_at_a_time() {
    let bridge = Bridge::tcp(echo()).start();
    let mut client = connect(bridge.listen);
    for number in 0..2000 {
        client.write_all(&[number as u8]).unwrap();
        assert_eq!(read_exactly(&client, 1), [number as u8]);
    }
}

#[test]
fn many_single_bytes_in_a_row_arrive_in_order() {
    let (upstream, bridge) = tcp_bridge();
    for swap in [false, true] {
        let (client, server) = through(bridge.listen, &upstream);
        let (from, to) = if swap { (server, client) } else { (client, server) };
        let sending = thread::spawn(move || {
            send_in_pieces(&from, 5, 16 * 1024, 1);
            from.shutdown(Shutdown::Write).unwrap();
        });
        expect_noise(&to, 5, 16 * 1024);
        sending.join().unwrap();
    }
}

/// A bridge that holds a small write back until the one before is acknowledged takes 40 ms for it.
#[test]
fn a_message_written_in_two_pieces_is_not_held_back() {
    const ROUNDS: u32 = 50;
    let (upstream, bridge) = tcp_bridge();
    let (client, server) = through(bridge.listen, &upstream);
    let start = Instant::now();
    for _ in 0..ROUNDS {
        for (mut from, to) in [(&client, &server), (&server, &client)] {
            // The second piece leaves when the first has arrived, so no read can join them.
            for piece in [b"one half", b"the rest"] {
                from.write_all(piece).unwrap();
                assert_eq!(read_exactly(to, piece.len()), piece);
            }
        }
    }
    let each = start.elapsed() / (2 * ROUNDS);
    assert!(each < Duration::from_millis(20), "a message takes {each:?}");
}

#[test]
fn a_reader_that_falls_asleep_stops_the_writer_and_costs_no_memory() {
    const SESSIONS: usize = 16;
    const LENGTH: usize = 32 * 1024 * 1024;
    let (upstream, bridge) = tcp_bridge();
    let before = bridge.memory();
    let mut sleepers = Vec::new();
    for seed in 0..SESSIONS as u64 {
        let (client, server) = through(bridge.listen, &upstream);
        sleepers.push((seed, client));
        thread::spawn(move || send_noise(&server, seed, LENGTH));
    }

    // Everything that can move has moved when nothing has for a while.
    let relayed = bridge.relays_no_more_for(Duration::from_millis(500));

    assert!(relayed < (SESSIONS * LENGTH) as f64, "nothing held the writers back");
    let grown = bridge.memory().saturating_sub(before);
    // 64 KiB may wait in each session; the rest is the allocator's and the program's own pages.
    assert!(grown < 16 * 1024 * 1024, "{SESSIONS} sleeping readers cost {grown} bytes");
    let (seed, awake) = sleepers.swap_remove(3);
    expect_noise(&awake, seed, LENGTH);
}

#[test]
fn nine_thousand_sessions_fit_into_twenty_thousand_descriptors_and_two_kib_each() {
    // Two descriptors a session, 64 pipes, and some of the bridge's own.
    let (sessions, descriptors) = full_or((9_000, 20_000), (3_000, 6_700));
    raise_file_limit();
    let upstream = listener();
    let setup = Bridge::tcp(upstream.local_addr().unwrap());
    let bridge = setup.with_descriptors(descriptors).start();
    // What the first session loads is not the others'.
    let first = hundred_sessions(&bridge, &upstream);
    let before = bridge.heap();

    let hundreds = || hundred_sessions(&bridge, &upstream);
    let open: Vec<_> = (0..sessions / 100).flat_map(|_| hundreds()).collect();
    let idle = bridge.heap().saturating_sub(before) / sessions;
    let burst = Noise::new(1).bytes(1024 * 1024);
    for (client, mut server) in open.iter().map(|(client, server)| (client, server)) {
        thread::scope(|scope| {
            scope.spawn(|| server.write_all(&burst).unwrap());
            assert!(read_exactly(client, burst.len()) == burst);
        });
    }

    let after = bridge.heap().saturating_sub(before) / sessions;
    // A debug build's: a release build needs a little less.
    assert!(idle <= 2048 && after <= 2048, "{idle} bytes a session, {after} after a burst");
    let held = bridge.fds() + 2 * bridge.pipes();
    assert!(held <= descriptors as usize, "{held} descriptors");
    assert_eq!(bridge.open_connections(), (open.len() + first.len()) as f64);
}

#[test]
fn a_client_that_connects_and_leaves_at_once_leaves_nothing_behind() {
    let bridge = Bridge::tcp(echo()).start();
    let visit = |count| {
        for number in 0..count {
            let visitor = connect(bridge.listen);
            if number % 2 == 0 {
                reset(visitor);
            }
        }
    };
    visit(10);
    bridge.has_accounted_for(10.0);
    let (fds, memory) = (bridge.fds(), bridge.memory());

    visit(500);

    bridge.has_accounted_for(510.0);
    bridge.gives_back_its_fds(fds, 500);
    assert!(bridge.memory() < memory + 8 * 1024 * 1024, "{} bytes after {memory}", bridge.memory());
}

#[test]
fn a_client_that_leaves_before_the_greeting_leaves_nothing_behind() {
    const VISITORS: usize = 50;
    let upstream = listener();
    let bridge = Bridge::to(upstream.local_addr().unwrap()).start();
    let before = bridge.fds();
    let visitors: Vec<TcpStream> = (0..VISITORS).map(|_| connect(bridge.listen)).collect();
    let waiting: Vec<TcpStream> = visitors.iter().map(|_| accept(&upstream)).collect();
    let left = Instant::now();
    drop(visitors);
    bridge.has_accounted_for(VISITORS as f64);
    assert!(left.elapsed() < Duration::from_secs(2), "noticed only by the dial deadline");
    // Their dials wait for a greeting, to take leave of the server, which ends that now.
    drop(waiting);
    bridge.gives_back_its_fds(before, VISITORS);
}

#[test]
fn an_unreachable_tcp_gateway_closes_the_connection_without_a_mysql_packet() {
    let (gateway, _held) = support::tcp::nobody();
    let bridge = Bridge::tcp(gateway).start();
    if let Ok(client) = try_connect(bridge.listen) {
        let (heard, _) = read_to_the_end(&client);
        assert!(heard.is_empty(), "a plain TCP client heard {heard:?}");
    }
    assert_eq!(bridge.close_record().text("side"), "upstream");
}

#[test]
fn an_endpoint_that_refuses_and_one_that_never_greets_are_passed_over() {
    let name = "gateway01-privatelink.test-1.prod.aws.tidbcloud.test";
    let (refusing, silent, answering) = ("127.0.0.2", "127.0.0.3", "127.0.0.4");
    // Nobody listens at the first address.
    let (upstream, _black_hole) = at_the_same_port(answering, silent);
    let port = upstream.local_addr().unwrap().port();
    serve(&upstream, |mut stream| {
        let _ = stream.write_all(GREETING);
        let _ = stream.read(&mut [0]);
    });
    let dns = DnsServer::start("127.0.0.1:0".parse().unwrap()).unwrap();
    dns.set(name, &[refusing, silent, answering].map(|ip| ip.parse().unwrap()), 60);
    let bridge = Bridge::to(format!("{name}:{port}"))
        .flags(&["--nameserver", &dns.address().to_string(), "--connect-timeout", "300ms"])
        .start();

    for _ in 0..5 {
        let client = connect(bridge.listen);
        assert_eq!(read_exactly(&client, GREETING.len()), GREETING);
    }

    for record in bridge.close_records(5) {
        assert_eq!(record.text("endpoint"), format!("{answering}:{port}"));
    }
}

/// A greeting as good as any to a bridge that passes it on unread.
const GREETING: &[u8] = b"\x4f\x00\x00\x00\x0a8.0.36-test\0\x01\x00\x00\x00abcdefgh\0\xff\xff\xff\x02\x00\xff\xdf\x15\0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0mysql_native_password\0";
/// ERR 1153, as a server sends it about a packet too large, and then closes.
const LAST_WORD: &[u8] = b"\x1d\x00\x00\x01\xff\x81\x04#08S01Got a packet too big";
const BULK: usize = 24 * 1024 * 1024;

/// Sessions in which both sides have spoken, opened at once.
fn hundred_sessions(bridge: &Bridge, upstream: &TcpListener) -> Vec<(TcpStream, TcpStream)> {
    let clients: Vec<_> = (0..100).map(|_| connect(bridge.listen)).collect();
    for (number, mut client) in clients.iter().enumerate() {
        client.write_all(&[number as u8]).unwrap();
    }
    // They come in any order.
    let mut servers: Vec<_> = clients.iter().map(|_| accept(upstream)).collect();
    servers.sort_by_cached_key(|server| read_exactly(server, 1)[0]);
    for (mut server, client) in servers.iter().zip(&clients) {
        server.write_all(b"!").unwrap();
        assert_eq!(read_exactly(client, 1), b"!");
    }
    clients.into_iter().zip(servers).collect()
}

/// Both ends of every session are in this process.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).unwrap();
}

fn tcp_bridge() -> (TcpListener, Bridge) {
    let upstream = listener();
    let bridge = Bridge::tcp(upstream.local_addr().unwrap()).start();
    (upstream, bridge)
}

fn at_the_same_port(one: &str, other: &str) -> (TcpListener, TcpListener) {
    until("a port that is free at both addresses", || {
        let first = TcpListener::bind((one, 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        Some((first, TcpListener::bind((other, port)).ok()?))
    })
}
