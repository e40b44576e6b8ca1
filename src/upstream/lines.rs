//! What an upstream logs of changes that connections bring about: a gateway that answers one dial and
//! refuses the next changes with each of them, so every line is one of a kind of which few are written.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{Level, info, warn};

use crate::log::{Kind, Labels, Repeats};

/// The lines of one upstream; its endpoints share them.
#[derive(Debug)]
pub(super) struct Lines {
    upstream: String,
    ejected: Arc<Kind>,
    healthy: Arc<Kind>,
    all_ejected: Arc<Kind>,
    not_all_ejected: Arc<Kind>,
    unresolved: Arc<Kind>,
    panicking: AtomicBool,
}

impl Lines {
    pub fn new(upstream: &str, repeats: &Repeats) -> Arc<Self> {
        let kind = |level, what| {
            let labels = Labels { upstream: Some(upstream.to_owned()), ..Labels::default() };
            repeats.kind(level, what, labels)
        };
        Arc::new(Self {
            upstream: upstream.to_owned(),
            ejected: kind(Level::WARN, "endpoint ejected"),
            healthy: kind(Level::INFO, "endpoint is healthy again"),
            all_ejected: kind(Level::WARN, "every endpoint is ejected: trying all"),
            not_all_ejected: kind(Level::INFO, "not every endpoint is ejected any more"),
            unresolved: kind(Level::WARN, "cannot resolve the gateway"),
            panicking: AtomicBool::new(false),
        })
    }

    pub fn ejected(&self, endpoint: SocketAddr, evidence: &str) {
        if self.ejected.admit() {
            warn!(upstream = self.upstream, %endpoint, evidence, "endpoint ejected");
        }
    }

    pub fn healthy(&self, endpoint: SocketAddr) {
        if self.healthy.admit() {
            info!(upstream = self.upstream, %endpoint, "endpoint is healthy again");
        }
    }

    /// Says once that no endpoint is healthy, and once that one is again.
    pub fn all_ejected(&self, all: bool) {
        if self.panicking.swap(all, Ordering::Relaxed) == all {
            return;
        }
        if all && self.all_ejected.admit() {
            warn!(upstream = self.upstream, "every endpoint is ejected: trying all");
        }
        if !all && self.not_all_ejected.admit() {
            info!(upstream = self.upstream, "not every endpoint is ejected any more");
        }
    }

    /// `kept` addresses are known from before.
    pub fn unresolved(&self, cause: &str, kept: usize) {
        if self.unresolved.admit() {
            warn!(upstream = self.upstream, cause, kept, "cannot resolve the gateway");
        }
    }
}
