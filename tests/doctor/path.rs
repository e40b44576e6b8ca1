//! The way to an address, and what is said at its end.

use std::io::Write;
use std::thread;
use std::time::Duration;

use crate::causes;
use crate::fake::{Fake, acts, refuses_to_greet, says};
use crate::place::{PRIVATELINK, Place};
use crate::run::Doctor;
use crate::support::tcp::{listener, nobody, reset};

causes! {
    packets_that_are_lost: routed("lost"), stops_at "address.connect" "connect_timeout";
    a_network_that_is_not_there: routed("none"), stops_at "address.connect" "unreachable";
    a_route_that_says_no: routed("unreachable"), stops_at "address.connect" "unreachable";
    a_route_that_is_forbidden: routed("prohibit"), stops_at "address.connect" "connect_forbidden";
    a_port_at_which_nobody_listens: refusing(), stops_at "address.connect" "connect_refused";
    an_end_after_the_connect:
        Doctor::at(acts(drop)), stops_at "mysql.greeting" "closed_after_accept";
    a_reset_after_the_connect:
        Doctor::at(acts(reset)), stops_at "mysql.greeting" "reset_after_accept";
    nothing_after_the_connect: silent(), stops_at "mysql.greeting" "greeting_timeout";
    a_greeting_that_never_ends:
        Doctor::at(says(b"\x50\0\0\0\x0a8.0")), stops_at "mysql.greeting" "greeting_timeout";
    a_greeting_a_byte_at_a_time: dripping(), stops_at "mysql.greeting" "greeting_timeout";
    a_web_server:
        Doctor::at(says(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")),
        stops_at "mysql.greeting" "not_mysql";
    an_ssh_server:
        Doctor::at(says(b"SSH-2.0-OpenSSH_9.2p1\r\n")), stops_at "mysql.greeting" "not_mysql";
    a_server_of_mysql_3:
        Doctor::at(says(b"\x10\0\0\0\x093.22.32\0\x01\0\0\0ab\0")),
        stops_at "mysql.greeting" "not_mysql";
    a_greeting_that_is_cut_short:
        Doctor::at(says(b"\x03\0\0\0\x0a8.")), stops_at "mysql.greeting" "not_mysql";
    a_greeting_of_sixteen_megabytes:
        Doctor::at(says([&b"\xff\xff\xff\0\x0a"[..], &[b'9'; 1 << 20]].concat())),
        stops_at "mysql.greeting" "not_mysql";
    a_host_that_is_blocked:
        greeted_by(1129, "Host '10.0.0.9' is blocked because of many connection errors; unblock with \
                          'mariadb-admin flush-hosts'"),
        stops_at "mysql.greeting" "host_blocked";
    a_host_that_is_not_wanted:
        greeted_by(1130, "Host '10.0.0.9' is not allowed to connect to this MySQL server"),
        stops_at "mysql.greeting" "host_denied";
    a_server_that_is_full:
        greeted_by(1040, "Too many connections"), stops_at "mysql.greeting" "connection_limit";
    a_user_that_has_enough:
        greeted_by(1203, "User app already has more than 'max_user_connections' active connections"),
        stops_at "mysql.greeting" "connection_limit";
    a_gateway_that_is_full:
        greeted_by(1105, "Connection limit exceeded"), stops_at "mysql.greeting" "connection_limit";
    a_server_that_is_going_down:
        greeted_by(1053, "Server shutdown in progress"), stops_at "mysql.greeting" "err_greeting";
    a_gateway_that_has_had_enough:
        greeted_by(1105, "Due to the usage quota being exhausted, access to the cluster has been \
                          restricted"),
        stops_at "mysql.greeting" "connection_limit";
}

/// An address to which there is such a way.
fn routed(way: &str) -> Option<Doctor> {
    let place = Place::new(&["10.9.0.1"])?;
    match way {
        "none" => {}
        "lost" => {
            place.ip(&["route", "add", "10.8.0.0/16", "dev", "lo"]);
            place.namespace.filter("ip daddr 10.8.0.1 drop");
        }
        kind => place.ip(&["route", "add", kind, "10.8.0.0/16"]),
    }
    Some(place.doctor("10.8.0.1"))
}

fn refusing() -> Doctor {
    let (address, socket) = nobody();
    Doctor::at(address).keeping(socket)
}

fn silent() -> Doctor {
    let listener = listener();
    Doctor::at(listener.local_addr().unwrap()).keeping(listener)
}

/// A server that is never silent for long, and never done.
fn dripping() -> Doctor {
    Doctor::at(acts(|mut stream| {
        let greeting = [&b"\xf0\0\0\0\x0a"[..], &[b'8'; 0xf0]].concat();
        for byte in greeting.chunks(1) {
            if stream.write_all(byte).is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(200));
        }
    }))
}

fn greeted_by(code: u16, text: &str) -> Doctor {
    Doctor::at(refuses_to_greet(code, text))
}

/// The bridge serves by the other one.
#[test]
fn of_two_addresses_the_dead_one_is_warned_of() {
    let Some(place) = Place::new(&["10.0.0.1", "10.0.0.2"]) else { return };
    place.serve(&Fake::gateway(), &["10.0.0.2"]);
    let dns = place.dns("127.0.0.1", PRIVATELINK, &["10.0.0.1", "10.0.0.2"]);
    let doctor = place.asks(vec![dns], PRIVATELINK).user("prefix.app", "x");
    let report = doctor.finds(&[]);
    let dead = report.all("address.connect");
    let dead = dead.iter().find(|one| one["cause"] == "connect_refused").unwrap();
    assert_eq!((&dead["status"], &dead["subject"]), (&"warn".into(), &"10.0.0.1:4000".into()));
    assert_eq!(report.statuses("login.authentication"), ["ok"], "{}", report.text);
}

#[test]
fn an_address_that_says_nothing_does_not_hide_one_that_is_well() {
    let Some(place) = Place::new(&["10.0.0.1", "10.0.0.2"]) else { return };
    place.serve(&Fake::gateway(), &["10.0.0.2"]);
    let silent = place.listen("10.0.0.1:4000");
    let dns = place.dns("127.0.0.1", PRIVATELINK, &["10.0.0.1", "10.0.0.2"]);
    let doctor = place.asks(vec![dns], PRIVATELINK).user("prefix.app", "x").keeping(silent);
    let report = doctor.finds(&[]);
    assert!(report.has("warn", "mysql.greeting", "greeting_timeout"), "{}", report.text);
    assert!(report.statuses("login.authentication").contains(&"ok"), "{}", report.text);
}

#[test]
fn two_addresses_with_the_same_cause_are_one_failure() {
    let Some(place) = Place::new(&["10.0.0.1", "10.0.0.2"]) else { return };
    let dns = place.dns("127.0.0.1", PRIVATELINK, &["10.0.0.1", "10.0.0.2"]);
    let report = place.asks(vec![dns], PRIVATELINK).stops_at("address.connect", "connect_refused");
    let subject = report.one("address.connect")["subject"].to_string();
    assert!(subject.contains("10.0.0.1:4000") && subject.contains("10.0.0.2:4000"), "{subject}");
}

#[test]
fn twenty_addresses_that_are_all_lost_take_no_longer() {
    let addresses: Vec<_> = (1..=20).map(|last| format!("10.8.0.{last}")).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let Some(place) = Place::new(&[]) else { return };
    place.ip(&["route", "add", "10.8.0.0/16", "dev", "lo"]);
    place.namespace.filter("ip daddr 10.8.0.0/16 drop");
    let dns = place.dns("127.0.0.1", PRIVATELINK, &addresses);
    let doctor = place.asks(vec![dns], PRIVATELINK).patience("3s");
    doctor.stops_at("address.connect", "connect_timeout");
}

#[test]
fn a_way_of_small_packets_is_warned_of() {
    let Some(place) = Place::new(&["10.0.0.1"]) else { return };
    place.ip(&["link", "set", "lo", "mtu", "600"]);
    place.serve(&Fake::mysql(), &["10.0.0.1"]);
    place.doctor("10.0.0.1").warns("address.path", "small_mss");
}

#[test]
fn a_greeting_tells_who_it_is() {
    for (fake, word) in [
        (Fake::gateway(), "TiDB"),
        (Fake::mysql(), "MySQL"),
        (Fake::mysql().version("5.5.5-10.11.6-MariaDB-0+deb12u1"), "MariaDB"),
    ] {
        let report = Doctor::at(fake.start()).is_well();
        let evidence = report.evidence("mysql.greeting");
        assert!(evidence.contains(word), "{word}: {evidence}");
    }
}
