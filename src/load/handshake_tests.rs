//! A server that speaks caching_sha2_password's long way, with a key of its own.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::channel::Channel;
use super::error::Problem;
use super::handshake::{authenticate, greeting};
use super::plan::Login;
use crate::mysql::packet::{HEADER_LEN, frame, payload_length};

const NONCE: &[u8; 20] = b"abcdefghijklmnopqrst";
const GREETING: &[u8] = b"\x0a8.0.36\0\x01\0\0\0abcdefgh\0\xff\xf7\xff\x02\0\xff\xdf\x15\
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
        let greeting = greeting(&mut channel, &login).await.unwrap();
        authenticate(&mut channel, greeting, &login).await.unwrap();
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
        let serving = async {
            server.write_all(&frame(0, GREETING)).await.unwrap();
            for (round, answer) in answers.iter().enumerate() {
                read(&mut server).await;
                server.write_all(&frame(2 + 2 * round as u8, answer)).await.unwrap();
            }
        };
        let loading = async {
            let greeting = greeting(&mut channel, &login).await.unwrap();
            authenticate(&mut channel, greeting, &login).await.unwrap_err()
        };
        let ((), error) = tokio::join!(serving, loading);
        let refused =
            matches!(error, Problem::Malformed(_) | Problem::InClear | Problem::Plugin(_));
        assert!(refused, "{answers:?}: {error}");
    }
}

fn login(password: &str) -> Login {
    Login { user: "app".into(), password: password.into(), database: None, tls: None }
}

#[expect(clippy::disallowed_methods, reason = "loopback")]
async fn pair() -> (Channel, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (Channel::new(client), listener.accept().await.unwrap().0)
}

async fn read(stream: &mut TcpStream) -> Vec<u8> {
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
