//! Gradients of the row operations and of the linear map. The products of the backward pass are the
//! forward product on matrices packed for the occasion.

use std::f32::consts::FRAC_1_SQRT_2;
use std::ops::Range;

use crate::error::Result;
use crate::kernels::{NormArgs, NormGrads};
use crate::ops::{Activation, NormKind, Vocab};
use crate::simd::{LANES, Simd, erf, exp, isa_fn, tanh};
use crate::source::{Dtype, MatrixSource};

use super::Cpu;
use super::linear::linear;
use super::memory::{CpuBuf, Out};
use super::panels::Panels;
use super::rows::moments;
use super::vocab::max_sum_body;

/// A row-major f32 matrix read as its transpose.
fn transposed<'a>(name: &'a str, rows: usize, width: usize, data: &'a [f32]) -> MatrixSource<'a> {
    MatrixSource {
        stored: [rows, width],
        transposed: true,
        ..MatrixSource::from_f32(name, rows, width, data)
    }
}

/// `dy W`.
pub(super) fn linear_input(cpu: &mut Cpu, w: &Panels, dy: &CpuBuf) -> Result<CpuBuf> {
    let t = transpose(cpu, w)?;
    linear(cpu, dy, &[(&t, None)], None, None)
}

/// `[k, n]`, packed.
pub(super) fn transpose(cpu: &mut Cpu, w: &Panels) -> Result<Panels> {
    let mut dense = cpu.stale(w.n, w.k)?;
    unpack(cpu, w, &mut dense);
    Panels::pack(&transposed("weight", w.n, w.k, dense.as_slice()), &mut cpu.team)
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
    let mut dyt = cpu.stale(dy.width, dy.rows)?;
    let o = Out::new(dyt.as_mut_slice());
    let (rows, src) = (dy.rows, dy.as_slice());
    cpu.by_rows(dy.width, rows, |cols| {
        // A few rows at a time, so that what is written is whole cache lines.
        for r0 in (0..rows).step_by(LANES) {
            for c in cols.clone() {
                for r in r0..rows.min(r0 + LANES) {
                    // SAFETY: columns of `dy` (rows of the transpose) are this tile's own.
                    unsafe { *o.at(c * rows + r) = src[r * dy.width + c] };
                }
            }
        }
    });
    let xt =
        Panels::pack_unchecked(&transposed("activations", x.rows, x.width, x.as_slice()), &mut cpu.team)?;
    linear(cpu, &dyt, &[(&xt, None)], None, None)
}

/// Column sums, rows in ascending order.
pub(super) fn sum_rows(cpu: &mut Cpu, dy: &CpuBuf) -> Result<CpuBuf> {
    let mut out = cpu.stale(1, dy.width)?;
    out.as_mut_slice().fill(0.0);
    for r in 0..dy.rows {
        for (o, d) in out.as_mut_slice().iter_mut().zip(dy.row(r)) {
            *o += d;
        }
    }
    Ok(out)
}

pub(super) fn norm(
    cpu: &mut Cpu,
    x: &CpuBuf,
    n: &NormArgs<'_, CpuBuf>,
    dy: &CpuBuf,
) -> Result<NormGrads<CpuBuf>> {
    let isa = cpu.isa;
    let (g, len) = (n.group, n.group as f32);
    let gain = n.gain.map(CpuBuf::as_slice);
    let mut dx = cpu.stale(x.rows, x.width)?;
    let o = Out::new(dx.as_mut_slice());
    let (xs, dys, width) = (x.as_slice(), dy.as_slice(), x.width);
    cpu.by_rows(x.rows, width, |rows| {
        for at in (rows.start * width..rows.end * width).step_by(g) {
            let (x, dy) = (&xs[at..at + g], &dys[at..at + g]);
            // SAFETY: no condition.
            let (mean, scale) = unsafe { moments(isa, x, n.kind, n.eps) };
            let dhat = |i: usize| gain.map_or(dy[i], |g| g[i] * dy[i]);
            let hat = |i: usize| (x[i] - mean) / scale;
            let (mut sum, mut dot) = (0.0f32, 0.0f32);
            for i in 0..g {
                sum += dhat(i);
                dot += dhat(i) * hat(i);
            }
            let sum = if n.kind == NormKind::Layer { sum / len } else { 0.0 };
            // SAFETY: the rows are this tile's own.
            let out = unsafe { o.slice(at, g) };
            for (i, out) in out.iter_mut().enumerate() {
                *out = (dhat(i) - sum - hat(i) * (dot / len)) / scale;
            }
        }
    });
    let mut dgain = n.gain.map(|_| cpu.zeroed(1, g)).transpose()?;
    let mut dbias = n.bias.map(|_| cpu.zeroed(1, g)).transpose()?;
    if dgain.is_some() || dbias.is_some() {
        for at in (0..xs.len()).step_by(g) {
            let (x, dy) = (&xs[at..at + g], &dys[at..at + g]);
            if let Some(d) = &mut dgain {
                // SAFETY: no condition.
                let (mean, scale) = unsafe { moments(isa, x, n.kind, n.eps) };
                for (i, d) in d.as_mut_slice().iter_mut().enumerate() {
                    *d += dy[i] * (x[i] - mean) / scale;
                }
            }
            if let Some(d) = &mut dbias {
                for (d, dy) in d.as_mut_slice().iter_mut().zip(dy) {
                    *d += dy;
                }
            }
        }
    }
    Ok(NormGrads { dx, dgain, dbias })
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

impl Panels {
    /// As [`Panels::pack`] for activations and gradients, which may hold infinities.
    pub(super) fn pack_unchecked(source: &MatrixSource<'_>, team: &mut crate::team::Team) -> Result<Self> {
        debug_assert_eq!(source.dtype, Dtype::F32);
        Self::pack_with(source, team, false)
    }
}
