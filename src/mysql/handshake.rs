//! The connection phase, as far as a bridge reads or writes it.
//!
//! Source: MySQL Internals, "Protocol::HandshakeV10" and "Protocol::HandshakeResponse41".

use super::packet::{HEADER_LEN, frame, payload_length};

pub(super) const COMPRESS: u32 = 0x20;
pub(super) const ZSTD: u32 = 0x400_0000;
pub(super) const PROTOCOL_41: u32 = 0x200;
pub(super) const SSL: u32 = 0x800;
pub(super) const SECURE_CONNECTION: u32 = 0x8000;
pub(super) const PLUGIN_AUTH: u32 = 0x8_0000;
pub(super) const CONNECT_WITH_DB: u32 = 0x8;
const CONNECT_ATTRS: u32 = 0x10_0000;
/// Bytes of a nonce, the zero behind them not counted.
pub const NONCE_LEN: usize = 20;
/// `utf8mb4_general_ci`, which every server has.
const CHARSET: u8 = 45;
/// A level of compression that there is.
const ZSTD_LEVEL: u8 = 3;
/// Bytes of a signature of Ed25519.
const ED25519_SIGNATURE: usize = 64;
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
    pub(super) capabilities: u32,
    /// The method that the server would rather authenticate by.
    pub(super) plugin: Vec<u8>,
    /// What a client proves its password on.
    pub nonce: [u8; NONCE_LEN],
}

impl Greeting {
    /// Reads the payload of a HandshakeV10 packet. `None` for anything else, an ERR packet among
    /// it.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let rest = payload.strip_prefix(&[10])?;
        let (version, rest) = split_nul(rest)?;
        // Connection id, first part of the nonce, a zero.
        let mut nonce = [0; NONCE_LEN];
        let (first, second) = nonce.split_at_mut(8);
        first.copy_from_slice(rest.get(4..4 + 8)?);
        let rest = rest.get(4 + 8 + 1..)?;
        let low = u16::from_le_bytes(rest.get(..2)?.try_into().ok()?);
        // Character set, status.
        let high = u16::from_le_bytes(rest.get(5..7)?.try_into().ok()?);
        let length = usize::from(*rest.get(7)?);
        // Reserved, second part of the nonce, with a zero behind it.
        let rest = rest.get(8 + 10..).unwrap_or_default();
        if let Some(bytes) = rest.get(..second.len()) {
            second.copy_from_slice(bytes);
        }
        let rest = rest.get(13.max(length.saturating_sub(8))..).unwrap_or_default();
        let plugin = split_nul(rest).map_or(rest, |(plugin, _)| plugin);
        Some(Self {
            kind: kind(version),
            capabilities: u32::from(low) | u32::from(high) << 16,
            plugin: plugin.to_vec(),
            nonce,
        })
    }

    /// Whether the server can do TLS.
    pub fn offers_tls(&self) -> bool {
        self.capabilities & SSL != 0
    }

    /// The packet of a log-in that fails: well formed, an unknown user, no password.
    ///
    /// A server counts a connection that ends before its log-in as an interrupted handshake, and
    /// blocks the host after `max_connect_errors` of them (ER 1129); a wrong log-in it does not.
    /// Source: MySQL's `sql/auth/sql_authentication.cc`, `acl_authenticate`: only CR_AUTH_HANDSHAKE
    /// counts to the block, and that is what plugins make of a client that is gone.
    ///
    /// The plugin is the server's own default, so that it need not ask for another. MySQL 9 and MariaDB
    /// may ask nevertheless: they give each unknown user the plugin of some account (`decoy_user`,
    /// `find_mpvio_user`), to tell nobody which users there are: see [`wrong_answer`]. No password, as
    /// most plugins refuse that without a further question.
    pub fn failing_login(&self) -> Vec<u8> {
        let capabilities = PROTOCOL_41 | SECURE_CONNECTION | (self.capabilities & PLUGIN_AUTH);
        frame(1, &self.failing_response(capabilities))
    }

    /// Its payload, with what these capabilities announce. Inside TLS they must be those of the
    /// SSLRequest: servers go by them.
    pub fn failing_response(&self, capabilities: u32) -> Vec<u8> {
        let mut payload = Vec::with_capacity(96);
        payload.extend_from_slice(&capabilities.to_le_bytes());
        payload.extend_from_slice(&0x00ff_ffff_u32.to_le_bytes());
        payload.push(CHARSET);
        payload.extend_from_slice(&[0; 23]);
        payload.extend_from_slice(NOBODY);
        // The length of the authentication data.
        payload.push(0);
        if capabilities & CONNECT_WITH_DB != 0 {
            payload.push(0);
        }
        if capabilities & PLUGIN_AUTH != 0 {
            payload.extend_from_slice(&self.plugin);
            payload.push(0);
        }
        if capabilities & CONNECT_ATTRS != 0 {
            // The length of the attributes.
            payload.push(0);
        }
        if capabilities & ZSTD != 0 {
            payload.push(ZSTD_LEVEL);
        }
        payload
    }
}

/// What a plugin takes for a wrong password, when it asks by an AuthSwitchRequest or AuthMoreData: no
/// password, for most of them.
///
/// MariaDB's `client_ed25519` takes what is no signature for a client that is gone, and counts it as
/// an interrupted handshake; so does `parsec`, but for its first question, which only an empty packet
/// answers. Source: MariaDB's `plugin/auth_ed25519/server_ed25519.c` and
/// `plugin/auth_parsec/server_parsec.cc`, `auth`.
pub fn wrong_answer(question: &[u8]) -> &'static [u8] {
    match question.strip_prefix(b"\xfe").and_then(split_nul) {
        Some((b"client_ed25519" | b"parsec", _)) => &[0; ED25519_SIGNATURE],
        _ => &[],
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

pub(super) fn split_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// Says in the payload of a greeting that TLS can be had, or that it cannot.
pub fn offer_tls(greeting: &mut [u8], is_offered: bool) {
    if let Some(byte) = capabilities_at(greeting).and_then(|at| greeting.get_mut(at + 1)) {
        set_ssl(byte, is_offered);
    }
}

/// Says in the payload of a greeting that nothing can be compressed.
pub fn offer_no_compression(greeting: &mut [u8]) {
    if let Some(low) = capabilities_at(greeting) {
        // Behind the first two bytes: character set and status.
        for (at, bits) in [(low, COMPRESS), (low + 5, ZSTD >> 16)] {
            for (offset, byte) in bits.to_le_bytes().iter().take(2).enumerate() {
                if let Some(capabilities) = greeting.get_mut(at + offset) {
                    *capabilities &= !byte;
                }
            }
        }
    }
}

/// Where the lower two bytes of a greeting's capabilities are.
fn capabilities_at(greeting: &[u8]) -> Option<usize> {
    // Version, its zero, connection id, first part of the nonce, a zero.
    let version = greeting.iter().skip(1).position(|byte| *byte == 0)?;
    Some(1 + version + 1 + 4 + 8 + 1)
}

/// Sets or clears [`SSL`] in the second byte of capabilities.
pub(super) fn set_ssl(byte: &mut u8, is_set: bool) {
    let bit = (SSL >> 8) as u8;
    *byte = if is_set { *byte | bit } else { *byte & !bit };
}

/// The sequence id of an answer to what a client has said, `length` bytes of which `first` are the
/// beginning, if one can be given in plain text: it is one whole HandshakeResponse and not the beginning
/// of TLS.
pub fn answer_sequence(first: &[u8], length: usize) -> Option<u8> {
    let header = first.first_chunk::<HEADER_LEN>()?;
    let payload = payload_length(header);
    let capabilities = u32::from_le_bytes(first.get(HEADER_LEN..HEADER_LEN + 4)?.try_into().ok()?);
    // An SSLRequest is 32 bytes; a HandshakeResponse has at least a user name's NUL more.
    let whole = length == HEADER_LEN + payload;
    let plain = whole && payload > 32 && capabilities & SSL == 0 && capabilities & PROTOCOL_41 != 0;
    plain.then(|| header[3].wrapping_add(1))
}

#[cfg(test)]
mod tests {
    use super::super::response::Response;
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
        assert_eq!(answer_sequence(&packet, packet.len()), Some(2));
    }

    #[test]
    fn a_failing_response_has_what_its_capabilities_announce() {
        let greeting = Greeting::parse(MARIADB).unwrap();
        let base = PROTOCOL_41 | SECURE_CONNECTION | SSL;
        for (also, behind) in [
            (0, &b""[..]),
            (CONNECT_WITH_DB, b"\0"),
            (PLUGIN_AUTH, b"mysql_native_password\0"),
            (CONNECT_WITH_DB | PLUGIN_AUTH | CONNECT_ATTRS, b"\0mysql_native_password\0\0"),
            (PLUGIN_AUTH | CONNECT_ATTRS | ZSTD, b"mysql_native_password\0\0\x03"),
        ] {
            let payload = greeting.failing_response(base | also);
            let head = [NOBODY, b"\0", behind].concat();
            assert!(payload.ends_with(&head), "{also:x}: {payload:?}");
            assert!(Response::parse(&payload).is_some_and(|response| response.auth.is_empty()));
        }
    }

    #[test]
    fn an_error_in_place_of_a_greeting_is_none() {
        assert_eq!(Greeting::parse(b"\xff\x10\x04Too many connections"), None);
    }

    #[test]
    fn an_ssl_request_cannot_be_answered_in_plain_text() {
        let request = [b"\x20\0\0\x01\x00\x0a\0\0".as_slice(), &[0; 28]].concat();
        assert_eq!(answer_sequence(&request, request.len()), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Greeting::parse(&bytes);
            let _ = answer_sequence(&bytes, bytes.len());
        }
    }

    #[test]
    fn a_wrong_answer_is_one_that_the_plugin_takes_for_a_password() {
        for (question, length) in [
            (&b"\xfeclient_ed25519\0nonce\0"[..], 64),
            (b"\xfeparsec\0scramble", 64),
            (b"\xfemysql_native_password\0nonce\0", 0),
            (b"\xfe", 0),
            (b"\x01\x04", 0),
        ] {
            assert_eq!(wrong_answer(question).len(), length, "{question:?}");
        }
    }
}
