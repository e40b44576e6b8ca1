//! The client's side of a handshake, on a socket.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::handshake::{Greeting, ServerKind, wrong_answer};
use super::packet::{self, HEADER_LEN, frame};
use crate::drain::{Drain, Phase};
use crate::net::stream::Stream;

/// How long a server may take to greet. One that hangs greets everybody when it goes on, also those
/// who have left, and counts them; past this it costs more to wait.
const FOR_A_GREETING: Duration = Duration::from_secs(30);
/// How long a server may take to refuse a log-in that was given up.
pub const FOR_A_REFUSAL: Duration = Duration::from_secs(2);
/// Farewells of one upstream at a time, and dials that may come to need one. A server that hangs under a
/// storm of connects must not cost this process all its descriptors; more are merely closed.
const AT_A_TIME: usize = 1000;
/// Longer than any packet of a failing log-in.
const LONGEST: usize = 4096;
/// Packets that a server may send until it has refused.
const ROUNDS: usize = 4;

/// Ends connections to one upstream whose server has sent a greeting, or will, and was told nothing.
///
/// MySQL and MariaDB would count a mere close as an interrupted handshake, and block this host
/// after `max_connect_errors` of them; they are told a log-in that fails. TiDB counts nothing.
///
/// The drain waits for farewells as it does for sessions; a server that has not greeted when it
/// closes is left.
#[derive(Debug)]
pub struct Farewells {
    seats: Arc<Semaphore>,
    drain: Drain,
}

impl Farewells {
    /// Those of an upstream; `drain` waits for them.
    pub fn new(drain: Drain) -> Self {
        Self { seats: Arc::new(Semaphore::new(AT_A_TIME)), drain }
    }

    /// Makes the drain wait for a connection that may come to need a farewell.
    pub fn expect_one(&self) -> TaskTrackerToken {
        self.drain.join()
    }

    /// Returns once nobody waits for farewells any more: the drain closes.
    pub async fn given_up(&self) {
        self.drain.reached(Phase::Closing).await;
    }

    /// A place among those that are said at a time, until it is dropped. `None`: all are taken.
    pub fn seat(&self) -> Option<OwnedSemaphorePermit> {
        self.seats.clone().try_acquire_owned().ok()
    }

    /// Begins a farewell. `said` is what has been read of the greeting already.
    ///
    /// A task of its own, which goes on when nobody waits for it any more: a prober that loses
    /// patience must not leave half a log-in behind, which counts as well.
    pub fn say(&self, stream: impl Into<Stream>, said: Vec<u8>) -> JoinHandle<()> {
        let (seat, stream) = (self.seat(), stream.into());
        let (drain, member) = (self.drain.clone(), self.drain.join());
        tokio::spawn(async move {
            if let Some(_seat) = seat {
                // Whatever fails, nothing is left to do for such a server.
                let _ = take_leave(stream, said, &drain).await;
            }
            drop(member);
        })
    }

    /// The same for a server of which nothing was read, from a seat that was taken before.
    pub async fn say_from(&self, _seat: OwnedSemaphorePermit, stream: TcpStream) {
        let _ = take_leave(stream.into(), Vec::new(), &self.drain).await;
    }
}

async fn take_leave(mut stream: Stream, mut said: Vec<u8>, drain: &Drain) -> io::Result<()> {
    tokio::select! {
        biased;
        read = timeout(FOR_A_GREETING, read_greeting(&mut stream, &mut said)) => read??,
        () = drain.reached(Phase::Closing) => return Ok(()),
    }
    match Greeting::parse(&said[HEADER_LEN..]) {
        Some(greeting) if greeting.kind != ServerKind::TiDb => {
            timeout(FOR_A_REFUSAL, fail_to_log_in(&mut stream, &greeting.failing_login())).await?
        }
        _ => Ok(()),
    }
}

/// Waits for the whole of a greeting and leaves it where it is: its length, and whose server it is if
/// it is a greeting and not an ERR packet.
pub async fn await_greeting(stream: &TcpStream) -> io::Result<(u64, Option<ServerKind>)> {
    let mut seen = vec![0; LONGEST + HEADER_LEN];
    loop {
        let is_closed = stream.ready(Interest::READABLE).await?.is_read_closed();
        let count = stream.peek(&mut seen).await?;
        if is_whole(&seen[..count])? {
            let length = HEADER_LEN + packet::payload_length(seen.first_chunk().expect("whole"));
            let kind = Greeting::parse(&seen[HEADER_LEN..length]).map(|greeting| greeting.kind);
            return Ok((length as u64, kind));
        }
        if is_closed {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // What is there has been seen: not ready until more comes.
        let _ = stream.try_io(Interest::READABLE, || {
            Err::<(), _>(io::Error::from(io::ErrorKind::WouldBlock))
        });
    }
}

async fn read_greeting(stream: &mut Stream, said: &mut Vec<u8>) -> io::Result<()> {
    while !is_whole(said)? {
        if stream.read_buf(said).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Sends a log-in that fails, a whole packet, and answers wrongly to whatever the server asks until it
/// refuses. Of no use without [`FOR_A_REFUSAL`].
pub async fn fail_to_log_in(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    login: &[u8],
) -> io::Result<()> {
    send(stream, login).await?;
    for _ in 0..ROUNDS {
        let (sequence, payload) = read(stream).await?;
        match payload.first() {
            // AuthSwitchRequest, or a plugin that wants to know more.
            Some(0xfe | 0x01) => {
                send(stream, &frame(sequence.wrapping_add(1), wrong_answer(&payload))).await?;
            }
            // Somebody gave the world a password-less account. COM_QUIT.
            Some(0x00) => return send(stream, &frame(0, &[1])).await,
            _ => return Ok(()),
        }
    }
    Ok(())
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), packet: &[u8]) -> io::Result<()> {
    stream.write_all(packet).await?;
    stream.flush().await
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).await?;
    let mut payload = vec![0; bounded_length(&header)?];
    stream.read_exact(&mut payload).await?;
    Ok((header[3], payload))
}

fn is_whole(packet: &[u8]) -> io::Result<bool> {
    match packet.first_chunk::<HEADER_LEN>() {
        Some(header) => Ok(packet.len() >= HEADER_LEN + bounded_length(header)?),
        None => Ok(false),
    }
}

fn bounded_length(header: &[u8; HEADER_LEN]) -> io::Result<usize> {
    match packet::payload_length(header) {
        length if length <= LONGEST => Ok(length),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[expect(clippy::disallowed_methods, reason = "loopback")]
    async fn silent_server() -> (TcpListener, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(server.local_addr().unwrap()).await.unwrap();
        (server, stream)
    }

    #[tokio::test]
    async fn the_drain_waits_for_a_farewell_until_it_closes() {
        let drain = Drain::new();
        let (_server, stream) = silent_server().await;
        let farewell = Farewells::new(drain.clone()).say(stream, Vec::new());
        tokio::select! {
            biased;
            () = drain.empty() => panic!("a farewell is under way"),
            () = tokio::task::yield_now() => {}
        }
        drain.close();
        drain.empty().await;
        farewell.await.unwrap();
    }

    #[tokio::test]
    async fn a_server_that_hangs_takes_no_more_than_the_seats_of_its_own_upstream() {
        let farewells = Farewells { seats: Arc::new(Semaphore::new(1)), drain: Drain::new() };
        let (server, stream) = silent_server().await;
        let _waiting = farewells.say(stream, Vec::new());
        let (mut first, _) = server.accept().await.unwrap();
        let (server, stream) = silent_server().await;
        farewells.say(stream, Vec::new()).await.unwrap();
        let (mut second, _) = server.accept().await.unwrap();
        assert_eq!(second.read(&mut [0]).await.unwrap(), 0, "it was merely closed");
        assert_eq!(first.try_read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        first.shutdown().await.unwrap();
    }
}
