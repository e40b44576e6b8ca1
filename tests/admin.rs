//! The admin endpoint: probes, metrics, status, drain, and the close record beside them.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tidegate::demo::dns::DnsServer;

use support::bridge::{Bridge, Metrics, file, http};
use support::namespace::Namespace;
use support::process::{Process, command, installed};
use support::tcp::{connect, echo, nobody, read_exactly, try_connect};
use support::{PATIENCE, skip, until, until_it};

#[test]
fn each_probe_answers_200_and_one_line() {
    let bridge = Bridge::tcp(echo()).start();
    for path in ["/livez", "/readyz", "/startupz", "/healthz/deep"] {
        let reply = bridge.get(path);
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        assert_eq!(reply.body.trim_end().lines().count(), 1, "{path}: {reply:?}");
    }
}

#[test]
fn a_dead_gateway_is_the_deep_checks_business_and_not_readiness() {
    let (gateway, _held) = nobody();
    let bridge = Bridge::tcp(gateway).start();
    let deep = bridge.get("/healthz/deep");
    assert_eq!(deep.status, 503, "{deep:?}");
    assert!(deep.body.contains(&gateway.to_string()), "the gateway is not named: {deep:?}");
    assert_eq!(deep.body.trim_end().lines().count(), 1, "{deep:?}");
    assert_eq!(bridge.get("/readyz").status, 200);
    assert_eq!(bridge.get("/livez").status, 200);
}

#[test]
fn a_name_that_does_not_resolve_yet_keeps_the_bridge_from_having_started() {
    let dns = DnsServer::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let bridge = Bridge::tcp("later.tidegate.test:4000")
        .flags(&["--nameserver", &dns.address().to_string()])
        .start();
    let reply = bridge.get("/startupz");
    assert_eq!(reply.status, 503, "{reply:?}");
    assert_eq!(bridge.get("/livez").status, 200);

    dns.set("later.tidegate.test", &["127.0.0.1".parse().unwrap()], 1);

    until("the bridge has started", || (bridge.get("/startupz").status == 200).then_some(()));
    assert_eq!(bridge.get("/readyz").status, 200);
}

/// Each asks for more than its socket holds, and reads nothing.
#[test]
fn those_who_do_not_read_keep_no_probe_out_and_hold_few_descriptors() {
    let bridge = Bridge::tcp(echo()).start();
    let before = bridge.fds();
    let asked = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1_000);
    let crowd: Vec<_> = (0..200)
        .map(|_| {
            let client = connect(bridge.admin);
            // Those that have given way are reset.
            let _ = (&client).write_all(asked.as_bytes());
            client
        })
        .collect();
    assert_eq!(bridge.get("/livez").status, 200);
    until_it("few are held", || bridge.fds(), |fds| *fds <= before + 72);
    drop(crowd);
}

#[test]
fn an_unknown_path_is_404_and_a_wrong_method_405() {
    let bridge = Bridge::tcp(echo()).start();
    assert_eq!(bridge.get("/nowhere").status, 404);
    assert_eq!(bridge.http("POST", "/nowhere").status, 404);
    for path in
        ["/livez", "/readyz", "/startupz", "/metrics", "/status", "/status.json", "/healthz/deep"]
    {
        let reply = bridge.http("POST", path);
        assert_eq!(reply.status, 405, "{path}");
        assert!(reply.headers.contains("allow: get"), "{path}: {reply:?}");
    }
    let reply = bridge.get("/drain");
    assert_eq!(reply.status, 405);
    assert!(reply.headers.contains("allow: post"), "{reply:?}");
    assert_eq!(bridge.get("/readyz").status, 200, "asking for /drain is not draining");
}

#[test]
fn post_drain_drains() {
    let mut bridge = Bridge::tcp(echo()).start();
    let client = connect(bridge.listen);
    echoes(&client);
    let reply = bridge.http("POST", "/drain");
    assert!((200..300).contains(&reply.status), "{reply:?}");
    until("readiness is off", || (bridge.get("/readyz").status == 503).then_some(()));
    echoes(&client);
    drop(client);
    assert_eq!(bridge.ends().code(), Some(0));
}

#[test]
fn from_another_host_reading_is_open_and_draining_needs_the_token() {
    let (Some(inside), Some(outside)) = (Namespace::new().map(Arc::new), Namespace::new()) else {
        return;
    };
    inside.join("10.77.3.1", &outside, "10.77.3.2");
    let token = file("low-water-mark\n");
    let start = |top: &str| {
        let file = format!(
            "admin = \"10.77.3.1:0\"\n{top}\n\
             [[listener]]\nbind = \"127.0.0.1:0\"\nupstream = \"peer\"\nprotocol = \"tcp\"\n\
             [upstream.peer]\ngateway = \"127.0.0.1:1\"\n"
        );
        Bridge::from_file(&file).inside(&inside).start()
    };
    let from_outside = |bridge: &Bridge, method: &str, path: &str, headers: &str| {
        outside.enter(|| http(bridge.admin, method, path, headers).status)
    };

    let without_token = start("");
    assert_eq!(from_outside(&without_token, "GET", "/metrics", ""), 200);
    assert_eq!(from_outside(&without_token, "GET", "/readyz", ""), 200);
    for headers in ["", "Authorization: Bearer \r\n", "Authorization: Bearer low-water-mark\r\n"] {
        let status = from_outside(&without_token, "POST", "/drain", headers);
        assert!(matches!(status, 401 | 403), "{status} with {headers:?}");
    }
    assert_eq!(from_outside(&without_token, "GET", "/readyz", ""), 200, "it drains all the same");

    let mut with_token = start(&format!("admin_token_file = \"{}\"", token.display()));
    for headers in
        ["", "Authorization: Bearer high-water-mark\r\n", "Authorization: low-water-mark\r\n"]
    {
        let status = from_outside(&with_token, "POST", "/drain", headers);
        assert!(matches!(status, 401 | 403), "{status} with {headers:?}");
    }
    assert_eq!(from_outside(&with_token, "GET", "/readyz", ""), 200, "it drains all the same");
    let status =
        from_outside(&with_token, "POST", "/drain", "Authorization: Bearer low-water-mark\r\n");
    assert!((200..300).contains(&status), "{status} with the token");
    assert_eq!(with_token.ends().code(), Some(0));
}

#[test]
fn the_status_page_shows_the_listener_the_gateway_and_what_is_open() {
    let gateway = echo();
    let bridge = Bridge::tcp(gateway).start();
    let client = connect(bridge.listen);
    echoes(&client);

    let page = bridge.get("/status");
    assert_eq!(page.status, 200);
    assert!(page.headers.contains("content-type: text/html"), "{}", page.headers);
    assert!(
        page.body.contains("<html") && page.body.contains(&gateway.to_string()),
        "{}",
        page.body
    );

    let json = bridge.get("/status.json");
    assert_eq!(json.status, 200);
    assert!(json.headers.contains("content-type: application/json"), "{}", json.headers);
    let status: Value = serde_json::from_str(&json.body).unwrap();
    for expected in
        [gateway.to_string(), bridge.listen.to_string(), env!("CARGO_PKG_VERSION").into()]
    {
        assert!(status.to_string().contains(&expected), "no {expected} in {status}");
    }
}

#[test]
fn every_metric_of_the_contract_is_there_and_counts() {
    let gateway = echo();
    let bridge = Bridge::tcp(gateway).start();
    let before = bridge.metrics();
    assert_eq!(before.sum("tidegate_connections_total", &[]), 0.0);
    assert_eq!(before.samples("tidegate_connections_total", &[]).len(), 1, "known before it moves");

    let client = connect(bridge.listen);
    echoes(&client);
    let open = bridge.metrics();
    assert_eq!(open.sum("tidegate_connections_total", &[]), 1.0);
    assert_eq!(open.sum("tidegate_connections_open", &[]), 1.0);
    drop(client);
    bridge.has_accounted_for(1.0);

    let after = bridge.metrics();
    let one = |name: &str, labels: &[(&str, &str)], keys: &[&str]| {
        let samples = after.samples(name, labels);
        let [sample] = samples[..] else { panic!("{name}{labels:?}: {samples:?}") };
        let mut found: Vec<&str> = sample.labels.keys().map(String::as_str).collect();
        found.retain(|key| *key != "le");
        let mut keys = keys.to_vec();
        keys.sort();
        assert_eq!(found, keys, "labels of {name}");
        sample.value
    };
    assert_eq!(
        one(
            "tidegate_build_info",
            &[("version", env!("CARGO_PKG_VERSION"))],
            &["version", "commit"]
        ),
        1.0
    );
    assert_eq!(one("tidegate_connections_total", &[], &["listener"]), 1.0);
    assert_eq!(one("tidegate_connections_open", &[], &["listener"]), 0.0);
    let end = [("side", "client"), ("reason", "eof")];
    assert_eq!(
        one("tidegate_connections_closed_total", &end, &["listener", "side", "reason"]),
        1.0
    );
    for direction in ["client_to_upstream", "upstream_to_client"] {
        let labels = [("direction", direction), ("path", "copy")];
        assert_eq!(one("tidegate_bytes_total", &labels, &["listener", "direction", "path"]), 5.0);
    }
    assert_eq!(one("tidegate_connect_seconds_count", &[], &["listener", "pool_result"]), 1.0);
    assert_eq!(one("tidegate_connection_seconds_count", &[], &["listener"]), 1.0);
    assert_eq!(one("tidegate_dial_seconds_count", &[], &["upstream"]), 1.0);
    assert_eq!(one("tidegate_endpoints", &[("state", "healthy")], &["upstream", "state"]), 1.0);
    assert_eq!(one("tidegate_log_lines_dropped_total", &[], &[]), 0.0);
    for process in
        ["open_fds", "max_fds", "resident_memory_bytes", "cpu_seconds_total", "start_time_seconds"]
    {
        assert!(one(&format!("process_{process}"), &[], &[]) >= 0.0);
    }
    // The scrape itself holds a few, and the standard streams are pipes.
    let fds = one("process_open_fds", &[], &[]);
    assert!((fds - bridge.fds() as f64).abs() <= 6.0, "{fds} against /proc's {}", bridge.fds());
}

#[test]
fn failed_dials_are_counted_by_reason() {
    let (gateway, _held) = nobody();
    let bridge = Bridge::tcp(gateway).start();
    drop(try_connect(bridge.listen));
    bridge.has_accounted_for(1.0);
    let metrics = bridge.metrics();
    let failures = metrics.samples("tidegate_dial_failures_total", &[("reason", "refused")]);
    assert_eq!(failures.len(), 1, "{metrics:?}");
    assert_eq!(failures[0].value, 1.0);
    assert!(failures[0].labels.contains_key("upstream"));
    assert_eq!(metrics.sum("tidegate_dial_seconds_count", &[]), 0.0);
}

#[test]
fn look_ups_and_addresses_are_counted_for_a_name() {
    let dns = DnsServer::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let name = "two.tidegate.test";
    dns.set(name, &["127.0.0.2", "127.0.0.3"].map(|ip| ip.parse().unwrap()), 60);
    let bridge = Bridge::tcp(format!("{name}:4000"))
        .flags(&["--nameserver", &dns.address().to_string()])
        .start();

    let addresses = |metrics: &Metrics| metrics.sum("tidegate_endpoints", &[("state", "healthy")]);
    let metrics =
        until_it("two addresses are known", || bridge.metrics(), |seen| addresses(seen) == 2.0);

    assert!(metrics.sum("tidegate_dns_lookups_total", &[("result", "ok")]) >= 1.0, "{metrics:?}");
    let success = metrics.sum("tidegate_dns_last_success_timestamp_seconds", &[]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - success).abs() < 60.0, "{success} is not now, {now}");
}

#[test]
fn bytes_are_counted_while_a_session_is_open() {
    let bridge = Bridge::tcp(echo()).start();
    let client = connect(bridge.listen);
    let counted =
        |direction| bridge.metrics().sum("tidegate_bytes_total", &[("direction", direction)]);
    for round in 1..=3 {
        echoes(&client);
        let sent = 5.0 * f64::from(round);
        for direction in ["client_to_upstream", "upstream_to_client"] {
            // A write may be seen before it is counted.
            until_it(direction, || counted(direction), |bytes| *bytes == sent);
        }
    }
    assert_eq!(bridge.open_connections(), 1.0);
}

#[test]
fn promtool_finds_nothing_to_say_about_the_metrics() {
    if !installed("promtool") {
        return skip("no `promtool` here (Debian package prometheus)");
    }
    let bridge = Bridge::tcp(echo()).start();
    drop(connect(bridge.listen));
    bridge.has_accounted_for(1.0);
    let reply = bridge.get("/metrics");
    assert!(reply.headers.contains("content-type: text/plain; version=0.0.4"), "{}", reply.headers);

    let mut promtool = command("promtool");
    promtool
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut promtool = Process::spawn(promtool);
    promtool.child.stdin.take().unwrap().write_all(reply.body.as_bytes()).unwrap();
    let status = promtool.wait(PATIENCE);

    let said = [promtool.child.stdout.take().map(text), promtool.child.stderr.take().map(text)];
    assert!(status.success(), "{said:?}");
    assert!(said.iter().flatten().all(String::is_empty), "{said:?}");
}

#[test]
fn a_close_record_tells_the_whole_story() {
    let gateway = echo();
    let bridge = Bridge::tcp(gateway).start();
    for _ in 0..2 {
        let client = connect(bridge.listen);
        let address = client.local_addr().unwrap();
        echoes(&client);
        drop(client);
        let record = until("the record of this client", || {
            let records = bridge.close_records(1);
            records.into_iter().find(|record| record.text("client") == address.to_string())
        });
        assert!(!record.text("listener").is_empty());
        assert_eq!(record.text("endpoint"), gateway.to_string());
        assert_eq!(record.text("pool"), "off");
        assert_eq!((record.text("side"), record.text("reason")), ("client", "eof"));
        assert_eq!(
            (record.number("bytes_to_upstream"), record.number("bytes_to_client")),
            (5.0, 5.0)
        );
        let (connect, duration) = (record.number("connect_ms"), record.number("duration_ms"));
        assert!(0.0 < connect && connect <= duration && duration < 30_000.0, "{record:?}");
        assert!(record.number("upstream_rtt_us") > 0.0, "{record:?}");
        assert!(record.number("upstream_retransmits") >= 0.0, "{record:?}");
        assert_eq!(record.text("level"), "INFO");
    }
    let ids: Vec<f64> = bridge.close_records(2).iter().map(|record| record.number("id")).collect();
    assert_ne!(ids[0], ids[1]);
}

fn echoes(mut client: &TcpStream) {
    client.write_all(b"marco").unwrap();
    assert_eq!(read_exactly(client, 5), b"marco");
}

fn text(mut pipe: impl std::io::Read) -> String {
    let mut text = String::new();
    pipe.read_to_string(&mut text).unwrap();
    text
}
