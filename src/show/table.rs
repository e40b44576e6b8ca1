//! Aligned columns of text.

use std::fmt;

use super::html::Escaped;

/// As wide as a table gets, unless a column before the last one needs more.
const WIDTH: usize = 100;
/// The last column gets as much, also where there is no room for it.
const LEAST: usize = 20;
const GAP: usize = 2;

/// Where a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows of cells under titles. A line end in a cell begins a new line of the row; the last column is
/// wrapped to the room that the others leave.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<Cell>>,
}

/// The lines of a cell.
type Cell = Vec<String>;

impl Table {
    /// A table without a row.
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let titles = columns.iter().map(|(title, _)| vec![(*title).to_owned()]).collect();
        Self { columns: columns.iter().map(|(_, align)| *align).collect(), rows: vec![titles] }
    }

    /// Adds a row, a cell for each column.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len());
        let cell = |text: String| text.split('\n').map(harmless).collect();
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    /// The same as HTML, in the classes of [`super::html::STYLE`].
    pub fn to_html(&self) -> String {
        let mut html = "<div><table>".to_owned();
        for (number, row) in self.rows.iter().enumerate() {
            html += "<tr>";
            let tag = if number == 0 { "th" } else { "td" };
            for (cell, align) in row.iter().zip(&self.columns) {
                let class = if *align == Align::Right { " class=n" } else { "" };
                let lines: Vec<_> = cell.iter().map(|line| Escaped(line).to_string()).collect();
                html += &format!("<{tag}{class}>{}", lines.join("<br>"));
            }
        }
        html + "</table></div>"
    }

    fn width(&self, column: usize) -> usize {
        let lines = self.rows.iter().flat_map(|row| &row[column]);
        lines.map(|line| line.chars().count()).max().unwrap_or(0)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.columns.len() - 1;
        let mut widths: Vec<usize> = (0..last).map(|column| self.width(column)).collect();
        let before: usize = widths.iter().map(|width| width + GAP).sum();
        let room = WIDTH.saturating_sub(before).max(LEAST);
        widths.push(self.width(last).min(room));
        for row in &self.rows {
            let mut row = row.clone();
            row[last] = row[last].iter().flat_map(|line| wrapped(line, room)).collect();
            let height = row.iter().map(Vec::len).max().unwrap_or(0);
            for number in 0..height {
                let mut line = String::new();
                for ((cell, width), align) in row.iter().zip(&widths).zip(&self.columns) {
                    let text = cell.get(number).map_or("", String::as_str);
                    match align {
                        Align::Left => line += &format!("{text:<width$}"),
                        Align::Right => line += &format!("{text:>width$}"),
                    }
                    line += &" ".repeat(GAP);
                }
                writeln!(f, "{}", line.trim_end())?;
            }
        }
        Ok(())
    }
}

/// A line of its own below a table, as wide as a table.
pub fn paragraph(text: &str) -> String {
    wrapped(&harmless(text), WIDTH).into_iter().map(|line| line + "\n").collect()
}

/// Lines that begin at a column, the first wrapped to so many columns in all; those after it are
/// commands, set in and never broken.
pub fn hanging(text: &str, indent: usize, columns: usize) -> String {
    let mut lines = text.split('\n').map(harmless);
    let first = lines.next().unwrap_or_default();
    let prose = wrapped(&first, columns.saturating_sub(indent + GAP).max(LEAST));
    let (margin, deeper) = (" ".repeat(indent), " ".repeat(indent + GAP));
    let prose = prose.iter().enumerate().map(|(number, line)| match number {
        0 => format!("{margin}{line}\n"),
        _ => format!("{deeper}{line}\n"),
    });
    prose.chain(lines.map(|line| format!("{deeper}{line}\n"))).collect()
}

/// Without what could steer a terminal.
pub fn harmless(line: &str) -> String {
    line.chars().filter(|c| !c.is_control() && !turns_text_around(*c)).collect()
}

/// The marks of Unicode's bidirectional text, by which a line can be made to read as another.
fn turns_text_around(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Breaks a line between words so that none is longer than `room`, but for words that are.
fn wrapped(line: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in line.split_whitespace() {
        let current = lines.last_mut().expect("it begins with one");
        let length = current.chars().count();
        if length == 0 {
            current.push_str(word);
        } else if length + 1 + word.chars().count() <= room {
            current.push(' ');
            current.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[[&str; 3]]) -> String {
        let mut table =
            Table::new(&[("NAME", Align::Left), ("N", Align::Right), ("WHY", Align::Left)]);
        rows.iter().for_each(|row| table.row(row.map(str::to_owned)));
        table.to_string()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        assert_eq!(
            table(&[["a", "1", ""], ["longer", "12345", "x y"]]),
            "NAME        N  WHY\na           1\nlonger  12345  x y\n"
        );
        assert_eq!(table(&[]), "NAME  N  WHY\n");
    }

    #[test]
    fn a_cell_of_two_lines_makes_a_row_of_two() {
        assert_eq!(table(&[["a\nb", "1", "x"]]), "NAME  N  WHY\na     1  x\nb\n");
    }

    #[test]
    fn the_last_column_is_wrapped_to_the_room_that_is_left() {
        let words = "word ".repeat(40);
        let text = table(&[["a", "1", &words]]);
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        assert_eq!(text.matches("word").count(), 40);
        // No room at all is left here.
        let text = table(&[[&"x".repeat(WIDTH), "1", "not much of a reason to be here"]]);
        assert!(text.lines().all(|line| line.len() <= WIDTH + GAP + 1 + GAP + LEAST), "{text}");
    }

    #[test]
    fn as_html_it_has_the_same_cells() {
        let mut table = Table::new(&[("NAME", Align::Left), ("N", Align::Right)]);
        table.row(["<a>\nb".to_owned(), "1".to_owned()]);
        let rows = "<tr><th>NAME<th class=n>N<tr><td>&lt;a><br>b<td class=n>1";
        assert_eq!(table.to_html(), format!("<div><table>{rows}</table></div>"));
    }

    #[test]
    fn what_could_steer_a_terminal_is_left_out() {
        let text = table(&[["\u{1b}[31mred", "1", "\r\u{7}\u{202e}x\u{2066}"]]);
        assert_eq!(text, "NAME     N  WHY\n[31mred  1  x\n");
    }
}
