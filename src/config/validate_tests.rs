//! The joining of flags, file and defaults, and what is refused.

use super::file::{Overrides, Raw, Source};
use super::listeners::DEFAULT_BIND;
use super::unused;
use super::upstreams::UNNAMED_UPSTREAM;
use super::{check_variables, load, parse};

const SMALL: &str = "[upstream.tidb]\ngateway = \"gw.example.com\"\n";

fn flag(key: &str, value: &str) -> Overrides {
    let raw = Raw { values: vec![value.into()], source: Source::Flag(format!("--{key}")) };
    Overrides([(key.to_owned(), raw)].into())
}

fn error(text: &str) -> String {
    parse(text, "t.toml").unwrap_err().to_string()
}

#[test]
fn a_gateway_alone_is_enough() {
    let config = load(None, &flag("gateway", "gw.example.com")).unwrap();
    assert_eq!(config.listeners[0].bind, [DEFAULT_BIND]);
    assert_eq!(config.listeners[0].upstream, UNNAMED_UPSTREAM);
    assert_eq!(config.admin.to_string(), "127.0.0.1:9400");
}

#[test]
fn what_is_printed_reads_back_as_the_same_values() {
    let text = format!(
        "{SMALL}[[listener]]\nbind = [\"127.0.0.1:1\", \"localhost:2\", \"unix:/a\"]\nupstream = \"tidb\"\n\
         unix_mode = \"0600\"\nunix_owner = \"a:b\"\n\
         [[listener]]\nupstream = \"other\"\n\
         [upstream.other]\ngateway = \"[fd00::1]:3306\"\nmin_ttl = \"1500ms\"\n"
    );
    let config = parse(&text, "t.toml").unwrap();
    assert_eq!(parse(&config.to_toml(), "again.toml").unwrap(), config);
}

#[test]
fn a_typo_in_a_key_is_an_error_with_line_and_suggestion() {
    let text = format!("{SMALL}conect_timeout = \"1s\"\n");
    assert_eq!(
        error(&text),
        "t.toml:3: unknown key `conect_timeout` in [upstream.tidb]\n\
         hint: did you mean `connect_timeout`?"
    );
    assert!(error("listner = 1\n").contains("did you mean `listener`?"));
    assert!(
        error("[listner]\nbind = \"x\"\n")
            .contains("unknown table `listner`\nhint: did you mean `listener`")
    );
}

#[test]
fn a_wrong_value_names_place_key_value_and_what_was_expected() {
    let text = format!("{SMALL}connect_timeout = 5\n");
    assert_eq!(
        error(&text),
        "t.toml:3: `connect_timeout` is `5`: expected a duration with its unit, such as \
         500ms, 10s or 5m"
    );
}

#[test]
fn flags_win_over_the_file() {
    let text = format!("admin = \"127.0.0.1:1\"\n{SMALL}");
    let config = load(Some((&text, "t.toml")), &flag("admin", "127.0.0.1:2")).unwrap();
    assert_eq!(config.admin.port(), 2);
}

#[test]
fn an_address_for_one_of_several_listeners_is_refused() {
    let text =
        format!("{SMALL}[[listener]]\nbind=\"127.0.0.1:1\"\n[[listener]]\nbind=\"127.0.0.1:2\"\n");
    let error = load(Some((&text, "t.toml")), &flag("listen", "127.0.0.1:3")).unwrap_err();
    assert!(error.is_usage());
    assert!(error.to_string().starts_with("--listen: an address was given, but the file has 2"));
}

#[test]
fn a_bind_that_other_hosts_reach_must_be_meant() {
    let text = format!("{SMALL}[[listener]]\nbind = \"0.0.0.0:4000\"\n");
    let said = error(&text);
    for way in ["allow = [", "client_tls = \"required\"", "allow_any = true"] {
        assert!(said.contains(way), "{said}");
    }
    assert!(parse(&format!("{text}allow_any = true\n"), "t.toml").is_ok());
    let tls = |mode: &str| {
        let upstream = "[upstream.tidb]\ngateway = \"gw.example.com\"\nupstream_tls = \"off\"\n";
        let tls = format!("client_tls = \"{mode}\"\ntls_cert = \"/c\"\ntls_key = \"/k\"\n");
        format!("{upstream}[[listener]]\nbind = \"0.0.0.0:4000\"\n{tls}")
    };
    parse(&tls("required"), "t.toml").unwrap();
    assert!(error(&tls("optional")).contains("allow_any = true"));
}

#[test]
fn an_address_is_bound_once() {
    let two = |one: &str, other: &str| {
        format!("{SMALL}[[listener]]\nname = \"a\"\nbind = {one}\n[[listener]]\nbind = {other}\n")
    };
    for (one, other, twice) in [
        ("\"127.0.0.1:1\"", "\"127.0.0.1:1\"", "127.0.0.1:1"),
        ("\"[::1]:1\"", "\"localhost:1\"", "[::1]:1"),
        ("\"unix:/a\"", "[\"127.0.0.1:1\", \"unix:/a\"]", "unix:/a"),
        ("\"127.0.0.1:1\"", "[\"127.0.0.1:2\", \"localhost:2\"]", "127.0.0.1:2"),
    ] {
        let said = error(&two(one, other));
        assert!(said.contains(&format!("{twice} is bound twice")), "{said}");
    }
    for other in ["\"127.0.0.2:1\"", "\"[::]:1\"\nallow_any = true", "\"localhost:0\""] {
        parse(&two("[\"127.0.0.1:1\", \"127.0.0.1:0\"]", other), "fine.toml").unwrap();
    }
}

#[test]
fn the_admin_endpoint_has_an_address_of_its_own() {
    let text = |bind: &str| {
        format!(
            "admin = \"127.0.0.1:1\"\n{SMALL}[[listener]]\nallow_any = true\nbind = \"{bind}\"\n"
        )
    };
    for bind in ["127.0.0.1:1", "localhost:1", "0.0.0.0:1"] {
        let said = error(&text(bind));
        assert!(said.contains("`admin` is `127.0.0.1:1`, where the listener"), "{said}");
    }
    for bind in ["127.0.0.2:1", "[::]:1", "127.0.0.1:2"] {
        parse(&text(bind), "fine.toml").unwrap();
    }
}

#[test]
fn upstreams_want_no_more_held_than_may_be() {
    let two = |min: usize, pool: &str| {
        format!(
            "warm_max = 5\n[upstream.a]\ngateway = \"a\"\nwarm_min = 3\n[upstream.b]\ngateway = \"b\"\n\
             warm_min = {min}\n[[listener]]\nname = \"a\"\nupstream = \"a\"\npool = \"warm\"\n\
             [[listener]]\nbind = \"127.0.0.1:0\"\nupstream = \"b\"\npool = \"{pool}\"\n"
        )
    };
    let said = error(&two(4, "warm"));
    let both = "[upstream.a] has warm_min 3, [upstream.b] has warm_min 4: more than warm_max 5";
    assert!(said.contains(both), "{said}");
    parse(&two(2, "warm"), "fine.toml").unwrap();
    parse(&two(4, "off"), "fine.toml").unwrap();
}

#[test]
fn what_does_nothing_is_told() {
    let unused = |text: &str| unused(&parse(text, "fine.toml").unwrap()).join("\n");
    let warm = format!("{SMALL}warm_min = 1\n[[listener]]\n");
    assert!(unused(&warm).contains("[upstream.tidb]: warm_min"), "{}", unused(&warm));
    assert_eq!(unused(&format!("{warm}pool = \"warm\"\n")), "");
    let unix = format!("{SMALL}[[listener]]\nunix_mode = \"0600\"\n");
    assert!(
        unused(&unix).contains("the listener `localhost:4000`: unix_mode"),
        "{}",
        unused(&unix)
    );
    assert_eq!(unused(&format!("{unix}bind = \"unix:/a\"\n")), "");
}

#[test]
fn counts_end_where_the_file_has_no_larger_numbers() {
    for key in ["max_connections", "max_connections_per_source"] {
        for (count, is_fine) in [("1000000000", true), ("1000000001", false)] {
            let text = format!("{SMALL}[[listener]]\n{key} = {count}\n");
            assert_eq!(parse(&text, "t.toml").is_ok(), is_fine, "{text}");
        }
    }
}

#[test]
fn a_listener_names_an_upstream_that_exists() {
    let text = format!("{SMALL}[[listener]]\nupstream = \"tibd\"\n");
    assert!(error(&text).contains("no such upstream\nhint: the file has [upstream.tidb]"));
    let text = format!("{SMALL}[upstream.b]\ngateway = \"b\"\n[[listener]]\n");
    assert!(error(&text).contains("does not say which `upstream`"));
}

#[test]
fn the_full_file_holds_every_key_at_its_default() {
    let full = include_str!("../../config/full.toml");
    let config = parse(full, "full.toml").unwrap();
    let gateway = config.upstreams[0].gateway.to_string();
    let least = format!("[upstream.tidb]\ngateway = \"{gateway}\"\n");
    assert_eq!(config, parse(&least, "least.toml").unwrap());

    let keys = |text: &str| {
        let root: toml::Table = text.parse().unwrap();
        let listener = root["listener"][0].as_table().unwrap().clone();
        let upstream = root["upstream"]["tidb"].as_table().unwrap().clone();
        [root, listener, upstream].map(|table| {
            let mut keys: Vec<String> = table.keys().cloned().collect();
            keys.sort();
            keys
        })
    };
    assert_eq!(keys(full), keys(&config.to_toml()));
    // The keys without a default value.
    for key in ["admin_token_file", "client_ca", "tls_ca", "tls_server_name", "tls_client_cert"] {
        assert!(full.contains(&format!("\n# {key} = ")), "{key}");
    }
}

#[test]
fn the_other_files_are_valid() {
    parse(include_str!("../../config/minimal.toml"), "minimal.toml").unwrap();
}

#[test]
fn a_misspelt_variable_is_an_error_and_a_service_link_is_not() {
    let known = ["TIDEGATE_POOL".to_owned(), "TIDEGATE_CONNECT_TIMEOUT".to_owned()];
    let check = |name: &str| check_variables([name.to_owned()].into_iter(), &known);
    let error = check("TIDEGATE_CONECT_TIMEOUT").unwrap_err().to_string();
    assert!(error.ends_with("did you mean `TIDEGATE_CONNECT_TIMEOUT`?"), "{error}");
    for harmless in ["TIDEGATE_POOL", "TIDEGATE_PORT", "TIDEGATE_PORT_4000_TCP", "TIDEGATE_X", "P"]
    {
        assert_eq!(check(harmless), Ok(()));
    }
}

#[test]
fn a_bridge_to_itself_is_refused() {
    let text = |gateway: &str, bind: &str| {
        format!(
            "[upstream.a]\ngateway = \"{gateway}\"\n[[listener]]\nbind = \"{bind}\"\nallow_any = true\n"
        )
    };
    for (gateway, bind) in [
        ("localhost", "localhost:4000"),
        ("localhost", "0.0.0.0:4000"),
        ("127.0.0.1:7", "127.0.0.1:7"),
        ("127.0.0.1:7", "0.0.0.0:7"),
        ("[::1]:7", "[::]:7"),
    ] {
        let text = text(gateway, bind);
        assert!(error(&text).contains("is the bridge itself"), "{text}");
    }
    for (gateway, bind) in [("127.0.0.1:7", "127.0.0.2:7"), ("127.0.0.1:7", "[::]:7")] {
        parse(&text(gateway, bind), "fine.toml").unwrap();
    }
}

#[test]
fn a_public_literal_is_refused_where_a_private_address_is_required() {
    let with = |keys: &str| format!("[upstream.a]\ngateway = \"3.112.0.1\"\n{keys}\n");
    let refused = error(&with("require_private = true"));
    assert!(refused.contains("its gateway 3.112.0.1:4000 is public"), "{refused}");
    for fine in ["", "require_private = true\nprivate_cidrs = [\"3.112.0.0/16\"]"] {
        parse(&with(fine), "fine.toml").unwrap();
    }
}

#[test]
fn an_upstream_that_nobody_uses_is_refused() {
    let text = format!("{SMALL}[upstream.b]\ngateway = \"b\"\n[[listener]]\nupstream = \"b\"\n");
    assert!(error(&text).contains("no listener forwards to [upstream.tidb]"));
}

#[test]
fn numbers_keep_their_radix() {
    assert_eq!(parse(&format!("threads = 0x10\n{SMALL}"), "t.toml").unwrap().threads, 16);
}
