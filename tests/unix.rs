//! Unix sockets: whose they are, who may serve them, and what goes through them.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::iter;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mysql_async::prelude::*;
use mysql_async::{Conn, Opts};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Gid, Signal, Uid, geteuid, getuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tempfile::TempDir;
use tidegate::config::{Mode, Owner, UnixSocket, parse};
use tidegate::log::Repeats;
use tidegate::net::listener::{Accepted, Listener};
use tidegate::net::unix::{self, BindError};

use support::bridge::{Bridge, Setup, tidegate};
use support::mariadb::MariaDb;
use support::process::succeed;
use support::tcp::{
    Noise, accept, echo, expect_noise, is_reset, listener, nobody, read_exactly, read_to_the_end,
    reset, send_noise, unacknowledged, until_acknowledged,
};
use support::{PATIENCE, full_or, runtime, skip, until, until_it};

/// A user and a group without a right here.
const NOBODY: u32 = 65534;
const MIB: usize = 1024 * 1024;
/// Everything that can move has moved when nothing has for so long.
const QUIET: Duration = Duration::from_millis(300);

// Whose it is.

#[test]
fn the_file_has_the_mode_that_was_asked_for_and_is_never_seen_with_a_wider_one() {
    let cases =
        [(&[][..], 0o660), (&["--unix-mode", "0222"], 0o222), (&["--unix-mode", "0666"], 0o666)];
    // A wider one would be there for a moment only.
    let rounds = iter::repeat_n((&["--unix-mode", "0600"][..], 0o600), full_or(40, 12));
    for (flags, mode) in cases.into_iter().chain(rounds) {
        let folder = folder();
        let path = folder.path().join("app.sock");
        let bound = AtomicBool::new(false);
        thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut seen = Vec::new();
                while !bound.load(Ordering::Relaxed) {
                    if let Ok(found) = fs::symlink_metadata(&path) {
                        seen.push(found.mode() & 0o7777);
                        seen.dedup();
                    }
                }
                seen
            });
            let bridge = at(&path, echo()).flags(flags).start();
            bound.store(true, Ordering::Relaxed);
            let seen = watcher.join().unwrap();
            assert!(seen.iter().all(|seen| seen & !mode == 0), "{mode:o}: {seen:?} were seen");
            assert_eq!(mode_of(&path), mode);
            echoes(&connect(&bridge.sockets[0]));
        });
    }
}

#[test]
fn the_file_has_the_owner_that_was_asked_for() {
    if !geteuid().is_root() {
        return skip("giving a file to another user takes root");
    }
    for (owner, user, group) in [
        ("65534:65533", 65534, 65533),
        ("65534", 65534, 0),
        (":65533", 0, 65533),
        ("nobody:root", named("/etc/passwd", "nobody"), 0),
        ("", 0, 0),
    ] {
        let folder = folder();
        let path = folder.path().join("app.sock");
        let bridge = at(&path, echo()).flags(&[&format!("--unix-owner={owner}")]).start();
        let found = fs::symlink_metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid()), (user, group), "{owner}");
        echoes(&connect(&bridge.sockets[0]));
    }
}

#[test]
fn whoever_the_mode_leaves_out_is_refused_and_whoever_it_lets_in_is_served() {
    if !geteuid().is_root() {
        return skip("becoming another user takes root");
    }
    let cases = [
        (&["--unix-mode", "0600"][..], false),
        (&["--unix-mode", "0660"], false),
        (&["--unix-mode", "0666"], true),
        (&["--unix-mode", "0600", "--unix-owner", "65534"], true),
        (&["--unix-mode", "0660", "--unix-owner", ":65534"], true),
    ];
    for (flags, let_in) in cases {
        let folder = folder();
        let path = folder.path().join("app.sock");
        let _bridge = at(&path, echo()).flags(flags).start();
        let tried = as_nobody(|| try_connect(&path).map(|client| echoes(&client)));
        match tried {
            Ok(()) => assert!(let_in, "{flags:?} lets nobody in"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{flags:?}");
                assert!(!let_in, "{flags:?} keeps nobody out");
            }
        }
    }
}

// Who may serve it.

#[test]
fn what_a_killed_bridge_has_left_does_not_stop_the_next() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let mut first = at(&path, echo()).start();
    first.signal(Signal::KILL);
    first.ends();
    assert!(is_socket(&path));
    assert_eq!(try_connect(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let next = at(&path, echo()).start();
    echoes(&connect(&next.sockets[0]));
}

#[test]
fn a_path_that_another_bridge_serves_is_refused_and_stays_its_own() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let first = at(&path, echo()).start();
    let said = fails(&path, 1);
    assert!(said.contains(&format!("cannot listen on unix:{}", path.display())), "{said}");
    assert!(said.contains("another process serves it"), "{said}");
    assert!(said.contains("\nhint: "), "{said}");
    echoes(&connect(&first.sockets[0]));
    assert_eq!(entries(&folder), ["app.sock"]);
}

#[test]
fn a_path_that_any_other_process_serves_is_refused_also_when_its_queue_is_full() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(1).unwrap();
    let owner = UnixListener::from(OwnedFd::from(socket));
    assert!(fails(&path, 1).contains("another process serves it"));
    // The visit is over, but waits in the queue like any other.
    let _waiting = UnixStream::connect(&path).unwrap();
    assert!(fails(&path, 1).contains("another process serves it"));
    owner.set_nonblocking(true).unwrap();
    assert!(owner.accept().is_ok() && owner.accept().is_ok());
}

#[test]
fn what_is_no_socket_is_refused_and_left_as_it_is() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let refused = |what: &str| {
        let said = fails(&path, 78);
        assert!(said.contains(&path.display().to_string()), "{said}");
        assert!(said.contains(&format!("what is there is {what}, and no socket")), "{said}");
        assert!(check(&path, &[]).0 != Some(0), "{what} passes the check");
    };
    fs::write(&path, "precious").unwrap();
    refused("a file");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

    let elsewhere = folder.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    refused("a symbolic link");
    assert_eq!(fs::read_link(&path).unwrap(), elsewhere);

    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused("a folder");
    assert!(path.is_dir());
}

#[test]
fn a_lock_that_somebody_keeps_is_told_and_one_that_is_left_over_is_not_in_the_way() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let lock = folder.path().join("app.sock.lock");
    let held = fs::File::create(&lock).unwrap();
    flock(&held, FlockOperation::LockExclusive).unwrap();
    let said = fails(&path, 1);
    assert!(said.contains(&format!("cannot lock {}", lock.display())), "{said}");
    assert!(said.contains("\nhint: another process holds it"), "{said}");
    assert!(!path.exists());
    drop(held);
    let bridge = at(&path, echo()).start();
    echoes(&connect(&bridge.sockets[0]));
    assert_eq!(entries(&folder), ["app.sock"]);
}

#[test]
fn of_bridges_that_start_at_once_one_serves_and_the_others_say_so() {
    for round in 0..full_or(20, 5) {
        let folder = folder();
        let path = folder.path().join("app.sock");
        if round % 2 == 0 {
            leave_stale(&path);
        }
        let upstream = echo();
        let started: Vec<_> = thread::scope(|scope| {
            let starting: Vec<_> =
                (0..4).map(|_| scope.spawn(|| at(&path, upstream).try_start())).collect();
            starting.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let (serving, refused): (Vec<_>, Vec<_>) = started.into_iter().partition(Result::is_ok);
        assert_eq!(serving.len(), 1, "round {round}: {} bridges serve", serving.len());
        for said in refused.into_iter().filter_map(Result::err) {
            assert!(said.contains("another process serves it"), "round {round}: {said}");
        }
        echoes(&connect(&path));
        assert_eq!(entries(&folder), ["app.sock"], "round {round}");
    }
}

/// The same without the start of a process, which takes far longer than the moment that matters.
#[test]
fn of_threads_that_bind_at_once_one_succeeds() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let settings = UnixSocket { mode: Mode(0o600), owner: Owner::default() };
    for round in 0..full_or(2000, 200) {
        if round % 2 == 0 {
            leave_stale(&path);
        }
        let together = Barrier::new(4);
        let bound: Vec<_> = thread::scope(|scope| {
            let attempt = || {
                together.wait();
                unix::bind(&path, 2, &settings)
            };
            let attempts: Vec<_> = (0..4).map(|_| scope.spawn(attempt)).collect();
            attempts.into_iter().map(|attempt| attempt.join().unwrap()).collect()
        });
        let (bound, refused): (Vec<_>, Vec<_>) = bound.into_iter().partition(Result::is_ok);
        assert_eq!(bound.len(), 1, "round {round}: {} are bound", bound.len());
        for error in refused.into_iter().filter_map(Result::err) {
            assert!(matches!(error, BindError::Served), "round {round}: {error:?}");
        }
        UnixStream::connect(&path).unwrap();
        drop(bound);
        assert!(entries(&folder).is_empty(), "round {round}");
    }
}

// How it ends.

/// tokio asks a socket that is shut down for connections again and again, within one poll.
#[test]
fn of_threads_that_accept_the_first_to_stop_leaves_the_others_in_peace() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let settings = UnixSocket { mode: Mode(0o600), owner: Owner::default() };
    let tcp = parse("[upstream.a]\ngateway = \"a\"\n", "test").unwrap().tcp;
    let sockets = unix::bind(&path, 2, &settings).unwrap();
    runtime().block_on(async {
        let listener = |socket| Listener::new("app", socket, &tcp, false, &Repeats::default());
        let mut listeners = sockets.into_iter().map(|socket| listener(socket).unwrap());
        let (mut stays, leaves) = (listeners.next().unwrap(), listeners.next().unwrap());
        let accepting = tokio::spawn(async move { stays.accept(b"").await });
        tokio::task::yield_now().await;
        assert!(leaves.into_queue().next(b"").await.is_none());
        let _client = UnixStream::connect(&path).unwrap();
        assert!(matches!(accepting.await.unwrap(), Accepted::Connection(..)));
    });
}

#[test]
fn the_file_is_gone_when_the_drain_begins_and_sessions_go_on() {
    for threads in ["1", "4"] {
        let folder = folder();
        let path = folder.path().join("app.sock");
        let mut bridge = with_threads(threads, &path, echo()).start();
        let client = connect(&path);
        echoes(&client);
        bridge.signal(Signal::TERM);
        until_it("the file is removed", || entries(&folder), Vec::is_empty);
        assert_eq!(try_connect(&path).unwrap_err().kind(), ErrorKind::NotFound);
        echoes(&client);
        assert!(bridge.is_running());
        drop(client);
        assert_eq!(bridge.ends().code(), Some(0));
        assert_eq!(bridge.close_record().text("reason"), "eof");
    }
}

#[test]
fn a_bridge_that_cannot_start_leaves_no_file() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let taken = listener();
    let second = format!("--listen={}", taken.local_addr().unwrap());
    let said = at(&path, echo()).flags(&[&second]).try_start().err().unwrap();
    assert!(said.contains("cannot listen on 127.0.0.1"), "{said}");
    assert!(entries(&folder).is_empty());
}

#[test]
fn a_successor_takes_the_path_while_its_predecessor_drains_and_keeps_it() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let mut old = at(&path, echo()).start();
    let client = connect(&path);
    echoes(&client);
    old.signal(Signal::TERM);
    until("the old one listens no more", || try_connect(&path).is_err().then_some(()));
    let new = at(&path, echo()).start();
    drop(client);
    assert_eq!(old.ends().code(), Some(0));
    echoes(&connect(&new.sockets[0]));
}

#[test]
fn a_file_that_is_somebody_elses_by_now_is_not_removed() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let mut bridge = at(&path, echo()).start();
    let theirs = folder.path().join("theirs");
    let owner = UnixListener::bind(&theirs).unwrap();
    fs::rename(&theirs, &path).unwrap();
    bridge.signal(Signal::TERM);
    assert_eq!(bridge.ends().code(), Some(0));
    let _visitor = UnixStream::connect(&path).unwrap();
    owner.accept().unwrap();
}

#[test]
fn connections_that_wait_to_be_accepted_when_the_signal_comes_are_served() {
    const WAITING: usize = 400;
    for threads in ["1", "4"] {
        let folder = folder();
        let path = folder.path().join("app.sock");
        let mut bridge = with_threads(threads, &path, echo()).start();
        bridge.signal(Signal::STOP);
        let waiting: Vec<TcpStream> = (0..WAITING).map(|_| connect(&path)).collect();
        bridge.signal(Signal::TERM);
        bridge.signal(Signal::CONT);
        waiting.iter().for_each(echoes);
        drop(waiting);
        assert_eq!(bridge.ends().code(), Some(0));
        bridge.close_records(WAITING);
    }
}

/// Over TCP there is a moment in which a connection is reset; here there is none.
#[test]
fn under_load_every_connection_is_served_or_refused_when_the_drain_begins() {
    for threads in ["1", "4"] {
        for _ in 0..full_or(10, 3) {
            let folder = folder();
            let path = folder.path().join("app.sock");
            let mut bridge = with_threads(threads, &path, echo()).start();
            let answered = AtomicU64::new(0);
            thread::scope(|scope| {
                let visitors: Vec<_> = (0..8)
                    .map(|_| {
                        scope.spawn(|| {
                            while let Ok(client) = try_connect(&path) {
                                echoes(&client);
                                answered.fetch_add(1, Ordering::Relaxed);
                            }
                        })
                    })
                    .collect();
                until("the load runs", || (answered.load(Ordering::Relaxed) > 100).then_some(()));
                bridge.signal(Signal::TERM);
                for visitor in visitors {
                    visitor.join().expect("a connection was neither served nor refused");
                }
            });
            assert_eq!(bridge.ends().code(), Some(0));
        }
    }
}

#[test]
fn sessions_that_outlast_the_drain_timeout_are_closed() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let mut bridge = at(&path, echo()).flags(&["--drain-timeout", "300ms"]).start();
    let client = connect(&path);
    echoes(&client);
    bridge.signal(Signal::TERM);
    let _ = read_to_the_end(&client);
    assert_eq!(bridge.ends().code(), Some(0));
    let record = bridge.close_record();
    assert_eq!((record.text("side"), record.text("reason")), ("tidegate", "drain"));
}

// A reload.

#[test]
fn a_reload_keeps_adds_and_removes_paths_and_drops_no_session() {
    let folder = folder();
    let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
    let bridge = Bridge::from_file(&reloadable(&[&one], "0600", echo())).start();
    let session = connect(&one);
    echoes(&session);
    let made = inode_of(&one);

    bridge.rewrite(&reloadable(&[&one, &two], "0600", echo()));
    assert!(bridge.reload().contains("\"reloaded\""));
    assert_eq!(inode_of(&one), made, "the socket that stays was not made again");
    assert_eq!(mode_of(&two), 0o600);
    echoes(&connect(&one));
    echoes(&connect(&two));

    bridge.rewrite(&reloadable(&[&two], "0600", echo()));
    bridge.reload();
    until_it("the path that is gone is free", || entries(&folder), |there| there == &["two"]);
    assert_eq!(try_connect(&one).unwrap_err().kind(), ErrorKind::NotFound);
    echoes(&connect(&two));
    echoes(&session);
}

#[test]
fn a_changed_mode_needs_a_restart_and_is_told_of_each_time() {
    let folder = folder();
    let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
    let bridge = Bridge::from_file(&reloadable(&[&one], "0600", echo())).start();
    bridge.rewrite(&reloadable(&[&one, &two], "0666", echo()));
    let warned =
        |line: &&String| line.contains("only after a restart") && line.contains("unix_mode");
    for times in 1..=2 {
        bridge.reload();
        let count = || bridge.log().iter().filter(warned).count();
        until_it("the key is named", count, |count| *count == times);
    }
    assert_eq!((mode_of(&one), mode_of(&two)), (0o600, 0o600));
}

#[test]
fn a_reload_that_cannot_open_a_path_leaves_everything_as_it_was() {
    let folder = folder();
    let [one, new, theirs] = ["one", "new", "theirs"].map(|name| folder.path().join(name));
    let _owner = UnixListener::bind(&theirs).unwrap();
    let bridge = Bridge::from_file(&reloadable(&[&one], "0600", echo())).start();
    bridge.rewrite(&reloadable(&[&new, &theirs], "0600", echo()));
    let said = bridge.reload();
    assert!(said.contains("cannot reload") && said.contains(theirs.to_str().unwrap()), "{said}");
    echoes(&connect(&one));
    assert!(!new.exists(), "what had been opened is closed");
    assert!(is_socket(&theirs));
}

// What is said.

#[test]
fn a_server_that_is_told_of_clients_hears_that_this_one_has_no_address() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let upstream = listener();
    let gateway = upstream.local_addr().unwrap();
    let _bridge = at(&path, gateway).flags(&["--send-proxy-protocol", "v2"]).start();
    let (client, server) = through(&path, &upstream);
    (&client).write_all(b"hello").unwrap();
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    header.extend_from_slice(b"hello");
    assert_eq!(read_exactly(&server, header.len()), header, "LOCAL, and what the client said");
}

#[test]
fn addresses_and_clients_are_shown_as_what_they_are() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let also = format!("--listen=unix:{}", path.display());
    let bridge = Bridge::tcp(echo()).flags(&[&also]).start();
    assert_eq!((bridge.sockets.len(), bridge.listening.len()), (1, 1));
    assert_eq!(bridge.sockets[0], path);
    let status: serde_json::Value = serde_json::from_str(&bridge.get("/status.json").body).unwrap();
    let expected = [bridge.listen.to_string(), format!("unix:{}", path.display())];
    assert_eq!(status["listeners"][0]["addresses"], serde_json::json!(expected));
    assert!(bridge.get("/status").body.contains(&expected[1]));

    echoes(&connect(&path));
    let client = bridge.close_record().text("client").to_owned();
    assert_eq!(client, format!("unix:pid={},uid={}", process::id(), getuid().as_raw()));
    echoes(&support::tcp::connect(bridge.listen));
    assert!(bridge.close_records(2)[1].text("client").starts_with("127.0.0.1:"));
}

#[test]
fn a_path_a_mode_and_an_owner_come_from_the_file_as_from_flags() {
    let folder = folder();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let bridge = Bridge::from_file_alone(&format!(
        "admin = \"127.0.0.1:0\"\nthreads = 4\n\
         [[listener]]\nprotocol = \"tcp\"\nunix_mode = \"0600\"\nunix_owner = \":{}\"\n\
         bind = [\"unix:{}\", \"127.0.0.1:0\", \"unix:{}\"]\n\
         [upstream.peer]\ngateway = \"{}\"\n",
        rustix::process::getgid().as_raw(),
        one.display(),
        two.display(),
        echo(),
    ))
    .start();
    for path in [&one, &two] {
        assert_eq!(mode_of(path), 0o600);
        echoes(&connect(path));
    }
    echoes(&support::tcp::connect(bridge.listen));
}

#[test]
fn what_cannot_be_bound_is_told_by_key_and_path_and_with_a_hint() {
    let folder = folder();
    let inside = |name: &str| folder.path().join(name).display().to_string();
    let cases = [
        ("@tidegate".to_owned(), "expected a path", "no mode and no owner"),
        ("app.sock".to_owned(), "expected an absolute path", ""),
        (format!("/{}", "x".repeat(107)), "at the most, and this one has 108", "shorter folder"),
        (inside("my app.sock"), "white space", ""),
    ];
    for (path, expected, hint) in cases {
        let (code, said) = check(Path::new(&path), &[]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(&format!("`listen` is `unix:{path}`")), "{said}");
        assert!(said.contains(expected) && said.contains(hint), "{said}");
    }
    let cases = [
        (inside("nowhere/app.sock"), &[][..], "/nowhere cannot be used", "make it first"),
        (inside("app.sock"), &["--unix-owner=no-such-user"], "`no-such-user`", "by their number"),
        (inside("app.sock"), &["--unix-owner=:no-group"], "unix_owner is `:no-group`", "/etc"),
    ];
    for (path, flags, expected, hint) in cases {
        let (code, said) = check(Path::new(&path), flags);
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains(&format!("cannot listen on unix:{path}")), "{said}");
        assert!(said.contains(expected) && said.contains("\nhint: "), "{said}");
        assert!(said.contains(hint), "{said}");
    }
    let (code, said) = check(Path::new(&inside("app.sock")), &["--unix-mode=660"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("`unix_mode` is `660`") && said.contains("\"0660\""), "{said}");
    assert!(entries(&folder).is_empty(), "a check has made something");
}

#[test]
fn a_folder_that_takes_no_files_is_told_before_anything_is_bound() {
    if !geteuid().is_root() {
        return skip("becoming another user takes root");
    }
    let folder = folder();
    let path = folder.path().join("app.sock");
    let said = by_nobody(&path).try_start().err().unwrap();
    assert!(said.contains(&format!("{} cannot be used", folder.path().display())), "{said}");
    assert!(said.contains("ermission denied") && said.contains("\nhint: "), "{said}");
}

#[test]
fn an_owner_that_the_process_may_not_choose_is_told_and_no_file_is_left() {
    if !geteuid().is_root() {
        return skip("becoming another user takes root");
    }
    let folder = folder();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let path = folder.path().join("app.sock");
    let said = by_nobody(&path).flags(&["--unix-owner=root"]).try_start().err().unwrap();
    assert!(said.contains("cannot set unix_owner `root`"), "{said}");
    assert!(said.contains("CAP_CHOWN"), "{said}");
    assert!(entries(&folder).is_empty());
}

#[test]
fn a_check_does_not_disturb_the_bridge_that_serves_the_path() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let bridge = at(&path, echo()).start();
    let (code, printed) = check(&path, &["--unix-mode=0600"]);
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("unix_mode = \"0600\"") && printed.contains("unix_owner = \"\""));
    assert!(printed.contains(&format!("bind = [\"unix:{}\"]", path.display())), "{printed}");
    echoes(&connect(&path));
    bridge.has_accounted_for(1.0);
}

// What goes through it.

#[test]
fn a_real_server_is_spoken_to_by_real_clients() {
    let Some(db) = MariaDb::shared() else { return };
    let folder = folder();
    let path = folder.path().join("app.sock");
    let listen = format!("unix:{}", path.display());
    let bridge = Bridge::to(db.address()).flags(&["--listen", &listen]).start();
    let opts = db.opts(db.port).socket(path.to_str());
    let large = "x".repeat(3 * MIB);
    runtime().block_on(async {
        let mut conn = Conn::new(Opts::from(opts)).await.unwrap();
        assert_eq!(conn.query_first("SELECT 6 * 7").await.unwrap(), Some(42));
        let length: Option<usize> = conn.exec_first("SELECT LENGTH(?)", (&large,)).await.unwrap();
        assert_eq!(length, Some(large.len()));
        let back: Option<String> = conn.query_first("SELECT REPEAT('x', 3145728)").await.unwrap();
        assert!(back.unwrap() == large);
        conn.disconnect().await.unwrap();
    });
    let mut client = db.client_at(&path);
    client.args(["--execute", "SELECT 'ebb', 'flow'"]);
    assert_eq!(succeed(client).trim_end(), "ebb\tflow");
    bridge.has_accounted_for(2.0);
    for record in bridge.close_records(2) {
        assert!(record.text("client").starts_with("unix:pid="), "{record:?}");
        assert_eq!(record.text("reason"), "eof");
    }
}

#[test]
fn a_client_is_told_in_mysqls_words_when_there_is_no_server() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let (gateway, _held) = nobody();
    let listen = format!("unix:{}", path.display());
    let _bridge = Bridge::to(gateway).flags(&["--listen", &listen]).start();
    let (said, end) = read_to_the_end(&connect(&path));
    let text = String::from_utf8_lossy(&said);
    assert!(text.contains("tidegate: cannot reach") && end.is_ok(), "{text:?}, {end:?}");
}

#[test]
fn sixty_four_mebibytes_each_way_and_two_half_closes_arrive_whole() {
    for (threads, splice) in [("1", "auto"), ("4", "auto"), ("1", "off")] {
        let folder = folder();
        let path = folder.path().join("app.sock");
        let upstream = listener();
        let gateway = upstream.local_addr().unwrap();
        let bridge = with_threads(threads, &path, gateway).flags(&["--splice", splice]).start();
        let (client, server) = through(&path, &upstream);
        thread::scope(|scope| {
            for (from, to, seed) in [(&client, &server, 1), (&server, &client, 2)] {
                scope.spawn(move || send_noise(from, seed, 64 * MIB).unwrap());
                scope.spawn(move || expect_noise(to, seed, 64 * MIB));
            }
        });
        drop((client, server));
        bridge.has_accounted_for(1.0);
        let [to_upstream, to_client] = spliced(&bridge);
        match splice {
            "auto" => assert!(to_upstream > 0.0 && to_client > 0.0, "{to_upstream} {to_client}"),
            _ => assert_eq!((to_upstream, to_client), (0.0, 0.0)),
        }
        let record = bridge.close_record();
        assert_eq!(record.text("reason"), "eof");
        assert_eq!(record.number("bytes_to_client"), (64 * MIB) as f64);
    }
}

#[test]
fn one_side_that_has_said_all_still_hears_the_other() {
    let (_folder, path, upstream, bridge) = plain();
    for first_is_client in [true, false] {
        let (client, server) = through(&path, &upstream);
        let (mut first, mut second) =
            if first_is_client { (&client, &server) } else { (&server, &client) };
        first.write_all(b"the whole question").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        let (heard, end) = read_to_the_end(second);
        assert_eq!((heard.as_slice(), end.is_ok()), (&b"the whole question"[..], true));
        second.write_all(b"the whole answer").unwrap();
        second.shutdown(Shutdown::Write).unwrap();
        let (heard, end) = read_to_the_end(first);
        assert_eq!((heard.as_slice(), end.is_ok()), (&b"the whole answer"[..], true));
    }
    bridge.has_accounted_for(2.0);
}

#[test]
fn a_slow_reader_gets_every_byte() {
    let (_folder, path, upstream, bridge) = plain();
    let (client, server) = through(&path, &upstream);
    let sending = thread::spawn(move || send_noise(&server, 3, 16 * MIB).unwrap());
    let relayed = bridge.relays_no_more_for(QUIET);
    assert!(relayed < (16 * MIB) as f64, "nothing held the server back");
    expect_noise(&client, 3, 16 * MIB);
    sending.join().unwrap();
    assert!(spliced(&bridge)[1] > 0.0);
}

#[test]
fn a_client_that_is_gone_in_the_middle_of_a_result_resets_the_server() {
    let (_folder, path, upstream, bridge) = plain();
    for _ in 0..full_or(20, 5) {
        let (client, mut server) = through(&path, &upstream);
        let writing = server.try_clone().unwrap();
        let writing = thread::spawn(move || send_noise(&writing, 4, 64 * MIB));
        assert_eq!(read_exactly(&client, MIB).len(), MIB);
        drop(client);
        writing.join().unwrap().unwrap_err();
        let end = until("the server is told", || match server.read(&mut [0; 512]) {
            Ok(0) => Some(Ok(())),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        });
        // The write may have taken the error.
        assert!(end.is_ok() || is_reset(&end), "{end:?}");
    }
    bridge.has_accounted_for(full_or(20, 5) as f64);
    for record in bridge.close_records(full_or(20, 5)) {
        assert_eq!((record.text("side"), record.text("reason")), ("client", "reset"));
    }
    assert_eq!(bridge.bytes_in_pipes(), 0);
}

#[test]
fn a_killed_client_that_left_bytes_unread_resets_an_idle_server() {
    let (_folder, path, upstream, bridge) = plain();
    let (client, mut server) = through(&path, &upstream);
    server.write_all(b"unread").unwrap();
    until_it(
        "the client has it",
        || bridge.metrics().sum("tidegate_bytes_total", &[]),
        |n| *n > 0.0,
    );
    drop(client);
    assert!(is_reset(&read_to_the_end(&server).1));
    let record = bridge.close_record();
    assert_eq!((record.text("side"), record.text("reason")), ("client", "reset"));
}

/// The server has been told that the client will say no more, and is free to answer; but nobody is
/// left to hear it.
#[test]
fn a_client_that_closed_for_good_is_noticed_while_the_server_is_silent() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let upstream = listener();
    let gateway = upstream.local_addr().unwrap();
    let bridge = at(&path, gateway).flags(&["--stall-timeout", "600ms"]).start();
    let (mut client, server) = through(&path, &upstream);
    // One that only half-closes is waited for.
    let (mut patient, mut answering) = through(&path, &upstream);
    for client in [&mut client, &mut patient] {
        client.write_all(b"bye").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    }
    drop(client);
    let start = Instant::now();
    let (heard, end) = read_to_the_end(&server);
    assert_eq!((heard.as_slice(), end.is_ok()), (&b"bye"[..], true));
    bridge.close_records(1);
    assert!(start.elapsed() >= Duration::from_millis(600), "cut after {:?}", start.elapsed());
    let record = bridge.close_record();
    assert_eq!((record.text("side"), record.text("reason")), ("client", "reset"));
    assert_eq!(read_exactly(&answering, 3), b"bye");
    answering.write_all(b"so long").unwrap();
    drop(answering);
    assert_eq!(read_to_the_end(&patient).0, b"so long");
}

#[test]
fn what_a_server_said_before_its_reset_is_heard_and_then_the_end() {
    let (_folder, path, upstream, bridge) = plain();
    for seed in 0..full_or(20, 5) as u64 {
        let (client, mut server) = through(&path, &upstream);
        let sent = Noise::new(seed).bytes(512 * 1024);
        thread::scope(|scope| {
            let reading = scope.spawn(|| read_to_the_end(&client));
            server.write_all(&sent).unwrap();
            until_acknowledged(&server);
            reset(server);
            let (heard, end) = reading.join().unwrap();
            assert!(heard == sent, "round {seed}: {} of {}", heard.len(), sent.len());
            // A Unix socket has no RST to pass on.
            assert!(end.is_ok(), "round {seed}: {end:?}");
        });
        let failed = (&client).write_all(b"anybody there?").unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::BrokenPipe);
    }
    for record in bridge.close_records(full_or(20, 5)) {
        assert_eq!((record.text("side"), record.text("reason")), ("upstream", "reset"));
    }
}

/// The client listens only when the server is gone: what it hears then has waited in its own queue, in
/// the bridge and in the queue before that.
///
/// How much that is depends on the pieces in which it came: a Unix queue counts the memory of each, and
/// only what comes in bulk goes through a pipe. So it is written until the bridge holds some, not so
/// and so much.
#[test]
fn what_the_bridge_still_holds_when_the_server_resets_is_heard() {
    let (_folder, path, upstream, bridge) = plain();
    for round in 0..full_or(20, 6) {
        let words = Noise::new(round).bytes(16 * MIB);
        let (mut client, server) = through(&path, &upstream);
        let (sent, heard) = match round % 2 {
            0 => say_until_the_pipe_holds_some(&words, &server, &client, &bridge),
            _ => (say_until_the_buffer_holds_some(&words, &server, &bridge), 0),
        };
        // The rest is lost with the server.
        let acknowledged = sent - unacknowledged(&server) as usize;
        reset(server);
        let has_spoken = round % 4 < 2;
        if has_spoken {
            // These words meet the reset, while what the server said cannot move.
            client.write_all(b"one more thing").unwrap();
        }
        let (rest, end) = read_to_the_end(&client);
        let all = heard + rest.len();
        assert!(all >= acknowledged, "round {round}: {all} of {acknowledged}");
        assert!(words[heard..].starts_with(&rest), "round {round}: something else was heard");
        // Words that nobody takes any more make the end of a Unix socket a reset.
        let is_reset = end.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
        assert!(end.is_ok() || has_spoken && is_reset, "round {round}: {end:?}");
    }
    bridge.has_accounted_for(full_or(20, 6) as f64);
    assert_eq!(bridge.bytes_in_pipes(), 0);
}

/// Returns how much was written, and how much the client had to read before it came in bulk.
fn say_until_the_pipe_holds_some(
    words: &[u8],
    mut server: &TcpStream,
    client: &TcpStream,
    bridge: &Bridge,
) -> (usize, usize) {
    let (mut sent, mut heard) = (0, 0);
    server.set_nonblocking(true).unwrap();
    until("the pipe holds some", || {
        while let Ok(count) = server.write(&words[sent..]) {
            sent += count;
            assert!(sent < words.len(), "nothing holds the server back");
        }
        bridge.relays_no_more_for(QUIET);
        if bridge.bytes_in_pipes() > 0 {
            return Some(());
        }
        let heard_now = read_exactly(client, 64 * 1024);
        assert!(words[heard..].starts_with(&heard_now), "something else was heard");
        heard += heard_now.len();
        None
    });
    (sent, heard)
}

/// In pieces that are too small for a pipe; returns how much was written.
fn say_until_the_buffer_holds_some(words: &[u8], mut server: &TcpStream, bridge: &Bridge) -> usize {
    const PIECE: usize = 8 * 1024;
    let relayed = || bridge.metrics().sum("tidegate_bytes_total", &[]) as usize;
    let (before, mut sent) = (relayed(), 0);
    until("the buffer holds some", || {
        server.write_all(&words[sent..sent + PIECE]).unwrap();
        sent += PIECE;
        let written = Instant::now();
        while relayed() < before + sent {
            let late = written.elapsed() > QUIET;
            if late && bridge.relays_no_more_for(QUIET) < (before + sent) as f64 {
                return Some(());
            }
        }
        None
    });
    // Not read by the bridge: a queue in which nothing is takes more than that.
    for _ in 0..4 {
        server.write_all(&words[sent..sent + PIECE]).unwrap();
        sent += PIECE;
    }
    until_acknowledged(server);
    sent
}

/// Its words wait for the server, so nothing is read from it, and nothing is said to it.
#[test]
fn a_killed_client_is_noticed_while_the_server_takes_nothing() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let upstream = listener();
    let gateway = upstream.local_addr().unwrap();
    let bridge = at(&path, gateway).flags(&["--stall-timeout", "600ms"]).start();
    let (client, mut server) = through(&path, &upstream);
    server.write_all(b"unread").unwrap();
    client.set_nonblocking(true).unwrap();
    let words = vec![b'?'; 64 * 1024];
    until("the server's side is full", || {
        while (&client).write(&words).is_ok() {}
        let before = bridge.relays_no_more_for(QUIET);
        let full = (&client).write(&words).is_err();
        let after = bridge.relays_no_more_for(QUIET);
        (full && before == after).then_some(())
    });
    drop(client);
    let record = bridge.close_record();
    assert_eq!((record.text("side"), record.text("reason")), ("client", "reset"));
    assert!(is_reset(&read_to_the_end(&server).1));
}

/// The client's last words wait in the bridge when the server resets.
#[test]
fn a_client_whose_words_were_not_taken_sees_a_reset() {
    let (_folder, path, upstream, bridge) = plain();
    let (client, server) = through(&path, &upstream);
    let talking = client.try_clone().unwrap();
    let talking = thread::spawn(move || {
        let words = vec![b'?'; 64 * 1024];
        while (&talking).write_all(&words).is_ok() {}
    });
    bridge.relays_no_more_for(QUIET);
    reset(server);
    let (heard, end) = read_to_the_end(&client);
    assert!(heard.is_empty(), "{} bytes", heard.len());
    talking.join().unwrap();
    // The write of the other thread may have been told first.
    assert!(end.is_ok() || is_reset(&end), "{end:?}");
    let record = bridge.close_record();
    assert_eq!((record.text("side"), record.text("reason")), ("upstream", "reset"));
}

#[test]
fn a_client_that_comes_and_goes_leaves_nothing_behind() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let bridge = at(&path, echo()).start();
    let visit = |count: usize| {
        for number in 0..count {
            let mut visitor = connect(&path);
            if number % 2 == 0 {
                visitor.write_all(b"unheard").unwrap();
            }
        }
    };
    visit(10);
    bridge.has_accounted_for(10.0);
    let before = bridge.fds();
    visit(500);
    bridge.has_accounted_for(510.0);
    bridge.gives_back_its_fds(before, 500);
}

#[test]
fn many_sessions_at_once_are_shared_by_the_threads() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let bridge = with_threads("4", &path, echo()).start();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let client = connect(&path);
                    (0..10).for_each(|_| echoes(&client));
                }
            });
        }
    });
    bridge.has_accounted_for(400.0);
}

/// A bridge for any TCP that listens at `path`, and nowhere else.
fn at(path: &Path, gateway: SocketAddr) -> Setup {
    with_threads(&support::threads(), path, gateway)
}

fn with_threads(threads: &str, path: &Path, gateway: SocketAddr) -> Setup {
    Bridge::from_file_alone(&format!(
        "admin = \"127.0.0.1:0\"\nthreads = {threads}\nlog_format = \"json\"\n\
         [[listener]]\nprotocol = \"tcp\"\n\
         [upstream.peer]\ngateway = \"{gateway}\"\n"
    ))
    .flags(&["--listen", &format!("unix:{}", path.display())])
}

/// A file of one listener on these paths.
fn reloadable(paths: &[&Path], mode: &str, gateway: SocketAddr) -> String {
    let bind: Vec<_> = paths.iter().map(|path| format!("unix:{}", path.display())).collect();
    format!(
        "admin = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"app\"\nprotocol = \"tcp\"\nbind = {bind:?}\nunix_mode = \"{mode}\"\n\
         [upstream.peer]\ngateway = \"{gateway}\"\n"
    )
}

/// One that cannot read a file of ours.
fn by_nobody(path: &Path) -> Setup {
    let listen = format!("--listen=unix:{}", path.display());
    Bridge::tcp(echo()).flags(&[&listen]).run_by(NOBODY)
}

/// A bridge to a server of the test's own.
fn plain() -> (TempDir, PathBuf, TcpListener, Bridge) {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let upstream = listener();
    let bridge = at(&path, upstream.local_addr().unwrap()).start();
    (folder, path, upstream, bridge)
}

/// What `run` says at a path where it must not start.
fn fails(path: &Path, code: i32) -> String {
    let listen = format!("unix:{}", path.display());
    let output = tidegate(&["run", "127.0.0.1:1", "--admin", "127.0.0.1:0", "--listen", &listen]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

/// How `check` ends for a path, and what it says or prints.
fn check(path: &Path, flags: &[&str]) -> (Option<i32>, String) {
    let listen = format!("unix:{}", path.display());
    let output = tidegate(&[&["check", "127.0.0.1:1", "--listen", &listen], flags].concat());
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// A folder that everybody can enter.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn entries(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn inode_of(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

/// What a dead process leaves. It never listened: until they have become another program, processes
/// that other tests start hold every descriptor of this one.
fn leave_stale(path: &Path) {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(path).unwrap()).unwrap();
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).unwrap().file_type().is_socket()
}

fn named(file: &str, name: &str) -> u32 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
    line.split(':').nth(2).unwrap().parse().unwrap()
}

/// Does something on a thread that has no right but everybody's.
fn as_nobody<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let visitor = scope.spawn(move || {
            let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            set_thread_groups(&[]).unwrap();
            set_thread_res_gid(group, group, group).unwrap();
            set_thread_res_uid(user, user, user).unwrap();
            act()
        });
        visitor.join().unwrap()
    })
}

fn connect(path: &Path) -> TcpStream {
    try_connect(path).unwrap()
}

/// The type is a lie: it does to a socket nothing that a Unix socket cannot do as well, and so
/// everything made for the tests of TCP serves here.
fn try_connect(path: &Path) -> io::Result<TcpStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(TcpStream::from(OwnedFd::from(stream)))
}

/// The client's end and the upstream's end of a connection through a bridge.
fn through(path: &Path, upstream: &TcpListener) -> (TcpStream, TcpStream) {
    let client = connect(path);
    (client, accept(upstream))
}

fn echoes(mut client: &TcpStream) {
    client.write_all(b"ping").unwrap();
    assert_eq!(read_exactly(client, 4), b"ping");
}

/// Bytes to the upstream and to clients that went through a pipe.
fn spliced(bridge: &Bridge) -> [f64; 2] {
    let metrics = bridge.metrics();
    ["client_to_upstream", "upstream_to_client"].map(|direction| {
        let labels = [("direction", direction), ("path", "splice")];
        metrics.sum("tidegate_bytes_total", &labels)
    })
}
