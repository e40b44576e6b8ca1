//! The log-in of a session whose TLS is not the business of client and server alone: how it begins, and
//! how it ends. Once the server has said OK the session is a relay as any other.

use tokio::time::timeout;

use super::Proxy;
use super::failure::{Failure, GONE};
use super::handshake::Handshake;
use super::outcome::Outcome;
use super::session::SHUTTING_DOWN;
use crate::drain::Phase;
use crate::mysql::auth::Leg;
use crate::mysql::client::{FOR_A_REFUSAL, fail_to_log_in};
use crate::mysql::handshake::{Greeting, ServerKind};
use crate::mysql::packet::{ErrorCode, HEADER_LEN, err, err_greeting, frame};
use crate::mysql::packets::Packets;
use crate::net::socket;
use crate::net::stream::Stream;
use crate::net::transport::Transport;
use crate::relay::{Deadlines, Reason, Side};

/// A session that has logged in, or whose server has refused it.
#[derive(Debug)]
pub(super) struct LoggedIn {
    pub client: Transport,
    pub upstream: Transport,
    /// If a change of its user is not for client and server alone.
    pub account: Option<Box<Account>>,
}

/// What a change of user goes by.
#[derive(Debug)]
pub(super) struct Account {
    pub greeting: Greeting,
    pub client: Leg,
    pub upstream: Leg,
}

/// Takes a session through its log-in. `None`: it has ended, and everybody was told.
pub(super) async fn log_in(
    outcome: &mut Outcome,
    client: Stream,
    upstream: Stream,
    deadlines: Deadlines,
) -> Option<LoggedIn> {
    let proxy = outcome.proxy.clone();
    let endpoint = outcome.endpoint().map(|endpoint| endpoint.address.ip());
    let client_leg = Leg { is_tls: false, is_local: outcome.is_from_this_host() };
    let is_local = endpoint.is_some_and(|ip| ip.is_loopback());
    let upstream_leg = Leg { is_tls: false, is_local };
    let sides = (Packets::new(client, Vec::new()), Packets::new(upstream, Vec::new()));
    let mut handshake = Handshake::new(&proxy, deadlines, (client_leg, upstream_leg), sides);
    let (account, result) = match unless_closing(&proxy, handshake.log_in()).await {
        Ok(account) => (account.map(Box::new), Ok(())),
        Err(failure) => (None, Err(failure)),
    };
    let (client, upstream) = handshake.finish(outcome, result).await?;
    Some(LoggedIn { client, upstream, account })
}

/// Takes a session through a change of its user: as [`log_in`], from the command on, of which
/// `said` was read already.
pub(super) async fn change_user(
    outcome: &mut Outcome,
    account: &Account,
    client: Transport,
    upstream: Transport,
    said: Vec<u8>,
    deadlines: Deadlines,
) -> Option<(Transport, Transport)> {
    let proxy = outcome.proxy.clone();
    let sides = (Packets::new(client, said), Packets::new(upstream, Vec::new()));
    let legs = (account.client, account.upstream);
    let mut handshake = Handshake::new(&proxy, deadlines, legs, sides);
    (handshake.client_has_spoken, handshake.upstream_was_told) = (true, true);
    let result = unless_closing(&proxy, handshake.change_user(&account.greeting)).await;
    handshake.finish(outcome, result).await
}

async fn unless_closing<T>(
    proxy: &Proxy,
    act: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        result = act => result,
        () = proxy.drain.reached(Phase::Closing) => Err(Failure {
            message: SHUTTING_DOWN.into(),
            code: Some(ErrorCode::Draining),
            ..Failure::broken(Side::Tidegate, Reason::Drain)
        }),
    }
}

impl Handshake<'_> {
    /// Accounts for what was moved, and returns both connections or ends them.
    async fn finish(
        mut self,
        outcome: &mut Outcome,
        result: Result<(), Failure>,
    ) -> Option<(Transport, Transport)> {
        let (to_upstream, to_client) = self.moved;
        outcome.moved(to_upstream, to_client);
        let relayed = &self.proxy.metrics.relayed;
        let is_tls = self.client_leg.is_tls || self.upstream_leg.is_tls;
        for (bytes, count) in [(&relayed.to_upstream, to_upstream), (&relayed.to_client, to_client)]
        {
            if is_tls { bytes.tls.inc_by(count) } else { bytes.copied.inc_by(count) }
        }
        match (result, self.client.take(), self.upstream.take()) {
            (Ok(()), Some(client), Some(upstream)) => {
                Some((client.into_stream(), upstream.into_stream()))
            }
            (result, client, upstream) => {
                self.part(outcome, result.err().unwrap_or(GONE), client, upstream).await;
                None
            }
        }
    }

    /// Ends a session: its client is told why, where the protocol has room for that, and a server that
    /// has heard nothing, or is not to be trusted, is taken leave of.
    async fn part(
        &self,
        outcome: &mut Outcome,
        failure: Failure,
        client: Option<Packets>,
        upstream: Option<Packets>,
    ) {
        let Failure { side, reason, message, code, was_told } = failure;
        match message.is_empty() {
            true => outcome.ended(side, reason.as_str()),
            false => outcome.refused(side, reason.as_str(), &message),
        }
        let leave = async {
            let Some(mut upstream) = upstream else { return };
            if !self.upstream_was_told {
                let (upstream, partial) = upstream.into_parts();
                let said = if self.greeting.is_empty() { partial } else { self.greeting.clone() };
                // It fails only by a panic, which the panic hook has told.
                let _ = self.proxy.upstream.take_leave(upstream.into_socket(), said).await;
            } else if let Some(capabilities) = self.stranger {
                self.leave_stranger(upstream, capabilities).await;
            } else if reason == Reason::Tls && side == Side::Tidegate {
                // No proof: a log-in that fails, and no interrupted handshake.
                let refusal = async {
                    upstream.send(&[]).await?;
                    upstream.next().await
                };
                let _ = timeout(FOR_A_REFUSAL, refusal).await;
            }
        };
        let tell = async {
            let Some(client) = client else { return };
            let message = format!("tidegate: {message}");
            let packet = match code {
                // A command has the sequence id 0, the answer to it 1 at the least.
                Some(code) if self.client_has_spoken => {
                    err(client.sequence().max(1), code, &message)
                }
                // It has seen nothing yet.
                Some(code) if self.moved.1 == 0 => err_greeting(code, &message),
                _ if was_told => Vec::new(),
                _ => return,
            };
            socket::last_word(&mut client.into_stream(), &packet).await;
        };
        tokio::join!(leave, tell);
    }

    /// Fails to log in with a server that is not to be trusted, so that it counts no interrupted
    /// handshake: nothing of the client's is in it. TiDB counts none.
    async fn leave_stranger(&self, upstream: Packets, capabilities: u32) {
        let greeting = self.greeting.get(HEADER_LEN..).and_then(Greeting::parse);
        let Some(greeting) = greeting.filter(|greeting| greeting.kind != ServerKind::TiDb) else {
            return;
        };
        let login = frame(upstream.sequence(), &greeting.failing_response(capabilities));
        let mut upstream = upstream.into_stream();
        let _ = timeout(FOR_A_REFUSAL, fail_to_log_in(&mut upstream, &login)).await;
    }
}
