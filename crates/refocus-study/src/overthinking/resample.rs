//! Intervals by resampling pairs (the percentile bootstrap; Efron, "Bootstrap methods: another look at the
//! jackknife", Annals of Statistics 7, 1979).

use refocus_compute::{Philox, Purpose};
use serde::Serialize;

use super::measures::mean;

/// Resamples of an interval.
pub(super) const RESAMPLES: u32 = 2000;
const RESAMPLE: Purpose = Purpose::new("overthinking: resample");

/// A mean over pairs with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Pairs.
    pub n: usize,
}

impl Estimate {
    /// The mean of one number a pair. Resample number r draws the same pairs whatever is measured, so
    /// intervals of one run belong together.
    pub fn of(values: &[f64], seed: u64) -> Self {
        let n = values.len();
        let rng = Philox::new(seed, RESAMPLE);
        let one = |r: u32| {
            let draw = |i: usize| {
                let word = rng.at(0, r, (i / 4) as u32)[i % 4];
                values[((u64::from(word) * n as u64) >> 32) as usize]
            };
            (0..n).map(draw).sum::<f64>() / n as f64
        };
        let mut means: Vec<f64> = (0..RESAMPLES).map(one).collect();
        means.sort_by(f64::total_cmp);
        let at = |share: f64| means[((share * f64::from(RESAMPLES)) as usize).min(means.len() - 1)];
        Self { value: mean(values), low: at(0.025), high: at(0.975), n }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_of_many_is_nearly_the_normal_one() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let e = Estimate::of(&values, 3);
        let half = 1.96 * 0.5 / 20.0;
        assert_eq!((e.value, e.n), (0.5, 400));
        assert!((e.low - (0.5 - half)).abs() < 0.006 && (e.high - (0.5 + half)).abs() < 0.006, "{e:?}");
        assert_eq!(e, Estimate::of(&values, 3));
        assert_ne!(e, Estimate::of(&values, 4));
    }

    #[test]
    fn what_never_varies_is_certain() {
        assert_eq!(Estimate::of(&[0.25; 7], 0), Estimate { value: 0.25, low: 0.25, high: 0.25, n: 7 });
    }
}
