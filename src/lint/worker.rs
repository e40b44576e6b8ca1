//! A Worker's source: how it uses Hyperdrive. Told by words and signs, not by a syntax tree.

use std::collections::HashSet;

use super::dsn::out_of_reach;
use super::report::{Report, Rule};
use super::source::Part;

/// What a Hyperdrive binding does not have, though bindings of other databases do.
const METHODS: &[&str] = &["query", "execute", "prepare", "exec", "batch", "raw", "run"];

/// What mysql2 has that an execute() can be called on, by what returns it.
const CLIENTS: &[&str] = &["createConnection", "createPool", "getConnection", "promise"];

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

    /// A name that may be in quotes.
    fn name(&self, at: usize) -> Option<&str> {
        match self.tokens.get(at).map(|token| &token.kind) {
            Some(What::Word(name) | What::Text(name)) => Some(name),
            _ => None,
        }
    }

    /// Where `name: value`, or `name` alone, stands among options, and the value if it is a word.
    fn options(&self, name: &str) -> impl Iterator<Item = (usize, Option<&str>)> {
        let places = (0..self.tokens.len()).filter(move |at| self.name(*at) == Some(name));
        places.filter_map(|at| match self.sign(at + 1)? {
            ':' => Some((at, self.word(at + 2))),
            ',' | '}' => Some((at, None)),
            _ => None,
        })
    }

    /// What something is a member of: that before `.`, `?.`, `!.`.
    fn owner(&self, at: usize) -> Option<usize> {
        let mut owner = at.checked_sub(1)?;
        while matches!(self.sign(owner), Some('.' | '?' | '!')) {
            owner = owner.checked_sub(1)?;
        }
        Some(owner)
    }

    /// `env.NAME`, `env["NAME"]`: the name, and what comes after it.
    fn bound(&self, at: usize) -> Option<(&str, usize)> {
        let name = self.name(at)?;
        let before = at.checked_sub(1)?;
        let (member, after) = match self.sign(before)? {
            '.' if self.word(at).is_some() => (at, at + 1),
            '[' if self.sign(at + 1) == Some(']') => (before, at + 2),
            _ => return None,
        };
        let env = self.owner(member).filter(|env| self.word(*env) == Some("env"))?;
        // `process.env` and `import.meta.env` have texts only.
        let whose = self.owner(env).and_then(|whose| self.word(whose));
        (!matches!(whose, Some("process" | "meta"))).then_some((name, after))
    }

    /// Whether something is called there, `(…)`, with types or without, `<…>(…)`.
    fn is_called(&self, at: usize) -> bool {
        self.sign(self.past_types(at)) == Some('(')
    }

    fn past_types(&self, begin: usize) -> usize {
        let mut depth = 0;
        for at in begin..begin + LONGEST_TYPES {
            match self.sign(at) {
                Some('<') => depth += 1,
                // `=>`
                Some('>') if self.sign(at - 1) == Some('=') => {}
                Some('>') => depth -= 1,
                _ if at == begin => break,
                _ => {}
            }
            if depth == 0 {
                return at + 1;
            }
        }
        begin
    }

    /// The variable that a call's result becomes: `const NAME: Type = await mysql.createConnection(…)`.
    fn assigned(&self, call: usize) -> Option<&str> {
        let back = |from: usize| (from.saturating_sub(LONGEST_TYPES)..from).rev();
        let is_between = |at: &usize| {
            self.word(*at).is_some() || matches!(self.sign(*at), Some('.' | '(' | ')' | '?' | '!'))
        };
        let equals = back(call).find(|at| !is_between(at))?;
        if self.sign(equals) != Some('=') {
            return None;
        }
        let declares = |at: &usize| matches!(self.word(*at), Some("const" | "let" | "var"));
        let is_declaration = |at: &usize| {
            let is_types = matches!(self.sign(*at), Some('.' | ':' | '|' | '<' | '>' | '?'));
            is_types || self.word(*at).is_some()
        };
        let declared = back(equals).take_while(is_declaration).find(declares);
        match declared {
            Some(at) => self.word(at + 1),
            None => self.word(back(equals).find(|at| self.word(*at).is_some())?),
        }
    }
}

/// In words and signs.
const LONGEST_TYPES: usize = 100;

pub(super) fn lint(
    part: &Part<'_>,
    script: &Script,
    bindings: &HashSet<String>,
    report: &mut Report,
) {
    let line = |at: usize| script.tokens.get(at).map_or(part.first, |token| token.line);
    let is_usual = |word: &str| word.starts_with("HYPERDRIVE");
    let mut uses_it = (0..script.tokens.len()).any(|at| script.word(at).is_some_and(is_usual));
    for at in 0..script.tokens.len() {
        let bound = script.bound(at).filter(|(name, _)| is_usual(name) || bindings.contains(*name));
        let Some((binding, after)) = bound else { continue };
        uses_it = true;
        // `env.HYPERDRIVE!.query`, `env.HYPERDRIVE?.query`
        let mut dot = after;
        while matches!(script.sign(dot), Some('!' | '?')) {
            dot += 1;
        }
        let method = script.word(dot + 1).filter(|_| script.sign(dot) == Some('.'));
        let is_called = script.is_called(dot + 2);
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
        mysql2(part, script, report);
    }
    origins(part, script, report);
}

fn mysql2(part: &Part<'_>, script: &Script, report: &mut Report) {
    let mut add = |at: usize, rule, wrong: &str, instead: &str| {
        report.add(part.file, script.tokens[at].line, rule, wrong, instead);
    };
    let called = |name: &str| script.places(name).find(|at| script.sign(at + 1) == Some('('));
    let connects = called("createConnection").or_else(|| called("createPool"));
    if let Some(at) = connects
        && script.options("disableEval").all(|(_, value)| value == Some("false"))
    {
        let wrong = "mysql2 compiles code at run time, which Workers do not let it";
        add(at, Rule::WorkerDisableEval, wrong, "disableEval: true among the options");
    }
    let mut several = script.options("multipleStatements");
    if let Some((at, _)) = several.find(|(_, value)| *value == Some("true")) {
        let wrong = "Hyperdrive refuses several statements in one query";
        add(at, Rule::WorkerMultipleStatements, wrong, "a query() for each");
    }
    if connects.is_none() || ORMS.iter().any(|orm| script.imports(orm)) {
        return;
    }
    let calls = CLIENTS.iter().flat_map(|name| script.places(name));
    let calls = calls.filter(|at| script.sign(at + 1) == Some('('));
    let clients: HashSet<&str> = calls.filter_map(|at| script.assigned(at)).collect();
    for at in script.places("execute") {
        let is_method = at > 0 && script.sign(at - 1) == Some('.') && script.is_called(at + 1);
        let Some(mut owner) = script.owner(at).filter(|_| is_method) else { continue };
        // `pool.promise().execute()`
        if owner > 1 && script.sign(owner) == Some(')') && script.sign(owner - 1) == Some('(') {
            owner -= 2;
        }
        let is_client = |name: &str| clients.contains(name) || is_clients_name(name);
        if script.word(owner).is_some_and(is_client) && script.bound(owner).is_none() {
            let wrong =
                "execute() prepares the statement, and Hyperdrive has no prepared statements";
            add(at, Rule::WorkerExecute, wrong, "query(), which takes the same arguments");
        }
    }
}

/// How connections are called that come from elsewhere: a parameter, a field, another module.
fn is_clients_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["conn", "connection", "pool", "mysql"].iter().any(|end| name.ends_with(end))
        || name == "promise"
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
