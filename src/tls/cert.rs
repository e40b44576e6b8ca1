//! Certificates and keys from files in PEM form.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use humantime::format_rfc3339_seconds;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{FileError, TlsError};

/// What others than the owner may do with a file.
const OTHERS: u32 = 0o077;

/// Two keys of the configuration: of the file with a certificate, and of the one with its key.
pub type KeysOfAPair = [&'static str; 2];

/// A certificate with its chain, and its private key.
#[derive(Debug)]
pub struct Pair {
    /// What a handshake takes.
    pub certified: CertifiedKey,
    /// When the certificate ends to be valid.
    pub expires: SystemTime,
    /// What is not as it should be, but does not keep it from being used.
    pub warnings: Vec<String>,
}

/// Reads a certificate and its key.
pub fn pair(
    keys: KeysOfAPair,
    [certificate, key]: [&Path; 2],
    provider: &CryptoProvider,
) -> Result<Pair, TlsError> {
    let blame_certificate = TlsError::of(keys[0], certificate);
    let blame_key = TlsError::of(keys[1], key);
    let chain = read_chain(certificate).map_err(&blame_certificate)?;
    let expires = not_after(&chain[0]).ok_or_else(|| blame_certificate(FileError::Undated))?;
    let mut warnings = Vec::from_iter(date_warning(keys[0], certificate, &chain[0]));
    let private = provider.key_provider.load_private_key(read_key(key).map_err(&blame_key)?);
    let private = private.map_err(|error| blame_key(FileError::Key(error)))?;
    warnings.extend(mode_warning(keys[1], key));
    let certified = CertifiedKey::new(chain, private);
    match certified.keys_match() {
        // A key that does not tell its public half is taken at its word.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {
            Ok(Pair { certified, expires, warnings })
        }
        Err(Error::InconsistentKeys(_)) => Err(blame_key(FileError::Mismatch(certificate.into()))),
        Err(error) => Err(blame_certificate(FileError::Certificate(error))),
    }
}

/// The authorities in a file, at least one, and their certificates.
pub(super) fn authorities(
    key: &'static str,
    path: &Path,
) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), TlsError> {
    let blame = TlsError::of(key, path);
    let certificates = read_chain(path).map_err(&blame)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates.iter().cloned() {
        roots.add(certificate).map_err(|error| blame(FileError::Certificate(error)))?;
    }
    Ok((roots, certificates))
}

/// The certificates in a file, at least one.
pub fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let text = fs::read(path).map_err(FileError::Read)?;
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    match chain {
        Ok(chain) if chain.is_empty() => Err(FileError::NoCertificate),
        Ok(chain) => Ok(chain),
        Err(error) => Err(FileError::Pem(error)),
    }
}

/// The first private key in a file.
pub fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let text = fs::read(path).map_err(FileError::Read)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        _ if is_encrypted(&text) => FileError::Encrypted,
        pem::Error::NoItemsFound => FileError::NoKey,
        error => FileError::Pem(error),
    })
}

/// Both forms: PKCS #8's, and that of older OpenSSL, whose header would be taken for part of a key.
fn is_encrypted(text: &[u8]) -> bool {
    let has = |marker: &[u8]| text.windows(marker.len()).any(|part| part == marker);
    has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED")
}

/// When a certificate ends to be valid.
pub fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    validity(certificate).map(|[_, end]| end)
}

/// From when until when a certificate is valid.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> Option<[SystemTime; 2]> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(dates(&parsed))
}

/// The same of one that is parsed already.
pub(super) fn dates(parsed: &X509Certificate<'_>) -> [SystemTime; 2] {
    let validity = parsed.validity();
    // What was long ago may as well have been in 1970.
    let moment = |seconds: i64| UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or(0));
    [validity.not_before, validity.not_after].map(|time| moment(time.timestamp()))
}

fn date_warning(
    key: &'static str,
    path: &Path,
    certificate: &CertificateDer<'_>,
) -> Option<String> {
    let [begin, end] = validity(certificate)?;
    let (now, path) = (SystemTime::now(), path.display());
    if end < now {
        let end = format_rfc3339_seconds(end);
        return Some(format!(
            "{key} {path} has expired, on {end}: clients that look will refuse it"
        ));
    }
    let begin = (now < begin).then(|| format_rfc3339_seconds(begin))?;
    Some(format!("{key} {path} is not valid before {begin}: clients that look will refuse it"))
}

fn mode_warning(key: &'static str, path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode();
    let (others, path) = (mode & OTHERS, path.display());
    (others != 0).then(|| {
        let mode = mode & 0o7777;
        format!("{key} {path} is not its owner's alone, its mode is {mode:04o}: chmod 600 {path}")
    })
}
