//! The packets with which a MySQL session begins.

use std::net::TcpStream;

use tidegate::mysql::packet::{HEADER_LEN, frame, payload_length};

use super::tcp::read_exactly;

/// The greeting of a MySQL 8.0 whose connection id is 1; it is the four bytes from 12 on.
pub fn greeting() -> Vec<u8> {
    let payload = b"\x0a8.0.36\0\x01\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf\x15\
        \0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0mysql_native_password\0";
    frame(0, payload)
}

/// The payload of the next packet, the whole of which is read: closing then sends a FIN, no RST.
pub fn read_packet(stream: &TcpStream) -> Vec<u8> {
    let header = read_exactly(stream, HEADER_LEN);
    read_exactly(stream, payload_length(header.first_chunk().unwrap()))
}

/// A HandshakeResponse41 of the user u without a password.
pub fn login() -> Vec<u8> {
    let payload =
        [b"\x00\x82\x08\0\0\0\0\x01\x2d".as_slice(), &[0; 23], b"u\0\0mysql_native_password\0"];
    frame(1, &payload.concat())
}
