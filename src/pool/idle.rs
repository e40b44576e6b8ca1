//! Warm connections that wait for their clients: a thread's shard of them.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::net::socket::{TcpInfo, probe};
use crate::upstream::{Endpoint, Upstream};

/// How often the kernel asks a silent server whether it is there.
const PROBED_EVERY: Duration = Duration::from_secs(1);
/// Silence after which it is taken for gone: two probes have had no answer.
const SILENT_AFTER: Duration = Duration::from_millis(2500);

/// A connection whose server will greet, or has, and has been told nothing. Dropped, the server is
/// taken leave of.
#[derive(Debug)]
pub(super) struct Untold {
    /// Until it is let go of.
    stream: Option<TcpStream>,
    upstream: Arc<Upstream>,
}

/// One that waits for its client. The greeting is still to be read.
#[derive(Debug)]
pub(super) struct Idle {
    pub untold: Untold,
    pub endpoint: Arc<Endpoint>,
    /// The greeting's length in bytes, its header included.
    pub greeting: u64,
    pub expires: Instant,
    /// Until when its server waits for a log-in, if not for ever.
    pub log_in_by: Option<Instant>,
    /// Held as long as it waits here.
    pub _place: Place,
}

/// Why a connection was not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// `warm_max_age` has passed.
    Age,
    /// Its endpoint has left DNS, or was ejected where another one is healthy.
    Endpoint,
    /// The server has said something after its greeting.
    Spoke,
    /// The server has closed or reset it.
    Closed,
    /// The server does not answer any more.
    Silent,
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
    /// Of its state.
    gauge: IntGauge,
}

impl Unfit {
    /// The `reason` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Endpoint => "endpoint",
            Self::Spoke => "spoke",
            Self::Closed => "closed",
            Self::Silent => "silent",
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
        if self.untold.upstream.avoids(&self.endpoint) {
            return Some(Unfit::Endpoint);
        }
        match TcpInfo::of(self.untold.stream()) {
            Ok(info) if !info.is_established() => Some(Unfit::Closed),
            Ok(info) if info.bytes_received != self.greeting => Some(Unfit::Spoke),
            Ok(info) if info.silence() > SILENT_AFTER => Some(Unfit::Silent),
            Ok(_) => None,
            Err(_) => Some(Unfit::Closed),
        }
    }
}

impl Untold {
    pub fn new(stream: TcpStream, upstream: Arc<Upstream>) -> Self {
        Self { stream: Some(stream), upstream }
    }

    pub fn stream(&self) -> &TcpStream {
        self.stream.as_ref().expect("not let go of")
    }

    /// Lets go of it: whoever has it now speaks to the server, or the server is gone.
    pub fn into_stream(mut self) -> TcpStream {
        self.stream.take().expect("not let go of")
    }

    /// Has the kernel ask the server often, as long as nobody has it.
    pub fn watch(&self) -> io::Result<()> {
        probe(self.stream(), PROBED_EVERY, PROBED_EVERY)
    }

    /// And as often as that of a session's, for somebody who has it from now on.
    pub fn unwatch(&self) -> io::Result<()> {
        let tcp = self.upstream.tcp();
        probe(self.stream(), tcp.keepalive_idle, tcp.keepalive_interval)
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        // Without a runtime the process is at its end.
        if let Some(stream) = self.stream.take()
            && Handle::try_current().is_ok()
        {
            drop(self.upstream.take_leave(stream, Vec::new()));
        }
    }
}

impl Shard {
    pub fn push(&self, idle: Idle) {
        let mut held = self.idle();
        let sooner = held.partition_point(|other| other.expires <= idle.expires);
        held.insert(sooner, idle);
        drop(held);
        self.filled.notify_one();
    }

    /// The one that expires first.
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

    /// When that one expires.
    pub fn first_expiry(&self) -> Option<Instant> {
        Some(self.idle().front()?.expires)
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// A place, if fewer than `most` are taken. It counts as of that state.
    pub(super) fn take(
        self: &Arc<Self>,
        most: usize,
        pool: &Arc<AtomicUsize>,
        gauge: &IntGauge,
    ) -> Option<Place> {
        let taken = |held| (held < most).then_some(held + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).ok()?;
        pool.fetch_add(1, Ordering::Relaxed);
        gauge.inc();
        Some(Place { places: self.clone(), pool: pool.clone(), gauge: gauge.clone() })
    }
}

impl Place {
    /// It counts as of that state from now on.
    pub fn becomes(&mut self, gauge: &IntGauge) {
        self.gauge.dec();
        gauge.inc();
        self.gauge = gauge.clone();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.0.fetch_sub(1, Ordering::Relaxed);
        self.pool.fetch_sub(1, Ordering::Relaxed);
        self.gauge.dec();
    }
}
