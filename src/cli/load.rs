//! The flags of `load`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::EXIT_CODES;

/// Scenarios of `load`, and what is done with their reports.
#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// Connects, authenticates, asks SELECT 1 and quits: the price of short connections.
    #[command(after_help = EXIT_CODES)]
    Connect(Load),
    /// Pings (COM_PING): the price of a round trip.
    #[command(after_help = EXIT_CODES)]
    Ping(Load),
    /// Asks statements.
    #[command(after_help = EXIT_CODES)]
    Query {
        /// A statement, or WEIGHT@STATEMENT; may be repeated, and each comes as often as its
        /// weight says. Its rows are read and not looked at. Each is tried once before the test.
        #[arg(long, value_name = "SQL", required = true)]
        sql: Vec<String>,
        /// All other flags.
        #[command(flatten)]
        load: Load,
    },
    /// Asks for large results.
    #[command(after_help = EXIT_CODES)]
    Bulk {
        /// Bytes of a result: 64KiB, 1MiB, up to 1GiB; in rows of 8 MiB at the most.
        #[arg(long, value_name = "SIZE", default_value = "1MiB")]
        bytes: String,
        /// All other flags.
        #[command(flatten)]
        load: Load,
    },
    /// Opens connections, holds them for --duration, and looks at the end which are alive.
    #[command(after_help = EXIT_CODES)]
    Idle {
        /// How many; --connections of them are opened at a time.
        #[arg(long, value_name = "N")]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        hold: u32,
        /// All other flags.
        #[command(flatten)]
        load: Load,
    },
    /// Prints the ratios of two reports, with their spread.
    #[command(after_help = EXIT_CODES)]
    Compare {
        /// Report of --json that is the measure.
        a: PathBuf,
        /// Report of --json that is measured by it.
        b: PathBuf,
    },
}

/// Flags of the scenarios of `load`.
#[derive(Debug, Args)]
pub struct Load {
    /// Whom to load.
    #[arg(long, value_name = "HOST:PORT")]
    pub target: String,

    /// User to log in as. On TiDB Cloud it has the prefix of its cluster.
    #[arg(long, default_value = "root")]
    pub user: String,

    /// File with the password; without it there is none.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_PASSWORD_FILE")]
    pub password_file: Option<PathBuf>,

    /// Database to begin in.
    #[arg(long, value_name = "NAME")]
    pub database: Option<String>,

    /// TLS: off, required (whoever it is), verify-ca or verify-identity.
    #[arg(long, value_name = "MODE", default_value = "off")]
    #[arg(value_parser = ["off", "required", "verify-ca", "verify-identity"])]
    pub tls: String,

    /// Authorities to trust, in PEM form [default: the system's].
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// Connections at a time.
    #[arg(long, value_name = "N", default_value = "16")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections: u32,

    /// Operations a second in all; latencies are measured from when each was due. Without it each
    /// connection begins an operation when the last has ended, and a slow target is asked less.
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,

    /// Threads that carry the connections [default: half the cores].
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: Option<u32>,

    /// Time over which connections are begun.
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub ramp: Duration,

    /// Time after it that is not measured.
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub warmup: Duration,

    /// Time that is measured.
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub duration: Duration,

    /// Longest time for each step of connecting and for an answer.
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub timeout: Duration,

    /// Bound that decides the exit code: p99<20ms, p99.9<1s, mean<5ms or max<2s; may be repeated.
    /// What timed out, or was due and not begun, counts with the time that it has waited.
    #[arg(long, value_name = "BOUND")]
    pub slo: Vec<String>,

    /// Share of failed operations that is still good: 0.01 or 1%.
    #[arg(long, value_name = "SHARE", default_value = "1%")]
    pub max_error_rate: String,

    /// Writes the report as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Writes the report as a page of HTML.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}
