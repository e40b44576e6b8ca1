//! The end of a bridge: what starts it, how far it is, and who is still there.
//!
//! Serving -> leaving (not ready, but still accepting) -> draining (no new connections, sessions go
//! on) -> retiring (idle sessions are closed) -> closing (the drain timeout has passed, or nobody is
//! left). A phase never goes back.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::info;

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Connections are accepted.
    Serving,
    /// Connections are accepted, but whoever asks is told that it is not ready.
    Leaving,
    /// No new connections; sessions go on.
    Draining,
    /// Sessions end as they fall idle.
    Retiring,
    /// Sessions end now.
    Closing,
}

/// A handle on the bridge's life; clones share it, on all threads.
#[derive(Debug, Clone)]
pub struct Drain {
    phase: Arc<watch::Sender<Phase>>,
    members: TaskTracker,
}

impl Phase {
    /// The word of the status page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Leaving => "leaving",
            Self::Draining => "draining",
            Self::Retiring => "retiring",
            Self::Closing => "closing",
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// A bridge that serves.
    pub fn new() -> Self {
        let members = TaskTracker::new();
        members.close();
        Self { phase: Arc::new(watch::Sender::new(Phase::Serving)), members }
    }

    /// How far the end has come.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Starts the end; nothing happens when it has already begun.
    pub fn begin(&self) {
        self.advance(Phase::Leaving);
    }

    /// Ends the sessions that are left.
    pub fn close(&self) {
        self.advance(Phase::Closing);
    }

    /// Returns once `phase` has been reached.
    pub async fn reached(&self, phase: Phase) {
        let mut receiver = self.phase.subscribe();
        // The sender lives as long as `self`.
        let _ = receiver.wait_for(|now| *now >= phase).await;
    }

    /// Counts the holder as somebody to wait for: a session, or a listener that may yet accept.
    pub fn join(&self) -> TaskTrackerToken {
        self.members.token()
    }

    /// Returns once nobody is left.
    pub async fn empty(&self) {
        self.members.wait().await;
    }

    /// Goes on to `to`, unless it has come further already.
    pub fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|now| {
            let later = *now < to;
            if later {
                *now = to;
            }
            later
        });
    }
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on the two signals no longer end the process by themselves.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Begins the drain at the first signal and returns at the second.
    pub async fn watch(mut self, drain: &Drain) {
        // Not inside the macro: what a disabled level does not write, it does not await either.
        let signal = self.next().await;
        info!(signal, "draining; a second signal exits at once");
        drain.begin();
        let signal = self.next().await;
        info!(signal, "second signal: exiting at once");
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_are_reached_in_order_and_never_go_back() {
        let drain = Drain::new();
        drain.close();
        drain.begin();
        assert_eq!(drain.phase(), Phase::Closing);
        drain.reached(Phase::Draining).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_is_waited_for() {
        let drain = Drain::new();
        let member = drain.join();
        let wait = std::time::Duration::from_secs(60);
        assert!(tokio::time::timeout(wait, drain.empty()).await.is_err());
        drop(member);
        drain.empty().await;
    }
}
