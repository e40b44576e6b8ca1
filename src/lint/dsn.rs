//! `mysql://user:password@host:port/database?parameters`, wherever it stands.
//!
//! Nothing of one but its host and the names of its parameters is ever repeated, and its host only when
//! there is no doubt where the password ends.

use std::collections::HashSet;

use super::Read;
use super::report::{Report, Rule};
use super::shell::{assignment, is_open};
use super::source::Kind;
use crate::config::{Gateway, is_public};
use crate::upstream::plan::{Plan, Service};

/// Whom a DSN is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// Hyperdrive's: it is Cloudflare that connects.
    Hyperdrive,
    /// Hyperdrive's stand-in on a developer's host.
    Local,
    /// Nobody says.
    Unknown,
    /// A variable of another name, so perhaps an ORM, which has parameters of its own.
    Other,
}

const SCHEME: &str = "mysql://";
const AFTER: [char; 7] = ['.', ',', ';', ')', '>', '|', '\\'];

/// Looks at the DSNs of a part that are no arguments of wrangler's: those are with the commands.
pub(super) fn lint(read: &Read<'_>, report: &mut Report) {
    let part = read.part;
    let arguments = arguments(read);
    for (number, line) in part.lines() {
        if arguments.contains(&number) {
            continue;
        }
        for text in found(line) {
            let reader = match part.kind {
                Kind::Dsn => Reader::Unknown,
                _ if line.contains("localConnectionString") => Reader::Local,
                _ => by_name(line),
            };
            look_at(part.file, number, text, reader, report);
        }
    }
}

/// The lines of a script where a DSN is an argument of wrangler's.
fn arguments(read: &Read<'_>) -> HashSet<usize> {
    if read.part.kind != Kind::Shell {
        return HashSet::new();
    }
    let commands = read.commands.iter().filter(|command| command.is("wrangler", &["hyperdrive"]));
    let words = commands.flat_map(|command| &command.words);
    words.filter(|word| !found(&word.text).is_empty()).map(|word| word.line).collect()
}

/// NAME=… tells.
fn by_name(line: &str) -> Reader {
    let line = line.trim_start();
    let line = line.strip_prefix("export ").unwrap_or(line);
    match assignment(line) {
        Some((name, _)) if name.contains("HYPERDRIVE") => Reader::Local,
        _ => Reader::Other,
    }
}

/// The DSNs in a line, without what a sentence or a program has after them.
fn found(line: &str) -> Vec<&str> {
    // What makes letters small must leave them where they are.
    let small = line.to_ascii_lowercase();
    let begin = small.match_indices(SCHEME).map(|(at, _)| &line[at..]);
    let end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`');
    let whole = begin.map(|text| text.split(end).next().unwrap_or(text));
    whole.map(|text| text.trim_end_matches(AFTER)).collect()
}

/// A DSN, taken apart.
struct Dsn<'t> {
    user: &'t str,
    host: &'t str,
    port: &'t str,
    parameters: Vec<(&'t str, &'t str)>,
}

impl<'t> Dsn<'t> {
    /// `None` if it is not sure what is what.
    fn of(text: &'t str) -> Option<Self> {
        let rest = text.get(SCHEME.len()..)?;
        let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = before.split_once('/').unwrap_or((before, ""));
        let is_clear =
            before.matches('@').count() <= 1 && !path.contains('@') && !query.contains('@');
        if !is_clear || authority.contains('#') {
            return None;
        }
        let (user, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let user = user.split(':').next().unwrap_or_default();
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port),
            _ => (place, ""),
        };
        let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
        let parameters =
            parameters.map(|text| text.split_once('=').unwrap_or((text, ""))).collect();
        Some(Self { user, host: host.trim_matches(['[', ']']), port, parameters })
    }

    fn parameter(&self, names: &[&str]) -> Option<&'t str> {
        let is_it = |name: &str| names.iter().any(|wanted| name.eq_ignore_ascii_case(wanted));
        self.parameters.iter().find(|(name, _)| is_it(name)).map(|(_, value)| *value)
    }
}

/// Says what is wrong with one.
pub(super) fn look_at(file: &str, line: usize, text: &str, reader: Reader, report: &mut Report) {
    let mut add = |rule, wrong: String, instead: &str| report.add(file, line, rule, wrong, instead);
    if !text.get(..SCHEME.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(SCHEME)) {
        return;
    }
    let Some(dsn) = Dsn::of(text) else {
        let wrong = "the DSN has an @, / or # that makes it unclear where its password ends";
        let instead = "%40 for @, %2F for /, %23 for #, %3F for ?, %3A for : in user and password";
        return add(Rule::DsnFormat, wrong.into(), instead);
    };
    if !is_open(dsn.port) && dsn.port.parse::<u16>().is_err() {
        let instead = "mysql://USER:PASSWORD@HOST:PORT/DATABASE";
        return add(Rule::DsnFormat, "the DSN has a port that is no number".into(), instead);
    }
    if dsn.parameter(&["sslaccept"]).is_some() && reader != Reader::Other {
        let wrong = "`sslaccept` is a parameter of Prisma's, which Hyperdrive does not know";
        add(Rule::DsnSslaccept, wrong.into(), "no parameter: Hyperdrive always speaks TLS");
    }
    if reader == Reader::Hyperdrive
        && let Some((wrong, instead)) = out_of_reach(dsn.host)
    {
        add(Rule::HyperdriveOrigin, wrong, instead);
    }
    let Some((gateway, plan)) = plan(dsn.host) else { return };
    if plan.service.is_tidb_cloud() && dsn.port.is_empty() {
        let wrong = format!("without a port it is 3306; `{gateway}` listens on 4000");
        add(Rule::DsnPort, wrong, ":4000 after the host");
    }
    if plan.service != Service::Starter {
        return;
    }
    if !dsn.port.is_empty() && !is_open(dsn.port) && dsn.port != "4000" {
        add(Rule::DsnPort, format!("`{gateway}` listens on port 4000"), ":4000 after the host");
    }
    if lacks_prefix(dsn.user) {
        add(Rule::DsnPrefix, prefix_wrong(&gateway), PREFIX_INSTEAD);
    }
    let modes = ["ssl-mode", "sslmode", "ssl_mode", "tls", "ssl", "useSSL"];
    let is_off = |value: &str| {
        matches!(value.to_ascii_lowercase().as_str(), "disable" | "disabled" | "false")
    };
    if !plan.is_private && dsn.parameter(&modes).is_some_and(is_off) {
        let wrong = format!("`{gateway}` prohibits connections without TLS (error 1105)");
        add(
            Rule::DsnTls,
            wrong,
            "TLS that verifies the name: ssl-mode=VERIFY_IDENTITY, or the driver's word",
        );
    }
}

/// The gateway of a host, as the service calls it, and what that tells.
fn plan(host: &str) -> Option<(String, Plan)> {
    let gateway: Gateway = host.parse().ok()?;
    let plan = Plan::of(&gateway)?;
    Some((gateway.host, plan))
}

/// Whether Hyperdrive could not connect to a host by itself, and what leads there.
pub(super) fn out_of_reach(host: &str) -> Option<(String, &'static str)> {
    let gateway: Gateway = host.parse().ok()?;
    let instead = "a Workers VPC service (--service-id), or a tunnel's hostname with Access (--host, \
                   --access-client-id, --access-client-secret)";
    let name = &gateway.host;
    if gateway.is_privatelink() {
        let wrong =
            format!("Hyperdrive cannot reach `{name}`, a name of a private network (2008, 2009)");
        return Some((wrong, instead));
    }
    let is_inside =
        [".internal", ".local", ".lan", ".localdomain"].iter().any(|end| name.ends_with(end));
    let is_private = gateway.literal().is_some_and(|address| !is_public(address.ip(), &[]));
    (is_private || is_inside || name == "localhost").then(|| {
        let wrong = format!("Hyperdrive cannot reach `{name}`, which is private (2008, 2009)");
        (wrong, instead)
    })
}

/// What the gateway answers with `Missing user name prefix`.
pub(super) fn lacks_prefix(user: &str) -> bool {
    !is_open(user) && !user.contains('.')
}

pub(super) fn prefix_wrong(gateway: &str) -> String {
    format!("`{gateway}` finds the cluster by the user's prefix, which is missing")
}

pub(super) const PREFIX_INSTEAD: &str = "PREFIX.USER, as the Connect dialog of TiDB Cloud shows it";

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str, reader: Reader) -> Vec<&'static str> {
        let mut report = Report::default();
        look_at("f", 1, text, reader, &mut report);
        report.findings.iter().map(|finding| finding.rule.as_str()).collect()
    }

    #[test]
    fn a_dsn_is_judged_by_whom_it_is_for() {
        let private = "mysql://4GLabc.root:pw@gateway01-privatelink.us-east-1.prod.aws.tidbcloud.com:4000/test";
        assert_eq!(rules(private, Reader::Unknown), [""; 0]);
        assert_eq!(rules(private, Reader::Hyperdrive), ["hyperdrive-origin"]);
        let prisma = format!("{private}?sslaccept=strict");
        assert_eq!(rules(&prisma, Reader::Other), [""; 0]);
        assert_eq!(rules(&prisma, Reader::Local), ["dsn-sslaccept"]);
        for host in ["10.0.0.4", "[::ffff:10.0.0.4]", "localhost", "db.corp.internal"] {
            assert_eq!(
                rules(&format!("mysql://u:p@{host}:3306/d"), Reader::Hyperdrive),
                ["hyperdrive-origin"],
                "{host}"
            );
        }
        assert_eq!(rules("mysql://u:p@db.example.com:3306/d", Reader::Hyperdrive), [""; 0]);
        assert_eq!(rules("mysql://$USER:$PASSWORD@$HOST:$PORT/d", Reader::Hyperdrive), [""; 0]);
        assert_eq!(rules("mysql://<user>:<password>@<host>:<port>/d", Reader::Hyperdrive), [""; 0]);
        assert_eq!(rules("mysql://%s:%s@%s:%s/%s", Reader::Hyperdrive), [""; 0]);
    }

    #[test]
    fn what_a_gateway_does_not_take_is_told() {
        let at = |user: &str, rest: &str| {
            rules(
                &format!("mysql://{user}:pw@gateway01.us-east-1.prod.aws.tidbcloud.com{rest}"),
                Reader::Other,
            )
        };
        assert_eq!(at("abc.root", ":4000/test"), [""; 0]);
        assert_eq!(at("root", ":4000/test"), ["dsn-prefix"]);
        assert_eq!(at("abc.root", "/test"), ["dsn-port"]);
        assert_eq!(at("abc.root", ":3306/test"), ["dsn-port"]);
        assert_eq!(at("abc.root", ":4000/test?tls=false"), ["dsn-tls"]);
        assert_eq!(at("abc.root", ":four/test"), ["dsn-format"]);
    }

    #[test]
    fn where_it_is_not_sure_what_the_password_is_nothing_is_repeated() {
        for text in [
            "mysql://u:s3cret@word@db.internal:1/d",
            "mysql://u:s3cret/word@db.internal:1/d",
            "mysql://u:s3cret?word@db.internal:1/d",
            "mysql://u:s3cret#word@db.internal:1/d",
        ] {
            let mut report = Report::default();
            look_at("f", 1, text, Reader::Hyperdrive, &mut report);
            let [finding] = report.findings.as_slice() else { panic!("{report}") };
            assert_eq!(finding.rule, Rule::DsnFormat);
            assert!(
                !report.to_string().contains("s3cret") && !report.to_string().contains("word@")
            );
        }
    }
}
