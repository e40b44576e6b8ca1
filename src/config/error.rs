//! One error for every way a setting can be wrong.

use std::fmt;

use super::file::Source;

/// A setting that cannot be used: where it stands, what is wrong, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    source: Source,
    message: String,
    hint: Option<String>,
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    pub(super) fn new(source: Source, message: impl Into<String>) -> Self {
        Self { source, message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds "did you mean" when one of `known` is close to `word`, else lists them.
    pub(super) fn did_you_mean<'a>(
        self,
        word: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let closest = known
            .iter()
            .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
            .filter(|(similarity, _)| *similarity > 0.8)
            .max_by(|(a, _), (b, _)| a.total_cmp(b));
        match closest {
            Some((_, candidate)) => self.hint(format!("did you mean `{candidate}`?")),
            None if known.is_empty() => self,
            None => self.hint(format!("known here: {}", known.join(", "))),
        }
    }

    /// Whether the command line is to blame (exit code 2) and not the configuration (78).
    pub fn is_usage(&self) -> bool {
        matches!(self.source, Source::Flag(_) | Source::CommandLine)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::CommandLine => write!(f, "{}", self.message)?,
            source => write!(f, "{source}: {}", self.message)?,
        }
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}
