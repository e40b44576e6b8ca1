//! What is told: a line for each finding as it comes, a summary, or one object of JSON.

use std::io::{self, Write};
use std::mem;

use serde::Serialize;

use super::finding::{Finding, Status};
use crate::show::table::hanging;

/// Columns of the status, and of the longest name of a check.
const STATUS_WIDTH: usize = 4;
const CHECK_WIDTH: usize = 20;
/// Columns before the evidence, and before a cause and a hint.
const BEFORE_EVIDENCE: usize = STATUS_WIDTH + 2 + CHECK_WIDTH + 2;
const INDENT: usize = STATUS_WIDTH + 2;
/// As wide as causes and hints get where there is no terminal to fit.
const WIDTH: usize = 100;

/// Where lines are shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Screen {
    /// A terminal's width; elsewhere each finding has one line, however long.
    pub columns: Option<usize>,
    /// Words may be coloured.
    pub has_colours: bool,
}

/// Findings as lines of text. What was not looked at is told at the end, with what else was not for the
/// same reason.
pub struct Lines<W> {
    out: W,
    screen: Screen,
    /// More than one upstream is looked at, and each is named.
    names_upstreams: bool,
    /// The family and the upstream of the last line.
    place: Option<(&'static str, Option<String>)>,
    /// Checks that were skipped, by the reason.
    skipped: Vec<(String, Vec<String>)>,
}

impl<W: Write> Lines<W> {
    /// Begins with what is looked at.
    pub fn begin(mut out: W, screen: Screen, upstreams: &[String]) -> io::Result<Self> {
        writeln!(out, "tidegate doctor: {}", upstreams.join(", "))?;
        let names_upstreams = upstreams.len() > 1;
        Ok(Self { out, screen, names_upstreams, place: None, skipped: Vec::new() })
    }

    /// One more finding.
    pub fn tell(&mut self, finding: &Finding) -> io::Result<()> {
        if finding.status == Status::Skip {
            self.note_skipped(finding);
            return Ok(());
        }
        let place = (family(finding.check), finding.upstream.clone());
        if self.place.as_ref() != Some(&place) {
            writeln!(self.out)?;
            if self.names_upstreams && self.place.as_ref().is_none_or(|old| old.1 != place.1) {
                let name = place.1.as_deref();
                let title = name.map_or("this host".into(), |name| format!("upstream {name}"));
                writeln!(self.out, "{title}")?;
            }
            self.place = Some(place);
        }
        let subject = finding.subject.as_ref().map(|subject| format!("{subject}: "));
        let text = format!("{}{}", subject.unwrap_or_default(), finding.evidence);
        self.line(finding.status, finding.check, &text)?;
        if let Some(likely) = &finding.likely {
            self.prose(&format!("cause: {likely}"))?;
        }
        if let Some(hint) = &finding.hint {
            self.prose(&format!("hint: {hint}"))?;
        }
        self.out.flush()
    }

    /// The last lines.
    pub fn end(mut self, findings: &[Finding]) -> io::Result<()> {
        let skipped = mem::take(&mut self.skipped);
        if !skipped.is_empty() {
            writeln!(self.out)?;
        }
        for (why, checks) in skipped {
            match checks.as_slice() {
                [check] => self.line(Status::Skip, check, &why)?,
                checks => {
                    let word = self.coloured(Status::Skip);
                    writeln!(self.out, "{word}  {why}:")?;
                    self.prose(&checks.join(", "))?;
                }
            }
        }
        writeln!(self.out, "\n{}", summary(findings, self.names_upstreams))?;
        self.out.flush()
    }

    fn note_skipped(&mut self, finding: &Finding) {
        let of = finding.upstream.as_ref().filter(|_| self.names_upstreams);
        let of = of.map(|name| format!(" of {name}")).unwrap_or_default();
        let check = format!("{}{of}", finding.check);
        match self.skipped.iter_mut().find(|(why, _)| *why == finding.evidence) {
            Some((_, checks)) if checks.contains(&check) => {}
            Some((_, checks)) => checks.push(check),
            None => self.skipped.push((finding.evidence.clone(), vec![check])),
        }
    }

    fn line(&mut self, status: Status, check: &str, text: &str) -> io::Result<()> {
        let word = self.coloured(status);
        let text = match self.screen.columns {
            Some(columns) => hanging(text, BEFORE_EVIDENCE, columns).trim().to_owned(),
            None => text.to_owned(),
        };
        writeln!(self.out, "{word}  {check:<CHECK_WIDTH$}  {text}")
    }

    fn prose(&mut self, text: &str) -> io::Result<()> {
        let columns = self.screen.columns.unwrap_or(WIDTH);
        write!(self.out, "{}", hanging(text, INDENT, columns))
    }

    fn coloured(&self, status: Status) -> String {
        let word = format!("{:<STATUS_WIDTH$}", status.as_str());
        let colour = match status {
            _ if !self.screen.has_colours => return word,
            Status::Skip => "2",
            Status::Ok => "32",
            Status::Warn => "33",
            Status::Fail => "1;31",
        };
        format!("\u{1b}[{colour}m{word}\u{1b}[0m")
    }
}

fn family(check: &'static str) -> &'static str {
    check.split('.').next().unwrap_or(check)
}

/// In a line what it comes to, and in a second one where to begin.
fn summary(findings: &[Finding], names_upstreams: bool) -> String {
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    let counts: Vec<_> = [Status::Ok, Status::Warn, Status::Fail, Status::Skip]
        .map(|status| (count(status), status.as_str()))
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    let counts = counts.join(", ");
    let Some(first) = first_failure(findings) else {
        return format!("nothing is broken ({counts})");
    };
    let upstream = first.upstream.as_deref().filter(|_| names_upstreams);
    let of = upstream.map(|name| format!(" of upstream {name}")).unwrap_or_default();
    let cause = first.cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
    format!("the first broken step is {}{of}{cause} ({counts})", first.check)
}

fn first_failure(findings: &[Finding]) -> Option<&Finding> {
    findings.iter().find(|finding| finding.status == Status::Fail)
}

/// What it comes to: the worst of all.
pub fn overall(findings: &[Finding]) -> Status {
    let worst = findings.iter().map(|finding| finding.status).max();
    worst.unwrap_or(Status::Ok).max(Status::Ok)
}

/// The report for programs.
pub fn json(findings: &[Finding]) -> String {
    #[derive(Serialize)]
    struct Report<'f> {
        version: u32,
        status: Status,
        first_failure: Option<&'static str>,
        findings: &'f [Finding],
    }
    let report = Report {
        version: 1,
        status: overall(findings),
        first_failure: first_failure(findings).map(|finding| finding.check),
        findings,
    };
    serde_json::to_string_pretty(&report).expect("findings have string keys only") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(findings: &[Finding], upstreams: &[&str], screen: Screen) -> String {
        let mut out = Vec::new();
        let upstreams: Vec<_> = upstreams.iter().map(|name| (*name).to_owned()).collect();
        let mut lines = Lines::begin(&mut out, screen, &upstreams).unwrap();
        findings.iter().for_each(|finding| lines.tell(finding).unwrap());
        lines.end(findings).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn broken() -> Vec<Finding> {
        let of = |finding: Finding| Finding { upstream: Some("tidb".into()), ..finding };
        vec![
            Finding::ok("host.files", "1024 open files"),
            of(Finding::fail("name.address", "nxdomain", "no such name")
                .of("10.0.0.2:53")
                .likely("private DNS is off")
                .hint("turn it on:\naws ec2 modify-vpc-endpoint")),
            of(Finding::skip("address.connect", "there is no address")),
            of(Finding::skip("mysql.greeting", "there is no address")),
            of(Finding::skip("login.user", "no --user")),
        ]
    }

    #[test]
    fn lines_are_aligned_and_what_was_skipped_is_told_once_for_each_reason() {
        assert_eq!(
            told(&broken(), &["gw:4000"], Screen::default()),
            "tidegate doctor: gw:4000\n\
             \n\
             ok    host.files            1024 open files\n\
             \n\
             fail  name.address          10.0.0.2:53: no such name\n\
             \x20     cause: private DNS is off\n\
             \x20     hint: turn it on:\n\
             \x20       aws ec2 modify-vpc-endpoint\n\
             \n\
             skip  there is no address:\n\
             \x20     address.connect, mysql.greeting\n\
             skip  login.user            no --user\n\
             \n\
             the first broken step is name.address (nxdomain) (1 ok, 1 fail, 3 skip)\n"
        );
    }

    #[test]
    fn colours_and_names_are_there_where_they_are_of_use() {
        let screen = Screen { columns: None, has_colours: true };
        let text = told(&broken(), &["a", "b"], screen);
        assert!(text.contains("\u{1b}[1;31mfail\u{1b}[0m  name.address"), "{text}");
        assert!(text.contains("this host\n") && text.contains("\nupstream tidb\n"), "{text}");
        assert!(text.contains("step is name.address of upstream tidb (nxdomain)"), "{text}");
        assert!(text.contains("address.connect of tidb, mysql.greeting of tidb"), "{text}");
    }

    #[test]
    fn on_a_terminal_lines_are_folded_to_its_width() {
        let words = "word ".repeat(30);
        let screen = Screen { columns: Some(60), has_colours: false };
        let text = told(&[Finding::ok("host.files", words)], &["gw"], screen);
        assert!(text.lines().all(|line| line.len() <= 60), "{text}");
        assert!(text.contains("\n                              word word"), "{text}");
    }

    #[test]
    fn json_has_the_worst_status_and_the_first_failure() {
        let report: serde_json::Value = serde_json::from_str(&json(&broken())).unwrap();
        assert_eq!(report["status"], "fail");
        assert_eq!(report["first_failure"], "name.address");
        assert_eq!(report["findings"][1]["subject"], "10.0.0.2:53");
        let well = [Finding::skip("a.b", "not here")];
        let report: serde_json::Value = serde_json::from_str(&json(&well)).unwrap();
        assert_eq!((&report["status"], &report["first_failure"]), (&"ok".into(), &().into()));
    }
}
