//! The product `x Wᵀ` for several rows on weights that are narrower than f32: a decoding step of some
//! sequences at once.
//!
//! Decoding a block to scratch and reading it again took a third of such a step: with so few rows nothing hides
//! that weights come from memory, panel by panel in short pieces. Here a weight is decoded into a register and
//! meets all rows at once; a panel is read from end to end, asked for ahead, and the inputs, repacked once for
//! all panels, stay in the second cache.

use crate::simd::{Isa, LANES, Simd, isa_fn};
use crate::source::Dtype;

use super::format::{Format, with_format};
use super::memory::Scratch;
use super::product::{AHEAD, K_BLOCK, Rect, finish, group_at};

/// Rows a register tile spans at most.
const TALLEST: usize = 24;

/// What rows meet before there is a weight.
static NOTHING: [f32; LANES] = [0.0; LANES];

/// Whether rows are so few that this is the way.
pub(super) fn suits(isa: Isa, r: &Rect<'_>) -> bool {
    // Others have no registers for it.
    isa == Isa::Avx512 && r.rows <= MOST_ROWS && r.w.dtype != Dtype::F32
}

/// From here on decoding a block once for all rows costs less than decoding it for every tile.
const MOST_ROWS: usize = 32;

/// Computes a rectangle, with the bits of every other way.
///
/// # Safety
/// The pointers are valid for the rectangle, and nobody else writes it.
pub(super) unsafe fn several(isa: Isa, r: &Rect<'_>) {
    let tiles = r.rows.div_ceil(TALLEST);
    // Register tiles come in steps of four rows.
    let tall = r.rows.div_ceil(4).div_ceil(tiles) * 4;
    // Sixteen rows of an input lie side by side, a line; a taller tile has a second matrix of such lines.
    let lines = tall.div_ceil(LANES);
    let size = r.w.k * lines * LANES;
    let mut scratch = Scratch::take(size);
    let packed = scratch.get(size);
    for row in (0..r.rows).step_by(tall) {
        let rows = tall.min(r.rows - row);
        // SAFETY: the caller's promise; rows lie within the rectangle.
        unsafe {
            for (i, out) in packed.chunks_exact_mut(r.w.k * LANES).enumerate().take(rows.div_ceil(LANES)) {
                let n = LANES.min(rows - i * LANES);
                side_by_side(isa, r.x.add((row + i * LANES) * r.ldx), r.ldx, n, out);
            }
            tile(isa, r, packed, row, rows);
        }
    }
}

isa_fn! {
    /// `[n][k] → [k][16]`, with zeros for the rows that are not there.
    ///
    /// # Safety
    /// `n ≤ 16` rows, `ldx` apart, of `out.len() / 16` readable inputs.
    pub(super) unsafe fn side_by_side = side_by_side_body(x: *const f32, ldx: usize, n: usize, out: &mut [f32])
}

#[inline(always)]
unsafe fn side_by_side_body<S: Simd>(x: *const f32, ldx: usize, n: usize, out: &mut [f32]) {
    let k = out.len() / LANES;
    // SAFETY: the caller's promise.
    unsafe {
        for k0 in (0..k).step_by(LANES) {
            let m = LANES.min(k - k0);
            let mut v = [S::splat(0.0); LANES];
            for (i, v) in v.iter_mut().enumerate().take(n) {
                let at = x.add(i * ldx + k0);
                *v = if m == LANES { S::load(at) } else { S::load_part(at, m) };
            }
            S::transpose(&mut v);
            for (i, v) in v.iter().enumerate().take(m) {
                S::store(out.as_mut_ptr().add((k0 + i) * LANES), *v);
            }
        }
    }
}

isa_fn! {
    /// All panels of the rectangle for some of its rows, whose inputs are `packed` as [`several`] does.
    ///
    /// # Safety
    /// As [`several`], with at most [`TALLEST`] rows.
    unsafe fn tile = tile_body(r: &Rect<'_>, packed: &[f32], row: usize, rows: usize)
}

#[inline(always)]
unsafe fn tile_body<S: Simd>(r: &Rect<'_>, packed: &[f32], row: usize, rows: usize) {
    // SAFETY: the caller's promise, passed on.
    unsafe { with_format!(r.w.dtype, Q => tile_of::<S, Q>(r, packed, row, rows)) }
}

#[inline(always)]
unsafe fn tile_of<S: Simd, Q: Format>(r: &Rect<'_>, packed: &[f32], row: usize, rows: usize) {
    if S::ACC < 24 {
        debug_assert!(false, "no kernel for this instruction set");
        return;
    }
    // Eight chains hide the latency of a multiply-add; fewer rows take several panels at a time. Rows that
    // are not there are zeros, computed and not stored.
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match rows {
            0..=4 => panels::<S, Q, 4, 4>(r, packed, row, rows),
            5..=8 => panels::<S, Q, 8, 2>(r, packed, row, rows),
            9..=12 => panels::<S, Q, 12, 1>(r, packed, row, rows),
            13..=16 => panels::<S, Q, 16, 1>(r, packed, row, rows),
            17..=20 => panels::<S, Q, 20, 1>(r, packed, row, rows),
            _ => panels::<S, Q, 24, 1>(r, packed, row, rows),
        }
    }
}

#[inline(always)]
unsafe fn panels<S: Simd, Q: Format, const R: usize, const P: usize>(
    r: &Rect<'_>,
    packed: &[f32],
    row: usize,
    rows: usize,
) {
    let mut p = r.p0;
    while p < r.p1 {
        // SAFETY: the caller's promise; blocks follow each other within the panel.
        unsafe {
            let mut k0 = 0;
            while k0 < r.w.k {
                chains::<S, Q, R, P>(r, packed, row, rows, p, k0);
                k0 += K_BLOCK;
            }
            finish::<S>(r, row, row + rows, p, r.p1.min(p + P));
        }
        p += P;
    }
}

/// The micro-kernel: `R × P` chains over one block of inputs, all in registers.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "behind iterators the accumulators end up in memory")]
unsafe fn chains<S: Simd, Q: Format, const R: usize, const P: usize>(
    r: &Rect<'_>,
    packed: &[f32],
    row: usize,
    rows: usize,
    p: usize,
    k0: usize,
) {
    // SAFETY: the caller's promise; panels beyond the last are read as the last again and not stored.
    unsafe {
        let mut panel = [std::ptr::null::<u8>(); P];
        for i in 0..P {
            panel[i] = r.w.panel((p + i).min(r.p1 - 1)).add(k0 / Q::BLOCK * Q::BYTES);
        }
        let second = r.w.k * LANES;
        let first = packed.as_ptr().add(k0 * LANES);
        // A weight is decoded while the rows meet the one before: the processor takes the oldest first, so that
        // one decoded only then would wait for all of them, and its own rows for it. With several panels there
        // are no registers for it.
        let early = P == 1;
        let nothing = NOTHING.as_ptr();
        let (mut x, mut y, mut next) =
            if early { (nothing, nothing, first) } else { (first, first, first.add(LANES)) };
        let mut w = [S::splat(0.0); P];
        let mut acc = [[S::splat(0.0); P]; R];
        // All rows meet a weight.
        macro_rules! meet {
            () => {
                for j in 0..R {
                    let x = S::splat(if j < LANES { *x.add(j) } else { *y.add(j - LANES) });
                    for i in 0..P {
                        acc[j][i] = S::fma(x, w[i], acc[j][i]);
                    }
                }
            };
        }
        for _ in 0..K_BLOCK.min(r.w.k - k0) / Q::BLOCK {
            for sub in 0..Q::BLOCK / Q::SUB {
                let mut head = [[S::splat(0.0); 2]; P];
                for i in 0..P {
                    head[i] = Q::head::<S>(panel[i], sub);
                }
                // The next inputs, as many as a group holds.
                macro_rules! sum {
                    ($group:ident, $steps:expr) => {
                        for _ in 0..$steps {
                            let mut decoded = [S::splat(0.0); P];
                            for i in 0..P {
                                decoded[i] = Q::weight::<S>(head[i], $group[i]);
                                $group[i] = Q::next::<S>($group[i]);
                            }
                            if early {
                                S::at_once(decoded[0]);
                                meet!();
                                w = decoded;
                            } else {
                                w = decoded;
                                meet!();
                            }
                            (x, y) = (next, next.wrapping_add(second));
                            next = next.wrapping_add(LANES);
                        }
                    };
                }
                let mut left = [S::isplat(0); P];
                for g in 0..Q::GROUPS {
                    let mut group = [S::isplat(0); P];
                    for i in 0..P {
                        group[i] = Q::group::<S>(panel[i], sub, g);
                        S::prefetch(panel[i].wrapping_add(AHEAD + group_at::<Q>(sub, g)));
                    }
                    sum!(group, Q::steps(g));
                    for i in 0..P {
                        left[i] = Q::leave::<S>(left[i], group[i]);
                    }
                }
                sum!(left, Q::REST);
            }
            for i in 0..P {
                panel[i] = panel[i].add(Q::BYTES);
            }
        }
        if early {
            meet!();
        }
        // Constant bounds here too, for the same reason.
        for i in 0..P {
            if p + i < r.p1 {
                let n = LANES.min(r.w.n - (p + i) * LANES);
                for j in 0..R {
                    if j < rows {
                        let c = r.c.add((row + j) * r.ldc + (p + i - r.p0) * LANES);
                        let v = acc[j][i];
                        S::store_part(c, if k0 == 0 { v } else { S::add(S::load_part(c, n), v) }, n);
                    }
                }
            }
        }
    }
}
