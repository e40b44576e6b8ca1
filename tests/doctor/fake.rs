//! Servers that greet, shake hands and answer a log-in as they are told.
//!
//! They play what cannot be had here: TiDB Cloud's gateway, in its own words, and servers that are
//! broken. Real ones are in `login`, `tls` and `well`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};
use tidegate::mysql::packet::{HEADER_LEN, frame};

use crate::support::PATIENCE;
use crate::support::mysql::{OK, read_packet};
use crate::support::tcp::{listener, serve};
use crate::support::tls::{Authority, Pair, shake_hands};

const SSL: u32 = 1 << 11;
const COM_QUIT: u8 = 1;
/// Bytes of a request for TLS, without the header.
const SSL_REQUEST: usize = 32;
/// The halves of a greeting's salt.
const SALT: [&[u8]; 2] = [b"abcdefgh", b"ijklmnopqrst"];

/// A server that lets everybody in, unless told otherwise.
#[derive(Clone)]
pub struct Fake {
    version: &'static str,
    plugin: &'static str,
    tls: Option<Arc<ServerConfig>>,
    login: Login,
    slowness: Duration,
}

/// How a log-in is answered.
#[derive(Clone)]
enum Login {
    Welcome,
    Refused(u16, &'static str),
    /// By asking for another method of authentication.
    Switched(&'static str),
}

impl Fake {
    pub fn mysql() -> Self {
        let (version, plugin) = ("8.0.36", "mysql_native_password");
        Self { version, plugin, tls: None, login: Login::Welcome, slowness: Duration::ZERO }
    }

    /// The gateway of a Starter cluster.
    pub fn gateway() -> Self {
        Self { version: "8.0.11-TiDB-v8.5.3-serverless", ..Self::mysql() }
    }

    pub fn version(self, version: &'static str) -> Self {
        Self { version, ..self }
    }

    /// Offers TLS, and shakes hands with this.
    pub fn tls(self, pair: &Pair) -> Self {
        Self { tls: Some(pair.server()), ..self }
    }

    /// Shakes hands with nobody who shows no certificate.
    pub fn certified(
        self,
        pair: &Pair,
        ca: &Authority,
        version: &'static SupportedProtocolVersion,
    ) -> Self {
        Self { tls: Some(pair.server_for(Some(ca), &[version])), ..self }
    }

    /// Refuses every log-in so.
    pub fn refusing(self, code: u16, text: &'static str) -> Self {
        Self { login: Login::Refused(code, text), ..self }
    }

    /// Wants to be convinced in another way.
    pub fn switching_to(self, plugin: &'static str) -> Self {
        Self { login: Login::Switched(plugin), ..self }
    }

    /// Takes its time for every answer after the log-in.
    pub fn slow(self, slowness: Duration) -> Self {
        Self { slowness, ..self }
    }

    /// On a free port of the loopback.
    pub fn start(self) -> SocketAddr {
        self.at(&listener())
    }

    pub fn at(self, listener: &TcpListener) -> SocketAddr {
        serve(listener, move |stream| self.converse(stream).unwrap_or_default())
    }

    fn converse(&self, mut stream: TcpStream) -> Option<()> {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let capabilities = if self.tls.is_some() { u32::MAX } else { !SSL };
        stream.write_all(&greeting(self.version, self.plugin, capabilities)).ok()?;
        let first = read_packet(&stream)?;
        match &self.tls {
            Some(config) if first.len() == SSL_REQUEST => {
                let tls = ServerConnection::new(config.clone()).unwrap();
                let mut tls = shake_hands(tls, stream)?;
                read_packet(&mut tls)?;
                self.answer(tls, 3)
            }
            _ => self.answer(stream, 2),
        }
    }

    /// The log-in has been read.
    fn answer(&self, mut stream: impl Read + Write, sequence: u8) -> Option<()> {
        let answer = match &self.login {
            Login::Welcome => OK.to_vec(),
            Login::Refused(code, text) => refusal(*code, text),
            Login::Switched(plugin) => {
                [b"\xfe", plugin.as_bytes(), b"\0", SALT[0], SALT[1], b"\0"].concat()
            }
        };
        stream.write_all(&frame(sequence, &answer)).ok()?;
        loop {
            match read_packet(&mut stream)?[..] {
                [COM_QUIT] => return None,
                _ => {
                    thread::sleep(self.slowness);
                    stream.write_all(&frame(1, OK)).ok()?;
                }
            }
        }
    }
}

/// A greeting with these of the capabilities of a MySQL 8.0.
fn greeting(version: &str, plugin: &str, capabilities: u32) -> Vec<u8> {
    let [lower, upper] = [0xffff, 0xdfff_0000].map(|half| (capabilities & half).to_le_bytes());
    let payload = [
        b"\x0a",
        version.as_bytes(),
        b"\0\x01\0\0\0",
        SALT[0],
        b"\0",
        &lower[..2],
        b"\xff\x02\0",
        &upper[2..],
        b"\x15\0\0\0\0\0\0\0\0\0\0",
        SALT[1],
        b"\0",
        plugin.as_bytes(),
        b"\0",
    ];
    frame(0, &payload.concat())
}

/// The payload of an ERR packet after the greeting.
fn refusal(code: u16, text: &str) -> Vec<u8> {
    [b"\xff", &code.to_le_bytes()[..], b"#HY000", text.as_bytes()].concat()
}

/// A server that says this and no more, and listens until the other side leaves.
pub fn says(bytes: impl Into<Vec<u8>>) -> SocketAddr {
    let bytes = bytes.into();
    acts(move |mut stream| {
        let _ = stream.write_all(&bytes);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    })
}

/// A server that says this in place of a greeting, as servers do that want nobody.
pub fn refuses_to_greet(code: u16, text: &str) -> SocketAddr {
    let payload = [b"\xff", &code.to_le_bytes()[..], text.as_bytes()].concat();
    acts(move |mut stream| drop(stream.write_all(&frame(0, &payload))))
}

/// A server that offers TLS, reads the request for it and the first TLS record, and does this.
pub fn asked_for_tls(act: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    acts(move |mut stream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let greeting = greeting("8.0.36", "mysql_native_password", u32::MAX);
        let _ = stream.write_all(&greeting);
        let is_asked = read_packet(&stream).is_some_and(|first| first.len() == SSL_REQUEST);
        let mut header = [0; HEADER_LEN + 1];
        if !is_asked || stream.read_exact(&mut header).is_err() {
            return;
        }
        let mut record = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        if stream.read_exact(&mut record).is_ok() {
            act(stream);
        }
    })
}

/// A server that does this with every connection.
pub fn acts(act: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    serve(&listener(), act)
}
