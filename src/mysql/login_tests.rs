//! Servers that ask for a password in each way, and what they get.

use std::sync::Arc;

use ::aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use ::aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::channel::Channel;
use super::error::Problem;
use super::login::{Login, ask_for_tls, authenticate, give_up, greeting, take_leave};
use super::packet::{HEADER_LEN, frame, payload_length};
use crate::config::UpstreamTls;
use crate::tls::client::{Connector, connector, server_name};

const NONCE: &[u8; 20] = b"abcdefghijklmnopqrst";
const GREETING: &[u8] = b"\x0a8.0.36\0\x01\0\0\0abcdefgh\0\xff\xf7\xff\x02\0\xff\xdf\x15\
    \0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0caching_sha2_password\0";
const GREETING_WITH_TLS: &[u8] = b"\x0a8.0.36\0\x01\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf\x15\
    \0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0caching_sha2_password\0";
const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];
/// AuthMoreData: the password itself is wanted.
const FULL: &[u8] = &[1, 4];

#[tokio::test]
async fn a_password_travels_sealed_where_there_is_no_tls() {
    let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let (mut channel, mut server) = pair().await;
    let login = login("ebb and flow");
    let serving = async {
        server.write_all(&frame(0, GREETING)).await.unwrap();
        let response = read(&mut server).await;
        // 32 bytes of scramble, and what it is for.
        assert!(contains(&response, b"app\0\x20") && contains(&response, b"caching_sha2_password"));
        assert!(!contains(&response, b"ebb and flow"));
        server.write_all(&frame(2, FULL)).await.unwrap();
        assert_eq!(read(&mut server).await, [2]);
        let answer = [&[1], pem(&key).as_bytes()].concat();
        server.write_all(&frame(4, &answer)).await.unwrap();
        let sealed = read(&mut server).await;
        server.write_all(&frame(6, OK)).await.unwrap();
        open(key, &sealed)
    };
    let loading = async {
        let greeting = greeting(&mut channel).await.unwrap();
        authenticate(&mut channel, &greeting, &login).await.unwrap();
    };
    let (opened, ()) = tokio::join!(serving, loading);
    assert_eq!(opened, b"ebb and flow\0");
}

#[tokio::test]
async fn a_key_that_is_none_and_a_plugin_that_wants_it_in_clear_are_refused() {
    let strange: [&[&[u8]]; 4] = [
        &[FULL, b"\x01-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"],
        &[FULL, b"\x02"],
        &[b"\xfemysql_clear_password\0"],
        &[b"\xfeauthentication_oci_client\0nonce\0"],
    ];
    for answers in strange {
        let (mut channel, mut server) = pair().await;
        let login = login("secret");
        let serving = async move {
            server.write_all(&frame(0, GREETING)).await.unwrap();
            for (round, answer) in answers.iter().enumerate() {
                read(&mut server).await;
                server.write_all(&frame(2 + 2 * round as u8, answer)).await.unwrap();
                // What is not answered is answered wrongly: an end here would be an interruption.
                if answer[0] == 0xfe {
                    assert_eq!(read(&mut server).await, b"");
                }
            }
        };
        let loading = async {
            let greeting = greeting(&mut channel).await.unwrap();
            let error = authenticate(&mut channel, &greeting, &login).await.unwrap_err();
            give_up(&mut channel, &greeting, &error).await;
            error
        };
        let ((), error) = tokio::join!(serving, loading);
        let refused =
            matches!(error, Problem::Malformed(_) | Problem::InClear | Problem::Plugin(_));
        assert!(refused, "{answers:?}: {error}");
    }
}

/// Inside TLS a plugin that wants the password as it is gets it only if somebody has looked whose
/// server it is.
#[tokio::test]
async fn a_password_in_clear_is_for_a_server_that_was_looked_at() {
    for is_verified in [false, true] {
        let (mut channel, server) = pair().await;
        let login = login("ebb and flow");
        let serving = async {
            let (mut server, acceptor) = (server, acceptor());
            server.write_all(&frame(0, GREETING_WITH_TLS)).await.unwrap();
            read(&mut server).await;
            let mut server = acceptor.accept(server).await.unwrap();
            let response = read(&mut server).await;
            assert!(!contains(&response, b"ebb and flow"));
            server.write_all(&frame(3, b"\xfemysql_clear_password\0")).await.unwrap();
            let mut said = Vec::new();
            let mut answer = [0; 64];
            if let Ok(length @ 1..) = server.read(&mut answer).await {
                said.extend_from_slice(&answer[..length]);
                server.write_all(&frame(5, OK)).await.unwrap();
            }
            contains(&said, b"ebb and flow\0")
        };
        let loading = async {
            let greeting = greeting(&mut channel).await.unwrap();
            assert!(greeting.offers_tls());
            ask_for_tls(&mut channel, &greeting, &login).await.unwrap();
            let mut channel = channel.secure(&whoever(is_verified)).await.unwrap();
            authenticate(&mut channel, &greeting, &login).await
        };
        let (was_told, result) = tokio::join!(serving, loading);
        assert_eq!(was_told, is_verified);
        match is_verified {
            true => drop(result.unwrap()),
            false => assert!(matches!(result, Err(Problem::Unverified)), "{result:?}"),
        }
    }
}

#[tokio::test]
async fn leaving_is_a_login_that_fails_whatever_is_asked_in_between() {
    let (mut channel, mut server) = pair().await;
    let serving = async {
        server.write_all(&frame(0, GREETING)).await.unwrap();
        let response = read(&mut server).await;
        assert!(contains(&response, b"tidegate-took-leave\0\0caching_sha2_password\0"));
        server.write_all(&frame(2, b"\xfesha256_password\0nonce\0")).await.unwrap();
        assert_eq!(read(&mut server).await, b"");
        server.write_all(&frame(4, b"\xff\x15\x04#28000Access denied")).await.unwrap();
    };
    let leaving = async {
        let greeting = greeting(&mut channel).await.unwrap();
        assert_eq!((greeting.version.as_str(), greeting.offers_tls()), ("8.0.36", false));
        take_leave(&mut channel, &greeting).await.unwrap();
    };
    tokio::join!(serving, leaving);
}

#[test]
fn a_password_is_not_shown() {
    assert!(!format!("{:?}", login("secret")).contains("secret"));
}

/// Takes any certificate, and says that it has looked at it or that it has not.
fn whoever(is_verified: bool) -> Connector {
    let name = server_name("db.test").unwrap();
    Connector { is_verified, ..connector(UpstreamTls::Required, None, name).unwrap().unwrap() }
}

fn acceptor() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["db.test".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

fn login(password: &str) -> Login {
    Login { user: "app".into(), password: password.into(), database: None, program: "test" }
}

#[expect(clippy::disallowed_methods, reason = "loopback")]
async fn pair() -> (Channel, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (Channel::new(client), listener.accept().await.unwrap().0)
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).await.unwrap();
    let mut payload = vec![0; payload_length(&header)];
    stream.read_exact(&mut payload).await.unwrap();
    payload
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The public half, as servers send it.
fn pem(key: &PrivateDecryptingKey) -> String {
    let der = AsDer::<PublicKeyX509Der<'_>>::as_der(&key.public_key()).unwrap();
    let text = STANDARD.encode(der.as_ref());
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

/// What was sealed, without the nonce.
fn open(key: PrivateDecryptingKey, sealed: &[u8]) -> Vec<u8> {
    let key = OaepPrivateDecryptingKey::new(key).unwrap();
    let mut plain = vec![0; key.min_output_size()];
    let plain = key.decrypt(&OAEP_SHA1_MGF1SHA1, sealed, &mut plain, None).unwrap();
    plain.iter().zip(NONCE.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
}
