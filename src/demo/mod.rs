//! `tidegate demo`: the whole bridge on embedded parts, told step by step.
//!
//! Everything runs on loopback: a DNS server that knows the gateway's name, three backends, the
//! bridge as `config/demo.toml` configures it, and a client that checks what it sees.
//!
//! - [`dns`] and [`backend`] are also the tests' upstream: one answers what it was told, the other
//!   dies on command.
//! - `greeting`, `reply`, `scan`, `query` and `variables` are the backend's protocol and its SQL,
//!   sans-io but for the writing of a long row; `session` drives them over a `wire`.
//! - `stage` sets the parts up, `story` is what is told, `client` is who tells it.

pub mod backend;
mod client;
pub mod dns;
mod greeting;
mod query;
#[cfg(test)]
mod query_tests;
mod reply;
mod scan;
mod session;
mod stage;
mod story;
mod variables;
mod wire;

use std::io::{self, Write};

use thiserror::Error;
use tokio::task::JoinError;

use crate::app::{BuildError, RunError};
use crate::config::{self, Config, ConfigError};
use crate::drain::{Drain, Phase, Signals};
use stage::Stage;

/// How the demo is run.
#[derive(Debug, Clone, Copy)]
pub struct DemoOptions {
    /// Ends after the last step, and takes free ports from the start.
    pub once: bool,
}

/// Why the demo ended badly.
#[derive(Debug, Error)]
pub enum DemoError {
    /// Something around the bridge cannot be had.
    #[error("the demo cannot set up its {part}")]
    Part {
        /// What it is.
        part: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// `config/demo.toml` is not what the bridge takes.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The bridge cannot start.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The bridge ended in an error.
    #[error(transparent)]
    Bridge(#[from] RunError),
    /// The bridge's control task panicked.
    #[error("the bridge panicked")]
    Panicked(#[source] JoinError),
    /// A step did not go as it should; stdout says the same.
    #[error("step {step} of the demo failed: expected {expected}, saw {seen}")]
    Step {
        /// Its number, from 1.
        step: usize,
        /// What would have been right.
        expected: String,
        /// What was there.
        seen: String,
    },
    /// A signal came before the last step, or a second one before the drain was over.
    #[error("the demo was interrupted")]
    Interrupted,
    /// The story cannot be written.
    #[error("cannot write to stdout")]
    Narration(#[from] io::Error),
}

/// The configuration that the demo starts from, its log settings among it.
pub fn config() -> Result<Config, ConfigError> {
    config::parse(include_str!("../../config/demo.toml"), "config/demo.toml")
}

/// Tells the story on stdout; without `once` it then serves until SIGINT or SIGTERM.
///
/// Runs on the control runtime.
pub async fn run(options: DemoOptions, log: crate::log::Control) -> Result<(), DemoError> {
    let drain = Drain::new();
    let signals =
        Signals::install().map_err(|source| DemoError::Part { part: "signal handlers", source })?;
    let stage = Stage::set(options, drain.clone(), log).await?;
    tokio::select! {
        ended = tell(options, stage, &drain) => ended,
        () = signals.watch(&drain) => Err(DemoError::Interrupted),
    }
}

async fn tell(options: DemoOptions, stage: Stage, drain: &Drain) -> Result<(), DemoError> {
    let mut narrator = Narrator::default();
    let told = tokio::select! {
        told = story::tell(&mut narrator, stage) => told,
        () = drain.reached(Phase::Leaving) => Err(DemoError::Interrupted),
    };
    let stage = told?;
    if !options.once {
        stay(&mut narrator, &stage)?;
        drain.reached(Phase::Leaving).await;
    }
    drain.begin();
    stage.end().await?;
    narrator.say("")?;
    narrator.say("the bridge has drained")
}

fn stay(narrator: &mut Narrator, stage: &Stage) -> Result<(), DemoError> {
    let (host, port) = (stage.bridge.ip(), stage.bridge.port());
    narrator.say("")?;
    narrator.say("It stays up until Ctrl-C. In another terminal:")?;
    // As MySQL's own client takes it, which knows no --skip-ssl; MariaDB's, since 11.4, sends a password
    // by TLS alone.
    narrator.say(&format!("     mysql --host {host} --port {port} --user {}", client::USER))?;
    narrator
        .say("     (where MariaDB's client is set to send a password: --skip-ssl behind it)")?;
    narrator.say(&format!("     curl http://{}/metrics", stage.admin))
}

/// Writes the story: numbered steps, and lines in two columns below them.
#[derive(Debug, Default)]
struct Narrator {
    step: usize,
}

impl Narrator {
    /// A line as it is.
    fn say(&mut self, line: &str) -> Result<(), DemoError> {
        // Not `println!`, which panics when nobody reads.
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}")?;
        Ok(stdout.flush()?)
    }

    /// Opens the next step.
    fn step(&mut self, title: &str) -> Result<(), DemoError> {
        self.step += 1;
        self.say("")?;
        self.say(&format!("{}. {title}", self.step))
    }

    /// One thing that was done, and what came of it.
    fn tell(&mut self, what: &str, outcome: &str) -> Result<(), DemoError> {
        self.say(format!("     {what:<36}  {outcome}").trim_end())
    }

    /// Ends the story unless `fine`.
    fn check(
        &mut self,
        fine: bool,
        expected: impl Into<String>,
        seen: impl Into<String>,
    ) -> Result<(), DemoError> {
        if fine { Ok(()) } else { Err(self.failed(expected, seen)) }
    }

    /// Tells the failure and makes it the demo's.
    fn failed(&mut self, expected: impl Into<String>, seen: impl Into<String>) -> DemoError {
        let (expected, seen) = (expected.into(), seen.into());
        let told = self
            .tell("FAILED: expected", &expected)
            .and_then(|()| self.tell("        seen", &seen));
        match told {
            Ok(()) => DemoError::Step { step: self.step, expected, seen },
            Err(error) => error,
        }
    }
}
