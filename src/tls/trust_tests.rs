//! What is thought of a server's certificate, on handshakes in memory.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, Error, HandshakeKind, ServerConfig, SupportedProtocolVersion, version,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::cert::{read_chain, read_key};
use super::client::UpstreamLeg;
use super::reason::reason;
use super::tests::{DAY, Files, originator, server_of, shake, shake_hands};
use crate::config::{Origination, UpstreamTls};

#[test]
fn a_strangers_ticket_makes_it_no_friend() {
    let (files, strangers) = (Files::new(), Files::new());
    let leg = originator(&files.origination(UpstreamTls::VerifyIdentity), "db.test");
    for version in [&version::TLS12, &version::TLS13] {
        let server = Arc::new(server_of(version, &strangers, "db.test"));
        let kinds = [(); 2].map(|()| {
            let (client, kind) = shake(leg.begin().unwrap(), &server).unwrap();
            assert!(leg.judge(&client).is_err(), "{version:?}, {kind:?}");
            kind
        });
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed], "{version:?}");
    }
}

#[test]
fn a_certificate_of_version_1_is_enough_where_nobody_looks() {
    let files = Files::new();
    let [certificate, key] = files.pair("db.test");
    let old = version_1(&read_chain(&certificate).unwrap()[0]);
    let [_, others_key] = files.pair("other.test");
    fs::write(files.path("ca.crt"), pem_of(&old)).unwrap();
    let other = Files::new();
    let anyone = Origination { tls_ca: None, ..files.origination(UpstreamTls::Required) };
    let anyone = originator(&anyone, "db.test");
    let [pinned, named] = [UpstreamTls::VerifyCa, UpstreamTls::VerifyIdentity]
        .map(|mode| originator(&files.origination(mode), "db.test"));
    let unknown = originator(&other.origination(UpstreamTls::VerifyCa), "db.test");
    for version in [&version::TLS12, &version::TLS13] {
        let server = showing(version, vec![old.clone()], &key);
        shake_hands(&anyone, &server).unwrap();
        shake_hands(&pinned, &server).unwrap();
        for leg in [&unknown, &named] {
            let said = said(shake_hands(leg, &server).unwrap_err());
            assert!(said.contains("certificate is of X.509 version 1"), "{said}");
        }
        // Not even then without its key.
        let thief = showing(version, vec![old.clone()], &others_key);
        let error = shake_hands(&anyone, &thief).unwrap_err();
        assert_eq!(error, CertificateError::BadSignature.into(), "{version:?}");
    }
}

#[test]
fn a_servers_own_certificate_is_trusted_where_it_is_named() {
    let files = Files::new();
    let now = SystemTime::now();
    let key = KeyPair::generate().unwrap();
    fs::write(files.path("self.key"), key.serialize_pem()).unwrap();
    // As plain `openssl req -x509` makes it: an authority's by its form.
    let signed_by_itself = |begin: SystemTime, end: SystemTime| {
        let mut params = CertificateParams::new(["db.test".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (params.not_before, params.not_after) = (begin.into(), end.into());
        CertificateDer::from(params.self_signed(&key).unwrap())
    };
    let good = signed_by_itself(now - DAY, now + DAY);
    let trusting = |certificate: &CertificateDer<'_>, mode, host| {
        fs::write(files.path("ca.crt"), pem_of(certificate)).unwrap();
        originator(&files.origination(mode), host)
    };
    let server = |shown: &CertificateDer<'static>| {
        showing(&version::TLS13, vec![shown.clone()], &files.path("self.key"))
    };
    let (ca, identity) = (UpstreamTls::VerifyCa, UpstreamTls::VerifyIdentity);
    let leg = trusting(&good, ca, "other.test");
    shake_hands(&leg, &server(&good)).unwrap();
    shake_hands(&trusting(&good, identity, "db.test"), &server(&good)).unwrap();
    let wrong = shake_hands(&trusting(&good, identity, "other.test"), &server(&good));
    assert!(said(wrong.unwrap_err()).contains("is for another name"));

    // Of the same name and key, and not the one that is named.
    let another = signed_by_itself(now - DAY, now + 2 * DAY);
    let refusal = said(shake_hands(&leg, &server(&another)).unwrap_err());
    assert!(
        refusal.contains("an authority's own (CA:TRUE), and none of those in tls_ca"),
        "{refusal}"
    );
    assert!(!UpstreamLeg::Tls(leg).is_as(&UpstreamLeg::Tls(trusting(&another, ca, "other.test"))));

    for (begin, end, words) in
        [(now - 2 * DAY, now - DAY, "has expired"), (now + DAY, now + 2 * DAY, "is not valid yet")]
    {
        let untimely = signed_by_itself(begin, end);
        let result = shake_hands(&trusting(&untimely, ca, "db.test"), &server(&untimely));
        let refusal = said(result.unwrap_err());
        assert!(refusal.contains(words), "{refusal}");
    }
}

/// A server that shows this, whether or not it is fit for that.
fn showing(
    version: &'static SupportedProtocolVersion,
    chain: Vec<CertificateDer<'static>>,
    key: &Path,
) -> Arc<ServerConfig> {
    let provider = aws_lc_rs::default_provider();
    let key = provider.key_provider.load_private_key(read_key(key).unwrap()).unwrap();
    let shown = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let builder = ServerConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(&[version]).unwrap().with_no_client_auth();
    Arc::new(builder.with_cert_resolver(Arc::new(shown)))
}

/// The certificate without what came with version 3, and without a signature that is right.
fn version_1(certificate: &CertificateDer<'_>) -> CertificateDer<'static> {
    let (_, parsed) = X509Certificate::from_der(certificate).unwrap();
    let (whole, key) = (parsed.tbs_certificate.as_ref(), parsed.public_key().raw);
    let at = |part: &[u8]| part.as_ptr() as usize - certificate.as_ptr() as usize;
    // Behind the head and the version, up to the key; and behind all of that, the signature.
    let begin = at(parsed.tbs_certificate.raw_serial()) - 2;
    let tbs = sequence(&certificate[begin..at(key) + key.len()]);
    let signature = &certificate[at(whole) + whole.len()..];
    sequence(&[&tbs, signature].concat()).into()
}

/// As DER has it.
fn sequence(content: &[u8]) -> Vec<u8> {
    let head = match content.len() {
        length @ ..=0x7f => vec![0x30, length as u8],
        length @ ..=0xff => vec![0x30, 0x81, length as u8],
        length => vec![0x30, 0x82, (length >> 8) as u8, length as u8],
    };
    [head, content.to_vec()].concat()
}

fn pem_of(certificate: &CertificateDer<'_>) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", certificate.to_vec()))
}

fn said(error: Error) -> String {
    reason(&io::Error::new(io::ErrorKind::InvalidData, error), "the server")
}
