//! What the last two layers do to the answer, beside tokens that were chosen in the same way.
//!
//! Facts whose answer is the first choice two layers before the end were chosen for a high number, and a number
//! chosen for being high is lower when it is looked at again. So each such answer stands beside matched tokens:
//! first choices at the same node of other prompts of the same form, which are neither answer nor argument there,
//! of nearly the same probability. What the answers lose beyond these is no matter of how they were chosen.

use refocus_measure::residual::{Node, split};
use refocus_model::ModelSpec;
use refocus_tasks::recall::Form;
use serde::Serialize;

use super::prompts::{Condition, Item};
use super::traced::{Reach, Traced};
use crate::overthinking::{Estimate, Stratum, sign_flip};

/// Matched tokens for one answer, at most.
const MATCHES: usize = 3;
/// How far the logarithms of two matched probabilities may be apart.
const CALIPER: f64 = 0.25;
/// Answers that are surer than this two layers before the end are a group of their own.
const SURE: f64 = 0.5;
/// Of the tokens followed.
pub(super) const ANSWER: usize = 0;

/// Everything that was seen under one condition of one relation.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The relation's name.
    pub relation: &'a str,
    /// How it was asked.
    pub condition: Condition,
    /// Prompts, fact by fact.
    pub items: &'a [Item],
    /// What was seen, one for each prompt.
    pub traced: &'a [Traced],
}

impl Seen<'_> {
    /// Means by fact over the prompts that have a value, in the order of the facts.
    pub(super) fn by_fact(&self, value: impl Fn(&Item, &Traced) -> Option<f64>) -> Vec<f64> {
        let mut out: Vec<(usize, f64, usize)> = Vec::new();
        for (item, traced) in self.items.iter().zip(self.traced) {
            let Some(v) = value(item, traced) else { continue };
            match out.last_mut().filter(|f| f.0 == item.prompt.fact) {
                Some(f) => (f.1, f.2) = (f.1 + v, f.2 + 1),
                None => out.push((item.prompt.fact, v, 1)),
            }
        }
        out.into_iter().map(|(_, sum, n)| sum / n as f64).collect()
    }
}

/// Which prompts count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// All.
    All,
    /// The answer is the first choice at the end.
    RightAtTheEnd,
    /// It is the first choice two layers before the end.
    RightBefore,
    /// It is, with more than half of the probability.
    Sure,
    /// It is, with less.
    Unsure,
}

impl Group {
    /// In the order in which they are told.
    pub const ALL: [Self; 5] = [Self::All, Self::RightAtTheEnd, Self::RightBefore, Self::Sure, Self::Unsure];

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::RightAtTheEnd => "right_at_the_end",
            Self::RightBefore => "right_before",
            Self::Sure => "sure",
            Self::Unsure => "unsure",
        }
    }

    /// Whether a prompt belongs to it.
    pub(super) fn has(self, reach: &Reach, t: &Traced) -> bool {
        let before = t.seen[reach.before][ANSWER];
        let right = before.rank == 0;
        match self {
            Self::All => true,
            Self::RightAtTheEnd => t.seen.last().is_some_and(|s| s[ANSWER].rank == 0),
            Self::RightBefore => right,
            Self::Sure => right && before.prob() > SURE,
            Self::Unsure => right && before.prob() <= SURE,
        }
    }
}

/// What attention or MLP of a layer took from the answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// Layer.
    pub layer: usize,
    /// `attention` or `mlp`.
    pub part: &'static str,
    /// Probability that it took; negative where it gave.
    pub taken: Estimate,
}

/// The answers beside their matched tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Matched {
    /// What the matched tokens lost.
    pub fall: Estimate,
    /// What the answers lost beyond them.
    pub beyond: Estimate,
    /// Of a paired test of it (signs flipped by fact).
    pub p: f64,
}

/// A fall of probability over the last two layers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fall {
    /// The relation.
    pub relation: String,
    /// How it was asked.
    #[serde(flatten)]
    pub condition: Condition,
    /// Which prompts.
    pub group: Group,
    /// Which lens reads what stands before: `logit` or `tuned`.
    pub lens: &'static str,
    /// Prompts.
    pub prompts: usize,
    /// Probability two layers before the end.
    pub before: f64,
    /// Probability at the end.
    pub after: f64,
    /// What was lost; `n` facts.
    pub fall: Estimate,
    /// The same by attention and MLP, where the lens reads every node; their sum is the fall.
    pub parts: Vec<Part>,
    /// Beside matched tokens; only where the answer is the first choice before, and has such tokens.
    pub matched: Option<Matched>,
}

/// The probability of a token at a node.
pub(super) fn prob(reach: &Reach, t: &Traced, node: Node, token: usize) -> f64 {
    reach.nodes.iter().position(|n| *n == node).map_or(f64::NAN, |i| t.seen[i][token].prob())
}

/// What a token loses over the last two layers.
pub(super) fn lost(reach: &Reach, t: &Traced, token: usize) -> f64 {
    t.seen[reach.before][token].prob() - after(t, token)
}

/// The same where the tuned lens reads what stands before; nothing without one.
pub(super) fn lost_tuned(reach: &Reach, t: &Traced, token: usize) -> Option<f64> {
    Some(t.tuned.get(reach.block_before)?[token].prob() - after(t, token))
}

/// The probability of a token at the end.
fn after(t: &Traced, token: usize) -> f64 {
    t.seen.last().map_or(f64::NAN, |s| s[token].prob())
}

/// First choices two layers before the end that are neither answer nor argument.
pub(super) struct Pool {
    /// Logarithm of the probability, what is lost, relation, fact; ascending.
    tokens: Vec<(f64, f64, String, usize)>,
}

impl Pool {
    /// Of all prompts of a form.
    pub(super) fn of(all: &[Seen<'_>], form: Form) -> Self {
        let mut tokens = Vec::new();
        for s in all.iter().filter(|s| s.condition.form == form) {
            for (item, t) in s.items.iter().zip(s.traced) {
                let own = item.prompt.answer == t.top || item.prompt.argument == Some(t.top);
                let (Some(first), Some(last), false) = (t.top_nll.first(), t.top_nll.last(), own) else {
                    continue;
                };
                let lost = f64::from((-first).exp()) - f64::from((-last).exp());
                tokens.push((-f64::from(*first), lost, s.relation.to_owned(), item.prompt.fact));
            }
        }
        tokens.sort_by(|a, b| {
            a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)).then(a.3.cmp(&b.3))
        });
        Self { tokens }
    }

    /// Mean loss of the tokens that match an answer, other than those of its own fact.
    pub(super) fn matched(&self, relation: &str, fact: usize, log_prob: f64) -> Option<f64> {
        let from = self.tokens.partition_point(|t| t.0 < log_prob - CALIPER);
        let mut near: Vec<(f64, f64)> = self.tokens[from..]
            .iter()
            .take_while(|t| t.0 <= log_prob + CALIPER)
            .filter(|t| (t.2.as_str(), t.3) != (relation, fact))
            .map(|t| ((t.0 - log_prob).abs(), t.1))
            .collect();
        near.sort_by(|a, b| a.0.total_cmp(&b.0));
        near.truncate(MATCHES);
        (!near.is_empty()).then(|| near.iter().map(|n| n.1).sum::<f64>() / near.len() as f64)
    }
}

/// By fact what answers and their matched tokens lose, where both are there.
pub(super) fn beside(s: &Seen<'_>, reach: &Reach, group: Group, pool: &Pool) -> [Vec<f64>; 2] {
    let of = |item: &Item, t: &Traced| {
        let before = t.seen[reach.before][ANSWER];
        let counts = group.has(reach, t) && before.rank == 0;
        counts.then(|| pool.matched(s.relation, item.prompt.fact, -f64::from(before.nll))).flatten()
    };
    let own = s.by_fact(|i, t| of(i, t).map(|_| lost(reach, t, ANSWER)));
    [own, s.by_fact(|i, t| of(i, t))]
}

/// The falls of all conditions and groups; groups without a prompt are left out.
pub fn falls(all: &[Seen<'_>], spec: &ModelSpec, seed: u64) -> Vec<Fall> {
    let reach = Reach::of(spec);
    let pools = [Form::Open, Form::Forced].map(|form| (form, Pool::of(all, form)));
    let mut out = Vec::new();
    for s in all {
        let Some((_, pool)) = pools.iter().find(|p| p.0 == s.condition.form) else { continue };
        for group in Group::ALL {
            let prompts = s.traced.iter().filter(|t| group.has(&reach, t)).count();
            if prompts == 0 {
                continue;
            }
            let mean = |value: &dyn Fn(&Traced) -> f64| {
                Estimate::of(&s.by_fact(|_, t| group.has(&reach, t).then(|| value(t))), seed)
            };
            let mut parts = Vec::new();
            for layer in Reach::last_layers(spec) {
                let taken = |t: &Traced| split(spec, layer, |node| -prob(&reach, t, node, ANSWER));
                parts.push(Part { layer, part: "attention", taken: mean(&|t| taken(t).0) });
                parts.push(Part { layer, part: "mlp", taken: mean(&|t| taken(t).1) });
            }
            let only_right = !matches!(group, Group::All | Group::RightAtTheEnd);
            let [own, theirs] = beside(s, &reach, group, pool);
            let matched = (only_right && !own.is_empty()).then(|| {
                let more: Vec<f64> = own.iter().zip(&theirs).map(|(a, b)| a - b).collect();
                Matched {
                    fall: Estimate::of(&theirs, seed),
                    beyond: Estimate::of(&more, seed),
                    p: sign_flip(&[Stratum { weight: 1.0, values: more }], seed),
                }
            });
            out.push(Fall {
                relation: s.relation.to_owned(),
                condition: s.condition,
                group,
                lens: "logit",
                prompts,
                before: mean(&|t| t.seen[reach.before][ANSWER].prob()).value,
                after: mean(&|t| after(t, ANSWER)).value,
                fall: mean(&|t| lost(&reach, t, ANSWER)),
                parts,
                matched,
            });
        }
        out.extend(by_the_tuned_lens(s, &reach, seed));
    }
    out
}

/// The fall of all prompts where the tuned lens reads what stands before; nothing without one.
fn by_the_tuned_lens(s: &Seen<'_>, reach: &Reach, seed: u64) -> Option<Fall> {
    let values = s.by_fact(|_, t| lost_tuned(reach, t, ANSWER));
    if values.is_empty() {
        return None;
    }
    let fall = Estimate::of(&values, seed);
    let after = Estimate::of(&s.by_fact(|_, t| Some(after(t, ANSWER))), seed).value;
    Some(Fall {
        relation: s.relation.to_owned(),
        condition: s.condition,
        group: Group::All,
        lens: "tuned",
        prompts: s.traced.len(),
        before: fall.value + after,
        after,
        fall,
        parts: Vec::new(),
        matched: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_is_near_and_of_another_fact() {
        let t = |p: f64, lost: f64, fact| (p.ln(), lost, "r".to_owned(), fact);
        let pool = Pool { tokens: vec![t(0.2, 9.0, 1), t(0.48, 0.1, 1), t(0.5, 5.0, 2), t(0.52, 0.3, 3)] };
        // Fact 2's own token does not count, and 0.2 is too far from 0.5.
        let found = pool.matched("r", 2, 0.5f64.ln()).expect("matches");
        assert!((found - 0.2).abs() < 1e-12, "{found}");
        assert_eq!(pool.matched("r", 2, 0.9f64.ln()), None);
        // The same number in another relation is another fact.
        assert!((pool.matched("q", 2, 0.5f64.ln()).expect("matches") - 1.8).abs() < 1e-12);
    }
}
