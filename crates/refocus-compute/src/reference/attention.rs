//! Attention of [`super::Reference`]: one query row and head at a time, all its keys in a row.

use std::ops::Range;
use std::sync::Arc;

use super::{RefBuf, RefPage, axpy, dot};
use crate::KEY_BLOCK;
use crate::error::{Error, Result};
use crate::kernels::AttnGrads;
use crate::ops::{
    AttnOut, AttnProbe, AttnSpec, Batch, PatternChange, PatternEdit, Qkv, RawPattern, RowSet, Seg,
};

/// Where one query row stands.
struct Query {
    /// Row of `q`.
    index: usize,
    /// Packed row.
    row: u32,
    /// Segment.
    seg: usize,
    /// Absolute position, the last one it sees.
    pos: usize,
}

/// The query rows in order: all packed rows, or those of the set.
fn queries(batch: &Batch, q_rows: Option<&RowSet>) -> Vec<Query> {
    let mut found = Vec::new();
    for (s, seg) in batch.segs.iter().enumerate() {
        for row in seg.rows.clone() {
            let index = match q_rows {
                Some(set) => match set.position(row) {
                    Some(index) => index,
                    None => continue,
                },
                None => row as usize,
            };
            found.push(Query { index, row, seg: s, pos: (seg.pos0 + row - seg.rows.start) as usize });
        }
    }
    found
}

/// Keys and values of one segment by absolute position, each `[n_kv_heads · d_head]`: first those
/// of the cache, then the segment's own rows.
struct Seen<'a> {
    keys: Vec<&'a [f64]>,
    values: Vec<&'a [f64]>,
}

impl<'a> Seen<'a> {
    fn new(seg: &Seg, past: Option<&'a [Arc<RefPage>]>, qkv: &Qkv<'a, RefBuf>) -> Self {
        let mut seen = Self { keys: Vec::new(), values: Vec::new() };
        for pos in 0..seg.pos0 as usize {
            let page = past.map(|pages| &pages[pos / KEY_BLOCK]);
            if let Some(page) = page {
                seen.keys.push(page.key(pos % KEY_BLOCK, qkv.k.width));
                seen.values.push(page.value(pos % KEY_BLOCK, qkv.v.width));
            }
        }
        for row in seg.rows.clone() {
            seen.keys.push(qkv.k.row(row as usize));
            seen.values.push(qkv.v.row(row as usize));
        }
        seen
    }
}

/// Scores and weights of one query row and head.
struct Row {
    /// `[pos + 1]`, edited and scaled, −∞ where masked.
    scores: Vec<f64>,
    /// `[pos + 1]`.
    pattern: Vec<f64>,
    /// Derivative of an unmasked score by its `(q·k) * scale`: 1 without edits, 0 where the scores or
    /// the pattern no longer depend on queries and keys.
    slope: f64,
    /// What dropout multiplies each weight by.
    kept: Vec<f64>,
}

/// What dropout multiplies the weights of one query row and head by: `[pos + 1]`.
fn kept(spec: &AttnSpec, at: &Query, head: usize) -> Vec<f64> {
    let mut factors = vec![1.0f32; at.pos + 1];
    if let Some(d) = &spec.dropout {
        d.factors((at.seg * spec.n_heads + head) as u32, at.pos as u32, 0, &mut factors);
    }
    factors.into_iter().map(f64::from).collect()
}

/// `query` `[d_head]`; `keys` hold the head's columns `kv`.
#[allow(clippy::too_many_arguments)]
fn pattern_row(
    query: &[f64],
    keys: &[&[f64]],
    kv: Range<usize>,
    spec: &AttnSpec,
    at: &Query,
    head: usize,
    bias: Option<&RefBuf>,
    edits: &[PatternEdit<&RefBuf>],
) -> Result<Row> {
    let kept = kept(spec, at, head);
    let sees = |key: usize| spec.window.is_none_or(|window| at.pos - key < window);
    let mut visible: Vec<bool> = (0..keys.len()).map(sees).collect();
    let score = |(key, row): (usize, &&[f64])| {
        let product = dot(query, &row[kv.clone()]) * f64::from(spec.scale);
        bias.map_or(product, |b| product + b.row(at.pos - key)[head])
    };
    let mut scores: Vec<f64> = keys.iter().enumerate().map(score).collect();
    let mut slope = 1.0;
    let mut given = None;
    for edit in edits.iter().filter(|e| e.head == head) {
        let Some(edited_row) = edit.rows.position(at.row) else { continue };
        match &edit.kind {
            PatternChange::Block(range) => {
                for (key, v) in visible.iter_mut().enumerate() {
                    *v &= !range.contains(&(key as u32));
                }
            }
            PatternChange::Uniform => {
                scores.fill(0.0);
                slope = 0.0;
            }
            PatternChange::Temperature(t) => {
                scores.iter_mut().for_each(|s| *s /= f64::from(*t));
                slope /= f64::from(*t);
            }
            PatternChange::Set(t) => {
                let row = t.row(edited_row);
                let weight = |key| if sees(key) { row.get(key).copied().unwrap_or(0.0) } else { 0.0 };
                given = Some((0..keys.len()).map(weight).collect());
                slope = 0.0;
            }
        }
    }
    for (score, visible) in scores.iter_mut().zip(&visible) {
        if !visible {
            *score = f64::NEG_INFINITY;
        }
    }
    if let Some(pattern) = given {
        return Ok(Row { scores, pattern, slope, kept });
    }
    if !visible.contains(&true) {
        let why =
            format!("every key that row {} (position {}) sees in head {head} is blocked", at.row, at.pos);
        return Err(Error::Unsupported { op: "attention", why });
    }
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut pattern: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = pattern.iter().sum();
    pattern.iter_mut().for_each(|p| *p /= sum);
    Ok(Row { scores, pattern, slope, kept })
}

/// See [`crate::Ops::attention`]; `past` holds each segment's pages of this layer.
pub(super) fn forward(
    qkv: &Qkv<'_, RefBuf>,
    spec: &AttnSpec,
    batch: &Batch,
    q_rows: Option<&RowSet>,
    past: Option<&[Vec<Arc<RefPage>>]>,
    probe: Option<&AttnProbe<&RefBuf>>,
) -> Result<AttnOut<RefBuf>> {
    let n_groups = probe.and_then(|p| p.groups.as_ref()).map(|g| g.first().map_or(0, Vec::len));
    let mut z = RefBuf::zeros(qkv.q.rows, spec.n_heads * spec.d_head);
    let mut mass = n_groups.map(|n| RefBuf::zeros(qkv.q.rows, spec.n_heads * n));
    let mut stats = probe.filter(|p| p.stats).map(|_| RefBuf::zeros(qkv.q.rows, spec.n_heads * 3));
    let mut raw = probe.filter(|p| p.raw).map(|_| RawPattern::default());
    let seen = segments(batch, past, qkv);

    for at in queries(batch, q_rows) {
        let (keys, values) = (&seen[at.seg].keys[..=at.pos], &seen[at.seg].values[..=at.pos]);
        if let Some(raw) = &mut raw {
            raw.keys.push(keys.len() as u32);
            raw.offset.push(raw.pattern.len());
        }
        for head in 0..spec.n_heads {
            let (own, kv) = columns(spec, head);
            let edits = probe.map_or(&[][..], |p| &p.edits);
            let row = pattern_row(
                &qkv.q.row(at.index)[own.clone()],
                keys,
                kv.clone(),
                spec,
                &at,
                head,
                qkv.bias,
                edits,
            )?;
            for ((p, value), kept) in row.pattern.iter().zip(values).zip(&row.kept) {
                // A weight of exactly 0 is a masked key, whose value must not matter even if it is not finite.
                if *p != 0.0 {
                    axpy(&mut z.row_mut(at.index)[own.clone()], p * kept, &value[kv.clone()]);
                }
            }
            if let (Some(mass), Some(n), Some(groups)) =
                (&mut mass, n_groups, probe.and_then(|p| p.groups.as_ref()))
            {
                for (g, ranges) in groups[at.seg].iter().enumerate() {
                    let keys = keys_of(ranges, row.pattern.len());
                    mass.row_mut(at.index)[head * n + g] = keys.map(|key| row.pattern[key]).sum();
                }
            }
            if let Some(stats) = &mut stats {
                stats.row_mut(at.index)[head * 3..head * 3 + 3].copy_from_slice(&statistics(&row.pattern));
            }
            if let Some(raw) = &mut raw {
                raw.scores.extend(row.scores.iter().map(|&s| s as f32));
                raw.pattern.extend(row.pattern.iter().map(|&p| p as f32));
            }
        }
    }
    Ok(AttnOut { z, mass, stats, raw })
}

/// See [`crate::Kernels::attention_vjp`].
#[allow(clippy::too_many_arguments)]
pub(super) fn backward(
    qkv: &Qkv<'_, RefBuf>,
    spec: &AttnSpec,
    batch: &Batch,
    q_rows: Option<&RowSet>,
    probe: Option<&AttnProbe<&RefBuf>>,
    dz: &RefBuf,
    dmass: Option<&RefBuf>,
    dstats: Option<&RefBuf>,
) -> Result<AttnGrads<RefBuf>> {
    let mut dq = RefBuf::zeros(qkv.q.rows, qkv.q.width);
    let mut dk = RefBuf::zeros(qkv.k.rows, qkv.k.width);
    let mut dv = RefBuf::zeros(qkv.v.rows, qkv.v.width);
    let mut dbias = qkv.bias.map(|b| RefBuf::zeros(b.rows, b.width));
    let seen = segments(batch, None, qkv);

    for at in queries(batch, q_rows) {
        let (keys, values) = (&seen[at.seg].keys[..=at.pos], &seen[at.seg].values[..=at.pos]);
        let first_row = batch.segs[at.seg].rows.start as usize;
        for head in 0..spec.n_heads {
            let (own, kv) = columns(spec, head);
            let edits = probe.map_or(&[][..], |p| &p.edits);
            let query = &qkv.q.row(at.index)[own.clone()];
            let row = pattern_row(query, keys, kv.clone(), spec, &at, head, qkv.bias, edits)?;
            let dz = &dz.row(at.index)[own.clone()];

            // z = Σ pattern · kept · value, and what else was read off the pattern.
            let mut dpattern: Vec<f64> = values
                .iter()
                .zip(&row.kept)
                .map(|(value, kept)| kept * dot(dz, &value[kv.clone()]))
                .collect();
            for (key, (p, kept)) in row.pattern.iter().zip(&row.kept).enumerate() {
                axpy(&mut dv.row_mut(first_row + key)[kv.clone()], p * kept, dz);
            }
            if let (Some(dmass), Some(groups)) = (dmass, probe.and_then(|p| p.groups.as_ref())) {
                let n = groups[at.seg].len();
                for (g, ranges) in groups[at.seg].iter().enumerate() {
                    for key in keys_of(ranges, keys.len()) {
                        dpattern[key] += dmass.row(at.index)[head * n + g];
                    }
                }
            }
            if let Some(dstats) = dstats {
                add_statistics_vjp(
                    &mut dpattern,
                    &row.pattern,
                    &dstats.row(at.index)[head * 3..head * 3 + 3],
                );
            }
            if row.slope == 0.0 {
                continue;
            }

            // Softmax, the edits, then (q·k) * scale. Masked keys have weight 0 and drop out.
            let mean = dot(&dpattern, &row.pattern);
            for (key, p) in row.pattern.iter().enumerate() {
                let dbiased = p * (dpattern[key] - mean) * row.slope;
                if let Some(dbias) = &mut dbias {
                    dbias.row_mut(at.pos - key)[head] += dbiased;
                }
                let dscore = dbiased * f64::from(spec.scale);
                if dscore != 0.0 {
                    axpy(&mut dq.row_mut(at.index)[own.clone()], dscore, &keys[key][kv.clone()]);
                    axpy(&mut dk.row_mut(first_row + key)[kv.clone()], dscore, query);
                }
            }
        }
    }
    Ok(AttnGrads { dq, dk, dv, dbias })
}

/// Writes a segment's keys and values at its positions, dropping what the layer held beyond them.
/// A page that is shared is copied before it is changed.
pub(super) fn append(pages: &mut Vec<Arc<RefPage>>, seg: &Seg, k: &RefBuf, v: &RefBuf) {
    let start = seg.pos0 as usize;
    pages.truncate(start.div_ceil(KEY_BLOCK));
    if let Some(last) = pages.last_mut()
        && !start.is_multiple_of(KEY_BLOCK)
        && last.len() != start % KEY_BLOCK
    {
        Arc::make_mut(last).truncate(start % KEY_BLOCK, k.width);
    }
    for (i, row) in seg.rows.clone().enumerate() {
        if (start + i).is_multiple_of(KEY_BLOCK) {
            pages.push(Arc::default());
        }
        if let Some(last) = pages.last_mut() {
            Arc::make_mut(last).push(k.row(row as usize), v.row(row as usize));
        }
    }
}

fn segments<'a>(
    batch: &Batch,
    past: Option<&'a [Vec<Arc<RefPage>>]>,
    qkv: &Qkv<'a, RefBuf>,
) -> Vec<Seen<'a>> {
    let pages = |s: usize| past.map(|p| p[s].as_slice());
    batch.segs.iter().enumerate().map(|(s, seg)| Seen::new(seg, pages(s), qkv)).collect()
}

/// Columns of a query head in `q` and `z`, and of its key/value head in `k` and `v`.
fn columns(spec: &AttnSpec, head: usize) -> (Range<usize>, Range<usize>) {
    let kv = head / (spec.n_heads / spec.n_kv_heads);
    let range = |h: usize| h * spec.d_head..(h + 1) * spec.d_head;
    (range(head), range(kv))
}

/// The keys of a group among the first `n`; overlapping ranges count twice.
fn keys_of(ranges: &[Range<u32>], n: usize) -> impl Iterator<Item = usize> {
    ranges.iter().flat_map(move |r| (r.start as usize).min(n)..(r.end as usize).min(n))
}

/// Entropy in nats (`0 · ln 0 = 0`), ℓ2 norm and maximum.
fn statistics(pattern: &[f64]) -> [f64; 3] {
    let entropy = -pattern.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>();
    [entropy, dot(pattern, pattern).sqrt(), pattern.iter().copied().fold(0.0, f64::max)]
}

/// Adds the gradient of [`statistics`] to that of the pattern; `dstats` `[3]`.
fn add_statistics_vjp(dpattern: &mut [f64], pattern: &[f64], dstats: &[f64]) {
    let [_, l2, max] = statistics(pattern);
    for (d, p) in dpattern.iter_mut().zip(pattern) {
        if *p > 0.0 {
            *d -= dstats[0] * (p.ln() + 1.0);
            *d += dstats[1] * p / l2;
        }
    }
    if let Some(first) = pattern.iter().position(|p| *p == max) {
        dpattern[first] += dstats[2];
    }
}
