//! Handshakes in memory, on files as an operator would give them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, Error, HandshakeKind, RootCertStore, ServerConfig,
    ServerConnection, SupportedProtocolVersion, version,
};
use tempfile::TempDir;

use super::TlsError;
use super::cert::{not_after, read_chain};
use super::client::{Originator, UpstreamLeg};
use super::server::Terminator;
use crate::config::{ClientTls, Origination, Termination, UpstreamTls};

pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[test]
fn the_name_that_is_asked_for_chooses_and_the_first_is_for_all_others() {
    let files = Files::new();
    let names = ["a.test", "*.b.test"];
    let server = terminator(&files.termination(&names));
    for (asked, shown) in
        [("a.test", 0), ("x.b.test", 1), ("b.test", 0), ("c.test", 0), ("10.0.0.1", 0)]
    {
        let leg = originator(&files.origination(UpstreamTls::VerifyCa), asked);
        let (client, _) = shake_hands(&leg, &server.config).unwrap();
        let chain = read_chain(&files.path(&format!("{}.crt", names[shown]))).unwrap();
        assert_eq!(client.peer_certificates(), Some(&chain[..]), "{asked}");
    }
}

#[test]
fn a_server_is_looked_at_as_far_as_is_asked() {
    let (files, strangers) = (Files::new(), Files::new());
    let server = terminator(&files.termination(&["db.test", "10.0.0.1"]));
    let ours = |mode| files.origination(mode);
    let theirs = |mode| strangers.origination(mode);
    let anyone = Origination { tls_ca: None, ..ours(UpstreamTls::Required) };
    let renamed = Origination {
        tls_server_name: Some("db.test".into()),
        ..ours(UpstreamTls::VerifyIdentity)
    };
    for (settings, host, is_good) in [
        (anyone, "other.test", true),
        (ours(UpstreamTls::VerifyCa), "other.test", true),
        (theirs(UpstreamTls::VerifyCa), "db.test", false),
        (ours(UpstreamTls::VerifyIdentity), "db.test", true),
        (ours(UpstreamTls::VerifyIdentity), "other.test", false),
        (ours(UpstreamTls::VerifyIdentity), "10.0.0.2", false),
        (theirs(UpstreamTls::VerifyIdentity), "db.test", false),
        (renamed, "10.0.0.2", true),
    ] {
        let result = shake_hands(&originator(&settings, host), &server.config);
        assert_eq!(result.is_ok(), is_good, "{settings:?} {host}: {:?}", result.err());
    }
    let address = terminator(&files.termination(&["10.0.0.1"]));
    let leg = originator(&ours(UpstreamTls::VerifyIdentity), "10.0.0.1");
    shake_hands(&leg, &address.config).unwrap();
}

#[test]
fn both_sides_resume_in_either_version() {
    let files = Files::new();
    let server = terminator(&files.termination(&["db.test"]));
    let leg = originator(&files.origination(UpstreamTls::VerifyIdentity), "db.test");
    for version in [&version::TLS12, &version::TLS13] {
        let client = Arc::new(client_of(version, &files));
        let kinds = [(); 2].map(|()| {
            let name = ServerName::try_from("db.test").unwrap();
            shake(ClientConnection::new(client.clone(), name).unwrap(), &server.config).unwrap().1
        });
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed], "client of {version:?}");

        let other = Arc::new(server_of(version, &files, "db.test"));
        let kinds = [(); 2].map(|()| shake_hands(&leg, &other).unwrap().1);
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed], "server of {version:?}");
    }
}

#[test]
fn a_client_shows_its_certificate_each_time_if_it_must() {
    let (files, clients) = (Files::new(), Files::new());
    let [certificate, key] = clients.pair("app");
    let settings =
        Termination { client_ca: Some(clients.path("ca.crt")), ..files.termination(&["db.test"]) };
    let server = terminator(&settings);
    let bare = files.origination(UpstreamTls::VerifyIdentity);
    assert!(shake_hands(&originator(&bare, "db.test"), &server.config).is_err());
    let [not_ours, its_key] = files.pair("stranger");
    let stranger = Origination {
        tls_client_cert: Some(not_ours),
        tls_client_key: Some(its_key),
        ..bare.clone()
    };
    assert!(shake_hands(&originator(&stranger, "db.test"), &server.config).is_err());
    let known =
        Origination { tls_client_cert: Some(certificate), tls_client_key: Some(key), ..bare };
    let leg = originator(&known, "db.test");
    let kinds = [(); 2].map(|()| shake_hands(&leg, &server.config).unwrap().1);
    assert_eq!(kinds, [HandshakeKind::Full; 2]);
}

#[test]
fn a_file_of_no_use_is_named_with_its_key_and_a_way_out() {
    let files = Files::new();
    let good = files.termination(&["a.test", "b.test"]);
    let put = |name: &str, text: &str| {
        fs::write(files.path(name), text).unwrap();
        files.path(name)
    };
    let encrypted = put(
        "encrypted.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let old = put(
        "old.key",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,AA\n\nAAAA\n\
         -----END RSA PRIVATE KEY-----\n",
    );
    let junk = put("junk.pem", "junk\n");
    let no_der = put("no.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let missing = files.path("missing.pem");
    let [a, b] = [0, 1].map(|at| good.tls_key[at].clone());
    let with = |certificate: &Path, key: &Path| {
        let settings = Termination {
            tls_cert: vec![certificate.into()],
            tls_key: vec![key.into()],
            ..good.clone()
        };
        told(Terminator::new(&settings).err())
    };
    let own = good.tls_cert[0].clone();
    for ((certificate, key), of, path, cause) in [
        ((&missing, &a), "tls_cert", &missing, "cannot be read: No such file"),
        ((&junk, &a), "tls_cert", &junk, "no certificate in PEM form"),
        ((&no_der, &a), "tls_cert", &no_der, "its certificate"),
        ((&own, &missing), "tls_key", &missing, "cannot be read"),
        ((&own, &own), "tls_key", &own, "no private key in PEM form"),
        ((&own, &encrypted), "tls_key", &encrypted, "encrypted"),
        ((&own, &old), "tls_key", &old, "encrypted"),
        ((&own, &b), "tls_key", &b, "not the key of the certificate in"),
    ] {
        let said = with(certificate, key);
        let begin = format!("{of} is {}: ", path.display());
        assert!(said.starts_with(&begin) && said.contains(cause), "{cause}:\n{said}");
        assert!(said.contains("\nhint: "), "{said}");
    }
    let settings = Termination { client_ca: Some(junk.clone()), ..good };
    assert!(told(Terminator::new(&settings).err()).starts_with("client_ca is "));
    let settings =
        Origination { tls_ca: Some(missing), ..files.origination(UpstreamTls::VerifyCa) };
    let said = told(UpstreamLeg::new(&settings, "db.test").err());
    assert!(said.starts_with("tls_ca is ") && !said.contains("render"), "{said}");
}

#[test]
fn what_is_not_as_it_should_be_is_told_and_used() {
    let files = Files::new();
    let now = SystemTime::now();
    assert_eq!(terminator(&files.termination(&["db.test"])).warnings, [""; 0]);

    let old = files.dated("old.test", now - 9 * DAY, now - DAY);
    let early = files.dated("early.test", now + DAY, now + 9 * DAY);
    fs::set_permissions(&early[1], fs::Permissions::from_mode(0o640)).unwrap();
    let settings = Termination {
        tls_cert: vec![old[0].clone(), early[0].clone()],
        tls_key: vec![old[1].clone(), early[1].clone()],
        ..files.termination(&["db.test"])
    };
    let server = terminator(&settings);
    let [expired, not_yet, seen] = &server.warnings[..] else { panic!("{:?}", server.warnings) };
    let date = |moment| humantime::format_rfc3339_seconds(moment).to_string();
    assert!(
        expired.contains("old.test.crt has expired, on ") && expired.contains(&date(now - DAY))
    );
    assert!(
        not_yet.contains("early.test.crt is not valid before ")
            && not_yet.contains(&date(now + DAY))
    );
    assert!(seen.starts_with("tls_key ") && seen.contains("0640"), "{seen}");
    let end = not_after(&read_chain(&old[0]).unwrap()[0]).unwrap();
    assert_eq!(server.expires, end);
    assert!((now - DAY).duration_since(end).unwrap() < Duration::from_secs(1));
}

#[test]
fn a_leg_is_the_same_while_its_files_are() {
    let (files, others) = (Files::new(), Files::new());
    let leg = |settings: &Origination| UpstreamLeg::new(settings, "db.test").unwrap();
    let settings = files.origination(UpstreamTls::VerifyCa);
    let before = leg(&settings);
    assert!(before.is_as(&leg(&settings)));
    assert!(!before.is_as(&UpstreamLeg::Plain) && UpstreamLeg::Plain.is_as(&UpstreamLeg::Plain));
    fs::copy(others.path("ca.crt"), files.path("ca.crt")).unwrap();
    assert!(!before.is_as(&leg(&settings)));

    let [certificate, key] = files.pair("app");
    let settings = Origination {
        tls_ca: None,
        tls_client_cert: Some(certificate),
        tls_client_key: Some(key),
        ..files.origination(UpstreamTls::Required)
    };
    let before = leg(&settings);
    assert!(before.is_as(&leg(&settings)));
    files.pair("app");
    assert!(!before.is_as(&leg(&settings)));
}

/// An authority, and what it has signed.
pub(super) struct Files {
    folder: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Files {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.crt"), authority.pem()).unwrap();
        Self { folder, authority }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new certificate and its key.
    pub fn pair(&self, name: &str) -> [PathBuf; 2] {
        let now = SystemTime::now();
        self.dated(name, now - DAY, now + DAY)
    }

    fn dated(&self, name: &str, begin: SystemTime, end: SystemTime) -> [PathBuf; 2] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (begin.into(), end.into());
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let paths = ["crt", "key"].map(|extension| self.path(&format!("{name}.{extension}")));
        fs::write(&paths[0], certificate.pem()).unwrap();
        fs::write(&paths[1], key.serialize_pem()).unwrap();
        fs::set_permissions(&paths[1], fs::Permissions::from_mode(0o600)).unwrap();
        paths
    }

    fn termination(&self, names: &[&str]) -> Termination {
        let pairs = names.iter().map(|name| self.pair(name));
        let (tls_cert, tls_key) = pairs.map(|[certificate, key]| (certificate, key)).unzip();
        Termination { client_tls: ClientTls::Required, tls_cert, tls_key, client_ca: None }
    }

    pub fn origination(&self, mode: UpstreamTls) -> Origination {
        let tls_ca = Some(self.path("ca.crt"));
        Origination { upstream_tls: mode, tls_ca, ..Origination::default() }
    }
}

fn terminator(settings: &Termination) -> Terminator {
    Terminator::new(settings).unwrap().unwrap()
}

pub(super) fn originator(settings: &Origination, host: &str) -> Originator {
    match UpstreamLeg::new(settings, host).unwrap() {
        UpstreamLeg::Tls(originator) => originator,
        other => panic!("{other:?}"),
    }
}

fn client_of(version: &'static SupportedProtocolVersion, files: &Files) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::clone(files.authority.der())).unwrap();
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

pub(super) fn server_of(
    version: &'static SupportedProtocolVersion,
    files: &Files,
    name: &str,
) -> ServerConfig {
    let [certificate, key] = files.pair(name);
    ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(read_chain(&certificate).unwrap(), super::cert::read_key(&key).unwrap())
        .unwrap()
}

pub(super) fn shake_hands(
    leg: &Originator,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, HandshakeKind), Error> {
    let (client, kind) = shake(leg.begin()?, server)?;
    leg.judge(&client)?;
    Ok((client, kind))
}

/// Passes bytes until neither side has any left: tickets come after the handshake.
pub(super) fn shake(
    mut client: ClientConnection,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, HandshakeKind), Error> {
    let mut server = ServerConnection::new(server.clone())?;
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut left = &bytes[..];
        while !left.is_empty() {
            server.read_tls(&mut left).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut left = &bytes[..];
        while !left.is_empty() {
            client.read_tls(&mut left).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    let kind = client.handshake_kind().unwrap();
    Ok((client, kind))
}

fn told(error: Option<TlsError>) -> String {
    let error = error.expect("it cannot be used");
    let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    format!("{}{hint}", crate::log::Chain(&error))
}
