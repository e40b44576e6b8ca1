//! What will not work in the files of a set-up: cloudflared's config.yml, wrangler's configuration, DSNs,
//! Workers, and the commands of scripts and guides.
//!
//! Each file is taken apart into parts of one kind (`source`), each part is read without stopping at what
//! is odd in it, and rules look at what was read: at one part (`cloudflared`, `wrangler`, `worker`, `dsn`,
//! `commands`), and at all of them (`together`). What a file says is somebody else's: of a DSN nothing but
//! its host is ever repeated.

mod cloudflared;
mod commands;
mod dsn;
mod report;
mod script;
mod shell;
mod source;
mod together;
mod tree;
mod worker;
mod wrangler;

use cloudflared::Ingress;
use shell::Command;
use source::{Kind, Part};
use worker::Script;

pub use report::{Finding, Report, Rule};
pub use source::{Source, SourceError};

/// Looks at files that belong together.
pub fn lint(sources: &[Source]) -> Report {
    let parts: Vec<Part<'_>> = sources.iter().flat_map(source::parts).collect();
    let mut report = Report::of(sources.len());
    let read: Vec<Read<'_>> = parts.iter().map(|part| Read::new(part, &mut report)).collect();
    let bindings = wrangler::bindings(&read);
    let is_enabled_later = commands::enables_private_dns(&read);
    for read in &read {
        commands::lint(read, is_enabled_later, &mut report);
        dsn::lint(read, &mut report);
        if let Some(script) = &read.script {
            worker::lint(read.part, script, &bindings, &mut report);
        }
        if let Some(tree) = &read.wrangler {
            wrangler::lint(read.part, tree, &mut report);
        }
        if let Some(ingress) = &read.ingress {
            cloudflared::lint(read.part, ingress, &mut report);
        }
    }
    together::lint(&read, &mut report);
    report.sort();
    report
}

/// A part, and what was understood of it.
struct Read<'s> {
    part: &'s Part<'s>,
    commands: Vec<Command>,
    ingress: Option<Ingress>,
    wrangler: Option<tree::Node>,
    script: Option<Script>,
}

impl<'s> Read<'s> {
    fn new(part: &'s Part<'s>, report: &mut Report) -> Self {
        let commands = match part.kind {
            Kind::Shell => script::commands(part.text(), part.first),
            Kind::Yaml | Kind::Toml => script::commented(part.text(), part.first),
            Kind::Json | Kind::Worker | Kind::Dsn | Kind::Prose => Vec::new(),
        };
        let mut read = Self { part, commands, ingress: None, wrangler: None, script: None };
        match part.kind {
            Kind::Worker => read.script = Some(Script::new(part.text(), part.first)),
            Kind::Yaml if cloudflared::is_config(part) => {
                let tree = tree::yaml(part.text(), part.first);
                read.ingress = keep(part, tree, report).and_then(|tree| Ingress::of(&tree));
            }
            Kind::Toml if wrangler::is_config(part) => {
                read.wrangler = keep(part, tree::toml(part.text(), part.first), report);
            }
            Kind::Json if wrangler::is_config(part) => {
                read.wrangler = keep(part, tree::jsonc(part.text(), part.first), report);
            }
            _ => {}
        }
        read
    }
}

/// What cannot be read is a finding, unless it is not yet what will be read.
fn keep(
    part: &Part<'_>,
    tree: Result<tree::Node, tree::Unreadable>,
    report: &mut Report,
) -> Option<tree::Node> {
    match tree {
        Ok(tree) => Some(tree),
        Err(_) if part.is_template => None,
        Err(error) => {
            let wrong = format!("it is not {}: {}", error.format, error.message);
            report.add(part.file, error.line, Rule::Syntax, wrong, "what its program can read");
            None
        }
    }
}
