//! The flags of `render`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{EXIT_CODES, Settings};

/// What `render` writes.
#[derive(Debug, Subcommand)]
pub enum Artefact {
    /// Makes a certificate and its key, for `tls_cert` and `tls_key` of a listener.
    ///
    /// The key is an ECDSA one on P-256, which clients of TLS 1.2 and 1.3 take. Prints the files, and
    /// what goes into the configuration. A running bridge takes new files up on SIGHUP.
    #[command(after_help = EXIT_CODES)]
    Certificate(Certificate),
    /// Writes cloudflared's config.yml, with what else its tunnel needs.
    ///
    /// Its ingress leads to the listeners. Values that tidegate cannot know are `<NAMES>`, listed at the end.
    #[command(after_help = EXIT_CODES)]
    Cloudflared(SetUp),
    /// Writes the commands of both routes of Cloudflare Hyperdrive to a listener, the binding, and a Worker.
    ///
    /// The listener has to offer TLS, or to pass it through to a server that does. Scripts take the values
    /// that tidegate cannot know from the environment, and list them at the end.
    #[command(after_help = EXIT_CODES)]
    Hyperdrive(SetUp),
    /// Writes the script that makes the private endpoint of a TiDB Cloud gateway in a VPC of AWS.
    ///
    /// With its security group, its private DNS name and, for a Dedicated cluster, the wait until it is
    /// accepted. It takes the values that tidegate cannot know from the environment, and lists them.
    #[command(after_help = EXIT_CODES)]
    AwsCli(SetUp),
}

/// Flags of `render certificate`.
#[derive(Debug, Args)]
pub struct Certificate {
    /// What clients connect to: DNS names (*.example.com, too) and IP addresses. The first gives the
    /// files their names.
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,

    /// Directory to write to; made if it is not there.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,

    /// Days that it is valid for. More than 825 are refused by clients on Apple's systems.
    #[arg(long, value_name = "N", default_value = "825")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,

    /// Makes an authority first, ca.crt and ca.key, for ten years, and has it sign. Without this, and
    /// without --ca-cert, the certificate signs itself.
    #[arg(long, conflicts_with_all = ["ca_cert", "ca_key"])]
    pub ca: bool,

    /// Certificate of the authority that signs, in PEM form.
    #[arg(long, value_name = "FILE", requires = "ca_key")]
    pub ca_cert: Option<PathBuf>,

    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    pub ca_key: Option<PathBuf>,

    /// Writes over files that are there.
    #[arg(long)]
    pub force: bool,
}

/// Flags of the set-ups that a configuration is rendered to.
#[derive(Debug, Args)]
pub struct SetUp {
    /// The listener that it is for, if there are several.
    #[arg(long, value_name = "NAME")]
    pub listener: Option<String>,

    /// Directory to write the files to, instead of printing them; made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Writes over files that are there.
    #[arg(long, requires = "out")]
    pub force: bool,

    /// What the bridge runs on.
    #[command(flatten)]
    pub settings: Settings,
}
