//! How likely given continuations are.

use std::sync::Arc;

use refocus_compute::{KvUse, Ops, RowSet, Vocab, VocabOut};

use super::changes::{Changes, Part};
use super::engine::Limits;
use super::pass::{adjust, run};
use crate::forward::{Captured, empty_cache};
use crate::plan::Readout;
use crate::run_error::RunError;
use crate::weights::Model;

/// Rows of continuations that run together.
const ROWS: usize = 512;

/// Log-probabilities of one continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Of each token after those before it: the bits of a full forward pass's [`Vocab::Nll`], negated.
    pub tokens: Vec<f32>,
}

impl Score {
    /// Log-probability of the whole.
    pub fn sum(&self) -> f64 {
        self.tokens.iter().map(|&x| f64::from(x)).sum()
    }
}

/// Log-probabilities of continuations after a prompt, which is computed once. The tokens of a continuation
/// count as new ones for [`Changes`]. (With dynamic rotary scaling the angles of a sequence depend on its
/// length: there each continuation is one pass over the whole sequence.)
///
/// # Errors
/// An empty prompt, a sequence beyond the context, logits that are NaN, or what
/// [`crate::Plan::compile`] and [`crate::forward`] report; the sequence of an error is the continuation.
pub fn score<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompt: &[u32],
    continuations: &[Vec<u32>],
    changes: &Arc<Changes>,
) -> Result<Vec<Score>, RunError> {
    let cached = !m.spec.stretches();
    // The last token of the prompt is run with each continuation: its logits are wanted.
    let start = prompt.len().checked_sub(1).ok_or(RunError::Empty { seq: 0 })?;
    for (seq, c) in continuations.iter().enumerate() {
        if let Some((at, &id)) = c.iter().enumerate().find(|(_, id)| **id as usize >= m.spec.vocab) {
            return Err(RunError::Id { id, at, vocab: m.spec.vocab });
        }
        let len = (prompt.len() + c.len()).saturating_sub(1);
        if len > m.spec.n_ctx && cached {
            return Err(RunError::Context { seq, len, n_ctx: m.spec.n_ctx });
        }
    }
    let part = |positions| Part { changes: Arc::clone(changes), prompt: prompt.len(), positions };
    let mut cache = empty_cache(m);
    if cached {
        for piece in prompt[..start].chunks(Limits::default().chunk) {
            let positions = cache.len..cache.len + piece.len();
            run(o, m, &[part(positions)], piece, &[], KvUse::Append(std::slice::from_mut(&mut cache)))?;
        }
    }
    let first = if cached { start } else { 0 };
    let mut scores: Vec<Score> = continuations.iter().map(|_| Score { tokens: Vec::new() }).collect();
    let mut todo: Vec<usize> = (0..continuations.len()).filter(|&i| !continuations[i].is_empty()).collect();
    while !todo.is_empty() {
        let mut rows = 0;
        let fits = todo.iter().take_while(|&&i| {
            rows += prompt.len() - first + continuations[i].len() - 1;
            rows <= ROWS
        });
        let n = fits.count().max(1);
        let group: Vec<usize> = todo.drain(..n).collect();
        let (mut parts, mut ids, mut wanted, mut targets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for &i in &group {
            let c = &continuations[i];
            let before = ids.len() + start - first;
            ids.extend_from_slice(&prompt[first..]);
            ids.extend_from_slice(&c[..c.len() - 1]);
            wanted.extend(before as u32..ids.len() as u32);
            targets.extend_from_slice(c);
            parts.push(part(first..start + c.len()));
        }
        let plain = changes.decode.is_empty();
        let want = if plain { Vocab::Nll(targets.as_slice().into()) } else { Vocab::All };
        let readouts = [Readout::logits(&m.spec, Some(RowSet::new(wanted)), vec![want])];
        let caches = vec![cache.clone(); group.len()];
        let kv = if cached { KvUse::Read(&caches) } else { KvUse::None };
        let readings = run(o, m, &parts, &ids, &readouts, kv)?;
        let mut all = logprobs(o, m, &readings, &targets, changes)?.into_iter();
        for &i in &group {
            scores[i].tokens = all.by_ref().take(continuations[i].len()).collect();
            if let Some(at) = scores[i].tokens.iter().position(|x| x.is_nan()) {
                let what = "logits".to_owned();
                return Err(RunError::NotANumber { what, seq: i, position: start + at });
            }
        }
    }
    Ok(scores)
}

/// One log-probability a target.
fn logprobs<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    readings: &Captured<O::T>,
    targets: &[u32],
    changes: &Changes,
) -> Result<Vec<f32>, RunError> {
    let Some([VocabOut::Values(values)]) = readings.first().and_then(|r| r.lens(0)) else {
        return Err(RunError::Unread(0));
    };
    let mut values = o.to_host(values)?;
    if changes.decode.is_empty() {
        values.iter_mut().for_each(|x| *x = -*x);
        return Ok(values);
    }
    let rows = values.chunks_exact_mut(m.spec.vocab).zip(targets);
    Ok(rows
        .map(|(row, &id)| {
            let lse = adjust(&changes.decode, row);
            row[id as usize] - lse
        })
        .collect())
}
