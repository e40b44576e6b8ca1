//! The state at one moment, as JSON for programs and as a page for people.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::View;
use crate::drain::Drain;
use crate::log::Bytes;
use crate::show::html::{Escaped, HEAD, STYLE};
use crate::{proxy, upstream};

/// Everything that `/status.json` and `/status` show.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    pid: u32,
    /// Tasks alive on all runtimes: sessions, and what the bridge does besides.
    tasks: usize,
    phase: &'static str,
    listeners: Vec<proxy::Snapshot>,
    upstreams: Vec<upstream::Snapshot>,
}

impl Status {
    pub fn of(view: &View, drain: &Drain, tasks: usize) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            tasks,
            phase: drain.phase().as_str(),
            listeners: view.proxies.iter().map(|proxy| proxy.snapshot()).collect(),
            upstreams: view.upstreams.iter().map(|upstream| upstream.snapshot()).collect(),
        }
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("the snapshot has string keys only") + "\n"
    }

    /// One self-contained page; it works without scripts and refreshes itself.
    pub fn to_html(&self) -> String {
        let mut page = [HEAD, OWN_HEAD, STYLE, OWN_STYLE].concat();
        let phase = self.phase;
        push(
            &mut page,
            format_args!(
                "<p class={phase}>version {}, process {}, <b>{phase}</b></p>",
                self.version, self.pid
            ),
        );
        page.push_str(
            "<h2>Listeners</h2><div><table><tr><th>name<th>addresses<th>upstream<th>pool\
             <th class=n>open<th class=n>accepted<th class=n>to upstream<th class=n>to clients</tr>",
        );
        for listener in &self.listeners {
            let addresses = Escaped(listener.addresses.join(", "));
            push(
                &mut page,
                format_args!(
                    "<tr><td>{}<td>{addresses}<td>{}<td>{}<td class=n>{}<td class=n>{}<td class=n>{}\
                 <td class=n>{}</tr>",
                    Escaped(&listener.name),
                    Escaped(&listener.upstream),
                    listener.pool,
                    listener.open,
                    listener.accepted,
                    Bytes(listener.bytes_to_upstream),
                    Bytes(listener.bytes_to_clients),
                ),
            );
        }
        page.push_str(
            "</table></div><h2>Upstreams</h2><div><table><tr><th>name<th>gateway\
             <th>next look-up<th>DNS</tr>",
        );
        for upstream in &self.upstreams {
            let next = match upstream.ttl_left_seconds {
                Some(seconds) => format!("in {seconds} s"),
                None => "–".into(),
            };
            let (class, dns) = match &upstream.dns_error {
                Some(error) => ("bad", error.as_str()),
                None => ("", "ok"),
            };
            push(
                &mut page,
                format_args!(
                    "<tr><td>{}<td>{}<td>{next}<td class='{class}'>{}</tr>",
                    Escaped(&upstream.name),
                    Escaped(&upstream.gateway),
                    Escaped(dns),
                ),
            );
        }
        page.push_str(
            "</table></div><h2>Endpoints</h2><div><table><tr><th>upstream<th>address<th>state\
             <th class=n>sessions<th>since<th>because</tr>",
        );
        for upstream in &self.upstreams {
            for endpoint in &upstream.endpoints {
                let state = endpoint.state.as_str();
                let left = endpoint.ejected_for_seconds;
                let left = left.map(|left| format!(" for {left} s")).unwrap_or_default();
                push(
                    &mut page,
                    format_args!(
                        "<tr><td>{}<td>{}<td class={state}>{state}{left}<td class=n>{}<td>{}<td>{}</tr>",
                        Escaped(&upstream.name),
                        endpoint.address,
                        endpoint.sessions,
                        humantime::format_rfc3339_seconds(
                            SystemTime::UNIX_EPOCH + Duration::from_secs(endpoint.changed_at)
                        ),
                        Escaped(&endpoint.evidence),
                    ),
                );
            }
        }
        page.push_str(
            "</table></div><p><a href=/metrics>metrics</a> <a href=/status.json>JSON</a></p>",
        );
        page
    }
}

const OWN_HEAD: &str = "<meta http-equiv=refresh content=5><title>tidegate</title><style>";

const OWN_STYLE: &str = ".ejected,.draining b,.closing b{color:#d33}.serving b{color:#2a7}\
a{margin-right:1rem}</style><h1>tidegate</h1>";

fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("writing to a String does not fail");
}
