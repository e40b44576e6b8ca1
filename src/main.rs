//! The `tidegate` command: parses, dispatches, maps errors to exit codes.
#![forbid(unsafe_code)]

use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use tidegate::app::{self, App, BuildError};
use tidegate::cli::{Cli, Command, Demo, Settings};
use tidegate::config::{self, Config, ConfigError, Overrides, Raw, Source};
use tidegate::demo::{self, DemoOptions};
use tidegate::drain::{Drain, Signals};
use tidegate::log::{self, Chain};
use tokio::runtime;

const OK: u8 = 0;
const FAILED: u8 = 1;
const USAGE: u8 = 2;
/// `EX_CONFIG` of sysexits.h.
const BAD_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let result = match &cli.command {
        Command::Run(settings) => load(settings, &matches).and_then(serve),
        Command::Check(settings) => {
            load(settings, &matches).and_then(|config| say(&config.to_toml()))
        }
        Command::Demo(demo) => show(demo),
    };
    match result {
        Ok(()) => OK.into(),
        Err(Failure { code, message }) => {
            // Not `eprintln!`, which panics when stderr is closed.
            let _ = writeln!(io::stderr(), "tidegate: {message}");
            code.into()
        }
    }
}

struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn building(error: &BuildError, code: u8) -> Self {
        let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        Self { code, message: format!("{}{hint}", Chain(error)) }
    }

    /// A failure while running.
    fn running(error: impl Error) -> Self {
        Self { code: FAILED, message: Chain(&error).to_string() }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let code = if error.is_usage() { USAGE } else { BAD_CONFIG };
        Self { code, message: error.to_string() }
    }
}

fn load(settings: &Settings, matches: &ArgMatches) -> Result<Config, Failure> {
    let file = match &settings.config {
        None => None,
        Some(path) => {
            let origin = path.display().to_string();
            let text = fs::read_to_string(path).map_err(|error| Failure {
                code: BAD_CONFIG,
                message: format!("cannot read {origin}: {error}"),
            })?;
            Some((text, origin))
        }
    };
    let file = file.as_ref().map(|(text, origin)| (text.as_str(), origin.as_str()));
    let given = matches.subcommand().map(|(name, arguments)| given(name, arguments));
    let config = config::load(file, &given.transpose()?.unwrap_or_default())?;
    app::preflight(&config).map_err(|error| Failure::building(&error, BAD_CONFIG))?;
    Ok(config)
}

/// The flags and variables that were given, by key.
fn given(command: &str, arguments: &ArgMatches) -> Result<Overrides, ConfigError> {
    let mut given = Overrides::default();
    let cli = Cli::command();
    let known = cli.find_subcommand(command).into_iter().flat_map(clap::Command::get_arguments);
    let mut variables = Vec::new();
    for argument in known {
        let id = argument.get_id().as_str();
        let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
        variables.extend(variable.clone());
        let source = match (arguments.value_source(id), argument.get_long(), variable) {
            (Some(ValueSource::CommandLine), Some(flag), _) => Source::Flag(format!("--{flag}")),
            (Some(ValueSource::CommandLine), None, _) => Source::Flag(id.to_ascii_uppercase()),
            (Some(ValueSource::EnvVariable), _, Some(variable)) => Source::Env(variable),
            _ => continue,
        };
        let values = arguments.get_raw(id).into_iter().flatten();
        let values: Vec<_> = values.map(|value| value.to_string_lossy().into_owned()).collect();
        // An empty variable is how a deployment says "not set".
        let unset = matches!(source, Source::Env(_)) && values.iter().all(String::is_empty);
        if !unset && id != "config" {
            given.0.insert(id.to_owned(), Raw { values, source });
        }
    }
    let set = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    config::check_variables(set, &variables)?;
    Ok(given)
}

fn serve(config: Config) -> Result<(), Failure> {
    let logs = log::init(&config.log);
    control_runtime()?.block_on(async {
        let drain = Drain::new();
        let signals = Signals::install().map_err(Failure::running)?;
        let app = App::build(config, drain.clone(), &logs)
            .map_err(|error| Failure::building(&error, FAILED))?;
        say(&format!("{}\n", app.ready_line()))?;
        tokio::select! {
            result = app.run() => result.map_err(Failure::running),
            () = signals.watch(&drain) => {
                Err(Failure { code: FAILED, message: "ended by a second signal".into() })
            }
        }
    })
}

fn show(demo: &Demo) -> Result<(), Failure> {
    let logs = log::init(&demo::config()?.log);
    let options = DemoOptions { once: demo.once };
    control_runtime()?.block_on(demo::run(options, &logs)).map_err(Failure::running)
}

fn say(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::running)
}

fn control_runtime() -> Result<runtime::Runtime, Failure> {
    runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::running)
}
