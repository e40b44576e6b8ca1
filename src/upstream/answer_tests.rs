//! What an answer changes.

use super::resolver::{Answer, Family};
use super::*;
use crate::metrics::Metrics;
use crate::net::connect::ConnectError;

#[tokio::test]
async fn a_family_that_could_not_be_asked_keeps_its_addresses_and_is_asked_again_soon() {
    let upstream = upstream();
    let long = Duration::from_secs(120);

    assert_eq!(upstream.learn(answer(&["10.0.0.1", "fd00::1"], None)), long - long / 10);
    let again = upstream.learn(answer(&["fd00::2"], Some(Family::V4)));
    assert!(again <= upstream.config.min_ttl);
    assert_eq!(known(&upstream), ["10.0.0.1", "fd00::2"]);

    let mut pauses = Vec::new();
    for _ in 0..5 {
        pauses.push(upstream.learn(answer(&["fd00::2"], Some(Family::V4))).as_secs());
    }
    // A little before 10 s, 20 s and so on up to the TTL.
    assert_eq!(pauses, [9, 18, 36, 72, 108], "it is asked less and less often");

    upstream.learn(answer(&["fd00::3"], None));
    assert_eq!(known(&upstream), ["fd00::3"], "an answer that has none is an answer");
}

#[tokio::test]
async fn an_endpoint_that_vanishes_is_known_while_a_session_uses_it_and_keeps_its_past() {
    let upstream = upstream();
    upstream.learn(answer(&["10.0.0.1", "10.0.0.2"], None));
    let first = upstream.known.borrow().endpoints[0].clone();
    first.failed(&ConnectError::Closed);
    let in_use = first.lend();

    upstream.learn(answer(&["10.0.0.2"], None));
    let states: Vec<_> =
        upstream.snapshot().endpoints.iter().map(|endpoint| endpoint.state).collect();
    assert_eq!(states, [EndpointState::Healthy, EndpointState::Vanished]);

    upstream.learn(answer(&["10.0.0.1", "10.0.0.2"], None));
    assert_eq!(upstream.snapshot().endpoints[0].state, EndpointState::Ejected);

    drop(in_use);
    upstream.learn(answer(&["10.0.0.2"], None));
    assert_eq!(known(&upstream), ["10.0.0.2"]);
}

#[tokio::test]
async fn an_endpoint_that_vanishes_is_known_while_it_is_dialled_and_not_for_what_an_old_upstream_knew()
 {
    let old = upstream();
    old.learn(answer(&["10.0.0.1", "10.0.0.2"], None));
    let new = upstream();
    new.take_over(&old);
    let dialled = new.candidates().remove(0).endpoint;
    assert_eq!(dialled.address.ip().to_string(), "10.0.0.1");

    new.learn(answer(&["10.0.0.2"], None));
    assert_eq!(known(&new), ["10.0.0.2", "10.0.0.1"]);
    let in_use = dialled.lend();
    assert_eq!(known(&new), ["10.0.0.2", "10.0.0.1"]);
    drop(in_use);
    assert_eq!(known(&new), ["10.0.0.2"]);
}

fn answer(ips: &[&str], missing: Option<Family>) -> Answer {
    Answer {
        addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ttl: Duration::from_secs(120),
        missing,
        is_absolute: true,
    }
}

fn known(upstream: &Upstream) -> Vec<String> {
    let endpoints = upstream.snapshot().endpoints;
    endpoints.iter().map(|endpoint| endpoint.address.ip().to_string()).collect()
}

fn upstream() -> Upstream {
    let config = config::parse("[upstream.gw]\ngateway = \"gw.test\"\n", "test").unwrap();
    let metrics = Metrics::new().upstream("gw");
    let config::Config { mut upstreams, tcp, .. } = config;
    let repeats = Repeats::default();
    let leg = UpstreamLeg::Passthrough;
    Upstream::new(upstreams.remove(0), leg, tcp, Vec::new(), metrics, Drain::new(), &repeats)
}
