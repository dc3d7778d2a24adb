//! What becomes of a published claim.

use serde::{Deserialize, Serialize};

/// How a claim fared. The rules are written before the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The effect is there, in the claimed direction.
    #[serde(rename = "holds")]
    Holds,
    /// The claimed effect is excluded.
    #[serde(rename = "does not hold")]
    DoesNotHold,
    /// It holds in a part that was named beforehand.
    #[serde(rename = "conditional")]
    Conditional,
    /// No base effect, too few items, or an interval on both sides.
    #[serde(rename = "cannot be tested")]
    CannotBeTested,
}

impl Verdict {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::DoesNotHold => "does not hold",
            Self::Conditional => "conditional",
            Self::CannotBeTested => "cannot be tested",
        }
    }
}
