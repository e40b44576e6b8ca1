//! How many connections there may be: in all, for each listener and for each source; how fast they
//! may come; and the short queue of those that have to wait.
//!
//! The counts outlive a configuration, so that a reload changes limits and loses nobody.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use crate::config;
use crate::mysql::packet::ErrorCode;

/// What `accept_rate` allows at once after a quiet time: the connections of one second.
const BURST: Duration = Duration::from_secs(1);

/// The counts of the process; shared by all listeners and threads.
#[derive(Debug)]
pub struct Limits(Mutex<State>);

/// A listener's part of them.
#[derive(Debug)]
pub struct Gate {
    limits: Arc<Limits>,
    listener: usize,
}

#[derive(Debug)]
struct State {
    /// Connections that there may be in all.
    most: usize,
    open: usize,
    listeners: Vec<Counts>,
    /// The first to come is the first to go in, of those for whom there is room.
    waiting: VecDeque<Waiter>,
    next_waiter: u64,
}

/// What is counted of one listener.
#[derive(Debug, Default)]
struct Counts {
    name: String,
    open: usize,
    waiting: usize,
    /// Sources with connections that are open or wait.
    sources: HashMap<Origin, usize>,
    /// When `accept_rate` would have let the last connection in, had it come without a burst.
    rate: Option<Instant>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    gate: Arc<Gate>,
    most: Option<usize>,
    go: oneshot::Sender<Place>,
}

/// A connection that counts, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    _place: Place,
    _share: Option<Share>,
}

/// One of `max_connections`.
#[derive(Debug)]
struct Place(Arc<Gate>);

/// One of a source's `max_connections_per_source`: taken before anything is waited for, so that one
/// source has no more in the queue than it may have open, and uses up no `accept_rate` beyond that.
#[derive(Debug)]
struct Share {
    gate: Arc<Gate>,
    source: Origin,
}

/// Where a client is: its address, and the private endpoint that it came through, if a load balancer
/// has told, because networks behind different ones may use the same addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub address: IpAddr,
    pub vpc_endpoint: Option<Box<str>>,
    pub link_id: Option<u32>,
}

/// Why a connection is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `allow` and `deny` say so.
    Denied(IpAddr),
    /// `max_connections_per_source`, and its value.
    Source(IpAddr, usize),
    /// `max_connections`, and its value.
    Full(usize),
    /// `accept_rate`, and its value.
    Rate(u32),
}

impl Refusal {
    /// The `reason` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::Source(..) => "source",
            Self::Full(_) => "limit",
            Self::Rate(_) => "rate",
        }
    }

    /// What a MySQL client is told it with.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Denied(_) => ErrorCode::Denied,
            Self::Source(..) | Self::Full(_) | Self::Rate(_) => ErrorCode::TooMany,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(source) => write!(f, "host {source} is not allowed to connect"),
            Self::Source(source, most) => write!(
                f,
                "too many connections from {source} (max_connections_per_source is {most})"
            ),
            Self::Full(most) => write!(f, "too many connections (max_connections is {most})"),
            Self::Rate(rate) => {
                write!(f, "connections come too fast (accept_rate is {rate} a second)")
            }
        }
    }
}

impl Limits {
    /// Nobody is there yet; `most` there may be in all.
    pub fn new(most: usize) -> Arc<Self> {
        let (listeners, waiting) = (Vec::new(), VecDeque::new());
        Arc::new(Self(Mutex::new(State { most, open: 0, listeners, waiting, next_waiter: 0 })))
    }

    /// The part of the listener called `name`, the same for every listener of that name.
    pub fn gate(self: &Arc<Self>, name: &str) -> Arc<Gate> {
        let mut state = self.state();
        let known = state.listeners.iter().position(|counts| counts.name == name);
        let listener = known.unwrap_or_else(|| {
            state.listeners.push(Counts { name: name.to_owned(), ..Counts::default() });
            state.listeners.len() - 1
        });
        Arc::new(Gate { limits: self.clone(), listener })
    }

    /// Changes how many there may be in all. Those who are there stay.
    pub fn set_most(&self, most: usize) {
        self.state().most = most;
        self.let_in();
    }

    /// Lets those in who wait and for whom there is room now.
    fn let_in(&self) {
        loop {
            let waiter = {
                let mut state = self.state();
                let fits = |one: &Waiter| state.has_room(one.gate.listener, one.most);
                let Some(at) = state.waiting.iter().position(fits) else { return };
                let Some(waiter) = state.waiting.remove(at) else { return };
                state.enter(waiter.gate.listener);
                waiter
            };
            // One that has just lost patience drops its place, which makes room again.
            drop(waiter.go.send(Place(waiter.gate)));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// Lets a connection in, at once or after a while in the queue. `allow` and `deny` go by its
    /// `address`, `None` over a Unix socket; `max_connections_per_source` goes by the `source` that it
    /// counts for, `None` as well where it is no client's: a load balancer's own.
    pub(super) async fn admit(
        self: &Arc<Self>,
        listener: &config::Listener,
        address: Option<IpAddr>,
        source: Option<Origin>,
    ) -> Result<Permit, Refusal> {
        if let Some(address) = address.filter(|address| !is_allowed(listener, *address)) {
            return Err(Refusal::Denied(address));
        }
        let most_per_source = listener.max_connections_per_source;
        let share = source.map(|source| self.share(source, most_per_source)).transpose()?;
        let patience = Instant::now() + listener.queue_timeout;
        self.keep_rate(listener).await?;
        Ok(Permit { _place: self.place(listener, patience).await?, _share: share })
    }

    fn share(self: &Arc<Self>, source: Origin, most: Option<usize>) -> Result<Share, Refusal> {
        let mut state = self.limits.state();
        let sources = &mut state.listeners[self.listener].sources;
        if let Some(most) = most.filter(|most| sources.get(&source) >= Some(most)) {
            return Err(Refusal::Source(source.address, most));
        }
        *sources.entry(source.clone()).or_default() += 1;
        Ok(Share { gate: self.clone(), source })
    }

    async fn place(
        self: &Arc<Self>,
        listener: &config::Listener,
        patience: Instant,
    ) -> Result<Place, Refusal> {
        let most = listener.max_connections;
        let (arrival, queued) = {
            let mut state = self.limits.state();
            if state.has_room(self.listener, most) {
                state.enter(self.listener);
                return Ok(Place(self.clone()));
            }
            if state.listeners[self.listener].waiting >= listener.queue {
                return Err(state.full(self.listener, most));
            }
            state.listeners[self.listener].waiting += 1;
            let number = state.next_waiter;
            state.next_waiter += 1;
            let (go, arrival) = oneshot::channel();
            state.waiting.push_back(Waiter { number, gate: self.clone(), most, go });
            (arrival, Queued { gate: self, number: Some(number) })
        };
        let arrived = timeout_at(patience, arrival).await;
        drop(queued);
        match arrived {
            Ok(Ok(place)) => Ok(place),
            _ => Err(self.limits.state().full(self.listener, most)),
        }
    }

    /// Waits until `accept_rate` lets the next one in: a bucket of [`BURST`] that fills evenly
    /// (the generic cell rate algorithm of ITU-T I.371).
    async fn keep_rate(&self, listener: &config::Listener) -> Result<(), Refusal> {
        let Some(rate) = listener.accept_rate else { return Ok(()) };
        let now = Instant::now();
        let wait = {
            let mut state = self.limits.state();
            let counts = &mut state.listeners[self.listener];
            let due = counts.rate.map_or(now, |due| due.max(now));
            let wait = (due - now).saturating_sub(BURST);
            let waits = !wait.is_zero();
            if waits && (wait > listener.queue_timeout || counts.waiting >= listener.queue) {
                return Err(Refusal::Rate(rate.get()));
            }
            counts.rate = Some(due + Duration::from_secs(1) / rate.get());
            counts.waiting += usize::from(waits);
            wait
        };
        if !wait.is_zero() {
            let _queued = Queued { gate: self, number: None };
            sleep(wait).await;
        }
        Ok(())
    }
}

impl State {
    /// Who waits for room on another listener is no reason to wait as well.
    fn has_room(&self, listener: usize, most: Option<usize>) -> bool {
        self.open < self.most && most.is_none_or(|most| self.listeners[listener].open < most)
    }

    /// The limit that stands in the way: the listener's own before that of all.
    fn full(&self, listener: usize, most: Option<usize>) -> Refusal {
        let open = self.listeners[listener].open;
        Refusal::Full(most.filter(|most| open >= *most).unwrap_or(self.most))
    }

    fn enter(&mut self, listener: usize) {
        self.open += 1;
        self.listeners[listener].open += 1;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let limits = &self.0.limits;
        let somebody_waits = {
            let mut state = limits.state();
            state.open -= 1;
            state.listeners[self.0.listener].open -= 1;
            !state.waiting.is_empty()
        };
        if somebody_waits {
            limits.let_in();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.gate.limits.state();
        let sources = &mut state.listeners[self.gate.listener].sources;
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

/// Counts for `queue`, with a place in it if it waits for room; given up when it is dropped.
struct Queued<'g> {
    gate: &'g Gate,
    number: Option<u64>,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.limits.state();
        state.listeners[self.gate.listener].waiting -= 1;
        if self.number.is_some() {
            state.waiting.retain(|waiter| Some(waiter.number) != self.number);
        }
    }
}

/// `deny` goes before `allow`; an empty `allow` allows everybody.
pub(super) fn is_allowed(listener: &config::Listener, source: IpAddr) -> bool {
    let is_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&source));
    !is_in(&listener.deny) && (listener.allow.is_empty() || is_in(&listener.allow))
}
