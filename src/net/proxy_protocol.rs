//! The PROXY protocol, versions 1 and 2: what a load balancer says of a client before the client's
//! first byte (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>, "the specification").
//!
//! The `proxy-protocol-rs` crate parses and writes headers. Here are the reading of exactly a
//! header's bytes, so that what follows stays in the socket for the relay, and what the crate takes
//! otherwise than the specification.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proxy_protocol_rs::{HeaderBuilder, ParseError, TransportProtocol, V2_SIGNATURE, parse};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::stream::Stream;
use crate::config::SendProxyProtocol;

/// How version 1 begins (2.1 of the specification).
const V1_START: &[u8] = b"PROXY ";
/// The longest line of version 1, its CR LF included.
const V1_LONGEST: usize = 107;
/// `PROXY UNKNOWN` and CR LF. A header of version 2 is longer.
const SHORTEST: usize = 15;
/// What comes before the addresses in version 2: signature, command, family, length.
const V2_HEAD: usize = 16;
/// The most that is read behind it. The specification wants headers to fit into 536 bytes, but
/// certificates may be among the TLVs.
const V2_LONGEST: usize = 4096;
/// Version 2 with the command LOCAL: a connection of the load balancer itself.
const V2_LOCAL: u8 = 0x20;
/// Version 2 with the command PROXY: a connection of a client.
const V2_PROXY: u8 = 0x21;
/// The family and transport of a client that has no address to tell.
const V2_UNSPEC: u8 = 0x00;
/// How many bytes of what is no header are shown.
const SHOWN: usize = 8;
/// An endpoint's id is a word such as `vpce-08d2bf15fac5001c9`; longer ones are not logged.
const ID_LONGEST: usize = 64;

/// The two ends of a client's connection, as the client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Where the client is.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
}

/// What a header says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// The client's connection. `None`: the one over which the header came is meant, be it a health
    /// check (LOCAL) or a client without an IP address (UNKNOWN, UNSPEC, a Unix socket).
    pub addresses: Option<Addresses>,
    /// The id of the VPC endpoint through which the client came: AWS or Alibaba Cloud.
    pub vpc_endpoint: Option<Box<str>>,
    /// The LINKID of the private endpoint through which the client came: Azure.
    pub link_id: Option<u32>,
}

/// Why there is no header. Each is the end of a sentence that begins with who was to send it.
#[derive(Debug, Error)]
pub enum HeaderError {
    /// Something else came.
    #[error(
        "began with \"{}\", not with a PROXY header; is proxy protocol on at the load balancer?",
        .0.escape_ascii()
    )]
    Missing(Box<[u8]>),
    /// Nothing came.
    #[error("sent no PROXY header within {0:?}; is proxy protocol on at the load balancer?")]
    Silent(Duration),
    /// The rest did not come.
    #[error("sent {0} bytes of a PROXY header and not the rest within {1:?}")]
    Slow(usize, Duration),
    /// The connection ended before the header did.
    #[error("ended after {0} bytes of a PROXY header")]
    Truncated(usize),
    /// It is longer than any that is read.
    #[error("sent a PROXY header that is longer than {0} bytes")]
    TooLong(usize),
    /// It is not one of the specification.
    #[error("sent a malformed PROXY header: {0}")]
    Malformed(String),
    /// The connection broke.
    #[error("failed before its PROXY header: {0}")]
    Broken(io::Error),
}

/// Reads the header with which a connection begins, and nothing behind it. `None`: the connection
/// ended without a byte, as that of a TCP health check does.
pub async fn receive<S: AsyncRead + Unpin>(
    stream: &mut S,
    within: Duration,
) -> Result<Option<Header>, HeaderError> {
    let mut seen = Vec::new();
    let result = timeout(within, read(stream, &mut seen)).await;
    match result {
        Ok(result) => result,
        Err(_) if seen.is_empty() => Err(HeaderError::Silent(within)),
        Err(_) => Err(HeaderError::Slow(seen.len(), within)),
    }
}

/// Passes over a header of version 2 where one may come but says nothing of interest.
pub async fn skip(stream: &mut Stream, within: Duration) -> Result<(), HeaderError> {
    let mut first = [0];
    match timeout(within, stream.peek(&mut first)).await {
        Ok(Ok(1)) if first[0] == V2_SIGNATURE[0] => receive(stream, within).await.map(drop),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(HeaderError::Broken(error)),
        Err(_) => Err(HeaderError::Silent(within)),
    }
}

/// Sends the header of a connection to a server, which must be its first bytes: on behalf of a
/// `client`, or with `None` of the bridge itself.
///
/// For itself the bridge says LOCAL in version 2; in version 1 it names its own addresses, as 2.1
/// asks for, because some receivers refuse UNKNOWN.
pub async fn send(
    stream: &mut TcpStream,
    version: SendProxyProtocol,
    client: Option<Addresses>,
) -> io::Result<()> {
    let header = match (version, client) {
        (SendProxyProtocol::Off, _) => return Ok(()),
        (SendProxyProtocol::V2, None) => HeaderBuilder::v2_local(),
        (SendProxyProtocol::V2, Some(client)) => client.header(HeaderBuilder::v2_proxy),
        (SendProxyProtocol::V1, Some(client)) => client.header(HeaderBuilder::v1_proxy),
        (SendProxyProtocol::V1, None) => {
            let own = Addresses { source: stream.local_addr()?, destination: stream.peer_addr()? };
            own.header(HeaderBuilder::v1_proxy)
        }
    };
    // Into an empty send queue it goes as a whole.
    stream.write_all(&header.build()).await
}

impl Addresses {
    /// A header's beginning. Where the ends are of different families the IPv4 one is written as an
    /// IPv6 address (`::ffff:192.0.2.1`), as HAProxy does.
    fn header(self, begin: fn(SocketAddr, SocketAddr) -> HeaderBuilder) -> HeaderBuilder {
        let Self { source, destination } = self.canonical();
        if source.is_ipv4() == destination.is_ipv4() {
            return begin(source, destination);
        }
        let mapped = |end: SocketAddr| match end.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), end.port()),
            IpAddr::V6(_) => end,
        };
        begin(mapped(source), mapped(destination))
    }

    /// The same, IPv4 addresses that are written as IPv6 ones as what they are.
    fn canonical(self) -> Self {
        let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        Self { source: canonical(self.source), destination: canonical(self.destination) }
    }
}

async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    seen: &mut Vec<u8>,
) -> Result<Option<Header>, HeaderError> {
    loop {
        let more = lacking(seen)?;
        if more == 0 {
            return decode(seen).map(Some);
        }
        let read = (&mut *stream).take(more as u64).read_buf(seen).await;
        match read.map_err(HeaderError::Broken)? {
            0 if seen.is_empty() => return Ok(None),
            0 => return Err(HeaderError::Truncated(seen.len())),
            _ => {}
        }
    }
}

/// How many bytes are sure to follow of the header that begins with `seen`; 0 when it is whole.
///
/// The end of a line of version 1 shows only when it is there, so of that the last part is read two
/// bytes at a time. Load balancers that are in a hurry send version 2.
fn lacking(seen: &[u8]) -> Result<usize, HeaderError> {
    if begins_as(V1_START, seen) {
        return match seen {
            [.., b'\n'] => Ok(0),
            _ if seen.len() >= V1_LONGEST => Err(HeaderError::TooLong(V1_LONGEST)),
            [.., b'\r'] => Ok(1),
            _ if seen.contains(&b'\n') => Ok(0),
            _ => Ok(SHORTEST.saturating_sub(seen.len()).max(2).min(V1_LONGEST - seen.len())),
        };
    }
    if !begins_as(V2_SIGNATURE, seen) {
        return Err(HeaderError::Missing(seen[..seen.len().min(SHOWN)].into()));
    }
    match seen.first_chunk::<V2_HEAD>() {
        None => Ok(V2_HEAD - seen.len()),
        Some([.., high, low]) => match usize::from(u16::from_be_bytes([*high, *low])) {
            length if length > V2_LONGEST => Err(HeaderError::TooLong(V2_HEAD + V2_LONGEST)),
            length => Ok(V2_HEAD + length - seen.len()),
        },
    }
}

/// Whether `seen` is a beginning of `start`, or begins with all of it.
fn begins_as(start: &[u8], seen: &[u8]) -> bool {
    seen.iter().zip(start).all(|(seen, start)| seen == start)
}

/// Understands a whole header.
fn decode(header: &[u8]) -> Result<Header, HeaderError> {
    match header.strip_prefix(V2_SIGNATURE) {
        // 2.2: of LOCAL everything else is ignored. AWS sends it with the family of IPv4 and without
        // addresses. UNSPEC is the one family that a receiver has to take.
        Some([V2_LOCAL, ..] | [V2_PROXY, V2_UNSPEC, ..]) => return Ok(Header::default()),
        Some(_) => {}
        None => check_ports(header)?,
    }
    let (info, _) = parse(header).map_err(|error| malformed(&error))?;
    let is_tcp = info.transport.is_some_and(|one| one.protocol == TransportProtocol::Stream);
    let addresses = match (info.source_inet(), info.destination_inet()) {
        (Some(source), Some(destination)) if is_tcp => {
            Some(Addresses { source, destination }.canonical())
        }
        _ => None,
    };
    let tlvs = info.tlvs.raw;
    Ok(Header { addresses, vpc_endpoint: vpc_endpoint(&tlvs), link_id: link_id(&tlvs) })
}

fn malformed(error: &ParseError) -> HeaderError {
    let text = match error {
        ParseError::Incomplete => "its line does not end in CR LF".into(),
        // It may quote what came.
        ParseError::Invalid(reason) => reason.to_string().escape_debug().to_string(),
        error => error.to_string(),
    };
    HeaderError::Malformed(text)
}

/// 2.1: a port is a decimal number without heading zeroes. The crate reads Rust's numbers.
fn check_ports(line: &[u8]) -> Result<(), HeaderError> {
    let mut fields = line.trim_ascii_end().split(|byte| *byte == b' ').skip(1);
    if fields.next() == Some(b"UNKNOWN".as_slice()) {
        return Ok(());
    }
    match fields.skip(2).find(|port| matches!(port, [b'0', _, ..] | [b'+', ..])) {
        Some(port) => Err(HeaderError::Malformed(format!("port \"{}\"", port.escape_ascii()))),
        None => Ok(()),
    }
}

/// The id in the TLV of AWS (0xEA, 0x01: PP2_SUBTYPE_AWS_VPCE_ID; "Proxy protocol" in the guide to
/// Network Load Balancers) or of Alibaba Cloud (0xE1, 0x02; "Get real client information" in that to
/// PrivateLink). One that is not made of letters, digits and hyphens is passed over.
fn vpc_endpoint(tlvs: &[(u8, Vec<u8>)]) -> Option<Box<str>> {
    let id = tlvs.iter().find_map(|(kind, value)| match (kind, value.as_slice()) {
        (0xea, [0x01, id @ ..]) | (0xe1, [0x02, id @ ..]) => Some(id),
        _ => None,
    })?;
    let is_word = id.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    let id = str::from_utf8(id).ok().filter(|_| is_word)?;
    (1..=ID_LONGEST).contains(&id.len()).then(|| id.into())
}

/// The LINKID in the TLV of Azure (0xEE, 0x01: PP2_SUBTYPE_AZURE_PRIVATEENDPOINT_LINKID; "What is
/// Azure Private Link service?"), little-endian as nothing else is here.
fn link_id(tlvs: &[(u8, Vec<u8>)]) -> Option<u32> {
    tlvs.iter().find_map(|(kind, value)| match (kind, value.as_slice()) {
        (0xee, [0x01, id @ ..]) => Some(u32::from_le_bytes(id.try_into().ok()?)),
        _ => None,
    })
}
