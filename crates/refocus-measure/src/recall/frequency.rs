//! How often tokens occur in text, and whether a vector writes frequent ones.

use refocus_compute::{Ops, Vocab, VocabOut};
use refocus_model::{Model, RunError};

use super::unembedding::vector;
use crate::correlation::{cosine, spearman};
use crate::direction::FinalNorm;
use crate::error::MeasureError;

/// Different tokens that a text must have.
const FEWEST: usize = 500;
/// Rows of the unembedding that leave the backend together.
const ROWS: usize = 4096;

/// Counts of tokens in a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// By id.
    pub counts: Vec<u64>,
    /// Tokens of the text.
    pub total: u64,
}

impl Frequencies {
    /// Counts the tokens of a text, `ids` below `vocab`.
    ///
    /// # Errors
    /// Fewer than 500 different tokens: the text is too short to say much.
    pub fn of(ids: &[u32], vocab: usize) -> Result<Self, MeasureError> {
        let mut counts = vec![0u64; vocab];
        for &id in ids {
            if let Some(c) = counts.get_mut(id as usize) {
                *c += 1;
            }
        }
        let distinct = counts.iter().filter(|c| **c > 0).count();
        if distinct < FEWEST.min(vocab / 2) {
            return Err(MeasureError::ShortText { distinct, needed: FEWEST.min(vocab / 2) });
        }
        let total = counts.iter().sum();
        Ok(Self { counts, total })
    }

    /// `log f` of every token, one count added to each so that none is 0.
    pub fn log_smoothed(&self) -> Vec<f32> {
        let all = (self.total + self.counts.len() as u64) as f64;
        self.counts.iter().map(|c| ((*c + 1) as f64 / all).ln() as f32).collect()
    }

    /// Spearman's correlation, over the tokens of the text, of how often they occur with what a vector `[d_model]` of
    /// the last residual stream adds to their logits, the final norm's denominator and all biases left out.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn correlation<O: Ops>(
        &self,
        o: &mut O,
        m: &Model<O::K>,
        written: &[f32],
    ) -> Result<Option<f64>, MeasureError> {
        let added = added_logits(o, m, written)?;
        let seen: Vec<usize> = (0..self.counts.len()).filter(|&i| self.counts[i] > 0).collect();
        let x: Vec<f64> = seen.iter().map(|&i| f64::from(added[i])).collect();
        let y: Vec<f64> = seen.iter().map(|&i| (self.counts[i] as f64).ln()).collect();
        Ok(spearman(&x, &y))
    }

    /// Cosine of a vector with the mean unembedding direction weighted by frequency; and with the unweighted mean
    /// direction taken out of both, which all tokens share.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn alignment<O: Ops>(
        &self,
        o: &mut O,
        m: &Model<O::K>,
        written: &[f32],
    ) -> Result<[Option<f64>; 2], MeasureError> {
        let (mut weighted, mut plain): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
        let all: Vec<u32> = (0..self.counts.len() as u32).collect();
        for ids in all.chunks(ROWS) {
            let t = o.embed(&m.unembed.w, ids)?;
            let width = o.shape(&t).1;
            weighted.resize(width, 0.0);
            plain.resize(width, 0.0);
            for (id, row) in ids.iter().zip(o.to_host(&t)?.chunks_exact(width)) {
                let f = self.counts[*id as usize] as f64 / self.total as f64;
                for (i, x) in row.iter().enumerate() {
                    weighted[i] += f * f64::from(*x);
                    plain[i] += f64::from(*x) / self.counts.len() as f64;
                }
            }
        }
        let norm = FinalNorm::of(o, m)?;
        let direction = |v: &[f64]| norm.direction(&v.iter().map(|x| *x as f32).collect::<Vec<_>>());
        if weighted.len() != written.len() {
            // A projection stands between the stream and the unembedding: they share no space.
            return Ok([None, None]);
        }
        let (weighted, plain) = (direction(&weighted), direction(&plain));
        let own: Vec<f64> = written.iter().map(|x| f64::from(*x)).collect();
        let along = plain.iter().map(|x| x * x).sum::<f64>();
        let without = |v: &[f64]| -> Vec<f64> {
            let share = v.iter().zip(&plain).map(|(a, b)| a * b).sum::<f64>() / along;
            v.iter().zip(&plain).map(|(a, b)| a - share * b).collect()
        };
        let removed: Vec<f64> = weighted.iter().zip(&plain).map(|(a, b)| a - b).collect();
        Ok([cosine(&own, &weighted), cosine(&without(&own), &removed)])
    }
}

/// What a vector of the last residual stream adds to every logit, times the final norm's denominator.
fn added_logits<O: Ops>(o: &mut O, m: &Model<O::K>, x: &[f32]) -> Result<Vec<f32>, MeasureError> {
    if x.len() != m.spec.d_model {
        return Err(MeasureError::Width { got: x.len(), want: m.spec.d_model });
    }
    let lens = FinalNorm::of(o, m)?.lens(x);
    let mut h = o.constant(1, lens.len(), &lens)?;
    if let Some(p) = &m.project_out {
        h = o.linear(&h, &[p], refocus_compute::Then::default())?;
    }
    let mut out = match o.vocab(&h, &m.unembed, &[Vocab::All])?.first() {
        Some(VocabOut::Values(t)) => o.to_host(t)?,
        _ => return Err(RunError::Unread(0).into()),
    };
    if let Some(b) = &m.unembed.bias {
        out.iter_mut().zip(vector(o, b)?).for_each(|(x, b)| *x -= b);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_text_is_refused_and_counts_are_smoothed() {
        let e = Frequencies::of(&[1, 1, 2], 5000).expect_err("refused").to_string();
        assert!(e.starts_with("the text has 2 different tokens, 500 are needed"), "{e}");
        let ids: Vec<u32> = (0..600).chain(0..100).collect();
        let f = Frequencies::of(&ids, 1000).expect("counts");
        assert_eq!((f.total, f.counts[5], f.counts[300], f.counts[999]), (700, 2, 1, 0));
        let log = f.log_smoothed();
        assert!((f64::from(log[5]) - (3.0f64 / 1700.0).ln()).abs() < 1e-6);
        let sum: f64 = log.iter().map(|x| f64::from(*x).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }
}
