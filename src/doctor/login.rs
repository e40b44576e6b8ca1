//! Whether the user is let in, and how far away the server is.

use std::io;
use std::time::Duration;

use super::answers::Advice;
use super::case::Case;
use super::finding::Finding;
use super::greeting::{is_limit, limit_hint, mentions};
use super::journey::{Greeted, LoggedIn, Trouble};
use super::tls::{Ready, show_certificate, wants_certificate};
use super::{plugin, shown};
use crate::mysql::error::{Problem, Refusal};
use crate::mysql::login::Login;
use crate::show::table::harmless;
use crate::tls::reason::reason;
use crate::upstream::plan::Service;

pub(super) const USER: &str = "login.user";
const AUTHENTICATION: &str = "login.authentication";
const ROUND_TRIPS: &str = "login.round_trips";
/// Longer ones are between regions.
const SLOW: Duration = Duration::from_millis(20);

/// What a server was met with, for whoever asks after it.
#[derive(Debug, Default)]
pub(super) struct Met {
    pub greeted: Option<Greeted>,
    /// The plugin by which the user was let in, or would have been.
    pub plugin: Option<String>,
}

/// Whether a log-in can succeed, as far as the user's name tells.
pub(super) fn may_try(case: &Case, login: &Login) -> bool {
    !(case.is_service(Service::Starter) && lacks_prefix(&login.user))
}

/// Users of a gateway that serves many clusters are `PREFIX.NAME`.
fn lacks_prefix(user: &str) -> bool {
    !user.split_once('.').is_some_and(|(prefix, name)| !prefix.is_empty() && !name.is_empty())
}

/// Waits until it is known.
pub(super) async fn examine(case: &Case, mut ready: Vec<Ready>) -> Met {
    let mut met = Met { greeted: ready.first().map(|one| one.greeted.clone()), plugin: None };
    let later = [AUTHENTICATION, ROUND_TRIPS];
    let Some(login) = &case.login else {
        case.skip(
            &[USER, AUTHENTICATION, ROUND_TRIPS],
            "no user was given (--user, --password-file)",
        );
        return met;
    };
    case.tell(user(case, login));
    if !may_try(case, login) {
        case.skip(&later, "not reached, as login.user is broken");
        return met;
    }
    if ready.is_empty() {
        case.behind(&later, "no server has greeted");
        return met;
    }
    let barred = ready.iter().find_map(|one| one.barred);
    let mut tried = None;
    for one in ready.iter_mut().filter(|one| one.barred.is_none()) {
        if let Ok(word) = (&mut one.journey.logged_in).await {
            tried = Some((one, word));
            break;
        }
    }
    let Some((at, logged_in)) = tried else {
        case.behind(&later, barred.unwrap_or("no connection came to it"));
        return met;
    };
    let address = at.journey.address;
    let LoggedIn { is_secure, took, result } = logged_in;
    match result {
        Ok(visit) => {
            let tls = if is_secure { "inside TLS" } else { "without TLS" };
            let text = format!("{} by {} {tls}, in {}", login.user, visit.plugin, shown(took));
            case.tell(Finding::ok(AUTHENTICATION, text).of(address));
            case.tell(round_trips(visit.pings).of(address));
            met.plugin = Some(visit.plugin);
        }
        Err(trouble) => {
            case.tell(failed(case, &at.greeted, login, &trouble, is_secure).of(address));
            case.behind(&[ROUND_TRIPS], "nobody is logged in");
            met.plugin = plugin::wanted(&trouble).map(str::to_owned);
        }
    }
    met
}

fn user(case: &Case, login: &Login) -> Finding {
    let name = &login.user;
    if !case.is_service(Service::Starter) {
        return Finding::ok(USER, name);
    }
    if lacks_prefix(name) {
        return Finding::fail(USER, "missing_prefix", name)
            .likely("the gateway serves many clusters, and knows by the prefix which one is meant")
            .hint(format!(
                "take the user as the console shows it, under Connect: PREFIX.{name}, such as \
                 2aEp24QWEDLqRFs.{name}"
            ));
    }
    Finding::ok(USER, format!("{name}, with its prefix"))
}

fn failed(
    case: &Case,
    server: &Greeted,
    login: &Login,
    trouble: &Trouble,
    is_secure: bool,
) -> Finding {
    let (cause, advice) = match trouble {
        Trouble::Timeout(_) => (
            "login_error",
            advice(
                "the server hangs, or a cluster that sleeps is slow to wake",
                "try again in a minute; then look at the server",
            ),
        ),
        Trouble::Wire(Problem::Refused(refusal)) => {
            of_refusal(case, server, login, refusal, is_secure)
        }
        Trouble::Wire(Problem::Plugin(_)) => (
            "plugin_unsupported",
            advice(
                "the account authenticates by a plugin that few clients speak, and Hyperdrive does not",
                &format!("give the account one that all do: {}", plugin::change(server)),
            ),
        ),
        Trouble::Wire(Problem::InClear | Problem::Unverified | Problem::NoKey(_)) => (
            "insecure_transport",
            advice(
                "the server wants the password itself, which is sent only to a server that was looked \
                 at, inside TLS",
                "upstream_tls = \"verify-identity\" (--upstream-tls), with tls_ca if its authority is \
                 your own",
            ),
        ),
        Trouble::Wire(Problem::Broken(error)) if wants_certificate(error) => {
            let said = reason(error, "the server");
            return Finding::fail(AUTHENTICATION, "client_certificate", said)
                .advised(&show_certificate());
        }
        Trouble::Wire(Problem::Closed | Problem::Tls(_)) => ("login_error", ended()),
        Trouble::Wire(Problem::Broken(error))
            if error.kind() == io::ErrorKind::ConnectionReset
                || error.kind() == io::ErrorKind::InvalidData =>
        {
            ("login_error", ended())
        }
        Trouble::Wire(_) => (
            "login_error",
            advice(
                "the server, or something before it, does not keep to the protocol",
                "is it a MySQL-protocol server, and which one?",
            ),
        ),
    };
    Finding::fail(AUTHENTICATION, cause, without_password(trouble, login)).advised(&advice)
}

/// A server may repeat what it was sent; of that, what is fit to be shown is left.
fn without_password(trouble: &Trouble, login: &Login) -> String {
    let shown = harmless(&login.password);
    let forms = [login.password.as_str(), &shown].into_iter().filter(|form| !form.is_empty());
    forms.fold(trouble.to_string(), |said, form| said.replace(form, "****"))
}

fn advice(likely: &str, hint: &str) -> Advice {
    Advice { likely: likely.to_owned(), hint: hint.to_owned() }
}

fn ended() -> Advice {
    advice(
        "a gateway that does not know the user's cluster, or a server that was just stopped",
        "is the prefix of the user the cluster's? The server's log says more",
    )
}

fn of_refusal(
    case: &Case,
    server: &Greeted,
    login: &Login,
    refusal: &Refusal,
    is_secure: bool,
) -> (&'static str, Advice) {
    let allow_list =
        ["authorized network", "allow list", "allowlist", "ip access list", "whitelist"];
    match refusal.code {
        _ if mentions(refusal, &["user name prefix", "username prefix"]) => (
            "prefix_rejected",
            Advice {
                likely: "the gateway serves many clusters, and knows by the prefix which one is \
                         meant"
                    .into(),
                hint: format!(
                    "take the user as the console shows it, under Connect: PREFIX.{}",
                    login.user
                ),
            },
        ),
        _ if mentions(refusal, &["insecure transport"]) || refusal.code == 3159 => {
            ("insecure_transport", insecure(is_secure))
        }
        1130 => ("allow_list", denied(case)),
        _ if mentions(refusal, &allow_list) => ("allow_list", denied(case)),
        1203 | 1226 => (
            "connection_limit",
            advice(
                "the account has used up what it may: connections at a time, or in an hour",
                "close idle connections, make applications' pools smaller, or raise the account's \
                 limits: ALTER USER … WITH MAX_USER_CONNECTIONS …, or max_user_connections",
            ),
        ),
        _ if is_limit(refusal) => (
            "connection_limit",
            advice("all connections that the server allows are in use", limit_hint(case)),
        ),
        1049 => (
            "unknown_database",
            advice("there is no such database", "is --database right? SHOW DATABASES lists them"),
        ),
        1044 => (
            "access_denied",
            advice(
                "the user has no rights in that database",
                "GRANT them, or choose another --database",
            ),
        ),
        1820 | 1862 => (
            "password_expired",
            advice("the password has expired", "set a new one: ALTER USER … IDENTIFIED BY …"),
        ),
        1251 | 1524 | 2059 => (
            "plugin_unsupported",
            advice(
                "the account's plugin is not loaded, or not for clients of today",
                plugin::change(server),
            ),
        ),
        1045 | 1698 | 3118 | 4151 => ("access_denied", denied_password(case, refusal, is_secure)),
        _ => ("login_error", advice("the server does not let the user in", "its words say why")),
    }
}

fn insecure(is_secure: bool) -> Advice {
    match is_secure {
        true => advice(
            "the server wants TLS, and does not take this for it: something before it ends TLS",
            "upstream_tls must reach the server itself",
        ),
        false => advice(
            "the server lets nobody in without TLS",
            "upstream_tls = \"verify-identity\" (--upstream-tls), or clients that ask for TLS by \
             themselves (--ssl-mode=REQUIRED) with upstream_tls = \"passthrough\"",
        ),
    }
}

fn denied(case: &Case) -> Advice {
    match case.plan.as_ref().is_some_and(|plan| plan.service.is_tidb_cloud()) {
        true => advice(
            "the cluster's list of authorized networks does not have this endpoint",
            "in the console, under Networking: add the VPC endpoint's id (vpce-…) to the authorized \
             networks",
        ),
        false => advice(
            "no account, or no list of allowed hosts, has this host",
            "create the user for this host's address, or add it to the whitelist",
        ),
    }
}

fn denied_password(case: &Case, refusal: &Refusal, is_secure: bool) -> Advice {
    if refusal.code == 1698 {
        return advice(
            "the account is let in by its name on the server's own host, and by no password",
            "create a user with a password for this host",
        );
    }
    if refusal.code != 1045 {
        return advice("the account is locked", "ALTER USER … ACCOUNT UNLOCK");
    }
    let likely = match is_secure {
        true => {
            "the password is wrong, there is no such user, or not for this host or without a \
             certificate (REQUIRE X509)"
        }
        false => {
            "the password is wrong, there is no such user, or not for this host or without TLS \
             (REQUIRE SSL)"
        }
    };
    match case.is_service(Service::Starter) {
        true => advice(
            likely,
            "is the prefix the one of this cluster? A password is reset in the console, under Connect",
        ),
        false => advice(
            likely,
            "is what is in --password-file the password, and is there an account for the host that \
             the server's words name?",
        ),
    }
}

fn round_trips(mut pings: Vec<Duration>) -> Finding {
    pings.sort_unstable();
    let [shortest, .., longest] = pings.as_slice() else {
        return Finding::skip(ROUND_TRIPS, "the server did not answer pings");
    };
    let median = pings[pings.len() / 2];
    let [low, middle, high] = [*shortest, median, *longest].map(shown);
    let evidence =
        format!("{low} at least, {middle} in the middle, {high} at most, of {}", pings.len());
    match median {
        median if median > SLOW => Finding::warn(ROUND_TRIPS, "slow_path", evidence)
            .likely("the server is in another region, or the path goes round by one")
            .hint("run tidegate in the region of the gateway, and applications beside it"),
        _ => Finding::ok(ROUND_TRIPS, evidence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn a_prefix_is_what_stands_before_a_dot() {
        for (user, lacks) in
            [("root", true), ("2aEp24QWEDLqRFs.root", false), (".root", true), ("x.", true)]
        {
            assert_eq!(lacks_prefix(user), lacks, "{user}");
        }
    }

    #[test]
    fn round_trips_are_told_by_three_figures_and_warned_of_when_long() {
        let ms = |ms: &[u64]| round_trips(ms.iter().map(|ms| Duration::from_millis(*ms)).collect());
        assert_eq!(
            ms(&[3, 1, 2]).evidence,
            "1.0 ms at least, 2.0 ms in the middle, 3.0 ms at most, of 3"
        );
        assert_eq!(ms(&[19, 21, 21]).cause, Some("slow_path"));
        assert_eq!(ms(&[1]).status, Status::Skip);
    }
}
