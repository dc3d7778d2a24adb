//! Sets with names: the paper's, half-size ones, and some that break models which pass the paper's.

use super::{Alphabet, Family, FlipFlop, LanguageError, Probabilities};

/// A language and how many strings of it are tested on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Set {
    /// `FFL(0.8)` of the paper (section 4, appendix B.2): trained on, too.
    In,
    /// `FFL(0.98)`, the paper's sparse tail: long distances.
    Sparse,
    /// `FFL(0.1)`, the paper's dense tail: short distances, many writes.
    Dense,
    /// As [`Set::In`] at half the length, with as many writes and reads a string, so that training covers
    /// half of all distances as it does in the paper: a length cut alone would lose the phenomenon.
    HalfIn,
    /// As [`Set::Sparse`] at half the length.
    HalfSparse,
    /// As [`Set::Dense`] at half the length.
    HalfDense,
    /// The paper's rare sequences to train on (result R4, section 5): `p_i` of 0.9, 0.98 or 0.1.
    Rare,
    /// The same in appendix B.3: `p_i` of 0.8, 0.98 or 0.1.
    RareB3,
    /// Many writes in the first three quarters, 98.4 % ignores in the last. Models trained on rare
    /// sequences that made no error on the paper's sets made 1.4 to 2.7 % on such a set
    /// (AndreiPiterbarg/adversary_ICL; the first part's probabilities here are ours).
    Piecewise,
    /// `FFL(0.8)` ending in eight overwritten writes of the other bit, one write, eight ignores and the
    /// last read.
    Decoy,
    /// As [`Set::Piecewise`] at half the length, with as many writes and reads in the tail.
    HalfPiecewise,
    /// As [`Set::Decoy`] at half the length, on `FFL(0.6)`.
    HalfDecoy,
    /// `FFL(0.8)` at 16,384 symbols with as many writes and reads as at 512.
    Long,
}

impl Set {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Set::In,
        Set::Sparse,
        Set::Dense,
        Set::HalfIn,
        Set::HalfSparse,
        Set::HalfDense,
        Set::Rare,
        Set::RareB3,
        Set::Piecewise,
        Set::Decoy,
        Set::HalfPiecewise,
        Set::HalfDecoy,
        Set::Long,
    ];
    /// In distribution, sparse and dense tail as published.
    pub const PAPER: [Self; 3] = [Set::In, Set::Sparse, Set::Dense];
    /// The three at half the length.
    pub const HALF: [Self; 3] = [Set::HalfIn, Set::HalfSparse, Set::HalfDense];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Set::In => "in",
            Set::Sparse => "sparse",
            Set::Dense => "dense",
            Set::HalfIn => "half-in",
            Set::HalfSparse => "half-sparse",
            Set::HalfDense => "half-dense",
            Set::Rare => "rare",
            Set::RareB3 => "rare-b3",
            Set::Piecewise => "piecewise",
            Set::Decoy => "decoy",
            Set::HalfPiecewise => "half-piecewise",
            Set::HalfDecoy => "half-decoy",
            Set::Long => "long",
        }
    }

    /// The set of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// Strings of the test set.
    pub fn sequences(self) -> u32 {
        match self {
            Set::Sparse => 100_000,
            Set::HalfSparse => 20_000,
            Set::Dense | Set::HalfDense => 3_000,
            _ => 1_000,
        }
    }

    /// Reads that the paper counted in its own set of this size (appendix B.2).
    pub fn published_reads(self) -> Option<u32> {
        match self {
            Set::In => Some(26_508),
            Set::Sparse => Some(353_875),
            Set::Dense => Some(345_781),
            _ => None,
        }
    }

    /// Its language.
    ///
    /// # Errors
    /// None for these sets; the constructors give the type.
    pub fn language(self) -> Result<FlipFlop, LanguageError> {
        let of =
            |tokens, p, family| FlipFlop::of(Alphabet::BINARY, tokens, Probabilities::ignoring(p)?, family);
        let family = |p, family| of(512, p, family);
        let piecewise = |tokens, tail| {
            let (head, tail) = (Probabilities::new(0.6, 0.2, 0.2)?, Probabilities::ignoring(tail)?);
            FlipFlop::of(Alphabet::BINARY, tokens, head, Family::Piecewise { from: 0.75, tail })
        };
        let decoys = Family::Decoy { burst: 8, gap: 8 };
        match self {
            Set::In => FlipFlop::ignoring(512, 0.8),
            Set::Sparse => FlipFlop::ignoring(512, 0.98),
            Set::Dense => FlipFlop::ignoring(512, 0.1),
            Set::HalfIn => FlipFlop::ignoring(256, 0.6),
            Set::HalfSparse => FlipFlop::ignoring(256, 0.96),
            Set::HalfDense => FlipFlop::ignoring(256, 0.1),
            Set::Rare => family(0.8, Family::mixture(&[0.9, 0.98, 0.1])?),
            Set::RareB3 => family(0.8, Family::mixture(&[0.8, 0.98, 0.1])?),
            Set::Piecewise => piecewise(512, 0.984),
            Set::HalfPiecewise => piecewise(256, 0.968),
            Set::Decoy => family(0.8, decoys),
            Set::HalfDecoy => of(256, 0.6, decoys),
            Set::Long => FlipFlop::ignoring(512, 0.8)?.stretched(16_384),
        }
    }
}
