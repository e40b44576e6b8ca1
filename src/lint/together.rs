//! What only several files of a set-up tell, or several parts of a guide.

use std::collections::HashSet;

use super::Read;
use super::report::{Report, Rule, shown};
use super::shell::{Command, is_open, is_redirection};

/// How a set-up says that there is an Access application: the API, Terraform, Pulumi, the dashboard's steps,
/// and people. `Access → Applications` and `**Access** application` are the same words.
const ACCESS: &[&str] = &[
    " access apps ",
    "self_hosted",
    "access_application",
    "accessapplication",
    " access application",
    " access controls application",
    " access app ",
    " access app.",
    " application self hosted ",
    " self hosted app",
    " action service auth ",
    " policy service auth ",
    " service auth policy ",
];

/// Where a DNS record that is made without cloudflared points to.
const CNAME: &[&str] = &["cfargotunnel.com"];

pub(super) fn lint(read: &[Read<'_>], report: &mut Report) {
    let together = Together { read };
    if together.by_vpc() {
        together.quic(report);
    }
    if together.is_set_up_here() && (!together.by_vpc() || together.by_access()) {
        together.hostnames(report);
    }
}

struct Together<'r, 's> {
    read: &'r [Read<'s>],
}

impl Together<'_, '_> {
    fn commands(&self) -> impl Iterator<Item = &Command> {
        self.read.iter().flat_map(|read| &read.commands)
    }

    /// Whether Hyperdrive goes by a Workers VPC service.
    fn by_vpc(&self) -> bool {
        self.commands().any(|command| {
            command.is("wrangler", &["vpc", "service"])
                || command.is("wrangler", &["hyperdrive"]) && command.has(&["--service-id"])
        })
    }

    /// Whether it goes by a hostname.
    fn by_access(&self) -> bool {
        self.commands().any(|command| {
            command.is("wrangler", &["hyperdrive"]) && command.has(&["--access-client-id"])
        })
    }

    /// Whether the tunnel is made here, and not elsewhere or by hand.
    fn is_set_up_here(&self) -> bool {
        self.commands().any(|command| {
            command.is("cloudflared", &["tunnel", "create"])
                || command.is("cloudflared", &["tunnel", "route"])
        })
    }

    fn quic(&self, report: &mut Report) {
        let wrong = "Workers VPC reaches only tunnels that speak QUIC";
        let instead = "protocol: quic, or no protocol; UDP to port 7844 has to be let out";
        for read in self.read {
            let lines = read.ingress.iter().filter_map(|ingress| ingress.no_quic);
            let flags =
                read.commands.iter().filter(|command| command.is("cloudflared", &["tunnel"]));
            let flags = flags.filter_map(|command| command.flag(&["--protocol"]));
            let flags = flags.filter(|flag| flag.value == "http2").map(|flag| flag.line);
            for line in lines.chain(flags) {
                report.add(read.part.file, line, Rule::TunnelQuic, wrong, instead);
            }
        }
    }

    /// Each hostname has to be in DNS, and behind Access.
    fn hostnames(&self, report: &mut Report) {
        let has_access = self.says(ACCESS);
        let routed = self.routed();
        // Without names: a record of another tool, or a variable that is filled in later.
        let is_routed_somehow =
            self.says(CNAME) || routed.iter().any(|name| name.contains(['$', '<']));
        for read in self.read {
            for (hostname, line) in read.ingress.iter().flat_map(|ingress| ingress.tcp()) {
                let has_route = is_routed_somehow
                    || routed.contains(hostname)
                    || is_open(hostname) && !routed.is_empty();
                let (what, instead) = match (has_route, has_access) {
                    (true, true) => continue,
                    (false, true) => ("no DNS route", ROUTE.to_owned()),
                    (true, false) => (
                        "no Access application, so that everybody can use it",
                        APPLICATION.to_owned(),
                    ),
                    (false, false) => (
                        "no DNS route and no Access application",
                        format!("{ROUTE}; {APPLICATION}"),
                    ),
                };
                let wrong = format!("`{}` has {what}", shown(hostname));
                report.add(read.part.file, line, Rule::TunnelHostname, wrong, instead);
            }
        }
    }

    /// Whether any of these words is somewhere. Signs between words are a space, but for the ends of sentences.
    fn says(&self, words: &[&str]) -> bool {
        let is_kept = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | ';');
        self.read.iter().any(|read| {
            let text = read.part.text().to_ascii_lowercase();
            let apart = text.split(|c| !is_kept(c)).filter(|word| !word.is_empty());
            let text = apart.fold(String::from(" "), |text, word| text + word + " ");
            words.iter().any(|words| text.contains(words))
        })
    }

    /// The hostnames that cloudflared is told to route.
    fn routed(&self) -> HashSet<&str> {
        let is_route = |command: &&Command| command.is("cloudflared", &["tunnel", "route", "dns"]);
        self.commands().filter(is_route).flat_map(hostnames).collect()
    }
}

/// What comes after the tunnel. That may be more, where an option has a value, or a comment goes on.
fn hostnames(route: &Command) -> impl Iterator<Item = &str> {
    let words = route.words.iter().map(|word| word.text.as_str());
    let arguments = words.skip_while(|word| *word != "dns").skip(1);
    let arguments = arguments.take_while(|word| !is_redirection(word));
    arguments.filter(|word| !word.starts_with('-')).skip(1)
}

const ROUTE: &str = "cloudflared tunnel route dns TUNNEL HOSTNAME";
const APPLICATION: &str = "a self-hosted Access application that lets in a service token";
