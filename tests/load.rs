//! `tidegate load`, against a real MariaDB and against servers that do what a test wants.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::{TempDir, TempPath};
use tidegate::mysql::packet::{ErrorCode, HEADER_LEN, err, err_greeting};

use support::bridge::{Bridge, TIDEGATE, file, tidegate};
use support::mariadb::{MariaDb, PASSWORD, USER};
use support::mysql::{OK, server};
use support::process::{Process, command, output};
use support::tcp::{listener, nobody, serve};
use support::{until, until_it};

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
        let report = load.report(scenario, &["--connections", "4"]);
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
    ] {
        let report = load.report(&["connect"], flags);
        assert_eq!(number(&report, "errors"), 0.0, "{report}");
        assert!(number(found(&report, "phases", "name", "TLS"), "done") > 0.0);
    }
    for (flags, why) in [
        (["--tls", "verify-identity", "--tls-ca", ca], "not valid for name"),
        (["--tls", "verify-ca", "--tls-ca", stranger], "UnknownIssuer"),
    ] {
        let said = load.refused(&["ping"], &flags);
        assert!(said.contains("TLS: ") && said.contains(why), "{said}");
        assert!(said.contains("hint: --tls-ca names"), "{said}");
    }
    let said = load.refused(&["ping"], &["--tls", "verify-ca", "--tls-ca", "/nowhere.pem"]);
    assert!(said.contains("tls_ca is /nowhere.pem: it cannot be read"), "{said}");
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
    for (flags, expected) in [
        (&["ping", "--target", "nowhere"][..], "--target \"nowhere\": expected HOST:PORT"),
        (&["ping", "--target", "a:1", "--slo", "p99"], "--slo \"p99\": expected a bound"),
        (&["ping", "--target", "a:1", "--rate", "0"], "--rate: expected a number from 0.001"),
        (&["idle", "--hold", "1", "--target", "a:1", "--rate", "1"], "--rate: of no use for idle"),
        (&["ping", "--target", "a:1", "--duration", "0s"], "--duration: expected a duration from"),
        (&["ping", "--target", "a:1", "--ramp", "99999years"], "--ramp: expected a duration from"),
        (&["ping", "--target", "a:1", "--tls-ca", "x"], "--tls-ca: of no use without"),
        (&["ping", "--target", "a:1", "--password-file", "/no"], "--password-file: /no: No such"),
        (&["ping", "--target", "a:1", "--json", "/no/x"], "--json: cannot write /no/x"),
        (&["ping", "--target", "a:1", "--max-error-rate", "2"], "--max-error-rate \"2\""),
        (&["bulk", "--target", "a:1", "--bytes", "1MB"], "--bytes \"1MB\": expected a size"),
        (&["query", "--target", "a:1", "--sql", ""], "--sql \"\": expected a statement"),
        (&["ping", "--target", "a:1", "--connections", "0"], "--connections <N>"),
    ] {
        let output = tidegate(&[&["load"], flags].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {said}");
        assert!(said.contains(expected), "{flags:?}: {said}");
    }
}

#[test]
fn with_a_rate_a_stall_is_everybodys_who_was_due() {
    // Every 100th answer takes 300 ms, and nobody else is answered meanwhile.
    let turn = Mutex::new(0);
    let server = server(move |_| {
        let mut count = turn.lock().unwrap();
        *count += 1;
        if *count % 100 == 0 {
            thread::sleep(Duration::from_millis(300));
        }
        OK.to_vec()
    });
    let load = Load::at(server);
    let flags = ["--connections", "4", "--duration", "3s"];
    let closed = load.report(&["ping"], &flags);
    let open = load.report(&["ping"], &[&flags[..], &["--rate", "100"]].concat());
    // Of a hundred asked one after the other at most four wait.
    let p90 = |report: &Value| number(&report["latency"], "p90_us");
    assert!(p90(&closed) < 100e3, "{closed}");
    // Of a hundred that were due in a second, those of 300 ms were late, and longer than the last.
    assert!(p90(&open) > 100e3, "{open}");
    let all = number(&open, "done") + number(&open, "not_begun");
    assert!((299.0..=300.0).contains(&all), "{open}");
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
fn an_interrupt_tells_what_was_measured() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let load = Load::at(server(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        OK.to_vec()
    }));
    let mut tidegate = load.command(&["ping"], &["--duration", "10m"]);
    tidegate.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::spawn(tidegate);
    // The first is the one before the load.
    until_it("it loads", || asked.load(Ordering::Relaxed), |asked| *asked > 100);
    process.signal(Signal::INT);
    let status = process.wait(Duration::from_secs(10));
    let mut said = String::new();
    process.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(status.success(), "{status}: {said}");
    assert!(said.contains("(interrupted)") && said.contains(" done, "), "{said}");
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
    let output = compare("a.json", "a.html");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("a.html is no report"), "{said}");
}

#[test]
fn what_was_due_and_not_begun_breaks_bounds() {
    // It answers for a while, and then no more.
    let left = AtomicUsize::new(100);
    let silent = server(move |_| {
        let goes_on = |left: usize| left.checked_sub(1);
        if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, goes_on).is_err() {
            loop {
                thread::park();
            }
        }
        OK.to_vec()
    });
    let flags = ["--connections", "2", "--rate", "100", "--duration", "3s", "--timeout", "1s"];
    let output = Load::at(silent).run(&["ping"], &[&flags[..], &["--slo", "p90<500ms"]].concat());
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("more were due and not begun"), "{said}");
    assert!(said.contains("p90<500ms: ") && said.contains("BROKEN"), "{said}");
}

fn number(of: &Value, name: &str) -> f64 {
    of[name].as_f64().unwrap_or_else(|| panic!("no number {name} in {of}"))
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
