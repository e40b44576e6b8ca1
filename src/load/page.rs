//! A report as one page that needs nothing else, in light and in dark.

use std::fmt::{self, Write};
use std::io;

use super::plot::{DARK, LIGHT, Theme, percentiles, throughput};
use super::report::{Latency, Report};
use crate::show::html::{Escaped, HEAD, STYLE};

/// Numbers stand to the right; of the two plots the one for the reader's colours is shown.
const OWN_STYLE: &str = "td,th{text-align:right}td:first-child,th:first-child,.t{text-align:left}\
svg{max-width:100%;height:auto}.dark{display:none}\
@media(prefers-color-scheme:dark){.light{display:none}.dark{display:block}}</style>";

/// The page's text.
pub(super) fn page(report: &Report) -> io::Result<String> {
    let mut page = [HEAD, "<style>", STYLE, OWN_STYLE].concat();
    write(&mut page, report).map_err(io::Error::other)?;
    Ok(page)
}

fn write(page: &mut String, report: &Report) -> fmt::Result {
    let title = Escaped(&report.headline()).to_string();
    write!(page, "<title>tidegate load: {title}</title><h1>tidegate load</h1><p>{title}, ")?;
    write!(page, "{}<p><b>{}</b>", report.at, Escaped(&report.summary()))?;
    for bound in &report.bounds {
        let class = if bound.is_kept { "" } else { " class=bad" };
        let verdict = if bound.is_kept { "kept" } else { "broken" };
        let (name, measured) = (Escaped(&bound.bound), Escaped(&bound.measured));
        write!(page, "<br><span{class}>{name}: {measured}, {verdict}</span>")?;
    }
    write!(
        page,
        "<h2>Times</h2><div><table><tr><th><th>count<th>mean<th>p50<th>p90<th>p99<th>p99.9<th>max"
    )?;
    row(page, report.operation(), report.done, &report.latency)?;
    if report.statements.len() > 1 {
        for statement in &report.statements {
            row(page, &statement.sql, statement.done, &statement.latency)?;
        }
    }
    for phase in &report.phases {
        row(page, &phase.name, phase.done, &phase.latency)?;
    }
    page.push_str("</table></div>");
    if !report.causes.is_empty() {
        page.push_str("<h2>Errors</h2><div><table><tr><th>cause<th>count<th class=t>first");
        for cause in &report.causes {
            let (name, example) = (Escaped(&cause.cause), Escaped(&cause.example));
            write!(page, "<tr><td>{name}<td>{}<td class=t>{example}", cause.count)?;
        }
        page.push_str("</table></div>");
    }
    if report.done > 0 {
        page.push_str("<h2>Latency by percentile</h2>");
        both(page, report, percentiles)?;
    }
    if report.intervals.len() > 1 {
        page.push_str("<h2>Operations in each second</h2>");
        both(page, report, throughput)?;
    }
    Ok(())
}

type Plot = fn(&Report, Theme) -> Result<String, Box<dyn std::error::Error>>;

/// A plot for each colour scheme; the page shows one.
fn both(page: &mut String, report: &Report, plot: Plot) -> fmt::Result {
    for (class, theme) in [("light", LIGHT), ("dark", DARK)] {
        let svg = plot(report, theme).map_err(|_| fmt::Error)?;
        write!(page, "<div class={class}>{svg}</div>")?;
    }
    Ok(())
}

fn row(page: &mut String, name: &str, done: u64, latency: &Latency) -> fmt::Result {
    write!(page, "<tr><td>{}<td>{done}", Escaped(name))?;
    latency.shown().iter().try_for_each(|time| write!(page, "<td>{time}"))
}
