//! Whom to trust, and how far to look at a server's certificate.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerMisbehaved, RootCertStore,
    SignatureScheme,
};
use webpki::RawPublicKeyEntity;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;
use super::cert::{self, Pair};
use crate::config::UpstreamTls;

/// What is asked of a server's certificate.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Trust {
    /// Nothing: whoever answers may read along.
    Anyone,
    /// That one of these authorities has signed it.
    Signed(Arc<Authorities>),
    /// That, and that it is for the server's name.
    Named(Arc<Authorities>),
}

/// Those whose word is taken.
#[derive(Debug)]
pub(super) struct Authorities {
    roots: RootCertStore,
    /// Their certificates where the operator has named them. A server's own may be among them.
    certificates: Vec<CertificateDer<'static>>,
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        self.roots.roots == other.roots.roots && self.certificates == other.certificates
    }
}

impl Trust {
    /// Trusts the authorities in `ca`, or those of the system. `None`: no TLS is spoken.
    pub fn of(mode: UpstreamTls, ca: Option<&Path>) -> Result<Option<Self>, TlsError> {
        let authorities =
            || ca.map_or_else(Authorities::of_system, Authorities::in_file).map(Arc::new);
        Ok(Some(match mode {
            UpstreamTls::Passthrough | UpstreamTls::Off => return Ok(None),
            UpstreamTls::Required => Self::Anyone,
            UpstreamTls::VerifyCa => Self::Signed(authorities()?),
            UpstreamTls::VerifyIdentity => Self::Named(authorities()?),
        }))
    }

    /// `own` is the certificate that is shown to a server that asks for one.
    pub fn into_config(self, own: Option<Pair>) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier::from(self)));
        Ok(match own {
            None => builder.with_no_client_auth(),
            Some(Pair { certified, .. }) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        })
    }
}

impl Authorities {
    fn in_file(path: &Path) -> Result<Self, TlsError> {
        let (roots, certificates) = cert::authorities("tls_ca", path)?;
        Ok(Self { roots, certificates })
    }

    fn of_system() -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        // What of the system's is not usable is somebody else's.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(TlsError::NoRoots);
        }
        Ok(Self { roots, certificates: Vec::new() })
    }

    /// Whether they have signed the certificate, or it is one of theirs: of one that has signed itself the
    /// operator has nothing else to name, and most are an authority's by their form.
    fn vouch_for(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), Error> {
        if self.certificates.iter().any(|one| one == certificate) {
            return Ok(is_in_time(certificate, now)?);
        }
        let parsed = ParsedCertificate::try_from(certificate)?;
        let (roots, all) = (&self.roots, algorithms.all);
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, all)
    }
}

fn is_in_time(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let [begin, end] = cert::validity(certificate).ok_or(CertificateError::BadEncoding)?;
    match UNIX_EPOCH + Duration::from_secs(now.as_secs()) {
        now if now < begin => Err(CertificateError::NotValidYet),
        now if now > end => Err(CertificateError::Expired),
        _ => Ok(()),
    }
}

/// Looks at certificates as far as is asked. That the server holds the key is always checked, by the key
/// alone: the library reads none in a certificate of version 1.
#[derive(Debug)]
pub(super) struct Verifier {
    pub trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

impl From<Trust> for Verifier {
    fn from(trust: Trust) -> Self {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        Self { trust, algorithms }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Trust::Signed(authorities) | Trust::Named(authorities) = &self.trust {
            authorities.vouch_for(certificate, intermediates, now, &self.algorithms)?;
        }
        if let Trust::Named(_) = &self.trust {
            verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = key_of(certificate)?;
        let key = RawPublicKeyEntity::try_from(&key).map_err(|_| CertificateError::BadEncoding)?;
        // TLS 1.2 does not tell which curve is meant.
        let meant = self.algorithms.mapping.iter().filter(|(scheme, _)| *scheme == signed.scheme);
        for algorithm in meant.flat_map(|(_, algorithms)| *algorithms) {
            match key.verify_signature(*algorithm, message, signed.signature()) {
                Ok(()) => return Ok(HandshakeSignatureValid::assertion()),
                Err(webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => {}
                Err(_) => return Err(CertificateError::BadSignature.into()),
            }
        }
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature_with_raw_key(
            message,
            &key_of(certificate)?,
            signed,
            &self.algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn key_of(certificate: &CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'static>, Error> {
    // What can be looked at further is read as it is there.
    if let Ok(parsed) = ParsedCertificate::try_from(certificate) {
        return Ok(parsed.subject_public_key_info());
    }
    let parsed = X509Certificate::from_der(certificate);
    let (_, parsed) = parsed.map_err(|_| CertificateError::BadEncoding)?;
    Ok(parsed.public_key().raw.to_vec().into())
}
