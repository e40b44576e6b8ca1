//! The servers, and what is in them.

use std::any::Any;
use std::net::{Ipv4Addr, SocketAddr};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};

use crate::support::mariadb::{MariaDb, PASSWORD, USER};
use crate::support::runtime;
use crate::toolchain::Need;

/// One row of the matrix.
#[derive(Debug)]
pub struct ServerKind {
    pub name: &'static str,
    pub fast: bool,
    pub needs: &'static [Need],
    /// Starts one; or says why it cannot be had here.
    pub start: fn() -> Result<Server, String>,
}

/// A server that runs for as long as it is held.
pub struct Server {
    pub port: u16,
    _process: Box<dyn Any>,
}

pub const SERVERS: &[ServerKind] = &[ServerKind {
    name: "mariadb",
    fast: true,
    needs: &[
        Need { probe: "mariadbd --version", package: "mariadb-server" },
        Need { probe: "mariadb --version", package: "mariadb-client" },
        Need { probe: "openssl version", package: "openssl" },
    ],
    start: mariadb,
}];

/// The database that the client programs use, made anew before each run.
pub const DATABASE: &str = "compat";
/// Another account, which may only log in.
const OTHER: &str = "CREATE USER IF NOT EXISTS other@'%' IDENTIFIED BY 'flow'";
const SEED: &str = include_str!("seed.sql");

fn mariadb() -> Result<Server, String> {
    let options = ["--max-allowed-packet=256M", "--performance-schema=ON"];
    let server = MariaDb::start(&options).ok_or("MariaDB is not installed")?;
    Ok(Server { port: server.port, _process: Box::new(server) })
}

impl Server {
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Lays out the same data as before every other run.
    pub fn seed(&self) -> Result<(), String> {
        runtime().block_on(self.lay_out()).map_err(|error| format!("no data: {error}"))
    }

    async fn lay_out(&self) -> mysql_async::Result<()> {
        let opts = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(self.port);
        let opts = opts.prefer_socket(false).user(Some(USER)).pass(Some(PASSWORD));
        let mut conn = Conn::new(opts).await?;
        conn.query_drop(OTHER).await?;
        conn.query_drop(format!("DROP DATABASE IF EXISTS {DATABASE}")).await?;
        conn.query_drop(format!("CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4")).await?;
        conn.query_drop(format!("USE {DATABASE}")).await?;
        conn.query_drop("SET time_zone = '+00:00'").await?;
        let (everywhere, somewhere) = SEED.split_once("\n-- Not every").expect("two parts");
        for statement in statements(everywhere) {
            conn.query_drop(statement).await?;
        }
        for statement in statements(somewhere) {
            let _ = conn.query_drop(statement).await;
        }
        conn.disconnect().await
    }
}

/// One a line; what is no statement is a comment.
fn statements(text: &str) -> impl Iterator<Item = &str> {
    let is_statement = |line: &&str| line.starts_with("CREATE") || line.starts_with("INSERT");
    text.lines().filter(is_statement)
}
