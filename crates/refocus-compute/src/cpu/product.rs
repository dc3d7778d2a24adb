//! The product `x Wᵀ` on packed panels.
//!
//! Each output is one chain: for every block of [`K_BLOCK`] inputs a chain of fused multiply-adds
//! from zero in ascending `k`, the blocks added in order. Neither the number of rows, nor the tile
//! they fall into, nor the thread changes it.

use crate::ops::Activation;
use crate::simd::{Isa, LANES, Simd, erf, exp, isa_fn, tanh};
use crate::source::Dtype;

use super::format::{Format, block_bytes, with_format};
use super::memory::Scratch;
use super::panels::Panels;
use super::several;

/// Inputs summed in one chain before it is added to the total. Part of the format of results.
pub(crate) const K_BLOCK: usize = 256;

/// Up to this many rows, and for [`several`] more, weights go from their stored form straight into the
/// product; above it a block of them is decoded once into scratch and used by all rows.
pub(crate) const FEW_ROWS: usize = 2;

/// How far ahead weights are asked for that few or several rows meet, in bytes: a machine that looks ahead by
/// itself stops at the end of a page.
pub(super) const AHEAD: usize = 2048;

/// About where a group begins in a panel block.
pub(super) const fn group_at<Q: Format>(sub: usize, group: usize) -> usize {
    Q::BYTES / (Q::BLOCK / Q::SUB * Q::GROUPS) * (sub * Q::GROUPS + group)
}

/// Panels a tile spans at most.
const WIDE: usize = 2;

/// Panels of columns that are copied together in [`outer`].
const TOGETHER: usize = 8;

/// Rows a tile spans at most.
pub(crate) const TALL: usize = 12;

/// What is applied to outputs once their sum is complete.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    /// Of the whole matrix: `[n]`.
    pub bias: Option<&'a [f32]>,
    pub act: Option<Activation>,
    /// Element (row 0, column 0 of this matrix) and row stride, laid out as the output.
    pub residual: Option<(*const f32, usize)>,
}

impl Epilogue<'_> {
    /// Nothing to apply.
    pub(crate) const NONE: Self = Self { bias: None, act: None, residual: None };
}

/// One rectangle of the product: some rows of `x`, panels `p0 .. p1`.
#[derive(Clone, Copy)]
pub(crate) struct Rect<'a> {
    /// First row of `x`, and the distance of rows.
    pub x: *const f32,
    pub ldx: usize,
    pub rows: usize,
    pub w: &'a Panels,
    pub p0: usize,
    pub p1: usize,
    /// Output of (first row, first column of panel `p0`), and the distance of rows.
    pub c: *mut f32,
    pub ldc: usize,
    pub epi: Epilogue<'a>,
}

/// Computes a rectangle.
///
/// # Safety
/// The pointers are valid for the rectangle, and nobody else writes it.
pub(crate) unsafe fn rect(isa: Isa, r: &Rect<'_>) {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        if r.rows <= FEW_ROWS {
            few(isa, r);
        } else if several::suits(isa, r) {
            several::several(isa, r);
        } else {
            many(isa, r);
        }
    }
}

isa_fn! {
    /// Few rows: as many panels side by side as there are accumulators.
    ///
    /// # Safety
    /// As [`rect`], with at most [`FEW_ROWS`] rows.
    unsafe fn few = few_body(r: &Rect<'_>)
}

#[inline(always)]
unsafe fn few_body<S: Simd>(r: &Rect<'_>) {
    // SAFETY: the caller's promise, passed on.
    unsafe { with_format!(r.w.dtype, Q => few_of::<S, Q>(r)) }
}

#[inline(always)]
unsafe fn few_of<S: Simd, Q: Format>(r: &Rect<'_>) {
    // Chains enough to hide the latency of a fused multiply-add. Where weights are fields of words, each
    // panel holds a word, what is left over and a head in registers too, and half as many are enough: a
    // weight takes as long as two multiply-adds.
    let fields = Q::steps(0) > 1;
    // SAFETY: the caller's promise, passed on.
    unsafe {
        if S::ACC >= 24 {
            match (r.rows, fields) {
                (1, false) => few_panels::<S, Q, 1, 8>(r),
                (1, true) => few_panels::<S, Q, 1, 4>(r),
                (_, false) => few_panels::<S, Q, 2, 8>(r),
                (_, true) => few_panels::<S, Q, 2, 4>(r),
            }
        } else if S::ACC >= 6 {
            match (r.rows, fields) {
                (1, false) => few_panels::<S, Q, 1, 4>(r),
                (1, true) => few_panels::<S, Q, 1, 2>(r),
                _ => few_panels::<S, Q, 2, 2>(r),
            }
        } else {
            for row in 0..r.rows {
                let one = Rect { x: r.x.add(row * r.ldx), rows: 1, c: r.c.add(row * r.ldc), ..*r };
                let residual = r.epi.residual.map(|(p, ld)| (p.add(row * ld), ld));
                let one = Rect { epi: Epilogue { residual, ..r.epi }, ..one };
                few_panels::<S, Q, 1, 1>(&one);
            }
        }
    }
}

#[inline(always)]
unsafe fn few_panels<S: Simd, Q: Format, const R: usize, const P: usize>(r: &Rect<'_>) {
    let mut p = r.p0;
    while p < r.p1 {
        // Panels beyond the last are read as the last again and not stored: one kernel serves all.
        // SAFETY: the caller's promise, passed on.
        unsafe { few_tile::<S, Q, R, P>(r, p) };
        p += P;
    }
}

#[inline(always)]
unsafe fn few_tile<S: Simd, Q: Format, const R: usize, const P: usize>(r: &Rect<'_>, p: usize) {
    // SAFETY: rows, panels and inputs lie within the rectangle.
    unsafe {
        // Loops and not `array::from_fn`: its closures are compiled without the instruction set.
        let mut panel = [std::ptr::null(); P];
        for (i, panel) in panel.iter_mut().enumerate() {
            *panel = r.w.panel((p + i).min(r.p1 - 1));
        }
        let mut total = [[S::splat(0.0); P]; R];
        let mut k0 = 0;
        while k0 < r.w.k {
            let k1 = r.w.k.min(k0 + K_BLOCK);
            let mut acc = [[S::splat(0.0); P]; R];
            let mut k = k0;
            while k < k1 {
                let at = k / Q::BLOCK * Q::BYTES;
                for sub in 0..Q::BLOCK / Q::SUB {
                    let mut head = [[S::splat(0.0); 2]; P];
                    for i in 0..P {
                        head[i] = Q::head::<S>(panel[i].add(at), sub);
                    }
                    // The next inputs, as many as a group holds.
                    macro_rules! sum {
                        ($group:ident, $steps:expr) => {
                            for _ in 0..$steps {
                                let mut x = [S::splat(0.0); R];
                                for row in 0..R {
                                    x[row] = S::splat(*r.x.add(row * r.ldx + k));
                                }
                                for i in 0..P {
                                    let w = Q::weight::<S>(head[i], $group[i]);
                                    for row in 0..R {
                                        acc[row][i] = S::fma(x[row], w, acc[row][i]);
                                    }
                                    $group[i] = Q::next::<S>($group[i]);
                                }
                                k += 1;
                            }
                        };
                    }
                    let mut left = [S::isplat(0); P];
                    for g in 0..Q::GROUPS {
                        let mut group = [S::isplat(0); P];
                        for i in 0..P {
                            group[i] = Q::group::<S>(panel[i].add(at), sub, g);
                            S::prefetch(panel[i].wrapping_add(at + AHEAD + group_at::<Q>(sub, g)));
                        }
                        sum!(group, Q::steps(g));
                        for i in 0..P {
                            left[i] = Q::leave::<S>(left[i], group[i]);
                        }
                    }
                    sum!(left, Q::REST);
                }
            }
            for row in 0..R {
                for i in 0..P {
                    total[row][i] = if k0 == 0 { acc[row][i] } else { S::add(total[row][i], acc[row][i]) };
                }
            }
            k0 = k1;
        }
        let shown = P.min(r.p1 - p);
        for (row, total) in total.iter().enumerate() {
            for (i, &v) in total.iter().enumerate().take(shown) {
                let n = LANES.min(r.w.n - (p + i) * LANES);
                S::store_part(r.c.add(row * r.ldc + (p + i - r.p0) * LANES), v, n);
            }
        }
        finish::<S>(r, 0, R, p, p + shown);
    }
}

/// Many rows: tiles of rows by panels, blocks of inputs outermost, `x` repacked tile by tile so that
/// no stride can alias in the cache.
unsafe fn many(isa: Isa, r: &Rect<'_>) {
    let stored_f32 = r.w.dtype == Dtype::F32;
    let weights = if stored_f32 { 0 } else { WIDE * K_BLOCK * LANES };
    let size = weights + r.rows * K_BLOCK;
    let mut scratch = Scratch::take(size);
    let (decoded, packed) = scratch.get(size).split_at_mut(weights);
    let plain = r.epi.bias.is_none() && r.epi.act.is_none() && r.epi.residual.is_none();
    let (bytes, block) = (block_bytes(r.w.dtype), r.w.dtype.block());
    let mut k0 = 0;
    // SAFETY: the caller's promise; tiles stay within rows, panels and inputs.
    unsafe {
        while k0 < r.w.k {
            let kc = K_BLOCK.min(r.w.k - k0);
            let last = k0 + kc == r.w.k;
            let mut row = 0;
            while row < r.rows {
                let n = tall(isa, r.rows - row);
                repack(isa, r.x.add(row * r.ldx + k0), r.ldx, n, kc, &mut packed[row * kc..(row + n) * kc]);
                row += n;
            }
            let mut p = r.p0;
            while p < r.p1 {
                let wide = WIDE.min(r.p1 - p);
                let (b, stride) = if stored_f32 {
                    (r.w.panel(p).cast::<f32>().add(k0 * LANES), r.w.stride / 4)
                } else {
                    for i in 0..wide {
                        let panel = r.w.panel(p + i).add(k0 / block * bytes);
                        // What is decoded next lies in the next panels.
                        let ahead = WIDE * r.w.stride;
                        decode(isa, r.w.dtype, panel, ahead, &mut decoded[i * kc * LANES..][..kc * LANES]);
                    }
                    (decoded.as_ptr(), kc * LANES)
                };
                let cols = (wide * LANES).min(r.w.n - p * LANES);
                let mut row = 0;
                while row < r.rows {
                    let n = tall(isa, r.rows - row);
                    let t = Tile {
                        rows: n,
                        panels: wide,
                        a: packed.as_ptr().add(row * kc),
                        a_row: 1,
                        a_k: n,
                        kc,
                        b,
                        stride,
                        c: r.c.add(row * r.ldc + (p - r.p0) * LANES),
                        ldc: r.ldc,
                        cols,
                        start: if k0 > 0 { Start::Added } else { Start::Zero },
                    };
                    tile(isa, &t);
                    if last && !plain {
                        finish_tile(isa, r, row, row + n, p, p + wide);
                    }
                    row += n;
                }
                p += wide;
            }
            k0 += kc;
        }
    }
}

/// A rectangle of `yᵀ x`, the products of columns of two matrices with the same rows: outputs are
/// columns of `y` by columns of `x`, and the inputs that are summed are the rows of both.
#[derive(Clone, Copy)]
pub(crate) struct Outer {
    /// First of the columns, and the distance of rows.
    pub y: *const f32,
    pub ldy: usize,
    pub rows: usize,
    /// The whole matrix.
    pub x: *const f32,
    pub width: usize,
    pub inputs: usize,
    /// Panels of sixteen columns of `x`.
    pub p0: usize,
    pub p1: usize,
    /// Output of (first column of `y`, first column of panel `p0`), and the distance of rows.
    pub c: *mut f32,
    pub ldc: usize,
}

/// Computes a rectangle, with the bits of [`rect`] on transposed and packed matrices.
///
/// # Safety
/// The pointers are valid for the rectangle, and nobody else writes it.
pub(crate) unsafe fn outer(isa: Isa, r: &Outer) {
    let mut heights = Vec::new();
    let mut left = r.rows;
    while left > 0 {
        heights.push(tall(isa, left));
        left -= tall(isa, left);
    }
    // Panels, and tiles of columns, are a line further apart than they are long: streams at distances of
    // whole pages would drive each other out of the cache.
    let stride = K_BLOCK * LANES + LANES;
    let weights = TOGETHER * stride;
    let size = weights + r.rows * K_BLOCK + heights.len() * LANES;
    let mut scratch = Scratch::take(size);
    let (panels, packed) = scratch.get(size).split_at_mut(weights);
    // SAFETY: the caller's promise; tiles stay within columns, panels and inputs.
    unsafe {
        for k0 in (0..r.inputs).step_by(K_BLOCK) {
            let kc = K_BLOCK.min(r.inputs - k0);
            cut(isa, r.y.add(k0 * r.ldy), r.ldy, kc, &heights, packed);
            for group in (r.p0..r.p1).step_by(TOGETHER) {
                let end = r.p1.min(group + TOGETHER);
                let (first, last) = (group * LANES, r.width.min(end * LANES));
                columns(isa, r.x.add(k0 * r.width + first), r.width, kc, last - first, panels, stride);
                for p in (group..end).step_by(WIDE) {
                    let (mut row, mut a) = (0, packed.as_ptr());
                    for &n in &heights {
                        let t = Tile {
                            rows: n,
                            panels: WIDE.min(end - p),
                            a,
                            a_row: 1,
                            a_k: n,
                            kc,
                            b: panels.as_ptr().add((p - group) * stride),
                            stride,
                            c: r.c.add(row * r.ldc + (p - r.p0) * LANES),
                            ldc: r.ldc,
                            cols: (WIDE * LANES).min(last - p * LANES),
                            start: if k0 > 0 { Start::Added } else { Start::Zero },
                        };
                        tile(isa, &t);
                        (row, a) = (row + n, a.add(n * kc + LANES));
                    }
                }
            }
        }
    }
}

isa_fn! {
    /// Cuts the columns of a row-major matrix into tiles `[kc][n]` for the given numbers of columns `n`, a
    /// line of nothing between two of them.
    ///
    /// # Safety
    /// There are `kc` rows, `ld` apart, with all these columns; `out` has room for the tiles.
    unsafe fn cut = cut_body(x: *const f32, ld: usize, kc: usize, heights: &[usize], out: &mut [f32])
}

#[inline(always)]
unsafe fn cut_body<S: Simd>(x: *const f32, ld: usize, kc: usize, heights: &[usize], out: &mut [f32]) {
    let all: usize = heights.iter().sum();
    // SAFETY: the caller's promise; whole vectors are read only where all of them is readable, and what is
    // written beyond a row is written again by the next.
    unsafe {
        for k in 0..kc {
            let (mut col, mut to) = (0, out.as_mut_ptr());
            for &n in heights {
                let (from, at) = (x.add(k * ld + col), to.add(k * n));
                // What is stored beyond the tile lies in the line between.
                S::store(at, if col + LANES <= all { S::load(from) } else { S::load_part(from, n) });
                (col, to) = (col + n, to.add(n * kc + LANES));
            }
        }
    }
}

/// Rows of the next tile when `left` are left: few sizes, so that few kernels are compiled.
pub(crate) fn tall(isa: Isa, left: usize) -> usize {
    let sizes: &[usize] = match isa {
        Isa::Avx512 => &[12, 8, 4, 2, 1],
        Isa::Avx2 | Isa::Neon => &[6, 4, 2, 1],
        Isa::Portable => &[2, 1],
    };
    sizes.iter().copied().find(|&s| s <= left).unwrap_or(1)
}

isa_fn! {
    /// `[n][k] → [k][n]`.
    ///
    /// # Safety
    /// `n ≤` [`TALL`] rows, `ldx` apart, of `kc` readable inputs; `out` is `n·kc` long.
    pub(crate) unsafe fn repack = repack_body(x: *const f32, ldx: usize, n: usize, kc: usize, out: &mut [f32])
}

#[inline(always)]
unsafe fn repack_body<S: Simd>(x: *const f32, ldx: usize, n: usize, kc: usize, out: &mut [f32]) {
    let end = out.len();
    // SAFETY: the caller's promise; whole vectors are stored only where they fit, and what one writes
    // beyond its column the next ones write again.
    unsafe {
        for k0 in (0..kc).step_by(LANES) {
            let m = LANES.min(kc - k0);
            let mut v = [S::splat(0.0); LANES];
            for (i, v) in v.iter_mut().enumerate().take(n) {
                let at = x.add(i * ldx + k0);
                *v = if m == LANES { S::load(at) } else { S::load_part(at, m) };
            }
            S::transpose(&mut v);
            for (k, v) in v.iter().enumerate().take(m) {
                let at = (k0 + k) * n;
                if at + LANES <= end {
                    S::store(out.as_mut_ptr().add(at), *v);
                } else {
                    S::store_part(out.as_mut_ptr().add(at), *v, n);
                }
            }
        }
    }
}

isa_fn! {
    /// Columns of a row-major matrix as panels `[rows][16]` that begin `stride` apart; columns beyond the
    /// last are zeros.
    ///
    /// # Safety
    /// There are `rows` rows, `ldx` apart, of `cols` readable columns; `out` has room for the panels.
    pub(crate) unsafe fn columns = columns_body(
        x: *const f32, ldx: usize, rows: usize, cols: usize, out: &mut [f32], stride: usize,
    )
}

#[inline(always)]
unsafe fn columns_body<S: Simd>(
    x: *const f32,
    ldx: usize,
    rows: usize,
    cols: usize,
    out: &mut [f32],
    stride: usize,
) {
    let (panels, rest) = (cols / LANES, cols % LANES);
    debug_assert!(rows * cols == 0 || (cols.div_ceil(LANES) - 1) * stride + rows * LANES <= out.len());
    // SAFETY: the caller's promise.
    unsafe {
        let o = out.as_mut_ptr();
        for k in 0..rows {
            let (at, to) = (x.add(k * ldx), o.add(k * LANES));
            for p in 0..panels {
                S::store(to.add(p * stride), S::load(at.add(p * LANES)));
            }
            if rest > 0 {
                S::store(to.add(panels * stride), S::load_part(at.add(panels * LANES), rest));
            }
        }
    }
}

isa_fn! {
    /// Decodes whole blocks of a panel: `out` `[kc][16]`. What lies `ahead` bytes behind is asked for.
    ///
    /// # Safety
    /// The panel holds that many inputs.
    pub(super) unsafe fn decode = decode_body(dtype: Dtype, panel: *const u8, ahead: usize, out: &mut [f32])
}

#[inline(always)]
unsafe fn decode_body<S: Simd>(dtype: Dtype, panel: *const u8, ahead: usize, out: &mut [f32]) {
    // SAFETY: the caller's promise, passed on.
    unsafe { with_format!(dtype, Q => decode_of::<S, Q>(panel, ahead, out)) }
}

#[inline(always)]
unsafe fn decode_of<S: Simd, Q: Format>(panel: *const u8, ahead: usize, out: &mut [f32]) {
    // SAFETY: `out` is whole blocks of 16 outputs.
    unsafe {
        let mut o = out.as_mut_ptr();
        for block in 0..out.len() / LANES / Q::BLOCK {
            let at = panel.add(block * Q::BYTES);
            for sub in 0..Q::BLOCK / Q::SUB {
                let head = Q::head::<S>(at, sub);
                let mut left = S::isplat(0);
                // What is left over is one group more.
                for g in 0..Q::GROUPS + usize::from(Q::REST > 0) {
                    let last = g == Q::GROUPS;
                    S::prefetch(at.wrapping_add(ahead + group_at::<Q>(sub, g)));
                    let mut group = if last { left } else { Q::group::<S>(at, sub, g) };
                    for _ in 0..if last { Q::REST } else { Q::steps(g) } {
                        S::store(o, Q::weight::<S>(head, group));
                        group = Q::next::<S>(group);
                        o = o.add(LANES);
                    }
                    left = Q::leave::<S>(left, group);
                }
            }
        }
    }
}

/// A tile of a product on f32 panels, one chain of `kc` an output.
pub(crate) struct Tile {
    /// One of the sizes that [`tall`] gives.
    pub rows: usize,
    /// Any number.
    pub panels: usize,
    /// Element (row i, input k) is at `i · a_row + k · a_k`.
    pub a: *const f32,
    pub a_row: usize,
    pub a_k: usize,
    pub kc: usize,
    /// Panels `[kc][16]`, `stride` values apart.
    pub b: *const f32,
    pub stride: usize,
    pub c: *mut f32,
    pub ldc: usize,
    /// Columns to store; the last panel may be cut.
    pub cols: usize,
    pub start: Start,
}

/// What a tile does with the values that it finds.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Start {
    /// `c = a b`.
    Zero,
    /// `c += a b`, the product being a sum of its own.
    Added,
    /// The chain of each output goes on from what is there.
    Chained,
}

isa_fn! {
    /// Computes a tile.
    ///
    /// # Safety
    /// The pointers are valid for the tile, and nobody else writes `c`.
    pub(crate) unsafe fn tile = tile_body(t: &Tile)
}

#[inline(always)]
unsafe fn tile_body<S: Simd>(t: &Tile) {
    macro_rules! go {
        ($($n:literal)*) => {
            match t.rows {
                // SAFETY: the caller's promise, passed on.
                $($n => unsafe { tile_rows::<S, $n>(t) },)*
                _ => debug_assert!(false, "no kernel for {} rows", t.rows),
            }
        };
    }
    if S::ACC >= 24 {
        go!(12 8 4 2 1)
    } else if S::ACC >= 6 {
        go!(6 4 2 1)
    } else {
        go!(2 1)
    }
}

#[inline(always)]
unsafe fn tile_rows<S: Simd, const R: usize>(t: &Tile) {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match (t.start, t.a_row) {
            (Start::Chained, _) => tile_panels::<S, R, true, true>(t),
            (_, 1) => tile_panels::<S, R, true, false>(t),
            _ => tile_panels::<S, R, false, false>(t),
        }
    }
}

/// `PACKED`: the rows of one input lie side by side, so that their addresses are constants apart.
/// `CHAINED`: as [`Start::Chained`]; only with `PACKED`, and whole vectors of outputs.
#[inline(always)]
unsafe fn tile_panels<S: Simd, const R: usize, const PACKED: bool, const CHAINED: bool>(t: &Tile) {
    debug_assert!(!CHAINED || (t.a_row == 1 && t.cols.is_multiple_of(LANES)));
    let mut p = 0;
    // SAFETY: the caller's promise, passed on.
    unsafe {
        if S::ACC >= 24 && R <= 4 {
            while p + 4 <= t.panels {
                tile_kernel::<S, R, 4, PACKED, CHAINED>(t, p);
                p += 4;
            }
        }
        if S::ACC >= 24 {
            while p + 2 <= t.panels {
                tile_kernel::<S, R, 2, PACKED, CHAINED>(t, p);
                p += 2;
            }
        }
        while p < t.panels {
            tile_kernel::<S, R, 1, PACKED, CHAINED>(t, p);
            p += 1;
        }
    }
}

/// The micro-kernel: `R × P` chains of `kc` fused multiply-adds from zero, all in registers. Plain
/// loops over constants: behind iterators or a reference the accumulators end up in memory.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn tile_kernel<S: Simd, const R: usize, const P: usize, const PACKED: bool, const CHAINED: bool>(
    t: &Tile,
    p: usize,
) {
    let (a_row, a_k) = (if PACKED { 1 } else { t.a_row }, t.a_k);
    // SAFETY: the caller's promise.
    unsafe {
        let mut b = t.b.add(p * t.stride);
        let mut a = t.a;
        let mut acc = [[S::splat(0.0); P]; R];
        if CHAINED {
            for i in 0..R {
                for j in 0..P {
                    acc[i][j] = S::load(t.c.add(i * t.ldc + (p + j) * LANES));
                }
            }
        }
        for _ in 0..t.kc {
            let mut w = [S::splat(0.0); P];
            for j in 0..P {
                w[j] = S::load(b.add(j * t.stride));
            }
            for i in 0..R {
                let x = S::splat(*a.add(i * a_row));
                for j in 0..P {
                    acc[i][j] = S::fma(x, w[j], acc[i][j]);
                }
            }
            a = a.add(a_k);
            b = b.add(LANES);
        }
        for i in 0..R {
            for j in 0..P {
                let v = acc[i][j];
                let n = LANES.min(t.cols - (p + j) * LANES);
                let c = t.c.add(i * t.ldc + (p + j) * LANES);
                let add = t.start == Start::Added;
                if n == LANES {
                    S::store(c, if add { S::add(S::load(c), v) } else { v });
                } else {
                    S::store_part(c, if add { S::add(S::load_part(c, n), v) } else { v }, n);
                }
            }
        }
    }
}

isa_fn! {
    /// Applies the epilogue to finished sums: rows `row0 .. row1`, panels `p0 .. p1` of the matrix.
    ///
    /// # Safety
    /// As [`rect`].
    unsafe fn finish_tile = finish(r: &Rect<'_>, row0: usize, row1: usize, p0: usize, p1: usize)
}

/// Bias, activation, residual.
#[inline(always)]
pub(super) unsafe fn finish<S: Simd>(r: &Rect<'_>, row0: usize, row1: usize, p0: usize, p1: usize) {
    if r.epi.bias.is_none() && r.epi.act.is_none() && r.epi.residual.is_none() {
        return;
    }
    for row in row0..row1 {
        for p in p0..p1 {
            // SAFETY: row and panel lie within the rectangle; the last panel touches `n` lanes only.
            unsafe {
                let n = LANES.min(r.w.n - p * LANES);
                let at = (p - r.p0) * LANES;
                let c = r.c.add(row * r.ldc + at);
                let mut v = S::load_part(c, n);
                if let Some(bias) = r.epi.bias {
                    v = S::add(v, S::load_part(bias.as_ptr().add(p * LANES), n));
                }
                if let Some(act) = r.epi.act {
                    v = activate::<S>(act, v);
                }
                if let Some((res, ld)) = r.epi.residual {
                    v = S::add(S::load_part(res.add(row * ld + at), n), v);
                }
                S::store_part(c, v, n);
            }
        }
    }
}

/// A pointwise non-linearity on sixteen lanes.
#[inline(always)]
pub(crate) unsafe fn activate<S: Simd>(act: Activation, x: S::F) -> S::F {
    // SAFETY: the caller's instruction set.
    unsafe {
        match act {
            // In this order NaN stays NaN.
            Activation::Relu => S::max(S::splat(0.0), x),
            Activation::Silu => {
                let e = exp::<S>(S::sub(S::splat(0.0), x));
                S::div(x, S::add(S::splat(1.0), e))
            }
            Activation::Gelu => {
                let phi =
                    S::add(erf::<S>(S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2))), S::splat(1.0));
                S::mul(S::mul(x, S::splat(0.5)), phi)
            }
            Activation::GeluTanh => {
                let cube = S::mul(S::mul(x, x), x);
                let inner = S::mul(S::splat(0.797_884_6), S::fma(S::splat(0.044_715), cube, x));
                S::mul(S::mul(x, S::splat(0.5)), S::add(tanh::<S>(inner), S::splat(1.0)))
            }
        }
    }
}

isa_fn! {
    /// Nothing but fused multiply-adds, to measure the peak: `n` rounds of 24 chains of 16 lanes.
    ///
    /// # Safety
    /// None beyond a valid `Isa`.
    pub(crate) unsafe fn burn = burn_body(n: usize)
}

#[inline(always)]
unsafe fn burn_body<S: Simd>(n: usize) {
    // SAFETY: the caller's instruction set.
    unsafe {
        let mut acc = [S::splat(std::hint::black_box(1.0)); 24];
        let (a, b) = (S::splat(std::hint::black_box(0.999)), S::splat(std::hint::black_box(1e-3)));
        for _ in 0..n {
            for v in &mut acc {
                *v = S::fma(*v, a, b);
            }
        }
        let sum = acc.into_iter().reduce(|x, y| S::add(x, y));
        std::hint::black_box(sum.map(|v| S::lanes(v)));
    }
}
