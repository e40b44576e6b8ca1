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
        Self { source, message: without_passwords(&message.into()), hint: None }
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

/// Errors repeat what was given, which may be a DSN with a password, and go into logs.
fn without_passwords(message: &str) -> String {
    let ends_word = |c: char| c.is_whitespace() || matches!(c, '`' | '"' | '\'');
    let masked = message.split_inclusive(ends_word).map(|word| {
        let start = word.find("://").map_or(0, |at| at + 3);
        let end = word.rfind('@').filter(|end| word[start..*end].contains(':'));
        match end {
            Some(end) if !word.starts_with("unix:") => {
                format!("{}****{}", &word[..start], &word[end..])
            }
            _ => word.to_owned(),
        }
    });
    masked.collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_repeated() {
        let masked = [
            (
                "`gateway` is `mysql://root:s3@cret@gw:4000/db`: x",
                "`gateway` is `mysql://****@gw:4000/db`: x",
            ),
            ("`target` is `root:secret@gw:4000`: x", "`target` is `****@gw:4000`: x"),
            ("at `unix:/run/a@b` and `a@b`: @", "at `unix:/run/a@b` and `a@b`: @"),
        ];
        for (message, shown) in masked {
            assert_eq!(without_passwords(message), shown);
        }
    }
}
