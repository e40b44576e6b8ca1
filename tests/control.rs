//! `drain`, `wait` and `status`: the client of a running bridge's admin endpoint, and of what is
//! mistaken for one.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tidegate::demo::dns::DnsServer;

use support::bridge::{Bridge, file, tidegate, tidegate_in, tidegate_inside};
use support::namespace::Namespace;
use support::tcp::{accept, connect, echo, free_port, listener, nobody, read_exactly, serve};
use support::until;

#[test]
fn wait_returns_at_once_when_the_bridge_is_ready() {
    let bridge = Bridge::tcp(echo()).start();
    for flags in [&[][..], &["--ready"]] {
        let said = succeeds(&ask(&["wait"], bridge.admin, flags));
        assert_eq!(said, format!("tidegate: http://{} is ready\n", bridge.admin));
    }
}

#[test]
fn wait_outlasts_a_bridge_that_starts_later() {
    let before = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).unwrap();
    let address = before.local_addr().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| ask(&["wait"], address, &[]));
        // Somebody else is there first, so that it has looked at least once.
        drop(accept(&before));
        drop(before);
        let bridge = until("the port is free again", || {
            Bridge::tcp_with("", echo()).flags(&["--admin", &address.to_string()]).try_start().ok()
        });
        assert_eq!(bridge.admin, address);
        succeeds(&waiting.join().unwrap());
    });
}

#[test]
fn wait_says_why_a_bridge_is_not_ready_and_notices_when_it_is() {
    let dns = DnsServer::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let bridge = Bridge::tcp("later.tidegate.test:4000")
        .flags(&["--nameserver", &dns.address().to_string()])
        .start();

    let said = fails(&ask(&["wait"], bridge.admin, &["--max", "50ms"]));
    let beginning = format!("tidegate: not ready within 50ms: http://{} says: ", bridge.admin);
    assert!(said.starts_with(&beginning), "{said}");
    assert!(said.contains("no address for later.tidegate.test:4000"), "{said}");

    dns.set("later.tidegate.test", &["127.0.0.1".parse().unwrap()], 1);
    succeeds(&ask(&["wait"], bridge.admin, &[]));
}

#[test]
fn wait_gone_lasts_until_nobody_listens() {
    let mut bridge = Bridge::tcp(echo()).start();
    let client = connect(bridge.listen);
    echoes(&client);
    let admin = bridge.admin;
    let gone = |max| ask(&["wait", "--gone"], admin, &["--max", max]);

    let said = fails(&gone("50ms"));
    let beginning = format!("tidegate: not gone within 50ms: http://{} ", bridge.admin);
    assert!(said.starts_with(&(beginning.clone() + "still answers: ready")), "{said}");
    bridge.signal(Signal::TERM);
    until("readiness is off", || (bridge.get("/readyz").status == 503).then_some(()));
    let said = fails(&gone("50ms"));
    assert!(said.starts_with(&(beginning + "still answers: draining")), "{said}");

    thread::scope(|scope| {
        let waiting = scope.spawn(|| gone("30s"));
        drop(client);
        let said = succeeds(&waiting.join().unwrap());
        assert_eq!(said, format!("tidegate: http://{} is gone\n", bridge.admin));
    });
    assert_eq!(bridge.ends().code(), Some(0));
    succeeds(&gone("0s"));
}

#[test]
fn drain_begins_it_and_a_second_one_is_told_so() {
    let token = file("low-water-mark\n");
    let with_token = ["--admin-token-file", token.to_str().unwrap()];
    for flags in [&[][..], &with_token] {
        let mut bridge = Bridge::tcp(echo()).start();
        let client = connect(bridge.listen);
        echoes(&client);

        let at = format!("tidegate: http://{} is ", bridge.admin);
        let said = succeeds(&ask(&["drain"], bridge.admin, flags));
        assert_eq!(said, format!("{at}draining, 1 session is open\n"));
        assert_eq!(bridge.get("/readyz").status, 503);
        let said = succeeds(&ask(&["drain"], bridge.admin, flags));
        assert_eq!(said, format!("{at}already draining, 1 session is open\n"));
        echoes(&client);

        drop(client);
        assert_eq!(bridge.ends().code(), Some(0));
    }
}

/// From this host nobody is asked for it.
#[test]
fn drain_needs_no_token_that_it_may_not_read() {
    let token = file("low-water-mark\n");
    let text = |admin: &str| {
        format!(
            "admin = \"{admin}\"\nadmin_token_file = \"{}\"\n\
             [[listener]]\nbind = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n\
             [upstream.peer]\ngateway = \"127.0.0.1:1\"\n",
            token.display()
        )
    };
    let mut bridge = Bridge::from_file(&text("127.0.0.1:0")).start();
    fs::remove_file(&token).unwrap();
    let config = file(&text(&bridge.admin.to_string()));
    succeeds(&tidegate(&["drain", "--config", config.to_str().unwrap()]));
    assert_eq!(bridge.ends().code(), Some(0));
}

#[test]
fn drain_from_another_host_is_told_what_it_lacks() {
    let (Some(inside), Some(outside)) = (Namespace::new().map(Arc::new), Namespace::new()) else {
        return;
    };
    inside.join("10.77.4.1", &outside, "10.77.4.2");
    let [right, wrong] = ["low-water-mark\n", "high-water-mark\n"].map(file);
    let start = || {
        let text = format!(
            "admin = \"10.77.4.1:0\"\nadmin_token_file = \"{}\"\n\
             [[listener]]\nbind = \"127.0.0.1:0\"\nupstream = \"peer\"\nprotocol = \"tcp\"\n\
             [upstream.peer]\ngateway = \"127.0.0.1:1\"\n",
            right.display()
        );
        Bridge::from_file(&text).inside(&inside).start()
    };
    let drain = |bridge: &Bridge, flags: &[&str]| {
        let address = bridge.admin.to_string();
        tidegate_inside(&outside, &[&["drain", "--admin", &address], flags].concat())
    };

    let mut bridge = start();
    let refused = format!("tidegate: http://{} refused to drain: ", bridge.admin);
    let said = fails(&drain(&bridge, &[]));
    assert!(said.starts_with(&refused) && said.contains("admin_token_file"), "{said}");
    assert!(said.contains("\nhint: ") && said.contains("--admin-token-file FILE"), "{said}");
    let said = fails(&drain(&bridge, &["--admin-token-file", wrong.to_str().unwrap()]));
    assert!(said.starts_with(&refused), "{said}");
    assert!(said.contains("\nhint: the token that was sent is not"), "{said}");
    assert_eq!(bridge.get("/readyz").status, 200, "it drains all the same");
    // Whoever may read may wait.
    let wait = ["wait", "--admin", &bridge.admin.to_string()];
    succeeds(&tidegate_inside(&outside, &wait));
    succeeds(&drain(&bridge, &["--admin-token-file", right.to_str().unwrap()]));
    assert_eq!(bridge.ends().code(), Some(0));

    let mut bridge = start();
    let config = file(&format!("admin_token_file = \"{}\"\n", right.display()));
    succeeds(&drain(&bridge, &["--config", config.to_str().unwrap()]));
    assert_eq!(bridge.ends().code(), Some(0));
}

#[test]
fn status_is_a_table_for_people_and_json_for_programs() {
    let gateway = echo();
    let bridge = Bridge::tcp(gateway).start();
    let client = connect(bridge.listen);
    echoes(&client);
    let counted = || bridge.metrics().sum("tidegate_bytes_total", &[]);
    until("both directions are counted", || (counted() == 10.0).then_some(()));

    let text = succeeds(&ask(&["status"], bridge.admin, &[]));
    let words = |first: &str| -> Vec<Vec<String>> {
        let rows = text.lines().filter(|row| row.starts_with(first));
        rows.map(|row| row.split_whitespace().map(str::to_owned).collect()).collect()
    };
    let (listen, gateway) = (bridge.listen.to_string(), gateway.to_string());
    assert_eq!(
        text.lines().next().unwrap(),
        format!(
            "tidegate {} at http://{}: serving, process {}",
            env!("CARGO_PKG_VERSION"),
            bridge.admin,
            bridge.pid()
        )
    );
    let row = &words("127.0.0.1:0")[0];
    assert_eq!(row[1..], [&listen, "gateway", "off", "1", "1", "5", "B", "5", "B"], "{text}");
    assert_eq!(words("gateway")[0], ["gateway", &gateway, "not", "needed"], "{text}");
    let row = &words(&gateway)[0];
    assert_eq!(row[..4], [&gateway, "gateway", "healthy", "1"], "{text}");
    assert_eq!(row.last().unwrap(), "resolved", "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");

    let json = succeeds(&ask(&["status"], bridge.admin, &["--json"]));
    assert_eq!(json, bridge.get("/status.json").body);
}

#[test]
fn where_nobody_listens_is_named_with_a_hint() {
    let (address, _held) = nobody();
    for command in ["status", "drain"] {
        let said = fails(&ask(&[command], address, &[]));
        let beginning = format!("tidegate: cannot connect to http://{address}: Connection refused");
        assert!(said.starts_with(&beginning), "{said}");
        assert!(said.contains("\nhint: is it running? "), "{said}");
    }
    let said = fails(&ask(&["wait"], address, &["--max", "50ms"]));
    let beginning = format!("tidegate: not ready within 50ms: cannot connect to http://{address}:");
    assert!(said.starts_with(&beginning), "{said}");
    assert!(said.contains("\nhint: is it running? "), "{said}");
}

#[test]
fn what_is_no_tidegate_is_told_apart_from_one() {
    let not_found = "HTTP/1.1 404 Not Found\r\nContent-Length: 14\r\n\r\nwhat\u{1b}[2J is it\n";
    let cases: [(&str, &[u8], &str); 6] = [
        ("another protocol", b"\x4a\0\0\0\x0a8.0.36\0 not what was asked for\n", "no HTTP answer"),
        ("another page", not_found.as_bytes(), "answered 404 Not Found: what[2J is it"),
        ("no page", b"HTTP/1.1 204 No Content\r\n\r\n", "answered 204 No Content\n"),
        ("nothing", b"", "no HTTP answer"),
        ("half an answer", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "no HTTP answer"),
        ("half a head", b"HTTP/1.1 200 OK\r\nContent-", "no HTTP answer"),
    ];
    for (what, answer, expected) in cases {
        let address = answering(answer);
        for command in ["status", "drain"] {
            let said = fails(&ask(&[command], address, &[]));
            assert!(said.contains(&format!("http://{address}")), "{what}: {said}");
            assert!(said.contains(expected), "{what}: {said}");
            assert!(said.contains("\nhint: is it the admin address "), "{what}: {said}");
        }
        fails(&ask(&["wait"], address, &["--max", "50ms"]));
        fails(&ask(&["wait", "--gone"], address, &["--max", "50ms"]));
    }

    let eager = serve(&listener(), |mut stream| {
        let _ = stream.write_all(b"\x4a\0\0\0\x0a8.0.36\0 not waiting to be asked");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let said = fails(&ask(&["status"], eager, &[]));
    assert!(said.contains("no HTTP answer"), "{said}");

    let address = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes");
    for flags in [&[][..], &["--json"]] {
        let said = fails(&ask(&["status"], address, flags));
        assert!(said.contains("is no status of a tidegate"), "{said}");
    }
    let said = fails(&ask(&["drain"], address, &[]));
    assert!(said.contains("/drain answered 200 OK: yes\nhint: "), "{said}");
}

#[test]
fn nobody_hangs_on_one_that_never_answers_or_never_ends() {
    let silent = serve(&listener(), |stream| drop((&stream).read_to_end(&mut Vec::new())));
    let endless = serve(&listener(), |mut stream| {
        is_asked(&stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b' '; 65_536]).is_ok() {}
    });
    let slow = serve(&listener(), |mut stream| {
        is_asked(&stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{");
        let _ = stream.read_to_end(&mut Vec::new());
    });

    let hangs_on = |address: SocketAddr, expected: &str| {
        let start = Instant::now();
        let said = fails(&ask(&["wait", "--gone"], address, &["--max", "300ms"]));
        assert!(said.contains(&format!("{expected} http://{address}")), "{said}");
        assert!(start.elapsed() < Duration::from_secs(10), "took {:?}", start.elapsed());
        let said = fails(&ask(&["status"], address, &[]));
        assert!(said.starts_with(&format!("tidegate: {expected} http://{address}")), "{said}");
        assert!(said.contains("\nhint: "), "{said}");
        assert!(start.elapsed() < Duration::from_secs(20), "took {:?}", start.elapsed());
    };
    thread::scope(|scope| {
        scope.spawn(|| hangs_on(silent, "no answer from"));
        scope.spawn(|| hangs_on(slow, "no answer from"));
        scope.spawn(|| hangs_on(endless, "no HTTP answer from"));
    });
}

#[test]
fn nobody_hangs_on_a_host_that_is_cut_off() {
    let (Some(inside), Some(outside)) = (Namespace::new(), Namespace::new()) else { return };
    inside.join("10.77.5.1", &outside, "10.77.5.2");
    inside.cut();
    let from_outside = |command: &[&str]| {
        let args = [command, &["--admin", "10.77.5.1:9400"]].concat();
        fails(&tidegate_inside(&outside, &args))
    };
    let said = from_outside(&["status"]);
    let beginning = "tidegate: no connection to http://10.77.5.1:9400 within 3s\nhint: ";
    assert!(said.starts_with(beginning), "{said}");
    // It may be there all the same.
    let said = from_outside(&["wait", "--gone", "--max", "50ms"]);
    assert!(said.starts_with("tidegate: not gone within 50ms: no "), "{said}");
}

#[test]
fn the_address_comes_from_the_flag_before_the_variable_before_the_file() {
    let bridge = Bridge::tcp(echo()).start();
    let (wrong, _held) = nobody();
    let [wrong, right] = [wrong, bridge.admin].map(|address| address.to_string());
    let finds = |flag: Option<&str>, variable: Option<&str>, in_file: &str| {
        let config = file(&format!("admin = \"{in_file}\"\n"));
        let mut args = vec!["status", "--config", config.to_str().unwrap()];
        args.extend(flag.iter().flat_map(|address| ["--admin", address]));
        let variables: Vec<_> = variable.iter().map(|value| ("TIDEGATE_ADMIN", *value)).collect();
        let said = succeeds(&tidegate_in(&args, &variables));
        assert!(said.contains(&format!(" at http://{right}: ")), "{said}");
    };
    finds(None, None, &right);
    finds(None, Some(&right), &wrong);
    finds(None, Some(""), &right);
    finds(Some(&right), Some(&wrong), &wrong);

    let config = file(&format!("admin = \"{right}\"\n"));
    let variables = [("TIDEGATE_CONFIG", config.to_str().unwrap())];
    succeeds(&tidegate_in(&["status"], &variables));
    // A file that is not needed may be one that only the bridge can read.
    let variables = [("TIDEGATE_CONFIG", "/nowhere/tidegate.toml"), ("TIDEGATE_ADMIN", &right)];
    succeeds(&tidegate_in(&["wait"], &variables));
}

#[test]
fn every_address_of_the_host_means_its_loopback() {
    let bridge = Bridge::tcp_with("", echo()).flags(&["--admin", "0.0.0.0:0"]).start();
    let config = file(&format!("admin = \"{}\"\n", bridge.admin));
    let said = succeeds(&tidegate(&["wait", "--config", config.to_str().unwrap()]));
    assert_eq!(said, format!("tidegate: http://127.0.0.1:{} is ready\n", bridge.admin.port()));
    succeeds(&ask(&["drain"], bridge.admin, &[]));
}

#[test]
fn the_settings_of_the_bridge_beside_it_do_no_harm() {
    let bridge = Bridge::tcp(echo()).start();
    let help = String::from_utf8(tidegate(&["run", "--help"]).stdout).unwrap();
    let names = help.split("[env: ").skip(1).map(|rest| rest.split_once('=').unwrap().0);
    let mut variables: Vec<_> = names.map(|name| (name, "?")).collect();
    assert!(variables.len() > 20, "only {variables:?}");
    let (address, token) = (bridge.admin.to_string(), file("low-water-mark\n"));
    for (name, value) in &mut variables {
        match *name {
            "TIDEGATE_ADMIN" => *value = &address,
            "TIDEGATE_CONFIG" => *value = "/nowhere.toml",
            "TIDEGATE_ADMIN_TOKEN_FILE" => *value = token.to_str().unwrap(),
            _ => {}
        }
    }
    for command in ["wait", "status", "drain"] {
        succeeds(&tidegate_in(&[command], &variables));
    }
}

#[test]
fn a_wrong_command_line_ends_with_2_and_a_wrong_setting_with_78() {
    let config = file("admin = \"here\"\n");
    let config = config.to_str().unwrap();
    let empty = file(" \n");
    type Variables<'v> = &'v [(&'v str, &'v str)];
    let cases: [(&[&str], Variables, i32, &str); 11] = [
        (&["status", "--admin", "here"], &[], 2, "--admin: `admin` is `here`: expected an IP"),
        (&["wait", "--admin", "127.0.0.1:0"], &[], 2, "\nhint: its first line on stdout"),
        (&["wait", "--max", "5"], &[], 2, "--max"),
        (&["wait", "--ready", "--gone"], &[], 2, "--gone"),
        (&["status", "--admin-token-file", "x"], &[], 2, "--admin-token-file"),
        (&["wait"], &[("TIDEGATE_ADMIN", "here")], 78, "TIDEGATE_ADMIN: `admin` is `here`"),
        (&["wait"], &[("TIDEGATE_ADMIM", "x")], 78, "did you mean `TIDEGATE_ADMIN`?"),
        (&["status", "--config", config], &[], 78, ":1: `admin` is `here`: expected an IP"),
        (&["drain", "--config", "/nowhere.toml"], &[], 78, "cannot read /nowhere.toml"),
        (&["drain", "--admin-token-file", "/nowhere"], &[], 78, "admin_token_file /nowhere: "),
        (&["drain", "--admin-token-file", empty.to_str().unwrap()], &[], 78, "is empty"),
    ];
    for (args, variables, code, expected) in cases {
        let output = tidegate_in(args, variables);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?} {variables:?}: {said}");
        assert!(said.contains(expected), "{args:?} {variables:?}: no {expected} in {said}");
    }
}

/// Runs a command that asks at this address.
fn ask(command: &[&str], address: SocketAddr, flags: &[&str]) -> Output {
    let address = address.to_string();
    tidegate(&[command, &["--admin", &address], flags].concat())
}

/// A server that answers every request with these bytes and closes.
fn answering(answer: &[u8]) -> SocketAddr {
    let answer = answer.to_vec();
    serve(&listener(), move |mut stream| {
        is_asked(&stream);
        let _ = stream.write_all(&answer);
    })
}

/// Reads a request, so that the answer is one, and closing after it no reset.
fn is_asked(mut stream: &TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
}

/// What a command that did as it was asked has printed.
fn succeeds(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    assert_eq!(stderr(output), "");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a command that failed has said.
fn fails(output: &Output) -> String {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty(), "{output:?}");
    said
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn echoes(mut client: &TcpStream) {
    client.write_all(b"marco").unwrap();
    assert_eq!(read_exactly(client, 5), b"marco");
}
