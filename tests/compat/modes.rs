//! What stands between client and server.

use std::any::Any;
use std::net::SocketAddr;

use crate::relay::{self, Onward, Sender};
use crate::support::bridge::Bridge;
use crate::support::tls::{Authority, Pair, Valid};

/// One column of the matrix.
#[derive(Debug)]
pub struct Mode {
    pub name: &'static str,
    pub fast: bool,
    /// Whether the clients speak TLS.
    pub tls: bool,
    start: fn(SocketAddr) -> Through,
}

/// Where a client connects, for as long as it is held.
pub struct Through {
    pub port: u16,
    _carrier: Option<Box<dyn Any>>,
}

/// All modes of the bridge.
pub const MODES: &[Mode] = &[
    Mode { name: "off", fast: true, tls: false, start: |server| bridge(server, &[]) },
    Mode { name: "off tls", fast: false, tls: true, start: |server| bridge(server, &[]) },
    Mode { name: "warm", fast: false, tls: false, start: |server| bridge(server, WARM) },
    Mode { name: "warm tls", fast: false, tls: true, start: |server| bridge(server, WARM) },
    Mode { name: "client tls", fast: true, tls: true, start: |server| terminating(server, "off") },
    Mode {
        name: "upstream tls",
        fast: false,
        tls: false,
        start: |server| bridge(server, &["--upstream-tls", "required"]),
    },
    Mode {
        name: "both tls",
        fast: false,
        tls: true,
        start: |server| terminating(server, "required"),
    },
];

/// So many are held that most clients are lent one.
const WARM: &[&str] = &["--pool", "warm", "--warm-min", "4"];

/// No bridges: relays that do harm in [`PLANTED_SECTION`], to show that it is found.
pub const PLANTED: &[Mode] = &[
    Mode {
        name: "changed",
        fast: false,
        tls: false,
        start: |server| harmful(server, Onward::Pass),
    },
    Mode { name: "cut", fast: false, tls: false, start: |server| harmful(server, Onward::Cut) },
];
pub const PLANTED_SECTION: &str = "query.text";
/// A value that only that section has.
const PLANTED_VALUE: &[u8] = b"a value to change";

impl Mode {
    pub fn start(&self, server: SocketAddr) -> Through {
        (self.start)(server)
    }
}

fn bridge(server: SocketAddr, flags: &[&str]) -> Through {
    let bridge = Bridge::to(server).flags(flags).start();
    Through { port: bridge.listen.port(), _carrier: Some(Box::new(bridge)) }
}

/// With TLS that ends at the bridge on the clients' side.
fn terminating(server: SocketAddr, upstream: &str) -> Through {
    let authority = Authority::new();
    let Pair { cert, key } = authority.sign("localhost", Valid::Now);
    let [cert, key] = [cert, key].map(|path| path.display().to_string());
    let flags = ["--client-tls", "required", "--tls-cert", &cert, "--tls-key", &key];
    let bridge = Bridge::to(server).flags(&flags).flags(&["--upstream-tls", upstream]).start();
    Through { port: bridge.listen.port(), _carrier: Some(Box::new((bridge, authority))) }
}

/// Changes one byte of the value on its way to the client, or ends the connection there.
fn harmful(server: SocketAddr, harm: Onward) -> Through {
    let port = relay::start(server, move |sender, bytes| {
        let found = bytes.windows(PLANTED_VALUE.len()).position(|part| part == PLANTED_VALUE);
        match (sender, found) {
            (Sender::Server, Some(start)) => {
                bytes[start] = b'A';
                harm
            }
            _ => Onward::Pass,
        }
    });
    Through { port, _carrier: None }
}
