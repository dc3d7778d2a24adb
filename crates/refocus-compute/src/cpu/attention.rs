//! Causal attention in one pass over blocks of keys.
//!
//! A query row meets the key blocks in ascending order from absolute position 0, keeping a running
//! maximum, the sum of exponentials and the weighted values. Blocks it cannot see change nothing,
//! so a row's bits depend neither on its neighbours nor on the cache.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::KEY_BLOCK;
use crate::error::{Error, Result};
use crate::ops::{
    AttnOut, AttnProbe, AttnSpec, Batch, KeyGroups, KvUse, PatternChange, Qkv, RawPattern, RowSet,
};
use crate::simd::{Isa, LANES, Simd, exp, isa_fn, log};

use super::Cpu;
use super::memory::{CpuBuf, Out, Scratch};
use super::pages::{CpuPage, PageShape, pages};
use super::product::{self, TALL, tall};
use super::rows::factors;

/// Query rows of one tile of work.
const ROWS: usize = 48;
/// Vectors in a block of keys.
const BLOCK_VECS: usize = KEY_BLOCK / LANES;

/// Pattern edits of one (query row, head), in order.
pub(super) type Edits<'a> = HashMap<(u32, usize), Vec<Edit<'a>>>;

/// One edit as a row sees it.
#[derive(Clone)]
pub(super) enum Edit<'a> {
    Block(Range<u32>),
    Uniform,
    Temperature(f32),
    Set(&'a [f32]),
}

/// Everything a tile needs.
struct Job<'a> {
    spec: &'a AttnSpec,
    q: &'a CpuBuf,
    bias: Option<Bias>,
    edits: Edits<'a>,
    z: Out,
    mass: Option<(Out, &'a KeyGroups, usize)>,
    stats: Option<Out>,
    raw: Option<(Out, Out, &'a [usize])>,
}

/// A bias by distance, turned round so that a row's keys meet it in ascending order.
pub(super) struct Bias {
    distances: usize,
    /// `[heads][stride]`: the greatest distance first, 0 at `distances − 1`, then zeros that no key that is
    /// seen meets.
    turned: Vec<f32>,
    stride: usize,
}

impl Bias {
    /// From `[distances, heads]`.
    pub(super) fn new(bias: &CpuBuf) -> Self {
        let (distances, heads) = (bias.rows, bias.width);
        let stride = 2 * distances + KEY_BLOCK;
        let mut turned = vec![0.0; heads * stride];
        for distance in 0..distances {
            for (head, b) in bias.row(distance).iter().enumerate() {
                turned[head * stride + distances - 1 - distance] = *b;
            }
        }
        Self { distances, turned, stride }
    }

    /// What is added to the scores of the keys from `first` on for a query at `pos`.
    pub(super) fn of(&self, head: usize, pos: usize, first: usize) -> &[f32] {
        &self.turned[head * self.stride..][..self.stride][self.distances - 1 - pos + first..]
    }
}

/// One tile of work: some query rows of one segment, or of neighbours that continue the same pages, and one
/// key/value head.
struct Tile<'a> {
    kv_head: usize,
    /// Query rows (indices into `q`).
    rows: Range<usize>,
    /// Whether they are of several segments.
    mixed: bool,
    /// Absolute position of every query row of `q`.
    pos: &'a [u32],
    /// Packed row of every query row.
    packed: &'a [u32],
    /// Segment of every query row.
    segs: &'a [u32],
    /// By segment.
    pages: &'a [Vec<Arc<CpuPage>>],
    /// Leading pages that the segments of these rows have in common.
    shared: usize,
}

/// See [`crate::Ops::attention`].
#[allow(clippy::too_many_arguments)]
pub(super) fn attention(
    cpu: &mut Cpu,
    qkv: Qkv<'_, CpuBuf>,
    spec: &AttnSpec,
    layer: usize,
    batch: &Batch,
    q_rows: Option<&RowSet>,
    mut kv: KvUse<'_, CpuPage>,
    probe: Option<&AttnProbe<&CpuBuf>>,
) -> Result<AttnOut<CpuBuf>> {
    let pages = pages(cpu, spec, layer, batch, qkv.k, qkv.v, &mut kv)?;
    let (packed, pos) = query_rows(batch, q_rows);
    let edits = match probe {
        Some(p) => edits_by_row(p, spec, &packed, &pos)?,
        None => Edits::new(),
    };
    let mut z = cpu.stale(packed.len(), spec.n_heads * spec.d_head)?;
    let groups = probe.and_then(|p| p.groups.as_ref());
    let n_groups = groups.map_or(0, |g| g.first().map_or(0, Vec::len));
    let mut mass = groups.map(|_| cpu.stale(packed.len(), spec.n_heads * n_groups)).transpose()?;
    let mut stats = match probe {
        Some(p) if p.stats => Some(cpu.stale(packed.len(), spec.n_heads * 3)?),
        _ => None,
    };
    let mut raw = probe.is_some_and(|p| p.raw).then(|| {
        let mut r = RawPattern { keys: pos.iter().map(|p| p + 1).collect(), ..RawPattern::default() };
        let mut at = 0;
        for &k in &r.keys {
            r.offset.push(at);
            at += k as usize * spec.n_heads;
        }
        r.scores = vec![0.0; at];
        r.pattern = vec![0.0; at];
        r
    });
    let mut segs = Vec::with_capacity(packed.len());
    let mut tiles: Vec<(usize, Range<usize>, bool, usize)> = Vec::new();
    let mut seg = 0;
    while seg < batch.segs.len() {
        let (next, shared) = family(batch, &pages, seg, spec.n_heads / spec.n_kv_heads);
        let first = segs.len();
        for (i, s) in batch.segs[seg..next].iter().enumerate() {
            let rows = packed[segs.len()..].partition_point(|&r| r < s.rows.end);
            segs.resize(segs.len() + rows, (seg + i) as u32);
        }
        let end = segs.len();
        let mixed = next - seg > 1;
        // Few rows are shared out among all threads.
        let most = (end - first) * spec.n_kv_heads / (4 * cpu.team.size());
        let step = if mixed { most.next_multiple_of(4).clamp(4, ROWS) } else { ROWS };
        for kv_head in 0..spec.n_kv_heads {
            // Long rows first: the last tiles handed out are then the short ones.
            for rows in (first..end).step_by(step).map(|r| r..end.min(r + step)).rev() {
                tiles.push((kv_head, rows, mixed, shared));
            }
        }
        seg = next;
    }
    let tile = |(kv_head, rows, mixed, shared)| Tile {
        kv_head,
        rows,
        mixed,
        pos: &pos,
        packed: &packed,
        segs: &segs,
        pages: &pages,
        shared,
    };
    let tiles: Vec<Tile<'_>> = tiles.into_iter().map(tile).collect();
    let offsets = raw.as_ref().map(|r| r.offset.clone());
    let job = Job {
        spec,
        q: qkv.q,
        bias: qkv.bias.map(Bias::new),
        edits,
        z: Out::new(z.as_mut_slice()),
        mass: match (&mut mass, groups) {
            (Some(m), Some(g)) => Some((Out::new(m.as_mut_slice()), g, n_groups)),
            _ => None,
        },
        stats: stats.as_mut().map(|s| Out::new(s.as_mut_slice())),
        raw: raw
            .as_mut()
            .zip(offsets.as_ref())
            .map(|(r, o)| (Out::new(&mut r.scores), Out::new(&mut r.pattern), &o[..])),
    };
    let isa = cpu.isa;
    // SAFETY: a tile writes the outputs of its own rows and heads only.
    cpu.team.run(tiles.len(), |i| unsafe { work(isa, &job, &tiles[i]) });
    Ok(AttnOut { z, mass, stats, raw })
}

/// The end of the segments from `seg` on whose rows meet the same pages first, and how many pages these are:
/// variants of one prompt, sequences that begin alike. Only few rows a segment gain from company.
fn family(batch: &Batch, pages: &[Vec<Arc<CpuPage>>], seg: usize, group: usize) -> (usize, usize) {
    let short = |seg: usize| batch.segs[seg].rows.len() * group < TALL;
    let mut shared = pages[seg].len();
    let mut next = seg + 1;
    while short(seg) && next < batch.segs.len() && short(next) {
        let both = pages[seg].iter().zip(&pages[next]);
        let common = both.take_while(|(a, b)| Arc::ptr_eq(a, b)).count();
        if common == 0 || (next > seg + 1 && common < shared) {
            break;
        }
        shared = shared.min(common);
        next += 1;
    }
    (next, shared)
}

/// Packed row and absolute position of every query row.
pub(super) fn query_rows(batch: &Batch, q_rows: Option<&RowSet>) -> (Vec<u32>, Vec<u32>) {
    let all = batch.positions();
    let packed = q_rows.map_or_else(|| (0..batch.rows() as u32).collect(), |r| r.as_slice().to_vec());
    let pos = packed.iter().map(|&r| all[r as usize]).collect();
    (packed, pos)
}

/// Sorts the probe's edits by row and head, and refuses those that leave a row without keys.
pub(super) fn edits_by_row<'a>(
    probe: &AttnProbe<&'a CpuBuf>,
    spec: &AttnSpec,
    packed: &[u32],
    pos: &[u32],
) -> Result<Edits<'a>> {
    let mut edits = Edits::new();
    for e in &probe.edits {
        for (i, &row) in e.rows.as_slice().iter().enumerate() {
            let edit = match &e.kind {
                PatternChange::Block(r) => Edit::Block(r.clone()),
                PatternChange::Uniform => Edit::Uniform,
                PatternChange::Temperature(t) => Edit::Temperature(*t),
                PatternChange::Set(t) => Edit::Set(t.row(i)),
            };
            edits.entry((row, e.head)).or_default().push(edit);
        }
    }
    for (&(row, head), list) in &edits {
        let Ok(i) = packed.binary_search(&row) else { continue };
        let first = spec.window.map_or(0, |w| (pos[i] + 1).saturating_sub(w as u32));
        let blocked = |k: u32| list.iter().any(|e| matches!(e, Edit::Block(r) if r.contains(&k)));
        if list.iter().any(|e| matches!(e, Edit::Block(_))) && (first..=pos[i]).all(blocked) {
            return Err(Error::Unsupported {
                op: "attention",
                why: format!("every key that row {row} (position {}) sees in head {head} is blocked", pos[i]),
            });
        }
    }
    Ok(edits)
}

/// Works through the (row, head) pairs of a tile, as many at a time as the product takes.
///
/// # Safety
/// Nobody else writes the tile's rows and heads.
unsafe fn work(isa: Isa, job: &Job<'_>, t: &Tile<'_>) {
    let group = job.spec.n_heads / job.spec.n_kv_heads;
    // Query heads that share these keys are rows like any other.
    let total = t.rows.len() * group;
    let mut at = 0;
    while at < total {
        let n = tall(isa, total - at);
        // SAFETY: the caller's promise, passed on.
        unsafe { pairs(isa, job, t, at, n) };
        at += n;
    }
}

/// One (query row, head).
#[derive(Clone, Copy)]
struct Pair<'a> {
    seg: usize,
    row: usize,
    head: usize,
    pos: usize,
    /// First key it sees.
    first: usize,
    edits: &'a [Edit<'a>],
    max: f32,
    sum: f32,
}

/// Pairs `at .. at + n` of a tile, numbered head by head, or row by row where it has several segments.
unsafe fn pairs(isa: Isa, job: &Job<'_>, t: &Tile<'_>, at: usize, n: usize) {
    let spec = job.spec;
    let group = spec.n_heads / spec.n_kv_heads;
    let shape = PageShape::of(spec);
    let d = spec.d_head;
    let panels = shape.value_panels();
    let dv = panels * LANES;
    let mut pair: [Pair<'_>; TALL] = std::array::from_fn(|i| {
        let i = at + i.min(n - 1);
        let (row, head) = if t.mixed { (i / group, i % group) } else { (i % t.rows.len(), i / t.rows.len()) };
        let (row, head) = (t.rows.start + row, t.kv_head * group + head);
        let pos = t.pos[row] as usize;
        let edits = if job.edits.is_empty() { None } else { job.edits.get(&(t.packed[row], head)) };
        Pair {
            seg: t.segs[row] as usize,
            row,
            head,
            pos,
            first: spec.window.map_or(0, |w| (pos + 1).saturating_sub(w)),
            edits: edits.map_or(&[], Vec::as_slice),
            max: f32::NEG_INFINITY,
            sum: 0.0,
        }
    });
    let pair = &mut pair[..n];
    let end = pair.iter().map(|p| p.pos + 1).max().unwrap_or(0);
    let start = pair.iter().map(|p| p.first / KEY_BLOCK * KEY_BLOCK).min().unwrap_or(0);
    let keep = job.raw.is_some() || job.mass.is_some() || job.stats.is_some();
    let span = (end - start).next_multiple_of(KEY_BLOCK);
    let kept = if keep { n * span } else { 0 };

    let size = d * n + n * KEY_BLOCK + n * dv + kept;
    let mut scratch = Scratch::take(size);
    let (q, rest) = scratch.get(size).split_at_mut(d * n);
    let (s, rest) = rest.split_at_mut(n * KEY_BLOCK);
    let (o, all) = rest.split_at_mut(n * dv);
    o.fill(0.0);
    if !t.mixed && pair[0].head == pair[n - 1].head {
        // Neighbouring rows.
        let x = job.q.row(pair[0].row)[pair[0].head * d..].as_ptr();
        // SAFETY: `n` rows of one head.
        unsafe { product::repack(isa, x, job.q.width, n, d, q) };
    } else {
        for (i, p) in pair.iter().enumerate() {
            for (j, &x) in job.q.row(p.row)[p.head * d..(p.head + 1) * d].iter().enumerate() {
                q[j * n + i] = x;
            }
        }
    }
    let blocks = |first: usize, end: usize| first / KEY_BLOCK * KEY_BLOCK..end;
    // What all have in common is met together, then each segment's rows meet the pages of their own.
    let common = if t.mixed { end.min(t.shared * KEY_BLOCK) } else { end };
    let mut state = Met { job, kv_head: t.kv_head, start, span, q, n, s, o, all };
    // SAFETY: scratch parts are sized above.
    unsafe { state.meet(isa, pair, 0, &t.pages[pair[0].seg], blocks(start, common)) };
    let mut i = 0;
    while common < end && i < n {
        let same = pair[i..].iter().take_while(|p| p.seg == pair[i].seg).count();
        let many = tall(isa, same);
        let run = &mut pair[i..i + many];
        let end = run.iter().map(|p| p.pos + 1).max().unwrap_or(0);
        let start = run.iter().map(|p| p.first).min().unwrap_or(0).max(common);
        let seg = run[0].seg;
        // SAFETY: as above.
        unsafe { state.meet(isa, run, i, &t.pages[seg], blocks(start, end)) };
        i += many;
    }
    let Met { o, all, .. } = state;
    for (i, p) in pair.iter().enumerate() {
        // SAFETY: this row's and head's own entries.
        let z = unsafe { job.z.slice((p.row * spec.n_heads + p.head) * d, d) };
        for (z, &v) in z.iter_mut().zip(&o[i * dv..]) {
            // + 0 makes one zero of two.
            *z = v / p.sum + 0.0;
        }
        if keep {
            let scores = &mut all[i * span..(i + 1) * span];
            // SAFETY: the caller's promise, passed on.
            unsafe { measure(isa, job, p, start, scores) };
        }
    }
}

/// Scratch of the pairs that meet keys together.
struct Met<'s, 'a> {
    job: &'a Job<'a>,
    kv_head: usize,
    /// Where the scores that are kept begin, and how many there are a pair.
    start: usize,
    span: usize,
    /// Queries `[d_head][n]`.
    q: &'s [f32],
    n: usize,
    /// Scores `[n][KEY_BLOCK]`.
    s: &'s mut [f32],
    /// Outputs so far.
    o: &'s mut [f32],
    /// All scores, where they are kept.
    all: &'s mut [f32],
}

impl Met<'_, '_> {
    /// Pairs `at ..` of those together meet the keys of some positions, whole blocks from the first on.
    ///
    /// # Safety
    /// The scratch is of the sizes said, and `pair` as many as a product takes.
    unsafe fn meet(
        &mut self,
        isa: Isa,
        pair: &mut [Pair<'_>],
        at: usize,
        pages: &[Arc<CpuPage>],
        keys: Range<usize>,
    ) {
        let (job, spec, n) = (self.job, self.job.spec, pair.len());
        let shape = PageShape::of(spec);
        let d = spec.d_head;
        let panels = shape.value_panels();
        let dv = panels * LANES;
        let keep = job.raw.is_some() || job.mass.is_some() || job.stats.is_some();
        // Nobody looks at the scores on the way: they are scaled where they become weights. What is masked before
        // stays −∞.
        let bare = !keep && job.bias.is_none() && spec.scale > 0.0;
        let (span, start) = (self.span, self.start);
        let q = &self.q[at..];
        let s = &mut self.s[at * KEY_BLOCK..];
        let o = &mut self.o[at * dv..];
        let all = &mut self.all[if keep { at * span } else { 0 }..];
        for block in keys.step_by(KEY_BLOCK) {
            let page = pages[block / KEY_BLOCK].as_slice();
            // Keys that none of them sees have weight zero, which adds nothing to any chain.
            let last = pair.iter().map(|p| p.pos + 1).max().unwrap_or(0);
            let seen = last.saturating_sub(block).clamp(1, KEY_BLOCK);
            // SAFETY: a head's page is `[4][d][16]` keys and `[panels][64][16]` values; scratch parts are
            // sized above.
            unsafe {
                let scores = product::Tile {
                    rows: n,
                    panels: seen.div_ceil(LANES),
                    a: q.as_ptr(),
                    a_row: 1,
                    a_k: self.n,
                    kc: d,
                    b: page[shape.keys(self.kv_head)..].as_ptr(),
                    stride: d * LANES,
                    c: s.as_mut_ptr(),
                    ldc: KEY_BLOCK,
                    cols: KEY_BLOCK,
                    start: product::Start::Zero,
                };
                product::tile(isa, &scores);
                for (i, p) in pair.iter_mut().enumerate() {
                    let row = &mut s[i * KEY_BLOCK..(i + 1) * KEY_BLOCK];
                    let bare = bare && p.edits.is_empty();
                    if !bare {
                        scale(isa, row, spec.scale);
                    }
                    if let Some(bias) = &job.bias {
                        // One rounding each, in any order of the keys.
                        row.iter_mut().zip(bias.of(p.head, p.pos, block)).for_each(|(s, b)| *s += b);
                    }
                    mask(row, block, p.first, p.pos);
                    if !p.edits.is_empty() {
                        edit_scores(row, block, p.first, p.pos, p.edits);
                    }
                    if keep {
                        all[i * span + block - start..][..KEY_BLOCK].copy_from_slice(row);
                    }
                    if let Some(given) = given(p.edits) {
                        // A given pattern stands for the weights themselves.
                        (p.max, p.sum) = (0.0, 1.0);
                        for (k, w) in (block..).zip(row.iter_mut()) {
                            let seen = (p.first..=p.pos).contains(&k);
                            *w = if seen { given.get(k).copied().unwrap_or(0.0) } else { 0.0 };
                        }
                    } else {
                        let by = if bare { spec.scale } else { 1.0 };
                        let o = &mut o[i * dv..(i + 1) * dv];
                        (p.max, p.sum) = soften(isa, row, by, p.max, p.sum, o);
                    }
                    if let Some(d) = &spec.dropout {
                        let mut kept = [0.0; KEY_BLOCK];
                        factors(
                            isa,
                            d,
                            (p.seg * spec.n_heads + p.head) as u32,
                            p.pos as u32,
                            block,
                            &mut kept,
                        );
                        row.iter_mut().zip(kept).for_each(|(w, f)| *w *= f);
                    }
                }
                let values = product::Tile {
                    rows: n,
                    panels,
                    a: s.as_ptr(),
                    a_row: KEY_BLOCK,
                    a_k: 1,
                    kc: seen,
                    b: page[shape.values(self.kv_head)..].as_ptr(),
                    stride: KEY_BLOCK * LANES,
                    c: o.as_mut_ptr(),
                    ldc: dv,
                    cols: dv,
                    start: product::Start::Added,
                };
                product::tile(isa, &values);
            }
        }
    }
}

isa_fn! {
    /// # Safety
    /// None beyond a valid `Isa`.
    unsafe fn scale = scale_body(x: &mut [f32], by: f32)
}

#[inline(always)]
unsafe fn scale_body<S: Simd>(x: &mut [f32], by: f32) {
    for i in (0..x.len()).step_by(LANES) {
        // SAFETY: `x` is whole vectors.
        unsafe {
            let at = x.as_mut_ptr().add(i);
            S::store(at, S::mul(S::load(at), S::splat(by)));
        }
    }
}

/// The pattern that replaces this row's, where one was given; the last one wins.
pub(super) fn given<'a>(edits: &[Edit<'a>]) -> Option<&'a [f32]> {
    edits.iter().rev().find_map(|e| match e {
        Edit::Set(p) => Some(*p),
        _ => None,
    })
}

/// −∞ on the keys that a row at `pos` does not see.
fn mask(row: &mut [f32], block: usize, first: usize, pos: usize) {
    if block + KEY_BLOCK - 1 > pos {
        row[(pos + 1).saturating_sub(block).min(KEY_BLOCK)..].fill(f32::NEG_INFINITY);
    }
    if block < first {
        row[..(first - block).min(KEY_BLOCK)].fill(f32::NEG_INFINITY);
    }
}

/// Applies edits to the visible scores of one row.
pub(super) fn edit_scores(row: &mut [f32], block: usize, first: usize, pos: usize, edits: &[Edit<'_>]) {
    let visible = first.max(block)..(pos + 1).min(block + KEY_BLOCK);
    for e in edits {
        for k in visible.clone() {
            let s = &mut row[k - block];
            match e {
                Edit::Block(r) if r.contains(&(k as u32)) => *s = f32::NEG_INFINITY,
                Edit::Uniform if *s != f32::NEG_INFINITY => *s = 0.0,
                Edit::Temperature(t) => *s /= t,
                _ => {}
            }
        }
    }
}

isa_fn! {
    /// One step of the running softmax: scores times `by` become weights relative to the new maximum, the output
    /// so far is scaled to it. Gives the new maximum and sum.
    ///
    /// # Safety
    /// `row` is a block of keys, `o` whole vectors.
    unsafe fn soften = soften_body(
        row: &mut [f32], by: f32, max: f32, sum: f32, o: &mut [f32],
    ) -> (f32, f32)
}

#[inline(always)]
unsafe fn soften_body<S: Simd>(row: &mut [f32], by: f32, max: f32, sum: f32, o: &mut [f32]) -> (f32, f32) {
    // SAFETY: `row` is four vectors, `o` whole vectors.
    unsafe {
        let p = row.as_mut_ptr();
        // Loops and not `array::from_fn`: its closures are compiled without the instruction set.
        let mut w = [S::splat(0.0); BLOCK_VECS];
        for (j, w) in w.iter_mut().enumerate() {
            *w = S::mul(S::load(p.add(j * LANES)), S::splat(by));
        }
        let top = S::max_lane(S::max(S::max(w[0], w[1]), S::max(w[2], w[3])));
        let new = if top > max { top } else { max };
        if new == f32::NEG_INFINITY {
            row.fill(0.0);
            return (max, sum);
        }
        for (j, w) in w.iter_mut().enumerate() {
            *w = exp::<S>(S::sub(*w, S::splat(new)));
            S::store(p.add(j * LANES), *w);
        }
        let block_sum = S::sum(S::add(S::add(w[0], w[1]), S::add(w[2], w[3])));
        if new == max {
            return (max, sum + block_sum);
        }
        let shrink = exp::<S>(S::splat(max - new));
        for j in (0..o.len()).step_by(LANES) {
            let at = o.as_mut_ptr().add(j);
            S::store(at, S::mul(S::load(at), shrink));
        }
        (new, S::lanes(shrink)[0].mul_add(sum, block_sum))
    }
}

isa_fn! {
    /// Finished scores to weights.
    ///
    /// # Safety
    /// `x` is whole vectors.
    unsafe fn to_weights = to_weights_body(x: &mut [f32], max: f32, sum: f32)
}

#[inline(always)]
unsafe fn to_weights_body<S: Simd>(x: &mut [f32], max: f32, sum: f32) {
    for i in (0..x.len()).step_by(LANES) {
        // SAFETY: `x` is whole vectors.
        unsafe {
            let at = x.as_mut_ptr().add(i);
            let w = exp::<S>(S::sub(S::load(at), S::splat(max)));
            S::store(at, S::div(w, S::splat(sum)));
        }
    }
}

/// Weights of one finished row and what was asked about them. `scores` starts at key `start`.
unsafe fn measure(isa: Isa, job: &Job<'_>, r: &Pair<'_>, start: usize, scores: &mut [f32]) {
    let (heads, seg, row, head) = (job.spec.n_heads, r.seg, r.row, r.head);
    let visible = r.first..r.pos + 1;
    if let Some((all_scores, _, offset)) = job.raw {
        // SAFETY: the block of this row and head is `pos + 1` long.
        let out = unsafe { all_scores.slice(offset[row] + head * (r.pos + 1), r.pos + 1) };
        out.fill(f32::NEG_INFINITY);
        out[r.first..].copy_from_slice(&scores[r.first - start..=r.pos - start]);
    }
    // SAFETY: `scores` is whole vectors.
    unsafe { to_weights(isa, scores, r.max, r.sum) };
    if let Some(set) = given(r.edits) {
        for k in visible.clone() {
            scores[k - start] = set.get(k).copied().unwrap_or(0.0);
        }
    }
    let weights = &scores[r.first - start..=r.pos - start];
    if let Some((_, pattern, offset)) = job.raw {
        // SAFETY: as above.
        let out = unsafe { pattern.slice(offset[row] + head * (r.pos + 1), r.pos + 1) };
        out.fill(0.0);
        out[r.first..].copy_from_slice(weights);
    }
    if let Some((mass, groups, n)) = job.mass {
        // SAFETY: this row's and head's own entries.
        let out = unsafe { mass.slice((row * heads + head) * n, n) };
        for (o, ranges) in out.iter_mut().zip(&groups[seg]) {
            let inside = ranges.iter().flat_map(|g| {
                (g.start as usize).max(visible.start)..(g.end as usize).min(visible.end).max(visible.start)
            });
            *o = inside.map(|k| f64::from(weights[k - r.first])).sum::<f64>() as f32;
        }
    }
    if let Some(stats) = job.stats {
        // SAFETY: this row's and head's own entries.
        let out = unsafe { stats.slice((row * heads + head) * 3, 3) };
        // SAFETY: a valid instruction set.
        out.copy_from_slice(&unsafe { statistics(isa, weights) });
    }
}

isa_fn! {
    /// Entropy, ℓ2 and maximum of the weights of a row.
    ///
    /// # Safety
    /// None beyond a valid `Isa`.
    unsafe fn statistics = statistics_body(p: &[f32]) -> [f32; 3]
}

#[inline(always)]
unsafe fn statistics_body<S: Simd>(p: &[f32]) -> [f32; 3] {
    // SAFETY: partial vectors stay within the row.
    unsafe {
        let [mut entropy, mut square, mut top] = [S::splat(0.0); 3];
        for i in (0..p.len()).step_by(LANES) {
            let p = S::load_part(p.as_ptr().add(i), LANES.min(p.len() - i));
            // Patterns that are given may hold anything.
            let log = S::select_gt(p, S::splat(0.0), log::<S>(p), S::splat(0.0));
            entropy = S::fma(p, log, entropy);
            square = S::fma(p, p, square);
            top = S::max(p, top);
        }
        [0.0 - S::sum(entropy), S::sum(square).sqrt(), S::max_lane(top)]
    }
}
