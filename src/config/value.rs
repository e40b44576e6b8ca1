//! The types that settings have beyond numbers and words.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::unix;

/// The port of a TiDB Cloud gateway.
const GATEWAY_PORT: u16 = 4000;

/// The private endpoint: a DNS name or an IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// A name without the final dot, or a literal without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Gateway {
    /// Whether it is a PrivateLink name: one with a label that contains `privatelink`.
    pub fn is_privatelink(&self) -> bool {
        self.host.split('.').any(|label| label.contains("privatelink"))
    }

    /// The address, when the host is a literal and needs no DNS.
    pub fn literal(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.host.parse().ok()?;
        Some(SocketAddr::new(ip, self.port))
    }
}

impl FromStr for Gateway {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected host:port, host, or an IP address".to_owned();
        if text.contains("://") || text.contains('/') {
            return Err("expected host:port, not a URL".into());
        }
        if text.contains('@') {
            return Err("expected host:port, without a user and a password".into());
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            if address.port() == 0 {
                return Err("expected a port from 1 to 65535, not `0`".into());
            }
            return Ok(Self { host: address.ip().to_string(), port: address.port() });
        }
        let unbracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(ip) = unbracketed.unwrap_or(text).parse::<IpAddr>() {
            return Ok(Self { host: ip.to_string(), port: GATEWAY_PORT });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => match port.parse() {
                Ok(port) if port != 0 => (host, port),
                _ => return Err(format!("expected a port from 1 to 65535, not `{port}`")),
            },
            None => (text, GATEWAY_PORT),
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let label = |label: &str| {
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            !label.is_empty() && label.len() <= 63 && label.bytes().all(legal)
        };
        if host.len() > 253 || !host.split('.').all(label) {
            return Err(expected());
        }
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.literal() {
            Some(address) => address.fmt(f),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Serialize for Gateway {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether sockets that are not shared could not listen at both addresses.
pub fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

/// Whether an address is neither private by itself nor in one of `also_private`.
///
/// Private are RFC 1918, RFC 6598 (carrier-grade NAT, 100.64.0.0/10), link-local and loopback
/// addresses. IPv6 is never public here: AWS gives private endpoints global addresses.
pub fn is_public(address: IpAddr, also_private: &[IpNet]) -> bool {
    let address = address.to_canonical();
    let IpAddr::V4(v4) = address else { return false };
    let [a, b, ..] = v4.octets();
    let carrier_grade = a == 100 && (64..128).contains(&b);
    let private = v4.is_private() || v4.is_link_local() || v4.is_loopback() || carrier_grade;
    !private && !also_private.iter().any(|network| network.contains(&address))
}

/// What a listener binds to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// `localhost:PORT`: 127.0.0.1 and, where the host has IPv6, ::1.
    Localhost(u16),
    /// One address.
    Address(SocketAddr),
    /// `unix:/path`: a Unix socket.
    Unix(PathBuf),
}

impl Bind {
    /// The TCP addresses to bind, in order; all but the first may be missing on a host.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::Localhost(port) => vec![
                SocketAddr::from((Ipv4Addr::LOCALHOST, *port)),
                SocketAddr::from((Ipv6Addr::LOCALHOST, *port)),
            ],
            Self::Address(address) => vec![*address],
            Self::Unix(_) => Vec::new(),
        }
    }
}

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix::path(path).map(Self::Unix);
        }
        if let Some(port) = text.strip_prefix("localhost:") {
            return port
                .parse()
                .map(Self::Localhost)
                .map_err(|_| "expected a port from 0 to 65535 after `localhost:`".into());
        }
        text.parse().map(Self::Address).map_err(|_| {
            "expected `localhost:PORT`, `unix:/path`, or an IP address and a port, such as \
             127.0.0.1:4000"
                .into()
        })
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Localhost(port) => write!(f, "localhost:{port}"),
            Self::Address(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for Bind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_names_or_literals_with_4000_as_the_default_port() {
        let shown = |text: &str| text.parse::<Gateway>().map(|gateway| gateway.to_string());
        assert_eq!(shown("gw.Example.com"), Ok("gw.example.com:4000".into()));
        assert_eq!(shown("gw.example.com.:3306"), Ok("gw.example.com:3306".into()));
        assert_eq!(shown("10.0.0.1"), Ok("10.0.0.1:4000".into()));
        assert_eq!(shown("[fd00::1]:3306"), Ok("[fd00::1]:3306".into()));
        assert_eq!(shown("fd00::1"), Ok("[fd00::1]:4000".into()));
        for wrong in [
            "",
            "a..b",
            "mysql://gw",
            "root:secret@gw",
            "gw:0",
            "10.0.0.1:0",
            "gw:port",
            "gw:70000",
            "a b",
            "-:1:2",
        ] {
            assert!(shown(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn localhost_is_both_loopbacks() {
        let bind: Bind = "localhost:4000".parse().unwrap();
        let addresses: Vec<String> = bind.addresses().iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["127.0.0.1:4000", "[::1]:4000"]);
    }
}
