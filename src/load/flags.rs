//! A [`Plan`] from what was given.

use std::time::Duration;

use super::plan::{Plan, Scenario};
use crate::config::parsers::{default_threads, duration, path, positive_duration, threads};
use crate::config::{ConfigError, Gateway, Overrides, UpstreamTls};
use crate::log::Chain;
use crate::mysql::login::Login;
use crate::tls::client::{Connector, connector, server_name};

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;
/// More connections than one host has ports for.
const MOST: usize = 1_000_000;

impl Scenario {
    /// The statements of `--sql`.
    pub fn query(given: &Overrides) -> Result<Self, ConfigError> {
        given.list("sql", str::parse).map(Self::Query)
    }

    /// The size of `--bytes`.
    pub fn bulk(given: &Overrides) -> Result<Self, ConfigError> {
        Ok(Self::Bulk(given.optional("bytes", bytes)?.unwrap_or(MIB)))
    }

    /// The number of `--hold`.
    pub fn idle(given: &Overrides) -> Result<Self, ConfigError> {
        given.required("hold", count).map(Self::Idle)
    }
}

impl Plan {
    /// What the flags and variables of `tidegate load` say, and the defaults of those that are not
    /// given.
    pub fn read(scenario: Scenario, given: &Overrides) -> Result<Self, ConfigError> {
        let target = given.required("target", str::parse)?;
        let seconds = Duration::from_secs;
        let rate = given.optional("rate", rate)?;
        let connections = given.optional("connections", count)?.unwrap_or(16);
        let connections = match scenario {
            Scenario::Idle(_) if rate.is_some() => {
                return Err(given.refuse("rate", "of no use for idle", "idle opens and holds"));
            }
            Scenario::Idle(hold) => connections.min(hold),
            _ => connections,
        };
        let threads = given.optional("threads", threads)?.unwrap_or_else(default_threads);
        Ok(Self {
            login: Login {
                user: given.optional("user", text)?.unwrap_or_else(|| "root".to_owned()),
                password: given.password()?.unwrap_or_default(),
                database: given.optional("database", text)?,
                program: "tidegate load",
            },
            tls: tls(given, &target)?,
            target,
            scenario,
            connections,
            rate,
            threads: threads.min(connections),
            ramp: given.optional("ramp", duration)?.unwrap_or_default(),
            warmup: given.optional("warmup", duration)?.unwrap_or(seconds(1)),
            duration: given.optional("duration", positive_duration)?.unwrap_or(seconds(10)),
            timeout: given.optional("timeout", positive_duration)?.unwrap_or(seconds(10)),
            slos: given.list("slo", str::parse)?,
            max_error_rate: given.optional("max_error_rate", share)?.unwrap_or(0.01),
        })
    }
}

fn tls(given: &Overrides, target: &Gateway) -> Result<Option<Connector>, ConfigError> {
    let mode = given.optional("tls", mode)?.unwrap_or(UpstreamTls::Off);
    let ca = given.optional("tls_ca", path)?;
    if ca.is_some() && !mode.is_verified() {
        let hint = "--tls verify-ca and verify-identity look at it";
        return Err(given.refuse("tls_ca", "of no use without a look at the certificate", hint));
    }
    let name = given.optional("tls_server_name", |name| {
        server_name(name).map_err(|_| "expected a DNS name or an IP address".to_owned())
    })?;
    if !mode.is_spoken() {
        let hint = "--tls verify-identity looks at it";
        let refused = || given.refuse("tls_server_name", "of no use without TLS", hint);
        return name.map_or(Ok(None), |_| Err(refused()));
    }
    let name = name.map_or_else(|| server_name(&target.host), Ok).map_err(|_| {
        let why = "a certificate cannot be for this name";
        given.refuse("target", why, "--tls-server-name says for which it is")
    })?;
    connector(mode, ca.as_deref(), name).map_err(|error| {
        let hint = "--tls-ca: a file of certificates in PEM form";
        given.refuse("tls_ca", &Chain(&error).to_string(), hint)
    })
}

/// The words of `upstream_tls`, but for the one that leaves it to others.
fn mode(text: &str) -> Result<UpstreamTls, String> {
    let mode = text.parse().ok().filter(|mode| *mode != UpstreamTls::Passthrough);
    mode.ok_or_else(|| "expected off, required, verify-ca or verify-identity".into())
}

fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=MOST).contains(count));
    count.ok_or_else(|| format!("expected a number from 1 to {MOST}"))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=1e6).contains(rate));
    rate.ok_or_else(|| "expected a number a second, from 0.001 to 1000000".into())
}

/// `512KiB`, `1MiB`, or bytes.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "" | "B" => Some(1),
        "KiB" => Some(1024),
        "MiB" => Some(MIB),
        "GiB" => Some(GIB),
        _ => None,
    };
    let size =
        number.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    let size = size.filter(|size| (1..=GIB).contains(size));
    size.ok_or_else(|| "expected a size up to 1GiB, such as 64KiB or 1MiB".into())
}

/// `0.01` or `1%`.
fn share(text: &str) -> Result<f64, String> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse(),
    };
    let share = share.ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a share from 0 to 1, or in per cent: 0.01 or 1%".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_shares_are_read_as_they_are_written() {
        assert_eq!(bytes("1MiB"), Ok(MIB));
        assert_eq!(bytes("7"), Ok(7));
        for wrong in ["", "0", "MiB", "1MB", "2GiB", "99999999999999999999", "-1"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(share("1%"), Ok(0.01));
        assert!(share("nan").is_err() && share("1.5").is_err());
        assert!(rate("nan").is_err() && rate("0").is_err() && count("0").is_err());
    }
}
