//! MySQL's newest server: a private data directory and a free port.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::mariadb::{PASSWORD, USER, greets};
use super::process::{Process, command, succeed};
use super::tcp::free_port;
use super::toolchain::{Need, Toolchain};
use super::until;

/// MySQL's server, and its command-line client.
pub const MYSQL: Toolchain = Toolchain {
    name: "mysql",
    folder: "support/mysqld",
    needs: &[Need { probe: "debootstrap --version", package: "debootstrap" }],
    sources: &["install"],
    build: "\"$SOURCES/install\"",
};

/// A server that is killed and whose data is removed when it is dropped.
pub struct MySqld {
    pub port: u16,
    _process: Process,
    _folder: TempDir,
}

impl MySqld {
    /// Starts a server with the tests' account; or says why it cannot be had here.
    pub fn start() -> Result<Self, String> {
        let installed = MYSQL.prepare()?;
        let folder = tempfile::tempdir().expect("a scratch folder");
        fs::write(folder.path().join("init.sql"), account().join(";\n") + ";\n")
            .expect("a scratch file");
        succeed(program(&installed, folder.path(), &["--initialize-insecure"]));
        // Between finding a port and using it somebody else may take it.
        let mut attempts = 0;
        loop {
            let port = free_port();
            attempts += 1;
            match run(&installed, folder.path(), port) {
                Ok(process) => return Ok(Self { port, _process: process, _folder: folder }),
                Err(log) if attempts == 5 => return Err(log),
                Err(_) => {}
            }
        }
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }
}

/// Starts the server and waits until it greets; what it said if it ended instead.
fn run(installed: &Path, folder: &Path, port: u16) -> Result<Process, String> {
    let path = |name| in_folder(folder, name);
    let mut process = Process::spawn(program(
        installed,
        folder,
        &[
            &format!("--port={port}"),
            "--bind-address=127.0.0.1",
            &format!("--socket={}", path("socket")),
            &format!("--pid-file={}", path("pid")),
            &format!("--init-file={}", path("init.sql")),
            "--mysqlx=OFF",
            // The default is a folder that only an installed server has.
            "--secure-file-priv=",
            "--skip-name-resolve",
            "--local-infile=1",
            "--max-allowed-packet=256M",
            // Speed instead of safety: the data is thrown away anyway.
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-doublewrite=OFF",
            "--skip-log-bin",
        ],
    ));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    until("MySQL greets or ends", || match process.has_ended() {
        Some(_) => Some(Err(fs::read_to_string(path("error.log")).unwrap_or_default())),
        None => greets(address).then_some(Ok(())),
    })?;
    Ok(process)
}

fn program(installed: &Path, folder: &Path, options: &[&str]) -> Command {
    let mut server = command(&installed.join("mysqld").display().to_string());
    server.arg("--no-defaults");
    server.arg(format!("--basedir={}", installed.join("sid/usr").display()));
    server.arg(format!("--datadir={}", in_folder(folder, "data")));
    server.arg(format!("--log-error={}", in_folder(folder, "error.log")));
    // It refuses to be root's unless told so; to become another user would clear the signal that ends
    // it with this process.
    server.args(rustix::process::geteuid().is_root().then_some("--user=root")).args(options);
    server.stdout(Stdio::null()).stderr(Stdio::null());
    server
}

fn in_folder(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

/// What makes the tests' account.
pub fn account() -> [String; 2] {
    [
        format!("CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}'"),
        format!("GRANT ALL ON *.* TO {USER}@'%'"),
    ]
}
