//! How a model recalls a fact, and what its last layers make of it (Lv et al., "Interpreting key mechanisms of
//! factual recall in transformer-based language models", 2024, arXiv 2403.19521).
//!
//! A [`Case`] is a relation as a model is asked for it: the facts whose answer is one token and which it knows.
//! [`conditions`] says how they are asked (what may follow, how many other facts stand before, with or without
//! the token that begins a text). [`trace_stored`] follows answer and argument from node to node of the residual
//! stream; [`falls`] says what the last two layers do to the answer, beside tokens that were chosen as the answers
//! were; [`claims`] judges. [`heads`], [`mlp`] with [`intercept`], [`shots`], [`last`] and [`mitigate`], which [`inside`]
//! runs and keeps, look inside: who carries the argument to the last token, who applies the function, whether that is so
//! with other facts before, who lowers the answer, and what can be done about it. Where something is chosen there, it is
//! chosen on every second fact and measured on the others.
//!
//! Intervals are bootstraps over facts: prompts of one fact are no independent items.

mod case;
mod claims;
mod curves;
mod error;
mod falls;
pub mod heads;
pub mod inside;
pub mod intercept;
pub mod last;
pub mod mitigate;
pub mod mlp;
pub mod price;
mod prompts;
mod published;
pub mod shots;
mod traced;

use std::borrow::Cow;
use std::collections::BTreeMap;

use refocus_measure::intervals::holm;
use refocus_measure::recall::Prompt;
use refocus_tasks::recall::Form;
use serde::{Deserialize, Serialize};

use crate::Verdict;
use crate::overthinking::{Estimate, Stratum, sign_flip};

pub use self::case::{
    Case, Counts, FEWEST_ASKED, FEWEST_KNOWN, Outcome, Settings, content_hash, shared_answers, shared_facts,
};
pub use self::claims::{Claim, claims};
pub use self::curves::{Curve, curves};
pub use self::error::RecallError;
pub use self::falls::{Fall, Group, Matched, Part, Seen, falls};
pub use self::prompts::{Beginning, Condition, Item, alike, conditions, items};
pub use self::published::{Named, NamedHead, named};
pub use self::traced::{Reach, Traced, know_stored, trace_stored};

/// Probabilities of chance below this are no chance.
const SIGNIFICANT: f64 = 0.05;
/// Fewer facts than this say nothing.
const FEWEST: usize = 12;

/// What becomes of one claim about what happens inside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// `C1` …, as in the specification.
    pub id: Cow<'static, str>,
    /// In words.
    pub claim: Cow<'static, str>,
    /// By the rule of the function that judged.
    pub verdict: Verdict,
    /// What decided.
    pub why: String,
    /// Facts it was measured on.
    pub n: usize,
    /// What it was compared with.
    pub control: Cow<'static, str>,
}

/// What a claim says, and what it is compared with.
#[derive(Clone, Copy)]
struct Saying {
    id: &'static str,
    claim: &'static str,
    control: &'static str,
}

impl Saying {
    /// How it fared on `n` facts.
    fn fared(self, verdict: Verdict, why: String, n: usize) -> Judged {
        Judged { id: self.id.into(), claim: self.claim.into(), verdict, why, n, control: self.control.into() }
    }
}

impl Judged {
    /// As a claim about prompts of one form of a relation. What decided has several numbers, which stand in its words.
    pub fn about(&self, relation: &str, form: Form) -> Claim {
        Claim {
            id: self.id.clone(),
            claim: self.claim.clone(),
            relation: Some(relation.to_owned()),
            form,
            verdict: self.verdict,
            why: self.why.clone(),
            facts: self.n,
            effect: None,
            beyond: None,
            unit: "",
            control: self.control.clone(),
        }
    }
}

/// Means by fact, in the order of the facts' numbers. Values that are absent count for nothing; facts without a value
/// are not there.
fn by_fact(prompts: &[Prompt], values: impl Iterator<Item = Option<f64>>) -> Vec<f64> {
    let mut all: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for (p, v) in prompts.iter().zip(values) {
        if let Some(v) = v {
            let (sum, n) = all.entry(p.fact).or_default();
            (*sum, *n) = (*sum + v, *n + 1.0);
        }
    }
    all.values().map(|(sum, n)| sum / n).collect()
}

/// The mean over facts.
fn over_facts(prompts: &[Prompt], values: impl Iterator<Item = Option<f64>>, seed: u64) -> Estimate {
    Estimate::of(&by_fact(prompts, values), seed)
}

/// Ratio of the means of two numbers a fact.
fn ratio(above: &[f64], below: &[f64], seed: u64) -> Estimate {
    let of = |drawn: &[usize]| {
        let sum = |v: &[f64]| drawn.iter().map(|&i| v[i]).sum::<f64>();
        sum(above) / sum(below)
    };
    let all: Vec<usize> = (0..above.len()).collect();
    Estimate::statistic(&[above.len()], seed, |drawn| of(&drawn[0]), of(&all))
}

/// Probabilities that chance alone makes means by fact differ from 0 as much, together (Holm).
fn together(differences: &[Vec<f64>], seed: u64) -> Vec<f64> {
    let one = |d: &Vec<f64>| sign_flip(&[Stratum { weight: 1.0, values: d.clone() }], seed);
    holm(&differences.iter().map(one).collect::<Vec<_>>())
}

/// Prompts of facts with an even number, and of the others.
fn halves(prompts: &[Prompt]) -> [Vec<usize>; 2] {
    // By their order and not by their number, so that each half has as many.
    let mut facts: Vec<usize> = prompts.iter().map(|p| p.fact).collect();
    facts.sort_unstable();
    facts.dedup();
    let place = |p: &Prompt| facts.binary_search(&p.fact).unwrap_or(0);
    let half = |odd: usize| (0..prompts.len()).filter(|&i| place(&prompts[i]) % 2 == odd).collect();
    [half(0), half(1)]
}

/// Facts among prompts.
fn facts(prompts: &[Prompt]) -> usize {
    let mut all: Vec<usize> = prompts.iter().map(|p| p.fact).collect();
    all.sort_unstable();
    all.dedup();
    all.len()
}

fn pick<T: Clone>(all: &[T], which: &[usize]) -> Vec<T> {
    which.iter().map(|&i| all[i].clone()).collect()
}
