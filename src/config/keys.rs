//! How a key is looked up: its override before what its section says, and each value parsed.

use std::fs;

use super::error::ConfigError;
use super::file::{Overrides, Raw, Section, Source};
use super::parsers::path;

/// A section under the overrides: how one key is looked up.
pub(super) struct Keys<'s> {
    pub section: &'s mut Section,
    pub overrides: &'s Overrides,
}

impl Keys<'_> {
    fn raw(&mut self, key: &'static str) -> Option<Raw> {
        let written = self.section.take(key);
        self.overrides.0.get(key).cloned().or(written)
    }

    /// Where a key stands that was looked up.
    pub fn source_of(&self, key: &str) -> Source {
        let given = self.overrides.0.get(key).map(|raw| raw.source.clone());
        given.unwrap_or_else(|| self.section.source_of(key))
    }

    pub fn one<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
        default: T,
    ) -> Result<T, ConfigError> {
        Ok(self.optional(key, parse)?.unwrap_or(default))
    }

    pub fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(raw) = self.raw(key) else { return Ok(None) };
        one_value(&raw, key, parse).map(Some)
    }

    /// A key whose flag and variable are those of the same key above all sections.
    pub fn of_the_section<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(raw) = self.section.take(key) else { return Ok(None) };
        one_value(&raw, key, parse).map(Some)
    }

    /// `None` when the key is not written; an empty list stays an empty list.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Vec<T>>, ConfigError> {
        match self.raw(key) {
            None => Ok(None),
            Some(raw) if raw.values.is_empty() && key == "bind" => {
                Err(ConfigError::new(raw.source, "`bind` is an empty list")
                    .hint("leave it out for localhost:4000"))
            }
            Some(raw) => parse_all(&raw, key, parse).map(Some),
        }
    }
}

/// What no file has.
impl Overrides {
    /// A setting that must be given.
    pub fn required<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let missing = || ConfigError::new(Source::CommandLine, format!("no `{key}` is given"));
        self.optional(key, parse)?.ok_or_else(missing)
    }

    /// A setting that need not be given.
    pub fn optional<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        self.0.get(key).map(|raw| one_value(raw, key, parse)).transpose()
    }

    /// A setting that may be given several times.
    pub fn list<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ConfigError> {
        self.0.get(key).map_or_else(|| Ok(Vec::new()), |raw| parse_all(raw, key, parse))
    }

    /// What is in `password_file`, without the line end.
    pub fn password(&self) -> Result<Option<String>, ConfigError> {
        let Some(file) = self.optional("password_file", path)? else { return Ok(None) };
        let text = fs::read_to_string(&file).map_err(|error| {
            let why = format!("cannot be read: {error}");
            self.refuse("password_file", &why, "a file with the password in its only line")
        })?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }

    /// A setting that cannot be used, although its value can be read.
    pub fn refuse(&self, key: &str, why: &str, hint: &str) -> ConfigError {
        let error = match self.0.get(key) {
            Some(Raw { values, source }) => {
                let message = format!("`{key}` is `{}`: {why}", values.join(" "));
                ConfigError::new(source.clone(), message)
            }
            None => ConfigError::new(Source::CommandLine, why),
        };
        error.hint(hint)
    }
}

fn one_value<T>(
    raw: &Raw,
    key: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, ConfigError> {
    match raw.values.as_slice() {
        [value] => parse_one(value, raw, key, parse),
        _ => {
            let message = format!("`{key}` takes one value, not a list");
            Err(ConfigError::new(raw.source.clone(), message))
        }
    }
}

pub(super) fn parse_all<T>(
    raw: &Raw,
    key: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, ConfigError> {
    raw.values.iter().map(|value| parse_one(value, raw, key, &parse)).collect()
}

fn parse_one<T>(
    value: &str,
    raw: &Raw,
    key: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, ConfigError> {
    parse(value).map_err(|expected| {
        let (what, hint) = match expected.split_once('\n') {
            Some((what, hint)) => (what.to_owned(), Some(hint.to_owned())),
            None => (expected, None),
        };
        let error = ConfigError::new(raw.source.clone(), format!("`{key}` is `{value}`: {what}"));
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    })
}
