//! The flags of `load`.

use std::path::PathBuf;

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
        /// Bytes of a result: 64KiB, 1MiB, up to 1GiB; in rows of 8 MiB at the most [default: 1MiB].
        #[arg(long, value_name = "SIZE")]
        bytes: Option<String>,
        /// All other flags.
        #[command(flatten)]
        load: Load,
    },
    /// Opens connections, holds them for --duration, and looks at the end which are alive.
    #[command(after_help = EXIT_CODES)]
    Idle {
        /// How many; --connections of them are opened at a time.
        #[arg(long, value_name = "N")]
        hold: String,
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

/// Flags of the scenarios of `load`. As in [`super::Settings`], an argument's id is its key's name.
#[derive(Debug, Args)]
pub struct Load {
    /// Whom to load; the port is 4000 if not given.
    #[arg(long, value_name = "HOST:PORT")]
    pub target: String,

    /// User to log in as. On TiDB Cloud it has the prefix of its cluster [default: root].
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,

    /// File with the password; without it there is none.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_PASSWORD_FILE")]
    pub password_file: Option<String>,

    /// Database to begin in.
    #[arg(long, value_name = "NAME")]
    pub database: Option<String>,

    /// TLS: off, required (whoever it is), verify-ca or verify-identity [default: off].
    #[arg(long, value_name = "MODE")]
    pub tls: Option<String>,

    /// Authorities to trust, in PEM form [default: the system's].
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<String>,

    /// Name that the server's certificate must have [default: the target's host].
    #[arg(long, value_name = "NAME")]
    pub tls_server_name: Option<String>,

    /// Connections at a time [default: 16].
    #[arg(long, value_name = "N")]
    pub connections: Option<String>,

    /// Operations a second in all; latencies are measured from when each was due. Without it each
    /// connection begins an operation when the last has ended, and a slow target is asked less.
    #[arg(long, value_name = "N")]
    pub rate: Option<String>,

    /// Threads that carry the connections: auto or a number [default: auto, half the cores].
    #[arg(long, value_name = "N")]
    pub threads: Option<String>,

    /// Time over which connections are begun [default: 0s].
    #[arg(long, value_name = "DURATION")]
    pub ramp: Option<String>,

    /// Time after it that is not measured [default: 1s].
    #[arg(long, value_name = "DURATION")]
    pub warmup: Option<String>,

    /// Time that is measured [default: 10s].
    #[arg(long, value_name = "DURATION")]
    pub duration: Option<String>,

    /// Longest time for each step of connecting and for an answer [default: 10s].
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,

    /// Bound that decides the exit code: p99<20ms, p99.9<1s, mean<5ms or max<2s; may be repeated.
    /// What timed out, was under way at an interrupt, or was due and not begun, counts with the time
    /// that it has waited.
    #[arg(long, value_name = "BOUND")]
    pub slo: Vec<String>,

    /// Share of failed operations that is still good: 0.01 or 1% [default: 1%]. Without --rate also
    /// the share of the connections' time in which they could not be opened or were never answered.
    #[arg(long, value_name = "SHARE")]
    pub max_error_rate: Option<String>,

    /// Writes the report as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Writes the report as a page of HTML.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}
