//! The flags of TLS of `run`, `check` and `doctor`.

use clap::{ArgAction, Args};

/// TLS of each side. As in [`super::Settings`], an argument's id is its key's name.
#[derive(Debug, Args)]
pub struct Tls {
    /// TLS with clients: off, optional or required [default: off].
    #[arg(long, value_name = "MODE", env = "TIDEGATE_CLIENT_TLS")]
    pub client_tls: Option<String>,

    /// Certificate for clients, with its chain; or several, of which a client's SNI chooses.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_TLS_CERT")]
    #[arg(action = ArgAction::Append, value_delimiter = ',')]
    pub tls_cert: Vec<String>,

    /// Its private key; as many as there are certificates, in their order.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_TLS_KEY")]
    #[arg(action = ArgAction::Append, value_delimiter = ',')]
    pub tls_key: Vec<String>,

    /// Authorities of which clients must show a certificate [default: they need none].
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CLIENT_CA")]
    pub client_ca: Option<String>,

    /// TLS with the server: passthrough, what the client does with it; off; required, whoever it is;
    /// verify-ca or verify-identity [default: passthrough].
    #[arg(long, value_name = "MODE", env = "TIDEGATE_UPSTREAM_TLS")]
    pub upstream_tls: Option<String>,

    /// Authorities to trust, in PEM form [default: the system's].
    #[arg(long, value_name = "FILE", env = "TIDEGATE_TLS_CA")]
    pub tls_ca: Option<String>,

    /// Name that the server's certificate must be for [default: the gateway's host].
    #[arg(long, value_name = "NAME", env = "TIDEGATE_TLS_SERVER_NAME")]
    pub tls_server_name: Option<String>,

    /// Certificate for a server that asks for one, with its chain.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_TLS_CLIENT_CERT")]
    pub tls_client_cert: Option<String>,

    /// Its private key.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_TLS_CLIENT_KEY")]
    pub tls_client_key: Option<String>,
}
