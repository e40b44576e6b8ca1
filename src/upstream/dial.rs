//! Dials endpoints in order, the next one before the last has failed: happy eyeballs (RFC 8305).
//!
//! Attempts are polled by the session that wants a connection; those that it no longer waits for go
//! on as tasks of their own, so that each is seen to its end: its result counts for the endpoint's
//! health, and a server that greeted it is taken leave of.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::endpoint::{Claim, Endpoint};
use super::health::Standing;
use super::pick::Candidate;
use crate::config::{Protocol, SendProxyProtocol, Tcp};
use crate::metrics::UpstreamMetrics;
use crate::mysql::client::Farewells;
use crate::net::connect::{ConnectError, connect, greeted};
use crate::net::proxy_protocol::{self, Addresses};

/// Head start of an attempt over the next one.
const STAGGER: Duration = Duration::from_millis(250);
/// Attempts of one connection at a time. More than begin within the default `connect_timeout`, so
/// that addresses that swallow packets do not keep the one that answers from its turn.
const AT_ONCE: usize = 16;

/// How a connection is dialled.
#[derive(Debug, Clone)]
pub(super) struct Dialler {
    pub tcp: Tcp,
    pub protocol: Protocol,
    pub send_proxy_protocol: SendProxyProtocol,
    /// Whom it is for; `None`: the bridge itself.
    pub client: Option<Addresses>,
    pub connect_timeout: Duration,
    pub deadline: Instant,
    pub metrics: Arc<UpstreamMetrics>,
    pub farewells: Arc<Farewells>,
}

/// A connection, and its place in the drain until somebody takes it over.
struct Connection {
    stream: TcpStream,
    _member: TaskTrackerToken,
}

/// A dial under way.
struct Attempt {
    endpoint: Claim,
    /// Whether it decides about an endpoint that was ejected.
    is_trial: bool,
    dial: Pin<Box<dyn Future<Output = Result<Connection, Failed>> + Send>>,
}

/// A dial that has failed.
struct Failed {
    error: ConnectError,
    /// A server that hangs will greet, and count, when it goes on.
    hangs: Option<Connection>,
}

impl From<ConnectError> for Failed {
    fn from(error: ConnectError) -> Self {
        Self { error, hangs: None }
    }
}

/// The attempts under way, in the order in which they were started. Dropped, it leaves them to
/// themselves.
struct Race<'d> {
    dialler: &'d Dialler,
    attempts: Vec<Attempt>,
}

impl Dialler {
    /// The first of `candidates` that answers, or why none did.
    pub async fn race(
        &self,
        mut candidates: Vec<Candidate<Claim>>,
    ) -> Result<(TcpStream, Claim), Vec<(Claim, ConnectError)>> {
        let mut race = Race { dialler: self, attempts: Vec::new() };
        self.try_apart(&mut candidates);
        let mut waiting = candidates.into_iter().peekable();
        let mut failures = Vec::new();
        loop {
            // A trial has no head start: the endpoint was down.
            while race.attempts.len() < AT_ONCE && !self.left().is_zero() {
                let Some(candidate) = waiting.next() else { break };
                let attempt = self.start(&candidate);
                let is_trial = attempt.is_trial;
                race.attempts.push(attempt);
                if !is_trial {
                    break;
                }
            }
            if race.attempts.is_empty() {
                return Err(failures);
            }
            let more = waiting.peek().is_some() && race.attempts.len() < AT_ONCE;
            // No timer for the deadline: every attempt ends by itself then.
            tokio::select! {
                biased;
                (at, endpoint, result) = race.next() => match result {
                    Ok(Connection { stream, .. }) => {
                        endpoint.succeeded();
                        for slower in &race.attempts[..at] {
                            slower.endpoint.overtaken();
                        }
                        return Ok((stream, endpoint));
                    }
                    Err(Failed { error, hangs }) => {
                        if let Some(Connection { stream, _member }) = hangs {
                            drop(self.farewells.say(stream, Vec::new()));
                        }
                        failures.push((endpoint, error));
                    }
                },
                () = sleep(STAGGER), if more => {}
            }
        }
    }

    /// Where there is a healthy endpoint, starts the trials that are due apart from the race, and puts
    /// their endpoints behind the others: their connections are nobody's, so they cost nobody.
    fn try_apart(&self, candidates: &mut [Candidate<Claim>]) {
        let has = |standing| candidates.iter().any(|one| one.standing == standing);
        if !has(Standing::Due) || !has(Standing::Healthy) {
            return;
        }
        let nobodys = Self { client: None, ..self.clone() };
        candidates.sort_by_key(|one| one.standing == Standing::Due);
        let due = candidates.iter_mut().filter(|one| one.standing == Standing::Due);
        for candidate in due.take(AT_ONCE) {
            let attempt = nobodys.start(candidate);
            candidate.standing = Standing::Ejected;
            if attempt.is_trial {
                self.leave_to_itself(attempt);
            }
        }
    }

    fn start(&self, candidate: &Candidate<Claim>) -> Attempt {
        let endpoint = candidate.endpoint.clone();
        let is_trial = candidate.standing == Standing::Due && endpoint.begin_trial();
        let (dialler, dialled) = (self.clone(), endpoint.clone());
        let dial = Box::pin(async move {
            let result = dialler.dial(&dialled).await;
            match &result {
                // Of others only the winner's counts: an endpoint that is always overtaken would be
                // ejected and healthy by turns, at a head start each.
                Ok(_) if is_trial => dialled.succeeded(),
                Ok(_) => {}
                // This host's own lack says nothing of the endpoint.
                Err(Failed { error: ConnectError::Local(_), .. }) => {}
                Err(Failed { error, .. }) => dialled.failed(error),
            }
            if let Err(Failed { error, .. }) = &result {
                dialler.metrics.dial_failed(error.as_str());
            }
            result
        });
        Attempt { endpoint, is_trial, dial }
    }

    /// Sees an attempt to its end that nobody waits for, and ends its connection as its server
    /// likes it; at the latest when the drain closes. Where too many are under way it is given up.
    fn leave_to_itself(&self, attempt: Attempt) {
        let Some(seat) = self.farewells.seat() else { return };
        let dialler = self.clone();
        drop(tokio::spawn(async move {
            let result = tokio::select! {
                biased;
                result = attempt.dial => result,
                () = dialler.farewells.given_up() => return,
            };
            let connection = result.map_or_else(|failed| failed.hangs, Some);
            if let (Some(Connection { stream, _member }), Protocol::Mysql) =
                (connection, dialler.protocol)
            {
                dialler.farewells.say_from(seat, stream).await;
            }
        }));
    }

    /// Time until the deadline.
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Ends at the deadline.
    async fn dial(&self, endpoint: &Endpoint) -> Result<Connection, Failed> {
        let started = Instant::now();
        let within = self.connect_timeout.min(self.left());
        let mut stream = connect(endpoint.address, &self.tcp, within).await?;
        proxy_protocol::send(&mut stream, self.send_proxy_protocol, self.client)
            .await
            .map_err(ConnectError::Broken)?;
        let member = self.farewells.expect_one();
        if self.protocol == Protocol::Mysql
            && let Err(error) = greeted(&stream, self.left()).await
        {
            let hangs = matches!(error, ConnectError::Silent(_));
            let hangs = hangs.then(|| Connection { stream, _member: member });
            return Err(Failed { error, hangs });
        }
        self.metrics.dial.observe(started.elapsed().as_secs_f64());
        Ok(Connection { stream, _member: member })
    }
}

impl Race<'_> {
    /// The next attempt that ends, with its place among those that were under way.
    async fn next(&mut self) -> (usize, Claim, Result<Connection, Failed>) {
        poll_fn(|cx| {
            for (at, attempt) in self.attempts.iter_mut().enumerate() {
                if let Poll::Ready(result) = attempt.dial.as_mut().poll(cx) {
                    return Poll::Ready((at, self.attempts.remove(at).endpoint, result));
                }
            }
            Poll::Pending
        })
        .await
    }
}

impl Drop for Race<'_> {
    fn drop(&mut self) {
        // A dial that has panicked must not be polled again. Without a runtime the process is at its
        // end.
        if !thread::panicking() && Handle::try_current().is_ok() {
            self.attempts.drain(..).for_each(|attempt| self.dialler.leave_to_itself(attempt));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::drain::Drain;
    use crate::log::Repeats;
    use crate::metrics::Metrics;
    use crate::upstream::lines::Lines;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_dial_that_nobody_waits_for_ends_when_the_drain_closes() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let drain = Drain::new();
        let dialler = dialler(Protocol::Mysql, &drain);
        let _open = tokio::select! {
            _ = dialler.race(vec![candidate(endpoint(&silent))]) => panic!("it has greeted"),
            accepted = silent.accept() => accepted.unwrap(),
        };

        drain.close();
        timeout(Duration::from_secs(30), drain.empty()).await.expect("it goes on");
    }

    #[tokio::test]
    async fn a_dial_that_nobody_waits_for_takes_a_seat_of_the_farewells_or_is_given_up() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialler = dialler(Protocol::Mysql, &Drain::new());
        let free = |dialler: &Dialler| {
            std::iter::from_fn(|| dialler.farewells.seat()).collect::<Vec<_>>().len()
        };
        let all = free(&dialler);
        let dial = async || {
            tokio::select! {
                _ = dialler.race(vec![candidate(endpoint(&silent))]) => panic!("it has greeted"),
                accepted = silent.accept() => accepted.unwrap().0,
            }
        };

        let first = dial().await;
        assert_eq!(free(&dialler), all - 1);
        let seats: Vec<_> = std::iter::from_fn(|| dialler.farewells.seat()).collect();
        let mut second = dial().await;

        let read = timeout(Duration::from_secs(30), second.read(&mut [0])).await;
        assert_eq!(read.expect("it is given up").unwrap(), 0);
        let first_is_open = first.try_read(&mut [0]).unwrap_err().kind();
        assert_eq!(first_is_open, std::io::ErrorKind::WouldBlock);
        drop(seats);
    }

    #[tokio::test]
    async fn a_trial_is_nobodys() {
        let (well, was_down) = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        );
        let due = endpoint(&was_down);
        tokio::time::pause();
        due.failed(&ConnectError::Closed);
        tokio::time::advance(Duration::from_secs(11)).await;
        tokio::time::resume();
        let candidates = vec![candidate(due), candidate(endpoint(&well))];
        assert_eq!(candidates[0].standing, Standing::Due);
        let ends = ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap());
        let client = Some(Addresses { source: ends.0, destination: ends.1 });
        let version = SendProxyProtocol::V2;
        let dialler = Dialler {
            send_proxy_protocol: version,
            client,
            ..dialler(Protocol::Tcp, &Drain::new())
        };

        let winner = dialler.race(candidates).await.unwrap();

        assert_eq!(winner.1.address, well.local_addr().unwrap());
        for (server, command) in [(well, 0x21), (was_down, 0x20)] {
            let mut header = [0; 16];
            let (mut stream, _) = server.accept().await.unwrap();
            stream.read_exact(&mut header).await.unwrap();
            assert_eq!(header[12], command);
        }
    }

    fn dialler(protocol: Protocol, drain: &Drain) -> Dialler {
        let hour = Duration::from_secs(3600);
        let config = config::parse("[upstream.gw]\ngateway = \"gw.test\"\n", "test").unwrap();
        Dialler {
            tcp: config.tcp,
            protocol,
            send_proxy_protocol: SendProxyProtocol::Off,
            client: None,
            connect_timeout: hour,
            deadline: Instant::now() + hour,
            metrics: Arc::new(Metrics::new().upstream("test")),
            farewells: Arc::new(Farewells::new(drain.clone())),
        }
    }

    fn endpoint(server: &TcpListener) -> Arc<Endpoint> {
        let lines = Lines::new("test", &Repeats::default());
        Endpoint::new(lines, server.local_addr().unwrap())
    }

    fn candidate(endpoint: Arc<Endpoint>) -> Candidate<Claim> {
        let standing = endpoint.standing();
        Candidate { endpoint: endpoint.claim(), standing, preferred: false, sessions: 0 }
    }
}
