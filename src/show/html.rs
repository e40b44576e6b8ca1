//! What all pages share: their beginning, their style, and text from outside inside HTML.

use std::fmt::{self, Display, Write};

/// How a page begins.
pub const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8>\
<meta name=viewport content='width=device-width'>";

/// Light and dark as the reader's system is, and tables.
pub const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--soft:#8882}\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}\
h1{font-size:1.4rem;margin:0}h2{font-size:1.05rem;margin:1.6rem 0 .4rem}\
div{overflow-x:auto}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.35rem .7rem;border-bottom:1px solid var(--line);\
font-variant-numeric:tabular-nums}th{background:var(--soft);font-weight:600;white-space:nowrap}\
.n{text-align:right;white-space:nowrap}.bad{color:#d33}";

/// Text from outside inside HTML: names come from configurations, causes from DNS and servers.
pub struct Escaped<T>(pub T);

impl<T: AsRef<str>> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.as_ref().chars() {
            match c {
                '<' => f.write_str("&lt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_stays_text() {
        assert_eq!(Escaped("<b>&'\"").to_string(), "&lt;b>&amp;&#39;&quot;");
    }
}
