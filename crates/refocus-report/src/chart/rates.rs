//! Error rates on a logarithmic axis, with a place of its own for 0.

use super::axis::Scale;
use super::dots::shortened;
use super::svg::{Anchor, Svg};
use super::{Tone, WIDTH};

/// The error rate of one trained model.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Wrong answers.
    pub errors: u64,
    /// Answers judged.
    pub of: u64,
    /// Interval of the rate.
    pub interval: Option<(f64, f64)>,
}

/// The models of one row, one a seed.
#[derive(Clone, Debug)]
pub struct RateRow {
    /// Its name.
    pub name: String,
    /// Its models.
    pub rates: Vec<Rate>,
}

/// A dot for each seed; without an error it stands on the line at the left.
#[derive(Clone, Debug)]
pub struct RateChart {
    /// What it shows.
    pub title: String,
    /// The same in a sentence or two, for who cannot see it.
    pub about: String,
    /// Colour of the dots.
    pub tone: Tone,
    /// The rows, from top to bottom.
    pub rows: Vec<RateRow>,
}

const LEFT: f64 = 150.0;
const ZERO: f64 = LEFT + 14.0;
const FIRST: f64 = LEFT + 46.0;
const RIGHT: f64 = WIDTH - 16.0;
const TOP: f64 = 14.0;
const STEP: f64 = 24.0;

impl RateChart {
    /// The drawing.
    pub fn svg(&self) -> String {
        let share = |r: &Rate| r.errors as f64 / r.of.max(1) as f64;
        let rates = || self.rows.iter().flat_map(|r| &r.rates);
        // The bound of a model without an error has to be on the axis too.
        let seen = |r: &Rate| if r.errors > 0 { Some(share(r)) } else { r.interval.map(|i| i.1) };
        let least = rates().filter_map(seen).filter(|p| *p > 1e-12).fold(1e-2, f64::min);
        let low = least.log10().floor();
        let x = Scale { from: (low, 0.0), to: (FIRST, RIGHT) };
        let place = |p: f64| x.at(p.max(10f64.powf(low)).log10());
        let bottom = TOP + STEP * self.rows.len() as f64;
        let mut svg = Svg::new(bottom + 44.0);
        svg.line("axis", (ZERO, TOP - 6.0), (ZERO, bottom));
        svg.text("tick", (ZERO, bottom + 15.0), Anchor::Middle, "0");
        let decades = (-low) as i32;
        let every = (decades / 5 + 1).max(1);
        for i in (0..=decades).step_by(every as usize) {
            let at = x.at(-f64::from(i));
            svg.line("grid", (at, TOP - 6.0), (at, bottom));
            let percent = 10f64.powi(2 - i);
            let text = if percent >= 1e-3 { format!("{percent}") } else { format!("1e−{}", i - 2) };
            svg.text("tick", (at, bottom + 15.0), Anchor::Middle, &text);
        }
        let label = "wrong reads, % (logarithmic)";
        svg.text("label", (f64::midpoint(LEFT, RIGHT), bottom + 34.0), Anchor::Middle, label);
        for (i, row) in self.rows.iter().enumerate() {
            let middle = TOP + STEP * (i as f64 + 0.5);
            svg.line("grid", (LEFT, middle + STEP / 2.0), (RIGHT, middle + STEP / 2.0));
            svg.text("rowname", (LEFT - 6.0, middle + 4.0), Anchor::End, &shortened(&row.name, 23));
            let each = (STEP - 8.0) / row.rates.len().max(1) as f64;
            for (j, rate) in row.rates.iter().enumerate() {
                let y = middle - (STEP - 8.0) / 2.0 + each * (j as f64 + 0.5);
                let class = self.tone.class();
                let at = if rate.errors == 0 { ZERO } else { place(share(rate)) };
                if let Some((low, high)) = rate.interval {
                    let from = if rate.errors == 0 { ZERO } else { place(low) };
                    svg.line(&format!("whisker thin {class}"), (from, y), (place(high), y));
                }
                let title = format!("{}: {} of {} reads wrong", row.name, rate.errors, rate.of);
                svg.circle(&format!("dot {class}"), (at, y), 3.0, &title);
            }
        }
        svg.finish(&self.title, &self.about)
    }
}
