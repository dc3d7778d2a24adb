//! Many changed runs of the last token at once: a variant is one row, from the first block that it changes.
//!
//! With everything frozen the heads of later blocks give what they gave (their queries, keys and values are those
//! of the unchanged run), and only the MLPs are computed anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use refocus_compute::{Batch, Kernels, KvSeq, KvUse, Ops, Seg};
use refocus_model::{
    Action, Applied, Intervention, Kind, Model, Plan, Position, Readout, RunError, Site, forward_from,
};

use super::Observed;
use crate::error::MeasureError;

/// Rows that go through the blocks together at most.
const ROWS: usize = 1024;

/// What stands in the place of an activation at the last token.
#[derive(Clone, Debug)]
pub(super) struct Swap {
    pub site: Site,
    pub head: Option<usize>,
    pub value: Arc<[f32]>,
}

/// A changed run of one prompt; unchanged where there is no swap.
#[derive(Clone, Debug)]
pub(super) struct Variant {
    /// Which of the observed prompts.
    pub prompt: usize,
    pub swaps: Vec<Swap>,
}

/// Swaps at one place: the variants that have one, and what they set.
#[derive(Default)]
struct Together {
    rows: Vec<usize>,
    values: Vec<f32>,
}

type Page<O> = <<O as Ops>::K as Kernels>::Page;

/// Residual streams after the last block, `[variants, d_model]`. Heads are frozen where no `caches` are given;
/// these are of the prompts from `first` on.
pub(super) fn run<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    seen: &Observed,
    variants: &[Variant],
    live: Option<(usize, &[KvSeq<Page<O>>])>,
) -> Result<Vec<f32>, MeasureError> {
    let (layers, d) = (m.spec.n_layers, m.spec.d_model);
    let start = |v: &Variant| v.swaps.iter().map(|s| s.site.layer).min().unwrap_or(layers - 1);
    let mut by_start: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, v) in variants.iter().enumerate() {
        by_start.entry(start(v)).or_default().push(i);
    }
    let mut out = vec![0.0; variants.len() * d];
    for (start, all) in by_start {
        for some in all.chunks(ROWS) {
            let chosen: Vec<&Variant> = some.iter().map(|&i| &variants[i]).collect();
            let got = from(o, m, seen, start, &chosen, live)?;
            for (&i, row) in some.iter().zip(got.chunks_exact(d)) {
                out[i * d..(i + 1) * d].copy_from_slice(row);
            }
        }
    }
    Ok(out)
}

/// Variants that begin at the same block.
fn from<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    seen: &Observed,
    start: usize,
    variants: &[&Variant],
    live: Option<(usize, &[KvSeq<Page<O>>])>,
) -> Result<Vec<f32>, MeasureError> {
    let (spec, d) = (&m.spec, m.spec.d_model);
    let mut x = Vec::with_capacity(variants.len() * d);
    for v in variants {
        x.extend(&seen.blocks[start].resid_pre[v.prompt * d..(v.prompt + 1) * d]);
    }
    let caches: Option<Vec<_>> =
        live.map(|(first, all)| variants.iter().map(|v| all[v.prompt - first].clone()).collect());
    let position = |i: usize| caches.as_ref().map_or(0, |c| c[i].len as u32);
    let seg = |i: usize| Seg { rows: i as u32..i as u32 + 1, pos0: position(i) };
    let batch = Batch { segs: (0..variants.len()).map(seg).collect() };
    let mut applied = Vec::new();
    if live.is_none() {
        let width = spec.n_heads * spec.d_head;
        for (layer, block) in seen.blocks.iter().enumerate().skip(start) {
            let rows = variants.iter().flat_map(|v| &block.z[v.prompt * width..(v.prompt + 1) * width]);
            applied.push(set(Site::new(layer, Kind::Z), None, rows.copied().collect(), None));
        }
    }
    let mut together: BTreeMap<(Site, Option<usize>), Together> = BTreeMap::new();
    for (i, v) in variants.iter().enumerate() {
        for s in &v.swaps {
            let all = together.entry((s.site, s.head)).or_default();
            all.rows.push(i);
            all.values.extend(s.value.iter());
        }
    }
    let each =
        |((site, head), all): ((Site, Option<usize>), Together)| set(site, head, all.values, Some(all.rows));
    applied.extend(together.into_iter().map(each));
    let last = Site::new(spec.n_layers - 1, Kind::ResidPost);
    let plan = Plan::resume(spec, &batch, start, &[Readout::Raw { site: last, rows: None }], &applied)?;
    let x = o.constant(variants.len(), d, &x)?;
    let kv = caches.as_deref().map_or(KvUse::None, KvUse::Read);
    let got = forward_from(o, m, x, &plan, kv)?;
    Ok(o.to_host(got[0].matrix().ok_or(RunError::Unread(0))?)?)
}

fn set(site: Site, head: Option<usize>, values: Vec<f32>, segs: Option<Vec<usize>>) -> Applied {
    let action = Action::Set(values.into());
    let what = Intervention { site, head, position: Position::Last, action, when: None };
    Applied { what: Arc::new(what), segs }
}
