//! By which plugin an account is let in, and how it is given another one.

use super::journey::{Greeted, Trouble};
use crate::mysql::error::Problem;
use crate::mysql::handshake::ServerKind;

/// The plugin that a server wanted of a user, where a log-in has failed for it.
pub(super) fn wanted(trouble: &Trouble) -> Option<&str> {
    let Trouble::Wire(problem) = trouble else { return None };
    match problem {
        Problem::Plugin(plugin) => Some(plugin),
        Problem::InClear | Problem::Unverified => Some("mysql_clear_password"),
        _ => None,
    }
}

/// What gives an account a plugin that all clients speak, and Hyperdrive, as its server takes it: MySQL
/// has caching_sha2_password since 8.0; MariaDB writes it in another way, and comes without it.
pub(super) fn change(server: &Greeted) -> &'static str {
    match server.kind {
        ServerKind::MariaDb => {
            "ALTER USER … IDENTIFIED VIA mysql_native_password USING PASSWORD('…')"
        }
        ServerKind::MySql if server.version.starts_with("5.") => {
            "ALTER USER … IDENTIFIED WITH mysql_native_password BY '…'"
        }
        ServerKind::MySql | ServerKind::TiDb => {
            "ALTER USER … IDENTIFIED WITH caching_sha2_password BY '…'"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_is_told_in_its_own_words() {
        let change = |kind, version: &str| {
            let plugin = "mysql_native_password".to_owned();
            change(&Greeted { kind, version: version.into(), plugin, offers_tls: true })
        };
        for (kind, version, words) in [
            (ServerKind::MariaDb, "10.11.6-MariaDB", "VIA mysql_native_password USING PASSWORD("),
            (ServerKind::MySql, "5.7.44", "WITH mysql_native_password BY"),
            (ServerKind::MySql, "9.7.0", "WITH caching_sha2_password BY"),
            (ServerKind::TiDb, "8.0.11-TiDB-v8.5.3", "WITH caching_sha2_password BY"),
        ] {
            assert!(change(kind, version).contains(words), "{version}");
        }
    }
}
