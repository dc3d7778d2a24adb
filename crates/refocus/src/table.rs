//! Aligned columns of text.

use std::fmt::Write as _;

use clap::builder::styling::Style;

/// Which side of a column is even.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// Rows of cells, printed two spaces apart.
#[derive(Debug)]
pub(crate) struct Table {
    sides: Vec<Side>,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a line of headings; numbers stand on the right.
    pub(crate) fn new(columns: &[(&str, Side)]) -> Self {
        Self {
            sides: columns.iter().map(|c| c.1).collect(),
            head: columns.iter().map(|c| c.0.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Two columns without headings: names and values.
    pub(crate) fn pairs() -> Self {
        Self { sides: vec![Side::Left, Side::Left], head: Vec::new(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn pair(&mut self, name: &str, value: impl Into<String>) {
        self.row([name.to_owned(), value.into()]);
    }

    /// The lines, without spaces at their ends.
    pub(crate) fn render(&self, colour: bool) -> String {
        let all = || std::iter::once(&self.head).filter(|h| !h.is_empty()).chain(&self.rows);
        let widths: Vec<usize> = (0..self.sides.len())
            .map(|c| all().filter_map(|r| r.get(c)).map(|cell| width(cell)).max().unwrap_or(0))
            .collect();
        let mut out = String::new();
        for row in all() {
            let mut line = String::new();
            for (c, cell) in row.iter().enumerate() {
                let gap = " ".repeat(widths[c].saturating_sub(width(cell)));
                let between = if c == 0 { "" } else { "  " };
                let _ = match self.sides[c] {
                    Side::Left => write!(line, "{between}{cell}{gap}"),
                    Side::Right => write!(line, "{between}{gap}{cell}"),
                };
            }
            let head = std::ptr::eq(row, &self.head);
            let style = if colour && head { Style::new().bold() } else { Style::new() };
            let _ = writeln!(out, "{style}{}{style:#}", line.trim_end());
        }
        out
    }
}

/// Columns that a text takes on a terminal, nearly: wide characters count twice, combining ones not.
fn width(text: &str) -> usize {
    text.chars()
        .map(|c| match u32::from(c) {
            0x300..=0x36f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
            0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f => 2,
            0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd => 2,
            _ => 1,
        })
        .sum()
}

/// `1,234,567`.
pub(crate) fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(d);
    }
    out
}

/// `84.3 MB`.
pub(crate) fn bytes(n: usize) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let mut x = n as f64 / 1000.0;
    let mut unit = 0;
    while x >= 999.95 && unit + 1 < UNITS.len() {
        x /= 1000.0;
        unit += 1;
    }
    format!("{x:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_where_the_text_ends() {
        let mut t = Table::new(&[("token", Side::Left), ("logit", Side::Right)]);
        t.row(["東京".into(), "1.5".into()]);
        t.row(["a".into(), "-10.25".into()]);
        assert_eq!(t.render(false), "token   logit\n東京      1.5\na      -10.25\n");
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(grouped(134_515_008), "134,515,008");
        assert_eq!(grouped(7), "7");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(84_300_000), "84.3 MB");
    }
}
