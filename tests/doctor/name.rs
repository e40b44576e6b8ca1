//! What DNS says of a gateway, and what it should not.

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use hickory_resolver::proto::rr::RecordType;
use tidegate::demo::dns::{DnsServer, Lie};

use crate::causes;
use crate::fake::Fake;
use crate::place::{PLAIN, PRIVATELINK, PUBLIC, Place, counted, dns, named, named_at};
use crate::run::Doctor;
use crate::support::bridge::file;
use crate::support::tls::{Authority, Valid};

causes! {
    a_name_that_is_not_there:
        named(|dns| dns.lie(PLAIN, Lie::NxDomain)), stops_at "name.address" "nxdomain";
    a_name_without_an_address:
        named(|dns| dns.set(PLAIN, &[], 60)), stops_at "name.address" "no_address";
    an_alias_of_nothing:
        named(|dns| {
            dns.set(PLAIN, &[], 60);
            dns.lie(PLAIN, Lie::Chain(vec![60, 60]));
        }), stops_at "name.address" "no_address";
    a_dns_server_that_cannot_find_out:
        named(|dns| dns.lie(PLAIN, Lie::ServFail)), stops_at "name.address" "servfail";
    a_dns_server_that_does_not_tell:
        named(|dns| dns.lie(PLAIN, Lie::Refused)), stops_at "name.address" "dns_refused";
    a_dns_server_that_talks_nonsense:
        named(|dns| dns.lie(PLAIN, Lie::Garbage)), stops_at "name.address" "dns_malformed";
    a_dns_server_that_never_answers_for_ipv4:
        named(|dns| {
            dns.lie_about(PLAIN, RecordType::A, Lie::Silence);
            dns.lie_about(PLAIN, RecordType::AAAA, Lie::NoData);
        }), stops_at "name.address" "dns_timeout";
    a_dns_server_that_is_silent:
        named(|dns| dns.lie(PLAIN, Lie::Silence)), stops_at "name.address" "dns_timeout";
    a_dns_server_that_answers_another_question:
        named(|dns| dns.lie(PLAIN, Lie::WrongId)), stops_at "name.address" "dns_timeout";
    a_dns_server_that_is_not_there: not_there(), stops_at "name.address" "dns_timeout";
    no_dns_server_at_all: no_server(), stops_at "name.resolvers" "no_resolver";
    two_dns_servers_of_different_opinions:
        Disagreement::of(&["10.0.0.1"], &["10.0.0.2"]), notes "name.agreement" "split_answers";
    a_dns_server_that_knows_the_public_address_alone:
        Disagreement::of(&["3.112.7.9"], &["10.0.0.1"]), notes "name.agreement" "split_answers";
    a_dns_server_of_two_that_knows_no_such_name: unknown_to_one(),
        notes "name.agreement" "split_answers";
    a_filter_that_takes_the_answer_away:
        Disagreement::of(&[], &["10.0.0.1"]), notes "name.private" "rebinding_filter";
    a_filter_that_answers_with_nowhere:
        Disagreement::of(&["0.0.0.0"], &["10.0.0.1"]), notes "name.private" "rebinding_filter";
    a_filter_that_answers_with_nowhere_alone:
        at(PRIVATELINK, &["0.0.0.0"], &[]), stops_at "name.private" "rebinding_filter";
    a_filter_that_answers_with_this_host:
        Disagreement::of(&["127.0.0.1"], &["10.0.0.1"]), notes "name.private" "rebinding_filter";
    a_private_name_with_a_public_address:
        at(PRIVATELINK, &["3.112.7.9"], &[]), stops_at "name.private" "public_address";
    a_name_that_was_said_to_be_private_with_a_public_address:
        at(PLAIN, &["3.112.7.9"], &["--require-private", "true"]),
        stops_at "name.private" "public_address";
}

/// Nobody is behind the port.
fn not_there() -> Doctor {
    // No other test takes ports of this address.
    let gone = DnsServer::start("127.0.97.1:0".parse().unwrap()).unwrap().address();
    Doctor::at(PLAIN).nameserver(gone)
}

/// A host that knows of none.
fn no_server() -> Option<Doctor> {
    Some(Place::new(&[])?.doctor(PRIVATELINK).on(""))
}

/// Of two servers one has never heard of the name.
fn unknown_to_one() -> Option<Doctor> {
    let place = Place::new(&["10.0.0.1"])?;
    place.serve(&Fake::gateway(), &["10.0.0.1"]);
    let servers = ["127.0.0.2", "127.0.0.3"].map(|at| place.dns(at, PRIVATELINK, &["10.0.0.1"]));
    servers[1].lie(PRIVATELINK, Lie::NxDomain);
    Some(place.asks(servers.into(), PRIVATELINK))
}

/// A name with these addresses, at each of which there is a server.
fn at(name: &str, addresses: &[&str], flags: &[&str]) -> Option<Doctor> {
    let place = Place::new(addresses)?;
    place.serve(&Fake::gateway(), addresses);
    let dns = place.dns("127.0.0.1", name, addresses);
    Some(place.asks(vec![dns], name).flags(flags))
}

/// Two DNS servers, of which each answers for a private endpoint in its own way.
struct Disagreement;

impl Disagreement {
    fn of(first: &[&str], second: &[&str]) -> Option<Doctor> {
        let place = Place::new(&["10.0.0.1", "10.0.0.2"])?;
        place.serve(&Fake::gateway(), &["10.0.0.1", "10.0.0.2"]);
        let servers = [("127.0.0.2", first), ("127.0.0.3", second)];
        let servers = servers.map(|(at, answer)| place.dns(at, PRIVATELINK, answer));
        Some(place.asks(servers.into(), PRIVATELINK))
    }
}

/// What servers and filters say of the name, the address was reached.
#[test]
fn what_tls_is_skipped_for_is_no_fault_of_the_names() {
    for (doctor, check, cause) in [
        (Disagreement::of(&["10.0.0.1"], &["10.0.0.2"]), "name.agreement", "split_answers"),
        (Disagreement::of(&[], &["10.0.0.1"]), "name.private", "rebinding_filter"),
    ] {
        let Some(doctor) = doctor else { return };
        let report = doctor.notes(check, cause);
        for check in ["tls.handshake", "tls.certificate"] {
            assert_eq!(report.evidence(check), "TLS is not offered", "{}", report.text);
        }
    }
}

#[test]
fn private_and_carrier_grade_addresses_are_as_they_should_be() {
    for address in ["10.1.2.3", "172.16.0.9", "192.168.7.7", "100.64.9.9"] {
        let Some(doctor) = at(PRIVATELINK, &[address], &[]) else { return };
        let report = doctor.is_well();
        assert_eq!(report.statuses("name.private"), ["ok"], "{}", report.text);
        let evidence = report.evidence("name.address");
        assert!(evidence.contains(address) && evidence.contains("60"), "with its TTL: {evidence}");
    }
}

#[test]
fn of_a_mixed_answer_the_private_addresses_are_looked_at() {
    let Some(doctor) = at(PRIVATELINK, &["3.112.7.9", "10.0.0.1"], &[]) else { return };
    let report = doctor.is_well();
    assert_eq!(report.one("address.connect")["subject"], "10.0.0.1:4000", "{}", report.text);
}

#[test]
fn an_ipv6_address_without_a_way_to_it_is_no_failure_beside_ipv4() {
    let Some(place) = Place::new(&["10.0.0.1"]) else { return };
    place.serve(&Fake::gateway(), &["10.0.0.1"]);
    let dns = place.dns("127.0.0.1", PRIVATELINK, &["10.0.0.1", "2001:db8::1"]);
    place.asks(vec![dns], PRIVATELINK).finds(&[]);
}

#[test]
fn networks_that_are_said_to_be_private_are() {
    let flags = ["--private-cidrs", "3.112.0.0/16"];
    let Some(doctor) = at(PRIVATELINK, &["3.112.7.9"], &flags) else { return };
    doctor.is_well();
}

#[test]
fn the_way_in_for_everybody_is_warned_of() {
    // It is served as it should be, which without TLS it would not.
    let authority = Authority::new();
    let pair = authority.sign(PUBLIC, Valid::Now);
    let Some(place) = Place::new(&["3.112.7.9"]) else { return };
    place.serve(&Fake::gateway().tls(&pair), &["3.112.7.9"]);
    let dns = place.dns("127.0.0.1", PUBLIC, &["3.112.7.9"]);
    let ca = authority.ca.to_str().unwrap();
    let flags = ["--upstream-tls", "verify-identity", "--tls-ca", ca];
    place.asks(vec![dns], PUBLIC).flags(&flags).warns("name.pattern", "public_name");
}

#[test]
fn what_a_name_tells_is_told() {
    let Some(doctor) = at(PRIVATELINK, &["10.0.0.1"], &[]) else { return };
    let report = doctor.is_well();
    let evidence = report.evidence("name.pattern");
    for word in ["Starter", "AWS", "us-east-1", "private"] {
        assert!(evidence.contains(word), "{word}: {evidence}");
    }
}

mod one_dns_server_that_answers_is_enough_when_the_other {
    use super::*;

    #[test]
    fn is_silent() {
        enough_beside(Lie::Silence).warns("name.resolvers", "resolver_silent");
    }

    #[test]
    fn cannot_find_out() {
        enough_beside(Lie::ServFail).is_well();
    }

    #[test]
    fn does_not_tell() {
        enough_beside(Lie::Refused).is_well();
    }

    #[test]
    fn is_not_there() {
        let gone = DnsServer::start("127.0.97.2:0".parse().unwrap()).unwrap().address();
        let doctor = named_at(Fake::mysql().start(), |_| ());
        doctor.nameserver(gone).warns("name.resolvers", "resolver_silent");
    }

    fn enough_beside(lie: Lie) -> Doctor {
        let other = dns(&[]);
        other.lie(PLAIN, lie);
        let doctor = named_at(Fake::mysql().start(), |_| ());
        doctor.nameserver(other.address()).keeping(other)
    }
}

#[test]
fn an_answer_that_is_slow_truncated_or_behind_aliases_is_an_answer() {
    let lies = [Lie::Late(Duration::from_millis(300)), Lie::Truncated, Lie::Chain(vec![60, 60])];
    for lie in lies {
        named_at(Fake::mysql().start(), |dns| dns.lie(PLAIN, lie)).is_well();
    }
}

#[test]
fn an_address_needs_no_dns() {
    let asked = dns(&[]);
    let doctor = Doctor::at(Fake::mysql().start()).nameserver(asked.address());
    let report = doctor.is_well();
    assert!(["ok", "skip"].contains(&report.statuses("name.address")[0]), "{}", report.text);
    let queries = [RecordType::A, RecordType::AAAA, RecordType::NS, RecordType::SOA];
    assert_eq!(queries.map(|kind| asked.queries(kind)), [0; 4]);
}

#[test]
fn the_hosts_file_counts() {
    let Some(place) = Place::new(&["10.0.0.1"]) else { return };
    place.serve(&Fake::mysql(), &["10.0.0.1"]);
    let dns = place.dns("127.0.0.1", "other.test", &[]);
    let hosts = file("10.0.0.1 db.test\n");
    let bind = format!("mount --bind '{}' /etc/hosts && exec \"$@\"", hosts.display());
    let doctor = place.asks(vec![dns], PLAIN).on("").around(&["sh", "-c", &bind, "sh"]);
    doctor.keeping(hosts).warns("name.address", "hosts_file");
}

/// Each name of the list is asked for, and each takes its time.
#[test]
fn a_dns_server_that_is_silent_for_a_whole_search_list() {
    let Some(place) = Place::new(&[]) else { return };
    let port = place.namespace.enter(|| {
        (UdpSocket::bind("127.0.0.1:53").unwrap(), TcpListener::bind("127.0.0.1:53").unwrap())
    });
    let conf = file("search a.test b.test\nnameserver 127.0.0.1\n");
    let bind = format!("mount --bind '{}' /etc/resolv.conf && exec \"$@\"", conf.display());
    let doctor = place.doctor(PLAIN).on("").around(&["sh", "-c", &bind, "sh"]);
    doctor.keeping((port, conf)).stops_at("name.address", "dns_timeout");
}

#[test]
fn a_public_address_is_not_called_on() {
    let Some(place) = Place::new(&["3.112.7.9"]) else { return };
    let visits = counted(&place, "3.112.7.9:4000");
    let dns = place.dns("127.0.0.1", PRIVATELINK, &["3.112.7.9"]);
    place.asks(vec![dns], PRIVATELINK).stops_at("name.private", "public_address");
    assert_eq!(visits(), 0);
}
