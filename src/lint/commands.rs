//! Commands of wrangler and aws that a script or a guide has.

use super::Read;
use super::dsn::{self, Reader, lacks_prefix, out_of_reach};
use super::report::{Report, Rule};
use super::shell::{Command, is_open};
use super::source::Kind;
use crate::config::Gateway;
use crate::upstream::plan::{Plan, Service};

const HOST: &[&str] = &["--host", "--origin-host"];
const PORT: &[&str] = &["--port", "--origin-port"];
const USER: &[&str] = &["--user", "--origin-user"];
const ACCESS: &[&str] = &["--access-client-id", "--access-client-secret"];
const SERVICE: &[&str] = &["--service-id"];
const DSN: &[&str] = &["--connection-string"];
const MYSQL_PORTS: [&str; 2] = ["3306", "4000"];

/// Whether an endpoint gets its private DNS after it was made, by a command or in the console.
pub(super) fn enables_private_dns(read: &[Read<'_>]) -> bool {
    let is_it = |command: &Command| {
        command.is("aws", &["modify-vpc-endpoint"]) && command.has(&["--private-dns-enabled"])
    };
    read.iter().any(|read| {
        read.commands.iter().any(is_it)
            || read.part.text().to_ascii_lowercase().contains("modify private dns name")
    })
}

/// `is_enabled_later`: private DNS, by another command than the endpoint's own.
pub(super) fn lint(read: &Read<'_>, is_enabled_later: bool, report: &mut Report) {
    let file = read.part.file;
    // A comment without flags is about a command: `the id that … has printed`.
    let is_comment = matches!(read.part.kind, Kind::Yaml | Kind::Toml);
    for command in read.commands.iter().filter(|command| !is_comment || command.has_flags()) {
        for verb in ["create", "update"] {
            if command.is("wrangler", &["hyperdrive", verb]) {
                Hyperdrive { file, command, is_new: verb == "create", report }.lint();
            }
        }
        if command.is("wrangler", &["vpc", "service", "create"]) {
            vpc_service(file, command, report);
        }
        if command.is("aws", &["create-vpc-endpoint"]) {
            vpc_endpoint(file, command, is_enabled_later, report);
        }
    }
    prose(read, report);
}

struct Hyperdrive<'r> {
    file: &'r str,
    command: &'r Command,
    is_new: bool,
    report: &'r mut Report,
}

impl Hyperdrive<'_> {
    fn lint(mut self) {
        let command = self.command;
        if let Some(service) = command.flag(SERVICE) {
            let not_with = [HOST, PORT, DSN, ACCESS].concat();
            let tls = ["--sslmode", "--ca-certificate-id", "--mtls-certificate-id"];
            if let Some(other) = command.flag(&not_with) {
                let wrong = "--service-id goes with no host, port, DSN or Access token: wrangler refuses it";
                self.add(
                    other.line,
                    Rule::HyperdriveService,
                    wrong.into(),
                    "--service-id alone: the service has the rest",
                );
            } else if let Some(other) = command.flag(&tls) {
                let wrong = "with --service-id, TLS is the service's matter";
                let instead = "--cert-verification-mode of `wrangler vpc service create`";
                self.add(other.line, Rule::HyperdriveService, wrong.into(), instead);
            } else {
                self.scheme(service.line);
            }
            return;
        }
        if let Some(dsn) = command.flag(DSN) {
            dsn::look_at(self.file, dsn.line, dsn.value, Reader::Hyperdrive, self.report);
            if command.has(ACCESS) {
                let wrong = "a DSN goes with no Access token: wrangler refuses it";
                let instead = "--host HOSTNAME, --user, --password and --database, without a port";
                self.add(dsn.line, Rule::HyperdrivePort, wrong.into(), instead);
            }
        }
        if let Some(host) = command.flag(HOST) {
            let name = host.value.split(':').next().unwrap_or_default();
            if let Some((wrong, instead)) = out_of_reach(name) {
                self.add(host.line, Rule::HyperdriveOrigin, wrong, instead);
            } else if command.has(ACCESS) && name.len() < host.value.len() {
                self.port(host.line);
            }
            self.prefix(name);
            self.scheme(host.line);
        }
        if command.has(ACCESS)
            && let Some(port) = command.flag(PORT)
        {
            self.port(port.line);
        }
    }

    fn add(&mut self, line: usize, rule: Rule, wrong: String, instead: &str) {
        self.report.add(self.file, line, rule, wrong, instead);
    }

    fn port(&mut self, line: usize) {
        let wrong = "a hostname behind Access has no port: the tunnel's config.yml has it";
        self.add(line, Rule::HyperdrivePort, wrong.into(), "--host HOSTNAME alone");
    }

    /// Of one that is changed the scheme is there. With this port PostgreSQL is meant.
    fn scheme(&mut self, line: usize) {
        let is_postgres = self.command.flag(PORT).is_some_and(|port| port.value == "5432");
        let is_there =
            self.command.has(&["--scheme", "--origin-scheme"]) || self.command.hides_arguments();
        if self.is_new && !is_postgres && !is_there {
            let wrong = "without --scheme it is taken for PostgreSQL";
            self.add(line, Rule::HyperdriveScheme, wrong.into(), "--scheme mysql");
        }
    }

    fn prefix(&mut self, host: &str) {
        let is_starter = host.parse().is_ok_and(|gateway: Gateway| {
            Plan::of(&gateway).is_some_and(|plan| plan.service == Service::Starter)
        });
        if let Some(user) = self.command.flag(USER)
            && is_starter
            && lacks_prefix(user.value)
        {
            self.add(user.line, Rule::DsnPrefix, dsn::prefix_wrong(host), dsn::PREFIX_INSTEAD);
        }
    }
}

fn vpc_service(file: &str, command: &Command, report: &mut Report) {
    let mut add =
        |line, rule, wrong: &str, instead: &str| report.add(file, line, rule, wrong, instead);
    let value = |name: &str| command.flag(&[name]).map_or("", |flag| flag.value);
    if value("--app-protocol") == "postgresql" {
        return;
    }
    let is_mysqls = command.has(&["--app-protocol"])
        || [value("--http-port"), value("--https-port")]
            .iter()
            .any(|port| MYSQL_PORTS.contains(port));
    match value("--type") {
        "tcp" => {}
        "http" if !is_mysqls => return,
        "" if command.hides_arguments() => return,
        kind if !kind.is_empty() && is_open(kind) => return,
        _ => {
            let wrong = "a database is a service of type tcp";
            add(
                command.line(),
                Rule::VpcService,
                wrong,
                "--type tcp --tcp-port 4000 --app-protocol mysql",
            );
            return;
        }
    }
    if command.hides_arguments() {
        return;
    }
    let has_port = command.has(&["--tcp-port"]) || value("--hostname").contains(':');
    let has_host = command.has(&["--ipv4", "--ipv6", "--hostname"]);
    let missing = [
        (has_port, "--tcp-port"),
        (command.has(&["--tunnel-id"]), "--tunnel-id"),
        (has_host, "--ipv4 or --hostname"),
    ];
    for (_, flag) in missing.iter().filter(|(is_there, _)| !is_there) {
        add(command.line(), Rule::VpcService, &format!("wrangler refuses it without {flag}"), flag);
    }
    let mode = command.flag(&["--cert-verification-mode"]).map_or("verify_full", |flag| flag.value);
    if let Some(address) = command.flag(&["--ipv4", "--ipv6"])
        && mode == "verify_full"
    {
        let wrong = "verify_full, the default, wants a certificate for this address, which a server seldom has";
        let instead = "--hostname with the certificate's name, or --cert-verification-mode verify_ca; \
                       `disabled` for an authority of your own";
        add(address.line, Rule::VpcServiceName, wrong, instead);
    }
}

fn vpc_endpoint(file: &str, command: &Command, is_enabled_later: bool, report: &mut Report) {
    let value = |name: &str| command.flag(&[name]).map_or("", |flag| flag.value);
    let kind = value("--vpc-endpoint-type");
    let service = value("--service-name");
    // AWS's own services have names of their own, and gateways as endpoints.
    let is_aws_own = !is_open(service) && !service.contains(".vpce.");
    let is_elsewhere =
        command.has(&["--cli-input-json", "--cli-input-yaml"]) || command.hides_arguments();
    if is_aws_own || !is_open(kind) && kind != "Interface" || is_elsewhere {
        return;
    }
    let needed = [
        ("--vpc-endpoint-type Interface", command.has(&["--vpc-endpoint-type"])),
        ("--security-group-ids", command.has(&["--security-group-ids"])),
        ("--private-dns-enabled", is_enabled_later || command.has(&["--private-dns-enabled"])),
    ];
    let missing: Vec<_> =
        needed.iter().filter(|(_, is_there)| !is_there).map(|(flag, _)| *flag).collect();
    if missing.is_empty() {
        return;
    }
    let missing = missing.join(", ");
    let wrong = format!(
        "without {missing} the endpoint is another: the default group lets in only its own members, and the \
         gateway's name is answered only with private DNS"
    );
    report.add(file, command.line(), Rule::VpcEndpointFlags, wrong, missing);
}

/// What guides say that was true.
fn prose(read: &Read<'_>, report: &mut Report) {
    if matches!(read.part.kind, Kind::Worker | Kind::Json | Kind::Dsn) {
        return;
    }
    for (number, line) in read.part.lines() {
        let line = line.to_ascii_lowercase();
        let says =
            ["http only", "http-only", "only http", "only supports http", "only support http"];
        let is_denied =
            line.contains("not ") || line.contains("n't ") || line.contains("no longer");
        // AWS has endpoints in VPCs, and security groups in which HTTP is all that is let in.
        let is_workers_vpc = line.contains("workers vpc")
            || line.contains("vpc")
                && ["service", "binding"].iter().any(|word| line.contains(word))
                && !line.contains("endpoint");
        if is_workers_vpc && says.iter().any(|words| line.contains(words)) && !is_denied {
            let wrong =
                "Workers VPC has services of type tcp since April 2026, and Hyperdrive uses them";
            let instead =
                "wrangler vpc service create NAME --type tcp --tcp-port 4000 --app-protocol mysql";
            report.add(read.part.file, number, Rule::VpcNotHttpOnly, wrong, instead);
        }
    }
}
