//! Packets over a stream. Reading does not allocate, and rows are skipped where they are.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};

use mysql_common::constants::{CapabilityFlags, StatusFlags};
use mysql_common::io::ParseBuf;
use mysql_common::packets::{ErrPacket, OkPacketDeserializer, OkPacketKind};
use mysql_common::proto::MySerialize;
use rustls::ClientConnection;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::error::{Problem, Refusal};
use super::packet::{HEADER_LEN, payload_length};
use crate::show::table::harmless;
use crate::tls::client::Connector;

/// A payload of this length is continued by the next packet.
const FULL: usize = 0xff_ffff;
/// Longest packet that is kept to be looked at: greetings, OK, ERR. Rows are not.
const LONGEST: usize = 64 * 1024;
/// What one read of the socket may bring.
const READ_AHEAD: usize = 4 * 1024;
/// What one read of a long row may bring.
const READ_LONG: usize = 256 * 1024;

thread_local! {
    /// Holds bytes only within one poll, so one serves all connections of a thread.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_LONG].into());
}

type Wire = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A connection, and where its packets are.
#[derive(Debug)]
pub struct Channel {
    wire: BufReader<Wire>,
    /// The sequence id of the next packet that is sent.
    sequence: u8,
    out: Vec<u8>,
    kept: Vec<u8>,
    /// Somebody has looked whose server it is.
    is_verified: bool,
    /// What both sides can do: how packets read.
    pub capabilities: CapabilityFlags,
}

/// A packet whose payload is still to be read or skipped.
#[derive(Debug, Clone, Copy)]
pub struct Next {
    length: usize,
    /// The first byte tells what it is.
    pub first: u8,
}

impl Next {
    /// Whether it ends columns or rows: neither a row nor a length can begin like this.
    pub fn is_end(self) -> bool {
        self.first == 0xfe && self.length < FULL
    }
}

impl Channel {
    /// Begins where the greeting is due.
    pub fn new(stream: TcpStream) -> Self {
        Self::over(Either::Left(stream), 0)
    }

    fn over(wire: Wire, sequence: u8) -> Self {
        Self {
            wire: BufReader::with_capacity(READ_AHEAD, wire),
            sequence,
            out: Vec::new(),
            kept: Vec::new(),
            is_verified: false,
            // Until it is agreed.
            capabilities: CapabilityFlags::CLIENT_PROTOCOL_41,
        }
    }

    /// The same connection under TLS.
    pub async fn secure(self, tls: &Connector) -> Result<Self, Problem> {
        if !self.wire.buffer().is_empty() {
            return Err(Problem::Malformed("the server speaks before TLS begins"));
        }
        let Either::Left(plain) = self.wire.into_inner() else {
            return Err(Problem::Malformed("TLS inside TLS"));
        };
        let secure = tls.begin.connect(tls.name.clone(), plain);
        let secure = secure.await.map_err(Problem::Tls)?;
        Ok(Self {
            capabilities: self.capabilities,
            is_verified: tls.is_verified,
            ..Self::over(Either::Right(Box::new(secure)), self.sequence)
        })
    }

    /// Whether it is inside TLS.
    pub fn is_secure(&self) -> bool {
        self.tls().is_some()
    }

    /// Whether it is inside TLS, and somebody has looked whose server it is.
    pub fn is_verified(&self) -> bool {
        self.is_secure() && self.is_verified
    }

    /// Somebody has looked whose server it is, in another way than the connector's.
    pub fn has_been_verified(&mut self) {
        self.is_verified = true;
    }

    /// To ask what was agreed.
    pub fn tls(&self) -> Option<&ClientConnection> {
        match self.wire.get_ref() {
            Either::Left(_) => None,
            Either::Right(secure) => Some(secure.get_ref().1),
        }
    }

    /// Begins a command.
    pub async fn command(&mut self, command: u8, argument: &[u8]) -> Result<(), Problem> {
        self.sequence = 0;
        self.write(|out| {
            out.push(command);
            out.extend_from_slice(argument);
        })
        .await
    }

    /// Sends a packet with the sequence id that is due.
    pub async fn send(&mut self, packet: &impl MySerialize) -> Result<(), Problem> {
        self.write(|out| packet.serialize(out)).await
    }

    /// Sends a payload: a statement comes from the command line, and is shorter than a packet may be.
    async fn write(&mut self, payload: impl FnOnce(&mut Vec<u8>)) -> Result<(), Problem> {
        self.out.clear();
        self.out.extend_from_slice(&[0; HEADER_LEN]);
        payload(&mut self.out);
        let length = (self.out.len() - HEADER_LEN) as u32;
        self.out[..3].copy_from_slice(&length.to_le_bytes()[..3]);
        self.out[3] = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        self.wire.get_mut().write_all(&self.out).await?;
        Ok(self.wire.get_mut().flush().await?)
    }

    /// The next packet's head.
    pub async fn next(&mut self) -> Result<Next, Problem> {
        let mut header = [0; HEADER_LEN];
        self.wire.read_exact(&mut header).await?;
        self.sequence = header[3].wrapping_add(1);
        let length = payload_length(&header);
        if length == 0 {
            return Err(Problem::Malformed("an empty packet"));
        }
        let first = *self.wire.fill_buf().await?.first().ok_or(Problem::Closed)?;
        Ok(Next { length, first })
    }

    /// Reads the payload; it is there until the next is read.
    pub async fn keep(&mut self, next: Next) -> Result<&[u8], Problem> {
        if next.length > LONGEST {
            return Err(Problem::Malformed("a packet of a greeting or an answer is too long"));
        }
        self.kept.resize(next.length, 0);
        self.wire.read_exact(&mut self.kept).await?;
        Ok(&self.kept)
    }

    /// The payload that was kept last.
    pub fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Skips the payload, and the packets that continue it; returns their length.
    pub async fn skip(&mut self, next: Next) -> Result<u64, Problem> {
        let mut length = next.length;
        let mut whole = 0;
        loop {
            whole += length as u64;
            let mut left = length;
            while left > 0 {
                let there = match self.wire.buffer().is_empty() && left > READ_AHEAD {
                    true => self.drop_some(left).await?,
                    false => {
                        let there = self.wire.fill_buf().await?.len().min(left);
                        self.wire.consume(there);
                        there
                    }
                };
                if there == 0 {
                    return Err(Problem::Closed);
                }
                left -= there;
            }
            if length < FULL {
                return Ok(whole);
            }
            let mut header = [0; HEADER_LEN];
            self.wire.read_exact(&mut header).await?;
            self.sequence = header[3].wrapping_add(1);
            length = payload_length(&header);
        }
    }

    /// Reads past the read-ahead, which is empty, and drops what comes; returns its length.
    async fn drop_some(&mut self, most: usize) -> io::Result<usize> {
        let mut wire = Pin::new(self.wire.get_mut());
        poll_fn(|cx| {
            BUFFER.with_borrow_mut(|buffer| {
                let most = most.min(buffer.len());
                let mut read = ReadBuf::new(&mut buffer[..most]);
                ready!(wire.as_mut().poll_read(cx, &mut read))?;
                Poll::Ready(Ok(read.filled().len()))
            })
        })
        .await
    }

    /// Reads a packet that is OK or ERR.
    pub async fn ok<K: OkPacketKind>(&mut self, next: Next) -> Result<StatusFlags, Problem> {
        let capabilities = self.capabilities;
        let payload = self.keep(next).await?;
        if next.first == 0xff {
            return Err(refusal(payload, capabilities));
        }
        let ok = ParseBuf(payload).parse::<OkPacketDeserializer<'_, K>>(capabilities);
        let ok = ok.map_err(|_| Problem::Malformed("an OK packet cannot be read"))?;
        Ok(ok.into_inner().status_flags())
    }

    /// Waits until the server has closed, or says something.
    pub async fn ended(&mut self) -> io::Result<()> {
        self.wire.fill_buf().await.map(drop)
    }
}

/// An ERR packet as an error.
pub fn refusal(payload: &[u8], capabilities: CapabilityFlags) -> Problem {
    // In the place of a greeting it has no SQLSTATE, whatever is agreed later.
    let has_state = payload.get(3) == Some(&b'#');
    let capabilities = match has_state {
        true => capabilities,
        false => capabilities - CapabilityFlags::CLIENT_PROTOCOL_41,
    };
    match ParseBuf(payload).parse::<ErrPacket<'_>>(capabilities) {
        Ok(ErrPacket::Error(error)) => Problem::Refused(Refusal {
            code: error.error_code(),
            state: error
                .sql_state_ref()
                .filter(|_| has_state)
                .map(|state| harmless(&state.as_str())),
            message: harmless(&error.message_str()),
        }),
        _ => Problem::Malformed("an ERR packet cannot be read"),
    }
}

/// A payload as it is.
pub struct Raw<'a>(
    /// Its bytes.
    pub &'a [u8],
);

impl MySerialize for Raw<'_> {
    fn serialize(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0);
    }
}
