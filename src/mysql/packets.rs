//! Whole packets over one connection, each with the sequence id that is due.

use std::io;
use std::mem::replace;
use std::time::Duration;

use rustls::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::packet::{HEADER_LEN, frame, payload_length};
use crate::net::secure::Secure;
use crate::net::stream::Vanished;
use crate::net::transport::Transport;

/// Longest payload: a HandshakeResponse may have 64 KiB of attributes.
const LONGEST: usize = 128 * 1024;

/// One side of a handshake. Never reads beyond a packet's end: what follows may be TLS.
#[derive(Debug)]
pub struct Packets {
    stream: Transport,
    /// What has come of the next packet.
    partial: Vec<u8>,
    /// The sequence id of the next packet that is sent.
    sequence: u8,
    /// As [`Self::acknowledged_within`] has it.
    acknowledge: Option<Duration>,
}

impl Packets {
    /// Begins where a greeting or a command is due, of which `said` was read already.
    pub fn new(stream: impl Into<Transport>, said: Vec<u8>) -> Self {
        Self { stream: stream.into(), partial: said, sequence: 0, acknowledge: None }
    }

    /// Its host has that long to acknowledge what it is sent while something is waited for; then the
    /// wait ends with [`Vanished`].
    pub fn acknowledged_within(self, within: Duration) -> Self {
        Self { acknowledge: Some(within), ..self }
    }

    /// The connection.
    pub fn stream(&self) -> &Transport {
        &self.stream
    }

    /// Whether nothing is known of the next packet.
    pub fn is_between_packets(&self) -> bool {
        self.partial.is_empty()
    }

    /// The connection, between two packets.
    pub fn into_stream(self) -> Transport {
        self.stream
    }

    /// The connection, and what has come of the next packet.
    pub fn into_parts(self) -> (Transport, Vec<u8>) {
        (self.stream, self.partial)
    }

    /// Goes on inside TLS, between two packets; `Err` as with [`Secure::shake_hands`].
    ///
    /// What was said in plain text must not pass for something that was said inside.
    pub async fn secure(self, tls: impl Into<Connection>) -> io::Result<Self> {
        if !self.partial.is_empty() {
            let error = "something was said in plain text where TLS begins";
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        let socket = self.stream.into_socket();
        let secure = Secure::shake_hands(socket, tls, self.acknowledge).await?;
        Ok(Self { stream: secure.into(), ..self })
    }

    /// The sequence id of the next packet that is sent.
    pub fn sequence(&self) -> u8 {
        self.sequence
    }

    /// The payload of the next packet. When this is dropped nothing is lost: the next call goes on.
    pub async fn next(&mut self) -> io::Result<Vec<u8>> {
        if let Some(within) = self.acknowledge {
            match timeout(within, self.receive()).await {
                Ok(received) => return received,
                Err(_) => Vanished::check(self.stream.socket(), within)?,
            }
        }
        self.receive().await
    }

    async fn receive(&mut self) -> io::Result<Vec<u8>> {
        self.fill(HEADER_LEN).await?;
        let header = self.partial.first_chunk().expect("it was filled");
        let length = payload_length(header);
        if length > LONGEST {
            let error = format!("a packet of {length} bytes in a handshake");
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        self.fill(HEADER_LEN + length).await?;
        let rest = self.partial.split_off(HEADER_LEN + length);
        let mut packet = replace(&mut self.partial, rest);
        self.sequence = packet[3].wrapping_add(1);
        packet.drain(..HEADER_LEN);
        Ok(packet)
    }

    /// Sends a payload.
    pub async fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        let packet = frame(self.sequence, payload);
        self.sequence = self.sequence.wrapping_add(1);
        self.stream.write_all(&packet).await?;
        self.stream.flush().await
    }

    async fn fill(&mut self, length: usize) -> io::Result<()> {
        while self.partial.len() < length {
            let lacks = (length - self.partial.len()) as u64;
            if (&mut self.stream).take(lacks).read_buf(&mut self.partial).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}
