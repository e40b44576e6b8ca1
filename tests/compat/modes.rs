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
    /// Whether TLS, with whichever side, ends at the bridge.
    pub ends_tls: bool,
    start: fn(SocketAddr) -> Through,
}

/// Where a client connects, for as long as it is held.
pub struct Through {
    pub port: u16,
    _carrier: Option<Box<dyn Any>>,
}

/// A bridge as it comes, between clients without TLS and a server.
const OFF: Mode = Mode {
    name: "off",
    fast: false,
    tls: false,
    ends_tls: false,
    start: |server| bridge(server, &[]),
};
const ENDING: Mode = Mode { ends_tls: true, ..OFF };

/// All modes of the bridge.
pub const MODES: &[Mode] = &[
    Mode { fast: true, ..OFF },
    Mode { name: "off tls", tls: true, ..OFF },
    Mode { name: "warm", start: |server| bridge(server, WARM), ..OFF },
    Mode { name: "warm tls", tls: true, start: |server| bridge(server, WARM), ..OFF },
    Mode {
        name: "client tls",
        fast: true,
        tls: true,
        start: |server| terminating(server, "off"),
        ..ENDING
    },
    Mode {
        name: "upstream tls",
        start: |server| bridge(server, &["--upstream-tls", "required"]),
        ..ENDING
    },
    Mode { name: "both tls", tls: true, start: |server| terminating(server, "required"), ..ENDING },
];

/// So many are held that most clients are lent one.
const WARM: &[&str] = &["--pool", "warm", "--warm-min", "4"];

/// No bridges: relays that do harm in [`PLANTED_SECTION`], to show that it is found.
pub const PLANTED: &[Mode] = &[
    Mode { name: "changed", start: |server| harmful(server, Onward::Pass), ..OFF },
    Mode { name: "cut", start: |server| harmful(server, Onward::Cut), ..OFF },
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
