//! The packets with which a MySQL session begins.

use tidegate::mysql::packet::frame;

/// The greeting of a MySQL 8.0 whose connection id is 1; it is the four bytes from 12 on.
pub fn greeting() -> Vec<u8> {
    let payload = b"\x0a8.0.36\0\x01\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf\x15\
        \0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0mysql_native_password\0";
    frame(0, payload)
}

/// A HandshakeResponse41 of the user u without a password.
pub fn login() -> Vec<u8> {
    let payload =
        [b"\x00\x82\x08\0\0\0\0\x01\x2d".as_slice(), &[0; 23], b"u\0\0mysql_native_password\0"];
    frame(1, &payload.concat())
}
