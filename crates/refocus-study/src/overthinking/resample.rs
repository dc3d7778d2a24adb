//! Intervals by resampling pairs (the percentile bootstrap; Efron, "Bootstrap methods: another look at the
//! jackknife", Annals of Statistics 7, 1979), and paired tests by flipping signs (Fisher, "The design of
//! experiments", 1935, section 21; the `+1` of Phipson & Smyth, Stat. Appl. Genet. Mol. Biol. 9, 2010).
//!
//! Pairs of several tasks are resampled within each task: the tasks are those that were chosen, not a sample.

use refocus_compute::{Philox, Purpose};
use serde::{Deserialize, Deserializer, Serialize};

use super::measures::mean;

/// Resamples of an interval.
pub(super) const RESAMPLES: u32 = 2000;
/// Sign patterns of a test.
const FLIPS: u32 = 9999;
const RESAMPLE: Purpose = Purpose::new("overthinking: resample");
const FLIP: Purpose = Purpose::new("overthinking: flip signs");

/// A number with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// As measured.
    #[serde(deserialize_with = "or_nan")]
    pub value: f64,
    /// Lower end.
    #[serde(deserialize_with = "or_nan")]
    pub low: f64,
    /// Upper end.
    #[serde(deserialize_with = "or_nan")]
    pub high: f64,
    /// Pairs.
    pub n: usize,
}

/// What is no number is written as `null`.
fn or_nan<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or(f64::NAN))
}

/// One number for each pair of a task, and how much the task counts; weights sum to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Stratum {
    /// How much it counts.
    pub weight: f64,
    /// By pair.
    pub values: Vec<f64>,
}

/// The weighted mean of the tasks' means.
pub(super) fn weighted(strata: &[Stratum]) -> f64 {
    strata.iter().map(|s| s.weight * mean(&s.values)).sum()
}

impl Estimate {
    /// The mean of one number a pair. Resample number r draws the same pairs whatever is measured, so
    /// intervals of one run belong together.
    pub fn of(values: &[f64], seed: u64) -> Self {
        Self::statistic(&[values.len()], seed, |drawn| at(values, &drawn[0]), mean(values))
    }

    /// The mean over tasks.
    pub fn stratified(strata: &[Stratum], seed: u64) -> Self {
        let sizes: Vec<usize> = strata.iter().map(|s| s.values.len()).collect();
        let one = |drawn: &[Vec<usize>]| {
            strata.iter().zip(drawn).map(|(s, d)| s.weight * at(&s.values, d)).sum::<f64>()
        };
        Self::statistic(&sizes, seed, one, weighted(strata))
    }

    /// Any number of resampled pairs; `sizes` are the tasks' pairs, `stat` gets the drawn pairs of each.
    pub(crate) fn statistic(
        sizes: &[usize],
        seed: u64,
        mut stat: impl FnMut(&[Vec<usize>]) -> f64,
        value: f64,
    ) -> Self {
        let mut all = Vec::with_capacity(RESAMPLES as usize);
        resampled(sizes, seed, |drawn| all.push(stat(drawn)));
        let (low, high) = ends(&mut all);
        Self { value, low, high, n: sizes.iter().sum() }
    }
}

fn at(values: &[f64], drawn: &[usize]) -> f64 {
    drawn.iter().map(|&i| values[i]).sum::<f64>() / drawn.len() as f64
}

/// Draws as many pairs as each task has, with replacement, and again.
pub(crate) fn resampled(sizes: &[usize], seed: u64, mut each: impl FnMut(&[Vec<usize>])) {
    let rng = Philox::new(seed, RESAMPLE);
    let mut drawn: Vec<Vec<usize>> = sizes.iter().map(|&n| vec![0; n]).collect();
    for r in 0..RESAMPLES {
        for (s, (&n, drawn)) in sizes.iter().zip(&mut drawn).enumerate() {
            for (i, four) in drawn.chunks_mut(4).enumerate() {
                let words = rng.at(s as u32, r, i as u32);
                for (x, word) in four.iter_mut().zip(words) {
                    *x = ((u64::from(word) * n as u64) >> 32) as usize;
                }
            }
        }
        each(&drawn);
    }
}

/// Where the middle 95 % of these numbers begin and end.
pub(crate) fn ends(all: &mut [f64]) -> (f64, f64) {
    all.sort_by(f64::total_cmp);
    let at =
        |share: f64| all.get(((share * all.len() as f64) as usize).min(all.len().saturating_sub(1))).copied();
    (at(0.025).unwrap_or(f64::NAN), at(0.975).unwrap_or(f64::NAN))
}

/// How likely a mean as far from 0 is where each pair's difference is as likely to point the other way.
/// Two-sided; `1/10 000` at least, and 1 where no pair differs.
pub fn sign_flip(strata: &[Stratum], seed: u64) -> f64 {
    let parts: Vec<f64> = strata
        .iter()
        .flat_map(|s| s.values.iter().map(|v| s.weight * v / s.values.len() as f64))
        .filter(|v| *v != 0.0)
        .collect();
    if parts.is_empty() {
        return 1.0;
    }
    // Sums of the same numbers in another order are equal here.
    let found = parts.iter().sum::<f64>().abs() - 1e-12;
    let rng = Philox::new(seed, FLIP);
    let mut as_far = 0;
    for flip in 0..FLIPS {
        let mut sum = 0.0;
        for (i, part) in parts.chunks(128).enumerate() {
            let words = rng.at(0, flip, i as u32);
            for (j, v) in part.iter().enumerate() {
                sum += if words[j / 32] >> (j % 32) & 1 == 0 { *v } else { -*v };
            }
        }
        as_far += u32::from(sum.abs() >= found);
    }
    f64::from(as_far + 1) / f64::from(FLIPS + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(values: Vec<f64>) -> Vec<Stratum> {
        vec![Stratum { weight: 1.0, values }]
    }

    #[test]
    fn an_interval_of_many_is_nearly_the_normal_one() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let e = Estimate::of(&values, 3);
        let half = 1.96 * 0.5 / 20.0;
        assert_eq!((e.value, e.n), (0.5, 400));
        assert!((e.low - (0.5 - half)).abs() < 0.006 && (e.high - (0.5 + half)).abs() < 0.006, "{e:?}");
        assert_eq!(e, Estimate::of(&values, 3));
        assert_ne!(e, Estimate::of(&values, 4));
        assert_eq!(e, Estimate::stratified(&one(values), 3));
    }

    #[test]
    fn what_never_varies_is_certain() {
        assert_eq!(Estimate::of(&[0.25; 7], 0), Estimate { value: 0.25, low: 0.25, high: 0.25, n: 7 });
    }

    #[test]
    fn tasks_are_resampled_each_by_itself() {
        // Two tasks that differ, each without spread: a mean over both is certain.
        let half = |v: f64| Stratum { weight: 0.5, values: vec![v; 20] };
        let e = Estimate::stratified(&[half(0.0), half(1.0)], 0);
        assert_eq!((e.value, e.low, e.high, e.n), (0.5, 0.5, 0.5, 40));
    }

    #[test]
    fn flipped_signs_give_the_binomial_test() {
        // Eight pairs of eight point one way: 2 of 256 sign patterns are as far.
        let p = sign_flip(&one(vec![1.0; 8]), 1);
        assert!((p - 2.0 / 256.0).abs() < 0.003, "{p}");
        assert_eq!(sign_flip(&one(vec![0.0; 9]), 1), 1.0);
        assert!(sign_flip(&one(vec![1.0, -1.0, 1.0, -1.0]), 1) > 0.99);
        // What does not differ changes nothing.
        let more: Vec<f64> = [1.0; 8].into_iter().chain([0.0; 50]).collect();
        assert!((sign_flip(&one(more), 1) - 2.0 / 256.0).abs() < 0.003);
    }
}
