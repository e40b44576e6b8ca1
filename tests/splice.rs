//! Bulk that goes from socket to socket inside the kernel: what is spliced, what is copied instead,
//! and that nothing is lost, mixed or overtaken between the two.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::env;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::{Uid, geteuid};
use rustix::thread::set_thread_res_uid;
use socket2::{Domain, SockRef, Socket, Type};

use support::bridge::Bridge;
use support::tcp::{
    Noise, accept, is_reset, listener, read_exactly, reset, through, unacknowledged,
    unread_at_the_other_end,
};
use support::{PATIENCE, full_or, threads, until, until_it};

const MIB: usize = 1024 * 1024;
/// Users who are not root, and whom the kernel limits: one has all its pipes, one has none left.
const NOBODY: u32 = 65534;
const POOR: u32 = 65533;
/// What a thread of the bridge may keep, and the process may have.
const KEPT_PIPES: usize = 16;
const MOST_PIPES: usize = 64;
/// Everything that can move has moved when nothing has for so long.
const QUIET: Duration = Duration::from_millis(300);

#[test]
fn a_large_result_is_spliced_for_a_user_who_is_not_root() {
    let _alone = pipes_of_this_user();
    let (upstream, bridge) = bridge(|setup| setup.run_by(NOBODY));
    let (client, server) = through(bridge.listen, &upstream);
    let sending = thread::spawn(move || send_to_the_end(&server, 256));
    expect_to_the_end(&client, 256);
    sending.join().unwrap();
    drop(client);
    bridge.has_accounted_for(1.0);
    let [copied, spliced] = to_client(&bridge);
    assert_eq!(copied + spliced, 256.0 * MIB as f64);
    assert!(spliced > 0.9 * 256.0 * MIB as f64, "{spliced} bytes spliced, {copied} copied");
}

#[test]
fn a_user_without_pipes_has_everything_copied_until_there_are_some_again() {
    let _alone = pipes_of_this_user();
    let taken = take_all_pipes(POOR);
    let (upstream, bridge) = bridge(|setup| setup.run_by(POOR));
    let pass = || {
        let (client, server) = through(bridge.listen, &upstream);
        let sending = thread::spawn(move || send_to_the_end(&server, 16));
        expect_to_the_end(&client, 16);
        sending.join().unwrap();
    };
    for _ in 0..4 {
        pass();
    }
    bridge.has_accounted_for(4.0);
    assert_eq!(to_client(&bridge), [4.0 * 16.0 * MIB as f64, 0.0]);
    assert_eq!(bridge.pipes(), 0, "pipes that are too small are kept");

    drop(taken);
    until("pipes are used again", || {
        pass();
        (to_client(&bridge)[1] > 0.0).then_some(())
    });
}

#[test]
fn sessions_beyond_the_most_pipes_are_copied_and_get_every_byte() {
    let _alone = pipes_of_this_user();
    let (upstream, bridge) = bridge(|setup| setup.run_by(NOBODY));
    // More than the sockets on the way can hold for a client that does not read.
    const LENGTH: usize = 8;
    let mut sleeping = Vec::new();
    // Some sessions get stuck with copied bytes, and need no pipe.
    until("the pipes are all in use", || {
        for _ in bridge.pipes()..=MOST_PIPES {
            let client = slow_to_take(bridge.listen, WINDOW);
            let server = accept(&upstream);
            let sending = thread::spawn(move || send_to_the_end(&server, LENGTH));
            sleeping.push((client, sending));
        }
        bridge.relays_no_more_for(QUIET);
        (bridge.pipes() == MOST_PIPES).then_some(())
    });
    let [_, spliced] = to_client(&bridge);

    let (client, server) = through(bridge.listen, &upstream);
    let sending = thread::spawn(move || send_to_the_end(&server, 32));
    expect_to_the_end(&client, 32);
    sending.join().unwrap();
    drop(client);
    assert_eq!(to_client(&bridge)[1], spliced, "spliced without a pipe");
    assert_eq!(bridge.pipes(), MOST_PIPES);

    let sessions = sleeping.len() + 1;
    for (client, sending) in sleeping {
        expect_to_the_end(&client, LENGTH);
        sending.join().unwrap();
    }
    bridge.has_accounted_for(sessions as f64);
    let kept = KEPT_PIPES * threads().parse::<usize>().unwrap();
    assert!(bridge.pipes() <= kept, "{} pipes are kept", bridge.pipes());
}

#[test]
fn nothing_is_spliced_when_it_is_off() {
    let (upstream, bridge) = bridge(|setup| setup.flags(&["--splice", "off"]));
    let (client, server) = through(bridge.listen, &upstream);
    both_ways(client, server, 32);
    bridge.has_accounted_for(1.0);
    assert_eq!(to_client(&bridge), [32.0 * MIB as f64, 0.0]);
    assert_eq!(to_upstream(&bridge), [32.0 * MIB as f64, 0.0]);
    assert_eq!(bridge.pipes(), 0);
}

#[test]
fn both_directions_are_spliced_at_once() {
    let (upstream, bridge) = bridge(|setup| setup);
    let length = full_or(256, 64);
    let (client, server) = through(bridge.listen, &upstream);
    both_ways(client, server, length);
    bridge.has_accounted_for(1.0);
    for [copied, spliced] in [to_client(&bridge), to_upstream(&bridge)] {
        assert_eq!(copied + spliced, (length * MIB) as f64);
        assert!(spliced > 0.5 * (length * MIB) as f64, "{spliced} bytes spliced, {copied} copied");
    }
}

#[test]
fn small_messages_after_bulk_are_copied_and_bulk_after_them_is_spliced() {
    const MESSAGE: [u8; 100] = [7; 100];
    let (upstream, bridge) = bridge(|setup| setup);
    let (client, server) = through(bridge.listen, &upstream);
    let mut told = [to_client(&bridge), to_upstream(&bridge)];
    for _ in 0..5 {
        for (from, to) in [(&server, &client), (&client, &server)] {
            thread::scope(|scope| {
                scope.spawn(|| send(from, 0, 16));
                expect(to, 0, 16);
            });
        }
        let bulk = counted(&bridge, &told, 16 * MIB);
        for (direction, (now, before)) in bulk.iter().zip(&told).enumerate() {
            assert!(now[1] - before[1] > 8.0 * MIB as f64, "{direction}: {before:?} to {now:?}");
        }

        for _ in 0..50 {
            for (mut from, to) in [(&server, &client), (&client, &server)] {
                from.write_all(&MESSAGE).unwrap();
                assert_eq!(read_exactly(to, MESSAGE.len()), MESSAGE);
            }
        }
        told = counted(&bridge, &bulk, 50 * MESSAGE.len());
        for (now, before) in told.iter().zip(&bulk) {
            assert_eq!(now[1], before[1], "small messages are spliced");
        }
    }
    let kept = KEPT_PIPES * threads().parse::<usize>().unwrap();
    assert!(bridge.pipes() <= kept, "{} pipes", bridge.pipes());
}

/// The reset is met by the bridge while it holds bytes in a pipe, for a client that is slow to take.
#[test]
fn what_is_in_the_pipe_when_the_server_resets_is_delivered_before_the_reset() {
    resets_behind_what_is_in_the_pipe(|_client| ());
}

/// Here it is the client's next words that meet the reset, so it comes as the other direction's.
#[test]
fn what_is_in_the_pipe_when_a_write_to_the_server_fails_is_delivered_before_the_reset() {
    resets_behind_what_is_in_the_pipe(|mut client| client.write_all(b"one more").unwrap());
}

fn resets_behind_what_is_in_the_pipe(then: impl Fn(&TcpStream)) {
    let (upstream, bridge) = bridge(|setup| setup);
    for round in 0..full_or(20, 5) {
        let (client, server, length) = with_bytes_in_a_pipe(&bridge, &upstream);
        reset(server);
        then(&client);
        expect(&client, 0, length);
        let end = (&client).read(&mut [0]).map(drop);
        assert!(is_reset(&end), "round {round}: {end:?} instead of a reset");
        until_all_are_closed(&bridge);
    }
}

#[test]
fn what_is_in_the_pipe_of_a_session_that_is_broken_reaches_no_other_session() {
    let (upstream, bridge) = bridge(|setup| setup);
    for _ in 0..full_or(20, 5) {
        let (client, _server, _) = with_bytes_in_a_pipe(&bridge, &upstream);
        reset(client);
        until_all_are_closed(&bridge);
        let (client, server) = through(bridge.listen, &upstream);
        let sending = thread::spawn(move || send_to_the_end(&server, 16));
        expect_to_the_end(&client, 16);
        sending.join().unwrap();
        drop(client);
        until_all_are_closed(&bridge);
    }
}

#[test]
fn a_slow_reader_gets_every_byte_through_the_pipe() {
    let (upstream, bridge) = bridge(|setup| setup);
    let client = slow_to_take(bridge.listen, WINDOW);
    let server = accept(&upstream);
    let sending = thread::spawn(move || send_to_the_end(&server, 32));
    for mib in 0..8 {
        // Some of it is on its way, and the rest has to wait, whenever it begins to read.
        bridge.relays_no_more_for(QUIET);
        expect(&client, mib, 1);
    }
    expect(&client, 8, 24);
    assert_eq!((&client).read(&mut [0]).unwrap(), 0);
    sending.join().unwrap();
    assert!(to_client(&bridge)[1] > 0.0);
}

/// A splice stops at urgent data as if there were nothing behind it; here all of it has come before
/// the bridge gets there, so nothing that comes later can help.
#[test]
fn urgent_data_in_the_middle_of_bulk_does_not_end_or_stop_it() {
    let (upstream, bridge) = bridge(|setup| setup);
    for round in 0..full_or(20, 6) {
        let (client, server, length) = with_bytes_in_a_pipe(&bridge, &upstream);
        SockRef::from(&server).send_out_of_band(b"!").unwrap();
        let tail = [5; 16 * 1024];
        (&server).write_all(&tail).unwrap();
        // It looks like the end when there is one behind, and like an empty source when not.
        if round % 2 == 0 {
            server.shutdown(Shutdown::Write).unwrap();
        }
        expect(&client, 0, length);
        assert_eq!(read_exactly(&client, tail.len()), tail);
        drop(server);
        assert_eq!((&client).read(&mut [0]).unwrap(), 0);
    }
}

fn bridge(
    with: impl FnOnce(support::bridge::Setup) -> support::bridge::Setup,
) -> (TcpListener, Bridge) {
    let upstream = listener();
    let bridge = with(Bridge::tcp(upstream.local_addr().unwrap())).start();
    (upstream, bridge)
}

/// The user's pipes are limited together, so tests in which the limit matters take turns, also with
/// those of another run. As root the others do not count.
fn pipes_of_this_user() -> File {
    let turn = File::create(env::temp_dir().join("tidegate-tests-pipes.lock")).unwrap();
    flock(&turn, FlockOperation::LockExclusive).unwrap();
    turn
}

/// Makes pipes until the kernel gives that user no more, and none of a useful size.
fn take_all_pipes(user: u32) -> Vec<(OwnedFd, OwnedFd)> {
    let take = move || {
        if geteuid().is_root() {
            // Of this thread alone.
            let user = Uid::from_raw(user);
            set_thread_res_uid(user, user, user).unwrap();
        }
        let mut pipes = Vec::new();
        for size in [MIB, 64 * 1024] {
            loop {
                let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
                let got = fcntl_setpipe_size(&writer, size);
                if got.is_err() {
                    break;
                }
                pipes.push((reader, writer));
            }
        }
        pipes
    };
    thread::spawn(take).join().unwrap()
}

/// Bytes copied and spliced in one direction.
fn moved(bridge: &Bridge, direction: &str) -> [f64; 2] {
    let metrics = bridge.metrics();
    ["copy", "splice"].map(|path| {
        let labels = [("direction", direction), ("path", path)];
        assert_eq!(metrics.samples("tidegate_bytes_total", &labels).len(), 1, "{labels:?}");
        metrics.sum("tidegate_bytes_total", &labels)
    })
}

fn to_client(bridge: &Bridge) -> [f64; 2] {
    moved(bridge, "upstream_to_client")
}

fn to_upstream(bridge: &Bridge) -> [f64; 2] {
    moved(bridge, "client_to_upstream")
}

/// Both directions, once so many bytes more are counted in each: the last write may be seen before.
fn counted(bridge: &Bridge, before: &[[f64; 2]; 2], more: usize) -> [[f64; 2]; 2] {
    let look = || [to_client(bridge), to_upstream(bridge)];
    let sum = |moved: &[f64; 2]| moved[0] + moved[1];
    until_it("every byte is counted", look, |now| {
        now.iter().zip(before).all(|(now, before)| sum(now) == sum(before) + more as f64)
    })
}

/// Bytes of a window that is small, so that little is on its way.
const WINDOW: usize = 64 * 1024;

fn slow_to_take(bridge: SocketAddr, window: usize) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(window).unwrap();
    socket.connect_timeout(&bridge.into(), PATIENCE).unwrap();
    let client = TcpStream::from(socket);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// A session whose client does not read, with bytes of it in a pipe of the bridge, which has all that
/// the server has sent. Also returns how many MiB that is.
fn with_bytes_in_a_pipe(bridge: &Bridge, upstream: &TcpListener) -> (TcpStream, TcpStream, usize) {
    // What the sockets hold decides where in a MiB a session is stuck: the first bytes of each are
    // copied. So another window each time.
    let mut windows = (2..9).cycle().map(|times| times * WINDOW);
    until("a session is stuck with bytes in a pipe", || {
        let client = slow_to_take(bridge.listen, windows.next().unwrap());
        let server = accept(upstream);
        for length in 1..64 {
            send(&server, length - 1, 1);
            let acknowledged = until("all has come to the bridge, or can not", || {
                if unacknowledged(&server) > 0 && unread_at_the_other_end(&server) > 0 {
                    bridge.relays_no_more_for(QUIET);
                    return Some(unacknowledged(&server) == 0);
                }
                (unacknowledged(&server) == 0).then_some(true)
            });
            if !acknowledged {
                return None;
            }
            if unread_at_the_other_end(&server) > 0 {
                bridge.relays_no_more_for(QUIET);
                if unread_at_the_other_end(&server) > 0 {
                    let found = bridge.bytes_in_pipes() > 0;
                    return found.then_some((client, server, length));
                }
            }
        }
        panic!("the client's side takes everything");
    })
}

fn until_all_are_closed(bridge: &Bridge) {
    until_it("every session is closed", || bridge.open_connections(), |open| *open == 0.0);
}

fn both_ways(client: TcpStream, server: TcpStream, length: usize) {
    thread::scope(|scope| {
        for (from, to) in [(&client, &server), (&server, &client)] {
            scope.spawn(move || send_to_the_end(from, length));
            scope.spawn(move || expect_to_the_end(to, length));
        }
    });
}

/// A MiB of bulk by its number. No two are the same, and they cost no time to make.
fn with_mib<T>(number: usize, act: impl FnOnce(&[u8]) -> T) -> T {
    static NOISE: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    thread_local!(static OWN: Vec<u8> = {
        let mut noise = NOISE.lock().unwrap();
        if noise.is_empty() {
            *noise = Noise::new(42).bytes(MIB).repeat(2);
        }
        noise.clone()
    });
    let start = number * 4099 % MIB;
    OWN.with(|noise| act(&noise[start..start + MIB]))
}

/// Writes so many MiB, from that one on.
fn send(mut stream: &TcpStream, first: usize, count: usize) {
    for number in first..first + count {
        with_mib(number, |bytes| stream.write_all(bytes)).unwrap();
    }
}

fn send_to_the_end(stream: &TcpStream, count: usize) {
    send(stream, 0, count);
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Reads exactly those.
fn expect(mut stream: &TcpStream, first: usize, count: usize) {
    let mut got = vec![0; MIB];
    for number in first..first + count {
        stream.read_exact(&mut got).unwrap_or_else(|error| panic!("in MiB {number}: {error}"));
        with_mib(number, |bytes| assert!(got == bytes, "MiB {number} differs"));
    }
}

fn expect_to_the_end(mut stream: &TcpStream, count: usize) {
    expect(stream, 0, count);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "more came than was sent");
}
