//! Going on with another configuration.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::bindings::{Binding, adopt, bind_all, bind_as_passed};
use super::threads::ToThread;
use super::{App, BuildError, Preflight, most_connections, period, preflight};
use crate::admin::View;
use crate::config::{self, Class, Config};
use crate::log::Chain;
use crate::metrics::timestamp;
use crate::pool::Pool;
use crate::proxy::{Proxy, Unserved};
use crate::tls::client::UpstreamLeg;
use crate::upstream::Upstream;

impl App {
    /// Goes on with `config`; says why not if it cannot, and changes nothing then.
    pub(super) fn reload(&mut self, config: Result<Config, String>) {
        let result =
            config.and_then(|config| self.adopt(config).map_err(|error| Chain(&error).to_string()));
        if let Err(error) = result {
            error!(error, "cannot reload; nothing has changed");
        }
    }

    fn adopt(&mut self, mut config: Config) -> Result<(), BuildError> {
        // The files that it names may have changed although it has not.
        let found = preflight(&config)?;
        bind_as_passed(&mut config.listeners, &self.passed)?;
        let changes = config::changes(&self.config, &config);
        let of = |class| {
            let keys = changes.iter().filter(|(_, its)| *its == class).map(|(key, _)| *key);
            keys.collect::<Vec<_>>().join(" ")
        };
        config::keep_until_restart(&mut config, &self.config);
        adopt(&self.passed, &config.listeners, config.threads, &config.tcp, &mut self.bindings)?;
        let bound = bind_all(&config.listeners, config.threads, &config.tcp, &mut self.bindings)?;
        self.log.set_level(config.log.level);
        self.limits.set_most(most_connections(&config, self.descriptors));
        self.periods.send_replace(period(&config));
        found.tell(&config);
        self.config = config;
        self.install(bound, found);
        self.resolve();
        info!(live = of(Class::Live), new_sessions = of(Class::NewSessions), "reloaded");
        if changes.iter().any(|(_, class)| *class == Class::Restart) {
            warn!(keys = of(Class::Restart), "changed keys that hold only after a restart");
        }
        Ok(())
    }

    /// Puts the configuration to work on these addresses. What it no longer has is given up.
    pub(super) fn install(&mut self, bound: Vec<Vec<Binding>>, found: Preflight) {
        let before = self.view.borrow().clone();
        let tls_metrics = self.metrics.tls();
        tls_metrics.client_expiry.set(timestamp(found.expires()));
        let Preflight { token, terminators, legs, .. } = found;
        if !legs.iter().any(|leg| matches!(leg, UpstreamLeg::Tls(_))) {
            tls_metrics.upstream_expiry.set(timestamp(None));
        }
        let upstreams: Vec<_> = self
            .config
            .upstreams
            .iter()
            .zip(legs)
            .map(|(config, leg)| self.upstream(config, leg, &before))
            .collect();
        let pools = self.pools(&upstreams);
        let mut proxies = Vec::new();
        let mut bindings = Vec::new();
        for ((listener, mut own), tls) in self.config.listeners.iter().zip(bound).zip(terminators) {
            let upstream = upstreams
                .iter()
                .find(|upstream| upstream.name() == listener.upstream)
                .expect("validation has checked that the upstream exists");
            let proxy = Arc::new(Proxy {
                config: listener.clone(),
                addresses: own.iter().map(|one| one.address().clone()).collect(),
                stall_timeout: self.config.stall_timeout,
                splice: self.config.splice,
                tcp: self.config.tcp.clone(),
                upstream: upstream.clone(),
                pool: pools.iter().find(|pool| pool.is_for(listener)).cloned(),
                tls,
                gate: self.limits.gate(&listener.name),
                metrics: self.metrics.listener(&listener.name, listener.pool.results()),
                tls_metrics: tls_metrics.clone(),
                sealing_key: self.sealing_key.clone(),
                unserved: Unserved::new(&listener.name, self.log.repeats()),
                drain: self.drain.clone(),
            });
            own.iter_mut().for_each(|binding| binding.serve(proxy.clone(), &self.threads));
            bindings.append(&mut own);
            proxies.push(proxy);
        }
        // The new addresses are served before the old ones are closed.
        self.bindings = bindings;
        self.pools
            .iter()
            .filter(|old| !pools.iter().any(|pool| Arc::ptr_eq(pool, old)))
            .for_each(|old| old.retire());
        self.pools = pools;
        let is_gone =
            |old: &&Arc<Upstream>| !upstreams.iter().any(|upstream| upstream.name() == old.name());
        before.upstreams.iter().filter(is_gone).for_each(|old| old.uncount_endpoints());
        self.view.send_replace(Arc::new(View { proxies, upstreams, token }));
    }

    /// A pool for each upstream whose listeners lend warm connections: the same as before if nothing
    /// of it has changed.
    fn pools(&self, upstreams: &[Arc<Upstream>]) -> Vec<Arc<Pool>> {
        let (threads, most) = (self.threads.len(), self.config.warm_max);
        let is_warm =
            |upstream: &&Arc<Upstream>| config::lends_warm(&self.config.listeners, upstream.name());
        let pool = |upstream: &Arc<Upstream>| {
            let old = self.pools.iter().find(|old| old.is_of(upstream, most));
            old.cloned().unwrap_or_else(|| {
                let metrics = self.metrics.pool(upstream.name());
                let before = self.pools.iter().find(|old| old.is_to(upstream.name()));
                let (upstream, places) = (upstream.clone(), self.places.clone());
                let before = before.map(AsRef::as_ref);
                let pool = Pool::new(upstream, threads, most, places, metrics, before);
                for thread in &self.threads {
                    // Without a thread the bridge has ended.
                    let _ = thread.send(ToThread::Keep(pool.clone()));
                }
                pool
            })
        };
        upstreams.iter().filter(is_warm).map(pool).collect()
    }

    /// The upstream of a section: the same as before if nothing of it has changed, and nothing in its
    /// files.
    fn upstream(
        &self,
        config: &config::Upstream,
        leg: UpstreamLeg,
        before: &View,
    ) -> Arc<Upstream> {
        let tcp = &self.config.tcp;
        let nameservers = &self.config.nameservers;
        let old = self.predecessor(config, before);
        if let Some(old) = old
            && old.is_of(config, &leg, tcp, nameservers)
        {
            return old.clone();
        }
        let metrics = self.metrics.upstream(&config.name);
        let (config, tcp, drain) = (config.clone(), tcp.clone(), self.drain.clone());
        let new = Upstream::new(
            config,
            leg,
            tcp,
            nameservers.clone(),
            metrics,
            drain,
            self.log.repeats(),
        );
        if let Some(old) = old {
            new.take_over(old);
        }
        Arc::new(new)
    }

    /// The upstream of before that a section goes on with: that of its name, or, when it is the name that
    /// was changed, that of its gateway.
    fn predecessor<'v>(
        &self,
        config: &config::Upstream,
        before: &'v View,
    ) -> Option<&'v Arc<Upstream>> {
        let olds = &before.upstreams;
        let is_gone =
            |old: &Upstream| !self.config.upstreams.iter().any(|one| one.name == old.name());
        olds.iter()
            .find(|old| old.name() == config.name)
            .or_else(|| olds.iter().find(|old| *old.gateway() == config.gateway && is_gone(old)))
    }

    /// Starts the resolvers of upstreams that are new, and stops those of others.
    pub(super) fn resolve(&mut self) {
        let view = self.view.borrow().clone();
        self.resolving.retain(|(upstream, resolver)| {
            let stays = view.upstreams.iter().any(|one| Arc::ptr_eq(one, upstream));
            if !stays {
                resolver.abort();
                let goes_on = |one: &Arc<Upstream>| {
                    one.name() == upstream.name() || one.gateway() == upstream.gateway()
                };
                if !view.upstreams.iter().any(goes_on) {
                    let gone = upstream.clone();
                    self.resolvers.spawn(async move { gone.see_out().await });
                }
            }
            stays
        });
        for upstream in &view.upstreams {
            if !self.resolving.iter().any(|(one, _)| Arc::ptr_eq(one, upstream)) {
                let of = upstream.clone();
                let resolver = self.resolvers.spawn(async move { of.keep_resolved().await });
                self.resolving.push((upstream.clone(), resolver));
            }
        }
    }
}
