//! The flip-flop language of Liu et al., "Exposing Attention Glitches with Flip-Flop Language Modeling"
//! (NeurIPS 2023, arXiv 2306.00946), section 3.1.
//!
//! A string alternates instruction and bit: write (`w`), read (`r`) or ignore (`i`), then `0` or `1`. The
//! bit after every read is the bit after the most recent write. `FFL(T, p)` has `T` symbols; the first
//! instruction writes, the last reads, the others are drawn independently with probabilities `p`; bits
//! after writes and ignores are fair.
//!
//! Instruction `k` stands at position `2k`, its bit at `2k + 1`. A model is asked at the position of each
//! read for the symbol that follows.

mod sets;
mod text;
mod valid;

use refocus_compute::{Philox, Purpose, unit_f64};

pub use self::sets::{CANONICAL, HALF, Set, Sets};
pub use self::text::{from_text, to_text};
pub use self::valid::{Invalid, validate};

/// Ids, as in the data set that the paper's authors published (`synthseq/flipflop`).
pub mod id {
    /// `w`.
    pub const WRITE: u32 = 0;
    /// `r`.
    pub const READ: u32 = 1;
    /// `i`.
    pub const IGNORE: u32 = 2;
    /// `0`.
    pub const ZERO: u32 = 3;
    /// `1`.
    pub const ONE: u32 = 4;
}

/// How many ids there are.
pub const VOCAB: usize = 5;

/// A language that cannot be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LanguageError {
    /// No such strings.
    #[error("flip-flop strings have an even number of symbols, at least 4 and at most 2^32: not {0}")]
    Length(usize),
    /// No such probability.
    #[error("flip-flop: the probability to {what} is {value}, not a number from 0 to 1")]
    Probability {
        /// Instruction.
        what: &'static str,
        /// As given.
        value: f64,
    },
    /// Probabilities of another sum than 1.
    #[error("flip-flop: the probabilities to write, read and ignore sum to {0}, not to 1")]
    Sum(f64),
}

/// `FFL(T, p)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlipFlop {
    tokens: usize,
    write: f64,
    read: f64,
    ignore: f64,
}

/// Training and test strings of one seed have nothing in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// To learn from; a new batch each step.
    Train,
    /// To be tested on.
    Test,
}

impl Split {
    const fn purpose(self) -> Purpose {
        match self {
            Split::Train => Purpose::new("flip-flop: train"),
            Split::Test => Purpose::new("flip-flop: test"),
        }
    }
}

impl FlipFlop {
    /// Strings of `tokens` symbols whose inner instructions are drawn with these probabilities.
    ///
    /// # Errors
    /// The length is odd or below 4, or the probabilities are none.
    pub fn new(tokens: usize, write: f64, read: f64, ignore: f64) -> Result<Self, LanguageError> {
        if tokens < 4 || !tokens.is_multiple_of(2) || u32::try_from(tokens).is_err() {
            return Err(LanguageError::Length(tokens));
        }
        for (what, value) in [("write", write), ("read", read), ("ignore", ignore)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(LanguageError::Probability { what, value });
            }
        }
        let sum = write + read + ignore;
        if (sum - 1.0).abs() > 1e-9 {
            return Err(LanguageError::Sum(sum));
        }
        Ok(Self { tokens, write, read, ignore })
    }

    /// The paper's shorthand `FFL(p_i)`: reads and writes equally often.
    ///
    /// # Errors
    /// As [`FlipFlop::new`].
    pub fn ignoring(tokens: usize, ignore: f64) -> Result<Self, LanguageError> {
        let half = (1.0 - ignore) / 2.0;
        if !(0.0..=1.0).contains(&ignore) {
            return Err(LanguageError::Probability { what: "ignore", value: ignore });
        }
        Self::new(tokens, half, half, ignore)
    }

    /// Symbols of a string.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Probabilities to write, read and ignore.
    pub fn probabilities(&self) -> [f64; 3] {
        [self.write, self.read, self.ignore]
    }

    /// Appends string number `sequence` of `step` to `out`: a pure function of its arguments. Languages
    /// that differ only in their probabilities share random numbers.
    pub fn append(&self, seed: u64, split: Split, step: u32, sequence: u32, out: &mut Vec<u32>) {
        let rng = Philox::new(seed, split.purpose());
        let last = self.tokens / 2 - 1;
        let mut state = id::ZERO;
        for k in 0..=last {
            let w = rng.at(step, sequence, k as u32);
            let u = unit_f64(w[0], w[1]);
            let instruction = match k {
                0 => id::WRITE,
                _ if k == last => id::READ,
                _ if u < self.write => id::WRITE,
                _ if u < self.write + self.read => id::READ,
                _ => id::IGNORE,
            };
            let fair = if w[2] >> 31 == 0 { id::ZERO } else { id::ONE };
            match instruction {
                id::WRITE => state = fair,
                id::READ => {}
                _ => {
                    out.extend([instruction, fair]);
                    continue;
                }
            }
            out.extend([instruction, state]);
        }
    }

    /// The strings of a step, without end: strings of the test split are those of step 0.
    pub fn strings(&self, seed: u64, split: Split, step: u32) -> Strings {
        Strings { language: *self, seed, split, step, next: 0 }
    }
}

/// Strings one after another; skipping costs nothing.
#[derive(Clone, Debug)]
pub struct Strings {
    language: FlipFlop,
    seed: u64,
    split: Split,
    step: u32,
    next: u32,
}

impl Iterator for Strings {
    type Item = Vec<u32>;

    fn next(&mut self) -> Option<Vec<u32>> {
        self.nth(0)
    }

    fn nth(&mut self, n: usize) -> Option<Vec<u32>> {
        let at = self.next.checked_add(u32::try_from(n).ok()?)?;
        self.next = at.checked_add(1)?;
        let mut out = Vec::with_capacity(self.language.tokens);
        self.language.append(self.seed, self.split, self.step, at, &mut out);
        Some(out)
    }
}

/// One read of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Position of the `r`, where the model is asked.
    pub at: usize,
    /// The id that follows.
    pub answer: u32,
    /// Instructions since the most recent write, 1 where it is adjacent.
    pub since_write: usize,
    /// Instructions since the most recent write or read. To copy that bit is right as well, since the
    /// bits of reads are true; diagnostics must count both as the right place to look.
    pub since_either: usize,
}

/// The reads of a valid string in order.
pub fn reads(ids: &[u32]) -> impl Iterator<Item = Read> + '_ {
    let (mut write, mut either) = (0, 0);
    ids.chunks_exact(2).enumerate().filter_map(move |(k, pair)| {
        let read = (pair[0] == id::READ).then(|| Read {
            at: 2 * k,
            answer: pair[1],
            since_write: k - write,
            since_either: k - either,
        });
        if pair[0] == id::WRITE {
            write = k;
        }
        if pair[0] != id::IGNORE {
            either = k;
        }
        read
    })
}
