//! A report as one page that needs nothing else, in light and in dark.

use std::fmt::{self, Write};
use std::io;

use super::plot::{DARK, LIGHT, Theme, percentiles, throughput};
use super::report::Report;
use crate::show::html::{Escaped, HEAD, STYLE};

/// Of the two plots the one for the reader's colours is shown.
const OWN_STYLE: &str = "th{text-transform:lowercase}svg{max-width:100%;height:auto}.dark{display:none}\
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
        write!(page, "<br><span{class}>{}</span>", Escaped(&bound.to_string()))?;
    }
    let tables = [("Times", Some(report.times(usize::MAX))), ("Errors", report.errors())];
    for (title, table) in tables {
        if let Some(table) = table {
            write!(page, "<h2>{title}</h2>{}", table.to_html())?;
        }
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
