//! What a patch does to the final logits of a position.

use std::fmt;
use std::sync::Arc;

/// One change of the final logits.
#[derive(Clone, Debug, PartialEq)]
pub enum Decode {
    /// Logits are divided: below 1 sharpens, above 1 flattens.
    Temperature(f32),
    /// `logits − alpha · log f`, with `f` how often each token occurs in text.
    UnigramPrior {
        /// `log f`, one number a token.
        log_frequency: Arc<[f32]>,
        /// Its weight.
        alpha: f32,
    },
    /// `(1 + alpha) · logits − alpha · logits without the context`; below 0 leans away from the context.
    ContrastContext {
        /// Its weight.
        alpha: f32,
    },
    /// `(1 + alpha) · logits − alpha · lens after block layer`.
    ContrastLayer {
        /// The lens reads `blocks.{layer}.hook_resid_post`.
        layer: usize,
        /// Its weight.
        alpha: f32,
    },
}

impl Decode {
    /// Its name in a patch file.
    pub fn name(&self) -> &'static str {
        match self {
            Decode::Temperature(_) => "temperature",
            Decode::UnigramPrior { .. } => "unigram_prior",
            Decode::ContrastContext { .. } => "contrast_context",
            Decode::ContrastLayer { .. } => "contrast_layer",
        }
    }

    /// Whether one row of final logits is all it needs, so that [`Decode::apply`] can do it.
    pub fn is_pointwise(&self) -> bool {
        matches!(self, Decode::Temperature(_) | Decode::UnigramPrior { .. })
    }

    /// Changes one row of final logits `[vocab]`; `false` where a second row would be needed, which
    /// leaves the logits as they were.
    ///
    /// Every step is one f32 operation a logit, so a row's result does not depend on other rows.
    #[must_use]
    pub fn apply(&self, logits: &mut [f32]) -> bool {
        match self {
            Decode::Temperature(t) => logits.iter_mut().for_each(|x| *x /= t),
            Decode::UnigramPrior { log_frequency, alpha } => {
                logits.iter_mut().zip(log_frequency.iter()).for_each(|(x, f)| *x -= alpha * f);
            }
            Decode::ContrastContext { .. } | Decode::ContrastLayer { .. } => return false,
        }
        true
    }
}

impl fmt::Display for Decode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Decode::Temperature(t) => write!(f, " {t}"),
            Decode::UnigramPrior { alpha, .. } | Decode::ContrastContext { alpha } => {
                write!(f, " times {alpha}")
            }
            Decode::ContrastLayer { layer, alpha } => write!(f, " with block {layer}, times {alpha}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperature_divides() {
        let mut row = [1.0, -2.0, 0.5];
        assert!(Decode::Temperature(0.5).apply(&mut row));
        assert_eq!(row, [2.0, -4.0, 1.0]);
    }

    #[test]
    fn a_prior_is_subtracted_by_its_weight() {
        let mut row = [1.0, 1.0, 1.0];
        let prior = Decode::UnigramPrior { log_frequency: Arc::from([-1.0, -2.0, -4.0]), alpha: 0.5 };
        assert!(prior.apply(&mut row));
        assert_eq!(row, [1.5, 2.0, 3.0]);
    }

    #[test]
    fn what_needs_a_second_row_changes_nothing() {
        let mut row = [1.0, 2.0];
        assert!(!Decode::ContrastContext { alpha: 0.5 }.apply(&mut row));
        assert!(!Decode::ContrastLayer { layer: 0, alpha: 0.5 }.apply(&mut row));
        assert_eq!(row, [1.0, 2.0]);
    }
}
