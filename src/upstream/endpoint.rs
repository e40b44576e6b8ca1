//! One resolved address of a gateway: what is known of it, and who uses it.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::health::{Health, Standing};
use super::lines::Lines;
use crate::net::connect::ConnectError;

/// An address; shared by all threads for as long as a session uses it.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    lines: Arc<Lines>,
    since: Instant,
    state: Mutex<State>,
    sessions: AtomicUsize,
    /// Held by itself and by each [`Claim`].
    claims: Arc<()>,
    retire: Arc<AtomicBool>,
}

#[derive(Debug)]
struct State {
    health: Health,
    vanished_at: Option<Instant>,
    /// The last dial that told anything was refused.
    refuses: bool,
    transition: Transition,
}

/// The last change of an endpoint's state.
#[derive(Debug, Clone)]
struct Transition {
    at: SystemTime,
    evidence: String,
}

/// What an endpoint is good for, for metrics and the status page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// Takes connections.
    Healthy,
    /// Goes last, because dials failed.
    Ejected,
    /// Left the answer; sessions still use it.
    Vanished,
}

impl EndpointState {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Ejected, Self::Vanished];

    /// The `state` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Ejected => "ejected",
            Self::Vanished => "vanished",
        }
    }
}

/// An endpoint at one moment.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Snapshot {
    /// Where it is.
    pub address: SocketAddr,
    /// What it is good for.
    pub state: EndpointState,
    /// Sessions that use it.
    pub sessions: usize,
    /// Seconds that it still goes last.
    pub ejected_for_seconds: Option<u64>,
    /// When the state changed last, seconds since 1970.
    pub changed_at: u64,
    /// What the change rests on.
    pub evidence: String,
}

impl Endpoint {
    /// An address that a name resolved to, or a literal.
    pub(super) fn new(lines: Arc<Lines>, address: SocketAddr) -> Arc<Self> {
        let transition = Transition { at: SystemTime::now(), evidence: "resolved".into() };
        Arc::new(Self {
            address,
            lines,
            since: Instant::now(),
            state: Mutex::new(State {
                health: Health::default(),
                vanished_at: None,
                refuses: false,
                transition,
            }),
            sessions: AtomicUsize::new(0),
            claims: Arc::default(),
            retire: Arc::new(AtomicBool::new(false)),
        })
    }

    /// What past dials say.
    pub fn standing(&self) -> Standing {
        self.state().health.standing(self.since.elapsed())
    }

    /// Whether it has left the answer.
    pub fn has_vanished(&self) -> bool {
        self.state().vanished_at.is_some()
    }

    /// Whether nobody listens there any more: what its server has greeted before ends soon as well.
    pub fn refuses(&self) -> bool {
        self.state().refuses
    }

    /// One connection tries it although it was ejected. `false` when no trial is due, or another
    /// connection is at it.
    pub fn begin_trial(&self) -> bool {
        self.state().health.begin_trial(self.since.elapsed())
    }

    /// A dial was answered.
    pub fn succeeded(&self) {
        let mut state = self.state();
        state.refuses = false;
        if state.health.succeeded() {
            state.transition = Transition::now("a dial was answered");
            self.lines.healthy(self.address);
        }
    }

    /// A dial failed.
    pub fn failed(&self, error: &ConnectError) {
        self.state().refuses = error.is_refused();
        self.eject(error);
    }

    /// A dial was overtaken by one that began later.
    pub fn overtaken(&self) {
        self.eject("another endpoint answered sooner, dialled later");
    }

    fn eject(&self, evidence: impl Display) {
        let mut state = self.state();
        if state.health.failed(self.since.elapsed()) {
            let evidence = evidence.to_string();
            self.lines.ejected(self.address, &evidence);
            state.transition = Transition::now(evidence);
        }
    }

    /// Sessions that use it now.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Whether a session uses it, or may yet: a dial is under way or to come.
    pub fn is_in_use(&self) -> bool {
        // In this order: a claim is given up after its session has been counted.
        Arc::strong_count(&self.claims) > 1 || self.sessions() > 0
    }

    /// Counts a dial until the guard is dropped.
    pub fn claim(self: &Arc<Self>) -> Claim {
        Claim { endpoint: self.clone(), _counted: self.claims.clone() }
    }

    /// Counts a session until the guard is dropped.
    pub fn lend(self: Arc<Self>) -> InUse {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        InUse(self)
    }

    /// It has left the answer, or is in it again.
    pub fn set_vanished(&self, vanished: bool) {
        let mut state = self.state();
        match (vanished, state.vanished_at) {
            (true, None) => {
                state.vanished_at = Some(Instant::now());
                state.transition = Transition::now("left the DNS answer");
            }
            (false, Some(_)) => {
                state.vanished_at = None;
                state.transition = Transition::now("is in the DNS answer again");
                self.retire.store(false, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// Asks its sessions to end at their next quiet second, once it has been gone for `after`.
    pub fn retire_when_gone_for(&self, after: Duration) {
        if self.state().vanished_at.is_some_and(|at| at.elapsed() >= after) {
            self.retire.store(true, Ordering::Relaxed);
        }
    }

    /// Becomes true when its sessions shall end.
    pub fn retire_flag(&self) -> Arc<AtomicBool> {
        self.retire.clone()
    }

    /// The state now.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.state();
        let now = self.since.elapsed();
        let changed = state.transition.at.duration_since(SystemTime::UNIX_EPOCH);
        Snapshot {
            address: self.address,
            state: match (state.vanished_at, state.health.standing(now)) {
                (Some(_), _) => EndpointState::Vanished,
                (None, Standing::Healthy) => EndpointState::Healthy,
                (None, Standing::Due | Standing::Ejected) => EndpointState::Ejected,
            },
            sessions: self.sessions(),
            ejected_for_seconds: state.health.ejected_for(now).map(|left| left.as_secs() + 1),
            changed_at: changed.unwrap_or_default().as_secs(),
            evidence: state.transition.evidence.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transition {
    fn now(evidence: impl Into<String>) -> Self {
        Self { at: SystemTime::now(), evidence: evidence.into() }
    }
}

/// A dial of an endpoint, under way or to come.
#[derive(Debug, Clone)]
pub struct Claim {
    endpoint: Arc<Endpoint>,
    _counted: Arc<()>,
}

impl Claim {
    /// Its session begins.
    pub fn lend(self) -> InUse {
        self.endpoint.lend()
    }
}

impl Deref for Claim {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.endpoint
    }
}

/// A session's use of an endpoint.
#[derive(Debug)]
pub struct InUse(Arc<Endpoint>);

impl InUse {
    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}
