//! The recurrence of an LSTM layer of [`super::Reference`], one sequence and step at a time.

use super::{RefBuf, RefWeight, axpy, dot};
use crate::kernels::{LstmGrads, LstmKept};
use crate::ops::Batch;

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// See [`crate::Kernels::lstm`].
pub(super) fn forward(
    pre: &RefBuf,
    at: Option<&[u32]>,
    w: &RefWeight,
    bias: Option<&RefBuf>,
    batch: &Batch,
) -> (RefBuf, LstmKept<RefBuf>) {
    let (h, rows) = (w.k, batch.rows());
    let mut hidden = RefBuf::zeros(rows, h);
    let mut kept = LstmKept { gates: RefBuf::zeros(rows, 4 * h), cells: RefBuf::zeros(rows, h) };
    for seg in &batch.segs {
        let (mut state, mut cell) = (vec![0.0; h], vec![0.0; h]);
        for row in seg.rows.clone().map(|r| r as usize) {
            let pre = pre.row(at.map_or(row, |at| at[row] as usize));
            let z: Vec<f64> = (0..4 * h)
                .map(|i| pre[i] + dot(&state, w.row(i)) + bias.map_or(0.0, |b| b.data[i]))
                .collect();
            for j in 0..h {
                let (input, forget) = (sigmoid(z[j]), sigmoid(z[h + j]));
                let (new, output) = (z[2 * h + j].tanh(), sigmoid(z[3 * h + j]));
                cell[j] = forget * cell[j] + input * new;
                state[j] = output * cell[j].tanh();
                for (g, v) in [input, forget, new, output].into_iter().enumerate() {
                    kept.gates.row_mut(row)[g * h + j] = v;
                }
            }
            hidden.row_mut(row).copy_from_slice(&state);
            kept.cells.row_mut(row).copy_from_slice(&cell);
        }
    }
    (hidden, kept)
}

/// See [`crate::Kernels::lstm_vjp`].
pub(super) fn backward(
    hidden: &RefBuf,
    kept: &LstmKept<RefBuf>,
    w: &RefWeight,
    batch: &Batch,
    dh: &RefBuf,
) -> LstmGrads<RefBuf> {
    let h = w.k;
    let mut dpre = RefBuf::zeros(hidden.rows, 4 * h);
    let mut before = RefBuf::zeros(hidden.rows, h);
    for seg in &batch.segs {
        let (mut dstate, mut dcell) = (vec![0.0; h], vec![0.0; h]);
        for row in seg.rows.clone().rev().map(|r| r as usize) {
            let first = row == seg.rows.start as usize;
            let gates = kept.gates.row(row);
            for j in 0..h {
                let [input, forget, new, output] = [0, 1, 2, 3].map(|g| gates[g * h + j]);
                let cell_before = if first { 0.0 } else { kept.cells.row(row - 1)[j] };
                let tc = kept.cells.row(row)[j].tanh();
                let d = dh.row(row)[j] + dstate[j];
                let dc = dcell[j] + d * output * (1.0 - tc * tc);
                dcell[j] = dc * forget;
                let out = dpre.row_mut(row);
                out[j] = dc * new * input * (1.0 - input);
                out[h + j] = dc * cell_before * forget * (1.0 - forget);
                out[2 * h + j] = dc * input * (1.0 - new * new);
                out[3 * h + j] = d * tc * output * (1.0 - output);
            }
            dstate.fill(0.0);
            for i in 0..4 * h {
                axpy(&mut dstate, dpre.row(row)[i], w.row(i));
            }
            if !first {
                before.row_mut(row).copy_from_slice(hidden.row(row - 1));
            }
        }
    }
    LstmGrads { dpre, before }
}
