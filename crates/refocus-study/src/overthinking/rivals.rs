//! Ways to answer against false context, all measured on the same pairs: no demonstrations at all, an earlier
//! layer, an answer between those with and without demonstrations (context-aware decoding of Shi et al.,
//! arXiv 2305.14739, with a negative weight), and the last layer against an earlier one (DoLa of Chuang et
//! al., arXiv 2309.03883, which expects late layers to be the more truthful ones).

use refocus_measure::calibrated::shares;
use serde::Serialize;

use super::ablate::How;
use super::effect::{Credits, gap_reduction};
use super::error::StudyError;
use super::measures::{Halves, Outcome, Pairs, mean, minus};
use super::resample::{Estimate, Stratum, sign_flip};
use super::work::Kind;

/// Weights of context-aware decoding that are tried; −1 leaves nothing of the demonstrations.
const ALPHAS: [f64; 4] = [-0.25, -0.5, -0.75, -1.0];

/// Pairs that a choice and its measurement need together.
pub(super) const FEWEST: usize = 4;

/// Something that was chosen on pairs that do not measure it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Chosen {
    /// What: `layer`, `alpha`.
    pub what: &'static str,
    /// Its value.
    pub value: f64,
    /// By which number, the highest being best.
    pub by: &'static str,
    /// `even pairs` (the first, third, …) or `all pairs`.
    pub on: &'static str,
}

/// A way to answer, against the last layer with demonstrations on the same pairs. Gains are of calibrated
/// accuracy at the last slot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mitigation {
    /// Name.
    pub name: String,
    /// `zero_shot`, `early_exit`, `cad`, `dola`, `heads`, `random_heads`, `late_attention` or `late_mlp`.
    pub family: &'static str,
    /// What stands in the place of what is ablated.
    pub how: Option<How>,
    /// In words.
    pub what: String,
    /// What was chosen for it, if anything.
    pub chosen: Option<Chosen>,
    /// `odd pairs` or `all pairs`: all numbers here are theirs.
    pub measured_on: &'static str,
    /// Calibrated accuracy with true demonstrations.
    pub tp: f64,
    /// With false ones.
    pub fp: f64,
    /// (TP + FP)/2.
    pub balanced: f64,
    /// Gain on true prompts: what it costs, where it is negative.
    pub tp_gain: Estimate,
    /// Gain on false prompts.
    pub fp_gain: Estimate,
    /// Gain of the balanced score.
    pub balanced_gain: Estimate,
    /// `1 − (TP − FP with it)/(TP − FP)`, as the paper: TP is that of the unchanged model. Absent unless the
    /// interval of the gap on these pairs lies above 0.
    pub gap_reduction: Option<Estimate>,
    /// Paired test of the gain on false prompts.
    pub p_fp: f64,
    /// The same after Holm's correction over everything that the run tries: tasks, settings, ways to answer.
    pub p_fp_holm: Option<f64>,
    /// Paired test of the balanced gain.
    pub p_balanced: f64,
    /// The same after Holm's correction.
    pub p_balanced_holm: Option<f64>,
}

/// A way to answer with what it was measured from.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// As it is shown.
    pub mitigation: Mitigation,
    /// The last layer on the same pairs.
    pub before: Outcome,
    /// This way to answer.
    pub after: Outcome,
}

impl Measured {
    /// Compares a way to answer with the last layer, pair by pair.
    pub fn of(
        (name, family, how): (&str, &'static str, Option<How>),
        what: String,
        chosen: Option<Chosen>,
        measured_on: &'static str,
        (before, after): (&Outcome, Outcome),
        seed: u64,
    ) -> Self {
        let (tp, fp) = (minus(&after.tp, &before.tp), minus(&after.fp, &before.fp));
        let balanced = minus(&after.balanced(), &before.balanced());
        let test = |values: &[f64]| sign_flip(&[Stratum { weight: 1.0, values: values.to_vec() }], seed);
        let gapped = Estimate::of(&before.gap(), seed).low > 0.0;
        let mitigation = Mitigation {
            name: name.to_owned(),
            family,
            how,
            what,
            chosen,
            measured_on,
            tp: mean(&after.tp),
            fp: mean(&after.fp),
            balanced: mean(&after.balanced()),
            tp_gain: Estimate::of(&tp, seed),
            fp_gain: Estimate::of(&fp, seed),
            balanced_gain: Estimate::of(&balanced, seed),
            gap_reduction: gapped.then(|| reduction(before, &after, seed)).flatten(),
            p_fp: test(&fp),
            p_fp_holm: None,
            p_balanced: test(&balanced),
            p_balanced_holm: None,
        };
        Self { mitigation, before: before.clone(), after }
    }
}

/// See [`Mitigation::gap_reduction`].
fn reduction(before: &Outcome, after: &Outcome, seed: u64) -> Option<Estimate> {
    let credits = Credits {
        tp: before.tp.clone(),
        fp: before.fp.clone(),
        ablated_tp: after.tp.clone(),
        ablated_fp: after.fp.clone(),
    };
    let found = gap_reduction(&[&credits], seed)?.ratio_of_means;
    // Where a resample has no gap there is no interval.
    (found.low.is_finite() && found.high.is_finite()).then_some(found)
}

/// Jensen-Shannon divergence of two distributions, in nats.
fn divergence(p: &[f64], q: &[f64]) -> f64 {
    let part = |a: f64, m: f64| if a > 0.0 { a * (a / m).ln() } else { 0.0 };
    let one = |(a, b): (&f64, &f64)| {
        let m = f64::midpoint(*a, *b);
        f64::midpoint(part(*a, m), part(*b, m))
    };
    p.iter().zip(q).map(one).sum()
}

/// The index with the largest number, the first of equals.
pub(super) fn best(scores: impl IntoIterator<Item = f64>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (i, score) in scores.into_iter().enumerate() {
        if best.is_none_or(|b| score > b.1) {
            best = Some((i, score));
        }
    }
    best.map(|b| b.0)
}

/// All rivals that these pairs allow; none with fewer than four pairs, and those that need texts without
/// demonstrations only where these were asked. `layers` are the outcomes of every layer on the pairs that
/// choose and on those that measure.
pub(super) fn rivals(
    pairs: &Pairs<'_>,
    halves: &Halves,
    (choose, measure): (&[Outcome], &[Outcome]),
    seed: u64,
) -> Result<Vec<Measured>, StudyError> {
    let last = pairs.last();
    if pairs.setting.pairs.len() < FEWEST || last == 0 {
        return Ok(Vec::new());
    }
    let before = &measure[last];
    let add = |name: &str, what: &str, chosen: Option<Chosen>, after: Outcome| {
        let family = match name {
            "context_contrast" => "cad",
            "layer_contrast" | "layer_contrast_fixed" => "dola",
            "zero_shot" => "zero_shot",
            _ => "early_exit",
        };
        Measured::of((name, family, None), what.to_owned(), chosen, halves.measured_on, (before, after), seed)
    };
    let chosen = |what: &'static str, value: f64, by| Some(Chosen { what, value, by, on: halves.chosen_on });
    let mut out = Vec::new();

    let alone: Option<Vec<Vec<f64>>> = pairs.all().into_iter().map(|p| pairs.alone_logits(p)).collect();
    if let Some(alone) = &alone {
        let after = pairs.outcome_of(&halves.measure, |pair, _| alone[pair].clone())?;
        out.push(add("zero_shot", "the last text without demonstrations", None, after));
    }
    let by_fp = best(choose[..last].iter().map(|o| mean(&o.fp))).unwrap_or(0);
    let what = "an earlier layer, the best on false prompts";
    let picked = chosen("layer", by_fp as f64, "accuracy on false prompts");
    out.push(add("early_exit", what, picked, measure[by_fp].clone()));
    let by_both = best(choose[..last].iter().map(|o| mean(&o.balanced()))).unwrap_or(0);
    let picked = chosen("layer", by_both as f64, "balanced score");
    let what = "an earlier layer, the best over both kinds of prompts";
    out.push(add("early_exit_balanced", what, picked, measure[by_both].clone()));

    if let Some(alone) = &alone {
        let at = |alpha: f64| {
            move |pair: usize, kind: Kind| -> Vec<f64> {
                let with = pairs.final_logits(pair, kind);
                with.iter().zip(&alone[pair]).map(|(w, a)| (1.0 + alpha) * w - alpha * a).collect()
            }
        };
        let mut scores = Vec::new();
        for alpha in ALPHAS {
            scores.push(mean(&pairs.outcome_of(&halves.choose, at(alpha))?.balanced()));
        }
        let alpha = ALPHAS[best(scores).unwrap_or(0)];
        let after = pairs.outcome_of(&halves.measure, at(alpha))?;
        let what = "between the answers with and without demonstrations";
        out.push(add("context_contrast", what, chosen("alpha", alpha, "balanced score"), after));
    }

    // The last layer against an earlier one: what the layers between have added counts twice.
    let against = |pair: usize, kind: Kind, layer: usize| -> Vec<f64> {
        let early = pairs.layer_logits(pair, kind, layer);
        pairs.final_logits(pair, kind).iter().zip(early).map(|(l, e)| l - e).collect()
    };
    let late = last / 2..last;
    let furthest = |pair: usize, kind: Kind| -> Vec<f64> {
        let q = shares(&pairs.final_logits(pair, kind));
        let apart = |l: usize| divergence(&q, &shares(&pairs.layer_logits(pair, kind, l)));
        let layer = late.start + best(late.clone().map(apart)).unwrap_or(0);
        against(pair, kind, layer)
    };
    let after = pairs.outcome_of(&halves.measure, furthest)?;
    let what = "the last layer against the most different one of the upper half";
    out.push(add("layer_contrast", what, None, after));
    let mut scores = Vec::new();
    for layer in 0..last {
        let o = pairs.outcome_of(&halves.choose, |pair, kind| against(pair, kind, layer))?;
        scores.push(mean(&o.balanced()));
    }
    let layer = best(scores).unwrap_or(0);
    let after = pairs.outcome_of(&halves.measure, |pair, kind| against(pair, kind, layer))?;
    let picked = chosen("layer", layer as f64, "balanced score");
    out.push(add("layer_contrast_fixed", "the last layer against one earlier layer", picked, after));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_zero_of_equals_and_ln_2_of_strangers() {
        assert_eq!(divergence(&[0.25, 0.75], &[0.25, 0.75]), 0.0);
        assert!((divergence(&[1.0, 0.0], &[0.0, 1.0]) - std::f64::consts::LN_2).abs() < 1e-15);
    }

    #[test]
    fn gains_are_paired() {
        let before = Outcome { tp: vec![1.0, 1.0, 1.0, 0.0], fp: vec![0.0; 4] };
        let after = Outcome { tp: vec![1.0, 1.0, 0.0, 0.0], fp: vec![1.0, 1.0, 1.0, 0.0] };
        let m =
            Measured::of(("x", "early_exit", None), String::new(), None, "odd pairs", (&before, after), 0)
                .mitigation;
        assert_eq!((m.tp_gain.value, m.fp_gain.value, m.balanced_gain.value), (-0.25, 0.75, 0.25));
        assert_eq!(m.gap_reduction.map(|g| g.value), Some(1.0), "a gap of 0.75, closed");
        // Three of three one way: 2 of 8 sign patterns are as far.
        assert!((m.p_fp - 0.25).abs() < 0.02, "{}", m.p_fp);
    }
}
