//! The client of a running bridge's admin endpoint: `drain`, `wait` and `status`.
//!
//! Each returns the text to print. Nothing here takes longer than its deadline, whoever listens at
//! the address and whatever is answered there.

mod client;
mod error;
mod status;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use hyper::Method;
use serde::de::IgnoredAny;
use tokio::time::{Instant, sleep};

use client::{ANSWER, Reply, ask};
pub use error::ControlError;
use status::Status;

/// Between two looks at a bridge that is waited for.
const POLL: Duration = Duration::from_millis(100);
/// A look has at least this long, also the last one, and the only one of a wait for no time at all.
const LOOK: Duration = Duration::from_secs(1);

/// What a wait is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The bridge is ready for connections.
    Ready,
    /// Nobody listens at the admin address.
    Gone,
}

impl Goal {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Gone => "gone",
        }
    }
}

/// Begins the drain, and tells what the bridge says to that. `token` is sent if there is one.
pub async fn drain(address: SocketAddr, token: Option<&str>) -> Result<String, ControlError> {
    const PATH: &str = "/drain";
    let reply = ask(address, Method::POST, PATH, token, ANSWER).await?;
    let said = reply.line();
    match reply.status.as_u16() {
        // Whatever else answers a POST with 200 does not say so.
        200 if said.contains("draining") => Ok(format!("tidegate: http://{address} is {said}\n")),
        401 | 403 => Err(ControlError::Forbidden { address, said, with_token: token.is_some() }),
        _ => Err(reply.unexpected(address, PATH)),
    }
}

/// Looks until the goal is reached or `max` has passed.
///
/// A bridge that is not there yet is waited for, and so is one behind something that answers in its
/// place for now: only the time tells that it will not come.
pub async fn wait(address: SocketAddr, goal: Goal, max: Duration) -> Result<String, ControlError> {
    let start = Instant::now();
    let left = || max.saturating_sub(start.elapsed());
    loop {
        let looked = match goal {
            Goal::Ready => is_ready(address, left().clamp(LOOK, ANSWER)).await,
            Goal::Gone => is_gone(address, left().clamp(LOOK, ANSWER)).await,
        };
        match looked {
            Ok(()) => return Ok(format!("tidegate: http://{address} is {}\n", goal.as_str())),
            Err(why) if left().is_zero() => {
                return Err(ControlError::Unreached { goal: goal.as_str(), max, why: why.into() });
            }
            Err(_) => sleep(POLL.min(left())).await,
        }
    }
}

async fn is_ready(address: SocketAddr, within: Duration) -> Result<(), ControlError> {
    let reply = readiness(address, within).await?;
    match reply.status.as_u16() {
        200 => Ok(()),
        503 => Err(ControlError::NotReady { address, said: reply.line() }),
        _ => Err(reply.unexpected(address, READINESS)),
    }
}

/// Only a refused connection shows that nobody is there: silence may be a bridge at its busiest.
async fn is_gone(address: SocketAddr, within: Duration) -> Result<(), ControlError> {
    match readiness(address, within).await {
        Ok(reply) => Err(ControlError::StillThere { address, said: reply.line() }),
        Err(error) if error.is_refused() => Ok(()),
        Err(error) => Err(error),
    }
}

const READINESS: &str = "/readyz";

async fn readiness(address: SocketAddr, within: Duration) -> Result<Reply, ControlError> {
    ask(address, Method::GET, READINESS, None, within).await
}

/// The state as tables for people, or as the JSON that the bridge answers with.
pub async fn status(address: SocketAddr, json: bool) -> Result<String, ControlError> {
    const PATH: &str = "/status.json";
    let reply = ask(address, Method::GET, PATH, None, ANSWER).await?;
    if reply.status.as_u16() != 200 {
        return Err(reply.unexpected(address, PATH));
    }
    let foreign = |source| ControlError::NotAStatus { address, source };
    match json {
        true => {
            serde_json::from_str::<IgnoredAny>(&reply.body).map_err(foreign)?;
            Ok(reply.body)
        }
        false => {
            let status: Status = serde_json::from_str(&reply.body).map_err(foreign)?;
            Ok(status.to_text(address, SystemTime::now()))
        }
    }
}
