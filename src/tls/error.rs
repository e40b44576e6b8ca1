//! Why there can be no TLS.

use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem;
use thiserror::Error;

/// Why there can be no TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file is of no use.
    #[error("{key} is {}", path.display())]
    File {
        /// The key of the configuration that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FileError,
    },
    /// The server's certificate cannot be for this.
    #[error("`{0}` is no name for TLS")]
    Name(String),
    /// The system trusts nobody.
    #[error("the system has no certificates of authorities")]
    NoRoots,
    /// The library refuses what it was given.
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}

/// What is wrong with a file.
#[derive(Debug, Error)]
pub enum FileError {
    /// It is not there, or for somebody else's eyes.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// It is damaged.
    #[error("it is not sound PEM")]
    Pem(#[source] pem::Error),
    /// Something else is in it.
    #[error("no certificate in PEM form is in it")]
    NoCertificate,
    /// Something else is in it.
    #[error("no private key in PEM form is in it")]
    NoKey,
    /// A passphrase is on it, and nobody is there to be asked.
    #[error("its private key is encrypted")]
    Encrypted,
    /// The certificate cannot be used.
    #[error("its certificate cannot be used")]
    Certificate(#[source] rustls::Error),
    /// The key cannot be used.
    #[error("its private key cannot be used")]
    Key(#[source] rustls::Error),
    /// It is not a certificate as the standards have it.
    #[error("its certificate does not say how long it is valid")]
    Undated,
    /// The key is another one's.
    #[error("it is not the key of the certificate in {}", .0.display())]
    Mismatch(PathBuf),
}

impl TlsError {
    /// What may be done about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::File { key: "tls_cert" | "tls_key", source: FileError::Read(error), .. }
                if error.kind() == io::ErrorKind::NotFound =>
            {
                Some("`tidegate render certificate` makes a certificate and its key")
            }
            Self::File { source, .. } => source.hint(),
            Self::Name(_) => Some("tls_server_name is the name in the server's certificate"),
            Self::NoRoots => Some("tls_ca names the authorities that are trusted"),
            Self::Setup(_) => None,
        }
    }

    /// Blames the file of a key.
    pub(super) fn of<'a>(key: &'static str, path: &'a Path) -> impl Fn(FileError) -> Self + 'a {
        move |source| Self::File { key, path: path.to_owned(), source }
    }
}

impl FileError {
    /// What may be done about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Read(error) => match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    Some("the user that tidegate runs as must be able to read it")
                }
                _ => None,
            },
            Self::NoCertificate | Self::Pem(_) => {
                Some("a certificate is between -----BEGIN CERTIFICATE----- and its END")
            }
            Self::NoKey => Some("a key is between -----BEGIN PRIVATE KEY----- and its END"),
            Self::Encrypted => Some("without a passphrase: openssl pkey -in KEY -out NEW"),
            Self::Certificate(_) | Self::Undated => {
                Some("openssl x509 -noout -text -in FILE shows what is in it")
            }
            Self::Key(_) => Some(
                "RSA of 2048 to 8192 bits, ECDSA on P-256, P-384 or P-521, and Ed25519 can be used",
            ),
            Self::Mismatch(_) => Some(
                "the first certificate of the file is the key's, those of its authorities follow",
            ),
        }
    }
}
