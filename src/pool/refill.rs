//! Dials for nobody yet: one at a time, and fewer while they fail.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::idle::{Idle, Place, Shard, Untold};
use super::{EVERY, Pool};
use crate::config::Protocol;
use crate::log::Chain;
use crate::mysql::client::await_greeting;
use crate::mysql::handshake::ServerKind;
use crate::upstream::Connected;

/// Pause after a dial that failed or was greeted with an ERR packet; doubled up to the second one.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Time for the rest of a greeting that has begun.
const FOR_THE_REST: Duration = Duration::from_secs(2);
/// A second less than MySQL and MariaDB give by default (`connect_timeout`): a client that does not
/// speak by then is let go of before they count an interrupted handshake.
const FOR_A_LOG_IN: Duration = Duration::from_secs(9);
/// Expiries lie in the last fifth of the useful age, so that what was dialled together does not end
/// together.
const SPREAD: f64 = 0.2;
/// The golden ratio's fraction: its multiples fill an interval evenly.
const GOLDEN: f64 = 0.618_033_988_749_895;

/// When the next dial may be.
#[derive(Debug, Default)]
pub(super) struct Pace {
    pause: Duration,
    pub until: Option<Instant>,
}

impl Pace {
    /// A dial has failed, or what it brought was ended by its server. Those that were ended together
    /// count once.
    pub fn failed(&mut self) {
        if self.until.is_none_or(|until| until <= Instant::now()) {
            self.pause = (self.pause * 2).clamp(PAUSES.0, PAUSES.1);
            self.until = Some(Instant::now() + spread(self.pause));
        }
    }

    /// One was of use.
    pub fn succeeded(&mut self) {
        self.pause = Duration::ZERO;
    }
}

impl Pool {
    /// Dials whenever the `shard` has been asked and too few are held.
    pub(super) async fn refill(&self, shard: &Shard) -> Infallible {
        loop {
            if self.warm.min == 0 {
                shard.wanted.notified().await;
            } else {
                // Nobody has to come for these, and nobody tells when there is a place again.
                let _ = timeout(EVERY, shard.wanted.notified()).await;
            }
            while self.lacks(&self.outlook()) {
                let _one_at_a_time = self.dialling.lock().await;
                let until = self.outlook().pace.until;
                if let Some(until) = until {
                    sleep_until(until).await;
                }
                if !self.lacks(&self.outlook()) {
                    break;
                }
                let place = self.places.take(self.most, &self.held, &self.metrics.connecting);
                let Some(place) = place else { break };
                match self.dial(place).await {
                    Ok(idle) => shard.push(idle),
                    Err(error) => {
                        debug!(upstream = self.upstream.name(), error, "cannot warm a connection");
                        self.outlook().pace.failed();
                    }
                }
            }
        }
    }

    /// A connection that was greeted. An ERR packet in the greeting's place is not kept: a client's
    /// own dial decides.
    async fn dial(&self, mut place: Place) -> Result<Idle, String> {
        let connected = self.upstream.connect(Protocol::Mysql, None).await;
        let Connected { stream, in_use, .. } =
            connected.map_err(|error| Chain(&error).to_string())?;
        let untold = Untold::new(stream, self.upstream.clone());
        let greeting = timeout(FOR_THE_REST, await_greeting(untold.stream())).await;
        match greeting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok((greeting, Some(kind))) => {
                untold.watch().map_err(|error| error.to_string())?;
                let now = Instant::now();
                let expires = now + spread(self.useful_age(kind));
                let log_in_by = (kind != ServerKind::TiDb).then(|| now + FOR_A_LOG_IN);
                let endpoint = in_use.endpoint().clone();
                place.becomes(&self.metrics.idle);
                Ok(Idle { untold, endpoint, greeting, expires, log_in_by, _place: place })
            }
            Ok((_, None)) => {
                drop(untold.into_stream());
                Err("the server refused in the place of a greeting".into())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The shortest that [`spread`] makes of a time.
pub(super) fn shortest(time: Duration) -> Duration {
    time.mul_f64(1.0 - SPREAD)
}

/// A little less than `time`.
fn spread(time: Duration) -> Duration {
    static TURN: AtomicU32 = AtomicU32::new(0);
    let turn = f64::from(TURN.fetch_add(1, Ordering::Relaxed));
    time.mul_f64(1.0 - SPREAD * (turn * GOLDEN).fract())
}
