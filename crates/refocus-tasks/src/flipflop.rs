//! The flip-flop language of Liu et al., "Exposing Attention Glitches with Flip-Flop Language Modeling"
//! (NeurIPS 2023, arXiv 2306.00946), section 3.1, and wider families around it.
//!
//! A string alternates instruction and bit: write (`w`), read (`r`) or ignore (`i`), then `0` or `1`. The
//! bit after every read is the bit after the most recent write. `FFL(T, p)` has `T` symbols; the first
//! instruction writes, the last reads, the others are drawn independently with probabilities `p`; bits
//! after writes and ignores are fair.
//!
//! Instruction `k` stands at position `2k`, its bit at `2k + 1`. A model is asked at the position of each
//! read for the symbol that follows. [`Alphabet`] widens this to several registers and to data of more
//! than one bit, [`Family`] to other distributions.
//!
//! A string is a pure function of language, seed, split, step and its number, so threads may draw any
//! part of a set in any order. Sets are drawn string by string and never held.

mod alphabet;
mod automaton;
mod draw;
mod facts;
mod family;
mod language;
mod natural;
mod probability;
mod sets;
mod text;
mod valid;

pub use self::alphabet::{Alphabet, MAX_REGISTERS, MAX_TOKENS, MAX_VALUES};
pub use self::automaton::{Automaton, AutomatonString, drift_inputs};
pub use self::facts::{Facts, Older, Read, Write, asked, reads};
pub use self::family::Family;
pub use self::language::{FlipFlop, Split, Strings};
pub use self::natural::{Asked, DEMONSTRATION, Verbalised, WORDINGS, Wording};
pub use self::probability::Probabilities;
pub use self::sets::Set;
pub use self::valid::Invalid;

/// Ids, as in the data set that the paper's authors published (`synthseq/flipflop`).
///
/// Data follow as `3 + symbol`; names of registers, where there are several, follow the data.
pub mod id {
    /// `w`.
    pub const WRITE: u32 = 0;
    /// `r`.
    pub const READ: u32 = 1;
    /// `i`.
    pub const IGNORE: u32 = 2;
    /// `0`, the first datum.
    pub const ZERO: u32 = 3;
    /// `1`.
    pub const ONE: u32 = 4;
}

/// How many ids the paper's language has.
pub const VOCAB: usize = 5;

/// A language that cannot be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LanguageError {
    /// No such strings.
    #[error(
        "flip-flop: a string has from {least} to {MAX_TOKENS} symbols, {group} for each instruction: not \
         {tokens}"
    )]
    Length {
        /// As given.
        tokens: usize,
        /// Symbols of an instruction with its datum.
        group: usize,
        /// Symbols of the shortest string.
        least: usize,
    },
    /// No such number of registers.
    #[error("flip-flop: from 1 to {MAX_REGISTERS} registers are possible: not {0}")]
    Registers(usize),
    /// No such data.
    #[error("flip-flop: data need from 2 to {MAX_VALUES} values: not {symbols} symbols in {width} places")]
    Symbols {
        /// As given.
        symbols: usize,
        /// As given.
        width: usize,
    },
    /// No such probability.
    #[error("flip-flop: the probability to {what} is {value}, not a number from 0 to 1")]
    Probability {
        /// Of what.
        what: &'static str,
        /// As given.
        value: f64,
    },
    /// Probabilities of another sum than 1.
    #[error(
        "flip-flop: the probabilities to write ({write}), read ({read}) and ignore ({ignore}) sum to {}, not \
         to 1", write + read + ignore
    )]
    Sum {
        /// As given.
        write: f64,
        /// As given.
        read: f64,
        /// As given.
        ignore: f64,
    },
    /// A parameter of a family that does not fit its strings.
    #[error("flip-flop: {what} is {value}, not from {least} to {most}")]
    Parameter {
        /// Parameter.
        what: &'static str,
        /// As given.
        value: f64,
        /// Lowest possible.
        least: f64,
        /// Highest possible.
        most: f64,
    },
    /// A family that no length but its own keeps.
    #[error(
        "flip-flop: strings of the family {family} cannot be stretched: how often they read and write follows \
         from more than probabilities"
    )]
    Stretch {
        /// Its name.
        family: &'static str,
    },
    /// A mixture of nothing.
    #[error("flip-flop: a mixture needs from 1 to 64 parts: not {0}")]
    Parts(usize),
}
