//! Which reads a model gets wrong. Strings follow from language, seed and number, so to know the wrong reads
//! is to know everything that is counted.

use std::iter::Peekable;

use refocus_compute::Ops;
use refocus_measure::ReadErrors;
use refocus_tasks::flipflop::{FlipFlop, Split, reads};
use refocus_train::flipflop::{Mode, examples};
use refocus_train::{Net, choices};

use super::error::{FlipflopError, Result};
use super::sets::EvalSet;

/// Symbols of one pass.
const PASS: usize = 1 << 13;
/// Symbols after which a result is kept.
const CHUNK: usize = 1 << 17;

/// The reads that a model got wrong so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wrong {
    /// Strings that were asked.
    pub strings: u32,
    /// Number of the string and position of each wrong read, in order.
    pub at: Vec<[u32; 2]>,
}

/// Strings after which [`evaluate`] reports.
pub fn chunk_strings(set: &EvalSet) -> u32 {
    (CHUNK / set.language.tokens()).clamp(1, 1 << 16) as u32
}

/// Asks a model at all reads of the strings of a set that were not asked before. In its last layer only reads
/// are computed. `after` hears of each finished chunk, and says whether to go on; gives whether all are done.
///
/// # Errors
/// As [`refocus_model::forward`], and of `after`.
pub fn evaluate<O: Ops>(
    o: &mut O,
    net: &Net<O::K>,
    set: &EvalSet,
    seed: u64,
    wrong: &mut Wrong,
    mut after: impl FnMut(&Wrong) -> Result<bool>,
) -> Result<bool> {
    let pass = (PASS / set.language.tokens()).max(1) as u32;
    while wrong.strings < set.strings {
        let end = set.strings.min(wrong.strings + chunk_strings(set));
        while wrong.strings < end {
            let numbers = wrong.strings..end.min(wrong.strings + pass);
            let first = numbers.start;
            let drawn = numbers.clone().map(|i| string(&set.language, seed, i));
            let asked = examples(Mode::Clean, drawn);
            let chosen = choices(o, net, &asked)
                .map_err(|source| FlipflopError::Run { set: set.name.clone(), source })?;
            let tokens = set.language.tokens() as u32;
            for ((&row, target), choice) in asked.rows.iter().zip(&asked.targets).zip(chosen) {
                if choice != *target {
                    wrong.at.push([first + row / tokens, row % tokens]);
                }
            }
            wrong.strings = numbers.end;
        }
        if !after(wrong)? {
            return Ok(wrong.strings >= set.strings);
        }
    }
    Ok(true)
}

/// String number `i` of a test set.
fn string(language: &FlipFlop, seed: u64, i: u32) -> Vec<u32> {
    let mut out = Vec::with_capacity(language.tokens());
    language.append(seed, Split::Test, 0, i, &mut out);
    out
}

impl Wrong {
    /// Errors by what precedes a read: draws the strings again.
    ///
    /// # Errors
    /// A wrong read that is no read of these strings; names it.
    pub fn count(&self, set: &EvalSet, seed: u64) -> Result<ReadErrors, [u32; 2]> {
        let mut errors = ReadErrors::new();
        let mut wrong = self.at.iter().peekable();
        for i in 0..self.strings {
            for read in reads(&string(&set.language, seed, i)) {
                let is_wrong = next_is(&mut wrong, [i, read.at as u32]);
                errors.add(&read, is_wrong);
            }
        }
        wrong.next().map_or(Ok(errors), |at| Err(*at))
    }
}

fn next_is<'a>(wrong: &mut Peekable<impl Iterator<Item = &'a [u32; 2]>>, at: [u32; 2]) -> bool {
    wrong.next_if(|w| **w == at).is_some()
}
