//! Gradients of attention: the weights are computed again row by row, nothing was stored.

use std::ops::Range;

use crate::error::Result;
use crate::kernels::AttnGrads;
use crate::ops::{AttnProbe, AttnSpec, Batch, KeyGroups, Qkv, RowSet};
use crate::simd::{LANES, Simd, exp, isa_fn};

use super::Cpu;
use super::attention::{Bias, Edit, Edits, edit_scores, edits_by_row, given, query_rows};
use super::memory::{CpuBuf, Out, Scratch};

/// What every (segment, key/value head) needs.
struct Job<'a> {
    qkv: Qkv<'a, CpuBuf>,
    spec: &'a AttnSpec,
    packed: &'a [u32],
    pos: &'a [u32],
    bias: Option<Bias>,
    edits: Edits<'a>,
    dz: &'a CpuBuf,
    dmass: Option<(&'a CpuBuf, &'a KeyGroups)>,
    dstats: Option<&'a CpuBuf>,
    dq: Out,
    dk: Out,
    dv: Out,
    /// `[segments][heads][distances]`.
    dbias: Option<(Out, usize)>,
}

/// One segment and one key/value head: it owns their keys and values.
struct Tile {
    seg: usize,
    row0: usize,
    kv_head: usize,
    queries: Range<usize>,
}

/// See [`crate::Kernels::attention_vjp`].
#[allow(clippy::too_many_arguments)]
pub(super) fn attention_vjp(
    cpu: &mut Cpu,
    qkv: Qkv<'_, CpuBuf>,
    spec: &AttnSpec,
    batch: &Batch,
    q_rows: Option<&RowSet>,
    probe: Option<&AttnProbe<&CpuBuf>>,
    dz: &CpuBuf,
    dmass: Option<&CpuBuf>,
    dstats: Option<&CpuBuf>,
) -> Result<AttnGrads<CpuBuf>> {
    let (packed, pos) = query_rows(batch, q_rows);
    let edits = match probe {
        Some(p) => edits_by_row(p, spec, &packed, &pos)?,
        None => Edits::new(),
    };
    let mut grads = AttnGrads {
        dq: cpu.zeroed(qkv.q.rows, qkv.q.width)?,
        dk: cpu.zeroed(qkv.k.rows, qkv.k.width)?,
        dv: cpu.zeroed(qkv.v.rows, qkv.v.width)?,
        dbias: None,
    };
    // A part for each segment, added up in their order.
    let mut parts = match qkv.bias {
        Some(b) => Some(cpu.zeroed(batch.segs.len() * b.width, b.rows)?),
        None => None,
    };
    let mut tiles = Vec::new();
    let mut first = 0;
    for (seg, s) in batch.segs.iter().enumerate() {
        let end = first + packed[first..].partition_point(|&r| r < s.rows.end);
        for kv_head in 0..spec.n_kv_heads {
            tiles.push(Tile { seg, row0: s.rows.start as usize, kv_head, queries: first..end });
        }
        first = end;
    }
    let job = Job {
        spec,
        packed: &packed,
        pos: &pos,
        bias: qkv.bias.map(Bias::new),
        edits,
        dz,
        dmass: dmass.zip(probe.and_then(|p| p.groups.as_ref())),
        dstats,
        dq: Out::new(grads.dq.as_mut_slice()),
        dk: Out::new(grads.dk.as_mut_slice()),
        dv: Out::new(grads.dv.as_mut_slice()),
        dbias: parts.as_mut().map(|p| (Out::new(p.as_mut_slice()), p.width)),
        qkv,
    };
    let isa = cpu.isa;
    // SAFETY: a tile writes its own queries' heads and its own keys and values.
    cpu.team.run(tiles.len(), |i| unsafe { tile(isa, &job, &tiles[i]) });
    drop(job);
    if let Some(parts) = parts {
        let (distances, heads) = (parts.width, spec.n_heads);
        let mut dbias = cpu.zeroed(distances, heads)?;
        for seg in 0..batch.segs.len() {
            for head in 0..heads {
                for (distance, d) in parts.row(seg * heads + head).iter().enumerate() {
                    dbias.as_mut_slice()[distance * heads + head] += d;
                }
            }
        }
        grads.dbias = Some(dbias);
    }
    Ok(grads)
}

isa_fn! {
    /// # Safety
    /// Nobody else writes the tile's gradients.
    unsafe fn tile = tile_body(job: &Job<'_>, t: &Tile)
}

#[inline(always)]
unsafe fn tile_body<S: Simd>(job: &Job<'_>, t: &Tile) {
    let spec = job.spec;
    let d = spec.d_head;
    let group = spec.n_heads / spec.n_kv_heads;
    let kv = |row: usize| (t.row0 + row) * spec.n_kv_heads * d + t.kv_head * d;
    let longest = t.queries.clone().map(|i| job.pos[i] as usize + 1).max().unwrap_or(0);
    let mut scratch = Scratch::take(3 * longest);
    let (p, rest) = scratch.get(3 * longest).split_at_mut(longest);
    let (ds, kept) = rest.split_at_mut(longest);
    kept.fill(1.0);
    for i in t.queries.clone() {
        let pos = job.pos[i] as usize;
        let first = spec.window.map_or(0, |w| (pos + 1).saturating_sub(w));
        for head in t.kv_head * group..(t.kv_head + 1) * group {
            let edits: &[Edit<'_>] = job.edits.get(&(job.packed[i], head)).map_or(&[], Vec::as_slice);
            let q = &job.qkv.q.row(i)[head * d..(head + 1) * d];
            let dz = &job.dz.row(i)[head * d..(head + 1) * d];
            let set = given(edits);
            // SAFETY: keys and values of this segment and head are `d` long at `kv(row)`.
            unsafe {
                for (j, p) in (first..).zip(&mut p[first..=pos]) {
                    *p = dot::<S>(q, &job.qkv.k.as_slice()[kv(j)..kv(j) + d]) * spec.scale;
                }
                if let Some(bias) = &job.bias {
                    let bias = bias.of(head, pos, first);
                    p[first..=pos].iter_mut().zip(bias).for_each(|(p, b)| *p += b);
                }
                if let Some(d) = &spec.dropout {
                    d.factors((t.seg * spec.n_heads + head) as u32, pos as u32, 0, &mut kept[..=pos]);
                }
                weights::<S>(p, first, pos, edits, set);
                let mut mean = 0.0f32;
                for (j, ds) in (first..).zip(&mut ds[first..=pos]) {
                    *ds = dot::<S>(dz, &job.qkv.v.as_slice()[kv(j)..kv(j) + d]) * kept[j];
                }
                if let Some(dstats) = job.dstats {
                    let dstats = &dstats.row(i)[head * 3..head * 3 + 3];
                    add_stats(&p[first..=pos], dstats, &mut ds[first..=pos]);
                }
                if let Some((dmass, groups)) = job.dmass {
                    let n = groups[t.seg].len();
                    for (g, ranges) in groups[t.seg].iter().enumerate() {
                        let d = dmass.row(i)[head * n + g];
                        for k in ranges
                            .iter()
                            .flat_map(|r| (r.start as usize).max(first)..(r.end as usize).min(pos + 1))
                        {
                            ds[k] += d;
                        }
                    }
                }
                for j in first..=pos {
                    mean += p[j] * ds[j];
                }
                let temperature: f32 =
                    edits.iter().map(|e| if let Edit::Temperature(t) = e { *t } else { 1.0 }).product();
                let flat = set.is_some() || edits.iter().any(|e| matches!(e, Edit::Uniform));
                let dq = job.dq.slice((i * spec.n_heads + head) * d, d);
                for j in first..=pos {
                    if p[j] == 0.0 {
                        continue;
                    }
                    axpy::<S>(p[j] * kept[j], dz, job.dv.slice(kv(j), d));
                    if !flat {
                        let s = p[j] * (ds[j] - mean) / temperature;
                        if let Some((dbias, distances)) = job.dbias {
                            *dbias.at((t.seg * spec.n_heads + head) * distances + pos - j) += s;
                        }
                        let s = s * spec.scale;
                        axpy::<S>(s, &job.qkv.k.as_slice()[kv(j)..kv(j) + d], dq);
                        axpy::<S>(s, q, job.dk.slice(kv(j), d));
                    }
                }
            }
        }
    }
}

/// Scores to weights.
#[inline(always)]
unsafe fn weights<S: Simd>(p: &mut [f32], first: usize, pos: usize, edits: &[Edit<'_>], set: Option<&[f32]>) {
    if let Some(set) = set {
        for (j, p) in p.iter_mut().enumerate().take(pos + 1).skip(first) {
            *p = set.get(j).copied().unwrap_or(0.0);
        }
        return;
    }
    for block in (first / crate::KEY_BLOCK * crate::KEY_BLOCK..=pos).step_by(crate::KEY_BLOCK) {
        let end = (block + crate::KEY_BLOCK).min(pos + 1);
        edit_scores(&mut p[block..end], block, first, pos, edits);
    }
    let row = &mut p[first..=pos];
    let max = row.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    let mut sum = 0.0f32;
    for i in (0..row.len()).step_by(LANES) {
        let n = LANES.min(row.len() - i);
        // SAFETY: `n` values are left.
        unsafe {
            let at = row.as_mut_ptr().add(i);
            let low = S::splat(f32::NEG_INFINITY);
            let e = exp::<S>(S::sub(S::blend_first(S::load_part(at, n), low, n), S::splat(max)));
            sum += S::sum(e);
            S::store_part(at, e, n);
        }
    }
    for x in row {
        *x /= sum;
    }
}

/// Adds the gradient of (entropy, ℓ2, maximum) with respect to the weights.
fn add_stats(p: &[f32], dstats: &[f32], dp: &mut [f32]) {
    let l2 = p.iter().map(|&p| f64::from(p) * f64::from(p)).sum::<f64>().sqrt();
    for (&p, dp) in p.iter().zip(dp.iter_mut()) {
        if p > 0.0 {
            *dp -= dstats[0] * (crate::simd::ln(f64::from(p)) as f32 + 1.0);
            *dp += dstats[1] * (f64::from(p) / l2) as f32;
        }
    }
    let mut best = 0;
    for (j, x) in p.iter().enumerate() {
        if *x > p[best] {
            best = j;
        }
    }
    dp[best] += dstats[2];
}

#[inline(always)]
unsafe fn dot<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: equal lengths; partial vectors stay within them.
    unsafe {
        let mut acc = S::splat(0.0);
        for i in (0..a.len()).step_by(LANES) {
            let n = LANES.min(a.len() - i);
            acc = S::fma(S::load_part(a.as_ptr().add(i), n), S::load_part(b.as_ptr().add(i), n), acc);
        }
        S::sum(acc)
    }
}

/// `y += s x`.
#[inline(always)]
unsafe fn axpy<S: Simd>(s: f32, x: &[f32], y: &mut [f32]) {
    // SAFETY: equal lengths; partial vectors stay within them.
    unsafe {
        for i in (0..x.len()).step_by(LANES) {
            let n = LANES.min(x.len() - i);
            let at = y.as_mut_ptr().add(i);
            let v = S::fma(S::splat(s), S::load_part(x.as_ptr().add(i), n), S::load_part(at, n));
            S::store_part(at, v, n);
        }
    }
}
