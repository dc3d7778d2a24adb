//! Norms, activations and rotations of [`super::Reference`].

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use super::RefBuf;
use crate::kernels::{NormArgs, NormGrads};
use crate::ops::{Activation, NormKind, RopeTable};

/// Mean and denominator of one group of columns; the mean is 0 for [`NormKind::Rms`].
fn statistics(x: &[f64], n: &NormArgs<'_, RefBuf>) -> (f64, f64) {
    let len = x.len() as f64;
    let mean = match n.kind {
        NormKind::Layer => x.iter().sum::<f64>() / len,
        NormKind::Rms => 0.0,
    };
    // The biased variance, as PyTorch's LayerNorm has it.
    let var = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / len;
    (mean, (var + f64::from(n.eps)).sqrt())
}

/// `(x − mean) / scale · gain + bias`: `[rows, width]`.
pub(super) fn norm(x: &RefBuf, n: &NormArgs<'_, RefBuf>) -> RefBuf {
    let mut y = x.clone();
    for group in y.data.chunks_exact_mut(n.group) {
        let (mean, scale) = statistics(group, n);
        for (c, v) in group.iter_mut().enumerate() {
            *v = (*v - mean) / scale;
            if let Some(gain) = n.gain {
                *v *= gain.data[c];
            }
            if let Some(bias) = n.bias {
                *v += bias.data[c];
            }
        }
    }
    y
}

/// The denominators: `[rows, width / group]`.
pub(super) fn norm_scale(x: &RefBuf, n: &NormArgs<'_, RefBuf>) -> RefBuf {
    let data = x.data.chunks_exact(n.group).map(|group| statistics(group, n).1).collect();
    RefBuf { rows: x.rows, width: x.width / n.group, data }
}

/// With `x̂` the normalised input and `g = dy · gain`:
/// `dx = (g − mean(g) − x̂ mean(g x̂)) / scale`, without `mean(g)` for [`NormKind::Rms`].
pub(super) fn norm_vjp(x: &RefBuf, n: &NormArgs<'_, RefBuf>, dy: &RefBuf) -> NormGrads<RefBuf> {
    let mut dx = RefBuf::zeros(x.rows, x.width);
    let mut dgain = RefBuf::zeros(1, n.group);
    let mut dbias = RefBuf::zeros(1, n.group);
    let len = n.group as f64;
    let groups = x.data.chunks_exact(n.group).zip(dy.data.chunks_exact(n.group));
    for ((x, dy), dx) in groups.zip(dx.data.chunks_exact_mut(n.group)) {
        let (mean, scale) = statistics(x, n);
        let unit: Vec<f64> = x.iter().map(|v| (v - mean) / scale).collect();
        let g: Vec<f64> =
            dy.iter().enumerate().map(|(c, d)| n.gain.map_or(*d, |gain| d * gain.data[c])).collect();
        let mean_g = match n.kind {
            NormKind::Layer => g.iter().sum::<f64>() / len,
            NormKind::Rms => 0.0,
        };
        let mean_gx = super::dot(&g, &unit) / len;
        for c in 0..n.group {
            dx[c] = (g[c] - mean_g - unit[c] * mean_gx) / scale;
            dgain.data[c] += dy[c] * unit[c];
            dbias.data[c] += dy[c];
        }
    }
    NormGrads { dx, dgain: n.gain.map(|_| dgain), dbias: n.bias.map(|_| dbias) }
}

/// The activation at one point.
pub(super) fn act(a: Activation, x: f64) -> f64 {
    match a {
        // Written so that NaN passes.
        Activation::Relu if x < 0.0 => 0.0,
        Activation::Relu => x,
        Activation::Gelu => x * normal_cdf(x),
        Activation::GeluTanh => 0.5 * x * (1.0 + tanh_argument(x).tanh()),
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}

/// Its derivative; that of ReLU at 0 is 0.
pub(super) fn act_slope(a: Activation, x: f64) -> f64 {
    match a {
        Activation::Relu => f64::from(u8::from(x > 0.0)),
        Activation::Gelu => normal_cdf(x) + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt(),
        Activation::GeluTanh => {
            let t = tanh_argument(x).tanh();
            let inner = (2.0 / PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner
        }
        Activation::Silu => {
            let s = 1.0 / (1.0 + (-x).exp());
            s * (1.0 + x * (1.0 - s))
        }
    }
}

fn tanh_argument(x: f64) -> f64 {
    (2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)
}

/// Φ(x), the normal distribution function.
fn normal_cdf(x: f64) -> f64 {
    0.5 * erfc(-x * FRAC_1_SQRT_2)
}

/// `1 − erf(x)` to a few units of the last place: a series of positive terms near 0, a continued
/// fraction in the tails.
pub(crate) fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.0 {
        let (mut term, mut sum, mut n) = (x, x, 1.0);
        while term > 1e-18 * sum {
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            sum += term;
            n += 1.0;
        }
        return 1.0 - sum * (-x * x).exp() * 2.0 / PI.sqrt();
    }
    let mut fraction = x;
    for n in (1..=80).rev() {
        fraction = x + 0.5 * f64::from(n) / fraction;
    }
    (-x * x).exp() / (PI.sqrt() * fraction)
}

/// `act(x[:, ..h]) · x[:, h..]`: `[rows, 2h] → [rows, h]`.
pub(super) fn glu(x: &RefBuf, a: Activation) -> RefBuf {
    let h = x.width / 2;
    let mut y = RefBuf::zeros(x.rows, h);
    for r in 0..x.rows {
        for c in 0..h {
            y.row_mut(r)[c] = act(a, x.row(r)[c]) * x.row(r)[h + c];
        }
    }
    y
}

/// Gradient of [`glu`]: `[rows, 2h]`.
pub(super) fn glu_vjp(x: &RefBuf, a: Activation, dy: &RefBuf) -> RefBuf {
    let h = x.width / 2;
    let mut dx = RefBuf::zeros(x.rows, x.width);
    for r in 0..x.rows {
        for c in 0..h {
            let (gate, up, d) = (x.row(r)[c], x.row(r)[h + c], dy.row(r)[c]);
            dx.row_mut(r)[c] = d * up * act_slope(a, gate);
            dx.row_mut(r)[h + c] = d * act(a, gate);
        }
    }
    dx
}

/// Turns the pairs of every head by the angle of the row's position; `inverse` turns back, which is
/// also the transpose.
pub(super) fn rope(x: &RefBuf, d_head: usize, table: &RopeTable, pos: &[u32], inverse: bool) -> RefBuf {
    let half = table.rotary / 2;
    let mut y = x.clone();
    for (r, &p) in pos.iter().enumerate() {
        for head in y.row_mut(r).chunks_exact_mut(d_head) {
            for i in 0..half {
                let at = p as usize * half + i;
                let cos = f64::from(table.cos[at]);
                let sin = f64::from(if inverse { -table.sin[at] } else { table.sin[at] });
                let (a, b) = if table.interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
                let (xa, xb) = (head[a], head[b]);
                head[a] = xa * cos - xb * sin;
                head[b] = xb * cos + xa * sin;
            }
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::erfc;

    /// Values of the DLMF's tables, and both sides of the change of method.
    #[test]
    fn erfc_is_known_and_continuous() {
        for (x, want) in [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (1.0, 0.157_299_207_050_285_13),
            (2.0, 0.004_677_734_981_047_266),
            (3.0, 2.209_049_699_858_544e-5),
            (-1.0, 2.0 - 0.157_299_207_050_285_13),
        ] {
            assert!((erfc(x) - want).abs() <= 4e-16 * (1.0 + want), "{x}: {} {want}", erfc(x));
        }
        assert!((erfc(2.0) - erfc(2.0 - 1e-15)).abs() < 1e-15);
    }
}
