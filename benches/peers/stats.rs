//! Samples, and what is made of them.

use crate::axes::{Axis, Figure};
use crate::summary::Summary;

/// What one candidate did in one round of an axis.
#[derive(Debug)]
pub struct Sample {
    /// One for each of the axis' figures.
    pub values: Vec<f64>,
    /// Cores that the load generator kept busy.
    pub client: f64,
    /// Cores that the server kept busy.
    pub server: f64,
}

/// All rounds of one candidate on one axis.
#[derive(Debug)]
pub struct Row {
    pub candidate: &'static str,
    pub samples: Vec<Sample>,
    /// Why rounds failed.
    pub failures: Vec<String>,
}

/// All candidates on one axis.
#[derive(Debug)]
pub struct Table {
    pub axis: &'static Axis,
    pub rows: Vec<Row>,
}

impl Row {
    /// A figure of each sample, summed up.
    pub fn summary(&self, of: impl Fn(&Sample) -> Option<f64>) -> Option<Summary> {
        Summary::of(self.samples.iter().filter_map(of).collect())
    }
}

impl Table {
    /// The row of `candidate`.
    pub fn row(&self, candidate: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.candidate == candidate)
    }

    /// `figure` of `candidate`, where it was measured.
    pub fn summary(&self, candidate: &str, figure: Figure) -> Option<Summary> {
        let index = self.axis.figures.iter().position(|other| *other == figure)?;
        let summary = self.row(candidate)?.summary(|sample| sample.values.get(index).copied())?;
        summary.median.is_finite().then_some(summary)
    }

    /// The median of [`Table::summary`].
    pub fn median(&self, candidate: &str, figure: Figure) -> Option<f64> {
        self.summary(candidate, figure).map(|summary| summary.median)
    }
}

/// `value` to three significant digits.
pub fn short(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    match value.abs() {
        huge if huge >= 10_000.0 => format!("{:.1}k", value / 1000.0),
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        small if small >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
