//! Commands of a shell: what they are, and what their flags are given.

/// A word of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Word {
    pub text: String,
    pub line: usize,
}

/// A command with its arguments; at least one word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    pub words: Vec<Word>,
}

/// What a flag is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flag<'c> {
    pub value: &'c str,
    pub line: usize,
}

/// Words before a command that are not the command.
const LAUNCHERS: &[&str] = &[
    "$", "sudo", "env", "time", "exec", "command", "npx", "pnpm", "pnpx", "yarn", "bun", "bunx",
    "dlx", "run", "--yes", "-y", "if", "then", "else", "elif", "while", "until", "do", "!", "{",
];

impl Command {
    pub fn line(&self) -> usize {
        self.words.first().map_or(1, |word| word.line)
    }

    /// Whether it is this program with these subcommands, options among them or not.
    pub fn is(&self, program: &str, subcommands: &[&str]) -> bool {
        let is_before = |text: &str| {
            LAUNCHERS.contains(&text)
                || assignment(text).is_some_and(|(_, value)| !value.contains(' '))
        };
        let mut words =
            self.words.iter().map(|word| word.text.as_str()).skip_while(|text| is_before(text));
        let Some(first) = words.next() else { return false };
        let name = first.rsplit('/').next().unwrap_or(first);
        let name = name.split('@').next().unwrap_or(name);
        name == program && subcommands.iter().all(|wanted| words.any(|word| word == *wanted))
    }

    /// The last of the flags that are called one of these.
    pub fn flag(&self, names: &[&str]) -> Option<Flag<'_>> {
        let mut found = None;
        for (number, word) in self.words.iter().enumerate() {
            let (name, value) = match word.text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word.text.as_str(), None),
            };
            if names.contains(&name) {
                let next = || self.words.get(number + 1).map(|word| word.text.as_str());
                let next = || next().filter(|next| !next.starts_with("--")).unwrap_or_default();
                found = Some(Flag { value: value.unwrap_or_else(next), line: word.line });
            }
        }
        found
    }

    pub fn has(&self, names: &[&str]) -> bool {
        self.flag(names).is_some()
    }

    pub fn has_flags(&self) -> bool {
        self.words.iter().any(|word| word.text.len() > 2 && word.text.starts_with("--"))
    }

    /// Whether arguments are elsewhere, in a variable or left out: what is missing may be among them.
    pub fn hides_arguments(&self) -> bool {
        let mut words = self.words.iter().map(|word| word.text.as_str()).enumerate().skip(1);
        words.any(|(number, text)| {
            let before = self.words[number - 1].text.as_str();
            let is_value = before.starts_with('-')
                && !before.contains('=')
                && !before.starts_with("--no-")
                && !SWITCHES.contains(&before);
            // `create $NAME --flag`: what is made has a name, and it comes first.
            let is_name = before == "create"
                && !text.contains(['@', '*'])
                && self.words[number..].iter().any(|word| word.text.starts_with("--"));
            let is_hidden = text.starts_with(['$', '[', '…']) || text == "...";
            is_hidden && !is_value && !is_name && !is_redirection(before)
        })
    }
}

/// Flags of aws and wrangler that take no value.
const SWITCHES: &[&str] =
    &["--private-dns-enabled", "--dry-run", "--debug", "--caching-disabled", "--update-config"];

/// `>`, `2>`, `>>file`.
pub(super) fn is_redirection(word: &str) -> bool {
    word.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with('>')
}

/// NAME=value.
pub(super) fn assignment(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (!name.is_empty() && name.chars().all(legal)).then_some((name, value))
}

/// What stands for a value that is filled in later: `$X`, `<X>`, `%s`, `DB_USER`, `host:port`.
pub(super) fn is_open(value: &str) -> bool {
    let is_name = |c: char| c.is_ascii_uppercase() || c == '_';
    value.chars().all(is_name)
        || value == "port"
        || value.contains(['$', '<', '{', '`', '%', '…'])
        || value.contains("...")
}

#[cfg(test)]
mod tests {
    use super::super::script::commands;
    use super::*;

    #[test]
    fn commands_are_known_behind_what_starts_them() {
        let is = |text: &str| commands(text, 7)[0].is("wrangler", &["hyperdrive", "create"]);
        assert!(is("npx wrangler@latest hyperdrive create x"));
        assert!(is("$ A=b sudo ./node_modules/.bin/wrangler --config f hyperdrive create"));
        assert!(!is("echo wrangler hyperdrive create"));
        assert!(!is("wrangler create hyperdrive"));
        let command = &commands("w \\\n --port=1 \\\n --host --port 2", 7)[0];
        assert_eq!(command.flag(&["--port"]), Some(Flag { value: "2", line: 9 }));
        assert_eq!(command.flag(&["--host"]), Some(Flag { value: "", line: 9 }));
    }

    #[test]
    fn arguments_may_be_elsewhere() {
        let hides = |text: &str| commands(text, 1)[0].hides_arguments();
        for text in [
            "w create \"${args[@]}\"",
            "w create \"$@\" --x y",
            "w create x $COMMON --host h",
            "w create x --host=\"$H\" ${COMMON}",
            "w create x --no-y $COMMON",
            "w create x --debug \"${A[@]}\"",
            "w create $ALL",
            "w create x …",
            "w create x [FLAGS]",
        ] {
            assert!(hides(text), "{text}");
        }
        for text in [
            "$ w create x",
            "w create $NAME --host \"$H\"",
            "w create x --host ${H} -p $P --z=$Z <ID>",
            "w create x --host h >> $LOG",
        ] {
            assert!(!hides(text), "{text}");
        }
    }
}
