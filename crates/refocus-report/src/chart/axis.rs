//! Scales, ticks, and how numbers are written.

/// How the numbers of an axis are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A share, as a percentage.
    Percent,
    /// As it is.
    Plain,
}

impl Format {
    /// One value, with what is needed to tell it from its neighbours.
    pub fn value(self, x: f64) -> String {
        match self {
            Self::Percent => format!("{} %", short(x * 100.0)),
            Self::Plain => short(x),
        }
    }

    /// A difference, with its sign; of percentages, in points.
    pub fn difference(self, x: f64) -> String {
        let x = if self == Self::Percent { x * 100.0 } else { x };
        let text = short(x.abs());
        let zero = text.bytes().all(|b| b == b'0' || b == b'.');
        let sign = if zero {
            ""
        } else if x < 0.0 {
            "−"
        } else {
            "+"
        };
        format!("{sign}{text}")
    }
}

/// At most three digits that matter.
fn short(x: f64) -> String {
    let a = x.abs();
    let places = if a >= 99.95 || x == 0.0 {
        0
    } else if a >= 0.995 {
        1
    } else if a >= 0.01 {
        2
    } else {
        return if a < 0.0005 { format!("{x:.0e}") } else { format!("{x:.4}") }.replace('-', "−");
    };
    format!("{x:.places$}").replace('-', "−")
}

/// A linear scale.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub(super) from: (f64, f64),
    pub(super) to: (f64, f64),
}

impl Scale {
    pub(super) fn at(&self, x: f64) -> f64 {
        let width = self.from.1 - self.from.0;
        let part = if width == 0.0 { 0.5 } else { (x - self.from.0) / width };
        self.to.0 + part * (self.to.1 - self.to.0)
    }
}

/// About `n` round numbers that cover the range; the first and the last enclose it.
pub(super) fn ticks(low: f64, high: f64, n: usize) -> Vec<f64> {
    let width = (high - low).max(1e-12);
    let raw = width / n.max(1) as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].iter().map(|m| m * power).find(|s| *s >= raw * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
    let count = (last - first).clamp(1.0, 1000.0) as usize;
    (0..=count).map(|i| (first + i as f64) * step).collect()
}

/// Smallest and largest of the numbers; 0 and 1 where there are none.
pub(super) fn range(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .into_iter()
        .filter(|x| x.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
    if low > high { (0.0, 1.0) } else { (low, high) }
}

/// Moves labels apart, as little as needed, keeping their order: each is at least `gap` below the one above.
pub(super) fn apart(wanted: &[f64], gap: f64, bottom: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    let mut placed = wanted.to_vec();
    for pair in order.windows(2) {
        placed[pair[1]] = placed[pair[1]].max(placed[pair[0]] + gap);
    }
    let mut limit = bottom;
    for i in order.into_iter().rev() {
        placed[i] = placed[i].min(limit);
        limit = placed[i] - gap;
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_enclose_the_range_with_round_numbers() {
        assert_eq!(ticks(0.0, 1.0, 4), [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert_eq!(ticks(0.0, 30.0, 6), [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0]);
        for (low, high) in [(-0.13, 0.31), (5.0, 5.0), (-2e8, 1e9), (0.0, 0.0)] {
            let t = ticks(low, high, 4);
            assert!(t[0] <= low && t[t.len() - 1] >= high && t.len() < 12, "{low} {high}: {t:?}");
        }
    }

    #[test]
    fn labels_keep_their_order_and_distance() {
        let placed = apart(&[50.0, 48.0, 51.0, 99.0], 10.0, 100.0);
        assert_eq!(placed, [58.0, 48.0, 68.0, 99.0]);
        assert_eq!(apart(&[99.0, 98.0], 10.0, 100.0), [100.0, 90.0]);
    }

    #[test]
    fn numbers_are_short_and_signed() {
        assert_eq!(Format::Percent.value(0.4249), "42.5 %");
        assert_eq!(Format::Percent.difference(-0.1), "−10.0");
        assert_eq!(Format::Percent.difference(0.000_000_1), "+1e−5");
        assert_eq!(Format::Plain.difference(0.0), "0");
        assert_eq!(Format::Plain.value(0.062), "0.06");
    }
}
