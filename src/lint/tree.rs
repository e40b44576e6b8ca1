//! YAML, TOML and JSON with comments as one kind of tree, whose nodes know their lines.

use jsonc_parser::ast::Value as Json;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use saphyr_parser::{Event, Parser};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Deeper is no configuration; what goes through a tree goes through it by recursion.
const DEEPEST: usize = 64;

/// A value.
#[derive(Debug)]
pub(super) struct Node {
    pub line: usize,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Map(Vec<(String, Node)>),
    List(Vec<Node>),
    Scalar(String),
}

/// Why a text is none of that. Nothing of the text is in it.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub format: &'static str,
    pub line: usize,
    pub message: String,
}

impl Node {
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// Keys and values, if it is a map.
    pub fn entries(&self) -> &[(String, Self)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// What is in it, if it is a list.
    pub fn list(&self) -> Option<&[Self]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// What is written, if it is no map and no list.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text) => Some(text),
            _ => None,
        }
    }
}

/// A collection that is not complete: the key that waits for its value, with where it stands.
struct Open {
    node: Node,
    key: Option<(String, usize)>,
}

/// Reads the first document. From events, not by recursion: nobody limits the depth of YAML.
pub(super) fn yaml(text: &str, first: usize) -> Result<Node, Unreadable> {
    let wrong = |line, message: &str| Unreadable { format: "YAML", line, message: message.into() };
    let mut open: Vec<Open> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event
            .map_err(|error| wrong(first + error.marker().line() - 1, "its syntax is broken"))?;
        let line = first + span.start.line().saturating_sub(1);
        let done = match event {
            Event::MappingStart(..) | Event::SequenceStart(..) if open.len() == DEEPEST => {
                return Err(wrong(line, "it is too deep"));
            }
            Event::MappingStart(..) => {
                let node = Node { line, value: Value::Map(Vec::new()) };
                open.push(Open { node, key: None });
                continue;
            }
            Event::SequenceStart(..) => {
                let node = Node { line, value: Value::List(Vec::new()) };
                open.push(Open { node, key: None });
                continue;
            }
            Event::MappingEnd | Event::SequenceEnd => match open.pop() {
                Some(Open { node, .. }) => node,
                None => continue,
            },
            Event::Scalar(text, ..) => Node { line, value: Value::Scalar(text.into_owned()) },
            // What it stands for is elsewhere, as with a variable.
            Event::Alias(_) => Node { line, value: Value::Scalar("$".into()) },
            _ => continue,
        };
        match open.last_mut() {
            Some(parent) => parent.take(done),
            None => return Ok(done),
        }
    }
    Ok(Node { line: first, value: Value::Scalar(String::new()) })
}

impl Open {
    fn take(&mut self, node: Node) {
        match (&mut self.node.value, self.key.take()) {
            (Value::List(items), _) => items.push(node),
            (Value::Map(entries), Some((key, line))) => {
                // A block begins below its key, and is about it.
                let line = if node.text().is_some() { node.line } else { line };
                entries.push((key, Node { line, ..node }));
            }
            (Value::Map(_), None) => {
                self.key = Some((node.text().unwrap_or_default().into(), node.line));
            }
            (Value::Scalar(_), _) => {}
        }
    }
}

/// Reads TOML.
pub(super) fn toml(text: &str, first: usize) -> Result<Node, Unreadable> {
    let lines = Lines::of(text, first);
    let table = DeTable::parse(text).map_err(|error| {
        let line = lines.at(error.span().unwrap_or(0..0).start);
        Unreadable { format: "TOML", line, message: "its syntax is broken".into() }
    })?;
    Ok(Node { line: first, value: of_table(table.into_inner(), &lines) })
}

fn of_table(table: DeTable<'_>, lines: &Lines) -> Value {
    let entry = |(key, value): (Spanned<_>, _)| {
        let line = lines.at(key.span().start);
        let key: std::borrow::Cow<'_, str> = key.into_inner();
        (key.into_owned(), of_toml(value, line, lines))
    };
    Value::Map(table.into_iter().map(entry).collect())
}

fn of_toml(value: Spanned<DeValue<'_>>, line: usize, lines: &Lines) -> Node {
    let value = match value.into_inner() {
        DeValue::Table(table) => of_table(table, lines),
        DeValue::Array(items) => {
            let item = |item: Spanned<DeValue<'_>>| {
                let line = lines.at(item.span().start);
                of_toml(item, line, lines)
            };
            Value::List(items.into_iter().map(item).collect())
        }
        DeValue::String(text) => Value::Scalar(text.into_owned()),
        DeValue::Integer(number) => Value::Scalar(number.as_str().into()),
        DeValue::Float(number) => Value::Scalar(number.as_str().into()),
        DeValue::Boolean(yes) => Value::Scalar(yes.to_string()),
        DeValue::Datetime(time) => Value::Scalar(time.to_string()),
    };
    Node { line, value }
}

/// Reads JSON with comments and commas at the end, which is what wrangler reads.
pub(super) fn jsonc(text: &str, first: usize) -> Result<Node, Unreadable> {
    let lines = Lines::of(text, first);
    let strict = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let parsed = parse_to_ast(text, &CollectOptions::default(), &strict).map_err(|error| {
        let line = lines.at(error.range().start);
        Unreadable { format: "JSON", line, message: "its syntax is broken".into() }
    })?;
    let nothing = Node { line: first, value: Value::Scalar(String::new()) };
    let root = parsed.value.map(|value| of_json(&value, None, &lines));
    Ok(root.unwrap_or(nothing))
}

/// `line` is that of the key.
fn of_json(value: &Json<'_>, line: Option<usize>, lines: &Lines) -> Node {
    use jsonc_parser::common::Ranged;
    let line = line.unwrap_or_else(|| lines.at(value.range().start));
    let value = match value {
        Json::Object(object) => {
            let entry = |entry: &jsonc_parser::ast::ObjectProp<'_>| {
                let line = lines.at(entry.range().start);
                (entry.name.as_str().to_owned(), of_json(&entry.value, Some(line), lines))
            };
            Value::Map(object.properties.iter().map(entry).collect())
        }
        Json::Array(array) => {
            Value::List(array.elements.iter().map(|item| of_json(item, None, lines)).collect())
        }
        Json::StringLit(text) => Value::Scalar(text.value.to_string()),
        Json::NumberLit(number) => Value::Scalar(number.value.to_string()),
        Json::BooleanLit(yes) => Value::Scalar(yes.value.to_string()),
        Json::NullKeyword(_) => Value::Scalar(String::new()),
    };
    Node { line, value }
}

/// Where lines begin.
struct Lines {
    first: usize,
    ends: Vec<usize>,
}

impl Lines {
    fn of(text: &str, first: usize) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self { first, ends: ends.map(|(at, _)| at).collect() }
    }

    fn at(&self, offset: usize) -> usize {
        self.first + self.ends.partition_point(|end| *end < offset)
    }
}
