//! What the probes answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use super::View;
use crate::drain::{Drain, Phase};

/// The state behind `/readyz` and `/startupz`.
///
/// Neither depends on the database: a bridge that was taken out of service because its database is
/// down could not tell its clients so. `/healthz/deep` is there for those who want to know.
pub(super) struct Health {
    drain: Drain,
    view: watch::Receiver<Arc<View>>,
    started: AtomicBool,
}

impl Health {
    pub fn new(drain: Drain, view: watch::Receiver<Arc<View>>) -> Self {
        Self { drain, view, started: AtomicBool::new(false) }
    }

    /// Listening, not draining, and an address known for every gateway.
    pub fn ready(&self) -> Result<String, String> {
        if self.drain.phase() != Phase::Serving {
            return Err("draining".into());
        }
        match self.unresolved() {
            None => Ok("ready".into()),
            Some(why) => Err(why),
        }
    }

    /// As ready once; it stays started.
    pub fn started(&self) -> Result<String, String> {
        if !self.started.load(Ordering::Relaxed) {
            if let Some(why) = self.unresolved() {
                return Err(why);
            }
            self.started.store(true, Ordering::Relaxed);
        }
        Ok("started".into())
    }

    fn unresolved(&self) -> Option<String> {
        let view = self.view.borrow().clone();
        let upstream = view.upstreams.iter().find(|upstream| !upstream.is_resolved())?;
        let snapshot = upstream.snapshot();
        let why = snapshot.dns_error.unwrap_or_else(|| "the name is being looked up".into());
        Some(format!("no address for {}: {why}", snapshot.gateway))
    }
}
