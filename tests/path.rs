//! The path to a gateway: which endpoint is tried, what failures teach, and how long is waited.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tidegate::demo::dns::DnsServer;
use tidegate::mysql::packet::frame;

use support::bridge::{Bridge, Setup};
use support::mysql::{greeting, login};
use support::namespace::Namespace;
use support::tcp::{connect, listen_at, read_exactly, read_to_the_end, serve};
use support::{until, until_it};

const NAME: &str = "gateway01-privatelink.test-1.prod.aws.tidbcloud.test";

const VISITS: usize = 20;
/// How long an endpoint is alone before the next one is dialled as well.
const HEAD_START: Duration = Duration::from_millis(250);
/// How long one that failed is left aside before it is tried again.
const ASIDE: Duration = Duration::from_secs(10);

#[test]
fn a_public_address_is_refused_for_a_privatelink_name_and_the_client_is_told_why() {
    let gateway = Gateway::at(&[]).answers(&["203.0.113.7"]);
    let bridge = gateway.bridge("").start();
    let why =
        "resolves to the public address 203.0.113.7: the endpoint's private DNS is not enabled";
    until("the refusal", || bridge.get("/readyz").body.contains(why).then_some(()));
    let (heard, _) = read_to_the_end(&connect(bridge.listen));
    let text = String::from_utf8_lossy(&heard).into_owned();
    assert!(text.contains("tidegate: cannot reach") && text.contains(why), "{text}");
    assert!(text.contains("enableDnsHostnames"), "what to do: {text}");
}

#[test]
fn of_a_mixed_answer_only_the_private_addresses_are_dialled() {
    let gateway = Gateway::at(&["127.0.0.2"]).answers(&["203.0.113.7", "127.0.0.2"]);
    let bridge = gateway.bridge("").start();
    assert_eq!(gateway.who_answers(&bridge), "127.0.0.2");
    assert_eq!(addresses(&bridge), ["127.0.0.2"]);
}

#[test]
fn a_public_answer_does_not_replace_a_private_one() {
    let gateway = Gateway::at(&["127.0.0.2"]).answers(&["127.0.0.2"]);
    let bridge = gateway.bridge("").start();
    assert_eq!(gateway.who_answers(&bridge), "127.0.0.2");
    let gateway = gateway.answers(&["203.0.113.7"]);
    let refused = || bridge.metrics().sum("tidegate_dns_lookups_total", &[("result", "public")]);
    until("the refusal", || (refused() > 0.0).then_some(()));
    assert_eq!(gateway.who_answers(&bridge), "127.0.0.2");
}

#[test]
fn an_endpoint_that_does_not_answer_costs_one_head_start_and_then_nothing() {
    let gateway = Gateway::at(&["127.0.0.3"]);
    // The kernel accepts for it, and nobody ever greets: a load balancer whose zone is lost.
    let silent = TcpListener::bind(("127.0.0.2", gateway.port)).unwrap();
    let gateway = gateway.answers(&["127.0.0.2", "127.0.0.3"]);
    let bridge = gateway.bridge("").start();
    let due = dials_that_are_due(|| assert_eq!(gateway.who_answers(&bridge), "127.0.0.3"));
    silent.set_nonblocking(true).unwrap();
    let dialled = silent.incoming().map_while(Result::ok).count();
    assert!((1..=due).contains(&dialled), "it is dialled and then left aside: {dialled} of {due}");
    let endpoint = &endpoints(&bridge)[0];
    assert_eq!(endpoint["state"], "ejected");
    assert_eq!(endpoint["evidence"], "another endpoint answered sooner, dialled later");
}

#[test]
fn the_trials_of_a_lost_zone_with_many_addresses_hold_nobody_up() {
    let lost: Vec<String> = (2..11).map(|last| format!("127.0.0.{last}")).collect();
    let gateway = Gateway::at(&["127.0.0.99"]);
    let _silent: Vec<TcpListener> =
        lost.iter().map(|host| TcpListener::bind((host.as_str(), gateway.port)).unwrap()).collect();
    let all: Vec<&str> = lost.iter().map(String::as_str).chain(["127.0.0.99"]).collect();
    let gateway = gateway.answers(&all);
    let bridge = gateway.bridge("").start();
    assert_eq!(gateway.who_answers(&bridge), "127.0.0.99");
    let lost_ones = || endpoints(&bridge).into_iter().take(lost.len()).collect::<Vec<_>>();
    assert!(lost_ones().iter().all(|endpoint| endpoint["state"] == "ejected"));
    until("all of them are due for a trial", || {
        lost_ones().iter().all(|endpoint| endpoint["ejected_for_seconds"].is_null()).then_some(())
    });
    let started = Instant::now();
    assert_eq!(gateway.who_answers(&bridge), "127.0.0.99");
    // In their turns they would have had 250 ms each.
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[test]
fn a_zone_that_swallows_packets_costs_one_head_start_and_then_nothing() {
    let Some(namespace) = Namespace::new().map(Arc::new) else { return };
    let gateway =
        namespace.enter(|| Gateway::at(&["127.0.0.3"]).answers(&["127.0.0.2", "127.0.0.3"]));
    namespace.filter("ip daddr 127.0.0.2 drop");
    let bridge = gateway.bridge("connect_timeout = \"1s\"").inside(&namespace).start();
    let visit = || assert_eq!(namespace.enter(|| gateway.who_answers(&bridge)), "127.0.0.3");
    let due = dials_that_are_due(&visit);
    let timeouts =
        || bridge.metrics().sum("tidegate_dial_failures_total", &[("reason", "timeout")]);
    until("the one dial has timed out", || (timeouts() > 0.0).then_some(()));
    let failed = bridge.metrics().sum("tidegate_dial_failures_total", &[]);
    assert!((1.0..=due as f64).contains(&failed), "{failed} of {due}");
    assert_eq!(endpoints(&bridge)[0]["state"], "ejected");
    visit();
}

#[test]
fn an_endpoint_that_refused_is_tried_last_and_comes_back_after_a_trial() {
    let gateway = Gateway::at(&["127.0.0.3"]).answers(&["127.0.0.2", "127.0.0.3"]);
    let bridge = gateway.bridge("").start();
    assert_eq!(gateway.who_answers(&bridge), "127.0.0.3");
    assert_eq!(gateway.who_answers(&bridge), "127.0.0.3");
    let failures =
        || bridge.metrics().sum("tidegate_dial_failures_total", &[("reason", "refused")]);
    assert_eq!(failures(), 1.0, "only the first connection tried it");
    let gauge = |state: &str| bridge.metrics().sum("tidegate_endpoints", &[("state", state)]);
    assert_eq!((gauge("healthy"), gauge("ejected")), (1.0, 1.0));

    let _back = Gateway::host("127.0.0.2", gateway.port);

    // After 10 s one connection is its trial. On a busy machine it may answer before that, when the
    // other one is late.
    let visited = || {
        let who = gateway.who_answers(&bridge);
        (who, gauge("healthy"), gauge("ejected"))
    };
    until_it("it is back", visited, |seen| *seen == ("127.0.0.2".into(), 2.0, 0.0));
}

#[test]
fn when_every_endpoint_is_ejected_all_are_tried_and_it_is_said_once() {
    let gateway = Gateway::at(&[]).answers(&["127.0.0.2", "127.0.0.3"]);
    let bridge = gateway.bridge("").start();
    for _ in 0..3 {
        let (heard, _) = read_to_the_end(&connect(bridge.listen));
        let text = String::from_utf8_lossy(&heard).into_owned();
        assert!(text.contains("127.0.0.2:") && text.contains("127.0.0.3:"), "{text}");
    }
    let _back = Gateway::host("127.0.0.3", gateway.port);
    assert_eq!(gateway.who_answers(&bridge), "127.0.0.3");
    // Lines are written later than answers are given, but in their order.
    bridge.close_records(4);
    let told = bridge
        .log()
        .iter()
        .filter(|line| line.contains("every endpoint is ejected: trying all"))
        .count();
    assert_eq!(told, 1, "{:#?}", bridge.log());
}

#[test]
fn a_gateway_that_stays_down_is_told_of_once_although_it_is_tried_again() {
    let gateway = Gateway::at(&[]).answers(&["127.0.0.2"]);
    let bridge = gateway.bridge("").start();
    // The second ejection is longer than the first ever is: the trial has failed.
    until("its trial has failed", || {
        drop(read_to_the_end(&connect(bridge.listen)));
        let left = &endpoints(&bridge)[0]["ejected_for_seconds"];
        (left.as_u64() > Some(11)).then_some(())
    });
    let log = bridge.log();
    let told = |text| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!(told("every endpoint is ejected: trying all"), 1, "{log:#?}");
    assert_eq!(told("not every endpoint is ejected any more"), 0, "{log:#?}");
}

#[test]
fn an_endpoint_behind_a_healthy_one_comes_back_although_nobody_needs_it() {
    let gateway = Gateway::at(&[]).answers(&["127.0.0.2", "127.0.0.3"]);
    let first = TcpListener::bind(("127.0.0.2", gateway.port)).unwrap();
    let bridge = gateway.bridge("").start();
    let mut client = connect(bridge.listen);
    let mut greeter = support::tcp::accept(&first);
    // It has not greeted yet, so the second one is dialled too.
    until("the second one is ejected", || {
        (endpoints(&bridge)[1]["state"] == "ejected").then_some(())
    });
    greeter.write_all(&greeting()).unwrap();
    assert_eq!(read_exactly(&client, greeting().len()), greeting());
    client.write_all(&login()).unwrap();

    first.set_nonblocking(false).unwrap();
    let _first = Gateway::serve(first);
    let _second = Gateway::host("127.0.0.3", gateway.port);

    until("its trial has been answered", || {
        // The first one, but on a busy machine that is not certain.
        gateway.who_answers(&bridge);
        (endpoints(&bridge)[1]["state"] == "healthy").then_some(())
    });
}

#[test]
fn round_robin_gives_each_endpoint_its_turn() {
    let hosts = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
    let gateway = Gateway::at(&hosts).answers(&hosts);
    let bridge = gateway.bridge("balance = \"round-robin\"").start();
    let mut seen: Vec<String> = (0..9).map(|_| gateway.who_answers(&bridge)).collect();
    seen.sort();
    let expected: Vec<&str> = hosts.iter().flat_map(|host| [*host; 3]).collect();
    assert_eq!(seen, expected);
}

#[test]
fn least_connections_prefers_the_endpoint_with_the_fewest_sessions() {
    let hosts = ["127.0.0.2", "127.0.0.3"];
    let gateway = Gateway::at(&hosts).answers(&hosts);
    let bridge = gateway.bridge("balance = \"least-connections\"").start();
    let (first, held) = gateway.session(&bridge);
    for _ in 0..4 {
        let visited = Instant::now();
        let other = gateway.who_answers(&bridge);
        let is_late = visited.elapsed() >= HEAD_START;
        assert!(other != first || is_late, "{held:?} counts");
        let sessions =
            || endpoints(&bridge).iter().filter_map(|one| one["sessions"].as_u64()).sum();
        until_it("its session has ended", sessions, |open: &u64| *open == 1);
    }
}

#[test]
fn preferred_endpoints_come_first_and_the_others_take_over() {
    let gateway = Gateway::at(&["127.0.0.2"]).answers(&["127.0.0.2", "127.0.0.3"]);
    let near = Gateway::host("127.0.0.3", gateway.port);
    let bridge = gateway.bridge("prefer_cidrs = [\"127.0.0.3/32\"]").start();
    assert_eq!(gateway.who_answers(&bridge), "127.0.0.3");
    drop(near);
    assert_eq!(gateway.who_answers(&bridge), "127.0.0.2");
}

#[test]
fn a_vanished_address_keeps_its_sessions_and_gets_no_new_ones() {
    let hosts = ["127.0.0.2", "127.0.0.3"];
    let gateway = Gateway::at(&hosts).answers(&["127.0.0.2"]);
    let bridge = gateway.bridge("").start();
    let (who, mut session) = gateway.session(&bridge);
    assert_eq!(who, "127.0.0.2");

    let gateway = gateway.answers(&["127.0.0.3"]);

    until_it("new ones go elsewhere", || gateway.who_answers(&bridge), |who| who == "127.0.0.3");
    let vanished = || bridge.metrics().sum("tidegate_endpoints", &[("state", "vanished")]);
    assert_eq!(vanished(), 1.0);
    says(&mut session, "still here");
    drop(session);
    until("it is forgotten", || (vanished() == 0.0).then_some(()));
}

#[test]
fn sessions_of_a_vanished_address_are_closed_at_a_quiet_second_if_asked_for() {
    let hosts = ["127.0.0.2", "127.0.0.3"];
    let gateway = Gateway::at(&hosts).answers(&["127.0.0.2"]);
    let bridge = gateway.bridge("close_vanished_after = \"1s\"").start();
    let (_, session) = gateway.session(&bridge);
    let gateway = gateway.answers(&["127.0.0.3"]);
    assert!(read_to_the_end(&session).0.is_empty());
    let record = bridge.close_record();
    assert_eq!((record.text("side"), record.text("reason")), ("tidegate", "vanished"));
    drop(gateway);
}

#[test]
fn a_client_that_does_not_answer_the_greeting_is_closed_and_the_server_taken_leave_of() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let bridge =
        Bridge::to(server.local_addr().unwrap()).flags(&["--handshake-timeout", "1s"]).start();
    let client = connect(bridge.listen);
    let mut greeter = support::tcp::accept(&server);
    greeter.write_all(&greeting()).unwrap();
    assert_eq!(read_exactly(&client, greeting().len()), greeting());
    assert!(read_to_the_end(&client).0.is_empty());
    let login = read_exactly(&greeter, 4);
    assert_eq!(login[3], 1, "a HandshakeResponse comes, not a mere close");
    greeter.shutdown(Shutdown::Both).unwrap();
    let record = bridge.close_record();
    assert_eq!((record.text("side"), record.text("reason")), ("tidegate", "handshake_timeout"));
}

#[test]
fn a_client_whose_log_in_is_not_answered_is_told_1159() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = server.local_addr().unwrap();
    let bridge = Bridge::to(gateway).flags(&["--reply-timeout", "1s"]).start();
    let (client, _greeter) = logging_in(&bridge, &server, &login());
    let (heard, _) = read_to_the_end(&client);
    let text = format!("#08S01tidegate: {gateway} did not answer within 1s");
    assert_eq!(heard, frame(2, &[b"\xff\x87\x04", text.as_bytes()].concat()));
    let record = bridge.close_record();
    assert_eq!((record.text("side"), record.text("reason")), ("tidegate", "reply_timeout"));
}

#[test]
fn a_client_is_told_so_however_long_its_log_in_is() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let bridge = Bridge::to(server.local_addr().unwrap()).flags(&["--reply-timeout", "1s"]).start();
    // Its connection attributes, a few thousand bytes with some drivers.
    let words = frame(1, &[&login()[4..], &[b'a'; 5_000]].concat());
    let (client, _greeter) = logging_in(&bridge, &server, &words);
    let (heard, _) = read_to_the_end(&client);
    assert_eq!(&heard[3..7], b"\x02\xff\x87\x04", "{}", String::from_utf8_lossy(&heard));
}

#[test]
fn a_client_that_has_begun_tls_is_closed_without_a_word_of_ours() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let bridge = Bridge::to(server.local_addr().unwrap()).flags(&["--reply-timeout", "1s"]).start();
    let ssl_request = frame(1, &[b"\x00\x8a\x00\x00".as_slice(), &[0; 28]].concat());
    let (client, _greeter) = logging_in(&bridge, &server, &ssl_request);
    assert!(read_to_the_end(&client).0.is_empty());
    assert_eq!(bridge.close_record().text("reason"), "reply_timeout");
}

#[test]
fn a_client_that_waits_for_its_log_in_when_the_drain_ends_is_told_1053() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut bridge =
        Bridge::to(server.local_addr().unwrap()).flags(&["--drain-timeout", "500ms"]).start();
    let (client, _greeter) = logging_in(&bridge, &server, &login());
    bridge.signal(Signal::TERM);
    let (heard, _) = read_to_the_end(&client);
    assert_eq!(&heard[3..7], b"\x02\xff\x1d\x04", "{}", String::from_utf8_lossy(&heard));
    assert_eq!(bridge.ends().code(), Some(0));
}

#[test]
fn after_the_log_in_a_server_may_take_as_long_as_it_likes() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let bridge = Bridge::to(server.local_addr().unwrap())
        .flags(&["--reply-timeout", "1s", "--handshake-timeout", "1s"])
        .start();
    let (mut client, mut greeter) = logging_in(&bridge, &server, &login());
    greeter.write_all(&frame(2, &[0; 7])).unwrap();
    assert_eq!(read_exactly(&client, 11), frame(2, &[0; 7]));
    client.write_all(&frame(0, b"\x03SELECT SLEEP(3)")).unwrap();
    thread::sleep(Duration::from_secs(3));
    greeter.write_all(&frame(1, &[0; 7])).unwrap();
    assert_eq!(read_exactly(&client, 11), frame(1, &[0; 7]));
}

#[test]
fn an_idle_session_is_closed_after_the_idle_timeout_and_a_busy_one_is_not() {
    let gateway = Gateway::at(&["127.0.0.2"]).answers(&["127.0.0.2"]);
    let bridge = gateway.bridge_with("idle_timeout = \"2s\"", "").start();
    let (_, mut session) = gateway.session(&bridge);
    for _ in 0..4 {
        thread::sleep(Duration::from_secs(1));
        says(&mut session, "busy");
    }
    assert!(read_to_the_end(&session).0.is_empty());
    assert_eq!(bridge.close_record().text("reason"), "idle_timeout");
}

#[test]
fn an_old_session_is_closed_at_a_quiet_second() {
    let gateway = Gateway::at(&["127.0.0.2"]).answers(&["127.0.0.2"]);
    let bridge = gateway.bridge_with("max_lifetime = \"1s\"", "").start();
    let (_, session) = gateway.session(&bridge);
    assert!(read_to_the_end(&session).0.is_empty());
    assert_eq!(bridge.close_record().text("reason"), "max_lifetime");
}

/// Servers at one port of several loopback addresses, and the DNS server that names them.
///
/// Each greets, says its address as the answer to the client's first words, and echoes then.
/// Makes [`VISITS`], and tells how many of them may have dialled an endpoint that is left aside: those
/// that took the other one's head start, as the first one does, and trials of it, one in [`ASIDE`].
fn dials_that_are_due(mut visit: impl FnMut()) -> usize {
    let started = Instant::now();
    let mut slow = 0;
    for _ in 0..VISITS {
        let visited = Instant::now();
        visit();
        slow += usize::from(visited.elapsed() >= HEAD_START);
    }
    slow + (started.elapsed().as_secs() / ASIDE.as_secs()) as usize
}

struct Gateway {
    port: u16,
    dns: DnsServer,
    _hosts: Vec<Host>,
}

struct Host(TcpListener);

impl Drop for Host {
    fn drop(&mut self) {
        // The accepting thread holds a clone: a shutdown stops the listening for both.
        let _ = socket2::SockRef::from(&self.0).shutdown(Shutdown::Both);
    }
}

impl Gateway {
    fn at(hosts: &[&'static str]) -> Self {
        let dns = DnsServer::start("127.0.0.1:0".parse().unwrap()).unwrap();
        let (port, hosts) = listen_at(hosts);
        let hosts = hosts.into_iter().map(Self::serve).collect();
        Self { port, dns, _hosts: hosts }
    }

    fn host(host: &str, port: u16) -> Host {
        Self::serve(TcpListener::bind((host, port)).unwrap())
    }

    fn serve(listener: TcpListener) -> Host {
        let name = listener.local_addr().unwrap().ip().to_string();
        serve(&listener, move |mut stream| {
            let _ = stream.write_all(&greeting());
            let mut chunk = [0; 1024];
            let mut first = true;
            while let Ok(count @ 1..) = stream.read(&mut chunk) {
                let answer = if first { name.as_bytes() } else { &chunk[..count] };
                let _ = stream.write_all(answer);
                first = false;
            }
        });
        Host(listener)
    }

    fn answers(self, addresses: &[&str]) -> Self {
        let addresses: Vec<IpAddr> =
            addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.dns.set(NAME, &addresses, 1);
        self
    }

    fn bridge(&self, upstream_keys: &str) -> Setup {
        self.bridge_with("", upstream_keys)
    }

    fn bridge_with(&self, listener_keys: &str, upstream_keys: &str) -> Setup {
        Bridge::from_file(&format!(
            "admin = \"127.0.0.1:0\"\nnameserver = \"{}\"\n\
             [[listener]]\nbind = \"127.0.0.1:0\"\n{listener_keys}\n\
             [upstream.named]\ngateway = \"{NAME}:{}\"\nmin_ttl = \"1s\"\n{upstream_keys}\n",
            self.dns.address(),
            self.port
        ))
    }

    /// A session that has logged in, and who answered.
    fn session(&self, bridge: &Bridge) -> (String, TcpStream) {
        let mut client = connect(bridge.listen);
        assert_eq!(read_exactly(&client, greeting().len()), greeting());
        client.write_all(&login()).unwrap();
        let mut name = [0; 64];
        let length = client.read(&mut name).unwrap();
        (String::from_utf8_lossy(&name[..length]).into_owned(), client)
    }

    fn who_answers(&self, bridge: &Bridge) -> String {
        self.session(bridge).0
    }
}

fn says(session: &mut TcpStream, text: &str) {
    session.write_all(text.as_bytes()).unwrap();
    assert_eq!(read_exactly(session, text.len()), text.as_bytes());
}

fn logging_in(bridge: &Bridge, server: &TcpListener, words: &[u8]) -> (TcpStream, TcpStream) {
    let mut client = connect(bridge.listen);
    let mut greeter = support::tcp::accept(server);
    greeter.write_all(&greeting()).unwrap();
    assert_eq!(read_exactly(&client, greeting().len()), greeting());
    client.write_all(words).unwrap();
    assert_eq!(read_exactly(&greeter, words.len()), words);
    (client, greeter)
}

fn endpoints(bridge: &Bridge) -> Vec<Value> {
    let status: Value = serde_json::from_str(&bridge.get("/status.json").body).unwrap();
    status["upstreams"][0]["endpoints"].as_array().unwrap().clone()
}

fn addresses(bridge: &Bridge) -> Vec<String> {
    let ip = |endpoint: &Value| {
        let address: std::net::SocketAddr = endpoint["address"].as_str().unwrap().parse().unwrap();
        address.ip().to_string()
    };
    endpoints(bridge).iter().map(ip).collect()
}
