//! What a configuration asks of this host: looked at before anything of it is put to work.

use std::time::SystemTime;

use tracing::{info, warn};

use super::BuildError;
use crate::config::{self, Bind, Config, read_token};
use crate::net::{descriptors, socket, unix};
use crate::tls::TlsError;
use crate::tls::client::UpstreamLeg;
use crate::tls::server::Terminator;

/// What was in the files that a configuration names.
#[derive(Debug)]
pub struct Preflight {
    /// The admin token, if there is a file for it.
    pub(super) token: Option<String>,
    /// One for each listener, in their order.
    pub(super) terminators: Vec<Option<Terminator>>,
    /// One for each upstream, in their order.
    pub(super) legs: Vec<UpstreamLeg>,
    warnings: Vec<String>,
}

/// Looks at what a configuration asks of this host, and reads the files that it names.
pub fn preflight(config: &Config) -> Result<Preflight, BuildError> {
    if let Some(name) = &config.tcp.congestion_control {
        socket::try_congestion_control(name)
            .map_err(|source| BuildError::CongestionControl { name: name.clone(), source })?;
    }
    let (mut terminators, mut legs, mut warnings) =
        (Vec::new(), Vec::new(), config::unused(config));
    warnings.extend(beyond_descriptors(config, descriptors::most()));
    for listener in &config.listeners {
        for bind in &listener.bind {
            if let Bind::Unix(path) = bind {
                unix::preflight(path, &listener.unix)
                    .map_err(|source| BuildError::Unix { path: path.clone(), source })?;
            }
        }
        let place = || format!("the listener `{}`", listener.name);
        let terminator = Terminator::new(&listener.tls).map_err(at(place))?;
        let own = terminator.iter().flat_map(|terminator| &terminator.warnings);
        warnings.extend(own.map(|warning| format!("{}: {warning}", place())));
        terminators.push(terminator);
    }
    for upstream in &config.upstreams {
        let place = || format!("[upstream.{}]", upstream.name);
        let leg = UpstreamLeg::new(&upstream.tls, &upstream.gateway.host).map_err(at(place))?;
        warnings.extend(leg.warnings().iter().map(|warning| format!("{}: {warning}", place())));
        legs.push(leg);
    }
    let token = config.admin_token_file.as_deref().map(read_token).transpose()?;
    Ok(Preflight { token, terminators, legs, warnings })
}

/// A limit of connections that this process cannot reach.
fn beyond_descriptors(config: &Config, descriptors: Option<u64>) -> Option<String> {
    let wanted = config.max_connections?;
    let most = super::sessions_within(config, descriptors);
    (wanted > most).then(|| {
        format!(
            "max_connections is {wanted}, but the limit of open files is enough for {most} (ulimit -Hn, \
             LimitNOFILE)"
        )
    })
}

fn at(place: impl Fn() -> String) -> impl Fn(TlsError) -> BuildError {
    move |source| BuildError::Tls { place: place(), source: Box::new(source) }
}

impl Preflight {
    /// What is not as it should be, but does not keep the bridge from working.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Logs what was found.
    pub(super) fn tell(&self, config: &Config) {
        self.warnings.iter().for_each(|warning| warn!("{warning}"));
        for (listener, terminator) in config.listeners.iter().zip(&self.terminators) {
            if let Some(terminator) = terminator {
                let until = humantime::format_rfc3339_seconds(terminator.expires);
                info!(listener = listener.name, %until, "its certificates are valid");
            }
        }
    }

    /// When the first certificate ends that clients are shown.
    pub(super) fn expires(&self) -> Option<SystemTime> {
        self.terminators.iter().flatten().map(|terminator| terminator.expires).min()
    }
}
