//! The demo's own MySQL client: an empty password, text queries, and the first row of each answer.
//!
//! Source: MySQL Internals, "Protocol::HandshakeResponse41" and "Text Resultset".

use std::io;
use std::net::SocketAddr;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::greeting::{CHARSET, NATIVE_PASSWORD, capability};
use crate::mysql::packet::{HEADER_LEN, frame, payload_length};

/// The user that the demo logs in as; the backends let everybody in.
pub const USER: &str = "demo";

/// Without DEPRECATE_EOF: the older layout has the simpler end.
const CAPABILITIES: u32 =
    capability::PROTOCOL_41 | capability::SECURE_CONNECTION | capability::PLUGIN_AUTH;

/// Why a connection or a query failed.
#[derive(Debug, Error)]
pub enum ClientError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// An ERR packet.
    #[error("error {code}: {text}")]
    Refused { code: u16, text: String },
    #[error("the server does not speak the protocol")]
    Protocol,
    #[error("no answer in time")]
    Silent,
}

/// A connection that is logged in.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
    /// The id of the packet received last.
    sequence: u8,
}

/// The values of a row as text; NULL is `None`.
pub type Row = Vec<Option<String>>;

impl Client {
    /// Connects and logs in.
    pub async fn connect(address: SocketAddr) -> Result<Self, ClientError> {
        let stream = dial(address).await?;
        let mut client = Self { stream: BufReader::new(stream), sequence: 0 };
        if client.receive().await?.first() != Some(&10) {
            return Err(ClientError::Protocol);
        }
        client.log_in().await?;
        Ok(client)
    }

    /// Sends one query and returns its first row, empty if there is none.
    pub async fn query(&mut self, text: &str) -> Result<Row, ClientError> {
        let mut payload = vec![0x03];
        payload.extend_from_slice(text.as_bytes());
        self.stream.write_all(&frame(0, &payload)).await?;
        if self.receive().await?.first() == Some(&0) {
            return Ok(Row::new());
        }
        while !is_eof(&self.receive().await?) {}
        let mut first = None;
        loop {
            let payload = self.receive().await?;
            if is_eof(&payload) {
                return Ok(first.unwrap_or_default());
            }
            if first.is_none() {
                first = Some(row(&payload).ok_or(ClientError::Protocol)?);
            }
        }
    }

    /// Says goodbye, so that the close counts as the client's own.
    pub async fn quit(mut self) -> Result<(), ClientError> {
        self.stream.write_all(&frame(0, &[0x01])).await?;
        // The server closes in answer.
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await?;
        Ok(())
    }

    async fn log_in(&mut self) -> Result<(), ClientError> {
        let mut payload = CAPABILITIES.to_le_bytes().to_vec();
        payload.extend_from_slice(&0x100_0000u32.to_le_bytes());
        payload.push(CHARSET);
        payload.extend_from_slice(&[0; 23]);
        payload.extend_from_slice(USER.as_bytes());
        // The NUL behind the user, and the length of an empty password's scramble.
        payload.extend_from_slice(&[0, 0]);
        payload.extend_from_slice(NATIVE_PASSWORD.as_bytes());
        payload.push(0);
        self.stream.write_all(&frame(self.sequence.wrapping_add(1), &payload)).await?;
        match self.receive().await?.first() {
            Some(0) => Ok(()),
            _ => Err(ClientError::Protocol),
        }
    }

    /// Reads one packet. An ERR packet is an error.
    async fn receive(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut header = [0; HEADER_LEN];
        self.stream.read_exact(&mut header).await?;
        let length = payload_length(&header);
        self.sequence = header[3];
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await?;
        match payload.split_first() {
            Some((0xff, error)) => Err(refused(error)),
            _ => Ok(payload),
        }
    }
}

/// Opens a connection to one of the demo's own parts.
#[expect(clippy::disallowed_methods, reason = "whoever dials here has set a deadline")]
pub async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn is_eof(payload: &[u8]) -> bool {
    payload.first() == Some(&0xfe) && payload.len() < 9
}

/// Reads an ERR packet behind its marker; the state is there only once the client is logged in.
fn refused(error: &[u8]) -> ClientError {
    let Some((code, text)) = error.split_first_chunk() else {
        return ClientError::Protocol;
    };
    let text = match text.split_at_checked(6) {
        Some(([b'#', ..], text)) => text,
        _ => text,
    };
    let text = String::from_utf8_lossy(text).into_owned();
    ClientError::Refused { code: u16::from_le_bytes(*code), text }
}

/// Takes a row apart. A row of more than one packet, 16 MiB and more, is none of the demo's.
fn row(mut payload: &[u8]) -> Option<Row> {
    let mut row = Row::new();
    while let Some((&first, rest)) = payload.split_first() {
        let (length, rest) = match first {
            0xfb => {
                row.push(None);
                payload = rest;
                continue;
            }
            short @ 0..=0xfa => (usize::from(short), rest),
            0xfc => {
                let (length, rest) = rest.split_first_chunk()?;
                (usize::from(u16::from_le_bytes(*length)), rest)
            }
            0xfd => {
                let (length, rest) = rest.split_first_chunk::<3>()?;
                (u32::from_le_bytes([length[0], length[1], length[2], 0]) as usize, rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        row.push(Some(String::from_utf8_lossy(value).into_owned()));
        payload = rest;
    }
    Some(row)
}
