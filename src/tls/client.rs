//! TLS as a client.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, CommonState, Error};
use tokio_rustls::TlsConnector;

use super::TlsError;
use super::cert::{self, Pair};
use super::trust::{Trust, Verifier};
use crate::config::{Origination, UpstreamTls};

/// What is spoken on the way to an upstream.
#[derive(Debug)]
pub enum UpstreamLeg {
    /// What client and server agree on.
    Passthrough,
    /// No TLS.
    Plain,
    /// TLS.
    Tls(Originator),
}

/// Begins TLS with an upstream's servers. It keeps their tickets: a connection after the first is
/// secure a round trip earlier, where the server plays along.
///
/// The handshake takes any certificate, so that no server counts an interrupted one; what is thought of
/// it is asked for afterwards.
#[derive(Debug)]
pub struct Originator {
    config: Arc<ClientConfig>,
    /// Whom the server's certificate must be for, if that is looked at; also its SNI.
    name: ServerName<'static>,
    judge: Verifier,
    warnings: Vec<String>,
    shown: Option<Vec<CertificateDer<'static>>>,
}

impl Originator {
    /// For one connection, whose server is a stranger until it is [judged](Self::judge).
    pub fn begin(&self) -> Result<ClientConnection, Error> {
        ClientConnection::new(self.config.clone(), self.name.clone())
    }

    /// Whether this is a server as it is wanted; `tls` has shaken hands with it. A ticket may be a
    /// stranger's, so that is asked of a resumed session as well, which has the certificate of its first
    /// handshake.
    pub fn judge(&self, tls: &CommonState) -> Result<(), Error> {
        let shown = tls.peer_certificates().and_then(<[_]>::split_first);
        let (first, rest) = shown.ok_or(Error::NoCertificatesPresented)?;
        let now = UnixTime::now();
        self.judge.verify_server_cert(first, rest, &self.name, &[], now).map(drop)
    }
}

impl UpstreamLeg {
    /// Reads authorities, and the certificate and its key if there are. `host` is the gateway's.
    pub fn new(settings: &Origination, host: &str) -> Result<Self, TlsError> {
        let Some(trust) = Trust::of(settings.upstream_tls, settings.tls_ca.as_deref())? else {
            return Ok(match settings.upstream_tls {
                UpstreamTls::Passthrough => Self::Passthrough,
                _ => Self::Plain,
            });
        };
        let name = settings.tls_server_name.as_deref().unwrap_or(host);
        let name = server_name(name)?;
        let pair = own_pair(settings)?;
        let shown = pair.as_ref().map(|pair| pair.certified.cert.clone());
        let warnings = pair.as_ref().map(|pair| pair.warnings.clone()).unwrap_or_default();
        let config = Arc::new(Trust::Anyone.into_config(pair)?);
        Ok(Self::Tls(Originator { config, name, judge: trust.into(), warnings, shown }))
    }

    /// Whether the files had the same in them, with the same settings. What knows the servers'
    /// tickets is worth to be kept then.
    pub fn is_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Passthrough, Self::Passthrough) | (Self::Plain, Self::Plain) => true,
            (Self::Tls(one), Self::Tls(other)) => {
                one.name == other.name
                    && one.shown == other.shown
                    && one.judge.trust == other.judge.trust
            }
            _ => false,
        }
    }

    /// What is not as it should be, but does not keep it from working.
    pub fn warnings(&self) -> &[String] {
        match self {
            Self::Tls(originator) => &originator.warnings,
            Self::Passthrough | Self::Plain => &[],
        }
    }
}

/// What makes connections secure.
#[derive(Clone)]
pub struct Connector {
    /// Begins TLS.
    pub begin: TlsConnector,
    /// The name in the server's certificate.
    pub name: ServerName<'static>,
    /// Whether it looks at the certificate, so that the server is not just anybody.
    pub is_verified: bool,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { begin: _, name, is_verified } = self;
        let mut shown = f.debug_struct("Connector");
        shown.field("name", name).field("is_verified", is_verified).finish_non_exhaustive()
    }
}

/// What makes every connection secure from the start, none by an earlier one's ticket. `None`: nothing
/// does.
pub fn connector(
    mode: UpstreamTls,
    ca: Option<&Path>,
    name: ServerName<'static>,
) -> Result<Option<Connector>, TlsError> {
    let Some(trust) = Trust::of(mode, ca)? else { return Ok(None) };
    let mut config = trust.into_config(None)?;
    config.resumption = Resumption::disabled();
    let begin = TlsConnector::from(Arc::new(config));
    Ok(Some(Connector { begin, name, is_verified: mode.is_verified() }))
}

/// The certificate that is shown to a server that asks for one, and its key.
pub(super) fn own_pair(settings: &Origination) -> Result<Option<Pair>, TlsError> {
    match (&settings.tls_client_cert, &settings.tls_client_key) {
        (Some(certificate), Some(key)) => {
            let keys = ["tls_client_cert", "tls_client_key"];
            let provider = aws_lc_rs::default_provider();
            cert::pair(keys, [certificate, key], &provider).map(Some)
        }
        _ => Ok(None),
    }
}

/// The name that a certificate must be for: an address is one, too.
pub fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))
}
