//! What the vector does that an MLP adds to every prompt of a relation (claim C5): what it promotes, where it points,
//! and what it does in the place of another relation's.

use std::sync::Arc;

use refocus_compute::{Ops, Philox, Purpose};
use refocus_measure::MeasureError;
use refocus_measure::correlation::cosine;
use refocus_measure::recall::{
    ClassRanks, Fidelity, Moments, Observed, Prompt, Unembedding, class_ranks, fidelity, nudged, regressors,
};
use refocus_model::Model;
use serde::{Deserialize, Serialize};

use super::mlp::RIDGE;
use super::{FEWEST, Judged, SIGNIFICANT, Saying, by_fact, halves, over_facts, pick, together};
use crate::Verdict;
use crate::overthinking::Estimate;

const RANDOM: Purpose = Purpose::new("recall: random vector");

const C5: Saying = Saying {
    id: "C5",
    claim: "the MLP's intercept turns the residual stream toward the answer",
    control: "a random vector of the same length",
};

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
/// As [`layer_fit`](super::mlp::layer_fit).
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
    /// Change of the log₁₀ rank of the answers of the other relation to the same arguments, where both have them and the
    /// answers differ.
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
