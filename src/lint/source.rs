//! Files, and the parts of one kind that they are made of.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};

use thiserror::Error;

use super::script::{self, Heredoc};
use super::shell::is_redirection;

/// More is no file of a set-up.
const LARGEST: u64 = 1 << 20;

/// A file, or a DSN in place of one.
#[derive(Debug, Clone)]
pub struct Source {
    name: String,
    kind: Form,
    text: String,
}

/// Why a file cannot be looked at. What looks like a DSN is not repeated.
#[derive(Debug, Error)]
pub enum SourceError {
    /// It cannot be read.
    #[error("cannot read {0}")]
    Read(String, #[source] io::Error),
    /// It is too large.
    #[error("{0} has more than {LARGEST} bytes")]
    Large(String),
    /// A binary file, or text of another encoding, in which no rule would find anything.
    #[error("{0} has NUL bytes: it is no text, or not UTF-8")]
    NotText(String),
    /// A URL of something else.
    #[error("a URL is linted when it begins with mysql://")]
    Url,
}

/// How a file is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Markdown,
    All(Kind),
}

/// What a part is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Yaml,
    Toml,
    Json,
    Worker,
    /// Commands, and lines of NAME=value.
    Shell,
    /// A DSN alone.
    Dsn,
    Prose,
}

/// A part of a file.
#[derive(Debug)]
pub(super) struct Part<'s> {
    pub file: &'s str,
    pub kind: Kind,
    /// The number of its first line.
    pub first: usize,
    /// Whether something is filled in before it is what its kind says.
    pub is_template: bool,
    text: Cow<'s, str>,
}

impl<'s> Part<'s> {
    fn new(file: &'s str, kind: Kind, first: usize, text: impl Into<Cow<'s, str>>) -> Self {
        Self { file, kind, first, is_template: false, text: text.into() }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its lines with their numbers.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(number, line)| (self.first + number, line))
    }
}

impl Source {
    /// Reads a file; an argument that is a DSN is looked at as it is.
    pub fn read(argument: &str) -> Result<Self, SourceError> {
        if is_dsn(argument) {
            return Ok(Self::new("(the DSN that was given)", argument));
        }
        if argument.contains("://") {
            return Err(SourceError::Url);
        }
        // `user:password@…`, a DSN as drivers of Go write it.
        let is_secret = argument.split_once('@').is_some_and(|(before, _)| before.contains(':'));
        let name = || if is_secret { "****" } else { argument }.to_owned();
        let failed = |error| SourceError::Read(name(), error);
        let mut bytes = Vec::new();
        let file = File::open(argument).map_err(failed)?;
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > LARGEST {
            return Err(SourceError::Large(name()));
        }
        if bytes.contains(&0) {
            return Err(SourceError::NotText(name()));
        }
        Ok(Self::new(argument, &String::from_utf8_lossy(&bytes)))
    }

    /// A file of this name, with this in it.
    pub fn new(name: &str, text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let kind = Form::of(name, text);
        // One that stands alone ends a line of YAML, and nobody else's.
        let text = text.replace("\r\n", "\n").replace('\r', " ");
        Self { name: name.into(), kind, text }
    }
}

fn is_dsn(text: &str) -> bool {
    let scheme = text.trim_start().get(..8).unwrap_or_default();
    scheme.eq_ignore_ascii_case("mysql://")
}

impl Form {
    fn of(name: &str, text: &str) -> Self {
        let file = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
        if file.starts_with(".env") || file.starts_with(".dev.vars") {
            return Self::All(Kind::Shell);
        }
        let extension = file.rsplit_once('.').map_or("", |(_, extension)| extension);
        match extension {
            "md" | "mdx" | "markdown" => Self::Markdown,
            _ => Self::All(Kind::of(extension).unwrap_or_else(|| match text {
                _ if is_dsn(text) => Kind::Dsn,
                _ if text.starts_with("#!") => Kind::Shell,
                _ => Kind::Prose,
            })),
        }
    }
}

impl Kind {
    /// By the extension of a file, or the word after a fence.
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "yml" | "yaml" => Self::Yaml,
            "toml" => Self::Toml,
            "json" | "jsonc" | "json5" => Self::Json,
            "js" | "mjs" | "cjs" | "jsx" | "ts" | "mts" | "cts" | "tsx" | "javascript"
            | "typescript" => Self::Worker,
            "sh" | "bash" | "zsh" | "shell" | "console" | "env" | "dotenv" | "terminal" => {
                Self::Shell
            }
            _ => return None,
        })
    }
}

/// A file's parts: of Markdown its blocks of code, and what is left; of a script what it writes to files, too.
pub(super) fn parts(source: &Source) -> Vec<Part<'_>> {
    let (file, text) = (source.name.as_str(), source.text.as_str());
    let mut parts = match source.kind {
        Form::All(kind) => vec![Part::new(file, kind, 1, text)],
        Form::Markdown => blocks(file, text),
    };
    let scripts = parts.iter().filter(|part| part.kind == Kind::Shell);
    let inner: Vec<_> = scripts.flat_map(written).collect();
    parts.extend(inner);
    parts
}

/// `cat > config.yml <<END`, and an ingress that goes to a file of any name.
fn written<'s>(script: &Part<'s>) -> Vec<Part<'s>> {
    let heredocs = script::heredocs(script.text(), script.first);
    if heredocs.is_empty() {
        return Vec::new();
    }
    let appended = appended(script.text());
    let part = |heredoc: Heredoc| {
        let extension = |word: &String| Some(word.rsplit_once('.')?.1.to_ascii_lowercase());
        let mut kinds = heredoc.words.iter().filter_map(|word| Kind::of(&extension(word)?));
        let named = kinds.find(|kind| *kind != Kind::Shell);
        let is_written = heredoc.words.iter().any(|word| word == "tee" || is_redirection(word));
        let kind = match named {
            Some(kind) => kind,
            None if is_written && has_ingress(&heredoc.text) => Kind::Yaml,
            None => return None,
        };
        // What a shell fills in may be lines, and what is appended may be the rest.
        let is_part_of_it = heredoc.is_template
            && heredoc.text.lines().any(|line| line.trim_start().starts_with(['$', '`']))
            || heredoc.words.iter().any(|word| appended.contains(base(word)));
        let Heredoc { text, first, is_template, .. } = heredoc;
        let part = Part { is_template, ..Part::new(script.file, kind, first, text) };
        (!is_part_of_it).then_some(part)
    };
    heredocs.into_iter().filter_map(part).collect()
}

/// What a script appends to.
fn appended(script: &str) -> HashSet<&str> {
    let marks = [">>", "tee -a ", "tee --append "];
    let after = |line| marks.iter().filter_map(move |mark| Some(str::split_once(line, mark)?.1));
    let words = script.lines().flat_map(after).filter_map(|rest| {
        let mut words = rest.split([' ', '<', '|', '&', ';', ')']);
        words.find(|word| !word.is_empty())
    });
    words.map(base).filter(|name| !name.is_empty()).collect()
}

/// A file's name, as a command has it.
fn base(word: &str) -> &str {
    let word = word.trim_matches(['"', '\'']);
    word.rsplit(['/', '>']).next().unwrap_or(word)
}

fn has_ingress(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("ingress:"))
}

struct Fence<'t> {
    mark: &'t str,
    indent: usize,
    kind: Option<Kind>,
    first: usize,
    text: String,
}

fn blocks<'s>(file: &'s str, text: &'s str) -> Vec<Part<'s>> {
    let mut parts = Vec::new();
    let mut prose = String::new();
    let mut open: Option<Fence<'_>> = None;
    for (number, line) in text.lines().enumerate() {
        let bare = line.trim_start();
        let indent = line.len() - bare.len();
        let end = bare.trim_end();
        match &mut open {
            Some(fence)
                if end.starts_with(fence.mark) && end.chars().all(|c| fence.mark.contains(c)) =>
            {
                parts.extend(open.take().map(|fence| fence.part(file)));
            }
            Some(fence) => {
                let strip = fence.indent.min(indent);
                fence.text += line.get(strip..).unwrap_or(bare);
                fence.text.push('\n');
            }
            None if bare.starts_with("```") || bare.starts_with("~~~") => {
                let marks = bare.bytes().take_while(|byte| *byte == bare.as_bytes()[0]).count();
                let word = bare[marks..].trim().split([' ', ',', '{']).next().unwrap_or_default();
                let kind = Kind::of(&word.to_ascii_lowercase());
                let (mark, first) = (&bare[..marks], number + 2);
                open = Some(Fence { mark, indent, kind, first, text: String::new() });
            }
            None => prose += line,
        }
        prose.push('\n');
    }
    // One that nobody closes goes to the end.
    parts.extend(open.map(|fence| fence.part(file)));
    parts.push(Part::new(file, Kind::Prose, 1, prose));
    parts
}

impl Fence<'_> {
    fn part(self, file: &str) -> Part<'_> {
        let sniffed = match has_ingress(&self.text) && !self.text.contains("<<") {
            true => Kind::Yaml,
            false => Kind::Shell,
        };
        Part::new(file, self.kind.unwrap_or(sniffed), self.first, self.text)
    }
}
