//! The host that the bridge runs on.

use std::fs;
use std::net::TcpListener;

use rustix::process::geteuid;

use crate::causes;
use crate::fake::Fake;
use crate::place::{Clock, Place};
use crate::run::Doctor;
use crate::support::bridge::{Bridge, copy_for_all};
use crate::support::mariadb::{MariaDb, PASSWORD, USER};
use crate::support::skip;
use crate::support::tcp::{free_port, listener};

/// Nobody's user, without a capability.
const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
const DAY: i64 = 24 * 60 * 60;

causes! {
    a_port_that_somebody_has: taken(), notes "host.port" "port_taken";
    a_port_for_root_alone: listening_at("127.0.0.1:81"), notes "host.port" "port_forbidden";
    an_address_of_another_host: listening_at("192.0.2.77:4000"),
        notes "host.port" "address_unavailable";
    hardly_a_descriptor: limited(48), notes "host.files" "few_files";
    a_clock_that_stands_at_2001: in_2001(), notes "host.clock" "clock_off";
}

/// The port is another program's, which is no bridge.
fn taken() -> Doctor {
    let taken = listener();
    let at = taken.local_addr().unwrap().to_string();
    let server = Fake::mysql().start().to_string();
    Doctor::bare().flags(&[&server, "--listen", &at]).keeping(taken)
}

/// A bridge of nobody's that would listen there.
fn listening_at(address: &str) -> Option<Doctor> {
    let place = Place::new(&["10.0.0.1"])?;
    place.serve(&Fake::mysql(), &["10.0.0.1"]);
    let flags = ["10.0.0.1", "--listen", address, "--allow-any"];
    Some(by_nobody(Doctor::bare().flags(&flags).inside(&place.namespace)))
}

fn by_nobody(doctor: Doctor) -> Doctor {
    let copy = copy_for_all();
    let program = copy.path().join("tidegate").to_str().unwrap().to_owned();
    doctor.around(&NOBODY).around(&["--"]).program(&program).keeping(copy)
}

/// So many descriptors, and no right to have more.
fn limited(descriptors: u32) -> Option<Doctor> {
    if !geteuid().is_root() {
        skip("only root can become nobody");
        return None;
    }
    let limit = format!("--nofile={descriptors}:{descriptors}");
    let limited = Doctor::at(Fake::mysql().start()).around(&["prlimit", &limit, "--"]);
    Some(by_nobody(limited))
}

/// Certificates are of no use then, and nobody else's fault.
fn in_2001() -> Option<Doctor> {
    let clock = Clock::off_by(-24 * 365 * DAY)?;
    let db = MariaDb::shared()?;
    let ca = db.certificates.ca.to_str().unwrap();
    let flags = ["--upstream-tls", "verify-identity", "--tls-ca", ca];
    let doctor = Doctor::at(db.address()).flags(&flags).flags(&["--tls-server-name", "localhost"]);
    Some(clock.of(doctor.user(USER, PASSWORD).keeping(db)))
}

#[test]
fn few_descriptors_are_warned_of() {
    let Some(doctor) = limited(1000) else { return };
    doctor.warns("host.files", "few_files");
}

#[test]
fn a_port_that_a_bridge_has_is_as_it_should_be() {
    let server = Fake::mysql().start();
    let bridge = Bridge::to(server).start();
    let [listen, admin] = [bridge.listen, bridge.admin].map(|address| address.to_string());
    let server = server.to_string();
    let flags = [&*server, "--listen", &listen, "--admin", &admin];
    let report = Doctor::bare().flags(&flags).is_well();
    assert!(report.evidence("host.port").contains("tidegate"), "{}", report.text);
}

#[test]
fn of_two_ports_the_taken_one_is_named() {
    let taken = listener();
    let at = taken.local_addr().unwrap().to_string();
    let server = Fake::mysql().start().to_string();
    let both = format!("127.0.0.1:0,{at}");
    let doctor = Doctor::bare().flags(&[&server, "--listen", &both]).keeping(taken);
    let report = doctor.notes("host.port", "port_taken");
    let failed: Vec<_> = report.all("host.port").into_iter().collect();
    let failed = failed.iter().find(|one| one["status"] == "fail").unwrap();
    assert!(failed.to_string().contains(&at), "{failed}");
}

#[test]
fn the_ports_are_free_again_afterwards() {
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let server = Fake::mysql().start().to_string();
    Doctor::bare().flags(&[&server, "--listen", &listen]).is_well();
    TcpListener::bind(listen).unwrap();
}

#[test]
fn a_socket_in_the_file_system_is_looked_at_and_not_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tidegate.sock");
    let listen = format!("unix:{}", path.display());
    let server = Fake::mysql().start().to_string();
    Doctor::bare().flags(&[&server, "--listen", &listen]).is_well();
    assert!(!path.exists());
}

#[test]
fn keepalive_is_told_with_what_others_would_have() {
    let report = Doctor::at(Fake::mysql().start()).is_well();
    let told = report.one("host.keepalive").to_string();
    let ours = fs::read_to_string("/proc/sys/net/ipv4/tcp_keepalive_time").unwrap();
    assert!(told.contains(ours.trim()), "{told}");
}
