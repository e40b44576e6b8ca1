//! SIGHUP: what changes, for whom, and that nobody is lost.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rustix::process::Signal;
use serde_json::Value;

use support::bridge::{Bridge, tidegate};
use support::tcp::{
    accept, connect, echo, free_port, listener, read_exactly, read_to_the_end, through, try_connect,
};
use support::{until, until_it};

/// A file with one listener; the parts are whole lines.
fn text(
    top: &str,
    bind: &str,
    in_listener: &str,
    gateway: SocketAddr,
    in_upstream: &str,
) -> String {
    format!(
        "admin = \"127.0.0.1:0\"\n{top}\n\
         [[listener]]\nname = \"app\"\nbind = {bind}\nprotocol = \"tcp\"\n{in_listener}\n\
         [upstream.gw]\ngateway = \"{gateway}\"\n{in_upstream}\n"
    )
}

const ANY: &str = "\"127.0.0.1:0\"";

#[test]
fn a_bad_file_changes_nothing_and_the_log_says_why() {
    let gateway = echo();
    let good = text("", ANY, "", gateway, "");
    let mut bridge = Bridge::from_file(&good).start();
    let client = connect(bridge.listen);
    echoes(&client);
    let bad = [
        ("[[listener", "expected"),
        ("drain_timeot = \"1s\"\n[upstream.gw]\ngateway = \"127.0.0.1:1\"", "drain_timeout"),
        ("log_level = \"loud\"\n[upstream.gw]\ngateway = \"127.0.0.1:1\"", "loud"),
        (
            "admin_token_file = \"/nonexistent\"\n[upstream.gw]\ngateway = \"127.0.0.1:1\"",
            "/nonexistent",
        ),
    ];
    for (file, told) in bad {
        bridge.rewrite(file);
        let said = bridge.reload();
        assert!(said.contains("cannot reload") && said.contains(told), "{said}");
        echoes(&client);
        echoes(&connect(bridge.listen));
    }
    // An address that cannot be opened: also the others stay as they are.
    let taken = listener();
    let bind = format!("[\"127.0.0.1:0\", \"127.0.0.2:0\", \"{}\"]", taken.local_addr().unwrap());
    bridge.rewrite(&text("", &bind, "", gateway, ""));
    let said = bridge.reload();
    assert!(said.contains(&taken.local_addr().unwrap().to_string()), "{said}");
    echoes(&connect(bridge.listen));
    assert_eq!(addresses(&bridge), [bridge.listen.to_string()]);

    bridge.rewrite(&good);
    assert!(bridge.reload().contains("\"reloaded\""));
    drop(client);
    bridge.signal(Signal::TERM);
    assert_eq!(bridge.ends().code(), Some(0));
}

#[test]
fn a_changed_bind_opens_the_new_address_before_it_closes_the_old_and_drops_no_session() {
    let gateway = echo();
    let old = until("a bridge", || {
        let port = free_port();
        Bridge::from_file(&text("", &format!("\"127.0.0.1:{port}\""), "", gateway, ""))
            .try_start()
            .ok()
    });
    let session = connect(old.listen);
    echoes(&session);
    // The wildcard covers the old address, at the same port.
    let wildcard = format!("\"0.0.0.0:{}\"", old.listen.port());
    let (lost, served, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    match try_connect(old.listen).map(|client| answers(&client)) {
                        Ok(true) => served.fetch_add(1, Ordering::Relaxed),
                        _ => lost.fetch_add(1, Ordering::Relaxed),
                    };
                }
            });
        }
        until("the load runs", || (served.load(Ordering::Relaxed) > 50).then_some(()));
        old.rewrite(&text("", &wildcard, "allow_any = true", gateway, ""));
        assert!(old.reload().contains("bind"));
        let before = served.load(Ordering::Relaxed);
        until("the load goes on", || (served.load(Ordering::Relaxed) > before + 50).then_some(()));
        done.store(true, Ordering::Relaxed);
    });
    assert!(served.load(Ordering::Relaxed) > 100);
    // Whoever connects between the last accept of an address and its close is reset by the kernel.
    let lost = lost.load(Ordering::Relaxed);
    assert!(lost <= 4, "{lost} connections were lost");
    assert_eq!(addresses(&old), [format!("0.0.0.0:{}", old.listen.port())]);
    echoes(&connect(SocketAddr::from(([127, 0, 0, 9], old.listen.port()))));
    echoes(&session);
}

#[test]
fn listeners_and_upstreams_come_and_go() {
    let (one, two) = (echo(), listener());
    let bridge = Bridge::from_file(&text("", ANY, "", one, "")).start();
    let session = connect(bridge.listen);
    echoes(&session);
    let more = format!(
        "[[listener]]\nname = \"second\"\nbind = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"other\"\n\
         [upstream.other]\ngateway = \"{}\"\n",
        two.local_addr().unwrap()
    );
    let first = text("", ANY, "upstream = \"gw\"", one, "");
    bridge.rewrite(&format!("{first}{more}"));
    bridge.reload();
    let second: SocketAddr = addresses(&bridge)[1].parse().unwrap();
    let (client, server) = through(second, &two);
    (&client).write_all(b"hello").unwrap();
    assert_eq!(read_exactly(&server, 5), b"hello");
    echoes(&connect(bridge.listen));

    bridge.rewrite(&first);
    bridge.reload();
    until("the second is closed", || TcpStream::connect(second).is_err().then_some(()));
    // Its session goes on.
    (&server).write_all(b"still here").unwrap();
    assert_eq!(read_exactly(&client, 10), b"still here");
    echoes(&session);
    let endpoints = [("upstream", "other")];
    assert_eq!(bridge.metrics().sum("tidegate_endpoints", &endpoints), 0.0);
}

#[test]
fn a_changed_gateway_is_for_new_sessions() {
    let (one, two) = (listener(), listener());
    let [first, second] = [&one, &two].map(|gateway| gateway.local_addr().unwrap());
    let bridge = Bridge::from_file(&text("", ANY, "", first, "")).start();
    let (client, server) = through(bridge.listen, &one);
    bridge.rewrite(&text("", ANY, "", second, "connect_timeout = \"1s\""));
    let said = bridge.reload();
    assert!(said.contains("\"new_sessions\":\"gateway connect_timeout\""), "{said}");
    let (_client, _server) = through(bridge.listen, &two);
    (&client).write_all(b"the old one").unwrap();
    assert_eq!(read_exactly(&server, 11), b"the old one");
    let status: Value = serde_json::from_str(&bridge.get("/status.json").body).unwrap();
    let endpoints = status["upstreams"][0]["endpoints"].as_array().unwrap();
    let states: Vec<_> = endpoints.iter().map(|one| one["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["healthy", "vanished"]);
}

#[test]
fn sessions_of_a_gateway_that_has_left_the_file_are_closed_if_asked_for() {
    let keys = "close_vanished_after = \"1s\"";
    let (old, new) = (echo(), echo());
    let another_gateway = text("", ANY, "", new, keys);
    let another_section = another_gateway.replace("upstream.gw", "upstream.other");
    for then in [another_gateway, another_section] {
        let bridge = Bridge::from_file(&text("", ANY, "", old, keys)).start();
        let session = connect(bridge.listen);
        echoes(&session);
        bridge.rewrite(&then);
        assert!(bridge.reload().contains("\"reloaded\""));
        assert!(read_to_the_end(&session).0.is_empty());
        assert_eq!(bridge.close_record().text("reason"), "vanished", "{then}");
    }
}

#[test]
fn a_section_that_gets_another_name_keeps_its_sessions() {
    let gateway = echo();
    let file = text("", ANY, "", gateway, "close_vanished_after = \"1s\"");
    let bridge = Bridge::from_file(&file).start();
    let session = connect(bridge.listen);
    echoes(&session);
    bridge.rewrite(&file.replace("upstream.gw", "upstream.other"));
    bridge.reload();
    let status: Value = serde_json::from_str(&bridge.get("/status.json").body).unwrap();
    assert_eq!(status["upstreams"][0]["name"], "other");
    let endpoint = &status["upstreams"][0]["endpoints"][0];
    assert_eq!((&endpoint["state"], &endpoint["sessions"]), (&"healthy".into(), &1.into()));
}

#[test]
fn what_is_known_of_an_endpoint_outlives_a_reload() {
    let (gateway, _held) = support::tcp::nobody();
    let bridge = Bridge::from_file(&text("", ANY, "", gateway, "")).start();
    let state = || {
        let status: Value = serde_json::from_str(&bridge.get("/status.json").body).unwrap();
        status["upstreams"][0]["endpoints"][0]["state"].as_str().unwrap().to_owned()
    };
    // The RST may be there before the connection is seen.
    let _ = try_connect(bridge.listen).map(|client| drop(read_to_the_end(&client)));
    assert_eq!(state(), "ejected");
    bridge.rewrite(&text("", ANY, "", gateway, "dial_deadline = \"7s\""));
    bridge.reload();
    assert_eq!(state(), "ejected");
}

#[test]
fn live_keys_hold_at_once() {
    let gateway = echo();
    let mut bridge = Bridge::from_file(&text("log_level = \"warn\"", ANY, "", gateway, "")).start();
    let session = connect(bridge.listen);
    echoes(&session);
    drop(connect(bridge.listen));
    let closed = || bridge.metrics().sum("tidegate_connections_closed_total", &[]);
    until_it("it is closed", closed, |count| *count == 1.0);
    assert!(bridge.log().is_empty(), "{:?}", bridge.log());
    bridge.rewrite(&text("log_level = \"info\"\ndrain_timeout = \"1s\"", ANY, "", gateway, ""));
    let said = bridge.reload();
    assert!(said.contains("\"live\":\"drain_timeout log_level\""), "{said}");
    drop(connect(bridge.listen));
    bridge.close_record();
    // The session would keep it for 25 s.
    bridge.signal(Signal::TERM);
    assert_eq!(bridge.ends().code(), Some(0));
    drop(session);
}

#[test]
fn keys_for_new_sessions_leave_the_others_alone() {
    let gateway = echo();
    let bridge = Bridge::from_file(&text("", ANY, "", gateway, "")).start();
    let old = connect(bridge.listen);
    echoes(&old);
    bridge.rewrite(&text("", ANY, "idle_timeout = \"1s\"", gateway, ""));
    let said = bridge.reload();
    assert!(said.contains("\"new_sessions\":\"idle_timeout\""), "{said}");
    let new = connect(bridge.listen);
    echoes(&new);
    let (_, end) = read_to_the_end(&new);
    assert!(end.is_ok(), "{end:?}");
    assert_eq!(bridge.close_record().text("reason"), "idle_timeout");
    echoes(&old);
}

#[test]
fn keys_that_need_a_restart_are_named_and_stay_as_they_were() {
    let gateway = echo();
    let bridge = Bridge::from_file(&text("", ANY, "", gateway, "")).start();
    let changed = text("threads = 3\nlog_format = \"json\"", ANY, "", gateway, "")
        .replace("admin = \"127.0.0.1:0\"", "admin = \"127.0.0.2:0\"");
    bridge.rewrite(&changed);
    bridge.reload();
    let warned = |line: &String| line.contains("only after a restart") && line.contains("admin");
    until("the keys are named", || bridge.log().iter().any(warned).then_some(()));
    assert_eq!(bridge.get("/readyz").status, 200, "the admin endpoint is where it was");
}

#[test]
fn an_endpoint_that_leaves_the_file_while_it_is_dialled_serves_its_client() {
    let (one, two) = (listener(), echo());
    let file = text("", ANY, "", one.local_addr().unwrap(), "").replace("\"tcp\"", "\"mysql\"");
    let bridge = Bridge::from_file(&file).start();
    let client = connect(bridge.listen);
    let mut server = accept(&one);
    bridge.rewrite(&text("", ANY, "", two, ""));
    bridge.reload();
    server.write_all(b"hello").unwrap();
    assert_eq!(read_exactly(&client, 5), b"hello");
}

#[test]
fn certificates_are_read_again_although_the_file_that_names_them_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let make = |days: &str, name: &str| {
        let args = ["render", "certificate", "--out", out, "--force", "--days", days, name];
        let output = tidegate(&args);
        assert!(output.status.success(), "{output:?}");
    };
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    make("10", "db.test");
    make("10", "other.test");
    let tls = format!(
        "client_tls = \"required\"\ntls_cert = \"{}\"\ntls_key = \"{}\"",
        at("db.test.crt"),
        at("db.test.key")
    );
    let (gateway, _held) = support::tcp::nobody();
    let text =
        text("", ANY, &tls, gateway, "upstream_tls = \"off\"").replace("\"tcp\"", "\"mysql\"");
    let bridge = Bridge::from_file(&text).start();
    let series = "tidegate_certificate_expiry_timestamp_seconds";
    let client = [("side", "client")];
    let expiry = || bridge.metrics().sum(series, &client);
    let first = expiry();
    assert!(bridge.metrics().samples(series, &[("side", "upstream")]).is_empty());

    make("20", "db.test");
    let said = bridge.reload();
    assert!(said.contains("\"reloaded\""), "{said}");
    let second = expiry();
    assert!((second - first - 10.0 * 86_400.0).abs() < 3_600.0, "{first} {second}");

    fs::copy(at("other.test.key"), at("db.test.key")).unwrap();
    let said = bridge.reload();
    for part in ["cannot reload", "`app`", "tls_key", "db.test.key", "not the key"] {
        assert!(said.contains(part), "no {part} in:\n{said}");
    }
    assert_eq!(expiry(), second);
    assert_eq!(bridge.get("/livez").status, 200);

    make("20", "db.test");
    fs::set_permissions(at("db.test.key"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(bridge.reload().contains("\"reloaded\""));
    let warned = |line: &&String| line.contains("WARN") && line.contains("0644");
    assert_eq!(bridge.log().iter().filter(warned).count(), 1, "{:?}", bridge.log());

    bridge.rewrite(&text.replace(&tls, "").replace("upstream_tls = \"off\"", ""));
    let said = bridge.reload();
    assert!(said.contains("client_tls tls_cert tls_key upstream_tls"), "{said}");
    assert!(bridge.metrics().samples(series, &[]).is_empty());
}

#[test]
fn many_reloads_leave_nothing_behind() {
    let gateway = echo();
    let bridge = Bridge::from_file(&text("", ANY, "", gateway, "")).start();
    echoes(&connect(bridge.listen));
    let before = bridge.fds();
    for round in 0..20 {
        let bind = format!("[{ANY}, \"127.0.0.{}:0\"]", 2 + round % 2);
        bridge.rewrite(&text(
            &format!("drain_timeout = \"{}s\"", round + 1),
            &bind,
            "",
            gateway,
            "",
        ));
        bridge.reload();
        echoes(&connect(bridge.listen));
    }
    bridge.rewrite(&text("", ANY, "", gateway, ""));
    bridge.reload();
    until("as many descriptors as before", || (bridge.fds() <= before).then_some(()));
}

fn addresses(bridge: &Bridge) -> Vec<String> {
    let status: Value = serde_json::from_str(&bridge.get("/status.json").body).unwrap();
    let listeners = status["listeners"].as_array().unwrap().clone();
    let addresses = listeners.iter().flat_map(|one| one["addresses"].as_array().unwrap().clone());
    addresses.map(|address| address.as_str().unwrap().to_owned()).collect()
}

fn echoes(client: &TcpStream) {
    assert!(answers(client));
}

fn answers(mut client: &TcpStream) -> bool {
    let mut answer = [0; 5];
    client.write_all(b"marco").and_then(|()| client.read_exact(&mut answer)).is_ok()
        && answer == *b"marco"
}
