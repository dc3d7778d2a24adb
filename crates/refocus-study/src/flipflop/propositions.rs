//! Propositions 3 and 4 of the paper (appendix C) as numbers of a given model.

use refocus_model::{ModelSpec, Params, Part, Positions, Which};
use serde::Serialize;

/// What a head's scores can reach.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dilution {
    /// Block.
    pub layer: usize,
    /// Head.
    pub head: usize,
    /// Largest singular value of `W_Kᵀ W_Q` times the scale of scores. Where positions rotate queries and
    /// keys, the product of the two largest singular values instead: rotation keeps lengths alone.
    pub sigma: f64,
    /// Longest input of queries and keys that was seen.
    pub norm: f64,
    /// Largest weight that was seen.
    pub largest: f64,
    /// The proposition's bound on any weight at the longest row seen, inputs no longer than 1.
    pub bound_unit: Option<f64>,
    /// The same for inputs as long as `norm`; absent where scores have a bias by distance.
    pub bound: Option<f64>,
    /// `σ` times the square of `norm`.
    pub reach: f64,
    /// What `reach` must be at least for the weights that were seen; a proof that it is above would be an
    /// error in the model's arithmetic.
    pub needed: f64,
}

/// Where scores depend on positions alone: `W_Qpᵀ W_Kp` times the scale, which must be 0 for a one-layer
/// model with linear positions to work at every length.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TieBreak {
    /// Head of the first block.
    pub head: usize,
    /// The product.
    pub product: f64,
}

/// Largest weight among `keys` keys whose scores lie within `±reach`.
pub fn bound(reach: f64, keys: usize) -> f64 {
    let others = keys.saturating_sub(1) as f64;
    if others == 0.0 {
        return 1.0;
    }
    // 1 − (T−1) / ((T−1) + e^2σ), without an overflow.
    1.0 / (1.0 + others * (-2.0 * reach).exp())
}

/// What [`bound`] needs for a weight: its inverse. A weight that rounds to 1 counts as half a step below.
pub(super) fn needed(weight: f64, keys: usize) -> f64 {
    let others = keys.saturating_sub(1) as f64;
    if others == 0.0 || weight <= 0.0 {
        return 0.0;
    }
    0.5 * (weight * others / (1.0 - weight).max(2f64.powi(-25))).ln().max(0.0)
}

/// A head's queries and keys `[d_head, d_model]`, biases as a last column.
struct QueryKey {
    q: Vec<f64>,
    k: Vec<f64>,
    columns: usize,
    biased: bool,
}

fn query_key(p: &Params, layer: usize, head: usize) -> Option<QueryKey> {
    let s = p.spec();
    let d = s.d_model;
    let kv = head / (s.n_heads / s.n_kv_heads);
    let of = |part: Part, head: usize| -> Option<(Vec<Vec<f64>>, Vec<f64>)> {
        let w = p.get(part, layer, Which::Weight)?;
        let rows = (head * s.d_head..(head + 1) * s.d_head)
            .map(|r| w[r * d..(r + 1) * d].iter().map(|&x| f64::from(x)).collect())
            .collect();
        let bias = p.get(part, layer, Which::Bias);
        let bias = (head * s.d_head..(head + 1) * s.d_head).map(|r| bias.map_or(0.0, |b| f64::from(b[r])));
        Some((rows, bias.collect()))
    };
    let ((q, qb), (k, kb)) = (of(Part::Q, head)?, of(Part::K, kv)?);
    let biased = qb.iter().chain(&kb).any(|b| *b != 0.0);
    let flat = |rows: Vec<Vec<f64>>, bias: Vec<f64>| -> Vec<f64> {
        let joined = rows.into_iter().zip(bias);
        joined.flat_map(|(row, b)| row.into_iter().chain(biased.then_some(b))).collect()
    };
    Some(QueryKey { q: flat(q, qb), k: flat(k, kb), columns: d + usize::from(biased), biased })
}

/// `A x` of a row-major matrix, and `Aᵀ y`.
fn times(a: &[f64], columns: usize, x: &[f64]) -> Vec<f64> {
    a.chunks_exact(columns).map(|row| row.iter().zip(x).map(|(a, x)| a * x).sum()).collect()
}

fn transposed_times(a: &[f64], columns: usize, y: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; columns];
    for (row, y) in a.chunks_exact(columns).zip(y) {
        out.iter_mut().zip(row).for_each(|(o, a)| *o += a * y);
    }
    out
}

/// Largest singular value of `Bᵀ A`, both `[n, columns]`, by power iteration.
fn largest_singular(a: &[f64], b: &[f64], columns: usize) -> f64 {
    let mut best: f64 = 0.0;
    // Two starts, so that none is orthogonal to what is sought by accident.
    for start in 0..2 {
        let mut x: Vec<f64> = (0..columns).map(|i| 1.0 + ((i * 7 + start * 3) % 11) as f64 / 11.0).collect();
        let mut sigma = 0.0;
        for _ in 0..2000 {
            let length = x.iter().map(|x| x * x).sum::<f64>().sqrt();
            if length == 0.0 {
                break;
            }
            x.iter_mut().for_each(|x| *x /= length);
            let y = transposed_times(b, columns, &times(a, columns, &x));
            let now = y.iter().map(|y| y * y).sum::<f64>().sqrt();
            x = transposed_times(a, columns, &times(b, columns, &y));
            if (now - sigma).abs() <= 1e-13 * now {
                sigma = now;
                break;
            }
            sigma = now;
        }
        best = best.max(sigma);
    }
    best
}

/// What was seen of a head: longest input, largest weight, most keys of a row, and the greatest [`needed`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) norm: f64,
    pub(super) largest: f64,
    pub(super) keys: usize,
    pub(super) needed: f64,
}

/// Proposition 3 for a head.
pub(super) fn dilution(p: &Params, layer: usize, head: usize, seen: Seen) -> Option<Dilution> {
    let s = p.spec();
    let QueryKey { q, k, columns, biased } = query_key(p, layer, head)?;
    let scale = f64::from(s.attn_scale.get(layer).copied().unwrap_or(1.0));
    let sigma = scale
        * if matches!(s.positions, Positions::Rotary { .. }) {
            let own = |a: &[f64]| largest_singular(a, a, columns).sqrt();
            own(&q) * own(&k)
        } else {
            largest_singular(&q, &k, columns)
        };
    // A bias is a column whose input is 1.
    let square = seen.norm * seen.norm + f64::from(u8::from(biased));
    let reach = sigma * square;
    let by_distance = matches!(s.positions, Positions::Alibi | Positions::T5 { .. }) || s.qk_norm;
    let unless = |x: f64| (!by_distance).then_some(x);
    Some(Dilution {
        layer,
        head,
        sigma,
        norm: square.sqrt(),
        largest: seen.largest,
        bound_unit: unless(bound(sigma, seen.keys)),
        bound: unless(bound(reach, seen.keys)),
        reach,
        needed: seen.needed,
    })
}

/// Proposition 4: of a model with linear positions and no norms; empty for others.
pub fn tie_break(p: &Params) -> Vec<TieBreak> {
    let s: &ModelSpec = p.spec();
    if s.positions != Positions::Linear || s.block_norms {
        return Vec::new();
    }
    let scale = f64::from(s.attn_scale.first().copied().unwrap_or(1.0));
    let product = |head| {
        let QueryKey { q, k, columns, .. } = query_key(p, 0, head)?;
        // Positions stand on the last coordinate.
        let column = |m: &[f64]| m.chunks_exact(columns).map(|row| row[s.d_model - 1]).collect::<Vec<_>>();
        let product = scale * column(&q).iter().zip(column(&k)).map(|(q, k)| q * k).sum::<f64>();
        Some(TieBreak { head, product })
    };
    (0..s.n_heads).filter_map(product).collect()
}

#[cfg(test)]
mod tests {
    use super::super::handset;
    use super::*;

    /// `spec/flip-flop.md` 4.1.
    #[test]
    fn published_bounds() {
        for (sigma, keys, want) in [
            (3.0, 32, 0.93),
            (3.0, 512, 0.44),
            (4.0, 32, 0.99),
            (4.0, 512, 0.85),
            (4.0, 4096, 0.42),
            (5.0, 512, 0.98),
            (5.0, 4096, 0.84),
        ] {
            let got = bound(sigma, keys);
            assert!((got - want).abs() < 0.006, "{sigma} at {keys}: {got}");
            assert!((needed(got, keys) - sigma).abs() < 1e-6);
        }
        assert_eq!((bound(1e4, 512), bound(0.0, 4), needed(0.2, 1)), (1.0, 0.25, 0.0));
    }

    #[test]
    fn singular_values_of_a_known_product() {
        // diag(3, 2) and a rotation by a right angle: singular values 3 · 5 and 2 · 7 of the product.
        let (a, b) = ([3.0, 0.0, 0.0, 2.0], [0.0, 5.0, -7.0, 0.0]);
        assert!((largest_singular(&a, &b, 2) - 15.0).abs() < 1e-9);
        assert_eq!(largest_singular(&[0.0; 4], &b, 2), 0.0);
    }

    /// `q = c (e4, e4)` and `k = (2 e0 + 2 e1, e6)`: `W_Kᵀ W_Q` has one column of `c (2, 2, 1)`, so `σ = 3 c`.
    #[test]
    fn the_hand_set_model_has_the_numbers_that_its_weights_say() {
        let p = handset(512).expect("parameters");
        let seen = Seen { norm: 1.0, largest: 1.0, keys: 512, needed: 1.0 };
        let d = dilution(&p, 0, 0, seen).expect("a head");
        assert!((d.sigma / (3.0 * 5120.0) - 1.0).abs() < 1e-9, "{d:?}");
        assert_eq!(d.bound, Some(1.0));
        // Its queries read no position.
        assert_eq!(tie_break(&p), [TieBreak { head: 0, product: 0.0 }]);
    }
}
