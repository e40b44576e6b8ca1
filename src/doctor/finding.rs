//! What a check has found.

use serde::Serialize;

use crate::show::table::harmless;

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It could not be found out, or there was nothing to find out.
    Skip,
    /// As it should be.
    Ok,
    /// It works, but is not as it should be.
    Warn,
    /// It does not work.
    Fail,
}

impl Status {
    /// The word of the report.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: `family.check`.
    pub check: &'static str,
    /// The upstream that it is about; `None`: this host.
    pub upstream: Option<String>,
    /// The address, server or file that it is about.
    pub subject: Option<String>,
    /// How it stands.
    pub status: Status,
    /// A word for what is wrong, for programs.
    pub cause: Option<&'static str>,
    /// What was seen.
    pub evidence: String,
    /// What is likely to be behind it.
    pub likely: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// It needs what an earlier check did not come to.
    #[serde(skip)]
    pub is_behind: bool,
}

impl Finding {
    fn new(check: &'static str, status: Status, evidence: &str) -> Self {
        Self {
            check,
            upstream: None,
            subject: None,
            status,
            cause: None,
            evidence: harmless(evidence),
            likely: None,
            hint: None,
            is_behind: false,
        }
    }

    /// As it should be.
    pub fn ok(check: &'static str, evidence: impl AsRef<str>) -> Self {
        Self::new(check, Status::Ok, evidence.as_ref())
    }

    /// Not found out.
    pub fn skip(check: &'static str, why: impl AsRef<str>) -> Self {
        Self::new(check, Status::Skip, why.as_ref())
    }

    /// Not found out for want of what an earlier check should have had.
    pub fn behind(check: &'static str, why: impl AsRef<str>) -> Self {
        Self { is_behind: true, ..Self::skip(check, why) }
    }

    /// Not as it should be.
    pub fn warn(check: &'static str, cause: &'static str, evidence: impl AsRef<str>) -> Self {
        Self { cause: Some(cause), ..Self::new(check, Status::Warn, evidence.as_ref()) }
    }

    /// Broken.
    pub fn fail(check: &'static str, cause: &'static str, evidence: impl AsRef<str>) -> Self {
        Self { cause: Some(cause), ..Self::new(check, Status::Fail, evidence.as_ref()) }
    }

    /// The address, server or file that it is about.
    pub fn of(self, subject: impl ToString) -> Self {
        Self { subject: Some(harmless(&subject.to_string())), ..self }
    }

    /// What is likely to be behind it.
    pub fn likely(self, likely: impl Into<String>) -> Self {
        Self { likely: Some(likely.into()), ..self }
    }

    /// What to do. Lines after the first are commands.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// What is wrong for the same cause is the same, in whatever words; each is told.
    fn is_as(&self, other: &Self) -> bool {
        (self.check, self.status, self.cause) == (other.check, other.status, other.cause)
            && (self.evidence == other.evidence || self.cause.is_some())
    }
}

/// What was found of several addresses: the same of several is one finding, and what fails of one is
/// no more than a warning where another one is good.
pub fn together(findings: Vec<Finding>) -> Vec<Finding> {
    let mut all: Vec<Finding> = Vec::new();
    for finding in findings {
        match all.iter_mut().find(|known| known.is_as(&finding)) {
            Some(known) => {
                let subjects = [known.subject.take(), finding.subject];
                let subjects: Vec<_> = subjects.into_iter().flatten().collect();
                known.subject = Some(subjects.join(", "));
                if !known.evidence.contains(&finding.evidence) {
                    known.evidence = format!("{}; {}", known.evidence, finding.evidence);
                }
            }
            None => all.push(finding),
        }
    }
    let is_good = |finding: &Finding| matches!(finding.status, Status::Ok | Status::Warn);
    let good: Vec<_> = all.iter().filter(|one| is_good(one)).map(|one| one.check).collect();
    for finding in &mut all {
        if finding.status == Status::Fail && good.contains(&finding.check) {
            finding.status = Status::Warn;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_of_several_addresses_is_one_finding() {
        let silent = |address: &str| Finding::fail("a.b", "silent", "no answer").of(address);
        let all = together(vec![silent("10.0.0.1"), silent("10.0.0.2")]);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].subject.as_deref(), Some("10.0.0.1, 10.0.0.2"));
        assert_eq!(all[0].status, Status::Fail);
    }

    #[test]
    fn the_same_cause_in_other_words_is_told_in_all_of_them() {
        let refused = |words: &str| Finding::fail("a.b", "refused", words);
        let all = together(vec![refused("no; 1"), refused("no; 2"), refused("no; 1")]);
        let evidence: Vec<_> = all.iter().map(|one| one.evidence.as_str()).collect();
        assert_eq!(evidence, ["no; 1; no; 2"]);
    }

    #[test]
    fn where_one_address_is_good_another_is_no_more_than_warned_of() {
        let bad = Finding::fail("a.b", "silent", "no answer").of("10.0.0.1");
        let all = together(vec![bad.clone(), Finding::ok("a.b", "1 ms").of("10.0.0.2")]);
        assert_eq!(
            all.iter().map(|one| one.status).collect::<Vec<_>>(),
            [Status::Warn, Status::Ok]
        );
        // Of another check it says nothing.
        let all = together(vec![bad, Finding::ok("a.c", "1 ms").of("10.0.0.2")]);
        assert_eq!(all[0].status, Status::Fail);
    }

    #[test]
    fn what_servers_say_cannot_steer_a_terminal() {
        assert_eq!(Finding::ok("a.b", "\u{1b}[2J8.0").evidence, "[2J8.0");
    }
}
