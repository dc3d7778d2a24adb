//! Questions about the vocabulary product of [`super::Reference`].

use super::{RefBuf, RefWeight, dense};
use crate::error::{Error, Result};
use crate::ops::{Vocab, VocabOut};

/// Answers in the order of the questions.
pub(super) fn answers(
    x: &RefBuf,
    u: &RefWeight,
    bias: Option<&RefBuf>,
    want: &[Vocab],
) -> Result<Vec<VocabOut<RefBuf>>> {
    let logits = dense::linear(x, &[(u, bias)], None, None);
    let rows = || (0..logits.rows).map(|r| logits.row(r));
    let column = |data: Vec<f64>| RefBuf::new(logits.rows, 1, data).map(VocabOut::Values);
    let per_row = |ids: &[u32]| ids.iter().map(|&id| id as usize).collect::<Vec<_>>();
    want.iter()
        .map(|question| match question {
            Vocab::Ids(ids) => {
                let data = rows().flat_map(|row| ids.iter().map(|&id| row[id as usize])).collect();
                RefBuf::new(logits.rows, ids.len(), data).map(VocabOut::Values)
            }
            Vocab::LogSumExp => column(rows().map(log_sum_exp).collect()),
            Vocab::Nll(ids) => {
                column(rows().zip(per_row(ids)).map(|(row, id)| log_sum_exp(row) - row[id]).collect())
            }
            Vocab::All => Ok(VocabOut::Values(logits.clone())),
            Vocab::Top(n) => Ok(VocabOut::Top(rows().map(|row| top(row, *n)).collect())),
            Vocab::RankOf(ids) => {
                Ok(VocabOut::Ranks(rows().zip(per_row(ids)).map(|(row, id)| rank(row, id)).collect()))
            }
        })
        .collect()
}

/// Gradient of the logits `[rows, vocab]` for one question.
pub(super) fn vjp_logits(
    x: &RefBuf,
    u: &RefWeight,
    bias: Option<&RefBuf>,
    want: &Vocab,
    dy: &RefBuf,
) -> Result<RefBuf> {
    let mut d = RefBuf::zeros(x.rows, u.n);
    match want {
        Vocab::Ids(ids) => {
            for r in 0..x.rows {
                for (i, &id) in ids.iter().enumerate() {
                    d.row_mut(r)[id as usize] += dy.row(r)[i];
                }
            }
        }
        Vocab::LogSumExp | Vocab::Nll(_) => {
            // d logsumexp is softmax; the likelihood also has −1 at the id.
            let logits = dense::linear(x, &[(u, bias)], None, None);
            for r in 0..x.rows {
                let (total, dy) = (log_sum_exp(logits.row(r)), dy.data[r]);
                for (d, l) in d.row_mut(r).iter_mut().zip(logits.row(r)) {
                    *d = dy * (l - total).exp();
                }
                if let Vocab::Nll(ids) = want {
                    d.row_mut(r)[ids[r] as usize] -= dy;
                }
            }
        }
        Vocab::All => d.data.copy_from_slice(&dy.data),
        Vocab::Top(_) | Vocab::RankOf(_) => {
            return Err(Error::Unsupported {
                op: "vocab",
                why: "Top and RankOf have no gradient".to_owned(),
            });
        }
    }
    Ok(d)
}

fn log_sum_exp(row: &[f64]) -> f64 {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + row.iter().map(|l| (l - max).exp()).sum::<f64>().ln()
}

/// Best first, ties to the lower id.
fn top(row: &[f64], n: usize) -> Vec<(u32, f32)> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    // Adding 0 makes −0 and 0 tie under the total order.
    order.sort_by(|&a, &b| (row[b] + 0.0).total_cmp(&(row[a] + 0.0)).then(a.cmp(&b)));
    order.into_iter().take(n).map(|id| (id as u32, row[id] as f32)).collect()
}

/// How many come before `id` in the order of [`top`].
fn rank(row: &[f64], id: usize) -> u32 {
    let before = |&(other, l): &(usize, &f64)| *l > row[id] || (*l == row[id] && other < id);
    row.iter().enumerate().filter(before).count() as u32
}
