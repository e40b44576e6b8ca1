//! What client and server of MySQL say to each other before there are requests.

use crate::server::REQUEST;

/// Bytes of [`greeting`].
pub const GREETING: usize = 78;
/// Where in it the bit is by which a server offers TLS, and in [`log_in`] a client has it.
const OFFER: usize = 26;
const HAS_TLS: usize = 5;
const TLS: u8 = 0x08;

/// What a server says first.
pub const fn greeting(offers_tls: bool) -> [u8; GREETING] {
    let mut packet = *b"\x4a\0\0\0\x0a8.0.36\0\x01\0\0\0saltsalt\0\xff\xf7\x2d\x02\0\xff\xdf\x15\
        \0\0\0\0\0\0\0\0\0\0saltsaltsalt\0mysql_native_password\0";
    if offers_tls {
        packet[OFFER] |= TLS;
    }
    packet
}

/// What asks for TLS, in answer to a greeting: a head alone.
pub const SSL_REQUEST: [u8; 36] = {
    let mut packet = [0; 36];
    let head = log_in(1, true);
    packet.copy_from_slice(head.split_at(36).0);
    packet[0] = 32;
    packet
};

/// The answer to a greeting: a head, and filling.
pub const fn log_in(sequence: u8, has_tls: bool) -> [u8; REQUEST] {
    let mut packet = [0; REQUEST];
    packet[0] = (REQUEST - 4) as u8;
    packet[3] = sequence;
    // PROTOCOL_41 and SECURE_CONNECTION.
    packet[HAS_TLS] = 0x82;
    if has_tls {
        packet[HAS_TLS] |= TLS;
    }
    packet
}

/// What a server says to that.
pub const fn ok(sequence: u8) -> [u8; 11] {
    [7, 0, 0, sequence, 0, 0, 0, 2, 0, 0, 0]
}
