//! A MariaDB that blocks hosts after three interrupted handshakes never blocks the bridge.
//!
//! bridge and its clients 10.78.1.1 - 10.78.1.2 server: loopback is never blocked. The server can
//! look the bridge's name up, as what it fails to look up for a while it does not count either.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tidegate::demo::dns::DnsServer;
use tidegate::mysql::handshake::Greeting;

use support::bridge::Bridge;
use support::mariadb::MariaDb;
use support::mysql::read_packet;
use support::namespace::Namespace;
use support::process::{output, succeed};
use support::tcp::{connect, read_to_the_end, reset, serve};
use support::{full_or, until, until_it};

#[test]
fn the_same_visits_without_the_bridge_block_the_host() {
    let Some(path) = Path::new() else { return };
    let bridge = path.bridge("", &path.server.to_string());
    for (what, visit) in CLIENTS {
        until(&format!("a client that {what} is blocked"), || {
            path.visit(path.server, 1, visit);
            path.bridge_side.enter(|| is_blocked(&connect(path.server))).then_some(())
        });
        assert!(path.toll().handshake_errors >= 3, "{what}: {:?}", path.toll());

        let login = output(path.login(&bridge));
        let stderr = String::from_utf8_lossy(&login.stderr);
        assert!(!login.status.success() && stderr.contains("1129"), "{what}: {stderr}");

        path.ask("FLUSH HOSTS");
        path.can_log_in(&bridge);
    }
}

#[test]
fn clients_that_leave_before_they_speak_do_not_block_the_host() {
    let Some(path) = Path::new() else { return };
    let bridge = path.bridge("", &path.server.to_string());
    for (what, visit) in CLIENTS {
        let before = path.first_toll(&bridge);
        let count = visits();
        path.visit(bridge.listen, count, visit);
        path.is_not_blocked(&bridge, &format!("clients that {what}"), count, before);
    }
}

#[test]
fn clients_that_never_speak_do_not_block_the_host() {
    let Some(path) = Path::new() else { return };
    let bridge = path.bridge("handshake_timeout = \"1s\"", &path.server.to_string());
    let before = path.first_toll(&bridge);
    let count = visits();
    path.visit(bridge.listen, count, |stream| drop(read_to_the_end(&stream)));
    path.is_not_blocked(&bridge, "clients that reach handshake_timeout", count, before);
    assert_eq!(handshake_timeouts(&bridge), count as f64);
}

#[test]
fn clients_that_never_speak_over_connections_that_have_waited_do_not_block_the_host() {
    let Some(path) = Path::new() else { return };
    let gateway = format!("{}\"\nwarm_min = 8\nwarm_max_age = \"8s", path.server);
    let before = path.first_toll(&path.bridge("", &path.server.to_string()));
    let bridge = path.bridge("pool = \"warm\"", &gateway);
    let held = || bridge.metrics().sum("tidegate_pool_connections", &[("state", "idle")]);
    until_it("eight are held", held, |held| *held == 8.0);
    // The server gives each 10 s, of which some have passed.
    thread::sleep(Duration::from_secs(4));
    let began = Instant::now();
    path.visit(bridge.listen, 8, |stream| drop(read_to_the_end(&stream)));
    assert!(began.elapsed() < Duration::from_millis(8_500), "{:?}", began.elapsed());
    until_it("each is counted", || handshake_timeouts(&bridge), |count| *count == 8.0);
    until("each has ended", || (path.toll().refused >= before.refused + 8).then_some(()));
    let after = path.toll();
    assert_eq!((after.handshake_errors, after.connect_errors), (0, 0), "{after:?}");
}

/// Sessions that have ended so.
fn handshake_timeouts(bridge: &Bridge) -> f64 {
    let labels = [("reason", "handshake_timeout")];
    bridge.metrics().sum("tidegate_connections_closed_total", &labels)
}

#[test]
fn a_drain_while_clients_have_not_spoken_does_not_block_the_host() {
    let Some(path) = Path::new() else { return };
    let mut bridge = path.bridge("", &path.server.to_string());
    let before = path.first_toll(&bridge);
    let count = visits();
    let clients: Vec<_> = path.bridge_side.enter(|| {
        let connect = |_| connect(bridge.listen);
        (0..count).map(connect).inspect(|client| drop(read_packet(client))).collect()
    });
    bridge.signal(Signal::TERM);
    assert!(bridge.ends().success());
    drop(clients);
    let next = path.bridge("", &path.server.to_string());
    path.is_not_blocked(&next, "a drain, by its clients", count, before);
}

#[test]
fn deep_health_checks_do_not_block_the_host() {
    let Some(path) = Path::new() else { return };
    // One answer is given again for 5 s.
    let bridges: Vec<_> =
        (0..full_or(20, 6)).map(|_| path.bridge("", &path.server.to_string())).collect();
    let before = path.first_toll(&bridges[0]);
    for bridge in &bridges {
        let reply = bridge.get("/healthz/deep");
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
    path.is_not_blocked(&bridges[0], "deep health checks", bridges.len(), before);
}

#[test]
fn deep_health_checks_that_nobody_waits_for_do_not_block_the_host() {
    let Some(path) = Path::new() else { return };
    let slow = Relay::slow(&path);
    let bridges: Vec<_> =
        (0..full_or(20, 6)).map(|_| path.bridge("", &slow.address.to_string())).collect();
    let straight = path.bridge("", &path.server.to_string());
    let before = path.first_toll(&straight);
    for (at, bridge) in bridges.iter().enumerate() {
        let request = b"GET /healthz/deep HTTP/1.1\r\nHost: bridge\r\n\r\n";
        let mut prober = path.bridge_side.connect(bridge.admin);
        prober.write_all(request).unwrap();
        until("the dial has begun", || (slow.begun() > at).then_some(()));
        // At various moments of the dial and the farewell.
        if at % 2 == 1 {
            until("the server has been dialled", || (slow.dialled() > at).then_some(()));
        }
        reset(prober);
        slow.is_left();
    }
    path.is_not_blocked(&straight, "deep health checks, abandoned", bridges.len(), before);
}

#[test]
fn dials_that_lose_their_race_do_not_block_the_host() {
    let Some(path) = Path::new() else { return };
    let slow = Relay::slow(&path);
    let quick = Relay::start(&path, "127.0.0.3", Duration::ZERO);
    let dns = path.bridge_side.enter(|| DnsServer::start("127.0.0.1:0".parse().unwrap()).unwrap());
    dns.set(NAME, &[slow.address.ip(), quick.address.ip()], 300);
    let gateway = format!("{NAME}:{}", path.server.port());
    // Through another one, so that no race has begun yet.
    let before = path.first_toll(&path.bridge("", &path.server.to_string()));
    let nameserver = format!("nameserver = \"{}\"", dns.address());
    let mut bridges = Vec::new();
    // An endpoint that was overtaken is left aside for a while, but a new bridge does not know yet.
    while slow.begun() < visits() {
        let bridge = path.bridge_with(&nameserver, "", &gateway);
        path.visit(bridge.listen, AT_ONCE, |stream| drop(read_packet(&stream)));
        slow.is_left();
        quick.is_left();
        bridges.push(bridge);
    }
    let bridge = bridges.last().unwrap();
    // Each race has a winner too, which its client has left.
    let count = slow.begun() + quick.begun();
    path.is_not_blocked(bridge, "dials that lost their race, and those that won", count, before);
}

#[test]
fn dials_that_nobody_waits_for_do_not_block_the_host() {
    let Some(path) = Path::new() else { return };
    let slow = Relay::slow(&path);
    let bridge = path.bridge("", &slow.address.to_string());
    let before = path.first_toll(&bridge);
    let (count, begun) = (visits(), slow.begun());
    path.visit(bridge.listen, count, drop);
    until_it("every dial has begun", || slow.begun(), |now| *now == begun + count);
    slow.is_left();
    path.is_not_blocked(&bridge, "dials whose client has left", count, before);
}

#[test]
fn a_drain_while_such_dials_are_taken_leave_of_does_not_block_the_host() {
    let Some(path) = Path::new() else { return };
    let slow = Relay::slow(&path);
    let straight = path.bridge("", &path.server.to_string());
    let before = path.first_toll(&straight);
    let count = AT_ONCE;
    let mut bridge = path.bridge("", &slow.address.to_string());
    path.visit(bridge.listen, count, drop);
    until_it("every dial has begun", || slow.begun(), |now| *now == count);
    bridge.signal(Signal::TERM);
    assert!(bridge.ends().success());
    slow.is_left();
    path.is_not_blocked(&straight, "a drain, by dials whose client has left", count, before);
}

#[test]
fn dials_of_a_server_that_hangs_do_not_block_the_host_when_it_goes_on() {
    let Some(path) = Path::new() else { return };
    let gateway = format!("{}\"\ndial_deadline = \"1s", path.server);
    let bridge = path.bridge("", &gateway);
    let before = path.first_toll(&bridge);
    // No more than the server's backlog holds.
    let count = AT_ONCE;
    path.mariadb.signal(Signal::STOP);
    path.visit(bridge.listen, count, |stream| {
        let (heard, _) = read_to_the_end(&stream);
        assert_eq!(heard[4..7], *b"\xff\xd3\x07", "an ERR with code 2003");
    });
    path.mariadb.signal(Signal::CONT);
    until_it("it has greeted all", || path.toll().refused, |now| *now >= before.refused + count);
    path.is_not_blocked(&bridge, "dials that reach dial_deadline", count, before);
}

#[test]
fn a_certificate_that_is_not_accepted_does_not_block_the_host() {
    let Some(path) = Path::new() else { return };
    let ca = path.mariadb.certificates.wrong_ca.display();
    let gateway = format!("{}\"\nupstream_tls = \"verify-ca\"\ntls_ca = \"{ca}", path.server);
    let bridge = path.bridge("", &gateway);
    let straight = path.bridge("", &path.server.to_string());
    let before = path.first_toll(&straight);
    let count = visits();
    for _ in 0..count {
        assert!(!output(path.login(&bridge)).status.success());
    }
    let labels = [("side", "upstream"), ("reason", "tls")];
    let refused = || bridge.metrics().sum("tidegate_connections_closed_total", &labels);
    until_it("each has ended", refused, |refused| *refused == count as f64);
    path.is_not_blocked(&straight, "log-ins with a certificate of a stranger", count, before);
}

/// What clients do that leave without a word, each of which a server counts.
const CLIENTS: [(&str, Visit); 3] = [
    ("close at once", |stream| drop(stream)),
    ("close after the greeting", |stream| drop(read_packet(&stream))),
    ("reset after the greeting", |stream| {
        read_packet(&stream);
        reset(stream);
    }),
];

type Visit = fn(TcpStream);

const NAME: &str = "gateway.test";
/// What the server sees the bridge as.
const BRIDGE: &str = "bridge.test";
/// Visits at a time.
const AT_ONCE: usize = 25;

#[test]
fn a_warm_pool_under_a_load_that_comes_and_goes_does_not_block_the_host() {
    let Some(path) = Path::new() else { return };
    let bridge = path.bridge("pool = \"warm\"", &path.server.to_string());
    let before = path.first_toll(&bridge);
    let held = || bridge.metrics().sum("tidegate_pool_connections", &[]);
    let ends = Instant::now() + full_or(Duration::from_secs(120), Duration::from_secs(6));
    let mut left = 0;
    while Instant::now() < ends {
        for (_, visit) in CLIENTS {
            path.visit(bridge.listen, AT_ONCE, visit);
            left += AT_ONCE;
            (0..3).for_each(|_| path.can_log_in(&bridge));
        }
        until("nobody has come for a while", || (held() == 0.0).then_some(()));
    }
    let sum = |name, labels: &[_]| bridge.metrics().sum(name, labels);
    let used = sum("tidegate_pool_checkouts_total", &[("result", "hit")]);
    let unused = sum("tidegate_pool_evictions_total", &[("reason", "age")]);
    assert!(used > 0.0 && unused > 0.0, "{used} used, {unused} unused");
    assert_eq!(unused, sum("tidegate_pool_evictions_total", &[]));
    // Each that ended unused is a refused log-in, as is each client that left.
    path.is_not_blocked(&bridge, "a warm pool", left + unused as usize, before);
}

/// Else nothing here would show that it is answered well.
#[test]
fn an_unknown_user_is_asked_as_one_of_the_accounts_is() {
    let Some(path) = Path::new() else { return };
    let mut stream = path.bridge_side.enter(|| connect(path.server));
    let greeting = Greeting::parse(&read_packet(&stream).unwrap()).unwrap();
    stream.write_all(&greeting.failing_login()).unwrap();
    let question = read_packet(&stream).unwrap();
    assert!(question.starts_with(b"\xfeclient_ed25519\0"), "{question:?}");
}

/// Visits of each kind: over 1,000 in all, or 200.
fn visits() -> usize {
    full_or(150, 30)
}

/// Whether the greeting is ER_HOST_IS_BLOCKED (1129).
fn is_blocked(stream: &TcpStream) -> bool {
    read_packet(stream).unwrap().starts_with(b"\xff\x69\x04")
}

struct Path {
    mariadb: MariaDb,
    bridge_side: Arc<Namespace>,
    server: SocketAddr,
}

/// Accounts of many plugins: an unknown user is asked as one of them would be.
fn accounts() -> String {
    let account = |id| format!("CREATE USER ed{id} IDENTIFIED VIA ed25519 USING PASSWORD('e');");
    let accounts: String = (0..20).map(account).collect();
    format!("INSTALL SONAME 'auth_ed25519'; {accounts}")
}

/// What the server has counted against the bridge's host.
#[derive(Debug, Clone, Copy)]
struct Toll {
    handshake_errors: usize,
    connect_errors: usize,
    /// Log-ins that failed as log-ins.
    refused: usize,
    aborted_connects: usize,
}

impl Path {
    /// Nothing where there is no MariaDB or where there are no network namespaces.
    fn new() -> Option<Self> {
        let (bridge_side, server_side) = (Arc::new(Namespace::new()?), Arc::new(Namespace::new()?));
        bridge_side.join("10.78.1.1", &server_side, "10.78.1.2");
        let hosts = format!("127.0.0.1 localhost\n10.78.1.1 {BRIDGE}\n");
        let options = [
            "--max-connect-errors=3",
            "--skip-name-resolve=0",
            "--host-cache-size=128",
            "--performance-schema=ON",
            "--max-connections=500",
        ];
        let mariadb = MariaDb::start_inside(&server_side, &hosts, &options)?;
        mariadb.query(mariadb.port, &accounts());
        let server = SocketAddr::new("10.78.1.2".parse().unwrap(), mariadb.port);
        Some(Self { mariadb, bridge_side, server })
    }

    /// A bridge with more keys for its listener.
    fn bridge(&self, listener: &str, gateway: &str) -> Bridge {
        self.bridge_with("", listener, gateway)
    }

    fn bridge_with(&self, top: &str, listener: &str, gateway: &str) -> Bridge {
        let file = format!(
            "admin = \"127.0.0.1:0\"\ndrain_timeout = \"1s\"\n{top}\n\
             [[listener]]\nbind = \"127.0.0.1:0\"\n{listener}\n\
             [upstream.server]\ngateway = \"{gateway}\"\n"
        );
        Bridge::from_file(&file).inside(&self.bridge_side).start()
    }

    /// Connects `count` times from the bridge's host and does the same each time.
    fn visit(&self, to: SocketAddr, count: usize, act: impl Fn(TcpStream) + Sync) {
        let begun = AtomicUsize::new(0);
        self.bridge_side.enter(|| {
            thread::scope(|scope| {
                for _ in 0..AT_ONCE.min(count) {
                    scope.spawn(|| {
                        while begun.fetch_add(1, Ordering::Relaxed) < count {
                            act(connect(to));
                        }
                    });
                }
            });
        });
    }

    fn login(&self, bridge: &Bridge) -> std::process::Command {
        let mut client = self.mariadb.client_inside(&self.bridge_side, bridge.listen);
        client.args(["--execute", "SELECT USER()"]);
        client
    }

    fn can_log_in(&self, bridge: &Bridge) {
        assert_eq!(succeed(self.login(bridge)), format!("app@{BRIDGE}\n"));
    }

    /// The server is asked from its own side, which it never blocks.
    fn ask(&self, sql: &str) -> String {
        self.mariadb.query(self.mariadb.port, sql)
    }

    fn toll(&self) -> Toll {
        let sql = "SELECT SUM(COUNT_HANDSHAKE_ERRORS), SUM(SUM_CONNECT_ERRORS), \
                     SUM(COUNT_AUTHENTICATION_ERRORS + COUNT_AUTH_PLUGIN_ERRORS), \
                     (SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS \
                      WHERE VARIABLE_NAME = 'ABORTED_CONNECTS') \
                   FROM performance_schema.host_cache WHERE IP = '10.78.1.1'";
        let row = self.ask(sql);
        let row: Vec<usize> = row.split('\t').map(|number| number.parse().unwrap()).collect();
        let [handshake_errors, connect_errors, refused, aborted_connects] = row[..] else {
            panic!("{row:?}")
        };
        Toll { handshake_errors, connect_errors, refused, aborted_connects }
    }

    /// Logs in once, so that the server's cache knows the host.
    fn first_toll(&self, bridge: &Bridge) -> Toll {
        self.can_log_in(bridge);
        self.is_quiet();
        self.toll()
    }

    /// Waits until nobody is connected but the one who asks.
    fn is_quiet(&self) {
        let sql = "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS \
                   WHERE VARIABLE_NAME = 'THREADS_CONNECTED'";
        until_it("everybody has left the server", || self.ask(sql), |count| count == "1");
    }

    /// After `count` visits: they have arrived, none of them as an interrupted handshake, and the
    /// next log-in works. Says what they cost.
    fn is_not_blocked(&self, bridge: &Bridge, what: &str, count: usize, before: Toll) {
        until("every session has ended", || (bridge.open_connections() == 0.0).then_some(()));
        self.is_quiet();
        let after = self.toll();
        let refused = after.refused - before.refused;
        let aborted = after.aborted_connects - before.aborted_connects;
        let handshakes = after.handshake_errors - before.handshake_errors;
        let each = aborted as f64 / count as f64;
        // Not `println!`: that is swallowed when a test passes.
        let _ = writeln!(
            io::stderr(),
            "{what}: {count} visits, {handshakes} handshake errors, {refused} refused log-ins, \
             {aborted} Aborted_connects ({each:.2} per visit)"
        );
        assert_eq!((handshakes, after.connect_errors), (0, 0), "{what}: {after:?}");
        assert_eq!(refused, count, "{what}: {after:?}");
        // Counted by MariaDB's threads without a lock (`statistic_increment`): a few can be lost.
        assert!(aborted <= count && aborted + count / 100 + 1 >= count, "{what}: {after:?}");
        self.can_log_in(bridge);
    }
}

/// A way to the server, on the bridge's host, that may take its time: the server greets late.
struct Relay {
    address: SocketAddr,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    begun: AtomicUsize,
    dialled: AtomicUsize,
    ended: AtomicUsize,
}

/// Longer than the head start of one dial over the next.
const SLOWNESS: Duration = Duration::from_millis(400);

impl Relay {
    fn slow(path: &Path) -> Self {
        Self::start(path, "127.0.0.2", SLOWNESS)
    }

    /// At the server's port, so that a name can have several as its addresses.
    fn start(path: &Path, host: &'static str, slowness: Duration) -> Self {
        let server = path.server;
        let counts = Arc::new(Counts::default());
        let at_work = Arc::clone(&counts);
        let address = path.bridge_side.enter(|| {
            let listener = TcpListener::bind((host, server.port())).unwrap();
            serve(&listener, move |near| {
                at_work.begun.fetch_add(1, Ordering::SeqCst);
                thread::sleep(slowness);
                let far = connect(server);
                at_work.dialled.fetch_add(1, Ordering::SeqCst);
                thread::scope(|scope| {
                    scope.spawn(|| carry(&near, &far));
                    carry(&far, &near);
                });
                at_work.ended.fetch_add(1, Ordering::SeqCst);
            })
        });
        Self { address, counts }
    }

    fn begun(&self) -> usize {
        self.counts.begun.load(Ordering::SeqCst)
    }

    fn dialled(&self) -> usize {
        self.counts.dialled.load(Ordering::SeqCst)
    }

    /// Waits until what has come through has gone.
    fn is_left(&self) {
        let look = || (self.counts.ended.load(Ordering::SeqCst), self.begun());
        until_it("this way is empty", look, |(ended, begun)| ended == begun);
    }
}

/// One direction to its end, which is passed on.
fn carry(mut from: &TcpStream, mut to: &TcpStream) {
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        if to.write_all(&chunk[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
