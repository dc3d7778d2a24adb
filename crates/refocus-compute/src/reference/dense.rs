//! Matrix products of [`super::Reference`].

use super::{RefBuf, RefWeight, axpy, dot, pointwise};
use crate::ops::Activation;

/// `residual + act(x Wᵀ + b)`, the maps side by side: `[rows, Σ n]`.
pub(super) fn linear(
    x: &RefBuf,
    ws: &[(&RefWeight, Option<&RefBuf>)],
    activation: Option<Activation>,
    residual: Option<&RefBuf>,
) -> RefBuf {
    let mut y = RefBuf::zeros(x.rows, ws.iter().map(|(w, _)| w.n).sum());
    for r in 0..x.rows {
        let mut at = 0;
        for (w, bias) in ws {
            for i in 0..w.n {
                let sum = dot(x.row(r), w.row(i));
                y.row_mut(r)[at + i] = bias.map_or(sum, |b| sum + b.data[i]);
            }
            at += w.n;
        }
    }
    if let Some(a) = activation {
        y = y.map(|&v| pointwise::act(a, v));
    }
    match residual {
        Some(residual) => residual.zip(&y, |r, y| r + y),
        None => y,
    }
}

/// `dy W`: `[rows, n] [n, k] → [rows, k]`.
pub(super) fn linear_vjp_input(w: &RefWeight, dy: &RefBuf) -> RefBuf {
    let mut dx = RefBuf::zeros(dy.rows, w.k);
    for r in 0..dy.rows {
        for i in 0..w.n {
            axpy(dx.row_mut(r), dy.row(r)[i], w.row(i));
        }
    }
    dx
}

/// `dyᵀ x`: `[rows, n]ᵀ [rows, k] → [n, k]`.
pub(super) fn linear_vjp_weight(x: &RefBuf, dy: &RefBuf) -> RefBuf {
    let mut dw = RefBuf::zeros(dy.width, x.width);
    for r in 0..dy.rows {
        for i in 0..dy.width {
            axpy(dw.row_mut(i), dy.row(r)[i], x.row(r));
        }
    }
    dw
}

/// Each head's own output `z_h W_Oʰᵀ`: `[rows, n_heads · d_model]`.
pub(super) fn head_result(z: &RefBuf, wo: &RefWeight, n_heads: usize) -> RefBuf {
    let d_head = wo.k / n_heads;
    let mut y = RefBuf::zeros(z.rows, n_heads * wo.n);
    for r in 0..z.rows {
        for h in 0..n_heads {
            let head = h * d_head..(h + 1) * d_head;
            for d in 0..wo.n {
                y.row_mut(r)[h * wo.n + d] = dot(&z.row(r)[head.clone()], &wo.row(d)[head.clone()]);
            }
        }
    }
    y
}

/// What each head writes along each direction: `[rows, n_heads · n_dirs]`.
pub(super) fn head_dot(z: &RefBuf, wo: &RefWeight, dirs: &RefBuf, n_heads: usize) -> RefBuf {
    let written = head_result(z, wo, n_heads);
    let mut y = RefBuf::zeros(z.rows, n_heads * dirs.rows);
    for r in 0..z.rows {
        for h in 0..n_heads {
            let out = &written.row(r)[h * wo.n..(h + 1) * wo.n];
            for i in 0..dirs.rows {
                y.row_mut(r)[h * dirs.rows + i] = dot(out, dirs.row(i));
            }
        }
    }
    y
}
