//! Logging in: to a real MariaDB, and to a gateway that is not to be had, in its words.

use std::time::Duration;

use mysql_async::prelude::Queryable;

use crate::causes;
use crate::fake::Fake;
use crate::place::{PRIVATELINK, Place};
use crate::run::{Doctor, SECRET};
use crate::support::mariadb::{MariaDb, PASSWORD, USER};
use crate::support::runtime;
use crate::support::tls::{Authority, Valid};

const INSECURE: &str = "Connections using insecure transport are prohibited. See \
    https://docs.pingcap.com/tidbcloud/secure-connections-to-serverless-tier-clusters";
const NO_PREFIX: &str = "Missing user name prefix. See \
    https://docs.pingcap.com/tidbcloud/select-cluster-tier#user-name-prefix";

/// Makes a user whose plugin doctor does not speak.
pub const ED25519_USER: &str = "INSTALL PLUGIN IF NOT EXISTS ed25519 SONAME 'auth_ed25519'; \
    CREATE OR REPLACE USER ed IDENTIFIED VIA ed25519 USING PASSWORD('e')";

causes! {
    a_wrong_password:
        real("", |doctor| doctor.user(USER, SECRET)), stops_at "login.authentication" "access_denied";
    a_user_whom_nobody_knows:
        real("", |doctor| doctor.user("nobody", SECRET)),
        stops_at "login.authentication" "access_denied";
    a_user_who_has_to_use_tls:
        real("CREATE OR REPLACE USER careful IDENTIFIED BY 'p' REQUIRE SSL", |doctor| {
            doctor.user("careful", "p").flags(&["--upstream-tls", "off"])
        }), stops_at "login.authentication" "access_denied";
    an_account_that_is_locked:
        real("CREATE OR REPLACE USER locked IDENTIFIED BY 'p' ACCOUNT LOCK", |doctor| {
            doctor.user("locked", "p")
        }), stops_at "login.authentication" "access_denied";
    a_database_that_is_not_there:
        real("", |doctor| doctor.user(USER, PASSWORD).flags(&["--database", "nowhere"])),
        stops_at "login.authentication" "unknown_database";
    a_method_that_nobody_speaks:
        real(ED25519_USER, |doctor| doctor.user("ed", "e")),
        stops_at "login.authentication" "plugin_unsupported";
    a_password_that_has_expired:
        real("SET GLOBAL disconnect_on_expired_password = ON; \
              CREATE OR REPLACE USER late IDENTIFIED BY 'p' PASSWORD EXPIRE",
            |doctor| doctor.user("late", "p")),
        stops_at "login.authentication" "password_expired";
    a_user_who_has_all_connections_that_he_may: busy(),
        stops_at "login.authentication" "connection_limit";
    a_gateway_that_misses_the_prefix:
        answered(1105, NO_PREFIX), stops_at "login.authentication" "prefix_rejected";
    a_gateway_that_wants_tls:
        answered(1105, INSECURE), stops_at "login.authentication" "insecure_transport";
    a_server_that_wants_tls:
        answered(3159, "Connections using insecure transport are prohibited while \
                        --require_secure_transport=ON."),
        stops_at "login.authentication" "insecure_transport";
    a_gateway_that_is_full:
        answered(1105, "Connection limit exceeded"),
        stops_at "login.authentication" "connection_limit";
    a_server_that_is_full:
        answered(1040, "Too many connections"), stops_at "login.authentication" "connection_limit";
    a_gateway_that_lets_this_endpoint_not_in:
        answered(1105, "connection from 10.0.0.9 is not in the authorized networks"),
        stops_at "login.authentication" "allow_list";
    a_password_that_has_to_be_changed_first:
        answered(1820, "You must reset your password using ALTER USER statement before executing \
                        this statement."),
        stops_at "login.authentication" "password_expired";
    a_method_that_nobody_has_heard_of:
        Doctor::at(Fake::mysql().switching_to("authentication_of_tomorrow").start()).user("app", SECRET),
        stops_at "login.authentication" "plugin_unsupported";
    a_server_that_says_something_else:
        answered(1156, "Got packets out of order"), stops_at "login.authentication" "login_error";
}

/// A MariaDB that has done this, and a look at it.
fn real(sql: &str, look: impl FnOnce(Doctor) -> Doctor) -> Option<Doctor> {
    let db = MariaDb::shared()?;
    if !sql.is_empty() {
        db.query(db.port, sql);
    }
    Some(look(Doctor::at(db.address())).keeping(db))
}

/// A user who may connect once, and does.
fn busy() -> Option<Doctor> {
    let db = MariaDb::shared()?;
    let sql = "CREATE OR REPLACE USER once IDENTIFIED BY 'p' WITH MAX_USER_CONNECTIONS 1";
    db.query(db.port, sql);
    let runtime = runtime();
    let opts = db.opts(db.port).user(Some("once")).pass(Some("p")).db_name(None::<String>);
    let conn = runtime.block_on(async {
        let mut conn = mysql_async::Conn::new(opts).await.unwrap();
        conn.query_drop("DO 0").await.unwrap();
        conn
    });
    Some(Doctor::at(db.address()).user("once", "p").keeping((conn, runtime, db)))
}

/// A server that answers a log-in so.
fn answered(code: u16, text: &'static str) -> Doctor {
    Doctor::at(Fake::gateway().refusing(code, text).start()).user("app", SECRET)
}

/// And Hyperdrive is said to speak none of it, whatever the server's default is.
#[test]
fn what_is_to_be_done_about_a_method_that_nobody_speaks_helps() {
    let Some(db) = MariaDb::start(&[]) else { return };
    db.query(db.port, ED25519_USER);
    let doctor = || Doctor::at(db.address()).user("ed", "e");
    let report = doctor().stops_at("login.authentication", "plugin_unsupported");
    assert!(report.has("warn", "hyperdrive.plugin", "plugin_for_hyperdrive"), "{}", report.text);
    assert_eq!(report.evidence("hyperdrive.plugin"), "client_ed25519 (the user's)");
    for check in ["login.authentication", "hyperdrive.plugin"] {
        let hint = report.one(check)["hint"].as_str().unwrap();
        let statement = &hint[hint.find("ALTER USER").unwrap()..];
        db.query(db.port, &statement.replacen('…', "ed", 1).replacen('…', "e", 1));
        let report = doctor().is_well();
        assert_eq!(report.statuses("hyperdrive.plugin"), ["ok"], "{}", report.text);
        db.query(db.port, ED25519_USER);
    }
}

#[test]
fn a_plugin_that_is_not_loaded_is_mended_as_the_server_takes_it() {
    for (version, statement) in [
        ("5.5.5-10.11.6-MariaDB", "ALTER USER … IDENTIFIED VIA mysql_native_password"),
        ("8.0.36", "ALTER USER … IDENTIFIED WITH caching_sha2_password"),
    ] {
        let fake = Fake::mysql().version(version).refusing(1524, "Plugin 'x' is not loaded");
        let doctor = Doctor::at(fake.start()).user("app", SECRET);
        let report = doctor.stops_at("login.authentication", "plugin_unsupported");
        let hint = report.one("login.authentication")["hint"].as_str().unwrap();
        assert!(hint.starts_with(statement), "{hint}");
    }
}

/// Nobody is asked.
#[test]
fn a_user_without_the_prefix_that_the_gateway_needs_is_told_so() {
    let Some(place) = Place::new(&["10.0.0.1"]) else { return };
    place.serve(&Fake::gateway().refusing(1105, NO_PREFIX), &["10.0.0.1"]);
    let dns = place.dns("127.0.0.1", PRIVATELINK, &["10.0.0.1"]);
    let doctor = place.asks(vec![dns], PRIVATELINK).user("root", SECRET);
    let report = doctor.notes("login.user", "missing_prefix");
    assert_eq!(report.statuses("login.authentication"), ["skip"], "{}", report.text);
}

#[test]
fn a_user_with_a_prefix_logs_in_at_a_gateway_that_needs_one() {
    let Some(place) = Place::new(&["10.0.0.1"]) else { return };
    place.serve(&Fake::gateway(), &["10.0.0.1"]);
    let dns = place.dns("127.0.0.1", PRIVATELINK, &["10.0.0.1"]);
    let report = place.asks(vec![dns], PRIVATELINK).user("3pTAoNNegb47Uc8.root", SECRET).is_well();
    for check in ["login.user", "login.authentication", "login.round_trips"] {
        assert_eq!(report.statuses(check), ["ok"], "{}", report.text);
    }
}

#[test]
fn refusals_inside_tls_are_told_as_well() {
    let authority = Authority::new();
    let pair = authority.sign("gateway.test", Valid::Now);
    let fake = Fake::gateway().tls(&pair).refusing(1105, NO_PREFIX);
    let doctor = Doctor::at(fake.start()).flags(&["--upstream-tls", "required"]);
    doctor.user("app", SECRET).stops_at("login.authentication", "prefix_rejected");
}

#[test]
fn a_refusal_is_quoted_with_its_code() {
    let report = answered(1105, "Connection limit exceeded").report();
    let evidence = report.evidence("login.authentication");
    assert!(evidence.contains("1105"), "{evidence}");
    assert!(evidence.contains("Connection limit exceeded"), "{evidence}");
}

#[test]
fn without_a_user_nobody_logs_in() {
    // The variable is for other commands as well.
    let doctor = Doctor::at(Fake::mysql().start());
    let report = doctor.variable("TIDEGATE_PASSWORD_FILE", "/nowhere/password").is_well();
    for check in ["login.user", "login.authentication", "login.round_trips"] {
        assert_eq!(report.statuses(check), ["skip"], "{}", report.text);
    }
}

#[test]
fn a_way_that_is_long_is_warned_of() {
    let slow = Fake::mysql().slow(Duration::from_millis(40)).start();
    Doctor::at(slow).user("app", SECRET).warns("login.round_trips", "slow_path");
}
