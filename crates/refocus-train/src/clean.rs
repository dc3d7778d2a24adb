//! The flip-flop task in its deterministic ("clean") mode: loss and score at reads only
//! (`spec/flip-flop.md` 1.2). The input holds the true answers of earlier reads.

use refocus_compute::Ops;
use refocus_model::RunError;
use refocus_tasks::flipflop::{FlipFlop, Split, reads};

use crate::trainer::{Examples, Score, score};
use crate::weights::Net;

/// Strings scored in one pass.
const PASS: usize = 16;

/// The clean-mode examples of some strings. The last symbol of a string answers its last read and asks
/// nothing, but it is kept: dropping it would change no number.
pub fn examples(strings: impl IntoIterator<Item = Vec<u32>>) -> Examples {
    let mut out = Examples::default();
    for s in strings {
        let start = out.ids.len();
        for r in reads(&s) {
            out.rows.push((start + r.at) as u32);
            out.targets.push(r.answer);
        }
        out.lengths.push(s.len());
        out.ids.extend(s);
    }
    out
}

/// The batch of a training step: `sequences` fresh strings.
pub fn batch(language: &FlipFlop, seed: u64, step: u32, sequences: usize) -> Examples {
    examples(language.strings(seed, Split::Train, step).take(sequences))
}

/// Reads of the first `sequences` test strings that a model gets right.
///
/// # Errors
/// As [`refocus_model::forward`].
pub fn test<O: Ops>(
    o: &mut O,
    m: &Net<O::K>,
    language: &FlipFlop,
    seed: u64,
    sequences: usize,
) -> Result<Score, RunError> {
    let mut strings = language.strings(seed, Split::Test, 0).take(sequences);
    let mut total = Score::default();
    loop {
        let part = examples(strings.by_ref().take(PASS));
        if part.lengths.is_empty() {
            return Ok(total);
        }
        let s = score(o, m, &part)?;
        total = Score { right: total.right + s.right, asked: total.asked + s.asked };
    }
}
