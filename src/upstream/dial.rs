//! Dials endpoints in order, the next one before the last has failed: happy eyeballs (RFC 8305).
//!
//! Each attempt is a task of its own, so that one that lost is seen to its end: its result counts
//! for the endpoint's health, and a server that greeted it is taken leave of.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::endpoint::Endpoint;
use super::health::Standing;
use crate::config::{Protocol, Tcp};
use crate::metrics::UpstreamMetrics;
use crate::mysql::client::Farewells;
use crate::net::connect::{ConnectError, connect, greeted};

/// Head start of an attempt over the next one.
const STAGGER: Duration = Duration::from_millis(250);
/// Time before the deadline at which a greeting counts as missing.
const BEFORE_THE_END: Duration = Duration::from_millis(50);
/// Attempts of one connection at a time.
const AT_ONCE: usize = 8;

/// How a connection is dialled.
#[derive(Debug, Clone)]
pub(super) struct Dialler {
    pub tcp: Tcp,
    pub protocol: Protocol,
    pub connect_timeout: Duration,
    pub started: Instant,
    pub deadline: Instant,
    pub metrics: Arc<UpstreamMetrics>,
    pub farewells: Arc<Farewells>,
}

/// A connection that has answered, and its place in the drain until somebody takes it over.
struct Answered {
    stream: TcpStream,
    _member: TaskTrackerToken,
}

type Told = (Arc<Endpoint>, Result<Answered, ConnectError>);

/// The attempts under way. Dropped, it leaves them to themselves.
struct Race<'d> {
    dialler: &'d Dialler,
    tell: UnboundedSender<Told>,
    told: UnboundedReceiver<Told>,
    running: Vec<Arc<Endpoint>>,
}

impl Dialler {
    /// The first of `endpoints` that answers, or why none did.
    pub async fn race(
        &self,
        endpoints: Vec<Arc<Endpoint>>,
    ) -> Result<(TcpStream, Arc<Endpoint>), Vec<(Arc<Endpoint>, ConnectError)>> {
        let (tell, told) = unbounded_channel();
        let mut race = Race { dialler: self, tell, told, running: Vec::new() };
        self.try_behind_a_healthy_one(&endpoints);
        let mut waiting = endpoints.into_iter().peekable();
        let mut failures = Vec::new();
        loop {
            // A trial has no head start: the endpoint was down, and its trial must cost nobody.
            while race.running.len() < AT_ONCE {
                let Some(endpoint) = waiting.next() else { break };
                race.running.push(endpoint.clone());
                let is_trial = self.start(endpoint, race.tell.clone());
                if !is_trial {
                    break;
                }
            }
            if race.running.is_empty() {
                return Err(failures);
            }
            let more = waiting.peek().is_some() && race.running.len() < AT_ONCE;
            tokio::select! {
                biased;
                Some((endpoint, result)) = race.told.recv() => {
                    let at = race.running.iter().position(|running| Arc::ptr_eq(running, &endpoint));
                    let started_before = at.unwrap_or_default();
                    if let Some(at) = at {
                        race.running.remove(at);
                    }
                    match result {
                        Ok(Answered { stream, .. }) => {
                            endpoint.succeeded();
                            for slower in &race.running[..started_before] {
                                slower.failed("another endpoint answered sooner, dialled later");
                            }
                            return Ok((stream, endpoint));
                        }
                        Err(error) => failures.push((endpoint, error)),
                    }
                }
                () = sleep(STAGGER), if more => {}
                () = sleep_until(self.deadline) => {
                    let late = |endpoint| (endpoint, ConnectError::Timeout(self.started.elapsed()));
                    failures.extend(race.running.drain(..).map(late));
                    return Err(failures);
                }
            }
        }
    }

    /// Starts the trials that are due of endpoints whose turn comes only if a healthy one fails.
    /// They are for the endpoints' sake: their connections are nobody's.
    fn try_behind_a_healthy_one(&self, endpoints: &[Arc<Endpoint>]) {
        let standings = endpoints.iter().map(|endpoint| (endpoint, endpoint.standing()));
        let behind = standings.skip_while(|(_, standing)| *standing != Standing::Healthy);
        let due = behind.filter(|(_, standing)| *standing == Standing::Due);
        for (endpoint, _) in due.take(AT_ONCE) {
            self.start(endpoint.clone(), unbounded_channel().0);
        }
    }

    /// Starts an attempt, and tells whether it is the endpoint's trial.
    fn start(&self, endpoint: Arc<Endpoint>, tell: UnboundedSender<Told>) -> bool {
        let is_trial = endpoint.standing() == Standing::Due;
        endpoint.begin_trial();
        let dialler = self.clone();
        drop(tokio::spawn(async move {
            let result = dialler.dial(&endpoint).await;
            match &result {
                // Of others only the winner's counts: an endpoint that is always overtaken would be
                // ejected and healthy by turns, at a head start each.
                Ok(_) if is_trial => endpoint.succeeded(),
                Ok(_) => {}
                // This host's own lack says nothing of the endpoint.
                Err(ConnectError::Local(_)) => {}
                Err(error) => endpoint.failed(&error.to_string()),
            }
            if let Err(error) = &result {
                dialler.metrics.dial_failed(error.as_str());
            }
            if let Err(lost) = tell.send((endpoint, result)) {
                dialler.leave(lost.0);
            }
        }));
        is_trial
    }

    async fn dial(&self, endpoint: &Endpoint) -> Result<Answered, ConnectError> {
        let started = Instant::now();
        let stream = connect(endpoint.address, &self.tcp, self.connect_timeout).await?;
        let member = self.farewells.expect_one();
        if self.protocol == Protocol::Mysql {
            // A little before the race ends, so that it can say what was missing.
            let end = self.deadline - BEFORE_THE_END;
            let left = end.saturating_duration_since(Instant::now());
            if let Err(error) = greeted(&stream, left).await {
                // A server that hangs will greet, and count, when it goes on.
                if matches!(error, ConnectError::Silent(_)) {
                    drop(self.farewells.say(stream, Vec::new()));
                }
                return Err(error);
            }
        }
        self.metrics.dial.observe(started.elapsed().as_secs_f64());
        Ok(Answered { stream, _member: member })
    }

    /// Ends a connection that nobody wants any more as its server likes it.
    fn leave(&self, (_, result): Told) {
        if let (Protocol::Mysql, Ok(answered)) = (self.protocol, result) {
            drop(self.farewells.say(answered.stream, Vec::new()));
        }
    }
}

impl Drop for Race<'_> {
    fn drop(&mut self) {
        self.told.close();
        // Without a runtime the process is at its end.
        if Handle::try_current().is_ok() {
            while let Ok(lost) = self.told.try_recv() {
                self.dialler.leave(lost);
            }
        }
    }
}
