//! Warm connections that wait for their clients: a thread's shard of them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntGauge;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::net::socket::TcpInfo;
use crate::upstream::Endpoint;

/// A connection that was greeted and has been told nothing. The greeting is still to be read.
#[derive(Debug)]
pub(super) struct Idle {
    pub stream: TcpStream,
    pub endpoint: Arc<Endpoint>,
    /// The greeting's length in bytes, its header included.
    pub greeting: u64,
    pub expires: Instant,
    /// Held as long as it waits here.
    pub _place: Place,
}

/// Why a connection was not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// `warm_max_age` has passed.
    Age,
    /// Its endpoint was ejected, or has left DNS.
    Endpoint,
    /// The server has said something after its greeting.
    Spoke,
    /// The server has closed or reset it.
    Closed,
    /// The bridge or this pool ends.
    End,
}

/// What one thread holds; others may take from it.
#[derive(Debug, Default)]
pub(super) struct Shard {
    idle: Mutex<VecDeque<Idle>>,
    /// There is one to look after.
    pub filled: Notify,
    /// Somebody has come, or one has ended unused.
    pub wanted: Notify,
}

/// How many connections all pools hold.
#[derive(Debug, Default)]
pub struct Places(AtomicUsize);

/// One of them, counted until it is dropped: for all, and for its pool.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    pool: Arc<AtomicUsize>,
    idle: IntGauge,
}

impl Unfit {
    /// The `reason` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Endpoint => "endpoint",
            Self::Spoke => "spoke",
            Self::Closed => "closed",
            Self::End => "end",
        }
    }
}

impl Idle {
    /// What keeps it from being used now.
    pub fn unfit(&self, now: Instant) -> Option<Unfit> {
        if now >= self.expires {
            return Some(Unfit::Age);
        }
        if !self.endpoint.takes_connections() {
            return Some(Unfit::Endpoint);
        }
        match TcpInfo::of(&self.stream) {
            Ok(info) if !info.is_established() => Some(Unfit::Closed),
            Ok(info) if info.bytes_received == self.greeting => None,
            Ok(_) => Some(Unfit::Spoke),
            Err(_) => Some(Unfit::Closed),
        }
    }

    /// The same for the reactor of the current thread.
    pub fn moved(self) -> Option<Self> {
        let stream = self.stream.into_std().and_then(TcpStream::from_std).ok()?;
        Some(Self { stream, ..self })
    }
}

impl Shard {
    pub fn push(&self, idle: Idle) {
        self.idle().push_back(idle);
        self.filled.notify_one();
    }

    /// The one that has waited longest.
    pub fn pop(&self) -> Option<Idle> {
        self.idle().pop_front()
    }

    /// Takes out what can no longer be used.
    pub fn unfit(&self, now: Instant) -> Vec<(Idle, Unfit)> {
        let mut held = self.idle();
        let mut unfit = Vec::new();
        for _ in 0..held.len() {
            let Some(idle) = held.pop_front() else { break };
            match idle.unfit(now) {
                Some(reason) => unfit.push((idle, reason)),
                None => held.push_back(idle),
            }
        }
        unfit
    }

    /// When the one expires that has waited longest.
    pub fn first_expiry(&self) -> Option<Instant> {
        Some(self.idle().front()?.expires)
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// A place, if fewer than `most` are taken.
    pub(super) fn take(
        self: &Arc<Self>,
        most: usize,
        pool: &Arc<AtomicUsize>,
        idle: &IntGauge,
    ) -> Option<Place> {
        let taken = |held| (held < most).then_some(held + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).ok()?;
        pool.fetch_add(1, Ordering::Relaxed);
        idle.inc();
        Some(Place { places: self.clone(), pool: pool.clone(), idle: idle.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.0.fetch_sub(1, Ordering::Relaxed);
        self.pool.fetch_sub(1, Ordering::Relaxed);
        self.idle.dec();
    }
}
