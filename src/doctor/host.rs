//! What the bridge needs of this host.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc::UnboundedSender;

use super::aws::Instance;
use super::case::Deadline;
use super::finding::Finding;
use super::listen::{self, Entrance};
use crate::config::Config;
use crate::net::descriptors::raise_limit;

/// The bridge's own, and as many as pipes take at most: as in the README's table of sizes.
const OWN_FILES: u64 = 160;
/// Fewer sessions than an application's pools make.
const FEW_FILES: u64 = 4096;
/// Too few for the bridge to begin.
const TOO_FEW_FILES: u64 = 64;
/// Silence after which Azure's private links forget a connection, the shortest of the clouds' times.
const PATIENCE_OF_LOAD_BALANCERS: Duration = Duration::from_secs(240);
/// When this was written: no clock that goes right says less. 2026-01-01.
const NOT_BEFORE: Duration = Duration::from_secs(1_767_225_600);
/// Clocks that are further apart make signatures and certificates invalid.
const FAR_APART: Duration = Duration::from_secs(300);
const KEEPALIVE: [&str; 3] = ["tcp_keepalive_time", "tcp_keepalive_intvl", "tcp_keepalive_probes"];

/// Looks at the host, and tells each finding.
pub(super) async fn examine(
    config: Config,
    entrances: Vec<Arc<Entrance>>,
    instance: Arc<Instance>,
    deadline: Deadline,
    findings: UnboundedSender<Finding>,
) {
    // Nobody listens any more when the report cannot be written.
    let tell = |finding| drop(findings.send(finding));
    tell(files(raise_limit()));
    listen::examine(&config, &entrances, deadline).await.into_iter().for_each(tell);
    tell(keepalive(&config));
    tell(clock(SystemTime::now(), clocks(&instance).await));
}

/// Whether this host's clock cannot judge the dates of certificates.
pub(super) async fn is_clock_off(instance: &Instance) -> bool {
    clock(SystemTime::now(), clocks(instance).await).cause.is_some()
}

async fn clocks(instance: &Instance) -> Option<[SystemTime; 2]> {
    instance.whereabouts().await.ok().and_then(|here| here.clocks)
}

fn files(limit: Option<u64>) -> Finding {
    const CHECK: &str = "host.files";
    let Some(limit) = limit else {
        return Finding::ok(CHECK, "any number of open files");
    };
    let sessions = limit.saturating_sub(OWN_FILES) / 2;
    let evidence = format!("{limit} open files at most, for about {sessions} sessions");
    let hint = "ulimit -Hn, LimitNOFILE= of a systemd unit, or --ulimit nofile= of a container";
    match limit {
        ..TOO_FEW_FILES => Finding::fail(CHECK, "few_files", evidence)
            .likely("the hard limit of open files is too low for the bridge itself")
            .hint(hint),
        TOO_FEW_FILES..FEW_FILES => Finding::warn(CHECK, "few_files", evidence)
            .likely("the hard limit of open files is low; the bridge raises the soft one to it")
            .hint(hint),
        _ => Finding::ok(CHECK, evidence),
    }
}

/// The bridge's own keepalive goes before the host's, which is for those who connect without it.
fn keepalive(config: &Config) -> Finding {
    const CHECK: &str = "host.keepalive";
    let tcp = &config.tcp;
    let own = format!(
        "the bridge asks after {} of silence, every {}, {} times",
        humantime::format_duration(tcp.keepalive_idle),
        humantime::format_duration(tcp.keepalive_interval),
        tcp.keepalive_count
    );
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let host = match KEEPALIVE.map(read) {
        [Some(time), Some(interval), Some(count)] => {
            format!("; this host's own: {time} s, {interval} s, {count}")
        }
        _ => String::new(),
    };
    if tcp.keepalive_idle > PATIENCE_OF_LOAD_BALANCERS {
        return Finding::warn(CHECK, "long_keepalive", own)
            .likely(
                "load balancers forget connections that are silent for longer: AWS after 350 s, \
                 Azure after 240 s",
            )
            .hint("keepalive_idle = \"45s\" (--keepalive-idle), as it comes");
    }
    Finding::ok(CHECK, format!("{own}{host}"))
}

/// `clocks` are those of another host, and of this one at the same moment.
fn clock(now: SystemTime, clocks: Option<[SystemTime; 2]>) -> Finding {
    const CHECK: &str = "host.clock";
    let shown = humantime::format_rfc3339_seconds(now);
    let off = |evidence: String| {
        Finding::fail(CHECK, "clock_off", evidence)
            .likely("nothing sets this host's clock; certificates seem expired, or not valid yet")
            .hint("set it, and have it kept so:\ntimedatectl set-ntp true")
    };
    if now < UNIX_EPOCH + NOT_BEFORE {
        return off(format!("{shown} has passed long ago"));
    }
    let Some([theirs, ours]) = clocks else {
        return Finding::ok(CHECK, format!("{shown}; nobody is here to compare it with"));
    };
    let apart = ours.duration_since(theirs).unwrap_or_else(|error| error.duration());
    match apart {
        apart if apart >= FAR_APART => {
            let apart = humantime::format_duration(Duration::from_secs(apart.as_secs()));
            off(format!("{shown}, {apart} off the clock of the metadata service"))
        }
        _ => Finding::ok(CHECK, format!("{shown}, as the clock of the metadata service")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn the_limit_of_open_files_is_judged_by_what_it_is_enough_for() {
        let of = |limit| (files(limit).status, files(limit).cause);
        assert_eq!(of(None), (Status::Ok, None));
        assert_eq!(of(Some(1_048_576)), (Status::Ok, None));
        assert_eq!(of(Some(4095)), (Status::Warn, Some("few_files")));
        assert_eq!(of(Some(63)), (Status::Fail, Some("few_files")));
    }

    #[test]
    fn a_clock_is_off_when_it_is_long_ago_or_far_from_another() {
        let now = SystemTime::now();
        let cause = |now, clocks| clock(now, clocks).cause;
        assert_eq!(cause(now, None), None);
        assert_eq!(cause(UNIX_EPOCH, None), Some("clock_off"));
        let minutes = |count: u64| now + Duration::from_secs(60 * count);
        assert_eq!(cause(now, Some([minutes(4), now])), None);
        assert_eq!(cause(now, Some([minutes(6), now])), Some("clock_off"));
        assert_eq!(cause(now, Some([now, minutes(6)])), Some("clock_off"));
    }
}
