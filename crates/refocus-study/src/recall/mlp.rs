//! What an MLP makes of the heads before it (claims C3 and C4), and what the vector does that it adds to every
//! prompt of a relation (claim C5).

use std::sync::Arc;

use refocus_compute::{Ops, Philox, Purpose};
use refocus_measure::MeasureError;
use refocus_measure::correlation::cosine;
use refocus_measure::recall::{
    ClassRanks, Component, Fidelity, Fit, Moments, Observed, Prompt, Unembedding, class_ranks, fidelity,
    first_order, nudged, regressors,
};
use refocus_model::Model;
use serde::{Deserialize, Serialize};

use super::{FEWEST, Judged, SIGNIFICANT, Saying, by_fact, halves, over_facts, pick, together};
use crate::Verdict;
use crate::overthinking::{Estimate, ends, resampled};

/// λ as a share of the mean diagonal.
pub const RIDGE: f64 = 1e-3;
/// Other values, to show whether the choice matters.
const OTHER_RIDGES: [f64; 3] = [1e-6, 1e-4, 1e-2];
/// Groups of facts that are left out in turn.
const FOLDS: usize = 10;
/// Resamples of the weights: each is a fit.
const REFITS: usize = 200;
/// Step of the first order.
const STEP: f32 = 0.1;
const RANDOM: Purpose = Purpose::new("recall: random vector");

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
const C5: Saying = Saying {
    id: "C5",
    claim: "the MLP's intercept turns the residual stream toward the answer",
    control: "a random vector of the same length",
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
    pub r2_by_ridge: Vec<(f64, f64)>,
    /// Centred R² on wordings that were left out; absent with one wording.
    pub r2_templates: Option<f64>,
    /// Centred R² on left-out facts with what the MLP writes exchanged between facts of the same wording.
    pub r2_permuted: f64,
    /// Centred R² on left-out facts of the intercept alone.
    pub r2_intercept: f64,
    /// The same about 0: what an uncentred R² would credit to the intercept.
    pub r2_intercept_uncentred: f64,
    /// Centred R² of the MLP's Jacobian at the mean of what it reads.
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
    /// `b`, fitted on all facts.
    #[serde(skip)]
    pub intercept: Vec<f32>,
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
    let moments = Moments::of(&rows, target, prompts.iter().map(|p| p.fact))?;
    let folds = FOLDS.min(moments.clusters());
    let fits = moments.folds(folds, RIDGE)?;
    let errors = held_out(&moments, &fits);
    let totals = moments.totals();
    let about: Vec<f64> = totals.iter().map(|t| t.0).collect();
    let zero: f64 = totals.iter().map(|t| t.1).sum();
    let r2 = |errors: &[f64], drawn: &[usize]| {
        let sum = |v: &[f64]| drawn.iter().map(|&k| v[k]).sum::<f64>();
        1.0 - sum(errors) / sum(&about)
    };
    let every: Vec<usize> = (0..about.len()).collect();

    let mut r2_by_ridge = Vec::new();
    for ridge in OTHER_RIDGES {
        r2_by_ridge.push((ridge, r2(&held_out(&moments, &moments.folds(folds, ridge)?), &every)));
    }
    let alone = Moments::of(&[], target, prompts.iter().map(|p| p.fact))?;
    let means = alone.folds(folds, RIDGE)?;
    let intercept_errors = held_out(&alone, &means);
    let exchanged: Vec<f32> =
        partners.iter().flat_map(|&p| target[p * d..(p + 1) * d].iter().copied()).collect();
    let permuted = Moments::of(&rows, &exchanged, prompts.iter().map(|p| p.fact))?;
    let permuted_errors = held_out(&permuted, &permuted.folds(folds, RIDGE)?);
    let permuted_total: f64 = permuted.totals().iter().map(|t| t.0).sum();
    let near = first_order(o, m, seen, layer, STEP)?;
    let off = near.iter().zip(target).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();

    let whole = moments.fit(&moments.without(|_| false), RIDGE)?;
    let rebuilt = left_out(&moments, &fits, prompts.len(), |fit, i| {
        fit.predict(rows.iter().map(|r| &r[i * d..(i + 1) * d]))
    });
    let mean_rows = left_out(&alone, &means, prompts.len(), |fit, _| fit.predict(std::iter::empty()));
    let rebuilt = fidelity(o, m, prompts, seen, layer, &rebuilt)?;
    let mean_rows = fidelity(o, m, prompts, seen, layer, &mean_rows)?;
    let gain = by_fact(prompts, mean_rows.iter().zip(&rebuilt).map(|(a, b)| Some(a.kl - b.kl)));
    Ok(LayerFit {
        layer,
        cumulative,
        r2: Estimate::statistic(&[about.len()], seed, |d| r2(&errors, &d[0]), r2(&errors, &every)),
        r2_by_ridge,
        r2_templates: wordings(prompts, &rows, target)?,
        r2_permuted: 1.0 - permuted_errors.iter().sum::<f64>() / permuted_total,
        r2_intercept: r2(&intercept_errors, &every),
        r2_intercept_uncentred: 1.0 - intercept_errors.iter().sum::<f64>() / zero,
        r2_first_order: 1.0 - off / about.iter().sum::<f64>(),
        condition: Some(moments.condition()?).filter(|c| c.is_finite()),
        weights: weights(&parts, &moments, &whole, seed),
        reconstructed: replaced(prompts, &rebuilt, seed),
        mean_alone: replaced(prompts, &mean_rows, seed),
        p_kl_gain: together(std::slice::from_ref(&gain), seed)[0],
        kl_gain: Estimate::of(&gain, seed),
        intercept: whole.intercept.iter().map(|x| *x as f32).collect(),
    })
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

fn weights(parts: &[(Component, Vec<f32>)], moments: &Moments, whole: &Fit, seed: u64) -> Vec<Weight> {
    let n = moments.clusters();
    let mut drawn_weights: Vec<Vec<f64>> = vec![Vec::with_capacity(REFITS); parts.len()];
    let mut done = 0;
    resampled(&[n], seed, |drawn| {
        if done == REFITS {
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
    let one = |(i, (part, _)): (usize, &(Component, Vec<f32>))| {
        let (low, high) = ends(&mut drawn_weights[i]);
        Weight {
            part: part.to_string(),
            is_head: matches!(part, Component::Head { .. }),
            weight: (!whole.constant[i]).then_some(Estimate { value: whole.weights[i], low, high, n }),
        }
    };
    parts.iter().enumerate().map(one).collect()
}

fn replaced(prompts: &[Prompt], all: &[Fidelity], seed: u64) -> Replaced {
    Replaced {
        kl: over_facts(prompts, all.iter().map(|f| Some(f.kl)), seed),
        prob: over_facts(prompts, all.iter().map(|f| Some(f.prob[1] - f.prob[0])), seed),
    }
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
    let nearer = fit.kl_gain.low > 0.0 && fit.p_kl_gain < SIGNIFICANT;
    let beats = fit.r2.low > fit.r2_permuted.max(0.0);
    match (nearer, beats) {
        (true, true) if fit.r2.low > 0.5 => judged(Verdict::Holds, told),
        (true, true) => judged(Verdict::Conditional, told),
        (false, _) if fit.r2.high < 0.5 => judged(Verdict::DoesNotHold, told),
        _ => judged(Verdict::CannotBeTested, told),
    }
}

/// C3: the MLP erases some heads and amplifies others. It holds where of the heads just before the MLP one weight's
/// interval lies above 0 and another's below, the regressors can be told apart (condition number below 1000), and the
/// regression explains something on facts left out; conditionally where all that differ from 0 point one way; it does
/// not hold where every interval lies within ±0.1.
pub fn judge_activation(local: &LayerFit) -> Judged {
    let n = local.r2.n;
    let judged = |verdict, why| C3.fared(verdict, why, n);
    let told_apart = local.condition.is_some_and(|c| c < 1000.0);
    if n < FEWEST || !told_apart || local.r2.low <= 0.0 {
        let why = format!(
            "{n} facts, R² from {:.2}, condition number {}",
            local.r2.low,
            local.condition.map_or("infinite".to_owned(), |c| format!("{c:.0}"))
        );
        return judged(Verdict::CannotBeTested, why);
    }
    let heads: Vec<(&str, &Estimate)> = local
        .weights
        .iter()
        .filter(|w| w.is_head)
        .filter_map(|w| Some((w.part.as_str(), w.weight.as_ref()?)))
        .collect();
    let names = |of: &dyn Fn(&Estimate) -> bool| -> Vec<&str> {
        heads.iter().filter(|(_, w)| of(w)).map(|(name, _)| *name).collect()
    };
    let (up, down) = (names(&|w| w.low > 0.0), names(&|w| w.high < 0.0));
    let told = format!("amplified: {}; damped: {}", list(&up), list(&down));
    match (up.is_empty(), down.is_empty()) {
        (false, false) => judged(Verdict::Holds, told),
        (true, true) if heads.iter().all(|(_, w)| w.low > -0.1 && w.high < 0.1) => {
            judged(Verdict::DoesNotHold, told)
        }
        (true, true) => judged(Verdict::CannotBeTested, told),
        _ => judged(Verdict::Conditional, told),
    }
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

/// What a vector does that is added to what the MLP reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Promotes {
    /// Change of log₁₀(rank + 1) of the answer; below 0 it comes nearer.
    pub answer: Estimate,
    /// Of the argument.
    pub argument: Option<Estimate>,
    /// Of the other answers.
    pub others: Estimate,
}

/// What the intercept of an MLP does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intercept {
    /// Block.
    pub layer: usize,
    /// `b`, fitted on the even facts, added on the others.
    pub own: Promotes,
    /// A random vector of the same length.
    pub random: Promotes,
    /// Cosine of `b` with the mean direction of the answers minus that of the arguments.
    pub cosine: Option<f64>,
    /// The same of the random vector.
    pub cosine_random: Option<f64>,
    /// Probability that chance alone makes the answer's change differ from that by the random vector as much.
    pub p_answer: f64,
    /// Whether the answer gains more than other answers: their changes' difference.
    pub specific: Estimate,
    /// π(Y) with `b` taken out of the MLP's output, less with it in: below 0 it helps the answer.
    pub without: Estimate,
}

/// The tests of the intercept of an MLP: what it promotes, and where it points. `class` are the relation's answers.
///
/// # Errors
/// Too few facts to fit; what the forward pass reports.
pub fn intercept<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    (seen, u): (&Observed, &Unembedding),
    (layer, cumulative): (usize, bool),
    seed: u64,
) -> Result<Intercept, MeasureError> {
    let [choose, measure] = halves(prompts);
    let b = intercept_of(o, m, prompts, seen, (layer, cumulative), &choose)?;
    let random = random_vector(&b, seed);
    let mut class: Vec<u32> = prompts.iter().map(|p| p.answer).collect();
    class.sort_unstable();
    class.dedup();
    let own = pick(prompts, &measure);
    let part = seen.only(&measure);
    let ranks = class_ranks(o, m, &own, &part, layer, &b, &class)?;
    let by_chance = class_ranks(o, m, &own, &part, layer, &random, &class)?;
    let change = |r: &ClassRanks| nearer(r.answer);
    let over: Vec<f64> =
        by_fact(&own, ranks.iter().zip(&by_chance).map(|(a, b)| Some(change(a) - change(b))));
    let specific = ranks.iter().map(|r| Some(change(r) - log_change(r.others)));
    let less: Vec<f32> = b.iter().map(|x| -x).collect();
    let without = fidelity(o, m, &own, &part, layer, &nudged(&part, layer, &less))?;
    let towards = u.direction_between(o, m, prompts)?;
    let wide = |v: &[f32]| v.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
    let angle = |v: &[f32]| towards.as_ref().and_then(|t| cosine(&wide(v), t));
    Ok(Intercept {
        layer,
        own: promotes(&own, &ranks, seed),
        random: promotes(&own, &by_chance, seed),
        cosine: angle(&b),
        cosine_random: angle(&random),
        p_answer: together(&[over], seed)[0],
        specific: over_facts(&own, specific, seed),
        without: over_facts(&own, without.iter().map(|f| Some(f.pi[1] - f.pi[0])), seed),
    })
}

/// The intercept of a regression on some of the prompts.
///
/// # Errors
/// As [`layer_fit`].
pub fn intercept_of<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    seen: &Observed,
    (layer, cumulative): (usize, bool),
    which: &[usize],
) -> Result<Arc<[f32]>, MeasureError> {
    let part = seen.only(which);
    let parts = regressors(o, m, &part, layer, cumulative)?;
    let rows: Vec<&[f32]> = parts.iter().map(|p| p.1.as_slice()).collect();
    let facts = which.iter().map(|&i| prompts[i].fact);
    let moments = Moments::of(&rows, &part.blocks[layer].mlp_out, facts)?;
    let fit = moments.fit(&moments.without(|_| false), RIDGE)?;
    Ok(fit.intercept.iter().map(|x| *x as f32).collect())
}

/// A vector of the same length in a random direction.
pub fn random_vector(like: &[f32], seed: u64) -> Arc<[f32]> {
    let rng = Philox::new(seed, RANDOM);
    // Sums of uniform numbers are nearly normal, so no direction is preferred.
    let one = |i: usize| {
        let words = (0..3).flat_map(|s| rng.at(s, 0, i as u32));
        words.map(|w| f64::from(w) / f64::from(u32::MAX) - 0.5).sum::<f64>()
    };
    let all: Vec<f64> = (0..like.len()).map(one).collect();
    let length = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let scale = length(&mut like.iter().map(|x| f64::from(*x))) / length(&mut all.iter().copied());
    all.iter().map(|x| (x * scale) as f32).collect()
}

fn nearer(rank: [u32; 2]) -> f64 {
    log_change(rank.map(f64::from))
}

fn log_change(rank: [f64; 2]) -> f64 {
    (rank[1] + 1.0).log10() - (rank[0] + 1.0).log10()
}

fn promotes(prompts: &[Prompt], ranks: &[ClassRanks], seed: u64) -> Promotes {
    let argument = by_fact(prompts, ranks.iter().map(|r| r.argument.map(nearer)));
    Promotes {
        answer: over_facts(prompts, ranks.iter().map(|r| Some(nearer(r.answer))), seed),
        argument: (!argument.is_empty()).then(|| Estimate::of(&argument, seed)),
        others: over_facts(prompts, ranks.iter().map(|r| Some(log_change(r.others))), seed),
    }
}

/// C5: the intercept turns the stream toward the answer. One vector cannot name an answer, so it holds conditionally at
/// best of the class: conditionally where `b` brings the answer nearer than a random vector does, but other answers as
/// near; it holds where the answer gains more than the others; it does not hold where the interval excludes that the
/// answer comes nearer.
pub fn judge_intercept(found: &Intercept) -> Judged {
    let n = found.own.answer.n;
    let told = format!(
        "log₁₀ rank of the answer {:+.2} [{:+.2}, {:+.2}], of other answers {:+.2}, of the answer by a random vector {:+.2}",
        found.own.answer.value,
        found.own.answer.low,
        found.own.answer.high,
        found.own.others.value,
        found.random.answer.value
    );
    // The test is two-sided: a random vector that brings the answer nearer is no support.
    let over_random = found.own.answer.value < found.random.answer.value && found.p_answer < SIGNIFICANT;
    let comes = found.own.answer.high < 0.0 && over_random;
    let verdict = match comes {
        _ if n < FEWEST => Verdict::CannotBeTested,
        true if found.specific.high < 0.0 => Verdict::Holds,
        true => Verdict::Conditional,
        false if found.own.answer.low > 0.0 => Verdict::DoesNotHold,
        false => Verdict::CannotBeTested,
    };
    C5.fared(verdict, told, n)
}

/// The intercept of one relation in the place of another's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Swapped {
    /// Change of π(Y) of the prompts' own answers.
    pub own: Estimate,
    /// The same with a random vector as long as the difference.
    pub random: Estimate,
    /// Change of the log₁₀ rank of the answers of the other relation to the same arguments, where both have them.
    pub other: Option<Estimate>,
    /// The same with the random vector.
    pub other_random: Option<Estimate>,
}

/// Puts `other`'s intercept in the place of `own`'s in prompts of the relation of `own`. `answers` are for each prompt
/// the first token of the other relation's answer for the same argument, where there is one.
///
/// # Errors
/// What the forward pass reports.
#[allow(clippy::too_many_arguments)]
pub fn swap<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    seen: &Observed,
    layer: usize,
    (own, other): (&[f32], &[f32]),
    answers: &[Option<u32>],
    seed: u64,
) -> Result<Swapped, MeasureError> {
    let difference: Vec<f32> = own.iter().zip(other).map(|(a, b)| b - a).collect();
    let random = random_vector(&difference, seed);
    let as_other: Vec<Prompt> = prompts
        .iter()
        .zip(answers)
        .map(|(p, a)| Prompt { answer: a.unwrap_or(p.answer), ..p.clone() })
        .collect();
    let mut measure = |prompts: &[Prompt], vector: &[f32]| {
        fidelity(o, m, prompts, seen, layer, &nudged(seen, layer, vector))
    };
    let pi = |all: &[Fidelity]| over_facts(prompts, all.iter().map(|f| Some(f.pi[1] - f.pi[0])), seed);
    let ranks = |all: &[Fidelity]| {
        let of = all.iter().zip(answers).map(|(f, a)| a.map(|_| nearer(f.rank)));
        let by = by_fact(prompts, of);
        (!by.is_empty()).then(|| Estimate::of(&by, seed))
    };
    Ok(Swapped {
        own: pi(&measure(prompts, &difference)?),
        random: pi(&measure(prompts, &random)?),
        other: ranks(&measure(&as_other, &difference)?),
        other_random: ranks(&measure(&as_other, &random)?),
    })
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
        let weight =
            |part: &str, w: Option<Estimate>| Weight { part: part.to_owned(), is_head: true, weight: w };
        LayerFit {
            layer: 1,
            cumulative: true,
            r2,
            r2_by_ridge: Vec::new(),
            r2_templates: None,
            r2_permuted: 0.05,
            r2_intercept: -0.01,
            r2_intercept_uncentred: 0.9,
            r2_first_order: 0.9,
            condition: Some(10.0),
            weights: vec![weight("1.0", Some(about(0.5, 0.1))), weight("1.1", None)],
            reconstructed: replaced(),
            mean_alone: replaced(),
            kl_gain,
            p_kl_gain: p,
            intercept: Vec::new(),
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
        assert_eq!(judge_activation(&f).verdict, Verdict::Holds);
        f.condition = Some(1e5);
        assert_eq!(judge_activation(&f).verdict, Verdict::CannotBeTested);
        f.condition = Some(10.0);
        f.weights.iter_mut().for_each(|w| w.weight = Some(about(0.0, 0.05)));
        assert_eq!(judge_activation(&f).verdict, Verdict::DoesNotHold);
        f.r2 = about(0.05, 0.1);
        assert_eq!(judge_activation(&f).verdict, Verdict::CannotBeTested);
    }

    #[test]
    fn an_intercept_that_promotes_the_class_alone_holds_conditionally() {
        let promotes = |answer| Promotes { answer, argument: None, others: about(-0.5, 0.1) };
        let mut found = Intercept {
            layer: 1,
            own: promotes(about(-0.5, 0.1)),
            random: promotes(about(0.0, 0.1)),
            cosine: None,
            cosine_random: None,
            p_answer: 0.001,
            specific: about(0.0, 0.1),
            without: about(-1.0, 0.1),
        };
        assert_eq!(judge_intercept(&found).verdict, Verdict::Conditional);
        found.specific = about(-0.3, 0.1);
        assert_eq!(judge_intercept(&found).verdict, Verdict::Holds);
        found.random = promotes(about(-0.9, 0.1));
        assert_eq!(judge_intercept(&found).verdict, Verdict::CannotBeTested);
        found.random = promotes(about(0.0, 0.1));
        found.p_answer = 0.3;
        assert_eq!(judge_intercept(&found).verdict, Verdict::CannotBeTested);
        found.own = promotes(about(0.5, 0.1));
        assert_eq!(judge_intercept(&found).verdict, Verdict::DoesNotHold);
    }
}
