//! The client programs, and how each is run.
//!
//! A program is given a port of 127.0.0.1, a user, a password, a database, the folder of
//! [`Inputs`](crate::cells::Inputs), and `tls` or `plain`. It prints every section of
//! [`SECTIONS`](crate::compare::SECTIONS) and ends with 0.

pub mod mysql_async;

use std::env;
use std::path::Path;

use crate::support::mysqld::MYSQL;
use crate::support::toolchain::Toolchain;
use crate::toolchains::{CARGO, GO, JAVA, NODE, PYTHON, SHELL};

/// One row of the matrix.
#[derive(Debug)]
pub struct Client {
    pub name: &'static str,
    pub fast: bool,
    /// Whether it seals a password for MySQL's key where it has no TLS. What does not can log in there only
    /// while MySQL remembers the password.
    pub seals: bool,
    /// None for what is built with this program.
    pub toolchain: Option<&'static Toolchain>,
    /// The beginning of its command line, from the folders with its sources and with what was built
    /// of them.
    command: fn(&Path, &Path) -> Vec<String>,
}

/// The first argument of this program where it is a client itself.
pub const ARGUMENT: &str = "client";

pub const CLIENTS: &[Client] = &[
    Client {
        name: "mariadb-command",
        fast: true,
        seals: true,
        toolchain: Some(&SHELL),
        command: |sources, _| vec![path(sources, "client"), "mariadb".into()],
    },
    Client {
        name: "mysql-command",
        fast: false,
        seals: true,
        toolchain: Some(&MYSQL),
        command: |_, built| vec![path(&SHELL.sources(), "client"), path(built, "mysql")],
    },
    Client {
        name: "PyMySQL",
        fast: true,
        seals: true,
        toolchain: Some(&PYTHON),
        command: |sources, built| python(sources, built, "pymysql_client.py"),
    },
    Client {
        name: "mysql2",
        fast: true,
        seals: true,
        toolchain: Some(&NODE),
        command: |sources, built| node(sources, built, "mysql2.js"),
    },
    Client {
        name: "mysql_async",
        fast: true,
        seals: true,
        toolchain: None,
        command: |_, _| {
            let this = env::current_exe().expect("this program has a path");
            vec![this.display().to_string(), ARGUMENT.into()]
        },
    },
    Client {
        name: "mysql-connector-python",
        fast: false,
        seals: false,
        toolchain: Some(&PYTHON),
        command: |sources, built| python(sources, built, "connector_client.py"),
    },
    Client {
        name: "aiomysql",
        fast: false,
        seals: true,
        toolchain: Some(&PYTHON),
        command: |sources, built| python(sources, built, "aiomysql_client.py"),
    },
    Client {
        name: "SQLAlchemy",
        fast: false,
        seals: true,
        toolchain: Some(&PYTHON),
        command: |sources, built| python(sources, built, "sqlalchemy_client.py"),
    },
    Client {
        name: "mariadb-node",
        fast: false,
        seals: true,
        toolchain: Some(&NODE),
        command: |sources, built| node(sources, built, "mariadb.js"),
    },
    Client {
        name: "go-sql-driver",
        fast: false,
        seals: true,
        toolchain: Some(&GO),
        command: |_, built| vec![path(built, "client")],
    },
    Client {
        name: "mysql-connector-j",
        fast: false,
        seals: true,
        toolchain: Some(&JAVA),
        command: |_, built| java(built, "mysql"),
    },
    Client {
        name: "mariadb-connector-j",
        fast: false,
        seals: true,
        toolchain: Some(&JAVA),
        command: |_, built| java(built, "mariadb"),
    },
    Client {
        name: "sqlx",
        fast: false,
        seals: true,
        toolchain: Some(&CARGO),
        command: |_, built| vec![path(built, "debug/tidegate-compat-sqlx")],
    },
];

impl Client {
    /// Installs and builds what it needs; the beginning of its command line, or why there is none.
    pub fn prepare(&self) -> Result<Vec<String>, String> {
        let (sources, built) = match self.toolchain {
            Some(toolchain) => (toolchain.sources(), toolchain.prepare()?),
            None => Default::default(),
        };
        Ok((self.command)(&sources, &built))
    }
}

fn python(sources: &Path, built: &Path, program: &str) -> Vec<String> {
    vec![path(built, "venv/bin/python"), "-B".into(), path(sources, program)]
}

/// A module is looked for beside the program that requires it, and these are not beside it.
fn node(sources: &Path, built: &Path, program: &str) -> Vec<String> {
    let modules = format!("NODE_PATH={}", path(built, "node_modules"));
    vec!["env".into(), modules, "node".into(), path(sources, program)]
}

fn java(built: &Path, driver: &str) -> Vec<String> {
    let classes = format!("{}:{}", path(built, "classes"), path(built, "jars/*"));
    ["java", "-cp", &classes, "Client", driver].map(str::to_owned).to_vec()
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}
