//! What was given on the command line and in the environment, in the form that the configuration takes.

use std::env;
use std::ffi::OsStr;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory};

use super::Cli;
use crate::config::{self, ConfigError, Overrides, Raw, Source};

/// The flags and variables that were given, by key.
///
/// # Errors
///
/// A variable that looks like a misspelt one of ours.
pub fn given(matches: &ArgMatches) -> Result<Overrides, ConfigError> {
    let mut given = Overrides::default();
    let cli = Cli::command();
    let (mut command, mut arguments) = (&cli, matches);
    while let Some((name, below)) = arguments.subcommand() {
        let Some(known) = command.find_subcommand(name) else { break };
        (command, arguments) = (known, below);
    }
    let mut variables = Vec::new();
    for argument in command.get_arguments() {
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
    // A variable of another command is no misspelt one of this: a pod sets them for all.
    let elsewhere = variables_of(&cli);
    let set = env::vars_os().filter(|(name, _)| !elsewhere.contains(&name.as_os_str()));
    let set = set.filter_map(|(name, _)| name.into_string().ok());
    config::check_variables(set, &variables)?;
    Ok(given)
}

/// The environment variables of a command and of those below it.
fn variables_of(command: &clap::Command) -> Vec<&OsStr> {
    let own = command.get_arguments().filter_map(clap::Arg::get_env);
    own.chain(command.get_subcommands().flat_map(variables_of)).collect()
}
