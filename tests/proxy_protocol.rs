//! The PROXY protocol: from load balancers, a real one among them, and to servers, a real one too.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use rustix::process::Signal;

use support::bridge::{Bridge, Setup};
use support::mariadb::MariaDb;
use support::process::{Process, command, installed, output};
use support::tcp::{
    accept, connect_from, echo, free_port, is_listened_on, is_reset, listener, read_exactly,
    read_to_the_end, reset, serve, try_connect_from, unread_at_the_other_end, until_acknowledged,
};
use support::{skip, until};

/// The load balancer that is trusted, and a client who is not.
const BALANCER: &str = "127.0.0.2";
const STRANGER: &str = "127.0.0.3";
const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 203.0.113.1 4242 3306\r\n";
const CLIENT: &str = "192.0.2.7:4242";

#[test]
fn a_trusted_peers_header_names_the_client_in_both_versions() {
    let bridge = trusting("tcp", echo()).start();
    let binary = v2(0x21, 0x11, &ends());
    for header in [LINE, &binary] {
        // In one segment with the client's first bytes, which are for the server.
        let mut client = connect_from(BALANCER, bridge.listen);
        client.write_all(&[header, b"ebb"].concat()).unwrap();
        assert_eq!(read_exactly(&client, 3), b"ebb");
        drop(client);
    }
    for record in bridge.close_records(2) {
        assert_eq!(record.text("client"), CLIENT);
        assert!(record.text("peer").starts_with("127.0.0.2:"), "{}", record.0);
        assert_eq!(record.number("bytes_to_upstream"), 3.0);
        assert!(record.0["vpce"].is_null() && record.0["linkid"].is_null(), "{}", record.0);
    }
    assert_eq!(rejected(&bridge), 0.0);
}

#[test]
fn the_bytes_of_others_are_their_own_even_if_they_look_like_a_header() {
    let bridge = trusting("tcp", echo()).start();
    let mut client = connect_from(STRANGER, bridge.listen);
    client.write_all(LINE).unwrap();
    assert_eq!(read_exactly(&client, LINE.len()), LINE);
    drop(client);
    let record = bridge.close_record();
    assert!(record.text("client").starts_with("127.0.0.3:"), "{}", record.0);
    assert!(record.0["peer"].is_null(), "{}", record.0);
    assert_eq!(rejected(&bridge), 0.0);
}

#[test]
fn the_private_endpoint_is_in_the_close_record() {
    let bridge = trusting("tcp", echo()).start();
    let tlvs: [(&[u8], &str, &str); 3] = [
        (b"\xea\x00\x17\x01vpce-08d2bf15fac5001c9", "vpce", "vpce-08d2bf15fac5001c9"),
        (b"\xe1\x00\x07\x02ep-bp1", "vpce", "ep-bp1"),
        (b"\xee\x00\x05\x01\x04\x03\x02\x01", "linkid", "16909060"),
    ];
    for (count, (tlv, field, expected)) in (1..).zip(tlvs) {
        let mut client = connect_from(BALANCER, bridge.listen);
        client.write_all(&[&v2(0x21, 0x11, &[&ends(), tlv].concat())[..], b"!"].concat()).unwrap();
        assert_eq!(read_exactly(&client, 1), b"!");
        drop(client);
        let record = bridge.close_records(count).pop().unwrap();
        let value = &record.0[field];
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        assert_eq!(shown, expected, "{}", record.0);
    }
}

#[test]
fn without_a_clients_address_the_load_balancer_itself_is_the_client() {
    let bridge = trusting("tcp", echo()).start();
    let unix = v2(0x21, 0x31, &[0; 216]);
    let nobodys = [&b"PROXY UNKNOWN\r\n"[..], &v2(0x20, 0, &[]), &v2(0x21, 0, &[]), &unix];
    for header in nobodys {
        let mut client = connect_from(BALANCER, bridge.listen);
        client.write_all(&[header, b"!"].concat()).unwrap();
        assert_eq!(read_exactly(&client, 1), b"!");
    }
    for record in bridge.close_records(nobodys.len()) {
        assert!(record.text("client").starts_with("127.0.0.2:"), "{}", record.0);
        assert!(record.0["peer"].is_null(), "{}", record.0);
    }
}

#[test]
fn what_is_no_header_is_rejected_counted_and_told() {
    let upstream = listener();
    let bridge = trusting("mysql", upstream.local_addr().unwrap()).start();
    let cases: [(&[u8], &str); 5] = [
        (
            b"GET / HTTP/1.1\r\n\r\n",
            "the connection from 127.0.0.2 began with \"GET / HT\", not with a PROXY header; \
             is proxy protocol on at the load balancer?",
        ),
        (
            b"PROXY TCP4 192.0.2.7 203.0.113.1 04242 3306\r\n",
            "the connection from 127.0.0.2 sent a malformed PROXY header: port \"04242\"",
        ),
        (
            &[b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat(),
            "the connection from 127.0.0.2 sent a PROXY header that is longer than 107 bytes",
        ),
        (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
            "the connection from 127.0.0.2 sent a PROXY header that is longer than 4112 bytes",
        ),
        (b"PROXY TCP4 19", "the connection from 127.0.0.2 ended after 13 bytes of a PROXY header"),
    ];
    for (count, (bytes, expected)) in (1..).zip(cases) {
        let mut client = connect_from(BALANCER, bridge.listen);
        client.write_all(bytes).unwrap();
        // Fails when it has been rejected already.
        let _ = client.shutdown(Shutdown::Write);
        // Bytes that nobody read make it an RST.
        assert_eq!(read_to_the_end(&client).0, b"");
        let record = bridge.close_records(count).pop().unwrap();
        assert_eq!(record.text("error"), expected);
        assert_eq!([record.text("side"), record.text("reason")], ["client", "proxy_header"]);
        assert!(record.text("client").starts_with("127.0.0.2:"), "{}", record.0);
        assert_eq!(rejected(&bridge), count as f64);
    }
    bridge.has_accounted_for(cases.len() as f64);
    let closed = [("side", "client"), ("reason", "proxy_header")];
    let metrics = bridge.metrics();
    let name = "tidegate_connections_closed_total";
    assert_eq!(metrics.sum(name, &closed), cases.len() as f64);
    assert!(nobody_connects(&upstream), "the gateway was dialled");
}

#[test]
fn silence_is_rejected_at_the_deadline_and_so_is_a_header_that_stops() {
    let upstream = listener();
    let bridge = trusting("mysql", upstream.local_addr().unwrap())
        .flags(&["--proxy-protocol-timeout", "1s"])
        .start();
    let cases: [(&[u8], &str); 2] = [
        (b"", "sent no PROXY header within 1s; is proxy protocol on at the load balancer?"),
        (b"PROXY TCP4", "sent 10 bytes of a PROXY header and not the rest within 1s"),
    ];
    for (count, (bytes, expected)) in (1..).zip(cases) {
        let mut client = connect_from(BALANCER, bridge.listen);
        client.write_all(bytes).unwrap();
        let (said, end) = read_to_the_end(&client);
        assert!(said.is_empty() && end.is_ok(), "{said:?} {end:?}");
        let record = bridge.close_records(count).pop().unwrap();
        assert_eq!(record.text("error"), format!("the connection from 127.0.0.2 {expected}"));
        assert!(record.number("duration_ms") >= 1000.0, "{}", record.0);
    }
    assert_eq!(rejected(&bridge), 2.0);
    assert!(nobody_connects(&upstream), "the gateway was dialled");
}

#[test]
fn who_is_let_in_goes_by_the_client_of_the_header() {
    let limits = ["--allow", "192.0.2.0/24,127.0.0.2", "--deny", "192.0.2.9"];
    let bridge = trusting("tcp", echo())
        .flags(&limits)
        .flags(&["--max-connections-per-source", "1"])
        .start();
    let nobodys = v2(0x20, 0, &[]);
    let _open = [
        served(BALANCER, &bridge, LINE),
        served(BALANCER, &bridge, &of_client("192.0.2.8")),
        // Its own connections are no source's.
        served(BALANCER, &bridge, &nobodys),
        served(BALANCER, &bridge, &nobodys),
    ];
    let cases = [
        (BALANCER, "192.0.2.7", "source"),
        // The load balancer itself is allowed.
        (BALANCER, "192.0.2.9", "denied"),
        (BALANCER, "198.51.100.1", "denied"),
        // This one is not, and whom it claims to be does not matter.
        (STRANGER, "192.0.2.10", "denied"),
    ];
    for (count, (peer, claimed, reason)) in (1..).zip(cases) {
        turned_away(peer, &bridge, &of_client(claimed));
        let record = bridge.close_records(count).pop().unwrap();
        assert_eq!([record.text("side"), record.text("reason")], ["tidegate", reason]);
        let client = if peer == BALANCER { claimed } else { peer };
        assert!(record.text("client").starts_with(&format!("{client}:")), "{}", record.0);
        assert!(record.text("error").contains(client), "{}", record.0);
    }
    assert_eq!(rejected_for(&bridge, "source"), 1.0);
    assert_eq!(rejected_for(&bridge, "denied"), 3.0);

    // A connection of its own goes by the load balancer's address.
    let bridge = trusting("tcp", echo()).flags(&["--deny", BALANCER]).start();
    let _open = served(BALANCER, &bridge, LINE);
    turned_away(BALANCER, &bridge, &nobodys);
    let record = bridge.close_record();
    assert_eq!(record.text("reason"), "denied");
    assert!(record.text("error").contains(BALANCER), "{}", record.0);
}

#[test]
fn a_header_may_come_byte_by_byte() {
    // To look at a queue takes the kernel tens of milliseconds, and there are many bytes.
    let bridge = trusting("tcp", echo()).flags(&["--proxy-protocol-timeout", "1h"]).start();
    for header in [LINE, &v2(0x21, 0x11, &ends())] {
        let mut client = connect_from(BALANCER, bridge.listen);
        for byte in [header, b"!"].concat() {
            client.write_all(&[byte]).unwrap();
            until("the byte is read", || (unread_at_the_other_end(&client) == 0).then_some(()));
        }
        assert_eq!(read_exactly(&client, 1), b"!");
    }
    assert!(bridge.close_records(2).iter().all(|record| record.text("client") == CLIENT));
}

#[test]
fn a_check_that_says_nothing_is_no_rejection_and_costs_no_dial() {
    let upstream = listener();
    let bridge = trusting("mysql", upstream.local_addr().unwrap()).start();
    drop(connect_from(BALANCER, bridge.listen));
    reset(connect_from(BALANCER, bridge.listen));
    let mut reasons: Vec<_> =
        bridge.close_records(2).iter().map(|record| record.text("reason").to_owned()).collect();
    reasons.sort();
    assert_eq!(reasons, ["eof", "reset"]);
    assert_eq!(rejected(&bridge), 0.0);
    assert!(nobody_connects(&upstream), "the gateway was dialled");
}

/// A network load balancer's check of a MySQL port: it connects, says LOCAL and is gone.
#[test]
fn a_check_that_left_with_its_header_costs_no_dial() {
    let upstream = listener();
    let bridge = trusting("mysql", upstream.local_addr().unwrap()).start();
    // Stopped, it finds everything there at once.
    bridge.stop();
    let mut check = connect_from(BALANCER, bridge.listen);
    check.write_all(&v2(0x20, 0, &[])).unwrap();
    check.shutdown(Shutdown::Write).unwrap();
    until_acknowledged(&check);
    bridge.signal(Signal::CONT);
    let record = bridge.close_record();
    assert_eq!([record.text("side"), record.text("reason")], ["client", "eof"]);
    assert_eq!(rejected(&bridge), 0.0);
    assert!(nobody_connects(&upstream), "the gateway was dialled");
}

#[test]
fn a_drain_does_not_wait_for_headers() {
    let mut bridge = trusting("tcp", echo())
        .flags(&["--proxy-protocol-timeout", "1h", "--drain-timeout", "100ms"])
        .start();
    let client = connect_from(BALANCER, bridge.listen);
    until("it is accepted", || (bridge.open_connections() == 1.0).then_some(()));
    bridge.signal(Signal::TERM);
    assert_eq!(read_to_the_end(&client).0, b"");
    let record = bridge.close_record();
    assert_eq!([record.text("side"), record.text("reason")], ["tidegate", "drain"]);
    assert!(bridge.ends().success());
}

#[test]
fn the_admin_endpoint_answers_the_http_check_of_a_load_balancer_that_sends_headers() {
    let bridge = trusting("tcp", echo()).start();
    // kubernetes/kubernetes#57250: LOCAL, the family of IPv4 and no addresses, two TLVs.
    let mut tlvs = vec![0x03, 0x00, 0x04, 0xbc, 0xe5, 0x95, 0x1f, 0x04, 0x00, 0x4a];
    tlvs.resize(0x54, 0);
    let of_aws = v2(0x20, 0x11, &tlvs);
    for header in [&of_aws[..], &v2(0x21, 0x11, &ends()), b""] {
        let mut stream = connect_from("127.0.0.1", bridge.admin);
        let request = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
        stream.write_all(&[header, request].concat()).unwrap();
        let (answer, _) = read_to_the_end(&stream);
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", answer.escape_ascii());
    }
}

#[test]
fn a_server_is_told_of_the_client_before_anything_else() {
    let upstream = listener();
    let gateway = upstream.local_addr().unwrap();
    let bridge = |version| trusting("tcp", gateway).flags(&["--send-proxy-protocol", version]);

    // A client's own connection.
    let text = bridge("v1").start();
    let mut client = connect_from(STRANGER, text.listen);
    client.write_all(b"!").unwrap();
    let (from, to) = (client.local_addr().unwrap(), text.listen);
    let line = format!("PROXY TCP4 127.0.0.3 127.0.0.1 {} {}\r\n!", from.port(), to.port());
    assert_eq!(read_exactly(&accept(&upstream), line.len()), line.as_bytes());

    // What a load balancer says is handed on, and what it says of nobody is its own connection.
    let mut client = connect_from(BALANCER, text.listen);
    client.write_all(&[&v2(0x21, 0x11, &ends())[..], b"!"].concat()).unwrap();
    assert_eq!(read_exactly(&accept(&upstream), LINE.len() + 1), [LINE, b"!"].concat());
    let mut client = connect_from(BALANCER, text.listen);
    client.write_all(b"PROXY UNKNOWN\r\n!").unwrap();
    let (from, to) = (client.local_addr().unwrap(), text.listen);
    let line = format!("PROXY TCP4 127.0.0.2 127.0.0.1 {} {}\r\n!", from.port(), to.port());
    assert_eq!(read_exactly(&accept(&upstream), line.len()), line.as_bytes());

    let binary = bridge("v2").start();
    let mut client = connect_from(BALANCER, binary.listen);
    client.write_all(&[LINE, b"!"].concat()).unwrap();
    let header = v2(0x21, 0x11, &ends());
    assert_eq!(read_exactly(&accept(&upstream), header.len() + 1), [&header[..], b"!"].concat());

    // The deep check is nobody's.
    for (bridge, header) in [(&text, None), (&binary, Some(v2(0x20, 0, &[])))] {
        assert_eq!(bridge.get("/healthz/deep").status, 200);
        let check = accept(&upstream);
        let (from, to) = (check.peer_addr().unwrap(), check.local_addr().unwrap());
        let own = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", from.port(), to.port());
        assert_eq!(read_to_the_end(&check).0, header.unwrap_or(own.into_bytes()));
    }
}

#[test]
fn haproxy_introduces_its_clients_and_its_checks_are_no_rejections() {
    for option in ["send-proxy", "send-proxy-v2", "send-proxy-v2 check inter 50ms"] {
        let bridge = trusting_haproxy("tcp", echo()).start();
        let Some(haproxy) = HaProxy::start(bridge.listen, option) else { return };
        let checks = if option.contains("check") { 3 } else { 0 };
        let is_check = |record: &support::bridge::CloseRecord| record.0["peer"].is_null();
        until("it has checked", || {
            let records = bridge.close_records(0);
            (records.iter().filter(|record| is_check(record)).count() >= checks).then_some(())
        });
        let mut client = connect_from(STRANGER, haproxy.address);
        let from = client.local_addr().unwrap();
        client.write_all(b"flow").unwrap();
        assert_eq!(read_exactly(&client, 4), b"flow");
        drop(client);
        let record = until("the client's record", || {
            bridge.close_records(0).into_iter().find(|record| !is_check(record))
        });
        assert_eq!(record.text("client"), from.to_string(), "{option}");
        assert!(record.text("peer").starts_with("127.0.0.1:"), "{option}: {}", record.0);
        assert_eq!(rejected(&bridge), 0.0, "{option}");
    }
}

#[test]
fn mariadb_sees_the_clients_of_a_load_balancer_and_takes_our_checks_as_ours() {
    let Some(db) = MariaDb::start(&["--proxy-protocol-networks=127.0.0.1"]) else { return };
    for version in ["v1", "v2"] {
        let bridge =
            trusting("mysql", db.address()).flags(&["--send-proxy-protocol", version]).start();
        let who = "SELECT USER(), host FROM information_schema.processlist \
                   WHERE id = CONNECTION_ID()";
        let balancer = balancer(bridge.listen, BALANCER, LINE);
        assert_eq!(db.query(balancer.port(), who), "app@192.0.2.7\t192.0.2.7:4242");
        let balancer = balancer_without_header(bridge.listen, STRANGER);
        let seen = db.query(balancer.port(), who);
        assert!(seen.starts_with("app@127.0.0.3\t127.0.0.3:"), "{seen}");
        // A log-in that is refused, in the words for the client's own host.
        let mut wrong = db.client(balancer.port());
        wrong.args(["--password=wrong", "--execute", "SELECT 1"]);
        let refusal = output(wrong).stderr;
        let refusal = String::from_utf8(refusal).unwrap();
        assert!(refusal.contains("'app'@'127.0.0.3'"), "{refusal}");
        assert_eq!(bridge.get("/healthz/deep").status, 200, "{version}");
    }
    // The one is the test's own look at whether the server greets.
    let interrupted = "SHOW GLOBAL STATUS LIKE 'Aborted_connects_preauth'";
    assert_eq!(db.query(db.port, interrupted), "Aborted_connects_preauth\t1");
}

#[test]
fn a_client_is_known_all_the_way_through_haproxy_and_the_bridge_to_mariadb() {
    let Some(db) = MariaDb::start(&["--proxy-protocol-networks=127.0.0.1"]) else { return };
    let bridge =
        trusting_haproxy("mysql", db.address()).flags(&["--send-proxy-protocol", "v2"]).start();
    let Some(haproxy) = HaProxy::start(bridge.listen, "send-proxy-v2") else { return };
    let client = balancer_without_header(haproxy.address, STRANGER);
    assert_eq!(db.query(client.port(), "SELECT USER()"), "app@127.0.0.3");
}

/// A bridge that reads headers from [`BALANCER`], and from nobody else.
fn trusting(protocol: &str, gateway: SocketAddr) -> Setup {
    Bridge::to(gateway).flags(&["--protocol", protocol, "--proxy-protocol-from", "127.0.0.2/32"])
}

/// The same for a real one, which connects from where it likes.
fn trusting_haproxy(protocol: &str, gateway: SocketAddr) -> Setup {
    Bridge::to(gateway).flags(&["--protocol", protocol, "--proxy-protocol-from", "127.0.0.1"])
}

/// A connection that begins with `header` and is relayed.
fn served(from: &str, bridge: &Bridge, header: &[u8]) -> TcpStream {
    let mut client = connect_from(from, bridge.listen);
    client.write_all(&[header, b"!"].concat()).unwrap();
    assert_eq!(read_exactly(&client, 1), b"!");
    client
}

/// A connection that begins with `header` and is reset.
fn turned_away(from: &str, bridge: &Bridge, header: &[u8]) {
    let end = try_connect_from(from, bridge.listen).and_then(|mut client| {
        // Fails when it has been reset already.
        let _ = client.write_all(header);
        client.read(&mut [0]).map(drop)
    });
    assert!(is_reset(&end), "{end:?}");
}

/// A header of version 1 that names a client.
fn of_client(host: &str) -> Vec<u8> {
    format!("PROXY TCP4 {host} 203.0.113.1 4242 3306\r\n").into_bytes()
}

fn rejected(bridge: &Bridge) -> f64 {
    rejected_for(bridge, "proxy_header")
}

fn rejected_for(bridge: &Bridge, reason: &str) -> f64 {
    let labels = [("listener", "127.0.0.1:0"), ("reason", reason)];
    bridge.metrics().sum("tidegate_connections_rejected_total", &labels)
}

fn nobody_connects(listener: &TcpListener) -> bool {
    listener.set_nonblocking(true).unwrap();
    listener.accept().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// A header of version 2 around `rest`.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() as u16).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
}

/// What [`LINE`] says, as version 2 says it.
fn ends() -> Vec<u8> {
    let ports = [4242_u16.to_be_bytes(), 3306_u16.to_be_bytes()].concat();
    [&[192, 0, 2, 7, 203, 0, 113, 1], &ports[..]].concat()
}

/// A load balancer of our own: connects from an address and begins with some bytes.
fn balancer(to: SocketAddr, from: &'static str, header: &'static [u8]) -> SocketAddr {
    serve(&listener(), move |client| {
        let mut server = connect_from(from, to);
        server.write_all(header).unwrap();
        let (mut from_client, mut to_server) =
            (client.try_clone().unwrap(), server.try_clone().unwrap());
        let up = thread::spawn(move || {
            // Ends when either side does.
            let _ = io::copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Write);
        });
        let (mut from_server, mut to_client) = (server, client);
        let _ = io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
        up.join().unwrap();
    })
}

/// The same without a header: what connects from `from` is the client itself.
fn balancer_without_header(to: SocketAddr, from: &'static str) -> SocketAddr {
    balancer(to, from, b"")
}

/// A real HAProxy with one server; it ends with the value.
struct HaProxy {
    address: SocketAddr,
    _process: Process,
    _config: tempfile::TempPath,
}

impl HaProxy {
    /// Nothing, with the reason printed, where it is not installed.
    fn start(server: SocketAddr, options: &str) -> Option<Self> {
        if !installed("haproxy") {
            skip("no `haproxy` here (Debian package haproxy)");
            return None;
        }
        let mut config = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        // Between finding a port and using it somebody else may take it.
        for _ in 0..5 {
            let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
            let text = format!(
                "global\n  maxconn 100\n\
                 defaults\n  mode tcp\n  timeout connect 30s\n  timeout client 30s\n  timeout server 30s\n\
                 listen bridge\n  bind {address}\n  server bridge {server} {options}\n"
            );
            fs::write(&config, text).unwrap();
            let mut haproxy = command("haproxy");
            haproxy.args(["-db", "-q", "-f", config.to_str().unwrap()]);
            let mut process = Process::spawn(haproxy);
            let listens = until("HAProxy listens or ends", || {
                if process.has_ended().is_some() {
                    return Some(false);
                }
                is_listened_on(address).then_some(true)
            });
            if listens {
                return Some(Self { address, _process: process, _config: config });
            }
            config = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        }
        panic!("HAProxy does not start");
    }
}
