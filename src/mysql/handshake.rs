//! The connection phase, as far as a bridge reads or writes it.
//!
//! Source: MySQL Internals, "Protocol::HandshakeV10" and "Protocol::HandshakeResponse41".

use super::packet::{HEADER_LEN, frame, payload_length};

const PROTOCOL_41: u32 = 0x200;
const SSL: u32 = 0x800;
const SECURE_CONNECTION: u32 = 0x8000;
const PLUGIN_AUTH: u32 = 0x8_0000;
/// `utf8mb4_general_ci`, which every server has.
const CHARSET: u8 = 45;
/// The user of [`Greeting::failing_login`].
const NOBODY: &[u8] = b"tidegate-took-leave\0";

/// Whose server it is, told from the version string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// Oracle's, or one that passes for it.
    MySql,
    /// MariaDB.
    MariaDb,
    /// TiDB, self-hosted or TiDB Cloud's.
    TiDb,
}

/// What is needed of a server's first packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Whose server it is.
    pub kind: ServerKind,
    capabilities: u32,
    plugin: Vec<u8>,
}

impl Greeting {
    /// Reads the payload of a HandshakeV10 packet. `None` for anything else, an ERR packet among
    /// it.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let rest = payload.strip_prefix(&[10])?;
        let (version, rest) = split_nul(rest)?;
        // Connection id, first part of the nonce, a zero.
        let rest = rest.get(4 + 8 + 1..)?;
        let low = u16::from_le_bytes(rest.get(..2)?.try_into().ok()?);
        // Character set, status.
        let high = u16::from_le_bytes(rest.get(5..7)?.try_into().ok()?);
        let nonce = usize::from(*rest.get(7)?);
        // Reserved, second part of the nonce.
        let rest = rest.get(8 + 10 + 13.max(nonce.saturating_sub(8))..).unwrap_or_default();
        let plugin = split_nul(rest).map_or(rest, |(plugin, _)| plugin);
        Some(Self {
            kind: kind(version),
            capabilities: u32::from(low) | u32::from(high) << 16,
            plugin: plugin.to_vec(),
        })
    }

    /// The packet of a log-in that fails: well formed, an unknown user, no password.
    ///
    /// A server counts a connection that ends before its log-in as an interrupted handshake, and
    /// blocks the host after `max_connect_errors` of them (ER 1129); a wrong log-in it does not.
    /// Source: MySQL's `sql/auth/sql_authentication.cc`, `acl_authenticate`: only CR_AUTH_HANDSHAKE
    /// counts to the block, and that is what plugins make of a client that is gone.
    ///
    /// The plugin is the server's own default, so that it need not ask for another. MySQL 9 may ask
    /// nevertheless: it gives each unknown user a plugin at random (`decoy_user`), to tell nobody
    /// which users there are. No password, as every plugin refuses that without a further question.
    pub fn failing_login(&self) -> Vec<u8> {
        let capabilities = PROTOCOL_41 | SECURE_CONNECTION | (self.capabilities & PLUGIN_AUTH);
        let mut payload = Vec::with_capacity(96);
        payload.extend_from_slice(&capabilities.to_le_bytes());
        payload.extend_from_slice(&0x00ff_ffff_u32.to_le_bytes());
        payload.push(CHARSET);
        payload.extend_from_slice(&[0; 23]);
        payload.extend_from_slice(NOBODY);
        // The length of the authentication data.
        payload.push(0);
        if capabilities & PLUGIN_AUTH != 0 {
            payload.extend_from_slice(&self.plugin);
            payload.push(0);
        }
        frame(1, &payload)
    }
}

fn kind(version: &[u8]) -> ServerKind {
    let has = |word: &[u8]| version.windows(word.len()).any(|part| part == word);
    if has(b"TiDB") {
        ServerKind::TiDb
    } else if has(b"MariaDB") {
        ServerKind::MariaDb
    } else {
        ServerKind::MySql
    }
}

fn split_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// The sequence id of an answer to a client's first bytes, if one can be given in plain text: they
/// are one whole HandshakeResponse and not the beginning of TLS.
pub fn answer_sequence(first: &[u8]) -> Option<u8> {
    let header = first.first_chunk::<HEADER_LEN>()?;
    let length = payload_length(header);
    let capabilities = u32::from_le_bytes(first.get(HEADER_LEN..HEADER_LEN + 4)?.try_into().ok()?);
    // An SSLRequest is 32 bytes; a HandshakeResponse has at least a user name's NUL more.
    let whole = first.len() == HEADER_LEN + length;
    let plain = whole && length > 32 && capabilities & SSL == 0 && capabilities & PROTOCOL_41 != 0;
    plain.then(|| header[3].wrapping_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MARIADB: &[u8] =
        b"\x0a5.5.5-10.11.6-MariaDB\0\x07\0\0\0abcdefgh\0\xfe\xf7\x2d\x02\0\xff\x81\x15\
        \0\0\0\0\0\0\x1d\0\0\0ijklmnopqrst\0mysql_native_password\0";

    #[test]
    fn a_greeting_tells_kind_and_plugin() {
        let greeting = Greeting::parse(MARIADB).unwrap();
        assert_eq!(greeting.kind, ServerKind::MariaDb);
        assert_eq!(greeting.plugin, b"mysql_native_password");
        assert_eq!(kind(b"8.0.11-TiDB-v8.5.3-serverless"), ServerKind::TiDb);
        assert_eq!(kind(b"9.7.0"), ServerKind::MySql);
    }

    #[test]
    fn a_failing_login_is_a_whole_handshake_response() {
        let packet = Greeting::parse(MARIADB).unwrap().failing_login();
        assert_eq!(usize::from(packet[0]), packet.len() - HEADER_LEN);
        assert_eq!(packet[3], 1);
        assert!(packet.ends_with(b"\0mysql_native_password\0"));
        assert_eq!(answer_sequence(&packet), Some(2));
    }

    #[test]
    fn an_error_in_place_of_a_greeting_is_none() {
        assert_eq!(Greeting::parse(b"\xff\x10\x04Too many connections"), None);
    }

    #[test]
    fn an_ssl_request_cannot_be_answered_in_plain_text() {
        let request = [b"\x20\0\0\x01\x00\x0a\0\0".as_slice(), &[0; 28]].concat();
        assert_eq!(answer_sequence(&request), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Greeting::parse(&bytes);
            let _ = answer_sequence(&bytes);
        }
    }
}
