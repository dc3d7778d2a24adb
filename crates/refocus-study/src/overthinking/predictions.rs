//! What the model predicts: the true class, the one that the false demonstrations suggest, or another, and
//! whether it is what it would say without demonstrations.

use refocus_measure::calibrated::thresholds;
use serde::Serialize;

use super::error::StudyError;
use super::measures::Pairs;
use super::resample::Estimate;
use super::work::Kind;

/// Shares of pairs, each `[layers][slots]`. On a false prompt the three shares add up to 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shares {
    /// The true class, with true demonstrations.
    pub true_on_true: Vec<Vec<f64>>,
    /// The true class, with false ones.
    pub true_on_false: Vec<Vec<f64>>,
    /// The class shown there, where it is not the true one.
    pub shown_on_false: Vec<Vec<f64>>,
    /// Neither.
    pub other_on_false: Vec<Vec<f64>>,
}

/// Shares of pairs whose prediction is the one that the last layer gives to the same text without
/// demonstrations, each `[layers][slots]` with the slots `slots`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Slots whose texts were asked alone: so many demonstrations were seen.
    pub slots: Vec<u32>,
    /// With true demonstrations.
    pub on_true: Vec<Vec<f64>>,
    /// With false ones.
    pub on_false: Vec<Vec<f64>>,
}

/// Predictions of one task and setting.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Predictions {
    /// The label with the most probability.
    pub plain: Shares,
    /// The label that is furthest above its threshold, as a ratio.
    pub calibrated: Shares,
    /// Of plain predictions; absent where no text was asked alone.
    pub agreement: Option<Agreement>,
}

/// What false demonstrations do to the answers of the last layer at the last slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Behaviour {
    /// Accuracy is above chance, and no worse than with true demonstrations by more than the noise.
    Resists,
    /// Accuracy is above chance, but worse.
    Wavers,
    /// The interval of accuracy includes chance.
    Guesses,
    /// It lies below chance.
    Errs,
}

impl Behaviour {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Resists => "resists",
            Self::Wavers => "wavers",
            Self::Guesses => "guesses",
            Self::Errs => "errs",
        }
    }

    /// From calibrated accuracy on false prompts, the gap, and chance.
    pub(super) fn of(fp: &Estimate, gap: &Estimate, chance: f64) -> Self {
        if fp.high < chance {
            Self::Errs
        } else if fp.low <= chance {
            Self::Guesses
        } else if gap.low > 0.0 {
            Self::Wavers
        } else {
            Self::Resists
        }
    }
}

/// Index of the largest, the first of equals.
fn argmax(values: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, v) in values.enumerate() {
        if v > best.1 {
            best = (i, v);
        }
    }
    best.0
}

/// A label's share over its threshold; the guard stands for shares too small for a number.
fn over(q: f64, threshold: f64) -> f64 {
    (q + f64::MIN_POSITIVE) / (threshold + f64::MIN_POSITIVE)
}

/// What one layer predicts at one slot, by pair: plain and calibrated.
fn predicted(
    pairs: &Pairs<'_>,
    kind: Kind,
    layer: usize,
    slot: usize,
) -> Result<(Vec<usize>, Vec<usize>), StudyError> {
    let q = pairs.shares(&pairs.all(), kind, layer, slot)?;
    let plain = q.iter().map(|q| argmax(q.iter().copied())).collect();
    let Some(t) = thresholds(&q) else { return Ok((plain, Vec::new())) };
    let calibrated = q.iter().map(|q| argmax(q.iter().zip(&t).map(|(q, t)| over(*q, *t)))).collect();
    Ok((plain, calibrated))
}

impl Shares {
    fn empty(layers: usize) -> Self {
        let rows = || vec![Vec::new(); layers];
        Self { true_on_true: rows(), true_on_false: rows(), shown_on_false: rows(), other_on_false: rows() }
    }

    fn add(&mut self, pairs: &Pairs<'_>, layer: usize, slot: usize, on_true: &[usize], on_false: &[usize]) {
        let n = pairs.setting.pairs.len() as f64;
        let (mut honest, mut right, mut shown) = (0u32, 0u32, 0u32);
        for ((pair, t), f) in pairs.setting.pairs.iter().zip(on_true).zip(on_false) {
            let (truth, wrong) = (pair.truth[slot] as usize, pair.shown[slot] as usize);
            honest += u32::from(*t == truth);
            right += u32::from(*f == truth);
            shown += u32::from(*f == wrong && wrong != truth);
        }
        let share = |count: u32| f64::from(count) / n;
        self.true_on_true[layer].push(share(honest));
        self.true_on_false[layer].push(share(right));
        self.shown_on_false[layer].push(share(shown));
        self.other_on_false[layer].push((n - f64::from(right + shown)) / n);
    }
}

/// Predictions of all layers at all slots.
///
/// # Errors
/// The model gave no number somewhere.
pub fn predictions(pairs: &Pairs<'_>) -> Result<Predictions, StudyError> {
    let layers = pairs.layers();
    let (mut plain, mut calibrated) = (Shares::empty(layers), Shares::empty(layers));
    let slots = &pairs.task.alone_slots;
    // By slot asked alone, then by pair.
    let alone: Option<Vec<Vec<usize>>> = (0..slots.len())
        .map(|which| {
            let one =
                |pair: usize| Some(argmax(pairs.alone(pair, which)?.logits(pairs.last(), 0).map(f64::from)));
            pairs.all().into_iter().map(one).collect()
        })
        .collect();
    let alone = alone.filter(|a| !a.is_empty());
    let rows = || vec![Vec::new(); layers];
    let mut agreement =
        alone.as_ref().map(|_| Agreement { slots: slots.clone(), on_true: rows(), on_false: rows() });
    for layer in 0..layers {
        for slot in 0..pairs.task.demos {
            let (plain_true, calibrated_true) = predicted(pairs, Kind::True, layer, slot)?;
            let (plain_false, calibrated_false) = predicted(pairs, Kind::False, layer, slot)?;
            plain.add(pairs, layer, slot, &plain_true, &plain_false);
            calibrated.add(pairs, layer, slot, &calibrated_true, &calibrated_false);
            let which = slots.iter().position(|s| *s as usize == slot);
            if let (Some(agreement), Some(alone), Some(which)) = (&mut agreement, &alone, which) {
                let same = |now: &[usize]| {
                    let equal = now.iter().zip(&alone[which]).filter(|(a, b)| a == b).count();
                    equal as f64 / now.len() as f64
                };
                agreement.on_true[layer].push(same(&plain_true));
                agreement.on_false[layer].push(same(&plain_false));
            }
        }
    }
    Ok(Predictions { plain, calibrated, agreement })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_does_with_random_labels_has_a_word() {
        let e = |low: f64, high: f64| Estimate { value: f64::midpoint(low, high), low, high, n: 9 };
        let of = |fp, gap| Behaviour::of(&fp, &gap, 0.5);
        assert_eq!(of(e(0.6, 0.8), e(-0.1, 0.1)), Behaviour::Resists);
        assert_eq!(of(e(0.6, 0.8), e(0.1, 0.2)), Behaviour::Wavers);
        assert_eq!(of(e(0.45, 0.6), e(0.1, 0.2)), Behaviour::Guesses);
        assert_eq!(of(e(0.1, 0.4), e(0.1, 0.2)), Behaviour::Errs);
    }

    #[test]
    fn a_share_that_underflows_is_no_prediction() {
        assert_eq!(argmax([over(0.0, 0.0), over(0.6, 0.5)].into_iter()), 1);
        assert_eq!(argmax([0.5, 0.5].into_iter()), 0);
    }
}
