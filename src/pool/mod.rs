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
//! - Each thread holds its own and may take another thread's. A lock is held for a look at a socket;
//!   only the one that lets one thread dial at a time is held across an await.
//!
//! Two loops on each thread, in [`Pool::keep`]: one looks after what is held, one dials.

mod demand;
mod idle;
mod refill;

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
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

/// By this much a connection of another thread has to expire sooner: to take it costs a little, and to
/// leave it might waste it.
const HEAD_START: Duration = Duration::from_millis(500);

thread_local! {
    /// The shard of this thread.
    static SHARD: Cell<usize> = const { Cell::new(0) };
}

/// Says which shard is the current thread's: that of the data thread of this number.
pub fn own_shard(number: usize) {
    SHARD.set(number);
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
    outlook: Mutex<Outlook>,
    /// One dial at a time.
    dialling: tokio::sync::Mutex<()>,
    began: Instant,
    retired: CancellationToken,
}

/// What is to be expected of clients, and of the server.
#[derive(Debug)]
struct Outlook {
    demand: Demand,
    pace: Pace,
}

impl Pool {
    /// A pool for so many `threads`, empty until [`Self::keep`] runs on them. `most` connections may
    /// all pools that share `places` hold. It knows what the one `before` it knew of its clients.
    pub fn new(
        upstream: Arc<Upstream>,
        threads: usize,
        most: usize,
        places: Arc<Places>,
        metrics: PoolMetrics,
        before: Option<&Self>,
    ) -> Arc<Self> {
        let warm = upstream.warm();
        let age = shortest(warm.max_age.unwrap_or(USEFUL));
        let demand = match before {
            Some(before) => before.outlook().demand.clone().adapted(age, most),
            None => Demand::new(age, most),
        };
        let outlook = Outlook { demand, pace: Pace::default() };
        Arc::new(Self {
            upstream,
            warm,
            most,
            places,
            held: Arc::default(),
            metrics,
            shards: (0..threads).map(|_| Shard::default()).collect(),
            outlook: Mutex::new(outlook),
            dialling: tokio::sync::Mutex::default(),
            began: before.map_or_else(Instant::now, |before| before.began),
            retired: CancellationToken::new(),
        })
    }

    /// Whether it is what `new` would make of these.
    pub fn is_of(&self, upstream: &Arc<Upstream>, most: usize) -> bool {
        Arc::ptr_eq(&self.upstream, upstream) && self.most == most
    }

    /// Whether it is for the upstream of that name.
    pub fn is_to(&self, upstream: &str) -> bool {
        self.upstream.name() == upstream
    }

    /// Whether that listener lends its connections.
    pub fn is_for(&self, listener: &config::Listener) -> bool {
        listener.pool == config::Pool::Warm && self.is_to(&listener.upstream)
    }

    /// A connection for somebody who has come; `None`: he has to dial.
    pub fn checkout(&self) -> Option<Connected> {
        let (own, now) = (SHARD.get(), Instant::now());
        let found = self.take(own, now);
        self.metrics.checked_out(found.is_some(), now.elapsed());
        let mut outlook = self.outlook();
        outlook.demand.arrived(now - self.began, found.is_some());
        if found.is_some() {
            outlook.pace.succeeded();
        }
        let lacks = self.lacks(&outlook);
        drop(outlook);
        // There may be one less, or have been one too few.
        if lacks {
            self.shards[own].wanted.notify_one();
        }
        found
    }

    /// The one that expires first; of another thread's only what does so well before this one's.
    fn take(&self, own: usize, now: Instant) -> Option<Connected> {
        let expires = |(number, shard): (usize, &Shard)| {
            let expiry = shard.first_expiry()?;
            Some((if number == own { expiry } else { expiry + HEAD_START }, number))
        };
        loop {
            let (_, number) = self.shards.iter().enumerate().filter_map(expires).min()?;
            // Somebody else may have been faster.
            let Some(idle) = self.shards[number].pop() else { continue };
            match idle.unfit(now) {
                Some(reason) => self.evict(idle, reason),
                // Its server may still end it before the client has spoken, as any server may.
                None => return self.lend(idle, number == own, now),
            }
        }
    }

    /// Hands it over to a session of this thread. `None` if the host lacks what that takes.
    fn lend(&self, idle: Idle, is_own: bool, now: Instant) -> Option<Connected> {
        idle.untold.unwatch().ok()?;
        let mut stream = idle.untold.into_stream();
        if !is_own {
            // For the reactor of this thread.
            stream = stream.into_std().and_then(TcpStream::from_std).ok()?;
        }
        let log_in_within = idle.log_in_by.map(|by| by.saturating_duration_since(now));
        Some(Connected { stream, in_use: idle.endpoint.lend(), log_in_within })
    }

    /// Holds what is worth holding on the data thread of that number, until the drain or
    /// [`Self::retire`].
    pub async fn keep(self: Arc<Self>, thread: usize, drain: Drain) {
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
        let mut outlook = self.outlook();
        // What is held whoever comes is no misjudgement.
        if reason != Unfit::End && self.held.load(Ordering::Relaxed) > self.warm.min {
            outlook.demand.unused();
        }
        if matches!(reason, Unfit::Spoke | Unfit::Closed) {
            outlook.pace.failed();
            // Its server has ended it: nothing is left to say.
            drop(idle.untold.into_stream());
        }
    }

    /// Whether it holds fewer than it should.
    fn lacks(&self, outlook: &Outlook) -> bool {
        let worth = outlook.demand.worth(self.began.elapsed());
        self.held.load(Ordering::Relaxed) < worth.max(self.warm.min)
    }

    /// For how long a connection of such a server is of use, which the demand goes by from now on.
    fn useful_age(&self, kind: ServerKind) -> Duration {
        let age = match kind {
            ServerKind::TiDb => self.warm.max_age.unwrap_or(USEFUL_ON_TIDB),
            ServerKind::MySql | ServerKind::MariaDb => {
                self.warm.max_age.unwrap_or(USEFUL).min(LONGEST)
            }
        };
        self.outlook().demand.age = shortest(age);
        age
    }

    fn outlook(&self) -> MutexGuard<'_, Outlook> {
        self.outlook.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
