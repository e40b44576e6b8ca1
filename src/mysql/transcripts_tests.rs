//! The packet code on what real servers and a real client said to each other: the bytes are kept in
//! `tests/compat/transcripts/`, whose README says how they are recorded.

use std::fs;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::auth::{Exchange, Leg, Step};
use super::client::Farewells;
use super::handshake::{Greeting, ServerKind, answer_sequence};
use super::packet::{ErrorCode, HEADER_LEN, err_greeting, payload_length};
use super::response::{Response, is_compressed, is_protocol_41, is_ssl_request, set_tls};
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
            "full_login",
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
            assert_eq!(answer_sequence(&login, login.len()), Some(2), "{server} {name}");
            for cut in 0..login.len() {
                assert_eq!(
                    answer_sequence(&login[..cut], cut),
                    None,
                    "{server} {name}, cut at {cut}"
                );
            }
        }
    }
}

#[test]
fn the_start_of_tls_is_never_answered_in_plain_text() {
    for (server, ..) in SERVERS {
        let request = transcript(server, "tls").remove(1).bytes;
        for cut in 0..=request.len() {
            assert_eq!(answer_sequence(&request[..cut], cut), None, "{server}, cut at {cut}");
        }
    }
}

#[test]
fn a_login_tells_its_method_its_proof_and_whether_it_asks_for_tls_or_compression() {
    for (server, _, _, plugin) in SERVERS {
        for (name, compresses) in [("login", false), ("compression", true)] {
            let turns = transcript(server, name);
            let greeting = Greeting::parse(&turns[0].bytes[HEADER_LEN..]).unwrap();
            let login = &turns[1].bytes[HEADER_LEN..];
            let response = Response::parse(login).expect("a log-in");
            assert_eq!(response.plugin, plugin.as_bytes(), "{server} {name}");
            assert_eq!(response.auth.len(), proof_of(plugin), "{server} {name}");
            assert_eq!(is_compressed(login, &greeting), compresses, "{server} {name}");
            assert!(is_protocol_41(login) && !is_ssl_request(login), "{server} {name}");
            for cut in 0..login.len() {
                // Nothing but the plugin's name and what is behind it may be missing.
                let part = Response::parse(&login[..cut]);
                assert!(part.is_none_or(|part| part.auth == response.auth), "{server}, {cut}");
            }
        }
        let mut request = transcript(server, "tls").remove(1).bytes.split_off(HEADER_LEN);
        request.truncate(32);
        assert!(is_ssl_request(&request), "{server}");
        set_tls(&mut request, false);
        assert!(!is_ssl_request(&request), "{server}");
    }
}

#[test]
fn a_change_of_user_tells_its_method_and_its_proof() {
    for (server, _, _, plugin) in SERVERS {
        let turns = transcript(server, "change_user");
        let commands = turns.iter().filter(|turn| turn.bytes[HEADER_LEN..].first() == Some(&0x11));
        let mut count = 0;
        for command in commands {
            let change = Response::parse_change_user(&command.bytes[HEADER_LEN..]).unwrap();
            assert_eq!(change.plugin, plugin.as_bytes(), "{server}");
            assert_eq!(change.auth.len(), proof_of(plugin), "{server}");
            count += 1;
        }
        assert_eq!(count, 2, "{server}");
    }
}

/// Between connections that are alike nothing is changed; every log-in and change of user comes to its end.
#[test]
fn recorded_log_ins_pass_packet_by_packet() {
    let leg = Leg { is_tls: true, is_local: false };
    let mut sealed = 0;
    for (server, ..) in SERVERS {
        for name in ["full_login", "login", "wrong_password", "unknown_database", "change_user"] {
            let turns = transcript(server, name);
            let greeting = Greeting::parse(&turns[0].bytes[HEADER_LEN..]).unwrap();
            let mut exchange: Option<Exchange> = None;
            for turn in &turns[1..] {
                for packet in packets(&turn.bytes).0 {
                    let payload = packet[HEADER_LEN..].to_vec();
                    let step = match (&mut exchange, turn.is_server) {
                        (Some(exchange), true) => exchange.from_server(payload.clone()),
                        (Some(exchange), false) => exchange.from_client(payload.clone()),
                        // The rest of the session.
                        (None, true) => continue,
                        (None, false) => {
                            let response = match packet[3] {
                                1 => Response::parse(&payload),
                                _ if payload[0] == 0x11 => Response::parse_change_user(&payload),
                                _ => continue,
                            };
                            let begun = Exchange::new(leg, leg, &greeting, &response.unwrap());
                            exchange = Some(begun.unwrap());
                            continue;
                        }
                    };
                    sealed += usize::from(payload.len() == 256);
                    let is_over = turn.is_server && matches!(payload[0], 0x00 | 0xff);
                    let expected = match turn.is_server {
                        true if is_over => Step::Over(payload),
                        true => Step::ToClient(payload),
                        false => Step::ToUpstream(payload),
                    };
                    assert_eq!(step, Ok(expected), "{server} {name}");
                    if is_over {
                        exchange = None;
                    }
                }
            }
            assert!(exchange.is_none(), "{server} {name}: no end");
        }
    }
    // MySQL's: a log-in, one that fails, and two changes of user.
    assert_eq!(sealed, 4);
}

fn proof_of(plugin: &str) -> usize {
    if plugin == "caching_sha2_password" { 32 } else { 20 }
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
