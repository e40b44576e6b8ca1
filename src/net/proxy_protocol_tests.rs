//! Headers of every kind, whole, in pieces, cut short and wrong.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proxy_protocol_rs::HeaderBuilder;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf, duplex};
use tokio::net::{TcpListener, TcpStream};

use super::proxy_protocol::{Addresses, Header, HeaderError, receive, send};
use crate::config::SendProxyProtocol;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn both_versions_tell_the_two_ends_of_the_clients_connection() {
    let v4 = from("192.168.0.1:56324", "192.168.0.11:443");
    let v6 = from("[2001:db8::1]:1", "[2001:db8::2]:65535");
    // The line of 2.1 of the specification, and the longest one for IPv4.
    assert_eq!(whole(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"), v4);
    let longest = from("255.255.255.255:65535", "255.255.255.255:65535");
    assert_eq!(whole(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"), longest);
    assert_eq!(whole(b"PROXY TCP6 2001:db8::1 2001:DB8::2 1 65535\r\n"), v6);
    let ends = [192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 0x01, 0xbb];
    assert_eq!(whole(&v2(0x21, 0x11, &ends)), v4);
    let mut ends = [0; 36];
    ends[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    ends[16..20].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    (ends[15], ends[31]) = (1, 2);
    ends[32..].copy_from_slice(&[0, 1, 0xff, 0xff]);
    assert_eq!(whole(&v2(0x21, 0x21, &ends)), v6);
}

#[test]
fn an_ipv4_address_is_one_also_when_it_is_written_as_ipv6() {
    let header = whole(b"PROXY TCP6 ::ffff:10.0.0.1 ::ffff:a00:2 1 2\r\n");
    assert_eq!(header, from("10.0.0.1:1", "10.0.0.2:2"));
}

#[test]
fn without_a_clients_address_the_connections_own_ends_are_meant() {
    let nobodys: [Vec<u8>; 10] = [
        b"PROXY UNKNOWN\r\n".into(),
        b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".into(),
        b"PROXY UNKNOWN whatever this \r may be 007\r\n".into(),
        v2(0x20, 0x00, &[]),
        // Of LOCAL the family and all that follows mean nothing.
        v2(0x20, 0x11, &[]),
        v2(0x20, 0xff, &[1, 2, 3]),
        // Addresses that would read as a checksum.
        v2(0x20, 0x11, &[3, 0, 4, 1, 10, 0, 0, 4, 0, 2, 0, 1]),
        // UNSPEC, a Unix socket, and a datagram, which came over no TCP connection.
        v2(0x21, 0x00, &[10, 0, 0, 1]),
        v2(0x21, 0x31, &[b'/'; 216]),
        v2(0x21, 0x12, &[10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2]),
    ];
    for header in nobodys {
        assert_eq!(whole(&header), Header::default(), "{}", header.escape_ascii());
    }
}

/// As it was seen on the wire: kubernetes/kubernetes#57250. LOCAL, the family of IPv4, no addresses.
#[test]
fn a_health_check_of_an_aws_load_balancer_is_understood() {
    let mut rest = vec![0x03, 0x00, 0x04, 0xbc, 0xe5, 0x95, 0x1f, 0x04, 0x00, 0x4a];
    rest.resize(0x54, 0);
    assert_eq!(whole(&v2(0x20, 0x11, &rest)), Header::default());
}

#[test]
fn the_private_endpoint_of_three_clouds_is_told() {
    let header = |tlvs: &[(u8, &[u8])]| {
        let mut rest = vec![10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2];
        for (kind, value) in tlvs {
            rest.push(*kind);
            rest.extend((value.len() as u16).to_be_bytes());
            rest.extend(*value);
        }
        whole(&v2(0x21, 0x11, &rest))
    };
    let aws = header(&[(0x04, &[0; 5]), (0xea, b"\x01vpce-08d2bf15fac5001c9")]);
    assert_eq!(aws.vpc_endpoint.as_deref(), Some("vpce-08d2bf15fac5001c9"));
    let alibaba = header(&[(0xe1, b"\x01vpc-1"), (0xe1, b"\x02ep-bp1"), (0xe1, b"\x03epsrv-1")]);
    assert_eq!(alibaba.vpc_endpoint.as_deref(), Some("ep-bp1"));
    let azure = header(&[(0xee, &[0x01, 0x04, 0x03, 0x02, 0x01])]);
    assert_eq!((azure.link_id, azure.vpc_endpoint), (Some(0x0102_0304), None));

    let long = [b"\x01".as_slice(), &[b'x'; 65]].concat();
    let unusable: [(u8, &[u8]); 9] = [
        (0xea, b""),
        (0xea, b"\x01"),
        (0xea, b"\x02vpce-1"),
        (0xea, b"\x01vpce-1\n"),
        (0xea, b"\x01vpce-\xff"),
        (0xea, &long),
        (0xee, b""),
        (0xee, &[0x01, 0, 0, 0]),
        (0xee, &[0x02, 0, 0, 0, 1]),
    ];
    for tlv in unusable {
        assert_eq!(header(&[tlv]), from("10.0.0.1:1", "10.0.0.2:2"), "{tlv:?}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let ends = [10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2];
    let mut checked =
        HeaderBuilder::v2_proxy(address("10.0.0.1:1"), address("10.0.0.2:2")).with_crc32c().build();
    assert_eq!(whole(&checked), from("10.0.0.1:1", "10.0.0.2:2"));
    checked[16] ^= 1;
    let line = |rest: &str| format!("PROXY {rest}\r\n").into_bytes();
    let cases: &[(Vec<u8>, &str)] = &[
        (b"GET / HTTP/1.1\r\n".into(), "began with \"GET / HT\", not with a PROXY header; is"),
        (b"\x16\x03\x01\x02".into(), "began with \"\\x16\\x03\\x01\\x02\", not"),
        (b"PROXYTCP4 1.1.1.1 2.2.2.2 1 2\r\n".into(), "began with \"PROXYTCP\", not"),
        (b"PROXX".into(), "began with \"PROXX\", not"),
        (b"\r\n\r\n\0\r\nQUIX\n!".into(), "began with \"\\r\\n\\r\\n\\x00\\r\\nQ\", not"),
        (line("TCP5 1.1.1.1 2.2.2.2 1 2"), "TCP5"),
        (line("tcp4 1.1.1.1 2.2.2.2 1 2"), "tcp4"),
        (line("TCP4 1.1.1.1 2.2.2.2 1"), "malformed"),
        (line("TCP4 1.1.1.1 2.2.2.2 1 2 3"), "malformed"),
        (line("TCP4  1.1.1.1 2.2.2.2 1 2"), "malformed"),
        (line("TCP4 1.1.1.256 2.2.2.2 1 2"), "1.1.1.256"),
        (line("TCP4 1.1.1.01 2.2.2.2 1 2"), "1.1.1.01"),
        (line("TCP4 ::1 2.2.2.2 1 2"), "::1"),
        (line("TCP6 1.1.1.1 ::2 1 2"), "1.1.1.1"),
        (line("TCP4 1.1.1.1 2.2.2.2 1 65536"), "65536"),
        (line("TCP4 1.1.1.1 2.2.2.2 01 2"), "port \"01\""),
        (line("TCP4 1.1.1.1 2.2.2.2 1 +2"), "port \"+2\""),
        (line("TCP4 1.1.1.1 2.2.2.2 1 -2"), "-2"),
        (line("TCP4 1.1.1.1 2.2.2.2 1 \u{1b}[2J"), "\\u{1b}[2J"),
        (line("UNKNOWNS"), "malformed"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n".into(), "its line does not end in CR LF"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\nX".into(), "its line does not end in CR LF"),
        (line(&format!("UNKNOWN {}", "x".repeat(92))), "longer than 107 bytes"),
        (v2(0x11, 0x11, &ends), "version: 0x1"),
        (v2(0x22, 0x11, &ends), "command nibble: 0x2"),
        (v2(0x21, 0x41, &ends), "family: 0x4"),
        (v2(0x21, 0x13, &ends), "protocol: 0x3"),
        (v2(0x21, 0x11, &ends[1..]), "malformed"),
        (v2(0x21, 0x21, &ends), "malformed"),
        (v2(0x21, 0x11, &[&ends, [0xea, 0, 9].as_slice()].concat()), "malformed"),
        (v2(0x21, 0x00, &[0; 4097]), "longer than 4112 bytes"),
        (checked, "CRC32c mismatch"),
    ];
    for (bytes, expected) in cases {
        let (result, _) = read(bytes, &[]);
        let said = result.expect_err(expected).to_string();
        assert!(said.contains(expected), "{}: {said}", bytes.escape_ascii());
        assert!(!said.contains(char::is_control), "{said:?}");
    }
    // The longest line and the longest binary header that are read.
    whole(&line(&format!("UNKNOWN {}", "x".repeat(91))));
    whole(&v2(0x21, 0x00, &[0; 4096]));
}

#[tokio::test(start_paused = true)]
async fn silence_and_a_header_that_stops_are_told_apart() {
    let (mut stream, mut sender) = duplex(64);
    let error = receive(&mut stream, SECOND).await.unwrap_err().to_string();
    assert_eq!(error, "sent no PROXY header within 1s; is proxy protocol on at the load balancer?");
    sender.write_all(b"PROXY TCP4").await.unwrap();
    let error = receive(&mut stream, SECOND).await.unwrap_err().to_string();
    assert_eq!(error, "sent 10 bytes of a PROXY header and not the rest within 1s");
}

/// Byte for byte: the first two are the specification's examples of the form.
#[tokio::test]
async fn what_is_sent_is_what_the_specification_says() {
    use SendProxyProtocol::{Off, V1, V2};
    let v4 = addresses("192.168.0.1:56324", "192.168.0.11:443");
    let mixed = addresses("10.0.0.1:1", "[2001:db8::2]:2");
    let mapped = addresses("[::ffff:10.0.0.1]:1", "10.0.0.2:2");
    let ends = [192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 0x01, 0xbb];
    assert_eq!(sent(V1, Some(v4)).await.0, b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n");
    assert_eq!(sent(V2, Some(v4)).await.0, v2(0x21, 0x11, &ends));
    assert_eq!(sent(V1, Some(mixed)).await.0, b"PROXY TCP6 ::ffff:10.0.0.1 2001:db8::2 1 2\r\n");
    let mut ends = [0; 36];
    ends[10..16].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
    ends[16..20].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    (ends[31], ends[33], ends[35]) = (2, 1, 2);
    assert_eq!(sent(V2, Some(mixed)).await.0, v2(0x21, 0x21, &ends));
    assert_eq!(sent(V1, Some(mapped)).await.0, b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n");
    assert_eq!(sent(V2, None).await.0, v2(0x20, 0x00, &[]));
    let (line, own, server) = sent(V1, None).await;
    let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", own.port(), server.port());
    assert_eq!(line, expected.into_bytes());
    assert_eq!(sent(Off, Some(v4)).await.0, b"");
}

proptest! {
    #[test]
    fn a_header_is_the_same_in_any_pieces_and_what_follows_is_left(
        (bytes, header) in headers(),
        rest in vec(any::<u8>(), 0..40),
        cuts in vec(0..200_usize, 0..8),
        every_byte: bool,
    ) {
        let cuts = if every_byte { (0..bytes.len()).collect() } else { cuts };
        let (result, read) = read(&[&bytes[..], &rest].concat(), &cuts);
        prop_assert_eq!(result.unwrap(), Some(header));
        prop_assert_eq!(read, bytes.len());
    }

    #[test]
    fn every_beginning_of_a_header_is_told_from_a_whole_one((bytes, _) in headers()) {
        for end in 1..bytes.len() {
            match read(&bytes[..end], &[]).0 {
                Err(HeaderError::Truncated(seen)) => prop_assert_eq!(seen, end),
                other => prop_assert!(false, "{}: {other:?}", bytes[..end].escape_ascii()),
            }
        }
        prop_assert_eq!(read(b"", &[]).0.unwrap(), None);
    }

    #[test]
    fn no_bytes_do_harm(
        start in prop_oneof![Just(&b""[..]), Just(SIGNATURE), Just(&b"PROXY "[..]), Just(&b"PROXY TCP4 "[..])],
        bytes in vec(prop_oneof![any::<u8>(), prop::sample::select(&b" .:0123456789\r\n\0\x11\x20\x21"[..])], 0..300),
    ) {
        let bytes = [start, &bytes].concat();
        let (result, read) = read(&bytes, &[]);
        prop_assert!(read <= bytes.len().min(16 + 4096));
        if let Err(error) = result {
            prop_assert!(!error.to_string().contains(char::is_control), "{error}");
        }
    }
}

/// Valid headers, written here and not by what reads them.
fn headers() -> impl Strategy<Value = (Vec<u8>, Header)> {
    fn ips<O: Into<IpAddr>>((source, destination): (O, O)) -> (IpAddr, IpAddr) {
        (source.into(), destination.into())
    }
    let v4 = any::<([u8; 4], [u8; 4])>().prop_map(ips);
    let v6 = any::<([u8; 16], [u8; 16])>().prop_map(ips);
    let ends = (prop_oneof![v4, v6], any::<(u16, u16)>()).prop_map(|((source, target), ports)| {
        Addresses { source: (source, ports.0).into(), destination: (target, ports.1).into() }
    });
    let kind = prop_oneof![0x06..0x20_u8, 0xe2..0xea_u8, 0xf0..=0xff_u8];
    let tlv = (kind, vec(any::<u8>(), 0..20))
        .prop_map(|(kind, value)| [&[kind, 0, value.len() as u8], &value[..]].concat());
    let tlvs = vec(tlv, 0..4).prop_map(|tlvs| tlvs.concat());
    let line = ends.clone().prop_map(|ends| (v1(ends), ends));
    let binary = (ends, tlvs).prop_map(|(ends, tlvs)| (v2_with(ends, &tlvs), ends));
    let clients = prop_oneof![line, binary]
        .prop_map(|(bytes, ends)| (bytes, Header { addresses: Some(ends), ..Header::default() }));
    let nobodys = prop_oneof![
        Just(b"PROXY UNKNOWN\r\n".to_vec()),
        "[ -~]{0,91}".prop_map(|rest| format!("PROXY UNKNOWN {rest}\r\n").into_bytes()),
        (any::<u8>(), vec(any::<u8>(), 0..100)).prop_map(|(family, rest)| v2(0x20, family, &rest)),
    ];
    prop_oneof![2 => clients, 1 => nobodys.prop_map(|bytes| (bytes, Header::default()))]
}

fn v1(Addresses { source, destination }: Addresses) -> Vec<u8> {
    let family = if source.is_ipv4() { 4 } else { 6 };
    let (from, to) = (source.port(), destination.port());
    format!("PROXY TCP{family} {} {} {from} {to}\r\n", source.ip(), destination.ip()).into_bytes()
}

fn v2_with(Addresses { source, destination }: Addresses, tlvs: &[u8]) -> Vec<u8> {
    let octets = |ip| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let family = if source.is_ipv4() { 0x11 } else { 0x21 };
    let ips = [octets(source.ip()), octets(destination.ip())].concat();
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    v2(0x21, family, &[&ips, &ports, tlvs].concat())
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn addresses(source: &str, destination: &str) -> Addresses {
    Addresses { source: address(source), destination: address(destination) }
}

fn from(source: &str, destination: &str) -> Header {
    Header { addresses: Some(addresses(source, destination)), ..Header::default() }
}

/// What these bytes, which are a header and nothing else, say.
fn whole(bytes: &[u8]) -> Header {
    let (result, read) = read(bytes, &[]);
    let header = result.unwrap_or_else(|error| panic!("{}: {error}", bytes.escape_ascii()));
    assert_eq!(read, bytes.len());
    header.unwrap()
}

/// Reads a header from bytes that come in pieces, and tells how many were taken.
fn read(bytes: &[u8], cuts: &[usize]) -> (Result<Option<Header>, HeaderError>, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut pieces = Pieces { bytes, cuts, taken: 0 };
    let result = runtime.block_on(receive(&mut pieces, 60 * SECOND));
    (result, pieces.taken)
}

/// Bytes of which a read gets those up to the next cut at the most, and after them an end.
struct Pieces<'b> {
    bytes: &'b [u8],
    cuts: &'b [usize],
    taken: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let later = self.cuts.iter().copied().filter(|cut| *cut > self.taken);
        let end = later.min().unwrap_or(usize::MAX).min(self.bytes.len());
        let end = end.min(self.taken + buffer.remaining());
        buffer.put_slice(&self.bytes[self.taken..end]);
        self.taken = end;
        Poll::Ready(Ok(()))
    }
}

/// All that a server gets, and the two ends of its connection.
#[expect(clippy::disallowed_methods, reason = "loopback")]
async fn sent(
    version: SendProxyProtocol,
    client: Option<Addresses>,
) -> (Vec<u8>, SocketAddr, SocketAddr) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = TcpStream::connect(server.local_addr().unwrap()).await.unwrap();
    let ends = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    send(&mut stream, version, client).await.unwrap();
    drop(stream);
    let mut bytes = Vec::new();
    let (mut accepted, _) = server.accept().await.unwrap();
    accepted.read_to_end(&mut bytes).await.unwrap();
    (bytes, ends.0, ends.1)
}
