//! Names: how a gateway is resolved, followed, and kept when DNS fails.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::RecordType;
use serde_json::Value;
use tidegate::demo::dns::{DnsServer, Lie, Transport};

use support::bridge::{Bridge, Setup};
use support::namespace::Namespace;
use support::tcp::{connect, free_port, listen_at, read_exactly, read_to_the_end, serve};
use support::{until, until_it};

const NAME: &str = "gateway01-privatelink.test-1.prod.aws.tidbcloud.test";

/// What a client waits at most by default.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);

#[test]
fn an_answer_is_followed_when_its_ttl_has_passed() {
    let upstreams = Upstreams::at(&["127.0.0.2", "127.0.0.3"]);
    let dns = dns();
    dns.set(NAME, &ips(&["127.0.0.2"]), 1);
    let bridge = upstreams.bridge(&dns, "min_ttl = \"1s\"").start();
    assert_eq!(who_answers(&bridge), "127.0.0.2");

    dns.set(NAME, &ips(&["127.0.0.3"]), 1);

    let answer = || who_answers(&bridge);
    until_it("the new address answers", answer, |seen| seen == "127.0.0.3");
    assert!(bridge.close_records(2).iter().all(|record| record.text("side") == "upstream"));
}

#[test]
fn an_open_session_outlives_the_answer_it_was_dialled_by() {
    let say_and_echo = |mut stream: TcpStream, host: &'static str| {
        stream.write_all(host.as_bytes()).unwrap();
        let _ = io::copy(&mut &stream, &mut &stream);
    };
    let upstreams = Upstreams::serving(&["127.0.0.2", "127.0.0.3"], say_and_echo);
    let greeted_by = |stream: &TcpStream| String::from_utf8(read_exactly(stream, 9)).unwrap();
    let dns = dns();
    dns.set(NAME, &ips(&["127.0.0.2"]), 1);
    let bridge = upstreams.bridge(&dns, "min_ttl = \"1s\"").start();
    let mut old = connect(bridge.listen);
    assert_eq!(greeted_by(&old), "127.0.0.2");

    dns.set(NAME, &ips(&["127.0.0.3"]), 1);

    let new = || greeted_by(&connect(bridge.listen));
    until_it("the new address answers", new, |seen| seen == "127.0.0.3");
    for _ in 0..5 {
        assert_eq!(new(), "127.0.0.3");
    }
    old.write_all(b"still here").unwrap();
    assert_eq!(read_exactly(&old, 10), b"still here");
}

#[test]
fn a_thousand_connections_within_a_ttl_are_one_look_up() {
    let upstreams = Upstreams::at(&["127.0.0.2"]);
    let dns = dns();
    dns.set(NAME, &ips(&["127.0.0.2"]), 60);
    let bridge = upstreams.bridge(&dns, "").start();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..125).for_each(|_| assert_eq!(who_answers(&bridge), "127.0.0.2")));
        }
    });
    assert_asked_once(&dns);
}

#[test]
fn a_ttl_of_zero_is_not_a_query_for_each_connection() {
    let upstreams = Upstreams::at(&["127.0.0.2"]);
    let dns = dns();
    dns.set(NAME, &ips(&["127.0.0.2"]), 0);
    let bridge = upstreams.bridge(&dns, "min_ttl = \"60s\"").start();
    for _ in 0..50 {
        assert_eq!(who_answers(&bridge), "127.0.0.2");
    }
    assert_asked_once(&dns);
}

#[test]
fn ipv6_addresses_are_dialled_too() {
    let Ok(upstream) = TcpListener::bind(("::1", free_port())) else {
        return support::skip("this host has no IPv6");
    };
    serve(&upstream, |mut stream| drop(stream.write_all(b"::1")));
    let dns = dns();
    // Nobody listens at the IPv4 address.
    dns.set(NAME, &ips(&["127.0.0.2", "::1"]), 60);
    let upstreams = Upstreams { port: upstream.local_addr().unwrap().port() };
    let bridge = upstreams.bridge(&dns, "").start();
    assert_eq!(who_answers(&bridge), "::1");
    assert_eq!(bridge.close_record().text("endpoint"), format!("[::1]:{}", upstreams.port));
}

#[test]
fn ipv6_addresses_alone_are_enough() {
    let Ok(upstream) = TcpListener::bind(("::1", free_port())) else {
        return support::skip("this host has no IPv6");
    };
    serve(&upstream, |mut stream| drop(stream.write_all(b"::1")));
    let dns = dns();
    dns.set(NAME, &ips(&["::1"]), 60);
    let upstreams = Upstreams { port: upstream.local_addr().unwrap().port() };
    let bridge = upstreams.bridge(&dns, "").start();
    assert_eq!(who_answers(&bridge), "::1");
    assert_eq!(bridge.metrics().sum("tidegate_dns_lookups_total", &[("result", "ok")]), 1.0);
}

/// The failures of DNS: what is answered, the `result` that it is counted as, and its cause.
///
/// An answer that does not fit the question may be anybody's, so it is as good as none.
macro_rules! failures {
    ($($name:ident: $lie:expr, $result:literal, $cause:literal;)*) => {
        mod a_known_set_is_kept_on {
            use super::*;
            $(#[test] fn $name() { keeps_the_known_set($lie, $result, $cause); })*
        }
        mod a_start_is_not_ready_but_alive_on {
            use super::*;
            $(#[test] fn $name() { starts_unready_and_recovers($lie, $result, $cause); })*
        }
    };
}

failures! {
    nxdomain: Lie::NxDomain, "nxdomain", "does not exist (NXDOMAIN)";
    nodata: Lie::NoData, "empty", "has neither A nor AAAA records";
    servfail: Lie::ServFail, "servfail", "(SERVFAIL)";
    refused: Lie::Refused, "refused", "(REFUSED)";
    garbage: Lie::Garbage, "malformed", "is malformed";
    silence: Lie::Silence, "timeout", "no DNS server answered";
    a_wrong_id: Lie::WrongId, "timeout", "no DNS server answered";
    a_wrong_question: Lie::WrongQuestion, "timeout", "no DNS server answered";
}

fn keeps_the_known_set(lie: Lie, result: &str, cause: &str) {
    let upstreams = Upstreams::at(&["127.0.0.2"]);
    let dns = dns();
    dns.set(NAME, &ips(&["127.0.0.2"]), 1);
    let bridge = upstreams.bridge(&dns, "min_ttl = \"1s\"").start();
    assert_eq!(who_answers(&bridge), "127.0.0.2");

    dns.lie(NAME, lie);

    // The second one is a retry that fails alike.
    until_it("two failures", || lookups(&bridge, result), |count| *count >= 2.0);
    assert_eq!(failures(&bridge), [result], "it is counted as what it is");
    assert_eq!(who_answers(&bridge), "127.0.0.2");
    assert_eq!(bridge.get("/readyz").status, 200);
    assert_told_once(&bridge, cause);
    let shown = dns_error(&bridge);
    assert!(shown.as_str().is_some_and(|shown| shown.contains(cause)), "{shown}");
}

fn starts_unready_and_recovers(lie: Lie, result: &str, cause: &str) {
    let greeting = greeting();
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    let said = greeting.clone();
    let address = serve(&listener, move |mut stream| {
        stream.write_all(&said).unwrap();
        let _ = io::copy(&mut &stream, &mut io::sink());
    });
    let dns = dns();
    dns.set(NAME, &ips(&["127.0.0.2"]), 60);
    dns.lie(NAME, lie);
    let bridge = Bridge::to(format!("{NAME}:{}", address.port()))
        .flags(&["--nameserver", &dns.address().to_string()])
        .start();

    // This client waits for the first look-up.
    let (heard, _) = read_to_the_end(&connect(bridge.listen));
    let text = String::from_utf8_lossy(&heard);
    assert_eq!(heard[4..7], *b"\xff\xd3\x07", "an ERR with code 2003: {text}");
    assert!(text.contains(NAME) && text.contains(cause), "{text}");
    let ready = bridge.get("/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains(cause), "{}", ready.body);
    assert_eq!(bridge.get("/livez").status, 200);
    assert_eq!(failures(&bridge), [result], "it is counted as what it is");

    dns.end_lies(NAME);

    until("it is ready by itself", || (bridge.get("/readyz").status == 200).then_some(()));
    assert_eq!(read_exactly(&connect(bridge.listen), greeting.len()), greeting);
    assert_eq!(dns_error(&bridge), Value::Null);
    assert_told_once(&bridge, cause);
}

mod the_second_server_is_asked_when_the_first {
    use super::*;

    #[test]
    fn is_silent() {
        resolves_despite(Lie::Silence);
    }

    #[test]
    fn says_servfail() {
        resolves_despite(Lie::ServFail);
    }

    #[test]
    fn says_refused() {
        resolves_despite(Lie::Refused);
    }

    #[test]
    fn says_garbage() {
        resolves_despite(Lie::Garbage);
    }

    #[test]
    fn answers_another_question() {
        resolves_despite(Lie::WrongId);
    }

    #[test]
    fn is_not_there() {
        // No other test takes ports of this address.
        let gone = DnsServer::start("127.0.99.1:0".parse().unwrap()).unwrap().address();
        resolves_through(&[gone]);
    }

    #[test]
    fn is_not_there_nor_the_second_well() {
        let gone = DnsServer::start("127.0.99.2:0".parse().unwrap()).unwrap().address();
        let second = dns();
        second.lie(NAME, Lie::ServFail);
        resolves_through(&[gone, second.address()]);
    }

    fn resolves_despite(lie: Lie) {
        let first = dns();
        first.lie(NAME, lie);
        resolves_through(&[first.address()]);
        assert!(first.queries(RecordType::A) >= 1, "they are asked in their order");
    }

    /// Puts a good server behind these.
    fn resolves_through(bad: &[SocketAddr]) {
        let upstreams = Upstreams::at(&["127.0.0.2"]);
        let good = dns();
        good.set(NAME, &ips(&["127.0.0.2"]), 60);
        let servers: Vec<_> = bad.iter().chain([&good.address()]).map(|s| s.to_string()).collect();
        let setup = servers
            .iter()
            .fold(Bridge::tcp(format!("{NAME}:{}", upstreams.port)), |setup, server| {
                setup.flags(&["--nameserver", server])
            });
        let bridge = setup.start();
        let started = Instant::now();
        assert_eq!(who_answers(&bridge), "127.0.0.2");
        assert!(started.elapsed() < DIAL_DEADLINE, "{:?}", started.elapsed());
        assert_eq!(failures(&bridge), [""; 0]);
    }
}

#[test]
fn what_the_first_server_denies_is_not_asked_of_the_second() {
    let (first, second) = (dns(), dns());
    second.set(NAME, &ips(&["127.0.0.2"]), 60);
    let bridge = Bridge::tcp(format!("{NAME}:4000"))
        .flags(&["--nameserver", &first.address().to_string()])
        .flags(&["--nameserver", &second.address().to_string()])
        .start();
    until("the answer is believed", || {
        bridge.get("/readyz").body.contains("NXDOMAIN").then_some(())
    });
}

#[test]
fn one_type_that_fails_keeps_its_addresses_and_does_not_hold_back_the_other() {
    let upstreams = Upstreams::at(&["127.0.0.2"]);
    let dns = dns();
    dns.set(NAME, &ips(&["127.0.0.2"]), 1);
    let bridge = upstreams.bridge(&dns, "min_ttl = \"1s\"").start();
    assert_eq!(who_answers(&bridge), "127.0.0.2");

    dns.lie_about(NAME, RecordType::A, Lie::ServFail);
    dns.set(NAME, &ips(&["127.0.0.2", "::1"]), 1);

    let port = upstreams.port;
    let shown = || bridge.get("/status.json").body;
    until_it("the IPv6 address", shown, |seen| seen.contains(&format!("\"[::1]:{port}\"")));
    assert!(shown().contains(&format!("\"127.0.0.2:{port}\"")), "{}", shown());
    assert!(lookups(&bridge, "partial") >= 1.0);
    assert_eq!(who_answers(&bridge), "127.0.0.2");
}

#[test]
fn one_type_that_is_never_answered_does_not_hold_back_the_other() {
    let upstreams = Upstreams::at(&["127.0.0.2"]);
    let dns = dns();
    dns.set(NAME, &ips(&["127.0.0.2"]), 60);
    dns.lie_about(NAME, RecordType::AAAA, Lie::Silence);
    let bridge = upstreams.bridge(&dns, "").start();
    let started = Instant::now();
    assert_eq!(who_answers(&bridge), "127.0.0.2");
    assert!(started.elapsed() < DIAL_DEADLINE, "{:?}", started.elapsed());
    assert!(lookups(&bridge, "partial") >= 1.0);
}

#[test]
fn one_type_that_is_never_answered_is_asked_for_less_and_less_often() {
    let upstreams = Upstreams::at(&["127.0.0.2"]);
    let dns = dns();
    dns.set(NAME, &ips(&["127.0.0.2"]), 60);
    dns.lie_about(NAME, RecordType::AAAA, Lie::Refused);
    let bridge = upstreams.bridge(&dns, "min_ttl = \"1s\"").start();
    let partial = || lookups(&bridge, "partial");
    let left = || upstream_status(&bridge)["ttl_left_seconds"].as_u64();
    until_it("it is asked again soon", partial, |count| *count >= 2.0);
    // From the shortest TTL of a second up to the answer's minute.
    until_it("it is asked again after seconds", left, |left| *left >= Some(3));
}

#[test]
fn a_slow_answer_is_waited_for() {
    let upstreams = Upstreams::at(&["127.0.0.2"]);
    let dns = dns();
    dns.set(NAME, &ips(&["127.0.0.2"]), 60);
    // Later than hickory's first repetition of a datagram.
    dns.lie(NAME, Lie::Late(Duration::from_millis(1_500)));
    let bridge = upstreams.bridge(&dns, "").start();
    assert_eq!(who_answers(&bridge), "127.0.0.2");
    assert_eq!(failures(&bridge), [""; 0]);
}

#[test]
fn a_truncated_answer_is_asked_for_over_tcp() {
    let upstreams = Upstreams::at(&["127.0.0.2"]);
    let dns = dns();
    dns.set(NAME, &ips(&["127.0.0.2"]), 60);
    dns.lie(NAME, Lie::Truncated);
    let bridge = upstreams.bridge(&dns, "").start();
    assert_eq!(who_answers(&bridge), "127.0.0.2");
    for transport in [Transport::Udp, Transport::Tcp] {
        assert!(dns.queries_over(transport, RecordType::A) >= 1, "{transport:?}");
    }
}

#[test]
fn three_hundred_addresses_are_all_taken() {
    let dns = dns();
    let bridge = many_addresses(&dns, 300);
    assert!(dns.queries_over(Transport::Tcp, RecordType::A) >= 1);
    assert_eq!(dns.queries_over(Transport::Tcp, RecordType::AAAA), 0);
    assert_eq!(bridge.get("/readyz").status, 200);
}

#[test]
fn fifty_addresses_fit_into_a_datagram_by_edns() {
    let dns = dns();
    many_addresses(&dns, 50);
    assert!(dns.queries_over(Transport::Udp, RecordType::A) >= 1);
    assert_eq!(dns.queries_over(Transport::Tcp, RecordType::A), 0);
}

/// A bridge to a name of so many addresses, all of which are shown, and one of which has answered.
fn many_addresses(dns: &DnsServer, count: u32) -> Bridge {
    // Every address of 127.0.0.0/8 is this host's.
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    serve(&listener, |mut stream| drop(stream.write_all(b"one of many")));
    let upstreams = Upstreams { port: listener.local_addr().unwrap().port() };
    let first = u32::from(Ipv4Addr::new(127, 7, 0, 1));
    let addresses: Vec<_> = (first..first + count).map(|ip| Ipv4Addr::from(ip).into()).collect();
    dns.set(NAME, &addresses, 60);
    let bridge = upstreams.bridge(dns, "").start();
    assert_eq!(who_answers(&bridge), "one of many");
    let status = bridge.get("/status.json").body;
    for ip in addresses {
        let address = format!("\"{ip}:{}\"", upstreams.port);
        assert!(status.contains(&address), "no {address} in {status}");
    }
    bridge
}

#[test]
fn the_lowest_ttl_of_a_cname_chain_counts() {
    the_lowest_ttl_counts(&Lie::Chain(vec![300, 20, 200]));
}

#[test]
fn the_lowest_ttl_of_a_cname_chain_counts_that_is_told_link_by_link() {
    the_lowest_ttl_counts(&Lie::Links(vec![300, 20, 200]));
}

fn the_lowest_ttl_counts(chain: &Lie) {
    let upstreams = Upstreams::at(&["127.0.0.2"]);
    let dns = dns();
    dns.set(NAME, &ips(&["127.0.0.2"]), 100);
    dns.lie(NAME, chain.clone());
    let bridge = upstreams.bridge(&dns, "").start();
    assert_eq!(who_answers(&bridge), "127.0.0.2");
    let left = upstream_status(&bridge)["ttl_left_seconds"].as_u64().unwrap();
    assert!((1..=20).contains(&left), "{left} seconds left");
    assert_eq!(failures(&bridge), [""; 0]);
}

#[test]
fn a_cname_chain_that_ends_nowhere_says_so() {
    let dns = dns();
    dns.set(NAME, &[], 60);
    dns.lie(NAME, Lie::Chain(vec![60, 60]));
    let bridge = Bridge::tcp(format!("{NAME}:4000"))
        .flags(&["--nameserver", &dns.address().to_string()])
        .start();
    until("the look-up fails", || (lookups(&bridge, "empty") > 0.0).then_some(()));
    assert!(bridge.get("/readyz").body.contains("has neither A nor AAAA records"));
}

#[test]
fn a_name_that_does_not_exist_is_what_the_client_is_told() {
    let dns = dns();
    let bridge = Bridge::to(format!("{NAME}:4000"))
        .flags(&["--nameserver", &dns.address().to_string()])
        .start();
    let (heard, _) = read_to_the_end(&connect(bridge.listen));
    let text = format!("tidegate: cannot reach {NAME}:4000: {NAME} does not exist (NXDOMAIN)");
    // Length, sequence id 0, the ERR marker, code 2003, and no SQLSTATE before the handshake.
    let length = (3 + text.len()) as u32;
    let expected = [&length.to_le_bytes()[..3], b"\0\xff\xd3\x07", text.as_bytes()].concat();
    assert_eq!(String::from_utf8_lossy(&heard), String::from_utf8_lossy(&expected));
}

#[test]
fn when_a_name_was_last_resolved_is_0_before_and_not_told_where_there_is_no_name() {
    let dns = dns();
    let file = |section: &str, gateway: &str| {
        format!(
            "admin = \"127.0.0.1:0\"\nnameserver = \"{}\"\n[[listener]]\nbind = \"127.0.0.1:0\"\n\
             [upstream.{section}]\ngateway = \"{gateway}:4000\"\n",
            dns.address()
        )
    };
    let bridge = Bridge::from_file(&file("a", NAME)).start();
    let told = || {
        let metrics = bridge.metrics();
        let samples = metrics.samples("tidegate_dns_last_success_timestamp_seconds", &[]);
        let told =
            samples.iter().map(|sample| (sample.labels["upstream"].clone(), sample.value > 0.0));
        told.collect::<Vec<_>>()
    };
    let reload = |section, gateway| {
        bridge.rewrite(&file(section, gateway));
        assert!(bridge.reload().contains("\"reloaded\""));
    };
    assert_eq!(told(), [("a".into(), false)]);
    dns.set(NAME, &ips(&["127.0.0.2"]), 60);
    until_it("it is resolved", told, |told| *told == [("a".into(), true)]);
    reload("a", "other.test");
    assert_eq!(told(), [("a".into(), false)]);
    reload("b", NAME);
    until_it("it is resolved", told, |told| *told == [("b".into(), true)]);
    reload("b", "127.0.0.1");
    assert_eq!(told(), []);
}

#[test]
fn without_a_nameserver_the_systems_servers_and_search_domains_count() {
    let Some(namespace) = Namespace::new().map(Arc::new) else { return };
    let dns = namespace.enter(|| DnsServer::start("127.0.0.1:53".parse().unwrap()).unwrap());
    dns.set("gateway.corp.test", &ips(&["127.0.0.9"]), 60);
    let listener = namespace.enter(|| TcpListener::bind("127.0.0.9:4000").unwrap());
    serve(&listener, |mut stream| drop(stream.write_all(b"searched")));
    let bridge = Bridge::tcp("gateway:4000")
        .inside(&namespace)
        .with_etc(&[("resolv.conf", "search corp.test\nnameserver 127.0.0.1\n")])
        .start();
    let (heard, _) = read_to_the_end(&namespace.connect(bridge.listen));
    assert_eq!(String::from_utf8_lossy(&heard), "searched");
}

#[test]
fn the_hosts_file_counts_and_needs_no_server() {
    let Some(namespace) = Namespace::new().map(Arc::new) else { return };
    let listener = namespace.enter(|| TcpListener::bind("127.0.0.9:4000").unwrap());
    serve(&listener, |mut stream| drop(stream.write_all(b"from hosts")));
    let bridge = Bridge::tcp("gateway.corp.test:4000")
        .inside(&namespace)
        .with_etc(&[
            ("resolv.conf", "nameserver 127.0.0.1\n"),
            ("hosts", "127.0.0.9 gateway.corp.test\n"),
        ])
        .start();
    let (heard, _) = read_to_the_end(&namespace.connect(bridge.listen));
    assert_eq!(String::from_utf8_lossy(&heard), "from hosts");
}

#[test]
fn what_the_hosts_file_has_of_a_name_is_all_there_is() {
    let Some(host) = Searching::new() else { return };
    host.dns[0].set("db", &ips(&["::1"]), 60);
    host.dns[0].set("db.corp.test", &ips(&["127.0.0.66"]), 60);
    let bridge = host.bridge("db", "127.0.0.9 db\n");
    assert_eq!(host.addresses(&bridge), ["127.0.0.9:4000"]);
    let asked = [RecordType::A, RecordType::AAAA].map(|kind| host.dns[0].queries(kind));
    assert_eq!(asked, [0, 0]);
}

#[test]
fn a_failure_is_asked_of_the_next_server_and_not_under_a_search_domain() {
    let Some(host) = Searching::new() else { return };
    host.dns[0].lie(NAME, Lie::ServFail);
    host.dns[0].set(&format!("{NAME}.corp.test"), &ips(&["127.0.0.66"]), 60);
    host.dns[1].set(NAME, &ips(&["127.0.0.9"]), 60);
    let bridge = host.bridge(NAME, "");
    assert_eq!(host.addresses(&bridge), ["127.0.0.9:4000"]);
    assert_eq!(failures(&bridge), [""; 0]);
}

#[test]
fn a_search_domain_that_is_out_of_order_does_not_hide_the_name_itself() {
    let Some(host) = Searching::new() else { return };
    host.dns.iter().for_each(|dns| dns.lie("db.corp.test", Lie::ServFail));
    let bridge = host.bridge("db", "");
    until("the failure counts", || (failures(&bridge) == ["servfail"]).then_some(()));
    host.dns[0].set("db", &ips(&["127.0.0.9"]), 60);
    assert_eq!(host.addresses(&bridge), ["127.0.0.9:4000"]);
}

#[test]
fn a_search_domain_adds_nothing_to_a_name_that_exists_and_never_takes_its_place() {
    let Some(host) = Searching::new() else { return };
    host.dns[0].set(NAME, &ips(&["127.0.0.9"]), 1);
    host.dns[0].set(&format!("{NAME}.corp.test"), &ips(&["127.0.0.66", "::1"]), 60);
    let bridge = host.bridge(NAME, "");
    assert_eq!(host.addresses(&bridge), ["127.0.0.9:4000"]);

    host.dns[0].lie(NAME, Lie::NxDomain);

    until_it("a failure", || lookups(&bridge, "nxdomain"), |count| *count >= 1.0);
    assert_eq!(host.addresses(&bridge), ["127.0.0.9:4000"]);

    // Nor after a reload that changes the upstream.
    bridge.rewrite(&host.file(NAME, "dial_deadline = \"7s\""));
    assert!(bridge.reload().contains("\"reloaded\""));
    let known = lookups(&bridge, "nxdomain");
    until_it("another failure", || lookups(&bridge, "nxdomain"), |count| *count > known);
    assert_eq!(host.addresses(&bridge), ["127.0.0.9:4000"]);
}

#[test]
fn a_change_of_resolv_conf_is_seen_without_a_restart() {
    let Some(namespace) = Namespace::new().map(Arc::new) else { return };
    let dns = namespace.enter(|| DnsServer::start("127.0.0.1:53".parse().unwrap()).unwrap());
    dns.set(NAME, &ips(&["127.0.0.9"]), 60);
    let setup = Bridge::tcp(format!("{NAME}:4000"))
        .inside(&namespace)
        .with_etc(&[("resolv.conf", "# no server yet\n")]);
    let resolv_conf = setup.etc("resolv.conf");
    let bridge = setup.start();
    until("the look-up fails", || {
        (bridge.get("/readyz").body.contains("resolv.conf")).then_some(())
    });

    fs::write(resolv_conf, "nameserver 127.0.0.1\n").unwrap();

    until("the name resolves", || (bridge.get("/readyz").status == 200).then_some(()));
}

/// A host with two DNS servers and the search domain `corp.test`.
struct Searching {
    namespace: Arc<Namespace>,
    dns: [DnsServer; 2],
}

impl Searching {
    /// Nothing where there are no network namespaces.
    fn new() -> Option<Self> {
        let namespace = Namespace::new().map(Arc::new)?;
        let server =
            |address: &str| namespace.enter(|| DnsServer::start(address.parse().unwrap()).unwrap());
        let dns = ["127.0.0.1:53", "127.0.0.2:53"].map(server);
        Some(Self { namespace, dns })
    }

    fn file(&self, gateway: &str, keys: &str) -> String {
        format!(
            "admin = \"127.0.0.1:0\"\n\
             [[listener]]\nbind = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n\
             [upstream.named]\ngateway = \"{gateway}:4000\"\nmin_ttl = \"1s\"\n{keys}\n"
        )
    }

    /// A bridge in here, with this hosts file.
    fn bridge(&self, gateway: &str, hosts: &str) -> Bridge {
        let resolv_conf = "search corp.test\nnameserver 127.0.0.1\nnameserver 127.0.0.2\n";
        Bridge::from_file(&self.file(gateway, ""))
            .inside(&self.namespace)
            .with_etc(&[("resolv.conf", resolv_conf), ("hosts", hosts)])
            .start()
    }

    /// What the bridge has resolved, once it has.
    fn addresses(&self, bridge: &Bridge) -> Vec<String> {
        until("it is resolved", || (bridge.get("/readyz").status == 200).then_some(()));
        let status = upstream_status(bridge);
        let endpoints = status["endpoints"].as_array().unwrap();
        endpoints.iter().map(|one| one["address"].as_str().unwrap().to_owned()).collect()
    }
}

/// Servers on one port of several loopback addresses; each says its address and closes.
struct Upstreams {
    port: u16,
}

impl Upstreams {
    fn at(hosts: &[&'static str]) -> Self {
        Self::serving(hosts, |mut stream, host| drop(stream.write_all(host.as_bytes())))
    }

    /// As [`Self::at`], but they do this instead.
    fn serving(hosts: &[&'static str], act: fn(TcpStream, &'static str)) -> Self {
        let (port, listeners) = listen_at(hosts);
        for (listener, host) in listeners.iter().zip(hosts.iter().copied()) {
            serve(listener, move |stream| act(stream, host));
        }
        Self { port }
    }

    /// A bridge to the name at their port, with more keys for its upstream.
    fn bridge(&self, dns: &DnsServer, keys: &str) -> Setup {
        Bridge::from_file(&format!(
            "admin = \"127.0.0.1:0\"\nnameserver = \"{}\"\n\
             [[listener]]\nbind = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n\
             [upstream.named]\ngateway = \"{NAME}:{}\"\n{keys}\n",
            dns.address(),
            self.port
        ))
    }
}

fn dns() -> DnsServer {
    let any_port: SocketAddr = "127.0.0.1:0".parse().unwrap();
    DnsServer::start(any_port).unwrap()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn who_answers(bridge: &Bridge) -> String {
    let (heard, end) = read_to_the_end(&connect(bridge.listen));
    end.unwrap();
    String::from_utf8(heard).unwrap()
}

/// One look-up is one query of each type, and another one where the machine was too busy to see the
/// answer before hickory asked again.
fn assert_asked_once(dns: &DnsServer) {
    for kind in [RecordType::A, RecordType::AAAA] {
        let asked = dns.queries(kind);
        assert!((1..=2).contains(&asked), "{asked} queries for {kind}");
    }
}

fn lookups(bridge: &Bridge, result: &str) -> f64 {
    bridge.metrics().sum("tidegate_dns_lookups_total", &[("result", result)])
}

/// What look-ups that ended without an address were counted as.
fn failures(bridge: &Bridge) -> Vec<String> {
    let metrics = bridge.metrics();
    let counted = metrics.samples("tidegate_dns_lookups_total", &[]);
    let results = counted.iter().filter(|sample| sample.value > 0.0);
    let results = results.map(|sample| sample.labels["result"].clone());
    results.filter(|result| !["ok", "partial"].contains(&result.as_str())).collect()
}

/// The status page's words about the only upstream.
fn upstream_status(bridge: &Bridge) -> Value {
    let status: Value = serde_json::from_str(&bridge.get("/status.json").body).unwrap();
    status["upstreams"][0].clone()
}

fn dns_error(bridge: &Bridge) -> Value {
    upstream_status(bridge)["dns_error"].clone()
}

/// However often it failed, the log tells it once.
fn assert_told_once(bridge: &Bridge, cause: &str) {
    let told = || -> Vec<String> {
        bridge.log().into_iter().filter(|line| line.contains("cannot resolve")).collect()
    };
    let told = until_it("the log tells it", told, |told| !told.is_empty());
    assert!(told.len() == 1 && told[0].contains(cause), "{told:#?}");
}

/// The first packet of a MySQL server.
fn greeting() -> Vec<u8> {
    let payload = [
        &b"\x0a8.0.11-test\0"[..],
        b"\x01\0\0\0",                   // connection id
        b"scramble\0",                   // its first half
        b"\x00\x82\x2d\x02\0\x08\0\x15", // PROTOCOL_41 | SECURE_CONNECTION, PLUGIN_AUTH, 21 bytes
        &[0; 10],
        b"second half!\0",
        b"mysql_native_password\0",
    ]
    .concat();
    [&(payload.len() as u32).to_le_bytes()[..3], b"\0", &payload].concat()
}
