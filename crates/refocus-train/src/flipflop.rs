//! The flip-flop task as examples: what is asked of which strings (`spec/flip-flop.md` 1.2). The input holds
//! the true answers of earlier reads.

use std::ops::Range;

use refocus_compute::Ops;
use refocus_model::RunError;
use refocus_tasks::flipflop::{Alphabet, AutomatonString, Split, asked};
use refocus_tasks::world::END;
use serde::{Deserialize, Serialize};

use crate::task::Language;
use crate::trainer::{Examples, Score, choices};
use crate::weights::Net;

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
    /// Another task: every token of a world's documents ([`refocus_tasks::world::World`]).
    World,
}

/// The examples of some strings of these symbols. In clean mode every symbol of a read's datum is asked, and
/// the last symbol of a string asks nothing and is kept all the same: dropping it would change no number.
pub fn examples(alphabet: &Alphabet, mode: Mode, strings: impl IntoIterator<Item = Vec<u32>>) -> Examples {
    let mut out = Examples::default();
    for s in strings {
        let start = out.ids.len();
        if mode == Mode::Clean {
            for (at, answer) in asked(alphabet, &s) {
                out.rows.push((start + at) as u32);
                out.targets.push(answer);
            }
        } else {
            out.rows.extend((start..start + s.len().saturating_sub(1)).map(|r| r as u32));
            out.targets.extend(s.iter().skip(1));
        }
        out.lengths.push(s.len());
        out.ids.extend(s);
    }
    out
}

/// The state at every position.
fn states(strings: impl IntoIterator<Item = AutomatonString>) -> Examples {
    let mut out = Examples::default();
    for s in strings {
        out.lengths.push(s.inputs.len());
        out.ids.extend(s.inputs);
        out.targets.extend(s.states);
    }
    out.rows = (0..out.ids.len() as u32).collect();
    out
}

impl Language {
    /// The examples of some strings, by their numbers; automaton and world are asked everywhere in every mode.
    fn examples(&self, mode: Mode, seed: u64, split: Split, step: u32, numbers: Range<u32>) -> Examples {
        match self {
            Language::Automaton(a) => states(numbers.map(|i| a.string(seed, split, step, i))),
            Language::World(d) => {
                let document = |i| {
                    let mut ids = d.vocabulary.encode(&d.world.document(seed, split, step, i));
                    ids.push(END);
                    ids.truncate(d.longest);
                    ids
                };
                examples(&Alphabet::BINARY, Mode::Generative, numbers.map(document))
            }
            Language::Strings(l) => {
                let string = |i| {
                    let mut ids = Vec::with_capacity(l.tokens());
                    l.append(seed, split, step, i, &mut ids);
                    ids
                };
                examples(l.alphabet(), mode, numbers.map(string))
            }
        }
    }
}

/// The examples of a training step: `sequences` fresh strings. A pure function of its arguments.
pub fn batch(language: &Language, mode: Mode, seed: u64, step: u32, sequences: usize) -> Examples {
    language.examples(mode, seed, Split::Train, step, 0..sequences as u32)
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
    let (mut total, sequences) = (Score::default(), sequences as u32);
    let drawn = |numbers| language.examples(Mode::Clean, seed, Split::Test, 0, numbers);
    // Of documents hardly one is longer than the longest of some.
    let longest = drawn(0..16).lengths.into_iter().max().unwrap_or(1);
    let pass = (m.pass() / longest.max(1)).max(1);
    for first in (0..sequences).step_by(pass) {
        let part = drawn(first..sequences.min(first.saturating_add(pass as u32)));
        let width = language.width();
        let choices = choices(o, m, &part)?;
        let data = choices.chunks(width).zip(part.targets.chunks(width));
        total.right += data.filter(|(choice, target)| choice == target).count();
        total.asked += part.targets.len() / width;
    }
    Ok(total)
}
