//! What a client of a running bridge's admin endpoint has to know.
//!
//! Of the file it reads only the two keys that concern it. The rest is the bridge's own business: it
//! may be running on flags that the client does not see, or on a file that was edited since.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::error::ConfigError;
use super::file::{File, Overrides};
use super::keys::Keys;
use super::parsers::{path, socket_address};
use super::validate::DEFAULT_ADMIN;

/// Where a running bridge's admin endpoint is, and what opens it from another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Where to connect to.
    pub address: SocketAddr,
    /// File with the bearer token.
    pub token_file: Option<PathBuf>,
}

/// Why there is no token in a file that should have one.
#[derive(Debug, Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read admin_token_file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It holds nothing but white space.
    #[error("admin_token_file {} is empty", .0.display())]
    Empty(PathBuf),
}

/// The token in a file, without the white space around it.
pub fn read_token(path: &Path) -> Result<String, TokenError> {
    match fs::read_to_string(path) {
        Err(source) => Err(TokenError::Unreadable { path: path.into(), source }),
        Ok(text) if text.trim().is_empty() => Err(TokenError::Empty(path.into())),
        Ok(text) => Ok(text.trim().to_owned()),
    }
}

pub(super) fn finish(file: File, overrides: &Overrides) -> Result<Access, ConfigError> {
    let File { mut top, .. } = file;
    let mut keys = Keys { section: &mut top, overrides };
    let mut address = keys.one("admin", reachable, DEFAULT_ADMIN.into())?;
    // A bridge that listens on every address of its host is asked on the one that is always there.
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => {
            address.set_ip(Ipv4Addr::LOCALHOST.into())
        }
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            address.set_ip(Ipv6Addr::LOCALHOST.into())
        }
        _ => {}
    }
    Ok(Access { address, token_file: keys.optional("admin_token_file", path)? })
}

/// An address that can be connected to: a bridge may be told port 0, but not asked there.
fn reachable(text: &str) -> Result<SocketAddr, String> {
    match socket_address(text)? {
        address if address.port() == 0 => Err("expected the port that the bridge has chosen\n\
             its first line on stdout ends with it: admin on http://…"
            .into()),
        address => Ok(address),
    }
}

#[cfg(test)]
mod tests {
    use super::super::load_access;
    use super::*;
    use crate::config::{Raw, Source};

    fn address(text: &str) -> Result<String, String> {
        let access = load_access(Some((text, "t.toml")), &Overrides::default());
        access.map(|access| access.address.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_listening_address_becomes_one_to_connect_to() {
        assert_eq!(address(""), Ok("127.0.0.1:9400".into()));
        assert_eq!(address("admin = \"10.0.0.1:9401\""), Ok("10.0.0.1:9401".into()));
        assert_eq!(address("admin = \"0.0.0.0:9401\""), Ok("127.0.0.1:9401".into()));
        assert_eq!(address("admin = \"[::]:9401\""), Ok("[::1]:9401".into()));
        let unknown = address("admin = \"127.0.0.1:0\"").unwrap_err();
        assert!(unknown.starts_with("t.toml:1: `admin` is `127.0.0.1:0`: "), "{unknown}");
        assert!(unknown.contains("\nhint: its first line"), "{unknown}");
    }

    #[test]
    fn the_rest_of_the_file_is_the_bridges_business() {
        let text = "admin = \"127.0.0.1:1\"\nadmin_token_file = \"/t\"\nno_such_key = 1\n";
        let access = load_access(Some((text, "t.toml")), &Overrides::default()).unwrap();
        assert_eq!(access.token_file, Some("/t".into()));
    }

    #[test]
    fn what_was_given_wins_over_the_file() {
        let raw =
            Raw { values: vec!["0.0.0.0:2".into()], source: Source::Env("TIDEGATE_ADMIN".into()) };
        let overrides = Overrides([("admin".to_owned(), raw)].into());
        let access = load_access(Some(("admin = \"127.0.0.1:1\"", "t.toml")), &overrides).unwrap();
        assert_eq!(access.address.to_string(), "127.0.0.1:2");
    }
}
