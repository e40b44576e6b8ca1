//! Certificates of the bench's own, and what both of its ends settle TLS with.
//!
//! Each leg of a candidate that has TLS has the bench at its other end, and that end leaves no choice:
//! one version, one cipher, one key exchange. So all candidates have the same.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, cipher_suite, default_provider, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Whom the certificate is for.
pub const NAME: &str = "server.peers.test";

/// Files of a certificate that an authority has signed, for the bench's ends and for candidates.
#[derive(Debug)]
pub struct Authority {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Certificate and key in one.
    pub pair: PathBuf,
}

impl Authority {
    /// The one of whom the files are in `folder`.
    pub fn of(folder: &Path) -> Self {
        let [ca, certificate, key, pair] =
            ["ca.pem", "certificate.pem", "key.pem", "pair.pem"].map(|name| folder.join(name));
        Self { ca, certificate, key, pair }
    }

    /// Makes a new one.
    pub fn make(folder: &Path) -> Result<Self, Box<dyn Error>> {
        fs::create_dir_all(folder)?;
        let made = Self::of(folder);
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Issuer and subject of the other are not to be the same.
        authority.distinguished_name.push(DnType::CommonName, "authority of the peers bench");
        let (ca_key, key) = (KeyPair::generate()?, KeyPair::generate()?);
        fs::write(&made.ca, authority.self_signed(&ca_key)?.pem())?;
        let mut params = CertificateParams::new(vec![NAME.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, NAME);
        let certificate = params.signed_by(&key, &Issuer::new(authority, ca_key))?.pem();
        fs::write(&made.certificate, &certificate)?;
        fs::write(&made.key, key.serialize_pem())?;
        fs::write(&made.pair, certificate + &key.serialize_pem())?;
        Ok(made)
    }

    /// For the server.
    pub fn server(&self) -> Result<Arc<ServerConfig>, Box<dyn Error>> {
        let chain = CertificateDer::pem_file_iter(&self.certificate)?.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_file(&self.key)?;
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&[&TLS13])?.with_no_client_auth();
        let mut config = builder.with_single_cert(chain, key)?;
        config.ticketer = Ticketer::new()?;
        Ok(Arc::new(config))
    }

    /// For a client, which trusts nobody else. It knows nobody's tickets yet.
    pub fn client(&self) -> Result<Arc<ClientConfig>, Box<dyn Error>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.ca)?)?;
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&[&TLS13])?;
        Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    }
}

/// The cipher that tidegate, OpenSSL and MySQL put first.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_256_GCM_SHA384],
        kx_groups: vec![kx_group::X25519],
        ..default_provider()
    })
}
