//! A script taken apart: its commands, and what it gives them.
//!
//! Not a shell: words, quotes, comments, continued lines, `$(…)`, and what ends a command. Variables stay
//! as they are written, and so does `<NAME>`, which is how guides say that something goes there.

use std::iter::Peekable;
use std::str::Chars;

use super::shell::{Command, Word};

/// What a command is given after its line, `<<END`.
pub(super) struct Heredoc {
    /// The words of that line.
    pub words: Vec<String>,
    pub text: String,
    /// The number of its own first line.
    pub first: usize,
    /// Whether the shell fills in what begins with `$`.
    pub is_template: bool,
}

/// The commands of a script.
pub(super) fn commands(text: &str, first: usize) -> Vec<Command> {
    read(text, first).0
}

/// What its commands are given.
pub(super) fn heredocs(text: &str, first: usize) -> Vec<Heredoc> {
    read(text, first).1
}

fn read(text: &str, first: usize) -> (Vec<Command>, Vec<Heredoc>) {
    let (mut commands, mut heredocs) = (Vec::new(), Vec::new());
    let mut wasted = 0;
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let mut whole = line.to_owned();
        let mut more = lines.clone();
        // A quote may go on; one that nobody closes ends with its line.
        let mut taken = 0;
        let mut reader = Reader::read(&whole, first + number);
        while !reader.is_complete && taken < LONGEST && wasted < MOST_WASTED {
            let Some((_, next)) = more.next() else { break };
            whole.push('\n');
            whole += next;
            taken += 1;
            reader = Reader::read(&whole, first + number);
        }
        if reader.is_complete || whole.trim_end().ends_with('\\') {
            let _ = lines.by_ref().take(taken).count();
        } else {
            wasted += taken;
            whole.truncate(line.len());
            reader = Reader::read(line, first + number);
        }
        if let Some(end) = &reader.heredoc {
            let first = lines.peek().map_or(first, |(number, _)| first + number);
            let body = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != end);
            heredocs.push(Heredoc::new(&reader, &whole, end, body, first));
        }
        commands.append(&mut reader.commands);
    }
    (commands, heredocs)
}

impl Heredoc {
    fn new<'t>(
        reader: &Reader<'_>,
        command: &str,
        end: &str,
        body: impl Iterator<Item = &'t str>,
        first: usize,
    ) -> Self {
        let words = reader.commands.iter().flat_map(|command| &command.words);
        let words = words.map(|word| word.text.clone()).collect();
        // `<<-` takes tabs away, and nothing that is looked at here needs them.
        let text =
            body.fold(String::new(), |text, line| text + line.trim_start_matches('\t') + "\n");
        let is_quoted =
            ['\'', '"', '\\'].iter().any(|quote| command.contains(&format!("{quote}{end}")));
        if is_quoted {
            return Self { words, text, first, is_template: false };
        }
        let is_template = text.replace("\\$", "").contains('$');
        let text = text.replace("\\$", "$").replace("\\`", "`").replace("\\\\", "\\");
        Self { words, text, first, is_template }
    }
}

/// Lines that a command may take.
const LONGEST: usize = 60;
/// Lines that are read again because of quotes that nobody closes.
const MOST_WASTED: usize = 10_000;

/// The commands in comments that begin with `#`.
pub(super) fn commented(text: &str, first: usize) -> Vec<Command> {
    let mut script = String::new();
    for line in text.lines() {
        script += line.trim_start().strip_prefix('#').unwrap_or_default().trim_start();
        script.push('\n');
    }
    commands(&script, first)
}

struct Reader<'t> {
    chars: Peekable<Chars<'t>>,
    line: usize,
    commands: Vec<Command>,
    /// The commands that are open, each `$(` one more, and whether it stands in double quotes.
    open: Vec<(Vec<Word>, bool)>,
    word: Option<Word>,
    /// Words that are interrupted by a command in them.
    interrupted: Vec<Option<Word>>,
    heredoc: Option<String>,
    is_complete: bool,
}

impl<'t> Reader<'t> {
    fn read(text: &'t str, line: usize) -> Self {
        let (chars, open) = (text.chars().peekable(), vec![(Vec::new(), false)]);
        let mut reader = Self {
            chars,
            line,
            commands: Vec::new(),
            open,
            word: None,
            interrupted: Vec::new(),
            heredoc: None,
            is_complete: true,
        };
        reader.all();
        reader
    }

    fn all(&mut self) {
        while let Some(c) = self.chars.next() {
            match c {
                '\\' => self.escaped(),
                '\'' => self.single_quoted(),
                '"' => self.double_quoted(),
                '$' if self.chars.peek() == Some(&'(') => {
                    self.chars.next();
                    self.push('$');
                    self.begin(false);
                }
                ')' if self.open.len() > 1 => {
                    if self.end() {
                        self.double_quoted();
                    }
                }
                '#' if self.word.is_none() => while self.chars.next_if(|c| *c != '\n').is_some() {},
                '\n' => {
                    self.end_command();
                    self.line += 1;
                }
                ';' | '&' | '|' | '(' | ')' => self.end_command(),
                // `>file<<END`
                '<' if self.chars.peek() == Some(&'<')
                    && self.word.as_ref().is_some_and(|word| word.text.contains('>')) =>
                {
                    self.end_word();
                    self.push('<');
                }
                c if c.is_whitespace() => self.end_word(),
                c => self.push(c),
            }
        }
        self.is_complete &= self.open.len() == 1;
        while self.open.len() > 1 {
            self.end();
        }
        self.end_command();
    }

    fn push(&mut self, c: char) {
        let line = self.line;
        self.word.get_or_insert_with(|| Word { text: String::new(), line }).text.push(c);
    }

    fn escaped(&mut self) {
        match self.chars.next() {
            Some('\n') => self.line += 1,
            Some(c) => self.push(c),
            // The line goes on.
            None => self.is_complete = false,
        }
    }

    fn single_quoted(&mut self) {
        self.begin_word();
        loop {
            match self.chars.next() {
                Some('\'') => return,
                Some(c) => self.quoted(c),
                None => return self.is_complete = false,
            }
        }
    }

    fn double_quoted(&mut self) {
        self.begin_word();
        loop {
            match self.chars.next() {
                Some('"') => return,
                Some('\\') => self.escaped(),
                Some('$') if self.chars.peek() == Some(&'(') => {
                    self.chars.next();
                    self.push('$');
                    return self.begin(true);
                }
                Some(c) => self.quoted(c),
                None => return self.is_complete = false,
            }
        }
    }

    fn begin_word(&mut self) {
        let line = self.line;
        self.word.get_or_insert_with(|| Word { text: String::new(), line });
    }

    fn quoted(&mut self, c: char) {
        self.push(c);
        if c == '\n' {
            self.line += 1;
        }
    }

    /// A command in a word.
    fn begin(&mut self, is_quoted: bool) {
        self.interrupted.push(self.word.take());
        self.open.push((Vec::new(), is_quoted));
    }

    /// Whether the word that goes on is in double quotes.
    fn end(&mut self) -> bool {
        self.end_command();
        let (_, is_quoted) = self.open.pop().unwrap_or_default();
        self.word = self.interrupted.pop().flatten();
        is_quoted
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        if let Some(end) = word.text.strip_prefix("<<").filter(|end| !end.starts_with('<')) {
            self.heredoc = Some(end.trim_start_matches('-').to_owned());
            return;
        }
        // `<< END`
        if self.heredoc.as_ref().is_some_and(String::is_empty) {
            self.heredoc = Some(word.text);
            return;
        }
        if let Some((words, _)) = self.open.last_mut() {
            words.push(word);
        }
    }

    fn end_command(&mut self) {
        self.end_word();
        if let Some((words, _)) = self.open.last_mut()
            && !words.is_empty()
        {
            self.commands.push(Command { words: std::mem::take(words) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Vec<String>> {
        let words = |command: Command| command.words.into_iter().map(|word| word.text).collect();
        commands(text, 1).into_iter().map(words).collect()
    }

    #[test]
    fn words_end_where_a_shell_ends_them() {
        assert_eq!(words("a 'b c' \"d e\" f\\ g # h"), [["a", "b c", "d e", "f g"]]);
        assert_eq!(words("a b; c && d | e"), [vec!["a", "b"], vec!["c"], vec!["d"], vec!["e"]]);
        assert_eq!(
            words("a --id <ID> \\\n  --x y\nb"),
            [vec!["a", "--id", "<ID>", "--x", "y"], vec!["b"]]
        );
        assert_eq!(
            words("x=$(a b \"$(c d)\" e) f"),
            [vec!["c", "d"], vec!["a", "b", "$", "e"], vec!["x=$", "f"]]
        );
        assert_eq!(words("a \"x$(b c)y\" d"), [vec!["b", "c"], vec!["a", "x$y", "d"]]);
        assert_eq!(words("a '{\n b\n}' c"), [["a", "{\n b\n}", "c"]]);
    }

    #[test]
    fn what_is_no_command_costs_no_more_than_its_line() {
        assert_eq!(words("it's odd\nb"), [vec!["its odd"], vec!["b"]]);
        assert_eq!(
            words("cat <<'EOF' > f\nwrangler x\nEOF\nb"),
            [vec!["cat", ">", "f"], vec!["b"]]
        );
        assert_eq!(words("cat >f<<EOF\nwrangler x\nEOF\nb"), [vec!["cat", ">f"], vec!["b"]]);
        assert_eq!(words("a $(b\nc"), [vec!["b"], vec!["a", "$"], vec!["c"]]);
        assert!(words(") ) \\").is_empty());
    }
}
