//! Which heads and MLPs carry the answer, which of the heads move the argument, and which already turn it into the
//! answer (claims C1 and C2).

use refocus_compute::Ops;
use refocus_measure::MeasureError;
use refocus_measure::correlation::pearson;
use refocus_measure::recall::{
    Effects, HeadAt, Instead, Mover, Observed, OvRanks, Prompt, Rest, Score, Sender, Shares, Unembedding,
    effects, movers, ov_ranks, senders,
};
use refocus_model::Model;
use serde::{Deserialize, Serialize};

use super::{FEWEST, Judged, SIGNIFICANT, Saying, by_fact, facts, halves, over_facts, pick, ratio, together};
use crate::Verdict;
use crate::overthinking::{Estimate, HeadId, random_heads};

/// Heads that are looked at closely.
pub const CHOSEN: usize = 5;
/// Random draws of as many heads of the same blocks.
pub const DRAWS: u32 = 10;
/// An effect smaller than this share of π(Y) is none that matters.
const SMALLEST: f64 = 0.01;

const C1: Saying = Saying {
    id: "C1",
    claim: "a few heads of middle and late blocks carry the argument to the last token",
    control: "random heads of the same block",
};
const C2: Saying = Saying {
    id: "C2",
    claim: "the matrices of one passing head already apply the function, those of another only move the argument",
    control: "another fact's answer and random heads of the same block",
};

/// What becomes of the answer without what one sender gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SenderEffect {
    /// `9.8`, `mlp 9`.
    pub sender: String,
    /// Block.
    pub layer: usize,
    /// Query head; absent for an MLP.
    pub head: Option<usize>,
    /// Change of the mean π(Y) over the mean π(Y).
    pub ratio_of_means: Estimate,
    /// Mean over prompts of the change over π(Y), as the released code averages: it explodes where π(Y) is near 0.
    pub mean_of_ratios: f64,
    /// Change of π(X) over the mean π(Y); absent where no argument is one token.
    pub argument: Option<Estimate>,
    /// Change of the answer's logit.
    pub logit: Estimate,
    /// As `ratio_of_means`, where what it gives comes from another fact's prompt instead of the mean.
    pub resampled: Estimate,
    /// As `ratio_of_means`, by zero and with everything after it live (ablation).
    pub zero: Estimate,
    /// The same by its mean.
    pub mean: Estimate,
}

/// Runs with one sender replaced, in several ways.
pub struct Ways {
    /// By the mean over the corrupted prompts, heads frozen: path patching as released.
    pub paths: Effects,
    /// By what it gives in the prompt's own corrupted prompt, heads frozen.
    pub resampled: Effects,
    /// By zero, everything live.
    pub zero: Effects,
    /// By the mean, everything live.
    pub mean: Effects,
}

impl Ways {
    /// How they replace a sender, in the order of the fields.
    const ALL: [(Instead, Rest); 4] = [
        (Instead::Mean, Rest::Frozen),
        (Instead::Partner, Rest::Frozen),
        (Instead::Zero, Rest::Live),
        (Instead::Mean, Rest::Live),
    ];

    /// Replaces every head and MLP in every way. `tick` is told how many changed runs are done and how many there are.
    ///
    /// # Errors
    /// What the forward pass reports.
    pub fn of<O: Ops>(
        o: &mut O,
        m: &Model<O::K>,
        prompts: &[Prompt],
        seen: (&Observed, &Unembedding),
        partners: &[usize],
        mut tick: impl FnMut(usize, usize),
    ) -> Result<Self, MeasureError> {
        let all = senders(&m.spec);
        let mut run = |way: usize| {
            let told = |done, of| tick(way * of + done, Self::ALL.len() * of);
            effects(o, m, prompts, seen, &all, partners, Self::ALL[way], told)
        };
        Ok(Self { paths: run(0)?, resampled: run(1)?, zero: run(2)?, mean: run(3)? })
    }
}

/// Effects of all senders, in their order.
pub fn summarise(prompts: &[Prompt], ways: &Ways, seed: u64) -> Vec<SenderEffect> {
    let effects = &ways.paths;
    let base = by_fact(prompts, effects.base.iter().map(|s| Some(s.pi())));
    let share = |of: &Effects, at: usize| {
        let pairs = of.base.iter().zip(&of.changed[at]);
        ratio(&by_fact(prompts, pairs.map(|(a, b)| Some(b.pi() - a.pi()))), &base, seed)
    };
    let one = |(at, (sender, changed)): (usize, (&Sender, &Vec<Score>))| {
        let pairs = || effects.base.iter().zip(changed);
        let of_argument = |(a, b): (&Score, &Score)| Some(b.pi_argument()? - a.pi_argument()?);
        let argument = by_fact(prompts, pairs().map(of_argument));
        let scale = base.iter().sum::<f64>() / base.len() as f64;
        let scaled: Vec<f64> = argument.iter().map(|x| x / scale).collect();
        let (layer, head) = match *sender {
            Sender::Head { layer, head } => (layer, Some(head)),
            Sender::Mlp(layer) => (layer, None),
        };
        let ratios = pairs().map(|(a, b)| (b.pi() - a.pi()) / a.pi());
        SenderEffect {
            sender: sender.to_string(),
            layer,
            head,
            ratio_of_means: share(effects, at),
            mean_of_ratios: ratios.sum::<f64>() / prompts.len() as f64,
            argument: (!scaled.is_empty()).then(|| Estimate::of(&scaled, seed)),
            logit: over_facts(prompts, pairs().map(|(a, b)| Some(b.answer - a.answer)), seed),
            resampled: share(&ways.resampled, at),
            zero: share(&ways.zero, at),
            mean: share(&ways.mean, at),
        }
    };
    effects.senders.iter().zip(&effects.changed).enumerate().map(one).collect()
}

/// What one part of the residual stream adds to the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartShare {
    /// `embedding`, `9.8`, `attention bias 9`, `mlp 9`.
    pub part: String,
    /// Share of π(Y), the final norm's denominator held.
    pub answer: Estimate,
    /// Share of π(X); absent where no argument is one token.
    pub argument: Option<Estimate>,
    /// Length (ℓ2) of what it writes.
    pub norm: f64,
}

/// Direct logit attribution of all parts, in the order of the model.
pub fn attributions(prompts: &[Prompt], shares: &Shares, seed: u64) -> Vec<PartShare> {
    let one = |i: usize| {
        let argument = by_fact(prompts, shares.argument[i].iter().copied());
        PartShare {
            part: shares.parts[i].to_string(),
            answer: over_facts(prompts, shares.answer[i].iter().map(|x| Some(*x)), seed),
            argument: (!argument.is_empty()).then(|| Estimate::of(&argument, seed)),
            norm: shares.norm[i].iter().sum::<f64>() / prompts.len().max(1) as f64,
        }
    };
    (0..shares.parts.len()).map(one).collect()
}

/// The heads whose replacement lowers π(Y) most, on some of the prompts.
pub fn top_heads(effects: &Effects, which: &[usize], k: usize) -> Vec<HeadId> {
    let mut all: Vec<(f64, HeadId)> = effects
        .senders
        .iter()
        .zip(&effects.changed)
        .filter_map(|(s, changed)| {
            let Sender::Head { layer, head } = *s else { return None };
            let change = which.iter().map(|&i| changed[i].pi() - effects.base[i].pi()).sum::<f64>();
            Some((change, HeadId { layer, head }))
        })
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    all.into_iter().take(k).map(|(_, id)| id).collect()
}

/// One head that was chosen on the even facts, or named beforehand, measured on the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Passer {
    /// Which.
    #[serde(flatten)]
    pub id: HeadId,
    /// Change of π(Y) without it, over π(Y).
    pub effect: Estimate,
    /// Attention to the argument's last token.
    pub attention: Estimate,
    /// The same less the mean of random heads of the same block.
    pub over_random: Estimate,
    /// Correlation over prompts of attention to the argument with what is written along it.
    pub r: Option<Estimate>,
    /// Its matrices on the residual stream at the argument; absent for post-norm models.
    pub ov: Option<Ov>,
    /// Probability that chance alone makes the effect as large, after Holm's correction over the chosen heads.
    pub p_effect: f64,
    /// The same of the attention over that of random heads.
    pub p_attention: f64,
    /// The same of the lift of the answer over that to another fact; absent with `ov`.
    pub p_shuffled: Option<f64>,
    /// The same of its lift over that of random heads.
    pub p_random: Option<f64>,
}

/// Ranks through a head's own matrices, as log₁₀(rank + 1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ov {
    /// Of the answer.
    pub answer: Estimate,
    /// Of the argument.
    pub argument: Option<Estimate>,
    /// By how much the answer is nearer than the answer to another fact.
    pub over_shuffled: Estimate,
    /// By how much the answer is nearer than through random heads of the same block.
    pub over_random: Estimate,
}

/// Looks closely at some heads, on the facts that did not choose ([`top_heads`] on the first of the halves). Holm's
/// correction is over these heads.
///
/// # Errors
/// Post-norm models; what the forward pass reports.
#[allow(clippy::too_many_arguments)]
pub fn passers<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    (seen, u): (&Observed, &Unembedding),
    effects: &Effects,
    partners: &[usize],
    chosen: &[HeadId],
    seed: u64,
) -> Result<Vec<Passer>, MeasureError> {
    let [_, measure] = halves(prompts);
    let draws = random_heads(chosen, m.spec.n_heads, DRAWS, seed);
    let all = movers(o, m, prompts, seen, u)?;
    let mut wanted: Vec<HeadId> = chosen.iter().chain(draws.iter().flatten()).copied().collect();
    wanted.sort_unstable();
    wanted.dedup();
    let at: Vec<HeadAt> = wanted.iter().map(|h| HeadAt { layer: h.layer, head: h.head }).collect();
    let ranks = ov_ranks(o, m, prompts, &at, partners)?;
    let own = pick(prompts, &measure);
    let half = Half { own: &own, measure: &measure, seed };
    let mut differences = [const { Vec::new() }; 4];
    let mut out = Vec::new();
    for &id in chosen {
        let others: Vec<HeadId> = draws.iter().flatten().filter(|h| h.layer == id.layer).copied().collect();
        let attention =
            |h: HeadId, i: usize| f64::from(seen.blocks[h.layer].to_argument[i * m.spec.n_heads + h.head]);
        let over = |i: usize| {
            attention(id, i) - others.iter().map(|&h| attention(h, i)).sum::<f64>() / others.len() as f64
        };
        let at = effects.senders.iter().position(|s| *s == Sender::Head { layer: id.layer, head: id.head });
        let changed = &effects.changed[at.unwrap_or(0)];
        let change = half.by_fact(|i| changed[i].pi() - effects.base[i].pi());
        let base = half.by_fact(|i| effects.base[i].pi());
        let over_random = half.by_fact(over);
        let mover = all.iter().find(|x| (x.head.layer, x.head.head) == (id.layer, id.head));
        let of = |h: &HeadId| ranks.iter().find(|r| (r.head.layer, r.head.head) == (h.layer, h.head));
        let random: Vec<&OvRanks> = others.iter().filter_map(of).collect();
        let ov = of(&id).map(|own| half.ov(own, &random));
        if let Some((_, over)) = &ov {
            differences[2].push(over[0].clone());
            differences[3].push(over[1].clone());
        }
        out.push(Passer {
            id,
            effect: ratio(&change, &base, seed),
            attention: Estimate::of(&half.by_fact(|i| attention(id, i)), seed),
            over_random: Estimate::of(&over_random, seed),
            r: mover.and_then(|x| correlation(prompts, x, &measure, seed)),
            ov: ov.map(|o| o.0),
            p_effect: f64::NAN,
            p_attention: f64::NAN,
            p_shuffled: None,
            p_random: None,
        });
        differences[0].push(change);
        differences[1].push(over_random);
    }
    let [effect, attention, shuffled, random] = differences.map(|d| together(&d, seed));
    for (p, (e, a)) in out.iter_mut().zip(effect.into_iter().zip(attention)) {
        (p.p_effect, p.p_attention) = (e, a);
    }
    let with = out.iter_mut().filter(|p| p.ov.is_some());
    for (p, (s, r)) in with.zip(shuffled.into_iter().zip(random)) {
        (p.p_shuffled, p.p_random) = (Some(s), Some(r));
    }
    Ok(out)
}

/// The facts that measure.
struct Half<'a> {
    own: &'a [Prompt],
    measure: &'a [usize],
    seed: u64,
}

impl Half<'_> {
    fn by_fact(&self, of: impl Fn(usize) -> f64) -> Vec<f64> {
        by_fact(self.own, self.measure.iter().map(|&i| Some(of(i))))
    }

    /// Ranks through a head's matrices, and by fact how far they lift the answer over another fact's and over random
    /// heads.
    fn ov(&self, own: &OvRanks, random: &[&OvRanks]) -> (Ov, [Vec<f64>; 2]) {
        let log = |rank: u32| (f64::from(rank) + 1.0).log10();
        let estimate = |values: &[f64]| Estimate::of(values, self.seed);
        let mean = |i: usize| random.iter().map(|r| log(r.answer[i])).sum::<f64>() / random.len() as f64;
        let argument = by_fact(self.own, self.measure.iter().map(|&i| own.argument[i].map(log)));
        let over_shuffled = self.by_fact(|i| log(own.shuffled[i]) - log(own.answer[i]));
        let over_random = self.by_fact(|i| mean(i) - log(own.answer[i]));
        let ov = Ov {
            answer: estimate(&self.by_fact(|i| log(own.answer[i]))),
            argument: (!argument.is_empty()).then(|| estimate(&argument)),
            over_shuffled: estimate(&over_shuffled),
            over_random: estimate(&over_random),
        };
        (ov, [over_shuffled, over_random])
    }
}

/// The mover test's correlation over the prompts of the facts that measure; facts are drawn again.
fn correlation(prompts: &[Prompt], x: &Mover, measure: &[usize], seed: u64) -> Option<Estimate> {
    let with: Vec<usize> = (0..prompts.len()).filter(|&i| prompts[i].argument.is_some()).collect();
    let mut by: std::collections::BTreeMap<usize, Vec<(f64, f64)>> = std::collections::BTreeMap::new();
    for (k, &i) in with.iter().enumerate().filter(|(_, i)| measure.contains(i)) {
        by.entry(prompts[i].fact).or_default().push((x.attention[k], x.written[k]));
    }
    let groups: Vec<Vec<(f64, f64)>> = by.into_values().collect();
    let of = |drawn: &[usize]| {
        let (a, b): (Vec<f64>, Vec<f64>) = drawn.iter().flat_map(|&g| groups[g].iter().copied()).unzip();
        pearson(&a, &b)
    };
    let all: Vec<usize> = (0..groups.len()).collect();
    let value = of(&all)?;
    Some(Estimate::statistic(&[groups.len()], seed, |d| of(&d[0]).unwrap_or(value), value))
}

/// C1: heads of the upper half of the model carry the argument. It holds where one of the chosen heads stands there,
/// lowers π(Y) when replaced, attends to the argument more than random heads of its block do, and writes it the more
/// the more it attends (intervals on the facts that did not choose, Holm's correction over the chosen heads). It does
/// not hold where every chosen head's effect is shown to be below 1 % of π(Y).
pub fn judge_passing(prompts: &[Prompt], found: &[Passer], n_layers: usize) -> Judged {
    let n = facts(prompts) / 2;
    let judged = |verdict, why| C1.fared(verdict, why, n);
    if n < FEWEST {
        return judged(Verdict::CannotBeTested, format!("{n} facts to measure on, {FEWEST} are needed"));
    }
    let carries = |p: &&Passer| {
        p.effect.high < 0.0
            && p.over_random.low > 0.0
            && p.r.as_ref().is_some_and(|r| r.low > 0.0)
            && p.p_effect < SIGNIFICANT
            && p.p_attention < SIGNIFICANT
    };
    let all: Vec<&Passer> = found.iter().filter(carries).collect();
    let name = |all: &[&Passer]| {
        all.iter().map(|p| format!("{}.{}", p.id.layer, p.id.head)).collect::<Vec<_>>().join(" ")
    };
    let late: Vec<&Passer> = all.iter().filter(|p| p.id.layer >= n_layers / 2).copied().collect();
    if !late.is_empty() {
        return judged(Verdict::Holds, format!("heads {}", name(&late)));
    }
    if !all.is_empty() {
        return judged(Verdict::Conditional, format!("heads {}, all in the lower half", name(&all)));
    }
    if found.iter().all(|p| p.effect.low > -SMALLEST) {
        return judged(Verdict::DoesNotHold, "no head changes π(Y) by 1 %".to_owned());
    }
    judged(
        Verdict::CannotBeTested,
        "no chosen head passes every test, and effects are not excluded".to_owned(),
    )
}

/// log₁₀ of a rank: an interval below excludes a lift of the answer.
const NO_LIFT: f64 = 0.1;

/// C2: some of the heads that carry the argument already turn it into the answer, others do not. It holds where among
/// the chosen heads that carry one lifts the answer above that to another fact and above random heads (intervals, and
/// Holm's correction over the chosen heads), and another
/// lifts the argument into the first hundred and its interval excludes a lift of the answer; it holds conditionally
/// where one lifts the answer and none only moves the argument; it does not hold where all intervals exclude a lift by a factor of 1.26 (0.1 in
/// log₁₀).
pub fn judge_matrices(prompts: &[Prompt], found: &[Passer]) -> Judged {
    let n = facts(prompts) / 2;
    let judged = |verdict, why| C2.fared(verdict, why, n);
    let carrying: Vec<(&Passer, &Ov)> = found
        .iter()
        .filter(|p| p.effect.high < 0.0 && p.p_effect < SIGNIFICANT)
        .filter_map(|p| Some((p, p.ov.as_ref()?)))
        .collect();
    if n < FEWEST || carrying.is_empty() {
        return judged(Verdict::CannotBeTested, "no head carries the answer on enough facts".to_owned());
    }
    let surely = |p: Option<f64>| p.is_some_and(|p| p < SIGNIFICANT);
    let lifts = |(p, ov): &&(&Passer, &Ov)| {
        ov.over_shuffled.low > 0.0 && ov.over_random.low > 0.0 && surely(p.p_shuffled) && surely(p.p_random)
    };
    let name = |p: &Passer| format!("{}.{}", p.id.layer, p.id.head);
    let applies: Vec<String> = carrying.iter().filter(lifts).map(|(p, _)| name(p)).collect();
    let moves: Vec<String> = carrying
        .iter()
        // Not only that no lift was shown: fewer facts would make more movers.
        .filter(|(_, ov)| {
            ov.over_shuffled.high < NO_LIFT && ov.argument.as_ref().is_some_and(|a| a.high < 2.0)
        })
        .map(|(p, _)| name(p))
        .collect();
    match (applies.is_empty(), moves.is_empty()) {
        (false, false) => judged(
            Verdict::Holds,
            format!("{} apply the function, {} only move the argument", applies.join(" "), moves.join(" ")),
        ),
        (false, true) => judged(
            Verdict::Conditional,
            format!("{} apply the function, no carrying head only moves the argument", applies.join(" ")),
        ),
        _ if carrying.iter().all(|(_, ov)| ov.over_shuffled.high < NO_LIFT) => judged(
            Verdict::DoesNotHold,
            "no carrying head lifts the answer over that to another fact".to_owned(),
        ),
        _ => judged(Verdict::CannotBeTested, "lifts of the answer are neither shown nor excluded".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(value: f64, half: f64) -> Estimate {
        Estimate { value, low: value - half, high: value + half, n: 12 }
    }

    fn passer(layer: usize) -> Passer {
        Passer {
            id: HeadId { layer, head: 0 },
            effect: about(-0.2, 0.05),
            attention: about(0.6, 0.1),
            over_random: about(0.5, 0.1),
            r: Some(about(0.8, 0.1)),
            ov: Some(Ov {
                answer: about(1.0, 0.2),
                argument: Some(about(0.5, 0.2)),
                over_shuffled: about(1.0, 0.3),
                over_random: about(1.0, 0.3),
            }),
            p_effect: 0.001,
            p_attention: 0.001,
            p_shuffled: Some(0.001),
            p_random: Some(0.001),
        }
    }

    fn prompts(facts: usize) -> Vec<Prompt> {
        let one =
            |fact| Prompt { ids: vec![1], answer: 0, argument: None, argument_at: 0, fact, template: 0 };
        (0..facts).map(one).collect()
    }

    #[test]
    fn passing_needs_every_test() {
        let verdict = |p: Passer| judge_passing(&prompts(24), &[p], 10).verdict;
        assert_eq!(verdict(passer(7)), Verdict::Holds);
        assert_eq!(verdict(passer(2)), Verdict::Conditional);
        assert_eq!(verdict(Passer { p_attention: 0.2, ..passer(7) }), Verdict::CannotBeTested);
        assert_eq!(verdict(Passer { r: Some(about(0.1, 0.2)), ..passer(7) }), Verdict::CannotBeTested);
        assert_eq!(verdict(Passer { effect: about(0.0, 0.005), ..passer(7) }), Verdict::DoesNotHold);
        assert_eq!(judge_passing(&prompts(20), &[passer(7)], 10).verdict, Verdict::CannotBeTested);
    }

    #[test]
    fn matrices_are_told_apart() {
        let with = |over: Estimate, argument: Estimate| {
            let ov = Ov { answer: over, argument: Some(argument), over_shuffled: over, over_random: over };
            Passer { ov: Some(ov), ..passer(7) }
        };
        let (applies, moves) = (passer(7), with(about(0.0, 0.05), about(0.5, 0.2)));
        let verdict = |all: &[Passer]| judge_matrices(&prompts(24), all).verdict;
        assert_eq!(verdict(&[applies.clone(), moves.clone()]), Verdict::Holds);
        assert_eq!(verdict(&[applies]), Verdict::Conditional);
        assert_eq!(verdict(&[moves]), Verdict::DoesNotHold);
        // A lift that five heads may show by chance is none.
        assert_eq!(verdict(&[Passer { p_random: Some(0.06), ..passer(7) }]), Verdict::CannotBeTested);
        assert_eq!(verdict(&[with(about(0.2, 0.4), about(0.5, 0.2))]), Verdict::CannotBeTested);
        assert_eq!(verdict(&[]), Verdict::CannotBeTested);
    }
}
