//! Probability and rank from node to node.

use refocus_measure::residual::Node;
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
    /// Which of the nodes that the model passes through are read, by number.
    pub nodes: Vec<usize>,
    /// Mean probability at each of them; `n` facts.
    pub prob: Vec<Estimate>,
    /// Median over facts of the mean rank (0 = first) at each of them.
    pub rank: Vec<f64>,
}

/// Curves of all conditions, by the tuned lens too where it was there; a token that no prompt has has none.
pub fn curves(all: &[Seen<'_>], spec: &ModelSpec, seed: u64) -> Vec<Curve> {
    let reach = Reach::of(spec);
    let real: Vec<usize> = (0..reach.nodes.len()).filter(|&i| reach.nodes[i].is_real(spec)).collect();
    let place = |n: &Node| real.iter().position(|&i| reach.nodes[i] == *n);
    // Where a lens looks: the numbers of its nodes among the real ones, and in what it saw.
    let logit: Vec<(usize, usize)> = real.iter().copied().enumerate().collect();
    let tuned: Vec<(usize, usize)> =
        reach.blocks.iter().enumerate().filter_map(|(i, n)| Some((place(n)?, i))).collect();
    let mut out = Vec::new();
    for s in all {
        let has_tuned = s.traced.iter().any(|t| !t.tuned.is_empty());
        for (lens, nodes) in [("logit", &logit), ("tuned", &tuned)] {
            if lens == "tuned" && !has_tuned {
                continue;
            }
            for (group, (token, name)) in
                GROUPS.iter().flat_map(|&g| TOKENS.into_iter().enumerate().map(move |t| (g, t)))
            {
                let values = |node: usize, rank: bool| {
                    s.by_fact(|item, t| {
                        let there = match token {
                            1 => item.prompt.argument.is_some(),
                            3 => item.other.1.is_some(),
                            _ => true,
                        };
                        let seen = if lens == "tuned" { t.tuned[node][token] } else { t.seen[node][token] };
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
                    lens,
                    token: name,
                    nodes: nodes.iter().map(|n| n.0).collect(),
                    prob: nodes.iter().map(|n| Estimate::of(&values(n.1, false), seed)).collect(),
                    rank: nodes.iter().map(|n| median(values(n.1, true))).collect(),
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
