//! `pool = "warm"`: connections that are there before their clients, and that cost nobody anything.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tidegate::demo::dns::DnsServer;
use tidegate::mysql::packet::{ErrorCode, err_greeting, frame};

use support::bridge::{Bridge, Setup, tidegate};
use support::mysql::{greeting, login, read_packet};
use support::namespace::Namespace;
use support::tcp::{connect, free_port, read_exactly, read_to_the_end, reset, rows, serve};
use support::{until, until_it};

const NAME: &str = "gateway01-privatelink.test-1.prod.aws.tidbcloud.test";
/// Short, so that a few visits in a row make a connection worth holding.
const AGE: &str = "warm_max_age = \"500ms\"";

// What is held.

#[test]
fn who_comes_often_is_lent_what_is_there_already() {
    let server = Server::start();
    let bridge = warm("", &server).start();
    visit_until_hits(&bridge, 20.0);
    let ids = server.served();
    let mut lent: Vec<u32> = (0..20).map(|_| visit(&bridge)).collect();
    assert!(lent.iter().all(|id| !ids.contains(id)), "no connection is lent twice");
    lent.sort_unstable();
    lent.dedup();
    assert_eq!(lent.len(), 20);
    let records = bridge.close_records(20);
    let pool = |result: &str| records.iter().filter(|one| one.text("pool") == result).count();
    assert!(pool("hit") > 0 && pool("hit") + pool("miss") == records.len());
    let connects = |result| {
        let labels = [("pool_result", result)];
        bridge.metrics().sum("tidegate_connect_seconds_count", &labels)
    };
    assert_eq!((connects("hit"), connects("off")), (checkouts(&bridge, "hit"), 0.0));
    let waits = bridge.metrics().sum("tidegate_pool_wait_seconds_count", &[]);
    assert_eq!(waits, checkouts(&bridge, ""));
}

#[test]
fn for_one_who_comes_alone_nothing_is_held() {
    let server = Server::start();
    let bridge = warm("", &server).start();
    visit(&bridge);
    visit(&bridge);
    bridge.has_accounted_for(2.0);
    assert_eq!((held(&bridge), server.accepted()), (0.0, 2));
}

#[test]
fn when_nobody_comes_any_more_nothing_is_held_and_the_server_is_taken_leave_of() {
    let server = Server::start();
    let bridge = warm("", &server).start();
    visit_until_hits(&bridge, 10.0);
    until("nothing is held, and for longer than it would be, nothing dialled", || {
        let dialled = server.accepted();
        thread::sleep(Duration::from_millis(600));
        (held(&bridge) == 0.0 && server.accepted() == dialled).then_some(())
    });
    let unused = evictions(&bridge, "age");
    assert!(unused > 0.0 && unused == evictions(&bridge, ""), "{unused}");
    until_it("each was taken leave of", || server.farewells(), |count| *count as f64 == unused);
}

#[test]
fn at_a_steady_load_few_end_unused() {
    let server = Server::start();
    let bridge = warm("", &server).start();
    let steadily = |count| {
        for _ in 0..count {
            visit(&bridge);
            thread::sleep(Duration::from_millis(40));
        }
        [checkouts(&bridge, "hit"), checkouts(&bridge, "miss")]
    };
    // By number, not by time: how soon it knows them is a matter of the machine.
    let before = steadily(50);
    let after = steadily(support::full_or(1_000, 50));
    let (used, missed) = (after[0] - before[0], after[1] - before[1]);
    let unused = evictions(&bridge, "");
    assert!(unused <= 0.1 * after[0], "{unused} unused, {} used", after[0]);
    assert!(used > 2.0 * missed, "{used} used, {missed} missed");
}

#[test]
fn so_many_are_held_as_is_said_and_not_one_more_for_all_upstreams_together() {
    let servers = [Server::start(), Server::start()];
    let bridge = Bridge::from_file(&format!(
        "admin = \"127.0.0.1:0\"\nwarm_max = 3\n\
         [[listener]]\nname = \"one\"\nbind = \"127.0.0.1:0\"\nupstream = \"one\"\npool = \"warm\"\n\
         [[listener]]\nname = \"two\"\nbind = \"127.0.0.2:0\"\nupstream = \"two\"\npool = \"warm\"\n\
         [upstream.one]\ngateway = \"{}\"\nwarm_min = 2\n\
         [upstream.two]\ngateway = \"{}\"\nwarm_min = 1\n",
        servers[0].address, servers[1].address
    ))
    .start();
    until_it("three are held", || held(&bridge), |held| *held == 3.0);
    // They ask for more.
    for _ in 0..30 {
        visit(&bridge);
        assert!(held(&bridge) <= 3.0);
    }
    until_it("three are held again", || held(&bridge), |held| *held == 3.0);
}

// Never worse than without.

#[test]
fn what_a_dead_server_has_left_is_lent_to_nobody() {
    for goodbye in [Goodbye::Fin, Goodbye::Reset, Goodbye::Word] {
        let server = Server::start();
        let bridge = warm("warm_min = 4", &server).start();
        until_it("four are held", || held(&bridge), |held| *held == 4.0);
        let before = server.idle();
        server.ends_idle(goodbye);
        // At once: nothing has looked at them since.
        for _ in 0..8 {
            assert!(!before.contains(&visit(&bridge)), "{goodbye:?}");
        }
        let reason = if matches!(goodbye, Goodbye::Word) { "spoke" } else { "closed" };
        assert_eq!(evictions(&bridge, reason), 4.0, "{goodbye:?}");
        assert_eq!(server.farewells(), 0, "nothing is said to a server that has ended it");
    }
}

#[test]
fn a_server_that_refuses_is_not_held_and_not_pestered() {
    let server = Server::start();
    let bridge = warm("", &server).start();
    visit_until_hits(&bridge, 5.0);
    server.refuses(true);
    let refusals = || {
        // A greeting is of what was held before.
        let packet = read_packet(&connect(bridge.listen)).unwrap();
        String::from_utf8_lossy(&packet).contains("Too many")
    };
    let in_hand = || bridge.metrics().sum("tidegate_pool_connections", &[]);
    until("the server's own word is heard, and nothing is left of before", || {
        (refusals() && in_hand() == 0.0).then_some(())
    });
    let (dialled, visits) = (server.accepted(), 20);
    let said = (0..visits).filter(|_| refusals()).count();
    assert_eq!(said, visits, "each client hears the server");
    // The clients' own dials, and the one of the pool that a pause of 1 s may have let through.
    assert!(server.accepted() <= dialled + visits + 1, "{} dials", server.accepted() - dialled);
    server.refuses(false);
    let before = checkouts(&bridge, "hit");
    until("it is warm again", || {
        visit(&bridge);
        (checkouts(&bridge, "hit") > before).then_some(())
    });
}

#[test]
fn a_server_that_is_down_costs_what_it_costs_without() {
    let server = Server::start();
    let bridge = warm("", &server).start();
    visit_until_hits(&bridge, 5.0);
    let address = server.address;
    server.stops();
    until("clients are told", || {
        let (heard, _) = read_to_the_end(&connect(bridge.listen));
        String::from_utf8_lossy(&heard).contains("cannot reach").then_some(())
    });
    let again = Server::at(address);
    until("it answers again", || {
        let client = connect(bridge.listen);
        let mut first = [0; 5];
        (&client).read_exact(&mut first).is_ok_and(|()| first[4] == 10).then_some(())
    });
    visit_until_hits(&bridge, checkouts(&bridge, "hit") + 5.0);
    drop(again);
}

#[test]
fn once_nobody_listens_there_any_more_what_was_greeted_before_is_lent_to_nobody() {
    let server = Server::start();
    let bridge = warm("warm_min = 3\nwarm_max_age = \"1m\"\n", &server).start();
    until_it("three are held", || held(&bridge), |held| *held == 3.0);
    // As TiDB shuts down: those that it has greeted get no sign of it, and a log-in is answered.
    socket2::SockRef::from(&server.listener).shutdown(Shutdown::Both).unwrap();
    // The next dial finds out: it is to take the place of the one that is lent.
    visit(&bridge);
    until_it("the others are given up", || evictions(&bridge, "endpoint"), |gone| *gone == 2.0);
    let (heard, _) = read_to_the_end(&connect(bridge.listen));
    assert!(String::from_utf8_lossy(&heard).contains("cannot reach"), "{heard:?}");
}

#[test]
fn what_belongs_to_an_address_that_left_dns_or_failed_is_not_lent() {
    let port = free_port();
    let [one, two] = ["127.0.0.2", "127.0.0.3"]
        .map(|host| Server::at(SocketAddr::new(host.parse().unwrap(), port)));
    let dns = DnsServer::start("127.0.0.1:0".parse().unwrap()).unwrap();
    dns.set(NAME, &[one.address.ip()], 1);
    let bridge = Bridge::from_file(&format!(
        "admin = \"127.0.0.1:0\"\nnameserver = \"{}\"\n\
         [[listener]]\nbind = \"127.0.0.1:0\"\npool = \"warm\"\n\
         [upstream.named]\ngateway = \"{NAME}:{port}\"\nmin_ttl = \"1s\"\nwarm_min = 2\n\
         warm_max_age = \"1m\"\n",
        dns.address()
    ))
    .start();
    until_it("two are held", || held(&bridge), |held| *held == 2.0);
    dns.set(NAME, &[two.address.ip()], 1);
    until_it("those of the old address go", || evictions(&bridge, "endpoint"), |gone| *gone == 2.0);
    until_it("they are taken leave of", || one.farewells(), |count| *count == 2);
    let before = one.accepted();
    visit(&bridge);
    assert_eq!(one.accepted(), before);
}

#[test]
fn a_path_that_swallows_packets_costs_those_that_it_had_and_nobody_a_client() {
    let Some(namespace) = Namespace::new().map(Arc::new) else { return };
    let (one, two, dns) = namespace.enter(|| {
        let port = free_port();
        let [one, two] = ["127.0.0.2", "127.0.0.3"]
            .map(|host| Server::at(SocketAddr::new(host.parse().unwrap(), port)));
        (one, two, DnsServer::start("127.0.0.1:0".parse().unwrap()).unwrap())
    });
    dns.set(NAME, &[one.address.ip(), two.address.ip()], 300);
    let bridge = Bridge::from_file(&format!(
        "admin = \"127.0.0.1:0\"\nnameserver = \"{}\"\n\
         [[listener]]\nbind = \"127.0.0.1:0\"\npool = \"warm\"\n\
         [upstream.named]\ngateway = \"{NAME}:{}\"\nwarm_min = 8\nwarm_max_age = \"1m\"\n\
         connect_timeout = \"1s\"\n",
        dns.address(),
        one.address.port(),
    ))
    .inside(&namespace)
    .start();
    until_it("eight are held", || held(&bridge), |held| *held == 8.0);
    let lost = one.idle().len();
    assert!(lost > 0, "some are of the first server");
    namespace.filter("ip daddr 127.0.0.2 drop");
    // By their silence, or because a dial for others has failed.
    until_it("all are gone", || evictions(&bridge, ""), |gone| *gone >= lost as f64);
    assert!(evictions(&bridge, "silent") > 0.0);
    namespace.enter(|| (0..8).for_each(|_| assert!(two.greeted(visit(&bridge)))));
}

#[test]
fn who_is_lent_a_connection_whose_server_has_just_vanished_is_told() {
    let Some(namespace) = Namespace::new().map(Arc::new) else { return };
    let server = namespace.enter(|| Server::at("127.0.0.2:0".parse().unwrap()));
    let bridge = Bridge::from_file(&format!(
        "admin = \"127.0.0.1:0\"\n\
         [[listener]]\nbind = \"127.0.0.1:0\"\npool = \"warm\"\nreply_timeout = \"1h\"\n\
         [upstream.named]\ngateway = \"{}\"\nwarm_min = 1\nconnect_timeout = \"1s\"\n",
        server.address,
    ))
    .inside(&namespace)
    .start();
    until_it("one is held", || held(&bridge), |held| *held == 1.0);
    let mut client = namespace.enter(|| connect(bridge.listen));
    read_packet(&client).unwrap();
    assert_eq!(checkouts(&bridge, "hit"), 1.0);
    namespace.filter("ip daddr 127.0.0.2 drop");
    client.write_all(&login()).unwrap();
    let said = read_packet(&client).unwrap();
    assert!(said.starts_with(b"\xff\xd3\x07#HY000tidegate: "), "{said:?}");
    assert!(String::from_utf8_lossy(&said).contains("has vanished"), "{said:?}");
}

#[test]
fn a_load_balancer_that_forgets_idle_flows_resets_nobodys_session() {
    let Some(namespace) = Namespace::new().map(Arc::new) else { return };
    let server = namespace.enter(Server::start);
    let bridge = warm("warm_min = 4\nwarm_max_age = \"1m\"", &server).inside(&namespace).start();
    until_it("four are held", || held(&bridge), |held| *held == 4.0);
    let before = server.idle();
    // It says so to the next packet only.
    namespace.filter(&format!(
        "tcp dport {} tcp flags & (syn | rst) == 0 reject with tcp reset",
        server.address.port()
    ));
    until_it("it has been heard", || evictions(&bridge, "closed"), |gone| *gone >= 4.0);
    namespace.mend();
    namespace.enter(|| (0..4).for_each(|_| assert!(!before.contains(&visit(&bridge)))));
}

#[test]
fn who_is_lent_a_connection_has_the_keepalive_that_is_configured() {
    let server = Server::start();
    let bridge = warm("warm_min = 1", &server).start();
    until_it("one is held", || held(&bridge), |held| *held == 1.0);
    let client = connect(bridge.listen);
    read_exactly(&client, greeting().len());
    until_it("another one is held", || held(&bridge), |held| *held == 1.0);
    let of_bridge = rows().into_iter().filter(|row| row.remote == server.address);
    let mut timers: Vec<_> = of_bridge.filter_map(|row| row.probed_in).collect();
    timers.sort_unstable();
    let [held, lent] = timers[..] else { panic!("{timers:?}") };
    assert!(held <= Duration::from_secs(1), "{held:?}");
    assert!(lent > Duration::from_secs(30) && lent <= Duration::from_secs(45), "{lent:?}");
}

#[test]
fn a_server_that_soon_ends_what_it_greets_is_not_pestered() {
    let server = Server::start();
    server.leaves(true);
    let began = Instant::now();
    let _bridge = warm("warm_min = 4", &server).start();
    // Four dials at the most, then a pause of 0.8 s at least.
    until_it("it is dialled again", || server.accepted(), |count| *count > 4);
    assert!(began.elapsed() > Duration::from_millis(700), "{:?}", began.elapsed());
}

#[test]
fn what_a_pool_knows_of_its_clients_outlives_a_reload() {
    let server = Server::start();
    let text = |key: &str| {
        format!(
            "admin = \"127.0.0.1:0\"\n\
             [[listener]]\nname = \"app\"\nbind = \"127.0.0.1:0\"\npool = \"warm\"\n\
             [upstream.gw]\ngateway = \"{}\"\nwarm_max_age = \"8s\"\n{key}\n",
            server.address
        )
    };
    let bridge = Bridge::from_file(&text("")).start();
    visit_until_hits(&bridge, 20.0);
    bridge.rewrite(&text("connect_timeout = \"2s\""));
    bridge.reload();
    until_it("the old pool is gone", || held(&bridge), |held| *held == 0.0);
    let hits = checkouts(&bridge, "hit");
    // Two who come alone would not do: see above.
    visit(&bridge);
    until_it("one is held", || held(&bridge), |held| *held > 0.0);
    visit(&bridge);
    assert_eq!(checkouts(&bridge, "hit"), hits + 1.0);
}

#[test]
fn a_crowd_is_served_as_without_a_pool() {
    let server = Server::start();
    let bridge = warm("", &server).start();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..100).for_each(|_| assert!(visit(&bridge) > 0)));
        }
    });
    bridge.has_accounted_for(800.0);
    assert_eq!(checkouts(&bridge, "hit") + checkouts(&bridge, "miss"), 800.0);
    assert!(held(&bridge) <= 16.0);
    assert_eq!(server.served().len(), 800, "each had a connection of its own");
}

// The life of the bridge.

#[test]
fn a_drain_takes_leave_of_what_is_held_and_does_not_wait_for_more() {
    let server = Server::start();
    let mut bridge = warm("warm_min = 5", &server).start();
    until_it("five are held", || held(&bridge), |held| *held == 5.0);
    bridge.signal(Signal::TERM);
    assert_eq!(bridge.ends().code(), Some(0));
    assert_eq!((server.accepted(), server.farewells()), (5, 5));
}

#[test]
fn a_reload_begins_a_pool_and_ends_one() {
    let server = Server::start();
    let text = |pool: &str, min: u32| {
        format!(
            "admin = \"127.0.0.1:0\"\n\
             [[listener]]\nname = \"app\"\nbind = \"127.0.0.1:0\"\npool = \"{pool}\"\n\
             [upstream.gw]\ngateway = \"{}\"\nwarm_min = {min}\n",
            server.address
        )
    };
    let bridge = Bridge::from_file(&text("off", 0)).start();
    visit(&bridge);
    assert_eq!(checkouts(&bridge, ""), 0.0);
    bridge.rewrite(&text("warm", 3));
    bridge.reload();
    until_it("three are held", || held(&bridge), |held| *held == 3.0);
    visit(&bridge);
    assert_eq!(checkouts(&bridge, "hit"), 1.0);

    // Another upstream of the same name has a pool of its own.
    let dialled = server.accepted();
    bridge.rewrite(&text("warm", 3).replace("warm_min", "connect_timeout = \"2s\"\nwarm_min"));
    bridge.reload();
    until_it("it is filled", || server.accepted(), |now| *now >= dialled + 3);
    until_it("the old one is not", || held(&bridge), |held| *held == 3.0);

    bridge.rewrite(&text("off", 0));
    bridge.reload();
    until_it("nothing is held", || held(&bridge), |held| *held == 0.0);
    visit(&bridge);
    assert_eq!(checkouts(&bridge, ""), 1.0);
}

#[test]
fn what_cannot_be_warm_is_a_configuration_error() {
    let cases = [
        (&["--protocol", "tcp"][..], "protocol = \"tcp\""),
        (&["--send-proxy-protocol", "v2"], "send_proxy_protocol"),
        (&["--warm-min", "17"], "warm_min 17: more than warm_max 16"),
        (&["--warm-max-age", "1ms"], "from 500ms to 10m"),
    ];
    for (flags, told) in cases {
        let output = tidegate(&[&["check", "127.0.0.1:1", "--pool", "warm"], flags].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(told), "{said}");
    }
}

/// A bridge with a warm pool before one server.
fn warm(in_upstream: &str, server: &Server) -> Setup {
    let age = if in_upstream.is_empty() { AGE } else { in_upstream };
    Bridge::from_file(&format!(
        "admin = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"app\"\nbind = \"127.0.0.1:0\"\npool = \"warm\"\n\
         [upstream.gw]\ngateway = \"{}\"\n{age}\n",
        server.address
    ))
}

/// Logs in, says something, leaves; the connection id of the greeting.
fn visit(bridge: &Bridge) -> u32 {
    let mut client = connect(bridge.listen);
    let heard = read_exactly(&client, greeting().len());
    let id = u32::from_le_bytes(heard[12..16].try_into().unwrap());
    assert_eq!(heard, greeting_of(id));
    client.write_all(&login()).unwrap();
    assert_eq!(read_exactly(&client, 11), frame(2, &[0; 7]));
    id
}

fn visit_until_hits(bridge: &Bridge, hits: f64) {
    until("connections are lent that were there", || {
        visit(bridge);
        (checkouts(bridge, "hit") >= hits).then_some(())
    });
}

fn held(bridge: &Bridge) -> f64 {
    bridge.metrics().sum("tidegate_pool_connections", &[("state", "idle")])
}

/// Those with that result; all of them with none.
fn checkouts(bridge: &Bridge, result: &str) -> f64 {
    sum(bridge, "tidegate_pool_checkouts_total", "result", result)
}

fn evictions(bridge: &Bridge, reason: &str) -> f64 {
    sum(bridge, "tidegate_pool_evictions_total", "reason", reason)
}

fn sum(bridge: &Bridge, name: &str, label: &str, value: &str) -> f64 {
    let labels = [(label, value)];
    bridge.metrics().sum(name, if value.is_empty() { &[] } else { &labels })
}

fn greeting_of(id: u32) -> Vec<u8> {
    let mut greeting = greeting();
    greeting[12..16].copy_from_slice(&id.to_le_bytes());
    greeting
}

/// How a server ends a connection that it has greeted.
#[derive(Debug, Clone, Copy)]
enum Goodbye {
    Fin,
    Reset,
    /// It says something first, and does not close.
    Word,
}

/// A server that greets, takes every log-in but a farewell, and can be told to misbehave.
struct Server {
    address: SocketAddr,
    listener: TcpListener,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    accepted: AtomicU32,
    farewells: AtomicUsize,
    open: AtomicUsize,
    refuses: AtomicBool,
    leaves: AtomicBool,
    /// Greeted, and silent so far.
    idle: Mutex<Vec<(u32, TcpStream)>>,
    /// Logged in, by connection id.
    served: Mutex<Vec<u32>>,
}

impl Server {
    fn start() -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into())
    }

    fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let state = Arc::new(State::default());
        let shared = state.clone();
        let address = serve(&listener, move |stream| {
            shared.open.fetch_add(1, Ordering::Relaxed);
            shared.session(stream);
            shared.open.fetch_sub(1, Ordering::Relaxed);
        });
        Self { address, listener, state }
    }

    fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::Relaxed) as usize
    }

    fn farewells(&self) -> usize {
        self.state.farewells.load(Ordering::Relaxed)
    }

    fn refuses(&self, refuses: bool) {
        self.state.refuses.store(refuses, Ordering::Relaxed);
    }

    /// Whether it is to close whatever it has greeted.
    fn leaves(&self, leaves: bool) {
        self.state.leaves.store(leaves, Ordering::Relaxed);
    }

    /// Whether the connection of that id was one of its own.
    fn greeted(&self, id: u32) -> bool {
        self.served().contains(&id)
    }

    /// Connection ids of those that have logged in.
    fn served(&self) -> Vec<u32> {
        self.state.served.lock().unwrap().clone()
    }

    /// And of those that it has greeted and that have said nothing yet.
    fn idle(&self) -> Vec<u32> {
        self.state.idle.lock().unwrap().iter().map(|(id, _)| *id).collect()
    }

    /// Returns when all of them have ended.
    fn ends_idle(&self, goodbye: Goodbye) {
        for (_, mut stream) in self.state.idle.lock().unwrap().drain(..) {
            match goodbye {
                Goodbye::Fin => stream.shutdown(Shutdown::Both).unwrap(),
                // The session's thread holds it as well, and only reads.
                Goodbye::Reset => {
                    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                    stream.shutdown(Shutdown::Read).unwrap();
                    reset(stream);
                }
                Goodbye::Word => stream.write_all(&frame(1, b"\xffgoodbye")).unwrap(),
            }
        }
        if !matches!(goodbye, Goodbye::Word) {
            let open = || self.state.open.load(Ordering::Relaxed);
            until_it("its threads have let go of them", open, |open| *open == 0);
        }
    }

    fn stops(self) {
        socket2::SockRef::from(&self.listener).shutdown(Shutdown::Both).unwrap();
        self.ends_idle(Goodbye::Fin);
    }
}

impl State {
    fn session(&self, mut stream: TcpStream) {
        let id = self.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        if self.refuses.load(Ordering::Relaxed) {
            let _ = stream.write_all(&err_greeting(ErrorCode::TooMany, "Too many connections"));
            return;
        }
        self.idle.lock().unwrap().push((id, stream.try_clone().unwrap()));
        if stream.write_all(&greeting_of(id)).is_err() {
            return;
        }
        if self.leaves.load(Ordering::Relaxed) {
            self.idle.lock().unwrap().retain(|(other, _)| *other != id);
            return;
        }
        let mut words = [0; 1024];
        let count = stream.read(&mut words).unwrap_or(0);
        self.idle.lock().unwrap().retain(|(other, _)| *other != id);
        if words[..count].windows(9).any(|part| part == b"took-leav") {
            self.farewells.fetch_add(1, Ordering::Relaxed);
        } else if count > 0 {
            self.served.lock().unwrap().push(id);
            let _ = stream.write_all(&frame(2, &[0; 7]));
            let _ = stream.read(&mut words);
        }
    }
}
