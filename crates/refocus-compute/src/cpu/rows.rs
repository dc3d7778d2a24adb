//! Operations on rows: norms, activations, rotary positions, gathers, edits.

use std::ops::Range;

use crate::dropout::Dropout;
use crate::error::Result;
use crate::kernels::NormArgs;
use crate::ops::{Activation, NormKind, RopeTable};
use crate::simd::{LANES, Simd, isa_fn};

use super::Cpu;
use super::memory::{CpuBuf, Out};
use super::panels::Panels;
use super::product::activate;

/// Numbers one tile handles, about.
const GRAIN: usize = 1 << 15;

impl Cpu {
    /// Calls `f` on ranges of rows that cover `0..rows`, on all threads.
    pub(super) fn by_rows(&mut self, rows: usize, width: usize, f: impl Fn(Range<usize>) + Sync) {
        let step = (GRAIN / width.max(1)).max(1);
        self.team.run(rows.div_ceil(step), |i| f(i * step..rows.min((i + 1) * step)));
    }
}

/// `f(row of x, row of out)` for every row.
fn map_rows(
    cpu: &mut Cpu,
    x: &CpuBuf,
    width: usize,
    f: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) -> Result<CpuBuf> {
    let mut out = cpu.stale(x.rows, width)?;
    let o = Out::new(out.as_mut_slice());
    cpu.by_rows(x.rows, x.width.max(width), |rows| {
        for r in rows {
            // SAFETY: row `r` belongs to this tile alone.
            f(r, x.row(r), unsafe { o.slice(r * width, width) });
        }
    });
    Ok(out)
}

/// Sixteen lanes at a time over slices of one length.
macro_rules! each_vector {
    ($n:expr, |$i:ident, $len:ident| $body:block) => {
        let mut $i = 0;
        while $i < $n {
            let $len = LANES.min($n - $i);
            $body
            $i += LANES;
        }
    };
}

isa_fn! {
    /// Mean (zero for RMS) and `1 / denominator` of one group.
    ///
    /// # Safety
    /// None beyond a valid `Isa`.
    unsafe fn moments = moments_body(x: &[f32], kind: NormKind, eps: f32) -> (f32, f32)
}

#[inline(always)]
pub(super) unsafe fn moments_body<S: Simd>(x: &[f32], kind: NormKind, eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    // SAFETY: partial vectors stay within the slice.
    unsafe {
        let mean = match kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => {
                let mut acc = S::splat(0.0);
                each_vector!(x.len(), |i, len| {
                    acc = S::add(acc, S::load_part(x.as_ptr().add(i), len));
                });
                S::sum(acc) / n
            }
        };
        let mut acc = S::splat(0.0);
        each_vector!(x.len(), |i, len| {
            let v = S::sub(S::load_part(x.as_ptr().add(i), len), S::splat(mean));
            let v = S::blend_first(v, S::splat(0.0), len);
            acc = S::fma(v, v, acc);
        });
        (mean, (S::sum(acc) / n + eps).sqrt())
    }
}

isa_fn! {
    /// `(x − mean) / scale · gain + bias`.
    ///
    /// # Safety
    /// All slices have the length of `x`.
    unsafe fn normalise = normalise_body(
        x: &[f32], out: &mut [f32], mean: f32, scale: f32, gain: Option<&[f32]>, bias: Option<&[f32]>,
    )
}

#[inline(always)]
unsafe fn normalise_body<S: Simd>(
    x: &[f32],
    out: &mut [f32],
    mean: f32,
    scale: f32,
    gain: Option<&[f32]>,
    bias: Option<&[f32]>,
) {
    // SAFETY: partial vectors stay within the slices.
    unsafe {
        let inverse = S::splat(1.0 / scale);
        each_vector!(x.len(), |i, len| {
            let mut v = S::mul(S::sub(S::load_part(x.as_ptr().add(i), len), S::splat(mean)), inverse);
            if let Some(g) = gain {
                v = S::mul(v, S::load_part(g.as_ptr().add(i), len));
            }
            if let Some(b) = bias {
                v = S::add(v, S::load_part(b.as_ptr().add(i), len));
            }
            S::store_part(out.as_mut_ptr().add(i), v, len);
        });
    }
}

pub(super) fn norm(cpu: &mut Cpu, x: &CpuBuf, n: &NormArgs<'_, CpuBuf>) -> Result<CpuBuf> {
    let isa = cpu.isa;
    let (gain, bias) = (n.gain.map(CpuBuf::as_slice), n.bias.map(CpuBuf::as_slice));
    map_rows(cpu, x, x.width, |_, x, out| {
        for (x, out) in x.chunks_exact(n.group).zip(out.chunks_exact_mut(n.group)) {
            // SAFETY: gain and bias are `group` long (checked by the caller).
            unsafe {
                let (mean, scale) = moments(isa, x, n.kind, n.eps);
                normalise(isa, x, out, mean, scale, gain, bias);
            }
        }
    })
}

pub(super) fn norm_scale(cpu: &mut Cpu, x: &CpuBuf, n: &NormArgs<'_, CpuBuf>) -> Result<CpuBuf> {
    let isa = cpu.isa;
    map_rows(cpu, x, x.width / n.group, |_, x, out| {
        for (x, out) in x.chunks_exact(n.group).zip(out) {
            // SAFETY: no condition.
            *out = unsafe { moments(isa, x, n.kind, n.eps) }.1;
        }
    })
}

isa_fn! {
    /// # Safety
    /// The slices have one length.
    unsafe fn add_slices = add_slices_body(x: &[f32], y: &[f32], out: &mut [f32])
}

#[inline(always)]
unsafe fn add_slices_body<S: Simd>(x: &[f32], y: &[f32], out: &mut [f32]) {
    // SAFETY: partial vectors stay within the slices.
    unsafe {
        each_vector!(x.len(), |i, len| {
            let v = S::add(S::load_part(x.as_ptr().add(i), len), S::load_part(y.as_ptr().add(i), len));
            S::store_part(out.as_mut_ptr().add(i), v, len);
        });
    }
}

pub(super) fn add(cpu: &mut Cpu, x: &CpuBuf, y: &CpuBuf) -> Result<CpuBuf> {
    let isa = cpu.isa;
    // SAFETY: equal shapes (checked by the caller).
    map_rows(cpu, x, x.width, |r, x, out| unsafe { add_slices(isa, x, y.row(r), out) })
}

/// `x += y`, of equal shapes.
pub(super) fn add_assign(cpu: &mut Cpu, x: &mut CpuBuf, y: &CpuBuf) {
    let (isa, rows, width) = (cpu.isa, x.rows, x.width);
    let (o, y) = (Out::new(x.as_mut_slice()), y.as_slice());
    cpu.by_rows(rows, width, |rows| {
        let (at, n) = (rows.start * width, rows.len() * width);
        // SAFETY: the rows are this tile's own.
        unsafe { add_to(isa, o.slice(at, n), &y[at..at + n]) };
    });
}

isa_fn! {
    /// # Safety
    /// The slices have one length.
    unsafe fn add_to = add_to_body(x: &mut [f32], y: &[f32])
}

#[inline(always)]
unsafe fn add_to_body<S: Simd>(x: &mut [f32], y: &[f32]) {
    // SAFETY: partial vectors stay within the slices.
    unsafe {
        each_vector!(x.len(), |i, len| {
            let at = x.as_mut_ptr().add(i);
            S::store_part(at, S::add(S::load_part(at, len), S::load_part(y.as_ptr().add(i), len)), len);
        });
    }
}

isa_fn! {
    /// # Safety
    /// `gate` (and `up`) have the length of `out`.
    unsafe fn act_slice = act_body(gate: &[f32], up: Option<&[f32]>, out: &mut [f32], a: Activation)
}

#[inline(always)]
unsafe fn act_body<S: Simd>(gate: &[f32], up: Option<&[f32]>, out: &mut [f32], a: Activation) {
    // SAFETY: partial vectors stay within the slices.
    unsafe {
        each_vector!(out.len(), |i, len| {
            let mut v = activate::<S>(a, S::load_part(gate.as_ptr().add(i), len));
            if let Some(up) = up {
                v = S::mul(v, S::load_part(up.as_ptr().add(i), len));
            }
            S::store_part(out.as_mut_ptr().add(i), v, len);
        });
    }
}

pub(super) fn act(cpu: &mut Cpu, x: &CpuBuf, a: Activation) -> Result<CpuBuf> {
    let isa = cpu.isa;
    // SAFETY: equal lengths.
    map_rows(cpu, x, x.width, |_, x, out| unsafe { act_slice(isa, x, None, out, a) })
}

pub(super) fn glu(cpu: &mut Cpu, x: &CpuBuf, a: Activation) -> Result<CpuBuf> {
    let isa = cpu.isa;
    let h = x.width / 2;
    // SAFETY: halves of equal length.
    map_rows(cpu, x, h, |_, x, out| unsafe { act_slice(isa, &x[..h], Some(&x[h..]), out, a) })
}

isa_fn! {
    /// What elements `first ..` of a row are multiplied by.
    ///
    /// # Safety
    /// None beyond a valid `Isa`.
    pub(super) unsafe fn factors = factors_body(
        d: &Dropout, sequence: u32, row: u32, first: usize, out: &mut [f32],
    )
}

#[inline(always)]
unsafe fn factors_body<S: Simd>(d: &Dropout, sequence: u32, row: u32, first: usize, out: &mut [f32]) {
    d.factors(sequence, row, first, out);
}

pub(super) fn dropout(cpu: &mut Cpu, x: &CpuBuf, d: &Dropout, at: &[(u32, u32)]) -> Result<CpuBuf> {
    let isa = cpu.isa;
    map_rows(cpu, x, x.width, |r, x, out| {
        // SAFETY: no condition.
        unsafe { factors(isa, d, at[r].0, at[r].1, 0, out) };
        out.iter_mut().zip(x).for_each(|(f, x)| *f *= x);
    })
}

pub(super) fn rope(
    cpu: &mut Cpu,
    x: &CpuBuf,
    d_head: usize,
    table: &RopeTable,
    pos: &[u32],
    inverse: bool,
) -> Result<CpuBuf> {
    let (isa, half) = (cpu.isa, table.rotary / 2);
    map_rows(cpu, x, x.width, |r, x, out| {
        let at = pos[r] as usize * half;
        let (cos, sin) = (&table.cos[at..at + half], &table.sin[at..at + half]);
        out.copy_from_slice(x);
        for (x, out) in x.chunks_exact(d_head).zip(out.chunks_exact_mut(d_head)) {
            if !table.interleaved {
                let ((x, y), (to_x, to_y)) = (x.split_at(half), out.split_at_mut(half));
                // SAFETY: a head holds both halves.
                unsafe { turn_halves(isa, x, &y[..half], cos, sin, inverse, to_x, &mut to_y[..half]) };
                continue;
            }
            for i in 0..half {
                let (a, b) = (2 * i, 2 * i + 1);
                let s = if inverse { -sin[i] } else { sin[i] };
                out[a] = x[a] * cos[i] - x[b] * s;
                out[b] = x[b] * cos[i] + x[a] * s;
            }
        }
    })
}

isa_fn! {
    /// Turns the points `(x, y)` by angles of these cosines and sines, or back.
    ///
    /// # Safety
    /// All slices have the length of `x`.
    unsafe fn turn_halves = turn_halves_body(
        x: &[f32], y: &[f32], cos: &[f32], sin: &[f32], back: bool, to_x: &mut [f32], to_y: &mut [f32],
    )
}

#[inline(always)]
unsafe fn turn_halves_body<S: Simd>(
    x: &[f32],
    y: &[f32],
    cos: &[f32],
    sin: &[f32],
    back: bool,
    to_x: &mut [f32],
    to_y: &mut [f32],
) {
    // SAFETY: partial vectors stay within the slices.
    unsafe {
        each_vector!(x.len(), |i, len| {
            let (x, y) = (S::load_part(x.as_ptr().add(i), len), S::load_part(y.as_ptr().add(i), len));
            let (c, s) = (S::load_part(cos.as_ptr().add(i), len), S::load_part(sin.as_ptr().add(i), len));
            let s = if back { S::mul(S::splat(-1.0), s) } else { s };
            S::store_part(to_x.as_mut_ptr().add(i), S::sub(S::mul(x, c), S::mul(y, s)), len);
            S::store_part(to_y.as_mut_ptr().add(i), S::add(S::mul(y, c), S::mul(x, s)), len);
        });
    }
}

pub(super) fn embed(cpu: &mut Cpu, w: &Panels, ids: &[u32]) -> Result<CpuBuf> {
    let (isa, k) = (cpu.isa, w.k);
    let mut out = cpu.stale(ids.len(), k)?;
    let o = Out::new(out.as_mut_slice());
    cpu.by_rows(ids.len(), k * LANES, |rows| {
        for r in rows {
            // SAFETY: row `r` belongs to this tile alone.
            w.row(isa, ids[r] as usize, unsafe { o.slice(r * k, k) });
        }
    });
    Ok(out)
}

pub(super) fn cols(cpu: &mut Cpu, x: &CpuBuf, cols: Range<usize>) -> Result<CpuBuf> {
    map_rows(cpu, x, cols.len(), |_, x, out| out.copy_from_slice(&x[cols.clone()]))
}

pub(super) fn gather(cpu: &mut Cpu, x: &CpuBuf, r: &[u32]) -> Result<CpuBuf> {
    let width = x.width;
    let mut out = cpu.stale(r.len(), width)?;
    for (out, &r) in out.as_mut_slice().chunks_exact_mut(width.max(1)).zip(r) {
        out.copy_from_slice(x.row(r as usize));
    }
    Ok(out)
}
