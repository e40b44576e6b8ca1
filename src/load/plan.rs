//! What a load test is to do.

use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;
use tokio_rustls::TlsConnector;

/// Longest row that `bulk` asks for: under every server's default of `max_allowed_packet`.
const LONGEST_ROW: u64 = 8 * 1024 * 1024;
const MOST_BYTES: u64 = 1024 * 1024 * 1024;
/// What `connect` asks: the least that a server answers.
const LEAST: &str = "SELECT 1";

/// Everything that a run needs.
#[derive(Debug)]
pub struct Plan {
    /// Whom to load.
    pub target: Target,
    /// Who is to log in.
    pub login: Login,
    /// With what.
    pub scenario: Scenario,
    /// Connections at a time.
    pub connections: usize,
    /// Operations a second; `None`: each connection begins the next when the last has ended.
    pub rate: Option<f64>,
    /// Threads that carry the connections.
    pub threads: usize,
    /// Time over which connections are begun.
    pub ramp: Duration,
    /// Time after it that is not measured.
    pub warmup: Duration,
    /// Time that is measured.
    pub duration: Duration,
    /// Longest time for a step of connecting, or an answer.
    pub timeout: Duration,
    /// Bounds on what is measured.
    pub slos: Vec<Slo>,
    /// Share of failed operations from which on the run has failed.
    pub max_error_rate: f64,
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// A user, and the way to log in.
#[derive(Clone)]
pub struct Login {
    /// Name; a TiDB Cloud user has a prefix.
    pub user: String,
    /// Password; empty: none.
    pub password: String,
    /// Database to begin in.
    pub database: Option<String>,
    /// TLS is asked for.
    pub tls: Option<TlsConnector>,
    /// The name in the server's certificate.
    pub name: String,
}

/// What is done again and again.
#[derive(Debug, Clone, PartialEq)]
pub enum Scenario {
    /// Connect, authenticate, one query, quit.
    Connect,
    /// COM_PING.
    Ping,
    /// Statements, each as often as its weight says.
    Query(Vec<Weighted>),
    /// A result of so many bytes.
    Bulk(u64),
    /// Open so many connections, hold them, and look at the end which are alive.
    Idle(usize),
}

/// A statement and its share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weighted {
    /// Its share of all.
    pub weight: u32,
    /// Its text.
    pub sql: String,
}

/// A bound on what is measured, such as `p99<20ms`.
#[derive(Debug, Clone, PartialEq)]
pub struct Slo {
    /// What is bounded.
    pub figure: Figure,
    /// What it may not reach.
    pub below: Duration,
}

/// A figure of the latencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Figure {
    /// Their mean.
    Mean,
    /// As many per cent of them are not above it.
    Percentile(f64),
    /// The largest.
    Max,
}

/// What was given cannot be understood; `expected` says what could.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{given}\": expected {expected}")]
pub struct PlanError {
    given: String,
    expected: &'static str,
}

impl PlanError {
    fn new(given: &str, expected: &'static str) -> Self {
        Self { given: given.to_owned(), expected }
    }
}

impl FromStr for Target {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let wrong = || PlanError::new(text, "HOST:PORT, such as 127.0.0.1:4000 or [::1]:4000");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or_else(wrong)?,
            None if host.contains(':') => return Err(wrong()),
            None => host,
        };
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
        if host.is_empty() {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Weighted {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let wrong = || PlanError::new(text, "a statement, or WEIGHT@STATEMENT such as 3@SELECT 1");
        let is_weight = |weight: &str| weight.bytes().all(|byte| byte.is_ascii_digit());
        let (weight, sql) = match text.split_once('@') {
            Some((weight, sql)) if is_weight(weight) => {
                let weight = weight.parse().ok().filter(|weight| (1..=1_000_000).contains(weight));
                (weight.ok_or_else(wrong)?, sql)
            }
            _ => (1, text),
        };
        if sql.trim().is_empty() {
            return Err(wrong());
        }
        Ok(Self { weight, sql: sql.to_owned() })
    }
}

impl FromStr for Slo {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let wrong = || PlanError::new(text, "a bound such as p99<20ms, p99.9<1s, mean<5ms, max<2s");
        let (figure, below) = text.split_once('<').ok_or_else(wrong)?;
        let below = humantime::parse_duration(below.trim()).map_err(|_| wrong())?;
        if below.is_zero() {
            return Err(wrong());
        }
        let figure = match figure.trim() {
            "mean" => Figure::Mean,
            "max" => Figure::Max,
            percentile => {
                let number = percentile.strip_prefix('p').ok_or_else(wrong)?.parse::<f64>();
                let within = number.ok().filter(|number| *number > 0.0 && *number < 100.0);
                Figure::Percentile(within.ok_or_else(wrong)?)
            }
        };
        Ok(Self { figure, below })
    }
}

impl Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.figure {
            Figure::Mean => f.write_str("mean")?,
            Figure::Max => f.write_str("max")?,
            Figure::Percentile(percent) => write!(f, "p{percent}")?,
        }
        write!(f, "<{}", humantime::format_duration(self.below))
    }
}

/// A size such as `512KiB`; 1 GiB at the most.
pub fn bytes(text: &str) -> Result<u64, PlanError> {
    let wrong = || PlanError::new(text, "a size up to 1GiB, such as 64KiB or 1MiB");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "" | "B" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        "GiB" => 1024 * 1024 * 1024,
        _ => return Err(wrong()),
    };
    let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    size.filter(|size| (1..=MOST_BYTES).contains(size)).ok_or_else(wrong)
}

/// A share such as `0.01` or `1%`.
pub fn share(text: &str) -> Result<f64, PlanError> {
    let wrong = || PlanError::new(text, "a share from 0 to 1, or in per cent: 0.01 or 1%");
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse::<f64>(),
    };
    share.ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(wrong)
}

impl Scenario {
    /// Its name on the command line.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Ping => "ping",
            Self::Query(_) => "query",
            Self::Bulk(_) => "bulk",
            Self::Idle(_) => "idle",
        }
    }

    /// The statements and their weights; none for a ping.
    pub fn statements(&self) -> Vec<Weighted> {
        let one = |sql: String| vec![Weighted { weight: 1, sql }];
        match self {
            Self::Connect => one(LEAST.to_owned()),
            Self::Query(statements) => statements.clone(),
            Self::Bulk(bytes) => one(rows_of(*bytes)),
            Self::Ping | Self::Idle(_) => Vec::new(),
        }
    }
}

/// A statement whose result holds so many bytes, in rows that no server refuses.
fn rows_of(bytes: u64) -> String {
    let whole = bytes / LONGEST_ROW;
    let rest = bytes % LONGEST_ROW;
    let lengths = (0..whole).map(|_| LONGEST_ROW).chain((rest > 0).then_some(rest));
    let rows: Vec<_> = lengths.map(|length| format!("SELECT REPEAT('x', {length})")).collect();
    rows.join(" UNION ALL ")
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, password: _, database, tls, name } = self;
        f.debug_struct("Login")
            .field("user", user)
            .field("password", &"****")
            .field("database", database)
            .field("tls", &tls.is_some())
            .field("name", name)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_host_and_a_port() {
        let target = |text: &str| text.parse::<Target>().map(|target| target.to_string());
        assert_eq!(target("db.test:4000").unwrap(), "db.test:4000");
        assert_eq!(target("[::1]:4000").unwrap(), "[::1]:4000");
        for wrong in ["", "db.test", ":4000", "db.test:0", "db.test:70000", "::1:4000", "[::1:4000"]
        {
            assert!(target(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_statement_may_have_a_weight_before_it() {
        let weighted = |text: &str| text.parse::<Weighted>();
        assert_eq!(weighted("SELECT 1").unwrap().weight, 1);
        let three = Weighted { weight: 3, sql: "SELECT 'a@b'".into() };
        assert_eq!(weighted("3@SELECT 'a@b'").unwrap(), three);
        assert_eq!(weighted("SELECT 'a@b'").unwrap().sql, "SELECT 'a@b'");
        for wrong in ["", "3@", "0@SELECT 1", "9999999999@SELECT 1"] {
            assert!(weighted(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bounds_and_sizes_are_read_as_they_are_written() {
        let slo: Slo = "p99.9<20ms".parse().unwrap();
        assert_eq!(slo, Slo { figure: Figure::Percentile(99.9), below: Duration::from_millis(20) });
        assert_eq!(slo.to_string(), "p99.9<20ms");
        for wrong in ["p99", "p99>1ms", "p100<1ms", "p0<1s", "q5<1s", "max<fast", "<1s", "max<0s"] {
            assert!(wrong.parse::<Slo>().is_err(), "{wrong}");
        }
        assert_eq!(bytes("1MiB").unwrap(), 1024 * 1024);
        assert_eq!(bytes("7").unwrap(), 7);
        for wrong in ["", "0", "MiB", "1MB", "2GiB", "99999999999999999999", "-1"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(share("1%").unwrap(), 0.01);
        assert!(share("nan").is_err() && share("1.5").is_err());
    }

    #[test]
    fn large_results_come_in_rows_that_servers_allow() {
        assert_eq!(rows_of(5), "SELECT REPEAT('x', 5)");
        let two = "SELECT REPEAT('x', 8388608) UNION ALL SELECT REPEAT('x', 1)";
        assert_eq!(rows_of(LONGEST_ROW + 1), two);
    }

    #[test]
    fn a_password_is_not_shown() {
        let login = Login {
            user: "u".into(),
            password: "secret".into(),
            database: None,
            tls: None,
            name: "db".into(),
        };
        assert!(!format!("{login:?}").contains("secret"));
    }
}
