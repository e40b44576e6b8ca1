//! What `cloudflared`, `hyperdrive` and `aws-cli` have in common: which listener of a configuration they
//! are for, files that are written, and the values that somebody else knows.

use std::fmt::{self, Write as _};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::{Config, Listener, Upstream};
use crate::upstream::plan::Plan;

/// Why a set-up cannot be written.
#[derive(Debug, Error)]
pub enum SetUpError {
    /// There is no listener of that name.
    #[error("--listener is `{name}`, which the configuration does not have")]
    NoSuchListener {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// It is for one, and there are more.
    #[error("the configuration has {0} listeners that it could be for")]
    WhichListener(usize, String),
    /// Nothing but Unix sockets.
    #[error("listener `{0}` has no TCP address")]
    NoTcp(String),
    /// Its port is known only when it runs.
    #[error("listener `{0}` is bound to port 0, whatever is free then")]
    AnyPort(String),
    /// cloudflared would not be let in.
    #[error("listener `{listener}` does not serve {address}, whence cloudflared connects: `{key}`")]
    NotServed {
        /// The listener.
        listener: String,
        /// Whence a process of the same host comes.
        address: IpAddr,
        /// The key that says so.
        key: &'static str,
    },
    /// Hyperdrive would be offered no TLS.
    #[error(
        "clients of listener `{listener}` are offered no TLS, which Hyperdrive asks of each server"
    )]
    NoTls {
        /// The listener.
        listener: String,
        /// The upstream, whose `upstream_tls` takes it away.
        upstream: String,
        /// Its value.
        upstream_tls: &'static str,
    },
    /// The gateway is elsewhere, or nobody's endpoint service.
    #[error("the gateway `{gateway}` is {what}, not one of TiDB Cloud on AWS")]
    NotAws {
        /// The gateway.
        gateway: String,
        /// What its name tells.
        what: String,
    },
    /// A file is there already.
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    /// A file cannot be written, or its folder cannot be made.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
}

impl SetUpError {
    /// What may be done about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoSuchListener { known, .. } => format!("it has {known}"),
            Self::WhichListener(_, known) => format!("--listener NAME chooses one of {known}"),
            Self::NoTcp(_) => {
                "cloudflared reaches TCP addresses only: add one to `bind`, such as 127.0.0.1:4000"
                    .into()
            }
            Self::AnyPort(_) => "give it a port, such as 127.0.0.1:4000".into(),
            Self::NotServed { key: "proxy_protocol_from", .. } => {
                "cloudflared sends no PROXY header: give it a listener of its own".into()
            }
            Self::NotServed { key, address, .. } => match *key {
                "allow" => format!("add {address} to it"),
                _ => format!("take {address} out of it"),
            },
            Self::NoTls { upstream, upstream_tls, .. } => format!(
                "client_tls = \"required\" with tls_cert and tls_key, or upstream_tls = \
                 \"passthrough\" for `{upstream}` instead of \"{upstream_tls}\""
            ),
            Self::NotAws { .. } => {
                "aws-cli is for gateways such as gateway01-privatelink.REGION.prod.aws.tidbcloud.com \
                 and privatelink-NUMBER.ID.clusters.tidb-cloud.com"
                    .into()
            }
            Self::Exists(_) => "--force writes over it, --out to another place".into(),
            Self::Write(..) => return None,
        })
    }

    /// Whether the command line is to blame.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::NoSuchListener { .. } | Self::WhichListener(..))
    }

    /// Whether the configuration is.
    pub fn is_configuration(&self) -> bool {
        !self.is_usage() && !matches!(self, Self::Exists(_) | Self::Write(..))
    }
}

/// A listener and where it goes.
#[derive(Debug, Clone)]
pub(super) struct Leg<'c> {
    pub listener: &'c Listener,
    pub upstream: &'c Upstream,
    pub plan: Option<Plan>,
}

impl<'c> Leg<'c> {
    /// The listeners that are meant: one by its name, or all.
    pub fn all(config: &'c Config, name: Option<&str>) -> Result<Vec<Self>, SetUpError> {
        let leg = |listener: &'c Listener| {
            let upstream =
                config.upstreams.iter().find(|upstream| upstream.name == listener.upstream)?;
            Some(Self { listener, upstream, plan: Plan::of(&upstream.gateway) })
        };
        let is_meant = |listener: &&Listener| name.is_none_or(|name| listener.name == name);
        let legs: Vec<_> = config.listeners.iter().filter(is_meant).filter_map(leg).collect();
        match name {
            Some(name) if legs.is_empty() => {
                let known = config.listeners.iter().map(|listener| listener.name.as_str());
                Err(SetUpError::NoSuchListener { name: name.into(), known: quoted(known) })
            }
            _ => Ok(legs),
        }
    }

    /// The one of several that is meant; none is, if they differ in what counts.
    pub fn one<T: PartialEq>(
        legs: Vec<Self>,
        what_counts: impl Fn(&Self) -> T,
    ) -> Result<Self, SetUpError> {
        let names = quoted(legs.iter().map(|leg| leg.listener.name.as_str()));
        let count = legs.len();
        let mut legs = legs.into_iter();
        let first = legs.next().ok_or_else(|| SetUpError::WhichListener(0, "none".into()))?;
        match legs.all(|leg| what_counts(&leg) == what_counts(&first)) {
            true => Ok(first),
            false => Err(SetUpError::WhichListener(count, names)),
        }
    }

    /// Where a cloudflared of the same host reaches it.
    pub fn origin(&self) -> Result<SocketAddr, SetUpError> {
        let listener = self.listener;
        let name = || listener.name.clone();
        let addresses = listener.bind.iter().flat_map(|bind| bind.addresses());
        let mut origin = addresses.into_iter().next().ok_or_else(|| SetUpError::NoTcp(name()))?;
        if origin.port() == 0 {
            return Err(SetUpError::AnyPort(name()));
        }
        if origin.ip().is_unspecified() {
            origin.set_ip(match origin.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        // A process of the host that connects to one of its addresses comes from that address.
        let address = origin.ip();
        let has = |networks: &[ipnet::IpNet]| networks.iter().any(|net| net.contains(&address));
        let refused = |key| Err(SetUpError::NotServed { listener: name(), address, key });
        if has(&listener.deny) {
            return refused("deny");
        }
        if !listener.allow.is_empty() && !has(&listener.allow) {
            return refused("allow");
        }
        if has(&listener.proxy_protocol_from) {
            return refused("proxy_protocol_from");
        }
        Ok(origin)
    }
}

fn quoted<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// A file of a set-up.
#[derive(Debug)]
pub struct File {
    /// Its name.
    pub name: &'static str,
    /// What is in it.
    pub text: String,
}

/// What was rendered.
#[derive(Debug)]
pub struct SetUp(pub(super) Vec<File>);

impl SetUp {
    /// Its files.
    pub fn files(&self) -> &[File] {
        &self.0
    }

    /// Writes its files into a folder, which is made if need be, and says so.
    pub fn write(&self, folder: &Path, force: bool) -> Result<String, SetUpError> {
        let paths: Vec<_> = self.0.iter().map(|file| folder.join(file.name)).collect();
        if let Some(there) = paths.iter().find(|path| !force && path.exists()) {
            return Err(SetUpError::Exists(there.clone()));
        }
        fs::create_dir_all(folder).map_err(|error| SetUpError::Write(folder.into(), error))?;
        let mut said = String::new();
        for (path, file) in paths.iter().zip(&self.0) {
            file.write(path).map_err(|error| SetUpError::Write(path.clone(), error))?;
            let _ = writeln!(said, "wrote {}", path.display());
        }
        Ok(said)
    }
}

/// Several files are told apart by their names, as `head` and `tail` do it.
impl fmt::Display for SetUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = self.files() {
            return f.write_str(&only.text);
        }
        for (number, file) in self.0.iter().enumerate() {
            let gap = if number == 0 { "" } else { "\n" };
            write!(f, "{gap}==> {} <==\n{}", file.name, file.text)?;
        }
        Ok(())
    }
}

impl File {
    fn write(&self, path: &Path) -> io::Result<()> {
        let mode = if self.text.starts_with("#!") { 0o755 } else { 0o644 };
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(mode).open(path)?;
        file.write_all(self.text.as_bytes())
    }
}

/// A value that is not tidegate's to know: its name, and where to get it, in lines.
pub(super) type Unknown = (&'static str, &'static str);

/// The list at the end of a file. `mark` begins a comment there.
pub(super) fn listed<N: AsRef<str>>(mark: &str, unknown: &[(N, &str)]) -> String {
    let width = unknown.iter().map(|(name, _)| name.as_ref().len()).max().unwrap_or(0);
    let mut text = format!("{mark} Values that tidegate cannot know, and where to get them:\n");
    for (name, whence) in unknown {
        let mut name = name.as_ref();
        for line in whence.lines() {
            let _ = writeln!(text, "{mark}   {name:width$}  {line}");
            name = "";
        }
    }
    text
}

/// The beginning of a script, which refuses to run without these.
pub(super) fn script(title: &str, unknown: &[Unknown]) -> String {
    let mut text = "#!/bin/sh\n".to_owned();
    for line in title.lines() {
        text += format!("# {line}").trim_end();
        text.push('\n');
    }
    text += "set -eu\n\n# These come from the environment; the end of this file says where to get them.\n";
    text += "how='is not set: see the end of this file'\n";
    for (name, _) in unknown {
        let _ = writeln!(text, ": \"${{{name}:?$how}}\"");
    }
    text
}
