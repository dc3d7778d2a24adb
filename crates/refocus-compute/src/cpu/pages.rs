//! Keys and values in blocks of [`KEY_BLOCK`] absolute positions, laid out as panels: a score is a
//! product with the key panels, an output a product with the value panels.

use std::sync::Arc;

use crate::KEY_BLOCK;
use crate::error::Result;
use crate::ops::{AttnSpec, Batch, KvUse};
use crate::simd::LANES;

use super::Cpu;
use super::memory::{CpuBuf, Lines, Pool, floats, floats_mut};

/// One layer's keys and values of a block of positions. Positions not yet filled are zero.
pub struct CpuPage {
    data: Lines,
    len: usize,
    pool: Pool,
}

impl Drop for CpuPage {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.data));
    }
}

/// Where things lie inside a page.
#[derive(Clone, Copy)]
pub(super) struct PageShape {
    pub kv_heads: usize,
    pub d_head: usize,
}

impl PageShape {
    pub(super) fn of(spec: &AttnSpec) -> Self {
        Self { kv_heads: spec.n_kv_heads, d_head: spec.d_head }
    }

    /// Panels of values a head.
    pub(super) fn value_panels(self) -> usize {
        self.d_head.div_ceil(LANES)
    }

    fn head_len(self) -> usize {
        KEY_BLOCK * (self.d_head + self.value_panels() * LANES)
    }

    fn len(self) -> usize {
        self.kv_heads * self.head_len()
    }

    /// Start of the key panels `[4][d_head][16]` of a head.
    pub(super) fn keys(self, head: usize) -> usize {
        head * self.head_len()
    }

    /// Start of the value panels `[⌈d_head/16⌉][64][16]` of a head.
    pub(super) fn values(self, head: usize) -> usize {
        head * self.head_len() + KEY_BLOCK * self.d_head
    }
}

impl CpuPage {
    fn stale(pool: &Pool, shape: PageShape) -> Result<Self> {
        Ok(Self { data: pool.take(shape.len())?, len: shape.len(), pool: pool.clone() })
    }

    pub(super) fn as_slice(&self) -> &[f32] {
        floats(&self.data, self.len)
    }

    /// Writes the keys and values of packed rows `row ..` at positions `from .. to` of this block.
    fn fill(&mut self, s: PageShape, k: &CpuBuf, v: &CpuBuf, row: usize, from: usize, to: usize) {
        let data = floats_mut(&mut self.data, self.len);
        let d = s.d_head;
        for head in 0..s.kv_heads {
            let (keys, values) = (s.keys(head), s.values(head));
            for i in from..to {
                let key = &k.row(row + i - from)[head * d..(head + 1) * d];
                let at = keys + i / LANES * d * LANES + i % LANES;
                for (j, &x) in key.iter().enumerate() {
                    data[at + j * LANES] = x;
                }
                let value = &v.row(row + i - from)[head * d..(head + 1) * d];
                for (panel, x) in value.chunks(LANES).enumerate() {
                    let at = values + (panel * KEY_BLOCK + i) * LANES;
                    data[at..at + x.len()].copy_from_slice(x);
                    data[at + x.len()..at + LANES].fill(0.0);
                }
            }
        }
    }
}

/// The pages every segment attends to: those it continues and those of its new rows.
pub(super) fn pages(
    cpu: &mut Cpu,
    spec: &AttnSpec,
    layer: usize,
    batch: &Batch,
    k: &CpuBuf,
    v: &CpuBuf,
    kv: &mut KvUse<'_, CpuPage>,
) -> Result<Vec<Vec<Arc<CpuPage>>>> {
    let shape = PageShape::of(spec);
    let mut all = Vec::with_capacity(batch.segs.len());
    // Segment, place, page, and the page of others that it goes on from.
    let mut fresh: Vec<(usize, usize, CpuPage, Option<Arc<CpuPage>>)> = Vec::new();
    for (i, seg) in batch.segs.iter().enumerate() {
        // An appended sequence gives its pages away for the moment, so that a page nobody shares can
        // be filled in place.
        let mut past = match kv {
            KvUse::None => Vec::new(),
            KvUse::Read(seqs) => seqs[i].layers[layer].clone(),
            KvUse::Append(seqs) => std::mem::take(&mut seqs[i].layers[layer]),
        };
        let pos0 = seg.pos0 as usize;
        let end = pos0 + seg.rows.len();
        let whole = pos0 / KEY_BLOCK;
        let mut partial = past.drain(whole.min(past.len())..).next();
        all.push(past);
        for page in whole..end.div_ceil(KEY_BLOCK) {
            let started = partial.take().map(Arc::try_unwrap);
            let (p, other) = match started {
                Some(Ok(own)) => (own, None),
                Some(Err(shared)) => (CpuPage::stale(&cpu.pool, shape)?, Some(shared)),
                None => {
                    let mut p = CpuPage::stale(&cpu.pool, shape)?;
                    if end < (page + 1) * KEY_BLOCK {
                        floats_mut(&mut p.data, p.len).fill(0.0);
                    }
                    (p, None)
                }
            };
            fresh.push((i, page, p, other));
        }
        // A segment without rows keeps what it had.
        all[i].extend(partial);
    }
    {
        let cells: Vec<_> = fresh.iter_mut().map(std::sync::Mutex::new).collect();
        cpu.team.run(cells.len(), |c| {
            let mut cell = cells[c].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let (i, page, p, other) = &mut **cell;
            if let Some(other) = other {
                floats_mut(&mut p.data, p.len).copy_from_slice(other.as_slice());
            }
            let seg = &batch.segs[*i];
            let (pos0, start) = (seg.pos0 as usize, *page * KEY_BLOCK);
            let from = pos0.max(start);
            let to = (pos0 + seg.rows.len()).min(start + KEY_BLOCK);
            p.fill(shape, k, v, seg.rows.start as usize + from - pos0, from - start, to - start);
        });
    }
    for (i, _, p, _) in fresh {
        all[i].push(Arc::new(p));
    }
    if let KvUse::Append(seqs) = kv {
        for (seq, pages) in seqs.iter_mut().zip(&all) {
            seq.layers[layer].clone_from(pages);
        }
    }
    Ok(all)
}
