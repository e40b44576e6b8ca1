//! The command, what it says, and what always holds of that.

use std::any::Any;
use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::bridge::{TIDEGATE, file, without_settings};
use crate::support::mariadb::PASSWORD;
use crate::support::namespace::Namespace;
use crate::support::process::{command, output_within};

/// Whatever is wrong, it has ended by then.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The steps that need those before them.
const CHAIN: [&str; 9] = [
    "name.resolvers",
    "name.address",
    "name.private",
    "address.connect",
    "mysql.greeting",
    "tls.offered",
    "tls.handshake",
    "tls.certificate",
    "login.authentication",
];

/// What is said of this host, whatever is found.
const OF_THE_HOST: [&str; 6] =
    ["host.files", "host.port", "host.admin", "host.keepalive", "host.clock", "aws.zone"];

/// What is said of every upstream, whatever is found.
const OF_AN_UPSTREAM: [&str; 18] = [
    "name.pattern",
    "name.resolvers",
    "name.address",
    "name.agreement",
    "name.private",
    "address.connect",
    "address.path",
    "mysql.greeting",
    "tls.offered",
    "tls.handshake",
    "tls.certificate",
    "login.user",
    "login.authentication",
    "login.round_trips",
    "hyperdrive.origin",
    "hyperdrive.tls",
    "hyperdrive.plugin",
    "aws.region",
];

/// A password that no finding may show, nor an error.
pub const SECRET: &str = "kelp & brine 4711";

/// What to run: flags, where, and what has to be there as long.
pub struct Doctor {
    args: Vec<String>,
    variables: Vec<(String, String)>,
    namespace: Option<Arc<Namespace>>,
    /// Commands that become the rest of the command line.
    around: Vec<String>,
    program: String,
    patience: String,
    keeps: Vec<Box<dyn Any>>,
}

impl Doctor {
    /// A look at `gateway`, from a port that is free.
    pub fn at(gateway: impl ToString) -> Self {
        Self::bare().flags(&[&gateway.to_string()]).listening("127.0.0.1:0")
    }

    /// A look at all that a file has.
    pub fn of_file(toml: &str) -> Self {
        let file = file(toml);
        Self::bare().flags(&["--config", file.to_str().unwrap()]).keeping(file)
    }

    /// The command with no more than little patience.
    pub fn bare() -> Self {
        Self {
            args: vec!["doctor".into()],
            variables: Vec::new(),
            namespace: None,
            around: Vec::new(),
            program: TIDEGATE.into(),
            patience: "1s".into(),
            keeps: Vec::new(),
        }
    }

    /// A look at a bridge that would listen there.
    pub fn listening(self, address: &str) -> Self {
        self.flags(&["--listen", address, "--admin", "127.0.0.1:0"])
    }

    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.args.extend(flags.iter().map(|flag| flag.to_string()));
        self
    }

    pub fn patience(self, time: &str) -> Self {
        Self { patience: time.into(), ..self }
    }

    pub fn nameserver(self, address: impl ToString) -> Self {
        self.flags(&["--nameserver", &address.to_string()])
    }

    /// Logs in so.
    pub fn user(self, name: &str, password: &str) -> Self {
        let password = file(password);
        let flags = ["--user", name, "--password-file", password.to_str().unwrap()];
        self.flags(&flags).keeping(password)
    }

    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    pub fn inside(mut self, namespace: &Arc<Namespace>) -> Self {
        self.namespace = Some(Arc::clone(namespace));
        self
    }

    /// Another command around it, which becomes it.
    pub fn around(mut self, words: &[&str]) -> Self {
        self.around.extend(words.iter().map(|word| word.to_string()));
        self
    }

    /// The binary from elsewhere.
    pub fn program(mut self, path: &str) -> Self {
        self.program = path.into();
        self
    }

    /// It has to be there as long.
    pub fn keeping(mut self, that: impl Any) -> Self {
        self.keeps.push(Box::new(that));
        self
    }

    /// The one cause is found, and nothing behind it can be known.
    pub fn stops_at(&self, check: &str, cause: &str) -> Report {
        let report = self.finds(&[(check, cause)]);
        let at = CHAIN.iter().position(|one| *one == check).expect("a step of the chain");
        for later in &CHAIN[at + 1..] {
            let statuses = report.statuses(later);
            assert!(!statuses.is_empty(), "no {later}: {}", report.text);
            assert!(statuses.iter().all(|status| *status == "skip"), "{later}: {}", report.text);
        }
        report
    }

    /// The one cause is found, and the rest is looked at all the same.
    pub fn notes(&self, check: &str, cause: &str) -> Report {
        let report = self.finds(&[(check, cause)]);
        assert!(report.statuses("mysql.greeting").contains(&"ok"), "{}", report.text);
        report
    }

    /// Nothing is found, and nothing is left out up to the greeting.
    pub fn is_well(&self) -> Report {
        let report = self.finds(&[]);
        let greetings = report.statuses("mysql.greeting");
        let is_ok = |status: &&str| *status == "ok";
        assert!(!greetings.is_empty() && greetings.iter().all(is_ok), "{}", report.text);
        report
    }

    /// As [`Self::is_well`], and this is warned of.
    pub fn warns(&self, check: &str, cause: &str) -> Report {
        let report = self.is_well();
        assert!(report.has("warn", check, cause), "{}", report.text);
        report
    }

    /// These causes are found and no other, in this order.
    pub fn finds(&self, expected: &[(&str, &str)]) -> Report {
        let report = self.report();
        let found = report.with("fail");
        let found: Vec<_> = found.iter().map(|(check, cause)| (&check[..], &cause[..])).collect();
        assert_eq!(found, expected, "{}", report.text);
        report
    }

    /// Runs it for machines and for people, and checks what always holds.
    pub fn report(&self) -> Report {
        let [json, text] = [&["--json"][..], &[]].map(|more| self.command(more));
        let (text, json) = thread::scope(|scope| {
            let json = scope.spawn(|| run(json));
            (run(text), json.join().unwrap())
        });
        let report = Report::of(&json, &text);
        report.is_sound();
        report
    }

    pub fn command(&self, more: &[&str]) -> Command {
        let mut words = self.around.iter().map(String::as_str).chain([self.program.as_str()]);
        let first = words.next().unwrap();
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command(first),
            None => command(first),
        };
        without_settings(&mut command);
        command.args(words).args(self.all_args()).args(more);
        command.envs(self.variables.iter().cloned());
        command
    }

    /// The whole command line, for a shell.
    pub fn line(&self) -> String {
        let words = [self.program.clone()].into_iter().chain(self.all_args());
        words.map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")
    }

    fn all_args(&self) -> impl Iterator<Item = String> {
        let patience = ["--connect-timeout".into(), self.patience.clone()];
        self.args.iter().cloned().chain(patience)
    }
}

/// The check that keeps one from being made.
fn blamed(finding: &Value) -> Option<&str> {
    let why = finding["evidence"].as_str()?.strip_prefix("not reached, as ")?;
    why.strip_suffix(" is broken")
}

/// Whether a character does nothing to a terminal but to stand there.
fn is_plain(c: char) -> bool {
    let turns_text_around = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c == '\n' || !c.is_control() && !turns_text_around
}

/// A text on one line, without its figures: the time is another one in the next run.
fn words(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// Runs a command, which has to end in time.
pub fn run(command: Command) -> Output {
    let began = Instant::now();
    let output = output_within(LIMIT, command);
    assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
    output
}

/// What it said, both ways.
pub struct Report {
    pub json: Value,
    pub text: String,
    codes: [Option<i32>; 2],
}

impl Report {
    fn of(json: &Output, text: &Output) -> Self {
        for output in [json, text] {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.is_empty(), "{said}");
        }
        let [machines, people] = [json, text].map(|output| {
            let said = String::from_utf8(output.stdout.clone()).unwrap();
            assert!(said.chars().all(is_plain), "what paints or moves is in {said:?}");
            for secret in [SECRET, PASSWORD] {
                assert!(!said.contains(secret), "the password is in {said}");
            }
            said
        });
        let parsed = serde_json::from_str(&machines);
        let json_value = parsed.unwrap_or_else(|error| panic!("{error}: {machines}\n{people}"));
        Self { json: json_value, text: people, codes: [json.status.code(), text.status.code()] }
    }

    /// What holds whatever is found.
    fn is_sound(&self) {
        let (json, text) = (&self.json, &self.text);
        assert_eq!(json["version"], 1, "{json}");
        let fails = self.with("fail");
        let worst = match (fails.is_empty(), self.with("warn").is_empty()) {
            (false, _) => "fail",
            (true, false) => "warn",
            (true, true) => "ok",
        };
        assert_eq!(json["status"], worst, "{json}");
        let code = i32::from(!fails.is_empty());
        assert_eq!(self.codes, [Some(code); 2], "{text}");
        for check in OF_THE_HOST {
            assert!(!self.all(check).is_empty(), "no {check}: {text}");
        }
        for upstream in self.upstreams() {
            for check in OF_AN_UPSTREAM {
                let all = self.all(check);
                let is_there = all.iter().any(|one| one["upstream"] == *upstream);
                assert!(is_there, "no {check} of {upstream}: {text}");
            }
        }
        for finding in self.findings() {
            let status = finding["status"].as_str().unwrap();
            assert!(["ok", "warn", "fail", "skip"].contains(&status), "{finding}");
            assert!(!finding["evidence"].as_str().unwrap().is_empty(), "{finding}");
            if let Some(blamed) = blamed(finding) {
                assert!(CHAIN.contains(&blamed) || blamed == "login.user", "{finding}");
            }
            if status == "fail" {
                assert!(finding["cause"].is_string(), "{finding}");
                let hint = finding["hint"].as_str().unwrap_or_default();
                assert!(!hint.is_empty(), "{finding}");
                // It is folded to the width of a line.
                let hint = format!("hint: {}", words(hint));
                assert!(words(text).contains(&hint), "{hint}\n{text}");
            }
        }
        let first = fails.first().map(|(check, _)| check.as_str());
        assert_eq!(json["first_failure"].as_str(), first, "{json}");
        if let Some(first) = first {
            let failed = |line: &&str| line.trim_start().starts_with("fail");
            assert!(text.lines().any(|line| failed(&line)), "{text}");
            let summary = text.lines().last().unwrap();
            assert!(summary.contains(first), "the last line names {first}:\n{text}");
        }
    }

    /// Their names; at least one.
    fn upstreams(&self) -> BTreeSet<&str> {
        let names = self.findings().iter().filter_map(|finding| finding["upstream"].as_str());
        let names: BTreeSet<_> = names.collect();
        assert!(!names.is_empty(), "{}", self.text);
        names
    }

    pub fn findings(&self) -> &[Value] {
        self.json["findings"].as_array().unwrap()
    }

    /// Check and cause of all findings of that status.
    pub fn with(&self, status: &str) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let those = self.findings().iter().filter(|finding| finding["status"] == status);
        those.map(|finding| (text(&finding["check"]), text(&finding["cause"]))).collect()
    }

    pub fn has(&self, status: &str, check: &str, cause: &str) -> bool {
        self.with(status).contains(&(check.into(), cause.into()))
    }

    /// The statuses of all findings of a check.
    pub fn statuses(&self, check: &str) -> Vec<&str> {
        self.all(check).into_iter().map(|finding| finding["status"].as_str().unwrap()).collect()
    }

    pub fn all(&self, check: &str) -> Vec<&Value> {
        self.findings().iter().filter(|finding| finding["check"] == check).collect()
    }

    /// The only finding of a check.
    pub fn one(&self, check: &str) -> &Value {
        match self.all(check)[..] {
            [one] => one,
            ref others => panic!("{} of {check}: {}", others.len(), self.text),
        }
    }

    /// What the only finding of a check has seen.
    pub fn evidence(&self, check: &str) -> &str {
        self.one(check)["evidence"].as_str().unwrap()
    }
}
