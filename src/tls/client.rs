//! TLS as a client: whom to trust, and how far to look.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use super::TlsError;
use super::cert::{self, Pair};
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
#[derive(Debug)]
pub struct Originator {
    /// What a handshake takes.
    pub config: Arc<ClientConfig>,
    /// Whom the server's certificate must be for, if that is looked at; also its SNI.
    pub name: ServerName<'static>,
    /// What is not as it should be, but does not keep it from working.
    pub warnings: Vec<String>,
    trusted: Option<Arc<RootCertStore>>,
    shown: Option<Vec<CertificateDer<'static>>>,
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
        let trusted = trust.roots().cloned();
        let shown = pair.as_ref().map(|pair| pair.certified.cert.clone());
        let warnings = pair.as_ref().map(|pair| pair.warnings.clone()).unwrap_or_default();
        let config = Arc::new(trust.into_config(pair)?);
        Ok(Self::Tls(Originator { config, name, warnings, trusted, shown }))
    }

    /// Whether the files had the same in them, with the same settings. What knows the servers'
    /// tickets is worth to be kept then.
    pub fn is_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Passthrough, Self::Passthrough) | (Self::Plain, Self::Plain) => true,
            (Self::Tls(one), Self::Tls(other)) => {
                let [ours, theirs] =
                    [one, other].map(|one| one.trusted.as_ref().map(|all| &all.roots));
                one.name == other.name && one.shown == other.shown && ours == theirs
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

/// What is asked of a server's certificate.
pub(super) enum Trust {
    /// Nothing: whoever answers may read along.
    Anyone,
    /// That one of these authorities has signed it.
    Signed(Arc<RootCertStore>),
    /// That, and that it is for the server's name.
    Named(Arc<RootCertStore>),
}

impl Trust {
    /// Trusts the authorities in `ca`, or those of the system. `None`: no TLS is spoken.
    pub fn of(mode: UpstreamTls, ca: Option<&Path>) -> Result<Option<Self>, TlsError> {
        let roots = || match ca {
            Some(path) => cert::roots("tls_ca", path).map(Arc::new),
            None => system_roots().map(Arc::new),
        };
        Ok(Some(match mode {
            UpstreamTls::Passthrough | UpstreamTls::Off => return Ok(None),
            UpstreamTls::Required => Self::Anyone,
            UpstreamTls::VerifyCa => Self::Signed(roots()?),
            UpstreamTls::VerifyIdentity => Self::Named(roots()?),
        }))
    }

    fn roots(&self) -> Option<&Arc<RootCertStore>> {
        match self {
            Self::Anyone => None,
            Self::Signed(roots) | Self::Named(roots) => Some(roots),
        }
    }

    /// What looks at certificates.
    pub fn verifier(self) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
        let provider = aws_lc_rs::default_provider();
        let algorithms = provider.signature_verification_algorithms;
        let roots = match self {
            Self::Named(roots) => {
                let built = WebPkiServerVerifier::builder_with_provider(roots, provider.into());
                let built = built.build();
                return Ok(built.map_err(|error| rustls::Error::General(error.to_string()))?);
            }
            Self::Signed(roots) => Some(roots),
            Self::Anyone => None,
        };
        Ok(Arc::new(Nameless { roots, algorithms }))
    }

    /// `own` is the certificate that is shown to a server that asks for one.
    pub fn into_config(self, own: Option<Pair>) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier()?);
        Ok(match own {
            None => builder.with_no_client_auth(),
            Some(Pair { certified, .. }) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        })
    }
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    // What of the system's is not usable is somebody else's.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots) }
}

/// The name that a certificate must be for: an address is one, too.
pub fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))
}

/// Does not look whose certificate it is, and without roots not even who has signed it. That the
/// server holds its key is always checked.
#[derive(Debug)]
struct Nameless {
    roots: Option<Arc<RootCertStore>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Nameless {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let parsed = ParsedCertificate::try_from(certificate)?;
            let all = self.algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, all)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
