//! The sets that the paper trains and tests on, and a set of half the length.

use super::{FlipFlop, LanguageError};

/// Strings of one language.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Set {
    /// Probability to ignore; reads and writes share the rest.
    pub ignore: f64,
    /// Strings of the test set.
    pub sequences: u32,
    /// Reads that the paper counted in its own set of this size (appendix B.2).
    pub published_reads: Option<u32>,
}

impl Set {
    /// The language at a length.
    ///
    /// # Errors
    /// As [`FlipFlop::new`].
    pub fn language(&self, tokens: usize) -> Result<FlipFlop, LanguageError> {
        FlipFlop::ignoring(tokens, self.ignore)
    }
}

/// One language to train on, and the three test sets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sets {
    /// Symbols of a string.
    pub tokens: usize,
    /// In distribution: trained on, too.
    pub trained: Set,
    /// Sparse tail: long distances.
    pub sparse: Set,
    /// Dense tail: short distances, many writes.
    pub dense: Set,
}

/// As published (section 4, appendix B.2).
pub const CANONICAL: Sets = Sets {
    tokens: 512,
    trained: Set { ignore: 0.8, sequences: 1_000, published_reads: Some(26_508) },
    sparse: Set { ignore: 0.98, sequences: 100_000, published_reads: Some(353_875) },
    dense: Set { ignore: 0.1, sequences: 3_000, published_reads: Some(345_781) },
};

/// Half the length with as many writes and reads a string, so that training covers half of all
/// distances, as it does in the paper: a length cut alone would lose the phenomenon.
pub const HALF: Sets = Sets {
    tokens: 256,
    trained: Set { ignore: 0.6, sequences: 1_000, published_reads: None },
    sparse: Set { ignore: 0.96, sequences: 20_000, published_reads: None },
    dense: Set { ignore: 0.1, sequences: 3_000, published_reads: None },
};
