//! Distributions around the paper's.

use super::probability::check;
use super::{Alphabet, LanguageError, Probabilities};

/// How the strings of a language deviate from `FFL(T, p)`. The families after [`Family::Piecewise`] are
/// those in which AndreiPiterbarg/adversary_ICL searches for strings that break trained models; it
/// publishes no definitions that one could copy, so these are ours.
#[derive(Clone, Debug, PartialEq)]
pub enum Family {
    /// `FFL(T, p)` itself.
    Plain,
    /// Each string is of one of several plain languages, all equally likely. The paper's training sets
    /// with rare sequences (result R4) are such mixtures.
    Mixture {
        /// The languages.
        parts: Vec<Probabilities>,
    },
    /// Other probabilities from some part of the string on, such as many writes and then hardly any.
    Piecewise {
        /// Share of the instructions that come before.
        from: f64,
        /// Probabilities after.
        tail: Probabilities,
    },
    /// A string ends in `burst` writes of other data, one write, `gap` ignores and the last read.
    Decoy {
        /// Writes that are overwritten.
        burst: usize,
        /// Ignores between the write that counts and the read.
        gap: usize,
    },
    /// A read that is drawn comes `length` times in a row.
    ReadRun {
        /// Reads in a row.
        length: usize,
    },
    /// The stored datum changes `writes` times after the first write, at places drawn uniformly; there
    /// are no other writes. Reads and ignores share the rest as their probabilities say.
    Churn {
        /// Changes a string.
        writes: usize,
    },
    /// A write changes the stored datum with this probability (1/2 in the paper).
    WriteFlip {
        /// Probability.
        rate: f64,
    },
    /// The datum of an ignore differs from the stored one with this probability (1/2 in the paper).
    AntiCorrelated {
        /// Probability.
        rate: f64,
    },
    /// The datum of a write or ignore differs from the datum just before it with this probability (1/2
    /// in the paper).
    Markov {
        /// Probability.
        rate: f64,
    },
}

impl Family {
    /// The families by name.
    pub const NAMES: [&'static str; 9] = [
        "ffl",
        "mixture",
        "piecewise",
        "decoy",
        "read-run",
        "churn",
        "write-flip",
        "anti-correlated",
        "markov",
    ];

    /// Its name.
    pub fn name(&self) -> &'static str {
        Self::NAMES[match self {
            Family::Plain => 0,
            Family::Mixture { .. } => 1,
            Family::Piecewise { .. } => 2,
            Family::Decoy { .. } => 3,
            Family::ReadRun { .. } => 4,
            Family::Churn { .. } => 5,
            Family::WriteFlip { .. } => 6,
            Family::AntiCorrelated { .. } => 7,
            Family::Markov { .. } => 8,
        }]
    }

    /// A mixture of languages that read and write equally often.
    ///
    /// # Errors
    /// As [`Probabilities::ignoring`].
    pub fn mixture(ignores: &[f64]) -> Result<Self, LanguageError> {
        let parts = ignores.iter().map(|&p| Probabilities::ignoring(p)).collect::<Result<_, _>>()?;
        Ok(Family::Mixture { parts })
    }

    /// The first instruction of a tail, where `last` is the string's last instruction.
    pub(super) fn turn(from: f64, last: usize) -> usize {
        (from * (last + 1) as f64).round() as usize
    }

    /// Refuses parameters that strings of so many instructions cannot have.
    pub(super) fn check(&self, alphabet: &Alphabet, instructions: usize) -> Result<(), LanguageError> {
        // The first writes and the last read are fixed.
        let inner = instructions - alphabet.registers() - 1;
        let within = |what, value: usize, least: usize, most: usize| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            let [value, least, most] = [value, least, most].map(|n| n as f64);
            Err(LanguageError::Parameter { what, value, least, most })
        };
        match *self {
            Family::Plain => Ok(()),
            Family::Mixture { ref parts } if (1..=64).contains(&parts.len()) => Ok(()),
            Family::Mixture { ref parts } => Err(LanguageError::Parts(parts.len())),
            Family::Piecewise { from, .. } if (0.0..=1.0).contains(&from) => Ok(()),
            Family::Piecewise { from, .. } => {
                let what = "the share before the tail";
                Err(LanguageError::Parameter { what, value: from, least: 0.0, most: 1.0 })
            }
            Family::Decoy { burst, gap } => {
                let room = inner.saturating_sub(1);
                within("the number of decoys", burst, 1, room)?;
                within("the number of ignores after the decoys", gap, 0, room - burst)
            }
            Family::ReadRun { length } => within("the length of a run of reads", length, 1, inner.max(1)),
            Family::Churn { writes } => within("the number of changes", writes, 0, inner),
            Family::WriteFlip { rate } => check("change the datum", rate),
            Family::AntiCorrelated { rate } => check("differ from the stored datum", rate),
            Family::Markov { rate } => check("differ from the datum before", rate),
        }
    }
}
