//! Authentication across two connections of which only one is TLS.
//!
//! What a client sends to prove its password depends on what it knows of its own connection: inside
//! TLS it may send the password itself, which a plain connection to the server would give away; on a
//! plain one it asks for a key to seal it with, which a server inside TLS does not have for it. So
//! the bridge stands in for the side that the other one takes it for. Everything else passes as it is.
//!
//! Sans-io: payloads in, [`Step`]s out. The sequence ids are the caller's, those of each
//! connection go on by themselves.
//! Source: MySQL's `sql/auth/sha2_password.cc`; MariaDB's `plugin/auth_*`; TiDB's
//! `pkg/server/conn.go`, `authSha`.

use std::sync::Arc;

use thiserror::Error;

use super::handshake::{Greeting, NONCE_LEN, ServerKind};
use super::response::Response;
use super::rsa::{Key, seal};

const CACHING_SHA2: &[u8] = b"caching_sha2_password";
const SHA256: &[u8] = b"sha256_password";
/// Methods whose words do not depend on whether the client is inside TLS, or that [`Exchange`] makes up
/// for. What is not known may send a password in clear where it believes that nobody listens.
const KNOWN: &[&[u8]] = &[
    b"mysql_native_password",
    b"client_ed25519",
    b"parsec",
    CACHING_SHA2,
    SHA256,
    b"tidb_sm3_password",
    b"auth_gssapi_client",
    b"authentication_kerberos_client",
    b"authentication_ldap_sasl_client",
    b"authentication_webauthn_client",
];
/// Methods by which a client sends the password as it is, or a token as good as one.
const IN_CLEAR: &[&[u8]] =
    &[b"mysql_clear_password", b"dialog", b"tidb_auth_token", b"authentication_oci_client"];
/// Bytes that a password sealed for a [`Key`] has.
const SEALED: usize = 256;
/// caching_sha2_password: the server wants the password itself.
const FULL: &[u8] = &[1, 4];
/// caching_sha2_password: the proof was enough; the OK packet follows.
pub const FAST: &[u8] = &[1, 3];

/// What is known of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leg {
    /// TLS ends at the bridge.
    pub is_tls: bool,
    /// It does not leave the host.
    pub is_local: bool,
}

impl Leg {
    fn is_private(self) -> bool {
        self.is_tls || self.is_local
    }
}

/// A log-in under way.
#[derive(Debug)]
pub struct Exchange {
    client: Leg,
    upstream: Leg,
    server: ServerKind,
    plugin: Vec<u8>,
    nonce: Vec<u8>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// What one side says is for the other.
    Passing,
    /// The client was asked for the password itself, and answers as its own connection allows.
    Wanted,
    /// The client has asked for the bridge's key, or has sealed this for it, as it was given it before.
    KeyNeeded(Option<Vec<u8>>),
    /// The client was given this key, and seals the password for it.
    Sealing(Arc<Key>),
    /// The server was asked for its key; this is to be sealed for it.
    KeyAsked(Vec<u8>),
}

/// What is to be done with what was heard.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this payload to the client.
    ToClient(Vec<u8>),
    /// Send this payload to the server.
    ToUpstream(Vec<u8>),
    /// Get the key of the bridge, and go on with what [`Exchange::has_key`] returns.
    NeedKey,
    /// Send this payload to the client: the log-in has succeeded or failed.
    Over(Vec<u8>),
}

/// Why a log-in cannot go on, in words for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unsafe {
    /// The password itself would be sent, or a token that is as good.
    #[error(
        "this account's method sends the password in clear, and not both connections are private: \
         use TLS on both (client_tls, upstream_tls)"
    )]
    InClear,
    /// TiDB takes the password itself or nothing.
    #[error(
        "TiDB wants the password itself, and the bridge's connection to it is plain: set \
         upstream_tls = \"required\" or more, or use an account with mysql_native_password"
    )]
    TiDbInClear,
    /// Pre-4.1.
    #[error("the server asks for the password in the form of MySQL 4.0, which is not safe")]
    OldPassword,
    /// Begun without asking the server which key.
    #[error(
        "sha256_password as the server's first choice wants TLS on both connections or on neither"
    )]
    Sha256,
    /// By its own or an older key.
    #[error(
        "the password was not sealed for the bridge's key: connect with TLS, or let the client ask \
         for the key (--get-server-public-key, allowPublicKeyRetrieval=true)"
    )]
    NotSealed,
    /// What it sent is none.
    #[error("the server's public key cannot be used")]
    BadKey,
}

impl Exchange {
    /// Begins with what the server greeted with and what the client answered.
    pub fn new(
        client: Leg,
        upstream: Leg,
        greeting: &Greeting,
        response: &Response<'_>,
    ) -> Result<Self, Unsafe> {
        let exchange = Self {
            client,
            upstream,
            server: greeting.kind,
            plugin: response.plugin.to_vec(),
            nonce: greeting.nonce.to_vec(),
            state: State::Passing,
        };
        if !response.auth.is_empty() {
            exchange.may_begin()?;
        }
        Ok(exchange)
    }

    /// Whether what the client has proven its password by may be passed on.
    fn may_begin(&self) -> Result<(), Unsafe> {
        self.may_ask()?;
        match self.plugin == SHA256 && self.differ() {
            true => Err(Unsafe::Sha256),
            false => Ok(()),
        }
    }

    /// Whether a client may be asked to answer by this method.
    fn may_ask(&self) -> Result<(), Unsafe> {
        let plugin = self.plugin.as_slice();
        let is_safe = match (self.client.is_private(), self.upstream.is_private()) {
            (true, true) => true,
            (true, false) if self.client.is_tls => KNOWN.contains(&plugin),
            _ => !IN_CLEAR.contains(&plugin),
        };
        if is_safe { Ok(()) } else { Err(Unsafe::InClear) }
    }

    fn differ(&self) -> bool {
        self.client.is_tls != self.upstream.is_tls
    }

    /// The server has said this.
    pub fn from_server(&mut self, payload: Vec<u8>) -> Result<Step, Unsafe> {
        if let State::KeyAsked(password) = &self.state
            && let [1, key @ ..] = payload.as_slice()
        {
            let sealed = seal(password, &self.nonce, key).ok_or(Unsafe::BadKey)?;
            self.state = State::Passing;
            return Ok(Step::ToUpstream(sealed));
        }
        match payload.as_slice() {
            [0x00 | 0xff, ..] => return Ok(Step::Over(payload)),
            [0xfe] => return Err(Unsafe::OldPassword),
            // AuthSwitchRequest.
            [0xfe, rest @ ..] => self.switch(rest),
            // AuthNextFactor. MariaDB has none, and the questions of its `dialog` begin like this.
            [0x02, rest @ ..] if self.server != ServerKind::MariaDb => self.switch(rest),
            _ => {}
        }
        // Also by what names no method: the client has named one itself, and given no proof yet.
        self.may_ask()?;
        // To a nonce; behind a 1 comes the key.
        let is_sha256_asked = self.plugin == SHA256 && payload.first() != Some(&1);
        if is_sha256_asked || payload == FULL {
            self.ask_for_password()?;
        }
        Ok(Step::ToClient(payload))
    }

    /// The method and the nonce are others from here on.
    fn switch(&mut self, to: &[u8]) {
        let end = to.iter().position(|byte| *byte == 0).unwrap_or(to.len());
        self.plugin = to[..end].to_vec();
        let data = to.get(end + 1..).unwrap_or_default();
        self.nonce = data[..data.len().min(NONCE_LEN)].to_vec();
    }

    /// The client is about to be asked for the password itself.
    fn ask_for_password(&mut self) -> Result<(), Unsafe> {
        let has_no_key = self.server == ServerKind::TiDb;
        match self.client.is_tls {
            _ if !self.differ() => {}
            true if has_no_key && self.upstream.is_local => {}
            true if has_no_key => return Err(Unsafe::TiDbInClear),
            _ => self.state = State::Wanted,
        }
        Ok(())
    }

    /// The client has said this.
    pub fn from_client(&mut self, payload: Vec<u8>) -> Result<Step, Unsafe> {
        match std::mem::replace(&mut self.state, State::Passing) {
            State::Wanted if payload == [self.key_request()] => match self.client.is_tls {
                // It does not trust its TLS that far, and seals the password for the server.
                true => Ok(Step::ToUpstream(payload)),
                false => {
                    self.state = State::KeyNeeded(None);
                    Ok(Step::NeedKey)
                }
            },
            // No password.
            State::Wanted if payload.len() <= 1 => Ok(Step::ToUpstream(payload)),
            State::Wanted if self.client.is_tls => {
                self.state = State::KeyAsked(payload);
                Ok(Step::ToUpstream(vec![self.key_request()]))
            }
            // Some ask for the key once a connection, and change users on it.
            State::Wanted if payload.len() == SEALED => {
                self.state = State::KeyNeeded(Some(payload));
                Ok(Step::NeedKey)
            }
            // Over a Unix socket clients send it as they would inside TLS.
            State::Wanted if self.client.is_local && payload.last() == Some(&0) => {
                Ok(Step::ToUpstream(payload))
            }
            State::Wanted | State::KeyNeeded(_) => Err(Unsafe::NotSealed),
            State::Sealing(key) => self.open(&key, &payload),
            // The server has not answered yet, and will not be told more before it has.
            state @ State::KeyAsked(_) => {
                self.state = state;
                Err(Unsafe::BadKey)
            }
            State::Passing => Ok(Step::ToUpstream(payload)),
        }
    }

    /// The bridge's key, which the client has asked for, or has sealed the password for.
    pub fn has_key(&mut self, key: Arc<Key>) -> Result<Step, Unsafe> {
        let state = std::mem::replace(&mut self.state, State::Passing);
        if let State::KeyNeeded(Some(sealed)) = state {
            return self.open(&key, &sealed);
        }
        let payload = [&[1], key.public.as_bytes()].concat();
        self.state = State::Sealing(key);
        Ok(Step::ToClient(payload))
    }

    fn open(&self, key: &Key, sealed: &[u8]) -> Result<Step, Unsafe> {
        key.open(sealed, &self.nonce).map(Step::ToUpstream).ok_or(Unsafe::NotSealed)
    }

    /// The byte by which this method asks for a key.
    fn key_request(&self) -> u8 {
        if self.plugin == SHA256 { 1 } else { 2 }
    }
}
