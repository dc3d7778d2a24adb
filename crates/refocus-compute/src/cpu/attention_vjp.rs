//! Gradients of attention: the weights are computed again, nothing was stored.
//!
//! A block of query rows meets all keys that it sees. Scores, the gradients of weights, and what is passed
//! on to queries, keys and values are products on tiles; each of their sums is one chain, over dimensions,
//! over keys, or over queries in ascending order, so a chain goes on from block to block.

use std::ops::Range;

use crate::KEY_BLOCK;
use crate::error::Result;
use crate::kernels::AttnGrads;
use crate::ops::{AttnProbe, AttnSpec, Batch, KeyGroups, Qkv, RowSet};
use crate::simd::{Isa, LANES, Simd, exp, isa_fn, log};

use super::Cpu;
use super::attention::{Bias, Edit, Edits, edit_scores, edits_by_row, given, query_rows};
use super::memory::{CpuBuf, Out, Scratch};
use super::product::{self, Start, TALL, tall};
use super::several::side_by_side;

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
    rows: Range<usize>,
    kv_head: usize,
    queries: Range<usize>,
}

/// Rows of a block, about.
const ROWS: usize = 48;

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
    // Every row belongs to a segment, and a tile writes all rows of its own.
    let mut grads = AttnGrads {
        dq: cpu.stale(qkv.q.rows, qkv.q.width)?,
        dk: cpu.stale(qkv.k.rows, qkv.k.width)?,
        dv: cpu.stale(qkv.v.rows, qkv.v.width)?,
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
            let rows = s.rows.start as usize..s.rows.end as usize;
            tiles.push(Tile { seg, rows, kv_head, queries: first..end });
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

/// # Safety
/// Nobody else writes the tile's gradients.
unsafe fn tile(isa: Isa, job: &Job<'_>, t: &Tile) {
    let spec = job.spec;
    let (d, group) = (spec.d_head, spec.n_heads / spec.n_kv_heads);
    let (panels, width) = (d.div_ceil(LANES), spec.n_kv_heads * d);
    let dp = panels * LANES;
    let longest = t.queries.clone().map(|i| job.pos[i] as usize + 1).max().unwrap_or(0);
    let keys = longest.next_multiple_of(LANES);
    // A block holds whole queries with all heads that share these keys.
    let queries = (ROWS / group).max(1);
    let most = queries * group;
    // Rows of a tile must not alias in the cache.
    let ld = keys + LANES;
    let sizes = [
        keys * d,
        keys * d,
        keys * dp,
        keys * dp,
        keys * dp,
        most * d,
        most * d,
        most * dp,
        most * dp,
        most * ld,
        most * ld,
        TALL * d,
        keys,
    ];
    let size = sizes.iter().sum();
    let mut scratch = Scratch::take(size);
    let mut rest = scratch.get(size);
    // Keys and values by dimension, keys as they are, their gradients, the block's rows and the gradients
    // of their outputs, both also as panels, weights, slopes, a tile of rows by dimension, what is kept.
    let [kt, vt, k, dk, dv, q, dz, qp, dzp, p, ds, packed, kept] = sizes.map(|n| {
        let (part, left) = std::mem::take(&mut rest).split_at_mut(n);
        rest = left;
        part
    });
    let first_key = t.rows.start * width + t.kv_head * d;
    // SAFETY: the segment has `longest` keys and values, `width` apart.
    unsafe {
        for (all, turned) in [(job.qkv.k, &mut *kt), (job.qkv.v, &mut *vt)] {
            let from = all.as_slice().as_ptr().wrapping_add(first_key);
            for j in (0..longest).step_by(LANES) {
                let n = LANES.min(longest - j);
                side_by_side(isa, from.add(j * width), width, n, &mut turned[j * d..(j + LANES) * d]);
            }
        }
        let from = job.qkv.k.as_slice().as_ptr().wrapping_add(first_key);
        product::columns(isa, from, width, longest, d, k, keys * LANES);
    }
    dk.fill(0.0);
    dv.fill(0.0);
    kept.fill(1.0);
    for start in t.queries.clone().step_by(queries) {
        let block = start..t.queries.end.min(start + queries);
        let rows = block.len() * group;
        // Row r of the block is head r mod group of query r / group.
        let query = |r: usize| (start + r / group, t.kv_head * group + r % group);
        let seen = |r: usize| job.pos[query(r).0] as usize + 1;
        for r in 0..rows {
            let (i, head) = query(r);
            q[r * d..(r + 1) * d].copy_from_slice(&job.qkv.q.row(i)[head * d..(head + 1) * d]);
            dz[r * d..(r + 1) * d].copy_from_slice(&job.dz.row(i)[head * d..(head + 1) * d]);
        }
        let first = spec.window.map_or(0, |w| seen(0).saturating_sub(w)) / LANES * LANES;
        let last = seen(rows - 1);
        // SAFETY: tiles stay within the parts of the scratch memory, which are sized above; the queries
        // and their heads are this tile's own.
        unsafe {
            product::columns(isa, q.as_ptr(), d, rows, d, qp, rows * LANES);
            product::columns(isa, dz.as_ptr(), d, rows, d, dzp, rows * LANES);
            let mut at = 0;
            while at < rows {
                let n = tall(isa, rows - at);
                let end = seen(at + n - 1).next_multiple_of(LANES);
                for (x, turned, out) in [(&*q, &*kt, &mut *p), (&*dz, &*vt, &mut *ds)] {
                    product::repack(isa, x.as_ptr().add(at * d), d, n, d, &mut packed[..n * d]);
                    let products = product::Tile {
                        rows: n,
                        panels: (end - first) / LANES,
                        a: packed.as_ptr(),
                        a_row: 1,
                        a_k: n,
                        kc: d,
                        b: turned.as_ptr().add(first * d),
                        stride: LANES * d,
                        c: out.as_mut_ptr().add(at * ld + first),
                        ldc: ld,
                        cols: end - first,
                        start: Start::Zero,
                    };
                    product::tile(isa, &products);
                }
                for r in at..at + n {
                    let (i, head) = query(r);
                    let row = r * ld..r * ld + last.next_multiple_of(LANES);
                    slopes(isa, job, t, i, head, first, &mut p[row.clone()], &mut ds[row], kept);
                }
                // The slopes times the keys. `q` and `dz` are in panels by now, so a row's gradient takes
                // the place of the row.
                let chain = product::Tile {
                    rows: n,
                    panels,
                    a: ds.as_ptr().add(at * ld + first),
                    a_row: ld,
                    a_k: 1,
                    kc: seen(at + n - 1) - first,
                    b: k.as_ptr().add(first * LANES),
                    stride: keys * LANES,
                    c: q.as_mut_ptr().add(at * d),
                    ldc: d,
                    cols: d,
                    start: Start::Zero,
                };
                product::tile(isa, &chain);
                for r in at..at + n {
                    let (i, head) = query(r);
                    let dq = job.dq.slice((i * spec.n_heads + head) * d, d);
                    dq.copy_from_slice(&q[r * d..(r + 1) * d]);
                }
                at += n;
            }
            let mut key = first;
            while key < last {
                let n = tall(isa, last - key);
                // The rows before do not see these keys.
                let from = (0..rows).find(|&r| seen(r) > key).unwrap_or(rows);
                for (a, b, c) in [(&*ds, &*qp, &mut *dk), (&*p, &*dzp, &mut *dv)] {
                    let chain = product::Tile {
                        rows: n,
                        panels,
                        a: a.as_ptr().add(from * ld + key),
                        a_row: 1,
                        a_k: ld,
                        kc: rows - from,
                        b: b.as_ptr().add(from * LANES),
                        stride: rows * LANES,
                        c: c.as_mut_ptr().add(key * dp),
                        ldc: dp,
                        cols: dp,
                        start: Start::Chained,
                    };
                    product::tile(isa, &chain);
                }
                key += n;
            }
        }
    }
    for (gradient, out) in [(&*dk, job.dk), (&*dv, job.dv)] {
        for (j, row) in t.rows.clone().enumerate() {
            // SAFETY: the keys and values of this segment and head are this tile's own.
            let out = unsafe { out.slice(row * width + t.kv_head * d, d) };
            if j < longest {
                out.copy_from_slice(&gradient[j * dp..j * dp + d]);
            } else {
                out.fill(0.0);
            }
        }
    }
}

isa_fn! {
    /// One query row and head: from products of query and keys (`p`) and of gradient and values (`ds`) to
    /// what values are multiplied by, and to the gradients of the former products. Keys that it does not see
    /// get zeros, from `start` to the end of both.
    ///
    /// # Safety
    /// Nobody else writes the gradients of the bias of this segment and head.
    unsafe fn slopes = slopes_body(
        job: &Job<'_>, t: &Tile, i: usize, head: usize, start: usize, p: &mut [f32], ds: &mut [f32],
        kept: &mut [f32],
    )
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn slopes_body<S: Simd>(
    job: &Job<'_>,
    t: &Tile,
    i: usize,
    head: usize,
    start: usize,
    p: &mut [f32],
    ds: &mut [f32],
    kept: &mut [f32],
) {
    let spec = job.spec;
    let pos = job.pos[i] as usize;
    let first = spec.window.map_or(0, |w| (pos + 1).saturating_sub(w));
    let edits: &[Edit<'_>] = job.edits.get(&(job.packed[i], head)).map_or(&[], Vec::as_slice);
    let set = given(edits);
    p[first..=pos].iter_mut().for_each(|p| *p *= spec.scale);
    if let Some(bias) = &job.bias {
        let bias = bias.of(head, pos, first);
        p[first..=pos].iter_mut().zip(bias).for_each(|(p, b)| *p += b);
    }
    // SAFETY: the caller's instruction set.
    unsafe { weights::<S>(p, first, pos, edits, set) };
    let kept = &mut kept[..=pos];
    if let Some(d) = &spec.dropout {
        d.factors((t.seg * spec.n_heads + head) as u32, pos as u32, 0, kept);
        ds[first..=pos].iter_mut().zip(&kept[first..]).for_each(|(d, k)| *d *= k);
    }
    if let Some(dstats) = job.dstats {
        let dstats = &dstats.row(i)[head * 3..head * 3 + 3];
        // SAFETY: the caller's instruction set.
        unsafe { add_stats::<S>(&p[first..=pos], dstats, &mut ds[first..=pos]) };
    }
    if let Some((dmass, groups)) = job.dmass {
        let n = groups[t.seg].len();
        for (g, ranges) in groups[t.seg].iter().enumerate() {
            let d = dmass.row(i)[head * n + g];
            for k in ranges.iter().flat_map(|r| (r.start as usize).max(first)..(r.end as usize).min(pos + 1))
            {
                ds[k] += d;
            }
        }
    }
    // SAFETY: the caller's instruction set.
    let mean = unsafe { dot::<S>(&p[first..=pos], &ds[first..=pos]) };
    let flat = set.is_some() || edits.iter().any(|e| matches!(e, Edit::Uniform));
    if flat {
        ds[first..=pos].fill(0.0);
    } else {
        ds[first..=pos].iter_mut().zip(&p[first..=pos]).for_each(|(s, p)| *s = p * (*s - mean));
        let temperature: f32 =
            edits.iter().map(|e| if let Edit::Temperature(t) = e { *t } else { 1.0 }).product();
        if temperature != 1.0 {
            ds[first..=pos].iter_mut().for_each(|s| *s /= temperature);
        }
    }
    if spec.dropout.is_some() {
        p[first..=pos].iter_mut().zip(&kept[first..]).for_each(|(p, k)| *p *= k);
    }
    if let (Some((dbias, distances)), false) = (job.dbias, flat) {
        // SAFETY: the caller's promise.
        let part = unsafe { dbias.slice((t.seg * spec.n_heads + head) * distances, distances) };
        for (b, s) in part[..=pos - first].iter_mut().zip(ds[first..=pos].iter().rev()) {
            *b += s;
        }
    }
    ds[first..=pos].iter_mut().for_each(|s| *s *= spec.scale);
    for row in [p, ds] {
        row[start..first].fill(0.0);
        row[pos + 1..].fill(0.0);
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
#[inline(always)]
unsafe fn add_stats<S: Simd>(p: &[f32], dstats: &[f32], dp: &mut [f32]) {
    // SAFETY: equal lengths; partial vectors stay within them.
    unsafe {
        let l2 = dot::<S>(p, p).sqrt();
        let (of_entropy, of_l2) = (S::splat(0.0 - dstats[0]), S::splat(dstats[1] / l2));
        for i in (0..p.len()).step_by(LANES) {
            let n = LANES.min(p.len() - i);
            let (p, at) = (S::load_part(p.as_ptr().add(i), n), dp.as_mut_ptr().add(i));
            let before = S::load_part(at, n);
            let by_entropy = S::fma(of_entropy, S::add(log::<S>(p), S::splat(1.0)), before);
            let after = S::fma(of_l2, p, by_entropy);
            S::store_part(at, S::select_gt(p, S::splat(0.0), after, before), n);
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
