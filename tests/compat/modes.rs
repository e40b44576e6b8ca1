//! What stands between client and server.

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
    /// Whether the server is spoken to in TLS.
    pub server_tls: bool,
    /// Whether TLS, with whichever side, ends at the bridge.
    pub ends_tls: bool,
    /// Whether clients are lent warm connections.
    pub warm: bool,
    start: fn(SocketAddr) -> Through,
}

/// Where a client connects, for as long as it is held.
pub struct Through {
    pub port: u16,
    bridge: Option<Bridge>,
    _authority: Option<Authority>,
}

/// A bridge as it comes, between clients without TLS and a server.
const OFF: Mode = Mode {
    name: "off",
    fast: false,
    tls: false,
    server_tls: false,
    ends_tls: false,
    warm: false,
    start: |server| bridge(server, &[]),
};
const OFF_TLS: Mode = Mode { name: "off tls", tls: true, server_tls: true, ..OFF };
const WARM: Mode = Mode { name: "warm", warm: true, start: |server| bridge(server, HELD), ..OFF };
const CLIENT_TLS: Mode = Mode {
    name: "client tls",
    tls: true,
    ends_tls: true,
    start: |server| terminating(server, &["--upstream-tls", "off"]),
    ..OFF
};
const UPSTREAM_TLS: Mode = Mode {
    name: "upstream tls",
    server_tls: true,
    ends_tls: true,
    start: |server| bridge(server, &["--upstream-tls", "required"]),
    ..OFF
};

/// All modes of the bridge.
pub const MODES: &[Mode] = &[
    Mode { fast: true, ..OFF },
    OFF_TLS,
    WARM,
    Mode { name: "warm tls", warm: true, start: WARM.start, ..OFF_TLS },
    Mode { fast: true, ..CLIENT_TLS },
    UPSTREAM_TLS,
    Mode {
        name: "both tls",
        server_tls: true,
        start: |server| terminating(server, &["--upstream-tls", "required"]),
        ..CLIENT_TLS
    },
    Mode {
        name: "warm client tls",
        warm: true,
        start: |server| terminating(server, &[&["--upstream-tls", "off"], HELD].concat()),
        ..CLIENT_TLS
    },
    Mode {
        name: "warm upstream tls",
        warm: true,
        start: |server| bridge(server, &[&["--upstream-tls", "required"], HELD].concat()),
        ..UPSTREAM_TLS
    },
];

/// So many are held that most clients are lent one.
const HELD: &[&str] = &["--pool", "warm", "--warm-min", "4"];

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

impl Through {
    /// How many clients were lent a warm connection.
    pub fn lent(&self) -> f64 {
        let hits = |bridge: &Bridge| {
            bridge.metrics().sum("tidegate_pool_checkouts_total", &[("result", "hit")])
        };
        self.bridge.as_ref().map_or(0.0, hits)
    }
}

fn bridge(server: SocketAddr, flags: &[&str]) -> Through {
    let bridge = Bridge::to(server).flags(flags).start();
    Through { port: bridge.listen.port(), bridge: Some(bridge), _authority: None }
}

/// With TLS that ends at the bridge on the clients' side.
fn terminating(server: SocketAddr, flags: &[&str]) -> Through {
    let authority = Authority::new();
    let Pair { cert, key } = authority.sign("localhost", Valid::Now);
    let [cert, key] = [cert, key].map(|path| path.display().to_string());
    let tls = ["--client-tls", "required", "--tls-cert", &cert, "--tls-key", &key];
    Through { _authority: Some(authority), ..bridge(server, &[&tls, flags].concat()) }
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
    Through { port, bridge: None, _authority: None }
}
