//! mysql_async (Rust).

use std::fmt::Display;
use std::fs;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::time::Duration;

use mysql_async::prelude::{Query, Queryable, StatementLike, WithParams};
use mysql_async::{
    ChangeUserOpts, Column, Compression, Conn, Error, OptsBuilder, Params, Pool, PoolConstraints,
    PoolOpts, QueryResult, Result, Row, SslOpts, TxOpts, Value, WhiteListFsHandler,
};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use crate::support::runtime;

/// What the program is told.
#[derive(Clone)]
struct Place {
    port: u16,
    user: String,
    password: String,
    database: String,
    files: PathBuf,
    tls: bool,
}

/// Runs every section; the arguments are those of all client programs.
pub fn main(arguments: &[String]) -> ExitCode {
    let [port, user, password, database, files, tls] = arguments else {
        eprintln!("PORT USER PASSWORD DATABASE FILES TLS");
        return ExitCode::from(2);
    };
    let place = Place {
        port: port.parse().expect("a port"),
        user: user.clone(),
        password: password.clone(),
        database: database.clone(),
        files: files.into(),
        tls: tls == "tls",
    };
    runtime().block_on(every_section(&place));
    // Nobody closes what the last one holds.
    process::exit(0)
}

async fn every_section(place: &Place) {
    section("auth.right", auth_right(place)).await;
    section("auth.wrong_password", refused(place.opts().pass(Some("wrong")))).await;
    section("auth.unknown_user", refused(place.opts().user(Some("nobody")))).await;
    section("auth.unknown_database", refused(place.opts().db_name(Some("nowhere")))).await;
    section("query.text", query_text(place)).await;
    section("query.prepared", query_prepared(place)).await;
    section("query.error", query_error(place)).await;
    section("transaction", transaction(place)).await;
    section("results.statements", results_statements(place)).await;
    section("results.procedure", results_procedure(place)).await;
    section("big.upload", big_upload(place)).await;
    section("big.echo", big_echo(place)).await;
    section("infile", infile(place)).await;
    section("types.text", types_text(place)).await;
    section("types.prepared", types_prepared(place)).await;
    section("streaming", streaming(place)).await;
    section("compression", compression(place)).await;
    section("charset", charset(place)).await;
    section("kill.query", killed_while_busy(place, "KILL QUERY")).await;
    section("kill.busy", killed_while_busy(place, "KILL")).await;
    section("kill.idle", killed_while_idle(place)).await;
    section("timeout.server", timeout_server(place)).await;
    section("timeout.client", timeout_client(place)).await;
    section("reset_connection", reset_connection(place)).await;
    section("change_user", change_user(place)).await;
    section("attributes", attributes(place)).await;
    section("parallel", parallel(place)).await;
    section("pool", pool(place)).await;
    section("dropped", dropped(place)).await;
}

async fn section(name: &str, body: impl Future<Output = Result<()>>) {
    println!("== {name}");
    if let Err(error) = body.await {
        println!("failed: {error}");
    }
}

impl Place {
    fn opts(&self) -> OptsBuilder {
        let opts = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(self.port);
        let opts = opts.user(Some(&self.user)).pass(Some(&self.password));
        let tls = self.tls.then(|| SslOpts::default().with_danger_accept_invalid_certs(true));
        // Told of a local server, it would leave for the server's Unix socket.
        opts.prefer_socket(false).db_name(Some(&self.database)).ssl_opts(tls)
    }

    async fn connect(&self) -> Result<Conn> {
        Conn::new(self.opts()).await
    }

    fn big(&self) -> Vec<u8> {
        fs::read(self.files.join("big.txt")).expect("big.txt")
    }
}

async fn auth_right(place: &Place) -> Result<()> {
    let mut conn = place.connect().await?;
    show(&mut conn, "SELECT CURRENT_USER(), DATABASE(), VERSION()").await?;
    println!("version {:?}", conn.server_version());
    conn.disconnect().await
}

async fn refused(opts: OptsBuilder) -> Result<()> {
    match Conn::new(opts).await {
        Ok(_) => println!("failed: let in"),
        Err(error) => println!("{error}"),
    }
    Ok(())
}

async fn query_text(place: &Place) -> Result<()> {
    let mut conn = place.connect().await?;
    show(&mut conn, "SELECT 'a value to change' AS v, 1 AS one, NULL AS n, 3.50 AS d, '' AS e")
        .await?;
    show(&mut conn, "CREATE TABLE made (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20))").await?;
    show(&mut conn, "INSERT INTO made (v) VALUES ('one'), ('two'), (NULL)").await?;
    show(&mut conn, "UPDATE made SET v = 'more' WHERE id > 1").await?;
    show(&mut conn, "SELECT * FROM made ORDER BY id").await?;
    show(&mut conn, "SELECT * FROM made WHERE id > 100").await?;
    show(&mut conn, "SELECT CAST('12x' AS SIGNED) AS warned").await?;
    show(&mut conn, "SHOW WARNINGS").await?;
    conn.ping().await?;
    conn.disconnect().await
}

async fn query_prepared(place: &Place) -> Result<()> {
    let mut conn = place.connect().await?;
    let statement = conn.prep("SELECT id, name FROM letters WHERE id > ? AND name <> ?").await?;
    println!("{} parameters, {} columns", statement.num_params(), statement.num_columns());
    show_prepared(&mut conn, &statement, (2, "c")).await?;
    show_prepared(&mut conn, &statement, (6, "😀")).await?;
    show_prepared(&mut conn, &statement, (100, "")).await?;
    conn.close(statement).await?;
    show_prepared(
        &mut conn,
        "SELECT ? IS NULL AS n, ? AS d, ? AS b",
        (None::<i32>, 2.5, b"\0\xff"),
    )
    .await?;
    show_prepared(&mut conn, "INSERT INTO moves VALUES (?), (?)", (7, 8)).await?;
    conn.disconnect().await
}

async fn query_error(place: &Place) -> Result<()> {
    let mut conn = place.connect().await?;
    for wrong in [
        "SELEC 1",
        "SELECT * FROM missing",
        "SELECT missing FROM letters",
        "INSERT INTO letters VALUES (1, 'again')",
        "INSERT INTO letters VALUES (99, NULL)",
    ] {
        expect_error(show(&mut conn, wrong).await);
    }
    expect_error(show_prepared(&mut conn, "SELECT ? FROM missing", (1,)).await);
    show(&mut conn, "SELECT 'still there'").await?;
    conn.disconnect().await
}

async fn transaction(place: &Place) -> Result<()> {
    let mut conn = place.connect().await?;
    let mut other = place.connect().await?;
    let mut started = conn.start_transaction(TxOpts::default()).await?;
    started.query_drop("INSERT INTO moves VALUES (1)").await?;
    show(&mut other, "SELECT COUNT(*) FROM moves").await?;
    started.rollback().await?;
    show(&mut conn, "SELECT COUNT(*) FROM moves").await?;
    let mut started = conn.start_transaction(TxOpts::default()).await?;
    started.query_drop("INSERT INTO moves VALUES (1)").await?;
    started.query_drop("SAVEPOINT here").await?;
    started.query_drop("INSERT INTO moves VALUES (2)").await?;
    started.query_drop("ROLLBACK TO SAVEPOINT here").await?;
    started.commit().await?;
    show(&mut other, "SELECT * FROM moves").await?;
    other.disconnect().await?;
    conn.disconnect().await
}

async fn results_statements(place: &Place) -> Result<()> {
    let mut conn = place.connect().await?;
    let statements =
        "SELECT 1 AS a; INSERT INTO moves VALUES (5); SELECT id FROM moves; SELECT 1 FROM none";
    expect_error(show(&mut conn, statements).await);
    show(&mut conn, "SELECT 'still there'; DO 1").await?;
    conn.disconnect().await
}

async fn results_procedure(place: &Place) -> Result<()> {
    let mut conn = place.connect().await?;
    show(&mut conn, "CALL two_results(5)").await?;
    show_prepared(&mut conn, "CALL two_results(?)", (6,)).await?;
    expect_error(show(&mut conn, "CALL failing()").await);
    conn.disconnect().await
}

async fn big_upload(place: &Place) -> Result<()> {
    let mut conn = place.connect().await?;
    let big = place.big();
    println!("{}", digest(&big));
    show_prepared(&mut conn, "SELECT SHA2(?, 256) AS prepared", (&big,)).await?;
    let big = String::from_utf8(big).expect("digits");
    show(&mut conn, &format!("SELECT SHA2('{big}', 256) AS text_")).await?;
    conn.disconnect().await
}

async fn big_echo(place: &Place) -> Result<()> {
    let mut conn = place.connect().await?;
    let big = place.big();
    let echo: Option<Vec<u8>> = conn.exec_first("SELECT ? AS v", (&big,)).await?;
    println!("{}", digest(&echo.unwrap_or_default()));
    let echo = format!("SELECT '{}' AS v", String::from_utf8(big).expect("digits"));
    let echo: Option<Vec<u8>> = conn.query_first(echo).await?;
    println!("{}", digest(&echo.unwrap_or_default()));
    conn.disconnect().await
}

async fn infile(place: &Place) -> Result<()> {
    let file = place.files.join("rows.tsv");
    let handler = WhiteListFsHandler::new([file.clone()]);
    let mut conn = Conn::new(place.opts().local_infile_handler(Some(handler))).await?;
    let load = |file: &str| format!("LOAD DATA LOCAL INFILE '{file}' INTO TABLE loaded");
    show(&mut conn, &load(&file.display().to_string())).await?;
    show(&mut conn, "SELECT COUNT(*), SUM(id), MAX(name) FROM loaded").await?;
    expect_error(show(&mut conn, &load("/nowhere")).await);
    // The driver gives the connection up.
    expect_error(show(&mut conn, "SELECT 'still there'").await);
    Ok(())
}

async fn types_text(place: &Place) -> Result<()> {
    let mut conn = place.connect().await?;
    show(&mut conn, "SELECT * FROM types ORDER BY id").await?;
    // Not every server has these types.
    attempt(show(&mut conn, "SELECT * FROM places ORDER BY id").await);
    conn.disconnect().await
}

async fn types_prepared(place: &Place) -> Result<()> {
    let mut conn = place.connect().await?;
    show_prepared(&mut conn, "SELECT * FROM types ORDER BY id", ()).await?;
    attempt(show_prepared(&mut conn, "SELECT * FROM places ORDER BY id", ()).await);
    conn.disconnect().await
}

async fn streaming(place: &Place) -> Result<()> {
    let mut conn = place.connect().await?;
    let mut result = conn.query_iter("SELECT id, name FROM numbers ORDER BY id").await?;
    let (mut rows, mut hash) = (0, Sha256::new());
    while let Some(row) = result.next().await? {
        rows += 1;
        hash.update(line(&row));
    }
    drop(result);
    println!("{rows} rows {:x}", hash.finalize());
    let mut result = conn.query_iter("SELECT id, name FROM numbers ORDER BY id").await?;
    let first = result.next().await?;
    println!("left after {}", first.as_ref().map(line).unwrap_or_default());
    drop(result);
    show(&mut conn, "SELECT 'still there'").await?;
    conn.disconnect().await
}

async fn compression(place: &Place) -> Result<()> {
    let mut conn = Conn::new(place.opts().compression(Compression::default())).await?;
    show(&mut conn, "SHOW STATUS LIKE 'Compression'").await?;
    let value = &place.big()[..1_000_000];
    let echo: Option<Vec<u8>> = conn.exec_first("SELECT ? AS v", (value,)).await?;
    println!("{}", digest(&echo.unwrap_or_default()));
    let names: Vec<String> = conn.query("SELECT name FROM numbers ORDER BY id").await?;
    println!("{}", digest(names.concat().as_bytes()));
    conn.disconnect().await
}

async fn charset(place: &Place) -> Result<()> {
    let mut conn = place.connect().await?;
    let session = "SELECT @@character_set_client, @@character_set_results, @@collation_connection";
    show(&mut conn, session).await?;
    show_prepared(&mut conn, "SELECT HEX(?) AS h", ("ünï😀",)).await?;
    show(&mut conn, "SELECT name FROM letters ORDER BY name COLLATE utf8mb4_bin").await?;
    show(&mut conn, "SELECT name FROM letters WHERE name = 'b' COLLATE utf8mb4_general_ci").await?;
    conn.query_drop("SET NAMES latin1 COLLATE latin1_bin").await?;
    show(&mut conn, session).await?;
    show(&mut conn, "SELECT name FROM letters WHERE id IN (4, 5) ORDER BY id").await?;
    conn.disconnect().await
}

async fn killed_while_busy(place: &Place, kill: &str) -> Result<()> {
    let mut victim = place.connect().await?;
    let mut killer = place.connect().await?;
    let id = victim.id();
    let busy = tokio::spawn(async move {
        let said = show(&mut victim, "SELECT SLEEP(60) AS slept").await;
        (victim, said)
    });
    until(&mut killer, id, "info LIKE 'SELECT SLEEP%'", 1).await?;
    killer.query_drop(format!("{kill} {id}")).await?;
    let (mut victim, said) = busy.await.expect("no panic");
    attempt(said);
    attempt(show(&mut victim, "SELECT 'still there'").await);
    killer.disconnect().await
}

async fn killed_while_idle(place: &Place) -> Result<()> {
    let mut victim = place.connect().await?;
    let mut killer = place.connect().await?;
    killer.query_drop(format!("KILL {}", victim.id())).await?;
    until(&mut killer, victim.id(), "TRUE", 0).await?;
    expect_error(show(&mut victim, "SELECT 'still there'").await);
    expect_error(show(&mut killer, "KILL 4000000000").await);
    killer.disconnect().await
}

/// Waits until so many rows of the process list are those of a connection.
async fn until(conn: &mut Conn, id: u32, condition: &str, rows: u64) -> Result<()> {
    let list = "SELECT COUNT(*) FROM information_schema.processlist";
    loop {
        let seen: Option<u64> =
            conn.query_first(format!("{list} WHERE id = {id} AND {condition}")).await?;
        if seen == Some(rows) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn timeout_server(place: &Place) -> Result<()> {
    let mut conn = place.connect().await?;
    let version: Option<String> = conn.query_first("SELECT VERSION()").await?;
    let slow = if version.unwrap_or_default().contains("MariaDB") {
        "SET STATEMENT max_statement_time = 0.2 FOR SELECT SLEEP(60) AS slept"
    } else {
        "SELECT /*+ MAX_EXECUTION_TIME(200) */ SLEEP(60) AS slept"
    };
    attempt(show(&mut conn, slow).await);
    show(&mut conn, "SELECT 'still there'").await?;
    conn.disconnect().await
}

async fn timeout_client(place: &Place) -> Result<()> {
    let mut conn = place.connect().await?;
    let slow = conn.query_drop("SELECT SLEEP(60)");
    let slow = tokio::time::timeout(Duration::from_millis(200), slow).await;
    println!("{}", if slow.is_err() { "given up" } else { "failed: no sleep" });
    Ok(())
}

async fn reset_connection(place: &Place) -> Result<()> {
    let mut conn = place.connect().await?;
    conn.query_drop("SET @mine = 1").await?;
    conn.query_drop("CREATE TEMPORARY TABLE fleeting (id INT)").await?;
    println!("reset {}", conn.reset().await?);
    show(&mut conn, "SELECT @mine, DATABASE()").await?;
    expect_error(show(&mut conn, "SELECT * FROM fleeting").await);
    conn.disconnect().await
}

async fn change_user(place: &Place) -> Result<()> {
    let mut conn = place.connect().await?;
    conn.query_drop("SET @mine = 1").await?;
    let other = ChangeUserOpts::new().with_user(Some("other".into()));
    let other = other.with_pass(Some("flow".into())).with_db_name(None);
    conn.change_user(other.clone()).await?;
    show(&mut conn, "SELECT CURRENT_USER(), @mine").await?;
    expect_error(conn.change_user(other.with_pass(Some("ebb".into()))).await);
    attempt(show(&mut conn, "SELECT CURRENT_USER()").await);
    Ok(())
}

async fn attributes(place: &Place) -> Result<()> {
    let opts = place.opts().connect_attribute("compat", "ünï").connect_attribute("_pid", "1");
    let mut conn = Conn::new(opts).await?;
    show(
        &mut conn,
        "SELECT attr_name, attr_value FROM performance_schema.session_connect_attrs
         WHERE processlist_id = CONNECTION_ID() ORDER BY attr_name",
    )
    .await?;
    conn.disconnect().await
}

async fn parallel(place: &Place) -> Result<()> {
    let mut all = JoinSet::new();
    for number in 0..50_u64 {
        let opts = place.opts();
        all.spawn(async move {
            let mut conn = Conn::new(opts).await?;
            let sum = "SELECT CAST(SUM(id) + ? AS UNSIGNED) FROM numbers";
            let sum: Option<u64> = conn.exec_first(sum, (number,)).await?;
            conn.disconnect().await?;
            Ok::<_, Error>(sum.unwrap_or_default())
        });
    }
    let mut sums = all.join_all().await.into_iter().collect::<Result<Vec<u64>>>()?;
    sums.sort_unstable();
    println!("{} connections, {}", sums.len(), digest(format!("{sums:?}").as_bytes()));
    Ok(())
}

async fn dropped(place: &Place) -> Result<()> {
    let mut conn = ManuallyDrop::new(place.connect().await?);
    show(&mut conn, "START TRANSACTION").await?;
    show(&mut conn, "UPDATE letters SET name = 'held' WHERE id = 1").await?;
    show(&mut conn, "SELECT name FROM letters WHERE id = 1").await
}

async fn pool(place: &Place) -> Result<()> {
    let constraints = PoolConstraints::new(4, 4).expect("4 is 4");
    let pool_opts = PoolOpts::default().with_constraints(constraints);
    let pool = Pool::new(place.opts().pool_opts(pool_opts));
    let mut all = JoinSet::new();
    for number in 0..40_u64 {
        let pool = pool.clone();
        all.spawn(async move {
            let mut conn = pool.get_conn().await?;
            conn.query_drop("SET @mine = 1").await?;
            let sum: Option<u64> = conn.exec_first("SELECT ? + 1", (number,)).await?;
            Ok::<_, Error>((conn.id(), sum.unwrap_or_default()))
        });
    }
    let served = all.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    let sum: u64 = served.iter().map(|(_, number)| number).sum();
    let mut ids: Vec<_> = served.iter().map(|(id, _)| id).collect();
    ids.sort_unstable();
    ids.dedup();
    println!("sum {sum}, at most 4 connections: {}", ids.len() <= 4);
    let left: Option<Value> = pool.get_conn().await?.query_first("SELECT @mine").await?;
    println!("left over: {left:?}");
    pool.disconnect().await
}

/// Prints every result of a text query.
async fn show(conn: &mut Conn, query: &str) -> Result<()> {
    show_results(query.run(conn).await?).await
}

/// Prints every result of a prepared statement.
async fn show_prepared(
    conn: &mut Conn,
    statement: impl StatementLike,
    values: impl Into<Params> + Send,
) -> Result<()> {
    show_results(statement.with(values.into()).run(conn).await?).await
}

async fn show_results<P: mysql_async::prelude::Protocol>(
    mut results: QueryResult<'_, 'static, P>,
) -> Result<()> {
    while !results.is_empty() {
        let columns: Vec<String> = results.columns_ref().iter().map(column).collect();
        println!("| {}", columns.join(", "));
        let rows: Vec<Row> = results.collect().await?;
        rows.iter().for_each(|row| println!("{}", line(row)));
    }
    let (rows, id) = (results.affected_rows(), results.last_insert_id());
    println!("{rows} affected, id {id:?}, {} warnings, {:?}", results.warnings(), results.info());
    // Only this tells of an error in place of a further result.
    results.drop_result().await
}

fn column(column: &Column) -> String {
    let (kind, charset) = (column.column_type(), column.character_set());
    format!("{} {kind:?} {charset} {:?}", column.name_str(), column.flags())
}

fn line(row: &Row) -> String {
    let values = (0..row.len()).map(|index| match &row[index] {
        Value::Bytes(bytes) if bytes.len() > 300 => digest(bytes),
        Value::Bytes(bytes) => format!("'{}'", bytes.escape_ascii()),
        value => format!("{value:?}"),
    });
    values.collect::<Vec<_>>().join(" | ")
}

fn digest(bytes: &[u8]) -> String {
    format!("{} bytes {:x}", bytes.len(), Sha256::digest(bytes))
}

/// For what may fail.
fn attempt<T>(result: Result<T>) {
    if let Err(error) = result {
        println!("{error}");
    }
}

/// For what must fail.
fn expect_error<T>(result: std::result::Result<T, impl Display>) {
    match result {
        Ok(_) => println!("failed: no error"),
        Err(error) => println!("{error}"),
    }
}
