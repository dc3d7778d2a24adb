//! What an MLP makes of the heads before it (claims C3 and C4).

use refocus_compute::Ops;
use refocus_measure::MeasureError;
use refocus_measure::intervals::holm;
use refocus_measure::recall::{
    Component, Fidelity, Fit, MatrixMap, Moments, Observed, Prompt, fidelity, first_order, regressors,
};
use refocus_model::Model;
use serde::{Deserialize, Deserializer, Serialize};

use super::{FEWEST, Judged, SIGNIFICANT, Saying, by_fact, over_facts, together};
use crate::Verdict;
use crate::overthinking::{Estimate, ends, resampled};

/// λ as a share of the mean diagonal.
pub const RIDGE: f64 = 1e-3;
/// Other values, to show whether the choice matters.
const OTHER_RIDGES: [f64; 3] = [1e-6, 1e-4, 1e-2];
/// Groups of facts that are left out in turn.
const FOLDS: usize = 10;
/// Resamples of the weights, each a fit: of many regressors fewer, for the time they take.
const REFITS: [usize; 2] = [2000, 200];
/// Ridges of the matrix map.
const MATRIX_RIDGES: [f64; 5] = [1e-4, 1e-3, 1e-2, 1e-1, 1.0];
/// Step of the first order.
const STEP: f32 = 0.1;

const NO_R2: &str = "R² is no number: what the MLP writes does not vary";

const C4: Saying = Saying {
    id: "C4",
    claim: "an MLP's output is a linear regression on head outputs with one intercept",
    control: "outputs exchanged between facts, and the mean alone",
};
const C3: Saying = Saying {
    id: "C3",
    claim: "the MLP's output holds a scaled copy of each head's output: heads are erased or amplified",
    control: "a weight of 0",
};

/// A regressor's weight. Its gain after the MLP is `1 + weight`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weight {
    /// `9.8`, `mlp 3`, `embedding`, `rest 9`.
    pub part: String,
    /// Whether it is a head.
    pub is_head: bool,
    /// With its interval over facts; absent for what does not vary over the prompts.
    pub weight: Option<Estimate>,
    /// Probability that a resample points the other way, two-sided, after Holm's correction over the heads; of heads
    /// beside the rest of the stream alone.
    pub p: Option<f64>,
}

/// The regression of one MLP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerFit {
    /// Block.
    pub layer: usize,
    /// On everything before it, or on the heads before it and the rest.
    pub cumulative: bool,
    /// Centred R² on facts that were left out.
    pub r2: Estimate,
    /// The same with other ridges than [`RIDGE`], each beside it.
    #[serde(deserialize_with = "or_nans")]
    pub r2_by_ridge: Vec<(f64, f64)>,
    /// Centred R² on wordings that were left out; absent with one wording.
    pub r2_templates: Option<f64>,
    /// Centred R² on left-out facts with what the MLP writes exchanged between facts of the same wording.
    #[serde(deserialize_with = "or_nan")]
    pub r2_permuted: f64,
    /// Centred R² on left-out facts of the intercept alone.
    #[serde(deserialize_with = "or_nan")]
    pub r2_intercept: f64,
    /// The same about 0: what an uncentred R² would credit to the intercept.
    #[serde(deserialize_with = "or_nan")]
    pub r2_intercept_uncentred: f64,
    /// Centred R² on left-out facts of a matrix a regressor, with the best of several ridges: what a matrix for each
    /// regressor, learned from the other facts, gives; with fewer facts it is lower.
    #[serde(deserialize_with = "or_nan")]
    pub r2_matrix: f64,
    /// The same with outputs exchanged.
    #[serde(deserialize_with = "or_nan")]
    pub r2_matrix_permuted: f64,
    /// Centred R² of the MLP's Jacobian at the mean of what it reads.
    #[serde(deserialize_with = "or_nan")]
    pub r2_first_order: f64,
    /// Condition number of the regressors' correlation matrix; absent where infinite.
    pub condition: Option<f64>,
    /// In the order of the regressors.
    pub weights: Vec<Weight>,
    /// With the MLP replaced by its reconstruction from other facts.
    pub reconstructed: Replaced,
    /// With the MLP replaced by its mean over other facts.
    pub mean_alone: Replaced,
    /// By how many nats the reconstruction is nearer to the model than the mean.
    pub kl_gain: Estimate,
    /// Probability that chance alone makes them differ as much.
    pub p_kl_gain: f64,
}

/// What is no number is written as `null`.
fn or_nan<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or(f64::NAN))
}

/// The same of numbers beside others.
fn or_nans<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<(f64, f64)>, D::Error> {
    let all = Vec::<(f64, Option<f64>)>::deserialize(d)?;
    Ok(all.into_iter().map(|(a, b)| (a, b.unwrap_or(f64::NAN))).collect())
}

/// What a replacement of the MLP at the last token costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replaced {
    /// Divergence (nats) of the next token from the model's.
    pub kl: Estimate,
    /// Change of the answer's probability.
    pub prob: Estimate,
}

/// Fits the MLP of a block, judges the fit on facts and wordings left out, and puts it in the MLP's place.
///
/// # Errors
/// Fewer than two facts; no such block; what the forward pass reports.
#[allow(clippy::too_many_arguments)]
pub fn layer_fit<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    seen: &Observed,
    partners: &[usize],
    (layer, cumulative): (usize, bool),
    seed: u64,
) -> Result<LayerFit, MeasureError> {
    let (d, n) = (m.spec.d_model, prompts.len());
    if seen.n != n || partners.len() != n || partners.iter().any(|&p| p >= n) {
        return Err(MeasureError::Observed { prompts: n, seen: seen.n });
    }
    let parts = regressors(o, m, seen, layer, cumulative)?;
    let rows: Vec<&[f32]> = parts.iter().map(|p| p.1.as_slice()).collect();
    let target = &seen.blocks[layer].mlp_out;
    let own = Folded::of(&rows, target, prompts)?;
    let alone = Folded::of(&[], target, prompts)?;
    let exchanged = exchanged(target, partners, d);
    let zero: f64 = own.moments.totals().iter().map(|t| t.1).sum();
    let mut r2_by_ridge = Vec::new();
    for ridge in OTHER_RIDGES {
        r2_by_ridge
            .push((ridge, own.share(&held_out(&own.moments, &own.moments.folds(own.folds(), ridge)?))));
    }
    let map = MatrixMap::of(&rows, target, prompts.iter().map(|p| p.fact))?;
    let best = |map: &MatrixMap, of: &Folded| -> Result<f64, MeasureError> {
        let mut best = f64::NEG_INFINITY;
        for ridge in MATRIX_RIDGES {
            best = best.max(of.share(&map.held_out(of.folds(), ridge)?));
        }
        Ok(best)
    };
    let permuted = Folded::of(&rows, &exchanged, prompts)?;
    let near = first_order(o, m, seen, layer, STEP)?;
    let off = near.iter().zip(target).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();

    let whole = own.moments.fit(&own.moments.without(|_| false), RIDGE)?;
    let closer = Closer::of(o, m, prompts, seen, layer, (&own, &alone, &rows))?;
    Ok(LayerFit {
        layer,
        cumulative,
        r2: own.r2(seed),
        r2_by_ridge,
        r2_templates: wordings(prompts, &rows, target)?,
        r2_permuted: permuted.share(&permuted.errors),
        r2_intercept: alone.share(&alone.errors),
        r2_intercept_uncentred: 1.0 - alone.errors.iter().sum::<f64>() / zero,
        r2_matrix: best(&map, &own)?,
        r2_matrix_permuted: best(&map.with_target(&exchanged)?, &permuted)?,
        r2_first_order: 1.0 - off / own.about.iter().sum::<f64>(),
        condition: Some(own.moments.condition()?).filter(|c| c.is_finite()),
        weights: weights(&parts, &own.moments, &whole, (cumulative, seed)),
        reconstructed: replaced(prompts, &closer.rebuilt, seed),
        mean_alone: replaced(prompts, &closer.mean, seed),
        p_kl_gain: together(std::slice::from_ref(&closer.gain), seed)[0],
        kl_gain: Estimate::of(&closer.gain, seed),
    })
}

/// The cumulative regression of an MLP in short.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShortFit {
    /// Centred R² on facts that were left out.
    pub r2: Estimate,
    /// The same with outputs exchanged between facts.
    #[serde(deserialize_with = "or_nan")]
    pub r2_permuted: f64,
    /// By how many nats the reconstruction is nearer to the model than the mean.
    pub kl_gain: Estimate,
}

/// Fits the MLP of a block on everything before it, as [`layer_fit`] does.
///
/// # Errors
/// As [`layer_fit`].
pub(super) fn short_fit<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    seen: &Observed,
    partners: &[usize],
    layer: usize,
    seed: u64,
) -> Result<ShortFit, MeasureError> {
    let parts = regressors(o, m, seen, layer, true)?;
    let rows: Vec<&[f32]> = parts.iter().map(|p| p.1.as_slice()).collect();
    let target = &seen.blocks[layer].mlp_out;
    let (own, alone) = (Folded::of(&rows, target, prompts)?, Folded::of(&[], target, prompts)?);
    let permuted = Folded::of(&rows, &exchanged(target, partners, m.spec.d_model), prompts)?;
    let closer = Closer::of(o, m, prompts, seen, layer, (&own, &alone, &rows))?;
    Ok(ShortFit {
        r2: own.r2(seed),
        r2_permuted: permuted.share(&permuted.errors),
        kl_gain: Estimate::of(&closer.gain, seed),
    })
}

/// A regression with its fits on all but some facts.
struct Folded {
    moments: Moments,
    fits: Vec<Fit>,
    /// Squared errors by fact, each of the fit that was made without it.
    errors: Vec<f64>,
    /// Squares about the mean by fact.
    about: Vec<f64>,
}

impl Folded {
    fn of(rows: &[&[f32]], target: &[f32], prompts: &[Prompt]) -> Result<Self, MeasureError> {
        let moments = Moments::of(rows, target, prompts.iter().map(|p| p.fact))?;
        let fits = moments.folds(FOLDS.min(moments.clusters()), RIDGE)?;
        let errors = held_out(&moments, &fits);
        let about = moments.totals().iter().map(|t| t.0).collect();
        Ok(Self { moments, fits, errors, about })
    }

    fn folds(&self) -> usize {
        self.fits.len()
    }

    /// R² of these errors.
    fn share(&self, errors: &[f64]) -> f64 {
        1.0 - errors.iter().sum::<f64>() / self.about.iter().sum::<f64>()
    }

    fn r2(&self, seed: u64) -> Estimate {
        let of = |drawn: &[usize]| {
            let sum = |v: &[f64]| drawn.iter().map(|&k| v[k]).sum::<f64>();
            1.0 - sum(&self.errors) / sum(&self.about)
        };
        Estimate::statistic(&[self.about.len()], seed, |d| of(&d[0]), self.share(&self.errors))
    }
}

/// The model with what the regression rebuilds from other facts, and with their mean.
struct Closer {
    rebuilt: Vec<Fidelity>,
    mean: Vec<Fidelity>,
    /// By fact, in nats.
    gain: Vec<f64>,
}

impl Closer {
    fn of<O: Ops>(
        o: &mut O,
        m: &Model<O::K>,
        prompts: &[Prompt],
        seen: &Observed,
        layer: usize,
        (own, alone, rows): (&Folded, &Folded, &[&[f32]]),
    ) -> Result<Self, MeasureError> {
        let (d, n) = (m.spec.d_model, prompts.len());
        let rebuilt = left_out(&own.moments, &own.fits, n, |fit, i| {
            fit.predict(rows.iter().map(|r| &r[i * d..(i + 1) * d]))
        });
        let mean = left_out(&alone.moments, &alone.fits, n, |fit, _| fit.predict(std::iter::empty()));
        let rebuilt = fidelity(o, m, prompts, seen, layer, &rebuilt)?;
        let mean = fidelity(o, m, prompts, seen, layer, &mean)?;
        let gain = by_fact(prompts, mean.iter().zip(&rebuilt).map(|(a, b)| Some(a.kl - b.kl)));
        Ok(Self { rebuilt, mean, gain })
    }
}

/// What each prompt's partner's MLP writes.
fn exchanged(target: &[f32], partners: &[usize], d: usize) -> Vec<f32> {
    partners.iter().flat_map(|&p| target[p * d..(p + 1) * d].iter().copied()).collect()
}

/// Squared errors by cluster, each of the fit that was made without it.
fn held_out(moments: &Moments, fits: &[Fit]) -> Vec<f64> {
    let all: Vec<Vec<f64>> = fits.iter().map(|f| moments.errors(f)).collect();
    (0..moments.clusters()).map(|k| all[k % fits.len()][k]).collect()
}

/// Rows `[prompts, d]`, each of the fit that was made without the prompt's cluster.
fn left_out(moments: &Moments, fits: &[Fit], n: usize, row: impl Fn(&Fit, usize) -> Vec<f32>) -> Vec<f32> {
    (0..n).flat_map(|i| row(&fits[moments.cluster_of(i) % fits.len()], i)).collect()
}

fn wordings(prompts: &[Prompt], rows: &[&[f32]], target: &[f32]) -> Result<Option<f64>, MeasureError> {
    let mut all: Vec<usize> = prompts.iter().map(|p| p.template).collect();
    all.sort_unstable();
    all.dedup();
    // One is left out, and a fit needs two.
    if all.len() < 3 {
        return Ok(None);
    }
    let moments = Moments::of(rows, target, prompts.iter().map(|p| p.template))?;
    let errors: f64 = held_out(&moments, &moments.folds(moments.clusters(), RIDGE)?).iter().sum();
    let total: f64 = moments.totals().iter().map(|t| t.0).sum();
    Ok(Some(1.0 - errors / total))
}

fn weights(
    parts: &[(Component, Vec<f32>)],
    moments: &Moments,
    whole: &Fit,
    (cumulative, seed): (bool, u64),
) -> Vec<Weight> {
    let n = moments.clusters();
    let refits = REFITS[usize::from(cumulative)];
    let mut drawn_weights: Vec<Vec<f64>> = vec![Vec::with_capacity(refits); parts.len()];
    let mut done = 0;
    resampled(&[n], seed, |drawn| {
        if done == refits {
            return;
        }
        done += 1;
        let mut times = vec![0.0; n];
        drawn[0].iter().for_each(|&k| times[k] += 1.0);
        // A resample of one fact over and over has no fit; it says nothing.
        if let Ok(fit) = moments.fit(&times, RIDGE) {
            drawn_weights.iter_mut().zip(&fit.weights).for_each(|(all, w)| all.push(*w));
        }
    });
    let is_head = |part: &Component| matches!(part, Component::Head { .. });
    // Too few resamples say nothing of small probabilities.
    let tested = |i: usize| !cumulative && is_head(&parts[i].0) && !whole.constant[i];
    let by_chance: Vec<f64> =
        (0..parts.len()).filter(|&i| tested(i)).map(|i| other_way(&drawn_weights[i])).collect();
    let mut p = holm(&by_chance).into_iter();
    let mut out = Vec::with_capacity(parts.len());
    for (i, (part, _)) in parts.iter().enumerate() {
        let p = if tested(i) { p.next() } else { None };
        let (low, high) = ends(&mut drawn_weights[i].clone());
        let weight = Estimate { value: whole.weights[i], low, high, n };
        out.push(Weight {
            part: part.to_string(),
            is_head: is_head(part),
            weight: (!whole.constant[i]).then_some(weight),
            p,
        });
    }
    out
}

/// Twice the share of resamples on the rarer side of 0.
fn other_way(drawn: &[f64]) -> f64 {
    let above = drawn.iter().filter(|w| **w > 0.0).count();
    let rarer = above.min(drawn.len() - above);
    (2.0 * (rarer + 1) as f64 / (drawn.len() + 1) as f64).min(1.0)
}

fn replaced(prompts: &[Prompt], all: &[Fidelity], seed: u64) -> Replaced {
    Replaced {
        kl: over_facts(prompts, all.iter().map(|f| Some(f.kl)), seed),
        prob: over_facts(prompts, all.iter().map(|f| Some(f.prob[1] - f.prob[0])), seed),
    }
}

/// Whether an R² is a number: what does not vary has none.
fn is_number(r2: &Estimate) -> bool {
    [r2.value, r2.low, r2.high].iter().all(|x| x.is_finite())
}

/// C4: the MLP is well described by a number a head and one vector. It holds where the cumulative regression explains
/// more than half of what varies on facts left out (interval above 0.5), more than with outputs exchanged, and its
/// reconstruction is nearer to the model than the mean alone; conditionally where it explains something (interval
/// above 0 and above the exchanged one) and is nearer; it does not hold where its interval lies below 0.5 and its
/// reconstruction is not shown to be nearer.
pub fn judge_regression(fit: &LayerFit) -> Judged {
    let n = fit.r2.n;
    let judged = |verdict, why| C4.fared(verdict, why, n);
    if n < FEWEST {
        return judged(Verdict::CannotBeTested, format!("{n} facts, {FEWEST} are needed"));
    }
    let told = format!(
        "R² {:.2} [{:.2}, {:.2}] on facts left out, {:.2} with outputs exchanged; {:.3} nats nearer than the mean",
        fit.r2.value, fit.r2.low, fit.r2.high, fit.r2_permuted, fit.kl_gain.value
    );
    if !is_number(&fit.r2) {
        return judged(Verdict::CannotBeTested, NO_R2.to_owned());
    }
    let nearer = fit.kl_gain.low > 0.0 && fit.p_kl_gain < SIGNIFICANT;
    let beats = fit.r2.low > fit.r2_permuted.max(0.0);
    match (nearer, beats) {
        (true, true) if fit.r2.low > 0.5 => judged(Verdict::Holds, told),
        (true, true) => judged(Verdict::Conditional, told),
        (false, _) if fit.r2.high < 0.5 => judged(Verdict::DoesNotHold, told),
        _ => judged(Verdict::CannotBeTested, told),
    }
}

/// C3: the MLP erases some heads and amplifies others. It holds where of the heads just before the MLP one weight lies
/// above 0 and another below (intervals, and Holm's correction over the heads), the regressors can be told apart (condition number below 1000), and the
/// regression explains something on facts left out; conditionally where all that differ from 0 point one way; it does
/// not hold where every interval lies within ±0.1. With so many heads that the refits can show no small probability it
/// cannot be tested.
pub fn judge_activation(local: &LayerFit) -> Judged {
    let n = local.r2.n;
    let judged = |verdict, why| C3.fared(verdict, why, n);
    if !is_number(&local.r2) {
        return judged(Verdict::CannotBeTested, NO_R2.to_owned());
    }
    let told_apart = local.condition.is_some_and(|c| c < 1000.0);
    if n < FEWEST || !told_apart || local.r2.low <= 0.0 {
        let why = format!(
            "{n} facts, R² from {:.2}, condition number {}",
            local.r2.low,
            local.condition.map_or("infinite".to_owned(), |c| format!("{c:.0}"))
        );
        return judged(Verdict::CannotBeTested, why);
    }
    let heads: Vec<(&str, &Estimate, bool)> = local
        .weights
        .iter()
        .filter(|w| w.is_head)
        .filter_map(|w| Some((w.part.as_str(), w.weight.as_ref()?, w.p.is_some_and(|p| p < SIGNIFICANT))))
        .collect();
    let refits = REFITS[usize::from(local.cumulative)];
    let smallest = 2.0 / (refits + 1) as f64 * heads.len() as f64;
    if smallest >= SIGNIFICANT {
        let why = format!("{} heads: {refits} refits can show no p below {smallest:.3}", heads.len());
        return judged(Verdict::CannotBeTested, why);
    }
    let names = |of: &dyn Fn(&Estimate) -> bool| -> Vec<&str> {
        heads.iter().filter(|(_, w, differs)| *differs && of(w)).map(|(name, ..)| *name).collect()
    };
    let (up, down) = (names(&|w| w.low > 0.0), names(&|w| w.high < 0.0));
    let told = format!("amplified: {}; damped: {}", list(&up), list(&down));
    match (up.is_empty(), down.is_empty()) {
        (false, false) => judged(Verdict::Holds, told),
        (true, true) if heads.iter().all(|(_, w, _)| w.low > -0.1 && w.high < 0.1) => {
            judged(Verdict::DoesNotHold, told)
        }
        (true, true) => judged(Verdict::CannotBeTested, told),
        _ => judged(Verdict::Conditional, told),
    }
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(value: f64, half: f64) -> Estimate {
        Estimate { value, low: value - half, high: value + half, n: 20 }
    }

    fn replaced() -> Replaced {
        Replaced { kl: about(0.1, 0.01), prob: about(0.0, 0.01) }
    }

    fn fit(r2: Estimate, kl_gain: Estimate, p: f64) -> LayerFit {
        let weight = |part: &str, weight: Option<Estimate>| {
            let (part, p) = (part.to_owned(), weight.map(|_| 0.01));
            Weight { part, is_head: true, weight, p }
        };
        LayerFit {
            layer: 1,
            cumulative: true,
            r2,
            r2_by_ridge: Vec::new(),
            r2_templates: None,
            r2_permuted: 0.05,
            r2_intercept: -0.01,
            r2_intercept_uncentred: 0.9,
            r2_matrix: 0.8,
            r2_matrix_permuted: 0.05,
            r2_first_order: 0.9,
            condition: Some(10.0),
            weights: vec![weight("1.0", Some(about(0.5, 0.1))), weight("1.1", None)],
            reconstructed: replaced(),
            mean_alone: replaced(),
            kl_gain,
            p_kl_gain: p,
        }
    }

    #[test]
    fn a_regression_holds_where_it_explains_and_may_stand_in() {
        let verdict = |r2, gain, p| judge_regression(&fit(r2, gain, p)).verdict;
        let nearer = about(0.2, 0.1);
        assert_eq!(verdict(about(0.7, 0.1), nearer, 0.001), Verdict::Holds);
        assert_eq!(verdict(about(0.4, 0.2), nearer, 0.001), Verdict::Conditional);
        // An interval that reaches what exchanged outputs explain shows nothing.
        assert_eq!(verdict(about(0.1, 0.06), nearer, 0.001), Verdict::CannotBeTested);
        assert_eq!(verdict(about(0.1, 0.06), about(0.0, 0.1), 0.8), Verdict::DoesNotHold);
        assert_eq!(verdict(about(0.7, 0.1), nearer, 0.2), Verdict::CannotBeTested);
        let none = about(f64::NEG_INFINITY, 0.0);
        assert_eq!(verdict(none, about(0.0, 0.1), 0.8), Verdict::CannotBeTested);
        let few = Estimate { n: 11, ..about(0.7, 0.1) };
        assert_eq!(verdict(few, nearer, 0.001), Verdict::CannotBeTested);
    }

    #[test]
    fn activation_needs_heads_that_can_be_told_apart() {
        let mut f = fit(about(0.7, 0.1), about(0.2, 0.1), 0.001);
        let one_way = judge_activation(&f);
        assert_eq!(
            (one_way.verdict, one_way.why.as_str()),
            (Verdict::Conditional, "amplified: 1.0; damped: none")
        );
        f.weights[1].weight = Some(about(-0.9, 0.2));
        f.weights[1].p = Some(0.2);
        assert_eq!(judge_activation(&f).verdict, Verdict::Conditional, "one of two weights is chance");
        f.weights[1].p = Some(0.01);
        assert_eq!(judge_activation(&f).verdict, Verdict::Holds);
        f.condition = Some(1e5);
        assert_eq!(judge_activation(&f).verdict, Verdict::CannotBeTested);
        f.condition = Some(10.0);
        f.weights.iter_mut().for_each(|w| w.weight = Some(about(0.0, 0.05)));
        assert_eq!(judge_activation(&f).verdict, Verdict::DoesNotHold);
        f.r2 = about(0.05, 0.1);
        assert_eq!(judge_activation(&f).verdict, Verdict::CannotBeTested);
        f.r2 = about(f64::NAN, 0.0);
        assert_eq!(judge_activation(&f).verdict, Verdict::CannotBeTested);
        f = fit(about(0.7, 0.1), about(0.2, 0.1), 0.001);
        f.weights = vec![f.weights[0].clone(); 60];
        f.cumulative = false;
        let many = judge_activation(&f);
        assert_eq!(many.verdict, Verdict::CannotBeTested);
        assert_eq!(many.why, "60 heads: 2000 refits can show no p below 0.060");
    }

    #[test]
    fn what_is_no_number_is_read_again() {
        let mut f = fit(about(f64::NAN, 0.0), about(0.2, 0.1), 0.001);
        f.r2_by_ridge = vec![(0.1, f64::NEG_INFINITY)];
        (f.r2_permuted, f.r2_matrix) = (f64::NEG_INFINITY, f64::NAN);
        let text = serde_json::to_string(&f).expect("JSON");
        let read: LayerFit = serde_json::from_str(&text).expect("reads");
        assert!(read.r2.value.is_nan() && read.r2_permuted.is_nan() && read.r2_by_ridge[0].1.is_nan());
    }
}
