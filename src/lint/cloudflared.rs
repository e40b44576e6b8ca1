//! cloudflared's config.yml: the ingress rules that it refuses, and those that lead nowhere.

use super::report::{Report, Rule, place, shown};
use super::shell;
use super::source::Part;
use super::tree::Node;

/// Ports on which no HTTP is spoken.
const MYSQL_PORTS: [&str; 2] = ["3306", "4000"];

/// What counts of a config.yml.
pub(super) struct Ingress {
    line: usize,
    rules: Vec<IngressRule>,
    /// Where it says that QUIC is not to be spoken.
    pub no_quic: Option<usize>,
}

struct IngressRule {
    line: usize,
    hostname: Option<(String, usize)>,
    has_path: bool,
    service: Option<(String, usize)>,
}

/// Whether it may be one: other YAML is left alone.
pub(super) fn is_config(part: &Part<'_>) -> bool {
    let has = |key: &str| part.text().lines().any(|line| line.starts_with(key));
    has("ingress:") || has("tunnel:") && has("credentials-file:")
}

impl Ingress {
    /// `None` for what is not cloudflared's: Kubernetes has another `ingress`.
    pub fn of(tree: &Node) -> Option<Self> {
        let no_quic = tree.get("protocol").filter(|protocol| protocol.text() == Some("http2"));
        let no_quic = no_quic.map(|protocol| protocol.line);
        let Some(ingress) = tree.get("ingress") else {
            return Some(Self { line: 1, rules: Vec::new(), no_quic })
                .filter(|_| no_quic.is_some());
        };
        let text = |rule: &Node, key: &str| {
            let value = rule.get(key)?;
            value.text().map(|text| (text.to_owned(), value.line))
        };
        let rule = |rule: &Node| IngressRule {
            line: rule.line,
            hostname: text(rule, "hostname").filter(|(name, _)| !name.is_empty()),
            has_path: text(rule, "path").is_some_and(|(path, _)| !path.is_empty()),
            service: text(rule, "service"),
        };
        let rules = ingress.list()?.iter().map(rule).collect();
        Some(Self { line: ingress.line, rules, no_quic })
    }

    /// The hostnames of TCP services, with their lines.
    pub fn tcp(&self) -> impl Iterator<Item = (&str, usize)> {
        let is_tcp = |rule: &&IngressRule| {
            rule.service.as_ref().is_some_and(|(service, _)| service.starts_with("tcp://"))
        };
        let hostnames = self.rules.iter().filter(is_tcp).filter_map(|rule| rule.hostname.as_ref());
        hostnames.map(|(name, line)| (name.as_str(), *line))
    }
}

impl IngressRule {
    fn takes_all(&self) -> bool {
        self.hostname.as_ref().is_none_or(|(name, _)| name == "*") && !self.has_path
    }
}

pub(super) fn lint(part: &Part<'_>, ingress: &Ingress, report: &mut Report) {
    let mut add = |line, rule, wrong: String, instead: &str| {
        report.add(part.file, line, rule, wrong, instead);
    };
    const CATCH_ALL: &str = "a last rule without a hostname: - service: http_status:404";
    match ingress.rules.as_slice() {
        [] if ingress.no_quic.is_some() => {}
        [] => {
            add(ingress.line, Rule::IngressCatchAll, "there is no ingress rule".into(), CATCH_ALL)
        }
        [before @ .., last] => {
            if !last.takes_all() {
                let wrong =
                    "the last ingress rule does not match everything: cloudflared refuses to start";
                add(last.line, Rule::IngressCatchAll, wrong.into(), CATCH_ALL);
            }
            for rule in before.iter().filter(|rule| rule.takes_all()) {
                let wrong = "this rule matches everything, so that no later one is reached: cloudflared refuses to start";
                add(
                    rule.line,
                    Rule::IngressOrder,
                    wrong.into(),
                    "a hostname, or the rule at the end",
                );
            }
        }
    }
    for rule in &ingress.rules {
        if let Some((hostname, line)) = &rule.hostname
            && let Some((wrong, instead)) = bad_hostname(hostname)
        {
            let wrong = format!("`{}` {wrong}: cloudflared refuses to start", shown(hostname));
            add(*line, Rule::IngressHostname, wrong, instead);
        }
        match &rule.service {
            Some((service, line)) => {
                if let Some((wrong, instead)) = bad_service(service) {
                    add(
                        *line,
                        Rule::IngressService,
                        format!("`{}` {wrong}", shown(service)),
                        &instead,
                    );
                }
            }
            None => {
                let wrong = "the rule has no service".to_owned();
                add(rule.line, Rule::IngressService, wrong, "service: tcp://127.0.0.1:4000");
            }
        }
    }
}

fn bad_hostname(hostname: &str) -> Option<(&'static str, &'static str)> {
    if hostname.rfind('*').is_some_and(|at| at > 0) {
        return Some(("has a * that is not its beginning", "*.example.com, or one name"));
    }
    let port = hostname.rsplit_once(':').map(|(_, port)| port)?;
    port.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(("has a port", "the name alone: the port is the service's"))
}

fn bad_service(service: &str) -> Option<(&'static str, String)> {
    let words = ["hello_world", "hello-world", "helloworld", "bastion", "socks-proxy"];
    let is_open = service.starts_with(['$', '<', '{']);
    if is_open || words.contains(&service) || service.starts_with("unix+tls:") {
        return None;
    }
    if let Some(code) = service.strip_prefix("http_status:") {
        let is_sound = shell::is_open(code) && !code.is_empty()
            || code.parse::<u16>().is_ok_and(|code| (100..=999).contains(&code));
        let wrong = "has no HTTP status code: cloudflared refuses to start";
        return (!is_sound).then(|| (wrong, "http_status:404".into()));
    }
    const EXAMPLE: &str = "127.0.0.1:4000";
    if service.starts_with("unix:") {
        let is_mysql = ["mysql", "tidb", "tidegate"].iter().any(|word| service.contains(word));
        let wrong = "is HTTP over a Unix socket: cloudflared has no other use for one";
        return is_mysql.then(|| (wrong, format!("tcp://{EXAMPLE}")));
    }
    let Some((scheme, rest)) = service.split_once("://") else {
        let wrong = "has no scheme: cloudflared refuses to start";
        return Some((wrong, format!("tcp://{}", place(service).unwrap_or(EXAMPLE))));
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let is_open = !host.is_empty() && shell::is_open(host);
    let has_path = rest[host.len()..].starts_with('/') && !is_open;
    let port = host.rsplit_once(':').map_or("", |(_, port)| port);
    let (wrong, instead) = match scheme {
        "mysql" | "mysqls" | "tidb" | "mariadb" => {
            ("is of no scheme that cloudflared knows", place(rest).unwrap_or(EXAMPLE).to_owned())
        }
        "http" | "https" if MYSQL_PORTS.contains(&port) => (
            "speaks HTTP with the port of a MySQL server",
            place(rest).unwrap_or(EXAMPLE).to_owned(),
        ),
        // A rule's `path` says which requests it takes; they keep their own.
        _ if has_path => {
            let wrong = "has a path: cloudflared refuses to start";
            let instead = place(rest).map(|place| format!("{scheme}://{place}"));
            return Some((wrong, instead.unwrap_or_else(|| "SCHEME://HOST:PORT".into())));
        }
        "tcp" if (port.is_empty() || port.contains(']')) && !is_open => {
            let wrong = "has no port: cloudflared takes 7864 then";
            (wrong, place(rest).map_or(EXAMPLE.into(), |host| format!("{host}:4000")))
        }
        _ => return None,
    };
    Some((wrong, format!("tcp://{instead}")))
}
