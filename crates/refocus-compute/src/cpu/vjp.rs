//! Gradients of the row operations and of the linear map. The products of the backward pass are the
//! forward product on matrices packed for the occasion.

use std::ops::Range;

use crate::error::Result;
use crate::kernels::{NormArgs, NormGrads};
use crate::ops::{Activation, NormKind, Vocab};
use crate::source::{Dtype, MatrixSource};

use super::Cpu;
use super::linear::linear;
use super::memory::{CpuBuf, Out};
use super::panels::Panels;
use super::rows::moments;

/// A row-major f32 matrix read as its transpose.
fn transposed<'a>(name: &'a str, rows: usize, width: usize, data: &'a [f32]) -> MatrixSource<'a> {
    MatrixSource { stored: [rows, width], transposed: true, ..MatrixSource::from_f32(name, rows, width, data) }
}

/// `dy W`.
pub(super) fn linear_input(cpu: &mut Cpu, w: &Panels, dy: &CpuBuf) -> Result<CpuBuf> {
    let mut dense = cpu.stale(w.n, w.k)?;
    unpack(cpu, w, &mut dense);
    let t = Panels::pack(&transposed("weight", w.n, w.k, dense.as_slice()), &mut cpu.team)?;
    linear(cpu, dy, &[(&t, None)], None, None)
}

/// Decodes a packed matrix, `[n, k]`.
pub(super) fn unpack(cpu: &mut Cpu, w: &Panels, out: &mut CpuBuf) {
    let k = w.k;
    let o = Out::new(out.as_mut_slice());
    cpu.by_rows(w.n, k, |rows| {
        for r in rows {
            // SAFETY: row `r` belongs to this tile alone.
            w.row(r, unsafe { o.slice(r * k, k) });
        }
    });
}

/// `dyᵀ x`.
pub(super) fn linear_weight(cpu: &mut Cpu, x: &CpuBuf, dy: &CpuBuf) -> Result<CpuBuf> {
    let mut dyt = cpu.stale(dy.width, dy.rows)?;
    let o = Out::new(dyt.as_mut_slice());
    let (rows, src) = (dy.rows, dy.as_slice());
    cpu.by_rows(dy.width, rows, |cols| {
        for r in 0..rows {
            for c in cols.clone() {
                // SAFETY: columns of `dy` (rows of the transpose) are this tile's own.
                unsafe { *o.at(c * rows + r) = src[r * dy.width + c] };
            }
        }
    });
    let xt = Panels::pack_unchecked(&transposed("activations", x.rows, x.width, x.as_slice()), &mut cpu.team)?;
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
    // SAFETY (both): no condition on `moments`; rows of `dx` are the tile's own.
    cpu.by_rows(x.rows, width, |rows| {
        for at in (rows.start * width..rows.end * width).step_by(g) {
            let (x, dy) = (&xs[at..at + g], &dys[at..at + g]);
            let (mean, scale) = unsafe { moments(isa, x, n.kind, n.eps) };
            let dhat = |i: usize| gain.map_or(dy[i], |g| g[i] * dy[i]);
            let hat = |i: usize| (x[i] - mean) / scale;
            let (mut sum, mut dot) = (0.0f32, 0.0f32);
            for i in 0..g {
                sum += dhat(i);
                dot += dhat(i) * hat(i);
            }
            let sum = if n.kind == NormKind::Layer { sum / len } else { 0.0 };
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

/// `(a(x), a'(x))` in f64: gradients need no bits in common with another path.
fn act_and_slope(a: Activation, x: f32) -> (f64, f64) {
    let x = f64::from(x);
    match a {
        Activation::Relu => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
        Activation::Silu => {
            let s = 1.0 / (1.0 + (-x).exp());
            (x * s, s * (1.0 + x * (1.0 - s)))
        }
        Activation::Gelu => {
            // SAFETY: the portable lanes run anywhere.
            let erf = unsafe {
                crate::simd::erf::<crate::simd::Portable>([(x * std::f64::consts::FRAC_1_SQRT_2) as f32; 16])
            }[0];
            let phi = 0.5 * (1.0 + f64::from(erf));
            let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            (x * phi, phi + x * density)
        }
        Activation::GeluTanh => {
            let c = (2.0 / std::f64::consts::PI).sqrt();
            let t = (c * (x + 0.044_715 * x * x * x)).tanh();
            let dt = (1.0 - t * t) * c * (1.0 + 3.0 * 0.044_715 * x * x);
            (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * dt)
        }
    }
}

pub(super) fn act(cpu: &mut Cpu, x: &CpuBuf, a: Activation, dy: &CpuBuf) -> Result<CpuBuf> {
    let mut dx = cpu.stale(x.rows, x.width)?;
    let o = Out::new(dx.as_mut_slice());
    cpu.by_rows(x.rows, x.width, |rows| {
        for r in rows {
            // SAFETY: row `r` belongs to this tile alone.
            let out = unsafe { o.slice(r * x.width, x.width) };
            for ((out, &x), &dy) in out.iter_mut().zip(x.row(r)).zip(dy.row(r)) {
                *out = (act_and_slope(a, x).1 * f64::from(dy)) as f32;
            }
        }
    });
    Ok(dx)
}

pub(super) fn glu(cpu: &mut Cpu, x: &CpuBuf, a: Activation, dy: &CpuBuf) -> Result<CpuBuf> {
    let h = x.width / 2;
    let mut dx = cpu.stale(x.rows, x.width)?;
    let o = Out::new(dx.as_mut_slice());
    cpu.by_rows(x.rows, x.width, |rows| {
        for r in rows {
            // SAFETY: row `r` belongs to this tile alone.
            let (dgate, dup) = unsafe { o.slice(r * x.width, x.width) }.split_at_mut(h);
            let (gate, up) = x.row(r).split_at(h);
            for (i, &dy) in dy.row(r).iter().enumerate() {
                let (value, slope) = act_and_slope(a, gate[i]);
                dgate[i] = (slope * f64::from(up[i]) * f64::from(dy)) as f32;
                dup[i] = (value * f64::from(dy)) as f32;
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
    let mut logits = linear(cpu, x, &[(u, bias)], None, None)?;
    let n = logits.width;
    for (r, row) in logits.as_mut_slice().chunks_exact_mut(n).enumerate() {
        let d = f64::from(dy.row(r)[0]);
        let max = row.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
        let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
        for x in row.iter_mut() {
            *x = (d * f64::from(*x - max).exp() / sum) as f32;
        }
        if let Vocab::Nll(ids) = want {
            row[ids[r] as usize] -= d as f32;
        }
    }
    Ok(logits)
}

impl Panels {
    /// As [`Panels::pack`] for activations and gradients, which may hold infinities.
    pub(super) fn pack_unchecked(source: &MatrixSource<'_>, team: &mut crate::team::Team) -> Result<Self> {
        debug_assert_eq!(source.dtype, Dtype::F32);
        Self::pack_with(source, team, false)
    }
}
