//! Who is let in, who waits, who is turned away.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::time::{Instant, advance};

use super::limits::{Limits, Origin, Refusal, is_allowed};
use crate::config;
use crate::net::address::Peer;

const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const TWO: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

fn at(address: IpAddr) -> Option<Origin> {
    Some(Origin { address, vpc_endpoint: None, link_id: None })
}

fn listener(text: &str) -> config::Listener {
    let text = format!("[[listener]]\nname = \"app\"\n{text}\n[upstream.a]\ngateway = \"a\"\n");
    config::parse(&text, "test").unwrap().listeners.remove(0)
}

#[tokio::test(start_paused = true)]
async fn beyond_max_connections_the_first_in_the_queue_is_the_first_to_go_in() {
    let gate = Limits::new(10).gate("app");
    let listener = listener("max_connections = 1\nqueue = 2\n");
    let inside = gate.admit(&listener, Some(ONE), at(ONE)).await.unwrap();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let (gate, listener) = (gate.clone(), listener.clone());
            tokio::spawn(async move { gate.admit(&listener, Some(ONE), at(ONE)).await })
        })
        .collect();
    tokio::task::yield_now().await;
    assert_eq!(
        gate.admit(&listener, Some(ONE), at(ONE)).await.unwrap_err(),
        Refusal::Full(1),
        "no queue left"
    );

    drop(inside);
    let mut waiting = waiting.into_iter();
    let second = waiting.next().unwrap().await.unwrap().unwrap();
    let started = Instant::now();
    assert_eq!(waiting.next().unwrap().await.unwrap().unwrap_err(), Refusal::Full(1));
    assert_eq!(started.elapsed(), listener.queue_timeout, "it waited in vain");
    drop(second);
    assert!(
        gate.admit(&listener, Some(ONE), at(ONE)).await.is_ok(),
        "nobody holds a place any more"
    );
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_all_holds_across_listeners_and_can_be_changed() {
    let limits = Limits::new(1);
    let (app, other) = (limits.gate("app"), limits.gate("other"));
    let listener = listener("");
    let inside = app.admit(&listener, Some(ONE), at(ONE)).await.unwrap();
    assert_eq!(other.admit(&listener, Some(ONE), at(ONE)).await.unwrap_err(), Refusal::Full(1));
    let waits =
        tokio::spawn(async move { other.admit(&listener, Some(ONE), at(ONE)).await.is_ok() });
    tokio::task::yield_now().await;
    limits.set_most(2);
    assert!(waits.await.unwrap(), "there is room for two now");
    drop(inside);
}

#[tokio::test]
async fn one_source_may_have_so_many_and_others_as_well() {
    let gate = Limits::new(10).gate("app");
    let listener = listener("max_connections_per_source = 1");
    let inside = gate.admit(&listener, Some(ONE), at(ONE)).await.unwrap();
    let refusal = gate.admit(&listener, Some(ONE), at(ONE)).await.unwrap_err();
    assert_eq!(refusal, Refusal::Source(ONE, 1));
    assert!(gate.admit(&listener, Some(TWO), at(TWO)).await.is_ok());
    drop(inside);
    assert!(gate.admit(&listener, Some(ONE), at(ONE)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_source_has_no_more_in_the_queue_than_it_may_have_open() {
    let gate = Limits::new(10).gate("app");
    let listener = listener("max_connections = 1\nmax_connections_per_source = 1");
    let inside = gate.admit(&listener, Some(TWO), at(TWO)).await.unwrap();
    let admit = || {
        let (gate, listener) = (gate.clone(), listener.clone());
        tokio::spawn(async move { gate.admit(&listener, Some(ONE), at(ONE)).await })
    };
    let waits = admit();
    tokio::task::yield_now().await;
    assert_eq!(admit().await.unwrap().unwrap_err(), Refusal::Source(ONE, 1));
    drop(inside);
    drop(waits.await.unwrap().unwrap());

    // Who waits in vain, or leaves, gives its share back.
    let _inside = gate.admit(&listener, Some(TWO), at(TWO)).await.unwrap();
    assert_eq!(admit().await.unwrap().unwrap_err(), Refusal::Full(1));
    let leaves = admit();
    tokio::task::yield_now().await;
    leaves.abort();
    assert!(leaves.await.is_err());
    assert_eq!(admit().await.unwrap().unwrap_err(), Refusal::Full(1));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_has_its_share_takes_nothing_of_the_rate() {
    let gate = Limits::new(100).gate("app");
    let listener = listener("max_connections_per_source = 1\naccept_rate = 10\nqueue = 0");
    let _inside = gate.admit(&listener, Some(ONE), at(ONE)).await.unwrap();
    for _ in 0..100 {
        let refusal = gate.admit(&listener, Some(ONE), at(ONE)).await.unwrap_err();
        assert_eq!(refusal, Refusal::Source(ONE, 1));
    }
    assert!(gate.admit(&listener, Some(TWO), at(TWO)).await.is_ok());
}

#[tokio::test]
async fn the_same_address_behind_another_private_endpoint_is_somebody_else() {
    let gate = Limits::new(10).gate("app");
    let listener = listener("max_connections_per_source = 1");
    let through = |endpoint: &str, link_id| {
        Some(Origin { address: ONE, vpc_endpoint: Some(endpoint.into()), link_id })
    };
    let _one = gate.admit(&listener, Some(ONE), through("vpce-1", None)).await.unwrap();
    let _two = gate.admit(&listener, Some(ONE), through("vpce-2", None)).await.unwrap();
    let _three = gate.admit(&listener, Some(ONE), through("vpce-2", Some(1))).await.unwrap();
    let refusal = gate.admit(&listener, Some(ONE), through("vpce-1", None)).await.unwrap_err();
    assert_eq!(refusal, Refusal::Source(ONE, 1));
}

#[tokio::test]
async fn what_is_no_client_s_counts_for_no_source_and_can_be_denied() {
    let gate = Limits::new(10).gate("app");
    let listener = listener("max_connections_per_source = 1\ndeny = [\"10.0.0.2\"]");
    let _client = gate.admit(&listener, Some(ONE), at(ONE)).await.unwrap();
    let _own = gate.admit(&listener, Some(ONE), None).await.unwrap();
    let _another = gate.admit(&listener, Some(ONE), None).await.unwrap();
    assert_eq!(gate.admit(&listener, Some(TWO), None).await.unwrap_err(), Refusal::Denied(TWO));
    // A header may say it so.
    let mapped = IpAddr::V6(Ipv4Addr::new(10, 0, 0, 2).to_ipv6_mapped());
    let address = Peer::Tcp((mapped, 1).into()).ip();
    assert_eq!(gate.admit(&listener, address, None).await.unwrap_err(), Refusal::Denied(TWO));
}

#[tokio::test(start_paused = true)]
async fn the_rate_lets_a_second_s_worth_in_at_once_and_then_one_after_the_other() {
    let gate = Limits::new(1000).gate("app");
    let listener = listener("accept_rate = 10\nqueue = 3\n");
    advance(Duration::from_secs(3600)).await;
    let started = Instant::now();
    for _ in 0..11 {
        gate.admit(&listener, Some(ONE), at(ONE)).await.unwrap();
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
    for _ in 0..20 {
        gate.admit(&listener, Some(ONE), at(ONE)).await.unwrap();
    }
    assert_eq!(started.elapsed().as_secs(), 2);
    let crowd: Vec<_> = (0..10)
        .map(|_| {
            let (gate, listener) = (gate.clone(), listener.clone());
            tokio::spawn(async move { gate.admit(&listener, Some(ONE), at(ONE)).await.is_ok() })
        })
        .collect();
    let mut let_in = 0;
    for one in crowd {
        let_in += usize::from(one.await.unwrap());
    }
    assert_eq!(let_in, 3, "only so many may wait");
}

#[test]
fn deny_goes_before_allow_and_an_empty_allow_is_everybody() {
    let all = listener("deny = [\"10.0.0.1\"]");
    assert!(!is_allowed(&all, ONE) && is_allowed(&all, TWO));
    let some = listener("allow = [\"10.0.0.0/8\"]\ndeny = [\"10.0.0.1\"]");
    assert!(!is_allowed(&some, ONE) && is_allowed(&some, TWO));
    assert!(!is_allowed(&some, "192.168.0.1".parse().unwrap()));
}
