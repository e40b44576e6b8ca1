//! The steps of a log-in across two connections.
//!
//! The greeting is the server's own but for the bit that offers TLS, the answer is the client's own
//! but for the same bit, and each connection has sequence ids of its own.

use std::io;
use std::time::Instant;

use rustls::ServerConnection;
use tokio::time::timeout;

use super::Proxy;
use super::failure::{Failure, GONE, is_vanished};
use super::login::Account;
use crate::metrics::timestamp;
use crate::mysql::auth::{Exchange, FAST, Leg, Step};
use crate::mysql::handshake::{Greeting, ServerKind, offer_no_compression, offer_tls};
use crate::mysql::packet::{ErrorCode, HEADER_LEN, frame};
use crate::mysql::packets::Packets;
use crate::mysql::response::{
    HEAD_LEN, Response, is_compressed, is_protocol_41, is_ssl_request, set_tls,
};
use crate::relay::{Deadlines, Reason, Side};
use crate::tls::cert;
use crate::tls::client::{Originator, UpstreamLeg};
use crate::tls::reason::reason;
use crate::tls::server::Terminator;

/// Packets of a log-in, both ways. The longest methods have a handful.
const ROUNDS: usize = 64;

/// A log-in under way.
pub(super) struct Handshake<'p> {
    pub proxy: &'p Proxy,
    pub client_leg: Leg,
    pub upstream_leg: Leg,
    /// Of each step of either side.
    deadlines: Deadlines,
    /// `None` while TLS is being set up on it.
    pub client: Option<Packets>,
    pub upstream: Option<Packets>,
    /// The server's, as it came; empty until it has.
    pub greeting: Vec<u8>,
    /// It has answered the greeting, not only asked for TLS; or sent a command.
    pub client_has_spoken: bool,
    pub upstream_was_told: bool,
    /// Of a server that is inside TLS and not to be trusted: the capabilities that it goes by.
    pub stranger: Option<u32>,
    /// Bytes to the upstream, and to the client.
    pub moved: (u64, u64),
}

/// What a client has answered to the greeting.
struct Answer {
    response: Vec<u8>,
    /// What it asked for TLS by.
    request: Option<Vec<u8>>,
}

impl<'p> Handshake<'p> {
    /// `legs` are the client's and the upstream's.
    pub fn new(
        proxy: &'p Proxy,
        deadlines: Deadlines,
        legs: (Leg, Leg),
        (client, upstream): (Packets, Packets),
    ) -> Self {
        Self {
            proxy,
            client_leg: legs.0,
            upstream_leg: legs.1,
            deadlines,
            client: Some(client),
            upstream: Some(upstream.acknowledged_within(deadlines.acknowledge)),
            greeting: Vec::new(),
            client_has_spoken: false,
            upstream_was_told: false,
            stranger: None,
            moved: (0, 0),
        }
    }

    /// From the greeting to the server's verdict.
    pub async fn log_in(&mut self) -> Result<Option<Account>, Failure> {
        let (proxy, deadlines) = (self.proxy, self.deadlines);
        let greeting = in_time(proxy, deadlines, Side::Upstream, self.greet()).await?;
        let answer = self.hear_answer(greeting.kind);
        let answer = in_time(proxy, deadlines, Side::Client, answer).await?;
        self.client_has_spoken = true;
        let exchange = self.begin(&greeting, &answer.response)?;
        let is_compressed = is_compressed(&answer.response, &greeting);
        in_time(proxy, deadlines, Side::Upstream, self.pass_answer(answer)).await?;
        self.authenticate(exchange).await?;
        let (client, upstream) = (self.client_leg, self.upstream_leg);
        let is_needed = client.is_tls != upstream.is_tls && !is_compressed;
        Ok(is_needed.then_some(Account { greeting, client, upstream }))
    }

    /// From the command to the server's verdict.
    pub async fn change_user(&mut self, greeting: &Greeting) -> Result<(), Failure> {
        let (proxy, deadlines) = (self.proxy, self.deadlines);
        let command = in_time(proxy, deadlines, Side::Client, self.hear_client()).await?;
        let proof = Response::parse_change_user(&command).ok_or_else(|| {
            Failure::protocol(Side::Client, "the client's change of user cannot be read")
        })?;
        let exchange = Exchange::new(self.client_leg, self.upstream_leg, greeting, &proof)?;
        self.tell_upstream(&command).await?;
        self.authenticate(exchange).await
    }

    /// From the client's proof to the server's verdict.
    async fn authenticate(&mut self, mut exchange: Exchange) -> Result<(), Failure> {
        let mut due = Side::Upstream;
        for _ in 0..ROUNDS {
            let (proxy, deadlines) = (self.proxy, self.deadlines);
            match in_time(proxy, deadlines, due, self.exchange(&mut exchange, due)).await? {
                Some(next) => due = next,
                None if self.client.as_ref().is_some_and(Packets::is_between_packets) => {
                    return Ok(());
                }
                None => break,
            }
        }
        Err(Failure::protocol(Side::Client, "the authentication does not end where it should"))
    }

    /// Reads the server's greeting and passes it on with the offer of TLS that holds here.
    async fn greet(&mut self) -> Result<Greeting, Failure> {
        let mut payload = self.hear_upstream().await?;
        self.greeting = frame(0, &payload);
        let Some(greeting) = Greeting::parse(&payload) else {
            return Err(self.refused(&payload, "the server's greeting cannot be read").await);
        };
        let is_tls = matches!(self.proxy.upstream.leg(), UpstreamLeg::Tls(_));
        if is_tls && !greeting.offers_tls() {
            let gateway = self.proxy.upstream.gateway();
            let message = format!("{gateway} offers no TLS, and upstream_tls wants it");
            return Err(Failure::tls(Side::Upstream, message));
        }
        offer_tls(&mut payload, self.proxy.tls.is_some());
        if self.proxy.tls.is_some() && !is_tls && !self.upstream_leg.is_local {
            // A change of user would be out of sight, and its password in plain text.
            offer_no_compression(&mut payload);
        }
        self.tell_client(&payload).await?;
        Ok(greeting)
    }

    /// The client's answer, inside TLS if it asks for that.
    async fn hear_answer(&mut self, server: ServerKind) -> Result<Answer, Failure> {
        let response = self.hear_first().await?;
        if !is_ssl_request(&response) {
            if self.proxy.tls.as_ref().is_some_and(|tls| tls.is_required) {
                self.client_has_spoken = true;
                return Err(Failure::tls(
                    Side::Client,
                    "connections without TLS are not taken here: --ssl-mode=REQUIRED, useSSL=true",
                ));
            }
            return Ok(Answer { response, request: None });
        }
        let Some(terminator) = &self.proxy.tls else {
            return Err(Failure::protocol(Side::Client, "it asked for TLS, which was not offered"));
        };
        self.secure_client(terminator).await?;
        let (request, mut response) = (response, self.hear_first().await?);
        if is_ssl_request(&response) {
            return Err(Failure::protocol(Side::Client, "it asked for TLS inside TLS"));
        }
        // Other servers than TiDB go by the capabilities of the request, and some clients rely on it.
        if server != ServerKind::TiDb
            && let Some(capabilities) = response.first_chunk_mut()
            && let Some(asked) = request.first_chunk::<4>()
        {
            *capabilities = *asked;
        }
        Ok(Answer { response, request: Some(request) })
    }

    /// The client's next packet, before the server was told anything.
    ///
    /// Nothing that the server says outside TLS meanwhile may decide how the log-in goes on.
    async fn hear_first(&mut self) -> Result<Vec<u8>, Failure> {
        let (Some(client), Some(upstream)) = (&mut self.client, &mut self.upstream) else {
            return Err(GONE);
        };
        tokio::select! {
            biased;
            said = client.next() => match said {
                Ok(payload) => Ok(payload),
                Err(error) => Err(Failure::of(&error, Side::Client)),
            },
            said = upstream.next() => match said {
                Ok(payload) => Err(self.refused(&payload, "the server spoke out of turn").await),
                Err(error) => {
                    self.upstream_was_told = true;
                    Err(Failure::of(&error, Side::Upstream))
                }
            },
        }
    }

    /// The server has spoken before it was told anything: an ERR packet is passed on, and whatever it
    /// was, this is the end.
    async fn refused(&mut self, said: &[u8], otherwise: &str) -> Failure {
        self.upstream_was_told = true;
        if said.first() != Some(&0xff) {
            return Failure::protocol(Side::Upstream, otherwise);
        }
        match self.tell_client(said).await {
            Ok(()) => Failure { was_told: true, ..Failure::broken(Side::Upstream, Reason::Eof) },
            Err(failure) => failure,
        }
    }

    async fn secure_client(&mut self, terminator: &Terminator) -> Result<(), Failure> {
        let client = self.client.take().ok_or(GONE)?;
        let connection = ServerConnection::new(terminator.config.clone());
        let connection =
            connection.map_err(|error| Failure::tls(Side::Tidegate, error.to_string()))?;
        let began = Instant::now();
        let secured = client.secure(connection).await;
        let failed = |error| Failure::tls(Side::Client, reason(&error, "the client"));
        self.client = Some(secured.map_err(failed)?);
        self.proxy.tls_metrics.client.observe(began.elapsed().as_secs_f64());
        self.client_leg.is_tls = true;
        Ok(())
    }

    /// Looks at how the client proves its password before anything of it goes on.
    fn begin(&self, greeting: &Greeting, response: &[u8]) -> Result<Exchange, Failure> {
        let mut upstream = self.upstream_leg;
        upstream.is_tls = matches!(self.proxy.upstream.leg(), UpstreamLeg::Tls(_));
        let parsed = match Response::parse(response) {
            Some(parsed) => parsed,
            None if upstream.is_tls != self.client_leg.is_tls && is_protocol_41(response) => {
                let message = "the client's answer to the greeting cannot be read";
                return Err(Failure::protocol(Side::Client, message));
            }
            None if upstream.is_tls => {
                let message = "clients of before MySQL 4.1 have no TLS to the server here";
                return Err(Failure::tls(Side::Client, message));
            }
            // Whatever it is, the server has its say.
            None => Response { plugin: b"", auth: b"" },
        };
        Ok(Exchange::new(self.client_leg, upstream, greeting, &parsed)?)
    }

    /// Passes the client's answer on, inside TLS if that is wanted.
    async fn pass_answer(&mut self, answer: Answer) -> Result<(), Failure> {
        let Answer { mut response, request } = answer;
        let proxy = self.proxy;
        if let UpstreamLeg::Tls(originator) = proxy.upstream.leg() {
            // MySQL goes by what was said before TLS: the client's own words, where there are any.
            let mut head = request.unwrap_or_else(|| response[..HEAD_LEN].to_vec());
            set_tls(&mut head, true);
            self.tell_upstream(&head).await?;
            self.secure_upstream(originator, &head).await?;
        }
        set_tls(&mut response, self.upstream_leg.is_tls);
        self.tell_upstream(&response).await
    }

    /// Begins TLS, asked for by `request`. A stranger is met inside it too: it counts interruptions.
    async fn secure_upstream(
        &mut self,
        originator: &Originator,
        request: &[u8],
    ) -> Result<(), Failure> {
        let upstream = self.upstream.take().ok_or(GONE)?;
        let begun = originator.begin();
        let connection = begun.map_err(|error| Failure::tls(Side::Tidegate, error.to_string()))?;
        let gateway = self.proxy.upstream.gateway();
        let failed = |error: io::Error| {
            if is_vanished(&error) {
                return Failure::of(&error, Side::Upstream);
            }
            let reason = reason(&error, "the server");
            Failure::tls(Side::Upstream, format!("TLS with {gateway}: {reason}"))
        };
        let began = Instant::now();
        let secured = upstream.secure(connection).await.map_err(failed)?;
        let upstream = self.upstream.insert(secured);
        let tls = upstream.stream().tls().ok_or(GONE)?;
        if let Err(error) = originator.judge(tls) {
            self.stranger = request.first_chunk().map(|bits| u32::from_le_bytes(*bits));
            return Err(failed(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        let shown = tls.peer_certificates().and_then(<[_]>::first);
        let metrics = &self.proxy.tls_metrics;
        metrics.upstream.observe(began.elapsed().as_secs_f64());
        metrics.upstream_expiry.set(timestamp(shown.and_then(cert::not_after)));
        self.upstream_leg.is_tls = true;
        Ok(())
    }

    /// One packet of the authentication, from whichever side. Returns who is due next; `None`: it is
    /// over.
    async fn exchange(
        &mut self,
        exchange: &mut Exchange,
        due: Side,
    ) -> Result<Option<Side>, Failure> {
        let (Some(client), Some(upstream)) = (&mut self.client, &mut self.upstream) else {
            return Err(GONE);
        };
        let mut step = tokio::select! {
            biased;
            said = upstream.next() => {
                let said = said.map_err(|error| Failure::of(&error, Side::Upstream))?;
                if due == Side::Client && !matches!(said.first(), Some(0x00 | 0xff)) {
                    return Err(Failure::protocol(Side::Upstream, "the server spoke out of turn"));
                }
                exchange.from_server(said)?
            }
            // What it sends before it was asked belongs to something else.
            said = client.next(), if due == Side::Client => {
                exchange.from_client(said.map_err(|error| Failure::of(&error, Side::Client))?)?
            }
        };
        loop {
            match step {
                Step::ToClient(payload) => {
                    self.tell_client(&payload).await?;
                    return Ok(Some(if payload == FAST { due } else { Side::Client }));
                }
                Step::ToUpstream(payload) => {
                    self.tell_upstream(&payload).await?;
                    return Ok(Some(Side::Upstream));
                }
                Step::NeedKey => step = exchange.has_key(self.proxy.sealing_key.get().await?)?,
                Step::Over(payload) => {
                    self.tell_client(&payload).await?;
                    return Ok(None);
                }
            }
        }
    }

    async fn hear_client(&mut self) -> Result<Vec<u8>, Failure> {
        let client = self.client.as_mut().ok_or(GONE)?;
        client.next().await.map_err(|error| Failure::of(&error, Side::Client))
    }

    async fn hear_upstream(&mut self) -> Result<Vec<u8>, Failure> {
        let upstream = self.upstream.as_mut().ok_or(GONE)?;
        upstream.next().await.map_err(|error| Failure::of(&error, Side::Upstream))
    }

    async fn tell_client(&mut self, payload: &[u8]) -> Result<(), Failure> {
        let client = self.client.as_mut().ok_or(GONE)?;
        client.send(payload).await.map_err(|error| Failure::of(&error, Side::Client))?;
        self.moved.1 += (HEADER_LEN + payload.len()) as u64;
        Ok(())
    }

    async fn tell_upstream(&mut self, payload: &[u8]) -> Result<(), Failure> {
        self.upstream_was_told = true;
        let upstream = self.upstream.as_mut().ok_or(GONE)?;
        upstream.send(payload).await.map_err(|error| Failure::of(&error, Side::Upstream))?;
        self.moved.0 += (HEADER_LEN + payload.len()) as u64;
        Ok(())
    }
}

/// Waits for `side`, as long as it may take. A limit of 0 is none. A server's host that has vanished is
/// found by [`Packets`].
async fn in_time<T>(
    proxy: &Proxy,
    deadlines: Deadlines,
    side: Side,
    act: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let Deadlines { handshake, reply, .. } = deadlines;
    let limit = if side == Side::Client { handshake } else { reply };
    let late = || match side {
        Side::Client => Failure::broken(Side::Tidegate, Reason::HandshakeTimeout),
        _ => Failure {
            message: proxy.no_reply(),
            code: Some(ErrorCode::ReplyTimeout),
            ..Failure::broken(Side::Tidegate, Reason::ReplyTimeout)
        },
    };
    let acted = match limit.is_zero() {
        true => act.await,
        false => timeout(limit, act).await.unwrap_or_else(|_| Err(late())),
    };
    acted.map_err(|failure| match failure.reason {
        Reason::Stalled => {
            let (message, code) = (proxy.has_vanished(), Some(ErrorCode::Unreachable));
            Failure { message, code, ..failure }
        }
        _ => failure,
    })
}
