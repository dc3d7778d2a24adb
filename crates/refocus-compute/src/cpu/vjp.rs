//! Gradients of the row operations and of the linear map. The input's gradient is the forward product on
//! the transposed weights, the weight's is a product of columns.

use std::f32::consts::FRAC_1_SQRT_2;
use std::ops::Range;

use crate::error::Result;
use crate::kernels::{NormArgs, NormGrads};
use crate::ops::{Activation, NormKind, Vocab};
use crate::simd::{LANES, Simd, erf, exp, isa_fn, tanh};

use super::Cpu;
use super::linear::{linear, tiles};
use super::memory::{CpuBuf, Out, Scratch};
use super::panels::Panels;
use super::product::{Outer, decode, outer};
use super::rows::moments_body;
use super::vocab::max_sum_body;

/// `dy W`.
pub(super) fn linear_input(cpu: &mut Cpu, w: &Panels, dy: &CpuBuf) -> Result<CpuBuf> {
    let t = transpose(cpu, w)?;
    linear(cpu, dy, &[(&t, None)], None, None)
}

/// `[k, n]`, packed.
pub(super) fn transpose(cpu: &mut Cpu, w: &Panels) -> Result<Panels> {
    let (isa, n, k) = (cpu.isa, w.n, w.k);
    let mut turned = cpu.stale(k.div_ceil(LANES), n * LANES)?;
    let out = Out::new(turned.as_mut_slice());
    cpu.team.run(n.div_ceil(LANES), |p| {
        let mut scratch = Scratch::take(k * LANES);
        let panel = scratch.get(k * LANES);
        // SAFETY: a panel holds `k` inputs; the outputs from `p` on are this tile's own.
        unsafe {
            decode(isa, w.dtype, w.panel(p), 0, panel);
            turn(isa, panel, out, p * LANES, n);
        }
    });
    Ok(Panels::packed(k, n, turned))
}

isa_fn! {
    /// Writes a panel `[k][16]`, whose outputs begin at `at` of `n`, as the inputs from `at` on of the panels
    /// of the transposed matrix.
    ///
    /// # Safety
    /// `out` are these panels, and nobody else writes these inputs.
    unsafe fn turn = turn_body(panel: &[f32], out: Out, at: usize, n: usize)
}

#[inline(always)]
unsafe fn turn_body<S: Simd>(panel: &[f32], out: Out, at: usize, n: usize) {
    for (p, block) in panel.chunks(LANES * LANES).enumerate() {
        // SAFETY: a chunk is whole vectors; the caller's promise.
        unsafe {
            let mut v = [S::splat(0.0); LANES];
            for (i, v) in v.iter_mut().enumerate().take(block.len() / LANES) {
                *v = S::load(block.as_ptr().add(i * LANES));
            }
            S::transpose(&mut v);
            for (i, v) in v.iter().enumerate().take(n - at) {
                S::store(out.at((p * n + at + i) * LANES), *v);
            }
        }
    }
}

/// Decodes a packed matrix, `[n, k]`.
pub(super) fn unpack(cpu: &mut Cpu, w: &Panels, out: &mut CpuBuf) {
    let (isa, k) = (cpu.isa, w.k);
    let o = Out::new(out.as_mut_slice());
    cpu.by_rows(w.n, k, |rows| {
        for r in rows {
            // SAFETY: row `r` belongs to this tile alone.
            w.row(isa, r, unsafe { o.slice(r * k, k) });
        }
    });
}

/// `dyᵀ x`.
pub(super) fn linear_weight(cpu: &mut Cpu, x: &CpuBuf, dy: &CpuBuf) -> Result<CpuBuf> {
    if x.rows == 0 {
        return cpu.zeroed(dy.width, x.width);
    }
    let mut dw = cpu.stale(dy.width, x.width)?;
    let out = Out::new(dw.as_mut_slice());
    let isa = cpu.isa;
    let plan = tiles(dy.width, &[x.width], cpu.team.size());
    cpu.team.run(plan.len(), |i| {
        let t = &plan[i];
        // SAFETY: tiles are disjoint rectangles of the output; `x` and `dy` have the same rows.
        unsafe {
            outer(
                isa,
                &Outer {
                    y: dy.as_slice().as_ptr().add(t.row),
                    ldy: dy.width,
                    rows: t.rows,
                    x: x.as_slice().as_ptr(),
                    width: x.width,
                    inputs: x.rows,
                    p0: t.p0,
                    p1: t.p1,
                    c: out.at(t.row * x.width + t.p0 * LANES),
                    ldc: x.width,
                },
            );
        }
    });
    Ok(dw)
}

/// Columns that one tile sums up, and vectors of them.
const COLUMNS: usize = COLUMN_VECS * LANES;
const COLUMN_VECS: usize = 4;

/// Column sums, rows in ascending order.
pub(super) fn sum_rows(cpu: &mut Cpu, dy: &CpuBuf) -> Result<CpuBuf> {
    let isa = cpu.isa;
    let mut out = cpu.zeroed(1, dy.width)?;
    let o = Out::new(out.as_mut_slice());
    cpu.team.run(dy.width.div_ceil(COLUMNS), |i| {
        let at = i * COLUMNS;
        // SAFETY: the columns are this tile's own.
        unsafe { add_columns(isa, dy.as_slice(), dy.width, at, o.slice(at, COLUMNS.min(dy.width - at))) };
    });
    Ok(out)
}

isa_fn! {
    /// Adds every row's columns from `at` on to `out`, in ascending order of the rows.
    ///
    /// # Safety
    /// `dy` is whole rows of `width` numbers, and so many columns are there.
    unsafe fn add_columns = add_columns_body(dy: &[f32], width: usize, at: usize, out: &mut [f32])
}

#[inline(always)]
unsafe fn add_columns_body<S: Simd>(dy: &[f32], width: usize, at: usize, out: &mut [f32]) {
    // SAFETY: so many columns are in every row.
    unsafe {
        if out.len() == COLUMNS {
            let mut sum = [S::splat(0.0); COLUMN_VECS];
            for (v, sum) in sum.iter_mut().enumerate() {
                *sum = S::load(out.as_ptr().add(v * LANES));
            }
            let mut row = dy.as_ptr().add(at);
            for _ in 0..dy.len() / width {
                for (v, sum) in sum.iter_mut().enumerate() {
                    *sum = S::add(*sum, S::load(row.add(v * LANES)));
                }
                row = row.wrapping_add(width);
            }
            for (v, sum) in sum.into_iter().enumerate() {
                S::store(out.as_mut_ptr().add(v * LANES), sum);
            }
            return;
        }
        for c in (0..out.len()).step_by(LANES) {
            let n = LANES.min(out.len() - c);
            let mut sum = S::load_part(out.as_ptr().add(c), n);
            for r in (0..dy.len()).step_by(width) {
                sum = S::add(sum, S::load_part(dy.as_ptr().add(r + at + c), n));
            }
            S::store_part(out.as_mut_ptr().add(c), sum, n);
        }
    }
}

pub(super) fn norm(
    cpu: &mut Cpu,
    x: &CpuBuf,
    n: &NormArgs<'_, CpuBuf>,
    dy: &CpuBuf,
) -> Result<NormGrads<CpuBuf>> {
    let (isa, g) = (cpu.isa, n.group);
    let mut dx = cpu.stale(x.rows, x.width)?;
    let mut moments = cpu.stale(x.rows, x.width / g * 2)?;
    let (o, m) = (Out::new(dx.as_mut_slice()), Out::new(moments.as_mut_slice()));
    let (xs, dys, width) = (x.as_slice(), dy.as_slice(), x.width);
    cpu.by_rows(x.rows, width, |rows| {
        let (at, all) = (rows.start * width, rows.len() * width);
        let (x, dy) = (&xs[at..at + all], &dys[at..at + all]);
        // SAFETY: the rows are this tile's own.
        unsafe { norm_back(isa, n, x, dy, o.slice(at, all), m.slice(at / g * 2, all / g * 2)) };
    });
    let mut dgain = n.gain.map(|_| cpu.zeroed(1, g)).transpose()?;
    let mut dbias = n.bias.map(|_| cpu.zeroed(1, g)).transpose()?;
    let gain = dgain.as_mut().map(|d| Out::new(d.as_mut_slice()));
    let bias = dbias.as_mut().map(|d| Out::new(d.as_mut_slice()));
    if gain.is_some() || bias.is_some() {
        let moments = moments.as_slice();
        cpu.team.run(g.div_ceil(COLUMNS), |i| {
            let (at, len) = (i * COLUMNS, COLUMNS.min(g - i * COLUMNS));
            // SAFETY: the columns are this tile's own.
            unsafe {
                if let Some(d) = gain {
                    add_gains(isa, xs, dys, moments, g, at, d.slice(at, len));
                }
                if let Some(d) = bias {
                    add_columns(isa, dys, g, at, d.slice(at, len));
                }
            }
        });
    }
    Ok(NormGrads { dx, dgain, dbias })
}

isa_fn! {
    /// Gradient of the input of a norm, and mean and denominator of each group.
    ///
    /// # Safety
    /// `x`, `dy` and `dx` are whole groups; `moments` two numbers a group.
    unsafe fn norm_back = norm_back_body(
        n: &NormArgs<'_, CpuBuf>, x: &[f32], dy: &[f32], dx: &mut [f32], moments: &mut [f32],
    )
}

/// A group's two sums are chains in ascending order, so the lanes run over groups.
#[inline(always)]
unsafe fn norm_back_body<S: Simd>(
    n: &NormArgs<'_, CpuBuf>,
    x: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    moments: &mut [f32],
) {
    let (g, len) = (n.group, n.group as f32);
    let gain = n.gain.map(CpuBuf::as_slice);
    for (i, moments) in moments.chunks_mut(2 * LANES).enumerate() {
        let (at, groups) = (i * LANES * g, moments.len() / 2);
        for (r, m) in moments.chunks_exact_mut(2).enumerate() {
            // SAFETY: no condition.
            let (mean, scale) = unsafe { moments_body::<S>(&x[at + r * g..][..g], n.kind, n.eps) };
            m.copy_from_slice(&[mean, scale]);
        }
        // SAFETY: `m` numbers are left in every group.
        unsafe {
            // Of one group, from element `c` on: the gradient of the normalised value, and that value.
            macro_rules! part {
                ($r:expr, $c:expr, $m:expr) => {{
                    let (from, m) = (at + $r * g + $c, $m);
                    let (mean, scale) = (moments[2 * $r], moments[2 * $r + 1]);
                    let centred = S::sub(S::load_part(x.as_ptr().add(from), m), S::splat(mean));
                    let mut d = S::load_part(dy.as_ptr().add(from), m);
                    if let Some(gain) = gain {
                        d = S::mul(S::load_part(gain.as_ptr().add($c), m), d);
                    }
                    (d, S::div(centred, S::splat(scale)))
                }};
            }
            let (mut sum, mut dot) = (S::splat(0.0), S::splat(0.0));
            for c in (0..g).step_by(LANES) {
                let m = LANES.min(g - c);
                let (mut d, mut product) = ([S::splat(0.0); LANES], [S::splat(0.0); LANES]);
                for r in 0..groups {
                    let (slope, hat) = part!(r, c, m);
                    d[r] = slope;
                    product[r] = S::mul(slope, hat);
                }
                S::transpose(&mut d);
                S::transpose(&mut product);
                for k in 0..m {
                    sum = S::add(sum, d[k]);
                    dot = S::add(dot, product[k]);
                }
            }
            let (sum, dot) = (S::lanes(sum), S::lanes(dot));
            for r in 0..groups {
                let mean = S::splat(if n.kind == NormKind::Layer { sum[r] / len } else { 0.0 });
                let (along, scale) = (S::splat(dot[r] / len), S::splat(moments[2 * r + 1]));
                for c in (0..g).step_by(LANES) {
                    let m = LANES.min(g - c);
                    let (slope, hat) = part!(r, c, m);
                    let v = S::sub(S::sub(slope, mean), S::mul(hat, along));
                    S::store_part(dx.as_mut_ptr().add(at + r * g + c), S::div(v, scale), m);
                }
            }
        }
    }
}

isa_fn! {
    /// Adds every group's part in the gradient of the gains from `at` on to `out`, in ascending order.
    ///
    /// # Safety
    /// `x` and `dy` are whole groups of `g` numbers, `moments` two numbers a group.
    unsafe fn add_gains = add_gains_body(
        x: &[f32], dy: &[f32], moments: &[f32], g: usize, at: usize, out: &mut [f32],
    )
}

#[inline(always)]
unsafe fn add_gains_body<S: Simd>(
    x: &[f32],
    dy: &[f32],
    moments: &[f32],
    g: usize,
    at: usize,
    out: &mut [f32],
) {
    for c in (0..out.len()).step_by(LANES) {
        let n = LANES.min(out.len() - c);
        // SAFETY: `n` elements are left in every group.
        unsafe {
            let mut sum = S::load_part(out.as_ptr().add(c), n);
            for (r, m) in moments.chunks_exact(2).enumerate() {
                let from = r * g + at + c;
                let centred = S::sub(S::load_part(x.as_ptr().add(from), n), S::splat(m[0]));
                let d = S::mul(S::load_part(dy.as_ptr().add(from), n), centred);
                sum = S::add(sum, S::div(d, S::splat(m[1])));
            }
            S::store_part(out.as_mut_ptr().add(c), sum, n);
        }
    }
}

/// `(a(x), a'(x))` in the polynomials of the forward pass, so that what is learned does not depend on the
/// system's math library.
#[inline(always)]
unsafe fn value_and_slope<S: Simd>(a: Activation, x: S::F) -> (S::F, S::F) {
    // SAFETY: the caller's instruction set.
    unsafe {
        let (zero, one, half) = (S::splat(0.0), S::splat(1.0), S::splat(0.5));
        match a {
            Activation::Relu => (S::max(zero, x), S::select_gt(x, zero, one, zero)),
            Activation::Silu => {
                let s = S::div(one, S::add(one, exp::<S>(S::sub(zero, x))));
                (S::mul(x, s), S::mul(s, S::fma(x, S::sub(one, s), one)))
            }
            Activation::Gelu => {
                let phi = S::mul(half, S::add(one, erf::<S>(S::mul(x, S::splat(FRAC_1_SQRT_2)))));
                let bell = exp::<S>(S::mul(S::splat(-0.5), S::mul(x, x)));
                // 1/√(2π).
                let density = S::mul(S::splat(0.398_942_3), bell);
                (S::mul(x, phi), S::fma(x, density, phi))
            }
            Activation::GeluTanh => {
                // √(2/π), and that times 3 · 0.044715.
                let (c, c3) = (S::splat(0.797_884_6), S::splat(0.107_032_22));
                let square = S::mul(x, x);
                let inner = S::mul(S::mul(x, c), S::fma(square, S::splat(0.044_715), one));
                let t = tanh::<S>(inner);
                let phi = S::mul(half, S::add(one, t));
                let dt = S::mul(S::sub(one, S::mul(t, t)), S::fma(square, c3, c));
                (S::mul(x, phi), S::fma(S::mul(half, x), dt, phi))
            }
        }
    }
}

isa_fn! {
    /// `dy · a'(x)`; with a factor `up` of the forward pass `dy · up · a'(x)`, and `dy · a(x)` to `dup`.
    ///
    /// # Safety
    /// All slices have the length of `x`.
    unsafe fn act_row = act_row_body(
        a: Activation, x: &[f32], dy: &[f32], dx: &mut [f32], up: Option<(&[f32], &mut [f32])>,
    )
}

#[inline(always)]
unsafe fn act_row_body<S: Simd>(
    a: Activation,
    x: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    mut up: Option<(&[f32], &mut [f32])>,
) {
    for i in (0..x.len()).step_by(LANES) {
        let n = LANES.min(x.len() - i);
        // SAFETY: `n` values are left in every slice.
        unsafe {
            let (value, slope) = value_and_slope::<S>(a, S::load_part(x.as_ptr().add(i), n));
            let mut d = S::load_part(dy.as_ptr().add(i), n);
            if let Some((up, dup)) = &mut up {
                S::store_part(dup.as_mut_ptr().add(i), S::mul(d, value), n);
                d = S::mul(d, S::load_part(up.as_ptr().add(i), n));
            }
            S::store_part(dx.as_mut_ptr().add(i), S::mul(d, slope), n);
        }
    }
}

pub(super) fn act(cpu: &mut Cpu, x: &CpuBuf, a: Activation, dy: &CpuBuf) -> Result<CpuBuf> {
    let isa = cpu.isa;
    let mut dx = cpu.stale(x.rows, x.width)?;
    let o = Out::new(dx.as_mut_slice());
    cpu.by_rows(x.rows, x.width, |rows| {
        for r in rows {
            // SAFETY: row `r` belongs to this tile alone; lengths are equal.
            unsafe { act_row(isa, a, x.row(r), dy.row(r), o.slice(r * x.width, x.width), None) };
        }
    });
    Ok(dx)
}

pub(super) fn glu(cpu: &mut Cpu, x: &CpuBuf, a: Activation, dy: &CpuBuf) -> Result<CpuBuf> {
    let isa = cpu.isa;
    let h = x.width / 2;
    let mut dx = cpu.stale(x.rows, x.width)?;
    let o = Out::new(dx.as_mut_slice());
    cpu.by_rows(x.rows, x.width, |rows| {
        for r in rows {
            let (gate, up) = x.row(r).split_at(h);
            // SAFETY: row `r` belongs to this tile alone; all slices are `h` long.
            unsafe {
                let (dgate, dup) = o.slice(r * x.width, x.width).split_at_mut(h);
                act_row(isa, a, gate, dy.row(r), dgate, Some((up, dup)));
            }
        }
    });
    Ok(dx)
}

/// Adds rows or columns of a gradient into a larger one.
pub(super) fn add_cols(dx: &mut CpuBuf, cols: Range<usize>, dy: &CpuBuf) {
    let width = dx.width;
    for r in 0..dy.rows {
        let row = &mut dx.as_mut_slice()[r * width..(r + 1) * width];
        for (x, d) in row[cols.clone()].iter_mut().zip(dy.row(r)) {
            *x += d;
        }
    }
}

/// Row `rows[i]` of `dx` gains row `i` of `dy`, in ascending `i`.
pub(super) fn add_rows(dx: &mut CpuBuf, rows: &[u32], dy: &CpuBuf) {
    let width = dx.width;
    for (i, &r) in rows.iter().enumerate() {
        let row = &mut dx.as_mut_slice()[r as usize * width..(r as usize + 1) * width];
        for (x, d) in row.iter_mut().zip(dy.row(i)) {
            *x += d;
        }
    }
}

/// Gradient of the logits behind one vocabulary question.
pub(super) fn vocab_logits(
    cpu: &mut Cpu,
    x: &CpuBuf,
    u: &Panels,
    bias: Option<&CpuBuf>,
    want: &Vocab,
    dy: &CpuBuf,
) -> Result<CpuBuf> {
    if let Vocab::Ids(ids) = want {
        let mut out = cpu.zeroed(x.rows, u.n)?;
        for (r, row) in out.as_mut_slice().chunks_exact_mut(u.n).enumerate() {
            for (&id, d) in ids.iter().zip(dy.row(r)) {
                row[id as usize] += d;
            }
        }
        return Ok(out);
    }
    if *want == Vocab::All {
        return Ok(dy.clone());
    }
    let isa = cpu.isa;
    let mut logits = linear(cpu, x, &[(u, bias)], None, None)?;
    let n = logits.width;
    let o = Out::new(logits.as_mut_slice());
    cpu.by_rows(x.rows, n, |rows| {
        for r in rows {
            let d = dy.row(r)[0];
            // SAFETY: row `r` belongs to this tile alone.
            let row = unsafe { o.slice(r * n, n) };
            // SAFETY: no condition.
            unsafe { softmax_times(isa, row, d) };
            if let Vocab::Nll(ids) = want {
                row[ids[r] as usize] -= d;
            }
        }
    });
    Ok(logits)
}

isa_fn! {
    /// Logits to `d · softmax`.
    ///
    /// # Safety
    /// None beyond a valid `Isa`.
    unsafe fn softmax_times = softmax_times_body(row: &mut [f32], d: f32)
}

#[inline(always)]
unsafe fn softmax_times_body<S: Simd>(row: &mut [f32], d: f32) {
    // SAFETY: partial vectors stay within the row.
    unsafe {
        let (max, sum) = max_sum_body::<S>(row);
        let (max, factor) = (S::splat(max), S::splat(d / sum));
        for i in (0..row.len()).step_by(LANES) {
            let n = LANES.min(row.len() - i);
            let at = row.as_mut_ptr().add(i);
            let e = exp::<S>(S::sub(S::load_part(at, n), max));
            S::store_part(at, S::mul(e, factor), n);
        }
    }
}
