//! Servers that are as they should be, and what a look costs them.

use std::net::SocketAddr;
use std::sync::Arc;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};

use crate::login::ED25519_USER;
use crate::run::{Doctor, Report, SECRET};
use crate::support::mariadb::{MariaDb, PASSWORD, USER};
use crate::support::mysqld::MySqld;
use crate::support::namespace::Namespace;
use crate::support::tcp::{connect, nobody};
use crate::support::{full, runtime, skip_anywhere, until};

/// Everything that is looked at along the way to a server.
const WAY: [&str; 8] = [
    "host.port",
    "host.clock",
    "address.connect",
    "mysql.greeting",
    "tls.handshake",
    "tls.certificate",
    "login.authentication",
    "login.round_trips",
];

#[test]
fn a_mariadb_with_tls_is_well() {
    let Some(db) = MariaDb::shared() else { return };
    let report = trusting(&db, Doctor::at(db.address())).user(USER, PASSWORD);
    let report = report.flags(&["--database", "test"]).is_well();
    all_ok(&report, &WAY);
}

#[test]
fn a_mariadb_without_tls_is_well() {
    let Some(db) = MariaDb::start(&["--skip-ssl"]) else { return };
    let report = Doctor::at(db.address()).user(USER, PASSWORD).is_well();
    let but_tls: Vec<_> = WAY.into_iter().filter(|check| !check.starts_with("tls.")).collect();
    all_ok(&report, &but_tls);
    assert!(report.evidence("mysql.greeting").contains("MariaDB"), "{}", report.text);
}

/// With caching_sha2_password, for which the server wants the password itself each time: sealed for its
/// key, and inside TLS; and then knows it.
#[test]
fn a_mysql_of_today_is_well() {
    if !full() {
        return;
    }
    let mysql = match MySqld::start() {
        Ok(server) => server,
        Err(why) => return skip_anywhere(&format!("doctor on MySQL: {why}")),
    };
    for mode in ["off", "required"] {
        let forgets = async {
            let opts = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(mysql.port);
            let opts = opts.prefer_socket(false).user(Some(USER)).pass(Some(PASSWORD));
            let mut conn = Conn::new(opts).await.unwrap();
            conn.query_drop("FLUSH PRIVILEGES").await.unwrap();
            conn.disconnect().await.unwrap();
        };
        runtime().block_on(forgets);
        for _ in 0..2 {
            let doctor = Doctor::at(mysql.address()).flags(&["--upstream-tls", mode]);
            let report = doctor.user(USER, PASSWORD).is_well();
            all_ok(&report, &["mysql.greeting", "login.authentication", "login.round_trips"]);
            let told = report.one("hyperdrive.plugin").to_string();
            assert!(told.contains("caching_sha2_password"), "{told}");
        }
    }
    let wrong = Doctor::at(mysql.address()).user(USER, SECRET);
    wrong.stops_at("login.authentication", "access_denied");
}

#[test]
fn all_that_a_file_has_is_looked_at() {
    let Some(db) = MariaDb::shared() else { return };
    let (refusing, _socket) = nobody();
    let doctor = Doctor::of_file(&format!(
        "admin = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"one\"\nbind = \"127.0.0.1:0\"\nupstream = \"good\"\n\
         [[listener]]\nname = \"other\"\nbind = \"127.0.0.1:0\"\nupstream = \"bad\"\n\
         [upstream.good]\ngateway = \"{}\"\n\
         [upstream.bad]\ngateway = \"{refusing}\"\n",
        db.address()
    ));
    let report = doctor.finds(&[("address.connect", "connect_refused")]);
    let of = |upstream: &str| {
        let greeting = report.all("mysql.greeting");
        let greeting = greeting.iter().find(|one| one["upstream"] == upstream).unwrap();
        greeting["status"].as_str().unwrap().to_owned()
    };
    assert_eq!([of("good"), of("bad")], ["ok", "skip"], "{}", report.text);
}

#[test]
fn an_interrupted_handshake_is_none_of_ours() {
    let (Some(client), Some(server)) = (Namespace::new(), Namespace::new()) else { return };
    let (client, server) = (Arc::new(client), Arc::new(server));
    client.join("10.79.1.1", &server, "10.79.1.2");
    let hosts = "127.0.0.1 localhost\n10.79.1.1 client.tidegate.test\n";
    let options = [
        "--max-connect-errors=3",
        "--skip-name-resolve=0",
        "--host-cache-size=128",
        "--performance-schema=ON",
    ];
    let Some(db) = MariaDb::start_inside(&server, hosts, &options) else { return };
    db.query(db.port, ED25519_USER);
    let at = SocketAddr::new("10.79.1.2".parse().unwrap(), db.port);
    let doctor = || Doctor::at(at).inside(&client);
    let [ca, wrong_ca] =
        [&db.certificates.ca, &db.certificates.wrong_ca].map(|path| path.to_str().unwrap());
    let identity = ["--upstream-tls", "verify-identity", "--tls-server-name", "localhost"];
    // A success makes the server forget: so those that log in come last.
    let looks = [
        doctor(),
        doctor().flags(&["--upstream-tls", "off"]),
        doctor().flags(&["--upstream-tls", "required"]),
        doctor().flags(&identity).flags(&["--tls-ca", ca]),
        doctor().flags(&identity).flags(&["--tls-ca", wrong_ca]).user(USER, PASSWORD),
        doctor().user(USER, SECRET),
        doctor().user("ed", SECRET),
        doctor().user("ed", SECRET).flags(&["--upstream-tls", "off"]),
        doctor().user(USER, PASSWORD),
    ];
    let errors = || {
        let sql = "SELECT COUNT_HANDSHAKE_ERRORS, SUM_CONNECT_ERRORS \
                   FROM performance_schema.host_cache WHERE IP = '10.79.1.1'";
        db.query(db.port, sql)
    };
    for look in looks {
        for _ in 0..2 {
            let report = look.report();
            let blamed = report.statuses("mysql.greeting");
            assert_eq!(blamed, ["ok"], "{}", report.text);
            assert_eq!(errors(), "0\t0", "{}", report.text);
        }
    }

    // The same host, when it is blocked for true, and when nobody wants it.
    let is_blocked = || {
        client.enter(|| drop(connect(at)));
        doctor().report().with("fail") == [("mysql.greeting".into(), "host_blocked".into())]
    };
    until("the host is blocked", || is_blocked().then_some(()));
    doctor().stops_at("mysql.greeting", "host_blocked");
    db.query(
        db.port,
        "DROP USER ed; RENAME USER app@'%' TO app@localhost; FLUSH PRIVILEGES; FLUSH HOSTS",
    );
    doctor().stops_at("mysql.greeting", "host_denied");
}

/// What proves the server.
fn trusting(db: &MariaDb, doctor: Doctor) -> Doctor {
    let ca = db.certificates.ca.to_str().unwrap();
    let flags = ["--upstream-tls", "verify-identity", "--tls-ca", ca];
    doctor.flags(&flags).flags(&["--tls-server-name", "localhost"])
}

fn all_ok(report: &Report, checks: &[&str]) {
    for check in checks {
        // The certificate of a test is not for long.
        let warned = report.has("warn", check, "expires_soon");
        assert!(warned || report.statuses(check) == ["ok"], "{check}: {}", report.text);
    }
}
