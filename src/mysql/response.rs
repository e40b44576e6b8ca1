//! What a client answers to a greeting, read and changed in place.
//!
//! Nothing is ever encoded anew: that would lose capabilities that nobody here knows, the order of
//! the attributes, MariaDB's extended capabilities and the level of zstd.
//! Source: MySQL Internals, "Protocol::HandshakeResponse41" and "Protocol::SSLRequest".

use super::handshake::{
    COMPRESS, CONNECT_WITH_DB, Greeting, PLUGIN_AUTH, PROTOCOL_41, SECURE_CONNECTION, SSL, ZSTD,
    set_ssl, split_nul,
};

/// Capabilities, longest packet, character set, filler: all of an SSLRequest, and the head of
/// every HandshakeResponse.
pub const HEAD_LEN: usize = 32;

const LENGTH_ENCODED_AUTH: u32 = 0x20_0000;

/// What is needed of a HandshakeResponse.
#[derive(Debug, PartialEq, Eq)]
pub struct Response<'p> {
    /// The method by which the client proves its password.
    pub plugin: &'p [u8],
    /// The proof.
    pub auth: &'p [u8],
}

impl<'p> Response<'p> {
    /// Reads a payload of protocol 4.1; a client that names no method uses `mysql_native_password`.
    pub fn parse(payload: &'p [u8]) -> Option<Self> {
        let capabilities = capabilities(payload)?;
        if capabilities & PROTOCOL_41 == 0 {
            return None;
        }
        let has = |bit| capabilities & bit != 0;
        let (_user, rest) = split_nul(payload.get(HEAD_LEN..)?)?;
        let (auth, mut rest) = match () {
            () if has(LENGTH_ENCODED_AUTH) => length_encoded(rest)?,
            () if has(SECURE_CONNECTION) => {
                let (length, rest) = rest.split_first()?;
                rest.split_at_checked(usize::from(*length))?
            }
            () => split_nul(rest)?,
        };
        if has(CONNECT_WITH_DB) {
            // Some clients leave an empty name out where nothing follows it.
            rest = split_nul(rest).map_or(rest, |(_, rest)| rest);
        }
        let plugin = match has(PLUGIN_AUTH) {
            true => split_nul(rest).map_or(rest, |(plugin, _)| plugin),
            false => b"mysql_native_password",
        };
        Some(Self { plugin, auth })
    }

    /// Reads the payload of a COM_CHANGE_USER.
    /// Source: MySQL Internals, "COM_CHANGE_USER".
    pub fn parse_change_user(payload: &'p [u8]) -> Option<Self> {
        let (_user, rest) = split_nul(payload.get(1..)?)?;
        let (length, rest) = rest.split_first()?;
        let (auth, rest) = rest.split_at_checked(usize::from(*length))?;
        let (_database, rest) = split_nul(rest)?;
        // Character set.
        let plugin = match rest.get(2..) {
            Some(rest) if !rest.is_empty() => split_nul(rest).map_or(rest, |(plugin, _)| plugin),
            _ => b"mysql_native_password",
        };
        Some(Self { plugin, auth })
    }
}

/// Whether both sides agree to compress what follows the log-in.
pub fn is_compressed(payload: &[u8], greeting: &Greeting) -> bool {
    let both = capabilities(payload).unwrap_or_default() & greeting.capabilities;
    both & (COMPRESS | ZSTD) != 0
}

/// Whether this asks for TLS: the head of a response, and nothing more.
pub fn is_ssl_request(payload: &[u8]) -> bool {
    payload.len() == HEAD_LEN && capabilities(payload).is_some_and(|bits| bits & SSL != 0)
}

/// Whether the client speaks the protocol of MySQL 4.1 and later.
pub fn is_protocol_41(payload: &[u8]) -> bool {
    capabilities(payload).is_some_and(|bits| bits & PROTOCOL_41 != 0)
}

/// Says in a response, or the head of one, that the connection is TLS, or that it is not.
pub fn set_tls(payload: &mut [u8], is_tls: bool) {
    if let Some(byte) = payload.get_mut(1) {
        set_ssl(byte, is_tls);
    }
}

fn capabilities(payload: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(*payload.first_chunk()?))
}

/// Source: MySQL Internals, "Protocol::LengthEncodedInteger".
fn length_encoded(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (length, rest) = match *first {
        length @ 0..=0xfa => (usize::from(length), rest),
        0xfc => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        // Nothing longer is a proof of a password.
        _ => return None,
    };
    rest.split_at_checked(length)
}
