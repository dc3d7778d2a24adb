//! Bars, one a layer or category.

use super::axis::{Scale, range, ticks};
use super::line::tick;
use super::svg::{Anchor, Svg};
use super::{Format, Tone, WIDTH};

/// A bar for each of a few dozen things in order.
#[derive(Clone, Debug)]
pub struct BarChart {
    /// What it shows.
    pub title: String,
    /// The same in a sentence or two, for who cannot see it.
    pub about: String,
    /// Name and unit of the horizontal axis.
    pub x: String,
    /// Name and unit of the vertical axis.
    pub y: String,
    /// How its numbers are written.
    pub format: Format,
    /// Colour of the bars.
    pub tone: Tone,
    /// Name and value of each bar.
    pub bars: Vec<(String, f64)>,
}

const HEIGHT: f64 = 200.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = WIDTH - 8.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = HEIGHT - 46.0;

impl BarChart {
    /// The drawing.
    pub fn svg(&self) -> String {
        let (low, high) = range(self.bars.iter().map(|b| b.1).chain([0.0]));
        let marks = ticks(low, high, 4);
        let y = Scale { from: (marks[0], marks[marks.len() - 1]), to: (BOTTOM, TOP) };
        let n = self.bars.len().max(1);
        let w = (RIGHT - LEFT) / n as f64;
        let mut svg = Svg::new(HEIGHT);
        for t in &marks {
            svg.line(if *t == 0.0 { "axis" } else { "grid" }, (LEFT, y.at(*t)), (RIGHT, y.at(*t)));
            svg.text("tick", (LEFT - 6.0, y.at(*t) + 4.0), Anchor::End, &tick(self.format, *t));
        }
        let every = n.div_ceil(12);
        for (i, (name, value)) in self.bars.iter().enumerate() {
            let x = LEFT + w * i as f64;
            let (a, b) = (y.at(*value), y.at(0.0));
            let title = format!("{name}: {}", self.format.value(*value));
            let class = format!("bar {}", self.tone.class());
            svg.rect(&class, (x + w * 0.1, a.min(b)), (w * 0.8, (a - b).abs()), &title);
            if i % every == 0 {
                svg.text("tick", (x + w / 2.0, BOTTOM + 17.0), Anchor::Middle, name);
            }
        }
        svg.text("label", (f64::midpoint(LEFT, RIGHT), HEIGHT - 8.0), Anchor::Middle, &self.x);
        svg.upright("label", (12.0, f64::midpoint(TOP, BOTTOM)), &self.y);
        svg.finish(&self.title, &self.about)
    }
}
