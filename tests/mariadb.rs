//! Real clients and a real MariaDB, with the bridge between them.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::collections::HashSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mysql_async::prelude::*;
use mysql_async::{Conn, Error, Opts, SslOpts};
use tokio::task::JoinSet;
use tokio::time::timeout;

use support::bridge::Bridge;
use support::mariadb::MariaDb;
use support::process::{Process, installed, output, output_within, succeed};
use support::tcp::{Noise, connect, listener, nobody, read_to_the_end};
use support::{PATIENCE, full_or, runtime, skip, until};

#[test]
fn the_mysql_client_gets_its_answers_through_the_bridge() {
    let Some(db) = MariaDb::shared() else { return };
    let bridge = Bridge::to(db.address()).start();

    let sql = "SELECT 6 * 7, @@port; SELECT CONCAT(USER(), '/', DATABASE())";
    let answer = db.query(bridge.listen.port(), sql);

    assert_eq!(answer, format!("42\t{}\napp@127.0.0.1/test", db.port));
    bridge.has_accounted_for(1.0);
}

#[test]
fn mysql_async_queries_prepares_and_sees_server_errors_through_the_bridge() {
    let Some(db) = MariaDb::shared() else { return };
    let bridge = Bridge::to(db.address()).start();

    runtime().block_on(async {
        let mut conn = db.connect(bridge.listen.port()).await;
        let sum: Option<i64> = conn.exec_first("SELECT ? + ?", (40, 2)).await.unwrap();
        assert_eq!(sum, Some(42));
        let refusal = conn.query_drop("SELECT * FROM nowhere").await.unwrap_err();
        assert!(matches!(refusal, Error::Server(server) if server.code == 1146));
        let after: Option<String> = conn.query_first("SELECT 'still here'").await.unwrap();
        assert_eq!(after.as_deref(), Some("still here"));
        conn.disconnect().await.unwrap();
    });

    bridge.has_accounted_for(1.0);
}

#[test]
fn a_wrong_password_is_refused_in_the_servers_own_words() {
    let Some(db) = MariaDb::shared() else { return };
    let bridge = Bridge::to(db.address()).start();
    let refusal = |port| {
        let mut client = db.client(port);
        client.args(["--password=wrong", "--execute", "SELECT 1"]);
        let output = output(client);
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };

    let seen = refusal(bridge.listen.port());

    assert_eq!(seen, refusal(db.port));
    assert!(seen.contains("ERROR 1045"), "{seen}");
}

/// The certificate is for `localhost`; asked for 127.0.0.1, only its authority can be verified.
#[test]
fn the_mysql_client_verifies_the_servers_certificate_through_the_bridge() {
    let Some(db) = MariaDb::shared() else { return };
    let bridge = Bridge::to(db.address()).start();
    let cipher = |port, ca: &Path, more: &[&str]| {
        let mut client = db.client(port);
        client.arg(format!("--ssl-ca={}", ca.display())).args(more);
        client.args(["--execute", "SHOW STATUS LIKE 'Ssl_cipher'"]);
        let output = output(client);
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let (ours, strangers) = (&db.certificates.ca, &db.certificates.wrong_ca);
    let verify_ca = &[][..];
    let verify_identity = &["--ssl-verify-server-cert", "--host=localhost"][..];
    let another_identity = &["--ssl-verify-server-cert", "--host=127.0.0.1"][..];

    for level in [verify_ca, verify_identity] {
        let (succeeded, text) = cipher(bridge.listen.port(), ours, level);
        assert!(succeeded && text.contains("TLS_"), "{level:?}: {text}");
    }
    let cases = [(strangers, verify_ca), (strangers, verify_identity), (ours, another_identity)];
    for (ca, level) in cases {
        let (succeeded, text) = cipher(bridge.listen.port(), ca, level);
        assert!(!succeeded && text.contains("ERROR 2026"), "{level:?}: {text}");
        assert_eq!((succeeded, text), cipher(db.port, ca, level));
    }
}

#[test]
fn mysql_async_verifies_authority_and_identity_through_the_bridge() {
    let Some(db) = MariaDb::shared() else { return };
    let bridge = Bridge::to(db.address()).start();
    let verify = |ca: &Path, name: &'static str| {
        let ssl = SslOpts::default().with_root_certs(vec![ca.to_owned().into()]);
        ssl.with_disable_built_in_roots(true).with_danger_tls_hostname_override(Some(name))
    };
    let (ours, strangers) = (&db.certificates.ca, &db.certificates.wrong_ca);

    runtime().block_on(async {
        for port in [db.port, bridge.listen.port()] {
            let cipher = async |ssl: SslOpts| -> Result<String, Error> {
                let mut conn = Conn::new(Opts::from(db.opts(port).ssl_opts(ssl))).await?;
                let (_, cipher): (String, String) =
                    conn.query_first("SHOW STATUS LIKE 'Ssl_cipher'").await?.unwrap();
                Ok(cipher)
            };
            let accepted = cipher(verify(ours, "localhost")).await.unwrap();
            assert!(accepted.starts_with("TLS_"), "port {port}: {accepted}");
            for wrong in [verify(ours, "another.example"), verify(strangers, "localhost")] {
                let error = cipher(wrong).await.unwrap_err().to_string();
                assert!(error.contains("certificate"), "port {port}: {error}");
            }
        }
    });
}

#[test]
fn a_result_of_256_mib_has_the_checksum_it_has_directly() {
    let Some(db) = MariaDb::shared() else { return };
    let bridge = Bridge::to(db.address()).start();
    let rows = full_or(8192, 2048);
    let fetch = |port| {
        let mut client = db.client(port);
        let sql = format!("SELECT seq, REPEAT(MD5(seq), 1024) FROM seq_1_to_{rows}");
        client.args(["--quick", "--execute", &sql]);
        digest(client)
    };

    let (length, sum) = fetch(bridge.listen.port());

    assert!(length >= rows * 32 * 1024, "only {length} bytes");
    assert_eq!((length, sum), fetch(db.port));
}

#[test]
fn load_data_of_64_mib_stores_what_it_stores_directly() {
    let Some(db) = MariaDb::shared() else { return };
    let bridge = Bridge::to(db.address()).start();
    let file = rows_file(full_or(64, 16));
    let load = |port, table: &str| {
        db.query(
            port,
            &format!("CREATE TABLE {table} (id INT PRIMARY KEY, payload TEXT CHARACTER SET ascii)"),
        );
        let mut client = db.client(port);
        client.args(["--local-infile=1", "--execute"]);
        client
            .arg(format!("LOAD DATA LOCAL INFILE '{}' INTO TABLE {table}", file.path().display()));
        let output = output_within(2 * PATIENCE, client);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let check = db.query(db.port, &format!("CHECKSUM TABLE {table} EXTENDED"));
        let rows = db.query(db.port, &format!("SELECT COUNT(*) FROM {table}"));
        db.query(db.port, &format!("DROP TABLE {table}"));
        (check.split_whitespace().last().unwrap().to_owned(), rows)
    };

    let through = load(bridge.listen.port(), "loaded_through");

    assert_eq!(through.1, (full_or(64, 16) * 1024).to_string());
    assert_eq!(through, load(db.port, "loaded_directly"));
}

/// Quick form: 3 s against a stall timeout of 1 s. A pause is a zero window, not a stall.
#[test]
fn a_client_that_pauses_for_90_s_in_the_middle_of_a_result_gets_every_byte() {
    let Some(db) = MariaDb::shared() else { return };
    let bridge = impatient(&db);
    let pause = full_or(Duration::from_secs(90), Duration::from_secs(3));

    runtime().block_on(async {
        let mut conn = db.connect(bridge.listen.port()).await;
        let sql = "SELECT seq, REPEAT(MD5(seq), 1024) FROM seq_1_to_2048";
        let mut result = conn.query_iter(sql).await.unwrap();
        let mut rows = 0;
        while let Some(row) = result.next().await.unwrap() {
            rows += 1;
            let (seq, text): (u32, String) = mysql_async::from_row(row);
            assert_eq!(seq, rows);
            assert_eq!(text.len(), 32 * 1024);
            if rows == 100 {
                tokio::time::sleep(pause).await;
            }
        }
        assert_eq!(rows, 2048);
        drop(result);
        conn.disconnect().await.unwrap();
    });

    assert_eq!(bridge.close_record().text("reason"), "eof");
}

/// A row lock held by somebody else stops the server in the middle of the data.
#[test]
fn a_server_that_pauses_in_load_data_gets_every_byte() {
    let Some(db) = MariaDb::shared() else { return };
    let bridge = impatient(&db);
    let pause = full_or(Duration::from_secs(90), Duration::from_secs(3));
    let (megabytes, locked_row) = (24, 2000);
    let file = rows_file(megabytes);
    db.query(db.port, "CREATE TABLE paused (id INT PRIMARY KEY, payload TEXT CHARACTER SET ascii)");

    runtime().block_on(async {
        let mut holder = db.connect(db.port).await;
        holder.query_drop("START TRANSACTION").await.unwrap();
        holder
            .query_drop(format!("INSERT INTO paused VALUES ({locked_row}, 'mine')"))
            .await
            .unwrap();

        let mut client = db.client(bridge.listen.port());
        client.args(["--local-infile=1", "--execute"]);
        client.arg(format!("LOAD DATA LOCAL INFILE '{}' INTO TABLE paused", file.path().display()));
        let mut load = Process::spawn(client);
        let waiting = "SELECT COUNT(*) FROM information_schema.innodb_trx \
                       WHERE trx_state = 'LOCK WAIT' AND trx_query LIKE 'LOAD DATA%'";
        until("the server waits for the lock", || {
            // InnoDB shows a copy, and renews it only when nobody has looked for 100 ms.
            thread::sleep(Duration::from_millis(200));
            (db.query(db.port, waiting) == "1").then_some(())
        });
        tokio::time::sleep(pause).await;
        assert!(load.has_ended().is_none(), "the client did not wait for the server");
        holder.query_drop("ROLLBACK").await.unwrap();
        assert!(load.wait(PATIENCE).success());
        holder.disconnect().await.unwrap();
    });

    let rows = db.query(db.port, "SELECT COUNT(*), SUM(LENGTH(payload)) FROM paused");
    db.query(db.port, "DROP TABLE paused");
    assert_eq!(rows, format!("{}\t{}", megabytes * 1024, megabytes * 1024 * PAYLOAD));
    assert_eq!(bridge.close_record().text("reason"), "eof");
}

#[test]
fn two_thousand_sessions_are_open_at_once_and_each_gets_its_own_answer() {
    const SESSIONS: usize = 2000;
    let Some(db) = MariaDb::start(&["--max-connections=2500", "--back-log=2500"]) else {
        return;
    };
    let bridge = Bridge::to(db.address()).start();
    let before = bridge.fds();

    runtime().block_on(async {
        let opts = Opts::from(db.opts(bridge.listen.port()));
        let mut connecting = JoinSet::new();
        let mut open = Vec::new();
        for _ in 0..SESSIONS {
            let opts = opts.clone();
            connecting.spawn(async move {
                timeout(2 * PATIENCE, Conn::new(opts)).await.unwrap().unwrap()
            });
            // A hundred at a time: the server needs a moment for each.
            if connecting.len() == 100 {
                open.push(connecting.join_next().await.unwrap().unwrap());
            }
        }
        open.extend(connecting.join_all().await);
        assert_eq!(bridge.open_connections(), SESSIONS as f64);

        let mut ids = HashSet::new();
        for (number, conn) in open.iter_mut().enumerate() {
            let (id, echo): (u64, usize) =
                conn.exec_first("SELECT CONNECTION_ID(), ?", (number,)).await.unwrap().unwrap();
            assert_eq!(echo, number);
            ids.insert(id);
        }
        assert_eq!(ids.len(), SESSIONS, "two sessions share one upstream connection");
        for conn in open {
            conn.disconnect().await.unwrap();
        }
    });

    bridge.has_accounted_for(SESSIONS as f64);
    bridge.gives_back_its_fds(before, SESSIONS);
}

#[test]
fn a_server_killed_and_restarted_under_load_gives_errors_or_right_answers_and_never_a_hang() {
    const CLIENTS: usize = 16;
    let Some(db) = MariaDb::start(&[]).map(Arc::new) else {
        return;
    };
    let bridge = Bridge::to(db.address()).start();
    let opts = Opts::from(db.opts(bridge.listen.port()));

    runtime().block_on(async {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut clients = JoinSet::new();
        for seed in 0..CLIENTS {
            clients.spawn(client_under_load(opts.clone(), seed as u64, stopped.clone()));
        }
        let pause = full_or(Duration::from_secs(5), Duration::from_secs(1));
        tokio::time::sleep(pause).await;
        db.kill();
        tokio::time::sleep(pause).await;
        let server = Arc::clone(&db);
        tokio::task::spawn_blocking(move || server.restart()).await.unwrap();
        tokio::time::sleep(pause).await;
        stop.send(true).unwrap();
        let tallies = clients.join_all().await;
        assert!(
            tallies.iter().all(|tally| tally.right_after_errors > 0),
            "not every client came back: {tallies:?}"
        );
        assert!(
            tallies.iter().all(|tally| tally.errors > 0),
            "a client did not notice the kill: {tallies:?}"
        );
    });

    let total = bridge.metrics().sum("tidegate_connections_total", &[]);
    bridge.has_accounted_for(total);
    assert!(total >= CLIENTS as f64);
}

#[test]
fn sysbench_reads_and_writes_through_the_bridge_without_an_error() {
    let Some(db) = MariaDb::shared() else { return };
    if !installed("sysbench") {
        return skip("no `sysbench` here (Debian package sysbench)");
    }
    let bridge = Bridge::to(db.address()).start();
    let run = |step: &str| {
        let mut sysbench = db.sysbench(bridge.listen.port(), "oltp_read_write");
        sysbench.args(["--tables=4", "--table-size=5000", "--threads=4", "--rand-type=uniform"]);
        sysbench.args([&format!("--time={}", full_or(10, 2)), step]);
        succeed(sysbench)
    };

    run("prepare");
    let report = run("run");
    run("cleanup");

    let number = |name: &str| -> f64 {
        let line = report.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
        line.split_whitespace().nth(name.split(' ').count()).unwrap().parse().unwrap()
    };
    assert!(number("transactions:") > 10.0, "{report}");
    assert_eq!(number("reconnects:"), 0.0, "{report}");
    assert_eq!(number("ignored errors:"), 0.0, "{report}");
}

#[test]
fn a_gateway_that_refuses_is_named_to_the_client_with_the_cause() {
    let Some(db) = MariaDb::shared() else { return };
    let (gateway, _held) = nobody();
    let bridge = Bridge::to(gateway).start();

    for text in refusals(&db, bridge.listen) {
        assert!(text.contains("tidegate: "), "{text}");
        assert!(text.contains(&gateway.to_string()), "the gateway is not named: {text}");
        assert!(text.to_lowercase().contains("refused"), "the cause is not named: {text}");
    }

    let records = bridge.close_records(3);
    assert!(records.iter().all(|record| record.text("side") == "upstream"), "{records:?}");
}

#[test]
fn a_gateway_that_never_greets_is_given_up_when_the_dial_deadline_has_passed() {
    let Some(db) = MariaDb::shared() else { return };
    let silent = listener();
    let gateway = silent.local_addr().unwrap();
    let bridge = Bridge::from_file(&format!(
        "admin = \"127.0.0.1:0\"\n\
         [[listener]]\nbind = \"127.0.0.1:0\"\nupstream = \"db\"\n\
         [upstream.db]\ngateway = \"{gateway}\"\nconnect_timeout = \"300ms\"\ndial_deadline = \"1s\"\n",
    ))
    .start();
    let start = Instant::now();

    let texts = refusals(&db, bridge.listen);

    assert!(start.elapsed() < Duration::from_secs(10), "three refusals took {:?}", start.elapsed());
    for text in texts {
        assert!(text.contains("tidegate: ") && text.contains(&gateway.to_string()), "{text}");
    }
}

/// What is said about a dead gateway on the wire and by mysql_async; both must be 2003.
///
/// The mysql client has to fail as promptly. MySQL's shows the same; MariaDB's (Connector/C 3.3 and
/// later) takes a client's own error code in a server's packet for a malformed packet, 2027.
fn refusals(db: &MariaDb, bridge: SocketAddr) -> [String; 2] {
    let mut client = db.client(bridge.port());
    client.args(["--execute", "SELECT 1"]);
    let output = output(client);
    let shown = String::from_utf8(output.stderr).unwrap();
    let told = shown.contains("ERROR 2003 (HY000): tidegate: ");
    let confused = shown.contains("ERROR 2027 (HY000): Received malformed packet");
    assert!(!output.status.success() && (told || confused), "{shown}");

    let (packet, end) = read_to_the_end(&connect(bridge));
    assert!(end.is_ok(), "{end:?}");
    assert_eq!(packet[..3], ((packet.len() - 4) as u32).to_le_bytes()[..3], "the length");
    assert_eq!(packet[3..7], [0, 0xff, 0xd3, 0x07], "packet 0, ERR, 2003");
    let on_the_wire = String::from_utf8(packet[7..].to_vec()).unwrap();

    let opts = Opts::from(db.opts(bridge.port()));
    let attempt = runtime().block_on(async { timeout(PATIENCE, Conn::new(opts)).await.unwrap() });
    match attempt.unwrap_err() {
        Error::Server(error) if error.code == 2003 => [on_the_wire, error.message],
        error => panic!("not ERR 2003: {error}"),
    }
}

#[derive(Debug, Default)]
struct Tally {
    right: u32,
    errors: u32,
    right_after_errors: u32,
}

/// Connects, asks a few questions, leaves, and again. A wrong answer or silence is a failure.
async fn client_under_load(
    opts: Opts,
    seed: u64,
    stopped: tokio::sync::watch::Receiver<bool>,
) -> Tally {
    let mut noise = Noise::new(seed + 1);
    let mut tally = Tally::default();
    let patience = Duration::from_secs(15);
    while !*stopped.borrow() {
        let conn = timeout(patience, Conn::new(opts.clone())).await.expect("connecting hangs");
        let Ok(mut conn) = conn else {
            tally.errors += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        for _ in 0..20 {
            let number = noise.number() % 1_000_000;
            let sql = format!("SELECT {number} * 3, REPEAT('x', {})", number % 40_000);
            let answer = timeout(patience, conn.query_first::<(u64, String), _>(sql)).await;
            match answer.expect("a query hangs") {
                Ok(row) => {
                    let (product, text) = row.expect("one row");
                    assert_eq!((product, text.len() as u64), (number * 3, number % 40_000));
                    tally.right += 1;
                    tally.right_after_errors += u32::from(tally.errors > 0);
                }
                Err(_) => {
                    tally.errors += 1;
                    break;
                }
            }
        }
        let _ = timeout(patience, conn.disconnect()).await.expect("leaving hangs");
    }
    tally
}

/// A bridge that would take a pause for a stall if it could not tell the two apart.
fn impatient(db: &MariaDb) -> Bridge {
    let stall_timeout = full_or("30s", "1s");
    Bridge::from_file(&format!(
        "admin = \"127.0.0.1:0\"\nstall_timeout = \"{stall_timeout}\"\n\
         [[listener]]\nbind = \"127.0.0.1:0\"\nupstream = \"db\"\n\
         [upstream.db]\ngateway = \"{}\"\n",
        db.address()
    ))
    .start()
}

/// Length and checksum of what a command prints.
fn digest(mut command: Command) -> (usize, u64) {
    command.stdout(Stdio::piped());
    let mut process = Process::spawn(command);
    let mut stdout = process.child.stdout.take().unwrap();
    let mut hasher = DefaultHasher::new();
    let (mut length, mut buffer) = (0, vec![0; 1 << 20]);
    loop {
        // Always whole buffers: the checksum may depend on the cutting.
        let mut filled = 0;
        while filled < buffer.len() {
            match stdout.read(&mut buffer[filled..]).unwrap() {
                0 => break,
                more => filled += more,
            }
        }
        if filled == 0 {
            break;
        }
        hasher.write(&buffer[..filled]);
        length += filled;
    }
    assert!(process.wait(PATIENCE).success());
    (length, hasher.finish())
}

const PAYLOAD: usize = 1000;

/// A file for LOAD DATA: 1024 rows of about a KiB for each megabyte.
fn rows_file(megabytes: usize) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut noise = Noise::new(7);
    let mut text = std::io::BufWriter::new(File::create(file.path()).unwrap());
    for id in 0..megabytes * 1024 {
        let word = format!("{:016x}{:016x}{:08x}", noise.number(), noise.number(), id);
        writeln!(text, "{id}\t{}", word.repeat(PAYLOAD / word.len())).unwrap();
    }
    text.flush().unwrap();
    file.flush().unwrap();
    file
}
