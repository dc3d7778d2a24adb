//! Activation patching: put one activation of the clean run into the corrupted run and see how much of
//! the clean answer comes back. All variants are sequences of one batch.

use std::sync::Arc;

use refocus_compute::{Batch, KvUse, Ops, RowSet, Vocab, VocabOut};
use refocus_model::{
    Action, Applied, Intervention, Kind, Mode, Model, Plan, Position, Readout, RunError, Site, forward,
};

use crate::error::MeasureError;

/// Sequences in one batch of variants at most, times their length.
const ROWS: usize = 2048;

/// Restored share by layer and position (or head).
#[derive(Clone, Debug, PartialEq)]
pub struct PatchingGrid {
    /// What was patched: `hook_resid_pre`, `hook_attn_out`, `hook_mlp_out`, `attn.hook_z`.
    pub kind: Kind,
    /// `[layers][positions]`; for `attn.hook_z` `[layers][heads]`, all positions at once.
    /// 0 = as corrupted, 1 = as clean.
    pub restored: Vec<Vec<f32>>,
}

/// A finished experiment.
#[derive(Clone, Debug, PartialEq)]
pub struct Patching {
    /// The clean run's first choice, or the id given.
    pub answer: u32,
    /// The corrupted run's first choice, or the id given.
    pub wrong: u32,
    /// logit(answer) − logit(wrong) on the clean prompt.
    pub clean: f32,
    /// The same on the corrupted prompt.
    pub corrupted: f32,
    /// Residual stream, attention output and MLP output by position; heads.
    pub grids: Vec<PatchingGrid>,
}

/// Patches every layer and position, and every head, of the clean prompt into the corrupted one.
///
/// # Errors
/// Prompts of different length, no difference between them, or what [`forward`] reports.
pub fn activation_patching<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    clean: &[u32],
    corrupted: &[u32],
    answer: Option<u32>,
    wrong: Option<u32>,
    mut progress: impl FnMut(usize, usize),
) -> Result<Patching, MeasureError> {
    let n = clean.len();
    if n != corrupted.len() {
        return Err(MeasureError::Lengths { clean: n, corrupted: corrupted.len() });
    }
    if n == 0 {
        return Err(RunError::Empty { seq: 0 }.into());
    }
    let layers = m.spec.n_layers;
    let kinds = [Kind::ResidPre, Kind::AttnOut, Kind::MlpOut, Kind::Z];
    let sites: Vec<Site> = (0..layers).flat_map(|l| kinds.map(|k| Site::new(l, k))).collect();

    // The clean run gives the activations, both runs the answers.
    let batch = Batch::from_lengths([n, n]);
    let whole: RowSet = RowSet::new((0..n as u32).collect());
    let ends = RowSet::new(vec![n as u32 - 1, 2 * n as u32 - 1]);
    let mut readouts: Vec<Readout> =
        sites.iter().map(|&site| Readout::Raw { site, rows: Some(whole.clone()) }).collect();
    readouts.push(Readout::logits(&m.spec, Some(ends.clone()), vec![Vocab::Top(1)]));
    let plan = Plan::compile(&m.spec, &batch, &readouts, &[], Mode::default())?;
    let both = [clean, corrupted].concat();
    let got = forward(o, m, &both, &plan, KvUse::None)?;
    let Some([VocabOut::Top(top)]) = got.last().and_then(|r| r.lens(0)) else {
        return Err(RunError::Unread(readouts.len() - 1).into());
    };
    let first = |i: usize| top[i].first().map_or(0, |t| t.0);
    let (answer, wrong) = (answer.unwrap_or_else(|| first(0)), wrong.unwrap_or_else(|| first(1)));
    let pair: Arc<[u32]> = [answer, wrong].into();
    let mut values = Vec::with_capacity(sites.len());
    for r in &got[..sites.len()] {
        values.push(o.to_host(r.matrix().ok_or(RunError::Unread(0))?)?);
    }

    let base = differences(o, m, &both, &batch, &[], &pair)?;
    let (clean_diff, corrupted_diff) = (base[0], base[1]);
    let gap = clean_diff - corrupted_diff;
    if gap.abs() < 1e-6 {
        return Err(MeasureError::NoEffect(clean_diff));
    }

    let mut grids = Vec::new();
    let total = kinds.len() * layers;
    for (k, &kind) in kinds.iter().enumerate() {
        let variants = if kind == Kind::Z { m.spec.n_heads } else { n };
        let mut all: Vec<Arc<Intervention>> = Vec::new();
        for layer in 0..layers {
            let v = &values[layer * kinds.len() + k];
            for i in 0..variants {
                all.push(Arc::new(variant(m.spec.d_head, Site::new(layer, kind), v, n, i)));
            }
        }
        let mut restored = Vec::with_capacity(all.len());
        for chunk in all.chunks((ROWS / n).max(1)) {
            let batch = Batch::from_lengths(vec![n; chunk.len()]);
            let ids = corrupted.repeat(chunk.len());
            let applied: Vec<Applied> = chunk
                .iter()
                .enumerate()
                .map(|(i, what)| Applied { what: Arc::clone(what), segs: Some(vec![i]) })
                .collect();
            let diffs = differences(o, m, &ids, &batch, &applied, &pair)?;
            restored.extend(diffs.iter().map(|d| (d - corrupted_diff) / gap));
            progress(k * layers + restored.len() / variants, total);
        }
        let restored = restored.chunks(variants).map(<[f32]>::to_vec).collect();
        grids.push(PatchingGrid { kind, restored });
    }
    Ok(Patching { answer, wrong, clean: clean_diff, corrupted: corrupted_diff, grids })
}

/// The `i`-th variant at a site: position `i`, or head `i` at all positions.
fn variant(d_head: usize, site: Site, values: &[f32], n: usize, i: usize) -> Intervention {
    let width = values.len() / n;
    if site.kind == Kind::Z {
        let rows = values.chunks_exact(width).flat_map(|r| &r[i * d_head..(i + 1) * d_head]);
        let action = Action::Set(rows.copied().collect());
        return Intervention { site, head: Some(i), position: Position::All, action, when: None };
    }
    let action = Action::Mean(values[i * width..(i + 1) * width].into());
    Intervention { site, head: None, position: Position::At(i as u32), action, when: None }
}

/// logit(pair[0]) − logit(pair[1]) at the end of every sequence.
fn differences<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    ids: &[u32],
    batch: &Batch,
    applied: &[Applied],
    pair: &Arc<[u32]>,
) -> Result<Vec<f32>, MeasureError> {
    let ends = RowSet::new(batch.segs.iter().map(|s| s.rows.end - 1).collect());
    let readouts = [Readout::logits(&m.spec, Some(ends), vec![Vocab::Ids(Arc::clone(pair))])];
    let plan = Plan::compile(&m.spec, batch, &readouts, applied, Mode::default())?;
    let got = forward(o, m, ids, &plan, KvUse::None)?;
    let Some([VocabOut::Values(t)]) = got[0].lens(0) else { return Err(RunError::Unread(0).into()) };
    Ok(o.to_host(t)?.chunks_exact(2).map(|p| p[0] - p[1]).collect())
}
