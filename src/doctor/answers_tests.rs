//! What answers mean together.

use std::time::Duration;

use super::answers::{Advice, Inquiry, judge};
use super::finding::{Finding, Status};
use crate::upstream::{Answer, Heard, LookupError};

const HOST: &str = "gateway01-privatelink.us-east-1.prod.aws.tidbcloud.com";

#[test]
fn one_cause_is_one_failure_and_says_what_can_still_be_dialled() {
    let (inside, outside, filtered) = (&["10.0.0.1"], &["3.112.7.9"], &["127.0.0.1"]);
    for (name, answers, failure, dialled) in [
        ("well", vec![ok(inside)], None, vec!["10.0.0.1"]),
        ("agreed", vec![ok(inside), ok(inside)], None, vec!["10.0.0.1"]),
        ("none", vec![none(), none()], Some("nxdomain"), vec![]),
        ("empty", vec![empty()], Some("no_address"), vec![]),
        ("silent", vec![silent(), silent()], Some("dns_timeout"), vec![]),
        ("one silent", vec![silent(), ok(inside)], None, vec!["10.0.0.1"]),
        ("public", vec![ok(outside)], Some("public_address"), vec![]),
        ("split", vec![ok(outside), ok(inside)], Some("split_answers"), vec!["10.0.0.1"]),
        ("half", vec![none(), ok(inside)], Some("split_answers"), vec!["10.0.0.1"]),
        ("other", vec![ok(&["10.9.9.9"]), ok(inside)], Some("split_answers"), vec!["10.9.9.9"]),
        ("filtered", vec![empty(), ok(inside)], Some("rebinding_filter"), vec!["10.0.0.1"]),
        ("bent", vec![ok(filtered), ok(inside)], Some("rebinding_filter"), vec!["10.0.0.1"]),
        ("zero", vec![ok(&["0.0.0.0"])], Some("rebinding_filter"), vec![]),
        ("mixed", vec![ok(&["3.112.7.9", "10.0.0.1"])], None, vec!["10.0.0.1"]),
    ] {
        let (findings, addresses) = heard(answers, true);
        let failed: Vec<_> = failures(&findings);
        assert_eq!(failed, Vec::from_iter(failure), "{name}: {findings:?}");
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, dialled, "{name}");
        for check in ["name.address", "name.agreement", "name.private"] {
            assert!(findings.iter().any(|one| one.check == check), "{name}: no {check}");
        }
    }
}

#[test]
fn readers_that_take_turns_in_dns_are_no_failure() {
    let (findings, _) = heard(vec![ok(&["10.0.0.1"]), ok(&["10.0.0.2"])], false);
    assert_eq!(failures(&findings), [""; 0]);
    assert!(findings.iter().any(|one| one.cause == Some("split_answers")));
}

#[test]
fn a_server_that_is_silent_or_of_no_use_is_warned_of_where_another_answers() {
    let of = |answers| heard(answers, true).0;
    let warned = |findings: &[Finding]| {
        let warned = findings.iter().filter(|one| one.status == Status::Warn);
        warned.map(|one| (one.check, one.cause.unwrap())).collect::<Vec<_>>()
    };
    let findings = of(vec![silent(), ok(&["10.0.0.1"])]);
    assert_eq!(warned(&findings), [("name.resolvers", "resolver_silent")]);
    let refused = Err(LookupError::Malformed(HOST.into()));
    assert_eq!(warned(&of(vec![ok(&["10.0.0.1"]), refused])), [("name.address", "dns_malformed")]);
}

#[test]
fn the_hosts_file_goes_before_all() {
    let own = ok(&["10.0.0.9"]);
    let servers = [none()].map(|said| Heard { server: server(1), took: Duration::ZERO, said });
    let (findings, addresses) =
        judge(&Inquiry { is_pinned: true, ..inquiry(&servers, &own, true) });
    assert_eq!(failures(&findings), [""; 0]);
    assert!(findings.iter().any(|one| one.cause == Some("hosts_file")));
    assert_eq!(addresses, ["10.0.0.9".parse::<std::net::IpAddr>().unwrap()]);
}

/// The bridge takes the first answer that is one, as it does.
fn heard(
    answers: Vec<Result<Answer, LookupError>>,
    is_privatelink: bool,
) -> (Vec<Finding>, Vec<std::net::IpAddr>) {
    let is_answer = |said: &&Result<Answer, LookupError>| match said {
        Err(error) => ["nxdomain", "empty"].contains(&error.as_str()),
        Ok(_) => true,
    };
    let own = match answers.iter().find(is_answer).or(answers.first()).unwrap() {
        Ok(answer) => Ok(answer.clone()),
        Err(error) => match error.as_str() {
            "nxdomain" => none(),
            "empty" => empty(),
            _ => silent(),
        },
    };
    let servers = answers.into_iter().enumerate();
    let servers = servers
        .map(|(at, said)| Heard { server: server(at as u8), took: Duration::ZERO, said })
        .collect::<Vec<_>>();
    judge(&inquiry(&servers, &own, is_privatelink))
}

fn inquiry<'a>(
    heard: &'a [Heard],
    own: &'a Result<Answer, LookupError>,
    is_privatelink: bool,
) -> Inquiry<'a> {
    let advice = Advice { likely: "it is off".into(), hint: "turn it on".into() };
    Inquiry {
        host: HOST,
        heard,
        own,
        is_pinned: false,
        is_privatelink,
        requires_private: is_privatelink,
        also_private: &[],
        absence: advice.clone(),
        exposure: advice,
    }
}

fn failures(findings: &[Finding]) -> Vec<&'static str> {
    let failed = findings.iter().filter(|one| one.status == Status::Fail);
    failed.filter_map(|one| one.cause).collect()
}

fn server(last: u8) -> std::net::SocketAddr {
    ([192, 0, 2, last], 53).into()
}

fn ok(addresses: &[&str]) -> Result<Answer, LookupError> {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Ok(Answer { addresses, ttl: Duration::from_secs(60), missing: None, is_absolute: true })
}

fn none() -> Result<Answer, LookupError> {
    Err(LookupError::NoSuchName(HOST.into()))
}

fn empty() -> Result<Answer, LookupError> {
    Err(LookupError::NoAddress(HOST.into()))
}

fn silent() -> Result<Answer, LookupError> {
    Err(LookupError::Timeout(HOST.into()))
}
