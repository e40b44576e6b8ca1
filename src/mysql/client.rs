//! The client's side of a handshake, on a socket.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::handshake::{Greeting, ServerKind};
use super::packet::{self, HEADER_LEN, frame};

/// How long a server may take to greet. One that hangs greets everybody when it goes on, also those
/// who have left, and counts them; past this it costs more to wait.
const FOR_A_GREETING: Duration = Duration::from_secs(30);
/// How long it may then take to refuse.
const FOR_A_REFUSAL: Duration = Duration::from_secs(2);
/// Farewells at a time. A server that hangs under a storm of connects must not cost this process all
/// its descriptors; more are merely closed.
static FAREWELLS: Semaphore = Semaphore::const_new(1000);
/// Longer than any packet of a failing log-in.
const LONGEST: usize = 4096;
/// Packets that a server may send until it has refused.
const ROUNDS: usize = 4;

/// Ends a connection to a server that has sent a greeting, or will, and was told nothing. `said`
/// is what has been read of the greeting already.
///
/// MySQL and MariaDB would count a mere close as an interrupted handshake, and block this host
/// after `max_connect_errors` of them; they are told a log-in that fails. TiDB counts nothing.
///
/// It goes on when nobody waits for it any more: a prober that loses patience must not leave half a
/// log-in behind, which counts as well.
pub async fn take_leave(stream: TcpStream, said: Vec<u8>) {
    // It fails only by a panic, which the panic hook has told.
    let _ = tokio::spawn(fail_to_log_in(stream, said)).await;
}

/// Whatever fails here, nothing is left to do for such a server.
async fn fail_to_log_in(mut stream: TcpStream, mut said: Vec<u8>) -> io::Result<()> {
    let Ok(_farewell) = FAREWELLS.try_acquire() else { return Ok(()) };
    timeout(FOR_A_GREETING, read_greeting(&mut stream, &mut said)).await??;
    match Greeting::parse(&said[HEADER_LEN..]) {
        Some(greeting) => timeout(FOR_A_REFUSAL, refuse_to_log_in(&mut stream, &greeting)).await?,
        None => Ok(()),
    }
}

async fn read_greeting(stream: &mut TcpStream, said: &mut Vec<u8>) -> io::Result<()> {
    while !is_whole(said)? {
        if stream.read_buf(said).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

async fn refuse_to_log_in(stream: &mut TcpStream, greeting: &Greeting) -> io::Result<()> {
    if greeting.kind == ServerKind::TiDb {
        return Ok(());
    }
    stream.write_all(&greeting.failing_login()).await?;
    for _ in 0..ROUNDS {
        let (sequence, payload) = read(stream).await?;
        match payload.first() {
            // AuthSwitchRequest, or a plugin that wants to know more: an empty answer.
            Some(0xfe | 0x01) => stream.write_all(&frame(sequence.wrapping_add(1), &[])).await?,
            // Somebody gave the world a password-less account. COM_QUIT.
            Some(0x00) => return stream.write_all(&frame(0, &[1])).await,
            _ => return Ok(()),
        }
    }
    Ok(())
}

async fn read(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
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
