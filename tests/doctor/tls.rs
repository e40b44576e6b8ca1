//! TLS with the server: whether it is offered, spoken, and whose it is.

use std::io::Write;
use std::net::TcpStream;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

use crate::causes;
use crate::fake::{Fake, asked_for_tls};
use crate::place::{PUBLIC, Place};
use crate::run::Doctor;
use crate::support::mariadb::{MariaDb, PASSWORD, USER};
use crate::support::tcp::{read_to_the_end, reset};
use crate::support::tls::{Authority, Pair, Valid};

const NAME: &str = "gateway.test";

causes! {
    tls_that_is_wanted_and_not_offered:
        Doctor::at(Fake::mysql().start()).flags(&["--upstream-tls", "required"]),
        stops_at "tls.offered" "no_tls";
    tls_that_the_gateway_enforces_and_does_not_offer: public(), stops_at "tls.offered" "no_tls";
    a_certificate_of_a_strangers_authority:
        shown(|_| Authority::new().keep(|other| other.sign(NAME, Valid::Now))),
        stops_at "tls.certificate" "wrong_ca";
    a_certificate_for_another_name:
        shown(|ours| ours.sign("other.test", Valid::Now)),
        stops_at "tls.certificate" "wrong_name";
    a_certificate_that_has_expired:
        shown(|ours| ours.sign(NAME, Valid::NoMore)), stops_at "tls.certificate" "expired";
    a_certificate_that_is_not_valid_yet:
        shown(|ours| ours.sign(NAME, Valid::NotYet)), stops_at "tls.certificate" "not_yet_valid";
    a_certificate_without_the_one_above_it:
        shown(|ours| ours.sign_through_another(NAME, false)),
        stops_at "tls.certificate" "incomplete_chain";
    old_tls_alone: alerting(70), stops_at "tls.handshake" "tls_protocol";
    a_real_server_of_old_tls_alone: mariadb_of_old_tls(), stops_at "tls.handshake" "tls_protocol";
    an_answer_that_is_not_tls:
        breaking(|mut stream| drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"))),
        stops_at "tls.handshake" "tls_broken";
    an_end_in_the_middle_of_tls: breaking(drop), stops_at "tls.handshake" "tls_broken";
    a_reset_in_the_middle_of_tls: breaking(reset), stops_at "tls.handshake" "tls_broken";
    silence_in_the_middle_of_tls:
        breaking(|stream| drop(read_to_the_end(&stream))), stops_at "tls.handshake" "tls_broken";
    ciphers_that_nobody_has_any_more: alerting(40), stops_at "tls.handshake" "tls_protocol";
    a_certificate_that_clients_do_not_show:
        certified(&TLS12), stops_at "tls.handshake" "client_certificate";
    a_certificate_that_clients_do_not_show_behind_the_handshake:
        certified(&TLS13).user("app", "x"), stops_at "login.authentication" "client_certificate";
    a_certificate_that_is_missed_by_a_server_that_nobody_logs_in_to:
        certified(&TLS13), stops_at "tls.handshake" "client_certificate";
    an_alert_of_something_else: alerting(80), stops_at "tls.handshake" "tls_broken";
    a_real_certificate_of_a_strangers_authority:
        real(|db| db.certificates.wrong_ca.to_str().unwrap().to_owned(), "localhost"),
        stops_at "tls.certificate" "wrong_ca";
    a_real_certificate_for_another_name:
        real(|db| db.certificates.ca.to_str().unwrap().to_owned(), "db.test"),
        stops_at "tls.certificate" "wrong_name";
}

/// A server that shows what the authority that is trusted has signed, or should have.
fn shown(pair: impl FnOnce(&Authority) -> Pair) -> Doctor {
    showing("verify-identity", pair)
}

fn showing(mode: &str, pair: impl FnOnce(&Authority) -> Pair) -> Doctor {
    let authority = Authority::new();
    let server = Fake::mysql().tls(&pair(&authority)).start();
    let ca = authority.ca.to_str().unwrap().to_owned();
    let name: &[&str] = if mode == "verify-identity" { &["--tls-server-name", NAME] } else { &[] };
    Doctor::at(server)
        .flags(&["--upstream-tls", mode, "--tls-ca", &ca])
        .flags(name)
        .user("app", "x")
        .keeping(authority)
}

fn certified(version: &'static SupportedProtocolVersion) -> Doctor {
    let authority = Authority::new();
    let pair = authority.sign(NAME, Valid::Now);
    let server = Fake::mysql().certified(&pair, &authority, version).start();
    Doctor::at(server).flags(&["--upstream-tls", "required"]).keeping(authority)
}

/// The one whose certificate is not trusted, and who was there first, does not keep the other from it.
#[test]
fn of_two_addresses_the_one_that_is_trusted_is_logged_in_to() {
    let Some(place) = Place::new(&["10.0.0.1", "10.0.0.2"]) else { return };
    let [ours, stranger] = [Authority::new(), Authority::new()];
    place.serve(&Fake::mysql().tls(&stranger.sign(NAME, Valid::Now)), &["10.0.0.1"]);
    place.serve(&Fake::mysql().tls(&ours.sign(NAME, Valid::Now)), &["10.0.0.2"]);
    let dns = place.dns("127.0.0.1", PUBLIC, &["10.0.0.1", "10.0.0.2"]);
    let ca = ours.ca.to_str().unwrap();
    let flags = ["--upstream-tls", "verify-identity", "--tls-server-name", NAME, "--tls-ca", ca];
    let doctor = place.asks(vec![dns], PUBLIC).flags(&flags).user("3pTAoNNegb47Uc8.root", "x");
    let report = doctor.warns("tls.certificate", "wrong_ca");
    assert_eq!(report.statuses("login.authentication"), ["ok"], "{}", report.text);
}

/// A server that does this when it was asked for TLS.
fn breaking(act: impl Fn(TcpStream) + Clone + Send + 'static) -> Doctor {
    Doctor::at(asked_for_tls(act)).flags(&["--upstream-tls", "required"])
}

/// A server that answers with this fatal alert, in a record of TLS 1.1: 70 is protocol_version, 40
/// handshake_failure, 80 internal_error.
fn alerting(alert: u8) -> Doctor {
    breaking(move |mut stream| {
        let _ = stream.write_all(&[21, 3, 2, 0, 2, 2, alert]);
        let _ = read_to_the_end(&stream);
    })
}

/// A gateway that has to offer TLS, and does not.
fn public() -> Option<Doctor> {
    let place = Place::new(&["3.112.7.9"])?;
    place.serve(&Fake::gateway(), &["3.112.7.9"]);
    let dns = place.dns("127.0.0.1", PUBLIC, &["3.112.7.9"]);
    Some(place.asks(vec![dns], PUBLIC))
}

fn mariadb_of_old_tls() -> Option<Doctor> {
    let db = MariaDb::start(&["--tls-version=TLSv1.1", "--ssl-cipher=ALL:@SECLEVEL=0"])?;
    let doctor = Doctor::at(db.address()).flags(&["--upstream-tls", "required"]);
    Some(doctor.user(USER, PASSWORD).keeping(db))
}

/// A MariaDB, an authority to trust, and the name that is wanted.
fn real(ca: impl FnOnce(&MariaDb) -> String, name: &str) -> Option<Doctor> {
    let db = MariaDb::shared()?;
    let ca = ca(&db);
    let flags = ["--upstream-tls", "verify-identity", "--tls-ca", &ca, "--tls-server-name", name];
    Some(Doctor::at(db.address()).flags(&flags).user(USER, PASSWORD).keeping(db))
}

#[test]
fn a_certificate_is_shown_before_it_is_judged() {
    for (doctor, words) in [
        (shown(|ours| ours.sign("other.test", Valid::Now)), ["other.test", NAME]),
        (shown(|ours| ours.sign(NAME, Valid::NoMore)), ["2020-01-01", "expired"]),
        (shown(|ours| ours.sign(NAME, Valid::NotYet)), ["2090-01-01", "valid"]),
        (
            shown(|_| Authority::new().keep(|other| other.sign(NAME, Valid::Now))),
            ["tidegate test authority", NAME],
        ),
    ] {
        let report = doctor.report();
        let finding = report.one("tls.certificate").to_string();
        for word in words {
            assert!(finding.contains(word), "{word}: {finding}");
        }
    }
}

#[test]
fn only_what_is_asked_of_a_certificate_is_held_against_it() {
    let stranger = |_: &Authority| Authority::new().keep(|other| other.sign(NAME, Valid::Now));
    let other_name = |ours: &Authority| ours.sign("other.test", Valid::Now);
    showing("verify-ca", other_name).is_well();
    let server = Fake::mysql().tls(&stranger(&Authority::new())).start();
    Doctor::at(server).flags(&["--upstream-tls", "required"]).is_well();
    Doctor::at(server).flags(&["--upstream-tls", "off"]).is_well();
}

#[test]
fn a_whole_chain_is_as_it_should_be() {
    let report = shown(|ours| ours.sign_through_another(NAME, true)).is_well();
    assert_eq!(report.statuses("tls.certificate"), ["ok"], "{}", report.text);
    assert_eq!(report.statuses("login.authentication"), ["ok"], "{}", report.text);
}

#[test]
fn a_certificate_that_is_about_to_expire_is_warned_of() {
    shown(|ours| ours.sign(NAME, Valid::Soon)).warns("tls.certificate", "expires_soon");
}

#[test]
fn without_tls_nothing_is_wrong_where_none_is_wanted() {
    let report = Doctor::at(Fake::mysql().start()).warns("hyperdrive.tls", "no_tls_for_hyperdrive");
    assert!(!report.statuses("tls.offered").contains(&"fail"), "{}", report.text);
}

/// Something of an authority that is gone then.
trait Keep: Sized {
    fn keep<T>(self, of: impl FnOnce(&Self) -> T) -> T;
}

impl Keep for Authority {
    /// Its folder stays, as long as the test process does.
    fn keep<T>(self, of: impl FnOnce(&Self) -> T) -> T {
        of(Box::leak(Box::new(self)))
    }
}
