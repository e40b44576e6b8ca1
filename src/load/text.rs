//! A report as text, and the tables that it shares with the page.

use std::fmt::{self, Display};

use super::report::{Bound, Latency, Report};
use crate::show::table::{Align, Table, paragraph};

/// Of a statement's text a terminal gets as much.
const SHORT: usize = 30;

impl Report {
    /// One line of what was done.
    pub(super) fn headline(&self) -> String {
        let rate = match self.rate {
            Some(rate) => format!("open loop at {rate}/s"),
            None => "closed loop".to_owned(),
        };
        format!(
            "{} to {} over {} connections{}, {rate}, for {:.1} s{}",
            self.scenario,
            self.target,
            self.connections,
            if self.tls { " with TLS" } else { "" },
            self.seconds,
            if self.is_whole { "" } else { " (interrupted)" },
        )
    }

    /// What was done, in figures.
    pub(super) fn summary(&self) -> String {
        let rate = match self.scenario.as_str() {
            "idle" => "alive at the end".to_owned(),
            _ => format!("done, {}/s", significant(self.throughput)),
        };
        let mut line = format!("{} {rate}, {} errors", self.done, self.errors);
        if self.bytes_per_second >= 1e6 {
            line += &format!(", {} MB/s", significant(self.bytes_per_second / 1e6));
        }
        if self.not_begun > 0 {
            line += &format!(
                "; {} more were due and not begun: more --connections, or it does not keep up",
                self.not_begun
            );
        }
        line
    }

    /// How long what took; of a statement's text so many characters.
    pub(super) fn times(&self, most: usize) -> Table {
        let figures = ["COUNT", "MEAN", "P50", "P90", "P99", "P99.9", "MAX"];
        let columns = figures.map(|figure| (figure, Align::Right));
        let mut table = Table::new(&[&[("TIMES", Align::Left)][..], &columns].concat());
        let mut row = |name: &str, done: u64, latency: &Latency| {
            let Latency { mean_us, p50_us, p90_us, p99_us, p999_us, max_us } = *latency;
            let [mean, p50, p90, p99, p999, max] =
                [mean_us, p50_us, p90_us, p99_us, p999_us, max_us].map(time);
            table.row([name.to_owned(), done.to_string(), mean, p50, p90, p99, p999, max]);
        };
        let operation = match self.scenario.as_str() {
            "connect" => "connect to answer",
            "bulk" => "result",
            "query" => "statement",
            _ => "ping",
        };
        row(operation, self.done, &self.latency);
        if self.statements.len() > 1 {
            for statement in &self.statements {
                let sql: String = statement.sql.chars().take(most).collect();
                row(&format!("- {sql}"), statement.done, &statement.latency);
            }
        }
        for phase in &self.phases {
            row(&phase.name, phase.done, &phase.latency);
        }
        table
    }

    /// What went wrong, if anything did.
    pub(super) fn errors(&self) -> Option<Table> {
        let titles = [("ERRORS", Align::Left), ("COUNT", Align::Right), ("FIRST", Align::Left)];
        let mut table = Table::new(&titles);
        for cause in &self.causes {
            table.row([cause.cause.clone(), cause.count.to_string(), cause.example.clone()]);
        }
        (!self.causes.is_empty()).then_some(table)
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n\n{}", self.headline(), self.summary(), self.times(SHORT))?;
        if let Some(errors) = self.errors() {
            writeln!(f, "{errors}")?;
        }
        self.bounds.iter().try_for_each(|bound| f.write_str(&paragraph(&bound.to_string())))
    }
}

impl Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_kept { "kept" } else { "BROKEN" };
        write!(f, "{}: {}, {verdict}", self.bound, self.measured)
    }
}

/// A time in microseconds, with the unit that fits.
pub(super) fn time(us: f64) -> String {
    match us {
        0.0 => "-".to_owned(),
        us if us < 1e3 => format!("{} us", significant(us)),
        us if us < 1e6 => format!("{} ms", significant(us / 1e3)),
        us => format!("{} s", significant(us / 1e6)),
    }
}

/// Three digits, or all before the point.
pub(super) fn significant(value: f64) -> String {
    let decimals = match value {
        0.0 => 0,
        value => (2.0 - value.abs().log10().floor()).clamp(0.0, 6.0) as usize,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_their_unit() {
        let shown = [0.0, 0.001, 0.0456, 1.0, 12.34, 123.4, 56789.0].map(significant);
        assert_eq!(shown, ["0", "0.00100", "0.0456", "1.00", "12.3", "123", "56789"]);
        let shown = [0.0, 1.5, 999.0, 1500.0, 2.5e6].map(time);
        assert_eq!(shown, ["-", "1.50 us", "999 us", "1.50 ms", "2.50 s"]);
    }
}
