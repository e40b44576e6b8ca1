//! A report as text.

use std::fmt::{self, Display};

use super::report::{Bound, Cause, Latency, Report};
use crate::show::table::{Align, Table, paragraph};

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

    /// What is counted.
    pub(super) fn operation(&self) -> &'static str {
        match self.scenario.as_str() {
            "connect" => "connect to answer",
            "bulk" => "result",
            "query" => "statement",
            _ => "ping",
        }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n", self.headline(), self.summary())?;
        let mut times = Table::new(&[
            ("TIMES", Align::Left),
            ("COUNT", Align::Right),
            ("MEAN", Align::Right),
            ("P50", Align::Right),
            ("P90", Align::Right),
            ("P99", Align::Right),
            ("P99.9", Align::Right),
            ("MAX", Align::Right),
        ]);
        let mut row = |name: &str, done: u64, latency: &Latency| {
            let [mean, p50, p90, p99, p999, max] = latency.shown();
            times.row([name.to_owned(), done.to_string(), mean, p50, p90, p99, p999, max]);
        };
        row(self.operation(), self.done, &self.latency);
        if self.statements.len() > 1 {
            for statement in &self.statements {
                let sql: String = statement.sql.chars().take(30).collect();
                row(&format!("- {sql}"), statement.done, &statement.latency);
            }
        }
        for phase in &self.phases {
            row(&phase.name, phase.done, &phase.latency);
        }
        write!(f, "{times}")?;
        if !self.causes.is_empty() {
            let titles = [("ERRORS", Align::Left), ("COUNT", Align::Right), ("FIRST", Align::Left)];
            let mut causes = Table::new(&titles);
            for Cause { cause, count, example } in &self.causes {
                causes.row([cause.clone(), count.to_string(), example.clone()]);
            }
            write!(f, "\n{causes}")?;
        }
        writeln!(f)?;
        for Bound { bound, measured, is_kept } in &self.bounds {
            let verdict = if *is_kept { "kept" } else { "BROKEN" };
            f.write_str(&paragraph(&format!("{bound}: {measured}, {verdict}")))?;
        }
        Ok(())
    }
}

impl Latency {
    /// With their units, in the order of the fields.
    pub(super) fn shown(&self) -> [String; 6] {
        let Self { mean_us, p50_us, p90_us, p99_us, p999_us, max_us } = *self;
        [mean_us, p50_us, p90_us, p99_us, p999_us, max_us].map(time)
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
    match value {
        0.0 => "0".to_owned(),
        large if large >= 100.0 => format!("{large:.0}"),
        middle if middle >= 10.0 => format!("{middle:.1}"),
        small => format!("{small:.2}"),
    }
}
