//! What [`query`](super::query) understands, and what it refuses.

use std::time::Duration;

use proptest::prelude::*;

use super::query::{Expression, MAX_REPEAT, Refusal, Statement, parse};

/// The columns of a `SELECT`, as (name, expression).
fn columns(text: &str) -> Vec<(String, Expression)> {
    match parse(text.as_bytes()) {
        Ok(Statement::Select(select)) => {
            select.columns.into_iter().map(|column| (column.name, column.expression)).collect()
        }
        other => panic!("{text:?} became {other:?}"),
    }
}

fn refusal(text: &str) -> Refusal {
    match parse(text.as_bytes()) {
        Err(refusal) => refusal,
        Ok(statement) => panic!("{text:?} became {statement:?}"),
    }
}

fn integer(digits: &str) -> Expression {
    Expression::Integer(digits.to_owned())
}

#[test]
fn literals_of_every_kind_with_and_without_alias() {
    let text = r#"select 1, -2.50 AS price, 'it''s', "two\nlines" x, NULL `no thing` ;"#;
    assert_eq!(
        columns(text),
        [
            ("1".to_owned(), integer("1")),
            ("price".to_owned(), Expression::Decimal("-2.50".to_owned())),
            ("it's".to_owned(), Expression::Text(b"it's".to_vec())),
            ("x".to_owned(), Expression::Text(b"two\nlines".to_vec())),
            ("no thing".to_owned(), Expression::Null),
        ]
    );
}

#[test]
fn functions_are_named_as_they_are_written() {
    assert_eq!(
        columns("SELECT Version() , connection_id(), DATABASE(), repeat( 'ab', 3 ), SLEEP(.5)"),
        [
            ("Version()".to_owned(), Expression::Version),
            ("connection_id()".to_owned(), Expression::ConnectionId),
            ("DATABASE()".to_owned(), Expression::Database),
            ("repeat( 'ab', 3 )".to_owned(), Expression::Repeat { unit: b"ab".to_vec(), count: 3 }),
            ("SLEEP(.5)".to_owned(), Expression::Sleep(Duration::from_millis(500))),
        ]
    );
}

#[test]
fn variables_are_found_in_any_case_and_scope() {
    for text in ["@@HostName", "@@session.hostname", "@@GLOBAL.hostname"] {
        let expected = (text.to_owned(), Expression::Variable("hostname".to_owned()));
        assert_eq!(columns(&format!("SELECT {text}")), [expected]);
    }
    assert_eq!(refusal("SELECT @@no_such"), Refusal::UnknownVariable("no_such".to_owned()));
}

#[test]
fn comments_and_limits_are_understood() {
    let text = "/* a tool */ select @@version_comment -- why\n limit 1 # the end";
    assert_eq!(columns(text)[0].0, "@@version_comment");
    let Ok(Statement::Select(select)) = parse(b"SELECT 1 LIMIT 0") else { panic!("no select") };
    assert!(select.empty);
}

#[test]
fn statements_about_the_session() {
    let set = |autocommit| Ok(Statement::Set { autocommit });
    assert_eq!(parse(b"SET NAMES utf8mb4"), set(None));
    assert_eq!(parse(b"SET autocommit=0"), set(Some(false)));
    assert_eq!(parse(b"set sql_mode = 'x', @@session.AUTOCOMMIT = ON;"), set(Some(true)));
    assert_eq!(parse(b"USE `my db`"), Ok(Statement::Use("my db".to_owned())));
    assert_eq!(parse(b"START TRANSACTION READ ONLY"), Ok(Statement::Begin));
    assert_eq!(parse(b"rollback;"), Ok(Statement::End));
    let databases = Statement::Show { column: "Database", rows: &["demo"] };
    assert_eq!(parse(b"show databases"), Ok(databases));
}

#[test]
fn everything_else_is_refused_with_its_place() {
    for (text, near) in [
        ("SELECT * FROM t", "* FROM t"),
        ("SELECT 1 FROM t", "t"),
        ("SELECT 1; SELECT 2", "SELECT 2"),
        ("SELECT 'open", "'open"),
        ("SELECT 1e5", "1e5"),
        ("SELECT 1, NOW()", "NOW()"),
        ("SELECT name", "name"),
        ("SELECT VERSION(1)", "1)"),
        ("SET a = 1; DROP TABLE t", "DROP TABLE t"),
        ("SELECT /*! 1 */", "/*! 1 */"),
        ("SELECT 1 /* no end", "/* no end"),
        ("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (1)"),
        ("", ""),
    ] {
        assert_eq!(refusal(text), Refusal::NotUnderstood(near.to_owned()), "{text}");
    }
    assert_eq!(refusal("SELECT").code(), (1064, b"42000"));
}

#[test]
fn what_would_take_too_long_or_too_much_is_refused() {
    let within = format!("SELECT REPEAT('x', {MAX_REPEAT}), SLEEP(600)");
    assert_eq!(columns(&within).len(), 2);
    assert_eq!(refusal(&format!("SELECT 1, REPEAT('xy', {})", MAX_REPEAT)), Refusal::Repeat);
    assert_eq!(refusal("SELECT REPEAT('xy', 99999999999999999999)"), Refusal::Repeat);
    assert_eq!(refusal("SELECT REPEAT('x', 40000000), REPEAT('x', 40000000)"), Refusal::Repeat);
    assert_eq!(refusal("SELECT SLEEP(600.5)"), Refusal::Sleep);
    assert_eq!(refusal("SELECT SLEEP(-1)"), Refusal::Sleep);
    assert_eq!(refusal(&format!("SELECT {}1", "1,".repeat(4096))), Refusal::Columns);
}

#[test]
fn long_names_are_cut_at_a_character() {
    let columns = columns(&format!("SELECT 1 AS `a{}`", "é".repeat(300)));
    assert_eq!(columns[0].0.len(), 255);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(text: Vec<u8>) {
        let _ = parse(&text);
    }

    #[test]
    fn nothing_behind_a_verb_makes_it_panic(
        text in r#"(SELECT|SET|USE|SHOW) [-+@.,;'"`\\/*!# ()=x0-9a-z\PC]{0,40}"#
    ) {
        let _ = parse(text.as_bytes());
    }

    #[test]
    fn a_quoted_string_comes_back_as_it_was(text: Vec<u8>) {
        let mut statement = b"SELECT '".to_vec();
        for byte in &text {
            if matches!(byte, b'\'' | b'\\') {
                statement.push(b'\\');
            }
            statement.push(*byte);
        }
        statement.push(b'\'');
        let Ok(Statement::Select(select)) = parse(&statement) else {
            panic!("no select: {statement:?}");
        };
        prop_assert_eq!(&select.columns[0].expression, &Expression::Text(text));
    }
}
