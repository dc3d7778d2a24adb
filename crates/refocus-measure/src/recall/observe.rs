//! What every block does at the last tokens of prompts, from one pass over them.

use refocus_compute::{Batch, Kernels, KvSeq, KvUse, Ops, RowSet};
use refocus_model::{
    Kind, Mode, Model, ModelSpec, Plan, Reading, Readout, RunError, Site, empty_cache, forward,
};

use super::Prompt;
use crate::error::MeasureError;

/// Tokens of prompts that go through the model together, about.
const TOKENS: usize = 1024;

/// One block at the last tokens. Matrices have one row a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AtBlock {
    /// `[prompts, d_model]`: the residual stream before the block.
    pub resid_pre: Vec<f32>,
    /// `[prompts, n_heads · d_head]`.
    pub z: Vec<f32>,
    /// `[prompts, d_model]`: what attention adds, its bias included.
    pub attn_out: Vec<f32>,
    /// `[prompts, d_model]`: the residual stream that the MLP reads (through its norm). Where attention and MLP run
    /// in parallel it is the one before the block.
    pub mlp_in: Vec<f32>,
    /// `[prompts, d_model]`: what the MLP adds, its bias included.
    pub mlp_out: Vec<f32>,
    /// `[prompts, n_heads]`: attention to the argument's last token.
    pub to_argument: Vec<f32>,
    /// `[prompts, n_heads]`: attention to the first token.
    pub to_first: Vec<f32>,
}

/// What a model computes at the last tokens of prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Prompts.
    pub n: usize,
    /// Blocks in order.
    pub blocks: Vec<AtBlock>,
    /// `[prompts, d_model]`: the residual stream after the last block.
    pub resid_post: Vec<f32>,
}

impl Observed {
    /// The same of some of the prompts, in the order of `which`.
    ///
    /// # Panics
    /// Where a prompt was not observed.
    pub fn only(&self, which: &[usize]) -> Self {
        let rows = |all: &[f32]| -> Vec<f32> {
            let width = all.len() / self.n.max(1);
            which.iter().flat_map(|&i| all[i * width..(i + 1) * width].iter().copied()).collect()
        };
        let block = |b: &AtBlock| AtBlock {
            resid_pre: rows(&b.resid_pre),
            z: rows(&b.z),
            attn_out: rows(&b.attn_out),
            mlp_in: rows(&b.mlp_in),
            mlp_out: rows(&b.mlp_out),
            to_argument: rows(&b.to_argument),
            to_first: rows(&b.to_first),
        };
        Self {
            n: which.len(),
            blocks: self.blocks.iter().map(block).collect(),
            resid_post: rows(&self.resid_post),
        }
    }
}

/// Runs prompts, a few in each pass; `tick` is told how many more are done.
///
/// # Errors
/// No prompts; prompts that are empty, or whose argument or answer the model does not have; numbers that are none;
/// what [`forward`] reports.
pub fn observe<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    mut tick: impl FnMut(usize),
) -> Result<Observed, MeasureError> {
    check(m.spec.vocab, prompts)?;
    let blocks = vec![AtBlock::default(); m.spec.n_layers];
    let mut out = Observed { n: prompts.len(), blocks, resid_post: Vec::new() };
    for some in batches(prompts) {
        pass(o, m, some, &mut out)?;
        tick(some.len());
    }
    if let Some(at) = out.resid_post.iter().position(|x| !x.is_finite()) {
        let seq = at / m.spec.d_model;
        let position = prompts[seq].ids.len() - 1;
        return Err(RunError::NotANumber { what: "the last residual stream".into(), seq, position }.into());
    }
    Ok(out)
}

/// Prompts in groups that go through the model together.
pub(super) fn batches(prompts: &[Prompt]) -> Vec<&[Prompt]> {
    let (mut out, mut rest) = (Vec::new(), prompts);
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |p: &&Prompt| {
            tokens += p.ids.len();
            tokens <= TOKENS
        };
        let many = rest.iter().take_while(fits).count().max(1);
        let (now, later) = rest.split_at(many);
        out.push(now);
        rest = later;
    }
    out
}

fn check(vocab: usize, prompts: &[Prompt]) -> Result<(), MeasureError> {
    let bad = |prompt: usize, why: &str| Err(MeasureError::Prompt { prompt, why: why.to_owned() });
    if prompts.is_empty() {
        return Err(MeasureError::NoPrompts);
    }
    for (i, p) in prompts.iter().enumerate() {
        if p.argument_at >= p.ids.len() {
            return bad(i, "its argument is not in it");
        }
        if [Some(p.answer), p.argument].into_iter().flatten().any(|id| id as usize >= vocab) {
            return bad(i, "its answer or argument is not in the vocabulary");
        }
    }
    Ok(())
}

/// The ids end to end, and their batch.
pub(super) fn packed(prompts: &[Prompt]) -> (Vec<u32>, Batch, RowSet) {
    let batch = Batch::from_lengths(prompts.iter().map(|p| p.ids.len()));
    let ids = prompts.iter().flat_map(|p| p.ids.iter().copied()).collect();
    let ends = RowSet::new(batch.segs.iter().map(|s| s.rows.end - 1).collect());
    (ids, batch, ends)
}

/// What is read of every block.
fn sites(spec: &ModelSpec) -> [Kind; 5] {
    let read = if Kind::ResidMid.check(spec).is_ok() { Kind::ResidMid } else { Kind::ResidPre };
    [Kind::ResidPre, Kind::Z, Kind::AttnOut, read, Kind::MlpOut]
}

fn pass<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    out: &mut Observed,
) -> Result<(), MeasureError> {
    let spec = &m.spec;
    let (ids, batch, ends) = packed(prompts);
    let one = |p: &Prompt| {
        let at = p.argument_at as u32;
        [at..at + 1, 0..1].map(|keys| Vec::from([keys])).to_vec()
    };
    let groups: Vec<_> = prompts.iter().map(one).collect();
    let sites = sites(spec);
    let mut readouts = Vec::new();
    for layer in 0..spec.n_layers {
        let raw = |kind| Readout::Raw { site: Site::new(layer, kind), rows: Some(ends.clone()) };
        readouts.extend(sites.map(raw));
        let (rows, groups) = (Some(ends.clone()), Some(groups.clone()));
        readouts.push(Readout::Attention { layer, rows, groups, stats: false });
    }
    let last = Site::new(spec.n_layers - 1, Kind::ResidPost);
    readouts.push(Readout::Raw { site: last, rows: Some(ends) });
    let plan = Plan::compile(spec, &batch, &readouts, &[], Mode::default())?;
    let got = forward(o, m, &ids, &plan, KvUse::None)?;
    for (layer, (to, at)) in out.blocks.iter_mut().zip(got.chunks(sites.len() + 1)).enumerate() {
        let rows = [&mut to.resid_pre, &mut to.z, &mut to.attn_out, &mut to.mlp_in, &mut to.mlp_out];
        for (to, reading) in rows.into_iter().zip(at) {
            to.extend(o.to_host(reading.matrix().ok_or(RunError::Unread(layer))?)?);
        }
        let Some(Reading::Attention { mass: Some(mass), .. }) = at.last() else {
            return Err(RunError::Unread(layer).into());
        };
        for pair in o.to_host(mass)?.chunks_exact(2) {
            to.to_argument.push(pair[0]);
            to.to_first.push(pair[1]);
        }
    }
    let end = got.last().and_then(Reading::matrix).ok_or(RunError::Unread(readouts.len() - 1))?;
    out.resid_post.extend(o.to_host(end)?);
    Ok(())
}

/// Keys and values of prompts up to the token before the last.
pub(super) fn caches<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
) -> Result<Vec<KvSeq<<O::K as Kernels>::Page>>, MeasureError> {
    let (ids, batch, ends) = packed(prompts);
    let last = Site::new(m.spec.n_layers - 1, Kind::ResidPost);
    let readouts = [Readout::Raw { site: last, rows: Some(ends) }];
    let mode = Mode { keeps_cache: true, decoding: false };
    let plan = Plan::compile(&m.spec, &batch, &readouts, &[], mode)?;
    let mut caches: Vec<_> = prompts.iter().map(|_| empty_cache(m)).collect();
    forward(o, m, &ids, &plan, KvUse::Append(&mut caches))?;
    caches.iter_mut().for_each(|c| c.len -= 1);
    Ok(caches)
}
