//! Logging in as a client: what is answered to a greeting, and how one that was answered nothing is
//! left.
//!
//! Packets and passwords are those of the drivers `mysql` and `mysql_async`: their crate mysql_common
//! reads and writes them. A password itself is sent only inside TLS, or sealed for the server's key;
//! to a plugin that wants it as it is only where somebody has looked whose server it is.

use std::collections::HashMap;
use std::fmt;

use mysql_common::constants::CapabilityFlags;
use mysql_common::io::ParseBuf;
use mysql_common::packets::{
    AuthPlugin, AuthSwitchRequest, CommonOkPacket, HandshakePacket, HandshakeResponse, SslRequest,
};
use mysql_common::proto::MySerialize;
use tokio::time::timeout;

use super::channel::{Channel, Raw, refusal};
use super::client::FOR_A_REFUSAL;
use super::error::Problem;
use super::handshake::{self, ServerKind, wrong_answer};
use super::packet::HEADER_LEN;
use super::rsa::seal;
use crate::show::table::harmless;

/// What is announced as the longest packet: as the drivers do.
const MAX_PACKET: u32 = 16 * 1024 * 1024;
/// utf8mb4_general_ci, which every server knows.
const COLLATION: u8 = 45;
/// A version of those that know it: for the driver's crate, which sends another to older ones.
const KNOWS_UTF8MB4: (u16, u16, u16) = (5, 5, 3);
/// What MariaDB puts before its version, for replicas that would take it for too old.
const FOR_OLD_REPLICAS: &str = "5.5.5-";
/// Packets that a server may send until it has decided.
const ROUNDS: usize = 8;
/// caching_sha2_password: the first answer was enough.
const FAST: u8 = 3;
/// caching_sha2_password: the password itself is wanted.
const FULL: u8 = 4;
/// caching_sha2_password: asks for the server's key.
const KEY_REQUEST: u8 = 2;
const COM_QUIT: u8 = 1;

/// A user, and what is said beside it.
#[derive(Clone)]
pub struct Login {
    /// Name; a TiDB Cloud user has a prefix.
    pub user: String,
    /// Password; empty: none.
    pub password: String,
    /// Database to begin in.
    pub database: Option<String>,
    /// What the server lists as the client's program.
    pub program: &'static str,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, password: _, database, program: _ } = self;
        f.debug_struct("Login")
            .field("user", user)
            .field("password", &"****")
            .field("database", database)
            .finish()
    }
}

/// What a greeting says.
#[derive(Debug)]
pub struct Greeting {
    /// The server's version, fit to be shown.
    pub version: String,
    /// The plugin that it would rather authenticate by, fit to be shown.
    pub plugin: String,
    known: handshake::Greeting,
    preferred: Option<AuthPlugin<'static>>,
    nonce: Vec<u8>,
    offered: CapabilityFlags,
}

impl Greeting {
    /// Whose server it is.
    pub fn kind(&self) -> ServerKind {
        self.known.kind
    }

    /// Whether the server can do TLS.
    pub fn offers_tls(&self) -> bool {
        self.known.offers_tls()
    }

    /// What both sides can do.
    fn agreed(&self, login: &Login, is_tls: bool) -> CapabilityFlags {
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
        wanted.set(CapabilityFlags::CLIENT_SSL, is_tls);
        wanted.set(CapabilityFlags::CLIENT_CONNECT_WITH_DB, login.database.is_some());
        wanted & self.offered
    }
}

/// Reads it.
pub async fn greeting(channel: &mut Channel) -> Result<Greeting, Problem> {
    let next = channel.next().await?;
    let ours = channel.capabilities;
    let payload = channel.keep(next).await?;
    match next.first {
        0xff => return Err(refusal(payload, ours)),
        10 => {}
        _ => return Err(Problem::Malformed("it does not begin with a greeting of version 10")),
    }
    let packet = ParseBuf(payload).parse::<HandshakePacket<'_>>(()).ok();
    let (packet, known) = packet
        .zip(handshake::Greeting::parse(payload))
        .ok_or(Problem::Malformed("the greeting cannot be read"))?;
    let version = harmless(&packet.server_version_str());
    Ok(Greeting {
        version: version.strip_prefix(FOR_OLD_REPLICAS).unwrap_or(&version).to_owned(),
        plugin: harmless(&String::from_utf8_lossy(&known.plugin)),
        // Nobody is given a password before it has asked for it.
        preferred: supported(packet.auth_plugin())
            .filter(|plugin| *plugin != AuthPlugin::MysqlClearPassword),
        nonce: packet.nonce(),
        offered: packet.capabilities(),
        known,
    })
}

/// Asks for TLS; the handshake follows.
pub async fn ask_for_tls(
    channel: &mut Channel,
    greeting: &Greeting,
    login: &Login,
) -> Result<(), Problem> {
    let agreed = greeting.agreed(login, true);
    channel.capabilities = agreed;
    channel.send(&SslRequest::new(agreed, MAX_PACKET, COLLATION)).await
}

/// Logs in, and tells by which plugin. What fails by our own fault has to be [given up](give_up).
pub async fn authenticate(
    channel: &mut Channel,
    greeting: &Greeting,
    login: &Login,
) -> Result<AuthPlugin<'static>, Problem> {
    let capabilities = greeting.agreed(login, channel.is_secure());
    channel.capabilities = capabilities;
    let mut nonce = greeting.nonce.clone();
    let mut plugin = greeting.preferred.clone().unwrap_or(AuthPlugin::MysqlNativePassword);
    let name = ("program_name".to_owned(), login.program.to_owned());
    let attributes = capabilities.contains(CapabilityFlags::CLIENT_CONNECT_ATTRS);
    let response = HandshakeResponse::new(
        scramble(&plugin, login, &nonce, channel)?,
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
            0x00 | 0xff => return channel.ok::<CommonOkPacket>(next).await.map(|_| plugin),
            0xfe => {
                let payload = channel.keep(next).await?;
                let switch = ParseBuf(payload).parse::<AuthSwitchRequest<'_>>(());
                let switch = switch.map_err(|_| Problem::Plugin("mysql_old_password".into()))?;
                let wanted = switch.auth_plugin().into_owned();
                nonce = switch.plugin_data().to_vec();
                plugin = supported(Some(wanted.borrow())).ok_or_else(|| {
                    Problem::Plugin(harmless(&String::from_utf8_lossy(wanted.as_bytes())))
                })?;
                let answer = scramble(&plugin, login, &nonce, channel)?;
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

/// Ends a log-in that has failed for want of an answer to the server's last question: a plugin that is
/// not spoken, a password that would be in clear. For other problems there is nothing to end.
///
/// A wrong answer makes it a log-in that fails; one that is merely closed is an interrupted handshake,
/// for which MySQL and MariaDB block the host. It counts against the account, as a wrong password
/// does.
pub async fn give_up(channel: &mut Channel, greeting: &Greeting, problem: &Problem) {
    let is_ours = matches!(problem, Problem::Plugin(_) | Problem::InClear | Problem::Unverified);
    if !is_ours || greeting.kind() == ServerKind::TiDb {
        return;
    }
    let refused = async {
        let answer = wrong_answer(channel.kept());
        channel.send(&Raw(answer)).await?;
        until_refused(channel).await
    };
    // Nothing is left to do for a server that does not refuse.
    let _ = timeout(FOR_A_REFUSAL, refused).await;
}

/// Ends a connection whose server has greeted, and was told nothing or has agreed on TLS.
///
/// As [`super::client::Farewells`]: a log-in that fails, so that it is not counted as an interrupted
/// handshake; to TiDB a mere close. A server that does not refuse it in time is left as it is.
///
/// # Errors
///
/// The connection had broken before; with TLS 1.3 a server says only then that it does not like the
/// client's certificate.
pub async fn take_leave(channel: &mut Channel, greeting: &Greeting) -> Result<(), Problem> {
    match greeting.kind() {
        ServerKind::TiDb => Ok(()),
        _ => timeout(FOR_A_REFUSAL, failing_login(channel, greeting)).await.unwrap_or(Ok(())),
    }
}

async fn failing_login(channel: &mut Channel, greeting: &Greeting) -> Result<(), Problem> {
    match channel.is_secure() {
        true => {
            let agreed = channel.capabilities.bits();
            channel.send(&Raw(&greeting.known.failing_response(agreed))).await?;
        }
        false => channel.send(&Raw(&greeting.known.failing_login()[HEADER_LEN..])).await?,
    }
    until_refused(channel).await
}

/// Answers wrongly to whatever the server asks, until it refuses.
async fn until_refused(channel: &mut Channel) -> Result<(), Problem> {
    for _ in 0..ROUNDS {
        let next = channel.next().await?;
        match next.first {
            // AuthSwitchRequest, or a plugin that wants to know more.
            0xfe | 0x01 => {
                let answer = wrong_answer(channel.keep(next).await?);
                channel.send(&Raw(answer)).await?;
            }
            // Somebody gave the world a password-less account.
            0x00 => {
                channel.keep(next).await?;
                return channel.command(COM_QUIT, &[]).await;
            }
            _ => break,
        }
    }
    Ok(())
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
    channel: &Channel,
) -> Result<Option<Vec<u8>>, Problem> {
    if *plugin == AuthPlugin::MysqlClearPassword {
        match () {
            () if !channel.is_secure() => return Err(Problem::InClear),
            () if !channel.is_verified() => return Err(Problem::Unverified),
            () => {}
        }
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
