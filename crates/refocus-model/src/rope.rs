//! Rotary angles. Angles are computed as `transformers` does: the frequency in f32, times the position
//! in f32, cosine and sine of that product (here in f64, then rounded).

use std::sync::{Arc, Mutex, PoisonError};

use refocus_compute::{Batch, RopeTable};

use crate::run_error::RunError;
use crate::spec::{ModelSpec, Positions, RopeScaling};

/// Tables grow in steps of this many positions.
const STEP: usize = 256;

/// The last table built; it is built again when a longer one is needed.
#[derive(Default)]
pub(crate) struct RopeCache(Mutex<Option<Arc<RopeTable>>>);

/// Table and row of every packed row.
pub(crate) type Angles = (Arc<RopeTable>, Vec<u32>);

impl RopeCache {
    /// Angles for a batch; `None` without rotary positions.
    ///
    /// # Errors
    /// `dynamic` scaling of a sequence that continues cached keys past the original context: their
    /// angles would no longer be right.
    pub(crate) fn angles(&self, spec: &ModelSpec, batch: &Batch) -> Result<Option<Angles>, RunError> {
        let Positions::Rotary { dims, base, interleaved, ref scaling } = spec.positions else {
            return Ok(None);
        };
        let rows = batch.positions();
        if let Some(RopeScaling::Dynamic { factor, original }) = scaling {
            return dynamic(batch, dims, base, interleaved, *factor, *original).map(Some);
        }
        let longest = rows.iter().max().map_or(0, |&p| p as usize + 1).next_multiple_of(STEP);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let half = (dims / 2).max(1);
        match &*kept {
            Some(t) if t.cos.len() / half >= longest => Ok(Some((Arc::clone(t), rows))),
            _ => {
                let mut t = RopeTable { cos: Vec::new(), sin: Vec::new(), rotary: dims, interleaved };
                extend(&mut t, &frequencies(dims, base, scaling.as_ref()), longest, divisor(scaling));
                let t = Arc::new(t);
                *kept = Some(Arc::clone(&t));
                Ok(Some((t, rows)))
            }
        }
    }
}

/// What positions are divided by before the product with the frequency.
fn divisor(scaling: &Option<RopeScaling>) -> f32 {
    match scaling {
        Some(RopeScaling::Linear { factor }) => *factor as f32,
        _ => 1.0,
    }
}

/// Each sequence past the original context has a base of its own, so it gets its own part of the table.
fn dynamic(
    batch: &Batch,
    dims: usize,
    base: f64,
    interleaved: bool,
    factor: f64,
    original: usize,
) -> Result<Angles, RunError> {
    let mut table = RopeTable { cos: Vec::new(), sin: Vec::new(), rotary: dims, interleaved };
    let mut rows = Vec::with_capacity(batch.rows());
    let mut parts: Vec<(usize, u32)> = Vec::new();
    let half = (dims / 2).max(1);
    for s in &batch.segs {
        let end = s.pos0 as usize + s.rows.len();
        if s.pos0 > 0 && end > original {
            return Err(RunError::DynamicRope { original, end });
        }
        let length = end.max(original);
        let start = match parts.iter().find(|p| p.0 == length) {
            Some(p) => p.1,
            None => {
                let start = (table.cos.len() / half) as u32;
                let grown = factor * length as f64 / original as f64 - (factor - 1.0);
                let base = base * grown.powf(dims as f64 / (dims as f64 - 2.0));
                extend(&mut table, &frequencies(dims, base, None), length, 1.0);
                parts.push((length, start));
                start
            }
        };
        rows.extend((s.pos0..end as u32).map(|p| start + p));
    }
    Ok((Arc::new(table), rows))
}

fn extend(table: &mut RopeTable, inv_freq: &[f32], positions: usize, divisor: f32) {
    for pos in 0..positions {
        for &f in inv_freq {
            let angle = f64::from(pos as f32 * (f / divisor));
            table.cos.push(angle.cos() as f32);
            table.sin.push(angle.sin() as f32);
        }
    }
}

/// `base^(−2i/dims)`, changed as the scaling says.
fn frequencies(dims: usize, base: f64, scaling: Option<&RopeScaling>) -> Vec<f32> {
    (0..dims / 2)
        .map(|i| {
            let f = (1.0 / base.powf(2.0 * i as f64 / dims as f64)) as f32;
            match scaling {
                Some(RopeScaling::Llama3 { factor, low, high, original }) => {
                    llama3(f64::from(f), *factor, *low, *high, *original as f64) as f32
                }
                Some(RopeScaling::Divisors(d)) => f / d.get(i).copied().unwrap_or(1.0),
                _ => f,
            }
        })
        .collect()
}

/// High frequencies stay, low ones are divided, those between are blended by wavelength.
fn llama3(f: f64, factor: f64, low: f64, high: f64, original: f64) -> f64 {
    let wavelength = 2.0 * std::f64::consts::PI / f;
    if wavelength < original / high {
        f
    } else if wavelength > original / low {
        f / factor
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * f / factor + smooth * f
    }
}
