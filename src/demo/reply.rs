//! The embedded backend's answers, as bytes.
//!
//! Source: MySQL Internals, "OK_Packet", "ERR_Packet", "EOF_Packet" and "Text Resultset".

use std::io;

use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::greeting::CHARSET;
use crate::mysql::packet::HEADER_LEN;

/// Status flags: autocommit is on.
pub const STATUS_AUTOCOMMIT: u16 = 0x2;
/// Status flags: a transaction is open.
pub const STATUS_IN_TRANSACTION: u16 = 0x1;

/// The longest payload of one packet; one of this length is continued by the next packet.
const MAX_PAYLOAD: u64 = 0xff_ffff;
/// The character set of what is not text.
const BINARY: u16 = 63;

/// Payload of an OK packet.
pub fn ok(status: u16) -> Vec<u8> {
    ok_marked(0x00, status)
}

/// Payload of what ends columns or rows: an OK packet in disguise with CLIENT_DEPRECATE_EOF, else EOF.
pub fn terminator(deprecate_eof: bool, status: u16) -> Vec<u8> {
    if deprecate_eof {
        return ok_marked(0xfe, status);
    }
    let status = status.to_le_bytes();
    vec![0xfe, 0, 0, status[0], status[1]]
}

/// Marker, no affected rows, no insert id, status, no warnings.
fn ok_marked(marker: u8, status: u16) -> Vec<u8> {
    let status = status.to_le_bytes();
    vec![marker, 0, 0, status[0], status[1], 0, 0]
}

/// Payload of an ERR packet.
pub fn err(code: u16, state: &[u8; 5], text: &str) -> Vec<u8> {
    let mut payload = vec![0xff];
    payload.extend_from_slice(&code.to_le_bytes());
    payload.push(b'#');
    payload.extend_from_slice(state);
    payload.extend_from_slice(text.as_bytes());
    payload
}

/// Payload of the packet that opens a result set.
pub fn column_count(count: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    put_length(&mut payload, count as u64);
    payload
}

/// One value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Null,
    Integer(String),
    Decimal(String),
    Text(Vec<u8>),
    /// `unit`, `count` times: never held in memory as a whole.
    Repeat {
        unit: Vec<u8>,
        count: u64,
    },
}

impl Cell {
    /// Bytes of the value itself.
    fn length(&self) -> u64 {
        match self {
            Self::Null => 0,
            Self::Integer(digits) | Self::Decimal(digits) => digits.len() as u64,
            Self::Text(text) => text.len() as u64,
            Self::Repeat { unit, count } => unit.len() as u64 * count,
        }
    }

    /// What precedes the value in the row: its length, or the mark of NULL.
    fn prefix(&self) -> Vec<u8> {
        let mut prefix = Vec::with_capacity(9);
        match self {
            Self::Null => prefix.push(0xfb),
            _ => put_length(&mut prefix, self.length()),
        }
        prefix
    }

    /// Payload of the definition of a column that holds this value.
    pub fn definition(&self, name: &str) -> Vec<u8> {
        /// Column flags: NOT NULL and BINARY.
        const NUMBER: u16 = 0x81;
        let (kind, charset, flags, decimals) = match self {
            Self::Null => (0x06, BINARY, 0x80, 0),
            Self::Integer(digits) if digits.parse::<i64>().is_ok() => (0x08, BINARY, NUMBER, 0),
            Self::Integer(_) => (0xf6, BINARY, NUMBER, 0),
            Self::Decimal(digits) => {
                let decimals = digits.split_once('.').map_or(0, |(_, behind)| behind.len());
                (0xf6, BINARY, NUMBER, decimals.min(30) as u8)
            }
            Self::Text(_) | Self::Repeat { .. } => (0xfd, CHARSET.into(), 0x01, 31),
        };
        let mut payload = Vec::with_capacity(32 + name.len());
        put_text(&mut payload, b"def");
        // Schema, table and original table: a literal has none.
        payload.extend_from_slice(&[0, 0, 0]);
        put_text(&mut payload, name.as_bytes());
        put_text(&mut payload, b"");
        // Length of the fixed fields that follow.
        payload.push(0x0c);
        payload.extend_from_slice(&charset.to_le_bytes());
        payload.extend_from_slice(&(self.length() as u32).to_le_bytes());
        payload.push(kind);
        payload.extend_from_slice(&u16::to_le_bytes(flags));
        payload.push(decimals);
        payload.extend_from_slice(&[0, 0]);
        payload
    }
}

/// Writes one row, in as many packets as it takes, from sequence id `sequence`, which moves on.
pub async fn write_row<W>(out: &mut W, sequence: &mut u8, row: &[Cell]) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let prefixes: Vec<_> = row.iter().map(Cell::prefix).collect();
    let values: u64 = row.iter().map(Cell::length).sum();
    let length = prefixes.iter().map(|prefix| prefix.len() as u64).sum::<u64>() + values;
    let mut payload = Payload::begin(out, sequence, length).await?;
    for (prefix, cell) in prefixes.iter().zip(row) {
        payload.write(prefix).await?;
        match cell {
            Cell::Null => {}
            Cell::Integer(digits) | Cell::Decimal(digits) => {
                payload.write(digits.as_bytes()).await?;
            }
            Cell::Text(text) => payload.write(text).await?,
            Cell::Repeat { unit, count } => payload.write_repeated(unit, *count).await?,
        }
    }
    payload.finish().await
}

/// A payload of known length on its way out, cut into packets.
struct Payload<'a, W> {
    out: &'a mut W,
    sequence: &'a mut u8,
    /// Bytes that no header has announced yet.
    unannounced: u64,
    /// Bytes still missing in the packet whose header was written last.
    missing: u64,
    /// Whether that packet is one that another has to follow.
    full: bool,
}

impl<'a, W: AsyncWrite + Unpin> Payload<'a, W> {
    async fn begin(out: &'a mut W, sequence: &'a mut u8, length: u64) -> io::Result<Self> {
        let mut payload = Self { out, sequence, unannounced: length, missing: 0, full: false };
        payload.header().await?;
        Ok(payload)
    }

    async fn header(&mut self) -> io::Result<()> {
        let length = self.unannounced.min(MAX_PAYLOAD);
        let mut header = [0; HEADER_LEN];
        header[..3].copy_from_slice(&length.to_le_bytes()[..3]);
        header[3] = *self.sequence;
        *self.sequence = self.sequence.wrapping_add(1);
        self.unannounced -= length;
        self.missing = length;
        self.full = length == MAX_PAYLOAD;
        self.out.write_all(&header).await
    }

    async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.missing == 0 {
                self.header().await?;
            }
            let now = self.missing.min(bytes.len() as u64) as usize;
            self.out.write_all(&bytes[..now]).await?;
            self.missing -= now as u64;
            bytes = &bytes[now..];
        }
        Ok(())
    }

    /// Writes through one buffer of about 64 KiB that holds `unit` many times.
    async fn write_repeated(&mut self, unit: &[u8], count: u64) -> io::Result<()> {
        const CHUNK: usize = 64 * 1024;
        if unit.is_empty() {
            return Ok(());
        }
        let fitting = (CHUNK / unit.len()).max(1).min(count as usize);
        let chunk = unit.repeat(fitting);
        let mut left = unit.len() as u64 * count;
        while left > 0 {
            let now = left.min(chunk.len() as u64);
            self.write(&chunk[..now as usize]).await?;
            left -= now;
        }
        Ok(())
    }

    /// A payload that ends with a full packet is closed by an empty one.
    async fn finish(mut self) -> io::Result<()> {
        debug_assert!(self.missing == 0 && self.unannounced == 0, "the length was wrong");
        if self.full {
            self.header().await?;
        }
        Ok(())
    }
}

fn put_text(payload: &mut Vec<u8>, text: &[u8]) {
    put_length(payload, text.len() as u64);
    payload.extend_from_slice(text);
}

/// A length-encoded integer.
fn put_length(payload: &mut Vec<u8>, length: u64) {
    let bytes = length.to_le_bytes();
    match length {
        0..=0xfa => payload.push(bytes[0]),
        0xfb..=0xffff => {
            payload.push(0xfc);
            payload.extend_from_slice(&bytes[..2]);
        }
        0x1_0000..=0xff_ffff => {
            payload.push(0xfd);
            payload.extend_from_slice(&bytes[..3]);
        }
        _ => {
            payload.push(0xfe);
            payload.extend_from_slice(&bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql::packet::payload_length;

    /// Packets of `wire` as (length, sequence id, payload).
    fn packets(mut wire: &[u8]) -> Vec<(usize, u8, &[u8])> {
        let mut packets = Vec::new();
        while let Some((header, rest)) = wire.split_first_chunk::<HEADER_LEN>() {
            let length = payload_length(header);
            packets.push((length, header[3], &rest[..length]));
            wire = &rest[length..];
        }
        packets
    }

    async fn row(row: &[Cell]) -> Vec<u8> {
        let mut wire = Vec::new();
        let mut sequence = 3;
        write_row(&mut wire, &mut sequence, row).await.unwrap();
        wire
    }

    #[tokio::test]
    async fn a_row_holds_its_values_behind_their_lengths() {
        let repeat = Cell::Repeat { unit: b"ab".to_vec(), count: 2 };
        let wire = row(&[Cell::Null, Cell::Integer("42".into()), repeat]).await;
        assert_eq!(wire, b"\x09\x00\x00\x03\xfb\x0242\x04abab");
    }

    #[tokio::test]
    async fn a_row_of_exactly_one_full_packet_is_closed_by_an_empty_one() {
        // 9 bytes of length precede 16 MiB and more, 4 precede less.
        let count = MAX_PAYLOAD - 4;
        let wire = row(&[Cell::Repeat { unit: b"x".to_vec(), count }]).await;
        let packets = packets(&wire);
        assert_eq!(packets.len(), 2);
        assert_eq!((packets[0].0, packets[0].1), (0xff_ffff, 3));
        assert_eq!((packets[1].0, packets[1].1), (0, 4));
    }

    #[tokio::test]
    async fn a_long_row_is_cut_into_packets_that_join_to_the_value() {
        let count = 40_000_000 / 7;
        let wire = row(&[Cell::Repeat { unit: b"tidegat".to_vec(), count }]).await;
        let packets = packets(&wire);
        assert_eq!(packets.iter().map(|packet| packet.1).collect::<Vec<_>>(), [3, 4, 5]);
        let joined: Vec<u8> = packets.iter().flat_map(|packet| packet.2).copied().collect();
        assert_eq!(joined[0], 0xfe);
        assert!(joined[9..] == b"tidegat".repeat(count as usize), "the value came out changed");
    }
}
