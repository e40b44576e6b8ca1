//! `tidegate load`, against a real MariaDB and against servers that do what a test wants.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir, TempPath};
use tidegate::mysql::packet::{ErrorCode, HEADER_LEN, err, err_greeting};

use support::bridge::{Bridge, TIDEGATE, file, tidegate};
use support::mariadb::{MariaDb, PASSWORD, USER};
use support::mysql::{DEPRECATE_EOF, OK, converse, server};
use support::process::{Process, command, output};
use support::tcp::{listener, nobody, serve};
use support::{PATIENCE, until, until_it};

#[test]
fn every_scenario_measures_a_mariadb() {
    let Some(db) = MariaDb::shared() else { return };
    let load = Load::of(&db);
    let scenarios: [&[&str]; 5] = [
        &["connect"],
        &["ping"],
        &["query", "--sql", "3@SELECT 1", "--sql", "SELECT 2; SELECT 3"],
        &["bulk", "--bytes", "10MiB"],
        &["idle", "--hold", "20"],
    ];
    for scenario in scenarios {
        let flags = ["--connections", "4"];
        let report = match scenario[0] {
            "idle" => load.report(scenario, &flags),
            _ => load.report_with_a_rate(scenario, &flags),
        };
        assert_eq!(report["scenario"], scenario[0]);
        assert_eq!(number(&report, "errors"), 0.0, "{report}");
        let done = number(&report, "done");
        assert!(done >= 4.0, "{report}");
        let last = ["first answer"].into_iter().filter(|_| scenario[0] != "idle");
        for phase in ["TCP", "greeting", "authentication"].into_iter().chain(last) {
            let of = found(&report, "phases", "name", phase);
            assert!(number(of, "done") >= 4.0 && number(&of["latency"], "p50_us") > 0.0, "{of}");
        }
        let latency = &report["latency"];
        let rising =
            ["p50_us", "p90_us", "p99_us", "p999_us", "max_us"].map(|p| number(latency, p));
        assert!(rising[0] > 0.0 && rising.is_sorted(), "{latency}");
        if !["idle", "bulk"].contains(&scenario[0]) {
            // What was under way at the end has its latency, and is no part of the rate.
            let in_time = number(&report, "throughput") * number(&report, "seconds");
            assert!((done - 4.5..done + 0.5).contains(&in_time), "{report}");
        }
        match scenario[0] {
            "query" => {
                let [often, rarely] = [0, 1].map(|n| number(&report["statements"][n], "done"));
                assert!((often / rarely - 3.0).abs() < 1.0, "{often} and {rarely}");
            }
            "bulk" => assert!(number(&report, "bytes_per_second") >= 2e6, "{report}"),
            "idle" => assert_eq!(done, 20.0),
            _ => {}
        }
    }
}

#[test]
fn through_a_bridge_is_as_good() {
    let Some(db) = MariaDb::shared() else { return };
    let bridge = Bridge::to(db.address()).start();
    let load = Load { target: bridge.listen.to_string(), ..Load::of(&db) };
    let report = load.report(&["connect"], &[]);
    assert_eq!(number(&report, "errors"), 0.0, "{report}");
    assert!(number(&report, "done") <= bridge.metrics().sum("tidegate_connections_total", &[]));
}

#[test]
fn tls_is_as_strict_as_it_is_asked_to_be() {
    let Some(db) = MariaDb::shared() else { return };
    let load = Load::of(&db);
    let named = Load { target: format!("localhost:{}", db.port), ..Load::of(&db) };
    let ca = db.certificates.ca.to_str().unwrap();
    let stranger = db.certificates.wrong_ca.to_str().unwrap();
    for (load, flags) in [
        (&load, &["--tls", "required"][..]),
        (&load, &["--tls", "verify-ca", "--tls-ca", ca]),
        (&named, &["--tls", "verify-identity", "--tls-ca", ca]),
        (&load, &["--tls", "verify-identity", "--tls-ca", ca, "--tls-server-name", "localhost"]),
    ] {
        let report = load.report(&["connect"], flags);
        assert_eq!(number(&report, "errors"), 0.0, "{report}");
        assert!(number(found(&report, "phases", "name", "TLS"), "done") > 0.0);
    }
    let other = ["--tls", "verify-identity", "--tls-ca", ca, "--tls-server-name", "db.test"];
    for (load, flags, why) in [
        (&load, &["--tls", "verify-identity", "--tls-ca", ca][..], "not valid for name"),
        (&named, &other, "not valid for name"),
        (&load, &["--tls", "verify-ca", "--tls-ca", stranger], "UnknownIssuer"),
    ] {
        let said = load.refused(&["ping"], flags);
        assert!(said.contains("TLS: ") && said.contains(why), "{said}");
        assert!(said.contains("hint: --tls-ca names"), "{said}");
    }
}

#[test]
fn what_cannot_work_is_said_once_and_before_the_load() {
    let Some(db) = MariaDb::shared() else { return };
    let load = Load::of(&db);
    let (refuses, _socket) = nobody();
    let silent = listener();
    let blunt = serve(&listener(), |stream| drop(stream.shutdown(Shutdown::Both)));
    let full = serve(&listener(), |mut stream| {
        let _ = stream.write_all(&err_greeting(ErrorCode::TooMany, "Too many connections"));
    });
    let web = serve(&listener(), |mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let plain = server(|_| OK.to_vec());
    let at = |target: SocketAddr| Load { target: target.to_string(), ..Load::of(&db) };
    let cases = [
        (at(refuses), &[][..], "TCP: ", "connection refused", "nobody listens there"),
        (
            at(silent.local_addr().unwrap()),
            &["--timeout", "200ms"],
            "greeting: ",
            "nothing within 200ms",
            "does not speak MySQL",
        ),
        (at(blunt), &[], "greeting: ", "the server closed the connection", "does not speak MySQL"),
        (at(full), &[], "greeting: ", "ERR 1040: Too many connections", "fewer --connections"),
        (at(web), &[], "greeting: ", "not the MySQL protocol", "the port of a MySQL server"),
        (at(plain), &["--tls", "required"], "greeting: ", "offers no TLS", "--tls off"),
        (
            Load { password_file: file("wrong"), ..Load::of(&db) },
            &[],
            "authentication: ",
            "ERR 1045 (28000): Access denied",
            "--password-file",
        ),
        (
            Load::of(&db),
            &["--database", "nowhere"],
            "authentication: ",
            "ERR 1049 (42000): Unknown database",
            "--database",
        ),
        (
            Load { target: "nowhere.tidegate.test:4000".into(), ..Load::of(&db) },
            &[],
            "",
            "nowhere.tidegate.test",
            "is the name right",
        ),
    ];
    for (load, flags, step, what, hint) in cases {
        let began = Instant::now();
        let said = load.refused(&["ping"], flags);
        assert!(said.starts_with("tidegate: "), "{said}");
        let (said_so, said_hint) = said.split_once("\nhint: ").expect("a hint");
        assert!(said_so.contains(step) && said_so.contains(what), "{said}");
        assert!(said_hint.contains(hint) && said_hint.lines().count() == 1, "{said}");
        // It has not gone on to load it for ten seconds.
        assert!(began.elapsed() < Duration::from_secs(9), "{said}");
    }
    let said = load.refused(&["query", "--sql", "SELEKT 1"], &[]);
    assert!(said.contains("answer: ERR 1064 (42000)"), "{said}");
    let said = load.refused(&["query", "--sql", "LOAD DATA LOCAL INFILE '/x' INTO TABLE y"], &[]);
    assert!(said.contains("answer: "), "{said}");
}

#[test]
fn wrong_usage_names_the_flag() {
    for (scenario, flags, expected) in [
        ("ping", &["--target", "a:b"][..], "--target: `target` is `a:b`: expected a port"),
        ("ping", &["--slo", "p99"], "--slo: `slo` is `p99`: expected a bound"),
        ("ping", &["--rate", "0"], "--rate: `rate` is `0`: expected a number a second, from 0.001"),
        (
            "idle",
            &["--hold", "1", "--rate", "1"],
            "--rate: `rate` is `1`: of no use for idle\nhint: ",
        ),
        ("idle", &["--hold", "0"], "--hold: `hold` is `0`: expected a number from 1"),
        ("ping", &["--duration", "0s"], "--duration: `duration` is `0s`: expected a duration"),
        ("ping", &["--ramp", "99999years"], "--ramp: `ramp` is `99999years`: expected a year"),
        ("ping", &["--tls", "on"], "--tls: `tls` is `on`: expected off, required, verify-ca or"),
        ("ping", &["--tls-ca", "x"], "--tls-ca: `tls_ca` is `x`: of no use without a look"),
        (
            "ping",
            &["--tls", "verify-ca", "--tls-ca", "/no.pem"],
            "--tls-ca: `tls_ca` is `/no.pem`: tls_ca is /no.pem: it cannot be read: ",
        ),
        (
            "ping",
            &["--tls-server-name", "db"],
            "--tls-server-name: `tls_server_name` is `db`: of no use without TLS\nhint: ",
        ),
        (
            "ping",
            &["--tls", "required", "--tls-server-name", "a b"],
            "--tls-server-name: `tls_server_name` is `a b`: expected a DNS name",
        ),
        (
            "ping",
            &["--password-file", "/no"],
            "--password-file: `password_file` is `/no`: cannot be read: No such",
        ),
        ("ping", &["--json", "/no/x"], "--json: cannot write /no/x: No such"),
        ("ping", &["--max-error-rate", "2"], "--max-error-rate: `max_error_rate` is `2`: expected"),
        ("bulk", &["--bytes", "1MB"], "--bytes: `bytes` is `1MB`: expected a size"),
        ("query", &["--sql", ""], "--sql: `sql` is ``: expected a statement"),
        ("ping", &["--connections", "0"], "--connections: `connections` is `0`: expected a number"),
    ] {
        let target: &[&str] = if flags[0] == "--target" { &[] } else { &["--target", "a:1"] };
        let output = tidegate(&[&["load", scenario], target, flags].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {said}");
        assert!(said.contains(expected), "{flags:?}: {said}");
    }
}

#[test]
fn with_a_rate_a_stall_is_everybodys_who_was_due() {
    let report = |flags: &[&str]| {
        // The 50th answer of each hundred takes 300 ms, and nobody else is answered meanwhile: with a
        // rate, in the middle of each second.
        let turn = Mutex::new(0);
        let server = server(move |_| {
            let mut count = turn.lock().unwrap();
            *count += 1;
            if *count % 100 == 50 {
                thread::sleep(Duration::from_millis(300));
            }
            OK.to_vec()
        });
        let all = [&["--connections", "4", "--duration", "3s"], flags].concat();
        Load::at(server).report(&["ping"], &all)
    };
    let closed = report(&[]);
    let open = report(&["--rate", "100"]);
    // Of a hundred asked one after the other at most four wait.
    let p90 = |report: &Value| number(&report["latency"], "p90_us");
    assert!(p90(&closed) < 100e3, "{closed}");
    // Of a hundred that were due in a second, those of 300 ms were late, and longer than the last.
    assert!(p90(&open) > 100e3, "{open}");
    let all = number(&open, "done") + number(&open, "not_begun");
    assert!((299.0..=300.0).contains(&all), "{open}");
}

#[test]
fn weights_are_those_of_the_run_however_little_a_connection_does() {
    let load = Load::at(server(|_| OK.to_vec()));
    let weighted = ["query", "--sql", "9@SELECT 1", "--sql", "1@SELECT 2"];
    // On a busy machine the last ones may not be begun.
    let flags = ["--connections", "32", "--rate", "100", "--max-error-rate", "50%"];
    let report = load.report(&weighted, &flags);
    let [often, rarely] = [0, 1].map(|n| number(&report["statements"][n], "done"));
    assert!((often / 9.0 - rarely).abs() <= 1.0, "{often} and {rarely}");
}

#[test]
fn bounds_decide_the_exit_code() {
    let load = Load::at(server(|_| OK.to_vec()));
    let exit = |flags: &[&str]| load.run(&["ping"], flags).status.code();
    assert_eq!(exit(&["--slo", "p99<10s", "--slo", "max<1m"]), Some(0));
    let output = load.run(&["ping"], &["--slo", "p99<10s", "--slo", "mean<1ns"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("p99<10s: ") && said.contains(", kept"), "{said}");
    assert!(said.contains("mean<1ns: ") && said.contains(", BROKEN"), "{said}");

    let run = |flags: &[&str]| {
        // The first answer is the one before the load.
        let turn = AtomicUsize::new(0);
        let failing = server(move |_| match turn.fetch_add(1, Ordering::Relaxed) % 10 {
            9 => err(1, ErrorCode::TooMany, "tomorrow")[HEADER_LEN..].to_vec(),
            _ => OK.to_vec(),
        });
        Load::at(failing).run(&["ping"], flags)
    };
    assert_eq!(run(&["--max-error-rate", "20%"]).status.code(), Some(0));
    let output = run(&["--max-error-rate", "5%"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("answer: ERR 1040") && said.contains("tomorrow"), "{said}");
}

#[test]
fn a_closed_loop_is_told_how_long_its_target_was_gone() {
    // After 200 answers everything ends at once: many times as many went well as failed then.
    let turn = Arc::new(AtomicUsize::new(0));
    let dying = serve(&listener(), move |stream| {
        if turn.load(Ordering::Relaxed) <= 200 {
            drop(converse(&stream, 0, |_| {
                if turn.fetch_add(1, Ordering::Relaxed) >= 200 {
                    let _ = stream.shutdown(Shutdown::Both);
                }
                vec![OK.to_vec()]
            }));
        }
    });
    let dir = TempDir::new().unwrap();
    let json = dir.path().join("report.json");
    let flags = ["--connections", "2", "--duration", "4s", "--max-error-rate", "50%"];
    let flags = [&flags[..], &["--json", json.to_str().unwrap()]].concat();
    let output = Load::at(dying).run(&["ping"], &flags);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let report: Value = serde_json::from_str(&read(&json)).unwrap();
    assert!(number(&report, "errors") < number(&report, "done"), "{report}");
    assert!(number(&report, "lost") > 0.5, "{report}");
    assert!(said.contains("greeting: closed"), "{said}");
    assert!(said.contains("% of the connections' time, BROKEN"), "{said}");
}

#[test]
fn a_connection_that_can_be_opened_the_next_time_has_lost_nothing() {
    // One of ten is refused; the pause after it is the generator's own.
    let turn = Arc::new(AtomicUsize::new(0));
    let full =
        serve(&listener(), move |mut stream| match turn.fetch_add(1, Ordering::Relaxed) % 10 {
            9 => drop(stream.write_all(&err_greeting(ErrorCode::TooMany, "Too many connections"))),
            _ => drop(converse(&stream, 0, |_| vec![OK.to_vec()])),
        });
    let flags = ["--connections", "1", "--max-error-rate", "30%"];
    let report = Load::at(full).report(&["connect"], &flags);
    assert!(number(&report, "errors") > 0.0, "{report}");
}

#[test]
fn an_interrupt_tells_what_was_measured() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let load = Load::at(server(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        OK.to_vec()
    }));
    let (code, said) = interrupted(load.command(&["ping"], &["--duration", "10m"]), || {
        until_it("it loads", || asked.load(Ordering::Relaxed), |asked| *asked > 100);
    });
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(" done, "), "{said}");
}

#[test]
fn what_hangs_at_an_interrupt_is_an_error_as_old_as_it_is() {
    let (asked, silent) = silent_after(100);
    let flags = ["--connections", "4", "--duration", "10m", "--max-error-rate", "100%"];
    let flags = [&flags[..], &["--slo", "max<1s"]].concat();
    let (code, said) = interrupted(Load::at(silent).command(&["ping"], &flags), || {
        until_it("all hang", || asked.load(Ordering::Relaxed), |asked| *asked == 104);
    });
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("99 done") && said.contains("4 errors"), "{said}");
    assert!(said.contains("answer: unfinished"), "{said}");
    assert!(said.contains("max<1s: ") && said.contains("BROKEN"), "{said}");
}

#[test]
fn what_comes_after_an_interrupt_is_no_part_of_what_was_measured() {
    let dir = TempDir::new().unwrap();
    let json = dir.path().join("report.json");
    let report = until("the last answer comes in the second that there is for it", || {
        // Whoever comes first in the load is answered when the other one has left.
        let [opened, asked] = [0, 0].map(|none| Arc::new(AtomicUsize::new(none)));
        let (seen, left) = (asked.clone(), Arc::new(AtomicBool::new(false)));
        let server = serve(&listener(), move |stream| {
            let number = opened.fetch_add(1, Ordering::Relaxed);
            drop(converse(&stream, 0, |_| {
                asked.fetch_add(1, Ordering::Relaxed);
                if number == 1 {
                    until("the other one has left", || left.load(Ordering::Relaxed).then_some(()));
                }
                vec![OK.to_vec()]
            }));
            left.fetch_or(number > 1, Ordering::Relaxed);
        });
        let flags = ["--connections", "2", "--rate", "100", "--duration", "10m", "--timeout", "1m"];
        let flags = [&flags[..], &["--json", json.to_str().unwrap()]].concat();
        let _ = interrupted(Load::at(server).command(&["ping"], &flags), || {
            until_it("it loads", || seen.load(Ordering::Relaxed), |asked| *asked > 50);
        });
        let report: Value = serde_json::from_str(&read(&json)).unwrap();
        (number(&report, "errors") == 0.0).then_some(report)
    });
    let done = number(&report, "done");
    let in_time = number(&report, "throughput") * number(&report, "seconds");
    assert!(in_time < done - 0.5, "{report}");
    // A hundred more were due in the second after it.
    let due = 100.0 * number(&report, "seconds");
    assert!((done + number(&report, "not_begun") - due).abs() < 20.0, "{report}");
}

#[test]
fn an_interrupt_looks_which_held_connections_are_alive() {
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    let server = serve(&listener(), move |stream| {
        // Every other one is dead without a word.
        let is_dead = count.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        drop(converse(&stream, 0, |_| {
            if is_dead {
                hang();
            }
            vec![OK.to_vec()]
        }));
    });
    let flags = ["--connections", "2", "--duration", "10m"];
    let load = Load::at(server);
    let (code, said) = interrupted(load.command(&["idle", "--hold", "10"], &flags), || {
        // The first is the one before the load.
        until_it("all are opened", || opened.load(Ordering::Relaxed), |opened| *opened == 11);
    });
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("5 alive at the end, 5 errors"), "{said}");
}

#[test]
fn connections_that_died_while_they_were_held_are_counted() {
    let Some(db) = MariaDb::start(&[]) else { return };
    let load = Load::of(&db);
    let flags = ["--connections", "4", "--duration", "4s"];
    let output = thread::scope(|scope| {
        let held = scope.spawn(|| load.run(&["idle", "--hold", "12"], &flags));
        let others = "SELECT COUNT(*) FROM information_schema.processlist WHERE command='Sleep'";
        until("all are held", || (db.query(db.port, others) == "12").then_some(()));
        let kill = "SELECT GROUP_CONCAT(CONCAT('KILL ', id) SEPARATOR ';') FROM (SELECT id FROM \
                    information_schema.processlist WHERE command='Sleep' LIMIT 5) one";
        let kill = db.query(db.port, kill);
        db.query(db.port, &kill);
        held.join().unwrap()
    });
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("7 alive at the end") && said.contains("5 errors"), "{said}");
}

#[test]
fn a_report_is_json_a_page_and_can_be_compared() {
    let load = Load::at(server(|_| OK.to_vec()));
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for name in ["a", "b"] {
        let (json, html) = (path(&format!("{name}.json")), path(&format!("{name}.html")));
        let flags = ["--json", &json, "--html", &html, "--duration", "2s"];
        assert!(load.run(&["ping"], &flags).status.success());
    }
    let page = fs::read_to_string(path("a.html")).unwrap();
    // A plot of each kind, in light and in dark, and nothing from elsewhere.
    assert_eq!(page.matches("<svg").count(), 4);
    assert!(!page.contains("src=") && !page.contains("href="), "{page}");
    let compare = |a: &str, b: &str| tidegate(&["load", "compare", &path(a), &path(b)]);
    let output = compare("a.json", "b.json");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    for row in ["throughput", "p50", "p99", "TCP p50"] {
        let line = said.lines().find(|line| line.starts_with(row)).expect(row);
        assert!(line.contains(" x"), "{said}");
    }
    // As if each had run for ten seconds, the other twice as fast.
    for (name, rate) in [("a", 100), ("b", 200)] {
        let mut report: Value = serde_json::from_str(&read(Path::new(&path("a.json")))).unwrap();
        let second =
            |n: usize| json!({"done": rate + n % 3, "errors": 0, "p50_us": 10, "p99_us": 20});
        report["intervals"] = (0..10).map(second).collect();
        fs::write(path(&format!("{name}10.json")), report.to_string()).unwrap();
    }
    let said = String::from_utf8(compare("a10.json", "b10.json").stdout).unwrap();
    for (row, ratio, verdict) in [
        ("throughput", "x1.98 to x2.01", "B is higher"),
        ("p50", "x1.00 to x1.00", "no difference"),
    ] {
        let line = said.lines().find(|line| line.starts_with(row)).expect(row);
        assert!(line.contains(ratio) && line.ends_with(verdict), "{said}");
    }
    let output = compare("a.json", "a.html");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("a.html is no report"), "{said}");
}

#[test]
fn an_older_report_stays_until_there_is_a_new_one() {
    let dir = TempDir::new().unwrap();
    let json = dir.path().join("report.json");
    fs::write(&json, "older").unwrap();
    fs::set_permissions(&json, Permissions::from_mode(0o600)).unwrap();
    let link = dir.path().join("link");
    symlink(&json, &link).unwrap();
    let flags = ["--json", link.to_str().unwrap()];
    let alone = || {
        let mut names: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["link", "report.json"]);
    };
    let (refuses, _socket) = nobody();
    Load::at(refuses).refused(&["ping"], &flags);
    assert_eq!(read(&json), "older");
    alone();
    assert!(Load::at(server(|_| OK.to_vec())).run(&["ping"], &flags).status.success());
    let report: Value = serde_json::from_str(&read(&json)).unwrap();
    assert_eq!(report["scenario"], "ping");
    assert_eq!(fs::metadata(&json).unwrap().permissions().mode() & 0o777, 0o600);
    alone();
}

#[test]
fn a_report_that_cannot_be_written_is_told_all_the_same() {
    let load = Load::at(server(|_| OK.to_vec()));
    let dir = TempDir::new().unwrap();
    let html = dir.path().join("report.html");
    let flags = ["--json", "/dev/full", "--html", html.to_str().unwrap()];
    let output = load.run(&["ping"], &flags);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("--json: cannot write /dev/full: No space left"), "{said}");
    assert!(String::from_utf8(output.stdout).unwrap().contains(", kept"));
    assert!(read(&html).contains("<svg"));
}

#[test]
fn a_report_goes_behind_what_is_said_where_both_go() {
    let load = Load::at(server(|_| OK.to_vec()));
    let flags = ["--json", "/dev/stdout"];
    let piped = String::from_utf8(load.run(&["ping"], &flags).stdout).unwrap();
    // What is a file already is not replaced: standard output would go on to the one that was.
    let file = NamedTempFile::new().unwrap();
    let mut tidegate = load.command(&["ping"], &flags);
    tidegate.stdout(file.reopen().unwrap());
    assert!(Process::spawn(tidegate).wait(PATIENCE).success());
    for said in [piped, read(file.path())] {
        let (text, json) = said.split_once("\n{").expect("JSON behind the text");
        assert!(text.contains(", kept"), "{said}");
        let report: Value = serde_json::from_str(&format!("{{{json}")).unwrap();
        assert_eq!(report["scenario"], "ping");
    }
}

#[test]
fn what_was_due_and_not_begun_breaks_bounds() {
    let (_, silent) = silent_after(100);
    let flags = ["--connections", "2", "--rate", "100", "--duration", "3s", "--timeout", "1s"];
    let output = Load::at(silent).run(&["ping"], &[&flags[..], &["--slo", "p90<500ms"]].concat());
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("more were due and not begun"), "{said}");
    assert!(said.contains("p90<500ms: ") && said.contains("BROKEN"), "{said}");
}

#[test]
fn results_are_read_as_both_sides_have_agreed() {
    for lacks in [0, DEPRECATE_EOF] {
        // Two results of two rows; of every fourth answer the last row is an error.
        let turn = Arc::new(AtomicUsize::new(0));
        let server = serve(&listener(), move |stream| {
            let result = |status: u8, last: &[u8]| {
                let mut packets = vec![vec![1], b"\x03def".to_vec()];
                let (eof, ok) = (vec![0xfe, 0, 0, status, 0], vec![0xfe, 0, 0, status, 0, 0, 0]);
                packets.extend((lacks != 0).then(|| eof.clone()));
                packets.extend([b"\x01x".to_vec(), last.to_vec()]);
                packets.extend((last[0] != 0xff).then_some(if lacks == 0 { ok } else { eof }));
                packets
            };
            let error = err(0, ErrorCode::TooMany, "tomorrow")[HEADER_LEN..].to_vec();
            drop(converse(&stream, lacks, |_| {
                let is_fourth = turn.fetch_add(1, Ordering::Relaxed) % 4 == 3;
                let last: &[u8] = if is_fourth { &error } else { b"\x01y" };
                // In autocommit, and with more to come.
                [result(0x0a, b"\x01x"), result(0x02, last)].concat()
            }));
        });
        let flags = ["--connections", "1", "--max-error-rate", "30%"];
        let report = Load::at(server).report(&["query", "--sql", "SELECT"], &flags);
        assert_eq!(bytes_each(&report), 8.0);
        let refused = found(&report, "causes", "cause", "answer: ERR 1040");
        let share =
            number(refused, "count") / (number(&report, "errors") + number(&report, "done"));
        assert_eq!(refused["count"], report["errors"]);
        assert!((0.2..0.3).contains(&share), "{report}");
        // After an error amid rows the next answer is found where it begins.
        assert_eq!(number(found(&report, "phases", "name", "TCP"), "done"), 1.0, "{report}");
    }
}

#[test]
fn rows_longer_than_a_packet_are_read_to_their_end() {
    let Some(db) = MariaDb::shared() else { return };
    let load = Load::of(&db);
    // A row of exactly one full packet, which an empty one ends, and one of more; with their lengths.
    for (length, prefix) in [(16_777_211, 4), (20_000_000, 9)] {
        let sql = format!("SELECT REPEAT('x', {length})");
        let report = load.report_with_a_rate(&["query", "--sql", &sql], &["--connections", "2"]);
        assert_eq!(number(&report, "errors"), 0.0, "{report}");
        assert_eq!(bytes_each(&report), f64::from(length + prefix), "{report}");
    }
}

#[test]
fn a_ramp_spreads_the_first_connects() {
    let opened = Arc::new(Mutex::new(Vec::new()));
    let seen = opened.clone();
    let server = serve(&listener(), move |stream| {
        seen.lock().unwrap().push(Instant::now());
        drop(converse(&stream, 0, |_| vec![OK.to_vec()]));
    });
    let report = Load::at(server).report(&["ping"], &["--connections", "4", "--ramp", "2s"]);
    assert_eq!(number(&report, "errors"), 0.0, "{report}");
    // The first is the one before the load.
    let opened = opened.lock().unwrap();
    assert_eq!(opened.len(), 5);
    for (turn, opened_at) in opened[1..].iter().enumerate() {
        let after = *opened_at - opened[0];
        assert!(after >= Duration::from_millis(500) * turn as u32, "{turn}: after {after:?}");
    }
}

#[test]
fn a_server_that_does_not_close_is_seen() {
    let slow = serve(&listener(), |stream| {
        drop(converse(&stream, 0, |_| vec![OK.to_vec()]));
        // What it was told to close stays open.
        hang();
    });
    let quit = |server| {
        let report = Load::at(server).report(&["connect"], &["--connections", "2"]);
        number(&found(&report, "phases", "name", "quit")["latency"], "p50_us")
    };
    assert!(quit(slow) >= 900e3);
    assert!(quit(server(|_| OK.to_vec())) < 900e3);
}

fn number(of: &Value, name: &str) -> f64 {
    of[name].as_f64().unwrap_or_else(|| panic!("no number {name} in {of}"))
}

/// Bytes of an operation's rows.
fn bytes_each(report: &Value) -> f64 {
    (number(report, "bytes_per_second") / number(report, "throughput")).round()
}

/// A server that answers so often and then no more, and how often it was asked.
fn silent_after(answers: usize) -> (Arc<AtomicUsize>, SocketAddr) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server = server(move |_| {
        let is_silent = count.fetch_add(1, Ordering::Relaxed) >= answers;
        if is_silent {
            hang();
        }
        OK.to_vec()
    });
    (asked, server)
}

/// For as long as the tests run.
fn hang() -> ! {
    loop {
        thread::park();
    }
}

/// Interrupts it when it is time, and returns its exit code and what it says then.
fn interrupted(mut tidegate: Command, wait: impl FnOnce()) -> (Option<i32>, String) {
    tidegate.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::spawn(tidegate);
    wait();
    process.signal(Signal::INT);
    let status = process.wait(Duration::from_secs(10));
    let mut said = String::new();
    process.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("(interrupted)"), "{status}: {said}");
    (status.code(), said)
}

/// The element of a list whose field is that.
fn found<'a>(report: &'a Value, list: &str, field: &str, value: &str) -> &'a Value {
    let all = report[list].as_array().unwrap();
    all.iter().find(|one| one[field] == value).unwrap_or_else(|| panic!("no {value} in {all:?}"))
}

/// Whom to load, and as whom.
struct Load {
    target: String,
    user: &'static str,
    password_file: TempPath,
}

impl Load {
    fn of(db: &MariaDb) -> Self {
        let password_file = file(&format!("{PASSWORD}\n"));
        Self { target: db.address().to_string(), user: USER, password_file }
    }

    fn at(server: SocketAddr) -> Self {
        Self { target: server.to_string(), user: "u", password_file: file("") }
    }

    fn command(&self, scenario: &[&str], flags: &[&str]) -> Command {
        let mut tidegate = command(TIDEGATE);
        tidegate.arg("load").args(scenario).args(["--target", &self.target, "--user", self.user]);
        tidegate.arg("--password-file").arg(&self.password_file);
        for short in [["--duration", "1s"], ["--warmup", "0s"]] {
            if !flags.contains(&short[0]) {
                tidegate.args(short);
            }
        }
        tidegate.args(flags);
        tidegate
    }

    fn run(&self, scenario: &[&str], flags: &[&str]) -> Output {
        output(self.command(scenario, flags))
    }

    /// Runs it well, and returns its report.
    fn report(&self, scenario: &[&str], flags: &[&str]) -> Value {
        let dir = TempDir::new().unwrap();
        let json = dir.path().join("report.json");
        let output = self.run(scenario, &[flags, &["--json", json.to_str().unwrap()]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{scenario:?} {flags:?}: {said}");
        serde_json::from_str(&read(&json)).unwrap()
    }

    /// The same of a run in which an operation has ended in time: on a busy machine large ones may not.
    fn report_with_a_rate(&self, scenario: &[&str], flags: &[&str]) -> Value {
        until("one ends in time", || {
            let report = self.report(scenario, flags);
            (number(&report, "throughput") > 0.0).then_some(report)
        })
    }

    /// Runs it to its failure, and returns what it says.
    fn refused(&self, scenario: &[&str], flags: &[&str]) -> String {
        let output = self.run(scenario, flags);
        assert_eq!(output.status.code(), Some(1), "{scenario:?} {flags:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}
