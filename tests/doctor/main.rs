//! `tidegate doctor`: each cause is made for real, and found as what it is, alone.
//!
//! Every case runs the command twice, for people and for machines, and checks all that holds whatever
//! the cause: see [`run`]. What cannot be had (a gateway that refuses in its own words) is played by a
//! server that says the same words.
//!
//! | file | holds |
//! | --- | --- |
//! | `run` | the command, what it says, and what always holds of that |
//! | `fake` | servers that greet, shake hands and answer a log-in as they are told |
//! | `place` | a host of the test's own: its addresses, DNS, DMI, metadata and clock |
//! | `host`, `name`, `path`, `tls`, `login`, `aws` | causes, by the step that they break |
//! | `well` | servers that are as they should be, and what a look costs them |
//! | `output` | colours, escapes, exit codes |

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod aws;
mod fake;
mod host;
mod login;
mod name;
mod output;
mod path;
mod place;
mod run;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod well;

/// A test for each cause: what is set up, the check that fails, and what that is called.
///
/// `stops_at`: nothing behind it can be known. `notes`: what is behind it is looked at all the same. A
/// set-up that is not possible on this machine is `None`, and has said why.
macro_rules! causes {
    ($($name:ident: $setup:expr, $verb:ident $check:literal $cause:literal;)*) => {
        $(#[test] fn $name() {
            if let Some(doctor) = Option::<$crate::run::Doctor>::from($setup) {
                doctor.$verb($check, $cause);
            }
        })*
    };
}
use causes;
