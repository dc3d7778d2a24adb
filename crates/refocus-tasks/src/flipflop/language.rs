//! A language, and its strings one after another.

use refocus_compute::{Philox, Purpose};

use super::draw::{Draw, Ids};
use super::text::Characters;
use super::{Alphabet, Facts, Family, Invalid, LanguageError, Probabilities, Read};

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
    /// No string has this length, it is too short for so many writes and reads, or the family says how often
    /// strings read or write by more than probabilities: runs of reads, and a number of changes.
    pub fn stretched(&self, tokens: usize) -> Result<Self, LanguageError> {
        self.alphabet.check_length(tokens)?;
        if tokens == self.tokens {
            return Ok(self.clone());
        }
        let (group, registers) = (self.alphabet.group(), self.alphabet.registers());
        self.family.check(&self.alphabet, tokens / group)?;
        // Instructions that are drawn at either length, before and in the tail; the others stay as they are.
        let drawn = |tokens: usize| {
            let last = tokens / group - 1;
            match self.family {
                Family::Piecewise { from, .. } => {
                    let turn = Family::turn(from, last).clamp(registers, last);
                    [turn - registers, last - turn]
                }
                Family::Decoy { burst, gap } => [last - registers - (burst + 1 + gap), 0],
                _ => [last - registers, 0],
            }
        };
        let (now, then) = (drawn(self.tokens), drawn(tokens));
        let factor =
            |part: usize| if now[part] == then[part] { 1.0 } else { now[part] as f64 / then[part] as f64 };
        let mut family = self.family.clone();
        match &mut family {
            Family::Mixture { parts } => {
                for p in parts {
                    *p = p.thinned(factor(0))?;
                }
            }
            Family::Piecewise { tail, .. } => *tail = tail.thinned(factor(1))?,
            Family::ReadRun { .. } | Family::Churn { .. } => {
                return Err(LanguageError::Stretch { family: self.family.name() });
            }
            _ => {}
        }
        Self::of(self.alphabet, tokens, self.probabilities.thinned(factor(0))?, family)
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

    /// The reads of the same string, in order.
    pub fn reads(&self, seed: u64, split: Split, step: u32, sequence: u32) -> Vec<Read> {
        let mut ids = Vec::with_capacity(self.tokens);
        self.append(seed, split, step, sequence, &mut ids);
        Facts::trusting(&self.alphabet, &ids).reads
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
