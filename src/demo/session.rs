//! One client's session with the embedded backend: greeting, login, commands.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::greeting::{self, Login, capability};
use super::query::{self, Expression, Select, Statement};
use super::reply::{self, Cell};
use super::variables::{self, Facts, Value};
use super::wire::{Wire, WireError};

/// Longest command: anything longer would have to be continued in a second packet.
const MAX_COMMAND: usize = 0xff_fffe;
/// Longest packet before the login is done: credentials and connection attributes.
const MAX_LOGIN: usize = 64 * 1024;

/// Command bytes. Source: MySQL Internals, "Text Protocol" and "Utility Commands".
mod command {
    pub const QUIT: u8 = 0x01;
    pub const INIT_DB: u8 = 0x02;
    pub const QUERY: u8 = 0x03;
    pub const STATISTICS: u8 = 0x09;
    pub const PING: u8 = 0x0e;
    pub const STMT_PREPARE: u8 = 0x16;
    pub const STMT_EXECUTE: u8 = 0x17;
    pub const STMT_SEND_LONG_DATA: u8 = 0x18;
    pub const STMT_CLOSE: u8 = 0x19;
    pub const STMT_RESET: u8 = 0x1a;
    pub const SET_OPTION: u8 = 0x1b;
    pub const STMT_FETCH: u8 = 0x1c;
    pub const RESET_CONNECTION: u8 = 0x1f;
}

/// What a backend says about itself.
#[derive(Debug)]
pub struct Identity {
    /// The answer to `SELECT @@hostname`.
    pub name: String,
    pub version: String,
    pub port: u16,
}

/// The state of one session. Dropping it ends it.
pub struct Session<'a> {
    identity: &'a Identity,
    connection_id: u32,
    peer: SocketAddr,
    wire: Wire<'a>,
    deprecate_eof: bool,
    status: u16,
    user: String,
    database: Option<String>,
}

impl<'a> Session<'a> {
    pub fn new(
        stream: &'a mut TcpStream,
        peer: SocketAddr,
        identity: &'a Identity,
        connection_id: u32,
    ) -> Self {
        Self {
            identity,
            connection_id,
            peer,
            wire: Wire::new(stream),
            deprecate_eof: false,
            status: reply::STATUS_AUTOCOMMIT,
            user: String::new(),
            database: None,
        }
    }

    /// Serves the client until it leaves. A client that only closes its sending side has every
    /// command answered that it sent before.
    pub async fn run(mut self) -> Result<(), WireError> {
        if self.log_in().await? {
            while self.next_command().await? {
                self.wire.flush().await?;
            }
        }
        self.wire.shutdown().await?;
        Ok(())
    }

    /// Greets the client and lets it in, whoever it says it is; false if it left.
    async fn log_in(&mut self) -> Result<bool, WireError> {
        let salt = greeting::salt();
        let greeting =
            greeting::greeting(&self.identity.version, self.connection_id, &salt, self.status);
        self.wire.send(&greeting).await?;
        self.wire.flush().await?;
        if !self.wire.receive(MAX_LOGIN).await? {
            return Ok(false);
        }
        let Some(login) = Login::parse(self.wire.payload()) else {
            let text = "the tidegate demo backend wants the 4.1 protocol without TLS";
            return Err(self.wire.refuse(1043, text).await);
        };
        let offered = login.plugin.as_deref().unwrap_or(greeting::NATIVE_PASSWORD.as_bytes());
        // A client that prefers another plugin than the greeting's has not answered the nonce yet
        // (MariaDB's and MySQL's own libraries) and waits for one that is meant for its plugin.
        if offered != greeting::NATIVE_PASSWORD.as_bytes() {
            let sha2 = offered == greeting::SHA2_PASSWORD.as_bytes();
            let plugin = if sha2 { greeting::SHA2_PASSWORD } else { greeting::NATIVE_PASSWORD };
            self.wire.send(&greeting::auth_switch(plugin, &salt)).await?;
            self.wire.flush().await?;
            if !self.wire.receive(MAX_LOGIN).await? {
                return Ok(false);
            }
            // An empty password is answered by nothing, or by a lone NUL.
            if sha2 && self.wire.payload().len() > 1 {
                self.wire.send(&greeting::SHA2_FOUND).await?;
            }
        }
        self.deprecate_eof = login.capabilities & capability::DEPRECATE_EOF != 0;
        self.user = login.user;
        self.database = login.database;
        self.send_ok().await?;
        self.wire.flush().await?;
        Ok(true)
    }

    /// Reads one command and answers it; false if the client left.
    async fn next_command(&mut self) -> Result<bool, WireError> {
        self.wire.begin_command();
        if !self.wire.receive(MAX_COMMAND).await? {
            return Ok(false);
        }
        let payload = self.wire.take_payload();
        let more = self.answer(&payload).await;
        self.wire.give_back(payload);
        more
    }

    async fn answer(&mut self, payload: &[u8]) -> Result<bool, WireError> {
        let Some((&command, argument)) = payload.split_first() else {
            return Err(WireError::Protocol("an empty command"));
        };
        match command {
            command::QUIT => return Ok(false),
            command::PING => self.send_ok().await?,
            command::INIT_DB => {
                self.database = Some(String::from_utf8_lossy(argument).into_owned());
                self.send_ok().await?;
            }
            command::QUERY => self.query(argument).await?,
            command::STATISTICS => self.wire.send(b"Uptime: 1  Threads: 1  Questions: 1").await?,
            command::SET_OPTION => {
                let terminator = reply::terminator(self.deprecate_eof, self.status);
                self.wire.send(&terminator).await?;
            }
            command::RESET_CONNECTION => {
                self.status = reply::STATUS_AUTOCOMMIT;
                self.send_ok().await?;
            }
            // These two are never answered, not even by an error.
            command::STMT_CLOSE | command::STMT_SEND_LONG_DATA => {}
            command::STMT_PREPARE
            | command::STMT_EXECUTE
            | command::STMT_RESET
            | command::STMT_FETCH => {
                let text = "the tidegate demo backend has no prepared statements";
                self.wire.send(&reply::err(1295, b"HY000", text)).await?;
            }
            other => {
                let text = format!("the tidegate demo backend has no command {other:#04x}");
                self.wire.send(&reply::err(1047, b"08S01", &text)).await?;
            }
        }
        Ok(true)
    }

    async fn query(&mut self, text: &[u8]) -> io::Result<()> {
        match query::parse(text) {
            Ok(Statement::Select(select)) => self.select(select).await,
            Ok(Statement::Show { column, rows }) => {
                let text = |text: &str| Cell::Text(text.as_bytes().to_vec());
                self.send_columns(&[(column, &text(""))]).await?;
                for row in rows {
                    self.wire.send_row(&[text(row)]).await?;
                }
                self.send_end_of_rows().await
            }
            Ok(Statement::Set { autocommit }) => {
                match autocommit {
                    Some(true) => self.status |= reply::STATUS_AUTOCOMMIT,
                    Some(false) => self.status &= !reply::STATUS_AUTOCOMMIT,
                    None => {}
                }
                self.send_ok().await
            }
            Ok(Statement::Use(database)) => {
                self.database = Some(database);
                self.send_ok().await
            }
            Ok(Statement::Begin) => {
                self.status |= reply::STATUS_IN_TRANSACTION;
                self.send_ok().await
            }
            Ok(Statement::End) => {
                self.status &= !reply::STATUS_IN_TRANSACTION;
                self.send_ok().await
            }
            Err(refusal) => {
                let (code, state) = refusal.code();
                self.wire.send(&reply::err(code, state, &refusal.to_string())).await
            }
        }
    }

    async fn select(&mut self, select: Select) -> io::Result<()> {
        let mut names = Vec::with_capacity(select.columns.len());
        let mut row = Vec::with_capacity(select.columns.len());
        for column in select.columns {
            names.push(column.name);
            row.push(self.evaluate(column.expression).await);
        }
        let columns: Vec<_> = names.iter().map(String::as_str).zip(&row).collect();
        self.send_columns(&columns).await?;
        if !select.empty {
            self.wire.send_row(&row).await?;
        }
        self.send_end_of_rows().await
    }

    async fn evaluate(&self, expression: Expression) -> Cell {
        let text = |text: &str| Cell::Text(text.as_bytes().to_vec());
        match expression {
            Expression::Null => Cell::Null,
            Expression::Integer(digits) => Cell::Integer(digits),
            Expression::Decimal(digits) => Cell::Decimal(digits),
            Expression::Text(text) => Cell::Text(text),
            Expression::Version => text(&self.identity.version),
            Expression::ConnectionId => Cell::Integer(self.connection_id.to_string()),
            Expression::Database => self.database.as_deref().map_or(Cell::Null, text),
            Expression::User => text(&format!("{}@{}", self.user, self.peer.ip())),
            Expression::Variable(name) => {
                let facts = Facts {
                    hostname: &self.identity.name,
                    version: &self.identity.version,
                    port: self.identity.port,
                    autocommit: self.status & reply::STATUS_AUTOCOMMIT != 0,
                };
                match variables::value(&name, facts) {
                    Some(Value::Integer(value)) => Cell::Integer(value.to_string()),
                    Some(Value::Text(value)) => Cell::Text(value.into_bytes()),
                    Some(Value::Null) | None => Cell::Null,
                }
            }
            Expression::Sleep(duration) => {
                tokio::time::sleep(duration).await;
                Cell::Integer("0".to_owned())
            }
            Expression::Repeat { unit, count } => Cell::Repeat { unit, count },
        }
    }

    /// Opens a result set: the columns, each defined by its name and a value that it will hold.
    async fn send_columns(&mut self, columns: &[(&str, &Cell)]) -> io::Result<()> {
        self.wire.send(&reply::column_count(columns.len())).await?;
        for (name, cell) in columns {
            self.wire.send(&cell.definition(name)).await?;
        }
        if !self.deprecate_eof {
            self.wire.send(&reply::terminator(false, self.status)).await?;
        }
        Ok(())
    }

    async fn send_end_of_rows(&mut self) -> io::Result<()> {
        self.wire.send(&reply::terminator(self.deprecate_eof, self.status)).await
    }

    async fn send_ok(&mut self) -> io::Result<()> {
        self.wire.send(&reply::ok(self.status)).await
    }
}
