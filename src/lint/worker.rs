//! A Worker's source: how it uses Hyperdrive. Told by words and signs, not by a syntax tree.

use std::collections::HashSet;

use super::dsn::out_of_reach;
use super::report::{Report, Rule};
use super::source::Part;

/// What a Hyperdrive binding does not have, though bindings of other databases do.
const METHODS: &[&str] = &["query", "execute", "prepare", "exec", "batch", "raw", "run"];

/// Their execute() is a query() of mysql2's.
const ORMS: &[&str] = &["drizzle-orm", "kysely", "typeorm", "@mikro-orm"];

/// A source, without its comments.
pub(super) struct Script {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    kind: What,
    line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Word(String),
    Text(String),
    Sign(char),
}

impl Script {
    pub fn new(text: &str, first: usize) -> Self {
        Self { tokens: tokens(text, first) }
    }

    fn word(&self, at: usize) -> Option<&str> {
        match self.tokens.get(at).map(|token| &token.kind) {
            Some(What::Word(word)) => Some(word),
            _ => None,
        }
    }

    fn sign(&self, at: usize) -> Option<char> {
        match self.tokens.get(at).map(|token| &token.kind) {
            Some(What::Sign(sign)) => Some(*sign),
            _ => None,
        }
    }

    /// Where a word stands.
    fn places(&self, word: &str) -> impl Iterator<Item = usize> {
        let is_it = move |at: &usize| self.word(*at) == Some(word);
        (0..self.tokens.len()).filter(is_it)
    }

    fn imports(&self, module: &str) -> bool {
        let is_it = |text: &str| {
            text.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.tokens.iter().any(|token| matches!(&token.kind, What::Text(text) if is_it(text)))
    }

    /// `name: true`, or whatever else.
    fn is_set(&self, name: &str, value: &str) -> Option<usize> {
        let mut places = self.places(name);
        places.find(|at| self.sign(at + 1) == Some(':') && self.word(at + 2) == Some(value))
    }
}

pub(super) fn lint(
    part: &Part<'_>,
    script: &Script,
    bindings: &HashSet<String>,
    report: &mut Report,
) {
    let line = |at: usize| script.tokens.get(at).map_or(part.first, |token| token.line);
    let is_binding = |word: &str| word.starts_with("HYPERDRIVE") || bindings.contains(word);
    let mut uses_it = false;
    for at in 0..script.tokens.len() {
        let Some(binding) = script.word(at).filter(|word| is_binding(word)) else { continue };
        uses_it = true;
        // `env.HYPERDRIVE!.query`, `env.HYPERDRIVE?.query`
        let mut dot = at + 1;
        while matches!(script.sign(dot), Some('!' | '?')) {
            dot += 1;
        }
        let method = script.word(dot + 1).filter(|_| script.sign(dot) == Some('.'));
        let is_called = script.sign(dot + 2) == Some('(');
        if let Some(method) = method.filter(|method| is_called && METHODS.contains(method)) {
            let wrong = format!(
                "a Hyperdrive binding has no {method}(): `{binding}` is where to connect to"
            );
            let instead = format!(
                "mysql2's createConnection({{ host: env.{binding}.host, user, password, database, port, \
                 disableEval: true }}), and query() of what it returns"
            );
            report.add(part.file, line(dot + 1), Rule::WorkerQuery, wrong, instead);
        }
    }
    if uses_it && script.imports("mysql2") {
        mysql2(part, script, &is_binding, report);
    }
    origins(part, script, report);
}

fn mysql2(
    part: &Part<'_>,
    script: &Script,
    is_binding: &impl Fn(&str) -> bool,
    report: &mut Report,
) {
    let mut add = |at: usize, rule, wrong: &str, instead: &str| {
        report.add(part.file, script.tokens[at].line, rule, wrong, instead);
    };
    let called = |name: &str| script.places(name).find(|at| script.sign(at + 1) == Some('('));
    let connects = called("createConnection").or_else(|| called("createPool"));
    if let Some(at) = connects
        && script.is_set("disableEval", "true").is_none()
    {
        let wrong = "mysql2 compiles code at run time, which Workers do not let it";
        add(at, Rule::WorkerDisableEval, wrong, "disableEval: true among the options");
    }
    if let Some(at) = script.is_set("multipleStatements", "true") {
        let wrong = "Hyperdrive refuses several statements in one query";
        add(at, Rule::WorkerMultipleStatements, wrong, "a query() for each");
    }
    if connects.is_none() || ORMS.iter().any(|orm| script.imports(orm)) {
        return;
    }
    for at in script.places("execute") {
        let is_method =
            at > 1 && script.sign(at - 1) == Some('.') && script.sign(at + 1) == Some('(');
        let is_bindings = at > 1 && script.word(at - 2).is_some_and(is_binding);
        if is_method && !is_bindings {
            let wrong =
                "execute() prepares the statement, and Hyperdrive has no prepared statements";
            add(at, Rule::WorkerExecute, wrong, "query(), which takes the same arguments");
        }
    }
}

/// `new cloudflare.HyperdriveConfig(…, { origin: { host: "…" } })`, as Pulumi has it.
fn origins(part: &Part<'_>, script: &Script, report: &mut Report) {
    if script.places("HyperdriveConfig").next().is_none() {
        return;
    }
    for at in script.places("host") {
        let Some(What::Text(host)) = script.tokens.get(at + 2).map(|token| &token.kind) else {
            continue;
        };
        if script.sign(at + 1) == Some(':')
            && let Some((wrong, instead)) = out_of_reach(host)
        {
            report.add(part.file, script.tokens[at].line, Rule::HyperdriveOrigin, wrong, instead);
        }
    }
}

/// Words, texts and signs. A regular expression with a quote in it is taken for a text that ends with its
/// line.
fn tokens(text: &str, first: usize) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut line = first;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let begun = line;
        let kind = match c {
            '\n' => {
                line += 1;
                continue;
            }
            c if c.is_whitespace() => continue,
            '/' if chars.peek() == Some(&'/') => {
                while chars.next_if(|c| *c != '\n').is_some() {}
                continue;
            }
            '/' if chars.peek() == Some(&'*') => {
                chars.next();
                let mut before = ' ';
                for c in chars.by_ref() {
                    line += usize::from(c == '\n');
                    if before == '*' && c == '/' {
                        break;
                    }
                    before = c;
                }
                continue;
            }
            quote @ ('"' | '\'' | '`') => {
                let mut text = String::new();
                while let Some(c) = chars.next_if(|c| *c != '\n' || quote == '`') {
                    line += usize::from(c == '\n');
                    match c {
                        '\\' => {
                            let escaped = chars.next();
                            line += usize::from(escaped == Some('\n'));
                            text.extend(escaped);
                        }
                        c if c == quote => break,
                        c => text.push(c),
                    }
                }
                What::Text(text)
            }
            c if is_word(c) => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| is_word(*c)) {
                    word.push(c);
                }
                What::Word(word)
            }
            c => What::Sign(c),
        };
        tokens.push(Token { kind, line: begun });
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}
