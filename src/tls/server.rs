//! TLS as a server: which certificates are shown, and which are asked for.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::pki_types::ServerName;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;

use super::{TlsError, cert};
use crate::config::{ClientTls, Termination};

/// Ends the TLS of a listener's clients. Made anew at each reload, of what is in the files then.
#[derive(Debug)]
pub struct Terminator {
    /// What a handshake takes.
    pub config: Arc<ServerConfig>,
    /// Whether a client that does not ask for TLS is turned away.
    pub is_required: bool,
    /// When the first of its certificates ends to be valid.
    pub expires: SystemTime,
    /// What is not as it should be, but does not keep it from working.
    pub warnings: Vec<String>,
}

impl Terminator {
    /// Reads certificates and keys. `None`: no TLS is spoken with clients.
    pub fn new(settings: &Termination) -> Result<Option<Self>, TlsError> {
        if settings.client_tls == ClientTls::Off {
            return Ok(None);
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (mut certificates, mut warnings) = (Vec::new(), Vec::new());
        let mut expires: Option<SystemTime> = None;
        for (certificate, key) in settings.tls_cert.iter().zip(&settings.tls_key) {
            let pair = cert::pair(["tls_cert", "tls_key"], [certificate, key], &provider)?;
            expires = Some(expires.map_or(pair.expires, |earlier| earlier.min(pair.expires)));
            warnings.extend(pair.warnings);
            certificates.push(Arc::new(pair.certified));
        }
        // Validation has checked that there is a certificate.
        let Some(expires) = expires else { return Ok(None) };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let builder = match &settings.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let (roots, _) = cert::authorities("client_ca", path)?;
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                let cannot = |error| rustls::Error::General(format!("client_ca: {error}"));
                builder.with_client_cert_verifier(verifier.build().map_err(cannot)?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(BySni(certificates)));
        if settings.client_ca.is_none() {
            config.ticketer = Ticketer::new()?;
        } else {
            // A session that is resumed does not show its certificate again, so it would outlive it.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        let is_required = settings.client_tls == ClientTls::Required;
        Ok(Some(Self { config: Arc::new(config), is_required, expires, warnings }))
    }
}

/// Certificates of which the name that the client asks for chooses, and what it can verify. The first
/// is for clients that ask for none, or for one that nobody has.
#[derive(Debug)]
struct BySni(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let is_asked =
            |one: &&Arc<CertifiedKey>| asked.as_ref().is_some_and(|name| is_for(one, name));
        let is_known =
            |one: &&Arc<CertifiedKey>| one.key.choose_scheme(hello.signature_schemes()).is_some();
        let Self(all) = self;
        let asked = all.iter().filter(is_asked).find(is_known);
        asked.or_else(|| all.iter().find(is_known)).or(all.first()).cloned()
    }
}

fn is_for(certified: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let Ok(certificate) = certified.end_entity_cert() else { return false };
    let parsed = ParsedCertificate::try_from(certificate);
    parsed.is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
}
