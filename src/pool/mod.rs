//! Upstream connections that are there before their clients.
//!
//! A warm connection is dialled and greeted, and its server has been told nothing. Its greeting stays
//! in the kernel, so who gets it is relayed to as to a fresh one: byte for byte, nonce, connection id
//! and TLS end to end.
//!
//! - None is lent that cannot be used: each is looked at before its client sees a byte. When in doubt,
//!   the client has a dial of its own, as without a pool.
//! - So many are held as arrivals of late will use within their useful age; without arrivals, none.
//! - A server is never left with an interrupted handshake: what ends unused is taken leave of.
//! - Each thread holds its own and may take another thread's. A lock is held for a look at a socket,
//!   never across an await.

mod demand;
mod idle;
mod refill;

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::drain::{Drain, Phase};
use crate::metrics::PoolMetrics;
use crate::mysql::handshake::ServerKind;
use crate::upstream::{Connected, Upstream};
use demand::Demand;
use idle::{Idle, Shard, Unfit};
use refill::{Pace, shortest};

pub use idle::Places;

/// How often what is held is looked at: who has closed makes room for another.
const EVERY: Duration = Duration::from_millis(250);
/// A server of MySQL or MariaDB gives 10 s (`connect_timeout`) from the accept to the log-in; most of
/// them are left to the client.
const USEFUL: Duration = Duration::from_secs(3);
/// More than this no setting makes of it: a time-out of theirs would be counted against this host.
const LONGEST: Duration = Duration::from_secs(8);
/// TiDB has no such time-out yet, and is about to get the same (pingcap/tidb#71155).
const USEFUL_ON_TIDB: Duration = Duration::from_secs(6);

/// The part of the useful age by which a connection of another thread has to expire sooner: to take it
/// costs a little, and to leave it might waste it.
const HEAD_START: u32 = 4;

thread_local! {
    /// The shard of this thread.
    static SHARD: Cell<usize> = const { Cell::new(0) };
}

/// The warm connections to one upstream; shared by all threads.
#[derive(Debug)]
pub struct Pool {
    upstream: Arc<Upstream>,
    warm: config::Warm,
    /// Of all pools together.
    most: usize,
    places: Arc<Places>,
    /// Connections that it holds or dials.
    held: Arc<AtomicUsize>,
    metrics: PoolMetrics,
    shards: Vec<Shard>,
    demand: Mutex<Demand>,
    /// One dial at a time, and when the next may be.
    pace: tokio::sync::Mutex<Pace>,
    began: Instant,
    retired: CancellationToken,
}

impl Pool {
    /// A pool for so many `threads`, empty until [`Self::keep`] runs on them. `most` connections may
    /// all pools that share `places` hold.
    pub fn new(
        upstream: Arc<Upstream>,
        threads: usize,
        most: usize,
        places: Arc<Places>,
        metrics: PoolMetrics,
    ) -> Arc<Self> {
        let warm = upstream.warm();
        Arc::new(Self {
            upstream,
            warm,
            most,
            places,
            held: Arc::default(),
            metrics,
            shards: (0..threads).map(|_| Shard::default()).collect(),
            demand: Mutex::new(Demand::new(shortest(warm.max_age.unwrap_or(USEFUL)))),
            pace: tokio::sync::Mutex::default(),
            began: Instant::now(),
            retired: CancellationToken::new(),
        })
    }

    /// Whether it is what `new` would make of these.
    pub fn is_of(&self, upstream: &Arc<Upstream>, most: usize) -> bool {
        Arc::ptr_eq(&self.upstream, upstream) && self.most == most
    }

    /// Whether that listener lends its connections.
    pub fn is_for(&self, listener: &config::Listener) -> bool {
        listener.pool == config::Pool::Warm && listener.upstream == self.upstream.name()
    }

    /// A connection for somebody who has come; `None`: he has to dial.
    pub fn checkout(&self) -> Option<Connected> {
        let own = SHARD.get();
        let age = self.arrived();
        let found = self.take(own, age / HEAD_START);
        self.metrics.checked_out(found.is_some());
        // There is one less, or was one too few.
        self.shards[own].wanted.notify_one();
        found.map(|idle| Connected { stream: idle.stream, in_use: idle.endpoint.lend() })
    }

    /// The one that expires first; of another thread's only what does so well before this one's.
    fn take(&self, own: usize, head_start: Duration) -> Option<Idle> {
        let expires = |(number, shard): (usize, &Shard)| {
            let expiry = shard.first_expiry()?;
            Some((if number == own { expiry } else { expiry + head_start }, number))
        };
        let now = Instant::now();
        loop {
            let (_, number) = self.shards.iter().enumerate().filter_map(expires).min()?;
            // Somebody else may have been faster.
            let Some(idle) = self.shards[number].pop() else { continue };
            match idle.unfit(now) {
                Some(reason) => self.evict(idle, reason),
                None if number == own => return Some(idle),
                None => return idle.moved(),
            }
        }
    }

    /// Holds what is worth holding on the data thread of that number, until the drain or
    /// [`Self::retire`].
    pub async fn keep(self: Arc<Self>, thread: usize, drain: Drain) {
        SHARD.set(thread);
        let shard = &self.shards[thread];
        tokio::select! {
            biased;
            () = drain.reached(Phase::Draining) => {}
            () = self.retired.cancelled() => {}
            never = self.look_after(shard) => match never {},
            never = self.refill(shard) => match never {},
        }
        while let Some(idle) = shard.pop() {
            self.evict(idle, Unfit::End);
        }
    }

    /// No listener lends its connections any more.
    pub fn retire(&self) {
        self.retired.cancel();
    }

    async fn look_after(&self, shard: &Shard) -> Infallible {
        loop {
            match shard.first_expiry() {
                Some(expiry) => sleep_until(expiry.min(Instant::now() + EVERY)).await,
                None => shard.filled.notified().await,
            }
            for (idle, reason) in shard.unfit(Instant::now()) {
                self.evict(idle, reason);
                // Nobody has come for the one that is too old: the next arrival decides.
                if reason != Unfit::Age {
                    shard.wanted.notify_one();
                }
            }
        }
    }

    fn evict(&self, idle: Idle, reason: Unfit) {
        self.metrics.evicted(reason.as_str());
        match reason {
            // Its server has ended it.
            Unfit::Spoke | Unfit::Closed => {}
            Unfit::Age | Unfit::Endpoint | Unfit::End => {
                drop(self.upstream.take_leave(idle.stream, Vec::new()));
            }
        }
    }

    /// Counts somebody who has come, and tells the useful age.
    fn arrived(&self) -> Duration {
        let mut demand = self.demand();
        demand.arrived(self.began.elapsed());
        demand.age
    }

    /// How many it should hold.
    fn worth(&self) -> usize {
        self.demand().worth(self.began.elapsed(), self.most).max(self.warm.min)
    }

    /// For how long a connection of such a server is of use, which the demand goes by from now on.
    fn useful_age(&self, kind: ServerKind) -> Duration {
        let age = match kind {
            ServerKind::TiDb => self.warm.max_age.unwrap_or(USEFUL_ON_TIDB),
            ServerKind::MySql | ServerKind::MariaDb => {
                self.warm.max_age.unwrap_or(USEFUL).min(LONGEST)
            }
        };
        self.demand().age = shortest(age);
        age
    }

    fn demand(&self) -> MutexGuard<'_, Demand> {
        self.demand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
