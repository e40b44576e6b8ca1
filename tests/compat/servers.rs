//! The servers, and what is in them.

use std::any::Any;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, SslOpts};

use crate::compare::{Excuse, both_end, same_but_for_widths};
use crate::support::mariadb::{MariaDb, PASSWORD, USER};
use crate::support::mysqld::{MYSQL, MySqld, account};
use crate::support::process::{Process, command};
use crate::support::runtime;
use crate::support::tls::{Authority, Pair, Valid};
use crate::support::toolchain::Need;

/// One row of the matrix.
#[derive(Debug)]
pub struct ServerKind {
    pub name: &'static str,
    pub fast: bool,
    pub needs: &'static [Need],
    /// Where clients can tell its own TLS from another's, or from none: a bridge that ends TLS cannot be
    /// out of sight there.
    pub tells_tls: &'static [Excuse],
    /// Starts one; or says why it cannot be had here.
    pub start: fn() -> Result<Server, String>,
}

/// A server that runs for as long as it is held.
pub struct Server {
    pub port: u16,
    _process: Box<dyn Any>,
}

pub const SERVERS: &[ServerKind] = &[
    ServerKind {
        name: "mariadb",
        fast: true,
        needs: &[
            Need { probe: "mariadbd --version", package: "mariadb-server" },
            Need { probe: "mariadb --version", package: "mariadb-client" },
            Need { probe: "openssl version", package: "openssl" },
        ],
        tells_tls: &[],
        start: mariadb,
    },
    ServerKind { name: "mysql", fast: false, needs: MYSQL.needs, tells_tls: &[], start: mysql },
    // A busy session that is killed ends by a record that cannot be decrypted, an idle one by
    // close_notify; and the columns of SHOW STATUS are as wide as the names of the session's ciphers.
    ServerKind {
        name: "tidb",
        fast: false,
        needs: &[],
        tells_tls: &[
            Excuse { section: "kill.busy", covers: both_end },
            Excuse { section: "kill.idle", covers: both_end },
            Excuse { section: "compression", covers: same_but_for_widths },
        ],
        start: tidb,
    },
];

/// The database that the client programs use, made anew before each run.
pub const DATABASE: &str = "compat";
/// Another account, which may only log in.
const OTHER: &str = "CREATE USER IF NOT EXISTS other@'%' IDENTIFIED BY 'flow'";
const SEED: &str = include_str!("seed.sql");

fn mariadb() -> Result<Server, String> {
    let options = [
        "--max-allowed-packet=256M",
        "--performance-schema=ON",
        "--innodb-buffer-pool-size=128M",
        "--innodb-log-file-size=96M",
        // A session that begins with a collation it does not know (MySQL's newest) has, once it is reset,
        // that of whoever was on its thread before.
        "--thread-cache-size=0",
    ];
    let server = MariaDb::start(&options).ok_or("MariaDB is not installed")?;
    Ok(Server { port: server.port, _process: Box::new(server) })
}

fn mysql() -> Result<Server, String> {
    let server = MySqld::start()?;
    Ok(Server { port: server.port, _process: Box::new(server) })
}

/// A real one, which a program of its own builds and runs.
fn tidb() -> Result<Server, String> {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat/tidb/build");
    if !build.exists() {
        return Err("there is no tests/compat/tidb/build".into());
    }
    println!("== preparing tidb");
    let built = Command::new(build).stdin(Stdio::null()).output();
    let built = built.map_err(|error| format!("tests/compat/tidb/build: {error}"))?;
    let last_line = |text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        text.lines().rfind(|line| !line.trim().is_empty()).map(str::to_owned)
    };
    let said = last_line(&built.stdout);
    if !built.status.success() {
        return Err(said.or(last_line(&built.stderr)).unwrap_or(built.status.to_string()));
    }
    let binary = said.ok_or("tests/compat/tidb/build printed no path")?;
    let (folder, authority) = (tempfile::tempdir().expect("a scratch folder"), Authority::new());
    let Pair { cert, key } = authority.sign("localhost", Valid::Now);
    let mut server = command(&binary);
    server.arg("--dir").arg(folder.path()).args(["--port", "0"]);
    server.arg("--cert").arg(cert).arg("--key").arg(key);
    server.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = Process::spawn(server);
    let mut lines = BufReader::new(process.child.stdout.take().expect("it is piped")).lines();
    let listening = lines.by_ref().map_while(Result::ok).find_map(|line| {
        line.strip_prefix("listening ").and_then(|address| address.parse::<SocketAddr>().ok())
    });
    let port = listening.ok_or("TiDB ended before it listened")?.port();
    // Whatever else it prints has to be read.
    thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    let admin = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(port);
    let create = async {
        let mut conn = Conn::new(admin.prefer_socket(false).user(Some("root"))).await?;
        for statement in account() {
            conn.query_drop(statement).await?;
        }
        conn.disconnect().await
    };
    runtime().block_on(create).map_err(|error: mysql_async::Error| error.to_string())?;
    Ok(Server { port, _process: Box::new((process, folder, authority)) })
}

impl Server {
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Lays out the same data as before every other run. With `tls` the server lets nobody in without; with
    /// `forget` MySQL does not remember whose passwords it has seen, so that the first log-in is a full one.
    pub fn seed(&self, tls: bool, forget: bool) -> Result<(), String> {
        runtime().block_on(self.lay_out(tls, forget)).map_err(|error| format!("no data: {error}"))
    }

    /// What is left of a program that has ended: a section as programs print them.
    pub fn released(&self) -> String {
        let said = match runtime().block_on(self.look_after()) {
            Ok(said) => said,
            Err(error) => format!("failed: {error}"),
        };
        format!("== released\n{said}\n")
    }

    async fn connect(&self) -> mysql_async::Result<Conn> {
        let opts = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(self.port);
        let opts = opts.prefer_socket(false).user(Some(USER)).pass(Some(PASSWORD));
        let trusting = SslOpts::default().with_danger_accept_invalid_certs(true);
        Conn::new(opts.ssl_opts(Some(trusting))).await
    }

    /// Waits until no session of the programs' accounts is left, but for those that sleep on until the server
    /// looks up, and reads what one of them had changed and not committed.
    async fn look_after(&self) -> mysql_async::Result<String> {
        let mut conn = self.connect().await?;
        let sessions = format!(
            "SELECT COUNT(*) FROM information_schema.processlist \
             WHERE user IN ('{USER}', 'other') AND id <> CONNECTION_ID() \
             AND COALESCE(info, '') NOT LIKE 'SELECT SLEEP%'"
        );
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let left: Option<u64> = conn.query_first(&sessions).await?;
            match left {
                Some(0) => break,
                left if Instant::now() > deadline => {
                    return Ok(format!("failed: {left:?} sessions are left"));
                }
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        let name: Option<String> = conn
            .query_first(format!("SELECT name FROM {DATABASE}.letters WHERE id = 1 FOR UPDATE"))
            .await?;
        conn.disconnect().await?;
        Ok(format!("no session is left, and the row is as it was: {}", name.unwrap_or_default()))
    }

    async fn lay_out(&self, tls: bool, forget: bool) -> mysql_async::Result<()> {
        let mut conn = self.connect().await?;
        conn.query_drop(OTHER).await?;
        let require = if tls { "SSL" } else { "NONE" };
        for user in [USER, "other"] {
            conn.query_drop(format!("ALTER USER {user}@'%' REQUIRE {require}")).await?;
        }
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
        if forget {
            conn.query_drop("FLUSH PRIVILEGES").await?;
        }
        conn.disconnect().await
    }
}

/// One a line; what is no statement is a comment.
fn statements(text: &str) -> impl Iterator<Item = &str> {
    let is_statement = |line: &&str| line.starts_with("CREATE") || line.starts_with("INSERT");
    text.lines().filter(is_statement)
}
