//! A certificate and its key, for clients of a listener: signed by itself, or by an authority.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf, absolute};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_seconds;
use pem::{EncodeConfig, LineEnding, Pem, encode_many_config};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer};
use thiserror::Error;
use toml::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::show::file::replace;
use crate::tls::FileError;
use crate::tls::cert::{not_after, read_chain, read_key};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Clients' clocks may be behind.
const EARLIER: Duration = Duration::from_secs(60 * 60);
/// An authority outlives what it signs.
const AUTHORITY: Duration = Duration::from_secs(3650 * DAY.as_secs());
/// What `ub-common-name` of X.509 lets in.
const LONGEST_COMMON_NAME: usize = 64;
/// As those that rcgen writes.
const LINES: EncodeConfig = EncodeConfig::new().set_line_ending(LineEnding::LF);
/// The name of a new authority's files.
const AUTHORITY_FILES: &str = "ca";

/// What is to be made.
#[derive(Debug)]
pub struct Order {
    /// Whom it is for; at least one.
    pub names: Vec<Name>,
    /// The directory that it is written to, which is made if need be.
    pub out: PathBuf,
    /// For how long it is valid.
    pub days: u32,
    /// Who signs it.
    pub signer: Signer,
    /// Whether files that are there are written over.
    pub force: bool,
}

/// Who signs a certificate.
#[derive(Debug)]
pub enum Signer {
    /// Nobody else: clients have to trust it as it is.
    Itself,
    /// An authority that is made for it, and can sign others.
    NewAuthority,
    /// One that there is.
    Authority {
        /// The file of its certificate.
        certificate: PathBuf,
        /// The file of its key.
        key: PathBuf,
    },
}

/// A DNS name, `*.` before it perhaps, or an IP address.
#[derive(Debug, Clone)]
pub struct Name(String);

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum RenderError {
    /// A file is there already.
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    /// A file cannot be written, or its folder cannot be made.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// A file of the authority is of no use.
    #[error("{flag} is {}", path.display())]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FileError,
    },
    /// The certificate is that of a server, or of somebody.
    #[error("--ca-cert is {}, which is not an authority's certificate", .0.display())]
    NoAuthority(PathBuf),
    /// What it would sign would be of no use.
    #[error("--ca-cert is {}, which has expired", .0.display())]
    Expired(PathBuf),
    /// A name with a part in it that cannot be written as it is there.
    #[error("--ca-cert is {}, whose subject cannot be repeated", .0.display())]
    OddName(PathBuf),
    /// The files of the authority and those of the certificate would be the same.
    #[error("NAME is `{AUTHORITY_FILES}`, which is what --ca calls its own files")]
    Clash,
    /// The library does not make it.
    #[error("the certificate cannot be made")]
    Make(#[from] rcgen::Error),
}

/// What was written, and how it is put to use. `Display` is TOML: what is not for the configuration
/// is a comment.
#[derive(Debug)]
pub struct Rendered {
    written: Vec<PathBuf>,
    certificate: PathBuf,
    key: PathBuf,
    /// What clients verify it with.
    authority: PathBuf,
    names: Vec<Name>,
    until: SystemTime,
}

/// Makes a certificate and its key, and writes them.
pub fn render(order: &Order) -> Result<Rendered, RenderError> {
    let stem = order.names[0].file();
    let file = |stem: &str, extension: &str| order.out.join(format!("{stem}.{extension}"));
    let [certificate, key] = ["crt", "key"].map(|extension| file(&stem, extension));
    let mut authority = certificate.clone();
    let mut files: Vec<(PathBuf, String, u32)> = Vec::new();
    let own = KeyPair::generate()?;
    let begin = SystemTime::now() - EARLIER;
    let mut end = begin + order.days * DAY;
    let params = |end| for_server(&order.names, begin, end);
    let text = match &order.signer {
        Signer::Itself => params(end)?.self_signed(&own)?.pem(),
        Signer::NewAuthority if stem == AUTHORITY_FILES => return Err(RenderError::Clash),
        Signer::NewAuthority => {
            let issuer = new_authority(begin)?;
            authority = file(AUTHORITY_FILES, "crt");
            files.push((file(AUTHORITY_FILES, "key"), issuer.key().serialize_pem(), 0o600));
            files.push((authority.clone(), issuer.pem(), 0o644));
            signed(params(end)?).signed_by(&own, &issuer)?.pem()
        }
        Signer::Authority { certificate, key } => {
            let there = Authority::read(certificate, key)?;
            authority.clone_from(certificate);
            end = end.min(there.end);
            there.sign(signed(params(end)?), &own)?
        }
    };
    files.push((key.clone(), own.serialize_pem(), 0o600));
    files.push((certificate.clone(), text, 0o644));
    if let Some((there, ..)) = files.iter().find(|(path, ..)| !order.force && path.exists()) {
        return Err(RenderError::Exists(there.clone()));
    }
    fs::create_dir_all(&order.out).map_err(|error| RenderError::Write(order.out.clone(), error))?;
    for (path, text, mode) in &files {
        write(path, text, *mode).map_err(|error| RenderError::Write(path.clone(), error))?;
    }
    let written = files.into_iter().map(|(path, ..)| path).collect();
    let names = order.names.clone();
    Ok(Rendered { written, certificate, key, authority, names, until: end })
}

/// The first name is the common one as well: old clients look nowhere else.
fn for_server(
    names: &[Name],
    begin: SystemTime,
    end: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    let common = Some(names[0].0.as_str()).filter(|name| name.len() <= LONGEST_COMMON_NAME);
    let mut params = common_params(common.unwrap_or("tidegate"), begin, end);
    params.subject_alt_names = names.iter().map(Name::san).collect::<Result<_, _>>()?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn signed(mut params: CertificateParams) -> CertificateParams {
    params.use_authority_key_identifier_extension = true;
    params
}

/// No two are called the same: clients that trust several look for the signer by its name.
fn new_authority(begin: SystemTime) -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = common_params("", begin, begin + AUTHORITY);
    let id = params.key_identifier(&key);
    let id: String = id.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name.push(DnType::CommonName, format!("tidegate authority {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, key)
}

fn common_params(common_name: &str, begin: SystemTime, end: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = begin.into();
    params.not_after = end.into();
    params
}

/// An authority that there is.
struct Authority<'p> {
    path: &'p Path,
    /// Its certificate, and those of its own authorities.
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
    end: SystemTime,
    is_root: bool,
}

impl<'p> Authority<'p> {
    fn read(path: &'p Path, key: &Path) -> Result<Self, RenderError> {
        let blame =
            |flag, path: &Path, source| RenderError::File { flag, path: path.into(), source };
        let of_certificate = |error| blame("--ca-cert", path, error);
        let of_key = |error| blame("--ca-key", key, error);
        let chain = read_chain(path).map_err(of_certificate)?;
        let (_, parsed) =
            X509Certificate::from_der(&chain[0]).map_err(|_| of_certificate(FileError::Undated))?;
        if !parsed.is_ca() {
            return Err(RenderError::NoAuthority(path.into()));
        }
        let end = not_after(&chain[0]).ok_or_else(|| of_certificate(FileError::Undated))?;
        if end < SystemTime::now() {
            return Err(RenderError::Expired(path.into()));
        }
        let private: PrivateKeyDer<'_> = read_key(key).map_err(of_key)?;
        let pair = KeyPair::try_from(&private)
            .map_err(|error| of_key(FileError::Key(rustls::Error::General(error.to_string()))))?;
        if pair.subject_public_key_info() != parsed.public_key().raw {
            return Err(of_key(FileError::Mismatch(path.into())));
        }
        let is_root = parsed.subject().as_raw() == parsed.issuer().as_raw();
        Ok(Self { path, key: pair, end, is_root, chain })
    }

    /// The certificate in PEM form, and the authority's own unless clients have it as a root.
    fn sign(self, params: CertificateParams, own: &KeyPair) -> Result<String, RenderError> {
        let Self { path, chain, key, is_root, .. } = self;
        let odd = || RenderError::OddName(path.into());
        let issuer = Issuer::from_ca_cert_der(&chain[0], key)?;
        let made = params.signed_by(own, &issuer)?;
        let (_, by) = X509Certificate::from_der(&chain[0]).map_err(|_| odd())?;
        let (_, parsed) = X509Certificate::from_der(made.der()).map_err(|_| odd())?;
        if parsed.issuer().as_raw() != by.subject().as_raw() {
            return Err(odd());
        }
        // Not the file as it is: its key may be in it, too.
        let above = if is_root { &[][..] } else { &chain };
        let above = above.iter().map(|one| Pem::new("CERTIFICATE", one.to_vec()));
        Ok(made.pem() + &encode_many_config(&above.collect::<Vec<_>>(), LINES))
    }
}

/// At no moment more of a key is there than its owner may see.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    replace(path, mode, |file| file.write_all(text.as_bytes()))
}

impl Name {
    /// The name that files have.
    fn file(&self) -> String {
        self.0.replace('*', "_wildcard").replace(':', "-")
    }

    fn san(&self) -> Result<SanType, rcgen::Error> {
        Ok(match self.0.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(self.0.as_str().try_into()?),
        })
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.to_ascii_lowercase();
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(address.to_string()));
        }
        let name = text.strip_suffix('.').unwrap_or(&text);
        match DnsName::try_from(name.strip_prefix("*.").unwrap_or(name)) {
            Ok(_) => Ok(Self(name.to_owned())),
            Err(_) => Err(format!(
                "\"{text}\": expected a DNS name, such as db.example.com or *.example.com, or an IP \
                 address"
            )),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl RenderError {
    /// What may be done about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Exists(_) => Some(
                "--force writes over it, --out to another place; with --ca-cert and --ca-key an \
                 authority that is there signs",
            ),
            Self::File { source, .. } => source.hint(),
            Self::NoAuthority(_) => Some("--ca makes one"),
            Self::Expired(_) => Some("--ca makes another one, which clients have to be told of"),
            _ => None,
        }
    }

    /// Whether the command line is to blame.
    pub fn is_usage(&self) -> bool {
        !matches!(self, Self::Exists(_) | Self::Write(..) | Self::Make(_))
    }
}

impl fmt::Display for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for path in &self.written {
            writeln!(f, "# wrote {}", path.display())?;
        }
        let names: Vec<_> = self.names.iter().map(ToString::to_string).collect();
        let full = |path: &Path| absolute(path).unwrap_or_else(|_| path.to_owned());
        let quoted = |path| Value::from(full(path).display().to_string());
        writeln!(f, "# For {}, until {}.", names.join(", "), format_rfc3339_seconds(self.until))?;
        writeln!(f, "# Clients verify it with {}.", full(&self.authority).display())?;
        writeln!(f, "# For a [[listener]]; the upstream_tls of its upstream says how it goes on:")?;
        writeln!(f, "client_tls = \"required\"")?;
        writeln!(f, "tls_cert = {}", quoted(&self.certificate))?;
        writeln!(f, "tls_key = {}", quoted(&self.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_names_with_a_wildcard_perhaps_and_addresses() {
        let file = |text: &str| text.parse::<Name>().map(|name| name.file());
        assert_eq!(file("DB.example.com."), Ok("db.example.com".into()));
        assert_eq!(file("*.example.com"), Ok("_wildcard.example.com".into()));
        assert_eq!(file("fd00::1"), Ok("fd00--1".into()));
        for wrong in ["", "a b", "../ca", "*", "a.*.com", "[fd00::1]", "host:4000"] {
            assert!(file(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
