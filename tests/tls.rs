//! TLS that ends at the bridge, on either side or both, with a real MariaDB and with servers and
//! clients that do it wrong.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::thread;

use mysql_async::prelude::*;
use mysql_async::{Conn, Opts, SslOpts};
use rustix::process::Signal;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};

use support::bridge::Bridge;
use support::mariadb::MariaDb;
use support::mysql::{self, OK, read_packet, server};
use support::namespace::Namespace;
use support::process::{output, succeed};
use support::tcp::{Noise, accept, connect, listener, read_to_the_end, serve};
use support::tls::{
    Authority, Valid, client, client_config, login, serve_tls, shake_hands, ssl_request,
};
use support::{PATIENCE, full_or, runtime, until, until_it};
use tidegate::mysql::packet::{HEADER_LEN, frame};

const NAME: &str = "bridge.test";
/// Of a server that does not let somebody in.
const DENIED: &[u8] = b"\xff\x15\x04#28000Access denied";

// Real clients and servers.

#[test]
fn a_real_client_logs_in_whatever_each_side_speaks() {
    let Some(db) = MariaDb::shared() else { return };
    let authority = Authority::new();
    let pair = authority.sign(NAME, Valid::Now);
    let trust = format!("tls_ca = \"{}\"\n", db.certificates.ca.display());
    let localhost = "tls_server_name = \"localhost\"\n";
    let upstreams = [
        "upstream_tls = \"off\"\n".to_owned(),
        "upstream_tls = \"required\"\n".to_owned(),
        format!("upstream_tls = \"verify-ca\"\n{trust}"),
        format!("upstream_tls = \"verify-identity\"\n{trust}{localhost}"),
    ];
    for (number, upstream) in upstreams.iter().enumerate() {
        for clients in ["off", "optional", "required"] {
            let keys = if clients == "off" { String::new() } else { pair.listener(clients) };
            let bridge = bridge(&keys, db.address(), upstream).start();
            let spoken = match clients {
                "off" => &[false][..],
                "optional" => &[false, true],
                _ => &[true],
            };
            for with_tls in spoken {
                let mut client = db.client(bridge.listen.port());
                match with_tls {
                    true => client.arg(format!("--ssl-ca={}", authority.ca.display())),
                    false => client.arg("--skip-ssl"),
                };
                let sql = "SELECT VARIABLE_VALUE <> '' FROM information_schema.SESSION_STATUS \
                           WHERE VARIABLE_NAME = 'Ssl_cipher'; SELECT 6 * 7";
                client.args(["--execute", sql]);
                let case = format!("client {clients}, {with_tls}, upstream {upstream}");
                assert_eq!(succeed(client), format!("{}\n42\n", u8::from(number > 0)), "{case}");
            }
            bridge.has_accounted_for(spoken.len() as f64);
        }
    }
}

#[test]
fn what_real_clients_do_goes_through_tls_on_one_side() {
    let Some(db) = MariaDb::shared() else { return };
    let authority = Authority::new();
    let keys = authority.sign(NAME, Valid::Now).listener("optional");
    let root = format!("--ssl-ca={}", authority.ca.display());
    let data = authority.ca.with_file_name("data.txt");
    fs::write(&data, "1\n2\n3\n").unwrap();
    let load = format!(
        "CREATE TEMPORARY TABLE t (n INT); LOAD DATA LOCAL INFILE '{}' INTO TABLE t; \
         SELECT SUM(n) FROM t",
        data.display()
    );
    for (upstream, flag) in [("off", root.as_str()), ("required", "--skip-ssl")] {
        let bridge = bridge(&keys, db.address(), &format!("upstream_tls = \"{upstream}\"")).start();
        let run = |args: &[&str]| {
            let mut client = db.client(bridge.listen.port());
            client.arg(flag).args(args);
            output(client)
        };
        let said = |args: &[&str]| {
            let output = run(args);
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{error}");
            String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
        };
        assert_eq!(said(&["--local-infile=1", "--execute", &load]), "6");
        assert_eq!(
            said(&["--compress", "--execute", "SELECT LENGTH(REPEAT('x', 1e6))"]),
            "1000000"
        );
        let large = said(&["--quick", "--execute", "SELECT REPEAT('x', 16e6)"]);
        assert_eq!(large.len(), 16_000_000);
        let denied = run(&["--password=wrong", "--execute", "SELECT 1"]);
        let error = String::from_utf8_lossy(&denied.stderr).into_owned();
        assert!(error.contains("ERROR 1045"), "{error}");
        bridge.has_accounted_for(4.0);
        let bytes = |path| bridge.metrics().sum("tidegate_bytes_total", &[("path", path)]);
        assert!(bytes("tls") > 16e6 && bytes("copy") + bytes("splice") == 0.0);
    }
}

#[test]
fn a_driver_that_verifies_everything_is_served_in_front_of_a_plain_server() {
    let Some(db) = MariaDb::start(&["--skip-ssl"]) else { return };
    let authority = Authority::new();
    let keys = authority.sign(NAME, Valid::Now).listener("required");
    let bridge = bridge(&keys, db.address(), "upstream_tls = \"off\"").start();
    let ssl = trusting(&authority);
    runtime().block_on(async {
        let opts = Opts::from(db.opts(bridge.listen.port()).ssl_opts(ssl));
        let mut conn = Conn::new(opts).await.unwrap();
        let sum: Option<i64> = conn.exec_first("SELECT ? + ?", (40, 2)).await.unwrap();
        assert_eq!(sum, Some(42));
        conn.disconnect().await.unwrap();
    });
}

#[test]
fn ed25519_and_a_change_of_user_cross_tls_on_one_side() {
    let Some(db) = MariaDb::start(&["--plugin-load-add=auth_ed25519"]) else { return };
    db.query(db.port, "CREATE USER ed IDENTIFIED VIA ed25519 USING PASSWORD('e')");
    let authority = Authority::new();
    let keys = authority.sign(NAME, Valid::Now).listener("optional");
    let root = format!("--ssl-ca={}", authority.ca.display());
    for (upstream, flag) in [("off", root.as_str()), ("required", "--skip-ssl")] {
        let bridge = bridge(&keys, db.address(), &format!("upstream_tls = \"{upstream}\"")).start();
        let mut client = db.client(bridge.listen.port());
        client.args([flag, "--user=ed", "--password=e", "--database=information_schema"]);
        client.args(["--execute", "SELECT CURRENT_USER()"]);
        assert_eq!(succeed(client), "ed@%\n");
        runtime().block_on(async {
            let mut opts = db.opts(bridge.listen.port());
            if upstream == "off" {
                opts = opts.ssl_opts(trusting(&authority));
            }
            let mut conn = Conn::new(Opts::from(opts)).await.unwrap();
            let app = mysql_async::ChangeUserOpts::new()
                .with_user(Some("app".into()))
                .with_pass(Some(support::mariadb::PASSWORD.into()))
                .with_db_name(Some("test".into()));
            conn.change_user(app).await.unwrap();
            let user: Option<String> = conn.query_first("SELECT CURRENT_USER()").await.unwrap();
            assert_eq!(user.as_deref(), Some("app@%"));
            conn.disconnect().await.unwrap();
        });
    }
}

#[test]
fn the_next_connection_resumes_the_tls_of_the_last() {
    let authority = Authority::new();
    let pair = authority.sign(NAME, Valid::Now);
    // Towards the client.
    let bridge =
        bridge(&pair.listener("required"), server(<[u8]>::to_vec), "upstream_tls = \"off\"");
    let bridge = bridge.start();
    let config = client_config(&authority);
    let kinds: Vec<_> = (0..2).map(|_| visit(&config, bridge.listen)).collect();
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
    // Towards the server.
    let (shaken, kinds) = mpsc::channel();
    let shown = pair.server();
    let upstream = serve(&listener(), move |stream| {
        let mut tls = serve_tls(stream, &shown).unwrap();
        shaken.send(tls.conn.handshake_kind().unwrap()).unwrap();
        read_packet(&mut tls);
        tls.write_all(&frame(3, OK)).unwrap();
        drop(tls.read(&mut [0]));
    });
    let bridge = self::bridge("", upstream, "upstream_tls = \"required\"").start();
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut client = connect(bridge.listen);
        read_packet(&client).unwrap();
        client.write_all(&mysql::login()).unwrap();
        assert_eq!(read_packet(&client).unwrap(), OK);
        assert_eq!(kinds.recv_timeout(PATIENCE).unwrap(), expected);
    }
}

/// A log-in and a query; how TLS was begun.
fn visit(config: &Arc<ClientConfig>, bridge: SocketAddr) -> HandshakeKind {
    let mut stream = connect(bridge);
    read_packet(&stream).unwrap();
    stream.write_all(&ssl_request()).unwrap();
    let name = NAME.try_into().unwrap();
    let tls = ClientConnection::new(config.clone(), name).unwrap();
    let mut tls = shake_hands(tls, stream).unwrap();
    tls.write_all(&login()).unwrap();
    assert_eq!(read_packet(&mut tls).unwrap(), OK);
    tls.conn.handshake_kind().unwrap()
}

#[test]
fn a_warm_connection_is_made_secure_when_its_client_comes() {
    let Some(db) = MariaDb::shared() else { return };
    let authority = Authority::new();
    let keys = authority.sign(NAME, Valid::Now).listener("required") + "pool = \"warm\"\n";
    let more = "upstream_tls = \"required\"\nwarm_min = 2";
    let bridge = bridge(&keys, db.address(), more).start();
    let idle = [("state", "idle")];
    until_it(
        "two are held",
        || bridge.metrics().sum("tidegate_pool_connections", &idle),
        |held| *held == 2.0,
    );
    let mut client = db.client(bridge.listen.port());
    client.arg(format!("--ssl-ca={}", authority.ca.display())).args(["--execute", "SELECT 42"]);
    assert_eq!(succeed(client), "42\n");
    assert_eq!(bridge.close_record().text("pool"), "hit");
}

// What clients are told.

#[test]
fn a_client_without_tls_hears_why_it_is_turned_away() {
    let Some(db) = MariaDb::shared() else { return };
    let authority = Authority::new();
    let keys = authority.sign(NAME, Valid::Now).listener("required");
    let bridge = bridge(&keys, db.address(), "upstream_tls = \"off\"").start();
    let error = refused(&db, bridge.listen.port());
    assert!(error.contains("ERROR 2026 (HY000): tidegate: connections without TLS"), "{error}");
    let record = bridge.close_record();
    assert_eq!((record.text("side"), record.text("reason")), ("client", "tls"));
}

#[test]
fn a_server_that_cannot_be_trusted_is_told_of_in_words() {
    let Some(db) = MariaDb::shared() else { return };
    let ca = |path: &std::path::Path| format!("tls_ca = \"{}\"\n", path.display());
    let (ours, strangers) = (ca(&db.certificates.ca), ca(&db.certificates.wrong_ca));
    let cases = [
        (format!("upstream_tls = \"verify-ca\"\n{strangers}"), "signed by nobody who is trusted"),
        (format!("upstream_tls = \"verify-identity\"\n{ours}"), "is for another name"),
    ];
    for (upstream, words) in cases {
        let bridge = bridge("", db.address(), &upstream).start();
        let error = refused(&db, bridge.listen.port());
        assert!(error.contains("ERROR 2026 (HY000): tidegate: TLS with"), "{error}");
        assert!(error.contains(words), "{error}");
        let record = bridge.close_record();
        assert_eq!((record.text("side"), record.text("reason")), ("upstream", "tls"));
    }
}

#[test]
fn a_servers_certificate_that_is_no_good_is_told_of_in_words() {
    let authority = Authority::new();
    let trust = format!(
        "upstream_tls = \"verify-identity\"\ntls_server_name = \"{NAME}\"\ntls_ca = \"{}\"\n",
        authority.ca.display()
    );
    let cases = [
        (authority.sign(NAME, Valid::NoMore), Some("has expired")),
        (authority.sign(NAME, Valid::NotYet), Some("is not valid yet")),
        (authority.sign_through_another(NAME, false), Some("signed by nobody who is trusted")),
        (authority.sign_through_another(NAME, true), None),
        (authority.sign("another.test", Valid::Now), Some("is for another name")),
    ];
    for (pair, words) in cases {
        let shown = pair.server();
        let (by_server, told) = mpsc::channel();
        let server = serve(&listener(), move |stream| {
            let mut tls = serve_tls(stream, &shown).expect("the handshake is not interrupted");
            let login = read_packet(&mut tls).unwrap();
            let is_nobodys = login[32..].starts_with(b"tidegate-took-leave\0\0");
            tls.write_all(&frame(3, if is_nobodys { DENIED } else { OK })).unwrap();
            let mut rest = Vec::new();
            let _ = tls.read_to_end(&mut rest);
            by_server.send((login, rest)).unwrap();
        });
        let bridge = bridge("", server, &trust).start();
        let mut client = connect(bridge.listen);
        assert_eq!(read_packet(&client).unwrap()[22] & 0x08, 0, "TLS is not offered");
        client.write_all(&mysql::login()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let (heard, _) = read_to_the_end(&client);
        let heard = String::from_utf8_lossy(&heard).into_owned();
        let (login, rest) = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(rest, b"", "{words:?}");
        match words {
            Some(words) => {
                assert!(heard.contains(words) && heard.contains("HY000"), "{heard}");
                // A log-in of nobody, and not a word of the client's.
                assert!(login[32..].starts_with(b"tidegate-took-leave\0\0"), "{login:?}");
            }
            None => {
                assert_eq!(heard.as_bytes(), frame(2, OK));
                assert!(login[32..].starts_with(b"u\0\0"), "{login:?}");
            }
        }
    }
}

#[test]
fn a_server_without_the_tls_that_is_wanted_is_told_of_before_the_log_in() {
    let plain = server(|_| OK.to_vec());
    let bridge = bridge("", plain, "upstream_tls = \"required\"").start();
    let (heard, _) = read_to_the_end(&connect(bridge.listen));
    let text = String::from_utf8_lossy(&heard);
    assert!(text.contains("offers no TLS, and upstream_tls wants it"), "{text}");
    // ERR in the place of the greeting: no SQLSTATE.
    assert_eq!(heard[..7], [heard.len() as u8 - 4, 0, 0, 0, 0xff, 0xea, 0x07]);
}

#[test]
fn a_server_of_old_tls_is_told_of() {
    // What a server says that has TLS 1.1 at the most: the alert protocol_version.
    let server = serve(&listener(), |mut stream| {
        stream.write_all(&mysql::greeting()).unwrap();
        read_packet(&mut stream);
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).unwrap();
        let mut rest = vec![0; usize::from(hello[4]) + 256 * usize::from(hello[3])];
        stream.read_exact(&mut rest).unwrap();
        stream.write_all(&[21, 3, 2, 0, 2, 2, 70]).unwrap();
        drop(read_to_the_end(&stream));
    });
    let bridge = bridge("", server, "upstream_tls = \"required\"").start();
    let mut client = connect(bridge.listen);
    read_packet(&client).unwrap();
    client.write_all(&mysql::login()).unwrap();
    let heard = String::from_utf8_lossy(&read_to_the_end(&client).0).into_owned();
    assert!(heard.contains("speaks neither TLS 1.2 nor TLS 1.3"), "{heard}");
}

// Clients that do it in their own way.

#[test]
fn a_hello_that_comes_with_the_request_and_records_of_one_byte_are_understood() {
    let (authority, bridge) = in_front_of_a_plain_server();
    let mut tls = client(&authority, NAME);
    let mut stream = connect(bridge.listen);
    assert_eq!(read_packet(&stream).unwrap()[22] & 0x08, 0x08, "TLS is offered");
    let mut first = ssl_request();
    tls.write_tls(&mut first).unwrap();
    stream.write_all(&first).unwrap();
    let mut tls = shake_hands(tls, stream).unwrap();
    for byte in login() {
        tls.write_all(&[byte]).unwrap();
        tls.flush().unwrap();
    }
    assert_eq!(read_packet(&mut tls).unwrap(), OK);
    for byte in frame(0, b"\x03SELECT 1") {
        tls.write_all(&[byte]).unwrap();
        tls.flush().unwrap();
    }
    assert_eq!(read_packet(&mut tls).unwrap(), b"\x03SELECT 1");
}

#[test]
fn a_handshake_that_comes_byte_by_byte_is_understood() {
    let (authority, bridge) = in_front_of_a_plain_server();
    let mut tls = client(&authority, NAME);
    let mut stream = connect(bridge.listen);
    stream.set_nodelay(true).unwrap();
    read_packet(&stream).unwrap();
    let mut first = ssl_request();
    tls.write_tls(&mut first).unwrap();
    for byte in first {
        stream.write_all(&[byte]).unwrap();
    }
    let mut tls = shake_hands(tls, stream).unwrap();
    tls.write_all(&login()).unwrap();
    assert_eq!(read_packet(&mut tls).unwrap(), OK);
}

#[test]
fn plain_text_behind_a_request_for_tls_is_not_taken_for_the_clients() {
    let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let said = heard.clone();
    let plain = server(move |command| {
        said.lock().unwrap().push(command.to_vec());
        OK.to_vec()
    });
    let (authority, bridge) = in_front_of(plain);
    let mut tls = client(&authority, NAME);
    let mut stream = connect(bridge.listen);
    read_packet(&stream).unwrap();
    let injected = [ssl_request(), mysql::login(), frame(0, b"\x03DROP TABLE t")].concat();
    stream.write_all(&injected).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    let _ = stream.write_all(&hello);
    let (heard_by_client, _) = read_to_the_end(&stream);
    // An alert at the most.
    assert!(heard_by_client.is_empty() || heard_by_client[0] == 21, "{heard_by_client:?}");
    let record = bridge.close_record();
    assert_eq!((record.text("side"), record.text("reason")), ("client", "tls"));
    assert!(record.text("error").contains("is not TLS"), "{}", record.text("error"));
    assert!(heard.lock().unwrap().is_empty(), "nothing of it reached the server");
}

#[test]
fn what_is_added_to_a_greeting_outside_tls_keeps_no_log_in_out_of_it() {
    // A whole packet, and the beginning of one, as somebody on the way would add it.
    let clear = frame(2, b"\xfemysql_clear_password\0");
    for more in [clear.clone(), clear[..6].to_vec()] {
        let (heard, by_server) = mpsc::channel();
        let upstream = serve(&listener(), move |mut stream| {
            stream.write_all(&[mysql::greeting(), more.clone()].concat()).unwrap();
            heard.send(read_to_the_end(&stream).0).unwrap();
        });
        let bridge = bridge("", upstream, "upstream_tls = \"required\"").start();
        let mut client = connect(bridge.listen);
        read_packet(&client).unwrap();
        let _ = client.write_all(&mysql::login());
        let told = String::from_utf8_lossy(&read_to_the_end(&client).0).into_owned();
        assert!(!told.contains("mysql_clear_password"), "{told}");
        let heard = by_server.recv_timeout(PATIENCE).unwrap();
        let method = b"mysql_native_password";
        assert!(!heard.windows(method.len()).any(|part| part == method), "{heard:?}");
        assert_eq!(bridge.close_record().text("side"), "upstream");
    }
}

#[test]
fn a_client_that_asks_for_tls_that_was_not_offered_is_closed() {
    let plain = server(|_| OK.to_vec());
    let bridge = bridge("", plain, "upstream_tls = \"off\"").start();
    let mut stream = connect(bridge.listen);
    assert_eq!(read_packet(&stream).unwrap()[22] & 0x08, 0);
    stream.write_all(&ssl_request()).unwrap();
    assert_eq!(read_to_the_end(&stream).0, b"");
    let record = bridge.close_record();
    assert_eq!((record.text("side"), record.text("reason")), ("client", "protocol"));
}

#[test]
fn ends_are_passed_on_one_side_at_a_time() {
    // The client has said all, and still hears the rest.
    let (authority, bridge) = in_front_of(serve(&listener(), |mut stream| {
        stream.write_all(&mysql::greeting()).unwrap();
        read_packet(&mut stream).unwrap();
        stream.write_all(&frame(2, OK)).unwrap();
        let (asked, _) = read_to_the_end(&stream);
        stream.write_all(&Noise::new(1).bytes(asked.len() * 1000)).unwrap();
    }));
    let mut tls = logged_in(&authority, bridge.listen);
    tls.write_all(&[7; 5000]).unwrap();
    tls.conn.send_close_notify();
    tls.flush().unwrap();
    tls.sock.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    // The server does not speak TLS, so nobody has ended it.
    let end = tls.read_to_end(&mut heard).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::UnexpectedEof);
    assert!(heard == Noise::new(1).bytes(5_000_000), "{} bytes", heard.len());
    bridge.has_accounted_for(1.0);
}

#[test]
fn an_end_of_tls_is_passed_on_as_one() {
    let authority = Authority::new();
    let pair = authority.sign(NAME, Valid::Now);
    let (heard, end) = mpsc::channel();
    let shown = pair.server();
    let upstream = serve(&listener(), move |stream| {
        let mut tls = serve_tls(stream, &shown).unwrap();
        read_packet(&mut tls);
        tls.write_all(&frame(3, OK)).unwrap();
        heard.send(tls.read_to_end(&mut Vec::new()).is_ok()).unwrap();
        tls.conn.send_close_notify();
        tls.flush().unwrap();
    });
    let keys = pair.listener("required");
    let bridge = bridge(&keys, upstream, "upstream_tls = \"required\"").start();
    for says_all in [true, false] {
        let mut tls = logged_in(&authority, bridge.listen);
        if says_all {
            tls.conn.send_close_notify();
            tls.flush().unwrap();
        }
        tls.sock.shutdown(Shutdown::Write).unwrap();
        assert_eq!(end.recv_timeout(PATIENCE).unwrap(), says_all);
        assert_eq!(tls.read_to_end(&mut Vec::new()).unwrap(), 0, "the server has ended it");
    }
}

#[test]
fn a_side_that_is_reset_resets_the_other_after_what_was_said() {
    let (authority, bridge) = in_front_of(serve(&listener(), |mut stream| {
        stream.write_all(&mysql::greeting()).unwrap();
        read_packet(&mut stream).unwrap();
        stream.write_all(&frame(2, OK)).unwrap();
        read_packet(&mut stream).unwrap();
        stream.write_all(&Noise::new(2).bytes(100_000)).unwrap();
        support::tcp::until_acknowledged(&stream);
        support::tcp::reset(stream);
    }));
    let mut tls = logged_in(&authority, bridge.listen);
    tls.write_all(&frame(0, b"\x03SELECT 1")).unwrap();
    let mut heard = Vec::new();
    let end = tls.read_to_end(&mut heard);
    assert!(heard == Noise::new(2).bytes(100_000), "{} bytes", heard.len());
    let end = end.map(drop);
    assert!(support::tcp::is_reset(&end), "{end:?}");
    assert_eq!(bridge.close_record().text("reason"), "reset");
}

#[test]
fn whatever_either_side_says_ends_one_session_and_nothing_else() {
    let authority = Authority::new();
    let pair = authority.sign(NAME, Valid::Now);
    let upstream = serve(&listener(), |mut stream| {
        let seed = u64::from(stream.peer_addr().unwrap().port());
        // Of its length it tells the truth: a bridge waits for a greeting to take leave of it.
        let greeting = harmed(&mysql::greeting()[HEADER_LEN..], &mut Noise::new(seed));
        let _ = stream.write_all(&frame(0, &greeting));
        let mut heard = [0; 4096];
        while matches!(stream.read(&mut heard), Ok(1..)) {
            let said = harmed(&frame(2, OK), &mut Noise::new(seed + 1));
            if stream.write_all(&said).is_err() {
                return;
            }
        }
    });
    for upstream_tls in ["off", "required"] {
        let keys = pair.listener("optional") + "handshake_timeout = \"100ms\"\n";
        let keys = keys + "reply_timeout = \"100ms\"\nidle_timeout = \"1s\"\n";
        let bridge = bridge(&keys, upstream, &format!("upstream_tls = \"{upstream_tls}\"")).start();
        let count = full_or(2_000, 100);
        thread::scope(|scope| {
            for worker in 0..4 {
                let to = bridge.listen;
                scope.spawn(move || {
                    for number in 0..count / 4 {
                        let mut noise = Noise::new(worker * count + number);
                        let mut stream = connect(to);
                        let said =
                            [mysql::login(), ssl_request(), [ssl_request(), login()].concat()];
                        let said = &said[noise.number() as usize % said.len()];
                        let _ = stream.write_all(&harmed(said, &mut noise));
                        let _ = stream.shutdown(Shutdown::Write);
                        drop(read_to_the_end(&stream));
                    }
                });
            }
        });
        bridge.has_accounted_for((count / 4 * 4) as f64);
        let panics = [("reason", "panic")];
        assert_eq!(bridge.metrics().sum("tidegate_connections_closed_total", &panics), 0.0);
    }
}

/// A few bytes of it changed, and perhaps its end missing.
fn harmed(bytes: &[u8], noise: &mut Noise) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..noise.number() % 4 {
        let at = noise.number() as usize % bytes.len();
        bytes[at] = noise.number() as u8;
    }
    if noise.number().is_multiple_of(4) {
        bytes.truncate(noise.number() as usize % bytes.len());
    }
    bytes
}

// The life of the bridge.

#[test]
fn a_new_certificate_is_shown_after_a_reload_and_sessions_go_on() {
    let (authority, bridge) = in_front_of_a_plain_server();
    let mut before = logged_in(&authority, bridge.listen);
    let serial = |tls: &rustls::ClientConnection| tls.peer_certificates().unwrap()[0].clone();
    let shown = serial(&before.conn);
    // The same files with something else in them.
    authority.sign(NAME, Valid::Now);
    bridge.reload();
    until("the new one is shown", || {
        (serial(&logged_in(&authority, bridge.listen).conn) != shown).then_some(())
    });
    before.write_all(&frame(0, b"\x03SELECT 1")).unwrap();
    assert_eq!(read_packet(&mut before).unwrap(), b"\x03SELECT 1");
    let expiry = bridge.metrics().sum("tidegate_certificate_expiry_timestamp_seconds", &[]);
    assert!(expiry > 1.7e9, "{expiry}");
    let shaken = [("side", "client")];
    assert!(bridge.metrics().sum("tidegate_tls_handshake_seconds_count", &shaken) >= 2.0);
}

#[test]
fn a_client_whose_server_vanished_after_its_greeting_is_told_soon() {
    let Some(namespace) = Namespace::new().map(Arc::new) else { return };
    for upstream in ["off", "required"] {
        let server = namespace.enter(|| TcpListener::bind("127.0.0.2:0").unwrap());
        let keys = format!("upstream_tls = \"{upstream}\"\nconnect_timeout = \"1s\"");
        let setup = bridge("reply_timeout = \"1h\"", server.local_addr().unwrap(), &keys);
        let bridge = setup.inside(&namespace).start();
        let mut client = namespace.connect(bridge.listen);
        let mut greeter = accept(&server);
        greeter.write_all(&mysql::greeting()).unwrap();
        read_packet(&client).unwrap();
        namespace.filter("ip daddr 127.0.0.2 drop");
        client.write_all(&mysql::login()).unwrap();
        let said = read_packet(&client).unwrap();
        assert!(said.starts_with(b"\xff\xd3\x07#HY000tidegate: "), "{upstream}: {said:?}");
        assert!(String::from_utf8_lossy(&said).contains("has vanished"), "{upstream}: {said:?}");
        let record = bridge.close_record();
        assert_eq!((record.text("side"), record.text("reason")), ("upstream", "stalled"));
        namespace.mend();
    }
}

#[test]
fn when_a_servers_certificate_ends_is_no_longer_told_without_tls_to_servers() {
    let authority = Authority::new();
    let pair = authority.sign(NAME, Valid::Now);
    let shown = pair.server();
    let server = serve(&listener(), move |stream| drop(serve_tls(stream, &shown)));
    let keys = |upstream| {
        format!(
            "admin = \"127.0.0.1:0\"\n[[listener]]\nbind = \"127.0.0.1:0\"\n[upstream.db]\ngateway = \"{server}\"\nupstream_tls = \"{upstream}\"\n"
        )
    };
    let bridge = Bridge::from_file(&keys("required")).start();
    let told = || {
        let labels = [("side", "upstream")];
        bridge.metrics().sum("tidegate_certificate_expiry_timestamp_seconds", &labels)
    };
    let mut client = connect(bridge.listen);
    read_packet(&client).unwrap();
    client.write_all(&mysql::login()).unwrap();
    until_it("it is told", told, |told| *told > 1.7e9);
    bridge.rewrite(&keys("off"));
    assert!(bridge.reload().contains("\"reloaded\""));
    assert_eq!(told(), 0.0);
}

#[test]
fn a_drain_ends_a_session_that_has_only_logged_in() {
    let authority = Authority::new();
    let keys = authority.sign(NAME, Valid::Now).listener("required");
    let setup = bridge(&keys, server(<[u8]>::to_vec), "upstream_tls = \"off\"");
    let mut bridge = setup.flags(&["--drain-timeout", "6s"]).start();
    let mut tls = logged_in(&authority, bridge.listen);
    bridge.signal(Signal::TERM);
    let _ = tls.read_to_end(&mut Vec::new());
    // Between two commands, although nothing was relayed yet: not by the time-out.
    let record = bridge.close_record();
    assert_eq!(record.text("reason"), "drain");
    assert!(record.number("duration_ms") < 5_900.0, "{}", record.number("duration_ms"));
    assert_eq!(bridge.ends().code(), Some(0));
}

#[test]
fn a_client_that_leaves_before_its_log_in_leaves_no_interrupted_handshake_behind() {
    let (left, farewells) = mpsc::channel();
    let (_authority, bridge) = in_front_of(serve(&listener(), move |mut stream| {
        stream.write_all(&mysql::greeting()).unwrap();
        left.send(read_packet(&mut stream)).unwrap();
    }));
    let farewell = || {
        let said = farewells.recv_timeout(PATIENCE).unwrap().expect("a log-in that fails");
        assert!(String::from_utf8_lossy(&said).contains("tidegate-took-leave"), "{said:?}");
    };
    let stream = connect(bridge.listen);
    read_packet(&stream).unwrap();
    drop(stream);
    farewell();
    let mut stream = connect(bridge.listen);
    read_packet(&stream).unwrap();
    stream.write_all(&ssl_request()).unwrap();
    drop(stream);
    farewell();
    bridge.has_accounted_for(2.0);
}

#[test]
fn an_idle_session_with_tls_on_both_sides_takes_less_than_25_kib() {
    let authority = Authority::new();
    let pair = authority.sign(NAME, Valid::Now);
    let shown = pair.server();
    let burst = 1 << 20;
    let upstream = serve(&listener(), move |stream| {
        let Some(mut tls) = serve_tls(stream, &shown) else { return };
        read_packet(&mut tls);
        tls.write_all(&frame(3, OK)).unwrap();
        while read_packet(&mut tls).is_some() {
            tls.write_all(&Noise::new(3).bytes(burst)).unwrap();
            tls.flush().unwrap();
        }
    });
    let keys = pair.listener("required");
    let bridge = bridge(&keys, upstream, "upstream_tls = \"required\"").start();
    let mut received = vec![0; burst];
    let mut ask = |session: &mut support::tls::Tls<_>| {
        session.write_all(&frame(0, b"\x03")).unwrap();
        session.read_exact(&mut received).unwrap();
    };
    // What the first sessions load, of each thread, is not the others'.
    (0..20).for_each(|_| ask(&mut logged_in(&authority, bridge.listen)));
    bridge.has_accounted_for(20.0);
    let before = bridge.heap();
    let count = full_or(500, 200);
    let mut sessions: Vec<_> = (0..count).map(|_| logged_in(&authority, bridge.listen)).collect();
    let idle = bridge.heap().saturating_sub(before) / count;
    sessions.iter_mut().for_each(&mut ask);
    let after = bridge.heap().saturating_sub(before) / count;
    println!("{idle} bytes a session, {after} after a burst");
    assert!(idle <= 25 << 10 && after <= 25 << 10, "{idle} bytes a session, {after} after a burst");
}

// Helpers.

fn bridge(listener: &str, gateway: SocketAddr, upstream: &str) -> support::bridge::Setup {
    Bridge::from_file(&format!(
        "admin = \"127.0.0.1:0\"\n[[listener]]\nbind = \"127.0.0.1:0\"\n{listener}\n\
         [upstream.db]\ngateway = \"{gateway}\"\n{upstream}\n"
    ))
}

fn in_front_of(plain: SocketAddr) -> (Authority, Bridge) {
    let authority = Authority::new();
    let keys = authority.sign(NAME, Valid::Now).listener("required");
    (authority, bridge(&keys, plain, "upstream_tls = \"off\"").start())
}

/// One that answers a command with what it was.
fn in_front_of_a_plain_server() -> (Authority, Bridge) {
    in_front_of(server(<[u8]>::to_vec))
}

fn logged_in(
    authority: &Authority,
    bridge: SocketAddr,
) -> support::tls::Tls<rustls::ClientConnection> {
    let mut stream = connect(bridge);
    read_packet(&stream).unwrap();
    stream.write_all(&ssl_request()).unwrap();
    let mut tls = shake_hands(client(authority, NAME), stream).unwrap();
    tls.write_all(&login()).unwrap();
    assert_eq!(read_packet(&mut tls).unwrap(), OK);
    tls
}

/// A driver's TLS, which verifies everything.
fn trusting(authority: &Authority) -> SslOpts {
    let ssl = SslOpts::default().with_root_certs(vec![authority.ca.clone().into()]);
    ssl.with_disable_built_in_roots(true).with_danger_tls_hostname_override(Some(NAME))
}

/// What a driver says. (MariaDB's own client takes a code of 2000 and more for a broken packet.)
fn refused(db: &MariaDb, port: u16) -> String {
    let refused = runtime().block_on(Conn::new(Opts::from(db.opts(port))));
    refused.expect_err("the bridge does not let it in").to_string()
}
