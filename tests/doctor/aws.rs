//! Where in AWS the host is; on hosts elsewhere nothing is sent to where the answer would be.

use std::io::Write;
use std::net::TcpStream;

use crate::causes;
use crate::fake::Fake;
use crate::place::{Instance, Metadata, PRIVATELINK, PUBLIC, Place, http_date};
use crate::run::Doctor;
use crate::support::tcp::read_to_the_end;
use crate::support::tls::{Authority, Valid};

const FORBIDDEN: &[u8] =
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

causes! {
    a_clock_that_is_a_day_behind_the_metadata: host("us-east-1", 24 * 60 * 60),
        notes "host.clock" "clock_off";
    a_clock_that_is_a_day_before_the_metadata: host("us-east-1", -24 * 60 * 60),
        notes "host.clock" "clock_off";
}

/// An instance in that region, where it is so many seconds later than here.
fn host(region: &'static str, shift: i64) -> Option<Doctor> {
    let place = place()?;
    let instance = Instance { region, zone_id: "use1-az4", date: http_date(shift) };
    Metadata::of(&place, instance);
    Some(looking(&place, "Amazon EC2"))
}

fn place() -> Option<Place> {
    let place = Place::new(&["10.0.0.1", Metadata::ADDRESS])?;
    place.serve(&Fake::gateway(), &["10.0.0.1"]);
    Some(place)
}

fn looking(place: &Place, vendor: &str) -> Doctor {
    let dns = place.dns("127.0.0.1", PRIVATELINK, &["10.0.0.1"]);
    place.asks(vec![dns], PRIVATELINK).on(vendor)
}

/// Its private name is not known elsewhere.
#[test]
fn a_gateway_of_another_region_is_not_reached() {
    let Some(doctor) = host("eu-west-1", 0) else { return };
    doctor.warns("aws.region", "other_region");
    let Some(place) = place() else { return };
    let instance = Instance { region: "eu-west-1", zone_id: "euw1-az1", date: http_date(0) };
    Metadata::of(&place, instance);
    let dns = place.dns("127.0.0.1", PUBLIC, &["3.112.7.9"]);
    let doctor = place.asks(vec![dns], PRIVATELINK).on("Amazon EC2");
    doctor.finds(&[("name.address", "nxdomain"), ("aws.region", "region_mismatch")]);
}

#[test]
fn another_region_than_that_of_the_way_in_for_everybody_is_no_more_than_far() {
    let authority = Authority::new();
    let fake = Fake::gateway().tls(&authority.sign(PUBLIC, Valid::Now));
    let Some(place) = Place::new(&["3.112.7.9", Metadata::ADDRESS]) else { return };
    place.serve(&fake, &["3.112.7.9"]);
    let instance = Instance { region: "eu-west-1", zone_id: "euw1-az1", date: http_date(0) };
    Metadata::of(&place, instance);
    let dns = place.dns("127.0.0.1", PUBLIC, &["3.112.7.9"]);
    place.asks(vec![dns], PUBLIC).on("Amazon EC2").warns("aws.region", "other_region");
}

#[test]
fn the_gateways_region_is_as_it_should_be_and_the_zone_is_told() {
    let Some(doctor) = host("us-east-1", 0) else { return };
    let report = doctor.is_well();
    assert_eq!(report.statuses("aws.region"), ["ok"], "{}", report.text);
    assert!(report.evidence("aws.region").contains("us-east-1"), "{}", report.text);
    assert!(report.evidence("aws.zone").contains("use1-az4"), "{}", report.text);
}

#[test]
fn hosts_that_are_not_in_ec2_send_nothing_there() {
    for vendor in ["", "QEMU", "Google", "Microsoft Corporation"] {
        let Some(place) = place() else { return };
        let instance = Instance { region: "eu-west-1", zone_id: "euw1-az1", date: http_date(0) };
        let metadata = Metadata::of(&place, instance);
        let report = looking(&place, vendor).is_well();
        assert_eq!(metadata.visits(), 0, "{vendor}: {}", report.text);
        assert_eq!(report.statuses("aws.region"), ["skip"], "{vendor}: {}", report.text);
    }
}

#[test]
fn metadata_that_is_pointed_at_is_asked_wherever_the_host_is() {
    let instance = Instance { region: "eu-west-1", zone_id: "euw1-az1", date: http_date(0) };
    let metadata = instance.start();
    let doctor = Doctor::at(Fake::mysql().start()).flags(&["--metadata", &metadata.to_string()]);
    let report = doctor.is_well();
    assert!(report.evidence("aws.region").contains("eu-west-1"), "{}", report.text);
    assert!(report.evidence("aws.zone").contains("euw1-az1"), "{}", report.text);
}

#[test]
fn metadata_that_is_switched_off_silent_or_nonsense_is_no_failure() {
    let acts: [fn(TcpStream); 4] = [
        |mut stream| drop(stream.write_all(FORBIDDEN)),
        |stream| drop(read_to_the_end(&stream)),
        |mut stream| drop(stream.write_all(b"\x1b[31mred\r\n\r\n")),
        drop,
    ];
    for act in acts {
        let Some(place) = place() else { return };
        let metadata = Metadata::acting(&place, act);
        let report = looking(&place, "Amazon EC2").is_well();
        assert!(metadata.visits() > 0, "{}", report.text);
        assert_eq!(report.statuses("aws.region"), ["skip"], "{}", report.text);
        assert_eq!(report.statuses("aws.zone"), ["skip"], "{}", report.text);
    }
}
