//! A map of heads, or of queries and keys.

use super::svg::{Anchor, Svg};
use super::{Format, WIDTH};

/// Columns from left to right, rows from top to bottom. The scale has 0 in the middle: blue is above, orange
/// below.
#[derive(Clone, Debug)]
pub struct HeatMap {
    /// What it shows.
    pub title: String,
    /// The same in a sentence or two, for who cannot see it.
    pub about: String,
    /// What columns and rows are, such as layers and heads.
    pub axes: [String; 2],
    /// Number of columns and of rows.
    pub size: (usize, usize),
    /// Column, row, value; what has none stays white.
    pub cells: Vec<(usize, usize, f64)>,
    /// Unit of the values, for the scale.
    pub unit: String,
}

/// Steps of the scale on either side of 0; the page has their colours.
const STEPS: f64 = 8.0;
const LEFT: f64 = 34.0;
const TOP: f64 = 8.0;

impl HeatMap {
    /// The drawing.
    pub fn svg(&self) -> String {
        let (columns, rows) = (self.size.0.max(1), self.size.1.max(1));
        let w = (WIDTH - LEFT - 6.0) / columns as f64;
        let h = (w * 1.1).clamp(5.0, 18.0).min(300.0 / rows as f64);
        let bottom = TOP + h * rows as f64;
        let most = self.cells.iter().map(|c| c.2.abs()).fold(0.0, f64::max);
        let mut svg = Svg::new(bottom + 76.0);
        for &(column, row, value) in &self.cells {
            let at = (LEFT + w * column as f64, TOP + h * row as f64);
            let title = format!("{column}.{row}: {}", Format::Plain.difference(value));
            svg.rect(&step(value, most), at, (w - 0.5, h - 0.5), &title);
        }
        let every = |n: usize| [1, 2, 5, 10, 20, 50].into_iter().find(|e| n / e <= 12).unwrap_or(100);
        for column in (0..columns).step_by(every(columns)) {
            let x = LEFT + w * (column as f64 + 0.5);
            svg.text("tick", (x, bottom + 14.0), Anchor::Middle, &column.to_string());
        }
        for row in (0..rows).step_by(every(rows).max((11.0 / h).ceil() as usize)) {
            let y = TOP + h * (row as f64 + 0.5) + 4.0;
            svg.text("tick", (LEFT - 5.0, y), Anchor::End, &row.to_string());
        }
        let [across, down] = &self.axes;
        svg.text("label", (LEFT + w * columns as f64 / 2.0, bottom + 30.0), Anchor::Middle, across);
        svg.upright("label", (11.0, TOP + (bottom - TOP) / 2.0), down);
        // The scale.
        let (y, cell) = (bottom + 44.0, 11.0);
        let from = WIDTH / 2.0 - cell * (STEPS + 0.5);
        for i in 0..=(2 * STEPS as usize) {
            let part = i as f64 / STEPS - 1.0;
            let value = part * most;
            let at = (from + cell * i as f64, y);
            svg.rect(&step(value, most), at, (cell, 9.0), &Format::Plain.difference(value));
        }
        let ends = [(0.0, -most), (STEPS + 0.5, 0.0), (2.0 * STEPS + 1.0, most)];
        for (i, value) in ends {
            let x = from + cell * i;
            svg.text("tick", (x, y + 22.0), Anchor::Middle, &Format::Plain.difference(value));
        }
        svg.text("tick", (from + cell * (2.0 * STEPS + 1.0) + 26.0, y + 9.0), Anchor::Start, &self.unit);
        svg.finish(&self.title, &self.about)
    }
}

/// The class of a value's colour.
fn step(value: f64, most: f64) -> String {
    let part = if most > 0.0 { (value / most * STEPS).round() } else { 0.0 };
    if part > 0.0 {
        format!("p{part}")
    } else if part < 0.0 {
        format!("n{}", -part)
    } else {
        "z".to_owned()
    }
}
