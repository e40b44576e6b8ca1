//! The plots of a page: how latencies spread, and what each second brought.

use std::error::Error;
use std::ops::Range;

use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::report::Report;
use super::text::{significant, time};

const SIZE: (u32, u32) = (860, 320);

/// Colours on a ground that is not painted: the page's own shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    text: RGBColor,
    grid: RGBColor,
    line: RGBColor,
    bad: RGBColor,
}

pub(super) const LIGHT: Theme = Theme {
    text: RGBColor(68, 68, 68),
    grid: RGBColor(221, 221, 221),
    line: RGBColor(0, 100, 170),
    bad: RGBColor(200, 40, 40),
};

pub(super) const DARK: Theme = Theme {
    text: RGBColor(190, 190, 190),
    grid: RGBColor(68, 68, 68),
    line: RGBColor(90, 180, 250),
    bad: RGBColor(255, 110, 110),
};

type Drawn<T> = Result<T, Box<dyn Error>>;

/// Latency over the share of operations that were not slower, stretched towards 100 %.
pub(super) fn percentiles(report: &Report, theme: Theme) -> Drawn<String> {
    let ends = report.curve.iter().filter(|(percent, us)| *percent < 100.0 && *us > 0.0);
    let points: Vec<_> = ends.map(|(percent, us)| (nines(*percent), *us)).collect();
    let most = points.last().map_or(1.0, |point| point.0).max(1.0);
    // Labels stand at powers of ten: one below all, one above.
    let low = points.first().map_or(0.0, |point| point.1.log10().floor());
    let high = points.last().map_or(1.0, |point| point.1.log10().ceil()).max(low + 1.0);
    let (low, high) = (10f64.powf(low), 10f64.powf(high));
    let label = |nines: &f64| match nines.fract() {
        0.0 => {
            let decimals = (*nines as usize).saturating_sub(2);
            format!("{:.decimals$}%", 100.0 - 100.0 / 10f64.powf(*nines))
        }
        // 68.4 % is nobody's bound.
        _ => String::new(),
    };
    draw(
        theme,
        0.0..most,
        (low..high).log_scale(),
        label,
        |us| time(*us),
        vec![(points, theme.line)],
    )
}

/// Operations that ended in each second, well and not.
pub(super) fn throughput(report: &Report, theme: Theme) -> Drawn<String> {
    let seconds = |of: fn(&super::report::Interval) -> u64| -> Vec<_> {
        let all = report.intervals.iter().enumerate();
        all.map(|(second, interval)| (second as f64 + 1.0, of(interval) as f64)).collect()
    };
    let done = seconds(|interval| interval.done);
    let mut lines = vec![(done, theme.line)];
    if report.errors > 0 {
        lines.push((seconds(|interval| interval.errors), theme.bad));
    }
    let most = lines.iter().flat_map(|(points, _)| points).map(|point| point.1);
    let most = most.fold(1.0, f64::max) * 1.1;
    let last = (report.intervals.len() as f64).max(2.0);
    let second = |second: &f64| format!("{second} s");
    draw(theme, 1.0..last, 0.0..most, second, |rate| format!("{}/s", significant(*rate)), lines)
}

/// How many nines a share has: 90 % is 1, 99 % is 2.
fn nines(percent: f64) -> f64 {
    -(1.0 - percent / 100.0).log10()
}

fn draw<Y>(
    theme: Theme,
    x: Range<f64>,
    y: Y,
    x_label: impl Fn(&f64) -> String,
    y_label: impl Fn(&f64) -> String,
    lines: Vec<(Vec<(f64, f64)>, RGBColor)>,
) -> Drawn<String>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(10)
            .margin_right(30)
            .x_label_area_size(30)
            .y_label_area_size(80)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(theme.grid)
            .axis_style(theme.grid)
            .label_style(("sans-serif", 13).with_color(theme.text))
            .x_label_formatter(&x_label)
            .y_label_formatter(&y_label)
            .y_labels(6)
            .draw()?;
        for (points, color) in lines {
            chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
        }
        root.present()?;
    }
    Ok(svg)
}
