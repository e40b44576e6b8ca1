//! `tidegate render certificate`: what it makes is taken by others and by the bridge itself.

#![allow(clippy::disallowed_methods, reason = "tests may block: each has a thread of its own")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use support::bridge::{file, tidegate};

#[test]
fn a_pair_that_signs_itself_is_what_the_bridge_and_its_clients_take() {
    let folder = tempfile::tempdir().unwrap();
    let said = render(&folder, &["db.example.com", "*.db.example.com", "10.0.0.1", "fd00::1"]);
    let [certificate, key] = pair(&folder, "db.example.com");
    assert_eq!(mode(&key), 0o600);
    assert_eq!(mode(&certificate), 0o644);
    for name in ["db.example.com", "one.db.example.com", "10.0.0.1", "fd00::1"] {
        assert_eq!(verify(&certificate, &certificate, name), Ok(()), "{name}");
    }
    assert!(verify(&certificate, &certificate, "other.example.com").is_err());
    // What it says is a part of a configuration.
    let config = format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n{said}\
         [upstream.gw]\ngateway = \"127.0.0.1:1\"\nupstream_tls = \"off\"\n"
    );
    let output = tidegate(&["check", "--config", file(&config).to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{config}\n{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    let printed = String::from_utf8(output.stdout).unwrap();
    for path in [&certificate, &key] {
        assert!(said.contains(&format!("# wrote {}", path.display())), "{said}");
        assert!(printed.contains(path.to_str().unwrap()), "{printed}");
        assert!(!printed.contains("PRIVATE KEY"), "{printed}");
    }
}

#[test]
fn an_authority_that_is_made_first_signs_this_one_and_later_ones() {
    let folder = tempfile::tempdir().unwrap();
    let said = render(&folder, &["--ca", "one.example.com"]);
    let [authority, its_key] = pair(&folder, "ca");
    assert!(said.contains(authority.to_str().unwrap()), "{said}");
    assert_eq!(mode(&its_key), 0o600);
    let with = ["--ca-cert", authority.to_str().unwrap(), "--ca-key", its_key.to_str().unwrap()];
    render(&folder, &[&with[..], &["two.example.com"]].concat());
    for name in ["one.example.com", "two.example.com"] {
        let [certificate, key] = pair(&folder, name);
        assert_eq!(mode(&key), 0o600);
        assert_eq!(verify(&certificate, &authority, name), Ok(()), "{name}");
        assert!(verify(&certificate, &authority, "other.example.com").is_err());
    }
    // Another one of the same maker is another one.
    let other = tempfile::tempdir().unwrap();
    render(&other, &["--ca", "one.example.com"]);
    let [certificate, _] = pair(&other, "one.example.com");
    assert!(verify(&certificate, &authority, "one.example.com").is_err());
}

#[test]
fn what_an_authority_of_openssl_signs_says_who_has_signed_it() {
    let folder = tempfile::tempdir().unwrap();
    if !has_openssl() {
        return support::skip("no openssl");
    }
    for kind in [&["rsa:2048"][..], &["ec", "-pkeyopt", "ec_paramgen_curve:P-384"]] {
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let subject = "/C=DE/O=Example/OU=Databases/CN=An authority";
        let made = Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "30", "-subj", subject])
            .args(["-addext", "keyUsage=critical,keyCertSign", "-newkey"])
            .args(kind)
            .args(["-keyout", &at("their.key"), "-out", &at("their.crt")])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", stderr(&made));
        let with = ["--force", "--ca-cert", &at("their.crt"), "--ca-key", &at("their.key")];
        let said = render(&folder, &[&with[..], &["db.example.com"]].concat());
        let [certificate, _] = pair(&folder, "db.example.com");
        let authority = PathBuf::from(at("their.crt"));
        assert_eq!(verify(&certificate, &authority, "db.example.com"), Ok(()), "{kind:?}");
        // It ends with its authority, not after 825 days.
        let shown = Command::new("openssl")
            .args(["x509", "-noout", "-checkend", &(31 * 24 * 3600).to_string(), "-in"])
            .arg(&certificate)
            .output()
            .unwrap();
        assert_eq!(shown.status.code(), Some(1), "{said}");
    }
}

#[test]
fn what_an_authority_below_another_signs_comes_with_its_chain_and_without_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let params = |name: &str| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
    };
    let key = || rcgen::KeyPair::generate().unwrap();
    let root = rcgen::CertifiedIssuer::self_signed(params("root"), key()).unwrap();
    let below = rcgen::CertifiedIssuer::signed_by(params("below"), key(), &root).unwrap();
    let at = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let both = at("both.pem", &(below.key().serialize_pem() + &below.pem()));
    let root = at("root.crt", &root.pem());
    let both = both.to_str().unwrap();
    render(&folder, &["--ca-cert", both, "--ca-key", both, "db.example.com"]);
    let [certificate, _] = pair(&folder, "db.example.com");
    assert_eq!(verify_by_rustls(&certificate, &root, "db.example.com"), Ok(()));
    let text = fs::read_to_string(&certificate).unwrap();
    assert_eq!(text.matches("-----BEGIN CERTIFICATE-----\n").count(), 2, "{text}");
    assert!(!text.contains("PRIVATE KEY"));
}

#[test]
fn nothing_is_written_over_unless_it_is_meant() {
    let folder = tempfile::tempdir().unwrap();
    render(&folder, &["--ca", "db.example.com"]);
    let all = || {
        let texts = ["ca", "db.example.com"].map(|stem| pair(&folder, stem));
        texts.map(|pair| pair.map(|path| fs::read_to_string(path).unwrap()))
    };
    let before = all();
    for args in [&["db.example.com"][..], &["--ca", "db.example.com"], &["--ca", "new.example.com"]]
    {
        let (code, said) = refused(&folder, args);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("is there already\nhint: --force"), "{said}");
    }
    assert_eq!(all(), before);
    assert!(!folder.path().join("new.example.com.key").exists());
    // A key that others could read becomes one that they cannot.
    let [_, key] = pair(&folder, "db.example.com");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    render(&folder, &["--force", "db.example.com"]);
    assert_eq!(mode(&key), 0o600);
    assert_ne!(fs::read_to_string(&key).unwrap(), before[1][1]);
    let left = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 4, "only the files themselves");
}

#[test]
fn what_cannot_be_made_is_refused_with_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    render(&folder, &["--ca", "db.example.com"]);
    let [authority, its_key] = pair(&folder, "ca").map(|path| path.to_str().unwrap().to_owned());
    let [server, server_key] =
        pair(&folder, "db.example.com").map(|path| path.to_str().unwrap().to_owned());
    let [authority, its_key, server, server_key] =
        [&authority, &its_key, &server, &server_key].map(String::as_str);
    for (args, part) in [
        (&["a b"][..], "expected a DNS name"),
        (&["db:4000"], "expected a DNS name"),
        (&["--ca", "ca"], "--ca calls its own files"),
        (&["--days", "0", "x"], "--days"),
        (&["--days", "3651", "x"], "--days"),
        (&[], "NAME"),
        (&["--ca-cert", authority, "x"], "--ca-key"),
        (&["--ca", "--ca-cert", authority, "--ca-key", its_key, "x"], "--ca"),
        (&["--ca-cert", server, "--ca-key", server_key, "x"], "not an authority"),
        (&["--ca-cert", authority, "--ca-key", server_key, "x"], "not the key of the certificate"),
        (&["--ca-cert", "/nonexistent", "--ca-key", its_key, "x"], "--ca-cert is /nonexistent"),
        (&["--ca-cert", authority, "--ca-key", authority, "x"], "no private key"),
    ] {
        let (code, said) = refused(&folder, args);
        assert_eq!(code, 2, "{args:?}: {said}");
        assert!(said.contains(part), "{args:?}: no `{part}` in:\n{said}");
    }
    let out = ["--out", "/dev/null/folder", "db.example.com"];
    let output = tidegate(&[&["render", "certificate"][..], &out].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("cannot write /dev/null/folder"), "{}", stderr(&output));
}

#[test]
fn a_folder_that_is_not_there_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/tls");
    let out = out.to_str().unwrap();
    let output = tidegate(&["render", "certificate", "--out", out, "db.example.com"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(fs::read_to_string(format!("{out}/db.example.com.key")).unwrap().contains("PRIVATE"));
}

fn render(folder: &TempDir, args: &[&str]) -> String {
    let output = run(folder, args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(folder: &TempDir, args: &[&str]) -> (i32, String) {
    let output = run(folder, args);
    assert!(output.stdout.is_empty(), "{args:?} wrote something");
    (output.status.code().unwrap(), stderr(&output))
}

fn run(folder: &TempDir, args: &[&str]) -> Output {
    let out = folder.path().to_str().unwrap();
    tidegate(&[&["render", "certificate", "--out", out], args].concat())
}

/// What clients would say that trust an authority, and want a server of that name.
fn verify(certificate: &Path, authority: &Path, name: &str) -> Result<(), String> {
    verify_by_rustls(certificate, authority, name)?;
    if !has_openssl() {
        return Ok(());
    }
    let kind =
        if name.parse::<std::net::IpAddr>().is_ok() { "-verify_ip" } else { "-verify_hostname" };
    let mut openssl = Command::new("openssl");
    openssl.args(["verify", "-x509_strict", "-purpose", "sslserver", kind, name, "-CAfile"]);
    let output = openssl.arg(authority).arg(certificate).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(stderr(&output)) }
}

fn verify_by_rustls(certificate: &Path, authority: &Path, name: &str) -> Result<(), String> {
    use rustls::client::WebPkiServerVerifier;
    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::{ServerName, UnixTime};
    use std::sync::Arc;

    let read = |path| tidegate::tls::cert::read_chain(path).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(read(authority).remove(0)).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider);
    let (chain, name) = (read(certificate), ServerName::try_from(name).unwrap());
    let verifier = verifier.build().unwrap();
    let verifier: &dyn rustls::client::danger::ServerCertVerifier = &*verifier;
    let result = verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now());
    result.map(drop).map_err(|error| error.to_string())
}

fn has_openssl() -> bool {
    Command::new("openssl").arg("version").output().is_ok()
}

fn pair(folder: &TempDir, stem: &str) -> [PathBuf; 2] {
    ["crt", "key"].map(|extension| folder.path().join(format!("{stem}.{extension}")))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
