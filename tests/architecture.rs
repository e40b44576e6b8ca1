//! The house rules, kept true by reading the sources.
//!
//! Everything is judged on tokens, not on a syntax tree: a path reads the same in a `use`, a type, a
//! body, an attribute and a macro's arguments, so one walk sees them all and nothing can hide in a
//! corner that a visitor forgot. `#[cfg(test)]` modules, inline or in a file of their own, are exempt
//! from the import table and from the sans-io rules: a room's unit tests may set up what they like.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, Ident, Spacing, TokenStream, TokenTree};

/// Who may import whom, from the ground floor up: a room may import only rooms that stand before it.
///
/// `room::Item` opens one item of a room instead of all of it.
#[rustfmt::skip]
const TABLE: &[Room] = &[
    Room { name: "config", may_import: &[] },
    Room { name: "metrics", may_import: &[] },
    Room { name: "drain", may_import: &[] },
    Room { name: "systemd", may_import: &[] },
    Room { name: "show", may_import: &[] },
    // Every room receives its own section of the configuration; this one's type lives there.
    Room { name: "log", may_import: &["config"] },
    Room { name: "cli", may_import: &[] },
    Room { name: "cli::given", may_import: &["config"] },
    Room { name: "net", may_import: FLOOR_0 },
    Room { name: "tls", may_import: &["net"] },
    Room { name: "relay", may_import: &["net"] },
    Room { name: "mysql", may_import: &[] },
    Room { name: "mysql::channel", may_import: &["net", "tls"] },
    Room { name: "mysql::client", may_import: &["net", "tls"] },
    Room { name: "mysql::login", may_import: &["net", "tls"] },
    Room { name: "mysql::packets", may_import: &["net", "tls"] },
    Room { name: "upstream", may_import: &["net", "tls", "mysql"] },
    Room { name: "pool", may_import: &["net", "tls", "mysql", "upstream::Connected", "upstream::Endpoint", "upstream::Upstream"] },
    Room { name: "proxy", may_import: &["net", "tls", "relay", "mysql", "upstream", "pool"] },
    Room { name: "admin", may_import: &["net", "upstream", "pool", "proxy"] },
    Room { name: "app", may_import: BELOW_THE_ROOF },
    Room { name: "doctor", may_import: FLOORS_1_TO_4 },
    Room { name: "render", may_import: FLOORS_1_TO_4 },
    Room { name: "lint", may_import: FLOORS_1_TO_4 },
    Room { name: "load", may_import: FLOORS_1_TO_4 },
    Room { name: "control", may_import: FLOORS_1_TO_4 },
    Room { name: "demo", may_import: &["net", "tls", "relay", "mysql", "upstream", "app"] },
    Room { name: "main", may_import: EVERYTHING },
];

/// Open to every room above it.
const FLOOR_0: &[&str] = &["config", "metrics", "drain", "log", "show"];
const FLOORS_1_TO_4: &[&str] = &["net", "tls", "relay", "mysql", "upstream"];
const BELOW_THE_ROOF: &[&str] =
    &["cli", "systemd", "net", "tls", "relay", "mysql", "upstream", "pool", "proxy", "admin"];
const EVERYTHING: &[&str] = &[
    "cli", "systemd", "net", "tls", "relay", "mysql", "upstream", "pool", "proxy", "admin", "app",
    "doctor", "render", "lint", "load", "control", "demo",
];

/// Files that may be longer than [`MAX_LINES`], each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];
const MAX_LINES: usize = 400;

/// The files of mysql that hold a stream, and so are not sans-io.
const MYSQL_ON_A_STREAM: &[&str] =
    &["src/mysql/channel.rs", "src/mysql/client.rs", "src/mysql/login.rs", "src/mysql/packets.rs"];

/// Words that mean I/O, and so have no place in a sans-io file.
const IO_WORDS: &[&str] = &[
    "tokio",
    "hyper",
    "socket2",
    "rustix",
    "nix",
    "libc",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "File",
    "stdin",
    "stdout",
    "stderr",
    "await",
];
/// Words that mean a clock. A pure state machine is told the time; it does not look.
const CLOCK_WORDS: &[&str] = &["SystemTime", "Instant"];

struct Room {
    name: &'static str,
    may_import: &'static [&'static str],
}

#[test]
fn every_room_imports_only_what_the_table_allows() {
    let sources = sources();
    let exempt = test_files(&sources);
    let problems: Vec<Problem> = sources.iter().flat_map(|file| imports(file, &exempt)).collect();
    assert!(problems.is_empty(), "\n{}", lines(&problems));
}

#[test]
fn sans_io_files_know_neither_tokio_nor_sockets_nor_a_clock() {
    let sources = sources();
    let exempt = test_files(&sources);
    let problems: Vec<Problem> =
        sources.iter().flat_map(|file| io_and_clock(file, &exempt)).collect();
    assert!(problems.is_empty(), "\n{}", lines(&problems));
}

#[test]
fn no_file_is_longer_than_400_lines_without_a_reason() {
    let problems: Vec<Problem> = sources().iter().flat_map(length).collect();
    assert!(problems.is_empty(), "\n{}", lines(&problems));

    for (path, reason) in LONG_FILES {
        assert!(!reason.is_empty(), "{path} is excused without a reason");
        let source = fs::read_to_string(root().join(path)).unwrap_or_default();
        assert!(
            source.lines().count() > MAX_LINES,
            "{path} needs no excuse any more: remove its entry"
        );
    }
}

#[test]
fn the_crate_and_the_binary_forbid_unsafe_code() {
    for file in sources() {
        if matches!(file.path.as_str(), "src/lib.rs" | "src/main.rs") {
            assert!(forbids_unsafe(&file.text), "{} lacks #![forbid(unsafe_code)]", file.path);
        }
    }
}

#[test]
fn the_table_only_points_downward() {
    for (floor, room) in TABLE.iter().enumerate() {
        for allowed in room.may_import {
            let target = allowed.split("::").next().unwrap();
            let stands_on = TABLE.iter().position(|other| other.name == target);
            assert!(
                stands_on.is_some_and(|below| below < floor),
                "{} may not stand on {target}: rooms are listed from the ground floor up",
                room.name,
            );
        }
    }
}

#[test]
fn every_planted_import_violation_is_reported() {
    for (what, path, text, expected) in PLANTED_IMPORTS {
        let file = Source::planted(path, text);
        let found = lines(&imports(&file, &BTreeSet::new()));
        assert!(
            found.contains(expected),
            "{what}: expected a report of `{expected}`, found:\n{found}"
        );
    }
}

#[test]
fn sources_that_keep_the_import_rules_are_left_alone() {
    for (what, path, text) in CLEAN_IMPORTS {
        let file = Source::planted(path, text);
        let found = imports(&file, &BTreeSet::new());
        assert!(found.is_empty(), "{what}:\n{}", lines(&found));
    }
}

#[test]
fn planted_io_and_clocks_in_sans_io_files_are_reported() {
    for (what, path, text, expected) in PLANTED_IO {
        let file = Source::planted(path, text);
        let found = lines(&io_and_clock(&file, &BTreeSet::new()));
        assert!(
            found.contains(expected),
            "{what}: expected a report of `{expected}`, found:\n{found}"
        );
    }
    for (what, path, text) in CLEAN_IO {
        let file = Source::planted(path, text);
        let found = io_and_clock(&file, &BTreeSet::new());
        assert!(found.is_empty(), "{what}:\n{}", lines(&found));
    }
}

#[test]
fn a_planted_file_of_401_lines_is_reported_and_one_of_400_is_not() {
    let long = Source::planted("src/net/long.rs", &"//\n".repeat(MAX_LINES + 1));
    assert!(lines(&length(&long)).contains("401 lines"));
    let fitting = Source::planted("src/net/fitting.rs", &"//\n".repeat(MAX_LINES));
    assert!(length(&fitting).is_empty());
}

#[test]
fn a_missing_or_commented_out_forbid_is_noticed() {
    assert!(forbids_unsafe("//! Docs.\n#![forbid(unsafe_code)]\npub mod net;"));
    assert!(!forbids_unsafe("//! Docs.\npub mod net;"));
    assert!(!forbids_unsafe("// #![forbid(unsafe_code)]"));
    assert!(!forbids_unsafe("#![deny(unsafe_code)]"));
}

#[test]
fn a_module_declared_under_cfg_test_is_exempt_in_its_own_file_too() {
    let parent = Source::planted("src/net/mod.rs", "#[cfg(test)]\nmod tests;");
    let child = Source::planted("src/net/tests.rs", "use crate::proxy::Proxy;");
    assert!(!imports(&child, &BTreeSet::new()).is_empty(), "only the declaration exempts it");
    assert!(imports(&child, &test_files(&[parent])).is_empty());
}

/// What is wrong, where it is put, the source, and a part of the report it must cause.
#[rustfmt::skip]
const PLANTED_IMPORTS: &[(&str, &str, &str, &str)] = &[
    ("a plain use", "src/net/listener.rs", "use crate::proxy::Proxy;", "net may not import proxy"),
    ("a use of floor 0 upward", "src/metrics.rs", "use crate::net::socket;", "metrics may not import net"),
    ("a neighbour on the same floor", "src/relay/copy.rs", "use crate::tls::client;", "relay may not import tls"),
    ("a nested use", "src/net/connect.rs", "use crate::{config::Upstream, relay::{self, copy}};", "net may not import relay"),
    ("a nested use, two levels down", "src/relay/mod.rs", "use {std::io, crate::{net::{socket}, admin::{health::{Ready}}}};", "relay may not import admin"),
    ("super:: out of the room", "src/net/mod.rs", "use super::upstream::Endpoint;", "net may not import upstream"),
    ("super::super:: out of the room", "src/net/socket.rs", "fn f() { super::super::pool::checkout() }", "net may not import pool"),
    ("super:: from an inline module", "src/drain.rs", "mod inner { use super::super::net; }", "drain may not import net"),
    ("self:: and super:: mixed", "src/tls/mod.rs", "use self::super::relay::copy;", "tls may not import relay"),
    ("an inline path in a body", "src/upstream/pick.rs", "fn f() { let p = crate::pool::Pool::new(); }", "upstream may not import pool"),
    ("an inline path in a type", "src/upstream/mod.rs", "struct S { p: Option<crate::proxy::Proxy> }", "upstream may not import proxy"),
    ("an inline path in a bound", "src/net/stream.rs", "fn f<T: Into<crate::mysql::packet::ErrorCode>>(t: T) {}", "net may not import mysql"),
    ("an alias of a room", "src/relay/copy.rs", "use crate::proxy as p; fn f() { p::g() }", "relay may not import proxy"),
    ("an alias of the crate", "src/relay/copy.rs", "use crate as root; fn f() { root::proxy::g() }", "names the crate root"),
    ("an alias of the crate in braces", "src/net/socket.rs", "use crate::{self as root};", "names the crate root"),
    ("an alias of super at the root", "src/log.rs", "use super as root;", "names the crate root"),
    ("a glob of the crate", "src/net/socket.rs", "use crate::*;", "names the crate root"),
    ("a glob of super at the root", "src/net/mod.rs", "use super::*;", "names the crate root"),
    ("a glob of a room", "src/net/socket.rs", "use crate::admin::*;", "net may not import admin"),
    ("inside a macro's arguments", "src/log.rs", "fn f() { tracing::info!(x = %crate::proxy::name(), \"y\"); }", "log may not import proxy"),
    ("inside macro_rules", "src/metrics.rs", "macro_rules! m { () => { $crate::app::App::build() } }", "metrics may not import app"),
    ("a use inside a macro", "src/net/socket.rs", "wrap! { use crate::{relay::pipe}; }", "net may not import relay"),
    ("inside an attribute", "src/config/file.rs", "#[serde(default = crate::net::port)] struct S;", "config may not import net"),
    ("the crate by its own name", "src/net/connect.rs", "use tidegate::proxy::Proxy;", "net may not import proxy"),
    ("the crate by its absolute name", "src/net/connect.rs", "fn f() { ::tidegate::app::run() }", "net may not import app"),
    ("the crate by its own name, aliased", "src/net/connect.rs", "use tidegate as t;", "names the crate root"),
    ("extern crate self", "src/net/mod.rs", "extern crate self as me;", "names the crate root"),
    ("a raw identifier", "src/net/mod.rs", "use crate::r#proxy::Proxy;", "net may not import proxy"),
    ("a path over several lines", "src/net/mod.rs", "use crate\n    ::\n    proxy::Proxy;", "src/net/mod.rs:1: net may not import proxy"),
    ("a pub use", "src/net/mod.rs", "pub use crate::relay::copy;", "net may not import relay"),
    ("an item of an opened room that is not the opened one", "src/pool/key.rs", "use crate::upstream::{Endpoint, Resolver};", "pool may not import upstream::Resolver"),
    ("all of a room of which one item is open", "src/pool/mod.rs", "use crate::upstream;", "pool may not import upstream"),
    ("a sans-io file of mysql using net", "src/mysql/packet.rs", "use crate::net::stream;", "mysql may not import net"),
    ("a guest room used from below", "src/proxy/mod.rs", "use crate::demo::dns;", "proxy may not import demo"),
    ("a guest room used from the roof", "src/app.rs", "fn f() { crate::doctor::run() }", "app may not import doctor"),
    ("lib.rs opening a back door", "src/lib.rs", "pub mod net; pub use net::connect;", "lib.rs only lists the rooms"),
    ("lib.rs opening a back door by crate::", "src/lib.rs", "pub use crate::proxy::Proxy;", "lib.rs only lists the rooms"),
    ("an item at the crate root", "src/net/mod.rs", "use crate::Shared;", "`Shared` is no room"),
    ("a room nobody knows", "src/attic/mod.rs", "fn f() {}", "add `attic` to TABLE"),
    ("a room nobody knows, one file", "src/attic.rs", "fn f() {}", "add `attic` to TABLE"),
    ("a file three levels deep", "src/net/tcp/options.rs", "fn f() {}", "two levels deep"),
    ("a module with a path of its own", "src/net/mod.rs", "#[path = \"../proxy/session.rs\"] mod session;", "#[path]"),
    ("an included file", "src/net/mod.rs", "include!(\"../proxy/session.rs\");", "include!"),
    ("a module that only says test", "src/net/mod.rs", "#[cfg(not(test))] mod m { use crate::proxy::Proxy; }", "net may not import proxy"),
    ("after a cfg(test) module", "src/net/mod.rs", "#[cfg(test)] mod tests {} use crate::proxy::Proxy;", "net may not import proxy"),
];

#[rustfmt::skip]
const CLEAN_IMPORTS: &[(&str, &str, &str)] = &[
    ("floor 0 from above", "src/net/listener.rs", "use crate::{config::Listener, metrics::Metrics, drain};"),
    ("downward", "src/proxy/session.rs", "use crate::relay; use super::super::upstream::{pick, Endpoint};"),
    ("within the room", "src/net/socket.rs", "use super::connect; use crate::net::stream::Stream;"),
    ("within the room, from an inline module", "src/net/socket.rs", "mod inner { use super::super::connect; use super::*; }"),
    ("the opened item", "src/pool/key.rs", "use crate::upstream::Endpoint; fn f(e: crate::upstream::Endpoint) {}"),
    ("a file of mysql with a stream", "src/mysql/client.rs", "use crate::{net::stream, tls::client, config};"),
    ("the roof", "src/app.rs", "use crate::{admin, proxy::Proxy, upstream, config::Config};"),
    ("the binary", "src/main.rs", "use tidegate::{cli, demo, app::App};"),
    ("lib.rs lists rooms", "src/lib.rs", "//! # Layout: crate::app builds.\n#![forbid(unsafe_code)]\npub mod net; pub mod proxy;"),
    ("words that only look like paths", "src/net/mod.rs", "pub(in crate::net) fn f() {} // crate::proxy\nconst S: &str = \"crate::proxy\";"),
    ("docs may point anywhere", "src/net/mod.rs", "/// See [`crate::proxy::session`].\npub(crate) fn f() {}"),
    ("a type of the same name as a room elsewhere", "src/net/mod.rs", "use std::net::TcpStream; use other::proxy::P; fn f() { proxy::g() } mod proxy {}"),
    ("a unit test may reach up", "src/net/mod.rs", "#[cfg(test)]\n#[allow(unused)]\nmod tests { use super::*; use crate::proxy::Proxy; mod deeper { use crate::app; } }"),
];

#[rustfmt::skip]
const PLANTED_IO: &[(&str, &str, &str, &str)] = &[
    ("tokio imported", "src/mysql/packet.rs", "use tokio::io::AsyncRead;", "`tokio`"),
    ("tokio under another name", "src/mysql/auth.rs", "use tokio as t;", "`tokio`"),
    ("tokio in a body", "src/mysql/auth.rs", "fn f() { ::tokio::spawn(g()); }", "`tokio`"),
    ("tokio in a macro", "src/mysql/auth.rs", "m!(tokio::time::sleep(d));", "`tokio`"),
    ("a socket of std", "src/mysql/command.rs", "use std::net::TcpStream;", "`TcpStream`"),
    ("a socket of std behind a glob", "src/mysql/command.rs", "use std::net::*; fn f(s: TcpListener) {}", "`TcpListener`"),
    ("a clock", "src/mysql/handshake.rs", "use std::time::Instant;", "`Instant`"),
    ("a clock by full path", "src/mysql/handshake.rs", "fn f() { std::time::SystemTime::now(); }", "`SystemTime`"),
    ("waiting", "src/mysql/response.rs", "async fn f() { g().await }", "`await`"),
    ("a state machine that looks at the clock", "src/upstream/health.rs", "fn f() { let t = std::time::Instant::now(); }", "`::now`"),
    ("a state machine that looks at an aliased clock", "src/upstream/health.rs", "use std::time::Instant as I; fn f() { I::now(); }", "`::now`"),
    ("a state machine that asks how long ago", "src/upstream/health.rs", "fn f(t: Instant) { t.elapsed(); }", "`elapsed`"),
    ("a state machine on tokio's clock", "src/upstream/health.rs", "use tokio::time::Instant;", "`tokio`"),
];

#[rustfmt::skip]
const CLEAN_IO: &[(&str, &str, &str)] = &[
    ("bytes and durations", "src/mysql/packet.rs", "use std::time::Duration; fn f(b: &[u8]) -> Vec<u8> { b.to_vec() }"),
    ("the files that hold a stream", "src/mysql/client.rs", "use tokio::io::AsyncRead;"),
    ("a state machine that is told the time", "src/upstream/health.rs", "use std::time::Instant; fn f(now: Instant) {}"),
    ("words in comments and strings", "src/mysql/packet.rs", "//! No tokio.\nconst S: &str = \"Instant\"; // TcpStream"),
    ("a unit test with a runtime", "src/mysql/packet.rs", "#[cfg(test)] mod tests { use tokio::time::Instant; }"),
    ("other rooms", "src/relay/copy.rs", "use tokio::net::TcpStream; use std::time::Instant;"),
];

/// One thing wrong in one place.
struct Problem {
    path: String,
    line: usize,
    text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.text)
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

/// Judges every path in one file that starts at the crate.
fn imports(file: &Source, exempt: &BTreeSet<Module>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut report = |line, text| problems.push(Problem { path: file.path.clone(), line, text });
    let module = file.module();
    let Some(own) = module.first().map(String::as_str) else {
        for found in file.walk().paths {
            report(found.line, format!("lib.rs only lists the rooms, but names {found}"));
        }
        return problems;
    };
    if module.len() > 2 {
        report(1, "src/ is at most two levels deep".into());
    }
    let Some(room) = Room::of(&module) else {
        report(
            1,
            format!("no room of this name is known: add `{own}` to TABLE in tests/architecture.rs"),
        );
        return problems;
    };
    if exempt.contains(&file.module()) {
        return problems;
    }
    let walk = file.walk();
    for (line, text) in walk.tricks {
        report(line, text);
    }
    for found in walk.paths {
        let Some(target) = found.segments.first().filter(|first| *first != "*") else {
            report(found.line, format!("{own} names the crate root; name the room it needs"));
            continue;
        };
        if target == own {
            continue;
        }
        if !TABLE.iter().any(|known| known.name == target) {
            report(found.line, format!("`{target}` is no room: what is shared lives in one"));
            continue;
        }
        if !room.may(&found.segments) {
            let item = room.opens_items_of(target).then(|| found.segments.get(1)).flatten();
            let name = item.map_or(target.clone(), |item| format!("{target}::{item}"));
            report(found.line, format!("{own} may not import {name}"));
        }
    }
    problems
}

impl Room {
    /// The row for a module: that of the file if it has one of its own, else that of its room.
    fn of(module: &[String]) -> Option<&'static Self> {
        let find = |name: &str| TABLE.iter().find(|room| room.name == name);
        find(&module[..module.len().min(2)].join("::")).or_else(|| find(&module[0]))
    }

    fn may(&self, path: &[String]) -> bool {
        let grounded = !FLOOR_0.contains(&self.name) && self.name != "cli";
        (grounded && FLOOR_0.contains(&path[0].as_str()))
            || self.may_import.iter().any(|allowed| {
                let allowed: Vec<&str> = allowed.split("::").collect();
                path.len() >= allowed.len() && path.iter().zip(&allowed).all(|(a, b)| a == b)
            })
    }

    fn opens_items_of(&self, room: &str) -> bool {
        self.may_import
            .iter()
            .any(|allowed| allowed.split_once("::").is_some_and(|(of, _)| of == room))
    }
}

/// Judges the files that must stay pure.
fn io_and_clock(file: &Source, exempt: &BTreeSet<Module>) -> Vec<Problem> {
    let state_machine = file.path == "src/upstream/health.rs";
    let protocol =
        file.path.starts_with("src/mysql/") && !MYSQL_ON_A_STREAM.contains(&file.path.as_str());
    if !(state_machine || protocol) || exempt.contains(&file.module()) {
        return Vec::new();
    }
    let mut problems = Vec::new();
    let mut report = |line, word: &str| {
        let text = format!("`{word}` in a sans-io file: the caller does I/O and tells the time");
        problems.push(Problem { path: file.path.clone(), line, text });
    };
    for word in file.walk().words {
        if IO_WORDS.contains(&word.text.as_str())
            || (protocol && CLOCK_WORDS.contains(&word.text.as_str()))
        {
            report(word.line, &word.text);
        }
        if state_machine && word.text == "now" && word.after_colons {
            report(word.line, "::now");
        }
        if state_machine && matches!(word.text.as_str(), "elapsed" | "SystemTime") {
            report(word.line, &word.text);
        }
    }
    problems
}

fn length(file: &Source) -> Vec<Problem> {
    let count = file.text.lines().count();
    if count <= MAX_LINES || LONG_FILES.iter().any(|(path, _)| *path == file.path) {
        return Vec::new();
    }
    let text = format!("{count} lines: split it, or give it an entry and a reason in LONG_FILES");
    vec![Problem { path: file.path.clone(), line: count, text }]
}

fn forbids_unsafe(text: &str) -> bool {
    tokens(text).to_string().replace(' ', "").contains("#![forbid(unsafe_code)]")
}

/// The files that some file declares under `#[cfg(test)]`.
fn test_files(sources: &[Source]) -> BTreeSet<Module> {
    sources.iter().flat_map(|file| file.walk().test_files).collect()
}

/// A module's names from the crate downward; the crate itself has none.
type Module = Vec<String>;

/// One file of the crate.
struct Source {
    /// Relative to the crate's root, like `src/net/socket.rs`.
    path: String,
    text: String,
}

/// Every file under `src/`; finding none is a failure, not a pass.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let relative = path.strip_prefix(root()).unwrap();
                found.push(Source { path: relative.to_str().unwrap().into(), text });
            }
        }
    }
    assert!(
        found.iter().any(|file| file.path == "src/lib.rs"),
        "the sources are not where they were"
    );
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Source {
    fn planted(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    /// `src/net/socket.rs` is `net::socket`, `src/net/mod.rs` is `net`, `src/lib.rs` is the root.
    fn module(&self) -> Module {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let mut module: Module = path.split('/').map(String::from).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
            module.pop();
        }
        module
    }

    fn walk(&self) -> Walk {
        let mut walk = Walk::default();
        let module = self.module();
        // The binary is a crate of its own: its `crate::` is not the library's.
        let crate_names: &[&str] =
            if self.path == "src/main.rs" { &["tidegate"] } else { &["crate", "tidegate"] };
        walk.at_root = self.path == "src/lib.rs";
        walk.tokens(tokens(&self.text), &module, crate_names);
        walk
    }
}

fn tokens(text: &str) -> TokenStream {
    text.parse().unwrap_or_else(|error| panic!("{error} in:\n{text}"))
}

/// What one pass over a file's tokens brings home, `#[cfg(test)]` modules left out.
#[derive(Default)]
struct Walk {
    paths: Vec<Found>,
    words: Vec<Word>,
    /// Ways around this test, and the line they stand on.
    tricks: Vec<(usize, String)>,
    /// Modules declared under `#[cfg(test)]` that live in a file of their own.
    test_files: BTreeSet<Module>,
    at_root: bool,
}

/// A path that starts at the crate; `segments` come after the crate.
struct Found {
    line: usize,
    segments: Vec<String>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "crate::{}", self.segments.join("::"))
    }
}

struct Word {
    line: usize,
    text: String,
    after_colons: bool,
}

impl Walk {
    fn tokens(&mut self, stream: TokenStream, module: &[String], crate_names: &[&str]) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        let mut under_test = false;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Punct(hash) if hash.as_char() == '#' => {
                    if let Some(attribute) = attribute(&tokens, at) {
                        under_test |= attribute == "cfg(test)";
                        if attribute.starts_with("path=") {
                            self.tricks.push((
                                line(&tokens[at]),
                                "#[path] takes a module out of its room".into(),
                            ));
                        }
                    }
                    at += 1;
                }
                TokenTree::Ident(ident) if ident == "mod" && name(tokens.get(at + 1)).is_some() => {
                    let mut inner = module.to_vec();
                    inner.extend(name(tokens.get(at + 1)));
                    match tokens.get(at + 2) {
                        Some(TokenTree::Group(body)) if !under_test => {
                            self.tokens(body.stream(), &inner, crate_names)
                        }
                        Some(TokenTree::Group(_)) => {}
                        _ if under_test => drop(self.test_files.insert(inner)),
                        _ => {}
                    }
                    under_test = false;
                    at += 3;
                }
                TokenTree::Ident(ident) if ident == "pub" && visibility(tokens.get(at + 1)) => {
                    at += 2
                }
                TokenTree::Ident(ident) => {
                    let after_colons = at >= 2 && colons(&tokens, at - 2);
                    self.words.push(Word {
                        line: line(&tokens[at]),
                        text: plain(ident),
                        after_colons,
                    });
                    self.trick(&tokens, at);
                    if let Some(start) = self.start(ident, &tokens, at, module, crate_names) {
                        self.path(&tokens, at, start, line(&tokens[at]));
                    }
                    at += 1;
                }
                TokenTree::Group(group) => {
                    // An attribute stands before its item; any other group ends or belongs to one.
                    let is_attribute = group.delimiter() == Delimiter::Bracket
                        && at > 0
                        && is_punct(&tokens[at - 1], '#');
                    under_test &= is_attribute;
                    self.tokens(group.stream(), module, crate_names);
                    at += 1;
                }
                TokenTree::Punct(punct) => {
                    under_test &= punct.as_char() != ';';
                    at += 1;
                }
                TokenTree::Literal(_) => at += 1,
            }
        }
    }

    fn trick(&mut self, tokens: &[TokenTree], at: usize) {
        let next_is = |offset, text: &str| {
            tokens.get(at + offset).is_some_and(|token: &TokenTree| token.to_string() == text)
        };
        let text = tokens[at].to_string();
        if text == "include" && next_is(1, "!") {
            self.tricks.push((line(&tokens[at]), "include! takes code out of its room".into()));
        }
        if text == "extern" && next_is(1, "crate") && (next_is(2, "self") || next_is(2, "tidegate"))
        {
            self.tricks
                .push((line(&tokens[at]), "names the crate root; name the room it needs".into()));
        }
    }

    /// The module a path starts from, if its first word is one that leads to the crate.
    fn start(
        &self,
        ident: &Ident,
        tokens: &[TokenTree],
        at: usize,
        module: &[String],
        crate_names: &[&str],
    ) -> Option<Vec<String>> {
        // `a::crate` does not exist, but `a::tidegate` and `::tidegate` differ: only the latter is us.
        let inside_a_path = at >= 3 && colons(tokens, at - 2) && name(tokens.get(at - 3)).is_some();
        let goes_on =
            colons(tokens, at + 1) || name(tokens.get(at + 1)).is_some_and(|next| next == "as");
        if inside_a_path || !goes_on {
            return None;
        }
        let word = plain(ident);
        match word.as_str() {
            "self" if module.is_empty() => None,
            "self" => Some(module.to_vec()),
            "super" => Some(module[..module.len().saturating_sub(1)].to_vec()),
            word if crate_names.contains(&word) => Some(Vec::new()),
            word if self.at_root
                && module.is_empty()
                && TABLE.iter().any(|room| room.name == word) =>
            {
                Some(vec![word.into()])
            }
            _ => None,
        }
    }

    /// Follows a path from its first word at `at`, which has led to `from`, into the braces of a `use`.
    fn path(&mut self, tokens: &[TokenTree], mut at: usize, mut from: Vec<String>, line: usize) {
        while colons(tokens, at + 1) {
            match tokens.get(at + 3) {
                Some(TokenTree::Ident(ident)) if ident == "super" => drop(from.pop()),
                Some(TokenTree::Ident(ident)) if ident == "self" => {}
                Some(TokenTree::Ident(ident)) => from.push(plain(ident)),
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    return self.branches(group.stream(), &from);
                }
                Some(token) if is_punct(token, '*') => from.push("*".into()),
                _ => break,
            }
            at += 3;
        }
        self.paths.push(Found { line, segments: from });
    }

    fn branches(&mut self, stream: TokenStream, from: &[String]) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        for branch in tokens.split(|token| is_punct(token, ',')) {
            let Some(first) = branch.first() else {
                continue;
            };
            let mut start = from.to_vec();
            match first {
                TokenTree::Ident(ident) if ident == "self" => {}
                TokenTree::Ident(ident) if ident == "super" => drop(start.pop()),
                TokenTree::Ident(ident) => start.push(plain(ident)),
                _ => start.push("*".into()),
            }
            self.path(branch, 0, start, line(first));
        }
    }
}

/// The text of the attribute whose `#` stands at `at`, without spaces.
fn attribute(tokens: &[TokenTree], at: usize) -> Option<String> {
    match tokens.get(at + 1) {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket => {
            Some(group.stream().to_string().replace(' ', ""))
        }
        _ => None,
    }
}

fn visibility(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis)
}

fn colons(tokens: &[TokenTree], at: usize) -> bool {
    let joint = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ':' && punct.spacing() == Spacing::Joint);
    tokens.get(at).is_some_and(joint)
        && tokens.get(at + 1).is_some_and(|token| is_punct(token, ':'))
}

fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

fn name(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(ident)) => Some(plain(ident)),
        _ => None,
    }
}

fn plain(ident: &Ident) -> String {
    ident.to_string().trim_start_matches("r#").into()
}

fn line(token: &TokenTree) -> usize {
    token.span().start().line
}
