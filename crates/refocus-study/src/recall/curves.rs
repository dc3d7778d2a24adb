//! Probability and rank from node to node.

use refocus_model::ModelSpec;
use serde::Serialize;

use super::falls::{Group, Seen};
use super::prompts::Condition;
use super::traced::Reach;
use crate::overthinking::Estimate;

/// Names of the tokens that are followed.
const TOKENS: [&str; 4] = ["answer", "argument", "other_answer", "other_argument"];
/// Groups that have curves.
const GROUPS: [Group; 3] = [Group::All, Group::RightAtTheEnd, Group::RightBefore];

/// One token's curve in one group of prompts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    /// The relation.
    pub relation: String,
    /// How it was asked.
    #[serde(flatten)]
    pub condition: Condition,
    /// Which prompts.
    pub group: Group,
    /// `logit` or `tuned`.
    pub lens: &'static str,
    /// `answer`, `argument`, `other_answer`, `other_argument`.
    pub token: &'static str,
    /// Mean probability at each node that the model passes through; `n` facts.
    pub prob: Vec<Estimate>,
    /// Median over facts of the mean rank (0 = first) at each of them.
    pub rank: Vec<f64>,
}

/// Curves of all conditions; a token that no prompt has has none.
pub fn curves(all: &[Seen<'_>], spec: &ModelSpec, seed: u64) -> Vec<Curve> {
    let reach = Reach::of(spec);
    let real: Vec<usize> = (0..reach.nodes.len()).filter(|&i| reach.nodes[i].is_real(spec)).collect();
    let mut out = Vec::new();
    for s in all {
        for group in GROUPS {
            for (token, name) in TOKENS.into_iter().enumerate() {
                let values = |node: usize, rank: bool| {
                    s.by_fact(|item, t| {
                        let there = match token {
                            1 => item.prompt.argument.is_some(),
                            3 => item.other.1.is_some(),
                            _ => true,
                        };
                        let seen = t.seen[node][token];
                        let value = if rank { f64::from(seen.rank) } else { seen.prob() };
                        (there && group.has(&reach, t)).then_some(value)
                    })
                };
                if values(0, false).is_empty() {
                    continue;
                }
                out.push(Curve {
                    relation: s.relation.to_owned(),
                    condition: s.condition,
                    group,
                    lens: "logit",
                    token: name,
                    prob: real.iter().map(|&n| Estimate::of(&values(n, false), seed)).collect(),
                    rank: real.iter().map(|&n| median(values(n, true))).collect(),
                });
            }
        }
    }
    out
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    match x.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => x[n / 2],
        n => f64::midpoint(x[n / 2 - 1], x[n / 2]),
    }
}
