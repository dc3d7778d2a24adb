//! Logits of a few tokens and their mean over the vocabulary, without the product with the whole vocabulary: the
//! mean logit is the product with the mean row.

use std::collections::BTreeMap;

use refocus_compute::{Kernels, Ops, Param, Then};
use refocus_model::Model;

use super::Prompt;
use crate::direction::FinalNorm;
use crate::error::MeasureError;

/// Rows that leave the backend together.
const ROWS: usize = 4096;

/// What a residual stream says of a prompt, in logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Of the answer.
    pub answer: f64,
    /// Of the argument, where it is one token.
    pub argument: Option<f64>,
    /// Mean over the vocabulary.
    pub mean: f64,
}

impl Score {
    /// The answer's logit minus the mean logit: the paper's π(Y).
    pub fn pi(&self) -> f64 {
        self.answer - self.mean
    }

    /// The same of the argument: π(X).
    pub fn pi_argument(&self) -> Option<f64> {
        Some(self.argument? - self.mean)
    }
}

/// Rows of the unembedding that prompts need, and the mean row.
pub struct Unembedding {
    /// `[d_embed]` and bias, by id.
    rows: BTreeMap<u32, (Vec<f32>, f32)>,
    mean: (Vec<f64>, f64),
}

impl Unembedding {
    /// Reads the rows of the prompts' answers and arguments, and all rows for their mean.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn of<O: Ops>(o: &mut O, m: &Model<O::K>, prompts: &[Prompt]) -> Result<Self, MeasureError> {
        let vocab = m.spec.vocab;
        let bias = match &m.unembed.bias {
            Some(b) => vector(o, b)?,
            None => vec![0.0; vocab],
        };
        let wanted = prompts.iter().flat_map(|p| [Some(p.answer), p.argument]).flatten();
        let mut rows: BTreeMap<u32, (Vec<f32>, f32)> =
            wanted.map(|id| (id, (Vec::new(), bias[id as usize]))).collect();
        let mut sum: Vec<f64> = Vec::new();
        let all: Vec<u32> = (0..vocab as u32).collect();
        for ids in all.chunks(ROWS) {
            let t = o.embed(&m.unembed.w, ids)?;
            let width = o.shape(&t).1;
            sum.resize(width, 0.0);
            for (id, row) in ids.iter().zip(o.to_host(&t)?.chunks_exact(width)) {
                sum.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(*x));
                if let Some(own) = rows.get_mut(id) {
                    own.0 = row.to_vec();
                }
            }
        }
        sum.iter_mut().for_each(|s| *s /= vocab as f64);
        let of_bias = bias.iter().map(|b| f64::from(*b)).sum::<f64>() / vocab as f64;
        Ok(Self { rows, mean: (sum, of_bias) })
    }

    /// The row of an answer or argument of the prompts, `[d_embed]`.
    pub fn row(&self, id: u32) -> Option<&[f32]> {
        self.rows.get(&id).map(|r| r.0.as_slice())
    }

    /// The mean row, `[d_embed]`.
    pub fn mean_row(&self) -> &[f64] {
        &self.mean.0
    }

    /// The mean direction of the answers minus that of the arguments in the last residual stream, over the prompts
    /// whose argument is one token; absent where there is none, or where a projection stands before the unembedding.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn direction_between<O: Ops>(
        &self,
        o: &mut O,
        m: &Model<O::K>,
        prompts: &[Prompt],
    ) -> Result<Option<Vec<f64>>, MeasureError> {
        let pairs = prompts.iter().filter_map(|p| Some((self.row(p.answer)?, self.row(p.argument?)?)));
        let mut sum = vec![0.0f32; self.mean.0.len()];
        let mut n = 0;
        for (y, x) in pairs {
            sum.iter_mut().zip(y.iter().zip(x)).for_each(|(s, (y, x))| *s += y - x);
            n += 1;
        }
        if n == 0 || m.project_out.is_some() {
            return Ok(None);
        }
        Ok(Some(FinalNorm::of(o, m)?.direction(&sum)))
    }

    /// Logits at residual streams `[which, d_model]` after the last block.
    ///
    /// # Errors
    /// Prompts other than those it was made for; what the backend reports.
    pub fn scores<'a, O: Ops>(
        &self,
        o: &mut O,
        m: &Model<O::K>,
        resid: &[f32],
        which: impl ExactSizeIterator<Item = &'a Prompt>,
    ) -> Result<Vec<Score>, MeasureError> {
        let h = final_norm(o, m, resid)?;
        let width = self.mean.0.len();
        let dot = |h: &[f32], id: u32| {
            let (row, bias) = self.rows.get(&id)?;
            let sum = h.iter().zip(row).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            Some(sum + f64::from(*bias))
        };
        let one = |(i, (h, p)): (usize, (&[f32], &Prompt))| {
            let answer = dot(h, p.answer).ok_or_else(|| MeasureError::Prompt {
                prompt: i,
                why: "the unembedding was read for other prompts".to_owned(),
            })?;
            let mean = h.iter().zip(&self.mean.0).map(|(a, b)| f64::from(*a) * b).sum::<f64>() + self.mean.1;
            Ok(Score { answer, argument: p.argument.and_then(|id| dot(h, id)), mean })
        };
        h.chunks_exact(width).zip(which).enumerate().map(one).collect()
    }
}

/// A vector parameter on the host.
pub(super) fn vector<O: Ops>(o: &mut O, p: &Param<<O::K as Kernels>::Buf>) -> Result<Vec<f32>, MeasureError> {
    let t = o.parameter(p)?;
    Ok(o.to_host(&t)?)
}

/// What the unembedding reads of residual streams `[rows, d_model]`: `[rows, d_embed]`.
fn final_norm<O: Ops>(o: &mut O, m: &Model<O::K>, resid: &[f32]) -> Result<Vec<f32>, MeasureError> {
    let d = m.spec.d_model;
    let mut out = Vec::with_capacity(resid.len());
    for rows in resid.chunks(ROWS * d) {
        let x = read(o, m, rows)?;
        out.extend(o.to_host(&x)?);
    }
    Ok(out)
}

/// The same on the backend.
pub(super) fn read<O: Ops>(o: &mut O, m: &Model<O::K>, resid: &[f32]) -> Result<O::T, MeasureError> {
    let mut x = o.constant(resid.len() / m.spec.d_model, m.spec.d_model, resid)?;
    if let Some(n) = &m.ln_final {
        x = o.norm(&x, n)?;
    }
    if let Some(p) = &m.project_out {
        x = o.linear(&x, &[p], Then::default())?;
    }
    Ok(x)
}
