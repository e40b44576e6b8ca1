//! What is said of several rounds.

use std::fmt::{self, Display};

/// The middle of several values, and how far they spread.
#[derive(Debug, Clone, Copy)]
pub struct Summary {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Summary {
    /// Nothing of none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = (values[half] + values[(values.len() - 1) / 2]) / 2.0;
        Some(Self { median, min, max })
    }
}

/// `median (least to most)`, or the median alone where there is no other.
impl Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: f64| match value {
            large if large >= 100.0 => format!("{large:.0}"),
            0.0 => "0".to_owned(),
            small if small < 1.0 => format!("{small:.2}"),
            middle => format!("{middle:.1}"),
        };
        let Self { median, min, max } = *self;
        match min == max {
            true => f.write_str(&shown(median)),
            false => write!(f, "{} ({} to {})", shown(median), shown(min), shown(max)),
        }
    }
}
