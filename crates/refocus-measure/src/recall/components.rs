//! The last token's residual stream as a sum of what embeddings, heads and MLPs wrote: their shares of logits
//! (direct logit attribution), and as regressors of an MLP.

use std::fmt;

use refocus_compute::Ops;
use refocus_model::{Model, Wiring};

use super::unembedding::vector;
use super::{Observed, Prompt, Unembedding};
use crate::direction::FinalNorm;
use crate::error::MeasureError;

/// Rows whose head outputs are held together.
const ROWS: usize = 256;

/// A part of the sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    /// Token and position embeddings.
    Embedding,
    /// One head, without the output bias.
    Head {
        /// Block.
        layer: usize,
        /// Query head.
        head: usize,
    },
    /// The bias of a block's attention output.
    AttentionBias(usize),
    /// A block's MLP, its bias included.
    Mlp(usize),
    /// The residual stream before the MLP of this block, less the heads that are regressors themselves.
    Rest(usize),
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Component::Embedding => f.write_str("embedding"),
            Component::Head { layer, head } => write!(f, "{layer}.{head}"),
            Component::AttentionBias(layer) => write!(f, "attention bias {layer}"),
            Component::Mlp(layer) => write!(f, "mlp {layer}"),
            Component::Rest(layer) => write!(f, "rest {layer}"),
        }
    }
}

/// Shares of the answer's and the argument's logit.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares {
    /// All parts of the last residual stream, in the order of the model.
    pub parts: Vec<Component>,
    /// `[parts][prompts]`: share of π(Y), the answer's logit minus the mean logit.
    pub answer: Vec<Vec<f64>>,
    /// `[parts][prompts]`: share of π(X); absent for prompts whose argument is no single token.
    pub argument: Vec<Vec<Option<f64>>>,
    /// `[parts][prompts]`: length (ℓ2) of what the part writes.
    pub norm: Vec<Vec<f64>>,
    /// The largest distance (ℓ2) of a prompt's parts' sum from its residual stream, over that stream's length.
    pub worst: f64,
}

/// What a prompt's logits are products with, and the final norm's denominator.
struct Toward {
    answer: Option<Vec<f64>>,
    argument: Option<Vec<f64>>,
    scale: f64,
}

/// Splits π(Y) and π(X) of every prompt with the final norm's denominator held fixed. What the norm's bias and the
/// head's bias add belongs to no part.
///
/// # Errors
/// Post-norm models, whose residual stream is no sum of its parts; what the backend reports.
pub fn shares<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    seen: &Observed,
    u: &Unembedding,
) -> Result<Shares, MeasureError> {
    if m.spec.wiring == Wiring::PostNorm {
        return Err(MeasureError::PostNorm);
    }
    if seen.n != prompts.len() {
        return Err(MeasureError::Observed { prompts: prompts.len(), seen: seen.n });
    }
    let d = m.spec.d_model;
    let norm = FinalNorm::of(o, m)?;
    let toward = |id: u32| -> Option<Vec<f64>> {
        let row = u.row(id)?;
        let over: Vec<f32> = row.iter().zip(u.mean_row()).map(|(x, m)| (f64::from(*x) - m) as f32).collect();
        Some(norm.direction(&over))
    };
    let none = || Vec::with_capacity(prompts.len());
    let one = |(p, end): (&Prompt, &[f32])| Toward {
        answer: toward(p.answer),
        argument: p.argument.and_then(toward),
        scale: norm.denominator(end),
    };
    let dirs: Vec<Toward> = prompts.iter().zip(seen.resid_post.chunks_exact(d)).map(one).collect();
    let mut out = Shares { parts: Vec::new(), answer: vec![], argument: vec![], norm: vec![], worst: 0.0 };
    let mut sum: Vec<f64> = vec![0.0; seen.resid_post.len()];
    each(o, m, seen, |part, rows| {
        let (mut answer, mut argument, mut length) = (none(), Vec::with_capacity(prompts.len()), none());
        for ((row, to), sum) in rows.chunks_exact(d).zip(&dirs).zip(sum.chunks_exact_mut(d)) {
            let dot =
                |dir: &Vec<f64>| row.iter().zip(dir).map(|(a, b)| f64::from(*a) * b).sum::<f64>() / to.scale;
            answer.push(to.answer.as_ref().map_or(f64::NAN, dot));
            argument.push(to.argument.as_ref().map(dot));
            length.push(row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt());
            sum.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(*x));
        }
        out.parts.push(part);
        out.answer.push(answer);
        out.argument.push(argument);
        out.norm.push(length);
    })?;
    for (sum, end) in sum.chunks_exact(d).zip(seen.resid_post.chunks_exact(d)) {
        let off = sum.iter().zip(end).map(|(s, x)| (s - f64::from(*x)).powi(2)).sum::<f64>();
        let all = end.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
        out.worst = out.worst.max((off / all).sqrt());
    }
    Ok(out)
}

/// Every part in the order of the model with what it wrote, `[prompts, d_model]`.
fn each<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    seen: &Observed,
    mut take: impl FnMut(Component, &[f32]),
) -> Result<(), MeasureError> {
    take(Component::Embedding, &seen.blocks[0].resid_pre);
    for (layer, block) in seen.blocks.iter().enumerate() {
        for (head, rows) in head_outputs(o, m, seen, layer)?.iter().enumerate() {
            take(Component::Head { layer, head }, rows);
        }
        if let Some(bias) = &m.blocks[layer].o.bias {
            take(Component::AttentionBias(layer), &vector(o, bias)?.repeat(seen.n));
        }
        take(Component::Mlp(layer), &block.mlp_out);
    }
    Ok(())
}

/// What each head of a block writes, without the output bias: `[heads][prompts, d_model]`.
///
/// # Errors
/// What the backend reports.
pub fn head_outputs<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    seen: &Observed,
    layer: usize,
) -> Result<Vec<Vec<f32>>, MeasureError> {
    let (n_heads, d) = (m.spec.n_heads, m.spec.d_model);
    let width = n_heads * m.spec.d_head;
    let mut out = vec![Vec::with_capacity(seen.n * d); n_heads];
    for rows in seen.blocks[layer].z.chunks(ROWS * width) {
        let z = o.constant(rows.len() / width, width, rows)?;
        let r = o.head_result(&z, &m.blocks[layer].o, n_heads)?;
        for (i, row) in o.to_host(&r)?.chunks_exact(d).enumerate() {
            out[i % n_heads].extend(row);
        }
    }
    Ok(out)
}

/// What the MLP of a block is regressed on, with values `[prompts, d_model]`.
///
/// Alone (`cumulative` false) it is each head whose output the MLP is the first to read, those of the same block or,
/// where attention and MLP run in parallel, of the block before, and the rest of the residual stream. Cumulative it
/// is every head and MLP before this MLP, and the embedding; their sum is what the MLP reads, but for biases.
///
/// # Errors
/// No such block; what the backend reports.
pub fn regressors<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    seen: &Observed,
    layer: usize,
    cumulative: bool,
) -> Result<Vec<(Component, Vec<f32>)>, MeasureError> {
    let Some(block) = seen.blocks.get(layer) else {
        return Err(MeasureError::Absent { what: format!("block {layer}") });
    };
    let parallel = matches!(m.spec.wiring, Wiring::Parallel { .. });
    // Blocks whose heads come before this MLP.
    let before = if parallel { layer } else { layer + 1 };
    let mut out = Vec::new();
    if cumulative {
        out.push((Component::Embedding, seen.blocks[0].resid_pre.clone()));
        for at in 0..before {
            let rows = head_outputs(o, m, seen, at)?.into_iter().enumerate();
            out.extend(rows.map(|(head, rows)| (Component::Head { layer: at, head }, rows)));
            if at < layer {
                out.push((Component::Mlp(at), seen.blocks[at].mlp_out.clone()));
            }
        }
        return Ok(out);
    }
    let mut rest = block.resid_pre.clone();
    if let Some(at) = before.checked_sub(1) {
        for (head, rows) in head_outputs(o, m, seen, at)?.into_iter().enumerate() {
            if parallel {
                rest.iter_mut().zip(&rows).for_each(|(r, x)| *r -= x);
            }
            out.push((Component::Head { layer: at, head }, rows));
        }
    }
    out.push((Component::Rest(layer), rest));
    Ok(out)
}
