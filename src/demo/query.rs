//! What the embedded backend understands of SQL: text in, a [`Statement`] or a [`Refusal`] out.
//!
//! Sans-io and total: any bytes give one or the other, never a panic, and nothing is allocated
//! beyond a copy of what was sent (`REPEAT` stays a recipe until its row is written).

use std::time::Duration;

use thiserror::Error;

use super::scan::{Scanner, Token};
use super::variables;

/// Most bytes that the `REPEAT`s of one row may make together, and what `@@max_allowed_packet` says.
pub const MAX_REPEAT: u64 = 64 * 1024 * 1024;
/// Longest `SLEEP`.
pub const MAX_SLEEP: Duration = Duration::from_secs(600);
/// Most columns of one `SELECT`: MySQL's own limit.
const MAX_COLUMNS: usize = 4096;
/// Longest column name in bytes; longer ones are cut (MySQL's limit for an alias, in characters).
const MAX_NAME: usize = 256;

/// One statement that the backend can carry out.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    Select(Select),
    /// `SET …`: accepted and forgotten, but for autocommit, which the status flags report.
    Set {
        autocommit: Option<bool>,
    },
    Use(String),
    Begin,
    /// `COMMIT` and `ROLLBACK`: there is nothing to undo.
    End,
    /// `SHOW …`: one column of this name, and these rows.
    Show {
        column: &'static str,
        rows: &'static [&'static str],
    },
}

/// A `SELECT` without a table: one row, or none with `LIMIT 0`.
#[derive(Debug, Clone, PartialEq)]
pub struct Select {
    pub columns: Vec<Column>,
    pub empty: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// The alias, or the text of the expression as MySQL would name it.
    pub name: String,
    pub expression: Expression,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Expression {
    Null,
    /// Digits with an optional sign, as written.
    Integer(String),
    /// As written.
    Decimal(String),
    Text(Vec<u8>),
    Version,
    ConnectionId,
    Database,
    User,
    /// A name that [`variables::known`] accepted.
    Variable(String),
    Sleep(Duration),
    Repeat {
        unit: Vec<u8>,
        count: u64,
    },
}

/// Why a statement is answered with an ERR packet.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Refusal {
    #[error(
        "the tidegate demo backend understands only SELECT of literals, VERSION(), CONNECTION_ID(), \
         DATABASE(), USER(), SLEEP(n), REPEAT('x', n) and system variables, SET, USE, BEGIN, COMMIT, \
         ROLLBACK and SHOW DATABASES, TABLES or WARNINGS, one statement at a time; near '{0}'"
    )]
    NotUnderstood(String),
    #[error("Unknown system variable '{0}'")]
    UnknownVariable(String),
    #[error("SLEEP(n) takes a number of seconds from 0 to {max}", max = MAX_SLEEP.as_secs())]
    Sleep,
    #[error("the REPEAT(…)s of one row may make {MAX_REPEAT} bytes together")]
    Repeat,
    #[error("Too many columns: at most {MAX_COLUMNS}")]
    Columns,
}

impl Refusal {
    /// Error number and SQLSTATE, MySQL's own where it has one for the case.
    /// Source: MySQL Server Error Message Reference.
    pub fn code(&self) -> (u16, &'static [u8; 5]) {
        match self {
            Self::NotUnderstood(_) => (1064, b"42000"),
            Self::UnknownVariable(_) => (1193, b"HY000"),
            Self::Sleep => (1210, b"HY000"),
            Self::Repeat => (1301, b"HY000"),
            Self::Columns => (1117, b"HY000"),
        }
    }
}

/// Reads the text of one COM_QUERY.
pub fn parse(text: &[u8]) -> Result<Statement, Refusal> {
    let mut scanner = Scanner::new(text);
    let Token::Word(verb) = scanner.read() else {
        return Err(not_understood(&scanner));
    };
    let statement = match verb.to_ascii_uppercase().as_slice() {
        b"SELECT" => Statement::Select(select(&mut scanner)?),
        b"SET" => Statement::Set { autocommit: assigned_autocommit(&mut scanner) },
        b"USE" => Statement::Use(name(&mut scanner)?),
        b"BEGIN" | b"START" => {
            scanner.skip_words();
            Statement::Begin
        }
        b"COMMIT" | b"ROLLBACK" => {
            scanner.skip_words();
            Statement::End
        }
        b"SHOW" => show(&mut scanner)?,
        _ => return Err(not_understood(&scanner)),
    };
    end(&mut scanner)?;
    Ok(statement)
}

fn select(scanner: &mut Scanner) -> Result<Select, Refusal> {
    let mut columns = Vec::new();
    let mut repeated = 0u64;
    loop {
        let column = column(scanner)?;
        if let Expression::Repeat { unit, count } = &column.expression {
            repeated = repeated.saturating_add((unit.len() as u64).saturating_mul(*count));
            if repeated > MAX_REPEAT {
                return Err(Refusal::Repeat);
            }
        }
        if columns.len() == MAX_COLUMNS {
            return Err(Refusal::Columns);
        }
        columns.push(column);
        if !scanner.take_symbol(b',') {
            break;
        }
    }
    let mut empty = false;
    if scanner.take_word("LIMIT") {
        let Token::Number(rows) = scanner.read() else {
            return Err(not_understood(scanner));
        };
        empty = rows.iter().all(|digit| *digit == b'0');
    }
    Ok(Select { columns, empty })
}

fn column(scanner: &mut Scanner) -> Result<Column, Refusal> {
    scanner.skip_blanks();
    let start = scanner.position();
    let expression = expression(scanner)?;
    let written = scanner.since(start);
    let alias = if scanner.take_word("AS") {
        Some(name(scanner)?)
    } else {
        match scanner.peek() {
            Token::Word(word) if !word.eq_ignore_ascii_case(b"LIMIT") => Some(name(scanner)?),
            Token::Identifier(_) | Token::Text(_) => Some(name(scanner)?),
            _ => None,
        }
    };
    let name = match (&alias, &expression) {
        (Some(alias), _) => alias.as_bytes(),
        (None, Expression::Text(text)) => text,
        (None, _) => written,
    };
    Ok(Column { name: cut(name), expression })
}

fn expression(scanner: &mut Scanner) -> Result<Expression, Refusal> {
    match scanner.read() {
        Token::Number(digits) => Ok(number("", digits)),
        Token::Text(text) => Ok(Expression::Text(text)),
        Token::Variable(variable) if variables::known(&variable) => {
            Ok(Expression::Variable(variable))
        }
        Token::Variable(variable) => Err(Refusal::UnknownVariable(variable)),
        Token::Symbol(sign @ (b'-' | b'+')) => match scanner.read() {
            Token::Number(digits) => Ok(number(if sign == b'-' { "-" } else { "" }, digits)),
            _ => Err(not_understood(scanner)),
        },
        Token::Word(word) if word.eq_ignore_ascii_case(b"NULL") => Ok(Expression::Null),
        Token::Word(word) => call(word, scanner),
        _ => Err(not_understood(scanner)),
    }
}

fn number(sign: &str, digits: &[u8]) -> Expression {
    let text = format!("{sign}{}", String::from_utf8_lossy(digits));
    if digits.contains(&b'.') { Expression::Decimal(text) } else { Expression::Integer(text) }
}

/// The part of a function call after its name.
fn call(function: &[u8], scanner: &mut Scanner) -> Result<Expression, Refusal> {
    let at_name = scanner.clone();
    if !scanner.take_symbol(b'(') {
        return Err(not_understood(&at_name));
    }
    let expression = match function.to_ascii_uppercase().as_slice() {
        b"VERSION" => Expression::Version,
        b"CONNECTION_ID" => Expression::ConnectionId,
        b"DATABASE" | b"SCHEMA" => Expression::Database,
        b"USER" | b"CURRENT_USER" | b"SESSION_USER" | b"SYSTEM_USER" => Expression::User,
        b"SLEEP" => {
            let Token::Number(seconds) = scanner.read() else {
                return Err(Refusal::Sleep);
            };
            // Digits and dots only, so a parse error means a second dot: the same refusal.
            let seconds: f64 = String::from_utf8_lossy(seconds).parse().unwrap_or(f64::NAN);
            if !(0.0..=MAX_SLEEP.as_secs_f64()).contains(&seconds) {
                return Err(Refusal::Sleep);
            }
            Expression::Sleep(Duration::from_secs_f64(seconds))
        }
        b"REPEAT" => {
            let Token::Text(unit) = scanner.read() else {
                return Err(not_understood(scanner));
            };
            expect(scanner, b',')?;
            let Token::Number(count) = scanner.read() else {
                return Err(not_understood(scanner));
            };
            let count = String::from_utf8_lossy(count).parse().map_err(|_| Refusal::Repeat)?;
            Expression::Repeat { unit, count }
        }
        _ => return Err(not_understood(&at_name)),
    };
    expect(scanner, b')')?;
    Ok(expression)
}

fn show(scanner: &mut Scanner) -> Result<Statement, Refusal> {
    let Token::Word(what) = scanner.read() else {
        return Err(not_understood(scanner));
    };
    match what.to_ascii_uppercase().as_slice() {
        b"DATABASES" => Ok(Statement::Show { column: "Database", rows: &["demo"] }),
        b"TABLES" => Ok(Statement::Show { column: "Tables", rows: &[] }),
        b"WARNINGS" => Ok(Statement::Show { column: "Message", rows: &[] }),
        _ => Err(not_understood(scanner)),
    }
}

/// What a `SET` assigns to autocommit, if it does, reading up to the end of the statement.
fn assigned_autocommit(scanner: &mut Scanner) -> Option<bool> {
    let mut autocommit = None;
    loop {
        if matches!(scanner.peek(), Token::End | Token::Broken | Token::Symbol(b';')) {
            return autocommit;
        }
        let is_autocommit = match scanner.read() {
            Token::Word(word) => word.eq_ignore_ascii_case(b"autocommit"),
            Token::Variable(variable) => variable == "autocommit",
            _ => false,
        };
        if is_autocommit && scanner.take_symbol(b'=') {
            autocommit = match scanner.read() {
                Token::Number(value) => Some(value != b"0"),
                Token::Word(value) => Some(value.eq_ignore_ascii_case(b"ON")),
                _ => autocommit,
            };
        }
    }
}

/// An alias or a database: a word, or any of the quoted forms.
fn name(scanner: &mut Scanner) -> Result<String, Refusal> {
    match scanner.read() {
        Token::Word(word) => Ok(cut(word)),
        Token::Identifier(quoted) | Token::Text(quoted) => Ok(cut(&quoted)),
        _ => Err(not_understood(scanner)),
    }
}

fn expect(scanner: &mut Scanner, symbol: u8) -> Result<(), Refusal> {
    if scanner.take_symbol(symbol) {
        return Ok(());
    }
    scanner.read();
    Err(not_understood(scanner))
}

/// Semicolons may end the statement; another statement may not follow.
fn end(scanner: &mut Scanner) -> Result<(), Refusal> {
    while scanner.take_symbol(b';') {}
    match scanner.read() {
        Token::End => Ok(()),
        _ => Err(not_understood(scanner)),
    }
}

/// Quotes the text from the token that was read last.
fn not_understood(scanner: &Scanner) -> Refusal {
    const QUOTED: usize = 80;
    let rest = scanner.unread_tail();
    let quoted = &rest[..rest.len().min(QUOTED)];
    Refusal::NotUnderstood(String::from_utf8_lossy(quoted).into_owned())
}

/// At most [`MAX_NAME`] bytes of UTF-8.
fn cut(name: &[u8]) -> String {
    let mut name = String::from_utf8_lossy(&name[..name.len().min(MAX_NAME)]).into_owned();
    while name.len() > MAX_NAME {
        name.pop();
    }
    name
}
