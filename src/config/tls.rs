//! TLS of each leg: whether it is spoken, on what files, and what of that makes no sense.

use std::path::PathBuf;
use std::str::FromStr;

use rustls::pki_types::ServerName;
use serde::Serialize;

use super::error::ConfigError;
use super::keys::Keys;
use super::parsers::path;
use super::{Gateway, Protocol};

/// Whether clients may, or must, speak TLS with the bridge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientTls {
    /// The bridge speaks none with them; they may with the server, through it.
    #[default]
    Off,
    /// Those that ask for it.
    Optional,
    /// All of them.
    Required,
}

/// Whether the bridge speaks TLS with the server, and how far it looks at whom it speaks with. The
/// words are those of MySQL's `--ssl-mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpstreamTls {
    /// What client and server agree on goes through untouched.
    #[default]
    Passthrough,
    /// None is spoken on this leg.
    Off,
    /// With whoever answers.
    Required,
    /// With whom an authority that is trusted has signed for.
    VerifyCa,
    /// With such a one of the server's name.
    VerifyIdentity,
}

/// TLS of a listener, towards its clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Termination {
    /// Whether it is spoken.
    pub client_tls: ClientTls,
    /// Certificates, each with its chain; the client's SNI chooses, and the first is for the others.
    pub tls_cert: Vec<PathBuf>,
    /// Their keys, in the same order.
    pub tls_key: Vec<PathBuf>,
    /// Authorities one of which must have signed a client's certificate; `None`: it needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
}

/// TLS towards an upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Origination {
    /// Whether it is spoken, and what is asked of the server.
    pub upstream_tls: UpstreamTls,
    /// Authorities that are trusted; `None`: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,
    /// The name that the server's certificate must be for, and its SNI; `None`: the gateway's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    /// The certificate that is shown to a server that asks for one, with its chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_cert: Option<PathBuf>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_key: Option<PathBuf>,
}

impl ClientTls {
    /// The word of the file and the flags.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Optional => "optional",
            Self::Required => "required",
        }
    }
}

impl FromStr for ClientTls {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "optional" => Ok(Self::Optional),
            "required" => Ok(Self::Required),
            _ => Err("expected off, optional or required".into()),
        }
    }
}

impl UpstreamTls {
    /// The word of the file and the flags.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::Off => "off",
            Self::Required => "required",
            Self::VerifyCa => "verify-ca",
            Self::VerifyIdentity => "verify-identity",
        }
    }

    /// Whether the bridge speaks TLS with the server.
    pub fn is_spoken(self) -> bool {
        !matches!(self, Self::Passthrough | Self::Off)
    }

    /// Whether it looks at who has signed for the server.
    pub fn is_verified(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyIdentity)
    }
}

impl FromStr for UpstreamTls {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "passthrough" => Ok(Self::Passthrough),
            "off" => Ok(Self::Off),
            "required" => Ok(Self::Required),
            "verify-ca" => Ok(Self::VerifyCa),
            "verify-identity" => Ok(Self::VerifyIdentity),
            _ => Err("expected passthrough, off, required, verify-ca or verify-identity".into()),
        }
    }
}

/// TLS of a `[[listener]]`, as it is written.
pub(super) fn termination(keys: &mut Keys<'_>) -> Result<Termination, ConfigError> {
    Ok(Termination {
        client_tls: keys.one("client_tls", str::parse, ClientTls::Off)?,
        tls_cert: keys.list("tls_cert", path)?.unwrap_or_default(),
        tls_key: keys.list("tls_key", path)?.unwrap_or_default(),
        client_ca: keys.optional("client_ca", path)?,
    })
}

/// What of it makes no sense, together or with the protocol of the listener.
pub(super) fn check_termination(
    termination: &Termination,
    protocol: Protocol,
    keys: &Keys<'_>,
) -> Result<(), ConfigError> {
    let Termination { client_tls, tls_cert, tls_key, client_ca } = termination;
    let mode = client_tls.as_str();
    let wrong = |key, message| ConfigError::new(keys.source_of(key), message);
    if *client_tls == ClientTls::Off {
        let idle = [
            ("tls_cert", !tls_cert.is_empty()),
            ("tls_key", !tls_key.is_empty()),
            ("client_ca", client_ca.is_some()),
        ];
        return match idle.into_iter().find(|(_, is_set)| *is_set) {
            Some((key, _)) => Err(wrong(key, format!("`{key}` is set, but `client_tls` is `off`"))
                .hint("client_tls = \"required\" (--client-tls), or \"optional\", puts it to use")),
            None => Ok(()),
        };
    }
    if protocol == Protocol::Tcp {
        return Err(wrong(
            "client_tls",
            format!("`client_tls` is `{mode}` with protocol = \"tcp\""),
        )
        .hint("how TLS begins is MySQL's own; only its protocol is terminated"));
    }
    for (key, files) in [("tls_cert", tls_cert), ("tls_key", tls_key)] {
        if files.is_empty() {
            return Err(wrong(
                "client_tls",
                format!("`client_tls` is `{mode}`, but there is no `{key}`"),
            )
            .hint(
                "tls_cert and tls_key (--tls-cert, --tls-key) are a certificate and its key; \
                 `tidegate render certificate` makes them",
            ));
        }
    }
    let (certificates, its_keys) = (tls_cert.len(), tls_key.len());
    if certificates != its_keys {
        let message = format!("`tls_key` has {its_keys} of the {certificates} keys of `tls_cert`");
        return Err(wrong("tls_key", message).hint("each certificate has its key, in its place"));
    }
    if client_ca.is_some() && *client_tls == ClientTls::Optional {
        let message = "`client_ca` is set, but `client_tls` is `optional`";
        return Err(wrong("client_ca", message.to_owned()).hint(
            "who speaks no TLS shows no certificate; client_tls = \"required\" asks it of all",
        ));
    }
    Ok(())
}

/// TLS towards an `[upstream.NAME]`, as it is written.
pub(super) fn origination(keys: &mut Keys<'_>) -> Result<Origination, ConfigError> {
    Ok(Origination {
        upstream_tls: keys.one("upstream_tls", str::parse, UpstreamTls::Passthrough)?,
        tls_ca: keys.optional("tls_ca", path)?,
        tls_server_name: keys.optional("tls_server_name", server_name)?,
        tls_client_cert: keys.optional("tls_client_cert", path)?,
        tls_client_key: keys.optional("tls_client_key", path)?,
    })
}

/// What of it makes no sense, together or with the gateway.
pub(super) fn check_origination(
    origination: &Origination,
    gateway: &Gateway,
    keys: &Keys<'_>,
) -> Result<(), ConfigError> {
    let Origination { upstream_tls, tls_ca, tls_server_name, tls_client_cert, tls_client_key } =
        origination;
    let mode = upstream_tls.as_str();
    let wrong = |key, message| ConfigError::new(keys.source_of(key), message);
    if !upstream_tls.is_spoken() {
        let idle = [
            ("tls_ca", tls_ca.is_some()),
            ("tls_server_name", tls_server_name.is_some()),
            ("tls_client_cert", tls_client_cert.is_some()),
            ("tls_client_key", tls_client_key.is_some()),
        ];
        return match idle.into_iter().find(|(_, is_set)| *is_set) {
            Some((key, _)) => {
                Err(wrong(key, format!("`{key}` is set, but `upstream_tls` is `{mode}`")).hint(
                    "upstream_tls = \"verify-identity\" (--upstream-tls), or \"verify-ca\", puts \
                     it to use",
                ))
            }
            None => Ok(()),
        };
    }
    // MySQL's own clients take an authority with REQUIRED, and do not look at it.
    if tls_ca.is_some() && !upstream_tls.is_verified() {
        let message = format!("`tls_ca` is set, but `upstream_tls` is `{mode}`");
        return Err(wrong("tls_ca", message).hint(
            "who has signed is looked at by upstream_tls = \"verify-identity\", and by \"verify-ca\"",
        ));
    }
    if tls_server_name.is_none() && server_name(&gateway.host).is_err() {
        let message = format!("the gateway's host `{}` is no name for TLS", gateway.host);
        return Err(wrong("gateway", message)
            .hint("tls_server_name (--tls-server-name) is the name in the server's certificate"));
    }
    let missing = match (tls_client_cert, tls_client_key) {
        (Some(_), None) => Some(("tls_client_cert", "tls_client_key")),
        (None, Some(_)) => Some(("tls_client_key", "tls_client_cert")),
        _ => None,
    };
    match missing {
        Some((key, other)) => Err(wrong(key, format!("`{key}` is set, but there is no `{other}`"))
            .hint("a certificate and its key go together")),
        None => Ok(()),
    }
}

/// What a certificate can be for.
fn server_name(text: &str) -> Result<String, String> {
    match ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("expected a DNS name or an IP address".into()),
    }
}
