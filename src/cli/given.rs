//! What was given on the command line and in the environment, in the form that the configuration takes.

use std::env;
use std::ffi::OsStr;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory};

use super::Cli;
use crate::config::{self, ConfigError, Overrides, Raw, Source, parsers};

/// The flags and variables that were given, by key.
///
/// # Errors
///
/// A variable that looks like a misspelt one of ours; an empty path of a file.
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
        match (unset, id) {
            (true, _) => {}
            (false, "config") => drop(alone(id, values, source).optional(id, parsers::path)?),
            (false, _) => drop(given.0.insert(id.to_owned(), Raw { values, source })),
        }
    }
    // A variable of another command is no misspelt one of this: a pod sets them for all.
    let elsewhere: Vec<_> = variables_of(&cli).into_iter().map(|(_, name)| name).collect();
    let set = env::vars_os().filter(|(name, _)| !elsewhere.contains(&name.as_os_str()));
    let set = set.filter_map(|(name, _)| name.into_string().ok());
    config::check_variables(set, &variables)?;
    Ok(given)
}

/// Whether all of our variables can be read: the parser of the command line would not say which cannot.
///
/// # Errors
///
/// One whose value is no UTF-8.
pub fn check_encoding() -> Result<(), ConfigError> {
    for (id, name) in variables_of(&Cli::command()) {
        if let Some(value) = env::var_os(name).filter(|value| value.to_str().is_none()) {
            let source = Source::Env(name.to_string_lossy().into_owned());
            let value = value.to_string_lossy().into_owned();
            return Err(alone(id, vec![value], source).refuse(id, "is no UTF-8", "unset it"));
        }
    }
    Ok(())
}

/// One setting, and nothing else.
fn alone(id: &str, values: Vec<String>, source: Source) -> Overrides {
    Overrides([(id.to_owned(), Raw { values, source })].into())
}

/// The environment variables of a command and of those below it, each with its argument's id.
fn variables_of(command: &clap::Command) -> Vec<(&str, &OsStr)> {
    let own =
        command.get_arguments().filter_map(|one| Some((one.get_id().as_str(), one.get_env()?)));
    own.chain(command.get_subcommands().flat_map(variables_of)).collect()
}
