//! The raw layer: settings as they were written, each with the place where it stands.
//!
//! A [`Section`] is consumed key by key; what nobody has taken at the end is an unknown key. So a
//! key is named in one place only, the line of `validate` that gives it its type and default.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use strsim::damerau_levenshtein;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;

/// Letters that are missing, added, wrong or swapped in a name that is still meant.
const MISSPELT: usize = 2;

/// Where a setting was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A flag, such as `--listen`.
    Flag(String),
    /// An environment variable, such as `TIDEGATE_LISTEN`.
    Env(String),
    /// A line, counted from 1, of a file.
    File(Arc<str>, usize),
    /// The command line as a whole: something is missing there.
    CommandLine,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Env(name) => f.write_str(name),
            Self::File(origin, line) => write!(f, "{origin}:{line}"),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

/// One setting as written: its values (one, unless it is a list) and where they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// The values as text.
    pub values: Vec<String>,
    /// Where they stand.
    pub source: Source,
}

/// Flags and environment variables by key name; a flag has already won over its variable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides(pub BTreeMap<String, Raw>);

/// Refuses a variable that looks like a misspelt one of ours: it would be ignored in silence.
///
/// Others that begin with `TIDEGATE_` are left alone, and so are those that Kubernetes makes for a
/// service called tidegate (`TIDEGATE_PORT`, `TIDEGATE_SERVICE_HOST`, …).
pub fn check_variables(
    set: impl Iterator<Item = String>,
    known: &[String],
) -> Result<(), ConfigError> {
    for name in set.filter(|name| !known.contains(name)) {
        let Some(key) = name.strip_prefix("TIDEGATE_") else { continue };
        if key == "PORT" || key.starts_with("PORT_") || key.starts_with("SERVICE_") {
            continue;
        }
        let meant = known.iter().find(|known| damerau_levenshtein(known, &name) <= MISSPELT);
        if let Some(meant) = meant {
            return Err(ConfigError::new(Source::Env(name.clone()), "no such setting")
                .hint(format!("did you mean `{meant}`?")));
        }
    }
    Ok(())
}

/// A file taken apart into its sections.
#[derive(Debug, Default)]
pub(super) struct File {
    pub top: Section,
    pub listeners: Vec<Section>,
    pub upstreams: Vec<(String, Section)>,
}

/// The settings of one table of the file.
#[derive(Debug, Clone)]
pub(super) struct Section {
    /// As the file writes it: `[upstream.tidb]`.
    pub title: String,
    /// Where the table begins.
    pub source: Source,
    entries: BTreeMap<String, Raw>,
    /// The keys that were taken, and where they stand.
    known: BTreeMap<&'static str, Option<Source>>,
}

impl Default for Section {
    fn default() -> Self {
        Self::empty("the top level".into(), Source::CommandLine)
    }
}

impl Section {
    /// A table without a key.
    pub fn empty(title: String, source: Source) -> Self {
        Self { title, source, entries: BTreeMap::new(), known: BTreeMap::new() }
    }

    /// Takes a key out; from then on it counts as known.
    pub fn take(&mut self, key: &'static str) -> Option<Raw> {
        let raw = self.entries.remove(key);
        self.known.insert(key, raw.as_ref().map(|raw| raw.source.clone()));
        raw
    }

    /// Where a key stands that was taken; where the table begins, if it is not in it.
    pub fn source_of(&self, key: &str) -> Source {
        self.known.get(key).cloned().flatten().unwrap_or_else(|| self.source.clone())
    }

    /// Refuses what was not taken. `also` are known names that are tables, not keys.
    pub fn finish(self, also: &[&'static str]) -> Result<(), ConfigError> {
        let Some((key, raw)) = self.entries.into_iter().next() else { return Ok(()) };
        let error = ConfigError::new(raw.source, format!("unknown key `{key}` in {}", self.title));
        Err(error.did_you_mean(&key, self.known.keys().chain(also).copied()))
    }
}

impl File {
    /// Takes TOML apart. Syntax errors name line and column.
    pub fn read(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let reader = Reader { text, origin: origin.into() };
        let root = DeTable::parse(text).map_err(|error| {
            let at = reader.source(&error.span().unwrap_or(0..0));
            ConfigError::new(at, format!("not valid TOML: {}", error.message()))
        })?;
        let mut file = Self::default();
        file.top.source = reader.source(&(0..0));
        for (key, value) in root.into_inner() {
            let at = reader.source(&value.span());
            match (key.get_ref().as_ref(), value.into_inner()) {
                ("listener", DeValue::Array(listeners)) => {
                    for listener in listeners {
                        let title = "[[listener]]".to_owned();
                        file.listeners.push(reader.section(title, listener)?);
                    }
                }
                ("listener", _) => {
                    return Err(ConfigError::new(at, "`listener` is a list of tables")
                        .hint("write [[listener]], with two brackets"));
                }
                ("upstream", DeValue::Table(upstreams)) => {
                    for (name, upstream) in upstreams {
                        let name = name.into_inner().into_owned();
                        let title = format!("[upstream.{name}]");
                        file.upstreams.push((name, reader.section(title, upstream)?));
                    }
                }
                ("upstream", DeValue::Array(_)) => {
                    return Err(ConfigError::new(at, "upstreams have names")
                        .hint("write [upstream.NAME] for each"));
                }
                (key, value) => {
                    let raw = reader.raw(key, value, &at)?;
                    file.top.entries.insert(key.to_owned(), raw);
                }
            }
        }
        Ok(file)
    }
}

struct Reader<'t> {
    text: &'t str,
    origin: Arc<str>,
}

impl Reader<'_> {
    fn source(&self, span: &Range<usize>) -> Source {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Source::File(self.origin.clone(), line)
    }

    fn section(&self, title: String, value: Spanned<DeValue<'_>>) -> Result<Section, ConfigError> {
        let source = self.source(&value.span());
        let DeValue::Table(table) = value.into_inner() else {
            let name = title.trim_matches(['[', ']']);
            return Err(ConfigError::new(source, format!("`{name}` is a table"))
                .hint(format!("write it as {title}, its keys below it")));
        };
        let mut section = Section::empty(title, source);
        for (key, value) in table {
            let at = self.source(&key.span());
            let key = key.into_inner();
            section.entries.insert(key.to_string(), self.raw(&key, value.into_inner(), &at)?);
        }
        Ok(section)
    }

    fn raw(&self, key: &str, value: DeValue<'_>, at: &Source) -> Result<Raw, ConfigError> {
        let values = match value {
            DeValue::Array(items) => items
                .into_iter()
                .map(|item| {
                    let at = self.source(&item.span());
                    scalar(key, item.into_inner(), at)
                })
                .collect::<Result<_, _>>()?,
            single => vec![scalar(key, single, at.clone())?],
        };
        Ok(Raw { values, source: at.clone() })
    }
}

fn scalar(key: &str, value: DeValue<'_>, at: Source) -> Result<String, ConfigError> {
    match value {
        DeValue::String(text) => Ok(text.into_owned()),
        DeValue::Boolean(yes) => Ok(yes.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string())
            .map_err(|_| ConfigError::new(at, format!("`{key}` is too large a number"))),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Table(_) => Err(ConfigError::new(at, format!("unknown table `{key}`"))
            .did_you_mean(key, ["listener", "upstream"])),
        other => Err(ConfigError::new(
            at,
            format!("`{key}` cannot be a {}: expected text, a number or a list", other.type_str()),
        )),
    }
}
