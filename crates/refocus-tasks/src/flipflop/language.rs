//! A language, and its strings one after another.

use refocus_compute::{Philox, Purpose};

use super::draw::{Draw, Ids};
use super::text::Characters;
use super::{Alphabet, Family, Invalid, LanguageError, Probabilities};

/// A distribution of flip-flop strings.
#[derive(Clone, Debug, PartialEq)]
pub struct FlipFlop {
    pub(super) alphabet: Alphabet,
    pub(super) tokens: usize,
    pub(super) probabilities: Probabilities,
    pub(super) family: Family,
}

/// Training and test strings of one seed have nothing in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// To learn from; a new batch each step.
    Train,
    /// To be tested on.
    Test,
    /// To be shown before a question.
    Demonstration,
}

impl Split {
    const fn purpose(self) -> Purpose {
        match self {
            Split::Train => Purpose::new("flip-flop: train"),
            Split::Test => Purpose::new("flip-flop: test"),
            Split::Demonstration => Purpose::new("flip-flop: demonstration"),
        }
    }
}

impl FlipFlop {
    /// `FFL(T, p)`: strings of `tokens` symbols whose inner instructions are drawn with these
    /// probabilities.
    ///
    /// # Errors
    /// The length is odd, below 4 or too large, or the probabilities are none.
    pub fn new(tokens: usize, write: f64, read: f64, ignore: f64) -> Result<Self, LanguageError> {
        Self::of(Alphabet::BINARY, tokens, Probabilities::new(write, read, ignore)?, Family::Plain)
    }

    /// The paper's shorthand `FFL(p_i)`: reads and writes equally often.
    ///
    /// # Errors
    /// As [`FlipFlop::new`].
    pub fn ignoring(tokens: usize, ignore: f64) -> Result<Self, LanguageError> {
        Self::of(Alphabet::BINARY, tokens, Probabilities::ignoring(ignore)?, Family::Plain)
    }

    /// Any language. A mixture has probabilities of its own; those given here do not count.
    ///
    /// # Errors
    /// No string has this length, or the family's parameters do not fit into it.
    pub fn of(
        alphabet: Alphabet,
        tokens: usize,
        probabilities: Probabilities,
        family: Family,
    ) -> Result<Self, LanguageError> {
        alphabet.check_length(tokens)?;
        family.check(&alphabet, tokens / alphabet.group())?;
        Ok(Self { alphabet, tokens, probabilities, family })
    }

    /// The same language at another length, with as many writes and reads a string as now on average.
    /// Longer strings only have more ignores; numbers such as those of decoys stay as they are.
    ///
    /// # Errors
    /// No string has this length, or it is too short for so many writes and reads.
    pub fn stretched(&self, tokens: usize) -> Result<Self, LanguageError> {
        self.alphabet.check_length(tokens)?;
        let inner = |tokens: usize| (tokens / self.alphabet.group() - self.alphabet.registers() - 1) as f64;
        let factor = if tokens == self.tokens { 1.0 } else { inner(self.tokens) / inner(tokens) };
        let mut family = self.family.clone();
        match &mut family {
            Family::Mixture { parts } => {
                for p in parts {
                    *p = p.thinned(factor)?;
                }
            }
            Family::Piecewise { tail, .. } => *tail = tail.thinned(factor)?,
            _ => {}
        }
        Self::of(self.alphabet, tokens, self.probabilities.thinned(factor)?, family)
    }

    /// Symbols of a string.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// What strings are made of.
    pub fn alphabet(&self) -> &Alphabet {
        &self.alphabet
    }

    /// Of inner instructions.
    pub fn probabilities(&self) -> Probabilities {
        self.probabilities
    }

    /// How it deviates from `FFL(T, p)`.
    pub fn family(&self) -> &Family {
        &self.family
    }

    /// Appends the ids of string number `sequence` of `step` to `out`: a pure function of its arguments.
    /// Languages that differ only in their probabilities share random numbers.
    pub fn append(&self, seed: u64, split: Split, step: u32, sequence: u32, out: &mut Vec<u32>) {
        let spelling = Ids(self.alphabet);
        self.extend(seed, split, step, sequence, &spelling, out);
    }

    /// Appends the same string as characters, all of them ASCII.
    ///
    /// # Errors
    /// There are more symbols or registers than characters.
    pub fn append_text(
        &self,
        seed: u64,
        split: Split,
        step: u32,
        sequence: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), Invalid> {
        let spelling = Characters::of(&self.alphabet)?;
        self.extend(seed, split, step, sequence, &spelling, out);
        Ok(())
    }

    fn extend<S: super::draw::Spelling>(
        &self,
        seed: u64,
        split: Split,
        step: u32,
        sequence: u32,
        spelling: &S,
        out: &mut Vec<S::Symbol>,
    ) {
        let start = out.len();
        out.resize(start + self.tokens, spelling.instruction(0));
        let draw = Draw { rng: Philox::new(seed, split.purpose()), step, sequence };
        self.fill(draw, spelling, &mut out[start..]);
    }

    /// The strings of a step, up to 2^32 of them: strings of the test split are those of step 0.
    pub fn strings(&self, seed: u64, split: Split, step: u32) -> Strings {
        Strings { language: self.clone(), seed, split, step, next: 0 }
    }
}

/// Strings one after another; skipping costs nothing.
#[derive(Clone, Debug)]
pub struct Strings {
    language: FlipFlop,
    seed: u64,
    split: Split,
    step: u32,
    /// Number of the next string.
    next: u64,
}

impl Iterator for Strings {
    type Item = Vec<u32>;

    fn next(&mut self) -> Option<Vec<u32>> {
        self.nth(0)
    }

    fn nth(&mut self, n: usize) -> Option<Vec<u32>> {
        let at = self.next.saturating_add(n as u64);
        self.next = at.saturating_add(1);
        let sequence = u32::try_from(at).ok()?;
        let mut out = Vec::with_capacity(self.language.tokens);
        self.language.append(self.seed, self.split, self.step, sequence, &mut out);
        Some(out)
    }
}
