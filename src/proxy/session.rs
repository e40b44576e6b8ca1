//! The story of one connection: an upstream for it, then the relay, then its account.

use std::future::{pending, ready};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::io::Interest;

use super::Proxy;
use super::login::{Account, LoggedIn, change_user, log_in};
use super::outcome::Outcome;
use super::source::identify;
use crate::config::Protocol;
use crate::drain::Phase;
use crate::mysql::handshake::answer_sequence;
use crate::mysql::packet::{ErrorCode, err, err_greeting};
use crate::net::proxy_protocol::Addresses;
use crate::net::socket;
use crate::net::stream::Stream;
use crate::net::transport::Transport;
use crate::relay::{Change, Deadlines, Limits, Parting, Reason, Relay, Side};
use crate::tls::client::UpstreamLeg;
use crate::upstream::Endpoint;

/// What clients are told of a drain.
pub(super) const SHUTTING_DOWN: &str = "the bridge is shutting down";

/// Runs a session to its end. What it needs only before the relay is boxed and dropped then, so an
/// idle session is little more than its relay.
pub(super) fn run(outcome: Outcome, client: Stream) -> impl Future<Output = ()> + Send {
    let opened = Box::pin(open(outcome, client));
    async move {
        let Some(Opened { mut outcome, mut legs }) = opened.await else { return };
        loop {
            let account = legs.account.take();
            let mut relay = relay(&outcome, *legs, account.is_some());
            let reason = outcome.relayed((&mut relay).await);
            let next = Box::pin(go_on(&mut outcome, relay, reason, account)).await;
            let Some(next) = next else { return };
            legs = next;
        }
    }
}

/// A session with both its ends.
struct Opened {
    outcome: Outcome,
    legs: Box<Legs>,
}

/// What a relay is made of.
struct Legs {
    client: Transport,
    upstream: Transport,
    limits: Limits,
    /// Of a handshake that is still to come.
    deadlines: Option<Deadlines>,
    /// What a change of its user goes by.
    account: Option<Box<Account>>,
}

fn relay(outcome: &Outcome, legs: Legs, stops_before_a_change_of_user: bool) -> Relay {
    let Legs { client, upstream, limits, deadlines, .. } = legs;
    let has_logged_in = !matches!(outcome.proxy.upstream.leg(), UpstreamLeg::Passthrough);
    let proxy = &outcome.proxy;
    let relayed = proxy.metrics.relayed.clone();
    let (stall_timeout, splice) = (proxy.stall_timeout, proxy.splice);
    let relay = Relay::new(client, upstream, relayed, stall_timeout, splice, limits, deadlines);
    let relay = if has_logged_in { relay.after_the_log_in() } else { relay };
    if stops_before_a_change_of_user { relay.until_the_user_changes() } else { relay }
}

fn limits(outcome: &Outcome) -> Limits {
    let proxy = &outcome.proxy;
    let config = &proxy.config;
    let retire = match proxy.upstream.close_vanished_after().is_zero() {
        true => None,
        false => outcome.endpoint().map(Endpoint::retire_flag),
    };
    Limits {
        idle_timeout: config.idle_timeout,
        retire_at: (!config.max_lifetime.is_zero())
            .then(|| std::time::Instant::now() + jittered(config.max_lifetime)),
        retire,
    }
}

/// After a relay: takes leave, or goes on with another one after a change of user.
async fn go_on(
    outcome: &mut Outcome,
    relay: Relay,
    reason: Reason,
    account: Option<Box<Account>>,
) -> Option<Box<Legs>> {
    if reason == Reason::ChangesUser {
        let (Change { client, upstream, said, limits }, account) = (relay.into_change()?, account?);
        let deadlines = deadlines(&outcome.proxy, None);
        let legs = change_user(outcome, &account, client, upstream, said, deadlines).await;
        let (client, upstream) = legs?;
        let account = Some(account);
        return Some(Box::new(Legs { client, upstream, limits, deadlines: None, account }));
    }
    if let Some(parting) = relay.into_parting() {
        part(outcome, parting, reason).await;
    }
    None
}

/// What a handshake may take. A server waits for a log-in for so long at the most:
/// [`crate::upstream::Connected::log_in_within`].
fn deadlines(proxy: &Proxy, log_in_within: Option<Duration>) -> Deadlines {
    let config = &proxy.config;
    let handshake = match log_in_within {
        Some(within) if !config.handshake_timeout.is_zero() => within.min(config.handshake_timeout),
        _ => config.handshake_timeout,
    };
    let acknowledge = proxy.upstream.connect_timeout();
    Deadlines { handshake, acknowledge, reply: config.reply_timeout }
}

/// A tenth more or less, so that sessions that were opened together do not end together.
fn jittered(lifetime: Duration) -> Duration {
    // The keys of a std hasher are random.
    let random = RandomState::new().hash_one(()) % 2001;
    lifetime.mul_f64(0.9 + random as f64 / 10_000.0)
}

/// Ends a MySQL session in which not both sides have spoken.
///
/// A client that has sent its HandshakeResponse in plain text is told why. A server that has heard
/// nothing is told a log-in that fails, or it would count an interrupted handshake.
async fn part(outcome: &Outcome, parting: Parting, reason: Reason) {
    let Parting { mut client, upstream, opening } = parting;
    if !opening.client_has_spoken() {
        drop(client);
        // It fails only by a panic, which the panic hook has told.
        let socket = upstream.into_socket();
        let _ = outcome.proxy.upstream.take_leave(socket, opening.greeting.beginning).await;
        return;
    }
    let (code, message) = match reason {
        Reason::ReplyTimeout => (ErrorCode::ReplyTimeout, outcome.proxy.no_reply()),
        Reason::Stalled => (ErrorCode::Unreachable, outcome.proxy.has_vanished()),
        Reason::Drain => (ErrorCode::Draining, SHUTTING_DOWN.to_owned()),
        _ => return,
    };
    let answer = &opening.answer;
    if let Some(sequence) = answer_sequence(&answer.beginning, answer.length) {
        drop(upstream);
        let packet = err(sequence, code, &format!("tidegate: {message}"));
        socket::last_word(&mut client, &packet).await;
    }
}

/// Finds out whose connection it is and finds an upstream connection for it; says in an ERR packet why
/// there is none.
///
/// The upstream comes first: MySQL servers speak first, and the client must see the greeting of
/// the server that it will talk to.
async fn open(mut outcome: Outcome, mut client: Stream) -> Option<Opened> {
    identify(&mut client, &mut outcome).await?;
    let proxy = outcome.proxy.clone();
    let protocol = proxy.config.protocol;
    if outcome.is_a_load_balancers_own() {
        tokio::select! {
            biased;
            // A check that has left by now costs no dial.
            reason = left(&client, protocol) => {
                outcome.ended(Side::Client, reason.as_str());
                return None;
            }
            () = ready(()) => {}
        }
    }
    let told = match proxy.upstream.is_told_of_clients() {
        true => outcome.addresses(&client),
        false => None,
    };
    let connected = tokio::select! {
        biased;
        result = connect(&proxy, &mut outcome, told) => result,
        reason = left(&client, protocol) => {
            outcome.ended(Side::Client, reason.as_str());
            return None;
        }
        () = proxy.drain.reached(Phase::Closing) => {
            outcome.rejected(Reason::Drain.as_str(), SHUTTING_DOWN);
            Err((ErrorCode::Draining, SHUTTING_DOWN.to_owned()))
        }
    };
    let (upstream, log_in_within) = match connected {
        Ok(connected) => connected,
        Err((code, message)) => {
            refuse(client, protocol, code, &message).await;
            return None;
        }
    };
    let deadlines = deadlines(&proxy, log_in_within);
    if !matches!(proxy.upstream.leg(), UpstreamLeg::Passthrough) {
        let logged_in = Box::pin(log_in(&mut outcome, client, upstream, deadlines)).await?;
        let LoggedIn { client, upstream, account } = logged_in;
        let legs = Legs { client, upstream, limits: limits(&outcome), deadlines: None, account };
        return Some(Opened { outcome, legs: Box::new(legs) });
    }
    let deadlines = (protocol == Protocol::Mysql).then_some(deadlines);
    let (client, upstream, limits) = (client.into(), upstream.into(), limits(&outcome));
    let legs = Legs { client, upstream, limits, deadlines, account: None };
    Some(Opened { outcome, legs: Box::new(legs) })
}

/// An upstream connection for a client that may have one, or what the client is told.
/// Its server hears of the client what is `told`. Beside it:
/// [`crate::upstream::Connected::log_in_within`].
async fn connect(
    proxy: &Proxy,
    outcome: &mut Outcome,
    told: Option<Addresses>,
) -> Result<(Stream, Option<Duration>), (ErrorCode, String)> {
    match proxy.gate.admit(&proxy.config, outcome.client().ip(), outcome.origin()).await {
        Ok(permit) => outcome.admitted(permit),
        Err(refusal) => {
            let message = refusal.to_string();
            outcome.rejected(refusal.as_str(), &message);
            return Err((refusal.code(), message));
        }
    }
    if let Some(held) = proxy.pool.as_ref().and_then(|pool| pool.checkout()) {
        outcome.connected(held.in_use, true);
        return Ok((held.stream.into(), held.log_in_within));
    }
    match proxy.upstream.connect(proxy.config.protocol, told).await {
        Ok(connected) => {
            outcome.connected(connected.in_use, false);
            Ok((connected.stream.into(), connected.log_in_within))
        }
        Err(error) => {
            let message = error.to_string();
            let (side, reason, code) = match error.is_local() {
                true => (Side::Tidegate, "local", ErrorCode::TooMany),
                false => (Side::Upstream, Reason::Unreachable.as_str(), ErrorCode::Unreachable),
            };
            outcome.refused(side, reason, &message);
            Err((code, message))
        }
    }
}

/// Returns when the client has gone while nothing was sent to it.
///
/// A MySQL client has nothing to say before the greeting, so its EOF is a goodbye: a load
/// balancer's check costs no dial. Over plain TCP an EOF may be half a conversation.
async fn left(client: &Stream, protocol: Protocol) -> Reason {
    let error = match protocol {
        Protocol::Mysql => match client.peek(&mut [0]).await {
            Ok(0) => return Reason::Eof,
            Ok(_) => None,
            Err(error) => Some(error),
        },
        // What a client that speaks first has said need not be looked at.
        Protocol::Tcp => match client.ready(Interest::ERROR).await {
            Ok(_) => client.take_error().ok().flatten(),
            Err(error) => Some(error),
        },
    };
    match error {
        Some(error) => Reason::of(&error),
        None => pending().await,
    }
}

/// Ends a connection that has seen no byte yet.
async fn refuse(mut client: Stream, protocol: Protocol, code: ErrorCode, message: &str) {
    match protocol {
        Protocol::Mysql => {
            let packet = err_greeting(code, &format!("tidegate: {message}"));
            socket::last_word(&mut client, &packet).await;
        }
        // Nothing can be said; an RST is the honest answer to a connect that went nowhere.
        Protocol::Tcp => socket::reset(client),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the future that a function of two arguments returns.
    fn future_size<A, B, F>(_: fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_session_is_small() {
        // Tokio adds 104 bytes to a task and rounds up to 128: this is the most that makes it 768.
        let size = future_size(run);
        assert!(size <= 664, "{size} bytes");
    }
}
