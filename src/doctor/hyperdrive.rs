//! What Cloudflare's Hyperdrive would say of it.
//!
//! Source: Cloudflare's documentation of Hyperdrive ("Supported databases and features",
//! "Troubleshoot and debug"): TLS always, two plugins, no private addresses as the origin.

use std::net::SocketAddr;

use super::case::Case;
use super::finding::Finding;
use super::listen;
use super::login::Met;
use super::plugin;
use crate::config::{ClientTls, UpstreamTls, is_public};

const ORIGIN: &str = "hyperdrive.origin";
const TLS: &str = "hyperdrive.tls";
const PLUGIN: &str = "hyperdrive.plugin";
/// Those that it speaks.
const PLUGINS: [&str; 2] = ["caching_sha2_password", "mysql_native_password"];

/// Looks at what is known.
pub(super) fn examine(case: &Case, addresses: &[SocketAddr], met: &Met) {
    if !case.is_mysql() {
        case.skip(&[ORIGIN, TLS, PLUGIN], "protocol = \"tcp\": Hyperdrive is not for it");
        return;
    }
    case.tell(origin(case, addresses));
    case.tell(tls(case, met));
    case.tell(plugin(met));
}

fn origin(case: &Case, addresses: &[SocketAddr]) -> Finding {
    let also = &case.upstream.private_cidrs;
    let is_private = |address: &SocketAddr| !is_public(address.ip(), also);
    match addresses.iter().find(|address| is_private(address)) {
        _ if addresses.is_empty() => Finding::behind(ORIGIN, "there is no address"),
        None => Finding::ok(ORIGIN, "the gateway is public: it can be the origin itself"),
        // What most gateways are, and so nothing to be warned of each time.
        Some(address) => Finding::ok(
            ORIGIN,
            format!(
                "{} is private, so no origin for Hyperdrive (errors 2008, 2009): a Workers VPC service \
                 or a tunnel leads it to this bridge",
                address.ip()
            ),
        ),
    }
}

/// As a client of the bridge sees it.
fn tls(case: &Case, met: &Met) -> Finding {
    if let Some(offers) = case.entrances.iter().find(|entrance| entrance.offers_tls()) {
        return Finding::ok(TLS, format!("the listener {} offers it", offers.listener.name));
    }
    if case.entrances.iter().any(|one| one.listener.tls.client_tls != ClientTls::Off) {
        return Finding::skip(TLS, format!("not known, as {} is broken", listen::TLS));
    }
    let none = |why: &str| {
        Finding::warn(TLS, "no_tls_for_hyperdrive", why)
            .likely("Hyperdrive speaks nothing but TLS with its origin (error 2012)")
            .hint(
                "let the bridge offer it: client_tls = \"required\", with tls_cert and tls_key; \
                 nothing needs to be done without Hyperdrive",
            )
    };
    match (case.mode(), &met.greeted) {
        (UpstreamTls::Passthrough, None) => Finding::behind(TLS, "no server has greeted"),
        (UpstreamTls::Passthrough, Some(greeted)) if greeted.offers_tls => {
            Finding::ok(TLS, "the server offers it, through the bridge")
        }
        (UpstreamTls::Passthrough, Some(_)) => none("neither the server nor the bridge offers it"),
        _ => none("client_tls = \"off\": the bridge offers clients none"),
    }
}

fn plugin(met: &Met) -> Finding {
    let Some(greeted) = &met.greeted else {
        return Finding::behind(PLUGIN, "no server has greeted");
    };
    let (plugin, whose) = match &met.plugin {
        Some(plugin) => (plugin, "the user's"),
        None => (&greeted.plugin, "the server's default"),
    };
    let evidence = format!("{plugin} ({whose})");
    match PLUGINS.contains(&plugin.as_str()) {
        true => Finding::ok(PLUGIN, evidence),
        false => Finding::warn(PLUGIN, "plugin_for_hyperdrive", evidence)
            .likely(format!("Hyperdrive speaks only {}", PLUGINS.join(" and ")))
            .hint(format!("give its user one of them: {}", plugin::change(greeted))),
    }
}
