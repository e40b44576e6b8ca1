//! The tokens of the embedded backend's SQL.

/// What a statement is made of. Blanks and comments are no tokens.
#[derive(Debug, Clone, PartialEq)]
pub enum Token<'a> {
    /// A keyword, a function or an unquoted name.
    Word(&'a [u8]),
    /// Digits and dots, unsigned.
    Number(&'a [u8]),
    /// A string in either kind of quotes, escapes resolved.
    Text(Vec<u8>),
    /// A name in backquotes.
    Identifier(Vec<u8>),
    /// A system variable: its name in lower case, without `@@` and scope.
    Variable(String),
    Symbol(u8),
    /// A string, name or comment without its end, or a byte that starts no token.
    Broken,
    End,
}

/// Reads tokens from a statement's text, front to back.
#[derive(Debug, Clone)]
pub struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    last: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, last: 0 }
    }

    /// Where reading goes on, in bytes from the start.
    pub fn position(&self) -> usize {
        self.at
    }

    /// The text between an earlier [`position`](Self::position) and the present one.
    pub fn since(&self, start: usize) -> &'a [u8] {
        &self.text[start..self.at]
    }

    /// The last token read, and the text behind it.
    pub fn unread_tail(&self) -> &'a [u8] {
        &self.text[self.last..]
    }

    pub fn peek(&self) -> Token<'a> {
        self.clone().read()
    }

    /// Reads `word`, in any case, if it comes next.
    pub fn take_word(&mut self, word: &str) -> bool {
        let found =
            matches!(self.peek(), Token::Word(next) if next.eq_ignore_ascii_case(word.as_bytes()));
        if found {
            self.read();
        }
        found
    }

    /// Reads `symbol` if it comes next.
    pub fn take_symbol(&mut self, symbol: u8) -> bool {
        let found = self.peek() == Token::Symbol(symbol);
        if found {
            self.read();
        }
        found
    }

    pub fn skip_words(&mut self) {
        while let Token::Word(_) = self.peek() {
            self.read();
        }
    }

    /// Moves past blanks and comments. An executable comment (`/*!`) is code, so it stays.
    pub fn skip_blanks(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            let blank = match rest {
                [first, ..] if first.is_ascii_whitespace() => 1,
                [b'#', ..] => line_length(rest),
                [b'-', b'-'] => 2,
                [b'-', b'-', third, ..] if third.is_ascii_whitespace() => line_length(rest),
                [b'/', b'*', b'!', ..] => return,
                [b'/', b'*', inner @ ..] => match inner.windows(2).position(|two| two == b"*/") {
                    Some(length) => 2 + length + 2,
                    None => return,
                },
                _ => return,
            };
            self.at += blank;
        }
    }

    /// The next token. At the end, and behind something broken, it stays where it is.
    pub fn read(&mut self) -> Token<'a> {
        self.skip_blanks();
        self.last = self.at;
        let rest = &self.text[self.at..];
        let Some(&first) = rest.first() else {
            return Token::End;
        };
        match first {
            b'\'' | b'"' => match quoted(rest, true) {
                Some((content, length)) => self.step(length, Token::Text(content)),
                None => Token::Broken,
            },
            b'`' => match quoted(rest, false) {
                Some((content, length)) => self.step(length, Token::Identifier(content)),
                None => Token::Broken,
            },
            b'@' => match variable(rest) {
                Some((name, length)) => self.step(length, Token::Variable(name)),
                None => self.step(1, Token::Symbol(b'@')),
            },
            b'0'..=b'9' | b'.' => {
                let length = span(rest, |byte| byte.is_ascii_digit() || byte == b'.');
                let digits = &rest[..length];
                let dots = digits.iter().filter(|byte| **byte == b'.').count();
                // `1e5`, `0x41`, `1abc` and `.` are none of the literals understood here.
                if dots > 1 || dots == length || rest.get(length).is_some_and(|byte| word(*byte)) {
                    return Token::Broken;
                }
                self.step(length, Token::Number(digits))
            }
            first if word(first) => {
                let length = span(rest, word);
                self.step(length, Token::Word(&rest[..length]))
            }
            first if first.is_ascii_punctuation() => self.step(1, Token::Symbol(first)),
            _ => Token::Broken,
        }
    }

    fn step(&mut self, length: usize, token: Token<'a>) -> Token<'a> {
        self.at += length;
        token
    }
}

fn word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

fn span(text: &[u8], belongs: impl Fn(u8) -> bool) -> usize {
    text.iter().position(|byte| !belongs(*byte)).unwrap_or(text.len())
}

fn line_length(text: &[u8]) -> usize {
    span(text, |byte| byte != b'\n')
}

/// The content of a quoted text that `text` starts with, and how many bytes it takes there.
///
/// The quote doubled stands for itself; a backslash escapes in strings, not in names.
fn quoted(text: &[u8], backslashes: bool) -> Option<(Vec<u8>, usize)> {
    let quote = *text.first()?;
    let mut content = Vec::new();
    let mut at = 1;
    loop {
        let byte = *text.get(at)?;
        let next = text.get(at + 1).copied();
        at += 1;
        if byte == quote {
            if next != Some(quote) {
                return Some((content, at));
            }
            content.push(quote);
            at += 1;
        } else if byte == b'\\' && backslashes {
            at += 1;
            match next? {
                b'0' => content.push(0),
                b'b' => content.push(8),
                b'n' => content.push(b'\n'),
                b'r' => content.push(b'\r'),
                b't' => content.push(b'\t'),
                b'Z' => content.push(26),
                // Kept with their backslash, for LIKE.
                wildcard @ (b'%' | b'_') => content.extend_from_slice(&[b'\\', wildcard]),
                other => content.push(other),
            }
        } else {
            content.push(byte);
        }
    }
}

/// `@@name`, `@@session.name` and the like at the start of `text`: the name and the length of all.
fn variable(text: &[u8]) -> Option<(String, usize)> {
    let name = text.strip_prefix(b"@@")?;
    let length = span(name, |byte| word(byte) || byte == b'.');
    let name = String::from_utf8_lossy(&name[..length]).to_ascii_lowercase();
    let unscoped = ["session.", "global.", "local."]
        .iter()
        .find_map(|scope| name.strip_prefix(scope))
        .unwrap_or(&name);
    (length > 0).then(|| (unscoped.to_owned(), 2 + length))
}
