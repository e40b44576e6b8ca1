//! What was found, for people and for machines.

use std::fmt;

use serde::Serialize;

use crate::config::Gateway;
use crate::show::table::harmless;

/// One thing that will not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file, as it was given.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What it breaks.
    pub rule: Rule,
    /// What is wrong.
    pub wrong: String,
    /// What to write.
    pub instead: String,
}

/// All that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order of files and lines.
    pub findings: Vec<Finding>,
    /// How many files were looked at.
    pub files: usize,
}

/// What set-ups have to keep to. The names are in reports and in the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the rooms that look for them say what they are")]
pub enum Rule {
    Syntax,
    IngressCatchAll,
    IngressOrder,
    IngressHostname,
    IngressService,
    TunnelHostname,
    TunnelQuic,
    HyperdriveOrigin,
    HyperdrivePort,
    HyperdriveScheme,
    HyperdriveService,
    VpcService,
    VpcServiceName,
    VpcNotHttpOnly,
    VpcEndpointFlags,
    DsnFormat,
    DsnPort,
    DsnPrefix,
    DsnSslaccept,
    DsnTls,
    WranglerBinding,
    WranglerNodejsCompat,
    WorkerQuery,
    WorkerDisableEval,
    WorkerExecute,
    WorkerMultipleStatements,
}

impl Rule {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::IngressCatchAll => "ingress-catch-all",
            Self::IngressOrder => "ingress-order",
            Self::IngressHostname => "ingress-hostname",
            Self::IngressService => "ingress-service",
            Self::TunnelHostname => "tunnel-hostname",
            Self::TunnelQuic => "tunnel-quic",
            Self::HyperdriveOrigin => "hyperdrive-origin",
            Self::HyperdrivePort => "hyperdrive-port",
            Self::HyperdriveScheme => "hyperdrive-scheme",
            Self::HyperdriveService => "hyperdrive-service",
            Self::VpcService => "vpc-service",
            Self::VpcServiceName => "vpc-service-name",
            Self::VpcNotHttpOnly => "vpc-not-http-only",
            Self::VpcEndpointFlags => "vpc-endpoint-flags",
            Self::DsnFormat => "dsn-format",
            Self::DsnPort => "dsn-port",
            Self::DsnPrefix => "dsn-prefix",
            Self::DsnSslaccept => "dsn-sslaccept",
            Self::DsnTls => "dsn-tls",
            Self::WranglerBinding => "wrangler-binding",
            Self::WranglerNodejsCompat => "wrangler-nodejs-compat",
            Self::WorkerQuery => "worker-query",
            Self::WorkerDisableEval => "worker-disable-eval",
            Self::WorkerExecute => "worker-execute",
            Self::WorkerMultipleStatements => "worker-multiple-statements",
        }
    }
}

impl Report {
    pub(super) fn of(files: usize) -> Self {
        Self { findings: Vec::new(), files }
    }

    pub(super) fn add(
        &mut self,
        file: &str,
        line: usize,
        rule: Rule,
        wrong: impl Into<String>,
        instead: impl Into<String>,
    ) {
        let (wrong, instead) = (wrong.into(), instead.into());
        self.findings.push(Finding { file: file.into(), line, rule, wrong, instead });
    }

    /// By file as they were given, each by its lines, and nothing twice.
    pub(super) fn sort(&mut self) {
        let mut files: Vec<String> = Vec::new();
        for finding in &self.findings {
            if !files.contains(&finding.file) {
                files.push(finding.file.clone());
            }
        }
        let place = |file: &String| files.iter().position(|other| other == file);
        self.findings.sort_by_key(|finding| (place(&finding.file), finding.line, finding.rule));
        self.findings.dedup();
    }

    /// One object on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("it has text and numbers only") + "\n"
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { file, line, rule, wrong, instead } in &self.findings {
            let place = format!("{file}:{line}");
            let said = format!("{}: {}: {wrong}", place, rule.as_str());
            writeln!(f, "{}\n    instead: {}", harmless(&said), harmless(instead))?;
        }
        let count = |count: usize, what: &str| match count {
            0 => format!("no {what}s"),
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        writeln!(f, "{} in {}", count(self.findings.len(), "finding"), count(self.files, "file"))
    }
}

/// A value of a file, as findings repeat it: short, and nothing that may have a password in it.
pub(super) fn shown(value: &str) -> String {
    let is_clear = match value.split_once("://") {
        Some((_, rest)) => place(rest).is_some(),
        None => !value.contains('@'),
    };
    if !is_clear {
        return "****".into();
    }
    match value.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.into(),
    }
}

/// `host`, or `host:port`, of what comes after a scheme, if it is sure to be that.
pub(super) fn place(rest: &str) -> Option<&str> {
    let place = rest.split('/').next().filter(|_| !rest.contains('@'))?;
    place.parse::<Gateway>().is_ok().then_some(place)
}
