//! What a load test is to do.

use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use crate::config::Gateway;
use crate::mysql::login::Login;
use crate::tls::client::Connector;

/// Longest row that `bulk` asks for: under every server's default of `max_allowed_packet`.
const LONGEST_ROW: u64 = 8 * 1024 * 1024;
/// What `connect` asks: the least that a server answers.
const LEAST: &str = "SELECT 1";

/// Everything that a run needs.
#[derive(Debug)]
pub struct Plan {
    /// Whom to load.
    pub target: Gateway,
    /// Who is to log in.
    pub login: Login,
    /// TLS, which is asked for.
    pub tls: Option<Connector>,
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

impl FromStr for Weighted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected a statement, or WEIGHT@STATEMENT such as 3@SELECT 1".to_owned();
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
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected a bound: p99<20ms, p99.9<1s, mean<5ms or max<2s".to_owned();
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn bounds_are_read_as_they_are_written() {
        let slo: Slo = "p99.9<20ms".parse().unwrap();
        assert_eq!(slo, Slo { figure: Figure::Percentile(99.9), below: Duration::from_millis(20) });
        assert_eq!(slo.to_string(), "p99.9<20ms");
        for wrong in ["p99", "p99>1ms", "p100<1ms", "p0<1s", "q5<1s", "max<fast", "<1s", "max<0s"] {
            assert!(wrong.parse::<Slo>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn large_results_come_in_rows_that_servers_allow() {
        assert_eq!(rows_of(5), "SELECT REPEAT('x', 5)");
        let two = "SELECT REPEAT('x', 8388608) UNION ALL SELECT REPEAT('x', 1)";
        assert_eq!(rows_of(LONGEST_ROW + 1), two);
    }
}
