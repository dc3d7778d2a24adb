//! Questions about the vocabulary product, answered chunk by chunk: no row of logits is stored unless
//! all of it is asked for.
//!
//! Chunks of [`CHUNK`] ids are part of the format: the log-sum-exp of a row is the merge, in ascending
//! order, of one maximum and one sum a chunk.

use std::sync::{Mutex, PoisonError};

use crate::error::Result;
use crate::ops::{Vocab, VocabOut};
use crate::simd::{LANES, Simd, exp, isa_fn, ln};
use crate::source::MatrixSource;

use super::Cpu;
use super::memory::{CpuBuf, Out, Scratch};
use super::panels::Panels;
use super::product::{Epilogue, Rect, rect};

/// Ids in a chunk.
const CHUNK: usize = 1024;
/// Rows handled together.
const ROWS: usize = 48;

/// What the sweep over the whole vocabulary must collect.
struct Sweep<'a> {
    lse: bool,
    top: usize,
    ranks: Vec<(&'a [u32], Vec<f32>)>,
    /// Of each row the logit of one id.
    picked: Vec<(&'a [u32], Out)>,
    all: Option<Out>,
}

/// One chunk's share of a row's answers.
#[derive(Clone, Default)]
struct Share {
    max: f32,
    sum: f32,
    top: Vec<(u32, f32)>,
    above: Vec<u32>,
}

pub(super) fn vocab(
    cpu: &mut Cpu,
    x: &CpuBuf,
    u: &Panels,
    bias: Option<&CpuBuf>,
    want: &[Vocab],
) -> Result<Vec<VocabOut<CpuBuf>>> {
    // Chosen logits come from a small product with the chosen rows; a sum's bits do not depend on
    // which other outputs are computed, so they equal those of the full product.
    let mut chosen = Vec::new();
    for w in want {
        chosen.push(match w {
            Vocab::Ids(ids) => Some(ids_logits(cpu, x, u, bias, ids)?),
            // Picked from the sweep, which this answer needs in any case.
            Vocab::Nll(_) => Some(cpu.stale(x.rows, 1)?),
            Vocab::RankOf(ids) => Some(one_logit(cpu, x, u, bias, ids)?),
            _ => None,
        });
    }
    let mut all = want.contains(&Vocab::All).then(|| cpu.stale(x.rows, u.n)).transpose()?;
    let sweep = Sweep {
        lse: want.iter().any(|w| matches!(w, Vocab::LogSumExp | Vocab::Nll(_))),
        top: want.iter().map(|w| if let Vocab::Top(n) = w { *n } else { 0 }).max().unwrap_or(0),
        ranks: want
            .iter()
            .zip(&chosen)
            .filter_map(|(w, c)| match (w, c) {
                (Vocab::RankOf(ids), Some(c)) => Some((&ids[..], c.as_slice().to_vec())),
                _ => None,
            })
            .collect(),
        picked: want
            .iter()
            .zip(&mut chosen)
            .filter_map(|(w, c)| match (w, c) {
                (Vocab::Nll(ids), Some(c)) => Some((&ids[..], Out::new(c.as_mut_slice()))),
                _ => None,
            })
            .collect(),
        all: all.as_mut().map(|a| Out::new(a.as_mut_slice())),
    };
    let needed = sweep.lse || sweep.top > 0 || !sweep.ranks.is_empty() || sweep.all.is_some();
    let shares = if needed { run(cpu, x, u, bias, &sweep) } else { Vec::new() };
    let chunks = u.n.div_ceil(CHUNK);
    let lse: Vec<f32> = if sweep.lse { shares.chunks(chunks).map(merge_lse).collect() } else { Vec::new() };

    let mut rank = 0;
    want.iter()
        .zip(chosen)
        .map(|(w, chosen)| {
            Ok(match (w, chosen) {
                (Vocab::Ids(_), Some(c)) => VocabOut::Values(c),
                (Vocab::LogSumExp, _) => VocabOut::Values(cpu.column(&lse)?),
                (Vocab::Nll(_), Some(mut c)) => {
                    for (c, lse) in c.as_mut_slice().iter_mut().zip(&lse) {
                        *c = lse - *c;
                    }
                    VocabOut::Values(c)
                }
                (Vocab::Top(n), _) => {
                    VocabOut::Top(shares.chunks(chunks).map(|s| merge_top(s, *n)).collect())
                }
                (Vocab::RankOf(_), _) => {
                    rank += 1;
                    let of_row = |s: &[Share]| s.iter().map(|s| s.above[rank - 1]).sum();
                    VocabOut::Ranks(shares.chunks(chunks).map(of_row).collect())
                }
                (Vocab::All, _) => VocabOut::Values(all.take().map_or_else(|| cpu.stale(0, 0), Ok)?),
                (Vocab::Ids(_) | Vocab::Nll(_), None) => VocabOut::Values(cpu.stale(0, 0)?),
            })
        })
        .collect()
}

/// Logits of `ids` for every row: `[rows, ids]`.
pub(super) fn ids_logits(
    cpu: &mut Cpu,
    x: &CpuBuf,
    u: &Panels,
    bias: Option<&CpuBuf>,
    ids: &[u32],
) -> Result<CpuBuf> {
    let small = select(cpu, u, ids)?;
    let bias = bias.map(|b| b.as_slice()).map(|b| ids.iter().map(|&i| b[i as usize]).collect::<Vec<_>>());
    let bias = bias.map(|b| cpu.row_of(&b)).transpose()?;
    super::linear::linear(cpu, x, &[(&small, bias.as_ref())], None, None)
}

/// The chosen rows of a packed matrix as f32 panels.
pub(super) fn select(cpu: &mut Cpu, u: &Panels, ids: &[u32]) -> Result<Panels> {
    let mut rows = vec![0.0f32; ids.len() * u.k];
    for (out, &id) in rows.chunks_exact_mut(u.k.max(1)).zip(ids) {
        u.row(cpu.isa, id as usize, out);
    }
    Panels::pack(&MatrixSource::from_f32("selected rows", ids.len(), u.k, &rows), &mut cpu.team)
}

/// One logit a row: `[rows, 1]`. Equal ids share a row of the small product.
fn one_logit(cpu: &mut Cpu, x: &CpuBuf, u: &Panels, bias: Option<&CpuBuf>, ids: &[u32]) -> Result<CpuBuf> {
    let mut out = cpu.stale(x.rows, 1)?;
    for start in (0..x.rows).step_by(64) {
        let end = x.rows.min(start + 64);
        let mut unique = ids[start..end].to_vec();
        unique.sort_unstable();
        unique.dedup();
        let rows: Vec<u32> = (start as u32..end as u32).collect();
        let part = super::rows::gather(cpu, x, &rows)?;
        let logits = ids_logits(cpu, &part, u, bias, &unique)?;
        for (r, id) in ids[start..end].iter().enumerate() {
            let c = unique.partition_point(|u| u < id);
            out.as_mut_slice()[start + r] = logits.row(r)[c];
        }
    }
    Ok(out)
}

/// The sweep: shares in row-major order, `[rows][chunks]`.
fn run(cpu: &mut Cpu, x: &CpuBuf, u: &Panels, bias: Option<&CpuBuf>, sweep: &Sweep<'_>) -> Vec<Share> {
    let chunks = u.n.div_ceil(CHUNK);
    let blocks = x.rows.div_ceil(ROWS);
    let cells: Vec<Mutex<Vec<Share>>> = (0..blocks * chunks).map(|_| Mutex::default()).collect();
    let isa = cpu.isa;
    cpu.team.run(blocks * chunks, |i| {
        // Neighbouring tiles share a chunk of the weights.
        let (chunk, block) = (i / blocks, i % blocks);
        let rows = block * ROWS..x.rows.min((block + 1) * ROWS);
        let ids = chunk * CHUNK..u.n.min((chunk + 1) * CHUNK);
        let epi = Epilogue { bias: bias.map(CpuBuf::as_slice), ..Epilogue::NONE };
        let (p0, p1) = (ids.start / LANES, ids.end.div_ceil(LANES));
        let mut scratch = Scratch::take(ROWS * CHUNK);
        let (c, ldc) = match sweep.all {
            // SAFETY: this tile's rectangle of the output.
            Some(all) => (unsafe { all.at(rows.start * u.n + ids.start) }, u.n),
            None => (scratch.get(ROWS * CHUNK).as_mut_ptr(), CHUNK),
        };
        let input = x.row(rows.start).as_ptr();
        let mut shares = Vec::with_capacity(rows.len());
        // SAFETY: the rectangle lies within `x`, `u` and the output chosen above.
        unsafe {
            rect(isa, &Rect { x: input, ldx: u.k, rows: rows.len(), w: u, p0, p1, c, ldc, epi });
            for r in rows.clone() {
                let logits = std::slice::from_raw_parts(c.add((r - rows.start) * ldc), ids.len());
                shares.push(share(isa, logits, ids.start as u32, r, sweep));
            }
        }
        *cells[block * chunks + chunk].lock().unwrap_or_else(PoisonError::into_inner) = shares;
    });
    let mut by_block: Vec<Vec<Share>> =
        cells.into_iter().map(|c| c.into_inner().unwrap_or_else(PoisonError::into_inner)).collect();
    let mut out = Vec::with_capacity(x.rows * chunks);
    for r in 0..x.rows {
        for chunk in 0..chunks {
            out.push(std::mem::take(&mut by_block[r / ROWS * chunks + chunk][r % ROWS]));
        }
    }
    out
}

/// What one chunk of logits of row `r` says.
unsafe fn share(isa: crate::simd::Isa, logits: &[f32], id0: u32, r: usize, sweep: &Sweep<'_>) -> Share {
    let mut s = Share::default();
    for (ids, out) in &sweep.picked {
        let at = ids[r].wrapping_sub(id0) as usize;
        if let Some(logit) = logits.get(at) {
            // SAFETY: an id lies in one chunk, so nobody else writes this row's.
            unsafe { *out.at(r) = *logit };
        }
    }
    if sweep.lse {
        // SAFETY: no condition.
        (s.max, s.sum) = unsafe { max_sum(isa, logits) };
    }
    if sweep.top > 0 {
        s.top = top_of(logits, id0, sweep.top);
    }
    for (ids, values) in &sweep.ranks {
        let (id, value) = (ids[r], values[r]);
        let before = |(i, &l): (usize, &f32)| l > value || (l == value && id0 + (i as u32) < id);
        s.above.push(logits.iter().enumerate().filter(|&x| before(x)).count() as u32);
    }
    s
}

isa_fn! {
    /// Maximum and sum of exponentials relative to it.
    ///
    /// # Safety
    /// None beyond a valid `Isa`.
    unsafe fn max_sum = max_sum_body(x: &[f32]) -> (f32, f32)
}

#[inline(always)]
pub(super) unsafe fn max_sum_body<S: Simd>(x: &[f32]) -> (f32, f32) {
    // SAFETY: partial vectors stay within the slice.
    unsafe {
        let mut top = S::splat(f32::NEG_INFINITY);
        for i in (0..x.len()).step_by(LANES) {
            top = S::max(low_part::<S>(x, i), top);
        }
        let top = S::max_lane(top);
        let mut sum = S::splat(0.0);
        for i in (0..x.len()).step_by(LANES) {
            sum = S::add(sum, exp::<S>(S::sub(low_part::<S>(x, i), S::splat(top))));
        }
        (top, S::sum(sum))
    }
}

/// Sixteen values from `i` on, −∞ beyond the end.
#[inline(always)]
unsafe fn low_part<S: Simd>(x: &[f32], i: usize) -> S::F {
    let n = LANES.min(x.len() - i);
    // SAFETY: `n` values are left.
    unsafe { S::blend_first(S::load_part(x.as_ptr().add(i), n), S::splat(f32::NEG_INFINITY), n) }
}

/// `log Σ exp` from the chunks of one row.
fn merge_lse(shares: &[Share]) -> f32 {
    let max = shares.iter().fold(f32::NEG_INFINITY, |m, s| if s.max > m { s.max } else { m });
    let mut sum = 0.0f64;
    for s in shares {
        // SAFETY: the portable lanes run anywhere.
        let w = unsafe { exp::<crate::simd::Portable>([s.max - max; LANES]) }[0];
        sum += f64::from(s.sum) * f64::from(w);
    }
    (f64::from(max) + ln(sum)) as f32
}

/// The `n` highest, best first, ties to the lower id.
fn top_of(logits: &[f32], id0: u32, n: usize) -> Vec<(u32, f32)> {
    let mut top: Vec<(u32, f32)> = Vec::with_capacity(n + 1);
    for (i, &l) in logits.iter().enumerate() {
        if top.len() < n || top.last().is_some_and(|&(_, worst)| l > worst) {
            let at = top.partition_point(|&(_, t)| t >= l);
            top.insert(at, (id0 + i as u32, l));
            top.truncate(n);
        }
    }
    top
}

fn merge_top(shares: &[Share], n: usize) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> = shares.iter().flat_map(|s| s.top.iter().copied()).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(n);
    all
}
