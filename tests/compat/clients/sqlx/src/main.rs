//! sqlx.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::process;
use std::time::Duration;

use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};
use sqlx::mysql::{MySqlArguments, MySqlConnectOptions, MySqlPoolOptions, MySqlRow, MySqlSslMode};
use sqlx::query::Query;
use sqlx::{
    AssertSqlSafe, Column, ConnectOptions, Connection, Either, Executor, MySql, MySqlConnection,
    Row, SqlSafeStr, Statement, TypeInfo, ValueRef,
};
use tokio::task::JoinSet;

type Outcome = Result<(), Box<dyn Error>>;

struct Place {
    options: MySqlConnectOptions,
    files: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [port, user, password, database, files, tls] = &arguments[..] else {
        panic!("PORT USER PASSWORD DATABASE FILES TLS");
    };
    let ssl_mode = if tls == "tls" { MySqlSslMode::Required } else { MySqlSslMode::Disabled };
    let options = MySqlConnectOptions::new().host("127.0.0.1").port(port.parse().expect("a port"));
    let options = options.username(user).password(password).database(database).ssl_mode(ssl_mode);
    let place = &Place { options: options.disable_statement_logging(), files: files.clone() };

    section("auth.right", auth_right(place)).await;
    section("auth.wrong_password", refused(place.options.clone().password("wrong"))).await;
    section("auth.unknown_user", refused(place.options.clone().username("nobody"))).await;
    section("auth.unknown_database", refused(place.options.clone().database("nowhere"))).await;
    section("query.text", query_text(place)).await;
    section("query.prepared", query_prepared(place)).await;
    section("query.error", query_error(place)).await;
    section("transaction", transaction(place)).await;
    section("results.statements", results_statements(place)).await;
    section("results.procedure", results_procedure(place)).await;
    section("big.upload", big_upload(place)).await;
    section("big.echo", big_echo(place)).await;
    section("infile", unsupported("no LOCAL INFILE")).await;
    section("types.text", types_text(place)).await;
    section("types.prepared", types_prepared(place)).await;
    section("streaming", streaming(place)).await;
    section("compression", unsupported("no compression")).await;
    section("charset", charset(place)).await;
    section("kill.query", killed_while_busy(place, "KILL QUERY")).await;
    section("kill.busy", killed_while_busy(place, "KILL")).await;
    section("kill.idle", killed_while_idle(place)).await;
    section("timeout.server", timeout_server(place)).await;
    section("timeout.client", timeout_client(place)).await;
    section("reset_connection", unsupported("no reset")).await;
    section("change_user", unsupported("no change of user")).await;
    section("attributes", unsupported("no attributes")).await;
    section("parallel", parallel(place)).await;
    section("pool", pool(place)).await;
    section("dropped", dropped(place)).await;
    // Nobody closes what the last one holds.
    process::exit(0)
}

async fn section(name: &str, body: impl Future<Output = Outcome>) {
    println!("== {name}");
    if let Err(error) = body.await {
        println!("failed: {error}");
    }
}

async fn unsupported(why: &str) -> Outcome {
    println!("unsupported: {why}");
    Ok(())
}

impl Place {
    async fn connect(&self) -> sqlx::Result<MySqlConnection> {
        MySqlConnection::connect_with(&self.options).await
    }

    fn big(&self) -> String {
        fs::read_to_string(format!("{}/big.txt", self.files)).expect("big.txt")
    }
}

async fn refused(options: MySqlConnectOptions) -> Outcome {
    match MySqlConnection::connect_with(&options).await {
        Ok(_) => println!("failed: let in"),
        Err(error) => println!("{error}"),
    }
    Ok(())
}

/// Prints every result of text statements.
async fn show(conn: &mut MySqlConnection, sql: &str) -> Outcome {
    let mut results = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_many(conn);
    while let Some(result) = results.try_next().await? {
        print(result);
    }
    Ok(())
}

/// Prints every result of a prepared statement.
async fn show_prepared(
    conn: &mut MySqlConnection,
    query: Query<'_, MySql, MySqlArguments>,
) -> Outcome {
    #[expect(deprecated, reason = "a procedure has several results")]
    let mut results = query.fetch_many(conn);
    while let Some(result) = results.try_next().await? {
        print(result);
    }
    Ok(())
}

fn print(result: Either<sqlx::mysql::MySqlQueryResult, MySqlRow>) {
    match result {
        Either::Left(done) => {
            println!("{} affected, id {}", done.rows_affected(), done.last_insert_id());
        }
        Either::Right(row) => println!("{}", line(&row)),
    }
}

fn line(row: &MySqlRow) -> String {
    let mut line = String::new();
    for column in row.columns() {
        let raw = row.try_get_raw(column.ordinal()).expect("a column that is there");
        let kind = raw.type_info().name().to_owned();
        // Whatever its type: the bytes as they came.
        let bytes: Option<Vec<u8>> = row.get_unchecked(column.ordinal());
        let value = match bytes {
            None => "NULL".to_owned(),
            Some(bytes) if bytes.len() > 300 => digest(&bytes),
            Some(bytes) => format!("'{}'", bytes.escape_ascii()),
        };
        write!(line, "{} {kind} {value} | ", column.name()).expect("memory");
    }
    line
}

fn digest(bytes: &[u8]) -> String {
    format!("{} bytes {:x}", bytes.len(), Sha256::digest(bytes))
}

/// For what may or must fail.
async fn attempt(body: impl Future<Output = Outcome>) {
    if let Err(error) = body.await {
        println!("{error}");
    }
}

async fn auth_right(place: &Place) -> Outcome {
    let mut conn = place.connect().await?;
    show(&mut conn, "SELECT CURRENT_USER(), DATABASE(), VERSION()").await?;
    Ok(conn.close().await?)
}

async fn query_text(place: &Place) -> Outcome {
    let mut conn = place.connect().await?;
    for sql in [
        "SELECT 1 AS one, 'two' AS two, NULL AS n, 3.50 AS d, '' AS e",
        "CREATE TABLE made (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20))",
        "INSERT INTO made (v) VALUES ('one'), ('two'), (NULL)",
        "UPDATE made SET v = 'more' WHERE id > 1",
        "SELECT * FROM made ORDER BY id",
        "SELECT * FROM made WHERE id > 100",
        "SELECT CAST('12x' AS SIGNED) AS warned",
        "SHOW WARNINGS",
    ] {
        show(&mut conn, sql).await?;
    }
    conn.ping().await?;
    Ok(conn.close().await?)
}

async fn query_prepared(place: &Place) -> Outcome {
    let mut conn = place.connect().await?;
    let sql = "SELECT id, name FROM letters WHERE id > ? AND name <> ?";
    let statement = conn.prepare(AssertSqlSafe(sql).into_sql_str()).await?;
    println!("{:?} parameters, {} columns", statement.parameters(), statement.columns().len());
    for (id, name) in [(2, "c"), (6, "😀"), (100, "")] {
        show_prepared(&mut conn, sqlx::query(sql).bind(id).bind(name)).await?;
    }
    let values = sqlx::query("SELECT ? IS NULL AS n, ? AS d, ? AS b");
    let values = values.bind(None::<i32>).bind(2.5).bind(&b"\0\xff"[..]);
    show_prepared(&mut conn, values).await?;
    show_prepared(&mut conn, sqlx::query("INSERT INTO moves VALUES (?), (?)").bind(7).bind(8))
        .await?;
    Ok(conn.close().await?)
}

async fn query_error(place: &Place) -> Outcome {
    let mut conn = place.connect().await?;
    for wrong in [
        "SELEC 1",
        "SELECT * FROM missing",
        "SELECT missing FROM letters",
        "INSERT INTO letters VALUES (1, 'again')",
        "INSERT INTO letters VALUES (99, NULL)",
    ] {
        attempt(show(&mut conn, wrong)).await;
    }
    attempt(show_prepared(&mut conn, sqlx::query("SELECT ? FROM missing").bind(1))).await;
    show(&mut conn, "SELECT 'still there'").await?;
    Ok(conn.close().await?)
}

async fn transaction(place: &Place) -> Outcome {
    let mut conn = place.connect().await?;
    let mut other = place.connect().await?;
    let mut started = conn.begin().await?;
    show(&mut started, "INSERT INTO moves VALUES (1)").await?;
    show(&mut other, "SELECT COUNT(*) FROM moves").await?;
    started.rollback().await?;
    show(&mut conn, "SELECT COUNT(*) FROM moves").await?;
    let mut started = conn.begin().await?;
    show(&mut started, "INSERT INTO moves VALUES (1)").await?;
    let mut inner = started.begin().await?;
    show(&mut inner, "INSERT INTO moves VALUES (2)").await?;
    inner.rollback().await?;
    started.commit().await?;
    show(&mut other, "SELECT * FROM moves").await?;
    other.close().await?;
    Ok(conn.close().await?)
}

async fn results_statements(place: &Place) -> Outcome {
    let mut conn = place.connect().await?;
    let statements =
        "SELECT 1 AS a; INSERT INTO moves VALUES (5); SELECT id FROM moves; SELECT 1 FROM none";
    attempt(show(&mut conn, statements)).await;
    show(&mut conn, "SELECT 'still there'; DO 1").await?;
    Ok(conn.close().await?)
}

async fn results_procedure(place: &Place) -> Outcome {
    let mut conn = place.connect().await?;
    show(&mut conn, "CALL two_results(5)").await?;
    show_prepared(&mut conn, sqlx::query("CALL two_results(?)").bind(6)).await?;
    attempt(show(&mut conn, "CALL failing()")).await;
    Ok(conn.close().await?)
}

async fn big_upload(place: &Place) -> Outcome {
    let mut conn = place.connect().await?;
    let big = place.big();
    println!("{}", digest(big.as_bytes()));
    show_prepared(&mut conn, sqlx::query("SELECT SHA2(?, 256) AS v").bind(&big)).await?;
    show(&mut conn, &format!("SELECT SHA2('{big}', 256) AS v")).await?;
    Ok(conn.close().await?)
}

async fn big_echo(place: &Place) -> Outcome {
    let mut conn = place.connect().await?;
    let big = place.big();
    show_prepared(&mut conn, sqlx::query("SELECT ? AS v").bind(&big)).await?;
    show(&mut conn, &format!("SELECT '{big}' AS v")).await?;
    Ok(conn.close().await?)
}

async fn types_text(place: &Place) -> Outcome {
    let mut conn = place.connect().await?;
    show(&mut conn, "SELECT * FROM types ORDER BY id").await?;
    // Not every server has these types.
    attempt(show(&mut conn, "SELECT * FROM places ORDER BY id")).await;
    Ok(conn.close().await?)
}

async fn types_prepared(place: &Place) -> Outcome {
    let mut conn = place.connect().await?;
    show_prepared(&mut conn, sqlx::query("SELECT * FROM types ORDER BY id")).await?;
    attempt(show_prepared(&mut conn, sqlx::query("SELECT * FROM places ORDER BY id"))).await;
    Ok(conn.close().await?)
}

async fn streaming(place: &Place) -> Outcome {
    let mut conn = place.connect().await?;
    let sql = "SELECT id, name FROM numbers ORDER BY id";
    let (mut rows, mut hash) = (0, Sha256::new());
    let mut stream = sqlx::query(sql).fetch(&mut conn);
    while let Some(row) = stream.try_next().await? {
        rows += 1;
        hash.update(line(&row));
    }
    drop(stream);
    println!("{rows} rows {:x}", hash.finalize());
    let mut stream = sqlx::query(sql).fetch(&mut conn);
    println!("left after {}", stream.try_next().await?.as_ref().map(line).unwrap_or_default());
    drop(stream);
    show(&mut conn, "SELECT 'still there'").await?;
    Ok(conn.close().await?)
}

async fn charset(place: &Place) -> Outcome {
    let session = "SELECT @@character_set_client, @@character_set_results, @@collation_connection";
    let mut conn = place.connect().await?;
    show(&mut conn, session).await?;
    show_prepared(&mut conn, sqlx::query("SELECT HEX(?) AS h").bind("ünï😀")).await?;
    show(&mut conn, "SELECT name FROM letters ORDER BY name COLLATE utf8mb4_bin").await?;
    show(&mut conn, "SELECT name FROM letters WHERE name = 'b' COLLATE utf8mb4_general_ci").await?;
    conn.close().await?;
    let options = place.options.clone().charset("latin1").collation("latin1_bin");
    let mut conn = MySqlConnection::connect_with(&options).await?;
    show(&mut conn, session).await?;
    show(&mut conn, "SELECT name FROM letters WHERE id IN (4, 5) ORDER BY id").await?;
    Ok(conn.close().await?)
}

async fn number(conn: &mut MySqlConnection, sql: String) -> sqlx::Result<u64> {
    let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(conn).await?;
    let text: Vec<u8> = row.get_unchecked(0);
    Ok(String::from_utf8_lossy(&text).parse().expect("a number"))
}

/// Waits until so many rows of the process list are those of a connection.
async fn until(
    conn: &mut MySqlConnection,
    id: u64,
    condition: &str,
    rows: u64,
) -> sqlx::Result<()> {
    let list = "SELECT COUNT(*) FROM information_schema.processlist";
    while number(conn, format!("{list} WHERE id = {id} AND {condition}")).await? != rows {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn killed_while_busy(place: &Place, kill: &str) -> Outcome {
    let mut victim = place.connect().await?;
    let mut killer = place.connect().await?;
    let id = number(&mut victim, "SELECT CONNECTION_ID()".into()).await?;
    let killing = async {
        until(&mut killer, id, "info LIKE 'SELECT SLEEP%'", 1).await?;
        sqlx::raw_sql(AssertSqlSafe(format!("{kill} {id}"))).execute(&mut killer).await
    };
    let (said, killed) = tokio::join!(show(&mut victim, "SELECT SLEEP(60) AS slept"), killing);
    killed?;
    attempt(async { said }).await;
    attempt(show(&mut victim, "SELECT 'still there'")).await;
    Ok(killer.close().await?)
}

async fn killed_while_idle(place: &Place) -> Outcome {
    let mut victim = place.connect().await?;
    let mut killer = place.connect().await?;
    let id = number(&mut victim, "SELECT CONNECTION_ID()".into()).await?;
    show(&mut killer, &format!("KILL {id}")).await?;
    until(&mut killer, id, "TRUE", 0).await?;
    attempt(show(&mut victim, "SELECT 'still there'")).await;
    attempt(show(&mut killer, "KILL 4000000000")).await;
    Ok(killer.close().await?)
}

async fn timeout_server(place: &Place) -> Outcome {
    let mut conn = place.connect().await?;
    let row = sqlx::raw_sql("SELECT VERSION()").fetch_one(&mut conn).await?;
    let slow = if row.get::<String, _>(0).contains("MariaDB") {
        "SET STATEMENT max_statement_time = 0.2 FOR SELECT SLEEP(60) AS slept"
    } else {
        "SELECT /*+ MAX_EXECUTION_TIME(200) */ SLEEP(60) AS slept"
    };
    attempt(show(&mut conn, slow)).await;
    show(&mut conn, "SELECT 'still there'").await?;
    Ok(conn.close().await?)
}

async fn timeout_client(place: &Place) -> Outcome {
    let mut conn = place.connect().await?;
    let slow = sqlx::raw_sql("SELECT SLEEP(60)").execute(&mut conn);
    let slow = tokio::time::timeout(Duration::from_millis(200), slow).await;
    println!("{}", if slow.is_err() { "given up" } else { "failed: no sleep" });
    Ok(())
}

async fn dropped(place: &Place) -> Outcome {
    let mut conn = ManuallyDrop::new(place.connect().await?);
    show(&mut conn, "START TRANSACTION").await?;
    show(&mut conn, "UPDATE letters SET name = 'held' WHERE id = 1").await?;
    Ok(show(&mut conn, "SELECT name FROM letters WHERE id = 1").await?)
}

async fn parallel(place: &Place) -> Outcome {
    let mut all = JoinSet::new();
    for index in 0..50 {
        let options = place.options.clone();
        all.spawn(async move {
            let mut conn = MySqlConnection::connect_with(&options).await?;
            let sum = number(&mut conn, format!("SELECT SUM(id) + {index} FROM numbers")).await?;
            conn.close().await?;
            Ok::<_, sqlx::Error>(sum)
        });
    }
    let mut sums = all.join_all().await.into_iter().collect::<Result<Vec<u64>, _>>()?;
    sums.sort_unstable();
    println!("{} connections, {}", sums.len(), digest(format!("{sums:?}").as_bytes()));
    Ok(())
}

async fn pool(place: &Place) -> Outcome {
    let pool = MySqlPoolOptions::new().max_connections(4).connect_with(place.options.clone());
    let pool = pool.await?;
    let mut all = JoinSet::new();
    for index in 0..40 {
        let pool = pool.clone();
        all.spawn(async move {
            let mut conn = pool.acquire().await?;
            let sum = number(&mut conn, format!("SELECT {index} + 1")).await?;
            Ok::<_, sqlx::Error>((number(&mut conn, "SELECT CONNECTION_ID()".into()).await?, sum))
        });
    }
    let served = all.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let sum: u64 = served.iter().map(|(_, number)| number).sum();
    let mut ids: Vec<_> = served.iter().map(|(id, _)| id).collect();
    ids.sort_unstable();
    ids.dedup();
    println!("sum {sum}, at most 4 connections: {}", ids.len() <= 4);
    pool.close().await;
    Ok(())
}
