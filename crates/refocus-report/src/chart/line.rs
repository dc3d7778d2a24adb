//! Lines with bands.

use super::axis::{Scale, apart, range, ticks};
use super::svg::{Anchor, Svg};
use super::{Format, Tone, WIDTH};

/// A point of a series, with its interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Where.
    pub x: f64,
    /// Its value.
    pub y: f64,
    /// Its interval, drawn as a band.
    pub band: Option<(f64, f64)>,
}

/// One line, named where it ends.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name; short, as it stands beside the line.
    pub name: String,
    /// Its colour.
    pub tone: Tone,
    /// Its points, from left to right.
    pub points: Vec<Point>,
}

/// Curves over layers, demonstrations, distances or steps.
#[derive(Clone, Debug)]
pub struct LineChart {
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
    /// Ends of the vertical axis; those of the data where nothing is said.
    pub span: Option<(f64, f64)>,
    /// The lines.
    pub series: Vec<Series>,
    /// A dashed line across with its name, such as chance.
    pub level: Option<(String, f64)>,
    /// Dashed lines upwards with their names, such as the critical layer.
    pub marks: Vec<(String, f64)>,
}

const HEIGHT: f64 = 270.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = WIDTH - 96.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = HEIGHT - 46.0;

impl LineChart {
    /// The drawing.
    pub fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|s| &s.points);
        let (low, high) = self.span.unwrap_or_else(|| {
            range(
                points()
                    .flat_map(|p| [Some(p.y), p.band.map(|b| b.0), p.band.map(|b| b.1)])
                    .flatten()
                    .chain(self.level.iter().map(|l| l.1)),
            )
        });
        let y_ticks = ticks(low, high, 5);
        let y = Scale { from: (y_ticks[0], y_ticks[y_ticks.len() - 1]), to: (BOTTOM, TOP) };
        let x_range = range(points().map(|p| p.x));
        let x = Scale { from: x_range, to: (LEFT, RIGHT) };
        let mut svg = Svg::new(HEIGHT);
        for t in &y_ticks {
            svg.line("grid", (LEFT, y.at(*t)), (RIGHT, y.at(*t)));
            svg.text("tick", (LEFT - 6.0, y.at(*t) + 4.0), Anchor::End, &tick(self.format, *t));
        }
        for t in ticks(x_range.0, x_range.1, 6).into_iter().filter(|t| *t >= x_range.0 && *t <= x_range.1) {
            svg.line("axis", (x.at(t), BOTTOM), (x.at(t), BOTTOM + 4.0));
            svg.text("tick", (x.at(t), BOTTOM + 17.0), Anchor::Middle, &tick(Format::Plain, t));
        }
        svg.line("axis", (LEFT, BOTTOM), (RIGHT, BOTTOM));
        svg.text("label", (f64::midpoint(LEFT, RIGHT), HEIGHT - 8.0), Anchor::Middle, &self.x);
        svg.upright("label", (12.0, f64::midpoint(TOP, BOTTOM)), &self.y);
        for (i, (name, at)) in self.marks.iter().enumerate() {
            let height = TOP - 4.0 - 11.0 * (i % 2) as f64;
            svg.line("mark", (x.at(*at), height + 3.0), (x.at(*at), BOTTOM));
            let right = x.at(*at) > f64::midpoint(LEFT, RIGHT) + 40.0;
            let anchor = if right { Anchor::End } else { Anchor::Start };
            svg.text("note", (x.at(*at), height), anchor, name);
        }
        for s in &self.series {
            let banded: Vec<(f64, (f64, f64))> =
                s.points.iter().filter_map(|p| p.band.map(|b| (x.at(p.x), b))).collect();
            let upper = banded.iter().map(|(px, b)| (*px, y.at(b.1)));
            let lower = banded.iter().rev().map(|(px, b)| (*px, y.at(b.0)));
            let outline: Vec<(f64, f64)> = upper.chain(lower).collect();
            if outline.len() > 3 {
                svg.path(&format!("band {}", s.tone.class()), &outline, true);
            }
        }
        if let Some((_, level)) = &self.level {
            svg.line("level", (LEFT, y.at(*level)), (RIGHT, y.at(*level)));
        }
        for s in &self.series {
            let at: Vec<(f64, f64)> = s.points.iter().map(|p| (x.at(p.x), y.at(p.y))).collect();
            svg.path(&format!("line {}", s.tone.class()), &at, false);
            if let Some(end) = at.last() {
                svg.circle(&format!("dot {}", s.tone.class()), *end, 3.0, &s.name);
            }
        }
        let ends = self.series.iter().filter_map(|s| Some((s.name.clone(), s.tone, s.points.last()?.y)));
        let level = self.level.iter().map(|(name, v)| (name.clone(), Tone::Muted, *v));
        let ends: Vec<(String, Tone, f64)> = ends.chain(level).collect();
        let wanted: Vec<f64> = ends.iter().map(|e| y.at(e.2) + 4.0).collect();
        for ((name, tone, _), at) in ends.iter().zip(apart(&wanted, 13.0, BOTTOM + 4.0)) {
            svg.text(&format!("name {}", tone.class()), (RIGHT + 8.0, at), Anchor::Start, name);
        }
        svg.finish(&self.title, &self.about)
    }
}

/// A number on an axis: whole where it is whole.
pub(super) fn tick(format: Format, x: f64) -> String {
    let x = if format == Format::Percent { x * 100.0 } else { x };
    let x = if x.abs() < 1e-9 { 0.0 } else { x };
    let rounded = (x * 1e6).round() / 1e6;
    let text = if rounded.abs() >= 1e6 { format!("{rounded:e}") } else { rounded.to_string() };
    text.replace('-', "−")
}
