//! Certificates as a test wants them, and both ends of TLS to try them with.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};
use tempfile::TempDir;
use tidegate::mysql::packet::{HEADER_LEN, frame};

use super::PATIENCE;
use super::mysql::{greeting, read_packet};

const A_WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// An authority, and a folder for what it signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub ca: PathBuf,
    organization: String,
    dir: TempDir,
}

/// A certificate and its key, in files.
#[derive(Debug, Clone)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Valid {
    Now,
    NoMore,
    NotYet,
    /// But not for long.
    Soon,
}

impl Authority {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let organization = format!("authority {}", NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "tidegate test authority");
        params.distinguished_name.push(DnType::OrganizationName, &organization);
        let ca = dir.path().join("ca.pem");
        fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), ca, organization, dir }
    }

    /// For those who trust it.
    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.ca).unwrap()).unwrap();
        roots
    }

    /// A certificate for a name.
    pub fn sign(&self, name: &str, valid: Valid) -> Pair {
        self.write(name, &format!("{name}-{valid:?}"), &self.issuer, valid, "")
    }

    /// A certificate by an authority of which this one has signed the certificate; with that in the
    /// chain, or not.
    pub fn sign_through_another(&self, name: &str, is_whole: bool) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.distinguished_name.push(DnType::CommonName, "between");
        params.distinguished_name.push(DnType::OrganizationName, &self.organization);
        let between = params.signed_by(&key, &self.issuer).unwrap().pem();
        let rest = if is_whole { between.as_str() } else { "" };
        let file = format!("{name}-between-{is_whole}");
        self.write(name, &file, &Issuer::new(params, key), Valid::Now, rest)
    }

    fn write(
        &self,
        name: &str,
        file: &str,
        issuer: &Issuer<'_, KeyPair>,
        valid: Valid,
        rest: &str,
    ) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        match valid {
            Valid::Now => {}
            Valid::NoMore => params.not_after = date_time_ymd(2020, 1, 1),
            Valid::Soon => params.not_after = (SystemTime::now() + A_WEEK).into(),
            Valid::NotYet => params.not_before = date_time_ymd(2090, 1, 1),
        }
        let certificate = params.signed_by(&key, issuer).unwrap().pem();
        let path = |end: &str| self.dir.path().join(format!("{file}.{end}"));
        let pair = Pair { cert: path("pem"), key: path("key") };
        fs::write(&pair.cert, certificate + rest).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }
}

impl Pair {
    /// The keys of a listener.
    pub fn listener(&self, mode: &str) -> String {
        let [cert, key] = [&self.cert, &self.key].map(|path| path.display().to_string());
        format!("client_tls = \"{mode}\"\ntls_cert = \"{cert}\"\ntls_key = \"{key}\"\n")
    }

    /// What a server with it shakes hands by.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server_for(None, rustls::DEFAULT_VERSIONS)
    }

    /// As [`Self::server`], for clients with certificates of an authority, and for these versions.
    pub fn server_for(
        &self,
        clients: Option<&Authority>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ServerConfig> {
        let chain = CertificateDer::pem_file_iter(&self.cert).unwrap().map(Result::unwrap);
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(versions).unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let roots = Arc::new(authority.roots());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let mut config = builder.with_single_cert(chain.collect(), key).unwrap();
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        Arc::new(config)
    }
}

/// A MySQL server that has greeted, read a request for TLS and shaken hands, as far as it could.
pub fn serve_tls(
    mut stream: TcpStream,
    config: &Arc<ServerConfig>,
) -> Option<Tls<ServerConnection>> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&greeting()).unwrap();
    let request = read_packet(&mut stream)?;
    assert_eq!((request.len(), request[1] & 0x08), (32, 0x08), "a request for TLS: {request:?}");
    let tls = ServerConnection::new(config.clone()).unwrap();
    shake_hands(tls, stream)
}

/// A client's side of TLS that trusts the authority, and asks for `name`.
pub fn client(ca: &Authority, name: &str) -> ClientConnection {
    ClientConnection::new(client_config(ca), ServerName::try_from(name.to_owned()).unwrap())
        .unwrap()
}

/// What a client that trusts the authority shakes hands by.
pub fn client_config(ca: &Authority) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(ca.roots()).with_no_client_auth())
}

pub type Tls<C> = rustls::StreamOwned<C, TcpStream>;

/// Shakes hands; nothing if the other side does not want to.
pub fn shake_hands<C, S>(mut tls: C, mut stream: TcpStream) -> Option<Tls<C>>
where
    C: std::ops::DerefMut<Target = rustls::ConnectionCommon<S>>,
    S: rustls::SideData,
{
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).ok()?;
    }
    Some(Tls::new(tls, stream))
}

/// What a client asks for TLS by, with the capabilities and the filler of [`super::mysql::login`].
pub fn ssl_request() -> Vec<u8> {
    let login = super::mysql::login();
    let mut head = login[HEADER_LEN..HEADER_LEN + 32].to_vec();
    head[1] |= 0x08;
    frame(1, &head)
}

/// The log-in inside TLS.
pub fn login() -> Vec<u8> {
    let mut login = super::mysql::login();
    login[3] = 2;
    login[HEADER_LEN + 1] |= 0x08;
    login
}
