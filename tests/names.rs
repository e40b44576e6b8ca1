//! Names: how a gateway is resolved, followed, and kept when DNS fails.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;

use hickory_resolver::proto::rr::RecordType;
use tidegate::demo::dns::DnsServer;

use support::bridge::{Bridge, Setup};
use support::namespace::Namespace;
use support::tcp::{connect, read_to_the_end, serve};
use support::{until, until_it};

const NAME: &str = "gateway01-privatelink.test-1.prod.aws.tidbcloud.test";

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
fn an_answer_is_not_asked_for_again_before_its_ttl_has_passed() {
    let upstreams = Upstreams::at(&["127.0.0.2"]);
    let dns = dns();
    dns.set(NAME, &ips(&["127.0.0.2"]), 60);
    let bridge = upstreams.bridge(&dns, "").start();
    for _ in 0..50 {
        assert_eq!(who_answers(&bridge), "127.0.0.2");
    }
    assert_eq!((dns.queries(RecordType::A), dns.queries(RecordType::AAAA)), (1, 1));
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
    assert_eq!((dns.queries(RecordType::A), dns.queries(RecordType::AAAA)), (1, 1));
}

#[test]
fn ipv6_addresses_are_dialled_too() {
    let Ok(upstream) = TcpListener::bind("[::1]:0") else {
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
fn failed_and_empty_answers_keep_the_addresses_that_are_known() {
    let upstreams = Upstreams::at(&["127.0.0.2"]);
    let dns = dns();
    dns.set(NAME, &ips(&["127.0.0.2"]), 1);
    let bridge = upstreams.bridge(&dns, "min_ttl = \"1s\"").start();
    assert_eq!(who_answers(&bridge), "127.0.0.2");
    let lookups =
        |result: &str| bridge.metrics().sum("tidegate_dns_lookups_total", &[("result", result)]);

    dns.set(NAME, &[], 1);
    until("an empty answer", || (lookups("empty") > 0.0).then_some(()));
    assert_eq!(who_answers(&bridge), "127.0.0.2");

    drop(dns);
    let failed = || lookups("timeout") + lookups("error");
    until("a failed look-up", || (failed() > 0.0).then_some(()));
    assert_eq!(who_answers(&bridge), "127.0.0.2");

    assert_eq!(bridge.get("/readyz").status, 200);
    let told = bridge.log().iter().filter(|line| line.contains("has neither A nor AAAA")).count();
    assert_eq!(told, 1, "a cause is logged once: {:#?}", bridge.log());
    assert!(bridge.get("/status.json").body.contains("\"dns_error\": \"no DNS server"));
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

/// Servers on one port of several loopback addresses; each says its address and closes.
struct Upstreams {
    port: u16,
}

impl Upstreams {
    fn at(hosts: &[&'static str]) -> Self {
        let listeners: Vec<TcpListener> = until("a port that is free at all addresses", || {
            let first = TcpListener::bind((hosts[0], 0)).unwrap();
            let port = first.local_addr().unwrap().port();
            let others = hosts[1..].iter().map(|host| TcpListener::bind((*host, port)).ok());
            [Some(first)].into_iter().chain(others).collect()
        });
        for (listener, host) in listeners.iter().zip(hosts.iter().copied()) {
            serve(listener, move |mut stream| drop(stream.write_all(host.as_bytes())));
        }
        Self { port: listeners[0].local_addr().unwrap().port() }
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
