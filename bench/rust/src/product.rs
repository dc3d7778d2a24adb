//! A packed product by itself.

use refocus_compute::{Cpu, Dtype, Kernels, MatrixSource, Panels};

use crate::session::Session;
use crate::{Outcome, median};

/// Packed weights of one shape, by type.
pub type Packed = Vec<(Dtype, Panels)>;

/// Seconds of `x Wᵀ` for `[rows, k, n]`, weights packed beforehand, and the sum of the outputs.
pub fn linear(session: &mut Session, dtype: &str, [rows, k, n]: [usize; 3], reps: usize) -> Outcome<String> {
    let dtype = match dtype {
        "f32" => Dtype::F32,
        "bf16" => Dtype::Bf16,
        "q4_1" => Dtype::Q4_1,
        other => return Err(format!("no type is called '{other}'").into()),
    };
    let (cpu, packed) = session.product();
    packed.retain(|(_, w)| cpu.weight_shape(w) == (n, k));
    if !packed.iter().any(|(d, _)| *d == dtype) {
        packed.push((dtype, pack(cpu, dtype, n, k)?));
    }
    let (_, w) = packed.iter().find(|(d, _)| *d == dtype).ok_or("nothing is packed")?;
    let x: Vec<f32> = (0..rows * k).map(|i| noise(i + 1)).collect();
    let x = cpu.upload(rows, k, &x)?;
    let mut y = cpu.linear(&x, &[(w, None)], None, None)?;
    let seconds = median(reps, || {
        y = cpu.linear(&x, &[(w, None)], None, None)?;
        Ok(())
    })?;
    let checksum: f64 = y.as_slice().iter().map(|&y| f64::from(y)).sum();
    Ok(format!("{seconds} {checksum}"))
}

fn pack(cpu: &mut Cpu, dtype: Dtype, n: usize, k: usize) -> Outcome<Panels> {
    let bytes = stored(dtype, n * k);
    let source =
        MatrixSource { name: "w", dtype, bytes: &bytes, stored: [n, k], transposed: false, rows: None };
    Ok(cpu.pack(&source)?)
}

/// Numbers in −0.5 .. 0.5 that a hash of the index gives.
fn noise(i: usize) -> f32 {
    (i as u32).wrapping_mul(2_654_435_761) as f32 / u32::MAX as f32 - 0.5
}

/// `count` numbers of about that size, as a file would store them.
fn stored(dtype: Dtype, count: usize) -> Vec<u8> {
    match dtype {
        Dtype::F32 => (0..count).flat_map(|i| noise(i).to_le_bytes()).collect(),
        Dtype::Bf16 => (0..count).flat_map(|i| ((noise(i).to_bits() >> 16) as u16).to_le_bytes()).collect(),
        _ => (0..count / 32)
            .flat_map(|block| {
                // d = 2⁻⁴, m = −0.5 as f16, then nibbles.
                let nibbles =
                    (0..16).map(move |i| (block * 16 + i).wrapping_mul(2_654_435_761).to_le_bytes()[3]);
                [0x00, 0x2c, 0x00, 0xb8].into_iter().chain(nibbles)
            })
            .collect(),
    }
}
