//! One upstream on its way through the checks.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::aws::Instance;
use super::finding::{Finding, Status};
use super::listen::Entrance;
use super::{address, greeting, hyperdrive, journey, login, name, tls, unfinished};
use crate::config::{self, Protocol, Tcp, UpstreamTls};
use crate::mysql::login::Login;
use crate::tls::look::Look;
use crate::upstream::plan::{Plan, Service};

/// When everything must have been said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Instant);

impl Deadline {
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    pub fn end(self) -> Instant {
        self.0
    }

    pub fn is_over(self) -> bool {
        self.0 <= Instant::now()
    }

    /// As long as this, or what is left.
    pub fn within(self, most: Duration) -> Duration {
        most.min(self.0.saturating_duration_since(Instant::now()))
    }

    /// Gives a step that much time, and returns it where that was not enough. Nothing when the time for
    /// all steps is up: then nobody knows what this one would have come to.
    pub async fn give<T>(
        self,
        most: Duration,
        step: impl Future<Output = T>,
    ) -> Option<Result<T, Duration>> {
        let within = self.within(most);
        match timeout(within, step).await {
            Ok(done) => Some(Ok(done)),
            Err(_) if self.is_over() => None,
            Err(_) => Some(Err(within)),
        }
    }
}

/// An upstream, and what is known of it before it is looked at.
#[derive(Debug)]
pub(super) struct Case {
    pub upstream: config::Upstream,
    /// Those that forward to it.
    pub entrances: Vec<Arc<Entrance>>,
    pub plan: Option<Plan>,
    pub tcp: Tcp,
    pub nameservers: Vec<SocketAddr>,
    pub look: Look,
    pub login: Option<Login>,
    pub instance: Arc<Instance>,
    pub deadline: Deadline,
    pub findings: UnboundedSender<Finding>,
    /// The last check that has failed since there was something to go on with.
    pub broken: Mutex<Option<&'static str>>,
    /// Connections, which end in order also when nobody waits for what they meet any more.
    pub tasks: TaskTracker,
}

impl Case {
    /// Looks at it step by step. A step that could not be taken leaves the next ones without what they
    /// need, and they say so.
    pub async fn examine(self) {
        name::pattern(&self);
        let addresses = name::examine(&self).await;
        self.forgive_if(!addresses.is_empty());
        let journeys = journey::begin(&self, &addresses);
        let open = address::examine(&self, journeys).await;
        self.forgive_if(!open.is_empty());
        let greeted = greeting::examine(&self, open).await;
        self.forgive_if(!greeted.is_empty());
        let secured = tls::examine(&self, greeted).await;
        let met = login::examine(&self, secured).await;
        hyperdrive::examine(&self, &addresses, &met);
        if self.deadline.is_over() {
            self.tell(unfinished());
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub fn tell(&self, mut finding: Finding) {
        if let (true, Some(broken)) = (finding.is_behind, *self.broken()) {
            finding.evidence = format!("not reached, as {broken} is broken");
        }
        // A name without its prefix keeps nobody from looking at the rest.
        if finding.status == Status::Fail && finding.check != login::USER {
            *self.broken() = Some(finding.check);
        }
        let finding = Finding { upstream: Some(self.upstream.name.clone()), ..finding };
        // Nobody listens any more when the report cannot be written.
        let _ = self.findings.send(finding);
    }

    /// What has failed before a step that left something to go on with keeps nobody from the next ones.
    fn forgive_if(&self, goes_on: bool) {
        if goes_on {
            *self.broken() = None;
        }
    }

    fn broken(&self) -> MutexGuard<'_, Option<&'static str>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn tell_all(&self, findings: impl IntoIterator<Item = Finding>) {
        findings.into_iter().for_each(|finding| self.tell(finding));
    }

    /// Checks that were not made.
    pub fn skip(&self, checks: &[&'static str], why: &str) {
        self.tell_all(checks.iter().map(|check| Finding::skip(check, why)));
    }

    /// Checks that need what an earlier one did not come to.
    pub fn behind(&self, checks: &[&'static str], why: &str) {
        self.tell_all(checks.iter().map(|check| Finding::behind(check, why)));
    }

    pub fn mode(&self) -> UpstreamTls {
        self.upstream.tls.upstream_tls
    }

    /// Whether nobody is let in without TLS: the settings ask for it, or the public gateways do.
    pub fn needs_tls(&self) -> bool {
        let is_public =
            self.is_service(Service::Starter) && !self.upstream.gateway.is_privatelink();
        self.mode().is_spoken() || (is_public && self.mode() == UpstreamTls::Passthrough)
    }

    pub fn host(&self) -> &str {
        &self.upstream.gateway.host
    }

    pub fn port(&self) -> u16 {
        self.upstream.gateway.port
    }

    /// Whether MySQL's protocol is spoken, and not any other.
    pub fn is_mysql(&self) -> bool {
        self.entrances.iter().any(|entrance| entrance.listener.protocol == Protocol::Mysql)
    }

    pub fn is_service(&self, service: Service) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.service == service)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_step_is_blamed_for_its_own_time_and_not_for_that_of_all() {
        let second = Duration::from_secs(1);
        let deadline = Deadline::after(3 * second);
        assert_eq!(deadline.give(second, ready(7)).await, Some(Ok(7)));
        assert_eq!(deadline.give(second, pending::<()>()).await, Some(Err(second)));
        assert!(!deadline.is_over());
        assert_eq!(deadline.give(5 * second, pending::<()>()).await, None);
        assert!(deadline.is_over());
    }
}
