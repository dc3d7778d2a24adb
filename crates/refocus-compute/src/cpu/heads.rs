//! What single heads write into the residual stream.

use crate::error::Result;
use crate::source::MatrixSource;

use super::Cpu;
use super::linear::linear;
use super::memory::CpuBuf;
use super::panels::Panels;
use super::rows::cols;
use super::vjp::{linear_input, unpack};

/// `[rows, n_heads · n_dirs]`: the directions go back through the output map once, then each head
/// costs one dot product a direction.
pub(super) fn head_dot(
    cpu: &mut Cpu,
    z: &CpuBuf,
    wo: &Panels,
    dirs: &CpuBuf,
    n_heads: usize,
) -> Result<CpuBuf> {
    let back = linear_input(cpu, wo, dirs)?;
    let (d, n) = (z.width / n_heads, dirs.rows);
    let mut out = cpu.stale(z.rows, n_heads * n)?;
    for (r, out) in out.as_mut_slice().chunks_exact_mut((n_heads * n).max(1)).enumerate() {
        for (i, o) in out.iter_mut().enumerate() {
            let (head, dir) = (i / n, i % n);
            let part = head * d..(head + 1) * d;
            let products = z.row(r)[part.clone()].iter().zip(&back.row(dir)[part]);
            *o = products.map(|(z, u)| f64::from(*z) * f64::from(*u)).sum::<f64>() as f32;
        }
    }
    Ok(out)
}

/// `[rows, n_heads · d_model]`.
pub(super) fn head_result(cpu: &mut Cpu, z: &CpuBuf, wo: &Panels, n_heads: usize) -> Result<CpuBuf> {
    let (d, n) = (z.width / n_heads, wo.n);
    let mut dense = cpu.stale(wo.n, wo.k)?;
    unpack(cpu, wo, &mut dense);
    let mut out = cpu.stale(z.rows, n_heads * n)?;
    for head in 0..n_heads {
        let part = head * d..(head + 1) * d;
        let own: Vec<f32> = (0..n).flat_map(|r| &dense.row(r)[part.clone()]).copied().collect();
        let w = Panels::pack(&MatrixSource::from_f32("output map of a head", n, d, &own), &mut cpu.team)?;
        let z_head = cols(cpu, z, part)?;
        let y = linear(cpu, &z_head, &[(&w, None)], None, None)?;
        for r in 0..z.rows {
            out.as_mut_slice()[(r * n_heads + head) * n..][..n].copy_from_slice(y.row(r));
        }
    }
    Ok(out)
}
