//! A thing with two states, told sentence by sentence: flip-flop strings in words. Mostly short, and mostly with
//! few sentences that do not matter.

use super::draw::Draw;
use super::{World, WorldError};
use crate::flipflop::{FlipFlop, Split, WORDINGS};

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

impl World {
    /// One to three strings, told alike.
    pub(super) fn states(
        &self,
        draw: &mut Draw,
        (seed, split, step, number): (u64, Split, u32, u32),
    ) -> Result<String, WorldError> {
        let wording = &WORDINGS[draw.weighted(&TOLD)];
        let mut text = String::new();
        for i in 0..draw.between(1, STRINGS) {
            let ignore = *if draw.chance(self.mixture.dense) { draw.pick(&DENSE) } else { draw.pick(&SPARSE) };
            let tokens = 2 * draw.between(SHORTEST / 2, LONGEST / 2);
            let mut ids = Vec::with_capacity(tokens);
            let sequence = number.wrapping_mul(STRINGS as u32).wrapping_add(i as u32);
            FlipFlop::ignoring(tokens, ignore)?.append(seed, split, step, sequence, &mut ids);
            if i > 0 {
                text.push('\n');
            }
            text.push_str(&wording.verbalise(&ids)?.text);
        }
        Ok(text)
    }
}
