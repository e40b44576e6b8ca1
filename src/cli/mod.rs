//! The command line: types and help texts, and what was given by them.

mod doctor;
mod given;
mod lint;
mod load;
mod render;
mod tls;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand};

pub use doctor::Doctor;
pub use given::{check_encoding, given};
pub use lint::Lint;
pub use load::{Load, Scenario};
pub use render::{Artefact, Certificate, SetUp};
pub use tls::Tls;

const EXIT_CODES: &str = "\
Exit codes:
  0   ended as asked: drained, checked, shown, reached, written; nothing found
  1   failed while running: a port is taken, a second signal, a step of the demo, a bridge that
      does not answer, refuses, or is not what it was waited for in time; a load test that
      cannot begin, or that broke a bound; a file that cannot be written, or is there already;
      findings of lint; a step of the path that doctor has found broken
  2   wrong usage: an unknown flag, a flag's bad value, a file that lint cannot read
  78  bad configuration: the file or an environment variable (EX_CONFIG)";

/// A self-hosted bridge to private MySQL-protocol gateways.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Takes an empty path as well: of a variable it means "not set", and [`given`] refuses it as a flag's.
fn file() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the bridge.
    ///
    /// Listens, resolves the gateway's name, and relays MySQL sessions to it until SIGTERM.
    /// A flag wins over its environment variable, that over the file, that over the default.
    #[command(after_help = EXIT_CODES)]
    Run(Settings),
    /// Validates a configuration and prints the finished values.
    ///
    /// Takes what `run` takes, and prints what `run` would run on, in the shape of the file.
    #[command(after_help = EXIT_CODES)]
    Check(Settings),
    /// Walks the path to the gateway, and names the step that is broken.
    ///
    /// Takes what `run` takes and looks at what `run` would run on: this host, the name and its DNS
    /// servers, each address, the server's greeting, its TLS and, with --user, a log-in. Tells a line
    /// each as it goes, and for what is broken the likely cause and what to do. Takes 30 s at the most.
    #[command(after_help = EXIT_CODES)]
    Doctor(Box<Doctor>),
    /// Shows the whole bridge on embedded parts; needs no network and no server.
    #[command(after_help = EXIT_CODES)]
    Demo(Demo),
    /// Tells a running bridge to drain.
    ///
    /// It takes no new connections then, and ends when its sessions have ended or its drain timeout
    /// has passed. Does not wait for that: `tidegate wait --gone` does.
    #[command(after_help = EXIT_CODES)]
    Drain(Drain),
    /// Waits until a bridge is ready, or gone.
    ///
    /// The bridge need not be there yet.
    #[command(after_help = EXIT_CODES)]
    Wait(Wait),
    /// Shows a running bridge's listeners, upstreams and endpoints.
    #[command(after_help = EXIT_CODES)]
    Status(Status),
    /// Writes what a set-up needs besides the configuration.
    #[command(after_help = EXIT_CODES)]
    Render {
        /// What is written.
        #[command(subcommand)]
        artefact: Artefact,
    },
    /// Says what will not work in the files of a set-up: cloudflared, wrangler, DSNs, Workers, commands.
    ///
    /// Each finding has its file and line, the rule, what is wrong, and what to write instead. Files that
    /// belong to one set-up are given together. Passwords are never printed.
    #[command(after_help = EXIT_CODES)]
    Lint(Lint),
    /// Load-tests a MySQL-protocol endpoint, through a bridge or not.
    #[command(after_help = EXIT_CODES)]
    Load {
        /// What is done again and again.
        #[command(subcommand)]
        scenario: Scenario,
    },
}

/// Flags of `run`, `check` and `doctor`. Each argument's id is its key's name, so what was given can be
/// handed to the configuration without another list.
#[derive(Debug, Args)]
pub struct Settings {
    /// The gateway: host, host:port or an IP address; the port is 4000 if not given.
    #[arg(value_name = "GATEWAY")]
    pub gateway: Option<String>,

    /// TOML file with listeners and upstreams; see config/full.toml.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG", value_parser = file())]
    pub config: Option<PathBuf>,

    /// Address to listen on, or several; unix:/path too [default: localhost:4000, both loopbacks].
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_LISTEN")]
    #[arg(action = ArgAction::Append, value_delimiter = ',')]
    pub listen: Vec<String>,

    /// Permission bits of the Unix socket's file, in octal [default: 0660].
    #[arg(long, value_name = "MODE", env = "TIDEGATE_UNIX_MODE")]
    pub unix_mode: Option<String>,

    /// Owner of the Unix socket's file: user, user:group or :group [default: the process's].
    #[arg(long, value_name = "OWNER", env = "TIDEGATE_UNIX_OWNER")]
    pub unix_owner: Option<String>,

    /// What is spoken: mysql, or tcp for any other protocol [default: mysql].
    #[arg(long, value_name = "PROTOCOL", env = "TIDEGATE_PROTOCOL")]
    pub protocol: Option<String>,

    /// What a client is lent: off, a fresh upstream connection; warm, one that is there already
    /// [default: off].
    #[arg(long, value_name = "MODE", env = "TIDEGATE_POOL")]
    pub pool: Option<String>,

    /// TLS of each side.
    #[command(flatten)]
    pub tls: Tls,

    /// Listens on addresses that other hosts can reach.
    #[arg(long, value_name = "BOOL", env = "TIDEGATE_ALLOW_ANY")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_any: Option<String>,

    /// Networks whose hosts may connect, or several [default: all].
    #[arg(long, value_name = "CIDR", env = "TIDEGATE_ALLOW")]
    #[arg(action = ArgAction::Append, value_delimiter = ',')]
    pub allow: Vec<String>,

    /// Networks whose hosts may not connect.
    #[arg(long, value_name = "CIDR", env = "TIDEGATE_DENY")]
    #[arg(action = ArgAction::Append, value_delimiter = ',')]
    pub deny: Vec<String>,

    /// Connections in all: auto or a number [default: auto, from the limit of open files].
    #[arg(long, value_name = "N", env = "TIDEGATE_MAX_CONNECTIONS")]
    pub max_connections: Option<String>,

    /// Warm connections that may be held in all [default: 16].
    #[arg(long, value_name = "N", env = "TIDEGATE_WARM_MAX")]
    pub warm_max: Option<String>,

    /// Warm connections to each upstream that are held although nobody comes [default: 0].
    #[arg(long, value_name = "N", env = "TIDEGATE_WARM_MIN")]
    pub warm_min: Option<String>,

    /// How long a warm connection is of use [default: auto, by the kind of server].
    #[arg(long, value_name = "DUR", env = "TIDEGATE_WARM_MAX_AGE")]
    pub warm_max_age: Option<String>,

    /// Connections of one address at a time; 0: any number [default: 0].
    #[arg(long, value_name = "N", env = "TIDEGATE_MAX_CONNECTIONS_PER_SOURCE")]
    pub max_connections_per_source: Option<String>,

    /// Connections let in a second; 0: any number [default: 0].
    #[arg(long, value_name = "N", env = "TIDEGATE_ACCEPT_RATE")]
    pub accept_rate: Option<String>,

    /// Connections that may wait when a limit is reached [default: 100].
    #[arg(long, value_name = "N", env = "TIDEGATE_QUEUE")]
    pub queue: Option<String>,

    /// Time for which they wait [default: 1s].
    #[arg(long, value_name = "DURATION", env = "TIDEGATE_QUEUE_TIMEOUT")]
    pub queue_timeout: Option<String>,

    /// Address of the admin endpoint [default: 127.0.0.1:9400].
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_ADMIN")]
    pub admin: Option<String>,

    /// DNS server to ask, or several [default: the system's].
    #[arg(long, value_name = "IP:PORT")]
    #[arg(env = "TIDEGATE_NAMESERVER", action = ArgAction::Append, value_delimiter = ',')]
    pub nameserver: Vec<String>,

    /// Time for one address to accept a connection [default: 3s].
    #[arg(long, value_name = "DURATION")]
    #[arg(env = "TIDEGATE_CONNECT_TIMEOUT")]
    pub connect_timeout: Option<String>,

    /// Time to go on accepting after SIGTERM, with readiness off [default: 0s].
    #[arg(long, value_name = "DURATION", env = "TIDEGATE_DRAIN_GRACE")]
    pub drain_grace: Option<String>,

    /// Time for sessions to end after SIGTERM [default: 25s].
    #[arg(long, value_name = "DURATION")]
    #[arg(env = "TIDEGATE_DRAIN_TIMEOUT")]
    pub drain_timeout: Option<String>,

    /// Time for all addresses together [default: 10s].
    #[arg(long, value_name = "DURATION", env = "TIDEGATE_DIAL_DEADLINE")]
    pub dial_deadline: Option<String>,

    /// A DNS answer is not asked again sooner than this [default: 5s].
    #[arg(long, value_name = "DURATION", env = "TIDEGATE_MIN_TTL")]
    pub min_ttl: Option<String>,

    /// A DNS answer is asked again after this at the latest [default: 5m].
    #[arg(long, value_name = "DURATION", env = "TIDEGATE_MAX_TTL")]
    pub max_ttl: Option<String>,

    /// Time for a client to answer the greeting; 0s: for ever [default: 9s].
    #[arg(long, value_name = "DURATION", env = "TIDEGATE_HANDSHAKE_TIMEOUT")]
    pub handshake_timeout: Option<String>,

    /// Time for the server to answer the client's first words; 0s: for ever [default: 60s].
    #[arg(long, value_name = "DURATION", env = "TIDEGATE_REPLY_TIMEOUT")]
    pub reply_timeout: Option<String>,

    /// Silence that closes a session; 0s: never [default: 0s].
    #[arg(long, value_name = "DURATION", env = "TIDEGATE_IDLE_TIMEOUT")]
    pub idle_timeout: Option<String>,

    /// Age that closes a session at its next quiet second; 0s: never [default: 0s].
    #[arg(long, value_name = "DURATION", env = "TIDEGATE_MAX_LIFETIME")]
    pub max_lifetime: Option<String>,

    /// Networks of load balancers that begin each connection with a PROXY header.
    #[arg(long, value_name = "CIDR", env = "TIDEGATE_PROXY_PROTOCOL_FROM")]
    #[arg(action = ArgAction::Append, value_delimiter = ',')]
    pub proxy_protocol_from: Vec<String>,

    /// Time for such a header to arrive [default: 5s].
    #[arg(long, value_name = "DURATION", env = "TIDEGATE_PROXY_PROTOCOL_TIMEOUT")]
    pub proxy_protocol_timeout: Option<String>,

    /// Tells the server of each client in a PROXY header: off, v1 or v2 [default: off].
    #[arg(long, value_name = "VERSION", env = "TIDEGATE_SEND_PROXY_PROTOCOL")]
    pub send_proxy_protocol: Option<String>,

    /// Refuses public addresses: auto, true or false [default: auto, for privatelink names].
    #[arg(long, value_name = "BOOL", env = "TIDEGATE_REQUIRE_PRIVATE")]
    pub require_private: Option<String>,

    /// Networks that count as private besides those that always do.
    #[arg(long, value_name = "CIDR", env = "TIDEGATE_PRIVATE_CIDRS")]
    #[arg(action = ArgAction::Append, value_delimiter = ',')]
    pub private_cidrs: Vec<String>,

    /// Endpoint tried first: failover, round-robin, least-connections [default: failover].
    #[arg(long, value_name = "HOW", env = "TIDEGATE_BALANCE")]
    pub balance: Option<String>,

    /// Networks whose endpoints come before the others.
    #[arg(long, value_name = "CIDR", env = "TIDEGATE_PREFER_CIDRS")]
    #[arg(action = ArgAction::Append, value_delimiter = ',')]
    pub prefer_cidrs: Vec<String>,

    /// Closes sessions of addresses that left DNS after this; 0s: never [default: 0s].
    #[arg(long, value_name = "DURATION", env = "TIDEGATE_CLOSE_VANISHED_AFTER")]
    pub close_vanished_after: Option<String>,

    /// Data threads: auto or a number [default: auto, half the cores].
    #[arg(long, value_name = "N", env = "TIDEGATE_THREADS")]
    pub threads: Option<String>,

    /// A peer that owes an acknowledgement for this long is dead; 0s: never [default: 30s].
    #[arg(long, value_name = "DURATION", env = "TIDEGATE_STALL_TIMEOUT")]
    pub stall_timeout: Option<String>,

    /// Moves bulk inside the kernel, without copying it: auto or off [default: auto].
    #[arg(long, value_name = "MODE", env = "TIDEGATE_SPLICE")]
    pub splice: Option<String>,

    /// Silence before the first keepalive probe [default: 45s].
    #[arg(long, value_name = "DURATION", env = "TIDEGATE_KEEPALIVE_IDLE")]
    pub keepalive_idle: Option<String>,

    /// Time between unanswered probes [default: 5s].
    #[arg(long, value_name = "DURATION", env = "TIDEGATE_KEEPALIVE_INTERVAL")]
    pub keepalive_interval: Option<String>,

    /// Unanswered probes until a peer is dead [default: 4].
    #[arg(long, value_name = "N", env = "TIDEGATE_KEEPALIVE_COUNT")]
    pub keepalive_count: Option<String>,

    /// TCP_USER_TIMEOUT of both legs; 0s: not set [default: 0s].
    #[arg(long, value_name = "DURATION", env = "TIDEGATE_USER_TIMEOUT")]
    pub user_timeout: Option<String>,

    /// Congestion control of both legs [default: system].
    #[arg(long, value_name = "NAME", env = "TIDEGATE_CONGESTION_CONTROL")]
    pub congestion_control: Option<String>,

    /// File with the token for state-changing admin calls from other hosts.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_ADMIN_TOKEN_FILE")]
    pub admin_token_file: Option<String>,

    /// Log lines as text or json [default: text].
    #[arg(long, value_name = "FORMAT", env = "TIDEGATE_LOG_FORMAT")]
    pub log_format: Option<String>,

    /// off, error, warn, info, debug or trace [default: info].
    #[arg(long, value_name = "LEVEL", env = "TIDEGATE_LOG_LEVEL")]
    pub log_level: Option<String>,
}

/// Which running bridge is meant. As in [`Settings`], an argument's id is its key's name.
#[derive(Debug, Args)]
pub struct Target {
    /// Address of its admin endpoint [default: 127.0.0.1:9400].
    ///
    /// One that means every address of the host, such as 0.0.0.0, stands for its loopback.
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_ADMIN")]
    pub admin: Option<String>,

    /// The file it runs on, where its `admin` address is read if --admin is not given.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG", value_parser = file())]
    pub config: Option<PathBuf>,
}

/// Flags of `drain`.
#[derive(Debug, Args)]
pub struct Drain {
    /// Which bridge.
    #[command(flatten)]
    pub target: Target,

    /// File with the bridge's token; needed from another host [default: that of --config].
    #[arg(long, value_name = "FILE", env = "TIDEGATE_ADMIN_TOKEN_FILE")]
    pub admin_token_file: Option<String>,
}

/// Flags of `wait`.
#[derive(Debug, Args)]
pub struct Wait {
    /// Which bridge.
    #[command(flatten)]
    pub target: Target,

    /// Waits until /readyz answers 200; this is the default.
    #[arg(long)]
    pub ready: bool,

    /// Waits until connections to the admin address are refused.
    #[arg(long, conflicts_with = "ready")]
    pub gone: bool,

    /// The longest time to wait; 0s: looks once. The last look may take a second.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub max: Duration,
}

/// Flags of `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Which bridge.
    #[command(flatten)]
    pub target: Target,

    /// Prints the JSON of /status.json instead of tables.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Ends after the last step, with 0 if every step went as it should and 1 if not.
    #[arg(long)]
    pub once: bool,
}
