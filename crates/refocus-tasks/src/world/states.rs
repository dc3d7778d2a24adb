//! A thing with two states, told sentence by sentence: flip-flop strings in words. Mostly short, and mostly with
//! few sentences that do not matter.

use super::World;
use super::draw::Draw;
use crate::flipflop::{FlipFlop, LanguageError, Split, WORDINGS};

/// Symbols of a string, two a sentence.
const SHORTEST: usize = 8;
const LONGEST: usize = 30;
/// Strings of a document.
const STRINGS: usize = 3;
/// Probabilities to ignore, where most sentences matter and where few do.
const DENSE: [f64; 4] = [0.05, 0.1, 0.2, 0.3];
const SPARSE: [f64; 3] = [0.5, 0.6, 0.8];
/// How often each of [`WORDINGS`] is told.
const TOLD: [f64; 3] = [0.6, 0.1, 0.3];

/// The languages that strings are of: by number of sentences from the fewest on, then by probability to ignore, the
/// dense ones first.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Strings(Vec<Vec<FlipFlop>>);

impl Strings {
    pub(super) fn new() -> Result<Self, LanguageError> {
        let of = |tokens: usize| {
            DENSE.iter().chain(&SPARSE).map(|&ignore| FlipFlop::ignoring(tokens, ignore)).collect()
        };
        Ok(Self((SHORTEST..=LONGEST).step_by(2).map(of).collect::<Result<_, _>>()?))
    }
}

impl World {
    /// One to three strings, told alike.
    pub(super) fn states(
        &self,
        draw: &mut Draw,
        (seed, split, step, number): (u64, Split, u32, u32),
    ) -> String {
        let wording = &WORDINGS[draw.weighted(&TOLD)];
        let mut told = Vec::with_capacity(STRINGS);
        for i in 0..draw.between(1, STRINGS) {
            let (dense, sparse) = draw.pick(&self.strings.0).split_at(DENSE.len());
            let language = draw.chance(self.mixture.dense).then(|| draw.pick(dense));
            let language = language.unwrap_or_else(|| draw.pick(sparse));
            let mut ids = Vec::with_capacity(language.tokens());
            let sequence = number.wrapping_mul(STRINGS as u32).wrapping_add(i as u32);
            language.append(seed, split, step, sequence, &mut ids);
            // What is drawn from a language is a string of it.
            told.extend(wording.verbalise(&ids).map(|v| v.text));
        }
        told.join("\n")
    }
}
