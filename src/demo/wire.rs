//! Packets in and out of one of the backend's sockets, buffered both ways.

use std::io;

use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::reply::{self, Cell};
use crate::mysql::packet::{HEADER_LEN, payload_length};

/// A buffer that a long command left behind is given back above this size, in bytes.
const KEPT_BUFFER: usize = 64 * 1024;

/// Why a session ended before its client wanted it to.
#[derive(Debug, Error)]
pub enum WireError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the client does not speak the protocol: {0}")]
    Protocol(&'static str),
}

/// A client's socket, read and written packet by packet.
pub struct Wire<'a> {
    reader: BufReader<ReadHalf<'a>>,
    writer: BufWriter<WriteHalf<'a>>,
    /// The id that the next packet has, whichever side sends it.
    sequence: u8,
    payload: Vec<u8>,
}

impl<'a> Wire<'a> {
    pub fn new(stream: &'a mut TcpStream) -> Self {
        let (reader, writer) = stream.split();
        Self {
            reader: BufReader::new(reader),
            writer: BufWriter::new(writer),
            sequence: 0,
            payload: Vec::new(),
        }
    }

    /// The next packet has sequence id 0.
    pub fn begin_command(&mut self) {
        self.sequence = 0;
    }

    /// Reads one packet of at most `limit` bytes into [`payload`](Self::payload); false if the
    /// client left.
    ///
    /// Memory grows with the bytes that arrive, not with the length that the header claims.
    pub async fn receive(&mut self, limit: usize) -> Result<bool, WireError> {
        if self.reader.fill_buf().await?.is_empty() {
            return Ok(false);
        }
        let mut header = [0; HEADER_LEN];
        self.reader.read_exact(&mut header).await?;
        let length = payload_length(&header);
        if length > limit {
            return Err(self.refuse(1153, "the packet is too long for the demo backend").await);
        }
        if header[3] != self.sequence {
            return Err(self.refuse(1156, "Got packets out of order").await);
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.payload.clear();
        (&mut self.reader).take(length as u64).read_to_end(&mut self.payload).await?;
        if self.payload.len() < length {
            return Err(WireError::Protocol("the packet ends early"));
        }
        Ok(true)
    }

    /// The payload received last.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Takes the payload received last, so that it can be answered while it is read.
    pub fn take_payload(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.payload)
    }

    /// Brings the buffer back for the next packet.
    pub fn give_back(&mut self, mut payload: Vec<u8>) {
        payload.clear();
        payload.shrink_to(KEPT_BUFFER);
        self.payload = payload;
    }

    /// Sends one packet; `payload` is shorter than a full one.
    pub async fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut header = [0; HEADER_LEN];
        header[..3].copy_from_slice(&payload.len().to_le_bytes()[..3]);
        header[3] = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        self.writer.write_all(&header).await?;
        self.writer.write_all(payload).await
    }

    /// Sends one row, however long.
    pub async fn send_row(&mut self, row: &[Cell]) -> io::Result<()> {
        reply::write_row(&mut self.writer, &mut self.sequence, row).await
    }

    /// Answers with an ERR packet about the protocol, after which the session has to end.
    pub async fn refuse(&mut self, code: u16, text: &'static str) -> WireError {
        let sent = async {
            self.send(&reply::err(code, b"08S01", text)).await?;
            self.flush().await
        };
        match sent.await {
            Ok(()) => WireError::Protocol(text),
            Err(error) => WireError::Io(error),
        }
    }

    pub async fn flush(&mut self) -> io::Result<()> {
        self.writer.flush().await
    }

    /// Sends what is left and then FIN.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.writer.shutdown().await
    }
}
