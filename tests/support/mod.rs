//! What the tests stand on: the real binary, a real MariaDB, network namespaces, plain sockets.
//!
//! Everything that is started ends with the value that holds it, also when a test panics, and also
//! when the test process itself is killed: see [`process`].

#![allow(dead_code, reason = "every test binary includes all of this and uses its own part")]

pub mod bridge;
pub mod fault;
pub mod mariadb;
pub mod mysql;
pub mod mysqld;
pub mod namespace;
pub mod process;
pub mod tcp;
pub mod tls;
pub mod toolchain;

use std::env;
use std::fmt::Debug;
use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything on loopback takes on a busy machine; reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Whether to run the long form of a slow case instead of a short form of the same.
pub fn full() -> bool {
    env::var_os("TIDEGATE_TEST_FULL").is_some_and(|value| value == "1")
}

/// The long form's value with `TIDEGATE_TEST_FULL=1`, else the short form's.
pub fn full_or<T>(long: T, short: T) -> T {
    if full() { long } else { short }
}

/// How many session threads the bridge under test runs.
pub fn threads() -> String {
    env::var("TIDEGATE_TEST_THREADS").unwrap_or_else(|_| "1".into())
}

/// Says why a test does not run; where skipping is not allowed (`CI=true`) it fails instead.
pub fn skip(why: &str) {
    assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "skipped in CI: {why}");
    skip_anywhere(why);
}

/// The same in CI as elsewhere: for what Debian's stable release does not have.
pub fn skip_anywhere(why: &str) {
    // Not `println!`: that is swallowed when a test passes.
    let _ = writeln!(io::stderr(), "skipped: {why}");
}

/// Asks again and again until there is an answer; fails when `patience` runs out.
pub fn until_within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

pub fn until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, ask)
}

/// Waits for a condition that concerns a value, and shows the last value when it never held.
pub fn until_it<T: Debug>(
    what: &str,
    mut look: impl FnMut() -> T,
    holds: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look();
        if holds(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}; last seen: {seen:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A runtime for one test.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
