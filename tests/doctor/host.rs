//! The host that the bridge runs on.

use std::fs::{self, Permissions};
use std::io::Read;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::id;
use std::thread;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::geteuid;
use serde_json::Value;

use crate::causes;
use crate::fake::Fake;
use crate::place::{Clock, Place};
use crate::run::{Doctor, run};
use crate::support::bridge::{Bridge, copy_for_all};
use crate::support::mariadb::{MariaDb, PASSWORD, USER};
use crate::support::process::{command, succeed};
use crate::support::skip;
use crate::support::tcp::{free_port, listener};
use crate::support::tls::{Authority, Valid};

/// Nobody's user, without a capability.
const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
const DAY: i64 = 24 * 60 * 60;

causes! {
    a_port_that_somebody_has: taken(), notes "host.port" "port_taken";
    a_port_for_root_alone: listening_at("127.0.0.1:81"), notes "host.port" "port_forbidden";
    an_address_of_another_host: listening_at("192.0.2.77:4000"),
        notes "host.port" "address_unavailable";
    an_admin_port_that_somebody_has: admin_taken(), notes "host.admin" "port_taken";
    an_admin_token_that_is_not_there:
        served().flags(&["--admin-token-file", "/nowhere/token"]), notes "host.admin" "bad_file";
    a_certificate_for_clients_that_is_not_there:
        offering("/nowhere/cert.pem", "/nowhere/key.pem"), notes "host.tls" "bad_file";
    a_key_that_is_another_certificates: with_two_pairs(), notes "host.tls" "bad_file";
    hardly_a_descriptor: limited(48), notes "host.files" "few_files";
    a_clock_that_stands_at_2001: in_2001(), notes "host.clock" "clock_off";
}

/// The port is another program's, which is no bridge.
fn taken() -> Doctor {
    let taken = listener();
    let at = taken.local_addr().unwrap().to_string();
    let server = Fake::mysql().start().to_string();
    Doctor::bare().flags(&[&server]).listening(&at).keeping(taken)
}

fn admin_taken() -> Doctor {
    let taken = listener();
    let at = taken.local_addr().unwrap().to_string();
    let server = Fake::mysql().start().to_string();
    let flags = [&server, "--listen", "127.0.0.1:0", "--admin", &at];
    Doctor::bare().flags(&flags).keeping(taken)
}

/// Nothing is wrong with the rest.
fn served() -> Doctor {
    Doctor::at(Fake::mysql().start())
}

/// With TLS for its clients.
fn offering(certificate: &str, key: &str) -> Doctor {
    let pair = ["--tls-cert", certificate, "--tls-key", key];
    served().flags(&["--client-tls", "required", "--upstream-tls", "off"]).flags(&pair)
}

fn with_two_pairs() -> Doctor {
    let authority = Authority::new();
    let [one, other] = ["one.test", "other.test"].map(|name| authority.sign(name, Valid::Now));
    let [certificate, key] = [one.cert, other.key].map(|path| path.to_str().unwrap().to_owned());
    offering(&certificate, &key).keeping(authority)
}

/// A bridge of nobody's that would listen there.
fn listening_at(address: &str) -> Option<Doctor> {
    let place = Place::new(&["10.0.0.1"])?;
    place.serve(&Fake::mysql(), &["10.0.0.1"]);
    let doctor = Doctor::bare().flags(&["10.0.0.1", "--allow-any"]).listening(address);
    Some(by_nobody(doctor.inside(&place.namespace)))
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

/// What the bridge shows its clients is looked at, and so is what Hyperdrive would make of it.
#[test]
fn a_certificate_for_clients_is_looked_at() {
    let authority = Authority::new();
    let valid = [
        (Valid::Now, None),
        (Valid::Soon, Some("expires_soon")),
        (Valid::NoMore, Some("expired")),
        (Valid::NotYet, Some("weak_file")),
    ];
    for (valid, cause) in valid {
        let pair = authority.sign("bridge.test", valid);
        fs::set_permissions(&pair.key, Permissions::from_mode(0o600)).unwrap();
        let report = offering(pair.cert.to_str().unwrap(), pair.key.to_str().unwrap()).is_well();
        assert_eq!(report.one("host.tls")["cause"].as_str(), cause, "{}", report.text);
        assert_eq!(report.statuses("hyperdrive.tls"), ["ok"], "{}", report.text);
    }
    let report = offering("/nowhere/cert.pem", "/nowhere/key.pem").report();
    assert_eq!(report.statuses("hyperdrive.tls"), ["skip"], "{}", report.text);
}

/// A pipe gives what is in it once: whoever read it again would wait for ever.
#[test]
fn a_certificate_for_clients_is_read_once() {
    let authority = Authority::new();
    let pair = authority.sign("bridge.test", Valid::Now);
    let text = fs::read(&pair.cert).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.pem");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let doctor = offering(pipe.to_str().unwrap(), pair.key.to_str().unwrap());
    let given = thread::spawn(move || fs::write(pipe, text).unwrap());
    let output = run(doctor.command(&[]));
    given.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("its certificates are valid until"), "{text}");
    assert!(text.contains("the listener 127.0.0.1:0 offers it"), "{text}");
}

/// It would keep the new one from starting; or this is not what is to be run.
#[test]
fn the_admin_port_of_a_bridge_for_others_is_in_the_way() {
    let bridge = Bridge::to(Fake::mysql().start()).start();
    let server = Fake::mysql().start().to_string();
    let flags = [&*server, "--listen", "127.0.0.1:0", "--admin", &bridge.admin.to_string()];
    Doctor::bare().flags(&flags).warns("host.admin", "port_taken");
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
    for check in ["host.port", "host.admin"] {
        assert!(report.evidence(check).contains("tidegate"), "{}", report.text);
    }
}

#[test]
fn of_two_ports_the_taken_one_is_named() {
    let taken = listener();
    let at = taken.local_addr().unwrap().to_string();
    let server = Fake::mysql().start().to_string();
    let both = format!("127.0.0.1:0,{at}");
    let doctor = Doctor::bare().flags(&[&server]).listening(&both).keeping(taken);
    let report = doctor.notes("host.port", "port_taken");
    let failed: Vec<_> = report.all("host.port").into_iter().collect();
    let failed = failed.iter().find(|one| one["status"] == "fail").unwrap();
    assert!(failed.to_string().contains(&at), "{failed}");
}

/// A client has it, and then nobody has until the kernel forgets it: neither listens there.
#[test]
fn what_has_a_port_is_shown_though_nobody_listens_there() {
    let other = listener();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    socket.bind(&at.into()).unwrap();
    socket.connect(&other.local_addr().unwrap().into()).unwrap();
    let socket = TcpStream::from(socket);
    let (accepted, _) = other.accept().unwrap();
    let doctor =
        || Doctor::bare().flags(&[&Fake::mysql().start().to_string()]).listening(&at.to_string());
    let report = doctor().notes("host.port", "port_taken");
    let shown = shown_by(report.one("host.port"));
    assert!(shown.contains("ESTAB") && shown.contains(&format!("pid={}", id())), "{shown}");
    // Who ends first keeps the port. Said, not dropped: a child that another test begins has both for a moment.
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&accepted).read(&mut [0]).unwrap(), 0);
    accepted.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&socket).read(&mut [0]).unwrap(), 0);
    drop((socket, accepted));
    let report = doctor().notes("host.port", "port_taken");
    let shown = shown_by(report.one("host.port"));
    assert!(shown.contains("TIME-WAIT"), "{shown}");
}

#[test]
fn who_listens_at_a_path_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("it's.sock");
    let taken = UnixListener::bind(&path).unwrap();
    let listen = format!("unix:{}", path.display());
    let doctor = Doctor::bare()
        .flags(&[&Fake::mysql().start().to_string()])
        .listening(&listen)
        .keeping(taken);
    let report = doctor.notes("host.port", "port_taken");
    let shown = shown_by(report.one("host.port"));
    assert!(shown.contains(&format!("pid={}", id())), "{shown}");
}

/// What the command at the end of a hint prints.
fn shown_by(finding: &Value) -> String {
    let hint = finding["hint"].as_str().unwrap();
    let mut shell = command("sh");
    shell.args(["-c", hint.lines().last().unwrap()]);
    succeed(shell)
}

#[test]
fn the_ports_are_free_again_afterwards() {
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let server = Fake::mysql().start().to_string();
    Doctor::bare().flags(&[&server]).listening(&listen).is_well();
    TcpListener::bind(listen).unwrap();
}

#[test]
fn a_socket_in_the_file_system_is_looked_at_and_not_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tidegate.sock");
    let listen = format!("unix:{}", path.display());
    let server = Fake::mysql().start().to_string();
    Doctor::bare().flags(&[&server]).listening(&listen).is_well();
    assert!(!path.exists());
}

#[test]
fn keepalive_is_told_with_what_others_would_have() {
    let report = Doctor::at(Fake::mysql().start()).is_well();
    let told = report.one("host.keepalive").to_string();
    let ours = fs::read_to_string("/proc/sys/net/ipv4/tcp_keepalive_time").unwrap();
    assert!(told.contains(ours.trim()), "{told}");
}
