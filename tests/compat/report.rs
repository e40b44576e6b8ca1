//! What is made of all cells: the table, and the end.

use crate::compare::Verdict;

/// A client, a server and a mode.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    pub server: &'static str,
    pub client: &'static str,
    pub mode: &'static str,
}

/// Every cell and what came of it.
#[derive(Debug, Default)]
pub struct Report {
    cells: Vec<(Cell, Outcome)>,
}

#[derive(Debug)]
enum Outcome {
    /// Why it did not run.
    Skipped(String),
    Ran(Vec<(String, Verdict)>),
}

/// How many sections came to each verdict.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    same: usize,
    different: usize,
    fails_direct: usize,
    unsupported: usize,
    excused: usize,
}

impl Report {
    pub fn skipped(&mut self, cell: Cell, why: &str) {
        self.cells.push((cell, Outcome::Skipped(why.to_owned())));
    }

    pub fn ran(&mut self, cell: Cell, verdicts: Vec<(String, Verdict)>) {
        self.cells.push((cell, Outcome::Ran(verdicts)));
    }

    /// One with which at least one client was run.
    pub fn server_that_ran(&self) -> Option<&'static str> {
        let ran = self.cells.iter().find(|(_, outcome)| matches!(outcome, Outcome::Ran(_)));
        ran.map(|(cell, _)| cell.server)
    }

    /// Whether a difference was found, or nothing that counts was compared. Where everything has to
    /// run, what was skipped or fails direct is a failure too.
    pub fn has_failed(&self, everything: bool) -> bool {
        let counts = self.counts();
        let all_ran = self.cells.iter().all(|(_, outcome)| matches!(outcome, Outcome::Ran(_)));
        counts.different > 0
            || counts.same == 0
            || everything && (!all_ran || counts.fails_direct > 0)
    }

    /// Every cell a line; then what is not the same.
    pub fn print(&self) {
        print_row([
            "server",
            "client",
            "mode",
            "same",
            "differ",
            "fail direct",
            "unsupported",
            "excused",
        ]);
        for (cell, outcome) in &self.cells {
            let [server, client, mode] = [cell.server, cell.client, cell.mode];
            match outcome {
                Outcome::Skipped(why) => {
                    print_row([server, client, mode, &format!("skipped ({why})"), "", "", "", ""]);
                }
                Outcome::Ran(verdicts) => {
                    let counts = Counts::of(verdicts);
                    let [same, different] = [counts.same, counts.different].map(|n| n.to_string());
                    let [fails, unsupported, excused] =
                        [counts.fails_direct, counts.unsupported, counts.excused]
                            .map(|n| n.to_string());
                    print_row([
                        server,
                        client,
                        mode,
                        &same,
                        &different,
                        &fails,
                        &unsupported,
                        &excused,
                    ]);
                }
            }
        }
        for (cell, outcome) in &self.cells {
            let name = cell.name();
            match outcome {
                Outcome::Skipped(why) => println!("skipped: {name}: {why}"),
                Outcome::Ran(verdicts) => {
                    explain(&name, verdicts);
                }
            }
        }
    }

    /// The sum, as other tests end. What fails direct and what is skipped is ignored.
    pub fn print_sum(&self, has_failed: bool) {
        let Counts { same, different, fails_direct, excused, .. } = self.counts();
        let ran = |outcome: &Outcome| matches!(outcome, Outcome::Ran(_));
        let skipped = self.cells.iter().filter(|(_, outcome)| !ran(outcome)).count();
        let result = if has_failed { "FAILED" } else { "ok" };
        let ignored = fails_direct + excused + skipped;
        println!("test result: {result}. {same} passed; {different} failed; {ignored} ignored");
    }

    fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for (_, outcome) in &self.cells {
            if let Outcome::Ran(verdicts) = outcome {
                let counts = Counts::of(verdicts);
                sum.same += counts.same;
                sum.different += counts.different;
                sum.fails_direct += counts.fails_direct;
                sum.unsupported += counts.unsupported;
                sum.excused += counts.excused;
            }
        }
        sum
    }
}

impl Cell {
    pub fn name(&self) -> String {
        format!("{} x {} x {}", self.server, self.client, self.mode)
    }
}

impl Counts {
    fn of(verdicts: &[(String, Verdict)]) -> Self {
        let mut counts = Self::default();
        for (_, verdict) in verdicts {
            *match verdict {
                Verdict::Same => &mut counts.same,
                Verdict::Different { .. } => &mut counts.different,
                Verdict::FailsDirect(_) => &mut counts.fails_direct,
                Verdict::Unsupported => &mut counts.unsupported,
                Verdict::Excused { .. } => &mut counts.excused,
            } += 1;
        }
        counts
    }
}

fn print_row(row: [&str; 8]) {
    let [server, client, mode, same, different, fails, unsupported, excused] = row;
    let row = format!(
        "{server:8} {client:22} {mode:19} {same:>5} {different:>7} {fails:>12} {unsupported:>12} \
         {excused:>8}"
    );
    println!("{}", row.trim_end());
}

fn explain(cell: &str, verdicts: &[(String, Verdict)]) {
    // One line for each reason: what ends a program early fails all sections after it.
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for (section, verdict) in verdicts {
        match verdict {
            Verdict::Same | Verdict::Unsupported => {}
            Verdict::FailsDirect(reason) => match reasons.iter_mut().find(|(r, _)| r == reason) {
                Some((_, sections)) => sections.push(section),
                None => reasons.push((reason, vec![section])),
            },
            Verdict::Different { direct, through } | Verdict::Excused { direct, through } => {
                let word = match verdict {
                    Verdict::Excused { .. } => "is excused",
                    _ => "differs",
                };
                let common = direct.chars().zip(through.chars()).take_while(|(a, b)| a == b);
                let common = common.count();
                let [direct, through] = [direct, through].map(|line| excerpt(line, common));
                println!("{cell} {word}: {section}\n    direct:  {direct}\n    through: {through}");
            }
        }
    }
    for (reason, sections) in reasons {
        println!("{cell} fails direct: {}: {}", sections.join(", "), excerpt(reason, 0));
    }
}

/// A line from shortly before where it differs from another.
fn excerpt(line: &str, common: usize) -> String {
    let before = common.saturating_sub(40);
    let shown: String = line.chars().skip(before).take(200).collect();
    let left_out = if before > 0 { "… " } else { "" };
    format!("{left_out}{shown}")
}
