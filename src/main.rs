//! The `tidegate` command: parses, dispatches, maps errors to exit codes.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use tidegate::app::App;
use tidegate::cli::{Cli, Command, Demo};
use tidegate::config::{self, Config, Overrides, Raw, Source};
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
    let arguments = matches.subcommand().map(|(_, arguments)| arguments);
    let result = match cli.command {
        Command::Run(run) => {
            let overrides = arguments.map(overrides).unwrap_or_default();
            load(run.config.as_deref(), &overrides).and_then(serve)
        }
        Command::Check(check) => load(Some(&check.config), &Overrides::default())
            .and_then(|config| say(&config.to_toml())),
        Command::Demo(demo) => show(&demo),
    };
    match result {
        Ok(()) => OK.into(),
        Err(Failure { code, message }) => {
            eprintln!("tidegate: {message}");
            code.into()
        }
    }
}

struct Failure {
    code: u8,
    message: String,
}

impl<E: Error> From<E> for Failure {
    /// A failure while running.
    fn from(error: E) -> Self {
        Self { code: FAILED, message: Chain(&error).to_string() }
    }
}

fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Config, Failure> {
    let file = path
        .map(|path| {
            let origin = path.display().to_string();
            fs::read_to_string(path).map(|text| (text, origin.clone())).map_err(|error| Failure {
                code: BAD_CONFIG,
                message: format!("cannot read {origin}: {error}"),
            })
        })
        .transpose()?;
    let file = file.as_ref().map(|(text, origin)| (text.as_str(), origin.as_str()));
    config::load(file, overrides).map_err(|error| Failure {
        code: if error.is_usage() { USAGE } else { BAD_CONFIG },
        message: error.to_string(),
    })
}

/// The flags and variables that were given, by key.
fn overrides(arguments: &ArgMatches) -> Overrides {
    let mut given = Overrides::default();
    for id in arguments.ids().map(clap::Id::as_str).filter(|id| *id != "config") {
        let flag = id.replace('_', "-");
        let source = match arguments.value_source(id) {
            Some(ValueSource::EnvVariable) => {
                Source::Env(format!("TIDEGATE_{}", id.to_ascii_uppercase()))
            }
            Some(ValueSource::CommandLine) if id == "gateway" => Source::Flag("GATEWAY".into()),
            Some(ValueSource::CommandLine) => Source::Flag(format!("--{flag}")),
            _ => continue,
        };
        let values = arguments.get_raw(id).into_iter().flatten();
        let values: Vec<_> = values.map(|value| value.to_string_lossy().into_owned()).collect();
        // An empty variable is how a deployment says "not set".
        if matches!(source, Source::Env(_)) && values.iter().all(String::is_empty) {
            continue;
        }
        given.0.insert(id.to_owned(), Raw { values, source });
    }
    given
}

fn serve(config: Config) -> Result<(), Failure> {
    let logs = log::init(&config.log);
    control_runtime()?.block_on(async {
        let drain = Drain::new();
        let signals = Signals::install()?;
        let app = App::build(config, drain.clone(), logs.dropped()).map_err(|error| {
            let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            Failure { code: FAILED, message: format!("{}{hint}", Chain(&error)) }
        })?;
        say(&format!("{}\n", app.ready_line()))?;
        tokio::select! {
            result = app.run() => Ok(result?),
            () = signals.watch(&drain) => {
                Err(Failure { code: FAILED, message: "ended by a second signal".into() })
            }
        }
    })
}

fn show(demo: &Demo) -> Result<(), Failure> {
    let logs = log::init(&demo::config()?.log);
    Ok(control_runtime()?.block_on(demo::run(DemoOptions { once: demo.once }, logs.dropped()))?)
}

fn say(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

fn control_runtime() -> Result<runtime::Runtime, Failure> {
    Ok(runtime::Builder::new_current_thread().enable_all().build()?)
}
