//! TLS as a client: whom to trust, and how far to look.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use thiserror::Error;
use tokio_rustls::TlsConnector;

/// What is asked of a server's certificate. The names are those of MySQL's `--ssl-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nothing: whoever answers may read along.
    Required,
    /// That an authority that is trusted has signed it.
    VerifyCa,
    /// That, and that it is for the server's name.
    VerifyIdentity,
}

/// Why there can be no TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The file of the authorities cannot be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] pem::Error),
    /// There is not one certificate in it.
    #[error("{} holds no certificate in PEM form", .0.display())]
    Empty(PathBuf),
    /// One of them is none.
    #[error("{} holds a certificate that cannot be used", .0.display())]
    Unusable(PathBuf, #[source] rustls::Error),
    /// The system trusts nobody.
    #[error("the system has no certificates of authorities")]
    NoRoots,
    /// The library refuses what it was given.
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}

/// What makes connections secure: every one from the start, none by an earlier one's ticket.
///
/// Trusts the authorities in `ca`, or those of the system.
pub fn connector(mode: Mode, ca: Option<&Path>) -> Result<TlsConnector, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let mut config = match mode {
        Mode::VerifyIdentity => builder.with_root_certificates(roots(ca)?).with_no_client_auth(),
        Mode::VerifyCa => custom(builder, Some(roots(ca)?), &provider),
        Mode::Required => custom(builder, None, &provider),
    };
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn custom(
    builder: rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>,
    roots: Option<RootCertStore>,
    provider: &CryptoProvider,
) -> ClientConfig {
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(Nameless { roots, algorithms });
    builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        // What of the system's is not usable is somebody else's.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots) };
    };
    let read = |error| TlsError::Read(path.to_owned(), error);
    for certificate in CertificateDer::pem_file_iter(path).map_err(read)? {
        let unusable = |error| TlsError::Unusable(path.to_owned(), error);
        roots.add(certificate.map_err(read)?).map_err(unusable)?;
    }
    if roots.is_empty() { Err(TlsError::Empty(path.to_owned())) } else { Ok(roots) }
}

/// The name that a certificate must be for: an address is one, too.
pub fn server_name(host: &str) -> io::Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// Does not look whose certificate it is, and without roots not even who has signed it. That the
/// server holds its key is always checked.
#[derive(Debug)]
struct Nameless {
    roots: Option<RootCertStore>,
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
