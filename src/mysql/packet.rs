//! Packet framing and the packets that tidegate sends in its own name.
//!
//! Every packet is a 3-byte little-endian payload length, a sequence id that starts at 0 with the
//! greeting and at 0 again with every command, and the payload.
//! Source: MySQL Internals, "MySQL Packets" and "ERR_Packet".

/// Bytes in front of every payload: 3 of length, 1 of sequence id.
pub const HEADER_LEN: usize = 4;

/// The error codes of the packets that tidegate itself sends.
///
/// The numbers are MySQL's own, so that clients show and handle them as they would a server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// 2003, `CR_CONN_HOST_ERROR`: the gateway cannot be reached.
    Unreachable,
    /// 1053, `ER_SERVER_SHUTDOWN`: the bridge is draining.
    Draining,
    /// 1040, `ER_CON_COUNT_ERROR`: a limit is reached.
    TooMany,
    /// 1130, `ER_HOST_NOT_PRIVILEGED`: the client's address may not connect.
    Denied,
    /// 1159, `ER_NET_READ_INTERRUPTED`: the server did not answer in time.
    ReplyTimeout,
    /// 2026, `CR_SSL_CONNECTION_ERROR`: TLS that one side wants cannot be had, or would give a
    /// password away.
    Tls,
}

impl ErrorCode {
    /// The code as it stands in the packet.
    pub fn number(self) -> u16 {
        match self {
            Self::Unreachable => 2003,
            Self::Draining => 1053,
            Self::TooMany => 1040,
            Self::Denied => 1130,
            Self::ReplyTimeout => 1159,
            Self::Tls => 2026,
        }
    }

    /// The SQLSTATE that MySQL gives the code.
    pub fn sqlstate(self) -> &'static [u8; 5] {
        match self {
            Self::Unreachable | Self::Denied | Self::Tls => b"HY000",
            Self::TooMany => b"08004",
            Self::Draining | Self::ReplyTimeout => b"08S01",
        }
    }
}

/// Puts a header in front of `payload`, which must be shorter than 16 MiB - 1.
pub fn frame(sequence: u8, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() < 0xff_ffff, "packets over 16 MiB are not split here");
    let mut packet = Vec::with_capacity(HEADER_LEN + payload.len());
    packet.extend_from_slice(&(payload.len() as u32).to_le_bytes()[..3]);
    packet.push(sequence);
    packet.extend_from_slice(payload);
    packet
}

/// Bytes of payload that follow a header.
pub fn payload_length(header: &[u8; HEADER_LEN]) -> usize {
    u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize
}

/// An ERR packet in the place of a greeting (sequence id 0).
///
/// Before the handshake no capabilities are agreed, so, like the servers themselves, it carries no
/// `#sqlstate`: clients that read the pre-4.1 layout would show the state as part of the text.
/// They report `HY000` then.
pub fn err_greeting(code: ErrorCode, message: &str) -> Vec<u8> {
    let mut payload = vec![0xff];
    payload.extend_from_slice(&code.number().to_le_bytes());
    payload.extend_from_slice(message.as_bytes());
    frame(0, &payload)
}

/// An ERR packet after a HandshakeResponse of protocol 4.1, with the `sequence` that is due.
pub fn err(sequence: u8, code: ErrorCode, message: &str) -> Vec<u8> {
    let mut payload = vec![0xff];
    payload.extend_from_slice(&code.number().to_le_bytes());
    payload.push(b'#');
    payload.extend_from_slice(code.sqlstate());
    payload.extend_from_slice(message.as_bytes());
    frame(sequence, &payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_err_greeting_has_length_sequence_marker_code_and_text() {
        let packet = err_greeting(ErrorCode::Unreachable, "gone");
        assert_eq!(packet, b"\x07\x00\x00\x00\xff\xd3\x07gone");
    }

    #[test]
    fn an_err_after_the_handshake_response_has_its_sqlstate() {
        let packet = err(2, ErrorCode::ReplyTimeout, "late");
        assert_eq!(packet, b"\x0d\x00\x00\x02\xff\x87\x04#08S01late");
    }
}
