//! Values with their intervals, one row each.

use super::axis::{Scale, range, ticks};
use super::line::tick;
use super::svg::{Anchor, Svg};
use super::{Format, Tone, WIDTH};

/// A value with its interval.
#[derive(Clone, Copy, Debug)]
pub struct Dot {
    /// Its colour, which the chart's legend names.
    pub tone: Tone,
    /// The value.
    pub value: f64,
    /// Its interval.
    pub interval: Option<(f64, f64)>,
}

/// What stands beside a name.
#[derive(Clone, Debug)]
pub struct DotRow {
    /// The name.
    pub name: String,
    /// Its values.
    pub dots: Vec<Dot>,
}

/// Before and after, or several mitigations.
#[derive(Clone, Debug)]
pub struct DotChart {
    /// What it shows.
    pub title: String,
    /// The same in a sentence or two, for who cannot see it.
    pub about: String,
    /// Name and unit of the axis.
    pub x: String,
    /// How its numbers are written.
    pub format: Format,
    /// What the colours stand for.
    pub legend: Vec<(Tone, String)>,
    /// The rows, from top to bottom.
    pub rows: Vec<DotRow>,
    /// Whether 0 belongs on the axis, as for differences.
    pub zero: bool,
}

const TOP: f64 = 30.0;
const RIGHT: f64 = WIDTH - 12.0;
/// Between the values of one row, and between rows.
const STEP: f64 = 13.0;
const GAP: f64 = 12.0;

impl DotChart {
    /// The drawing.
    pub fn svg(&self) -> String {
        let longest = self.rows.iter().map(|r| r.name.chars().count()).max().unwrap_or(0);
        let left = (longest as f64 * 6.4 + 14.0).clamp(60.0, 170.0);
        let values = self.rows.iter().flat_map(|r| &r.dots).flat_map(|d| {
            let (low, high) = d.interval.unwrap_or((d.value, d.value));
            [low, d.value, high]
        });
        let (low, high) = range(values.chain(self.zero.then_some(0.0)));
        let marks = ticks(low, high, 5);
        let x = Scale { from: (marks[0], marks[marks.len() - 1]), to: (left, RIGHT) };
        let each = self.rows.iter().map(|r| r.dots.len().max(1)).max().unwrap_or(1) as f64;
        let height = STEP * each + GAP;
        let bottom = TOP + height * self.rows.len() as f64;
        let mut svg = Svg::new(bottom + 44.0);
        let mut at = left;
        for (tone, name) in &self.legend {
            svg.circle(&format!("dot {}", tone.class()), (at + 4.0, 10.0), 4.0, name);
            svg.text(&format!("name {}", tone.class()), (at + 13.0, 14.0), Anchor::Start, name);
            at += 13.0 + 6.8 * name.chars().count() as f64 + 14.0;
        }
        for t in &marks {
            let class = if self.zero && *t == 0.0 { "axis" } else { "grid" };
            svg.line(class, (x.at(*t), TOP - 6.0), (x.at(*t), bottom));
            svg.text("tick", (x.at(*t), bottom + 15.0), Anchor::Middle, &tick(self.format, *t));
        }
        svg.text("label", (f64::midpoint(left, RIGHT), bottom + 34.0), Anchor::Middle, &self.x);
        for (i, row) in self.rows.iter().enumerate() {
            let middle = TOP + height * i as f64 + (height - GAP) / 2.0;
            let name = shortened(&row.name, ((left - 10.0) / 6.2) as usize);
            svg.text("rowname", (left - 8.0, middle + 4.0), Anchor::End, &name);
            let first = middle - STEP * (row.dots.len().max(1) - 1) as f64 / 2.0;
            for (j, d) in row.dots.iter().enumerate() {
                let y = first + STEP * j as f64;
                let class = d.tone.class();
                let mut title = format!("{}: {}", row.name, self.number(d.value));
                if let Some((low, high)) = d.interval {
                    svg.line(&format!("whisker {class}"), (x.at(low), y), (x.at(high), y));
                    title += &format!(" ({} to {})", self.number(low), self.number(high));
                }
                svg.circle(&format!("dot {class}"), (x.at(d.value), y), 4.0, &title);
            }
        }
        svg.finish(&self.title, &self.about)
    }

    fn number(&self, x: f64) -> String {
        if self.zero { self.format.difference(x) } else { self.format.value(x) }
    }
}

/// At most so many characters.
pub(super) fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}
