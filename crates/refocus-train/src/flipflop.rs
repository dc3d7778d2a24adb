//! The flip-flop task as examples: what is asked of which strings (`spec/flip-flop.md` 1.2). The input holds
//! the true answers of earlier reads.

use refocus_compute::{Ops, Philox, Purpose, unit_f64};
use refocus_model::RunError;
use refocus_tasks::flipflop::{FlipFlop, Split, reads};
use serde::{Deserialize, Serialize};

use crate::trainer::{Examples, Score, score};
use crate::weights::Net;

/// Strings scored in one pass.
const PASS: usize = 16;

/// Which positions are asked for the symbol that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Reads only: the deterministic mode, in which the paper reports.
    Clean,
    /// Every position but a string's last.
    Generative,
}

/// The examples of some strings. In clean mode the last symbol of a string asks nothing and is kept all
/// the same: dropping it would change no number.
pub fn examples(mode: Mode, strings: impl IntoIterator<Item = Vec<u32>>) -> Examples {
    let mut out = Examples::default();
    for s in strings {
        let start = out.ids.len();
        match mode {
            Mode::Clean => {
                for r in reads(&s) {
                    out.rows.push((start + r.at) as u32);
                    out.targets.push(r.answer);
                }
            }
            Mode::Generative => {
                out.rows.extend((start..start + s.len().saturating_sub(1)).map(|r| r as u32));
                out.targets.extend(s.iter().skip(1));
            }
        }
        out.lengths.push(s.len());
        out.ids.extend(s);
    }
    out
}

/// The examples of a training step: `sequences` fresh strings, each of one of the languages, drawn
/// uniformly. A pure function of its arguments.
pub fn batch(languages: &[FlipFlop], mode: Mode, seed: u64, step: u32, sequences: usize) -> Examples {
    let rng = Philox::new(seed, Purpose::new("flip-flop: mixture"));
    let string = |sequence: u32| {
        let [high, low, ..] = rng.at(step, sequence, 0);
        let which = (unit_f64(high, low) * languages.len() as f64) as usize;
        let mut out = Vec::new();
        if let Some(language) = languages.get(which) {
            language.append(seed, Split::Train, step, sequence, &mut out);
        }
        out
    };
    examples(mode, (0..sequences as u32).map(string))
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
        let part = examples(Mode::Clean, strings.by_ref().take(PASS));
        if part.lengths.is_empty() {
            return Ok(total);
        }
        let s = score(o, m, &part)?;
        total = Score { right: total.right + s.right, asked: total.asked + s.asked };
    }
}
