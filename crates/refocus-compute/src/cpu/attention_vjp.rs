//! Gradients of attention: the weights are computed again row by row, nothing was stored.

use std::ops::Range;

use crate::KEY_BLOCK;
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
    // Keys and values by dimension, so that vector lanes run over keys; what is beyond the last is zero.
    let stride = longest.next_multiple_of(KEY_BLOCK);
    let size = (3 + 2 * d) * stride;
    let mut scratch = Scratch::take(size);
    let (p, rest) = scratch.get(size).split_at_mut(stride);
    let (ds, rest) = rest.split_at_mut(stride);
    let (kept, rest) = rest.split_at_mut(stride);
    let (keys, values) = rest.split_at_mut(d * stride);
    kept.fill(1.0);
    for (all, turned) in [(job.qkv.k, &mut *keys), (job.qkv.v, &mut *values)] {
        turned.fill(0.0);
        for j in 0..longest {
            for (c, x) in all.as_slice()[kv(j)..kv(j) + d].iter().enumerate() {
                turned[c * stride + j] = *x;
            }
        }
    }
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
                products::<S>(q, keys, stride, first, pos, p);
                p[first..=pos].iter_mut().for_each(|p| *p *= spec.scale);
                if let Some(bias) = &job.bias {
                    let bias = bias.of(head, pos, first);
                    p[first..=pos].iter_mut().zip(bias).for_each(|(p, b)| *p += b);
                }
                if let Some(d) = &spec.dropout {
                    d.factors((t.seg * spec.n_heads + head) as u32, pos as u32, 0, &mut kept[..=pos]);
                }
                weights::<S>(p, first, pos, edits, set);
                products::<S>(dz, values, stride, first, pos, ds);
                ds[first..=pos].iter_mut().zip(&kept[first..=pos]).for_each(|(d, k)| *d *= k);
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
                let mean = dot::<S>(&p[first..=pos], &ds[first..=pos]);
                let temperature: f32 =
                    edits.iter().map(|e| if let Edit::Temperature(t) = e { *t } else { 1.0 }).product();
                let flat = set.is_some() || edits.iter().any(|e| matches!(e, Edit::Uniform));
                for j in first..=pos {
                    ds[j] = if flat { 0.0 } else { p[j] * (ds[j] - mean) / temperature };
                    p[j] *= kept[j];
                }
                if let (Some((dbias, distances)), false) = (job.dbias, flat) {
                    let part = dbias.slice((t.seg * spec.n_heads + head) * distances, distances);
                    for (b, s) in part[..=pos - first].iter_mut().zip(ds[first..=pos].iter().rev()) {
                        *b += s;
                    }
                }
                ds[first..=pos].iter_mut().for_each(|s| *s *= spec.scale);
                let row = Row { q, dz, first, pos, weights: p, slopes: ds };
                // The width in vectors is a constant where it can be, so that sums stay in registers.
                match d.div_ceil(LANES) {
                    1 => spread::<S, 1>(job, t, &row, i, head),
                    2 => spread::<S, 2>(job, t, &row, i, head),
                    4 => spread::<S, 4>(job, t, &row, i, head),
                    n => {
                        for v in 0..n {
                            spread_part::<S, 1>(job, t, &row, i, head, v * LANES);
                        }
                    }
                }
            }
        }
    }
}

/// One query row and head.
struct Row<'a> {
    q: &'a [f32],
    dz: &'a [f32],
    /// The keys that it sees.
    first: usize,
    pos: usize,
    /// By key: what its value was multiplied by.
    weights: &'a [f32],
    /// By key: the gradient of the product of query and key.
    slopes: &'a [f32],
}

/// What a row passes on to its query, keys and values, `V` vectors wide.
#[inline(always)]
unsafe fn spread<S: Simd, const V: usize>(job: &Job<'_>, t: &Tile, row: &Row<'_>, i: usize, head: usize) {
    // SAFETY: the caller's promise, passed on.
    unsafe { spread_part::<S, V>(job, t, row, i, head, 0) }
}

/// The same for dimensions from `c0` on.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn spread_part<S: Simd, const V: usize>(
    job: &Job<'_>,
    t: &Tile,
    row: &Row<'_>,
    i: usize,
    head: usize,
    c0: usize,
) {
    let (spec, d) = (job.spec, job.spec.d_head);
    let part = |v: usize| LANES.min(d - c0 - v * LANES);
    // SAFETY: the tile owns its keys, values and queries; partial vectors stay within the head.
    unsafe {
        let (mut q, mut dz, mut dq) = ([S::splat(0.0); V], [S::splat(0.0); V], [S::splat(0.0); V]);
        for v in 0..V {
            q[v] = S::load_part(row.q.as_ptr().add(c0 + v * LANES), part(v));
            dz[v] = S::load_part(row.dz.as_ptr().add(c0 + v * LANES), part(v));
        }
        for j in row.first..=row.pos {
            let (w, s) = (row.weights[j], row.slopes[j]);
            if w == 0.0 && s == 0.0 {
                continue;
            }
            let at = ((t.row0 + j) * spec.n_kv_heads + t.kv_head) * d + c0;
            let (w, s) = (S::splat(w), S::splat(s));
            for v in 0..V {
                let (at, n) = (at + v * LANES, part(v));
                let (dk, dv) = (job.dk.at(at), job.dv.at(at));
                S::store_part(dv, S::fma(w, dz[v], S::load_part(dv, n)), n);
                S::store_part(dk, S::fma(s, q[v], S::load_part(dk, n)), n);
                dq[v] = S::fma(s, S::load_part(job.qkv.k.as_slice().as_ptr().add(at), n), dq[v]);
            }
        }
        for v in 0..V {
            S::store_part(job.dq.at((i * spec.n_heads + head) * d + c0 + v * LANES), dq[v], part(v));
        }
    }
}

/// `out[j] = Σ_c x[c] · turned[c][j]` for the keys `first ..= pos` and what shares their blocks.
#[inline(always)]
unsafe fn products<S: Simd>(
    x: &[f32],
    turned: &[f32],
    stride: usize,
    first: usize,
    pos: usize,
    out: &mut [f32],
) {
    const VECS: usize = KEY_BLOCK / LANES;
    for block in (first / KEY_BLOCK * KEY_BLOCK..=pos).step_by(KEY_BLOCK) {
        // SAFETY: `stride` is whole blocks, and every dimension has one row of it.
        unsafe {
            let mut acc = [S::splat(0.0); VECS];
            for (c, &x) in x.iter().enumerate() {
                let x = S::splat(x);
                let at = turned.as_ptr().add(c * stride + block);
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = S::fma(x, S::load(at.add(v * LANES)), *acc);
                }
            }
            for (v, acc) in acc.into_iter().enumerate() {
                S::store(out.as_mut_ptr().add(block + v * LANES), acc);
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
    for block in (first / KEY_BLOCK * KEY_BLOCK..=pos).step_by(KEY_BLOCK) {
        let end = (block + KEY_BLOCK).min(pos + 1);
        edit_scores(&mut p[block..end], block, first, pos, edits);
    }
    let row = &mut p[first..=pos];
    // SAFETY: the caller's instruction set.
    let mut top = unsafe { S::splat(f32::NEG_INFINITY) };
    for i in (0..row.len()).step_by(LANES) {
        let n = LANES.min(row.len() - i);
        // SAFETY: `n` values are left.
        unsafe {
            let low = S::splat(f32::NEG_INFINITY);
            top = S::max(S::blend_first(S::load_part(row.as_ptr().add(i), n), low, n), top);
        }
    }
    // SAFETY: the caller's instruction set.
    let max = unsafe { S::max_lane(top) };
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
