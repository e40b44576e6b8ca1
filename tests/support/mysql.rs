//! The packets with which a MySQL session begins.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use tidegate::mysql::packet::{HEADER_LEN, frame, payload_length};

use super::tcp::{listener, serve};

/// Payload of an OK without rows, in autocommit.
pub const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];
const COM_QUIT: u8 = 1;
/// Of a server's capabilities.
const SSL: u32 = 1 << 11;
pub const DEPRECATE_EOF: u32 = 1 << 24;
/// Where a greeting has the lower and the upper half of them.
const CAPABILITIES: [usize; 2] = [25, 30];

/// The greeting of a MySQL 8.0 whose connection id is 1; it is the four bytes from 12 on.
pub fn greeting() -> Vec<u8> {
    let payload = b"\x0a8.0.36\0\x01\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf\x15\
        \0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0mysql_native_password\0";
    frame(0, payload)
}

/// The payload of the next packet, the whole of which is read: closing then sends a FIN, no RST.
///
/// `None`: there is none.
pub fn read_packet(mut stream: impl Read) -> Option<Vec<u8>> {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).ok()?;
    let mut payload = vec![0; payload_length(&header)];
    stream.read_exact(&mut payload).ok()?;
    Some(payload)
}

/// A HandshakeResponse41 of the user u without a password.
pub fn login() -> Vec<u8> {
    let payload =
        [b"\x00\x82\x08\0\0\0\0\x01\x2d".as_slice(), &[0; 23], b"u\0\0mysql_native_password\0"];
    frame(1, &payload.concat())
}

/// A server that offers no TLS, lets everybody in, and answers a command with one packet.
pub fn server(answer: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    let answer = Arc::new(answer);
    serve(&listener(), move |stream| drop(converse(&stream, 0, |command| vec![answer(command)])))
}

/// One conversation of a server that lacks these capabilities, and TLS; each answer is packets.
pub fn converse(
    mut stream: &TcpStream,
    lacks: u32,
    answer: impl Fn(&[u8]) -> Vec<Vec<u8>>,
) -> io::Result<()> {
    let mut greeting = greeting();
    let lacks = (lacks | SSL).to_le_bytes();
    for (at, lacks) in CAPABILITIES.into_iter().zip([&lacks[..2], &lacks[2..]]) {
        greeting[at..].iter_mut().zip(lacks).for_each(|(byte, lacks)| *byte &= !lacks);
    }
    stream.write_all(&greeting)?;
    let reader = stream;
    let packet = || read_packet(reader).ok_or(io::ErrorKind::UnexpectedEof);
    packet()?;
    stream.write_all(&frame(2, OK))?;
    loop {
        match &packet()?[..] {
            [COM_QUIT] => return Ok(()),
            command => {
                let packets = (1..).zip(answer(command));
                let packets = packets.flat_map(|(sequence, payload)| frame(sequence, &payload));
                stream.write_all(&packets.collect::<Vec<u8>>())?;
            }
        }
    }
}
