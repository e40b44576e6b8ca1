//! What a client program printed, and how two such prints differ.
//!
//! A program prints `== NAME` before each thing that it tries, and lines about what came of it.

/// What every client program tries. One that does not print a section is broken, not excused: what a
/// driver cannot do is printed as `unsupported`.
pub const SECTIONS: &[&str] = &[
    "auth.right",
    "auth.wrong_password",
    "auth.unknown_user",
    "auth.unknown_database",
    "query.text",
    "query.prepared",
    "query.error",
    "transaction",
    "results.statements",
    "results.procedure",
    "big.upload",
    "big.echo",
    "infile",
    "types.text",
    "types.prepared",
    "streaming",
    "compression",
    "charset",
    "kill.query",
    "kill.busy",
    "kill.idle",
    "timeout.server",
    "timeout.client",
    "reset_connection",
    "change_user",
    "attributes",
    "parallel",
    "pool",
    "dropped",
    // Printed by the server, once the program has ended.
    "released",
];

/// Begins the line of a section that went wrong although nothing was to go wrong in it.
const FAILED: &str = "failed: ";
const UNSUPPORTED: &str = "unsupported";
/// What is printed before the first section, and how the program ends, are judged as well.
const START: &str = "start";
const END: &str = "end";

/// Numbers that differ from run to run, by what stands before them.
const MASKED: &[&str] = &["127.0.0.1:", "Unknown thread id: ", "(conn:", "(conn="];

/// Stands behind the id of a thread in OpenSSL's errors.
const OF_OPENSSL: &str = ":error:";

/// One run's output, masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    sections: Vec<(String, Vec<String>)>,
}

/// What the two runs of one section come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Same,
    Unsupported,
    /// Nothing can be told from it: it fails without the bridge too.
    FailsDirect(String),
    /// Lines are not the same where that had to be expected; the first of them.
    Excused {
        direct: String,
        through: String,
    },
    /// The first lines that are not the same.
    Different {
        direct: String,
        through: String,
    },
}

impl Output {
    /// Reads what a program printed; `error` is how it ended, if not well.
    pub fn parse(text: &str, error: Option<&str>) -> Self {
        let mut sections: Vec<(String, Vec<String>)> = vec![(START.into(), Vec::new())];
        for line in text.lines() {
            match line.strip_prefix("== ") {
                Some(name) => sections.push((name.to_owned(), Vec::new())),
                None => sections.last_mut().expect("there is one").1.push(mask(line)),
            }
        }
        let end = error.map_or("well".to_owned(), |error| format!("{FAILED}{}", mask(error)));
        sections.push((END.into(), vec![end]));
        Self { sections }
    }

    /// Whether everything went as it should.
    pub fn is_well(&self) -> bool {
        let mut lines = self.sections.iter().flat_map(|(_, lines)| lines);
        lines.all(|line| !line.starts_with(FAILED))
    }

    fn section(&self, name: &str) -> Option<&[String]> {
        let found = self.sections.iter().find(|(section, _)| section == name);
        found.map(|(_, lines)| lines.as_slice())
    }
}

/// A section in which lines may differ, where TLS ends at the bridge: what tells of it.
#[derive(Debug)]
pub struct Excuse {
    pub section: &'static str,
    /// Whether two lines, direct and through, differ in nothing else.
    pub covers: fn(&str, &str) -> bool,
}

/// Two lines that both say that the connection has ended, in whatever way.
pub fn both_end(direct: &str, through: &str) -> bool {
    const WORDS: &[&str] = &[
        "lost connection",
        "connection lost",
        "connection to mysql server during query",
        "connection reset",
        "econnreset",
        "unexpected eof",
        "at eof",
        "closed",
        "bad record mac",
        "cannot decrypt",
    ];
    [direct, through].into_iter().all(|line| {
        let line = line.to_lowercase();
        WORDS.iter().any(|word| line.contains(word))
    })
}

/// Two lines about columns, of which one is as wide as the names of the session's ciphers.
pub fn same_but_for_widths(direct: &str, through: &str) -> bool {
    let without = |line: &str| line.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    direct.to_lowercase().contains("variable_name") && without(direct) == without(through)
}

/// The verdict over every section that should be printed, and over those that either run printed.
pub fn compare(direct: &Output, through: &Output, excuses: &[Excuse]) -> Vec<(String, Verdict)> {
    let mut names: Vec<&str> = SECTIONS.to_vec();
    for (name, _) in direct.sections.iter().chain(&through.sections) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let judged = names.into_iter().map(|name| {
        let verdict = match direct.section(name) {
            Some(lines) => {
                let excuse = excuses.iter().find(|excuse| excuse.section == name);
                verdict(lines, through.section(name), excuse)
            }
            None => Verdict::FailsDirect("not printed".into()),
        };
        (name.to_owned(), verdict)
    });
    judged.collect()
}

fn verdict(direct: &[String], through: Option<&[String]>, excuse: Option<&Excuse>) -> Verdict {
    if let Some(reason) = direct.iter().find_map(|line| line.strip_prefix(FAILED)) {
        return Verdict::FailsDirect(reason.to_owned());
    }
    let Some(through) = through else {
        return Verdict::Different { direct: "printed".into(), through: "not printed".into() };
    };
    if direct == through {
        let is_unsupported = direct.iter().any(|line| line.starts_with(UNSUPPORTED));
        return if is_unsupported { Verdict::Unsupported } else { Verdict::Same };
    }
    let mut pairs = direct.iter().zip(through);
    let first = pairs.clone().take_while(|(direct, through)| direct == through).count();
    // Some drivers say it again at the next statement.
    let covers = |excuse: &Excuse| {
        pairs.all(|(direct, through)| {
            direct == through || !through.starts_with(FAILED) && (excuse.covers)(direct, through)
        })
    };
    let is_excused = direct.len() == through.len() && excuse.is_some_and(covers);
    let line = |lines: &[String]| lines.get(first).cloned().unwrap_or("nothing more".into());
    let (direct, through) = (line(direct), line(through));
    match is_excused {
        true => Verdict::Excused { direct, through },
        false => Verdict::Different { direct, through },
    }
}

/// Puts `N` in the place of numbers that differ from run to run.
fn mask(line: &str) -> String {
    let mut masked = line.to_owned();
    for before in MASKED {
        let mut from = 0;
        while let Some(found) = masked[from..].find(before) {
            from += found + before.len();
            let digits = masked[from..].bytes().take_while(u8::is_ascii_digit).count();
            if digits > 0 {
                masked.replace_range(from..from + digits, "N");
            }
        }
    }
    if let Some(behind) = masked.find(OF_OPENSSL) {
        let digits = masked[..behind].bytes().rev().take_while(u8::is_ascii_hexdigit).count();
        masked.replace_range(behind - digits..behind, "N");
    }
    masked
}
