//! What people and machines are shown.

use std::fs;

use crate::fake::{Fake, says};
use crate::place::{PRIVATELINK, Place};
use crate::run::{Doctor, LIMIT, SECRET};
use crate::support::bridge::{file, tidegate, tidegate_in};
use crate::support::process::{Process, command, installed, output_within};
use crate::support::tcp::{listener, nobody};
use crate::support::{skip, until};

const ESCAPE: char = '\u{1b}';

#[test]
fn only_a_terminal_is_shown_colours() {
    if !installed("script") {
        return skip("no `script` here (Debian package bsdutils)");
    }
    let (refusing, _socket) = nobody();
    let doctor = Doctor::at(refusing);
    let on_a_terminal = |variable: &str| {
        let mut script = command("script");
        script.args(["-qec", &format!("env {variable} TERM=xterm {}", doctor.line()), "/dev/null"]);
        let output = output_within(LIMIT, script);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = on_a_terminal("");
    assert!(shown.contains(ESCAPE) && shown.contains("connect_refused"), "{shown:?}");
    let shown = on_a_terminal("NO_COLOR=1");
    assert!(!shown.contains(ESCAPE) && shown.contains("connect_refused"), "{shown:?}");
    // That a pipe is shown none is checked of every report.
    doctor.stops_at("address.connect", "connect_refused");
}

#[test]
fn what_a_hostile_server_says_is_shown_without_its_controls() {
    let paint = "\u{1b}[2J\u{1b}]0;owned\u{7}\r\u{8}\u{9b}31m";
    let refusal = [b"\xff\x51\x04", paint.as_bytes(), b"no"].concat();
    let error = [&(refusal.len() as u32).to_le_bytes()[..3], b"\0", &refusal].concat();
    Doctor::at(says(error)).stops_at("mysql.greeting", "err_greeting");

    let painted: &'static str = "8.0\u{1b}[31m\u{7}\u{9b}2J";
    let report = Doctor::at(Fake::mysql().version(painted).start()).is_well();
    assert!(report.evidence("mysql.greeting").contains("8.0"), "{}", report.text);

    let fake = Fake::mysql().refusing(1105, "\u{1b}[31mred\u{7}\u{202e}");
    let report = Doctor::at(fake.start()).user("app", SECRET);
    let report = report.stops_at("login.authentication", "login_error");
    assert!(report.text.contains("red"), "{}", report.text);

    let fake = Fake::mysql().switching_to("\u{1b}[31mplugin");
    let doctor = Doctor::at(fake.start()).user("app", SECRET);
    doctor.stops_at("login.authentication", "plugin_unsupported");
}

#[test]
fn a_server_that_repeats_the_password_is_not_quoted() {
    let fake = Fake::mysql().refusing(1105, "your password is kelp & brine 4711");
    let doctor = Doctor::at(fake.start()).user("app", SECRET);
    // That the password is not in it is checked of every report.
    doctor.stops_at("login.authentication", "login_error");
}

#[test]
fn a_host_on_which_nothing_works_is_told_what_is_first() {
    let Some(place) = Place::new(&[]) else { return };
    let doctor = || place.doctor(PRIVATELINK).on("").patience("3s");
    doctor().user("prefix.app", SECRET).stops_at("name.resolvers", "no_resolver");
    let unreachable = doctor().nameserver("10.0.0.53:53");
    unreachable.stops_at("name.address", "dns_timeout");
    place.doctor("10.0.0.1").on("").stops_at("address.connect", "unreachable");
}

#[test]
fn wrong_usage_ends_with_2() {
    let password = file(SECRET);
    let password = password.to_str().unwrap();
    for flags in [
        &["--no-such-flag"][..],
        &["--connect-timeout", "soon"],
        &["--nameserver", "somewhere"],
        &["--upstream-tls", "sometimes"],
        &["--user", "app", "--password-file", "/no/such/file"],
        &["--password-file", password],
        &["--database", "test"],
    ] {
        let output = tidegate(&[&["doctor", "127.0.0.1:1"], flags].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {said}");
        // The last flag is the wrong one.
        let flag = flags.iter().rfind(|flag| flag.starts_with("--")).unwrap();
        assert!(said.contains(flag) && output.stdout.is_empty(), "{flags:?}: {said}");
    }
    assert_eq!(tidegate(&["doctor"]).status.code(), Some(2), "no gateway is given");
}

#[test]
fn a_bad_configuration_ends_with_78() {
    let bad = file("[upstream.tidb]\ngateway = \"db.test\"\nmin_tll = \"1s\"\n");
    let output = tidegate(&["doctor", "--config", bad.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("min_tll") && said.contains("min_ttl"), "{said}");
    let gone = tidegate(&["doctor", "--config", "/no/such/file.toml"]);
    assert_eq!(gone.status.code(), Some(78));
    let bad = tidegate_in(&["doctor", "127.0.0.1:1"], &[("TIDEGATE_CONNECT_TIMEOUT", "soon")]);
    assert_eq!(bad.status.code(), Some(78));
}

#[test]
fn the_environment_counts_as_it_does_for_the_bridge() {
    let (refusing, _socket) = nobody();
    let doctor = Doctor::bare().flags(&[&refusing.to_string()]);
    let doctor = doctor.variable("TIDEGATE_LISTEN", "127.0.0.1:0");
    doctor.stops_at("address.connect", "connect_refused");
}

#[test]
fn a_reader_who_leaves_does_not_break_it() {
    let (refusing, _socket) = nobody();
    let line = format!("{} | head -n 1; exit \"${{PIPESTATUS[0]}}\"", Doctor::at(refusing).line());
    let mut shell = command("bash");
    shell.args(["-c", &line]);
    let output = output_within(LIMIT, shell);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
}

#[test]
fn lines_are_written_as_they_are_found() {
    let silent = listener();
    let doctor = Doctor::at(silent.local_addr().unwrap()).patience("3s");
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let mut shell = command("sh");
    shell.args(["-c", &format!("exec {} > '{}'", doctor.line(), path.display())]);
    let mut running = Process::spawn(shell);
    until("the host's lines are there before the end", || {
        assert!(running.has_ended().is_none(), "it has ended before it said a word");
        fs::read_to_string(&path).unwrap().contains("files").then_some(())
    });
}
