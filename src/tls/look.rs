//! A look at what a server shows, whoever it is.
//!
//! A client that does not like a certificate breaks the handshake off, and learns no more than the
//! first reason. Here the handshake goes on, so that it can be told what was shown, and the server does
//! not count an interrupted one; what those who verify would have said of it is told beside it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, IpAddr, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio_rustls::TlsConnector;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;
use super::cert::dates;
use super::client::{Connector, own_pair, server_name};
use super::trust::{Trust, Verifier};
use crate::config::{Origination, UpstreamTls};
use crate::show::table::harmless;

/// What looks, and what it judges by.
pub struct Look {
    config: ClientConfig,
    name: ServerName<'static>,
    judge: Option<Arc<Verifier>>,
}

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Look").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a server has shown.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Its certificate, and those that it sent along.
    pub chain: Vec<CertificateDer<'static>>,
    /// What those who verify say of it; `None`: nobody is trusted here, so nobody can.
    pub verdict: Option<Result<(), Error>>,
}

/// Where a handshake leaves what it was shown.
#[derive(Debug, Clone, Default)]
pub struct Seen(Arc<Mutex<Option<Shown>>>);

impl Seen {
    /// What was shown, once a handshake has come that far.
    pub fn shown(&self) -> Option<Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Look {
    /// Judges as the settings ask for; where they ask for no look, as a client would that looks for
    /// the host's name and an authority of the system's. Shows the certificate of the settings.
    pub fn new(settings: &Origination, host: &str) -> Result<Self, TlsError> {
        let mode = settings.upstream_tls;
        let judge = match mode.is_verified() {
            true => Trust::of(mode, settings.tls_ca.as_deref())?,
            // A system without authorities is no reason not to look.
            false => Trust::of(UpstreamTls::VerifyIdentity, None).ok().flatten(),
        };
        let judge = judge.map(|trust| Arc::new(trust.into()));
        let name = server_name(settings.tls_server_name.as_deref().unwrap_or(host));
        let (name, judge) = match name {
            Ok(name) => (name, judge),
            Err(error) if mode.is_spoken() => return Err(error),
            // No certificate can be for such a name, and none is asked for by it.
            Err(_) => (ServerName::from(IpAddr::from(std::net::Ipv4Addr::UNSPECIFIED)), None),
        };
        let mut config = Trust::Anyone.into_config(own_pair(settings)?)?;
        config.resumption = Resumption::disabled();
        Ok(Self { config, name, judge })
    }

    /// For one handshake. It counts as unverified: whoever goes on decides by what was seen.
    pub fn begin(&self) -> (Connector, Seen) {
        let seen = Seen::default();
        let mut config = self.config.clone();
        let (judge, anyone) = (self.judge.clone(), Trust::Anyone.into());
        let recorder = Recorder { judge, anyone, seen: seen.clone() };
        config.dangerous().set_certificate_verifier(Arc::new(recorder));
        let begin = TlsConnector::from(Arc::new(config));
        (Connector { begin, name: self.name.clone(), is_verified: false }, seen)
    }
}

/// Takes any certificate, and notes it. That the server holds its key is checked.
#[derive(Debug)]
struct Recorder {
    judge: Option<Arc<Verifier>>,
    anyone: Verifier,
    seen: Seen,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judge = self.judge.as_ref();
        let verdict = judge
            .map(|judge| judge.verify_server_cert(certificate, intermediates, name, ocsp, now))
            .map(|verdict| verdict.map(drop));
        let chain = std::iter::once(certificate).chain(intermediates);
        let chain = chain.map(|one| one.clone().into_owned()).collect();
        let mut seen = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Some(Shown { chain, verdict });
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.anyone.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.anyone.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.anyone.supported_verify_schemes()
    }
}

/// What is written in a certificate, as far as people ask, and fit to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Whose it is, by its common name or the whole of its name.
    pub subject: String,
    /// Who has signed it.
    pub issuer: String,
    /// The organisation of that one.
    pub issuer_organisation: Option<String>,
    /// DNS names and addresses that it is for.
    pub names: Vec<String>,
    /// From when it is valid.
    pub begins: SystemTime,
    /// Until when.
    pub ends: SystemTime,
    /// Whether it says where the certificate of its issuer is to be had, as those of public authorities
    /// do that sign by an intermediate one.
    pub points_to_issuer: bool,
    /// Whether it has signed itself.
    pub is_self_signed: bool,
}

impl Written {
    /// Reads it; `None` if it is not as the standards have it.
    pub fn in_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let [begins, ends] = dates(&parsed);
        let alternatives = parsed.subject_alternative_name().ok().flatten();
        let names = alternatives.iter().flat_map(|all| &all.value.general_names);
        let points_to_issuer = parsed.extensions().iter().any(|one| {
            let ParsedExtension::AuthorityInfoAccess(access) = one.parsed_extension() else {
                return false;
            };
            // id-ad-caIssuers of RFC 5280, 4.2.2.1.
            let is_issuers = |method: String| method == "1.3.6.1.5.5.7.48.2";
            access.accessdescs.iter().any(|one| is_issuers(one.access_method.to_id_string()))
        });
        let organisation = parsed.issuer().iter_organization().next();
        Some(Self {
            subject: name(parsed.subject()),
            issuer: name(parsed.issuer()),
            issuer_organisation: organisation.and_then(|one| Some(one.as_str().ok()?.to_owned())),
            names: names.filter_map(shown).collect(),
            begins,
            ends,
            points_to_issuer,
            is_self_signed: parsed.subject() == parsed.issuer(),
        })
    }
}

fn name(name: &x509_parser::x509::X509Name<'_>) -> String {
    let common = name.iter_common_name().next().and_then(|one| one.as_str().ok());
    harmless(&common.map_or_else(|| name.to_string(), str::to_owned))
}

fn shown(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(harmless(name)),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            let v6 = <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from);
            v4.or(v6).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}
