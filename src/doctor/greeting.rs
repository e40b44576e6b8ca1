//! Whether a MySQL-protocol server greets.

use std::io;

use super::answers::Advice;
use super::case::Case;
use super::finding::{Finding, together};
use super::journey::{Greeted, Journey, Trouble};
use crate::mysql::error::{Problem, Refusal};
use crate::mysql::handshake::ServerKind;
use crate::upstream::plan::Service;

const CHECK: &str = "mysql.greeting";

/// Waits until it is known of each; returns those that have greeted.
pub(super) async fn examine(case: &Case, open: Vec<Journey>) -> Vec<(Journey, Greeted)> {
    if open.is_empty() || !case.is_mysql() {
        match case.is_mysql() {
            true => case.behind(&[CHECK], "there is no connection"),
            false => case.skip(&[CHECK], "protocol = \"tcp\": what is spoken is not known"),
        }
        return Vec::new();
    }
    let (mut findings, mut greeted) = (Vec::new(), Vec::new());
    for mut journey in open {
        let address = journey.address;
        match (&mut journey.greeted).await {
            Ok(Ok(hello)) => {
                let evidence = format!("{}, by {}", product(&hello), hello.plugin);
                findings.push(Finding::ok(CHECK, evidence).of(address));
                greeted.push((journey, hello));
            }
            Ok(Err(trouble)) => findings.push(failed(case, &trouble).of(address)),
            Err(_) => findings.push(Finding::skip(CHECK, "the check has ended before").of(address)),
        }
    }
    case.tell_all(together(findings));
    greeted
}

fn product(hello: &Greeted) -> String {
    let name = match hello.kind {
        ServerKind::MySql => "MySQL",
        ServerKind::MariaDb => "MariaDB",
        ServerKind::TiDb => "TiDB",
    };
    format!("{name} {}", hello.version)
}

fn failed(case: &Case, trouble: &Trouble) -> Finding {
    let fail = |cause, evidence: String, likely: &str, hint: &str| {
        Finding::fail(CHECK, cause, evidence)
            .advised(&Advice { likely: likely.to_owned(), hint: hint.to_owned() })
    };
    let problem = match trouble {
        Trouble::Timeout(_) => {
            return fail(
                "greeting_timeout",
                format!("accepted, and then {trouble}"),
                "the server hangs, or looks this host's name up first; or what listens there waits to \
                 be spoken to: it is not MySQL, or wants a PROXY header",
                "is it the port of a MySQL server? One that reads PROXY headers wants \
                 send_proxy_protocol (--send-proxy-protocol); one that is slow, skip_name_resolve",
            );
        }
        Trouble::Wire(problem) => problem,
    };
    match problem {
        Problem::Closed => fail(
            "closed_after_accept",
            "accepted, and closed without a greeting".into(),
            without_target(case),
            served(case),
        ),
        Problem::Broken(error) if error.kind() == io::ErrorKind::ConnectionReset => fail(
            "reset_after_accept",
            "accepted, and reset without a greeting".into(),
            without_target(case),
            served(case),
        ),
        Problem::Refused(refusal) => of_refusal(case, refusal),
        Problem::Malformed(_) => fail(
            "not_mysql",
            problem.to_string(),
            "something else listens on that port",
            "is the port right? A TiDB Cloud gateway's is 4000, MySQL's is 3306",
        ),
        other => fail(
            "greeting_broken",
            other.to_string(),
            "the connection broke on the way",
            "try again; if it stays so, look at what is between",
        ),
    }
}

fn without_target(case: &Case) -> &'static str {
    match case.plan.as_ref().is_some_and(|plan| plan.is_private) {
        true => {
            "a load balancer without a healthy target; or the service does not let this endpoint in \
             (not accepted, or not on its list of authorized networks)"
        }
        false => {
            "a load balancer or proxy that has no server behind it, or a server that refuses this host"
        }
    }
}

fn served(case: &Case) -> &'static str {
    match case.plan.as_ref().map(|plan| plan.service) {
        Some(Service::Dedicated) => {
            "in the console: is the cluster running, was the endpoint accepted, and is it allowed?"
        }
        Some(Service::Starter) => {
            "in the console, under networking: is the cluster active, and is this endpoint \
             authorized?"
        }
        _ => "does the server run, and does the load balancer's health check pass?",
    }
}

/// An ERR packet in the place of the greeting.
fn of_refusal(case: &Case, refusal: &Refusal) -> Finding {
    let evidence = refusal.to_string();
    let fail = |cause, likely: &str, hint: String| {
        let advice = Advice { likely: likely.to_owned(), hint };
        Finding::fail(CHECK, cause, &evidence).advised(&advice)
    };
    match refusal.code {
        1129 => fail(
            "host_blocked",
            "the server has counted too many connections of this host that ended before their \
             log-in: health checks of a load balancer, mostly",
            "lift it, and raise the limit (max_connect_errors):\n\
             mysqladmin flush-hosts   # or TRUNCATE TABLE performance_schema.host_cache"
                .into(),
        ),
        1130 => fail(
            "host_denied",
            "no account of the server may log in from this host",
            "create the user for this host's address: CREATE USER 'app'@'10.0.0.%'".into(),
        ),
        _ if is_limit(refusal) => fail(
            "connection_limit",
            "all connections that the server allows are in use",
            limit_hint(case).into(),
        ),
        _ if mentions(refusal, &["quota", "spending limit"]) => fail(
            "connection_limit",
            "the cluster has used up its quota",
            "raise the spending limit of the cluster, or wait for the next month".into(),
        ),
        _ => fail(
            "err_greeting",
            "the server, or a proxy before it, turns everybody away for now",
            "its words say why".into(),
        ),
    }
}

/// Whether it is for too many connections, in a server's or a gateway's words.
pub(super) fn is_limit(refusal: &Refusal) -> bool {
    [1040, 1203].contains(&refusal.code)
        || mentions(refusal, &["connection limit", "too many connections"])
}

/// What to do about too many connections.
pub(super) fn limit_hint(case: &Case) -> &'static str {
    match case.is_service(Service::Starter) {
        true => {
            "close idle connections, make applications' pools smaller, or set a spending limit, \
             which raises the cluster's limit of connections"
        }
        false => {
            "close idle connections, make applications' pools smaller, or raise the server's \
             max_connections"
        }
    }
}

/// Whether its words have one of these in them.
pub(super) fn mentions(refusal: &Refusal, words: &[&str]) -> bool {
    let message = refusal.message.to_ascii_lowercase();
    words.iter().any(|word| message.contains(word))
}
