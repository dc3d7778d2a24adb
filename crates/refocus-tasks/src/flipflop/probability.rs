//! Probabilities, and their thresholds on random words.

use super::LanguageError;

/// How often the inner instructions of a string write, read and ignore.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probabilities {
    write: f64,
    read: f64,
    ignore: f64,
}

impl Probabilities {
    /// Three numbers from 0 to 1 that sum to 1.
    ///
    /// # Errors
    /// They are none.
    pub fn new(write: f64, read: f64, ignore: f64) -> Result<Self, LanguageError> {
        for (what, value) in [("write", write), ("read", read), ("ignore", ignore)] {
            check(what, value)?;
        }
        if (write + read + ignore - 1.0).abs() > 1e-9 {
            return Err(LanguageError::Sum { write, read, ignore });
        }
        Ok(Self { write, read, ignore })
    }

    /// The paper's shorthand: reads and writes share equally what is not ignored.
    ///
    /// # Errors
    /// As [`Probabilities::new`].
    pub fn ignoring(ignore: f64) -> Result<Self, LanguageError> {
        check("ignore", ignore)?;
        let half = (1.0 - ignore) / 2.0;
        Self::new(half, half, ignore)
    }

    /// To write.
    pub fn write(&self) -> f64 {
        self.write
    }

    /// To read.
    pub fn read(&self) -> f64 {
        self.read
    }

    /// To ignore.
    pub fn ignore(&self) -> f64 {
        self.ignore
    }

    /// Writes and reads less often by `factor`, at most 1.
    pub(super) fn thinned(&self, factor: f64) -> Result<Self, LanguageError> {
        let (write, read) = (self.write * factor, self.read * factor);
        Self::new(write, read, 1.0 - write - read)
    }

    pub(super) fn thresholds(&self) -> Thresholds {
        // Where nothing is ignored, rounding of the sum must not leave room for an ignore.
        let either = if self.ignore == 0.0 { 1.0 } else { self.write + self.read };
        Thresholds { write: Threshold::new(self.write), either: Threshold::new(either) }
    }
}

/// Refuses what is no probability.
pub(super) fn check(what: &'static str, value: f64) -> Result<(), LanguageError> {
    if (0.0..=1.0).contains(&value) { Ok(()) } else { Err(LanguageError::Probability { what, value }) }
}

/// A probability on the upper 31 bits of a random word, so off by at most 2^-32; the lowest bit stays
/// free for a fair datum. 0 and 1 are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Threshold(
    /// Largest number of 31 bits that hits; −1 for none.
    i32,
);

impl Threshold {
    pub(super) fn new(p: f64) -> Self {
        const RANGE: f64 = (1u32 << 31) as f64;
        Self(((p * RANGE).round() as i64 - 1) as i32)
    }

    #[inline]
    pub(super) fn hit(self, word: u32) -> bool {
        self.missed(word) == 0
    }

    /// All bits where the word does not hit, none where it does. As bits and not as a choice, so that
    /// the compiler makes no branch of it, which would be guessed wrong as often as the word is random.
    #[inline]
    fn missed(self, word: u32) -> u32 {
        // Neither end of the difference leaves 32 bits.
        ((self.0 - (word >> 1) as i32) >> 31) as u32
    }
}

/// Which instruction a word draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Thresholds {
    write: Threshold,
    either: Threshold,
}

impl Thresholds {
    /// The id of the instruction: write, read and ignore are 0, 1 and 2.
    #[inline]
    pub(super) fn instruction(self, word: u32) -> u32 {
        let [unwritten, ignored] = self.masks(word);
        (unwritten & 1) + (ignored & 1)
    }

    /// All bits or none: whether the word draws no write; whether it draws an ignore.
    #[inline]
    pub(super) fn masks(self, word: u32) -> [u32; 2] {
        [self.write.missed(word), self.either.missed(word)]
    }
}

/// A number below `n`, each with probability 1/n up to 2^-32.
#[inline]
pub(super) fn below(n: u32, word: u32) -> u32 {
    ((u64::from(n) * u64::from(word)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_exact_at_the_ends_and_within_2_to_the_minus_32_between() {
        for word in [0, 1, 1 << 31, u32::MAX - 1, u32::MAX] {
            assert!(!Threshold::new(0.0).hit(word) && Threshold::new(1.0).hit(word));
        }
        for p in [1e-9, 0.008, 0.1, 1.0 / 3.0, 0.98, 1.0 - 1e-9] {
            let hits = (f64::from(Threshold::new(p).0) + 1.0) / f64::from(1u32 << 31);
            assert!((hits - p).abs() <= 2f64.powi(-32), "{p}: {hits}");
        }
        let t = Probabilities::new(0.25, 0.25, 0.5).expect("probabilities").thresholds();
        let quarter = 1 << 30;
        let got = [0, quarter - 1, quarter, 2 * quarter - 1, 2 * quarter, u32::MAX].map(|w| t.instruction(w));
        assert_eq!(got, [0, 0, 1, 1, 2, 2]);
    }

    #[test]
    fn below_covers_its_range() {
        assert_eq!([below(3, 0), below(3, u32::MAX), below(1, u32::MAX)], [0, 2, 0]);
    }
}
