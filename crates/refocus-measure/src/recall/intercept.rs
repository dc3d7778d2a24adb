//! What an MLP's intercept does, and how far its reconstruction may stand in its place.

use std::sync::Arc;

use refocus_compute::{Batch, KvUse, Ops, Vocab, VocabOut};
use refocus_model::{
    Action, Applied, Intervention, Kind, Model, Plan, Position, Readout, RunError, Site, Wiring, forward_from,
};

use super::observe::{batches, caches};
use super::unembedding::read;
use super::variants::{Swap, Variant, run};
use super::{Observed, Prompt};
use crate::error::MeasureError;

/// Rows whose logits over the vocabulary are held together.
const ROWS: usize = 64;

/// What becomes of the answer when something else stands in place of an MLP's output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fidelity {
    /// Kullback-Leibler divergence (nats) of the changed model's next token from the unchanged one's.
    pub kl: f64,
    /// Probability of the answer, unchanged and changed.
    pub prob: [f64; 2],
    /// Rank of the answer (0 is first), unchanged and changed.
    pub rank: [u32; 2],
    /// The answer's logit minus the mean logit, unchanged and changed.
    pub pi: [f64; 2],
}

/// Puts `instead` `[prompts, d_model]` in the place of what the MLP of a block writes at the last token, everything
/// after it live.
///
/// # Errors
/// No such block; rows of another shape; what the forward pass reports.
pub fn fidelity<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    seen: &Observed,
    layer: usize,
    instead: &[f32],
) -> Result<Vec<Fidelity>, MeasureError> {
    let d = m.spec.d_model;
    if layer >= m.spec.n_layers {
        return Err(MeasureError::Absent { what: format!("block {layer}") });
    }
    if seen.n != prompts.len() || instead.len() != prompts.len() * d {
        return Err(MeasureError::Observed { prompts: prompts.len(), seen: instead.len() / d });
    }
    let (mut out, mut first) = (Vec::with_capacity(prompts.len()), 0);
    for some in batches(prompts) {
        let kept = caches(o, m, some)?;
        let swap = |i: usize| Swap {
            site: Site::new(layer, Kind::MlpOut),
            head: None,
            value: instead[i * d..(i + 1) * d].into(),
        };
        let range = first..first + some.len();
        let variants: Vec<Variant> =
            range.clone().map(|prompt| Variant { prompt, swaps: vec![swap(prompt)] }).collect();
        let changed = run(o, m, seen, &variants, Some((first, &kept)))?;
        let before = &seen.resid_post[range.start * d..range.end * d];
        for ((own, before), after) in
            some.chunks(ROWS).zip(before.chunks(ROWS * d)).zip(changed.chunks(ROWS * d))
        {
            let (before, after) = (logits(o, m, before)?, logits(o, m, after)?);
            let vocab = m.spec.vocab;
            for ((p, a), b) in own.iter().zip(before.chunks_exact(vocab)).zip(after.chunks_exact(vocab)) {
                out.push(compare(a, b, p.answer as usize));
            }
        }
        first = range.end;
    }
    Ok(out)
}

/// What adding a vector to an MLP's output gives: the rows for [`fidelity`].
pub fn nudged(seen: &Observed, layer: usize, vector: &[f32]) -> Vec<f32> {
    let rows = seen.blocks[layer].mlp_out.chunks_exact(vector.len().max(1));
    rows.flat_map(|r| r.iter().zip(vector).map(|(x, v)| x + v)).collect()
}

/// Probability and rank (0 is first) of each prompt's answer by the lens on residual streams `[prompts, d_model]`.
///
/// # Errors
/// Other rows than prompts; what the backend reports.
pub fn lens<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    resid: &[f32],
) -> Result<Vec<(f64, u32)>, MeasureError> {
    let d = m.spec.d_model;
    if resid.len() != prompts.len() * d {
        return Err(MeasureError::Observed { prompts: prompts.len(), seen: resid.len() / d });
    }
    let mut out = Vec::with_capacity(prompts.len());
    for (own, rows) in prompts.chunks(ROWS).zip(resid.chunks(ROWS * d)) {
        let h = read(o, m, rows)?;
        let ids: Arc<[u32]> = own.iter().map(|p| p.answer).collect();
        let got = o.vocab(&h, &m.unembed, &[Vocab::Nll(Arc::clone(&ids)), Vocab::RankOf(ids)])?;
        let [VocabOut::Values(nll), VocabOut::Ranks(ranks)] = &got[..] else {
            return Err(RunError::Unread(0).into());
        };
        let nll = o.to_host(nll)?;
        out.extend(nll.iter().zip(ranks).map(|(n, r)| (f64::from(-n).exp(), *r)));
    }
    Ok(out)
}

/// All logits at residual streams after the last block, `[rows, vocab]`.
///
/// # Errors
/// What the backend reports.
pub fn logits<O: Ops>(o: &mut O, m: &Model<O::K>, resid: &[f32]) -> Result<Vec<f32>, MeasureError> {
    let h = read(o, m, resid)?;
    match o.vocab(&h, &m.unembed, &[Vocab::All])?.first() {
        Some(VocabOut::Values(t)) => Ok(o.to_host(t)?),
        _ => Err(RunError::Unread(0).into()),
    }
}

fn compare(before: &[f32], after: &[f32], answer: usize) -> Fidelity {
    let lse = |x: &[f32]| {
        let top = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = x.iter().map(|x| f64::from(x - top).exp()).sum();
        f64::from(top) + sum.ln()
    };
    let (za, zb) = (lse(before), lse(after));
    let one = |(a, b): (&f32, &f32)| {
        let a = f64::from(*a) - za;
        a.exp() * (a - (f64::from(*b) - zb))
    };
    // What rounding leaves of 0 may lie below it.
    let kl = before.iter().zip(after).map(one).sum::<f64>().max(0.0);
    let rank = |x: &[f32]| {
        x.iter().enumerate().filter(|(i, v)| **v > x[answer] || (**v == x[answer] && *i < answer)).count()
            as u32
    };
    let pi = |x: &[f32]| f64::from(x[answer]) - x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64;
    let prob = |x: &[f32], z: f64| (f64::from(x[answer]) - z).exp();
    Fidelity {
        kl,
        prob: [prob(before, za), prob(after, zb)],
        rank: [rank(before), rank(after)],
        pi: [pi(before), pi(after)],
    }
}

/// Ranks (0 is first) by the lens on the residual stream before an MLP, without and with a vector added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassRanks {
    /// Of the answer.
    pub answer: [u32; 2],
    /// Of the argument, where it is one token.
    pub argument: Option<[u32; 2]>,
    /// Mean over the other answers.
    pub others: [f64; 2],
}

/// Adds `vector` to the residual stream that the MLP of a block reads at the last token, and ranks the answer, the
/// argument and all other `class` tokens by the lens.
///
/// # Errors
/// No such block; what the backend reports.
pub fn class_ranks<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    seen: &Observed,
    layer: usize,
    vector: &[f32],
    class: &[u32],
) -> Result<Vec<ClassRanks>, MeasureError> {
    let (d, vocab) = (m.spec.d_model, m.spec.vocab);
    let Some(block) = seen.blocks.get(layer) else {
        return Err(MeasureError::Absent { what: format!("block {layer}") });
    };
    if vector.len() != d {
        return Err(MeasureError::Width { got: vector.len(), want: d });
    }
    if seen.n != prompts.len() {
        return Err(MeasureError::Observed { prompts: prompts.len(), seen: seen.n });
    }
    if let Some((at, &id)) = class.iter().enumerate().find(|(_, id)| **id as usize >= vocab) {
        return Err(RunError::Id { id, at, vocab }.into());
    }
    // In a parallel block the MLP does not read what attention writes beside it, but its output joins both.
    let mid: Vec<f32> = match m.spec.wiring {
        Wiring::Parallel { .. } => block.resid_pre.iter().zip(&block.attn_out).map(|(a, b)| a + b).collect(),
        _ => block.mlp_in.clone(),
    };
    let mut out = Vec::with_capacity(prompts.len());
    for (own, rows) in prompts.chunks(ROWS).zip(mid.chunks(ROWS * d)) {
        let added: Vec<f32> =
            rows.chunks_exact(d).flat_map(|r| r.iter().zip(vector).map(|(x, v)| x + v)).collect();
        let (plain, added) = (logits(o, m, rows)?, logits(o, m, &added)?);
        for ((p, a), b) in own.iter().zip(plain.chunks_exact(vocab)).zip(added.chunks_exact(vocab)) {
            let ids: Vec<u32> =
                [p.answer].into_iter().chain(p.argument).chain(class.iter().copied()).collect();
            let (a, b) = (ranks(a, &ids), ranks(b, &ids));
            let skip = 1 + usize::from(p.argument.is_some());
            let others: Vec<usize> = (skip..ids.len()).filter(|&i| ids[i] != p.answer).collect();
            let mean =
                |r: &[u32]| others.iter().map(|&i| f64::from(r[i])).sum::<f64>() / others.len().max(1) as f64;
            out.push(ClassRanks {
                answer: [a[0], b[0]],
                argument: p.argument.map(|_| [a[1], b[1]]),
                others: [mean(&a), mean(&b)],
            });
        }
    }
    Ok(out)
}

/// Ranks of some tokens: how many logits are higher.
fn ranks(logits: &[f32], ids: &[u32]) -> Vec<u32> {
    let mut sorted = logits.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    ids.iter().map(|&id| sorted.partition_point(|x| *x > logits[id as usize]) as u32).collect()
}

/// What the MLP of a block writes to first order about the mean of what it reads, `[prompts, d_model]`: its Jacobian
/// there times each prompt's distance from the mean. Central differences, half a distance each way of length
/// `step` times it.
///
/// # Errors
/// No such block; what the forward pass reports.
pub fn first_order<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    seen: &Observed,
    layer: usize,
    step: f32,
) -> Result<Vec<f32>, MeasureError> {
    let d = m.spec.d_model;
    let Some(block) = seen.blocks.get(layer) else {
        return Err(MeasureError::Absent { what: format!("block {layer}") });
    };
    let reads = &block.mlp_in;
    let mut mean = vec![0.0f64; d];
    for row in reads.chunks_exact(d) {
        mean.iter_mut().zip(row).for_each(|(m, x)| *m += f64::from(*x) / seen.n as f64);
    }
    let mean: Vec<f32> = mean.into_iter().map(|x| x as f32).collect();
    let moved = |by: f32| -> Vec<f32> {
        reads.chunks_exact(d).flat_map(|r| r.iter().zip(&mean).map(move |(x, m)| m + by * (x - m))).collect()
    };
    let (up, down, at) =
        (mlp(o, m, layer, &moved(step))?, mlp(o, m, layer, &moved(-step))?, mlp(o, m, layer, &mean)?);
    let both = up.chunks_exact(d).zip(down.chunks_exact(d));
    Ok(both
        .flat_map(|(u, v)| u.iter().zip(v).zip(&at).map(|((u, v), at)| at + (u - v) / (2.0 * step)))
        .collect())
}

/// The MLP of a block on residual streams `[rows, d_model]`.
fn mlp<O: Ops>(o: &mut O, m: &Model<O::K>, layer: usize, reads: &[f32]) -> Result<Vec<f32>, MeasureError> {
    let (d, mut out) = (m.spec.d_model, Vec::with_capacity(reads.len()));
    for rows in reads.chunks(1024 * d) {
        let n = rows.len() / d;
        let batch = Batch::from_lengths(vec![1; n]);
        let mut applied = Vec::new();
        if !matches!(m.spec.wiring, Wiring::Parallel { .. }) {
            let what = Intervention {
                site: Site::new(layer, Kind::ResidMid),
                head: None,
                position: Position::Last,
                action: Action::Set(rows.into()),
                when: None,
            };
            applied.push(Applied { what: Arc::new(what), segs: None });
        }
        let readout = [Readout::Raw { site: Site::new(layer, Kind::MlpOut), rows: None }];
        let plan = Plan::resume(&m.spec, &batch, layer, &readout, &applied)?;
        let x = o.constant(n, d, rows)?;
        let got = forward_from(o, m, x, &plan, KvUse::None)?;
        out.extend(o.to_host(got[0].matrix().ok_or(RunError::Unread(0))?)?);
    }
    Ok(out)
}
