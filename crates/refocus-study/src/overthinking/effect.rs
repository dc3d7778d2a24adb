//! What an ablation does to calibrated accuracy at the last slot, with thresholds recomputed for the changed
//! model, pair by pair.

use refocus_compute::{Ops, Philox, Purpose};
use refocus_measure::calibrated;
use refocus_model::Model;
use serde::Serialize;

use super::ablate::{Ablated, Variant, ablate, ablate_stored};
use super::error::StudyError;
use super::heads::Means;
use super::measures::mean;
use super::resample::{Estimate, RESAMPLES};
use super::store::Store;
use super::work::{Asked, SettingWork, TaskWork};

const RESAMPLE: Purpose = Purpose::new("overthinking: resample pairs of tasks");

/// Ablations of the two prompts of some pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct AblatedPairs {
    /// Name of the task, for messages.
    pub task: String,
    /// By pair: the true class at the last slot.
    pub truth: Vec<u32>,
    /// The class that the false prompt suggests.
    pub shown: Vec<u32>,
    /// Prompts with true demonstrations.
    pub honest: Vec<Ablated>,
    /// With false ones.
    pub wrong: Vec<Ablated>,
}

impl AblatedPairs {
    /// Adds other pairs of the same task with the same variants.
    pub fn extend(&mut self, other: Self) {
        self.truth.extend(other.truth);
        self.shown.extend(other.shown);
        self.honest.extend(other.honest);
        self.wrong.extend(other.wrong);
    }
}

/// Runs the prompts of some pairs with every variant. With a store, blocks are kept under the name given.
/// Means are those of other pairs.
///
/// # Errors
/// As [`ablate`] and [`ablate_stored`].
#[allow(clippy::too_many_arguments)]
pub fn ablate_pairs<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    (task, setting): (&TaskWork, &SettingWork),
    subset: &[usize],
    variants: &[Variant],
    means: Option<&Means>,
    store: Option<(&Store, &str)>,
    mut tick: impl FnMut(usize, bool),
) -> Result<AblatedPairs, StudyError> {
    let pairs: Vec<_> = subset.iter().map(|&i| &setting.pairs[i]).collect();
    // Pair by pair, so that what is finished first is whole pairs.
    let prompts: Vec<&Asked> =
        pairs.iter().flat_map(|p| [&task.prompts[p.true_prompt], &task.prompts[p.false_prompt]]).collect();
    let ids = &task.label_ids;
    let got = match store {
        Some(store) => ablate_stored(o, m, &prompts, ids, variants, means, store, tick)?,
        None => ablate(o, m, &prompts, ids, variants, means, |n| tick(n, false))?,
    };
    let end = task.demos - 1;
    let mut out = AblatedPairs {
        task: task.task.clone(),
        truth: pairs.iter().map(|p| p.truth[end]).collect(),
        shown: pairs.iter().map(|p| p.shown[end]).collect(),
        honest: Vec::with_capacity(pairs.len()),
        wrong: Vec::with_capacity(pairs.len()),
    };
    for (i, a) in got.into_iter().enumerate() {
        if i % 2 == 0 { &mut out.honest } else { &mut out.wrong }.push(a);
    }
    Ok(out)
}

/// Credit of each pair for the true class, unchanged and ablated.
#[derive(Clone, Debug, PartialEq)]
pub struct Credits {
    /// True demonstrations.
    pub tp: Vec<f64>,
    /// False demonstrations.
    pub fp: Vec<f64>,
    /// True demonstrations, ablated.
    pub ablated_tp: Vec<f64>,
    /// False demonstrations, ablated.
    pub ablated_fp: Vec<f64>,
}

/// Calibrated credit of each input for its class; thresholds are those of these inputs.
pub(super) fn credits_of(pairs: &AblatedPairs, logits: &[&[f32]]) -> Result<Vec<f64>, StudyError> {
    if let Some(pair) = logits.iter().position(|l| l.iter().any(|x| x.is_nan())) {
        return Err(StudyError::Variant {
            why: format!("task {}, pair {pair}: the model gives no number", pairs.task),
        });
    }
    let q: Vec<Vec<f64>> = logits
        .iter()
        .map(|l| calibrated::shares(&l.iter().map(|x| f64::from(*x)).collect::<Vec<_>>()))
        .collect();
    let Some(t) = calibrated::thresholds(&q) else { return Ok(Vec::new()) };
    let classes: Vec<usize> = pairs.truth.iter().map(|&c| c as usize).collect();
    Ok(calibrated::credits(&q, &t, &classes))
}

impl Credits {
    /// Of one variant.
    ///
    /// # Errors
    /// The model gave no number.
    pub fn of(pairs: &AblatedPairs, variant: usize) -> Result<Self, StudyError> {
        let base = |all: &[Ablated]| credits_of(pairs, &all.iter().map(|a| &a.base[..]).collect::<Vec<_>>());
        let changed = |all: &[Ablated]| {
            credits_of(pairs, &all.iter().map(|a| &a.variants[variant][..]).collect::<Vec<_>>())
        };
        Ok(Self {
            tp: base(&pairs.honest)?,
            fp: base(&pairs.wrong)?,
            ablated_tp: changed(&pairs.honest)?,
            ablated_fp: changed(&pairs.wrong)?,
        })
    }

    fn change(&self, of: impl Fn(f64, f64) -> f64) -> Vec<f64> {
        let pairs = self.tp.iter().zip(&self.ablated_tp).zip(self.fp.iter().zip(&self.ablated_fp));
        pairs.map(|((tp, tp2), (fp, fp2))| of(tp2 - tp, fp2 - fp)).collect()
    }
}

/// What an ablation does, at the last slot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Effect {
    /// Calibrated accuracy of the unchanged model with true demonstrations.
    pub tp: f64,
    /// With false ones.
    pub fp: f64,
    /// Ablated, with true ones.
    pub ablated_tp: f64,
    /// Ablated, with false ones.
    pub ablated_fp: f64,
    /// (TP + FP)/2, ablated.
    pub ablated_balanced: f64,
    /// Ablated less unchanged, pair by pair.
    pub tp_change: Estimate,
    /// The same with false demonstrations.
    pub fp_change: Estimate,
    /// The same of the balanced score.
    pub balanced_change: Estimate,
    /// `1 − (TP − FP ablated)/(TP − FP)`, as the paper: TP is that of the unchanged model. Absent without a gap.
    pub gap_reduction: Option<f64>,
    /// `1 − (TP ablated − FP ablated)/(TP − FP)`.
    pub gap_reduction_both: Option<f64>,
    /// Pairs.
    pub pairs: usize,
}

impl Effect {
    /// Of the credits of one task.
    pub fn of(c: &Credits, seed: u64) -> Self {
        let (tp, fp) = (mean(&c.tp), mean(&c.fp));
        let (ablated_tp, ablated_fp) = (mean(&c.ablated_tp), mean(&c.ablated_fp));
        let reduction = |to: f64| (tp != fp).then(|| 1.0 - to / (tp - fp));
        Self {
            tp,
            fp,
            ablated_tp,
            ablated_fp,
            ablated_balanced: f64::midpoint(ablated_tp, ablated_fp),
            tp_change: Estimate::of(&c.change(|tp, _| tp), seed),
            fp_change: Estimate::of(&c.change(|_, fp| fp), seed),
            balanced_change: Estimate::of(&c.change(f64::midpoint), seed),
            gap_reduction: reduction(tp - ablated_fp),
            gap_reduction_both: reduction(ablated_tp - ablated_fp),
            pairs: c.tp.len(),
        }
    }
}

/// How much of the gap an ablation closes over tasks: `(FP ablated − FP)/(TP − FP)`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GapReduction {
    /// Mean rise over mean gap.
    pub ratio_of_means: Estimate,
    /// Mean of the tasks' ratios, as the paper averages; a task with a small gap dominates it.
    pub mean_of_ratios: Estimate,
}

/// Gap reduction over tasks, with intervals by resampling pairs within each task. `None` where a task has no
/// gap at all.
pub fn gap_reduction(tasks: &[&Credits], seed: u64) -> Option<GapReduction> {
    let rng = Philox::new(seed, RESAMPLE);
    let ratios = |draw: &dyn Fn(usize, usize, usize) -> usize| {
        let (mut rise, mut gap, mut ratio) = (0.0, 0.0, 0.0);
        for (t, c) in tasks.iter().enumerate() {
            let n = c.tp.len();
            let at = |x: &[f64]| (0..n).map(|i| x[draw(t, i, n)]).sum::<f64>() / n as f64;
            let (own_rise, own_gap) = (at(&c.ablated_fp) - at(&c.fp), at(&c.tp) - at(&c.fp));
            rise += own_rise;
            gap += own_gap;
            ratio += own_rise / own_gap;
        }
        (rise / gap, ratio / tasks.len() as f64)
    };
    let found = ratios(&|_, i, _| i);
    if !found.0.is_finite() || !found.1.is_finite() {
        return None;
    }
    let (mut of_means, mut of_ratios) = (Vec::new(), Vec::new());
    for r in 0..RESAMPLES {
        let draw = |t: usize, i: usize, n: usize| {
            let word = rng.at(t as u32, r, (i / 4) as u32)[i % 4];
            ((u64::from(word) * n as u64) >> 32) as usize
        };
        let one = ratios(&draw);
        of_means.push(one.0);
        of_ratios.push(one.1);
    }
    let n = tasks.iter().map(|c| c.tp.len()).sum();
    // A resample without a gap counts as infinitely far out.
    let interval = |value: f64, mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        let at = |share: f64| all[((share * f64::from(RESAMPLES)) as usize).min(all.len() - 1)];
        Estimate { value, low: at(0.025), high: at(0.975), n }
    };
    Some(GapReduction {
        ratio_of_means: interval(found.0, of_means),
        mean_of_ratios: interval(found.1, of_ratios),
    })
}

/// Mean and standard deviation over draws.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation; 0 of one draw.
    pub sd: f64,
}

impl Spread {
    /// Of some numbers; none give no number.
    pub fn of(values: &[f64]) -> Self {
        let m = mean(values);
        let n = values.len() as f64;
        let var = values.iter().map(|v| (v - m).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        Self { mean: m, sd: var.sqrt() }
    }
}

/// An ablation of chosen heads beside random ones of the same blocks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgainstRandom {
    /// Draws of random heads.
    pub draws: usize,
    /// Change of TP by draw.
    pub tp_change: Spread,
    /// Change of FP by draw.
    pub fp_change: Spread,
    /// Change of the balanced score by draw.
    pub balanced_change: Spread,
    /// Share of draws that raise FP at least as much as the chosen heads.
    pub as_good: f64,
    /// FP with the chosen heads ablated less its mean over the draws, pair by pair.
    pub fp_over_random: Estimate,
    /// The same of the balanced score.
    pub balanced_over_random: Estimate,
}

/// Compares chosen heads with random ones on the same pairs. `None` without draws.
pub fn against_random(chosen: &Credits, random: &[Credits], seed: u64) -> Option<AgainstRandom> {
    let draws = (!random.is_empty()).then_some(random.len())?;
    let by_draw = |of: fn(f64, f64) -> f64| random.iter().map(|c| mean(&c.change(of))).collect::<Vec<f64>>();
    let over = |of: fn(f64, f64) -> f64| {
        let mut own = chosen.change(of);
        for c in random {
            own.iter_mut().zip(c.change(of)).for_each(|(a, b)| *a -= b / draws as f64);
        }
        Estimate::of(&own, seed)
    };
    let fp = by_draw(|_, fp| fp);
    let mine = mean(&chosen.change(|_, fp| fp));
    Some(AgainstRandom {
        draws,
        tp_change: Spread::of(&by_draw(|tp, _| tp)),
        fp_change: Spread::of(&fp),
        balanced_change: Spread::of(&by_draw(f64::midpoint)),
        as_good: fp.iter().filter(|x| **x >= mine).count() as f64 / draws as f64,
        fp_over_random: over(|_, fp| fp),
        balanced_over_random: over(f64::midpoint),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credits(tp: f64, fp: f64, ablated_tp: f64, ablated_fp: f64) -> Credits {
        let rate = |share: f64| (0..20).map(|i| f64::from(u8::from(f64::from(i) < share * 20.0))).collect();
        Credits { tp: rate(tp), fp: rate(fp), ablated_tp: rate(ablated_tp), ablated_fp: rate(ablated_fp) }
    }

    #[test]
    fn the_papers_reduction_ignores_what_true_prompts_lose() {
        let e = Effect::of(&credits(0.8, 0.4, 0.7, 0.6), 0);
        assert!((e.gap_reduction.expect("a gap") - 0.5).abs() < 1e-12);
        assert!((e.gap_reduction_both.expect("a gap") - 0.75).abs() < 1e-12);
        assert!((e.balanced_change.value - 0.05).abs() < 1e-12);
        assert_eq!(Effect::of(&credits(0.5, 0.5, 0.5, 0.6), 0).gap_reduction, None);
    }

    #[test]
    fn a_task_with_a_small_gap_dominates_the_mean_of_ratios() {
        let (large, small) = (credits(0.9, 0.4, 0.9, 0.5), credits(0.6, 0.55, 0.6, 0.6));
        let r = gap_reduction(&[&large, &small], 5).expect("gaps");
        assert!((r.ratio_of_means.value - 0.15 / 0.55).abs() < 1e-12);
        assert!((r.mean_of_ratios.value - (0.2 + 1.0) / 2.0).abs() < 1e-12);
        assert!(
            r.ratio_of_means.low <= r.ratio_of_means.value && r.ratio_of_means.high >= r.ratio_of_means.value
        );
        assert_eq!(gap_reduction(&[&credits(0.5, 0.5, 0.5, 0.5)], 5), None);
    }

    #[test]
    fn random_heads_that_do_the_same_are_no_worse() {
        let c = credits(0.8, 0.4, 0.8, 0.6);
        let none = credits(0.8, 0.4, 0.8, 0.4);
        let r = against_random(&c, &[c.clone(), none.clone(), none.clone(), none], 3).expect("draws");
        assert_eq!((r.draws, r.as_good), (4, 0.25));
        assert!((r.fp_over_random.value - 0.15).abs() < 1e-12 && (r.fp_change.sd - 0.1).abs() < 1e-12);
        assert_eq!(against_random(&c, &[], 3), None);
    }
}
