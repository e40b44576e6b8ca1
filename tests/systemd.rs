//! The service manager: what it is told, and sockets that it passes. It is a fake: the variables, the
//! descriptor and the datagrams are those of sd_listen_fds(3) and sd_notify(3).

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::Signal;
use tempfile::TempDir;

use support::bridge::{Bridge, Setup};
use support::process::{command, output};
use support::tcp::{connect, echo, is_reset, try_connect};
use support::{PATIENCE, full_or, skip, until};

/// Receives what a service manager is told.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, folder }
    }

    fn over(&self, setup: Setup) -> Setup {
        let path = self.folder.path().join("notify");
        setup.variables(&[("NOTIFY_SOCKET", path.to_str().unwrap())])
    }

    fn is_told(&self) -> String {
        until("it says something", || self.hears()).expect("not in time")
    }

    /// What is told next, or nothing within the socket's timeout. `None`: ask again. A process that was
    /// stopped and goes on sees EINTR where a socket has a timeout: signal(7).
    fn hears(&self) -> Option<Option<String>> {
        let mut datagram = [0; 4096];
        match self.socket.recv(&mut datagram) {
            Ok(length) => Some(Some(String::from_utf8(datagram[..length].to_vec()).unwrap())),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Some(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits until the watchdog has been fed a few times.
    fn is_fed(&self) {
        for _ in 0..3 {
            until("the watchdog is fed", || (self.is_told() == "WATCHDOG=1\n").then_some(()));
        }
    }

    /// Waits until nothing has been told for two seconds: 20 times what the watchdog here waits.
    fn is_silent(&self) {
        self.socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        until("nothing is told", || self.hears().filter(Option::is_none));
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
}

#[test]
fn it_is_told_of_the_start_of_reloads_and_of_the_end() {
    let manager = Manager::new();
    let mut bridge = manager.over(Bridge::tcp(echo())).start();
    let ready = manager.is_told();
    assert!(ready.contains("READY=1\n"), "{ready}");
    assert!(ready.contains(&format!("STATUS=tidegate: listening on {}", bridge.listen)), "{ready}");

    bridge.reload();
    let reloading = manager.is_told();
    assert!(
        reloading.contains("RELOADING=1\n") && reloading.contains("MONOTONIC_USEC="),
        "{reloading}"
    );
    assert!(manager.is_told().contains("READY=1\n"));

    bridge.signal(Signal::TERM);
    let stopping = manager.is_told();
    assert!(stopping.contains("STOPPING=1\n"), "{stopping}");
    assert_eq!(bridge.ends().code(), Some(0));
}

/// A data thread that lacks descriptors gives its spare one up and opens it again, at `/dev/null`. Here
/// that is a FIFO, and to open one that nobody writes to takes until somebody does.
#[test]
fn the_watchdog_is_fed_until_a_data_thread_hangs() {
    let mut mount = command("unshare");
    mount.args(["--mount", "true"]);
    if !output(mount).status.success() {
        return skip("mount namespaces need root");
    }
    let manager = Manager::new();
    let fifo = manager.folder.path().join("null");
    mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
    let writer = || File::options().read(true).write(true).open(&fifo).unwrap();
    let first_writer = writer();
    let setup = manager.over(Bridge::tcp(echo())).variables(&[("WATCHDOG_USEC", "100000")]);
    let bridge = setup.with_dev_null(&fifo).start();
    assert!(manager.is_told().contains("READY=1"));
    manager.is_fed();

    drop(first_writer);
    let most = bridge.most_descriptors();
    bridge.limit_descriptors(100);
    // They are all there when it goes on, so that not each gets the descriptor of the one before.
    bridge.stop();
    let crowd: Vec<TcpStream> = (0..200).map(|_| connect(bridge.listen)).collect();
    bridge.signal(Signal::CONT);
    manager.is_silent();
    // Nothing else hangs.
    bridge.limit_descriptors(most);
    assert_eq!(bridge.get("/livez").status, 200);
    manager.is_silent();

    let _writer = writer();
    manager.is_fed();
    drop(crowd);
    echoes(&connect(bridge.listen));
}

/// From then on systemd's watchdog rests (service_set_state of src/core/service.c), and so does whoever
/// feeds it.
#[test]
fn a_drain_is_told_at_its_beginning_and_sessions_end_by_themselves() {
    let manager = Manager::new();
    let setup = manager.over(Bridge::tcp(echo())).variables(&[("WATCHDOG_USEC", "100000")]);
    let mut bridge = setup.start();
    let session = connect(bridge.listen);
    echoes(&session);
    manager.is_fed();
    bridge.signal(Signal::TERM);
    until("it says that it stops", || manager.is_told().contains("STOPPING=1\n").then_some(()));
    manager.is_silent();
    echoes(&session);
    drop(session);
    assert_eq!(bridge.ends().code(), Some(0));
}

#[test]
fn a_manager_that_is_gone_does_not_keep_it_from_a_reload_or_from_the_end() {
    let manager = Manager::new();
    let mut bridge = manager.over(Bridge::tcp(echo())).start();
    assert!(manager.is_told().contains("READY=1"));
    drop(manager);
    let said = bridge.reload();
    assert!(said.contains("\"reloaded\""), "{said}");
    echoes(&connect(bridge.listen));
    bridge.signal(Signal::TERM);
    assert_eq!(bridge.ends().code(), Some(0));
}

#[test]
fn a_socket_that_is_passed_is_served_by_name_or_by_address() {
    let gateway = echo();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    for (name, bind) in
        [("app", "127.0.0.1:0".to_owned()), ("tidegate.socket", address.to_string())]
    {
        let setup = Bridge::from_file(&file(&bind, gateway));
        let mut bridge = setup.with_socket(name, &socket).start();
        assert_eq!(bridge.listening, [address]);
        echoes(&connect(address));
        // What the file says of the address does not matter at a reload either.
        bridge.reload();
        echoes(&connect(address));
        bridge.signal(Signal::TERM);
        assert_eq!(bridge.ends().code(), Some(0));
    }
}

#[test]
fn a_passed_socket_that_a_reload_gives_up_can_be_had_back() {
    let gateway = echo();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let with = file(&address.to_string(), gateway);
    let bridge = Bridge::from_file(&with).with_socket("tidegate.socket", &socket).start();
    echoes(&connect(address));
    bridge.rewrite(&file("127.0.0.1:0", gateway));
    assert!(bridge.reload().contains("\"reloaded\""));
    // The service manager still listens.
    let waits = connect(address);
    bridge.rewrite(&with);
    assert!(bridge.reload().contains("\"reloaded\""));
    echoes(&waits);
    echoes(&connect(address));
}

#[test]
fn a_passed_socket_that_anybody_can_reach_is_refused_without_a_word() {
    let socket = TcpListener::bind("0.0.0.0:0").unwrap();
    let setup = Bridge::from_file(&file("127.0.0.1:0", echo())).with_socket("app", &socket);
    let said = setup.try_start().err().expect("it serves");
    assert!(said.contains("allow_any"), "{said}");

    // Nor does a reload take the word back.
    let without = file("127.0.0.1:0", echo());
    let with = without.replace("[upstream", "allow = [\"127.0.0.9\"]\n[upstream");
    let bridge = Bridge::from_file(&with).with_socket("app", &socket).start();
    bridge.rewrite(&without);
    let said = bridge.reload();
    assert!(said.contains("cannot reload") && said.contains("any host"), "{said}");
    let local = SocketAddr::from(([127, 0, 0, 1], socket.local_addr().unwrap().port()));
    // The reset may be there before the connect has returned.
    let end = try_connect(local).and_then(|mut client| client.read(&mut [0]).map(drop));
    assert!(is_reset(&end), "{end:?}");
}

#[test]
fn what_is_passed_and_is_no_listening_socket_is_named() {
    let connected = connect(echo());
    let as_listener = TcpListener::from(std::os::fd::OwnedFd::from(connected));
    let said = Bridge::from_file(&file("127.0.0.1:0", echo()))
        .with_socket("app", &as_listener)
        .try_start()
        .err()
        .expect("it serves");
    assert!(said.contains("LISTEN_FDS") && said.contains("`app` does not listen"), "{said}");
}

/// The socket stays open while one bridge ends and the next begins.
#[test]
fn restarts_in_a_storm_of_connects_lose_not_one() {
    let gateway = echo();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let start =
        || Bridge::from_file(&file("127.0.0.1:0", gateway)).with_socket("app", &socket).start();
    let (served, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut bridge = start();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        echoes(&connect(address));
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for _ in 0..full_or(10, 3) {
            let before = served.load(Ordering::Relaxed);
            until("the storm goes on", || {
                (served.load(Ordering::Relaxed) > before + 200).then_some(())
            });
            bridge.signal(Signal::TERM);
            assert_eq!(bridge.ends().code(), Some(0));
            bridge = start();
        }
        done.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("a connection was lost");
        }
    });
}

#[test]
fn the_units_are_sound() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/systemd");
    let folder = tempfile::tempdir().unwrap();
    for name in ["tidegate.service", "tidegate.socket"] {
        let text = fs::read_to_string(units.join(name)).unwrap();
        // It looks whether the program is there.
        let text = text.replace("/usr/local/bin/tidegate", env!("CARGO_BIN_EXE_tidegate"));
        fs::write(folder.path().join(name), text).unwrap();
    }
    let mut version = command("systemd-analyze");
    version.arg("--version");
    let version = output(version);
    if !version.status.success() {
        return skip("no systemd-analyze");
    }
    let mut verify = command("systemd-analyze");
    verify.args(["verify", "--recursive-errors=no", "--man=no"]);
    verify.args(["tidegate.service", "tidegate.socket"].map(|name| folder.path().join(name)));
    let said = String::from_utf8(output(verify).stderr).unwrap();
    // Debian 12 has systemd 252, which does not know the type yet.
    let is_old = String::from_utf8_lossy(&version.stdout).starts_with("systemd 252 ");
    let known = |line: &&str| !(is_old && line.ends_with("ignoring: notify-reload"));
    let complaints: Vec<_> = said.lines().filter(known).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// What is not allowed ends the process with SIGSYS.
#[test]
fn the_unit_allows_the_owner_of_a_unix_socket_to_be_set() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/systemd/tidegate.service");
    let unit = fs::read_to_string(unit).unwrap();
    let mut allowed = BTreeSet::new();
    for filter in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let calls = |set| calls_of(set).unwrap_or_default();
        match filter.strip_prefix('~') {
            Some(set) => allowed = &allowed - &calls(set),
            None => allowed.append(&mut calls(filter)),
        }
    }
    if allowed.is_empty() {
        return skip("no systemd-analyze");
    }
    // lchown(2) has a number of its own on some architectures only.
    for call in ["lchown", "fchownat", "fchmod", "flock", "accept4", "splice"] {
        assert!(allowed.contains(call), "{call} is not allowed");
    }
    assert!(!allowed.contains("reboot"), "the filter is not understood");
}

/// The system calls of a set such as `@chown`, those of the sets in it as well.
fn calls_of(set: &str) -> Option<BTreeSet<String>> {
    let mut list = command("systemd-analyze");
    list.args(["syscall-filter", set]);
    let listed = output(list);
    let text = listed.status.success().then(|| String::from_utf8(listed.stdout).unwrap())?;
    let mut calls = BTreeSet::new();
    for name in text.lines().skip(1).map(str::trim).filter(|name| !name.starts_with('#')) {
        match name.starts_with('@') {
            true => calls.append(&mut calls_of(name)?),
            false => drop(calls.insert(name.to_owned())),
        }
    }
    Some(calls)
}

fn file(bind: &str, gateway: SocketAddr) -> String {
    format!(
        "admin = \"127.0.0.1:0\"\n[[listener]]\nname = \"app\"\nbind = \"{bind}\"\nprotocol = \"tcp\"\n\
         [upstream.gw]\ngateway = \"{gateway}\"\n"
    )
}

fn echoes(mut client: &TcpStream) {
    client.write_all(b"marco").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"marco");
}
