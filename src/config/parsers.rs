//! How each setting is read from text.
//!
//! A parser's error is the second half of a sentence: "expected …".

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use ipnet::IpNet;
use tracing::level_filters::LevelFilter;

use super::{Balance, LogFormat, Pool, Protocol, SendProxyProtocol, Splice};

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// More data threads than this are a typing error.
const MAX_THREADS: usize = 256;
/// More a second than one host can make.
const MAX_RATE: u32 = 1_000_000;
/// More than a process of Linux can have open, and within what TOML has numbers for.
const MAX_CONNECTIONS: usize = 1_000_000_000;
/// Each of them holds a descriptor, and is looked at when another one leaves.
const MAX_QUEUE: usize = 10_000;
/// Each costs the server a thread.
const MAX_WARM: usize = 100;
/// Shorter than a dial would be for nothing; longer are no server's time-outs.
const WARM_AGES: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(600);

/// `500ms`, `10s`, `5m`; a year at the most, so that adding one to a moment cannot overflow.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(value) if value <= YEAR => Ok(value),
        Ok(_) => Err("expected a year at the most".into()),
        Err(_) => Err("expected a duration with its unit, such as 500ms, 10s or 5m".into()),
    }
}

/// A duration that is not zero.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("expected a duration above zero".into()),
        value => Ok(value),
    }
}

/// An IP address and a port.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an IP address and a port, such as 127.0.0.1:9400".into())
}

/// A DNS server: the port may be left out.
pub(super) fn nameserver(text: &str) -> Result<SocketAddr, String> {
    let ip = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    ip.or_else(|_| text.parse())
        .map_err(|_| "expected the IP address of a DNS server, such as 10.0.0.2:53".into())
}

/// A network, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address
        .or_else(|_| text.parse::<IpNet>().map(|network| network.trunc()))
        .map_err(|_| "expected a network such as 10.1.0.0/16".into())
}

/// `true` or `false`.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "expected true or false".into())
}

/// Half the cores, but one at the least.
pub fn default_threads() -> usize {
    (available_parallelism().map_or(1, |cores| cores.get()) / 2).max(1)
}

/// `auto`, or a number of threads.
pub fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=MAX_THREADS) => Ok(count),
        _ if text == "auto" => Ok(default_threads()),
        _ => Err(format!("expected auto or a number from 1 to {MAX_THREADS}")),
    }
}

/// Connections that there may be in all.
pub(super) fn max_connections(text: &str) -> Result<Option<usize>, String> {
    match text.parse() {
        Ok(count @ 1..=MAX_CONNECTIONS) => Ok(Some(count)),
        _ if text == "auto" => Ok(None),
        _ => Err(format!("expected auto or a number from 1 to {MAX_CONNECTIONS}")),
    }
}

/// A number of connections; 0 is any number.
pub(super) fn count_or_any(text: &str) -> Result<Option<usize>, String> {
    match text.parse() {
        Ok(0) => Ok(None),
        Ok(count @ 1..=MAX_CONNECTIONS) => Ok(Some(count)),
        _ => Err(format!("expected a number of connections up to {MAX_CONNECTIONS}, or 0 for any")),
    }
}

/// Connections held before their clients come.
pub(super) fn warm_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if count <= MAX_WARM => Ok(count),
        _ => Err(format!("expected a number of connections up to {MAX_WARM}")),
    }
}

pub(super) fn warm_max_age(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "auto" => Ok(None),
        text => match positive_duration(text) {
            Ok(age) if WARM_AGES.contains(&age) => Ok(Some(age)),
            _ => Err("expected auto, or a duration from 500ms to 10m".into()),
        },
    }
}

/// Connections a second; 0 is any number.
pub(super) fn accept_rate(text: &str) -> Result<Option<NonZeroU32>, String> {
    match text.parse::<u32>() {
        Ok(rate) if rate <= MAX_RATE => Ok(NonZeroU32::new(rate)),
        _ => {
            Err(format!("expected a number of connections a second up to {MAX_RATE}, or 0 for any"))
        }
    }
}

/// Connections that may wait.
pub(super) fn queue(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if count <= MAX_QUEUE => Ok(count),
        _ => Err(format!("expected a number of connections up to {MAX_QUEUE}")),
    }
}

/// Sessions are looked at once a second.
pub(super) fn seconds_or_never(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        value if value.is_zero() || value >= Duration::from_secs(1) => Ok(value),
        _ => Err("expected at least 1s, or 0s for never".into()),
    }
}

/// Linux counts keepalive times in whole seconds, 1 to 32,767.
pub(super) fn keepalive(text: &str) -> Result<Duration, String> {
    let value = duration(text)?;
    match (value.as_secs(), value.subsec_nanos()) {
        (1..=32_767, 0) => Ok(value),
        _ => Err("expected whole seconds, from 1s to 32767s".into()),
    }
}

/// Linux counts it in milliseconds, as an int.
pub(super) fn user_timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        value if value.is_zero() => Ok(value),
        value if (1..=i32::MAX as u128).contains(&value.as_millis()) => Ok(value),
        _ => Err("expected 1ms to 24days, or 0s for none".into()),
    }
}

pub(super) fn keepalive_count(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(count @ 1..=127) => Ok(count),
        _ => Err("expected a number from 1 to 127".into()),
    }
}

pub(super) fn stall_timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        value if value.is_zero() || value >= Duration::from_millis(600) => Ok(value),
        _ => Err("expected at least 600ms, or 0s for never".into()),
    }
}

pub(super) fn splice(text: &str) -> Result<Splice, String> {
    match text {
        "auto" => Ok(Splice::Auto),
        "off" => Ok(Splice::Off),
        _ => Err("expected auto or off".into()),
    }
}

pub(super) fn congestion_control(text: &str) -> Result<Option<String>, String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    match text {
        "system" => Ok(None),
        // The kernel's limit is TCP_CA_NAME_MAX, 16 with the final NUL.
        name if (1..16).contains(&name.len()) && name.bytes().all(legal) => Ok(Some(name.into())),
        _ => Err("expected system or an algorithm's name, such as cubic or bbr".into()),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("expected text or json".into()),
    }
}

pub(super) fn log_level(text: &str) -> Result<LevelFilter, String> {
    match text {
        "off" | "error" | "warn" | "info" | "debug" | "trace" => {
            text.parse().map_err(|_| "expected a level".into())
        }
        _ => Err("expected off, error, warn, info, debug or trace".into()),
    }
}

pub(super) fn pool(text: &str) -> Result<Pool, String> {
    match text {
        "off" => Ok(Pool::Off),
        "warm" => Ok(Pool::Warm),
        _ => Err("expected off or warm".into()),
    }
}

pub(super) fn balance(text: &str) -> Result<Balance, String> {
    match text {
        "failover" => Ok(Balance::Failover),
        "round-robin" => Ok(Balance::RoundRobin),
        "least-connections" => Ok(Balance::LeastConnections),
        _ => Err("expected failover, round-robin or least-connections".into()),
    }
}

/// `true`, `false`, or what is right by itself.
pub(super) fn or_auto(auto: bool) -> impl Fn(&str) -> Result<bool, String> {
    move |text| match text {
        "auto" => Ok(auto),
        text => boolean(text).map_err(|_| "expected auto, true or false".into()),
    }
}

pub(super) fn protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "mysql" => Ok(Protocol::Mysql),
        "tcp" => Ok(Protocol::Tcp),
        _ => Err("expected mysql or tcp".into()),
    }
}

pub(super) fn send_proxy_protocol(text: &str) -> Result<SendProxyProtocol, String> {
    match text {
        "off" => Ok(SendProxyProtocol::Off),
        "v1" => Ok(SendProxyProtocol::V1),
        "v2" => Ok(SendProxyProtocol::V2),
        _ => Err("expected off, v1 or v2".into()),
    }
}

/// A path that is not empty.
pub fn path(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("expected a path".into()),
        path => Ok(path.into()),
    }
}

/// A name goes into logs and labels as it is.
pub(super) fn name(text: &str) -> Result<String, String> {
    let printable = |c: char| !c.is_control() && !c.is_whitespace();
    match text {
        text if (1..=64).contains(&text.len()) && text.chars().all(printable) => Ok(text.into()),
        _ => Err("expected 1 to 64 characters without white space".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert!(duration("10").is_err());
        assert!(duration("9999999999999999999s").is_err());
        assert!(positive_duration("0s").is_err());
    }
}
