//! Logging in: what is answered to a greeting.

use std::collections::HashMap;

use mysql_common::constants::CapabilityFlags;
use mysql_common::io::ParseBuf;
use mysql_common::packets::{
    AuthPlugin, AuthSwitchRequest, CommonOkPacket, HandshakePacket, HandshakeResponse, SslRequest,
};
use mysql_common::proto::MySerialize;

use super::channel::{Channel, refusal};
use super::error::Problem;
use super::plan::Login;
use crate::mysql::rsa::seal;
use crate::show::table::harmless;

/// What is announced as the longest packet: as the drivers do.
const MAX_PACKET: u32 = 16 * 1024 * 1024;
/// utf8mb4_general_ci, which every server knows.
const COLLATION: u8 = 45;
/// A version of those that know it: for the driver's crate, which sends another to older ones.
const KNOWS_UTF8MB4: (u16, u16, u16) = (5, 5, 3);
/// Packets that a server may send until it has decided.
const ROUNDS: usize = 8;
/// caching_sha2_password: the first answer was enough.
const FAST: u8 = 3;
/// caching_sha2_password: the password itself is wanted.
const FULL: u8 = 4;
/// caching_sha2_password: asks for the server's key.
const KEY_REQUEST: u8 = 2;

/// What a greeting says.
#[derive(Debug)]
pub(super) struct Greeting {
    nonce: Vec<u8>,
    plugin: AuthPlugin<'static>,
    capabilities: CapabilityFlags,
}

/// Reads it, and finds what both sides can do.
pub(super) async fn greeting(channel: &mut Channel, login: &Login) -> Result<Greeting, Problem> {
    let next = channel.next().await?;
    let ours = channel.capabilities;
    let payload = channel.keep(next).await?;
    match next.first {
        0xff => return Err(refusal(payload, ours)),
        10 => {}
        _ => return Err(Problem::Malformed("it does not begin with a greeting of version 10")),
    }
    let packet = ParseBuf(payload).parse::<HandshakePacket<'_>>(());
    let packet = packet.map_err(|_| Problem::Malformed("the greeting cannot be read"))?;
    let mut wanted = CapabilityFlags::CLIENT_PROTOCOL_41
        | CapabilityFlags::CLIENT_LONG_PASSWORD
        | CapabilityFlags::CLIENT_SECURE_CONNECTION
        | CapabilityFlags::CLIENT_TRANSACTIONS
        | CapabilityFlags::CLIENT_MULTI_STATEMENTS
        | CapabilityFlags::CLIENT_MULTI_RESULTS
        | CapabilityFlags::CLIENT_PLUGIN_AUTH
        | CapabilityFlags::CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA
        | CapabilityFlags::CLIENT_CONNECT_ATTRS
        | CapabilityFlags::CLIENT_DEPRECATE_EOF;
    if login.tls.is_some() {
        if !packet.capabilities().contains(CapabilityFlags::CLIENT_SSL) {
            return Err(Problem::NoTls);
        }
        wanted |= CapabilityFlags::CLIENT_SSL;
    }
    if login.database.is_some() {
        wanted |= CapabilityFlags::CLIENT_CONNECT_WITH_DB;
    }
    let greeting = Greeting {
        plugin: supported(packet.auth_plugin()).unwrap_or(AuthPlugin::MysqlNativePassword),
        capabilities: wanted & packet.capabilities(),
        nonce: packet.nonce(),
    };
    channel.capabilities = greeting.capabilities;
    Ok(greeting)
}

/// Asks for TLS; the handshake follows.
pub(super) async fn ask_for_tls(channel: &mut Channel, greeting: &Greeting) -> Result<(), Problem> {
    channel.send(&SslRequest::new(greeting.capabilities, MAX_PACKET, COLLATION)).await
}

/// Logs in.
pub(super) async fn authenticate(
    channel: &mut Channel,
    greeting: Greeting,
    login: &Login,
) -> Result<(), Problem> {
    let Greeting { mut nonce, mut plugin, capabilities } = greeting;
    let name = ("program_name".to_owned(), "tidegate load".to_owned());
    let attributes = capabilities.contains(CapabilityFlags::CLIENT_CONNECT_ATTRS);
    let response = HandshakeResponse::new(
        scramble(&plugin, login, &nonce, channel.is_secure())?,
        KNOWS_UTF8MB4,
        Some(login.user.as_bytes()),
        login.database.as_deref().map(str::as_bytes),
        capabilities.contains(CapabilityFlags::CLIENT_PLUGIN_AUTH).then(|| plugin.clone()),
        capabilities,
        attributes.then(|| HashMap::from([name])),
        MAX_PACKET,
    );
    channel.send(&response).await?;
    for _ in 0..ROUNDS {
        let next = channel.next().await?;
        match next.first {
            0x00 | 0xff => return channel.ok::<CommonOkPacket>(next).await.map(drop),
            0xfe => {
                let payload = channel.keep(next).await?;
                let switch = ParseBuf(payload).parse::<AuthSwitchRequest<'_>>(());
                let switch = switch.map_err(|_| Problem::Plugin("mysql_old_password".into()))?;
                let wanted = switch.auth_plugin().into_owned();
                nonce = switch.plugin_data().to_vec();
                plugin = supported(Some(wanted.borrow())).ok_or_else(|| {
                    Problem::Plugin(harmless(&String::from_utf8_lossy(wanted.as_bytes())))
                })?;
                let answer = scramble(&plugin, login, &nonce, channel.is_secure())?;
                channel.send(&Raw(&answer.unwrap_or_default())).await?;
            }
            0x01 => {
                let more = channel.keep(next).await?.get(1).copied();
                match more {
                    Some(FAST) => {}
                    Some(FULL) => full(channel, login, &nonce).await?,
                    _ => return Err(Problem::Malformed("the authentication takes a strange turn")),
                }
            }
            _ => return Err(Problem::Malformed("neither OK nor ERR ends the authentication")),
        }
    }
    Err(Problem::Malformed("the authentication does not end"))
}

/// A plugin that [`scramble`] speaks.
fn supported(plugin: Option<AuthPlugin<'_>>) -> Option<AuthPlugin<'static>> {
    let spoken = |plugin: &AuthPlugin<'_>| {
        matches!(
            plugin,
            AuthPlugin::MysqlNativePassword
                | AuthPlugin::CachingSha2Password
                | AuthPlugin::MysqlClearPassword
        )
    };
    plugin.filter(spoken).map(AuthPlugin::into_owned)
}

/// The answer to a nonce; nothing for no password.
fn scramble(
    plugin: &AuthPlugin<'_>,
    login: &Login,
    nonce: &[u8],
    is_secure: bool,
) -> Result<Option<Vec<u8>>, Problem> {
    if *plugin == AuthPlugin::MysqlClearPassword && !is_secure {
        return Err(Problem::InClear);
    }
    Ok(plugin.gen_data(Some(&login.password), nonce).map(|data| {
        let mut bytes = Vec::new();
        data.serialize(&mut bytes);
        bytes
    }))
}

/// Sends the password itself: inside TLS as it is, else for the server's eyes only.
async fn full(channel: &mut Channel, login: &Login, nonce: &[u8]) -> Result<(), Problem> {
    let mut password = login.password.clone().into_bytes();
    password.push(0);
    if channel.is_secure() {
        return channel.send(&Raw(&password)).await;
    }
    channel.send(&Raw(&[KEY_REQUEST])).await?;
    let next = channel.next().await?;
    let capabilities = channel.capabilities;
    let payload = channel.keep(next).await?;
    let key = match payload {
        [0x01, key @ ..] => key,
        [0xff, ..] => {
            return Err(match refusal(payload, capabilities) {
                Problem::Refused(refusal) => Problem::NoKey(refusal),
                other => other,
            });
        }
        _ => return Err(Problem::Malformed("no public key where one was asked for")),
    };
    let sealed =
        seal(&password, nonce, key).ok_or(Problem::Malformed("the public key cannot be used"))?;
    channel.send(&Raw(&sealed)).await
}

/// A payload as it is.
struct Raw<'a>(&'a [u8]);

impl MySerialize for Raw<'_> {
    fn serialize(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0);
    }
}
