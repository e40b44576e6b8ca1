//! wrangler's configuration: the bindings of Hyperdrive, and what mysql2 needs of the Worker.

use std::collections::HashSet;

use super::Read;
use super::report::{Report, Rule};
use super::shell::is_open;
use super::source::Part;
use super::tree::Node;

/// With it `nodejs_compat` has what database drivers import.
const NODE: &str = "2024-09-23";

/// Whether it has to do with Hyperdrive: other TOML and JSON is left alone.
pub(super) fn is_config(part: &Part<'_>) -> bool {
    let is_wranglers = is_named(part) || part.text().contains("compatibility_");
    is_wranglers && part.text().contains("hyperdrive") || part.text().contains("[[hyperdrive]]")
}

fn is_named(part: &Part<'_>) -> bool {
    part.file.rsplit('/').next().unwrap_or(part.file).starts_with("wrangler.")
}

/// The names that Workers have Hyperdrive by.
pub(super) fn bindings(read: &[Read<'_>]) -> HashSet<String> {
    let trees = read.iter().filter_map(|read| read.wrangler.as_ref());
    let names = trees
        .flat_map(sections)
        .flat_map(configured)
        .filter_map(|binding| binding.get("binding").and_then(Node::text).map(str::to_owned));
    names.collect()
}

pub(super) fn lint(part: &Part<'_>, tree: &Node, report: &mut Report) {
    let mut add =
        |line, rule, wrong: &str, instead: &str| report.add(part.file, line, rule, wrong, instead);
    // Guides show the binding alone, too: what else the Worker has is not there to be seen.
    let is_whole = is_named(part)
        || ["name", "main", "compatibility_date", "compatibility_flags"]
            .iter()
            .any(|key| tree.get(key).is_some());
    for section in sections(tree) {
        let Some(hyperdrive) = section.get("hyperdrive") else { continue };
        if hyperdrive.list().is_none() {
            let wrong = "`hyperdrive` is no list: wrangler refuses it";
            add(
                hyperdrive.line,
                Rule::WranglerBinding,
                wrong,
                "[[hyperdrive]], or \"hyperdrive\": [{ … }]",
            );
            continue;
        }
        for binding in configured(section) {
            for key in ["binding", "id"] {
                if binding.get(key).and_then(Node::text).is_none_or(str::is_empty) {
                    let wrong = format!("the Hyperdrive binding has no `{key}`");
                    let instead = match key {
                        "id" => "the id that `wrangler hyperdrive create` has printed",
                        _ => "binding = \"HYPERDRIVE\", the name that the Worker uses",
                    };
                    add(binding.line, Rule::WranglerBinding, &wrong, instead);
                }
            }
        }
        if !is_whole {
            continue;
        }
        let inherited = |key: &str| section.get(key).or_else(|| tree.get(key));
        let flags = inherited("compatibility_flags").and_then(Node::list).unwrap_or_default();
        let has = |name: &str| flags.iter().any(|flag| flag.text() == Some(name));
        if !has("nodejs_compat") && !has("nodejs_compat_v2") {
            let wrong = "database drivers need nodejs_compat: the Worker cannot be built, or ends with an error";
            let instead = "compatibility_flags = [\"nodejs_compat\"]";
            add(hyperdrive.line, Rule::WranglerNodejsCompat, wrong, instead);
        }
        if let Some(date) = inherited("compatibility_date")
            && date.text().is_some_and(|text| text < NODE && !is_open(text))
            && !has("nodejs_compat_v2")
        {
            let wrong = "before 2024-09-23 nodejs_compat lacks modules that mysql2 imports";
            add(
                date.line,
                Rule::WranglerNodejsCompat,
                wrong,
                "compatibility_date = \"2024-09-23\" or later",
            );
        }
    }
}

/// The top level, and those of environments.
fn sections(tree: &Node) -> impl Iterator<Item = &Node> {
    let environments = tree.get("env").map(Node::entries).unwrap_or_default();
    std::iter::once(tree).chain(environments.iter().map(|(_, section)| section))
}

fn configured(section: &Node) -> impl Iterator<Item = &Node> {
    section.get("hyperdrive").and_then(Node::list).unwrap_or_default().iter()
}
