//! The automaton task of the paper's mechanistic study (section 5.3, appendices A.1 and B.5): the state
//! is asked at every position.

use refocus_compute::{Philox, Purpose};

use super::probability::{Threshold, check};
use super::{LanguageError, MAX_TOKENS, Split};

/// Inputs that write 0 or 1, or do nothing. The first always writes, so that there is a state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Automaton {
    length: usize,
    noop: f64,
}

/// Inputs and what they lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutomatonString {
    /// [`Automaton::ZERO`], [`Automaton::ONE`] or [`Automaton::NOOP`].
    pub inputs: Vec<u32>,
    /// 0 or 1 at each position, its own input included.
    pub states: Vec<u32>,
    /// Position of the write that each state comes from.
    pub written: Vec<usize>,
}

impl Automaton {
    /// Writes 0.
    pub const ZERO: u32 = 0;
    /// Writes 1.
    pub const ONE: u32 = 1;
    /// Does nothing.
    pub const NOOP: u32 = 2;
    /// How many inputs there are.
    pub const VOCAB: usize = 3;

    /// Strings of `length` inputs of which all but the first do nothing with probability `noop`; else
    /// they write 0 or 1, both equally likely.
    ///
    /// # Errors
    /// There is no such length or probability.
    pub fn new(length: usize, noop: f64) -> Result<Self, LanguageError> {
        if !(1..=MAX_TOKENS).contains(&length) {
            return Err(LanguageError::Length { tokens: length, group: 1, least: 1 });
        }
        check("do nothing", noop)?;
        Ok(Self { length, noop })
    }

    /// String number `sequence` of `step`, a pure function of its arguments.
    pub fn string(&self, seed: u64, split: Split, step: u32, sequence: u32) -> AutomatonString {
        let purpose = match split {
            Split::Train => Purpose::new("automaton: train"),
            Split::Test => Purpose::new("automaton: test"),
            Split::Demonstration => Purpose::new("automaton: demonstration"),
        };
        let (rng, noop) = (Philox::new(seed, purpose), Threshold::new(self.noop));
        let word = |k: usize| rng.at(step, sequence, (k / 4) as u32)[k % 4];
        let input = |k| {
            let w = word(k);
            if k > 0 && noop.hit(w) { Self::NOOP } else { w & 1 }
        };
        run((0..self.length).map(input).collect())
    }
}

/// What the automaton does with inputs of which the first writes.
fn run(inputs: Vec<u32>) -> AutomatonString {
    let (mut state, mut last) = (Automaton::ZERO, 0);
    let mut out = AutomatonString { states: Vec::new(), written: Vec::new(), inputs };
    for (t, &input) in out.inputs.iter().enumerate() {
        if input != Automaton::NOOP {
            (state, last) = (input, t);
        }
        out.states.push(state);
        out.written.push(last);
    }
    out
}

/// The inputs on which a model trained at length 500 is seen to drift (appendix B.5): 1, then 800 times
/// nothing; and 0, 32 times nothing, 1, 800 times nothing.
pub fn drift_inputs() -> [AutomatonString; 2] {
    let idle = |n| std::iter::repeat_n(Automaton::NOOP, n);
    let one = || std::iter::once(Automaton::ONE);
    let after = std::iter::once(Automaton::ZERO).chain(idle(32)).chain(one()).chain(idle(800));
    [run(one().chain(idle(800)).collect()), run(after.collect())]
}
