//! Positions that are no rotation: constant tables, and biases by distance.

use refocus_compute::{Batch, Ops, Param};

use crate::run_error::RunError;
use crate::spec::{ModelSpec, Positions};

/// The constant table `[n_ctx, d_model]` that is added to the token embeddings, where there is one.
pub(crate) fn constant_table(spec: &ModelSpec) -> Option<Vec<f32>> {
    let (n, d) = (spec.n_ctx, spec.d_model);
    let mut out = vec![0.0f32; n.checked_mul(d)?];
    match spec.positions {
        Positions::Sinusoidal => {
            let (half, scale) = (d / 2, (d as f64).powf(-0.5));
            for (t, row) in out.chunks_exact_mut(d.max(1)).enumerate() {
                for i in 0..half {
                    let angle = t as f64 * 10_000f64.powf(-(i as f64) / half as f64);
                    row[i] = (scale * angle.sin()) as f32;
                    row[half + i] = (scale * angle.cos()) as f32;
                }
            }
        }
        Positions::Linear => {
            for (t, row) in out.chunks_exact_mut(d.max(1)).enumerate() {
                if let Some(last) = row.last_mut() {
                    *last = (t as f64 / n as f64) as f32;
                }
            }
        }
        _ => return None,
    }
    Some(out)
}

/// ALiBi's slope of each head (Press, Smith & Lewis 2022): `2^(−8 (i + 1) / n)` for a power of two; for
/// other numbers those of the power below, then every other one of the power above.
pub(crate) fn alibi_slopes(heads: usize) -> Vec<f32> {
    let of = |n: usize| (1..=n).map(move |i| 2f64.powf(-8.0 * i as f64 / n as f64));
    let below = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
    of(below).chain(of(2 * below).step_by(2)).take(heads).map(|s| s as f32).collect()
}

/// T5's bucket of a distance (Raffel et al. 2020, the causal half): the first half of the buckets holds one
/// distance each, the others grow in equal ratios up to `max_distance` and beyond.
pub(crate) fn t5_bucket(distance: usize, buckets: usize, max_distance: usize) -> usize {
    let exact = buckets / 2;
    if distance < exact {
        return distance;
    }
    let (d, e, m) = (distance as f64, exact as f64, max_distance as f64);
    let grown = (d / e).ln() / (m / e).ln() * (buckets - exact) as f64;
    (exact + grown as usize).min(buckets - 1)
}

/// What is added to scores by distance, `[distances, n_heads]`, where something is.
pub(crate) fn distance_bias<O: Ops>(
    o: &mut O,
    spec: &ModelSpec,
    table: Option<&Param<<O::K as refocus_compute::Kernels>::W>>,
    batch: &Batch,
) -> Result<Option<O::T>, RunError> {
    let longest = batch.segs.iter().map(|s| s.pos0 as usize + s.rows.len()).max().unwrap_or(0);
    Ok(match (&spec.positions, table) {
        (Positions::Alibi, _) => {
            let slopes = alibi_slopes(spec.n_heads);
            let data: Vec<f32> =
                (0..longest).flat_map(|d| slopes.iter().map(move |s| -s * d as f32)).collect();
            Some(o.constant(longest, spec.n_heads, &data)?)
        }
        (Positions::T5 { buckets, max_distance }, Some(table)) => {
            let ids: Vec<u32> = (0..longest).map(|d| t5_bucket(d, *buckets, *max_distance) as u32).collect();
            Some(o.embed(table, &ids)?)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `T5Attention._relative_position_bucket` of transformers 5.23 for a decoder, 32 buckets, 128.
    #[test]
    fn buckets_are_those_of_t5() {
        let got: Vec<usize> =
            [0, 1, 15, 16, 18, 19, 20, 21, 24, 30, 31, 40, 64, 99, 100, 113, 127, 128, 5000]
                .map(|d| t5_bucket(d, 32, 128))
                .to_vec();
        assert_eq!(got, [0, 1, 15, 16, 16, 17, 17, 18, 19, 20, 21, 23, 26, 30, 30, 31, 31, 31, 31]);
    }

    #[test]
    fn slopes_are_those_of_alibi() {
        assert_eq!(alibi_slopes(4), [0.25, 0.0625, 0.015625, 0.00390625]);
        assert_eq!(alibi_slopes(8)[..3], [0.5, 0.25, 0.125]);
        let three = alibi_slopes(3);
        assert_eq!((three.len(), three[0], three[1], three[2]), (3, 0.0625, 0.00390625, 0.25));
    }
}
