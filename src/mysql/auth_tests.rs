//! Log-ins across connections of which one is TLS, packet by packet.

use std::sync::{Arc, OnceLock};

use proptest::prelude::*;

use super::auth::{Exchange, FAST, Leg, Step, Unsafe};
use super::handshake::{Greeting, ServerKind};
use super::response::Response;
use super::rsa::{Key, seal};

const PLAIN: Leg = Leg { is_tls: false, is_local: false };
const TLS: Leg = Leg { is_tls: true, is_local: false };
const LOCAL: Leg = Leg { is_tls: false, is_local: true };
const LEGS: [Leg; 3] = [PLAIN, TLS, LOCAL];
const PASSWORD: &[u8] = b"secret\0";
const SHA2: &str = "caching_sha2_password";

/// Of a MySQL 9, with the nonce abcdefghijklmnopqrst.
fn greeting() -> Greeting {
    let payload = b"\x0a9.7.0\0\x01\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf\x15\
        \0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0caching_sha2_password\0";
    Greeting::parse(payload).unwrap()
}

const NONCE: &[u8] = b"abcdefghijklmnopqrst";

fn begin(client: Leg, upstream: Leg, plugin: &str, auth: &[u8]) -> Result<Exchange, Unsafe> {
    Exchange::new(client, upstream, &greeting(), &Response { plugin: plugin.as_bytes(), auth })
}

/// One whose server has asked for the password itself, and whose client was told so.
fn asked(client: Leg, upstream: Leg) -> Exchange {
    let mut exchange = begin(client, upstream, SHA2, &[1; 32]).unwrap();
    assert_eq!(exchange.from_server(vec![1, 4]), Ok(Step::ToClient(vec![1, 4])));
    exchange
}

fn key() -> Arc<Key> {
    static KEY: OnceLock<Arc<Key>> = OnceLock::new();
    KEY.get_or_init(|| Arc::new(Key::generate().unwrap())).clone()
}

fn switch(plugin: &str, nonce: &[u8]) -> Vec<u8> {
    [b"\xfe", plugin.as_bytes(), b"\0", nonce, b"\0"].concat()
}

#[test]
fn the_nonce_of_a_greeting_is_whole() {
    assert_eq!(greeting().nonce, NONCE);
}

#[test]
fn where_both_connections_are_alike_everything_passes() {
    for leg in [PLAIN, TLS] {
        let mut exchange = asked(leg, leg);
        assert_eq!(exchange.from_client(vec![2]), Ok(Step::ToUpstream(vec![2])));
        let key = b"\x01-----BEGIN PUBLIC KEY-----".to_vec();
        assert_eq!(exchange.from_server(key.clone()), Ok(Step::ToClient(key)));
        assert_eq!(exchange.from_client(vec![9; 256]), Ok(Step::ToUpstream(vec![9; 256])));
        assert_eq!(exchange.from_server(vec![0, 0]), Ok(Step::Over(vec![0, 0])));
    }
}

#[test]
fn a_proof_that_is_enough_passes_everywhere() {
    for (client, upstream) in LEGS.iter().flat_map(|one| LEGS.iter().map(move |other| (one, other)))
    {
        let mut exchange = begin(*client, *upstream, SHA2, &[1; 32]).unwrap();
        assert_eq!(exchange.from_server(FAST.to_vec()), Ok(Step::ToClient(FAST.to_vec())));
        assert_eq!(exchange.from_server(vec![0]), Ok(Step::Over(vec![0])));
    }
}

#[test]
fn a_password_from_inside_tls_is_sealed_for_a_server_outside() {
    let mut exchange = asked(TLS, PLAIN);
    assert_eq!(exchange.from_client(PASSWORD.to_vec()), Ok(Step::ToUpstream(vec![2])));
    let shown = [b"\x01", key().public.as_bytes()].concat();
    let Ok(Step::ToUpstream(sealed)) = exchange.from_server(shown) else { panic!("it is sealed") };
    assert_eq!(key().open(&sealed, NONCE).unwrap(), PASSWORD);
    let refusal = b"\xff\x15\x04no".to_vec();
    assert_eq!(exchange.from_server(refusal.clone()), Ok(Step::Over(refusal)));
}

#[test]
fn a_server_that_shows_no_key_or_none_that_works_gets_no_password() {
    let mut exchange = asked(TLS, PLAIN);
    exchange.from_client(PASSWORD.to_vec()).unwrap();
    assert_eq!(exchange.from_server(b"\x01no key".to_vec()), Err(Unsafe::BadKey));
    let mut exchange = asked(TLS, PLAIN);
    exchange.from_client(PASSWORD.to_vec()).unwrap();
    assert_eq!(exchange.from_server(vec![0xff, 1, 2]), Ok(Step::Over(vec![0xff, 1, 2])));
    let mut exchange = asked(TLS, PLAIN);
    exchange.from_client(PASSWORD.to_vec()).unwrap();
    assert_eq!(exchange.from_client(b"more\0".to_vec()), Err(Unsafe::BadKey));
}

#[test]
fn a_password_that_was_sealed_for_the_bridge_is_opened_for_a_server_inside_tls() {
    let mut exchange = asked(PLAIN, TLS);
    assert_eq!(exchange.from_client(vec![2]), Ok(Step::NeedKey));
    let Ok(Step::ToClient(shown)) = exchange.has_key(key()) else { panic!("it is shown the key") };
    let sealed = seal(PASSWORD, NONCE, &shown[1..]).unwrap();
    assert_eq!(
        (shown[0], exchange.from_client(sealed)),
        (1, Ok(Step::ToUpstream(PASSWORD.to_vec())))
    );
    let mut exchange = asked(PLAIN, TLS);
    exchange.from_client(vec![2]).unwrap();
    exchange.has_key(key()).unwrap();
    assert_eq!(exchange.from_client(vec![9; 256]), Err(Unsafe::NotSealed));
}

/// As mysql_async does when it changes users: it has asked on the same connection before.
#[test]
fn a_client_that_knows_the_bridges_key_need_not_ask_for_it() {
    for client in [PLAIN, LOCAL] {
        let sealed = seal(PASSWORD, NONCE, key().public.as_bytes()).unwrap();
        let mut exchange = asked(client, TLS);
        assert_eq!(exchange.from_client(sealed), Ok(Step::NeedKey));
        assert_eq!(exchange.has_key(key()), Ok(Step::ToUpstream(PASSWORD.to_vec())));
        let mut exchange = asked(client, TLS);
        assert_eq!(exchange.from_client(vec![9; 256]), Ok(Step::NeedKey));
        assert_eq!(exchange.has_key(key()), Err(Unsafe::NotSealed));
    }
}

#[test]
fn a_password_that_is_not_sealed_passes_only_from_the_same_host() {
    let mut exchange = asked(PLAIN, TLS);
    assert_eq!(exchange.from_client(PASSWORD.to_vec()), Err(Unsafe::NotSealed));
    let mut exchange = asked(LOCAL, TLS);
    let passed = Step::ToUpstream(PASSWORD.to_vec());
    assert_eq!(exchange.from_client(PASSWORD.to_vec()), Ok(passed));
}

#[test]
fn tidb_is_not_sent_a_password_in_clear() {
    let greeting = Greeting { kind: ServerKind::TiDb, ..greeting() };
    let response = Response { plugin: SHA2.as_bytes(), auth: &[1; 32] };
    let mut exchange = Exchange::new(TLS, PLAIN, &greeting, &response).unwrap();
    assert_eq!(exchange.from_server(vec![1, 4]), Err(Unsafe::TiDbInClear));
    let mut exchange = Exchange::new(PLAIN, TLS, &greeting, &response).unwrap();
    assert_eq!(exchange.from_server(vec![1, 4]), Ok(Step::ToClient(vec![1, 4])));
}

#[test]
fn a_method_in_clear_wants_both_connections_private() {
    for plugin in ["mysql_clear_password", "dialog", "tidb_auth_token"] {
        for client in LEGS {
            for upstream in LEGS {
                let is_safe = client != PLAIN && upstream != PLAIN;
                let case = format!("{plugin}, {client:?}, {upstream:?}");
                let first = begin(client, upstream, plugin, PASSWORD).map(drop);
                assert_eq!(first, if is_safe { Ok(()) } else { Err(Unsafe::InClear) }, "{case}");
                let mut exchange = begin(client, upstream, SHA2, &[1; 32]).unwrap();
                let asks = switch(plugin, b"");
                let step = exchange.from_server(asks.clone());
                let passes = Ok(Step::ToClient(asks));
                assert_eq!(step, if is_safe { passes } else { Err(Unsafe::InClear) }, "{case}");
            }
        }
    }
}

#[test]
fn a_method_that_the_client_has_named_without_a_proof_is_looked_at_when_the_server_asks_by_it() {
    // As a MariaDB asks whose account is the client's own `--default-auth=dialog`; its kinds of questions.
    let mariadb = Greeting { kind: ServerKind::MariaDb, ..greeting() };
    for plugin in ["dialog", "mysql_clear_password", "one_that_is_not_known"] {
        for question in
            [&b"\x02Name: "[..], b"\x03Word: ", b"\x04Word: ", b"\x05Word: ", b"\x01\x04Word"]
        {
            for (client, upstream, is_safe) in [
                (TLS, PLAIN, false),
                (TLS, TLS, true),
                (TLS, LOCAL, true),
                (LOCAL, TLS, true),
                (PLAIN, TLS, plugin == "one_that_is_not_known"),
            ] {
                let response = Response { plugin: plugin.as_bytes(), auth: b"" };
                let mut exchange = Exchange::new(client, upstream, &mariadb, &response).unwrap();
                let step = exchange.from_server(question.to_vec());
                let passes = Ok(Step::ToClient(question.to_vec()));
                let expected = if is_safe { passes } else { Err(Unsafe::InClear) };
                assert_eq!(step, expected, "{plugin}, {client:?}, {upstream:?}, {question:?}");
            }
        }
    }
}

#[test]
fn a_question_of_mariadbs_dialog_is_no_next_factor() {
    let mariadb = Greeting { kind: ServerKind::MariaDb, ..greeting() };
    let response = Response { plugin: b"dialog", auth: b"" };
    let mut exchange = Exchange::new(TLS, PLAIN, &mariadb, &response).unwrap();
    let asks = b"\x02mysql_native_password\0".to_vec();
    assert_eq!(exchange.from_server(asks.clone()), Err(Unsafe::InClear));
    // Of MySQL it is one, and the method is looked at.
    let mut exchange = begin(TLS, PLAIN, "dialog", b"").unwrap();
    assert_eq!(exchange.from_server(asks.clone()), Ok(Step::ToClient(asks)));
    let mut exchange = begin(TLS, PLAIN, SHA2, &[1; 32]).unwrap();
    let clear = b"\x02mysql_clear_password\0".to_vec();
    assert_eq!(exchange.from_server(clear), Err(Unsafe::InClear));
}

#[test]
fn a_nonce_for_the_clients_own_sha256_password_asks_for_the_password() {
    let mut exchange = begin(TLS, PLAIN, "sha256_password", b"").unwrap();
    assert_eq!(exchange.from_server(NONCE.to_vec()), Ok(Step::ToClient(NONCE.to_vec())));
    assert_eq!(exchange.from_client(PASSWORD.to_vec()), Ok(Step::ToUpstream(vec![1])));
}

#[test]
fn after_a_switch_the_nonce_is_the_new_one() {
    let mut exchange = begin(TLS, PLAIN, "mysql_native_password", &[1; 20]).unwrap();
    let asks = switch(SHA2, b"ABCDEFGHIJKLMNOPQRST");
    assert_eq!(exchange.from_server(asks.clone()), Ok(Step::ToClient(asks)));
    assert_eq!(exchange.from_client(vec![1; 32]), Ok(Step::ToUpstream(vec![1; 32])));
    exchange.from_server(vec![1, 4]).unwrap();
    exchange.from_client(PASSWORD.to_vec()).unwrap();
    let shown = [b"\x01", key().public.as_bytes()].concat();
    let Ok(Step::ToUpstream(sealed)) = exchange.from_server(shown) else { panic!("it is sealed") };
    assert_eq!(key().open(&sealed, b"ABCDEFGHIJKLMNOPQRST").unwrap(), PASSWORD);
}

#[test]
fn sha256_password_asks_for_the_password_by_the_switch() {
    let mut exchange = begin(TLS, PLAIN, SHA2, &[1; 32]).unwrap();
    exchange.from_server(switch("sha256_password", NONCE)).unwrap();
    assert_eq!(exchange.from_client(PASSWORD.to_vec()), Ok(Step::ToUpstream(vec![1])));
    let mut exchange = begin(PLAIN, TLS, SHA2, &[1; 32]).unwrap();
    exchange.from_server(switch("sha256_password", NONCE)).unwrap();
    assert_eq!(exchange.from_client(vec![1]), Ok(Step::NeedKey));
    assert_eq!(begin(TLS, PLAIN, "sha256_password", PASSWORD).map(drop), Err(Unsafe::Sha256));
}

#[test]
fn no_password_is_nothing_to_seal() {
    for (client, upstream) in [(TLS, PLAIN), (PLAIN, TLS)] {
        let mut exchange = asked(client, upstream);
        assert_eq!(exchange.from_client(vec![0]), Ok(Step::ToUpstream(vec![0])));
    }
}

#[test]
fn the_form_of_mysql_4_0_is_refused() {
    let mut exchange = begin(TLS, TLS, SHA2, &[1; 32]).unwrap();
    assert_eq!(exchange.from_server(vec![0xfe]), Err(Unsafe::OldPassword));
}

proptest! {
    /// A password in clear never leaves for a server outside TLS, whatever the two say.
    #[test]
    fn whatever_is_said_nothing_panics_and_no_password_leaves_in_clear(
        words in proptest::collection::vec(
            (any::<bool>(), prop_oneof![
                Just(vec![1, 4]), Just(vec![2]), Just(vec![1]), Just(vec![0xfe]), Just(PASSWORD.to_vec()),
                Just(b"\x04Password: ".to_vec()),
                Just(switch(SHA2, NONCE)), Just(switch("sha256_password", NONCE)),
                Just(switch("mysql_clear_password", b"")), Just(switch("mysql_native_password", NONCE)),
                Just([b"\x01", key().public.as_bytes()].concat()),
                proptest::collection::vec(any::<u8>(), 0..40),
            ]),
            0..12,
        ),
    ) {
        let mut exchange = begin(TLS, PLAIN, SHA2, &[1; 32]).unwrap();
        let (mut plugin, mut is_asked) = (SHA2.as_bytes().to_vec(), false);
        for (is_server, said) in words {
            let step = match is_server {
                true => exchange.from_server(said),
                false => exchange.from_client(said),
            };
            match step {
                Err(_) | Ok(Step::Over(_)) => break,
                Ok(Step::ToClient(heard)) => {
                    if let [0xfe, name @ ..] = heard.as_slice() {
                        plugin = name.split(|byte| *byte == 0).next().unwrap().to_vec();
                        prop_assert!(plugin != b"mysql_clear_password");
                    }
                    // Of another method's words it would make nothing.
                    is_asked = heard == [1, 4] && plugin == SHA2.as_bytes()
                        || heard.first() == Some(&0xfe) && plugin == b"sha256_password";
                }
                Ok(Step::ToUpstream(sent)) => {
                    prop_assert!(!is_asked || sent != PASSWORD);
                    is_asked &= is_server;
                }
                Ok(Step::NeedKey) => prop_assert!(false, "the client is inside TLS"),
            }
        }
    }
}
