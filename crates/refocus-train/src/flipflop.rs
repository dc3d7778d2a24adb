//! The flip-flop task as examples: what is asked of which strings (`spec/flip-flop.md` 1.2). The input holds
//! the true answers of earlier reads.

use refocus_compute::Ops;
use refocus_model::RunError;
use refocus_tasks::flipflop::{Split, asked};
use serde::{Deserialize, Serialize};

use crate::task::Language;
use crate::trainer::{Examples, Score, choices};
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
    /// Another task: inputs that write or do nothing, and the state at every position
    /// ([`refocus_tasks::flipflop::Automaton`]).
    Automaton,
}

/// The examples of some strings. In clean mode the last symbol of a string asks nothing and is kept all
/// the same: dropping it would change no number.
pub fn examples(
    language: &Language,
    mode: Mode,
    strings: impl IntoIterator<Item = (Vec<u32>, Vec<u32>)>,
) -> Examples {
    let mut out = Examples::default();
    for (ids, states) in strings {
        let start = out.ids.len() as u32;
        match (language, mode) {
            (Language::Automaton(_), _) => {
                out.rows.extend((start..).take(states.len()));
                out.targets.extend(states);
            }
            (Language::Strings(l), Mode::Clean) => {
                for (at, answer) in asked(l.alphabet(), &ids) {
                    out.rows.push(start + at as u32);
                    out.targets.push(answer);
                }
            }
            (Language::Strings(_), _) => {
                out.rows.extend((start..).take(ids.len().saturating_sub(1)));
                out.targets.extend(ids.iter().skip(1));
            }
        }
        out.lengths.push(ids.len());
        out.ids.extend(ids);
    }
    out
}

/// The examples of a training step: `sequences` fresh strings. A pure function of its arguments.
pub fn batch(language: &Language, mode: Mode, seed: u64, step: u32, sequences: usize) -> Examples {
    let string = |sequence| language.string(seed, Split::Train, step, sequence);
    examples(language, mode, (0..sequences as u32).map(string))
}

/// Reads of the first `sequences` test strings that a model gets right, all symbols of the datum; of the
/// automaton, states.
///
/// # Errors
/// As [`refocus_model::forward`].
pub fn test<O: Ops>(
    o: &mut O,
    m: &Net<O::K>,
    language: &Language,
    seed: u64,
    sequences: usize,
) -> Result<Score, RunError> {
    let string = |sequence| language.string(seed, Split::Test, 0, sequence);
    let mut strings = (0..sequences as u32).map(string);
    let mut total = Score::default();
    loop {
        let part = examples(language, Mode::Clean, strings.by_ref().take(PASS));
        if part.lengths.is_empty() {
            return Ok(total);
        }
        let width = language.width();
        let choices = choices(o, m, &part)?;
        let data = choices.chunks(width).zip(part.targets.chunks(width));
        total.right += data.filter(|(choice, target)| choice == target).count();
        total.asked += part.targets.len() / width;
    }
}
