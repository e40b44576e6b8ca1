//! Settings: where they come from, who wins, and what is said about a wrong one.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use support::bridge::{Bridge, TIDEGATE, file, tidegate, tidegate_in, without_settings};
use support::process::{self, command};

#[test]
fn check_prints_the_finished_values_and_reads_them_back() {
    let printed = check(&full_toml());
    let again = check(&printed);
    assert_eq!(printed, again);
    for key in [
        "admin = ",
        "drain_timeout = \"25s\"",
        "[[listener]]",
        "bind = ",
        "pool = \"off\"",
        "gateway = ",
    ] {
        assert!(printed.contains(key), "no `{key}` in:\n{printed}");
    }
}

#[test]
fn every_key_of_the_full_file_is_documented_and_every_finished_value_is_in_it() {
    let text = full_toml();
    let lines: Vec<&str> = text.lines().collect();
    let mut keys = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        // A key without a default of its own stands there commented out.
        let Some(key) = key_of(line) else { continue };
        let above = lines[number - 1];
        assert!(above.starts_with('#'), "config/full.toml:{}: `{key}` has no comment", number + 1);
        keys.push(key);
    }
    assert!(keys.len() >= 20, "only {keys:?}");
    let printed = check(&text);
    for key in printed.lines().filter_map(key_of) {
        assert!(keys.contains(&key), "`{key}` is a setting, but not in config/full.toml");
    }
}

#[test]
fn the_full_file_says_nothing_but_the_defaults() {
    let full = check(&full_toml());
    let gateway = full.lines().find(|line| key_of(line) == Some("gateway")).unwrap();
    assert_eq!(full, check(&format!("[upstream.tidb]\n{gateway}\n")));
}

#[test]
fn the_other_files_are_sound() {
    for name in ["minimal.toml", "demo.toml"] {
        check(&fs::read_to_string(root().join("config").join(name)).unwrap());
    }
}

#[test]
fn addresses_come_from_flags_before_the_environment_before_the_file() {
    let text = "admin = \"127.0.1.1:0\"\n\
                [[listener]]\nbind = \"127.0.1.1:0\"\n\
                [upstream.tidb]\ngateway = \"127.0.0.1:1\"\n";
    let variables = [("TIDEGATE_ADMIN", "127.0.1.2:0"), ("TIDEGATE_LISTEN", "127.0.1.2:0")];
    let flags = ["--admin", "127.0.1.3:0", "--listen", "127.0.1.3:0"];
    let file = || Bridge::from_file_alone(text);

    let setups = [file(), file().variables(&variables), file().variables(&variables).flags(&flags)];

    for (setup, winner) in setups.into_iter().zip(["127.0.1.1", "127.0.1.2", "127.0.1.3"]) {
        let bridge = setup.start();
        assert_eq!(bridge.listen.ip().to_string(), winner);
        assert_eq!(bridge.admin.ip().to_string(), winner);
    }
}

#[test]
fn check_takes_flags_and_variables_as_run_does_and_shows_who_won() {
    let cases = [
        ("threads", ["3", "4", "5"]),
        ("drain_timeout", ["3s", "4s", "5s"]),
        ("connect_timeout", ["300ms", "400ms", "500ms"]),
        ("admin", ["127.0.0.1:3", "127.0.0.1:4", "127.0.0.1:5"]),
        ("log_format", ["json", "text", "json"]),
        ("log_level", ["warn", "debug", "error"]),
    ];
    for (key, [in_file, in_environment, as_flag]) in cases {
        let line = format!("{key} = \"{in_file}\"\n");
        let in_upstream = key == "connect_timeout";
        let config = file(&if in_upstream { SMALL.to_owned() + &line } else { line + SMALL });
        let (flag, variable) =
            (format!("--{}", key.replace('_', "-")), format!("TIDEGATE_{}", key.to_uppercase()));
        let finished = |flags: &[&str], variables: &[(&str, &str)]| {
            let args = [&["check", "--config", config.to_str().unwrap()], flags].concat();
            let output = tidegate_in(&args, variables);
            assert!(output.status.success(), "{}", stderr(&output));
            let printed = String::from_utf8(output.stdout).unwrap();
            let line = printed.lines().find(|line| key_of(line) == Some(key)).map(str::to_owned);
            line.unwrap().split_once(" = ").unwrap().1.trim_matches('"').to_owned()
        };
        let variables = [(variable.as_str(), in_environment)];
        assert_eq!(finished(&[&flag, as_flag], &variables), as_flag, "{key}");
        assert_eq!(finished(&[], &variables), in_environment, "{key}");
        assert_eq!(finished(&[], &[]), in_file, "{key}");
    }
}

#[test]
fn a_typo_in_a_variable_is_refused_with_the_name_that_was_meant() {
    let config = file(SMALL);
    for command in ["check", "run"] {
        let args = [command, "--config", config.to_str().unwrap()];
        let output = tidegate_in(&args, &[("TIDEGATE_DRAIN_TIMEOT", "1s")]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains("TIDEGATE_DRAIN_TIMEOT"), "{said}");
        assert!(said.contains("did you mean `TIDEGATE_DRAIN_TIMEOUT`?"), "{said}");
    }
}

/// A bad value shows where a setting comes from: only that of the winner is looked at.
#[test]
fn every_setting_comes_from_its_flag_before_its_variable_before_its_key() {
    let cases = [
        ("", "threads", "2"),
        ("", "drain_timeout", "2s"),
        ("", "splice", "off"),
        ("", "log_format", "json"),
        ("", "log_level", "warn"),
        ("", "nameserver", "127.0.0.1:53"),
        ("listener", "protocol", "tcp"),
        ("listener", "pool", "off"),
        ("listener", "unix_mode", "0600"),
        ("listener", "proxy_protocol_from", "10.0.0.0/8"),
        ("listener", "client_tls", "off"),
        ("listener", "proxy_protocol_timeout", "2s"),
        ("upstream", "connect_timeout", "2s"),
        ("upstream", "send_proxy_protocol", "v2"),
        ("upstream", "upstream_tls", "passthrough"),
    ];
    for (table, key, good) in cases {
        let flag = format!("--{}", key.replace('_', "-"));
        let variable = format!("TIDEGATE_{}", key.to_uppercase());
        let file = |value: &str| {
            let line = format!("{key} = \"{value}\"\n");
            let at = |here: &str| if here == table { line.as_str() } else { "" };
            format!(
                "admin = \"127.0.0.1:0\"\n{}\
                 [[listener]]\nbind = \"127.0.0.1:0\"\n{}\
                 [upstream.tidb]\ngateway = \"127.0.0.1:1\"\n{}",
                at(""),
                at("listener"),
                at("upstream")
            )
        };
        let bad = "?";

        let beaten = Bridge::from_file_alone(&file(bad));
        beaten.variables(&[(&variable, bad)]).flags(&[&flag, good]).start();
        let beaten = Bridge::from_file_alone(&file(bad));
        beaten.variables(&[(&variable, good)]).start();
        Bridge::from_file_alone(&file(good)).start();

        let config = support::bridge::file(&file(good));
        let run = ["run", "--config", config.to_str().unwrap()];
        let output = tidegate_in(&[&run[..], &[&flag, bad]].concat(), &[(&variable, good)]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{key}: {said}");
        assert!(said.contains(&flag) && said.contains("`?`"), "{key}: {said}");
        let output = tidegate_in(&run, &[(&variable, bad)]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(78), "{key}: {said}");
        assert!(said.contains(&variable) && said.contains("`?`"), "{key}: {said}");
    }
}

#[test]
fn what_is_not_said_has_the_default_of_the_contract() {
    let printed = check(SMALL);
    for line in [
        "admin = \"127.0.0.1:9400\"",
        "drain_timeout = \"25s\"",
        "stall_timeout = \"30s\"",
        "splice = \"auto\"",
        "keepalive_idle = \"45s\"",
        "keepalive_interval = \"5s\"",
        "keepalive_count = 4",
        "log_format = \"text\"",
        "log_level = \"info\"",
        "bind = [\"localhost:4000\"]",
        "unix_mode = \"0660\"",
        "unix_owner = \"\"",
        "pool = \"off\"",
        "protocol = \"mysql\"",
        "allow_any = false",
        "proxy_protocol_from = []",
        "proxy_protocol_timeout = \"5s\"",
        "send_proxy_protocol = \"off\"",
        "client_tls = \"off\"",
        "tls_cert = []",
        "tls_key = []",
        "upstream_tls = \"passthrough\"",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "no `{line}` in:\n{printed}");
    }
}

#[test]
fn a_typo_in_a_key_is_refused_with_its_place_and_the_word_that_was_meant() {
    let cases = [
        (format!("drain_timout = \"1s\"\n{SMALL}"), 1, "drain_timout", "drain_timeout"),
        (format!("{SMALL}conect_timeout = \"1s\"\n"), 3, "conect_timeout", "connect_timeout"),
        (format!("{SMALL}[[listener]]\nbnid = \"127.0.0.1:1\"\n"), 4, "bnid", "bind"),
        (format!("{SMALL}[[listner]]\nbind = \"127.0.0.1:1\"\n"), 3, "listner", "listener"),
    ];
    for (text, line, typo, meant) in cases {
        let (place, said) = refused(&text);
        assert!(said.contains(&format!("{place}:{line}")), "{typo}: no file and line in:\n{said}");
        assert!(said.contains(&format!("`{typo}`")), "{typo}: not named in:\n{said}");
        assert!(
            said.contains(&format!("\nhint: did you mean `{meant}`?")),
            "{typo}: no hint in:\n{said}"
        );
    }
}

#[test]
fn a_wrong_value_is_refused_with_key_value_and_what_was_expected() {
    let cases = [
        (format!("drain_timeout = 25\n{SMALL}"), "drain_timeout", "25", "duration"),
        (format!("threads = \"many\"\n{SMALL}"), "threads", "many", "number"),
        (format!("threads = 0\n{SMALL}"), "threads", "0", "from 1"),
        (format!("log_format = \"xml\"\n{SMALL}"), "log_format", "xml", "text or json"),
        (format!("splice = \"on\"\n{SMALL}"), "splice", "on", "auto or off"),
        (format!("admin = \"here\"\n{SMALL}"), "admin", "here", "address"),
        (format!("keepalive_count = 500\n{SMALL}"), "keepalive_count", "500", "127"),
        (format!("{SMALL}connect_timeout = \"0s\"\n"), "connect_timeout", "0s", "expected"),
        (
            format!("{SMALL}[[listener]]\nprotocol = \"postgres\"\n"),
            "protocol",
            "postgres",
            "mysql or tcp",
        ),
        (
            format!("{SMALL}[[listener]]\nproxy_protocol_from = [\"10.0.0.0/8\", \"nlb\"]\n"),
            "proxy_protocol_from",
            "nlb",
            "network",
        ),
        (
            format!("{SMALL}send_proxy_protocol = \"v3\"\n"),
            "send_proxy_protocol",
            "v3",
            "off, v1 or v2",
        ),
        (
            format!("{SMALL}[[listener]]\nclient_tls = \"on\"\n"),
            "client_tls",
            "on",
            "off, optional or required",
        ),
        (format!("{SMALL}upstream_tls = \"verify\"\n"), "upstream_tls", "verify", "verify-ca"),
        (
            format!("{SMALL}[[listener]]\nallow_any = \"maybe\"\n"),
            "allow_any",
            "maybe",
            "true or false",
        ),
        (
            "[upstream.tidb]\ngateway = \"mysql://gw\"\n".into(),
            "gateway",
            "mysql://gw",
            "host:port",
        ),
        (
            format!("max_connections = 9223372036854775807\n{SMALL}"),
            "max_connections",
            "9223372036854775807",
            "from 1 to 1000000000",
        ),
    ];
    for (text, key, value, expected) in cases {
        let (place, said) = refused(&text);
        for part in [&format!("`{key}`"), &format!("`{value}`"), expected, &format!("{place}:")] {
            assert!(said.contains(part), "{key} = {value}: no {part} in:\n{said}");
        }
    }
}

#[test]
fn the_password_of_a_dsn_is_not_repeated() {
    let dsn = "mysql://root:ebb-and-flow@gw.example.com:4000/db";
    let load = ["load", "ping", "--target", dsn];
    for args in [&["run", dsn][..], &["check", dsn], &["doctor", dsn], &load] {
        let output = tidegate(args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("mysql://****@gw.example.com") && !said.contains("ebb"), "{said}");
    }
    for gateway in [dsn, "root:ebb-and-flow@gw:4000"] {
        let (_, said) = refused(&format!("[upstream.tidb]\ngateway = \"{gateway}\"\n"));
        assert!(said.contains("****@gw") && !said.contains("ebb"), "{said}");
    }
}

#[test]
fn what_does_nothing_is_a_warning() {
    let config = file(&format!("max_connections = 1000000\n{SMALL}warm_min = 4\n"));
    let output = tidegate(&["check", "--config", config.to_str().unwrap()]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for warning in ["[upstream.tidb]: warm_min", "max_connections is 1000000, but"] {
        assert!(said.contains(&format!("tidegate: warning: {warning}")), "{said}");
    }
}

#[test]
fn an_empty_variable_is_not_set_and_one_that_cannot_be_read_is_named() {
    let output = tidegate_in(&["check", "gw"], &[("TIDEGATE_CONFIG", "")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let output = tidegate(&["check", "gw", "--config", ""]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--config: `config` is ``: expected a path"), "{said}");

    let mut check = command(TIDEGATE);
    check.args(["check", "gw"]);
    without_settings(&mut check);
    check.env("TIDEGATE_LISTEN", OsStr::from_bytes(b"localhost:\xff"));
    let output = process::output(check);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("TIDEGATE_LISTEN: `listen` is `localhost:"), "{said}");
    assert!(said.contains("is no UTF-8"), "{said}");
}

#[test]
fn a_file_that_is_no_toml_or_is_not_there_is_refused_by_name() {
    let (place, said) = refused("[upstream.tidb\n");
    assert!(said.contains(&format!("{place}:1")), "{said}");

    let output = tidegate(&["run", "--config", "/nowhere/tidegate.toml"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("/nowhere/tidegate.toml"), "{said}");
}

#[test]
fn a_listener_that_other_hosts_can_reach_must_be_meant() {
    for bind in ["0.0.0.0:0", "[::]:0", "10.0.0.1:4000"] {
        let text = format!("{SMALL}[[listener]]\nbind = \"{bind}\"\n");
        let (_, said) = refused(&text);
        assert!(
            said.contains(bind) && said.contains("\nhint: ") && said.contains("allow_any"),
            "{said}"
        );
        check(&format!("{text}allow_any = true\n"));
    }
}

/// The messages are those of start and check; a reload has them in the log.
#[test]
fn a_certificate_that_cannot_be_used_is_refused_with_its_key_its_file_and_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for name in ["a.test", "b.test"] {
        let made = tidegate(&["render", "certificate", "--out", &at(""), name]);
        assert!(made.status.success(), "{}", stderr(&made));
    }
    fs::write(at("junk"), "junk").unwrap();
    let text = |certificate: &str, key: &str, upstream: &str| {
        format!(
            "[[listener]]\nname = \"app\"\nclient_tls = \"required\"\ntls_cert = \"{}\"\n\
             tls_key = \"{}\"\n[upstream.tidb]\ngateway = \"gw.example.com\"\n{upstream}\n",
            at(certificate),
            at(key)
        )
    };
    let off = "upstream_tls = \"off\"";
    let verified = format!("upstream_tls = \"verify-ca\"\ntls_ca = \"{}\"", at("junk"));
    for (text, place, key, file) in [
        (text("none.crt", "a.test.key", off), "the listener `app`: ", "tls_cert", "none.crt"),
        (text("a.test.crt", "junk", off), "the listener `app`: ", "tls_key", "junk"),
        (text("a.test.crt", "b.test.key", off), "the listener `app`: ", "tls_key", "b.test.key"),
        (text("a.test.crt", "a.test.key", &verified), "[upstream.tidb]: ", "tls_ca", "junk"),
    ] {
        let (_, said) = refused(&text);
        let begin = format!("tidegate: {place}{key} is {}: ", at(file));
        assert!(said.starts_with(&begin) && said.contains("\nhint: "), "{said}");
    }
    // What can be used is, and what is to be said of it goes where the values do not.
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(at("a.test.key"), open).unwrap();
    let config = support::bridge::file(&text("a.test.crt", "a.test.key", off));
    let output = tidegate(&["check", "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let warned = stderr(&output);
    let begin = format!("tidegate: warning: the listener `app`: tls_key {}", at("a.test.key"));
    assert!(warned.starts_with(&begin) && warned.contains("0644"), "{warned}");
}

#[test]
fn a_bridge_without_a_gateway_is_refused_with_a_hint() {
    let output = tidegate(&["run"]);
    let said = stderr(&output);
    assert!(matches!(output.status.code(), Some(2 | 78)), "{said}");
    assert!(said.contains("gateway") && said.contains("tidegate run GATEWAY"), "{said}");
}

#[test]
fn help_lists_the_exit_codes_and_a_wrong_command_line_ends_with_2() {
    let help = tidegate(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8(help.stdout).unwrap();
    for code in ["0", "1", "2", "78"] {
        let listed = text.lines().any(|line| line.split_whitespace().next() == Some(code));
        assert!(listed, "exit code {code} is not listed:\n{text}");
    }
    for args in
        [&["run", "gw", "--no-such-flag"][..], &["no-such-command"], &["check"], &["run", "a", "b"]]
    {
        let output = tidegate(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn every_flag_of_run_is_in_its_help_with_its_variable() {
    let help = String::from_utf8(tidegate(&["run", "--help"]).stdout).unwrap();
    for name in [
        "config",
        "listen",
        "unix-mode",
        "unix-owner",
        "protocol",
        "pool",
        "admin",
        "nameserver",
        "connect-timeout",
        "drain-timeout",
        "log-format",
        "log-level",
        "splice",
        "threads",
        "proxy-protocol-from",
        "proxy-protocol-timeout",
        "send-proxy-protocol",
        "client-tls",
        "tls-cert",
        "tls-key",
        "client-ca",
        "upstream-tls",
        "tls-ca",
        "tls-server-name",
        "tls-client-cert",
        "tls-client-key",
    ] {
        assert!(help.contains(&format!("--{name}")), "--{name} is missing:\n{help}");
        let variable = format!("TIDEGATE_{}", name.replace('-', "_").to_uppercase());
        assert!(help.contains(&variable), "{variable} is missing:\n{help}");
    }
}

/// Two lines: the keys of an upstream may follow.
const SMALL: &str = "[upstream.tidb]\ngateway = \"gw.example.com:4000\"\n";

/// What `check` prints about a file that must be right.
fn check(text: &str) -> String {
    let file = file(text);
    let output = tidegate(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{text}\n{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// What `check` and `run` say about a file that must be wrong, and the file's name.
fn refused(text: &str) -> (String, String) {
    let file = file(text);
    let name = file.to_str().unwrap().to_owned();
    let checked = tidegate(&["check", "--config", &name]);
    assert_eq!(checked.status.code(), Some(78), "{text}\n{}", stderr(&checked));
    assert!(checked.stdout.is_empty(), "values were printed for:\n{text}");
    let ran = tidegate(&["run", "--config", &name]);
    assert_eq!(ran.status.code(), Some(78), "{text}\n{}", stderr(&ran));
    assert_eq!(stderr(&ran), stderr(&checked));
    (name, stderr(&checked))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The key of a line like `key = value`, also when it is commented out.
fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.trim_start_matches('#').split_once(" = ")?;
    let legal = |c: char| c.is_ascii_lowercase() || c == '_';
    (!key.is_empty() && key.chars().all(legal)).then_some(key)
}

fn full_toml() -> String {
    fs::read_to_string(root().join("config/full.toml")).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
