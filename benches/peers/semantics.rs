//! What a connection's end becomes on the other side.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::candidates::Standing;
use crate::distance::{connect, sleep};

/// For `--only`, as the keys of the axes.
pub const SEMANTICS: &str = "semantics";
/// How long a side waits for the other.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of the long reply.
const LONG: usize = 24 << 20;
/// Bytes of a reply after a half-close.
const REPLY: usize = 64 << 10;
/// Bytes of a client that does not get read: more than a receive queue takes.
const UNREAD: usize = 256 << 10;
/// An ERR packet of MySQL.
const ERR: &[u8] = b"\x29\0\0\x02\xff\x15\x04#28000Access denied for user 'x'@'y'..";

/// A kind of end.
#[derive(Debug)]
pub struct Trial {
    pub name: &'static str,
    pub what: &'static str,
    run: fn(TcpStream, TcpStream) -> Result<(), String>,
}

/// All trials, in the order of the report. They get the client's socket and the server's.
pub const TRIALS: &[Trial] = &[
    Trial {
        name: "half-close by client",
        what: "the client shuts down its side, then gets 64 KiB and the end",
        run: half_close,
    },
    Trial {
        name: "half-close by server",
        what: "the server shuts down its side, then gets 64 KiB and the end",
        run: |client, server| half_close(server, client),
    },
    Trial { name: "RST by client", what: "the server gets an RST, not an end", run: reset },
    Trial {
        name: "RST by server",
        what: "the client gets an RST, not an end",
        run: |client, server| reset(server, client),
    },
    Trial {
        name: "ERR, then close",
        what: "the server sends a packet and closes with 256 KiB of the client's unread: the client \
               gets the packet",
        run: last_word,
    },
    Trial {
        name: "24 MB + FIN",
        what: "the server sends 24 MiB and closes: all of it arrives, and the end",
        run: |client, server| long_reply(client, server, Duration::ZERO),
    },
    Trial {
        name: "24 MB + FIN, slow",
        what: "the same to a client that begins to read 0.3 s later and pauses 2 ms per 256 KiB",
        run: |client, server| long_reply(client, server, Duration::from_millis(2)),
    },
];

/// How often each trial of [`TRIALS`] went well, and what went wrong how often.
#[derive(Debug)]
pub struct Verdict {
    pub candidate: &'static str,
    pub trials: Vec<(usize, BTreeMap<String, usize>)>,
}

/// Tries a candidate on its way to the bench itself.
pub async fn judge(one: &Standing, repetitions: usize) -> Verdict {
    let (address, listener) = (*one.running.addresses.last().expect("all have a way"), &one.ends);
    let mut trials = Vec::new();
    for trial in TRIALS {
        let (mut well, mut faults) = (0, BTreeMap::new());
        for _ in 0..repetitions {
            match pair(address, listener).and_then(|(client, server)| (trial.run)(client, server)) {
                Ok(()) => well += 1,
                Err(fault) => *faults.entry(fault).or_default() += 1,
            }
            // For Ctrl-C.
            tokio::task::yield_now().await;
        }
        trials.push((well, faults));
    }
    Verdict { candidate: one.candidate.name, trials }
}

/// A client's socket and the server's socket that it is carried to.
fn pair(address: SocketAddr, listener: &TcpListener) -> Result<(TcpStream, TcpStream), String> {
    let attempt = || -> io::Result<_> {
        let mut client = connect(address)?;
        client.set_read_timeout(Some(PATIENCE))?;
        // What an earlier trial has left in the queue does not know this client's port.
        let mark = client.local_addr()?.port().to_le_bytes();
        client.write_all(&mark)?;
        SockRef::from(listener).set_read_timeout(Some(PATIENCE))?;
        loop {
            let (mut server, _) = listener.accept()?;
            server.set_nodelay(true)?;
            server.set_read_timeout(Some(PATIENCE))?;
            let mut read = [0; 2];
            if server.read_exact(&mut read).is_ok() && read == mark {
                server.write_all(&mark)?;
                client.read_exact(&mut read)?;
                return Ok((client, server));
            }
        }
    };
    attempt().map_err(|error| format!("no connection: {error}"))
}

fn half_close(mut first: TcpStream, mut second: TcpStream) -> Result<(), String> {
    first.write_all(&LONG_REPLY[..1000]).map_err(|error| format!("no request: {error}"))?;
    first.shutdown(Shutdown::Write).map_err(|error| format!("no shutdown: {error}"))?;
    expect(&mut second, 1000, Duration::ZERO)?;
    // For a proxy that takes the one end for both.
    sleep(Duration::from_millis(20));
    second.write_all(&LONG_REPLY[..REPLY]).map_err(|error| format!("no reply: {error}"))?;
    drop(second);
    expect(&mut first, REPLY, Duration::ZERO)
}

fn reset(first: TcpStream, mut second: TcpStream) -> Result<(), String> {
    let linger = SockRef::from(&first).set_linger(Some(Duration::ZERO));
    linger.map_err(|error| error.to_string())?;
    drop(first);
    match second.read(&mut [0; 1]) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(named(&error).to_owned()),
        Ok(0) => Err("an end in place of the RST".to_owned()),
        Ok(_) => Err("bytes from nowhere".to_owned()),
    }
}

fn last_word(mut client: TcpStream, mut server: TcpStream) -> Result<(), String> {
    let mut writer = client.try_clone().map_err(|error| error.to_string())?;
    thread::scope(|scope| {
        // It may well fail: nobody reads it.
        scope.spawn(move || drop(writer.write_all(&LONG_REPLY[..UNREAD])));
        server.peek(&mut [0; 1]).map_err(|error| format!("no request: {error}"))?;
        server.write_all(ERR).map_err(|error| format!("no packet sent: {error}"))?;
        drop(server);
        let mut packet = vec![0; ERR.len()];
        let read = client.read_exact(&mut packet);
        // The writer ends, also when nobody reads.
        let _ = client.shutdown(Shutdown::Both);
        match read {
            Ok(()) if packet == ERR => Ok(()),
            Ok(()) => Err("another packet".to_owned()),
            Err(error) => Err(format!("the packet is lost: {}", named(&error))),
        }
    })
}

fn long_reply(mut client: TcpStream, mut server: TcpStream, pause: Duration) -> Result<(), String> {
    thread::scope(|scope| {
        scope.spawn(move || drop(server.write_all(&LONG_REPLY)));
        sleep(pause * 150);
        let result = expect(&mut client, LONG, pause);
        // The writer ends, also when nobody reads.
        let _ = client.shutdown(Shutdown::Both);
        result
    })
}

/// Bytes whose places can be told.
static LONG_REPLY: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..LONG).map(|place| (place % 251) as u8).collect());

/// Reads the first `length` bytes of [`LONG_REPLY`], and then the end.
fn expect(stream: &mut TcpStream, length: usize, pause: Duration) -> Result<(), String> {
    let mut buffer = vec![0; 256 << 10];
    let (mut read, mut since_pause) = (0, 0);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) if read == length => return Ok(()),
            Ok(0) => return Err(format!("an end {}", after(read, length))),
            Ok(more) => {
                if LONG_REPLY.get(read..read + more) != Some(&buffer[..more]) {
                    return Err("other bytes than were sent".to_owned());
                }
                read += more;
                since_pause += more;
                if since_pause >= buffer.len() {
                    since_pause = 0;
                    sleep(pause);
                }
            }
            Err(error) => return Err(format!("{} {}", named(&error), after(read, length))),
        }
    }
}

fn after(read: usize, length: usize) -> &'static str {
    match read {
        0 => "before any byte",
        _ if read < length => "before the last byte",
        _ => "after the last byte",
    }
}

fn named(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionReset => "an RST",
        io::ErrorKind::UnexpectedEof => "an end",
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "nothing for 2 s",
        _ => "another error",
    }
}
