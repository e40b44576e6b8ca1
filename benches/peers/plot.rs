//! The main figures as bars: medians, with a line from the least to the most.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::axes::{Figure, P50, P99};
use crate::stats::{Table, short};

/// Axes and figures.
const PANELS: &[(&str, Figure)] = &[
    ("ping1", P50),
    ("ping16", Figure::Rate),
    ("ping16", P99),
    ("reply64k", Figure::Throughput),
    ("bulk1", Figure::Throughput),
    ("bulk1", Figure::CpuPerGigabyte),
    ("short", Figure::Rate),
    ("memory", Figure::MemoryAfter),
    ("tls_bulk1", Figure::Throughput),
    ("tls_bulk1", Figure::CpuPerGigabyte),
    ("tls_ping16", Figure::Rate),
    ("tls_ping16", P99),
];

const WIDTH: u32 = 1040;
const COLUMNS: usize = 2;
/// Pixels of a panel's head and of one bar.
const HEAD: i32 = 50;
const BAR: i32 = 20;
/// Pixels for the names, and for a value behind the longest bar.
const NAMES: i32 = 140;
const VALUES: i32 = 80;

const OURS: RGBColor = RGBColor(0, 114, 178);
const OTHERS: RGBColor = RGBColor(170, 170, 170);

/// Draws what was measured of [`PANELS`] into `file`.
pub fn draw(tables: &[Table], file: &Path) -> Result<(), Box<dyn Error>> {
    let panels: Vec<_> = PANELS
        .iter()
        .filter_map(|panel| Some((tables.iter().find(|table| table.axis.key == panel.0)?, panel)))
        .collect();
    let bars = tables.iter().map(|table| table.rows.len()).max().unwrap_or(0);
    let rows = panels.len().div_ceil(COLUMNS).max(1);
    let height = rows as u32 * (HEAD + BAR * bars as i32 + BAR) as u32;
    let root = SVGBackend::new(file, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    for ((table, (_, figure)), area) in panels.into_iter().zip(root.split_evenly((rows, COLUMNS))) {
        panel(&area, table, *figure)?;
    }
    root.present()?;
    Ok(())
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    table: &Table,
    figure: Figure,
) -> Result<(), Box<dyn Error>> {
    let style = ("sans-serif", 13).into_text_style(area);
    let right = style.pos(Pos::new(HPos::Right, VPos::Center));
    let left = style.pos(Pos::new(HPos::Left, VPos::Center));
    let better = if figure.is_cost() { "less is better" } else { "more is better" };
    let title = format!("{}: {} ({better})", table.axis.title, figure.name());
    area.draw_text(&title, &left, (12, HEAD / 2))?;

    let summaries = table.rows.iter().filter_map(|row| table.summary(row.candidate, figure));
    let mut sorted: Vec<f64> = summaries.map(|summary| summary.max).collect();
    sorted.sort_by(f64::total_cmp);
    // One that is far off, as a process for each connection is in memory, must not flatten the rest.
    let most = match sorted[..] {
        [.., second, first] => first.min(second * 2.0),
        [only] => only,
        [] => return Ok(()),
    };
    let room = f64::from(area.dim_in_pixel().0 as i32 - NAMES - VALUES);
    for (index, row) in table.rows.iter().enumerate() {
        let middle = HEAD + BAR * index as i32 + BAR / 2;
        area.draw_text(row.candidate, &right, (NAMES - 6, middle))?;
        let Some(summary) = table.summary(row.candidate, figure) else { continue };
        let place = |value: f64| NAMES + (value.min(most) / most * room).max(1.0) as i32;
        let end = place(summary.median);
        let color = if row.candidate.starts_with("tidegate") { OURS } else { OTHERS };
        let (top, bottom) = (middle - BAR / 2 + 2, middle + BAR / 2 - 2);
        let bar = Rectangle::new([(NAMES, top), (end, bottom)], color.filled());
        area.draw(&bar)?;
        let spread = [(place(summary.min), middle), (place(summary.max), middle)];
        area.draw(&PathElement::new(spread, BLACK))?;
        let cut = if summary.median > most { "… " } else { "" };
        let value = format!("{cut}{}", short(summary.median));
        area.draw_text(&value, &left, (place(summary.max) + 6, middle))?;
    }
    Ok(())
}
