//! What single heads do: whether they move the argument (attention to it goes with writing it), and whether their
//! own matrices already turn it into the answer.

use refocus_compute::{KvUse, Ops, RowSet, Then, Vocab, VocabOut};
use refocus_model::{Kind, Mode, Model, Plan, Readout, RunError, Site, Wiring, forward};

use super::components::head_outputs;
use super::observe::{batches, packed};
use super::{Observed, Prompt, Unembedding};
use crate::correlation::pearson;
use crate::direction::FinalNorm;
use crate::error::MeasureError;

/// Rows of the vocabulary product that are held together.
const ROWS: usize = 512;

/// A head by its block, both from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeadAt {
    /// Block.
    pub layer: usize,
    /// Query head.
    pub head: usize,
}

/// The mover test of one head, over the prompts whose argument is one token.
#[derive(Clone, Debug, PartialEq)]
pub struct Mover {
    /// Which.
    pub head: HeadAt,
    /// Attention from the last token to the argument's last token, `[prompts]`.
    pub attention: Vec<f64>,
    /// What the head writes along the argument's unembedding, with the final norm's gain, `[prompts]`.
    pub written: Vec<f64>,
    /// Pearson's correlation of the two; absent where one does not vary.
    pub r: Option<f64>,
}

/// The mover test of all heads: attention to the argument against output along its row of the unembedding.
///
/// # Errors
/// Post-norm models, whose last residual stream is no sum of what heads write; no prompt with an argument of one
/// token; what the backend reports.
pub fn movers<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    seen: &Observed,
    u: &Unembedding,
) -> Result<Vec<Mover>, MeasureError> {
    if m.spec.wiring == Wiring::PostNorm {
        return Err(MeasureError::PostNorm);
    }
    let (d, n_heads) = (m.spec.d_model, m.spec.n_heads);
    let norm = FinalNorm::of(o, m)?;
    let dirs: Vec<(usize, Vec<f64>)> = prompts
        .iter()
        .enumerate()
        .filter_map(|(i, p)| Some((i, norm.direction(u.row(p.argument?)?))))
        .collect();
    if dirs.is_empty() || seen.n != prompts.len() {
        return Err(MeasureError::NoPrompts);
    }
    let mut out = Vec::with_capacity(m.spec.n_layers * n_heads);
    for (layer, block) in seen.blocks.iter().enumerate() {
        for (head, rows) in head_outputs(o, m, seen, layer)?.iter().enumerate() {
            let attention: Vec<f64> =
                dirs.iter().map(|(i, _)| f64::from(block.to_argument[i * n_heads + head])).collect();
            let dot = |(i, dir): &(usize, Vec<f64>)| {
                rows[i * d..(i + 1) * d].iter().zip(dir).map(|(x, u)| f64::from(*x) * u).sum::<f64>()
            };
            let written: Vec<f64> = dirs.iter().map(dot).collect();
            let r = pearson(&attention, &written);
            out.push(Mover { head: HeadAt { layer, head }, attention, written, r });
        }
    }
    Ok(out)
}

/// Ranks (0 is first) among all tokens of what a head would write if it attended to the argument alone.
#[derive(Clone, Debug, PartialEq)]
pub struct OvRanks {
    /// Which.
    pub head: HeadAt,
    /// Of the argument, `[prompts]`; absent where it is no single token.
    pub argument: Vec<Option<u32>>,
    /// Of the answer, `[prompts]`.
    pub answer: Vec<u32>,
    /// Of the answer to another fact in the same words, `[prompts]`: what the class of answers gets.
    pub shuffled: Vec<u32>,
}

/// The OV test: the residual stream at the argument just before the head's block through the block's norm, the
/// head's value and output matrices, the final norm's gain and the unembedding. `partners` give each prompt the
/// other fact.
///
/// # Errors
/// Post-norm models; heads that are not there; what the forward pass reports.
pub fn ov_ranks<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    chosen: &[HeadAt],
    partners: &[usize],
) -> Result<Vec<OvRanks>, MeasureError> {
    let spec = &m.spec;
    if spec.wiring == Wiring::PostNorm {
        return Err(MeasureError::PostNorm);
    }
    if partners.len() != prompts.len() || partners.iter().any(|&p| p >= prompts.len()) {
        return Err(MeasureError::Observed { prompts: prompts.len(), seen: partners.len() });
    }
    if let Some(h) = chosen.iter().find(|h| h.layer >= spec.n_layers || h.head >= spec.n_heads) {
        return Err(MeasureError::Absent { what: format!("head {}.{}", h.layer, h.head) });
    }
    let mut layers: Vec<usize> = chosen.iter().map(|h| h.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let at_argument = at_arguments(o, m, prompts, &layers)?;
    let norm = FinalNorm::of(o, m)?;
    let mut out = Vec::with_capacity(chosen.len());
    for h in chosen {
        let at = layers.binary_search(&h.layer).unwrap_or(0);
        let written = through(o, m, *h, &at_argument[at])?;
        let mut ranks = OvRanks { head: *h, argument: vec![], answer: vec![], shuffled: vec![] };
        let width = spec.d_model;
        for (first, rows) in written.chunks(ROWS * width).enumerate() {
            let first = first * ROWS;
            let own = &prompts[first..first + rows.len() / width];
            // The gain and, in a layer norm, the mean: what the final norm does to a direction, but for its length.
            let lens: Vec<f32> = rows.chunks_exact(width).flat_map(|r| norm.lens(r)).collect();
            let mut x = o.constant(own.len(), width, &lens)?;
            if let Some(p) = &m.project_out {
                x = o.linear(&x, &[p], Then::default())?;
            }
            let answers = own.iter().map(|p| p.answer).collect();
            let others = (first..first + own.len()).map(|i| prompts[partners[i]].answer).collect();
            let arguments = own.iter().map(|p| p.argument.unwrap_or(p.answer)).collect();
            let want = [Vocab::RankOf(answers), Vocab::RankOf(others), Vocab::RankOf(arguments)];
            let got = o.vocab(&x, &m.unembed, &want)?;
            let [VocabOut::Ranks(y), VocabOut::Ranks(other), VocabOut::Ranks(x)] = &got[..] else {
                return Err(RunError::Unread(0).into());
            };
            ranks.answer.extend(y);
            ranks.shuffled.extend(other);
            ranks.argument.extend(own.iter().zip(x).map(|(p, x)| p.argument.map(|_| *x)));
        }
        out.push(ranks);
    }
    Ok(out)
}

/// Residual streams at the arguments before some blocks: `[layers][prompts, d_model]`.
fn at_arguments<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    layers: &[usize],
) -> Result<Vec<Vec<f32>>, MeasureError> {
    let mut out = vec![Vec::new(); layers.len()];
    for some in batches(prompts) {
        let (ids, batch, _) = packed(some);
        let at = |(s, p): (&refocus_compute::Seg, &Prompt)| s.rows.start + p.argument_at as u32;
        let rows = RowSet::new(batch.segs.iter().zip(some).map(at).collect());
        let raw = |&layer: &usize| Readout::Raw {
            site: Site::new(layer, Kind::ResidPre),
            rows: Some(rows.clone()),
        };
        let readouts: Vec<Readout> = layers.iter().map(raw).collect();
        let plan = Plan::compile(&m.spec, &batch, &readouts, &[], Mode::default())?;
        let got = forward(o, m, &ids, &plan, KvUse::None)?;
        for (to, reading) in out.iter_mut().zip(&got) {
            to.extend(o.to_host(reading.matrix().ok_or(RunError::Unread(0))?)?);
        }
    }
    Ok(out)
}

/// A head's value and output matrices on residual streams `[rows, d_model]`.
fn through<O: Ops>(o: &mut O, m: &Model<O::K>, h: HeadAt, resid: &[f32]) -> Result<Vec<f32>, MeasureError> {
    let (spec, block) = (&m.spec, &m.blocks[h.layer]);
    let (d, dh, n) = (spec.d_model, spec.d_head, resid.len() / spec.d_model);
    let mut x = o.constant(n, d, resid)?;
    if let Some(norm) = &block.ln1 {
        x = o.norm(&x, norm)?;
    }
    let v = o.linear(&x, &[&block.v], Then::default())?;
    let v = o.to_host(&v)?;
    let group = h.head / (spec.n_heads / spec.n_kv_heads);
    let mut z = vec![0.0; n * spec.n_heads * dh];
    for (z, v) in z.chunks_exact_mut(spec.n_heads * dh).zip(v.chunks_exact(spec.n_kv_heads * dh)) {
        z[h.head * dh..(h.head + 1) * dh].copy_from_slice(&v[group * dh..(group + 1) * dh]);
    }
    let mut out = Vec::with_capacity(n * d);
    for rows in z.chunks(ROWS * spec.n_heads * dh) {
        let z = o.constant(rows.len() / (spec.n_heads * dh), spec.n_heads * dh, rows)?;
        let r = o.head_result(&z, &block.o, spec.n_heads)?;
        for all in o.to_host(&r)?.chunks_exact(spec.n_heads * d) {
            out.extend(&all[h.head * d..(h.head + 1) * d]);
        }
    }
    Ok(out)
}
