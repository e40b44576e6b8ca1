//! The packet code on what real servers and a real client said to each other: the bytes are kept in
//! `tests/compat/transcripts/`, whose README says how they are recorded.

use std::fs;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::client::Farewells;
use super::handshake::{Greeting, ServerKind, answer_sequence};
use super::packet::{ErrorCode, HEADER_LEN, err_greeting, payload_length};
use crate::drain::Drain;

const SERVERS: &[(&str, ServerKind, &str, &str)] = &[
    ("mariadb", ServerKind::MariaDb, "5.5.5-10.11.", "mysql_native_password"),
    ("mysql", ServerKind::MySql, "9.7.", "caching_sha2_password"),
    ("tidb", ServerKind::TiDb, "8.0.11-TiDB-v8.", "mysql_native_password"),
];

/// What one side said until the other one spoke.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Turn {
    is_server: bool,
    bytes: Vec<u8>,
}

fn transcript(server: &str, name: &str) -> Vec<Turn> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat/transcripts");
    let file = folder.join(server).join(name).with_extension("txt");
    let text = fs::read_to_string(&file).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
    let turns = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (side, digits) = line.split_once(' ').expect("a side and what it said");
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal");
        Turn { is_server: side == "S", bytes: (0..digits.len()).step_by(2).map(byte).collect() }
    });
    turns.collect()
}

fn greeting(server: &str) -> Vec<u8> {
    transcript(server, "login").remove(0).bytes
}

/// The packets that are whole, each with its header, and what is left.
fn packets(mut bytes: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut packets = Vec::new();
    while let Some(header) = bytes.first_chunk::<HEADER_LEN>() {
        let Some((packet, rest)) = bytes.split_at_checked(HEADER_LEN + payload_length(header))
        else {
            break;
        };
        packets.push(packet);
        bytes = rest;
    }
    (packets, bytes)
}

#[test]
fn every_turn_is_whole_packets_and_their_sequence_ids_go_on_from_the_other_sides() {
    for (server, ..) in SERVERS {
        for name in [
            "login",
            "wrong_password",
            "unknown_database",
            "query",
            "multi_result",
            "prepared",
            "change_user",
            "reset_connection",
            "local_infile",
            "too_many_connections",
        ] {
            let mut next = 0;
            for turn in transcript(server, name) {
                let (packets, rest) = packets(&turn.bytes);
                assert!(!packets.is_empty() && rest.is_empty(), "{server} {name}: {turn:?}");
                for packet in packets {
                    // A command starts again.
                    let is_command = !turn.is_server && packet[3] == 0;
                    assert!(packet[3] == next || is_command, "{server} {name}: {packet:?}");
                    next = packet[3].wrapping_add(1);
                }
            }
        }
    }
}

#[test]
fn packets_are_found_wherever_the_bytes_are_cut() {
    for (server, ..) in SERVERS {
        for turn in transcript(server, "multi_result") {
            let (all, _) = packets(&turn.bytes);
            for cut in 0..=turn.bytes.len() {
                let (first, rest) = packets(&turn.bytes[..cut]);
                let rest = [rest, &turn.bytes[cut..]].concat();
                assert_eq!([first, packets(&rest).0].concat(), all, "{server}, cut at {cut}");
            }
        }
    }
}

#[test]
fn a_greeting_tells_whose_it_is_and_the_plugin_and_no_part_of_it_does_so_wrongly() {
    for (server, kind, version, plugin) in SERVERS {
        let bytes = greeting(server);
        let payload = &bytes[HEADER_LEN..];
        assert!(payload[1..].starts_with(version.as_bytes()), "{server}");
        let whole = Greeting::parse(payload).expect("a greeting");
        assert_eq!(whole.kind, *kind);
        let login = whole.failing_login();
        assert!(login.ends_with(format!("\0{plugin}\0").as_bytes()), "{server}: {login:?}");
        for cut in 0..payload.len() {
            if let Some(part) = Greeting::parse(&payload[..cut]) {
                assert_eq!(part.kind, *kind, "{server}, cut at {cut}");
            }
        }
    }
}

#[test]
fn a_clients_login_is_answered_once_it_is_whole() {
    for (server, ..) in SERVERS {
        for name in ["login", "wrong_password", "compression"] {
            let login = transcript(server, name).remove(1).bytes;
            assert_eq!(answer_sequence(&login), Some(2), "{server} {name}");
            for cut in 0..login.len() {
                assert_eq!(answer_sequence(&login[..cut]), None, "{server} {name}, cut at {cut}");
            }
        }
    }
}

#[test]
fn the_start_of_tls_is_never_answered_in_plain_text() {
    for (server, ..) in SERVERS {
        let request = transcript(server, "tls").remove(1).bytes;
        for cut in 0..=request.len() {
            assert_eq!(answer_sequence(&request[..cut]), None, "{server}, cut at {cut}");
        }
    }
}

#[test]
fn an_error_in_place_of_a_greeting_is_as_servers_write_it() {
    for (server, ..) in SERVERS {
        let refusal = transcript(server, "too_many_connections").remove(0).bytes;
        assert_eq!(refusal, err_greeting(ErrorCode::TooMany, "Too many connections"), "{server}");
        assert_eq!(Greeting::parse(&refusal[HEADER_LEN..]), None, "{server}");
    }
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "loopback")]
async fn a_farewell_is_said_wherever_the_greeting_is_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let farewells = Farewells::new(Drain::new());
    // TiDB is left without a word.
    for (server, ..) in SERVERS.iter().filter(|(_, kind, ..)| *kind != ServerKind::TiDb) {
        let greeting = greeting(server);
        let refusal = transcript(server, "wrong_password").pop().unwrap().bytes;
        let expected = Greeting::parse(&greeting[HEADER_LEN..]).unwrap().failing_login();
        for cut in 0..=greeting.len() {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut accepted, _) = listener.accept().await.unwrap();
            let farewell = farewells.say(stream, greeting[..cut].to_vec());
            accepted.write_all(&greeting[cut..]).await.unwrap();
            let mut login = vec![0; expected.len()];
            accepted.read_exact(&mut login).await.unwrap();
            assert_eq!(login, expected, "{server}, cut at {cut}");
            accepted.write_all(&refusal).await.unwrap();
            farewell.await.unwrap();
        }
    }
}
