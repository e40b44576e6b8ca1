//! The reading of a client's answer beside the driver crate's, and on whatever bytes.

use std::collections::HashMap;

use mysql_common::constants::CapabilityFlags;
use mysql_common::io::ParseBuf;
use mysql_common::packets::{AuthPlugin, HandshakeResponse};
use mysql_common::proto::MySerialize;
use proptest::prelude::*;

use super::handshake::{Greeting, offer_tls};
use super::response::{HEAD_LEN, Response, is_protocol_41, is_ssl_request, set_tls};

fn plugins() -> impl Strategy<Value = AuthPlugin<'static>> {
    let other = "[a-z_0-9]{1,40}".prop_map(|name| AuthPlugin::Other(name.into_bytes().into()));
    prop_oneof![
        Just(AuthPlugin::MysqlNativePassword),
        Just(AuthPlugin::CachingSha2Password),
        Just(AuthPlugin::Ed25519),
        Just(AuthPlugin::MysqlClearPassword),
        other,
    ]
}

proptest! {
    #[test]
    fn an_answer_that_the_drivers_crate_writes_is_read_as_it_reads_it(
        user in "[a-zA-Z0-9._-]{0,40}",
        auth in proptest::option::of(proptest::collection::vec(1..=255_u8, 0..255)),
        database in proptest::option::of("[a-z]{1,30}"),
        plugin in proptest::option::of(plugins()),
        attributes in proptest::option::of(
            proptest::collection::hash_map("[a-z_]{1,12}", "[ -~]{0,300}", 0..4)
        ),
        length_encoded: bool,
    ) {
        let mut capabilities = CapabilityFlags::CLIENT_PROTOCOL_41
            | CapabilityFlags::CLIENT_SECURE_CONNECTION
            | CapabilityFlags::CLIENT_SSL;
        let mut add = |is_there, flag| if is_there { capabilities |= flag };
        add(database.is_some(), CapabilityFlags::CLIENT_CONNECT_WITH_DB);
        add(plugin.is_some(), CapabilityFlags::CLIENT_PLUGIN_AUTH);
        add(attributes.is_some(), CapabilityFlags::CLIENT_CONNECT_ATTRS);
        add(length_encoded, CapabilityFlags::CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA);
        let written = HandshakeResponse::new(
            auth.as_deref(),
            (8, 0, 36),
            Some(user.as_bytes()),
            database.as_deref().map(str::as_bytes),
            plugin.clone(),
            capabilities,
            attributes.map(|all| all.into_iter().collect::<HashMap<_, _>>()),
            1 << 24,
        );
        let mut payload = Vec::new();
        written.serialize(&mut payload);
        let theirs = ParseBuf(&payload).parse::<HandshakeResponse<'_>>(()).unwrap();
        let ours = Response::parse(&payload).unwrap();
        prop_assert_eq!(ours.auth, theirs.scramble_buf());
        let named = theirs.auth_plugin().map(|plugin| plugin.as_bytes().to_vec());
        prop_assert_eq!(ours.plugin, named.as_deref().unwrap_or(b"mysql_native_password"));
        // The bit goes and comes, and nothing else with it.
        let mut changed = payload.clone();
        set_tls(&mut changed, false);
        prop_assert_eq!(changed[1], payload[1] & !0x08);
        set_tls(&mut changed, true);
        prop_assert_eq!(&changed, &payload);
        prop_assert!(is_ssl_request(&payload[..HEAD_LEN]) && !is_ssl_request(&payload));
        prop_assert!(is_protocol_41(&payload));
    }

    #[test]
    fn whatever_a_client_or_a_server_sends_nothing_panics_and_no_length_changes(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        capabilities: u32,
    ) {
        let mut answer = capabilities.to_le_bytes().to_vec();
        answer.extend(&bytes);
        for mut payload in [bytes, answer] {
            let length = payload.len();
            let _ = Response::parse(&payload);
            let _ = (is_ssl_request(&payload), is_protocol_41(&payload));
            set_tls(&mut payload, true);
            offer_tls(&mut payload, true);
            let _ = Greeting::parse(&payload);
            prop_assert_eq!(payload.len(), length);
        }
    }
}
