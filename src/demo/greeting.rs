//! The embedded backend's side of the connection phase, as bytes.
//!
//! Source: MySQL Internals, "Protocol::HandshakeV10" and "Protocol::HandshakeResponse41".

use std::hash::{BuildHasher, Hasher, RandomState};

/// Capability flags that the backend offers or looks at. Source: "Capability Flags".
pub mod capability {
    pub const LONG_PASSWORD: u32 = 0x1;
    pub const FOUND_ROWS: u32 = 0x2;
    pub const LONG_FLAG: u32 = 0x4;
    pub const CONNECT_WITH_DB: u32 = 0x8;
    pub const PROTOCOL_41: u32 = 0x200;
    pub const INTERACTIVE: u32 = 0x400;
    pub const SSL: u32 = 0x800;
    pub const TRANSACTIONS: u32 = 0x2000;
    pub const SECURE_CONNECTION: u32 = 0x8000;
    pub const MULTI_STATEMENTS: u32 = 0x1_0000;
    pub const MULTI_RESULTS: u32 = 0x2_0000;
    pub const PLUGIN_AUTH: u32 = 0x8_0000;
    pub const CONNECT_ATTRS: u32 = 0x10_0000;
    pub const PLUGIN_AUTH_LENENC: u32 = 0x20_0000;
    pub const DEPRECATE_EOF: u32 = 0x100_0000;

    /// All that the backend offers: neither TLS nor compression nor session tracking.
    pub const OFFERED: u32 = LONG_PASSWORD
        | FOUND_ROWS
        | LONG_FLAG
        | CONNECT_WITH_DB
        | PROTOCOL_41
        | INTERACTIVE
        | TRANSACTIONS
        | SECURE_CONNECTION
        | MULTI_STATEMENTS
        | MULTI_RESULTS
        | PLUGIN_AUTH
        | CONNECT_ATTRS
        | PLUGIN_AUTH_LENENC
        | DEPRECATE_EOF;
}

/// The plugin named in the greeting. The name alone matters: no password is ever checked.
pub const NATIVE_PASSWORD: &str = "mysql_native_password";
/// The plugin for clients that prefer it; those of MySQL 9 have no other.
pub const SHA2_PASSWORD: &str = "caching_sha2_password";
/// What a client of [`SHA2_PASSWORD`] that sent a scramble waits for: it was found in the cache.
pub const SHA2_FOUND: [u8; 2] = [0x01, 0x03];
/// Length of the nonce that the client's scramble is made with.
pub const SALT_LEN: usize = 20;
/// `utf8mb4_general_ci`.
pub const CHARSET: u8 = 45;

/// A nonce of printable bytes, without NUL and `$` as in MySQL.
///
/// It differs from connection to connection and that is all: it protects nothing here.
pub fn salt() -> [u8; SALT_LEN] {
    let mut salt = [0; SALT_LEN];
    for piece in salt.chunks_mut(8) {
        let random = RandomState::new().build_hasher().finish().to_le_bytes();
        for (byte, random) in piece.iter_mut().zip(random) {
            // From `%` to `~`.
            *byte = 0x25 + random % 90;
        }
    }
    salt
}

/// The payload of the greeting.
pub fn greeting(version: &str, connection_id: u32, salt: &[u8; SALT_LEN], status: u16) -> Vec<u8> {
    let capabilities = capability::OFFERED.to_le_bytes();
    let mut payload = vec![10];
    payload.extend_from_slice(version.as_bytes());
    payload.push(0);
    payload.extend_from_slice(&connection_id.to_le_bytes());
    payload.extend_from_slice(&salt[..8]);
    payload.push(0);
    payload.extend_from_slice(&capabilities[..2]);
    payload.push(CHARSET);
    payload.extend_from_slice(&status.to_le_bytes());
    payload.extend_from_slice(&capabilities[2..]);
    // The nonce's length counts the NUL behind it.
    payload.push(SALT_LEN as u8 + 1);
    payload.extend_from_slice(&[0; 10]);
    payload.extend_from_slice(&salt[8..]);
    payload.push(0);
    payload.extend_from_slice(NATIVE_PASSWORD.as_bytes());
    payload.push(0);
    payload
}

/// The payload that asks the client to authenticate once more, with `plugin`.
pub fn auth_switch(plugin: &str, salt: &[u8; SALT_LEN]) -> Vec<u8> {
    let mut payload = vec![0xfe];
    payload.extend_from_slice(plugin.as_bytes());
    payload.push(0);
    payload.extend_from_slice(salt);
    payload.push(0);
    payload
}

/// What the backend wants to know of a client's answer to the greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Those of the client's capabilities that the backend offered.
    pub capabilities: u32,
    pub user: String,
    pub database: Option<String>,
    /// `None` where the client names none, which means [`NATIVE_PASSWORD`].
    pub plugin: Option<Vec<u8>>,
}

impl Login {
    /// Reads a HandshakeResponse41; `None` if it is none. Attributes are not looked at.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (capabilities, mut rest) = payload.split_first_chunk()?;
        let capabilities = u32::from_le_bytes(*capabilities);
        if capabilities & capability::PROTOCOL_41 == 0 || capabilities & capability::SSL != 0 {
            return None;
        }
        let capabilities = capabilities & capability::OFFERED;
        // Largest packet, character set, filler.
        take(&mut rest, 4 + 1 + 23)?;
        let user = take_text(&mut rest)?;
        // What the client made of its password and the nonce: taken, and believed.
        if capabilities & capability::PLUGIN_AUTH_LENENC != 0 {
            let length = take_length(&mut rest)?;
            take(&mut rest, length)?;
        } else if capabilities & capability::SECURE_CONNECTION != 0 {
            let length = usize::from(*take(&mut rest, 1)?.first()?);
            take(&mut rest, length)?;
        } else {
            take_text(&mut rest)?;
        }
        // Some clients set the flag and send no name.
        let database = if capabilities & capability::CONNECT_WITH_DB != 0 && !rest.is_empty() {
            Some(take_text(&mut rest)?).filter(|name| !name.is_empty())
        } else {
            None
        };
        let plugin = if capabilities & capability::PLUGIN_AUTH != 0 && !rest.is_empty() {
            // The last field may lack its NUL.
            Some(take_text(&mut rest).unwrap_or(rest).to_vec())
        } else {
            None
        };
        Some(Self {
            capabilities,
            user: String::from_utf8_lossy(user).into_owned(),
            database: database.map(|name| String::from_utf8_lossy(name).into_owned()),
            plugin,
        })
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(taken)
}

/// Up to a NUL, which is taken too.
fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = rest.iter().position(|byte| *byte == 0)?;
    let text = take(rest, length)?;
    take(rest, 1)?;
    Some(text)
}

/// A length-encoded integer; those over 3 bytes are longer than any handshake, so they are refused.
fn take_length(rest: &mut &[u8]) -> Option<usize> {
    match *take(rest, 1)?.first()? {
        short @ 0..=0xfa => Some(short.into()),
        0xfc => {
            let bytes = take(rest, 2)?;
            Some(usize::from(u16::from_le_bytes([bytes[0], bytes[1]])))
        }
        0xfd => {
            let bytes = take(rest, 3)?;
            Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]) as usize)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A response with these capabilities, and this behind the filler.
    fn response(capabilities: u32, fields: &[u8]) -> Vec<u8> {
        let mut payload = (capabilities | capability::PROTOCOL_41).to_le_bytes().to_vec();
        payload.extend_from_slice(&[0; 28]);
        payload.extend_from_slice(fields);
        payload
    }

    #[test]
    fn a_greeting_has_its_fields_where_the_protocol_puts_them() {
        let salt = *b"abcdefghijklmnopqrst";
        let payload = greeting("8.0", 0x0102_0304, &salt, 2);
        assert_eq!(payload[..5], *b"\x0a8.0\0");
        assert_eq!(payload[5..9], [4, 3, 2, 1]);
        assert_eq!(payload[9..18], *b"abcdefgh\0");
        assert_eq!(payload[25], 21);
        assert_eq!(payload[36..], *b"ijklmnopqrst\0mysql_native_password\0");
    }

    #[test]
    fn salts_differ_and_hold_neither_nul_nor_dollar() {
        let first = salt();
        assert_ne!(first, salt());
        assert!(first.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'$'));
    }

    #[test]
    fn the_answer_to_the_nonce_is_read_in_all_three_layouts() {
        let short = capability::SECURE_CONNECTION;
        let lenenc = short | capability::PLUGIN_AUTH_LENENC;
        let with_rest = capability::CONNECT_WITH_DB | capability::PLUGIN_AUTH;
        for (capabilities, answer) in
            [(0, &b"abc\0"[..]), (short, b"\x03abc"), (lenenc, b"\xfc\x03\x00abc")]
        {
            let fields = [b"root\0", answer, b"shop\0some_plugin\0"].concat();
            let login = Login::parse(&response(capabilities | with_rest, &fields)).unwrap();
            assert_eq!(login.user, "root");
            assert_eq!(login.database.as_deref(), Some("shop"));
            assert_eq!(login.plugin.as_deref(), Some(&b"some_plugin"[..]));
        }
    }

    #[test]
    fn a_length_beyond_the_packet_is_no_login() {
        let lenenc = capability::PLUGIN_AUTH_LENENC;
        assert_eq!(Login::parse(&response(lenenc, b"root\0\xfd\xff\xff\xff")), None);
        assert_eq!(Login::parse(&response(lenenc, b"root\0\xfe\xff\xff\xff")), None);
        assert_eq!(Login::parse(&response(lenenc, b"root")), None);
        assert_eq!(Login::parse(b""), None);
    }

    #[test]
    fn a_request_for_tls_is_no_login() {
        assert_eq!(Login::parse(&response(capability::SSL, b"")), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            Login::parse(&bytes);
        }

        #[test]
        fn no_fields_make_it_panic(capabilities: u32, fields: Vec<u8>) {
            Login::parse(&response(capabilities, &fields));
        }
    }
}
