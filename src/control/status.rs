//! What `/status.json` says, as tables for people.
//!
//! Keys that are not known here are left out: the bridge may be newer than this client.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::log::Bytes;
use crate::show::table::{Align, Table, paragraph};

/// A bridge at one moment.
#[derive(Debug, Deserialize)]
pub(super) struct Status {
    version: String,
    pid: u32,
    phase: String,
    listeners: Vec<Listener>,
    upstreams: Vec<Upstream>,
}

#[derive(Debug, Deserialize)]
struct Listener {
    name: String,
    addresses: Vec<String>,
    upstream: String,
    pool: String,
    open: i64,
    accepted: u64,
    bytes_to_upstream: u64,
    bytes_to_clients: u64,
}

#[derive(Debug, Deserialize)]
struct Upstream {
    name: String,
    gateway: String,
    endpoints: Vec<Endpoint>,
    ttl_left_seconds: Option<u64>,
    dns_error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    address: String,
    state: String,
    sessions: u64,
    ejected_for_seconds: Option<u64>,
    changed_at: u64,
    evidence: String,
}

impl Status {
    /// One line about the process and a table for each kind of thing in it.
    pub fn to_text(&self, address: SocketAddr, now: SystemTime) -> String {
        let Self { version, pid, phase, .. } = self;
        let head = format!("tidegate {version} at http://{address}: {phase}, process {pid}");
        let [listeners, upstreams, endpoints] =
            [self.listeners(), self.upstreams(), self.endpoints(now)];
        let errors: String = self.upstreams.iter().filter_map(Upstream::error).collect();
        format!("{head}\n\n{listeners}\n{upstreams}{errors}\n{endpoints}")
    }

    fn listeners(&self) -> Table {
        let mut table = Table::new(&[
            ("LISTENER", Align::Left),
            ("ADDRESSES", Align::Left),
            ("UPSTREAM", Align::Left),
            ("POOL", Align::Left),
            ("OPEN", Align::Right),
            ("TOTAL", Align::Right),
            ("TO UPSTREAM", Align::Right),
            ("TO CLIENTS", Align::Right),
        ]);
        for listener in &self.listeners {
            table.row([
                listener.name.clone(),
                listener.addresses.join("\n"),
                listener.upstream.clone(),
                listener.pool.clone(),
                listener.open.to_string(),
                listener.accepted.to_string(),
                Bytes(listener.bytes_to_upstream).to_string(),
                Bytes(listener.bytes_to_clients).to_string(),
            ]);
        }
        table
    }

    fn upstreams(&self) -> Table {
        let mut table = Table::new(&[
            ("UPSTREAM", Align::Left),
            ("GATEWAY", Align::Left),
            ("DNS", Align::Left),
        ]);
        for upstream in &self.upstreams {
            table.row([upstream.name.clone(), upstream.gateway.clone(), upstream.dns()]);
        }
        table
    }

    fn endpoints(&self, now: SystemTime) -> Table {
        let mut table = Table::new(&[
            ("ENDPOINT", Align::Left),
            ("UPSTREAM", Align::Left),
            ("STATE", Align::Left),
            ("SESSIONS", Align::Right),
            ("SINCE", Align::Left),
            ("BECAUSE", Align::Left),
        ]);
        for upstream in &self.upstreams {
            for endpoint in &upstream.endpoints {
                table.row([
                    endpoint.address.clone(),
                    upstream.name.clone(),
                    endpoint.state(),
                    endpoint.sessions.to_string(),
                    format!("{} ago", span(endpoint.age(now))),
                    endpoint.evidence.clone(),
                ]);
            }
        }
        table
    }
}

impl Upstream {
    fn dns(&self) -> String {
        let again = self.ttl_left_seconds.map(|left| format!(", again in {}", span(left)));
        match (&self.dns_error, again) {
            (Some(_), again) => format!("failed{}", again.unwrap_or_default()),
            (None, Some(again)) => format!("ok{again}"),
            (None, None) if self.endpoints.is_empty() => "being looked up".into(),
            // A literal.
            (None, None) => "not needed".into(),
        }
    }

    /// Why the last look-up failed: too long for a column, as it tells the name once more.
    fn error(&self) -> Option<String> {
        let error = self.dns_error.as_ref()?;
        Some(paragraph(&format!("{}: {error}", self.name)))
    }
}

impl Endpoint {
    fn state(&self) -> String {
        match self.ejected_for_seconds {
            Some(left) => format!("{} for {}", self.state, span(left)),
            None => self.state.clone(),
        }
    }

    /// Seconds since the state changed; 0 when the clocks of two hosts differ.
    fn age(&self, now: SystemTime) -> u64 {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(Duration::from_secs(self.changed_at)).as_secs()
    }
}

/// Seconds in the two largest units that they fill.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_two_units() {
        let spans = [0, 59, 60, 3_599, 3_600, 86_399, 86_400, 40 * 86_400 + 7_300].map(span);
        assert_eq!(spans, ["0s", "59s", "1m 0s", "59m 59s", "1h 0m", "23h 59m", "1d 0h", "40d 2h"]);
    }

    #[test]
    fn a_status_of_every_kind_fits_into_100_columns() {
        let json = r#"{"version":"0.1.0","pid":4711,"phase":"serving","new":{},"listeners":[
            {"name":"localhost:4000","addresses":["127.0.0.1:4000","[::1]:4000"],"upstream":"tidb",
             "pool":"off","open":3,"accepted":12345,"bytes_to_upstream":1536,"bytes_to_clients":7}],
            "upstreams":[
            {"name":"tidb",
             "gateway":"gateway01-privatelink.ap-northeast-1.prod.aws.tidbcloud.com:4000",
             "ttl_left_seconds":42,"dns_error":null,"endpoints":[
             {"address":"10.0.1.12:4000","state":"healthy","sessions":3,"ejected_for_seconds":null,
              "changed_at":1000,"evidence":"resolved"},
             {"address":"10.0.2.12:4000","state":"ejected","sessions":0,"ejected_for_seconds":8,
              "changed_at":5000,"evidence":"accepted, but failed before a greeting: something that takes many words to say"}]},
            {"name":"fixed","gateway":"10.0.0.1:4000","ttl_left_seconds":null,"dns_error":null,
             "endpoints":[{"address":"10.0.0.1:4000","state":"healthy","sessions":0,
             "ejected_for_seconds":null,"changed_at":4990,"evidence":"resolved"}]},
            {"name":"lost","gateway":"lost.example.com:4000","ttl_left_seconds":3,
             "dns_error":"no such name","endpoints":[]}]}"#;
        let status: Status = serde_json::from_str(json).unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(5_000);
        let text = status.to_text("127.0.0.1:9400".parse().unwrap(), now);
        assert_eq!(
            text,
            "\
tidegate 0.1.0 at http://127.0.0.1:9400: serving, process 4711

LISTENER        ADDRESSES       UPSTREAM  POOL  OPEN  TOTAL  TO UPSTREAM  TO CLIENTS
localhost:4000  127.0.0.1:4000  tidb      off      3  12345      1.5 KiB         7 B
                [::1]:4000

UPSTREAM  GATEWAY                                                           DNS
tidb      gateway01-privatelink.ap-northeast-1.prod.aws.tidbcloud.com:4000  ok, again in 42s
fixed     10.0.0.1:4000                                                     not needed
lost      lost.example.com:4000                                             failed, again in 3s
lost: no such name

ENDPOINT        UPSTREAM  STATE           SESSIONS  SINCE      BECAUSE
10.0.1.12:4000  tidb      healthy                3  1h 6m ago  resolved
10.0.2.12:4000  tidb      ejected for 8s         0  0s ago     accepted, but failed before a
                                                               greeting: something that takes many
                                                               words to say
10.0.0.1:4000   fixed     healthy                0  10s ago    resolved
"
        );
        assert!(text.lines().all(|line| line.len() <= 100));
    }
}
